"""Clear or cloudy, on other fields than the training's: `python -m benchmarks.classification clouds`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.classification.figures import draw_clouds
from benchmarks.classification.judged import N_DRAWS, Judged, about, classifiers, scored
from benchmarks.common import RESULTS, Requirement, at_least, save
from reference_pipeline.classify.metrics import wilson
from reference_pipeline.classify.thumbnails import network_input
from reference_pipeline.labelled.clouds import CloudThumbnails, read_thumbnails

QUESTION = "classification/clouds"
PAPER = {"accuracy": 0.9835, "recall": 0.9828}  # Sun+ 2022, section 2.4: real frames; ours are simulated
DEPTHS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, np.inf)  # mag, of cloud over the frame


def measure(paths: list[Path], models: list[str], *, full: bool) -> list[Requirement]:
    """Judge, print, save and draw."""
    thumbnails = [read_thumbnails(path) for path in paths]
    n_draws = N_DRAWS if full else N_DRAWS // 5
    results: dict[str, Any] = {}
    requirements = []
    for classifier in classifiers("clouds", models):
        name = classifier.card.name
        judged = joined([judge_thumbnails(classifier, some) for some in thumbnails])
        scores = scored(judged, n_draws=n_draws)
        results[name] = {"model": about(classifier.card), "scores": scores, **by_cloud(judged)}
        recall = scores["classes"]["cloudy"]["recall"]
        print(f"{name}: accuracy {scores['accuracy']}, recall {recall}, n {scores['n']} (simulated)")
        requirements += [
            at_least(f"{name}: accuracy, simulated", scores["accuracy"][0], PAPER["accuracy"]),
            at_least(f"{name}: recall, simulated", recall[0], PAPER["recall"]),
        ]
    n = [len(some) for some in thumbnails]
    save(
        QUESTION, {"simulated": True, "paper": PAPER, "n_frames": n, "models": results}, requirements,
        full=full,
    )  # fmt: skip
    draw_clouds({name: of["by_depth"] for name, of in results.items()}, RESULTS / QUESTION / "clouds.png")
    return requirements


def judge_thumbnails(classifier, thumbnails: CloudThumbnails) -> Judged:
    """Return what a model says of thumbnails; fields of the sky stay together."""
    logits = []
    for rows in np.array_split(np.arange(len(thumbnails)), max(1, len(thumbnails) // 64)):
        values, valid = network_input(thumbnails.pictures[rows], thumbnails.seen[rows], classifier.card.size)
        logits.append(classifier.logits(np.concatenate([values, valid.astype(np.float32)], axis=1)))
    groups = np.unique(thumbnails.field, return_inverse=True)[1]
    facts = {name: getattr(thumbnails, name) for name in ("depth", "kind", "night", "survey")}
    return Judged(classifier, thumbnails.labels, np.concatenate(logits, axis=1), groups, facts)


def joined(parts: list[Judged]) -> Judged:
    """Return what was judged folder by folder as one; fields of two folders are not the same."""
    shift = np.cumsum([0, *(part.groups.max() + 1 for part in parts)])
    return Judged(
        parts[0].classifier,
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.logits for part in parts], axis=1),
        np.concatenate([part.groups + more for part, more in zip(parts, shift)]),
        {name: np.concatenate([part.facts[name] for part in parts]) for name in parts[0].facts},
    )


def by_cloud(judged: Judged) -> dict[str, Any]:
    """[called cloudy, all] by depth of the cloud, by night and by survey."""
    called = judged.answers().probabilities[:, 1] >= 0.5
    depth = judged.facts["depth"]
    bins = [
        {
            "depth": [low, None if np.isinf(high) else high], "n": int(rows.sum()),
            "called_cloudy": [round(v, 4) for v in _interval(called, rows)],
        }
        for low, high in zip(DEPTHS, DEPTHS[1:])
        for rows in [(depth >= low) & (depth < high)]
        if rows.any()
    ]  # fmt: skip
    right = called == (judged.labels == 1)
    kinds = {
        key: {
            str(kind): [int(right[rows].sum()), int(rows.sum())]
            for kind in np.unique(judged.facts[key])
            for rows in [judged.facts[key] == kind]
        }
        for key in ("night", "survey", "kind")
    }
    return {"by_depth": bins, "right": kinds}


def _interval(called: np.ndarray, rows: np.ndarray) -> tuple[float, float, float]:
    found = wilson(int(called[rows].sum()), int(rows.sum()))
    return found.value, found.low, found.high
