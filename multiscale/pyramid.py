"""From an image to the levels of a stamp (specification, sections 2 and 3).

P_0 is the image on the footprint of the coarsest level, P_{k+1} = reduce(P_k), and level k is the
central S x S pixels of P_k. ``reduce`` is the only statistic; its order of additions is fixed, so that
every language gets the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .arrays import INVALID_LIMIT, all_canonical_finite, array_namespace, block_length, cast, device_of
from .errors import GeometryError, ViewError
from .geometry import Geometry, Placement

KINDS = ("science", "template", "difference", "score", "variance", "mask")
_NOTHING = -0.0  # the one number that changes no sum: with it a sum starts at the first valid pixel (3.2)
_SMALL = 1 << 13  # values, see _sum_in_order
_BLOCK_BYTES = 1 << 20


def check_kind(kind: str) -> str:
    """Return ``kind``; raises GeometryError when it is not one of ``KINDS``."""
    if kind not in KINDS:
        raise GeometryError("unknown-symbol", f"kind {kind!r}", f"one of {', '.join(KINDS)}")
    return kind


def reduce_2x2(image: Any, kind: str = "science", *, has_invalid: bool = True) -> Any:
    """Return the next level of ``image``: (..., 2h, 2w) -> (..., h, w), same dtype.

    ``image`` is canonical float32 (invalid pixels NaN), or uint16 when ``kind`` is "mask". Clauses 3.2
    (mean), 3.3 (variance) and 3.4 (mask). ``has_invalid=False`` says that no pixel is NaN.
    """
    if kind == "mask":
        rows = image[..., 0::2, :] | image[..., 1::2, :]
        return rows[..., 0::2] | rows[..., 1::2]
    return cast(_wide_mean(image, kind, has_invalid=has_invalid), array_namespace(image).float32)


def reduce_into(out: Any, image: Any, kind: str, *, has_invalid: bool) -> None:
    """Fill ``out`` with ``reduce_2x2`` of ``image``."""
    if isinstance(out, np.ndarray) and kind != "mask":
        out[...] = _wide_mean(image, kind, has_invalid=has_invalid)  # rounds as it copies
    else:
        out[...] = reduce_2x2(image, kind, has_invalid=has_invalid)


def _wide_mean(image: Any, kind: str, *, has_invalid: bool) -> Any:
    """Return the mean (3.2), or its variance (3.3), of each 2x2 block as binary64, not yet rounded."""
    if math.prod(image.shape) < _SMALL:  # one conversion: fewer calls, which is what a small array costs
        image = cast(image, array_namespace(image).float64)
    mean = mean_of_four([image[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], kind)
    if has_invalid:
        _mend(mean, image, kind)
    return mean


def _mend(mean: Any, image: Any, kind: str) -> None:
    """Replace in ``mean`` what is NaN because some of four pixels are: by that over the valid ones."""
    xp = array_namespace(image)
    some = mean != mean
    if not xp.any(some):
        return
    if xp is np:  # a quarter of the time of what follows
        index, width = np.flatnonzero(some), mean.shape[-1]
        first = 2 * (index + width * (index // width))  # pixel (0, 0) of each block in the flat image
        below = np.array([[0], [1], [2 * width], [2 * width + 1]])
        np.put(mean, index, mean_of_valid(image.reshape(-1)[first + below], kind))
    else:
        four = xp.stack([image[..., i::2, j::2][some] for i in (0, 1) for j in (0, 1)])
        mean[some] = mean_of_valid(four, kind)


def mean_of_four(four: Sequence[Any], kind: str) -> Any:
    """Return the mean (or its variance) of four pixels, in this order, as binary64; NaN where any is NaN."""
    mean = _sum_in_order(four)
    mean *= 0.0625 if kind == "variance" else 0.25
    return mean


def mean_of_valid(four: Any, kind: str) -> Any:
    """Return ``mean_of_four`` of (4, n) pixels over those of the four that are not NaN."""
    xp = array_namespace(four)
    valid = four == four
    count = xp.sum(cast(valid, xp.float64), axis=0)
    count[count == 0] = math.nan  # none is valid
    filled = xp.where(
        valid, cast(four, xp.float64), xp.asarray(_NOTHING, dtype=xp.float64, device=device_of(four))
    )
    mean = _sum_in_order([filled[i, ...] for i in range(4)])
    mean /= count * count if kind == "variance" else count
    return mean


def _sum_in_order(four: Sequence[Any]) -> Any:
    """Return the sum of four arrays as binary64, added in this order (3.2)."""
    first, second, third, fourth = four
    float64 = array_namespace(first).float64
    if first.dtype == float64:
        total = first + second
    else:
        total = cast(first, float64)
        total += second  # widened as it is added, which is exact
    total += third
    total += fourth
    return total


def _replaced(array: Any, where: Any, value: float) -> Any:
    """Return a copy of ``array`` with ``value`` where ``where`` is true (faster here than xp.where)."""
    out = array_namespace(array).asarray(array, copy=True)
    out[where] = value
    return out


def cut(image: Any, geometry: Geometry, placement: Placement, *, fill: float) -> Any:
    """Return P_0: ``image`` (..., H, W) on the footprint, ``fill`` where it was not given."""
    xp = array_namespace(image)
    height, width = image.shape[-2:]
    half, span = geometry.span_px // 2, geometry.span_px
    # no further off than just outside: the standard allows no slice beyond the array
    x0, y0 = min(max(placement.cx - half, -span), width), min(max(placement.cy - half, -span), height)
    ys, xs = slice(max(y0, 0), min(y0 + span, height)), slice(max(x0, 0), min(x0 + span, width))
    inside = image[..., ys, xs]
    if inside.shape[-2:] == (span, span):
        return inside
    shape = (*image.shape[:-2], span, span)
    out = xp.full(shape, fill, dtype=image.dtype, device=device_of(image))
    rows, columns = inside.shape[-2:]
    if rows and columns:
        top, left = max(-y0, 0), max(-x0, 0)
        out[..., top : top + rows, left : left + columns] = inside
    return out


def build_levels(
    image: Any,
    geometry: Geometry,
    *,
    x: float | None = None,
    y: float | None = None,
    kind: str = "science",
    placement: Placement | None = None,
    outside: int = 0,
) -> Any:
    """Return the levels around position (``x``, ``y``): (..., H, W) -> (..., L, S, S).

    ``image`` is any real array of NumPy, torch or CuPy, indexed [y][x] with pixel centres at integers;
    the result is float32 with invalid pixels NaN, or uint16 for ``kind="mask"`` (``outside`` is the value
    of pixels beyond the image). ``placement`` overrides x and y, for images that were already cut.
    Raises GeometryError when the image has fewer than two axes, the position is not finite, or a mask holds
    anything but integers from 0 to 65535.
    """
    xp = array_namespace(image)
    check_kind(kind)
    if placement is None:
        if x is None or y is None:
            raise GeometryError("position", "no position", "x and y, or placement")
        placement = Placement.at(x, y)
    if len(image.shape) < 2:
        raise GeometryError("geometry", f"shape {tuple(image.shape)}", "(..., H, W)")
    image = as_pixels(image, kind)
    fill = outside if kind == "mask" else math.nan
    batch = tuple(image.shape[:-2])
    shape = (geometry.n_levels, geometry.size, geometry.size)
    if not batch:
        return _build(cut(image, geometry, placement, fill=fill), geometry, kind)
    n = math.prod(batch)
    stack = xp.reshape(image, (n, *image.shape[-2:]))
    out = xp.empty((n, *shape), dtype=image.dtype, device=device_of(image))
    per_block = block_length(stack, _BLOCK_BYTES, 4 * geometry.span_px**2)
    for start in range(0, n, per_block):
        block = slice(start, start + per_block)
        out[block, ...] = _build(cut(stack[block, ...], geometry, placement, fill=fill), geometry, kind)
    return xp.reshape(out, (*batch, *shape))


def as_pixels(image: Any, kind: str) -> Any:
    """Return ``image`` as float32, or as uint16 for a mask. Raises GeometryError for other values."""
    xp = array_namespace(image)
    if kind != "mask":
        if image.dtype == xp.float32:
            return image
        if not xp.isdtype(image.dtype, ("bool", "integral", "real floating")):
            raise GeometryError("geometry", f"an image of {image.dtype}", "real numbers")
        with np.errstate(over="ignore", invalid="ignore"):  # what binary32 cannot hold becomes invalid
            return cast(image, xp.float32)
    if image.dtype == xp.uint16:
        return image
    if not xp.isdtype(image.dtype, ("bool", "integral")):
        raise GeometryError("mask-bits", f"a mask of {image.dtype}", "integers from 0 to 65535")
    out = cast(image, xp.uint16)
    if not xp.all(cast(out, image.dtype) == image):
        raise GeometryError("mask-bits", "a value of more than 16 bits", "integers from 0 to 65535")
    return out


def _build(p: Any, geometry: Geometry, kind: str) -> Any:
    """Return the levels (..., L, S, S) of P_0, shape (..., span, span)."""
    xp = array_namespace(p)
    has_invalid = kind != "mask" and not all_canonical_finite(p)
    if has_invalid:
        p = _canonical_or_nan(p)
    shape = (*p.shape[:-2], geometry.n_levels, geometry.size, geometry.size)
    out = xp.empty(shape, dtype=p.dtype, device=device_of(p))
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        for level in range(geometry.n_levels):
            if level:
                p = reduce_2x2(p, kind, has_invalid=has_invalid)
            low = (p.shape[-1] - geometry.size) // 2
            out[..., level, :, :] = p[..., low : low + geometry.size, low : low + geometry.size]
    if has_invalid:
        out[out != out] = math.nan  # the one NaN of 3.5: an image may hold others
    return out


def _canonical_or_nan(image: Any) -> Any:
    """Return float32 ``image`` with NaN, of whatever bits, in every invalid pixel; itself if so already."""
    xp = array_namespace(image)
    huge = xp.abs(image) >= INVALID_LIMIT  # false for NaN
    return _replaced(image, huge, math.nan) if xp.any(huge) else image


def mosaic(levels: Any, *, max_px: int = 2048) -> Any:
    """Return one image in which the finest level wins (clause 9.2): (..., L, S, S) -> (..., N, N).

    N = S 2^(L - 1) level-0 pixels; coarser pixels are repeated, not interpolated. Raises ViewError
    when N is above ``max_px``, GeometryError for a shape that levels cannot have.
    """
    xp = array_namespace(levels)
    shape = tuple(levels.shape)
    if len(shape) < 3 or shape[-1] != shape[-2]:
        raise GeometryError("geometry", f"levels of shape {shape}", "(..., L, S, S)")
    n_levels, size = shape[-3], shape[-1]
    span = Geometry(size, n_levels).span_px
    if span > max_px:
        raise ViewError("mosaic-size", f"{span} x {span} pixels", f"at most max_px={max_px} a side")
    out = xp.empty((*levels.shape[:-3], span, span), dtype=levels.dtype, device=device_of(levels))
    for level in reversed(range(n_levels)):
        width = size << level
        low = (span - width) // 2
        repeated = xp.repeat(xp.repeat(levels[..., level, :, :], 1 << level, axis=-1), 1 << level, axis=-2)
        out[..., low : low + width, low : low + width] = repeated
    return out
