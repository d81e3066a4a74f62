"""What was seen of an object before: detections, forced fluxes and upper limits, as an alert carries them.

Fluxes are nanojansky, as electrons of two exposures cannot be compared: the AB magnitude that the pipeline
gave a detection, or the limiting magnitude it gave a forced flux, says what an electron is worth at that
place. Where there is no zero point the unit stays "electron", and the record says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from multiscale import packet

from ..errors import StoreError
from ..frame import MaskBit
from ..store import tables
from ..store.queries import in_cone, mid_mjd
from ..store.sky import covers, separations, vectors_of

AB_NANOJANSKY = 31.4  # magnitude of 1 nJy: 8.90 + 2.5 log10(1e9), Oke & Gunn 1983
LIMIT_SIGMA = 5.0
_YEAR = 365.25
_SAME_PLACE = 2.0  # arcsec
_History = tuple[
    tuple[packet.Detection, ...], tuple[packet.ForcedPhotometry, ...], tuple[packet.UpperLimit, ...]
]


@dataclass(frozen=True)
class Flux:
    """A flux with its unit: "nJy" (AB), or "electron" of its exposure where there is no zero point."""

    value: float | None
    error: float | None
    unit: str


def history_of(session: Session, object_id: str, *, before_candidate: str, days: float = _YEAR) -> _History:
    """Return (detections, forced photometry, upper limits) of an object before a candidate, by time.

    Only what was exposed earlier, by ``days`` at most, in the object's branch: the answer does not depend on
    later exposures that have been processed meanwhile. Upper limits are of the candidate's band
    (:func:`upper_limits`). Raises StoreError for an object or a candidate that is not stored.
    """
    own = session.get(tables.Object, object_id)
    now = session.scalar(
        select(tables.Exposure)
        .join(tables.Subtraction, tables.Subtraction.exposure_id == tables.Exposure.id)
        .join(tables.Candidate, tables.Candidate.subtraction_id == tables.Subtraction.id)
        .where(tables.Candidate.id == before_candidate)
    )
    if own is None or now is None:
        raise StoreError(f"object {object_id} or candidate {before_candidate} is not stored")
    begin, end = mid_mjd(now) - days, _place(now)

    def counts(exposure: tables.Exposure) -> bool:
        return mid_mjd(exposure) >= begin and _place(exposure) < end

    detections = [
        detection_record(candidate, exposure)
        for candidate, exposure in detections_of(session, object_id)
        if counts(exposure)
    ]
    forced = [
        forced_record(flux, exposure)
        for flux, exposure in forced_of(session, object_id)
        if flux.branch == own.branch and counts(exposure)
    ]
    limits = upper_limits(session, own, band=now.band, begin=begin, end=mid_mjd(now))
    return tuple(detections), tuple(forced), tuple(limit for e, limit in limits if counts(e))


def detections_of(session: Session, object_id: str) -> list[tuple[tables.Candidate, tables.Exposure]]:
    """Return the detections of an object with their exposures, by time."""
    found = session.execute(
        select(tables.Candidate, tables.Exposure)
        .join(tables.Detection, tables.Detection.candidate_id == tables.Candidate.id)
        .join(tables.Subtraction, tables.Subtraction.id == tables.Candidate.subtraction_id)
        .join(tables.Exposure, tables.Exposure.id == tables.Subtraction.exposure_id)
        .where(tables.Detection.object_id == object_id)
    )
    return sorted(((row[0], row[1]) for row in found), key=lambda row: _place(row[1]))


def forced_of(session: Session, object_id: str) -> list[tuple[tables.ForcedPhotometry, tables.Exposure]]:
    """Return the forced fluxes of an object with their exposures, by time."""
    found = session.execute(
        select(tables.ForcedPhotometry, tables.Exposure)
        .join(tables.Exposure, tables.Exposure.id == tables.ForcedPhotometry.exposure_id)
        .where(tables.ForcedPhotometry.object_id == object_id)
    )
    return sorted(((row[0], row[1]) for row in found), key=lambda row: _place(row[1]))


def upper_limits(
    session: Session, own: tables.Object, *, band: str | None, begin: float, end: float
) -> list[tuple[tables.Exposure, packet.UpperLimit]]:
    """Return the exposures in a band, from ``begin`` to ``end`` (MJD), that would have shown the object.

    They were subtracted in its branch, cover its place, and no candidate was found there, kept or cut. The
    limit (5 sigma) is that of the forced flux; else the exposure's. A forced flux that could not be measured
    says that nothing is known, one of 5 sigma that there is something. A minor planet was elsewhere before:
    it has limits only where a forced flux was measured for it. ``band`` None: any.
    """
    exposure, flux, done = tables.Exposure, tables.ForcedPhotometry, tables.Subtraction
    places = (
        select(exposure.id, exposure.ra, exposure.dec, exposure.radius)
        .join(done, (done.exposure_id == exposure.id) & (done.branch == own.branch))
        .where(done.status == "done")
        .where(exposure.start_mjd <= end, exposure.start_mjd >= begin - 1.0)  # no exposure takes a day
        .where(func.abs(exposure.dec - own.dec) <= exposure.radius)
    )
    if band is not None:
        places = places.where(exposure.band == band)
    of_object = (flux.object_id == own.id) & (flux.branch == own.branch)
    asked = session.scalars(select(flux.exposure_id).where(of_object)).all()
    found = select(done.exposure_id).join(tables.Candidate, tables.Candidate.subtraction_id == done.id)
    seen = found.join(tables.Detection, tables.Detection.candidate_id == tables.Candidate.id).where(
        tables.Detection.object_id == own.id
    )
    there = found.where(
        done.branch == own.branch, in_cone(tables.Candidate.healpix, own.ra, own.dec, _SAME_PLACE / 3600.0)
    )
    near = {*_near(session.execute(places).all(), own), *asked}
    near -= {*session.scalars(seen), *session.scalars(there)}
    rows = (
        select(exposure, flux)
        .join(done, (done.exposure_id == exposure.id) & (done.branch == own.branch))
        .outerjoin(flux, (flux.exposure_id == exposure.id) & of_object)
        .where(exposure.id.in_(near), done.status == "done")
    )
    if band is not None:
        rows = rows.where(exposure.band == band)
    limits = []
    for row, forced in session.execute(rows):
        limit = _limit(row, forced, own)
        if limit is not None and begin <= mid_mjd(row) <= end:
            limits.append((row, _limit_record(row, limit)))
    return sorted(limits, key=lambda pair: _place(pair[0]))


def _near(places: Sequence[Any], own: tables.Object) -> list[str]:
    """The exposures, of (id, ra, dec, radius), whose circle holds the object."""
    if not places:
        return []
    ra, dec, radius = np.array([place[1:] for place in places], float).T
    apart = separations(vectors_of(ra, dec), vectors_of(own.ra, own.dec))
    return [place[0] for place, is_near in zip(places, apart <= radius) if is_near]


def _limit(
    exposure: tables.Exposure, forced: tables.ForcedPhotometry | None, own: tables.Object
) -> float | None:
    if forced is not None:
        if forced.flux is None or not forced.flux_err or abs(forced.flux) >= LIMIT_SIGMA * forced.flux_err:
            return None
        own_limit = forced.limiting_magnitude
        return exposure.limiting_magnitude if own_limit is None else own_limit
    moves = own.kind is not None
    if moves or exposure.footprint is None or not covers(exposure.footprint, own.ra, own.dec):
        return None
    return exposure.limiting_magnitude


def detection_record(candidate: tables.Candidate, exposure: tables.Exposure) -> packet.Detection:
    """Return a detection as an alert carries it."""
    flux = flux_of(candidate.flux, candidate.flux_err, magnitude=candidate.magnitude)
    return packet.Detection(
        detection_id=candidate.id,
        exposure_id=exposure.id,
        time=mid_mjd(exposure),
        time_scale="UTC",
        exposure_time=exposure.exposure_time,
        band=exposure.band or "unknown",
        ra=candidate.ra,
        dec=candidate.dec,
        ra_err=candidate.ra_err * 3600.0,
        dec_err=candidate.dec_err * 3600.0,
        x=candidate.x,
        y=candidate.y,
        flux=flux.value,
        flux_err=flux.error,
        flux_unit=flux.unit,
        magnitude=candidate.magnitude,
        magnitude_err=candidate.magnitude_err,
        magnitude_system=None if candidate.magnitude is None else "AB",
        limiting_magnitude=exposure.limiting_magnitude,
        snr=candidate.snr,
        is_positive=candidate.flux > 0,
        fwhm=candidate.fwhm,
        elongation=candidate.elongation,
        position_angle=candidate.position_angle,
        flags=tuple(bit.name.lower() for bit in MaskBit if bit & candidate.mask_bits and bit.name),
    )


def forced_record(forced: tables.ForcedPhotometry, exposure: tables.Exposure) -> packet.ForcedPhotometry:
    """Return a forced flux as an alert carries it."""
    flux = flux_of(forced.flux, forced.flux_err, limit=forced.limiting_magnitude)
    return packet.ForcedPhotometry(
        exposure_id=exposure.id,
        time=mid_mjd(exposure),
        time_scale="UTC",
        band=exposure.band or "unknown",
        flux=flux.value,
        flux_err=flux.error,
        flux_unit=flux.unit,
        limiting_magnitude=forced.limiting_magnitude,
        flags=tuple(forced.flags),
    )


def flux_of(
    flux: float | None, error: float | None, *, magnitude: float | None = None, limit: float | None = None
) -> Flux:
    """Return a flux in nanojansky; ``magnitude`` is that of its absolute value, or ``limit`` of 5 errors."""
    scale = None
    if magnitude is not None and flux:
        scale = nanojansky(magnitude) / abs(flux)
    elif limit is not None and error:
        scale = nanojansky(limit) / (LIMIT_SIGMA * error)
    if scale is None:
        return Flux(flux, error, "electron")
    return Flux(None if flux is None else flux * scale, None if error is None else error * scale, "nJy")


def nanojansky(magnitude: float) -> float:
    """Return the flux density of an AB magnitude."""
    return float(10.0 ** (0.4 * (AB_NANOJANSKY - magnitude)))


def _limit_record(exposure: tables.Exposure, limit: float) -> packet.UpperLimit:
    return packet.UpperLimit(
        exposure_id=exposure.id,
        time=mid_mjd(exposure),
        time_scale="UTC",
        band=exposure.band or "unknown",
        limiting_magnitude=limit,
        sigma=LIMIT_SIGMA,
    )


def _place(exposure: tables.Exposure) -> tuple[float, str]:
    """What exposures are ordered by: their middle; the id where two are of one time."""
    return mid_mjd(exposure), exposure.id
