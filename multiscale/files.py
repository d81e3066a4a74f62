"""Files and streams of packets: read them as alerts, write alerts as packets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .avro import read_container, write_container
from .errors import RecordError, SchemaError, StampError
from .evolution import compatible_reader
from .packet import EMBEDDED_FIELD, Alert, EmbeddedAlert, alert_from_record
from .schema import full_name, load_schema

OURS = ("multiscale.Alert", "multiscale.Cutout")
Source = str | Path | bytes | BinaryIO


def read_alerts(source: Source) -> Iterator[Alert | EmbeddedAlert]:
    """Yield the alerts of an Avro container: path, bytes or an open binary file.

    ``Alert`` for our own packets; for packets that embed, ``EmbeddedAlert`` with ``.cutout`` and
    ``.record`` (the survey's own fields). One packet is in memory at a time. Raises StampError with the
    number of the packet, after the good ones before it.
    """
    with read_container(source) as reader:
        check_readable(reader.schema)
        for number, record in enumerate(reader):
            try:
                yield alert_from_record(record)
            except StampError as error:
                raise error.within(f"packet {number}") from None


def check_readable(schema: Mapping[str, Any]) -> None:
    """Raise SchemaError where a writer's cutout or alert cannot be read as ours (8.5).

    The records themselves need no resolving: fields are found by name, the models give defaults for those an
    older writer lacks, leave out later ones, and take a later symbol for UNKNOWN (6.3, 10.2).
    """
    name = full_name(schema)
    theirs: Any = schema
    if name not in OURS:
        embedded = [field["type"] for field in schema["fields"] if field["name"] == EMBEDDED_FIELD]
        cutouts = [kind for kind in (embedded[0] if embedded else ()) if kind != "null"]
        if len(cutouts) != 1 or not isinstance(cutouts[0], Mapping):
            return  # alert_from_record says what is wrong with each record
        name, theirs = "multiscale.Cutout", cutouts[0]
    for trouble in compatible_reader(theirs, load_schema(name)):
        raise SchemaError("schema", trouble.message, f"a schema that reads as {name}", trouble.path)


def write_alerts(
    path: str | Path,
    alerts: Iterable[Alert | EmbeddedAlert],
    *,
    schema: dict[str, Any] | None = None,
    codec: str = "null",
) -> int:
    """Write ``alerts`` to an Avro container and return how many; nothing half-written stays behind.

    ``schema``: the survey's own schema with the embedded field, for ``EmbeddedAlert``s; without it the
    alerts are ``Alert``s. Raises RecordError for an alert that the schema cannot hold.
    """
    n = 0

    def records() -> Iterator[dict[str, Any]]:
        nonlocal n
        for alert in alerts:
            if schema is None and not isinstance(alert, Alert):
                raise RecordError("record", type(alert).__name__, "Alert, or schema= of the survey")
            n += 1
            yield alert.to_record()

    write_container(path, schema or load_schema("multiscale.Alert"), records(), codec=codec)
    return n
