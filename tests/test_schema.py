"""The schemas: found, completed, embedded, fingerprinted, repaired (sections 6.7, 8.2, 8.6)."""

import json
import subprocess
import sys
from pathlib import Path

import fastavro
import pytest

from multiscale import schema as schema_module
from multiscale.errors import SchemaError
from multiscale.schema import (
    canonical_form,
    embed_cutout,
    fingerprint,
    full_name,
    load_schema,
    load_schema_file,
    named_types,
    parse,
    parsed_schema,
    repair_schema,
    schema_names,
    schema_text,
    spec_folder,
)

SURVEY = {  # made up; attributes and order as surveys have them
    "namespace": "survey",
    "type": "record",
    "name": "alert",
    "doc": "made up",
    "version": "4.2",
    "fields": [
        {"name": "id", "type": "long", "doc": "identifier", "ucd": "meta.id"},
        {"name": "source", "type": "survey.alert.source"},
        {
            "name": "earlier",
            "type": [{"type": "array", "items": "survey.alert.source"}, "null"],
            "default": None,
        },
    ],
}
SOURCE = {
    "namespace": "survey.alert",
    "type": "record",
    "name": "source",
    "fields": [
        {"name": "flux", "type": ["null", "float"], "default": None},
        {"name": "band", "type": "band"},
    ],
}
BAND = {"type": "enum", "name": "band", "symbols": ["g", "r"]}


@pytest.fixture
def survey_folder(tmp_path):
    """A schema split over files: by full name, by short name, one of them without a namespace."""
    (tmp_path / "alert.avsc").write_text(json.dumps(SURVEY))
    (tmp_path / "survey.alert.source.avsc").write_text(json.dumps(SOURCE))
    (tmp_path / "band.avsc").write_text(json.dumps({**BAND, "namespace": "survey.alert"}))
    return tmp_path


def whole_survey():
    source = {**SOURCE, "fields": [SOURCE["fields"][0], {"name": "band", "type": BAND}]}
    fields = [SURVEY["fields"][0], {"name": "source", "type": source}, SURVEY["fields"][2]]
    return {**SURVEY, "fields": fields}


@pytest.mark.parametrize("name", schema_names())
def test_every_schema_is_whole_and_known_by_its_file_name(name):
    schema = load_schema(name)
    assert full_name(schema) == name
    assert full_name(fastavro.parse_schema(schema)) == name
    assert name in named_types(schema)


def test_the_schemas_of_the_specification_are_there():
    assert {"multiscale.Alert", "multiscale.Cutout", "multiscale.Plane"} <= set(schema_names())


def test_a_loaded_schema_is_the_callers_own():
    load_schema("multiscale.Cutout")["fields"].clear()
    assert load_schema("multiscale.Cutout")["fields"]


def test_the_text_is_the_schema():
    assert json.loads(schema_text("multiscale.Alert")) == load_schema("multiscale.Alert")


def test_the_parsed_form_is_made_once():
    assert parsed_schema("multiscale.Cutout") is parsed_schema("multiscale.Cutout")


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(SchemaError, match=r"multiscale\.Alert"):
        load_schema("multiscale.Stamp")


def test_a_missing_specification_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(schema_module, "__file__", str(tmp_path / "package" / "schema.py"))
    spec_folder.cache_clear()
    with pytest.raises(SchemaError, match="install the package again"):
        spec_folder()
    (tmp_path / "spec" / "v1" / "schema").mkdir(parents=True)
    assert spec_folder() == tmp_path / "spec"
    spec_folder.cache_clear()
    (tmp_path / "package" / "spec" / "v1" / "schema").mkdir(parents=True)
    assert spec_folder() == tmp_path / "package" / "spec"  # a wheel's own comes before a stranger's
    spec_folder.cache_clear()


def test_a_schema_split_over_files_is_read_whole(survey_folder):
    assert load_schema_file(survey_folder / "alert.avsc") == {
        **whole_survey(),
        "fields": [
            SURVEY["fields"][0],
            {
                "name": "source",
                "type": {
                    **SOURCE,
                    "fields": [
                        SOURCE["fields"][0],
                        {"name": "band", "type": {**BAND, "namespace": "survey.alert"}},
                    ],
                },
            },
            SURVEY["fields"][2],
        ],
    }


def test_attributes_and_their_order_stay(survey_folder):
    loaded = load_schema_file(survey_folder / "alert.avsc")
    assert list(loaded) == list(SURVEY)
    assert list(loaded["fields"][0]) == ["name", "type", "doc", "ucd"]


def test_a_type_that_no_file_defines_is_named(survey_folder):
    (survey_folder / "band.avsc").unlink()
    with pytest.raises(SchemaError, match=r"survey\.alert\.band is not defined") as caught:
        load_schema_file(survey_folder / "alert.avsc")
    assert caught.value.where.startswith("alert.avsc")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '"string"', '{"type": "array", "items": "int"}', "[" * 100_000]
)
def test_what_is_not_a_record_schema_is_refused(tmp_path, text):
    (tmp_path / "a.avsc").write_text(text)
    with pytest.raises(SchemaError):
        load_schema_file(tmp_path / "a.avsc")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SchemaError, match="No such file"):
        load_schema_file(tmp_path / "a.avsc")


def test_the_embedded_field_is_last_optional_and_the_rest_untouched():
    before = whole_survey()
    embedded = embed_cutout(before)
    assert embedded["fields"][:-1] == before["fields"]
    assert {k: v for k, v in embedded.items() if k != "fields"} == {
        k: v for k, v in before.items() if k != "fields"
    }
    field = embedded["fields"][-1]
    assert (field["name"], field["default"], field["type"][0]) == ("cutoutMultiscale", None, "null")
    assert field["type"][1] == load_schema("multiscale.Cutout")
    assert before == whole_survey()  # the caller's own is not changed
    fastavro.parse_schema(embedded)


def test_an_alert_without_a_cutout_is_one_byte_longer():
    from multiscale.avro import encode_body

    record = {"id": 1, "source": {"flux": 2.0, "band": "g"}, "earlier": None}
    with_field = encode_body(embed_cutout(whole_survey()), record)
    assert with_field == encode_body(whole_survey(), record) + b"\0"


def test_types_of_ours_that_a_survey_has_already_are_referred_to():
    kind = load_schema("multiscale.Kind")
    schema = {**whole_survey(), "fields": [*whole_survey()["fields"], {"name": "kind", "type": kind}]}
    embedded = embed_cutout(schema)
    assert "multiscale.Kind" not in named_types(embedded["fields"][-1]["type"][1])
    fastavro.parse_schema(embedded)


def test_a_survey_that_refers_to_our_whole_cutout_elsewhere():
    cutout = load_schema("multiscale.Cutout")
    schema = {**whole_survey(), "fields": [*whole_survey()["fields"], {"name": "own", "type": cutout}]}
    assert embed_cutout(schema)["fields"][-1]["type"] == ["null", "multiscale.Cutout"]


def test_another_doc_does_not_make_another_type():
    kind = {**load_schema("multiscale.Kind"), "doc": "in other words"}
    embed_cutout({**whole_survey(), "fields": [{"name": "kind", "type": kind}]})


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (BAND, "a record"),
        (["null", SURVEY], "a record"),
        ("string", "a record"),
        (embed_cutout(whole_survey()), "none yet"),
        (load_schema("multiscale.Cutout"), "the schema of an alert"),
        (SURVEY, r"survey\.alert\.source is not defined"),
        (
            {
                **SURVEY,
                "fields": [
                    {"name": "k", "type": {"type": "enum", "name": "multiscale.Kind", "symbols": ["A"]}}
                ],
            },
            r"another multiscale\.Kind",
        ),
        ({**SURVEY, "fields": [SURVEY["fields"][0]] * 2}, "two fields id"),
    ],
)
def test_what_cannot_embed_is_refused_with_the_reason(schema, message):
    with pytest.raises(SchemaError, match=message):
        embed_cutout(schema)


@pytest.mark.parametrize(
    ("schema", "expected"),  # from Avro's own schema-tests.txt, as unsigned numbers
    [("null", 0x63DD24E7CC258F8A), ("boolean", 0x9F42FC78A4D4F764), ("int", 0x7275D51A3F395C8F)],
)
def test_fastavros_fingerprint_is_that_of_avro(schema, expected):
    found = fastavro.schema.fingerprint(f'"{schema}"', "CRC-64-AVRO")
    assert bytes.fromhex(found) == expected.to_bytes(8, "little")


def slow_fingerprint(text):
    """CRC-64-AVRO bit by bit, from its definition in the Avro specification."""
    value = 0xC15D213AA4D7A795
    for byte in text.encode():
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xC15D213AA4D7A795 if value & 1 else 0)
    return value.to_bytes(8, "little")


def slow_canonical_form(node, namespace=""):
    """Parsing Canonical Form, from the Avro specification's list of transformations."""
    if isinstance(node, list):
        return "[" + ",".join(slow_canonical_form(n, namespace) for n in node) + "]"
    if isinstance(node, str):
        primitive = node in ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
        return json.dumps(node if primitive or "." in node or not namespace else f"{namespace}.{node}")
    kind = node["type"]
    if kind == "array":
        return '{"type":"array","items":' + slow_canonical_form(node["items"], namespace) + "}"
    if kind == "map":
        return '{"type":"map","values":' + slow_canonical_form(node["values"], namespace) + "}"
    if "name" not in node:
        return json.dumps(kind)
    namespace = node.get("namespace", namespace)
    name = node["name"] if "." in node["name"] or not namespace else f"{namespace}.{node['name']}"
    start = f'{{"name":"{name}","type":"{kind}",'
    if kind == "enum":
        return start + '"symbols":' + json.dumps(node["symbols"], separators=(",", ":")) + "}"
    fields = (
        f'{{"name":"{f["name"]}","type":{slow_canonical_form(f["type"], name.rpartition(".")[0])}}}'
        for f in node["fields"]
    )
    return start + '"fields":[' + ",".join(fields) + "]}"


@pytest.mark.parametrize("name", schema_names())
def test_fingerprints_agree_with_a_slow_version(name):
    schema = load_schema(name)
    assert canonical_form(schema) == slow_canonical_form(schema)
    assert fingerprint(schema) == slow_fingerprint(slow_canonical_form(schema))


def test_docs_and_defaults_do_not_change_the_fingerprint():
    plain = whole_survey()
    other = {**plain, "doc": "other", "fields": [{**f, "doc": "other"} for f in plain["fields"]]}
    assert fingerprint(other) == fingerprint(plain)


def test_a_sound_schema_is_not_touched():
    schema = whole_survey()
    repaired, repairs = repair_schema(schema)
    assert repaired is schema
    assert repairs == []
    for name in schema_names():
        assert repair_schema(load_schema(name))[1] == []


def test_faults_that_surveys_ship_are_repaired_and_said():
    inner = {
        "type": "record",
        "name": "candidate",
        "fields": [
            {"name": "fid", "type": "int", "default": None},
            {"name": "mag", "type": ["float", "null"], "default": None},
            {"name": "mag", "type": "float", "default": "NaN"},
            {"name": "n", "type": {"type": "array", "items": "int"}, "default": {}},
        ],
    }
    schema = {"type": "record", "name": "alert", "fields": [{"name": "c", "type": ["null", inner]}]}
    repaired, repairs = repair_schema(schema)
    assert repairs == [
        "c.[1].fid: default null removed, not of type int",
        "c.[1].mag: a second field of this name, read as mag_2",
        "c.[1].n: default {} removed, not of type array",
    ]
    fields = repaired["fields"][0]["type"][1]["fields"]
    assert [field["name"] for field in fields] == ["fid", "mag", "mag_2", "n"]
    assert [("default" in field) for field in fields] == [False, True, True, False]
    fastavro.parse_schema(repaired)
    with pytest.raises(SchemaError):
        parse(schema)


@pytest.mark.parametrize(
    "schema",
    [
        None,
        7,
        {},
        {"type": "record"},
        {"type": "record", "name": "R"},
        {"type": "record", "name": 3, "fields": []},
        {"type": "record", "name": "R", "fields": [{"name": "a"}]},
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "array"}}]},
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": ["int"]}}]},
        {"type": "record", "name": "R", "fields": "a"},
    ],
)
def test_what_is_not_a_schema_is_refused_everywhere(schema):
    for function in (repair_schema, embed_cutout, fingerprint, parse):
        with pytest.raises(SchemaError):
            function(schema)


def test_a_schema_nested_without_end_is_refused():
    schema = "int"
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    record = {"type": "record", "name": "R", "fields": [{"name": "a", "type": schema}]}
    for function in (repair_schema, embed_cutout, fingerprint, parse):
        with pytest.raises(SchemaError, match="nested deeper"):
            function(record)


def test_importing_the_avro_layer_stays_light():
    script = "import multiscale.avro, sys; print(*sys.modules)"
    root = Path(__file__).parents[1]
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=root)
    assert not {"torch", "astropy", "scipy", "matplotlib", "confluent_kafka"} & set(out.stdout.split())
