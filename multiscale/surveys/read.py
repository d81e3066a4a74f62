"""Which survey a packet is of, and the reader for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import fits_cutouts, lsst, ztf
from .model import SurveyAlert


def read_survey_alert(
    record: dict[str, Any],
    *,
    schema: object = None,
    survey: str = "auto",
    pixel_scale: float | None = None,
) -> SurveyAlert:
    """Return a survey's own alert record as a SurveyAlert.

    ``schema`` is the writer's Avro schema (its names help to tell the survey); ``survey`` a name that
    :func:`detect_survey` returns, any other name of a survey whose cutouts are FITS, or "auto".
    ``pixel_scale`` (arcsec) is for surveys whose packets do not say it; where they do, theirs is used.
    Raises SurveyError that says which field keeps the alert from being converted.
    """
    name = detect_survey(record, schema) if survey == "auto" else survey
    if name == ztf.SURVEY and isinstance(record.get("candidate"), Mapping):
        return ztf.read(record)
    if name == lsst.SURVEY:
        return lsst.read(record)
    return fits_cutouts.read(record, survey=name, pixel_scale=pixel_scale)


def detect_survey(record: Mapping[str, Any], schema: object = None) -> str:
    """Return the name of the survey a record is of: "ZTF", "LSST", "PGIR", …, or "unknown".

    The record's own fields decide; the names in the schema help where these do not, because brokers
    rename schemas ("topLevelRecord").
    """
    source = record.get("diaSource")
    if isinstance(source, Mapping) and "midpointMjdTai" in source:
        return lsst.SURVEY
    return fits_cutouts.survey_of(record, schema)
