"""The kernel by weighted least squares on stamps around stars: robust, because a bad stamp can be left out.

Each stamp gives its normal equations in the kernel's places once (a polynomial's terms are taken as constant
over a stamp); clipping, weights and chi-square then work on these alone, and never look at pixels again.

The image that is convolved has noise, so least squares shrinks the kernel: with N the noise's part in the
normal matrix G (known from the variance), G k = b has the kernel of (G - N) k = b only where stars outshine
the noise. G - N may be singular; what is solved again instead, a few times, is G k' = b + N k (iterated
Tikhonov regularisation: the penalty N is on the change alone). What stars determine loses its bias, by the
factor N / G each time; what is mere noise stays small. N acts on k smoothed by a pixel, since what biases
fluxes is its sum and its width: brought back to full sharpness, it would bring the image's noise along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.ndimage import uniform_filter
from scipy.signal import fftconvolve

from ..frame import unit_coordinates
from ..polynomials import legendre_terms
from .kernel import Basis

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]

RIDGE = 1e-9  # of the mean of the diagonal: what no star says stays small
N_REFINED = 1  # times that the noise's pull on the kernel is taken back
_LEAST_VARYING = 1e-3  # of the ratio: places that a kernel may hold less of are the same all over a frame
_SMOOTHED = 5  # pixels a side, over which variances are averaged
PULL_SMOOTHING = 0.8  # pixels, sigma
_CHUNK = 16  # stamps whose normal matrices are added at a time


@dataclass(frozen=True)
class Stamps:
    """Normal equations of stamps: of the image at the centre, of each other place less it, of a constant."""

    x: Floats  # (n,) pixels
    y: Floats
    matrix: Floats  # (n, m, m), m = 1 + n_places + 1
    vector: Floats  # (n, m)
    square: Floats  # (n,): weighted sum of the target's squares
    n_pixels: NDArray[np.int64]  # (n,) with weight
    target_noise: Floats  # (n,): weighted sum of the target's variance
    image_noise: (
        Floats  # (n, (2 w + 1)^2): weighted sum of the image's variance at each of the kernel's places
    )

    def __len__(self) -> int:
        return len(self.x)

    def select(self, rows: NDArray[np.generic]) -> Stamps:
        """The stamps of ``rows``."""
        return Stamps(
            self.x[rows], self.y[rows], self.matrix[rows], self.vector[rows], self.square[rows],
            self.n_pixels[rows], self.target_noise[rows], self.image_noise[rows],
        )  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """Coefficients, and what the stamps say of them."""

    coefficients: Floats  # (basis.n_coefficients,)
    used: NDArray[np.bool_]  # (n,): stamps that were not clipped
    chi2: Floats  # (n,): reduced, of every stamp under these coefficients
    condition: float  # of the normal matrix, scaled to a unit diagonal; an estimate from its factor


def stamp_equations(
    target: Pixels,
    image: Pixels,
    target_variance: Pixels,
    image_variance: Pixels,
    good: NDArray[np.bool_],
    x: Sequence[int] | NDArray[np.int64],
    y: Sequence[int] | NDArray[np.int64],
    *,
    half: int,
    half_width: int,
    image_share: float = 0.3,
) -> Stamps:
    """Return the normal equations of stamps of side 2 ``half`` + 1 at pixels (x, y).

    All images are (ny, nx) and in electrons, the variances (of uncorrelated noise) in electrons². They are
    averaged over 5 x 5 pixels, since a weight that follows a pixel's own noise biases what it weighs; then a
    pixel weighs 1 / (target_variance + image_share * image_variance). ``good`` says which pixels of the
    target may be compared: it is false wherever a bad pixel of the image is within ``half_width``. Stamps
    reach ``half`` plus ``half_width`` pixels, which must be inside the frame.
    """
    side, w, width = 2 * half_width + 1, half_width, 2 * half + 1
    n, n_all = len(x), side * side
    matrix, vector = np.zeros((n, n_all + 1, n_all + 1)), np.zeros((n, n_all + 1))
    square, n_pixels = np.zeros(n), np.zeros(n, np.int64)
    target_noise, image_noise = np.zeros(n), np.zeros((n, n_all))
    centre = n_all // 2
    others = np.delete(np.arange(n_all), centre)

    def one(i: int) -> None:
        here = np.s_[y[i] - half : y[i] + half + 1, x[i] - half : x[i] + half + 1]
        around = np.s_[y[i] - half - w : y[i] + half + w + 1, x[i] - half - w : x[i] + half + w + 1]
        use = good[here]
        of_target = uniform_filter(target_variance[here], _SMOOTHED)
        of_image = uniform_filter(image_variance[around], _SMOOTHED)
        inner = of_image[w : w + width, w : w + width]
        noise = np.where(use, of_target + image_share * inner, np.inf)
        weight = 1.0 / noise
        root = np.sqrt(weight)
        # a row for each place, of the image as that place shifts it; the last for a constant
        design = np.empty((n_all + 1, width * width))
        places = design[:-1].reshape(side, side, width, width)
        np.multiply(_shifted(image[around], width), root, out=places)
        design[-1] = root.ravel()
        weighted = np.where(use, target[here], 0.0).ravel() * root.ravel()
        _less_centre(design @ design.T, centre, matrix[i])
        product = design @ weighted
        vector[i, 0], vector[i, -1] = product[centre], product[-1]
        vector[i, 1:-1] = product[others] - product[centre]
        square[i] = weighted @ weighted
        n_pixels[i] = np.count_nonzero(use)
        target_noise[i] = np.sum(weight * np.where(use, of_target, 0.0))
        image_noise[i] = np.einsum("abij,ij->ab", _shifted(of_image, width), weight).ravel()

    for i in range(n):  # not in threads: those of linear algebra would wait for each other
        one(i)
    return Stamps(
        np.asarray(x, float),
        np.asarray(y, float),
        matrix,
        vector,
        square,
        n_pixels,
        target_noise,
        image_noise,
    )


def _shifted(around: Pixels, width: int) -> Floats:
    """Views of a stamp, (side, side, width, width): at [dy, dx] its pixel (y, x) is (y - dy, x - dx)'s."""
    return sliding_window_view(around.astype(float), (width, width))[::-1, ::-1]


def _less_centre(raw: Floats, centre: int, out: Floats) -> None:
    """From products of places and a constant those of the centre, of other places less it, the constant."""
    n = len(raw) - 1
    column, own = raw[centre], raw[centre, centre]
    spans = ((slice(0, centre), slice(1, centre + 1)), (slice(centre + 1, n), slice(centre + 1, n)))
    for rows, to_rows in spans:
        for columns, to_columns in spans:
            block = out[to_rows, to_columns]
            np.subtract(raw[rows, columns], column[rows, None], out=block)
            block -= column[columns] - own
        out[0, to_rows] = out[to_rows, 0] = column[rows] - own
        out[-1, to_rows] = out[to_rows, -1] = raw[-1, rows] - raw[-1, centre]
    out[0, 0], out[-1, -1] = own, raw[-1, -1]
    out[0, -1] = out[-1, 0] = raw[-1, centre]


def fit_stamps(
    stamps: Stamps,
    basis: Basis,
    shape: tuple[int, int],
    *,
    clip: float = 3.0,
    n_rounds: int = 6,
    correlation: Floats | None = None,
    allowed: Floats | None = None,
    among: NDArray[np.bool_] | None = None,
) -> Fit:
    """Return the coefficients of ``basis`` that fit most of the stamps best.

    A stamp whose reduced chi-square is ``clip`` robust sigmas above the others' (of its logarithm) is left
    out, until no more are. ``correlation`` is the autocorrelation of the image's noise, (odd, odd) with 1 in
    the middle; None: white. ``allowed`` is how far each coefficient may be from 0 where the stamps do not
    say better (n_coefficients,), one sigma, 0: not at all, inf: anywhere; None: all anywhere.
    ``among`` says which stamps may be used, (n,); None: all. Raises LinAlgError when the equations cannot be
    solved.
    """
    usable = stamps.n_pixels > 0 if among is None else (stamps.n_pixels > 0) & among
    used = usable
    if not used.any():
        raise LinAlgError("no stamp has a usable pixel")
    terms = _Terms.of(stamps, basis, shape)
    matrix, before = np.zeros((basis.n_coefficients,) * 2), np.zeros(len(used), bool)
    if allowed is None:
        allowed = np.full(len(matrix), np.inf)
    free = allowed > 0
    matrix[free, free] = 1.0 / np.square(allowed[free])
    for _ in range(n_rounds):
        for changed, sign in ((used & ~before, 1.0), (before & ~used, -1.0)):
            _add_normal_matrix(matrix, stamps, terms, basis, np.flatnonzero(changed), sign)
        before = used
        coefficients, condition = _solve(
            matrix, free, stamps, terms, basis, np.flatnonzero(used), correlation
        )
        chi2 = reduced_chi2(stamps, terms.local(coefficients, basis), correlation)
        log = np.log(np.maximum(chi2, 1e-12))
        middle = np.median(log[used])
        sigma = max(1.4826 * float(np.median(np.abs(log[used] - middle))), 0.05)
        keep = usable & (log < middle + clip * sigma)
        if np.array_equal(keep, used):
            break
        used = keep
    return Fit(coefficients, before, chi2, condition)


def allowed_by(basis: Basis, fwhm: float, ratio: float) -> Floats:
    """How far the coefficients of a kernel of ``fwhm`` pixels and a sum of about ``ratio`` may be from 0.

    The kernel's places as far as twice a Moffat profile of beta = 3, twice as wide as the kernel; their
    variation over the frame half as far, or not at all where that is little; ratio and background anywhere.
    Far from the centre, where most places are, a kernel is small: left free, they would follow the noise,
    and what is beside the stars.
    """
    side = np.arange(-basis.half_width, basis.half_width + 1.0)
    r2 = np.delete((side[:, None] ** 2 + side**2).ravel(), basis.n_places // 2)
    profile = 2.0 * ratio / (1.133 * fwhm**2) * (1.0 + r2 / (2.0 * fwhm) ** 2) ** -3
    places = np.repeat(profile[:, None], basis.n_terms, axis=1)
    places[:, 1:] *= np.where(profile > _LEAST_VARYING * ratio, 0.5, 0.0)[:, None]
    out = np.full(basis.n_coefficients, np.inf)
    out[basis.n_ratio : basis.n_ratio + places.size] = places.ravel()
    return out


def chi2_of(
    stamps: Stamps,
    coefficients: Floats,
    basis: Basis,
    shape: tuple[int, int],
    *,
    correlation: Floats | None = None,
) -> Floats:
    """The reduced chi-square of stamps, which need not have been fitted, under ``coefficients``."""
    return reduced_chi2(stamps, _Terms.of(stamps, basis, shape).local(coefficients, basis), correlation)


def reduced_chi2(stamps: Stamps, local: Floats, correlation: Floats | None = None) -> Floats:
    """Chi-square over what noise alone would give, of each stamp for its own coefficients ``local`` (n, m).

    The noise is the target's, and the image's behind the kernel of that place.
    """
    fitted = np.einsum("ni,nij,nj->n", local, stamps.matrix, local, optimize=True)
    chi2 = stamps.square - 2.0 * np.einsum("ni,ni->n", local, stamps.vector) + fitted
    behind = np.einsum("ni,ni->n", local, _noise_vector(stamps.image_noise, local, correlation))
    return chi2 / np.maximum(stamps.target_noise + behind, 1e-30)


def _noise_vector(noise: Floats, local: Floats, correlation: Floats | None) -> Floats:
    """N k for each stamp: (n, m), with N what the image's noise adds to ``stamps.matrix``.

    Of the kernel's places d and e, N is the covariance of the image's noise there, summed with the weights.
    """
    n_all = noise.shape[1]
    centre, side = n_all // 2, round(np.sqrt(n_all))
    deltas = np.insert(local[:, 1:-1], centre, local[:, 0] - local[:, 1:-1].sum(axis=1), axis=1)
    if correlation is None:
        pull = noise * deltas
    else:
        root = np.sqrt(noise)
        images = (root * deltas).reshape(-1, side, side)
        pull = root * fftconvolve(images, correlation[None], mode="same", axes=(1, 2)).reshape(-1, n_all)
    out = np.zeros_like(local)
    out[:, 0] = pull[:, centre]
    out[:, 1:-1] = np.delete(pull, centre, axis=1) - pull[:, [centre]]
    return out


@dataclass(frozen=True)
class _Terms:
    """The polynomials' terms at each stamp."""

    ratio: Floats  # (n, n_ratio)
    kernel: Floats  # (n, n_terms)
    background: Floats  # (n, n_background)

    @classmethod
    def of(cls, stamps: Stamps, basis: Basis, shape: tuple[int, int]) -> _Terms:
        u, v = unit_coordinates(stamps.x, stamps.y, shape)
        return cls(
            legendre_terms(u, v, basis.ratio_degree),
            legendre_terms(u, v, basis.degree),
            legendre_terms(u, v, basis.background_degree),
        )

    def select(self, rows: NDArray[np.intp]) -> _Terms:
        return _Terms(self.ratio[rows], self.kernel[rows], self.background[rows])

    def gather(self, vector: Floats) -> Floats:
        """Add up what stamps say (n, m) to what the coefficients are to explain: (n_coefficients,)."""
        return np.concatenate(
            [
                self.ratio.T @ vector[:, 0],
                (vector[:, 1:-1].T @ self.kernel).ravel(),
                self.background.T @ vector[:, -1],
            ]
        )

    def local(self, coefficients: Floats, basis: Basis) -> Floats:
        """The coefficients of each stamp: (n, 1 + n_places + 1)."""
        end = basis.n_ratio + basis.n_places * basis.n_terms
        shifted = coefficients[basis.n_ratio : end].reshape(basis.n_places, basis.n_terms)
        return np.concatenate(
            [
                (self.ratio @ coefficients[: basis.n_ratio])[:, None],
                self.kernel @ shifted.T,
                (self.background @ coefficients[end:])[:, None],
            ],
            axis=1,
        )


def _solve(
    matrix: Floats, free: NDArray[np.bool_], stamps: Stamps, terms: _Terms, basis: Basis,
    rows: NDArray[np.intp], correlation: Floats | None,
) -> tuple[Floats, float]:  # fmt: skip
    """Solve for the ``free`` coefficients by Cholesky, scaled to a unit diagonal; ``rows`` are its stamps."""
    some, noise, some_terms = stamps.vector[rows], stamps.image_noise[rows], terms.select(rows)
    scaled = matrix if free.all() else matrix[np.ix_(free, free)]
    scale = 1.0 / np.sqrt(np.maximum(np.diag(scaled), 1e-300))
    scaled = scaled * scale[:, None]
    scaled *= scale
    scaled[np.diag_indices(len(scaled))] += RIDGE
    # transposed, since LAPACK wants columns together: then nothing is copied
    factor = cho_factor(scaled.T, lower=True, overwrite_a=True, check_finite=True)
    smooth = gaussian_stamp(PULL_SMOOTHING)
    if correlation is not None:
        smooth = np.asarray(fftconvolve(smooth, correlation))
    coefficients = np.zeros(len(free))
    coefficients[free] = cho_solve(factor, some_terms.gather(some)[free] * scale) * scale
    for _ in range(N_REFINED):
        pull = _noise_vector(noise, some_terms.local(coefficients, basis), smooth)
        coefficients[free] = cho_solve(factor, some_terms.gather(some + pull)[free] * scale) * scale
    diagonal = np.diag(factor[0])
    return coefficients, float((diagonal.max() / diagonal.min()) ** 2)


def gaussian_stamp(sigma: float) -> Floats:
    """A Gaussian out to three sigma, sum 1, odd sides."""
    side = np.arange(-int(np.ceil(3 * sigma)), int(np.ceil(3 * sigma)) + 1)
    line = np.exp(-0.5 * (side / sigma) ** 2)
    return np.asarray(np.outer(line, line) / line.sum() ** 2)


def _add_normal_matrix(
    matrix: Floats, stamps: Stamps, terms: _Terms, basis: Basis, rows: NDArray[np.intp], sign: float
) -> None:
    """Add what the stamps of ``rows`` say, times ``sign``, to the upper triangle of the normal matrix."""
    if not len(rows):
        return
    n_ratio, n_places, n_terms_ = basis.n_ratio, basis.n_places, basis.n_terms
    first, end = n_ratio, n_ratio + n_places * n_terms_
    pairs = [(i, j) for i in range(n_terms_) for j in range(i, n_terms_)]
    kernel_block = np.zeros((len(pairs), n_places * n_places))
    for begin in range(0, len(rows), _CHUNK):
        part = rows[begin : begin + _CHUNK]
        g = stamps.matrix[part]
        r, k, c = sign * terms.ratio[part], terms.kernel[part], terms.background[part]
        products = sign * np.stack([k[:, i] * k[:, j] for i, j in pairs])
        kernel_block += products @ g[:, 1:-1, 1:-1].reshape(len(part), -1)
        matrix[:first, :first] += np.einsum("n,ni,nj->ij", g[:, 0, 0], r, terms.ratio[part])
        matrix[end:, end:] += sign * np.einsum("n,ni,nj->ij", g[:, -1, -1], c, c)
        matrix[:first, end:] += np.einsum("n,ni,nj->ij", g[:, 0, -1], r, c)
        matrix[:first, first:end] += np.einsum("nd,ni,nj->idj", g[:, 0, 1:-1], r, k).reshape(n_ratio, -1)
        matrix[first:end, end:] += sign * np.einsum("nd,nj,ni->dji", g[:, 1:-1, -1], k, c).reshape(
            -1, basis.n_background
        )
    block = matrix[first:end, first:end].reshape(n_places, n_terms_, n_places, n_terms_)
    for (i, j), values in zip(pairs, kernel_block):
        values = values.reshape(n_places, n_places)
        block[:, i, :, j] += values
        if i != j:
            block[:, j, :, i] += values
