"""Sky level and noise of a stamp's footprint (specification 3.7 and 5.6, step 1)."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np

from .arrays import INVALID_LIMIT

MAD_TO_SIGMA = 1.4826  # of a normal distribution
_ABS_BITS = np.int32(0x7FFFFFFF)


def median(values: np.ndarray) -> float:
    """Return the median of a flat float32 array without NaN; of an even number, the mean of the middle two.

    NaN when it is empty.
    """
    return _median(values, np.empty(values.size, np.int32))


def _median(values: np.ndarray, order: np.ndarray, *, is_positive: bool = False) -> float:
    """Return the median of ``values``; ``order`` is int32 room of the same size.

    The bits of a float32 sort as integers do once those of negative numbers are turned around
    (``is_positive``: there are none), and NumPy partitions integers three times faster than floats, which
    it searches for NaN.
    """
    bits = values.view(np.int32)
    if is_positive:
        order[...] = bits
        return _middle(order)
    np.right_shift(bits, 31, out=order)
    order &= _ABS_BITS
    order ^= bits
    return _middle(order)


def _middle(order: np.ndarray) -> float:
    """Return the median of the float32 values that ``order`` stands for, which is left in disorder."""
    n = order.size
    if n == 0:
        return math.nan
    order.partition(n // 2)
    upper = _value(int(order[n // 2]))
    return upper if n % 2 else (_value(int(order[: n // 2].max())) + upper) / 2


def _value(place: int) -> float:
    """Return the float32 that sorts as ``place``; turning the bits around is its own inverse."""
    bits = place if place >= 0 else place ^ 0x7FFFFFFF
    return float(struct.unpack("<f", struct.pack("<i", bits))[0])


def _median_deviation(values: np.ndarray, order: np.ndarray, about: float) -> float:
    """Return the median of |values - about|; overwrites ``values``. What is not negative needs no turn."""
    np.subtract(values, np.float32(about), out=values)
    return _middle(np.bitwise_and(values.view(np.int32), _ABS_BITS, out=order))


def background_and_noise(footprint: np.ndarray) -> tuple[float, float]:
    """Return the median and the robust sigma of the valid pixels of a float32 (H, W) footprint, in its unit.

    The sigma is the smaller of that of the pixels and that of the differences of horizontal and vertical
    neighbours over sqrt(2): a galaxy raises the first, correlated noise lowers the second. Both are NaN
    when no pixel is valid; where no two neighbours are valid the first alone counts.
    """
    [result] = backgrounds_and_noises([footprint])
    return result


def backgrounds_and_noises(footprints: Sequence[np.ndarray]) -> list[tuple[float, float]]:
    """Return :func:`background_and_noise` of each footprint; what they need room for is allocated once."""
    largest = max((footprint.size for footprint in footprints), default=0)
    values, differences = np.empty(largest, np.float32), np.empty(2 * largest, np.float32)
    order = np.empty(2 * largest, np.int32)
    return [_background_and_noise(footprint, values, differences, order) for footprint in footprints]


def _background_and_noise(
    footprint: np.ndarray, values: np.ndarray, differences: np.ndarray, order: np.ndarray
) -> tuple[float, float]:
    height, width = footprint.shape
    if footprint.size == 0:
        return math.nan, math.nan
    values = values[: footprint.size]
    image = values.reshape(height, width)
    image[...] = footprint
    lowest, highest = values.min(), values.max()  # NaN where there is one
    is_whole = bool(highest < INVALID_LIMIT and lowest > -INVALID_LIMIT)
    if not is_whole:
        with np.errstate(invalid="ignore"):
            image[~(np.abs(image) < INVALID_LIMIT)] = math.nan
    n_across, n_along = height * (width - 1), (height - 1) * width
    differences = differences[: n_across + n_along]
    np.subtract(image[:, 1:], image[:, :-1], out=differences[:n_across].reshape(height, width - 1))
    np.subtract(image[1:], image[:-1], out=differences[n_across:].reshape(height - 1, width))
    if not is_whole:
        values, differences = values[values == values], differences[differences == differences]
    background = _median(values, order[: values.size], is_positive=bool(lowest > 0))
    sigma = MAD_TO_SIGMA * _median_deviation(values, order[: values.size], background)
    if differences.size:
        order = order[: differences.size]
        of_differences = _median_deviation(differences, order, _median(differences, order))
        sigma = min(sigma, MAD_TO_SIGMA * of_differences / math.sqrt(2))
    return background, sigma
