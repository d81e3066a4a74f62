"""Where stamps lie (specification, section 2)."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from multiscale import PROFILES, Geometry, GeometryError, Placement, profile
from multiscale.geometry import level_coordinates

pytestmark = pytest.mark.filterwarnings("error")

positions = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("size", range(-4, 72))
def test_size_is_a_multiple_of_4_from_4_to_64(size):
    if size in range(4, 65, 4):
        assert Geometry(size=size).size == size
    else:
        with pytest.raises(GeometryError) as caught:
            Geometry(size=size)
        assert (caught.value.reason, caught.value.where, caught.value.clause) == ("geometry", "size", "2.1")


@pytest.mark.parametrize("n_levels", range(-1, 11))
def test_there_are_1_to_8_levels(n_levels):
    if 1 <= n_levels <= 8:
        assert Geometry(n_levels=n_levels).n_levels == n_levels
    else:
        with pytest.raises(GeometryError):
            Geometry(n_levels=n_levels)


@pytest.mark.parametrize("pixel_scale", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_pixel_scale_is_finite_and_above_0(pixel_scale):
    with pytest.raises(GeometryError):
        Geometry(pixel_scale=pixel_scale)


@pytest.mark.parametrize("fields", [{"size": 8.0}, {"n_levels": 2.5}, {"size": "8"}, {"n_levels": None}])
def test_counts_of_another_type_are_refused(fields):
    with pytest.raises(GeometryError):
        Geometry(**fields)


@pytest.mark.parametrize(
    ("name", "n_values", "n_pixels", "span_px"),
    [
        ("ZTF-4x8", 208, 256, 64),
        ("ZTF-3x16", 640, 768, 64),
        ("LSST-4x16", 832, 1024, 128),
        ("AST3-4x16", 832, 1024, 128),
    ],
)
def test_profiles_hold_the_published_numbers_of_values(name, n_values, n_pixels, span_px):
    geometry = profile(name)
    assert geometry is PROFILES[name]
    assert (geometry.n_values, geometry.n_pixels, geometry.span_px) == (n_values, n_pixels, span_px)
    assert (geometry.n_sent(True), geometry.n_sent(False)) == (n_values, n_pixels)
    assert geometry.field_of_view == span_px * geometry.pixel_scale


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(GeometryError, match="ZTF-4x8"):
        profile("ZTF-4x9")


@given(st.integers(1, 16), st.floats(0, 1e5))
def test_the_fewest_levels_are_the_fewest_that_cover(quarter, width):
    geometry = Geometry(size=4 * quarter, n_levels=8).fewest_levels(width)
    assert geometry.span_px >= width or geometry.n_levels == 8
    assert geometry.n_levels == 1 or Geometry(4 * quarter, geometry.n_levels - 1).span_px < width


@given(positions, positions)
@example(0.0, -0.0)
@example(0.9999999999999999, -1e-20)  # x + 1 is not x + 1 in binary64
@example(0.49999999999999994, 0.5)
@example(-0.5, -1.0)
def test_a_position_has_the_corner_that_clause_2_2_gives(x, y):
    placement = Placement.at(x, y)
    for c, d, u in ((placement.cx, placement.dx, x), (placement.cy, placement.dy, y)):
        assert c == math.floor(Fraction(u) + 1)
        assert -0.5 <= d <= 0.5
        assert abs(Fraction(d) - (Fraction(u) - (c - Fraction(1, 2)))) <= Fraction(1, 2**53)


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf])
def test_a_position_is_finite(x):
    with pytest.raises(GeometryError) as caught:
        Placement.at(5.0, x)
    assert caught.value.reason == "position"


def test_the_example_of_clause_2_2():
    placement, geometry = Placement.around((31, 31)), Geometry(8, 4, 1.01)
    assert (placement.cx, placement.dx) == (32, None)
    covered = [(placement.cx - 4 * 2**k, placement.cx + 4 * 2**k - 1) for k in (0, 3)]
    assert covered == [(28, 35), (0, 63)]
    assert placement.clipped(geometry, 63, 63) == {"xLow": 0, "xHigh": 1, "yLow": 0, "yHigh": 1}


@given(st.integers(-100, 100), st.floats(-2, 2))
@example(31, -0.5)
@example(31, 1.5)
def test_a_position_in_a_cutout_is_within_a_pixel_of_the_corner(center, from_center):
    x = center + from_center
    if -0.5 <= x - center < 1.5:  # dx = x - (c - 1/2), c = center + 1
        placement = Placement.around((center, 7), (x, 7.0))
        assert placement.cx == center + 1
        assert placement.dx == pytest.approx(x - center - 0.5, abs=1e-12)
        assert (placement.cy, placement.dy) == (8, -0.5)
    else:
        with pytest.raises(GeometryError):
            Placement.around((center, 7), (x, 7.0))


def test_a_position_that_is_not_finite_is_refused_in_a_cutout():
    with pytest.raises(GeometryError):
        Placement.around((3, 3), (math.nan, 3.0))


@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(-200, 200), st.integers(-200, 200),
    st.integers(0, 150), st.integers(0, 150),
)  # fmt: skip
def test_clipped_counts_the_rows_and_columns_that_were_not_given(quarter, n_levels, cx, cy, width, height):
    geometry = Geometry(4 * quarter, n_levels)
    clipped = Placement(cx, cy).clipped(geometry, width, height)
    half = geometry.span_px // 2
    for c, length, low, high in ((cx, width, "xLow", "xHigh"), (cy, height, "yLow", "yHigh")):
        footprint = range(c - half, c + half)
        n_given = sum(0 <= pixel < length for pixel in footprint)
        assert clipped[low] + clipped[high] == len(footprint) - n_given
        assert clipped[low] == sum(pixel < 0 for pixel in footprint)
        assert min(clipped.values()) >= 0


@given(st.sampled_from(list(PROFILES.values())), st.integers(0, 7), st.floats(-0.5, 0.5, exclude_max=True))
def test_the_object_is_where_clause_2_4_says(geometry, level, dx):
    level = min(level, geometry.n_levels - 1)
    u = geometry.size / 2 - 0.5 + dx
    assert level_coordinates(u, geometry, level) == pytest.approx(
        geometry.size / 2 - 0.5 + dx / 2**level, abs=1e-12
    )


@given(st.integers(1, 7), st.integers(0, 15), st.sampled_from([4, 8, 16]))
def test_pixels_of_a_level_begin_where_clause_2_2_says(level, i, size):
    geometry, c = Geometry(size, 8), 1000
    i %= size
    begin = c + (i - size // 2) * 2**level  # first source pixel; its low edge is half a pixel lower
    u = begin - 0.5 - (c - size // 2)  # that edge, in the array of level 0
    assert level_coordinates(u, geometry, level) == i - 0.5


def test_a_centre_is_an_integer_of_any_type():
    placement = Placement.around((np.int64(31), np.int32(31)))
    assert placement == Placement.around((31, 31))
    assert {type(v) for v in placement.clipped(Geometry(8, 4), 63, 63).values()} == {int}
    with pytest.raises(TypeError):
        Placement.around((31.5, 31))  # type: ignore[arg-type]
