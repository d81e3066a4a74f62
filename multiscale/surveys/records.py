"""From a survey's fields to those of a ``multiscale.Alert``: absent values, dates, provenance.

Surveys write "not measured" as null, NaN, or a number such as −999. Here all of these are None.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ..errors import SurveyError
from ..version import __version__

SPEC_VERSION: Final = "1.0"
MJD_ZERO: Final = 2400000.5  # Julian Date of MJD 0
SECONDS_PER_DAY: Final = 86400.0
SENTINELS: Final = frozenset((-99.0, -999.0, -9999.0, -99999.0))
LONG_MIN, LONG_MAX = -(1 << 63), (1 << 63) - 1


def number(value: object) -> float | None:
    """Return a finite number as float; None for null, NaN, ±Inf, a sentinel, or what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value) or value in SENTINELS:
        return None
    return float(value)


def identifier(value: object) -> str | None:
    """Return an identifier as text; None for null, 0, a sentinel, or an empty or "null" string."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | str)
        or value == 0
        or value in SENTINELS
    ):
        return None
    text = str(value).strip()
    return None if text.lower() in ("", "null", "none", "nan") else text


def required(value: object, name: str) -> float:
    """Return a finite number, or raise SurveyError that names the field."""
    result = number(value)
    if result is None:
        raise SurveyError("survey", repr(value), "a number", name)
    return result


def truth(value: object) -> bool | None:
    """Return what a survey's flag says, written as 't', '1', 'true', 1.0 or True; None for anything else."""
    text = str(value).strip().lower()
    if text in ("t", "true", "1", "1.0", "y", "yes"):
        return True
    return False if text in ("f", "false", "0", "0.0", "n", "no") else None


def record_of(value: object) -> Mapping[str, Any]:
    """Return a record inside a record; an empty one where it is null or no record."""
    return value if isinstance(value, Mapping) else {}


def entries(record: Mapping[str, Any], name: str, *, needs: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the records of an array field in which every field of ``needs`` is a number; none where null."""
    values = record.get(name)
    if not isinstance(values, list | tuple):
        return []
    return [e for e in values if isinstance(e, Mapping) and all(number(e.get(n)) is not None for n in needs)]


def mjd_from_jd(jd: float) -> float:
    """Return the Modified Julian Date of a Julian Date, days."""
    return jd - MJD_ZERO


def mid_exposure(start: float, exposure_time: float | None) -> float:
    """Return the middle of an exposure (MJD, days) from its start and length (s; None: the start itself)."""
    return start + (exposure_time or 0.0) / 2 / SECONDS_PER_DAY


def scaled(value: object, factor: float) -> float | None:
    """Return a measured number times ``factor``, or None."""
    measured = number(value)
    return None if measured is None else measured * factor


def oldest_first(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return detections, limits or forced photometry sorted by time."""
    return sorted(entries, key=lambda entry: entry["time"])


def nearest_first(matches: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return cross-matches sorted by separation, those without one last."""
    return sorted(matches, key=lambda match: (match["separation"] is None, match["separation"] or 0.0))


def cross_match(catalog: str, source_id: str, **more: Any) -> dict[str, Any]:
    """Return a ``multiscale.CrossMatch``; fields that are not given are null."""
    absent: dict[str, Any] = {
        "kind": None,
        "separation": None,
        "magnitude": None,
        "redshift": None,
        "properties": {},
    }
    return {"catalog": catalog, "sourceId": source_id, **absent, **more}


def score(classifier: str, version: object, value: object, taxonomy: str) -> list[dict[str, Any]]:
    """Return a real/bogus score as a list of one ``multiscale.Classification``, empty where it is absent."""
    probability = number(value)
    if probability is None or not 0 <= probability <= 1:
        return []
    classes = [{"name": "real", "probability": probability}]
    named = {"classifier": classifier, "version": identifier(version) or "unknown", "taxonomy": taxonomy}
    return [{**named, "classes": classes, "isCalibrated": False}]


def properties(source: Mapping[str, Any], names: Sequence[str]) -> dict[str, bool | int | float | str]:
    """Return the named values that are there, as ``multiscale.Alert.properties`` can hold them."""
    found: dict[str, bool | int | float | str] = {}
    for name in names:
        value = source.get(name)
        is_measured = number(value) is not None
        is_plain = isinstance(value, bool) or (isinstance(value, str) and identifier(value) is not None)
        if is_plain or (is_measured and not _overflows(value)):
            found[name] = value  # type: ignore[assignment]  # one of the four, by the two lines above
    return found


def _overflows(value: object) -> bool:
    return isinstance(value, int) and not LONG_MIN <= value <= LONG_MAX


def provenance(notes: Iterable[str]) -> list[dict[str, str]]:
    """Return a ``multiscale.Provenance`` per note, this package as the software."""
    return [{"software": "multiscale", "version": __version__, "action": note} for note in notes]


def alert_fields(
    *,
    alert_id: str,
    survey: str,
    object_id: str | None,
    detection: dict[str, Any],
    **lists: Any,
) -> dict[str, Any]:
    """Return the fields of a ``multiscale.Alert`` without its cutout; what is not given is empty."""
    empty: dict[str, Any] = {
        **{name: [] for name in ("history", "forcedPhotometry", "upperLimits", "crossMatches")},
        **{name: [] for name in ("classifications", "processing", "provenance")},
        "properties": {},
    }
    head = {"specVersion": SPEC_VERSION, "alertId": alert_id, "survey": survey, "objectId": object_id}
    return {**head, "detection": detection, **empty, **lists}


def detection_fields(**known: Any) -> dict[str, Any]:
    """Return a ``multiscale.Detection`` with null where nothing is given."""
    names = "exposureId detector exposureTime raErr decErr x y flux fluxErr fluxUnit magnitude magnitudeErr"
    more = "magnitudeSystem limitingMagnitude snr isPositive fwhm elongation positionAngle"
    return {**dict.fromkeys([*names.split(), *more.split()]), "flags": [], **known}
