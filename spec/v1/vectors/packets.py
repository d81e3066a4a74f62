"""Records of multiscale.Cutout, as Avro bodies: to read and to refuse (sections 2, 3, 6, 7)."""

import functools
import struct

from avro_writer import blocks, body, field_bodies, load_schema, long, prefixed
from reference import NAN, decode
from vector import Numbers, n_sent, raw, rice

CUTOUT, PLANE = "multiscale.Cutout", "multiscale.Plane"
SKY = {"ra": 187.25, "dec": -12.5, "cd11": -7.5e-05, "cd12": 1e-07, "cd21": 2e-07, "cd22": 7.5e-05}
SKY["maxError"] = None


@functools.cache
def schema():
    """Return the schema of the record."""
    return load_schema(CUTOUT)


# Records


def plane_of(plane, of="NONE", **fields):
    """Return a plane of the reference as a record; `fields` replace its own."""
    record = {
        "kind": plane.kind, "of": of, "unit": "nJy", "encoding": plane.encoding,
        "sharedCenter": plane.shared_center, "stepExponent": plane.step_exponent, "offset": plane.offset,
        "invalid": plane.invalid, "payload": plane.payload, "crc32": plane.crc32, "background": None,
        "noise": None, "psf": None, "psfFwhm": None, "maskBits": [],
    }  # fmt: skip
    return {**record, **fields}


def cutout_of(planes, size=4, n_levels=1, **fields):
    """Return a cutout record; `fields` replace its own."""
    clipped = {"xLow": 0, "xHigh": 0, "yLow": 0, "yHigh": 0}
    record = {
        "specVersion": "1.0", "size": size, "nLevels": n_levels, "pixelScale": 0.2, "dx": None, "dy": None,
        "sky": None, "clipped": clipped, "clippedBy": "UNKNOWN", "planes": planes, "missing": [],
    }  # fmt: skip
    return {**record, **fields}


def small(kind="SCIENCE", n_levels=1):
    """Return a plane of 4 x 4 with few bytes."""
    e, offset = (0, 1) if kind == "MASK" else (-2, 0)
    return rice(kind, 4, n_levels, [3, -1, 2], e=e, offset=offset)


def one(**fields):
    """Return a cutout of one small plane, some of whose fields are replaced."""
    return cutout_of([plane_of(small(), **fields)])


def clip(x_low=0, x_high=0, y_low=0, y_high=0):
    return {"xLow": x_low, "xHigh": x_high, "yLow": y_low, "yHigh": y_high}


# To read


def reference_levels(record):
    """Return the levels of each plane, as a vector has them."""
    planes = []
    for p in record["planes"]:
        names = ("encoding", "sharedCenter", "stepExponent", "offset", "invalid", "payload", "crc32")
        plane = raw("SCIENCE", 4, 1, [])._make(
            (p["kind"], p["encoding"], record["size"], record["nLevels"], *(p[name] for name in names[1:]))
        )
        planes.append({"kind": p["kind"], "of": p["of"], "levels": decode(plane).hex()})
    return planes


def valid_packet(name, clause, comment, record, data=None):
    """Return a packet vector; `data` replaces the usual Avro body of the record."""
    return {
        "id": f"packet-{name}", "clause": clause, "comment": comment, "level": "packet",
        "operation": "decode", "record": (data or body(schema(), record)).hex(), "result": "valid",
        "planes": reference_levels(record),
    }  # fmt: skip


def every_plane(size=8, n_levels=2):
    """Return a record of each kind, with each `of` that it may have."""
    numbers, planes = Numbers("every plane"), []
    images = ("SCIENCE", "TEMPLATE", "DIFFERENCE")
    keys = [(kind, "NONE") for kind in (*images, "SCORE")]
    keys += [(kind, of) for kind in ("VARIANCE", "MASK") for of in images]
    for i, (kind, of) in enumerate(keys):
        n = n_sent(size, n_levels)
        values = [numbers.getrandbits(3) for _ in range(n)] if kind == "MASK" else numbers.sky(n)
        plane = (
            raw(kind, size, n_levels, values) if i % 2 else rice(kind, size, n_levels, [1, 2, 3], offset=5)
        )
        bits = ["SATURATED", "COSMIC_RAY", "BAD"] if kind == "MASK" else []
        unit = {"VARIANCE": "nJy2", "MASK": "", "SCORE": ""}.get(kind, "nJy")
        planes.append(plane_of(plane, of, unit=unit, maskBits=bits))
    return planes


def three_planes():
    """Return a record like that of a ZTF alert: 4 levels of 8 x 8, clipped at the high sides by one."""
    numbers, planes = Numbers("three planes"), []
    for kind, unit in (("SCIENCE", "DN"), ("TEMPLATE", "DN"), ("DIFFERENCE", "DN")):
        residuals = [None if i % 208 == 207 else numbers.whole(-9, 9) for i in range(208)]
        plane = rice(kind, 8, 4, residuals, e=1, offset=80)
        planes.append(plane_of(plane, unit=unit, background=160.5, noise=7.25, psfFwhm=2.1))
    fields = {"dx": -0.75, "dy": 0.125, "sky": {**SKY, "maxError": 0.01}, "clipped": clip(0, 1, 0, 1)}
    return cutout_of(planes, 8, 4, pixelScale=1.012, clippedBy="CUTOUT", **fields)


def valid_packets():
    """Return records that every reader reads."""
    psf = struct.pack("<9f", *(0.0625, 0.125, 0.0625, 0.125, 0.25, 0.125, 0.0625, 0.125, 0.0625))
    bits16 = [f"BIT{b}" for b in range(16)]
    missing = {"kind": "TEMPLATE", "of": "NONE", "reason": "NO_TEMPLATE", "detail": "not observed before"}
    each_reason = [
        {**missing, "kind": kind, "of": of, "reason": reason, "detail": ""}
        for kind, of, reason in (
            ("TEMPLATE", "NONE", "NO_TEMPLATE"), ("DIFFERENCE", "NONE", "FAILED"),
            ("VARIANCE", "TEMPLATE", "OFF_IMAGE"), ("MASK", "SCIENCE", "WITHHELD"),
            ("SCORE", "NONE", "UNKNOWN"),
        )
    ]  # fmt: skip
    cases = [
        ("rice", "6.1", "one plane in RICE", one()),
        ("raw", "6.1", "one plane in RAW", cutout_of([plane_of(raw("SCIENCE", 4, 1, [1.5, None]))])),
        ("three", "6.1", "three planes, every optional field but the PSF", three_planes()),
        ("every-plane", "3.1", "each kind, with each `of` it may have", cutout_of(every_plane(), 8, 2)),
        ("order", "6.2", "planes come in the order of the packet",
         cutout_of([plane_of(small("DIFFERENCE")), plane_of(small("SCIENCE"))])),
        ("no-planes", "6.5", "no plane, and why", cutout_of([], missing=[missing])),
        ("missing", "6.5", "each reason", cutout_of([plane_of(small())], missing=each_reason)),
        ("minor-version", "10.1", "1.1 is read by a reader of 1.0", {**one(), "specVersion": "1.1"}),
        ("minor-version-10", "10.1", "so is 1.10", {**one(), "specVersion": "1.10"}),
        ("position-low", "2.4", "dx, dy = -1", {**one(), "dx": -1.0, "dy": -1.0}),
        ("position-high", "2.4", "dx, dy just below 1", {**one(), "dx": 1 - 2.0**-24, "dy": 0.0}),
        ("sky", "2.6", "a projection", {**one(), "sky": SKY}),
        ("sky-pole", "2.6", "dec = 90, ra = 0", {**one(), "sky": {**SKY, "ra": 0.0, "dec": 90.0}}),
        ("sky-ra-high", "2.6", "ra just below 360, dec = -90",
         {**one(), "sky": {**SKY, "ra": 360 - 2.0**-44, "dec": -90.0}}),
        ("sky-small", "2.6", "a determinant of 1e-60: 0 in binary32, not in binary64",
         {**one(), "sky": {**SKY, "cd11": 1e-30, "cd12": 0.0, "cd21": 0.0, "cd22": 1e-30}}),
        ("clipped-all", "2.5", "all of the footprint, from one side",
         {**one(), "clipped": clip(4, 0, 0, 4), "clippedBy": "DETECTOR"}),
        ("clipped-unknown", "2.5", "clipped, it is not known by what",
         {**one(), "clipped": clip(1, 2, 3, 0)}),
        ("clipped-more-than-size", "2.5", "the footprint is S 2^(L-1) wide, not S",
         cutout_of([plane_of(small(n_levels=3))], 4, 3, clipped=clip(9, 7, 16, 0), clippedBy="CUTOUT")),
        ("unit", "7.1", "64 characters, 128 bytes in UTF-8", one(unit="µ" * 64)),
        ("unit-empty", "3.1", "no unit", one(unit="")),
        ("statistics", "3.7", "a negative background, no noise at all", one(background=-3.5, noise=0.0)),
        ("psf", "6.2", "3 x 3", one(psf=psf, psfFwhm=0.8)),
        ("psf-1", "6.2", "1 x 1", one(psf=struct.pack("<f", 1.0))),
        ("psf-31", "6.2", "31 x 31", one(psf=struct.pack("<961f", *(i / 961 for i in range(961))))),
        ("mask-bits", "3.4", "16 names",
         cutout_of([plane_of(small("MASK"), "SCIENCE", unit="", maskBits=bits16)])),
        ("detail", "7.1", "1024 characters", {**one(), "missing": [{**missing, "detail": "x" * 1024}]}),
        ("missing-32", "7.1", "32 entries", {**one(), "missing": [missing] * 32}),
        ("size-64", "2.1", "S = 64", cutout_of([plane_of(rice("SCIENCE", 64, 1, [1, 2]))], 64)),
        ("levels-8", "2.1", "L = 8", cutout_of([plane_of(small(n_levels=8))], 4, 8)),
        ("pixel-scale", "2.1", "any width above 0", {**one(), "pixelScale": 5e-324}),
    ]  # fmt: skip
    return [valid_packet(*case) for case in cases] + arrays_in_blocks()


def arrays_in_blocks():
    """Return arrays that Avro allows to be written otherwise: in more blocks, with their lengths."""
    record = cutout_of(
        [
            plane_of(small("SCIENCE")),
            plane_of(small("DIFFERENCE")),
            plane_of(small("MASK"), "SCIENCE", maskBits=["A"]),
        ]
    )
    planes = [b"".join(field_bodies(schema(), PLANE, plane).values()) for plane in record["planes"]]
    two_blocks = long(1) + planes[0] + long(2) + planes[1] + planes[2] + b"\0"
    counted = long(-3) + long(sum(map(len, planes))) + b"".join(planes) + b"\0"
    return [
        valid_packet("array-two-blocks", "8.1", "an array in two blocks", record,
                     with_fields(record, planes=two_blocks)),
        valid_packet("array-counted", "8.1", "a negative number of items, then their bytes", record,
                     with_fields(record, planes=counted)),
    ]  # fmt: skip


# To refuse


def with_fields(record, **replaced):
    """Return the body of a cutout, the bodies of some fields replaced."""
    return b"".join({**field_bodies(schema(), CUTOUT, record), **replaced}.values())


def with_plane_fields(**replaced):
    """Return the body of a cutout of one plane, the bodies of some of the plane's fields replaced."""
    record = one()
    plane = {**field_bodies(schema(), PLANE, record["planes"][0]), **replaced}
    return with_fields(record, planes=blocks([b"".join(plane.values())]))


def refused_packet(name, clause, comment, reason, data):
    """Return a vector of a record, or of bytes, that is refused."""
    data = data if isinstance(data, bytes) else body(schema(), data)
    return {
        "id": f"refuse-packet-{name}", "clause": clause, "comment": comment, "level": "packet",
        "operation": "decode", "record": data.hex(), "result": "invalid", "reason": reason,
    }  # fmt: skip


NOT_A_NUMBER, INFINITE = float("nan"), float("inf")


def cutout_faults():
    """Return records with a fault in a field of the cutout."""
    cases = [
        (f"version-{text or 'empty'}", "10.1", f"specVersion {text!r}", "version", {"specVersion": text})
        for text in ("2.0", "0.9", "10.0", "1", "", "v1.0", "1.0.0", "1.", "1,0", "one")
    ]
    cases += [
        (f"size-{size}", "2.1", f"S = {size}", "geometry", {"size": size})
        for size in (0, 2, 6, 68, -4, 2**31 - 4)
    ]
    cases += [(f"levels-{n}", "2.1", f"L = {n}", "geometry", {"nLevels": n}) for n in (0, 9, -1, 2**31 - 1)]
    cases += [
        (f"pixel-scale-{v}", "2.1", f"pixelScale {v}", "geometry", {"pixelScale": v})
        for v in (0.0, -0.2, NOT_A_NUMBER, INFINITE)
    ]
    cases += [
        (f"position-{name}", "2.4", f"dx = {dx}, dy = {dy}", "position", {"dx": dx, "dy": dy})
        for name, dx, dy in POSITIONS
    ]
    cases += [
        (f"sky-{name}", "2.6", ", ".join(f"{k} = {v}" for k, v in given.items()), "sky", {"sky": SKY | given})
        for name, given in SKIES
    ]
    cases += [(f"clipped-{name}", "2.5", comment, "clipped", given) for name, comment, given in SIDES]
    return [refused_packet(n, c, text, why, {**one(), **given}) for n, c, text, why, given in cases]


POSITIONS = [
    ("dx-alone", 0.0, None), ("dy-alone", None, 0.0), ("high", 1.0, 0.0), ("dy-high", 0.0, 1.0),
    ("low", -1.0 - 2.0**-23, 0.0), ("nan", 0.0, NOT_A_NUMBER),
]  # fmt: skip
SKIES = [
    ("ra-360", {"ra": 360.0}), ("ra-negative", {"ra": -0.5}), ("ra-nan", {"ra": NOT_A_NUMBER}),
    ("dec-high", {"dec": 90.5}), ("dec-low", {"dec": -91.0}), ("dec-nan", {"dec": NOT_A_NUMBER}),
    ("cd-nan", {"cd12": NOT_A_NUMBER}), ("cd-infinite", {"cd11": INFINITE}),
    ("cd-zero", {"cd11": 0.0, "cd12": 0.0}),
    ("cd-singular", {"cd11": 0.25, "cd12": 0.5, "cd21": 0.5, "cd22": 1.0}),
]  # fmt: skip
SIDES = [
    ("negative", "xLow = -1", {"clipped": clip(-1, 2), "clippedBy": "CUTOUT"}),
    ("wide", "xHigh = 5 of 4", {"clipped": clip(0, 5), "clippedBy": "CUTOUT"}),
    ("sum-x", "xLow + xHigh = 5 of 4", {"clipped": clip(2, 3), "clippedBy": "CUTOUT"}),
    ("sum-y", "yLow + yHigh = 5 of 4", {"clipped": clip(0, 0, 4, 1), "clippedBy": "CUTOUT"}),
    ("wrap", "2^31 - 1 twice is -2 in 32 bits", {"clipped": clip(2**31 - 1, 2**31 - 1)}),
    ("by-detector", "DETECTOR, and nothing clipped", {"clippedBy": "DETECTOR"}),
    ("by-cutout", "CUTOUT, and nothing clipped", {"clippedBy": "CUTOUT"}),
]


def plane_faults():
    """Return records with a fault in a field of the plane, or among the planes."""
    nan, inf = NOT_A_NUMBER, INFINITE
    mask = {"plane": small("MASK"), "of": "SCIENCE"}
    three = struct.pack("<9f", *[0.1] * 9)
    cases = [
        ("of-science", "3.1", "SCIENCE of SCIENCE", "plane-of", {"of": "SCIENCE"}),
        ("of-score", "3.1", "SCORE of DIFFERENCE", "plane-of", {"plane": small("SCORE"), "of": "DIFFERENCE"}),
        ("of-variance", "3.1", "VARIANCE of NONE", "plane-of", {"plane": small("VARIANCE")}),
        ("of-mask", "3.1", "MASK of NONE", "plane-of", {"plane": small("MASK")}),
        ("kind-unknown", "6.3", "kind UNKNOWN", "unknown-symbol", {"kind": "UNKNOWN"}),
        ("of-unknown", "6.3", "of UNKNOWN", "unknown-symbol", {"plane": small("VARIANCE"), "of": "UNKNOWN"}),
        ("encoding-unknown", "6.3", "encoding UNKNOWN", "unknown-symbol", {"encoding": "UNKNOWN"}),
        ("whole-one-level", "4.3", "sharedCenter false for L = 1", "shared-center", {"sharedCenter": False}),
        ("unit-long", "7.1", "65 characters", "limit", {"unit": "x" * 65}),
        ("crc-negative", "6.2", "crc32 = -1", "crc", {"crc32": -1}),
        ("crc-signed", "6.2", "the crc32 of a signed reader", "crc", {"crc32": small().crc32 - 2**32}),
        ("crc-33-bits", "6.2", "crc32 + 2^32, equal in 32 bits", "crc", {"crc32": small().crc32 + 2**32}),
        ("crc-wrong", "4.4", "a wrong crc32", "crc", {"crc32": small().crc32 ^ 1}),
        ("background-nan", "3.7", "a background of NaN", "statistics", {"background": nan}),
        ("background-infinite", "3.7", "an infinite background", "statistics", {"background": -inf}),
        ("noise-negative", "3.7", "noise -1", "statistics", {"noise": -1.0}),
        ("noise-nan", "3.7", "noise NaN", "statistics", {"noise": nan}),
        ("noise-infinite", "3.7", "infinite noise", "statistics", {"noise": inf}),
        ("mask-background", "3.7", "a mask with a background", "statistics", {**mask, "background": 0.0}),
        ("mask-noise", "3.7", "a mask with noise", "statistics", {**mask, "noise": 1.0}),
        ("psf-even", "6.2", "2 x 2", "psf", {"psf": three[:16]}),
        ("psf-not-square", "6.2", "3 x 5", "psf", {"psf": three + three[:24]}),
        ("psf-bytes", "6.2", "35 bytes", "psf", {"psf": three[:35]}),
        ("psf-empty", "6.2", "no byte", "psf", {"psf": b""}),
        ("psf-257", "6.2", "257 x 257", "psf", {"psf": bytes(4 * 257**2)}),
        ("psf-nan", "6.2", "NaN in the middle", "psf", {"psf": three[:16] + NAN + three[20:]}),
        ("psf-infinite", "6.2", "an infinite value", "psf", {"psf": three[:32] + b"\0\0\x80\x7f"}),
        ("fwhm-zero", "6.2", "psfFwhm 0", "psf", {"psfFwhm": 0.0}),
        ("fwhm-negative", "6.2", "psfFwhm -1", "psf", {"psfFwhm": -1.0}),
        ("fwhm-nan", "6.2", "psfFwhm NaN", "psf", {"psfFwhm": nan}),
        ("fwhm-infinite", "6.2", "psfFwhm infinite", "psf", {"psfFwhm": inf}),
        ("mask-bits-science", "6.2", "names of bits in SCIENCE", "mask-bits", {"maskBits": ["SATURATED"]}),
        ("mask-bits-17", "6.2", "17 names", "limit", {**mask, "maskBits": [f"B{b}" for b in range(17)]}),
        ("mask-bit-long", "7.1", "a name of 65 characters", "limit", {**mask, "maskBits": ["x" * 65]}),
        ("payload-size", "5.1", "a RAW payload one value short", "payload-size",
         {"encoding": "RAW", "payload": bytes(60), "stepExponent": 0}),
        ("payload-trailing", "5.3", "a byte after the remainders", "rice-trailing",
         {"payload": small().payload + b"\0"}),
        ("bitmap", "5.4", "a bitmap of zeros", "bitmap", {"invalid": bytes(2)}),
        ("step", "5.2", "e = 102", "step-exponent", {"stepExponent": 102}),
        ("offset", "5.2", "offset 2^24 + 1", "offset", {"offset": 2**24 + 1}),
    ]  # fmt: skip
    return [
        refused_packet(
            name, clause, comment, reason, cutout_of([plane_of(given.pop("plane", None) or small(), **given)])
        )
        for name, clause, comment, reason, given in cases
    ] + list_faults()


def list_faults():
    """Return records with a fault among the planes and the missing."""
    missing = {"kind": "TEMPLATE", "of": "NONE", "reason": "NO_TEMPLATE", "detail": ""}
    science, variance = plane_of(small()), plane_of(small("VARIANCE"), "SCIENCE")
    cases = [
        ("plane-twice", "6.4", "SCIENCE twice", "plane-duplicate", cutout_of([science, science])),
        ("variance-twice", "6.4", "VARIANCE of SCIENCE twice", "plane-duplicate",
         cutout_of([science, variance, plane_of(small("TEMPLATE")), variance])),
        ("planes-33", "7.1", "33 planes", "limit", cutout_of([science] * 33)),
        ("missing-33", "7.1", "33 entries", "limit", {**one(), "missing": [missing] * 33}),
        ("missing-present", "6.5", "SCIENCE is there and missing", "missing",
         {**one(), "missing": [{**missing, "kind": "SCIENCE"}]}),
        ("detail-long", "7.1", "a detail of 1025 characters", "limit",
         {**one(), "missing": [{**missing, "detail": "x" * 1025}]}),
    ]  # fmt: skip
    return [refused_packet(*case) for case in cases]


def body_faults():
    """Return bodies that are no Avro, claim more than there is, or do not end where they should."""
    whole = body(schema(), one())
    gib = 2**30
    fields = [
        ("kind-index-7", "an enumeration has 7 symbols", {"kind": long(7)}),
        ("kind-index-negative", "a symbol of index -1", {"kind": long(-1)}),
        ("encoding-index-3", "an enumeration has 3 symbols", {"encoding": long(3)}),
        ("union-2", "a union has 2 branches", {"invalid": long(2)}),
        ("union-negative", "a branch of index -1", {"background": long(-1)}),
        ("payload-claim", "a payload of 1 TiB claimed", {"payload": long(1024 * gib)}),
        ("payload-claim-2gib", "a payload of 2 GiB claimed", {"payload": long(2 * gib)}),
        ("payload-claim-63", "a payload of 2^63 - 1 bytes claimed", {"payload": long(2**63 - 1)}),
        ("payload-negative", "a payload of -1 byte", {"payload": long(-1)}),
        ("bitmap-claim", "a bitmap of 1 TiB claimed", {"invalid": long(1) + long(1024 * gib)}),
        ("psf-claim", "a PSF of 3 GiB claimed", {"psf": long(1) + long(3 * gib)}),
        ("unit-claim", "a unit of 4 GiB claimed", {"unit": long(4 * gib)}),
        ("unit-negative", "a unit of -5 bytes", {"unit": long(-5)}),
        ("unit-not-utf-8", "a unit that is no UTF-8", {"unit": prefixed(b"\xff\xfe")}),
        ("mask-bits-claim", "2^40 names of bits claimed", {"maskBits": long(2**40)}),
        ("mask-bits-negative", "-2^62 names of bits, in no byte", {"maskBits": long(-(2**62)) + long(0)}),
    ]
    vectors = [
        refused_packet(name, "8.1", comment, "avro", with_plane_fields(**given))
        for name, comment, given in fields
    ]
    plane = b"".join(field_bodies(schema(), PLANE, one()["planes"][0]).values())
    arrays = [
        ("planes-claim", "2^40 planes claimed, one there", long(2**40) + plane),
        (
            "planes-claim-negative",
            "-2^63 planes, which has no positive",
            long(-(2**63)) + long(len(plane)) + plane,
        ),
        ("planes-no-end", "an array that does not end", long(1) + plane + long(1)),
    ]
    vectors += [
        refused_packet(name, "8.1", comment, "avro", with_fields(one(), planes=planes))
        for name, comment, planes in arrays
    ]
    trailing = [("zero", b"\0"), ("newline", b"\n"), ("twice", whole)]
    vectors += [
        refused_packet(f"trailing-{name}", "8.4", "bytes after the record", "trailing-bytes", whole + more)
        for name, more in trailing
    ]
    cuts = [
        refused_packet(f"cut-{n:03}", "8.1", f"cut after {n} of {len(whole)} bytes", "avro", whole[:n])
        for n in range(len(whole))
    ]
    return vectors + cuts


def files():
    """Return the vectors by file."""
    return {
        "required/packets.json": valid_packets(),
        "reject/packet-cutout.json": cutout_faults(),
        "reject/packet-planes.json": plane_faults(),
        "reject/packet-bytes.json": body_faults(),
    }
