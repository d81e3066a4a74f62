"""What is said of a frame, clear or cloudy, whole or failed."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import pearsonr
from star_field import Catalogue, make_frame, random_stars

from reference_pipeline.config import Photometry, QualityCheck, Sources
from reference_pipeline.errors import PixelError
from reference_pipeline.frame import MaskBit
from reference_pipeline.reduce.photometry import calibrate_photometry
from reference_pipeline.reduce.quality import assess, pearson, thumbnail
from reference_pipeline.reduce.sources import find_sources

SHAPE = (900, 1000)


def patchy_cloud(rng, depth):
    """Extinction of up to ``depth`` mag in patches of a fifth of the frame."""
    patches = gaussian_filter(rng.normal(0, 1, SHAPE), 100.0)
    return depth * np.clip(patches / patches.std(), 0, 2) / 2


def reduced(depth):
    rng = np.random.default_rng(31)
    truth = random_stars(rng, SHAPE, 500, flux=(1500.0, 4e5), slope=0.5)
    cloud = patchy_cloud(np.random.default_rng(32), depth)
    frame = make_frame(rng, truth, SHAPE, throughput=10 ** (-0.4 * cloud))
    catalogue = Catalogue(frame, truth, 27.0, rng=rng)
    config = Photometry(max_scatter=1.0)
    return calibrate_photometry(find_sources(frame, config=Sources()), catalogue, config=config)


def test_the_correlation_is_above_099_when_clear_and_falls_with_patchy_cloud():
    frames = [assess(reduced(depth), config=QualityCheck()) for depth in (0.0, 1.0, 2.5)]
    clear, thin, thick = (frame.quality.pearson for frame in frames)
    assert clear > 0.99
    assert clear > thin > thick
    assert thick < 0.98
    assert frames[0].steps[-1].decision["verdict"] == "good"
    assert "pearson correlation" in frames[2].steps[-1].decision["verdict"]


def test_quality_is_of_the_true_frame():
    quality = assess(reduced(0.0), config=QualityCheck()).quality
    assert quality.fwhm == pytest.approx(3.565, rel=0.05)
    assert quality.ellipticity < 0.08
    assert quality.background == pytest.approx(200.0, abs=1.0)
    assert quality.background_rms == pytest.approx(15.0, rel=0.02)
    # 27 − 2.5 log10(5 · 15 · √42.2 · 1.01), see test_the_effective_area_is_that_of_the_profile
    assert quality.limiting_magnitude == pytest.approx(20.27, abs=0.05)


def test_pearson_is_scipys():
    rng = np.random.default_rng(33)
    a = rng.normal(size=50)
    b = a + rng.normal(0, 0.3, 50)
    assert pearson(a, b) == pytest.approx(pearsonr(a, b)[0], abs=1e-12)
    assert pearson(np.append(a, np.nan), np.append(b, 1.0)) == pytest.approx(pearsonr(a, b)[0], abs=1e-12)
    assert np.isnan(pearson(a[:2], b[:2]))
    assert np.isnan(pearson(np.ones(5), np.arange(5.0)))


@pytest.mark.parametrize("shape", [(100, 37), (256, 256), (257, 1000), (1024, 512)])
def test_thumbnails_are_256_square_of_any_frame_and_keep_its_gradient(shape):
    rng = np.random.default_rng(34)
    frame = make_frame(rng, random_stars(rng, shape, 0), shape)
    x = np.arange(shape[1])
    frame = replace(frame, data=(frame.data + 300.0 * x / shape[1]).astype(np.float32))
    picture = thumbnail(frame)
    assert picture.shape == (256, 256)
    assert picture.dtype == np.uint8
    assert picture[:, :30].mean() + 60 < picture[:, 113:143].mean() < picture[:, -30:].mean() - 60
    assert abs(picture[:100].mean() - picture[-100:].mean()) < 15


def test_each_cell_is_the_mean_of_its_usable_pixels():
    rng = np.random.default_rng(35)
    frame = make_frame(rng, random_stars(rng, (512, 512), 0), (512, 512))
    data, mask = frame.data.copy(), frame.mask.copy()
    data[100:120, 200:220] = 1e7
    mask[100:120, 200:220] = MaskBit.SATURATED
    data[300, :] = np.nan
    shown = thumbnail(replace(frame, data=data, mask=mask))
    assert abs(float(shown[50:60, 100:110].mean()) - shown.mean()) < 20
    assert abs(float(shown[150].mean()) - shown.mean()) < 20


def test_the_cloud_network_looks_at_the_frame_and_its_answer_is_kept():
    given = reduced(0.0)
    frame = assess(given, config=QualityCheck(), cloud_network=lambda seen: 0.25 if seen is given else 1.0)
    assert frame.quality.cloud_score == 0.25
    assert frame.steps[-1].decision["cloud_score"] == 0.25


def test_a_frame_that_failed_before_its_stars_is_assessed_all_the_same():
    rng = np.random.default_rng(36)
    frame = assess(make_frame(rng, random_stars(rng, SHAPE, 5), SHAPE), config=QualityCheck())
    assert np.isnan(frame.quality.fwhm)
    assert np.isnan(frame.quality.limiting_magnitude)
    assert frame.steps[-1].decision["is_good"] is False
    assert frame.thumbnail.shape == (256, 256)


def test_limits_that_are_set_are_held():
    config = QualityCheck(min_limiting_magnitude=23.0, max_fwhm=2.0, max_ellipticity=0.5)
    decision = assess(reduced(0.0), config=config).steps[-1].decision
    assert decision["verdict"].startswith("limiting magnitude 20.")
    assert "fwhm 3." in decision["verdict"]
    assert "ellipticity" not in decision["verdict"]


def test_a_frame_of_nothing_is_refused():
    rng = np.random.default_rng(37)
    frame = make_frame(rng, random_stars(rng, (300, 300), 0), (300, 300))
    with pytest.raises(PixelError) as caught:
        assess(replace(frame, data=np.full((300, 300), np.nan, np.float32)), config=QualityCheck())
    assert caught.value.reason == "no-pixels"
