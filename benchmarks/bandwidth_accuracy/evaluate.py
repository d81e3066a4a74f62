"""From the trials of a study to its evaluation: scores with intervals, differences, costs, a year."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reference_pipeline.config import parse_model
from reference_pipeline.errors import ConfigError
from reference_pipeline.taxonomy import STAMP_CLASSES

from . import scoring
from .compare import dropped_of, label_noise_of, learning_of, pairs_of
from .cost import costs_of
from .data import TEST_STAMPS, TESTS
from .examples import write_examples
from .real import real_of
from .results import Bytes, Cell, Data, Evaluation, Tested, Year, write_evaluation
from .run import SIZES, read_record
from .sizes import read_sizes, size_key
from .study import CellSpec, Study
from .tested import Asked, Said, Scored, asked_of, differences_of, scored_on
from .trials import trial_path
from .year import year_of

EVALUATION = "evaluation.json"


def evaluate(out: Path, *, say: Callable[[str], None] = lambda line: None) -> Evaluation:
    """Score what is in ``out`` and write evaluation.json and examples.npz; returns the evaluation.

    Trials that are missing are told and left out. Raises ConfigError where nothing was run.
    """
    record = read_record(out)
    study = parse_model(Study, record["study"], str(out))
    sizes = read_sizes(out / SIZES)
    asked = _asked(out, study)
    cells: list[Cell] = []
    scored: dict[tuple[str, str], Scored] = {}
    trainings: dict[str, list[dict[str, Any]]] = {}
    specs = {each["id"]: CellSpec.model_validate(each["cell"]) for each in record["cells"]}
    for each in record["cells"]:
        trainings[each["id"]] = there = _trials(out, specs[each["id"]], each["seeds"])
        if len(there) < len(each["seeds"]):
            say(f"{each['id']}: {len(there)} of {len(each['seeds'])} trials are there")
        if not there:
            continue
        for test in asked.values():
            said = said_of(out, specs[each["id"]], there, test.name)
            scored[each["id"], test.name] = scored_on(test, said, study.stream_rates)
        tests = {name: scored[each["id"], name].tested for name in asked}
        cells.append(_cell(each, specs[each["id"]], there, sizes, record, tests))
        say(f"{each['id']}: macro F1 {tests['random'].macro_f1.value:.4f}")
    if not cells:
        raise ConfigError(f"{out}: no trial is done; run the study first")
    there_ids = {cell.id for cell in cells}
    evaluation = Evaluation(
        study=record["study"],
        environment=record["environment"],
        commit=record["commit"],
        data=_data(record, asked),
        classes=list(STAMP_CLASSES),
        reference=study.reference.id,
        arms={
            arm: [each["id"] for each in record["cells"] if arm in each["arms"] and each["id"] in there_ids]
            for arm in dict.fromkeys(name for each in record["cells"] for name in each["arms"])
        },
        cells=cells,
        differences=differences_of(pairs_of(study, specs, there_ids), scored, tuple(asked)),
        learning=learning_of(study, cells, trainings),
        label_noise=label_noise_of(study, cells),
        levels_dropped=dropped_of(study, cells, scored, "dropped_level"),
        planes_dropped=dropped_of(study, cells, scored, "planes"),
        cost=costs_of(out, study, cells, record["data"], say),
        real=real_of(out, study),
        year=_year(out, study, trainings, asked),
        answers=[],
    )
    write_evaluation(out / EVALUATION, evaluation)
    write_examples(out, study, say)
    return evaluation


def _asked(out: Path, study: Study) -> dict[str, Asked]:
    with np.load(out / TEST_STAMPS) as kept:
        found = {}
        for test in TESTS:
            rows = kept[f"is_{test}"]
            found[test] = asked_of(
                test, STAMP_CLASSES, kept["label"][rows], kept["group"][rows], kept["object_id"][rows],
                study.n_draws,
            )  # fmt: skip
        return found


def _trials(out: Path, cell: CellSpec, seeds: Sequence[int]) -> list[dict[str, Any]]:
    paths = [trial_path(out, cell, seed) for seed in seeds]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def said_of(out: Path, cell: CellSpec, trials: Sequence[Mapping[str, Any]], test: str) -> Said:
    """Return what a cell's networks said of a test set's stamps."""
    with np.load(out / TEST_STAMPS) as kept:
        rows, of_test = kept["row"], kept[f"is_{test}"]
    raw, calibrated = [], []
    for trial in trials:
        with np.load(trial_path(out, cell, trial["seed"]).with_suffix(".npz")) as kept:
            if not np.array_equal(kept["row"], rows):
                raise ConfigError(f"{cell.id}, seed {trial['seed']}: a trial of other test stamps")
            logits = kept["logits"][of_test]
        raw.append(scoring.softmax(logits))
        calibrated.append(scoring.softmax(logits, trial["temperature"]))
    return Said(np.stack(raw), np.stack(calibrated), np.array(trials[0]["validation_rates"]))


def _cell(
    each: Mapping[str, Any],
    cell: CellSpec,
    trials: Sequence[Mapping[str, Any]],
    sizes: Mapping[str, Bytes],
    record: Mapping[str, Any],
    tests: dict[str, Tested],
) -> Cell:
    data = record["data"]
    return Cell(
        id=each["id"], arms=each["arms"], layout=cell.stamp.facts(data["pixel_scale"], data["side"]),
        planes=list(cell.planes), encoding=cell.encoding, normalization=cell.normalization,
        network=cell.network, n_parameters=trials[0]["n_parameters"], mflop=trials[0]["mflop"],
        position=cell.position, fraction=cell.fraction, label_noise=cell.label_noise,
        dropped_level=cell.dropped_level, fft=cell.fft, seeds=[trial["seed"] for trial in trials],
        training_seconds=float(np.mean([trial["seconds"] for trial in trials])),
        bytes=sizes.get(size_key(cell)), tests=tests,
    )  # fmt: skip


def _data(record: Mapping[str, Any], asked: Mapping[str, Asked]) -> Data:
    data = record["data"]
    return Data(
        label=data["label"], simulated=record["simulated"], survey=data["survey"], sets=data["sets"],
        counts=data["counts"], left_out=data["left_out"], n_cells_of_sky=data["n_cells_of_sky"],
        grouped_by=next(iter(asked.values())).grouped_by,
    )  # fmt: skip


def _year(
    out: Path,
    study: Study,
    trainings: Mapping[str, Sequence[Mapping[str, Any]]],
    asked: Mapping[str, Asked],
) -> Year | None:
    """Of the reference cell, from test first: an alert of a new object is its first."""
    if study.year is None or not trainings[study.reference.id]:
        return None
    said = said_of(out, study.reference, trainings[study.reference.id], "first")
    return year_of(study.year, study.reference.id, asked["first"], said, study.stream_rates)
