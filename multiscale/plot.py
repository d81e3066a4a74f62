"""One alert as a figure: planes by levels, and the mosaic of each plane (specification 2, 9.2).

Every panel is drawn in level-0 pixels relative to the shared corner, so that one point of the sky has the
same coordinates in all of them. x grows to the right and y upwards, as the survey's array; nothing is
rotated. The levels of a plane share one stretch: its background and noise where it has them.

No pyplot: the figures belong to their caller, and no display is needed.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .atomic import replacing
from .cutout import Cutout, Plane
from .errors import ViewError
from .keys import NO_DATA, OFF_IMAGE

try:
    from matplotlib import colormaps
    from matplotlib.colors import FuncNorm, Normalize, to_rgba
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle
    from matplotlib.path import Path as Outline
    from matplotlib.patheffects import withStroke
except ModuleNotFoundError:
    raise ViewError("extra", "no matplotlib", 'matplotlib: pip install "multiscale-stamps[plot]"') from None

_KIND_ORDER = ("SCIENCE", "TEMPLATE", "DIFFERENCE", "SCORE")
_BLOCK_ORDER = ("NONE", "VARIANCE", "MASK")  # side by side: images, their variances, their masks
_COLORMAPS = {"DIFFERENCE": "RdBu_r", "SCORE": "RdBu_r", "VARIANCE": "viridis"}
_SIGNED = frozenset(["DIFFERENCE", "SCORE"])
_BIT_COLORS = tuple(colormaps["tab20"](i) for i in (*range(0, 20, 2), *range(1, 13, 2)))

Colors = Normalize | dict[int, Any]  # of an image; of the bits of a mask

_INK, _PALE = "#1a1a1a", "#6b6b6b"
_INVALID, _HATCH = "#f3e7c9", "#c8a04a"  # ground and lines of invalid pixels
_OBJECT, _FINER, _END = "#00b3a4", "#e69f00", "#d81b60"  # told apart with any colour vision
_STROKE = withStroke(linewidth=2.5, foreground="white")

# Inches.
_SCREEN = (13.5, 8.0)  # what a figure should fit
_PANEL = (1.05, 1.75)  # side of a panel, at least and at most
_MARGIN, _LABEL, _GAP = 0.12, 1.05, 0.07  # around all; left of a block; between panels
_BAR, _BITS = 0.80, 1.30  # the colour bar and its numbers; the names of bits
_HEADING, _LINE, _TITLES, _BOTTOM = 0.55, 0.16, 0.42, 0.58  # with one line; more; column titles; legend


@dataclass(frozen=True)
class Row:
    """One plane, ready to draw."""

    plane: Plane
    levels: np.ndarray  # (L, S, S), finest first; a variance times 4^level

    @property
    def name(self) -> str:
        """The plane's name: "science", or "variance of science"."""
        return self.plane.kind.lower() + (f"\nof {self.plane.of.lower()}" if self.plane.of != "NONE" else "")


@dataclass(frozen=True)
class Layout:
    """Where panels are: blocks of rows, all in inches from the lower left of the figure."""

    blocks: tuple[tuple[Row | None, ...], ...]  # None: no plane in this place
    n_columns: int
    panel: float = 0.0  # side of a panel
    heading: float = _HEADING  # height above the column titles

    @property
    def rows(self) -> list[Row]:
        """All rows, block by block."""
        return [row for block in self.blocks for row in block if row is not None]

    @property
    def beside(self) -> float:
        """Width of a block without its panels."""
        return _LABEL + (_BITS if any(row.plane.kind == "MASK" for row in self.rows) else _BAR)

    @property
    def block_width(self) -> float:
        """From the labels of a block to the numbers of its colour bar."""
        return self.beside + self.n_columns * (self.panel + _GAP)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        height = self.heading + _TITLES + len(self.blocks[0]) * (self.panel + _GAP) + _BOTTOM
        return 2 * _MARGIN + len(self.blocks) * self.block_width, height

    @property
    def largest_panel(self) -> float:
        """The side at which the figure just fits a screen."""
        width, height = replace(self, panel=-_GAP).size  # of all that is no panel
        across, down = self.n_columns * len(self.blocks), len(self.blocks[0])
        return min((_SCREEN[0] - width) / across, (_SCREEN[1] - height) / down) - _GAP

    def corner(self, block: int, row: int, column: int) -> tuple[float, float]:
        """Return the lower left of a panel; column ``n_columns`` is the place of the colour bar."""
        x = _MARGIN + block * self.block_width + _LABEL + column * (self.panel + _GAP)
        return x, _BOTTOM + (len(self.blocks[0]) - 1 - row) * (self.panel + _GAP)


def plot_alert(cutout: Cutout, *, title: str | None = None) -> Figure:
    """Return a figure of all planes of ``cutout``: levels, mosaic, object, scale bars, compass.

    Marked are the object (where its position is known), the footprint of the next finer level, invalid
    pixels (hatched), and the sides at which the given image ended. Raises ViewError when there is no
    plane, StampError when one is refused.
    """
    if not cutout.planes:
        raise ViewError("no-plane", "no planes", "at least one", "planes")
    layout = _layout(cutout)
    summary = textwrap.wrap(_summary(cutout), int((layout.size[0] - 1) / 0.062), break_on_hyphens=False)
    layout = replace(layout, heading=_HEADING + (len(summary) - 1) * _LINE)
    figure = Figure(figsize=layout.size)
    for b, block in enumerate(layout.blocks):
        for r, row in enumerate(block):
            if row is not None:
                _draw_row(figure, layout, cutout, row, b, r)
    _draw_heading(figure, layout, title, summary)
    _draw_compass(figure, layout, cutout)
    _draw_legend(figure, layout, cutout)
    return figure


def save_png(cutout: Cutout, path: str | Path, *, title: str | None = None, dpi: int = 120) -> None:
    """Write ``plot_alert`` to ``path`` as PNG, whole or not at all. Raises as it does, and OSError."""
    figure = plot_alert(cutout, title=title)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi, facecolor="white")


# Layout


def _layout(cutout: Cutout) -> Layout:
    """Return where all is: variances and masks beside their images or below, which gives larger panels."""
    rows: dict[tuple[str, str], Row] = {(p.kind, p.of): _row(cutout, p) for p in cutout.planes}
    owners = [kind for kind in _KIND_ORDER if any(kind in key for key in rows)]
    blocks = [
        [rows.get((owner, "NONE") if kind == "NONE" else (kind, owner)) for owner in owners]
        for kind in _BLOCK_ORDER
    ]
    beside = tuple(tuple(block) for block in blocks if any(block))
    below = (tuple(row for group in zip(*beside, strict=True) for row in group if row),)
    layouts = [Layout(arranged, cutout.n_levels + 1) for arranged in (beside, below)]
    best = max(layouts, key=lambda layout: layout.largest_panel)
    return replace(best, panel=min(max(best.largest_panel, _PANEL[0]), _PANEL[1]))


def _row(cutout: Cutout, plane: Plane) -> Row:
    """Return what is drawn of a plane. A variance falls by 4 a level where noise is white: times 4^level."""
    levels = cutout.levels(plane.kind, plane.of)
    if plane.kind == "VARIANCE":
        levels = levels * 4.0 ** np.arange(len(levels))[:, None, None]
    return Row(plane, levels)


# One row


def _draw_row(figure: Figure, layout: Layout, cutout: Cutout, row: Row, b: int, r: int) -> None:
    """Draw the label, the panels and the colour bar of one plane."""
    x, y = layout.corner(b, r, 0)
    _draw_label(figure, row, x - _LABEL, y + layout.panel)
    is_mask = row.plane.kind == "MASK"
    colors: Colors = mask_colors(row.plane, row.levels) if is_mask else stretch(row.plane, row.levels)
    is_first = not any(layout.blocks[b][:r])
    is_last = not any(layout.blocks[b][r + 1 :])
    shown = None
    for column in range(layout.n_columns):
        axes = _axes(figure, *layout.corner(b, r, column), layout.panel, layout.panel)
        for level in _levels_shown(cutout, column):
            shown = _draw_level(axes, cutout, row, level, _width(cutout, column), colors)
        _draw_marks(axes, cutout, column)
        if is_first:
            axes.set_title(_column_title(cutout, column), fontsize=8, color=_INK, pad=4, linespacing=1.25)
        if is_last:
            _draw_scale_bar(axes, cutout, _width(cutout, column), below=0.11 / layout.panel)
    x, y = layout.corner(b, r, layout.n_columns)
    if isinstance(colors, dict):
        _draw_bits(figure, row.plane, colors, x, y, layout.panel)
    else:
        _draw_color_bar(figure, shown, colors, x, y, layout.panel)


def _levels_shown(cutout: Cutout, column: int) -> Sequence[int]:
    """Return the levels that a column shows: one, or for the mosaic all, the finest drawn last."""
    return range(cutout.n_levels - 1, -1, -1) if column == cutout.n_levels else (column,)


def _width(cutout: Cutout, column: int) -> int:
    """Return the width in level-0 pixels of what a column shows: a level, or the mosaic last."""
    return cutout.size << min(column, cutout.n_levels - 1)


def _column_title(cutout: Cutout, column: int) -> str:
    """Return the column's level and the width of its pixels, or of the whole for the mosaic."""
    scale = cutout.pixel_scale
    if column == cutout.n_levels:
        return f"mosaic\n{_number(cutout.geometry.field_of_view)}″ wide"
    return f"level {column}\n{_number(scale * 2**column)}″ pixels"


def _axes(figure: Figure, x: float, y: float, width: float, height: float) -> Any:
    """Return axes without ticks at a place in inches."""
    full_width, full_height = figure.get_size_inches()
    axes = figure.add_axes((x / full_width, y / full_height, width / full_width, height / full_height))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(linewidth=0.6, color=_PALE)
    return axes


def _text(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Write text at a place in inches."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, **{"va": "top", "color": _INK, "parse_math": False, **style})


def _draw_label(figure: Figure, row: Row, x: float, top: float) -> None:
    """Write what the plane is, its unit and its statistics left of its panels."""
    plane = row.plane
    _text(figure, x, top, row.name, fontsize=9.5, fontweight="bold", linespacing=1.1)
    lines = [_shortened(plane.unit, 16)] if plane.unit else []
    if plane.background is not None:
        lines.append(f"median {_number(plane.background)}")
    if plane.noise is not None:
        lines.append(f"noise {_number(plane.noise)}")
    if plane.psf_fwhm is not None:
        lines.append(f"FWHM {_number(plane.psf_fwhm)}″")
    if plane.kind == "VARIANCE":
        lines.append("shown × 4^level")
    lines.append(plane.encoding)
    below = 0.19 * (1 + row.name.count("\n")) + 0.02
    _text(figure, x, top - below, "\n".join(lines), fontsize=7.5, color=_PALE, linespacing=1.35)


# Pixels


def stretch(plane: Plane, levels: np.ndarray) -> Normalize:
    """Return what maps the values of a plane to colours: asinh about its background, linear within 2 sigma.

    From 4 sigma below the background to the brightest valid pixel (a variance: of level 0, as coarse pixels
    at an edge stand out); a difference or score is symmetric about 0. Background and noise are measured on
    level 0 where the plane has none.
    """
    values = levels[np.isfinite(levels)].astype(float)
    if not values.size:
        return Normalize(0, 1)
    middle, sigma = _middle_and_sigma(plane, levels[0], values)
    brightest = np.percentile(values, 90) if plane.kind == "VARIANCE" else values.max()
    high = max(float(brightest), float(np.nanmax(levels[0], initial=-np.inf)), middle + 4 * sigma)
    low = min(max(float(values.min()), middle - 4 * sigma), middle - sigma)
    if plane.kind in _SIGNED:
        middle, high = 0.0, max(float(np.abs(values).max()), 4 * sigma)
        low = -high

    def forward(value: Any) -> Any:
        return np.arcsinh((np.asarray(value, float) - middle) / (2 * sigma))

    def inverse(value: Any) -> Any:
        return middle + 2 * sigma * np.sinh(value)

    return FuncNorm((forward, inverse), vmin=low, vmax=high)


def _middle_and_sigma(plane: Plane, finest: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return the plane's background and noise, or robust estimates; sigma is above 0."""
    valid = finest[np.isfinite(finest)].astype(float)
    valid = valid if valid.size else values
    middle = float(np.median(valid)) if plane.background is None else plane.background
    spread = 1.4826 * float(np.median(np.abs(valid - middle)))
    candidates = (plane.noise or 0.0, spread, float(valid.std()), float(values.std()))
    sigma = next((s for s in candidates if s > 1e-6 * abs(middle) and s > 0), 0.0)
    return middle, sigma or abs(middle) or 1.0


def _draw_level(axes: Any, cutout: Cutout, row: Row, level: int, panel_width: int, colors: Colors) -> Any:
    """Draw a level about the shared corner, in a panel that is ``panel_width`` level-0 pixels wide."""
    image, width = row.levels[level], _width(cutout, level)
    half = width / 2
    place = {"extent": (-half, half, -half, half), "origin": "lower", "interpolation": "nearest"}
    if isinstance(colors, dict):
        shown = axes.imshow(_mask_image(image, colors), **place)
        is_hidden = _bits_named(row.plane, OFF_IMAGE, NO_DATA) & image != 0
    else:
        shown = axes.imshow(image, norm=colors, cmap=_COLORMAPS.get(row.plane.kind, "gray"), **place)
        is_hidden = ~np.isfinite(image)
    if is_hidden.any():
        axes.imshow(_hatching(is_hidden, width / panel_width), **place)
    return shown


def _hatching(where: np.ndarray, share: float) -> np.ndarray:
    """Return an RGBA image, finer than ``where`` (n, n), hatched where it is true, else clear.

    ``share``: how much of the panel's width it takes; the lines are as far apart in every panel.
    """
    repeat = max(1, round(256 * share / len(where)))
    fine = np.kron(where, np.ones((repeat, repeat), bool))
    y, x = np.indices(fine.shape)
    period = max(4, round(len(fine) / (20 * share)))
    is_line = (x + y) % period < max(1, period // 5)
    out = np.zeros((*fine.shape, 4))
    out[fine] = to_rgba(_INVALID)
    out[fine & is_line] = to_rgba(_HATCH)
    return out


def mask_colors(plane: Plane, levels: np.ndarray) -> dict[int, Any]:
    """Return the bits that are set somewhere in a mask, the most frequent first, each with its colour.

    The reserved bits are not among them: they are drawn as invalid pixels are.
    """
    reserved = _bits_named(plane, OFF_IMAGE, NO_DATA)
    counts = {bit: int((levels >> bit & 1).sum()) for bit in range(16) if not reserved >> bit & 1}
    present = sorted((bit for bit in counts if counts[bit]), key=lambda bit: -counts[bit])
    return {bit: _BIT_COLORS[bit] for bit in present}


def _mask_image(image: np.ndarray, bits: dict[int, Any]) -> np.ndarray:
    """Return RGBA: each pixel has the colour of the rarest bit that is set in it, white for none."""
    out = np.ones((*image.shape, 4))
    for bit, color in bits.items():
        out[image >> bit & 1 == 1] = to_rgba(color)
    return out


def _bits_named(plane: Plane, *names: str) -> int:
    return sum(1 << bit for bit, name in enumerate(plane.mask_bits) if name in names)


def _draw_bits(figure: Figure, plane: Plane, bits: dict[int, Any], x: float, y: float, height: float) -> None:
    """List the names of the bits that occur, in the place of a colour bar."""
    top, step = y + height, 0.155
    most = max(1, int(height / step))
    named = [(bits[bit], _bit_name(plane, bit)) for bit in bits]
    if len(named) > most:
        named = [*named[: most - 1], (None, f"and {len(named) - most + 1} more")]
    if not named:
        _text(figure, x + 0.05, top, "no bit set", fontsize=7, color=_PALE)
    for i, (color, name) in enumerate(named):
        if color is not None:
            box = _axes(figure, x + 0.05, top - (i + 0.8) * step, 0.1, 0.1)
            box.set_facecolor(color)
        _text(figure, x + 0.21, top - (i + 0.09) * step, _shortened(name, 17), fontsize=6.5)


def _bit_name(plane: Plane, bit: int) -> str:
    name = plane.mask_bits[bit] if bit < len(plane.mask_bits) else ""
    return name or f"bit {bit}"


def _draw_color_bar(figure: Figure, shown: Any, norm: Normalize, x: float, y: float, height: float) -> None:
    """Draw the colour bar of a plane with values at equal distances along it."""
    axes = _axes(figure, x + 0.05, y, 0.09, height)
    bar = figure.colorbar(shown, cax=axes)
    values = [float(norm.inverse(step)) for step in (0.02, 0.25, 0.5, 0.75, 0.98)]
    bar.set_ticks(values, labels=_tick_labels(values))
    bar.minorticks_off()
    axes.tick_params(labelsize=6.5, length=2, width=0.6, pad=2, color=_PALE, labelcolor=_INK)
    bar.outline.set(linewidth=0.6, color=_PALE)


# Marks


def _draw_marks(axes: Any, cutout: Cutout, column: int) -> None:
    """Mark the object, the footprints of finer levels and the sides where the image ended."""
    is_mosaic = column == cutout.n_levels
    for level in range(cutout.n_levels - 1) if is_mosaic else range(column - 1, column):
        if level >= 0:
            side = _width(cutout, level)
            axes.add_patch(Rectangle((-side / 2, -side / 2), side, side, fill=False, ec=_FINER, lw=0.9))
    for line in clip_lines(cutout, _width(cutout, column)):
        axes.plot(*line, color=_END, lw=1.8, solid_capstyle="butt")
    if cutout.dx is not None:
        axes.plot(
            cutout.dx, cutout.dy, ls="", marker=_CROSS, ms=13, mec=_OBJECT, mew=1.3, path_effects=[_STROKE]
        )
    half = _width(cutout, column) / 2
    axes.set(xlim=(-half, half), ylim=(-half, half))


_CROSS = Outline(  # four ticks about a point that stays free
    [(0.35, 0), (1, 0), (-0.35, 0), (-1, 0), (0, 0.35), (0, 1), (0, -0.35), (0, -1)],
    [Outline.MOVETO, Outline.LINETO] * 4,
)


def clip_lines(cutout: Cutout, width: int) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    """Yield the lines ((x, x), (y, y)) at which the given image ends within ``width`` level-0 pixels (2.5).

    Level-0 pixels from the shared corner.
    """
    half, span = width / 2, cutout.geometry.span_px / 2
    c = cutout.clipped
    x_low, x_high = (min(max(x, -half), half) for x in (c.x_low - span, span - c.x_high))
    y_low, y_high = (min(max(y, -half), half) for y in (c.y_low - span, span - c.y_high))
    for clipped, x in ((c.x_low, x_low), (c.x_high, x_high)):
        if clipped and abs(x) < half:
            yield (x, x), (y_low, y_high)
    for clipped, y in ((c.y_low, y_low), (c.y_high, y_high)):
        if clipped and abs(y) < half:
            yield (x_low, x_high), (y, y)


def bar_length(width: float) -> float:
    """Return a round length (1, 2 or 5 times a power of ten) from 0.2 to 0.5 of ``width``."""
    power = 10.0 ** math.floor(math.log10(width / 2))
    return next(step * power for step in (5, 2, 1) if step * power <= width / 2)


def _draw_scale_bar(axes: Any, cutout: Cutout, width: int, *, below: float) -> None:
    """Draw a bar of a round number of arcsec under a panel, ``below`` of its height away."""
    length = bar_length(width * cutout.pixel_scale)
    part = length / (width * cutout.pixel_scale)
    style = {"transform": axes.transAxes, "clip_on": False, "color": _INK}
    axes.plot([0, part], [-below, -below], lw=1.6, solid_capstyle="butt", **style)
    axes.text(part + 0.04, -below, f"{_number(length)}″", va="center_baseline", fontsize=7.5, **style)


def sky_directions(cutout: Cutout) -> dict[str, tuple[float, float]] | None:
    """Return the unit vectors (x, y) of north and east in the array, "N" and "E", at the shared corner."""
    sky = cutout.sky
    if sky is None:
        return None
    cd = np.array([[sky.cd11, sky.cd12], [sky.cd21, sky.cd22]], float)
    per_sky = np.linalg.inv(cd / np.abs(cd).max())  # columns: pixels per step east (xi), north (eta)
    east, north = (column / np.hypot(*column) for column in per_sky.T)
    return {"N": (float(north[0]), float(north[1])), "E": (float(east[0]), float(east[1]))}


# Around the panels


def _draw_heading(figure: Figure, layout: Layout, title: str | None, summary: Sequence[str]) -> None:
    """Write the title and the lines about the grid."""
    top = layout.size[1] - 0.1
    if title:
        title = _shortened(" ".join(title.split("\n")), int((layout.size[0] - 0.9) / 0.105))
        _text(figure, _MARGIN, top, title, fontsize=11, fontweight="bold")
        top -= 0.22
    _text(figure, _MARGIN, top, "\n".join(summary), fontsize=8, color=_PALE, linespacing=1.3)


def _draw_compass(figure: Figure, layout: Layout, cutout: Cutout) -> None:
    """Draw north and east at the upper right, where they are known."""
    directions = sky_directions(cutout)
    if directions is None:
        return
    side, (width, height) = 0.62, layout.size
    axes = _axes(figure, width - side - 0.12, height - side - 0.06, side, side)
    axes.set_axis_off()
    axes.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6))
    origin = -0.5 * sum(map(np.array, directions.values()))
    arrow = {"arrowstyle": "-|>", "color": _INK, "lw": 1, "shrinkA": 0}
    for name, direction in directions.items():
        axes.annotate("", origin + 1.05 * np.array(direction), origin, arrowprops=arrow)
        x, y = origin + 1.4 * np.array(direction)
        axes.text(x, y, name, ha="center", va="center", fontsize=8, color=_INK)


def _summary(cutout: Cutout) -> str:
    """Return a line about the grid, the position and what is missing."""
    position = "object known to a pixel only"
    if cutout.dx is not None and cutout.dy is not None:
        offset = f"({cutout.dx:+.2f}, {cutout.dy:+.2f})".replace("-", "−")
        position = f"object at {offset} px from the shared corner"
    parts = [f"{cutout.n_levels} × {cutout.size} × {cutout.size} pixels", position]
    if cutout.sky is None:
        parts.append("orientation not known")
    parts += [f"{m.kind.lower()} missing ({m.reason.replace('_', ' ').lower()})" for m in cutout.missing]
    return "  ·  ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)  # lines end between parts


def _draw_legend(figure: Figure, layout: Layout, cutout: Cutout) -> None:
    """Explain the marks that occur."""
    handles = list(_handles(layout, cutout))
    width, _ = layout.size
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(_MARGIN / width, 0.0),
        ncols=4 if width > 7 else 2,
        frameon=False,
        fontsize=8,
        borderaxespad=0.2,
        handletextpad=0.5,
        columnspacing=1.6,
        labelspacing=0.25,
        labelcolor=_INK,
    )


def _handles(layout: Layout, cutout: Cutout) -> Iterator[Any]:
    """Yield the entries of the legend."""
    if cutout.dx is not None:
        yield Line2D([], [], ls="", marker=_CROSS, ms=11, mec=_OBJECT, mew=1.3, label="object")
    if cutout.n_levels > 1:
        yield Patch(fc="none", ec=_FINER, label="next finer level")
    if any(not np.isfinite(row.levels).all() for row in layout.rows):
        yield Patch(fc=_INVALID, ec=_HATCH, hatch="/////", lw=0.4, label="no valid pixel")
    if any(cutout.clipped.model_dump().values()):
        ends = {"DETECTOR": "the detector ends", "CUTOUT": "the survey's cutout ends"}
        yield Line2D([], [], color=_END, lw=1.8, label=ends.get(cutout.clipped_by, "the given image ends"))


def _number(value: float) -> str:
    """Return a number with three figures, without an exponent where that is short."""
    text = f"{value:.3g}" if not 1e3 <= abs(value) < 1e6 else f"{value:.0f}"
    return text.replace("-", "−")


def _tick_labels(values: Sequence[float]) -> list[str]:
    """Return numbers with as many digits as tell them apart."""
    step = min(b - a for a, b in zip(values, values[1:]))
    largest = max(map(abs, values))
    if not 1e-3 <= largest < 1e6:
        return [f"{value:.1e}".replace("-", "−") for value in values]
    decimals = max(0, -math.floor(math.log10(step)) + (step < 1)) if step > 0 else 2
    return [f"{value:.{min(decimals, 5)}f}".replace("-", "−") for value in values]


def _shortened(text: str, n: int) -> str:
    return text if len(text) <= n else text[: n - 1] + "…"
