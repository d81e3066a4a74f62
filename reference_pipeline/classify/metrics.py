"""How good a classifier is: confusion, scores, calibration, detection error trade-off, and their intervals.

Truth and predictions are class numbers 0 to K - 1 of shape (n,); probabilities are (n, K). A ratio whose
denominator is 0 is NaN, and means leave it out. Needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb, sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Binning = Literal["mass", "width"]

_SMALLEST = 1e-15  # a probability whose logarithm is taken


@dataclass(frozen=True)
class ClassScores:
    """Scores of each class, all of shape (K,)."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Floats  # true members

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that are in truth or prediction."""
        return _mean(self.f1)

    @property
    def macro_precision(self) -> float:
        """Mean precision of the classes that are predicted at all."""
        return _mean(self.precision)

    @property
    def macro_recall(self) -> float:
        """Mean recall of the classes that are in truth: the balanced accuracy."""
        return _mean(self.recall)


@dataclass(frozen=True)
class Reliability:
    """Bins of predictions by confidence, (B,); empty bins are left out."""

    confidence: Floats  # mean of the bin
    accuracy: Floats  # fraction that is right
    count: Ints

    @property
    def error(self) -> float:
        """Expected calibration error: |accuracy - confidence|, weighted by count (Naeini+ 2015)."""
        if not self.count.size:
            return float("nan")
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.count))


@dataclass(frozen=True)
class DetCurve:
    """Detection error trade-off, (T,): what a cut ``score >= threshold`` misses and lets through."""

    threshold: Floats  # falling; the first, infinite, passes nothing
    fnr: Floats  # real ones missed, of all real
    fpr: Floats  # bogus ones passed, of all bogus


@dataclass(frozen=True)
class Interval:
    """A value, and the bounds between which it lies with the stated confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class McNemar:
    """Two classifiers on the same rows: how often one alone is right, and how likely that is by chance."""

    only_first: int
    only_second: int
    p: float  # two-sided, exact


def confusion(truth: ArrayLike, predicted: ArrayLike, n_classes: int) -> Ints:
    """Return the counts (K, K): row truth, column prediction. Raises ValueError for a class beyond K - 1."""
    rows, columns = np.asarray(truth, np.int64), np.asarray(predicted, np.int64)
    _same_length(rows, columns)
    both = np.concatenate([rows, columns])
    if both.size and (both.min() < 0 or both.max() >= n_classes):
        raise ValueError(f"classes {both.min()} to {both.max()}: expected 0 to {n_classes - 1}")
    found = np.bincount(rows * n_classes + columns, minlength=n_classes**2)
    return found.reshape(n_classes, n_classes).astype(np.int64)


def class_scores(matrix: ArrayLike) -> ClassScores:
    """Return precision, recall and F1 = 2 TP / (2 TP + FP + FN) of each class of a confusion matrix."""
    counts = np.asarray(matrix, float)
    hits, true, said = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    return ClassScores(_ratio(hits, said), _ratio(hits, true), _ratio(2 * hits, true + said), true)


def accuracy(matrix: ArrayLike) -> float:
    """Return the fraction of a confusion matrix that is on its diagonal."""
    counts = np.asarray(matrix, float)
    return float(_ratio(np.trace(counts), counts.sum()))


def at_rates(matrix: ArrayLike, rates: ArrayLike) -> Floats:
    """Return the confusion matrix (fractions of all, adding to 1) where classes are as frequent as ``rates``.

    Each row keeps its own proportions; a class without members in ``matrix`` gets an empty row.
    """
    counts, weights = np.asarray(matrix, float), np.asarray(rates, float)
    rows = np.nan_to_num(_ratio(counts, counts.sum(axis=1, keepdims=True))) * weights[:, None]
    return rows / max(rows.sum(), _SMALLEST)


def negative_log_likelihood(probabilities: ArrayLike, truth: ArrayLike) -> float:
    """Return the mean of -ln p of the true class (nat); probabilities below 1e-15 count as that."""
    p, rows = _probabilities(probabilities, truth)
    return float(-np.log(np.maximum(p[np.arange(len(rows)), rows], _SMALLEST)).mean())


def brier(probabilities: ArrayLike, truth: ArrayLike) -> float:
    """Return the mean over rows of sum over classes of (p - truth)^2: 0 to 2 (Brier 1950).

    For two classes it is twice the score that is of one probability alone.
    """
    p, rows = _probabilities(probabilities, truth)
    return float(((p - np.eye(p.shape[1])[rows]) ** 2).sum(axis=1).mean())


def reliability(
    confidence: ArrayLike, is_right: ArrayLike, *, n_bins: int = 15, binning: Binning = "mass"
) -> Reliability:
    """Return how often predictions of each confidence (n,) are right (n,).

    Bins of equal ``mass`` hold as many predictions each, of one more or less; those of equal ``width`` divide
    0 to 1, each with its upper edge. Raises ValueError for another binning.
    """
    sure, right = np.asarray(confidence, float), np.asarray(is_right, bool)
    _same_length(sure, right)
    if binning == "mass":
        order = np.argsort(sure, kind="stable")
        number = np.empty(len(sure), np.int64)
        number[order] = np.arange(len(sure)) * n_bins // max(len(sure), 1)
    elif binning == "width":
        number = np.clip(np.ceil(sure * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    else:
        raise ValueError(f"binning {binning!r}: expected mass or width")
    count = np.bincount(number, minlength=n_bins)
    full = count > 0
    total = [np.bincount(number, weights=w, minlength=n_bins)[full] / count[full] for w in (sure, right)]
    return Reliability(total[0], total[1], count[full].astype(np.int64))


def top_reliability(
    probabilities: ArrayLike, truth: ArrayLike, *, n_bins: int = 15, binning: Binning = "mass"
) -> Reliability:
    """Return the reliability of the most probable class; its ``error`` is the usual ECE."""
    p, rows = _probabilities(probabilities, truth)
    return reliability(p.max(axis=1), p.argmax(axis=1) == rows, n_bins=n_bins, binning=binning)


def calibration_error(
    probabilities: ArrayLike, truth: ArrayLike, *, n_bins: int = 15, binning: Binning = "mass"
) -> float:
    """Return the expected calibration error of the most probable class."""
    return top_reliability(probabilities, truth, n_bins=n_bins, binning=binning).error


def det_curve(is_real: ArrayLike, score: ArrayLike) -> DetCurve:
    """Return the errors of each cut on ``score`` (n,), one for each of its values and one that passes none.

    Raises ValueError where real or bogus ones are missing: no curve is defined.
    """
    real, scores = np.asarray(is_real, bool), np.asarray(score, float)
    _same_length(real, scores)
    if not real.any() or real.all():
        raise ValueError(f"{int(real.sum())} real of {real.size}: expected both real and bogus")
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    last = np.append(np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1)  # of those with equal score
    hits = np.cumsum(real[order])[last]
    passed = last + 1
    fnr = 1 - np.concatenate([[0], hits]) / real.sum()
    fpr = np.concatenate([[0], passed - hits]) / (~real).sum()
    return DetCurve(np.concatenate([[np.inf], sorted_scores[last]]), fnr, fpr)


def area_under_roc(is_real: ArrayLike, score: ArrayLike) -> float:
    """Return the chance that a real one scores above a bogus one, ties counting half. Raises ValueError."""
    curve = det_curve(is_real, score)
    return float(np.trapezoid(1 - curve.fnr, curve.fpr))


def recall_at_contamination(
    is_real: ArrayLike, score: ArrayLike, contamination: float, *, bogus_per_real: float | None = None
) -> tuple[float, float]:
    """Return the largest recall of real ones with at most ``contamination`` (bogus / passed), and its cut.

    ``bogus_per_real`` is the rate at which the contamination holds; None: that of the rows themselves.
    """
    curve = det_curve(is_real, score)
    real = np.asarray(is_real, bool)
    rate = bogus_per_real if bogus_per_real is not None else (~real).sum() / real.sum()
    bogus, recall = rate * curve.fpr, 1 - curve.fnr
    passes = bogus <= contamination * (bogus + recall)  # the cut that passes nothing always does
    best = int(np.flatnonzero(passes)[np.argmax(recall[passes])])
    return float(recall[best]), float(curve.threshold[best])


def average_precision(is_real: ArrayLike, score: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the sum over cuts of (recall gained) x (precision there): the area under precision and recall.

    Rows of equal ``score`` are passed together. ``weights`` (n,): how often each row counts. NaN where
    nothing is real.
    """
    real, scores = np.asarray(is_real, bool), np.asarray(score, float)
    _same_length(real, scores)
    counts = np.ones(len(real)) if weights is None else np.asarray(weights, float)
    _same_length(real, counts)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1) if len(scores) else order
    hits, passed = np.cumsum((counts * real)[order])[last], np.cumsum(counts[order])[last]
    if not len(hits) or hits[-1] <= 0:
        return float("nan")
    precision = np.divide(hits, passed, out=np.zeros_like(hits), where=passed > 0)
    return float((np.diff(hits, prepend=0.0) * precision).sum() / hits[-1])


def holm(p_values: ArrayLike) -> Floats:
    """Return the p-values of several tests, adjusted for their number (Holm 1979)."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.minimum(1.0, p[order] * (len(p) - np.arange(len(p)))))
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return adjusted


def bootstrap(
    statistic: Callable[[Ints], float],
    groups: ArrayLike,
    *,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return ``statistic`` of all rows and its percentile interval, whole groups drawn with replacement.

    ``statistic`` takes row numbers (those of a group that is drawn twice come twice); ``groups`` (n,) says
    which rows hang together, one number each where none do. Draws whose statistic is NaN are left out.
    """
    drawn = bootstrap_draws(statistic, groups, n_draws=n_draws, seed=seed)
    value = float(statistic(np.arange(len(np.asarray(groups)))))
    return interval_of(value, drawn, level=level)


def bootstrap_draws(
    statistic: Callable[[Ints], float | Floats], groups: ArrayLike, *, n_draws: int = 1000, seed: int = 0
) -> Floats:
    """Return ``statistic`` of each draw, (n_draws, ...): a number, or an array of many at once."""
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    order, sizes = np.argsort(group, kind="stable"), np.bincount(group, minlength=len(names))
    starts = np.cumsum(sizes) - sizes
    rng = np.random.default_rng(seed)
    return np.array([statistic(order[_rows(rng, starts, sizes)]) for _ in range(n_draws)], float)


def interval_of(value: float, drawn: ArrayLike, *, level: float = 0.95) -> Interval:
    """Return ``value`` and the percentile interval of draws (n_draws,); NaN are left out."""
    known = np.asarray(drawn, float)
    known = known[np.isfinite(known)]
    if not known.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def bootstrap_difference(
    first: Callable[[Ints], float],
    second: Callable[[Ints], float],
    groups: ArrayLike,
    *,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return ``first`` minus ``second`` of the same rows and its interval: both see the same draws."""
    return bootstrap(lambda rows: first(rows) - second(rows), groups, n_draws=n_draws, level=level, seed=seed)


def mcnemar(first_right: ArrayLike, second_right: ArrayLike) -> McNemar:
    """Return the exact test of McNemar (1947) for two classifiers that were right (n,) on the same rows."""
    a, b = np.asarray(first_right, bool), np.asarray(second_right, bool)
    _same_length(a, b)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n, k = only_a + only_b, min(only_a, only_b)
    tail = Fraction(sum(comb(n, i) for i in range(k + 1)), 2**n)
    return McNemar(only_a, only_b, float(min(Fraction(1), 2 * tail)))


def wilson(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Return a proportion and its score interval (Wilson 1927); (NaN, 0, 1) of no trials."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials}: expected 0 <= successes <= trials")
    if trials == 0:
        return Interval(float("nan"), 0.0, 1.0)
    z = NormalDist().inv_cdf((1 + level) / 2)
    p, weight = successes / trials, 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / weight
    half = z / weight * sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def _rows(rng: np.random.Generator, starts: Ints, sizes: Ints) -> Ints:
    """Positions of the rows of as many groups as there are, drawn with replacement."""
    drawn = rng.integers(len(starts), size=len(starts))
    lengths = sizes[drawn]
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts[drawn] - before, lengths)


def _probabilities(probabilities: ArrayLike, truth: ArrayLike) -> tuple[Floats, Ints]:
    p, rows = np.asarray(probabilities, float), np.asarray(truth, np.int64)
    if p.ndim != 2:
        raise ValueError(f"probabilities {p.shape}: expected (n, K)")
    _same_length(p, rows)
    return p, rows


def _same_length(a: NDArray, b: NDArray) -> None:
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} rows: expected as many")


def _ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    top, bottom = np.asarray(part, float), np.asarray(whole, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 0, top / bottom, np.nan)


def _mean(values: Floats | Sequence[float]) -> float:
    known = np.asarray(values)[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
