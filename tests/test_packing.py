"""Levels to sent values and back (specification, section 4)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLUX, NAN, SPECIAL, bits, geometries, images

from multiscale import Geometry, GeometryError, PayloadError, build_levels, pack, unpack
from multiscale.packing import centers_nest, sent_index, sent_level
from multiscale.pyramid import reduce_2x2

pytestmark = pytest.mark.filterwarnings("error")

kinds = st.sampled_from([*FLUX, "variance", "mask"])
VALID_SPECIAL = [value for value in SPECIAL if abs(value) < 2.0**125]


def canonical(image):
    """Invalid pixels as the one NaN (clause 3.5)."""
    return np.where(np.abs(image) < 2.0**125, image, np.float32(NAN)) if image.dtype != np.uint16 else image


@st.composite
def levels_of_images(draw, geometry, kind):
    image = draw(images((80, 80), kind))
    return build_levels(image, geometry, x=draw(st.floats(0, 80)), y=draw(st.floats(0, 80)), kind=kind)


@given(st.data(), geometries(), kinds)
def test_what_is_packed_unpacks_to_the_same_bits(data, geometry, kind):
    levels = data.draw(levels_of_images(geometry, kind))
    values = pack(levels, geometry, kind=kind)
    assert values.shape == (geometry.n_values,)
    assert bits(unpack(values, geometry, kind=kind)) == bits(levels)


@given(st.data(), geometries(), kinds)
def test_any_levels_survive_whole(data, geometry, kind):
    levels = canonical(data.draw(images((2, geometry.n_levels, geometry.size, geometry.size), kind)))
    values = pack(levels, geometry, kind=kind, shared_center=False)
    assert values.shape == (2, geometry.n_pixels)
    assert bits(unpack(values, geometry, kind=kind, shared_center=False)) == bits(levels)


def test_values_travel_in_the_order_of_clause_4_1():
    """STYLE.md's example: two levels of 4x4, level 0 holding 0 ... 15."""
    geometry = Geometry(4, 2)
    image = np.full((8, 8), 100, np.float32)
    image[2:6, 2:6] = np.arange(16).reshape(4, 4)
    values = pack(build_levels(image, geometry, x=3.5, y=3.5), geometry)
    assert values.tolist() == [*range(16), *[100] * 12]
    levels = unpack(values, geometry)
    assert levels[1, 1:3, 1:3].ravel().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert values.astype("<f4").tobytes().hex().startswith("000000000000803f0000004000004040")


@pytest.mark.parametrize("size", [4, 8, 12, 64])
@pytest.mark.parametrize("n_levels", [1, 2, 3, 8])
@pytest.mark.parametrize("shared", [True, False])
def test_the_index_of_sent_values_skips_exactly_the_centres(size, n_levels, shared):
    expected = [
        (k, y, x)
        for k in range(n_levels)
        for y in range(size)
        for x in range(size)
        if not (shared and k and size // 4 <= y < 3 * size // 4 and size // 4 <= x < 3 * size // 4)
    ]
    index = sent_index(size, n_levels, shared)
    assert np.transpose(np.unravel_index(index, (n_levels, size, size))).tolist() == [
        list(p) for p in expected
    ]
    assert sent_level(size, n_levels, shared).tolist() == [k for k, _, _ in expected]
    assert index.size == Geometry(size, n_levels).n_sent(shared)


@pytest.mark.parametrize("function", [sent_index, sent_level])
def test_what_is_kept_between_calls_cannot_be_changed(function):
    with pytest.raises(ValueError, match="read-only"):
        function(8, 4)[0] = 1


@given(st.data(), geometries(max_levels=4).filter(lambda g: g.n_levels > 1), kinds)
def test_one_changed_bit_in_a_centre_is_never_packed_away(data, geometry, kind):
    levels = data.draw(levels_of_images(geometry, kind))
    level = data.draw(st.integers(1, geometry.n_levels - 1))
    y, x = (data.draw(st.integers(geometry.size // 4, 3 * geometry.size // 4 - 1)) for _ in range(2))
    flat = levels.view(np.uint16 if kind == "mask" else np.uint32)
    flat[level, y, x] ^= 1
    assert not centers_nest(levels, geometry, kind)
    with pytest.raises(PayloadError) as caught:
        pack(levels, geometry, kind=kind)
    assert caught.value.reason == "shared-center"


@pytest.mark.parametrize(("first", "second"), [(0.0, -0.0), (-0.0, 0.0), (1.0, np.nan), (np.nan, 1.0)])
def test_zeros_of_both_signs_and_nan_differ_in_a_centre(first, second):
    geometry = Geometry(4, 2)
    levels = np.full((2, 4, 4), first, np.float32)
    assert centers_nest(levels, geometry)
    levels[1, 1, 1] = second
    assert not centers_nest(levels, geometry)


def test_the_stamp_that_does_not_nest_is_named():
    geometry = Geometry(8, 3)
    levels = np.zeros((400, 3, 8, 8), np.float32)
    levels[317, 2, 3, 3] = 1
    assert np.flatnonzero(~centers_nest(levels, geometry)).tolist() == [317]
    with pytest.raises(PayloadError, match="stamp 317"):
        pack(levels, geometry)


@given(st.data(), geometries(max_size=8, max_levels=4), kinds)
def test_a_stack_is_packed_and_unpacked_as_its_stamps_one_by_one(data, geometry, kind):
    stack = np.stack([data.draw(levels_of_images(geometry, kind)) for _ in range(4)])
    stack = stack.reshape(2, 2, *stack.shape[1:])
    values = pack(stack, geometry, kind=kind)
    assert values.shape == (2, 2, geometry.n_values)
    levels = unpack(values, geometry, kind=kind)
    for i, j in np.ndindex(2, 2):
        assert bits(values[i, j]) == bits(pack(stack[i, j], geometry, kind=kind))
        assert bits(levels[i, j]) == bits(unpack(values[i, j], geometry, kind=kind))


@pytest.mark.parametrize("kind", ["science", "variance"])
@pytest.mark.parametrize("fraction", [0.0, 0.05])
def test_a_stack_larger_than_a_block_is_unpacked_as_its_stamps_one_by_one(kind, fraction):
    geometry, rng = Geometry(16, 4), np.random.default_rng(3)
    values = rng.normal(size=(200, geometry.n_values)).astype(np.float32)
    values[rng.random(values.shape) < fraction] = np.nan
    levels = unpack(values, geometry, kind=kind)
    assert bits(levels) == bits(np.stack([unpack(row, geometry, kind=kind) for row in values]))
    center = slice(4, 12)
    for level in range(1, 4):
        assert bits(levels[:, level, center, center]) == bits(reduce_2x2(levels[:, level - 1], kind))


def test_nothing_is_packed_and_unpacked_to_nothing():
    geometry = Geometry(8, 3)
    assert pack(np.zeros((0, 3, 8, 8), np.float32), geometry).shape == (0, geometry.n_values)
    assert unpack(np.zeros((0, geometry.n_values), np.float32), geometry).shape == (0, 3, 8, 8)
    assert unpack(np.zeros((2, 0, geometry.n_values), np.uint16), geometry, kind="mask").shape == (
        2,
        0,
        3,
        8,
        8,
    )


@pytest.mark.parametrize("shape", [(), (3,), (3, 8, 9), (3, 9, 8), (2, 8, 8), (3, 8, 8, 1), (64, 3)])
def test_levels_of_another_shape_are_refused(shape):
    with pytest.raises(GeometryError):
        pack(np.zeros(shape, np.float32), Geometry(8, 3))


@pytest.mark.parametrize("n", [None, 0, 159, 161, 192])
def test_another_number_of_values_is_refused(n):
    with pytest.raises(GeometryError):
        unpack(np.zeros(() if n is None else n, np.float32), Geometry(8, 3))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("store", ["big-endian", "fortran", "strided", "reversed", "read-only"])
def test_packing_does_not_depend_on_how_arrays_are_stored(store, shared):
    geometry = Geometry(8, 3)
    image = np.random.default_rng(0).normal(size=(3, 40, 40)).astype(np.float32)
    image[:, 18:20, 18:21] = np.nan
    levels = build_levels(image, geometry, x=20, y=20)
    stored = {
        "big-endian": lambda a: a.astype(">f4"),
        "fortran": np.asfortranarray,
        "strided": lambda a: np.repeat(a, 2, -1)[..., ::2],
        "reversed": lambda a: a[::-1, ..., ::-1].copy()[::-1, ..., ::-1],
        "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    }[store]
    values = pack(levels, geometry, shared_center=shared)
    assert bits(pack(stored(levels), geometry, shared_center=shared)) == bits(values)
    assert bits(unpack(stored(values), geometry, shared_center=shared)) == bits(levels)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.int64, np.complex64])
def test_levels_and_values_of_another_type_are_refused(dtype):
    geometry = Geometry(8, 3)
    for shared in (True, False):
        with pytest.raises(GeometryError):
            pack(np.zeros((3, 8, 8), dtype), geometry, shared_center=shared)
        with pytest.raises(GeometryError):
            unpack(np.zeros(geometry.n_sent(shared), dtype), geometry, shared_center=shared)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("science", np.uint16), ("mask", np.float32), ("mask", np.int16)]
)
def test_a_type_that_the_kind_has_not_is_refused(kind, dtype):
    with pytest.raises(GeometryError):
        pack(np.zeros((2, 8, 8), dtype), Geometry(8, 2), kind=kind)
    with pytest.raises(GeometryError):
        unpack(np.zeros(112, dtype), Geometry(8, 2), kind=kind)


def test_an_unknown_kind_is_refused():
    with pytest.raises(GeometryError, match="flux"):
        pack(np.zeros((2, 8, 8), np.float32), Geometry(8, 2), kind="flux")


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("n_levels", [1, 3])
def test_results_share_no_memory_with_what_was_given(shared, n_levels):
    geometry = Geometry(8, n_levels)
    levels = np.zeros((2, n_levels, 8, 8), np.float32)
    values = pack(levels, geometry, shared_center=shared)
    assert not np.shares_memory(values, levels)
    assert not np.shares_memory(unpack(values, geometry, shared_center=shared), values)
    assert values.flags.writeable


def test_what_is_no_array_is_a_programming_error():
    with pytest.raises(TypeError):
        pack([[0.0]], Geometry(4, 1))
    with pytest.raises(TypeError):
        unpack([0.0] * 16, Geometry(4, 1))


@given(st.data(), st.sampled_from(VALID_SPECIAL))
def test_a_constant_level_keeps_its_bits(data, value):
    geometry = data.draw(geometries())
    levels = np.full((geometry.n_levels, geometry.size, geometry.size), value, np.float32)
    if abs(value) < 2.0**124 and abs(value) > 1e-44:  # no rounding of a constant, no overflow
        assert bits(unpack(pack(levels, geometry), geometry)) == bits(levels)
