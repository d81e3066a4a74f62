"""Cutouts: from images and levels to records and back (specification, sections 2, 3 and 6)."""

import copy
import io
import math
import pickle

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import bits, geometries, images

from multiscale import (
    Alert,
    Cutout,
    EmbeddedAlert,
    Geometry,
    GeometryError,
    PayloadError,
    Placement,
    RecordError,
    StampError,
    build_levels,
    encode_cutouts,
)
from multiscale import errors as all_errors
from multiscale.cutout import Clipped, Missing, Sky
from multiscale.keys import plane_key, wire_key
from multiscale.noise import background_and_noise, median
from multiscale.packet import alert_from_record, cutout_record
from multiscale.rules import cutout_faults
from multiscale.schema import load_schema
from multiscale.sky import deproject, fit_sky, project

pytestmark = pytest.mark.filterwarnings("error")

GEOMETRY = Geometry(8, 3, 1.01)
VARIANCE, MASK = ("variance", "science"), ("mask", "science")
RNG = np.random.default_rng(0)
SCIENCE = RNG.normal(100, 10, (63, 63)).astype(np.float32)


def of_image(image=SCIENCE, geometry=GEOMETRY, **options):
    options = {"x": 30.3, "y": 31.4} | options
    return Cutout.from_images({"science": image}, geometry, **options)


def through_avro(record, name="multiscale.Cutout"):
    """A record as a reader gives it."""
    schema, stream = load_schema(name), io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), record)
    stream.seek(0)
    read = fastavro.schemaless_reader(stream, fastavro.parse_schema(schema), None)
    assert not stream.read()
    return read


@st.composite
def plane_sets(draw, shape=(40, 37)):
    keys = draw(
        st.lists(
            st.sampled_from(
                ["science", "template", "difference", "score", VARIANCE, ("variance", "template"), MASK,
                 ("mask", "difference")]
            ),
            min_size=1, max_size=5, unique=True,
        )
    )  # fmt: skip
    planes = {}
    for key in keys:
        kind = key if isinstance(key, str) else key[0]
        image = draw(images(shape, kind))
        planes[key] = image & 7 if kind == "mask" else image
    return planes


MASK_BITS = {key: ["SATURATED", "", "COSMIC"] for key in (MASK, ("mask", "difference"))}
MASK_BITS = {key: ["A", "B", "C"] for key in MASK_BITS}


# --- from images --------------------------------------------------------------------------------------


@given(st.data(), geometries(max_size=8, max_levels=4), plane_sets(), st.sampled_from(["raw", "rice"]))
def test_a_cutout_survives_avro_and_gives_the_levels_of_the_rule(data, geometry, planes, encoding):
    x, y = data.draw(st.floats(-9, 49)), data.draw(st.floats(-9, 49))
    cutout = Cutout.from_images(planes, geometry, x=x, y=y, encoding=encoding, mask_bits={
        key: bits for key, bits in MASK_BITS.items() if key in planes
    })  # fmt: skip
    record = through_avro(cutout.to_record())
    read = Cutout.from_record(record)
    assert read == cutout
    assert list(cutout_faults(record)) == []
    assert read.geometry == geometry
    assert set(read.keys) == set(planes)
    for key, image in planes.items():
        kind, of = (key, None) if isinstance(key, str) else key
        levels = read.levels(kind, of)
        assert bits(levels) == bits(cutout.levels(kind, of))
        if kind == "mask":
            continue
        if kind == "variance" and of in planes:
            image = np.where(np.abs(planes[of]) < 2.0**125, image, np.float32(np.nan))
        expected = build_levels(image, geometry, x=x, y=y, kind=kind)
        plane = read.plane(kind, of)
        if plane.encoding == "RAW":
            assert bits(levels) == bits(expected)
        else:
            error = np.abs(np.nan_to_num(levels.astype(float)) - np.nan_to_num(expected.astype(float)))
            assert (error[0] <= 2.0 ** (plane.step_exponent - 1)).all()


@given(st.data(), geometries(max_size=8, max_levels=4), plane_sets(), st.sampled_from(["raw", "rice"]))
def test_a_decoded_cutout_encodes_to_the_same_bytes(data, geometry, planes, encoding):
    first = Cutout.from_images(planes, geometry, x=20.2, y=17.9, encoding=encoding, mask_bits={
        key: bits for key, bits in MASK_BITS.items() if key in planes
    })  # fmt: skip
    first = Cutout.from_record(through_avro(first.to_record()))
    levels = {key: first.levels(*((key,) if isinstance(key, str) else key)) for key in first.keys}
    again = Cutout.from_levels(levels, geometry, like=first)
    assert again.to_record() == first.to_record()


def test_whole_levels_that_would_nest_stay_whole_when_encoded_again():
    """4.3 asks for whole levels where centres differ, and forbids them nowhere but for one level."""
    levels = np.zeros((3, 8, 8), np.float32)
    record = Cutout.from_levels({"science": levels}, GEOMETRY).to_record()
    plane = record["planes"][0]
    plane |= {"sharedCenter": False, "payload": bytes(4 * GEOMETRY.n_pixels)}
    first = Cutout.from_record(record)
    again = Cutout.from_levels({"science": first.levels("science")}, GEOMETRY, like=first)
    assert again.to_record() == first.to_record()


@pytest.mark.parametrize(
    ("x", "y", "sides"),
    [
        (2.0, 20.0, {"xLow": 13}),
        (37.0, 20.0, {"xHigh": 14}),
        (20.0, -1.0, {"yLow": 16}),
        (20.0, 55.2, {"yHigh": 32}),
        (2.0, 2.0, {"xLow": 13, "yLow": 13}),
        (39.0, 39.0, {"xHigh": 16, "yHigh": 16}),
    ],
)
def test_clipped_sides_are_counted_and_invalid(x, y, sides):
    cutout = of_image(SCIENCE[:40, :40], x=x, y=y, clipped_by="DETECTOR")
    none = {"xLow": 0, "xHigh": 0, "yLow": 0, "yHigh": 0}
    assert cutout.clipped.to_record() == none | sides
    assert cutout.clipped_by == "DETECTOR"
    padded = np.pad(SCIENCE[:40, :40], 64, constant_values=np.float32(np.nan))
    assert bits(cutout.levels("science")) == bits(build_levels(padded, GEOMETRY, x=x + 64, y=y + 64))


def test_what_clips_is_one_of_the_symbols():
    with pytest.raises(RecordError, match="DETECTOR"):
        of_image(clipped_by="EDGE")


def test_what_clips_is_unknown_where_nothing_is_clipped():
    assert of_image(clipped_by="DETECTOR").clipped_by == "UNKNOWN"


def test_the_position_travels_as_binary32():
    cutout = of_image(x=30.3, y=31.9)
    assert (cutout.dx, cutout.dy) == (float(np.float32(30.3 - 30.5)), float(np.float32(31.9 - 31.5)))
    cut = of_image(center=(31, 31), x=None, y=None)
    assert (cut.dx, cut.dy) == (None, None)
    near = of_image(center=(31, 31), x=31 + 1.5 - 1e-12, y=30.5)  # rounds to 1 in binary32
    assert -1 <= near.dy < near.dx < 1


@pytest.mark.parametrize(
    "options", [{"x": None}, {"y": None}, {"x": math.nan}, {"center": (31, 31), "x": 40.0}]
)
def test_a_position_that_cannot_be_is_refused(options):
    with pytest.raises(GeometryError) as caught:
        of_image(**options)
    assert caught.value.reason == "position"


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.float64, np.int16, ">i4", np.uint8, np.int64, np.float16])
@pytest.mark.parametrize("encoding", ["raw", "rice"])
def test_a_cutout_does_not_depend_on_how_an_image_is_stored(dtype, encoding):
    image = np.round(SCIENCE).astype(np.float32)
    image.flags.writeable = False
    stored = image.astype(dtype)
    expected = of_image(image, encoding=encoding)
    assert of_image(stored, encoding=encoding) == expected
    assert of_image(np.asfortranarray(stored), encoding=encoding) == expected
    assert of_image(np.repeat(stored, 2, 0)[::2], encoding=encoding) == expected
    assert of_image(stored.tolist(), encoding=encoding) == expected


def test_images_are_left_as_they_were():
    science, variance = SCIENCE.copy(), np.ones_like(SCIENCE)
    mask = np.full(SCIENCE.shape, 3, np.uint16)
    science[30, 30] = np.inf
    before = [a.tobytes() for a in (science, variance, mask)]
    planes = {"science": science, VARIANCE: variance, MASK: mask}
    for encoding in ("raw", "rice"):
        Cutout.from_images(planes, GEOMETRY, x=2, y=61, encoding=encoding, mask_bits={MASK: ["A", "B"]})
    assert [a.tobytes() for a in (science, variance, mask)] == before


@pytest.mark.parametrize("encoding", ["raw", "rice"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**125, 1e300, -3.4e38])
def test_a_plane_without_a_valid_pixel_has_no_statistics(value, encoding):
    cutout = of_image(np.full((63, 63), value), encoding=encoding)
    plane = cutout.plane("science")
    assert (plane.background, plane.noise, plane.encoding) == (None, None, "RAW")
    assert np.isnan(cutout.levels("science")).all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 63), (63, 0)])
def test_an_image_without_pixels_is_clipped_everywhere(shape):
    planes = {
        "science": np.zeros(shape),
        VARIANCE: np.ones(shape),
        MASK: np.zeros(shape, int),
        "score": np.zeros(shape),
    }
    cutout = Cutout.from_images(planes, GEOMETRY, x=3, y=3, encoding="rice")
    assert np.isnan(cutout.levels("science")).all()
    assert np.isnan(cutout.levels(*VARIANCE)).all()
    assert (cutout.levels(*MASK) == 1).all()  # OFF_IMAGE
    assert cutout.clipped.x_low + cutout.clipped.x_high == GEOMETRY.span_px or shape[1]


def test_a_constant_plane_has_no_noise_and_is_raw():
    cutout = of_image(np.full((63, 63), 7.5), encoding="rice")
    assert cutout.plane("science").encoding == "RAW"
    assert (cutout.plane("science").background, cutout.plane("science").noise) == (7.5, 0.0)


@pytest.mark.parametrize("sigma", [1e-320, 1e-45, 5e-324, 1e30, 1e300, 1.7e308, math.inf, math.nan, 0.0])
@pytest.mark.parametrize("step_sigma", [0.25, 1e-300, 1e300])
def test_any_sigma_gives_a_cutout_or_a_stamp_error(sigma, step_sigma):
    if math.isfinite(sigma) and sigma > 3.5e38:  # the noise that travels is a binary32
        with pytest.raises(RecordError) as caught:
            of_image(encoding="rice", sigma=sigma, step_sigma=step_sigma)
        assert caught.value.reason == "statistics"
    else:
        cutout = of_image(encoding="rice", sigma=sigma, step_sigma=step_sigma)
        assert Cutout.from_record(through_avro(cutout.to_record())) == cutout


@pytest.mark.parametrize(
    ("option", "value"), [("sigma", -1.0), ("psf_fwhm", 0.0), ("psf_fwhm", math.nan), ("psf_fwhm", -2)]
)
def test_statistics_that_cannot_be_are_refused(option, value):
    with pytest.raises(RecordError):
        of_image(**{option: value})


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e20, 5e29, 2e35])
def test_rice_holds_images_of_any_scale(scale):
    image = (SCIENCE.astype(float) * scale).astype(np.float32)
    cutout = of_image(image, encoding="rice")
    plane = cutout.plane("science")
    exact = build_levels(image, GEOMETRY, x=30.3, y=31.4)
    if plane.encoding == "RICE":
        step = 2.0**plane.step_exponent
        assert np.log2(step / (0.25 * plane.noise)) == pytest.approx(0, abs=0.5001)
        assert np.abs(cutout.levels("science").astype(float) - exact).max() <= step / 2
    else:
        assert scale in (1e-38, 2e35)  # a step below 2^-119 or above 2^101
        assert bits(cutout.levels("science")) == bits(exact)


def test_the_choices_of_clause_5_6():
    footprint = SCIENCE[16:48, 15:47]
    cutout = Cutout.from_images(
        {"science": SCIENCE, "score": SCIENCE / 10, VARIANCE: SCIENCE, MASK: np.full(SCIENCE.shape, 5)},
        GEOMETRY, x=30.3, y=31.4, encoding="rice", mask_bits={MASK: ["A", "B", "C"]},
    )  # fmt: skip
    flat = footprint.astype(float)
    middle = np.median(flat)

    def mad(v):
        return 1.4826 * np.median(np.abs(v - np.median(v)))

    neighbours = np.concatenate([np.diff(flat, axis=0).ravel(), np.diff(flat, axis=1).ravel()])
    sigma = min(mad(flat), mad(neighbours) / math.sqrt(2))
    science = cutout.plane("science")
    assert science.noise == pytest.approx(sigma, rel=1e-6)
    assert science.background == pytest.approx(middle, rel=1e-6)
    assert science.step_exponent == round(math.log2(sigma / 4))
    assert science.offset == round(middle / 2.0**science.step_exponent)
    assert cutout.plane("score").step_exponent == -2
    variance = cutout.plane(*VARIANCE)
    assert variance.step_exponent == round(math.log2(middle / 64))
    assert variance.offset == round(middle / 2.0**variance.step_exponent)
    mask = cutout.plane(*MASK)
    assert (mask.encoding, mask.step_exponent, mask.offset) == ("RICE", 0, 5)
    assert (mask.background, mask.noise, mask.unit) == (None, None, "")
    assert {p.encoding for p in cutout.planes} == {"RICE"}


def test_encoding_may_differ_by_kind():
    planes = {"science": SCIENCE, VARIANCE: SCIENCE}
    cutout = Cutout.from_images(planes, GEOMETRY, x=30, y=30, encoding={"variance": "rice"})
    assert [plane.encoding for plane in cutout.planes] == ["RAW", "RICE"]
    with pytest.raises(RecordError, match="zip"):
        of_image(encoding="zip")


def test_a_variance_is_invalid_where_its_image_is():
    science, variance = SCIENCE.copy(), np.ones_like(SCIENCE)
    science[31, 31], variance[33, 33], science[29, 29] = np.nan, np.inf, 1e38
    cutout = Cutout.from_images({VARIANCE: variance, "science": science}, GEOMETRY, center=(31, 31))
    assert np.isnan(cutout.levels(*VARIANCE)[0, 3, 3])
    assert np.isnan(cutout.levels(*VARIANCE)[0, 5, 5])
    assert np.isnan(cutout.levels(*VARIANCE)[0, 1, 1])
    assert np.isnan(cutout.levels(*VARIANCE)[0]).sum() == 3
    of_template = Cutout.from_images(
        {("variance", "template"): variance, "science": science}, GEOMETRY, center=(31, 31)
    )
    assert np.isnan(of_template.levels("variance", "template")[0]).sum() == 1


def test_reserved_mask_bits_are_set_exactly_where_clause_3_4_says():
    science, mask = SCIENCE.copy(), np.zeros(SCIENCE.shape, np.int32)
    science[2, 60:] = np.nan
    mask[0, 0] = 0b111  # the caller's own OFF_IMAGE, and an honest bit
    names = ["OFF_IMAGE", "COSMIC", "NO_DATA"]
    cutout = Cutout.from_images(
        {"science": science, MASK: mask}, GEOMETRY, center=(0, 0), mask_bits={MASK: names}
    )
    fine, coarse = cutout.levels(*MASK)[0], cutout.levels(*MASK)[2]
    assert cutout.plane(*MASK).mask_bits == tuple(names)
    off = np.zeros((8, 8), bool)
    off[:3], off[:, :3] = True, True  # c = 1: level 0 covers pixels -3 to 4
    assert ((fine & 1 == 1) == off).all()
    assert fine[3, 3] == 2
    assert (fine & 4 == 0).all()
    assert coarse[3, 3] & 1  # OR: partly off the image
    right = Cutout.from_images(
        {"science": science, MASK: mask}, GEOMETRY, center=(61, 2), mask_bits={MASK: names}
    )
    assert (right.levels(*MASK)[0] & 4).sum() == 4 * 3
    assert (np.isnan(right.levels("science")[0]) == (right.levels(*MASK)[0] & 5 != 0)).all()


def test_a_mask_without_its_image_keeps_the_bits_of_its_caller():
    mask = np.zeros((63, 63), np.uint16)
    mask[31, 31] = 0b11
    cutout = Cutout.from_images({MASK: mask}, GEOMETRY, center=(31, 31), mask_bits={MASK: ["NO_DATA", "X"]})
    assert cutout.levels(*MASK)[0, 3, 3] == 0b11
    assert cutout.plane(*MASK).mask_bits == ("NO_DATA", "X", "OFF_IMAGE")


def test_reserved_names_take_free_places_first():
    mask = np.zeros((63, 63), np.uint16)

    def names(given):
        return (
            Cutout.from_images({MASK: mask}, GEOMETRY, x=30, y=30, mask_bits={MASK: given})
            .plane(*MASK)
            .mask_bits
        )

    assert names([]) == ("OFF_IMAGE", "NO_DATA")
    assert names(["A", "", "B"]) == ("A", "OFF_IMAGE", "B", "NO_DATA")
    assert len(names([f"B{i}" for i in range(14)])) == 16
    for wrong in ([f"B{i}" for i in range(15)], ["A"] * 3, ["x" * 65], [f"B{i}" for i in range(20)]):
        with pytest.raises(RecordError):
            names(wrong)


@pytest.mark.parametrize("value", [4, 5, 1 << 6, 1 << 15, 1 << 16, -1, 2**40])
def test_a_mask_bit_without_a_name_is_refused(value):
    names = ["A", "B", "", "C", "NO_DATA", "OFF_IMAGE"]
    with pytest.raises(RecordError) as caught:
        Cutout.from_images({MASK: np.full((63, 63), value)}, GEOMETRY, x=30, y=30, mask_bits={MASK: names})
    assert caught.value.reason == "mask-bits"


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int32, ">i2", np.uint64])
def test_a_mask_of_any_integers_is_taken(dtype):
    mask = np.zeros((63, 63), dtype)
    mask[31, 31] = 1
    cutout = Cutout.from_images(
        {MASK: mask}, GEOMETRY, center=(31, 31), mask_bits={MASK: [f"B{i}" for i in range(14)]}
    )
    assert cutout.levels(*MASK).dtype == np.uint16
    assert cutout.levels(*MASK)[0, 3, 3] == 1


@pytest.mark.parametrize("dtype", [np.float32, complex, object])
def test_a_mask_of_other_things_is_refused(dtype):
    with pytest.raises(RecordError):
        Cutout.from_images({MASK: np.zeros((63, 63), dtype)}, GEOMETRY, x=30, y=30)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("variance", "plane-of"),
        ("mask", "plane-of"),
        (("science", "template"), "plane-of"),
        (("variance", "score"), "unknown-symbol"),
        ("flux", "unknown-symbol"),
        ("unknown", "unknown-symbol"),
        (("variance", "unknown"), "unknown-symbol"),
    ],
)
def test_planes_that_cannot_be_are_refused(key, reason):
    with pytest.raises(RecordError) as caught:
        Cutout.from_images({key: np.zeros((63, 63), np.uint16)}, GEOMETRY, x=30, y=30)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "planes",
    [{}, {"science": np.zeros(5)}, {"science": np.float32(1)}, {"science": SCIENCE, "template": SCIENCE[1:]}],
)
def test_shapes_that_do_not_fit_are_refused(planes):
    with pytest.raises(GeometryError):
        Cutout.from_images(planes, GEOMETRY, x=30, y=30)


@pytest.mark.parametrize("value", [1j, "a", None, np.datetime64("2026-11-21"), b"a"])
def test_an_image_of_anything_but_real_numbers_is_refused(value):
    with pytest.raises(GeometryError):
        of_image(np.full((63, 63), value))
    with pytest.raises(GeometryError):
        build_levels(np.full((63, 63), value), GEOMETRY, x=30, y=30)
    with pytest.raises(GeometryError):
        Cutout.from_levels({"science": np.full((3, 8, 8), value)}, GEOMETRY)


def test_one_plane_under_two_names_is_refused():
    with pytest.raises(RecordError) as caught:
        Cutout.from_images({"science": SCIENCE, ("science", "none"): SCIENCE}, GEOMETRY, x=30, y=30)
    assert caught.value.reason == "plane-duplicate"


@pytest.mark.parametrize("shape", [(2, 63, 63), (1, 1, 63, 63)])
def test_stacks_that_do_not_fit_the_placements_are_refused(shape):
    with pytest.raises(GeometryError):
        encode_cutouts({"science": np.zeros(shape)}, GEOMETRY, [Placement(5, 5)] * 3)


def test_a_psf_is_an_odd_square():
    psf = np.arange(9, dtype=np.float64).reshape(3, 3)
    plane = of_image(psf={"science": psf}, psf_fwhm={"science": 1.3}).plane("science")
    assert bits(plane.psf_image()) == bits(psf.astype(np.float32))
    assert of_image().plane("science").psf_image() is None
    for shape in ((4, 4), (3, 5), (9,), (0, 0), (257, 257)):
        with pytest.raises(RecordError) as caught:
            of_image(psf={"science": np.ones(shape)})
        assert caught.value.reason == "psf"
    with pytest.raises(RecordError):
        of_image(psf={"science": np.full((3, 3), np.nan)})
    with pytest.raises(RecordError):
        of_image(psf={"science": np.full((3, 3), 1e300)})


@pytest.mark.parametrize(
    ("units", "key", "expected"),
    [
        ("nJy", "science", "nJy"),
        ("nJy", VARIANCE, "nJy**2"),
        ("adu/s", VARIANCE, "(adu/s)**2"),
        ("nJy", MASK, ""),
        ("nJy", "score", ""),
        ("unknown", VARIANCE, "unknown"),
        ({"science": "nJy"}, VARIANCE, "nJy**2"),
        ({VARIANCE: "mag"}, VARIANCE, "mag"),
        ({}, "science", "unknown"),
    ],
)
def test_a_variance_has_the_square_of_the_unit(units, key, expected):
    planes = {key: np.zeros((63, 63), np.uint16)}
    cutout = Cutout.from_images(planes, GEOMETRY, x=30, y=30, units=units)
    assert cutout.planes[0].unit == expected


def test_statistics_can_be_left_out():
    for encoding in ("raw", "rice"):
        plane = of_image(statistics=False, encoding=encoding).plane("science")
        assert (plane.background, plane.noise) == (None, None)
        assert plane.payload == of_image(encoding=encoding).plane("science").payload


def test_no_placements_make_no_cutouts():
    for stack in (np.zeros((0, 9, 9)), np.zeros((9, 9))):
        assert encode_cutouts({"science": stack}, GEOMETRY, []) == []


@given(plane_sets((30, 33)), st.sampled_from(["raw", "rice"]), st.integers(0, 2**32 - 1))
def test_a_stack_of_cutouts_is_encoded_as_cutouts_one_by_one(planes, encoding, seed):
    rng = np.random.default_rng(seed)
    placements = [Placement.at(*rng.uniform(-5, 38, 2)) for _ in range(4)]
    shift = [np.roll(np.arange(30), i) for i in range(4)]
    stacks = {key: np.stack([image[rows] for rows in shift]) for key, image in planes.items()}
    options = {
        "encoding": encoding,
        "mask_bits": {key: bits for key, bits in MASK_BITS.items() if key in planes},
    }
    together = encode_cutouts(stacks, GEOMETRY, placements, **options)
    alone = [
        encode_cutouts({key: stack[i] for key, stack in stacks.items()}, GEOMETRY, [placement], **options)[0]
        for i, placement in enumerate(placements)
    ]
    assert together == alone
    shared = encode_cutouts(planes, GEOMETRY, placements, **options)  # one exposure, many detections
    assert shared == encode_cutouts(
        {key: np.stack([image] * 4) for key, image in planes.items()}, GEOMETRY, placements, **options
    )


# --- sky ----------------------------------------------------------------------------------------------


def tangent(ra0, dec0, scale=0.2 / 3600):
    """A function (x, y) -> (ra, dec) of a TAN projection with its reference at pixel (30, 30)."""
    return lambda x, y: deproject(-scale * (x - 30), scale * (y - 30), ra0, dec0)


@pytest.mark.parametrize("ra", [0.0, 1e-13, 180.0, 359.99999999, -1e-14, 360.0])
@pytest.mark.parametrize("dec", [-89.99, 0.0, 45.0, 89.999])
def test_the_sky_of_a_cutout_is_that_of_its_image(ra, dec):
    cutout = of_image(wcs=tangent(ra, dec), x=30.0, y=30.0)
    sky = cutout.sky
    assert 0 <= sky.ra < 360
    assert sky.max_error < 1e-3  # arcsec; the CD matrix travels as binary32
    found = deproject(sky.cd11 * 0.5 + sky.cd12 * 0.5, sky.cd21 * 0.5 + sky.cd22 * 0.5, sky.ra, sky.dec)
    expected = tangent(ra, dec)(31.0, 31.0)  # the corner is at (30.5, 30.5)
    xi, eta = project(*found, *expected)
    assert math.hypot(xi, eta) * 3600 < 1e-4
    assert Cutout.from_record(through_avro(cutout.to_record())) == cutout


@pytest.mark.parametrize("ra", [-1e-20, -1e-15, 720.0, 359.9999999999999999])
def test_right_ascension_is_below_360(ra):
    def constant(x, y):
        return np.full(np.shape(x), ra) + 1e-4 * (np.asarray(x) - x[0]), 1e-4 * (np.asarray(y) - y[0])

    assert 0 <= fit_sky(constant, 0.0, 0.0, 8)["ra"] < 360
    assert 0 <= deproject(-1e-20, 0.0, 0.0, 0.0)[0] < 360


@pytest.mark.parametrize("value", [np.nan, np.inf, 5.0])
def test_a_solution_that_cannot_be_is_a_stamp_error(value):
    def nowhere(x, y):
        return np.full(np.shape(x), value), np.full(np.shape(x), value)

    with pytest.raises(RecordError) as caught:
        of_image(wcs=nowhere)
    assert caught.value.reason == "sky"


def test_a_wcs_may_be_an_object_of_either_kind():
    class OfAstropy:
        def all_pix2world(self, x, y, origin):
            assert origin == 0
            return list(tangent(10, 20)(x, y))

    class OfSurvey:
        pixel_to_world = staticmethod(tangent(10, 20))

    expected = of_image(wcs=tangent(10, 20)).sky
    assert of_image(wcs=OfAstropy()).sky == expected
    assert of_image(wcs=OfSurvey()).sky == expected


def test_what_is_no_wcs_is_a_programming_error():
    with pytest.raises(TypeError):
        of_image(wcs=3)


# --- from levels --------------------------------------------------------------------------------------

LEVELS = build_levels(SCIENCE, GEOMETRY, x=30, y=30)


def test_from_levels_takes_new_levels_in_place_of_old_ones():
    first = of_image(encoding="rice")
    first.levels("science")  # decoded, so that there is something to forget
    changed = Cutout.from_levels({"science": LEVELS + 50}, GEOMETRY, like=first)
    assert np.abs(changed.levels("science") - (LEVELS + 50)).max() <= 2.0 ** first.planes[0].step_exponent
    assert changed.planes[0].background == first.planes[0].background
    assert first.levels("science").mean() < 110
    copied = first.model_copy(update={"planes": changed.planes})
    assert bits(copied.levels("science")) == bits(changed.levels("science"))


def test_from_levels_sends_whole_levels_where_they_do_not_nest():
    levels = LEVELS.copy()
    levels[1, 4, 4] = 0
    cutout = Cutout.from_levels({"science": levels}, GEOMETRY)
    assert not cutout.planes[0].shared_center
    assert bits(cutout.levels("science")) == bits(levels)


@pytest.mark.parametrize("like", [Geometry(8, 4), Geometry(4, 3), Geometry(8, 3, 2.0)])
def test_from_levels_refuses_the_fields_of_another_geometry(like):
    other = Cutout.from_images({"science": SCIENCE}, like, x=30, y=30)
    with pytest.raises(GeometryError):
        Cutout.from_levels({"science": LEVELS}, GEOMETRY, like=other)


@pytest.mark.parametrize("like", [False, True])
@pytest.mark.parametrize(
    "fields",
    [{"dx": 2.0, "dy": 0.0}, {"dx": 0.5, "dy": None}, {"dx": "far", "dy": 0.0}, {"sky": {"ra": 1.0}},
     {"clipped_by": "ME"}, {"clipped": Clipped(x_low=-1, x_high=0, y_low=0, y_high=0)},
     {"spec_version": "2.0"}, {"missing": 5}],
)  # fmt: skip
def test_from_levels_refuses_fields_that_cannot_be(fields, like):
    with pytest.raises(RecordError):
        Cutout.from_levels({"science": LEVELS}, GEOMETRY, like=of_image() if like else None, **fields)


def test_from_levels_takes_no_field_that_a_cutout_has_not():
    with pytest.raises(TypeError, match="sigma"):
        Cutout.from_levels({"science": LEVELS}, GEOMETRY, sigma=3.0)


@pytest.mark.parametrize("like", [False, True])
def test_from_levels_takes_fields(like):
    sky = {"ra": 1.0, "dec": 2.0, "cd11": 1.0, "cd12": 0.0, "cd21": 0.0, "cd22": 1.0}
    cutout = Cutout.from_levels(
        {"science": LEVELS}, GEOMETRY, like=of_image() if like else None, dx=0.25, dy=-1.0, sky=sky,
        clipped=Clipped(x_low=1, x_high=0, y_low=0, y_high=0), clipped_by="CUTOUT",
        missing=[Missing(kind="TEMPLATE", of="NONE", reason="FAILED")],
    )  # fmt: skip
    assert cutout.sky == Sky(**sky)
    assert Cutout.from_record(through_avro(cutout.to_record())) == cutout
    assert (cutout.dx, cutout.missing[0].reason) == (0.25, "FAILED")


@pytest.mark.parametrize("levels", [LEVELS[:2], LEVELS[:, :4], LEVELS[None], np.float32(3)])
def test_from_levels_refuses_another_shape(levels):
    with pytest.raises(GeometryError):
        Cutout.from_levels({"science": levels}, GEOMETRY)


def test_from_levels_makes_levels_canonical():
    levels = np.full((3, 8, 8), 1e300)
    levels[:, 0] = [-np.inf, np.nan, *[2.0**125] * 6]
    cutout = Cutout.from_levels({"science": levels}, GEOMETRY)
    assert set(cutout.levels("science").view(np.uint32).ravel().tolist()) == {0x7FC00000}
    signalling = np.full((3, 8, 8), 0x7F800001, np.uint32).view(np.float32)
    assert Cutout.from_levels({"science": signalling}, GEOMETRY) == cutout


def test_from_levels_of_a_mask_and_of_rice():
    mask = build_levels(np.full((63, 63), 3), GEOMETRY, x=30, y=30, kind="mask")
    planes = {"science": LEVELS, MASK: mask.astype(np.int64)}
    cutout = Cutout.from_levels(
        planes,
        GEOMETRY,
        encoding="rice",
        steps={"science": (1, 50), MASK: (0, 3)},
        mask_bits={MASK: ["A", "B"]},
    )
    assert [(p.encoding, p.step_exponent, p.offset) for p in cutout.planes] == [
        ("RICE", 1, 50),
        ("RICE", 0, 3),
    ]
    assert bits(cutout.levels(*MASK)) == bits(mask)
    assert cutout.planes[1].mask_bits == ("A", "B")
    for bad in (mask.astype(np.int64) - 4, mask.astype(np.int64) + 65536, mask.astype(float)):
        with pytest.raises(StampError):
            Cutout.from_levels({MASK: bad}, GEOMETRY)


# --- records ------------------------------------------------------------------------------------------


def record_of(**options):
    options = {"encoding": "rice", "wcs": tangent(10, 20), "psf": {"science": np.ones((3, 3))}} | options
    planes = {"science": SCIENCE, VARIANCE: SCIENCE, MASK: np.zeros((63, 63), np.uint16)}
    missing = [Missing(kind="TEMPLATE", of="NONE", reason="NO_TEMPLATE")]
    return Cutout.from_images(planes, GEOMETRY, x=1, y=31.2, missing=missing, **options).to_record()


def test_the_record_of_the_refusals_is_right():
    assert list(cutout_faults(record_of())) == []
    Cutout.from_record(through_avro(record_of()))


def changed(record, path, value):
    *parents, last = path
    for part in parents:
        record = record[part]
    record[last] = value


NAN, INF = math.nan, math.inf
PLANE, VAR, MSK = ("planes", 0), ("planes", 1), ("planes", 2)
SINGULAR = {"ra": 1.0, "dec": 2.0, "cd11": 2.0, "cd12": 4.0, "cd21": 1.0, "cd22": 2.0, "maxError": None}
FAULTS = [
    (("specVersion",), "2.0", "version"),
    (("specVersion",), "0.9", "version"),
    (("specVersion",), "1", "version"),
    (("specVersion",), "1.0\n", "version"),
    (("specVersion",), "", "version"),
    (("specVersion",), "1.0.0", "version"),
    (("specVersion",), "١.0", "version"),
    (("size",), 0, "geometry"),
    (("size",), -4, "geometry"),
    (("size",), 6, "geometry"),
    (("size",), 68, "geometry"),
    (("size",), 2**31 - 1, "geometry"),
    (("nLevels",), 0, "geometry"),
    (("nLevels",), 9, "geometry"),
    (("nLevels",), -1, "geometry"),
    (("nLevels",), 2**31 - 1, "geometry"),
    (("pixelScale",), 0.0, "geometry"),
    (("pixelScale",), NAN, "geometry"),
    (("pixelScale",), INF, "geometry"),
    (("dx",), 1.0, "position"),
    (("dx",), -1.1, "position"),
    (("dy",), NAN, "position"),
    (("dx",), None, "position"),
    (("dy",), None, "position"),
    (("sky", "ra"), 360.0, "sky"),
    (("sky", "ra"), -0.1, "sky"),
    (("sky", "ra"), NAN, "sky"),
    (("sky", "dec"), 90.1, "sky"),
    (("sky", "cd11"), INF, "sky"),
    (("sky", "cd12"), NAN, "sky"),
    (("sky",), SINGULAR, "sky"),
    (("sky", "maxError"), -1.0, "sky"),
    (("sky", "maxError"), NAN, "sky"),
    (("clipped", "xLow"), -1, "clipped"),
    (("clipped", "xHigh"), 33, "clipped"),
    (("clipped", "yLow"), 2**31 - 1, "clipped"),
    ((*PLANE, "of"), "SCIENCE", "plane-of"),
    ((*VAR, "of"), "NONE", "plane-of"),
    ((*MSK, "of"), "NONE", "plane-of"),
    ((*PLANE, "unit"), "x" * 65, "limit"),
    ((*PLANE, "crc32"), -1, "crc"),
    ((*PLANE, "crc32"), 2**32, "crc"),
    ((*PLANE, "background"), NAN, "statistics"),
    ((*PLANE, "background"), -INF, "statistics"),
    ((*PLANE, "noise"), INF, "statistics"),
    ((*PLANE, "noise"), -1e-30, "statistics"),
    ((*MSK, "noise"), 1.0, "statistics"),
    ((*MSK, "background"), 0.0, "statistics"),
    ((*PLANE, "psf"), b"", "psf"),
    ((*PLANE, "psf"), bytes(16), "psf"),
    ((*PLANE, "psf"), bytes(37), "psf"),
    ((*PLANE, "psf"), bytes(4 * 257**2), "psf"),
    ((*PLANE, "psf"), b"\0\0\xc0\x7f", "psf"),
    ((*PLANE, "psfFwhm"), 0.0, "psf"),
    ((*PLANE, "psfFwhm"), NAN, "psf"),
    ((*PLANE, "maskBits"), ["A"], "mask-bits"),
    ((*MSK, "maskBits"), ["A", "A"], "mask-bits"),
    ((*MSK, "maskBits"), ["A"] * 17, "limit"),
    ((*MSK, "maskBits"), ["x" * 65], "limit"),
    ((*VAR, "kind"), "SCIENCE", "plane-of"),
    (("missing", 0, "kind"), "SCIENCE", "missing"),
    (("missing", 0, "detail"), "x" * 1025, "limit"),
]


@pytest.mark.parametrize(("path", "value", "reason"), FAULTS, ids=lambda value: str(value)[:24])
def test_a_field_that_breaks_a_rule_is_refused(path, value, reason):
    record = through_avro(record_of())
    changed(record, path, value)
    with pytest.raises(RecordError) as caught:
        Cutout.from_record(record)
    assert caught.value.reason == reason
    assert caught.value.clause
    where = caught.value.where.replace("[", ".").replace("]", "").split(".")
    assert where[: len(path) - 1] == [str(part) for part in path[:-1]]
    assert reason in [fault.reason for fault in cutout_faults(record)]


def test_planes_and_missing_are_at_most_32_and_planes_once():
    record = through_avro(record_of())
    for name in ("planes", "missing"):
        many = {**record, name: record[name] * 33}
        assert [fault.reason for fault in cutout_faults(many)] == ["limit"]
        with pytest.raises(RecordError) as caught:
            Cutout.from_record(many)
        assert caught.value.reason == "limit"
    with pytest.raises(RecordError) as caught:
        Cutout.from_record({**record, "planes": record["planes"][:1] * 2})
    assert caught.value.reason == "plane-duplicate"


def test_every_fault_is_found():
    record = through_avro(record_of())
    for path, value in (
        (("dx",), 3.0),
        (("sky", "ra"), -1.0),
        ((*VAR, "of"), "NONE"),
        ((*MSK, "noise"), 1.0),
    ):
        changed(record, path, value)
    found = [(fault.reason, fault.where) for fault in cutout_faults(record)]
    assert found == [
        ("position", "dx"), ("sky", "sky.ra"), ("plane-of", "planes[1].of"),
        ("statistics", "planes[2].background"),
    ]  # fmt: skip


def leaves(value, path=()):
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, (*path, name))
    elif isinstance(value, list):
        yield path
        for i, item in enumerate(value):
            yield from leaves(item, (*path, i))
    if path:
        yield path


PATHS = sorted(set(leaves(through_avro(record_of()))), key=str)
JUNK = [
    np.zeros(3),
    None,
    "",
    "abc",
    b"abc",
    5,
    -1,
    2**70,
    3.5,
    NAN,
    True,
    [],
    [[]],
    {},
    {"kind": 3},
    object(),
    "8",
    ["SCIENCE"],
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_a_field_of_any_other_type_is_refused_or_read(path):
    """No writer of the schema gives these; a dictionary of another origin may."""
    for junk in JUNK:
        record = copy.deepcopy(through_avro(record_of()))
        changed(record, path, junk)
        try:
            cutout = Cutout.from_record(record)
            for key in cutout.keys:
                cutout.levels(*((key,) if isinstance(key, str) else key))
        except StampError:
            pass


HAS_DEFAULT = ("specVersion", "sky", "clippedBy", "missing", "detail", "invalid", "background", "noise",
               "psf", "psfFwhm", "maskBits", "maxError")  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_a_field_that_is_absent_is_refused_or_has_its_default(path):
    record = through_avro(record_of())
    *parents, last = path
    parent = record
    for part in parents:
        parent = parent[part]
    del parent[last]
    if last in HAS_DEFAULT or isinstance(last, int):
        cutout = Cutout.from_record(record)
        assert isinstance(last, int) or cutout.levels(*MASK).shape == (3, 8, 8)
    else:
        with pytest.raises(RecordError):
            Cutout.from_record(record)


def test_another_major_version_is_named_before_anything_else():
    with pytest.raises(RecordError) as caught:
        Cutout.from_record({"specVersion": "2.0", "tiles": 5})
    assert caught.value.reason == "version"


@pytest.mark.parametrize("record", [None, [], 3, "abc", b"abc", {}])
def test_what_is_no_record_is_refused(record):
    with pytest.raises(RecordError):
        Cutout.from_record(record)


def test_fields_of_a_later_minor_version_are_ignored():
    record = through_avro(record_of())
    record |= {"specVersion": "1.7", "later": 5}
    record["planes"][0]["later"] = {"a": [1]}
    record["sky"]["later"] = None
    cutout = Cutout.from_record(record)
    assert cutout.spec_version == "1.7"
    assert bits(cutout.levels("science")) == bits(Cutout.from_record(record_of()).levels("science"))
    assert "later" not in cutout.to_record()


@pytest.mark.parametrize(
    ("field", "number"), [("kind", 1), ("of", 1), ("encoding", 1), ("kind", 2), ("of", 2)]
)
def test_an_unknown_symbol_refuses_that_plane_only(field, number):
    """6.3: two new kinds of a later version both read as UNKNOWN, and are no duplicates."""
    record = through_avro(record_of())
    record["specVersion"] = "1.1"
    for plane in record["planes"][1 : 1 + number]:
        plane[field] = "UNKNOWN"
        if field == "kind":
            plane["of"] = "NONE"
    record["missing"].append({"kind": "UNKNOWN", "of": "NONE", "reason": "UNKNOWN", "detail": ""})
    cutout = Cutout.from_record(record)
    assert not np.isnan(cutout.levels("science")).all()
    assert len(cutout.planes) == 3
    with pytest.raises(StampError) as caught:
        cutout.levels(*VARIANCE)
    assert caught.value.reason in ("unknown-symbol", "no-plane")
    if field == "encoding":
        assert (caught.value.reason, caught.value.where) == ("unknown-symbol", "planes[1].encoding")
    assert "unknown-symbol" in [fault.reason for fault in cutout_faults(record)]
    assert cutout.keys[0] == "science"


def test_a_bad_payload_refuses_that_plane_only():
    record = through_avro(record_of())
    record["planes"][1]["payload"] = record["planes"][1]["payload"][:-1]
    cutout = Cutout.from_record(record)
    assert cutout.levels("science").shape == (3, 8, 8)
    assert cutout.levels(*MASK).dtype == np.uint16
    for _ in range(3):
        with pytest.raises(PayloadError) as caught:
            cutout.levels(*VARIANCE)
        assert caught.value.where == "planes[1].payload"
        n_frames = 0
        trace = caught.value.__traceback__
        while trace:
            n_frames, trace = n_frames + 1, trace.tb_next
        assert n_frames < 6  # the same error, raised again, does not collect them


def test_a_plane_that_is_not_there_says_why():
    cutout = Cutout.from_record(record_of())
    with pytest.raises(RecordError, match="NO_TEMPLATE") as caught:
        cutout.levels("template")
    assert caught.value.reason == "no-plane"
    with pytest.raises(RecordError, match="SCIENCE/NONE"):
        cutout.levels("score")
    with pytest.raises(RecordError):
        cutout.plane("variance")
    with pytest.raises(RecordError):
        cutout.levels("flux")


def test_levels_cannot_be_written_to_and_are_decoded_once():
    cutout = Cutout.from_record(record_of())
    levels = cutout.levels("science")
    assert levels is cutout.levels("science") or np.shares_memory(levels, cutout.levels("science"))
    with pytest.raises(ValueError, match="read-only"):
        levels[0] = 0


def test_a_cutout_does_not_change_with_the_record_it_was_made_from():
    record = through_avro(record_of())
    cutout, expected = Cutout.from_record(record), Cutout.from_record(record_of())
    record["planes"][0]["payload"] = b""
    record["planes"].clear()
    record["size"] = 4
    assert bits(cutout.levels("science")) == bits(expected.levels("science"))
    assert cutout.to_record() == expected.to_record()


def test_records_do_not_share_what_can_change():
    cutout = of_image()
    first, second = cutout.to_record(), cutout.to_record()
    first["clipped"]["xLow"] = 5
    first["planes"][0]["unit"] = "changed"
    assert cutout.to_record() == second
    a, b = encode_cutouts({"science": SCIENCE}, GEOMETRY, [Placement(30, 30)] * 2)
    assert a == b
    assert a.to_record()["planes"] == b.to_record()["planes"]


def test_cutouts_are_equal_by_their_fields_decoded_or_not():
    first, second = of_image(), of_image()
    assert first == second
    first.levels("science")
    assert first == second
    second.levels("science")
    assert first == second
    assert hash(first) == hash(second)
    assert first != of_image(SCIENCE + 1)
    assert first != "a cutout"
    assert {first: 1}[second] == 1


def test_a_cutout_is_frozen():
    cutout = of_image()
    with pytest.raises(ValueError, match="frozen"):
        cutout.size = 4
    with pytest.raises(ValueError, match="frozen"):
        cutout.planes[0].payload = b""


@pytest.mark.parametrize("decoded", [False, True])
def test_a_cutout_can_be_pickled_and_copied(decoded):
    for cutout in (of_image(), Cutout.from_record(record_of())):
        if decoded:
            cutout.levels("science")
        for same in (
            pickle.loads(pickle.dumps(cutout)),
            copy.copy(cutout),
            copy.deepcopy(cutout),
            cutout.model_copy(),
            cutout.model_copy(deep=True),
            Cutout.model_validate(cutout.model_dump()),
        ):
            assert same == cutout
            assert bits(same.levels("science")) == bits(cutout.levels("science"))
            assert same.to_record() == cutout.to_record()
            assert repr(same) == repr(cutout)


def test_json_of_a_cutout_reads_back():
    cutout = of_image(statistics=False)
    assert Cutout.model_validate(cutout.model_dump(by_alias=True)) == cutout


@given(st.sampled_from(["science", "score", VARIANCE, MASK, ("mask", "difference")]))
def test_keys_and_their_wire_names_are_one_to_one(key):
    assert plane_key(*wire_key(key)) == key
    assert wire_key(plane_key(*wire_key(key))) == wire_key(key)


@pytest.mark.parametrize("key", [3, None, ("mask",), ("a", "b", "c"), (), "", ("mask", 3)])
def test_a_key_that_is_none_is_refused(key):
    with pytest.raises((RecordError, TypeError)):
        wire_key(key)


# --- packets ------------------------------------------------------------------------------------------

ALERT = {
    "specVersion": "1.0",
    "alertId": "a1",
    "survey": "S",
    "detection": {
        "detectionId": "d",
        "time": 60000.0,
        "timeScale": "TAI",
        "band": "r",
        "ra": 1.0,
        "dec": 2.0,
    },
}


def test_an_alert_carries_its_cutout():
    alert = Alert.from_record({**ALERT, "cutout": record_of()})
    assert alert.cutout == Cutout.from_record(record_of())
    read = Alert.from_record(through_avro(alert.to_record(), "multiscale.Alert"))
    assert read == alert
    assert list(alert.to_record())[-1] == "cutout"
    assert Alert.from_record(ALERT).cutout is None


def test_an_alert_that_embeds_keeps_the_fields_of_its_survey():
    record = {"candid": 5, "later": [1], "cutoutMultiscale": record_of()}
    alert = alert_from_record(record)
    assert isinstance(alert, EmbeddedAlert)
    assert alert.record == {"candid": 5, "later": [1]}
    assert alert.to_record() == {**record, "cutoutMultiscale": alert.cutout.to_record()}
    assert list(alert.to_record())[-1] == "cutoutMultiscale"
    assert alert_from_record({"candid": 5, "cutoutMultiscale": None}).cutout is None


@pytest.mark.parametrize(
    ("record", "where"),
    [
        ({**ALERT, "cutout": record_of() | {"dx": 5.0}}, "cutout.dx"),
        ({"candid": 1, "cutoutMultiscale": record_of() | {"size": 5}}, "cutoutMultiscale.size"),
        ({**ALERT, "cutout": {}}, "cutout.size"),
        ({**ALERT, "cutout": 5}, "cutout"),
        ({**ALERT, "detection": {**ALERT["detection"], "time": "now"}}, "detection.time"),
        ({**ALERT, "survey": None}, "survey"),
    ],
)
def test_faults_of_a_packet_say_where(record, where):
    with pytest.raises(RecordError) as caught:
        alert_from_record(record)
    assert caught.value.where == where
    assert pickle.loads(pickle.dumps(caught.value)).where == where


@pytest.mark.parametrize("version", ["2.0", None, 1, "1", ""])
def test_an_alert_of_another_major_version_is_refused(version):
    with pytest.raises(RecordError) as caught:
        alert_from_record({**ALERT, "specVersion": version, "detection": 5})
    assert caught.value.reason == "version"


@pytest.mark.parametrize("record", [{}, {"a": 1}, {"specVersion": "1.0"}])
def test_a_record_without_a_cutout_is_refused(record):
    with pytest.raises(RecordError):
        alert_from_record(record)
    with pytest.raises(RecordError):
        cutout_record(record)


# --- statistics ---------------------------------------------------------------------------------------


@given(st.data(), st.integers(1, 60))
def test_the_median_is_that_of_numpy(data, n):
    values = data.draw(images((n,)))
    values = values[np.abs(values) < 2.0**125]
    if values.size:
        assert median(values) == float(np.median(values.astype(float)))
    else:
        assert math.isnan(median(values))


@given(st.data(), st.integers(1, 9), st.integers(1, 9))
def test_background_and_noise_are_those_of_clause_5_6(data, height, width):
    image = data.draw(images((height, width)))
    background, sigma = background_and_noise(image.copy())
    clean = np.where(np.abs(image) < 2.0**125, image, np.float32(np.nan))
    valid = clean[clean == clean]
    if not valid.size:
        assert math.isnan(background)
        assert math.isnan(sigma)
        return
    assert background == np.median(valid.astype(float))

    def mad(v):
        v = v.astype(float)
        return 1.4826 * np.median(np.abs(v - np.median(v)))

    differences = np.concatenate([np.diff(clean, axis=0).ravel(), np.diff(clean, axis=1).ravel()])
    differences = differences[differences == differences]
    expected = min([mad(valid), *([mad(differences) / math.sqrt(2)] if differences.size else [])])
    scale = float(np.abs(valid).max())
    assert sigma == pytest.approx(expected, rel=1e-5, abs=1e-6 * scale)


@pytest.mark.parametrize("shape", [(128, 128), (90, 128), (128, 91), (256, 256), (2, 9000)])
@pytest.mark.parametrize("n_invalid", [0, 300])
def test_of_a_large_footprint_every_nth_row_is_looked_at(shape, n_invalid):
    rng = np.random.default_rng(5)
    image = rng.normal(40, 3, shape).astype(np.float32)
    image.ravel()[rng.permutation(image.size)[:n_invalid]] = np.nan
    if n_invalid:
        image[1, 5] = -3.4e38  # beside a row that is looked at
    every = image.size // 4096
    clean = np.where(np.abs(image) < 2.0**125, image, np.float32(np.nan)).astype(float)
    rows, above = clean[::every], clean[1::every]
    across = np.diff(rows, axis=1)
    along = above - rows[: len(above)]
    differences = np.concatenate([across.ravel(), along.ravel()])
    background, sigma = background_and_noise(image)
    assert background == np.nanmedian(rows)
    of_pixels = 1.4826 * np.nanmedian(np.abs(rows - background))
    of_differences = 1.4826 * np.nanmedian(np.abs(differences - np.nanmedian(differences))) / math.sqrt(2)
    assert sigma == pytest.approx(min(of_pixels, of_differences), rel=1e-5)
    assert background == pytest.approx(40, abs=0.2)
    assert sigma == pytest.approx(3, rel=0.05)


# --- errors -------------------------------------------------------------------------------------------

ERRORS = [e for e in vars(all_errors).values() if isinstance(e, type) and issubclass(e, StampError)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_errors_pickle_copy_and_name_their_place(error):
    first = error("crc", 1, (2, 3), "payload")
    for same in (pickle.loads(pickle.dumps(first)), copy.copy(first), copy.deepcopy(first)):
        assert type(same) is error
        assert (same.reason, same.found, same.expected, same.where) == ("crc", 1, (2, 3), "payload")
        assert str(same) == str(first)
    outer = first.within("planes[1]").within("cutout")
    assert type(outer) is error
    assert outer.where == "cutout.planes[1].payload"
    assert error("crc", 1, 2, "[3]").within("planes").where == "planes[3]"
    assert error("crc", 1, 2).within("planes").where == "planes"
    assert isinstance(first, ValueError)
    assert "4.4" in str(first)


def test_every_reason_of_the_specification_has_its_clause():
    import re
    from pathlib import Path

    text = (Path(__file__).parents[1] / "spec/v1/specification.md").read_text(encoding="utf-8")
    section = text[text.index("**11.3 Reasons.**") :]
    stated = {}
    for row in section.splitlines():
        cells = [cell.strip() for cell in row.strip("| ").split("|")]
        for word, clause in zip(cells, cells[1:]):
            if re.fullmatch(r"[a-z][a-z0-9-]+", word) and re.fullmatch(r"[\d., ]+", clause):
                stated[word] = [c.strip() for c in clause.split(",")]
    assert len(stated) > 25
    assert set(all_errors.REASONS) == set(stated)
    for word, clause in all_errors.REASONS.items():
        assert clause in stated[word]
