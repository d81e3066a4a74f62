"""Real or bogus, on other skies than the training's: `python -m benchmarks.classification real_bogus`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.classification.figures import draw_confusions, draw_det, draw_examples
from benchmarks.classification.judged import (
    N_DRAWS,
    Judged,
    about,
    classifiers,
    described,
    facts_of,
    judge,
    scored,
)
from benchmarks.common import RESULTS, SEED, Requirement, at_least, save
from reference_pipeline.classify.metrics import area_under_roc, det_curve, recall_at_contamination
from reference_pipeline.labelled.stamp import read_stamps, stamp_files

QUESTION = "classification/real_bogus"
#: Sun+ 2022, section 4: accuracy on 31×31 pixels (binned branch) and 91×91, sources put into real frames.
PAPER = {"qip": 0.9988, "dip": 0.9920}
GROUPS = {"5 to 8": (0.0, 8.0), "8 to 12": (8.0, 12.0), "12 to 25": (12.0, 25.0), "above 25": (25.0, np.inf)}
MAGNITUDES = (17.0, 17.5, 18.0, 18.5, 19.0, 19.5)
CONTAMINATIONS = (0.001, 0.01, 0.1)
CUTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)
N_POINTS = 60  # of a curve that is kept


def measure(paths: list[Path], models: list[str], *, full: bool) -> list[Requirement]:
    """Judge, print, save and draw."""
    n_draws = N_DRAWS if full else N_DRAWS // 5
    more = facts_of(paths, ("cut",))
    results: dict[str, Any] = {}
    requirements = []
    for classifier in classifiers("real-bogus", models, paths):
        name = classifier.card.name
        judged = judge(classifier, paths)
        with_cut = judge(classifier, paths, with_cut=True)
        cut = np.array([more[i]["cut"] is not None for i in with_cut.facts["stamp_id"]], bool)
        results[name] = {
            "model": about(classifier.card), "scores": scored(judged, n_draws=n_draws),
            **of_scores(judged), "by_cut": after_cut(with_cut, cut),
        }  # fmt: skip
        scores = results[name]["scores"]
        print(
            f"{name}: accuracy {scores['accuracy']}, recall {scores['classes']['real']['recall']}, "
            f"precision {scores['classes']['real']['precision']}, AUC {results[name]['auc']:.5f} (simulated)"
        )
        branches = classifier.card.recipe.get("branches") or ["dip"]
        requirements.append(
            at_least(f"{name}: accuracy, simulated", scores["accuracy"][0], PAPER[branches[0]])
        )
    save(
        QUESTION, {"simulated": True, "paper": PAPER, "data": described(paths), "models": results},
        requirements, full=full,
    )  # fmt: skip
    folder = RESULTS / QUESTION
    draw_det({name: of["det"] for name, of in results.items()}, folder / "det.png")
    draw_confusions(
        {name: of["scores"] for name, of in results.items()}, folder / "confusion.png",
        title="simulated stamps of other skies",
    )  # fmt: skip
    draw_examples(
        examples(paths), ("difference", "template", "science"), folder / "examples.png",
        title="Simulated: real ones (left) and bogus ones (right), with S/N",
    )  # fmt: skip
    return requirements


def of_scores(judged: Judged) -> dict[str, Any]:
    """What depends on the score: curves by S/N, recalls at contaminations, by cause, class and magnitude."""
    is_real = judged.labels == 1
    score = judged.answers().probabilities[:, 1]
    snr = np.abs(judged.facts["snr"].astype(float))
    curves = {"all": curve(is_real, score)}
    for name, (low, high) in GROUPS.items():
        rows = (snr >= low) & (snr < high)
        if is_real[rows].any() and not is_real[rows].all():
            curves[name] = curve(is_real[rows], score[rows])
    passed = score >= 0.5
    return {
        "auc": area_under_roc(is_real, score),
        "recall_at_contamination": {
            str(c): [round(v, 5) for v in recall_at_contamination(is_real, score, c)] for c in CONTAMINATIONS
        },
        "det": curves,
        "bogus_passed_by_cause": shares(judged.facts["cause"], passed, ~is_real),
        "real_passed_by_class": shares(judged.facts["label"], passed, is_real),
        "real_passed_by_magnitude": by_magnitude(judged, passed, is_real),
    }


def curve(is_real: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    """A DET curve, thinned to points of even steps in what is missed and passed."""
    found = det_curve(is_real, score)
    n = len(found.threshold)
    rows = np.unique(
        np.r_[np.geomspace(1, n, N_POINTS).astype(int) - 1, n - np.geomspace(1, n, N_POINTS).astype(int)]
    )
    return {
        "n_real": int(is_real.sum()), "n_bogus": int((~is_real).sum()),
        "auc": round(area_under_roc(is_real, score), 6),
        "fnr": [round(float(v), 5) for v in found.fnr[rows]],
        "fpr": [round(float(v), 5) for v in found.fpr[rows]],
    }  # fmt: skip


def shares(kinds: np.ndarray, passed: np.ndarray, rows: np.ndarray) -> dict[str, list[int]]:
    """[passed, all] of each kind among ``rows``."""
    names = np.array([str(kind) for kind in kinds])
    return {
        name: [int(passed[rows & (names == name)].sum()), int((rows & (names == name)).sum())]
        for name in sorted(set(names[rows]))
    }


def by_magnitude(judged: Judged, passed: np.ndarray, is_real: np.ndarray) -> dict[str, list[int]]:
    """[passed, all] of real ones in half magnitudes, of the range that the paper injected."""
    magnitude = np.array([np.nan if m is None else m for m in judged.facts["magnitude"]], float)
    return {
        f"{low:.1f} to {high:.1f}": [int((rows & passed).sum()), int(rows.sum())]
        for low, high in zip(MAGNITUDES, MAGNITUDES[1:])
        for rows in [is_real & (magnitude >= low) & (magnitude < high)]
    }


def after_cut(judged: Judged, is_cut: np.ndarray) -> dict[str, Any]:
    """Purity and completeness of alerts after a cut on the score, of what the detection finds.

    [cut, purity, completeness]: with the pipeline's own cuts before it, and of the score alone.
    Bogus ones are as frequent as the simulated detector makes them, real ones far more than in nature.
    """
    is_real, score = judged.labels == 1, judged.answers().probabilities[:, 1]
    out = {}
    for name, candidates in (
        ("after the pipeline's cuts", ~is_cut),
        ("score alone", np.ones(len(score), bool)),
    ):
        rows = []
        for cut in CUTS:
            kept = candidates & (score >= cut)
            purity = float(is_real[kept].mean()) if kept.any() else float("nan")
            rows.append([cut, round(purity, 5), round(float(kept[is_real].mean()), 5)])
        out[name] = rows
    return {"n": len(score), "n_real": int(is_real.sum()), **out}


def examples(paths: list[Path], n: int = 8) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Some real ones, then as many bogus ones of different causes, from the middle of the set."""
    rng = np.random.default_rng(SEED)
    files = stamp_files(paths)
    real, bogus = [], {}
    for i in rng.permutation(len(files)):
        stamps = [s for s in islice(read_stamps(files[i]), 2000) if s.original is not None and s.cut is None]
        for j in rng.permutation(len(stamps)):
            stamp = stamps[j]
            if stamp.label != "bogus":
                real.append(stamp)
            elif len(bogus.setdefault(stamp.cause, [])) < n:
                bogus[stamp.cause].append(stamp)
        if len(real) > 20 * n and len(bogus) > 4:
            break
    wanted = []
    while len(wanted) < n and any(bogus.values()):
        wanted += [kinds.pop() for kinds in bogus.values() if kinds]
    by_snr = sorted(real[: 20 * n], key=lambda s: abs(s.snr))
    shown = [by_snr[int(q * (len(by_snr) - 1))] for q in np.linspace(0.02, 0.9, n)] if by_snr else []
    return [
        (
            f"{s.cause or s.label}, {s.snr:.0f}",
            {plane: central(pixels) for plane, pixels in s.original.planes.items()},
        )
        for s in [*shown, *wanted[:n]]
    ]


def central(pixels: np.ndarray, side: int = 31) -> np.ndarray:
    """Return the central pixels, as many as the paper's figure shows."""
    y, x = ((n - side) // 2 for n in pixels.shape)
    return pixels[y : y + side, x : x + side] if min(pixels.shape) > side else pixels
