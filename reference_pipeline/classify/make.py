"""From a recipe and labelled stamps to a model: read, split, train, calibrate, test, write."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiscale.atomic import replacing

from ..labelled.split import PARTS, class_counts
from ..labelled.stamp import stamp_files
from .calibration import Tested, calibrated, measured, members_f1
from .card import ModelCard
from .dataset import Examples, read_examples
from .export import export_model
from .networks.build import n_parameters
from .recipe import Recipe
from .training import TEST, VALIDATION, Member, logits_of, train_member

Ints = NDArray[np.int64]
_SET = "set.json"  # of labelled/simulate.py, which training does not need to load

Progress = Callable[[str], None]


def make_model(
    recipe: Recipe,
    paths: Sequence[Path],
    folder: Path,
    *,
    n_threads: int = 1,
    device: str = "cpu",
    progress: Progress = lambda line: None,
) -> ModelCard:
    """Train what ``recipe`` says on the labelled stamps in ``paths``, and write the model to ``folder``.

    Beside its three files lies NAME.result.json: how each member was trained, and all scores. Returns the
    card. Raises FileError for what are no labelled stamps, ConfigError for those that do not do.
    """
    examples = read_examples(paths, recipe)
    parts = examples.parts(recipe.split_seed, also=recipe.also)
    counts, members = train_members(
        recipe, examples, parts, n_threads=n_threads, device=device, progress=progress
    )
    validation, tested = (said_of(members, examples, parts == part) for part in (VALIDATION, TEST))
    card = _card(recipe, examples, members, counts, _sets(paths))
    card = calibrated(card, validation.logits, validation.labels)
    scores = measured(card, tested)
    scores["members_macro_f1"] = members_f1(tested, len(recipe.classes))
    card = export_model([m.network for m in members], card.model_copy(update={"metrics": scores}), folder)
    write_result(folder / f"{recipe.name}.result.json", card, members)
    return card


def train_members(
    recipe: Recipe, examples: Examples, parts: Ints, *, n_threads: int, device: str, progress: Progress
) -> tuple[dict[str, list[int]], list[Member]]:
    """Return how many stamps each class has in each part, and the networks of the ensemble, trained.

    Raises ConfigError where a class has no training or no validation stamps.
    """
    counts = class_counts(np.array(recipe.classes)[examples.labels], parts)
    for name, of_parts in counts.items():
        progress(f"{recipe.name}: {name}: {', '.join(f'{n} {p}' for n, p in zip(of_parts, PARTS))}")
    members = [
        train_member(
            recipe,
            examples,
            parts,
            seed=recipe.seed + i,
            n_threads=n_threads,
            device=device,
            progress=progress,
        )
        for i in range(recipe.n_members)
    ]
    return counts, members


def said_of(members: Sequence[Member], examples: Examples, of: NDArray[np.bool_]) -> Tested:
    """Return what the members say of the stamps ``of``, and what those are."""
    logits = np.stack([logits_of(m.network, examples, np.flatnonzero(of)) for m in members])
    return Tested(logits, examples.labels[of], examples.groups[of])


def summary(card: ModelCard) -> list[str]:
    """Return what a reader wants to know of a model's test, in lines."""
    scores = card.metrics
    low, high = scores["macro_f1_95"]
    lines = [
        f"{card.name}: {card.n_members} x {card.n_parameters} parameters, on {scores['n']} test stamps",
        f"macro F1 {scores['macro_f1']:.4f} [{low:.4f}, {high:.4f}], members alone "
        + ", ".join(f"{f1:.4f}" for f1 in scores["members_macro_f1"]),
        f"accuracy {scores['accuracy']:.4f}, calibration error {scores['ece']:.4f} "
        f"({scores['ece_before']:.4f} without temperature {card.temperature:g})",
    ]
    for name, of_class in scores["classes"].items():
        lines.append(
            f"{name:>10}: recall {of_class['recall']:.4f}, precision {of_class['precision']:.4f}, "
            f"n {of_class['n']}"
        )
    return lines


def _card(
    recipe: Recipe,
    examples: Examples,
    members: Sequence[Member],
    counts: dict[str, list[int]],
    sets: list[dict[str, Any]],
) -> ModelCard:
    """The card before calibration and test."""
    k = len(recipe.classes)
    n_training = [counts.get(name, [0])[0] for name in recipe.classes]
    priors = [1 / k] * k if recipe.balanced else [n / sum(n_training) for n in n_training]
    stream = recipe.stream_priors
    return ModelCard(
        name=recipe.name,
        version=recipe.version,
        task=recipe.task,
        taxonomy=recipe.taxonomy,
        classes=recipe.classes,
        surveys=recipe.surveys,
        size=recipe.size,
        n_levels=recipe.n_levels,
        pixel_scale=examples.pixel_scale,
        planes=recipe.planes,
        normalization=recipe.normalization,
        uses_position=recipe.uses_position,
        n_members=len(members),
        n_parameters=n_parameters(members[0].network),
        priors=tuple(priors),
        stream_priors=None if stream is None else tuple(stream[name] for name in recipe.classes),
        recipe=recipe.model_dump(mode="json", exclude_none=True),
        data={
            "parts": list(PARTS),
            "counts": counts,
            "n_groups": len(np.unique(examples.groups)),
            "left_out": dict(sorted(examples.left_out.items())),
            "sets": sets,
        },
        is_simulated=bool(examples.facts["is_simulated"].any()),
        limits=recipe.limits,
    )


def _sets(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """What `simulate stamps` says of the folders that it made: seed and options make the set again."""
    found = []
    for path in paths:
        if (path / _SET).is_file():
            made = json.loads((path / _SET).read_text(encoding="utf-8"))
            told = {name: made[name] for name in ("seed", "version", "options") if name in made}
            found.append({"survey": made["set"]["survey"], **told, "cells": len(stamp_files([path]))})
    return found


def write_result(path: Path, card: ModelCard, members: Sequence[Member]) -> None:
    """Write how the members were trained, the card's data and its scores to ``path`` (JSON)."""
    result: dict[str, Any] = {
        "name": card.name,
        "version": card.version,
        "n_parameters": card.n_parameters,
        "temperature": card.temperature,
        "data": card.data,
        "members": [
            {
                "seed": member.seed, "seconds": round(member.seconds, 1), "test_macro_f1": f1,
                "kept_iteration": member.best.iteration, "validation_macro_f1": round(member.best.f1, 4),
                "steps": [[s.iteration, round(s.loss, 4), round(s.f1, 4)] for s in member.steps],
            }
            for member, f1 in zip(members, card.metrics["members_macro_f1"])
        ],
        "test": card.metrics,
        "recipe": card.recipe,
    }  # fmt: skip
    with replacing(path) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
