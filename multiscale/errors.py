"""What can be wrong with a stamp, and where (specification 11.3).

    StampError                  the one class a caller needs to catch
    ├── GeometryError           size, number of levels, pixel scale, array shapes
    ├── PayloadError            the bytes of one plane
    ├── RecordError             the fields of a cutout or an alert
    ├── WireError               frames, containers, schemas
    │   └── SchemaError         two schemas do not fit each other, or one is not usable
    ├── SurveyError             a survey's own packet cannot be converted
    └── ViewError               a picture or file of a stamp cannot be made

Each error has a ``reason`` (a word of the specification's table 11.3, or one of ``MORE_REASONS``),
``found``, ``expected``, ``where`` (a field path, outermost first) and ``clause``. A layer that knows
more about the place adds it with :meth:`StampError.within` and raises the same error again.
"""

from __future__ import annotations

from typing import Self

REASONS: dict[str, str] = {  # word -> clause
    "geometry": "2.1",
    "position": "2.4",
    "clipped": "2.5",
    "sky": "2.6",
    "plane-of": "3.1",
    "mask-bits": "3.4",
    "statistics": "3.7",
    "shared-center": "4.3",
    "crc": "4.4",
    "payload-size": "5.1",
    "not-canonical": "3.5",
    "step-exponent": "5.2",
    "offset": "5.2",
    "rice-range": "5.3",
    "rice-truncated": "5.3",
    "rice-trailing": "5.3",
    "rice-parameter": "5.3",
    "rice-padding": "5.3",
    "rice-unary": "5.3",
    "bitmap": "5.4",
    "rice-not-shorter": "5.5",
    "psf": "6.2",
    "unknown-symbol": "6.3",
    "plane-duplicate": "6.4",
    "missing": "6.5",
    "limit": "7.1",
    "avro": "8.1",
    "frame": "8.2",
    "trailing-bytes": "8.4",
    "schema": "8.5",
    "version": "10.1",
}
MORE_REASONS: dict[str, str] = {  # trouble outside the format itself
    "record": "6",  # a field is absent or of the wrong type
    "mosaic-size": "7.2",
    "variance": "3.3",  # a variance is valid where its image is not
    "fits": "9.1",  # a file that is no FITS view of ours
    "extra": "",  # an optional dependency is not installed
    "no-plane": "6.2",  # the caller asked for a plane that is not there
    "survey": "",  # a survey's packet lacks what a conversion needs
    "cutout-image": "",  # a survey's cutout image cannot be read
}


class StampError(ValueError):
    """Something about a stamp is not as the specification says: found, expected, where."""

    def __init__(self, reason: str, found: object, expected: object, where: str = "") -> None:
        super().__init__(reason, found, expected, where)  # the same arguments, so that it pickles
        self.reason = reason
        self.found = found
        self.expected = expected
        self.where = where

    @property
    def clause(self) -> str:
        """The clause of the specification that is broken, or an empty string."""
        return REASONS.get(self.reason) or MORE_REASONS.get(self.reason, "")

    def within(self, place: str) -> Self:
        """Return the same error, seen from outside ``place``: ``planes[1]`` + ``payload``."""
        inner = f".{self.where}" if self.where and not self.where.startswith("[") else self.where
        return type(self)(self.reason, self.found, self.expected, place + inner)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        clause = f" [spec {self.clause}]" if self.clause else ""
        return f"{place}{self.reason}: found {self.found}, expected {self.expected}{clause}"


class GeometryError(StampError):
    """Size, number of levels, pixel scale or an array's shape is not allowed."""


class PayloadError(StampError):
    """The bytes of one plane break sections 4 or 5."""


class RecordError(StampError):
    """A field of a cutout or an alert breaks sections 2, 3, 6 or 7."""


class WireError(StampError):
    """A message or file breaks section 8."""


class SchemaError(WireError):
    """Two schemas do not fit each other, or one is not usable (sections 8 and 10)."""


class SurveyError(StampError):
    """A survey's own packet cannot be converted."""


class ViewError(StampError):
    """A view of a stamp (section 9) cannot be made."""
