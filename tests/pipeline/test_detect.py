"""Candidates: known sources are found with the flux, place and shape that they have; noise gives few."""

from dataclasses import replace

import numpy as np
import pytest
from differences import SKY, ZERO_POINT, draw, flux_of, fwhm_of, make_difference, moffat_psf, places
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree

from reference_pipeline.config import Cuts, Detect
from reference_pipeline.detect.candidates import find_candidates
from reference_pipeline.detect.noise import noise_covariance
from reference_pipeline.detect.points import effective_fwhm
from reference_pipeline.errors import DetectionError
from reference_pipeline.frame import MaskBit
from reference_pipeline.reduce.psf import psf_stamps
from reference_pipeline.subtract.apply import likeness
from reference_pipeline.subtract.kernel import Kernel
from reference_pipeline.subtract.point_source import PartSources

SHAPE = (760, 900)
N = 240


def find(difference, science, **detect):
    return find_candidates(difference, science, detect=Detect(**detect), cuts=Cuts())


def matched(candidates, x, y, radius):
    """The candidates nearest to the places, and which are near enough."""
    distance, nearest = cKDTree([(c.x, c.y) for c in candidates]).query(np.stack([x, y], axis=1))
    return [candidates[k] for k in nearest], distance < radius


def values(candidates, name):
    return np.array([getattr(c, name) for c in candidates], float)


def field(seed, fwhm, snr, *, template_noise=0.0, **extra):
    rng = np.random.default_rng(seed)
    x, y = places(rng, SHAPE, N, 44)
    flux = rng.choice([-1.0, 1.0], N) * flux_of(snr, moffat_psf(SHAPE, fwhm))
    return (*make_difference(rng, SHAPE, fwhm, x=x, y=y, flux=flux, template_noise=template_noise, **extra),
            x, y, flux)  # fmt: skip


@pytest.fixture(scope="module")
def faint():
    difference, science, x, y, flux = field(1, 3.0, 8.0)
    return difference, science, x, y, flux, find(difference, science)


@pytest.fixture(scope="module")
def bright():
    """With the noise of a template that was convolved: correlated."""
    difference, science, x, y, flux = field(2, 3.0, 30.0, template_noise=200.0)
    return difference, science, x, y, flux, find(difference, science)


def test_sources_of_either_sign_at_snr_8_are_found_and_kept(faint):
    _, science, x, y, flux, candidates = faint
    found, near = matched(candidates, x, y, 1.5)
    assert near.mean() >= 0.97
    kept = near & np.array([c.cut is None for c in found])
    assert kept.mean() >= 0.95
    assert (np.sign(values(found, "flux")) == np.sign(flux))[near].all()
    assert len(candidates) <= near.sum() + 2
    assert [c.number for c in candidates] == list(range(len(candidates)))
    assert [(c.y, c.x) for c in candidates] == sorted((c.y, c.x) for c in candidates)
    # 1 / snr of itself: shapes.py
    fwhm = values(found, "fwhm")[near]
    assert np.median(fwhm) == pytest.approx(science.quality.fwhm, rel=0.05)
    assert 0.5 * np.ptp(np.quantile(fwhm, [0.16, 0.84])) < 0.16 * science.quality.fwhm


@pytest.mark.parametrize("which", ["faint", "bright"])
def test_fluxes_and_places_are_unbiased_and_their_errors_hold(which, request):
    _, science, x, y, flux, candidates = request.getfixturevalue(which)
    found, near = matched(candidates, x, y, 1.5)
    measured, error = values(found, "flux")[near], values(found, "flux_err")[near]
    n = near.sum()
    ratio = measured / flux[near]
    assert ratio.mean() == pytest.approx(1.0, abs=max(0.005, 3.0 * ratio.std() / np.sqrt(n)))
    pull = (measured - flux[near]) * np.sign(flux[near]) / error
    assert pull.std() == pytest.approx(1.0, abs=0.05 + 2.0 / np.sqrt(2 * n))
    ra, dec = science.wcs.all_pix2world(x, y, 0)
    east = (values(found, "ra") - ra) * np.cos(np.radians(dec)) / values(found, "ra_err")
    north = (values(found, "dec") - dec) / values(found, "dec_err")
    for place in (east[near], north[near]):
        assert place.mean() == pytest.approx(0.0, abs=3.5 / np.sqrt(n))
        assert place.std() == pytest.approx(1.0, abs=0.05 + 2.0 / np.sqrt(2 * n))


def test_the_flux_does_not_depend_on_the_phase_within_the_pixel():
    rng = np.random.default_rng(3)
    x, y = places(rng, SHAPE, N, 44)
    flux = np.full(N, flux_of(300.0, moffat_psf(SHAPE, 1.6)))
    found, near = matched(find(*make_difference(rng, SHAPE, 1.6, x=x, y=y, flux=flux)), x, y, 1.0)
    assert near.all()
    ratio = values(found, "flux") / flux
    off = np.hypot(x - np.rint(x), y - np.rint(y))
    for part in (off < 0.25, (off >= 0.25) & (off < 0.45), off >= 0.45):
        assert ratio[part].mean() == pytest.approx(1.0, abs=0.003)


@pytest.mark.parametrize("fwhm", [1.5, 1.2])
def test_an_undersampled_frame_keeps_its_point_sources(fwhm):
    difference, science, x, y, _ = field(4, fwhm, 8.0)
    found, near = matched(find(difference, science), x, y, 1.0)
    assert (near & np.array([c.cut is None for c in found])).mean() >= 0.95
    assert np.median(values(found, "fwhm")[near]) == pytest.approx(science.quality.fwhm, rel=0.05)


def test_noise_alone_gives_as_many_as_a_gaussian_field_has_maxima():
    """Of a smooth Gaussian field, (2 pi)^-1.5 L u exp(-u² / 2) for a pixel and sign (Adler 1981), L the
    variance of its slope. ``snr`` is u - 1 / u, the freedom of the place taken off."""
    rng = np.random.default_rng(5)
    shape, threshold = (1200, 1200), 3.7
    difference, science = make_difference(rng, shape, 2.3)
    n = len(find(difference, science, threshold=threshold))
    p, by_x, by_y = psf_stamps(science.psf, np.array([600.0]), np.array([600.0]), 18, derivatives=True)
    slope = np.sqrt(np.square(by_x).sum() * np.square(by_y).sum()) / np.square(p).sum()
    u = (threshold + np.sqrt(threshold**2 + 4.0)) / 2.0
    expected = 2 * shape[0] * shape[1] * slope * (2 * np.pi) ** -1.5 * u * np.exp(-(u**2) / 2)
    assert expected > 50
    assert n == pytest.approx(expected, abs=0.15 * expected + 3.0 * np.sqrt(expected))


def test_the_measured_noise_covariance_is_that_of_the_matching_kernel(bright, faint):
    white = noise_covariance(faint[0], 5)
    middle = white.shape[0] // 2
    assert white[middle, middle] == pytest.approx(1.0, abs=0.02)
    assert np.abs(np.delete(white.ravel(), white.size // 2)).max() < 0.012
    difference = bright[0]
    found = noise_covariance(difference, 5)
    k = difference.kernel.images[0]
    beside = 200.0 * (k[:, 1:] * k[:, :-1]).sum() / (200.0 + 200.0 * np.square(k).sum())
    assert found[middle, middle + 1] == pytest.approx(beside, abs=0.01)


def test_a_bright_source_is_one_candidate_even_if_the_psf_is_wrong():
    rng = np.random.default_rng(6)
    shape, n = (500, 500), 20
    x, y = places(rng, shape, n, 100)
    flux = np.full(n, flux_of(2000.0, moffat_psf(shape, 3.0)))
    difference, science = make_difference(rng, shape, 3.0, x=x, y=y, flux=flux, ellipticity=0.1)
    round_psf = moffat_psf(shape, 3.0)
    wrong = replace(difference, point=replace(difference.point, psf=round_psf))
    candidates = find(wrong, replace(science, psf=round_psf))
    assert len(candidates) == n
    assert all(c.cut is None for c in candidates)


@pytest.mark.parametrize(("separation", "n_each"), [(0.5, 1), (2.0, 2)])
def test_two_sources_are_two_where_there_is_a_saddle(separation, n_each):
    rng = np.random.default_rng(7)
    shape, n = (500, 500), 30
    psf = moffat_psf(shape, 3.0)
    x, y = places(rng, shape, n, 80)
    angle = rng.uniform(0, 2 * np.pi, n)
    apart = separation * fwhm_of(psf)
    both = np.r_[x, x + apart * np.cos(angle)], np.r_[y, y + apart * np.sin(angle)]
    flux = np.full(2 * n, flux_of(40.0, psf))
    candidates = find(*make_difference(rng, shape, 3.0, x=both[0], y=both[1], flux=flux))
    assert len(candidates) == pytest.approx(n_each * n, abs=1)
    if n_each == 2:  # neither has the other's light
        ratio = values(candidates, "flux") / flux[0]
        assert ratio.mean() == pytest.approx(1.0, abs=0.005 + 3.0 * 0.025 / np.sqrt(2 * n))


def test_magnitudes_and_angles_are_on_the_sky():
    rng = np.random.default_rng(8)
    shape = (300, 400)
    x, y = places(rng, shape, 12, 70)
    flux = np.full(12, 40000.0)
    difference, science = make_difference(rng, shape, 3.0, x=x, y=y, flux=flux)
    long = moffat_psf(shape, 3.4, ellipticity=0.4)  # along 0.6 rad from x to y
    light = draw(shape, long, x, y, flux) - draw(shape, science.psf, x, y, flux)
    difference = replace(difference, data=(difference.data + light).astype(np.float32))
    candidates = find(difference, science)
    found, near = matched(candidates, x, y, 1.5)
    assert near.all()
    for c in found:
        expected = ZERO_POINT.value + ZERO_POINT.offset(c.x, c.y, shape) - 2.5 * np.log10(c.flux)
        assert c.magnitude == pytest.approx(expected, abs=1e-9)
        assert c.magnitude_err == pytest.approx(1.0857 * c.flux_err / c.flux, rel=1e-3)
    # north is up and east left, so that the x axis lies at 270 = 90 degrees from north through east
    expected = 90.0 + np.degrees(0.6)
    assert np.median(values(found, "position_angle")) == pytest.approx(expected, abs=3.0)
    assert np.median(values(found, "elongation")) > 1.3
    none = find(difference, replace(science, zero_point=None))
    assert {c.magnitude for c in none} == {None}


def test_the_edge_is_that_of_what_both_images_cover():
    rng = np.random.default_rng(9)
    shape = (200, 240)
    mask = np.zeros(shape, np.uint16)
    mask[:, :50] = MaskBit.OFF_IMAGE
    x, y = np.array([60.3, 120.0, 230.0]), np.array([100.0, 100.4, 60.0])
    found, near = matched(
        find(*make_difference(rng, shape, 3.0, x=x, y=y, flux=np.full(3, 4000.0), mask=mask)), x, y, 1.5
    )
    assert near.all()
    assert [c.edge for c in found] == pytest.approx([11.3, 71.0, 10.0], abs=0.4)
    assert [c.cut for c in found] == ["edge", None, "edge"]


def test_a_convolved_science_image_has_wider_sources(bright):
    difference, science = bright[:2]
    sigma = 1.5
    side = np.arange(-6, 7)
    gaussian = np.exp(-(side[:, None] ** 2 + side**2) / 2 / sigma**2)
    kernel = Kernel((gaussian / gaussian.sum())[None], 0, np.zeros(1), 0, SHAPE)
    point = replace(difference.point, kernel=kernel)
    other = replace(difference, is_template_convolved=False, point=point, kernel=kernel)
    psf = science.psf
    wide = replace(psf, images=gaussian_filter(psf.images[0], sigma * psf.oversampling)[None])
    assert effective_fwhm(difference, science) == science.quality.fwhm
    assert effective_fwhm(other, science) == pytest.approx(fwhm_of(wide), rel=0.02)


def test_sources_in_a_convolved_science_image_keep_their_flux():
    rng = np.random.default_rng(11)
    x, y = places(rng, SHAPE, N, 44)
    psf = moffat_psf(SHAPE, 2.6)
    flux = np.full(N, flux_of(60.0, psf))
    difference, science = make_difference(rng, SHAPE, 2.6)
    kernel = difference.kernel
    light = likeness(draw(SHAPE, psf, x, y, flux).astype(np.float32), kernel)
    point = replace(difference.point, kernel=kernel)
    planes = {name: getattr(difference, name) for name in ("score", "flux")}
    response = fftconvolve(light, point.at(450, 380)[::-1, ::-1], mode="same")
    power = np.square(point.at(450, 380)).sum()
    planes["flux"] = (planes["flux"] + response / power).astype(np.float32)
    planes["score"] = (planes["score"] + response / np.sqrt(SKY * power)).astype(np.float32)
    other = replace(
        difference, data=difference.data + light, point=point, is_template_convolved=False, **planes
    )
    found, near = matched(find(other, science), x, y, 1.0)
    assert near.all()
    assert np.mean(values(found, "flux") / flux) == pytest.approx(1.0, abs=0.005)


def test_sep_at_two_sigma_finds_the_same_bright_sources(bright):
    difference, science, x, y, flux, by_score = bright
    candidates = find(difference, science, method="sep")
    found, near = matched(candidates, x, y, 1.5)
    assert near.mean() >= 0.99
    assert (np.sign(values(found, "flux")) == np.sign(flux))[near].all()
    same, _ = matched(by_score, x, y, 1.5)
    assert values(found, "flux")[near] == pytest.approx(values(same, "flux")[near], rel=0.02)
    assert (np.array([c.cut is None for c in found]) & near).mean() > 0.95


def test_each_refusal_has_its_reason(faint):
    difference, science = faint[:2]
    cases = [
        (replace(science, wcs=None), Detect(), "no-wcs"),
        (replace(science, psf=None), Detect(), "no-psf"),
        (replace(science, quality=None), Detect(), "no-stars"),
        (science, Detect(max_candidates=100), "too-many"),
        (science, Detect(max_candidates=100, method="sep"), "too-many"),
        (science, Detect(max_candidates=2, threshold=2.0), "too-many"),
    ]
    for frame, detect, reason in cases:
        with pytest.raises(DetectionError) as caught:
            find_candidates(difference, frame, detect=detect, cuts=Cuts())
        assert caught.value.reason == reason


def test_a_difference_without_anything_has_no_candidates():
    shape = (200, 200)
    rng = np.random.default_rng(10)
    difference, science = make_difference(rng, shape, 3.0)
    assert find(difference, science, threshold=8.0) == ()
    nothing = replace(
        difference, data=np.zeros(shape, np.float32), score=np.full(shape, np.nan, np.float32),
        mask=np.full(shape, MaskBit.NO_DATA, np.uint16),
    )  # fmt: skip
    assert find(nothing, science) == ()
    assert find(nothing, science, method="sep") == ()


def test_a_difference_of_parts_has_the_psf_of_each(bright):
    difference, science, x, y, flux, whole = bright
    wrong = replace(difference.point, psf=moffat_psf(SHAPE, 6.0))
    parts = PartSources(np.array([0]), np.array([0, 450]), (difference.point, wrong))
    candidates = find(replace(difference, point=parts), science)
    left = [c for c in candidates if c.x < 440]
    same = [c for c in whole if c.x < 440]
    assert [c.flux for c in left] == pytest.approx([c.flux for c in same], rel=1e-9)
    found, near = matched(candidates, x, y, 2.5)
    right = near & (x > 460)
    assert np.median(values(found, "flux")[right] / flux[right]) > 1.1  # too wide a PSF finds too much


def test_fluxes_are_total_ones(bright):
    difference, science, _, _, _, before = bright
    decision = {"aperture_correction": 1.02}
    after = find(replace(difference, decision=decision), science)
    assert [c.flux for c in after] == pytest.approx([1.02 * c.flux for c in before], rel=1e-9)
    assert [c.snr for c in after] == pytest.approx([c.snr for c in before], rel=1e-9)
