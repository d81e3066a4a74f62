"""Avro containers that the same records give the same bytes: an alert's file is written again as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from multiscale.atomic import replacing
from multiscale.avro import write_container

_SYNC_SIZE = 16


def container_bytes(schema: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> bytes:
    """Return an Avro container (specification 8.1) of ``records``.

    The sync marker, which Avro wants to be unlikely in the data, is made of a digest of the content where
    other writers draw it by chance. Raises StampError for a record that the schema cannot hold.
    """
    file = BytesIO()
    write_container(file, schema, records)
    content = file.getvalue()
    drawn = content[-_SYNC_SIZE:]  # a container ends with it, one without records too
    digest = hashlib.sha256(content.replace(drawn, bytes(_SYNC_SIZE))).digest()
    return content.replace(drawn, digest[:_SYNC_SIZE])


def write_whole(path: Path, content: bytes) -> str:
    """Write ``content`` to ``path``, whole or not at all, and return its SHA-256 in hexadecimal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(content)
    return hashlib.sha256(content).hexdigest()
