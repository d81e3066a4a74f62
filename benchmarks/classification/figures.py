"""The figures of classification: confusion, reliability, detection errors, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.common import save_figure

COLORS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8d6a9f", "#c98b2b", "#555555", "#2a9d8f", "#e07a5f")
SMALL = 7


def draw_confusions(models: Mapping[str, Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Draw a confusion matrix of each model: percent of the true class, its interval, and the count."""
    n = len(models)
    columns = min(n, 3)
    rows = -(-n // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 4.7 * rows + 0.5), squeeze=False, layout="constrained"
    )
    for axis in axes.ravel()[n:]:
        axis.axis("off")
    for axis, (name, scores) in zip(axes.ravel(), models.items()):
        _confusion(axis, scores)
        axis.set_title(f"{name}: macro F1 {_interval(scores['macro_f1'])}", fontsize=SMALL + 1)
    figure.suptitle(f"{title}\n% of the true class [95 %], and stamps", fontsize=SMALL + 1)
    save_figure(figure, path, dpi=110, n_colors=32)
    plt.close(figure)


def _confusion(axis: plt.Axes, scores: Mapping[str, Any]) -> None:
    names, counts = list(scores["classes"]), np.array(scores["confusion"])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            if count == 0:
                continue
            value, low, high = scores["confusion_of_row"][i][j]
            text = f"{100 * value:.1f}\n[{100 * low:.1f}, {100 * high:.1f}]\n{count}"
            axis.text(
                j, i, text, ha="center", va="center", fontsize=SMALL - 2,
                color="white" if value > 0.5 else "0.1",
            )  # fmt: skip
    axis.set_xticks(range(len(names)), names, fontsize=SMALL, rotation=30)
    axis.set_yticks(range(len(names)), names, fontsize=SMALL)
    axis.set_xlabel("said", fontsize=SMALL)
    axis.set_ylabel("true", fontsize=SMALL)


def draw_reliability(models: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw how often the most probable class is right, against its probability; simulated."""
    figure, axis = plt.subplots(figsize=(4, 3.6), layout="constrained")
    axis.plot([0, 1], [0, 1], color="0.7", lw=0.8)
    for (name, table), color in zip(models.items(), _cycle(COLORS)):
        confidence, right, count = (
            np.array(table[key], float) for key in ("confidence", "accuracy", "count")
        )
        error = np.sqrt(np.maximum(right * (1 - right), 0.25 / count) / count)
        axis.errorbar(confidence, right, error, fmt="o-", ms=3, lw=1, color=color, label=name)
    low = min(min(table["confidence"]) for table in models.values())
    axis.set(xlim=(max(low - 0.05, 0), 1.01), ylim=(max(low - 0.1, 0), 1.02))
    axis.set_xlabel("probability of the class that is said", fontsize=SMALL)
    axis.set_ylabel("fraction that is right", fontsize=SMALL)
    axis.set_title("simulated stamps, bins of as many each", fontsize=SMALL + 1)
    axis.tick_params(labelsize=SMALL)
    axis.legend(fontsize=SMALL, frameon=False)
    save_figure(figure, path, dpi=75, n_colors=32)
    plt.close(figure)


def draw_det(models: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> None:
    """Draw the detection errors of each model in groups of S/N, as Sun+ 2022 do in their Figure 12.

    The axes are theirs: false negatives along x, false positives along y; here both are logarithmic, and a
    rate of none is drawn at half of one in the group.
    """
    n = len(models)
    figure, axes = plt.subplots(1, n, figsize=(3.8 * n, 3.6), squeeze=False, layout="constrained")
    for axis, (name, curves) in zip(axes[0], models.items()):
        for (group, curve), color in zip(curves.items(), _cycle(COLORS)):
            fnr = np.maximum(curve["fnr"], 0.5 / curve["n_real"])
            fpr = np.maximum(curve["fpr"], 0.5 / curve["n_bogus"])
            label = f"{group}: {curve['n_real']} + {curve['n_bogus']}"
            axis.step(fnr, fpr, where="post", color=color, lw=1.2, label=label)
        axis.set(xscale="log", yscale="log")
        axis.set_xlabel("false negatives, of all real", fontsize=SMALL)
        axis.set_ylabel("false positives, of all bogus", fontsize=SMALL)
        axis.set_title(f"{name} (simulated)", fontsize=SMALL + 1)
        axis.tick_params(labelsize=SMALL)
        axis.legend(fontsize=SMALL - 1, frameon=False, title="S/N: real + bogus", title_fontsize=SMALL - 1)
    save_figure(figure, path, dpi=80, n_colors=32)
    plt.close(figure)


def draw_examples(
    rows: Sequence[tuple[str, Mapping[str, np.ndarray]]], planes: Sequence[str], path: Path, *, title: str
) -> None:
    """Draw stamps, one of ``rows`` (words, plane -> pixels) a line of ``planes``, in two columns of lines."""
    half = -(-len(rows) // 2)
    k = len(planes)
    figure, axes = plt.subplots(half, 2 * k, figsize=(2 * k, 1.22 * half + 0.4), squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    for n, (words, pixels) in enumerate(rows):
        for j, plane in enumerate(planes):
            axis = axes[n % half, (n // half) * k + j]
            image = pixels[plane]
            good = image[np.isfinite(image)]
            low, high = np.percentile(good, (2, 99.5)) if good.size else (0, 1)
            axis.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="nearest")
            if j == 0:
                axis.set_title(f"{words}; {', '.join(planes)}", fontsize=SMALL, loc="left", pad=2)
    figure.suptitle(title, fontsize=SMALL + 1)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.5 / (1.22 * half + 0.4), 0.05, 0.2)
    save_figure(figure, path, dpi=72, n_colors=12)
    plt.close(figure)


def _interval(values: Sequence[float]) -> str:
    return f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"


def _cycle(colors: Sequence[str]):
    while True:
        yield from colors


def draw_clouds(models: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw how many frames are called cloudy, by the depth of their cloud; simulated."""
    figure, axis = plt.subplots(figsize=(4.4, 3.2), layout="constrained")
    for (name, bins), color in zip(models.items(), _cycle(COLORS)):
        x = range(len(bins))
        value, low, high = np.array([b["called_cloudy"] for b in bins]).T
        axis.errorbar(x, value, (value - low, high - value), fmt="o-", ms=3, lw=1, color=color, label=name)
        ends = [(b["depth"][0], b["depth"][1]) for b in bins]
        words = [f"{a:g}–{b:g}" if b is not None else f"> {a:g}" for a, b in ends]
        axis.set_xticks(x, words, fontsize=SMALL - 1, rotation=30)
    axis.set_xlabel("cloud over the frame, 2nd to 98th percentile (mag)", fontsize=SMALL)
    axis.set_ylabel("called cloudy", fontsize=SMALL)
    axis.set_title("simulated frames; cloudy from 0.15 mag on", fontsize=SMALL + 1)
    axis.tick_params(axis="y", labelsize=SMALL)
    axis.legend(fontsize=SMALL, frameon=False)
    save_figure(figure, path, dpi=75, n_colors=24)
    plt.close(figure)


def draw_gap(panels: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the distributions of the statistics that tell simulated from real best, class by class."""
    if not panels:
        return
    columns = 5
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(11, 1.9 * rows), squeeze=False, layout="constrained")
    for axis in axes.ravel()[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(axes.ravel(), panels):
        for values, color, name in zip(panel["sides"], ("0.15", "tab:orange"), ("real", "simulated")):
            v = np.sort(values[np.isfinite(values)])
            axis.step(v, np.linspace(0, 1, len(v)), color=color, lw=1.2, label=name)
        both = np.concatenate([values[np.isfinite(values)] for values in panel["sides"]])
        axis.set_xlim(*np.quantile(both, (0.005, 0.985)))
        axis.set_title(f"{panel['label']}: {panel['name']}\nAUC {panel['auc']:.2f}", fontsize=SMALL - 1)
        axis.tick_params(labelsize=SMALL - 2)
    axes[0, 0].legend(fontsize=SMALL - 1, frameon=False)
    save_figure(figure, path, dpi=65, n_colors=16)
    plt.close(figure)
