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

from collections.abc import Callable
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
from .apply import DEVICE_TILE, fft_of, ladders, layout, like, likeness, over_in_turn, tiles, with_margin
from .kernel import Basis, n_terms
from .shifted_terms import factor_pairs, products, second_factors, shifted, unmixed

Floats = NDArray[np.float64]
Solver = Callable[[Floats], Floats]  # from the vector, in the unknowns' order, to the basis's coefficients

RIDGE = 1e-12  # of the matrix's unit diagonal: what no pixel says stays small
TILE = 256  # pixels a side on numpy: what is added up for it stays in the caches


@dataclass(frozen=True)
class FourierFit:
    """The coefficients of a basis, and how well the equations hold them."""

    coefficients: Floats  # (basis.n_coefficients,)
    condition: float  # of the normal matrix, scaled to a unit diagonal; an estimate from its factor


def fit_fourier(
    target: Any,
    image: Any,
    good: Any,
    basis: Basis,
    *,
    rounds: int = 8,
    tolerance: float = 1.0,
    tile: int | None = None,
) -> FourierFit:
    """Return the coefficients that make ``image`` most like ``target`` over all good pixels, (ny, nx) each.

    Pixels must be finite, and 0 in ``image`` where it has none; ``good`` is where the target may be compared.
    The border of the kernel's half-width counts as not good. With ``rounds`` 0 both images are 0 where not
    good, as sfft has it, which says something wrong wherever a star's light crosses a mask. Each round of
    conjugate gradients goes from there to the least squares over good pixels alone, with ``image`` as it is;
    the last is that which lowers the sum of squares by less than ``tolerance`` times a pixel's mean, which is
    what one coefficient adds by being off by its own sigma.
    Arrays of numpy or of a library with the array API; sums are in double precision. Raises LinAlgError when
    no pixel is good or the equations cannot be solved.
    """
    xp = namespace(image)
    tile = tile or (TILE if xp is np else DEVICE_TILE)
    inner = _without_border(good, basis.half_width)
    if not bool(xp.any(inner)):
        raise LinAlgError("no pixel is good")
    sums = _sums(target, image, inner, basis, tile)
    solve, condition = _solver(basis, _matrix(sums, basis, image))
    first = solve(_vector(sums, basis, image.shape))
    if rounds > 0:
        first = _refined(first, solve, target, image, inner, basis, rounds, tolerance, tile)
    return FourierFit(first, condition)


def _refined(
    coefficients: Floats, solve: Solver, target: Any, image: Any, good: Any, basis: Basis,
    rounds: int, tolerance: float, tile: int,
) -> Floats:  # fmt: skip
    """Preconditioned conjugate gradients on the normal equations of good pixels, residuals kept as images."""
    xp = namespace(image)
    zero, everywhere = xp.zeros_like(image), xp.ones_like(good)
    n_good = float(xp.sum(xp.where(good, xp.ones_like(image), zero), dtype=xp.float64))

    def applied(c: Floats) -> Any:
        return xp.where(good, likeness(image, basis.kernel(c, image.shape)), zero)

    residual = xp.where(good, target, zero) - applied(coefficients)
    direction, before = np.zeros_like(coefficients), np.inf
    for _ in range(rounds):
        sums = _sums(residual, image, everywhere, basis, tile, with_matrix=False)
        gradient = _vector(sums, basis, image.shape)
        step = solve(gradient)
        slope = float(gradient @ step[_order(basis)])
        direction = step + direction * (slope / before)
        change = applied(direction)
        square = float(xp.sum(change * change, dtype=xp.float64))
        if not (slope > 0 and square > 0):
            break  # nothing is left to gain
        length = slope / square
        coefficients = coefficients + length * direction
        residual = residual - length * change
        before = slope
        share = float(xp.sum(residual * residual, dtype=xp.float64)) / n_good
        if slope * length < tolerance * share:
            break
    return coefficients


@dataclass(frozen=True)
class _Sums:
    """What the frame says, on the host."""

    auto: Floats  # (n_pairs, lags): of I and I for each of ``factor_pairs``, the lags those of ``_grid(2 w)``
    cross: Floats  # (n_terms, lags): of T I and the target
    image: Floats  # (degree + 1, degree + 1): sums of P_j(v) P_i(u) I, of the two degrees' sum
    target: Floats  # the same of the target, of the background's degree


def _degree(basis: Basis) -> int:
    return max(basis.degree, basis.ratio_degree)


def _sums(target: Any, image: Any, good: Any, basis: Basis, tile: int, *, with_matrix: bool = True) -> _Sums:
    """Add up over tiles; without what only the matrix needs, in the image's precision."""
    xp, w, degree = namespace(image), basis.half_width, _degree(basis)
    fft, shape = fft_of(xp), image.shape
    size, step = layout(shape, tile, 4 * w)
    top = max(2 * degree, degree + basis.background_degree)
    pu, pv = ladders(shape, top)
    dtype = xp.float64 if with_matrix else image.dtype  # a residual is small: its rounding is, too
    pairs, halo = factor_pairs(degree) if with_matrix else [], second_factors(degree)
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
            i_wide, j_wide = (_masked(a, good, rows, columns, 2 * w, dtype) for a in (image, target))
            middle = slice(2 * w, -2 * w)
            i_tile, j_tile = i_wide[middle, middle], j_wide[middle, middle]
            us = [like(i_wide, pu[columns, i]) for i in range(top + 1)]
            vs = [like(i_wide, pv[rows, j])[:, None] for j in range(top + 1)]
            firsts = [xp.conj(a) for a in spectra(i_tile, us, vs, exponents(degree))]
            if with_matrix:
                wide_u, wide_v = _margin_ladders(shape, rows, columns, 2 * w, degree)
                wide_us = [like(i_wide, a) for a in wide_u.T]
                seconds = spectra(i_wide, wide_us, [like(i_wide, a)[:, None] for a in wide_v.T], halo)
                _add(auto, [(firsts[a], seconds[b]) for a, b in pairs])
            j_spectrum = fft.fft(fft.rfft(j_wide, n=size[1], axis=1), n=size[0], axis=0)
            _add(cross, [(a, j_spectrum) for a in firsts])
            across, up = like(i_wide, pu[columns, :]), like(i_wide, pv[rows, :])
            moments = moments + up.T @ i_tile @ across
            of_target = of_target + up.T @ j_tile @ across
        return auto, cross, moments, of_target

    total: Any = None
    for part in over_in_turn(one_row, [rows for rows, _ in tiles((shape[0], 1), (step[0], 1))], xp):
        if total is None:
            total = part
            continue
        for mine, more in zip(total[0] + total[1], part[0] + part[1]):
            mine += more
        total = (total[0], total[1], total[2] + part[2], total[3] + part[3])
    side = 4 * w + 1

    def lags(spectra: list[Any]) -> Floats:
        rows = [fft.ifft(a, axis=0)[:side, :] for a in spectra]
        found = [np.asarray(to_host(fft.irfft(a, n=size[1], axis=1)[:, :side])) for a in rows]
        return np.array(found).reshape(len(spectra), side * side)

    auto, cross, moments, of_target = total
    return _Sums(lags(auto), lags(cross), np.asarray(to_host(moments)), np.asarray(to_host(of_target)))


def _add(sums: list[Any], products: list[tuple[Any, Any]]) -> None:
    """Add products to sums, which are empty at first."""
    if not sums:
        sums += [a * b for a, b in products]
        return
    for i, (a, b) in enumerate(products):
        sums[i] += a * b


def _masked(array: Any, good: Any, rows: slice, columns: slice, margin: int, dtype: Any) -> Any:
    """A tile with its margin, 0 where not good."""
    xp = namespace(array)
    piece = xp.asarray(with_margin(array, rows, columns, margin), dtype=dtype)
    return xp.where(with_margin(good, rows, columns, margin), piece, xp.zeros_like(piece))


def _margin_ladders(
    shape: tuple[int, ...], rows: slice, columns: slice, margin: int, degree: int
) -> tuple[Floats, Floats]:
    """As ``ladders``, of a tile with its margin: polynomials go on outside the frame."""
    ny, nx = shape
    x = np.arange(columns.start - margin, columns.stop + margin)
    y = np.arange(rows.start - margin, rows.stop + margin)
    u, v = unit_coordinates(x, y, (ny, nx))
    return np.asarray(legvander(u, degree), float), np.asarray(legvander(v, degree), float)


def _without_border(good: Any, width: int) -> Any:
    xp = namespace(good)
    out = xp.zeros_like(good)
    out[width:-width, width:-width] = good[width:-width, width:-width]
    return out


def _matrix(sums: _Sums, basis: Basis, image: Any) -> Any:
    """The normal matrix, of the image's library; the order of unknowns is ``_order``'s."""
    xp, shape, w, degree = namespace(image), image.shape, basis.half_width, _degree(basis)
    nt, nb, b = n_terms(degree), basis.n_background, basis.background_degree
    pixel = np.array([2.0 / shape[0], 2.0 / shape[1]])  # in (v, u)
    places = _places(w)
    shift = shifted(max(2 * degree, degree + b), places * pixel)

    # of the kernel with itself: sums over p of T_k T_l(p) I(p - d) I(p - e)
    at_lags = unmixed(sums.auto, degree, _grid(2 * w) * pixel)
    upper = [(k, m) for k in range(nt) for m in range(k, nt)]
    of_pair = products(degree, degree)
    n = of_pair.shape[-1]
    weights = np.stack([of_pair[k, m] for k, m in upper]) @ shift[:, :n, :n]  # (places, n_upper, n)
    index = _lag_index(places[:, None] - places, w)
    gathered = xp.take(_on(image, at_lags), _on(image, index.ravel()), axis=1)
    gathered = _permuted(xp, xp.reshape(gathered, (n, *index.shape)), (1, 0, 2))
    blocks = xp.matmul(_on(image, weights), gathered)  # (places, n_upper, places)

    # of the kernel with the background, and of the background with itself
    moments = _terms_of(sums.image, degree + b)
    n = len(moments)
    with_background = np.einsum("kcm,dmn,n->kdc", products(degree, b), shift[:, :n, :n], moments)
    with_background[:, :-1] -= with_background[:, -1:]
    pu, pv = ladders(shape, b)
    sums_u, sums_v = pu.T @ pu, pv.T @ pv
    own = np.array([[sums_u[i, k] * sums_v[j, m] for k, m in exponents(b)] for i, j in exponents(b)])

    spans, n_kernel = _spans(basis)
    matrix = xp.empty((n_kernel + nb, n_kernel + nb), dtype=xp.float64)
    for n_block, (k, m) in enumerate(upper):
        (first, here), (second, there) = spans[k], spans[m]
        block = _less_centre(blocks[:, n_block, :])[first, second]
        matrix[here, there] = block
        matrix[there, here] = block.T
    for rows, (which, here) in zip(with_background, spans):
        matrix[here, n_kernel:] = _on(image, rows[which])
        matrix[n_kernel:, here] = _on(image, rows[which].T)
    matrix[n_kernel:, n_kernel:] = _on(image, own)
    return matrix


def _vector(sums: _Sums, basis: Basis, shape: tuple[int, int]) -> Floats:
    """The normal equations' right side, from the correlations with the target."""
    nt, places = n_terms(_degree(basis)), _places(basis.half_width)
    shift = shifted(_degree(basis), places * np.array([2.0 / shape[0], 2.0 / shape[1]]))
    cross = sums.cross[:, _lag_index(places, basis.half_width)]  # (nt, places)
    with_target = np.einsum("dkm,md->kd", shift[:, :nt, :nt], cross)
    with_target[:, :-1] -= with_target[:, -1:]
    parts = [values[which] for values, (which, _) in zip(with_target, _spans(basis)[0])]
    return np.concatenate([*parts, _terms_of(sums.target, basis.background_degree)])


def _less_centre(block: Any) -> Any:
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
    offsets = _grid(w)
    centre = len(offsets) // 2
    return np.concatenate([np.delete(offsets, centre, axis=0), offsets[[centre]]])


def _grid(half: int) -> NDArray[np.int64]:
    """(y, x) of a square about 0, row by row."""
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    return np.stack([y.ravel(), x.ravel()], axis=1)


def _lag_index(offsets: NDArray[np.int64], w: int) -> NDArray[np.int64]:
    return (offsets[..., 0] + 2 * w) * (4 * w + 1) + offsets[..., 1] + 2 * w


def _terms_of(powers: Floats, degree: int) -> Floats:
    """Of a matrix (power of v, power of u) the entries of a degree, in the terms' order."""
    return np.array([powers[j, i] for i, j in exponents(degree)])


def _on(image: Any, values: NDArray[Any]) -> Any:
    """Numbers of the host beside ``image``, of their own type."""
    if isinstance(image, np.ndarray):
        return values
    return namespace(image).asarray(np.ascontiguousarray(values))


def _permuted(xp: Any, array: Any, axes: tuple[int, ...]) -> Any:
    return xp.permute_dims(array, axes) if hasattr(xp, "permute_dims") else xp.transpose(array, axes)


def _solver(basis: Basis, matrix: Any) -> tuple[Solver, float]:
    """Factor the normal matrix by Cholesky, scaled to a unit diagonal; ``matrix`` is overwritten.

    Returns what solves the equations, and the condition that the factor's diagonal tells.
    """
    xp, n = namespace(matrix), matrix.shape[0]
    diagonal = np.asarray(to_host(xp.reshape(matrix, (-1,))[:: n + 1]))
    if not np.all(np.isfinite(diagonal) & (diagonal > 0)):
        raise LinAlgError("an unknown has no pixel, or a pixel is not finite")
    scale, order = 1.0 / np.sqrt(diagonal), _order(basis)
    on = _on(matrix, scale)
    matrix *= on[:, None]
    matrix *= on[None, :]
    if xp is np:
        np.fill_diagonal(matrix, 1.0 + RIDGE)
        factor = cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
        roots = np.diag(factor[0])
    else:
        lower = xp.linalg.cholesky(matrix + RIDGE * xp.eye(n, dtype=xp.float64))
        roots = np.asarray(to_host(xp.reshape(lower, (-1,))[:: n + 1]))

    def solve(vector: Floats) -> Floats:
        right = vector * scale
        if xp is np:
            solution = cho_solve(factor, right, check_finite=False)
        else:
            half = xp.linalg.solve(lower, _on(matrix, right[:, None]))
            solution = np.asarray(to_host(xp.linalg.solve(lower.T, half)))[:, 0]
        if not np.all(np.isfinite(solution)):
            raise LinAlgError("the kernel's equations have no finite solution")
        out = np.empty(n)
        out[order] = solution * scale
        return out

    return solve, float((roots.max() / roots.min()) ** 2)
