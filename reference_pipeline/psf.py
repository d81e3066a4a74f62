"""The point spread function of a frame: what a point source of one electron looks like at each place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .frame import unit_coordinates


@dataclass(frozen=True)
class Psf:
    """A polynomial in (u, v) of images: PSF(x, y) = Σ_k u^i v^j · images[k], i + j ≤ degree.

    The images are float64, (n_terms, size, size) with ``size`` odd, sampled at the frame's pixels times
    ``oversampling``; the centre of the source is the centre of the middle sample. Terms are in the order
    of :func:`exponents`. (u, v) are the frame's unit coordinates.
    """

    images: NDArray[np.float64]
    degree: int
    oversampling: int
    shape: tuple[int, int]  # (ny, nx) of the frame it belongs to

    def at(self, x: float, y: float) -> NDArray[np.float64]:
        """The oversampled image at pixel (x, y), normalised to a sum of oversampling²."""
        u, v = unit_coordinates(x, y, self.shape)
        image = np.zeros(self.images.shape[1:])
        for (i, j), term in zip(exponents(self.degree), self.images):
            image += u**i * v**j * term
        return image * (self.oversampling**2 / image.sum())


def exponents(degree: int) -> list[tuple[int, int]]:
    """(i, j) of the terms u^i v^j of a polynomial of ``degree``, by total degree: 1, u, v, u², uv, v², …"""
    return [(total - j, j) for total in range(degree + 1) for j in range(total + 1)]
