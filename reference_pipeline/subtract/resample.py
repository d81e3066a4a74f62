"""Images interpolated on another pixel grid: Lanczos-3, tile by tile, with variance and mask.

The value at a place is the sum over 6 × 6 pixels of their values times w(dx) w(dy),

    w(d) = sinc(d) sinc(d / 3) for |d| < 3,

each axis normalised to a sum of one (Duchon 1979; SWarp's LANCZOS3, Bertin+ 2002), times the ratio of the
areas of both pixels, so that flux is kept. The variance goes with the squares of the weights; neighbours are
correlated afterwards, and the noise of a sum over many pixels is larger than their variances say, by the
noise factor that is returned.

Pixels that no flux may be measured on are replaced, before, by a mean of their neighbours, lest a NaN or the
sharp edge of a saturated core ring over six pixels. Arrays are numpy's or cupy's, as the input is.

Both pixels should be of about the same size: a grid coarser by half would alias.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from ..arrays import namespace
from ..frame import UNUSABLE, MaskBit

Floats = NDArray[np.float64]

MAP_TOLERANCE = 0.001  # pixels that the interpolated map may be off
_PHASES = 4096  # the weights are tabulated at so many places between two pixels
_STRIP = 32  # rows at a time on a CPU: what they need stays in its cache
_REAL_WEIGHT = 0.05  # a bad pixel that counts less leaves no mark on the mask
_REACH = 3  # pixels, of the kernel and of what bad pixels are replaced from
_UNUSABLE = np.uint16(UNUSABLE)


@dataclass(frozen=True)
class Planes:
    """What of a frame lies on its pixels: arrays (ny, nx) as in Frame."""

    data: Any
    variance: Any
    mask: Any
    background: Any = None

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        ny, nx = self.data.shape
        return int(ny), int(nx)


@dataclass(frozen=True)
class Mapping:
    """Where the pixels of one grid lie on another, at every ``step``th pixel; cubic between (Keys 1981).

    Node (i, j) is pixel ((i − 1) step, (j − 1) step) of the new grid; ``x`` and ``y`` are its place on the
    old one in pixels, ``area`` is the new pixel's area in old pixels. NaN is nowhere.
    """

    step: int
    x: Floats
    y: Floats
    area: Floats
    error: float = 0.0  # pixels: the largest difference from the exact map that was seen

    def at(self, rows: NDArray[Any], columns: NDArray[Any], xp: Any = np) -> tuple[Any, Any, Any]:
        """x, y and area at the crossings of ``rows`` and ``columns``, each (n_rows, n_columns), of ``xp``."""
        (i, down), (j, across) = (
            _cubic_taps(at, self.step, n) for at, n in zip((rows, columns), self.x.shape)
        )
        first, last = int(i.min()), int(i.max()) + 1
        # four terms along each axis: as products of matrices, BLAS would start its threads for nothing
        down, across, i, j = (xp.asarray(a) for a in (down, across, i - first, j))
        out = []
        for nodes in (self.x, self.y, self.area):
            near = xp.asarray(nodes[first:last])
            lines = sum(near[:, j[:, k]] * across[:, k] for k in range(4))
            out.append(sum(lines[i[:, k]] * down[:, k, None] for k in range(4)))
        return out[0], out[1], out[2]

    def places(self, rows: NDArray[Any], columns: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
        """x, y and area at single places (rows[k], columns[k]), each (n,)."""
        (i, down), (j, across) = (
            _cubic_taps(at, self.step, n) for at, n in zip((rows, columns), self.x.shape)
        )
        x, y, area = (
            np.einsum("nk,nkm,nm->n", down, nodes[i[:, :, None], j[:, None, :]], across)
            for nodes in (self.x, self.y, self.area)
        )
        return x, y, area


def map_between(old: WCS, new: WCS, old_shape: tuple[int, int], new_shape: tuple[int, int]) -> Mapping:
    """Return where pixels of the grid ``new`` lie on ``old``, by both WCS, distortions included.

    The nodes are brought closer until the map is right to MAP_TOLERANCE wherever it hits the old grid.
    """
    for step in (64, 32, 16, 8):
        mapping = _sampled(old, new, old_shape, new_shape, step)
        if mapping.error < MAP_TOLERANCE:
            break
    return mapping


def exact_places(old: WCS, new: WCS, x: Any, y: Any, old_shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return the pixels of ``old`` at pixels (x, y) of ``new``; NaN for what it cannot see.

    Far outside of its frame a distortion polynomial means nothing: there the linear part counts alone.
    """
    sky = new.all_pix2world(np.ravel(x), np.ravel(y), 0)
    plain = np.array(old.wcs_world2pix(*sky, 0))
    reach = max(0.5 * max(old_shape), 512)
    limits = np.array(old_shape[::-1])[:, None]
    near = np.all((plain > -reach) & (plain < limits + reach), axis=0)
    places = plain.copy()
    if near.any():
        exact = np.array(old.all_world2pix(*(s[near] for s in sky), 0, quiet=True))
        # an iteration that runs away is beyond the polynomial's reach
        is_sound = np.all(np.abs(exact - plain[:, near]) < 0.2 * max(old_shape), axis=0)
        places[:, near] = np.where(is_sound, exact, plain[:, near])
    return places[0].reshape(np.shape(x)), places[1].reshape(np.shape(x))


def resample(
    planes: Planes, mapping: Mapping, shape: tuple[int, int], *, tile: int = 1024
) -> tuple[Planes, float]:
    """Return ``planes`` on the grid of ``mapping``, of ``shape`` (ny, nx), and the noise factor.

    float32 and uint16. Outside the old image the mask is OFF_IMAGE and the rest 0. A bit of UNUSABLE is set
    where a pixel with it would have had a weight above 0.05; other bits come from the nearest 2 × 2. What is
    SATURATED keeps the value of the nearest pixel. The background is interpolated linearly. At most some
    times ``tile``² pixels are held beside input and output. NaN as factor where nothing overlaps.
    """
    xp = namespace(planes.data)
    out = Planes(
        xp.zeros(shape, xp.float32),
        xp.zeros(shape, xp.float32),
        xp.full(shape, int(MaskBit.OFF_IMAGE), xp.uint16),
        None if planes.background is None else xp.zeros(shape, xp.float32),
    )
    n_inside, power = 0, 0.0
    strip = _STRIP if xp is np else tile
    for rows, columns in _tiles(shape, tile):
        piece = _piece_under(planes, mapping, rows, columns)
        if piece is None:
            continue
        for top in range(rows.start, rows.stop, strip):
            part = (slice(top, min(top + strip, rows.stop)), columns)
            n, p = _resample_part(piece, mapping, part, planes.shape, out)
            n_inside, power = n_inside + n, power + p
    return out, float(np.sqrt(n_inside / power)) if n_inside else float("nan")


@dataclass(frozen=True)
class _Piece:
    """A part of the old image, bad pixels replaced, with a border of OFF_IMAGE beyond its edges."""

    planes: Planes
    near: Any  # uint16: bits of the 6 × 6 pixels that a value to the lower right of a pixel is made of
    measured: Any  # the data as they were
    top: int
    left: int


def _piece_under(planes: Planes, mapping: Mapping, rows: slice, columns: slice) -> _Piece | None:
    """What of the old image a tile needs; None where they do not meet."""
    ny, nx = planes.shape
    # the map is smooth: its values every few pixels bound those between, with a pixel to spare
    sparse = [np.unique(np.r_[s.start : s.stop : 16, s.stop - 1]) for s in (rows, columns)]
    x, y, _ = mapping.at(*sparse)
    seen = np.isfinite(x) & np.isfinite(y)
    if not seen.any():
        return None
    box = []
    for values, n in ((y[seen], ny), (x[seen], nx)):
        low = max(int(np.floor(values.min())) - 2 * _REACH - 1, -_REACH)
        high = min(int(np.ceil(values.max())) + 2 * _REACH + 2, n + _REACH)
        if high <= 0 or low >= n:
            return None
        box.append((low, high))
    return _repaired(planes, *box)


def _repaired(planes: Planes, rows: tuple[int, int], columns: tuple[int, int]) -> _Piece:
    xp = namespace(planes.data)
    ny, nx = planes.shape
    inside = np.s_[max(rows[0], 0) : min(rows[1], ny), max(columns[0], 0) : min(columns[1], nx)]
    border = [(max(-rows[0], 0), max(rows[1] - ny, 0)), (max(-columns[0], 0), max(columns[1] - nx, 0))]

    def cut(plane: Any) -> Any:
        return xp.pad(xp.asarray(plane[inside]), border, mode="edge")

    data, variance = cut(planes.data).astype(xp.float32), cut(planes.variance).astype(xp.float32)
    mask = xp.pad(planes.mask[inside], border, constant_values=int(MaskBit.OFF_IMAGE))
    background = None if planes.background is None else cut(planes.background)
    invalid = ~(xp.isfinite(data) & xp.isfinite(variance))
    mask = xp.where(invalid, mask | np.uint16(MaskBit.NO_DATA), mask)
    bad = (mask & _UNUSABLE) != 0
    measured = xp.where(invalid, np.float32(0), data)
    if bool(bad.any()):
        data, variance = _replaced(data, variance, bad, background)
    return _Piece(Planes(data, variance, mask, background), _spread(mask), measured, rows[0], columns[0])


def _replaced(data: Any, variance: Any, bad: Any, background: Any) -> tuple[Any, Any]:
    """Data and variance with bad pixels replaced by the mean of good ones within three pixels.

    The nearest count most. Farther inside a bad area the background, or the piece's median, takes over.
    """
    xp = namespace(data)
    ny, nx = data.shape
    i, j = xp.nonzero(bad)
    data, variance = xp.where(bad, np.float32(0), data), xp.where(bad, np.float32(0), variance)
    total = xp.zeros((3, len(i)), xp.float32)
    for dy in range(-_REACH, _REACH + 1):
        for dx in range(-_REACH, _REACH + 1):
            row, column = xp.clip(i + dy, 0, ny - 1), xp.clip(j + dx, 0, nx - 1)
            at = row * nx + column
            good = ~bad.reshape(-1)[at]
            weight = good * np.float32(np.exp(-0.5 * (dy * dy + dx * dx)))
            total[0] += weight
            total[1] += data.reshape(-1)[at] * weight
            total[2] += variance.reshape(-1)[at] * weight
    known = total[0] > 0
    any_good = not bool(bad.all())
    level = background[i, j] if background is not None else xp.median(data[~bad]) if any_good else 0.0
    spread = xp.median(variance[~bad]) if any_good else 0.0
    divisor = xp.where(known, total[0], np.float32(1))
    data[i, j] = xp.where(known, total[1] / divisor, level)
    variance[i, j] = xp.where(known, total[2] / divisor, spread)
    return data, variance


def _spread(mask: Any) -> Any:
    """The bits of rows −2 … +3 and columns −2 … +3 about each pixel, or'ed."""
    out = mask
    for axis in (0, 1):
        wide = out.copy()
        for shift in (-2, -1, 1, 2, 3):
            size = mask.shape[axis] - abs(shift)
            if size <= 0:
                continue
            to, source = (
                slice(max(-shift, 0), max(-shift, 0) + size),
                slice(max(shift, 0), max(shift, 0) + size),
            )
            if axis == 0:
                wide[to] |= out[source]
            else:
                wide[:, to] |= out[:, source]
        out = wide
    return out


def _resample_part(
    piece: _Piece, mapping: Mapping, part: tuple[slice, slice], old_shape: tuple[int, int], out: Planes
) -> tuple[int, float]:
    """Fill ``part`` of ``out``; return the number of pixels inside and the sum of their squared weights."""
    xp = namespace(out.data)
    rows, columns = (np.arange(s.start, s.stop) for s in part)
    shape = (len(rows), len(columns))
    x, y, area = (a.reshape(-1) for a in mapping.at(rows, columns, xp))
    ny, nx = old_shape
    inside = (x >= -0.5) & (x <= nx - 0.5) & (y >= -0.5) & (y <= ny - 0.5)  # false for NaN
    n_inside = int(inside.sum())
    if not n_inside:
        return 0, 0.0
    x, y = xp.where(inside, x, _first_of(x, inside)), xp.where(inside, y, _first_of(y, inside))
    table = _tables(xp)
    ix, iy = xp.floor(x), xp.floor(y)
    phase_x, phase_y = (xp.rint((a - b) * _PHASES).astype(np.int64) for a, b in ((x, ix), (y, iy)))
    wx, wy = ([axis.take(phase) for axis in table.weights] for phase in (phase_x, phase_y))
    width = piece.planes.shape[1]
    corner = (iy.astype(np.int64) - piece.top) * width + (ix.astype(np.int64) - piece.left)
    data, variance = _weighted_sums(piece, corner - 2 * width - 2, wx, wy)
    area = area.astype(xp.float32)
    bits = _bits(piece, corner, wx, wy)
    nearest = (xp.rint(y).astype(np.int64) - piece.top) * width + xp.rint(x).astype(np.int64) - piece.left
    is_saturated = (bits & np.uint16(MaskBit.SATURATED)) != 0
    data = xp.where(is_saturated, piece.measured.reshape(-1).take(nearest), data)
    zero = np.float32(0)
    out.data[part] = xp.where(inside, data * area, zero).reshape(shape)
    out.variance[part] = xp.where(inside, variance * area**2, zero).reshape(shape)
    out.mask[part] = xp.where(inside, bits, np.uint16(MaskBit.OFF_IMAGE)).reshape(shape)
    if out.background is not None:
        level = _linear(
            piece.planes.background, corner, (x - ix).astype(xp.float32), (y - iy).astype(xp.float32)
        )
        out.background[part] = xp.where(inside, level * area, zero).reshape(shape)
    squares = table.power.take(phase_x) * table.power.take(phase_y)
    return n_inside, float(xp.where(inside, squares, zero).sum(dtype=xp.float64))


def _first_of(values: Any, inside: Any) -> Any:
    """A value that is inside, for places that are not: they are computed too, and thrown away."""
    return values[int(inside.argmax())]


def _weighted_sums(piece: _Piece, first: Any, wx: list[Any], wy: list[Any]) -> tuple[Any, Any]:
    """Data and variance at each place; ``first`` is the flat index of the first of its 6 × 6 pixels."""
    width = piece.planes.shape[1]
    data, variance = piece.planes.data.reshape(-1), piece.planes.variance.reshape(-1)
    wx2 = [w * w for w in wx]
    total, total2 = 0.0, 0.0
    for k, w in enumerate(wy):
        line, line2 = 0.0, 0.0
        for m in range(6):
            start = k * width + m
            line = line + data[start:].take(first) * wx[m]
            line2 = line2 + variance[start:].take(first) * wx2[m]
        total, total2 = total + line * w, total2 + line2 * (w * w)
    return total, total2


def _bits(piece: _Piece, corner: Any, wx: list[Any], wy: list[Any]) -> Any:
    """The mask at each place. Few places are near a bit: only those are looked at closely."""
    xp = namespace(corner)
    bits = xp.zeros(corner.shape, xp.uint16)
    rows = xp.nonzero(piece.near.reshape(-1).take(corner))[0]
    if not len(rows):
        return bits
    width = piece.planes.shape[1]
    mask = piece.planes.mask.reshape(-1)
    found = xp.zeros(rows.shape, xp.uint16)
    near_x, near_y = ([w.take(rows) for w in axis] for axis in (wx, wy))
    at = corner.take(rows)
    for k in range(6):
        for m in range(6):
            pixel = mask.take(at + ((k - 2) * width + m - 2))
            if not (k in (2, 3) and m in (2, 3)):
                pixel = pixel & _UNUSABLE
            counts = xp.abs(near_y[k] * near_x[m]) > _REAL_WEIGHT
            found |= xp.where(counts, pixel, np.uint16(0))
    bits[rows] = found
    return bits


def _linear(plane: Any, corner: Any, fx: Any, fy: Any) -> Any:
    width = plane.shape[1]
    flat = plane.reshape(-1)
    upper = flat.take(corner) * (1 - fx) + flat[1:].take(corner) * fx
    lower = flat[width:].take(corner) * (1 - fx) + flat[width + 1 :].take(corner) * fx
    return upper * (1 - fy) + lower * fy


@dataclass(frozen=True)
class _Tables:
    weights: list[Any]  # six arrays of _PHASES + 1: of pixels −2 … +3
    power: Any  # the sum of their squares


@cache
def _tables(xp: Any) -> _Tables:
    weights = lanczos_weights(np.arange(_PHASES + 1) / _PHASES)
    power = np.square(weights).sum(axis=0)
    return _Tables([xp.asarray(w, dtype=xp.float32) for w in weights], xp.asarray(power, dtype=xp.float32))


def lanczos_weights(phase: Floats) -> Floats:
    """Weights (6, n) of pixels −2 … +3 for places ``phase`` (n,) in [0, 1] beyond pixel 0, sums 1."""
    distance = np.asarray(phase, float) - np.arange(-2, 4)[:, None]
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)
    return np.asarray(weights / weights.sum(axis=0))


def _sampled(
    old: WCS, new: WCS, old_shape: tuple[int, int], new_shape: tuple[int, int], step: int
) -> Mapping:
    ny, nx = new_shape
    rows, columns = (np.arange(-1, -(-(n - 1) // step) + 3) * step for n in (ny, nx))
    x, y = exact_places(old, new, *np.meshgrid(columns, rows), old_shape)
    (x_down, x_across), (y_down, y_across) = (np.gradient(a, step, edge_order=2) for a in (x, y))
    area = np.abs(x_across * y_down - x_down * y_across)
    mapping = Mapping(step, x, y, area)
    # halfway between nodes the interpolation is worst; some hundred places are enough for a smooth map
    stride = [max(1, len(a) // 24) for a in (rows, columns)]
    middle = [(a[1:-1:s] + step // 2) for a, s in zip((rows, columns), stride)]
    middle = [m[m < n] if np.any(m < n) else np.array([0]) for m, n in zip(middle, new_shape)]
    found = mapping.at(*middle)[:2]
    exact = exact_places(old, new, *np.meshgrid(middle[1], middle[0]), old_shape)
    on_old = (exact[0] > -1) & (exact[0] < old_shape[1]) & (exact[1] > -1) & (exact[1] < old_shape[0])
    apart = np.hypot(found[0] - exact[0], found[1] - exact[1])[on_old]
    return replace(mapping, error=float(apart.max()) if apart.size else 0.0)


def _cubic_taps(at: NDArray[Any], step: int, n_nodes: int) -> tuple[NDArray[np.int64], Floats]:
    """The four nodes about each place and their weights, both (n, 4)."""
    place = np.asarray(at, float) / step + 1.0
    nodes = np.floor(place).astype(np.int64)[:, None] + np.arange(-1, 3)
    return np.clip(nodes, 0, n_nodes - 1), cubic(place[:, None] - nodes)


def cubic(distance: Floats) -> Floats:
    """Keys' (1981) cubic convolution, a = −1/2."""
    s = np.abs(distance)
    near = (1.5 * s - 2.5) * s * s + 1.0
    far = ((-0.5 * s + 2.5) * s - 4.0) * s + 2.0
    return np.where(s < 1.0, near, np.where(s < 2.0, far, 0.0))


def _tiles(shape: tuple[int, int], tile: int) -> Iterator[tuple[slice, slice]]:
    ny, nx = shape
    for y in range(0, ny, tile):
        for x in range(0, nx, tile):
            yield slice(y, min(y + tile, ny)), slice(x, min(x + tile, nx))
