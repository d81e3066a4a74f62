"""What the fields of a record must satisfy (specification, sections 2, 3, 6, 7 and 10.1).

Each function yields every fault it finds as a RecordError with its field path: a validator reports them
all, a decoder raises the first. Records are dictionaries as Avro gives them. What can only be known from
the pixels (payload, CRC) is checked where they are decoded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .errors import RecordError
from .geometry import MAX_LEVELS, MAX_SIZE

SPEC_VERSION = "1.0"
MAX_PLANES = 32
MAX_MISSING = 32
MAX_MASK_BITS = 16
MAX_NAME = 64
MAX_DETAIL = 1024
MAX_PSF = 255
IMAGES = frozenset(["SCIENCE", "TEMPLATE", "DIFFERENCE"])
FLUX_KINDS = frozenset(["SCIENCE", "TEMPLATE", "DIFFERENCE", "SCORE"])
_HAS_OWNER = frozenset(["VARIANCE", "MASK"])
_ENCODINGS = frozenset(["RAW", "RICE"])
_SYMBOLS = {
    "kind": FLUX_KINDS | _HAS_OWNER,
    "of": IMAGES | {"NONE"},
    "encoding": _ENCODINGS,
}  # to write (6.3)
_INF = math.inf
_VERSION = re.compile(r"[0-9]+\.[0-9]+")

Record = Mapping[str, Any]
Faults = Iterator[RecordError]


def check_version(version: str) -> None:
    """Raise RecordError("version") unless ``version`` is MAJOR.MINOR of a major this package reads (10.1)."""
    if version == SPEC_VERSION:  # by far the most
        return
    if not _VERSION.fullmatch(version) or version.partition(".")[0] != SPEC_VERSION.partition(".")[0]:
        raise RecordError("version", repr(version), "'1.' and a minor version", "specVersion")


def check_cutout(record: Record, *, later_symbols: bool = False) -> bool:
    """Raise the first of ``cutout_faults``, if any; ``later_symbols``: let those of 6.3 pass.

    Returns whether any passed. Most records are found plain in one expression, in a third of the time of
    looking rule by rule.
    """
    check_version(record["specVersion"])  # another major version need not have the other fields
    if _is_plain_cutout(record):
        return False
    passed = False
    for fault in cutout_faults(record):
        passed = later_symbols and fault.reason == "unknown-symbol"
        if not passed:
            raise fault
    return passed


def later_symbol(plane: Record) -> RecordError | None:
    """Return the fault of a plane, or of an entry of ``missing``, of a later version's symbols (6.3), if any.

    A reader that resolves with this version's schema sees UNKNOWN; one that does not, the symbol itself.
    """
    for name, symbols in _SYMBOLS.items():
        if name in plane and plane[name] not in symbols:
            return RecordError("unknown-symbol", plane[name], f"a {name} of this version", name)
    return None


def cutout_faults(record: Record) -> Faults:
    """Yield every fault of a ``multiscale.Cutout`` record, its planes' fields included."""
    try:
        check_version(record["specVersion"])
    except RecordError as error:
        yield error
        return  # another major version means something else
    geometry_is_good = True
    for fault in _geometry_faults(record):
        geometry_is_good = False
        yield fault
    dx, dy = record["dx"], record["dy"]
    if dx is None or dy is None or not (-1 <= dx < 1 and -1 <= dy < 1):
        yield from _position_faults(dx, dy)
    if record["sky"] is not None:
        yield from _sky_faults(record["sky"])
    if geometry_is_good:
        yield from _clipped_faults(record)
    planes, missing = record["planes"], record["missing"]
    if len(planes) > MAX_PLANES:
        yield RecordError("limit", f"{len(planes)} planes", f"at most {MAX_PLANES}", "planes")
        return
    seen = set()
    one_level = record["nLevels"] == 1
    for i, plane in enumerate(planes):
        key = (plane["kind"], plane["of"])
        if key in seen and later_symbol(plane) is None:  # two later kinds both read as UNKNOWN
            yield RecordError("plane-duplicate", "/".join(key), "each (kind, of) once", f"planes[{i}]")
        seen.add(key)
        for fault in plane_faults(plane, one_level=one_level):
            yield fault.within(f"planes[{i}]")
    if missing:
        yield from _missing_faults(missing, seen)


def _geometry_faults(record: Record) -> Faults:
    size, n_levels, scale = record["size"], record["nLevels"], record["pixelScale"]
    if size % 4 or not 4 <= size <= MAX_SIZE:
        yield RecordError("geometry", size, f"a multiple of 4 from 4 to {MAX_SIZE}", "size")
    if not 1 <= n_levels <= MAX_LEVELS:
        yield RecordError("geometry", n_levels, f"from 1 to {MAX_LEVELS}", "nLevels")
    if not 0 < scale < math.inf:
        yield RecordError("geometry", scale, "finite and above 0", "pixelScale")


def _position_faults(dx: float | None, dy: float | None) -> Faults:
    if dx is None or dy is None:
        if dx is not dy:
            name = "dx" if dy is None else "dy"
            yield RecordError("position", f"{name} alone", "dx and dy both null or both given", name)
        return
    if not -1 <= dx < 1:
        yield RecordError("position", dx, "in [-1, 1)", "dx")
    if not -1 <= dy < 1:
        yield RecordError("position", dy, "in [-1, 1)", "dy")


def _sky_faults(sky: Record) -> Faults:
    if not 0 <= sky["ra"] < 360:
        yield RecordError("sky", sky["ra"], "in [0, 360)", "sky.ra")
    if not -90 <= sky["dec"] <= 90:
        yield RecordError("sky", sky["dec"], "in [-90, 90]", "sky.dec")
    determinant = sky["cd11"] * sky["cd22"] - sky["cd12"] * sky["cd21"]
    finite = all(map(math.isfinite, (sky["cd11"], sky["cd12"], sky["cd21"], sky["cd22"])))
    if not finite or determinant == 0:
        yield RecordError("sky", f"determinant {determinant}", "a finite matrix, not singular", "sky.cd11")
    error = sky["maxError"]
    if error is not None and not 0 <= error < math.inf:
        yield RecordError("sky", error, "finite and not negative, or null", "sky.maxError")


def _clipped_faults(record: Record) -> Faults:
    clipped, span = record["clipped"], record["size"] << (record["nLevels"] - 1)
    x_low, x_high, y_low, y_high = clipped["xLow"], clipped["xHigh"], clipped["yLow"], clipped["yHigh"]
    if min(x_low, x_high) < 0 or x_low + x_high > span:
        yield RecordError("clipped", f"{x_low} and {x_high}", f"from 0 to {span} together", "clipped.xLow")
    if min(y_low, y_high) < 0 or y_low + y_high > span:
        yield RecordError("clipped", f"{y_low} and {y_high}", f"from 0 to {span} together", "clipped.yLow")
    total = x_low or x_high or y_low or y_high
    if not total and record["clippedBy"] != "UNKNOWN":
        yield RecordError("clipped", record["clippedBy"], "UNKNOWN where nothing is clipped", "clippedBy")


def _is_plain_cutout(record: Record) -> bool:
    """True for most cutouts: none of the rules of ``cutout_faults`` can be broken."""
    size, n_levels, clipped, planes = record["size"], record["nLevels"], record["clipped"], record["planes"]
    dx, dy, sky = record["dx"], record["dy"], record["sky"]
    x_low, x_high, y_low, y_high = clipped["xLow"], clipped["xHigh"], clipped["yLow"], clipped["yHigh"]
    if not (
        record["specVersion"] == SPEC_VERSION
        and size % 4 == 0
        and 4 <= size <= MAX_SIZE
        and 1 <= n_levels <= MAX_LEVELS
        and 0 < record["pixelScale"] < _INF
        and (dx is dy is None or (dx is not None and dy is not None and -1 <= dx < 1 and -1 <= dy < 1))
        and (sky is None or next(_sky_faults(sky), None) is None)
        and x_low >= 0 <= x_high
        and y_low >= 0 <= y_high
        and x_low + x_high <= size << n_levels - 1 >= y_low + y_high
        and (record["clippedBy"] == "UNKNOWN" or x_low + x_high + y_low + y_high > 0)
        and len(planes) <= MAX_PLANES
        and not record["missing"]
    ):
        return False
    kinds = set()
    for plane in planes:
        background, noise = plane["background"], plane["noise"]
        if not (
            plane["kind"] in FLUX_KINDS
            and plane["of"] == "NONE"
            and plane["encoding"] in _ENCODINGS
            and plane["sharedCenter"]
            and len(plane["unit"]) <= MAX_NAME
            and 0 <= plane["crc32"] <= 0xFFFFFFFF
            and (background is None or -_INF < background < _INF)
            and (noise is None or 0 <= noise < _INF)
            and plane["psf"] is None
            and plane["psfFwhm"] is None
            and not plane["maskBits"]
        ):
            return False
        kinds.add(plane["kind"])
    return len(kinds) == len(planes)


def plane_faults(plane: Record, *, one_level: bool = False) -> Faults:
    """Yield every fault of the fields of a ``multiscale.Plane`` record, payload and CRC apart."""
    kind, of = plane["kind"], plane["of"]
    fault = later_symbol(plane)
    if fault is not None:
        yield fault
    elif (of in IMAGES) != (kind in _HAS_OWNER):
        expected = "SCIENCE, TEMPLATE or DIFFERENCE" if kind in _HAS_OWNER else "NONE"
        yield RecordError("plane-of", of, f"{expected} for {kind}", "of")
    if len(plane["unit"]) > MAX_NAME:
        yield RecordError("limit", f"{len(plane['unit'])} characters", f"at most {MAX_NAME}", "unit")
    if one_level and not plane["sharedCenter"]:
        yield RecordError("shared-center", "false for one level", "true", "sharedCenter")
    if not 0 <= plane["crc32"] <= 0xFFFFFFFF:
        yield RecordError("crc", plane["crc32"], "from 0 to 2^32 - 1", "crc32")
    background, noise = plane["background"], plane["noise"]
    if background is not None and not math.isfinite(background):
        yield RecordError("statistics", background, "finite or null", "background")
    if noise is not None and not 0 <= noise < math.inf:
        yield RecordError("statistics", noise, "finite and not negative, or null", "noise")
    if kind == "MASK" and not (background is None and noise is None):
        yield RecordError("statistics", "background or noise", "null for a MASK", "background")
    if plane["psf"] is not None:
        yield from _psf_faults(plane["psf"])
    fwhm = plane["psfFwhm"]
    if fwhm is not None and not 0 < fwhm < math.inf:
        yield RecordError("psf", fwhm, "finite and above 0, or null", "psfFwhm")
    if plane["maskBits"]:
        yield from _mask_bits_faults(plane["maskBits"], kind)


def _psf_faults(psf: bytes) -> Faults:
    side = math.isqrt(len(psf) // 4)
    if len(psf) > MAX_PSF**2 * 4:
        yield RecordError("psf", f"{len(psf)} bytes", f"at most {MAX_PSF}^2 values", "psf")
    elif 4 * side * side != len(psf) or side % 2 == 0:
        yield RecordError("psf", f"{len(psf)} bytes", "an odd square of binary32", "psf")
    elif not np.isfinite(np.frombuffer(psf, "<f4")).all():
        yield RecordError("psf", "a value that is not finite", "finite values", "psf")


def _mask_bits_faults(names: list[str], kind: str) -> Faults:
    if kind != "MASK" and kind in _SYMBOLS["kind"]:
        yield RecordError("mask-bits", f"{len(names)} names", f"none in a {kind} plane", "maskBits")
    if len(names) > MAX_MASK_BITS:
        yield RecordError("limit", f"{len(names)} names", f"at most {MAX_MASK_BITS}", "maskBits")
    if any(len(name) > MAX_NAME for name in names):
        yield RecordError("limit", "a longer name", f"at most {MAX_NAME} characters", "maskBits")
    named = [name for name in names if name]
    if len(set(named)) != len(named):
        yield RecordError("mask-bits", "a name twice", "each name once", "maskBits")


def _missing_faults(missing: list[Record], present: set[tuple[str, str]]) -> Faults:
    if len(missing) > MAX_MISSING:
        yield RecordError("limit", f"{len(missing)} entries", f"at most {MAX_MISSING}", "missing")
        return
    for i, entry in enumerate(missing):
        fault = later_symbol(entry)
        if fault is not None:
            yield fault.within(f"missing[{i}]")
        elif (entry["kind"], entry["of"]) in present:
            yield RecordError("missing", "a plane that is present", "an absent plane", f"missing[{i}]")
        if len(entry["detail"]) > MAX_DETAIL:
            found = f"{len(entry['detail'])} characters"
            yield RecordError("limit", found, f"at most {MAX_DETAIL}", f"missing[{i}].detail")
