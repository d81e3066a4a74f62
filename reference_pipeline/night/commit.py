"""A difference enters the database, all of it in one transaction: candidates, objects, forced fluxes, alerts.

A process that dies before the end leaves nothing of it; one that dies after leaves all of it, and the alerts
in the outbox. What is stored is a function of the product and of what was committed before it, so that it
does not matter how often it had to be tried.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from astropy.time import Time
from sqlalchemy import select
from sqlalchemy.orm import Session

from multiscale.packet import ProcessingStep

from ..alerts.cutouts import cutouts_path, read_cutouts
from ..alerts.outbox import now_mjd, topic_of
from ..alerts.packet import alert_id, build_alert, candidate_id, validated_packet
from ..alerts.provenance import provenance_of, settings_digest
from ..associate.limits import history_of
from ..associate.match import Assignment, associate
from ..config import PipelineConfig
from ..crossmatch import KnownSky, planets_in_field
from ..detect.forced import forced_on_planes
from ..difference_products import StoredDifference, read_difference
from ..errors import FrameError, StoreError
from ..store import tables
from ..store.opening import Store
from ..store.queries import candidate_rows, objects_in, subtraction_of
from .classify import CLOUDS_CUT, Classes, area_of, classes_path, cut_by_classes, read_classes
from .differences import DifferenceJob, lost
from .report import DifferenceReport


@dataclass(frozen=True)
class Committed:
    """What came of a difference."""

    n_alerts: int
    n_new: int  # alerts of objects that were not known
    cuts: dict[str, int]  # cut -> how many candidates it removed, with those of what models say
    dropped: str = ""  # why all of them were


def commit_difference(
    store: Store, job: DifferenceJob, report: DifferenceReport, *, sky: KnownSky
) -> DifferenceReport:
    """Store what became of a job, its alerts ready to leave; returns the report with their number.

    A job that did not end well is stored as failed, and tried again when its inputs or settings change.
    """
    if report.status in ("failed", "crashed"):
        _store_failure(store, job, report)
        return report
    try:
        stored = read_difference(job.product)
        classes = read_classes(
            classes_path(job.out, job.branch, job.exposure_id),
            cutouts=str(stored.decisions["cutouts"]["sha256"]),
        )
        with store.begin() as session:
            done = _commit(session, job, report, stored, classes, sky)
    except FrameError as error:  # a product that cannot be read, an alert that does not hold
        trouble = {"stage": error.stage, "reason": error.reason, "message": error.message}
        failed = report.model_copy(update={"status": "failed", **trouble})
        _store_failure(store, job, failed)
        return failed
    except StoreError as error:  # of this exposure's values; of the database itself the next line raises it
        trouble = {"stage": "store", "reason": "store", "message": str(error)}
        refused = report.model_copy(update={"status": "failed", **trouble})
        _store_failure(store, job, refused)
        return refused
    except OSError:
        raise  # a full disk: every other exposure would end so
    except Exception as error:  # noqa: BLE001  # a defect of ours must not end the night; its trace is kept
        crashed = lost(job, type(error).__name__, traceback.format_exc())
        _store_failure(store, job, crashed)
        return crashed
    return report.model_copy(update=asdict(done))


def _store_failure(store: Store, job: DifferenceJob, report: DifferenceReport) -> None:
    with store.begin() as session:
        row = _row(session, job)
        row.status, row.digest = "failed", job.digest
        row.stage, row.reason, row.message = report.stage, report.reason, report.message


def _row(session: Session, job: DifferenceJob) -> tables.Subtraction:
    row = subtraction_of(session, job.exposure_id, job.branch)
    assert row is not None  # it was queued
    return row


def _commit(
    session: Session, job: DifferenceJob, report: DifferenceReport, stored: StoredDifference,
    classes: Classes, sky: KnownSky,
) -> Committed:  # fmt: skip
    config, survey = job.config, survey_of(job.config)
    candidates = cut_by_classes(
        stored.candidates,
        classes,
        cloud_score=None if stored.quality is None else stored.quality.cloud_score,
        area=area_of(stored),
        config=config.classify,
    )
    stored = replace(stored, candidates=candidates)
    subtraction = _row(session, job)
    subtraction.status, subtraction.digest = "done", job.digest
    subtraction.stage = subtraction.reason = subtraction.message = None
    subtraction.product = str(job.product.relative_to(job.out))
    subtraction.decisions, subtraction.seconds = (
        {**stored.decisions, "classify": _used(classes)},
        report.seconds,
    )
    subtraction.pixel_scale = stored.pixel_scale
    exposure = session.get(tables.Exposure, job.exposure_id)
    assert exposure is not None  # a foreign key of the subtraction
    ids = [candidate_id(survey, job.branch, job.exposure_id, c.number) for c in stored.candidates]
    session.add_all(candidate_rows(subtraction.id, stored.candidates, ids))
    session.add_all(_classification_rows(stored, ids, classes))
    session.flush()
    assignments = associate(
        session, branch=job.branch, exposure=exposure, candidates=stored.candidates, config=config.association
    )
    seen = {assignment.object_id for assignment in assignments}
    session.add_all(_forced(session, job, stored, exposure, seen, sky))
    session.flush()
    _queue_alerts(session, job, stored, classes, assignments)
    return Committed(
        len(assignments),
        sum(assignment.is_new for assignment in assignments),
        dict(Counter(c.cut for c in stored.candidates if c.cut is not None)),
        _why_dropped(stored),
    )


def _why_dropped(stored: StoredDifference) -> str:
    """A sentence where the whole frame's candidates were dropped."""
    n = sum(c.cut == CLOUDS_CUT for c in stored.candidates)
    if not n or stored.quality is None:
        return ""
    return (
        f"dropped {n} candidates, {n / area_of(stored):.0f} per square degree, "
        f"of a frame whose cloud score is {stored.quality.cloud_score:.2f}"
    )


def _used(classes: Classes) -> dict[str, str]:
    """The models, for the record of the subtraction."""
    return {model.task: f"{model.name} {model.version} sha256 {model.sha256}" for model in classes.models}


def _classification_rows(
    stored: StoredDifference, ids: Sequence[str], classes: Classes
) -> list[tables.Classification]:
    """What models say of candidates, those also that are cut for it."""
    return [
        tables.Classification(
            candidate_id=id_, classifier=one.classifier, version=one.version, taxonomy=one.taxonomy,
            classes={c.name: c.probability for c in one.classes}, is_calibrated=one.is_calibrated,
        )
        for candidate, id_ in zip(stored.candidates, ids, strict=True)
        for one in classes.of(candidate.number)
    ]  # fmt: skip


def survey_of(config: PipelineConfig) -> str:
    """The name that alerts carry."""
    return config.alerts.survey or config.camera.name


def _forced(
    session: Session, job: DifferenceJob, stored: StoredDifference, exposure: tables.Exposure, seen: set[str],
    sky: KnownSky,
) -> list[tables.ForcedPhotometry]:  # fmt: skip
    """Fluxes at the places of objects that this exposure covers and did not detect."""
    if exposure.ra is None or exposure.dec is None or exposure.radius is None:
        return []
    places = [
        (row.id, row.ra, row.dec)
        for row in objects_in(session, job.branch, exposure.ra, exposure.dec, exposure.radius)
        if row.kind is None
    ]
    places += _planets(session, job, stored, exposure, sky)
    places = sorted(place for place in places if place[0] not in seen)
    if not places:
        return []
    x, y = stored.wcs.all_world2pix([p[1] for p in places], [p[2] for p in places], 0, quiet=True)
    ny, nx = stored.shape
    inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    rows = np.flatnonzero(inside)
    if not len(rows):
        return []
    fwhm = stored.quality.fwhm if stored.quality is not None else 3.0
    fluxes = forced_on_planes(
        stored.flux, stored.score, stored.mask, x[rows], y[rows], fwhm=fwhm, zero_point=stored.zero_point,
        shape=stored.shape, flux_scatter=float(stored.decisions["subtract"].get("flux_scatter") or 0.0),
    )  # fmt: skip
    return [
        tables.ForcedPhotometry(
            object_id=places[i][0], exposure_id=job.exposure_id, branch=job.branch, flux=flux.flux,
            flux_err=flux.flux_err, limiting_magnitude=flux.limiting_magnitude, flags=list(flux.flags),
        )
        for i, flux in zip(rows, fluxes)
    ]  # fmt: skip


def _planets(
    session: Session, job: DifferenceJob, stored: StoredDifference, exposure: tables.Exposure, sky: KnownSky
) -> list[tuple[str, float, float]]:
    """Where minor planets that were seen before should be now."""
    if sky.planets is None or exposure.ra is None or exposure.dec is None or exposure.radius is None:
        return []
    predicted = planets_in_field(
        sky.planets, stored.exposure, exposure.ra, exposure.dec, exposure.radius, config=job.config.crossmatch
    )
    of = tables.Object
    known = session.execute(
        select(of.designation, of.id).where(
            of.branch == job.branch, of.designation.in_([planet.name for planet in predicted])
        )
    )
    ids = {designation: id_ for designation, id_ in known if designation is not None}
    return [(ids[planet.name], planet.ra, planet.dec) for planet in predicted if planet.name in ids]


def _queue_alerts(
    session: Session, job: DifferenceJob, stored: StoredDifference, classes: Classes,
    assignments: Sequence[Assignment],
) -> None:  # fmt: skip
    """Make, check and store an alert of each detection, and put it into the outbox."""
    if not assignments:
        return
    survey, config = survey_of(job.config), job.config
    digest = str(stored.decisions["cutouts"]["sha256"])
    cutouts = read_cutouts(cutouts_path(job.out, job.branch, job.exposure_id), digest=digest)
    candidates = {candidate.number: candidate for candidate in stored.candidates}
    provenance = (
        *provenance_of(stored, settings=settings_digest(config), template_digest=job.template_digest),
        *classes.provenance(),
    )
    now = now_mjd()
    classified = ProcessingStep(
        step="classified", time=_written(classes_path(job.out, job.branch, job.exposure_id))
    )
    processing = (
        ProcessingStep(step="calibrated", time=_written(job.science)),
        ProcessingStep(step="subtracted", time=_written(job.product)),
        *([classified] if classes.models else []),
        ProcessingStep(step="alert", time=now),
    )
    for assignment in assignments:
        number = assignment.number
        own = candidate_id(survey, job.branch, job.exposure_id, number)
        history, forced, limits = history_of(session, assignment.object_id, before_candidate=own)
        alert = build_alert(
            candidates[number], stored, survey=survey, object_id=assignment.object_id,
            cutout=cutouts[number], history=history, forced_photometry=forced, upper_limits=limits,
            classifications=classes.of(number), processing=processing, provenance=provenance,
        )  # fmt: skip
        id_ = alert_id(survey, job.branch, job.exposure_id, number)
        session.add(
            tables.Alert(
                id=id_,
                candidate_id=own,
                object_id=assignment.object_id,
                branch=job.branch,
                packet=validated_packet(alert),
                created_mjd=now,
            )
        )
        session.add(
            tables.Outbox(alert_id=id_, topic=topic_of(config.night.topic, job.branch), queued_mjd=now)
        )


def _written(path: Path) -> float:
    """When a file was written (MJD, UTC)."""
    return float(Time(path.stat().st_mtime, format="unix").mjd)
