"""What is inside a packet and where its bytes go."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fastavro

from .cutout import Cutout
from .schema import parsed_schema


@dataclass(frozen=True)
class Part:
    """Bytes of one part of a packet, as serialised by Avro."""

    name: str
    n_bytes: int
    note: str = ""


def avro_size(schema: Any, value: Any) -> int:
    """Return the bytes that ``value`` takes when written with ``schema`` (a record's body, or any type)."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, value)
    return out.tell()


def record_parts(schema: Mapping[str, Any], record: Mapping[str, Any]) -> list[Part]:
    """Return the size of every top-level field of a record, in its own order.

    ``schema`` is the writer schema as ``read_container`` gives it. The body is written field by field more,
    so that a type which an earlier field defines is known to a later one.
    """
    parts, before, fields = [], 0, list(schema["fields"])
    own = {key: value for key, value in schema.items() if not key.startswith("__")}
    for n, field in enumerate(fields, start=1):
        size = avro_size({**own, "fields": fields[:n]}, record)
        parts.append(Part(field["name"], size - before))
        before = size
    return parts


def cutout_parts(cutout: Cutout) -> list[Part]:
    """Return where the bytes of a cutout go: payload, bitmap, PSF and fields of each plane, and the rest."""
    record = cutout.to_record()
    parts = []
    planes = 0
    plane_schema = parsed_schema("multiscale.Plane")
    for plane, fields in zip(cutout.planes, record["planes"], strict=True):
        name = plane.kind.lower() if plane.of == "NONE" else f"{plane.kind.lower()} of {plane.of.lower()}"
        total = avro_size(plane_schema, fields)
        planes += total
        n_values = cutout.geometry.n_sent(plane.shared_center)
        how = f"{plane.encoding}, {n_values} values, {8 * len(plane.payload) / n_values:.2f} bits each"
        if plane.encoding == "RICE":
            how += f", step 2^{plane.step_exponent} {plane.unit}"
        parts.append(Part(f"{name}: payload", len(plane.payload), how))
        rest = total - len(plane.payload)
        for what, data in (("bitmap", plane.invalid), ("psf", plane.psf)):
            if data is not None:
                parts.append(Part(f"{name}: {what}", len(data)))
                rest -= len(data)
        parts.append(Part(f"{name}: fields", rest))
    whole = avro_size(parsed_schema("multiscale.Cutout"), record)
    parts.append(Part("cutout: fields", whole - planes))
    return parts
