"""Levels to sent values and back (specification, section 4).

Level 0, the finest, is sent whole. Of every coarser level only the pixels outside rows and columns
S/4 to 3S/4 - 1 are sent: the decoder computes that centre from the level before.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from .arrays import all_canonical_finite, array_namespace, block_length, cast, device_of, index_for, same_bits
from .errors import GeometryError, PayloadError
from .geometry import Geometry
from .pyramid import check_kind, mean_of_four, mean_of_valid, reduce_2x2, reduce_into

_SMALL = 1 << 13  # pixels
_BLOCK_BYTES = 1 << 19  # of output: its float64 copies stay in a core's cache


@lru_cache(maxsize=256)
def sent_index(size: int, n_levels: int, shared_center: bool = True) -> np.ndarray:
    """Return, for each sent value in packing order, its index in the flat levels (intp, shape (n,))."""
    sent = np.ones((n_levels, size, size), bool)
    if shared_center:
        sent[1:, size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = False
    index = np.flatnonzero(sent)
    index.flags.writeable = False
    return index


@lru_cache(maxsize=256)
def sent_level(size: int, n_levels: int, shared_center: bool = True) -> np.ndarray:
    """Return the level of each sent value in packing order (int64, shape (n,))."""
    level = sent_index(size, n_levels, shared_center) // (size * size)
    level.flags.writeable = False
    return level


@lru_cache(maxsize=256)
def _source_index(size: int, n_levels: int) -> np.ndarray:
    """Return, for each pixel of the flat levels, the sent value it holds; 0 for pixels of centres."""
    source = np.zeros(n_levels * size * size, np.intp)
    index = sent_index(size, n_levels)
    source[index] = np.arange(index.size)
    source.flags.writeable = False
    return source


def center_slice(size: int) -> slice:
    """Rows, and columns, of the centre of a level k >= 1 (clause 2.3)."""
    return slice(size // 4, 3 * size // 4)


def centers_nest(levels: Any, geometry: Geometry, kind: str = "science") -> Any:
    """Return which stamps of canonical ``levels`` (..., L, S, S) have centres that can be shared (4.3).

    A boolean array of shape (...): every centre equals, bit for bit, the reduction of the level before.
    """
    xp = array_namespace(levels)
    if geometry.n_levels == 1:
        return xp.ones(levels.shape[:-3], dtype=xp.bool)
    has_invalid = kind != "mask" and not all_canonical_finite(levels)
    rebuilt = reduce_2x2(levels[..., :-1, :, :], kind, has_invalid=has_invalid)
    center = center_slice(geometry.size)
    given = levels[..., 1:, center, center]
    if xp is np:  # a view of bits needs a contiguous last axis
        given = np.ascontiguousarray(given)
    return xp.all(same_bits(rebuilt, given), axis=(-3, -2, -1))


def pack(levels: Any, geometry: Geometry, *, kind: str = "science", shared_center: bool = True) -> Any:
    """Return the sent values of canonical ``levels``: (..., L, S, S) -> (..., n), same dtype.

    n is ``geometry.n_values``, or ``geometry.n_pixels`` with ``shared_center=False`` (whole levels).
    Raises GeometryError for another shape or type, and PayloadError("shared-center") when a centre is not
    the reduction of the level before, so that sharing it would lose pixels.
    """
    xp = array_namespace(levels)
    levels = _native(levels, kind)
    shape = (geometry.n_levels, geometry.size, geometry.size)
    if tuple(levels.shape[-3:]) != shape:
        raise GeometryError("geometry", f"levels of shape {tuple(levels.shape)}", f"(..., {shape})")
    batch = tuple(levels.shape[:-3])
    flat = xp.reshape(levels, (-1, geometry.n_pixels))
    if not shared_center:
        return xp.reshape(xp.asarray(flat, copy=True), (*batch, geometry.n_pixels))
    index = index_for(levels, sent_index(geometry.size, geometry.n_levels))
    stack = xp.reshape(levels, (-1, *shape))
    out = xp.empty((stack.shape[0], geometry.n_values), dtype=levels.dtype, device=device_of(levels))
    per_block = block_length(stack, _BLOCK_BYTES, 4 * geometry.n_pixels)
    for start in range(0, stack.shape[0], per_block):
        block = slice(start, start + per_block)
        nests = centers_nest(stack[block, ...], geometry, kind)
        if not xp.all(nests):
            raise PayloadError(
                "shared-center",
                f"stamp {start + int(xp.argmin(cast(nests, xp.int8)))} with levels that do not nest",
                "each centre the reduction of the level before, or shared_center=False",
            )
        out[block, ...] = xp.take(flat[block, ...], index, axis=-1)
    return xp.reshape(out, (*batch, geometry.n_values))


def unpack(values: Any, geometry: Geometry, *, kind: str = "science", shared_center: bool = True) -> Any:
    """Return the levels of sent ``values``: (..., n) -> (..., L, S, S), same dtype.

    ``values`` are canonical float32, or uint16 for ``kind="mask"``. Raises GeometryError for another type,
    and unless n is ``geometry.n_sent(shared_center)``.
    """
    xp = array_namespace(values)
    values = _native(values, kind)
    expected = geometry.n_sent(shared_center)
    if len(values.shape) < 1 or values.shape[-1] != expected:
        raise GeometryError("payload-size", f"values of shape {tuple(values.shape)}", f"(..., {expected})")
    batch = tuple(values.shape[:-1])
    stack = xp.reshape(values, (math.prod(batch), expected))
    shape = (geometry.n_levels, geometry.size, geometry.size)
    out = xp.empty((stack.shape[0], *shape), dtype=values.dtype, device=device_of(values))
    per_block = block_length(stack, _BLOCK_BYTES, 4 * geometry.n_pixels)
    for start in range(0, stack.shape[0], per_block):
        block = slice(start, start + per_block)
        unpack_into(out[block, ...], stack[block, ...], geometry, kind=kind, shared_center=shared_center)
    return xp.reshape(out, (*batch, *shape))


def _native(array: Any, kind: str) -> Any:
    """Return ``array`` in this machine's byte order. Raises GeometryError for a type not of ``kind``."""
    xp = array_namespace(array)
    expected = "uint16" if check_kind(kind) == "mask" else "float32"
    dtype = getattr(xp, expected)
    if array.dtype == dtype:
        return array
    if xp is np and array.dtype.newbyteorder("=") == dtype:
        return array.astype(dtype)
    raise GeometryError("geometry", f"{array.dtype} for kind {kind!r}", expected)


def unpack_into(
    out: Any,
    values: Any,
    geometry: Geometry,
    *,
    kind: str,
    shared_center: bool,
    has_invalid: bool | None = None,
) -> None:
    """Fill ``out`` (N, L, S, S) with the levels of ``values`` (N, n), as :func:`unpack` does.

    ``has_invalid``: whether a value that reaches a centre (:func:`n_reaching`) is NaN, where that is known.
    """
    xp = array_namespace(values)
    size, n_levels = geometry.size, geometry.n_levels
    if not shared_center or n_levels == 1:
        out[...] = xp.reshape(values, out.shape)
        return
    if has_invalid is None:
        has_invalid = kind != "mask" and not all_canonical_finite(values[:, : n_reaching(geometry)])
    if xp is np and len(values) * geometry.n_pixels <= _SMALL and kind != "mask":
        _unpack_small(out, values, geometry, kind, has_invalid)
        return
    source = index_for(values, _source_index(size, n_levels))
    if xp is np:
        np.take(values, source, axis=-1, out=out.reshape(len(out), -1), mode="clip")
    else:
        out[...] = xp.reshape(xp.take(values, source, axis=-1), out.shape)
    center = center_slice(size)
    for level in range(1, n_levels):  # in order: each centre needs the level before
        reduce_into(out[:, level, center, center], out[:, level - 1, :, :], kind, has_invalid=has_invalid)


def _unpack_small(
    out: np.ndarray, values: np.ndarray, geometry: Geometry, kind: str, has_invalid: bool
) -> None:
    """As :func:`unpack_into`: half the time where calls cost more than pixels."""
    sources, places = _gathering(geometry.size, geometry.n_levels, len(values))
    row = np.empty(values.size + sum(four[0].size for four in sources), values.dtype)
    row[: values.size] = values.ravel()
    end = values.size
    for four in sources:
        pixels = row.take(four, mode="clip").astype(np.float64)
        mean = mean_of_four(list(pixels), kind)
        if has_invalid and (some := np.flatnonzero(mean != mean)).size:
            mean[some] = mean_of_valid(pixels[:, some], kind)
        begin, end = end, end + mean.size
        row[begin:end] = mean  # rounds
    row.take(places, mode="clip", out=out)


@lru_cache(maxsize=64)
def _gathering(size: int, n_levels: int, n: int) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Return where pixels lie in one row of all sent values of ``n`` stamps, then centre after centre.

    First, for each level k >= 1, the four pixels under each pixel of its centre, (4, n S^2/4); then all
    pixels, (n, L, S, S).
    """
    index = sent_index(size, n_levels)
    places = np.zeros((n, n_levels, size, size), np.intp)
    places.reshape(n, -1)[:, index] = np.arange(n * index.size).reshape(n, -1)
    end, n_center, sources = n * index.size, size // 2, []
    for level in range(1, n_levels):
        finer = places[:, level - 1]
        four = [finer[:, i::2, j::2].ravel() for i in (0, 1) for j in (0, 1)]
        sources.append(np.stack(four))
        begin, end = end, end + n * n_center**2
        center = places[:, level, center_slice(size), center_slice(size)]
        center[...] = np.arange(begin, end).reshape(n, n_center, n_center)
    return tuple(sources), places


def n_reaching(geometry: Geometry, shared_center: bool = True) -> int:
    """Return how many of the sent values, the first ones, can reach the centre of a coarser level.

    What only the border of the last level holds does not: a ZTF cutout's missing row and column.
    """
    if not shared_center or geometry.n_levels == 1:
        return 0
    return geometry.n_values - 3 * geometry.size**2 // 4
