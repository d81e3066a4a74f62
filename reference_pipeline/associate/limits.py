"""What was seen of an object before: detections, forced fluxes and upper limits, as an alert carries them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from multiscale import packet

from ..alerts.records import LIMIT_SIGMA, detection_record, forced_record, limit_record
from ..errors import StoreError
from ..store import tables
from ..store.queries import candidate_of, exposure_of, in_cone, mid_mjd
from ..store.sky import covers, separations, vectors_of

_YEAR = 365.25
_SAME_PLACE = 2.0  # arcsec
_History = tuple[
    tuple[packet.Detection, ...], tuple[packet.ForcedPhotometry, ...], tuple[packet.UpperLimit, ...]
]


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

    detections = [seen.record for seen in detections_of(session, object_id) if counts(seen.exposure)]
    forced = [
        record
        for flux, exposure, record in forced_of(session, object_id)
        if flux.branch == own.branch and counts(exposure)
    ]
    limits = upper_limits(session, own, band=now.band, begin=begin, end=mid_mjd(now))
    return tuple(detections), tuple(forced), tuple(limit for e, limit in limits if counts(e))


class Seen(NamedTuple):
    """A detection of an object."""

    candidate_id: str
    exposure: tables.Exposure
    record: packet.Detection


class Forced(NamedTuple):
    """A flux at the place of an object."""

    row: tables.ForcedPhotometry
    exposure: tables.Exposure
    record: packet.ForcedPhotometry


def detections_of(session: Session, object_id: str) -> list[Seen]:
    """Return the detections of an object, by time."""
    found = session.execute(
        select(tables.Candidate, tables.Exposure, tables.Subtraction.pixel_scale)
        .join(tables.Detection, tables.Detection.candidate_id == tables.Candidate.id)
        .join(tables.Subtraction, tables.Subtraction.id == tables.Candidate.subtraction_id)
        .join(tables.Exposure, tables.Exposure.id == tables.Subtraction.exposure_id)
        .where(tables.Detection.object_id == object_id)
    )
    seen = [
        Seen(
            row.id,
            exposure,
            detection_record(
                candidate_of(row),
                exposure_of(exposure),
                detection_id=row.id,
                pixel_scale=math.nan if pixel_scale is None else pixel_scale,
                limiting_magnitude=exposure.limiting_magnitude,
                zero_point_band=exposure.zero_point_band,
            ),
        )
        for row, exposure, pixel_scale in found
    ]
    return sorted(seen, key=lambda one: _place(one.exposure))


def forced_of(session: Session, object_id: str) -> list[Forced]:
    """Return the forced fluxes of an object, by time."""
    found = session.execute(
        select(tables.ForcedPhotometry, tables.Exposure)
        .join(tables.Exposure, tables.Exposure.id == tables.ForcedPhotometry.exposure_id)
        .where(tables.ForcedPhotometry.object_id == object_id)
    )
    forced = [
        Forced(
            row,
            exposure,
            forced_record(
                exposure_of(exposure),
                flux=row.flux,
                error=row.flux_err,
                limiting_magnitude=row.limiting_magnitude,
                flags=row.flags,
                zero_point_band=exposure.zero_point_band,
            ),
        )
        for row, exposure in found
    ]
    return sorted(forced, key=lambda one: _place(one.exposure))


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
            record = limit_record(exposure_of(row), limit, zero_point_band=row.zero_point_band)
            limits.append((row, record))
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


def _place(exposure: tables.Exposure) -> tuple[float, str]:
    """What exposures are ordered by: their middle; the id where two are of one time."""
    return mid_mjd(exposure), exposure.id
