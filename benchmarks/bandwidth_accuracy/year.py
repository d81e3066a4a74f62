"""A year of new objects at the stream's class rates, each stamp classified with the stream's priors.

As in section 3.2 of Reyes-Jainaga+ 2023, whose year has no labels; here the truth is known because the stamps
are the study's test stamps, drawn again and again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .results import Value, Year
from .scoring import with_priors
from .study import YearSpec
from .tested import Asked, Said

SEED = 2021  # of the draws
N_YEARS = 200  # of other stamps, for the intervals


def year_of(spec: YearSpec, cell: str, test: Asked, said: Said, stream_rates: Mapping[str, float]) -> Year:
    """Return a year's counts. Its objects are drawn by ``stream_rates``, their stamps from the test set;
    each year of the interval is drawn from a bootstrap sample of the stamps' groups. What is said is the mean
    of the seeds' calibrated probabilities, at the stream's rates. A class without test stamps is left out.
    """
    k = len(test.classes)
    rates = np.array([stream_rates[name] for name in test.classes], float)
    present = np.bincount(test.label, minlength=k) > 0
    drawn = np.where(present, rates, 0) / rates[present].sum()
    probability = said.calibrated.mean(axis=0)
    predicted = with_priors(probability, rates / rates.sum()).argmax(axis=1)
    n = spec.n_days * spec.objects_a_day
    rng = np.random.default_rng(SEED)
    true, found, right = _one_year(rng, n, drawn, test.label, predicted, np.ones(len(test.label)), k)
    years = [
        _one_year(rng, n, drawn, test.label, predicted, counts[test.draws.group], k)
        for counts in test.draws.counts[:N_YEARS]
    ]
    called = np.array([year[1] for year in years], float)
    correct = np.array([year[2] for year in years], float)
    with np.errstate(invalid="ignore"):
        share, shares = (
            right / np.where(found > 0, found, np.nan),
            correct / np.where(called > 0, called, np.nan),
        )
    satellites = test.classes.index("satellite")
    return Year(
        cell=cell, n_days=spec.n_days, objects_a_day=spec.objects_a_day,
        rates=dict(zip(test.classes, drawn.tolist())),
        true=dict(zip(test.classes, true.tolist())),
        found={name: _value(found[i], called[:, i]) for i, name in enumerate(test.classes)},
        correct={name: _value(share[i], shares[:, i]) for i, name in enumerate(test.classes)},
        per_day_satellites=_value(found[satellites] / spec.n_days, called[:, satellites] / spec.n_days),
    )  # fmt: skip


def _one_year(rng, n, rates, label, predicted, weights, k):
    """Objects of each class, those called so, and those of them that are (K,) each."""
    true = rng.multinomial(n, rates)
    table = np.zeros((k, k), np.int64)
    for i in np.flatnonzero(true):
        of_class = label == i
        chances = np.bincount(predicted[of_class], weights=weights[of_class], minlength=k)
        if not chances.sum():  # a draw without a stamp of the class: as all stamps of it
            chances = np.bincount(predicted[of_class], minlength=k)
        table[i] = rng.multinomial(true[i], chances / chances.sum())
    return true, table.sum(axis=0), np.diag(table)


def _value(value: float, drawn: np.ndarray) -> Value:
    known = drawn[np.isfinite(drawn)]
    low, high = np.percentile(known, [2.5, 97.5]) if known.size else (np.nan, np.nan)
    return Value(value=float(value), low=float(low), high=float(high))
