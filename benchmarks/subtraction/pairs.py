"""Simulated pairs of images on one grid, drawn fast at any size, and where results go."""

import numpy as np

STARS = 400  # in a million pixels, above 1000 electrons
SKY = 200.0  # electrons a pixel, of both
HALF = 16  # of what is drawn of a star, pixels


def star_pair(
    shape: tuple[int, int], seed: int, *, varying: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (target, image, stars): sky-subtracted noisy images, float32, and the stars' rows (x, y, flux).

    The image is sharper; the target's width changes over the frame by a quadratic polynomial, its scale is
    1.3 and its sky has a slope. Not ``varying``: neither, and no star is at the edge, so that copies of the
    pair fit together.
    """
    rng = np.random.default_rng(seed)
    ny, nx = shape
    n = max(10, round(STARS * ny * nx / 1e6))
    edge = 0 if varying else HALF + 1
    x, y = (rng.uniform(edge, side - 1 - edge, n) for side in (nx, ny))
    stars = np.stack([x, y, 1e3 * rng.pareto(0.8, n).clip(0, 300) + 1e3], axis=1)
    image, target = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    u, v = 2 * stars[:, 0] / nx - 1, 2 * stars[:, 1] / ny - 1
    add(image, stars, np.full(n, 2.6 / 2.3548))
    width = 3.6 + varying * (0.2 * u - 0.1 * v + 0.15 * u * v)
    add(target, stars * [1, 1, 1.3], width / 2.3548)
    for light in (image, target):
        for rows in range(0, ny, 512):  # strips: no copy of the whole frame in double precision
            part = light[rows : rows + 512]
            part += np.sqrt(part + SKY) * rng.standard_normal(part.shape, np.float32)
    target += varying * np.linspace(-3, 3, nx, dtype=np.float32)
    return target, image, stars


def add(image: np.ndarray, stars: np.ndarray, sigma: np.ndarray) -> None:
    """Add Gaussian stars."""
    ny, nx = image.shape
    side = np.arange(-HALF, HALF + 1)
    for (x, y, flux), s in zip(stars, sigma):
        i, j = round(y), round(x)
        rows, columns = (
            slice(max(0, i - HALF), min(ny, i + HALF + 1)),
            slice(max(0, j - HALF), min(nx, j + HALF + 1)),
        )
        across = np.exp(-0.5 * ((side + j - x) / s) ** 2)[columns.start - j + HALF : columns.stop - j + HALF]
        up = np.exp(-0.5 * ((side + i - y) / s) ** 2)[rows.start - i + HALF : rows.stop - i + HALF]
        image[rows, columns] += flux / (2 * np.pi * s**2) * np.outer(up, across)
