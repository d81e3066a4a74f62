"""A cutout: all planes of one alert on one multi-scale grid (specification, sections 2, 3 and 6).

``Cutout`` and the models in it are the Avro records, field for field. Making one from images is a stack
operation (``encode_cutouts``); ``Cutout.from_images`` is a stack of one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Self, cast

import numpy as np
from pydantic import ValidationError

from .arrays import INVALID_LIMIT
from .encoding import REDUCTION, decode_planes, encode_planes
from .errors import GeometryError, RecordError, StampError
from .geometry import Geometry, Placement
from .keys import (
    ClippedBy,
    Encoding,
    Kind,
    MissingReason,
    Of,
    PlaneKey,
    WireKey,
    encoding_of,
    plane_key,
    unit_of,
    wire_key,
)
from .pyramid import as_pixels
from .record import Record, as_record_error
from .rules import SPEC_VERSION, check_cutout


class Sky(Record):
    """A tangent-plane projection, ICRS, degrees: the shared corner and the CD matrix of level 0 (2.6)."""

    ra: float
    dec: float
    cd11: float
    cd12: float
    cd21: float
    cd22: float
    max_error: float | None = None


class Clipped(Record):
    """Widths of the footprint that the encoder was not given, level-0 pixels (2.5)."""

    x_low: int
    x_high: int
    y_low: int
    y_high: int


class Missing(Record):
    """A plane that is not there, and why (6.5)."""

    kind: Kind
    of: Of
    reason: MissingReason
    detail: str = ""


class Plane(Record):
    """One plane as it travels (6.2). ``Cutout.levels`` gives its pixels."""

    kind: Kind
    of: Of
    unit: str
    encoding: Encoding
    shared_center: bool
    step_exponent: int
    offset: int
    invalid: bytes | None = None
    payload: bytes
    crc32: int
    background: float | None = None
    noise: float | None = None
    psf: bytes | None = None
    psf_fwhm: float | None = None
    mask_bits: tuple[str, ...] = ()

    def wire_fields(self) -> dict[str, Any]:
        """Return the fields that decoding needs, named as on the wire."""
        return {
            "kind": self.kind,
            "encoding": self.encoding,
            "sharedCenter": self.shared_center,
            "stepExponent": self.step_exponent,
            "offset": self.offset,
            "invalid": self.invalid,
            "payload": self.payload,
            "crc32": self.crc32,
        }

    def psf_image(self) -> np.ndarray | None:
        """Return the point-spread function, float32 (m, m) on level-0 pixels, or None."""
        if self.psf is None:
            return None
        side = math.isqrt(len(self.psf) // 4)
        return np.frombuffer(self.psf, "<f4").reshape(side, side)


class Cutout(Record):
    """All planes of one alert on one grid (6.1)."""

    spec_version: str = SPEC_VERSION
    size: int
    n_levels: int
    pixel_scale: float
    dx: float | None = None
    dy: float | None = None
    sky: Sky | None = None
    clipped: Clipped
    clipped_by: ClippedBy = "UNKNOWN"
    planes: tuple[Plane, ...]
    missing: tuple[Missing, ...] = ()

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Cutout:
        """Return the cutout of a ``multiscale.Cutout`` record, its fields checked (payloads are not yet).

        Raises RecordError. A plane of a later version's kind or encoding is kept and refused on use (6.3).
        """
        try:
            check_cutout(record, later_symbols=True)  # first: the version, and the limits of 7.1
        except StampError:
            raise
        except LookupError:  # what has a default may be left out
            cutout = super().from_record(record)
            check_cutout(cutout.to_record(), later_symbols=True)
            return cutout
        except (TypeError, ValueError, ArithmeticError) as error:
            super().from_record(record)  # names the field, if not even a conversion would do
            raise RecordError("record", str(error), "values of the schema's types") from None
        return super().from_record(record)

    @property
    def geometry(self) -> Geometry:
        """Size, number of levels and pixel scale."""
        return _geometry(self.size, self.n_levels, self.pixel_scale)

    @property
    def keys(self) -> tuple[PlaneKey, ...]:
        """The planes by the names that ``levels`` takes, in packet order."""
        return tuple(plane_key(plane.kind, plane.of) for plane in self.planes)

    def plane(self, kind: str, of: str | None = None) -> Plane:
        """Return the plane as it travels. Raises RecordError("no-plane"), saying why where it is known."""
        key = wire_key(kind if of is None else (kind, of))
        for plane in self.planes:
            if (plane.kind, plane.of) == key:
                return plane
        reason = next((f" ({m.reason} {m.detail})" for m in self.missing if (m.kind, m.of) == key), "")
        have = ", ".join("/".join((p.kind, p.of)) for p in self.planes) or "no planes"
        raise RecordError("no-plane", have, f"{'/'.join(key)}{reason}", "planes")

    def levels(self, kind: str, of: str | None = None) -> np.ndarray:
        """Return the levels of a plane, finest first: (L, S, S), float32 in its unit, uint16 for a mask.

        Invalid pixels are NaN. ``of`` says whose variance or mask. The array is not writeable. Raises
        RecordError("no-plane"), or PayloadError when the payload is refused (sections 4 and 5).
        """
        key = wire_key(kind if of is None else (kind, of))
        levels = self._decoded.get(key)
        if levels is None:
            self.plane(kind, of)  # raises: there is none
        elif isinstance(levels, StampError):
            raise levels.with_traceback(None)  # else each use would add to the last one's
        return cast(np.ndarray, levels)

    @cached_property
    def _decoded(self) -> dict[WireKey, np.ndarray | StampError]:
        """The levels of every plane, or why it is refused; planes of one dtype are decoded together."""
        planes = [plane.wire_fields() for plane in self.planes]
        decoded: dict[WireKey, np.ndarray | StampError] = {}
        masks = [i for i, plane in enumerate(planes) if plane["kind"] == "MASK"]
        images = [i for i in range(len(planes)) if i not in masks] if masks else range(len(planes))
        for index in (images, masks):
            if not index:
                continue
            stack, failures = decode_planes([planes[i] for i in index] if masks else planes, self.geometry)
            stack.flags.writeable = False
            for j, i in enumerate(index):
                key = (self.planes[i].kind, self.planes[i].of)
                decoded[key] = failures[j].within(f"planes[{i}]") if j in failures else stack[j]
        return decoded

    def __eq__(self, other: object) -> bool:
        """True for cutouts of equal fields, whether or not they were decoded."""
        return isinstance(other, Cutout) and all(
            getattr(self, name) == getattr(other, name) for name in type(self).model_fields
        )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, with the fields of ``update`` in place of its own; it decodes its own planes."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("_decoded", None)
        return copied

    @classmethod
    def from_images(
        cls,
        planes: Mapping[PlaneKey, np.ndarray],
        geometry: Geometry,
        *,
        x: float | None = None,
        y: float | None = None,
        center: tuple[int, int] | None = None,
        **options: Any,
    ) -> Cutout:
        """Return the cutout around one position of ``planes``, all (H, W) arrays on one pixel grid.

        ``x``, ``y``: position in the full images, 0-based. For images already cut give ``center``, the
        integer (x, y) pixel that the survey calls the centre, and x, y only where they are known to better
        than a pixel (clause 2.2). The other options are those of :func:`encode_cutouts`, for one alert.
        Raises StampError.
        """
        if center is None:
            if x is None or y is None:
                raise GeometryError("position", "no position", "x and y, or center")
            placement = Placement.at(x, y)
        else:
            position = None if x is None or y is None else (x, y)
            placement = Placement.around(center, position)
        from .encode import encode_cutouts  # it makes cutouts, so it imports this module

        return encode_cutouts(planes, geometry, [placement], **options)[0]

    @classmethod
    def from_levels(
        cls,
        levels: Mapping[PlaneKey, np.ndarray],
        geometry: Geometry,
        *,
        like: Cutout | None = None,
        encoding: str | Mapping[str, str] = "raw",
        steps: Mapping[PlaneKey, tuple[int, int]] | None = None,
        units: str | Mapping[PlaneKey, str] = "unknown",
        mask_bits: Mapping[PlaneKey, Sequence[str]] | None = None,
        **fields: Any,
    ) -> Cutout:
        """Return the cutout of ``levels`` that exist already: each (L, S, S), finest first.

        Levels that are not the reduction of finer ones are sent whole (4.3). RICE needs ``steps``: e and
        offset of each plane (5.2). ``like`` gives every other field (and the steps of its own RICE planes),
        so that a decoded cutout encodes to the same bytes. ``fields``: dx, dy, sky, clipped, ... Raises
        StampError.
        """
        if unknown := sorted(fields.keys() - cls.model_fields.keys()):
            raise TypeError(f"found {', '.join(unknown)}, expected fields of a cutout")
        if like is not None and like.geometry != geometry:
            raise GeometryError("geometry", like.geometry, geometry, "like")
        planes = []
        known: dict[WireKey, Plane] = {} if like is None else {(p.kind, p.of): p for p in like.planes}
        for key, array in levels.items():
            wire = wire_key(key)
            old = known.get(wire)
            wanted = old.encoding if old else encoding_of(encoding, wire[0])
            e, offset = (old.step_exponent, old.offset) if old else (steps or {}).get(key, (None, 0))
            stack = canonical_stack(np.asarray(array)[None], wire[0], geometry)
            [packed] = encode_planes(
                stack,
                geometry,
                kind=wire[0],
                encoding=wanted,
                step_exponents=[e],
                offsets=[offset],
                shared_center=old is None or old.shared_center,
            )
            rest = (
                old.model_dump(include=_UNPACKED_FIELDS)
                if old
                else {"unit": unit_of(units, key, wire), "mask_bits": tuple((mask_bits or {}).get(key, ()))}
            )
            planes.append(Plane.model_validate({"kind": wire[0], "of": wire[1], **rest, **packed}))
        own: dict[str, Any] = {
            "size": geometry.size,
            "n_levels": geometry.n_levels,
            "pixel_scale": geometry.pixel_scale,
            "clipped": Clipped(x_low=0, x_high=0, y_low=0, y_high=0),
        }
        if like is not None:
            own = {name: getattr(like, name) for name in cls.model_fields}
        try:
            cutout = cls.model_validate({**own, "planes": tuple(planes), **fields})
        except ValidationError as error:
            raise as_record_error(error) from None
        check_cutout(cutout.to_record())
        return cutout


_UNPACKED_FIELDS = {"unit", "background", "noise", "psf", "psf_fwhm", "mask_bits"}


_geometry = lru_cache(maxsize=64)(Geometry)  # frozen, so that cutouts may share one


def canonical_stack(levels: np.ndarray, kind: str, geometry: Geometry) -> np.ndarray:
    """Return levels (N, L, S, S) as canonical float32, or as uint16 for a mask. Raises GeometryError."""
    shape = (geometry.n_levels, geometry.size, geometry.size)
    if levels.shape[1:] != shape:
        raise GeometryError("geometry", f"levels of shape {levels.shape[1:]}", shape)
    out = np.array(as_pixels(levels, REDUCTION[kind]))
    if kind != "MASK":
        with np.errstate(invalid="ignore"):
            out[~(np.abs(out) < INVALID_LIMIT)] = np.nan
    return out
