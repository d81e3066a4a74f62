"""What a difference is worth: noise as it says, fluxes without bias, also where frames were resampled."""

import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from astropy.table import vstack
from numpy.testing import assert_allclose
from scipy.ndimage import convolve, map_coordinates, shift
from scipy.stats import norm
from star_field import Catalogue, Truth, add_stars, make_frame, random_stars

from reference_pipeline.config import Photometry, PsfFit, Sources, Subtract
from reference_pipeline.errors import SubtractionError
from reference_pipeline.frame import MaskBit, Step
from reference_pipeline.psf import Psf
from reference_pipeline.reduce.photometry import calibrate_photometry
from reference_pipeline.reduce.psf import fit_psf
from reference_pipeline.reduce.sources import find_sources
from reference_pipeline.subtract.difference import subtract
from reference_pipeline.subtract.fit_stamps import allowed_by, fit_stamps, stamp_equations
from reference_pipeline.subtract.kernel import Basis
from reference_pipeline.subtract.parts import crop, kernel_on_frame, subtract_in_parts
from reference_pipeline.subtract.score import resampled_correlation, scatter_mesh

RATIO = 1.3
ZERO_POINT = 25.0
CONFIG = Subtract(half_width=6)


def measured(frame, truth):
    frame = calibrate_photometry(
        find_sources(frame, config=Sources()), Catalogue(frame, truth, ZERO_POINT), config=Photometry()
    )
    return fit_psf(frame, config=PsfFit())


def make_pair(seed, *, shape=(400, 520), n=170, new=None, science_fwhm=3.6, template_fwhm=2.8, sky=200.0,
              brighter=None):  # fmt: skip
    """Science and template of the same stars; ``new`` (x, y, flux) in the science frame only."""
    rng = np.random.default_rng(seed)
    stars = random_stars(rng, shape, n, flux=(300, 2e5), slope=0.7)
    template = make_frame(rng, stars, shape, fwhm=template_fwhm)
    flux = RATIO * stars.flux * (1.0 if brighter is None else brighter(stars))
    there = Truth(stars.x, stars.y, flux)
    if new is not None:
        there = Truth(*(np.concatenate([a, b]) for a, b in zip((stars.x, stars.y, flux), new)))
    science = make_frame(rng, there, shape, fwhm=science_fwhm, sky=sky)
    return measured(science, there), measured(template, stars), stars


def transients(rng, shape, fwhm, n=6):
    """A grid of new sources of S/N 10 to 50: (x, y, flux)."""
    x, y = (g.ravel() for g in np.meshgrid(*(np.linspace(45, side - 46, n) for side in shape[::-1])))
    x, y = (g + rng.uniform(-6, 6, g.size) for g in (x, y))
    sigma = np.sqrt(1.4 * 4 * np.pi * (fwhm / 2.3548) ** 2 * 225.0)
    return x, y, sigma * rng.uniform(10, 50, x.size)


def flux_at(difference, x, y):
    """Flux and its error between pixels."""
    flux = map_coordinates(np.nan_to_num(difference.flux), [y, x], order=3)
    i, j = np.rint(y).astype(int), np.rint(x).astype(int)
    return flux, difference.flux[i, j] / difference.score[i, j]


def away(stars, x, y, flux=3000.0, distance=12.0):
    bright = stars.flux * RATIO > flux
    apart = np.hypot(x[:, None] - stars.x[bright], y[:, None] - stars.y[bright])
    return (apart > distance).all(axis=1)


def recovered(seeds, science_fwhm, template_fwhm, **options):
    """Ratios to the truth, pulls, S/N, and the differences."""
    ratios, pulls, weights, found = [], [], [], []
    for seed in seeds:
        shape = (400, 520)
        new = transients(np.random.default_rng(1000 + seed), shape, science_fwhm)
        science, template, stars = make_pair(
            seed, new=new, science_fwhm=science_fwhm, template_fwhm=template_fwhm, **options
        )
        difference = subtract(science, template, config=CONFIG)
        x, y, flux = new
        # electrons as the zero point counts them: total fluxes of few stars are uncertain by a percent
        scale = 10 ** (-0.4 * (science.zero_point.value - ZERO_POINT))
        one, error = (scale * value for value in flux_at(difference, x, y))
        use = away(stars, x, y) & np.isfinite(error)
        ratios.append(one[use] / flux[use])
        pulls.append((one - flux)[use] / error[use])
        weights.append((flux / error)[use] ** 2)
        found.append(difference)
    return *(np.concatenate(part) for part in (ratios, pulls, weights)), found


@pytest.mark.parametrize("fwhm", [(3.6, 2.8), (2.8, 3.6)])
def test_fluxes_have_no_bias_and_the_errors_they_say(fwhm):
    ratio, pull, weight, found = recovered([1, 2], *fwhm)
    n = len(ratio)
    assert n > 45
    assert np.average(ratio, weights=weight) == pytest.approx(1.0, abs=0.02)
    assert pull.std() == pytest.approx(1.0, abs=3.5 / np.sqrt(2 * n))
    assert abs(pull.mean()) < 3.5 / np.sqrt(n)
    asked = RATIO if fwhm[0] > fwhm[1] else 1 / RATIO
    for difference in found:
        assert difference.decision["photometric_ratio"] == pytest.approx(asked, rel=0.02)
        assert difference.decision["held_out_chi2"] == pytest.approx(1.0, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("fwhm", [(3.6, 2.8), (2.8, 3.6)])
def test_fluxes_have_no_bias_to_one_percent(fwhm):
    ratio, pull, weight, found = recovered(range(10, 22), *fwhm)
    assert len(ratio) > 250
    assert np.average(ratio, weights=weight) == pytest.approx(1.0, abs=0.01)
    assert pull.std() == pytest.approx(1.0, abs=0.1)
    asked = RATIO if fwhm[0] > fwhm[1] else 1 / RATIO
    mean = np.mean([one.decision["photometric_ratio"] for one in found])
    assert mean == pytest.approx(asked, rel=0.01)
    assert np.median([one.decision["held_out_chi2"] for one in found]) == pytest.approx(1.0, abs=0.07)


def test_bright_variables_and_a_trail_do_not_bias_the_kernel():
    def brighter(stars):
        factor = np.ones(len(stars.flux))
        factor[np.argsort(-stars.flux)[3:11]] = (0.6, 1.5) * 4
        return factor

    quiet = make_pair(31)
    science, template, _ = make_pair(31, brighter=brighter)
    data, mask = science.data.copy(), science.mask.copy()
    rows = np.arange(data.shape[0])
    for offset in range(-3, 4):
        columns = np.clip(rows + 60 + offset, 0, data.shape[1] - 1)
        data[rows, columns] += 400.0
        mask[rows, columns] |= np.uint16(MaskBit.TRAIL)
    science = replace(science, data=data, mask=mask)
    one = subtract(*quiet[:2], config=CONFIG).decision["photometric_ratio"]
    other = subtract(science, template, config=CONFIG)
    assert other.decision["photometric_ratio"] == pytest.approx(one, rel=0.01)
    assert other.decision["n_used"] < other.decision["n_stamps"]


@pytest.fixture(scope="module")
def quiet():
    """No new source; the sky twice as bright at one side."""
    rng = np.random.default_rng(51)
    shape = (520, 640)
    stars = random_stars(rng, shape, 160, flux=(300, 1e5), slope=0.7)
    template = measured(make_frame(rng, stars, shape, fwhm=2.8), stars)
    science = make_frame(rng, stars, shape, fwhm=3.6, sky=np.linspace(150, 400, shape[1])[None, :])
    return measured(science, stars), template


def test_the_score_of_empty_sky_is_normal_also_under_a_varying_sky(quiet):
    difference = subtract(*quiet, config=CONFIG)
    score = difference.score
    for part in (score[:, :200], score[:, 220:420], score[:, 440:]):
        inside = part[np.isfinite(part)]
        low, high = np.quantile(inside, norm.cdf([-1, 1]))
        assert (high - low) / 2 == pytest.approx(1.0, abs=0.05)
    everywhere = score[np.isfinite(score)]
    assert abs(np.median(everywhere)) < 0.05
    for sigmas in (2.0, 3.0):
        share = np.mean(np.abs(everywhere) > sigmas)
        assert share == pytest.approx(2 * norm.sf(sigmas), rel=0.35)
    assert np.abs(everywhere).max() < 6.5
    assert difference.decision["score_sigma"] == pytest.approx(1.0, abs=0.06)


def test_the_whitened_sky_has_a_flat_power_spectrum(quiet):
    difference = subtract(*quiet, config=CONFIG)
    assert spread_of_power(difference) < 0.12


def spread_of_power(difference, highest=0.5):
    """Scatter over rings of spatial frequency of the mean power, bright pixels left out."""
    size = 128
    powers = []
    good = np.isfinite(difference.score)
    z = np.where(good, difference.whitened, 0)
    sigma = 1.4826 * np.median(np.abs(z[good]))
    z = np.where(np.abs(z) < 4 * sigma, z, 0)
    for top in range(16, z.shape[0] - size, size):
        for left in range(16, z.shape[1] - size, size):
            powers.append(np.abs(np.fft.fft2(z[top : top + size, left : left + size])) ** 2)
    f = np.fft.fftfreq(size)
    radius = np.hypot(f[:, None], f)
    rings = [(radius > a) & (radius <= a + 0.05) for a in np.arange(0.02, highest - 0.05, 0.05)]
    power = np.array([np.mean(np.mean(powers, axis=0)[ring]) for ring in rings])
    return np.std(power / power.mean())


def test_a_science_frame_that_was_resampled_is_whitened_and_scored_as_well(quiet):
    science, template = quiet
    moved = shift(science.data, (0.5, 0.5), order=3, mode="nearest").astype(np.float32)
    background = science.background
    record = Step("align", 0.0, {"noise_factor": 1.3})
    resampled = find_sources(
        replace(science, data=moved, background=None, sources=None, steps=(*science.steps, record)),
        config=Sources(),
    )
    resampled = fit_psf(resampled, config=PsfFit())
    reference = shift(template.data, (0.5, 0.5), order=3, mode="nearest").astype(np.float32)
    template = find_sources(replace(template, data=reference), config=Sources())
    difference = subtract(resampled, template, config=CONFIG)
    assert background is not None
    assert difference.decision["is_coloured"]
    score = difference.score[np.isfinite(difference.score)]
    low, high = np.quantile(score, norm.cdf([-1, 1]))
    assert (high - low) / 2 == pytest.approx(1.0, abs=0.05)
    # what the interpolation took away at the highest frequencies is not brought back
    assert spread_of_power(difference, highest=0.3) < 0.15


@pytest.mark.slow
def test_tails_at_five_sigma():
    rng = np.random.default_rng(61)
    shape = (1400, 1400)
    stars = random_stars(rng, shape, 700, flux=(300, 1e5), slope=0.7)
    template = find_sources(make_frame(rng, stars, shape, fwhm=2.8), config=Sources())
    science = find_sources(make_frame(rng, stars, shape, fwhm=3.6), config=Sources())
    difference = subtract(fit_psf(science, config=PsfFit()), template, config=CONFIG)
    near = np.zeros(shape, bool)
    for x, y in zip(stars.x[stars.flux > 3000], stars.y[stars.flux > 3000]):
        near[max(0, int(y) - 12) : int(y) + 13, max(0, int(x) - 12) : int(x) + 13] = True
    sky = difference.score[np.isfinite(difference.score) & ~near]
    assert np.mean(np.abs(sky) > 4) == pytest.approx(2 * norm.sf(4), rel=0.6)
    assert np.sum(np.abs(sky) > 5) < 60  # 0.6 expected of independent ones; one excursion has several pixels


def grid_stars(rng, shape):
    """Stars apart from each other, all over a frame."""
    x, y = (g.ravel() for g in np.meshgrid(*(np.arange(22, side - 22, 38.0) for side in shape[::-1])))
    return Truth(
        x + rng.uniform(-3, 3, x.size), y + rng.uniform(-3, 3, x.size), rng.uniform(1e4, 1e5, x.size)
    )


def test_a_known_kernel_is_recovered_exactly_from_data_without_noise():
    rng = np.random.default_rng(71)
    shape = (300, 360)
    stars = grid_stars(rng, shape)
    image = np.zeros(shape)
    add_stars(image, stars, fwhm=2.2)
    basis = Basis(2, 2, 1, 2)
    truth = basis.kernel(
        rng.normal(0, 0.1, basis.n_coefficients) + (np.arange(basis.n_coefficients) == 0), shape
    )
    x, y = np.rint(stars.x).astype(int), np.rint(stars.y).astype(int)
    target = np.zeros(shape)
    for i, j in zip(y, x):  # each stamp with the kernel of its own centre, as the equations take it
        around = image[i - 10 : i + 11, j - 10 : j + 11]
        stamp = convolve(around, truth.at(j, i), mode="constant")[2:-2, 2:-2] + truth.background_at(j, i)
        target[i - 8 : i + 9, j - 8 : j + 9] = stamp
    noise = np.full(shape, 1e-12)
    stamps = stamp_equations(
        target, image, np.ones(shape), noise, np.ones(shape, bool), x, y, half=8, half_width=2
    )
    fit = fit_stamps(stamps, basis, shape)
    found = basis.kernel(fit.coefficients, shape)
    assert fit.used.all()
    assert_allclose(found.images, truth.images, atol=2e-5)
    assert_allclose(found.background, truth.background, atol=1e-3)


def test_the_pull_of_the_image_s_noise_is_taken_back():
    ratios = []
    for seed in range(3):
        rng = np.random.default_rng(80 + seed)
        shape = (400, 460)
        stars = random_stars(rng, shape, 90, flux=(2e3, 2e4), slope=0.7, margin=24)
        image, target = np.zeros(shape), np.zeros(shape)
        add_stars(image, stars, fwhm=3.0)
        add_stars(target, Truth(stars.x, stars.y, RATIO * stars.flux), fwhm=3.2)
        image_variance, target_variance = image + 225.0, target + 225.0
        image += rng.normal(0, 1, shape) * np.sqrt(image_variance)
        target += rng.normal(0, 1, shape) * np.sqrt(target_variance)
        x, y = np.rint(stars.x).astype(int), np.rint(stars.y).astype(int)
        stamps = stamp_equations(
            target, image, target_variance, image_variance, np.ones(shape, bool), x, y, half=8, half_width=5
        )
        basis = Basis(5, 0, 0, 1)
        fit = fit_stamps(stamps, basis, shape, allowed=allowed_by(basis, 2.5, RATIO))
        ratios.append(fit.coefficients[0] / RATIO)
        assert np.median(fit.chi2) == pytest.approx(1.0, abs=0.06)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.01)  # 0.94 without


def test_a_frame_in_parts_is_the_frame(quiet):
    science, template = quiet
    config = Subtract(half_width=5, min_snr=10, min_stamps=4)
    whole = subtract(science, template, config=config)
    found = subtract_in_parts(science, template, config=config, tile=(300, 400))
    assert found.decision["n_parts"] == 4
    assert found.decision["n_refused"] == 0
    assert len(found.kernel) == 4
    known = np.isfinite(whole.score)
    both = np.isfinite(found.score) & known
    assert (np.isfinite(found.score) != known).mean() < 0.02  # what a bad pixel blanks is each kernel's own
    assert np.isfinite(found.score[255:265, 50:-50]).mean() > 0.97 * known[255:265, 50:-50].mean()  # no seam
    assert np.corrcoef(found.score[both], whole.score[both])[0, 1] > 0.9
    seam = found.score[255:265, 50:-50]
    assert seam[np.isfinite(seam)].std() == pytest.approx(1.0, abs=0.2)
    assert_allclose(found.psf_at(100, 100), whole.psf_at(100, 100), atol=1e-3)
    assert found.psf_at(500.2, 400.7).sum() == pytest.approx(1.0)
    again = pickle.loads(pickle.dumps(found))
    assert_allclose(again.psf_at(10, 10), found.psf_at(10, 10))


def test_the_kernel_of_a_part_is_that_kernel_on_the_frame(quiet):
    science, _ = quiet
    part = np.s_[100:300, 220:520]
    rng = np.random.default_rng(91)
    basis = Basis(2, 2, 1, 2)
    kernel = basis.kernel(rng.normal(0, 1, basis.n_coefficients), (200, 300))
    moved = kernel_on_frame(kernel, part, science.shape)
    for x, y in ((0, 0), (150.5, 20), (299, 199)):
        assert_allclose(moved.at(x + 220, y + 100), kernel.at(x, y), atol=1e-9)
        assert_allclose(moved.background_at(x + 220, y + 100), kernel.background_at(x, y), atol=1e-9)
    cut = crop(science, part)
    assert_allclose(cut.psf.at(10, 20), science.psf.at(230, 120), atol=1e-9)
    inside = (science.sources["x"] >= 220) & (science.sources["x"] < 520)
    inside &= (science.sources["y"] >= 100) & (science.sources["y"] < 300)
    assert len(cut.sources) == inside.sum()


def test_a_part_without_stars_is_unknown_and_the_rest_lives(quiet):
    science, template = quiet
    table = science.sources
    sparse = table[~((table["x"] > 300) & (table["y"] > 240))]
    config = Subtract(half_width=5, min_snr=10, min_stamps=4)
    found = subtract_in_parts(replace(science, sources=sparse), template, config=config, tile=(300, 400))
    assert found.decision["n_refused"] == 1
    assert "no-stars" in found.decision["refused"]
    assert np.isnan(found.score[270:, 330:]).all()
    assert (found.mask[270:, 330:] & np.uint16(MaskBit.NO_DATA) != 0).all()
    assert np.isfinite(found.score[20:240, 20:300]).any()
    assert found.kernel[3] is None
    assert found.psf_at(600, 500).sum() == pytest.approx(1.0)
    with pytest.raises(SubtractionError) as caught:
        subtract_in_parts(replace(science, sources=table[:0]), template, config=config, tile=(300, 400))
    assert caught.value.reason == "no-stars"


def test_no_pixels_no_sources_and_few_of_either_are_named(quiet):
    science, template = quiet
    nothing = np.full(template.shape, MaskBit.BAD, np.uint16)
    for broken, reason in (
        (replace(template, mask=nothing), "no-pixels"),
        (replace(template, data=np.full(template.shape, np.nan, np.float32)), "no-pixels"),
        (replace(template, variance=np.zeros(template.shape, np.float32)), "no-pixels"),
        (replace(template, sources=None), "no-sources"),
    ):
        with pytest.raises(SubtractionError) as caught:
            subtract(science, broken, config=CONFIG)
        assert caught.value.reason == reason


def test_a_template_of_other_stars_is_not_trusted(quiet):
    science, _ = quiet
    rng = np.random.default_rng(101)
    stars = random_stars(rng, science.shape, 160, flux=(300, 1e5), slope=0.7)
    other = measured(make_frame(rng, stars, science.shape, fwhm=2.8), stars)
    with pytest.raises(SubtractionError) as caught:
        subtract(science, other, config=CONFIG)
    assert caught.value.reason == "not-trusted"


def test_where_there_is_no_template_there_is_no_score_and_a_bit(quiet):
    science, template = quiet
    mask = template.mask.copy()
    mask[:, :200] |= np.uint16(MaskBit.OFF_IMAGE)
    found = subtract(science, replace(template, mask=mask), config=CONFIG)
    w = found.decision["half_width"]
    assert np.isnan(found.score[:, : 200 + w]).all()
    assert (found.mask[:, : 200 + w] & np.uint16(MaskBit.OFF_IMAGE) != 0).all()
    inside = found.score[w:-w, 200 + w : -w]
    assert np.isfinite(inside).mean() > 0.99


def test_the_scatter_of_a_mesh_is_that_of_the_noise():
    rng = np.random.default_rng(111)
    sigma = np.linspace(1, 2, 600)[None, :]
    noise = (rng.normal(0, 1, (500, 600)) * sigma).astype(np.float32)
    noise[100:104, 100:104] = 50  # a source
    noise[300:, :100] = np.nan
    found = scatter_mesh(noise)
    assert_allclose(
        found[:, 100:500].mean(axis=0), np.broadcast_to(sigma, noise.shape)[0, 100:500], rtol=0.06
    )
    assert (scatter_mesh(np.full((20, 30), np.nan, np.float32)) == 1).all()


def test_what_lanczos_leaves_of_white_noise():
    correlation = resampled_correlation()
    assert correlation.shape == (11, 11)
    assert correlation[5, 5] == 1
    assert correlation.sum() == pytest.approx(1 / np.mean(list(variances())) ** 2, rel=1e-3)


def variances():
    """Of white noise of variance 1 along one axis, at many shifts."""
    for phase in (np.arange(64) + 0.5) / 64:
        d = phase + 2 - np.arange(6)
        weights = np.sinc(d) * np.sinc(d / 3)
        yield np.square(weights / weights.sum()).sum()


def test_frames_of_odd_sizes_and_the_psf_of_the_difference(quiet):
    science, template = quiet
    part = np.s_[7:418, 5:600]
    found = subtract(crop(science, part), crop(template, part), config=CONFIG)
    assert found.data.shape == (411, 595)
    psf = found.psf_at(200.4, 150.6)
    side = psf.shape[0]
    assert psf.shape == (side, side)
    assert side % 2 == 1
    assert psf.sum() == pytest.approx(1.0)
    assert np.unravel_index(np.argmax(psf), psf.shape) == (side // 2, side // 2)


@pytest.mark.slow
def test_beside_frames_and_difference_only_a_part_is_in_memory(quiet):
    science, template = quiet
    config = Subtract(half_width=5, min_snr=10, min_stamps=4)
    tile = (270, 330)

    def peak(factor):
        """Bytes beyond the difference's own, of frames so many times as high."""
        big, reference = (tall(frame, factor) for frame in (science, template))
        tracemalloc.start()
        found = subtract_in_parts(big, reference, config=config, tile=tile)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        own = (found.data, found.variance, found.mask, found.whitened, found.score, found.flux)
        return most - sum(plane.nbytes for plane in own)

    assert peak(5) < 1.1 * peak(2)


def tall(frame, factor):
    """Copies of a frame above each other."""
    ny = frame.shape[0]
    tables = []
    for i in range(factor):
        table = frame.sources.copy()
        table["y"] += i * ny
        tables.append(table)
    planes = {name: np.tile(getattr(frame, name), (factor, 1)) for name in ("data", "variance", "mask")}
    psf = Psf(frame.psf.images[:1], 0, frame.psf.oversampling, planes["data"].shape)
    background = np.tile(frame.background, (factor, 1))
    return replace(frame, **planes, background=background, psf=psf, sources=vstack(tables))
