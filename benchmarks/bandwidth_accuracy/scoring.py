"""Scores of many draws at once: a bootstrap of whole groups as sums of what each group holds.

Draws are counts (B, G): how often each group is in each. All cells of a test share them, so that differences
between cells are paired. Tables are confusion matrices, (..., K, K), truth by row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reference_pipeline.classify.metrics import (
    average_precision,
    det_curve,
    interval_of,
    recall_at_contamination,
    reliability,
)

from .results import Bin, Det, Matrix, Score, Value

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

N_BINS = 15  # of reliability
DET_POINTS = 200
CONTAMINATIONS = (0.01, 0.1)
_SLOW_DRAWS = 200  # for what is not a sum over groups


@dataclass(frozen=True)
class Draws:
    """Whole groups drawn with replacement."""

    counts: Floats  # (B, G)
    group: Ints  # (n,): 0 to G - 1, of each row

    @property
    def n_groups(self) -> int:
        """How many there are."""
        return self.counts.shape[1]


def draws_of(groups: NDArray, n_draws: int, *, seed: int = 0) -> Draws:
    """Return ``n_draws`` draws of as many groups as there are among ``groups`` (n,)."""
    names, group = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), n_draws)
    return Draws(counts.astype(float), group.astype(np.int64))


def summed(draws: Draws, values: NDArray) -> Floats:
    """Return the sum over rows of ``values`` (n, ...) in each draw, (B, ...)."""
    flat = np.asarray(values, float).reshape(len(values), -1)
    of_groups = np.zeros((draws.n_groups, flat.shape[1]))
    np.add.at(of_groups, draws.group, flat)
    return (draws.counts @ of_groups).reshape(-1, *np.shape(values)[1:])


def tables(draws: Draws, label: Ints, said: Ints, k: int) -> Floats:
    """Return the confusion matrices (1 + B, K, K): of all rows, then of each draw."""
    code = label * k + said
    of_groups = np.bincount(draws.group * k * k + code, minlength=draws.n_groups * k * k)
    of_groups = of_groups.reshape(draws.n_groups, k * k).astype(float)
    drawn = draws.counts @ of_groups
    return np.concatenate([of_groups.sum(axis=0)[None], drawn]).reshape(-1, k, k)


def macro_f1(table: Floats) -> Floats:
    """Mean F1 over the classes that are in truth or prediction; NaN where none is."""
    hits = np.diagonal(table, axis1=-2, axis2=-1)
    f1 = _ratio(2 * hits, table.sum(axis=-1) + table.sum(axis=-2))
    return _nanmean(f1)


def recalls(table: Floats) -> Floats:
    """Recall of each class, (..., K)."""
    return _ratio(np.diagonal(table, axis1=-2, axis2=-1), table.sum(axis=-1))


def precisions(table: Floats) -> Floats:
    """Precision of each class, (..., K)."""
    return _ratio(np.diagonal(table, axis1=-2, axis2=-1), table.sum(axis=-2))


def accuracies(table: Floats) -> Floats:
    """Fraction on the diagonal."""
    return _ratio(np.trace(table, axis1=-2, axis2=-1), table.sum(axis=(-2, -1)))


def row_fractions(table: Floats) -> Floats:
    """Each row over its sum."""
    return _ratio(table, table.sum(axis=-1, keepdims=True))


def at_rates(table: Floats, rates: Floats) -> Floats:
    """Tables where the classes of the rows are as frequent as ``rates`` (K,); an empty row stays so."""
    return np.nan_to_num(row_fractions(table)) * rates[:, None]


def with_priors(probability: Floats, rates: Floats) -> Floats:
    """Return probabilities (n, K) that held for equal rates, for ``rates`` (K,)."""
    found = probability * rates
    return found / found.sum(axis=1, keepdims=True)


def softmax(logits: NDArray, temperature: float = 1.0) -> Floats:
    """Return probabilities (n, K)."""
    z = logits.astype(np.float64) / temperature
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def calibration_errors(draws: Draws, probability: Floats, label: Ints) -> Floats:
    """Return the expected calibration error of all rows and of each draw, (1 + B,); bins are of all rows."""
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == label
    number = np.empty(len(label), np.int64)
    number[np.argsort(confidence, kind="stable")] = np.arange(len(label)) * N_BINS // max(len(label), 1)
    off = np.zeros((len(label), N_BINS))
    off[np.arange(len(label)), number] = confidence - right
    sums = np.concatenate([off.sum(axis=0)[None], summed(draws, off)])
    counts = np.concatenate([[float(len(label))], summed(draws, np.ones(len(label)))])
    return _ratio(np.abs(sums).sum(axis=1), counts)


def briers(draws: Draws, probability: Floats, label: Ints) -> Floats:
    """Return the Brier score (0 to 2) of all rows and of each draw, (1 + B,)."""
    each = ((probability - np.eye(probability.shape[1])[label]) ** 2).sum(axis=1)
    total = summed(draws, each)
    counts = summed(draws, np.ones(len(label)))
    return np.concatenate([[each.mean()], _ratio(total, counts)])


def average_precisions(draws: Draws, score: Floats, is_class: NDArray[np.bool_]) -> Floats:
    """Return the average precision of all rows and of the first 200 draws."""
    found = [average_precision(is_class, score)]
    for counts in draws.counts[:_SLOW_DRAWS]:
        found.append(average_precision(is_class, score, counts[draws.group]))
    return np.array(found)


def score(of_seeds: Floats) -> Score:
    """(seeds, 1 + B) -> the mean of the seeds, its interval, and their scatter."""
    mean = _nanmean(of_seeds.T)
    found = interval_of(float(mean[0]), mean[1:])
    scatter = float(of_seeds[:, 0].std(ddof=1)) if len(of_seeds) > 1 else None
    return Score(value=found.value, low=found.low, high=found.high, std_seeds=scatter)


def value(of_seeds: Floats) -> Value:
    """(seeds, 1 + B) -> the mean of the seeds and its interval."""
    mean = _nanmean(of_seeds.T)
    found = interval_of(float(mean[0]), mean[1:])
    return Value(value=found.value, low=found.low, high=found.high)


def difference(a: Floats, b: Floats) -> Value:
    """Mean of the seeds of ``a`` minus that of ``b``, both (seeds, 1 + B) of the same draws."""
    return value((_nanmean(a.T) - _nanmean(b.T))[None])


def matrix(of_seeds: Floats) -> Matrix:
    """(seeds, 1 + B, K, K) tables -> fractions of each row, mean over the seeds, with bounds."""
    rows = row_fractions(of_seeds)
    with np.errstate(invalid="ignore"):
        mean = rows.mean(axis=0)
    low, high = np.nanquantile(np.nan_to_num(mean[1:]), [0.025, 0.975], axis=0)
    return Matrix(value=_listed(mean[0]), low=_listed(low), high=_listed(high))


def bins(probability: Floats, label: Ints) -> list[Bin]:
    """Return the reliability of the most probable class in bins of equal mass."""
    found = reliability(probability.max(axis=1), probability.argmax(axis=1) == label, n_bins=N_BINS)
    return [
        Bin(confidence=float(c), accuracy=float(a), n=int(n))
        for c, a, n in zip(found.confidence, found.accuracy, found.count)
    ]


def det(is_class: NDArray[np.bool_], probability: Floats) -> Det:
    """Return the errors of cuts on one class's probability, thinned."""
    curve = det_curve(is_class, probability)
    some = np.unique(np.linspace(0, len(curve.fpr) - 1, DET_POINTS).astype(int))
    return Det(
        false_positive_rate=np.round(curve.fpr[some], 6).tolist(),
        miss_rate=np.round(curve.fnr[some], 6).tolist(),
    )


def recall_at(is_class: NDArray[np.bool_], probabilities: Floats) -> dict[str, float]:
    """Return the recall of a class at each contamination, mean over seeds; ``probabilities`` (seeds, n)."""
    return {
        f"{c:g}": float(np.mean([recall_at_contamination(is_class, p, c)[0] for p in probabilities]))
        for c in CONTAMINATIONS
    }


def _ratio(part: NDArray, whole: NDArray) -> Floats:
    top, bottom = np.asarray(part, float), np.asarray(whole, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 0, top / bottom, np.nan)


def _nanmean(values: Floats) -> Floats:
    """Mean over the last axis of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))


def _listed(values: Floats) -> list[list[float]]:
    return np.round(values, 6).tolist()
