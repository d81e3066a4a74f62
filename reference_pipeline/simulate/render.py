"""The noiseless image of a scene: every source through the optics onto the pixels, in batches.

Stars are Moffats integrated over pixels, in stamps whose size follows their flux. What moves or is out of
focus is a set of such stars along its line and over its disc. Galaxies are products of the transforms of
Sérsic profile, PSF and pixel, drawn by FFT in batches of one size. Trails are the exact integral of the
Moffat along a line. Memory beyond the image is bounded by :data:`CHUNK`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from .atmosphere import at_points
from .lines import draw_line
from .optics import Optics, Spikes, psf_at, psf_fwhm, sky_jacobian, sky_to_pixel
from .profiles import disc_nodes, galaxy_stamps, line_nodes, moffat_cumulative, moffat_stamps
from .scene import POINT_KINDS, Galaxies, Points, Scene, Trails
from .truth import TruthBit

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.wcs import WCS

Floats = NDArray[np.float64]
Image = NDArray[np.float32]
Rows = TypeVar("Rows", Points, Galaxies)

#: Pixels drawn at once: what fits a processor's cache.
CHUNK = 1 << 18

#: Half sizes of the stamps of stars, and whole sizes of those of galaxies: few, so that batches are large.
STAR_RADII = (6, 9, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512, 768)
GALAXY_SIZES = (32, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)


@dataclass(frozen=True)
class Rendered:
    """A scene on the chip: electrons that an ideal, noiseless chip would collect from it (no sky)."""

    image: Image  # electrons, (ny, nx)
    mask: NDArray[np.uint16]  # TruthBit: TRAIL, SPIKE, GHOST, GLINT
    sources: Table  # id, kind, x, y, flux (electrons, all of it), clipped (fraction of it not on the frame)
    trails: Table  # id, x1, y1, x2, y2 (pixels; may lie outside), width (pixels, at half maximum)


def render(
    scene: Scene,
    wcs: WCS,
    optics: Optics,
    shape: tuple[int, int],
    *,
    zero_point: float,
    seeing_fwhm: float,
    jitter: float = 0.0,
    jitter_angle: float = 0.0,
    transmission: Floats | None = None,
    faintest: float = 0.02,
    visible: float = 3.0,
) -> Rendered:
    """Return ``scene`` as it falls on a chip of ``shape`` (ny, nx).

    ``zero_point`` is the magnitude of one electron in the whole exposure; ``seeing_fwhm`` and ``jitter``
    (rms, along ``jitter_angle``) as in :func:`psf_at`; ``transmission`` a map of nodes as
    :mod:`.atmosphere` makes them. Stars are drawn out to where they fall below ``faintest`` electrons in a
    pixel and at least until 0.05 % of their light, or one electron, is left out. Pixels of trails, spikes,
    ghosts and glints with more than ``visible`` electrons of theirs are marked in the mask. Raises ValueError
    where a magnitude is NaN; inf is no light.
    """
    image, mask = np.zeros(shape, np.float32), np.zeros(shape, np.uint16)

    def electrons(magnitude: Floats, x: Floats, y: Floats) -> Floats:
        flux = 10.0 ** (-0.4 * (magnitude - zero_point))
        return flux if transmission is None else flux * at_points(transmission, shape, x, y)

    def psf(x: Floats, y: Floats) -> Floats:
        return psf_at(optics, x, y, shape, seeing_fwhm=seeing_fwhm, jitter=jitter, jitter_angle=jitter_angle)

    margin = 2.0 * STAR_RADII[-1]
    points, x, y = _near(scene.points, wcs, shape, margin)
    flux = electrons(points.magnitude, x, y)
    moffat = psf(x, y) * optics.moffat_ratio**2
    sub = _sub_sources(points, wcs, optics, x, y, psf_fwhm(psf(x, y)))
    glint = points.kind == POINT_KINDS.index("satellite_glint")
    landed = np.zeros(len(x))
    steady = ~glint[sub.parent]
    _draw_stars(image, sub.where(steady), flux, moffat, optics.beta, faintest, landed)
    for k in np.flatnonzero(glint):
        _draw_glint(
            image, mask, sub.where(sub.parent == k), flux, moffat, optics.beta, faintest, visible, landed
        )
    _draw_spikes(image, mask, optics, x, y, flux, moffat, faintest, visible)
    _draw_ghosts(image, mask, optics, x, y, flux, faintest, visible)

    galaxies, gx, gy = _near(scene.galaxies, wcs, shape, margin)
    galaxy_flux = electrons(galaxies.magnitude, gx, gy)
    galaxy_landed = np.zeros(len(gx))
    _draw_galaxies(
        image,
        galaxies,
        wcs,
        gx,
        gy,
        galaxy_flux,
        psf(gx, gy) * optics.moffat_ratio**2,
        optics.beta,
        galaxy_landed,
    )
    trails = _draw_trails(image, mask, scene.trails, wcs, optics, psf, zero_point, transmission, visible)
    names = np.array(POINT_KINDS)[points.kind]
    sources = _table(
        id=np.concatenate([points.id, galaxies.id]),
        kind=np.concatenate([names, np.full(len(gx), "galaxy")]),
        x=np.concatenate([x, gx]),
        y=np.concatenate([y, gy]),
        flux=np.concatenate([flux, galaxy_flux]),
        clipped=1.0 - np.concatenate([landed, galaxy_landed]),
    )
    return Rendered(image, mask, sources[sources["clipped"] < 1.0], trails)


# --- stars ---


@dataclass(frozen=True)
class _Sub:
    """Point sources that others are made of: ``weight`` of the flux of row ``parent``, at (x, y)."""

    parent: NDArray[np.int64]
    x: Floats
    y: Floats
    weight: Floats

    def where(self, chosen: NDArray[np.bool_]) -> _Sub:
        return _Sub(self.parent[chosen], self.x[chosen], self.y[chosen], self.weight[chosen])


def _sub_sources(points: Points, wcs: WCS, optics: Optics, x: Floats, y: Floats, fwhm: Floats) -> _Sub:
    """Every source as one or more stars: Gauss-Legendre nodes along its motion and over its disc.

    Nodes stand less than 0.6 FWHM apart, where the sum differs from the integral by less than 1e-4.
    """
    extended = (np.hypot(points.motion_ra, points.motion_dec) > 0) | (points.defocus > 0)
    still = np.flatnonzero(~extended)
    parts = [_Sub(still, x[still], y[still], np.ones(len(still)))]
    chosen = np.flatnonzero(extended)
    if len(chosen):
        jacobian = sky_jacobian(wcs, points.ra[chosen], points.dec[chosen])
        motion = np.stack([points.motion_ra[chosen], points.motion_dec[chosen]], axis=-1)
        shift = np.einsum("nij,nj->ni", jacobian, motion)
    for row, k in enumerate(chosen):
        at, weight = line_nodes(float(np.hypot(*shift[row])), float(fwhm[k]))
        line = at[:, None] * shift[row]
        disc, disc_weight = disc_nodes(float(points.defocus[k]) / optics.pixel_scale, float(fwhm[k]))
        offsets = (line[:, None, :] + disc[None, :, :]).reshape(-1, 2)
        weights = np.outer(weight, disc_weight).ravel()
        parts.append(_Sub(np.full(len(weights), k), x[k] + offsets[:, 0], y[k] + offsets[:, 1], weights))
    return _Sub(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("parent", "x", "y", "weight")))


def _draw_stars(
    image: Image, sub: _Sub, flux: Floats, moffat: Floats, beta: float, faintest: float, landed: Floats
) -> None:
    """Add Moffats of M = ``moffat``[parent] to ``image``, and to ``landed`` what fraction fell on it."""
    matrix = moffat[sub.parent]
    f = flux[sub.parent] * sub.weight
    radius = _star_radius(f, matrix, beta, faintest)
    kind = np.searchsorted(STAR_RADII, np.minimum(radius, STAR_RADII[-1]))
    for size in np.unique(kind):
        r = STAR_RADII[size]
        rows = np.flatnonzero((kind == size) & _touches(sub.x, sub.y, r, image.shape))
        step = max(1, CHUNK // (2 * r + 1) ** 2)
        for at in range(0, len(rows), step):
            k = rows[at : at + step]
            ix, iy = np.rint(sub.x[k]).astype(int), np.rint(sub.y[k]).astype(int)
            stamps = moffat_stamps(matrix[k], beta, sub.x[k] - ix, sub.y[k] - iy, r)
            stamps *= f[k, None, None].astype(np.float32)
            on = _add(image, stamps, ix - r, iy - r)
            np.add.at(landed, sub.parent[k], np.divide(on, flux[sub.parent[k]]))


def _star_radius(flux: Floats, matrix: Floats, beta: float, faintest: float) -> Floats:
    """Half size of a stamp: where I falls below ``faintest`` and all but 0.05 % or an electron is inside.

    The light outside of r is (1 + r²/r0²)^(1 − β).
    """
    r0 = np.sqrt(np.linalg.eigvalsh(matrix)[:, -1])
    peak = np.maximum(flux, 1e-9) * (beta - 1) / (np.pi * np.sqrt(np.linalg.det(matrix)))
    by_brightness = np.sqrt(np.maximum((peak / faintest) ** (1 / beta) - 1, 0))
    lost = np.minimum(np.maximum(5e-4, 1.0 / np.maximum(flux, 1e-9)), 0.5)
    by_light = np.sqrt(lost ** (1 / (1 - beta)) - 1)
    return r0 * np.maximum(by_brightness * (lost <= 5e-4), by_light) + 1.0


def _draw_glint(
    image: Image,
    mask: NDArray[np.uint16],
    sub: _Sub,
    flux: Floats,
    moffat: Floats,
    beta: float,
    faintest: float,
    visible: float,
    landed: Floats,
) -> None:
    """Draw one glint in an image of its own and mark its pixels."""
    reach = float(np.max(_star_radius(flux[sub.parent] * sub.weight, moffat[sub.parent], beta, faintest)))
    box = _box(
        sub.x.min() - reach, sub.x.max() + reach, sub.y.min() - reach, sub.y.max() + reach, image.shape
    )
    if box is None:
        return
    own = np.zeros(image[box].shape, np.float32)
    local = _Sub(sub.parent, sub.x - box[1].start, sub.y - box[0].start, sub.weight)
    _draw_stars(own, local, flux, moffat, beta, faintest, landed)
    image[box] += own
    mask[box][own > visible] |= np.uint16(TruthBit.GLINT)


# --- spikes and ghosts ---


def _draw_spikes(
    image: Image,
    mask: NDArray[np.uint16],
    optics: Optics,
    x: Floats,
    y: Floats,
    flux: Floats,
    moffat: Floats,
    faintest: float,
    visible: float,
) -> None:
    """Add the rays of stars, where any pixel of theirs holds a tenth of ``visible``, down to ``faintest``."""
    spikes: Spikes = optics.spikes
    if not spikes.number or not spikes.fraction:
        return
    length = spikes.length / optics.pixel_scale
    per_pixel = flux * spikes.fraction / spikes.number / (0.5 * np.pi * length)  # electrons per pixel of ray
    crest = per_pixel / (moffat_cumulative(optics.beta)[2] * np.linalg.det(moffat) ** 0.25)
    for k in np.flatnonzero(crest > 0.1 * visible):
        above = max(crest[k] / faintest, 2.0)
        reach = length * np.sqrt(above - 1.0)
        across = float(np.clip(np.sqrt(above ** (1 / (optics.beta - 0.5)) - 1.0), 2.0, 8.0))
        for ray in range(spikes.number):
            angle = np.radians(spikes.angle + 360.0 * ray / spikes.number)
            end = (x[k] + reach * np.cos(angle), y[k] + reach * np.sin(angle))

            def along(s: Floats, level: float = float(per_pixel[k])) -> Floats:
                return level / (1.0 + (s / length) ** 2)

            draw_line(
                image, mask, (x[k], y[k]), end, moffat[k], optics.beta, along, 0.0, visible, TruthBit.SPIKE,
                reach=across,
            )  # fmt: skip


def _draw_ghosts(
    image: Image,
    mask: NDArray[np.uint16],
    optics: Optics,
    x: Floats,
    y: Floats,
    flux: Floats,
    faintest: float,
    visible: float,
) -> None:
    """Add the ghosts of stars bright enough that a pixel of the ghost holds more than ``faintest``."""
    ny, nx = image.shape
    for ghost in optics.ghosts:
        radius = ghost.radius / optics.pixel_scale
        hole = radius * ghost.hole
        level = flux * ghost.fraction / (np.pi * (radius**2 - hole**2))
        gx = 0.5 * (nx - 1) - ghost.reflection * (x - 0.5 * (nx - 1))
        gy = 0.5 * (ny - 1) - ghost.reflection * (y - 0.5 * (ny - 1))
        for k in np.flatnonzero((level > faintest) & np.isfinite(gx)):
            _draw_annulus(image, mask, gx[k], gy[k], hole, radius, float(level[k]), visible)


def _draw_annulus(
    image: Image,
    mask: NDArray[np.uint16],
    x: float,
    y: float,
    inner: float,
    outer: float,
    level: float,
    visible: float,
) -> None:
    box = _box(x - outer - 1, x + outer + 1, y - outer - 1, y + outer + 1, image.shape)
    if box is None:
        return
    py, px = np.arange(box[0].start, box[0].stop) - y, np.arange(box[1].start, box[1].stop) - x
    r = np.hypot(py[:, None], px[None, :]).astype(np.float32)
    own = level * (np.clip(outer - r + 0.5, 0, 1) - (np.clip(inner - r + 0.5, 0, 1) if inner > 0 else 0))
    image[box] += own
    mask[box][own > visible] |= np.uint16(TruthBit.GHOST)


# --- trails ---


def _draw_trails(
    image: Image,
    mask: NDArray[np.uint16],
    trails: Trails,
    wcs: WCS,
    optics: Optics,
    psf: Callable[[Floats, Floats], Floats],
    zero_point: float,
    transmission: Floats | None,
    visible: float,
) -> Table:
    """Add the trails; return their table: those that cross the frame."""
    ny, nx = image.shape
    scale = optics.pixel_scale
    x, y = sky_to_pixel(wcs, trails.ra.ravel(), trails.dec.ravel())
    x, y = x.reshape(-1, 2), y.reshape(-1, 2)
    rows = []
    for k in range(len(trails.id)):
        if not (np.isfinite(x[k]).all() and np.isfinite(y[k]).all()):
            continue
        middle = np.clip(x[k].mean(keepdims=True), 0, nx - 1), np.clip(y[k].mean(keepdims=True), 0, ny - 1)
        fwhm2 = psf(*middle)[0]
        per_pixel = 10.0 ** (-0.4 * (trails.surface_magnitude[k] - zero_point)) * scale
        period = float(trails.tumbling_period[k]) / scale

        along = _trail_light(per_pixel, period, x[k], y[k], transmission, image.shape)
        width = float(trails.width[k]) / scale
        start, end = (x[k, 0], y[k, 0]), (x[k, 1], y[k, 1])
        drawn = draw_line(
            image, mask, start, end, fwhm2 * optics.moffat_ratio**2, optics.beta, along, width, visible,
            TruthBit.TRAIL,
        )  # fmt: skip
        if drawn:
            rows.append((trails.id[k], *start, *end, np.hypot(width, np.linalg.det(fwhm2) ** 0.25)))
    columns = np.array(rows, float).reshape(-1, 6).T
    named = dict(zip(("x1", "y1", "x2", "y2", "width"), columns[1:]))
    return _table(id=np.array([row[0] for row in rows], np.int64), **named)


def _trail_light(
    level: float, period: float, x: Floats, y: Floats, transmission: Floats | None, shape: tuple[int, ...]
) -> Callable[[Floats], Floats]:
    """The light per pixel of a trail from (x[0], y[0]) to (x[1], y[1]), as a function of the way along it.

    A tumbling body shows between a tenth and the whole of its light. The PSF's smoothing of that along the
    trail is left out: it matters where a period is shorter than about three FWHM.
    """
    nodes = np.linspace(0.0, 1.0, 513)
    air = np.ones(len(nodes))
    if transmission is not None:
        ny, nx = shape
        air = at_points(transmission, (ny, nx), x[0] + nodes * (x[1] - x[0]), y[0] + nodes * (y[1] - y[0]))
    nodes = nodes * np.hypot(x[1] - x[0], y[1] - y[0])

    def along(s: Floats) -> Floats:
        phase = 0.55 + 0.45 * np.cos(2 * np.pi * s / period) if period > 0 else 1.0
        return level * phase * np.interp(s, nodes, air)

    return along


# --- galaxies ---


def _draw_galaxies(
    image: Image,
    galaxies: Galaxies,
    wcs: WCS,
    x: Floats,
    y: Floats,
    flux: Floats,
    moffat: Floats,
    beta: float,
    landed: Floats,
) -> None:
    """Add Sérsic galaxies to ``image``, and to ``landed`` what fraction of each fell on it."""
    if len(x) == 0:
        return
    shapes = galaxy_matrices(galaxies, sky_jacobian(wcs, galaxies.ra, galaxies.dec))
    size = _galaxy_size(galaxies.sersic_index, shapes, flux, moffat, beta)
    kind = np.searchsorted(GALAXY_SIZES, np.minimum(size, GALAXY_SIZES[-1]))
    for which in np.unique(kind):
        n = GALAXY_SIZES[which]
        rows = np.flatnonzero((kind == which) & _touches(x, y, n // 2, image.shape))
        step = max(1, CHUNK // n**2)
        for at in range(0, len(rows), step):
            k = rows[at : at + step]
            ix, iy = np.rint(x[k]).astype(int), np.rint(y[k]).astype(int)
            stamps = galaxy_stamps(
                galaxies.sersic_index[k], shapes[k], moffat[k], beta, x[k] - ix, y[k] - iy, n
            )
            stamps *= flux[k, None, None].astype(np.float32)
            landed[k] = _add(image, stamps, ix - n // 2, iy - n // 2) / flux[k]


def galaxy_matrices(galaxies: Galaxies, jacobian: Floats) -> Floats:
    """Return G (pixels²), (n, 2, 2): pᵀ G⁻¹ p = 1 on the ellipse that holds half of the light."""
    angle = np.radians(galaxies.position_angle)
    east, north = np.sin(angle), np.cos(angle)
    major = np.stack([east, north], axis=-1) * galaxies.half_light_radius[:, None]
    minor = np.stack([north, -east], axis=-1) * (galaxies.half_light_radius * galaxies.axis_ratio)[:, None]
    axes = jacobian @ np.stack([major, minor], axis=-1)
    return axes @ axes.transpose(0, 2, 1)


def _galaxy_size(sersic_index: Floats, shapes: Floats, flux: Floats, moffat: Floats, beta: float) -> Floats:
    """Side of the stamp that holds all but 0.5 % of a galaxy, or ten electrons."""
    from scipy.special import gammaincinv

    lost = np.clip(10.0 / np.maximum(flux, 1e-9), 5e-3, 0.2)
    b = gammaincinv(2 * sersic_index, 0.5)
    radius = (gammaincinv(2 * sersic_index, 1 - lost) / b) ** sersic_index
    radius *= np.sqrt(np.linalg.eigvalsh(shapes)[:, -1])
    blur = np.sqrt(np.linalg.eigvalsh(moffat)[:, -1]) * np.sqrt(lost ** (1 / (1 - beta)) - 1)
    return 2.0 * np.hypot(radius, blur) + 4.0


# --- shared ---


def _near(rows: Rows, wcs: WCS, shape: tuple[int, int], margin: float) -> tuple[Rows, Floats, Floats]:
    """The rows that shine and whose centre is within ``margin`` of the frame, and their pixels."""
    if np.isnan(rows.magnitude).any():
        first = rows.id[np.isnan(rows.magnitude)][0]
        raise ValueError(f"source {first} has magnitude NaN; what does not shine has magnitude inf")
    x, y = sky_to_pixel(wcs, rows.ra, rows.dec)
    with np.errstate(invalid="ignore"):
        chosen = (x > -margin) & (x < shape[1] + margin) & (y > -margin) & (y < shape[0] + margin)
    chosen &= rows.magnitude < np.inf
    values = {column.name: getattr(rows, column.name)[chosen] for column in fields(rows)}
    return type(rows)(**values), x[chosen], y[chosen]


def _touches(x: Floats, y: Floats, radius: float, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    r = radius + 1
    return (x > -r) & (x < shape[1] - 1 + r) & (y > -r) & (y < shape[0] - 1 + r)


def _box(x0: float, x1: float, y0: float, y1: float, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
    """Slices (y, x) of the frame within these bounds; None when nothing is."""
    left, right = max(0, int(np.floor(x0))), min(shape[1], int(np.ceil(x1)) + 1)
    low, high = max(0, int(np.floor(y0))), min(shape[0], int(np.ceil(y1)) + 1)
    return None if left >= right or low >= high else (slice(low, high), slice(left, right))


def _add(
    image: Image, stamps: NDArray[np.float32], left: NDArray[np.int64], low: NDArray[np.int64]
) -> Floats:
    """Add stamps whose first pixels are (left, low) to ``image``; return what fell on it (electrons)."""
    ny, nx = image.shape
    n_y, n_x = stamps.shape[1:]
    landed = np.empty(len(stamps))
    inside = (left >= 0) & (low >= 0) & (left + n_x <= nx) & (low + n_y <= ny)
    whole = stamps.sum(axis=(1, 2), dtype=np.float64)
    for k, (x, y) in enumerate(zip(left.tolist(), low.tolist())):
        if inside[k]:
            image[y : y + n_y, x : x + n_x] += stamps[k]
            landed[k] = whole[k]
            continue
        x0, x1, y0, y1 = max(0, -x), min(n_x, nx - x), max(0, -y), min(n_y, ny - y)
        if x0 >= x1 or y0 >= y1:
            landed[k] = 0.0
            continue
        part = stamps[k, y0:y1, x0:x1]
        image[y + y0 : y + y1, x + x0 : x + x1] += part
        landed[k] = part.sum(dtype=np.float64)
    return landed


def _table(**columns: NDArray[np.generic]) -> Table:
    from astropy.table import Table

    return Table(columns)
