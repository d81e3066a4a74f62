"""Planes that a decoder refuses: one fault each, and the word of 11.3 for it."""

import struct
import zlib

from decoding import filled
from reference import NAN, Parts, rice_parts, to_bits, to_bytes, unpack, values_to_bytes
from vector import Numbers, n_sent, raw, refused_plane, rice


def replaced(payload, at, piece):
    """Return the payload with some of its bytes replaced."""
    return payload[:at] + piece + payload[at + len(piece) :]


def little_raw():
    """Return a RAW plane of two levels to damage."""
    return raw("SCIENCE", 4, 2, [float(i) for i in range(28)])


# The fields beside the payload


def fields():
    """Return geometry and symbols that no plane may have; the payloads are what such a plane would have."""
    plane, one = little_raw(), raw("SCIENCE", 4, 1, [])
    geometries = [(2, 1), (3, 1), (6, 1), (10, 1), (0, 1), (4, 9), (4, 10), (4, 0)]
    planes = [raw("SCIENCE", size, n_levels, []) for size, n_levels in geometries]
    planes += [rice("SCIENCE", 68, 1, []), rice("SCIENCE", 128, 1, []), one._replace(size=-4)]
    planes += [one._replace(size=2**31 - 4), one._replace(n_levels=2**31 - 1), one._replace(n_levels=-1)]
    planes += [plane._replace(size=65536), plane._replace(n_levels=33)]
    vectors = [
        refused_plane(
            f"field-size-{p.size}-levels-{p.n_levels}",
            "2.1",
            f"S = {p.size}, L = {p.n_levels}",
            "geometry",
            p,
        )
        for p in planes
    ]
    cases = [
        ("kind-unknown", "6.3", "kind UNKNOWN", "unknown-symbol", plane._replace(kind="UNKNOWN")),
        ("kind-later", "10.3", "a kind of a later version", "unknown-symbol", plane._replace(kind="DEPTH")),
        ("kind-case", "6.3", "kinds are in capitals", "unknown-symbol", plane._replace(kind="science")),
        ("encoding-unknown", "6.3", "encoding UNKNOWN", "unknown-symbol", plane._replace(encoding="UNKNOWN")),
        ("encoding-later", "10.3", "a later encoding", "unknown-symbol", plane._replace(encoding="DCT")),
        ("one-level-whole", "4.3", "sharedCenter false for L = 1", "shared-center",
         one._replace(shared_center=False)),
    ]  # fmt: skip
    return vectors + [refused_plane(f"field-{name}", *rest) for name, *rest in cases]


# CRC (4.4)


def crcs():
    """Return checksums of something else than the canonical levels."""
    plane = raw("SCIENCE", 4, 2, [None, -0.0, *[float(i) / 3 for i in (3, 6, 9)], None, None])
    good = plane.crc32
    values = unpack("SCIENCE", 4, 2, True, [None, -0.0, 1.0, 2.0, 3.0, None, None, *map(float, range(21))])
    flat = [value for level in values for row in level for value in row]
    canonical = values_to_bytes("SCIENCE", flat)
    swapped = b"".join(canonical[i : i + 4][::-1] for i in range(0, len(canonical), 4))
    cases = [
        ("plus-one", "one more than the right one", good + 1),
        ("zero", "0 is no way to leave it out", 0),
        ("inverted", "without the final exclusive-or", good ^ 0xFFFFFFFF),
        ("bytes-reversed", "its bytes the other way round", int.from_bytes(struct.pack("<I", good), "big")),
        ("of-payload", "of the payload", zlib.crc32(plane.payload)),
        ("big-endian", "of big-endian levels", zlib.crc32(swapped)),
        ("negative-nan", "of levels with NaN ffc00000", zlib.crc32(canonical.replace(NAN, b"\0\0\xc0\xff"))),
        ("zero-nan", "of levels with 0 for an invalid pixel", zlib.crc32(canonical.replace(NAN, bytes(4)))),
        ("positive-zero", "of levels with +0 for -0", zlib.crc32(canonical.replace(b"\0\0\0\x80", bytes(4)))),
        ("level-0", "of level 0 alone", zlib.crc32(canonical[:64])),
        ("adler", "another checksum of the levels", zlib.adler32(canonical)),
    ]
    if any(crc == good for _, _, crc in cases):
        raise AssertionError("a wrong checksum that is right")
    vectors = [
        refused_plane(f"crc-{n}", "4.4", text, "crc", plane._replace(crc32=crc)) for n, text, crc in cases
    ]
    mask = raw("MASK", 4, 2, [1, 2, 3])
    as_32_bits = zlib.crc32(b"".join(struct.pack("<I", i) for i in (1, 2, 3)))
    other = rice("SCIENCE", 4, 2, [5, -5, 3])
    return [
        *vectors,
        refused_plane("crc-mask", "4.4", "of a mask as 32 bits", "crc", mask._replace(crc32=as_32_bits)),
        refused_plane("crc-rice", "4.4", "RICE too", "crc", other._replace(crc32=other.crc32 ^ 0x80000000)),
        refused_plane(
            "crc-bit", "4.4", "one bit of the payload changed", "crc",
            plane._replace(payload=replaced(plane.payload, 8, b"\x01")),
        ),
        refused_plane(
            "crc-variance-as-mean", "3.3", "the checksum of means, in a VARIANCE plane", "crc",
            raw("SCIENCE", 4, 2, [])._replace(kind="VARIANCE"),
        ),
        refused_plane(
            "crc-whole-as-shared", "4.2", "the payload of shared centres is not that of whole levels",
            "payload-size", plane._replace(shared_center=False),
        ),
    ]  # fmt: skip


# RAW (5.1)


def raw_faults():
    """Return RAW planes of a wrong length, with a value that is not canonical, or with RICE's fields."""
    plane = little_raw()
    payload = plane.payload
    mask = raw("MASK", 4, 2, [])
    lengths = [
        ("empty", plane, b"", "no byte"),
        ("one-short", plane, payload[:-1], "one byte short"),
        ("one-more", plane, payload + b"\0", "one byte more"),
        ("value-short", plane, payload[:-4], "one value short"),
        ("value-more", plane, payload + bytes(4), "one value more"),
        ("whole", plane, payload + bytes(16), "the centre too"),
        ("level-0", plane, payload[:64], "level 0 alone"),
        ("doubles", plane, b"".join(struct.pack("<d", i) for i in range(28)), "binary64"),
        ("mask-one-short", mask, mask.payload[:-1], "a mask one byte short"),
        ("mask-32-bits", mask, mask.payload * 2, "a mask of 32 bits"),
        ("mask-bytes", mask, mask.payload[:28], "a mask of 8 bits"),
    ]
    vectors = [
        refused_plane(f"raw-length-{n}", "5.1", text, "payload-size", p._replace(payload=data))
        for n, p, data, text in lengths
    ]
    fields = [("step", "step-exponent", "step_exponent", -3), ("offset", "offset", "offset", 1)]
    fields += [("step-large", "step-exponent", "step_exponent", 2**31 - 1)]
    fields += [("bitmap", "bitmap", "invalid", bytes(4)), ("bitmap-empty", "bitmap", "invalid", b"")]
    vectors += [
        refused_plane(f"raw-{n}", "5.1", f"{f} in a RAW plane", why, plane._replace(**{f: v}))
        for n, why, f, v in fields
    ]
    return vectors + [vector for bits, at in NOT_CANONICAL for vector in not_canonical(bits, at)]


NOT_CANONICAL = [
    (0x7F800000, 0), (0xFF800000, 1), (0x7FC00001, 2), (0xFFC00000, 3), (0x7F800001, 4), (0x7FFFFFFF, 5),
    (0x7E000000, 6), (0xFE000000, 7), (0x7F7FFFFF, 8), (0xFF7FC99E, 9), (0x7FE00000, 15),
]  # fmt: skip


def not_canonical(bits, at):
    """Return planes of one level with these bits as one of the values, one for each way to let them pass.

    The CRC is that of the bits as they are, or that of an invalid pixel in their place.
    """
    plane = raw("SCIENCE", 4, 1, [])
    damaged = replaced(plane.payload, 4 * at, struct.pack("<I", bits))
    canonical = replaced(plane.payload, 4 * at, NAN)
    comment = f"bits {bits:08x}: neither 7fc00000 nor below 2^125"
    return [
        refused_plane(f"raw-value-{bits:08x}{name}", "5.1", comment + more, "not-canonical",
                      plane._replace(payload=damaged, crc32=zlib.crc32(levels)))
        for name, more, levels in (("", "", damaged), ("-nan", "; not made NaN on reading", canonical))
    ]  # fmt: skip


# RICE: fields and ranges (5.2, 5.5)


def rice_fields():
    """Return step exponents and offsets beyond the limits; what they lead to is within, where it can be."""
    plane, mask = rice("SCIENCE", 4, 2, [1, -1, 3]), rice("MASK", 4, 2, [1, 0, 3])
    top = 2**23
    down = [0] * 88 + [-128] * 12  # so that only the offset is beyond its limit
    cases = [
        ("e-low", "e = -120", "step-exponent", rice("SCIENCE", 4, 2, [1, -1, 3], e=-120)),
        ("e-high", "e = 102", "step-exponent", rice("SCIENCE", 4, 2, [1, -1, 3], e=102)),
        ("e-int-min", "e = -2^31", "step-exponent", plane._replace(step_exponent=-(2**31))),
        ("e-int-max", "e = 2^31 - 1", "step-exponent", plane._replace(step_exponent=2**31 - 1)),
        ("e-wraps", "e = 2^32, which is 0 in 32 bits", "step-exponent", plane._replace(step_exponent=2**32)),
        ("e-mask", "e = -2 in a mask", "step-exponent", mask._replace(step_exponent=-2)),
        ("offset-high", "offset 2^23 + 1: 2^24 + 2 at level 1", "offset",
         rice("SCIENCE", 4, 2, [0] * 16 + [-2] * 12, offset=top + 1)),
        ("offset-low", "offset -2^23 - 1", "offset",
         rice("SCIENCE", 4, 2, [0] * 16 + [2] * 12, offset=-top - 1)),
        ("offset-l8", "offset 2^17 + 1 for L = 8", "offset", rice("SCIENCE", 4, 8, down, offset=2**17 + 1)),
        ("offset-wraps", "offset 2^32, which is 0 in 32 bits", "offset", plane._replace(offset=2**32)),
        ("offset-level-wraps", "offset 2^25 for L = 8: 2^32 at level 7", "offset",
         rice("SCIENCE", 4, 8, [1])._replace(offset=2**25)),
        ("offset-int-min", "offset -2^31", "offset", plane._replace(offset=-(2**31))),
        ("offset-mask-low", "offset -1 in a mask", "offset", rice("MASK", 4, 2, [1] * 28, offset=-1)),
        ("offset-mask-high", "offset 65536 in a mask", "offset",
         rice("MASK", 4, 2, [-1] * 28, offset=65536)),
    ]  # fmt: skip
    vectors = [refused_plane(f"rice-{n}", "5.2", text, why, p) for n, text, why, p in cases]
    return vectors + ranges() + not_shorter()


def wrapped(kind, residuals, kept, n_levels=1, **fields):
    """Return a plane whose payload holds `residuals`, and whose CRC is that of `kept` in their place."""
    n = n_sent(4, n_levels)
    parameters = fields.pop("parameters", None)
    payload = rice_parts([*residuals, *[0] * (n - len(residuals))], parameters).payload()
    return rice(kind, 4, n_levels, kept)._replace(payload=payload, **fields)


def ranges():
    """Return residuals that lead out of the range of q or u, or to a value that is not canonical.

    The CRC is that of what comes out where the range is not checked.
    """
    top = 2**24
    cases = [
        ("q-high", "q = 2^24 + 1", "rice-range", rice("SCIENCE", 4, 1, [top + 1])),
        ("q-high-even", "q = 2^24 + 2, a binary32 all the same", "rice-range",
         rice("SCIENCE", 4, 1, [top + 2])),
        ("q-low", "q = -2^24 - 1", "rice-range", rice("SCIENCE", 4, 1, [-top - 1])),
        ("q-offset", "offset + r = 2^24 + 1", "rice-range", rice("SCIENCE", 4, 1, [1], offset=top)),
        ("q-level", "q = 2^24 + 1 at level 1", "rice-range",
         rice("SCIENCE", 4, 2, [0] * 16 + [1], offset=2**23)),
        ("q-level-low", "q = -2^24 - 1 at level 1", "rice-range",
         rice("SCIENCE", 4, 2, [0] * 27 + [-1], offset=-(2**23))),
        ("q-mask-low", "a mask of -1, which is 65535 in 16 bits", "rice-range",
         wrapped("MASK", [0, -1], [0, 65535], 2)),
        ("q-mask-high", "a mask of 65536, which is 0 in 16 bits", "rice-range",
         wrapped("MASK", [65536], [0], 2)),
        ("u-high", "u = 2^26 + 1", "rice-range", rice("SCIENCE", 4, 1, [-(2**25) - 1], offset=top)),
        ("u-wraps", "u = 2^32 + 4, which is 4 in 32 bits", "rice-range",
         wrapped("SCIENCE", [2**31 + 2], [2], 2, parameters=[26, 0])),
        ("u-wraps-26", "u = 2^26 + 4, cut to 26 bits it is 4", "rice-range",
         wrapped("SCIENCE", [2**25 + 2], [2], 2, parameters=[26, 0])),
        ("value-high", "e = 101, level 0, q = 2^24: the value 2^125", "not-canonical",
         rice("SCIENCE", 4, 1, [top], e=101)),
        ("value-low", "e = 101, level 0, q = -2^24", "not-canonical",
         rice("SCIENCE", 4, 2, [0, -top], e=101)),
        ("value-nan", "2^125 is not made NaN on reading", "not-canonical",
         rice("SCIENCE", 4, 1, [top], e=101)._replace(
             crc32=rice("SCIENCE", 4, 1, [None], e=101).crc32)),
    ]  # fmt: skip
    return [refused_plane(f"rice-{n}", "5.2", text, why, p) for n, text, why, p in cases]


def not_shorter():
    """Return payloads that are right but as long as RAW, or longer."""
    bitmap = rice("SCIENCE", 4, 1, [None] + [0] * 15)
    shares = [28, *[9] * 14]  # zero bits of the codes: 154, so that the payload has 62 bytes
    cases = [
        ("equal", "64 bytes, as RAW", filled("SCIENCE", 64)),
        ("longer", "80 bytes", filled("SCIENCE", 80)),
        ("mask", "a mask of 32 bytes, as RAW", filled("MASK", 32)),
        ("mask-as-binary32", "a mask of 60 bytes is longer than 2n", filled("MASK", 60)),
        ("garbage", "64 bytes of anything", bitmap._replace(payload=b"\xff" * 62)),
        ("bomb", "64 bytes that claim a unary part of 4 GiB",
         bitmap._replace(payload=b"\0" + b"\xff" * 4 + bytes(57))),
        ("bitmap", "62 bytes and a bitmap of 2: together as long as RAW",
         rice("SCIENCE", 4, 1, [None, *[s << 19 for s in shares]], parameters=[20])),
    ]  # fmt: skip
    return [
        refused_plane(f"rice-not-shorter-{n}", "5.5", text, "rice-not-shorter", p) for n, text, p in cases
    ]


# RICE: the payload (5.3)


def rice_payloads():
    """Return payloads with a fault in one of their parts."""
    numbers = Numbers("damaged")
    residuals = [numbers.whole(-30, 30) for _ in range(28)]
    plane = rice("SCIENCE", 4, 2, residuals, parameters=[4, 3])
    parts = rice_parts(residuals, [4, 3])
    if any(len(bits) % 8 == 0 for bits in parts):
        raise AssertionError("a part without unused bits")
    vectors = [damaged(plane, *case) for case in [*part_cases(plane.payload, parts), *unary_cases(parts)]]
    vectors += [cut(plane, length) for length in range(len(plane.payload))]
    vectors += [bad_parameter(p, block) for p in range(27, 32) for block in (0, 1)]
    zeros = rice("SCIENCE", 4, 2, [], parameters=[3, 3])
    comment = "cut in remainders of 0: what is missing is not 0"
    cut_zeros = damaged(zeros, "cut-zeros", comment, "rice-truncated", zeros.payload[:-2])
    return [*vectors, cut_zeros, runaway(), *empties()]


def runaway():
    """Return a code of 128,000 zero bits that no one ends."""
    plane = rice("SCIENCE", 64, 1, [])
    payload = Parts("00000" * 256, "0" * 128000, "").payload()
    return damaged(plane, "unary-runaway", "128,000 zero bits and no one", "rice-unary", payload)


def damaged(plane, name, comment, reason, payload):
    """Return a vector of the plane with another payload."""
    return refused_plane(f"rice-{name}", "5.3", comment, reason, plane._replace(payload=payload))


def part_cases(payload, parts):
    """Yield faults of padding, of the stated length and of the end."""
    yield "trailing-zero", "a zero byte after the remainders", "rice-trailing", payload + b"\0"
    yield "trailing-four", "four bytes after the remainders", "rice-trailing", payload + bytes(4)
    padded = parts._replace(parameters=parts.parameters + "000001").payload()
    yield "padding-parameters", "a one in the last unused bit of the parameters", "rice-padding", padded
    padded = parts._replace(parameters=parts.parameters + "1").payload()
    yield "padding-parameters-first", "a one in the first unused bit", "rice-padding", padded
    for name, bit in (("last", "0" * (-len(parts.remainders) % 8 - 1) + "1"), ("first", "1")):
        padded = parts._replace(remainders=parts.remainders + bit).payload()
        yield f"padding-remainders-{name}", f"a one in the {name} unused bit", "rice-padding", padded
    for length in (2**32 - 1, 2**31, 2**31 - 1, 2**28, 2**16, 1000):
        name, comment = f"unary-length-{length}", f"a unary part of {length} bytes claimed"
        yield name, comment, "rice-truncated", parts.payload(length=length)
    reversed_bytes = int.from_bytes(struct.pack("<I", len(to_bytes(parts.unary))), "big")
    big_endian = parts.payload(length=reversed_bytes)
    yield "unary-length-big-endian", "its length is big-endian", "rice-truncated", big_endian


def unary_cases(parts):
    """Yield faults of the unary part."""
    longer = parts._replace(unary=parts.unary + "0" * (-len(parts.unary) % 8 + 8)).payload()
    yield "unary-zero-byte", "a zero byte after the one of the last one", "rice-unary", longer
    more = parts._replace(unary=parts.unary + "1").payload()
    yield "unary-one-more", "one more one, in the unused bits", "rice-unary", more
    more = parts._replace(unary=parts.unary + "0" * (-len(parts.unary) % 8) + "1").payload()
    yield "unary-byte-more", "one more one, in one more byte", "rice-unary", more
    ones = parts.unary.rindex("1")
    fewer = parts._replace(unary=parts.unary[:ones] + "0").payload()
    yield "unary-one-fewer", "the last one is missing: the code runs away", "rice-unary", fewer
    zeros = parts._replace(unary="0" * len(parts.unary)).payload()
    yield "unary-zeros", "no one at all", "rice-unary", zeros
    ones = parts._replace(unary="1" * len(to_bytes(parts.unary)) * 8).payload()
    yield "unary-ones", "ones alone: far too many", "rice-unary", ones
    without = Parts(parts.parameters, "", parts.remainders).payload()
    yield "unary-empty", "a unary part of no byte", "rice-unary", without


def cut(plane, length):
    """Return the payload cut after some bytes."""
    comment = f"cut after {length} of {len(plane.payload)} bytes"
    return damaged(plane, f"cut-{length:02}", comment, "rice-truncated", plane.payload[:length])


def bad_parameter(p, block):
    """Return zeros with a parameter above 26 for a block; the remainders are as long as it asks."""
    parameters = [3, 3]
    parameters[block] = p
    plane = rice("SCIENCE", 4, 2, [], parameters=parameters)
    if len(plane.payload) >= 4 * 28:
        raise AssertionError("not shorter than RAW")
    return damaged(plane, f"parameter-{p}-{block}", f"p = {p}", "rice-parameter", plane.payload)


def empties():
    """Return payloads of planes without a valid value."""
    plane = rice("SCIENCE", 4, 2, [None] * 28)
    cases = [
        ("nothing", "no byte, not even the length", "rice-truncated", b""),
        ("three", "three bytes of the length", "rice-truncated", bytes(3)),
        ("five", "one byte after the length 0", "rice-trailing", bytes(5)),
        ("claim", "a length of 1 and no byte", "rice-truncated", b"\x01\0\0\0"),
        ("zero-byte", "a unary part of one zero byte", "rice-unary", b"\x01\0\0\0\0"),
        ("one", "a one bit for no value", "rice-unary", b"\x01\0\0\0\x80"),
    ]
    return [damaged(plane, f"empty-{name}", *rest) for name, *rest in cases]


# The bitmap (5.4)


def bitmaps():
    """Return bitmaps that no plane may have."""
    plane = rice("SCIENCE", 4, 2, [5, None, -3, None])
    clear = rice("SCIENCE", 4, 2, [5, -3])
    mask = rice("MASK", 4, 2, [5, 3])
    bits = to_bits(plane.invalid)
    cases = [
        ("short", "one byte short", plane._replace(invalid=plane.invalid[:-1])),
        ("long", "one byte more", plane._replace(invalid=plane.invalid + b"\0")),
        ("empty", "no byte, and not null", plane._replace(invalid=b"")),
        ("empty-clear", "no byte, and not null; all values valid", clear._replace(invalid=b"")),
        ("zero", "no one: null is for that", clear._replace(invalid=bytes(4))),
        ("padding-first", "a one in the first unused bit", plane._replace(invalid=to_bytes(bits[:28] + "1"))),
        ("padding-last", "a one in the last unused bit",
         plane._replace(invalid=to_bytes(bits[:28] + "0001"))),
        ("padding-only", "no one but in the unused bits", clear._replace(invalid=bytes(3) + b"\x08")),
        ("mask", "a mask has none", mask._replace(invalid=b"\x80" + bytes(3))),
        ("mask-zero", "a mask has none, of zeros neither", mask._replace(invalid=bytes(4))),
        ("mask-applied", "a mask has none: the value is left out, and 0",
         mask._replace(invalid=b"\x20" + bytes(3), payload=rice_parts([5, 3, *[0] * 25]).payload())),
    ]  # fmt: skip
    vectors = [refused_plane(f"bitmap-{n}", "5.4", text, "bitmap", p) for n, text, p in cases]
    flipped = plane._replace(invalid=to_bytes(bits[:28][::-1]))
    moved = refused_plane("bitmap-reversed", "5.4", "counted from the other end", "crc", flipped)
    low_first = plane._replace(
        invalid=bytes(int(f"{byte:08b}"[::-1], 2) for byte in plane.invalid[:3]) + b"\0"
    )
    vectors += [moved, refused_plane("bitmap-low-bit-first", "5.4", "low bits first", "crc", low_first)]
    return vectors


def files():
    """Return the vectors by file."""
    return {
        "reject/fields.json": fields(),
        "reject/crc.json": crcs(),
        "reject/raw.json": raw_faults(),
        "reject/rice-range.json": rice_fields(),
        "reject/rice-payload.json": rice_payloads(),
        "reject/bitmap.json": bitmaps(),
    }
