"""Is what is in a file as the specification says? One finding for each thing that is not.

``check_file`` never raises for what a file holds: trouble with the file is a finding too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .avro import ContainerReader, MessageReader, read_messages
from .cutout import Cutout
from .errors import RecordError, StampError
from .evolution import check_evolution
from .geometry import Placement
from .keys import NO_DATA, OFF_IMAGE
from .packet import EMBEDDED_FIELD, Alert, cutout_record
from .pyramid import build_levels
from .rules import cutout_faults
from .schema import load_schema

_CUTOUT = "multiscale.Cutout"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as the specification says."""

    file: str
    packet: int | None  # 0-based; None: the file or its schema
    field: str  # path within the packet, may be empty
    reason: str  # a word of the specification's table 11.3, or of errors.MORE_REASONS
    found: str
    expected: str
    clause: str

    def to_json(self) -> str:
        """Return the finding as one line of JSON."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        packet = "" if self.packet is None else f" packet {self.packet}:"
        field = f" {self.field}:" if self.field else ""
        clause = f" [spec {self.clause}]" if self.clause else ""
        return (
            f"{self.file}:{packet}{field} {self.reason}: found {self.found}, expected {self.expected}{clause}"
        )


def _finding(path: Path, packet: int | None, error: StampError) -> Finding:
    return Finding(
        str(path), packet, error.where, error.reason, str(error.found), str(error.expected), error.clause
    )


def check_file(path: str | Path) -> Iterator[Finding]:
    """Yield every finding in a file of alerts or cutouts (8: a container or one message), in order."""
    path = Path(path)
    try:
        reader = read_messages(path)
    except StampError as error:
        yield _finding(path, None, error)
        return
    with reader:
        yield from _check_packets(path, reader)


def _check_packets(path: Path, reader: ContainerReader | MessageReader) -> Iterator[Finding]:
    for repair in reader.repairs:
        yield Finding(str(path), None, "schema", "schema", repair, "a schema that needs no repair", "8.1")
    has_cutouts = True
    for fault in schema_faults(reader.schema):
        has_cutouts = has_cutouts and fault.reason != "record"
        yield _finding(path, None, fault)
    if not has_cutouts:
        return
    number = 0
    try:
        for record in reader:
            for fault in record_faults(record):
                yield _finding(path, number, fault)
            number += 1
    except StampError as error:
        yield _finding(path, None, error)


def schema_faults(schema: Any) -> Iterator[StampError]:
    """Yield what is wrong with a writer schema: no cutout in it, not the last field, not of this version."""
    fields = schema.get("fields", []) if isinstance(schema, dict) else []
    name = schema.get("name", "") if isinstance(schema, dict) else str(schema)
    full = name if "." in name else f"{schema.get('namespace', '')}.{name}"
    names = [field["name"] for field in fields]
    if full in ("multiscale.Alert", _CUTOUT):
        yield from _evolution_faults(load_schema(full), schema, "schema")
    elif EMBEDDED_FIELD not in names:
        yield RecordError(
            "record",
            f"a schema of {full} without one",
            f"multiscale.Alert, multiscale.Cutout, or a field {EMBEDDED_FIELD} (multiscale convert adds one)",
            "schema",
        )
    else:
        if names[-1] != EMBEDDED_FIELD:
            yield RecordError("schema", f"{EMBEDDED_FIELD} before {names[-1]}", "the last field", "schema")
        field = fields[names.index(EMBEDDED_FIELD)]
        kind = field["type"]
        if not (isinstance(kind, list) and len(kind) == 2 and kind[0] == "null" and "default" in field):
            yield RecordError(
                "schema",
                str(kind)[:60],
                '["null", "multiscale.Cutout"], default null',
                f"schema.{EMBEDDED_FIELD}",
            )
        elif isinstance(kind[1], dict):
            yield from _evolution_faults(load_schema(_CUTOUT), kind[1], f"schema.{EMBEDDED_FIELD}")


def _evolution_faults(ours: Any, theirs: Any, where: str) -> Iterator[StampError]:
    try:
        troubles = check_evolution(ours, theirs)
    except StampError as error:
        yield error.within(where)
        return
    for trouble in troubles:
        yield RecordError(
            "schema", trouble.message, "a schema that this version can read", f"{where}.{trouble.path}"
        )


def record_faults(record: Mapping[str, Any]) -> Iterator[StampError]:
    """Yield every fault of one packet: fields, payloads, CRC, and what the pixels say of the fields."""
    prefix = EMBEDDED_FIELD if EMBEDDED_FIELD in record else "cutout" if "cutout" in record else ""
    if prefix == "cutout":
        try:
            Alert.from_record({**record, "cutout": None})
        except StampError as error:
            yield error
    try:
        inner = cutout_record(record)
        if inner is None:
            return
        n_faults = 0
        for fault in cutout_faults(inner):
            n_faults += 1
            yield _inside(fault, prefix)
        if n_faults:
            return
        cutout = Cutout.from_record(inner)
    except StampError as error:
        yield _inside(error, prefix)
        return
    for pixel_fault in pixel_faults(cutout):
        yield _inside(pixel_fault, prefix)


def _inside(error: StampError, prefix: str) -> StampError:
    return error.within(prefix) if prefix else error


def pixel_faults(cutout: Cutout) -> Iterator[StampError]:
    """Yield what only the decoded planes can tell: refusals, unnamed mask bits, validity that disagrees."""
    levels: dict[tuple[str, str], np.ndarray] = {}
    for plane in cutout.planes:
        try:
            levels[plane.kind, plane.of] = cutout.levels(plane.kind, plane.of)
        except StampError as error:
            yield error
    for i, plane in enumerate(cutout.planes):
        key = (plane.kind, plane.of)
        image = levels.get((plane.of, "NONE"))
        if key not in levels:
            continue
        if plane.kind == "VARIANCE" and image is not None:
            n = int((np.isnan(image[0]) & ~np.isnan(levels[key][0])).sum())
            if n:
                found = f"{n} valid pixels of level 0 where {plane.of} is invalid"
                yield RecordError("variance", found, "invalid there", f"planes[{i}]")
        if plane.kind == "MASK":
            for mask_fault in _mask_faults(cutout, levels[key], image, plane.mask_bits):
                yield mask_fault.within(f"planes[{i}]")


def _mask_faults(
    cutout: Cutout, levels: np.ndarray, image: np.ndarray | None, names: tuple[str, ...]
) -> Iterator[StampError]:
    named = sum(1 << bit for bit, name in enumerate(names) if name)
    unnamed = int(np.bitwise_or.reduce(levels, axis=None)) & ~named
    if unnamed:
        yield RecordError("mask-bits", f"bits {unnamed:#x} set", "only bits that are named", "maskBits")
    if OFF_IMAGE in names:
        off = levels & np.uint16(1 << names.index(OFF_IMAGE)) != 0
        n = int((off != off_image(cutout)).sum())
        if n:
            yield RecordError(
                "mask-bits", f"OFF_IMAGE disagrees with clipped in {n} pixels", "agreement", "maskBits"
            )
    if NO_DATA in names and image is not None:
        no_data = levels[0] & np.uint16(1 << names.index(NO_DATA)) != 0
        n = int((no_data != (np.isnan(image[0]) & ~off_image(cutout)[0])).sum())
        if n:
            yield RecordError(
                "mask-bits", f"NO_DATA disagrees with the image in {n} pixels", "agreement", "maskBits"
            )


def off_image(cutout: Cutout) -> np.ndarray:
    """Return which pixels of each level cover something the encoder was not given: bool (L, S, S)."""
    geometry, c = cutout.geometry, cutout.clipped
    span = geometry.span_px
    footprint = np.ones((span, span), np.uint16)
    footprint[c.y_low : span - c.y_high, c.x_low : span - c.x_high] = 0
    middle = Placement(span // 2, span // 2)
    return np.asarray(build_levels(footprint, geometry, kind="mask", placement=middle)) != 0
