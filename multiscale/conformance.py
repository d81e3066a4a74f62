"""Run the conformance vectors against any program, in any language (spec/v1/vectors/README.md).

``run_vectors`` talks to a program over its standard streams; ``answer`` is this package's own side of the
same protocol, so that the runner is tested against something that must pass.
"""

from __future__ import annotations

import json
import queue
import shlex
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .avro import decode_body, decode_confluent, decode_single, read_container
from .cutout import Cutout
from .encoding import FLOAT, MASK, decode_planes, encode_planes
from .errors import StampError, WireError
from .geometry import Geometry, Placement
from .packet import Alert
from .pyramid import build_levels
from .schema import parsed_schema, spec_folder

FOLDERS = ("required", "optional", "reject")
ANSWER_SECONDS = 30.0  # how long a program may take over one vector


@dataclass(frozen=True)
class Vector:
    """One conformance vector; ``data`` is its JSON object."""

    folder: str
    data: dict[str, Any]

    @property
    def id(self) -> str:
        """Its identifier, unique among all vectors."""
        return str(self.data["id"])

    @property
    def operation(self) -> str:
        """The first word of its request: decode, encode, packet or file."""
        level = self.data["level"]
        return self.data["operation"] if level == "payload" else level


@dataclass(frozen=True)
class Verdict:
    """What a program did with one vector."""

    vector: Vector
    status: str  # "passed", "failed" or "unsupported"
    message: str = ""


def load_vectors(folder: Path | None = None) -> list[Vector]:
    """Return every vector of this specification, or of another ``folder``. Raises WireError when none."""
    folder = folder or spec_folder() / "v1" / "vectors"
    vectors = [
        Vector(name, data)
        for name in FOLDERS
        for path in sorted((folder / name).glob("*.json"))
        for data in json.loads(path.read_text())["vectors"]
    ]
    if not vectors:
        raise WireError("record", "no vectors", "JSON files in required/, optional/ and reject/", str(folder))
    return vectors


def request(vector: Vector) -> str:
    """Return the line that asks a program for ``vector``."""
    v, operation = vector.data, vector.operation
    fields: list[object]
    if operation == "decode":
        fields = [
            v["kind"], v["encoding"], v["size"], v["n_levels"], int(v["shared_center"]), v["step_exponent"],
            v["offset"], v["crc32"], _hex(v["invalid"]), _hex(v["payload"]),
        ]  # fmt: skip
    elif operation == "encode":
        fields = [
            v["kind"], v["encoding"], v["size"], v["n_levels"], v["step_exponent"], v["offset"],
            v["width"], v["height"], v["cx"], v["cy"], v.get("outside", 0), _hex(v["image"]),
        ]  # fmt: skip
    elif operation == "packet":
        fields = [_hex(v["record"])]
    else:
        fields = [v["form"], v["schema"], _hex(v["bytes"])]
    return " ".join(str(field) for field in [operation, vector.id, *fields])


def expected_answer(vector: Vector) -> str:
    """Return what a conforming program answers after the identifier; "refuse" for a reject vector."""
    v, operation = vector.data, vector.operation
    if v["result"] == "invalid":
        return "refuse"
    result: list[object]
    if operation == "decode":
        result = [_hex(v["levels"])]
    elif operation == "encode":
        shared = int(v["shared_center"])
        result = [v["result_encoding"], shared, v["crc32"], _hex(v["invalid"]), _hex(v["payload"])]
    elif operation == "packet":
        result = [f"{p['kind']}:{p['of']}:{_hex(p['levels'])}" for p in v["planes"]]
    else:
        result = [v["n_packets"]]
    return " ".join(["ok", *map(str, result)]).rstrip()


def _hex(text: str | None) -> str:
    return "-" if text is None else text or "."


def run_vectors(command: str, vectors: list[Vector]) -> Iterator[Verdict]:
    """Yield the verdict on each vector of the program that ``command`` starts.

    A program that stops answering is started again for the next vector; a wrong answer names what
    differs. Raises WireError when the program cannot be started.
    """
    program: _Program | None = None
    for vector in vectors:
        if program is None:
            program = _Program(command)
        reply = program.ask(request(vector))
        if reply is None:
            program.stop()
            program = None
            yield Verdict(vector, "failed", f"no answer within {ANSWER_SECONDS:g} s, or the program ended")
        else:
            yield _judge(vector, reply)
    if program is not None:
        program.stop()


def _judge(vector: Vector, reply: str) -> Verdict:
    identifier, _, answer_text = reply.partition(" ")
    expected = expected_answer(vector)
    if identifier != vector.id:
        return Verdict(vector, "failed", f"answered {identifier[:40]!r}, expected {vector.id}")
    if answer_text == "unsupported":
        return Verdict(vector, "unsupported")
    if expected == "refuse":
        if answer_text.split(" ")[0] == "refuse":
            return Verdict(vector, "passed")
        return Verdict(vector, "failed", f"accepted, expected a refusal ({vector.data['reason']})")
    if answer_text == expected:
        return Verdict(vector, "passed")
    return Verdict(vector, "failed", _difference(answer_text, expected))


def _difference(found: str, expected: str) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
        min(len(found), len(expected)),
    )
    begin = max(0, at - 8)
    return f"at character {at}: found …{found[begin : at + 24]!r}, expected …{expected[begin : at + 24]!r}"


class _Program:
    """A running program, asked one line at a time."""

    def __init__(self, command: str) -> None:
        try:
            self.process = subprocess.Popen(
                shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        except (OSError, ValueError, IndexError) as error:
            raise WireError("record", str(error), "a program that can be started", command) from None
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\r\n"))
        self.lines.put(None)

    def ask(self, line: str) -> str | None:
        """Return the answer to ``line``, or None when none comes."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            return self.lines.get(timeout=ANSWER_SECONDS)
        except (OSError, queue.Empty):
            return None

    def stop(self) -> None:
        """End the program, by its standard input first."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(timeout=2)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


# --- this package's own side of the protocol ---------------------------------------------------------


def answer(line: str) -> str:
    """Return this package's answer to one request line."""
    operation, _, rest = line.strip().partition(" ")
    identifier, _, arguments = rest.partition(" ")
    try:
        if operation == "decode":
            return f"{identifier} ok {_answer_decode(arguments.split(' '))}"
        if operation == "encode":
            return f"{identifier} ok {_answer_encode(arguments.split(' '))}"
        if operation == "packet":
            planes = _answer_packet(_bytes(arguments) or b"")
            return f"{identifier} ok {planes}".rstrip()  # there may be none
        if operation == "file":
            return f"{identifier} ok {_answer_file(*arguments.split(' '))}"
    except StampError as error:
        return f"{identifier} refuse {error.reason}"
    return f"{identifier} unsupported"


def _bytes(text: str) -> bytes | None:
    return None if text == "-" else bytes.fromhex("" if text == "." else text)


def _answer_decode(arguments: list[str]) -> str:
    kind, encoding, size, n_levels, shared, e, offset, crc32, invalid, payload = arguments
    geometry = Geometry(int(size), int(n_levels), 1.0)
    plane = {
        "kind": kind,
        "encoding": encoding,
        "sharedCenter": shared == "1",
        "stepExponent": int(e),
        "offset": int(offset),
        "invalid": _bytes(invalid),
        "payload": _bytes(payload) or b"",
        "crc32": int(crc32),
    }
    levels, failures = decode_planes([plane], geometry)
    if failures:
        raise failures[0]
    return _hex(levels[0].tobytes().hex())


def _answer_encode(arguments: list[str]) -> str:
    kind, encoding, *numbers, image = arguments
    size, n_levels, e, offset, width, height, cx, cy, outside = map(int, numbers)
    geometry = Geometry(size, n_levels, 1.0)
    dtype = MASK if kind == "MASK" else FLOAT
    pixels = np.frombuffer(_bytes(image) or b"", dtype).reshape(height, width)
    levels = build_levels(pixels, geometry, kind=kind.lower(), placement=Placement(cx, cy), outside=outside)
    [plane] = encode_planes(
        levels[None], geometry, kind=kind, encoding=encoding, step_exponents=[e], offsets=[offset]
    )
    invalid = None if plane["invalid"] is None else plane["invalid"].hex()
    fields = [plane["encoding"], int(plane["sharedCenter"]), plane["crc32"]]
    return " ".join(map(str, [*fields, _hex(invalid), _hex(plane["payload"].hex())]))


def _answer_packet(body: bytes) -> str:
    cutout = Cutout.from_record(decode_body(parsed_schema("multiscale.Cutout"), body))
    planes = [f"{p.kind}:{p.of}:{cutout.levels(p.kind, p.of).tobytes().hex()}" for p in cutout.planes]
    return " ".join(planes)


def _answer_file(form: str, schema: str, data: str) -> str:
    message, writer = _bytes(data) or b"", parsed_schema(schema)
    if form == "container":
        records = list(read_container(message, reader_schema=writer))
    elif form == "single-object":
        records = [decode_single(message, [writer])]
    elif form == "confluent":
        records = [decode_confluent(message, {1: writer})]
    else:
        raise WireError("frame", form, "container, single-object or confluent")
    model = Alert if schema == "multiscale.Alert" else Cutout
    for record in records:
        parsed = model.from_record(record)
        cutout = parsed.cutout if isinstance(parsed, Alert) else parsed
        for plane in cutout.planes if isinstance(cutout, Cutout) else ():
            cutout.levels(plane.kind, plane.of)  # type: ignore[union-attr]
    return str(len(records))
