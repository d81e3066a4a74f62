"""From images to cutouts: cut, reduce, measure the sky, choose the step, encode (sections 2 to 5).

One call makes the cutouts of many alerts; planes that are reduced alike go through the codec as one stack.
"""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import numpy as np

from .arrays import INVALID_LIMIT, all_canonical_finite
from .cutout import Cutout, Missing
from .encoding import MAX_EXPONENT, MIN_EXPONENT, REDUCTION, encode_planes
from .errors import GeometryError, RecordError
from .geometry import Geometry, Placement
from .keys import NO_DATA, OFF_IMAGE, ClippedBy, PlaneKey, WireKey, encoding_of, plane_key, unit_of, wire_key
from .noise import backgrounds_and_noises, median, rows_looked_at
from .pyramid import build_levels
from .rules import FLUX_KINDS, MAX_MASK_BITS, SPEC_VERSION
from .sky import fit_sky

SCORE_EXPONENT = -2  # steps of a quarter of a sigma (clause 5.6)
VARIANCE_STEPS = 64  # steps in the median variance (clause 5.6)
_FLOAT = struct.Struct("<f")
_BLOCK_BYTES = 1 << 21  # of footprints: memory does not grow with the number of cutouts


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
            "unit": unit_of(units, name, key),
            "psf": _psf_bytes((psf or {}).get(name)),
            "psfFwhm": None if fwhm is None else _binary32(fwhm),
            "maskBits": names.get(key, ()),
        }
        given = sigma.get(name) if isinstance(sigma, Mapping) else sigma
        plans.append(_Plan(key, stack, encoding_of(encoding, key[0]), given, step_sigma, statistics, fields))
    clips = [placement.clipped(geometry, width, height) for placement in placements]
    windows = [
        _Window.of(placement, clip, geometry) for placement, clip in zip(placements, clips, strict=True)
    ]
    n_block = max(1, _BLOCK_BYTES // (4 * geometry.span_px**2 * len(plans)))
    # the clipped ones apart: a block with a single invalid pixel takes the longer way (a tenth of the time)
    order = sorted(range(len(placements)), key=lambda i: any(clips[i].values()))
    encoded: dict[int, tuple[dict[str, Any], ...]] = {}
    for start in range(0, len(order), n_block):
        numbers = order[start : start + n_block]
        encoded |= zip(numbers, _encode_block(plans, geometry, windows, numbers), strict=True)
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
    plans: Sequence[_Plan], geometry: Geometry, windows: Sequence[_Window], numbers: Sequence[int]
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


def _cut_image(out: np.ndarray, plan: _Plan, windows: Sequence[_Window], numbers: Sequence[int]) -> None:
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
    out: np.ndarray,
    plan: _Plan,
    windows: Sequence[_Window],
    numbers: Sequence[int],
    images: np.ndarray | None,
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
        return [(median(_valid(rows_looked_at(footprint))), sigma) for footprint in footprints]
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


def _offset(value: float | None) -> float | None:
    """Return dx or dy as the binary32 that travels, still below 1."""
    if value is None:
        return None
    return min(_binary32(value), 1 - 2.0**-24)


def _binary32(value: float) -> float:
    """Return ``value`` as it travels in a field of type float."""
    try:
        return float(_FLOAT.unpack(_FLOAT.pack(value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)  # the rules refuse it


def _psf_bytes(psf: np.ndarray | None) -> bytes | None:
    """Return an odd square image as little-endian binary32. Raises RecordError for another shape."""
    if psf is None:
        return None
    array = np.asarray(psf)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.shape[0] % 2 == 0:
        raise RecordError("psf", f"shape {array.shape}", "an odd square", "psf")
    with np.errstate(over="ignore", invalid="ignore"):  # the rules refuse what is not finite
        return array.astype("<f4").tobytes()
