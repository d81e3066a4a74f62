"""Real raw frames through the command, as a night: what is calibrated, what is refused, in which words."""

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from typer.testing import CliRunner

from reference_pipeline.catalogues.tycho2 import DEBIAN_FOLDER, PATTERN
from reference_pipeline.cli import app
from reference_pipeline.products import read_product, status_of

pytestmark = [pytest.mark.shared_data, pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")]

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
IMAGES, CATALOGUES = DATA / "images", DATA / "catalogues"
SETTINGS = ROOT / "benchmarks" / "real_frames"
QHY163M = IMAGES / "Stavrosch+Asteroid-Detection" / "demo-fits" / "272_mpc_1.1_00001.fits"
HUNTSMAN = IMAGES / "AstroHuntsman+huntsman-drp" / "tests" / "data" / "raw"
HATP32 = IMAGES / "rzellem+EXOTIC_sampledata" / "HatP32Dec202017"


def reduce(raw, out, *arguments):
    """Reduce ``raw``; what the report says of each frame, by id, and the exit status."""
    words = ["reduce", raw, "-o", out, *arguments]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code in (0, 1), result.output
    frames = json.loads((out / "report.json").read_text())["frames"]
    return {frame["id"]: frame for frame in frames}, result.exit_code


def decision(frame, step):
    return next(s["decision"] for s in frame["steps"] if s["name"] == step)


@pytest.fixture(scope="module")
def qhy163m(tmp_path_factory):
    """The frame as it came, and without the WCS in its header, in one night."""
    folder = tmp_path_factory.mktemp("qhy163m")
    with fits.open(QHY163M) as hdus:
        hdus.writeto(folder / "as-it-came.fits")
        for name in list(hdus[0].header):
            if name.startswith(("CTYPE", "CRVAL", "CRPIX", "CDELT", "CROTA", "CD1_", "CD2_")):
                del hdus[0].header[name]
        hdus.writeto(folder / "without-wcs.fits")
    out = tmp_path_factory.mktemp("reduced")
    frames, _ = reduce(
        folder,
        out,
        "--config",
        SETTINGS / "qhy163m.toml",
        "--catalogue",
        CATALOGUES / "tycho2_qhy163m.csv",
        "--no-psf",
        "--workers",
        1,
    )
    return out, frames


def test_three_stars_solve_the_qhy163m_frame_from_its_header(qhy163m):
    out, frames = qhy163m
    found = decision(frames["as-it-came"], "astrometry")
    assert (found["start"], found["n_matched"], found["n_expected"]) == ("header", 3, 3)
    assert found["log10_chance"] < -9
    frame = read_product(out / "failed" / "as-it-came.fits")
    claimed = WCS(fits.getheader(QHY163M))
    x, y = np.array([0, 1163, 0, 1163]), np.array([0, 0, 878, 878])
    back = claimed.all_world2pix(*frame.wcs.all_pix2world(x, y, 0), 0)
    assert np.hypot(back[0] - x, back[1] - 1 - y).max() < 1.0  # the first row is trimmed


def test_three_saturated_stars_give_no_zero_point_and_that_is_said(qhy163m):
    out, frames = qhy163m
    frame = frames["as-it-came"]
    assert (frame["status"], frame["stage"], frame["reason"]) == ("failed", "photometry", "too-few-matches")
    assert status_of(out / "failed" / "as-it-came.fits") == "photometry: too-few-matches"


def test_without_the_header_three_stars_match_nothing(qhy163m):
    out, frames = qhy163m
    frame = frames["without-wcs"]
    assert (frame["stage"], frame["reason"]) == ("astrometry", "no-match")
    assert "none fits" in frame["message"]
    assert read_product(out / "failed" / "without-wcs.fits").wcs is None


@pytest.fixture(scope="module")
def huntsman(tmp_path_factory):
    """Raw bias, dark, flat and science frame of one camera, as a night."""
    if not list(DEBIAN_FOLDER.glob(PATTERN)):
        pytest.skip("needs astrometry-data-tycho2")
    out = tmp_path_factory.mktemp("huntsman")
    frames, status = reduce(HUNTSMAN, out, "--camera", "huntsman", "--catalogue", "tycho2", "--no-psf")
    return out, frames, status


@pytest.mark.slow
def test_huntsman_raw_frames_become_masters_and_a_frame_in_electrons(huntsman):
    out, frames, _ = huntsman
    assert {name: frame["status"] for name, frame in frames.items()} == {
        "bias_0": "master", "dark_0": "master", "flat_0": "master", "science_0": "failed"
    }  # fmt: skip
    assert sorted(path.name for path in (out / "masters").glob("*.fits")) == [
        "bias.fits", "dark.fits", "flat-g.fits"
    ]  # fmt: skip
    calibrated = decision(frames["science_0"], "calibrate")
    assert [calibrated[kind] for kind in ("bias", "dark", "flat")] == ["median of 1"] * 3
    frame = read_product(out / "failed" / "science_0.fits")
    sources = frame.sources
    assert len(sources) > 100
    assert sources["is_calibration"].sum() >= 10
    # The sky's scatter between neighbours is what the variance says, or a little less: masters of one frame
    # are charged with the read noise, and this bias is a constant.
    good = (frame.mask == 0)[:, 1:] & (frame.mask == 0)[:, :-1]
    low, high = np.percentile(np.diff(frame.data - frame.background, axis=1)[good], [15.87, 84.13])
    expected = np.sqrt(np.median(frame.variance[:, 1:][good]))
    assert 0.85 < (high - low) / np.sqrt(8.0) / expected < 1.02


@pytest.mark.slow
def test_a_header_of_the_whole_chip_on_a_part_of_it_is_not_believed(huntsman):
    """The science frame is a piece of 800² pixels of 5496 × 3672, and keeps the whole's WCS."""
    out, frames, status = huntsman
    assert status == 1
    assert decision(frames["science_0"], "calibrate")["wcs"] == "header"
    assert (frames["science_0"]["stage"], frames["science_0"]["reason"]) == ("astrometry", "no-match")
    assert read_product(out / "failed" / "science_0.fits").wcs is None


@pytest.fixture(scope="module")
def hatp32(tmp_path_factory):
    out = tmp_path_factory.mktemp("hatp32")
    frames, status = reduce(
        HATP32, out, "--config", SETTINGS / "hatp32.toml", "--catalogue", CATALOGUES / "tycho2_hatp32.csv"
    )
    assert status == 0, [(f["id"], f["message"]) for f in frames.values() if f["message"]]
    return [read_product(path) for path in sorted((out / "calibrated").glob("*.fits"))]


@pytest.mark.slow
def test_the_hatp32_series_is_calibrated_whole(hatp32):
    assert len(hatp32) == 15
    for frame in hatp32:
        astrometry = next(step.decision for step in frame.steps if step.name == "astrometry")
        assert astrometry["start"] == "search"
        assert astrometry["n_matched"] >= 20
        assert astrometry["floor_pixels"] < 0.25
        assert frame.zero_point.band == "vt"
        assert frame.zero_point.n_stars >= 5
        assert 16.5 < frame.quality.limiting_magnitude < 18.5


@pytest.mark.slow
def test_zero_points_of_the_hatp32_series_agree_from_frame_to_frame(hatp32):
    values = np.array([frame.zero_point.value for frame in hatp32])
    assert values.std() < 0.15  # the colours of a dozen stars, and air mass 1.04 to 2


@pytest.mark.slow
def test_frames_of_the_hatp32_series_have_a_psf(hatp32):
    for frame in hatp32:
        assert frame.psf is not None
        assert frame.psf.at(325.0, 250.0).sum() == pytest.approx(frame.psf.oversampling**2, rel=1e-6)
        measured = np.isfinite(frame.sources["flux_psf"])
        assert measured.sum() > 0.5 * len(frame.sources)
