"""Confusion matrices with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..document import Panel
from .style import VERMILLION, blank, panel, titled

Matrix = Sequence[Sequence[float]]


def draw(
    name: str,
    title: str,
    classes: Sequence[str],
    value: Matrix,
    low: Matrix,
    high: Matrix,
    *,
    published: dict[tuple[str, str], float] | None = None,
) -> Panel:
    """Draw fractions of the true class in percent, 95 % below; what the paper names stands under them."""
    share, least, most = (100 * np.array(m, float) for m in (value, low, high))
    n = len(classes)
    figure, axes = blank(4.6, 4.4)
    axes.imshow(np.nan_to_num(share), cmap="Blues", vmin=0, vmax=110)
    for i in range(n):
        for j in range(n):
            if not np.isfinite(share[i, j]):
                continue
            ink = "white" if share[i, j] > 62 else "#111111"
            theirs = (published or {}).get((classes[i], classes[j]))
            up = 0.2 if theirs is None else 0.28
            axes.text(j, i - up, f"{share[i, j]:.1f}", ha="center", va="center", fontsize=8.5, color=ink)
            span = f"{least[i, j]:.0f}–{most[i, j]:.0f}"
            axes.text(j, i + up - 0.23, span, ha="center", va="center", fontsize=6.5, color=ink)
            if theirs is not None:
                axes.text(
                    j, i + 0.3, f"({theirs:.1f})", ha="center", va="center", fontsize=7, style="italic",
                    color="#ffd0b0" if share[i, j] > 62 else VERMILLION,
                )  # fmt: skip
    axes.set_xticks(range(n), classes, rotation=30)
    axes.set_yticks(range(n), classes)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    titled(axes, title)
    for side in axes.spines.values():
        side.set_visible(False)
    words = ", ".join(f"{c} {share[i, i]:.0f} %" for i, c in enumerate(classes) if np.isfinite(share[i, i]))
    return panel(figure, name, f"Confusion matrix, {title}. Of each true class found: {words}.")
