"""Differences with known point sources, for the tests of detection: as subtract would make them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve
from star_field import field_wcs, moffat

from reference_pipeline.frame import Exposure, Frame, Quality, ZeroPoint
from reference_pipeline.psf import Psf
from reference_pipeline.subtract.difference import Difference
from reference_pipeline.subtract.kernel import Kernel
from reference_pipeline.subtract.point_source import PointSource

SKY = 200.0  # electrons² per pixel of the target
OVERSAMPLING = 4
ZERO_POINT = ZeroPoint(25.0, 0.01, "r", (0.0, 0.05, 0.0, 0.0, 0.0, 0.0))


def moffat_psf(shape, fwhm, *, half=20, ellipticity=0.0):
    """The pixel-integrated Moffat profile of star_field, as a Psf."""
    n = OVERSAMPLING
    samples = np.zeros(((2 * half + 1) * n, (2 * half + 1) * n))
    for i in range(n):
        for j in range(n):
            # a source moved by -j / n puts at each pixel the profile j / n further on
            samples[i::n, j::n] = moffat(-j / n, -i / n, fwhm, ellipticity, 0.6, half=half)
    middle = half * n
    reach = middle - n
    image = samples[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    return Psf((image * n * n / image.sum())[None], 0, n, shape)


def fwhm_of(psf):
    """Full width at half of the peak (pixels), the mean of both axes, the pixels' own width included."""
    image, middle = psf.images[0], psf.images.shape[1] // 2
    widths = []
    for profile in (image[middle], image[:, middle]):
        half = profile[middle] / 2
        right = np.interp(-half, -profile[middle:], np.arange(len(profile) - middle))
        left = np.interp(-half, -profile[middle::-1], np.arange(middle + 1))
        widths.append((left + right) / psf.oversampling)
    return float(np.mean(widths))


def draw(shape, psf, x, y, flux):
    """What sources put into an image; drawn by the PSF's own samples, which the tests of psf.py judge."""
    from reference_pipeline.reduce.psf import psf_stamps

    half = (psf.images.shape[1] // psf.oversampling - 1) // 2
    image = np.zeros((shape[0] + 2 * half, shape[1] + 2 * half))
    for begin in range(0, len(x), 200):
        part = slice(begin, begin + 200)
        stamps, _, _ = psf_stamps(psf, x[part], y[part], half)
        columns, rows = np.rint(x[part]).astype(int), np.rint(y[part]).astype(int)
        for stamp, row, column, f in zip(stamps, rows, columns, flux[part]):
            image[row : row + 2 * half + 1, column : column + 2 * half + 1] += f * stamp
    return image[half:-half, half:-half]


def science_frame(shape, psf, fwhm, *, sky=SKY):
    exposure = Exposure("field", "test", "science", 60000.0, 60.0, band="r", ra=150.0, dec=30.0)
    return Frame(
        exposure,
        np.zeros(shape, np.float32),
        np.full(shape, sky, np.float32),
        np.zeros(shape, np.uint16),
        wcs=field_wcs(shape),
        psf=psf,
        zero_point=ZERO_POINT,
        quality=Quality(fwhm, 0.0, sky, np.sqrt(sky)),
    )


def make_difference(
    rng, shape, fwhm, *, x=(), y=(), flux=(), added=None, template_noise=0.0, mask=None, ellipticity=0.0
):
    """(difference, science frame): noise and point sources on nothing.

    ``template_noise`` is the variance of a template that was convolved with a Gaussian of 1.2 pixels;
    ``added`` is any other light (electrons), with its photon noise.
    """
    psf = moffat_psf(shape, fwhm, ellipticity=ellipticity)
    x, y, flux = (np.asarray(a, float) for a in (x, y, flux))
    clean = draw(shape, psf, x, y, flux) + (0.0 if added is None else added)
    side = np.arange(-4, 5)
    gaussian = np.exp(-(side[:, None] ** 2 + side**2) / 2 / 1.2**2)
    kernel = Kernel((gaussian / gaussian.sum())[None], 0, np.zeros(1), 0, shape)
    photons = np.abs(clean)
    variance = SKY + photons
    data = clean + rng.normal(0, 1, shape) * np.sqrt(variance)
    if template_noise:
        template = rng.normal(0, np.sqrt(template_noise), shape)
        data -= fftconvolve(template, kernel.images[0], mode="same")
        variance = variance + template_noise * np.square(kernel.images[0]).sum()
    target = SKY + photons
    mask = np.zeros(shape, np.uint16) if mask is None else mask
    data[mask != 0] = 0.0
    half = round(3.5 * fwhm) + 4
    # the definitions in subtract/score.py, for one kernel, over the whole frame at once
    transform = np.abs(np.fft.fft2(kernel.images[0], shape)) ** 2
    total = SKY + template_noise
    whitening = np.sqrt(total / (SKY + template_noise * transform))
    whitened = np.fft.ifft2(np.fft.fft2(data) * whitening).real
    point = draw(shape, psf, *np.array([[shape[1] // 2], [shape[0] // 2], [1.0]]))
    point = np.fft.ifft2(np.fft.fft2(point) * whitening).real
    point = point[
        shape[0] // 2 - half : shape[0] // 2 + half + 1, shape[1] // 2 - half : shape[1] // 2 + half + 1
    ]
    weight = np.where(mask != 0, 0.0, 1.0 / (total + gaussian_filter(photons, 1.0)))
    signal = fftconvolve(whitened * weight, point[::-1, ::-1], mode="same")
    power = fftconvolve(weight, np.square(point)[::-1, ::-1], mode="same")
    usable = fftconvolve(mask == 0, np.square(point)[::-1, ::-1], mode="same")
    known = usable > 0.5 * np.square(point).sum()
    power = np.where(known, power, 1.0)
    score, plane = (np.where(known, signal / root, np.nan) for root in (np.sqrt(power), power))
    planes = (a.astype(np.float32) for a in (whitened, score, plane))
    made = Difference(
        data.astype(np.float32), variance.astype(np.float32), np.full(shape, template_noise, np.float32),
        mask, *planes, kernel,
        PointSource(psf, None, half), True, {}, 0.0,
    )  # fmt: skip
    frame = science_frame(shape, psf, fwhm_of(psf))
    return made, replace(frame, variance=target.astype(np.float32))


def flux_of(snr, psf, *, template_noise=0.0, light=0.0):
    """The flux (electrons) that a source needs for an S/N, its own photons counted: f sum p² = S sqrt(V),
    V = sum p² (sky + f p), for a source at the middle of a pixel and weights that are the PSF's."""
    p = draw((61, 61), psf, *np.array([[30.0], [30.0], [1.0]]))
    two, three = (p**2).sum(), (p**3).sum()
    sky = SKY + template_noise / (4 * np.pi * 1.2**2) + light
    half = snr**2 * three / (2 * two**2)
    return half + np.sqrt(half**2 + snr**2 * sky / two)


def places(rng, shape, n, spacing):
    """``n`` places at least ``spacing`` pixels apart and 24 from the edges, at any phase."""
    rows = np.arange(24 + spacing / 2, shape[0] - 24, spacing)
    columns = np.arange(24 + spacing / 2, shape[1] - 24, spacing)
    grid = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
    chosen = grid[rng.permutation(len(grid))[:n]]
    assert len(chosen) == n
    x, y = (chosen + rng.uniform(-1.5, 1.5, chosen.shape)).T
    return x, y
