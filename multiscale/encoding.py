"""Levels to the payload of a plane and back (specification, section 5).

Both directions take a stack of planes at once; a single plane is a stack of one. The record side is plain
dictionaries with the field names of ``multiscale.Plane``.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

import numpy as np

from .arrays import ABS_BITS, INVALID_LIMIT, LIMIT_BITS, NAN_BITS, all_canonical, all_canonical_finite
from .errors import PayloadError
from .geometry import Geometry
from .packing import centers_nest, n_reaching, sent_index, sent_level, unpack_into
from .rice import decode_residuals, encode_residuals

MIN_EXPONENT, MAX_EXPONENT = -119, 101
MAX_QUANTUM = 1 << 24
MAX_MASK = 0xFFFF
FLOAT, MASK = np.dtype("<f4"), np.dtype("<u2")
# Of levels. Fewer calls cost less than what leaves the cache, while the room taken on the way stays less than
# the levels themselves: then the allocator keeps it (measured on batches of 256 packets of 4x8: 2^18 8.3 us a
# packet, 2^20 7.5; 10.6 where each call takes its memory anew, 450 pages)
_BLOCK_BYTES = 1 << 20
# Of levels in RICE: its arrays then stay below 128 kB, above which C libraries give memory back to the
# system and take it again, page by page (measured: half the time of a batch of 256 packets)
_RICE_BLOCK_BYTES = 1 << 16
REDUCTION = {  # wire kind -> how its levels are reduced
    "SCIENCE": "science",
    "TEMPLATE": "science",
    "DIFFERENCE": "science",
    "SCORE": "science",
    "VARIANCE": "variance",
    "MASK": "mask",
}
Plane = Mapping[str, Any]
Failures = dict[int, PayloadError]


def decode_planes(planes: Sequence[Plane], geometry: Geometry) -> tuple[np.ndarray, Failures]:
    """Return the canonical levels (N, L, S, S) of N planes, and the errors of those that are refused.

    ``planes`` are ``multiscale.Plane`` records, either all MASK (uint16) or none (float32). Levels of a
    refused plane are invalid (NaN, or 0 in a mask). Never raises for what a payload holds.
    """
    dtype = MASK if planes and planes[0]["kind"] == "MASK" else FLOAT
    out = np.empty((len(planes), geometry.n_levels, geometry.size, geometry.size), dtype)
    is_rice = bool(planes) and planes[0]["encoding"] == "RICE"
    n_block = max(1, (_RICE_BLOCK_BYTES if is_rice else _BLOCK_BYTES) // (4 * geometry.n_pixels))
    if len(planes) <= n_block:
        return out, _decode_block(planes, out, geometry)
    failures: Failures = {}
    for start in range(0, len(planes), n_block):
        block = slice(start, start + n_block)
        refused = _decode_block(planes[block], out[block], geometry)
        failures |= {start + i: error for i, error in refused.items()}
    return out, failures


def _decode_block(planes: Sequence[Plane], out: np.ndarray, geometry: Geometry) -> Failures:
    """Fill ``out`` as :func:`decode_planes` returns it."""
    alike = [(p["encoding"], p["sharedCenter"], REDUCTION.get(p["kind"], "")) for p in planes]
    failures: Failures = {}
    if planes and alike.count(alike[0]) == len(planes):  # nearly always
        failures = _decode_group(planes, out, geometry, *alike[0])
    else:
        groups: dict[tuple[str, bool, str], list[int]] = defaultdict(list)
        for i, group in enumerate(alike):
            groups[group].append(i)
        for group, members in groups.items():
            levels = np.empty((len(members), *out.shape[1:]), out.dtype)
            refused = _decode_group([planes[i] for i in members], levels, geometry, *group)
            out[members] = levels
            failures |= {members[i]: error for i, error in refused.items()}
    _check_crc(planes, out, failures)
    for i in failures:
        out[i] = 0 if out.dtype == MASK else math.nan
    return failures


def _decode_group(
    planes: Sequence[Plane],
    out: np.ndarray,
    geometry: Geometry,
    encoding: str,
    shared: bool,
    reduction: str,
) -> Failures:
    """Fill ``out`` with the levels of planes that differ in their values alone; refused ones are empty."""
    failures: Failures = {}
    if reduction == "" or encoding not in ("RAW", "RICE"):
        name, expected = ("encoding", "RAW or RICE") if reduction else ("kind", "a kind of this version")
        error = PayloadError("unknown-symbol", planes[0][name], expected, name)
        out[...] = 0
        return dict.fromkeys(range(len(planes)), error)
    if not shared and geometry.n_levels == 1:
        error = PayloadError("shared-center", "false for one level", "true", "sharedCenter")
        failures = dict.fromkeys(range(len(planes)), error)
    has_invalid: bool | None = None
    if encoding == "RAW":
        values, has_invalid = _decode_raw(planes, out, geometry, shared, failures)
    else:
        values = _decode_rice(planes, geometry, shared, out.dtype, failures)
    unpack_into(out, values, geometry, kind=reduction, shared_center=shared, has_invalid=has_invalid)
    return failures


def _check_crc(planes: Sequence[Plane], levels: np.ndarray, failures: Failures) -> None:
    """Add a failure for each plane whose levels are not those its ``crc32`` was computed from (4.4)."""
    if not planes:
        return
    rows: Any = levels.reshape(len(planes), -1)
    found = list(map(zlib.crc32, rows))
    stated = [plane["crc32"] for plane in planes]
    if found != stated:
        for i, (crc, expected) in enumerate(zip(found, stated, strict=True)):
            if crc != expected and i not in failures:
                failures[i] = PayloadError("crc", f"{crc:08x}", _hex(expected), "crc32")


def _hex(number: Any) -> str:
    return f"{number:08x}" if isinstance(number, int) else repr(number)


def _decode_raw(
    planes: Sequence[Plane], room: np.ndarray, geometry: Geometry, shared: bool, failures: Failures
) -> tuple[np.ndarray, bool]:
    """Return the values (N, n) of RAW planes (clause 5.1), and if any that reaches a centre is invalid.

    ``room`` is where their levels will be, of their type: what it holds is overwritten, so that no other
    memory of that size is taken and given back.
    """
    dtype = room.dtype
    n, first = geometry.n_sent(shared), n_reaching(geometry, shared)
    expected = n * dtype.itemsize
    payloads = [plane["payload"] for plane in planes]
    if set(map(len, payloads)) != {expected} or not _are_raw(planes):
        for i, plane in enumerate(planes):
            if len(payloads[i]) != expected:
                found = f"{len(payloads[i])} bytes"
                failures.setdefault(i, PayloadError("payload-size", found, expected, "payload"))
                payloads[i] = bytes(expected)
            elif not _is_raw(plane):
                failures.setdefault(i, _raw_field_error(plane))
    values = np.frombuffer(b"".join(payloads), dtype).reshape(len(planes), n)
    if dtype == MASK:
        return values, False
    bits = values.view(np.uint32)
    magnitude = room.reshape(-1)[: values.size].view(np.uint32).reshape(values.shape)
    np.bitwise_and(bits, ABS_BITS, out=magnitude)
    if magnitude.max(initial=0) < LIMIT_BITS:  # nearly always
        return values, False
    has_invalid = bool(magnitude[:, :first].max(initial=0) >= LIMIT_BITS)
    if ((magnitude < LIMIT_BITS) | (bits == NAN_BITS)).all():
        return values, has_invalid
    for i, row in enumerate(values):
        if not all_canonical(row):
            j = next(j for j in range(n) if not all_canonical(row[j : j + 1]))
            found = f"bits {row[j : j + 1].view('<u4')[0]:08x} as value {j}"
            failures.setdefault(
                i, PayloadError("not-canonical", found, "7fc00000, or a magnitude below 2^125", "payload")
            )
    values = values.copy()
    values[list(failures)] = 0
    return values, has_invalid


def _are_raw(planes: Sequence[Plane]) -> bool:
    """As ``all(map(_is_raw, planes))``, without a call for each."""
    return (
        not any(map(itemgetter("stepExponent"), planes))
        and not any(map(itemgetter("offset"), planes))
        and list(map(itemgetter("invalid"), planes)).count(None) == len(planes)
    )


def _is_raw(plane: Plane) -> bool:
    return not plane["stepExponent"] and not plane["offset"] and plane["invalid"] is None


def _raw_field_error(plane: Plane) -> PayloadError:
    if plane["stepExponent"]:
        return PayloadError("step-exponent", plane["stepExponent"], "0 in a RAW plane", "stepExponent")
    if plane["offset"]:
        return PayloadError("offset", plane["offset"], "0 in a RAW plane", "offset")
    return PayloadError("bitmap", "a bitmap", "null in a RAW plane", "invalid")


def _decode_rice(
    planes: Sequence[Plane], geometry: Geometry, shared: bool, dtype: np.dtype, failures: Failures
) -> np.ndarray:
    """Return the sent values (N, n) of RICE planes (clauses 5.2 to 5.5)."""
    n = geometry.n_sent(shared)
    values = np.zeros((len(planes), n), dtype)
    good = []
    limit = -1 if dtype == MASK else MAX_QUANTUM >> (geometry.n_levels - 1)  # of the offset
    for i, plane in enumerate(planes):
        is_plain = _is_plain_rice(plane, limit, n * dtype.itemsize)
        error = None if is_plain else _rice_field_error(plane, geometry, n, dtype)
        if error is None:
            good.append(i)
        else:
            failures.setdefault(i, error)
    parts = [good]
    while parts:
        part = parts.pop()
        try:
            values[part] = _rice_values([planes[i] for i in part], geometry, shared, dtype)
        except PayloadError as error:
            if len(part) == 1:
                failures.setdefault(part[0], error.within("payload"))
            else:  # which of them? halves, so that a wrong plane costs the others little
                parts += [part[: len(part) // 2], part[len(part) // 2 :]]
    return values


def _is_plain_rice(plane: Plane, limit: int, n_raw: int) -> bool:
    """True for most planes that are no masks: nothing of what ``_rice_field_error`` reports is there."""
    return (
        plane["invalid"] is None
        and MIN_EXPONENT <= plane["stepExponent"] <= MAX_EXPONENT
        and -limit <= plane["offset"] <= limit
        and len(plane["payload"]) < n_raw
    )


def _rice_field_error(plane: Plane, geometry: Geometry, n: int, dtype: np.dtype) -> PayloadError | None:
    """Return what is wrong with the fields beside a RICE payload, before any of it is read."""
    e, offset, bitmap = plane["stepExponent"], plane["offset"], plane["invalid"]
    if dtype == MASK:
        if e != 0:
            return PayloadError("step-exponent", e, "0 in a mask", "stepExponent")
        if not 0 <= offset <= MAX_MASK:
            return PayloadError("offset", offset, f"from 0 to {MAX_MASK}", "offset")
        if bitmap is not None:
            return PayloadError("bitmap", "a bitmap", "null in a mask", "invalid")
    elif not MIN_EXPONENT <= e <= MAX_EXPONENT:
        return PayloadError("step-exponent", e, f"from {MIN_EXPONENT} to {MAX_EXPONENT}", "stepExponent")
    elif abs(offset) << (geometry.n_levels - 1) > MAX_QUANTUM:
        limit = MAX_QUANTUM >> (geometry.n_levels - 1)
        return PayloadError("offset", offset, f"a magnitude of at most {limit}", "offset")
    length = len(plane["payload"]) + (0 if bitmap is None else len(bitmap))
    if length >= n * dtype.itemsize:
        return PayloadError(
            "rice-not-shorter", f"{length} bytes", f"fewer than RAW's {n * dtype.itemsize}", "payload"
        )
    if bitmap is not None:
        if len(bitmap) != -(-n // 8):
            return PayloadError("bitmap", f"{len(bitmap)} bytes", -(-n // 8), "invalid")
        if n % 8 and bitmap[-1] & (0xFF >> n % 8):
            return PayloadError("bitmap", "ones in the padding", "zeros", "invalid")
        if not any(bitmap):
            return PayloadError("bitmap", "no 1 at all", "null when all values are valid", "invalid")
    return None


def _rice_values(planes: Sequence[Plane], geometry: Geometry, shared: bool, dtype: np.dtype) -> np.ndarray:
    """Return the values (N, n) of RICE planes whose fields are in range. Raises PayloadError."""
    n = geometry.n_sent(shared)
    valid = _validity([plane["invalid"] for plane in planes], n)
    counts = np.full(len(planes), n) if valid is None else valid.sum(axis=1)
    residuals = decode_residuals([plane["payload"] for plane in planes], counts)
    if valid is None:
        r = residuals.reshape(len(planes), n)
    else:
        r = np.zeros(valid.shape, np.int64)
        r[valid] = residuals
    offset = np.array([plane["offset"] for plane in planes], np.int64)[:, None]
    if dtype == MASK:
        q = r + offset
        if q.size and not (q.min() >= 0 and q.max() <= MAX_MASK):
            raise PayloadError("rice-range", f"mask values from {q.min()} to {q.max()}", "0 to 65535")
        return q.astype(MASK)
    q = _with_offset(r, offset, geometry, shared)
    if valid is not None:
        q[~valid] = 0  # an invalid value has none that could be out of range
    if q.size and not (q.min() >= -MAX_QUANTUM and q.max() <= MAX_QUANTUM):
        raise PayloadError("rice-range", f"q from {q.min()} to {q.max()}", "a magnitude of at most 2^24")
    e = np.array([plane["stepExponent"] for plane in planes], np.int64)
    values = _scaled(q.astype(np.float64), e, geometry, shared).astype(FLOAT)
    if e.size and e.max() == MAX_EXPONENT and not all_canonical_finite(values):
        raise PayloadError("not-canonical", "a value of 2^125", "a magnitude below 2^125")
    if valid is not None:
        values[~valid] = math.nan
    return values


@lru_cache(maxsize=256)
def _sent_slices(size: int, n_levels: int, shared: bool) -> tuple[slice, ...]:
    """Return where the sent values of each level lie in packing order."""
    bounds = np.searchsorted(sent_level(size, n_levels, shared), np.arange(n_levels + 1)).tolist()
    return tuple(slice(begin, end) for begin, end in zip(bounds, bounds[1:]))


def _with_offset(r: np.ndarray, offset: np.ndarray, geometry: Geometry, shared: bool) -> np.ndarray:
    """Add offset 2^k to the int64 values (N, n) of each level k, in place; ``offset`` is (N, 1)."""
    for k, part in enumerate(_sent_slices(geometry.size, geometry.n_levels, shared)):
        r[:, part] += offset << k
    return r


def _scaled(values: np.ndarray, e: np.ndarray, geometry: Geometry, shared: bool, sign: int = 1) -> np.ndarray:
    """Multiply the float64 values (N, n) of each level k by 2^(sign (e - k)), in place.

    From integers of at most 24 bits the result is exactly a float32: every power is a normal number.
    """
    for k, part in enumerate(_sent_slices(geometry.size, geometry.n_levels, shared)):
        values[:, part] *= np.ldexp(1.0, sign * (e - k))[:, None]
    return values


def _validity(bitmaps: Sequence[bytes | None], n: int) -> np.ndarray | None:
    """Return a boolean array (N, n), true where a value is valid; None when all are."""
    if all(bitmap is None for bitmap in bitmaps):
        return None
    empty = bytes(-(-n // 8))
    raw = np.frombuffer(b"".join(empty if b is None else b for b in bitmaps), np.uint8)
    return np.unpackbits(raw.reshape(len(bitmaps), -1), axis=1, count=n) == 0


def encode_planes(
    levels: np.ndarray,
    geometry: Geometry,
    *,
    kind: str,
    encoding: str = "RAW",
    step_exponents: Sequence[int | None] | None = None,
    offsets: Sequence[int] | None = None,
    shared_center: bool = True,
) -> list[dict[str, Any]]:
    """Return the fields encoding … crc32 of one ``multiscale.Plane`` for each stamp of a stack.

    ``levels`` is (N, L, S, S), canonical float32, or uint16 for kind "MASK" (wire spelling). For RICE
    ``step_exponents`` and ``offsets`` hold e and offset of each stamp; None, or what does not fit
    (clause 5.5), makes that plane RAW. Centres are shared where the levels nest bit for bit (4.3), and
    nowhere with ``shared_center=False``: a decoded plane of whole levels has the same bytes again.
    """
    dtype = MASK if kind == "MASK" else FLOAT
    levels = np.ascontiguousarray(levels, dtype)
    if shared_center or geometry.n_levels == 1:
        nests = centers_nest(levels, geometry, REDUCTION[kind])
    else:
        nests = np.zeros(len(levels), bool)
    flat = levels.reshape(len(levels), geometry.n_pixels)
    out: list[dict[str, Any] | None] = [None] * len(levels)
    for shared in (True, False):
        members = np.flatnonzero(nests == shared).tolist()
        if not members:
            continue
        values = flat.take(sent_index(geometry.size, geometry.n_levels, shared), axis=1)
        if len(members) < len(levels):
            values = values[members]
        rice: dict[int, dict[str, Any]] = {}
        if encoding == "RICE" and step_exponents is not None and offsets is not None:
            e, offset = [step_exponents[i] for i in members], [offsets[i] for i in members]
            rice = _encode_rice(values, geometry, shared, dtype, REDUCTION[kind], e, offset)
        for j, i in enumerate(members):
            out[i] = rice.get(j) or {
                "encoding": "RAW",
                "sharedCenter": shared,
                "stepExponent": 0,
                "offset": 0,
                "invalid": None,
                "payload": values[j].tobytes(),
                "crc32": zlib.crc32(flat[i].data),
            }
    return [fields for fields in out if fields is not None]


def _encode_rice(
    values: np.ndarray,
    geometry: Geometry,
    shared: bool,
    dtype: np.dtype,
    reduction: str,
    step_exponents: Sequence[int | None],
    offsets: Sequence[int],
) -> dict[int, dict[str, Any]]:
    """Return the fields of those stamps of ``values`` (N, n) that RICE can hold, by index."""
    limit = MAX_QUANTUM >> (geometry.n_levels - 1)
    fits = [
        i
        for i, (e, offset) in enumerate(zip(step_exponents, offsets, strict=True))
        if e is not None
        and (e == 0 and 0 <= offset <= MAX_MASK if dtype == MASK else MIN_EXPONENT <= e <= MAX_EXPONENT)
        and (dtype == MASK or abs(offset) <= limit)
    ]
    if not fits:
        return {}
    e = np.array([step_exponents[i] for i in fits], np.int64)
    offset = np.array([offsets[i] for i in fits], np.int64)[:, None]
    if len(fits) < len(values):
        values = values[fits]
    valid: np.ndarray | None = None
    if dtype == MASK:
        decoded, residuals = values, values.astype(np.int64) - offset
        keep = list(range(len(fits)))
    else:
        if not all_canonical_finite(values):
            valid = values == values
        rounded = np.rint(_scaled(values.astype(np.float64), e, geometry, shared, sign=-1))
        if valid is not None:
            rounded[~valid] = 0
        in_range = (rounded.max(axis=1) <= MAX_QUANTUM) & (rounded.min(axis=1) >= -MAX_QUANTUM)
        rounded[~in_range] = 0
        residuals = _with_offset(rounded.astype(np.int64), -offset, geometry, shared)
        rounded += 0.0  # -0 becomes +0 (clause 5.2)
        decoded = _scaled(rounded, e, geometry, shared).astype(FLOAT)
        if e.max() == MAX_EXPONENT:
            in_range &= (np.abs(decoded) < INVALID_LIMIT).all(axis=1)
        if valid is not None:
            decoded[~valid] = math.nan
        keep = np.flatnonzero(in_range).tolist()
    if not keep:
        return {}
    if len(keep) < len(fits):
        residuals, decoded = residuals[keep], decoded[keep]
        valid = None if valid is None else valid[keep]
    if valid is None:
        payloads = encode_residuals(residuals.ravel(), np.full(len(keep), values.shape[1]))
    else:
        payloads = encode_residuals(residuals[valid], valid.sum(axis=1))
    bitmaps: list[bytes | None] = [None] * len(keep) if valid is None else _bitmaps(valid)
    decoded_levels = np.empty((len(keep), geometry.n_levels, geometry.size, geometry.size), dtype)
    unpack_into(decoded_levels, decoded, geometry, kind=reduction, shared_center=shared)
    out = {}
    for payload, bitmap, j, levels in zip(payloads, bitmaps, keep, decoded_levels, strict=True):
        if len(payload) + len(bitmap or b"") >= values.shape[1] * dtype.itemsize:
            continue
        out[fits[j]] = {
            "encoding": "RICE",
            "sharedCenter": shared,
            "stepExponent": int(e[j]),
            "offset": int(offset[j, 0]),
            "invalid": bitmap,
            "payload": payload,
            "crc32": zlib.crc32(levels.data),
        }
    return out


def _bitmaps(valid: np.ndarray) -> list[bytes | None]:
    """Return the bitmap of each row (clause 5.4), None where all is valid."""
    return [row.tobytes() if row.any() else None for row in np.packbits(~valid, axis=1)]
