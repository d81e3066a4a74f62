"""Pixels as they are after the wire: encoded, written as Avro, read, decoded, normalised for a network."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiscale import Placement, decode_batch, encode_cutouts
from multiscale.avro import Schema, decode_body, encode_body
from multiscale.keys import PlaneKey
from multiscale.noise import backgrounds_and_noises
from multiscale.schema import load_schema
from multiscale.tensors import as_in_paper, in_noise
from reference_pipeline.errors import ConfigError

from .data import Pixels
from .layouts import Encoding, Layout

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

FFT_SIDE = 8  # of the spectrum's plane
_FITS_BLOCK, _CARD = 2880, 80


@dataclass(frozen=True)
class Received:
    """Stamps after the wire, (n, L, S, S) and (n,) of each plane."""

    levels: Mapping[str, Floats]  # NaN where invalid
    background: Mapping[str, Floats]
    noise: Mapping[str, Floats]


@lru_cache(maxsize=1)
def cutout_schema() -> Schema:
    """Return the schema of multiscale.Cutout."""
    return Schema.of(load_schema("multiscale.Cutout"))


def records_of(
    some: Pixels, layout: Layout, encoding: Encoding, planes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the cutouts of a layout that the codec carries, as Avro records."""
    images, places = _seen(some, layout, planes)
    side = min(next(iter(some.images.values())).shape[1:])
    keyed: dict[PlaneKey, Any] = dict(images)
    cutouts = encode_cutouts(
        keyed, layout.geometry(some.pixel_scale, side), places,
        encoding=encoding.kind, step_sigma=encoding.step_sigma,
    )  # fmt: skip
    return [cutout.to_record() for cutout in cutouts]


def messages_of(
    some: Pixels, layout: Layout, encoding: Encoding, planes: Sequence[str]
) -> list[tuple[bytes, ...]]:
    """Return what travels of each stamp: one Avro body, or with "fits" a gzip FITS file of each plane."""
    if encoding.kind == "fits":
        images, _ = _seen(some, layout, planes)
        return [
            tuple(gzip.compress(fits_of(images[plane][i]), mtime=0) for plane in planes)
            for i in range(len(some.rows))
        ]
    return [(encode_body(cutout_schema(), r),) for r in records_of(some, layout, encoding, planes)]


def received(
    messages: Sequence[tuple[bytes, ...]], layout: Layout, encoding: Encoding, planes: Sequence[str]
) -> Received:
    """Return what the other end has, in the order of ``messages``. Raises StampError for a damaged one."""
    if encoding.kind == "fits":
        levels, background, noise = {}, {}, {}
        for i, plane in enumerate(planes):
            images = np.stack([image_of(gzip.decompress(message[i])) for message in messages])
            told = np.array(backgrounds_and_noises(list(images)), np.float32)  # of what came, as a broker can
            width = layout.box - images.shape[1]
            levels[plane] = np.pad(images, ((0, 0), (0, width), (0, width)), constant_values=np.nan)[:, None]
            background[plane], noise[plane] = told[:, 0], told[:, 1]
        return Received(levels, background, noise)
    records = [decode_body(cutout_schema(), message[0]) for message in messages]
    groups = list(decode_batch(records))
    order = np.argsort(np.concatenate([group.indices for group in groups]), kind="stable")
    together = [
        {plane: np.concatenate([getattr(group, name)[plane] for group in groups])[order] for plane in planes}
        for name in ("levels", "background", "noise")
    ]
    return Received(*together)


def normalised(
    found: Received, planes: Sequence[str], normalization: str, spectrum: Floats | None = None
) -> tuple[Floats, Bools]:
    """Return values and validity (n, P, L, S, S) as a network takes them (multiscale.tensors).

    ``spectrum`` (n, 8, 8) becomes one more plane: in the middle of the finest level, the rest invalid.
    """
    values, valid = [], []
    for plane in planes:
        levels = found.levels[plane]
        valid.append(np.isfinite(levels))
        if normalization == "noise":
            values.append(in_noise(levels, found.background[plane], found.noise[plane]))
        else:
            values.append(as_in_paper(levels))
    if spectrum is not None:
        size = values[0].shape[-1]
        if size < FFT_SIDE:
            raise ConfigError(f"a spectrum of {FFT_SIDE} pixels does not fit levels of {size}")
        plane, seen = np.zeros_like(values[0]), np.zeros_like(valid[0])
        middle = slice((size - FFT_SIDE) // 2, (size + FFT_SIDE) // 2)
        plane[:, 0, middle, middle], seen[:, 0, middle, middle] = spectrum, True
        values.append(plane)
        valid.append(seen)
    return np.stack(values, axis=1), np.stack(valid, axis=1)


def spectra_of(difference: Floats) -> Floats:
    """Return |FFT|^2 of differences (n, H, W) in 8 x 8 bins, as one byte each carries it (n, 8, 8).

    ln of the mean power of each bin over the median bin's, from -4 to 12 in 256 steps; frequency 0 in the
    middle. Invalid pixels are 0 before.
    """
    side = -(-max(difference.shape[1:]) // FFT_SIDE) * FFT_SIDE
    power = np.abs(np.fft.fft2(np.nan_to_num(difference.astype(np.float64)), (side, side))) ** 2
    block = side // FFT_SIDE
    bins = (
        np.fft.fftshift(power, axes=(1, 2))
        .reshape(-1, FFT_SIDE, block, FFT_SIDE, block)
        .mean(axis=(2, 4))
        .reshape(-1, FFT_SIDE**2)
    )
    median = np.maximum(np.median(bins, axis=1, keepdims=True), 1e-30)
    steps = np.clip(np.rint((np.log(np.maximum(bins / median, 1e-30)) + 4) * 16), 0, 255).astype(np.uint8)
    return (steps.astype(np.float32) / 16 - 4).reshape(-1, FFT_SIDE, FFT_SIDE)


def fits_of(image: Floats) -> bytes:
    """Return an image as the FITS file that ZTF sends: big-endian float32, BUNIT alone in the header."""
    cards = (
        f"SIMPLE  = {'T':>20}", f"BITPIX  = {-32:>20}", f"NAXIS   = {2:>20}",
        f"NAXIS1  = {image.shape[1]:>20}", f"NAXIS2  = {image.shape[0]:>20}", "BUNIT   = 'DN      '", "END",
    )  # fmt: skip
    head = "".join(card.ljust(_CARD) for card in cards).ljust(_FITS_BLOCK).encode("ascii")
    data = image.astype(">f4").tobytes()
    return head + data + bytes(-len(data) % _FITS_BLOCK)


def image_of(fits: bytes) -> Floats:
    """Return the image in a file of ``fits_of``, float32."""
    cards = [fits[i : i + _CARD].decode("ascii") for i in range(0, _FITS_BLOCK, _CARD)]
    words = dict(card.split("=", 1) for card in cards if "=" in card)
    width, height = (int(words[f"NAXIS{i}  "]) for i in (1, 2))
    return np.frombuffer(fits, ">f4", width * height, _FITS_BLOCK).reshape(height, width).astype(np.float32)


def _seen(
    some: Pixels, layout: Layout, planes: Sequence[str]
) -> tuple[dict[str, Floats], Sequence[Placement]]:
    """The pixels that a layout is made of, and where it lies in them."""
    height, width = next(iter(some.images.values())).shape[1:]
    if min(height, width) < layout.needs():
        raise ConfigError(f"{layout.name}: an original of {width} x {height} pixels is smaller")
    if layout.kind == "low-resolution":
        images = {plane: _blocks(some.images[plane], layout) for plane in planes}
    elif layout.kind == "full" or layout.size % 4 or not layout.in_codec:
        y, x = (height - layout.size) // 2, (width - layout.size) // 2
        window = (slice(None), slice(y, y + layout.size), slice(x, x + layout.size))
        images = {plane: some.images[plane][window] for plane in planes}
    else:
        return {plane: some.images[plane] for plane in planes}, some.places
    return images, [Placement(layout.box // 2, layout.box // 2)] * len(some.rows)


def _blocks(stack: Floats, layout: Layout) -> Floats:
    """(n, H, W) -> (n, S, S): means of the valid pixels of each block, NaN where there are none."""
    side = min(stack.shape[1:])
    block = layout.block(side)  # 63 to 16: blocks of 4, the last one of 3
    padded = np.full((len(stack), block * layout.size, block * layout.size), np.nan, np.float32)
    padded[:, :side, :side] = stack[:, :side, :side]
    blocks = padded.reshape(len(stack), layout.size, block, layout.size, block)
    count = np.isfinite(blocks).sum(axis=(2, 4))
    with np.errstate(invalid="ignore"):  # 0 / 0: no pixel is valid
        return (np.nansum(blocks, axis=(2, 4)) / count).astype(np.float32)
