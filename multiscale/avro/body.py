"""One record as Avro bytes, without a frame: what every reader and writer of section 8 shares.

fastavro's compiled reader does the work, or one made for the schema where that can (compiled.py). What
both lack is settled here once for each schema, not for each message: whether a few bytes could become
endless values, or recursion without end. Measured with fastavro 1.13: 7 bytes that claim an array of 2^40
nulls fill 3 GB in 15 s, a million bytes of a type that contains itself end the process, and union or enum
index -1 is taken for the last.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from typing import Any

import fastavro
import fastavro.validation

from ..errors import RecordError, SchemaError, StampError, WireError
from ..evolution import compatible_reader
from ..schema import (
    FAULTS,
    HINTS,
    MAX_DEPTH,
    NAMED,
    PRIMITIVES,
    RECORDS,
    Node,
    fingerprint,
    full_name,
    kind_of,
    named_types,
    parse,
    parts,
)
from .compiled import Reader, compile_reader

MEMORY = 2 << 30  # bytes that the values of one message or block may take once decoded
_MAX_FIXED = 1 << 20  # bytes of values that may be made from no bytes at all, or from a fixed few


@dataclass(frozen=True)
class _Cost:
    """A value written in b bytes, b >= least, takes at most fixed + b * per_byte bytes of memory."""

    least: int
    fixed: float
    per_byte: float


_PRIMITIVE_COST = {  # CPython's object sizes; the reference to the value is counted where it is kept
    "null": _Cost(0, 0, 0),
    "boolean": _Cost(1, 0, 0),
    "int": _Cost(1, 0, 32),
    "long": _Cost(1, 0, 32),
    "float": _Cost(4, 0, 6),
    "double": _Cost(8, 0, 3),
    "bytes": _Cost(1, 0, 20),
    "string": _Cost(1, 0, 32),
}
_LIST_ITEM, _DICT_ITEM = 16, 160  # with the room that growing leaves


@dataclass(frozen=True, eq=False)
class Schema:
    """A record schema made ready: reads and writes bodies without looking at the schema again.

    ``json`` is the schema as given, ``max_bytes`` the longest body or block that is read with it. Functions
    that take a schema take one of these or the plain dict; ``Schema.of`` keeps the latest ones it made, so
    a dict must not be changed after its first use.
    """

    json: Mapping[str, Any]
    name: str
    max_bytes: int
    _plan: dict[str, Any]

    @classmethod
    def of(cls, schema: AnySchema) -> Schema:
        """Return ``schema`` made ready. Raises SchemaError for one that is not fit to read with.

        Not fit: what is not a record, a type that contains itself, an array of values of no bytes, and a
        record that takes no bytes, because no length of a message would bound what they decode to.
        """
        if isinstance(schema, Schema):
            return schema
        ready = _ready.get(id(schema))
        if ready is None or ready.json is not schema:  # alive in the Schema, so the id is no other's
            ready = make_ready(schema)
            for oldest in list(_ready)[: len(_ready) - 63]:
                _ready.pop(oldest, None)
            _ready[id(schema)] = ready
        return ready

    def plain_json(self) -> dict[str, Any]:
        """Return the schema without what fastavro leaves in one that it has parsed."""
        return {key: value for key, value in self.json.items() if key not in HINTS}

    @cached_property
    def parsed(self) -> dict[str, Any]:
        """The schema as fastavro's writer takes it."""
        return parse(self.json)

    @cached_property
    def reader(self) -> Reader | None:
        """A function made for this schema, which reads faster than fastavro; None for a very long one."""
        text = json.dumps(self.plain_json(), default=repr)
        if text not in _readers:  # files of a night repeat their schema, each in its own object
            for oldest in list(_readers)[: len(_readers) - 63]:
                _readers.pop(oldest, None)
            _readers[text] = compile_reader(self._plan)
        return _readers[text]

    @cached_property
    def fingerprint(self) -> bytes:
        """CRC-64-AVRO of the Parsing Canonical Form: 8 bytes, little-endian."""
        return fingerprint(self.json)


AnySchema = Schema | Mapping[str, Any]
_ready: dict[int, Schema] = {}
_readers: dict[str, Reader | None] = {}


def make_ready(schema: Any) -> Schema:
    """Return what ``Schema.of`` would, without keeping it. Raises SchemaError."""
    if kind_of(schema) not in RECORDS:
        raise SchemaError("schema", f"{schema!r:.60}", "a record")
    named_types(schema)  # bounds the depth
    plan, cost = _Planner().plan(schema, "", 0)
    if cost.least == 0:
        raise SchemaError("schema", f"{full_name(schema)} takes no bytes", "a record of at least one byte")
    max_bytes = int((MEMORY - cost.fixed) / max(cost.per_byte, 1))
    # These two keys tell fastavro that there is nothing to parse; the plan holds no names to look up.
    plan = {**plan, "__fastavro_parsed": True, "__named_schemas": {}}
    return Schema(schema, full_name(schema), max_bytes, plan)


class _Planner:
    """Turns a schema into the form that the reader walks, and bounds what its values may take.

    In that form a name is replaced by its type, and the branches of a union and the symbols of an enum are
    looked up by number, so that a negative number is an error and not the last of them. Logical types are
    left out: a record holds the numbers and bytes that were sent, dates included.
    """

    def __init__(self) -> None:
        self.done: dict[str, tuple[Node, _Cost] | None] = {}  # None: being planned

    def plan(self, node: Node, namespace: str, depth: int) -> tuple[Node, _Cost]:
        if depth > MAX_DEPTH:
            raise SchemaError("schema", f"types nested deeper than {MAX_DEPTH}", "fewer")
        if isinstance(node, str) and node in PRIMITIVES:
            return node, _PRIMITIVE_COST[node]
        if isinstance(node, str):
            return self.known(full_name(node, namespace))
        inner = []
        for place, part, there in parts(node, namespace):
            if kind_of(node) in RECORDS:
                self.done.setdefault(full_name(node, namespace), None)
            try:
                inner.append(self.plan(part, there, depth + 1))
            except SchemaError as error:
                raise error.within(place) from None
        if isinstance(node, list):
            return self.union(inner)
        if node["type"] in PRIMITIVES:
            return node["type"], _PRIMITIVE_COST[node["type"]]
        planned = getattr(self, node["type"].replace("error", "record"))(node, inner)
        if planned[1].fixed > _MAX_FIXED:
            raise SchemaError(
                "schema", f"a type of which one value takes {planned[1].fixed:.0f} bytes", "less"
            )
        if node["type"] in NAMED:
            self.done[full_name(node, namespace)] = planned
        return planned

    def known(self, name: str) -> tuple[Node, _Cost]:
        if name not in self.done:
            raise SchemaError("schema", f"type {name} is not defined", "a definition before its first use")
        planned = self.done[name]
        if planned is None:
            raise SchemaError("schema", f"{name} contains itself", "a type of bounded depth")
        return planned

    def union(self, inner: list[tuple[Node, _Cost]]) -> tuple[Node, _Cost]:
        if not inner:
            raise SchemaError("schema", "a union of nothing", "at least one branch")
        costs = [cost for _, cost in inner]
        most = _Cost(
            1 + min(c.least for c in costs), max(c.fixed for c in costs), max(c.per_byte for c in costs)
        )
        return {"type": "union", **dict(enumerate(form for form, _ in inner))}, most

    def record(self, node: Mapping[str, Any], inner: list[tuple[Node, _Cost]]) -> tuple[Node, _Cost]:
        names = [field["name"] for field in node["fields"]]
        fields = [{"name": name, "type": form} for name, (form, _) in zip(names, inner)]
        costs = [cost for _, cost in inner]
        own = sys.getsizeof(dict.fromkeys(names)) + 16
        cost = _Cost(
            sum(c.least for c in costs),
            own + sum(c.fixed for c in costs),
            max((c.per_byte for c in costs), default=0),
        )
        return {"type": "record", "fields": fields}, cost

    def array(self, node: Mapping[str, Any], inner: list[tuple[Node, _Cost]]) -> tuple[Node, _Cost]:
        [(form, item)] = inner
        if item.least == 0:
            raise SchemaError("schema", "an array of items that take no bytes", "items of at least one byte")
        per_byte = item.per_byte + (_LIST_ITEM + item.fixed) / item.least
        return {"type": "array", "items": form}, _Cost(1, 72, per_byte)

    def map(self, node: Mapping[str, Any], inner: list[tuple[Node, _Cost]]) -> tuple[Node, _Cost]:
        [(form, value)] = inner
        per_byte = max(value.per_byte, 32) + (_DICT_ITEM + value.fixed) / (1 + value.least)
        return {"type": "map", "values": form}, _Cost(1, 80, per_byte)

    def enum(self, node: Mapping[str, Any], _: list[tuple[Node, _Cost]]) -> tuple[Node, _Cost]:
        symbols = node.get("symbols")
        if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
            raise SchemaError("schema", f"symbols {symbols!r:.60}", "a list of strings")
        return {"type": "enum", "symbols": dict(enumerate(symbols))}, _Cost(1, 0, 0)

    def fixed(self, node: Mapping[str, Any], _: list[tuple[Node, _Cost]]) -> tuple[Node, _Cost]:
        size = node.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= sys.maxsize:
            raise SchemaError("schema", f"size {size!r}", "a number of bytes")
        return {"type": "fixed", "size": size}, _Cost(size, 40, 1)


def decode_body(
    schema: AnySchema, body: bytes, *, reader_schema: AnySchema | None = None, start: int = 0
) -> dict[str, Any]:
    """Return the record in ``body[start:]``, written with ``schema``: the writer's own (8.5).

    With ``reader_schema`` the record is resolved to that schema as Avro says; a field that the writer did
    not have is its default, the same object in every record. Raises WireError for a body that is not one
    whole record and nothing after it (8.4), SchemaError where a schema is not fit or the two do not match.
    """
    ready = Schema.of(schema)
    record, end = decode_part(ready, body, start)
    if end != len(body):
        raise WireError("trailing-bytes", f"{len(body) - end} bytes after the record", "none")
    return record if reader_schema is None else resolve(ready, Schema.of(reader_schema), body, start, record)


def decode_part(schema: Schema, body: bytes, start: int) -> tuple[dict[str, Any], int]:
    """Return the record that begins at byte ``start``, and where it ends. Raises WireError."""
    if len(body) > schema.max_bytes:
        raise WireError("limit", f"{len(body)} bytes", f"at most {schema.max_bytes} of {schema.name}")
    if schema.reader is not None and type(body) is bytes:
        try:
            return schema.reader(body, start, len(body))
        except FAULTS:
            pass  # fastavro says what is wrong, and where
    stream = BytesIO(body)
    stream.seek(start)
    try:
        return fastavro.schemaless_reader(stream, schema._plan), stream.tell()  # type: ignore[return-value]
    except FAULTS as error:
        raise WireError("avro", f"{_what(error)}, at byte {stream.tell()}", f"a {schema.name}") from None


def _what(error: BaseException) -> str:
    if isinstance(error, EOFError | IndexError):
        return "a body that ends early"
    if isinstance(error, KeyError):  # the numbers that the plan knows are 0 and up
        return f"number {error} of a union's branches or an enum's symbols"
    if isinstance(error, UnicodeDecodeError):
        return "a string that is not UTF-8"
    return f"{type(error).__name__}: {error!s:.120}"


@lru_cache(maxsize=64)  # a Schema is known by its identity
def check_resolution(writer: Schema, reader: Schema) -> tuple[Node, Node]:
    """Return both schemas in the form that fastavro resolves with. Raises SchemaError unless they match."""
    for trouble in compatible_reader(writer.json, reader.json):
        raise SchemaError("schema", trouble.message, f"a schema that reads {writer.name}", trouble.path)
    return _resolvable(writer.json), _resolvable(reader.json)


def resolve(
    writer: Schema, reader: Schema, body: bytes, start: int, record: dict[str, Any]
) -> dict[str, Any]:
    """Return ``record``, which ``decode_part`` found at byte ``start``, as ``reader`` sees it.

    It is read again: fastavro resolves as it reads, and then does not notice a body that breaks off inside
    a field that the reader skips. Raises WireError, SchemaError.
    """
    writer_form, reader_form = check_resolution(writer, reader)
    if writer._plan == reader._plan:
        return record
    stream = BytesIO(body)
    stream.seek(start)
    try:
        return fastavro.schemaless_reader(stream, writer_form, reader_form)  # type: ignore[return-value]
    except FAULTS as error:
        raise WireError("schema", f"{type(error).__name__}: {error!s:.120}", f"a {reader.name}") from None


def _resolvable(schema: Node) -> Node:
    """Return a schema in the form that fastavro resolves with, each name replaced by its type."""
    made: dict[str, Node] = {}

    def form(node: Node, namespace: str) -> Node:
        if isinstance(node, str):
            return node if node in PRIMITIVES else made[full_name(node, namespace)]
        inner = [form(part, there) for _, part, there in parts(node, namespace)]
        if isinstance(node, list):
            return inner
        if node["type"] in PRIMITIVES:
            return node["type"]
        if node["type"] not in NAMED:
            return {"type": node["type"], "items" if node["type"] == "array" else "values": inner[0]}
        name = full_name(node, namespace)
        made[name] = {k: node[k] for k in ("type", "symbols", "default", "size", "aliases") if k in node}
        made[name]["name"] = name
        if node["type"] in RECORDS:
            made[name]["fields"] = [
                {k: _default(v, kind) if k == "default" else v for k, v in field.items() if k != "doc"}
                | {"type": kind}
                for field, kind in zip(node["fields"], inner)
            ]
        return made[name]

    return {**form(schema, ""), "__fastavro_parsed": True, "__named_schemas": {}}


def _default(default: Any, kind: Node) -> Any:
    """Return a default as Python: bytes stand in JSON as the string of the same code points."""
    kinds = [
        part["type"] if isinstance(part, dict) else part
        for part in (kind if isinstance(kind, list) else [kind])
    ]
    is_bytes = isinstance(default, str) and {"bytes", "fixed"} & set(kinds) and "string" not in kinds
    return default.encode("latin-1") if is_bytes else default


def encode_body(schema: AnySchema, record: Mapping[str, Any]) -> bytes:
    """Return ``record`` as Avro bytes; a field that is absent takes its default.

    Raises RecordError, naming the field, for a value that the schema cannot hold, and for a field that the
    schema does not have: left out silently, it would be lost.
    """
    ready = Schema.of(schema)
    parsed = ready.parsed
    out = BytesIO()
    try:
        fastavro.schemaless_writer(out, parsed, record, strict_allow_default=True)
    except FAULTS as error:
        raise _blame(ready, record, error) from None
    return out.getvalue()


def _blame(schema: Schema, record: Any, error: BaseException) -> StampError:
    """Return which field it was. fastavro's writer says only what."""
    try:
        fastavro.validation.validate(record, schema.parsed, raise_errors=True)
    except fastavro.validation.ValidationError as invalid:
        first = invalid.errors[-1]
        where = (first.field or "").removeprefix(schema.name).lstrip(".")
        kind = first.schema.get("type") if isinstance(first.schema, dict) else first.schema
        return RecordError("record", f"{first.datum!r:.60}", str(kind)[:120], where)
    except FAULTS as other:
        error = other
    return RecordError("record", f"{type(error).__name__}: {error!s:.120}", f"a {schema.name}")
