"""The layouts that are compared, and the encodings that carry them. A name says all of a layout.

``4x8``: four levels of 8 pixels, multi-scale. ``crop-16``: the central pixels. ``full-63``: the same of the
whole stamp. ``low-16``: the whole stamp in blocks, 16 a side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from multiscale.geometry import MAX_LEVELS, MAX_SIZE, Geometry
from reference_pipeline.errors import ConfigError

from .results import LayoutFacts

Kind = Literal["multi-scale", "crop", "full", "low-resolution"]
_MULTI = re.compile(r"(\d+)x(\d+)")
_SINGLE = re.compile(r"(crop|full|low)-(\d+)")
_KINDS: dict[str, Kind] = {"crop": "crop", "full": "full", "low": "low-resolution"}
_RICE = re.compile(r"rice/(\d+)")


@dataclass(frozen=True)
class Layout:
    """What is cut out around a detection."""

    name: str
    kind: Kind
    size: int  # pixels a side of a level
    n_levels: int

    @property
    def box(self) -> int:
        """Pixels a side of what carries it: sides of levels are multiples of 4 (specification 2.1)."""
        return -(-self.size // 4) * 4

    @property
    def in_codec(self) -> bool:
        """Whether a cutout can hold it; a larger one travels as surveys send it, gzip FITS."""
        return self.box <= MAX_SIZE

    def block(self, side: int) -> int:
        """Survey pixels a side of its finest pixel, of a stamp of ``side``: 1 but in low resolution."""
        return -(-side // self.size) if self.kind == "low-resolution" else 1

    def geometry(self, pixel_scale: float, side: int) -> Geometry:
        """The geometry of its cutout of a stamp of ``side`` pixels of ``pixel_scale`` arcsec."""
        return Geometry(self.box, self.n_levels, pixel_scale * self.block(side))

    def needs(self) -> int:
        """Pixels a side that an original must have for all of it to be there; fewer are NaN."""
        return self.size if self.kind in ("crop", "full") else 1

    def facts(self, pixel_scale: float, side: int) -> LayoutFacts:
        """What a report says of it; ``side`` of the survey's stamp, pixels."""
        scale = pixel_scale * self.block(side)
        width = self.size << (self.n_levels - 1)
        return LayoutFacts(
            name=self.name, kind=self.kind, size=self.size, n_levels=self.n_levels,
            pixel_scale=scale, field_of_view=min(width * scale, side * pixel_scale),
        )  # fmt: skip


@dataclass(frozen=True)
class Encoding:
    """How pixels travel: "raw", "rice/N" (steps of sigma / N), "fits" (gzip, as surveys do today; exact)."""

    name: str
    kind: Literal["raw", "rice", "fits"]
    step_sigma: float  # of RICE


def layout_of(name: str) -> Layout:
    """Return the layout of a name. Raises ConfigError."""
    if found := _MULTI.fullmatch(name):
        n_levels, size = int(found[1]), int(found[2])
        if size % 4 or not 4 <= size <= MAX_SIZE or not 1 <= n_levels <= MAX_LEVELS:
            raise ConfigError(f"layout {name}: sizes are multiples of 4 up to {MAX_SIZE}, levels up to 8")
        return Layout(name, "multi-scale", size, n_levels)
    if (found := _SINGLE.fullmatch(name)) and int(found[2]) >= 4:
        return Layout(name, _KINDS[found[1]], int(found[2]), 1)
    raise ConfigError(f"layout {name!r}: expected such as 4x8, crop-16, full-63 or low-16")


def encoding_of(name: str) -> Encoding:
    """Return the encoding of a name. Raises ConfigError."""
    if name in ("raw", "fits"):
        return Encoding(name, name, 0.25)
    if (found := _RICE.fullmatch(name)) and int(found[1]) > 0:
        return Encoding(name, "rice", 1 / int(found[1]))
    raise ConfigError(f"encoding {name!r}: expected raw, fits, or such as rice/4 (steps of sigma/4)")
