"""Errors of fluxes: noise of each frame behind its own filters, and what the PSF leaves uncertain."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from differences import SKY, draw, make_difference, moffat_psf, places
from scipy.ndimage import convolve1d
from scipy.signal import fftconvolve

from reference_pipeline.detect.noise import covariance_of_sums
from reference_pipeline.detect.points import fit_fluxes, fit_points, point_model
from reference_pipeline.frame import Exposure, Frame, Step
from reference_pipeline.subtract.difference import Difference
from reference_pipeline.subtract.kernel import Kernel
from reference_pipeline.subtract.parts import kernel_on_frame
from reference_pipeline.subtract.point_source import PartSources, PointSource, aperture_correction

SIDE, N = 41, 3000
MIDDLE = np.array([20.0]), np.array([20.0])


def gaussian(sigma, side):
    t = np.arange(side) - side // 2
    image = np.exp(-(t[:, None] ** 2 + t**2) / (2 * sigma**2))
    return image / image.sum()


def half_pixel(images):
    """Moved by half a pixel along both axes, by Lanczos-3; and what of a white variance is left."""
    taps = np.sinc(np.arange(-2.5, 3)) * np.sinc(np.arange(-2.5, 3) / 3)
    taps /= taps.sum()
    moved = images
    for axis in (-1, -2):
        moved = convolve1d(moved, taps, axis=axis, mode="constant")
    return moved, np.square(taps).sum() ** 2


def noisy_pairs(rng, star_in, *, is_template_convolved, ratio, is_resampled):
    """Differences (N, 41, 41) of nothing but noise; the two planes of variance; the kernel; f of science."""
    bump = 4e4 * gaussian(1.6, SIDE)
    variances = {name: 100.0 + (bump if name == star_in else 0.0) for name in ("science", "template")}
    science, template = (rng.normal(0, 1, (N, SIDE, SIDE)) * np.sqrt(variances[n]) for n in variances)
    plane, factor = variances["science"] + np.zeros((SIDE, SIDE)), 1.0
    if is_resampled:
        science, left = half_pixel(science)
        plane, factor = left * plane, left**-0.5
    kernel = ratio * gaussian(1.3, 9)
    if is_template_convolved:
        data = science - fftconvolve(template, kernel[None], mode="same")
    else:
        data = fftconvolve(science, kernel[None], mode="same") / ratio - template / ratio
    return data, plane, variances["template"] + np.zeros((SIDE, SIDE)), kernel, factor


def as_difference(data, variance, template_variance, kernel, is_template_convolved):
    shape = data.shape
    plane = np.zeros(shape, np.float32)
    return Difference(
        data.astype(np.float32), np.full(shape, variance, np.float32), template_variance.astype(np.float32),
        np.zeros(shape, np.uint16), plane, plane, plane, Kernel(kernel[None], 0, np.zeros(1), 0, shape),
        PointSource(moffat_psf(shape, 3.0), None, 10), is_template_convolved, {}, 0.0,
    )  # fmt: skip


@pytest.mark.parametrize("star_in", ["science", "template"])
@pytest.mark.parametrize(("is_template_convolved", "ratio"), [(True, 0.7), (False, 1.4)])
@pytest.mark.parametrize("is_resampled", [False, True])
def test_the_noise_of_a_sum_is_that_of_both_frames(star_in, is_template_convolved, ratio, is_resampled):
    rng = np.random.default_rng(5)
    data, plane, template_variance, kernel, factor = noisy_pairs(
        rng, star_in, is_template_convolved=is_template_convolved, ratio=ratio, is_resampled=is_resampled
    )
    # what the sky has, from differences without a star, as the sky of a frame would tell
    sky, *_ = noisy_pairs(
        rng, "neither", is_template_convolved=is_template_convolved, ratio=ratio, is_resampled=is_resampled
    )
    inner = sky[:, 8:-8, 8:-8]
    size = inner.shape[-1]
    power = np.mean(np.abs(np.fft.rfft2(inner, (2 * size, 2 * size))) ** 2, axis=0)
    counts = size - np.abs(np.arange(-10, 11))
    lags = np.fft.irfft2(power)[np.ix_(np.arange(-10, 11), np.arange(-10, 11))] / np.outer(counts, counts)
    # of data / sqrt(variance), where the variance is what the two frames and the kernel make it
    science_sky, template_sky = 100.0 / factor**2, 100.0
    if is_template_convolved:
        variance = science_sky + template_sky * np.square(kernel).sum()
    else:
        variance = (science_sky * np.square(kernel).sum() + template_sky) / ratio**2
    difference = as_difference(data[0], variance, template_variance, kernel, is_template_convolved)
    science = Frame(
        Exposure("a", "test", "science", 60000.0, 60.0), data[0].astype(np.float32),
        plane.astype(np.float32), np.zeros((SIDE, SIDE), np.uint16),
        steps=(Step("align", 0.0, {"noise_factor": factor}),) if is_resampled else (),
    )  # fmt: skip
    weights = np.stack([gaussian(1.9, 13), np.gradient(gaussian(1.9, 13))[0]])[None]
    got = covariance_of_sums(difference, science, lags / variance, weights, *MIDDLE)[0]
    stamps = data[:, 14:27, 14:27]
    sums = np.einsum("nij,kij->nk", stamps, weights[0])
    expected = np.cov(sums.T)
    assert np.sqrt(np.diag(got) / np.diag(expected)) == pytest.approx([1.0, 1.0], abs=0.05)
    assert abs(got[0, 1]) < 0.1 * np.sqrt(got[0, 0] * got[1, 1])
    # and the star is what most of it is: the test would not pass with the sky's alone
    assert got[0, 0] > 2.0 * np.var(np.einsum("nij,ij->n", sky[:, 14:27, 14:27], weights[0, 0]))


def test_parts_have_the_noise_of_their_own_kernels():
    rng = np.random.default_rng(6)
    shape = (300, 400)
    difference, science = make_difference(rng, shape, 3.0, template_noise=400.0)
    model = point_model(difference, science)
    x, y = np.array([100.3, 290.6]), np.array([140.2, 150.0])
    whole = fit_fluxes(model, x, y)
    kernel = difference.kernel
    tops, lefts = np.array([0]), np.array([0, 200])
    sources = tuple(PointSource(difference.point.psf, None, difference.point.half) for _ in range(2))
    same = replace(difference, kernel=(kernel, kernel), point=PartSources(tops, lefts, sources))
    assert fit_fluxes(replace(model, difference=same), x, y).flux_err == pytest.approx(whole.flux_err)
    # a part whose template is twice as bright has its noise
    part = kernel_on_frame(replace(kernel, images=2.0 * kernel.images), np.s_[0:300, 0:400], shape)
    other = replace(same, kernel=(kernel, part))
    left, right = fit_fluxes(replace(model, difference=other), x, y).flux_err / whole.flux_err
    assert left == pytest.approx(1.0, abs=1e-6)
    assert right > 1.1


@pytest.mark.parametrize("star_in", ["science", "template"])
def test_pulls_of_bright_sources_are_of_unit_width(star_in):
    """Sources of S/N 20 to 100, in the science frame or in a template behind its kernel."""
    rng = np.random.default_rng(7)
    shape = (700, 700)
    x, y = places(rng, shape, 250, 40)
    psf = moffat_psf(shape, 3.2)
    flux = np.exp(rng.uniform(np.log(4e3), np.log(4e4), len(x)))
    difference, science = make_difference(rng, shape, 3.2, template_noise=300.0)
    model = point_model(difference, science)  # with the covariance of a sky without sources
    kernel = difference.kernel.images[0]
    light = draw(shape, psf, x, y, flux)
    template_variance = np.full(shape, 300.0)
    data = rng.normal(0, np.sqrt(SKY), shape)
    if star_in == "science":
        variance = SKY + light
        data = rng.normal(0, np.sqrt(variance)) + light
        data -= fftconvolve(rng.normal(0, np.sqrt(template_variance)), kernel, mode="same")
    else:  # the PSF of the difference is the template's behind the kernel
        variance = np.full(shape, SKY)
        sharp = moffat_psf(shape, 1.7)
        before = draw(shape, sharp, x, y, flux)
        template_variance = template_variance + before
        template = before + rng.normal(0, np.sqrt(template_variance))
        data -= fftconvolve(template, kernel, mode="same")
        light = -fftconvolve(before, kernel, mode="same")
    total = variance + fftconvolve(template_variance, np.square(kernel), mode="same")
    difference = replace(
        difference, data=data.astype(np.float32), variance=total.astype(np.float32),
        template_variance=template_variance.astype(np.float32),
    )  # fmt: skip
    science = replace(science, variance=variance.astype(np.float32))
    model = replace(model, difference=difference, science=science)
    found = fit_fluxes(model, x, y)
    clean = replace(model, difference=replace(difference, data=light.astype(np.float32)))
    noise_free = fit_fluxes(clean, x, y).flux  # what the same pixels and weights give without noise
    pulls = (found.flux - noise_free) / found.flux_err
    assert np.std(pulls) == pytest.approx(1.0, abs=0.12)  # 2.7 sigma of 250
    assert np.median(np.abs(found.flux) / found.flux_err) > 25


def test_what_the_psf_leaves_uncertain_is_in_the_errors_of_fluxes():
    rng = np.random.default_rng(8)
    shape = (300, 300)
    x, y = places(rng, shape, 20, 50)
    difference, science = make_difference(rng, shape, 3.0, x=x, y=y, flux=np.full(20, 3e4))
    model = point_model(difference, science)
    uncertain = replace(model, difference=replace(difference, decision={"flux_scatter": 0.03}))
    for fit in (fit_fluxes, fit_points):
        before, after = fit(model, x, y), fit(uncertain, x, y)
        assert after.flux == pytest.approx(before.flux)
        assert after.flux_err == pytest.approx(np.hypot(before.flux_err, 0.03 * before.flux))
    assert after.position_cov == pytest.approx(before.position_cov)


@pytest.mark.parametrize("scatter", [0.0, 0.03])
def test_the_scatter_of_stars_about_their_psf_is_measured(scatter):
    rng = np.random.default_rng(9)
    shape, fwhm = (900, 900), 3.6
    psf = moffat_psf(shape, fwhm)
    x, y = places(rng, shape, 200, 52)
    flux = np.exp(rng.uniform(np.log(2e4), np.log(2e5), len(x)))
    light = draw(shape, psf, x, y, flux)
    total = flux * (1.0 + rng.normal(0, scatter, len(x)))  # as of a PSF that loses now more, now less
    data = light + rng.normal(0, np.sqrt(SKY + light))
    area = np.pi * (1.5 * fwhm) ** 2
    table = Table(
        {"x": x, "y": y, "flux": total + rng.normal(0, np.sqrt(area * SKY), len(x)),
         "flux_error": np.sqrt(area * SKY + flux), "is_calibration": np.ones(len(x), bool)}
    )  # fmt: skip
    table["flux"][::20] *= 1.5  # a neighbour
    frame = Frame(
        Exposure("a", "test", "science", 60000.0, 60.0), data.astype(np.float32),
        (SKY + light).astype(np.float32), np.zeros(shape, np.uint16), psf=psf, sources=table,
        background=np.zeros(shape, np.float32),
    )  # fmt: skip
    correction, uncertain = aperture_correction(frame, np.rint(x).astype(int), np.rint(y).astype(int), fwhm)
    assert correction == pytest.approx(1.0, abs=0.007)
    if scatter:
        assert uncertain == pytest.approx(scatter, rel=0.2)
    else:
        assert uncertain < 0.008
