"""Targets of opportunity: which exposures a notice of the General Coordinates Network concerns.

Two forms of notice are read: JSON of GCN's unified schema (``ra``, ``dec``, ``ra_dec_error``,
``trigger_time``), and VOEvent 2.0 (XML).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from astropy.time import Time

from ..catalogues.sphere import separation
from ..errors import ConfigError
from ..frame import Exposure

_MAX_BYTES = 4_000_000  # of a notice; those with a sky map inside are the largest


@dataclass(frozen=True)
class Notice:
    """A place on the sky and a window of time."""

    name: str
    ra: float  # degrees, ICRS
    dec: float
    radius: float  # degrees, of the error circle
    start_mjd: float  # UTC
    end_mjd: float

    def concerns(self, exposure: Exposure, field_radius: float) -> bool:
        """Whether the exposure, of a field of ``field_radius`` degrees, may hold the target in the window."""
        if exposure.ra is None or exposure.dec is None:
            return False
        in_time = self.start_mjd <= exposure.mid_mjd <= self.end_mjd
        away = float(separation(self.ra, self.dec, exposure.ra, exposure.dec))
        return in_time and away <= self.radius + field_radius


def read_notice(path: Path, *, days: float) -> Notice:
    """Return what a notice file says; the window begins with the trigger and lasts ``days``.

    Raises ConfigError for a file that is not a notice, or has no position or no trigger time.
    """
    try:
        text = path.read_bytes()[: _MAX_BYTES + 1]
    except OSError as error:
        raise ConfigError(f"{path}: {error}") from error
    if len(text) > _MAX_BYTES:
        raise ConfigError(f"{path}: expected a notice, found more than {_MAX_BYTES} bytes")
    try:
        found = _of_xml(text) if text.lstrip().startswith(b"<") else _of_json(text)
    except (ValueError, TypeError, LookupError, ElementTree.ParseError) as error:
        raise ConfigError(f"{path}: not a GCN notice in JSON or VOEvent: {error}") from error
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise ConfigError(f"{path}: the notice has no {', '.join(missing)}")
    ra, dec, radius = (float(found[name]) for name in ("ra", "dec", "error radius"))
    if not (0 <= ra <= 360 and -90 <= dec <= 90 and 0 <= radius <= 180 and math.isfinite(radius)):
        raise ConfigError(f"{path}: RA {ra}, Dec {dec}, radius {radius}: expected degrees on the sky")
    try:
        start = float(Time(str(found["trigger time"]).removesuffix("Z"), scale="utc").mjd)
    except ValueError as error:
        raise ConfigError(f"{path}: trigger time {found['trigger time']!r}: {error}") from error
    return Notice(str(found["name"]), ra, dec, radius, start, start + days)


def _of_json(text: bytes) -> dict[str, Any]:
    notice = json.loads(text)
    if not isinstance(notice, dict):
        raise ValueError(f"expected an object, found {type(notice).__name__}")
    error = notice.get("ra_dec_error", 0.0)
    if isinstance(error, list):  # an ellipse: semi-axes and an angle
        error = max(error[:2])
    name = notice.get("event_name") or notice.get("id") or notice.get("superevent_id") or "notice"
    return {
        "name": name[0] if isinstance(name, list) else name,
        "ra": notice.get("ra"), "dec": notice.get("dec"), "error radius": error,
        "trigger time": notice.get("trigger_time"),
    }  # fmt: skip


def _of_xml(text: bytes) -> dict[str, Any]:
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # nothing a VOEvent needs, and a way to exhaust memory
        raise ValueError("it declares entities")
    root = ElementTree.fromstring(text)

    def first(tag: str) -> str | None:
        element = next((e for e in root.iter() if e.tag.rpartition("}")[2] == tag), None)
        return None if element is None or element.text is None else element.text.strip()

    return {
        "name": root.get("ivorn") or "notice",
        "ra": first("C1"), "dec": first("C2"), "error radius": first("Error2Radius") or 0.0,
        "trigger time": first("ISOTime"),
    }  # fmt: skip
