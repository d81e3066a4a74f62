"""What a network sees of cutouts: planes stacked, normalised from the values that the packet carries alone.

Nothing here needs torch: the same arrays train a network and feed an ONNX runtime at a broker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .batch import Group
from .errors import RecordError
from .keys import PlaneKey

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Normalization = Literal["noise", "paper"]
NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)

_SMALLEST = 1e-30  # of a noise that can be divided by


@dataclass(frozen=True)
class StampTensors:
    """Stamps of one geometry, ready for a network; row i is packet ``indices[i]`` of the batch."""

    indices: NDArray[np.int64]  # (N,)
    kinds: tuple[PlaneKey, ...]
    values: Floats  # (N, P, L, S, S), normalised; 0 where invalid
    valid: Bools  # the same shape

    def channels(self) -> Floats:
        """(N, 2 P, L, S, S): the planes, then 1 where each is valid, else 0."""
        return np.concatenate([self.values, self.valid.astype(np.float32)], axis=1)


def tensors_of(
    group: Group, kinds: Sequence[PlaneKey], *, normalization: Normalization = "noise"
) -> StampTensors:
    """Return the planes ``kinds`` of a decoded group, in that order.

    ``noise``: asinh of the value over the sky, in units of the noise that a pixel of its level has:
    asinh((v - background) 2^k / noise), with the packet's background and noise. Where it has none, the
    levels tell: the median of the coarsest one, and the median over levels of 2^k 1.4826 MAD.

    ``paper``: as Reyes-Jainaga+ 2023 (2.1), on what is transmitted: |v| of a plane has its smallest and its
    99th percentile over all levels; v minus the one, over their difference plus 1e-8, clipped to [-2, 2].

    Raises RecordError where the group lacks a plane.
    """
    missing = [str(kind) for kind in kinds if kind not in group.levels]
    if missing:
        has = ", ".join(map(str, group.levels))
        raise RecordError("missing-plane", f"planes {has}", f"also {', '.join(missing)}", "planes")
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization {normalization!r}: expected one of {', '.join(NORMALIZATIONS)}")
    n, shape = len(group.indices), next(iter(group.levels.values())).shape[1:]
    values = np.empty((n, len(kinds), *shape), np.float32)
    valid = np.empty(values.shape, bool)
    for i, kind in enumerate(kinds):
        levels = group.levels[kind]
        valid[:, i] = np.isfinite(levels)
        if normalization == "noise":
            values[:, i] = in_noise(levels, group.background[kind], group.noise[kind])
        else:
            values[:, i] = as_in_paper(levels)
    return StampTensors(group.indices, tuple(kinds), values, valid)


def in_noise(levels: Floats, background: Floats, noise: Floats) -> Floats:
    """Return asinh of ``levels`` (N, L, S, S) over ``background`` (N,), in units of its ``noise`` (N,).

    Unknown (NaN) backgrounds and noises are taken from the levels; invalid pixels become 0.
    """
    gain = 2.0 ** np.arange(levels.shape[1], dtype=np.float32)
    background, noise = _known(levels, background, noise, gain)
    scale = gain / np.maximum(noise, _SMALLEST)[:, None]
    with np.errstate(over="ignore"):  # of a constant plane whose noise is 0: clipped below
        scaled = (levels - background[:, None, None, None]) * scale[:, :, None, None]
    found = np.arcsinh(np.clip(scaled, -1e30, 1e30))
    return np.nan_to_num(found, copy=False, nan=0.0).astype(np.float32, copy=False)


def as_in_paper(levels: Floats) -> Floats:
    """Return ``levels`` (N, L, S, S) as Reyes-Jainaga+ 2023 (2.1) do; 0 where invalid or beyond 1e10."""
    usable = np.isfinite(levels) & (np.abs(levels) <= 1e10)
    zeroed = np.where(usable, levels, np.float32(0))
    size = np.abs(zeroed).reshape(len(levels), -1)
    low = size.min(axis=1, keepdims=True) if size.size else size[:, :1]
    high = np.percentile(size, 99, axis=1, keepdims=True) if size.size else size[:, :1]
    shape = (-1, 1, 1, 1)
    scaled = (zeroed - low.reshape(shape)) / (high - low + 1e-8).reshape(shape)
    return np.where(usable, np.clip(scaled, -2, 2), 0).astype(np.float32)


def _known(levels: Floats, background: Floats, noise: Floats, gain: Floats) -> tuple[Floats, Floats]:
    """Background and noise (N,), measured on the levels where the packet does not say."""
    unknown = ~(np.isfinite(background) & np.isfinite(noise) & (noise > 0))
    if not unknown.any():
        return background, noise
    rows = levels[unknown].reshape(int(unknown.sum()), levels.shape[1], -1)
    with np.errstate(all="ignore"):
        medians = _nanmedian(rows)
        spread = 1.4826 * _nanmedian(np.abs(rows - medians[:, :, None])) * gain
        measured = _nanmedian(spread)
    background, noise = background.copy(), noise.copy()
    background[unknown] = np.nan_to_num(medians[:, -1])
    noise[unknown] = np.where(np.isfinite(measured) & (measured > 0), measured, 1.0)
    return background, noise


def _nanmedian(values: Floats) -> Floats:
    """Median over the last axis of what is finite; NaN where nothing is, without a warning."""
    empty = np.asarray(~np.isfinite(values).any(axis=-1))
    filled = np.where(empty[..., None], np.float32(0), values)
    return np.where(empty, np.nan, np.nanmedian(filled, axis=-1)).astype(np.float32)
