"""Where the levels of a stamp lie (specification, section 2).

All levels share one pixel corner of the level-0 grid, at c - 1/2. Level k covers the source pixels
from c - (S/2) 2^k up to, not including, c + (S/2) 2^k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from operator import index

from .errors import GeometryError

MAX_SIZE = 64
MAX_LEVELS = 8


def _is_integer_of(allowed: range, value: object) -> bool:
    return isinstance(value, int) and value in allowed


@dataclass(frozen=True)
class Geometry:
    """The shape of a stamp: ``n_levels`` levels of ``size`` x ``size`` pixels (clause 2.1).

    ``pixel_scale`` is the width of a level-0 pixel in arcsec. Raises GeometryError when ``size`` is not
    a multiple of 4 from 4 to 64, ``n_levels`` not from 1 to 8, or ``pixel_scale`` not finite and above 0.
    """

    size: int = 16
    n_levels: int = 4
    pixel_scale: float = 0.2

    def __post_init__(self) -> None:
        if not _is_integer_of(range(4, MAX_SIZE + 1, 4), self.size):
            raise GeometryError("geometry", f"size {self.size!r}", "a multiple of 4 from 4 to 64", "size")
        if not _is_integer_of(range(1, MAX_LEVELS + 1), self.n_levels):
            raise GeometryError("geometry", f"{self.n_levels!r} levels", "from 1 to 8", "nLevels")
        if not (math.isfinite(self.pixel_scale) and self.pixel_scale > 0):
            raise GeometryError(
                "geometry", f"{self.pixel_scale!r} arcsec", "finite and above 0", "pixelScale"
            )

    @property
    def n_values(self) -> int:
        """Number of values that travel when centres are shared: S^2 + (L - 1) 3/4 S^2 (clause 4.2)."""
        return self.size**2 + (self.n_levels - 1) * 3 * self.size**2 // 4

    @property
    def n_pixels(self) -> int:
        """Number of pixels of all levels: L S^2."""
        return self.n_levels * self.size**2

    @property
    def span_px(self) -> int:
        """Width of the footprint in level-0 pixels: S 2^(L - 1)."""
        return self.size << (self.n_levels - 1)

    @property
    def field_of_view(self) -> float:
        """Width of the footprint in arcsec."""
        return self.span_px * self.pixel_scale

    def n_sent(self, shared_center: bool = True) -> int:
        """Number of values in a payload, with shared centres (4.2) or with whole levels (4.3)."""
        return self.n_values if shared_center else self.n_pixels

    def fewest_levels(self, width_px: float) -> Geometry:
        """Return this geometry with the fewest levels whose footprint covers ``width_px`` level-0 pixels."""
        n_levels = 1
        while self.size << (n_levels - 1) < width_px and n_levels < MAX_LEVELS:
            n_levels += 1
        return replace(self, n_levels=n_levels)


PROFILES: dict[str, Geometry] = {
    "ZTF-4x8": Geometry(size=8, n_levels=4, pixel_scale=1.012),  # the 2023 paper's layout
    "ZTF-3x16": Geometry(size=16, n_levels=3, pixel_scale=1.012),  # same view, holds the paper's crop too
    "LSST-4x16": Geometry(size=16, n_levels=4, pixel_scale=0.2),
    "AST3-4x16": Geometry(size=16, n_levels=4, pixel_scale=0.41),
}


def profile(name: str) -> Geometry:
    """Return the geometry of a named profile. Raises GeometryError naming the known ones."""
    if name not in PROFILES:
        raise GeometryError("geometry", f"profile {name!r}", f"one of {', '.join(PROFILES)}")
    return PROFILES[name]


@dataclass(frozen=True)
class Placement:
    """Where a footprint lies in a source image: the shared corner is at (cx - 1/2, cy - 1/2)."""

    cx: int
    cy: int
    dx: float | None = None  # true position minus the corner, level-0 pixels (clause 2.4)
    dy: float | None = None

    @classmethod
    def at(cls, x: float, y: float) -> Placement:
        """Place around position (x, y) of a full image: c = floor(x + 1) (clause 2.2)."""
        if not (math.isfinite(x) and math.isfinite(y)):
            raise GeometryError("position", f"({x}, {y})", "a finite position")
        cx, cy = math.floor(x) + 1, math.floor(y) + 1  # x + 1 itself may round up to the next integer
        return cls(cx, cy, x - cx + 0.5, y - cy + 0.5)

    @classmethod
    def around(cls, center: tuple[int, int], position: tuple[float, float] | None = None) -> Placement:
        """Place around the centre pixel of an image already cut: c = centre + 1 (clause 2.2).

        ``position`` is the true position in the same image, None when it is not known to better than
        a pixel. Raises GeometryError when it lies outside [c - 3/2, c + 1/2), where dx or dy leaves [-1, 1).
        """
        cx, cy = index(center[0]) + 1, index(center[1]) + 1
        if position is None:
            return cls(cx, cy)
        dx, dy = position[0] - cx + 0.5, position[1] - cy + 0.5
        if not (-1 <= dx < 1 and -1 <= dy < 1):
            raise GeometryError(
                "position",
                f"dx, dy = {dx:.3f}, {dy:.3f}",
                "each in [-1, 1) of the corner of the centre pixel",
            )
        return cls(cx, cy, dx, dy)

    def clipped(self, geometry: Geometry, width: int, height: int) -> dict[str, int]:
        """Return the widths of the footprint outside a ``width`` x ``height`` image (clause 2.5)."""
        half, span = geometry.span_px // 2, geometry.span_px

        def outside(low: int, length: int) -> tuple[int, int]:
            below = min(max(-low, 0), span)
            return below, min(max(low + span - length, 0), span - below)

        x_low, x_high = outside(self.cx - half, width)
        y_low, y_high = outside(self.cy - half, height)
        return {"xLow": x_low, "xHigh": x_high, "yLow": y_low, "yHigh": y_high}


def level_coordinates(u: float, geometry: Geometry, level: int) -> float:
    """Return where a point at ``u`` of level 0's array lies in the array of ``level`` (clause 2.4)."""
    middle = geometry.size / 2 - 0.5
    return (u - middle) / 2**level + middle
