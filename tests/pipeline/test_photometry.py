"""Fluxes, the zero point and how deep a frame goes, against truth."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree
from star_field import Catalogue, Truth, add_stars, make_frame, random_stars

from reference_pipeline.catalogues import ReferenceStars
from reference_pipeline.config import Photometry, Sources
from reference_pipeline.errors import PhotometryError
from reference_pipeline.frame import MaskBit, unit_coordinates
from reference_pipeline.reduce.photometry import (
    background_rms,
    calibrate_photometry,
    effective_area,
    fit_zero_point,
    limiting_magnitude,
    match_sky,
)
from reference_pipeline.reduce.sources import find_sources

SHAPE = (1200, 1300)
ZERO_POINT = 27.0
#: mag; what the throughput takes away, averages to zero
SPATIAL = (-0.0033333, 0.03, -0.02, 0.01, 0.04, -0.03)


def extinction(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    u, v = unit_coordinates(x, y, shape)
    c = SPATIAL
    return c[0] + c[1] * u + c[2] * v + c[3] * u * v + c[4] * u**2 + c[5] * v**2


@pytest.fixture(
    scope="module", params=[0.0, 0.3], ids=["same PSF everywhere", "PSF 30 % wider at the corners"]
)
def field(request):
    rng = np.random.default_rng(21)
    truth = random_stars(rng, SHAPE, 900, flux=(500.0, 4e5), slope=0.5)
    frame = make_frame(rng, truth, SHAPE, varying=request.param, throughput=10 ** (-0.4 * extinction(SHAPE)))
    found = find_sources(frame, config=Sources())
    catalogue = Catalogue(frame, truth, ZERO_POINT, rng=rng)
    return truth, catalogue, calibrate_photometry(found, catalogue, config=Photometry())


def truth_of(sources, truth):
    distance, row = cKDTree(np.c_[truth.x, truth.y]).query(np.c_[sources["x"], sources["y"]])
    return distance, ZERO_POINT - 2.5 * np.log10(truth.flux[row])


def test_the_zero_point_is_that_of_the_total_flux_within_5_mmag(field):
    _, _, frame = field
    assert frame.zero_point.value == pytest.approx(ZERO_POINT, abs=0.005)
    assert frame.zero_point.error < 0.002
    assert frame.zero_point.band == "r"


def test_the_spatial_term_is_recovered_to_5_mmag_rms(field):
    _, _, frame = field
    y, x = np.mgrid[: SHAPE[0] : 10, : SHAPE[1] : 10]
    # what was lost to the throughput is what the zero point has to give back
    off = frame.zero_point.offset(x, y, SHAPE) + extinction(SHAPE)[::10, ::10]
    assert np.std(off) < 0.005 < 5 * np.std(extinction(SHAPE))
    assert abs(frame.zero_point.offset(x, y, SHAPE).mean()) < 1e-3


def test_bright_stars_scatter_by_less_than_10_mmag_and_errors_are_those_found(field):
    truth, _, frame = field
    stars = frame.sources[frame.sources["is_calibration"]]
    distance, expected = truth_of(stars, truth)
    residual = np.asarray(stars["mag"] - expected)
    bright = (stars["snr"] > 150) & (distance < 1)
    assert bright.sum() > 25
    assert 1.4826 * np.median(np.abs(residual[bright])) < 0.01
    assert abs(np.median(residual[bright])) < 0.005
    faint = stars["snr"] < 60
    pull = residual[faint] / stars["mag_error"][faint]
    assert 0.8 < 1.4826 * np.median(np.abs(pull)) < 1.3


def test_columns_are_there_for_every_source(field):
    _, _, frame = field
    table = frame.sources
    matched = np.isfinite(table["reference_mag"])
    assert 0.8 < matched.mean() <= 1.0
    assert table["is_zero_point_star"].sum() == frame.zero_point.n_stars > 100
    assert (matched | ~table["is_zero_point_star"]).all()
    x, y = frame.wcs.all_world2pix(table["ra"], table["dec"], 0)
    assert np.hypot(x - table["x"], y - table["y"]).max() < 1e-3
    assert (np.isfinite(table["mag"]) == (table["flux"] > 0)).all()


def test_sources_of_the_limiting_magnitude_are_found_half_of_the_time(field):
    """The 50 % point of injected stars lies within 0.1 mag of the limit that the frame states."""
    _, _, frame = field
    limit = limiting_magnitude(frame)
    varying = 0.3 if frame.sources["fwhm"][frame.sources["is_calibration"]].std() > 0.15 else 0.0
    rng = np.random.default_rng(22)
    offsets = np.arange(-0.6, 0.61, 0.2)
    found_fraction = completeness(frame, limit + offsets, rng, varying=varying)
    at_half = float(np.interp(-0.5, -found_fraction, offsets))
    assert found_fraction[0] > 0.85
    assert found_fraction[-1] < 0.15
    assert abs(at_half) < 0.1, at_half


def completeness(frame, magnitudes, rng, *, varying, n=300):
    """The fraction of injected stars that find_sources finds, at each magnitude."""
    taken = cKDTree(np.c_[frame.sources["x"], frame.sources["y"]])
    fractions = []
    for magnitude in magnitudes:
        at = rng.uniform(30, np.array(SHAPE[::-1]) - 30, (2 * n, 2))
        at = at[taken.query(at)[0] > 20]
        apart = cKDTree(at).query(at, k=2)[0][:, 1] > 20
        at = at[apart][:n]
        offset = frame.zero_point.offset(at[:, 0], at[:, 1], SHAPE)
        flux = 10 ** (-0.4 * (magnitude - frame.zero_point.value - offset))
        added = np.zeros(SHAPE)
        add_stars(added, Truth(at[:, 0], at[:, 1], flux), varying=varying)
        # stars this faint add no noise worth drawing: 1 % of the sky's
        injected = find_sources(replace(frame, data=frame.data + added.astype(np.float32)), config=Sources())
        distance = cKDTree(np.c_[injected.sources["x"], injected.sources["y"]]).query(at)[0]
        fractions.append((distance < 2.5).mean())
    return np.array(fractions)


def test_the_effective_area_is_that_of_the_profile():
    rng = np.random.default_rng(23)
    truth = random_stars(rng, (600, 600), 60, flux=(3e4, 3e5), margin=30)
    frame = make_frame(rng, truth, (600, 600))
    frame = find_sources(frame, config=Sources())
    frame = calibrate_photometry(frame, Catalogue(frame, truth, ZERO_POINT), config=Photometry())
    # Moffat of β = 3.5: π α² (2β − 1) / (β − 1)², α² = FWHM² / 4 (2^{1/β} − 1); the pixel adds some percent
    area = np.pi * 6.0 / 2.5**2 * 3.5**2 / (4.0 * (2.0 ** (1 / 3.5) - 1.0))
    assert effective_area(frame) == pytest.approx(1.03 * area, rel=0.05)


def test_neighbours_lost_in_the_light_of_bright_stars_are_no_wings():
    """Three of 0.8 % of a star's flux, in no list of sources; fluxes were 2.4 % high."""
    rng = np.random.default_rng(24)
    side = 60.0 * (np.arange(12) + 0.5)
    x, y = (a.ravel() + rng.uniform(-5, 5, 144) for a in np.meshgrid(side, side))
    stars = Truth(x, y, np.exp(rng.uniform(*np.log([1e5, 1.5e6]), 144)))
    angle, away = rng.uniform(0, 2 * np.pi, (3, 144)), rng.uniform(5.0, 9.0, (3, 144))
    near_x, near_y = (x + away * np.cos(angle)).ravel(), (y + away * np.sin(angle)).ravel()
    all_of_them = Truth(np.r_[x, near_x], np.r_[y, near_y], np.r_[stars.flux, np.tile(0.008 * stars.flux, 3)])
    frame = find_sources(make_frame(rng, all_of_them, (720, 720), fwhm=2.3), config=Sources())
    assert len(frame.sources) < 1.2 * 144
    frame = calibrate_photometry(frame, Catalogue(frame, stars, ZERO_POINT), config=Photometry())
    _, row = cKDTree(np.c_[x, y]).query(np.c_[frame.sources["x"], frame.sources["y"]])
    used = np.asarray(frame.sources["is_calibration"])
    assert used.sum() > 60
    ratio = (np.asarray(frame.sources["flux"]) / stars.flux[row])[used]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)


def test_the_background_rms_does_not_count_stars_or_bad_pixels(field):
    _, _, frame = field
    mask = frame.mask.copy()
    mask[:300] |= np.uint16(MaskBit.BAD)
    data = frame.data.copy()
    data[:300] = 1e6
    for changed in (frame, replace(frame, mask=mask, data=data)):
        assert background_rms(changed) == pytest.approx(15.0, rel=0.02)  # 200 of sky, 5² of readout


def test_mismatches_and_variable_stars_do_not_move_the_zero_point(field):
    _, catalogue, frame = field
    stars = catalogue.stars
    rng = np.random.default_rng(24)
    wrong = rng.uniform(0, 1, len(stars)) < 0.15
    magnitudes = {"r": stars.magnitudes["r"] + np.where(wrong, rng.uniform(0.2, 2.0, len(stars)), 0.0)}
    spoilt = type(catalogue).__new__(type(catalogue))
    spoilt.stars = replace(stars, magnitudes=magnitudes)
    again = calibrate_photometry(frame, spoilt, config=Photometry())
    assert again.zero_point.value == pytest.approx(frame.zero_point.value, abs=0.004)
    assert again.zero_point.n_stars < frame.zero_point.n_stars


def test_proper_motion_is_applied_before_matching(field):
    _, catalogue, frame = field
    stars = catalogue.stars
    years = 2000.0 + (frame.exposure.mid_mjd - 51544.5) / 365.25 - 1991.25
    motion = np.full(len(stars), 300.0)  # mas per year: eight pixels since 1991
    moved = replace(
        stars, epoch=1991.25, pmra=motion, pmdec=-motion,
        dec=stars.dec + motion * years / 3.6e6,
        ra=stars.ra - motion * years / 3.6e6 / np.cos(np.radians(stars.dec)),
    )  # fmt: skip
    fast = type(catalogue).__new__(type(catalogue))
    fast.stars = moved
    again = calibrate_photometry(frame, fast, config=Photometry())
    assert again.zero_point.n_stars > 0.97 * frame.zero_point.n_stars


@pytest.mark.parametrize(("n", "terms"), [(100, 6), (40, 3), (10, 1)])
def test_the_surface_is_lowered_where_stars_are_few(n, terms):
    rng = np.random.default_rng(25)
    x, y = rng.uniform(0, 999, (2, n))
    u, _ = unit_coordinates(x, y, (1000, 1000))
    noise = rng.normal(0, 0.01, n)
    fit, kept = fit_zero_point(
        25.0 + 0.1 * u + noise,
        np.full(n, 0.01),
        np.zeros(n),
        x,
        y,
        (1000, 1000),
        band="r",
        config=Photometry(),
    )
    assert sum(c != 0 for c in fit.spatial[1:]) == terms - 1
    assert fit.value == pytest.approx(25.0, abs=0.01 if terms > 1 else 0.1)
    assert kept.sum() > 0.9 * n


def test_the_color_term_is_recovered_and_leaves_the_zero_point():
    rng = np.random.default_rng(26)
    n = 300
    x, y = rng.uniform(0, 999, (2, n))
    color = rng.uniform(-0.2, 1.5, n)
    fit, _ = fit_zero_point(
        25.0 + 0.08 * color + rng.normal(0, 0.01, n), np.full(n, 0.01), np.zeros(n), x, y, (1000, 1000),
        band="r", config=Photometry(), color=color, color_name="g-r",
    )  # fmt: skip
    assert fit.color_term == pytest.approx(0.08, abs=0.004)
    assert fit.value == pytest.approx(25.0, abs=0.005)
    assert fit.color == "g-r"


def test_intrinsic_scatter_widens_the_error_instead_of_rejecting_stars():
    rng = np.random.default_rng(27)
    n = 50
    x, y = rng.uniform(0, 999, (2, n))
    difference = 25.0 + rng.normal(0, 0.05, n)
    fit, kept = fit_zero_point(
        difference, np.full(n, 0.001), np.zeros(n), x, y, (1000, 1000), band="r", config=Photometry()
    )
    assert kept.sum() >= 48
    assert 0.005 < fit.error < 0.01  # 0.05 / √50
    assert abs(fit.value - 25.0) < 3 * fit.error


def test_matches_are_each_others_nearest_across_the_origin_of_ra():
    ra, dec = np.array([359.9999, 10.0, 10.00001]), np.array([0.0, 5.0, 5.0])
    mine, theirs = match_sky(ra, dec, np.array([0.0, 10.0]), np.array([0.0, 5.0]), 1.0 / 3600)
    assert list(zip(mine, theirs)) == [(0, 0), (1, 1)]


class Fixed:
    def __init__(self, stars):
        self.stars = stars

    def cone(self, ra, dec, radius):
        return self.stars


def empty(**magnitudes):
    return ReferenceStars(np.zeros(0), np.zeros(0), magnitudes=magnitudes)


def test_each_trouble_has_its_reason(field):
    _, catalogue, frame = field
    stars = catalogue.stars
    few = stars.select(np.argsort(stars.magnitudes["r"])[:3])
    away = replace(stars, dec=stars.dec + 1.0)
    rng = np.random.default_rng(28)
    noise = {"r": stars.magnitudes["r"] + rng.uniform(-3, 3, len(stars))}
    cases = [
        (Fixed(empty()), "no-reference-stars", "the catalogue has: none"),
        (Fixed(replace(stars, magnitudes={"VT": noise["r"]})), "no-reference-stars", "the catalogue has: VT"),
        (Fixed(few), "too-few-matches", "need 5"),
        (Fixed(away), "too-few-matches", "need 5"),
        (Fixed(replace(stars, magnitudes=noise)), "bad-scatter", "at most 0.7 mag"),
    ]
    for source, reason, words in cases:
        with pytest.raises(PhotometryError, match=words) as caught:
            calibrate_photometry(frame, source, config=Photometry())
        assert caught.value.reason == reason
    bandless = replace(frame, exposure=replace(frame.exposure, band=None))
    for changed, reason in (
        (bandless, "no-band"),
        (replace(frame, wcs=None), "no-wcs"),
        (replace(frame, sources=None), "no-sources"),
    ):
        with pytest.raises(PhotometryError) as caught:
            calibrate_photometry(changed, catalogue, config=Photometry())
        assert caught.value.reason == reason
