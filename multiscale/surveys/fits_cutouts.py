"""Alerts of other surveys that carry FITS cutouts: one reader, and a table of what packets leave out.

The packets agree on little but this: fields named like "cutout…" hold one FITS image each, plain or
gzipped, and a record beside them (``candidate``, ``diaSource``, or the alert itself) holds the detection.
What was found in the 14 packets of 6 surveys that the project keeps, and in the flat records of labelled
ZTF stamps:

- *Centre*: the middle pixel; all sides are odd (61, 63, 81, 121, 129).
- *Position*: known where the header has a WCS (Roman: the object is where x − round(x) of the record says, to
  0.001 pixels). The xpos, ypos of PGIR, WINTER and WIRC do not predict the centroid to better than a pixel,
  TURBO and DECam have none: null.
- *Sign*: science − template wherever it can be told (``isdiffpos`` is true in all that have it). A packet
  whose candidate is negative but whose difference is positive at the centre ships template − science, as
  ZTF does.
- *Pixel scale* is in no header but Roman's; TURBO's is not known here, so the caller has to give it.
- *Units*: in no header but Roman's. WINTER's differences are float64.
- *Times*: the schemas of PGIR, WINTER, WIRC and TURBO call jd the start of the exposure; Roman's
  midpointMjd is the middle, UTC. DECam's fluxes are in µJy: its magnitudes are 23.9 − 2.5·log10(flux).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from ..errors import SurveyError
from . import planes as planes_of
from . import records, ztf
from .model import PlaneKey, SurveyAlert, SurveyCutout, Wcs
from .wcs import wcs_of


class Survey(NamedTuple):
    """What a survey's packets leave out."""

    pattern: str  # of the publisher, the schema's name and the object's id, joined, lower case
    pixel_scale: float | None = None  # arcsec
    time_scale: str = "UNKNOWN"
    bands: tuple[str, ...] = ()  # by fid, from 0
    band: str | None = None  # where there is but one
    flux_unit: str | None = None


INFRARED: Final = ("Y", "J", "H", "K")
# In this order: the first whose pattern is found is it. WINTER's early test packets hold Palomar WIRC images.
SURVEYS: Final = {
    "ZTF": Survey(r"\bztf|ztf\d\d[a-z]{7}", ztf.PIXEL_SCALE, "UTC", ("", "g", "r", "i")),
    "PGIR": Survey(r"pgir", 4.35, "UTC", band="J", flux_unit="adu"),  # drizzled to half an 8.7 arcsec pixel
    "WIRC": Survey(r"wirc\d\d", 0.2487, "UTC", INFRARED),  # measured: two alerts 1003 pixels apart
    "WINTER": Survey(r"winter|wntr", 1.108, "UTC", INFRARED),  # measured: three alerts of one exposure
    "TURBO": Survey(r"turbo", None, "UTC", INFRARED),
    "DECam": Survey(r"desirt|decam", 0.263, "UNKNOWN", flux_unit="uJy"),
    "Roman": Survey(r"rapid|roman", None, "UTC", flux_unit="nJy"),
}
UNKNOWN: Final = Survey("")
EARLIER: Final = ("prv_candidates", "prvDiaSources")
FORCED: Final = ("fp_hists", "prvDiaForcedSources")
TIMES: Final = ("midpointMjd", "mjd", "jd")

PROPERTIES: Final = (
    *("field", "programid", "ndethist", "jdstarthist", "jdendhist", "magap", "sigmagap", "magapbig"),
    *("sigmagapbig", "chipsf", "aimage", "bimage", "nneg", "nbad", "sumrat", "mindtoedge", "magzpsci"),
    *("magzpsciunc", "magzpscirms", "nmtchps", "nmtchtm", "sharpness", "roundness1", "roundness2"),
    *("peak", "label_hint", "label_basis", "weak"),
)


def read(record: dict[str, Any], *, survey: str, pixel_scale: float | None = None) -> SurveyAlert:
    """Return an alert with FITS cutouts as a SurveyAlert.

    ``pixel_scale`` (arcsec) is used where neither a WCS nor the survey's name tells it. Raises
    SurveyError that names the field: "cutout-image" for a cutout that cannot be read, "survey" where
    a needed field or the pixel scale is absent, or every cutout is null.
    """
    facts = SURVEYS.get(survey, UNKNOWN)
    fields = planes_of.cutout_fields(record)
    if not fields:
        expected = "an alert with fields like cutoutScience, cutoutTemplate, cutoutDifference"
        raise SurveyError("survey", f"no cutout among {len(record)} fields", expected)
    source = source_of(record)
    if survey == ztf.SURVEY:  # the flat records of stamp collections: cutouts as ZTF sent them
        cutout = ztf.read_cutout(record, fields, source)
    else:
        cutout = _cutout(record, fields, source, facts.pixel_scale or pixel_scale)
    alert_fields = _alert_fields(record, source, survey, facts, cutout.notes)
    return SurveyAlert(survey, record, cutout, alert_fields, tuple(fields))


def survey_of(record: Mapping[str, Any], schema: object = None) -> str:
    """Return the survey (a key of ``SURVEYS``) that a record or its schema names, or "unknown"."""
    names = [record.get("publisher"), record.get("objectId"), record.get("objectid")]
    candidate = record.get("candidate")
    if isinstance(schema, Mapping):
        names += [schema.get("namespace"), schema.get("name")]
    if isinstance(candidate, Mapping):
        names.append(candidate.get("pdiffimfilename"))
    text = " ".join(str(name).lower() for name in names if name)
    for name, facts in SURVEYS.items():
        if re.search(facts.pattern, text):
            return name
    return "unknown"


def source_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the record of the detection: ``candidate``, ``diaSource``, or a flat alert itself."""
    for name in ("candidate", "diaSource"):
        if isinstance(record.get(name), Mapping):
            return record[name]
    return record


def _cutout(
    record: Mapping[str, Any], fields: Mapping[str, str], source: Mapping[str, Any], pixel_scale: float | None
) -> SurveyCutout:
    planes, headers, notes = planes_of.read_images(record, fields)
    notes += _align(planes)
    image = next(image for image in planes_of.IMAGES if image in planes)
    height, width = planes[image].shape
    center = (width - 1) // 2, (height - 1) // 2
    wcs, wcs_notes = wcs_of(headers[image], (height, width))
    if "difference" in planes:
        notes += _orient(planes, source, center)
    scale = wcs.pixel_scale if wcs else pixel_scale
    if scale is None:
        raise SurveyError("survey", "no pixel scale in the packet", "one given by the caller, in arcsec")
    return SurveyCutout(
        planes=planes,
        center=center,
        position=_position(wcs, source, center),
        pixel_scale=scale,
        units={key: planes_of.unit_of(headers[str(key)].get("BUNIT")) for key in planes},
        wcs=wcs,
        clipped_by="CUTOUT",
        missing=planes_of.missing_planes(fields, planes),
        notes=[*wcs_notes, *notes],
    )


def _align(planes: dict[PlaneKey, np.ndarray]) -> list[str]:
    """Bring all planes to one shape about their middle pixels: the science image's, if there is one."""
    first = next(image for image in planes_of.IMAGES if image in planes)
    height, width = planes[first].shape
    notes = []
    for key, plane in planes.items():
        dy, dx = height - plane.shape[0], width - plane.shape[1]
        if (dx, dy) == (0, 0):
            continue
        if dx % 2 or dy % 2:  # their middles are half a pixel apart
            found = f"shapes {plane.shape} and {(height, width)}"
            raise SurveyError("cutout-image", found, "one shape, or sides all odd or all even", str(key))
        moved = planes_of.on_grid(plane, x_shift=dx // 2, y_shift=dy // 2, shape=(height, width))
        notes.append(f"{key}: {plane.shape} cut and padded to {(height, width)} about its middle")
        planes[key] = moved
    return notes


def _orient(
    planes: dict[PlaneKey, np.ndarray], source: Mapping[str, Any], center: tuple[int, int]
) -> list[str]:
    """Make the difference science − template in place; say what was done or not known."""
    is_positive = _is_positive(source)
    if is_positive:
        return []
    if is_positive is False:
        excess = planes_of.center_excess(planes["difference"], *center)
        is_flipped, basis = excess > 0, f"a negative candidate, a centre of {excess:+.1f} sigma"
    else:
        sign = _noise_sign(planes)
        is_flipped, basis = sign <= -ztf.MIN_SIGN, f"no isdiffpos, sky noise {sign:+.2f}"
        if abs(sign) < ztf.MIN_SIGN:
            return [f"difference taken as science minus template: {basis} does not tell"]
    if not is_flipped:
        return [f"difference kept as science minus template: {basis}"]
    planes["difference"] = -planes["difference"]
    return [f"{ztf.FLIPPED}: {basis}"]


def _noise_sign(planes: Mapping[PlaneKey, np.ndarray]) -> float:
    if "science" not in planes:
        return 0.0
    return planes_of.noise_sign(planes["science"], planes.get("template"), planes["difference"])


def _position(
    wcs: Wcs | None, source: Mapping[str, Any], center: tuple[int, int]
) -> tuple[float, float] | None:
    """Return where the WCS puts the object, if that is within a pixel of the middle pixel."""
    ra, dec = records.number(source.get("ra")), records.number(source.get("dec"))
    if wcs is None or ra is None or dec is None:
        return None
    x, y = wcs.world_to_pixel(ra, dec)
    is_near = max(abs(x - center[0]), abs(y - center[1])) <= 1.0
    # The grid of the format is laid at centre + ½ and takes positions up to 1 pixel from there.
    is_on_grid = all(-0.5 <= place - middle < 1.5 for place, middle in zip((x, y), center))
    return (x, y) if is_near and is_on_grid else None


def _alert_fields(
    record: Mapping[str, Any], source: Mapping[str, Any], survey: str, facts: Survey, notes: list[str]
) -> dict[str, Any]:
    alert_id = _first_identifier((record, source), ("candid", "alertId", "diaSourceId", "objectId"))
    if alert_id is None:
        raise SurveyError("survey", "none of candid, alertId, diaSourceId, objectId", "an identifier")
    detections, forced = (
        [entry for name in names for entry in records.entries(record, name, needs=needs) if _has_time(entry)]
        for names, needs in ((EARLIER, ("ra", "dec")), (FORCED, ()))
    )
    return records.alert_fields(
        alert_id=alert_id,
        survey=survey,
        object_id=_first_identifier((record, source), ("objectId", "objectid", "diaObjectId")),
        detection=_detection(source, alert_id, survey, facts),
        history=records.oldest_first(
            _detection(e, _first_identifier((e,), ("candid", "diaSourceId")) or "unknown", survey, facts)
            for e in detections
        ),
        forcedPhotometry=records.oldest_first(_forced(e, facts) for e in forced),
        crossMatches=_cross_matches(source),
        classifications=_classifications(source, survey),
        provenance=records.provenance([*notes, *_time_notes(source)]),
        properties=records.properties(source, PROPERTIES),
    )


def _detection(source: Mapping[str, Any], detection_id: str, survey: str, facts: Survey) -> dict[str, Any]:
    is_positive = _is_positive(source)
    snr = records.number(source.get("snr")) or records.number(source.get("scorr"))
    flux = _first_number(source, ("psfFlux", "fluxpsf", "forcediffimflux"))
    scale = facts.pixel_scale
    detector = records.identifier(source.get("detector"))
    return records.detection_fields(
        detectionId=detection_id,
        exposureId=records.identifier(source.get("expId") or source.get("exposure")),
        detector=detector,
        time=_time(source),
        timeScale=facts.time_scale,
        exposureTime=_exposure_time(source),
        band=_band(source, facts),
        ra=records.required(source.get("ra"), "ra"),
        dec=records.required(source.get("dec"), "dec"),
        flux=flux,
        fluxErr=_first_number(source, ("psfFluxErr", "sigmafluxpsf", "forcediffimfluxunc")),
        fluxUnit=facts.flux_unit if flux is not None else None,
        magnitude=_first_number(source, ("magpsf", "forcediffimmag")),
        magnitudeErr=_first_number(source, ("sigmapsf", "forcediffimmagunc")),
        magnitudeSystem="AB" if survey in ("ZTF", "DECam") else None,
        limitingMagnitude=records.number(source.get("diffmaglim")),
        snr=snr if snr is None or is_positive is not False else -abs(snr),
        isPositive=is_positive,
        fwhm=records.scaled(source.get("fwhm"), scale) if scale else None,
        elongation=records.number(source.get("elong")),
        flags=[name for name, value in source.items() if value is True and "flag" in name.lower()],
    )


def _forced(entry: Mapping[str, Any], facts: Survey) -> dict[str, Any]:
    return {
        "exposureId": records.identifier(entry.get("expId")),
        "time": _time(entry),
        "timeScale": facts.time_scale,
        "band": _band(entry, facts),
        "flux": _first_number(entry, ("psfFlux", "forcediffimflux")),
        "fluxErr": _first_number(entry, ("psfFluxErr", "forcediffimfluxunc")),
        "fluxUnit": facts.flux_unit,
        "limitingMagnitude": records.number(entry.get("diffmaglim")),
        "flags": [],
    }


def _cross_matches(source: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the nearest minor planet, if the packet names one."""
    distance, name = records.number(source.get("ssdistnr")), records.identifier(source.get("ssnamenr"))
    if distance is None or name is None:
        return []
    magnitude = records.number(source.get("ssmagnr"))
    planet = {"kind": "minor planet", "separation": distance, "magnitude": magnitude}
    return [records.cross_match("MPC", name, **planet)]


def _classifications(source: Mapping[str, Any], survey: str) -> list[dict[str, Any]]:
    """Return the real/bogus scores under the names that ZTF and Rubin gave them."""
    scores = (("rb", "rbversion"), ("drb", "drbversion"), ("reliability", "reliabilityVersion"))
    found = (
        records.score(name, source.get(version), source.get(name), f"{survey} real/bogus")
        for name, version in scores
    )
    return [entry for entries in found for entry in entries]


def _is_positive(source: Mapping[str, Any]) -> bool | None:
    """Return whether the object brightened, from isdiffpos or isNegative; None where neither says."""
    is_negative = records.truth(source.get("isNegative"))
    return records.truth(source.get("isdiffpos")) if is_negative is None else not is_negative


def _time(source: Mapping[str, Any]) -> float:
    """Return the MJD: midpointMjd or mjd as it is, or jd plus half the exposure where that is known."""
    mjd = _first_number(source, ("midpointMjd", "mjd"))
    if mjd is not None:
        return mjd
    start = records.mjd_from_jd(records.required(source.get("jd"), "jd"))
    return records.mid_exposure(start, _exposure_time(source))


def _has_time(source: Mapping[str, Any]) -> bool:
    return _first_number(source, TIMES) is not None


def _time_notes(source: Mapping[str, Any]) -> list[str]:
    if records.number(source.get("midpointMjd")) is not None:
        return []
    if records.number(source.get("mjd")) is not None:
        return ["whether mjd is the start or the middle of an exposure is not known"]
    length = _exposure_time(source)
    if length is None:
        return ["times are jd, the start of an exposure: its length is not in the packet"]
    return [f"time is jd, the start of the exposure, plus half of {length:g} s; other times are starts"]


def _exposure_time(source: Mapping[str, Any]) -> float | None:
    return _first_number(source, ("exptime", "exposureTime"))


def _band(source: Mapping[str, Any], facts: Survey) -> str:
    fid = source.get("fid")
    if isinstance(fid, int) and 0 <= fid < len(facts.bands) and facts.bands[fid]:
        return facts.bands[fid]
    named = _first_identifier((source,), ("band", "filter")) or facts.band
    return named or ("unknown" if fid is None else f"fid {fid}")


def _first_number(source: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    return next((value for name in names if (value := records.number(source.get(name))) is not None), None)


def _first_identifier(places: tuple[Mapping[str, Any], ...], names: tuple[str, ...]) -> str | None:
    found = (records.identifier(place.get(name)) for name in names for place in places)
    return next((value for value in found if value is not None), None)
