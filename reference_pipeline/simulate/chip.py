"""What is the same in every exposure of a chip: response, dark current, bias structure and defects.

Everything follows from the detector's seed and is made for any strip of rows, so that a chip of 150 million
pixels never needs more memory than a strip. Arrays cover the imaging area unless a name says raw.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..frame import unit_coordinates
from .detector import Detector

#: Rows that one random stream covers; a strip may begin anywhere.
BLOCK = 128

_RESPONSE, _DUST, _DEFECTS, _COLUMNS, _TILT = range(5)  # what a stream is for


@dataclass(frozen=True)
class Defects:
    """Pixels of the imaging area that do not do as the others; one row each, in the order of y."""

    hot_y: NDArray[np.int64]
    hot_x: NDArray[np.int64]
    hot_rate: NDArray[np.float32]  # electrons per second beyond the dark current
    dead_y: NDArray[np.int64]
    dead_x: NDArray[np.int64]
    dead_response: NDArray[np.float32]  # of one
    column_x: NDArray[np.int64]
    column_y: NDArray[np.int64]  # bad from this row to the last
    column_response: NDArray[np.float32]  # of one
    column_charge: NDArray[np.float32]  # electrons added in every exposure

    def mask(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """True where a pixel of the imaging area is bad."""
        out = np.zeros(shape, bool)
        out[self.hot_y, self.hot_x] = True
        out[self.dead_y, self.dead_x] = True
        for x, y in zip(self.column_x, self.column_y):
            out[y:, x] = True
        return out


def defects(detector: Detector) -> Defects:
    """Return the defects of a chip."""
    d = detector
    return _defects(d.seed, d.shape, d.hot_fraction, d.hot_rate, d.dead_fraction, d.bad_columns)


@lru_cache(maxsize=4)
def _defects(
    seed: int,
    shape: tuple[int, int],
    hot_fraction: float,
    hot_rate: float,
    dead_fraction: float,
    bad_columns: float,
) -> Defects:
    rng = np.random.default_rng([seed, _DEFECTS])
    ny, nx = shape

    def places(fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        flat = np.unique(rng.integers(0, ny * nx, rng.poisson(fraction * ny * nx)))
        return flat // nx, flat % nx

    hot_y, hot_x = places(hot_fraction)
    dead_y, dead_x = places(dead_fraction)
    column_x = np.unique(rng.integers(0, nx, rng.poisson(bad_columns * nx)))
    n = len(column_x)
    is_blocked = rng.random(n) < 0.6  # the others leak charge into every pixel that passes
    return Defects(
        hot_y, hot_x, (hot_rate * 10 ** rng.normal(0, 0.6, len(hot_y))).astype(np.float32),
        dead_y, dead_x, rng.uniform(0, 0.5, len(dead_y)).astype(np.float32),
        column_x, rng.integers(0, max(1, int(0.9 * ny)), n),
        np.where(is_blocked, rng.uniform(0, 0.6, n), 1).astype(np.float32),
        np.where(is_blocked, 0, 10 ** rng.uniform(1.8, 3.2, n)).astype(np.float32),
    )  # fmt: skip


def response(detector: Detector, band: str, rows: slice) -> NDArray[np.float32]:
    """Return the response of ``rows`` to light in ``band``: what a perfect flat would show.

    Vignetting, a tilt of the band's own, shadows of dust, the pixels' own response and their defects;
    float32 (rows, nx). One is the median over the chip, so that a flat divided by its median is this.
    """
    nx = detector.shape[1]
    out = _illumination(detector, band, np.arange(rows.start, rows.stop), np.arange(nx)).astype(np.float32)
    out /= _median_illumination(detector, band)
    out *= 1 + np.float32(detector.pixel_response) * _noise(detector, _RESPONSE, rows, nx)
    for grain in dust(detector):
        _, _, radius, _ = grain
        y0, y1 = (int(np.clip(grain[1] - rows.start + s * 1.6 * radius, 0, len(out))) for s in (-1, 1))
        x0, x1 = (int(np.clip(grain[0] + s * 1.6 * radius, 0, nx)) for s in (-1, 1))
        out[y0:y1, x0:x1] *= _shadow(grain, np.arange(y0, y1) + rows.start, np.arange(x0, x1))
    bad = defects(detector)
    here = slice(*np.searchsorted(bad.dead_y, (rows.start, rows.stop)))
    out[bad.dead_y[here] - rows.start, bad.dead_x[here]] *= bad.dead_response[here]
    for x, y, factor in zip(bad.column_x, bad.column_y, bad.column_response):
        out[max(0, y - rows.start) :, x] *= factor
    return out


def dark_rate(detector: Detector, rows: slice) -> NDArray[np.float32]:
    """Return the dark current of ``rows`` (electrons per second): level, the amplifier's glow, hot pixels."""
    ny, nx = detector.shape
    y, x = np.arange(rows.start, rows.stop)[:, None] / ny, np.arange(nx)[None, :] / nx
    glow = np.exp(-8 * y).astype(np.float32) * np.exp(-8 * x).astype(np.float32)
    out = np.float32(detector.camera.dark_current) * (1 + np.float32(detector.glow) * glow)
    bad = defects(detector)
    here = slice(*np.searchsorted(bad.hot_y, (rows.start, rows.stop)))
    out[bad.hot_y[here] - rows.start, bad.hot_x[here]] += bad.hot_rate[here]
    return out


def leaked_charge(detector: Detector, rows: slice, charge: NDArray[np.float32]) -> None:
    """Add to ``charge`` (electrons, the strip of ``rows``) what bad columns leak in every exposure."""
    bad = defects(detector)
    for x, y, electrons in zip(bad.column_x, bad.column_y, bad.column_charge):
        charge[max(0, y - rows.start) :, x] += electrons


def bias_structure(detector: Detector, rows: slice) -> NDArray[np.float32]:
    """Return the fixed bias structure of raw ``rows`` in ADU, float32 (rows, nx raw), without the level.

    A pattern of columns and a ramp along y within the imaging columns; nothing outside, so that the overscan
    gives the level of its line and a master bias gives this.
    """
    ny, nx = detector.raw_shape
    columns = detector.imaging[1]
    n = columns.stop - columns.start
    rng = np.random.default_rng([detector.seed, _COLUMNS])
    white = rng.standard_normal(n)
    period = rng.uniform(20, 60)
    pattern = 0.8 * white + 0.85 * np.sin(2 * np.pi * np.arange(n) / period + rng.uniform(0, 6.28))
    out = np.zeros((rows.stop - rows.start, nx), np.float32)
    out[:, columns] = detector.bias_column_noise * pattern[None, :]
    out[:, columns] += detector.bias_ramp * (np.arange(rows.start, rows.stop)[:, None] / ny - 0.5)
    return out


def dust(detector: Detector) -> tuple[tuple[float, float, float, float], ...]:
    """Return (x, y, radius, depth) of the shadows of dust; pixels of the imaging area, depth of one."""
    rng = np.random.default_rng([detector.seed, _DUST])
    ny, nx = detector.shape
    n = detector.n_dust
    x, y = rng.uniform(0, nx, n), rng.uniform(0, ny, n)
    radius, depth = rng.uniform(*detector.dust_radius, n), rng.uniform(*detector.dust_depth, n)
    return tuple(zip(x.tolist(), y.tolist(), radius.tolist(), depth.tolist()))


def _noise(detector: Detector, what: int, rows: slice, nx: int) -> NDArray[np.float32]:
    """Standard normal numbers of ``rows``, the same whatever strip they are asked in."""
    out = np.empty((rows.stop - rows.start, nx), np.float32)
    for block in range(rows.start // BLOCK, -(-rows.stop // BLOCK)):
        rng = np.random.default_rng([detector.seed, what, block])
        values = rng.standard_normal((BLOCK, nx), np.float32)
        first, last = max(rows.start, block * BLOCK), min(rows.stop, (block + 1) * BLOCK)
        out[first - rows.start : last - rows.start] = values[first - block * BLOCK : last - block * BLOCK]
    return out


def _illumination(
    detector: Detector, band: str, y: NDArray[np.int64], x: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The smooth part of the response at the crossings of rows ``y`` and columns ``x``."""
    u, v = unit_coordinates(x, y, detector.shape)
    rng = np.random.default_rng([detector.seed, _TILT, zlib.crc32(band.encode())])
    tilt_u, tilt_v = detector.illumination_tilt * rng.uniform(-0.5, 0.5, 2)
    r2 = 0.5 * (u[None, :] ** 2 + v[:, None] ** 2)  # one in the corners
    lost = detector.vignetting * (0.7 * r2 + 0.3 * r2**2)
    return (1 - lost) * (1 + tilt_u * u[None, :] + tilt_v * v[:, None])


def _median_illumination(detector: Detector, band: str) -> float:
    ny, nx = detector.shape
    y = np.linspace(0, ny - 1, min(ny, 257)).round().astype(int)
    x = np.linspace(0, nx - 1, min(nx, 257)).round().astype(int)
    light = _illumination(detector, band, y, x)
    for grain in dust(detector):  # on a small chip they cover enough to move the median by 0.2 %
        light *= _shadow(grain, y, x)
    return float(np.median(light))


def _shadow(
    grain: tuple[float, float, float, float], y: NDArray[np.int64], x: NDArray[np.int64]
) -> NDArray[np.float32]:
    """What the ring that a grain far above the chip casts lets through, where ``y`` and ``x`` cross."""
    x_grain, y_grain, radius, depth = grain
    r = np.hypot(y[:, None] - y_grain, x[None, :] - x_grain) / radius
    r = np.minimum(r, 2)
    ring = 1 / (1 + np.exp((r - 1) / 0.06)) - 0.75 / (1 + np.exp((r - 0.45) / 0.06))  # a hole: the secondary
    return (1 - depth * ring).astype(np.float32)
