"""Cosmic rays by L.A.Cosmic (van Dokkum 2001), astroscrappy's implementation, with a second look at stars.

L.A.Cosmic starts from pixels whose Laplacian stands out of the noise and of the fine structure. These are
few, and both are cheap to compute where they are, so that astroscrappy runs on the surroundings of such
pixels alone; elsewhere its first iteration would find nothing. Two things follow that it cannot know: a hit
that has the shape of this frame's stars is one of them, and what is left of a hit beside its flagged pixels
belongs to it. Settings, measured: docs/decisions/0005-calibration.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from astroscrappy import detect_cosmics
from numpy.typing import NDArray
from scipy import ndimage

from ..config import CosmicRays
from ..errors import PixelError
from ..frame import UNUSABLE, Decision, Frame, MaskBit

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Index = NDArray[np.intp]

_STAGE = "cosmic-rays"
_MARGIN = 16  # pixels that astroscrappy sees around those it decides on; its filters reach 5 in an iteration
_CELL = 8  # pixels, side of the squares that are searched or left out
_CHUNK = 20_000  # pixels whose surroundings are gathered at a time
_SHAPE_PEAK = 30.0  # sigmas of the peaks that the stars' shape is measured on
_MIN_STARS = 5
_STAR_PEAK = 8.0  # sigmas: a fainter peak has too little of a shape
_STAR_ERROR = 0.05  # of the peak: what a Gaussian does not know of a star's pixels
_STAR_MISFIT = 3.0  # chi-square per degree of freedom
_GROW_SIGMA = 3.0


@dataclass(frozen=True)
class StarShape:
    """The core of a frame's stars: exp(−xx dx² − 2 xy dx dy − yy dy²), dx and dy in pixels."""

    xx: float
    xy: float
    yy: float

    @property
    def fwhm(self) -> float:
        """Pixels, geometric mean of both axes."""
        return float(2 * np.sqrt(np.log(2)) * (self.xx * self.yy - self.xy**2) ** -0.25)


def flag_cosmic_rays(frame: Frame, *, config: CosmicRays) -> Frame:
    """Return ``frame`` with COSMIC_RAY set where particles hit. The data are left as they are.

    Raises PixelError ("no-pixels") where no pixel can be used.
    """
    started = time.perf_counter()
    unusable = (frame.mask & np.uint16(UNUSABLE)) != 0
    if unusable.all():
        raise PixelError(frame.id, _STAGE, "no-pixels", "every pixel is masked")
    hits, peaks = find_hits(frame.data, frame.variance, unusable, config=config)
    shape = measure_shape(frame.data, frame.variance, hits | unusable, peaks)
    n_spared = 0
    if shape is not None:
        n_spared = spare_stars(hits, frame.data, frame.variance, shape)
    grow(hits, frame.data, frame.variance, unusable, times=config.grow)
    mask = frame.mask.copy()
    mask[hits] |= np.uint16(MaskBit.COSMIC_RAY)
    decision: dict[str, Decision] = {
        "pixels": int(hits.sum()),
        "star_fwhm": None if shape is None else round(shape.fwhm, 2),
        "spared": n_spared,
    }
    return frame.after("cosmic_rays", started, decision, mask=mask)


def find_hits(data: Floats, variance: Floats, unusable: Bools, *, config: CosmicRays) -> tuple[Bools, Index]:
    """Return what L.A.Cosmic flags, (ny, nx), and the (y, x) of sharp peaks that it took for stars, (n, 2).

    ``data`` in electrons, ``variance`` in electrons², of an image without particles up to the hits' own.
    """
    ny, nx = data.shape
    hits = np.zeros(data.shape, bool)
    rows, columns = (np.pad(np.arange(n), _MARGIN, mode="reflect") for n in data.shape)

    def search(corner: tuple[int, int]) -> Index:
        top, left = corner
        bottom, right = min(ny, top + config.tile), min(nx, left + config.tile)
        window = np.ix_(rows[top : bottom + 2 * _MARGIN], columns[left : right + 2 * _MARGIN])
        found, peaks = _search(data[window], variance[window], unusable[window], config)
        hits[top:bottom, left:right] = found
        return peaks + np.array([top, left])

    corners = [(y, x) for y in range(0, ny, config.tile) for x in range(0, nx, config.tile)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        peaks = np.concatenate(list(pool.map(search, corners)))
    return hits, peaks


def _search(data: Floats, variance: Floats, unusable: Bools, config: CosmicRays) -> tuple[Bools, Index]:
    """What ``find_hits`` returns, of a tile with a margin on each side; without it."""
    good = ~unusable & np.isfinite(data) & np.isfinite(variance)
    inner = tuple(slice(_MARGIN, n - _MARGIN) for n in data.shape)
    found = np.zeros(data.shape, bool)
    if not good.any():
        return found[inner], np.zeros((0, 2), np.intp)
    if not good.all():
        data = np.where(np.isfinite(data), data, np.median(data[good]))
        variance = np.where(np.isfinite(variance), variance, np.median(variance[good]))
    laplacian = positive_laplacian(data)
    blocked = ndimage.binary_dilation(~good, np.ones((3, 3)))  # astroscrappy looks at no neighbour of a mask
    floor = np.percentile(variance[good][::7], 1)
    y, x = np.nonzero((laplacian > 2 * config.sigma * np.sqrt(floor)) & ~blocked)
    inside = (y >= 6) & (y < data.shape[0] - 6) & (x >= 6) & (x < data.shape[1] - 6)
    y, x = y[inside], x[inside]
    is_seed = np.zeros(len(y), bool)
    for first in range(0, len(y), _CHUNK):
        part = slice(first, first + _CHUNK)
        is_seed[part] = _seeds(data, variance, laplacian, y[part], x[part], config)
    seeds = np.zeros(data.shape, bool)
    seeds[y[is_seed], x[is_seed]] = True
    for window, counts in _windows(seeds):
        hits, _ = detect_cosmics(
            np.ascontiguousarray(data[window]),
            inmask=np.ascontiguousarray(~good[window]),
            invar=np.ascontiguousarray(variance[window]),
            **settings(config),
        )
        found[window] |= hits & counts
    found &= good
    stars = ~is_seed & (data[y, x] == _patches(data, y, x, 1).max(axis=1))
    peaks = np.column_stack([y[stars], x[stars]])
    peaks = peaks[((peaks >= _MARGIN) & (peaks < np.array(data.shape) - _MARGIN)).all(axis=1)]
    return found[inner], peaks - _MARGIN


def settings(config: CosmicRays) -> dict[str, object]:
    """astroscrappy's arguments, image and variance in electrons apart."""
    return {
        "gain": 1.0,
        "satlevel": np.inf,  # saturated pixels are masked already, with what they bled into
        "sigclip": config.sigma,
        "sigfrac": config.neighbour,
        "objlim": config.contrast,
        "niter": config.iterations,
        "sepmed": False,
        "cleantype": "medmask",
        "fsmode": "median",
    }


def positive_laplacian(data: Floats) -> Floats:
    """Return the L⁺ of van Dokkum 2001, Eq. 7: pixels in four, convolved, clipped at zero, in one again.

    In pixels as they are, that is the mean over the four corners of max(0, 2c − v − h), v and h being the
    neighbours above or below and left or right. Zero in the outermost pixels.
    """
    out = np.zeros_like(data)
    c = data[1:-1, 1:-1]
    vertical = c - data[:-2, 1:-1], c - data[2:, 1:-1]
    horizontal = c - data[1:-1, :-2], c - data[1:-1, 2:]
    total = out[1:-1, 1:-1]
    for v in vertical:
        for h in horizontal:
            total += np.maximum(v + h, 0)
    total *= np.float32(0.25)
    return out


def _seeds(
    data: Floats, variance: Floats, laplacian: Floats, y: Index, x: Index, config: CosmicRays
) -> Bools:
    """Whether L.A.Cosmic may start from pixels (y, x): never false where it does in its first iteration."""
    noise = np.sqrt(np.maximum(np.median(_patches(variance, y, x, 2), axis=1), 1e-5))
    signal = laplacian[y, x] / (2 * noise)  # its S; S′, from which it subtracts a median, is not larger
    strong = signal > config.sigma
    fine = np.full(len(y), np.inf)
    y, x = y[strong], x[strong]
    around = _patches(data, y, x, 4).reshape(-1, 9, 9)
    smooth = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(1, 2)).reshape(-1, 7, 7, 9)
    smooth = np.median(smooth, axis=-1).reshape(-1, 49)
    fine[strong] = np.maximum((smooth[:, 24] - np.median(smooth, axis=-1)) / noise[strong], 0.01)
    return signal > config.contrast * fine


def _windows(seeds: Bools) -> Iterator[tuple[tuple[slice, slice], Bools]]:
    """Yield (window, which of its pixels count) around the cells that have a seed in them or close by.

    Cells that touch make one window; where they fill little of their rectangle, those of each row do. Windows
    reach ``_MARGIN`` beyond their cells.
    """
    ny, nx = (n - 2 * _MARGIN for n in seeds.shape)
    y, x = np.nonzero(seeds)
    active = np.zeros((-(-ny // _CELL), -(-nx // _CELL)), bool)
    near = _MARGIN // 2  # later iterations find more beside what the earlier ones have removed
    for dy in (-near, 0, near):
        for dx in (-near, 0, near):
            cy, cx = (y - _MARGIN + dy) // _CELL, (x - _MARGIN + dx) // _CELL
            inside = (cy >= 0) & (cy < active.shape[0]) & (cx >= 0) & (cx < active.shape[1])
            active[cy[inside], cx[inside]] = True
    touching, _ = ndimage.label(active, np.ones((3, 3)))
    for number, box in enumerate(ndimage.find_objects(touching), start=1):
        for part in _parts(touching[box] == number, box):
            rows, columns = (
                slice(part[axis].start * _CELL, min(n, part[axis].stop * _CELL))
                for axis, n in enumerate((ny, nx))
            )
            window = tuple(slice(of.start, of.stop + 2 * _MARGIN) for of in (rows, columns))
            counts = np.zeros([of.stop - of.start for of in window], bool)
            mine = (touching[part] == number).repeat(_CELL, axis=0).repeat(_CELL, axis=1)
            inner = counts[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
            inner[...] = mine[: inner.shape[0], : inner.shape[1]]
            yield (window[0], window[1]), counts


def _parts(cells: Bools, box: tuple[slice, slice]) -> Iterator[tuple[slice, slice]]:
    """Yield the rectangles, in cells, that cost least to search: all of ``box``, or the runs of its rows."""
    margins = 2 * _MARGIN / _CELL
    whole = (cells.shape[0] + margins) * (cells.shape[1] + margins)
    runs = []
    for row, line in enumerate(cells):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
        runs += [(row, int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]
    if whole <= sum((1 + margins) * (stop - first + margins) for _, first, stop in runs):
        yield box
        return
    top, left = box[0].start, box[1].start
    for row, first, stop in runs:
        yield slice(top + row, top + row + 1), slice(left + first, left + stop)


def measure_shape(data: Floats, variance: Floats, lost: Bools, peaks: Index) -> StarShape | None:
    """Return the shape of the stars among ``peaks`` (y, x), or None where they are too few to tell.

    Of a Gaussian, ln c − ½ (ln a + ln b) of a pixel c between a and b is the same wherever its centre lies.
    """
    y, x = peaks[_inside(peaks, data.shape, 4)].T
    around = _patches(data, y, x, 4)
    signal = _core(around)
    clean = ~_patches(lost, y, x, 2).any(axis=1)
    bright = signal[:, 4] > _SHAPE_PEAK * np.sqrt(variance[y, x])
    use = clean & bright & (signal > 0).all(axis=1)
    if use.sum() < _MIN_STARS:
        return None
    log = np.log(signal[use])
    xx, yy, rising, falling = (
        float(np.median(log[:, 4] - 0.5 * (log[:, a] + log[:, b])))
        for a, b in ((3, 5), (1, 7), (0, 8), (2, 6))
    )
    xy = (rising - falling) / 4
    limit = 0.5 * np.sqrt(max(xx, 0) * max(yy, 0))
    if limit <= 0:
        return None
    return StarShape(xx, float(np.clip(xy, -limit, limit)), yy)


def spare_stars(hits: Bools, data: Floats, variance: Floats, shape: StarShape) -> int:
    """Clear in ``hits`` what has the shape of a star; return how many stars that were.

    The 3 × 3 pixels about each flagged peak are compared with stars at 11 × 11 places in the middle pixel.
    """
    flagged = np.argwhere(hits)
    flagged = flagged[_inside(flagged, data.shape, 4)]
    n = 0
    reach = int(np.ceil(shape.fwhm))
    for first in range(0, len(flagged), _CHUNK):
        y, x = flagged[first : first + _CHUNK].T
        around = _patches(data, y, x, 4)
        signal = _core(around)
        noise = np.median(_patches(variance, y, x, 2), axis=1)
        use = (signal.argmax(axis=1) == 4) & (signal[:, 4] > _STAR_PEAK * np.sqrt(noise))
        use &= _patches(hits, y, x, reach + 1).sum(axis=1) == _patches(hits, y, x, reach).sum(axis=1)
        y, x, signal = y[use], x[use], signal[use]
        # the hit's own noise, and what the shape does not know of the star's
        sigma2 = noise[use, None] + np.maximum(signal, 0) + (_STAR_ERROR * signal[:, 4:5]) ** 2
        is_star = _misfit(signal, sigma2, shape) < _STAR_MISFIT
        n += int(is_star.sum())
        for cy, cx in zip(y[is_star], x[is_star]):
            hits[max(0, cy - reach) : cy + reach + 1, max(0, cx - reach) : cx + reach + 1] = False
    return n


def _misfit(signal: Floats, variance: Floats, shape: StarShape) -> NDArray[np.float64]:
    """χ² per degree of freedom (six) of the best star in each 3 × 3 of ``signal``, (n, 9)."""
    best = np.full(len(signal), np.inf)
    dy, dx = np.mgrid[-1:2, -1:2].reshape(2, 9)
    weight = 1 / variance
    for y0 in np.linspace(-0.5, 0.5, 11):
        for x0 in np.linspace(-0.5, 0.5, 11):
            u, v = dx - x0, dy - y0
            model = np.exp(-(shape.xx * u * u + 2 * shape.xy * u * v + shape.yy * v * v))
            flux = (weight * signal) @ model / (weight @ model**2)
            best = np.minimum(best, (weight * (signal - flux[:, None] * model) ** 2).sum(axis=1))
    return best / 6


def grow(hits: Bools, data: Floats, variance: Floats, unusable: Bools, *, times: int) -> None:
    """Add to ``hits`` the neighbours of flagged pixels that stand out of their own surroundings."""
    for _ in range(times):
        y, x = np.nonzero(hits)
        beside = np.zeros_like(hits)
        ny, nx = hits.shape
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                beside[np.clip(y + dy, 0, ny - 1), np.clip(x + dx, 0, nx - 1)] = True
        y, x = np.nonzero(beside & ~hits & ~unusable)
        for first in range(0, len(y), _CHUNK):
            part = slice(first, first + _CHUNK)
            py, px = y[part], x[part]
            around = _patches(data, py, px, 3)
            free = ~_patches(beside, py, px, 3)
            some = free.any(axis=1)
            py, px, around = py[some], px[some], np.where(free, around, np.nan)[some]
            level, high = np.nanpercentile(around, (50, 84), axis=1)
            noise = np.sqrt(np.median(_patches(variance, py, px, 3), axis=1))
            out = data[py, px] - level > _GROW_SIGMA * np.maximum(noise, high - level)
            hits[py[out], px[out]] = True


def _core(around: Floats) -> Floats:
    """The middle 3 × 3 of 9 × 9 patches above the median of their border, (n, 9)."""
    square = around.reshape(-1, 9, 9)
    ring = np.ones((9, 9), bool)
    ring[1:-1, 1:-1] = False
    level = np.median(square[:, ring], axis=1)
    core: Floats = square[:, 3:6, 3:6].reshape(-1, 9) - level[:, None]
    return core


def _inside(places: Index, shape: tuple[int, ...], margin: int) -> Bools:
    result: Bools = np.all((places >= margin) & (places < np.array(shape) - margin), axis=1)
    return result


def _patches(image: NDArray, y: Index, x: Index, reach: int) -> NDArray:
    """The squares of 2 · reach + 1 pixels about (y, x), (n, side²), mirrored at the image's edges."""
    d = np.arange(-reach, reach + 1)
    rows, columns = (_mirrored(p[:, None] + d, n) for p, n in zip((y, x), image.shape))
    return image[rows[:, :, None], columns[:, None, :]].reshape(len(y), d.size**2)


def _mirrored(index: Index, n: int) -> Index:
    return np.clip(np.where(index < n, np.abs(index), 2 * (n - 1) - index), 0, n - 1)
