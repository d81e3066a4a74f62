"""Width, elongation and direction of what a difference shows, measured as a point source would be.

Second moments under a round Gaussian as wide as the PSF: faint sources have them too, and neighbours hardly
matter. The weight is taken out again, as for Gaussians, and the result scaled by what a point source at the
same place within its pixel has on the same pixels. So a point source has the frame's FWHM at any sampling,
also one whose light falls on one pixel; a hit of one pixel on a well-sampled frame has none of it.

At S/N s the FWHM of a point source scatters by 1 / s of itself: the trace of the moments by 1 / s, twice that
when the weight is taken out, half of that for the root.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .points import PointModel, point_images, stamps_of

Floats = NDArray[np.float64]

_FWHM = np.sqrt(8.0 * np.log(2.0))  # of a Gaussian, in sigma
_NARROWEST = 0.003  # of the weight's variance: a hundredth of that is rounding
_WIDEST = 0.985  # of the weight's variance: what is measured of something eight times as wide as the PSF
_BATCH = 512


@dataclass(frozen=True)
class Shapes:
    """Of n sources."""

    fwhm: Floats  # pixels, of a Gaussian with the mean of the two axes' variances
    elongation: Floats  # a / b
    angle: Floats  # radians from x to y, of the major axis


def measure_shapes(model: PointModel, x: Floats, y: Floats, sign: Floats) -> Shapes:
    """Return the shapes of sources at (x, y), ``sign`` (n,) being -1 for those that faded."""
    parts = [
        _shapes(model, x[i : i + _BATCH], y[i : i + _BATCH], sign[i : i + _BATCH])
        for i in range(0, len(x), _BATCH)
    ]
    if not parts:
        return Shapes(np.empty(0), np.empty(0), np.empty(0))
    return Shapes(*(np.concatenate([getattr(p, name) for p in parts]) for name in Shapes.__annotations__))


def _shapes(model: PointModel, x: Floats, y: Floats, sign: Floats) -> Shapes:
    sigma = max(model.fwhm / _FWHM, 0.6)
    half = int(np.ceil(4.0 * sigma))
    expected, _, _ = point_images(model, x, y, half)
    data, _, good = stamps_of(model.difference, x, y, half)
    side = np.arange(-half, half + 1)
    dy = (side[:, None] - (y - np.rint(y))[:, None, None]) + np.zeros(len(side))
    dx = (side[None, :] - (x - np.rint(x))[:, None, None]) + np.zeros((len(side), 1))
    weight = good * np.exp(-(dx**2 + dy**2) / (2.0 * sigma**2))
    own = _unweighted(_moments(data * sign[:, None, None] * weight, dx, dy), sigma)
    point = _unweighted(_moments(expected * weight, dx, dy), sigma)
    # as a transformation that makes the point source's moments those of a round PSF of the frame's FWHM
    root = np.linalg.cholesky(point)
    into = np.linalg.inv(root) * (model.fwhm / _FWHM)
    scaled = into @ own @ into.transpose(0, 2, 1)
    values, vectors = np.linalg.eigh(scaled)
    values = np.maximum(values, 1e-12)
    fwhm = _FWHM * np.sqrt(values.mean(axis=1))
    angle = np.arctan2(vectors[:, 1, 1], vectors[:, 0, 1])
    return Shapes(fwhm, np.sqrt(values[:, 1] / values[:, 0]), angle)


def _moments(weighted: Floats, dx: Floats, dy: Floats) -> Floats:
    """Second moments (n, 2, 2) in x, y about the place; zero where there is no flux."""
    total = weighted.sum(axis=(1, 2))
    safe = np.where(total > 0, total, np.inf)
    xx, xy, yy = (np.sum(weighted * product, axis=(1, 2)) / safe for product in (dx * dx, dx * dy, dy * dy))
    return np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2)


def _unweighted(moments: Floats, sigma: float) -> Floats:
    """The moments without the weight: 1 / q = 1 / m - 1 / sigma² along each axis."""
    values, vectors = np.linalg.eigh(moments)
    share = np.clip(values / sigma**2, _NARROWEST, _WIDEST)
    free = sigma**2 * share / (1.0 - share)
    return np.asarray((vectors * free[:, None, :]) @ vectors.transpose(0, 2, 1))
