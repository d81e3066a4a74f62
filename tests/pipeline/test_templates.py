"""Which frames become templates, and what a stack of them is worth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sep
from scipy.spatial import cKDTree
from star_field import Catalogue, Truth, moffat, random_stars
from test_align import moved, observe, turned

from reference_pipeline.config import Camera, PipelineConfig, Templates
from reference_pipeline.errors import SubtractionError
from reference_pipeline.frame import UNUSABLE, MaskBit, Quality
from reference_pipeline.reduce.photometry import background_rms, background_subtracted
from reference_pipeline.subtract.align import align
from reference_pipeline.subtract.templates import (
    TemplateCandidate,
    candidate_of,
    choose,
    find_template,
    is_acceptable,
    sky_overlap,
    stack,
)

GOOD = Quality(fwhm=3.0, ellipticity=0.05, background=100.0, background_rms=10.0,
               limiting_magnitude=19.0, pearson=0.995)  # fmt: skip
PAPER = Templates(min_limiting_magnitude=18.5)


def candidate(
    name, mjd, *, field="F1", band="g", ra=10.0, dec=60.0, quality=GOOD, size=(1.0, 1.5), **changes
):
    quality = replace(quality, **changes)
    return TemplateCandidate(name, field, band, ra, dec, mjd, quality, Path(name + ".fits"), size)


# ---- the rule ----


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, ""),
        ({"limiting_magnitude": 18.4}, "limiting magnitude 18.4, at least 18.5 asked"),
        ({"limiting_magnitude": float("nan")}, "limiting magnitude nan"),
        ({"pearson": 0.97}, "pearson correlation 0.97, at least 0.98"),
        ({"pearson": float("nan")}, "pearson correlation nan"),
        ({"cloud_score": 0.7}, "cloud score 0.7, at most 0.5"),
        ({"cloud_score": 0.2}, ""),
        ({"fwhm": 9.0}, ""),  # the paper sets no limit
        ({"pearson": 0.1, "limiting_magnitude": 10.0}, "; "),
    ],
)
def test_a_frame_is_judged_by_the_paper_s_rule(changes, word):
    found = is_acceptable(replace(GOOD, **changes), PAPER)
    assert found.startswith(word) or (word == "; " and word in found)
    assert bool(found) == bool(word)


def test_limits_can_be_set_and_left_out():
    assert "fwhm 3, at most 2.5" in is_acceptable(GOOD, Templates(max_fwhm=2.5))
    unknown = replace(GOOD, pearson=float("nan"), limiting_magnitude=float("nan"))
    assert is_acceptable(unknown, Templates(min_pearson=None)) == ""
    assert is_acceptable(unknown, Templates()) != ""


def test_the_earliest_acceptable_frame_of_each_field_and_band():
    frames = [
        candidate("late", 60003.0),
        candidate("cloudy", 60000.0, pearson=0.5),
        candidate("early", 60001.0),
        candidate("other-band", 60000.5, band="r"),
        candidate("other-field", 60000.7, field="F2"),
        candidate("hopeless", 60002.0, field="F3", limiting_magnitude=12.0),
    ]
    for order in (frames, frames[::-1]):
        chosen = {(c.field_id, c.band): c for c in choose(order, PAPER)}
        assert {key: [m.exposure_id for m in c.members] for key, c in chosen.items()} == {
            ("F1", "g"): ["early"],
            ("F1", "r"): ["other-band"],
            ("F2", "g"): ["other-field"],
            ("F3", "g"): [],
        }
        assert [name for name, _ in chosen["F1", "g"].refused] == ["cloudy"]
        assert "pearson" in chosen["F1", "g"].refused[0][1]
        assert [name for name, _ in chosen["F3", "g"].refused] == ["hopeless"]
    assert choose([], PAPER) == ()


def test_a_stack_is_of_the_deepest():
    frames = [
        candidate(f"m{m}", 60000.0 + k, limiting_magnitude=m) for k, m in enumerate((19, 20, 18, 21, 19.5))
    ]
    (choice,) = choose(frames, Templates(method="stack", stack_size=3, min_limiting_magnitude=18.5))
    assert [m.exposure_id for m in choice.members] == ["m21", "m20", "m19.5"]


def test_frames_without_a_field_go_by_the_sky():
    frames = [
        candidate("a", 60000.0, field=None),
        candidate("b", 60001.0, field=None, ra=10.4),  # half a degree further up there: 0.2
        candidate("c", 60002.0, field=None, dec=60.9),  # a tenth overlaps
        candidate("named", 60003.0, field="F1"),
        candidate("across-zero", 60004.0, field=None, ra=359.9, dec=0.0),
        candidate("beyond-zero", 60005.0, field=None, ra=0.1, dec=0.0),
        candidate("unknown", 60006.0, field=None, size=None),
    ]
    first = [[m.exposure_id for m in c.members] for c in choose(frames, Templates())]
    assert first == [["a"], ["c"], ["named"], ["across-zero"], ["unknown"]]
    assert choose(frames[:1], Templates())[0].field_id == "J010.00+60.00"
    # of a new frame
    templates = [frames[0], frames[2], frames[3]]
    assert find_template(candidate("new", 60010.0, field="F1"), templates, Templates()) is frames[3]
    assert find_template(candidate("new", 60010.0, field=None, dec=60.8), templates, Templates()) is frames[2]
    assert find_template(candidate("new", 60010.0, field="F9", band="r"), templates, Templates()) is None
    assert find_template(candidate("new", 60010.0, field=None, ra=50.0), templates, Templates()) is None
    replaced = candidate("newer", 60009.0, field="F1")
    assert find_template(candidate("new", 60010.0), [frames[3], replaced], Templates()) is replaced


def test_overlap_is_that_of_rectangles():
    a = candidate("a", 0.0, dec=0.0)
    assert sky_overlap(a, a) == 1.0
    assert sky_overlap(a, candidate("b", 0.0, dec=0.25)) == pytest.approx(0.75)
    assert sky_overlap(a, candidate("b", 0.0, dec=-0.25, ra=10.75)) == pytest.approx(0.375, rel=1e-3)
    assert sky_overlap(a, candidate("b", 0.0, dec=3.0)) == 0.0
    assert sky_overlap(a, candidate("b", 0.0, dec=0.0, size=(0.5, 0.75))) == pytest.approx(0.25)
    assert sky_overlap(candidate("b", 0.0, dec=0.0, size=(0.5, 0.75)), a) == 1.0
    assert sky_overlap(
        candidate("b", 0.0, dec=60.0), candidate("c", 0.0, dec=60.0, ra=11.5)
    ) == pytest.approx(0.5)


# ---- the stack ----

SHAPE = (360, 400)
CONFIG = PipelineConfig(camera=Camera(name="test", pixel_scale=1, gain=1, read_noise=5, saturation=60000))
N_RAYS = 40


@pytest.fixture(scope="module")
def sky():
    rng = np.random.default_rng(21)
    stars = random_stars(rng, (SHAPE[0] + 100, SHAPE[1] + 100), 170, flux=(3000.0, 2e5))
    ra, dec = turned(SHAPE).all_pix2world(stars.x - 50, stars.y - 50, 0)
    return ra, dec, stars.flux


@pytest.fixture(scope="module")
def frames(sky):
    """Four frames, each of other seeing, transparency and place, with cosmic rays and an asteroid."""
    rng = np.random.default_rng(22)
    made = []
    for k, (turn, dx, dy, fwhm, clear) in enumerate(
        [
            (0.0, 0.0, 0.0, 3.2, 1.0),
            (0.3, 5.2, -4.3, 3.5, 0.8),
            (-0.2, -3.4, 6.2, 4.0, 1.1),
            (0.1, 1.5, 2.5, 3.0, 0.9),
        ]
    ):
        ra, dec, flux = sky
        wcs = turned(SHAPE, turn, dx, dy)
        frame = observe((ra, dec, flux * clear), 30 + k, wcs, f"f{k}", shape=SHAPE, fwhm=fwhm)
        # the catalogue's zero point is of flux as it arrived: put the loss where it belongs
        zero_point = replace(frame.zero_point, value=frame.zero_point.value + 2.5 * np.log10(clear))
        data = frame.data.copy()
        rows, columns = rng.integers(3, SHAPE[0] - 3, N_RAYS), rng.integers(3, SHAPE[1] - 3, N_RAYS)
        data[rows, columns] += rng.uniform(500, 5000, N_RAYS)
        yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
        data += 400 * np.exp(-((xx - 100 - 20 * k) ** 2 + (yy - 180) ** 2) / (2 * 1.5**2)).astype(np.float32)
        mask = frame.mask.copy()
        mask[50:60, 60:70] = MaskBit.BAD
        mask[200:210, 60 + 30 * k : 70 + 30 * k] = MaskBit.TRAIL
        made.append(replace(frame, data=data, mask=mask, zero_point=zero_point))
    return made


@pytest.fixture(scope="module")
def deep(frames):
    return stack(frames, config=CONFIG)


def decision(frame):
    return next(s.decision for s in frame.steps if s.name == "template")


def test_a_stack_says_what_it_is_of(deep, frames):
    found = decision(deep)
    assert sorted(found["inputs"].split()) == ["f0", "f1", "f2", "f3"]
    assert found["n_inputs"] == 4
    assert found["left_out"] == ""
    assert found["grid"] == found["inputs"].split()[0]
    best = next(f for f in frames if f.id == found["grid"])
    assert best.quality.limiting_magnitude == max(f.quality.limiting_magnitude for f in frames)
    assert deep.id == f"{best.id}-stack4"
    assert deep.wcs is best.wcs
    assert deep.psf is not None
    assert np.all(np.isfinite(deep.data))


def test_a_stack_is_as_deep_as_its_noise_says(deep, frames):
    """The rms is that of the weighted mean, the variance says so, and the limit is deeper."""
    best = next(f for f in frames if f.id == decision(deep)["grid"])
    rms = background_rms(deep)
    good = (deep.mask == 0) & (np.abs(deep.data - deep.background) < 5 * rms)
    assert np.sqrt(np.median(deep.variance[good])) == pytest.approx(rms, rel=0.05)
    one = background_rms(best)
    assert rms < 0.6 * one  # 0.5 for four alike, and interpolation smooths
    assert 0.5 < deep.quality.limiting_magnitude - best.quality.limiting_magnitude < 1.1


def missed_by_aperture(*, fwhm, radius):
    """Magnitudes that a circular aperture is too faint by, of the profile that stars are drawn with."""
    stamp = moffat(0.0, 0.0, fwhm)
    half = len(stamp) // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    return -2.5 * np.log10(stamp[np.hypot(x, y) <= radius].sum())


def test_fluxes_of_a_stack_are_the_deepest_frame_s(deep, sky):
    """In electrons of the best frame's zero point, which is 25 and what it lost."""
    ra, dec, flux = sky
    x, y = deep.wcs.all_world2pix(ra, dec, 0)
    alone = cKDTree(np.stack([x, y], axis=1)).query(np.stack([x, y], axis=1), k=2)[0][:, 1] > 18
    used = alone & (flux > 1e4) & (x > 20) & (x < SHAPE[1] - 20) & (y > 20) & (y < SHAPE[0] - 20)
    mask = (deep.mask & int(UNUSABLE)) != 0
    measured, _, _ = sep.sum_circle(background_subtracted(deep), x[used], y[used], 9, mask=mask, subpix=0)
    single = sep.sum_circle(background_subtracted(deep) * 0 + 1, x[used], y[used], 9, mask=mask, subpix=0)[0]
    whole = single > 0.99 * single.max()
    magnitude = deep.zero_point.value + deep.zero_point.offset(x[used], y[used], deep.shape)
    magnitude = magnitude - 2.5 * np.log10(measured)
    expected = 25.0 - 2.5 * np.log10(flux[used])
    assert whole.sum() > 8
    difference = (magnitude - expected)[whole]
    assert np.median(difference) == pytest.approx(missed_by_aperture(fwhm=3.4, radius=9), abs=0.015)
    assert 1.4826 * np.median(np.abs(difference - np.median(difference))) < 0.015


def test_cosmic_rays_and_what_moves_do_not_stay(deep, frames, sky):
    """Where no star is, nothing stands above the noise: 160 rays and the asteroid's four places are gone."""
    ra, dec, _ = sky
    x, y = deep.wcs.all_world2pix(ra, dec, 0)
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    away = cKDTree(np.stack([x, y], axis=1)).query(np.stack([xx.ravel(), yy.ravel()], axis=1))[0] > 14
    away = away.reshape(SHAPE) & ((deep.mask & int(UNUSABLE)) == 0)
    pull = ((deep.data - deep.background) / np.sqrt(deep.variance))[away]
    assert away.sum() > 20000
    assert pull.max() < 7
    single = frames[0]
    assert np.sum((single.data - single.background)[away] > 7 * background_rms(single)) > 5
    asteroid = (deep.data - deep.background)[176:185, 95:165]
    assert asteroid[away[176:185, 95:165]].mean() < 0.3 * background_rms(deep)
    assert 160 / (4 * SHAPE[0] * SHAPE[1]) < decision(deep)["clipped"] < 0.02


def test_the_mask_of_a_stack(deep, frames):
    """Masked in one frame, known from others; SUSPECT where one of four is left; unusable without."""
    best = next(f for f in frames if f.id == decision(deep)["grid"])
    bad = np.zeros(SHAPE, int)
    for frame in frames:
        aligned = frame if frame is best else align(frame, best, config=CONFIG.align)
        bad += (aligned.mask & int(UNUSABLE | MaskBit.TRAIL)) != 0
    unusable = (deep.mask & int(UNUSABLE | MaskBit.TRAIL)) != 0
    assert np.all(unusable[bad == 4])
    assert (bad == 4).sum() >= 4
    assert unusable[bad < 4].mean() < 2e-4  # clipped in all that are left
    assert np.all((deep.mask[bad == 3] & MaskBit.SUSPECT) != 0)
    assert (deep.mask[bad == 0] != 0).mean() < 2e-3
    # the fewer frames, the larger the variance
    assert np.median(deep.variance[bad == 1]) > 1.1 * np.median(deep.variance[bad == 0])


def test_two_frames_with_a_catalogue(frames, sky):
    ra, dec, flux = sky
    first = frames[0]
    x, y = first.wcs.all_world2pix(ra, dec, 0)
    catalogue = Catalogue(first, Truth(x, y, flux), 25.0)
    two = stack([frames[0], frames[3]], config=CONFIG, catalogue=catalogue)
    assert decision(two)["n_inputs"] == 2
    assert [s.name for s in two.steps[-4:]] == ["sources", "photometry", "quality", "psf"]
    best = next(f for f in frames if f.id == decision(two)["grid"])
    assert two.zero_point.value == pytest.approx(best.zero_point.value, abs=0.02)
    assert two.quality.pearson > 0.99


def test_what_cannot_be_stacked(frames):
    off = moved(frames[1], x=8.0)
    left = stack([frames[0], off, frames[2]], config=CONFIG)
    assert decision(left)["n_inputs"] == 2
    assert decision(left)["left_out"] == "f1:misaligned"
    for bad, reason in (
        ([frames[0], off], "no-template"),
        ([frames[0]], "no-template"),
        ([frames[0], replace(frames[1], zero_point=None)], "no-zero-point"),
    ):
        with pytest.raises(SubtractionError) as caught:
            stack(bad, config=CONFIG)
        assert caught.value.reason == reason


def test_a_candidate_of_a_frame(frames):
    frame = replace(frames[0], exposure=replace(frames[0].exposure, field_id="F7"))
    found = candidate_of(frame, Path("a.fits"))
    assert (found.exposure_id, found.field_id, found.band) == ("f0", "F7", "r")
    assert (found.ra, found.dec) == pytest.approx((150.0, 30.0), abs=1e-3)
    assert found.size == pytest.approx((SHAPE[0] / 3600, SHAPE[1] / 3600), rel=0.01)
    with pytest.raises(SubtractionError):
        candidate_of(replace(frame, wcs=None), Path("a.fits"))
    with pytest.raises(SubtractionError):
        candidate_of(replace(frame, quality=None), Path("a.fits"))
