"""The kernel that turns one image into the likeness of another, varying over the frame (Alard & Lupton 1998).

    likeness(x, y) = sum over (dy, dx) of K(x, y)[dy, dx] * image(y - dy, x - dx) + B(x, y)

K is a polynomial in the frame's unit coordinates of images of side 2 w + 1, B one of numbers; both in the
Legendre products of ``polynomials.legendre_terms``. The basis in which it is fitted is that of shifted deltas
(Miller, Pennypacker & White 2008; Bramich 2008): one delta at the centre, and for every other place a delta
there less one at the centre, which sums to zero. The photometric ratio, the sum of K, is then one
coefficient for each of its own polynomial's terms, apart from the kernel's shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..frame import unit_coordinates
from ..polynomials import legendre_terms

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kernel:
    """A kernel and a background, both varying; ``shape`` (ny, nx) is the frame they belong to."""

    images: Floats  # (n_terms, 2 w + 1, 2 w + 1), of the Legendre products of ``degree``
    degree: int
    background: Floats  # (n,), of the Legendre products of ``background_degree``, electrons
    background_degree: int
    shape: tuple[int, int]

    @property
    def half_width(self) -> int:
        """w: pixels from the centre to the kernel's edge."""
        return self.images.shape[1] // 2

    def at(self, x: float, y: float) -> Floats:
        """K at a pixel, (2 w + 1, 2 w + 1)."""
        return np.tensordot(self._terms(x, y, self.degree), self.images, 1)

    def ratio_at(self, x: float, y: float) -> float:
        """The photometric ratio at a pixel: the sum of K."""
        return float(self.at(x, y).sum())

    def background_at(self, x: NDArray[Any] | float, y: NDArray[Any] | float) -> Floats:
        """B at pixels."""
        return np.asarray(self._terms(x, y, self.background_degree) @ self.background)

    def _terms(self, x: NDArray[Any] | float, y: NDArray[Any] | float, degree: int) -> Floats:
        u, v = unit_coordinates(x, y, self.shape)
        return legendre_terms(u, v, degree)


@dataclass(frozen=True)
class Basis:
    """Which coefficients a fit has, and in which order.

    ratio (n_ratio), then for each place but the centre its terms (n_places * n_terms, place by place), then
    the background (n_background).
    """

    half_width: int
    degree: int  # of the kernel's shape
    ratio_degree: int  # of the photometric ratio
    background_degree: int

    @property
    def n_ratio(self) -> int:
        """Terms of the photometric ratio."""
        return n_terms(self.ratio_degree)

    @property
    def n_terms(self) -> int:
        """Terms of each place of the kernel."""
        return n_terms(self.degree)

    @property
    def n_background(self) -> int:
        """Terms of the background."""
        return n_terms(self.background_degree)

    @property
    def n_places(self) -> int:
        """Places of the kernel, the centre apart."""
        return (2 * self.half_width + 1) ** 2 - 1

    @property
    def n_coefficients(self) -> int:
        """All of them."""
        return self.n_ratio + self.n_places * self.n_terms + self.n_background

    def kernel(self, coefficients: Floats, shape: tuple[int, int]) -> Kernel:
        """Return the kernel of fitted ``coefficients`` (n_coefficients,)."""
        side = 2 * self.half_width + 1
        n_images = max(self.n_terms, self.n_ratio)  # a lower degree's terms come first in a higher one's
        images = np.zeros((n_images, side * side))
        end = self.n_ratio + self.n_places * self.n_terms
        shifted = coefficients[self.n_ratio : end].reshape(self.n_places, self.n_terms)
        centre = side * side // 2
        places = np.delete(np.arange(side * side), centre)
        images[: self.n_terms, places] = shifted.T
        images[: self.n_terms, centre] -= shifted.sum(axis=0)
        images[: self.n_ratio, centre] += coefficients[: self.n_ratio]
        return Kernel(
            images.reshape(n_images, side, side),
            max(self.degree, self.ratio_degree),
            coefficients[end:].copy(),
            self.background_degree,
            shape,
        )


def n_terms(degree: int) -> int:
    """How many products u^i v^j there are with i + j <= degree."""
    return (degree + 1) * (degree + 2) // 2
