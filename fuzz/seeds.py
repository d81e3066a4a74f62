"""Write the conformance vectors as seed inputs of the fuzzers: fuzz/corpus/c, fuzz/corpus/packet."""

import struct
import sys
import zlib
from pathlib import Path

from multiscale.avro import encode_body
from multiscale.conformance import Vector, load_vectors
from multiscale.errors import StampError
from multiscale.schema import parsed_schema

KINDS = ("SCIENCE", "VARIANCE", "MASK", "SCORE", "TEMPLATE", "DIFFERENCE")
ENCODINGS = ("RAW", "RICE")
LARGEST = 20_000  # bytes: larger seeds slow a fuzzer down more than they teach it


def c_seed(vector: Vector) -> bytes | None:
    """Return a payload vector as fuzz/c_decoder.c reads it, or None when it does not fit that form."""
    v = vector.data
    if v["kind"] not in KINDS or v["encoding"] not in ENCODINGS:
        return None
    bitmap = bytes.fromhex(v["invalid"] or "")
    fields = (KINDS.index(v["kind"]), ENCODINGS.index(v["encoding"]), v["size"], v["n_levels"])
    flags = int(v["shared_center"]) | 2 * (v["invalid"] is not None)
    try:
        head = struct.pack(
            "<4BBBhiIH", *fields, flags, 0, v["step_exponent"], v["offset"], v["crc32"], len(bitmap)
        )
    except struct.error:
        return None  # a refusal of a number this form cannot hold
    return head + bitmap + bytes.fromhex(v["payload"])


def plane_as_packet(vector: Vector) -> bytes | None:
    """Return a payload vector as a packet with that one plane; None where Avro cannot hold it."""
    v = vector.data
    plane = {
        "kind": v["kind"],
        "of": "SCIENCE" if v["kind"] in ("VARIANCE", "MASK") else "NONE",
        "unit": "",
        "encoding": v["encoding"],
        "sharedCenter": v["shared_center"],
        "stepExponent": v["step_exponent"],
        "offset": v["offset"],
        "invalid": None if v["invalid"] is None else bytes.fromhex(v["invalid"]),
        "payload": bytes.fromhex(v["payload"]),
        "crc32": v["crc32"],
        "background": None,
        "noise": None,
        "psf": None,
        "psfFwhm": None,
        "maskBits": [],
    }
    record = {
        "specVersion": "1.0",
        "size": v["size"],
        "nLevels": v["n_levels"],
        "pixelScale": 1.0,
        "dx": None,
        "dy": None,
        "sky": None,
        "clipped": {"xLow": 0, "xHigh": 0, "yLow": 0, "yHigh": 0},
        "clippedBy": "UNKNOWN",
        "planes": [plane],
        "missing": [],
    }
    try:
        return b"\x00" + encode_body(parsed_schema("multiscale.Cutout"), record)
    except StampError:
        return None


FORMS = {
    "container": (1, 4, 5),
    "single-object": (2,),
    "confluent": (3,),
}  # as fuzz/packet_decoder.py has them


def packet_seeds(vector: Vector) -> list[bytes]:
    """Return a packet or file vector as fuzz/packet_decoder.py reads it: one byte of form, then the bytes."""
    v = vector.data
    if vector.operation == "packet":
        return [b"\x00" + bytes.fromhex(v["record"])]
    return [bytes([form]) + bytes.fromhex(v["bytes"]) for form in FORMS[v["form"]]]


def write(corpus: Path, name: str, seed: bytes, counts: dict[str, int]) -> None:
    """Write one seed, named by its checksum, and count it."""
    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{zlib.crc32(seed):08x}").write_bytes(seed)
    counts[name] = counts.get(name, 0) + 1


def main() -> None:
    """Write every seed under the folder given, named by its checksum."""
    corpus = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "corpus")
    counts: dict[str, int] = {}
    for vector in load_vectors():
        if vector.operation == "decode":
            name, seeds = "c", [c_seed(vector)]
            whole = plane_as_packet(vector)
            if whole is not None and len(whole) <= LARGEST:
                write(corpus, "packet", whole, counts)
        elif vector.operation in ("packet", "file"):
            name, seeds = "packet", packet_seeds(vector)
        else:
            continue
        for seed in seeds:
            if seed is not None and len(seed) <= LARGEST:
                write(corpus, name, seed, counts)
    print("seeds:", ", ".join(f"{name} {count}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
