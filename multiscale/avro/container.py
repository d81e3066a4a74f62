"""Avro object container files, read and written as streams (8.1)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

from ..atomic import replacing
from ..errors import SchemaError, StampError, WireError
from ..schema import repair_schema
from .body import AnySchema, Schema, check_resolution, decode_part, encode_body, make_ready, resolve
from .codecs import check_codec, compress, decompress
from .source import Input, Source

Form = Literal["container", "single-object", "confluent", "unknown"]

CONTAINER_MAGIC = b"Obj\x01"
SINGLE_MAGIC = b"\xc3\x01"
CONFLUENT_MAGIC = b"\x00"
_SYNC_SIZE = 16
_MAX_HEADER = 4 << 20  # bytes; an LSST schema takes 0.1 MB
_BLOCK = 64_000  # bytes of records after which a writer ends a block


def detect(message: bytes) -> Form:
    """Return what the first bytes of a message or file say it is."""
    if message[:4] == CONTAINER_MAGIC:
        return "container"
    if message[:2] == SINGLE_MAGIC:
        return "single-object"
    return "confluent" if message[:1] == CONFLUENT_MAGIC and len(message) > 4 else "unknown"


def first_bytes(message: bytes) -> str:
    """Say what a message begins with, and what that may be."""
    form = detect(message)
    known = {
        "container": " (an Avro container: read_container)",
        "single-object": " (a single-object message: decode_single)",
        "confluent": " (a Confluent frame: decode_confluent)",
    }
    if len(message) < 5:
        return f"{len(message)} bytes: {message.hex(' ')}" if message else "no bytes"
    return f"{message[: 4 if form == 'container' else 2].hex(' ')}{known.get(form, '')}"


@lru_cache(maxsize=16)  # a survey's archive is a million files with one schema
def _opened(text: bytes) -> tuple[Schema, list[str]]:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError("schema", f"not JSON: {error}", "an Avro schema", "avro.schema") from None
    repaired, repairs = repair_schema(schema)
    return make_ready(repaired), repairs


class ContainerReader(Iterator[dict[str, Any]]):
    """The records of an Avro container, one at a time; made by ``read_container``.

    ``schema`` is the writer's and not to be changed; ``repairs`` says what had to be mended in it (a sentence
    each, usually none); ``codec`` and ``metadata`` are from the header. Closes its file at the end.
    """

    form: Form = "container"

    def __init__(self, file: Input, reader_schema: AnySchema | None = None) -> None:
        self._file = file
        self.metadata = _read_header(file)
        self._sync = file.take(_SYNC_SIZE, "the sync marker")
        text = self.metadata.pop("avro.schema", None)
        if text is None:
            raise WireError("avro", "a header without a schema", "avro.schema")
        self.codec = self.metadata.pop("avro.codec", b"null").decode("ascii", "replace")
        check_codec(self.codec)
        self._ready, repairs = _opened(text)
        self.schema = dict(self._ready.json)
        self.repairs = list(repairs)
        self._reader = None if reader_schema is None else Schema.of(reader_schema)
        if self._reader is not None:
            check_resolution(self._ready, self._reader)
        self._records = self._read()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        return next(self._records)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the reading, and close the file if ``read_container`` opened it."""
        self._records.close()
        self._file.close()

    def _read(self) -> Generator[dict[str, Any]]:
        n = begin = 0
        with self._file:
            try:
                while not self._file.at_end():
                    begin = self._file.offset
                    n_records, block = self._block()
                    position = 0
                    for _ in range(n_records):
                        record, end = decode_part(self._ready, block, position)
                        if self._reader is not None:
                            record = resolve(self._ready, self._reader, block, position, record)
                        yield record
                        position = end
                        n += 1
                    if position != len(block):
                        found = f"{len(block) - position} bytes after the {n_records} records of a block"
                        raise WireError("avro", found, "none")
            except StampError as error:
                raise error.within(f"packet {n} (block at byte {begin})") from None

    def _block(self) -> tuple[int, bytes]:
        """Return the number of records in the next block and their bytes, all of them there."""
        n_records, size = self._file.long("a block's count"), self._file.long("a block's size")
        if n_records < 0 or size < 0:
            raise WireError("avro", f"a block of {n_records} records in {size} bytes", "no negative number")
        if size > self._ready.max_bytes:
            raise WireError("avro", f"a block of {size} bytes", f"at most {self._ready.max_bytes}")
        data = self._file.take(size, "a block")
        sync = self._file.peek(_SYNC_SIZE)
        if sync != self._sync:
            raise WireError("avro", self._no_sync(data + sync, size), "the block, then its sync marker")
        self._file.take(_SYNC_SIZE, "the sync marker")
        return n_records, decompress(self.codec, data, self._ready.max_bytes)

    def _no_sync(self, data: bytes, size: int) -> str:
        at = data.find(self._sync)
        if at < 0:
            return f"no sync marker after {size} bytes"
        return f"the sync marker {size - at} bytes early: bytes were lost, as when a copy changes line ends"


def read_container(source: Source, *, reader_schema: AnySchema | None = None) -> ContainerReader:
    """Open an Avro container: a path, its bytes, or a binary file, which need not seek (8.1).

    One block is in memory at a time. Raises WireError for a damaged header, SchemaError for a schema that
    is not fit (``Schema.of``) or that ``reader_schema`` does not match. Iterating raises WireError, which
    names the packet (0-based) and where its block begins, after every record before it. No record of a
    block that does not end in the container's sync marker is given: its bytes are not where they should be.
    """
    file = Input(source)
    try:
        return ContainerReader(file, reader_schema)
    except BaseException:
        file.close()
        raise


def write_container(
    target: str | Path | BinaryIO,
    schema: AnySchema,
    records: Iterable[Mapping[str, Any]],
    *,
    codec: str = "null",
) -> int:
    """Write ``records`` to an Avro container as they come, and return how many.

    A path gets the whole file or, on any error, stays as it was. Raises RecordError with the packet's
    number (0-based) for a record that the schema cannot hold, WireError for a codec that is not here.
    """
    ready = Schema.of(schema)
    check_codec(codec)
    header = _header(ready.plain_json(), codec)
    if isinstance(target, str | Path):
        with replacing(target, sync=True) as partial, partial.open("xb") as file:
            return _write(file, ready, records, codec, header)
    return _write(target, ready, records, codec, header)


def container_of(schema: AnySchema, bodies: Iterable[bytes]) -> bytes:
    """Return the Avro container of records that are bytes already (:func:`encode_body`), uncompressed.

    The same bodies give the same bytes: the sync marker, which Avro wants to be unlikely in the data, is made
    of a digest of header and data, where :func:`write_container` draws it by chance.
    """
    header = _header(Schema.of(schema).plain_json(), "null")
    blocks = [_long(n) + _sized(data) for n, data in _grouped(bodies)]
    sync = hashlib.sha256(header + b"".join(blocks)).digest()[:_SYNC_SIZE]
    return b"".join([header, sync, *(part for block in blocks for part in (block, sync))])


def _grouped(bodies: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the blocks that records go into: how many, and their bytes."""
    block: list[bytes] = []
    size = 0
    for body in bodies:
        block.append(body)
        size += len(body)
        if size >= _BLOCK:
            yield len(block), b"".join(block)
            block, size = [], 0
    if block:
        yield len(block), b"".join(block)


def _write(
    file: BinaryIO, schema: Schema, records: Iterable[Mapping[str, Any]], codec: str, header: bytes
) -> int:
    sync = os.urandom(_SYNC_SIZE)
    file.write(header + sync)
    n_written = 0

    def bodies() -> Iterator[bytes]:
        nonlocal n_written
        for n, record in enumerate(records):
            try:
                body = encode_body(schema, record)
            except StampError as error:
                raise error.within(f"packet {n}") from None
            n_written = n + 1
            yield body

    for n, data in _grouped(bodies()):
        file.write(_long(n) + _sized(compress(codec, data)) + sync)
    return n_written


def _header(schema: Mapping[str, Any], codec: str) -> bytes:
    entries = {"avro.schema": json.dumps(schema, ensure_ascii=False).encode(), "avro.codec": codec.encode()}
    items = b"".join(_sized(key.encode()) + _sized(value) for key, value in entries.items())
    return CONTAINER_MAGIC + _long(len(entries)) + items + _long(0)


def _sized(data: bytes) -> bytes:
    return _long(len(data)) + data


def _long(value: int) -> bytes:
    """Return a number of 0 or more as Avro writes it: doubled, 7 bits a byte, the low ones first."""
    value *= 2
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read_header(file: Input) -> dict[str, bytes]:
    """Return the metadata of a container's header."""
    magic = file.peek(5)
    if magic[:4] != CONTAINER_MAGIC:
        raise WireError("avro", first_bytes(magic), "4f 62 6a 01: an Avro container")
    file.take(4, "the magic")
    metadata: dict[str, bytes] = {}
    while (count := file.long("a number of entries")) != 0:
        if count < 0:
            file.long("a size of entries")
        for _ in range(abs(count)):
            if file.offset > _MAX_HEADER:
                raise WireError("limit", "a longer header", f"at most {_MAX_HEADER} bytes")
            key, value = (file.take(file.long("a size"), "the header", _MAX_HEADER) for _ in range(2))
            metadata[key.decode("utf-8", "replace")] = value
    return metadata
