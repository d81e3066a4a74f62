"""The matching kernel and the difference: as defined, against truth, and refused where it must be."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from numpy.linalg import LinAlgError
from scipy.ndimage import gaussian_filter

from reference_pipeline.config import PsfFit, Sources, Subtract
from reference_pipeline.errors import SubtractionError
from reference_pipeline.frame import Exposure, Frame, MaskBit
from reference_pipeline.reduce.psf import fit_psf
from reference_pipeline.reduce.sources import find_sources
from reference_pipeline.subtract.apply import convolved_variance, likeness
from reference_pipeline.subtract.difference import subtract
from reference_pipeline.subtract.fit_stamps import fit_stamps, stamp_equations
from reference_pipeline.subtract.kernel import Basis, Kernel
from reference_pipeline.subtract.score import TileFilter, matched_filter, tile_filters, whiten

SKY = 150.0  # electrons per pixel
RATIO = 1.3


def random_kernel(rng, shape, *, half_width=2, degree=1):
    basis = Basis(half_width, degree, 1, 1)
    return basis.kernel(rng.normal(0, 0.1, basis.n_coefficients), shape)


def slow_likeness(image, kernel):
    """The definition of kernel.py, pixel by pixel."""
    ny, nx = image.shape
    w = kernel.half_width
    out = np.zeros((ny, nx))
    for y in range(ny):
        for x in range(nx):
            here = kernel.at(x, y)
            for dy in range(-w, w + 1):
                for dx in range(-w, w + 1):
                    if 0 <= y - dy < ny and 0 <= x - dx < nx:
                        out[y, x] += here[dy + w, dx + w] * image[y - dy, x - dx]
            out[y, x] += kernel.background_at(x, y)
    return out


@pytest.mark.parametrize("tile", [8, 13, 64])
def test_a_varying_kernel_is_applied_as_defined(tile):
    rng = np.random.default_rng(1)
    image = rng.normal(0, 1, (23, 31)).astype(np.float32)
    kernel = random_kernel(rng, image.shape)
    np.testing.assert_allclose(likeness(image, kernel, tile=tile), slow_likeness(image, kernel), atol=2e-5)


def test_the_photometric_ratio_is_the_sum_of_the_kernel():
    rng = np.random.default_rng(2)
    basis = Basis(2, 2, 0, 0)
    coefficients = rng.normal(0, 1, basis.n_coefficients)
    kernel = basis.kernel(coefficients, (50, 60))
    for x, y in ((0, 0), (30, 10), (59, 49)):
        assert kernel.ratio_at(x, y) == pytest.approx(coefficients[0])
        assert kernel.at(x, y).sum() == pytest.approx(coefficients[0])


def test_variance_is_convolved_with_the_square_of_the_kernel():
    rng = np.random.default_rng(3)
    kernel = random_kernel(rng, (40, 50), degree=0)
    kernel = replace(
        kernel, images=np.broadcast_to(kernel.images[:1], (1, 5, 5)), degree=0, background=np.zeros(3)
    )
    image = rng.normal(0, 2, (4000, 40, 50)).astype(np.float32)
    measured = np.var([likeness(one, kernel) for one in image[:400]], axis=0)[5:-5, 5:-5]
    expected = convolved_variance(np.full((40, 50), 4, np.float32), kernel)[5:-5, 5:-5]
    assert measured.mean() == pytest.approx(expected.mean(), rel=0.02)


@pytest.fixture(scope="module")
def pair():
    """Two noisy images of the same stars; the second sharper and fainter, without a sky gradient."""
    rng = np.random.default_rng(4)
    shape = (500, 620)
    n = 160
    x, y = rng.uniform(12, shape[1] - 13, n), rng.uniform(12, shape[0] - 13, n)
    flux = 10 ** rng.uniform(3.3, 5.0, n)
    template, science = drawn(shape, x, y, flux, 2.6), RATIO * drawn(shape, x, y, flux, 3.8)
    new = np.array([(100.3, 90.7), (310.0, 250.5), (500.6, 400.2), (210.2, 400.9), (420.8, 100.1)])
    science += drawn(shape, new[:, 0], new[:, 1], np.full(5, 3000.0), 3.8)
    return frame(science, rng, 0.03), frame(template, rng, 0.0), new


def drawn(shape, x, y, flux, fwhm):
    """Pixel-integrated enough: Gaussians of several pixels, sampled at the middle of pixels."""
    out = np.zeros(shape)
    sigma = fwhm / 2.3548
    for xi, yi, f in zip(x, y, flux):
        i, j = round(yi), round(xi)
        rows, columns = np.mgrid[i - 14 : i + 15, j - 14 : j + 15]
        inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
        r2 = (rows - yi) ** 2 + (columns - xi) ** 2
        out[rows[inside], columns[inside]] += f / (2 * np.pi * sigma**2) * np.exp(-r2[inside] / 2 / sigma**2)
    return out


def frame(light, rng, slope):
    sky = SKY + slope * np.arange(light.shape[1])
    data = rng.poisson(light + sky).astype(np.float32)
    variance = gaussian_filter(light, 1).astype(np.float32) + sky.astype(np.float32)
    made = Frame(
        Exposure("f", "none", "science", 60000.0, 60.0, "g"), data, variance, np.zeros(data.shape, np.uint16)
    )
    return fit_psf(find_sources(made, config=Sources()), config=PsfFit())


@pytest.fixture(scope="module")
def difference(pair):
    science, template, _ = pair
    return subtract(science, template, config=Subtract())


def test_what_is_in_both_goes_and_noise_is_what_is_left(pair, difference):
    z = (difference.data / np.sqrt(difference.variance))[20:-20, 20:-20]
    assert 1.4826 * np.median(np.abs(z)) == pytest.approx(1.0, abs=0.05)
    science = pair[0]
    stars = science.sources[np.asarray(science.sources["snr"]) > 100]
    x, y = np.rint(stars["x"]).astype(int), np.rint(stars["y"]).astype(int)
    inside = (x > 25) & (x < z.shape[1] - 5) & (y > 25) & (y < z.shape[0] - 5)
    on_stars = [z[b - 23 : b - 16, a - 23 : a - 16].std() for a, b in zip(x[inside], y[inside])]
    assert np.median(on_stars) < 1.3
    assert difference.decision["photometric_ratio"] == pytest.approx(RATIO, rel=0.01)
    assert difference.is_template_convolved


def test_new_sources_keep_their_flux_and_stand_out(pair, difference):
    _, _, new = pair
    x, y = np.rint(new).astype(int).T
    assert np.median(difference.flux[y, x]) == pytest.approx(3000, rel=0.05)
    assert difference.score[y, x].min() > 15


def test_the_score_has_the_noise_it_says(difference):
    quiet = difference.score[np.isfinite(difference.score) & (np.abs(difference.score) < 4)]
    assert 1.4826 * np.median(np.abs(quiet)) == pytest.approx(1.0, abs=0.07)


def test_exchanged_frames_give_the_negative_and_convolve_the_same_one(pair, difference):
    science, template, new = pair
    other = subtract(template, science, config=Subtract())
    assert not other.is_template_convolved
    x, y = np.rint(new).astype(int).T
    # in the electrons of what is now the science frame
    assert np.median(other.flux[y, x]) == pytest.approx(-3000 / RATIO, rel=0.06)


def test_what_cannot_be_guessed_blanks_the_whole_kernel_a_bad_pixel_what_weighs(pair):
    science, template, _ = pair
    data, mask = template.data.copy(), template.mask.copy()
    data[200:230, 300:340] = np.nan
    mask[:, :40] |= np.uint16(MaskBit.OFF_IMAGE)
    mask[100:110, 400:410] |= np.uint16(MaskBit.SATURATED)
    mask[400, 300] |= np.uint16(MaskBit.COSMIC_RAY)
    data[400, 300] += 1e5
    found = subtract(science, replace(template, data=data, mask=mask), config=Subtract())
    w = found.decision["half_width"]
    assert found.is_template_convolved
    assert np.isfinite(found.data).all()
    assert (found.data[200:230, 300:340] == 0).all()
    assert (found.data[:, : 40 + w] == 0).all()
    assert (found.data[100 - w : 110 + w, 400 - w : 410 + w] == 0).all()
    around = found.data[400 - w : 401 + w, 300 - w : 301 + w]
    assert around[w, w] == 0
    assert 0 < (around == 0).mean() < 0.7  # 1 if it blanked the kernel's box
    noise = np.sqrt(found.variance[400 - w : 401 + w, 300 - w : 301 + w])
    assert np.abs(around / noise).max() < 6.0  # nothing is left of the cosmic ray
    assert (found.mask[400 - w : 401 + w, 300 - w : 301 + w][around == 0] != 0).all()
    known = found.data[240:480, 60:600]
    assert (known != 0).mean() > 0.99


def test_whitening_takes_the_correlation_of_the_noise_away():
    rng = np.random.default_rng(5)
    target, image = rng.normal(0, 1, (2, 400, 400)).astype(np.float32)
    image *= 3  # the noisier, the more of its noise ends up correlated
    sigma = 1.2
    side = np.arange(-5, 6)
    gaussian = np.exp(-(side[:, None] ** 2 + side**2) / 2 / sigma**2)
    kernel = Kernel((gaussian / gaussian.sum())[None], 0, np.zeros(1), 0, (400, 400))
    noise = target - likeness(image, kernel)
    filters = tile_filters(noise.shape, kernel, lambda _: (1.0, 9.0), lambda x, y: np.ones((1, 1)))
    white = whiten(noise, filters)[20:-20, 20:-20]
    before = np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]
    after = np.corrcoef(white[:, 1:].ravel(), white[:, :-1].ravel())[0, 1]
    assert before > 0.15
    assert abs(after) < 0.01


def test_the_matched_filter_is_unbiased_and_normal():
    rng = np.random.default_rng(6)
    side = np.arange(-7, 8)
    psf = np.exp(-(side[:, None] ** 2 + side**2) / 2 / 1.5**2)
    psf /= psf.sum()
    image = rng.normal(0, 10, (300, 300)).astype(np.float32)
    image[143:158, 143:158] += 2000 * psf
    nothing = np.ones((1, 1))
    filters = [TileFilter(np.s_[0:300, 0:300], nothing, nothing, psf)]
    everywhere = np.ones(image.shape, bool)
    score, flux = matched_filter(image, np.full(image.shape, 100, np.float32), everywhere, filters)
    assert flux[150, 150] == pytest.approx(2000, abs=4 * 10 / np.sqrt((psf**2).sum()))
    assert score[20:-20, 20:120].std() == pytest.approx(1.0, abs=0.05)


def test_a_stamp_that_disagrees_is_left_out(pair):
    science, template, _ = pair
    target, image = science.data - np.float32(SKY), template.data - np.float32(SKY)
    stars = science.sources[np.argsort(-np.asarray(science.sources["flux_auto"]))]
    x, y = np.rint(stars["x"]).astype(int), np.rint(stars["y"]).astype(int)
    inside = (x > 25) & (x < target.shape[1] - 25) & (y > 25) & (y < target.shape[0] - 25)
    x, y = x[inside][:40], y[inside][:40]
    target = target.copy()
    target[y[3] - 4 : y[3] + 5, x[3] - 4 : x[3] + 5] *= 1.5  # a star that brightened
    stamps = stamp_equations(
        target, image, science.variance, template.variance, np.ones(target.shape, bool), x, y,
        half=8, half_width=5,
    )  # fmt: skip
    fit = fit_stamps(stamps, Basis(5, 1, 0, 1), target.shape)
    assert not fit.used[3]
    assert fit.used.sum() > 30
    assert fit.coefficients[0] == pytest.approx(RATIO, rel=0.01)


def test_few_stamps_lower_the_degree_and_say_so(pair):
    science, template, _ = pair
    few = science.sources[np.argsort(-np.asarray(science.sources["flux_auto"]))[:14]]
    found = subtract(replace(science, sources=Table(few)), template, config=Subtract())
    assert found.decision["degree"] < 2
    assert "stamps" in found.decision["lowered"]


def test_each_refusal_has_its_reason(pair):
    science, template, _ = pair
    none = science.sources[:0]
    moved = np.roll(template.data, 9, axis=1)
    cases = [
        (science, replace(template, data=template.data[:-1]), "shape"),
        (replace(science, psf=None), template, "no-psf"),
        (replace(science, sources=Table(none)), template, "no-stars"),
        (science, replace(template, data=moved), "not-trusted"),
    ]
    for new, reference, reason in cases:
        with pytest.raises(SubtractionError) as caught:
            subtract(new, reference, config=Subtract(half_width=5))
        assert caught.value.reason == reason


def test_equations_that_say_nothing_are_not_solved(pair):
    science, _, _ = pair
    stamps = stamp_equations(
        science.data, science.data, science.variance, science.variance, np.zeros(science.shape, bool),
        [100], [100],
        half=6, half_width=3,
    )  # fmt: skip
    with pytest.raises(LinAlgError, match="no stamp"):
        fit_stamps(stamps, Basis(3, 0, 0, 0), science.shape)
