"""The worked examples of the specification: their numbers are made here, and as vectors."""

import textwrap
from pathlib import Path

from avro_writer import confluent, field_bodies, fingerprint, load_schema, single_object
from packets import CUTOUT, cutout_of
from reference import (
    best_parameter,
    blocks_of,
    levels_to_bytes,
    pack,
    to_bits,
    unpack,
    unsigned,
    values_to_bytes,
)
from vector import raw, rice, valid_plane

SPECIFICATION = Path(__file__).resolve().parent.parent / "specification.md"
SENT = [*map(float, range(16)), *[8.0] * 12]  # the 28 sent values of two levels of 4 x 4
RESIDUALS = [0, 3, -1, 4, -2, 0, 7, -3, 5, 2, -1, 1, 0, -6, 2, -4, *[0, 0, -1, 0, 0, 1, 0, 0, 0, 0, 0, 0]]
STEP, OFFSET = -2, 3


def words(data, n=4):
    """Return bytes in hexadecimal, in groups of n."""
    return " ".join(data[i : i + n].hex() for i in range(0, len(data), n))


def planes():
    """Return the planes of the examples: RAW, RAW with an invalid pixel, RICE, RICE with invalid values."""
    some = [None if i in (5, 20) else r for i, r in enumerate(RESIDUALS)]
    return (
        raw("SCIENCE", 4, 2, SENT),
        raw("SCIENCE", 4, 2, [None, *SENT[1:]]),
        rice("SCIENCE", 4, 2, RESIDUALS, e=STEP, offset=OFFSET),
        rice("SCIENCE", 4, 2, some, e=STEP, offset=OFFSET),
    )


def vectors():
    """Return the examples as vectors."""
    clauses = ("4.2", "5.1", "5.3", "5.4")
    return [
        valid_plane(f"example-{clause}", clause, f"the example of {clause}", plane)
        for clause, plane in zip(clauses, planes(), strict=True)
    ]


def packing():
    """Return the example of 4.2."""
    levels = unpack("SCIENCE", 4, 2, True, SENT)
    center = [levels[1][y][x] for y in (1, 2) for x in (1, 2)]
    crc32 = planes()[0].crc32
    return f"""
        *Example.* S = 4, L = 2; level 0 holds 0, 1, … 15, and the 12 pixels of level 1 around its centre
        are 8. The centre of level 1, rows and columns 1 and 2, is {commas(center)}
        (`{words(values_to_bytes("SCIENCE", center))}`) and is not sent. n = {len(pack(levels, True))}; the
        CRC (4.4) over the {len(levels_to_bytes("SCIENCE", levels))} bytes of both levels is {crc32}
        (`{crc32:08x}`).
    """


def raw_payload():
    """Return the example of 5.1."""
    plain, invalid = planes()[:2]
    center = unpack("SCIENCE", 4, 2, True, [None, *SENT[1:]])[1][1][1]
    return f"""
        *Example.* The levels of the example of 4.2 are {len(plain.payload)} bytes:
        `{words(plain.payload[:16])}` … `{words(plain.payload[60:68])}` …, the last two the value 15 and the
        first of the twelve 8s. With pixel (0, 0) of level 0 invalid they begin
        `{words(invalid.payload[:8])}`, the first pixel of the centre is (1 + 4 + 5)/3, which is
        `{words(values_to_bytes("SCIENCE", [center]))}`, and the CRC is {invalid.crc32}.
    """


def rice_payload():
    """Return the example of 5.3."""
    plane, us = planes()[2], [unsigned(r) for r in RESIDUALS]
    p0, p1 = (best_parameter(block) for block in blocks_of(us))
    e, second, first = row([STEP]), (OFFSET + 3) * 2.0**STEP, 2 * OFFSET * 2.0 ** (STEP - 1)
    return f"""
        *Example.* S = 4, L = 2, e = {e}, offset {OFFSET}. The residuals of level 0 are {row(RESIDUALS[:16])},
        so u is {row(us[:16])}; those of level 1 are {row(RESIDUALS[16:])}, so u is {row(us[16:])}.
        m = {len(us)}: a block of 16 with p = {p0} and one of 12 with p = {p1}. The second value, r = 3, is
        ({OFFSET} + 3)·2^({e}) = {second:g}; r = 0 of level 1 is ({OFFSET}·2 + 0)·2^({e}−1) = {first:g}.
        The payload is {len(plane.payload)} bytes (RAW: 112), and the CRC is {plane.crc32}:
    """


def rice_figure():
    """Return the figure of 5.3: the four parts, and their bits."""
    payload = planes()[2].payload
    us = blocks_of([unsigned(r) for r in RESIDUALS])
    parameters = [best_parameter(block) for block in us]
    end = len(payload) - sum(p * len(block) for p, block in zip(parameters, us, strict=True)) // 8
    parts = [payload[:2], payload[2:6], payload[6:end], payload[end:]]
    names = ("parameters", "unary length", "unary", "remainders")
    widths = [max(len(name), len(words(part, 1))) for name, part in zip(names, parts, strict=True)]
    line = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    cells = [[*names], [words(part, 1) for part in parts]]
    boxed = ["|" + "|".join(f" {c:<{w}} " for c, w in zip(row, widths, strict=True)) + "|" for row in cells]
    unary = [["0" * (u >> p) + "1" for u in block] for p, block in zip(parameters, us, strict=True)]
    n_unused = 8 * len(parts[2]) - sum(map(len, unary[0] + unary[1]))
    bits = [
        ("parameters", " ".join(f"{p:05b}" for p in parameters) + " 000000", "p_0, p_1, unused"),
        ("unary", " ".join(unary[0]), "block 0"),
        ("", " ".join(unary[1]) + " " + "0" * n_unused, "block 1, unused" if n_unused else "block 1"),
        ("remainders", " ".join(f"{u % 2 ** parameters[0]:0{parameters[0]}b}" for u in us[0]), "block 0"),
    ]
    if parameters[1] != 0:
        raise AssertionError("the figure has no row for the remainders of block 1")
    width = max(len(row[1]) for row in bits)
    rows = [f"{name:<11} {text:<{width}}  {note}" for name, text, note in bits]
    return "\n".join(f"    {text}".rstrip() for text in (line, boxed[0], boxed[1], line, "", *rows))


def row(numbers):
    """Return whole numbers as text."""
    return " ".join(map(str, numbers)).replace("-", "−")


def commas(numbers):
    """Return numbers as text, with commas."""
    return ", ".join(f"{number:g}" for number in numbers)


def bitmap():
    """Return the example of 5.4."""
    plane = planes()[3]
    bits = " ".join(textwrap.wrap(to_bits(plane.invalid), 8))
    return f"""
        *Example.* In the example of 5.3 let sent values 5 and 20, counted from 0, be invalid: `invalid` is
        `{words(plane.invalid, 1)}` ({bits}, the last four bits unused), m = 26, the second block has 10
        values, and the payload is {len(plane.payload)} bytes: `{words(plane.payload, 1)}`.
    """


def frames():
    """Return the example of 8.3."""
    schema, record = load_schema(CUTOUT), cutout_of([], 8, 4)
    fields = field_bodies(schema, CUTOUT, record)
    listed = ", ".join(f"{name} `{words(data, 1)}`" for name, data in fields.items())
    single, framed = single_object(schema, record), confluent(schema, record, 7)
    return f"""
        *Example.* A `multiscale.Cutout` with S = 8, L = 4, 0.2 arcsec, all else null, 0 or empty, is
        {sum(map(len, fields.values()))} bytes: {listed}. The fingerprint of its schema is
        `{words(fingerprint(schema), 1)}`: 8.2 begins `{words(single[:12], 1)}` …. Under the id 7, 8.3 begins
        `{words(framed[:7], 1)}` ….
    """


def passages():
    """Return all that has to stand in the specification, as it is but for line breaks."""
    return [packing(), raw_payload(), rice_payload(), rice_figure(), bitmap(), frames()]


def squeezed(text):
    """Return text with every run of spaces and line breaks as one space."""
    return " ".join(text.split())


def missing():
    """Return the passages that do not stand in the specification."""
    specification = squeezed(SPECIFICATION.read_text(encoding="utf-8"))
    return [squeezed(passage) for passage in passages() if squeezed(passage) not in specification]


def files():
    """Return the vectors by file."""
    return {"required/examples.json": vectors()}


def wrapped(passage):
    """Return a passage in lines, none broken inside `code` or beside an equals sign."""
    pieces = squeezed(passage).replace(" = ", "\0=\0").split("`")
    kept = "`".join(piece.replace(" ", "\0") if i % 2 else piece for i, piece in enumerate(pieces))
    return "\n".join(textwrap.wrap(kept, 118, break_long_words=False)).replace("\0", " ")


if __name__ == "__main__":
    for passage in passages():
        print(passage if passage.startswith("    ") else wrapped(passage), end="\n\n")
