"""Avro, written by hand: record bodies, containers, single-object messages and Confluent frames (section 8).

Schemas are the files of ../schema. A record is a dictionary with every field; a value of a union is what it
would be outside, None for null.
"""

import json
import struct
from pathlib import Path

SCHEMAS = Path(__file__).resolve().parent.parent / "schema"
SYNC = bytes(range(0xA0, 0xB0))  # any 16 bytes
PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
KEPT_IN_CANONICAL_FORM = ("name", "type", "fields", "symbols", "items", "values", "size")  # in this order


# Schemas


def load_schema(name):
    """Return a schema with every type that it uses written out where it is first used, without docs."""
    return inline(name, set())


def inline(schema, known):
    """Return a schema with names of files replaced by their content, once each."""
    if isinstance(schema, str):
        if schema in PRIMITIVES or schema in known:
            return schema
        known.add(schema)
        return inline(json.loads((SCHEMAS / f"{schema}.avsc").read_text(encoding="utf-8")), known)
    if isinstance(schema, list):
        return [inline(branch, known) for branch in schema]
    copy = {key: value for key, value in schema.items() if key != "doc"}
    for key in ("items", "values"):
        if key in copy:
            copy[key] = inline(copy[key], known)
    if "fields" in copy:
        copy["fields"] = [inline_field(field, known) for field in copy["fields"]]
    return copy


def inline_field(field, known):
    """Return a field without its doc, its type written out."""
    copy = {key: value for key, value in field.items() if key != "doc"}
    return {**copy, "type": inline(field["type"], known)}


def named_types(schema):
    """Return the records and enumerations of a schema by full name."""
    if isinstance(schema, str):
        return {}
    parts = schema
    if isinstance(schema, dict):
        parts = [field["type"] for field in schema.get("fields", [])]
        parts += [schema[key] for key in ("items", "values") if key in schema]
    found = {full_name(schema): schema} if "name" in schema else {}
    for part in parts:
        found |= named_types(part)
    return found


def full_name(schema):
    """Return the name of a record or enumeration with its namespace."""
    return f"{schema['namespace']}.{schema['name']}"


def canonical_form(schema):
    """Return the Parsing Canonical Form of a schema."""
    if isinstance(schema, str):
        return json.dumps(schema)
    if isinstance(schema, list):
        return "[" + ",".join(map(canonical_form, schema)) + "]"
    parts = []
    for key in KEPT_IN_CANONICAL_FORM:
        if key not in schema:
            continue
        value = schema[key]
        if key == "name" and "namespace" in schema:
            text = json.dumps(full_name(schema))
        elif key == "fields":
            text = "[" + ",".join(map(canonical_form, value)) + "]"
        elif key in ("name", "symbols", "size"):
            text = json.dumps(value, separators=(",", ":"))
        else:
            text = canonical_form(value)
        parts.append(f'"{key}":{text}')
    return "{" + ",".join(parts) + "}"


def crc_64_avro(data):
    """Return the CRC-64-AVRO fingerprint of bytes."""
    empty = 0xC15D213AA4D7A795
    fingerprint = empty
    for byte in data:
        fingerprint ^= byte
        for _ in range(8):
            fingerprint = fingerprint >> 1 ^ (empty if fingerprint & 1 else 0)
    return fingerprint


# Record bodies


def long(value):
    """Return an int or a long: zigzag, then 7 bits a byte, the lowest first."""
    rest = value << 1 if value >= 0 else ~value << 1 | 1
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def prefixed(data):
    """Return bytes, or a string in UTF-8, after their length."""
    return long(len(data)) + data


def body(schema, value):
    """Return the Avro body of a value."""
    return write(schema, value, named_types(schema))


def field_bodies(schema, name, record):
    """Return the bodies of the fields of a record of a named type, by field."""
    types = named_types(schema)
    return {f["name"]: write(f["type"], record[f["name"]], types) for f in types[name]["fields"]}


def write(schema, value, types):
    """Return the Avro body of a value of one type."""
    if isinstance(schema, list):
        index = union_branch(schema, value)
        return long(index) + write(schema[index], value, types)
    if isinstance(schema, str):
        return write(types[schema], value, types) if schema in types else primitive(schema, value)
    if schema["type"] == "record":
        return b"".join(write(field["type"], value[field["name"]], types) for field in schema["fields"])
    if schema["type"] == "enum":
        return long(schema["symbols"].index(value))
    if schema["type"] == "array":
        return blocks([write(schema["items"], item, types) for item in value])
    items = value.items()  # a map
    return blocks([prefixed(k.encode()) + write(schema["values"], v, types) for k, v in items])


def blocks(items):
    """Return the items of an array or map in one block, and its end."""
    return (long(len(items)) + b"".join(items) if items else b"") + b"\0"


def union_branch(branches, value):
    """Return which branch of a union of this specification a value belongs to."""
    if value is None:
        return branches.index("null")
    names = {bool: "boolean", int: "long", float: "double", str: "string"}
    wanted = names.get(type(value))
    return branches.index(wanted) if wanted in branches else len(branches) - 1


def primitive(name, value):
    """Return the Avro body of a value of a primitive type."""
    if name == "null":
        return b""
    if name == "boolean":
        return bytes([value])
    if name in ("int", "long"):
        return long(value)
    if name in ("float", "double"):
        return struct.pack("<f" if name == "float" else "<d", value)
    return prefixed(value if name == "bytes" else value.encode())


# Containers and frames (8.1 to 8.3)


def stored(data):
    """Return raw deflate data in stored blocks: the same bytes from any compressor."""
    pieces = [data[i : i + 65535] for i in range(0, len(data), 65535)] or [b""]
    out = b""
    for i, piece in enumerate(pieces):
        is_last = i == len(pieces) - 1
        out += bytes([is_last]) + struct.pack("<HH", len(piece), len(piece) ^ 0xFFFF) + piece
    return out


def header(schema, *, codec="null", magic=b"Obj\x01", text=None, more=()):
    """Return the header of a container; `text` replaces the JSON of the schema, None codec leaves it out."""
    text = json.dumps(schema, separators=(",", ":")) if text is None else text
    meta = {"avro.schema": text.encode(), **({} if codec is None else {"avro.codec": codec.encode()})}
    meta |= dict(more)
    items = [prefixed(key.encode()) + prefixed(value) for key, value in meta.items()]
    return magic + blocks(items) + SYNC


def block(bodies, *, codec="null", count=None, size=None, sync=SYNC):
    """Return one block of a container; `count` and `size` replace the right ones."""
    data = b"".join(bodies)
    data = stored(data) if codec == "deflate" else data
    n_items, n_bytes = len(bodies) if count is None else count, len(data) if size is None else size
    return long(n_items) + long(n_bytes) + data + sync


def container(schema, records, *, codec="null", per_block=100):
    """Return a container file."""
    bodies = [body(schema, record) for record in records]
    pieces = [bodies[i : i + per_block] for i in range(0, len(bodies), per_block)]
    return header(schema, codec=codec) + b"".join(block(piece, codec=codec) for piece in pieces)


def fingerprint(schema):
    """Return the 8 bytes that name a schema (8.2)."""
    return struct.pack("<Q", crc_64_avro(canonical_form(schema).encode()))


def single_object(schema, record):
    """Return a single-object message (8.2)."""
    return b"\xc3\x01" + fingerprint(schema) + body(schema, record)


def confluent(schema, record, schema_id=1):
    """Return a Confluent frame (8.3)."""
    return b"\0" + struct.pack(">i", schema_id) + body(schema, record)
