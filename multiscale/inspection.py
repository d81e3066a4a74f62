"""What is inside a packet and where its bytes go."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fastavro

from .cutout import Cutout
from .packet import EMBEDDED_FIELD


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

    ``schema`` is the writer schema as ``read_container`` gives it.
    """
    named: dict[str, Any] = {}
    fastavro.parse_schema(dict(schema), named_schemas=named, _write_hint=False)
    parts = []
    for field in schema["fields"]:
        one = {"type": "record", "name": "one", "fields": [{"name": field["name"], "type": field["type"]}]}
        known = {name: definition for name, definition in named.items() if name != schema["name"]}
        size = _field_size(one, known, {field["name"]: record.get(field["name"])})
        parts.append(Part(field["name"], size))
    return parts


def _field_size(one: dict[str, Any], named: dict[str, Any], value: dict[str, Any]) -> int:
    """Size of one field: its type may use names that earlier fields define, and may define them again."""
    inner = dict(named)
    for name in _defined(one["fields"][0]["type"]):
        inner.pop(name, None)
    parsed = fastavro.parse_schema(one, named_schemas=inner, _write_hint=False, expand=False)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, parsed, value)
    return out.tell()


def _defined(node: Any, namespace: str = "") -> list[str]:
    if isinstance(node, list):
        return [name for item in node for name in _defined(item, namespace)]
    if not isinstance(node, dict):
        return []
    names: list[str] = []
    if node.get("type") in ("record", "enum", "fixed", "error"):
        name = node["name"]
        namespace = node.get("namespace", name.rpartition(".")[0] or namespace)
        names.append(name if "." in name or not namespace else f"{namespace}.{name}")
    for field in node.get("fields", ()):
        names += _defined(field["type"], namespace)
    for part in ("items", "values", "type"):
        if isinstance(node.get(part), (dict, list)):
            names += _defined(node[part], namespace)
    return names


def cutout_parts(cutout: Cutout) -> list[Part]:
    """Return where the bytes of a cutout go: payload, bitmap, PSF and fields of each plane, and the rest."""
    from .schema import parsed_schema

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


def embedded_name(record: Mapping[str, Any]) -> str:
    """Return the name of the field that holds the cutout."""
    return EMBEDDED_FIELD if EMBEDDED_FIELD in record else "cutout"
