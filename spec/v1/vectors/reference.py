"""A second codec, slow and plain, written from the clauses of the specification alone.

A pixel of an image plane is a float that is exactly a binary32, or None where it is invalid; a pixel of a
mask is an int. A level is a list of rows. Bits are strings of "0" and "1". Numbers in brackets are clauses.
"""

import math
import struct
import zlib
from typing import NamedTuple

KINDS = ("SCIENCE", "TEMPLATE", "DIFFERENCE", "SCORE", "VARIANCE", "MASK")
NAN = bytes.fromhex("0000c07f")  # 7fc00000, little-endian (3.5)
LIMIT = 2.0**125
MAX_Q = 2**24


class RefusedError(Exception):
    """The plane is refused; `args[0]` is the word of 11.3."""


class Plane(NamedTuple):
    """One plane as it travels, with the geometry of its cutout (6.1, 6.2)."""

    kind: str
    encoding: str
    size: int
    n_levels: int
    shared_center: bool
    step_exponent: int
    offset: int
    invalid: bytes | None
    payload: bytes
    crc32: int


def require(is_right, reason):
    """Refuse for `reason` unless the claim is right."""
    if not is_right:
        raise RefusedError(reason)


# Numbers (1.5, 3.5)


def binary32(value):
    """Return `value` rounded to binary32, ties to even (1.5)."""
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def from_bits(bits):
    """Return the binary32 with these bits, as they are: it may be a NaN or an infinity."""
    return struct.unpack(">f", struct.pack(">I", bits))[0]


def canonical(value):
    """Return a binary32, or None when it makes its pixel invalid (3.5)."""
    return value if abs(value) < LIMIT else None  # a comparison with NaN is false


# Levels (2, 3, 4)


def reduce_four(kind, four):
    """Return what the pixels (0,0), (0,1), (1,0), (1,1) of a block make (3.2, 3.3, 3.4)."""
    if kind == "MASK":
        return four[0] | four[1] | four[2] | four[3]
    valid = [value for value in four if value is not None]
    if not valid:
        return None
    total = valid[0]  # not 0 + valid[0], which loses the sign of -0
    for value in valid[1:]:
        total += value  # a Python float is a binary64
    n = len(valid)
    return binary32(total / (n * n if kind == "VARIANCE" else n))


def is_center(size, i):
    """Tell whether row or column i belongs to the centre of a level k >= 1 (2.3)."""
    return size // 4 <= i < 3 * size // 4


def is_sent(size, shared_center, k, y, x):
    """Tell whether pixel (y, x) of level k is sent (4.2, 4.3)."""
    return k == 0 or not shared_center or not (is_center(size, y) and is_center(size, x))


def sent_positions(size, n_levels, shared_center):
    """Return (k, y, x) of the sent values in packing order (4.1)."""
    pixels = range(size)
    return [
        (k, y, x)
        for k in range(n_levels)
        for y in pixels
        for x in pixels
        if is_sent(size, shared_center, k, y, x)
    ]


def rebuild(kind, levels, k, y, x):
    """Return centre pixel (y, x) of level k, from level k - 1 (2.3, 4.2)."""
    size = len(levels[0])
    row, column = 2 * (y - size // 4), 2 * (x - size // 4)
    finer = levels[k - 1]
    four = [finer[row + i][column + j] for i in (0, 1) for j in (0, 1)]
    return reduce_four(kind, four)


def unpack(kind, size, n_levels, shared_center, values):
    """Return the levels of the sent values (4.1 to 4.3)."""
    values = iter(values)
    levels = [[[None] * size for _ in range(size)] for _ in range(n_levels)]
    for k in range(n_levels):
        for y in range(size):
            for x in range(size):
                sent = is_sent(size, shared_center, k, y, x)
                levels[k][y][x] = next(values) if sent else rebuild(kind, levels, k, y, x)
    return levels


def pack(levels, shared_center):
    """Return the sent values of the levels (4.1 to 4.3)."""
    positions = sent_positions(len(levels[0]), len(levels), shared_center)
    return [levels[k][y][x] for k, y, x in positions]


def values_to_bytes(kind, values):
    """Return the values as little-endian binary32 or uint16, invalid ones as 7fc00000 (3.5, 5.1)."""
    if kind == "MASK":
        return b"".join(struct.pack("<H", value) for value in values)
    return b"".join(NAN if value is None else struct.pack("<f", value) for value in values)


def levels_to_bytes(kind, levels):
    """Return the canonical form of decoded levels (4.4)."""
    return values_to_bytes(kind, [value for level in levels for row in level for value in row])


# RAW (5.1)


def raw_values(plane, n):
    """Return the n sent values of a RAW plane, or refuse it (5.1)."""
    require(plane.step_exponent == 0, "step-exponent")
    require(plane.offset == 0, "offset")
    require(plane.invalid is None, "bitmap")
    width = 2 if plane.kind == "MASK" else 4
    require(len(plane.payload) == width * n, "payload-size")
    if plane.kind == "MASK":
        return [value for (value,) in struct.iter_unpack("<H", plane.payload)]
    values = []
    for i in range(0, 4 * n, 4):
        value = canonical(struct.unpack_from("<f", plane.payload, i)[0])
        require(value is not None or plane.payload[i : i + 4] == NAN, "not-canonical")
        values.append(value)
    return values


# RICE (5.2 to 5.6)


def to_bits(data):
    """Return the bits of bytes, the most significant bit of each byte first (1.5)."""
    return "".join(f"{byte:08b}" for byte in data)


def to_bytes(bits):
    """Return bits as bytes, the unused low bits of the last one 0 (5.3)."""
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def unsigned(r):
    """Return u of a residual (5.3)."""
    return 2 * r if r >= 0 else -2 * r - 1


def signed(u):
    """Return the residual of u (5.3)."""
    return u // 2 if u % 2 == 0 else -(u + 1) // 2


def blocks_of(values):
    """Return the values in blocks of 16, the last may be shorter (5.3)."""
    return [values[i : i + 16] for i in range(0, len(values), 16)]


def best_parameter(us):
    """Return p with the smallest number of bits; of equals, the smallest (5.6, step 5)."""
    return min(range(27), key=lambda p: (sum((u >> p) + 1 + p for u in us), p))


class Parts(NamedTuple):
    """The bits of three of the four parts of a payload; `length` is the second (5.3)."""

    parameters: str
    unary: str
    remainders: str

    def payload(self, *, length=None):
        """Return the payload; `length` replaces the stated number of bytes of the unary part."""
        unary = to_bytes(self.unary)
        stated = struct.pack("<I", len(unary) if length is None else length)
        return to_bytes(self.parameters) + stated + unary + to_bytes(self.remainders)


def rice_parts(residuals, parameters=None):
    """Return the bits of the parts; the parameters are those of 5.6 unless they are given (5.3)."""
    blocks = blocks_of([unsigned(r) for r in residuals])
    parameters = [best_parameter(us) for us in blocks] if parameters is None else parameters
    unary = remainders = ""
    for p, us in zip(parameters, blocks, strict=True):
        unary += "".join("0" * (u >> p) + "1" for u in us)
        remainders += "".join(f"{u % 2**p:0{p}b}" for u in us if p)
    return Parts("".join(f"{p:05b}" for p in parameters), unary, remainders)


def base_of(kind, offset, k):
    """Return q of a residual of 0 at level k (5.2)."""
    return offset if kind == "MASK" else offset * 2**k


def value_of(kind, q, e, k):
    """Return the value of q at level k (5.2): exactly a binary32, and never -0."""
    return q if kind == "MASK" else math.ldexp(q, e - k)


def check_limits(kind, n_levels, e, offset):
    """Refuse a step exponent or an offset beyond the limits of 5.2."""
    require(e == 0 if kind == "MASK" else -119 <= e <= 101, "step-exponent")
    largest = 65535 if kind == "MASK" else MAX_Q // 2 ** (n_levels - 1)
    require((0 if kind == "MASK" else -largest) <= offset <= largest, "offset")


def checked_value(kind, q, e, k):
    """Return the value of q at level k, or refuse it (5.2)."""
    require(0 <= q <= 65535 if kind == "MASK" else abs(q) <= MAX_Q, "rice-range")
    value = value_of(kind, q, e, k)
    require(kind == "MASK" or abs(value) < LIMIT, "not-canonical")
    return value


def invalid_flags(plane, n):
    """Return for each sent value whether it is invalid, or refuse the bitmap (5.4)."""
    if plane.invalid is None:
        return [False] * n
    bits = to_bits(plane.invalid)
    require(plane.kind != "MASK" and len(plane.invalid) == -(-n // 8), "bitmap")
    require("1" not in bits[n:] and "1" in bits, "bitmap")
    return [bit == "1" for bit in bits[:n]]


def split_payload(payload, m):
    """Return the parameters, the unary bits and the remainder bits of a payload, or refuse it (5.3)."""
    sizes = [min(16, m - i) for i in range(0, m, 16)]
    n_bytes = -(-5 * len(sizes) // 8)
    require(len(payload) >= n_bytes + 4, "rice-truncated")
    bits = to_bits(payload[:n_bytes])
    parameters = [int(bits[5 * b : 5 * b + 5], 2) for b in range(len(sizes))]
    require(all(p <= 26 for p in parameters), "rice-parameter")
    require("1" not in bits[5 * len(sizes) :], "rice-padding")
    (length,) = struct.unpack_from("<I", payload, n_bytes)
    n_remainder_bits = sum(p * size for p, size in zip(parameters, sizes, strict=True))
    unary_end = n_bytes + 4 + length
    end = unary_end + -(-n_remainder_bits // 8)
    require(len(payload) >= end, "rice-truncated")
    require(len(payload) <= end, "rice-trailing")
    remainders = to_bits(payload[unary_end:])
    require("1" not in remainders[n_remainder_bits:], "rice-padding")
    return parameters, to_bits(payload[n_bytes + 4 : unary_end]), remainders[:n_remainder_bits]


def unary_numbers(bits, m):
    """Return the m numbers of the unary part, or refuse it (5.3)."""
    pieces = bits.split("1")
    require(len(pieces) == m + 1, "rice-unary")  # m ones: no more, in the unused bits neither
    require(len(pieces[m]) < 8, "rice-unary")  # it ends with the byte of the last one
    return [len(piece) for piece in pieces[:m]]


def residuals_of(payload, m):
    """Return the m residuals of a payload, or refuse it (5.3)."""
    parameters, unary, remainders = split_payload(payload, m)
    residuals, position = [], 0
    for i, number in enumerate(unary_numbers(unary, m)):
        p = parameters[i // 16]
        u = number * 2**p + int(remainders[position : position + p] or "0", 2)
        require(u <= 2**26, "rice-range")
        position += p
        residuals.append(signed(u))
    return residuals


def rice_values(plane, positions):
    """Return the sent values of a RICE plane, or refuse it (5.2 to 5.5)."""
    check_limits(plane.kind, plane.n_levels, plane.step_exponent, plane.offset)
    n_bytes = len(plane.payload) + len(plane.invalid or b"")
    require(n_bytes < (2 if plane.kind == "MASK" else 4) * len(positions), "rice-not-shorter")
    flags = invalid_flags(plane, len(positions))
    residuals = iter(residuals_of(plane.payload, flags.count(False)))
    values = []
    for (k, _, _), is_invalid in zip(positions, flags, strict=True):
        if is_invalid:
            values.append(None)
            continue
        q = base_of(plane.kind, plane.offset, k) + next(residuals)
        values.append(checked_value(plane.kind, q, plane.step_exponent, k))
    return values


# Both ways


def decode(plane):
    """Return the canonical levels of a plane, as bytes, or refuse it (2 to 5)."""
    require(plane.kind in KINDS and plane.encoding in ("RAW", "RICE"), "unknown-symbol")
    require(4 <= plane.size <= 64 and plane.size % 4 == 0, "geometry")
    require(1 <= plane.n_levels <= 8, "geometry")
    require(plane.n_levels > 1 or plane.shared_center, "shared-center")
    positions = sent_positions(plane.size, plane.n_levels, plane.shared_center)
    is_raw = plane.encoding == "RAW"
    values = raw_values(plane, len(positions)) if is_raw else rice_values(plane, positions)
    levels = unpack(plane.kind, plane.size, plane.n_levels, plane.shared_center, values)
    data = levels_to_bytes(plane.kind, levels)
    require(zlib.crc32(data) == plane.crc32, "crc")
    return data


def build_levels(kind, size, n_levels, image, cx, cy, outside=0):
    """Return the levels of an image around the corner (cx - 1/2, cy - 1/2) (2.2, 3.2 to 3.4).

    P_k is a dictionary from the pixels that the image reaches to their values: all others are invalid, or
    `outside` for a mask.
    """
    side = size * 2 ** (n_levels - 1)
    x0, y0 = cx - side // 2, cy - side // 2  # the first pixel of the footprint, in the image
    rest = outside if kind == "MASK" else None
    pixels = {
        (y - y0, x - x0): value if kind == "MASK" else canonical(value)
        for y, row in enumerate(image)
        for x, value in enumerate(row)
        if 0 <= y - y0 < side and 0 <= x - x0 < side
    }
    levels = []
    for k in range(n_levels):
        first = (size // 2) * (2 ** (n_levels - 1 - k) - 1)
        span = range(first, first + size)
        levels.append([[pixels.get((y, x), rest) for x in span] for y in span])
        pixels = {
            (y, x): reduce_four(
                kind, [pixels.get((2 * y + i, 2 * x + j), rest) for i in (0, 1) for j in (0, 1)]
            )
            for y, x in {(y // 2, x // 2) for y, x in pixels}
        }
    return levels


def nests(kind, levels):
    """Tell whether the centres that 4.2 rebuilds are those of the levels, bit for bit (4.3)."""
    size, n_levels = len(levels[0]), len(levels)
    rebuilt = unpack(kind, size, n_levels, True, pack(levels, True))
    return levels_to_bytes(kind, rebuilt) == levels_to_bytes(kind, levels)


def raw_plane_of(kind, size, n_levels, shared, values):
    """Return the RAW plane of sent values (5.1)."""
    crc32 = zlib.crc32(levels_to_bytes(kind, unpack(kind, size, n_levels, shared, values)))
    return Plane(kind, "RAW", size, n_levels, shared, 0, 0, None, values_to_bytes(kind, values), crc32)


def raw_plane(kind, levels):
    """Return the RAW plane of levels (4.3, 5.1)."""
    shared = nests(kind, levels)
    return raw_plane_of(kind, len(levels[0]), len(levels), shared, pack(levels, shared))


def quantised(kind, value, e, k):
    """Return q of a value of level k (5.6, step 4); every division here is exact."""
    return value if kind == "MASK" else round(math.ldexp(value, k - e))


def rice_plane_of(kind, size, n_levels, shared, e, offset, values, parameters=None):
    """Return the RICE plane of sent values that are whole numbers of steps (5.2 to 5.4)."""
    positions = sent_positions(size, n_levels, shared)
    flags = "".join("1" if value is None else "0" for value in values)
    invalid = to_bytes(flags) if "1" in flags else None
    residuals = [
        quantised(kind, value, e, k) - base_of(kind, offset, k)
        for (k, _, _), value in zip(positions, values, strict=True)
        if value is not None
    ]
    payload = rice_parts(residuals, parameters).payload()
    crc32 = zlib.crc32(levels_to_bytes(kind, unpack(kind, size, n_levels, shared, values)))
    return Plane(kind, "RICE", size, n_levels, shared, e, offset, invalid, payload, crc32)


def rice_plane(kind, levels, e, offset):
    """Return the RICE plane of levels, or refuse where 5.5 asks for RAW (5.2 to 5.6)."""
    size, n_levels, shared = len(levels[0]), len(levels), nests(kind, levels)
    check_limits(kind, n_levels, e, offset)
    positions = sent_positions(size, n_levels, shared)
    values = [
        None if value is None else checked_value(kind, quantised(kind, value, e, k), e, k)
        for (k, _, _), value in zip(positions, pack(levels, shared), strict=True)
    ]
    plane = rice_plane_of(kind, size, n_levels, shared, e, offset, values)
    n_bytes = len(plane.payload) + len(plane.invalid or b"")
    require(n_bytes < (2 if kind == "MASK" else 4) * len(values), "rice-not-shorter")
    return plane


def encode(kind, encoding, levels, e=0, offset=0):
    """Return the plane of levels, RAW where RICE may not be (5.5)."""
    if encoding == "RICE":
        try:
            return rice_plane(kind, levels, e, offset)
        except RefusedError:
            pass
    return raw_plane(kind, levels)
