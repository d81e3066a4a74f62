"""Sources on pixels: Moffats, and Sérsic profiles convolved with them, in batches of unit flux.

Matrices are those of :mod:`.optics`: M of a Moffat I(p) ∝ (1 + pᵀ M⁻¹ p)^(−β), in pixels², x first.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Single = NDArray[np.float32]

#: r0 in pixels from which I + ∇²I / 24 is the mean over a pixel to 5e-4 of the peak even at the centre.
WIDE = 5.0


def moffat_stamps(matrix: Floats, beta: float, dx: Floats, dy: Floats, radius: int) -> Single:
    """Return Moffats of unit flux, (n, 2·radius + 1, 2·radius + 1), centred (dx, dy) from the middle pixel.

    ``matrix`` (n, 2, 2) is M. The mean over a pixel is I + ∇²I / 24 far out, and a 3×3 Gauss-Legendre sum
    within 1.5 r0 of the centre where r0 < WIDE and higher derivatives count.
    """
    inverse = np.linalg.inv(matrix)
    det = np.linalg.det(inverse)
    peak = (beta - 1.0) * np.sqrt(det) / np.pi
    p = np.arange(-radius, radius + 1, dtype=np.float32)
    ax, ay = p - dx[:, None].astype(np.float32), p - dy[:, None].astype(np.float32)
    a, b, c = (inverse[:, i, j].astype(np.float32)[:, None, None] for i, j in ((0, 0), (0, 1), (1, 1)))
    # pᵀ M⁻¹ p and |M⁻¹ p|², both quadratic forms
    q1 = _form(a, b, c, ax, ay)
    q1 += 1.0
    square = inverse @ inverse
    a2, b2, c2 = (square[:, i, j].astype(np.float32)[:, None, None] for i, j in ((0, 0), (0, 1), (1, 1)))
    laplacian = _form(a2, b2, c2, ax, ay)
    laplacian *= np.float32(4 * beta * (beta + 1) / 24)
    laplacian /= q1
    laplacian -= np.float32(2 * beta / 24) * (a + c)
    laplacian /= q1
    laplacian += 1.0
    np.log(q1, out=q1)
    q1 *= np.float32(-beta)
    np.exp(q1, out=q1)
    q1 *= laplacian
    if np.sqrt(np.linalg.eigvalsh(matrix)[:, 0].min()) < WIDE:
        core = min(radius, int(np.ceil(1.5 * np.sqrt(matrix[:, [0, 1], [0, 1]].max()))) + 1)
        inner = slice(radius - core, radius + core + 1)
        q1[:, inner, inner] = _legendre_core(a, b, c, ax[:, inner], ay[:, inner], beta)
    q1 *= peak.astype(np.float32)[:, None, None]
    return q1


def _form(a: Single, b: Single, c: Single, ax: Single, ay: Single) -> Single:
    """a x² + 2b xy + c y², (n, len(ay), len(ax))."""
    out = (2.0 * b) * ax[:, None, :]
    out = out + c * ay[:, :, None]
    out *= ay[:, :, None]
    out += a * (ax * ax)[:, None, :]
    return out


def _legendre_core(a: Single, b: Single, c: Single, ax: Single, ay: Single, beta: float) -> Single:
    """The mean over each pixel of (1 + a x² + 2b xy + c y²)^(−β)."""
    t, w = _legendre(3)
    total = np.zeros((len(ax), ay.shape[1], ax.shape[1]), np.float32)
    for ty, wy in zip(0.5 * t, 0.5 * w):
        for tx, wx in zip(0.5 * t, 0.5 * w):
            q = _form(a, b, c, ax + np.float32(tx), ay + np.float32(ty))
            np.log1p(q, out=q)
            q *= np.float32(-beta)
            np.exp(q, out=q)
            q *= np.float32(wx * wy)
            total += q
    return total


@lru_cache(maxsize=8)
def moffat_cumulative(beta: float) -> tuple[Floats, Floats, float]:
    """(t, T(t), ∫(1 + t²)^(−β) dt): Student's t with 2β − 1 degrees of freedom, scaled."""
    from scipy.special import gamma, stdtr

    nu = 2.0 * beta - 1.0
    t = np.sinh(np.linspace(-8.0, 8.0, 4001))
    total = float(np.sqrt(np.pi) * gamma(beta - 0.5) / gamma(beta))
    return t, stdtr(nu, t * np.sqrt(nu)), total


def line_nodes(length: float, fwhm: float) -> tuple[Floats, Floats]:
    """Positions in (−½, ½) along a line and their weights, which sum to one."""
    n = 1 + int(np.ceil(length / (0.4 * fwhm)))
    t, w = _legendre(n)
    return 0.5 * t, 0.5 * w


def disc_nodes(radius: float, fwhm: float) -> tuple[Floats, Floats]:
    """Points of a uniform disc (pixels) and their weights, which sum to one: rings at nodes of r²."""
    if radius <= 0:
        return np.zeros((1, 2)), np.ones(1)
    n_rings = 2 + int(np.ceil(radius / (0.6 * fwhm)))
    t, w = _legendre(n_rings)
    nodes, weights = [], []
    for k, (r, weight) in enumerate(zip(radius * np.sqrt(0.5 * (t + 1)), 0.5 * w)):
        n = 6 + int(np.ceil(2 * np.pi * r / (0.6 * fwhm)))
        phi = 2 * np.pi * (np.arange(n) + 0.5 * (k % 2)) / n
        nodes.append(np.stack([r * np.cos(phi), r * np.sin(phi)], axis=-1))
        weights.append(np.full(n, weight / n))
    return np.concatenate(nodes), np.concatenate(weights)


@lru_cache(maxsize=256)
def _legendre(n: int) -> tuple[Floats, Floats]:
    t, w = np.polynomial.legendre.leggauss(n)
    return t, w


def galaxy_stamps(
    sersic_index: Floats, shapes: Floats, moffat: Floats, beta: float, dx: Floats, dy: Floats, size: int
) -> Single:
    """Return Sérsic ⊗ Moffat ⊗ pixel of unit flux, (n, size, size), centred (dx, dy) from pixel size // 2.

    ``shapes`` is G of :func:`.render.galaxy_matrices`, ``moffat`` M. The light beyond the stamp is folded
    back into it, so that none is lost. A PSF too narrow for the pixels is drawn on pixels of half the size.
    Indices outside of 0.3 to 8 are those of the nearer end.
    """
    from scipy.fft import irfft2

    narrow = np.linalg.eigvalsh(moffat)[:, 0].min() < 2.4**2  # r0 of a FWHM of 2.2 pixels
    fine = 2 if narrow else 1
    n = size * fine
    kx = 2 * np.pi * np.fft.rfftfreq(n, 1 / fine)
    ky = 2 * np.pi * np.fft.fftfreq(n, 1 / fine)
    spectrum = _table_at(_moffat_transform(beta), _wavenumber(moffat, kx, ky))
    spectrum *= _sersic_transform_at(sersic_index, _wavenumber(shapes, kx, ky))
    along_x = np.sinc(kx / (2 * np.pi)) * np.exp(-1j * kx * (dx[:, None] + size // 2))
    along_y = np.sinc(ky / (2 * np.pi)) * np.exp(-1j * ky * (dy[:, None] + size // 2))
    complex_spectrum = spectrum * along_x[:, None, :].astype(np.complex64)
    complex_spectrum *= along_y[:, :, None].astype(np.complex64)
    stamps = irfft2(complex_spectrum, s=(n, n), workers=1)[:, ::fine, ::fine]
    return np.ascontiguousarray(stamps, np.float32) * np.float32(fine * fine)


def _wavenumber(matrix: Floats, kx: NDArray[Any], ky: NDArray[Any]) -> Single:
    """ln √(kᵀ M k), (n, len(ky), len(kx)); zero becomes 1e-10."""
    a, b, c = (matrix[:, i, j].astype(np.float32)[:, None] for i, j in ((0, 0), (0, 1), (1, 1)))
    kx, ky = kx.astype(np.float32), ky.astype(np.float32)
    out = _form(a[..., None], b[..., None], c[..., None], np.broadcast_to(kx, (len(a), len(kx))),
                np.broadcast_to(ky, (len(a), len(ky))))  # fmt: skip
    np.maximum(out, np.float32(1e-20), out=out)
    np.log(out, out=out)
    out *= np.float32(0.5)
    return out


_LOG_K = (-7.0, 8.0, 3001)  # of the tables: ln k from, to, number; below, a transform is its first value


def _table_at(table: Single, log_k: Single) -> Single:
    index, rest = _index(log_k)
    low = table[index]
    return low + rest * (table[index + 1] - low)


def _index(log_k: Single) -> tuple[NDArray[np.int32], Single]:
    start, stop, n = _LOG_K
    t = (log_k - np.float32(start)) * np.float32((n - 1) / (stop - start))
    np.clip(t, 0, n - 1.001, out=t)
    index = t.astype(np.int32)
    return index, t - index


@lru_cache(maxsize=8)
def _moffat_transform(beta: float) -> Single:
    """k^(β−1) K_(β−1)(k) / (2^(β−2) Γ(β−1)): the Fourier transform of the Moffat with r0 = 1."""
    from scipy.special import gamma, kv

    k = np.exp(np.linspace(*_LOG_K[:2], _LOG_K[2]))
    return (k ** (beta - 1) * kv(beta - 1, k) / (2 ** (beta - 2) * gamma(beta - 1))).astype(np.float32)


_SERSIC_STEP = 0.05  # of the table; linear between its rows: 1.5e-4 of the flux
_SERSIC_RANGE = (0.3, 8.0)


@lru_cache(maxsize=1)
def _sersic_transforms() -> Single:
    """Transforms of Sérsic profiles of unit flux and half-light radius, one row per index, by FFTLog.

    F(k) = 2π ∫ I(r) J0(kr) r dr, I ∝ exp(−b r^(1/n)), b from Γ(2n, b) = Γ(2n) / 2.
    """
    from scipy.fft import fht, fhtoffset
    from scipy.special import gammaincinv

    n_r = 8192
    log_r = np.linspace(-22.0, 18.0, n_r)
    d = log_r[1] - log_r[0]
    offset = fhtoffset(d, mu=0.0, initial=0.0, bias=0.0)
    log_k = offset + np.linspace(-18.0, 22.0, n_r)
    wanted = np.linspace(*_LOG_K[:2], _LOG_K[2])
    rows = []
    for n in np.arange(_SERSIC_RANGE[0], _SERSIC_RANGE[1] + _SERSIC_STEP, _SERSIC_STEP):
        r = np.exp(log_r)
        profile = np.exp(-gammaincinv(2 * n, 0.5) * r ** (1 / n))
        flux = np.sum(profile * r * r) * d  # ∫ I r dr in ln r
        transform = fht(profile * r, d, mu=0.0, offset=offset) / np.exp(log_k) / flux
        row = np.interp(wanted, log_k, transform)
        rows.append(row / row[0])  # the flux: k = 1e-3 half-light radii sees all of it
    return np.array(rows, np.float32)


def _sersic_transform_at(sersic_index: Floats, log_k: Single) -> Single:
    table = _sersic_transforms()
    t = (np.clip(sersic_index, *_SERSIC_RANGE) - _SERSIC_RANGE[0]) / _SERSIC_STEP
    low = np.minimum(t.astype(int), len(table) - 2)
    share = (t - low).astype(np.float32)
    blended = (1 - share)[:, None] * table[low] + share[:, None] * table[low + 1]
    index, rest = _index(log_k)
    out = np.empty(log_k.shape, np.float32)
    for k, row in enumerate(blended):
        first = row[index[k]]
        out[k] = first + rest[k] * (row[index[k] + 1] - first)
    return out
