"""LSST alerts (schemas 7.1 to 11): FITS cutouts with variance, PSF and a linear WCS.

Read off 49 alerts of schemas 7.4, 9.0 and 10.0 (real LSSTCam, rehearsals, HSC data through Rubin's
pipelines) and off Rubin's packaging code (lsst/ap_association, packageAlerts.py).

- *HDUs.* Primary: the image, nJy, float32. UNCERT: its variance (UTYPE VarianceUncertainty). PSFIMAGE:
  float64, sum 1, centred on its central pixel; sides are odd but not always equal (43×45, 53×51). There
  is no mask: Rubin's writer loses it.
- *Grid.* The three images of an alert have had one shape and origin throughout. CUTMINX, CUTMINY are the
  detector's pixel (0-based) of the cutout's first pixel *minus one*, so that CRPIX = x − CUTMIN, and
  the object is at CRPIX − 1 in the array; the record's x, y agree to 0.001 pixels. Centroids of the
  32 sources above 20 σ are there to within −0.02 and +0.02 pixels in the median, MAD 0.1.
- *Centre.* A Rubin cutout is not cut around a pixel but around the position (even sides, mostly 30), and
  the position in the full image travels with it. So it is treated like a cut from the full image: the
  centre is floor(x), which makes the shared corner floor(x + 1) (specification 2.2), dx in [−½, ½).
- *WCS.* PC, CRVAL and CRPIX but no CTYPE, so that readers find no celestial WCS: RA---TAN, DEC--TAN is
  meant, as the packaging code builds a gnomonic projection at the source. It is linear; the error of that
  is not known.
- *Pixel scale* varies: 0.1996 to 0.2002 arcsec for LSSTCam; HSC data have 0.156 to 0.168.
- *Sign.* Science − template: the centre of all 8 ``isNegative`` ones is below the sky. ``snr`` is never
  negative; here it gets the sign.
- *Errors of position.* raErr is the error on the sky in schema 10.0, but that times cos(dec) in 7.x and 9.0,
  so it is computed from xErr, yErr and the WCS here.
- *Times* are TAI, mid-exposure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from ..errors import SurveyError
from . import fitsio, records
from . import planes as planes_of
from .model import PlaneKey, SurveyAlert, SurveyCutout, Wcs
from .wcs import wcs_of

SURVEY: Final = "LSST"
MAX_PSF: Final = 255  # pixels a side (specification 6.2)
FWHM_PER_SIGMA: Final = 2.0 * math.sqrt(2.0 * math.log(2.0))
MASKED: Final = ("MASKED",)  # the one bit of a boolean MASK HDU

PROPERTIES: Final = (
    *(
        "parentDiaSourceId",
        "ssObjectId",
        "apFlux",
        "apFluxErr",
        "scienceFlux",
        "scienceFluxErr",
        "templateFlux",
    ),
    *("templateFluxErr", "psfChi2", "psfNdata", "trailFlux", "trailLength", "trailAngle", "dipoleMeanFlux"),
    *("dipoleFluxDiff", "dipoleLength", "dipoleAngle", "dipoleFitAttempted", "ixx", "iyy", "ixy", "ixxPSF"),
    *("iyyPSF", "ixyPSF", "extendedness", "bboxSize", "timeProcessedMjdTai", "timeWithdrawnMjdTai"),
)
OBJECT_PROPERTIES: Final = ("nDiaSources", "firstDiaSourceMjdTai", "lastDiaSourceMjdTai")
ALERT_PROPERTIES: Final = ("observation_reason", "target_name")
NOT_FLAGS: Final = frozenset(("isNegative", "is_negative", "dipoleFitAttempted"))


class Stamp(NamedTuple):
    """One cutout: an image with its variance, mask and PSF, and where it lies on the detector."""

    header: fitsio.Header
    image: np.ndarray
    variance: np.ndarray | None
    mask: np.ndarray | None  # bool
    psf: np.ndarray | None
    origin: tuple[int, int] | None  # detector pixel (x, y), 0-based, of the first pixel
    notes: list[str]


def read(record: dict[str, Any]) -> SurveyAlert:
    """Return an LSST alert packet as a SurveyAlert.

    Raises SurveyError that names the field: "cutout-image" for a cutout that cannot be read, "survey"
    where a needed field is absent or every cutout is null.
    """
    source = record.get("diaSource")
    if not isinstance(source, Mapping):
        raise SurveyError("survey", type(source).__name__, "a record", "diaSource")
    fields = planes_of.cutout_fields(record)
    cutout = read_cutout(record, fields, source)
    return SurveyAlert(
        survey=SURVEY,
        record=record,
        cutout=cutout,
        fields=_alert_fields(record, source, cutout),
        cutout_fields=tuple(fields),
    )


def read_cutout(
    record: Mapping[str, Any], fields: Mapping[str, str], source: Mapping[str, Any]
) -> SurveyCutout:
    """Return the cutouts of a record; ``source`` (diaSource) gives ra, dec and the PSF's second moments."""
    stamps = {image: stamp for name, image in fields.items() if (stamp := read_stamp(record, name))}
    if not stamps:
        raise SurveyError("survey", "no cutout", "at least one of science, template and difference")
    reference = stamps[next(image for image in planes_of.IMAGES if image in stamps)]
    planes, notes = _on_one_grid(stamps, reference)
    height, width = reference.image.shape
    wcs, wcs_notes = wcs_of(reference.header, (height, width))
    if wcs is None:
        name = next(name for name, image in fields.items() if stamps.get(image) is reference)
        raise SurveyError("survey", "no WCS", "CRPIX, CRVAL and PC, for the pixel scale", name)
    position = _position(wcs, source, (height, width))
    center = (width - 1) // 2, (height - 1) // 2
    if position is not None:
        center = math.floor(position[0]), math.floor(position[1])
    units = {image: planes_of.unit_of(stamp.header.get("BUNIT")) for image, stamp in stamps.items()}
    psf: dict[PlaneKey, np.ndarray] = {i: s.psf for i, s in stamps.items() if s.psf is not None}
    for image, stamp in stamps.items():
        notes += [f"{image}: {note}" for note in stamp.notes]
    return SurveyCutout(
        planes=planes,
        center=center,
        position=position,
        pixel_scale=wcs.pixel_scale,
        units={key: _unit(key, units) for key in planes},
        wcs=Wcs(wcs.crpix, wcs.crval, wcs.cd, None),  # Rubin's is linear itself: its error is not known
        psf=psf,
        psf_fwhm=_fwhm(source, "PSF"),
        clipped_by="CUTOUT",  # Rubin pads at the detector's edge, with no data
        missing=planes_of.missing_planes(fields, planes),
        mask_bits={key: MASKED for key in planes if isinstance(key, tuple) and key[0] == "mask"},
        notes=[*wcs_notes, *notes, *planes_of.no_data_notes(planes)],
    )


def read_stamp(record: Mapping[str, Any], name: str) -> Stamp | None:
    """Return the cutout in field ``name``; None where it is null."""
    try:
        content = planes_of.stamp_bytes(record[name])
        return None if content is None else _stamp(fitsio.read_fits(content))
    except SurveyError as error:
        raise error.within(name) from error


def _stamp(hdus: list[fitsio.Hdu]) -> Stamp:
    pixels = fitsio.image_of(hdus[0])
    planes_of.check_shape(pixels)
    image, changed = planes_of.as_float32(pixels)
    notes = [f"{pixels.dtype} rounded to float32"] if changed else []
    by_name = {hdu.name: hdu for hdu in hdus[1:]}
    variance, mask, psf = by_name.get("UNCERT"), by_name.get("MASK"), by_name.get("PSFIMAGE")
    psf_pixels, psf_notes = _psf(fitsio.image_of(psf)) if psf else (None, [])
    return Stamp(
        header=hdus[0].header,
        image=image,
        variance=_variance(variance, image.shape) if variance else None,
        mask=_same_shape(fitsio.image_of(mask), image.shape, "MASK") != 0 if mask else None,
        psf=psf_pixels,
        origin=_origin(hdus[0].header),
        notes=notes + psf_notes,
    )


def _variance(hdu: fitsio.Hdu, shape: tuple[int, ...]) -> np.ndarray:
    """Return the variance as float32 from whichever uncertainty astropy's CCDData wrote."""
    values = _same_shape(fitsio.image_of(hdu), shape, "UNCERT")
    utype = str(hdu.header.get("UTYPE") or "StdDevUncertainty")  # CCDData's own default
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if utype == "StdDevUncertainty":
            values = values**2
        elif utype == "InverseVariance":
            values = 1.0 / values
        elif utype != "VarianceUncertainty":
            raise SurveyError("cutout-image", f"UTYPE {utype}", "an uncertainty of CCDData", "UNCERT")
    return planes_of.as_float32(values)[0]


def _same_shape(values: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    if values.shape != shape:
        raise SurveyError("cutout-image", f"shape {values.shape}", f"shape {shape} of its image", name)
    return values


def _psf(values: np.ndarray) -> tuple[np.ndarray | None, list[str]]:
    """Return a PSF image as an odd square of float32 around the same central pixel, and what was done.

    None where it has an even or too long side, or a value that is not finite.
    """
    height, width = values.shape
    if height % 2 == 0 or width % 2 == 0 or max(values.shape) > MAX_PSF or not np.isfinite(values).all():
        return None, [f"PSF of shape {values.shape} left out: not an odd, finite image of at most {MAX_PSF}²"]
    psf, changed = planes_of.as_float32(values)
    notes = ["PSF rounded from float64 to float32"] if changed else []
    side = max(values.shape)
    if height != width:
        x_shift, y_shift = (side - width) // 2, (side - height) // 2
        padded = planes_of.on_grid(psf, x_shift=x_shift, y_shift=y_shift, shape=(side, side))
        psf = np.nan_to_num(padded)
        notes.append(f"PSF of {height}×{width} pixels padded with 0 to {side}×{side}")
    return psf, notes


def _origin(header: fitsio.Header) -> tuple[int, int] | None:
    """Return the detector pixel (0-based) of the first pixel; CUTMIN is one less."""
    x, y = header.get("CUTMINX"), header.get("CUTMINY")
    return (x + 1, y + 1) if isinstance(x, int) and isinstance(y, int) else None


def _on_one_grid(
    stamps: Mapping[str, Stamp], reference: Stamp
) -> tuple[dict[PlaneKey, np.ndarray], list[str]]:
    """Return all planes on the grid of ``reference``: science, else template, else difference."""
    planes: dict[PlaneKey, np.ndarray] = {}
    notes = []
    shape = reference.image.shape[0], reference.image.shape[1]
    for image, stamp in stamps.items():
        parts: dict[PlaneKey, np.ndarray | None] = {image: stamp.image, ("variance", image): stamp.variance}
        parts["mask", image] = None if stamp.mask is None else stamp.mask.astype(np.uint16)
        x_shift, y_shift = _shift(stamp, reference, image)
        is_placed = stamp.image.shape == shape and (x_shift, y_shift) == (0, 0)
        for key, part in parts.items():
            if part is not None:
                moved = planes_of.on_grid(part, x_shift=x_shift, y_shift=y_shift, shape=shape)
                planes[key] = part if is_placed else moved
        if not is_placed:
            found = f"{stamp.image.shape} at ({x_shift}, {y_shift})"
            notes.append(f"{image}: {found} cut and padded to the grid of the others, {shape}")
    return planes, notes


def _shift(stamp: Stamp, reference: Stamp, image: str) -> tuple[int, int]:
    """Return where the stamp's first pixel is on the grid of ``reference``, (x, y)."""
    if stamp.origin is not None and reference.origin is not None:
        return stamp.origin[0] - reference.origin[0], stamp.origin[1] - reference.origin[1]
    if stamp.image.shape != reference.image.shape:
        found = f"shapes {stamp.image.shape} and {reference.image.shape} without CUTMINX, CUTMINY"
        raise SurveyError("cutout-image", found, "one shape, or an origin", image)
    return 0, 0


def _position(wcs: Wcs, source: Mapping[str, Any], shape: tuple[int, int]) -> tuple[float, float] | None:
    """Return where the WCS puts the source, (x, y) in the array; None where that is not inside."""
    ra = records.required(source.get("ra"), "diaSource.ra")
    dec = records.required(source.get("dec"), "diaSource.dec")
    x, y = wcs.world_to_pixel(ra, dec)
    is_inside = 0 <= x <= shape[1] - 1 and 0 <= y <= shape[0] - 1
    return (x, y) if is_inside else None


def _unit(key: PlaneKey, units: Mapping[str, str]) -> str:
    if isinstance(key, str):
        return units[key]
    return planes_of.squared(units[key[1]]) if key[0] == "variance" else ""


def _fwhm(source: Mapping[str, Any], suffix: str) -> float | None:
    """Return the FWHM (arcsec) of the Gaussian with the source's or the PSF's second moments (arcsec²)."""
    moments = [records.number(source.get(f"{name}{suffix}")) for name in ("ixx", "iyy", "ixy")]
    if None in moments:
        return None
    xx, yy, xy = (float(moment or 0.0) for moment in moments)
    determinant = xx * yy - xy * xy
    return FWHM_PER_SIGMA * determinant**0.25 if determinant > 0 and xx > 0 else None


def _alert_fields(
    record: Mapping[str, Any], source: Mapping[str, Any], cutout: SurveyCutout
) -> dict[str, Any]:
    source_id = records.identifier(source.get("diaSourceId") or record.get("diaSourceId"))
    alert_id = records.identifier(record.get("alertId")) or source_id
    if source_id is None or alert_id is None:
        raise SurveyError("survey", repr(source.get("diaSourceId")), "an identifier", "diaSource.diaSourceId")
    history = records.entries(record, "prvDiaSources", needs=("diaSourceId", "midpointMjdTai", "ra", "dec"))
    forced = records.entries(record, "prvDiaForcedSources", needs=("midpointMjdTai",))
    return records.alert_fields(
        alert_id=alert_id,
        survey=SURVEY,
        object_id=records.identifier(source.get("diaObjectId"))
        or records.identifier(source.get("ssObjectId")),
        detection=_detection(source, source_id, cutout.wcs),
        history=records.oldest_first(_detection(e, str(e["diaSourceId"]), None) for e in history),
        forcedPhotometry=records.oldest_first(_forced(entry) for entry in forced),
        crossMatches=records.nearest_first(_cross_matches(record)),
        classifications=records.score(
            "reliability", source.get("reliabilityVersion"), source.get("reliability"), "LSST real/bogus"
        ),
        provenance=records.provenance(cutout.notes),
        properties={
            **records.properties(source, PROPERTIES),
            **records.properties(records.record_of(record.get("diaObject")), OBJECT_PROPERTIES),
            **records.properties(record, ALERT_PROPERTIES),
        },
    )


def _detection(source: Mapping[str, Any], source_id: str, wcs: Wcs | None) -> dict[str, Any]:
    """Return a ``multiscale.Detection``; the shape is that of the Gaussian with the source's moments."""
    is_negative = _is_negative(source)
    ra_error, dec_error = _sky_errors(source, wcs)
    detector = source.get("detector")
    return records.detection_fields(
        detectionId=source_id,
        exposureId=records.identifier(source.get("visit") or source.get("ccdVisitId")),
        detector=None if detector is None else str(detector),
        time=records.required(source.get("midpointMjdTai"), "diaSource.midpointMjdTai"),
        timeScale="TAI",
        band=records.identifier(source.get("band")) or "unknown",
        ra=records.required(source.get("ra"), "diaSource.ra"),
        dec=records.required(source.get("dec"), "diaSource.dec"),
        raErr=ra_error,
        decErr=dec_error,
        x=records.number(source.get("x")),
        y=records.number(source.get("y")),
        flux=records.number(source.get("psfFlux")),
        fluxErr=records.number(source.get("psfFluxErr")),
        fluxUnit="nJy",
        snr=records.scaled(source.get("snr"), -1.0 if is_negative else 1.0),
        isPositive=None if is_negative is None else not is_negative,
        fwhm=_fwhm(source, ""),
        flags=[name for name, value in source.items() if value is True and name not in NOT_FLAGS],
    )


def _is_negative(source: Mapping[str, Any]) -> bool | None:
    """Return isNegative, is_negative before schema 8; None where neither is there."""
    for name in ("isNegative", "is_negative"):
        if isinstance(source.get(name), bool):
            return bool(source[name])
    return None


def _sky_errors(source: Mapping[str, Any], wcs: Wcs | None) -> tuple[float | None, float | None]:
    """Return the errors along right ascension (on the sky) and declination, arcsec, from those in pixels.

    ``wcs`` is None for earlier detections: other visits have other rotations, which the packet does not say.
    """
    x, y = records.number(source.get("xErr")), records.number(source.get("yErr"))
    if x is None or y is None or wcs is None:
        return None, None
    (cd11, cd12), (cd21, cd22) = wcs.cd
    return 3600.0 * math.hypot(cd11 * x, cd12 * y), 3600.0 * math.hypot(cd21 * x, cd22 * y)


def _forced(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "exposureId": records.identifier(entry.get("visit") or entry.get("ccdVisitId")),
        "time": records.required(entry.get("midpointMjdTai"), "prvDiaForcedSources.midpointMjdTai"),
        "timeScale": "TAI",
        "band": records.identifier(entry.get("band")) or "unknown",
        "flux": records.number(entry.get("psfFlux")),
        "fluxErr": records.number(entry.get("psfFluxErr")),
        "fluxUnit": "nJy",
        "limitingMagnitude": None,
        "flags": [],
    }


def _cross_matches(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the minor planet the source was attributed to and the catalogued objects near its DiaObject."""
    matches = []
    planet = records.record_of(record.get("ssSource"))
    orbit = records.record_of(record.get("mpc_orbits") or record.get("MPCORB"))
    names = (
        planet.get("designation"),
        orbit.get("designation"),
        orbit.get("mpcDesignation"),
        planet.get("ssObjectId"),
    )
    name = next((name for name in map(records.identifier, names) if name), None)
    if name is not None:
        magnitude = records.number(planet.get("ephVmag")) or None  # 0.0 stands for "not computed"
        separation = records.number(planet.get("ephOffset"))
        known = {"kind": "minor planet", "separation": separation, "magnitude": magnitude}
        matches.append(records.cross_match("MPC", name, **known))
    near = records.record_of(record.get("diaObject"))
    for i in (1, 2, 3):
        neighbor = records.identifier(near.get(f"nearbyObj{i}"))
        if neighbor is not None:
            separation = records.number(near.get(f"nearbyObj{i}Dist"))
            matches.append(records.cross_match("LSST Object", neighbor, separation=separation))
    return matches
