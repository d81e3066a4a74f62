"""From a candidate and what is known of its object to a validated packet (specification, 6.6 and 8.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from multiscale import Alert, Cutout, StampError
from multiscale.avro import Schema, decode_single, encode_single
from multiscale.avro.container import SINGLE_MAGIC
from multiscale.errors import SchemaError
from multiscale.packet import (
    Classification,
    Detection,
    ForcedPhotometry,
    ProcessingStep,
    Provenance,
    UpperLimit,
)
from multiscale.schema import load_schema
from multiscale.validate import record_faults, schema_faults

from ..candidate import Candidate
from ..difference_products import StoredDifference
from ..errors import FrameError
from .records import detection_record, finite

STAGE = "alert"


def candidate_id(survey: str, branch: str, exposure_id: str, number: int) -> str:
    """Return the identifier of a candidate: the same whenever the same exposure is processed."""
    return f"{survey}-{branch}-{exposure_id}-{number:05d}"


def alert_id(survey: str, branch: str, exposure_id: str, number: int) -> str:
    """Return the identifier of a candidate's alert, by which who gets it twice knows that."""
    return f"{candidate_id(survey, branch, exposure_id, number)}-alert"


def build_alert(
    candidate: Candidate,
    difference: StoredDifference,
    *,
    survey: str,
    object_id: str | None,
    cutout: Cutout | None,
    history: Sequence[Detection] = (),
    forced_photometry: Sequence[ForcedPhotometry] = (),
    upper_limits: Sequence[UpperLimit] = (),
    classifications: Sequence[Classification] = (),
    processing: Sequence[ProcessingStep] = (),
    provenance: Sequence[Provenance] = (),
) -> Alert:
    """Return the alert of a candidate of ``difference``.

    ``history``, ``forced_photometry`` and ``upper_limits`` are the object's, oldest first, without this
    detection.
    """
    return Alert(
        alert_id=alert_id(survey, difference.branch, difference.exposure.id, candidate.number),
        survey=survey,
        object_id=object_id,
        detection=detection_of(candidate, difference, survey=survey),
        history=tuple(history),
        forced_photometry=tuple(forced_photometry),
        upper_limits=tuple(upper_limits),
        cross_matches=candidate.matches,
        classifications=tuple(classifications),
        processing=tuple(processing),
        provenance=tuple(provenance),
        properties=properties_of(candidate, difference),
        cutout=cutout,
    )


def detection_of(candidate: Candidate, difference: StoredDifference, *, survey: str) -> Detection:
    """Return a candidate of ``difference`` as the detection of its alert."""
    quality, zero_point, exposure = difference.quality, difference.zero_point, difference.exposure
    return detection_record(
        candidate,
        exposure,
        detection_id=candidate_id(survey, difference.branch, exposure.id, candidate.number),
        pixel_scale=difference.pixel_scale,
        limiting_magnitude=None if quality is None else quality.limiting_magnitude,
        zero_point_band=None if zero_point is None else zero_point.band,
    )


def properties_of(candidate: Candidate, difference: StoredDifference) -> dict[str, Any]:
    """Return what the record has no field for: of the candidate, and of the difference it was found on."""
    exposure, quality, zero_point = difference.exposure, difference.quality, difference.zero_point
    found: dict[str, Any] = {
        "branch": difference.branch,
        "template_id": difference.template_id,
        "field_id": exposure.field_id,
        "camera": exposure.camera,
        "airmass": exposure.airmass,
        "candidate_number": candidate.number,
        "n_pixels": candidate.n_pixels,
        "extraction_flags": candidate.flags,
        "mask_bits": candidate.mask_bits,
        "mask_fraction": candidate.mask_fraction,
        "edge": candidate.edge,
        "dipole": candidate.dipole,
        "cut": candidate.cut,
        "pixel_scale": difference.pixel_scale,
        "input_digest": difference.input_digest,
    }
    if quality is not None:
        found |= {
            "frame_fwhm": quality.fwhm * difference.pixel_scale,
            "frame_ellipticity": quality.ellipticity,
            "frame_background": quality.background,
            "frame_background_rms": quality.background_rms,
            "frame_pearson": quality.pearson,
            "frame_cloud_score": quality.cloud_score,
        }
    if zero_point is not None:
        found |= {"zero_point": zero_point.value, "zero_point_error": zero_point.error}
    subtraction = difference.decisions.get("subtract", {})
    for name in ("held_out_chi2", "photometric_ratio", "convolved"):
        if name in subtraction:
            found[name] = subtraction[name]
    return {name: finite(value) if isinstance(value, float) else value for name, value in found.items()}


def validated_packet(alert: Alert) -> bytes:
    """Return the alert as a single-object message (8.2), read again and checked as by `multiscale validate`.

    Raises FrameError("alert-refused"), which names every fault: such an alert is not to be sent.
    """
    exposure_id = alert.detection.exposure_id or alert.alert_id
    try:
        message = encode_single(alert_schema(), alert.to_record())
        record = packet_record(message)
        faults = [str(fault) for fault in record_faults(record)]
    except StampError as error:
        faults = [str(error)]
    if faults:
        raise FrameError(exposure_id, STAGE, "alert-refused", f"{alert.alert_id}: {'; '.join(faults)}")
    return message


def alert_of(message: bytes) -> Alert:
    """Return the alert in a single-object message of this schema. Raises StampError."""
    return Alert.from_record(packet_record(message))


def packet_record(message: bytes) -> dict[str, Any]:
    """Return the record in a single-object message of this schema. Raises StampError."""
    return decode_single(message, [alert_schema()])


def packet_body(message: bytes) -> bytes:
    """Return the record's bytes alone. Raises SchemaError for a message of another schema."""
    head = SINGLE_MAGIC + alert_schema().fingerprint
    if not message.startswith(head):
        raise SchemaError("schema", f"a message that begins {message[:10].hex()}", f"{head.hex()}: our Alert")
    return message[len(head) :]


@lru_cache(maxsize=1)
def alert_schema() -> Schema:
    """Return the schema that packets are written with, made ready. Raises what `validate` says against it."""
    schema = load_schema("multiscale.Alert")
    for fault in schema_faults(schema):
        raise fault
    return Schema.of(schema)
