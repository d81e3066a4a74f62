"""Trails: found along their length, and not much wider."""

import numpy as np
import pytest
from star_field import moffat

from reference_pipeline.config import Trails
from reference_pipeline.errors import PixelError
from reference_pipeline.frame import Exposure, Frame, MaskBit
from reference_pipeline.reduce.trails import flag_trails, line_sums

SHAPE = (600, 640)
SKY, NOISE = 400.0, 22.0
STAMPS = [moffat(dx, 0.2, 3.0) for dx in (-0.4, 0.0, 0.3)]
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]


def field(seed, *, n_stars=250, spikes=True):
    """A frame without a trail: stars, galaxies, a gradient, a saturated star that bleeds and has spikes."""
    rng = np.random.default_rng(seed)
    image = SKY * (1 + 0.2 * X / SHAPE[1])
    half = STAMPS[0].shape[0] // 2
    for flux in 10 ** rng.uniform(2.5, 5.5, n_stars):
        y, x = rng.integers(half, SHAPE[0] - half), rng.integers(half, SHAPE[1] - half)
        image[y - half : y + half + 1, x - half : x + half + 1] += flux * STAMPS[rng.integers(3)]
    for _ in range(15):
        y, x, angle = rng.uniform(0, SHAPE[0]), rng.uniform(0, SHAPE[1]), rng.uniform(0, np.pi)
        a, b = rng.uniform(4, 15), rng.uniform(2, 5)
        u = (X - x) * np.cos(angle) + (Y - y) * np.sin(angle)
        v = -(X - x) * np.sin(angle) + (Y - y) * np.cos(angle)
        image += 400 * np.exp(-np.sqrt((u / a) ** 2 + (v / b) ** 2))
    mask = np.zeros(SHAPE, np.uint16)
    if spikes:
        y, x, turn = rng.integers(150, 450), rng.integers(150, 450), rng.uniform(0, np.pi / 2)
        for angle in (turn, turn + np.pi / 2):
            u = (X - x) * np.cos(angle) + (Y - y) * np.sin(angle)
            v = -(X - x) * np.sin(angle) + (Y - y) * np.cos(angle)
            image += 4e5 / (20 + u**2) * np.exp(-0.5 * (v / 1.3) ** 2)
        radius2 = (X - x) ** 2 + (Y - y) ** 2
        image += 3e5 / (1 + radius2 / 9.0) ** 1.5
        bled = (radius2 < 100) | ((abs(X - x) < 2) & (abs(Y - y) < 120))
        image[bled], mask[bled] = 9e4, MaskBit.SATURATED
    data = rng.poisson(image) + rng.normal(0, np.sqrt(NOISE**2 - SKY), SHAPE)
    return data, mask


def frame(data, mask):
    exposure = Exposure("f", "test", "science", 60000.0, 60.0)
    data = data.astype(np.float32)
    return Frame(exposure, data, np.maximum(data, 0) + np.float32(84), mask)


def trail(rng, brightness, width):
    """Light of a trail across the frame, sigmas per pixel at its middle; and where its middle runs."""
    angle = rng.uniform(0, np.pi)
    through = rng.uniform(0.25, 0.75, 2) * SHAPE[::-1]
    v = -(X - through[0]) * np.sin(angle) + (Y - through[1]) * np.cos(angle)
    return brightness * NOISE * np.exp(-0.5 * (v / (width / 2.355)) ** 2), np.abs(v) < 0.5


@pytest.mark.parametrize("shape", [(16, 16), (23, 32), (50, 8)])
def test_line_sums_are_the_sums_along_lines(shape):
    image = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    ny, nx = shape
    sums = line_sums(image)

    def slow(fall, begin, left, right):
        if right - left == 1:
            return image[begin, left] if 0 <= begin < ny else 0.0
        middle, half = (left + right) // 2, fall // 2
        return slow(half, begin, left, middle) + slow(half, begin + (fall + 1) // 2, middle, right)

    expected = [[slow(fall, y - nx, 0, nx) for y in range(ny + nx)] for fall in range(nx)]
    np.testing.assert_allclose(sums, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("brightness", "width"), [(3.0, 6.0)])
def test_nine_tenths_of_the_length_of_trails_is_found(brightness, width):
    found, total, extra = 0, 0, 0
    for seed in range(3):
        data, mask = field(seed)
        light, middle = trail(np.random.default_rng(100 + seed), brightness, width)
        result = flag_trails(frame(data + light, mask), config=Trails())
        flagged = result.mask & MaskBit.TRAIL != 0
        found += np.count_nonzero(flagged & middle)
        total += np.count_nonzero(middle)
        extra += np.count_nonzero(flagged & (light < 1e-3 * NOISE))
    assert found / total >= 0.9
    assert extra / flagged.size / 3 < 0.02  # the mask is no wider than it has to be


def test_a_frame_without_usable_pixels_is_named():
    data, mask = field(1, n_stars=0, spikes=False)
    with pytest.raises(PixelError) as caught:
        flag_trails(frame(data, mask | np.uint16(MaskBit.BAD)), config=Trails())
    assert caught.value.reason == "no-pixels"
