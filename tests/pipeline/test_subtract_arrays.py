"""The subtraction's steps on another array library than numpy give what numpy gives.

array-api-strict allows no more than the standard does, so that what passes here asks no more of cupy.
"""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from reference_pipeline.arrays import namespace, to_host
from reference_pipeline.subtract.apply import convolved_variance, likeness
from reference_pipeline.subtract.fit_fourier import fit_fourier
from reference_pipeline.subtract.kernel import Basis
from reference_pipeline.subtract.score import (
    matched_filter,
    tile_filters,
    whiten,
    whitened_variance,
)

strict = pytest.importorskip("array_api_strict")

SHAPE = (120, 151)
BASIS = Basis(3, 2, 1, 2)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(5)
    image = gaussian_filter(rng.normal(0, 1, SHAPE), 0.7) * 100
    target = 1.3 * gaussian_filter(image, 1) + rng.normal(2, 0.5, SHAPE)
    good = np.ones(SHAPE, bool)
    good[30:36, 40:50] = False
    return target.astype(np.float32), image.astype(np.float32), good


@pytest.fixture(scope="module")
def kernel():
    rng = np.random.default_rng(6)
    return BASIS.kernel(rng.normal(0, 0.1, BASIS.n_coefficients), SHAPE)


def same(found, expected, *, rtol):
    assert namespace(found) is strict
    host = to_host(found)
    assert host.dtype == expected.dtype
    np.testing.assert_allclose(host, expected, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("tile", [64, 512])
def test_a_kernel_is_applied(images, kernel, tile):
    image = images[1]
    same(likeness(strict.asarray(image), kernel, tile=tile), likeness(image, kernel, tile=tile), rtol=1e-6)


def test_variance_is_convolved(images, kernel):
    variance = np.square(images[1])
    expected = convolved_variance(variance, kernel, tile=64)
    same(convolved_variance(strict.asarray(variance), kernel, tile=64), expected, rtol=1e-6)


@pytest.mark.parametrize("rounds", [0, 3])
def test_the_kernel_is_fitted_to_all_pixels(images, rounds):
    expected = fit_fourier(*images, BASIS, rounds=rounds, tile=64)
    found = fit_fourier(*(strict.asarray(a) for a in images), BASIS, rounds=rounds, tile=64)
    np.testing.assert_allclose(found.coefficients, expected.coefficients, atol=1e-6)
    assert found.condition == pytest.approx(expected.condition, rel=1e-6)


def test_the_difference_is_whitened_and_filtered(images, kernel):
    target, image, good = images
    point = np.zeros((15, 15))
    point[4:11, 4:11] = 1 / 49
    filters = tile_filters(SHAPE, kernel, lambda place: (200.0, 150.0), lambda x, y: point, tile=64)
    target_variance, image_variance = np.abs(target) + 5, np.abs(image) + 3
    host = target, target_variance, image_variance, good
    device = [strict.asarray(a) for a in host]
    results = []
    for data, of_target, of_image, known in (host, device):
        whitened = whiten(data, filters)
        variance = whitened_variance(of_target, of_image, filters, np.full((5, 5), 0.04))
        results.append((whitened, variance, *matched_filter(whitened, variance, known, filters)))
    for expected, found in zip(*results):
        assert namespace(found) is strict
        there = np.isfinite(expected)
        np.testing.assert_array_equal(np.isfinite(to_host(found)), there)
        np.testing.assert_allclose(
            to_host(found)[there], expected[there], atol=1e-5 * np.abs(expected[there]).max()
        )
    assert (~np.isfinite(results[0][2])).sum() == (~good).sum()
