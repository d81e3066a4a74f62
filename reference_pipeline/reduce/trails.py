"""Trails of satellites and aircraft: straight lines through the frame.

The frame is binned to at most ``max_cells``, each pixel less its sky and bounded to a few sigmas, so that a
star weighs no more than its area. The sums along all lines follow from the fast Radon transform (Brady 1998;
Nir, Zackay & Ofek 2018). A line that stands out is then looked at in full resolution: along a trail the
*median* of every stretch is raised, and along a row of stars it is not. From those stretches come the
trail's place, ends and width. Why not another package: docs/decisions/0006-trails.md.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..config import Trails
from ..errors import PixelError
from ..frame import UNUSABLE, Frame, MaskBit

Floats = NDArray[np.float32]

_STAGE = "trails"
_BOUND = 3.0  # sigmas that a pixel, and then a cell, may count
_SKY = 64  # pixels, side of the blocks that sky and noise are of
_REACH = 24  # pixels on both sides of a line that its profile is measured on, beside the cell's size
_STRETCHES = 48  # of a line
_RAISED = 3.0  # sigmas by which a stretch belongs to a trail
_GAP = 3  # stretches that may be missing: under a bright star, on a chip's defect


@dataclass(frozen=True)
class Trail:
    """A trail: its ends and full width in pixels, and how much its stretches stand out."""

    x1: float
    y1: float
    x2: float
    y2: float
    width: float
    snr: float


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
    """Return the trails in ``frame``, the clearest first. Raises PixelError ("no-pixels")."""
    unusable = (frame.mask & int(UNUSABLE)) != 0
    if unusable.all():
        raise PixelError(frame.id, _STAGE, "no-pixels", "every pixel is masked")
    size = -(-max(frame.shape) // config.max_cells)
    sky, sigma = _sky(frame.data, unusable)
    cells, weight = _cells(frame.data, unusable, sky, sigma, size)
    found: list[Trail] = []
    for _ in range(3 * config.max_trails):
        if len(found) == config.max_trails:
            break
        line = _best_line(cells, weight, config)
        if line is None:
            break
        trail, aligned = _measure(frame, unusable, sky, sigma, line, size, config)
        if trail is not None:
            found.append(trail)
        width = 2.0 if trail is None else trail.width / size + 2.0
        _blank(weight, aligned, width)
    return tuple(found)


def line_sums(image: Floats) -> Floats:
    """Return sums along the lines through ``image`` that fall by 0 to nx − 1 rows from its left to its right.

    Row s of the result, float32 (nx, ny + nx), is of the lines that fall by s; its column y of the one that
    begins at row y − nx, above the image for small y. nx has to be a power of two.
    """
    ny, nx = image.shape
    sums = np.zeros((nx, 1, ny + nx), np.float32)  # column block, fall, where it begins
    sums[:, 0, nx:] = image.T
    while len(sums) > 1:
        left, right = sums[0::2], sums[1::2]
        n = left.shape[1]
        sums = np.empty((len(left), 2 * n, left.shape[2]), np.float32)
        for fall in range(2 * n):
            half, shift = fall // 2, (fall + 1) // 2  # the right half begins lower by the left half's fall
            sums[:, fall] = left[:, half]
            sums[:, fall, : sums.shape[2] - shift] += right[:, half, shift:]
    return sums[0]


def _sky(data: Floats, unusable: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Median and robust sigma of blocks, from every fourth line and column, smoothed over neighbours."""
    ny, nx = data.shape
    by, bx = max(1, round(ny / _SKY)), max(1, round(nx / _SKY))
    step = 4 if min(ny, nx) > 4 * _SKY else 1
    level, sigma = np.full((by, bx), np.nan), np.full((by, bx), np.nan)
    edges_y, edges_x = np.linspace(0, ny, by + 1).astype(int), np.linspace(0, nx, bx + 1).astype(int)

    def row(i: int) -> None:
        for j in range(bx):
            window = slice(edges_y[i], edges_y[i + 1], step), slice(edges_x[j], edges_x[j + 1], step)
            values = data[window][~unusable[window]]
            values = values[np.isfinite(values)]
            if values.size > 8:
                low, level[i, j], _ = np.percentile(values, (15.87, 50, 84.13))
                sigma[i, j] = level[i, j] - low  # the lower side: stars are above

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(row, range(by)))
    for values in (level, sigma):
        values[np.isnan(values)] = np.nanmedian(values) if np.isfinite(values).any() else 1.0
    level = ndimage.median_filter(level, 3, mode="nearest")
    sigma = np.maximum(ndimage.median_filter(sigma, 3, mode="nearest"), 1e-6)
    return level.astype(np.float32), sigma.astype(np.float32)


def _at(grid: Floats, y: NDArray[np.float64], x: NDArray[np.float64], shape: tuple[int, int]) -> Floats:
    """The blocks' values at pixels, linear between the blocks' centres."""
    places = [(y + 0.5) * grid.shape[0] / shape[0] - 0.5, (x + 0.5) * grid.shape[1] / shape[1] - 0.5]
    return ndimage.map_coordinates(grid, places, order=1, mode="nearest").astype(np.float32)


def _cells(
    data: Floats, unusable: NDArray[np.bool_], sky: Floats, sigma: Floats, size: int
) -> tuple[Floats, Floats]:
    """The frame in cells of ``size`` pixels, in units of their noise; and 1 where one can be used, or 0."""
    ny, nx = data.shape[0] // size, data.shape[1] // size
    cells, weight = np.zeros((ny, nx), np.float32), np.zeros((ny, nx), np.float32)
    x = (np.arange(nx) + 0.5) * size - 0.5

    def row(i: int) -> None:
        rows = slice(i * size, (i + 1) * size)
        y = np.full(nx, (i + 0.5) * size - 0.5)
        level = np.repeat(_at(sky, y, x, data.shape), size)
        scale = np.repeat(_at(sigma, y, x, data.shape), size)
        part = (data[rows, : nx * size] - level) / scale
        good = ~unusable[rows, : nx * size] & np.isfinite(part)
        part = np.where(good, np.clip(part, -_BOUND, _BOUND), 0).reshape(size, nx, size)
        n = good.reshape(size, nx, size).sum(axis=(0, 2))
        cells[i] = part.sum(axis=(0, 2)) / np.sqrt(np.maximum(n, 1))
        weight[i] = n > 0.5 * size * size

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(row, range(ny)))
    width = 25  # cells: what is broader than a trail, halos and large galaxies, goes
    cells -= ndimage.uniform_filter(cells * weight, width) / np.maximum(
        ndimage.uniform_filter(weight, width), 0.05
    )
    used = cells[weight > 0]
    spread = max(1.4826 * float(np.median(np.abs(used))), 1e-3) if used.size else 1.0
    return (np.clip(cells / spread, -_BOUND, _BOUND) * weight).astype(np.float32), weight


def _best_line(cells: Floats, weight: Floats, config: Trails) -> NDArray[np.float64] | None:
    """The ends ((x1, y1), (x2, y2)), in cells, of the line that stands out most; None if none does."""
    best: tuple[float, NDArray[np.float64]] | None = None
    shortest = config.min_length * min(cells.shape)
    for transposed in (False, True):
        for flipped in (False, True):
            image, valid = cells * weight, weight
            if transposed:
                image, valid = image.T, valid.T
            if flipped:
                image, valid = image[::-1], valid[::-1]
            ny, nx = image.shape
            width = 1 << (nx - 1).bit_length()
            pad = ((0, 0), (0, width - nx))
            sums, counts = line_sums(np.pad(image, pad)), line_sums(np.pad(valid, pad))
            snr = np.where(counts >= shortest, sums / np.sqrt(np.maximum(counts, 1)), 0)
            tested = snr[counts >= shortest]
            if not tested.size:
                continue
            sample = tested[:: max(1, tested.size // 200000)]
            spread = max(1.4826 * float(np.median(np.abs(sample - np.median(sample)))), 1.0)
            peak = np.unravel_index(np.argmax(snr), snr.shape)
            value = float((snr[peak] - np.median(sample)) / spread)
            if value > config.threshold and (best is None or value > best[0]):
                start, fall = float(peak[1] - width), float(peak[0])
                ends = np.array([[0.0, start], [nx - 1.0, start + fall * (nx - 1) / max(width - 1, 1)]])
                if flipped:
                    ends[:, 1] = ny - 1 - ends[:, 1]
                best = value, ends[:, ::-1] if transposed else ends
    return None if best is None else best[1]


def _measure(
    frame: Frame,
    unusable: NDArray[np.bool_],
    sky: Floats,
    sigma: Floats,
    line: NDArray[np.float64],
    size: int,
    config: Trails,
) -> tuple[Trail | None, NDArray[np.float64]]:
    """Look at a line in full resolution: the trail, if it is one; and where it runs, in cells."""
    ny, nx = frame.shape
    ends = _clipped((line + 0.5) * size - 0.5, frame.shape)
    if ends is None:
        return None, line
    length = float(np.hypot(*(ends[1] - ends[0])))
    if length < config.min_length * min(frame.shape):
        return None, line
    along = (ends[1] - ends[0]) / length
    across = np.array([-along[1], along[0]])
    reach = _REACH + 2 * size
    offsets = np.arange(-reach, reach + 1)
    n = max(8, min(_STRETCHES, int(length // 48)))
    per = int(length // n)
    t = (np.arange(n * per) + 0.5) * length / (n * per)
    x = ends[0, 0] + t[:, None] * along[0] + offsets * across[0]
    y = ends[0, 1] + t[:, None] * along[1] + offsets * across[1]
    ix, iy = np.rint(x).astype(int), np.rint(y).astype(int)
    inside = (ix >= 0) & (ix < nx) & (iy >= 0) & (iy < ny)
    ix, iy = np.clip(ix, 0, nx - 1), np.clip(iy, 0, ny - 1)
    values = (frame.data[iy, ix] - _at(sky, y, x, frame.shape)) / _at(sigma, y, x, frame.shape)
    values[~inside | unusable[iy, ix]] = np.nan
    profile = _medians(values.reshape(n, per, -1))
    profile -= np.nanmedian(profile, axis=1, keepdims=True)  # the sky beside the trail
    noise = 1.2533 / np.sqrt(per)
    shift = _alignment(profile, 2 * size)
    place = np.arange(len(offsets))
    aligned = np.stack(
        [np.interp(place + s, place, np.nan_to_num(p)) for s, p in zip(shift, profile, strict=True)]
    )
    start, stop = ends[0] + shift[0] * across, ends[1] + shift[-1] * across
    refined = (np.array([start, stop]) + 0.5) / size - 0.5
    core = aligned[:, reach - 1 : reach + 2].mean(axis=1) * np.sqrt(3) / noise
    first, last = _longest_run(core > _RAISED, _GAP)
    raised = core[first:last]
    if (last - first) * length / n < config.min_length * min(frame.shape) or np.mean(raised > _RAISED) < 0.7:
        return None, refined
    mean = aligned[first:last].mean(axis=0)
    level = max(0.1 * mean[reach], 2 * noise / np.sqrt(last - first))
    half = 0
    while half < reach and 0.5 * (mean[reach - half] + mean[reach + half]) > level:
        half += 1
    if half >= reach or _is_spike(frame, start, stop, first, last, n, raised):
        return None, refined  # as wide as all that was looked at: a halo, an edge
    one, two = start + (stop - start) * first / n, start + (stop - start) * last / n
    snr = float(raised.sum() / np.sqrt(len(raised)))
    return Trail(float(one[0]), float(one[1]), float(two[0]), float(two[1]), 2.0 * half + 1, snr), refined


def _is_spike(
    frame: Frame,
    start: NDArray[np.float64],
    stop: NDArray[np.float64],
    first: int,
    last: int,
    n: int,
    raised: Floats,
) -> bool:
    """Whether what stands out fades on both sides of a saturated star on it, and ends within the frame."""
    t = np.linspace(first / n, last / n, max(2, 4 * int(np.hypot(*(stop - start)) * (last - first) / n)))
    x, y = (np.rint(start[i] + t * (stop[i] - start[i])).astype(int) for i in (0, 1))
    ny, nx = frame.shape
    inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
    hit = np.zeros(t.shape, bool)
    hit[inside] = (frame.mask[y[inside], x[inside]] & int(MaskBit.SATURATED)) != 0
    if not hit.any():
        return False
    peak = int(np.median(np.flatnonzero(hit)) / len(t) * len(raised))
    distance = np.abs(np.arange(len(raised)) - peak)
    near = raised[distance <= max(2, len(raised) // 6)].mean()
    far = raised[distance >= max(3, len(raised) // 3)]
    return bool(far.size and near > 2 * far.mean())


def _medians(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Medians along axis 1; NaN where under a quarter of the values are there."""
    n = np.isfinite(values).sum(axis=1)
    ordered = np.sort(values, axis=1)  # NaN goes last
    low, high = np.maximum(n - 1, 0) // 2, np.minimum(n // 2, values.shape[1] - 1)
    pick = [np.take_along_axis(ordered, index[:, None], axis=1)[:, 0] for index in (low, high)]
    return np.where(n >= 0.25 * values.shape[1], 0.5 * (pick[0] + pick[1]), np.nan).astype(np.float64)


def _alignment(profile: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """By how many pixels the trail is off the line, stretch by stretch: the straight line of most signal."""
    smooth = ndimage.uniform_filter1d(np.clip(np.nan_to_num(profile), -1, 5), 3, axis=1)
    n, middle = len(profile), profile.shape[1] // 2
    part = (np.arange(n) + 0.5) / n
    rows = np.arange(n)
    best, ends = -np.inf, (0, 0)
    for a in range(-reach, reach + 1):
        for b in range(-reach, reach + 1):
            total = float(smooth[rows, np.rint(middle + a + (b - a) * part).astype(int)].sum())
            if total > best:
                best, ends = total, (a, b)
    return ends[0] + (ends[1] - ends[0]) * part


def _longest_run(raised: NDArray[np.bool_], gap: int) -> tuple[int, int]:
    """The longest stretch (first, one past last) of True with at most ``gap`` False in a row between."""
    places = np.flatnonzero(raised)
    if not len(places):
        return 0, 0
    runs = np.split(places, np.flatnonzero(np.diff(places) > gap + 1) + 1)
    longest = max(runs, key=lambda run: run[-1] - run[0])
    return int(longest[0]), int(longest[-1]) + 1


def _clipped(ends: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64] | None:
    """The part of a line within the frame (Liang & Barsky 1984); None without one."""
    low, high = 0.0, 1.0
    step = ends[1] - ends[0]
    for axis, size in ((0, shape[1]), (1, shape[0])):
        if abs(step[axis]) < 1e-9:
            if not 0 <= ends[0, axis] <= size - 1:
                return None
            continue
        a, b = sorted(((0 - ends[0, axis]) / step[axis], (size - 1 - ends[0, axis]) / step[axis]))
        low, high = max(low, a), min(high, b)
    return ends[0] + np.array([[low], [high]]) * step if low < high else None


def _blank(weight: Floats, line: NDArray[np.float64], width: float) -> None:
    """Set to 0 what lies within ``width`` cells of a line."""
    y, x = np.ogrid[: weight.shape[0], : weight.shape[1]]
    step = line[1] - line[0]
    distance = np.abs((x - line[0, 0]) * step[1] - (y - line[0, 1]) * step[0]) / max(
        float(np.hypot(*step)), 1e-9
    )
    weight[distance <= width] = 0


def _draw(mask: NDArray[np.uint16], trail: Trail, margin: float) -> None:
    """Set TRAIL within the trail's width, row by row or column by column, whichever it crosses more of."""
    half = 0.5 * trail.width + margin
    dx, dy = trail.x2 - trail.x1, trail.y2 - trail.y1
    length = float(np.hypot(dx, dy))
    steep = abs(dy) > abs(dx)
    view = mask if steep else mask.T
    a, b = (
        ((trail.y1, trail.x1), (trail.y2, trail.x2))
        if steep
        else ((trail.x1, trail.y1), (trail.x2, trail.y2))
    )
    if a[0] > b[0]:
        a, b = b, a
    slope = (b[1] - a[1]) / (b[0] - a[0])
    spread = half * length / abs(b[0] - a[0])
    for line in range(max(0, int(np.floor(a[0]))), min(len(view), int(np.ceil(b[0])) + 1)):
        centre = a[1] + slope * (line - a[0])
        first, last = max(0, int(np.floor(centre - spread))), max(0, int(np.ceil(centre + spread)) + 1)
        view[line, first:last] |= np.uint16(MaskBit.TRAIL)
