"""A frame with n × n of its pixels summed, for the quick branch (Sun+ 2022, 3.1: 3 × 3).

A binned frame is a frame of its own: sources, zero point, PSF and quality are measured on it, by the same
functions as on the whole one; only its WCS is that of the whole one, rewritten.

Of a sum, single pixels may be missing. Up to a third of them, if none is saturated, are made up for: the sum
of the others is scaled to n² pixels, and SUSPECT says so. With more missing, or one saturated, the bits of
all n² pixels are set and no flux may be measured there.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from astropy.wcs import WCS, Sip
from numpy.typing import NDArray

from ..catalogues import ReferenceCatalogue
from ..config import PipelineConfig
from ..frame import UNUSABLE, Decision, Frame, MaskBit
from ..reduce.photometry import calibrate_photometry
from ..reduce.psf import fit_psf
from ..reduce.quality import assess
from ..reduce.sources import find_sources

Floats = NDArray[np.float64]

_ONE_IN = 3  # pixels of a sum may be missing
_ROWS = 64  # binned rows at a time


def bin_frame(frame: Frame, n: int = 3, *, catalogue: ReferenceCatalogue, config: PipelineConfig) -> Frame:
    """Return ``frame`` binned n × n, with its own sources, zero point, PSF and quality.

    Raises what the stages raise: PixelError, SourceError, PhotometryError; CatalogueError.
    """
    binned = bin_pixels(frame, n)
    binned = find_sources(binned, config=_sources_config(config, n))
    binned = calibrate_photometry(binned, catalogue, config=config.photometry)
    binned = assess(binned, config=config.quality)
    if frame.quality is not None and binned.quality is not None:  # a network saw the same sky
        binned = replace(binned, quality=replace(binned.quality, cloud_score=frame.quality.cloud_score))
    return fit_psf(binned, config=config.psf)


def bin_pixels(frame: Frame, n: int) -> Frame:
    """Return ``frame`` with n × n pixels summed: electrons, electrons², mask, background, WCS.

    Shape (ceil(ny / n), ceil(nx / n)): pixels beyond the last row and column count as OFF_IMAGE | NO_DATA.
    What was measured on the frame (sources, zero point, PSF, quality, thumbnail) is left behind.
    """
    started = time.perf_counter()
    ny, nx = (-(-length // n) for length in frame.shape)
    data, variance = np.zeros((2, ny, nx), np.float32)
    mask = np.zeros((ny, nx), np.uint16)
    background = None if frame.background is None else np.zeros((ny, nx), np.float32)
    for top in range(0, ny, _ROWS):
        part = slice(top, min(top + _ROWS, ny))
        data[part], variance[part], mask[part] = _sums(frame, part, n)
        if background is not None and frame.background is not None:
            # it is known for every pixel; beyond the edge it goes on as at the edge
            background[part] = _summed(_padded(frame.background, part, n, mode="edge"), n)
    decision: dict[str, Decision] = {
        "n": n,
        "shape": f"{ny}x{nx}",
        "suspect": round(float(np.mean((mask & np.uint16(MaskBit.SUSPECT)) != 0)), 5),
        "unusable": round(float(np.mean((mask & np.uint16(UNUSABLE)) != 0)), 5),
    }
    return frame.after(
        "bin",
        started,
        decision,
        data=data,
        variance=variance,
        mask=mask,
        background=background,
        wcs=None if frame.wcs is None else binned_wcs(frame.wcs, n, (ny, nx)),
        sources=None,
        zero_point=None,
        psf=None,
        quality=None,
        thumbnail=None,
    )


def binned_wcs(wcs: WCS, n: int, shape: tuple[int, int]) -> WCS:
    """Return the WCS of n × n binned pixels, equal to ``wcs`` to rounding; ``shape`` (ny, nx) is the new one.

    A pixel coordinate p of FITS (from 1) becomes (p − ½) / n + ½. SIP's polynomials are of pixel offsets:
    their coefficients grow by n to the power of their degree, less one.
    """
    binned = wcs.deepcopy()
    binned.wcs.crpix = (wcs.wcs.crpix - 0.5) / n + 0.5
    if wcs.wcs.has_cd():
        binned.wcs.cd = wcs.wcs.cd * n
    else:
        binned.wcs.cdelt = wcs.wcs.cdelt * n
    if wcs.sip is not None:
        terms = (_rescaled(getattr(wcs.sip, name), n) for name in ("a", "b", "ap", "bp"))
        binned.sip = Sip(*terms, (np.asarray(wcs.sip.crpix) - 0.5) / n + 0.5)
    binned.pixel_shape = shape[::-1]
    binned.wcs.set()
    return binned


def _rescaled(terms: NDArray[np.float64] | None, n: int) -> NDArray[np.float64] | None:
    if terms is None:
        return None
    i, j = np.indices(terms.shape)
    return np.asarray(terms * float(n) ** (i + j - 1.0))


def _sums(frame: Frame, part: slice, n: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.uint16]]:
    """Data, variance and mask of some binned rows."""
    beyond = int(MaskBit.OFF_IMAGE | MaskBit.NO_DATA)
    bits = _padded(frame.mask, part, n, mode="constant", constant_values=beyond)
    data = _padded(frame.data, part, n, mode="constant")
    variance = _padded(frame.variance, part, n, mode="constant")
    invalid = ~(np.isfinite(data) & np.isfinite(variance))
    bits[invalid] |= np.uint16(MaskBit.NO_DATA)
    all_bits = np.bitwise_or.reduce([bits[phase] for phase in _phases(n)])
    missing = (bits & np.uint16(UNUSABLE)) != 0
    if not missing.any():
        return _summed(data, n), _summed(variance, n), all_bits
    # a saturated core shows what it read
    is_saturated = (all_bits & np.uint16(MaskBit.SATURATED)) != 0
    missing &= invalid | ~np.repeat(np.repeat(is_saturated, n, axis=0), n, axis=1)
    data[missing], variance[missing] = 0.0, 0.0
    n_missing = _summed(missing, n)
    scale = n * n / np.maximum(n * n - n_missing, 1)
    is_mended = (n_missing > 0) & (n_missing * _ONE_IN <= n * n) & ~is_saturated
    kept = all_bits & np.uint16(~int(UNUSABLE) & 0xFFFF)
    mask = np.where(is_mended, kept | np.uint16(MaskBit.SUSPECT), all_bits).astype(np.uint16)
    return _summed(data, n) * scale, _summed(variance, n) * scale**2, mask


def _padded(plane: NDArray[Any], part: slice, n: int, **padding: Any) -> NDArray[Any]:
    """A copy of what some binned rows are made of, padded to whole blocks."""
    ny, nx = plane.shape
    rows = plane[part.start * n : min(part.stop * n, ny)]
    missing = (part.stop - part.start) * n - rows.shape[0], -nx % n
    return np.pad(rows, ((0, missing[0]), (0, missing[1])), **padding)


def _phases(n: int) -> list[tuple[slice, slice]]:
    return [(slice(i, None, n), slice(j, None, n)) for i in range(n) for j in range(n)]


def _summed(plane: NDArray[Any], n: int) -> Floats:
    total = np.zeros((plane.shape[0] // n, plane.shape[1] // n))
    for phase in _phases(n):
        total += plane[phase]
    return total


def _sources_config(config: PipelineConfig, n: int) -> Any:
    """The settings of find_sources; a width that is set is one of unbinned pixels."""
    sources = config.sources
    if sources.kernel_fwhm is None:
        return sources
    return sources.model_copy(update={"kernel_fwhm": sources.kernel_fwhm / n})
