"""Binning: sums, masks and WCS as they must be, and the binned frame a calibrated frame of its own."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.wcs import WCS, Sip
from numpy.polynomial.polynomial import polyval2d
from star_field import Catalogue, field_wcs, make_frame, random_stars

from reference_pipeline.config import Camera, Photometry, PipelineConfig, Sources
from reference_pipeline.errors import PhotometryError, SourceError
from reference_pipeline.frame import Exposure, Frame, MaskBit
from reference_pipeline.reduce.photometry import calibrate_photometry
from reference_pipeline.reduce.quality import assess
from reference_pipeline.reduce.sources import find_sources
from reference_pipeline.subtract.binning import bin_frame, bin_pixels, binned_wcs

CONFIG = PipelineConfig(camera=Camera(name="test", pixel_scale=1, gain=1, read_noise=5, saturation=60000))


def flat_frame(shape, seed=1):
    rng = np.random.default_rng(seed)
    data = rng.poisson(100, shape).astype(np.float32)
    return Frame(
        Exposure("f", "test", "science", 60000.0, 60.0, "r"),
        data,
        np.full(shape, 100, np.float32),
        np.zeros(shape, np.uint16),
        background=np.full(shape, 100, np.float32),
        wcs=field_wcs(shape),
    )


@pytest.mark.parametrize("n", [2, 3, 5])
def test_sums_are_those_of_the_pixels(n):
    frame = flat_frame((6 * n, 7 * n))
    binned = bin_pixels(frame, n)
    assert binned.shape == (6, 7)
    for i in range(6):
        for j in range(7):
            box = np.s_[i * n : (i + 1) * n, j * n : (j + 1) * n]
            assert binned.data[i, j] == frame.data[box].sum()
            assert binned.variance[i, j] == 100 * n * n
            assert binned.background[i, j] == 100 * n * n
    assert not binned.mask.any()
    assert binned.data.dtype == binned.variance.dtype == binned.background.dtype == np.float32
    assert binned.mask.dtype == np.uint16
    assert binned.steps[-1].name == "bin"


def test_the_upper_edges_are_padded():
    """As AST3-3's: 14206 × 10654 goes to 14208 × 10656, here a hundredth of it in rows."""
    frame = flat_frame((146, 142))  # 146 = 3·48 + 2, 142 = 3·47 + 1
    binned = bin_pixels(frame, 3)
    assert binned.shape == (49, 48)
    beyond = MaskBit.OFF_IMAGE | MaskBit.NO_DATA
    assert np.all(binned.mask[:48, 47] == beyond)  # two thirds of them are missing
    assert np.all(binned.mask[48, :47] == MaskBit.SUSPECT)  # one third is made up for
    assert not binned.mask[:48, :47].any()
    assert np.isfinite(binned.data).all()
    assert binned.data[48, :47].mean() == pytest.approx(900, rel=0.03)
    assert np.all(binned.background == 900)
    assert binned.variance[48, 0] == pytest.approx(900 * 9 / 6)


def test_missing_pixels_are_made_up_for_or_flagged():
    frame = flat_frame((15, 18))
    data, mask = frame.data.copy(), frame.mask.copy()
    mask[0, 0], data[0, 0] = MaskBit.COSMIC_RAY, 1e5  # 1 of 9
    mask[3:6, 0] = MaskBit.BAD  # 3 of 9
    mask[6:8, 0:2] = MaskBit.BAD  # 4 of 9
    mask[1, 4], data[1, 4] = MaskBit.SATURATED, 6e4
    data[4, 4] = np.nan
    mask[7, 7] = MaskBit.TRAIL
    mask[10, 10] = MaskBit.SUSPECT
    data[12:15, 0:3] = np.inf
    frame = replace(frame, data=data, mask=mask)
    binned = bin_pixels(frame, 3)
    box = data[:3, :3].sum() - 1e5
    assert binned.mask[0, 0] == MaskBit.SUSPECT
    assert binned.data[0, 0] == pytest.approx(box * 9 / 8)
    assert binned.variance[0, 0] == pytest.approx(100 * 8 * (9 / 8) ** 2)
    assert binned.mask[1, 0] == MaskBit.SUSPECT
    assert binned.mask[2, 0] == MaskBit.BAD
    assert binned.mask[0, 1] == MaskBit.SATURATED
    assert binned.data[0, 1] == pytest.approx(data[:3, 3:6].sum())  # as it was read
    assert binned.mask[1, 1] == MaskBit.SUSPECT
    assert binned.mask[2, 2] == MaskBit.TRAIL
    assert binned.mask[3, 3] == MaskBit.SUSPECT
    assert binned.mask[4, 0] == MaskBit.NO_DATA
    assert np.isfinite(binned.data).all()
    untouched = np.ones((5, 6), bool)
    untouched[[0, 1, 2, 0, 1, 2, 3, 4], [0, 0, 0, 1, 1, 2, 3, 0]] = False
    assert not binned.mask[untouched].any()


@pytest.mark.parametrize("written", ["cd", "cdelt"])
def test_the_wcs_is_exact_with_sip(written):
    shape = (1200, 1500)
    wcs = field_wcs(shape)
    if written == "cd":
        wcs = WCS(naxis=2)
        wcs.wcs.crval = [150.0, 30.0]
        wcs.wcs.cd = np.array([[-1.0, 0.01], [0.01, 1.0]]) / 3600
    wcs.wcs.crpix = [700.3, 555.7]
    rng = np.random.default_rng(2)
    a, b, ap, bp = (np.triu(rng.normal(0, 1e-3, (4, 4)))[:, ::-1] for _ in range(4))
    for terms in (a, b, ap, bp):
        i, j = np.indices((4, 4))
        terms /= 300.0 ** np.maximum(i + j - 1, 0)
        terms[i + j < 2] = terms[i + j > 3] = 0
    wcs.sip = Sip(a, b, ap, bp, wcs.wcs.crpix)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    wcs.wcs.set()
    binned = binned_wcs(wcs, 3, (400, 500))
    x, y = rng.uniform(0, 499, 200), rng.uniform(0, 399, 200)
    whole = wcs.all_pix2world(3 * x + 1, 3 * y + 1, 0)  # the middle of three pixels is the second's
    np.testing.assert_allclose(binned.all_pix2world(x, y, 0), whole, rtol=0, atol=1e-11)
    # the inverse polynomials: shifts by as many binned pixels as thirds of whole ones
    u, v = rng.uniform(-150, 150, (2, 50))
    for name in ("ap", "bp"):
        before, after = (polyval2d(k * u, k * v, getattr(w.sip, name)) for k, w in ((3, wcs), (1, binned)))
        np.testing.assert_allclose(3 * after, before, rtol=1e-10)
    assert binned.pixel_shape == (500, 400)
    again = WCS(binned.to_header(relax=True))
    np.testing.assert_allclose(again.all_pix2world(x, y, 0), whole, rtol=0, atol=1e-7)


@pytest.fixture(scope="module")
def field():
    rng = np.random.default_rng(3)
    shape = (900, 1001)
    truth = random_stars(rng, shape, 330, flux=(2000.0, 3e5))
    frame = make_frame(rng, truth, shape, fwhm=6.0, varying=0.1)
    catalogue = Catalogue(frame, truth, 25.0)
    frame = calibrate_photometry(find_sources(frame, config=Sources()), catalogue, config=Photometry())
    return assess(frame, config=CONFIG.quality), catalogue


def test_a_binned_frame_is_calibrated_on_its_own(field):
    frame, catalogue = field
    frame = replace(frame, quality=replace(frame.quality, cloud_score=0.125))
    binned = bin_frame(frame, 3, catalogue=catalogue, config=CONFIG)
    assert binned.shape == (300, 334)
    # a summed frame has the same electrons: the zero point stays
    assert binned.zero_point.value == pytest.approx(frame.zero_point.value, abs=0.02)
    assert binned.zero_point.n_stars > 30
    assert binned.quality.fwhm == pytest.approx(frame.quality.fwhm / 3, rel=0.2)
    assert binned.quality.fwhm > frame.quality.fwhm / 3  # the larger pixel
    assert binned.quality.background == pytest.approx(9 * frame.quality.background, rel=0.01)
    assert 0 < frame.quality.limiting_magnitude - binned.quality.limiting_magnitude < 0.4
    assert binned.quality.cloud_score == 0.125
    assert binned.psf.shape == binned.shape
    # the same stars in the same place of the sky
    bright = binned.sources[np.asarray(binned.sources["is_calibration"])]
    x, y = frame.wcs.all_world2pix(bright["ra"], bright["dec"], 0)
    apart = np.hypot(*(a[:, None] - np.asarray(frame.sources[c]) for a, c in ((x, "x"), (y, "y")))).min(
        axis=1
    )
    assert np.median(apart) < 0.15
    assert [s.name for s in binned.steps[-5:]] == ["bin", "sources", "photometry", "quality", "psf"]
    # the unbinned frame is untouched
    assert frame.shape == (900, 1001)


def test_noise_is_what_the_variance_says():
    """Also where pixels were made up for: a tenth of them are missing."""
    frame = flat_frame((900, 900))
    rng = np.random.default_rng(4)
    frame = replace(frame, mask=np.where(rng.uniform(size=frame.shape) < 0.1, 4, 0).astype(np.uint16))
    binned = bin_pixels(frame, 3)
    pull = (binned.data - binned.background) / np.sqrt(binned.variance)
    for bits in (0, int(MaskBit.SUSPECT)):
        assert np.sum(binned.mask == bits) > 10000
        assert pull[binned.mask == bits].std() == pytest.approx(1.0, abs=0.02)
        assert pull[binned.mask == bits].mean() == pytest.approx(0.0, abs=0.02)


def test_what_a_binned_frame_lacks_is_refused_by_name(field):
    frame, catalogue = field
    with pytest.raises(SourceError) as caught:
        bin_frame(flat_frame((300, 300)), 3, catalogue=catalogue, config=CONFIG)
    assert caught.value.reason == "no-stars"
    with pytest.raises(PhotometryError) as caught:
        bin_frame(replace(frame, wcs=None), 3, catalogue=catalogue, config=CONFIG)
    assert caught.value.reason == "no-wcs"
