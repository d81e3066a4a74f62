"""The figure of what a difference finds: completeness, fluxes, pulls, alignment."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.common import save_figure

_COLORS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8d6a9f", "#c98b2b", "#555555", "#2a9d8f", "#e07a5f")


def draw(pairs: dict[str, list[dict]], summaries: dict[str, dict], path: Path) -> None:
    """Draw four panels to ``path``; simulated, and it says so."""
    figure, axes = plt.subplots(2, 2, figsize=(8.5, 6.6), constrained_layout=True)
    for (name, results), color in zip(pairs.items(), _COLORS):
        summary = summaries[name]
        if not summary["n_pairs"]:
            continue
        _completeness(axes[0, 0], summary, name, color)
        rows = [r for p in results if "refused" not in p for r in p["injected"] if r["flux"] is not None]
        e, f, s = (np.array([r[key] for r in rows]) for key in ("expected", "flux", "flux_err"))
        _ratios(axes[0, 1], np.abs(e) / s, f / e, color)
        axes[1, 0].hist((f - e) / s, np.linspace(-5, 5, 41), density=True, histtype="step", color=color)
        axes[1, 1].plot(summary["align_dx"], summary["align_dy"], "o", ms=4, mfc="none", color=color)
    _finish(axes)
    figure.suptitle("Injected transients, simulated frames from raw pixels to candidates", fontsize=10)
    save_figure(figure, path, dpi=100)
    plt.close(figure)


def _completeness(axis: plt.Axes, summary: dict, name: str, color: str) -> None:
    bins = [row for row in summary["completeness"] if row[2] is not None]
    middle = [np.sqrt(low * high) for low, high, _, _ in bins]
    found, n = np.array([row[2] for row in bins]), np.array([row[3] for row in bins])
    error = np.sqrt(found * (1 - found) / n + 0.25 / n**2)
    axis.errorbar(middle, found, error, fmt="o-", ms=3, lw=1, color=color, label=name)


def _ratios(axis: plt.Axes, snr: np.ndarray, ratio: np.ndarray, color: str) -> None:
    """Medians in bins of S/N, with their errors."""
    edges = np.geomspace(5, 60, 8)
    for low, high in zip(edges, edges[1:]):
        values = ratio[(snr >= low) & (snr < high)]
        if len(values) > 5:
            width = 1.4826 * np.median(np.abs(values - np.median(values)))
            error = 1.25 * width / np.sqrt(len(values))
            axis.errorbar(np.sqrt(low * high), np.median(values), error, fmt="o", ms=3, color=color)


def _finish(axes: np.ndarray) -> None:
    snr, flux, pull, place = axes.ravel()
    snr.axhline(0.95, color="0.7", lw=0.8)
    snr.axvline(8, color="0.7", lw=0.8)
    snr.set(xscale="log", xlabel="true S/N", ylabel="found and kept", ylim=(0, 1.05))
    snr.set_xticks([3, 5, 8, 15, 30], ["3", "5", "8", "15", "30"])
    snr.legend(fontsize=7, frameon=False, loc="lower right")
    flux.axhspan(0.99, 1.01, color="0.9")
    flux.set(xscale="log", xlabel="true S/N", ylabel="measured / true flux", ylim=(0.94, 1.06))
    flux.set_xticks([5, 8, 15, 30, 60], ["5", "8", "15", "30", "60"])
    for axis in (snr, flux):
        axis.minorticks_off()
    x = np.linspace(-5, 5, 201)
    pull.plot(x, np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi), color="0.5", lw=1)
    pull.set(xlabel="(measured − true) / error", ylabel="density")
    place.add_patch(plt.Circle((0, 0), 0.05, color="0.9"))
    place.set(xlabel="offset of aligned stars, x (pixels)", ylabel="y (pixels)", aspect="equal")
    place.set(xlim=(-0.12, 0.12), ylim=(-0.12, 0.12))
