"""Models that saw simulated stamps alone, on real ones: `python -m benchmarks.classification transfer`.

The 1,173 labelled ZTF alerts of ../shared/data: weak and catalogue labels, not a random sample of the stream.
They are for this test and train nothing that ships.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.classification.figures import draw_confusions, draw_examples
from benchmarks.classification.judged import N_DRAWS, about, classifiers, in_numbers, scored
from benchmarks.classification.judged import Judged as Judged_
from benchmarks.classification.real_stamps import real_stamps, recut
from benchmarks.common import RESULTS, Requirement, at_least, save
from multiscale import Geometry, decode_batch
from multiscale.tensors import tensors_of
from reference_pipeline.classify.inference import Classifier
from reference_pipeline.classify.metrics import (
    area_under_roc,
    bootstrap,
    class_scores,
    confusion,
    wilson,
)
from reference_pipeline.labelled.split import groups_of_stamps
from reference_pipeline.labelled.stamp import LabelledStamp
from reference_pipeline.taxonomy import STAMP_CLASSES

QUESTION = "classification/transfer"
PIXEL_SCALE = 1.012  # arcsec
SHIFTS = (
    (0, 0),
    (-1, 0),
    (0, -1),
    (-1, -1),
)  # pixels: the corner of the grid on any side of the middle pixel
PLANES = ("science", "template", "difference")


def measure(paths: list[Path], models: list[str], *, full: bool) -> list[Requirement]:
    """Judge, print, save and draw. ``paths`` are not needed: the stamps are those of ../shared/data."""
    del paths
    n_draws = N_DRAWS if full else N_DRAWS // 5
    labelled, ambiguous, report = real_stamps()
    drawn = [stamp for stamp in labelled if stamp.is_random]
    results: dict[str, Any] = {}
    requirements = []
    for classifier in classifiers("stamps", models):
        card = classifier.card
        if "ztf" not in card.surveys or card.size * 2 ** (card.n_levels - 1) > 64:
            print(f"{card.name}: not for ZTF's stamps")
            continue
        judged = judge_stamps(classifier, drawn)
        scores = scored(judged, n_draws=n_draws)
        baseline = majority_f1(judged.labels, len(card.classes))
        results[card.name] = {
            "model": about(card), "scores": scores, "baseline_macro_f1": round(baseline, 4),
            "by_hint": by_hint(judged), "confident": confident(judged),
            "by_sign_and_snr": by_snr(judged),
            "ambiguous": said_of(judge_stamps(classifier, ambiguous)),
            "macro_f1_by_shift": {
                str(shift): round(f1_of(judge_stamps(classifier, drawn, shift=shift)), 4) for shift in SHIFTS
            },
        }  # fmt: skip
        print(
            f"{card.name}: macro F1 {scores['macro_f1']} (majority alone {baseline:.3f}), accuracy "
            f"{scores['accuracy']} on {scores['n']} real stamps"
        )
        print(*[f"  {name}: {row}" for name, row in zip(card.classes, scores["confusion"])], sep="\n")
        requirements.append(
            at_least(f"{card.name}: macro F1, real, over the majority's", scores["macro_f1"][0], baseline)
        )
        draw_mistakes(judged, drawn, RESULTS / QUESTION / f"mistakes-{card.name}.png")
    if not requirements:
        raise SystemExit("no model for ZTF's stamps")
    results |= real_bogus(drawn, n_draws=n_draws) if not models else {}
    out = {
        "simulated": False, "trained_on_simulated": True,
        "labels": {
            "kept": dict(Counter(s.label for s in drawn)),
            "weak": dict(Counter(s.label for s in drawn if s.is_weak)),
            "ambiguous": len(ambiguous), "left_out": report.reasons,
        },
        "models": results,
    }  # fmt: skip
    save(QUESTION, out, requirements, full=full)
    shown = {name: of["scores"] for name, of in results.items() if "confusion" in of["scores"]}
    draw_confusions(
        shown, RESULTS / QUESTION / "confusion.png",
        title="real ZTF alerts, weak and catalogue labels; trained on simulated stamps alone",
    )  # fmt: skip
    return requirements


def judge_stamps(
    classifier: Classifier, stamps: Sequence[LabelledStamp], shift: tuple[int, int] = (0, 0)
) -> Judged_:
    """Return what a model says of real stamps, cut anew into its layout."""
    card = classifier.card
    records = recut(stamps, Geometry(card.size, card.n_levels, PIXEL_SCALE), card.planes, shift)
    [group] = decode_batch(records)
    inputs = tensors_of(group, card.planes, normalization=card.normalization).channels()
    ra, dec = np.radians([[s.ra, s.dec] for s in stamps]).T
    place = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    logits = classifier.logits(inputs, place.astype(np.float32) if card.uses_position else None)
    if card.task == "stamps":
        labels = np.array([card.classes.index(s.label) for s in stamps])
    else:
        labels = np.array([int(s.label != "bogus") for s in stamps])
    names = ("stamp_id", "label", "subtype", "source", "snr", "is_weak")
    facts = {name: np.array([getattr(s, name) for s in stamps], dtype=object) for name in names}
    return Judged_(classifier, labels, logits, groups_of_stamps(stamps), facts)


def majority_f1(labels: np.ndarray, k: int) -> float:
    """Macro F1 of saying the most frequent class of all."""
    most = np.full(len(labels), np.bincount(labels).argmax())
    return class_scores(confusion(labels, most, k)).macro_f1


def f1_of(judged: Judged_) -> float:
    """Macro F1 at the training's class rates."""
    said = judged.answers().probabilities.argmax(axis=1)
    return class_scores(confusion(judged.labels, said, len(judged.card.classes))).macro_f1


def by_hint(judged: Judged_) -> dict[str, dict[str, Any]]:
    """What is said of the stamps of each hint, and how many are right, with an interval."""
    said = judged.answers().probabilities.argmax(axis=1)
    out = {}
    for source in sorted(set(judged.facts["source"])):
        rows = judged.facts["source"] == source
        right = int((said[rows] == judged.labels[rows]).sum())
        counts = Counter(judged.card.classes[i] for i in said[rows])
        out[source.removeprefix("ztf_labelled: ")] = {
            "n": int(rows.sum()), "right": in_numbers(wilson(right, int(rows.sum()))),
            "said": {name: counts[name] for name in judged.card.classes},
        }  # fmt: skip
    return out


def confident(judged: Judged_) -> dict[str, Any]:
    """Whether the model knows what it does not know: accuracy among what it stands behind, and the rest."""
    answers = judged.answers()
    right = answers.probabilities.argmax(axis=1) == judged.labels
    kinds = {
        "out of distribution": answers.is_out_of_distribution,
        "unsure": answers.is_unsure & ~answers.is_out_of_distribution,
        "confident": ~answers.is_unsure & ~answers.is_out_of_distribution,
    }
    return {
        name: {"n": int(rows.sum()), "right": in_numbers(wilson(int(right[rows].sum()), int(rows.sum())))}
        for name, rows in kinds.items()
    }


def by_snr(judged: Judged_) -> dict[str, list[int]]:
    """[right, all] by the sign of the difference and its S/N, for all but bogus ones."""
    right = judged.answers().probabilities.argmax(axis=1) == judged.labels
    snr = judged.facts["snr"].astype(float)
    real = judged.facts["label"] != "bogus"
    out = {}
    for sign, name in ((1, "positive"), (-1, "negative")):
        for low, high in ((0, 15), (15, 40), (40, np.inf)):
            rows = real & (np.sign(snr) == sign) & (np.abs(snr) >= low) & (np.abs(snr) < high)
            out[f"{name}, {low} to {high:g}"] = [int(right[rows].sum()), int(rows.sum())]
    return out


def said_of(judged: Judged_) -> dict[str, Any]:
    """What is said of stamps that are supernovae or active nuclei, and nobody knows which."""
    said = Counter(judged.card.classes[i] for i in judged.answers().probabilities.argmax(axis=1))
    either = said["SN"] + said["AGN"]
    n = len(judged.labels)
    return {
        "n": n,
        "said": {name: said[name] for name in STAMP_CLASSES},
        "either": in_numbers(wilson(either, n)),
    }


def real_bogus(stamps: Sequence[LabelledStamp], *, n_draws: int) -> dict[str, Any]:
    """What real/bogus models say of them; bogus ones are weakly labelled, by the survey's scores."""
    try:
        found = classifiers("real-bogus", [])
    except SystemExit:
        return {}
    out = {}
    for classifier in found:
        card = classifier.card
        fits = "ztf" in card.surveys and set(card.planes) <= set(PLANES)
        if not fits or card.recipe.get("layout") not in ("packet", "cut"):
            continue
        judged = judge_stamps(classifier, stamps)
        score = judged.answers().probabilities[:, 1]
        auc = bootstrap(
            lambda rows, j=judged, s=score: _auc(j.labels[rows] == 1, s[rows]), judged.groups, n_draws=n_draws
        )
        passed = score >= 0.5
        shares = {
            label: in_numbers(wilson(int(passed[rows].sum()), int(rows.sum())))
            for label in STAMP_CLASSES
            for rows in [judged.facts["label"] == label]
        }
        out[card.name] = {"model": about(card), "scores": {"auc": in_numbers(auc), "passed_at_half": shares}}
        print(f"{card.name}: AUC {in_numbers(auc)} on real stamps, passed: {shares}")
    return out


def _auc(is_real: np.ndarray, score: np.ndarray) -> float:
    return area_under_roc(is_real, score) if is_real.any() and not is_real.all() else float("nan")


def draw_mistakes(judged: Judged_, stamps: Sequence[LabelledStamp], path: Path, n: int = 8) -> None:
    """Draw what the model is surest of and wrong: at most three of a pair of classes."""
    p = judged.answers().probabilities
    said = p.argmax(axis=1)
    pairs: Counter[tuple[int, int]] = Counter()
    rows = []
    for i in np.argsort(-p.max(axis=1), kind="stable"):
        pair = (int(judged.labels[i]), int(said[i]))
        if pair[0] != pair[1] and pairs[pair] < 3 and len(rows) < n:
            pairs[pair] += 1
            words = f"{stamps[i].label} → {judged.card.classes[said[i]]} {p[i].max():.2f}"
            rows.append((words, stamps[i].original.planes))
    title = f"{judged.card.name}: real ZTF alerts, hint → what is said, surest mistakes first"
    draw_examples(rows, PLANES, path, title=title)
