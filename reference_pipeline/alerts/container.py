"""Avro containers of which the same records give the same bytes: a file is written again as it was."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from multiscale.atomic import replacing
from multiscale.avro import Schema, write_container

_SYNC_SIZE = 16
_BLOCK = 64_000  # bytes of records after which a block ends


def container_bytes(schema: Schema, bodies: Iterable[bytes]) -> bytes:
    """Return an Avro container (specification 8.1) of records that are bytes already, each a whole body.

    The sync marker, which Avro wants to be unlikely in the data, is made of a digest of header and data where
    other writers draw it by chance.
    """
    empty = BytesIO()
    write_container(empty, schema, [])
    header = empty.getvalue()[:-_SYNC_SIZE]  # ends with a marker that was drawn
    blocks = _blocks(bodies)
    sync = hashlib.sha256(header + b"".join(blocks)).digest()[:_SYNC_SIZE]
    return b"".join([header, sync, *(part for block in blocks for part in (block, sync))])


def _blocks(bodies: Iterable[bytes]) -> list[bytes]:
    """Blocks without their sync markers: the number of records, their size, their bytes."""
    groups: list[list[bytes]] = [[]]
    size = 0
    for body in bodies:
        groups[-1].append(body)
        size += len(body)
        if size >= _BLOCK:
            groups.append([])
            size = 0
    joined = [(len(group), b"".join(group)) for group in groups if group]
    return [_long(n) + _long(len(data)) + data for n, data in joined]


def _long(value: int) -> bytes:
    """A number of 0 or more as Avro writes it: doubled, 7 bits a byte, the low ones first."""
    value *= 2
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def write_whole(path: Path, content: bytes) -> str:
    """Write ``content`` to ``path``, whole or not at all, and return its SHA-256 in hexadecimal.

    On return it is on the disk: what a database then says of it holds after a power cut too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    with suppress(OSError):  # the new name itself, where folders can be synced
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return hashlib.sha256(content).hexdigest()
