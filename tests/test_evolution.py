"""What a later version may change, and what happens to those who do otherwise (clauses 8.5 and 10.2)."""

import copy
import io

import fastavro
import pytest

from multiscale.avro import (
    decode_body,
    decode_confluent,
    decode_single,
    encode_body,
    encode_single,
    read_container,
    write_container,
)
from multiscale.errors import SchemaError, WireError
from multiscale.evolution import check_all_pairs, check_evolution, compatible_reader
from multiscale.schema import load_schema, named_types, schema_names

OLD = load_schema("multiscale.Cutout")


def plane(**changes):
    fields = {
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
    return fields | changes


def cutout(*planes, **changes):
    fields = {
        "specVersion": "1.0",
        "size": 4,
        "nLevels": 1,
        "pixelScale": 0.5,
        "dx": 0.25,
        "dy": None,
        "sky": None,
        "clipped": {"xLow": 0, "xHigh": 1, "yLow": 0, "yHigh": 0},
        "clippedBy": "DETECTOR",
        "planes": list(planes) or [plane(), plane(kind="TEMPLATE")],
        "missing": [{"kind": "DIFFERENCE", "of": "NONE", "reason": "FAILED", "detail": "x"}],
    }
    return fields | changes


def changed(change, schema=OLD):
    """A copy of ``schema`` after ``change``, which gets the named types by their last name."""
    schema = copy.deepcopy(schema)
    change({name.rpartition(".")[2]: node for name, node in named_types(schema).items()})
    return schema


def add(name, kind, default=None, at=None):
    def change(types, record="Plane"):
        fields = types[record]["fields"]
        fields.insert(len(fields) if at is None else at, {"name": name, "type": kind, "default": default})

    return change


def version_1_1(types):
    """All that a minor version may do."""
    types["Plane"]["fields"] += [
        {"name": "gain", "type": ["null", "double"], "default": None},
        {"name": "history", "type": {"type": "array", "items": "string"}, "default": []},
        {"name": "salt", "type": "bytes", "default": "\u00ff"},
    ]
    types["Cutout"]["fields"].append({"name": "epoch", "type": ["null", "double"], "default": None})
    types["Kind"]["symbols"].append("CHI_SQUARE")
    types["Encoding"]["symbols"].append("FPACK")
    types["MissingReason"]["symbols"].append("TOO_LATE")


NEW = changed(version_1_1)
NEW_PLANE = {"gain": 1.25, "history": ["a", "b"], "salt": b"\0\1"}


def new_cutout():
    return cutout(plane(**NEW_PLANE), plane(kind="CHI_SQUARE", **NEW_PLANE), epoch=60000.5)


def test_a_sound_minor_version_passes():
    assert check_evolution(OLD, NEW) == []
    assert check_evolution(OLD, OLD) == []
    assert compatible_reader(NEW, OLD) == []
    assert compatible_reader(OLD, NEW) == []


@pytest.mark.parametrize("name", schema_names())
def test_every_schema_is_its_own_next_version(name):
    schema = load_schema(name)
    assert check_evolution(schema, copy.deepcopy(schema)) == []


def test_where_a_type_is_defined_does_not_matter():
    def moved(types):  # Plane refers to Kind, which Missing defines after it
        in_plane, in_missing = types["Plane"]["fields"][0], types["Missing"]["fields"][0]
        in_plane["type"], in_missing["type"] = in_missing["type"], in_plane["type"]

    assert check_evolution(OLD, changed(moved)) == []
    assert check_evolution(changed(moved), NEW) == []


def by_fastavro(writer, reader, body):
    return fastavro.schemaless_reader(
        io.BytesIO(body), fastavro.parse_schema(writer), fastavro.parse_schema(reader)
    )


@pytest.mark.parametrize("decode", [by_fastavro, lambda w, r, b: decode_body(w, b, reader_schema=r)])
def test_an_older_reader_reads_newer_data(decode):
    body = encode_body(NEW, new_cutout())
    assert decode(NEW, OLD, body) == cutout(plane(), plane(kind="UNKNOWN"))  # 10.3


def test_a_newer_reader_reads_older_data():
    body = encode_body(OLD, cutout())
    added = {"gain": None, "history": [], "salt": b"\xff"}
    expected = cutout(plane(**added), plane(kind="TEMPLATE", **added), epoch=None)
    assert decode_body(OLD, body, reader_schema=NEW) == expected
    by_other = by_fastavro(OLD, NEW, body)  # which leaves defaults of bytes as JSON has them
    assert by_other["planes"][0]["salt"] == "\xff"
    assert by_other == {**expected, "planes": [{**p, "salt": "\xff"} for p in expected["planes"]]}


def test_all_readers_resolve_with_the_writers_schema(tmp_path):
    """Container, single object and Confluent frame; the reader knows 1.0 only."""
    expected = cutout(plane(), plane(kind="UNKNOWN"))
    write_container(tmp_path / "new.avro", NEW, [new_cutout()] * 3)
    assert list(read_container(tmp_path / "new.avro", reader_schema=OLD)) == [expected] * 3
    message = encode_single(NEW, new_cutout())
    assert decode_single(message, [OLD, NEW], reader_schema=OLD) == expected
    frame = b"\0\0\0\0\7" + encode_body(NEW, new_cutout())
    assert decode_confluent(frame, {6: OLD, 7: NEW}, reader_schema=OLD) == expected


def test_a_body_cut_off_inside_a_field_that_the_reader_skips_is_refused():
    schema = changed(add("notes", ["null", "bytes"]))
    schema["fields"].append({"name": "notes", "type": ["null", "bytes"], "default": None})
    body = encode_body(schema, {**cutout(plane(notes=None)), "notes": b"0123456789"})
    assert by_fastavro(schema, OLD, body[:-5])["size"] == 4  # fastavro does not notice
    with pytest.raises(ValueError, match="ends early"):
        decode_body(schema, body[:-5], reader_schema=OLD)


def test_the_stale_schema_trap():
    """A field appended inside Plane, read with the older schema in the writer's place: garbage, no error.

    The null of the new field is one byte, 0, which the stale reader takes for the kind of the next plane.
    All is one byte late until an empty unit swallows the difference: a wrong plane, and nothing is missing.
    """
    newer = changed(add("gain", ["null", "double"]))
    body = encode_body(newer, cutout(plane(gain=None), plane(gain=None, kind="SCORE", unit="")))
    stale = fastavro.schemaless_reader(io.BytesIO(body), fastavro.parse_schema(OLD))  # no error
    garbage = plane(kind="UNKNOWN", of="DIFFERENCE", unit="\0")
    assert stale == cutout(plane(), garbage, missing=[])
    sound = cutout(plane(), plane(kind="SCORE", unit=""))
    assert decode_body(newer, body, reader_schema=OLD) == sound

    # Ours take the writer's schema: by fingerprint there is no other, and a false registry leaves bytes over.
    single = encode_single(newer, decode_body(newer, body))
    with pytest.raises(SchemaError, match="fingerprint"):
        decode_single(single, [OLD])
    assert decode_single(single, [OLD, newer], reader_schema=OLD) == sound
    with pytest.raises(WireError) as caught:
        decode_confluent(b"\0\0\0\0\1" + body, {1: OLD})
    assert caught.value.reason == "trailing-bytes"


def rename(types):
    types["Plane"]["fields"][2] |= {"name": "units", "aliases": ["unit"]}


def null_last(types):
    types["Cutout"]["fields"].append({"name": "epoch", "type": ["double", "null"], "default": 0.0})


def nested_null_last(types):
    inner = {"type": "record", "name": "Epoch", "fields": [{"name": "t", "type": ["double", "null"]}]}
    types["Cutout"]["fields"].append({"name": "epoch", "type": ["null", inner], "default": None})


def set_type(record, index, kind):
    return lambda types: types[record]["fields"][index].update(type=kind)


def no_default(types):
    types["Plane"]["fields"].append({"name": "gain", "type": "double"})


def drop_enum_default(types):
    types["Kind"].pop("default")


FORBIDDEN = [
    (add("gain", ["null", "double"], at=3), "planes[].gain", "insert", "append it at the end"),
    (no_default, "planes[].gain", "no-default", "give it one"),
    (set_type("Plane", 5, "long"), "planes[].stepExponent", "retype", "int to long; add a field"),
    (set_type("Cutout", 4, ["null", "double"]), "dx", "retype", "add a field of another name"),
    (set_type("Cutout", 4, ["float", "null"]), "dx", "null-first", "put null first"),
    (null_last, "epoch", "null-first", "put null first"),
    (nested_null_last, "epoch.t", "null-first", "put null first"),
    (lambda types: types["Plane"]["fields"].pop(2), "planes[].unit", "remove", "keep it"),
    (rename, "planes[].unit", "rename", "renamed to units; keep unit"),
    (lambda types: types["Plane"]["fields"].reverse(), "planes[]", "reorder", "keep the order"),
    (
        lambda types: types["Kind"]["symbols"].remove("SCORE"),
        "planes[].kind",
        "symbol-removed",
        "stop writing",
    ),
    (
        lambda types: types["Kind"]["symbols"].reverse(),
        "planes[].kind",
        "symbol-order",
        "keep the older order",
    ),
    (
        lambda types: types["Kind"]["symbols"].insert(1, "NEW"),
        "planes[].kind",
        "symbol-order",
        "append it after MASK",
    ),
    (drop_enum_default, "planes[].kind", "default", "keep the older one"),
    (lambda types: types["Kind"].update(default="MASK"), "planes[].kind", "default", "UNKNOWN to MASK"),
    (
        lambda types: types["Plane"]["fields"][7].update(default=""),
        "planes[].invalid",
        "default",
        "default changed from None to ''",
    ),
    (lambda types: types["Plane"]["fields"][7].pop("default"), "planes[].invalid", "default", "restore it"),
    (
        lambda types: types["Plane"]["fields"][0].update(default="MASK"),
        "planes[].kind",
        "default",
        "as it was",
    ),
    (lambda types: types["Sky"].update(name="Wcs"), "sky", "retype", "add a field"),
    (lambda types: types["Clipped"].update(name="Sides"), "clipped", "rename", "keep the name"),
]


@pytest.mark.parametrize(
    ("change", "path", "rule", "advice"), FORBIDDEN, ids=[f"{f[1]}-{f[2]}" for f in FORBIDDEN]
)
def test_a_forbidden_change_is_refused_with_what_to_do_instead(change, path, rule, advice):
    troubles = check_evolution(OLD, changed(change))
    found = [trouble for trouble in troubles if (trouble.path, trouble.rule) == (path, rule)]
    assert found, troubles
    assert advice in found[0].message
    assert found[0].clause == "10.2"
    assert str(found[0]).startswith(f"{path}: ")


def test_every_rule_has_a_message_of_its_own():
    rules = {rule for _, _, rule, _ in FORBIDDEN}
    assert rules == {
        *("insert", "no-default", "retype", "null-first", "remove", "rename", "reorder"),
        *("symbol-removed", "symbol-order", "default"),
    }


def test_a_symbol_added_to_an_enumeration_without_a_default_is_refused():
    old = changed(lambda types: types["Kind"].pop("default"))
    new = changed(lambda types: types["Kind"]["symbols"].append("NEW"), old)
    assert [trouble.rule for trouble in check_evolution(old, new)] == ["enum-no-default"]
    body = encode_body(new, cutout(plane(kind="NEW")))
    with pytest.raises(fastavro.read.SchemaResolutionError):  # what it would do to older readers
        by_fastavro(new, old, body)
    with pytest.raises(SchemaError, match="no symbol NEW"):
        decode_body(new, body, reader_schema=old)


def test_a_default_that_is_another_number_of_the_same_value_is_the_same():
    old = changed(add("gain", "double", 0))
    assert check_evolution(old, changed(add("gain", "double", 0.0))) == []
    assert check_evolution(changed(add("gain", "int", 1)), changed(add("gain", "int", True))) != []


def test_versions_are_checked_in_pairs():
    second = changed(add("gain", ["null", "double"]))
    back = changed(lambda types: types["Plane"]["fields"].pop(), second)
    again = changed(add("gain", ["null", "float"]))
    troubles = check_all_pairs([OLD, second, back, again])
    assert [(i, j, t.rule) for i, j, t in troubles] == [(1, 2, "remove"), (1, 3, "retype")]  # (2, 3) is sound
    assert check_all_pairs([OLD, NEW, changed(add("later", ["null", "int"]), NEW)]) == []


def test_a_changed_array_item_or_map_value_is_found():
    def record(kind):
        return {"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]}

    old = record({"type": "map", "values": {"type": "array", "items": "int"}})
    new = record({"type": "map", "values": {"type": "array", "items": "long"}})
    [trouble] = check_evolution(old, new)
    assert (trouble.path, trouble.rule) == ("a[][]", "retype")
    fixed = [record({"type": "fixed", "name": "F", "size": size}) for size in (4, 8)]
    assert [t.message for t in check_evolution(*fixed)] == ["size changed from 4 to 8; add another field"]


def test_schemas_that_contain_themselves_can_be_checked():
    node = {"type": "record", "name": "N", "fields": [{"name": "next", "type": ["null", "N"]}]}
    assert check_evolution(node, node) == []
    assert compatible_reader(node, node) == []


def test_what_is_not_a_schema_is_refused():
    for wrong in (None, 3, {"type": "record"}, {"type": ["record"]}, "nowhere.Type"):
        with pytest.raises(SchemaError):
            check_evolution(wrong, OLD)
        with pytest.raises(SchemaError):
            compatible_reader(OLD, wrong)


@pytest.mark.parametrize(
    ("writer", "reader", "rule"),
    [
        ("int", "double", None),
        ("double", "int", "retype"),
        ("string", "bytes", None),
        ("int", ["null", "long"], None),
        (["null", "int"], "int", "retype"),
        (["null", "int"], ["string", "null"], "retype"),
        ({"type": "array", "items": "int"}, {"type": "array", "items": "string"}, "retype"),
        ({"type": "fixed", "name": "F", "size": 2}, {"type": "fixed", "name": "F", "size": 3}, "retype"),
        (
            {"type": "enum", "name": "E", "symbols": ["A"]},
            {"type": "enum", "name": "o.E", "symbols": ["A"]},
            None,
        ),
    ],
)
def test_avros_own_rule_of_who_can_read_what(writer, reader, rule):
    schemas = [
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": t}]} for t in (writer, reader)
    ]
    assert [trouble.rule for trouble in compatible_reader(*schemas)] == ([rule] if rule else [])


def test_a_field_that_moved_or_has_an_alias_is_still_read():
    old = {"type": "record", "name": "R", "fields": [{"name": n, "type": "int"} for n in "ab"]}
    new = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "b", "type": "long"}, {"name": "c", "type": "int", "aliases": ["a"]}],
    }
    assert compatible_reader(old, new) == []
    assert decode_body(old, b"\2\4", reader_schema=new) == {"b": 2, "c": 1}
    lacking = {**new, "fields": [*new["fields"], {"name": "d", "type": "int"}]}
    with pytest.raises(SchemaError, match="no such field"):
        decode_body(old, b"\2\4", reader_schema=lacking)
