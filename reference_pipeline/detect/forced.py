"""Fluxes where something is known to be, detected or not, and how faint it could have been seen.

``forced_photometry`` has the difference at hand with its PSF. ``forced_on_planes`` has no more than a stored
product keeps: the planes of flux and score, which hold at each pixel the flux of a point source at its middle
and that over its error. Between the pixels they are interpolated, and the result divided by what a Gaussian
of the FWHM gives there in the same way, since an undersampled frame's planes are sampled too coarsely.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..candidate import ForcedFlux
from ..frame import Frame, MaskBit, ZeroPoint
from ..reduce.sources import mask_near
from ..subtract.difference import BAD, Difference
from .candidates import mask_fraction
from .points import fit_fluxes, point_model

Floats = NDArray[np.float64]

LIMIT = 5.0  # sigma, of the limiting magnitude
_TAPS = np.arange(-3, 5)  # pixels from the one at or below a place: Lanczos of order 4
_MAX_MASKED = 0.5  # of the pixels within one FWHM; with more there is no flux


def forced_photometry(difference: Difference, science: Frame, x: Floats, y: Floats) -> tuple[ForcedFlux, ...]:
    """Return the flux of a point source at each place (pixels), fitted with the PSF.

    The flux is None where less than half of the PSF's weight or of the pixels within one FWHM can be used.
    Raises DetectionError ("no-psf", "no-stars") as find_candidates does.
    """
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    model = point_model(difference, science)
    ny, nx = science.shape
    # far outside, the PSF is not drawn: it is a polynomial of the place
    inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    found = fit_fluxes(model, x[inside], y[inside]).scaled(model.correction)
    flux, flux_err, masked = np.full(len(x), np.nan), np.full(len(x), np.nan), np.ones(len(x))
    flux[inside], flux_err[inside] = found.flux, found.flux_err
    masked[inside] = mask_fraction(model, x[inside], y[inside])
    bits = mask_near(difference.mask, x, y, model.fwhm)
    return _forced(x, y, flux, flux_err, masked, bits, science.zero_point, science.shape)


def forced_on_planes(
    flux: NDArray[np.float32], score: NDArray[np.float32], mask: NDArray[np.uint16], x: Floats, y: Floats, *,
    fwhm: float, zero_point: ZeroPoint | None, shape: tuple[int, int], flux_scatter: float = 0.0,
) -> tuple[ForcedFlux, ...]:  # fmt: skip
    """Return the flux of a point source at each place (pixels of the planes), by interpolation.

    ``flux`` (electrons), ``score`` and ``mask`` are planes of a difference (ny, nx), NaN where nothing is
    known; ``fwhm`` (pixels) is a point source's there. ``shape`` (ny, nx) is that of the frame that the zero
    point belongs to. ``flux_scatter``, a fraction of the flux, is what the PSF leaves uncertain: the decision
    of that name of the subtraction. Next to what is not known, the nearest pixel alone counts.
    """
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    ny, nx = flux.shape
    inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    at_x, at_y = np.where(inside, x, 0.0), np.where(inside, y, 0.0)
    column, row = np.rint(at_x).astype(int), np.rint(at_y).astype(int)
    sigma = _local_sigma(flux, score, row, column)
    value, noise = np.empty(len(x)), np.empty(len(x))
    sampled = _Sampled(fwhm)
    for begin in range(0, len(x), 4096):
        part = slice(begin, begin + 4096)
        value[part], noise[part] = _between_pixels(flux, score, at_x[part], at_y[part], sampled)
    nearest = sampled.response(column - at_x) * sampled.response(row - at_y)
    is_cut = ~np.isfinite(value)
    value = np.where(is_cut, flux[row, column] / nearest, value)
    error = sigma * np.where(is_cut, 1.0 / nearest, noise)
    error = np.hypot(error, flux_scatter * value)
    value, error = np.where(inside, value, np.nan), np.where(inside, error, np.nan)
    masked = _masked_near(mask, score, at_x, at_y, fwhm)
    bits = mask_near(mask, x, y, fwhm)
    return _forced(x, y, value, error, np.where(inside, masked, 1.0), bits, zero_point, shape)


class _Sampled:
    """How a Gaussian point source appears in its own matched filter, along one axis of a pixel grid."""

    def __init__(self, fwhm: float) -> None:
        self.sigma = max(fwhm, 0.8) / np.sqrt(8.0 * np.log(2.0))
        self.places = np.arange(-int(6 * self.sigma) - 8, int(6 * self.sigma) + 9, dtype=float)
        self.norm = float(np.square(self._profile(self.places)).sum())
        self.phases = np.linspace(0.0, 1.0, 65)
        taps = lanczos(self.phases)
        self.gain = np.sum(taps * self.response(_TAPS - self.phases[:, None]), axis=1)
        noise = self.response(np.subtract.outer(_TAPS, _TAPS))
        self.noise = np.sqrt(np.einsum("pi,ij,pj->p", taps, noise, taps))

    def _profile(self, t: Floats) -> Floats:
        return np.asarray(np.exp(-np.square(t) / (2.0 * self.sigma**2)))

    def response(self, distance: Floats) -> Floats:
        """The plane at a pixel so far from the source, in units of a source at the middle of its pixel.

        Only the source lies between pixels: its profile and the filter's are sampled at different phases.
        """
        moved = self._profile(self.places - np.asarray(distance, float)[..., None])
        return np.asarray((moved * self._profile(self.places)).sum(-1) / self.norm)


def lanczos(phase: Floats) -> Floats:
    """Weights (n, 8) of the pixels at _TAPS from the one below for places ``phase`` in [0, 1] above it."""
    t = np.asarray(phase, float)[:, None] - _TAPS
    weights = np.sinc(t) * np.sinc(t / 4.0) * (np.abs(t) < 4.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _between_pixels(
    flux: NDArray[np.float32], score: NDArray[np.float32], x: Floats, y: Floats, sampled: _Sampled
) -> tuple[Floats, Floats]:
    """Flux at each place, NaN beside what is not known, and by what its error differs from a pixel's.

    flux = (sum p d / V) / (sum p² / V), and what is smooth in a bright source are these sums, not their
    ratio. They are score² / flux and (score / flux)².
    """
    ny, nx = flux.shape
    left, below = np.floor(x).astype(int), np.floor(y).astype(int)
    rows, columns = below[:, None] + _TAPS, left[:, None] + _TAPS
    known = ((rows >= 0) & (rows < ny)).all(axis=1) & ((columns >= 0) & (columns < nx)).all(axis=1)
    at = rows.clip(0, ny - 1)[:, :, None], columns.clip(0, nx - 1)[:, None, :]
    f, s = flux[at].astype(float), score[at].astype(float)
    root = np.where(f != 0, s / np.where(f != 0, f, 1.0), np.nan)
    by_y, by_x = lanczos(y - below), lanczos(x - left)
    signal = np.einsum("ni,nij,nj->n", by_y, s * root, by_x)
    power = np.einsum("ni,nij,nj->n", by_y, root * root, by_x)
    gain_x, gain_y = (np.interp(p, sampled.phases, sampled.gain) for p in (x - left, y - below))
    noise_x, noise_y = (np.interp(p, sampled.phases, sampled.noise) for p in (x - left, y - below))
    gain = gain_x * gain_y
    good = known & (power > 0)
    value = np.where(good, signal / np.where(good, power, 1.0), np.nan) / gain
    return value, noise_x * noise_y / gain


def _local_sigma(
    flux: NDArray[np.float32], score: NDArray[np.float32], row: NDArray[np.int64], column: NDArray[np.int64]
) -> Floats:
    """The error of a flux about each pixel: the median of flux / score over 3 × 3, which is smooth."""
    ny, nx = flux.shape
    offsets = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    rows = (row[:, None] + offsets[:, 0]).clip(0, ny - 1)
    columns = (column[:, None] + offsets[:, 1]).clip(0, nx - 1)
    f, s = flux[rows, columns].astype(float), score[rows, columns].astype(float)
    known = np.isfinite(f) & np.isfinite(s) & (s != 0) & (f != 0)
    ratio = np.where(known, np.abs(f / np.where(known, s, 1.0)), np.nan)
    out = np.full(len(row), np.nan)
    some = known.any(axis=1)
    out[some] = np.nanmedian(ratio[some], axis=1)
    return out


def _masked_near(
    mask: NDArray[np.uint16], score: NDArray[np.float32], x: Floats, y: Floats, fwhm: float
) -> Floats:
    """The fraction of the pixels within one FWHM that have a bit of BAD, no score, or lie outside."""
    ny, nx = mask.shape
    half = int(np.ceil(fwhm))
    side = np.arange(-half, half + 1)
    dy, dx = np.nonzero(np.hypot(side[:, None], side) <= fwhm)
    rows = np.rint(y).astype(int)[:, None] + dy - half
    columns = np.rint(x).astype(int)[:, None] + dx - half
    inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
    at = rows.clip(0, ny - 1), columns.clip(0, nx - 1)
    good = inside & ((mask[at] & np.uint16(BAD)) == 0) & np.isfinite(score[at])
    return np.asarray(1.0 - good.mean(axis=1))


def _forced(
    x: Floats, y: Floats, flux: Floats, flux_err: Floats, masked: Floats, bits: NDArray[np.uint16],
    zero_point: ZeroPoint | None, shape: tuple[int, int],
) -> tuple[ForcedFlux, ...]:  # fmt: skip
    """The values, None where they are NaN or too much is masked."""
    known = np.isfinite(flux) & np.isfinite(flux_err) & (flux_err > 0) & (masked <= _MAX_MASKED)
    limit = np.full(len(x), np.nan)
    if zero_point is not None:
        faintest = LIMIT * np.where(known, flux_err, 1.0)
        limit = zero_point.value + zero_point.offset(x, y, shape) - 2.5 * np.log10(faintest)
    found = []
    for i in range(len(x)):
        flags = ("masked",) * bool(masked[i] > 0)
        flags += ("edge",) * bool(bits[i] & MaskBit.OFF_IMAGE)
        found.append(
            ForcedFlux(
                float(x[i]),
                float(y[i]),
                float(flux[i]) if known[i] else None,
                float(flux_err[i]) if known[i] else None,
                float(limit[i]) if known[i] and np.isfinite(limit[i]) else None,
                float(masked[i]),
                flags,
            )
        )
    return tuple(found)
