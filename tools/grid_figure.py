"""Draw the two figures that explain the grid: docs/figures/grid and docs/figures/packing, as SVG and PNG.

    .venv/bin/python tools/grid_figure.py [FOLDER]

The figures are those of S = 8 and L = 3; every place in them comes from `multiscale`, not from the drawing.
The same versions of matplotlib and fonts give the same files.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from multiscale import Geometry, Placement
from multiscale.geometry import level_coordinates

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "figures"
GEOMETRY = Geometry(size=8, n_levels=3, pixel_scale=1.0)
PLACE = Placement.at(49.86, 49.19)  # the object, in the survey's image
S, L = GEOMETRY.size, GEOMETRY.n_levels

COLORS = ("#2b6cb0", "#3a9a78", "#d08a1d")  # of the levels
PALE = ("#d6e4f3", "#d8eee5", "#f8e8cc")
INK, OBJECT = "#1a1a1a", "#c2185b"


def panel(figure, x, y, side, *, height=None):
    """Return axes without a frame, `side` inches wide, its lower left at (x, y) inches."""
    width, full_height = figure.get_size_inches()
    axes = figure.add_axes((x / width, y / full_height, side / width, (height or side) / full_height))
    axes.set_axis_off()
    return axes


def pixels(axes, x, y, width, n, color, *, lw=0.5):
    """Draw n x n pixels of `width`, the first beginning at (x, y)."""
    for edge in range(n + 1):
        at = edge * width
        axes.plot([x + at] * 2, [y, y + n * width], color=color, lw=lw, solid_capstyle="butt")
        axes.plot([x, x + n * width], [y + at] * 2, color=color, lw=lw, solid_capstyle="butt")


def box(axes, x, y, width, **style):
    axes.add_patch(Rectangle((x, y), width, width, **style))


def marks(axes, corner, position, *, size=1.0):
    """Mark the shared corner and the object."""
    axes.plot(*corner, "o", color=INK, ms=6 * size, zorder=5)
    axes.plot(*position, "+", color=OBJECT, ms=13 * size, mew=2.2 * size, zorder=6)


def heading(axes, text, *, pad=6):
    axes.set_title(text, fontsize=10.5, fontweight="bold", loc="left", color=INK, pad=pad)


def draw_footprints(axes):
    """All levels in the pixels of the survey's image, relative to the shared corner."""
    for level in reversed(range(L)):
        width = 2**level
        low = -S // 2 * width
        box(axes, low, low, S * width, fc=PALE[level], ec="none")
        pixels(axes, low, low, width, S, COLORS[level])
        box(axes, low, low, S * width, fc="none", ec=COLORS[level], lw=2.2)
    marks(axes, (0, 0), (PLACE.dx, PLACE.dy))
    half = GEOMETRY.span_px / 2
    for level in range(L):
        reach, y = S // 2 * 2**level, -half - 1.5 - 1.6 * level
        name = {"fontsize": 9, "color": COLORS[level], "fontweight": "bold", "va": "top"}
        back = {"fc": PALE[level], "ec": "none", "pad": 1.5}
        axes.text(-reach + 0.35, reach - 0.35, f"level {level}", **name, bbox=back)
        line = {"arrowstyle": "|-|,widthA=0.25,widthB=0.25", "color": COLORS[level], "lw": 1.6}
        axes.annotate("", (-reach, y), (reach, y), arrowprops={**line, "shrinkA": 0, "shrinkB": 0})
        style = {"fontsize": 8.5, "color": COLORS[level], "ha": "center", "va": "center"}
        back = {"fc": "white", "ec": "none", "pad": 1}
        axes.text(0, y, f"c − {reach} … c + {reach - 1}", **style, bbox=back)
    axes.set(xlim=(-half - 0.3, half + 0.3), ylim=(-half - 6, half + 0.3), aspect="equal", anchor="NW")
    heading(axes, f"Footprints in the image (S = {S}, L = {L})")


def draw_array(axes, level):
    """One level as the array that a reader gets."""
    box(axes, -0.5, -0.5, S, fc=PALE[level], ec="none")
    if level:
        box(axes, S / 4 - 0.5, S / 4 - 0.5, S / 2, fc=PALE[level - 1], ec="none")
    pixels(axes, -0.5, -0.5, 1, S, COLORS[level], lw=0.7)
    if level:
        box(axes, S / 4 - 0.5, S / 4 - 0.5, S / 2, fc="none", ec=COLORS[level - 1], lw=2.2)
    for i in range(S):
        is_center = level and S / 4 <= i < 3 * S / 4
        style = {
            "fontsize": 8,
            "color": COLORS[level - 1] if is_center else INK,
            "ha": "center",
            "va": "center",
        }
        style["fontweight"] = "bold" if is_center else "normal"
        axes.text(i, -1.05, str(i), **style)
        axes.text(-1.0, i, str(i), **style)
    middle = S / 2 - 0.5
    at = [level_coordinates(middle + d, GEOMETRY, level) for d in (PLACE.dx, PLACE.dy)]
    marks(axes, (middle, middle), at, size=0.8)
    axes.set(xlim=(-1.6, S - 0.3), ylim=(-3.1, S - 0.3), aspect="equal")
    axes.text(
        middle, -1.9, f"object at x = {at[0]:.3f}", ha="center", va="center", fontsize=8.5, color=OBJECT
    )
    axes.text(middle, -2.7, f"y = {at[1]:.3f}", ha="center", va="center", fontsize=8.5, color=OBJECT)
    axes.set_title(f"level {level}", fontsize=10, color=COLORS[level], fontweight="bold", pad=2)


def draw_corner(axes):
    """The four level-0 pixels at the shared corner, and dx, dy."""
    for x, y in ((-1, -1), (0, -1), (-1, 0), (0, 0)):
        box(axes, x, y, 1, fc=PALE[0], ec=COLORS[0], lw=1.2)
        axes.plot(x + 0.5, y + 0.5, ".", color=COLORS[0], ms=4)
    dx, dy = PLACE.dx, PLACE.dy
    marks(axes, (0, 0), (dx, dy), size=1.3)
    arrow = {"arrowstyle": "<->", "color": OBJECT, "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
    axes.plot([dx, dx, 0], [0.2, dy, dy], color=OBJECT, lw=0.9, ls=":")
    axes.annotate("", (0, 0.15), (dx, 0.15), arrowprops=arrow)
    axes.annotate("", (-0.15, 0), (-0.15, dy), arrowprops=arrow)
    axes.plot([0, -0.2], [dy, dy], color=OBJECT, lw=0.9, ls=":")
    axes.text(dx / 2, 0.2, "dx", ha="center", va="bottom", color=OBJECT, fontsize=10)
    axes.text(-0.2, dy / 2, "dy", ha="right", va="center", color=OBJECT, fontsize=10)
    style = {"fontsize": 9, "color": COLORS[0]}
    for x, text in ((-0.5, "c − 1"), (0.5, "c")):
        axes.text(x, -1.07, text, ha="center", va="top", **style)
        axes.text(-1.07, x, text, ha="right", va="center", **style)
    axes.text(0, -1.07, "c − ½", ha="center", va="top", fontsize=9, color=INK)
    axes.set(xlim=(-1.5, 1.05), ylim=(-1.3, 1.05), aspect="equal")


def grid():
    """Return the figure of the grid."""
    figure = Figure(figsize=(11.4, 6.75))
    draw_footprints(panel(figure, 0.15, 0.25, 5.1, height=6.15))
    arrays = panel(figure, 5.55, 3.3, 5.8, height=3.1)
    heading(arrays, "The same levels as arrays, [y][x] from 0")
    for level in range(L):
        draw_array(panel(figure, 5.5 + 1.95 * level, 3.6, 1.85, height=2.55), level)
    corner = panel(figure, 5.55, 0.25, 5.8, height=2.7)
    heading(corner, "The four level-0 pixels at the corner")
    draw_corner(panel(figure, 5.5, 0.2, 2.75, height=2.75 * 2.35 / 2.55))
    notes = panel(figure, 8.35, 0.2, 3.0, height=2.55)
    notes.set(xlim=(0, 3.0), ylim=(0, 2.55))
    notes.plot(0.1, 2.3, "o", color=INK, ms=7)
    notes.plot(0.1, 1.56, "+", color=OBJECT, ms=15, mew=2.4)
    words = (
        (
            2.42,
            "the shared corner: c − ½ in the image,\nS/2 − ½ in the array of every level",
            INK,
        ),
        (
            1.62,
            "the object: dx, dy from the corner,\nin level-0 pixels; in level k\nat S/2 − ½ + dx/2ᵏ",
            OBJECT,
        ),
    )
    for y, text, color in words:
        notes.text(0.33, y, text, fontsize=9.3, va="top", color=color, linespacing=1.35)
    for level in (0, 1):
        y = 0.74 - 0.42 * level
        notes.add_patch(Rectangle((0.02, y - 0.2), 0.18, 0.18, fc=PALE[level], ec=COLORS[level], lw=2))
        first, last = S // 4, 3 * S // 4 - 1
        text = f"level {level} is the centre of level {level + 1}:\nits pixels {first} to {last} in each axis"
        notes.text(0.33, y, text, fontsize=9.3, va="top", color=COLORS[level], linespacing=1.25)
    return figure


def sent(level):
    """Return which pixels of a level are sent, (S, S): all but the shared centre."""
    is_sent = np.ones((S, S), bool)
    if level:
        is_sent[S // 4 : 3 * S // 4, S // 4 : 3 * S // 4] = False
    return is_sent


def draw_sent(axes, level, first):
    """One level with the place of each value in the packing; return the place after the last."""
    place = first
    for y, x in np.ndindex(S, S):
        if sent(level)[y, x]:
            box(axes, x, y, 1, fc=PALE[level], ec=COLORS[level], lw=0.7)
            axes.text(x + 0.5, y + 0.48, str(place), ha="center", va="center", fontsize=6.3, color=INK)
            place += 1
        else:
            box(axes, x, y, 1, fc="white", ec="#b9b9b9", lw=0.5)
    if level:
        box(axes, S / 4, S / 4, S / 2, fc="none", ec=COLORS[level - 1], lw=2)
        axes.text(
            S / 2, S / 2, f"not sent:\nmeans of 2 × 2\nof level {level - 1}", ha="center", va="center",
            fontsize=8.5, color=COLORS[level - 1], linespacing=1.3,
            bbox={"fc": "white", "ec": "none", "pad": 1.5},
        )  # fmt: skip
    axes.set(xlim=(-0.1, S + 0.1), ylim=(-0.1, S + 0.1))
    axes.set_title(f"level {level}", fontsize=10, color=COLORS[level], fontweight="bold", pad=3)
    return place


def packing():
    """Return the figure of what is sent."""
    figure = Figure(figsize=(8.9, 4.0))
    places = [0]
    for level in range(L):
        places.append(draw_sent(panel(figure, 0.15 + 2.95 * level, 1.05, 2.7), level, places[-1]))
    assert places[-1] == GEOMETRY.n_values
    axes = panel(figure, 0.15, 0.1, 8.6, height=0.75)
    for level, (start, end) in enumerate(zip(places, places[1:])):
        axes.add_patch(Rectangle((start, 0.4), end - start, 0.6, fc=PALE[level], ec=COLORS[level], lw=1.5))
        text = f"{end - start} values of level {level}"
        axes.text((start + end) / 2, 0.7, text, ha="center", va="center", fontsize=9, color=COLORS[level])
    text = f"{places[-1]} values are sent of {GEOMETRY.n_pixels} pixels:  S² + (L − 1) · ¾ · S²"
    axes.text(0, 0.15, text, fontsize=9.3, va="center", color=INK)
    axes.set(xlim=(-0.6, places[-1] + 0.6), ylim=(0, 1.05))
    return figure


def main(folder):
    """Write the figures."""
    matplotlib.rcdefaults()
    matplotlib.rcParams["svg.hashsalt"] = "multiscale"  # the same names inside the file each time
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in (("grid", grid()), ("packing", packing())):
        figure.savefig(folder / f"{name}.svg", facecolor="white", metadata={"Date": None, "Creator": None})
        figure.savefig(folder / f"{name}.png", dpi=150, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
