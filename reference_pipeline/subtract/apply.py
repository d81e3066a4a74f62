"""A varying kernel applied to a whole image, tile by tile with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2

from ..frame import unit_coordinates
from ..polynomials import legendre_terms
from .kernel import Kernel

Pixels = NDArray[np.float32]
TILE = 1024  # pixels a side
VARIANCE_TILE = 256  # over which the kernel that variance is convolved with is taken as constant


def likeness(image: Pixels, kernel: Kernel, *, tile: int = TILE) -> Pixels:
    """Return K applied to ``image`` plus B, (ny, nx) float32; pixels must be finite, outside counts as 0.

    One transform of each tile with its margin, one product and one inverse for each term of the kernel.
    """
    out = np.empty(image.shape, np.float32)
    w = kernel.half_width
    for rows, columns in tiles(image.shape, tile):
        piece = with_margin(image, rows, columns, w)
        size = tuple(next_fast_len(n, real=True) for n in piece.shape)
        transform = rfft2(piece, size, workers=-1)
        u, v = _unit_axes(rows, columns, image.shape)
        terms = legendre_terms(u[None, :], v[:, None], kernel.degree)
        total = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.float32)
        for i, term in enumerate(kernel.images):
            spread = irfft2(transform * rfft2(term.astype(np.float32), size), size, workers=-1)
            inside = spread[2 * w : piece.shape[0], 2 * w : piece.shape[1]]
            total += inside * terms[..., i].astype(np.float32)
        background = legendre_terms(u[None, :], v[:, None], kernel.background_degree) @ kernel.background
        out[rows, columns] = total + background.astype(np.float32)
    return out


def convolved_variance(variance: Pixels, kernel: Kernel, *, tile: int = VARIANCE_TILE) -> Pixels:
    """Return the variance of K applied to an image whose independent pixels have ``variance``."""
    out = np.empty(variance.shape, np.float32)
    w = kernel.half_width
    for rows, columns in tiles(variance.shape, tile):
        piece = with_margin(variance, rows, columns, w)
        size = tuple(next_fast_len(n, real=True) for n in piece.shape)
        here = kernel.at((columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2)
        spread = irfft2(rfft2(piece, size) * rfft2(np.square(here).astype(np.float32), size), size)
        out[rows, columns] = np.maximum(spread[2 * w : piece.shape[0], 2 * w : piece.shape[1]], 0)
    return out


def tiles(shape: tuple[int, ...], size: int) -> Iterator[tuple[slice, slice]]:
    """Yield (rows, columns) of tiles that cover an image of ``shape`` (ny, nx)."""
    ny, nx = shape
    for top in range(0, ny, size):
        for left in range(0, nx, size):
            yield slice(top, min(ny, top + size)), slice(left, min(nx, left + size))


def with_margin(image: Pixels, rows: slice, columns: slice, margin: int) -> Pixels:
    """A tile with ``margin`` pixels more on each side; 0 where the image ends."""
    ny, nx = image.shape
    top, bottom = max(0, rows.start - margin), min(ny, rows.stop + margin)
    left, right = max(0, columns.start - margin), min(nx, columns.stop + margin)
    out = np.zeros(
        (rows.stop - rows.start + 2 * margin, columns.stop - columns.start + 2 * margin), np.float32
    )
    y, x = top - rows.start + margin, left - columns.start + margin
    out[y : y + bottom - top, x : x + right - left] = image[top:bottom, left:right]
    return out


def _unit_axes(
    rows: slice, columns: slice, shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ny, nx = shape
    u, _ = unit_coordinates(np.arange(columns.start, columns.stop), 0.0, (ny, nx))
    _, v = unit_coordinates(0.0, np.arange(rows.start, rows.stop), (ny, nx))
    return u, v
