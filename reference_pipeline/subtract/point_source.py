"""What a point source looks like in a difference, and what its flux is multiplied with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree

from ..frame import Frame
from ..psf import Psf
from ..reduce.photometry import background_subtracted
from ..reduce.psf import psf_stamps
from .kernel import Kernel

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_LEAST_SCATTER = 0.001  # of a flux: few stars can agree by chance


@dataclass(frozen=True)
class PointSource:
    """What a point source looks like in a difference: in the target image, or behind the kernel."""

    psf: Psf  # of the science frame
    kernel: Kernel | None  # that the science image went through; None: it was not convolved
    half: int  # pixels, half the side of its images

    def at(self, x: float, y: float) -> Floats:
        """Of one electron at the pixel nearest to (x, y): (2 half + 1, 2 half + 1), centred, sum 1."""
        i, j = round(float(y)), round(float(x))
        stamps, _, _ = psf_stamps(self.psf, np.array([j], float), np.array([i], float), self.half)
        image = stamps[0]
        if self.kernel is not None:
            image = np.asarray(fftconvolve(image, self.kernel.at(j, i), mode="same"))
        return np.asarray(image / image.sum())

    def split(self, x: Floats, y: Floats) -> list[tuple[PointSource, NDArray[np.intp]]]:
        """What a source is like at the places (x, y), and at which of them: this, at all."""
        return [(self, np.arange(len(x)))]


@dataclass(frozen=True)
class PartSources:
    """What a point source looks like in each part of a difference."""

    top: NDArray[np.int64]  # (n_rows,): the first row of pixels of each row of parts
    left: NDArray[np.int64]  # (n_columns,)
    sources: tuple[PointSource | None, ...]  # row by row; None: the part was refused

    def at(self, x: float, y: float) -> Floats:
        """As PointSource.at, of the part that the pixel lies in."""
        (source, _), *_ = self.split(np.array([x], float), np.array([y], float))
        return source.at(x, y)

    def split(self, x: Floats, y: Floats) -> list[tuple[PointSource, NDArray[np.intp]]]:
        """Which of the places (x, y) lie in which part: (source, rows). In a refused part, any other's."""
        number = self._along(self.top, y) * len(self.left) + self._along(self.left, x)
        any_other = next(source for source in self.sources if source is not None)
        return [(self.sources[n] or any_other, np.flatnonzero(number == n)) for n in np.unique(number)]

    @staticmethod
    def _along(first: NDArray[np.int64], places: Floats) -> NDArray[np.intp]:
        return np.clip(np.searchsorted(first, np.rint(places), side="right") - 1, 0, len(first) - 1)


def point_source(science: Frame, kernel: Kernel, is_template_convolved: bool) -> PointSource:
    """The PSF of the difference: a new source went through the kernel where the science image did."""
    psf = science.psf
    assert psf is not None
    half = (psf.images.shape[1] // psf.oversampling - 1) // 2
    if is_template_convolved:
        return PointSource(psf, None, half)
    return PointSource(psf, kernel, half + kernel.half_width)


def aperture_correction(
    science: Frame, x: Rows, y: Rows, fwhm: float, noise_factor: float = 1.0
) -> tuple[float, float]:
    """What fluxes measured with the PSF model are to be multiplied with, from the stars at pixels (x, y), and
    what part of itself such a flux is then uncertain by, beyond its noise.

    The mean of the stars' total fluxes over those of the PSF, without outliers: the sum of a model is that of
    its wings, which it knows least, and the model of few stars has noise. A PSF that changes over the frame
    in other ways than its model makes the stars scatter, and any other source is as uncertain. (1, 0) before
    the photometry, which gives total fluxes. ``noise_factor`` is a resampled frame's.
    """
    table, psf = science.sources, science.psf
    assert table is not None
    assert psf is not None
    if "flux" not in table.colnames:
        return 1.0, 0.0
    rows = cKDTree(np.stack([table["x"], table["y"]], axis=1)).query(np.stack([x, y], axis=1))[1]
    half = round(1.5 * fwhm)
    at_x, at_y = (np.asarray(table[name], float)[rows] for name in ("x", "y"))
    stamps, _, _ = psf_stamps(psf, at_x, at_y, half)
    ratios, variances = [], []
    for j, i, row, stamp in zip(np.rint(at_x).astype(int), np.rint(at_y).astype(int), rows, stamps):
        here = np.s_[i - half : i + half + 1, j - half : j + half + 1]
        pixels = background_subtracted(science, here)
        total, error = float(table["flux"][row]), float(table["flux_error"][row])
        squares = np.square(stamp).sum()
        measured = float((pixels * stamp).sum() / squares)
        if total > 0 and measured > 0 and error > 0 and table["is_calibration"][row]:
            noise = noise_factor**2 * science.variance[here]
            own = float((np.square(stamp) * noise).sum() / squares**2)
            common = float((stamp * noise).sum() / squares)  # photons that both of them count
            ratios.append(total / measured)
            relative = (error / total) ** 2 + own / measured**2 - 2.0 * common / (total * measured)
            variances.append(ratios[-1] ** 2 * max(relative, 0.1 * (error / total) ** 2))
    if not ratios:
        return 1.0, 0.0
    return _mean_and_scatter(np.array(ratios), np.array(variances), len(psf.images))


def _mean_and_scatter(values: Floats, variances: Floats, n_terms: int) -> tuple[float, float]:
    """The weighted mean; its error and the scatter about it beyond what ``variances`` give; no outliers.

    Nothing is left out for being further off than its noise alone allows: what is beyond 3 sigma with the
    scatter is a neighbour in the aperture, or a galaxy. Of a PSF whose polynomial has ``n_terms``, so many
    degrees of freedom are spent: these stars agree with it better than others do.
    """
    mean = float(np.median(values))
    scatter = max(1.4826 * float(np.median(np.abs(values - mean))), _LEAST_SCATTER)
    error = 0.0
    for _ in range(5):
        near = np.abs(values - mean) <= 3.0 * np.sqrt(variances + scatter**2)
        if near.sum() < 3:
            break
        weights = 1.0 / (variances[near] + scatter**2)
        mean, error = float(np.average(values[near], weights=weights)), float(weights.sum() ** -0.5)
        free = max(int(near.sum()) - n_terms, 1)
        scatter = max(_scatter(values[near] - mean, variances[near], free), _LEAST_SCATTER)
    return mean, float(np.hypot(scatter, error))


def _scatter(residuals: Floats, variances: Floats, free: int) -> float:
    """What, added to the errors, makes chi-square ``free``; 0 where it is less without."""

    def excess(scatter: float) -> float:
        return float((np.square(residuals) / (variances + scatter**2)).sum()) - free

    return float(brentq(excess, 0.0, 1.0, xtol=1e-6)) if excess(0.0) > 0.0 > excess(1.0) else 0.0
