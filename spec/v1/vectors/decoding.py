"""Planes that a decoder reads: packing, reduction, both encodings, all kinds."""

import itertools
import math

from reference import binary32, from_bits, reduce_four, signed, unpack
from vector import Numbers, n_sent, raw, rice, sky_residuals, valid_plane

FLUX = ("SCIENCE", "TEMPLATE", "DIFFERENCE", "SCORE")
LARGEST = from_bits(0x7DFFFFFF)  # the binary32 just below 2^125
TINY = from_bits(1)  # the smallest subnormal, 2^-149
SMALLEST_NORMAL = from_bits(0x00800000)


# Packing (4)


def packing():
    """Return every size and number of levels, and the order of the values."""
    vectors = [counted_up(size, n_levels) for size, n_levels in ((4, 2), (4, 3), (8, 2), (12, 2))]
    vectors += [geometry(size, n_levels) for size in (4, 8, 12, 16, 32) for n_levels in range(1, 9)]
    vectors += [geometry(size, n_levels) for size, n_levels in ((20, 2), (28, 3), (60, 1), (64, 1), (64, 8))]
    vectors += [whole(size, n_levels, kind) for kind, size, n_levels in WHOLE]
    return [*vectors, whole_but_nested()]


WHOLE = [
    ("SCIENCE", 4, 2), ("DIFFERENCE", 4, 8), ("TEMPLATE", 8, 3), ("SCORE", 12, 2), ("VARIANCE", 8, 2),
    ("MASK", 4, 3), ("SCIENCE", 16, 4),
]  # fmt: skip


def counted_up(size, n_levels):
    """Values that count from 0 show the order at a glance."""
    comment = "sent values 0, 1, 2, ...: level 0 first, centres left out of the others, x changes fastest"
    name = f"pack-count-s{size:02}-l{n_levels}"
    return valid_plane(name, "4.1", comment, raw("SCIENCE", size, n_levels, []))


def geometry(size, n_levels):
    numbers = Numbers(f"geometry {size} {n_levels}")
    kind = FLUX[(size // 4 + n_levels) % 4]
    plane = raw(kind, size, n_levels, numbers.sky(n_sent(size, n_levels), 0.02))
    comment = f"S = {size}, L = {n_levels}: n = S^2 + (L - 1) 3/4 S^2, and centres rebuilt in turn"
    return valid_plane(f"pack-s{size:02}-l{n_levels}", "4.2", comment, plane)


def whole(size, n_levels, kind):
    numbers = Numbers(f"whole {kind} {size} {n_levels}")
    n = n_sent(size, n_levels, False)
    values = [numbers.getrandbits(16) for _ in range(n)] if kind == "MASK" else numbers.sky(n, 0.05)
    comment = "sharedCenter false: the centres are sent and are not those of the level before"
    plane = raw(kind, size, n_levels, values, shared=False)
    return valid_plane(f"whole-{kind.lower()}-s{size:02}-l{n_levels}", "4.3", comment, plane)


def whole_but_nested():
    numbers = Numbers("whole but nested")
    levels = unpack("SCIENCE", 8, 3, True, numbers.sky(n_sent(8, 3)))
    values = [value for level in levels for row in level for value in row]
    comment = "whole levels whose centres happen to nest are read all the same"
    return valid_plane("whole-nested", "4.3", comment, raw("SCIENCE", 8, 3, values, shared=False))


# Reduction (3.2, 3.3)


def blocks_to_plane(blocks, kind="SCIENCE", size=None, n_levels=2):
    """Return a RAW plane whose level 0 is these 2x2 blocks, the last repeated to the end."""
    size = size or next(s for s in range(4, 65, 4) if (s // 2) ** 2 >= len(blocks))
    blocks = [*blocks, *[blocks[-1]] * ((size // 2) ** 2 - len(blocks))]
    level = [[None] * size for _ in range(size)]
    for index, four in enumerate(blocks):
        y, x = 2 * (index // (size // 2)), 2 * (index % (size // 2))
        level[y][x : x + 2] = four[:2]
        level[y + 1][x : x + 2] = four[2:]
    return raw(kind, size, n_levels, [value for row in level for value in row])


def reduction():
    """Return what the mean of four must and must not do."""
    order = [list(four) for four in itertools.permutations((2.0**60, 1.0, -(2.0**60), 3.0))]
    cases = [
        ("order-24", "3.2", "2^60, 1, -2^60, 3 in all 24 orders: sums in any other order differ", order),
        ("order-tie", "3.2", "a sum below the last bit is lost, then a tie goes to even", absorbed()),
        ("order-random", "3.2", "adding by columns, in pairs, backwards or in binary32 differs", traps()),
        ("thirds", "3.2", "a third is a division: a product with 1/3 rounds otherwise", thirds(3)),
        ("signed-zero", "3.2", "only -0 gives -0; beginning at +0 loses it", signed_zeros()),
        ("subnormal", "3.2", "means of subnormals, halves of the smallest: no flush to zero", subnormals()),
        ("limits", "3.5", "four values just below 2^125, of both signs", largest()),
        ("cancel", "3.2", "1 + 2^-53 is lost in binary64, kept by wider or compensated sums", cancelling()),
    ]
    vectors = [valid_plane(f"reduce-{n}", c, text, blocks_to_plane(b)) for n, c, text, b in cases]
    vectors += [nan_pattern("reduce", "SCIENCE", pattern) for pattern in range(1, 16)]
    return vectors + all_invalid() + deep()


def absorbed():
    """Blocks whose exact mean is just beside the middle of two binary32, and whose binary64 mean is it."""
    blocks = []
    for mantissa in range(2**23, 2**23 + 8):
        whole_part, middle, crumb = float(4 * mantissa), 2.0, 2.0**-40
        blocks += [[whole_part, middle, crumb, 0.0], [crumb, 0.0, middle, whole_part]]
    return blocks


def wrong_sums(four):
    """Return the means that the usual mistakes give."""
    a, b, c, d = four
    single = binary32(binary32(binary32(a + b) + c) + d)
    pairs = binary32(binary32(a + b) + binary32(c + d))
    return [
        binary32(((a + c) + b + d) / 4), binary32(((a + b) + (c + d)) / 4), binary32((d + c + b + a) / 4),
        binary32(single / 4), binary32(pairs / 4),
    ]  # fmt: skip


def traps():
    """Blocks in which each of the usual mistakes gives other bits, 20 for each."""
    numbers, blocks = Numbers("traps"), []
    for mistake in range(5):
        while len(blocks) < 20 * (mistake + 1):
            four = nearly_cancelling(numbers) if mistake < 3 else [numbers.value() for _ in range(4)]
            if wrong_sums(four)[mistake] != reduce_four("SCIENCE", four):
                blocks.append(four)
    return blocks


def nearly_cancelling(numbers):
    """Return two large values that cancel and two small ones, in any order."""
    large = binary32(math.ldexp(numbers.random(), 30))
    small = [binary32(math.ldexp(numbers.random(), -20)) for _ in range(2)]
    four = [large, -large, *small]
    return [four.pop(numbers.whole(0, len(four) - 1)) for _ in range(4)]


def thirds(divisor):
    """Blocks of three positive values whose sum over `divisor` rounds otherwise than a product does."""
    blocks, odd = [], 2**24 + 1 if divisor == 3 else 2**24 * 7 // 4 + 1
    while len(blocks) < 16:
        odd += 2  # in the middle of two binary32; the quotient is just above it
        total = math.nextafter(float(odd * divisor), math.inf)
        first = float((odd * divisor - 2**23) // 16 * 16)
        three = [first, odd * divisor - first, total - odd * divisor]
        if any(binary32(value) != value for value in three) or sum(three) != total:
            raise AssertionError("not three binary32 of that sum")
        if binary32(total * (1 / divisor)) != binary32(total / divisor):
            position = len(blocks) % 4
            blocks.append([*three[:position], None, *three[position:]])
    return blocks


def signed_zeros():
    return [list(four) for four in itertools.product((0.0, -0.0, None), repeat=4)]


def subnormals():
    numbers = Numbers("subnormals")
    small = [0.0, -0.0, TINY, -TINY, 3 * TINY, -5 * TINY, SMALLEST_NORMAL, SMALLEST_NORMAL - TINY, None]
    return [[small[numbers.whole(0, 8)] for _ in range(4)] for _ in range(64)]


def largest():
    signs = itertools.product((1, -1), repeat=4)
    return [[LARGEST * sign for sign in four] for four in signs]


def cancelling():
    one, crumb = 1.0, 2.0**-53
    return [list(four) for four in itertools.permutations((one, crumb, crumb, -one))]


def nan_pattern(prefix, kind, pattern):
    """Return a plane in whose every block the pixels of a pattern of four are invalid."""
    numbers = Numbers(f"{kind} {pattern}")
    blocks = [[None if pattern >> (3 - i) & 1 else abs(numbers.value()) for i in range(4)] for _ in range(4)]
    comment = f"pixels {pattern:04b} (1 = invalid) of every 2x2 block: the others alone count"
    clause = "3.3" if kind == "VARIANCE" else "3.2"
    return valid_plane(f"{prefix}-nan-{pattern:04b}", clause, comment, blocks_to_plane(blocks, kind))


def all_invalid():
    vectors = []
    for size, n_levels in ((4, 1), (4, 3), (8, 4), (16, 2)):
        plane = raw("SCIENCE", size, n_levels, [None] * n_sent(size, n_levels))
        comment = "every pixel invalid: the bits are 7fc00000 at every level, under the CRC too"
        vectors.append(valid_plane(f"reduce-invalid-s{size:02}-l{n_levels}", "3.5", comment, plane))
    return vectors


def deep():
    """Return planes in which a level made from level 0 directly differs from one made level by level."""
    numbers = Numbers("deep")
    weights = [[None if (y // 2 + x) % 3 else numbers.value() for x in range(16)] for y in range(16)]
    plane = raw("SCIENCE", 16, 4, [value for row in weights for value in row])
    comment = "invalid pixels: a mean of means is not the mean of all valid pixels below"
    vectors = [valid_plane("reduce-deep-invalid", "3.2", comment, plane)]
    plane = raw("DIFFERENCE", 16, 4, [numbers.value(0, 1) for _ in range(n_sent(16, 4))])
    comment = "rounded at every level: level 2 and 3 from level 0 directly have other bits"
    return [*vectors, valid_plane("reduce-deep-rounding", "3.2", comment, plane)]


# Values in RAW (5.1)


def raw_planes():
    """Return values that have to come through as they are."""
    special = [
        0.0, -0.0, TINY, -TINY, SMALLEST_NORMAL, SMALLEST_NORMAL - TINY, 1.0, -1.0, LARGEST, -LARGEST, None,
        LARGEST / 2, 16777217.0 - 1, binary32(1 / 3), from_bits(0x7F7FFFFF) / 2**3, None,
    ]  # fmt: skip
    one = raw("SCIENCE", 4, 1, special)
    mixed = raw("TEMPLATE", 8, 2, [*special, *special[::-1], *[None, -0.0] * 16])
    odd = raw("SCORE", 4, 2, [binary32(math.ldexp(i - 7.5, 17 * (i - 8))) for i in range(16)])
    return [
        valid_plane("raw-special", "5.1", "-0, subnormals, values just below 2^125 and NaN are kept", one),
        valid_plane("raw-special-levels", "5.1", "the same over two levels", mixed),
        valid_plane("raw-exponents", "5.1", "powers of two from 2^-136 to 2^119", odd),
    ]


# Variance and mask (3.3, 3.4)


def variance():
    """Return what makes a variance differ from a mean."""
    numbers = Numbers("variance")
    full = [[abs(numbers.value(60, 5)) for _ in range(4)] for _ in range(4)]
    tiny = [[TINY * numbers.whole(0, 20) for _ in range(4)] for _ in range(16)]
    vectors = [
        valid_plane("variance-full", "3.3", "a sum over 16, not a mean", blocks_to_plane(full, "VARIANCE")),
        valid_plane(
            "variance-ninths", "3.3", "of three: a division by 9; a product with 1/9 rounds otherwise",
            blocks_to_plane(thirds(9), "VARIANCE"),
        ),
        valid_plane(
            "variance-subnormal", "3.3", "sixteenths of subnormals, rounded once",
            blocks_to_plane(tiny, "VARIANCE"),
        ),
    ]  # fmt: skip
    vectors += [nan_pattern("variance", "VARIANCE", pattern) for pattern in range(1, 16)]
    for size, n_levels in ((8, 4), (12, 3), (16, 4)):
        values = [None if numbers.random() < 0.1 else abs(numbers.value(60, 5)) for _ in range(999)]
        plane = raw("VARIANCE", size, n_levels, values[: n_sent(size, n_levels)])
        vectors.append(
            valid_plane(f"variance-s{size:02}-l{n_levels}", "3.3", "all levels, some pixels invalid", plane)
        )
    residuals = [numbers.whole(-20, 20) for _ in range(n_sent(8, 4))]
    plane = rice("VARIANCE", 8, 4, residuals, e=0, offset=64)
    comment = "RICE: offset and step scale by level as in an image, centres are sums over 16"
    return [*vectors, valid_plane("variance-rice", "5.2", comment, plane)]


def mask():
    """Return masks: OR, 16 bits, both encodings."""
    numbers = Numbers("mask")
    single = [[1 << b if i == p else 0 for i in range(4)] for b in range(16) for p in range(4)]
    pairs = [[numbers.getrandbits(16) & numbers.getrandbits(16) for _ in range(4)] for _ in range(36)]
    same = [[bit] * 4 for bit in (1, 3, 0x8000, 0xFFFF)]
    vectors = [
        valid_plane(f"mask-{name}", "3.4", comment, blocks_to_plane(blocks, "MASK", n_levels=3))
        for name, comment, blocks in (
            ("single", "each bit in each of the four places of a block", single),
            ("random", "bits of the four are joined by OR", pairs),
            ("same", "the same bit four times is that bit, not a sum, nor a mean", same),
        )
    ]
    for size, n_levels in ((4, 1), (8, 4), (16, 8)):
        values = [numbers.getrandbits(16) for _ in range(n_sent(size, n_levels))]
        plane = raw("MASK", size, n_levels, values)
        vectors.append(valid_plane(f"mask-raw-s{size:02}-l{n_levels}", "5.1", "uint16, little-endian", plane))
    return vectors + mask_rice(numbers)


def mask_rice(numbers):
    sparse = [1 << numbers.whole(0, 3) if numbers.random() < 0.1 else 0 for _ in range(n_sent(8, 4))]
    around = [numbers.whole(-7, 7) for _ in range(n_sent(8, 4))]
    ends = [65535 - 16, -16, 0, 5]
    cases = [
        ("sparse", "mostly 0", sparse, 0),
        ("offset", "the offset is not scaled by level", around, 1000),
        ("ends", "values 65535 and 0", ends, 16),
        ("offset-high", "offset 65535, residuals down to -65535", [0, -65535, -1], 65535),
    ]
    return [
        valid_plane(f"mask-rice-{name}", "5.2", comment, rice("MASK", 8, 4, residuals, offset=offset))
        for name, comment, residuals, offset in cases
    ]


# RICE (5.2 to 5.5)


def rice_planes():
    """Return RICE payloads without invalid values."""
    vectors = [rice_geometry(size, n_levels) for size, n_levels in RICE_GEOMETRIES]
    vectors += [each_parameter(p) for p in range(27)]
    return vectors + limits() + offsets() + shapes_of_code() + rice_whole()


RICE_GEOMETRIES = [
    *[(size, n_levels) for size in (4, 8, 12, 16) for n_levels in range(1, 9)],
    (32, 1), (32, 4), (32, 8), (64, 1), (64, 8),
]  # fmt: skip


def rice_geometry(size, n_levels):
    numbers = Numbers(f"rice {size} {n_levels}")
    kind = FLUX[(size // 4 + n_levels) % 4]
    offset = numbers.whole(-300, 300)
    residuals = sky_residuals(numbers, size, n_levels, offset)
    plane = rice(kind, size, n_levels, residuals, e=numbers.whole(-12, 12), offset=offset)
    comment = f"S = {size}, L = {n_levels}: blocks of 16 run over level boundaries"
    return valid_plane(f"rice-s{size:02}-l{n_levels}", "5.3", comment, plane)


def each_parameter(p):
    """Return two blocks, of 16 and of 12, with parameters p and 26 - p, every remainder bit used."""
    numbers = Numbers(f"parameter {p}")
    residuals = []
    for parameter in [p] * 16 + [26 - p] * 12:
        r = signed(numbers.getrandbits(parameter) + (numbers.whole(0, 2) << parameter))
        residuals.append(max(-(2**23), min(r, 5 * 2**22)))  # the limits of q
    plane = rice("SCIENCE", 4, 2, residuals, e=-8, offset=-(2**22), parameters=[p, 26 - p])
    return valid_plane(f"rice-p{p:02}", "5.3", f"parameters {p} and {26 - p}, not the best ones", plane)


def limits():
    """Return what is just within the limits of 5.2."""
    top = 2**24
    cases = [
        ("e-min", "e = -119: the last bit of level 7 is 2^-126", 8, -119, 0, [1, -1, 2**23]),
        ("e-max", "e = 101: at level 0 |q| is at most 2^24 - 1", 2, 101, 0, [top - 1, 1 - top]),
        ("e-max-level", "e = 101: at level 1 |q| may be 2^24", 2, 101, 0, [0] * 16 + [top, -top]),
        ("e-100", "e = 100: q = 2^24 is the value 2^124", 1, 100, 0, [top, -top, 1]),
        ("q-max", "|q| = 2^24 at every level", 2, -3, 0, [top, -top] + [0] * 14 + [top, -top]),
        ("offset-max", "offset 2^24, residuals down to -2^25", 1, 0, top, [0, -2 * top, 1 - 2 * top]),
        ("offset-min", "offset -2^24, u = 2^26", 1, 0, -top, [0, 2 * top, 2 * top - 1]),
        ("offset-l8", "L = 8: offset 2^17 is 2^24 at level 7", 8, 5, 2**17, [0] * 90 + [-1]),
        ("offset-l8-low", "L = 8: offset -2^17 is -2^24 at level 7", 8, 5, -(2**17), [0] * 90 + [1]),
    ]
    vectors = [
        valid_plane(f"rice-{n}", "5.2", c, rice("SCIENCE", 4, levels, r, e=e, offset=o))
        for n, c, levels, e, o, r in cases
    ]
    residuals = [*[0] * 15, 2**24 - 1, -(2**24), *[0] * 11]
    plane = rice("SCIENCE", 4, 2, residuals, parameters=[0x12, 0x13])
    return [*vectors, valid_plane("rice-bits-25", "5.2", "values of 25 bits are exact in binary32", plane)]


def offsets():
    """Return what the offset and the step do at each level."""
    plane = rice("SCIENCE", 8, 8, [0], e=3, offset=-77)
    flat = "constant: q is -77 times 2^k at level k, and the value the same at every level"
    numbers = Numbers("offsets")
    zero = [-40] * 16 + [-80] * 12 + [-160] * 12
    ramp = [numbers.whole(-2, 2) for _ in range(n_sent(4, 8))]
    return [
        valid_plane("rice-constant", "5.2", flat, plane),
        valid_plane("rice-zero", "5.2", "q = 0 is +0, whatever e is", rice("SCORE", 4, 3, [0], e=-2)),
        valid_plane("rice-cancel", "5.2", "offset + r = 0 is +0", rice("SCIENCE", 4, 3, zero, offset=40)),
        valid_plane("rice-step", "5.2", "the step halves at each level", rice("SCIENCE", 4, 8, ramp, e=0)),
        valid_plane(
            "rice-negative", "5.3", "odd u is negative: -1 is 1, -2 is 3",
            rice("DIFFERENCE", 4, 2, [0, -1, 1, -2, 2, -3, 3, -4, 4]),
        ),
        valid_plane(
            "rice-thirds", "4.2", "centres of quantised values are not whole steps: they are rounded means",
            rice("SCIENCE", 8, 4, [numbers.whole(-9, 9) for _ in range(n_sent(8, 4))], e=-7, offset=3),
        ),
    ]  # fmt: skip


def shapes_of_code():
    """Return unary codes and blocks of unusual shape."""
    vectors = [short_block(m) for m in range(13, 29)]
    long = [0] * 5 + [150] + [0] * 10
    plane = rice("SCIENCE", 16, 1, long * 16, parameters=[0] * 16)
    comment = "a code of 300 zero bits in every block of p = 0"
    vectors.append(valid_plane("rice-long-code", "5.3", comment, plane))
    plane = rice("SCIENCE", 64, 1, [0] * 4095 + [40000], parameters=[0] * 256)
    comment = "a code of 80,000 zero bits: a number of zeros does not fit 16 bits"
    vectors.append(valid_plane("rice-very-long-code", "5.3", comment, plane))
    outliers = [4000 if i % 16 == 3 else i % 3 for i in range(64 + 48)]
    plane = rice("SCIENCE", 8, 2, outliers)
    vectors.append(valid_plane("rice-outliers", "5.3", "one large value in each block", plane))
    byte_ends = [7] * 16 + [0] * 12
    plane = rice("SCIENCE", 4, 2, byte_ends, parameters=[3, 0])
    comment = "every part ends with its byte: there is no padding to skip"
    vectors.append(valid_plane("rice-byte-ends", "5.3", comment, plane))
    return vectors + [exactly_shorter(kind) for kind in ("SCIENCE", "MASK")]


def short_block(m):
    """Return m valid values of 28: the last block holds each number from 1 to 16 in turn."""
    numbers = Numbers(f"short {m}")
    residuals = [numbers.whole(-5, 5) for _ in range(28)]
    for i in range(28 - m):
        residuals[(5 * i + 2) % 28] = None
    plane = rice("SCIENCE", 4, 2, residuals, e=-1, offset=9)
    comment = f"m = {m} valid values: the last block has {(m - 1) % 16 + 1}"
    return valid_plane(f"rice-m{m:02}", "5.3", comment, plane)


def filled(kind, n_bytes):
    """Return a RICE plane of 16 values whose payload has this length, by codes longer than need be."""
    width = 2 if kind == "MASK" else 20
    parameters, n_remainder = [width], 2 * width
    n_zeros = 8 * (n_bytes - 1 - 4 - n_remainder) - 16
    if n_zeros < 0:
        raise AssertionError("too short")
    share = [n_zeros // 16 + (1 if i < n_zeros % 16 else 0) for i in range(16)]
    residuals = [s << (width - 1) for s in share]
    return rice(kind, 4, 1, residuals, parameters=parameters)


def exactly_shorter(kind):
    n_bytes = 31 if kind == "MASK" else 63
    plane = filled(kind, n_bytes)
    comment = f"{n_bytes} bytes, one fewer than RAW: just short enough"
    return valid_plane(f"rice-just-shorter-{kind.lower()}", "5.5", comment, plane)


def rice_whole():
    """Return RICE planes that send whole levels."""
    vectors = []
    for kind, size, n_levels in (("SCIENCE", 4, 2), ("VARIANCE", 8, 3), ("SCORE", 4, 8), ("MASK", 8, 2)):
        numbers = Numbers(f"rice whole {kind}")
        n = n_sent(size, n_levels, False)
        residuals = [numbers.whole(-6, 6) for _ in range(n)]
        e = 0 if kind == "MASK" else -4
        plane = rice(kind, size, n_levels, residuals, e=e, offset=50, shared=False)
        comment = "whole levels in RICE: the level of a value is its place over S^2"
        vectors.append(valid_plane(f"whole-rice-{kind.lower()}", "4.3", comment, plane))
    return vectors


# The bitmap (5.4)


def bitmaps():
    """Return RICE planes with invalid values."""
    cases = [
        ("first", 4, 2, lambda i, n: i == 0, "the first value"),
        ("last", 4, 2, lambda i, n: i == n - 1, "the last value, beside four unused bits"),
        ("only-first", 4, 2, lambda i, n: i != 0, "all but the first: m = 1"),
        ("only-last", 4, 2, lambda i, n: i != n - 1, "all but the last: m = 1, at level 1"),
        ("level-0", 4, 3, lambda i, n: i < 16, "all of level 0: the centre of level 1 is invalid"),
        ("border", 4, 3, lambda i, n: i >= 16, "all but level 0: m = 16"),
        ("alternate", 8, 3, lambda i, n: i % 2 == 0, "every other value"),
        ("bytes", 8, 2, lambda i, n: i // 8 % 2 == 1, "every other byte"),
        ("blocks", 8, 4, lambda i, n: i % 48 < 16, "16 of 48: blocks count valid values alone"),
        ("n-144", 12, 1, lambda i, n: i % 5 == 1, "n = 144 fills its bytes"),
        ("n-252", 12, 2, lambda i, n: i % 7 == 3, "n = 252: the last byte has four unused bits"),
    ]
    vectors = []
    for name, size, n_levels, is_invalid, comment in cases:
        n, numbers = n_sent(size, n_levels), Numbers(f"bitmap {name}")
        residuals = [None if is_invalid(i, n) else numbers.whole(-9, 9) for i in range(n)]
        plane = rice("TEMPLATE", size, n_levels, residuals, e=-3, offset=20)
        vectors.append(valid_plane(f"bitmap-{name}", "5.4", comment, plane))
    return vectors + no_values() + random_bitmaps()


def no_values():
    vectors = []
    for size, n_levels in ((4, 1), (4, 2), (8, 3), (16, 4)):
        plane = rice("SCIENCE", size, n_levels, [None] * n_sent(size, n_levels), e=5, offset=7)
        comment = "no valid value: the payload is the length 0 of the unary part, 4 bytes"
        vectors.append(valid_plane(f"bitmap-all-s{size:02}-l{n_levels}", "5.4", comment, plane))
    return vectors


def random_bitmaps():
    vectors = []
    for i, share in enumerate((0.01, 0.1, 0.3, 0.5, 0.9)):
        numbers = Numbers(f"bitmap share {i}")
        residuals = sky_residuals(numbers, 16, 4, 40)
        residuals[numbers.whole(0, 800)] = None
        residuals = [None if numbers.random() < share else r for r in residuals]
        plane = rice(("VARIANCE", "SCORE")[i % 2], 16, 4, residuals, e=-2, offset=40)
        comment = f"about {share:.0%} of the values invalid, anywhere"
        vectors.append(valid_plane(f"bitmap-random-{i}", "5.4", comment, plane))
    return vectors


def files():
    """Return the vectors by file."""
    return {
        "required/packing.json": packing(),
        "required/reduction.json": reduction(),
        "required/raw.json": raw_planes(),
        "required/variance.json": variance(),
        "required/mask.json": mask(),
        "required/rice.json": rice_planes(),
        "required/bitmap.json": bitmaps(),
    }
