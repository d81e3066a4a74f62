"""Rows from values and values from rows; what the stages ask the database for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from multiscale.packet import CrossMatch

from .. import candidate as values
from .. import frame as frame_values
from ..errors import StoreError
from ..frame import Frame
from ..products import Summary
from .sky import cell_ranges, cells_of, footprint_of, separations, vectors_of
from .tables import Candidate, Exposure, Object, Subtraction, Template

_OF_CANDIDATE = tuple(f.name for f in fields(values.Candidate) if f.name != "matches")
_MAY_BE_ABSENT = {"magnitude", "magnitude_err", "position_angle", "cut"}


def exposure_row(
    frame: Frame | Summary, *, product: str, input_digest: str, is_too: bool = False
) -> Exposure:
    """Return the row of a calibrated frame, whose product lies at ``product`` (from the output folder).

    What it covers is taken from its WCS. Raises StoreError for a frame without.
    """
    if frame.wcs is None:
        raise StoreError(f"{frame.id}: a frame without a WCS is not calibrated")
    corners, ra, dec, radius = footprint_of(frame.wcs, frame.shape)
    e, quality, zero_point = frame.exposure, frame.quality, frame.zero_point
    return Exposure(
        id=e.id,
        camera=e.camera,
        band=e.band,
        field_id=e.field_id,
        start_mjd=e.start_mjd,
        exposure_time=e.exposure_time,
        ra=ra,
        dec=dec,
        fwhm=quality and quality.fwhm,
        limiting_magnitude=quality and quality.limiting_magnitude,
        pearson=quality and quality.pearson,
        zero_point=zero_point and zero_point.value,
        zero_point_error=zero_point and zero_point.error,
        zero_point_band=zero_point and zero_point.band,
        product=product,
        input_digest=input_digest,
        is_too=is_too,
        footprint=corners,
        radius=radius,
    )


def exposure_of(row: Exposure) -> frame_values.Exposure:
    """Return the exposure of a row."""
    return frame_values.Exposure(
        row.id, row.camera, "science", row.start_mjd, row.exposure_time, row.band, row.ra, row.dec,
        field_id=row.field_id,
    )  # fmt: skip


def mid_mjd(exposure: Exposure) -> float:
    """The middle of the exposure (MJD, UTC)."""
    return exposure.start_mjd + 0.5 * exposure.exposure_time / 86400.0


def candidate_rows(
    subtraction_id: int, candidates: Sequence[values.Candidate], ids: Sequence[str]
) -> list[Candidate]:
    """Return the rows of a subtraction's candidates, whose ids are ``ids``.

    Raises StoreError for a candidate with a value that is not finite and must be.
    """
    if not candidates:
        return []
    cells = _cells(candidates)
    rows = []
    for one, id_, cell in zip(candidates, ids, cells.tolist(), strict=True):
        own = {name: getattr(one, name) for name in _OF_CANDIDATE}
        for name in own.keys() - _MAY_BE_ABSENT:
            if own[name] is None or not math.isfinite(own[name]):
                raise StoreError(f"{id_}: {name} is {own[name]}")
        matches = [match.model_dump() for match in one.matches]
        rows.append(Candidate(id=id_, subtraction_id=subtraction_id, **own, matches=matches, healpix=cell))
    return rows


def _cells(candidates: Sequence[values.Candidate]) -> np.ndarray:
    positions = np.array([(one.ra, one.dec) for one in candidates], float)
    if not np.isfinite(positions).all():  # candidate_rows names it
        positions = np.nan_to_num(positions, posinf=0.0, neginf=0.0)
    return cells_of(*positions.T)


def candidate_of(row: Candidate) -> values.Candidate:
    """Return the candidate of a row."""
    matches = tuple(CrossMatch.model_validate(match) for match in row.matches)
    return values.Candidate(**{name: getattr(row, name) for name in _OF_CANDIDATE}, matches=matches)


def in_cone(column: InstrumentedAttribute[int], ra: float, dec: float, radius: float) -> ColumnElement[bool]:
    """Return the condition that a column of cells lies in a cone, or a little outside."""
    return or_(*(and_(column >= first, column <= last) for first, last in cell_ranges(ra, dec, radius)))


def objects_in(session: Session, branch: str, ra: float, dec: float, radius: float) -> list[Object]:
    """Return the objects of a branch within ``radius`` (degrees) of a position, nearest first."""
    near = in_cone(Object.healpix, ra, dec, radius)
    found = list(session.scalars(select(Object).where(Object.branch == branch, near).order_by(Object.id)))
    if not found:
        return []
    apart = separations(vectors_of([o.ra for o in found], [o.dec for o in found]), vectors_of(ra, dec))
    order = np.argsort(apart, kind="stable")
    return [found[i] for i in order if apart[i] <= radius]


def subtraction_of(session: Session, exposure_id: str, branch: str) -> Subtraction | None:
    """Return an exposure's subtraction in a branch; None where there is none."""
    return session.scalar(
        select(Subtraction).where(Subtraction.exposure_id == exposure_id, Subtraction.branch == branch)
    )


def template_in_use(session: Session, *, field_id: str, band: str, branch: str) -> Template | None:
    """Return the template that is in use for a field; None where there is none yet."""
    mine = (Template.field_id == field_id, Template.band == band, Template.branch == branch)
    return session.scalar(
        select(Template).where(*mine, Template.replaced_by.is_(None)).order_by(Template.id.desc()).limit(1)
    )


def register_template(session: Session, template: Template) -> Template:
    """Add a template and put it in use; the one in use before says which replaced it.

    The same files again (``digest``) change nothing: the registered template comes back. Raises StoreError
    for a template that replaces another without a reason.
    """
    before = template_in_use(session, field_id=template.field_id, band=template.band, branch=template.branch)
    if before is not None and before.digest == template.digest:
        return before
    if before is not None and not template.reason:
        raise StoreError(f"template of {template.field_id} {template.band} replaced without a reason")
    session.add(template)
    session.flush()
    if before is not None:
        before.replaced_by = template.id
    return template
