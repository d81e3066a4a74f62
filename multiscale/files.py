"""Files and streams of packets: read them as alerts, write alerts as packets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .avro import read_container, write_container
from .errors import RecordError, StampError
from .packet import Alert, EmbeddedAlert, alert_from_record
from .schema import load_schema

Source = str | Path | bytes | BinaryIO


def read_alerts(source: Source) -> Iterator[Alert | EmbeddedAlert]:
    """Yield the alerts of an Avro container: path, bytes or an open binary file.

    ``Alert`` for our own packets; for packets that embed, ``EmbeddedAlert`` with ``.cutout`` and
    ``.record`` (the survey's own fields). One packet is in memory at a time. Raises StampError with the
    number of the packet, after the good ones before it.
    """
    for number, record in enumerate(read_container(source)):
        try:
            yield alert_from_record(record)
        except StampError as error:
            raise error.within(f"packet {number}") from None


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
