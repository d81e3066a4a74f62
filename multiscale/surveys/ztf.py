"""ZTF alerts: three 63×63 gzipped FITS cutouts without a WCS, and the record around them.

Everything here was measured on the 219 ZTF alerts (schemas 1.8 to 4.02) that the project keeps.

- *Position.* ``xpos``, ``ypos`` are FITS pixels: the first is 1. Every cutout is cut around
  round(xpos), round(ypos), which is its pixel 31; the object is at 31 + xpos − round(xpos). Centroids of
  the 121 brightest differences follow that with slope 1.00, a median offset below 0.003 pixels and a
  scatter (MAD) of 0.02 in x and 0.05 in y.
- *Clipped cutouts.* A quadrant has 3072 × 3080 pixels. All 15 cutouts that are not 63×63 have exactly
  the shape that round(xpos), round(ypos) and these edges give. NaN inside a 63×63 cutout is not the
  chip's edge but a lack of data. Without xpos and ypos the peak of the difference tells the side in 13
  of these 15, is never wrong, and the other two are reported.
- *Sign.* The difference is template − science where ``isdiffpos`` is 'f' or '0': all 75 such alerts have a
  positive centre as shipped, and the sky noise says the same (:func:`planes.noise_sign`).
- *No data* is NaN; three templates also hold −3.4e38.
- *Pixel scale.* 1.012 arcsec (Masci et al. 2019); 54 pairs of alerts of one exposure give 1.0126 (1.0120 to
  1.0132).
- *Times.* ``jd`` is the start of the exposure, UTC; the middle is exptime/2 later. exptime came with
  schema 3.0.
- ``ssdistnr`` 0.0 is a match, −999 none; in ``fp_hists`` −99999 is "not measured".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from ..errors import SurveyError
from . import planes as planes_of
from . import records
from .model import Missing, PlaneKey, SurveyAlert, SurveyCutout

SURVEY: Final = "ZTF"
PIXEL_SCALE: Final = 1.012  # arcsec
SIDE: Final = 63  # pixels
CENTER: Final = 31  # pixel of a whole cutout that the survey cut around
CHIP: Final = (3072, 3080)  # pixels of a quadrant along x, y
BANDS: Final = {1: "g", 2: "r", 3: "i"}
MIN_SIGN: Final = 0.2  # smallest |noise_sign| that is trusted
FLIPPED: Final = "difference multiplied by -1"
CANDID_MJD: Final = 57754.0  # MJD at which the night counter of a candid is 0 (JD 2457754.5)

PROPERTIES: Final = (
    *("field", "rcid", "programid", "rfid", "nframesref", "tooflag", "ndethist", "ncovhist"),
    *("jdstarthist", "jdendhist", "jdstartref", "jdendref", "magap", "sigmagap", "magapbig", "sigmagapbig"),
    *("chipsf", "distnr", "magnr", "sigmagnr", "chinr", "sharpnr", "sky", "classtar", "mindtoedge"),
    *("magfromlim", "seeratio", "aimage", "bimage", "nneg", "nbad", "sumrat", "dsnrms", "ssnrms", "dsdiff"),
    *("magzpsci", "magzpsciunc", "magzpscirms", "clrcoeff", "nmtchps", "neargaia", "maggaia"),
    *("neargaiabright", "maggaiabright"),
)


class Axis(NamedTuple):
    """Where a cutout lies along one axis."""

    center: int  # pixel that the survey cut around
    offset: float | None  # of the object from that pixel; None: not known
    clipped_by: str  # "DETECTOR", "CUTOUT" or "UNKNOWN"
    note: str | None = None


def read(record: dict[str, Any]) -> SurveyAlert:
    """Return a ZTF alert packet (any schema with ``candidate``) as a SurveyAlert.

    Raises SurveyError that names the field: "cutout-image" for a cutout that cannot be read, "survey"
    where a needed field is absent, every cutout is null, or the clipped side of a cutout cannot be told.
    """
    candidate = record.get("candidate")
    if not isinstance(candidate, Mapping):
        raise SurveyError("survey", type(candidate).__name__, "a record", "candidate")
    fields = planes_of.cutout_fields(record)
    cutout = read_cutout(record, fields, candidate)
    notes = [*cutout.notes, *_time_notes(record, candidate)]
    return SurveyAlert(
        survey=SURVEY,
        record=record,
        cutout=cutout,
        fields=_alert_fields(record, candidate, notes),
        cutout_fields=tuple(fields),
    )


def read_cutout(
    record: Mapping[str, Any], fields: Mapping[str, str], candidate: Mapping[str, Any]
) -> SurveyCutout:
    """Return the cutouts of a record; ``candidate`` gives xpos, ypos and isdiffpos where it has them."""
    planes, headers, notes = planes_of.read_images(record, fields)
    shapes = {plane.shape for plane in planes.values()}
    if len(shapes) > 1:
        raise SurveyError("cutout-image", f"shapes {sorted(shapes)}", "one shape for all cutouts")
    x, y = _axes(planes, shapes.pop(), candidate)
    notes += [axis.note for axis in (x, y) if axis.note]
    missing: list[Missing] = []
    if "difference" in planes:
        notes += _orient(planes, candidate.get("isdiffpos"), missing)
    units = {key: planes_of.unit_of(headers[str(key)].get("BUNIT")) for key in planes}
    is_located = x.offset is not None and y.offset is not None
    return SurveyCutout(
        planes=planes,
        center=(x.center, y.center),
        position=(x.center + (x.offset or 0.0), y.center + (y.offset or 0.0)) if is_located else None,
        pixel_scale=PIXEL_SCALE,
        units=units,
        clipped_by=_clipped_by(x.clipped_by, y.clipped_by),
        missing=missing + planes_of.missing_planes(fields, planes, known=missing),
        notes=notes,
    )


def axis_of(side: int, position: object, chip: int, name: str) -> Axis | None:
    """Return where a cutout of ``side`` pixels lies, from xpos or ypos; None where these do not tell.

    ``chip`` is the quadrant's size along the axis. A whole cutout needs no position.
    """
    place = records.number(position)
    if place is None:
        return Axis(CENTER, None, "CUTOUT") if side == SIDE else None
    pixel = int(np.floor(place + 0.5))  # 1-based, as place
    offset = place - pixel
    below, above = min(CENTER, pixel - 1), min(CENTER, chip - pixel)  # pixels given on either side
    if below + 1 + above == side:
        return Axis(below, offset, "CUTOUT" if side == SIDE else "DETECTOR")
    if side == SIDE:  # whole, although the position says that it cannot be
        return Axis(
            CENTER, offset, "CUTOUT", f"{name} {place:g} is too near the chip's edge for {side} pixels"
        )
    return None


def _axes(
    planes: Mapping[PlaneKey, np.ndarray], shape: tuple[int, int], candidate: Mapping[str, Any]
) -> tuple[Axis, Axis]:
    """Return where the cutout lies along x and y."""
    height, width = shape
    if not all(CENTER < side <= SIDE for side in shape):
        expected = f"sides from {CENTER + 1} to {SIDE} pixels"
        raise SurveyError("cutout-image", f"shape {shape}", expected)
    x = axis_of(width, candidate.get("xpos"), CHIP[0], "xpos")
    y = axis_of(height, candidate.get("ypos"), CHIP[1], "ypos")
    if x is not None and y is not None:
        return x, y
    return _axes_from_peak(planes, shape, x, y)


def _axes_from_peak(
    planes: Mapping[PlaneKey, np.ndarray], shape: tuple[int, int], x: Axis | None, y: Axis | None
) -> tuple[Axis, Axis]:
    """Return the axes of a clipped cutout whose position does not tell its side.

    The object is at pixel 31 if the high side was clipped, 32 before the end if the low side was. As
    shipped every difference has a positive centre, so the side with the higher excess is taken, if that
    is above 3 σ and twice the other one. Raises SurveyError where the pixels do not tell either.
    """
    image = planes.get("difference")
    guesses = [
        [known] if known is not None else [Axis(c, None, "UNKNOWN") for c in (CENTER, side - CENTER - 1)]
        for known, side in ((x, shape[1]), (y, shape[0]))
    ]
    if image is None:
        raise SurveyError("survey", "no xpos, ypos", "them, to tell which side is clipped", "candidate")
    pairs = [(gx, gy) for gx in guesses[0] for gy in guesses[1]]
    peaks = [np.nan_to_num(planes_of.center_excess(image, gx.center, gy.center)) for gx, gy in pairs]
    second, best = sorted(peaks)[-2:]
    gx, gy = pairs[peaks.index(best)]
    if not best > max(3.0, 2.0 * second):
        found = f"shape {shape}, no fitting xpos, ypos, and peaks of {best:.1f} and {second:.1f} sigma"
        raise SurveyError("survey", found, "a cutout whose clipped side can be told", "candidate")
    note = f"clipped side taken from the peak of the difference ({best:.1f} against {second:.1f} sigma)"
    return gx._replace(note=note), gy


def _orient(planes: dict[PlaneKey, np.ndarray], isdiffpos: object, missing: list[Missing]) -> list[str]:
    """Make the difference science − template in place; say what was done, or drop a plane of unknown sign."""
    is_positive = records.truth(isdiffpos)
    if is_positive is not None:
        if is_positive:
            return []
        planes["difference"] = -planes["difference"]  # exact
        return [f"{FLIPPED}: isdiffpos {isdiffpos!r} ships template minus science"]
    sign = 0.0
    if "science" in planes:
        sign = planes_of.noise_sign(planes["science"], planes.get("template"), planes["difference"])
    basis = f"no isdiffpos, noise correlation {sign:+.2f}"
    if abs(sign) < MIN_SIGN:
        if len(planes) == 1:
            raise SurveyError(
                "survey", "no isdiffpos", "one, to tell the sign of the difference", "candidate"
            )
        del planes["difference"]
        missing.append(Missing("DIFFERENCE", "NONE", "UNKNOWN", f"its sign cannot be told: {basis}"))
        return [f"difference left out: its sign cannot be told ({basis})"]
    if sign > 0:
        return [f"difference kept as science minus template: {basis}"]
    planes["difference"] = -planes["difference"]
    return [f"{FLIPPED}: {basis}"]


def _clipped_by(x: str, y: str) -> str:
    for reason in ("UNKNOWN", "DETECTOR"):
        if reason in (x, y):
            return reason
    return "CUTOUT"


def _alert_fields(
    record: Mapping[str, Any], candidate: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    candid = records.identifier(record.get("candid") or candidate.get("candid"))
    if candid is None:
        raise SurveyError("survey", repr(record.get("candid")), "an identifier", "candid")
    detections = records.entries(record, "prv_candidates", needs=("candid", "jd", "ra", "dec"))
    limits = records.entries(record, "prv_candidates", needs=("jd", "diffmaglim"))
    forced = records.entries(record, "fp_hists", needs=("jd",))
    return records.alert_fields(
        alert_id=candid,
        survey=SURVEY,
        object_id=records.identifier(record.get("objectId")),
        detection=_detection(candidate, candid),
        history=records.oldest_first(_detection(e, str(e["candid"])) for e in detections),
        upperLimits=records.oldest_first(_upper_limit(e) for e in limits if e.get("candid") is None),
        forcedPhotometry=records.oldest_first(_forced(e) for e in forced),
        crossMatches=records.nearest_first(_cross_matches(candidate)),
        classifications=_classifications(candidate),
        provenance=records.provenance(notes),
        properties=records.properties(candidate, PROPERTIES),
    )


def _detection(candidate: Mapping[str, Any], candid: str) -> dict[str, Any]:
    """Return a ``multiscale.Detection``; snr is scorr, the matched filter's peak, with isdiffpos's sign."""
    is_positive = records.truth(candidate.get("isdiffpos"))
    snr = records.scaled(candidate.get("scorr"), -1.0 if is_positive is False else 1.0)
    exposure_time = records.number(candidate.get("exptime"))
    return records.detection_fields(
        detectionId=candid,
        exposureId=_exposure_id(candidate),
        detector=_detector(candidate),
        time=_time(candidate, exposure_time),
        timeScale="UTC",
        exposureTime=exposure_time,
        band=_band(candidate),
        ra=records.required(candidate.get("ra"), "candidate.ra"),
        dec=records.required(candidate.get("dec"), "candidate.dec"),
        x=_minus_one(candidate.get("xpos")),
        y=_minus_one(candidate.get("ypos")),
        magnitude=records.number(candidate.get("magpsf")),
        magnitudeErr=records.number(candidate.get("sigmapsf")),
        magnitudeSystem="AB",
        limitingMagnitude=records.number(candidate.get("diffmaglim")),
        snr=snr,
        isPositive=is_positive,
        fwhm=records.scaled(candidate.get("fwhm"), PIXEL_SCALE),
        elongation=records.number(candidate.get("elong")),
    )


def _forced(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``multiscale.ForcedPhotometry``; a procstatus other than '0' becomes a flag."""
    status = records.identifier(entry.get("procstatus"))
    return {
        "exposureId": _exposure_id(entry),
        "time": _time(entry, records.number(entry.get("exptime"))),
        "timeScale": "UTC",
        "band": _band(entry),
        "flux": records.number(entry.get("forcediffimflux")),
        "fluxErr": records.number(entry.get("forcediffimfluxunc")),
        "fluxUnit": "adu",
        "limitingMagnitude": records.number(entry.get("diffmaglim")),
        "flags": [f"procstatus {status}"] if status not in (None, "0") else [],
    }


def _upper_limit(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "exposureId": _exposure_id(entry),
        "time": _time(entry, None),
        "timeScale": "UTC",
        "band": _band(entry),
        "limitingMagnitude": records.required(entry.get("diffmaglim"), "prv_candidates.diffmaglim"),
        "sigma": 5.0,
    }


def _cross_matches(candidate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the nearest minor planet and the up to three nearest PS1 sources, r magnitudes."""
    matches = []
    distance, name = records.number(candidate.get("ssdistnr")), records.identifier(candidate.get("ssnamenr"))
    if distance is not None and name is not None:  # 0.0 is a match
        magnitude = records.number(candidate.get("ssmagnr"))
        planet = {"kind": "minor planet", "separation": distance, "magnitude": magnitude}
        matches.append(records.cross_match("MPC", name, **planet))
    for i in (1, 2, 3):
        name = records.identifier(candidate.get(f"objectidps{i}"))
        if name is None:
            continue
        names = ("sgscore", "sgmag", "simag", "szmag")
        more = {n: value for n in names if (value := records.number(candidate.get(f"{n}{i}"))) is not None}
        source = {
            "separation": records.number(candidate.get(f"distpsnr{i}")),
            "magnitude": records.number(candidate.get(f"srmag{i}")),
            "properties": more,
        }
        matches.append(records.cross_match("PS1", name, **source))
    return matches


def _classifications(candidate: Mapping[str, Any]) -> list[dict[str, Any]]:
    forest = records.score("rb", candidate.get("rbversion"), candidate.get("rb"), "ZTF real/bogus")
    deep = records.score("drb", candidate.get("drbversion"), candidate.get("drb"), "ZTF real/bogus")
    return forest + deep


def _time_notes(record: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[str]:
    """Say which times are starts of exposures, and whether jd disagrees with the time in the candid."""
    notes = ["times in history and upper limits are starts of exposures: their length is not in the packet"]
    if records.number(candidate.get("exptime")) is None:
        notes = ["times are starts of exposures: their length is not in the packet"]
    candid, jd = record.get("candid"), records.number(candidate.get("jd"))
    if isinstance(candid, int) and candid > 10**17 and jd is not None:
        # A candid begins with the night (days since JD 2457754.5) and the day's fraction, 6 digits.
        apart = records.mjd_from_jd(jd) - (CANDID_MJD + candid // 10**9 / 1e6)
        if abs(apart) > 1e-3:
            notes.append(f"jd is {apart:+.5f} days from the time in candid: one of them was altered")
    return notes


def _time(entry: Mapping[str, Any], exposure_time: float | None) -> float:
    return records.mid_exposure(records.mjd_from_jd(records.required(entry.get("jd"), "jd")), exposure_time)


def _band(entry: Mapping[str, Any]) -> str:
    fid = entry.get("fid")
    return BANDS.get(fid, f"fid {fid}") if isinstance(fid, int) else "unknown"


def _exposure_id(entry: Mapping[str, Any]) -> str | None:
    """Return the night and the day's fraction of a pid: the same for all quadrants of an exposure."""
    pid = entry.get("pid")
    return str(pid // 10_000) if isinstance(pid, int) and pid >= 10**9 else None


def _detector(entry: Mapping[str, Any]) -> str | None:
    rcid = entry.get("rcid")
    return f"rcid {rcid}" if isinstance(rcid, int) else None


def _minus_one(value: object) -> float | None:
    """Return a FITS pixel position as a 0-based one."""
    measured = records.number(value)
    return None if measured is None else measured - 1.0
