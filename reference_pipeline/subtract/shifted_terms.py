"""Legendre products P_m(u, v) and what becomes of them when shifted, multiplied, correlated; on the host."""

from __future__ import annotations

import numpy as np
from numpy.polynomial.legendre import leggauss, legval
from numpy.typing import NDArray

from ..polynomials import legendre_terms
from ..psf import exponents
from .kernel import n_terms

Floats = NDArray[np.float64]


def shifted(degree: int, offsets: Floats) -> Floats:
    """Return A (n, m, m): P_m(q + d) = sum over m' of A[d, m, m'] P_m'(q); ``offsets`` (n, 2) hold (v, u)."""
    u, v, project = _nodes(degree, degree)
    there = legendre_terms(u + offsets[:, 1:], v + offsets[:, :1], degree)  # (n, nodes, m)
    return np.swapaxes(there, 1, 2) @ project


def products(degree_a: int, degree_b: int) -> Floats:
    """Return G (a, b, m) with P_a P_b = sum over m of G[a, b, m] P_m, m of the two degrees' sum."""
    u, v, project = _nodes(degree_a + degree_b, degree_a + degree_b)
    a, b = legendre_terms(u, v, degree_a), legendre_terms(u, v, degree_b)
    return np.einsum("na,nb,nm->abm", a, b, project, optimize=True)


def second_factors(degree: int) -> list[tuple[int, int]]:
    """Powers (of u, of v) of polynomials that, times those of ``degree``, give all of twice the degree."""
    factors = [(0, 0)]
    if degree > 0:
        factors += [(degree, 0), (0, degree)]
    if degree > 2:
        factors += [(1, 1)]
    return factors


def factor_pairs(degree: int) -> list[tuple[int, int]]:
    """For each P_m of twice the degree a P of the degree and a second factor with its leading powers.

    Up to degree 4; raises ValueError above, where ``second_factors`` are too few.
    """
    first, second = exponents(degree), second_factors(degree)
    out = []
    for i, j in exponents(2 * degree):
        found = [
            (first.index((i - a, j - b)), n) for n, (a, b) in enumerate(second) if (i - a, j - b) in first
        ]
        if not found:
            raise ValueError(f"degree {degree}: at most 4")
        out.append(found[0])
    return out


def unmixed(correlations: Floats, degree: int, lags: Floats) -> Floats:
    """Return C_m(lag) = sum of P_m(q) I(q) I(q + lag), (m, n), from correlations of the factors' images.

    ``correlations`` (m, n) are sums of P_a(q) I(q) P_b(q + lag) I(q + lag), (a, b) those of ``factor_pairs``.
    P_a(q) P_b(q + lag) is a sum of P_m(q) that differs from lag to lag: a system of m equations for each.
    """
    u, v, project = _nodes(2 * degree, 2 * degree)
    first = legendre_terms(u, v, degree)
    there = [
        _single(u + lags[:, 1:], i) * _single(v + lags[:, :1], j) for i, j in second_factors(degree)
    ]  # (n, nodes) each
    mixing = np.empty((len(lags), n_terms(2 * degree), n_terms(2 * degree)))
    for row, (a, b) in enumerate(factor_pairs(degree)):
        mixing[:, row] = there[b] @ (first[:, a, None] * project)
    return np.asarray(np.linalg.solve(mixing, correlations.T[..., None])[..., 0].T, float)


def _single(w: Floats, degree: int) -> Floats:
    return np.asarray(legval(w, np.eye(degree + 1)[degree]), float)


def _nodes(of_degree: int, degree: int) -> tuple[Floats, Floats, Floats]:
    """Gauss nodes (u, v), and the matrix (nodes, m) that takes values there to coefficients of P_m."""
    x, weight = leggauss((of_degree + degree) // 2 + 1)
    u, v = (np.asarray(a.ravel(), float) for a in np.meshgrid(x, x))
    norm = np.array([(2 * i + 1) * (2 * j + 1) / 4 for i, j in exponents(degree)])
    project = legendre_terms(u, v, degree) * np.outer(weight, weight).ravel()[:, None] * norm
    return u, v, np.asarray(project, float)
