"""Six classes on stamps of other skies than the training's: `python -m benchmarks.classification stamps`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.classification.figures import draw_confusions, draw_reliability
from benchmarks.classification.judged import (
    N_DRAWS,
    Judged,
    about,
    classifiers,
    described,
    in_numbers,
    judge,
    scored,
)
from benchmarks.common import RESULTS, Requirement, at_least, at_most, save
from reference_pipeline.classify.metrics import (
    bootstrap_difference,
    class_scores,
    confusion,
    mcnemar,
    top_reliability,
)

QUESTION = "classification/stamps"
PAPER_F1 = 0.8739  # Reyes-Jainaga+ 2023, Table 1: multi-scale, real alerts; ours are simulated
MOST_ECE = 0.03


def measure(paths: list[Path], models: list[str], *, full: bool) -> list[Requirement]:
    """Judge, print, save and draw; one model after the other, on the random and on the first detections."""
    n_draws = N_DRAWS if full else N_DRAWS // 5
    results, judged = {}, {}
    for classifier in classifiers("stamps", models, paths):
        name = classifier.card.name
        judged[name] = judge(classifier, paths, detections="random")
        results[name] = {"model": about(classifier.card), "random": scored(judged[name], n_draws=n_draws)}
        first = judge(classifier, paths, detections="first")
        results[name]["first"] = scored(first, n_draws=n_draws)
        results[name]["reliability"] = reliability_of(judged[name])
        print(line(name, results[name]["random"]), "| first detections:", results[name]["first"]["macro_f1"])
    one, *others = judged.values()
    pairs = [compared(one, other, n_draws=n_draws) for other in others]
    requirements = []
    for name, of in results.items():
        random = of["random"]
        requirements += [
            at_least(f"{name}: macro F1, simulated", random["macro_f1"][0], PAPER_F1),
            at_most(f"{name}: ECE, simulated", random["ece"][0], MOST_ECE),
        ]
    out = {"simulated": True, "data": described(paths), "models": results, "pairs": pairs}
    save(QUESTION, out, requirements, full=full)
    folder = RESULTS / QUESTION
    shown = {name: of["random"] for name, of in results.items()}
    draw_confusions(
        shown, folder / "confusion.png", title="simulated stamps of other skies than the training's"
    )
    draw_reliability({n: of["reliability"] for n, of in results.items()}, folder / "reliability.png")
    return requirements


def line(name: str, scores: dict) -> str:
    """One line for the terminal."""
    f1, low, high = scores["macro_f1"]
    ece = scores["ece"][0]
    return f"{name}: macro F1 {f1:.4f} [{low:.4f}, {high:.4f}], ECE {ece:.4f}, n {scores['n']} (simulated)"


def reliability_of(judged: Judged) -> dict[str, list]:
    """Bins of confidence at the stamps' own rates, before and after the temperature."""
    k = len(judged.card.classes)
    rates = (np.bincount(judged.labels, minlength=k) + 0.5) / (len(judged.labels) + 0.5 * k)
    table = top_reliability(judged.answers(priors=rates).probabilities, judged.labels, n_bins=12)
    return {
        "confidence": [round(float(v), 4) for v in table.confidence],
        "accuracy": [round(float(v), 4) for v in table.accuracy],
        "count": table.count.tolist(),
    }


def compared(first: Judged, second: Judged, *, n_draws: int) -> dict:
    """Return how two models differ on the stamps that both were asked of."""
    where = {name: i for i, name in enumerate(second.facts["stamp_id"])}
    rows = np.array([i for i, name in enumerate(first.facts["stamp_id"]) if name in where], int)
    a = first.where(rows)
    b = second.where(np.array([where[name] for name in a.facts["stamp_id"]], int))
    k = len(first.card.classes)
    said = [j.answers().probabilities.argmax(axis=1) for j in (a, b)]

    def f1(i: int):
        return lambda r: class_scores(confusion(a.labels[r], said[i][r], k)).macro_f1

    difference = bootstrap_difference(f1(0), f1(1), a.groups, n_draws=n_draws)
    test = mcnemar(said[0] == a.labels, said[1] == a.labels)
    return {
        "first": first.card.name, "second": second.card.name, "n": len(rows),
        "macro_f1_difference": in_numbers(difference),
        "only_first_right": test.only_first, "only_second_right": test.only_second, "mcnemar_p": test.p,
    }  # fmt: skip
