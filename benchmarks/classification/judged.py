"""What models say of labelled stamps that they were not trained on, and scores of it with their intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reference_pipeline.classify.card import shipped_cards
from reference_pipeline.classify.dataset import read_examples
from reference_pipeline.classify.inference import Answers, Classifier, answers_of, load_classifier
from reference_pipeline.classify.metrics import (
    Interval,
    accuracy,
    bootstrap_draws,
    brier,
    calibration_error,
    class_scores,
    confusion,
    interval_of,
    negative_log_likelihood,
)
from reference_pipeline.classify.recipe import Recipe
from reference_pipeline.config import parse_model
from reference_pipeline.labelled.stamp import read_stamp_records, stamp_files

N_DRAWS = 500


@dataclass(frozen=True)
class Judged:
    """Stamps and what a model says of them, row by row."""

    classifier: Classifier
    labels: np.ndarray  # (n,)
    logits: np.ndarray  # (M, n, K)
    groups: np.ndarray  # (n,): rows that hang together
    facts: Mapping[str, np.ndarray]  # (n,) each

    @property
    def card(self):
        """The model's card."""
        return self.classifier.card

    def answers(self, priors: Sequence[float] | None = None) -> Answers:
        """What is said, at the training's class rates or at others."""
        return answers_of(self.logits, self.card, priors=priors)

    def where(self, rows: np.ndarray) -> Judged:
        """Some of the rows."""
        facts = {name: values[rows] for name, values in self.facts.items()}
        return Judged(self.classifier, self.labels[rows], self.logits[:, rows], self.groups[rows], facts)


def classifiers(task: str, names: Sequence[str], paths: Sequence[Path] = ()) -> list[Classifier]:
    """Return the models of a task: those named (or cards), else all that are shipped for the surveys that the
    sets in ``paths`` say they are of. None is an error, and so is a set that one of them was trained on.
    """
    sets = described(paths)
    surveys = {str(one["survey"]) for one in sets if one["survey"]}
    chosen = names or [
        name
        for name, card in shipped_cards().items()
        if card.task == task and (not surveys or surveys & set(card.surveys))
    ]
    found = [load_classifier(name, n_threads=2) for name in chosen]
    wrong = [c.card.name for c in found if c.card.task != task]
    if wrong or not found:
        raise SystemExit(f"{', '.join(wrong) or 'no model'}: expected models for {task} (--models)")
    for classifier in found:
        if known := trained_on(classifier.card.data.get("sets", []), sets):
            raise SystemExit(
                f"--data: {classifier.card.name} was trained on the set of survey and seed {known[0]}; "
                "expected one of another seed"
            )
    return found


def trained_on(training: Sequence[Mapping[str, Any]], sets: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return survey and seed of the ``sets`` that are among those of a card: the same sky, known already."""
    known = {(one.get("survey"), one.get("seed")) for one in training}
    mine = [(one["survey"], one["seed"]) for one in sets if "seed" in one]
    return [f"{survey} {seed}" for survey, seed in mine if (survey, seed) in known]


def judge(classifier: Classifier, paths: Sequence[Path], **changes: Any) -> Judged:
    """Return what a model says of the stamps in ``paths``, prepared as its recipe prepares them.

    ``changes`` of the recipe, such as detections="first".
    """
    recipe = parse_model(Recipe, {**classifier.card.recipe, **changes}, classifier.card.name)
    examples = read_examples(paths, recipe)
    parts = np.array_split(np.arange(len(examples)), max(1, len(examples) // 1024))
    logits = [
        classifier.logits(examples.inputs(rows), examples.position[rows] if recipe.uses_position else None)
        for rows in parts
    ]
    return Judged(
        classifier, examples.labels, np.concatenate(logits, axis=1), examples.groups, examples.facts
    )


def described(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return what the sets of stamps say they are: survey, seed, version, numbers."""
    out = []
    for path in paths:
        record = (path if path.is_dir() else path.parent) / "set.json"
        held = json.loads(record.read_text()) if record.is_file() else {}
        keys = ("simulated", "version", "seed", "cells", "stamps", "labels", "options")
        found = {key: held[key] for key in keys if key in held}
        out.append({"survey": held.get("set", {}).get("survey"), **found})
    return out


def facts_of(paths: Sequence[Path], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return more of what the stamps' records say, by stamp_id."""
    return {
        record["stamp_id"]: {name: record[name] for name in names}
        for file in stamp_files(paths)
        for record in read_stamp_records(file)
    }


def scored(judged: Judged, *, n_draws: int = N_DRAWS) -> dict[str, Any]:
    """Return every score as [value, low, high] (95 %, whole groups drawn), and the confusion matrix.

    Classes are told at equal rates; calibration is asked at the rates of the stamps themselves.
    """
    k, labels = len(judged.card.classes), judged.labels
    said = judged.answers().probabilities.argmax(axis=1)
    rates = (np.bincount(labels, minlength=k) + 0.5) / (len(labels) + 0.5 * k)
    p = judged.answers(priors=rates).probabilities
    simple = ("macro_f1", "macro_precision", "macro_recall", "accuracy", "ece", "brier", "nll")

    def all_scores(rows: np.ndarray) -> np.ndarray:
        matrix = confusion(labels[rows], said[rows], k)
        of = class_scores(matrix)
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        share[matrix.sum(axis=1) == 0] = np.nan
        return np.concatenate([
            [of.macro_f1, of.macro_precision, of.macro_recall, accuracy(matrix),
             calibration_error(p[rows], labels[rows]), brier(p[rows], labels[rows]),
             negative_log_likelihood(p[rows], labels[rows])],
            of.precision, of.recall, of.f1, share.ravel(),
        ])  # fmt: skip

    values = all_scores(np.arange(len(labels)))
    drawn = bootstrap_draws(all_scores, judged.groups, n_draws=n_draws)
    intervals = [in_numbers(interval_of(v, d)) for v, d in zip(values, drawn.T)]
    first = len(simple)
    of_class = {
        name: {
            "n": int((labels == i).sum()),
            "precision": intervals[first + i], "recall": intervals[first + k + i],
            "f1": intervals[first + 2 * k + i],
        }
        for i, name in enumerate(judged.card.classes)
    }  # fmt: skip
    shares = intervals[first + 3 * k :]
    answers = judged.answers()
    return {
        "n": len(labels), "n_groups": len(np.unique(judged.groups)),
        **dict(zip(simple, intervals)), "classes": of_class,
        "confusion": confusion(labels, said, k).tolist(),
        "confusion_of_row": [shares[i * k : (i + 1) * k] for i in range(k)],
        "unsure": round(float(answers.is_unsure.mean()), 4),
        "out_of_distribution": round(float(answers.is_out_of_distribution.mean()), 4),
    }  # fmt: skip


def in_numbers(interval: Interval, digits: int = 4) -> list[float | None]:
    """[value, low, high], null where they are not defined."""
    values = (interval.value, interval.low, interval.high)
    return [round(float(v), digits) if np.isfinite(v) else None for v in values]


def about(card) -> dict[str, Any]:
    """What a result says of the model it is of."""
    names = ("version", "surveys", "size", "n_levels", "planes", "uses_position", "n_members", "n_parameters")
    recipe = {name: card.recipe.get(name) for name in ("network", "layout", "seed")}
    return {**{name: getattr(card, name) for name in names}, **recipe}
