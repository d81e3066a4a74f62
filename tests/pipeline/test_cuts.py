"""Each cut removes what it is meant for, and names itself; what a real subtraction leaves is among it."""

from dataclasses import replace

import numpy as np
import pytest
from differences import make_difference
from scipy.ndimage import gaussian_filter
from star_field import add_stars, make_frame, random_stars

from reference_pipeline.config import Cuts, Detect, PsfFit, Sources, Subtract
from reference_pipeline.detect.candidates import find_candidates
from reference_pipeline.detect.cuts import CUTS, apply_cuts
from reference_pipeline.frame import MaskBit
from reference_pipeline.reduce.psf import fit_psf
from reference_pipeline.reduce.sources import find_sources
from reference_pipeline.subtract.difference import subtract

SHAPE = (160, 200)
FWHM = 3.5
X, Y = 100.3, 80.4


def nearest(candidates, x=X, y=Y):
    """The candidate nearest to a place."""
    return min(candidates, key=lambda c: np.hypot(c.x - x, c.y - y))


def shown(light=None, *, mask=None, flux=0.0, fwhm=FWHM):
    """The candidate at (X, Y) of a difference with ``light`` added to its noise (score and planes follow)."""
    rng = np.random.default_rng(1)
    difference, science = make_difference(rng, SHAPE, fwhm, x=[X], y=[Y], flux=[flux], mask=mask, added=light)
    return nearest(find_candidates(difference, science, detect=Detect(), cuts=Cuts()))


def test_a_point_source_passes():
    candidate = shown(flux=3000.0)
    assert candidate.cut is None
    assert candidate.dipole < 0.2


def test_a_hit_of_one_pixel_is_too_sharp():
    light = np.zeros(SHAPE)
    light[80, 100] = 3000.0
    candidate = shown(light)
    assert candidate.fwhm < 1.0
    assert candidate.cut == "fwhm"


def test_a_galaxy_that_did_not_subtract_is_too_wide():
    light = np.zeros(SHAPE)
    light[80, 100] = 40000.0
    candidate = shown(gaussian_filter(light, 6.0))
    assert candidate.fwhm > 2.0 * FWHM
    assert candidate.cut == "fwhm"


def test_the_track_of_a_cosmic_ray_is_too_long():
    light = np.zeros(SHAPE)
    light[80, 97:104] = 800.0
    candidate = shown(light)
    assert candidate.elongation > 6.0
    assert candidate.cut == "elongation"


def test_few_pixels_are_no_source():
    candidate = shown(flux=3000.0)
    (cut,) = apply_cuts((replace(candidate, n_pixels=3),), FWHM, Cuts())
    assert cut.cut == "area"
    (strict,) = apply_cuts((candidate,), FWHM, Cuts(min_pixels=candidate.n_pixels + 1))
    assert strict.cut == "area"


@pytest.mark.parametrize(("flags", "cut"), [(0, None), (1, None), (2, "flags"), (4, "flags"), (9, "flags")])
def test_of_seps_flags_only_a_blends_is_allowed(flags, cut):
    (candidate,) = apply_cuts((replace(shown(flux=3000.0), flags=flags),), FWHM, Cuts())
    assert candidate.cut == cut


def test_a_source_at_the_edge_is_cut():
    mask = np.zeros(SHAPE, np.uint16)
    mask[:, :90] = MaskBit.OFF_IMAGE
    candidate = shown(flux=3000.0, mask=mask)
    assert candidate.edge == pytest.approx(11.3, abs=0.5)
    assert candidate.cut == "edge"


def test_a_source_with_a_trail_through_it_is_masked():
    mask = np.zeros(SHAPE, np.uint16)
    mask[:, 101:104] = MaskBit.TRAIL
    candidate = shown(flux=6000.0, mask=mask)
    assert candidate.mask_bits == MaskBit.TRAIL
    assert candidate.mask_fraction > 0.2
    assert candidate.cut == "mask"


def test_what_cannot_be_measured_is_cut():
    candidate = replace(shown(flux=3000.0), fwhm=float("nan"))
    assert apply_cuts((candidate,), FWHM, Cuts())[0].cut == "fwhm"


def test_the_first_cut_is_named():
    worst = replace(
        shown(flux=3000.0), fwhm=0.1, elongation=9.0, n_pixels=1, flags=4, edge=1.0, mask_fraction=1.0,
        dipole=2.0,
    )  # fmt: skip
    good = {"fwhm": 3.5, "elongation": 1.0, "n_pixels": 20, "flags": 0, "edge": 90.0, "mask_fraction": 0.0,
            "dipole": 0.0}  # fmt: skip
    for name, field in zip(CUTS, good):
        (found,) = apply_cuts((worst,), FWHM, Cuts())
        assert found.cut == name
        worst = replace(worst, **{field: good[field]})
    assert apply_cuts((worst,), FWHM, Cuts())[0].cut is None


@pytest.fixture(scope="module")
def real():
    """subtract's difference of two star fields, one star of which has moved by 0.6 pixels, with two new ones
    and one gone."""
    shape = (420, 480)
    rng = np.random.default_rng(2)
    stars = random_stars(rng, shape, 110, flux=(4e3, 2e5), margin=14)
    changed = np.array([(200.4, 300.3), (360.7, 120.2), (90.5, 160.8), (300.2, 240.6)])
    far = (np.hypot(stars.x[:, None] - changed[:, 0], stars.y[:, None] - changed[:, 1]) > 26).all(axis=1)
    stars = type(stars)(stars.x[far], stars.y[far], stars.flux[far])

    def exposure(seed, extra, fwhm):
        truth = type(stars)(*(np.r_[a, b] for a, b in zip((stars.x, stars.y, stars.flux), zip(*extra))))
        frame = make_frame(np.random.default_rng(seed), truth, shape, fwhm=fwhm)
        clean = np.zeros(shape)
        add_stars(clean, truth, fwhm=fwhm)
        frame = replace(frame, variance=(clean + 225.0).astype(np.float32))
        return fit_psf(find_sources(frame, config=Sources()), config=PsfFit())

    (a, b, c, d), moved = changed, np.array([0.6, 0.0])
    science = exposure(3, [(*a, 4000.0), (*b, 8000.0), (*(d + moved), 30000.0)], 3.6)
    template = exposure(4, [(*c, 6000.0), (*d, 30000.0)], 2.9)
    difference = subtract(science, template, config=Subtract())
    candidates = find_candidates(difference, science, detect=Detect(), cuts=Cuts())
    return difference, science, candidates, changed


def test_a_real_subtraction_shows_what_is_new_and_what_is_gone(real):
    _, _, candidates, changed = real
    for place, flux in zip(changed, (4000.0, 8000.0, -6000.0)):
        found = nearest(candidates, *place)
        assert np.hypot(found.x - place[0], found.y - place[1]) < 0.3
        assert found.cut is None
        assert found.flux == pytest.approx(flux, abs=4.0 * found.flux_err + 0.03 * abs(flux))
        assert found.fwhm == pytest.approx(3.6, abs=0.7)


def test_both_halves_of_a_star_that_moved_are_a_dipole(real):
    _, _, candidates, changed = real
    x, y = changed[3]
    halves = [c for c in candidates if np.hypot(c.x - x, c.y - y) < 6.0]
    assert {c.is_positive for c in halves} == {True, False}
    assert all(c.dipole > 0.6 for c in halves)
    assert all(c.cut is not None for c in halves)
    of_any_shape = Cuts(min_fwhm=0.0, max_fwhm=99.0, max_elongation=999.0)
    assert {c.cut for c in apply_cuts(tuple(halves), 3.6, of_any_shape)} == {"dipole"}


def test_few_of_the_stars_that_did_not_change_leave_a_candidate(real):
    _, _, candidates, changed = real
    other = [c for c in candidates if (np.hypot(*(changed - (c.x, c.y)).T) > 8).all() and c.cut is None]
    assert len(other) <= 2
