"""Figures 7 and 8 of Sun+ 2022, drawn of simulated nights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")
from astropy.visualization import ZScaleInterval
from matplotlib import pyplot as plt

from benchmarks.common import save_figure
from multiscale import Alert, read_alerts
from reference_pipeline.difference_products import difference_path, read_difference, read_plane
from reference_pipeline.night.report import NightReport

HALF = 30  # pixels, of the cutouts of Figure 8
MEDIAN, SCATTER = 0.05, 0.2  # pixels: the paper's (3.2)
_COLORS = ("#1b6ca8", "#d1495b")


def alignment_of(report: NightReport) -> list[dict[str, Any]]:
    """What the stars say of every aligned frame: medians and scatter of their offsets, pixels."""
    names = ("n_stars", "dx", "dy", "scatter_x", "scatter_y", "overlap")
    return [
        {"exposure": d.exposure, "branch": d.branch, **{name: d.decision("align", name) for name in names}}
        for d in report.differences
        if d.status == "done"
    ]


def draw_alignment(rows: list[dict[str, Any]], path: Path) -> None:
    """Figure 7: of every frame the median offset of the matched stars, bars their scatter; both branches."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, branch in zip(axes, ("qip", "dip")):
        frames = [row for row in rows if row["branch"] == branch]
        number = np.arange(1, len(frames) + 1)
        axis.axhspan(-MEDIAN, MEDIAN, color="0.9", label=f"±{MEDIAN} (paper, medians)")
        for side in (-SCATTER, SCATTER):
            axis.axhline(side, color="0.6", lw=0.8, ls="--")
        for shift, name, color in zip((-0.12, 0.12), "xy", _COLORS):
            middle = [row[f"d{name}"] for row in frames]
            axis.errorbar(
                number + shift, middle, [row[f"scatter_{name}"] for row in frames], fmt="o", ms=4, lw=1,
                capsize=2, color=color, label=name,
            )  # fmt: skip
        stars = np.median([row["n_stars"] for row in frames])
        axis.set(xlabel="frame", title=f"{branch.upper()}: {len(frames)} frames, {stars:.0f} stars each")
        axis.set_xticks(number)
    axes[0].set(ylabel="aligned less template, pixels", ylim=(-0.3, 0.3))
    axes[0].legend(fontsize=7, frameon=False, ncols=3, loc="lower left")
    figure.suptitle(
        "Matched stars, medians and scatter (1σ); simulated. Dashed: the paper's scatter", fontsize=10
    )
    save_figure(figure, path, dpi=90)
    plt.close(figure)


@dataclass(frozen=True)
class Planet:
    """An alert of a known minor planet."""

    alert: Alert
    name: str
    magnitude: float | None  # V, predicted
    separation: float  # arcsec, from its predicted place


def planets_in(out: Path, branch: str) -> list[Planet]:
    """Return the alerts of minor planets that a night sent, the most certain first."""
    found = []
    for path in sorted((out / "alerts" / branch).glob("*.avro")):
        for alert in read_alerts(path):
            near = [m for m in alert.cross_matches if m.kind == "minor_planet"]
            if near and alert.detection.is_positive:  # of two at one place, the nearer
                best = min(near, key=lambda m: m.separation or 0.0)
                found.append(Planet(alert, best.source_id, best.magnitude, best.separation or 0.0))
    return sorted(found, key=lambda p: -abs(p.alert.detection.snr or 0.0))


def facts_of(planet: Planet) -> dict[str, Any]:
    """What the figure shows, in numbers."""
    d = planet.alert.detection
    return {
        "alert_id": planet.alert.alert_id, "designation": planet.name, "predicted_V": planet.magnitude,
        "separation_arcsec": planet.separation, "snr": d.snr, "magnitude": d.magnitude, "band": d.band,
    }  # fmt: skip


def draw_planet(planet: Planet, out: Path, branch: str, path: Path) -> None:
    """Figure 8: template, aligned frame and difference about a minor planet."""
    d = planet.alert.detection
    product = difference_path(out, branch, str(d.exposure_id))
    stored = read_difference(product)
    x, y = (float(v) for v in stored.wcs.all_world2pix(d.ra, d.dec, 0))
    column, row = round(x), round(y)
    ny, nx = stored.shape
    low, left = max(row - HALF, 0), max(column - HALF, 0)
    part = np.s_[low : min(row + HALF + 1, ny), left : min(column + HALF + 1, nx)]
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.7), layout="constrained")
    planes = {name: read_plane(product, name)[part] for name in ("TEMPLATE", "ALIGNED", "DIFF")}
    planes["DIFF"] = np.where(np.isfinite(stored.score[part]), planes["DIFF"], np.nan)
    colors = matplotlib.colormaps["gray"].with_extremes(bad="#8fb0cc")
    titles = ("template", "aligned", "difference (blue: not known)")
    for axis, title, plane in zip(axes, titles, planes.values()):
        lowest, highest = ZScaleInterval().get_limits(plane[np.isfinite(plane)])
        axis.imshow(plane, cmap=colors, vmin=lowest, vmax=highest, origin="lower", interpolation="nearest")
        axis.plot(x - left, y - low, "o", ms=26, mfc="none", mec=_COLORS[1], mew=1.6)
        axis.set(title=title, xticks=[], yticks=[])
    predicted = "unknown" if planet.magnitude is None else f"{planet.magnitude:.2f}"
    figure.suptitle(
        f"Minor planet {planet.name}, predicted V = {predicted}, {planet.separation:.2f}″ from its place; "
        f"found at {d.band} = {d.magnitude:.2f}, S/N {d.snr:.0f} ({branch.upper()}, simulated)",
        fontsize=10,
    )
    save_figure(figure, path, dpi=90)
    plt.close(figure)
