"""Fluxes at given places: what is there, its error, and None where nothing can be known."""

import time

import numpy as np
import pytest
from differences import SKY, ZERO_POINT, flux_of, make_difference, moffat_psf, places

from reference_pipeline.detect.forced import forced_on_planes, forced_photometry
from reference_pipeline.frame import MaskBit

SHAPE = (760, 900)
N = 240


def on_planes(difference, science, x, y):
    return forced_on_planes(
        difference.flux, difference.score, difference.mask, x, y,
        fwhm=science.quality.fwhm, zero_point=science.zero_point, shape=science.shape,
    )  # fmt: skip


def on_difference(difference, science, x, y):
    return forced_photometry(difference, science, x, y)


BOTH = pytest.mark.parametrize("method", [on_difference, on_planes])


@BOTH
@pytest.mark.parametrize("fwhm", [3.5, 2.2, 1.5])
@pytest.mark.parametrize("snr", [15.0, 60.0])
def test_fluxes_at_any_phase_are_unbiased(method, fwhm, snr):
    rng = np.random.default_rng(1)
    x, y = places(rng, SHAPE, N, 44)
    flux = rng.choice([-1.0, 1.0], N) * flux_of(snr, moffat_psf(SHAPE, fwhm))
    found = method(*make_difference(rng, SHAPE, fwhm, x=x, y=y, flux=flux), x, y)
    ratio = np.array([f.flux for f in found]) / flux
    limit = 0.003 if method is on_difference else 0.01
    assert ratio.mean() == pytest.approx(1.0, abs=limit + 2.5 / snr / np.sqrt(N))


@BOTH
@pytest.mark.parametrize("template_noise", [0.0, 200.0])
def test_empty_sky_has_flux_zero_with_the_error_that_is_given(method, template_noise):
    rng = np.random.default_rng(2)
    difference, science = make_difference(rng, SHAPE, 3.0, template_noise=template_noise)
    x, y = places(rng, SHAPE, 480, 30)
    found = method(difference, science, x, y)
    pull = np.array([f.flux / f.flux_err for f in found])
    assert pull.mean() == pytest.approx(0.0, abs=3.0 / np.sqrt(480))
    assert pull.std() == pytest.approx(1.0, abs=0.08)
    # the depth, from the definition for white noise
    if template_noise == 0:
        area = 1.0 / np.square(difference.psf_at(450, 380)).sum()
        depth = ZERO_POINT.value + ZERO_POINT.offset(x, y, SHAPE) - 2.5 * np.log10(5 * np.sqrt(SKY * area))
        assert [f.limiting_magnitude for f in found] == pytest.approx(depth.tolist(), abs=0.04)
    assert all(f.flags == () and f.mask_fraction == 0 for f in found)


@BOTH
def test_what_is_masked_or_outside_has_no_flux_and_says_why(method):
    rng = np.random.default_rng(3)
    mask = np.zeros((200, 240), np.uint16)
    mask[80:100, 100:120] = MaskBit.SATURATED
    mask[150, 60] = MaskBit.BAD
    mask[:, 225:] = MaskBit.OFF_IMAGE
    flux = np.full(2, 5000.0)
    difference, science = make_difference(
        rng, (200, 240), 3.0, x=[60.4, 30.0], y=[151.3, 30.3], flux=flux, mask=mask
    )
    x = np.array([110.0, 60.4, 30.0, 232.0, -40.0, 300.0])
    y = np.array([90.0, 151.3, 30.3, 100.0, 50.0, 100.0])
    inside, beside, free, off, left, right = method(difference, science, x, y)
    assert inside.flux is None
    assert inside.flux_err is None
    assert inside.limiting_magnitude is None
    assert inside.flags == ("masked",)
    assert inside.mask_fraction == 1.0
    assert beside.flux == pytest.approx(5000.0, abs=4 * beside.flux_err + 250.0)
    assert beside.flags == ("masked",)
    assert 0 < beside.mask_fraction < 0.1
    assert free.flags == ()
    assert free.flux == pytest.approx(5000.0, abs=4 * free.flux_err)
    for lost in (off, left, right):
        assert lost.flux is None
        assert "edge" in lost.flags


@BOTH
def test_without_a_zero_point_there_is_no_limiting_magnitude(method):
    from dataclasses import replace

    difference, science = make_difference(np.random.default_rng(4), (120, 120), 3.0)
    (found,) = method(difference, replace(science, zero_point=None), [60.0], [60.0])
    assert found.limiting_magnitude is None
    assert found.flux_err > 0
    assert method(difference, science, [], []) == ()


@BOTH
def test_thousands_of_places_take_seconds(method):
    rng = np.random.default_rng(5)
    difference, science = make_difference(rng, SHAPE, 3.0)
    x, y = rng.uniform(0, SHAPE[1] - 1, 5000), rng.uniform(0, SHAPE[0] - 1, 5000)
    started = time.process_time()
    assert len(method(difference, science, x, y)) == 5000
    assert time.process_time() - started < 6.0
