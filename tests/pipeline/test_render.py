"""The renderer beside GalSim, which shares no code with it, and beside arithmetic.

GalSim draws the same source from its own profiles: the Moffat convolved with a pixel, and with a Sérsic
profile, a line or a disc. What the renderer is given is sky coordinates; what GalSim is given are pixels that
astropy's own inverse finds, and shapes carried over by finite differences of it.
"""

import time
import tracemalloc
from dataclasses import replace

import galsim
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from reference_pipeline.simulate.optics import Ghost, Optics, Spikes, make_wcs, psf_at, sky_to_pixel
from reference_pipeline.simulate.profiles import _sersic_transform_at
from reference_pipeline.simulate.render import render
from reference_pipeline.simulate.scene import POINT_KINDS, Galaxies, Points, Scene, Trails
from reference_pipeline.simulate.truth import TruthBit

SHAPE = (160, 160)
SKY = (83.2, -41.7)
ZERO_POINT = 27.0
QUIET = {"spikes": Spikes(number=0), "ghosts": ()}
PRECISE = galsim.GSParams(folding_threshold=1e-3, maxk_threshold=1e-4, maximum_fft_size=16384)


def points(ra, dec, magnitude, *, kind="star", motion=(0.0, 0.0), defocus=0.0):
    n = len(np.atleast_1d(ra))
    full = lambda value: np.full(n, value, float)  # noqa: E731
    return Points(
        np.arange(n), np.full(n, POINT_KINDS.index(kind), np.int8), np.atleast_1d(ra).astype(float),
        np.atleast_1d(dec).astype(float), full(0) + magnitude, full(0), full(motion[0]), full(motion[1]),
        full(defocus),
    )  # fmt: skip


def galaxies(ra, dec, magnitude, half_light_radius, sersic_index, axis_ratio, position_angle):
    values = (ra, dec, magnitude, half_light_radius, sersic_index, axis_ratio, position_angle)
    columns = [np.atleast_1d(np.asarray(value, float)) for value in values]
    n = len(columns[0])
    return Galaxies(np.arange(n) + 1000, *columns, np.zeros(n))


def trails(ra=(), dec=(), magnitude=20.0, width=0.0, period=0.0):
    ra, dec = np.reshape(np.asarray(ra, float), (-1, 2)), np.reshape(np.asarray(dec, float), (-1, 2))
    n = len(ra)
    return Trails(
        np.arange(n), ra, dec, np.full(n, magnitude), np.full(n, float(width)), np.full(n, float(period))
    )


def scene(*, p=None, g=None, t=None):
    return Scene(
        points([], [], 20.0) if p is None else p,
        galaxies([], [], [], [], [], [], []) if g is None else g,
        trails() if t is None else t,
    )


def jacobian(wcs, ra, dec):
    """d(x, y) / d(east, north) arcsec from astropy's own inverse."""
    step = 1 / 3600
    x, y = wcs.all_world2pix(
        ra + np.array([step, -step, 0, 0]) / np.cos(np.radians(dec)), dec + np.array([0, 0, step, -step]), 0,
        tolerance=1e-9,
    )  # fmt: skip
    return 0.5 * np.array([[x[0] - x[1], x[2] - x[3]], [y[0] - y[1], y[2] - y[3]]])


def transformed(profile, matrix):
    """A GalSim profile with its coordinates mapped by ``matrix``, flux kept."""
    return profile.transform(*matrix.ravel()) / abs(np.linalg.det(matrix))


def random_scene(seed, kind, largest_index):
    """(what render made, what GalSim made, electrons) of one source of ``kind``."""
    rng = np.random.default_rng(seed)
    optics = Optics(
        pixel_scale=rng.uniform(0.3, 1.0),
        beta=rng.uniform(2.8, 4.5),
        ellipticity=tuple(rng.uniform(-0.15, 0.15, 2)),
        radial_ellipticity=rng.uniform(-0.1, 0.1),
        parity=rng.choice(["normal", "flipped"]),
        **QUIET,
    )
    scale = optics.pixel_scale
    wcs = make_wcs(optics, *SKY, rng.uniform(0, 360), SHAPE)
    seeing = {"seeing_fwhm": rng.uniform(2.2, 5.0) * scale, "jitter": rng.uniform(0, 0.6) * scale}
    seeing["jitter_angle"] = rng.uniform(0, 180)
    x, y = rng.uniform(70, 90, 2)
    ra, dec = (float(value) for value in wcs.all_pix2world(x, y, 0))
    flux = 10 ** rng.uniform(4.5, 5.5)
    magnitude = ZERO_POINT - 2.5 * np.log10(flux)
    ratio = optics.moffat_ratio
    matrix = psf_at(optics, x, y, SHAPE, **seeing)[0]
    parts = [
        transformed(
            galsim.Moffat(optics.beta, scale_radius=1.0, gsparams=PRECISE), np.linalg.cholesky(matrix) * ratio
        )
    ]
    local = jacobian(wcs, ra, dec)
    if kind == "galaxy":
        index = rng.uniform(0.5, largest_index)
        radius, q, angle = rng.uniform(0.5, 3.0) * scale, rng.uniform(0.3, 1.0), rng.uniform(0, 180)
        given = scene(g=galaxies(ra, dec, magnitude, radius, index, q, angle))
        t = np.radians(angle)
        axes = np.array([[np.sin(t), np.cos(t)], [np.cos(t), -np.sin(t)]]) @ np.diag([radius, radius * q])
        parts.append(transformed(galsim.Sersic(index, half_light_radius=1.0, gsparams=PRECISE), local @ axes))
    else:
        motion, defocus = (0.0, 0.0), 0.0
        if kind == "moving":
            motion = tuple(rng.uniform(-6, 6, 2) * scale)
            moved = local @ motion
            line = galsim.Box(float(np.hypot(*moved)), 1e-3, gsparams=PRECISE)
            parts.append(line.rotate(np.arctan2(moved[1], moved[0]) * galsim.radians))
        if kind == "defocused":
            defocus = rng.uniform(1, 5) * scale
            parts.append(galsim.TopHat(defocus / scale, gsparams=PRECISE))
        given = scene(p=points(ra, dec, magnitude, motion=motion, defocus=defocus))
    ours = render(given, wcs, optics, SHAPE, zero_point=ZERO_POINT, **seeing).image
    drawn = galsim.Convolve(parts, gsparams=PRECISE).withFlux(flux)
    # GalSim counts pixels from one, as FITS does
    theirs = galsim.ImageD(SHAPE[1], SHAPE[0])
    drawn.drawImage(theirs, scale=1.0, center=galsim.PositionD(x + 1, y + 1))
    return ours, theirs.array, flux


def centroid(image):
    moments = galsim.hsm.FindAdaptiveMom(galsim.Image(np.array(image, float)))
    return np.array([moments.moments_centroid.x, moments.moments_centroid.y])


def compare(seed, kind, largest_index):
    """(difference of flux, of centroid in pixels, largest residual), relative to flux and to the peak."""
    ours, theirs, flux = random_scene(seed, kind, largest_index)
    return (
        abs(ours.sum(dtype=float) - theirs.sum(dtype=float)) / flux,
        np.abs(centroid(ours) - centroid(theirs)).max(),
        np.abs(ours - theirs).max() / theirs.max(),
    )


KINDS = ("star", "galaxy", "moving", "defocused")


@pytest.mark.parametrize("kind", KINDS)
def test_galsim_agrees_on_random_sources(kind):
    differences = np.array([compare(seed, kind, 4.0) for seed in range(10)])
    assert differences[:, 0].max() < 0.01  # of the flux
    assert differences[:, 1].max() < 0.01  # pixels
    assert differences[:, 2].max() < 0.005  # of the peak


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_galsim_agrees_on_two_hundred_random_scenes(kind):
    differences = np.array([compare(1000 + seed, kind, 6.0) for seed in range(50)])
    worst = differences.max(axis=0)
    print(f"{kind}: flux {worst[0]:.2e}, centroid {worst[1]:.2e} px, residual {worst[2]:.2e} of the peak")
    assert worst[0] < 0.01
    assert worst[1] < 0.01
    assert worst[2] < 0.005


def test_transforms_of_sersic_profiles_are_those_known_in_closed_form():
    b_exponential, b_gaussian = 1.6783469900166605, np.log(2.0)
    k = np.exp(np.linspace(-7, 4, 500)).astype(np.float32)
    log_k = np.log(k)[None, None, :]
    exponential = _sersic_transform_at(np.array([1.0]), log_k)[0, 0]
    gaussian = _sersic_transform_at(np.array([0.5]), log_k)[0, 0]
    assert np.allclose(exponential, (1 + (k / b_exponential) ** 2) ** -1.5, atol=1e-5)
    assert np.allclose(gaussian, np.exp(-(k**2) / (4 * b_gaussian)), atol=1e-5)


PLAIN = Optics(pixel_scale=0.5, **QUIET)
WCS_HERE = make_wcs(PLAIN, *SKY, 20.0, SHAPE)


def sky(x, y, wcs=WCS_HERE):
    return wcs.all_pix2world(np.asarray(x, float), np.asarray(y, float), 0)


def magnitude_of(flux):
    return ZERO_POINT - 2.5 * np.log10(flux)


def drawn(given, optics=PLAIN, wcs=WCS_HERE, shape=SHAPE, **options):
    return render(given, wcs, optics, shape, **{"zero_point": ZERO_POINT, "seeing_fwhm": 1.5, **options})


@pytest.mark.parametrize("width", [0.0, 1.5])  # arcsec
@pytest.mark.parametrize("ends", [((40.3, 118.9), (51.2, 97.4)), ((78.1, 82.4), (83.0, 79.7))])
def test_a_trail_is_galsims_line(ends, width):
    x, y = np.array(ends)
    length = float(np.hypot(x[1] - x[0], y[1] - y[0]))
    ours = drawn(scene(t=trails(*sky(x, y), magnitude=20.0, width=width)))
    per_pixel = 10 ** (0.4 * (ZERO_POINT - 20.0)) * PLAIN.pixel_scale
    matrix = psf_at(PLAIN, x.mean(), y.mean(), SHAPE, seeing_fwhm=1.5)[0]
    psf = transformed(
        galsim.Moffat(PLAIN.beta, scale_radius=1.0, gsparams=PRECISE),
        np.linalg.cholesky(matrix) * PLAIN.moffat_ratio,
    )
    line = galsim.Box(length, max(width / PLAIN.pixel_scale, 1e-3), flux=per_pixel * length, gsparams=PRECISE)
    line = line.rotate(np.arctan2(np.diff(y)[0], np.diff(x)[0]) * galsim.radians)
    theirs = galsim.ImageD(SHAPE[1], SHAPE[0])
    galsim.Convolve(psf, line).drawImage(
        theirs, scale=1.0, center=galsim.PositionD(x.mean() + 1, y.mean() + 1)
    )
    assert abs(ours.image.sum(dtype=float) / theirs.array.sum() - 1) < 0.002
    assert np.abs(ours.image - theirs.array).max() < 0.005 * theirs.array.max()
    table = ours.trails
    assert np.allclose([table["x1"][0], table["y1"][0]], [x[0], y[0]], atol=1e-3)
    assert np.array_equal(ours.mask > 0, ours.mask == TruthBit.TRAIL)
    assert np.array_equal(ours.mask > 0, ours.image > 3.0)


def test_a_trail_across_the_whole_frame_has_its_light_per_arcsec():
    ours = drawn(scene(t=trails(*sky([-400.0, 700.0], [80.0, 80.0]), magnitude=20.0)))
    per_pixel = 10 ** (0.4 * (ZERO_POINT - 20.0)) * PLAIN.pixel_scale
    columns = ours.image.sum(axis=0, dtype=float)
    assert np.allclose(columns, per_pixel, rtol=0.003)


def test_a_tumbling_trail_repeats_with_its_period():
    period = 15.0  # arcsec: 30 pixels
    ours = drawn(scene(t=trails(*sky([-400.0, 700.0], [80.0, 80.0]), period=period)))
    columns = ours.image.sum(axis=0, dtype=float)
    power = np.abs(np.fft.rfft((columns - columns.mean())[:150]))
    assert power.argmax() == 150 / 30
    assert columns.max() / columns.min() > 5


def test_a_trail_that_misses_the_frame_is_not_in_the_table():
    ours = drawn(scene(t=trails(*sky([-400.0, 700.0], [900.0, 900.0]))))
    assert len(ours.trails) == 0
    assert not ours.image.any()


@pytest.mark.parametrize("flux", [30.0, 1e3, 1e6, 1e8])
def test_all_but_a_thousandth_or_an_electron_of_a_star_is_drawn(flux):
    shape = (1400, 1400)
    wcs = make_wcs(PLAIN, *SKY, 0.0, shape)
    ours = drawn(scene(p=points(*sky(700.2, 699.7, wcs), magnitude_of(flux))), wcs=wcs, shape=shape)
    lost = flux - ours.image.sum(dtype=float)
    assert -1e-5 * flux <= lost <= max(1e-3 * flux, 1.2)


def test_fainter_stars_have_smaller_stamps():
    areas = [(drawn(scene(p=points(*sky(80, 80), magnitude_of(f)))).image > 0).sum() for f in (50, 3e3, 1e6)]
    assert areas[0] < areas[1] < areas[2]


def test_light_over_the_edge_is_counted_as_clipped():
    n = 400
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-20, 180, n), rng.uniform(-20, 180, n)
    ra, dec = sky(x, y)
    ours = drawn(scene(p=points(ra[::2], dec[::2], 20.0),
                       g=galaxies(*(np.broadcast_to(v, 200) for v in
                                    (ra[1::2], dec[1::2], 20.0, 1.0, 1.5, 0.7, 30.0)))))  # fmt: skip
    table = ours.sources
    assert (table["clipped"] > 0.9).any()
    assert (np.abs(table["clipped"]) < 1e-3).any()
    assert np.isclose(ours.image.sum(dtype=float), (table["flux"] * (1 - table["clipped"])).sum(), rtol=1e-5)
    # half of a star at the very edge is on the frame
    edge = drawn(scene(p=points(*sky(-0.5, 80.0), 20.0))).sources
    assert np.isclose(edge["clipped"][0], 0.5, atol=0.02)


def test_two_halves_of_a_field_are_its_whole():
    """What leaves one frame over its edge enters the next, to the last electron."""
    flat = Optics(
        pixel_scale=0.5, distortion_a={}, distortion_b={}, tilt=(0, 0), curvature=0, radial_ellipticity=0,
        **QUIET,
    )  # fmt: skip
    whole = make_wcs(flat, *SKY, 0.0, (160, 160))
    left, right = whole.deepcopy(), whole.deepcopy()
    right.wcs.crpix = [whole.wcs.crpix[0] - 80, whole.wcs.crpix[1]]
    rng = np.random.default_rng(4)
    ra, dec = sky(rng.uniform(0, 160, 300), rng.uniform(0, 160, 300), whole)
    given = scene(p=points(ra[:150], dec[:150], 19.0), g=galaxies(*(np.broadcast_to(v, 150) for v in
                  (ra[150:], dec[150:], 19.0, 1.0, 2.0, 0.6, 70.0))))  # fmt: skip
    image = drawn(given, flat, whole).image
    halves = [drawn(given, flat, w, (160, 80)).image for w in (left, right)]
    assert np.allclose(np.hstack(halves), image, rtol=1e-4, atol=0.05)


def test_transmission_dims_by_its_value_at_the_source():
    nodes = np.tile(np.linspace(0.5, 1.0, 49), (49, 1))
    x = np.array([20.0, 80.0, 140.0])
    given = scene(p=points(*sky(x, np.full(3, 80.0)), 20.0))
    clear, hazy = drawn(given).sources["flux"], drawn(given, transmission=nodes).sources["flux"]
    assert np.allclose(hazy / clear, 0.5 + 0.5 * (x + 0.5) / 160, rtol=1e-3)


def test_position_angle_is_north_through_east():
    wcs = make_wcs(PLAIN, *SKY, 0.0, SHAPE)  # north up, east left
    ours = drawn(scene(g=galaxies(*sky(80.0, 80.0, wcs), 18.0, 4.0, 1.0, 0.3, 45.0)), wcs=wcs).image
    y, x = np.mgrid[:160, :160] - 80.0
    assert (ours * x * y).sum() < 0  # from lower right to upper left


def test_spikes_and_ghosts_are_added_and_marked():
    optics = PLAIN.model_copy(
        update={
            "spikes": Spikes(number=4, angle=45.0, fraction=0.01, length=10.0),
            "ghosts": (Ghost(fraction=0.01, radius=8.0, hole=0.3, reflection=1.0),),
        }
    )
    flux = 1e7
    given = scene(p=points(*sky(50.0, 60.0), magnitude_of(flux)))
    plain, ours = drawn(given), drawn(given, optics)
    added = ours.image.astype(float) - plain.image
    ghost, spike = (ours.mask & TruthBit.GHOST) > 0, (ours.mask & TruthBit.SPIKE) > 0
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    # mirrored through the middle, (79.5, 79.5); without spikes there, all of its light
    distance = np.hypot(x - 109.0, y - 99.0)
    assert np.array_equal(ghost[distance > 17], np.zeros((distance > 17).sum(), bool))
    assert ghost[(distance > 6) & (distance < 15)].all()
    only_ghost = drawn(given, optics.model_copy(update={"spikes": Spikes(number=0)})).image - plain.image
    assert np.isclose(only_ghost.sum(dtype=float), 0.01 * flux, rtol=0.01)
    # along the diagonals of the star and nowhere else
    across = np.minimum(np.abs(x - 50 - (y - 60)), np.abs(x - 50 + (y - 60)))
    assert spike[(across == 0) & (np.hypot(x - 50, y - 60) < 30)].all()
    assert not spike[across > 40].any()
    spikes_only = added - only_ghost
    assert (spikes_only[spike] > 2.9).all()


def test_spikes_fall_as_their_law_says():
    spikes = Spikes(number=2, angle=0.0, fraction=0.02, length=5.0)  # 10 pixels
    optics = PLAIN.model_copy(update={"spikes": spikes})
    given = scene(p=points(*sky(20.0, 80.0), magnitude_of(1e7)))
    columns = (drawn(given, optics).image.astype(float) - drawn(given).image).sum(axis=0)
    expected = 1e7 * 0.02 / 2 / (0.5 * np.pi * 10) / (1 + (np.arange(30, 120) - 20) ** 2 / 100)
    assert np.allclose(columns[30:120], expected, rtol=0.02)


def test_a_defocused_glint_is_marked():
    ours = drawn(scene(p=points(*sky(80.0, 80.0), 17.0, kind="satellite_glint", defocus=3.0)))
    assert np.array_equal(ours.mask == TruthBit.GLINT, ours.image > 3.0)
    assert ours.mask[80, 80]
    assert ours.sources["kind"][0] == "satellite_glint"


def test_an_empty_sky_is_dark():
    ours = drawn(scene())
    assert not ours.image.any()
    assert not ours.mask.any()
    assert len(ours.sources) == len(ours.trails) == 0
    assert ours.image.dtype == np.float32


def test_the_other_side_of_the_sky_is_not_drawn():
    ra, dec = SKY
    ours = drawn(scene(p=points([(ra + 180) % 360], [-dec], 10.0)))
    assert not ours.image.any()


@pytest.mark.parametrize("parity", ["normal", "flipped"])
@pytest.mark.parametrize("rotation", [0.0, 137.0])
def test_wcs_goes_to_the_sky_and_back(parity, rotation):
    shape = (10654, 14206)
    optics = Optics(pixel_scale=0.41, parity=parity)
    wcs = make_wcs(optics, 359.9, -75.0, rotation, shape)
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-500, shape[1] + 500, 2000), rng.uniform(-500, shape[0] + 500, 2000)
    back_x, back_y = sky_to_pixel(wcs, *wcs.all_pix2world(x, y, 0))
    assert np.abs(back_x - x).max() < 1e-5
    assert np.abs(back_y - y).max() < 1e-5
    # the distortion is there, and survives a header
    bent = np.hypot(*np.subtract(wcs.pix2foc(x, y, 0), (x, y)))
    assert bent.max() > 5
    header = fits.Header.fromstring(wcs.to_header(relax=True).tostring())
    assert np.allclose(WCS(header).all_pix2world(x, y, 0), wcs.all_pix2world(x, y, 0), atol=1e-9)


def test_rotation_is_the_position_angle_of_y():
    wcs = make_wcs(Optics(pixel_scale=0.5), 10.0, 0.0, 30.0, (101, 101))
    ra, dec = wcs.all_pix2world([50, 50], [50, 60], 0)
    assert np.isclose(np.degrees(np.arctan2(ra[1] - ra[0], dec[1] - dec[0])), 30.0, atol=0.01)


def test_psf_grows_with_jitter_along_its_angle():
    still = psf_at(PLAIN, 80, 80, SHAPE, seeing_fwhm=1.5)[0]
    moved = psf_at(PLAIN, 80, 80, SHAPE, seeing_fwhm=1.5, jitter=0.5, jitter_angle=90.0)[0]
    assert np.allclose(moved[0], still[0])
    assert np.isclose(moved[1, 1] - still[1, 1], (2.3548 * 0.5 / 0.5) ** 2, rtol=1e-4)


def test_distortion_terms_are_checked():
    with pytest.raises(ValueError, match="3-0"):
        Optics(pixel_scale=0.5, distortion_a={"3-0": 1.0})
    with pytest.raises(ValueError, match="0_1"):
        Optics(pixel_scale=0.5, distortion_b={"0_1": 1.0})


def test_an_ellipticity_that_is_no_ellipse_is_refused():
    with pytest.raises(ValueError, match=r"below 0\.5"):
        Optics(pixel_scale=0.5, ellipticity=(0.4, 0.4))


def test_a_scene_drawn_twice_is_the_same():
    rng = np.random.default_rng(8)
    ra, dec = sky(rng.uniform(0, 160, 50), rng.uniform(0, 160, 50))
    given = scene(p=replace(points(ra, dec, 19.0), motion_ra=rng.uniform(0, 3, 50)))
    assert drawn(given).image.tobytes() == drawn(given).image.tobytes()


def test_what_does_not_shine_leaves_no_trace_and_no_magnitude_is_refused():
    given = points(*sky([60.0, 90.0], [80.0, 80.0]), 19.0)
    dark = drawn(scene(p=replace(given, magnitude=np.array([np.inf, 19.0]))))
    assert list(dark.sources["id"]) == [1]
    with pytest.raises(ValueError, match="source 1 has magnitude NaN"):
        drawn(scene(p=replace(given, magnitude=np.array([19.0, np.nan]))))


def crowd(wcs, shape, n_stars, n_galaxies):
    """Stars whose number grows as 10^(m / 3) from magnitude 12 to 22, and galaxies of 19 to 23."""
    rng = np.random.default_rng(6)
    ra, dec = sky(
        rng.uniform(0, shape[1], n_stars + n_galaxies), rng.uniform(0, shape[0], n_stars + n_galaxies), wcs
    )
    magnitude = np.maximum(22.0 + 3.0 * np.log10(rng.uniform(0, 1, n_stars)), 12.0)
    n = n_galaxies
    g = galaxies(
        ra[n_stars:], dec[n_stars:], rng.uniform(19, 23, n), rng.lognormal(-0.3, 0.5, n),
        rng.uniform(0.5, 4, n), rng.uniform(0.3, 1, n), rng.uniform(0, 180, n),
    )  # fmt: skip
    return scene(p=points(ra[:n_stars], dec[:n_stars], magnitude), g=g)


@pytest.mark.slow
def test_a_full_frame_of_fifty_thousand_sources_takes_less_than_ninety_seconds_and_little_memory():
    shape, optics = (10654, 14206), Optics(pixel_scale=0.41)
    wcs = make_wcs(optics, *SKY, 0.0, shape)
    given = crowd(wcs, shape, 35_000, 15_000)
    started = time.perf_counter()
    assert len(drawn(given, optics, wcs, shape).sources) > 49_000
    assert time.perf_counter() - started < 90
    tracemalloc.start()
    drawn(given, optics, wcs, shape)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    frame = shape[0] * shape[1] * (4 + 2)  # image and mask
    print(f"peak beyond image and mask: {(peak - frame) / 2**20:.0f} MiB")
    assert peak - frame < 256 * 2**20
