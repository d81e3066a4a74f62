"""Every real alert file: read whole, or refused with what is wrong with it (../shared/data/alerts)."""

import csv
import math
from collections import Counter
from datetime import UTC, datetime, timedelta

import fastavro
import pytest

from multiscale.avro import (
    Schema,
    decode_confluent,
    encode_body,
    encode_confluent,
    read_container,
    read_messages,
    write_container,
)
from multiscale.errors import SchemaError, StampError, WireError
from multiscale.schema import embed_cutout

pytestmark = pytest.mark.shared_data

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
def manifest(shared_data):
    with (shared_data / "alerts" / "MANIFEST.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if row["container"] != "npz"]


def rows_of(manifest, shared_data, *containers):
    return [(row, shared_data / "alerts" / row["file"]) for row in manifest if row["container"] in containers]


def same(ours, theirs):
    """Equal, where fastavro makes dates of numbers, and NaN is NaN."""
    if isinstance(theirs, datetime):
        theirs = (theirs - EPOCH) // timedelta(microseconds=1)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float) and math.isnan(ours):
        return math.isnan(theirs)
    return type(ours) is type(theirs) and ours == theirs


def test_every_file_is_read_whole_or_refused_and_the_counts_add_up(manifest, shared_data):
    outcomes = Counter()
    for row in manifest:
        n = 0
        try:
            for _ in read_container(shared_data / "alerts" / row["file"]):
                n += 1
        except StampError as error:
            outcomes[row["container"], f"{n}, then {error.reason}"] += 1
        else:
            outcomes[row["container"], n] += 1
    counts = Counter(row["container"] for row in manifest)
    assert outcomes == {
        ("ocf", 1): counts["ocf"],
        ("parquet-row", 1): counts["parquet-row"],
        ("ocf-nonconforming-schema", 1): counts["ocf-nonconforming-schema"],
        ("confluent-wire", "0, then avro"): counts["confluent-wire"],
        ("damaged", "0, then avro"): counts["damaged"] - 1,
        ("damaged", 0): 1,  # a sound container without records
    }


def test_the_records_are_those_that_fastavro_reads(manifest, shared_data):
    n = 0
    for row, path in rows_of(manifest, shared_data, "ocf", "parquet-row"):
        reader = read_container(path)
        ours = list(reader)
        if not reader.repairs:
            with path.open("rb") as file:
                assert same(ours, list(fastavro.reader(file))), row["file"]
            n += 1
    assert n == len(rows_of(manifest, shared_data, "ocf", "parquet-row")) - 3  # WINTER's two fields sgmag1


def test_schemas_that_fastavro_refuses_are_repaired_and_said(manifest, shared_data, tmp_path):
    for _, path in rows_of(manifest, shared_data, "ocf-nonconforming-schema"):
        with path.open("rb") as file, pytest.raises(fastavro.schema.SchemaParseException):
            fastavro.reader(file)
        reader = read_container(path)
        assert "candidate.fid: default null removed, not of type int" in reader.repairs
        [record] = reader
        assert len(record["cutoutScience"]) > 1000
        embedded = embed_cutout(reader.schema)
        write_container(tmp_path / "a.avro", embedded, [{**record, "cutoutMultiscale": None}])
        assert same(list(read_container(tmp_path / "a.avro")), [{**record, "cutoutMultiscale": None}])


def test_two_fields_of_one_name_both_keep_their_value(manifest, shared_data):
    winter = [path for row, path in rows_of(manifest, shared_data, "ocf") if row["survey"] == "WINTER"]
    assert len(winter) == 3
    for path in winter:
        reader = read_container(path)
        assert reader.repairs == ["candidate.sgmag1: a second field of this name, read as sgmag1_2"]
        [record] = reader
        with path.open("rb") as file:
            [theirs] = fastavro.reader(file)
        assert {"sgmag1", "sgmag1_2"} <= record["candidate"].keys()
        assert same(record["candidate"]["sgmag1_2"], theirs["candidate"]["sgmag1"])  # it keeps the last


def test_damaged_files_say_where_and_what(manifest, shared_data):
    for row, path in rows_of(manifest, shared_data, "damaged"):
        if "zero records" in row["why"]:
            continue
        with pytest.raises(WireError, match="1 bytes early: bytes were lost") as caught:
            list(read_container(path))
        assert caught.value.where.startswith("packet 0 (block at byte ")


def test_the_confluent_message_is_known_for_one_and_needs_its_schema(manifest, shared_data):
    [(_, path)] = rows_of(manifest, shared_data, "confluent-wire")
    with pytest.raises(WireError, match="a Confluent frame: decode_confluent"):
        read_container(path)
    with pytest.raises(SchemaError, match="schema id 701"):
        read_messages(path)
    other = next(p for row, p in rows_of(manifest, shared_data, "ocf") if row["schema"] == "lsst.v10_0")
    with pytest.raises(WireError):  # another version's schema in the writer's place
        read_messages(path, read_container(other).schema)


def test_a_real_alert_in_a_confluent_frame_comes_back(manifest, shared_data):
    for survey in ("ZTF", "LSST"):
        path = next(p for row, p in rows_of(manifest, shared_data, "ocf") if row["survey"] == survey)
        reader = read_container(path)
        [record] = reader
        message = encode_confluent(701, reader.schema, record)
        assert same(decode_confluent(message, {701: reader.schema}), record)
        assert same(list(read_messages(message, reader.schema)), [record])
        assert 20 * len(message) < Schema.of(reader.schema).max_bytes


def test_an_alert_survives_being_written_with_the_embedded_field(manifest, shared_data):
    n = 0
    for _, path in rows_of(manifest, shared_data, "ocf")[::10]:
        reader = read_container(path)
        [record] = reader
        body = encode_body(reader.schema, record)
        assert encode_body(embed_cutout(reader.schema), {**record, "cutoutMultiscale": None}) == body + b"\0"
        n += 1
    assert n > 10
