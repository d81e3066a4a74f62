"""How faint a source may be and still be found: injected into a frame, detected by the pipeline's code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import curve_fit
from scipy.spatial import cKDTree

from reference_pipeline.config import Sources
from reference_pipeline.frame import Frame
from reference_pipeline.reduce.psf import psf_stamps
from reference_pipeline.reduce.sources import find_sources

OFFSETS = np.array([-0.6, -0.4, -0.2, -0.1, 0.0, 0.1, 0.2, 0.4, 0.6])  # mag about the frame's own limit
APART = 8.0  # FWHM between an injected source and any other
N_EACH = 120


def completeness_limit(frame: Frame, *, seed: int) -> float:
    """Return the magnitude at which half of the injected sources are found."""
    rng = np.random.default_rng(seed)
    found = [_found(frame, frame.quality.limiting_magnitude + offset, rng) for offset in OFFSETS]

    def fraction(x: np.ndarray, half: float, width: float) -> np.ndarray:
        return 1 / (1 + np.exp((x - half) / width))

    (half, _), _ = curve_fit(fraction, OFFSETS, found, (0.0, 0.1))
    return float(frame.quality.limiting_magnitude + half)


def _found(frame: Frame, magnitude: float, rng: np.random.Generator) -> float:
    """The fraction of sources of one magnitude that are found; Poisson noise of their own light included."""
    x, y = _places(frame, rng)
    total = 10 ** (0.4 * (frame.zero_point.value + frame.zero_point.offset(x, y, frame.shape) - magnitude))
    half = int(np.ceil(4 * frame.quality.fwhm))
    stamps, _, _ = psf_stamps(frame.psf, x, y, half)
    data, variance = frame.data.copy(), frame.variance.copy()
    for stamp, flux, xi, yi in zip(stamps, total, np.rint(x).astype(int), np.rint(y).astype(int)):
        box = np.s_[yi - half : yi + half + 1, xi - half : xi + half + 1]
        electrons = np.maximum(flux * stamp, 0)
        data[box] += rng.poisson(electrons)
        variance[box] += electrons.astype(np.float32)
    injected = find_sources(replace(frame, data=data, variance=variance, sources=None), config=Sources())
    tree = cKDTree(np.column_stack([injected.sources["x"], injected.sources["y"]]))
    distance, _ = tree.query(np.column_stack([x, y]))
    return float(np.mean(distance < frame.quality.fwhm / 2))


def _places(frame: Frame, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places on good pixels, away from the frame's own sources and from each other."""
    ny, nx = frame.shape
    edge = int(np.ceil(4 * frame.quality.fwhm)) + 2
    apart = APART * frame.quality.fwhm
    taken = np.column_stack([frame.sources["x"], frame.sources["y"]])
    places: list[np.ndarray] = []
    for _ in range(200 * N_EACH):
        place = rng.uniform((edge, edge), (nx - edge, ny - edge))
        others = np.vstack([taken, *places]) if places else taken
        column, row = np.rint(place).astype(int)
        masked = frame.mask[row - 2 : row + 3, column - 2 : column + 3].any()
        if not masked and np.hypot(*(others - place).T).min() > apart:
            places.append(place[None])
            if len(places) == N_EACH:
                break
    x, y = np.vstack(places).T
    return x, y
