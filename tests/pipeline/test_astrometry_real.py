"""Astrometry on real frames: the 15 of the HAT-P-32 series, drifting, full of hot pixels, without WCS."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from scipy.spatial import cKDTree

from reference_pipeline.catalogues import FileCatalogue, Tycho2
from reference_pipeline.catalogues.sphere import separation, unit_vectors
from reference_pipeline.catalogues.tycho2 import DEBIAN_FOLDER, PATTERN
from reference_pipeline.config import Astrometry, Sources, load_camera
from reference_pipeline.frame import Exposure, Frame, MaskBit
from reference_pipeline.reduce.astrometry import solve
from reference_pipeline.reduce.sources import find_sources

pytestmark = pytest.mark.shared_data

SERIES = "images/rzellem+EXOTIC_sampledata/HatP32Dec202017"
CECILIA = load_camera("cecilia")


def read(path: Path) -> Frame:
    """A raw frame with sources; no calibration frames exist, so that hot pixels stay in."""
    header, data = fits.getheader(path), fits.getdata(path).astype(np.float32)
    mask = np.where(data >= CECILIA.saturation, MaskBit.SATURATED, 0).astype(np.uint16)
    electrons = data * CECILIA.gain
    exposure = Exposure(
        path.stem,
        "cecilia",
        "science",
        header["MJD-OBS"],
        header["EXPTIME"],
        "vt",
        header["RA"],
        header["DEC"],
    )
    variance = electrons + np.float32(CECILIA.read_noise**2)
    return find_sources(Frame(exposure, electrons, variance, mask, CECILIA.gain), config=Sources())


@pytest.fixture(scope="module")
def series(request):
    folder = Path(__file__).parents[3] / "shared" / "data" / SERIES
    frames = [read(path) for path in sorted(folder.glob("*.FITS"))]
    assert len(frames) == 15
    return frames


@pytest.fixture(scope="module")
def catalogue():
    return FileCatalogue(Path(__file__).parents[3] / "shared" / "data" / "catalogues" / "tycho2_hatp32.csv")


@pytest.fixture(scope="module")
def solved(series, catalogue):
    return [solve(frame, catalogue, pixel_scale=CECILIA.pixel_scale) for frame in series]


def corners(shape):
    ny, nx = shape
    return np.array([0, nx - 1, 0, nx - 1, (nx - 1) / 2]), np.array([0, 0, ny - 1, ny - 1, (ny - 1) / 2])


def test_all_frames_are_solved_without_a_binary_and_with_a_low_order(solved):
    for frame in solved:
        decision = frame.steps[-1].decision
        assert decision["solver"] == "own"
        assert decision["n_matched"] >= 30
        assert decision["log10_chance"] < -20
        assert decision["order"] <= 2
        assert decision["floor_pixels"] < 0.25
        assert decision["pixel_scale"] == pytest.approx(5.164, abs=0.005)
        assert decision["parity"] == CECILIA.parity


@pytest.mark.slow
def test_frames_agree_with_solve_field_within_a_pixel_at_the_corners(series, solved, catalogue):
    if shutil.which("solve-field") is None or not list(DEBIAN_FOLDER.glob(PATTERN)):
        pytest.skip("needs solve-field and astrometry-data-tycho2")
    for frame, ours in zip(series, solved):
        theirs = solve(
            frame, catalogue, pixel_scale=CECILIA.pixel_scale, config=Astrometry(solver="solve-field")
        )
        assert theirs.steps[-1].decision["solver"] == "solve-field"
        x, y = corners(frame.shape)
        back = ours.wcs.all_world2pix(*theirs.wcs.all_pix2world(x, y, 0), 0)
        assert np.hypot(back[0] - x, back[1] - y).max() < 1.0


@pytest.mark.slow
def test_frames_agree_with_what_solve_field_alone_says(series, solved):
    from reference_pipeline.reduce.astrometry import solve_field, usable_stars

    if shutil.which("solve-field") is None or not list(DEBIAN_FOLDER.glob(PATTERN)):
        pytest.skip("needs solve-field and astrometry-data-tycho2")
    for frame, ours in zip(series, solved):
        config = Astrometry()
        wcs = solve_field(frame, usable_stars(frame, config), pixel_scale=CECILIA.pixel_scale, config=config)
        x, y = corners(frame.shape)
        back = ours.wcs.all_world2pix(*wcs.all_pix2world(x, y, 0), 0)
        assert np.hypot(back[0] - x, back[1] - y).max() < 1.0


def test_stars_stay_in_place_from_frame_to_frame(solved):
    first = solved[0]
    stars = first.sources[first.sources["snr"] > 50]
    ra, dec = first.wcs.all_pix2world(stars["x"], stars["y"], 0)
    scatter = []
    for frame in solved[1:]:
        others = frame.sources[frame.sources["snr"] > 50]
        other_ra, other_dec = frame.wcs.all_pix2world(others["x"], others["y"], 0)
        tree = cKDTree(unit_vectors(other_ra, other_dec))
        distance, row = tree.query(unit_vectors(ra, dec), distance_upper_bound=np.radians(5.164 / 3600))
        near = np.isfinite(distance)
        assert near.sum() >= 20  # the last frame shows half of the first one's field
        cos = np.cos(np.radians(dec[near]))
        apart = [(other_ra[row[near]] - ra[near]) * cos, other_dec[row[near]] - dec[near]]
        scatter.append([1.4826 * np.median(np.abs(d - np.median(d))) * 3600 / 5.164 for d in apart])
        assert np.hypot(*(np.median(d) * 3600 / 5.164 for d in apart)) < 0.3
    assert np.max(scatter) <= 0.3


@pytest.mark.slow
def test_a_pointing_degrees_off_is_found_in_the_whole_of_tycho2(series, solved):
    if not list(DEBIAN_FOLDER.glob(PATTERN)):
        pytest.skip("needs astrometry-data-tycho2")
    from dataclasses import replace

    frame, right = series[7], solved[7]
    off = replace(frame, exposure=replace(frame.exposure, ra=frame.exposure.ra + 3.5, dec=45.0))
    found = solve(off, Tycho2(), pixel_scale=CECILIA.pixel_scale)
    x, y = corners(frame.shape)
    apart = separation(*found.wcs.all_pix2world(x, y, 0), *right.wcs.all_pix2world(x, y, 0)) * 3600
    assert apart.max() < 0.5 * 5.164
    assert found.steps[-1].decision["pointing_error"] > 2.5


@pytest.mark.slow
def test_a_pointing_90_degrees_off_finds_nothing_in_the_whole_of_tycho2(series):
    if not list(DEBIAN_FOLDER.glob(PATTERN)):
        pytest.skip("needs astrometry-data-tycho2")
    import time
    from dataclasses import replace

    from reference_pipeline.errors import AstrometryError

    frame = series[0]
    wrong = replace(frame, exposure=replace(frame.exposure, ra=frame.exposure.ra + 130.0, dec=20.0))
    Tycho2().cone(0.0, 0.0, 1.0)  # the reading of the catalogue is not the solver's time
    started = time.process_time()
    with pytest.raises(AstrometryError) as caught:
        solve(wrong, Tycho2(), pixel_scale=CECILIA.pixel_scale)
    assert caught.value.reason == "no-match"
    assert time.process_time() - started < 20
