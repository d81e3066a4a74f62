"""The reader that is made for a schema, against fastavro's own."""

import io

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiscale.avro import Schema, decode_body, encode_body
from multiscale.avro.compiled import MAX_LINES, compile_reader
from multiscale.errors import WireError
from multiscale.schema import FAULTS

EVERY_TYPE = Schema.of(
    {
        "type": "record",
        "name": "Every",
        "fields": [
            {"name": "a b'\"\\", "type": "string"},  # a name is never code
            {"name": "nothing", "type": "null"},
            {"name": "yes", "type": "boolean"},
            {"name": "int", "type": "int"},
            {"name": "long", "type": "long"},
            {"name": "float", "type": "float"},
            {"name": "double", "type": "double"},
            {"name": "bytes", "type": "bytes"},
            {"name": "fixed", "type": {"type": "fixed", "name": "Four", "size": 4}},
            {"name": "enum", "type": {"type": "enum", "name": "Letter", "symbols": ["A", "B"]}},
            {"name": "union", "type": ["null", "string", {"type": "array", "items": "int"}]},
            {"name": "table", "type": {"type": "array", "items": {"type": "array", "items": "Letter"}}},
            {"name": "map", "type": {"type": "map", "values": ["null", "Four"]}},
            {
                "name": "inner",
                "type": {"type": "record", "name": "Inner", "fields": [{"name": "x", "type": "double"}]},
            },
            {"name": "again", "type": {"type": "array", "items": "Inner"}},
        ],
    }
)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
INNER = st.fixed_dictionaries({"x": FLOATS})
RECORDS = st.fixed_dictionaries(
    {
        "a b'\"\\": st.text(max_size=5),
        "nothing": st.none(),
        "yes": st.booleans(),
        "int": st.integers(-(2**31), 2**31 - 1),
        "long": NUMBERS,
        "float": st.floats(allow_nan=False, width=32),
        "double": FLOATS,
        "bytes": st.binary(max_size=200),
        "fixed": st.binary(min_size=4, max_size=4),
        "enum": st.sampled_from("AB"),
        "union": st.none() | st.text(max_size=3) | st.lists(st.integers(-99, 99), max_size=3),
        "table": st.lists(st.lists(st.sampled_from("AB"), max_size=3), max_size=3),
        "map": st.dictionaries(
            st.text(max_size=3), st.none() | st.binary(min_size=4, max_size=4), max_size=3
        ),
        "inner": INNER,
        "again": st.lists(INNER, max_size=3),
    }
)


def fastavro_reads(body):
    """Return the record and where it ends, None where fastavro refuses it."""
    stream = io.BytesIO(body)
    try:
        return fastavro.schemaless_reader(stream, EVERY_TYPE._plan), stream.tell()
    except FAULTS:
        return None


@given(RECORDS)
def test_every_type_is_read_as_it_was_written(record):
    assert EVERY_TYPE.reader is not None
    assert decode_body(EVERY_TYPE, encode_body(EVERY_TYPE, record)) == record


@given(RECORDS, st.data())
def test_damaged_bodies_are_read_as_fastavro_reads_them_or_refused(record, data):
    body = bytearray(encode_body(EVERY_TYPE, record))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = bytes(body[: data.draw(st.integers(0, len(body)))])
    try:
        ours = EVERY_TYPE.reader(body, 0, len(body))
    except FAULTS:
        return  # of what fastavro takes, numbers beyond 64 bits
    theirs = fastavro_reads(body)
    assert theirs is not None
    assert repr(ours) == repr(theirs)  # NaN equals itself so


@given(RECORDS)
def test_every_cut_is_refused(record):
    body = encode_body(EVERY_TYPE, record)
    for n in range(len(body)):
        with pytest.raises(WireError):
            decode_body(EVERY_TYPE, body[:n])


@pytest.mark.parametrize("body", [b"\xff" * 9 + b"\x02", b"\xff" * 10 + b"\x01", b"\xff" * 1000 + b"\x02"])
def test_a_number_of_more_than_64_bits_is_left_to_fastavro(body):
    schema = Schema.of({"type": "record", "name": "N", "fields": [{"name": "x", "type": "long"}]})
    assert schema.reader is not None
    with pytest.raises(ValueError, match="a number of more than"):
        schema.reader(body, 0, len(body))


def test_types_named_again_and_again_make_no_more_code():
    inner: dict = {"type": "record", "name": "R0", "fields": [{"name": "x", "type": "int"}]}
    for i in range(1, 12):  # 2^11 values of R0 if each use were written out
        fields = [{"name": "a", "type": inner}, {"name": "b", "type": f"R{i - 1}"}]
        inner = {"type": "record", "name": f"R{i}", "fields": fields}
    assert compile_reader(Schema.of(inner)._plan) is not None


def test_the_same_schema_in_another_object_has_the_same_reader():
    one, other = ({"type": "record", "name": "N", "fields": [{"name": "x", "type": "long"}]} for _ in "ab")
    assert Schema.of(one) is not Schema.of(other)
    assert Schema.of(one).reader is Schema.of(other).reader


def test_a_very_long_schema_is_read_by_fastavro():
    fields = [{"name": f"x{i}", "type": "int"} for i in range(MAX_LINES // 3 + 1)]
    schema = Schema.of({"type": "record", "name": "Large", "fields": fields})
    assert schema.reader is None
    record = {field["name"]: i for i, field in enumerate(fields)}
    assert decode_body(schema, encode_body(schema, record)) == record
