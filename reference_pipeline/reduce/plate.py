"""The plate: from pixels to the sky through a tangent plane and a polynomial, and as TAN-SIP.

The standard coordinates (ξ, η) of a star, in degrees east and north on the plane that touches the sphere at
(ra0, dec0), are polynomials of the pixel offset from the reference pixel:

    ξ = Σ a_ij u^i v^j,  η = Σ b_ij u^i v^j,  u = (x − x0) / h,  v = (y − y0) / h,  1 ≤ i + j ≤ order.

That is TAN-SIP written so that a fit is linear: CD is the part with i + j = 1, and SIP's A and B are CD⁻¹
times the rest (Shupe+ 2005). The constant is taken up by the tangent point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from ..catalogues.sphere import directions, unit_vectors
from ..psf import exponents

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Plate:
    """A solution; the fields are those of the formula above."""

    ra0: float  # degrees
    dec0: float
    x0: float  # 0-based pixel
    y0: float
    h: float  # pixels
    coefficients: Floats  # (2, n_terms), degrees, in the order of psf.exponents without the constant

    @property
    def order(self) -> int:
        """Degree of the polynomial; 1 is a plain TAN."""
        return degree_of(self.coefficients.shape[1])

    @property
    def linear(self) -> Floats:
        """CD: (2, 2), degrees per pixel, [[∂ξ/∂x, ∂ξ/∂y], [∂η/∂x, ∂η/∂y]]."""
        return self.coefficients[:, :2] / self.h

    @property
    def pixel_scale(self) -> float:
        """Arcsec per pixel at the reference pixel."""
        return 3600.0 * float(np.sqrt(abs(np.linalg.det(self.linear))))

    def plane(self, x: Any, y: Any) -> Floats:
        """(2, n): ξ and η of pixels, degrees."""
        u, v = (np.asarray(x, float) - self.x0) / self.h, (np.asarray(y, float) - self.y0) / self.h
        return self.coefficients @ terms(u, v, self.order)

    def vectors(self, x: Any, y: Any) -> Floats:
        """(n, 3): unit vectors on the sky of pixels."""
        xi, eta = np.radians(self.plane(x, y))
        east, north, out = tangent_basis(self.ra0, self.dec0)
        v = xi[:, None] * east + eta[:, None] * north + out
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    def sky(self, x: Any, y: Any) -> tuple[Floats, Floats]:
        """Right ascension and declination of pixels, degrees."""
        return directions(self.vectors(np.atleast_1d(x), np.atleast_1d(y)))

    def pixels(self, vectors: Floats) -> Floats:
        """(2, n): pixels of unit vectors (n, 3), by Newton's method with the linear part as derivative.

        NaN for what lies behind the tangent plane or has no pixel within reach of the polynomial.
        """
        target = standard_coordinates(vectors, self.ra0, self.dec0)
        inverse = np.linalg.inv(self.linear)
        offset = inverse @ target
        with np.errstate(all="ignore"):  # far outside the frame a polynomial may run away
            for _ in range(12):
                rest = target - self.plane(self.x0 + offset[0], self.y0 + offset[1])
                offset = offset + inverse @ rest
            left = np.hypot(*(inverse @ rest))
        return np.where(left < 0.01, offset + np.array([[self.x0], [self.y0]]), np.nan)

    def header(self, shape: tuple[int, int]) -> fits.Header:
        """TAN-SIP keywords; the inverse SIP polynomial (AP, BP) is fitted over ``shape`` (ny, nx)."""
        header = fits.Header()
        suffix = "-SIP" if self.order > 1 else ""
        header["WCSAXES"] = 2
        header["CTYPE1"], header["CTYPE2"] = f"RA---TAN{suffix}", f"DEC--TAN{suffix}"
        header["CUNIT1"] = header["CUNIT2"] = "deg"
        header["CRVAL1"], header["CRVAL2"] = self.ra0, self.dec0
        header["CRPIX1"], header["CRPIX2"] = self.x0 + 1.0, self.y0 + 1.0
        for row in (0, 1):
            for column in (0, 1):
                header[f"CD{row + 1}_{column + 1}"] = self.linear[row, column]
        header["RADESYS"] = "ICRS"
        if self.order > 1:
            forward = np.linalg.solve(self.linear, self.coefficients[:, 2:])
            powers = exponents(self.order)[1:]
            _set_sip(header, ("A", "B"), forward, powers[2:], self.h, self.order)
            backward = self._inverse_sip(shape)
            _set_sip(header, ("AP", "BP"), backward, powers, self.h, self.order)
        return header

    def wcs(self, shape: tuple[int, int]) -> WCS:
        """The plate as astropy has it, for a frame of ``shape`` (ny, nx)."""
        wcs = WCS(self.header(shape))
        wcs.pixel_shape = shape[::-1]
        return wcs

    def _inverse_sip(self, shape: tuple[int, int]) -> Floats:
        """AP and BP in units of h: least squares over a grid that reaches 2 % over the frame's edges."""
        ny, nx = shape
        x, y = np.meshgrid(np.linspace(-0.02 * nx, 1.02 * nx, 25), np.linspace(-0.02 * ny, 1.02 * ny, 25))
        pixels = np.stack([x.ravel(), y.ravel()])
        seen = np.linalg.solve(self.linear, self.plane(*pixels))  # U = u + f(u, v), pixels
        wanted = pixels - [[self.x0], [self.y0]] - seen
        design = terms(seen[0] / self.h, seen[1] / self.h, self.order)
        return np.linalg.lstsq(design.T, wanted.T, rcond=None)[0].T


def _set_sip(
    header: fits.Header,
    names: tuple[str, str],
    coefficients: Floats,
    powers: list[tuple[int, int]],
    h: float,
    order: int,
) -> None:
    for name, row in zip(names, coefficients):
        header[f"{name}_ORDER"] = order
        for (i, j), value in zip(powers, row):
            header[f"{name}_{i}_{j}"] = value / h ** (i + j)


def terms(u: Floats, v: Floats, order: int) -> Floats:
    """(n_terms, n): u^i v^j for 1 ≤ i + j ≤ order."""
    return np.stack([u**i * v**j for i, j in exponents(order)[1:]])


def degree_of(n_terms: int) -> int:
    """The degree of a polynomial in two variables with ``n_terms`` terms beside the constant."""
    return next(d for d in range(1, 20) if (d + 1) * (d + 2) // 2 - 1 == n_terms)


def tangent_basis(ra0: float, dec0: float) -> Floats:
    """(3, 3): the directions east, north and out of the sphere at (ra0, dec0), degrees."""
    a, d = np.radians(ra0), np.radians(dec0)
    return np.array(
        [
            [-np.sin(a), np.cos(a), 0.0],
            [-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)],
            [np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)],
        ]
    )


def standard_coordinates(vectors: Floats, ra0: float, dec0: float) -> Floats:
    """(2, n): ξ and η (degrees) of unit vectors (n, 3); NaN for those more than 90° from the point."""
    east, north, out = tangent_basis(ra0, dec0) @ vectors.T
    depth = np.where(out > 0, out, np.nan)
    return np.degrees(np.stack([east / depth, north / depth]))


def fit_plate(x: Floats, y: Floats, vectors: Floats, weights: Floats, *, order: int, near: Plate) -> Plate:
    """Return the plate of ``order`` through pixels (x, y) and the directions ``vectors`` (n, 3).

    Weighted linear least squares. ``near`` gives the reference pixel, and a tangent point that the fit moves
    to where the reference pixel looks. There must be at least as many stars as terms, and the constant.
    """
    u, v = (x - near.x0) / near.h, (y - near.y0) / near.h
    design = np.vstack([np.ones_like(u), terms(u, v, order)])
    # normal equations: in u and v of order one they lose nothing, and are one product of matrices
    weighted = design * weights
    normal = weighted @ design.T
    ra0, dec0 = near.ra0, near.dec0
    for _ in range(4):  # the constant falls by the square of its size in radians each time
        plane = standard_coordinates(vectors, ra0, dec0)
        solution = np.linalg.lstsq(normal, weighted @ plane.T, rcond=None)[0].T
        xi, eta = np.radians(solution[:, 0])
        east, north, out = tangent_basis(ra0, dec0)
        ra, dec = directions(xi * east + eta * north + out)
        ra0, dec0 = float(ra), float(dec)
    return Plate(ra0, dec0, near.x0, near.y0, near.h, solution[:, 1:])


def stiff_fit(x: Floats, y: Floats, vectors: Floats, weights: Floats, *, near: Plate) -> Plate:
    """Return ``near`` moved to few stars: two or three shift it; four or more turn and scale it as well.

    Its shape stays, distortion included. Weighted linear least squares of ξ + iη on the plane of ``near``,
    ξ' + iη' = a (ξ + iη) + b, a = 1 for fewer than four stars.
    """
    given = near.plane(x, y)
    wanted = standard_coordinates(vectors, near.ra0, near.dec0)
    z, w = given[0] + 1j * given[1], wanted[0] + 1j * wanted[1]
    root = np.sqrt(weights)
    if len(x) < 4:
        a, b = 1.0 + 0.0j, np.average(w - z, weights=weights)
    else:
        a, b = np.linalg.lstsq(np.stack([z, np.ones_like(z)], axis=1) * root[:, None], w * root, rcond=None)[
            0
        ]
    east, north, out = tangent_basis(near.ra0, near.dec0)
    ra, dec = directions(np.radians(b.real) * east + np.radians(b.imag) * north + out)
    turn = np.array([[a.real, -a.imag], [a.imag, a.real]])
    # east and north at the new tangent point are turned against the old ones by the convergence of meridians
    here = tangent_basis(float(ra), float(dec))[:2]
    convergence = here @ np.stack([east, north], axis=1)
    left, _, right = np.linalg.svd(convergence)
    return Plate(float(ra), float(dec), near.x0, near.y0, near.h, left @ right @ turn @ near.coefficients)


def plate_like(wcs: WCS, shape: tuple[int, int]) -> Plate:
    """Return the plate of the lowest order that follows ``wcs`` to 0.05 pixels over a frame of ``shape``.

    At most order 5, which is then as near as a plate comes.
    """
    ny, nx = shape
    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(0, nx - 1, 11), np.linspace(0, ny - 1, 11)))
    plates = (plate_from_wcs(wcs, shape, order=order) for order in range(1, 6))
    wanted = unit_vectors(*_sky(wcs, x, y))
    for plate in plates:
        apart = np.linalg.norm(plate.vectors(x, y) - wanted, axis=1)
        if apart.max() < 0.05 * np.radians(plate.pixel_scale / 3600.0):
            break
    return plate


def _sky(wcs: WCS, x: Any, y: Any) -> tuple[Floats, Floats]:
    """Right ascension and declination (ICRS, degrees) of pixels, whatever the system of ``wcs``."""
    sky = wcs.pixel_to_world(x, y).icrs
    return sky.ra.deg, sky.dec.deg


def plate_from_wcs(wcs: WCS, shape: tuple[int, int], *, order: int = 1) -> Plate:
    """Return a plate of ``order`` that agrees with ``wcs`` over a frame of ``shape`` (ny, nx)."""
    ny, nx = shape
    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(0, nx - 1, 15), np.linspace(0, ny - 1, 15)))
    ra, dec = _sky(wcs, x, y)
    x0, y0 = (nx - 1) / 2.0, (ny - 1) / 2.0
    ra0, dec0 = _sky(wcs, x0, y0)
    start = Plate(float(ra0), float(dec0), x0, y0, max(shape) / 2.0, np.zeros((2, 2)))
    return fit_plate(x, y, unit_vectors(ra, dec), np.ones_like(x), order=order, near=start)
