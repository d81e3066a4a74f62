"""What a survey reader hands on: planes in the survey's pixels, and the alert around them.

Nothing here knows a survey or a file format. Pixel positions are 0-based array indices, the centre
of the first pixel at 0 (specification 1.4); a WCS is given for the same array.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..sky import deproject, project

PlaneKey: TypeAlias = str | tuple[str, str]  # "science", or ("variance", "science")


@dataclass(frozen=True)
class Wcs:
    """A gnomonic (TAN) projection in ICRS, linear over the cutout.

    A pixel (x, y) of the array lies at the standard coordinates (xi, eta) = cd · (x − x0, y − y0), in
    degrees, seen from the tangent point ``crval``; xi grows with right ascension, eta with declination.
    """

    crpix: tuple[float, float]  # x0, y0: the tangent point in the array, 0-based pixels
    crval: tuple[float, float]  # right ascension, declination, degrees, ICRS
    cd: tuple[tuple[float, float], tuple[float, float]]  # ((cd11, cd12), (cd21, cd22)), degrees per pixel
    max_error: float | None = None  # arcsec: largest distance to the survey's own solution; None: not known

    def pixel_to_world(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the (ra, dec), ICRS degrees, of pixel positions in the array."""
        dx, dy = np.asarray(x, float) - self.crpix[0], np.asarray(y, float) - self.crpix[1]
        (a, b), (c, d) = self.cd
        return deproject(a * dx + b * dy, c * dx + d * dy, *self.crval)

    def world_to_pixel(self, ra: float, dec: float) -> tuple[float, float]:
        """Return the (x, y) of one position (ICRS degrees) in the array."""
        offset = [float(v) for v in project(ra, dec, *self.crval)]
        dx, dy = np.linalg.solve(np.array(self.cd), offset)
        return self.crpix[0] + float(dx), self.crpix[1] + float(dy)

    @property
    def pixel_scale(self) -> float:
        """The side of a square of the same area as a pixel, arcsec."""
        (a, b), (c, d) = self.cd
        return 3600.0 * abs(a * d - b * c) ** 0.5


class Missing(NamedTuple):
    """A plane that a reader may expect and that is not there (specification 6.5)."""

    kind: str  # a symbol of multiscale.Kind
    of: str  # a symbol of multiscale.Of
    reason: str  # a symbol of multiscale.MissingReason
    detail: str = ""


@dataclass(frozen=True)
class SurveyCutout:
    """The image planes of one alert, all of one shape (H, W), before any multi-scale grid is laid."""

    planes: dict[PlaneKey, np.ndarray]  # float32 (mask: uint16), [y][x]; difference = science − template
    center: tuple[int, int]  # (x, y): the pixel that the survey cut around
    position: tuple[float, float] | None  # (x, y) of the object, pixels; None: not known to a pixel
    pixel_scale: float  # arcsec
    units: dict[PlaneKey, str]  # VOUnit strings
    wcs: Wcs | None = None
    psf: dict[PlaneKey, np.ndarray] = field(default_factory=dict)  # float32, odd squares, sum as sent
    psf_fwhm: float | None = None  # arcsec
    clipped_by: str = "CUTOUT"  # a symbol of multiscale.ClippedBy: what ends these arrays
    missing: list[Missing] = field(default_factory=list)
    mask_bits: dict[PlaneKey, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what was repaired, changed or assumed


@dataclass(frozen=True)
class SurveyAlert:
    """One alert of a survey: its own record, its cutout, and the fields of a ``multiscale.Alert``."""

    survey: str  # "ZTF", "LSST", "PGIR", …
    record: dict[str, Any]  # the survey's own record, untouched
    cutout: SurveyCutout | None
    fields: dict[str, Any]  # fits multiscale.Alert, without its cutout
    cutout_fields: tuple[str, ...]  # the record's own cutout fields, as they are named there
