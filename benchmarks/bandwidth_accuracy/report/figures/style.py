"""How every drawing looks: colors that most eyes tell apart, and never by color alone."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..document import Panel

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY = "#5b5b5b"
#: Okabe and Ito's palette, "Color Universal Design" (2008), without yellow, which is too light for lines.
COLORS = (VERMILLION, BLUE, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))

_SETTINGS = {
    "font.size": 8.5,
    "font.family": "sans-serif",
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "svg.fonttype": "none",  # words stay words: they can be searched, read aloud and drawn by any system
    "figure.facecolor": "white",
}


def look(index: int) -> tuple[str, str, object]:
    """Return the color, marker and line of the ``index``-th of several."""
    return COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)], LINES[index % len(LINES)]


def blank(width: float = 4.2, height: float = 3.2, **options: object) -> tuple[Figure, Axes]:
    """Return a figure of ``width`` by ``height`` inches with one pair of axes."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot(**options)
    return figure, axes


def titled(axes: Axes, words: str) -> None:
    """Write what a drawing shows above it."""
    axes.set_title(words, fontsize=9)


def below(figure: Figure, columns: int) -> None:
    """Explain the marks below the drawing."""
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=7.5, handlelength=2.4)


def grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Return a figure of ``rows`` by ``columns`` axes without frames, for pixels."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
        axes = figure.subplots(rows, columns, squeeze=False)
    for a in axes.ravel():
        a.set_axis_off()
    return figure, axes


def panel(figure: Figure, name: str, alt: str, *, is_pixels: bool = False, dpi: int = 160) -> Panel:
    """Return the drawing; ``is_pixels``: as PNG alone. The same figure gives the same bytes."""
    width, height = (float(v) for v in figure.get_size_inches())

    def draw(kind: str) -> bytes:
        out = io.BytesIO()
        none = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
        with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
            figure.savefig(out, format=kind, dpi=dpi, metadata=none)
        return out.getvalue() if kind == "png" else _inlined(out.getvalue().decode(), name, alt).encode()

    return Panel(name, alt, (width, height), is_pixels, draw)


def _inlined(svg: str, name: str, alt: str) -> str:
    """Return the <svg> element alone, its ids unique in a page, with words for those who cannot see it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)  # the page gives the width
    title = f'<title id="{name}-title">{_escaped(alt)}</title>'
    head, _, rest = svg.partition(">")
    return f'{head} role="img" aria-labelledby="{name}-title">{title}{rest}'


def _escaped(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def label_points(
    axes: Axes,
    places: Sequence[tuple[float, float, str]],
    bars: Sequence[tuple[float, float, float]] = (),
    *,
    size: float = 7.5,
) -> None:
    """Write a word at each place (x, y, word), off places, ``bars`` (x, low, high) and words where it can."""
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    axes.figure.draw_without_rendering()
    points = [axes.transData.transform((x, y)) for x, y, _ in places]
    frame = axes.get_window_extent(renderer)
    taken: list[tuple[float, float, float, float]] = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    steps = (
        (6, 5),
        (6, -5),
        (-6, 5),
        (-6, -5),
        (0, 10),
        (0, -10),
        (8, 14),
        (-8, 14),
        (8, -14),
        (-8, -14),
        (10, 24),
        (-10, 24),
        (10, -24),
        (-10, -24),
        (14, 36),
        (14, -36),
        (-14, 36),
        (-14, -36),
    )
    for x, low, high in bars:
        (at, bottom), (_, top) = axes.transData.transform([(x, low), (x, high)])
        taken.append((at - 2, bottom, at + 2, top))
    for x, y, words in places:
        best, least = None, np.inf
        for dx, dy in steps:
            side = "left" if dx > 0 else "right" if dx < 0 else "center"
            text = axes.annotate(
                words, (x, y), (dx, dy), textcoords="offset points", ha=side, va="center", fontsize=size,
                color="#111111",
                arrowprops={"arrowstyle": "-", "lw": 0.4, "color": GREY} if abs(dy) > 12 else None,
            )  # fmt: skip
            text.set_in_layout(False)
            box = _text_box(text, renderer)
            cost = sum(_overlap(box, other) for other in taken) + 10 * _outside(box, frame)
            if cost < least:
                if best is not None:
                    best[0].remove()
                best, least = (text, box), cost
            else:
                text.remove()
            if least == 0:
                break
        if best is not None:
            taken.append(best[1])


def _text_box(text: object, renderer: object) -> tuple[float, float, float, float]:
    from matplotlib.text import Text

    text.update_positions(renderer)  # type: ignore[attr-defined]
    box = Text.get_window_extent(text, renderer)  # type: ignore[arg-type]
    return (box.x0, box.y0, box.x1, box.y1)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: tuple[float, ...], frame: object) -> float:
    """How far a box reaches out of the axes, pixels."""
    return sum(
        max(0.0, v)
        for v in (frame.x0 - box[0], frame.y0 - box[1], box[2] - frame.x1, box[3] - frame.y1)  # type: ignore[attr-defined]
    )
