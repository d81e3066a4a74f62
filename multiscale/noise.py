"""Sky level and noise of a stamp's footprint (specification 3.7 and 5.6, step 1)."""

from __future__ import annotations

import math

import numpy as np

MAD_TO_SIGMA = 1.4826  # of a normal distribution


def median(values: np.ndarray) -> float:
    """Return the median of a flat float32 array without NaN; of an even number, the mean of the middle two.

    NaN when it is empty. One partition and a maximum: a third of the time of ``numpy.median``.
    """
    n = values.size
    if n == 0:
        return math.nan
    parted = np.partition(values, n // 2)
    upper = float(parted[n // 2])
    return upper if n % 2 else (float(parted[: n // 2].max()) + upper) / 2


def sigma_mad(values: np.ndarray) -> float:
    """Return 1.4826 times the median absolute deviation from the median of a flat float32 array."""
    if values.size == 0:
        return math.nan
    return MAD_TO_SIGMA * median(np.abs(values - np.float32(median(values))))


def background_and_noise(footprint: np.ndarray) -> tuple[float, float]:
    """Return the median and the robust sigma of a canonical float32 (H, W) footprint, in its unit.

    The sigma is the smaller of that of the pixels and that of the differences of horizontal and vertical
    neighbours over sqrt(2): a galaxy raises the first, correlated noise lowers the second. Both are NaN
    when no pixel is valid; where no two neighbours are valid the first alone counts.
    """
    flat = footprint.ravel()
    differences = np.concatenate(
        [(footprint[:, 1:] - footprint[:, :-1]).ravel(), (footprint[1:] - footprint[:-1]).ravel()]
    )
    valid = flat == flat
    if not valid.all():
        flat = flat[valid]
        differences = differences[differences == differences]
    background = median(flat)
    if flat.size == 0:
        return math.nan, math.nan
    sigma = MAD_TO_SIGMA * median(np.abs(flat - np.float32(background)))
    if differences.size:
        sigma = min(sigma, sigma_mad(differences) / math.sqrt(2))
    return background, sigma
