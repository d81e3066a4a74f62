"""Detection as Sun+ 2022 do it (section 3.3): SExtractor's, at 2 sigma of a pixel, on the difference.

Here through sep, on the difference and on its negative, so that what faded is found as well. Shape, number of
pixels and flags are those of the extraction; fluxes, places and errors are fitted with the PSF as for the
other method (points.py), from the barycentre, so that what differs is what is found, not how it is measured.
What no flux can be measured of is dropped.
"""

from __future__ import annotations

import numpy as np
import sep

from ..candidate import Candidate
from ..config import Detect
from ..errors import DetectionError
from ..reduce.sources import detection_kernel
from .noise import usable
from .points import STAGE, PointModel, fit_points
from .shapes import Shapes

_KERNEL_FWHM = 2.0  # pixels: SExtractor's default filter
_MIN_PIXELS = 3  # fewer than the cut on the area asks for, which then decides


def sep_candidates(model: PointModel, detect: Detect) -> tuple[Candidate, ...]:
    """Return what sep finds of either sign above ``detect.sep_threshold``, without cuts.

    Raises DetectionError ("too-many") above ``detect.max_candidates``.
    """
    from .candidates import build

    difference = model.difference
    mask = ~usable(difference)
    noise = np.sqrt(np.where(mask, 1.0, difference.variance)).astype(np.float32)
    parts = []
    for side in (1, -1):
        pixels = np.ascontiguousarray(np.where(mask, 0.0, side * difference.data), dtype=np.float32)
        parts.append(_extract(model, pixels, noise, mask, detect))
    n = sum(len(part) for part in parts)
    if n > detect.max_candidates:
        raise DetectionError(
            model.science.id,
            STAGE,
            "too-many",
            f"{n} candidates, at most {detect.max_candidates} are believed",
        )
    found = np.concatenate(parts)
    sign = np.concatenate([np.full(len(part), s) for part, s in zip(parts, (1, -1))])
    points = fit_points(model, found["x"], found["y"])
    with np.errstate(invalid="ignore"):
        keep = np.isfinite(points.flux_err) & (points.flux * sign > 0)
    points = points.select(keep)
    found = found[keep]
    a, b = np.maximum(found["a"], 1e-3), np.maximum(found["b"], 1e-3)
    fwhm = 2.0 * np.sqrt(np.log(2.0) * (a**2 + b**2))  # of a Gaussian with these moments
    shapes = Shapes(fwhm, a / b, found["theta"].astype(float))
    return build(model, points, shapes, found["npix"].astype(np.int64), found["flag"].astype(np.int64))


def _extract(
    model: PointModel, pixels: np.ndarray, noise: np.ndarray, mask: np.ndarray, detect: Detect
) -> np.ndarray:
    sep.set_extract_pixstack(max(1_000_000, pixels.size // 4))
    sep.set_sub_object_limit(8192)
    try:
        return np.asarray(
            sep.extract(
                pixels, detect.sep_threshold, err=noise, mask=mask, minarea=_MIN_PIXELS,
                filter_kernel=detection_kernel(_KERNEL_FWHM), filter_type="conv",
            )
        )  # fmt: skip
    except Exception as error:  # sep has no class of its own; only these messages are answered
        if "pixel buffer full" not in str(error) and "overflow" not in str(error):
            raise
        raise DetectionError(model.science.id, STAGE, "too-many", f"sep: {error}") from error
