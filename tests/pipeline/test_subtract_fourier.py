"""The kernel from all pixels: against the explicit least squares, the truth, and sfft."""

import numpy as np
import pytest
from scipy.linalg import LinAlgError
from scipy.ndimage import gaussian_filter

from reference_pipeline.frame import unit_coordinates
from reference_pipeline.polynomials import legendre_terms
from reference_pipeline.subtract.apply import likeness
from reference_pipeline.subtract.fit_fourier import fit_fourier
from reference_pipeline.subtract.kernel import Basis

SHAPE = (97, 104)
BASES = [
    Basis(2, 1, 0, 1), Basis(2, 2, 0, 2), Basis(2, 2, 2, 2), Basis(1, 1, 2, 3), Basis(1, 3, 0, 0),
    Basis(1, 0, 0, 0), Basis(1, 4, 1, 2),
]  # fmt: skip


@pytest.fixture(scope="module")
def images():
    """A target, the image that is to become like it, and where they are good: a hole and a band are not."""
    rng = np.random.default_rng(1)
    image = rng.normal(0, 1, SHAPE)
    image[rng.integers(0, SHAPE[0], 60), rng.integers(0, SHAPE[1], 60)] += 30
    image = gaussian_filter(image, 0.8)
    target = 1.3 * gaussian_filter(image, 1) + 0.1 * rng.normal(size=SHAPE) + 0.5
    good = np.ones(SHAPE, bool)
    good[20:30, 30:43] = False
    good[60:70] = False
    return target, image, good


def explicit(target, image, rows, basis):
    """The least squares with every pixel of ``rows`` (a mask) a row of the matrix; 0 outside the image."""
    w, (ny, nx) = basis.half_width, image.shape
    y, x = np.mgrid[:ny, :nx]
    u, v = unit_coordinates(x, y, image.shape)
    kernel, ratio, background = (
        legendre_terms(u, v, n) for n in (basis.degree, basis.ratio_degree, basis.background_degree)
    )
    padded = np.pad(image, w)
    columns = [ratio[..., i] * image for i in range(basis.n_ratio)]
    for dy in range(-w, w + 1):
        for dx in range(-w, w + 1):
            if (dy, dx) != (0, 0):
                change = padded[w - dy : w - dy + ny, w - dx : w - dx + nx] - image
                columns += [kernel[..., k] * change for k in range(basis.n_terms)]
    columns += [background[..., i] for i in range(basis.n_background)]
    design = np.stack([column[rows] for column in columns], axis=1)
    return np.linalg.lstsq(design, target[rows], rcond=None)[0]


def without_border(good, width):
    inner = np.zeros_like(good)
    inner[width:-width, width:-width] = good[width:-width, width:-width]
    return inner


@pytest.mark.parametrize("basis", BASES, ids=str)
@pytest.mark.parametrize("tile", [40, 200])
def test_without_rounds_it_is_the_least_squares_of_masked_images(images, basis, tile):
    target, image, good = images
    inner = without_border(good, basis.half_width)
    expected = explicit(
        np.where(inner, target, 0), np.where(inner, image, 0), np.ones(SHAPE, bool), basis
    )  # fmt: skip
    fit = fit_fourier(target, image, good, basis, rounds=0, tile=tile)
    np.testing.assert_allclose(fit.coefficients, expected, atol=1e-9)


@pytest.mark.parametrize("basis", BASES[1:4], ids=str)
def test_rounds_lead_to_the_least_squares_of_good_pixels_alone(images, basis):
    target, image, good = images
    expected = explicit(target, image, without_border(good, basis.half_width), basis)
    fit = fit_fourier(target, image, good, basis, rounds=60, tolerance=0, tile=48)
    np.testing.assert_allclose(fit.coefficients, expected, atol=1e-10)


def test_the_default_rounds_end_well_within_the_noise(images):
    target, image, good = images
    basis = BASES[1]
    inner = without_border(good, basis.half_width)
    expected = explicit(target, image, inner, basis)

    def squares(coefficients):
        kernel = basis.kernel(coefficients, SHAPE)
        return np.sum((target - likeness(image, kernel))[inner] ** 2)

    least = squares(expected)
    share = least / inner.sum()  # what a coefficient that is off by its own sigma adds
    assert squares(fit_fourier(target, image, good, basis, rounds=0).coefficients) > least + 100 * share
    assert squares(fit_fourier(target, image, good, basis).coefficients) < least + share


def test_a_known_kernel_is_found_in_images_without_noise():
    rng = np.random.default_rng(3)
    basis = Basis(3, 2, 1, 2)
    image = gaussian_filter(rng.normal(0, 1, (150, 130)), 0.6) * 100
    truth = rng.normal(0, 0.05, basis.n_coefficients)
    truth[0] += 1.4
    target = likeness(image, basis.kernel(truth, image.shape))
    # every pixel that a border does not reach says the same
    fit = fit_fourier(target, image, np.ones(image.shape, bool), basis, rounds=80, tolerance=0, tile=64)
    np.testing.assert_allclose(fit.coefficients, truth, atol=1e-8)


def test_it_is_the_same_however_the_frame_is_tiled_and_in_single_precision(images):
    target, image, good = images
    one = fit_fourier(target, image, good, BASES[1]).coefficients
    for tile in (33, 64):
        np.testing.assert_allclose(
            fit_fourier(target, image, good, BASES[1], tile=tile).coefficients, one, atol=1e-10
        )
    single = fit_fourier(target.astype(np.float32), image.astype(np.float32), good, BASES[1])
    np.testing.assert_allclose(single.coefficients, one, atol=1e-5)


def test_threads_change_nothing(images, monkeypatch):
    target, image, good = images
    found = []
    for n in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", n)
        found.append(fit_fourier(target, image, good, BASES[1], tile=32).coefficients)
    np.testing.assert_array_equal(*found)


def test_what_is_not_good_is_not_looked_at(images):
    target, image, good = images
    one = fit_fourier(target, image, good, BASES[1]).coefficients
    other = fit_fourier(np.where(good, target, np.nan), image, good, BASES[1]).coefficients
    np.testing.assert_array_equal(other, one)


def test_no_good_pixel_and_no_light_are_refused(images):
    target, image, good = images
    with pytest.raises(LinAlgError, match="no pixel is good"):
        fit_fourier(target, image, np.zeros(SHAPE, bool), BASES[1])
    with pytest.raises(LinAlgError, match="no pixel is good"):
        fit_fourier(target[:4, :4], image[:4, :4], good[:4, :4], BASES[1])
    with pytest.raises(LinAlgError):
        fit_fourier(target, np.zeros(SHAPE), good, BASES[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # numba's, of sfft's code
def test_it_finds_what_sfft_finds():
    """sfft's frame is cyclic, so stars stay away from the edges; its kernel's sum may vary, as our ratio."""
    configure = pytest.importorskip("sfft.sfftcore.SFFTConfigure", reason="sfft 1.7.3 is not installed")
    from sfft.sfftcore.SFFTSubtract import GeneralSFFTSubtract

    rng = np.random.default_rng(1)
    shape, w = (96, 80), 2
    image, target = np.zeros(shape), np.zeros(shape)
    inside = (slice(8, -8), slice(8, -8))
    image[inside] = 100 * gaussian_filter(rng.normal(0, 1, shape), 0.8)[inside]
    with_sky = gaussian_filter(image, 1) * np.linspace(1, 1.2, 96)[:, None] + rng.normal(3, 0.5, shape)
    target[w:-w, w:-w] = with_sky[w:-w, w:-w]
    settings = {"BACKEND_4SUBTRACT": "Numpy", "NUM_CPU_THREADS_4SUBTRACT": 1, "VERBOSE_LEVEL": 0}
    made = configure.SingleSFFTConfigure.SSC(
        NX=96,
        NY=80,
        KerHW=w,
        KerPolyOrder=2,
        BGPolyOrder=2,
        ConstPhotRatio=False,
        NUMBA_CACHE=False,
        **settings,
    )
    _, theirs, _ = GeneralSFFTSubtract.GSS(
        PixA_I=image, PixA_J=target, PixA_mI=image, PixA_mJ=target, SFFTConfig=made, **settings
    )
    basis = Basis(w, 2, 2, 2)
    fit = fit_fourier(target, image, np.ones(shape, bool), basis, rounds=0)
    ours = target - likeness(image, basis.kernel(fit.coefficients, shape))
    assert np.abs(target).max() > 50
    np.testing.assert_allclose(ours, theirs, atol=1e-8)
