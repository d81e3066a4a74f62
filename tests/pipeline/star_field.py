"""A small star field with known truth: Moffat stars on a sky, for the tests of what is measured on frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS

from reference_pipeline.catalogues import ReferenceStars
from reference_pipeline.frame import Exposure, Frame, unit_coordinates

BETA = 3.5
OVERSAMPLING = 5
HALF = 24  # pixels; 1e-4 of the flux of a 3.5 pixel Moffat lies outside


@dataclass(frozen=True)
class Truth:
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray  # electrons, of the whole profile


def moffat(x, y, fwhm, ellipticity=0.0, angle=0.0, half=HALF, beta=BETA):
    """Pixel-integrated Moffat profile of unit total flux, (x, y) off the centre pixel of a stamp."""
    n = OVERSAMPLING
    side = ((np.arange((2 * half + 1) * n) + 0.5) / n - 0.5) - half
    dx, dy = np.meshgrid(side - x, side - y)
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = -dx * np.sin(angle) + dy * np.cos(angle)
    q = 1.0 - ellipticity
    alpha = fwhm / 2.0 / np.sqrt(2.0 ** (1.0 / beta) - 1.0)
    r2 = (along**2 * q + across**2 / q) / alpha**2
    profile = (beta - 1.0) / (np.pi * alpha**2) * (1.0 + r2) ** -beta
    size = 2 * half + 1
    return profile.reshape(size, n, size, n).mean(axis=(1, 3))


def add_stars(image, truth, *, fwhm=3.5, ellipticity=0.0, varying=0.0):
    """Draw the stars; ``varying`` widens the PSF by that fraction from the frame's centre to its corners."""
    ny, nx = image.shape
    for x, y, flux in zip(truth.x, truth.y, truth.flux):
        j, i = round(x), round(y)
        u, v = unit_coordinates(x, y, image.shape)
        local = fwhm * (1.0 + 0.5 * varying * (u**2 + v**2))
        stretch = ellipticity + 0.1 * varying * u
        stamp = flux * moffat(x - j, y - i, local, stretch, 0.6)
        rows = slice(max(0, i - HALF), min(ny, i + HALF + 1))
        columns = slice(max(0, j - HALF), min(nx, j + HALF + 1))
        image[rows, columns] += stamp[
            rows.start - i + HALF : rows.stop - i + HALF, columns.start - j + HALF : columns.stop - j + HALF
        ]


def random_stars(rng, shape, n, *, flux=(300.0, 3e5), slope=1.0, margin=0):
    """``n`` stars, uniform over the frame, fluxes between the limits with log N ∝ −slope log flux."""
    ny, nx = shape
    low, high = flux
    q = rng.uniform(0, 1, n)
    power = -slope
    fluxes = (low**power + q * (high**power - low**power)) ** (1.0 / power)
    return Truth(rng.uniform(margin, nx - 1 - margin, n), rng.uniform(margin, ny - 1 - margin, n), fluxes)


def field_wcs(shape, ra=150.0, dec=30.0, scale=1.0):
    """A tangential WCS of ``scale`` arcsec, north up."""
    wcs = WCS(naxis=2)
    ny, nx = shape
    wcs.wcs.crpix = [(nx + 1) / 2, (ny + 1) / 2]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    return wcs


def make_frame(rng, truth, shape, *, sky=200.0, read_noise=5.0, throughput=None, fwhm=3.5, ellipticity=0.0,
               varying=0.0, band="r"):  # fmt: skip
    """A calibrated frame of the stars: electrons, variance of sky, sources and readout."""
    clean = np.zeros(shape)
    add_stars(clean, truth, fwhm=fwhm, ellipticity=ellipticity, varying=varying)
    if throughput is not None:
        clean *= throughput
    data = rng.poisson(clean + sky) + rng.normal(0, read_noise, shape)
    variance = np.maximum(data, 0) + read_noise**2
    exposure = Exposure("field", "test", "science", 60000.0, 60.0, band=band, ra=150.0, dec=30.0)
    return Frame(
        exposure,
        data.astype(np.float32),
        variance.astype(np.float32),
        np.zeros(shape, np.uint16),
        wcs=field_wcs(shape),
    )


class Catalogue:
    """The stars of a truth as a reference catalogue."""

    def __init__(self, frame, truth, zero_point, *, error=0.005, rng=None, color=None):
        ra, dec = frame.wcs.all_pix2world(truth.x, truth.y, 0)
        magnitude = zero_point - 2.5 * np.log10(truth.flux)
        if rng is not None:
            magnitude = magnitude + rng.normal(0, error, len(magnitude))
        magnitudes = {"r": magnitude}
        errors = {"r": np.full(len(magnitude), error)}
        if color is not None:
            magnitudes["g"] = magnitude + color
            errors["g"] = errors["r"]
        self.stars = ReferenceStars(
            np.asarray(ra), np.asarray(dec), magnitudes=magnitudes, magnitude_errors=errors
        )

    def cone(self, ra, dec, radius):
        cosine = np.cos(np.radians(dec))
        near = np.hypot((self.stars.ra - ra) * cosine, self.stars.dec - dec) < radius
        return self.stars.select(near)
