"""Images that an encoder turns into a payload: the grid, the edges, the choice of RAW or RICE."""

import math
import struct

from reference import (
    NAN,
    best_parameter,
    binary32,
    build_levels,
    decode,
    encode,
    from_bits,
    rice_parts,
    signed,
)
from vector import Numbers, plane_fields

# Images: rows of pixels; a pixel is a float, None, the bytes of a binary32, or an int in a mask


def pixel_bytes(kind, pixel):
    """Return a pixel as the image of a vector holds it."""
    if kind == "MASK":
        return struct.pack("<H", pixel)
    if isinstance(pixel, bytes):
        return pixel
    return NAN if pixel is None else struct.pack("<f", pixel)


def pixel_value(kind, pixel):
    """Return the number that an encoder reads."""
    data = pixel_bytes(kind, pixel)
    return pixel if kind == "MASK" else struct.unpack("<f", data)[0]


def sky_image(numbers, width, height, invalid=0.0):
    """Return rows like sky, with a source in the middle."""
    return [
        [
            value
            if value is None
            else binary32(value + 9000 / (4 + (x - width // 2) ** 2 + (y - height // 2) ** 2))
            for x, value in enumerate(numbers.sky(width, invalid))
        ]
        for y in range(height)
    ]


def image_of(values, width):
    """Return values in order as rows."""
    return [values[i : i + width] for i in range(0, len(values), width)]


def encoded(name, clause, comment, kind, size, n_levels, image, *, center=None, rice=None, outside=0):
    """Return an encode vector, after seeing that its payload decodes to its levels.

    `rice` is (e, offset), or None for RAW; `center` is (cx, cy), by default the middle of the image.
    """
    height, width = len(image), len(image[0])
    cx, cy = center or (width // 2, height // 2)
    values = [[pixel_value(kind, pixel) for pixel in row] for row in image]
    levels = build_levels(kind, size, n_levels, values, cx, cy, outside)
    requested = "RAW" if rice is None else "RICE"
    e, offset = rice or (0, 0)
    plane = encode(kind, requested, levels, e, offset)
    head = {
        "id": f"encode-{name}",
        "clause": clause,
        "comment": comment,
        "level": "payload",
        "operation": "encode",
    }
    inputs = {
        "kind": kind, "encoding": requested, "size": size, "n_levels": n_levels, "step_exponent": e,
        "offset": offset, "width": width, "height": height, "cx": cx, "cy": cy,
        **({"outside": outside} if kind == "MASK" else {}),
        "image": b"".join(pixel_bytes(kind, pixel) for row in image for pixel in row).hex(),
    }  # fmt: skip
    fields = plane_fields(plane)
    result = {name: fields[name] for name in ("shared_center", "invalid", "payload", "crc32")}
    found = {"result": "valid", "result_encoding": plane.encoding, **result, "levels": decode(plane).hex()}
    return {**head, **inputs, **found}


# The grid (2.2) and its edges (2.5)


def grids():
    """Return every size and number of levels, from images of odd and even widths."""
    vectors = [whole_image(size, n_levels) for size, n_levels in GRIDS]
    vectors += [ztf("SCIENCE"), ztf("VARIANCE"), single_pixel()]
    return vectors + edges("SCIENCE") + edges("MASK") + [far_away(kind) for kind in ("SCIENCE", "MASK")]


GRIDS = [
    *[(4, n_levels) for n_levels in range(1, 9)], (8, 1), (8, 2), (8, 3), (8, 5), (12, 1), (12, 2), (12, 3),
    (16, 2), (16, 3), (32, 1), (32, 2), (64, 1),
]  # fmt: skip


def whole_image(size, n_levels):
    numbers = Numbers(f"whole image {size} {n_levels}")
    side = size * 2 ** (n_levels - 1)
    width, height = min(side, 65) + 1, min(side, 61)
    comment = f"S = {size}, L = {n_levels}: an image of {width} x {height}, footprint {side} x {side}"
    center = (width // 2 + numbers.whole(-1, 1), height // 2 + numbers.whole(-1, 1))
    image = sky_image(numbers, width, height, 0.01)
    kind = ("SCIENCE", "TEMPLATE", "DIFFERENCE", "SCORE")[n_levels % 4]
    name = f"grid-s{size:02}-l{n_levels}"
    return encoded(name, "2.2", comment, kind, size, n_levels, image, center=center)


def ztf(kind):
    """Return a cutout of 63 x 63 (2.2, example): column and row 63 were not given."""
    image = sky_image(Numbers(f"63 {kind}"), 63, 63)
    comment = "63 x 63, centre pixel 31, so c = 32: one column and one row short at the high sides"
    return encoded(f"grid-63-{kind.lower()}", "2.2", comment, kind, 8, 4, image, center=(32, 32))


def single_pixel():
    comment = "one pixel: invalid pixels around it do not spread, up to level 3"
    return encoded("grid-one-pixel", "3.2", comment, "SCIENCE", 4, 4, [[7.5]], center=(0, 0))


def edges(kind):
    """Return one image with its corner at each side and corner, and in odd places beyond."""
    numbers = Numbers(f"edges {kind}")
    if kind == "MASK":
        image = [
            [1 << numbers.whole(0, 7) if numbers.random() < 0.2 else 0 for _ in range(21)] for _ in range(19)
        ]
    else:
        image = sky_image(numbers, 21, 19, 0.03)
    places = [
        ("x-low", 3, 9), ("x-high", 18, 9), ("y-low", 10, 2), ("y-high", 10, 17), ("low-low", 1, 1),
        ("high-low", 20, 1), ("low-high", 2, 18), ("high-high", 21, 19), ("x-outside", -5, 9),
        ("y-outside", 10, 26), ("outside", 30, -7), ("all-sides", 10, 9),
    ]  # fmt: skip
    vectors = []
    for name, cx, cy in places:
        n_levels = 5 if name == "all-sides" else 3
        comment = f"the shared corner at {cx}, {cy} of an image of 21 x 19"
        vectors.append(
            encoded(
                f"edge-{kind.lower()}-{name}", "2.5", comment, kind, 8, n_levels, image,
                center=(cx, cy), outside=0x8000,
            )
        )  # fmt: skip
    return vectors


def far_away(kind):
    image = [[1 if kind == "MASK" else 1.0] * 5] * 5
    comment = "nothing of the image is in the footprint"
    return encoded(
        f"edge-{kind.lower()}-nothing", "2.5", comment, kind, 8, 3, image, center=(-60, 90), outside=5
    )


# What the pixels are (3)


def values():
    """Return pixels that an encoder has to change, or must not."""
    numbers = Numbers("values")
    strange = [
        struct.pack("<I", bits)
        for bits in (
            0x7F800000, 0xFF800000, 0x7FC00001, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7E000000, 0xFE000000,
            0xFF7FC99E, 0x7F7FFFFF, 0x7DFFFFFF, 0xFDFFFFFF, 0x80000000, 0x00000001, 0x807FFFFF, 0x00000000,
        )
    ]  # fmt: skip
    zeros = [
        [-0.0 if y // 2 * 4 + x // 2 & 1 << (y % 2 * 2 + x % 2) else 0.0 for x in range(8)] for y in range(8)
    ]
    halves = [[from_bits(numbers.getrandbits(24)) for _ in range(16)] for _ in range(16)]
    deep = [[numbers.value(0, 1) for _ in range(32)] for _ in range(32)]
    variance = [
        [None if numbers.random() < 0.2 else abs(numbers.value(50, 4)) for _ in range(33)] for _ in range(31)
    ]
    mask = [[numbers.getrandbits(16) & numbers.getrandbits(16) for _ in range(32)] for _ in range(32)]
    strange_image = image_of(strange, 4)
    spread = image_of([strange[(5 * i) % 16] if i % 3 else 1.5 for i in range(256)], 16)
    return [
        encoded("value-strange", "3.5", "Inf, NaN, 2^125, -3.4e38 are invalid, the rest is kept",
                "SCIENCE", 4, 1, strange_image),
        encoded("value-strange-levels", "3.5", "the same among valid pixels", "TEMPLATE", 4, 3, spread),
        encoded("value-zeros", "3.2", "-0 alone stays -0", "SCIENCE", 4, 2, zeros),
        encoded("value-subnormal", "3.2", "means of subnormals and of the smallest normals",
                "SCIENCE", 4, 3, halves),
        encoded("value-deep", "3.2", "level by level: not level 2 and 3 from level 0",
                "DIFFERENCE", 4, 4, deep),
        encoded("value-variance", "3.3", "divided by the square of the number at each level",
                "VARIANCE", 8, 3, variance),
        encoded("value-mask", "3.4", "OR at each level", "MASK", 8, 3, mask),
    ]  # fmt: skip


# RICE (5.2 to 5.6)


def rice_images():
    """Return images of sky in RICE."""
    cases = [
        ("SCIENCE", 8, 4, 63, 1, 50), ("TEMPLATE", 4, 8, 50, 0, 100), ("DIFFERENCE", 16, 3, 64, 1, 0),
        ("SCORE", 8, 3, 31, -2, 400), ("VARIANCE", 8, 4, 64, 0, 100), ("SCIENCE", 12, 3, 47, -1, 201),
        ("SCIENCE", 32, 2, 63, 1, 48), ("SCIENCE", 4, 1, 4, -3, 800), ("SCIENCE", 16, 4, 90, 2, -7),
    ]  # fmt: skip
    vectors = []
    for kind, size, n_levels, side, e, offset in cases:
        for invalid in (0.0, 0.05):
            image = sky_image(Numbers(f"rice {kind} {size} {n_levels}"), side, side, invalid)
            state = "some-invalid" if invalid else "edge" if side < size << (n_levels - 1) else "whole"
            name = f"rice-{kind.lower()}-s{size:02}-l{n_levels}-{state}"
            comment = f"e = {e}, offset {offset}; an image of {side} x {side}"
            vectors.append(encoded(name, "5.6", comment, kind, size, n_levels, image, rice=(e, offset)))
    return vectors + rounding() + parameters() + becomes_raw() + masks()


def rounding():
    """Return values between two steps, and those at the limits."""
    ties = [i - 8 + 0.5 for i in range(16)]
    near = [math.copysign(from_bits(0x3F000000 + d), s) for d in (-1, 0, 1, 2) for s in (1, -1)]
    near += [1.5, 2.5, -1.5, -2.5, from_bits(0x3FC00001), from_bits(0x401FFFFF), -0.0, 0.25]
    top = float(2**24)
    wide = [top, -top, top - 1, 1 - top, *[float(i) for i in range(12)]]
    small = [from_bits(1), -from_bits(1), from_bits(0x80000), 0.0, -0.0, 2.0**-120, -(2.0**-119), 2.0**-118]
    small += [
        2.0**-119,
        3 * 2.0**-120,
        -(5 * 2.0**-120),
        7 * 2.0**-121,
        2.0**-121,
        2.0**-100,
        -(2.0**-100),
        2.0**-96,
    ]
    huge = [
        from_bits(0x7DFFFFFF),
        -from_bits(0x7DFFFFFF),
        2.0**124,
        2.0**101,
        2.0**100,
        3 * 2.0**100,
        -(2.0**99),
        0.0,
    ]
    flat = [[100.0] * 16] * 16
    coarse = image_of([float(8 * i % 7) + 0.125 * i for i in range(256)], 16)
    cases = [
        ("ties", "halves go to even, both signs", image_of(ties, 4), 1, (0, 0)),
        ("near-ties", "just beside a half; -0.5 and -0 become +0", image_of(near, 4), 1, (0, 0)),
        ("ties-offset", "rounding comes before the offset is taken off", image_of(ties, 4), 1, (0, 3)),
        ("q-limits", "|q| = 2^24 exactly", image_of(wide, 4), 1, (0, 0)),
        ("e-min", "e = -119: ties of subnormals and of small values", image_of(small, 4), 1, (-119, 0)),
        ("e-max", "e = 101: the largest values are 2^24 - 1 steps", image_of(huge * 2, 4), 1, (101, 0)),
        ("levels", "the step halves at each level, the offset doubles", coarse, 3, (0, 3)),
        ("again", "whole steps: nothing is rounded and the bytes are those decoded",
         image_of([float(i * i % 31) for i in range(16)], 4), 1, (0, 9)),
        ("constant", "a constant image", flat, 3, (-2, 400)),
        ("constant-offset-0", "a constant image, offset 0: every residual is q", flat, 3, (2, 0)),
        ("all-invalid", "no valid pixel: 4 bytes and a bitmap of ones", [[None] * 16] * 16, 3, (0, 5)),
        ("one-valid", "one valid pixel", [[None] * 3 + [2.0]], 2, (0, 1)),
    ]  # fmt: skip
    return [
        encoded(f"rice-{name}", "5.6", comment, "SCIENCE", 4, n_levels, image, rice=given)
        for name, comment, image, n_levels, given in cases
    ]


def from_us(us, e=0, offset=0):
    """Return the image of one level of 24 x 24 whose residuals have these u, the rest 0."""
    values = [math.ldexp(signed(u) + offset, e) for u in us]
    return image_of([*values, *[math.ldexp(offset, e)] * (576 - len(values))], 24)


def parameters():
    """Return images in which the best parameter of a block is each of 0 to 25, and ties of it.

    26 is never the best: u is at most 2^26, and 25 then takes as few bits.
    """
    numbers = Numbers("parameters")
    each = [(1 << p) + numbers.getrandbits(p) for p in range(26) for _ in range(16)]
    each = [u if u < 16 else min(u & ~1, 2**26 - 16) for u in each]  # the limits of q
    ties = [(3 << p >> 1) + numbers.getrandbits(max(p - 1, 0)) for p in range(24) for _ in range(16)]
    triple = [1 << p for p in range(24) for _ in range(16)]
    outliers = [numbers.whole(2**18, 2**20) if i % 16 == 7 else numbers.whole(0, 6) for i in range(576)]
    cases = [
        ("each", "the best parameter of each block differs", each, (-4, 8 - 2**24)),
        ("ties", "p and p + 1 take as many bits: p", ties, (0, 0)),
        ("triple-ties", "p - 1, p and p + 1 take as many bits: p - 1", triple, (0, 0)),
        ("outliers", "one large value in each block", outliers, (3, 0)),
    ]
    if {best_parameter(each[i : i + 16]) for i in range(0, len(each), 16)} != set(range(26)):
        raise AssertionError("a parameter that is not the best of any block")
    vectors = [
        encoded(f"parameter-{name}", "5.6", comment, "SCIENCE", 24, 1, from_us(us, *given), rice=given)
        for name, comment, us, given in cases
    ]
    return [*vectors, *short_blocks()]


def short_blocks():
    """Return last blocks of fewer values: a parameter counts only those."""
    vectors = []
    for m in (1, 2, 5, 11, 15):
        values = [float(signed(3 + 5 * (i % 3))) for i in range(m)] + [None] * (16 - m)
        comment = f"a block of {m}: bits are counted over {m} values, not over 16"
        vectors.append(
            encoded(
                f"parameter-short-{m:02}", "5.6", comment, "SCIENCE", 4, 1, image_of(values, 4), rice=(0, 0)
            )
        )
    return vectors


def becomes_raw():
    """Return planes that break a limit and so have to be RAW (5.5)."""
    sky = sky_image(Numbers("becomes raw"), 16, 16)
    low = [[-1.0] * 15 + [-float(2**24) - 2] for _ in range(16)]
    high = [[float(2**24)] * 4 for _ in range(4)]
    high[3][3] = float(2**24) + 2
    invalid = [[None if (x + y) % 5 == 0 else float(x) for x in range(16)] for y in range(16)]
    cases = [
        ("e-low", "e = -120", sky, 3, (-120, 0)),
        ("e-high", "e = 102", sky, 3, (102, 0)),
        ("e-int", "e = 2^31 - 1", sky, 3, (2**31 - 1, 0)),
        ("offset", "offset 2^22 + 1 is beyond 2^24 at level 2", sky, 3, (0, 2**22 + 1)),
        ("offset-low", "offset -2^22 - 1", sky, 3, (0, -(2**22) - 1)),
        ("q-high", "one value of 2^24 + 2 steps", high, 1, (0, 0)),
        ("q-low", "values of -2^24 - 2 steps at level 0", low, 3, (0, 0)),
        ("q-level", "in range at level 0, not at level 2, whose step is a quarter", sky, 3, (-17, 0)),
        ("e-tiny", "e = -119 for sky: q is far beyond, and beyond 64 bits", sky, 3, (-119, 0)),
        ("invalid", "RAW has no bitmap: invalid values are NaN", invalid, 3, (-119, 0)),
        ("negative-zero", "-0 is kept, for the plane is RAW", [[-0.0, 2.0**30] * 2] * 4, 1, (0, 0)),
    ]
    return [raw_after_all(encoded(f"becomes-raw-{n}", "5.5", text, "SCIENCE", 4, levels, image, rice=given))
            for n, text, image, levels, given in cases]  # fmt: skip


def raw_after_all(vector):
    """Return the vector, after seeing that the plane did become RAW."""
    if (vector["encoding"], vector["result_encoding"]) != ("RICE", "RAW"):
        raise AssertionError(f"{vector['id']}: not RAW")
    return vector


def masks():
    """Return masks in RICE, and those that are shorter in RAW."""
    numbers = Numbers("rice masks")
    sparse = [
        [1 << numbers.whole(0, 5) if numbers.random() < 0.03 else 0 for _ in range(63)] for _ in range(63)
    ]
    noise = [[numbers.getrandbits(16) for _ in range(16)] for _ in range(16)]
    flat = [[21] * 16] * 16
    vectors = [
        encoded("mask-rice-sparse", "5.6", "a mask of 63 x 63, bit 0 outside", "MASK", 8, 4, sparse,
                rice=(0, 0), outside=1),
        encoded("mask-rice-offset", "5.2", "the offset is not scaled by level", "MASK", 4, 3, flat,
                rice=(0, 20)),
        encoded("mask-rice-ends", "5.2", "offset 65535", "MASK", 4, 1, image_of([65535] * 15 + [0], 4),
                rice=(0, 65535)),
    ]  # fmt: skip
    cases = [
        ("noise", "16 random bits: RICE is longer", noise, (0, 0)),
        ("step", "a mask has e = 0", flat, (1, 0)),
        ("offset-low", "offset -1", flat, (0, -1)),
        ("offset-high", "offset 65536", flat, (0, 65536)),
    ]
    vectors += [
        raw_after_all(encoded(f"becomes-raw-mask-{n}", "5.5", text, "MASK", 4, 3, image, rice=given))
        for n, text, image, given in cases
    ]
    return vectors + [of_length(numbers, n_bytes) for n_bytes in (31, 32, 33)]


def of_length(numbers, n_bytes):
    """Return a mask of 16 values, RAW 32 bytes, whose RICE payload has this length."""
    while True:
        n_bits = numbers.whole(10, 13)
        pixels = [numbers.getrandbits(n_bits) for _ in range(16)]
        if len(rice_parts(pixels).payload()) == n_bytes:
            break
    comment = f"RICE would take {n_bytes} bytes, RAW takes 32"
    vector = encoded(f"mask-{n_bytes}-bytes", "5.5", comment, "MASK", 4, 1, image_of(pixels, 4), rice=(0, 0))
    return vector if n_bytes < 32 else raw_after_all(vector)


def files():
    """Return the vectors by file."""
    return {
        "required/encode-grid.json": grids(),
        "required/encode-values.json": values(),
        "required/encode-rice.json": rice_images(),
    }
