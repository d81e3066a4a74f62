"""How simulated stamps differ from real ones of the same class: `python -m benchmarks.classification gap`.

Two classifiers are told to separate them, with exposures kept whole: gradient boosting on statistics of the
pixels, and a small network on what shipped models see. An AUC of 0.5 is a simulation that nothing can be
told by. Then every statistic alone, the worst first: what to improve.

Populations differ for reasons that are not the simulation's (brokers chose the real ones), so simulated
stamps are drawn to match the real ones' S/N and its sign. Controls: real stamps beside other real ones, and
simulated beside simulated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer

from benchmarks.classification.figures import draw_gap
from benchmarks.classification.gap_pixels import BELOW_NOISE, snr_of, statistics
from benchmarks.classification.judged import N_DRAWS, described, in_numbers
from benchmarks.classification.real_stamps import real_stamps
from benchmarks.common import RESULTS, SEED, Requirement, at_most, save
from reference_pipeline.classify.metrics import area_under_roc, bootstrap
from reference_pipeline.labelled.split import groups_of_stamps, split
from reference_pipeline.labelled.stamp import LabelledStamp, read_stamps, stamp_files
from reference_pipeline.taxonomy import STAMP_CLASSES

QUESTION = "classification/gap"
MOST_AUC = 0.75  # of a simulation that is good enough; there is no such number in the papers
N_FOLDS = 5
PER_REAL = 3  # simulated stamps for each real one, where there are as many
CALIPER = 0.15  # dex of |S/N|
SMALL = 150  # real stamps of a class, in the small setting
LEAST_FOR_NETWORK = 60  # real stamps of a class
N_SHOWN = 12
TOP = 25  # statistics that are kept of a class


def measure(paths: list[Path], models: list[str], *, full: bool) -> list[Requirement]:
    """Measure both kinds, tell them apart, rank the statistics, save and draw."""
    del models
    n_draws = N_DRAWS if full else N_DRAWS // 5
    labelled, _, _ = real_stamps()
    real = [s for s in labelled if s.is_random]
    simulated = simulated_stamps(paths)
    results: dict[str, Any] = {}
    requirements, panels = [], []
    tables: dict[str, tuple[list[LabelledStamp], list[dict[str, float]]]] = {}
    for label in STAMP_CLASSES:
        a = some_of([s for s in real if s.label == label], None if full else SMALL)
        b = matched(a, [s for s in simulated if s.label == label])
        if len(a) < 2 * N_FOLDS or len(b) < 2 * N_FOLDS:
            results[label] = {"n_real": len(a), "n_simulated": len(b)}
            print(f"{label}: {len(a)} real, {len(b)} simulated of their S/N: too few")
            continue
        table = [statistics(s) for s in [*a, *b]]
        tables[f"real {label}"], tables[f"simulated {label}"] = (a, table[: len(a)]), (b, table[len(a) :])
        results[label] = of_class([*a, *b], table, len(a), full=full, n_draws=n_draws)
        report(label, results[label])
        if len(a) >= LEAST_FOR_NETWORK:
            auc = results[label]["auc"]["boosting, as a network sees"][0]
            requirements.append(at_most(f"{label}: AUC, simulated from real", auc, MOST_AUC))
            panels += panels_of(label, results[label], table, len(a))
    out = {
        "simulated": "one side of it", "data": described(paths), "classes": results,
        "controls": controls(tables, n_draws=n_draws),
    }  # fmt: skip
    print("controls:", out["controls"])
    save(QUESTION, out, requirements, full=full)
    draw_gap(panels, RESULTS / QUESTION / "gap.png")
    return requirements


def simulated_stamps(paths: list[Path]) -> list[LabelledStamp]:
    """Return the simulated stamps that the pipeline's cuts leave, one an object, without injected ones."""
    return [
        s for file in stamp_files(paths) for s in read_stamps(file)
        if s.is_random and s.cut is None and s.subtype != "injected" and s.original is not None
        and s.survey == "ztf"
    ]  # fmt: skip


def some_of(stamps: list[LabelledStamp], n: int | None) -> list[LabelledStamp]:
    """Return ``n`` of the stamps, drawn; all where there are no more."""
    if n is None or len(stamps) <= n:
        return stamps
    return [stamps[i] for i in sorted(np.random.default_rng(SEED).permutation(len(stamps))[:n])]


def matched(real: list[LabelledStamp], simulated: list[LabelledStamp]) -> list[LabelledStamp]:
    """Return up to PER_REAL simulated stamps for each real one, of its S/N and sign; none twice."""
    wanted, there = (np.array([snr_of(s) for s in some]) for some in (real, simulated))
    log = np.log10(np.maximum(np.abs(there), 1e-3))
    is_free = np.isfinite(there)
    rng = np.random.default_rng(SEED)
    for _ in range(PER_REAL):
        for snr in wanted[rng.permutation(len(real))]:
            apart = np.where(is_free & (there * snr > 0), np.abs(log - np.log10(max(abs(snr), 1e-3))), np.inf)
            if apart.size and apart.min() <= CALIPER:
                is_free[apart.argmin()] = False
    return [s for s, free, snr in zip(simulated, is_free, there) if not free and np.isfinite(snr)]


def of_class(
    stamps: list[LabelledStamp], table: list[dict[str, float]], n_real: int, *, full: bool, n_draws: int
) -> dict[str, Any]:
    """Return AUCs and ranked statistics of one class; the first ``n_real`` are real."""
    is_real = np.arange(len(stamps)) < n_real
    groups = groups_of_stamps(stamps)
    folds = split(is_real.astype(int), groups, fractions=[1 / N_FOLDS] * N_FOLDS, seed=SEED)
    names = list(table[0])
    values = np.array([[row[name] for name in names] for row in table])
    seen = [name not in BELOW_NOISE for name in names]
    aucs = {
        "boosting, as a network sees": told(values[:, seen], is_real, groups, folds, boosting, n_draws),
        "logistic, as a network sees": told(values[:, seen], is_real, groups, folds, logistic, n_draws),
    }
    if full:
        aucs["boosting, levels and noise too"] = told(values, is_real, groups, folds, boosting, n_draws)
    if n_real >= LEAST_FOR_NETWORK:
        from benchmarks.classification.gap_network import score

        scores = score(stamps, is_real, folds, epochs=30 if full else 12)
        aucs["network on the packet"] = auc_of(is_real, scores, groups, n_draws)
    return {
        "n_real": n_real, "n_simulated": int((~is_real).sum()), "n_groups": len(np.unique(groups)),
        "auc": aucs, "statistics": ranked(names, values, is_real)[:TOP],
    }  # fmt: skip


def boosting() -> Any:
    """Boosted trees; they take NaN as it is."""
    return HistGradientBoostingClassifier(
        max_iter=50, learning_rate=0.1, max_leaf_nodes=15, min_samples_leaf=8, class_weight="balanced",
        random_state=SEED,
    )  # fmt: skip


def logistic() -> Any:
    """A linear separation of ranks."""
    return make_pipeline(
        SimpleImputer(strategy="median"),
        QuantileTransformer(n_quantiles=8, output_distribution="normal", random_state=SEED),
        LogisticRegression(C=0.05, class_weight="balanced", max_iter=2000),
    )


def told(
    values: np.ndarray, is_real: np.ndarray, groups: np.ndarray, folds: np.ndarray, make: Any, n_draws: int
) -> list[float | None]:
    """[AUC, low, high] of telling real from simulated, each fold by a classifier that never saw it."""
    scores = np.full(len(values), np.nan)
    for fold in range(N_FOLDS):
        test = folds == fold
        if test.any() and len(np.unique(is_real[~test])) == 2:
            known = np.isfinite(values[~test]).any(axis=0)
            fitted = make().fit(values[~test][:, known], is_real[~test])
            scores[test] = fitted.predict_proba(values[test][:, known])[:, 1]
    return auc_of(is_real, scores, groups, n_draws)


def auc_of(is_real: np.ndarray, scores: np.ndarray, groups: np.ndarray, n_draws: int) -> list[float | None]:
    """[AUC, low, high]; rows without a score are left out."""
    rows = np.isfinite(scores)
    real, score, group = is_real[rows], scores[rows], groups[rows]

    def auc(drawn: np.ndarray) -> float:
        both = real[drawn].any() and not real[drawn].all()
        return area_under_roc(real[drawn], score[drawn]) if both else float("nan")

    return in_numbers(bootstrap(auc, group, n_draws=n_draws))


def ranked(names: list[str], values: np.ndarray, is_real: np.ndarray) -> list[dict[str, Any]]:
    """Return each statistic's AUC alone and its quartiles on both sides, the worst first."""
    out = []
    for j, name in enumerate(names):
        rows = np.isfinite(values[:, j])
        real, v = is_real[rows], values[rows, j]
        if real.sum() < 5 or (~real).sum() < 5:
            continue
        sides = [
            [float(f"{q:.3g}") for q in np.quantile(v[side], (0.25, 0.5, 0.75))] for side in (real, ~real)
        ]
        auc = area_under_roc(real, v)
        out.append({
            "name": name, "auc": round(auc, 3), "real": sides[0], "simulated": sides[1],
            "is_seen": name not in BELOW_NOISE,
        })  # fmt: skip
    return sorted(out, key=lambda row: -abs(row["auc"] - 0.5))


def controls(
    tables: dict[str, tuple[list[LabelledStamp], list[dict[str, float]]]], *, n_draws: int
) -> dict[str, list[float | None]]:
    """AUC of telling apart two halves of the same kind, exposures whole: about 0.5."""
    out = {}
    for kind in ("real", "simulated"):
        some = {name: of for name, of in tables.items() if name.startswith(kind)}
        if not some:
            continue
        name = max(some, key=lambda n, of=some: len(of[n][0]))
        stamps, table = some[name]
        groups = groups_of_stamps(stamps)
        half = split(np.zeros(len(stamps)), groups, fractions=(0.5, 0.5), seed=SEED + 1) == 0
        folds = split(half.astype(int), groups, fractions=[1 / N_FOLDS] * N_FOLDS, seed=SEED)
        values = np.array([list(row.values()) for row in table])
        out[f"{name}, two halves"] = told(values, half, groups, folds, boosting, n_draws)
    return out


def report(label: str, result: dict[str, Any]) -> None:
    """Print a class: AUCs, and what to improve."""
    print(f"\n{label}: {result['n_real']} real, {result['n_simulated']} simulated of their S/N")
    for name, auc in result["auc"].items():
        print(f"  {name:32} AUC {auc[0]:.3f} [{auc[1]:.3f}, {auc[2]:.3f}]", flush=True)
    for row in result["statistics"][:N_SHOWN]:
        sign = "" if row["is_seen"] else "  (not seen by a network)"
        print(f"  {row['name']:36} {row['auc']:.3f}  real {row['real']}  simulated {row['simulated']}{sign}")


def panels_of(label: str, result: dict[str, Any], table: list[dict[str, float]], n_real: int) -> list[dict]:
    """What the figure shows of a class: its worst statistics that a network sees, both sides' values."""
    shown = []
    for row in [r for r in result["statistics"] if r["is_seen"]][:5]:
        values = np.array([each[row["name"]] for each in table])
        shown.append({
            "label": label, "name": row["name"], "auc": row["auc"],
            "sides": [values[:n_real], values[n_real:]],
        })  # fmt: skip
    return shown
