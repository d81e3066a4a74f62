"""NumPy, torch and any library of the array API standard give the same bits (specification 3.2, 4.2).

array-api-strict allows nothing beyond the standard, so what runs on it runs on CuPy.
"""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLUX, bits, float32, geometries, images

from multiscale import Geometry, GeometryError, PayloadError, Placement, build_levels, mosaic, pack, unpack
from multiscale.arrays import all_canonical, all_canonical_finite, array_namespace, same_bits
from multiscale.packing import centers_nest

pytestmark = pytest.mark.filterwarnings("error")

kinds = st.sampled_from([*FLUX, "variance", "mask"])


def to_torch(array):
    torch = pytest.importorskip("torch", reason="torch (extra 'torch') is not installed")
    pytest.importorskip("array_api_compat", reason="array-api-compat (extra 'torch') is not installed")
    return torch.from_numpy(np.array(array))


def to_strict(array):
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    return strict.asarray(array, copy=True)


def to_numpy(array):
    return np.asarray(array) if isinstance(array, np.ndarray) else np.from_dlpack(array)


LIBRARIES = pytest.mark.parametrize("other", [to_torch, to_strict])


@LIBRARIES
@given(st.data(), geometries(max_size=12, max_levels=4), kinds, st.floats(-10, 60), st.floats(-10, 60))
def test_levels_and_values_have_the_same_bits_in_every_library(other, data, geometry, kind, x, y):
    image = data.draw(images((2, 50, 47), kind))
    levels = build_levels(image, geometry, x=x, y=y, kind=kind, outside=3)
    their_levels = build_levels(other(image), geometry, x=x, y=y, kind=kind, outside=3)
    assert type(their_levels) is type(other(image))
    assert bits(to_numpy(their_levels)) == bits(levels)
    values = pack(levels, geometry, kind=kind)
    assert bits(to_numpy(pack(their_levels, geometry, kind=kind))) == bits(values)
    assert bits(to_numpy(unpack(other(values), geometry, kind=kind))) == bits(levels)
    whole = pack(their_levels, geometry, kind=kind, shared_center=False)
    assert bits(to_numpy(unpack(whole, geometry, kind=kind, shared_center=False))) == bits(levels)
    assert bits(to_numpy(mosaic(their_levels))) == bits(mosaic(levels))


@LIBRARIES
@pytest.mark.parametrize("kind", ["science", "variance"])
def test_a_large_stack_has_the_same_bits_in_every_library(other, kind):
    rng, geometry = np.random.default_rng(7), Geometry(16, 4)
    stack = np.abs(rng.normal(size=(60, 128, 128))).astype(np.float32)
    stack[::3][rng.random((20, 128, 128)) < 0.2] = np.nan
    levels = build_levels(stack, geometry, kind=kind, placement=Placement(64, 64))
    theirs = build_levels(other(stack), geometry, kind=kind, placement=Placement(64, 64))
    assert bits(to_numpy(theirs)) == bits(levels)
    values = pack(levels, geometry, kind=kind)
    assert bits(to_numpy(unpack(other(values), geometry, kind=kind))) == bits(levels)


@LIBRARIES
def test_additions_are_in_order_in_every_library(other):
    image = np.array([[2.0**60, 1.0], [-(2.0**60), 1.0]], np.float32)
    levels = np.zeros((2, 4, 4), np.float32)
    levels[0, :2, :2] = image
    levels[1, 1, 1] = 0.25
    assert centers_nest(other(levels), Geometry(4, 2))


@LIBRARIES
def test_levels_that_do_not_nest_are_refused_in_every_library(other):
    levels = np.zeros((3, 2, 8, 8), np.float32)
    levels[1, 1, 3, 3] = -0.0
    nests = centers_nest(other(levels), Geometry(8, 2))
    assert to_numpy(nests).tolist() == [True, False, True]
    with pytest.raises(PayloadError, match="stamp 1"):
        pack(other(levels), Geometry(8, 2))


@LIBRARIES
def test_wrong_shapes_and_types_are_refused_in_every_library(other):
    geometry = Geometry(8, 2)
    with pytest.raises(GeometryError):
        pack(other(np.zeros((2, 8, 9), np.float32)), geometry)
    with pytest.raises(GeometryError):
        unpack(other(np.zeros(5, np.float32)), geometry)
    with pytest.raises(GeometryError):
        pack(other(np.zeros((2, 8, 8))), geometry)
    with pytest.raises(GeometryError):
        mosaic(other(np.zeros((2, 8, 9), np.float32)))


@LIBRARIES
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float64, np.uint8])
def test_images_of_other_types_are_converted_in_every_library(other, dtype):
    image = (np.arange(900) % 200).astype(dtype).reshape(30, 30)
    expected = build_levels(image.astype(np.float32), Geometry(8, 2), x=14, y=2)
    assert bits(to_numpy(build_levels(other(image), Geometry(8, 2), x=14, y=2))) == bits(expected)
    if dtype != np.float64:
        expected = build_levels(image.astype(np.uint16), Geometry(8, 2), x=14, y=2, kind="mask")
        levels = build_levels(other(image), Geometry(8, 2), x=14, y=2, kind="mask")
        assert bits(to_numpy(levels)) == bits(expected)


@LIBRARIES
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_masks_that_are_none_are_refused_in_every_library(other, dtype):
    with pytest.raises(GeometryError):
        build_levels(other(np.full((9, 9), -1, dtype)), Geometry(4, 2), x=4, y=4, kind="mask")


@LIBRARIES
@pytest.mark.parametrize("x", [-1e300, -1000.0, 1000.0, 1e30])
def test_a_position_off_the_image_gives_invalid_levels_in_every_library(other, x):
    levels = to_numpy(build_levels(other(np.ones((2, 9, 9), np.float32)), Geometry(4, 2), x=x, y=4))
    assert np.isnan(levels).all()


@LIBRARIES
def test_an_image_is_left_as_it_was_in_every_library(other):
    image = np.ones((2, 16, 16), np.float32)
    image[0, 3] = np.inf
    theirs = other(image)
    build_levels(theirs, Geometry(8, 2), placement=Placement(8, 8))
    assert bits(to_numpy(theirs)) == bits(image)


def test_a_torch_tensor_that_is_a_view_has_the_same_bits():
    tensor = to_torch(np.arange(1600, dtype=np.float32).reshape(40, 40))
    expected = build_levels(np.ascontiguousarray(tensor.numpy().T), Geometry(8, 2), x=20, y=20)
    assert bits(to_numpy(build_levels(tensor.T, Geometry(8, 2), x=20, y=20))) == bits(expected)


def test_a_torch_tensor_that_needs_a_gradient_can_be_built():
    tensor = to_torch(np.ones((40, 40), np.float32)).requires_grad_()
    assert build_levels(tensor, Geometry(8, 2), x=20, y=20).detach().sum() == 128


@pytest.mark.parametrize("thing", [[1.0], (1.0,), 1.0, None, "a", b"a", {}])
def test_what_is_no_array_is_a_programming_error(thing):
    with pytest.raises(TypeError, match="NumPy, torch or CuPy"):
        array_namespace(thing)


def test_torch_is_not_loaded_to_learn_that_an_array_is_none_of_its():
    script = (
        "import sys, multiscale.arrays as a\n"
        "try: a.array_namespace([])\n"
        "except TypeError: print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


CANONICAL = ["00000000", "80000000", "00000001", "7dffffff", "fdffffff", "7fc00000"]
NOT_CANONICAL = [
    "7e000000",
    "fe000000",
    "7f800000",
    "ff800000",
    "7fc00001",
    "ffc00000",
    "7f800001",
    "7fffffff",
]


@pytest.mark.parametrize("pattern", CANONICAL + NOT_CANONICAL)
def test_canonical_values_are_those_of_clause_3_5(pattern):
    values = np.zeros(9, np.float32)
    values.view(np.uint32)[4] = int(pattern, 16)
    assert all_canonical(values) == (pattern in CANONICAL)
    assert all_canonical_finite(values) == (pattern in CANONICAL and pattern != "7fc00000")


def test_equal_bits_are_told_apart_from_equal_values():
    a = np.array([0.0, -0.0, 1.0, np.nan], np.float32)
    b = np.array([-0.0, -0.0, 1.0, np.nan], np.float32)
    expected = [False, True, True, True]
    for convert in (np.asarray, to_strict, to_torch):
        assert to_numpy(same_bits(convert(a), convert(b))).tolist() == expected


def test_the_helper_reads_the_most_significant_digits_first():
    assert float32("3f800000") == 1
