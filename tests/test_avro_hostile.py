"""Bytes made to harm or at random: refused at once, in bounded memory, with StampError (7.1, 8)."""

import io
import json
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_avro import BODY, FRAME, RECORD, SCHEMA, SINGLE, avro_long, container

from multiscale.avro import (
    Schema,
    decode_body,
    decode_confluent,
    decode_single,
    encode_body,
    read_container,
    read_messages,
)
from multiscale.errors import StampError, WireError
from multiscale.evolution import check_evolution
from multiscale.schema import embed_cutout, fingerprint, load_schema, parsed_schema


def one_field(kind):
    return {"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]}


def header(schema, codec=b"null"):
    meta = [(b"avro.schema", schema if isinstance(schema, bytes) else json.dumps(schema).encode())]
    meta.append((b"avro.codec", codec))
    items = b"".join(avro_long(len(part)) + part for pair in meta for part in pair)
    return b"Obj\1" + avro_long(len(meta)) + items + b"\0" + b"s" * 16


EMPTY = {"type": "record", "name": "E", "fields": []}
NODE = {"type": "record", "name": "N", "fields": [{"name": "n", "type": ["null", "N"]}]}
ENUM = {"type": "enum", "name": "e", "symbols": ["A", "B"]}


def doubling(n):
    """A record of 2^n empty records: each type holds the next one twice."""
    kind = EMPTY
    for i in range(n):
        fields = [{"name": "a", "type": kind}, {"name": "b", "type": f"T{i - 1}" if i else "E"}]
        kind = {"type": "record", "name": f"T{i}", "fields": fields}
    return kind


BOMBS = [
    ("string", avro_long(2**60) + b"abc"),
    ("string", avro_long(-5) + b"abcde"),
    ("bytes", avro_long(2**62)),
    ("bytes", avro_long(-(2**63))),
    ({"type": "array", "items": "null"}, avro_long(2**40) + b"\0"),
    ({"type": "array", "items": "null"}, avro_long(-(2**40)) + b"\0\0"),
    ({"type": "array", "items": EMPTY}, avro_long(2**40)),
    ({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}, avro_long(2**40)),
    ({"type": "array", "items": "long"}, avro_long(2**40) + b"\0" * 100),
    ({"type": "array", "items": "long"}, avro_long(-(2**62)) + b"\0" * 100),
    ({"type": "map", "values": "null"}, avro_long(2**40) + b"\0" * 100),
    ({"type": "fixed", "name": "F", "size": 2**50}, b"123"),
    ("long", b"\xff" * 40),
    (ENUM, avro_long(2)),
    (ENUM, avro_long(-1)),
    (["null", "long"], avro_long(2) + b"\2"),
    (["null", "long"], avro_long(-1) + b"\2"),
    (NODE, avro_long(1) * 1_000_000 + b"\0"),
    (doubling(40), b""),
    (
        {"type": "record", "name": "W", "fields": [{"name": "x", "type": "int"}, *doubling(30)["fields"]]},
        b"\0",
    ),
    ("null", b""),
]


def readings(schema, body):
    """The ways in which a bomb may come; the last two claim more records and more bytes than there are."""
    start, rest = header(schema), body + b"s" * 16
    yield decode_body, (schema, body)
    yield decode_confluent, (b"\0\0\0\0\1" + body, {1: schema})
    yield read_all, (start + avro_long(1) + avro_long(len(body)) + rest,)
    yield read_all, (start + avro_long(2**60) + avro_long(len(body)) + rest,)
    yield read_all, (start + avro_long(1) + avro_long(2**60) + rest,)


def read_all(data):
    for _ in read_container(data):
        pass


def must_refuse(function, arguments):
    try:
        function(*arguments)
    except StampError:
        return
    raise AssertionError(f"{str(arguments)[:200]} was read")


def run_bombs():
    """Every bomb within 512 MB more than Python has at the start."""
    import resource

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (512 << 20),) * 2)
    for kind, body in BOMBS:
        for function, arguments in readings(one_field(kind), body):
            must_refuse(function, arguments)
    squeezed = zlib.compress(bytes(200 << 20), 9)[2:-4]
    block = avro_long(1) + avro_long(len(squeezed)) + squeezed + b"s" * 16
    must_refuse(read_all, (header(SCHEMA, b"deflate") + block,))
    for text in (b"[" * 1_000_000, b'{"type":' * 400_000):
        must_refuse(read_all, (header(text),))
    must_refuse(read_all, (b"Obj\1" + avro_long(2**50) + avro_long(1) + b"a",))


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_bombs_are_refused_at_once_in_little_memory():
    script = "import sys; sys.path.insert(0, 'tests'); import test_avro_hostile as t; t.run_bombs()"
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


PYTHON_SIZES = [
    ("long", lambda i: 2**40 + i),
    ("double", float),
    ("string", lambda i: "é" * (i % 3 + 1)),
    ("string", lambda i: "\U0001f300"),
    ("bytes", lambda i: bytes([i % 256, 1])),
    (one_field("boolean"), lambda i: {"a": True}),
    ({**EMPTY, "fields": [{"name": "b", "type": ["null", one_field(ENUM)]}]}, lambda i: {"b": {"a": "A"}}),
    ({"type": "array", "items": "int"}, lambda i: [i]),
    ({"type": "map", "values": "int"}, lambda i: {str(i): i}),
    (SCHEMA, lambda i: {**RECORD, "planes": [], "missing": []}),
]


@pytest.mark.parametrize("container_kind", ["array", "map"])
@pytest.mark.parametrize(("kind", "value"), PYTHON_SIZES, ids=lambda p: str(p)[:20])
def test_decoded_values_take_no_more_than_was_reckoned(kind, value, container_kind):
    """The longest body allowed is MEMORY / (memory for each byte); so the latter must be an upper bound."""
    import tracemalloc

    from multiscale.avro import body as body_module

    values = [value(i) for i in range(2000)]
    schema = one_field({"type": "array", "items": kind})
    if container_kind == "map":
        values = {f"{i:x}": item for i, item in enumerate(values)}
        schema = one_field({"type": "map", "values": kind})
    schema["name"] = "Outer"
    ready = Schema.of(schema)
    encoded = encode_body(schema, {"a": values})
    tracemalloc.start()
    record = decode_body(ready, encoded)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert record == {"a": values}
    assert peak < body_module.MEMORY / ready.max_bytes * len(encoded) + 20_000


def test_a_body_over_the_limit_is_refused_before_it_is_read():
    ready = Schema.of(one_field({"type": "array", "items": one_field("boolean")["fields"][0]["type"]}))
    assert ready.max_bytes > 10 << 20
    with pytest.raises(WireError, match="limit"):
        decode_body(ready, bytes(ready.max_bytes + 1))
    for name in ("multiscale.Cutout", "multiscale.Alert"):
        assert Schema.of(load_schema(name)).max_bytes > 10 << 20  # far from any real packet


@pytest.mark.slow
def test_the_guards_cost_less_than_a_seventh_of_the_reading():
    from time import perf_counter

    parsed = parsed_schema("multiscale.Cutout")

    def bare():
        return fastavro.schemaless_reader(io.BytesIO(BODY), parsed)

    def seconds(function, n=300):
        begin = perf_counter()
        for _ in range(n):
            function()
        return perf_counter() - begin

    pairs = [(seconds(lambda: decode_body(SCHEMA, BODY)), seconds(bare)) for _ in range(60)]
    assert min(ours for ours, _ in pairs) < 1.15 * min(theirs for _, theirs in pairs)


# Whatever the bytes, nothing but StampError.


def read_in_every_way(data):
    schemas = {1: SCHEMA, 7: SCHEMA, 0: embed_cutout(one_field("int"))}
    for function, arguments in (
        (decode_body, (SCHEMA, data)),
        (lambda data: decode_body(SCHEMA, data, reader_schema=load_schema("multiscale.Cutout")), (data,)),
        (decode_single, (data, [SCHEMA])),
        (decode_single, (SINGLE[:10] + data, [SCHEMA])),
        (decode_confluent, (data, schemas)),
        (decode_confluent, (FRAME[:5] + data, schemas)),
        (read_all, (data,)),
        (read_all, (container(1)[:-30] + data,)),
        (read_messages, (data, SCHEMA)),
        (read_messages, (data,)),
    ):
        with suppress(StampError):
            function(*arguments)


@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(data):
    read_in_every_way(data)


@given(st.sampled_from([BODY, SINGLE, FRAME, container(2), container(2, "deflate")]), st.data())
def test_changed_messages_are_read_or_refused(message, data):
    message = bytearray(message)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(message) - 1))
        change = data.draw(st.binary(max_size=12))
        message[at : at + data.draw(st.integers(0, 12))] = change
        if not message:
            return
    read_in_every_way(bytes(message))


LEAVES = ["null", "int", "record", "array", "enum", "R", "", "x.y", None, True, 1, -5]
KEYS = ["type", "name", "fields", "items", "values", "symbols", "size", "default", "namespace"]
json_values = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)


@given(json_values, st.binary(max_size=40))
def test_any_json_as_a_schema_is_taken_or_refused(schema, data):
    block = avro_long(1) + avro_long(len(data)) + data + b"s" * 16
    for each in (schema, one_field(schema), {**SCHEMA, "fields": [*SCHEMA["fields"], schema]}):
        with suppress(StampError):
            read_all(header(each) + block)
        with suppress(StampError):
            decode_body(SCHEMA, BODY, reader_schema=each)
        with suppress(StampError):
            encode_body(each, {"a": 1})
        for function in (embed_cutout, fingerprint, lambda each: check_evolution(SCHEMA, each)):
            with suppress(StampError):
                function(each)
