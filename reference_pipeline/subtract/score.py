"""What a difference says at each place: whitened, then filtered with the PSF that a new source has in it.

Convolving one of the images correlates its noise. The whitening kernel (DMTN-021; for images with white noise
of variances s² of the target and t² of the convolved image, in Fourier space)

    k(f) = sqrt((s² + t²) / (s² + t² |K(f)|²))

takes that back, so that the filtered image, divided by its noise, is a signal-to-noise ratio everywhere.
Noise that was not white before (resampling) leaves a correlation, which is measured on the whitened sky and
divided out in a second round. What the score's own scatter still differs from one is measured on a mesh.

Kernels and PSF are taken as constant over a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.interpolate import RectBivariateSpline
from scipy.ndimage import median_filter
from scipy.signal import fftconvolve

from ..arrays import namespace
from .apply import Slices, fft_of, over, spectrum, tiles, with_margin
from .kernel import Kernel

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]
Bools = NDArray[np.bool_]

TILE = 256  # pixels a side
MAX_LAG = 6  # pixels, of the correlation that resampling leaves: Lanczos-3 reaches 5
_FLOOR = 0.02  # of the mean power: frequencies that resampling took away are not brought back
_LEAST_CORRELATION = 0.02  # that is worth a second round
_MESH = 128  # pixels a side of a cell in which the score's scatter is measured
_QUANTILE = 0.0692  # the pair of quantiles that tells a normal's sigma best (Mosteller 1946), ...
_SPREAD = 2.963  # ... and how many sigmas apart they are


@dataclass(frozen=True)
class TileFilter:
    """The filters of one tile."""

    place: Slices
    whitening: Floats  # (4 w + 1, 4 w + 1)
    behind: (
        Floats  # whitening after the matching kernel, the same shape: what the convolved image went through
    )
    point: Floats  # PSF of a source of one electron in the whitened difference, (2 half + 1)²


def whitening_kernel(
    matching: Floats, target_variance: float, image_variance: float, colour: Floats | None = None
) -> Floats:
    """Return the whitening kernel in pixels, (4 w + 1, 4 w + 1), for a matching kernel of side 2 w + 1.

    ``colour`` is the autocorrelation that whitening without it leaves, odd sides, 1 in the middle.
    """
    w = matching.shape[0] // 2
    side = 4 * w + 1
    size = 2 * side + 1  # odd, and wide enough that what is cut off is small
    padded = np.zeros((size, size))
    padded[: 2 * w + 1, : 2 * w + 1] = matching
    power = target_variance + image_variance * np.abs(np.fft.fft2(padded)) ** 2
    ratio = (target_variance + image_variance) / power
    if colour is not None:
        padded = np.zeros((size, size))
        padded[: colour.shape[0], : colour.shape[1]] = colour
        shift = (-(colour.shape[0] // 2), -(colour.shape[1] // 2))
        left = np.fft.fft2(np.roll(padded, shift, axis=(0, 1))).real
        ratio /= np.maximum(left, _FLOOR)
    kernel = np.fft.fftshift(np.fft.ifft2(np.sqrt(ratio)).real)
    middle, half = size // 2, side // 2
    return kernel[middle - half : middle + half + 1, middle - half : middle + half + 1]


def tile_filters(
    shape: tuple[int, int],
    kernel: Kernel,
    noise: Callable[[Slices], tuple[float, float]],
    psf_at: Callable[[float, float], Floats],
    colour: Floats | None = None,
    *,
    tile: int = TILE,
) -> list[TileFilter]:
    """Return the filters of all tiles of an image of ``shape``.

    ``noise`` gives the variances of the target's and the convolved image's sky in a tile (electrons²),
    ``psf_at`` the PSF of the difference, (2 half + 1)².
    """
    out = []
    for rows, columns in tiles(shape, tile):
        x, y = (columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2
        matching = kernel.at(x, y)
        whitening = whitening_kernel(matching, *noise((rows, columns)), colour)
        behind = np.asarray(fftconvolve(whitening, matching, mode="same"))
        point = np.asarray(fftconvolve(psf_at(x, y), whitening, mode="same"))
        out.append(TileFilter((rows, columns), whitening, behind, point))
    return out


def whiten(difference: Any, filters: list[TileFilter]) -> Any:
    """Return the difference with its noise made white; unusable pixels must be 0 in it."""
    xp = namespace(difference)
    out = xp.empty_like(difference)

    def one(here: TileFilter) -> None:
        out[here.place] = _convolved(difference, here.place, here.whitening)

    over(one, filters, xp)
    return out


def whitened_variance(
    target_variance: Any, image_variance: Any, filters: list[TileFilter], smoothing: Floats
) -> Any:
    """Return the variance of the whitened difference (electrons²) for images of uncorrelated noise.

    Averaged over ``smoothing`` (odd sides, sum 1): a weight that follows a pixel's own noise biases a flux.
    """
    xp = namespace(target_variance)
    out = xp.empty_like(target_variance)

    def one(here: TileFilter) -> None:
        target, image = (
            fftconvolve(smoothing, np.square(kernel)) for kernel in (here.whitening, here.behind)
        )
        total = _convolved(target_variance, here.place, target)
        total += _convolved(image_variance, here.place, image)
        out[here.place] = total

    over(one, filters, xp)
    return out


def matched_filter(whitened: Any, variance: Any, known: Any, filters: list[TileFilter]) -> tuple[Any, Any]:
    """Return (score, flux): the S/N of a point source at each pixel, and its best flux (electrons).

    With d the pixels, V their variance and p the PSF about a place: flux = (sum p d / V) / (sum p² / V),
    score = flux sqrt(sum p² / V). NaN where not ``known``.
    """
    xp = namespace(whitened)
    score, flux = xp.empty_like(whitened), xp.empty_like(whitened)

    def one(here: TileFilter) -> None:
        place, point = here.place, here.point[::-1, ::-1]
        around, spread, use = (
            with_margin(plane, *place, point.shape[0] // 2) for plane in (whitened, variance, known)
        )
        use = use & (spread > 0)
        weight = xp.where(use, 1.0 / xp.where(use, spread, xp.ones_like(spread)), xp.zeros_like(spread))
        signal = _inner(around * weight, point)
        power = _inner(weight, np.square(point))
        told = known[place] & (power > 0)
        root = xp.sqrt(xp.where(told, power, xp.ones_like(power)))
        unknown = xp.full_like(power, xp.nan)
        score[place] = xp.where(told, signal / root, unknown)
        flux[place] = xp.where(told, signal / root**2, unknown)

    over(one, filters, xp)
    return score, flux


def sky_colour(whitened: Pixels, variance: Pixels, known: Bools) -> Floats | None:
    """Return the autocorrelation of the whitened sky at lags up to MAX_LAG, or None where it is white.

    Lags without a significant correlation are 0. Pixels above 4 sigma, which may be sources, do not count.
    """
    products, pairs = 0.0, 0.0
    n, reach = 2 * MAX_LAG + 1, MAX_LAG
    for place in _sample_of(tiles(whitened.shape, 512), 4):
        z = whitened[place] / np.sqrt(np.where(variance[place] > 0, variance[place], 1))
        use = known[place] & (np.abs(z) < 4)
        part, inside = np.where(use, z, 0).astype(np.float32), use.astype(np.float32)
        size = tuple(next_fast_len(side + reach, real=True) for side in part.shape)
        corner = np.ix_(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
        for image, add in ((part, True), (inside, False)):
            lags = irfft2(np.abs(rfft2(image, size)) ** 2, size)[corner]
            products, pairs = (products + lags, pairs) if add else (products, pairs + lags)
    if np.min(pairs) < n * n:
        return None
    middle = (reach, reach)
    correlation = np.asarray(products / pairs, float)
    # What reaches the farthest lags is the sky's level. A kernel this small cannot whiten it; left in and cut
    # off there, it makes negative powers
    edge = np.ones_like(correlation, dtype=bool)
    edge[1:-1, 1:-1] = False
    correlation -= max(float(np.median(correlation[edge])), 0.0)
    correlation /= correlation[middle]
    significant = np.abs(correlation) > np.maximum(4.0 / np.sqrt(pairs), _LEAST_CORRELATION)
    if significant.sum() == 1:
        return None
    return np.where(significant, correlation, 0.0)


def scatter_mesh(score: Pixels) -> Pixels:
    """Return the scatter of the score, like ``score``, from the cells of a mesh; sources count little.

    1 where nothing is known.
    """
    ny, nx = score.shape
    rows, columns = (np.linspace(0, n, max(1, round(n / _MESH)) + 1).astype(int) for n in (ny, nx))
    cells = np.full((len(rows) - 1, len(columns) - 1), np.nan)
    for i in range(cells.shape[0]):
        for j in range(cells.shape[1]):
            part = score[rows[i] : rows[i + 1] : 2, columns[j] : columns[j + 1] : 2]  # neighbours are alike
            part = part[np.isfinite(part)]
            if part.size >= 200:
                low, high = np.quantile(part, [_QUANTILE, 1 - _QUANTILE])
                cells[i, j] = (high - low) / _SPREAD
    told = np.isfinite(cells) & (cells > 0)
    if not told.any():
        return np.ones_like(score)
    cells = np.where(told, cells, np.median(cells[told]))
    cells = median_filter(cells, 3, mode="nearest")
    y, x = ((edges[1:] + edges[:-1] - 1) / 2 for edges in (rows, columns))
    return _spread_out(cells, y, x, (ny, nx))


def resampled_correlation() -> Floats:
    """Autocorrelation of white noise after Lanczos-3, the mean over all shifts: (11, 11), 1 in the middle."""
    phases = (np.arange(64) + 0.5) / 64
    weights = np.zeros((64, 6))
    for tap in range(6):
        d = phases + 2 - tap
        weights[:, tap] = np.sinc(d) * np.sinc(d / 3)
    weights /= weights.sum(axis=1, keepdims=True)
    lags = sum(np.correlate(one, one, mode="full") for one in weights)
    line = np.asarray(lags) / np.max(lags)
    return np.asarray(np.outer(line, line))


def _spread_out(cells: Floats, y: Floats, x: Floats, shape: tuple[int, int]) -> Pixels:
    """Linear between the middles of cells, constant beyond the outermost."""
    if len(y) == 1:
        y, cells = np.array([0.0, 1.0]), np.repeat(cells, 2, axis=0)
    if len(x) == 1:
        x, cells = np.array([0.0, 1.0]), np.repeat(cells, 2, axis=1)
    spline = RectBivariateSpline(y, x, cells, kx=1, ky=1)
    rows, columns = (np.clip(np.arange(n), side[0], side[-1]) for n, side in zip(shape, (y, x)))
    return np.asarray(spline(rows, columns), np.float32)


def _sample_of(places: object, n: int) -> list[Slices]:
    """``n`` of the tiles, spread evenly."""
    listed = list(places)  # type: ignore[call-overload]
    return [listed[i] for i in np.unique(np.linspace(0, len(listed) - 1, n).round().astype(int))]


def _convolved(image: Any, place: Slices, kernel: Floats) -> Any:
    """A tile of ``image`` convolved with a kernel of odd sides; outside counts as 0."""
    return _inner(with_margin(image, *place, kernel.shape[0] // 2), kernel)


def _inner(piece: Any, kernel: Floats) -> Any:
    """A convolution with a kernel of odd sides, where it does not reach out of the piece."""
    reach, fft = kernel.shape[0] - 1, fft_of(namespace(piece))
    ny, nx = piece.shape
    size = next_fast_len(ny, real=True), next_fast_len(nx, real=True)
    transform = fft.fft(fft.rfft(piece, n=size[1], axis=1), n=size[0], axis=0)
    back = fft.ifft(transform * spectrum(kernel, size, piece), axis=0)[reach:ny, :]
    return fft.irfft(back, n=size[1], axis=1)[:, reach:nx]
