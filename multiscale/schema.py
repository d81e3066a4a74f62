"""The Avro schemas of the specification, and the field that other surveys embed (sections 6 and 8)."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import fastavro
import fastavro.schema

from .errors import SchemaError
from .packet import EMBEDDED_FIELD


@lru_cache(maxsize=1)
def spec_folder() -> Path:
    """Return the folder of the specification: in the installed package, or beside it in a checkout."""
    here = Path(__file__).parent
    for folder in (here.parent / "spec", here / "spec"):
        if (folder / "v1" / "schema").is_dir():
            return folder
    raise SchemaError("schema", "no spec folder", "spec/v1/schema in the package or beside it")


def schema_names() -> list[str]:
    """Return the names of the schemas."""
    return sorted(p.name.removesuffix(".avsc") for p in (spec_folder() / "v1" / "schema").glob("*.avsc"))


@lru_cache(maxsize=64)
def _load(name: str) -> str:
    return json.dumps(_inline(name, set()))


def load_schema(name: str) -> dict[str, Any]:
    """Return a schema with every type it uses inlined once."""
    return json.loads(_load(name))


def _inline(name: str, done: set[str]) -> Any:
    if name in done:
        return name
    path = spec_folder() / "v1" / "schema" / f"{name}.avsc"
    schema = json.loads(path.read_text())
    done.add(name)
    return _walk(schema, done)


def _walk(node: Any, done: set[str]) -> Any:
    if isinstance(node, str):
        return _inline(node, done) if node.startswith("multiscale.") else node
    if isinstance(node, list):
        return [_walk(n, done) for n in node]
    out = dict(node)
    if "fields" in node:
        out["fields"] = [{**f, "type": _walk(f["type"], done)} for f in node["fields"]]
    for part in ("items", "values"):
        if part in node:
            out[part] = _walk(node[part], done)
    return out


@lru_cache(maxsize=64)
def parsed_schema(name: str) -> Any:
    """Return the parsed form for fastavro."""
    return fastavro.parse_schema(load_schema(name))


def embed_cutout(schema: dict[str, Any]) -> dict[str, Any]:
    """Append the embedded field."""
    field = {"name": EMBEDDED_FIELD, "type": ["null", load_schema("multiscale.Cutout")], "default": None}
    return {**schema, "fields": [*schema["fields"], field]}


def load_schema_file(path: Path) -> dict[str, Any]:
    """Return a schema from a file."""
    return json.loads(Path(path).read_text())


def full_name(schema: Any) -> str:
    """Return the full name of a schema."""
    name = schema.get("name", "") if isinstance(schema, dict) else str(schema)
    return name if "." in name or not schema.get("namespace") else f"{schema['namespace']}.{name}"
