"""The Avro schemas of the specification, and the field that other surveys embed (sections 6, 8 and 10).

A schema here is what ``json.loads`` makes of an .avsc file: plain dicts, lists and strings. Nothing
changes one in place.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import fastavro
import fastavro.read
import fastavro.schema

from .errors import SchemaError
from .packet import EMBEDDED_FIELD

Node = Any  # a schema or a part of one: dict, list or str

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
RECORDS = frozenset({"record", "error"})
NAMED = RECORDS | {"enum", "fixed"}
MAX_DEPTH = 64  # of types in types; alerts need ten, and fastavro's compiled reader recurses unguarded
HINTS = ("__fastavro_parsed", "__named_schemas")  # what fastavro leaves in a schema it has parsed
FAULTS = (  # what fastavro raises for a bad schema, bad bytes or a bad value, besides its own classes
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    EOFError,
    MemoryError,
    RecursionError,
    struct.error,
    fastavro.schema.SchemaParseException,
    fastavro.read.SchemaResolutionError,
)


@lru_cache(maxsize=1)
def spec_folder() -> Path:
    """Return the folder of the specification: in the installed package, or beside it in a checkout.

    Raises SchemaError where neither is.
    """
    package = Path(__file__).parent
    folders = (package / "spec", package.parent / "spec")
    for folder in folders:
        if (folder / "v1" / "schema").is_dir():
            return folder
    looked = " and ".join(str(folder) for folder in folders)
    raise SchemaError("schema", f"no v1/schema in {looked}", "the specification; install the package again")


def schema_names() -> list[str]:
    """Return the names of the specification's schemas, sorted: ``multiscale.Alert`` and so on."""
    return sorted(
        path.name.removesuffix(".avsc") for path in (spec_folder() / "v1" / "schema").glob("*.avsc")
    )


def load_schema(name: str) -> dict[str, Any]:
    """Return a schema of the specification, each type it uses defined where it is first used.

    The dict is the caller's own. Raises SchemaError for a name that is not in ``schema_names()``.
    """
    return json.loads(_text(name))


def schema_text(name: str) -> str:
    """Return the same as indented JSON, to show or to register (8.6)."""
    return json.dumps(load_schema(name), indent=2, ensure_ascii=False)


@lru_cache(maxsize=64)
def parsed_schema(name: str) -> dict[str, Any]:
    """Return the same as fastavro takes it without parsing it again. Not to be changed."""
    return parse(load_schema(name))


@lru_cache(maxsize=64)
def _text(name: str) -> str:
    names = schema_names()
    if name not in names:
        raise SchemaError("schema", f"no schema {name!r}", ", ".join(names))
    return json.dumps(load_schema_file(_spec_file(name)))


def _spec_types() -> dict[str, Node]:
    return {name: _load_json(_spec_file(name)) for name in schema_names()}


def _spec_file(name: str) -> Path:
    return spec_folder() / "v1" / "schema" / f"{name}.avsc"


def load_schema_file(path: str | Path) -> dict[str, Any]:
    """Return the record schema in an .avsc file, the types it refers to taken from files beside it.

    A type ``a.b.Name`` that the file does not define is looked for in ``a.b.Name.avsc``, then in
    ``Name.avsc``. Attributes, docs and their order stay as they are. Raises SchemaError.
    """
    path = Path(path)
    schema = _load_json(path)
    if kind_of(schema) not in NAMED:
        raise SchemaError("schema", f"{path.name} holds no named type", "a record", str(path))

    def find(name: str) -> Node | None:
        for stem in dict.fromkeys((name, name.rpartition(".")[2])):
            file = path.with_name(f"{stem}.avsc")
            if file.is_file():
                found = _load_json(file)
                if isinstance(found, dict) and full_name(found) == name:
                    return found if "namespace" in found else {**found, "namespace": name.rpartition(".")[0]}
        return None

    try:
        return complete(schema, find)
    except SchemaError as error:
        raise error.within(path.name) from None


def _load_json(path: Path) -> Node:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SchemaError("schema", error.strerror, "a readable file", str(path)) from None
    except (ValueError, RecursionError) as error:
        raise SchemaError("schema", f"not JSON: {error}", "an Avro schema in JSON", str(path)) from None


def full_name(schema: Node, namespace: str = "") -> str:
    """Return the full name of a named type or of a reference, as seen from inside ``namespace``."""
    name = schema.get("name", "") if isinstance(schema, Mapping) else schema
    if isinstance(schema, Mapping):
        namespace = schema.get("namespace", namespace)
    if not isinstance(name, str) or not isinstance(namespace, str):
        raise SchemaError("schema", f"name {name!r} in namespace {namespace!r}", "two strings")
    return name if "." in name or not namespace else f"{namespace}.{name}"


def kind_of(node: Node) -> str:
    """Return the ``type`` of a schema that is a dict; an empty string for anything else."""
    kind = node.get("type") if isinstance(node, Mapping) else None
    return kind if isinstance(kind, str) else ""


def parts(node: Node, namespace: str) -> Iterator[tuple[str, Node, str]]:
    """Yield (place, schema, namespace there) for each schema directly inside ``node``.

    Raises SchemaError for a node that is not an Avro schema.
    """
    if isinstance(node, list):
        for i, branch in enumerate(node):
            yield f"[{i}]", branch, namespace
        return
    if isinstance(node, str):
        return
    kind = kind_of(node)
    if kind in RECORDS:
        inner = full_name(node, namespace).rpartition(".")[0]
        fields = node.get("fields")
        if not isinstance(fields, list):
            raise SchemaError("schema", f"fields {fields!r:.60}", "a list of fields")
        for field in fields:
            if (
                not isinstance(field, Mapping)
                or not isinstance(field.get("name"), str)
                or "type" not in field
            ):
                raise SchemaError("schema", f"field {field!r:.60}", "a name and a type")
            yield field["name"], field["type"], inner
    elif kind == "array" or kind == "map":
        part = "items" if kind == "array" else "values"
        if part not in node:
            raise SchemaError("schema", f"{kind} without {part}", part)
        yield "[]", node[part], namespace
    elif kind not in NAMED and kind not in PRIMITIVES:
        found = node.get("type") if isinstance(node, Mapping) else node
        raise SchemaError("schema", f"type {found!r:.60}", "an Avro type")


def named_types(schema: Node) -> dict[str, Node]:
    """Return every named type that ``schema`` defines, by full name, in the order they appear.

    Raises SchemaError for a type or a field of a record that is defined twice, and where types nest deeper
    than ``MAX_DEPTH``.
    """
    found: dict[str, Node] = {}

    def walk(node: Node, namespace: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise SchemaError("schema", f"types nested deeper than {MAX_DEPTH}", "fewer")
        if kind_of(node) in NAMED:
            name = full_name(node, namespace)
            if name in found:
                raise SchemaError("schema", f"{name} defined twice", "one definition")
            found[name] = node
            _refuse_twins(node)
        for place, part, inner in parts(node, namespace):
            try:
                walk(part, inner, depth + 1)
            except SchemaError as error:
                raise error.within(place) from None

    walk(schema, "", 0)
    return found


def _refuse_twins(node: Node) -> None:
    names = [
        field["name"] for field in node.get("fields", ()) if isinstance(field, Mapping) and "name" in field
    ]
    for name in names:
        if names.count(name) > 1:
            raise SchemaError("schema", f"two fields {name}", "one field of a name")


def complete(schema: Node, find: Callable[[str], Node | None]) -> Node:
    """Return ``schema`` with each type that it refers to and does not define put where it is first used.

    ``find`` gives a type by its full name, or None. Raises SchemaError for a name that nobody knows.
    """
    own = set(named_types(schema))

    def walk(node: Node, namespace: str) -> Node:
        if isinstance(node, str):
            name = full_name(node, namespace)
            if node in PRIMITIVES or name in own:
                return node
            found = find(name)
            if found is None:
                raise SchemaError(
                    "schema", f"type {name} is not defined", "a definition, or a file of that name"
                )
            own.update(named_types(found))
            return walk(found, "")
        if isinstance(node, list):
            return [walk(branch, namespace) for branch in node]
        inner = [walk(part, there) for _, part, there in parts(node, namespace)]
        if node["type"] in RECORDS:
            return {**node, "fields": [{**f, "type": t} for f, t in zip(node["fields"], inner)]}
        return _with_part(node, inner)

    return walk(schema, "")


def embed_cutout(schema: Node) -> dict[str, Any]:
    """Return a survey's alert schema with ``cutoutMultiscale`` appended as its last field (6.7).

    Everything of the survey's own stays as it is. A ``multiscale`` type that the schema already defines is
    referred to. Raises SchemaError for what is not a record, has the field already, or defines a
    ``multiscale`` type that is not ours.
    """
    if kind_of(schema) not in RECORDS:
        raise SchemaError("schema", f"{schema!r:.60}", "a record: the alert's own schema")
    theirs = named_types(schema)
    if any(field["name"] == EMBEDDED_FIELD for field in schema["fields"]):
        raise SchemaError(
            "schema", f"a field {EMBEDDED_FIELD}", "a schema that has none yet", full_name(schema)
        )
    if full_name(schema) == "multiscale.Cutout":
        raise SchemaError("schema", "multiscale.Cutout", "the schema of an alert")
    ours = _spec_types()
    for name in ours.keys() & theirs.keys():
        if _shape(ours[name], name) != _shape(theirs[name], name):
            raise SchemaError("schema", f"another {name}", "that of the specification, or another name", name)
    field = {
        "name": EMBEDDED_FIELD,
        "type": ["null", "multiscale.Cutout"],
        "default": None,
        "doc": "Multi-scale cutout of this alert (multiscale specification 1.0, clause 6.7).",
    }
    own = {key: value for key, value in schema.items() if key not in HINTS}
    return complete({**own, "fields": [*schema["fields"], field]}, ours.get)


def _shape(node: Node, name: str) -> Node:
    """Return what makes two definitions of the named type ``name`` the same: all but docs."""

    def short(part: Node, namespace: str) -> Node:
        if isinstance(part, str):
            return part if part in PRIMITIVES else full_name(part, namespace)
        if isinstance(part, list):
            return [short(branch, namespace) for branch in part]
        if part["type"] in NAMED:
            return full_name(part, namespace)  # compared by itself
        return [part["type"], *(short(inner, there) for _, inner, there in parts(part, namespace))]

    namespace = name.rpartition(".")[0]
    own = {key: node[key] for key in ("type", "symbols", "size", "default") if key in node}
    types = [(place, short(part, there)) for place, part, there in parts({**node, "name": name}, namespace)]
    return (
        own,
        types,
        [{k: v for k, v in f.items() if k not in ("doc", "type")} for f in node.get("fields", ())],
    )


def parse(schema: Node) -> dict[str, Any]:
    """Return a record schema as fastavro takes it. Raises SchemaError for what it does not take."""
    if kind_of(schema) not in NAMED:
        raise SchemaError("schema", f"{schema!r:.60}", "a record")
    named_types(schema)  # bounds the depth before compiled code recurses
    try:
        return fastavro.parse_schema(dict(schema))  # type: ignore[return-value]
    except FAULTS as error:
        raise SchemaError("schema", f"{type(error).__name__}: {error!s:.200}", "an Avro schema") from None


def canonical_form(schema: Node) -> str:
    """Return the Parsing Canonical Form, for fingerprints only: it has no defaults (8.6)."""
    return fastavro.schema.to_parsing_canonical_form(parse(schema))


def fingerprint(schema: Node) -> bytes:
    """Return the CRC-64-AVRO of the Parsing Canonical Form: 8 bytes, little-endian (8.2)."""
    return bytes.fromhex(fastavro.schema.fingerprint(canonical_form(schema), "CRC-64-AVRO"))


def repair_schema(schema: Node) -> tuple[Node, list[str]]:
    """Return ``schema`` with known faults of surveys mended, and a sentence for each; itself without any.

    Defaults that are no value of their field's type are removed (some surveys give fields of type int the
    default null, which fastavro and Java refuse); a second field of the same name gets ``_2`` appended. The
    writer's defaults and names play no part in reading its data, which are as good as with a sound schema.
    Raises SchemaError for what is not a schema.
    """
    repairs: list[str] = []

    def walk(node: Node, namespace: str, where: str, depth: int) -> Node:
        if isinstance(node, str):
            return node
        if depth > MAX_DEPTH:
            raise SchemaError("schema", f"types nested deeper than {MAX_DEPTH}", "fewer")
        inside = [(f"{where}.{p}".lstrip("."), part, there) for p, part, there in parts(node, namespace)]
        inner = [walk(part, there, place, depth + 1) for place, part, there in inside]
        if isinstance(node, list):
            return inner
        if node["type"] not in RECORDS:
            return _with_part(node, inner)
        fields: dict[str, Node] = {}
        for field, new, (place, _, _) in zip(node["fields"], inner, inside):
            mended = {**field, "type": new}
            if "default" in field and not _fits(field["default"], field["type"]):
                default = json.dumps(mended.pop("default"))
                repairs.append(f"{place}: default {default} removed, not of type {_kind(field['type'])}")
            while mended["name"] in fields:
                mended["name"] += "_2"
            if mended["name"] != field["name"]:
                repairs.append(f"{place}: a second field of this name, read as {mended['name']}")
            fields[mended["name"]] = mended
        return {**node, "fields": list(fields.values())}

    repaired = walk(schema, "", "", 0)
    return (repaired if repairs else schema), repairs


def _fits(default: Any, kind: Node) -> bool:
    """Return whether fastavro takes ``default`` for a field of type ``kind``: a union's branch will do."""
    if isinstance(kind, list):
        return any(_fits(default, branch) for branch in kind)
    name = kind["type"] if isinstance(kind, Mapping) else kind
    if name in ("float", "double"):
        return isinstance(default, int | float) or default in ("NaN", "Infinity", "-Infinity")
    expected: dict[str, type] = {
        "null": type(None),
        "boolean": bool,
        "int": int,
        "long": int,
        "bytes": str,
        "string": str,
        "fixed": str,
        "enum": str,
        "array": list,
        "map": dict,
        "record": dict,
        "error": dict,
    }
    return isinstance(default, expected.get(name, object))


def _kind(kind: Node) -> str:
    if isinstance(kind, list):
        return "[" + ", ".join(map(_kind, kind)) + "]"
    return str(kind["type"] if isinstance(kind, Mapping) else kind)


def _with_part(node: Mapping[str, Any], inner: list[Node]) -> Node:
    """Return an array or map with another item type; anything else that is not a record as it is."""
    part = {"array": "items", "map": "values"}.get(node["type"])
    return {**node, part: inner[0]} if part else node
