"""The noise of sums over pixels of a difference, by the frame that it comes from.

The difference is scale (target - K * image). A sum with weights a over its pixels has the variance

    scale² (sum a_i² V_i f² + sum b_j² U_j g²),    b_j = sum_i a_i K_(i - j),

with V and U the variances of target and image: the light of a source that one of them shows is noise behind
that one's filters alone. f and g are the noise factors of a resampling, which took that much from each
pixel and gave it to its neighbours; weights as wide as a PSF get it back.

That holds for what exceeds the sky. The sky's own noise is not predicted but measured, with all that
correlates it: the covariance of neighbours on the empty sky of the difference (``noise_covariance``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import maximum_filter

from ..frame import Frame, unit_coordinates
from ..polynomials import legendre_terms
from ..subtract.difference import BAD, Difference, noise_factor
from ..subtract.kernel import Kernel
from ..subtract.point_source import PartSources

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.intp]

_REACH = 10  # pixels, lags over which noise is taken to be correlated
_TILE = 512  # pixels a side, of the samples of the sky


def covariance_of_sums(
    difference: Difference, science: Frame, correlation: Floats, weights: Floats, x: Floats, y: Floats
) -> Floats:
    """Return the covariance (n, k, k) of sums over the difference with ``weights`` (n, k, s, s), odd sides,
    whose middle pixels are the nearest to (x, y); electrons² times theirs.

    ``science`` is the frame on the difference's grid, ``correlation`` what ``noise_covariance`` gave.
    """
    out = np.empty((*weights.shape[:2], weights.shape[1]))
    for kernel, rows in _kernels(difference, x, y):
        out[rows] = _of_one_kernel(difference, science, correlation, kernel, weights[rows], x[rows], y[rows])
    return out


def _of_one_kernel(
    difference: Difference, science: Frame, correlation: Floats, kernel: Kernel, weights: Floats,
    x: Floats, y: Floats,
) -> Floats:  # fmt: skip
    planes = [science.variance, difference.template_variance]
    factors = [noise_factor(science), float(difference.decision.get("template_noise_factor") or 1.0)]
    if difference.is_template_convolved:
        planes.reverse()
        factors.reverse()
    image_factor, target_factor = factors
    images = np.tensordot(
        legendre_terms(*unit_coordinates(x, y, kernel.shape), kernel.degree), kernel.images, 1
    )
    scale = np.ones(len(x))
    if not difference.is_template_convolved:  # the difference is in the science frame's electrons
        scale = 1.0 / images.sum(axis=(1, 2))
    images *= scale[:, None, None]
    half, w = weights.shape[-1] // 2, kernel.half_width
    image, target = (_stamps(plane, x, y, half + w) for plane in planes)
    image_sky, target_sky = (np.median(stamps, axis=(1, 2)) for stamps in (image, target))
    sky = scale**2 * target_sky + np.square(images).sum(axis=(1, 2)) * image_sky
    noise = _covariance_of(weights, correlation) * sky[:, None, None]
    inner = target[:, w : w + 2 * half + 1, w : w + 2 * half + 1] - target_sky[:, None, None]
    inner *= (scale * target_factor)[:, None, None] ** 2
    noise += np.einsum("naij,nij,nbij->nab", weights, inner, weights, optimize=True)
    before = _correlated(weights, images)
    outer = (image - image_sky[:, None, None]) * image_factor**2
    noise += np.einsum("naij,nij,nbij->nab", before, outer, before, optimize=True)
    return np.asarray(noise)


def _kernels(difference: Difference, x: Floats, y: Floats) -> list[tuple[Kernel, Rows]]:
    """The kernels at the places (x, y), and at which of them; in a refused part, any other's."""
    if isinstance(difference.kernel, Kernel):
        return [(difference.kernel, np.arange(len(x)))]
    assert isinstance(difference.point, PartSources)
    of_part = {id(source): k for source, k in zip(difference.point.sources, difference.kernel)}
    found = []
    for source, rows in difference.point.split(x, y):
        kernel = of_part[id(source)]
        assert kernel is not None
        found.append((kernel, rows))
    return found


def _stamps(plane: NDArray[np.float32], x: Floats, y: Floats, half: int) -> Floats:
    """Pixels about each place, those beyond the edges as at the edges; 0 where nothing is known."""
    ny, nx = plane.shape
    side = np.arange(-half, half + 1)
    rows = np.rint(y).astype(int)[:, None, None] + side[:, None]
    columns = np.rint(x).astype(int)[:, None, None] + side
    values = plane[rows.clip(0, ny - 1), columns.clip(0, nx - 1)].astype(float)
    return np.where(np.isfinite(values), values, 0.0)


def _correlated(weights: Floats, kernels: Floats) -> Floats:
    """sum_i a_i K_(i - j) for all j that it reaches: (n, k, s + 2 w, s + 2 w)."""
    full = weights.shape[-1] + kernels.shape[-1] - 1
    size = (next_fast_len(full, real=True),) * 2
    turned = rfft2(kernels[:, ::-1, ::-1].astype(np.float32), size)
    product = rfft2(weights.astype(np.float32), size) * turned[:, None]
    return np.asarray(irfft2(product, size)[..., :full, :full], float)


def usable(difference: Difference, part: tuple[slice, slice] | None = None) -> Bools:
    """Where a pixel of the difference says something: no bit of BAD, and not the 0 of what is not known."""
    here = part or np.s_[:, :]
    known = (difference.mask[here] & np.uint16(BAD)) == 0
    return np.asarray(known & (difference.data[here] != 0) & (difference.variance[here] > 0))


def noise_covariance(difference: Difference, reach: int) -> Floats:
    """Return the covariance of the pixels of data / sqrt(variance) by lag, from the sky of the difference.

    Up to 16 tiles; without pixels far above the typical variance (stars), without outliers, and without what
    is within ``reach`` pixels of a score of 4 sigma. The lags are [dy, dx] from -10 to 10; 1 at lag 0 and 0
    elsewhere for white noise of the variance that is given.
    """
    side = 2 * _REACH + 1
    products, pairs = np.zeros((side, side)), np.zeros((side, side))
    ny, nx = difference.data.shape
    for top in _starts(ny):
        for left in _starts(nx):
            part = np.s_[top : top + _TILE, left : left + _TILE]
            good = usable(difference, part)
            if not good.any():
                continue
            variance = difference.variance[part]
            good &= variance < 1.5 * np.median(variance[good])
            with np.errstate(invalid="ignore"):
                is_source = np.abs(difference.score[part]) > 4.0
            good &= ~maximum_filter(is_source, 2 * reach + 1)
            if not good.any():
                continue
            z = difference.data[part] / np.sqrt(np.where(good, variance, 1.0))
            middle = np.median(z[good])
            sigma = 1.4826 * np.median(np.abs(z[good] - middle))
            good &= np.abs(z - middle) < 4.0 * sigma
            z = np.where(good, z - middle, 0.0)
            products += _autocorrelation(z)
            pairs += _autocorrelation(good.astype(float))
    if pairs[_REACH, _REACH] < 1000:  # too little sky to learn from
        white = np.zeros((side, side))
        white[_REACH, _REACH] = 1.0
        return white
    return products / np.maximum(pairs, 1.0)


def _covariance_of(weights: Floats, covariance: Floats) -> Floats:
    """Covariance (n, k, k) of the sums with ``weights`` (n, k, s, s) of noise with that covariance by lag."""
    side, reach = weights.shape[-1], covariance.shape[0] // 2
    size = next_fast_len(side + reach, real=True)
    lags = np.zeros((size, size))
    places = np.arange(-reach, reach + 1)
    lags[np.ix_(places, places)] = covariance
    power = np.maximum(rfft2(lags).real, 0.0)  # what noise is left of a measured one
    spread = rfft2(weights, (size, size))
    columns = np.full(size // 2 + 1, 2.0)  # of rfft2: all but the first, and the middle, stand for two
    columns[0] = 1.0
    if size % 2 == 0:
        columns[-1] = 1.0
    return np.asarray(
        np.einsum("naij,nbij,ij->nab", spread, spread.conj(), power * columns, optimize=True).real / size**2
    )


def _autocorrelation(values: Floats) -> Floats:
    size = tuple(next_fast_len(n + _REACH, real=True) for n in values.shape)
    full = irfft2(np.abs(rfft2(values, size)) ** 2, size)
    places = np.arange(-_REACH, _REACH + 1)
    return np.asarray(full[np.ix_(places, places)])


def _starts(n: int) -> list[int]:
    """Up to four evenly placed beginnings of tiles along an axis."""
    if n <= 4 * _TILE:
        return list(range(0, n, _TILE))
    return [int(start) for start in np.linspace(0, n - _TILE, 4)]
