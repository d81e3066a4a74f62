"""A cutout: all planes of one alert on one multi-scale grid (specification, sections 2, 3 and 6).

``Cutout`` and the models in it are the Avro records, field for field. Making one from images is a stack
operation (``encode_cutouts``); ``Cutout.from_images`` is a stack of one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, cast, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from pydantic.alias_generators import to_camel

from .arrays import INVALID_LIMIT
from .encoding import decode_planes, encode_planes
from .errors import GeometryError, PayloadError, RecordError, StampError
from .geometry import Geometry, Placement
from .noise import background_and_noise, median
from .pyramid import build_levels, cut
from .rules import FLUX_KINDS, IMAGES, MAX_MASK_BITS, SPEC_VERSION, cutout_faults
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


class Record(BaseModel):
    """A record of the schema: Python names here, camelCase on the wire. Frozen; later fields are ignored."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")

    def to_record(self) -> dict[str, Any]:
        """Return the record as a dictionary with the wire's names, ready for an Avro writer."""
        return self.model_dump(by_alias=True)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the model of an Avro record. Raises RecordError naming the field that is wrong."""
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            raise as_record_error(error) from None


def as_record_error(error: ValidationError) -> RecordError:
    """Return the first trouble pydantic found as a RecordError with a field path."""
    first = error.errors(include_url=False)[0]
    where = ""
    for part in first["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    found = "nothing" if first["type"] == "missing" else repr(first["input"])[:80]
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

    _levels: dict[WireKey, np.ndarray | StampError] = PrivateAttr(default_factory=dict)
    _record: dict[str, Any] | None = PrivateAttr(default=None)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Cutout:
        """Return the cutout of a ``multiscale.Cutout`` record, its fields checked (payloads are not yet).

        Raises RecordError. A plane of a later version's kind or encoding is kept and refused on use (6.3).
        """
        cutout = super().from_record(record)
        for fault in cutout_faults(record):
            if fault.reason != "unknown-symbol":
                raise fault
        cutout._record = cast(dict[str, Any], record)
        return cutout

    @property
    def geometry(self) -> Geometry:
        """Size, number of levels and pixel scale."""
        return Geometry(self.size, self.n_levels, self.pixel_scale)

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
        plane = self.plane(kind, of)
        if not self._levels:
            self._decode()
        levels = self._levels[plane.kind, plane.of]
        if isinstance(levels, StampError):
            raise levels
        return levels

    def _decode(self) -> None:
        """Decode every plane, those of one dtype together, and keep the levels or the refusals."""
        record = self._record or self.to_record()
        geometry = self.geometry
        for is_mask in (False, True):
            index = [i for i, p in enumerate(self.planes) if (p.kind == "MASK") == is_mask]
            if not index:
                continue
            stack, failures = decode_planes([record["planes"][i] for i in index], geometry)
            stack.flags.writeable = False
            for j, i in enumerate(index):
                key = (self.planes[i].kind, self.planes[i].of)
                self._levels[key] = failures[j].within(f"planes[{i}]") if j in failures else stack[j]

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
        stacks = {key: np.asarray(image)[None] for key, image in planes.items()}
        return encode_cutouts(stacks, geometry, [placement], **options)[0]

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
        so that a decoded cutout encodes to the same bytes. ``fields``: dx, dy, sky, clipped, ...
        """
        planes = []
        known = {} if like is None else {(p.kind, p.of): p for p in like.planes}
        for key, array in levels.items():
            wire = wire_key(key)
            old = known.get(wire)
            wanted = old.encoding if old else _encoding_of(encoding, wire[0])
            e, offset = (old.step_exponent, old.offset) if old else (steps or {}).get(key, (None, 0))
            stack = canonical_stack(np.asarray(array)[None], wire[0], geometry)
            [packed] = encode_planes(
                stack, geometry, kind=wire[0], encoding=wanted, step_exponents=[e], offsets=[offset]
            )
            rest = (
                old.model_dump(include=_UNPACKED_FIELDS)
                if old
                else {"unit": _unit_of(units, key, wire), "mask_bits": tuple((mask_bits or {}).get(key, ()))}
            )
            planes.append(Plane.model_validate({"kind": wire[0], "of": wire[1], **rest, **packed}))
        if like is not None:
            return _checked(like.model_copy(update={"planes": tuple(planes), **fields}))
        fields = {"clipped": Clipped(x_low=0, x_high=0, y_low=0, y_high=0), **fields}
        return _checked(
            cls(
                size=geometry.size,
                n_levels=geometry.n_levels,
                pixel_scale=geometry.pixel_scale,
                planes=tuple(planes),
                **fields,
            )
        )


_UNPACKED_FIELDS = {"unit", "background", "noise", "psf", "psf_fwhm", "mask_bits"}


def _checked(cutout: Cutout) -> Cutout:
    for fault in cutout_faults(cutout.to_record()):
        raise fault
    return cutout


def wire_key(key: PlaneKey) -> WireKey:
    """Return (kind, of) as they travel: "science" -> ("SCIENCE", "NONE"). Raises RecordError."""
    kind, of = (key, "none") if isinstance(key, str) else key
    wire = (kind.upper(), of.upper())
    if wire[0] not in get_args(Kind) or wire[1] not in get_args(Of) or "UNKNOWN" in wire:
        raise RecordError("unknown-symbol", f"plane {key!r}", "a known kind, or (kind, of)")
    return wire


def plane_key(kind: str, of: str = "NONE") -> PlaneKey:
    """Return the Python name of a plane: "science", or ("variance", "science")."""
    return kind.lower() if of == "NONE" else (kind.lower(), of.lower())


def canonical_stack(levels: np.ndarray, kind: str, geometry: Geometry) -> np.ndarray:
    """Return levels (N, L, S, S) as canonical float32, or as uint16 for a mask. Raises GeometryError."""
    shape = (geometry.n_levels, geometry.size, geometry.size)
    if levels.shape[1:] != shape:
        raise GeometryError("geometry", f"levels of shape {levels.shape[1:]}", shape)
    if kind == "MASK":
        if not np.issubdtype(levels.dtype, np.integer) or levels.min() < 0 or levels.max() > 0xFFFF:
            raise PayloadError("rice-range", f"a {levels.dtype} mask", "integers from 0 to 65535")
        return levels.astype(np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):
        out = levels.astype(np.float32)
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
    stacks = {wire_key(key): np.asarray(image) for key, image in planes.items()}
    height, width = _common_shape(stacks, len(placements))
    clips = [placement.clipped(geometry, width, height) for placement in placements]
    names = {wire_key(k): _mask_names(v) for k, v in (mask_bits or {}).items()}
    footprints = {
        key: _footprints(stack, geometry, placements, key)
        for key, stack in stacks.items()
        if key[0] != "MASK"
    }
    for (kind, of), stack in footprints.items():
        if kind == "VARIANCE" and (of, "NONE") in footprints:
            stack[~(np.abs(footprints[of, "NONE"]) < INVALID_LIMIT)] = np.nan  # clause 3.3
    for key, stack in stacks.items():
        if key[0] == "MASK":
            names.setdefault(key, _mask_names(()))
            footprints[key] = _mask_footprints(
                stack, geometry, placements, footprints.get((key[1], "NONE")), names[key]
            )
    encoded: list[list[dict[str, Any]]] = []
    for key, stack in footprints.items():
        rest = {
            "unit": _unit_of(units, plane_key(*key), key),
            "psf": _psf_bytes((psf or {}).get(plane_key(*key))),
            "psfFwhm": psf_fwhm.get(plane_key(*key)) if isinstance(psf_fwhm, Mapping) else psf_fwhm,
            "maskBits": names.get(key, ()),
        }
        given = sigma.get(plane_key(*key)) if isinstance(sigma, Mapping) else sigma
        encoded.append(
            _encode_stack(
                stack, geometry, key, _encoding_of(encoding, key[0]), given, step_sigma, statistics, rest
            )
        )
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
            "planes": [planes[i] for planes in encoded],
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
        if len(shape) not in (2, 3) or shape[-2:] != first or (len(shape) == 3 and shape[0] != n):
            expected = f"{tuple(first)}, alone or {n} times"
            raise GeometryError("geometry", f"shape {shape}", expected, "/".join(key))
    return int(first[0]), int(first[1])


def _footprints(
    stack: np.ndarray, geometry: Geometry, placements: Sequence[Placement], key: WireKey
) -> np.ndarray:
    """Return P_0 of every placement, float32 (N, span, span), NaN where it was not given."""
    span = geometry.span_px
    out = np.empty((len(placements), span, span), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what binary32 cannot hold becomes invalid
        for i, placement in enumerate(placements):
            image = stack if stack.ndim == 2 else stack[i]
            out[i] = (
                cut(image, geometry, placement, fill=math.nan)
                if image.dtype.kind == "f"
                else cut(image.astype(np.float64), geometry, placement, fill=math.nan)
            )
    return out


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


def _mask_footprints(
    stack: np.ndarray,
    geometry: Geometry,
    placements: Sequence[Placement],
    image: np.ndarray | None,
    names: tuple[str, ...],
) -> np.ndarray:
    """Return P_0 of a mask, uint16 (N, span, span), its reserved bits set as clause 3.4 says."""
    off, no_data = 1 << names.index(OFF_IMAGE), 1 << names.index(NO_DATA)
    named = sum(1 << bit for bit, name in enumerate(names) if name)
    if stack.dtype.kind not in "iub":
        raise RecordError("mask-bits", f"a mask of {stack.dtype}", "integers")
    if int(stack.max(initial=0)) & ~named or int(np.bitwise_or.reduce(stack, axis=None)) & ~named:
        bits = int(np.bitwise_or.reduce(stack, axis=None)) & ~named
        raise RecordError(
            "mask-bits", f"bits {bits:#x} without a name", "only bits that are named", "maskBits"
        )
    span = geometry.span_px
    out = np.empty((len(placements), span, span), np.uint16)
    for i, placement in enumerate(placements):
        given = stack if stack.ndim == 2 else stack[i]
        cleared = given.astype(np.uint16) & np.uint16(~(off | no_data) & 0xFFFF)
        out[i] = cut(cleared, geometry, placement, fill=off)
        if image is not None:
            is_given = out[i] & off == 0
            out[i][is_given & ~(np.abs(image[i]) < INVALID_LIMIT)] |= np.uint16(no_data)
    return out


def _encode_stack(
    stack: np.ndarray,
    geometry: Geometry,
    key: WireKey,
    encoding: str,
    sigma: float | None,
    step_sigma: float,
    statistics: bool,
    rest: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return one ``multiscale.Plane`` record for each footprint (N, span, span) of one plane."""
    kind = key[0]
    middle = geometry.span_px // 2
    levels = build_levels(stack, geometry, kind=kind.lower(), placement=Placement(middle, middle))
    medians: list[float] = [math.nan] * len(stack)
    sigmas: list[float] = [math.nan if sigma is None else sigma] * len(stack)
    with np.errstate(invalid="ignore"):
        for i, footprint in enumerate(stack):
            if kind in FLUX_KINDS and (
                statistics or (encoding == "RICE" and sigma is None and kind != "SCORE")
            ):
                clean = np.where(np.abs(footprint) < INVALID_LIMIT, footprint, np.float32(np.nan))
                if sigma is None:
                    medians[i], sigmas[i] = background_and_noise(clean)
                else:
                    medians[i] = median(clean[clean == clean])
            elif encoding == "RICE":
                flat = footprint.ravel()
                medians[i] = median(flat if kind == "MASK" else flat[np.abs(flat) < INVALID_LIMIT])
    exponents = [step_exponent(kind, m, s, step_sigma) for m, s in zip(medians, sigmas, strict=True)]
    offsets = [_offset_steps(kind, m, e) for m, e in zip(medians, exponents, strict=True)]
    packed = encode_planes(
        levels, geometry, kind=kind, encoding=encoding, step_exponents=exponents, offsets=offsets
    )
    out = []
    for i, fields in enumerate(packed):
        with_statistics = statistics and kind in FLUX_KINDS and math.isfinite(medians[i])
        out.append(
            {
                "kind": kind,
                "of": key[1],
                "unit": rest["unit"],
                **fields,
                "background": medians[i] if with_statistics else None,
                "noise": sigmas[i] if with_statistics and math.isfinite(sigmas[i]) else None,
                "psf": rest["psf"],
                "psfFwhm": rest["psfFwhm"],
                "maskBits": rest["maskBits"],
            }
        )
    return out


def step_exponent(kind: str, median: float, sigma: float, step_sigma: float) -> int | None:
    """Return e of a RICE plane (clause 5.6, step 2), None where it cannot be had and RAW it must be."""
    if kind == "MASK":
        return 0
    if kind == "SCORE":
        return SCORE_EXPONENT
    step = median / VARIANCE_STEPS if kind == "VARIANCE" else sigma * step_sigma
    return round(math.log2(step)) if math.isfinite(step) and step > 0 else None


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
    rounded = np.float32(value)
    return float(rounded if rounded < 1 else np.nextafter(np.float32(1), np.float32(0)))


def _psf_bytes(psf: np.ndarray | None) -> bytes | None:
    """Return an odd square image as little-endian binary32. Raises RecordError for another shape."""
    if psf is None:
        return None
    array = np.asarray(psf)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.shape[0] % 2 == 0:
        raise RecordError("psf", f"shape {array.shape}", "an odd square", "psf")
    return array.astype("<f4").tobytes()
