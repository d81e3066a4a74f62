"""Avro containers and frames (placeholder until the full layer lands)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fastavro

from .errors import WireError


class ContainerReader:
    """An open container."""

    def __init__(self, file: Any) -> None:
        self._reader = fastavro.reader(file)
        self.schema = self._reader.writer_schema
        self.codec = self._reader.codec
        self.repairs: list[str] = []

    def __iter__(self) -> Any:
        try:
            yield from self._reader
        except (ValueError, EOFError, IndexError) as error:
            raise WireError("avro", str(error), "a block") from None


def read_container(source: Any) -> ContainerReader:
    """Open."""
    file = io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") if isinstance(source, (str, Path)) else source
    try:
        return ContainerReader(file)
    except (ValueError, EOFError, IndexError, fastavro.schema.SchemaParseException) as error:
        raise WireError("avro", str(error), "a container") from None


def write_container(path: Any, schema: Any, records: Any, *, codec: str = "null") -> None:
    """Write."""
    out = io.BytesIO()
    fastavro.writer(out, schema, records, codec=codec)
    Path(path).write_bytes(out.getvalue())


def decode_body(schema: Any, body: bytes) -> Any:
    """Decode."""
    file = io.BytesIO(body)
    return fastavro.schemaless_reader(file, schema)


decode_confluent = decode_single = decode_body
