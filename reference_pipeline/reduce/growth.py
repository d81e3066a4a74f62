"""What an aperture misses of a star's light, from the wings of bright stars.

Where the PSF is wider, more is missed: growth is linear in the local FWHM. A free surface would need hundreds
of bright isolated stars to be as sure.

A neighbour of 2 % of a bright star's flux, a few FWHM from it, is lost in the star's isophotes and is in no
list of sources, and 2 % is half of what the aperture misses. So the pixels of a star's wings are held against
those at the same distance on its other sides, and what stands out is left out.
"""

from __future__ import annotations

import numpy as np
import sep
from astropy.table import Table
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.spatial import cKDTree

from ..frame import unit_coordinates
from .sources import quadratic

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]

_MAX_STARS = 300  # the brightest tell the wings; more only cost time
_CONTAMINATION = 0.03  # of a star's flux that known neighbours may have
_N_RINGS = 8  # that the wings are summed in
_CLIP = 3.0  # sigma, of the pixels of a ring


def growth_beyond(
    table: Table, pixels: Pixels, variance: Pixels, mask: Mask, flux: Floats, radius: float, outer: float
) -> tuple[Floats, int]:
    """Return what the light of a point source between ``radius`` and ``outer`` (pixels) is of its ``flux``
    within ``radius``, at each source of the table, and how many stars told it.

    ``pixels`` (electrons above the background), ``variance`` (electrons²) and ``mask`` (True: not to be used)
    are the frame's, (ny, nx); ``flux`` (n,) is in electrons.
    """
    x, y = np.asarray(table["x"], float), np.asarray(table["y"], float)
    bright = _growth_stars(table, outer)
    lost = mask | _standing_out(pixels, variance, mask, x[bright], y[bright], radius, outer)
    wings, error = _wings(pixels, variance, lost, x[bright], y[bright], radius, outer)
    seen = np.isfinite(wings) & np.isfinite(error)
    bright, wings, error = bright[seen], wings[seen], error[seen]
    if not len(bright):
        return np.zeros(len(table)), 0
    surface = np.stack([np.ones(len(table)), _relative_width(table, pixels.shape)], axis=1)
    if len(bright) < 10 or not surface[:, 1].any():
        surface = surface[:, :1]
    area = np.pi * (outer**2 - radius**2)
    return surface @ _fit_growth(surface[bright], flux[bright], wings, error, area), len(bright)


def _growth_stars(table: Table, radius: float) -> NDArray[np.intp]:
    """Rows of the brightest calibration stars with few known sources within ``radius``.

    In a crowded field there are too few of those, and the least disturbed have to do.
    """
    rows = np.flatnonzero(np.asarray(table["is_calibration"]))
    positions = np.stack([table["x"], table["y"]], axis=1)
    flux = np.asarray(table["flux_auto"])
    rows = rows[np.argsort(-flux[rows])][: 4 * _MAX_STARS]
    # a neighbour's wings reach in from beyond the outer radius
    neighbours = cKDTree(positions).query_ball_point(positions[rows], 1.3 * radius)
    contamination = np.array([flux[near].sum() / flux[row] - 1.0 for row, near in zip(rows, neighbours)])
    isolated = contamination < _CONTAMINATION
    if isolated.sum() < 10:
        isolated = np.argsort(np.argsort(contamination)) < 10
    return rows[isolated][:_MAX_STARS]


def _standing_out(
    pixels: Pixels, variance: Pixels, mask: Mask, x: Floats, y: Floats, radius: float, outer: float
) -> Mask:
    """Pixels beyond 3 sigma of the others in a ring one pixel wide about one of the places, and their
    neighbours; sigma is the ring's own, which has the PSF's asymmetry and the slope, or the noise."""
    out = np.zeros(pixels.shape, bool)
    half = int(np.ceil(outer)) + 1
    for at_x, at_y in zip(x, y):
        i, j = round(at_y), round(at_x)
        here = np.s_[max(i - half, 0) : i + half + 1, max(j - half, 0) : j + half + 1]
        part, noise = pixels[here], variance[here]
        ny, nx = part.shape
        rows, columns = np.ogrid[here[0].start : here[0].start + ny, here[1].start : here[1].start + nx]
        ring = np.floor(np.hypot(rows - at_y, columns - at_x) - radius).astype(int) + 1
        use = (ring >= 0) & (ring <= np.ceil(outer - radius) + 1) & ~mask[here]
        found = np.zeros(part.shape, bool)
        for k in np.unique(ring[use]):
            of_ring = use & (ring == k)
            values = part[of_ring]
            apart = np.abs(values - np.median(values))
            sigma = max(1.4826 * np.median(apart), np.sqrt(np.median(noise[of_ring])))
            found[of_ring] = apart > _CLIP * sigma
        out[here] |= binary_dilation(found) & use
    return out


def _wings(
    pixels: Pixels, variance: Pixels, lost: Mask, x: Floats, y: Floats, radius: float, outer: float
) -> tuple[Floats, Floats]:
    """What stars have between two radii, and its error (electrons); NaN where a ring is lost whole.

    In rings, each the mean of what is left of it: wings fall steeply outward, and are nearly alike around.
    """
    total, square = np.zeros(len(x)), np.zeros(len(x))
    edges = np.geomspace(radius, outer, _N_RINGS + 1)
    for inner, end in zip(edges, edges[1:]):
        with np.errstate(divide="ignore", invalid="ignore"):
            light, error, _ = sep.sum_circann(pixels, x, y, inner, end, var=variance, mask=lost, subpix=0)
        total += light  # sep makes up for what is masked
        square += np.square(error)
    return total, np.sqrt(square)


def _relative_width(table: Table, shape: tuple[int, ...]) -> Floats:
    """The FWHM at each source less the frame's, relative to it, from a quadratic surface; 0 for few stars."""
    ny, nx = shape
    rows = np.flatnonzero(np.asarray(table["is_calibration"]))
    if len(rows) < 60:
        return np.zeros(len(table))
    terms = quadratic(*unit_coordinates(np.asarray(table["x"]), np.asarray(table["y"]), (ny, nx)))
    width = np.asarray(table["fwhm"])
    # the stars were chosen within 3 sigma of such a surface: no need to clip again
    solution = np.linalg.lstsq(terms[rows], width[rows], rcond=None)[0]
    return np.asarray(terms @ solution / np.median(width[rows]) - 1.0)


def _fit_growth(surface: Floats, flux: Floats, wings: Floats, wings_error: Floats, area: float) -> Floats:
    """Return the coefficients of wings / flux as a surface, clipped.

    A second term takes up what the background is off by, the same for every star: bright and faint stars
    together tell it from the wings.
    """
    design = surface * flux[:, None]
    has_background = len(flux) >= 20
    if has_background:
        design = np.concatenate([design, np.full((len(flux), 1), area)], axis=1)
    # beside the photon noise, wings differ by some tenths of a percent from star to star
    error = np.sqrt(np.square(wings_error) + np.square(0.003 * flux))
    kept = np.ones(len(flux), bool)
    for _ in range(10):
        weight = kept / error
        solution = np.linalg.lstsq(design * weight[:, None], wings * weight, rcond=None)[0]
        pull = (wings - design @ solution) / error
        sigma = 1.4826 * np.median(np.abs(pull[kept]))
        updated = np.abs(pull) <= 3.0 * max(sigma, 0.1)
        if np.array_equal(updated, kept) or updated.sum() <= design.shape[1]:
            break
        kept = updated
    return np.asarray(solution[: surface.shape[1]])
