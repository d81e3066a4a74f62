"""One exposure's way through one branch, in a process of its own: template subtracted, candidates cut out.

It leaves the difference product and, before it, its cutouts: a product that is there, of the same inputs and
settings, is that work done. What models say of the cutouts is a third file, made after them (classify.py).
Nothing here knows the database.
"""

from __future__ import annotations

import base64
import hashlib
import io
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.visualization import ZScaleInterval

from ..alerts.cutouts import cutouts, cutouts_path, to_send, write_cutouts
from ..catalogues.opening import open_catalogue
from ..config import Catalogues, PipelineConfig, Site
from ..crossmatch import KnownSky, open_sky
from ..difference_products import StoredDifference, difference_path, read_difference, write_difference
from ..errors import CatalogueError, FileError, FrameError
from ..frame import Frame, Step
from ..products import read_product
from ..run import Found, find_transients
from ..subtract.binning import bin_frame
from ..version import __version__
from .classify import Classes, classify_exposure
from .report import DifferenceReport, StepReport

#: The settings that a difference and its cutouts depend on, beside those of the inputs.
DIFFERENCE_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("align", "subtract", "detect", "cuts", "crossmatch", "alerts", "catalogues"), True),
    "night": {"binning", "dip_tile"},
}
_PICTURE = 160  # pixels a side, of the report's pictures


@dataclass(frozen=True)
class DifferenceJob:
    """What one process needs."""

    exposure_id: str
    branch: str
    science: Path  # a calibrated frame's product
    science_digest: str
    template: Path
    template_id: str
    template_digest: str
    out: Path
    config: PipelineConfig

    @property
    def product(self) -> Path:
        """Where the difference goes."""
        return difference_path(self.out, self.branch, self.exposure_id)

    @property
    def digest(self) -> str:
        """What the product is made from: both frames, the settings and the version."""
        settings = self.config.model_dump_json(include=DIFFERENCE_SETTINGS)
        parts = (self.science_digest, self.template_digest, self.branch, settings, __version__)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def make_difference(job: DifferenceJob) -> DifferenceReport:
    """Subtract, detect, match, cut out and classify; write the product, and report.

    A named error ends this exposure in this branch, and nothing else.
    """
    report = DifferenceReport(
        exposure=job.exposure_id, branch=job.branch, status="done", template=job.template_id
    )
    try:
        stored = finished(job)
        made: tuple[list[Step], str] | None = None
        if stored is None:
            made = _make(job)
            stored = read_difference(job.product)
        started = time.perf_counter()
        classes = classify_exposure(job.out, stored, config=job.config)
        seconds = time.perf_counter() - started
    except FrameError as error:
        trouble = {"stage": error.stage, "reason": error.reason, "message": error.message}
        return report.model_copy(update={"status": "failed", **trouble})
    except CatalogueError as error:
        trouble = {"stage": "catalogue", "reason": "catalogue", "message": str(error)}
        return report.model_copy(update={"status": "failed", **trouble})
    except Exception as error:  # noqa: BLE001  # a defect of ours must not end the night; its trace is kept
        return lost(job, type(error).__name__, traceback.format_exc())
    report = report.model_copy(update={**_summary(job, stored), **_of_classes(classes)})
    steps = list(report.steps)
    if made is not None:
        taken, picture = made
        steps = [StepReport(name=s.name, seconds=s.seconds, decision=s.decision) for s in taken]
        report = report.model_copy(update={"picture": picture})
    said = {"n": len(classes.candidates), "n_refused": len(classes.refused)}
    steps.append(StepReport(name="classify", seconds=seconds, decision=said))
    return report.model_copy(update={"seconds": sum(s.seconds for s in steps), "steps": tuple(steps)})


def lost(job: DifferenceJob, reason: str, message: str) -> DifferenceReport:
    """The report of a job whose process was killed, or that our own defect ended."""
    return DifferenceReport(
        exposure=job.exposure_id, branch=job.branch, status="crashed", template=job.template_id,
        stage="subtract" if reason == "killed" else "software", reason=reason, message=message,
    )  # fmt: skip


def finished(job: DifferenceJob) -> StoredDifference | None:
    """Return the product of this very job, if it is there."""
    try:
        stored = read_difference(job.product)
    except FileError:
        return None
    return stored if stored.input_digest == job.digest else None


def _make(job: DifferenceJob) -> tuple[list[Step], str]:
    """Do the work, leave the product; the steps taken and a picture."""
    started = time.perf_counter()
    config = job.config
    science, template = read_product(job.science), read_product(job.template)
    steps = [Step("read", time.perf_counter() - started)]
    if job.branch == "qip":
        before = time.perf_counter()
        catalogue = open_catalogue(config.catalogues.photometry or config.catalogues.astrometry)
        science = bin_frame(science, config.night.binning, catalogue=catalogue, config=config)
        steps.append(Step("bin", time.perf_counter() - before, {"n": config.night.binning}))
    found = find_transients(
        science, template, sky=known_sky(config.catalogues, config.camera.site), config=config
    )
    steps += found.steps
    before = time.perf_counter()
    sent = to_send(found.candidates)
    made = cutouts(
        sent, found.difference, found.aligned, template, config=config.alerts,
        pixel_scale=pixel_scale_of(found.aligned),
    )  # fmt: skip
    path = cutouts_path(job.out, job.branch, job.exposure_id)
    digest = write_cutouts(
        path, {c.number: one for c, one in zip(sent, made)}, exposure=science.exposure, branch=job.branch
    )
    steps.append(Step("cutouts", time.perf_counter() - before, {"n": len(made), "sha256": digest}))
    before = time.perf_counter()
    write_difference(
        job.product, difference=found.difference, aligned=found.aligned, template=template,
        candidates=found.candidates, branch=job.branch, template_id=job.template_id,
        input_digest=job.digest, steps=steps,
    )  # fmt: skip
    steps.append(Step("write", time.perf_counter() - before))
    return steps, _picture(found, template)


@lru_cache(maxsize=2)
def known_sky(catalogues: Catalogues, site: Site | None) -> KnownSky:
    """The catalogues of the configuration, opened once in a process."""
    return open_sky(catalogues, site)


def pixel_scale_of(frame: Frame) -> float:
    """Arcsec per pixel, at the reference pixel of the frame's WCS."""
    from astropy.wcs.utils import proj_plane_pixel_scales

    assert frame.wcs is not None  # alignment refuses a frame without
    return float(np.sqrt(np.prod(proj_plane_pixel_scales(frame.wcs.celestial))) * 3600.0)


def _summary(job: DifferenceJob, stored: StoredDifference) -> dict[str, Any]:
    """What a report takes from the product."""
    return {
        "product": str(job.product.relative_to(job.out)),
        "n_candidates": len(stored.candidates),
        "cuts": dict(Counter(c.cut for c in stored.candidates if c.cut is not None)),
        "steps": tuple(
            StepReport(name=name, seconds=0.0, decision=decision)
            for name, decision in stored.decisions.items()
        ),
    }


def _of_classes(classes: Classes) -> dict[str, Any]:
    """What a report takes from the file of classes."""
    unsaid = list(classes.missing)
    if classes.refused:
        why = next(iter(classes.refused.values()))
        unsaid.append(f"{classes.exposure} {classes.branch}: of {len(classes.refused)} candidates: {why}")
    return {
        "models": tuple(str(model) for model in classes.models),
        "classes": classes.counts(),
        "n_real": classes.n_real(),
        "unsaid": tuple(unsaid),
    }


def _picture(found: Found, template: Frame) -> str:
    """Science, template and difference side by side, about the strongest candidate that was kept; PNG."""
    from matplotlib.image import imsave

    kept = [c for c in found.candidates if c.cut is None]
    ny, nx = found.difference.data.shape
    x, y = (nx // 2, ny // 2)
    if kept:
        best = max(kept, key=lambda c: abs(c.snr))
        x, y = round(best.x), round(best.y)
    side = min(_PICTURE, ny, nx)
    left, low = int(np.clip(x - side // 2, 0, nx - side)), int(np.clip(y - side // 2, 0, ny - side))
    part = np.s_[low : low + side, left : left + side]
    tiles = []
    for image in (found.aligned.data, template.data, found.difference.data):
        pixels = np.nan_to_num(image[part])
        lowest, highest = ZScaleInterval().get_limits(pixels)
        tiles.append(np.clip((pixels - lowest) / max(highest - lowest, 1e-12), 0, 1)[::-1])
    out = io.BytesIO()
    imsave(out, np.hstack(tiles), cmap="gray", vmin=0, vmax=1, format="png")
    return base64.b64encode(out.getvalue()).decode()
