"""Particle hits: found where they are, not where stars are, and as astroscrappy finds them."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astroscrappy import detect_cosmics
from scipy import ndimage

from benchmarks.reduction.cosmic_rays import score, simulated
from reference_pipeline.config import CosmicRays
from reference_pipeline.errors import PixelError
from reference_pipeline.frame import Exposure, Frame, MaskBit
from reference_pipeline.reduce.cosmic_rays import (
    StarShape,
    find_hits,
    flag_cosmic_rays,
    grow,
    measure_shape,
    positive_laplacian,
    settings,
    spare_stars,
)

CONFIG = CosmicRays()
GMOS = "images/astropy+astroscrappy/astroscrappy/tests/data/gmos.fits"
BORDER = 6  # pixels: astroscrappy leaves a border out, we mirror it


def noise_frame(shape=(200, 180), level=400.0, seed=3):
    """A frame of sky alone: ``level`` electrons, Poisson."""
    data = np.random.default_rng(seed).poisson(level, shape).astype(np.float32)
    variance = np.full(shape, level, np.float32)
    exposure = Exposure("f1", "test", "science", 60000.0, 60.0, "r")
    return Frame(exposure, data, variance, np.zeros(shape, np.uint16))


def flagged(frame, config=CONFIG):
    return (flag_cosmic_rays(frame, config=config).mask & np.uint16(MaskBit.COSMIC_RAY)) != 0


def add_stars(data, places, peak, fwhm):
    y, x = np.indices(data.shape)
    for cy, cx in places:
        data += peak * np.exp(-4 * np.log(2) * ((y - cy) ** 2 + (x - cx) ** 2) / fwhm**2)


@pytest.mark.parametrize(
    ("chip", "fwhm"), [("ast3", 1.6), ("ast3", 3.0), ("ztf", 1.6), ("ztf", 5.0), ("lsst", 2.0), ("lsst", 3.0)]
)
def test_nine_in_ten_hit_pixels_are_found_and_a_hundredth_of_star_pixels_lost(chip, fwhm):
    # the numbers; the frames are small, the benchmark has more of them
    frame, truth = simulated(chip, fwhm, seed=7, size=300)
    counts = score(frame, truth, flagged(frame))
    assert counts["hits"] > 80
    assert counts["star"] > 500
    assert counts["found"] >= 0.9 * counts["hits"]
    assert counts["lost"] <= 0.01 * counts["star"]


@pytest.mark.parametrize("contrast", [2.0, 5.0])
@pytest.mark.parametrize("iterations", [1, 4])
def test_windows_give_astroscrappys_own_answer(contrast, iterations):
    frame, _ = simulated("ztf", 2.0, seed=5, size=300)
    config = CosmicRays(contrast=contrast, iterations=iterations, tile=64)
    unusable = frame.mask != 0
    ours, _ = find_hits(frame.data, frame.variance, unusable, config=config)
    theirs, _ = detect_cosmics(frame.data, inmask=unusable, invar=frame.variance, **settings(config))
    inner = (slice(BORDER, -BORDER),) * 2
    assert theirs[inner].sum() > 70
    np.testing.assert_array_equal(ours[inner], (theirs & ~unusable)[inner])


@pytest.mark.shared_data
@pytest.mark.parametrize("contrast", [2.0, 5.0])
def test_the_gmos_frame_gives_astroscrappys_own_answer(shared_data, contrast):
    with fits.open(shared_data / GMOS) as parts:
        data, variance = (np.ascontiguousarray(parts[name].data, np.float32) for name in ("SCI", "VAR"))
    config = CosmicRays(contrast=contrast)
    ours, _ = find_hits(data, variance, np.zeros(data.shape, bool), config=config)
    theirs, _ = detect_cosmics(data, invar=variance, **settings(config))
    inner = (slice(BORDER, -BORDER),) * 2
    assert theirs[inner].sum() > 50
    np.testing.assert_array_equal(ours[inner], theirs[inner])


def test_the_laplacian_is_that_of_the_image_with_each_pixel_in_four():
    image = np.random.default_rng(1).normal(100, 10, (20, 24)).astype(np.float32)
    fine = np.pad(image.repeat(2, 0).repeat(2, 1), 1, mode="edge")
    middle = fine[1:-1, 1:-1]
    slow = 4 * middle - fine[:-2, 1:-1] - fine[2:, 1:-1] - fine[1:-1, :-2] - fine[1:-1, 2:]
    slow = np.maximum(slow, 0).reshape(20, 2, 24, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(positive_laplacian(image)[1:-1, 1:-1], slow[1:-1, 1:-1], atol=1e-3)


def test_sky_alone_has_hardly_a_hit():
    # a pixel less the mean of four has 1.12 sigmas: 0.6 of 160 000 are expected above 5, neighbours apart
    assert ndimage.label(flagged(noise_frame((400, 400))), np.ones((3, 3)))[1] <= 3


def test_a_hit_at_the_very_edge_is_found():
    frame = noise_frame()
    for place in [(0, 90), (199, 30), (100, 0), (100, 179)]:
        frame.data[place] += 2000
    found = flagged(frame)
    assert all(found[place] for place in [(0, 90), (199, 30), (100, 0), (100, 179)])


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (20, 20)])
def test_a_frame_smaller_than_the_margin_is_searched(size):
    frame = noise_frame(size)
    frame.data[size[0] // 2, size[1] // 2] += 5000
    assert flagged(frame).shape == size


def test_masked_pixels_and_data_are_left_as_they_are():
    frame = noise_frame()
    frame.data[50, 60] += 3000
    frame.data[90, 90] = np.nan
    frame.mask[50, 60] = MaskBit.BAD
    frame.mask[90, 90] = MaskBit.NO_DATA
    before = frame.data.copy()
    result = flag_cosmic_rays(frame, config=CONFIG)
    assert result.mask[50, 60] == MaskBit.BAD
    assert result.mask[90, 90] == MaskBit.NO_DATA
    np.testing.assert_array_equal(result.data, before)
    assert frame.mask[50, 60] == MaskBit.BAD
    assert result.steps[-1].name == "cosmic_rays"


def test_not_finite_pixels_without_a_mask_do_not_hide_a_hit():
    frame = noise_frame()
    frame.data[90, 90], frame.variance[20, 20] = np.nan, np.inf
    frame.data[90, 100] += 3000
    found = flagged(frame)
    assert found[90, 100]
    assert not found[90, 90]


def test_the_stars_shape_is_measured_whatever_their_place_in_the_pixel():
    frame = noise_frame()
    rng = np.random.default_rng(2)
    places = np.mgrid[20:180:20, 20:160:20].reshape(2, -1).T + rng.uniform(-0.5, 0.5, (56, 2))
    add_stars(frame.data, places, 20_000, 2.5)
    peaks = np.rint(places).astype(np.intp)
    shape = measure_shape(frame.data, frame.variance, np.zeros(frame.shape, bool), peaks)
    assert shape.fwhm == pytest.approx(2.5, rel=0.02)
    assert abs(shape.xy) < 0.02


def test_no_shape_is_claimed_of_fewer_stars_than_five():
    frame = noise_frame()
    add_stars(frame.data, [(50, 50), (100, 80)], 20_000, 2.5)
    nothing = np.zeros(frame.shape, bool)
    peaks = np.array([(50, 50), (100, 80)])
    assert measure_shape(frame.data, frame.variance, nothing, peaks) is None


def test_a_flagged_star_is_spared_and_a_hit_beside_it_in_the_frame_is_not():
    frame = noise_frame()
    add_stars(frame.data, [(60.2, 70.4)], 10_000, 1.8)
    frame.data[120, 130] += 6000
    hits = np.zeros(frame.shape, bool)
    hits[59:62, 69:72] = hits[120, 130] = True
    k = 4 * np.log(2) / 1.8**2
    assert spare_stars(hits, frame.data, frame.variance, StarShape(k, 0.0, k)) == 1
    assert np.argwhere(hits).tolist() == [[120, 130]]


def test_what_is_left_of_a_hit_beside_it_is_taken_in():
    frame = noise_frame()
    frame.data[100, 90:96] += (4000, 3000, 150, 0, 0, 150)  # 150 is 7.5 sigma
    hits = np.zeros(frame.shape, bool)
    hits[100, 90:92] = True
    grow(hits, frame.data, frame.variance, np.zeros(frame.shape, bool), times=1)
    assert hits[100, 92]
    assert not hits[100, 95]  # it does not touch


def test_a_frame_without_a_pixel_is_refused():
    frame = noise_frame((30, 30))
    frame = replace(frame, mask=np.full(frame.shape, MaskBit.SATURATED, np.uint16))
    with pytest.raises(PixelError, match="no-pixels"):
        flag_cosmic_rays(frame, config=CONFIG)
