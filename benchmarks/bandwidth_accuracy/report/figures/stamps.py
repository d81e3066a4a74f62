"""Stamps as pictures: as the survey cut them, as they are sent, as a network sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ..document import Panel
from .style import BLUE, GREEN, GREY, ORANGE, VERMILLION, grid, panel

Pixels = NDArray[np.floating[Any]]
INVALID = "#9ecae1"


def mosaic(levels: Pixels) -> Pixels:
    """Return the levels (L, S, S) of a stamp as one image, S 2^(L-1) a side: the finest there is."""
    n_levels, size, _ = levels.shape
    image = np.kron(levels[-1], np.ones((2 ** (n_levels - 1),) * 2))
    side = image.shape[0]
    for k in range(n_levels - 2, -1, -1):
        finer = np.kron(levels[k], np.ones((2**k, 2**k)))
        begin = (side - size * 2**k) // 2
        image[begin : begin + finer.shape[0], begin : begin + finer.shape[1]] = finer
    return image


def stretch(image: Pixels) -> tuple[float, float, float]:
    """Return the middle, spread and top that a picture is shown with."""
    good = image[np.isfinite(image)]
    if not good.size:
        return 0.0, 1.0, 1.0
    middle = float(np.median(good))
    sigma = 1.4826 * float(np.median(np.abs(good - middle))) or float(good.std()) or 1.0
    return middle, sigma, max(float(np.percentile(good, 99.8)), middle + 5 * sigma)


def show(axes: Axes, image: Pixels, like: Pixels | None = None, *, is_plain: bool = False) -> None:
    """Show an image as asinh of its values over the sky, stretched as ``like``; invalid pixels light blue."""
    colors = matplotlib.colormaps["gray"].with_extremes(bad=INVALID)
    image = np.asarray(image, float)
    if is_plain:
        good = image[np.isfinite(image)]
        low, high = np.percentile(good, (1, 99.7)) if good.size else (0, 1)
        axes.imshow(image, cmap=colors, vmin=low, vmax=high, origin="lower", interpolation="nearest")
        return
    middle, sigma, top = stretch(np.asarray(image if like is None else like, float))
    scaled = np.arcsinh((image - middle) / (2 * sigma))
    axes.imshow(
        scaled, cmap=colors, vmin=np.arcsinh(-1.5), vmax=np.arcsinh((top - middle) / (2 * sigma)),
        origin="lower", interpolation="nearest",
    )  # fmt: skip


def draw_example(
    name: str, title: str, planes: Sequence[str], original: Pixels, sent: Pixels, seen: Pixels
) -> Panel:
    """Draw one stamp, a row for each plane: original, all that is sent, its finest level, what is seen."""
    figure, axes = grid(len(planes), 4, 4.2, 1.08 * len(planes) + 0.42)
    for row, plane, whole, levels, inputs in zip(axes, planes, original, sent, seen):
        show(row[0], whole)
        show(row[1], mosaic(levels), whole)
        show(row[2], levels[0], whole)
        show(row[3], mosaic(inputs), is_plain=True)
        row[0].text(
            0.04, 0.96, plane, transform=row[0].transAxes, va="top", fontsize=6.5, color="#111111",
            bbox={"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 1.2},
        )  # fmt: skip
    for a, words in zip(axes[0], ("original", "sent: all levels", "sent: finest", "as the network sees it")):
        a.set_title(words, fontsize=7)
    figure.suptitle(title, fontsize=8.5)
    shape = " × ".join(map(str, sent.shape[1:]))
    side = original.shape[-1]
    alt = f"{title}: {', '.join(planes)} as cut ({side} pixels a side), as sent ({shape}), as seen."
    return panel(figure, name, alt, is_pixels=True, dpi=130)


def draw_figure_1(name: str, title: str, original: Pixels, levels: Pixels, *, pixel_scale: float) -> Panel:
    """Draw the paper's Figure 1: a stamp, the same at several scales in one, and its levels one by one."""
    n_levels, size, _ = levels.shape
    figure = Figure(figsize=(4.8, 4.4), layout="constrained")
    parts = figure.add_gridspec(2, 2 * n_levels, height_ratios=(2, 1.1))
    left = figure.add_subplot(parts[0, :n_levels])
    right = figure.add_subplot(parts[0, n_levels:])
    show(left, original)
    show(right, mosaic(levels), original)
    colors = (VERMILLION, ORANGE, GREEN, BLUE, GREY)
    for axes, middle, scale in (
        (left, (original.shape[0] - 1) / 2, 1),
        (right, mosaic(levels).shape[0] / 2 - 0.5, 1),
    ):
        for k in range(n_levels):
            half = size * 2**k * scale / 2
            axes.add_patch(
                Rectangle(
                    (middle - half, middle - half),
                    2 * half,
                    2 * half,
                    fill=False,
                    lw=1.1,
                    clip_on=False,
                    ec=colors[k % 5],
                    ls=("-", "--", "-.", ":")[k % 4],
                )
            )
    left.set_title(f"original, {original.shape[-1] * pixel_scale:.0f}″", fontsize=8)
    right.set_title("multi-scale, superimposed", fontsize=8)
    everything = [left, right]
    for k in range(n_levels):
        axes = figure.add_subplot(parts[1, 2 * k : 2 * k + 2])
        show(axes, levels[k], original)
        axes.set_title(f"{size * 2**k * pixel_scale:.0f}″", fontsize=8, color=colors[k % 5])
        everything.append(axes)
    for axes in everything:
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(title, fontsize=8.5)
    views = ", ".join(f"{size * 2**k * pixel_scale:.0f}″" for k in range(n_levels))
    alt = f"{title}. The original, the levels superimposed, and the {n_levels} levels with views of {views}."
    return panel(figure, name, alt, is_pixels=True, dpi=140)


def draw_satellites(name: str, images: Pixels, words: Sequence[str], *, columns: int = 4) -> Panel:
    """Draw the differences of stamps with the words of each above it."""
    rows = -(-len(images) // columns)
    figure, axes = grid(rows, columns, 4.2, 1.22 * rows + 0.1)
    for a, image, text in zip(axes.ravel(), images, words):
        show(a, image)
        a.set_title(text, fontsize=6.5, pad=2)
    return panel(figure, name, f"{len(images)} differences: {'; '.join(words)}.", is_pixels=True, dpi=130)


def draw_wide(name: str, title: str, image: Pixels, *, pixel_scale: float, stamp: float) -> Panel:
    """Draw a wide view; a square shows what the stamp of ``stamp`` arcsec holds."""
    figure, axes = grid(1, 1, 4.2, 4.3)
    a = axes[0, 0]
    show(a, image)
    ny, nx = image.shape
    side = stamp / pixel_scale
    corner = ((nx - 1 - side) / 2, (ny - 1 - side) / 2)
    a.add_patch(Rectangle(corner, side, side, fill=False, lw=1.3, ec=ORANGE))
    a.set_title(f"{title}; {nx * pixel_scale:.0f}″ × {ny * pixel_scale:.0f}″", fontsize=8)
    alt = (
        f"{title}: {nx * pixel_scale:.0f} by {ny * pixel_scale:.0f} arcsec, the stamp's {stamp:.0f}″ marked."
    )
    return panel(figure, name, alt, is_pixels=True, dpi=150)
