"""From an image to levels (specification 2.2, 2.3, 3.2 to 3.5), and the mosaic (9.2)."""

import itertools
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLUX, bits, float32, geometries, images, round32

from multiscale import Geometry, GeometryError, Placement, StampError, ViewError, build_levels, mosaic
from multiscale.pyramid import reduce_2x2

pytestmark = pytest.mark.filterwarnings("error")

LARGEST = float32("7dffffff")  # just below 2^125


def reduced(four, kind):
    """Clauses 3.2 to 3.4 on one block, in plain Python."""
    if kind == "mask":
        return four[0] | four[1] | four[2] | four[3]
    valid = [value for value in four if abs(value) < 2.0**125]
    if not valid:
        return math.nan
    total = valid[0]
    for value in valid[1:]:
        total += value
    return round32(total / (len(valid) ** 2 if kind == "variance" else len(valid)))


def levels_by_hand(image, geometry, placement, kind, outside=0):
    """Clause 3.2 from P_0 on, pixel by pixel."""
    half, span = geometry.span_px // 2, geometry.span_px
    height, width = image.shape

    def given_pixel(y, x):
        if not (0 <= y < height and 0 <= x < width):
            return outside if kind == "mask" else math.nan
        value = image[y, x].item()
        return value if kind == "mask" or abs(value) < 2.0**125 else math.nan

    p = [
        [given_pixel(placement.cy - half + y, placement.cx - half + x) for x in range(span)]
        for y in range(span)
    ]
    levels = []
    for _ in range(geometry.n_levels):
        low = (len(p) - geometry.size) // 2
        inner = slice(low, low + geometry.size)
        levels.append([row[inner] for row in p[inner]])
        p = [
            [reduced((p[y][x], p[y][x + 1], p[y + 1][x], p[y + 1][x + 1]), kind) for x in range(0, len(p), 2)]
            for y in range(0, len(p), 2)
        ]
    return np.array(levels, np.uint16 if kind == "mask" else np.float32)


kinds = st.sampled_from([*FLUX, "variance", "mask"])


@given(st.data(), geometries(max_size=8, max_levels=3), kinds)
def test_levels_are_those_of_the_rule_applied_pixel_by_pixel(data, geometry, kind):
    height, width = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 40))
    image = data.draw(images((height, width), kind))
    placement = Placement(data.draw(st.integers(-20, 60)), data.draw(st.integers(-20, 60)))
    levels = build_levels(image, geometry, kind=kind, placement=placement, outside=5)
    assert bits(levels) == bits(levels_by_hand(image, geometry, placement, kind, outside=5))


PATTERNS = list(itertools.product([False, True], repeat=4))


@pytest.mark.parametrize("kind", ["science", "variance"])
@pytest.mark.parametrize("invalid", PATTERNS, ids=lambda pattern: "".join("v."[i] for i in pattern))
def test_a_block_is_the_mean_of_its_valid_pixels_for_each_pattern(invalid, kind):
    four = [math.nan if is_bad else value for is_bad, value in zip(invalid, [0.1, 1e9, -1e9, 3.3])]
    image = np.array(four, np.float32).reshape(2, 2)
    expected = reduced([v.item() for v in image.ravel()], kind)
    assert bits(reduce_2x2(image, kind)) == bits(np.array([[expected]], np.float32))


@pytest.mark.parametrize(
    ("four", "expected"),
    [
        ([2.0**60, 1.0, -(2.0**60), 1.0], 0.25),  # another order of additions gives 0 or 0.5
        ([1.0, 2.0**60, -(2.0**60), 1.0], 0.25),
        ([2.0**60, -(2.0**60), 1.0, 1.0], 0.5),
        ([16777216.0, 1.0, 1.0, 1.0], 4194304.75),  # sums of binary32 would lose every 1
        ([-0.0, -0.0, -0.0, -0.0], -0.0),
        ([math.nan, -0.0, math.nan, math.nan], -0.0),
        ([-0.0, 0.0, -0.0, -0.0], 0.0),
        ([1e-45, 0.0, 0.0, 0.0], 0.0),
        ([1e-45, 1e-45, 1e-45, 0.0], 1e-45),
        ([float(LARGEST)] * 4, float(LARGEST)),
    ],
)
def test_additions_are_in_order_in_binary64_and_rounded_once(four, expected):
    image = np.array(four, np.float32).reshape(2, 2)
    for has_invalid in (True, False) if np.isfinite(image).all() else (True,):
        mean = reduce_2x2(image, has_invalid=has_invalid)
        assert bits(mean) == bits(np.array([[expected]], np.float32))


def test_a_mean_of_three_is_divided_before_it_is_rounded():
    image = np.array([[1.0, 1.0], [2.0**-24, math.nan]], np.float32)
    assert reduce_2x2(image)[0, 0] == np.float32((2 + 2.0**-24) / 3)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 2.0**125, -(2.0**125), -3.4e38])
def test_what_clause_3_5_calls_invalid_becomes_the_one_nan(value):
    image = np.full((8, 8), value, np.float32)
    levels = build_levels(image, Geometry(4, 2), placement=Placement(4, 4))
    assert set(levels.view(np.uint32).ravel().tolist()) == {0x7FC00000}


@pytest.mark.parametrize("pattern", ["7f800001", "ff800001", "7fffffff", "ffc00000", "7fa00000"])
def test_every_nan_becomes_the_one_nan_without_a_warning(pattern):
    image = np.ones((8, 8), np.float32)
    image[:4] = np.array([int(pattern, 16)], np.uint32).view(np.float32)
    levels = build_levels(image, Geometry(4, 2), placement=Placement(4, 4))
    assert set(levels.view(np.uint32).ravel().tolist()) == {0x7FC00000, 0x3F800000}


@pytest.mark.parametrize("value", [LARGEST, -LARGEST, np.float32(1e-45), np.float32(-0.0)])
def test_what_is_below_the_limit_is_kept(value):
    levels = build_levels(np.full((8, 8), value), Geometry(4, 2), placement=Placement(4, 4))
    assert set(levels.view(np.uint32).ravel().tolist()) == {int(value.view(np.uint32))}


@given(st.data(), geometries(), kinds)
def test_levels_nest(data, geometry, kind):
    image = data.draw(images((90, 80), kind))
    levels = build_levels(image, geometry, x=40.3, y=44.1, kind=kind)
    center = slice(geometry.size // 4, 3 * geometry.size // 4)
    for finer, level in zip(levels, levels[1:]):
        assert bits(level[center, center]) == bits(reduce_2x2(finer, kind))


@given(st.data(), geometries(), st.floats(30, 70), st.floats(30, 70))
def test_a_cutout_of_an_image_gives_the_levels_of_the_image(data, geometry, x, y):
    image = data.draw(images((101, 99)))
    full = build_levels(image, geometry, x=x, y=y)
    px, py = math.floor(x), math.floor(y)  # the pixel that a cutter would call the centre
    r = geometry.span_px // 2 + 1
    y0, x0 = max(py - r, 0), max(px - r, 0)
    cutout = image[y0 : py + r + 1, x0 : px + r + 1]
    placement = Placement.around((px - x0, py - y0))
    assert bits(build_levels(cutout, geometry, placement=placement)) == bits(full)


@given(st.data(), geometries(max_size=8, max_levels=4))
@pytest.mark.parametrize("side", ["left", "right", "low", "high"])
@pytest.mark.parametrize("other", [None, "low", "high"])
def test_clipped_edges_and_corners_are_as_if_padded_with_nan(side, other, data, geometry):
    image = data.draw(images((20, 23)))
    at = {"left": (1.2, 9.9), "right": (22.4, 9.9), "low": (11.0, -0.4), "high": (11.0, 19.1)}
    x, y = at[side]
    y = at[other][1] if other else y
    padded = np.pad(image, 100, constant_values=np.float32(np.nan))
    expected = build_levels(padded, geometry, x=x + 100, y=y + 100)
    assert bits(build_levels(image, geometry, x=x, y=y)) == bits(expected)


@pytest.mark.parametrize("x", [-1e9, 1e9, -200.0, 300.0])
@pytest.mark.parametrize("shape", [(30, 30), (0, 30), (0, 0)])
def test_a_position_off_the_image_gives_invalid_levels(x, shape):
    levels = build_levels(np.ones(shape, np.float32), Geometry(8, 3), x=x, y=10.0)
    assert np.isnan(levels).all()


@pytest.mark.parametrize("x", [1e30, -1e300])
def test_a_position_beyond_every_integer_gives_invalid_levels(x):
    assert np.isnan(build_levels(np.ones((9, 9)), Geometry(8, 3), x=x, y=x)).all()


INTEGERS = np.arange(900, dtype=np.int16).reshape(30, 30) - 400


@pytest.mark.parametrize(
    "image",
    [
        INTEGERS,
        INTEGERS.astype(">i2"),
        INTEGERS.astype(np.int64),
        INTEGERS.astype(">f4"),
        INTEGERS.astype(">f8"),
        INTEGERS.astype(np.float64),
        INTEGERS.astype(np.float32, order="F"),
        np.repeat(np.repeat(INTEGERS, 3, 0), 2, 1)[::3, ::2].astype(np.float32),
        np.repeat(INTEGERS, 2, 1).astype(np.float32)[:, ::2],
        INTEGERS[::-1, ::-1].astype(np.float32)[::-1, ::-1],
        INTEGERS.T.copy().astype(np.float32).T,
        np.frombuffer(INTEGERS.astype(np.float32).tobytes(), np.float32).reshape(30, 30),
        np.broadcast_to(INTEGERS.astype(np.float32), (30, 30)),
    ],
    ids=lambda image: f"{image.dtype.str}{image.strides}{'w' if image.flags.writeable else 'r'}",
)
def test_levels_do_not_depend_on_how_an_image_is_stored(image):
    expected = build_levels(INTEGERS.astype(np.float32), Geometry(8, 3), x=14.0, y=3.0)
    before = image.tobytes()
    assert bits(build_levels(image, Geometry(8, 3), x=14.0, y=3.0)) == bits(expected)
    assert image.tobytes() == before


def test_levels_of_half_precision_are_those_of_its_values():
    image = np.linspace(-3, 3, 400).reshape(20, 20).astype(np.float16)
    expected = build_levels(image.astype(np.float32), Geometry(8, 2), x=9, y=9)
    assert bits(build_levels(image, Geometry(8, 2), x=9, y=9)) == bits(expected)


def test_binary64_beyond_binary32_is_invalid_without_a_warning():
    image = np.full((20, 20), 1e300)
    image[:, 10:] = 1.0
    levels = build_levels(image, Geometry(8, 2), x=9.5, y=9.5)
    assert np.isnan(levels).any()
    assert (levels[levels == levels] == 1).all()


@given(st.data(), geometries(max_size=8, max_levels=3), kinds)
def test_a_stack_is_built_as_its_images_one_by_one(data, geometry, kind):
    stack = data.draw(images((2, 3, 21, 34), kind))
    levels = build_levels(stack, geometry, x=20.0, y=12.5, kind=kind)
    assert levels.shape == (2, 3, geometry.n_levels, geometry.size, geometry.size)
    for i, j in np.ndindex(2, 3):
        assert bits(levels[i, j]) == bits(build_levels(stack[i, j], geometry, x=20.0, y=12.5, kind=kind))


def test_a_stack_larger_than_a_block_is_built_as_its_images_one_by_one():
    stack = np.random.default_rng(1).normal(size=(70, 64, 64)).astype(np.float32)
    stack[33, 20:40, 20:40] = np.nan
    levels = build_levels(stack, Geometry(16, 3), x=31.0, y=31.0)
    one_by_one = [build_levels(image, Geometry(16, 3), x=31.0, y=31.0) for image in stack]
    assert bits(levels) == bits(np.stack(one_by_one))


def test_an_empty_stack_gives_no_levels():
    assert build_levels(np.zeros((0, 9, 9), np.float32), Geometry(4, 2), x=4, y=4).shape == (0, 2, 4, 4)


def test_levels_do_not_share_memory_with_the_image():
    image = np.ones((16, 16), np.float32)
    assert not np.shares_memory(build_levels(image, Geometry(16, 1), placement=Placement(8, 8)), image)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, ">u2", np.uint64])
def test_a_mask_of_any_integers_is_reduced_by_or(dtype):
    mask = np.zeros((16, 16), dtype)
    mask[3, 3], mask[2, 3] = 1, 128
    levels = build_levels(mask, Geometry(4, 3), kind="mask", placement=Placement(8, 8), outside=7)
    assert levels.dtype == np.uint16
    assert levels[2, 0, 0] == 129
    assert levels.sum() == 129 + 0  # nothing else anywhere


@pytest.mark.parametrize("value", [-1, 65536, 2**32])
def test_a_mask_beyond_16_bits_is_refused(value):
    mask = np.full((16, 16), value, np.int64)
    with pytest.raises(StampError):
        build_levels(mask, Geometry(4, 3), kind="mask", placement=Placement(8, 8))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
def test_a_mask_of_other_numbers_is_refused(dtype):
    with pytest.raises(StampError):
        build_levels(np.zeros((16, 16), dtype), Geometry(4, 3), kind="mask", placement=Placement(8, 8))


@pytest.mark.parametrize("shape", [(), (5,)])
def test_an_image_has_two_axes(shape):
    with pytest.raises(GeometryError):
        build_levels(np.zeros(shape, np.float32), Geometry(4, 2), x=0, y=0)


def test_an_unknown_kind_and_no_position_are_refused():
    image = np.zeros((9, 9), np.float32)
    with pytest.raises(GeometryError, match="flux"):
        build_levels(image, Geometry(4, 2), x=0, y=0, kind="flux")
    with pytest.raises(GeometryError, match="placement"):
        build_levels(image, Geometry(4, 2), x=0)
    with pytest.raises(GeometryError, match="finite"):
        build_levels(image, Geometry(4, 2), x=math.nan, y=0)


def test_what_is_no_array_is_a_programming_error():
    with pytest.raises(TypeError):
        build_levels([[1.0, 2.0], [3.0, 4.0]], Geometry(4, 2), x=0, y=0)


# --- the mosaic ---------------------------------------------------------------------------------------


@given(st.data(), geometries(max_size=8, max_levels=4), kinds)
def test_in_a_mosaic_each_pixel_is_that_of_the_finest_level_that_covers_it(data, geometry, kind):
    levels = data.draw(images((geometry.n_levels, geometry.size, geometry.size), kind))
    picture = mosaic(levels)
    span, half = geometry.span_px, geometry.size // 2
    assert picture.shape == (span, span)
    assert picture.dtype == levels.dtype
    for y, x in itertools.product(range(0, span, 3), range(span)):
        place = [v - span // 2 for v in (y, x)]
        level = next(k for k in itertools.count() if all(-half * 2**k <= v < half * 2**k for v in place))
        expected = levels[level, place[0] // 2**level + half, place[1] // 2**level + half]
        assert bits(picture[y, x]) == bits(expected)


def test_a_mosaic_of_a_stack_is_that_of_each():
    levels = np.random.default_rng(0).normal(size=(3, 2, 4, 8, 8)).astype(np.float32)
    stack = mosaic(levels)
    assert stack.shape == (3, 2, 64, 64)
    assert bits(stack[2, 1]) == bits(mosaic(levels[2, 1]))


def test_a_mosaic_is_bounded_by_its_caller():
    levels = np.zeros((8, 64, 64), np.float32)
    with pytest.raises(ViewError) as caught:
        mosaic(levels)
    assert caught.value.reason == "mosaic-size"
    assert mosaic(levels[:6]).shape == (2048, 2048)
    assert mosaic(np.zeros((2, 4, 4), np.float32), max_px=8).shape == (8, 8)
    with pytest.raises(ViewError):
        mosaic(np.zeros((2, 4, 4), np.float32), max_px=7)


@pytest.mark.parametrize("shape", [(4,), (8, 8), (2, 8, 4), (0, 8, 8), (40, 4, 4), (9, 4, 4), (2, 5, 5)])
def test_a_mosaic_of_what_are_no_levels_is_refused(shape):
    with pytest.raises(StampError):
        mosaic(np.zeros(shape, np.float32))


def test_the_helper_rounds_as_the_hardware_does():
    values = np.random.default_rng(5).normal(size=100) * 10.0 ** np.arange(-50, 50)
    with np.errstate(over="ignore"):
        expected = values[:80].astype(np.float32)
    assert [round32(v) for v in values[:80]] == expected.astype(float).tolist()
    assert struct.pack("<f", math.nan) == b"\0\0\xc0\x7f"
