"""Bytes against a score: what more bytes buy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ..document import Panel
from .style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    below,
    blank,
    label_points,
    panel,
)

_LOOKS: dict[str, tuple[str, str]] = {
    "full": (BLACK, "s"),
    "cropped": (ORANGE, "D"),
    "low resolution": (SKY, "v"),
    "multi-scale, S = 8": (VERMILLION, "o"),
    "multi-scale, S = 12": (GREEN, "P"),
    "multi-scale, S = 16": (BLUE, "^"),
    "multi-scale, S = 32": (GREY, "*"),
}


@dataclass(frozen=True)
class Point:
    """One way to send stamps. ``value``, ``low``, ``high``: percent."""

    label: str
    family: str  # a layout of the paper, or "multi-scale" of another size
    is_lossless: bool
    n_bytes: float
    value: float
    low: float
    high: float


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other one beats in bytes and in value at once, the smallest first."""
    out: list[Point] = []
    for point in sorted(points, key=lambda p: (p.n_bytes, -p.value)):
        if not out or point.value > out[-1].value:
            out.append(point)
    return out


def draw(points: Sequence[Point], name: str, *, score: str, of_bytes: str, note: str) -> Panel:
    """Draw bytes (logarithmic) against ``score`` with intervals, and the front as steps."""
    figure, axes = blank(5.4, 4.1)
    best = front(points)
    axes.step(
        [p.n_bytes for p in best], [p.value for p in best], where="post", color=GREY, lw=1, ls="--", zorder=1
    )
    seen: set[tuple[str, bool]] = set()
    for p in points:
        color, marker = look_of(p.family)
        key = (p.family, p.is_lossless)
        axes.errorbar(
            p.n_bytes,
            p.value,
            ([max(p.value - p.low, 0)], [max(p.high - p.value, 0)]),
            fmt=marker,
            ms=6.5,
            color=color,
            mfc=color if p.is_lossless else "white",
            mew=1.4,
            elinewidth=0.9,
            capsize=2,
            zorder=3,
            label=None if key in seen else f"{p.family}, {'exact' if p.is_lossless else 'RICE'}",
        )
        seen.add(key)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(of_bytes)
    axes.set_ylabel(f"{score} (%)")
    axes.set_title(note, fontsize=8, color=GREY)
    axes.grid(alpha=0.25, lw=0.5)
    axes.margins(x=0.16, y=0.14)
    below(figure, 2)
    label_points(
        axes, [(p.n_bytes, p.value, p.label) for p in points], [(p.n_bytes, p.low, p.high) for p in points]
    )
    words = "; ".join(f"{p.label}: {p.n_bytes:,.0f} bytes, {p.value:.1f} %" for p in best)
    return panel(figure, name, f"{score} against bytes ({note}). On the front: {words}.")


def look_of(family: str) -> tuple[str, str]:
    """Return color and marker of a family of layouts."""
    return _LOOKS.get(family, (PURPLE, "X"))
