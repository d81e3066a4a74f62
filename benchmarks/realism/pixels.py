"""What a stamp's pixels say: level, noise, correlation, width of point sources, peaks; real or simulated."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, optimize

HALF = 5  # pixels around a star that its width is fitted on
MIDDLE = 8  # pixels about the middle that are left out of peaks: a real stamp has its alert there


@dataclass(frozen=True)
class StampPixels:
    """Of one 63×63 stamp, in the stamp's unit; NaN where it cannot be said."""

    background: float  # mode of the sky: median of the clipped pixels
    noise: float  # rms of the clipped pixels
    correlation: float  # of horizontally and vertically neighbouring clipped pixels
    brightest: float  # above the background, in noise, outside the middle
    n_peaks: int  # local maxima above 5 noise, outside the middle
    widths: tuple[float, ...]  # FWHM in pixels of well-measured, unsaturated, alone standing stars
    sharpness: tuple[float, ...]  # of the same: the brightest pixel over the flux within HALF


def measure(stamp: np.ndarray, *, saturation: float) -> StampPixels | None:
    """Return the statistics of ``stamp``; None where a tenth of it is missing."""
    valid = np.isfinite(stamp)
    if valid.mean() < 0.9:
        return None
    image = np.where(valid, stamp, np.median(stamp[valid])).astype(float)
    background, noise, sky = clipped_sky(image, valid)
    above = image - background
    peaks = find_peaks(above, 5 * noise)
    stars = [fit_star(above, y, x, noise) for y, x in alone(peaks, above, noise, saturation - background)]
    outside = np.ones(image.shape, bool)
    outside[tuple(slice(n // 2 - MIDDLE, n // 2 + MIDDLE + 1) for n in image.shape)] = False
    good = [s for s in stars if s is not None]
    return StampPixels(
        background=background,
        noise=noise,
        correlation=neighbour_correlation(above, sky),
        brightest=float(above[outside].max() / noise),
        n_peaks=sum(bool(outside[y, x]) for y, x in peaks),
        widths=tuple(w for w, _ in good),
        sharpness=tuple(s for _, s in good),
    )


def clipped_sky(image: np.ndarray, valid: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Return level, rms and the mask of the pixels of the sky: clipped at 3σ, sources grown by 2 pixels."""
    sky = valid.copy()
    level, rms = 0.0, 1.0
    for _ in range(12):
        level = float(np.median(image[sky]))
        rms = float(1.4826 * np.median(np.abs(image[sky] - level))) or 1e-6
        smooth = ndimage.gaussian_filter(image - level, 1.0)
        source = ndimage.binary_dilation(smooth > 1.2 * rms, iterations=2)
        now = valid & ~source & (np.abs(image - level) < 4 * rms)
        if now.sum() < 200 or (now == sky).all():
            break
        sky = now
    return level, rms, sky


def neighbour_correlation(above: np.ndarray, sky: np.ndarray) -> float:
    """Return the correlation of pixels of the sky one apart, the mean over both axes."""
    products, squares = [], []
    for a, b, both in (
        (above[:, 1:], above[:, :-1], sky[:, 1:] & sky[:, :-1]),
        (above[1:], above[:-1], sky[1:] & sky[:-1]),
    ):
        x, y = a[both] - a[both].mean(), b[both] - b[both].mean()
        products.append(float((x * y).sum()))
        squares.append(float(np.sqrt((x * x).sum() * (y * y).sum())))
    return sum(products) / sum(squares) if sum(squares) else float("nan")


def find_peaks(above: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Return (y, x) of the local maxima (3×3) above ``threshold``."""
    smooth = ndimage.uniform_filter(above, 3)  # one noisy pixel beside a star is not a star
    is_peak = (smooth == ndimage.maximum_filter(smooth, 5)) & (above > 0.5 * threshold)
    is_peak &= 3 * smooth > threshold  # nine pixels' sum, whose noise is three times a pixel's
    ys, xs = np.nonzero(is_peak)
    return list(zip(ys.tolist(), xs.tolist()))


def alone(
    peaks: list[tuple[int, int]], above: np.ndarray, noise: float, saturation: float
) -> list[tuple[int, int]]:
    """Return the peaks whose star can be fitted: bright, unsaturated, inside, none near them."""
    out = []
    for y, x in peaks:
        inside = HALF <= y < above.shape[0] - HALF and HALF <= x < above.shape[1] - HALF
        others = [p for p in peaks if p != (y, x) and max(abs(p[0] - y), abs(p[1] - x)) <= 2 * HALF]
        if inside and not others and 40 * noise < above[y, x] < 0.6 * saturation:
            out.append((y, x))
    return out


def fit_star(above: np.ndarray, y: int, x: int, noise: float) -> tuple[float, float] | None:
    """Return (FWHM in pixels, brightest pixel over flux) of a round Moffat fitted to a star, or None."""
    cut = above[y - HALF : y + HALF + 1, x - HALF : x + HALF + 1]
    j, i = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1]

    def residual(p: np.ndarray) -> np.ndarray:
        amplitude, y0, x0, width, beta, level = p
        r2 = (j - y0) ** 2 + (i - x0) ** 2
        model = level + amplitude * (1 + r2 * (2 ** (1 / beta) - 1) / (0.25 * width**2)) ** -beta
        return ((cut - model) / np.sqrt(noise**2 + (0.03 * cut) ** 2)).ravel()

    start = (cut.max(), 0, 0, 2.2, 3.0, 0)
    limits = ((0, -1.5, -1.5, 0.5, 1.5, -np.inf), (np.inf, 1.5, 1.5, 12, 10, np.inf))
    fit = optimize.least_squares(residual, start, bounds=limits, max_nfev=60)
    flux = float(cut.sum() - fit.x[5] * cut.size)
    if fit.cost > 3 * cut.size or flux <= 0:
        return None  # not a point source
    return float(fit.x[3]), float(cut.max() / flux)
