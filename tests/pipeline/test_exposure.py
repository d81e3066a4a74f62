"""Simulated raw frames: what their truth says of them holds, and their files say it again."""

import numpy as np
import pytest
from astropy.io import fits

from reference_pipeline.errors import ConfigError, FileError
from reference_pipeline.frame import Exposure, unit_coordinates
from reference_pipeline.simulate.atmosphere import (
    CLOUD_PATCH,
    Conditions,
    at_points,
    at_rows,
    cloud_depth,
    sky_gradient,
    transmission,
)
from reference_pipeline.simulate.detector import section
from reference_pipeline.simulate.exposure import calibration_frame, expose
from reference_pipeline.simulate.raw import write_raw
from reference_pipeline.simulate.scene import POINT_KINDS, Galaxies, Points, Scene, Trails
from reference_pipeline.simulate.telescope import load_telescope
from reference_pipeline.simulate.truth import FrameTruth, TruthBit, read_truth, write_truth

SHAPE = (400, 360)
AST3 = load_telescope("ast3", SHAPE)
SCIENCE = Exposure(
    "s1",
    "ast3",
    "science",
    60000.25,
    30.0,
    "r",
    ra=120.0,
    dec=-60.0,
    airmass=1.3,
    object_name="F1",
    field_id="1",
)
CLEAR = Conditions(seeing_fwhm=1.4, sky_brightness=20.5)


def scene(ra, dec, magnitude, *, kind="star", defocus=0.0, trails=()):
    n = len(ra)

    def zeros():
        return np.zeros(n)

    points = Points(
        np.arange(n), np.full(n, POINT_KINDS.index(kind), np.int8), np.array(ra, float), np.array(dec, float),
        np.array(magnitude, float), zeros(), zeros(), zeros(), zeros() + defocus,
    )  # fmt: skip
    none = np.zeros(0)
    galaxies = Galaxies(np.zeros(0, int), none, none, none, none, none, none, none, none)
    ends = np.array(trails, float).reshape(-1, 2, 2)
    lines = Trails(
        np.arange(len(ends)), ends[:, :, 0], ends[:, :, 1], np.full(len(ends), 17.0), np.zeros(len(ends)),
        np.zeros(len(ends)),
    )  # fmt: skip
    return Scene(points, galaxies, lines)


def star_field(n=40, seed=4, brightest=14.0):
    rng = np.random.default_rng(seed)
    size = 0.41 / 3600 * 0.45 * 360
    ra = 120 + rng.uniform(-size, size, n) / np.cos(np.radians(60))
    return scene(ra, -60 + rng.uniform(-size, size, n), rng.uniform(brightest, 19, n))


def without_air(**changes):
    return Conditions(**{"seeing_fwhm": 1.4, "sky_brightness": 22.0, "extinction": 0.0, **changes})


def clean(telescope, **changes):
    """The telescope with a chip that answers evenly, so that a sum of pixels is a flux."""
    even = {
        "hot_fraction": 0.0, "dead_fraction": 0.0, "bad_columns": 0.0, "pixel_response": 0.0, "n_dust": 0,
        "vignetting": 0.0, "illumination_tilt": 0.0, "readout_faults": 0.0, "pickup": 0.0,
        "cosmic_ray_rate": 0.0, "glow": 0.0, "bias_column_noise": 0.0, "bias_ramp": 0.0,
    }  # fmt: skip
    return telescope.model_copy(
        update={"detector": telescope.detector.model_copy(update={**even, **changes})}
    )


def electrons(raw, telescope):
    """What a perfect reduction makes of a raw frame."""
    detector = telescope.detector
    columns = section(detector.camera.overscan, detector.raw_shape)[1]
    level = np.median(raw[:, columns], axis=1).astype(float)
    return ((raw - level[:, None]) * detector.camera.gain)[detector.imaging]


def apertures(image, x, y, radius):
    import sep

    return sep.sum_circle(np.ascontiguousarray(image, np.float64), x, y, radius, subpix=0)[0]


@pytest.fixture(scope="module")
def field():
    return expose(star_field(), AST3, SCIENCE, CLEAR, np.random.default_rng(1))


def test_the_same_seed_gives_the_same_bytes(field):
    raw, truth = expose(star_field(), AST3, SCIENCE, CLEAR, np.random.default_rng(1))
    assert raw.tobytes() == field[0].tobytes()
    assert (truth.mask == field[1].mask).all()
    other, _ = expose(star_field(), AST3, SCIENCE, CLEAR, np.random.default_rng(2))
    assert (other != raw).mean() > 0.5


def test_stars_are_where_the_true_wcs_says(field):
    _, truth = field
    x, y = truth.wcs.all_world2pix(star_field().points.ra, star_field().points.dec, 0)
    by_id = {int(row["id"]): row for row in truth.sources}
    for k, row in by_id.items():
        assert np.hypot(row["x"] - x[k], row["y"] - y[k]) < 1e-5


def test_the_frame_is_off_by_the_pointing_error(field):
    _, truth = field
    ny, nx = SHAPE
    ra, dec = truth.wcs.all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
    off = np.hypot((ra - SCIENCE.ra) * np.cos(np.radians(60)), dec - SCIENCE.dec) * 3600
    assert 0.5 < off < 5 * AST3.pointing_error
    assert (truth.exposure.ra, truth.exposure.dec) == (SCIENCE.ra, SCIENCE.dec)


def test_the_true_zero_point_turns_electrons_into_magnitudes():
    """Bright stars through a slanted cloud: m = value + Δm − 2.5 log10(electrons) to 3 mmag."""
    telescope = clean(AST3, full_well=1e9).model_copy(update={"pointing_error": 0.0})
    telescope = telescope.model_copy(
        update={
            "optics": telescope.optics.model_copy(
                update={"ghosts": (), "spikes": telescope.optics.spikes.model_copy(update={"number": 0})}
            )
        }
    )
    size = 0.41 / 3600 * 0.35 * 360
    grid = np.linspace(-size, size, 4)
    ra, dec = (w.ravel() for w in np.meshgrid(120 + grid / np.cos(np.radians(60)), -60 + grid))
    stars = scene(ra, dec, np.full(16, 12.5))
    conditions = without_air(cloud="thin", cloud_depth=0.6, extinction=0.2, sky_brightness=21.0)
    raw, truth = expose(stars, telescope, SCIENCE, conditions, np.random.default_rng(3))
    image = electrons(raw, telescope) - truth.sky - 30 * telescope.detector.camera.dark_current
    x, y = (np.asarray(truth.sources[name], float) for name in "xy")
    flux = apertures(image, x, y, 24.0)
    assert flux == pytest.approx(np.asarray(truth.sources["flux"]), rel=6e-3)  # wings outside the aperture
    magnitude = (
        truth.zero_point.value + truth.zero_point.offset(x, y, SHAPE) - 2.5 * np.log10(truth.sources["flux"])
    )
    assert np.asarray(magnitude) == pytest.approx(12.5, abs=0.02)  # a quadratic cannot follow every cloud
    assert np.mean(magnitude) == pytest.approx(12.5, abs=0.003)


def test_the_sky_is_as_bright_as_said():
    telescope = clean(AST3)
    for magnitude in (19.0, 21.0):
        nothing = scene([], [], [])
        raw, truth = expose(
            nothing, telescope, SCIENCE, without_air(sky_brightness=magnitude), np.random.default_rng(1)
        )
        area = AST3.detector.camera.pixel_scale**2
        expected = 30.0 * area * 10 ** (0.4 * (AST3.zero_points["r"] - magnitude))
        assert truth.sky == pytest.approx(expected)
        dark = 30.0 * AST3.detector.camera.dark_current
        assert electrons(raw, telescope).mean() == pytest.approx(expected + dark, abs=1.0)


def test_the_masks_cover_the_pixels_that_changed():
    """The same frame with and without particles, saturation and trails differs only where the mask says."""
    telescope = clean(AST3, cosmic_ray_rate=30.0)
    camera = telescope.detector.camera.model_copy(update={"read_noise": 0.0})
    telescope = telescope.model_copy(
        update={"detector": telescope.detector.model_copy(update={"camera": camera})}
    )
    raw, truth = expose(scene([], [], []), telescope, SCIENCE, without_air(), np.random.default_rng(5))
    hit = truth.has(TruthBit.COSMIC_RAY)
    assert hit.sum() == len(truth.cosmic_rays) > 200
    image = electrons(raw, telescope)
    rest = image[~hit]
    deposited = np.asarray(truth.cosmic_rays["electrons"])
    found = image[truth.cosmic_rays["y"], truth.cosmic_rays["x"]] - np.median(rest)
    strong = deposited > 200
    assert found[strong] == pytest.approx(deposited[strong], abs=6 * rest.std())
    assert rest.max() < np.median(rest) + 8 * rest.std()  # none outside


def test_saturated_stars_are_masked_with_what_they_bled_into():
    telescope = clean(AST3)
    bright = scene([120.0], [-60.0], [5.0])
    raw, truth = expose(bright, telescope, SCIENCE, without_air(), np.random.default_rng(5))
    full = raw[telescope.detector.imaging] >= telescope.detector.camera.saturation
    masked = truth.has(TruthBit.SATURATED)
    assert full.sum() > 500
    assert (full & ~masked).sum() <= 0.02 * full.sum()  # between the camera's saturation and the full well
    ys, xs = np.nonzero(masked)
    assert np.ptp(ys) > 3 * np.ptp(xs)  # along the columns


def test_a_trail_is_masked_along_its_length():
    telescope = clean(AST3)
    trail = [((119.9, -60.01), (120.1, -59.99))]
    raw, truth = expose(
        scene([], [], [], trails=trail), telescope, SCIENCE, without_air(), np.random.default_rng(5)
    )
    masked = truth.has(TruthBit.TRAIL)
    image = electrons(raw, telescope)
    bright = image > np.median(image) + 6 * image[~masked].std()
    assert bright.sum() > 300
    assert (bright & ~masked).sum() <= 1e-3 * bright.sum() + 3
    assert len(truth.trails) == 1
    line = truth.trails[0]
    ys, xs = np.nonzero(bright & masked)
    u, v = line["x2"] - line["x1"], line["y2"] - line["y1"]
    across = ((xs - line["x1"]) * v - (ys - line["y1"]) * u) / np.hypot(u, v)
    assert abs(np.average(across)) < 0.3


def test_glints_are_masked():
    telescope = clean(AST3)
    raw, truth = expose(
        scene([120.0], [-60.0], [13.0], kind="satellite_glint", defocus=3.0),
        telescope, SCIENCE, without_air(), np.random.default_rng(5),
    )  # fmt: skip
    masked = truth.has(TruthBit.GLINT)
    image = electrons(raw, telescope)
    light = image - np.median(image)
    assert light[masked].sum() > 0.9 * light[light > 0][:].sum() - 0.5 * np.abs(light[~masked]).sum()
    assert 150 < masked.sum() < 1000


def test_bias_is_dark_and_flat_is_half_full():
    detector = AST3.detector
    rng = np.random.default_rng(1)
    bias, truth = calibration_frame("bias", AST3, Exposure("b", "ast3", "bias", 60000.0, 0.0), rng)
    assert abs(np.median(bias) - detector.bias_level) < 20
    assert not truth.has(TruthBit.COSMIC_RAY).any()
    exposure = Exposure("f", "ast3", "flat", 60000.0, 5.0, "r")
    levels = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        raw, truth = calibration_frame(
            "flat", AST3.model_copy(update={"flat_fault_rate": 0.0}), exposure, rng
        )
        levels.append(np.median(raw[detector.imaging]))
        assert truth.fault is None
        assert levels[-1] == pytest.approx(detector.bias_level + truth.sky / detector.camera.gain, rel=0.02)
    half = 0.5 * (detector.camera.saturation + detector.bias_level)
    assert 0.6 * half < min(levels) < max(levels) < 1.4 * half
    assert np.ptp(levels) > 0.05 * half


@pytest.mark.parametrize("fault", ["too-bright", "too-faint", "star-trail"])
def test_an_unusable_flat_says_why(fault):
    exposure = Exposure("f", "ast3", "flat", 60000.0, 5.0, "r")
    detector = AST3.detector
    raw, truth = calibration_frame("flat", AST3, exposure, np.random.default_rng(2), fault=fault)
    assert truth.fault == fault
    level = np.median(raw[detector.imaging])
    if fault == "too-bright":
        assert level > detector.camera.saturation
    elif fault == "too-faint":
        assert level - detector.bias_level < 0.1 * detector.camera.saturation
    else:
        good, _ = calibration_frame("flat", AST3, exposure, np.random.default_rng(2), level=20000.0)
        spoiled, _ = calibration_frame(
            "flat", AST3, exposure, np.random.default_rng(2), level=20000.0, fault="star-trail"
        )
        assert (np.subtract(spoiled, good, dtype=float) > 1000).sum() > 300  # 6 times the shot noise of both


def test_some_flats_are_unusable():
    exposure = Exposure("f", "ast3", "flat", 60000.0, 5.0, "r")
    tiny = load_telescope("ast3", (32, 32)).model_copy(update={"flat_fault_rate": 0.3})
    faults = [
        calibration_frame("flat", tiny, exposure, np.random.default_rng(seed))[1].fault for seed in range(60)
    ]
    assert 6 < sum(f is not None for f in faults) < 32
    assert {f for f in faults if f} == {"too-bright", "too-faint", "star-trail"}


def test_clear_air_dims_by_the_extinction_and_more_towards_the_horizon():
    conditions = Conditions(extinction=0.2, zenith_angle=90.0)
    nodes = transmission(conditions, 2.0, (1.0, 1.0), np.random.default_rng(1))
    middle = -2.5 * np.log10(nodes[24, 24])
    assert middle == pytest.approx(0.4, abs=1e-3)
    across = -2.5 * np.log10(nodes[0, 24] / nodes[-1, 24])
    # sec z from 59.5° to 60.5°, its change to first order in 1°
    exact = 0.2 * (1 / np.cos(np.radians(60.5)) - 1 / np.cos(np.radians(59.5)))
    assert across == pytest.approx(exact, rel=1e-3)


def test_thin_cloud_is_smooth_and_patchy_cloud_leaves_holes():
    wide = (CLOUD_PATCH, CLOUD_PATCH)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        thin = cloud_depth(Conditions(cloud="thin", cloud_depth=0.4), wide, rng)
        patchy = cloud_depth(Conditions(cloud="patchy", cloud_depth=1.5), wide, rng)
        assert 0.3 < thin.mean() < 0.5
        assert thin.min() > 0.15
        assert 1.3 < patchy.max() <= 1.5 * (1 + 1e-6)
        assert 0.2 < (patchy == 0).mean() < 0.55
    assert not cloud_depth(Conditions(), wide, np.random.default_rng(1)).any()


def test_the_edge_of_a_cloud_is_as_steep_on_the_sky_in_a_small_frame_as_in_a_wide_one():
    """The same place in the same cloud: the small frame is the middle of the wide one."""
    conditions = Conditions(cloud="patchy", cloud_depth=1.0)
    wide, small = (cloud_depth(conditions, (side, side), np.random.default_rng(4)) for side in (1.2, 0.3))
    assert small[::4, ::4] == pytest.approx(wide[18:31, 18:31], abs=1e-9)
    assert 0 < np.ptp(small) < 0.8 * np.ptp(wide)


def test_a_map_goes_through_its_nodes_and_is_the_same_in_strips_and_at_points():
    rng = np.random.default_rng(1)
    nodes = transmission(Conditions(cloud="patchy", cloud_depth=1.0), 1.5, (1.0, 1.0), rng)
    shape = (491, 983)
    whole = at_rows(nodes, shape, slice(0, 491))
    assert (np.concatenate([at_rows(nodes, shape, slice(0, 200)), at_rows(nodes, shape, slice(200, 491))])
            == pytest.approx(whole, abs=1e-6))  # fmt: skip
    y, x = np.array([0, 17, 490]), np.array([3, 500, 982])
    assert at_points(nodes, shape, x, y) == pytest.approx(whole[y, x], abs=1e-5)
    edges = at_points(nodes, shape, np.array([-0.5, 982.5]), np.array([-0.5, 490.5]))
    assert edges == pytest.approx([nodes[0, 0], nodes[-1, -1]], abs=1e-5)


def test_moonlight_is_brightest_where_the_moon_is():
    nodes = sky_gradient(Conditions(moon_gradient=0.1, moon_angle=0.0))
    assert nodes.mean() == pytest.approx(1)
    assert nodes[24, -1] / nodes[24, 0] == pytest.approx(1.13 / 0.93, rel=1e-6)
    assert np.ptp(nodes[:, 24]) < 1e-12


def test_the_file_says_what_the_camera_description_reads(tmp_path, field):
    path = tmp_path / "raw.fits"
    write_raw(path, field[0], SCIENCE, AST3)
    camera = AST3.detector.camera
    with fits.open(path) as parts:
        header, data = parts[0].header, parts[0].data
        assert data.dtype == np.uint16
        assert (data == field[0]).all()

    def said(keywords):
        return next(header[k] for k in keywords if k in header)

    words = camera.keywords
    assert camera.kinds[said(words.kind)] == "science"
    assert camera.bands[said(words.band)] == "r"
    assert said(words.exposure_time) == 30.0
    assert said(words.start) == "2023-02-25T06:00:00.000"
    assert (said(words.ra), said(words.dec)) == (120.0, -60.0)
    assert (said(words.airmass), said(words.object_name), said(words.field_id)) == (1.3, "F1", "1")
    assert (header["BIASSEC"], header["TRIMSEC"]) == (camera.overscan, camera.trim)
    assert [p.name for p in tmp_path.iterdir()] == ["raw.fits"]


def test_a_raw_frame_of_another_shape_is_refused_and_leaves_no_file(tmp_path, field):
    with pytest.raises(ConfigError, match=r"raw frame s1: uint16 of shape"):
        write_raw(tmp_path / "raw.fits", field[0][1:], SCIENCE, AST3)
    assert not list(tmp_path.iterdir())


def test_a_truth_comes_back_from_its_file(tmp_path, field):
    _, truth = field
    write_truth(tmp_path / "t.fits", truth)
    back = read_truth(tmp_path / "t.fits")
    assert (back.exposure, back.shape, back.sky, back.fwhm) == (SCIENCE, SHAPE, truth.sky, truth.fwhm)
    assert back.zero_point == truth.zero_point
    assert back.conditions == truth.conditions
    assert (back.mask == truth.mask).all()
    assert (back.transmission == truth.transmission).all()
    for name in ("sources", "cosmic_rays", "trails"):
        for column in getattr(truth, name).colnames:
            assert (np.asarray(getattr(back, name)[column]) == np.asarray(getattr(truth, name)[column])).all()
    x, y = np.array([0.0, 100.0, 359.0]), np.array([0.0, 399.0, 10.0])
    there, here = back.wcs.all_pix2world(x, y, 0), truth.wcs.all_pix2world(x, y, 0)
    assert np.abs(np.subtract(there, here)).max() * 3.6e6 < 1e-3  # mas


def test_the_truth_of_a_calibration_frame_comes_back(tmp_path):
    exposure = Exposure("f", "ast3", "flat", 60000.0, 5.0, "r")
    _, truth = calibration_frame("flat", AST3, exposure, np.random.default_rng(1), fault="star-trail")
    write_truth(tmp_path / "t.fits", truth)
    back = read_truth(tmp_path / "t.fits")
    assert isinstance(back, FrameTruth)
    assert (back.fault, back.wcs, back.zero_point, back.sources) == ("star-trail", None, None, None)


def test_a_file_that_is_no_truth_is_refused(tmp_path, field):
    write_raw(tmp_path / "raw.fits", field[0], SCIENCE, AST3)
    (tmp_path / "short.fits").write_bytes(b"SIMPLE")
    for name in ("raw.fits", "short.fits", "absent.fits"):
        with pytest.raises(FileError, match="not-a-truth"):
            read_truth(tmp_path / name)


def test_what_cannot_be_exposed_is_refused():
    from dataclasses import replace

    with pytest.raises(ConfigError, match="no zero point for band 'z'"):
        expose(star_field(), AST3, replace(SCIENCE, band="z"), CLEAR, np.random.default_rng(1))
    with pytest.raises(ConfigError, match="needs ra and dec"):
        expose(star_field(), AST3, replace(SCIENCE, ra=None), CLEAR, np.random.default_rng(1))
    with pytest.raises(ConfigError, match="is not known; shipped: ast3, lsst, ztf"):
        load_telescope("hubble")


def test_unit_coordinates_agree_with_the_maps_edges():
    u, v = unit_coordinates(np.array([-0.5, 359.5]), np.array([-0.5, 399.5]), SHAPE)
    assert (u.tolist(), v.tolist()) == ([-1.0, 1.0], [-1.0, 1.0])
