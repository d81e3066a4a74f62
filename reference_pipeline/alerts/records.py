"""What was measured, as the records of an alert (specification, 6.6): of now and of before alike.

Fluxes are nanojansky, as electrons of two exposures cannot be compared: the AB magnitude that the pipeline
gave a detection, or the limiting magnitude it gave a forced flux, says what an electron is worth at that
place. Where there is no zero point, or one of another system, the unit stays "electron", and the record says
so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from multiscale.packet import Detection, ForcedPhotometry, UpperLimit

from ..candidate import Candidate
from ..frame import Exposure, MaskBit

AB_NANOJANSKY = 31.4  # magnitude of 1 nJy: 8.90 + 2.5 log10(1e9), Oke & Gunn 1983
LIMIT_SIGMA = 5.0
TIME_SCALE = "UTC"
VEGA_BANDS = frozenset({"bt", "vt", "G", "BP", "RP"})  # of Tycho-2 and Gaia; other catalogues here are AB
_ARCSEC = 3600.0  # in a degree
_LARGEST = 3.4028234e38  # of binary32, as the schema has most of these fields


@dataclass(frozen=True)
class Flux:
    """A flux with its unit: "nJy" (AB), or "electron" of its exposure."""

    value: float | None
    error: float | None
    unit: str


def detection_record(
    candidate: Candidate, exposure: Exposure, *, detection_id: str, pixel_scale: float,
    limiting_magnitude: float | None, zero_point_band: str | None,
) -> Detection:  # fmt: skip
    """Return a candidate as a detection: errors of position and FWHM in arcsec, time at mid-exposure.

    ``pixel_scale`` (arcsec) is that of the difference, ``zero_point_band`` the reference catalogue's. Flags
    are the names of the mask's bits within one FWHM. What is not finite is null.
    """
    system = system_of(zero_point_band)
    magnitude = finite(candidate.magnitude)
    flux = flux_of(
        finite(candidate.flux), finite(candidate.flux_err), magnitude=magnitude if system == "AB" else None
    )
    return Detection(
        detection_id=detection_id,
        exposure_id=exposure.id,
        detector=exposure.camera,
        time=exposure.mid_mjd,
        time_scale=TIME_SCALE,
        exposure_time=exposure.exposure_time,
        band=band_of(exposure, zero_point_band),
        ra=candidate.ra,
        dec=candidate.dec,
        ra_err=finite(candidate.ra_err, _ARCSEC),
        dec_err=finite(candidate.dec_err, _ARCSEC),
        x=candidate.x,
        y=candidate.y,
        flux=flux.value,
        flux_err=flux.error,
        flux_unit=flux.unit,
        magnitude=magnitude,
        magnitude_err=finite(candidate.magnitude_err),
        magnitude_system=None if magnitude is None else system,
        limiting_magnitude=finite(limiting_magnitude),
        snr=finite(candidate.snr),
        is_positive=candidate.is_positive,
        fwhm=finite(candidate.fwhm, pixel_scale),
        elongation=finite(candidate.elongation),
        position_angle=finite(candidate.position_angle),
        flags=tuple(str(bit.name) for bit in MaskBit if candidate.mask_bits & bit),
    )


def forced_record(
    exposure: Exposure, *, flux: float | None, error: float | None, limiting_magnitude: float | None,
    flags: Sequence[str], zero_point_band: str | None,
) -> ForcedPhotometry:  # fmt: skip
    """Return a flux (electrons) that was measured where an object is known to be."""
    limit = limiting_magnitude if system_of(zero_point_band) == "AB" else None
    found = flux_of(flux, error, limit=limit)
    return ForcedPhotometry(
        exposure_id=exposure.id,
        time=exposure.mid_mjd,
        time_scale=TIME_SCALE,
        band=band_of(exposure, zero_point_band),
        flux=found.value,
        flux_err=found.error,
        flux_unit=found.unit,
        limiting_magnitude=limiting_magnitude,
        flags=tuple(flags),
    )


def limit_record(exposure: Exposure, limit: float, *, zero_point_band: str | None) -> UpperLimit:
    """Return an exposure that covered an object and did not show it, down to ``limit`` (magnitude)."""
    return UpperLimit(
        exposure_id=exposure.id,
        time=exposure.mid_mjd,
        time_scale=TIME_SCALE,
        band=band_of(exposure, zero_point_band),
        limiting_magnitude=limit,
        sigma=LIMIT_SIGMA,
    )


def band_of(exposure: Exposure, zero_point_band: str | None) -> str:
    """The band, which a record must have: the header's, else that of the zero point, else "unknown"."""
    return exposure.band or zero_point_band or "unknown"


def system_of(zero_point_band: str | None) -> str:
    """The magnitude system of the reference catalogue, by its bands' names."""
    return "Vega" if zero_point_band in VEGA_BANDS else "AB"


def flux_of(
    flux: float | None, error: float | None, *, magnitude: float | None = None, limit: float | None = None
) -> Flux:
    """Return a flux in nanojansky; ``magnitude`` is that of its absolute value, or ``limit`` of 5 errors."""
    scale = None
    if magnitude is not None and flux:
        scale = nanojansky(magnitude) / abs(flux)
    elif limit is not None and error:
        scale = nanojansky(limit) / (LIMIT_SIGMA * error)
    if scale is None or not math.isfinite(scale):
        return Flux(flux, error, "electron")
    return Flux(finite(flux, scale), finite(error, scale), "nJy")


def nanojansky(magnitude: float) -> float:
    """Return the flux density of an AB magnitude."""
    try:
        return float(10.0 ** (0.4 * (AB_NANOJANSKY - magnitude)))
    except OverflowError:
        return math.inf


def finite(value: float | None, unit: float = 1.0) -> float | None:
    """Return a number in other units, None for what is not a number that a field of 32 bits holds."""
    if value is None or not abs(value * unit) <= _LARGEST:
        return None
    return float(value) * unit
