"""The templates of a night: chosen, made in processes, registered; replaced on record only."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from astropy.time import Time
from sqlalchemy import select

from ..catalogues.opening import open_catalogue
from ..config import PipelineConfig
from ..errors import CatalogueError, FileError, FrameError
from ..products import Summary, input_digest_of, read_product, read_summary, write_product
from ..store import tables
from ..store.opening import Store
from ..store.queries import register_template
from ..subtract.binning import bin_frame
from ..subtract.templates import TemplateCandidate, TemplateChoice, candidate_of, choose, find_template, stack
from ..version import __version__
from .processes import in_processes

FOLDER = "templates"


@dataclass(frozen=True)
class InUse:
    """A registered template."""

    id: int
    branch: str
    path: Path
    digest: str
    exposure_ids: tuple[str, ...]
    place: TemplateCandidate

    @property
    def name(self) -> str:
        """What products and alerts call it."""
        return self.path.stem


@dataclass(frozen=True)
class Templates:
    """The templates in use, and of the fields that have none, why."""

    in_use: tuple[InUse, ...]
    refused: dict[str, str]  # exposure id -> why it is no template
    config: PipelineConfig

    def of(self, summary: Summary, branch: str) -> InUse | None:
        """The template of an exposure in a branch; None where there is none."""
        mine = {t.place.exposure_id: t for t in self.in_use if t.branch == branch}
        found = find_template(
            candidate_of(summary, summary.path), [t.place for t in mine.values()], self.config.templates
        )
        return None if found is None else mine[found.exposure_id]

    def why_not(self, summary: Summary) -> str:
        """Why the exposure's field has no template."""
        own = self.refused.get(summary.exposure.id)
        field = summary.exposure.field_id or "this part of the sky"
        why = f"; this frame itself is not fit: {own}" if own else ""
        return f"no template of {field} in band {summary.exposure.band}{why}"


@dataclass(frozen=True)
class TemplateJob:
    """One template to be made: of one field, band and branch."""

    choice: TemplateChoice
    branch: str
    digests: tuple[str, ...]  # of the members
    out: Path
    config: PipelineConfig

    @property
    def path(self) -> Path:
        """Where it goes; a template that was in use is never written over."""
        return (
            self.out / FOLDER / self.branch / f"{self.choice.members[0].exposure_id}-{self.digest[:12]}.fits"
        )

    @property
    def digest(self) -> str:
        """What it is made from."""
        settings = self.config.templates.model_dump_json() + self.config.night.model_dump_json(
            include={"binning"}
        )
        return hashlib.sha256(
            json.dumps([self.branch, *self.digests, settings, __version__]).encode()
        ).hexdigest()


@dataclass(frozen=True)
class Made:
    """What became of a template that was to be made."""

    trouble: str = ""  # why it was not


def make_template(job: TemplateJob) -> Made:
    """Write the template: the calibrated frame itself or a stack, and for the quick branch binned."""
    if input_digest_of(job.path) == job.digest:
        return Made()
    members, config = job.choice.members, job.config
    try:
        catalogue = open_catalogue(config.catalogues.photometry or config.catalogues.astrometry)
        frames = [read_product(member.path) for member in members]
        frame = frames[0] if len(frames) == 1 else stack(frames, config=config, catalogue=catalogue)
        if job.branch == "qip":
            frame = bin_frame(frame, config.night.binning, catalogue=catalogue, config=config)
    except (FrameError, CatalogueError) as error:
        return Made(str(error))
    except Exception:  # noqa: BLE001  # a defect of ours must not end the night; its trace is kept
        return Made(traceback.format_exc())
    write_product(job.path, frame, input_digest=job.digest, status="template")
    return Made()


def settle_templates(
    store: Store, summaries: Sequence[Summary], out: Path, *, config: PipelineConfig, workers: int,
    renew: bool = False,
) -> Templates:  # fmt: skip
    """Return the templates of the fields of ``summaries``; where one has none, the rule chooses and makes it.

    One that is in use stays, unless ``renew``: then the rule chooses anew, and the database says which
    replaced which, when and why.
    """
    in_use = _registered(store, out)
    of_branch = {branch: [t for t in in_use if t.branch == branch] for branch in config.night.branches}
    candidates = [(candidate_of(s, s.path), s.input_digest) for s in summaries]
    digests = {c.exposure_id: digest for c, digest in candidates}
    refused: dict[str, str] = {}
    jobs: list[TemplateJob] = []
    for branch in config.night.branches:
        places = [t.place for t in of_branch[branch]]
        asked = [c for c, _ in candidates if renew or find_template(c, places, config.templates) is None]
        for choice in choose(asked, config.templates):
            refused |= dict(choice.refused)
            if choice.members:
                of_members = tuple(digests[m.exposure_id] for m in choice.members)
                jobs.append(TemplateJob(choice, branch, of_members, out, config))

    def lost(job: TemplateJob, reason: str, message: str) -> Made:
        return Made(f"{reason}: {message}")

    made = dict(in_processes(make_template, jobs, workers, lost=lost))
    for i, job in enumerate(jobs):  # in order: what is registered does not depend on which was ready first
        if made[i].trouble:
            refused |= {m.exposure_id: made[i].trouble for m in job.choice.members}
        else:
            _register(store, job, renew=renew)
    return Templates(tuple(_registered(store, out)), refused, config)


def _register(store: Store, job: TemplateJob, *, renew: bool) -> None:
    ids = [m.exposure_id for m in job.choice.members]
    why = "the best" if job.config.templates.method == "stack" else "the earliest"
    with store.begin() as session:
        register_template(
            session,
            tables.Template(
                field_id=job.choice.field_id, band=job.choice.band or "", branch=job.branch, exposure_ids=ids,
                path=str(job.path.relative_to(job.out)), digest=job.digest,
                registered_mjd=float(Time.now().mjd),
                reason=f"{'renewed: ' if renew else ''}{why} of the acceptable frames",
            ),
        )  # fmt: skip


def _registered(store: Store, out: Path) -> list[InUse]:
    """The templates in use whose files can be read, in the order in which they were registered."""
    with store.read() as session:
        rows = session.scalars(
            select(tables.Template).where(tables.Template.replaced_by.is_(None)).order_by(tables.Template.id)
        ).all()
        found = []
        for row in rows:
            path = out / row.path
            try:
                place = candidate_of(read_summary(path), path)
            except (
                FileError
            ):  # gone or damaged: the rule chooses anew, and the database says what it replaced
                continue
            found.append(
                InUse(row.id, row.branch, path, row.digest, tuple(map(str, row.exposure_ids)), place)
            )
    return found
