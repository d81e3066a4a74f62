"""What a difference says at each place: whitened, then filtered with the PSF that a new source has in it.

Convolving one of the images correlates its noise. The whitening kernel (DMTN-021; for images with white noise
of variances s² of the target and t² of the convolved image, in Fourier space)

    k(f) = sqrt((s² + t²) / (s² + t² |K(f)|²))

takes that back, so that the filtered image, divided by its noise, is a signal-to-noise ratio everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2

from .apply import TILE, tiles, with_margin
from .kernel import Kernel

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]


def whitening_kernel(matching: Floats, target_variance: float, image_variance: float) -> Floats:
    """Return the whitening kernel in pixels, (4 w + 1, 4 w + 1), for a matching kernel of side 2 w + 1."""
    w = matching.shape[0] // 2
    side = 4 * w + 1
    size = 2 * side + 1  # odd, and wide enough that what is cut off is small
    padded = np.zeros((size, size))
    padded[: 2 * w + 1, : 2 * w + 1] = matching
    power = np.abs(np.fft.fft2(padded)) ** 2
    ratio = (target_variance + image_variance) / (target_variance + image_variance * power)
    kernel = np.fft.fftshift(np.fft.ifft2(np.sqrt(ratio)).real)
    middle, half = size // 2, side // 2
    return kernel[middle - half : middle + half + 1, middle - half : middle + half + 1]


def whiten(
    difference: Pixels, kernel: Kernel, target_variance: float, image_variance: float, *, tile: int = TILE
) -> Pixels:
    """Return the difference with its noise made white; unusable pixels must be 0 in it."""

    def filter_of(x: float, y: float) -> Floats:
        return whitening_kernel(kernel.at(x, y), target_variance, image_variance)

    return correlate(difference, filter_of, 2 * kernel.half_width, tile=tile)


def matched_filter(
    whitened: Pixels,
    variance: Pixels,
    psf_of: Callable[[float, float], Floats],
    half: int,
    *,
    tile: int = TILE,
) -> tuple[Pixels, Pixels]:
    """Return (score, flux): the S/N of a point source at each pixel, and its best flux.

    ``psf_of(x, y)`` is the PSF of the whitened difference, (2 half + 1)² with a sum near one. Weighted with
    1 / variance; infinite variance marks a pixel that says nothing. With d the pixels, V their variance and p
    the PSF about a place: flux = (sum p d / V) / (sum p² / V), score = flux sqrt(sum p² / V).
    """
    weight = np.where(np.isfinite(variance) & (variance > 0), 1.0 / variance, 0.0).astype(np.float32)
    signal = correlate(whitened * weight, psf_of, half, tile=tile)
    power = correlate(weight, lambda x, y: np.square(psf_of(x, y)), half, tile=tile)
    known = power > 1e-3 * np.median(power)
    root = np.sqrt(np.where(known, power, 1.0))
    score = np.where(known, signal / root, np.nan).astype(np.float32)
    flux = np.where(known, signal / root**2, np.nan).astype(np.float32)
    return score, flux


def correlate(
    image: Pixels, filter_of: Callable[[float, float], Floats], half: int, *, tile: int = TILE
) -> Pixels:
    """Return the correlation of ``image`` with a filter of side 2 half + 1 that is constant over a tile."""
    out = np.empty(image.shape, np.float32)
    for rows, columns in tiles(image.shape, tile):
        piece = with_margin(image, rows, columns, half)
        size = tuple(next_fast_len(n, real=True) for n in piece.shape)
        here = filter_of((columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2)
        product = rfft2(piece, size) * rfft2(here[::-1, ::-1].astype(np.float32), size)
        spread = irfft2(product, size, workers=-1)
        out[rows, columns] = spread[2 * half : piece.shape[0], 2 * half : piece.shape[1]]
    return out
