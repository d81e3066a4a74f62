"""The whole night as one run: raw frames → calibrated → subtracted → alerts in the outbox, and out.

Every part can be killed at any instant and run again: products appear whole and say what they were made
from, the database takes an exposure's branch in one transaction, and alerts leave the outbox only when the
other side has them. What is done is not done again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from astropy.time import Time
from sqlalchemy.orm import Session

from ..alerts.outbox import deliver
from ..alerts.sinks import Everywhere, FileSink, KafkaSink, Sink
from ..associate.lightcurve import changed_objects, write_light_curves
from ..config import NightRun, PipelineConfig
from ..errors import DeliveryError, FileError, FrameError
from ..frame import Exposure
from ..lock import only_run
from ..products import Summary, read_summary
from ..store import tables
from ..store.opening import Store, open_store
from ..store.queries import exposure_row, subtraction_of
from ..subtract.templates import candidate_of
from .classify import check_models
from .commit import commit_difference
from .differences import DifferenceJob, known_sky, lost, make_difference
from .processes import in_processes
from .reduce import default_workers, reduce_night
from .report import DifferenceReport, FrameReport, NightReport
from .templates import Templates, settle_templates
from .too import Notice

Progress = Callable[[FrameReport | DifferenceReport], None]
_PRIORITY = {"too": 100, "qip": 10, "dip": 0}  # larger goes first


def run_night(
    paths: Iterable[Path],
    out: Path,
    *,
    config: PipelineConfig,
    workers: int | None = None,
    notices: Sequence[Notice] = (),
    renew_templates: bool = False,
    progress: Progress = lambda report: None,
) -> NightReport:
    """Take raw files all the way to alerts; the report has every file and every subtraction.

    Leaves in ``out``, beside what :func:`reduce_night` does: templates/, differences/, alerts/, lightcurves/
    and, unless the settings name another, the database night.sqlite. Alerts that cannot leave stay in the
    outbox, and the report says why. Raises ConfigError, CatalogueError or StoreError where nothing can start.
    """
    known_sky(config.catalogues, config.camera.site)  # what is missing is said before a pixel is read
    check_models(config)
    with only_run(out):
        return _run_night(sorted(paths), out, config, workers, notices, renew_templates, progress)


def _run_night(
    files: list[Path], out: Path, config: PipelineConfig, workers: int | None, notices: Sequence[Notice],
    renew_templates: bool, progress: Progress,
) -> NightReport:  # fmt: skip
    started = time.perf_counter()
    store = open_store(config.night.database or f"sqlite:///{out / 'night.sqlite'}")
    try:
        reduced = reduce_night(files, out, config=config, workers=workers, progress=progress)
        workers = workers or default_workers(files)
        summaries, reports = _register(store, out, reduced, notices)
        templates = settle_templates(
            store, summaries, out, config=config, workers=workers, renew=renew_templates
        )
        queue, waiting = _queue(store, summaries, templates, out, config)
        reports += waiting
        mail = _Mail(store, sink_of(config.night, out))
        mail.deliver()  # what an earlier run left behind
        for report in _differences(store, queue, workers, config):
            mail.deliver()
            progress(report)
            reports.append(report)
        with store.read() as session:
            _write_light_curves(session, out, summaries, config)
    finally:
        store.close()
    night = reduced.model_copy(
        update={
            "differences": tuple(sorted(reports, key=lambda r: (r.exposure, r.branch))),
            "n_delivered": mail.n_sent,
            "not_delivered": mail.trouble,
            "seconds": time.perf_counter() - started,
        }
    )
    night.write(out)
    return night


def sink_of(night: NightRun, out: Path) -> Sink:
    """Where alerts go: files in the output folder, and to Kafka where it is configured."""
    files = FileSink(out)
    return files if night.kafka is None else Everywhere([files, KafkaSink(night.kafka)])


class _Mail:
    """The way out of the night's alerts. A sink that is down does not end the night."""

    def __init__(self, store: Store, sink: Sink) -> None:
        self.store, self.sink, self.n_sent, self.trouble = store, sink, 0, ""

    def deliver(self) -> None:
        """Send what waits; after a failure every later exposure tries again."""
        try:
            self.n_sent += deliver(self.store, self.sink)
            self.trouble = ""
        except DeliveryError as error:
            self.trouble = str(error)


def _write_light_curves(
    session: Session, out: Path, summaries: Sequence[Summary], config: PipelineConfig
) -> None:
    """One file for each evening among the exposures, of all objects that they changed."""
    site = config.camera.site
    evenings: dict[str, list[str]] = {}
    for summary in summaries:
        evenings.setdefault(evening_of(summary.exposure, site.longitude if site else 0.0), []).append(
            summary.id
        )
    for evening, exposure_ids in evenings.items():
        changed = changed_objects(session, exposure_ids)
        if changed:
            write_light_curves(session, out / "lightcurves", night=evening, object_ids=changed)


def evening_of(exposure: Exposure, longitude: float) -> str:
    """The local date (YYYY-MM-DD) on which the exposure's night began, at ``longitude`` (degrees, east)."""
    local = exposure.start_mjd + longitude / 360.0
    return str(Time(np.floor(local - 0.5), format="mjd").strftime("%Y-%m-%d"))


def _register(
    store: Store, out: Path, reduced: NightReport, notices: Sequence[Notice]
) -> tuple[list[Summary], list[DifferenceReport]]:
    """Store the calibrated exposures, in the order of time; and a report of each that cannot be."""
    summaries = []
    for report in reduced.frames:
        if report.kind == "science" and report.status in ("calibrated", "unchanged") and report.product:
            summaries.append(read_summary(out / report.product))
    summaries.sort(key=lambda s: (s.exposure.mid_mjd, s.id))
    kept, reports = [], []
    for summary in summaries:
        try:
            candidate_of(summary, summary.path)  # refuses what has no WCS or was not assessed
            _store_exposure(store, out, summary, notices)
            kept.append(summary)
        except FrameError as error:
            reports.append(_failed(summary.id, "", error))
    return kept, reports


def _store_exposure(store: Store, out: Path, summary: Summary, notices: Sequence[Notice]) -> None:
    row = exposure_row(summary, product=str(summary.path.relative_to(out)), input_digest=summary.input_digest)
    row.is_too = any(notice.concerns(summary.exposure, row.radius or 0.0) for notice in notices)
    with store.begin() as session:
        before = session.get(tables.Exposure, row.id)
        if before is not None and abs(before.start_mjd - row.start_mjd) > 1e-6:
            raise FileError(
                summary.id, "register", "exposure-id",
                f"of MJD {row.start_mjd:.6f}; the database knows one of MJD {before.start_mjd:.6f}",
            )  # fmt: skip
        row.is_too = row.is_too or (before is not None and before.is_too)
        session.merge(row)


def _failed(exposure_id: str, branch: str, error: FrameError) -> DifferenceReport:
    return DifferenceReport(
        exposure=exposure_id, branch=branch, status="failed", stage=error.stage, reason=error.reason,
        message=error.message,
    )  # fmt: skip


def _queue(
    store: Store, summaries: Sequence[Summary], templates: Templates, out: Path, config: PipelineConfig
) -> tuple[list[DifferenceJob], list[DifferenceReport]]:
    """Put each exposure's branches into the queue; the jobs in order, and reports where there is none.

    The order is that of priority (targets of opportunity, then the quick branch), then of time.
    """
    jobs: list[tuple[int, DifferenceJob]] = []
    reports: list[DifferenceReport] = []
    with store.begin() as session:
        for summary in summaries:
            exposure = session.get(tables.Exposure, summary.id)
            assert exposure is not None  # _register stored it
            for branch in sorted(config.night.branches, key=lambda b: -_PRIORITY[b]):
                report = DifferenceReport(exposure=summary.id, branch=branch, status="unchanged")
                template = templates.of(summary, branch)
                row = subtraction_of(session, summary.id, branch)
                if row is not None and row.status == "done":
                    reports.append(_as_it_is(report, row))
                    continue
                if template is None:
                    trouble = {
                        "stage": "template",
                        "reason": "no-template",
                        "message": templates.why_not(summary),
                    }
                    reports.append(report.model_copy(update={"status": "failed", **trouble}))
                    continue
                if summary.id in template.exposure_ids:
                    reports.append(
                        report.model_copy(update={"status": "template", "template": template.name})
                    )
                    continue
                job = DifferenceJob(
                    summary.id, branch, summary.path, summary.input_digest, template.path, template.name,
                    template.digest, out, config,
                )  # fmt: skip
                if (
                    row is not None
                    and row.status == "failed"
                    and row.digest == job.digest
                    and not _may_pass(row)
                ):
                    trouble = {name: getattr(row, name) or "" for name in ("stage", "reason", "message")}
                    reports.append(report.model_copy(update={"status": "failed", **trouble}))
                    continue
                priority = _PRIORITY[branch] + (_PRIORITY["too"] if exposure.is_too else 0)
                if row is None:
                    row = tables.Subtraction(exposure_id=summary.id, branch=branch)
                    session.add(row)
                row.template_id, row.priority, row.status = template.id, priority, "queued"
                jobs.append((priority, job))
    return [job for _, job in sorted(jobs, key=lambda pair: -pair[0])], reports


def _may_pass(row: tables.Subtraction) -> bool:
    """Whether it may end otherwise today, though inputs and settings are the same.

    A killed process, a defect of the software, a full disk; a catalogue whose file was mended in its place.
    """
    return row.stage in ("software", "read", "catalogue", "store", "alert") or row.reason == "killed"


def _as_it_is(report: DifferenceReport, row: tables.Subtraction) -> DifferenceReport:
    """The report of what an earlier run has done; its alerts are out, so it stays whatever changed since."""
    return report.model_copy(update={"product": row.product, "seconds": row.seconds or 0.0})


def _differences(
    store: Store, jobs: Sequence[DifferenceJob], workers: int, config: PipelineConfig
) -> Iterator[DifferenceReport]:
    """Do the jobs in processes and commit each branch's in the order of the queue; yield their reports.

    In order, so that objects and alerts do not depend on which process was faster.
    """
    sky = known_sky(config.catalogues, config.camera.site)
    waiting = {branch: [i for i, job in enumerate(jobs) if job.branch == branch] for branch in _PRIORITY}
    ready: dict[int, DifferenceReport] = {}
    for i, report in in_processes(make_difference, jobs, workers, lost=lost):
        ready[i] = report
        line = waiting[jobs[i].branch]
        while line and line[0] in ready:
            first = line.pop(0)
            yield commit_difference(store, jobs[first], ready.pop(first), sky=sky)
