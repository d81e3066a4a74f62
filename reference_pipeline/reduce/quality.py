"""What a frame is worth: clouds, depth, sharpness, and a picture to look at (Sun+ 2022, 2.4)."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from astropy.visualization import ZScaleInterval
from numpy.typing import NDArray

from ..config import QualityCheck
from ..errors import PixelError
from ..frame import UNUSABLE, Decision, Frame, Quality
from .photometry import background_rms, limiting_magnitude

#: Rows and columns of the thumbnail, whatever the frame's shape.
THUMBNAIL_SIZE = 256

#: Probability that a frame was taken through cloud (classify/thumbnails.py makes one).
CloudNetwork = Callable[[Frame], float]


def assess(frame: Frame, *, config: QualityCheck, cloud_network: CloudNetwork | None = None) -> Frame:
    """Return ``frame`` with its quality and thumbnail, and a verdict in the step's record.

    What a frame has not come to (stars, zero point) is NaN in its quality, so that a failed frame can be
    looked at too. Raises PixelError ("no-pixels") where there is nothing to look at.
    """
    started = time.perf_counter()
    picture = thumbnail(frame)
    score = None if cloud_network is None else float(cloud_network(frame))
    quality = measure(frame, cloud_score=score)
    trouble = complaints(quality, config=config)
    decision: dict[str, Decision] = {
        "pearson": round(quality.pearson, 5),
        "limiting_magnitude": round(quality.limiting_magnitude, 3),
        "ellipticity": round(quality.ellipticity, 4),
        "fwhm": round(quality.fwhm, 3),
        "cloud_score": quality.cloud_score,
        "is_good": not trouble,
        "verdict": "; ".join(trouble) or "good",
    }
    return frame.after("quality", started, decision, quality=quality, thumbnail=picture)


def measure(frame: Frame, *, cloud_score: float | None = None) -> Quality:
    """Return the numbers of a frame; NaN for what needs a stage that the frame has not passed."""
    fwhm = ellipticity = background = rms = limit = correlation = float("nan")
    if frame.background is not None:
        background, rms = float(np.median(frame.background[::8, ::8])), background_rms(frame)
    stars = None if frame.sources is None else frame.sources[frame.sources["is_calibration"]]
    if stars is not None and len(stars):
        fwhm = float(np.median(stars["fwhm"]))
        ellipticity = float(np.median(1.0 - stars["b"] / stars["a"]))
        if frame.zero_point is not None and "mag" in stars.colnames:
            limit = limiting_magnitude(frame)
            # every matched star, those the zero point rejected too: clouds are among the reasons for that
            correlation = pearson(np.asarray(stars["mag"]), np.asarray(stars["reference_mag"]))
    return Quality(fwhm, ellipticity, background, rms, limit, correlation, cloud_score)


def complaints(quality: Quality, *, config: QualityCheck) -> list[str]:
    """Return what is wrong with a frame, one sentence each: what was found, what is asked."""
    limits = [
        ("pearson correlation", quality.pearson, config.min_pearson, "at least", 4),
        ("limiting magnitude", quality.limiting_magnitude, config.min_limiting_magnitude, "at least", 2),
        ("ellipticity", quality.ellipticity, config.max_ellipticity, "at most", 3),
        ("fwhm", quality.fwhm, config.max_fwhm, "at most", 2),
    ]
    found = []
    for name, value, limit, sense, digits in limits:
        if limit is None:
            continue
        # NaN satisfies nothing
        is_fine = value >= limit if sense == "at least" else value <= limit
        if not is_fine:
            found.append(f"{name} {value:.{digits}f}, {sense} {limit:g} asked")
    return found


def pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return r = Σ(a − ā)(b − b̄) / √(Σ(a − ā)² Σ(b − b̄)²) of the finite pairs (Eq. 4); NaN below three."""
    is_pair = np.isfinite(a) & np.isfinite(b)
    if is_pair.sum() < 3:
        return float("nan")
    a, b = a[is_pair] - a[is_pair].mean(), b[is_pair] - b[is_pair].mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else float("nan")


def thumbnail(frame: Frame) -> NDArray[np.uint8]:
    """Return the frame in 256×256 cells, each the mean of its usable pixels, between zscale's limits.

    uint8, [y, x], 0 at or below the lower limit and 255 at or above the upper. Raises PixelError
    ("no-pixels").
    """
    return shown(*cells_of(frame))


def cells_of(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the mean (electrons) of the usable pixels in each of 256×256 cells, and which cells have any.

    A frame with sides below 256 has its pixels repeated; cells without a usable pixel are at the median.
    Raises PixelError ("no-pixels") where no cell has one.
    """
    rows = _edges(frame.shape[0])
    columns = _edges(frame.shape[1])
    total, count = np.zeros((2, THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    for k, (start, stop) in enumerate(zip(rows, np.maximum(rows[1:], rows[:-1] + 1))):
        data = frame.data[start:stop]
        good = ((frame.mask[start:stop] & int(UNUSABLE)) == 0) & np.isfinite(data)
        strip = np.where(good, data, 0.0).sum(axis=0, dtype=float)
        total[k] = np.add.reduceat(strip, columns[:-1])
        count[k] = np.add.reduceat(good.sum(axis=0), columns[:-1])
    is_seen = count > 0
    if not is_seen.any():
        raise PixelError(frame.id, "quality", "no-pixels", "no usable pixel for a thumbnail")
    cells = np.divide(total, count, out=np.full_like(total, np.nan), where=is_seen)
    cells[~is_seen] = np.median(cells[is_seen])
    return cells, is_seen


def shown(cells: NDArray[np.float64], is_seen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return cells as a picture between the limits that zscale finds in those that are seen.

    Binning comes before zscale: the noise that would set the limits is then that of a cell, and thin cloud
    shows.
    """
    low, high = ZScaleInterval().get_limits(cells[is_seen])
    scaled = (cells - low) / (high - low) if high > low else np.full_like(cells, 0.5)
    return np.rint(255.0 * np.clip(scaled, 0.0, 1.0)).astype(np.uint8)


def _edges(length: int) -> NDArray[np.int64]:
    return np.arange(THUMBNAIL_SIZE + 1) * length // THUMBNAIL_SIZE
