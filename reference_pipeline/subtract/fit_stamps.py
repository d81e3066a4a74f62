"""The kernel by weighted least squares on stamps around stars: robust, because a bad stamp can be left out.

Each stamp gives its normal equations in the kernel's places once (a polynomial's terms are taken as constant
over a stamp); clipping, weights and chi-square then work on these alone, and never look at pixels again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from ..frame import unit_coordinates
from ..polynomials import legendre_terms
from .kernel import Basis

Floats = NDArray[np.float64]

RIDGE = 1e-9  # of the mean of the diagonal: what no star says stays small
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

    def __len__(self) -> int:
        return len(self.x)

    def select(self, rows: NDArray[np.generic]) -> Stamps:
        """The stamps of ``rows``."""
        return Stamps(
            self.x[rows], self.y[rows], self.matrix[rows], self.vector[rows], self.square[rows],
            self.n_pixels[rows],
        )  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """Coefficients, and what the stamps say of them."""

    coefficients: Floats  # (basis.n_coefficients,)
    used: NDArray[np.bool_]  # (n,): stamps that were not clipped
    chi2: Floats  # (n,): reduced, of every stamp under these coefficients
    condition: float  # of the normal matrix, scaled to a unit diagonal; an estimate from its factor


def stamp_equations(
    target: NDArray[np.float32],
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    good: NDArray[np.bool_],
    x: Sequence[int] | NDArray[np.int64],
    y: Sequence[int] | NDArray[np.int64],
    *,
    half: int,
    half_width: int,
) -> Stamps:
    """Return the normal equations of stamps of side 2 ``half`` + 1 at pixels (x, y).

    ``image`` is what will be convolved, ``target`` what it is to become like, both (ny, nx), electrons, sky
    included or not; ``variance`` that of their difference. ``good`` is where the target may be compared: it
    is false wherever a bad pixel of the image is within ``half_width``. Stamps reach ``half`` plus
    ``half_width`` pixels, which must be inside the frame.
    """
    side, w = 2 * half_width + 1, half_width
    n_places = side * side - 1
    m = n_places + 2
    n = len(x)
    matrix, vector = np.zeros((n, m, m)), np.zeros((n, m))
    square, n_pixels = np.zeros(n), np.zeros(n, np.int64)
    centre = side * side // 2
    others = np.delete(np.arange(side * side), centre)
    for i, (xi, yi) in enumerate(zip(x, y)):
        rows, columns = slice(yi - half, yi + half + 1), slice(xi - half, xi + half + 1)
        around = image[yi - half - w : yi + half + w + 1, xi - half - w : xi + half + w + 1]
        # window[dy, dx] of pixel (y, x) is image[y - w + dy, x - w + dx]; the kernel counts the other way
        windows = sliding_window_view(around.astype(float), (side, side))[..., ::-1, ::-1]
        use = good[rows, columns].ravel()
        weight = np.where(use, 1.0 / variance[rows, columns].ravel(), 0.0)
        values = np.where(use, target[rows, columns].ravel(), 0.0)
        design = np.empty((use.sum(), m))
        flat = windows.reshape(-1, side * side)[use]
        design[:, 0] = flat[:, centre]
        design[:, 1:-1] = flat[:, others] - flat[:, [centre]]
        design[:, -1] = 1.0
        root = np.sqrt(weight[use])
        design *= root[:, None]
        weighted = values[use] * root
        matrix[i] = design.T @ design
        vector[i] = design.T @ weighted
        square[i] = weighted @ weighted
        n_pixels[i] = use.sum()
    return Stamps(np.asarray(x, float), np.asarray(y, float), matrix, vector, square, n_pixels)


def fit_stamps(
    stamps: Stamps, basis: Basis, shape: tuple[int, int], *, clip: float = 3.0, n_rounds: int = 6
) -> Fit:
    """Return the coefficients of ``basis`` that fit most of the stamps best.

    A stamp whose reduced chi-square is ``clip`` robust sigmas above the others' (of its logarithm) is left
    out, until no more are. Raises LinAlgError when the equations cannot be solved.
    """
    used = stamps.n_pixels > 0
    if not used.any():
        raise LinAlgError("no stamp has a usable pixel")
    terms = _Terms.of(stamps, basis, shape)
    for _ in range(n_rounds):
        coefficients, condition = _solve(stamps, terms, basis, used)
        chi2 = reduced_chi2(stamps, terms.local(coefficients, basis))
        log = np.log(np.maximum(chi2, 1e-12))
        middle = np.median(log[used])
        sigma = max(1.4826 * float(np.median(np.abs(log[used] - middle))), 0.05)
        keep = (stamps.n_pixels > 0) & (log < middle + clip * sigma)
        if np.array_equal(keep, used):
            break
        used = keep
    return Fit(coefficients, used, chi2, condition)


def chi2_of(stamps: Stamps, coefficients: Floats, basis: Basis, shape: tuple[int, int]) -> Floats:
    """The reduced chi-square of stamps, which need not have been fitted, under ``coefficients``."""
    return reduced_chi2(stamps, _Terms.of(stamps, basis, shape).local(coefficients, basis))


def reduced_chi2(stamps: Stamps, local: Floats) -> Floats:
    """Chi-square per pixel of each stamp for its own coefficients ``local`` (n, m)."""
    fitted = np.einsum("ni,nij,nj->n", local, stamps.matrix, local, optimize=True)
    chi2 = stamps.square - 2.0 * np.einsum("ni,ni->n", local, stamps.vector) + fitted
    return chi2 / np.maximum(stamps.n_pixels, 1)


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


def _solve(stamps: Stamps, terms: _Terms, basis: Basis, used: NDArray[np.bool_]) -> tuple[Floats, float]:
    """Add the stamps' equations up and solve them by Cholesky, scaled to a unit diagonal."""
    n_ratio, n_places, n_terms_ = basis.n_ratio, basis.n_places, basis.n_terms
    first, end = n_ratio, n_ratio + n_places * n_terms_
    n = basis.n_coefficients
    matrix, vector = np.zeros((n, n)), np.zeros(n)
    kernel_block = np.zeros((n_places * n_places, n_terms_ * n_terms_))
    rows = np.flatnonzero(used)
    for begin in range(0, len(rows), _CHUNK):
        part = rows[begin : begin + _CHUNK]
        g, b = stamps.matrix[part], stamps.vector[part]
        r, k, c = terms.ratio[part], terms.kernel[part], terms.background[part]
        kernel_block += g[:, 1:-1, 1:-1].reshape(len(part), -1).T @ np.einsum("ni,nj->nij", k, k).reshape(
            len(part), -1
        )
        matrix[:first, :first] += np.einsum("n,ni,nj->ij", g[:, 0, 0], r, r)
        matrix[end:, end:] += np.einsum("n,ni,nj->ij", g[:, -1, -1], c, c)
        matrix[:first, end:] += np.einsum("n,ni,nj->ij", g[:, 0, -1], r, c)
        matrix[:first, first:end] += np.einsum("nd,ni,nj->idj", g[:, 0, 1:-1], r, k).reshape(n_ratio, -1)
        matrix[first:end, end:] += np.einsum("nd,nj,ni->dji", g[:, 1:-1, -1], k, c).reshape(
            -1, basis.n_background
        )
        vector[:first] += np.einsum("n,ni->i", b[:, 0], r)
        vector[first:end] += np.einsum("nd,nj->dj", b[:, 1:-1], k).ravel()
        vector[end:] += np.einsum("n,ni->i", b[:, -1], c)
    block = kernel_block.reshape(n_places, n_places, n_terms_, n_terms_).transpose(0, 2, 1, 3)
    matrix[first:end, first:end] = block.reshape(n_places * n_terms_, -1)
    matrix = np.triu(matrix) + np.triu(matrix, 1).T
    scale = 1.0 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    matrix *= scale[:, None] * scale
    matrix[np.diag_indices(n)] += RIDGE
    factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=True)
    diagonal = np.diag(factor[0])
    return cho_solve(factor, vector * scale) * scale, float((diagonal.max() / diagonal.min()) ** 2)
