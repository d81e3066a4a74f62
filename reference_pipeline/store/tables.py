"""The tables, as SQLAlchemy models: one class a table, one attribute a column.

Times are MJD (UTC); positions ICRS degrees, their errors degrees on the sky (with cos Dec); fluxes electrons
of the science exposure. A value that is not finite is stored as NULL, on every database, so that a column
that must be there refuses it. Foreign keys are checked at the end of a transaction: rows of one transaction
may be added in any order.

The schema is what ``migrations/`` make; a test holds these classes against it.
"""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

_NAMES = {  # constraints have names, so that a migration can change them
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Real(TypeDecorator[float]):
    """A double; NaN and infinities become NULL, numpy's scalars Python's numbers."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        """What goes to the database."""
        return None if value is None or not math.isfinite(value) else float(value)


class Whole(TypeDecorator[int]):
    """An integer; numpy's scalars become Python's numbers."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        """What goes to the database."""
        return None if value is None else int(value)


class Cell(Whole):
    """An integer of 64 bits: a HEALPix cell (sky.py)."""

    impl = BigInteger
    cache_ok = True


def _key(column: str) -> ForeignKey:
    return ForeignKey(column, deferrable=True, initially="DEFERRED")


class Table(DeclarativeBase):
    """What all tables share."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {float: Real, int: Whole, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


class Exposure(Table):
    """A calibrated exposure."""

    __tablename__ = "exposures"
    __table_args__ = (Index(None, "band", "start_mjd"), Index(None, "field_id", "band"))

    id: Mapped[str] = mapped_column(primary_key=True)
    camera: Mapped[str]
    band: Mapped[str | None]
    field_id: Mapped[str | None]
    start_mjd: Mapped[float]
    exposure_time: Mapped[float]  # seconds
    ra: Mapped[float | None]  # of the image's centre
    dec: Mapped[float | None]
    fwhm: Mapped[float | None]  # pixels
    limiting_magnitude: Mapped[float | None]  # 5 sigma, point source
    pearson: Mapped[float | None]
    zero_point: Mapped[float | None]  # mag, of electrons
    zero_point_error: Mapped[float | None]
    zero_point_band: Mapped[str | None]  # of the reference catalogue
    product: Mapped[str]  # path, from the output folder
    input_digest: Mapped[str]
    is_too: Mapped[bool] = mapped_column(default=False)  # a target of opportunity
    footprint: Mapped[list[Any] | None]  # corners [ra, dec] of what it covers, convex, in order; sky.py
    radius: Mapped[float | None]  # degrees, from (ra, dec) to the farthest corner


class Template(Table):
    """A template, in use or replaced."""

    __tablename__ = "templates"
    __table_args__ = (Index(None, "field_id", "band", "branch"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    field_id: Mapped[str]
    band: Mapped[str]
    branch: Mapped[str]
    exposure_ids: Mapped[list[Any]]
    path: Mapped[str]
    digest: Mapped[str]
    registered_mjd: Mapped[float]
    replaced_by: Mapped[int | None] = mapped_column(_key("templates.id"))  # None: in use
    reason: Mapped[str]  # why it was chosen, or what it replaced


class Subtraction(Table):
    """One exposure's way through one branch."""

    __tablename__ = "subtractions"
    __table_args__ = (
        UniqueConstraint("exposure_id", "branch"),
        CheckConstraint("status IN ('queued', 'done', 'failed')", name="status"),
        Index(None, "status", "priority"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    exposure_id: Mapped[str] = mapped_column(_key("exposures.id"))
    branch: Mapped[str]
    template_id: Mapped[int | None] = mapped_column(_key("templates.id"))
    status: Mapped[str] = mapped_column(default="queued")
    priority: Mapped[int] = mapped_column(default=0)  # larger goes first
    stage: Mapped[str | None]  # of a failure
    reason: Mapped[str | None]
    message: Mapped[str | None]
    product: Mapped[str | None]  # path, from the output folder
    digest: Mapped[str | None]
    decisions: Mapped[dict[str, Any]] = mapped_column(default=dict)
    seconds: Mapped[float | None]
    pixel_scale: Mapped[float | None]  # arcsec, of the difference


class Candidate(Table):
    """A detection on a difference, kept or cut: reference_pipeline/candidate.py says what each field is."""

    __tablename__ = "candidates"
    __table_args__ = (UniqueConstraint("subtraction_id", "number"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    subtraction_id: Mapped[int] = mapped_column(_key("subtractions.id"))
    number: Mapped[int]
    x: Mapped[float]
    y: Mapped[float]
    ra: Mapped[float]
    dec: Mapped[float]
    ra_err: Mapped[float]
    dec_err: Mapped[float]
    flux: Mapped[float]
    flux_err: Mapped[float]
    snr: Mapped[float]
    magnitude: Mapped[float | None]
    magnitude_err: Mapped[float | None]
    fwhm: Mapped[float]
    elongation: Mapped[float]
    position_angle: Mapped[float | None]
    n_pixels: Mapped[int]
    flags: Mapped[int]
    mask_bits: Mapped[int]
    mask_fraction: Mapped[float]
    edge: Mapped[float]
    dipole: Mapped[float]
    cut: Mapped[str | None]
    matches: Mapped[list[Any]] = mapped_column(default=list)  # records of multiscale.packet.CrossMatch
    healpix: Mapped[int] = mapped_column(Cell, index=True)  # sky.py


class Object(Table):
    """What detections of one branch, taken together, are of."""

    __tablename__ = "objects"
    __table_args__ = (
        Index(None, "branch", "healpix"),
        Index("uq_objects_branch_designation", "branch", "designation", unique=True),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    branch: Mapped[str]
    ra: Mapped[float]  # weighted mean; of a minor planet, where it was last seen
    dec: Mapped[float]
    ra_err: Mapped[float]
    dec_err: Mapped[float]
    n_detections: Mapped[int]
    first_mjd: Mapped[float]  # mid-exposure
    last_mjd: Mapped[float]
    kind: Mapped[str | None]  # "minor_planet" for a known one
    designation: Mapped[str | None]  # its name in the catalogue of minor planets
    healpix: Mapped[int] = mapped_column(Cell)  # sky.py


class Detection(Table):
    """To which object a candidate belongs."""

    __tablename__ = "detections"

    candidate_id: Mapped[str] = mapped_column(_key("candidates.id"), primary_key=True)
    object_id: Mapped[str] = mapped_column(_key("objects.id"), index=True)
    probability: Mapped[float]  # that it does, against being anything else


class ForcedPhotometry(Table):
    """A flux measured where an object is known to be."""

    __tablename__ = "forced_photometry"

    object_id: Mapped[str] = mapped_column(_key("objects.id"), primary_key=True)
    exposure_id: Mapped[str] = mapped_column(_key("exposures.id"), primary_key=True, index=True)
    branch: Mapped[str] = mapped_column(primary_key=True)
    flux: Mapped[float | None]
    flux_err: Mapped[float | None]
    limiting_magnitude: Mapped[float | None]
    flags: Mapped[list[Any]] = mapped_column(default=list)


class Classification(Table):
    """What one classifier says of a candidate."""

    __tablename__ = "classifications"

    candidate_id: Mapped[str] = mapped_column(_key("candidates.id"), primary_key=True)
    classifier: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    taxonomy: Mapped[str]
    classes: Mapped[dict[str, Any]]  # name -> probability
    is_calibrated: Mapped[bool] = mapped_column(default=False)


class Alert(Table):
    """A validated packet."""

    __tablename__ = "alerts"

    id: Mapped[str] = mapped_column(primary_key=True)
    candidate_id: Mapped[str] = mapped_column(_key("candidates.id"), unique=True)
    object_id: Mapped[str] = mapped_column(_key("objects.id"), index=True)
    branch: Mapped[str]
    packet: Mapped[bytes]  # Avro
    created_mjd: Mapped[float]


class Outbox(Table):
    """An alert on its way out; sent when ``sent_mjd`` says so."""

    __tablename__ = "outbox"
    __table_args__ = (Index(None, "sent_mjd", "queued_mjd"),)

    alert_id: Mapped[str] = mapped_column(_key("alerts.id"), primary_key=True)
    topic: Mapped[str]
    queued_mjd: Mapped[float]
    sent_mjd: Mapped[float | None]
    sink: Mapped[str | None]
