"""From logits on validation data to the numbers of a card: temperature, limits of what is trusted.

Probabilities, spread and energy are those of inference.py. Needs numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .card import ModelCard
from .inference import answers_of
from .metrics import (
    accuracy,
    area_under_roc,
    bootstrap,
    brier,
    calibration_error,
    class_scores,
    confusion,
    negative_log_likelihood,
    recall_at_contamination,
)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

TRUSTED = 0.99  # of validation stamps lie within the limits of energy and disagreement
MOST_UNSURE = 0.1  # of validation stamps may be called unsure for their probability

_TEMPERATURES = (0.25, 5.0)  # tried; validation data without an error would have it go to 0


def calibrated(card: ModelCard, logits: Floats, labels: Ints) -> ModelCard:
    """Return ``card`` with temperature and limits from validation ``logits`` (M, n, K).

    The temperature is the one of least negative log likelihood, at the class rates of ``labels`` (n,): the
    networks were trained at the card's. Limits: 99 % of the stamps have less energy, and less disagreement
    between members; ``min_confidence`` calls the fewest unsure whose absence halves the rate of errors, at
    most 10 %.
    """
    rates = rates_of(labels, len(card.classes))

    def loss(log_temperature: float) -> float:
        trial = card.model_copy(update={"temperature": math.exp(log_temperature)})
        return negative_log_likelihood(answers_of(logits, trial, priors=rates).probabilities, labels)

    low, high = (math.log(t) for t in _TEMPERATURES)
    card = card.model_copy(update={"temperature": round(math.exp(_least(loss, low, high)), 4)})
    answers = answers_of(logits, card)
    confidence = answers.probabilities.max(axis=1)
    is_right = answers.probabilities.argmax(axis=1) == labels
    has_several = len(logits) > 1
    return card.model_copy(
        update={
            "max_energy": float(np.quantile(answers.energy, TRUSTED)),
            "max_disagreement": float(np.quantile(answers.spread, TRUSTED)) if has_several else None,
            "min_confidence": least_confidence(confidence, is_right),
        }
    )


def least_confidence(confidence: Floats, is_right: NDArray[np.bool_]) -> float:
    """Return the lowest limit on ``confidence`` (n,) that halves the rate of errors, of at most a tenth cut.

    0 where nothing is wrong.
    """
    if is_right.all():
        return 0.0
    order = np.argsort(confidence, kind="stable")
    n = len(order)
    wrong_above = (~is_right).sum() - np.concatenate([[0], np.cumsum(~is_right[order])])[:n]
    rate = wrong_above / (n - np.arange(n))  # of those left when the first i are cut
    at_most = int(MOST_UNSURE * n)
    halved = np.flatnonzero(rate[: at_most + 1] <= rate[0] / 2)
    n_cut = int(halved[0]) if halved.size else at_most
    return float(confidence[order[n_cut]])


def rates_of(labels: Ints, n_classes: int) -> tuple[float, ...]:
    """Return the rate of each class among ``labels``, none quite 0."""
    counts = np.bincount(labels, minlength=n_classes) + 0.5
    return tuple((counts / counts.sum()).tolist())


@dataclass(frozen=True)
class Tested:
    """Logits (M, n, K) of stamps that neither training nor calibration saw, and what they are."""

    logits: Floats
    labels: Ints
    groups: Ints


def measured(card: ModelCard, tested: Tested, *, n_draws: int = 200) -> dict[str, Any]:
    """Return the scores of a calibrated model as plain numbers, ready for JSON.

    Classes are told by the largest probability at the training's rates. Calibration errors are at the rates
    of the test data; ``before`` is with temperature 1. The interval is of 95 %, whole groups drawn.
    """
    labels, k = tested.labels, len(card.classes)
    answers = answers_of(tested.logits, card)
    said = answers.probabilities.argmax(axis=1)
    matrix = confusion(labels, said, k)
    scores = class_scores(matrix)
    interval = bootstrap(
        lambda rows: class_scores(confusion(labels[rows], said[rows], k)).macro_f1,
        tested.groups,
        n_draws=n_draws,
    )
    rates = rates_of(labels, k)
    p = answers_of(tested.logits, card, priors=rates).probabilities
    uncalibrated = card.model_copy(update={"temperature": 1.0})
    before = answers_of(tested.logits, uncalibrated, priors=rates).probabilities
    found: dict[str, Any] = {
        "n": len(labels),
        "n_groups": len(np.unique(tested.groups)),
        "macro_f1": _r(scores.macro_f1),
        "macro_f1_95": [_r(interval.low), _r(interval.high)],
        "accuracy": _r(accuracy(matrix)),
        "classes": {
            name: {
                "n": int(scores.support[i]), "precision": _r(scores.precision[i]),
                "recall": _r(scores.recall[i]), "f1": _r(scores.f1[i]),
            }
            for i, name in enumerate(card.classes)
        },
        "confusion": matrix.tolist(),
        "ece_before": _r(calibration_error(before, labels)),
        "ece": _r(calibration_error(p, labels)),
        "brier": _r(brier(p, labels)),
        "nll": _r(negative_log_likelihood(p, labels)),
        "unsure": _r(float(answers.is_unsure.mean())),
        "out_of_distribution": _r(float(answers.is_out_of_distribution.mean())),
    }  # fmt: skip
    if k == 2 and 0 < labels.sum() < len(labels):
        score = answers.probabilities[:, 1]
        found["auc"] = _r(area_under_roc(labels == 1, score), 6)
        found["recall_at_1_percent_bogus"] = _r(recall_at_contamination(labels == 1, score, 0.01)[0])
    return found


def members_f1(tested: Tested, n_classes: int) -> list[float]:
    """Return the macro F1 of each member alone."""
    return [
        _r(class_scores(confusion(tested.labels, logits.argmax(axis=1), n_classes)).macro_f1)
        for logits in tested.logits
    ]


def _r(value: float, digits: int = 4) -> float:
    return round(float(value), digits)


def _least(f: Callable[[float], float], low: float, high: float, *, tolerance: float = 1e-3) -> float:
    """Where ``f`` of one minimum is least between ``low`` and ``high``, by golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = f(a), f(b)
    while high - low > tolerance:
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = f(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = f(b)
    return (low + high) / 2
