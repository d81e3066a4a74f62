"""A night's raw files become calibrated frames: which, in which processes, and what became of each.

What a failure ends is decided here: a FrameError, or a defect of ours, ends its frame; the night goes on and
the report says which frame, where and why.
"""

from __future__ import annotations

import hashlib
import os
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from ..catalogues.opening import open_catalogue
from ..classify.card import read_card
from ..classify.thumbnails import chosen_model, cloud_network
from ..config import PipelineConfig
from ..errors import CatalogueError, ConfigError, FrameError
from ..frame import Exposure, Frame
from ..products import input_digest_of, read_summary, write_product
from ..raw import read_exposure, read_raw
from ..reduce.masters import read_masters
from ..run import measure_psf, reduction
from ..version import __version__
from .masters import make_night_masters
from .processes import in_processes
from .report import FrameReport, NightReport, Status

FITS_SUFFIXES = (".fits", ".fit", ".fts", ".fits.fz", ".fits.gz")
_PSF = "psf"  # the step of reduce/psf.py
_BYTES_PER_PIXEL = 50  # that the reduction of a frame needs at its widest (benchmarks/reduction/fullsize.py)

#: The settings that a calibrated frame depends on; others may change without reducing it again.
REDUCTION_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("camera", "calibrate", "cosmic_rays", "trails", "sources", "astrometry"), True),
    **dict.fromkeys(("photometry", "psf", "quality"), True),
    "catalogues": {"astrometry", "photometry"},
}


@dataclass(frozen=True)
class Job:
    """What one process needs to reduce one frame."""

    path: Path
    kind: str
    masters: tuple[Path, ...]
    out: Path
    config: PipelineConfig
    with_psf: bool = True
    cloud_model: Path | None = None  # the card of the network that looks for clouds

    @property
    def product(self) -> Path:
        """Where the calibrated frame goes."""
        return self.out / "calibrated" / f"{self.path.stem}.fits"

    @property
    def failed(self) -> Path:
        """Where a frame goes that came less far."""
        return self.out / "failed" / f"{self.path.stem}.fits"


def reduce_night(
    paths: Iterable[Path],
    out: Path,
    *,
    config: PipelineConfig,
    workers: int | None = None,
    with_psf: bool = True,
    force: bool = False,
    progress: Callable[[FrameReport], None] = lambda report: None,
) -> NightReport:
    """Reduce a night's raw files into ``out``: masters/, calibrated/, failed/, report.json, report.html.

    Returns the report, which has one entry for each file given. A frame whose product has the same inputs,
    settings and cloud network is left as it is, unless ``force``. Raises ConfigError or CatalogueError,
    before a pixel is read, where the settings cannot be used.
    """
    started = time.perf_counter()
    files = sorted(paths)
    for spec in _catalogue_specs(config):
        open_catalogue(spec)
    clouds = chosen_model(config.classify.clouds, camera=config.camera.name)
    if clouds is not None:
        cloud_network(clouds)
    exposures, reports = _look(files, config)
    masters, of_masters = make_night_masters(exposures, out / "masters", config=config, force=force)
    reports += of_masters
    jobs = [
        Job(path, exposure.kind, masters.paths(exposure.band), out, config, with_psf, clouds)
        for path, exposure in exposures.items()
        if exposure.kind == "science"
    ]
    todo = []
    for job in jobs:
        if force or (unchanged := _unchanged(job)) is None:
            todo.append(job)
        else:
            progress(unchanged)
            reports.append(unchanged)
    reports += _reports_of(reduce_one, todo, workers or default_workers(files), progress)
    night = NightReport(
        frames=tuple(sorted(reports, key=lambda report: report.file)),
        seconds=time.perf_counter() - started,
        settings=config.model_dump(mode="json"),
    )
    night.write(out)
    return night


def reduce_one(job: Job) -> FrameReport:
    """Take one frame through the main path and write its product, then again with its PSF; and report.

    A product in failed/ is a frame as far as it came; that of an earlier run does not stay beside a new one.
    """
    digest = _digest(job)
    frame: Frame | None = None  # as far as it came
    trouble: dict[str, str] = {}
    try:
        positions, magnitudes = (open_catalogue(spec) for spec in _catalogue_specs(job.config))
        raw = read_raw(job.path, job.config.camera)
        masters = read_masters(job.masters)
        steps = reduction(
            raw, masters, positions=positions, magnitudes=magnitudes, config=job.config,
            cloud_network=None if job.cloud_model is None else cloud_network(job.cloud_model),
        )  # fmt: skip
        for step in steps:
            frame = step
    except (FrameError, CatalogueError, ConfigError) as error:
        trouble = _words(error)
    except Exception as error:  # noqa: BLE001  # a defect of ours must not end the night; its trace is kept
        trouble = _trace(error)
    target, other = (job.failed, job.product) if trouble else (job.product, job.failed)
    other.unlink(missing_ok=True)
    if frame is None:
        return FrameReport(
            file=job.path.name, id=job.path.stem, kind=job.kind, status=_status(trouble), **trouble
        )
    if not any(step.name == "astrometry" for step in frame.steps):
        frame = replace(frame, wcs=None)  # what the header claims, and no star has confirmed
    status = f"{trouble['stage']}: {trouble['reason']}" if trouble else "calibrated"
    write_product(target, frame, input_digest=digest, status=status)
    if job.with_psf and not trouble:
        frame, trouble = _add_psf(frame, job.config)
        write_product(target, frame, input_digest=digest, status=status)
        if trouble and trouble["stage"] != "software":  # without a PSF it stays calibrated, and says so
            product = str(target.relative_to(job.out))
            return FrameReport.of_frame(job.path.name, frame, status="calibrated", product=product, **trouble)
    return FrameReport.of_frame(
        job.path.name, frame, status=_status(trouble), product=str(target.relative_to(job.out)), **trouble
    )


def _add_psf(frame: Frame, config: PipelineConfig) -> tuple[Frame, dict[str, str]]:
    """The frame with its PSF and PSF photometry, or with a step that says why it has none."""
    started = time.perf_counter()
    try:
        return measure_psf(frame, config=config), {}
    except FrameError as error:
        trouble = _words(error)
    except Exception as error:  # noqa: BLE001  # as in reduce_one
        trouble = _trace(error)
    return frame.after(_PSF, started, {"failed": trouble["reason"]}), trouble


def _unchanged(job: Job) -> FrameReport | None:
    """The report of a product that is there, of the same inputs and settings; None where there is work."""
    if input_digest_of(job.product) != _digest(job):
        return None
    summary = read_summary(job.product)
    if job.with_psf and not any(step.name == _PSF for step in summary.steps):
        return None
    product = str(job.product.relative_to(job.out))
    return FrameReport.of_frame(job.path.name, summary, status="unchanged", product=product)


def _status(trouble: dict[str, str]) -> Status:
    if not trouble:
        return "calibrated"
    return "crashed" if trouble["message"].startswith("Traceback") else "failed"


def _trace(error: Exception) -> dict[str, str]:
    return {"stage": "software", "reason": type(error).__name__, "message": traceback.format_exc()}


def _words(error: FrameError | CatalogueError | ConfigError) -> dict[str, str]:
    if isinstance(error, FrameError):
        return {"stage": error.stage, "reason": error.reason, "message": error.message}
    what = "catalogue" if isinstance(error, CatalogueError) else "settings"
    return {"stage": what, "reason": what, "message": str(error)}


def _digest(job: Job) -> str:
    """What a product was made from: raw file, masters, settings, the cloud network and the version."""
    digest = hashlib.sha256()
    for path in (job.path, *job.masters):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    settings = job.config.model_dump_json(include=REDUCTION_SETTINGS)
    network = None if job.cloud_model is None else read_card(job.cloud_model).sha256
    digest.update(f"{settings}{network}{__version__}".encode())
    return digest.hexdigest()


def _catalogue_specs(config: PipelineConfig) -> tuple[str, str]:
    """The catalogues of positions and of magnitudes."""
    return config.catalogues.astrometry, config.catalogues.photometry or config.catalogues.astrometry


def _look(paths: list[Path], config: PipelineConfig) -> tuple[dict[Path, Exposure], list[FrameReport]]:
    """What the headers say of each file; and a report of each that does not say it."""
    exposures, reports = {}, []
    for path in paths:
        try:
            exposures[path] = read_exposure(path, config.camera)
        except FrameError as error:
            reports.append(FrameReport(file=path.name, id=path.stem, status="failed", **_words(error)))
    return exposures, reports


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the FITS files among ``paths`` and in the folders among them, each once.

    A file that is named counts whatever its suffix. Raises ConfigError if there is none, or two of one name:
    products are named after their raw files.
    """
    found: dict[Path, None] = {}
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        found |= {p: None for p in inside if p == path or p.name.lower().endswith(FITS_SUFFIXES)}
    if not found:
        raise ConfigError(f"no FITS files ({', '.join(FITS_SUFFIXES)}) in {', '.join(map(str, paths))}")
    names: dict[str, Path] = {}
    for path in found:
        if path.stem in names:
            raise ConfigError(f"{path} and {names[path.stem]} would both become {path.stem}.fits; rename one")
        names[path.stem] = path
    return list(found)


def default_workers(paths: list[Path]) -> int:
    """As many processes as there are cores, or fewer where memory would not hold as many frames."""
    largest = max((path.stat().st_size for path in paths), default=0) // 2  # pixels, of 16 bits
    room = int(psutil.virtual_memory().available // max(_BYTES_PER_PIXEL * largest, 1))
    return max(1, min(os.cpu_count() or 1, room, len(paths)))


def _reports_of(
    work: Callable[[Job], FrameReport],
    jobs: list[Job],
    workers: int,
    progress: Callable[[FrameReport], None],
) -> list[FrameReport]:
    """Do the jobs in processes and return their reports, each told to ``progress`` as it comes."""

    def lost(job: Job, reason: str, message: str) -> FrameReport:
        stage = work.__name__ if reason == "killed" else "software"
        return FrameReport(
            file=job.path.name, id=job.path.stem, kind=job.kind, status="crashed", stage=stage, reason=reason,
            message=message,
        )  # fmt: skip

    reports = []
    for _, report in in_processes(work, jobs, workers, lost=lost):
        progress(report)
        reports.append(report)
    return reports
