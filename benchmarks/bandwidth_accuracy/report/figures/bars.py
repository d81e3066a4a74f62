"""Bars: what is lost when a level or a plane is left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..document import Panel
from .style import BLUE, GREY, VERMILLION, blank, panel, titled


def draw_differences(
    rows: Sequence[tuple[str, float, float, float]], name: str, *, title: str, unit: str = "macro F1, points"
) -> Panel:
    """Draw differences with their intervals; filled where the interval leaves out zero."""
    figure, axes = blank(4.4, 0.9 + 0.36 * len(rows))
    y = np.arange(len(rows))[::-1]
    axes.axvline(0, color=GREY, lw=0.8)
    for at, (_, value, low, high) in zip(y, rows):
        is_clear = low > 0 or high < 0
        color = (VERMILLION if value < 0 else BLUE) if is_clear else GREY
        axes.barh(
            at, value, height=0.55, color=color if is_clear else "white", edgecolor=color, lw=1,
            hatch=None if is_clear else "////",
        )  # fmt: skip
        axes.errorbar(value, at, xerr=([max(value - low, 0)], [max(high - value, 0)]), fmt="none",
                      ecolor="#111111", elinewidth=1, capsize=2.5)  # fmt: skip
    axes.set_yticks(y, [row[0] for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"difference ({unit})")
    titled(axes, title)
    axes.grid(axis="x", alpha=0.25, lw=0.5)
    words = "; ".join(f"{n} {v:+.1f} ({lo:+.1f} to {hi:+.1f})" for n, v, lo, hi in rows)
    return panel(figure, name, f"{title}: {words}.")
