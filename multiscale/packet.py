"""Complete packets: ``multiscale.Alert``, and other surveys' alerts that embed a cutout (6.6, 6.7).

The models are the Avro records, field for field; a test compares them with ``spec/v1/schema`` in both
directions. Times are Modified Julian Dates in days, positions ICRS degrees, fluxes science minus template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field

from .cutout import Cutout
from .errors import RecordError
from .record import Record
from .rules import SPEC_VERSION, check_version

EMBEDDED_FIELD = "cutoutMultiscale"
TimeScale = Literal["UNKNOWN", "UTC", "TAI", "TT", "TDB"]
Scalar = None | bool | int | float | str


class Detection(Record):
    """One detection in one exposure."""

    detection_id: str
    exposure_id: str | None = None
    detector: str | None = None
    time: float
    time_scale: TimeScale
    exposure_time: float | None = None
    band: str
    ra: float
    dec: float
    ra_err: float | None = None
    dec_err: float | None = None
    x: float | None = None
    y: float | None = None
    flux: float | None = None
    flux_err: float | None = None
    flux_unit: str | None = None
    magnitude: float | None = None
    magnitude_err: float | None = None
    magnitude_system: str | None = None
    limiting_magnitude: float | None = None
    snr: float | None = None
    is_positive: bool | None = None
    fwhm: float | None = None
    elongation: float | None = None
    position_angle: float | None = None
    flags: tuple[str, ...] = ()


class ForcedPhotometry(Record):
    """Flux measured at a known position in one exposure."""

    exposure_id: str | None = None
    time: float
    time_scale: TimeScale
    band: str
    flux: float | None = None
    flux_err: float | None = None
    flux_unit: str | None = None
    limiting_magnitude: float | None = None
    flags: tuple[str, ...] = ()


class UpperLimit(Record):
    """An exposure that covered the object and did not detect it."""

    exposure_id: str | None = None
    time: float
    time_scale: TimeScale
    band: str
    limiting_magnitude: float
    sigma: float = 5.0


class CrossMatch(Record):
    """A catalogued source near the object; ``separation`` in arcsec."""

    catalog: str
    source_id: str
    kind: str | None = None
    separation: float | None = None
    magnitude: float | None = None
    redshift: float | None = None
    properties: dict[str, Scalar] = Field(default_factory=dict)


class ClassProbability(Record):
    """The probability of one class."""

    name: str
    probability: float


class Classification(Record):
    """What one classifier says."""

    classifier: str
    version: str
    taxonomy: str
    classes: tuple[ClassProbability, ...]
    is_calibrated: bool = False


class ProcessingStep(Record):
    """When a step of the processing ended, MJD UTC."""

    step: str
    time: float


class Provenance(Record):
    """What was done to the data, by which software."""

    software: str
    version: str
    action: str


class Alert(Record):
    """A complete alert packet."""

    spec_version: str = SPEC_VERSION
    alert_id: str
    survey: str
    object_id: str | None = None
    detection: Detection
    history: tuple[Detection, ...] = ()
    forced_photometry: tuple[ForcedPhotometry, ...] = ()
    upper_limits: tuple[UpperLimit, ...] = ()
    cross_matches: tuple[CrossMatch, ...] = ()
    classifications: tuple[Classification, ...] = ()
    processing: tuple[ProcessingStep, ...] = ()
    provenance: tuple[Provenance, ...] = ()
    properties: dict[str, Scalar] = Field(default_factory=dict)
    cutout: Cutout | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the alert of a ``multiscale.Alert`` record. Raises RecordError with the field path."""
        check_version(str(record.get("specVersion")))
        alert = super().from_record({**record, "cutout": None})
        if record.get("cutout") is None:
            return alert
        return alert.model_copy(update={"cutout": _cutout_of(record["cutout"], "cutout")})


@dataclass(frozen=True)
class EmbeddedAlert:
    """Another survey's alert that carries a cutout: ``record`` holds all of the survey's own fields."""

    record: dict[str, Any]
    cutout: Cutout | None

    def to_record(self) -> dict[str, Any]:
        """Return the survey's fields with the cutout embedded, ready for an Avro writer."""
        cutout = None if self.cutout is None else self.cutout.to_record()
        return {**self.record, EMBEDDED_FIELD: cutout}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> EmbeddedAlert:
        """Return the alert of a record with ``cutoutMultiscale``. Raises RecordError with the field path."""
        own = {name: value for name, value in record.items() if name != EMBEDDED_FIELD}
        embedded = record[EMBEDDED_FIELD]
        return cls(own, None if embedded is None else _cutout_of(embedded, EMBEDDED_FIELD))


def alert_from_record(record: Mapping[str, Any]) -> Alert | EmbeddedAlert:
    """Return the alert in any record that carries a cutout. Raises RecordError for one that cannot."""
    if EMBEDDED_FIELD in record:
        return EmbeddedAlert.from_record(record)
    if "detection" in record and "specVersion" in record:
        return Alert.from_record(record)
    names = ", ".join(list(record)[:6])
    raise RecordError("record", f"a record of {names} ...", f"multiscale.Alert, or a field {EMBEDDED_FIELD}")


def alert_title(alert: Alert | EmbeddedAlert) -> str:
    """Return a line that names an alert: survey, object, band and time where they are known."""
    if isinstance(alert, EmbeddedAlert):
        names = ("objectId", "diaSourceId", "candid", "alertId")
        return " ".join(str(alert.record[name]) for name in names if alert.record.get(name) is not None)
    d = alert.detection
    parts = [alert.survey, alert.object_id or alert.alert_id, d.band, f"MJD {d.time:.5f} {d.time_scale}"]
    return "  ".join(part for part in parts if part)


def cutout_record(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the ``multiscale.Cutout`` record inside any record, or None when it is null.

    Takes an alert, an alert that embeds, or a cutout itself. Raises RecordError for anything else.
    """
    for name in (EMBEDDED_FIELD, "cutout"):
        if name in record:
            return record[name]
    if "planes" in record and "nLevels" in record:
        return record
    names = ", ".join(list(record)[:6])
    raise RecordError(
        "record", f"a record of {names} ...", "a multiscale.Cutout, or an alert that carries one"
    )


def _cutout_of(record: Mapping[str, Any], name: str) -> Cutout:
    try:
        return Cutout.from_record(record)
    except RecordError as error:
        raise error.within(name) from None
