"""The words for planes, units and encodings: as callers give them, and as they travel (3.1, 5, 6)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, get_args

from .errors import RecordError
from .rules import IMAGES

Kind = Literal["UNKNOWN", "SCIENCE", "TEMPLATE", "DIFFERENCE", "SCORE", "VARIANCE", "MASK"]
Of = Literal["UNKNOWN", "NONE", "SCIENCE", "TEMPLATE", "DIFFERENCE"]
Encoding = Literal["UNKNOWN", "RAW", "RICE"]
ClippedBy = Literal["UNKNOWN", "DETECTOR", "CUTOUT"]
MissingReason = Literal["UNKNOWN", "NO_TEMPLATE", "OFF_IMAGE", "FAILED", "WITHHELD"]

PlaneKey = str | tuple[str, str]  # "science", or ("variance", "science")
WireKey = tuple[str, str]  # ("SCIENCE", "NONE")

OFF_IMAGE, NO_DATA = "OFF_IMAGE", "NO_DATA"  # reserved names of mask bits (3.4)


@lru_cache(maxsize=256)
def wire_key(key: PlaneKey) -> WireKey:
    """Return (kind, of) as they travel: "science" -> ("SCIENCE", "NONE"). Raises RecordError."""
    try:
        kind, of = (key, "none") if isinstance(key, str) else key
        wire = (kind.upper(), of.upper())
    except (TypeError, ValueError, AttributeError):
        raise RecordError("unknown-symbol", f"plane {key!r}", "a kind, or (kind, of)") from None
    if wire[0] not in get_args(Kind) or wire[1] not in get_args(Of) or "UNKNOWN" in wire:
        raise RecordError("unknown-symbol", f"plane {key!r}", "a known kind, or (kind, of)")
    return wire


@lru_cache(maxsize=256)
def plane_key(kind: str, of: str = "NONE") -> PlaneKey:
    """Return the Python name of a plane: "science", or ("variance", "science")."""
    return kind.lower() if of == "NONE" else (kind.lower(), of.lower())


def encoding_of(encoding: str | Mapping[str, str], kind: str) -> str:
    """Return the wire name of the encoding for planes of ``kind``. Raises RecordError."""
    name = encoding if isinstance(encoding, str) else encoding.get(kind.lower(), "raw")
    if name.upper() not in ("RAW", "RICE"):
        raise RecordError("unknown-symbol", f"encoding {name!r}", "raw or rice", "encoding")
    return name.upper()


def unit_of(units: str | Mapping[PlaneKey, str], key: PlaneKey, wire: WireKey) -> str:
    """Return the unit of a plane: given, or derived from that of the images."""
    if not isinstance(units, str):
        if key in units:
            return units[key]
        units = units.get(wire[1].lower(), "unknown") if wire[1] in IMAGES else "unknown"
    if wire[0] in ("MASK", "SCORE"):
        return ""
    if wire[0] == "VARIANCE" and units not in ("unknown", ""):
        return f"{units}**2" if units.isalpha() else f"({units})**2"
    return units
