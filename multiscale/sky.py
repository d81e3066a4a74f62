"""The tangent-plane projection of a cutout (specification 2.6).

A survey's own solution, of whatever form, becomes a function from pixels to the sky; here it is replaced
by the gnomonic projection that agrees with it at the shared corner, and the error over the footprint is
measured. Right ascension, declination and CD in degrees; pixels 0-based.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

PixelToWorld = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
_STEP_PX = 0.5  # of the derivative at the corner
_GRID = 9  # points a side at which the error is measured


def project(ra: Any, dec: Any, ra0: float, dec0: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the gnomonic (xi, eta) of (ra, dec) about (ra0, dec0), all in degrees."""
    a, d = np.radians(np.asarray(ra, float) - ra0), np.radians(np.asarray(dec, float))
    s0, c0 = np.sin(np.radians(dec0)), np.cos(np.radians(dec0))
    cos_distance = s0 * np.sin(d) + c0 * np.cos(d) * np.cos(a)
    xi = np.cos(d) * np.sin(a) / cos_distance
    eta = (c0 * np.sin(d) - s0 * np.cos(d) * np.cos(a)) / cos_distance
    return np.degrees(xi), np.degrees(eta)


def deproject(xi: Any, eta: Any, ra0: float, dec0: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the (ra, dec) of gnomonic (xi, eta) about (ra0, dec0), all in degrees, ra in [0, 360)."""
    x, y = np.radians(np.asarray(xi, float)), np.radians(np.asarray(eta, float))
    s0, c0 = np.sin(np.radians(dec0)), np.cos(np.radians(dec0))
    a = np.arctan2(x, c0 - y * s0)
    dec = np.arctan2(s0 + y * c0, np.hypot(x, c0 - y * s0))  # right across a pole too
    return _in_circle(ra0 + np.degrees(a)), np.degrees(dec)


def _in_circle(ra: Any) -> np.ndarray:
    """Return degrees in [0, 360): the remainder of the smallest negative numbers rounds to 360."""
    ra = np.mod(ra, 360.0)
    return np.where(ra < 360.0, ra, 0.0 * ra)


def as_pixel_to_world(wcs: Any) -> PixelToWorld:
    """Return a function (x, y) -> (ra, dec) from an astropy WCS, a survey's Wcs, or such a function.

    An astropy WCS is used with its distortion (``all_pix2world``).
    """
    if hasattr(wcs, "all_pix2world"):
        return lambda x, y: tuple(wcs.all_pix2world(x, y, 0))
    if hasattr(wcs, "pixel_to_world"):
        return wcs.pixel_to_world
    if callable(wcs):
        return wcs
    raise TypeError(f"found {type(wcs).__name__}, expected an astropy WCS or a function (x, y) -> (ra, dec)")


@np.errstate(invalid="ignore", over="ignore")  # the rules refuse what is not finite
def fit_sky(wcs: Any, corner_x: float, corner_y: float, span_px: int) -> dict[str, float | None]:
    """Return the fields of ``multiscale.Sky`` for a cutout whose shared corner is at the given pixel.

    ``maxError`` is the largest distance in arcsec between ``wcs`` and the projection on a grid over the
    footprint of ``span_px`` pixels. The CD matrix is rounded to binary32 first, as it travels.
    """
    pixel_to_world = as_pixel_to_world(wcs)
    ra0, dec0 = (float(v[0]) for v in pixel_to_world(np.array([corner_x]), np.array([corner_y])))
    ra0 = float(_in_circle(ra0))
    steps = _STEP_PX * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    xi, eta = project(*pixel_to_world(corner_x + steps[:, 0], corner_y + steps[:, 1]), ra0, dec0)
    cd = np.array([[xi[0] - xi[1], xi[2] - xi[3]], [eta[0] - eta[1], eta[2] - eta[3]]]) / (2 * _STEP_PX)
    cd = cd.astype(np.float32).astype(float)
    u = np.linspace(-span_px / 2, span_px / 2, _GRID)
    dx, dy = (a.ravel() for a in np.meshgrid(u, u))
    xi, eta = project(*pixel_to_world(corner_x + dx, corner_y + dy), ra0, dec0)
    error = np.hypot(cd[0, 0] * dx + cd[0, 1] * dy - xi, cd[1, 0] * dx + cd[1, 1] * dy - eta) * 3600
    return {
        "ra": ra0,
        "dec": dec0,
        "cd11": cd[0, 0],
        "cd12": cd[0, 1],
        "cd21": cd[1, 0],
        "cd22": cd[1, 1],
        "maxError": float(np.float32(error.max())),
    }
