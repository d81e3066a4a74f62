"""Where light falls and how it is spread: projection, distortion and point spread function of a telescope.

A point source is an elliptical Moffat, I(p) ∝ (1 + pᵀ M⁻¹ p)^(−β) (Moffat 1969), integrated over pixels.
M is the sum of seeing, aberrations and guiding jitter, each a matrix of squared widths: second moments add
under convolution, whatever the profile. Its diagonal is in pixels²; x is first in matrices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from ..config import Config
from ..frame import unit_coordinates

if TYPE_CHECKING:
    from astropy.wcs import WCS

#: FWHM of a Gaussian of unit rms.
FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))

_ARCSEC = 1.0 / 3600.0


class Spikes(Config):
    """Diffraction at the spider: rays through every bright star, in addition to the light of its PSF.

    One vane makes two opposite rays. Along a ray the light falls as 1 / (1 + (r / length)²).
    """

    number: int = Field(default=4, ge=0, le=16)  # rays
    angle: float = 45.0  # degrees of the first from +x towards +y
    fraction: float = Field(default=0.004, ge=0, lt=0.5)  # of the star's flux, all rays together
    length: float = Field(default=20.0, gt=0)  # arcsec


class Ghost(Config):
    """A reflection between chip and filter, out of focus: a disc with the shadow of the secondary mirror.

    It is centred at c − reflection · (p − c) for a star at p, c being the middle of the chip.
    """

    fraction: float = Field(default=5e-4, ge=0, lt=0.5)  # of the star's flux, in addition to it
    radius: float = Field(default=45.0, gt=0)  # arcsec
    hole: float = Field(default=0.35, ge=0, lt=1)  # inner radius / radius
    reflection: float = 0.9  # 1: mirrored through the middle; −1: around the star itself


class Optics(Config):
    """A telescope's optics. (u, v) are the frame's unit coordinates, −1 and 1 at its edges."""

    pixel_scale: float = Field(gt=0)  # arcsec
    parity: Literal["normal", "flipped"] = "normal"  # normal: north up, east left
    rotation: float = 0.0  # degrees: position angle of +y, east of north, to which an exposure's is added
    beta: float = Field(default=3.5, gt=1.5, le=8)  # of the Moffat
    aberration: float = Field(default=0.6, ge=0)  # arcsec FWHM at the middle, added to seeing in quadrature
    tilt: tuple[float, float] = (0.12, -0.08)  # aberration · (1 + tilt · (u, v) + curvature · (u² + v²) / 2)
    curvature: float = Field(default=0.8, ge=0)
    ellipticity: tuple[float, float] = (0.02, -0.01)  # (a² − b²) / (a² + b²) along x and along 45°
    radial_ellipticity: float = Field(default=0.05, ge=-0.5, le=0.5)  # more of it, outwards, at the corner
    # SIP: arcsec of displacement along x (a) and y (b) at i + j powers of degrees from the middle: "i_j"
    distortion_a: dict[str, float] = Field(
        default={"3_0": 5.0, "1_2": 4.6, "2_0": 0.5, "1_1": -0.3, "0_2": 0.2}
    )
    distortion_b: dict[str, float] = Field(
        default={"0_3": 4.4, "2_1": 4.9, "0_2": -0.4, "1_1": 0.2, "2_0": 0.3}
    )
    spikes: Spikes = Spikes()
    ghosts: tuple[Ghost, ...] = (Ghost(),)

    @field_validator("distortion_a", "distortion_b")
    @classmethod
    def _powers(cls, terms: dict[str, float]) -> dict[str, float]:
        for name in terms:
            i, _, j = name.partition("_")
            if not (i.isdigit() and j.isdigit() and 2 <= int(i) + int(j) <= 5):
                raise ValueError(f"term {name!r}, expected 'i_j' with 2 ≤ i + j ≤ 5")
        return terms

    @field_validator("ellipticity")
    @classmethod
    def _is_an_ellipse(cls, ellipticity: tuple[float, float]) -> tuple[float, float]:
        if not np.hypot(*ellipticity) < 0.5:  # with the radial part it stays below one
            raise ValueError(f"ellipticity {ellipticity}, expected a length below 0.5")
        return ellipticity

    @property
    def moffat_ratio(self) -> float:
        """r0 / FWHM of the Moffat: 1 / (2 √(2^(1/β) − 1))."""
        return float(0.5 / np.sqrt(2.0 ** (1.0 / self.beta) - 1.0))


def make_wcs(optics: Optics, ra: float, dec: float, rotation: float, shape: tuple[int, int]) -> WCS:
    """Return the true TAN-SIP WCS of a frame of ``shape`` (ny, nx) whose middle looks at (ra, dec) degrees.

    ``rotation`` (degrees) is added to that of the optics; the sum is the position angle of +y.
    """
    from astropy.wcs import WCS, Sip

    theta = np.radians(optics.rotation + rotation)
    scale = optics.pixel_scale * _ARCSEC
    cd = scale * np.array([[-np.cos(theta), np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    if optics.parity == "flipped":
        cd[:, 0] *= -1.0
    wcs = WCS(naxis=2)
    sip = bool(optics.distortion_a or optics.distortion_b)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"] if sip else ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]  # FITS: the middle of the first pixel is 1
    wcs.wcs.cd = cd
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.array_shape = shape
    if sip:
        a, b = (_sip(terms, optics) for terms in (optics.distortion_a, optics.distortion_b))
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def sky_to_pixel(
    wcs: WCS, ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return pixels (x, y) of ICRS degrees, from 0, to 1e-7 pixels; NaN where the sky is behind.

    SIP is given from pixels to the sky; its inverse is found by iteration, which converges where the
    distortion is small against the distance from the middle: within a few degrees.
    """
    ra, dec = np.asarray(ra, float), np.asarray(dec, float)
    if ra.size == 0:
        return np.empty(ra.shape), np.empty(ra.shape)
    with np.errstate(invalid="ignore"):
        fx, fy = wcs.wcs_world2pix(ra, dec, 0)
        # wcslib continues TAN onto the far side of the sky, as if it were in front
        ra0, dec0 = np.radians(wcs.wcs.crval)
        front = np.sin(np.radians(dec)) * np.sin(dec0) + np.cos(np.radians(dec)) * np.cos(dec0) * np.cos(
            np.radians(ra) - ra0
        )
        fx, fy = np.where(front > 0, fx, np.nan), np.where(front > 0, fy, np.nan)
        x, y = fx.copy(), fy.copy()
        if wcs.sip is None:
            return x, y
        # Far outside, where the polynomial means nothing, the plain projection is as good as any.
        cx, cy = wcs.wcs.crpix  # half of the frame
        near = np.hypot(fx - cx, fy - cy) < 3.0 * np.hypot(cx, cy)
        px, py = fx[near], fy[near]
        for _ in range(50):
            qx, qy = wcs.pix2foc(px, py, 0)
            step_x, step_y = fx[near] - qx, fy[near] - qy
            px, py = px + step_x, py + step_y
            if px.size == 0 or max(np.abs(step_x).max(), np.abs(step_y).max()) < 1e-7:
                break
        x[near], y[near] = px, py
    return x, y


def sky_jacobian(wcs: WCS, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return d(x, y) / d(east, north) in pixels per arcsec at ICRS degrees, (n, 2, 2), with distortion."""
    step = 0.5 * _ARCSEC
    columns = []
    for east, north in ((step, 0.0), (0.0, step)):
        d_ra, d_dec = east / np.cos(np.radians(dec)), north
        x1, y1 = sky_to_pixel(wcs, ra + d_ra, dec + d_dec)
        x0, y0 = sky_to_pixel(wcs, ra - d_ra, dec - d_dec)
        columns.append(np.stack([x1 - x0, y1 - y0], axis=-1))
    return np.stack(columns, axis=-1)  # the two points are an arcsec apart


def psf_at(
    optics: Optics,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    shape: tuple[int, int],
    *,
    seeing_fwhm: float,
    jitter: float = 0.0,
    jitter_angle: float = 0.0,
) -> NDArray[np.float64]:
    """Return the PSF's matrix of squared FWHM (pixels²) at pixels (x, y), shape (n, 2, 2), x first.

    ``seeing_fwhm`` is in arcsec; ``jitter`` is the rms of the guiding in arcsec along ``jitter_angle``
    (degrees from +x towards +y). Times :attr:`Optics.moffat_ratio` squared it is the M of the Moffat. Before
    integration over the pixel. Outside of the frame it is that of the nearest edge.
    """
    u, v = unit_coordinates(x, y, shape)
    u, v = np.clip(np.atleast_1d(u), -1, 1), np.clip(np.atleast_1d(v), -1, 1)
    r2 = u * u + v * v
    grown = 1.0 + optics.tilt[0] * u + optics.tilt[1] * v + 0.5 * optics.curvature * r2
    fwhm2 = (seeing_fwhm**2 + (optics.aberration * grown) ** 2) / optics.pixel_scale**2
    # r² (cos 2φ, sin 2φ) = (u² − v², 2uv): elongated away from the middle
    e1 = optics.ellipticity[0] + 0.5 * optics.radial_ellipticity * (u * u - v * v)
    e2 = optics.ellipticity[1] + 0.5 * optics.radial_ellipticity * 2.0 * u * v
    fwhm2 = fwhm2 / np.sqrt(1.0 - e1**2 - e2**2)  # the area stays
    moved = (FWHM_PER_SIGMA * jitter / optics.pixel_scale) ** 2
    c, s = np.cos(np.radians(jitter_angle)), np.sin(np.radians(jitter_angle))
    xx, yy = fwhm2 * (1 + e1) + moved * c * c, fwhm2 * (1 - e1) + moved * s * s
    xy = fwhm2 * e2 + moved * c * s
    return np.stack([xx, xy, xy, yy], axis=-1).reshape(-1, 2, 2)


def psf_fwhm(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the geometric mean FWHM (pixels) of matrices from :func:`psf_at`, shape (n,)."""
    return np.linalg.det(matrix) ** 0.25


def _sip(terms: dict[str, float], optics: Optics) -> NDArray[np.float64]:
    """The SIP matrix in pixels of terms in arcsec at powers of degrees."""
    powers = {name: tuple(map(int, name.split("_"))) for name in terms}
    order = max([sum(p) for p in powers.values()], default=2)
    out = np.zeros((order + 1, order + 1))
    for name, (i, j) in powers.items():
        out[i, j] = terms[name] / optics.pixel_scale * (optics.pixel_scale * _ARCSEC) ** (i + j)
    return out
