"""A product is the frame: what is written comes back equal, whole or not at all."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from reference_pipeline.errors import FileError
from reference_pipeline.frame import Exposure, Frame, MaskBit, Quality, Step, ZeroPoint
from reference_pipeline.products import input_digest_of, read_product, read_summary, status_of, write_product
from reference_pipeline.psf import Psf, exponents

SHAPE = (40, 50)


def a_wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN-SIP", "DEC--TAN-SIP"
    wcs.wcs.crval, wcs.wcs.crpix = (150.0, 2.0), (25.5, 20.5)
    wcs.wcs.cd = np.array([[-1e-4, 1e-6], [1e-6, 1e-4]])
    a, b = np.zeros((3, 3)), np.zeros((3, 3))
    a[2, 0], b[0, 2] = 1e-6, -2e-6
    from astropy.wcs import Sip

    wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


@pytest.fixture
def frame():
    rng = np.random.default_rng(1)
    return Frame(
        exposure=Exposure("n1_0007", "ast3", "science", 60310.25, 60.0, "g", 150.1, 2.1, 1.2, "F17", "17"),
        data=rng.normal(100, 10, SHAPE).astype(np.float32),
        variance=np.full(SHAPE, 100, np.float32),
        mask=rng.choice(np.array([0, MaskBit.BAD, MaskBit.TRAIL], np.uint16), SHAPE),
        gain=1.7,
        wcs=a_wcs(),
        psf=Psf(rng.random((len(exponents(1)), 9, 9)), 1, 2, SHAPE),
        zero_point=ZeroPoint(27.25, 0.003, "g", (0, 0.01, -0.02, 0, 0.005, 0.0), 0.04, "g-r", 321, 0.012),
        background=np.full(SHAPE, 100, np.float32),
        sources=Table({"x": [1.5, 2.5], "y": [3.0, 4.0], "is_calibration": [True, False]}),
        quality=Quality(3.2, 0.05, 100.0, 10.0, 20.25, 0.998),
        thumbnail=rng.integers(0, 255, (256, 256)).astype(np.uint8),
        steps=(
            Step("calibrate", 0.5, {"n_bad": 12, "overscan": "median per line", "ok": True}),
            Step("astrometry", 1.25, {"median_ra": -3.5, "why": "a very long reason " * 9, "none": None}),
        ),
    )


def test_every_part_comes_back_equal(frame, tmp_path):
    path = tmp_path / "deep" / "a.fits"
    write_product(path, frame, input_digest="abc")
    back = read_product(path)
    for part in fields(Frame):
        given, found = getattr(frame, part.name), getattr(back, part.name)
        if isinstance(given, np.ndarray):
            assert found.dtype == given.dtype
            assert found.dtype.isnative
            np.testing.assert_array_equal(found, given)
        elif part.name not in ("wcs", "psf", "sources"):
            assert found == given, part.name
    np.testing.assert_array_equal(back.psf.images, frame.psf.images)
    assert back.psf.shape == SHAPE
    assert back.sources.colnames == frame.sources.colnames
    assert list(back.sources["is_calibration"]) == [True, False]
    xy = np.random.default_rng(2).uniform(0, 40, (2, 30))
    np.testing.assert_allclose(
        back.wcs.pixel_to_world_values(*xy), frame.wcs.pixel_to_world_values(*xy), atol=1e-10
    )
    assert input_digest_of(path) == "abc"
    assert status_of(path) == "calibrated"


def test_a_frame_that_came_less_far_is_written_with_what_there_is(frame, tmp_path):
    bare = replace(
        frame,
        wcs=None,
        psf=None,
        zero_point=None,
        background=None,
        sources=None,
        quality=None,
        thumbnail=None,
    )
    write_product(tmp_path / "a.fits", bare, status="astrometry: no-match")
    back = read_product(tmp_path / "a.fits")
    assert back.wcs is None
    assert back.zero_point is None
    assert back.sources is None
    assert back.quality is None
    assert status_of(tmp_path / "a.fits") == "astrometry: no-match"


def test_stock_tools_find_wcs_zero_point_and_mask_names(frame, tmp_path):
    write_product(tmp_path / "a.fits", frame)
    with fits.open(tmp_path / "a.fits") as hdus:
        hdus.verify("exception")
        science = hdus["SCI"].header
        assert science["BUNIT"] == "electron"
        assert science["CTYPE1"] == "RA---TAN-SIP"
        assert science["MAGZP"] == 27.25
        assert hdus["MASK"].header["MSK2"] == "BAD"
        assert hdus[0].header["RP CALIBRATE N_BAD"] == 12
        decisions = [json.loads(row) for row in hdus["STEPS"].data["decision"]]
    assert decisions[1]["why"] == "a very long reason " * 9


def test_nothing_half_written_stays_behind(frame, tmp_path, monkeypatch):
    write_product(tmp_path / "a.fits", frame, input_digest="first")

    def full_disk(self, *args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(fits.HDUList, "writeto", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_product(tmp_path / "a.fits", frame, input_digest="second")
    assert input_digest_of(tmp_path / "a.fits") == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.fits"]


@pytest.mark.parametrize(
    "content", [b"", b"not FITS at all", b"SIMPLE  =                    T" + b" " * 3000]
)
def test_what_is_no_product_is_refused_by_name(tmp_path, content):
    path = tmp_path / "other.fits"
    path.write_bytes(content)
    with pytest.raises(FileError, match="other"):
        read_product(path)


def test_a_truncated_product_is_refused(frame, tmp_path):
    path = tmp_path / "a.fits"
    write_product(path, frame)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(FileError):
        read_product(path)


def test_a_summary_says_what_the_frame_is_without_its_pixels(frame, tmp_path):
    path = tmp_path / "a.fits"
    write_product(path, frame, input_digest="abc")
    summary = read_summary(path)
    assert (summary.exposure, summary.quality, summary.zero_point) == (
        frame.exposure, frame.quality, frame.zero_point
    )  # fmt: skip
    assert (summary.input_digest, summary.shape, summary.has_psf) == ("abc", SHAPE, True)
    np.testing.assert_allclose(summary.wcs.all_pix2world([[3, 4]], 0), frame.wcs.all_pix2world([[3, 4]], 0))
    with pytest.raises(FileError, match="not-a-product"):
        read_summary(tmp_path / "absent.fits")
