"""Containers, single objects and Confluent frames: whole, damaged, hostile and real (section 8)."""

import io
from contextlib import suppress

import fastavro
import pytest

from multiscale.avro import (
    Schema,
    decode_body,
    decode_confluent,
    decode_single,
    detect,
    encode_body,
    encode_confluent,
    encode_single,
    read_container,
    read_messages,
    write_container,
)
from multiscale.errors import RecordError, SchemaError, StampError, WireError
from multiscale.schema import embed_cutout, load_schema, parsed_schema

SCHEMA = load_schema("multiscale.Cutout")
PLANE = {
    "kind": "SCIENCE",
    "of": "NONE",
    "unit": "adu",
    "encoding": "RAW",
    "sharedCenter": True,
    "stepExponent": 0,
    "offset": 0,
    "invalid": None,
    "payload": b"\1\2\3\4" * 16,
    "crc32": 2**32 - 1,
    "background": 1.5,
    "noise": 0.5,
    "psf": None,
    "psfFwhm": 2.0,
    "maskBits": [],
}
RECORD = {
    "specVersion": "1.0",
    "size": 4,
    "nLevels": 1,
    "pixelScale": 0.5,
    "dx": 0.25,
    "dy": None,
    "sky": None,
    "clipped": {"xLow": 0, "xHigh": 1, "yLow": 0, "yHigh": 0},
    "clippedBy": "DETECTOR",
    "planes": [PLANE, {**PLANE, "kind": "MASK", "of": "SCIENCE", "unit": "", "maskBits": ["A", ""]}],
    "missing": [{"kind": "DIFFERENCE", "of": "NONE", "reason": "FAILED", "detail": "x"}],
}
BODY = encode_body(SCHEMA, RECORD)
SINGLE = encode_single(SCHEMA, RECORD)
FRAME = encode_confluent(7, SCHEMA, RECORD)


def container(n=3, codec="null", schema=SCHEMA, record=RECORD):
    out = io.BytesIO()
    assert write_container(out, schema, [record] * n, codec=codec) == n
    return out.getvalue()


def avro_long(value):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", value)
    return out.getvalue()


class OneByOne(io.RawIOBase):
    """A stream that cannot seek and gives few bytes at a time, as a pipe may."""

    def __init__(self, data):
        self.data = io.BytesIO(data)

    def read(self, n=-1):
        return self.data.read(min(n, 3) if n > 0 else n)


# What is written is read.


def test_a_body_is_what_fastavro_writes_and_reads():
    out = io.BytesIO()
    fastavro.schemaless_writer(out, parsed_schema("multiscale.Cutout"), RECORD)
    assert out.getvalue() == BODY
    assert decode_body(SCHEMA, BODY) == RECORD
    assert decode_body(parsed_schema("multiscale.Cutout"), BODY) == RECORD
    assert decode_body(Schema.of(SCHEMA), BODY) == RECORD


def test_frames_are_as_the_specification_says():
    assert b"\xc3\x01" + Schema.of(SCHEMA).fingerprint + BODY == SINGLE
    assert FRAME == b"\0\0\0\0\7" + BODY
    assert encode_confluent(-2, SCHEMA, RECORD)[:5] == b"\0\xff\xff\xff\xfe"
    with pytest.raises(WireError, match="4-byte"):
        encode_confluent(2**31, SCHEMA, RECORD)


def test_a_single_object_is_read_with_the_schema_of_its_fingerprint():
    fingerprint = Schema.of(SCHEMA).fingerprint
    for schemas in (
        [load_schema("multiscale.Alert"), SCHEMA],
        [Schema.of(SCHEMA)],
        {fingerprint: SCHEMA},
        {fingerprint: SCHEMA}.get,
    ):
        assert decode_single(SINGLE, schemas) == RECORD
    assert decode_single(bytearray(SINGLE), [SCHEMA]) == RECORD
    assert decode_single(memoryview(SINGLE), [SCHEMA]) == RECORD


def test_a_confluent_frame_is_read_with_the_schema_of_its_id():
    for lookup in ({7: SCHEMA}, {7: SCHEMA}.__getitem__, {7: Schema.of(SCHEMA)}.get):
        assert decode_confluent(FRAME, lookup) == RECORD


@pytest.mark.parametrize("lookup", [{}, {}.get, {}.__getitem__])
def test_a_schema_that_nobody_knows_is_named(lookup):
    with pytest.raises(SchemaError, match="schema id 7"):
        decode_confluent(FRAME, lookup)
    with pytest.raises(SchemaError, match=SINGLE[2:10].hex()):
        decode_single(SINGLE, lookup)


def test_detect_tells_the_forms_apart():
    assert detect(container()) == "container"
    assert detect(SINGLE) == "single-object"
    assert detect(FRAME) == "confluent"
    for other in (b"", b"\0", b"\0\0\0\0", b"Obj\2", b"SIMPLE  =", b"{}"):
        assert detect(other) == "unknown"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"", "no bytes"),
        (b"\0\0", "2 bytes: 00 00"),
        (b"\1abcdefgh", "01 61"),
        (container(), "4f 62 6a 01 (an Avro container: read_container)"),
        (SINGLE, "c3 01 (a single-object message: decode_single)"),
    ],
)
def test_another_first_byte_is_refused_and_named(message, says):
    with pytest.raises(WireError) as caught:
        decode_confluent(message, {7: SCHEMA})
    assert caught.value.reason == "frame"
    assert says in str(caught.value)


def test_a_confluent_frame_given_to_the_others_is_named():
    for read in (read_container, lambda message: decode_single(message, [SCHEMA])):
        with pytest.raises(WireError, match=r"00 00 \(a Confluent frame: decode_confluent\)"):
            read(FRAME)
    with pytest.raises(WireError, match="8 bytes of fingerprint"):
        decode_single(b"\xc3\x01\0\0", [SCHEMA])


@pytest.mark.parametrize("codec", ["null", "deflate"])
@pytest.mark.parametrize("n", [0, 1, 3, 2000])
def test_a_container_holds_any_number_of_records(tmp_path, codec, n):
    path = tmp_path / "a.avro"
    write_container(path, SCHEMA, (dict(RECORD, size=i) for i in range(n)), codec=codec)
    reader = read_container(path)
    assert (reader.schema, reader.codec, reader.repairs) == (SCHEMA, codec, [])
    assert [record["size"] for record in reader] == list(range(n))
    with path.open("rb") as file:
        assert [record["size"] for record in fastavro.reader(file)] == list(range(n))


def test_containers_of_fastavro_are_read():
    for codec in ("null", "deflate"):
        out = io.BytesIO()
        fastavro.writer(out, SCHEMA, [RECORD] * 500, codec=codec)
        assert list(read_container(out.getvalue())) == [RECORD] * 500


def test_a_source_may_be_a_path_bytes_a_file_or_a_stream(tmp_path):
    data = container(100)
    path = tmp_path / "a.avro"
    path.write_bytes(data)
    for source in (path, str(path), data, bytearray(data), io.BytesIO(data), OneByOne(data)):
        with read_container(source) as reader:
            assert sum(1 for _ in reader) == 100


def test_a_file_of_the_callers_stays_open():
    file = io.BytesIO(container())
    list(read_container(file))
    assert not file.closed


def test_reading_can_end_early(tmp_path):
    path = tmp_path / "a.avro"
    path.write_bytes(container(100))
    with read_container(path) as reader:
        next(reader)
    assert list(reader) == []


def test_logical_types_are_the_numbers_that_were_sent():
    kind = {"type": "long", "logicalType": "timestamp-micros"}
    schema = {"type": "record", "name": "R", "fields": [{"name": "t", "type": kind}]}
    for value in (0, 1_700_000_000_123_456, 2**62):  # the last is no date that Python has
        assert decode_body(schema, encode_body(schema, {"t": value})) == {"t": value}


@pytest.mark.parametrize("codec", ["zstandard", "snappy", "lzma", ""])
def test_a_codec_that_is_not_here_is_refused_before_anything_is_written(tmp_path, codec):
    library = {"zstandard": "backports.zstd", "snappy": "cramjam"}.get(codec, "lzma_not_supported")
    try:
        __import__(library)
    except ImportError:
        with pytest.raises(WireError, match="null"):
            write_container(tmp_path / "a.avro", SCHEMA, [], codec=codec)
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(WireError, match="null"):
            read_container(container().replace(b"\x08null", bytes([2 * len(codec)]) + codec.encode()))
    else:
        assert list(read_container(container(5, codec))) == [RECORD] * 5


# What cannot be written leaves nothing behind.


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.avro"
    path.write_bytes(b"old")

    def records():
        yield from [RECORD] * 1000
        raise RuntimeError("the camera is off")

    with pytest.raises(RuntimeError, match="camera"):
        write_container(path, SCHEMA, records())
    with pytest.raises(RecordError, match="packet 1"):
        write_container(path, SCHEMA, [RECORD, {**RECORD, "size": "4"}])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_ordinary_permissions(tmp_path):
    (tmp_path / "plain").touch()
    write_container(tmp_path / "a.avro", SCHEMA, [RECORD])
    assert (tmp_path / "a.avro").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"dx": "0.5"}, "dx"),
        ({"size": None}, "size"),
        ({"planes": [{**PLANE, "payload": "text"}]}, "payload"),
        ({"clippedBy": "NOBODY"}, "clippedBy"),
        ({"extra": 1}, "extra"),
        ({"pixelScale": 10**400}, ""),
    ],
)
def test_a_value_that_the_schema_cannot_hold_is_named(change, where):
    with pytest.raises(RecordError) as caught:
        encode_body(SCHEMA, {**RECORD, **change})
    assert where in str(caught.value)


def test_a_cutout_for_which_the_schema_has_no_field_is_not_lost_silently():
    schema = {"type": "record", "name": "alert", "fields": [{"name": "id", "type": "long"}]}
    with pytest.raises(RecordError, match="cutoutMultiscale"):
        encode_body(schema, {"id": 1, "cutoutMultiscale": RECORD})
    embedded = embed_cutout(schema)
    record = {"id": 1, "cutoutMultiscale": RECORD}
    assert decode_body(embedded, encode_body(embedded, record)) == record
    assert decode_body(embedded, encode_body(embedded, {"id": 1})) == {"id": 1, "cutoutMultiscale": None}


# Damage is found, and what came before it is given.


def test_bytes_after_the_record_are_refused():
    for decode in (
        lambda: decode_body(SCHEMA, BODY + b"\0"),
        lambda: decode_single(SINGLE + b"\0", [SCHEMA]),
        lambda: decode_confluent(FRAME + b"\0", {7: SCHEMA}),
    ):
        with pytest.raises(WireError) as caught:
            decode()
        assert caught.value.reason == "trailing-bytes"


def test_a_body_cut_anywhere_is_refused():
    for n in range(len(BODY)):
        with pytest.raises(WireError) as caught:
            decode_body(SCHEMA, BODY[:n])
        assert caught.value.reason == "avro"


def test_a_container_cut_anywhere_is_refused_or_ends_at_a_block():
    data = container(600)
    sync = data[-16:]
    ends = {i + 16 for i in range(len(data)) if data.startswith(sync, i)}
    assert len(ends) > 3
    header = min(ends)
    for n in {*range(0, len(data), 997), *ends, *(end - 1 for end in ends), *(end + 1 for end in ends)}:
        good = 0
        try:
            for _ in read_container(data[:n]):
                good += 1
        except StampError:
            assert n not in ends
        else:
            assert n in ends or n > len(data)
        assert n > header or good == 0


def test_a_damaged_block_is_named_after_the_good_ones():
    data = bytearray(container(600))
    sync = bytes(data[-16:])
    second = [i for i in range(len(data)) if data.startswith(sync, i)][1]
    whole = len(list(read_container(bytes(data[: second + 16]))))
    data[second + 40 : second + 60] = b"\xff" * 20
    reader = read_container(bytes(data))
    assert [next(reader) for _ in range(whole)] == [RECORD] * whole
    with pytest.raises(WireError) as caught:
        next(reader)
    assert caught.value.where == f"packet {whole} (block at byte {second + 16})"
    assert list(reader) == []  # it is over


def test_a_block_without_its_sync_marker_gives_no_record():
    data = container(1)
    with pytest.raises(WireError, match="no sync marker"):
        list(read_container(data[:-1] + b"\0"))
    lost = data.replace(BODY, BODY[:-1])
    with pytest.raises(WireError, match="1 bytes early: bytes were lost"):
        list(read_container(lost))


def test_a_block_with_more_than_its_records_is_refused():
    data = container(1)
    more = data.replace(avro_long(1) + avro_long(len(BODY)), avro_long(1) + avro_long(len(BODY) + 1))
    reader = read_container(more.replace(BODY, BODY + b"\0"))
    assert next(reader) == RECORD
    with pytest.raises(WireError, match="1 bytes after the 1 records"):
        next(reader)


def test_damaged_deflate_is_refused_or_read_as_far_as_it_goes():
    data = container(50, "deflate")
    for at in range(len(data) - 200, len(data) - 16):
        broken = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        with suppress(StampError):  # deflate has no checksum: other text may come out, as long as it is Avro
            assert len(list(read_container(broken))) <= 50


def test_deflate_that_ends_early_is_refused():
    data = container(1, "deflate")
    start = data.index(data[-16:]) + 16  # the block: count, size in 2 bytes, data, sync
    block, size = data[start + 3 : -16], len(data) - 16 - start - 3
    assert data[start : start + 3] == avro_long(1) + avro_long(size)
    cut = data[:start] + avro_long(1) + avro_long(size - 4) + block[:-4] + data[-16:]
    with pytest.raises(WireError, match="ends early"):
        list(read_container(cut))


# Files of unknown form.


def test_a_file_of_unknown_form_says_what_it_is(tmp_path):
    for name, data, form in (("c", container(2), "container"), ("s", SINGLE, "single-object")):
        (tmp_path / name).write_bytes(data)
        found = read_messages(tmp_path / name)
        assert (found.form, found.schema, found.codec, found.repairs) == (form, SCHEMA, "null", [])
        assert next(iter(found)) == RECORD
    found = read_messages(FRAME, SCHEMA)
    assert (found.form, found.schema_id, list(found)) == ("confluent", 7, [RECORD])
    with pytest.raises(SchemaError, match="schema id 7, expected the schema it was written with"):
        read_messages(FRAME)
    with pytest.raises(WireError, match="53 49"):
        read_messages(b"SIMPLE  =")
