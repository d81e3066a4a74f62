"""What a point source looks like in a difference, and what its flux is multiplied with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree

from ..frame import Frame
from ..psf import Psf
from ..reduce.photometry import background_subtracted
from ..reduce.psf import psf_stamps
from .kernel import Kernel

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_MODEL_ERROR = 0.01  # of a star's flux by the PSF: from place to place the model is off by about that


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


def aperture_correction(science: Frame, x: Rows, y: Rows, fwhm: float) -> float:
    """What fluxes measured with the PSF model are to be multiplied with, from the stars at pixels (x, y).

    The mean of their total fluxes over those of the PSF, without outliers: the sum of a model is that of its
    wings, which it knows least, and the model of few stars has noise. 1 before the photometry, which gives
    total fluxes.
    """
    table, psf = science.sources, science.psf
    assert table is not None
    assert psf is not None
    if "flux" not in table.colnames:
        return 1.0
    rows = cKDTree(np.stack([table["x"], table["y"]], axis=1)).query(np.stack([x, y], axis=1))[1]
    half = round(1.5 * fwhm)
    at_x, at_y = (np.asarray(table[name], float)[rows] for name in ("x", "y"))
    stamps, _, _ = psf_stamps(psf, at_x, at_y, half)
    ratios, weights = [], []
    for j, i, row, stamp in zip(np.rint(at_x).astype(int), np.rint(at_y).astype(int), rows, stamps):
        here = np.s_[i - half : i + half + 1, j - half : j + half + 1]
        pixels = background_subtracted(science, here)
        total, error = float(table["flux"][row]), float(table["flux_error"][row])
        measured = float((pixels * stamp).sum() / np.square(stamp).sum())
        if total > 0 and measured > 0 and error > 0 and table["is_calibration"][row]:
            ratios.append(total / measured)
            weights.append(1.0 / (_MODEL_ERROR**2 + (error / total) ** 2))
    if not ratios:
        return 1.0
    ratio, weight = np.array(ratios), np.array(weights)
    middle = np.median(ratio)
    # a neighbour in the aperture, a variable galaxy: not by how far they could be for their noise
    near = np.abs(ratio - middle) <= 3.0 / np.sqrt(weight)
    return float(np.average(ratio[near], weights=weight[near])) if near.any() else float(middle)
