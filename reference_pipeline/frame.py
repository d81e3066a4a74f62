"""The values that stages pass on.

Conventions, everywhere in the pipeline: arrays are [y, x]; pixel (0, 0) is the centre of the first pixel,
as in numpy, so that FITS coordinates are 1 more; angles on the sky are degrees (ICRS) unless a name says
otherwise; fluxes are electrons collected in the exposure; times are MJD (UTC).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from enum import IntFlag
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from .psf import Psf

FrameKind = Literal["bias", "dark", "flat", "science"]
Decision = str | int | float | bool | None


class MaskBit(IntFlag):
    """The bits of a mask (uint16). OFF_IMAGE and NO_DATA mean what the specification says of them (3.4)."""

    OFF_IMAGE = 1  # the frame does not reach here (set by alignment)
    NO_DATA = 2  # the pixel was read but is not finite
    BAD = 4  # known from the calibration frames: hot, dead, bad column
    SATURATED = 8  # at or above the camera's saturation, and what it bled into
    COSMIC_RAY = 16
    TRAIL = 32  # satellite or aircraft
    SUSPECT = 64  # usable for looking, not for calibration (low flat, edge of a mask)


#: No flux may be measured on a pixel with one of these.
UNUSABLE = MaskBit.OFF_IMAGE | MaskBit.NO_DATA | MaskBit.BAD | MaskBit.SATURATED | MaskBit.COSMIC_RAY


@dataclass(frozen=True)
class Exposure:
    """What is known of an exposure before a pixel is looked at."""

    id: str  # unique in the night; the file's stem unless the header says better
    camera: str
    kind: FrameKind
    start_mjd: float  # UTC, shutter open
    exposure_time: float  # seconds
    band: str | None = None
    ra: float | None = None  # approximate pointing of the chip's centre, degrees
    dec: float | None = None
    airmass: float | None = None
    object_name: str | None = None
    field_id: str | None = None

    @property
    def mid_mjd(self) -> float:
        """The middle of the exposure (MJD, UTC)."""
        return self.start_mjd + 0.5 * self.exposure_time / 86400.0


@dataclass(frozen=True)
class Step:
    """One step taken: how long, and what was decided."""

    name: str
    seconds: float
    decision: dict[str, Decision] = field(default_factory=dict)


@dataclass(frozen=True)
class ZeroPoint:
    """From electrons to magnitudes: m = value + Δm(u, v) − 2.5 log10(flux).

    Δm = c0 + c1 u + c2 v + c3 uv + c4 u² + c5 v² (Irwin+ 2007; Sun+ 2022, Eq. 3), u and v being the pixel
    coordinates scaled to [−1, 1] over the frame (:func:`unit_coordinates`).
    """

    value: float  # mag
    error: float  # mag, of the mean
    band: str
    spatial: tuple[float, float, float, float, float, float] = (0.0,) * 6
    color_term: float = 0.0  # mag per mag of reference color
    color: str | None = None  # "g-r": the reference color that the term multiplies
    n_stars: int = 0
    scatter: float = float("nan")  # mag, robust, after the spatial term

    def offset(self, x: NDArray[Any], y: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float64]:
        """Δm at pixels (x, y) of a frame of ``shape`` (ny, nx)."""
        u, v = unit_coordinates(x, y, shape)
        c = self.spatial
        return c[0] + c[1] * u + c[2] * v + c[3] * u * v + c[4] * u**2 + c[5] * v**2


@dataclass(frozen=True)
class Quality:
    """What a scientist asks of a frame before using it (Sun+ 2022, 2.4)."""

    fwhm: float  # pixels
    ellipticity: float  # 1 − b/a, median of the calibration stars
    background: float  # electrons per pixel
    background_rms: float  # electrons
    limiting_magnitude: float = float("nan")  # 5σ, point source
    pearson: float = float("nan")  # Eq. 4: of calibrated against reference magnitudes
    cloud_score: float | None = None  # probability of cloud; None until a network has looked


@dataclass(frozen=True)
class Frame:
    """An image with everything known about it. A stage takes one and returns a new one."""

    exposure: Exposure
    data: NDArray[np.float32]  # electrons, (ny, nx)
    variance: NDArray[np.float32]  # electrons², (ny, nx)
    mask: NDArray[np.uint16]  # MaskBit, (ny, nx)
    gain: float = 1.0  # what electrons were made with: electrons per ADU
    wcs: WCS | None = None  # until astrometry has run: what the header claims, where it claims anything
    psf: Psf | None = None
    zero_point: ZeroPoint | None = None
    background: NDArray[np.float32] | None = None  # electrons, (ny, nx); not subtracted from data
    sources: Table | None = None  # columns: reduce/sources.py
    quality: Quality | None = None
    thumbnail: NDArray[np.uint8] | None = None
    steps: tuple[Step, ...] = ()

    @property
    def id(self) -> str:
        """The exposure's id."""
        return self.exposure.id

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        ny, nx = self.data.shape
        return ny, nx

    @property
    def fwhm(self) -> float | None:
        """FWHM of the stars (pixels); None until something has measured it."""
        if self.quality is not None:
            return self.quality.fwhm
        if self.sources is None or not np.any(self.sources["is_calibration"]):
            return None
        return float(np.median(np.asarray(self.sources["fwhm"])[np.asarray(self.sources["is_calibration"])]))

    def after(self, step: str, started: float, decision: dict[str, Decision], **changes: Any) -> Frame:
        """Return the frame with ``changes`` and the record of a step begun at ``started`` (perf_counter)."""
        record = Step(step, time.perf_counter() - started, decision)
        return replace(self, steps=(*self.steps, record), **changes)


def unit_coordinates(
    x: NDArray[Any] | float, y: NDArray[Any] | float, shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixel coordinates scaled so that the frame's edges are at −1 and 1."""
    ny, nx = shape
    u = (2.0 * np.asarray(x, float) + 1.0) / nx - 1.0
    v = (2.0 * np.asarray(y, float) + 1.0) / ny - 1.0
    return u, v
