"""Positions in the database: the cell each lies in, the cells of a cone, and what an exposure covers.

Angles are degrees (ICRS). Cells are those of HEALPix at order 29, nested (Gorski+ 2005, ApJ 622, 759): a cell
of a lower order is a range of them, so that a cone is a few ranges of one indexed column, at the poles and
across RA 0 as anywhere.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy_healpix.core import healpix_to_lonlat, lonlat_to_healpix, neighbours
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from astropy.wcs import WCS

_ORDER = 29
_SEARCH_ORDER = 16  # cells of 3.2 arcsec; finer ones would not make a search faster
_ORDERS_UP = 3
_LEAST_RADIUS = 1e-5  # degrees; cells are known to a few milliarcsec at the poles
_CELL = 58.6  # degrees, side of a cell of order 0


def cells_of(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.int64]:
    """Return the cell of each position."""
    cells = lonlat_to_healpix(
        np.asarray(ra, float) * u.deg, np.asarray(dec, float) * u.deg, 2**_ORDER, order="nested"
    )
    return np.asarray(cells, np.int64)


def cell_ranges(ra: float, dec: float, radius: float) -> list[tuple[int, int]]:
    """Return (first, last) of the ranges of cells that hold the cone, and a little around it.

    Of the cells as wide as the radius, those whose centre lies no farther from the cone than a cell reaches;
    looked for among the children of the cell, three orders up, that the position lies in and of those around
    it. (astropy_healpix.healpix_cone_search is not used: of small cones it misses cells, 3 of 1000.)
    """
    reach = max(radius, _LEAST_RADIUS)
    order = int(np.clip(np.log2(_CELL / reach), 0, _SEARCH_ORDER))
    start = order - _ORDERS_UP
    if start < 1:  # around a cell of order 0 the neighbours are not all there is
        start, parents = 0, np.arange(12)
    else:
        own = lonlat_to_healpix(ra * u.deg, dec * u.deg, 2**start, order="nested")
        with np.errstate(invalid="ignore"):  # of its marks for a neighbour that is not there
            beside = neighbours(own, 2**start, order="nested")
        parents = np.unique(np.append(beside[beside >= 0], own))
    n_children = 4 ** (order - start)
    cells = (parents[:, None] * n_children + np.arange(n_children)).ravel()
    lon, lat = healpix_to_lonlat(cells, 2**order, order="nested")
    apart = separations(vectors_of(lon.to_value(u.deg), lat.to_value(u.deg)), vectors_of(ra, dec))
    found = np.sort(cells[apart <= reach + _cell_radius(order)]).tolist()
    size = 4 ** (_ORDER - order)
    ranges: list[tuple[int, int]] = []
    for cell in found:
        first, last = cell * size, (cell + 1) * size - 1
        if ranges and ranges[-1][1] + 1 == first:
            ranges[-1] = (ranges[-1][0], last)
        else:
            ranges.append((first, last))
    return ranges


def _cell_radius(order: int) -> float:
    """From the centre of a cell to its farthest corner, degrees, at most (as max_pixrad of HEALPix's C++)."""
    nside = 2**order
    phi = np.pi / (4.0 * nside)
    z = 2.0 / 3.0
    flat = np.sqrt(1.0 - z * z)
    center = np.array([flat * np.cos(phi), flat * np.sin(phi), z])
    cap = (1.0 - 1.0 / nside) ** 2 / 3.0
    corner = np.array([np.sqrt(cap * (2.0 - cap)), 0.0, 1.0 - cap])
    return float(separations(center, corner))


def vectors_of(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.float64]:
    """Return the unit vectors of positions, (..., 3)."""
    a, d = np.deg2rad(np.asarray(ra, float)), np.deg2rad(np.asarray(dec, float))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def position_of(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return RA, in [0, 360), and Dec of vectors (..., 3) of any length."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    ra = np.rad2deg(np.arctan2(y, x)) % 360.0
    return np.where(ra == 360.0, 0.0, ra), np.rad2deg(np.arctan2(z, np.hypot(x, y)))


def separations(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angles between unit vectors (..., 3), degrees; exact for the smallest ones."""
    chords = np.linalg.norm(first - second, axis=-1)
    return np.rad2deg(2.0 * np.arcsin(np.clip(0.5 * chords, 0.0, 1.0)))


def offsets(
    origins: NDArray[np.float64], vectors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far ``vectors`` lie east and north of ``origins``, degrees; of a few arcsec at most."""
    east, north = _east_north(origins)
    return np.rad2deg((vectors * east).sum(axis=-1)), np.rad2deg((vectors * north).sum(axis=-1))


def moved(
    origins: NDArray[np.float64], east: NDArray[np.float64], north: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the unit vectors ``east`` and ``north`` (degrees, small) of ``origins``."""
    e, n = _east_north(origins)
    vectors = origins + np.deg2rad(east)[..., None] * e + np.deg2rad(north)[..., None] * n
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _east_north(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The directions of east and north at unit vectors (..., 3); at a pole, those of RA 0."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    across = np.hypot(x, y)
    at_pole = across == 0
    cosine = np.where(at_pole, 1.0, x / np.where(at_pole, 1.0, across))
    sine = np.where(at_pole, 0.0, y / np.where(at_pole, 1.0, across))
    east = np.stack([-sine, cosine, np.zeros_like(z)], axis=-1)
    return east, np.stack([-z * cosine, -z * sine, across], axis=-1)


def footprint_of(wcs: WCS, shape: tuple[int, int]) -> tuple[list[list[float]], float, float, float]:
    """Return the corners [ra, dec] of an image of ``shape`` (ny, nx), its centre and its radius.

    The radius, degrees, is from the centre to the farthest corner. Edges are taken as great circles: with the
    distortion of a survey camera they are off by a few pixels, which decides nothing but whether an upper
    limit is stated there.
    """
    ny, nx = shape
    x = np.array([-0.5, nx - 0.5, nx - 0.5, -0.5, 0.5 * (nx - 1)])
    y = np.array([-0.5, -0.5, ny - 0.5, ny - 0.5, 0.5 * (ny - 1)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        ra, dec = wcs.all_pix2world(x, y, 0)
    vectors = vectors_of(ra, dec)
    radius = float(separations(vectors[:4], vectors[4]).max())
    corners = [[float(a), float(d)] for a, d in zip(ra[:4], dec[:4])]
    return corners, float(ra[4]), float(dec[4]), radius


def covers(footprint: list[Any], ra: float, dec: float) -> bool:
    """Whether a position lies within a footprint: corners [ra, dec] of a convex part of the sky, in order."""
    # Plain numbers: it is asked of every exposure near an object, and for four numpy takes ten times as long.
    x, y, z = _vector(ra, dec)
    corners = [_vector(a, d) for a, d in footprint]
    ahead = sum(p * x + q * y + r * z for p, q, r in corners)
    sides = [  # on which side of the great circle through two corners
        (b * f - c * e) * x + (c * d - a * f) * y + (a * e - b * d) * z
        for (a, b, c), (d, e, f) in zip(corners, [*corners[1:], corners[0]])
    ]
    return ahead > 0 and (min(sides) >= 0 or max(sides) <= 0)  # and not on the other side of the sky


def _vector(ra: float, dec: float) -> tuple[float, float, float]:
    a, d = math.radians(ra), math.radians(dec)
    return math.cos(d) * math.cos(a), math.cos(d) * math.sin(a), math.sin(d)
