"""A WCS that a header claims: believed where the stars bear it out, a search where not.

The drawn fields are those of test_astrometry.py.
"""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from scipy.spatial import cKDTree
from test_astrometry import NEAR, SMALL, Field, camera_wcs, looking_at

from reference_pipeline.catalogues import StarTable
from reference_pipeline.catalogues.sphere import separation, unit_vectors
from reference_pipeline.config import Astrometry, Calibrate, Camera
from reference_pipeline.errors import AstrometryError
from reference_pipeline.frame import Exposure
from reference_pipeline.raw import RawFrame, claimed_wcs
from reference_pipeline.reduce.astrometry import solve
from reference_pipeline.reduce.calibrate import calibrate
from reference_pipeline.reduce.masters import Masters
from reference_pipeline.reduce.matching import verify_as_given
from reference_pipeline.reduce.plate import plate_from_wcs, plate_like, stiff_fit

SHAPE = SMALL["shape"]


def claim(field, *, dx=0.0, rotation=30.0, parity="normal", scale=1.5, ra=110.0):
    """The field's frame with a WCS that is ``dx`` pixels off in x, and plain TAN."""
    wcs = camera_wcs(
        SHAPE, ra, -70.0, scale=scale, rotation=rotation, parity=parity, distortion=0.0
    )  # fmt: skip
    wcs.wcs.crpix[0] += dx
    return replace(field.frame, wcs=wcs)


def few(field, n):
    """A catalogue that has only the ``n`` brightest stars of the frame."""
    truth = field.sources[np.isfinite(field.sources["true_ra"])]
    truth.sort("flux_auto", reverse=True)
    everything = field.catalogue.cone(110.0, -70.0, 1.0).at_epoch(2024.0)
    rows = [
        int(np.argmin(separation(everything.ra, everything.dec, t["true_ra"], t["true_dec"])))
        for t in truth[:n]
    ]
    return StarTable(everything.select(np.array(rows)), name="few")


@pytest.fixture(scope="module")
def field():
    return Field(60, **SMALL)


@pytest.mark.parametrize("dx", [0.0, 2.0, 8.0])
def test_a_header_that_is_nearly_right_saves_the_search(field, dx):
    frame = solve(claim(field, dx=dx), field.catalogue, pixel_scale=1.5)
    assert frame.steps[-1].decision["start"] == "header"
    assert field.corner_errors(frame.wcs).max() < 0.3


@pytest.mark.parametrize(
    "wrong", [{"dx": 300.0}, {"rotation": 210.0}, {"rotation": 60.0}, {"parity": "flipped"}, {"ra": 111.0}]
)
def test_a_header_that_is_wrong_is_not_believed_and_the_search_finds_the_field(field, wrong):
    frame = solve(claim(field, **wrong), field.catalogue, pixel_scale=1.5)
    assert frame.steps[-1].decision["start"] == "search"
    assert field.corner_errors(frame.wcs).max() < 0.3


def test_a_header_that_looks_where_the_catalogue_does_not_reach_is_not_believed(field):
    frame = solve(claim(field, ra=290.0), field.catalogue, pixel_scale=1.5)
    assert frame.steps[-1].decision["start"] == "search"


def test_a_frame_without_pointing_is_solved_by_its_header():
    field = looking_at(Field(60, **SMALL), None, None)
    frame = solve(claim(field), field.catalogue, pixel_scale=1.5)
    assert frame.steps[-1].decision["pointing_error"] is None
    assert field.corner_errors(frame.wcs).max() < 0.3


@pytest.mark.parametrize("n", [3, 4, 5])
def test_three_stars_confirm_a_header_and_move_it(n):
    field = Field(61, **SMALL)
    given = replace(field.frame, wcs=field.wcs.deepcopy())
    given.wcs.wcs.crpix += [0.8, -0.6]
    given.wcs.sip.crpix[:] = given.wcs.wcs.crpix
    frame = solve(given, few(field, n), pixel_scale=1.5)
    decision = frame.steps[-1].decision
    assert (decision["start"], decision["n_matched"]) == ("header", n)
    assert decision["log10_chance"] < -9
    assert field.corner_errors(frame.wcs).max() < 0.7
    assert field.corner_errors(given.wcs).max() > 0.9
    assert frame.wcs.sip is not None  # the header's distortion is kept


def test_three_stars_do_not_confirm_a_header_that_is_off():
    field = Field(61, **SMALL)
    with pytest.raises(AstrometryError) as caught:
        solve(claim(field, dx=40.0), few(field, 3), pixel_scale=1.5, config=NEAR)
    assert caught.value.reason in ("no-match", "no-reference-stars")


def test_two_stars_confirm_nothing():
    field = Field(61, **SMALL)
    with pytest.raises(AstrometryError):
        solve(replace(field.frame, wcs=field.wcs), few(field, 2), pixel_scale=1.5, config=NEAR)


@pytest.mark.parametrize("seed", range(5))
def test_few_stars_and_sources_that_are_all_false_confirm_no_header(seed):
    field = Field(61, **SMALL)
    rng = np.random.default_rng(seed)
    for name in ("x", "y"):
        field.sources[name] = rng.uniform(0, 1023, len(field.sources))
    catalogue = few(field, 8)
    with pytest.raises(AstrometryError):
        solve(claim(field), catalogue, pixel_scale=1.5, config=NEAR)


def test_a_crowded_frame_is_not_refused_because_most_sources_are_flagged():
    field = Field(62, **(SMALL | {"density": 3000.0}))
    field.sources["flags"][np.arange(len(field.sources)) % 5 > 1] = 1  # blends, beside hot pixels
    frame = solve(field.frame, field.catalogue, pixel_scale=1.5)
    assert frame.steps[-1].decision["n_matched"] < 0.5 * len(field.sources)
    assert field.corner_errors(frame.wcs).max() < 0.3


@pytest.mark.parametrize("n", [3, 6])
def test_a_stiff_fit_moves_and_keeps_the_shape(n):
    given = plate_like(Field(63, **SMALL).wcs, SHAPE)
    angle, factor = np.radians(0.05), 1.0003
    turn = np.eye(2) if n == 3 else factor * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )  # fmt: skip
    true = replace(given, dec0=given.dec0 + 0.002, coefficients=turn @ given.coefficients)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 1023, (2, n))
    found = stiff_fit(x, y, true.vectors(x, y), np.ones(n), near=given)
    corners = np.array([0.0, 1023.0, 0.0, 1023.0]), np.array([0.0, 0.0, 1023.0, 1023.0])
    apart = np.linalg.norm(found.vectors(*corners) - true.vectors(*corners), axis=1)
    assert np.degrees(apart).max() * 3600 < 2e-3  # arcsec


def test_a_plate_follows_any_projection_and_system():
    tan = camera_wcs(SHAPE, 40.0, 30.0, scale=1.5, rotation=10.0, parity="normal", distortion=0.0)
    assert plate_like(tan, SHAPE).order == 1
    header = tan.to_header()
    header["CTYPE1"], header["CTYPE2"] = "GLON-ARC", "GLAT-ARC"
    header["CRVAL1"], header["CRVAL2"], header["LONPOLE"] = 150.0, -20.0, 180.0
    other = WCS(header)
    x, y = np.array([3.0, 500.0, 1020.0]), np.array([7.0, 1000.0, 20.0])
    sky = other.pixel_to_world(x, y).icrs
    apart = np.linalg.norm(
        plate_like(other, SHAPE).vectors(x, y) - unit_vectors(sky.ra.deg, sky.dec.deg), axis=1
    )
    assert np.degrees(apart).max() * 3600 < 0.1
    assert separation(*plate_from_wcs(tan, SHAPE).sky(3.0, 7.0), *tan.all_pix2world(3.0, 7.0, 0))[0] < 1e-9


CAMERA = Camera(name="drawn", pixel_scale=1.5, gain=1.0, read_noise=5.0, saturation=6e4, trim="[11:90,21:80]")


def header(**changes):
    cards = camera_wcs(
        (100, 100), 40.0, 30.0, scale=1.5, rotation=10.0, parity="normal", distortion=0.5
    ).to_header(relax=True)
    cards.update(changes)
    return cards


def calibrated(cards):
    pixels = np.random.default_rng(0).normal(1000.0, 10.0, (100, 100)).astype(np.float32)
    exposure = Exposure("drawn", "drawn", "science", 60000.0, 10.0)
    return calibrate(RawFrame(exposure, pixels, cards), Masters(), camera=CAMERA, config=Calibrate())


@pytest.mark.parametrize("suffix", ["-SIP", ""])
def test_the_claim_is_moved_with_the_trimmed_area(suffix):
    frame = calibrated(header(CTYPE1=f"RA---TAN{suffix}", CTYPE2=f"DEC--TAN{suffix}"))
    assert frame.steps[0].decision["wcs"] == "header"
    whole = camera_wcs((100, 100), 40.0, 30.0, scale=1.5, rotation=10.0, parity="normal", distortion=0.5)
    apart = separation(*frame.wcs.all_pix2world(5.0, 9.0, 0), *whole.all_pix2world(15.0, 29.0, 0))
    assert apart * 3600 < 1e-6


@pytest.mark.parametrize(
    ("cards", "why"),
    [
        (fits.Header(), "none"),
        (fits.Header({"CTYPE1": "WAVE", "CRVAL1": 5.0, "CDELT1": 0.1, "CUNIT1": "nm"}), "not celestial"),
        (header(CDELT1=1.3, CDELT2=1.3), "pixel scale 1.95"),
        (header(PC1_1=0.0, PC1_2=0.0, PC2_1=0.0, PC2_2=0.0), "unreadable"),
        (header(CTYPE2="GLAT-TAN"), "unreadable"),
        (header(CPDIS1="LOOKUP"), "distortion tables are not read"),
    ],
)  # fmt: skip
def test_a_claim_that_cannot_be_used_is_left_and_the_record_says_why(cards, why):
    wcs, said = claimed_wcs(cards, (slice(20, 80), slice(10, 90)), CAMERA)
    assert wcs is None
    assert said.startswith(why)


def test_solve_field_too_begins_with_the_header(field):
    frame = solve(
        claim(field), field.catalogue, pixel_scale=1.5, config=Astrometry(solver="solve-field")
    )  # fmt: skip
    assert frame.steps[-1].decision["start"] == "header"


def test_chance_is_not_underestimated():
    """Of unrelated stars and sources, fewer than one in a hundred are given a chance below 1 %."""
    plate = plate_like(
        camera_wcs(SHAPE, 40.0, 30.0, scale=1.5, rotation=0, parity="normal", distortion=0), SHAPE
    )
    rng = np.random.default_rng(5)
    low = {-1: 0, -2: 0}
    n_trials = 1500
    for _ in range(n_trials):
        x, y = rng.uniform(0, 1023, (2, 3000))  # many, so that a match by chance is common
        vectors = plate.vectors(*rng.uniform(0, 1023, (2, 6)))
        found = verify_as_given(
            plate, x, y, rng.random(3000), vectors, cKDTree(vectors), shape=SHAPE, tolerance=3.0
        )  # fmt: skip
        for limit in low:
            low[limit] += found is not None and found.log10_chance < limit
    assert 0 < low[-1] < 0.1 * n_trials
    assert low[-2] < 0.01 * n_trials
