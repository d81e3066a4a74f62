"""What is found on a frame, and which of it is a star."""

from dataclasses import replace

import numpy as np
import pytest
import sep
from astropy.io import fits
from scipy.spatial import cKDTree
from star_field import Truth, add_stars, make_frame, random_stars

from reference_pipeline.config import Sources
from reference_pipeline.errors import PixelError, SourceError
from reference_pipeline.frame import MaskBit
from reference_pipeline.reduce.sources import (
    NEAR_NEIGHBOUR,
    detection_kernel,
    extract_sources,
    find_sources,
    fit_background,
)

SHAPE = (700, 800)


@pytest.fixture(scope="module")
def field():
    rng = np.random.default_rng(5)
    truth = random_stars(rng, SHAPE, 400, flux=(1000.0, 4e5), slope=0.7)
    frame = make_frame(rng, truth, SHAPE, ellipticity=0.08)
    return frame, truth, find_sources(frame, config=Sources())


def match(sources, truth):
    return cKDTree(np.c_[truth.x, truth.y]).query(np.c_[sources["x"], sources["y"]])


def test_the_background_is_the_sky_and_stays_in_the_data(field):
    frame, _, found = field
    assert np.abs(found.background - 200.0).max() < 5.0
    assert found.data is frame.data
    assert found.steps[-1].name == "sources"


def test_bright_isolated_stars_are_all_found_and_nothing_else(field):
    _, truth, found = field
    distance, _ = match(found.sources, truth)
    assert (distance > 3.0).sum() <= 2  # blends may centre between their stars
    pairs = cKDTree(np.c_[truth.x, truth.y]).query(np.c_[truth.x, truth.y], k=2)[0][:, 1]
    bright = (truth.flux > 3000.0) & (pairs > 20.0) & (truth.x > 5) & (truth.x < SHAPE[1] - 6)
    bright &= (truth.y > 5) & (truth.y < SHAPE[0] - 6)
    found_at = cKDTree(np.c_[found.sources["x"], found.sources["y"]])
    assert bright.sum() > 60
    assert found_at.query(np.c_[truth.x, truth.y][bright])[0].max() < 1.0


def test_calibration_stars_have_their_true_place_flux_width_and_shape(field):
    _, truth, found = field
    stars = found.sources[found.sources["is_calibration"]]
    distance, row = match(stars, truth)
    assert len(stars) > 50
    # no better than the centroid of a star of this S/N: sigma / snr per axis
    assert (np.median(distance * np.asarray(stars["snr"])) / (3.5 / 2.355)) < 2.0
    ratio = stars["flux_auto"] / truth.flux[row]
    assert 0.94 < np.median(ratio) < 1.0  # Kron's aperture leaves some of a Moffat's wings out
    # the pixel widens 3.5 to 3.565; the rest is the profile, which is no Gaussian
    assert np.median(stars["fwhm"]) == pytest.approx(3.565, rel=0.05)
    assert np.median(1 - stars["b"] / stars["a"]) == pytest.approx(0.08, abs=0.03)
    assert set(stars["flags"]) == {0}
    assert (stars["snr"] > 20).all()


def test_psf_stars_are_calibration_stars_of_narrower_spread(field):
    _, _, found = field
    is_psf, is_star = found.sources["is_psf_star"], found.sources["is_calibration"]
    assert 0 < is_psf.sum() < is_star.sum()
    assert (is_star | ~is_psf).all()
    assert np.std(found.sources["fwhm"][is_psf]) < np.std(found.sources["fwhm"][is_star])


def test_hot_pixels_cosmic_rays_and_galaxies_do_not_calibrate():
    rng = np.random.default_rng(6)
    truth = random_stars(rng, SHAPE, 300, flux=(3000.0, 3e5), slope=0.7)
    frame = make_frame(rng, truth, SHAPE)
    hot = np.c_[rng.uniform(20, SHAPE[1] - 20, 60), rng.uniform(20, SHAPE[0] - 20, 60)].round()
    data = frame.data.copy()
    for x, y in hot.astype(int):
        data[y, x] += 3e4
        data[y, x + 1] += 1e4
    wide = random_stars(rng, SHAPE, 60, flux=(3e4, 3e5), margin=30)
    smooth = np.zeros(SHAPE)
    add_stars(smooth, wide, fwhm=7.0)
    frame = replace(frame, data=data + smooth.astype(np.float32))
    found = find_sources(frame, config=Sources()).sources
    stars = found[found["is_calibration"]]
    at = np.c_[stars["x"], stars["y"]]
    assert len(stars) > 40
    assert (cKDTree(hot + np.array([0.25, 0.0])).query(at)[0] < 1.0).sum() == 0
    assert (cKDTree(np.c_[wide.x, wide.y]).query(at)[0] < 1.0).sum() <= 1


def test_a_psf_that_varies_leaves_stars_in_every_corner():
    rng = np.random.default_rng(7)
    truth = random_stars(rng, SHAPE, 500, flux=(5000.0, 3e5), slope=0.7)
    found = find_sources(make_frame(rng, truth, SHAPE, varying=0.3), config=Sources()).sources
    corner = (np.abs(found["x"] / SHAPE[1] - 0.5) > 0.3) & (np.abs(found["y"] / SHAPE[0] - 0.5) > 0.3)
    usable = found["flags"] == 0
    everywhere = found["is_psf_star"][usable].mean()
    assert found["is_psf_star"][usable & corner].mean() > 0.6 * everywhere > 0.1


def test_masked_pixels_make_no_sources_and_no_stars(field):
    frame, _, _ = field
    mask = frame.mask.copy()
    data = frame.data.copy()
    mask[100:104, :] |= np.uint16(MaskBit.TRAIL)
    data[100:104, :] += 500.0
    mask[:, 300] |= np.uint16(MaskBit.BAD)
    data[:, 300] = np.nan
    found = find_sources(replace(frame, data=data, mask=mask), config=Sources()).sources
    near_trail = np.abs(found["y"] - 101.5) < 1.5
    assert near_trail.sum() < 15
    stars = found[found["is_calibration"]]
    assert (np.abs(stars["x"] - 300) > 2.0).all()
    assert np.isfinite(found["flux_auto"]).all()


def test_saturated_stars_are_found_whole_and_do_not_calibrate():
    rng = np.random.default_rng(8)
    truth = random_stars(rng, SHAPE, 200, flux=(3000.0, 1e5), margin=20)
    bright = Truth(np.array([400.0]), np.array([350.0]), np.array([3e6]))
    frame = make_frame(
        rng, Truth(*(np.append(getattr(truth, k), getattr(bright, k)) for k in ("x", "y", "flux"))), SHAPE
    )
    mask = frame.mask.copy()
    mask[frame.data > 6e4] |= np.uint16(MaskBit.SATURATED)
    frame = replace(frame, data=np.minimum(frame.data, 6e4), mask=mask)
    found = find_sources(frame, config=Sources()).sources
    at = np.hypot(found["x"] - 400.0, found["y"] - 350.0)
    assert at.min() < 0.3
    row = found[at.argmin()]
    assert row["mask"] & MaskBit.SATURATED
    assert not row["is_calibration"]


def test_neighbours_are_flagged_by_what_they_add():
    rng = np.random.default_rng(9)
    far = random_stars(rng, SHAPE, 60, flux=(1e4, 1e5), margin=20)
    x, y, flux = (
        np.append(getattr(far, k), v)
        for k, v in zip(("x", "y", "flux"), ([400, 409], [350, 350], [8e4, 5e4]))
    )
    found = find_sources(make_frame(rng, Truth(x, y, flux), SHAPE), config=Sources()).sources
    pair = np.hypot(found["x"] - 404.5, found["y"] - 350) < 8
    assert pair.sum() == 2
    assert ((found["flags"][pair] & (NEAR_NEIGHBOUR | 1)) != 0).all()


def test_the_kernel_is_as_wide_as_the_stars_of_a_frame_of_many_tiles():
    rng = np.random.default_rng(12)
    shape = (2100, 2200)
    frame = make_frame(rng, random_stars(rng, shape, 500, flux=(3e3, 3e5), slope=0.7), shape, fwhm=5.0)
    decision = find_sources(frame, config=Sources()).steps[-1].decision
    assert decision["kernel_fwhm"] == pytest.approx(5.0, rel=0.1)
    assert decision["fwhm"] == pytest.approx(5.05, rel=0.05)


def test_digits_as_coarse_as_the_noise_move_neither_sky_nor_rms():
    """12 bits of a small telescope: the noise is 1.3 ADU, the sky lies anywhere between two of them."""
    gain, sigma = 29.0, 38.0
    ramp = np.linspace(700.0, 760.0, 512)  # two ADU
    light = np.random.default_rng(9).normal(ramp, sigma, (512, 512))
    data = (gain * np.rint(light / gain)).astype(np.float32)
    back, rms = fit_background(data, np.zeros(data.shape, bool), config=Sources(), step=gain)
    assert (back - ramp).std() < 0.05 * sigma
    assert np.median(rms) == pytest.approx(np.hypot(sigma, gain / 12**0.5), rel=0.02)
    coarse, _ = fit_background(data, np.zeros(data.shape, bool), config=Sources())
    assert (coarse - ramp).std() > 0.1 * sigma  # what is mended


def test_a_frame_without_stars_says_what_was_found_and_which_cut_took_it():
    frame = make_frame(np.random.default_rng(10), random_stars(np.random.default_rng(1), SHAPE, 0), SHAPE)
    with pytest.raises(
        SourceError, match=r"0 calibration stars of \d+ sources, need 3; removed: flags"
    ) as caught:
        find_sources(frame, config=Sources())
    assert (caught.value.reason, caught.value.frame_id) == ("no-stars", "field")


def test_a_frame_without_pixels_is_refused(field):
    frame = field[0]
    with pytest.raises(PixelError) as caught:
        find_sources(replace(frame, data=np.full(SHAPE, np.nan, np.float32)), config=Sources())
    assert caught.value.reason == "no-pixels"


def test_the_kernel_of_two_pixels_is_that_of_sextractor():
    expected = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16.0
    assert np.allclose(detection_kernel(2.0), expected, atol=1e-7)


def test_noise_alone_makes_few_sources_at_five_sigma():
    rng = np.random.default_rng(11)
    shape = (1500, 1500)
    noise = rng.normal(0, 10, shape).astype(np.float32)
    rms = np.full(shape, 10, np.float32)
    found = extract_sources(noise, rms, rms**2, np.zeros(shape, bool), kernel_fwhm=3.5, config=Sources())
    assert len(found) <= 3  # 2e5 independent places, each above 5 sigma once in 3.5e6


@pytest.mark.shared_data
def test_sextractors_catalogue_of_the_sep_image_is_found_again(shared_data):
    folder = shared_data / "images/kbarbary+sep/data"
    with pytest.warns(match="header keyword is invalid"):
        image = fits.getdata(folder / "image.fits").astype(np.float32)
    catalogue = np.loadtxt(folder / "image.cat")
    # its default.sex: DETECT_THRESH 1.5 with default.conv, 5 pixels, no deblending, PHOT_AUTOPARAMS 2.5, 0
    config = Sources(
        threshold=1.5 / 0.375,
        kernel_fwhm=2.0,
        min_area=5,
        deblend_contrast=1.0,
        kron_minimum=0.0,
        kron_subpixels=1,
    )
    mask = np.zeros(image.shape, bool)
    background, rms = fit_background(image, mask, config=config)
    for found, name in ((background, "back.fits"), (rms, "rms.fits")):
        with pytest.warns(match="header keyword is invalid"):
            expected = fits.getdata(folder / name)
        assert np.allclose(found, expected, rtol=1e-6)
    everywhere = np.full(
        image.shape, sep.Background(image).globalrms, np.float32
    )  # SExtractor thresholds by it
    found = extract_sources(
        image - background, everywhere, everywhere**2, mask, kernel_fwhm=2.0, config=config
    )
    assert len(found) == len(catalogue) == 65
    distance, row = cKDTree(np.c_[found["x_barycentre"], found["y_barycentre"]]).query(
        catalogue[:, 1:3] - 1.0
    )
    assert distance.max() < 1e-3  # the catalogue has four digits
    assert len(set(row)) == 65
    found = found[row]
    has_auto = catalogue[:, 15] > 0  # one source is given no Kron flux there
    assert has_auto.sum() == 64
    assert np.allclose(found["flux_auto"][has_auto], catalogue[has_auto, 15], rtol=1e-5)
    assert np.allclose(found["flux_auto_error"][has_auto], catalogue[has_auto, 16], rtol=1e-5)
    assert np.allclose(found["a"], catalogue[:, 11], atol=6e-4)
    windowed = np.hypot(found["x"] - (catalogue[:, 3] - 1.0), found["y"] - (catalogue[:, 4] - 1.0))
    # two faint and extended ones settle elsewhere: the iteration ends at its own tolerance
    assert (windowed[has_auto] < 0.01).sum() >= 62
