"""Levels to payloads and back (specification, section 5), against the slow codec of the vectors."""

import math
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import bits, geometries, images, reference

from multiscale import Geometry, PayloadError, build_levels
from multiscale.encoding import REDUCTION, decode_planes, encode_planes
from multiscale.packing import center_slice, pack, sent_index

pytestmark = pytest.mark.filterwarnings("error")

IMAGES = ("SCIENCE", "TEMPLATE", "DIFFERENCE", "SCORE")
kinds = st.sampled_from([*IMAGES, "VARIANCE", "MASK"])
small = geometries(max_size=8, max_levels=3)


def to_slow(levels):
    """Levels as the slow codec has them: nested lists, None for an invalid pixel."""
    if levels.dtype == np.uint16:
        return levels.tolist()
    return [[[None if v != v else v for v in row] for row in level] for level in levels.tolist()]


def fields_of(plane):
    """A plane of the slow codec as fields of the record."""
    return {
        "kind": plane.kind,
        "of": "NONE",
        "encoding": plane.encoding,
        "sharedCenter": plane.shared_center,
        "stepExponent": plane.step_exponent,
        "offset": plane.offset,
        "invalid": plane.invalid,
        "payload": plane.payload,
        "crc32": plane.crc32,
    }


def slow_plane(fields, kind, geometry):
    return reference.Plane(
        kind, fields["encoding"], geometry.size, geometry.n_levels, fields["sharedCenter"],
        fields["stepExponent"], fields["offset"], fields["invalid"], fields["payload"], fields["crc32"],
    )  # fmt: skip


@st.composite
def stacks(draw, geometry, kind, n=1):
    """Canonical levels (n, L, S, S), some of which do not nest."""
    reduction = REDUCTION[kind]
    stack = build_levels(
        draw(images((n, 40, 40), reduction)), geometry, x=draw(st.floats(0, 40)), y=20, kind=reduction
    )
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 100)))
        center = center_slice(geometry.size)
        stack[rng.random(n) < 0.5, 1:, center, center] = draw(st.sampled_from([0, 1, 7]))
    return stack


steps = st.tuples(st.integers(-125, 105), st.integers(-(2**24), 2**24))


@st.composite
def likely_steps(draw, levels):
    """An exponent near the noise of the levels and an offset near their median, most often."""
    if levels.dtype == np.uint16:
        return draw(st.tuples(st.sampled_from([0, 0, 0, 1]), st.integers(-1, 65536)))
    valid = levels[np.isfinite(levels)].astype(float)
    middle = float(np.median(valid)) if valid.size else 0.0
    spread = float(np.abs(valid - middle).mean()) if valid.size else 1.0
    e = (math.frexp(spread or 1.0)[1]) - draw(st.integers(-1, 20))
    e = min(max(e, -119), 101)
    offset = round(min(max(middle / 2.0**e, -(2.0**24)), 2.0**24))
    return draw(st.one_of(st.just((e, offset)), st.just((e, 0)), steps))


# --- both ways ----------------------------------------------------------------------------------------


@given(st.data(), small, kinds, st.sampled_from(["RAW", "RICE"]))
def test_a_plane_has_the_bytes_of_the_slow_codec(data, geometry, kind, encoding):
    levels = data.draw(stacks(geometry, kind))
    e, offset = data.draw(likely_steps(levels))
    [fields] = encode_planes(
        levels, geometry, kind=kind, encoding=encoding, step_exponents=[e], offsets=[offset]
    )
    expected = reference.encode(kind, encoding, to_slow(levels[0]), e, offset)
    assert slow_plane(fields, kind, geometry) == expected
    decoded, failures = decode_planes([fields_of(expected)], geometry)
    assert failures == {}
    assert decoded[0].astype(decoded.dtype.newbyteorder("<")).tobytes() == reference.decode(expected)


@given(st.data(), geometries(), kinds)
def test_raw_is_exact(data, geometry, kind):
    levels = data.draw(stacks(geometry, kind, n=3))
    planes = [{"kind": kind, **fields} for fields in encode_planes(levels, geometry, kind=kind)]
    decoded, failures = decode_planes(planes, geometry)
    assert failures == {}
    assert bits(decoded) == bits(levels)


@given(st.data(), geometries(), kinds)
def test_rice_keeps_the_error_bounds_of_clause_5_7(data, geometry, kind):
    levels = data.draw(stacks(geometry, kind))
    e, offset = data.draw(likely_steps(levels))
    [fields] = encode_planes(
        levels, geometry, kind=kind, encoding="RICE", step_exponents=[e], offsets=[offset]
    )
    decoded, failures = decode_planes([{"kind": kind, **fields}], geometry)
    assert failures == {}
    if fields["encoding"] == "RAW" or kind == "MASK":
        assert bits(decoded) == bits(levels)
        return
    assert (fields["stepExponent"], fields["offset"]) == (e, offset)
    assert ((levels != levels) == (decoded != decoded)).all()
    error = np.abs(np.nan_to_num(decoded.astype(float)) - np.nan_to_num(levels.astype(float)))[0]
    sent = np.zeros(geometry.n_pixels, bool)
    sent[sent_index(geometry.size, geometry.n_levels, fields["sharedCenter"])] = True
    sent = sent.reshape(error.shape)
    for k in range(geometry.n_levels):
        assert (error[k][sent[k]] <= 2.0 ** (e - k - 1)).all()
        # a centre is rounded to binary32 once more on the way
        rounding = np.spacing(np.abs(levels[0, k])).astype(float)
        rounding[~np.isfinite(rounding)] = 0
        assert (error[k] <= 2.0 ** (e - 1) + (k > 0) * k * rounding).all()


@given(st.data(), geometries(), kinds)
def test_decoded_levels_encode_to_the_same_bytes(data, geometry, kind):
    levels = data.draw(stacks(geometry, kind))
    e, offset = data.draw(likely_steps(levels))
    [first] = encode_planes(
        levels, geometry, kind=kind, encoding="RICE", step_exponents=[e], offsets=[offset]
    )
    decoded, _ = decode_planes([{"kind": kind, **first}], geometry)
    [again] = encode_planes(
        decoded,
        geometry,
        kind=kind,
        encoding=first["encoding"],
        step_exponents=[first["stepExponent"]],
        offsets=[first["offset"]],
        shared_center=first["sharedCenter"],
    )
    assert again == first


def test_whole_levels_that_nest_once_quantised_encode_to_the_same_bytes():
    geometry = Geometry(4, 2)
    levels = np.zeros((1, 2, 4, 4), np.float32)
    levels[0, 1, 1:3, 1:3] = 0.1  # not the mean of zeros, but less than half a step
    options = {"kind": "SCIENCE", "encoding": "RICE", "step_exponents": [0], "offsets": [0]}
    [first] = encode_planes(levels, geometry, **options)
    assert (first["encoding"], first["sharedCenter"]) == ("RICE", False)
    decoded, _ = decode_planes([{"kind": "SCIENCE", **first}], geometry)
    assert not decoded.any()
    assert encode_planes(decoded, geometry, **options, shared_center=False) == [first]


@given(st.data(), small, st.sampled_from(["image", "mask"]))
def test_planes_together_are_as_planes_alone(data, geometry, what):
    kinds_of = st.sampled_from(["MASK"] if what == "mask" else [*IMAGES, "VARIANCE"])
    planes, alone = [], []
    for _ in range(data.draw(st.integers(0, 6))):
        kind = data.draw(kinds_of)
        levels = data.draw(stacks(geometry, kind))
        e, offset = data.draw(likely_steps(levels))
        [fields] = encode_planes(
            levels, geometry, kind=kind, encoding="RICE", step_exponents=[e], offsets=[offset]
        )
        fields["kind"] = kind
        damage = data.draw(st.sampled_from(["none", "none", "crc", "payload", "kind"]))
        if damage == "crc":
            fields["crc32"] ^= 1
        elif damage == "payload":
            fields["payload"] = fields["payload"][:-1]
        elif damage == "kind" and what == "image":
            fields["kind"] = "UNKNOWN"
        planes.append(fields)
        alone.append(decode_planes([fields], geometry))
    levels, failures = decode_planes(planes, geometry)
    assert levels.shape == (len(planes), geometry.n_levels, geometry.size, geometry.size)
    assert sorted(failures) == [i for i, (_, failed) in enumerate(alone) if failed]
    for i, (one, failed) in enumerate(alone):
        assert bits(levels[i]) == bits(one[0])
        assert str(failures.get(i)) == str(failed.get(0))


@given(st.data(), small, kinds, st.booleans())
def test_stamps_encoded_together_are_as_stamps_encoded_alone(data, geometry, kind, rice):
    levels = data.draw(stacks(geometry, kind, n=5))
    chosen = [data.draw(likely_steps(stamp)) for stamp in levels]
    options = {"kind": kind, "encoding": "RICE" if rice else "RAW"}
    e = [None if i == 2 else e for i, (e, _) in enumerate(chosen)]
    offsets = [offset for _, offset in chosen]
    together = encode_planes(levels, geometry, **options, step_exponents=e, offsets=offsets)
    alone = [
        encode_planes(
            levels[i : i + 1], geometry, **options, step_exponents=e[i : i + 1], offsets=offsets[i : i + 1]
        )
        for i in range(5)
    ]
    assert together == [plane for [plane] in alone]
    assert together[2]["encoding"] == "RAW"


def test_nothing_encodes_to_nothing():
    assert encode_planes(np.zeros((0, 3, 8, 8), np.float32), Geometry(8, 3), kind="SCIENCE") == []
    levels, failures = decode_planes([], Geometry(8, 3))
    assert (levels.shape, levels.dtype, failures) == ((0, 3, 8, 8), np.float32, {})


@given(st.data(), small, kinds)
def test_a_damaged_plane_is_refused_or_read_as_by_the_slow_codec(data, geometry, kind):
    levels = data.draw(stacks(geometry, kind))
    e, offset = data.draw(likely_steps(levels))
    plane = reference.encode(kind, data.draw(st.sampled_from(["RAW", "RICE"])), to_slow(levels[0]), e, offset)
    payload = bytearray(plane.payload)
    for _ in range(data.draw(st.integers(0, 2))):
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    plane = plane._replace(payload=bytes(payload))
    plane = plane._replace(**data.draw(st.fixed_dictionaries({}, optional={
        "step_exponent": st.integers(-121, 103),
        "offset": st.integers(-(2**24) - 1, 2**24 + 1),
        "shared_center": st.booleans(),
        "encoding": st.sampled_from(["RAW", "RICE", "UNKNOWN", "ZIP"]),
        "kind": st.sampled_from(["UNKNOWN", "FLUX"]),
        "invalid": st.one_of(st.none(), st.binary(max_size=30)),
    })))  # fmt: skip
    try:
        expected = reference.decode(plane)
    except reference.RefusedError as error:
        reason = error.args[0]
    else:
        reason = None
    if reason == "crc":  # then with the right one, to look at the levels
        plane = plane._replace(crc32=crc_of(plane))
        expected, reason = reference.decode(plane), None
    decoded, failures = decode_planes([fields_of(plane)], geometry)
    assert (reason is None) == (failures == {})
    if reason is None:
        assert decoded[0].tobytes() == expected
    else:
        assert failures[0].clause
        assert (decoded == 0).all() if plane.kind == "MASK" else np.isnan(decoded).all()


def crc_of(plane):
    positions = reference.sent_positions(plane.size, plane.n_levels, plane.shared_center)
    read = reference.raw_values if plane.encoding == "RAW" else reference.rice_values
    values = read(plane, len(positions) if plane.encoding == "RAW" else positions)
    levels = reference.unpack(plane.kind, plane.size, plane.n_levels, plane.shared_center, values)
    return zlib.crc32(reference.levels_to_bytes(plane.kind, levels))


# --- RAW (5.1) ----------------------------------------------------------------------------------------

GEOMETRY = Geometry(8, 3)


def raw_fields(values, kind="SCIENCE", **changes):
    """A RAW plane of 160 values, its CRC right."""
    values = np.asarray(values, "<u2" if kind == "MASK" else "<f4")
    plane = reference.Plane(kind, "RAW", 8, 3, True, 0, 0, None, values.tobytes(), 0)
    return {**fields_of(plane._replace(crc32=crc_of(plane))), **changes}


def refusal(fields, geometry=GEOMETRY):
    levels, failures = decode_planes([fields], geometry)
    assert (levels == 0).all() if fields["kind"] == "MASK" else np.isnan(levels).all()
    return failures[0].reason, failures[0].where


def test_the_plane_of_the_refusals_is_right():
    assert decode_planes([raw_fields(np.ones(160))], GEOMETRY)[1] == {}
    assert decode_planes([raw_fields(np.ones(160), "MASK")], GEOMETRY)[1] == {}


@pytest.mark.parametrize("kind", ["SCIENCE", "MASK", "VARIANCE"])
@pytest.mark.parametrize("change", [-640, -4, -1, 1, 4, 100000])
def test_a_raw_payload_of_another_length_is_refused(kind, change):
    fields = raw_fields(np.ones(160), kind)
    fields["payload"] = (fields["payload"] + bytes(100000))[: max(0, len(fields["payload"]) + change)]
    assert refusal(fields) == ("payload-size", "payload")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [("stepExponent", 1, "step-exponent"), ("stepExponent", -1, "step-exponent"), ("offset", 1, "offset"),
     ("offset", -(2**31), "offset"), ("invalid", b"", "bitmap"), ("invalid", bytes(20), "bitmap")],
)  # fmt: skip
def test_fields_of_rice_are_refused_in_a_raw_plane(field, value, reason):
    assert refusal(raw_fields(np.ones(160), **{field: value})) == (reason, field)


@pytest.mark.parametrize("where", [0, 63, 64, 112, 159])
@pytest.mark.parametrize(
    "pattern", [0x7F800000, 0xFF800000, 0x7FC00001, 0xFFC00000, 0x7F800001, 0x7E000000, 0xFE000000]
)
def test_a_raw_value_that_is_not_canonical_is_refused_wherever_it_is(pattern, where):
    fields = raw_fields(np.ones(160))
    payload = bytearray(fields["payload"])
    struct.pack_into("<I", payload, 4 * where, pattern)
    levels = build_levels(np.ones((40, 40), np.float32), GEOMETRY, x=20, y=20)[None]
    assert refusal({**fields, "payload": bytes(payload)}) == ("not-canonical", "payload")
    assert levels.all()


@pytest.mark.parametrize("value", [-0.0, 1e-45, -1e-45, 1.1754942e-38, math.nan])
def test_raw_keeps_zeros_subnormals_and_the_nan(value):
    levels, failures = decode_planes([raw_fields(np.full(160, value))], GEOMETRY)
    assert failures == {}
    assert bits(levels[0, 0]) == bits(np.full((8, 8), value, np.float32))


def test_a_bitmap_or_a_step_is_not_read_as_true_or_false_alone():
    assert refusal(raw_fields(np.ones(160), "MASK", invalid=b"\0"))[0] == "bitmap"


# --- CRC (4.4) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("crc32", [0, -1, 2**32, 2**63])
def test_another_crc_is_refused(crc32):
    assert refusal(raw_fields(np.ones(160), crc32=crc32)) == ("crc", "crc32")


@given(st.integers(0, 159), st.integers(0, 31))
def test_the_crc_sees_every_bit(i, bit):
    fields = raw_fields(np.linspace(1, 2, 160))
    payload = bytearray(fields["payload"])
    payload[4 * i + bit // 8] ^= 1 << bit % 8
    assert refusal({**fields, "payload": bytes(payload)})[0] in ("crc", "not-canonical")


# --- RICE (5.2 to 5.5) --------------------------------------------------------------------------------


def rice_fields(values, e=0, offset=0, kind="SCIENCE", geometry=GEOMETRY, shared=True, **changes):
    """A RICE plane of values that are whole steps, None where invalid; whatever its limits."""
    plane = reference.rice_plane_of(kind, geometry.size, geometry.n_levels, shared, e, offset, values)
    return {**fields_of(plane), **changes}


def test_the_rice_planes_of_the_refusals_are_right():
    assert decode_planes([rice_fields([3.0] * 160)], GEOMETRY)[1] == {}
    assert decode_planes([rice_fields([3.0, None] * 80)], GEOMETRY)[1] == {}
    assert decode_planes([rice_fields([3] * 160, kind="MASK", offset=2)], GEOMETRY)[1] == {}


@pytest.mark.parametrize("e", [-(2**31), -121, -120, 102, 103, 2**31 - 1])
def test_a_step_exponent_out_of_range_is_refused(e):
    assert refusal(rice_fields([0.0] * 160, stepExponent=e)) == ("step-exponent", "stepExponent")


@pytest.mark.parametrize("e", [-119, -118, 0, 100, 101])
def test_a_step_exponent_in_range_is_read(e):
    values = [math.ldexp(1 + i % 3, e) for i in range(160)]
    levels, failures = decode_planes([rice_fields(values, e)], GEOMETRY)
    assert failures == {}
    assert levels[0, 0, 0, :3].tolist() == values[:3]
    assert refusal(rice_fields([1] * 160, kind="MASK", stepExponent=e or 1))[0] == "step-exponent"


@pytest.mark.parametrize("n_levels", [1, 3, 8])
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_offset_reaches_2_to_the_24_at_the_last_level_and_no_further(n_levels, sign):
    geometry = Geometry(8, n_levels)
    largest = sign * 2**24 >> (n_levels - 1)
    n = geometry.n_values
    fields = rice_fields([float(largest)] * n, 0, largest, geometry=geometry)
    assert decode_planes([fields], geometry)[1] == {}
    assert refusal({**fields, "offset": largest + sign}, geometry) == ("offset", "offset")


@pytest.mark.parametrize("offset", [-1, 65536, -(2**31)])
def test_an_offset_out_of_range_is_refused_in_a_mask(offset):
    assert refusal(rice_fields([1] * 160, kind="MASK", offset=1) | {"offset": offset})[0] == "offset"


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_q_above_2_to_the_24_is_refused(sign):
    for i, step in ((0, 1.0), (159, 0.25)):  # of the level
        values = [0.0] * 160
        values[i] = sign * 2.0**24 * step
        assert decode_planes([rice_fields(values)], GEOMETRY)[1] == {}
        values[i] += sign * step
        assert refusal(rice_fields(values))[0] == "rice-range"


@pytest.mark.parametrize(("first", "offset"), [(65536, 0), (-1, 0), (70000, 65535)])
def test_a_mask_value_of_more_than_16_bits_is_refused(first, offset):
    payload = reference.rice_parts([first - offset] + [0] * 159).payload()
    fields = rice_fields([0] * 160, kind="MASK") | {"payload": payload, "offset": offset}
    assert refusal(fields)[0] == "rice-range"


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_rice_value_of_2_to_the_125_is_refused(sign):
    values = [0.0] * 160
    values[0] = sign * 2.0**125
    assert refusal(rice_fields(values, 101))[0] == "not-canonical"
    values[0] = sign * (2.0**125 - 2.0**101)
    assert decode_planes([rice_fields(values, 101)], GEOMETRY)[1] == {}
    assert decode_planes([rice_fields([sign * 2.0**125 / 2, *values[1:]], 100)], GEOMETRY)[1] == {}


def test_an_invalid_value_has_no_q_that_could_be_out_of_range():
    """With L = 1 and e = 101 an offset of 2^24 alone would be a value of 2^125."""
    geometry = Geometry(8, 1)
    values = [None] + [2.0**125 - 2.0**101] * 63
    fields = rice_fields(values, 101, 2**24, geometry=geometry)
    levels, failures = decode_planes([fields], geometry)
    assert failures == {}
    assert levels[0].tobytes() == reference.decode(slow_plane(fields, "SCIENCE", geometry))


def test_a_zero_of_rice_is_positive():
    levels = np.full((1, 1, 8, 8), -0.0, np.float32)
    levels[0, 0, 0] = -0.3
    [fields] = encode_planes(
        levels, Geometry(8, 1), kind="SCIENCE", encoding="RICE", step_exponents=[0], offsets=[-1]
    )
    decoded, failures = decode_planes([{"kind": "SCIENCE", **fields}], Geometry(8, 1))
    assert (fields["encoding"], failures) == ("RICE", {})
    assert bits(decoded) == bits(np.zeros((1, 1, 8, 8), np.float32))


@pytest.mark.parametrize(
    ("bitmap", "why"),
    [(b"", "short"), (b"\x80" * 19, "short"), (b"\x80" * 21, "long"), (bytes(20), "no ones")],
)
def test_a_bitmap_of_another_length_or_without_a_one_is_refused(bitmap, why):
    fields = rice_fields([3.0, *[None] * 7] * 20)
    assert refusal({**fields, "invalid": bitmap}) == ("bitmap", "invalid")


def test_ones_in_the_padding_of_a_bitmap_are_refused():
    geometry = Geometry(4, 2)  # 28 values, 4 bits of padding
    fields = rice_fields([3.0, *[None] * 6] * 4, geometry=geometry)
    assert decode_planes([fields], geometry)[1] == {}
    for bit in range(4):
        broken = fields["invalid"][:-1] + bytes([fields["invalid"][-1] | 1 << bit])
        assert refusal({**fields, "invalid": broken}, geometry) == ("bitmap", "invalid")


def test_a_bitmap_is_refused_in_a_mask():
    assert refusal(rice_fields([3] * 160, kind="MASK", invalid=b"\x80" + bytes(19)))[0] == "bitmap"


@pytest.mark.parametrize("n_more", [0, 1, 10**6])
def test_a_rice_plane_that_is_not_shorter_than_raw_is_refused_before_it_is_read(n_more):
    fields = rice_fields([3.0] * 160)
    fields["payload"] += bytes(640 - len(fields["payload"]) + n_more)
    assert refusal(fields) == ("rice-not-shorter", "payload")
    fields["payload"] = fields["payload"][:639]
    assert refusal(fields)[0] == "rice-trailing"
    fields = rice_fields([3.0, None] * 80)
    fields["payload"] += bytes(640 - 20 - len(fields["payload"]))
    assert refusal(fields) == ("rice-not-shorter", "payload")


def test_one_level_is_never_whole():
    geometry = Geometry(8, 1)
    [fields] = encode_planes(np.ones((1, 1, 8, 8), np.float32), geometry, kind="SCIENCE")
    assert fields["sharedCenter"]
    fields = {"kind": "SCIENCE", **fields, "sharedCenter": False}
    assert refusal(fields, geometry) == ("shared-center", "sharedCenter")


@pytest.mark.parametrize(
    "change", [{"kind": "UNKNOWN"}, {"encoding": "UNKNOWN"}, {"kind": "PSF"}, {"encoding": ""}]
)
def test_a_symbol_that_is_not_known_is_refused(change):
    assert refusal(raw_fields(np.ones(160), **change))[0] == "unknown-symbol"


# --- what an encoder chooses (5.5, 5.6) ---------------------------------------------------------------


def encoded(levels, geometry, e, offset, kind="SCIENCE"):
    [fields] = encode_planes(
        levels[None], geometry, kind=kind, encoding="RICE", step_exponents=[e], offsets=[offset]
    )
    return fields


@pytest.mark.parametrize("e", [None, -120, 102, 10**6])
def test_an_encoder_uses_raw_where_no_step_fits(e):
    assert encoded(np.ones((3, 8, 8), np.float32), GEOMETRY, e, 0)["encoding"] == "RAW"


@pytest.mark.parametrize(
    ("value", "e", "offset"),
    [(1.0, -24, 0), (1.0, 0, 2**22 + 1), (-1.0, 0, -(2**22) - 1), (2.0**123, 101, 2**22)],
)
def test_an_encoder_stays_within_the_limits(value, e, offset):
    levels = np.full((3, 8, 8), value, np.float32)
    fields = encoded(levels, GEOMETRY, e, offset)
    assert fields["encoding"] == ("RICE" if value == 2.0**123 else "RAW")
    assert decode_planes([{"kind": "SCIENCE", **fields}], GEOMETRY)[1] == {}


def test_an_encoder_uses_raw_where_a_value_would_round_to_2_to_the_125():
    levels = np.zeros((1, 8, 8), np.float32)
    levels[0, 0, 0] = np.nextafter(np.float32(2.0**125), np.float32(0))
    assert encoded(levels, Geometry(8, 1), 104 - 3, 0)["encoding"] == "RICE"
    assert encoded(levels, Geometry(8, 1), 101, 0)["offset"] == 0
    levels[0, 0, 0] = 2.0**124
    assert encoded(levels, Geometry(8, 1), 101, 0)["encoding"] == "RICE"


def test_an_encoder_uses_raw_where_rice_is_not_shorter():
    noise = np.random.default_rng(0).uniform(-(2.0**23), 2.0**23, (1, 8, 8)).astype(np.float32)
    fields = encoded(noise, Geometry(8, 1), 0, 0)
    payload = reference.rice_parts([round(v) for v in noise.ravel().tolist()]).payload()
    assert fields["encoding"] == ("RAW" if len(payload) >= 256 else "RICE")
    bad = noise.copy()
    bad[0, 0, 0] = np.nan  # a bitmap of 8 bytes more
    n_with_bitmap = len(reference.rice_parts([round(v) for v in noise.ravel().tolist()[1:]]).payload()) + 8
    assert encoded(bad, Geometry(8, 1), 0, 0)["encoding"] == ("RAW" if n_with_bitmap >= 256 else "RICE")


def test_an_all_invalid_plane_is_a_bitmap_and_four_bytes():
    fields = encoded(np.full((3, 8, 8), np.nan, np.float32), GEOMETRY, -2, 0, "SCORE")
    assert (fields["encoding"], fields["payload"], fields["invalid"]) == ("RICE", bytes(4), b"\xff" * 20)
    levels, failures = decode_planes([{"kind": "SCORE", **fields}], GEOMETRY)
    assert failures == {}
    assert np.isnan(levels).all()


def test_ties_are_rounded_to_even():
    levels = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 4.5] * 8, np.float32).reshape(1, 8, 8)
    fields = encoded(levels, Geometry(8, 1), 0, 0)
    decoded, _ = decode_planes([{"kind": "SCIENCE", **fields}], Geometry(8, 1))
    assert decoded[0, 0, 0].tolist() == [-2, -2, 0, 0, 2, 2, 4, 4]


def test_levels_of_any_storage_encode_to_the_same_bytes():
    levels = build_levels(np.random.default_rng(0).normal(size=(2, 40, 40)), GEOMETRY, x=20, y=20)
    expected = encode_planes(levels, GEOMETRY, kind="SCIENCE")
    for stored in (levels.astype(">f4"), np.asfortranarray(levels), np.repeat(levels, 2, -1)[..., ::2]):
        assert encode_planes(stored, GEOMETRY, kind="SCIENCE") == expected


def test_payloads_may_be_any_bytes():
    for make in (bytearray, memoryview):
        raw, rice = raw_fields(np.ones(160)), rice_fields([3.0, None] * 80)
        raw["payload"], rice["payload"], rice["invalid"] = map(
            make, (raw["payload"], rice["payload"], rice["invalid"])
        )
        assert decode_planes([raw, rice], GEOMETRY)[1] == {}


def test_what_is_packed_is_what_travels():
    levels = build_levels(np.random.default_rng(0).normal(size=(40, 40)), GEOMETRY, x=20, y=20)
    [fields] = encode_planes(levels[None], GEOMETRY, kind="SCIENCE")
    assert fields["payload"] == pack(levels, GEOMETRY).astype("<f4").tobytes()
    assert fields["crc32"] == zlib.crc32(levels.astype("<f4").tobytes())


# --- hostile planes -----------------------------------------------------------------------------------


def test_one_bad_plane_does_not_make_a_batch_ten_times_slower():
    good = rice_fields([float(i % 7) for i in range(160)])
    bad = {**good, "payload": good["payload"][:-1]}
    decode_planes([good] * 256, GEOMETRY)

    def seconds(planes):
        begin = time.perf_counter()
        _, failures = decode_planes(planes, GEOMETRY)
        assert list(failures) == [i for i, plane in enumerate(planes) if plane is bad]
        return time.perf_counter() - begin

    without = min(seconds([good] * 256) for _ in range(5))
    assert min(seconds([*[good] * 200, bad, *[good] * 55]) for _ in range(5)) < 10 * without


def test_memory_is_bounded_by_the_planes_and_not_by_what_they_state():
    geometry = Geometry(64, 8)
    n = geometry.n_values
    unary = struct.pack("<I", 2**32 - 1) + bytes(1000)
    planes = [
        rice_fields([3.0] * n, geometry=geometry) | {"payload": bytes(-(-5 * -(-n // 16) // 8)) + unary},
        raw_fields(np.ones(160)),
        rice_fields([3.0] * n, geometry=geometry) | {"payload": b"\xff" * (4 * n - 1)},
    ]
    tracemalloc.start()
    try:
        _, failures = decode_planes(planes, geometry)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sorted(failures) == [0, 1, 2]
    assert all(isinstance(error, PayloadError) for error in failures.values())
    assert peak < 64 << 20
