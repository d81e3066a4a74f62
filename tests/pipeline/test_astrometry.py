"""Astrometry on star lists with known truth: fields found, plates fitted to milliarcseconds, refusals named.

The lists are drawn, not measured: a catalogue over several degrees, a camera with distortion, positions with
the noise fwhm / 2.35 / snr, stars missing on either side, sources that are no stars.
"""

import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from reference_pipeline.catalogues import ReferenceStars, StarTable
from reference_pipeline.catalogues.sphere import separation, unit_vectors
from reference_pipeline.config import Astrometry
from reference_pipeline.errors import AstrometryError, CatalogueError, ConfigError
from reference_pipeline.frame import Exposure, Frame
from reference_pipeline.reduce.astrometry import solve
from reference_pipeline.reduce.matching import sweep_order
from reference_pipeline.reduce.plate import Plate, fit_plate, plate_from_wcs

AST3 = (10654, 14206)  # (ny, nx)
SCALE = 0.41  # arcsec
MJD = 60310.0  # 2024.0
FWHM = 5.0  # pixels: 2″
SLOW = pytest.mark.slow


def camera_wcs(shape, ra, dec, *, scale, rotation, parity, distortion):
    """A TAN-SIP truth: cubic radial distortion of ``distortion`` pixels at the corners, and some coma."""
    ny, nx = shape
    header = fits.Header()
    suffix = "-SIP" if distortion else ""
    header["CTYPE1"], header["CTYPE2"] = f"RA---TAN{suffix}", f"DEC--TAN{suffix}"
    header["CRVAL1"], header["CRVAL2"] = ra, dec
    header["CRPIX1"], header["CRPIX2"] = nx / 2 + 0.5, ny / 2 + 0.5
    c, s, x = np.cos(np.radians(rotation)), np.sin(np.radians(rotation)), -1 if parity == "normal" else 1
    cd = np.array([[x * c, s], [-x * s, c]]) * scale / 3600
    for i in (0, 1):
        for j in (0, 1):
            header[f"CD{i + 1}_{j + 1}"] = cd[i, j]
    if distortion:
        r = np.hypot(nx, ny) / 2
        cubic, square = distortion / r**3, 0.2 * distortion / r**2
        header["A_ORDER"] = header["B_ORDER"] = 3
        header["A_3_0"] = header["A_1_2"] = header["B_0_3"] = header["B_2_1"] = cubic
        header["A_2_0"], header["A_1_1"], header["B_0_2"] = square, -0.7 * square, 0.5 * square
    return WCS(header)


def cap(rng, ra, dec, radius, n):
    """``n`` places spread evenly within ``radius`` degrees."""
    z = 1 - rng.random(n) * (1 - np.cos(np.radians(radius)))
    angle = rng.random(n) * 2 * np.pi
    sine = np.sqrt(1 - z**2)
    a, d = np.radians(ra), np.radians(dec)
    east = np.array([-np.sin(a), np.cos(a), 0])
    north = np.array([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)])
    out = np.array([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    v = (sine * np.cos(angle))[:, None] * east + (sine * np.sin(angle))[:, None] * north + z[:, None] * out
    return np.degrees(np.arctan2(v[:, 1], v[:, 0])) % 360, np.degrees(np.arcsin(v[:, 2]))


class Field:
    """A frame with sources, the catalogue around it, and the truth of both."""

    def __init__(
        self, seed=0, *, shape=AST3, scale=SCALE, ra=110.0, dec=-70.0, rotation=30.0, parity="normal",
        distortion=12.0, density=1500.0, radius=3.0, off=0.0, spurious=0.1, depth=17.0,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        n = int(density * 2 * np.pi * (1 - np.cos(np.radians(radius))) * (180 / np.pi) ** 2)
        sky_ra, sky_dec = cap(rng, ra, dec, radius, n)
        magnitude = depth + np.log10(rng.uniform(1e-6, 1, n)) / 0.35
        pmra, pmdec = rng.normal(0, 15, (2, n))
        error = 0.3  # mas, of a Gaia-like catalogue at the epoch of the frame
        years = 2024.0 - 2016.0
        true_dec = sky_dec + (pmdec * years + rng.normal(0, error, n)) / 3.6e6
        true_ra = sky_ra + (pmra * years + rng.normal(0, error, n)) / 3.6e6 / np.cos(np.radians(sky_dec))
        stars = ReferenceStars(sky_ra, sky_dec, 2016.0, pmra, pmdec, {"g": magnitude}, source="drawn")
        listed = rng.random(n) > 0.05
        self.catalogue = StarTable(stars.select(listed), name="drawn")
        self.wcs = camera_wcs(
            shape, ra, dec, scale=scale, rotation=rotation, parity=parity, distortion=distortion
        )
        near = separation(sky_ra, sky_dec, ra, dec) < np.hypot(*shape) * scale / 3600 * 0.55
        x, y = self.wcs.all_world2pix(true_ra[near], true_dec[near], 0)
        m = magnitude[near]
        inside = (x > 0) & (x < shape[1] - 1) & (y > 0) & (y < shape[0] - 1) & (rng.random(len(x)) > 0.05)
        flux = 10 ** (-0.4 * (m - 25.0))
        snr = flux / np.sqrt(flux + 4.0e3)
        inside &= snr > 5
        saturated = flux > 2.0e6
        noise = np.where(saturated, 0.7, FWHM / 2.3548 / snr) * rng.normal(size=(2, len(x)))
        n_false = int(spurious * inside.sum())
        self.sources = Table(
            {
                "x": np.append((x + noise[0])[inside], rng.uniform(0, shape[1], n_false)),
                "y": np.append((y + noise[1])[inside], rng.uniform(0, shape[0], n_false)),
                "flux_auto": np.append(np.minimum(flux, 2.0e6)[inside], 10 ** rng.uniform(3, 6, n_false)),
                "snr": np.append(snr[inside], rng.uniform(5, 500, n_false)),
                "flags": np.append(np.where(saturated, 4, 0)[inside], np.zeros(n_false, int)),
                "fwhm": np.full(inside.sum() + n_false, FWHM),
                "is_calibration": np.append((~saturated & (snr > 20))[inside], np.zeros(n_false, bool)),
                "true_ra": np.append(true_ra[near][inside], np.full(n_false, np.nan)),
                "true_dec": np.append(true_dec[near][inside], np.full(n_false, np.nan)),
            }
        )
        towards = rng.uniform(0, 2 * np.pi)
        exposure = Exposure(
            f"field-{seed}", "drawn", "science", MJD, 60.0, "g",
            ra + off * np.cos(towards) / np.cos(np.radians(dec)), dec + off * np.sin(towards),
        )  # fmt: skip
        empty = np.broadcast_to(np.float32(0), shape)  # the solver looks at no pixel
        self.frame = Frame(exposure, empty, empty, np.broadcast_to(np.uint16(0), shape), sources=self.sources)
        self.shape = shape

    def corner_errors(self, wcs):
        """Pixels between ``wcs`` and the truth, at the corners and the middle."""
        ny, nx = self.shape
        x, y = np.array([0, nx - 1, 0, nx - 1, nx / 2]), np.array([0, 0, ny - 1, ny - 1, ny / 2])
        found = wcs.all_world2pix(*self.wcs.all_pix2world(x, y, 0), 0, maxiter=50)
        return np.hypot(found[0] - x, found[1] - y)


def residuals(field, wcs, min_snr):
    """(2, n) mas: measured positions through ``wcs`` minus where the stars truly are."""
    t = field.sources[(field.sources["snr"] > min_snr) & np.isfinite(field.sources["true_ra"])]
    t = t[t["flags"] == 0]
    ra, dec = wcs.all_pix2world(t["x"], t["y"], 0)
    return 3.6e6 * np.array([(ra - t["true_ra"]) * np.cos(np.radians(t["true_dec"])), dec - t["true_dec"]])


def looking_at(field, ra, dec):
    field.frame = replace(field.frame, exposure=replace(field.frame.exposure, ra=ra, dec=dec))
    return field


def mad(values):
    return 1.4826 * np.median(np.abs(values - np.median(values)))


@pytest.fixture(scope="module", params=[0, 1])
def solved(request):
    field = Field(request.param, rotation=30.0 + 170.0 * request.param, off=1.0)
    return field, solve(field.frame, field.catalogue, pixel_scale=SCALE)


def test_an_ast3_field_is_placed_to_milliarcseconds(solved):
    field, frame = solved
    for min_snr, most in ((20, 40.0), (100, 10.0)):
        left = residuals(field, frame.wcs, min_snr)
        assert left.shape[1] > 200
        assert np.abs(np.median(left, axis=1)).max() < 20.0
        assert max(mad(axis) for axis in left) < most


def test_the_plate_itself_is_right_to_a_few_milliarcseconds_all_over(solved):
    field, frame = solved
    ny, nx = field.shape
    x, y = (g.ravel() for g in np.meshgrid(np.linspace(0, nx - 1, 9), np.linspace(0, ny - 1, 9)))
    apart = separation(*field.wcs.all_pix2world(x, y, 0), *frame.wcs.all_pix2world(x, y, 0)) * 3.6e6
    # 2,500 stars of 5 to 40 mas determine 20 parameters: 1 mas in the field, some times that at corners
    assert np.median(apart) < 4.0
    assert apart.max() < 20.0


def test_the_recorded_residuals_are_those_of_the_stars(solved):
    field, frame = solved
    step = frame.steps[-1]
    assert step.name == "astrometry"
    assert step.decision["order"] == 3  # the order of the truth
    assert step.decision["catalogue"] == "drawn"
    for suffix, min_snr in (("_snr20", 20), ("_snr100", 100)):
        left = residuals(field, frame.wcs, min_snr)
        assert 0.7 * left.shape[1] < step.decision[f"n_stars{suffix}"] <= left.shape[1] * 1.02
        for axis, name in zip(left, ("ra", "dec")):
            assert step.decision[f"scatter_{name}_mas{suffix}"] == pytest.approx(mad(axis), rel=0.25)
            assert abs(step.decision[f"offset_{name}_mas{suffix}"]) < 5.0
    assert step.decision["pixel_scale"] == pytest.approx(SCALE, rel=1e-3)
    assert step.decision["parity"] == "normal"
    assert step.decision["pointing_error"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("parity", ["normal", "flipped"])
@pytest.mark.parametrize("rotation", [0.0, 97.0, 180.0, 251.0])
def test_any_rotation_and_either_parity_are_found(rotation, parity):
    field = Field(5, shape=(1024, 1024), scale=1.5, rotation=rotation, parity=parity, distortion=2.0, off=0.5)
    frame = solve(field.frame, field.catalogue, pixel_scale=1.5)
    assert field.corner_errors(frame.wcs).max() < 0.3
    assert frame.steps[-1].decision["parity"] == parity


@pytest.mark.parametrize("off", [0.0, pytest.param(2.0, marks=SLOW), pytest.param(3.9, marks=SLOW)])
def test_a_pointing_degrees_off_is_found(off):
    field = Field(6, shape=(2048, 2048), scale=1.5, distortion=3.0, density=500, radius=9.0, off=off)
    started = time.process_time()
    frame = solve(field.frame, field.catalogue, pixel_scale=1.5)
    assert time.process_time() - started < 20
    assert field.corner_errors(frame.wcs).max() < 0.3


@pytest.mark.parametrize("factor", [0.975, 1.025])
def test_a_pixel_scale_known_to_a_few_per_cent_is_enough(factor):
    field = Field(7, shape=(1024, 1024), scale=1.5, distortion=2.0, off=0.3)
    frame = solve(field.frame, field.catalogue, pixel_scale=1.5 * factor)
    assert field.corner_errors(frame.wcs).max() < 0.3


@pytest.mark.parametrize(("ra", "dec"), [(0.02, 30.0), (200.0, 89.7), (70.0, -89.9)])
def test_fields_at_0_h_and_at_the_poles_are_found(ra, dec):
    field = Field(8, shape=(1024, 1024), scale=1.5, ra=ra, dec=dec, distortion=2.0)
    frame = solve(field.frame, field.catalogue, pixel_scale=1.5)
    assert field.corner_errors(frame.wcs).max() < 0.3


def test_a_field_is_found_among_as_many_false_sources_as_stars():
    field = Field(9, shape=(1024, 1024), scale=1.5, distortion=2.0, spurious=1.0, off=0.3)
    frame = solve(field.frame, field.catalogue, pixel_scale=1.5)
    assert field.corner_errors(frame.wcs).max() < 0.3


@pytest.mark.parametrize(("density", "order"), [(120.0, 1), (2500.0, 3)])
def test_the_order_is_lower_where_stars_are_few(density, order):
    field = Field(10, shape=(1024, 1024), scale=1.5, distortion=3.0, density=density, radius=1.5, depth=15.0)
    frame = solve(field.frame, field.catalogue, pixel_scale=1.5)
    found = frame.steps[-1].decision["order"]
    assert found <= order if order == 1 else found == order


def test_a_camera_without_distortion_gets_a_plain_tan():
    field = Field(11, shape=(1024, 1024), scale=1.5, distortion=0.0, density=2500.0, radius=1.5)
    frame = solve(field.frame, field.catalogue, pixel_scale=1.5)
    assert frame.steps[-1].decision["order"] == 1
    assert frame.wcs.sip is None
    assert list(frame.wcs.wcs.ctype) == ["RA---TAN", "DEC--TAN"]


def refusal(field, catalogue=None, **options):
    with pytest.raises(AstrometryError) as caught:
        solve(
            field.frame, catalogue or field.catalogue, pixel_scale=options.pop("pixel_scale", 1.5), **options
        )
    return caught.value


SMALL = {"shape": (1024, 1024), "scale": 1.5, "distortion": 2.0, "density": 400.0}
NEAR = Astrometry(search_radius=1.0)  # a search that fails takes as long as it is wide


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_pointing_90_degrees_off_finds_nothing_and_says_so(seed):
    field = Field(20 + seed, **SMALL, ra=10.0, dec=0.0)
    elsewhere = Field(30 + seed, **SMALL, ra=100.0, dec=0.0, radius=5.5)
    started = time.process_time()
    error = refusal(looking_at(field, 100.0, 0.0), catalogue=elsewhere.catalogue)
    assert error.reason == "no-match"
    assert "none fits" in str(error)
    assert time.process_time() - started < 20


def test_sources_that_are_all_false_match_nothing():
    field = Field(40, **SMALL)
    rng = np.random.default_rng(1)
    field.sources["x"] = rng.uniform(0, 1023, len(field.sources))
    field.sources["y"] = rng.uniform(0, 1023, len(field.sources))
    assert refusal(field, config=NEAR).reason == "no-match"


def test_a_wrong_pixel_scale_matches_nothing():
    assert refusal(Field(41, **SMALL), pixel_scale=1.2, config=NEAR).reason == "no-match"


def test_a_camera_of_the_other_parity_matches_nothing():
    field = Field(42, **SMALL, parity="flipped")
    assert refusal(field, parity="normal", config=NEAR).reason == "no-match"


def test_a_frame_without_stars_is_refused():
    field = Field(43, **SMALL)
    field.sources.remove_rows(np.arange(3, len(field.sources)))
    error = refusal(field)
    assert (error.reason, error.frame_id, error.stage) == ("no-stars", "field-43", "astrometry")
    field.sources.remove_rows(np.arange(len(field.sources)))
    assert refusal(field).reason == "no-stars"


def test_a_frame_without_pointing_is_refused():
    field = looking_at(Field(44, **SMALL), None, None)
    assert refusal(field).reason == "no-pointing"


def test_a_catalogue_that_does_not_reach_the_frame_is_refused():
    field = looking_at(Field(45, **SMALL), 290.0, 60.0)
    error = refusal(field)
    assert error.reason == "no-reference-stars"
    assert "290.0000, +60.0000" in str(error)


def test_a_catalogue_that_cannot_be_read_is_not_the_frames_fault():
    class Broken:
        def cone(self, ra, dec, radius):
            raise CatalogueError("disk on fire")

    with pytest.raises(CatalogueError, match="disk on fire"):
        solve(Field(46, **SMALL).frame, Broken(), pixel_scale=1.5)


def test_positions_too_noisy_to_trust_are_refused():
    field = Field(47, **SMALL)
    rng = np.random.default_rng(2)
    field.sources["x"] += rng.normal(0, 1.2, len(field.sources))
    field.sources["y"] += rng.normal(0, 1.2, len(field.sources))
    error = refusal(field)
    assert error.reason == "bad-residuals"
    assert "pixels per axis" in str(error)


def test_a_band_that_the_catalogue_lacks_is_a_mistake_of_the_configuration():
    with pytest.raises(ConfigError, match="no band 'z'; it has g"):
        solve(Field(48, **SMALL).frame, Field(48, **SMALL).catalogue, pixel_scale=1.5,
              config=Astrometry(band="z"))  # fmt: skip


def test_solve_field_where_it_is_missing_is_a_mistake_of_the_configuration(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    field = Field(49, **SMALL)
    with pytest.raises(ConfigError, match="not installed"):
        solve(field.frame, field.catalogue, pixel_scale=1.5, config=Astrometry(solver="solve-field"))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_plate_its_wcs_and_its_inverse_agree(order):
    shape = (4000, 6000)
    truth = camera_wcs(shape, 40.0, 60.0, scale=0.8, rotation=33.0, parity="normal", distortion=9.0)
    plate = plate_from_wcs(truth, shape, order=order)
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0, 5999, 200), rng.uniform(0, 3999, 200)
    wcs = plate.wcs(shape)
    ra, dec = plate.sky(x, y)
    apart = separation(ra, dec, *wcs.all_pix2world(x, y, 0)) * 3.6e6
    assert apart.max() < 1e-3  # mas: the same polynomial, written otherwise
    np.testing.assert_allclose(plate.pixels(unit_vectors(ra, dec)), [x, y], atol=1e-5)
    np.testing.assert_allclose(wcs.all_world2pix(ra, dec, 0), [x, y], atol=1e-3)
    if order > 1:  # the inverse that other tools use is good to a hundredth of a pixel
        flat = np.stack(wcs.wcs_world2pix(ra, dec, 0), axis=1)
        back = wcs.sip_foc2pix(flat - wcs.wcs.crpix, 0)
        np.testing.assert_allclose(back.T, [x, y], atol=0.01)
    if order >= 3:
        assert separation(ra, dec, *truth.all_pix2world(x, y, 0)).max() * 3.6e6 < 0.01


def test_a_fit_is_moved_less_by_stars_of_less_weight():
    shape = (1000, 1000)
    start = plate_from_wcs(
        camera_wcs(shape, 10.0, 10.0, scale=1.0, rotation=0.0, parity="normal", distortion=0), shape
    )
    rng = np.random.default_rng(4)
    x, y = rng.uniform(0, 999, (2, 50))
    vectors = start.vectors(x, y)
    x[0] += 5.0
    light, heavy = np.ones(50), np.ones(50)
    light[0], heavy[0] = 1e-6, 1.0

    def shift(weights):
        plate = fit_plate(x, y, vectors, weights, order=1, near=start)
        return separation(*plate.sky(500.0, 500.0), *start.sky(500.0, 500.0))[0] * 3600

    assert shift(light) < 1e-5 < 0.05 < shift(heavy)


def test_a_place_behind_the_plate_has_no_pixel():
    plate = Plate(0.0, 0.0, 500.0, 500.0, 500.0, np.array([[-0.1, 0.0], [0.0, 0.1]]))
    assert np.isnan(plate.pixels(unit_vectors([180.0], [0.0]))).all()


def test_sweeps_take_the_brightest_of_each_cell_first():
    cells = np.array([0, 0, 0, 1, 1, 2])
    order, rank = sweep_order(cells, np.array([5.0, 9.0, 7.0, 1.0, 2.0, np.nan]))
    assert order.tolist() == [1, 4, 5, 2, 3, 0]
    assert rank.tolist() == [0, 0, 0, 1, 1, 2]
