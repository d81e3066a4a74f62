"""Trails of satellites and aircraft: straight or slightly bowed lines of light through the frame.

The frame is summed into cells, every pixel less its sky and bounded to a few sigmas; compact sources are left
out. Sums along all lines, whole ones and parts of them, follow from the fast Radon transform (Brady 1998;
Nir, Zackay & Ofek 2018), over cells of several sizes, for trails of several widths. A line that stands out is
then looked at in full resolution: it is cut in pieces, and along a trail the *median* of most pieces is
raised, along a row of stars it is not. From those pieces come the trail's place, ends and width.
Which trails are found, and why not by another package: docs/decisions/0006-trails.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..config import Trails
from ..errors import PixelError
from ..frame import UNUSABLE, Frame, MaskBit

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]

_STAGE = "trails"
_BOUND = 3.0  # sigmas that a pixel may count
_CELL_BOUND = 4.0  # sigmas that a cell may count; a compact group of cells above it is a source
_SKY = 64  # pixels, side of the blocks that sky and noise are of
_RIM = 0.8  # sigmas of a cell, mean of nine: how far a source reaches
_LARGEST_SOURCE = 32  # cells: of a larger group only what is broad
_BROAD = 9  # cells
_BESIDE = 31  # lines
_LONG = 0.25  # axis ratio of a group of cells that may be a trail
_LARGEST_CELL = 32  # pixels: trails as wide as that
_FEWEST_CELLS = 48  # along the shorter side of the frame
_SMOOTH = 25  # cells: what is broader, halos and large galaxies, is taken for sky
_REACH = 24  # pixels looked at on both sides of a line, beside three cells
_SLIMNESS = 16  # a trail is longer than that many of its widths
_EDGE = 16  # pixels: along an edge of the frame nothing is beside a line
_CHECKS = 30  # lines that are looked at in full resolution: it bounds the time a frame takes
_FEWEST_PIECES = 7  # of a trail
_EVEN = 0.35  # of the median is the lower quartile at least: tumbling is allowed, a row of stars is not
_HALO = 4.0  # radii of what is left out around a saturated star: how far its rays are looked for
_TURNS = 8  # of lengthening a line and laying it on the light
_NEARLY_ALONG = 0.02  # of its length a line moves across the rows (or columns)
# Sigmas of a pixel: the overscan of a line is a median of some tens of whole ADU, and the whole line errs
# with it, by a quarter of a sigma in the surveys shipped
_READOUT_ERROR = 1.0
_MEDIAN_NOISE = 1.2533  # standard error of a median, over that of a mean


@dataclass(frozen=True)
class Trail:
    """A trail: its ends, the full width and how far the middle is off the straight line, pixels; its S/N.

    It runs through end 1 + t (end 2 − end 1) + 4 bow t (1 − t) n, with t from 0 to 1 and n the unit vector
    (−Δy, Δx) / length.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    width: float
    bow: float
    snr: float


@dataclass(frozen=True)
class _Path:
    """As a trail, without a width."""

    ends: Doubles  # ((x1, y1), (x2, y2)), pixels
    bow: float

    @property
    def length(self) -> float:
        return max(float(np.hypot(*(self.ends[1] - self.ends[0]))), 1e-9)

    @property
    def across(self) -> Doubles:
        dx, dy = (self.ends[1] - self.ends[0]) / self.length
        return np.array([-dy, dx])

    def at(self, t: Doubles) -> Doubles:
        """Points (n, 2) at fractions of the way."""
        t = np.asarray(t, float)[:, None]
        return self.ends[0] + t * (self.ends[1] - self.ends[0]) + 4 * self.bow * t * (1 - t) * self.across

    def part(self, first: float, last: float) -> _Path:
        """The part between two fractions of the way, which may lie beyond the ends."""
        return _Path(self.at(np.array([first, last])), self.bow * (last - first) ** 2)

    def moved(self, start: float, stop: float, bow: float) -> _Path:
        """With its ends moved across by some pixels, and bowed by some more."""
        return _Path(self.ends + np.array([[start], [stop]]) * self.across, self.bow + bow)


@dataclass(frozen=True)
class _Cells:
    """Squares of ``size`` pixels: their sum in sigmas, over size; share of pixels used; where sources are."""

    size: int
    value: Floats
    weight: Floats
    sources: Bools


def flag_trails(frame: Frame, *, config: Trails) -> Frame:
    """Return ``frame`` with TRAIL set on the trails found. Raises PixelError ("no-pixels")."""
    started = time.perf_counter()
    trails = find_trails(frame, config=config)
    mask = frame.mask.copy()
    for trail in trails:
        _draw(mask, trail, config.margin)
    length = sum(float(np.hypot(t.x2 - t.x1, t.y2 - t.y1)) for t in trails)
    return frame.after("trails", started, {"trails": len(trails), "length": round(length, 1)}, mask=mask)


def find_trails(frame: Frame, *, config: Trails) -> tuple[Trail, ...]:
    """Return the trails in ``frame``, in the order they were found. Raises PixelError ("no-pixels")."""
    unusable = (frame.mask & int(UNUSABLE)) != 0
    if unusable.all():
        raise PixelError(frame.id, _STAGE, "no-pixels", "every pixel is masked")
    sky, sigma = _sky(frame.data, unusable)
    scales = _scales(frame.data, unusable, sky, sigma, config)
    typical = float(np.median(sigma))
    found: list[Trail] = []
    known = unusable.astype(np.uint16)  # TRAIL is set on what was found, so that it is not found again
    n_checks = 0
    while len(found) < config.max_trails and n_checks < _CHECKS:
        before = len(found)
        for cells, snr, ends in _candidates(scales, config):
            line = _Path(ends, 0.0)
            if _line_snr(cells, line) < config.threshold:
                continue  # a neighbour of a line looked at before
            n_checks += 1
            trail = _measure(frame, known, cells, line, snr, typical, config)
            if trail is None:
                _blank([cells], line, 1.5 * cells.size)
                if n_checks == _CHECKS:
                    break
                continue
            found.append(trail)
            path = _Path(np.array([[trail.x1, trail.y1], [trail.x2, trail.y2]]), trail.bow)
            _hide(known, path, trail.width + 4.0)
            _blank(scales, path, 0.5 * trail.width + 2.0)
            if len(found) == config.max_trails or n_checks == _CHECKS:
                break
        if len(found) == before:
            break
    return tuple(found)


def line_sums(image: Floats, shortest: int) -> Iterator[Floats]:
    """Yield sums along the lines through strips of ``image``, strips of at least ``shortest`` columns.

    A result is float32 (..., n, m, ny + nx): n strips of m columns side by side, the last result having one
    of nx columns. Its [..., k, s, y] is the sum along the line that falls by s rows from the left of strip k
    to its right and begins there at row y − nx, above the image for small y. nx is a power of two; axes
    before the last two are images of their own.
    """
    *several, ny, nx = image.shape
    sums = np.zeros((*several, nx, 1, ny + nx), np.float32)
    sums[..., 0, nx:] = np.swapaxes(image, -1, -2)
    while True:
        n_strips, n = sums.shape[-3:-1]
        if n >= shortest:
            yield sums
        if n_strips == 1:
            return
        left, right = sums[..., 0::2, :, :], sums[..., 1::2, :, :]
        sums = np.empty((*several, n_strips // 2, 2 * n, ny + nx), np.float32)
        for fall in range(2 * n):
            half, shift = fall // 2, (fall + 1) // 2  # the right half begins lower by the left half's fall
            sums[..., fall, :] = left[..., half, :]
            sums[..., fall, : ny + nx - shift] += right[..., half, shift:]


def _sky(data: Floats, unusable: Bools) -> tuple[Floats, Floats]:
    """Median and robust sigma of blocks, from every fourth line and column, smoothed over neighbours."""
    ny, nx = data.shape
    step = 4 if min(ny, nx) > 4 * _SKY else 1
    by, bx = max(1, ny // _SKY), max(1, nx // _SKY)
    height, width = ny // by // step, nx // bx // step  # of a block, in samples
    level, sigma = np.full((by, bx), np.nan), np.full((by, bx), np.nan)

    def row(i: int) -> None:
        first = i * ny // by
        window = slice(first, first + height * step, step), slice(0, bx * width * step, step)
        values = np.where(unusable[window], np.nan, data[window]).reshape(height, bx, width)
        values = np.sort(values.swapaxes(0, 1).reshape(bx, -1), axis=1)  # what is not there goes last
        n = np.isfinite(values).sum(axis=1)
        low, middle = (
            values[np.arange(bx), (part * np.maximum(n - 1, 0)).astype(int)] for part in (0.1587, 0.5)
        )
        enough = n > 8
        level[i, enough] = middle[enough]
        sigma[i, enough] = (middle - low)[enough]  # the lower side: stars are above

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(row, range(by)))
    for values in (level, sigma):
        values[np.isnan(values)] = np.nanmedian(values) if np.isfinite(values).any() else 1.0
    level = ndimage.median_filter(level, 3, mode="nearest")
    sigma = np.maximum(ndimage.median_filter(sigma, 3, mode="nearest"), 1e-6)
    return level.astype(np.float32), sigma.astype(np.float32)


def _scales(data: Floats, unusable: Bools, sky: Floats, sigma: Floats, config: Trails) -> list[_Cells]:
    """The frame in cells of several sizes, each twice the one before; sources left out."""
    size = max(2, -(-max(data.shape) // config.max_cells))
    value, weight = _cells(data, unusable, sky, sigma, size)
    scales = []
    while True:
        cells, stars = _without_sources(value, weight, size)
        scales.append(cells)
        ny, nx = value.shape[0] // 2, value.shape[1] // 2
        if 2 * size > _LARGEST_CELL or min(ny, nx) < _FEWEST_CELLS:
            return scales
        value, weight = (
            np.where(stars, 0, a)[: 2 * ny, : 2 * nx]
            .reshape(ny, 2, nx, 2)
            .sum(axis=(1, 3))
            .astype(np.float32)
            for a in (0.5 * value, 0.25 * weight)
        )
        size *= 2


def _cells(data: Floats, unusable: Bools, sky: Floats, sigma: Floats, size: int) -> tuple[Floats, Floats]:
    """The sum of each cell's pixels in sigmas, over ``size``; and the share of them that can be used."""
    ny, nx = data.shape[0] // size, data.shape[1] // size
    value, weight = np.zeros((ny, nx), np.float32), np.zeros((ny, nx), np.float32)
    x = (np.arange(nx) + 0.5) * size - 0.5

    def row(i: int) -> None:
        rows = slice(i * size, (i + 1) * size)
        y = np.full(nx, (i + 0.5) * size - 0.5)
        level = np.repeat(_at(sky, y, x, data.shape), size)
        scale = np.repeat(_at(sigma, y, x, data.shape), size)
        part = (data[rows, : nx * size] - level) / scale
        good = ~unusable[rows, : nx * size] & np.isfinite(part)
        part = np.where(good, np.clip(part, -_BOUND, _BOUND), 0)
        value[i] = part.sum(axis=0).reshape(nx, size).sum(axis=1) / size
        weight[i] = good.sum(axis=0).reshape(nx, size).sum(axis=1) / size**2

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(row, range(ny)))
    return value, weight


def _at(grid: Floats, y: Doubles, x: Doubles, shape: tuple[int, ...]) -> Floats:
    """The blocks' values at pixels, linear between the blocks' centres."""
    places = [(y + 0.5) * grid.shape[0] / shape[0] - 0.5, (x + 0.5) * grid.shape[1] / shape[1] - 0.5]
    return ndimage.map_coordinates(grid, places, order=1, mode="nearest").astype(np.float32)


def _without_sources(value: Floats, weight: Floats, size: int) -> tuple[_Cells, Bools]:
    """Less what is broad, bounded, and with no weight where a source is; and where the small sources are."""
    weight = np.where(weight > 0.3, weight, np.float32(0))
    bounded = np.clip(value, -_CELL_BOUND, _CELL_BOUND) * (weight > 0)
    around = ndimage.uniform_filter(weight, _SMOOTH)
    value = value - weight * ndimage.uniform_filter(bounded, _SMOOTH) / np.maximum(around, 0.05)
    snr = value / np.sqrt(np.maximum(weight, 0.3)) * (weight > 0)
    used = snr[weight > 0]
    snr /= max(1.4826 * float(np.median(np.abs(used))), 1e-3) if used.size else 1.0
    small, broad = _sources(snr.astype(np.float32))
    sources = small | broad
    weight = np.where(sources, np.float32(0), weight)
    bounded = (np.clip(snr, -_CELL_BOUND, _CELL_BOUND) * np.sqrt(weight)).astype(np.float32)
    return _Cells(size, bounded, weight.astype(np.float32), sources), small


def _sources(snr: Floats) -> tuple[Bools, Bools]:
    """Groups of cells, their faint rims with them, that stand out and are small and not long; and broad ones.

    Of a large group, two trails that cross or the rays of a star, only what is broader than a trail counts.
    """
    bright = ndimage.uniform_filter(snr, 3) > _RIM
    label, n = ndimage.label(bright, np.ones((3, 3)))
    if n == 0:
        return bright, bright
    groups = np.arange(n + 1)
    extent = np.array([0] + [max(s.stop - s.start for s in box) for box in ndimage.find_objects(label)])
    y, x = np.nonzero(label)
    group = label[y, x]
    area = np.maximum(np.bincount(group, minlength=n + 1), 1)
    my, mx = (np.bincount(group, a, minlength=n + 1) / area for a in (y, x))
    y, x = y - my[group], x - mx[group]
    yy, xx, xy = (np.bincount(group, a, minlength=n + 1) / area for a in (y * y, x * x, x * y))
    mean, difference = 0.5 * (yy + xx), np.hypot(0.5 * (yy - xx), xy)
    is_long = (extent >= 16) & (mean - difference < _LONG**2 * (mean + difference))
    is_source = np.isin(groups, label[snr > _CELL_BOUND]) & ~is_long & (extent < _LARGEST_SOURCE)
    is_source[0] = False
    core = ndimage.minimum_filter(bright, _BROAD)
    return is_source[label], ndimage.maximum_filter(core, _BROAD + 2)


def _candidates(scales: list[_Cells], config: Trails) -> list[tuple[_Cells, float, Doubles]]:
    """Lines that stand out, the clearest first: in which cells, S/N, ends ((x1, y1), (x2, y2)) in pixels."""
    found: list[tuple[_Cells, float, Doubles]] = []
    for cells in scales:
        shortest = config.min_length * min(cells.value.shape)  # cells
        for transposed in (False, True):
            for flipped in (False, True):
                both = np.stack([cells.value, cells.weight])
                both = both.swapaxes(1, 2) if transposed else both
                both = both[:, ::-1] if flipped else both
                ny, nx = both.shape[1:]
                width = 1 << (nx - 1).bit_length()
                for sums in line_sums(np.pad(both, ((0, 0), (0, 0), (0, width - nx))), max(8, int(shortest))):
                    for snr, strip, fall, begin in _peaks(sums, shortest, config.threshold):
                        n = sums.shape[2]
                        stop = min((strip + 1) * n, nx) - 1.0  # the last column within the image
                        start, drop = begin - width, fall * (stop - strip * n) / max(n - 1, 1)
                        ends = np.array([[strip * n, start], [stop, start + drop]])
                        if flipped:
                            ends[:, 1] = ny - 1 - ends[:, 1]
                        ends = ends[:, ::-1] if transposed else ends
                        found.append((cells, snr, (ends + 0.5) * cells.size - 0.5))
    return sorted(found, key=lambda candidate: -candidate[1])


def _peaks(sums: Floats, shortest: float, threshold: float) -> list[tuple[float, int, int, int]]:
    """The clearest lines (S/N, strip, fall, begin), at most one of a neighbourhood in fall and begin."""
    value, weight = sums
    n = weight.shape[1]
    stretch = np.sqrt(1 + (np.arange(n, dtype=np.float32) / max(n - 1, 1)) ** 2)[None, :, None]
    # less what lines beside it have: halos, steps of the sky
    beside = [ndimage.uniform_filter1d(a, _BESIDE, axis=2, mode="constant") for a in (value, weight)]
    value = value - weight * beside[0] / np.maximum(beside[1], 0.1)
    snr = np.where(weight * stretch > 0.5 * shortest, value / np.sqrt(np.maximum(weight, 1e-3)), 0)
    sample = snr.ravel()[:: max(1, snr.size // 400000)]
    sample = sample[sample != 0]
    if sample.size < 100:
        return []
    middle = float(np.median(sample))
    spread = max(1.4826 * float(np.median(np.abs(sample - middle))), 1.0)
    if float(snr.max()) <= threshold * spread:
        return []
    peaks = []
    strips, falls, begins = np.nonzero(snr > threshold * spread)
    values = snr[strips, falls, begins] / spread
    taken: set[tuple[int, int, int]] = set()
    for k in np.argsort(-values, kind="stable"):
        place = int(strips[k]), int(falls[k]), int(begins[k])
        tile = place[0], place[1] // 8, place[2] // 16
        if tile not in taken:
            taken.add(tile)
            peaks.append((float(values[k]), *place))
            if len(peaks) == 100:
                break
    return peaks


def _line_snr(cells: _Cells, line: _Path) -> float:
    """S/N of the sum along a line, of cells as they are now."""
    size = cells.size
    n = max(2, int(line.length / size))
    x, y = np.rint((line.at(np.linspace(0, 1, n)) + 0.5) / size - 0.5).astype(int).T
    inside = (x >= 0) & (x < cells.value.shape[1]) & (y >= 0) & (y < cells.value.shape[0])
    x, y = x[inside], y[inside]
    return float(cells.value[y, x].sum() / np.sqrt(max(float(cells.weight[y, x].sum()), 1.0)))


def _blank(scales: list[_Cells], path: _Path, half: float) -> None:
    """Give no weight to cells within ``half`` pixels of a path."""
    for cells in scales:
        mask = np.zeros(cells.value.shape, np.uint16)
        inner = _Path((path.ends + 0.5) / cells.size - 0.5, path.bow / cells.size)
        _hide(mask, inner, 2 * half / cells.size + 2)
        cells.value[mask > 0] = 0
        cells.weight[mask > 0] = 0


def _measure(
    frame: Frame,
    known: NDArray[np.uint16],
    cells: _Cells,
    line: _Path,
    snr: float,
    sigma: float,
    config: Trails,
) -> Trail | None:
    """Look at a line in full resolution: the trail, if it is one. ``sigma`` is of a pixel, electrons.

    What is looked at but is a star's ray is set in ``known``.
    """
    shortest, size = config.min_length * min(frame.shape), cells.size
    # as many pieces as leave each of them a few sigmas
    step = max(10.0, line.length / np.clip(snr**2 / 4, 24, 64))
    reach = _REACH + 3 * size
    path, search, bow_reach = line, 1.5 * size, 0.0  # the line is as good as the cells are
    for turn in range(_TURNS):
        edges = _edges(path, frame.shape, step)
        if edges is None:
            return None
        profile, noise = _profile(frame.data, known, cells, path, edges, reach)
        middles = 0.5 * (edges[1:] + edges[:-1])
        within = (middles > 0) & (middles < 1)
        if within.sum() < 4:
            return None
        if turn == 0:
            path = path.moved(*_alignment(profile[within], middles[within], search, 0.0))
            continue
        raised = _raised(profile, within)
        if turn == 1 and _snr(raised[within]) < 0.5 * config.threshold:
            return None
        first, last = _run(raised, within)
        begin, end = edges[first], edges[last]
        grown = max(abs(begin), abs(1 - end)) * path.length > 1.5 * step
        path = path.part(begin, end)
        if turn == _TURNS - 1 or (not grown and bow_reach > 0):
            break
        if not grown:  # straight, it is as long as it gets
            bow_reach = min(6.0, 0.006 * path.length)
        search = max(4.0, 0.5 * size)
        path = path.moved(
            *_alignment(profile[first:last], (middles[first:last] - begin) / (end - begin), search, bow_reach)
        )
    run = raised[first:last]
    there = run[np.isfinite(run)]
    if path.length < shortest or len(there) < max(_FEWEST_PIECES, 0.5 * len(run)):
        return None
    if not _stands_out(there, config.threshold):
        return None
    across = min(np.abs(path.ends[1] - path.ends[0]))
    if across < 2.0:
        return None  # along a row or column: the camera's, see the decision
    brightness = float(np.median(there)) * noise / sigma
    if across < _NEARLY_ALONG * path.length and brightness < _READOUT_ERROR:
        return None  # lines of the readout whose levels err alike look so
    for axis, side in ((0, frame.shape[1]), (1, frame.shape[0])):
        if max(path.ends[:, axis]) < _EDGE or min(path.ends[:, axis]) > side - _EDGE:
            return None
    sides = _width(profile[first:last], 0.3 * sigma / noise)
    if sides is None:
        return None
    left, right = sides
    if _is_ray(frame, path, run, config.threshold):
        _hide(known, path.part(-1.0, 2.0), left + right + 8.0)
        return None
    if path.length < _SLIMNESS * (left + right + 1):
        return None  # a galaxy, a halo
    path = path.moved(0.5 * (right - left), 0.5 * (right - left), 0.0)
    path = path.part(
        *(np.array([-0.5, 0.5]) * step / path.length + [0, 1])
    )  # an end is half a piece uncertain
    (x1, y1), (x2, y2) = path.ends.tolist()
    return Trail(x1, y1, x2, y2, float(left + right + 1), float(path.bow), _snr(there))


def _hide(known: NDArray[np.uint16], path: _Path, width: float) -> None:
    """Set what lies within a width around a path, so that it is not looked at again."""
    (x1, y1), (x2, y2) = path.ends.tolist()
    _draw(known, Trail(x1, y1, x2, y2, width, path.bow, 0.0), 0.0)


def _edges(path: _Path, shape: tuple[int, int], step: float) -> Doubles | None:
    """Fractions of the way where pieces of about ``step`` pixels end, within the frame."""
    low, high = -np.inf, np.inf
    along = path.ends[1] - path.ends[0]
    for axis, size in ((0, shape[1]), (1, shape[0])):  # Liang & Barsky 1984
        if abs(along[axis]) < 1e-9:
            continue
        a, b = sorted(((0 - path.ends[0, axis]) / along[axis], (size - 1 - path.ends[0, axis]) / along[axis]))
        low, high = max(low, a), min(high, b)
    low, high = max(low, -1.0), min(high, 2.0)  # it may grow by its own length on both sides, each turn
    n = int((high - low) * path.length / step) if low < high else 0
    return np.linspace(low, high, n + 1) if n >= 4 else None


def _profile(
    data: Floats, known: NDArray[np.uint16], cells: _Cells, path: _Path, edges: Doubles, reach: int
) -> tuple[Doubles, float]:
    """Medians along each piece (n, 2 reach + 1), less what is beside the path, in units of their noise; that.

    NaN where under a quarter of the pixels can be used. In large cells not every pixel along is read.
    """
    n, thin = len(edges) - 1, max(1, cells.size // 8)
    per = max(4, int((edges[1] - edges[0]) * path.length / thin))
    t = (edges[:-1, None] + (edges[1:] - edges[:-1])[:, None] * (np.arange(per) + 0.5) / per).ravel()
    points = path.at(t).astype(np.float32)
    offsets = np.arange(-reach, reach + 1, dtype=np.float32)
    across = path.across.astype(np.float32)
    ix = np.rint(points[:, :1] + offsets * across[0]).astype(np.int32)
    iy = np.rint(points[:, 1:] + offsets * across[1]).astype(np.int32)
    inside = (ix >= 0) & (ix < data.shape[1]) & (iy >= 0) & (iy < data.shape[0])
    np.clip(ix, 0, data.shape[1] - 1, out=ix)
    np.clip(iy, 0, data.shape[0] - 1, out=iy)
    last_y, last_x = cells.sources.shape[0] - 1, cells.sources.shape[1] - 1
    source = cells.sources[np.minimum(iy // cells.size, last_y), np.minimum(ix // cells.size, last_x)]
    values = np.where(inside & ~source & (known[iy, ix] == 0), data[iy, ix], np.nan)
    profile = _medians(values.reshape(n, per, -1))
    aside = np.abs(offsets) > 0.5 * reach
    # the sky beside the path, with its slope across
    left, right = (_medians(profile[:, aside & side].T[None])[0] for side in (offsets < 0, offsets > 0))
    left, right = np.where(np.isfinite(left), left, right), np.where(np.isfinite(right), right, left)
    slope = (right - left) / (1.5 * reach)
    profile -= 0.5 * (left + right)[:, None] + slope[:, None] * offsets
    off = np.abs(profile[:, aside])
    noise = max(1.4826 * float(np.nanmedian(off)), 1e-9) if np.isfinite(off).any() else 1.0
    return profile / noise, noise


def _medians(values: NDArray[np.floating]) -> Doubles:
    """Medians along axis 1; NaN where under a quarter of the values are there."""
    n = np.isfinite(values).sum(axis=1)
    ordered = np.sort(values, axis=1)  # NaN goes last
    low, high = np.maximum(n - 1, 0) // 2, np.minimum(n // 2, values.shape[1] - 1)
    pick = [np.take_along_axis(ordered, index[:, None], axis=1)[:, 0] for index in (low, high)]
    return np.where(n >= 0.25 * values.shape[1], 0.5 * (pick[0] + pick[1]), np.nan).astype(np.float64)


def _alignment(profile: Doubles, t: Doubles, reach: float, bow_reach: float) -> tuple[float, float, float]:
    """By how many pixels start, end and middle have to move for the most light to be on the path."""
    values = np.nan_to_num(profile)
    top = np.median(ndimage.uniform_filter1d(values, 3, axis=1).max(axis=1))
    values = np.clip(values, -3, max(top, 4.0))  # no star in a single piece decides
    middle, rows = values.shape[1] // 2, np.arange(len(values))
    best, step = (0.0, 0.0, 0.0), reach / 6
    n = 6
    while True:
        smooth = ndimage.uniform_filter1d(values, 2 * int(step) + 3, axis=1)
        moves = step * np.arange(-n, n + 1)
        bows = moves[np.abs(moves) <= bow_reach] if bow_reach > 0 else np.zeros(1)
        a, b, c = np.meshgrid(best[0] + moves, best[1] + moves, best[2] + bows, indexing="ij")
        a, b, c = a.ravel(), b.ravel(), c.ravel()
        shift = a[:, None] + (b - a)[:, None] * t + 4 * c[:, None] * t * (1 - t)
        place = np.clip(np.rint(middle + shift).astype(int), 0, values.shape[1] - 1)
        chance = 3 * np.sqrt(len(values) / (2 * int(step) + 3))  # that is gained by bowing along the noise
        k = int(np.argmax(smooth[rows, place].sum(axis=1) - chance * (c != 0)))
        best = float(a[k]), float(b[k]), float(c[k])
        if step <= 0.5:
            return best
        step, n = max(0.5, step / 3), 4


def _raised(profile: Doubles, within: Bools) -> Doubles:
    """How far pieces stand out (n,), in sigmas, over the width that they stand out over most."""
    middle = profile.shape[1] // 2
    there = np.isfinite(profile)
    values = np.where(there, profile, 0)
    aside = np.abs(np.arange(profile.shape[1]) - middle) > 0.5 * middle
    best, raised = -np.inf, np.full(len(profile), np.nan)
    half = 1
    while half <= middle // 3:
        box = 2 * half + 1
        share = ndimage.uniform_filter1d(there.astype(float), box, axis=1)
        mean = ndimage.uniform_filter1d(values, box, axis=1) / np.maximum(share, 1e-3)
        mean[share < 0.5] = np.nan
        off = mean[:, aside]
        off = off[np.isfinite(off)]
        noise = 1.4826 * float(np.median(np.abs(off))) if off.size else np.inf
        core = mean[:, middle] / max(noise, 1e-9)
        typical = float(np.nanmedian(core[within])) if np.isfinite(core[within]).any() else -np.inf
        if typical > best:
            best, raised = typical, core
        half *= 2
    return raised


def _run(raised: Doubles, within: Bools) -> tuple[int, int]:
    """The pieces (first, one past last) whose sum less half of what is typical is largest."""
    known = raised[within & np.isfinite(raised)]
    typical = max(float(np.median(known)), 0.0) if known.size else 0.0
    threshold = max(0.5 * typical, 1.0)
    bound = max(typical, 1.0)  # no single piece decides
    excess = np.where(np.isfinite(raised), np.clip(raised, -bound, 3 * bound) - threshold, 0)
    sums = np.concatenate([[0.0], np.cumsum(excess)])
    lowest = np.minimum.accumulate(sums)
    stop = int(np.argmax(sums - lowest))
    start = int(np.flatnonzero(sums[: stop + 1] == lowest[stop])[-1])
    return start, max(stop, start + 1)


def _width(profile: Doubles, faintest: float) -> tuple[int, int] | None:
    """How many pixels a trail reaches to both sides; None if as far as was looked: a halo, an edge.

    It ends at a tenth of its peak, but not before it is as faint as ``faintest`` or lost in the noise.
    """
    there = np.isfinite(profile).any(axis=0)
    mean = np.zeros(profile.shape[1])  # 0 where another trail lies all along
    mean[there] = np.nanmedian(profile[:, there], axis=0)
    middle = len(mean) // 2
    noise = 2.5 * _MEDIAN_NOISE / np.sqrt(len(profile))
    mean = ndimage.uniform_filter1d(mean, 3)
    level = max(min(0.1 * mean[middle], faintest), noise)
    below = mean < level
    left, right = np.flatnonzero(below[middle::-1]), np.flatnonzero(below[middle:])
    limit = middle // 2
    if not len(left) or not len(right) or max(left[0], right[0]) > limit:
        return None
    return int(left[0]), int(right[0])


def _is_ray(frame: Frame, path: _Path, run: Doubles, threshold: float) -> bool:
    """Whether what stands out is the ray of a saturated star on the path, or on its continuation.

    It is if it falls faster than the square root of the distance (rays fall as its first or second power), or
    if it does not stand out by ``threshold`` where the star's halo is out of reach.
    """
    n = 3 * max(2, int(path.length))
    t = 3 * (np.arange(n) + 0.5) / n - 1  # as far again on both sides
    ny, nx = frame.shape
    hit = np.zeros(n, bool)
    for aside in (-3.0, -1.5, 0.0, 1.5, 3.0):
        x, y = np.rint(path.moved(aside, aside, 0.0).at(t)).astype(int).T
        inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
        hit[inside] |= (frame.mask[y[inside], x[inside]] & int(MaskBit.SATURATED)) != 0
    label, _ = ndimage.label(ndimage.binary_closing(hit, np.ones(9)))
    there = np.isfinite(run)
    place, value = ((np.arange(len(run)) + 0.5) / len(run))[there], np.maximum(run[there], 0.5)
    for (box,) in ndimage.find_objects(label):
        star, half = t[(box.start + box.stop) // 2], 1.5 * (box.stop - box.start) / n
        if box.stop - box.start < 3:
            continue
        distance = np.abs(place - star)
        if _slope(np.log(distance), np.log(value)) < -0.5:
            return True
        halo = max(half, float(distance.min()) if 0 < star < 1 else half)
        beyond = run[there][distance > _HALO * halo]
        if len(beyond) < _FEWEST_PIECES or not _stands_out(beyond, threshold):
            return True
    return False


def _snr(run: Doubles) -> float:
    """By how many of its standard errors the median of the pieces is raised."""
    run = run[np.isfinite(run)]
    return float(np.median(run) * np.sqrt(len(run))) / _MEDIAN_NOISE if len(run) else 0.0


def _stands_out(run: Doubles, threshold: float) -> bool:
    """Whether the pieces' median is raised by ``threshold`` sigmas, and most of them and each third are."""
    typical = float(np.median(run))
    thirds = [float(np.median(third)) for third in np.array_split(run, 3)]
    return (
        _snr(run) >= threshold
        and min(thirds) > _EVEN * typical - _MEDIAN_NOISE / np.sqrt(len(run) / 3)
        and float(np.quantile(run, 0.25)) > _EVEN * typical - 0.67  # as far as noise alone lowers it
    )


def _slope(x: Doubles, y: Doubles) -> float:
    """The median of the slopes between all pairs of points (Theil 1950; Sen 1968)."""
    i, j = np.triu_indices(len(x), 1)
    apart = np.abs(x[j] - x[i]) > 0.1
    return float(np.median((y[j] - y[i])[apart] / (x[j] - x[i])[apart])) if apart.any() else 0.0


def _draw(mask: NDArray[np.uint16], trail: Trail, margin: float) -> None:
    """Set TRAIL within the trail's width, row by row or column by column, whichever it crosses more of."""
    half = 0.5 * trail.width + margin
    dx, dy = trail.x2 - trail.x1, trail.y2 - trail.y1
    steep = abs(dy) > abs(dx)
    view = mask if steep else mask.T
    start, across = (trail.y1, trail.x1) if steep else (trail.x1, trail.y1)
    along, fall = (dy, dx) if steep else (dx, dy)
    if along == 0:
        return
    stretch = float(np.hypot(dx, dy)) / abs(along)
    bow = trail.bow * stretch * (-1 if steep == (along > 0) else 1)
    low, high = min(start, start + along), max(start, start + along)
    for line in range(max(0, int(np.floor(low))), min(len(view), int(np.ceil(high)) + 1)):
        t = (line - start) / along
        centre = across + fall * t + 4 * bow * t * (1 - t)
        first = max(0, int(np.floor(centre - half * stretch)))
        last = max(0, int(np.ceil(centre + half * stretch)) + 1)
        view[line, first:last] |= np.uint16(MaskBit.TRAIL)
