"""The models and the Avro schemas agree, field for field, in both directions (specification, section 6)."""

import inspect
import io
import json
import types
import typing
from pathlib import Path

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticUndefined

from multiscale import cutout, packet
from multiscale.packet import EMBEDDED_FIELD, Alert
from multiscale.record import Record
from multiscale.schema import embed_cutout, load_schema, spec_folder

pytestmark = pytest.mark.filterwarnings("error")

FOLDER = Path(__file__).parents[1] / "spec" / "v1" / "schema"
SCHEMAS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.avsc")}
RECORDS = {name: schema for name, schema in SCHEMAS.items() if schema["type"] == "record"}
ENUMS = {name: schema for name, schema in SCHEMAS.items() if schema["type"] == "enum"}
MODELS = {
    f"multiscale.{model.__name__}": model
    for module in (cutout, packet)
    for model in vars(module).values()
    if inspect.isclass(model) and issubclass(model, Record) and model is not Record
}
LITERALS = {
    f"multiscale.{name}": value
    for module in (cutout, packet)
    for name, value in vars(module).items()
    if typing.get_origin(value) is typing.Literal
}
PRIMITIVES = {
    "boolean": bool, "int": int, "long": int, "float": float, "double": float, "string": str, "bytes": bytes
}  # fmt: skip


def in_python(schema):
    """The Python type of an Avro type, as the models spell it."""
    if isinstance(schema, list):
        parts = [None if branch == "null" else in_python(branch) for branch in schema]
        return typing.Union[tuple(parts)]  # noqa: UP007
    if isinstance(schema, dict):
        if schema["type"] == "array":
            return tuple[in_python(schema["items"]), ...]
        assert schema["type"] == "map"
        return dict[str, in_python(schema["values"])]
    return PRIMITIVES.get(schema) or MODELS.get(schema) or LITERALS[schema]


def plain(annotation):
    """An annotation with every union spelt the same way."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return frozenset(plain(argument) for argument in arguments)
    if origin in (tuple, dict):
        return (origin, *(plain(argument) for argument in arguments))
    return annotation


def field_default(field):
    if field.default_factory is not None:
        return field.default_factory()
    return list(field.default) if isinstance(field.default, tuple) else field.default


def test_every_schema_has_a_model_and_every_model_a_schema():
    assert set(MODELS) == set(RECORDS)
    assert set(LITERALS) == set(ENUMS)
    assert len(RECORDS) == 14
    assert {path.stem for path in FOLDER.glob("*.avsc")} == {
        f"{schema['namespace']}.{schema['name']}" for schema in SCHEMAS.values()
    }


@pytest.mark.parametrize("name", sorted(ENUMS))
def test_symbols_are_the_same_in_the_same_order(name):
    assert list(typing.get_args(LITERALS[name])) == ENUMS[name]["symbols"]
    assert ENUMS[name]["default"] == ENUMS[name]["symbols"][0] == "UNKNOWN"


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_fields_have_the_same_names_in_the_same_order(name):
    model, schema = MODELS[name], RECORDS[name]
    wire = [field["name"] for field in schema["fields"]]
    assert [field.alias for field in model.model_fields.values()] == wire
    assert [to_camel(field) for field in model.model_fields] == wire


def own_type(annotation, schema):
    """The annotation of a field, the model's own class for what a schema refers to by name."""
    return plain(annotation) == plain(in_python(schema))


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_fields_have_the_same_types(name):
    hints = typing.get_type_hints(MODELS[name])
    for field, (python_name, model_field) in zip(
        RECORDS[name]["fields"], MODELS[name].model_fields.items(), strict=True
    ):
        assert own_type(hints[python_name], field["type"]), (field["name"], hints[python_name], field["type"])
        assert own_type(model_field.annotation, field["type"])


# What the models fill in for a writer, though every packet must hold it.
FILLED_IN = {
    ("Alert", "specVersion"): "1.0",
    ("Cutout", "specVersion"): "1.0",
    ("Cutout", "clippedBy"): "UNKNOWN",
}


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_fields_have_the_same_defaults(name):
    for field, model_field in zip(RECORDS[name]["fields"], MODELS[name].model_fields.values(), strict=True):
        key = (RECORDS[name]["name"], field["name"])
        if key in FILLED_IN:
            assert "default" not in field
            assert field_default(model_field) == FILLED_IN[key]
        elif "default" in field:
            assert field_default(model_field) == field["default"], key
            assert type(field_default(model_field)) is type(field["default"]), key
        else:
            assert model_field.is_required(), key
            assert model_field.default is PydanticUndefined, key


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_union_has_null_first_and_a_null_default(name):
    for field in RECORDS[name]["fields"]:
        if isinstance(field["type"], list):
            assert field["type"][0] == "null"
            assert field["default"] is None


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_part_of_a_schema_is_explained(name):
    schema = SCHEMAS[name]
    assert schema["doc"]
    assert all(field["doc"] for field in schema.get("fields", ()))


def test_the_cutout_is_the_last_field_of_an_alert():
    assert [field["name"] for field in SCHEMAS["multiscale.Alert"]["fields"]][-1] == "cutout"
    assert list(Alert.model_fields)[-1] == "cutout"


def test_the_field_that_others_embed_is_that_of_clause_6_7():
    own = {"type": "record", "name": "theirs.Alert", "fields": [{"name": "candid", "type": "long"}]}
    *_, last = embed_cutout(own)["fields"]
    assert last["name"] == EMBEDDED_FIELD == "cutoutMultiscale"
    assert last["type"][0] == "null"
    assert last["default"] is None


def test_the_schemas_of_the_package_are_those_of_the_specification():
    assert (spec_folder() / "v1" / "schema").resolve() == FOLDER.resolve()


# --- through Avro -------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
FLOAT = st.floats(width=32, allow_nan=False)
VALUES = {
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": FLOAT,
    "double": st.floats(allow_nan=False),
    "string": TEXT,
    "bytes": st.binary(max_size=20),
    "null": st.none(),
}
# A union of numbers does not say which of them a value was: 1.0 may be read where 1 was written.
UNION_OF_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), TEXT, st.just(0.5))


def values_of(schema):
    """Any value of an Avro type, as a reader gives it."""
    if isinstance(schema, list):
        if "long" in schema and "double" in schema:
            return UNION_OF_SCALARS
        return st.one_of([values_of(branch) for branch in schema])
    if isinstance(schema, dict):
        if schema["type"] == "array":
            return st.lists(values_of(schema["items"]), max_size=1 if schema["items"] in RECORDS else 2)
        return st.dictionaries(TEXT, values_of(schema["values"]), max_size=2)
    if schema in ENUMS:
        return st.sampled_from(ENUMS[schema]["symbols"])
    if schema in RECORDS:
        return records_of(schema)
    return VALUES[schema]


def records_of(name):
    if name == "multiscale.Cutout":  # not any value: what a cutout may hold is in tests/test_cutout.py
        return st.just(CUTOUT)
    return st.fixed_dictionaries(
        {field["name"]: values_of(field["type"]) for field in RECORDS[name]["fields"]}
    )


CUTOUT = {
    "specVersion": "1.0", "size": 4, "nLevels": 1, "pixelScale": 1.0, "dx": None, "dy": None, "sky": None,
    "clipped": {"xLow": 0, "xHigh": 0, "yLow": 0, "yHigh": 0}, "clippedBy": "UNKNOWN",
    "planes": [], "missing": [],
}  # fmt: skip


def listed(value):
    """Records with lists, as a reader gives them, for the tuples of the models."""
    if isinstance(value, dict):
        return {name: listed(item) for name, item in value.items()}
    return [listed(item) for item in value] if isinstance(value, list | tuple) else value


def through_avro(name, record):
    schema = fastavro.parse_schema(load_schema(name))
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, record, strict=True)
    stream.seek(0)
    return fastavro.schemaless_reader(stream, schema, None)


@pytest.mark.parametrize("name", sorted(RECORDS))
@given(st.data())
def test_every_record_survives_the_model_and_avro(name, data):
    record = data.draw(records_of(name))
    if name == "multiscale.Alert":
        record["specVersion"] = "1.0"
    model = MODELS[name].from_record(record)
    assert listed(model.to_record()) == record
    read = through_avro(name, model.to_record())
    assert read == record
    again = MODELS[name].from_record(read)
    assert again == model
    assert repr(again) == repr(model)


@pytest.mark.parametrize("name", sorted(RECORDS))
@given(st.data())
def test_a_record_of_required_fields_alone_gets_the_defaults_of_the_schema(name, data):
    fields = RECORDS[name]["fields"]
    record = {f["name"]: data.draw(values_of(f["type"])) for f in fields if "default" not in f}
    if "specVersion" in record:
        record["specVersion"] = "1.0"
    if name == "multiscale.Cutout":
        record = {f["name"]: CUTOUT[f["name"]] for f in fields if "default" not in f}
    found = listed(MODELS[name].from_record(record).to_record())
    assert found == {**record, **{f["name"]: f["default"] for f in fields if "default" in f}}
    assert list(found) == [f["name"] for f in fields]


@given(st.data())
def test_defaults_that_can_change_are_not_shared(data):
    name = data.draw(st.sampled_from(["multiscale.Alert", "multiscale.CrossMatch"]))
    required = {
        f["name"]: data.draw(values_of(f["type"])) for f in RECORDS[name]["fields"] if "default" not in f
    }
    required |= {"specVersion": "1.0"} if "specVersion" in required else {}
    first, second = MODELS[name].from_record(required), MODELS[name].from_record(required)
    first.properties["a"] = 1
    assert second.properties == {}


@pytest.mark.parametrize("value", [True, False, 0, 1, 2**62, 0.5, -1e300, "", "1", None])
def test_a_property_keeps_its_type(value):
    record = {"catalog": "c", "sourceId": "s", "properties": {"key": value}}
    read = through_avro("multiscale.CrossMatch", packet.CrossMatch.from_record(record).to_record())
    found = packet.CrossMatch.from_record(read).properties["key"]
    assert (found, type(found)) == (value, type(value))
