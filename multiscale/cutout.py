"""A cutout: all planes of one alert on one multi-scale grid (specification, sections 2, 3 and 6).

``Cutout`` and the models in it are the Avro records, field for field. Making one from images is a stack
operation (``encode_cutouts``); ``Cutout.from_images`` is a stack of one.
"""

from __future__ import annotations

import math
import reprlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from operator import getitem
from typing import Any, Literal, NamedTuple, Self, cast, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from .arrays import INVALID_LIMIT, all_canonical_finite
from .encoding import MAX_EXPONENT, MIN_EXPONENT, REDUCTION, decode_planes, encode_planes
from .errors import GeometryError, RecordError, StampError
from .geometry import Geometry, Placement
from .noise import backgrounds_and_noises, median
from .pyramid import as_pixels, build_levels
from .rules import FLUX_KINDS, IMAGES, MAX_MASK_BITS, SPEC_VERSION, check_cutout
from .sky import fit_sky

Kind = Literal["UNKNOWN", "SCIENCE", "TEMPLATE", "DIFFERENCE", "SCORE", "VARIANCE", "MASK"]
Of = Literal["UNKNOWN", "NONE", "SCIENCE", "TEMPLATE", "DIFFERENCE"]
Encoding = Literal["UNKNOWN", "RAW", "RICE"]
ClippedBy = Literal["UNKNOWN", "DETECTOR", "CUTOUT"]
MissingReason = Literal["UNKNOWN", "NO_TEMPLATE", "OFF_IMAGE", "FAILED", "WITHHELD"]

PlaneKey = str | tuple[str, str]  # "science", or ("variance", "science")
WireKey = tuple[str, str]  # ("SCIENCE", "NONE")

OFF_IMAGE, NO_DATA = "OFF_IMAGE", "NO_DATA"
SCORE_EXPONENT = -2  # steps of a quarter of a sigma (clause 5.6)
VARIANCE_STEPS = 64  # steps in the median variance (clause 5.6)
_BLOCK_BYTES = 1 << 22  # of footprints: memory does not grow with the number of cutouts


class Record(BaseModel):
    """A record of the schema: Python names here, camelCase on the wire. Frozen; later fields are ignored."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore", defer_build=True
    )

    def to_record(self) -> dict[str, Any]:
        """Return the record as a dictionary with the wire's names, ready for an Avro writer."""
        return self.model_dump(by_alias=True)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the model of an Avro record. Raises RecordError naming the field that is wrong.

        A symbol of a later version becomes UNKNOWN, as with a reader that resolves with our schema (6.3).
        """
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            first = error
        try:
            return cls.model_validate(_without_later_symbols(record, first))
        except ValidationError as error:
            raise as_record_error(error) from None


def _without_later_symbols(record: Any, error: ValidationError) -> Any:
    """Return a copy of ``record`` with UNKNOWN wherever ``error`` says that a symbol is not known."""
    copied = _copied(record)
    for fault in error.errors(include_url=False):
        if fault["type"] == "literal_error" and isinstance(fault["input"], str):
            *parents, last = fault["loc"]
            with suppress(LookupError, TypeError):  # a place by our own names, not the wire's
                if "'UNKNOWN'" in fault["ctx"]["expected"]:
                    reduce(getitem, parents, copied)[last] = "UNKNOWN"
    return copied


def _copied(tree: Any) -> Any:
    """Return a copy of the dictionaries and lists of ``tree``, with the same leaves."""
    if isinstance(tree, Mapping):
        return {name: _copied(branch) for name, branch in tree.items()}
    return [_copied(branch) for branch in tree] if isinstance(tree, list | tuple) else tree


def as_record_error(error: ValidationError) -> RecordError:
    """Return the first trouble pydantic found as a RecordError with a field path."""
    first = error.errors(include_url=False)[0]
    where = ""
    for part in first["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    found = "nothing" if first["type"] == "missing" else reprlib.repr(first["input"])
    return RecordError("record", found, first["msg"], where)


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
            wanted = old.encoding if old else _encoding_of(encoding, wire[0])
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
                else {"unit": _unit_of(units, key, wire), "mask_bits": tuple((mask_bits or {}).get(key, ()))}
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


@lru_cache(maxsize=256)
def wire_key(key: PlaneKey) -> WireKey:
    """Return (kind, of) as they travel: "science" -> ("SCIENCE", "NONE"). Raises RecordError."""
    try:
        kind, of = (key, "none") if isinstance(key, str) else key
        wire = (kind.upper(), of.upper())
    except (TypeError, ValueError, AttributeError):
        raise RecordError("unknown-symbol", f"plane {key!r}", "a kind, or (kind, of)") from None
    if wire[0] not in get_args(Kind) or wire[1] not in get_args(Of) or "UNKNOWN" in wire:
        raise RecordError("unknown-symbol", f"plane {key!r}", "a known kind, or (kind, of)")
    return wire


@lru_cache(maxsize=256)
def plane_key(kind: str, of: str = "NONE") -> PlaneKey:
    """Return the Python name of a plane: "science", or ("variance", "science")."""
    return kind.lower() if of == "NONE" else (kind.lower(), of.lower())


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


def encode_cutouts(
    planes: Mapping[PlaneKey, np.ndarray],
    geometry: Geometry,
    placements: Sequence[Placement],
    *,
    encoding: str | Mapping[str, str] = "raw",
    sigma: float | Mapping[PlaneKey, float] | None = None,
    step_sigma: float = 0.25,
    wcs: Any = None,
    units: str | Mapping[PlaneKey, str] = "unknown",
    psf: Mapping[PlaneKey, np.ndarray] | None = None,
    psf_fwhm: float | Mapping[PlaneKey, float] | None = None,
    mask_bits: Mapping[PlaneKey, Sequence[str]] | None = None,
    missing: Sequence[Missing] = (),
    clipped_by: ClippedBy = "UNKNOWN",
    statistics: bool = True,
) -> list[Cutout]:
    """Return one cutout for each of ``placements``.

    ``planes`` maps "science", ("variance", "science"), ... to (N, H, W), one image for each placement, or
    (H, W), one image for all (the detections of an exposure); all on one pixel grid. ``encoding`` is "raw",
    "rice", or a mapping from plane kind to one of them. ``sigma``: noise of a level-0 pixel, in the
    plane's unit, where the caller knows it; measured on the footprint otherwise. The RICE step is
    ``step_sigma`` sigma rounded to a power of two (5.6). ``wcs``: an astropy WCS of these images, or a
    function (x, y) -> (ra, dec). ``units``: VOUnit, one for all images or by plane (a variance gets the
    square). ``psf``: odd square images; ``psf_fwhm`` in arcsec. ``mask_bits``: names of a mask's bits, bit
    0 first; OFF_IMAGE and NO_DATA are set here. ``clipped_by``: what ends the images, where they clip the
    footprint. ``statistics=False`` leaves ``background`` and ``noise`` out.
    Raises GeometryError and RecordError.
    """
    if clipped_by not in get_args(ClippedBy):
        raise RecordError(
            "clipped", repr(clipped_by), f"one of {', '.join(get_args(ClippedBy))}", "clippedBy"
        )
    stacks = {wire_key(key): np.asarray(image) for key, image in planes.items()}
    if len(stacks) < len(planes):
        raise RecordError("plane-duplicate", "one plane under two names", "each (kind, of) once", "planes")
    height, width = _common_shape(stacks, len(placements))
    names = {wire_key(k): _mask_names(v) for k, v in (mask_bits or {}).items()}
    plans = []
    for key, stack in sorted(stacks.items(), key=lambda item: item[0][0] == "MASK"):  # masks come last
        name = plane_key(*key)
        if key[0] == "MASK":
            _check_mask(stack, names.setdefault(key, _mask_names(())))
        fwhm = psf_fwhm.get(name) if isinstance(psf_fwhm, Mapping) else psf_fwhm
        fields = {
            "kind": key[0],
            "of": key[1],
            "unit": _unit_of(units, name, key),
            "psf": _psf_bytes((psf or {}).get(name)),
            "psfFwhm": None if fwhm is None else _binary32(fwhm),
            "maskBits": names.get(key, ()),
        }
        given = sigma.get(name) if isinstance(sigma, Mapping) else sigma
        plans.append(_Plan(key, stack, _encoding_of(encoding, key[0]), given, step_sigma, statistics, fields))
    clips = [placement.clipped(geometry, width, height) for placement in placements]
    windows = [
        _Window.of(placement, clip, geometry) for placement, clip in zip(placements, clips, strict=True)
    ]
    n_block = max(1, _BLOCK_BYTES // (4 * geometry.span_px**2 * len(plans)))
    encoded: list[tuple[dict[str, Any], ...]] = []
    for start in range(0, len(placements), n_block):
        encoded += _encode_block(plans, geometry, windows, range(len(placements))[start : start + n_block])
    cutouts = []
    for i, placement in enumerate(placements):
        is_clipped = any(clips[i].values())
        record = {
            "specVersion": SPEC_VERSION,
            "size": geometry.size,
            "nLevels": geometry.n_levels,
            "pixelScale": geometry.pixel_scale,
            "dx": _offset(placement.dx),
            "dy": _offset(placement.dy),
            "sky": None
            if wcs is None
            else fit_sky(wcs, placement.cx - 0.5, placement.cy - 0.5, geometry.span_px),
            "clipped": clips[i],
            "clippedBy": clipped_by if is_clipped else "UNKNOWN",
            "planes": encoded[i],
            "missing": [m.to_record() for m in missing],
        }
        cutouts.append(Cutout.from_record(record))
    return cutouts


def _common_shape(stacks: Mapping[WireKey, np.ndarray], n: int) -> tuple[int, int]:
    """Return the (H, W) that all planes share. Raises GeometryError."""
    if not stacks:
        raise GeometryError("geometry", "no planes", "at least one", "planes")
    shapes = {key: stack.shape for key, stack in stacks.items()}
    first = next(iter(shapes.values()))[-2:]
    for key, shape in shapes.items():
        if stacks[key].dtype.kind not in "fiub" and key[0] != "MASK":
            raise GeometryError("geometry", f"an image of {stacks[key].dtype}", "real numbers", "/".join(key))
        if len(shape) not in (2, 3) or shape[-2:] != first or (len(shape) == 3 and shape[0] != n):
            expected = f"{tuple(first)}, alone or {n} times"
            raise GeometryError("geometry", f"shape {shape}", expected, "/".join(key))
    return int(first[0]), int(first[1])


class _Window(NamedTuple):
    """The part of a footprint that the encoder was given, as slices (rows, columns)."""

    footprint: tuple[slice, slice]  # of the (span, span) footprint
    image: tuple[slice, slice]  # of the image

    @classmethod
    def of(cls, placement: Placement, clip: Mapping[str, int], geometry: Geometry) -> _Window:
        half, span = geometry.span_px // 2, geometry.span_px
        rows = slice(clip["yLow"], span - clip["yHigh"])
        columns = slice(clip["xLow"], span - clip["xHigh"])
        y0, x0 = placement.cy - half, placement.cx - half
        return cls(
            (rows, columns),
            (slice(y0 + rows.start, y0 + rows.stop), slice(x0 + columns.start, x0 + columns.stop)),
        )


@dataclass(frozen=True)
class _Plan:
    """How one plane of every cutout is encoded, and what is the same in all of them."""

    key: WireKey
    stack: np.ndarray  # (N, H, W), or (H, W) for all
    encoding: str
    sigma: float | None
    step_sigma: float
    statistics: bool
    fields: Mapping[str, Any]

    def image(self, i: int) -> np.ndarray:
        return self.stack if self.stack.ndim == 2 else self.stack[i]


def _encode_block(
    plans: Sequence[_Plan], geometry: Geometry, windows: Sequence[_Window], numbers: range
) -> list[tuple[dict[str, Any], ...]]:
    """Return the ``multiscale.Plane`` records of each of the cutouts ``numbers``, in the order of ``plans``.

    Planes that are reduced alike are built and encoded as one stack.
    """
    groups: dict[str, list[_Plan]] = defaultdict(list)
    for plan in plans:
        groups[REDUCTION[plan.key[0]]].append(plan)
    span = geometry.span_px
    footprints: dict[WireKey, np.ndarray] = {}
    records: dict[WireKey, list[dict[str, Any]]] = {}
    for reduction in ("science", "variance", "mask"):  # the last two look at the images
        group = groups.get(reduction, ())
        room = np.empty(
            (len(group), len(numbers), span, span), np.uint16 if reduction == "mask" else np.float32
        )
        for plan, out in zip(group, room, strict=True):
            footprints[plan.key] = out
            image = footprints.get((plan.key[1], "NONE"))
            if reduction == "mask":
                _cut_mask(out, plan, windows, numbers, image)
            else:
                _cut_image(out, plan, windows, numbers)
            if reduction == "variance" and image is not None and not all_canonical_finite(image):
                with np.errstate(invalid="ignore"):
                    out[~(np.abs(image) < INVALID_LIMIT)] = math.nan  # clause 3.3
        if group:
            given = [windows[i].footprint for i in numbers]
            records.update(_encode_group(group, room, geometry, reduction, given))
    return list(zip(*[records[plan.key] for plan in plans], strict=True))


def _cut_image(out: np.ndarray, plan: _Plan, windows: Sequence[_Window], numbers: range) -> None:
    """Fill ``out`` (N, span, span) with P_0 of every cutout, NaN where it was not given."""
    with np.errstate(over="ignore", invalid="ignore"):  # what binary32 cannot hold becomes invalid
        for footprint, i in zip(out, numbers, strict=True):
            given = plan.image(i)[windows[i].image]
            if given.shape != footprint.shape:
                footprint.fill(math.nan)
            footprint[windows[i].footprint] = given


def _mask_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return ``names`` with OFF_IMAGE and NO_DATA among them: in a free place, or after the last."""
    out = list(names)
    for reserved in (OFF_IMAGE, NO_DATA):
        if reserved in out:
            continue
        if "" in out:
            out[out.index("")] = reserved
        elif len(out) < MAX_MASK_BITS:
            out.append(reserved)
        else:
            raise RecordError("mask-bits", "16 names", f"a bit left for {reserved}", "maskBits")
    return tuple(out)


def _check_mask(stack: np.ndarray, names: tuple[str, ...]) -> None:
    """Raise RecordError unless ``stack`` holds integers whose bits all have names."""
    if stack.dtype.kind not in "iub":
        raise RecordError("mask-bits", f"a mask of {stack.dtype}", "integers")
    named = sum(1 << bit for bit, name in enumerate(names) if name)
    bits = int(np.bitwise_or.reduce(stack, axis=None)) & ~named
    if bits:
        raise RecordError(
            "mask-bits", f"bits {bits:#x} without a name", "only bits that are named", "maskBits"
        )


def _cut_mask(
    out: np.ndarray, plan: _Plan, windows: Sequence[_Window], numbers: range, images: np.ndarray | None
) -> None:
    """Fill ``out`` (N, span, span) with P_0 of a mask, its reserved bits set as clause 3.4 says."""
    names = plan.fields["maskBits"]
    off, no_data = 1 << names.index(OFF_IMAGE), 1 << names.index(NO_DATA)
    ours = (
        off if images is None else off | no_data
    )  # without its image what has no data is the caller's to say
    out.fill(off)
    for j, i in enumerate(numbers):
        window = windows[i]
        given = plan.image(i)[window.image].astype(np.uint16) & np.uint16(~ours & 0xFFFF)
        if images is not None:
            with np.errstate(invalid="ignore"):
                given[~(np.abs(images[j][window.footprint]) < INVALID_LIMIT)] |= np.uint16(no_data)
        out[j][window.footprint] = given


def _encode_group(
    group: Sequence[_Plan],
    footprints: np.ndarray,
    geometry: Geometry,
    reduction: str,
    given: Sequence[tuple[slice, slice]],
) -> dict[WireKey, list[dict[str, Any]]]:
    """Return the ``multiscale.Plane`` records of footprints (P, N, span, span) of planes reduced alike.

    ``given`` are the parts of the N footprints that are not clipped.
    """
    n, span = footprints.shape[1:3]
    middle = Placement(span // 2, span // 2)
    stack = footprints.reshape(-1, span, span)
    levels = build_levels(stack, geometry, kind=reduction, placement=middle)
    measured: list[tuple[float, float]] = []
    exponents: list[int | None] = []
    offsets: list[int] = []
    for plan, images in zip(group, footprints, strict=True):
        kind = plan.key[0]
        parts = images if kind == "MASK" else [image[part] for image, part in zip(images, given, strict=True)]
        for center, sigma in _medians_and_sigmas(plan, parts):
            e = step_exponent(kind, center, sigma, plan.step_sigma) if plan.encoding == "RICE" else None
            measured.append((center, sigma))
            exponents.append(e)
            offsets.append(_offset_steps(kind, center, e))
    encoding = "RICE" if any(e is not None for e in exponents) else "RAW"
    packed = encode_planes(
        levels, geometry, kind=group[0].key[0], encoding=encoding, step_exponents=exponents, offsets=offsets
    )
    records = [
        {**group[i // n].fields, **fields, **_statistics(group[i // n], *measured[i])}
        for i, fields in enumerate(packed)
    ]
    return {plan.key: records[j * n : (j + 1) * n] for j, plan in enumerate(group)}


def _medians_and_sigmas(plan: _Plan, footprints: Sequence[np.ndarray]) -> list[tuple[float, float]]:
    """Return median and sigma of each footprint, NaN for what this plan does not need (3.7 and 5.6)."""
    is_flux, is_rice = plan.key[0] in FLUX_KINDS, plan.encoding == "RICE"
    is_sigma_needed = plan.statistics or (is_rice and plan.key[0] != "SCORE")
    if is_flux and plan.sigma is None and is_sigma_needed:
        return backgrounds_and_noises(footprints)
    sigma = math.nan if plan.sigma is None else plan.sigma
    if is_rice or (is_flux and plan.statistics):
        return [(median(_valid(footprint)), sigma) for footprint in footprints]
    return [(math.nan, sigma)] * len(footprints)


def _valid(footprint: np.ndarray) -> np.ndarray:
    """Return the valid pixels of a footprint, flat float32 (exact for a mask)."""
    flat = footprint.ravel()
    if flat.dtype == np.uint16:
        return flat.astype(np.float32)
    with np.errstate(invalid="ignore"):
        return flat if all_canonical_finite(flat) else flat[np.abs(flat) < INVALID_LIMIT]


def _statistics(plan: _Plan, center: float, sigma: float) -> dict[str, float | None]:
    is_sent = plan.statistics and plan.key[0] in FLUX_KINDS and math.isfinite(center)
    return {
        "background": _binary32(center) if is_sent else None,
        "noise": _binary32(sigma) if is_sent and math.isfinite(sigma) else None,
    }


def step_exponent(kind: str, median: float, sigma: float, step_sigma: float) -> int | None:
    """Return e of a RICE plane (clause 5.6, step 2), None where it cannot be had and RAW it must be."""
    if kind == "MASK":
        return 0
    if kind == "SCORE":
        return SCORE_EXPONENT
    step = median / VARIANCE_STEPS if kind == "VARIANCE" else sigma * step_sigma
    if not 0 < step < math.inf:
        return None
    e = round(math.log2(step))
    return e if MIN_EXPONENT <= e <= MAX_EXPONENT else None


def _offset_steps(kind: str, median: float, e: int | None) -> int:
    """Return the offset of a RICE plane (clause 5.6, step 3)."""
    if e is None or not math.isfinite(median):
        return 0
    return math.floor(median) if kind == "MASK" else round(median / 2.0**e)


def _encoding_of(encoding: str | Mapping[str, str], kind: str) -> str:
    """Return the wire name of the encoding for planes of ``kind``. Raises RecordError."""
    name = encoding if isinstance(encoding, str) else encoding.get(kind.lower(), "raw")
    if name.upper() not in ("RAW", "RICE"):
        raise RecordError("unknown-symbol", f"encoding {name!r}", "raw or rice", "encoding")
    return name.upper()


def _unit_of(units: str | Mapping[PlaneKey, str], key: PlaneKey, wire: WireKey) -> str:
    """Return the unit of a plane: given, or derived from that of the images."""
    if not isinstance(units, str):
        if key in units:
            return units[key]
        units = units.get(wire[1].lower(), "unknown") if wire[1] in IMAGES else "unknown"
    if wire[0] in ("MASK", "SCORE"):
        return ""
    if wire[0] == "VARIANCE" and units not in ("unknown", ""):
        return f"{units}**2" if units.isalpha() else f"({units})**2"
    return units


def _offset(value: float | None) -> float | None:
    """Return dx or dy as the binary32 that travels, still below 1."""
    if value is None:
        return None
    return min(_binary32(value), 1 - 2.0**-24)


def _binary32(value: float) -> float:
    """Return ``value`` as it travels in a field of type float."""
    with np.errstate(over="ignore"):  # the rules refuse the infinity
        return float(np.float32(value))


def _psf_bytes(psf: np.ndarray | None) -> bytes | None:
    """Return an odd square image as little-endian binary32. Raises RecordError for another shape."""
    if psf is None:
        return None
    array = np.asarray(psf)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.shape[0] % 2 == 0:
        raise RecordError("psf", f"shape {array.shape}", "an odd square", "psf")
    with np.errstate(over="ignore", invalid="ignore"):  # the rules refuse what is not finite
        return array.astype("<f4").tobytes()
