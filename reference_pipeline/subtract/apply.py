"""A varying kernel applied to a whole image, tile by tile with bounded memory.

Arrays are numpy's or of another library with the array API (cupy): the result is of the input's. On numpy,
tiles go to as many threads as ``n_threads`` says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import scipy.fft
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray

from ..arrays import namespace
from ..frame import unit_coordinates
from ..psf import exponents
from .kernel import Kernel

Pixels = NDArray[np.float32]
Slices = tuple[slice, slice]
T = TypeVar("T")
R = TypeVar("R")

TILE = 384  # pixels a side on numpy: a transform of it stays in a core's cache
DEVICE_TILE = 2048  # elsewhere: each call to a device costs microseconds, however little it does
VARIANCE_TILE = 256  # over which the kernel that variance is convolved with is taken as constant


def likeness(image: Any, kernel: Kernel, *, tile: int | None = None) -> Any:
    """Return K applied to ``image`` plus B, (ny, nx), in the image's precision; outside counts as 0.

    Pixels must be finite. One transform of each tile with its margin; for each term of the kernel a product
    and an inverse along y; for each power of x an inverse along x.
    """
    xp, w, shape = namespace(image), kernel.half_width, image.shape
    fft = fft_of(xp)
    size, step = layout(shape, tile or (TILE if xp is np else DEVICE_TILE), 2 * w)
    kernels = [spectrum(term, size, image) for term in kernel.images]
    pu, pv = ladders(shape, max(kernel.degree, kernel.background_degree))
    background = _matrix(kernel.background, kernel.background_degree)
    out = xp.empty_like(image)

    def one(place: Slices) -> None:
        rows, columns = place
        height, width = rows.stop - rows.start, columns.stop - columns.start
        us = [like(image, pu[columns, i]) for i in range(pu.shape[1])]
        vs = [like(image, pv[rows, j])[:, None] for j in range(pv.shape[1])]
        piece = with_margin(image, rows, columns, w)
        transform = fft.fft(fft.rfft(piece, n=size[1], axis=1), n=size[0], axis=0)
        b = like(image, pv[rows, : len(background)] @ background)  # (ny, powers of x)
        total = xp.zeros((height, width), dtype=image.dtype)
        for i in range(kernel.degree + 1):
            half = None  # of the terms with this power of x, back along y
            for of_term, (power, j) in zip(kernels, exponents(kernel.degree)):
                if power == i:
                    back = fft.ifft(transform * of_term, axis=0)[2 * w : 2 * w + height, :] * vs[j]
                    half = back if half is None else half + back
            total += fft.irfft(half, n=size[1], axis=1)[:, 2 * w : 2 * w + width] * us[i]
        for i in range(len(background)):
            total += b[:, i : i + 1] * us[i][None, :]
        out[rows, columns] = total

    over(one, tiles(shape, step), xp)
    return out


def convolved_variance(variance: Any, kernel: Kernel, *, tile: int = VARIANCE_TILE) -> Any:
    """Return the variance of K applied to an image whose independent pixels have ``variance``."""
    xp, w = namespace(variance), kernel.half_width
    fft = fft_of(xp)
    size, step = layout(variance.shape, tile, 2 * w)
    out = xp.empty_like(variance)

    def one(place: Slices) -> None:
        rows, columns = place
        here = kernel.at((columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2)
        piece = with_margin(variance, rows, columns, w)
        transform = fft.fft(fft.rfft(piece, n=size[1], axis=1), n=size[0], axis=0)
        transform *= spectrum(np.square(here), size, variance)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        back = fft.ifft(transform, axis=0)[2 * w : 2 * w + height, :]
        spread = fft.irfft(back, n=size[1], axis=1)[:, 2 * w : 2 * w + width]
        out[rows, columns] = xp.where(spread > 0, spread, xp.zeros_like(spread))

    over(one, tiles(variance.shape, step), xp)
    return out


def tiles(shape: tuple[int, ...], size: int | tuple[int, int]) -> Iterator[Slices]:
    """Yield (rows, columns) of tiles of ``size`` that cover an image of ``shape`` (ny, nx)."""
    ny, nx = shape
    height, width = (size, size) if isinstance(size, int) else size
    for top in range(0, ny, height):
        for left in range(0, nx, width):
            yield slice(top, min(ny, top + height)), slice(left, min(nx, left + width))


def with_margin(image: Any, rows: slice, columns: slice, margin: int) -> Any:
    """A tile with ``margin`` pixels more on each side; 0 where the image ends."""
    ny, nx = image.shape
    top, bottom = max(0, rows.start - margin), min(ny, rows.stop + margin)
    left, right = max(0, columns.start - margin), min(nx, columns.stop + margin)
    height, width = rows.stop - rows.start + 2 * margin, columns.stop - columns.start + 2 * margin
    if (bottom - top, right - left) == (height, width):
        return image[top:bottom, left:right]
    out = namespace(image).zeros((height, width), dtype=image.dtype)
    y, x = top - rows.start + margin, left - columns.start + margin
    out[y : y + bottom - top, x : x + right - left] = image[top:bottom, left:right]
    return out


def over(work: Callable[[T], R], items: Iterable[T], xp: Any) -> list[R]:
    """Return ``work`` of each item, in order; on numpy in threads, elsewhere the device has its own."""
    return list(over_in_turn(work, items, xp))


def over_in_turn(work: Callable[[T], R], items: Iterable[T], xp: Any) -> Iterator[R]:
    """Yield what ``over`` returns as it comes, so that one need not keep all."""
    n = n_threads() if xp is np else 1
    if n == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(n) as pool:
        yield from pool.map(work, items)


def n_threads() -> int:
    """How many threads a process may use: what OMP_NUM_THREADS says, else the cores it may run on."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) > 0 else len(os.sched_getaffinity(0))


def fft_of(xp: Any) -> Any:
    """The transforms of a library: scipy's for numpy (single precision, no copies), else its own."""
    return scipy.fft if xp is np else xp.fft


def like(image: Any, values: NDArray[np.generic]) -> Any:
    """Numbers of the host as an array of the library and the precision of ``image``."""
    if isinstance(image, np.ndarray):
        return values.astype(image.dtype, copy=False)
    return namespace(image).asarray(np.ascontiguousarray(values), dtype=image.dtype)


def ladders(shape: tuple[int, ...], degree: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """P_0 to P_degree at each column, (nx, degree + 1), and at each row, (ny, degree + 1)."""
    ny, nx = shape
    u, v = unit_coordinates(np.arange(nx), np.arange(ny), (ny, nx))
    return np.asarray(legvander(u, degree), float), np.asarray(legvander(v, degree), float)


def _matrix(coefficients: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """Coefficients of a polynomial as a matrix (power of y, power of x) of Legendre polynomials."""
    out = np.zeros((degree + 1, degree + 1))
    for value, (i, j) in zip(coefficients, exponents(degree)):
        out[j, i] = value
    return out


def layout(shape: tuple[int, ...], tile: int, margin: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size of the transforms and of the tiles, (y, x): as few tiles as ``tile`` allows, all alike."""
    step = tuple(-(-n // -(-n // tile)) for n in shape)
    size = tuple(scipy.fft.next_fast_len(n + margin, real=True) for n in step)
    return (size[0], size[1]), (step[0], step[1])


def spectrum(term: NDArray[np.float64], size: tuple[int, int], image: Any) -> Any:
    """Transform of a small kernel: along x of its few rows, then along y."""
    fft = fft_of(namespace(image))
    return fft.fft(fft.rfft(like(image, term), n=size[1], axis=1), n=size[0], axis=0)
