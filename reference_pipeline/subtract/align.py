"""The science frame on the template's grid, and how well they lie on each other (Sun+ 2022, 3.2).

Both WCS say where a pixel goes. Everything that is told in pixels goes with it: positions and shapes of the
sources, the PSF, the spatial term of the zero point. Whether the WCS are right is seen by the stars, measured
again on the aligned image and held against the template's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import sep
from astropy.table import Table
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from ..arrays import to_host
from ..catalogues.sphere import separation
from ..config import Align
from ..errors import SubtractionError
from ..frame import UNUSABLE, Decision, Frame, MaskBit, ZeroPoint, unit_coordinates
from ..psf import Psf, exponents
from ..reduce.sources import quadratic
from .resample import Mapping, Planes, cubic, exact_places, lanczos_weights, map_between, resample

Floats = NDArray[np.float64]
Pair = tuple[Floats, Floats]

STAGE = "align"
_SAME_GRID = 1e-3  # pixels; nearer than that nothing is gained by resampling
_MIN_SNR = 20.0  # of stars that the offset is measured with
_MAX_STARS = 2000  # the brightest
_PSF_PLACES = 7  # along each axis, where the PSF is taken over
_PSF_PHASES = 16  # of the grid, between two pixels
_GAUSSIAN_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))  # of a FWHM


@dataclass(frozen=True)
class Offset:
    """Where the aligned frame's stars lie, less where the template's do; pixels."""

    dx: float  # medians
    dy: float
    scatter_x: float  # robust
    scatter_y: float
    n_stars: int  # matched
    n_possible: int  # of the list that has fewer


def align(science: Frame, template: Frame, *, config: Align) -> Frame:
    """Return ``science`` on the pixels of ``template``: its shape and WCS; OFF_IMAGE where it does not reach.

    Fluxes stay those of the science frame, electrons. The step's decision has ``overlap`` (fraction of the
    template's grid), ``n_stars``, ``dx``, ``dy``, ``scatter_x``, ``scatter_y`` (pixels, matched stars) and
    ``noise_factor`` (resample.py). A frame that lies on the template's grid already is not resampled.

    Raises SubtractionError: "other-band", "no-wcs", "no-sources", "other-field", "no-stars", "misaligned".
    """
    started = time.perf_counter()
    _check_pair(science, template)
    mapping = _map(science, template, config)
    is_same = science.shape == template.shape and _is_identity(mapping)
    decision: dict[str, Decision] = {"template": template.id, "resampled": not is_same}
    changes: dict[str, object] = {}
    aligned, noise_factor = science, 1.0
    if not is_same:
        planes = Planes(science.data, science.variance, science.mask, science.background)
        planes, noise_factor = resample(planes, mapping, template.shape, tile=config.tile)
        changes = _expressed(science, template, mapping, planes)
        aligned = replace(science, **changes)  # type: ignore[arg-type]
    off = (to_host(aligned.mask) & np.uint16(MaskBit.OFF_IMAGE)) != 0
    overlap = 1.0 - float(off.mean())
    _check_overlap(science, template, overlap, config)
    offset = measure_offset(aligned, template, config=config)
    decision |= {
        "overlap": round(overlap, 4),
        "n_stars": offset.n_stars,
        "dx": round(offset.dx, 4),
        "dy": round(offset.dy, 4),
        "scatter_x": round(offset.scatter_x, 4),
        "scatter_y": round(offset.scatter_y, 4),
        "noise_factor": round(noise_factor, 4),
        "map_error": float(f"{mapping.error:.2g}"),
    }
    _check_offset(science, template, offset, config)
    return science.after(STAGE, started, decision, **changes)


def measure_offset(aligned: Frame, template: Frame, *, config: Align) -> Offset:
    """Return how far apart the stars of two frames on one grid are, both measured on their pixels.

    Windowed centres, as find_sources takes them, of the sources with S/N above 20 that no flag is set for;
    matched where each is the other's nearest within ``config.match_radius``. NaN without a match.
    """
    mask = to_host(aligned.mask)
    x, y = _centres(aligned, _good_stars(aligned, mask))
    rows = _good_stars(template, mask)
    assert template.sources is not None
    there = np.stack([np.asarray(template.sources[name], float)[rows] for name in ("x", "y")], axis=1)
    here = np.stack([x, y], axis=1)
    n_possible = min(len(here), len(there))
    if not n_possible:
        return Offset(np.nan, np.nan, np.nan, np.nan, 0, 0)
    distance, nearest = cKDTree(there).query(here, distance_upper_bound=config.match_radius)
    matched = np.flatnonzero(np.isfinite(distance))
    back = cKDTree(here).query(there[nearest[matched]])[1]
    matched = matched[back == matched]
    if not len(matched):
        return Offset(np.nan, np.nan, np.nan, np.nan, 0, n_possible)
    apart = here[matched] - there[nearest[matched]]
    middle = np.median(apart, axis=0)
    scatter = 1.4826 * np.median(np.abs(apart - middle), axis=0)
    dx, dy, scatter_x, scatter_y = (float(v) for v in (*middle, *scatter))
    return Offset(dx, dy, scatter_x, scatter_y, len(matched), n_possible)


def psf_on(psf: Psf, mapping: Mapping, shape: tuple[int, int]) -> Psf:
    """Return the PSF of an image resampled with ``mapping`` to ``shape``, as a polynomial of that grid.

    At some places, the PSF is smoothed as Lanczos interpolation smooths it, on average over the positions
    between pixels that occur there, then drawn in the new pixels; the polynomial is fitted to those.
    """
    rows, columns, (ny, nx) = *_inner_places(mapping, psf.shape, shape), shape
    u, v = unit_coordinates(columns, rows, shape)
    # places that are few or in a row do not carry the degree
    degree = min(psf.degree, len(np.unique(rows)) - 1, len(np.unique(columns)) - 1)
    smoothing = _smoothing_by_phase(psf.images.shape[1], psf.oversampling)
    cell = max(ny, nx) / _PSF_PLACES
    images = np.stack(
        [_psf_at(psf, mapping, float(x), float(y), cell, smoothing) for x, y in zip(columns, rows)]
    )
    design = np.stack([u**i * v**j for i, j in exponents(degree)], axis=1)
    terms: Floats = np.asarray(np.linalg.lstsq(design, images.reshape(len(images), -1), rcond=None)[0], float)
    return Psf(terms.reshape(-1, *images.shape[1:]), degree, psf.oversampling, shape)


def zero_point_on(
    zero_point: ZeroPoint, mapping: Mapping, old_shape: tuple[int, int], shape: tuple[int, int]
) -> ZeroPoint:
    """Return the zero point with its spatial term in the coordinates of the new grid."""
    rows, columns = _inner_places(mapping, old_shape, shape)
    x, y, _ = mapping.places(rows, columns)
    terms = quadratic(*unit_coordinates(columns, rows, shape))
    # a strip of overlap does not tell all six: the smallest solution serves there
    solution = np.linalg.lstsq(terms, zero_point.offset(x, y, old_shape), rcond=1e-9)[0]
    c0, c1, c2, c3, c4, c5 = (float(c) for c in solution)
    return replace(zero_point, spatial=(c0, c1, c2, c3, c4, c5))


# ---- refusals ----


def _check_pair(science: Frame, template: Frame) -> None:
    if science.exposure.band != template.exposure.band:
        raise SubtractionError(
            science.id,
            STAGE,
            "other-band",
            f"band {science.exposure.band}, of the template {template.exposure.band}",
        )
    for frame in (science, template):
        if frame.wcs is None:
            raise SubtractionError(science.id, STAGE, "no-wcs", f"{frame.id} has no WCS")
        if frame.sources is None or frame.background is None:
            raise SubtractionError(science.id, STAGE, "no-sources", f"{frame.id} has no sources")


def _map(science: Frame, template: Frame, config: Align) -> Mapping:
    """The map, if there is an overlap at all: with other skies it is not asked for."""
    (ra, dec), (ra_t, dec_t) = _centre(science), _centre(template)
    apart = float(separation(ra, dec, ra_t, dec_t))
    if not apart < 45.0:
        raise SubtractionError(
            science.id, STAGE, "other-field", f"{apart:.1f} degrees from template {template.id}"
        )
    assert science.wcs is not None
    assert template.wcs is not None
    mapping = map_between(science.wcs, template.wcs, science.shape, template.shape)
    ny, nx = science.shape
    rows, columns = (np.linspace(0, n - 1, 65) for n in template.shape)
    x, y, _ = mapping.at(rows, columns)
    inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    if inside.mean() < 0.9 * config.min_overlap:  # counted exactly afterwards
        _check_overlap(science, template, float(inside.mean()), config)
    return mapping


def _check_overlap(science: Frame, template: Frame, overlap: float, config: Align) -> None:
    if not overlap >= config.min_overlap:
        raise SubtractionError(
            science.id,
            STAGE,
            "other-field",
            f"covers {overlap:.1%} of template {template.id}, need {config.min_overlap:.0%}",
        )


def _check_offset(science: Frame, template: Frame, offset: Offset, config: Align) -> None:
    if offset.n_possible < config.min_stars:
        raise SubtractionError(
            science.id,
            STAGE,
            "no-stars",
            f"{offset.n_possible} stars in the overlap, need {config.min_stars}",
        )
    found = (
        f"{offset.n_stars} of {offset.n_possible} stars within {config.match_radius:g} pixels of those of "
        f"{template.id}, by ({offset.dx:.3f}, {offset.dy:.3f}) ± "
        f"({offset.scatter_x:.3f}, {offset.scatter_y:.3f}) pixels"
    )
    is_near = np.hypot(offset.dx, offset.dy) <= config.max_offset
    is_tight = max(offset.scatter_x, offset.scatter_y) <= config.max_scatter
    if offset.n_stars < config.min_stars or not (is_near and is_tight):
        raise SubtractionError(
            science.id,
            STAGE,
            "misaligned",
            f"{found}; need {config.min_stars}, {config.max_offset:g} and {config.max_scatter:g}",
        )


def _is_identity(mapping: Mapping) -> bool:
    rows, columns = ((np.arange(n) - 1.0) * mapping.step for n in mapping.x.shape)
    apart = np.hypot(mapping.x - columns, mapping.y - rows[:, None])
    return bool(np.all(apart < _SAME_GRID))


def _centre(frame: Frame) -> tuple[float, float]:
    ny, nx = frame.shape
    assert frame.wcs is not None
    ra, dec = frame.wcs.all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
    return float(ra), float(dec)


# ---- what goes with the pixels ----


def _expressed(science: Frame, template: Frame, mapping: Mapping, planes: Planes) -> dict[str, object]:
    """Everything of ``science`` that changes with the grid."""
    shape = template.shape
    scale = 1.0 / np.sqrt(float(np.median(mapping.area)))  # old pixels in new ones
    quality = science.quality
    if quality is not None:
        quality = replace(
            quality,
            fwhm=quality.fwhm * scale,
            background=quality.background / scale**2,
            background_rms=quality.background_rms / scale**2,
        )
    zero_point = science.zero_point
    return {
        "data": planes.data,
        "variance": planes.variance,
        "mask": planes.mask,
        "background": planes.background,
        "wcs": template.wcs,
        "sources": _moved(science, template, mapping),
        "psf": None if science.psf is None else psf_on(science.psf, mapping, shape),
        "zero_point": zero_point and zero_point_on(zero_point, mapping, science.shape, shape),
        "quality": quality,
    }


def _moved(science: Frame, template: Frame, mapping: Mapping) -> Table:
    """The sources that lie on the template's grid: positions, axes and widths in its pixels."""
    assert science.sources is not None
    assert science.wcs is not None
    assert template.wcs is not None
    table = science.sources.copy()
    for x_name, y_name in (("x", "y"), ("x_barycentre", "y_barycentre"), ("x_psf", "y_psf")):
        if x_name not in table.colnames:
            continue
        old = np.array(table[x_name], float), np.array(table[y_name], float)
        new = np.full((2, len(table)), np.nan)
        known = np.isfinite(old[0]) & np.isfinite(old[1])
        new[:, known] = exact_places(template.wcs, science.wcs, old[0][known], old[1][known], template.shape)
        table[x_name], table[y_name] = new
    ny, nx = template.shape
    x, y = np.asarray(table["x"]), np.asarray(table["y"])
    inside = (x >= -0.5) & (x <= nx - 0.5) & (y >= -0.5) & (y <= ny - 0.5)
    table = table[inside]
    _, _, _, jacobian = _local(mapping, x[inside], y[inside])
    to_new = np.linalg.inv(jacobian) if len(table) else jacobian
    scale = np.sqrt(np.abs(np.linalg.det(to_new)))
    for name in ("a", "b", "fwhm", "half_light_radius"):
        table[name] = np.asarray(table[name]) * scale
    theta = np.asarray(table["theta"], float)
    axis = np.einsum("nij,jn->in", to_new, np.stack([np.cos(theta), np.sin(theta)]))
    angle = np.arctan2(axis[1], axis[0])
    table["theta"] = (angle + np.pi / 2) % np.pi - np.pi / 2
    return table


def _local(mapping: Mapping, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Places, areas and Jacobians (n, 2, 2), ∂(old x, old y)/∂(x, y), at single places of the new grid."""
    middle, plus_x, plus_y = (mapping.places(y + b, x + a) for a, b in ((0, 0), (1, 0), (0, 1)))
    by_x, by_y = ([p[k] - middle[k] for k in (0, 1)] for p in (plus_x, plus_y))
    jacobian = np.stack([np.stack([by_x[k], by_y[k]], axis=-1) for k in (0, 1)], axis=-2)
    return (*middle, jacobian)


def _inner_places(
    mapping: Mapping, old_shape: tuple[int, int], shape: tuple[int, int]
) -> tuple[Floats, Floats]:
    """Rows and columns of a grid of places that lie on both images; the middle where there is none."""
    ny, nx = shape
    fine = [np.linspace(0, n - 1, 33) for n in shape]
    x, y, _ = mapping.at(*fine)
    inside = (x > -0.5) & (x < old_shape[1] - 0.5) & (y > -0.5) & (y < old_shape[0] - 0.5)
    if not inside.any():
        return np.array([(ny - 1) / 2]), np.array([(nx - 1) / 2])
    i, j = np.nonzero(inside)
    rows = np.linspace(fine[0][i.min()], fine[0][i.max()], _PSF_PLACES)
    columns = np.linspace(fine[1][j.min()], fine[1][j.max()], _PSF_PLACES)
    grid_rows, grid_columns = (a.ravel() for a in np.meshgrid(rows, columns, indexing="ij"))
    return grid_rows, grid_columns


# ---- the PSF ----


def _smoothing_by_phase(size: int, oversampling: int) -> Floats:
    """Matrices (n_phases, size, size) along an axis: what interpolation at a phase makes of the samples.

    A value at X is Σ w(f − k) I(n + k), n the pixel below X and f = X − n; the pixel n + k shows the source's
    profile at X − (f − k). Hence out(t) = Σ_k w(f − k) P(t − (f − k)), P between its samples by Keys.
    """
    phases = (np.arange(_PSF_PHASES) + 0.5) / _PSF_PHASES
    phases = np.append(phases, 0.0)  # exact, for grids that differ by whole pixels
    weights = lanczos_weights(phases)
    at = np.arange(size)
    matrices = np.zeros((len(phases), size, size))
    for k in range(6):
        shift = (phases - (k - 2)) * oversampling
        distance = at[:, None] - shift[:, None, None] - at
        matrices += weights[k][:, None, None] * cubic(distance)
    return matrices


def _psf_at(psf: Psf, mapping: Mapping, x: float, y: float, cell: float, smoothing: Floats) -> Floats:
    """The PSF of the resampled image at one of its places, its sum oversampling²."""
    side = np.rint(np.linspace(-0.5, 0.5, 24) * cell)
    old_x, old_y, _ = mapping.at(
        np.clip(np.rint(y) + side, 0, (mapping.x.shape[0] - 3) * mapping.step),
        np.clip(np.rint(x) + side, 0, (mapping.x.shape[1] - 3) * mapping.step),
    )
    along_y, along_x = (np.tensordot(_phase_shares(a), smoothing, 1) for a in (old_y, old_x))
    centre_x, centre_y, _, jacobian = _local(mapping, np.array([x]), np.array([y]))
    smoothed = along_y @ psf.at(float(centre_x[0]), float(centre_y[0])) @ along_x.T
    size = smoothed.shape[0]
    offset = np.arange(size) - size // 2
    dy, dx = np.meshgrid(offset, offset, indexing="ij")
    (xx, xy), (yx, yy) = jacobian[0]
    at = np.stack([yx * dx + yy * dy, xx * dx + xy * dy]) + size // 2
    drawn = map_coordinates(smoothed, at, order=3, mode="constant")
    return np.asarray(drawn * (psf.oversampling**2 / drawn.sum()))


def _phase_shares(places: Floats) -> Floats:
    """How often each phase of ``_smoothing_by_phase`` occurs, sum 1."""
    phase = places.ravel() % 1.0
    is_whole = np.minimum(phase, 1.0 - phase) < 1e-3
    bins = np.where(is_whole, _PSF_PHASES, np.minimum((phase * _PSF_PHASES).astype(int), _PSF_PHASES - 1))
    return np.bincount(bins, minlength=_PSF_PHASES + 1) / bins.size


# ---- the stars ----


def _good_stars(frame: Frame, mask: NDArray[np.uint16]) -> NDArray[np.intp]:
    """Rows of the sources with S/N above 20, unflagged, on usable pixels of ``mask``, brightest first."""
    table = frame.sources
    assert table is not None
    ny, nx = frame.shape
    i, j = (np.rint(np.asarray(table[name], float)).astype(int) for name in ("y", "x"))
    good = (np.asarray(table["snr"]) > _MIN_SNR) & (np.asarray(table["flags"]) == 0)
    good &= (i >= 0) & (i < ny) & (j >= 0) & (j < nx)
    good &= (np.asarray(table["mask"]) & int(UNUSABLE | MaskBit.TRAIL)) == 0
    rows = np.flatnonzero(good)
    usable = (mask[i[rows], j[rows]] & np.uint16(UNUSABLE)) == 0
    rows = rows[usable]
    return rows[np.argsort(-np.asarray(table["flux_auto"])[rows], kind="stable")][:_MAX_STARS]


def _centres(frame: Frame, rows: NDArray[np.intp]) -> Pair:
    """Windowed centres on the frame's pixels, near where its table has the sources; the sound ones."""
    table = frame.sources
    assert table is not None
    x, y, radius = (np.asarray(table[n], float)[rows] for n in ("x", "y", "half_light_radius"))
    data, background, mask = (to_host(a) for a in (frame.data, frame.background, frame.mask))
    pixels = np.ascontiguousarray(data - background, dtype=np.float32)
    bad = ((mask & np.uint16(UNUSABLE)) != 0) | ~np.isfinite(pixels)
    pixels[bad] = 0.0
    new_x, new_y, _ = sep.winpos(pixels, x, y, 2.0 * _GAUSSIAN_SIGMA * radius, mask=bad)
    sound = np.isfinite(new_x) & np.isfinite(new_y) & (np.hypot(new_x - x, new_y - y) < 1.0)
    return new_x[sound], new_y[sound]
