"""Trails: found along their length, and not much wider."""

import numpy as np
import pytest
from scipy import ndimage
from star_field import moffat

from reference_pipeline.config import Trails
from reference_pipeline.errors import PixelError
from reference_pipeline.frame import Exposure, Frame, MaskBit
from reference_pipeline.reduce.trails import find_trails, flag_trails, line_sums

SHAPE = (600, 640)
SKY, NOISE = 400.0, 22.0
STAMPS = [moffat(dx, 0.2, 3.0) for dx in (-0.4, 0.0, 0.3)]
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]


def field(seed, *, n_stars=250, spikes=True):
    """No trail: stars, galaxies, a gradient, hot pixels, a saturated star that bleeds and has rays."""
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
    image.ravel()[rng.integers(0, image.size, 200)] += rng.uniform(100, 3000, 200)
    data = rng.poisson(image) + rng.normal(0, np.sqrt(NOISE**2 - SKY), SHAPE)
    return data, mask


def frame(data, mask):
    exposure = Exposure("f", "test", "science", 60000.0, 60.0)
    data = data.astype(np.float32)
    return Frame(exposure, data, np.maximum(data, 0) + np.float32(84), mask)


def line(x, y, angle, brightness, width, *, first=-np.inf, last=np.inf):
    """Light of a trail through (x, y), sigmas per pixel at its middle, full width at half maximum in pixels.

    It begins and ends ``first`` and ``last`` pixels along from (x, y). Also where its middle runs.
    """
    u = (X - x) * np.cos(angle) + (Y - y) * np.sin(angle)
    v = -(X - x) * np.sin(angle) + (Y - y) * np.cos(angle)
    lit = (u >= first) & (u <= last)
    return lit * brightness * NOISE * np.exp(-0.5 * (v / (width / 2.355)) ** 2), (np.abs(v) < 0.5) & lit


def trail(seed, brightness, width):
    """A trail across the frame, placed by chance."""
    rng = np.random.default_rng(100 + seed)
    angle = rng.uniform(0, np.pi)
    x, y = rng.uniform(0.25, 0.75, 2) * SHAPE[::-1]
    return line(x, y, angle, brightness, width)


def flagged(data, mask):
    return flag_trails(frame(data, mask), config=Trails()).mask & MaskBit.TRAIL != 0


@pytest.mark.parametrize("shape", [(16, 16), (23, 32), (50, 8)])
@pytest.mark.parametrize("n_strips", [1, 2])
def test_line_sums_are_the_sums_along_lines(shape, n_strips):
    image = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    ny, nx = shape
    n = nx // n_strips
    sums = next(iter(line_sums(image, n)))

    def slow(fall, begin, left, right):
        if right - left == 1:
            return image[begin, left] if 0 <= begin < ny else 0.0
        middle, half = (left + right) // 2, fall // 2
        return slow(half, begin, left, middle) + slow(half, begin + (fall + 1) // 2, middle, right)

    expected = [
        [[slow(fall, y - nx, k * n, (k + 1) * n) for y in range(ny + nx)] for fall in range(n)]
        for k in range(n_strips)
    ]
    np.testing.assert_allclose(sums, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("brightness", "width", "share"),
    # that of seed 2 runs through the saturated star along one of its rays, and is taken for it if faint
    [(0.5, 4.0, 0.5), (1.0, 3.0, 0.8), (3.0, 6.0, 0.9), (30.0, 10.0, 0.9)],
)
def test_the_length_of_trails_is_found(brightness, width, share):
    found, total, extra = 0, 0, 0
    for seed in range(6):
        data, mask = field(seed)
        light, middle = trail(seed, brightness, width)
        found_here = flagged(data + light, mask)
        found += np.count_nonzero(found_here & middle)
        total += np.count_nonzero(middle)
        extra += np.count_nonzero(found_here & (light < 1e-3 * NOISE))
    assert found / total >= share
    assert extra / data.size / 6 < 0.005  # the mask is no wider than it has to be


@pytest.mark.slow
def test_no_trail_is_found_on_fifty_clean_frames():
    assert {seed: find_trails(frame(*field(seed)), config=Trails()) for seed in range(50)} == dict.fromkeys(
        range(50), ()
    )


@pytest.mark.slow
@pytest.mark.parametrize(("angle", "brightness"), [((0.3, 1.9), (3.0, 3.0)), ((0.5, 0.9), (30.0, 2.0))])
def test_trails_that_cross_are_found_as_two(angle, brightness):
    for seed in range(3):
        data, mask = field(seed)
        lights, middles = zip(
            *(line(330, 280, a, b, 4.0) for a, b in zip(angle, brightness, strict=True)), strict=True
        )
        trails = find_trails(frame(data + sum(lights), mask), config=Trails())
        assert len(trails) == 2
        found = flagged(data + sum(lights), mask)
        for middle in middles:
            assert np.count_nonzero(found & middle) >= 0.9 * np.count_nonzero(middle)


@pytest.mark.slow
def test_the_lights_of_an_aircraft_are_found_side_by_side():
    for seed in range(3):
        data, mask = field(seed)
        angle, apart = 0.4 + 0.5 * seed, np.array([-np.sin(0.4 + 0.5 * seed), np.cos(0.4 + 0.5 * seed)]) * 25
        one, middle_one = line(320 - apart[0], 300 - apart[1], angle, 20.0, 14.0)
        two, middle_two = line(320 + apart[0], 300 + apart[1], angle, 20.0, 14.0)
        found = flagged(data + one + two, mask)
        for middle in (middle_one, middle_two):
            assert np.count_nonzero(found & middle) >= 0.9 * np.count_nonzero(middle)


@pytest.mark.slow
def test_a_trail_that_ends_within_the_frame_is_masked_as_far_as_it_goes():
    found, total, beyond = 0, 0, 0
    for seed in range(6):
        data, mask = field(seed, spikes=False)
        light, middle = line(320, 300, 0.3 + 0.45 * seed, 3.0, 4.0, first=-150, last=150)
        found_here = flagged(data + light, mask)
        found += np.count_nonzero(found_here & middle)
        total += np.count_nonzero(middle)
        beyond += np.count_nonzero(found_here & (light == 0) & ~_near(middle, 30))
    assert found / total >= 0.9
    assert beyond == 0


def _near(where, distance):
    """Pixels within a distance of those of ``where``, along rows and columns."""
    return ndimage.maximum_filter(where, 2 * distance + 1)


@pytest.mark.slow
def test_a_bowed_trail_is_followed():
    data, mask = field(3, spikes=False)
    bow = 3.0 * (1 - ((X - 320) / 320) ** 2)  # pixels
    light = 4.0 * NOISE * np.exp(-0.5 * ((Y - 200 - 0.25 * X - bow) / 1.3) ** 2)
    found = flagged(data + light, mask)
    middle = np.abs(Y - 200 - 0.25 * X - bow) < 0.5
    assert np.count_nonzero(found & middle) >= 0.9 * np.count_nonzero(middle)
    (trail,) = find_trails(frame(data + light, mask), config=Trails())
    assert abs(abs(trail.bow) - 3.0) < 1.0


def test_a_bad_column_is_not_a_trail():
    data, mask = field(4, n_stars=100, spikes=False)
    data[:, 200:202] += 5 * NOISE
    data[90] += 5 * NOISE
    assert find_trails(frame(data, mask), config=Trails()) == ()


def test_a_frame_without_usable_pixels_is_named():
    data, mask = field(1, n_stars=0, spikes=False)
    with pytest.raises(PixelError) as caught:
        flag_trails(frame(data, mask | np.uint16(MaskBit.BAD)), config=Trails())
    assert caught.value.reason == "no-pixels"
