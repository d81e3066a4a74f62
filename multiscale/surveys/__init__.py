"""Readers of surveys' own alert packets: planes, position, units and fields of one alert."""

from .model import Missing, PlaneKey, SurveyAlert, SurveyCutout, Wcs
from .read import detect_survey, read_survey_alert

__all__ = [
    "read_survey_alert",
    "detect_survey",
    "SurveyAlert",
    "SurveyCutout",
    "Missing",
    "PlaneKey",
    "Wcs",
]
