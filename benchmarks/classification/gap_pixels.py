"""What the pixels of a stamp say, plane by plane and between planes: numbers to tell a simulation by."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from multiscale.surveys.planes import center_excess
from reference_pipeline.labelled.stamp import LabelledStamp

PLANES = ("science", "template", "difference")
MIDDLE = 5  # pixels about the middle that hold the object
#: Statistics that what networks see does not hold: levels and noise in the survey's units.
BELOW_NOISE = frozenset(f"{plane}: {what}" for plane in PLANES for what in ("level, ADU", "noise, ADU"))


def statistics(stamp: LabelledStamp) -> dict[str, float]:
    """Return the statistics of a stamp's original pixels; NaN where one cannot be said.

    Noise is that of the clipped sky of each plane. Besides the levels in ADU all are in units of noise, or
    without a unit.
    """
    assert stamp.original is not None
    out: dict[str, float] = {}
    skies = {}
    for plane in PLANES:
        pixels = np.asarray(stamp.original.planes[plane], float)
        found, sky = of_plane(pixels, is_difference=plane == "difference")
        out |= {f"{plane}: {name}": value for name, value in found.items()}
        skies[plane] = sky
    return out | between(skies)


def snr_of(stamp: LabelledStamp) -> float:
    """Return the S/N of 3 x 3 pixels at the middle of the difference, measured alike for both kinds."""
    assert stamp.original is not None
    middle = (stamp.original.shape[0] - 1) // 2
    return 3.0 * center_excess(stamp.original.planes["difference"], middle, middle)


def of_plane(pixels: np.ndarray, *, is_difference: bool) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return the statistics of one plane, and its pixels in noise with the mask of the sky among them."""
    valid = np.isfinite(pixels)
    if valid.mean() < 0.5:
        return dict.fromkeys(_NAMES, np.nan) | {"invalid": float(1 - valid.mean())}, {}
    filled = np.where(valid, pixels, np.median(pixels[valid]))
    level, noise, sky = sky_of(filled, valid)
    scaled = (filled - level) / noise
    values = scaled[sky]
    outside = _outside(pixels.shape)
    out = {
        "level, ADU": level, "noise, ADU": noise, "invalid": float(1 - valid.mean()),
        "correlation along x": _correlation(scaled, sky, (0, 1)),
        "correlation along y": _correlation(scaled, sky, (1, 0)),
        "correlation of diagonals": _correlation(scaled, sky, (1, 1)),
        "correlation, 2 pixels": _correlation(scaled, sky, (0, 2)),
        "correlation, 4 pixels": _correlation(scaled, sky, (0, 4)),
        "kurtosis of the sky": float(np.mean(values**4) / np.mean(values**2) ** 2 - 3),
        "skewness of the sky": float(np.mean(values**3) / np.mean(values**2) ** 1.5),
        "slope of the sky along x": _slope(scaled, sky, 1),
        "slope of the sky along y": _slope(scaled, sky, 0),
        "rms of columns": _stripes(scaled, sky, 0),
        "rms of rows": _stripes(scaled, sky, 1),
        "fraction of sky": float(sky.sum() / valid.sum()),
        "lowest outside": float(scaled[outside & valid].min()),
        "highest outside, log": float(np.log10(max(scaled[outside & valid].max(), 1e-3))),
        "peaks outside": _peaks(scaled, outside), "holes outside": _peaks(-scaled, outside),
        "same as a neighbour": float(np.mean(np.diff(filled, axis=1)[valid[:, 1:] & valid[:, :-1]] == 0)),
        **_middle(scaled, is_difference=is_difference),
    }  # fmt: skip
    return out, {"scaled": scaled, "sky": sky, "noise": np.array(noise)}


def sky_of(image: np.ndarray, valid: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Return level, noise (MAD) and mask of the sky: without sources grown by 2 pixels, within 4 noise."""
    smooth = ndimage.uniform_filter(image, 3)
    level = float(np.median(image[valid]))
    noise = float(1.4826 * np.median(np.abs(image[valid] - level))) or 1e-6
    sky = valid
    for _ in range(3):
        source = ndimage.binary_dilation(np.abs(smooth - level) > 1.3 * noise, iterations=2)
        now = valid & ~source & (np.abs(image - level) < 4 * noise)
        if now.sum() < 200:
            break
        sky = now
        level = float(np.median(image[sky]))
        noise = float(1.4826 * np.median(np.abs(image[sky] - level))) or 1e-6
    return level, noise, sky


def _peaks(scaled: np.ndarray, outside: np.ndarray) -> float:
    """How many local maxima above 5 noise."""
    return float(((scaled == ndimage.maximum_filter(scaled, 5)) & (scaled > 5) & outside).sum())


def _middle(scaled: np.ndarray, *, is_difference: bool) -> dict[str, float]:
    """Flux, place and shape of what stands in the middle; a negative difference is turned over."""
    y0, x0 = ((n - 1) // 2 for n in scaled.shape)
    box = scaled[y0 - MIDDLE : y0 + MIDDLE + 1, x0 - MIDDLE : x0 + MIDDLE + 1]
    core = box[MIDDLE - 1 : MIDDLE + 2, MIDDLE - 1 : MIDDLE + 2]
    if is_difference and core.sum() < 0:
        box, core = -box, -core
    flux, dy, dx, width, ellipticity = _moments(box)
    wide = box[MIDDLE - 3 : MIDDLE + 4, MIDDLE - 3 : MIDDLE + 4].sum()
    return {
        "peak, log": float(np.log10(max(core.max(), 1e-2))),
        "peak of 3x3": float(core.max() / core.sum()) if core.sum() > 3 else np.nan,
        "3x3 of 7x7": float(core.sum() / wide) if wide > 5 else np.nan,
        "7x7 of 11x11": float(wide / box.sum()) if box.sum() > 10 else np.nan,
        "flux in the middle, log": float(np.log10(max(flux, 1e-2))),
        "offset along x": dx, "offset along y": dy, "offset": float(np.hypot(dx, dy)),
        "width": width, "ellipticity": ellipticity,
        "lowest in the middle": float(box.min()),
    }  # fmt: skip


def _moments(box: np.ndarray) -> tuple[float, float, float, float, float]:
    """Flux, centroid (y, x), width and ellipticity under a Gaussian window of 2 pixels."""
    y, x = np.mgrid[: box.shape[0], : box.shape[1]] - MIDDLE
    dy = dx = 0.0
    for _ in range(8):
        weight = np.exp(-((y - dy) ** 2 + (x - dx) ** 2) / 8.0) * box
        total = weight.sum()
        if total < 3:
            return float(total), *(np.nan,) * 4
        dy, dx = dy + 2 * ((weight * (y - dy)).sum() / total), dx + 2 * ((weight * (x - dx)).sum() / total)
        if max(abs(dy), abs(dx)) > MIDDLE - 1:
            return float(total), *(np.nan,) * 4
    yy, xx, xy = (
        float((weight * a * b).sum() / total)
        for a, b in ((y - dy, y - dy), (x - dx, x - dx), (x - dx, y - dy))
    )
    size = yy + xx
    if size <= 0:
        return float(total), dy, dx, np.nan, np.nan
    return float(total), dy, dx, float(np.sqrt(size / 2)), float(min(np.hypot(xx - yy, 2 * xy) / size, 1.0))


def between(skies: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
    """Return what one plane says of another: noise, what of it is shared, residuals at stars."""
    names = (
        "template's noise of the science's", "difference's noise of both", "science with difference",
        "template with difference", "science with template", "residual at stars, rms",
        "residual at stars, mean",
    )  # fmt: skip
    if not all(skies[plane] for plane in PLANES):
        return dict.fromkeys(names, np.nan)
    science, template, difference = (skies[plane] for plane in PLANES)
    a, b, c = (float(skies[plane]["noise"]) for plane in PLANES)
    both = science["sky"] & template["sky"] & difference["sky"]
    stars = ndimage.binary_dilation(template["scaled"] > 20) & _outside(template["scaled"].shape)
    residual = difference["scaled"][stars] if stars.sum() >= 10 else np.array([np.nan])
    return dict(zip(names, (
        b / a, c / float(np.hypot(a, b)),
        _pearson(science["scaled"][both], difference["scaled"][both]),
        _pearson(template["scaled"][both], difference["scaled"][both]),
        _pearson(science["scaled"][both], template["scaled"][both]),
        float(np.sqrt(np.mean(residual**2))), float(np.mean(residual)),
    )))  # fmt: skip


def _outside(shape: tuple[int, ...]) -> np.ndarray:
    out = np.ones(shape, bool)
    out[tuple(slice(n // 2 - 8, n // 2 + 9) for n in shape)] = False
    return out


def _correlation(scaled: np.ndarray, sky: np.ndarray, step: tuple[int, int]) -> float:
    dy, dx = step
    ny, nx = scaled.shape
    both = sky[: ny - dy, : nx - dx] & sky[dy:, dx:]
    return _pearson(scaled[: ny - dy, : nx - dx][both], scaled[dy:, dx:][both])


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    if a.size < 100:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / scale) if scale > 0 else float("nan")


def _slope(scaled: np.ndarray, sky: np.ndarray, axis: int) -> float:
    """|mean of one half minus mean of the other|, noise."""
    halves = np.indices(scaled.shape)[axis] > scaled.shape[axis] // 2
    if min((sky & halves).sum(), (sky & ~halves).sum()) < 50:
        return float("nan")
    return abs(float(scaled[sky & halves].mean() - scaled[sky & ~halves].mean()))


def _stripes(scaled: np.ndarray, sky: np.ndarray, axis: int) -> float:
    """Rms of the means of columns (axis 0) or rows, over what white noise would give."""
    count = sky.sum(axis=axis)
    full = count >= 20
    if full.sum() < 20:
        return float("nan")
    means = np.where(sky, scaled, 0).sum(axis=axis)[full] / count[full]
    return float(np.std(means) * np.sqrt(np.mean(count[full])) / np.std(scaled[sky]))


_NAMES = tuple(
    name
    for name in of_plane(np.random.default_rng(0).normal(size=(63, 63)), is_difference=False)[0]
    if name != "invalid"
)
