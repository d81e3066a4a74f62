"""Single messages: single-object encoding and Confluent frames, and files of any form (8.2, 8.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ..errors import SchemaError, WireError
from ..schema import load_schema
from .body import AnySchema, Schema, decode_body, encode_body
from .container import (
    CONFLUENT_MAGIC,
    SINGLE_MAGIC,
    ContainerReader,
    Form,
    detect,
    first_bytes,
)
from .source import Input, Source


def encode_single(schema: AnySchema, record: Mapping[str, Any]) -> bytes:
    """Return ``record`` as a single-object message (8.2). Raises RecordError."""
    ready = Schema.of(schema)
    return SINGLE_MAGIC + ready.fingerprint + encode_body(ready, record)


def decode_single(
    message: bytes,
    schemas: Iterable[AnySchema] | Mapping[bytes, AnySchema] | Callable[[bytes], AnySchema | None],
    *,
    reader_schema: AnySchema | None = None,
) -> dict[str, Any]:
    """Return the record of a single-object message (8.2).

    ``schemas``: those that the writer may have used, or what finds one by its fingerprint (8 bytes,
    little-endian). Raises WireError; SchemaError where none has the message's fingerprint.
    """
    message = bytes(message)
    if message[:2] != SINGLE_MAGIC:
        raise WireError("frame", first_bytes(message), "c3 01: a single-object message")
    if len(message) < 10:
        raise WireError("frame", f"{len(message)} bytes", "c3 01, then 8 bytes of fingerprint")
    key = message[2:10]
    found: AnySchema | None
    if callable(schemas):
        found = _look_up(schemas, key)
    elif isinstance(schemas, Mapping):
        found = schemas.get(key)
    else:
        found = next((schema for schema in schemas if Schema.of(schema).fingerprint == key), None)
    if found is None:
        raise SchemaError("schema", f"fingerprint {key.hex()}", "a fingerprint of one of the schemas given")
    return decode_body(found, message, reader_schema=reader_schema, start=10)


def encode_confluent(schema_id: int, schema: AnySchema, record: Mapping[str, Any]) -> bytes:
    """Return ``record`` in a Confluent frame (8.3). Raises RecordError, WireError for an id over 32 bits."""
    if not -(2**31) <= schema_id < 2**31:
        raise WireError("frame", f"schema id {schema_id}", "a 4-byte signed integer")
    return CONFLUENT_MAGIC + schema_id.to_bytes(4, "big", signed=True) + encode_body(schema, record)


def decode_confluent(
    message: bytes,
    lookup: Mapping[int, AnySchema] | Callable[[int], AnySchema | None],
    *,
    reader_schema: AnySchema | None = None,
) -> dict[str, Any]:
    """Return the record of a Confluent frame (8.3); ``lookup`` gives the writer's schema by its id.

    Raises WireError; SchemaError for an id that ``lookup`` does not have: LookupError or None.
    """
    message = bytes(message)
    schema_id = confluent_id(message)
    found = _look_up(lookup if callable(lookup) else lookup.__getitem__, schema_id)
    if found is None:
        raise SchemaError("schema", f"schema id {schema_id}", "an id that the lookup knows")
    return decode_body(found, message, reader_schema=reader_schema, start=5)


def confluent_id(message: bytes) -> int:
    """Return the schema id of a Confluent frame. Raises WireError for another first byte (8.3)."""
    if message[:1] != CONFLUENT_MAGIC or len(message) < 5:
        raise WireError("frame", first_bytes(message), "00 and a 4-byte schema id: a Confluent frame")
    return int.from_bytes(message[1:5], "big", signed=True)


def _look_up(lookup: Callable[[Any], AnySchema | None], key: object) -> AnySchema | None:
    try:
        return lookup(key)
    except LookupError:
        return None


@dataclass
class MessageReader:
    """The one record of a file that is a single message; as ``ContainerReader`` where the two agree."""

    form: Form
    schema: Mapping[str, Any]
    record: dict[str, Any]
    schema_id: int | None = None
    codec: str = "null"
    repairs: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([self.record])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


def read_messages(
    source: Source, schema: AnySchema | None = None, *, reader_schema: AnySchema | None = None
) -> ContainerReader | MessageReader:
    """Open a file of any form of section 8; ``.form`` says which it is.

    ``schema`` is the writer's, for a file that is one message and so does not hold it. Without it a
    single-object message is taken for one of ours, by its fingerprint, and a Confluent frame is refused.
    Raises WireError, SchemaError.
    """
    file = Input(source)
    try:
        form = detect(file.peek(5))
        if form == "container":
            return ContainerReader(file, reader_schema)
        if form == "unknown":
            raise WireError(
                "frame", first_bytes(file.peek(5)), "a container, a single-object message or a frame"
            )
        if schema is None and form == "confluent":
            found = f"a Confluent frame with schema id {confluent_id(file.peek(5))}"
            raise SchemaError("schema", found, "the schema it was written with, given by the caller")
        ours = [load_schema("multiscale.Alert"), load_schema("multiscale.Cutout")]
        known = [Schema.of(each) for each in ([schema] if schema is not None else ours)]
        message = file.rest(max(each.max_bytes for each in known))
    except BaseException:
        file.close()
        raise
    file.close()
    if form == "confluent":
        record = decode_confluent(message, lambda _: known[0], reader_schema=reader_schema)
        return MessageReader(form, known[0].json, record, confluent_id(message))
    record = decode_single(message, known, reader_schema=reader_schema)
    writer = next(each for each in known if each.fingerprint == message[2:10])
    return MessageReader(form, writer.json, record)
