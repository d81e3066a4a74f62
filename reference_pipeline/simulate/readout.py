"""From light on the chip to numbers in a file: collected charge, bleeding, bias, noise, digitisation.

Done in strips of rows, so that beside the image itself a chip of any size needs a few megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import chip
from .detector import Detector

STRIP = 4 * chip.BLOCK  # rows worked on at a time

ADC_MAX = 65535


@dataclass(frozen=True)
class Readout:
    """A raw frame, and where the electronics spoiled it."""

    raw: NDArray[np.uint16]  # ADU, (ny, nx) of the whole raw file
    faults: NDArray[np.bool_]  # imaging area: pixels of jumps and bursts of pickup


def strips(n_rows: int) -> Iterator[slice]:
    """Slices of at most STRIP rows that cover ``n_rows``."""
    for first in range(0, n_rows, STRIP):
        yield slice(first, min(n_rows, first + STRIP))


def collect(
    light: NDArray[np.float32] | None,
    detector: Detector,
    *,
    band: str,
    exposure_time: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return the charge of an exposure, electrons, with shot noise; before cosmic rays and bleeding.

    ``light`` is what falls onto the chip, as electrons that a pixel of response one would yield: float32 of
    the imaging area's shape, overwritten with the result; None for a closed shutter.
    """
    out = np.zeros(detector.shape, np.float32) if light is None else light
    if light is None and exposure_time == 0:
        return out
    for rows in strips(len(out)):
        charge = out[rows]
        if light is not None:
            charge *= chip.response(detector, band, rows)
        charge += np.float32(exposure_time) * chip.dark_rate(detector, rows)
        chip.leaked_charge(detector, rows, charge)
        out[rows] = rng.poisson(np.maximum(charge, 0, out=charge))
    return out


def bleed(charge: NDArray[np.float32], full_well: float) -> NDArray[np.bool_]:
    """Let what is above ``full_well`` (electrons) flow along its column, in place; return where it went.

    Half of the excess flows each way and fills pixel after pixel; nothing is lost but what reaches the
    first or the last row. True where a pixel was above the full well or received from one.
    """
    touched = np.zeros(charge.shape, bool)
    columns = np.flatnonzero((charge > full_well).any(axis=0))
    for first in range(0, len(columns), STRIP):  # all of them at once would be the whole chip again
        _bleed_columns(charge, columns[first : first + STRIP], full_well, touched)
    return touched


def _bleed_columns(
    charge: NDArray[np.float32], columns: NDArray[np.int64], full_well: float, touched: NDArray[np.bool_]
) -> None:
    strip = charge[:, columns].astype(np.float64)
    excess = np.maximum(strip - full_well, 0)
    mark = excess > 0
    np.minimum(strip, full_well, out=strip)
    for order in (range(len(strip)), range(len(strip) - 1, -1, -1)):
        carried = np.zeros(len(columns))
        for y in order:
            carried += 0.5 * excess[y]
            if not carried.any():
                continue
            put = np.minimum(full_well - strip[y], carried)
            strip[y] += put
            carried -= put
            mark[y] |= put > 0
    charge[:, columns] = strip
    touched[:, columns] = mark


def read_out(charge: NDArray[np.float32], detector: Detector, rng: np.random.Generator) -> Readout:
    """Return the raw frame of ``charge`` (electrons, imaging area): gain, bias, noise, 16 bits.

    Every line has its own bias level, seen in its overscan; readout faults are not, and are told apart.
    """
    ny, nx = detector.raw_shape
    area_rows, area_columns = detector.imaging
    levels = _line_levels(detector, ny, rng)
    pickup_period, phase = rng.uniform(7, 40), rng.uniform(0, 2 * np.pi)  # pixels of the serial readout
    lines, faults = _faults(detector, rng)
    noise = np.float32(detector.camera.read_noise / detector.camera.gain)
    per_electron = np.float32(1 / detector.camera.gain)
    along_x = 2 * np.pi * np.arange(nx) / pickup_period
    sin_x, cos_x = np.sin(along_x).astype(np.float32), np.cos(along_x).astype(np.float32)
    raw = np.empty((ny, nx), np.uint16)
    for rows in strips(ny):
        adu = chip.bias_structure(detector, rows)
        first, last = max(rows.start, area_rows.start), min(rows.stop, area_rows.stop)
        if first < last:
            lit = charge[first - area_rows.start : last - area_rows.start]
            adu[first - rows.start : last - rows.start, area_columns] += lit * per_electron
        here = np.arange(rows.start, rows.stop)
        adu += levels[rows, None].astype(np.float32)
        # one sine through the whole serial stream: sin(a + b) keeps it to two multiplications a pixel
        start = phase + 2 * np.pi * ((here * nx) % pickup_period) / pickup_period
        amplitude = detector.pickup
        adu += (amplitude * np.cos(start)).astype(np.float32)[:, None] * sin_x
        adu += (amplitude * np.sin(start)).astype(np.float32)[:, None] * cos_x
        for y, x, offset in lines:
            if rows.start <= y < rows.stop:
                adu[y - rows.start, x : x + len(offset)] += offset
        adu += noise * rng.standard_normal(adu.shape, np.float32)
        np.rint(adu, out=adu)
        raw[rows] = np.clip(adu, 0, ADC_MAX, out=adu)
    return Readout(raw, faults)


def _line_levels(detector: Detector, ny: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The bias level of every raw line in ADU: a level of the frame and a drift that forgets itself."""
    from scipy.signal import lfilter

    memory = np.exp(-1 / detector.bias_drift_length)
    kicks = rng.standard_normal(ny) * np.sqrt(1 - memory**2)
    kicks[0] = rng.standard_normal()  # already drifting when the readout begins
    drift = lfilter([1.0], [1.0, -memory], kicks)
    level = detector.bias_level + detector.bias_frame_drift * rng.standard_normal()
    return level + detector.bias_line_drift * drift


def _faults(
    detector: Detector, rng: np.random.Generator
) -> tuple[list[tuple[int, int, NDArray[np.float32]]], NDArray[np.bool_]]:
    """Readout faults as (raw y, raw x, offsets in ADU along the line), and the mask of the imaging area.

    Either a jump of the level for a stretch of one or two lines, or a burst of pickup over some lines.
    """
    ny, nx = detector.raw_shape
    rows, columns = detector.imaging
    lines: list[tuple[int, int, NDArray[np.float32]]] = []
    mask = np.zeros((ny, nx), bool) if detector.readout_faults else np.zeros((0, 0), bool)
    for _ in range(rng.poisson(detector.readout_faults)):
        y = int(rng.integers(rows.start, rows.stop))
        x = int(rng.integers(columns.start, columns.stop))
        length = int(min(rng.exponential(150) + 4, columns.stop - x))
        strength = 10 ** rng.uniform(0.8, 1.8)  # ADU
        if rng.random() < 0.5:
            for line in range(y, min(y + int(rng.integers(1, 3)), rows.stop)):
                lines.append((line, x, np.full(length, strength * rng.choice((-1, 1)), np.float32)))
        else:
            wave = 2 * np.pi * np.arange(length) / rng.uniform(3, 25)
            for line in range(y, min(y + int(rng.integers(3, 30)), rows.stop)):
                offset = strength * np.sin(wave + rng.uniform(0, 2 * np.pi))
                lines.append((line, x, offset.astype(np.float32)))
    for line, x, offset in lines:
        mask[line, x : x + len(offset)] = True
    return lines, mask[rows, columns] if detector.readout_faults else np.zeros(detector.shape, bool)
