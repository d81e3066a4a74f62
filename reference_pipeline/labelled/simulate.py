"""Simulated labelled stamps: cells of sky through the whole pipeline, every detection told apart by truth.

Same description, seed and options: same bytes, with any number of processes and however often interrupted.
Class rates are those of the description's densities, not nature's.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

from multiscale.atomic import replacing

from ..errors import ConfigError, FrameError
from ..lock import only_run
from ..pool import worker_pool
from ..version import __version__
from .cells import Observer, Workshop, chip_masters, open_workshop, plan_cell
from .description import Options, StampSet
from .detections import Detection, detections_of, stamps_of_cell
from .stamp import SUFFIX, LabelledStamp, write_stamps

RECORD = "set.json"
_MAKING = "making"  # cells that are not yet the set's next


@dataclass(frozen=True)
class Job:
    """One cell, for a process of its own."""

    config: str  # of the set, JSON
    seed: int
    options: Options
    number: int
    out: Path


@dataclass(frozen=True)
class SetSummary:
    """What a set holds."""

    folder: Path
    n_cells: int
    n_stamps: int
    labels: dict[str, int]
    seconds: float  # of this run

    def __str__(self) -> str:
        of_each = ", ".join(f"{n} {label}" for label, n in sorted(self.labels.items()))
        return (
            f"{self.folder}: {self.n_stamps} simulated stamps of {self.n_cells} cells "
            f"in {self.seconds:.0f} s: {of_each}"
        )


def simulate_stamps(
    config: StampSet,
    seed: int,
    number: int,
    out: Path,
    *,
    options: Options | None = None,
    workers: int = 1,
    progress: Callable[[str], None] | None = None,
) -> SetSummary:
    """Write at least ``number`` labelled stamps to ``out``, whole cells, a file each, and set.json.

    Cells that are there are kept; another set in the folder is refused, and so is a second run at the same
    time. ``progress`` is told of every cell.
    Raises ConfigError, CatalogueError.
    """
    began = time.perf_counter()
    options = options or Options()
    workshop = open_workshop(config, seed, options.inject)
    with only_run(out):
        _claim(out, config, seed, options)
        _make_masters(workshop, out)
        notes: list[dict[str, Any]] = []
        with _cells(config, seed, options, out, workers) as made:
            while _total(notes) < number:
                note = next(made)
                notes.append(note)
                if progress is not None:
                    progress(f"{note['cell']}: {note['stamps']} stamps, {_total(notes)} of {number}")
        shutil.rmtree(out / _MAKING, ignore_errors=True)
        notes += _further(out, len(notes))
        record = _summed(notes)
        _write(out / RECORD, {**_identity(config, seed, options), **record})
    return SetSummary(out, len(notes), _total(notes), record["labels"], time.perf_counter() - began)


def make_cell(workshop: Workshop, number: int, options: Options, masters: Path) -> tuple[
    list[LabelledStamp], dict[str, Any]
]:  # fmt: skip
    """Return the stamps of a cell and what became of its frames. Raises ConfigError, CatalogueError."""
    cell = plan_cell(workshop, number)
    observer = Observer(workshop, cell, chip_masters(workshop, cell.chip, cell.band, masters))
    note: dict[str, Any] = {
        "cell": cell.name, "band": cell.band, "exposures": len(cell.exposures) - 1, "failed": Counter(),
        "left_out": Counter(), "seconds": Counter(),
    }  # fmt: skip
    found: list[Detection] = []
    try:
        template = observer.template(_count_template(note))
    except FrameError as error:
        note["failed"][f"no template {error.stage}: {error.reason}"] += 1
    else:
        for epoch in range(1, len(cell.exposures)):
            try:
                seen = observer.see(epoch)
            except FrameError as error:
                note["failed"][f"{error.stage}: {error.reason}"] += 1
                continue
            for step in seen.frame.steps:
                note["seconds"][step.name] += step.seconds
            for branch in options.branches or workshop.config.branches:
                try:
                    found += detections_of(observer, seen, template, branch, epoch, options, note)
                except FrameError as error:
                    note["failed"][f"{branch} {error.stage}: {error.reason}"] += 1
    stamps = stamps_of_cell(workshop, cell, found, options)
    return stamps, {**note, **_counts(stamps)}


def _count_template(note: dict[str, Any]) -> Callable[[FrameError], None]:
    def failed(error: FrameError) -> None:
        note["failed"][f"template {error.stage}: {error.reason}"] += 1

    return failed


def _counts(stamps: list[LabelledStamp]) -> dict[str, Any]:
    return {
        "stamps": len(stamps),
        "labels": Counter(s.label for s in stamps),
        "causes": Counter(s.cause for s in stamps if s.cause),
        "subtypes": Counter(s.subtype for s in stamps if s.subtype),
        "branches": Counter(s.branch for s in stamps),
        "negative": Counter(s.label for s in stamps if s.snr < 0),
    }


# ---- the folder ----


def _identity(config: StampSet, seed: int, options: Options) -> dict[str, Any]:
    return {
        "simulated": True,
        "note": "Simulated. Class rates are those of the densities below, not nature's.",
        "version": __version__,
        "seed": seed,
        "options": options.model_dump(mode="json"),
        "set": config.model_dump(mode="json"),
    }


def _claim(out: Path, config: StampSet, seed: int, options: Options) -> None:
    """Raise ConfigError where ``out`` holds another set; else write down which one it holds."""
    mine = _identity(config, seed, options)
    path = out / RECORD
    if not path.exists():
        if next(out.glob(f"*{SUFFIX}"), None) is not None:
            raise ConfigError(
                f"{out}: holds stamps of which no {RECORD} says what they are; name another folder"
            )
        out.mkdir(parents=True, exist_ok=True)
        _write(path, mine)
        return
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(held, dict) or (differ := [k for k, v in mine.items() if held.get(k) != v]):
        names = ", ".join(differ) if isinstance(held, dict) else "everything"
        raise ConfigError(f"{out}: holds another set ({names} differ); remove it or name another folder")


def _write(path: Path, record: dict[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(record, indent=1, sort_keys=False) + "\n", encoding="utf-8")


def _name(number: int) -> str:
    return f"cell-{number:05d}"


def _note(folder: Path, number: int) -> dict[str, Any] | None:
    """What is known of a cell that lies whole in ``folder``."""
    if not (folder / f"{_name(number)}{SUFFIX}").exists():
        return None
    found: dict[str, Any] = json.loads((folder / f"{_name(number)}.json").read_text(encoding="utf-8"))
    return found


def _further(out: Path, first: int) -> list[dict[str, Any]]:
    """Cells that an earlier, longer run left."""
    notes: list[dict[str, Any]] = []
    for number in count(first):
        note = _note(out, number)
        if note is None:
            return notes
        notes.append(note)
    raise AssertionError  # a count has no end


def _total(notes: list[dict[str, Any]]) -> int:
    return sum(note["stamps"] for note in notes)


def _summed(notes: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"cells": len(notes), "stamps": _total(notes)}
    out["exposures"] = sum(note["exposures"] for note in notes)
    for name in ("labels", "causes", "subtypes", "branches", "negative", "failed", "left_out", "seconds"):
        total: Counter[str] = Counter()
        for note in notes:
            total.update(note[name])
        out[name] = {key: round(value, 1) for key, value in sorted(total.items())}
    return out


# ---- processes ----


@contextmanager
def _cells(
    config: StampSet, seed: int, options: Options, out: Path, workers: int
) -> Iterator[Iterator[dict[str, Any]]]:
    """Give the notes of cells 0, 1, 2, ... without end, each once it lies in ``out``."""
    text = config.model_dump_json()
    with worker_pool(workers, one_thread=True) as pool:  # two threads would differ in the last bit
        yield _in_order((Job(text, seed, options, n, out) for n in count()), pool, workers + 1)


def _in_order(jobs: Iterator[Job], pool: ProcessPoolExecutor, ahead: int) -> Iterator[dict[str, Any]]:
    """Keep ``ahead`` cells in work and move each into the set when its turn has come."""
    waiting: list[tuple[Job, Future[None] | None]] = []
    while True:
        while len(waiting) < ahead:
            job = next(jobs)
            there = _note(job.out, job.number) is not None
            waiting.append((job, None if there else pool.submit(_make, job)))
        job, future = waiting.pop(0)
        if future is not None:
            future.result()
            for ending in (".json", SUFFIX):  # the stamps last: they say that all of it is there
                os.replace(
                    job.out / _MAKING / f"{_name(job.number)}{ending}",
                    job.out / f"{_name(job.number)}{ending}",
                )
        note = _note(job.out, job.number)
        assert note is not None  # it was there, or has just been moved there
        yield note


def _make(job: Job) -> None:
    """Make a cell, in a process of its own; one that an interrupted run left is taken as it is."""
    folder = job.out / _MAKING
    if _note(folder, job.number) is not None:
        return
    workshop = _workshop(job.config, job.seed, job.options.inject)
    began = time.process_time()
    stamps, note = make_cell(workshop, job.number, job.options, job.out / "masters")
    note["seconds"]["cpu, all"] = time.process_time() - began
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"{_name(job.number)}.json", note)
    write_stamps(folder / f"{_name(job.number)}{SUFFIX}", stamps)


@lru_cache(maxsize=1)
def _workshop(config: str, seed: int, inject: int) -> Workshop:
    return open_workshop(StampSet.model_validate_json(config), seed, inject)


def _make_masters(workshop: Workshop, out: Path) -> None:
    for chip in range(workshop.config.chips):
        for band in workshop.config.bands:
            chip_masters(workshop, chip, band, out / "masters")
