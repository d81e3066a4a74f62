"""The kernel by least squares over all pixels of a frame, its equations from Fourier transforms (Hu+ 2022).

All pixels count alike; those that are not good are 0 in both images, as sfft masks them. The equations are
those of the whole frame, solved exactly, but gathered tile by tile, from little:

- Entries of the matrix are sums over p of W(p) I(p - d) I(p - e), W a product of two of the kernel's
  polynomials T. With q = p - d that is the correlation of I with itself at the lag d - e, weighted with W(q +
  d). Only lags within twice the kernel's half-width occur; and W, shifted or not, is a sum of Legendre
  products P_m of twice the degree, so that for degree 2 the correlations

      C_m(lag) = sum over q of P_m(q) I(q) I(q + lag),     m = 0 .. 14,

  give all 21 blocks of the matrix, transposed ones included.
- P_m is a product of a T before I(q) and of one of {1, P_n(u), P_n(v)} before I(q + lag), n the degree, up to
  what the lag shifts. So 6 + 3 transforms of a tile are enough, and one of the target's. Products of
  transforms are added up over tiles; only the sums are transformed back.
- The background's rows are moments of I and of the target, sums over pixels of Legendre products.

The tile of the first factor is as large as ``tile``; the second factor's reaches 2 w further on each side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.linalg import LinAlgError
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ..arrays import namespace, to_host
from ..frame import unit_coordinates
from ..psf import exponents
from .apply import fft_of, ladders, layout, like, over, tiles, with_margin
from .kernel import Basis, n_terms
from .shifted_terms import factor_pairs, products, second_factors, shifted, unmixed

Floats = NDArray[np.float64]

RIDGE = 1e-12  # of the matrix's unit diagonal: what no pixel says stays small
TILE = 256  # pixels a side: what is added up for it stays in the caches


@dataclass(frozen=True)
class FourierFit:
    """The coefficients of a basis, and how well the equations hold them."""

    coefficients: Floats  # (basis.n_coefficients,)
    condition: float  # of the normal matrix, scaled to a unit diagonal; an estimate from its factor


def fit_fourier(target: Any, image: Any, good: Any, basis: Basis, *, tile: int = TILE) -> FourierFit:
    """Return the coefficients that make ``image`` most like ``target`` over all good pixels, (ny, nx) each.

    Pixels must be finite where ``good``. The border of the kernel's half-width counts as not good. Arrays of
    numpy or of a library with the array API; sums are in double precision. Raises LinAlgError when no pixel
    is good or the equations cannot be solved.
    """
    inner = _without_border(good, basis.half_width)
    if not bool(namespace(good).any(inner)):
        raise LinAlgError("no pixel is good")
    sums = _sums(target, image, inner, basis, tile)
    matrix, vector = _equations(sums, basis, image)
    solution, condition = _solve(namespace(image), matrix, vector)
    out = np.empty(basis.n_coefficients)
    out[_order(basis)] = solution
    return FourierFit(out, condition)


@dataclass(frozen=True)
class _Sums:
    """What the frame says, on the host."""

    auto: Floats  # (n_pairs, 4 w + 1, 4 w + 1): of I and I for each of ``factor_pairs`` at each lag (y, x)
    cross: Floats  # (n_terms, 4 w + 1, 4 w + 1): of T I and the target
    image: Floats  # (degree + 1, degree + 1): sums of P_j(v) P_i(u) I, of the two degrees' sum
    target: Floats  # the same of the target, of the background's degree


def _degree(basis: Basis) -> int:
    return max(basis.degree, basis.ratio_degree)


def _sums(target: Any, image: Any, good: Any, basis: Basis, tile: int) -> _Sums:
    xp, w, degree = namespace(image), basis.half_width, _degree(basis)
    fft, shape = fft_of(xp), image.shape
    size, step = layout(shape, tile, 4 * w)
    top = max(2 * degree, degree + basis.background_degree)
    pu, pv = ladders(shape, top)
    pairs, halo = factor_pairs(degree), second_factors(degree)
    columns_of_tiles = list(tiles((1, shape[1]), (1, step[1])))

    def spectra(piece: Any, us: list[Any], vs: list[Any], powers: list[tuple[int, int]]) -> list[Any]:
        """Transforms of a piece times P_i(u) P_j(v): along x once for each i, along y for each (i, j)."""
        along_x = {i: fft.rfft(piece * us[i], n=size[1], axis=1) for i in {i for i, _ in powers}}
        return [fft.fft(along_x[i] * vs[j], n=size[0], axis=0) for i, j in powers]

    def one_row(rows: slice) -> tuple[list[Any], list[Any], Any, Any]:
        auto: list[Any] = []
        cross: list[Any] = []
        moments, of_target = 0.0, 0.0
        for _, columns in columns_of_tiles:
            i_wide, j_wide = (_masked(a, good, rows, columns, 2 * w) for a in (image, target))
            middle = slice(2 * w, -2 * w)
            i_tile, j_tile = i_wide[middle, middle], j_wide[middle, middle]
            us = [like(i_wide, pu[columns, i]) for i in range(top + 1)]
            vs = [like(i_wide, pv[rows, j])[:, None] for j in range(top + 1)]
            wide_u, wide_v = _margin_ladders(shape, rows, columns, 2 * w, degree)
            firsts = [xp.conj(a) for a in spectra(i_tile, us, vs, exponents(degree))]
            seconds = spectra(
                i_wide,
                [like(i_wide, a) for a in wide_u.T],
                [like(i_wide, a)[:, None] for a in wide_v.T],
                halo,
            )
            j_spectrum = fft.fft(fft.rfft(j_wide, n=size[1], axis=1), n=size[0], axis=0)
            _add(auto, [(firsts[a], seconds[b]) for a, b in pairs])
            _add(cross, [(a, j_spectrum) for a in firsts])
            across, up = like(i_wide, pu[columns, :]), like(i_wide, pv[rows, :])
            moments = moments + up.T @ i_tile @ across
            of_target = of_target + up.T @ j_tile @ across
        return auto, cross, moments, of_target

    total: Any = None
    for part in over(one_row, [rows for rows, _ in tiles((shape[0], 1), (step[0], 1))], xp):
        if total is None:
            total = part
            continue
        for mine, more in zip(total[0] + total[1], part[0] + part[1]):
            mine += more
        total = (total[0], total[1], total[2] + part[2], total[3] + part[3])
    side = 4 * w + 1

    def lags(spectrum: Any) -> Floats:
        rows = fft.ifft(spectrum, axis=0)[:side, :]
        return np.asarray(to_host(fft.irfft(rows, n=size[1], axis=1)[:, :side]))

    return _Sums(
        np.stack([lags(a) for a in total[0]]), np.stack([lags(a) for a in total[1]]),
        np.asarray(to_host(total[2])), np.asarray(to_host(total[3])),
    )  # fmt: skip


def _add(sums: list[Any], products: list[tuple[Any, Any]]) -> None:
    """Add products to sums, which are empty at first."""
    if not sums:
        sums += [a * b for a, b in products]
        return
    for i, (a, b) in enumerate(products):
        sums[i] += a * b


def _masked(array: Any, good: Any, rows: slice, columns: slice, margin: int) -> Any:
    """A tile with its margin in double precision, 0 where not good."""
    xp = namespace(array)
    piece = xp.asarray(with_margin(array, rows, columns, margin), dtype=xp.float64)
    return xp.where(with_margin(good, rows, columns, margin), piece, xp.zeros_like(piece))


def _margin_ladders(
    shape: tuple[int, ...], rows: slice, columns: slice, margin: int, degree: int
) -> tuple[Floats, Floats]:
    """As ``ladders``, of a tile with its margin: polynomials go on outside the frame."""
    ny, nx = shape
    x = np.arange(columns.start - margin, columns.stop + margin)
    y = np.arange(rows.start - margin, rows.stop + margin)
    u, v = unit_coordinates(x, y, (ny, nx))
    return legvander(u, degree), legvander(v, degree)


def _without_border(good: Any, width: int) -> Any:
    xp = namespace(good)
    out = xp.zeros_like(good)
    out[width:-width, width:-width] = good[width:-width, width:-width]
    return out


def _equations(sums: _Sums, basis: Basis, image: Any) -> tuple[Any, Any]:
    """The normal matrix and vector, of the image's library; the order of coefficients is ``_order``'s."""
    xp, shape, w, degree = namespace(image), image.shape, basis.half_width, _degree(basis)
    nt, nb = n_terms(degree), basis.n_background
    pixel = np.array([2.0 / shape[0], 2.0 / shape[1]])  # in (v, u)
    places = _places(w)
    lags = np.stack(np.mgrid[-2 * w : 2 * w + 1, -2 * w : 2 * w + 1], axis=-1).reshape(-1, 2)
    shift = shifted(max(2 * degree, degree + basis.background_degree), places * pixel)

    # of the kernel with itself: sums over p of T_k T_l(p) I(p - d) I(p - e)
    at_lags = unmixed(sums.auto.reshape(len(sums.auto), -1), degree, lags * pixel)
    upper = [(k, m) for k in range(nt) for m in range(k, nt)]
    of_pair = products(degree, degree)
    n = of_pair.shape[-1]
    weights = np.stack([of_pair[k, m] for k, m in upper]) @ shift[:, :n, :n]  # (places, n_upper, n)
    index = _lag_index(places[:, None] - places, w)
    gathered = xp.take(_on(image, at_lags), _on(image, index.ravel()), axis=1)
    gathered = _permuted(xp, xp.reshape(gathered, (n, *index.shape)), (1, 0, 2))
    blocks = xp.matmul(_on(image, weights), gathered)  # (places, n_upper, places)

    # of the kernel with the background and the target, and of these two
    b = basis.background_degree
    g = products(degree, b)
    moments = _terms_of(sums.image, degree + b)
    with_background = np.einsum("kcm,dmn,n->kdc", g, shift[:, : len(moments), : len(moments)], moments)
    cross = sums.cross.reshape(nt, -1)[:, _lag_index(places, w)]  # (nt, places)
    with_target = np.einsum("dkm,md->kd", shift[:, :nt, :nt], cross)
    pu, pv = ladders(shape, b)
    sums_u, sums_v = pu.T @ pu, pv.T @ pv
    own = np.array([[sums_u[i, k] * sums_v[j, m] for k, m in exponents(b)] for i, j in exponents(b)])

    spans, n_kernel = _spans(basis)
    matrix = xp.empty((n_kernel + nb, n_kernel + nb), dtype=xp.float64)
    vector = np.empty(n_kernel + nb)
    for n_block, (k, m) in enumerate(upper):
        (first, here), (second, there) = spans[k], spans[m]
        block = _less_centre(xp, blocks[:, n_block, :])[first, second]
        matrix[here, there] = block
        matrix[there, here] = block.T
    for k in range(nt):
        first, here = spans[k]
        rows = with_background[k].copy()
        rows[:-1] -= with_background[k, -1]
        matrix[here, n_kernel:] = _on(image, rows[first])
        matrix[n_kernel:, here] = _on(image, rows[first].T)
        values = with_target[k].copy()
        values[:-1] -= with_target[k, -1]
        vector[here] = values[first]
    matrix[n_kernel:, n_kernel:] = _on(image, own)
    vector[n_kernel:] = _terms_of(sums.target, b)
    return matrix, vector


def _less_centre(xp: Any, block: Any) -> Any:
    """A block of the matrix for places less the centre, which is the last; the centre's own stays."""
    out = block - block[-1:, :]
    out[-1, :] = block[-1, :]
    centre = out[:, -1:] + 0.0
    out -= centre
    out[:, -1:] = centre
    return out


def _spans(basis: Basis) -> tuple[list[tuple[slice, slice]], int]:
    """For each term which of the places it has, and where they stand among the unknowns; and how many."""
    spans, begin = [], 0
    for k in range(n_terms(_degree(basis))):
        first = 0 if k < basis.n_terms else basis.n_places
        last = basis.n_places + (1 if k < basis.n_ratio else 0)
        spans.append((slice(first, last), slice(begin, begin + last - first)))
        begin += last - first
    return spans, begin


def _order(basis: Basis) -> NDArray[np.int64]:
    """The place in the basis of each unknown: unknowns stand term by term, the centre (the ratio) last."""
    by_place = basis.n_ratio + np.arange(basis.n_places * basis.n_terms).reshape(-1, basis.n_terms)
    out: list[int] = []
    for k in range(n_terms(_degree(basis))):
        out += list(by_place[:, k]) if k < basis.n_terms else []
        out += [k] if k < basis.n_ratio else []
    return np.array(out + list(range(basis.n_coefficients - basis.n_background, basis.n_coefficients)))


def _places(w: int) -> NDArray[np.int64]:
    """(dy, dx) of the kernel's places in the basis's order, then of the centre."""
    offsets = np.stack(np.mgrid[-w : w + 1, -w : w + 1], axis=-1).reshape(-1, 2)
    centre = len(offsets) // 2
    return np.concatenate([np.delete(offsets, centre, axis=0), offsets[[centre]]])


def _lag_index(offsets: NDArray[np.int64], w: int) -> NDArray[np.int64]:
    return (offsets[..., 0] + 2 * w) * (4 * w + 1) + offsets[..., 1] + 2 * w


def _terms_of(powers: Floats, degree: int) -> Floats:
    """Of a matrix (power of v, power of u) the entries of a degree, in the terms' order."""
    return np.array([powers[j, i] for i, j in exponents(degree)])


def _on(image: Any, values: NDArray[Any]) -> Any:
    """Numbers of the host beside ``image``, of their own type."""
    if isinstance(image, np.ndarray):
        return values
    return namespace(image).asarray(np.ascontiguousarray(values), device=image.device)


def _permuted(xp: Any, array: Any, axes: tuple[int, ...]) -> Any:
    return xp.permute_dims(array, axes) if hasattr(xp, "permute_dims") else xp.transpose(array, axes)


def _solve(xp: Any, matrix: Any, vector: Floats) -> tuple[Floats, float]:
    """Solve by Cholesky, scaled to a unit diagonal; ``matrix`` is overwritten."""
    n = len(vector)
    diagonal = np.asarray(to_host(xp.linalg.diagonal(matrix)))
    if not np.all(np.isfinite(diagonal) & (diagonal > 0)):
        raise LinAlgError("an unknown has no pixel, or a pixel is not finite")
    scale = 1.0 / np.sqrt(diagonal)
    on = _on(matrix, scale)
    matrix *= on[:, None]
    matrix *= on[None, :]
    matrix += RIDGE * _on(matrix, np.eye(n))
    right = vector * scale
    if xp is np:
        factor = cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
        solution, roots = cho_solve(factor, right, check_finite=False), np.diag(factor[0])
    else:
        lower = xp.linalg.cholesky(matrix)
        half = xp.linalg.solve(lower, _on(matrix, right[:, None]))
        solution = np.asarray(to_host(xp.linalg.solve(lower.T, half)))[:, 0]
        roots = np.asarray(to_host(xp.linalg.diagonal(lower)))
    if not np.all(np.isfinite(solution)):
        raise LinAlgError("the kernel's equations have no finite solution")
    return solution * scale, float((roots.max() / roots.min()) ** 2)
