"""Lines: detection errors, reliability, learning curves, label noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import NullFormatter, PercentFormatter

from ..document import Panel
from .style import GREY, below, blank, look, panel, titled


@dataclass(frozen=True)
class Line:
    """A named line; ``low`` and ``high`` where it has an interval."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def draw_det(lines: Sequence[Line], name: str, *, of: str) -> Panel:
    """Draw misses (y) against false positives (x), both logarithmic; a rate of 0 is not drawn."""
    figure, axes = blank(4.4, 3.6)
    words, is_drawn = [], False
    for i, line in enumerate(lines):
        x, y = np.asarray(line.x, float), np.asarray(line.y, float)
        good = (x > 0) & (y > 0)
        color, _, style = look(i)
        axes.plot(x[good], y[good], color=color, ls=style, lw=1.4, label=line.name)
        is_drawn |= bool(good.any())
        nearest = int(np.argmin(np.abs(np.log(np.maximum(x, 1e-9) / 0.01))))
        words.append(
            f"{line.name}: {100 * y[nearest]:.0f} % missed at {100 * x[nearest]:.2g} % false positives"
        )
    if not is_drawn:  # an axis without a point above 0 cannot be logarithmic by itself
        axes.set(xlim=(1e-3, 1), ylim=(1e-3, 1))
        axes.text(0.5, 0.5, "no errors at some threshold", transform=axes.transAxes, ha="center")
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=None))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"other stamps called {of}")
    axes.set_ylabel(f"{of} missed")
    titled(axes, f"Detection errors: {of}")
    axes.grid(alpha=0.25, lw=0.5)
    below(figure, 2)
    return panel(figure, name, f"Detection error curves for {of}. " + "; ".join(words) + ".")


def draw_reliability(lines: Sequence[Line], name: str, *, title: str) -> Panel:
    """Draw the fraction that is right (y) against the probability of what is said (x)."""
    figure, axes = blank(4.4, 3.6)
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.7)
    for i, line in enumerate(lines):
        color, marker, style = look(i)
        axes.plot(line.x, line.y, color=color, marker=marker, ms=4, ls=style, lw=1.2, label=line.name)
    smallest = min((min(line.x, default=1.0) for line in lines), default=0.0)
    axes.set_xlim(max(0.0, smallest - 0.05), 1.01)
    axes.set_ylim(max(0.0, smallest - 0.05) if lines else 0, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    if all(min(line.y, default=1) >= smallest - 0.05 for line in lines) is False:
        axes.set_ylim(0, 1.02)
    axes.set_xlabel("probability of the class that is said")
    axes.set_ylabel("fraction that is right")
    titled(axes, title)
    below(figure, 2)
    return panel(figure, name, f"Reliability, {title}: " + ", ".join(line.name for line in lines) + ".")


def draw_trend(
    lines: Sequence[Line], name: str, *, x: str, y: str, title: str, is_log: bool = False
) -> Panel:
    """Draw a score (percent) against what was changed (percent)."""
    figure, axes = blank(4.4, 3.6)
    words = []
    for i, line in enumerate(lines):
        color, marker, style = look(i)
        axes.plot(line.x, line.y, color=color, marker=marker, ms=4.5, ls=style, lw=1.2, label=line.name)
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=color, alpha=0.13, lw=0)
        words.append(f"{line.name}: {line.y[0]:.1f} to {line.y[-1]:.1f}")
    if is_log:
        axes.set_xscale("log")
        ticks = sorted({v for line in lines for v in line.x})
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    titled(axes, title)
    axes.grid(alpha=0.25, lw=0.5)
    below(figure, 2)
    return panel(figure, name, f"{title}. {y}, " + "; ".join(words) + ".")
