"""What networks said of a test set, scored with intervals, and how two cells differ on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference_pipeline.classify.metrics import holm, mcnemar

from . import scoring
from .results import Difference, Metric, StreamRates, Tested, Value

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST_GROUPS = 8  # of sky, or objects are drawn
METRICS: tuple[Metric, ...] = ("macro_f1", "satellite_recall")


@dataclass(frozen=True)
class Said:
    """What the networks of a cell said of some stamps, one of each seed, at equal rates of the classes."""

    raw: Floats  # (seeds, n, K) before temperature scaling
    calibrated: Floats
    rates: Floats  # (K,) of the validation data


@dataclass(frozen=True)
class Asked:
    """A test set: truth, and the draws that all cells share."""

    name: str
    classes: tuple[str, ...]
    label: Ints
    objects: NDArray[Any]
    draws: scoring.Draws
    grouped_by: str


@dataclass(frozen=True)
class Scored:
    """A cell on a test set: what is written, and what differences are taken of."""

    tested: Tested
    metrics: Mapping[str, Floats]  # (seeds, 1 + B) each
    counted: Mapping[str, NDArray[np.bool_]]  # (n,) of each metric: stamps that it is of
    #: (seeds, n): row m by the mean probabilities of the first m + 1 networks. More of them are right more
    #: often, so that two cells are held against each other by as many.
    is_right: NDArray[np.bool_]


def scored_on(test: Asked, said: Said, stream_rates: Mapping[str, float] | None) -> Scored:
    """Return the scores of a cell on a test set. Classes are told at equal rates; calibration and average
    precision are at those of the validation data."""
    k, label, draws = len(test.classes), test.label, test.draws
    predicted = said.raw.argmax(axis=2)
    table = np.stack([scoring.tables(draws, label, p, k) for p in predicted])
    raw = np.stack([scoring.with_priors(p, said.rates) for p in said.raw])
    p = np.stack([scoring.with_priors(p, said.rates) for p in said.calibrated])
    recall, precision = scoring.recalls(table), scoring.precisions(table)
    present = [i for i in range(k) if 0 < (label == i).sum() < len(label)]
    averages = {
        test.classes[i]: np.stack([scoring.average_precisions(draws, q[:, i], label == i) for q in p])
        for i in present
    }
    f1 = scoring.macro_f1(table)
    index = {name: i for i, name in enumerate(test.classes)}
    rows = scoring.row_fractions(table)
    sat = index.get("satellite")

    def to(name: str) -> Value | None:
        if sat is None or name not in index or sat not in present:
            return None
        return scoring.value(rows[:, :, sat, index[name]])

    pooled = np.tile(label, len(p))
    tested = Tested(
        classes=list(test.classes), n=len(label), n_objects=len(np.unique(test.objects)),
        n_groups=draws.n_groups, grouped_by=test.grouped_by,
        counts={name: int((label == i).sum()) for name, i in index.items()},
        macro_f1=scoring.score(f1), accuracy=scoring.score(scoring.accuracies(table)),
        ece=scoring.score(np.stack([scoring.calibration_errors(draws, q, label) for q in raw])),
        ece_calibrated=scoring.score(np.stack([scoring.calibration_errors(draws, q, label) for q in p])),
        brier=scoring.score(np.stack([scoring.briers(draws, q, label) for q in p])),
        recall={name: scoring.value(recall[:, :, i]) for name, i in index.items()},
        precision={name: scoring.value(precision[:, :, i]) for name, i in index.items()},
        average_precision={name: scoring.value(found) for name, found in averages.items()},
        confusion=scoring.matrix(table), satellite_to_sn=to("SN"), satellite_to_asteroid=to("asteroid"),
        recall_at_contamination={
            test.classes[i]: scoring.recall_at(label == i, p[:, :, i]) for i in present
        },
        at_stream_rates=None if stream_rates is None else _at_stream(test, said, stream_rates),
        reliability=scoring.bins(raw.reshape(-1, k), pooled),
        reliability_calibrated=scoring.bins(p.reshape(-1, k), pooled),
        det={
            name: scoring.det(pooled == index[name], p[:, :, index[name]].reshape(-1))
            for name in ("satellite", "bogus")
            if name in index and index[name] in present
        },
    )  # fmt: skip
    metrics, counted = {"macro_f1": f1}, {"macro_f1": np.ones(len(label), bool)}
    if sat is not None and sat in present:
        metrics["satellite_recall"], counted["satellite_recall"] = recall[:, :, sat], label == sat
    is_right = said.calibrated.cumsum(axis=0).argmax(axis=2) == label
    return Scored(tested, metrics, counted, is_right)


def asked_of(
    name: str, classes: Sequence[str], label: Ints, group: Ints, objects: NDArray[Any], n_draws: int
) -> Asked:
    """Return a test set; its draws are of cells of sky, or of objects where there are too few cells."""
    by_cell = len(np.unique(group)) >= LEAST_GROUPS
    draws = scoring.draws_of(group if by_cell else objects, n_draws)
    return Asked(name, tuple(classes), label, objects, draws, "cell" if by_cell else "object")


def differences_of(
    pairs: Mapping[str, Sequence[tuple[str, str]]],
    scored: Mapping[tuple[str, str], Scored],
    tests: Sequence[str],
) -> list[Difference]:
    """Return how the cells of each pair differ, p-values adjusted within an arm, test and metric."""
    found = []
    for arm, of_arm in pairs.items():
        for test in tests:
            for metric in METRICS:
                some = []
                for a, b in of_arm:
                    first, second = scored[a, test], scored[b, test]
                    if metric not in first.metrics or metric not in second.metrics:
                        continue
                    of = scoring.difference(first.metrics[metric], second.metrics[metric])
                    rows = first.counted[metric]
                    last = min(len(first.is_right), len(second.is_right)) - 1
                    p = mcnemar(first.is_right[last][rows], second.is_right[last][rows]).p
                    some.append((a, b, of, p, int(rows.sum())))
                adjusted = holm([p for *_, p, _ in some])
                found += [
                    Difference(
                        a=a, b=b, arm=arm, test=test, metric=metric, difference=of.value, low=of.low,
                        high=of.high, mcnemar_p=p, n_objects=n, adjusted_p=float(q),
                    )
                    for (a, b, of, p, n), q in zip(some, adjusted)
                ]  # fmt: skip
    return found


def _at_stream(test: Asked, said: Said, stream_rates: Mapping[str, float]) -> StreamRates:
    rates = np.array([stream_rates[name] for name in test.classes], float)
    rates = rates / rates.sum()
    predicted = [scoring.with_priors(p, rates).argmax(axis=1) for p in said.calibrated]
    k = len(test.classes)
    table = np.stack([scoring.tables(test.draws, test.label, p, k) for p in predicted])
    table = scoring.at_rates(table, rates)
    precision, recall = scoring.precisions(table), scoring.recalls(table)
    return StreamRates(
        rates=dict(zip(test.classes, rates.tolist())),
        macro_f1=scoring.score(scoring.macro_f1(table)),
        precision={name: scoring.value(precision[:, :, i]) for i, name in enumerate(test.classes)},
        recall={name: scoring.value(recall[:, :, i]) for i, name in enumerate(test.classes)},
    )
