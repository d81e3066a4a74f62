"""Polynomials over a frame, in its unit coordinates (u, v) of [-1, 1] (frame.unit_coordinates)."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from .psf import exponents


def legendre_terms(
    u: NDArray[np.float64] | float, v: NDArray[np.float64] | float, degree: int
) -> NDArray[np.float64]:
    """Return the products P_i(u) P_j(v), i + j <= degree, in the order of ``exponents``: (..., n_terms).

    Well conditioned over the frame, where powers are not.
    """
    pu, pv = (_ladder(np.asarray(w, float), degree) for w in (u, v))
    return np.stack([pu[..., i] * pv[..., j] for i, j in exponents(degree)], axis=-1)


def _ladder(w: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """P_0 to P_degree of w, along a last axis; legvander gives a number an axis that it does not have."""
    return np.asarray(legendre.legvander(w, degree), float).reshape(*w.shape, degree + 1)
