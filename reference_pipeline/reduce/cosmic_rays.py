"""Cosmic rays by L.A.Cosmic (van Dokkum 2001), astroscrappy's implementation."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from astroscrappy import detect_cosmics

from ..config import CosmicRays
from ..errors import PixelError
from ..frame import UNUSABLE, Frame, MaskBit

_STAGE = "cosmic-rays"


def flag_cosmic_rays(frame: Frame, *, config: CosmicRays) -> Frame:
    """Return ``frame`` with COSMIC_RAY set where particles hit. The data are left as they are.

    The frame is searched in tiles with overlaps, so that what astroscrappy needs does not grow with it.
    Raises PixelError ("no-pixels") where no pixel can be used.
    """
    started = time.perf_counter()
    unusable = (frame.mask & int(UNUSABLE)) != 0
    unusable |= ~np.isfinite(frame.data)
    if unusable.all():
        raise PixelError(frame.id, _STAGE, "no-pixels", "every pixel is masked")
    sample = ~unusable[::8, ::8]
    if not sample.any():
        sample = ~unusable
        fixed = frame.variance - np.maximum(frame.data, 0)
    else:
        fixed = frame.variance[::8, ::8] - np.maximum(frame.data[::8, ::8], 0)
    # what is not shot noise; astroscrappy takes that from the 5 × 5 median, where a hit does not count
    constant = float(np.sqrt(max(float(np.median(fixed[sample])), 1e-6)))
    found = np.zeros(frame.shape, bool)
    for window, inner, place in tiles(frame.shape, config.tile, config.overlap):
        masked = np.ascontiguousarray(unusable[window])
        data = np.where(masked, np.float32(0), frame.data[window])
        hits, _ = detect_cosmics(
            data,
            inmask=masked,
            gain=1.0,
            readnoise=constant,
            satlevel=np.inf,  # saturated pixels are masked already, with what they bled into
            sigclip=config.sigma,
            sigfrac=config.neighbour,
            objlim=config.contrast,
            niter=config.iterations,
            cleantype="medmask",
        )
        found[place] = hits[inner]
    found &= ~unusable
    mask = frame.mask | np.where(found, np.uint16(MaskBit.COSMIC_RAY), np.uint16(0))
    return frame.after("cosmic_rays", started, {"pixels": int(found.sum())}, mask=mask)


def tiles(
    shape: tuple[int, int], size: int, overlap: int
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], tuple[slice, slice]]]:
    """Yield windows that cover an array: (window, its part that counts, where that belongs)."""
    ny, nx = shape
    for top in range(0, ny, size):
        for left in range(0, nx, size):
            bottom, right = min(ny, top + size), min(nx, left + size)
            y0, x0 = max(0, top - overlap), max(0, left - overlap)
            window = slice(y0, min(ny, bottom + overlap)), slice(x0, min(nx, right + overlap))
            inner = slice(top - y0, bottom - y0), slice(left - x0, right - x0)
            yield window, inner, (slice(top, bottom), slice(left, right))
