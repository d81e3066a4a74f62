"""The same question on real stamps: grouped cross-validation on ../shared/data/ztf_labelled.

Labels of catalogues, hints, and glints (checked by eye by no expert) are tested apart. AGN, supernovae and
what lies near a galaxy are one class: few of them are told apart by any label.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import DATA
from multiscale.atomic import replacing
from reference_pipeline.classify.calibration import rates_of
from reference_pipeline.classify.recipe import Recipe
from reference_pipeline.classify.training import logits_of, train_member
from reference_pipeline.labelled.real import label_alerts
from reference_pipeline.labelled.split import split
from reference_pipeline.taxonomy import STAMP_CLASSES

from . import scoring
from .data import Stamps, gather, read_stamps_of
from .prepare import MAKING, prepare, shown
from .results import Cell, RealCells
from .sizes import measure, read_sizes, size_key, write_sizes
from .study import CellSpec, DataSpec, Study
from .tested import Asked, Said, Scored, asked_of, differences_of, scored_on
from .trials import DIGITS, Engine, Task, family_options, recipe_of, run_tasks, temperature_of, write_trial

Ints = NDArray[np.int64]

CLASSES = ("asteroid", "bogus", "extragalactic", "star", "satellite")  # the last with glints alone
OF_STAMPS = {"asteroid": 0, "bogus": 1, "AGN": 2, "SN": 2, "VS": 3, "satellite": 4}
SATELLITE = 4
FACTS, SIZES = "real.npz", "real-bytes.json"
ARM = "real"
N_GLINT_GROUPS, LEAST_GLINTS = 3, 3  # one group trains, one validates, one is tested
_SPEC = DataSpec(label="Real ZTF stamps with labels", with_weak=True, places="pixel")
_NOTE = (
    "Few labels, most of them hints of scores made from the same images: agreement with them is not truth. "
    "Glints are only compared where three exposures and more hold some of them."
)
_NO_GLINTS = " Here {most} of {n} glints are of one exposure, so none of it says anything of glints."


class RealRecipe(Recipe):
    """A recipe for the classes that real labels tell apart."""

    real_classes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the network's outputs."""
        return self.real_classes


def run_real(out: Path, study: Study, *, workers: int, engine: Engine, say: Callable[[str], None]) -> None:
    """Label, send and cross-validate what is left to do; nothing where the real stamps are not here."""
    assert study.real is not None
    if not (DATA / "ztf_labelled").is_dir():
        say("real stamps: ../shared/data/ztf_labelled is not beside the checkout; left out")
        return
    own = _own(out)
    folder = own / "stamps"
    if not folder.is_dir():
        partial = folder.with_name(f"{MAKING}{uuid4().hex[:8]}")
        label_alerts([DATA / "ztf_labelled"], partial, seed=study.data.split_seed, progress=say)
        partial.rename(folder)
    stamps = gather(_SPEC, [folder], own, say)
    cells = real_cells(study)
    if not (out / SIZES).is_file():
        write_sizes(out / SIZES, measure(stamps, cells, study.n_packets, places=_SPEC.places))
    for cell in cells:
        prepare(stamps, cell.sending, own / "work", places=_SPEC.places)
    label, rows = _labels(stamps)
    glints = has_glints(label[rows], stamps.group[rows])
    if not glints:
        say("real stamps: most glints are of one exposure, so nothing is cross-validated on them")
    with replacing(out / FACTS) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file, row=rows, label=label[rows], group=stamps.group[rows],
            object_id=stamps.facts["object_id"][rows], is_weak=stamps.facts["is_weak"][rows],
            pixel_scale=stamps.pixel_scale, side=stamps.side,
        )  # fmt: skip
    tasks = [
        Task(out, study, "real", cell, _options(study, cell, with_glints), seed, with_glints)
        for seed in range(1, study.real.n_seeds + 1)
        for with_glints in ((False, True) if glints else (False,))
        for cell in cells
    ]
    run_tasks(tasks, workers=workers, engine=engine, say=say)


def has_glints(label: Ints, group: Ints) -> bool:
    """Whether enough groups hold glints that some can be trained on and others tested."""
    counts = np.unique(group[label == SATELLITE], return_counts=True)[1]
    return int((counts >= LEAST_GLINTS).sum()) >= N_GLINT_GROUPS


def real_cells(study: Study) -> list[CellSpec]:
    """Return the cells of the cross-validation; the full stamp is as surveys send it."""
    assert study.real is not None
    found = []
    for layout in study.real.layouts:
        encodings = ("fits",) if layout.startswith("full") else study.real.encodings
        found += [CellSpec(layout=layout, encoding=encoding) for encoding in encodings]
    return found


def real_trial(task: Task) -> None:
    """Train a network of each fold and keep what each says of its own test fold."""
    study = task.study
    assert study.real is not None
    own = _own(task.out)
    stamps = read_stamps_of(own)
    label, rows = _labels(stamps)
    if not task.with_glints:
        rows = rows[label[rows] != SATELLITE]
    classes = CLASSES if task.with_glints else CLASSES[:SATELLITE]
    n_folds = study.real.n_folds
    fold = np.full(len(stamps), -1)
    fold[rows] = split(
        label[rows], stamps.group[rows], fractions=[1 / n_folds] * n_folds, seed=study.data.split_seed
    )
    recipe = _recipe(study, task, classes)
    examples, _ = shown(stamps, task.cell, own / "work", seed=task.seed)
    examples.labels[:] = label
    raw = np.zeros((len(rows), len(classes)), np.float32)
    calibrated = np.zeros_like(raw)
    seconds, network = 0.0, None
    for k in range(n_folds):
        parts = parts_of(fold, label, k, n_folds)
        member = train_member(
            recipe, examples, parts, seed=task.seed, n_threads=1, device=study.training.device
        )
        network, seconds = member.network, seconds + member.seconds
        validation = np.flatnonzero(parts == 1)
        temperature = temperature_of(
            recipe, logits_of(network, examples, validation), examples.labels[validation]
        )
        tested = np.flatnonzero(fold[rows] == k)
        raw[tested] = np.round(logits_of(network, examples, rows[tested]), DIGITS)
        calibrated[tested] = raw[tested] / temperature
    assert network is not None
    record = {
        "seconds": round(seconds, 1),
        "rates": rates_of(label[rows], len(classes)),
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
    }
    write_trial(task, record, network, recipe, row=rows, logits=raw, calibrated=calibrated)


def parts_of(fold: Ints, label: Ints, k: int, n_folds: int) -> Ints:
    """Return the parts when fold ``k`` is tested. The next fold validates that has every class and leaves
    every class to the training, for glints are in few exposures; the next at all where there is none."""
    classes = set(label[fold >= 0].tolist())

    def parts_with(validating: int) -> Ints:
        parts = np.where(fold == k, 2, np.where(fold == validating, 1, 0))
        return np.where(fold < 0, 3, parts)

    tried = [parts_with((k + i) % n_folds) for i in range(1, n_folds)]
    fit = [parts for parts in tried if all(set(label[parts == part].tolist()) == classes for part in (0, 1))]
    return (fit or tried)[0]


def real_of(out: Path, study: Study) -> RealCells | None:
    """Return how the layouts compare on the real stamps; None where nothing was run on them."""
    if study.real is None or not (out / FACTS).is_file():
        return None
    with np.load(out / FACTS) as kept:
        facts = {name: kept[name] for name in kept.files}
    sizes = read_sizes(out / SIZES)
    cells, scored, asked = [], {}, {}
    for cell in real_cells(study):
        there: list[dict[str, Any]] = []
        for test, with_glints in (("catalogue", False), ("weak", False), ("all", False), ("glints", True)):
            trials = _trials(out, study, cell, with_glints)
            there = there or [told for told, _ in trials]
            if trials:
                asked[test], said = _asked(test, facts, trials, study.n_draws)
                scored[cell.id, test] = scored_on(asked[test], said, None)
        if there:
            tests = {test: scored[cell.id, test].tested for test in asked if (cell.id, test) in scored}
            cells.append(_cell(cell, there, tests, sizes, facts))
    if not cells:
        return None
    differences = [
        found for test in asked for found in differences_of(_pairs(cells, scored, test), scored, (test,))
    ]
    return RealCells(
        classes=list(CLASSES), n_folds=study.real.n_folds,
        counts={test: scored[cells[0].id, test].tested.counts for test in cells[0].tests},
        note=_note(facts), cells=cells, differences=differences,
    )  # fmt: skip


def _note(facts: dict[str, Any]) -> str:
    label, group = facts["label"], facts["group"]
    if has_glints(label, group):
        return _NOTE
    counts = np.unique(group[label == SATELLITE], return_counts=True)[1]
    return _NOTE + _NO_GLINTS.format(most=max(counts, default=0), n=counts.sum())


def _own(out: Path) -> Path:
    return out / "work" / "real"


def _labels(stamps: Stamps) -> tuple[Ints, Ints]:
    """The real class of every stamp, and the rows that stand for their objects."""
    numbers = np.array([OF_STAMPS[name] for name in STAMP_CLASSES])
    return numbers[stamps.label], np.flatnonzero(stamps.facts["is_random"])


def _options(study: Study, cell: CellSpec, with_glints: bool) -> dict[str, Any] | None:
    return family_options(study, cell, n_classes=len(CLASSES) - (not with_glints))


def _recipe(study: Study, task: Task, classes: Sequence[str]) -> RealRecipe:
    assert study.real is not None
    values = recipe_of(study, task.cell, task.options).model_dump()
    return RealRecipe(**{**values, **study.real.budget.model_dump()}, real_classes=tuple(classes))


def _trials(out: Path, study: Study, cell: CellSpec, with_glints: bool) -> list[tuple[dict[str, Any], Path]]:
    assert study.real is not None
    found = []
    for seed in range(1, study.real.n_seeds + 1):
        path = Task(out, study, "real", cell, seed=seed, with_glints=with_glints).path
        if path.is_file():
            found.append((json.loads(path.read_text(encoding="utf-8")), path.with_suffix(".npz")))
    return found


def _asked(
    test: str, facts: dict[str, Any], trials: Sequence[tuple[dict[str, Any], Path]], n_draws: int
) -> tuple[Asked, Said]:
    """A test: its stamps, the classes that they have, and what was said of them among those classes."""
    raw, calibrated = [], []
    for _, path in trials:
        with np.load(path) as kept:
            rows = kept["row"]
            raw.append(kept["logits"])
            calibrated.append(kept["calibrated"])
    of_trial = np.isin(facts["row"], rows)
    label, is_weak = facts["label"][of_trial], facts["is_weak"][of_trial]
    chosen = {"catalogue": ~is_weak, "weak": is_weak}.get(test, np.ones(len(label), bool))
    classes = np.unique(label[chosen])
    renumbered = np.searchsorted(classes, label[chosen])
    asked = asked_of(
        test, [CLASSES[k] for k in classes], renumbered, facts["group"][of_trial][chosen],
        facts["object_id"][of_trial][chosen], n_draws,
    )  # fmt: skip
    said = [
        np.stack([scoring.softmax(logits[chosen][:, classes]) for logits in kind])
        for kind in (raw, calibrated)
    ]
    rates = np.bincount(renumbered, minlength=len(classes)) / len(renumbered)
    return asked, Said(said[0], said[1], rates)


def _cell(
    cell: CellSpec,
    there: Sequence[dict[str, Any]],
    tests: dict[str, Any],
    sizes: dict[str, Any],
    facts: dict[str, Any],
) -> Cell:
    return Cell(
        id=cell.id, arms=[ARM], layout=cell.stamp.facts(float(facts["pixel_scale"]), int(facts["side"])),
        planes=list(cell.planes), encoding=cell.encoding, normalization=cell.normalization,
        network=cell.network, n_parameters=there[0]["n_parameters"], mflop=there[0]["mflop"],
        position=cell.position, fraction=1.0, label_noise=0.0, dropped_level=None, fft=False,
        seeds=[told["seed"] for told in there],
        training_seconds=float(np.mean([told["seconds"] for told in there])),
        bytes=sizes.get(size_key(cell)), tests=tests,
    )  # fmt: skip


def _pairs(
    cells: Sequence[Cell], scored: dict[tuple[str, str], Scored], test: str
) -> dict[str, list[tuple[str, str]]]:
    ids = [cell.id for cell in cells if (cell.id, test) in scored]
    return {ARM: [(b, a) for a, b in combinations(ids, 2)]}
