"""May a schema become another? Clause 10.2, and Avro's own rule of who can read what.

Inside a major version any two versions of a schema read each other's data, in both directions. Readers of
Avro match fields by name, enum symbols by name and types by kind, so the rules are few; what breaks one is
said with the change to make instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import SchemaError
from .schema import PRIMITIVES, RECORDS, Node, full_name, named_types, parts


@dataclass(frozen=True)
class Incompatibility:
    """One change that is not allowed."""

    path: str  # of the field, names joined by dots, [] for the items of an array
    rule: str  # a word for the kind of change
    clause: str
    message: str  # what was found, and what to do instead

    def __str__(self) -> str:
        place = f"{self.path}: " if self.path else ""
        return f"{place}{self.message} [spec {self.clause}]"


@dataclass(frozen=True)
class _Type:
    """A type where it is used: its definition, and the namespace that names in it are seen from."""

    node: Node
    namespace: str
    types: Mapping[str, Node]

    @property
    def kind(self) -> str:
        """Record, array, union, long, and so on."""
        if isinstance(self.node, list):
            return "union"
        return str(self.node["type"] if isinstance(self.node, Mapping) else self.node)

    @property
    def name(self) -> str:
        """The full name of a named type, empty for others."""
        return full_name(self.node, self.namespace) if self.kind in (*RECORDS, "enum", "fixed") else ""

    def __str__(self) -> str:
        if self.kind == "union":
            return "[" + ", ".join(map(str, self.inner())) + "]"
        inner = f" of {self.inner()[0]}" if self.kind in ("array", "map") else ""
        return f"{self.kind}{inner} {self.name}".strip()

    def inner(self) -> list[_Type]:
        """Return the types of the fields, the branches or the items, in their order."""
        return [self.at(part, there) for _, part, there in parts(self.node, self.namespace)]

    def at(self, node: Node, namespace: str) -> _Type:
        """Return ``node``, seen from inside ``namespace``, with a name replaced by its definition."""
        if isinstance(node, str) and node not in PRIMITIVES:
            name = full_name(node, namespace)
            if name not in self.types:
                raise SchemaError("schema", f"type {name} is not defined", "a definition")
            return _Type(self.types[name], name.rpartition(".")[0], self.types)
        if isinstance(node, Mapping) and node["type"] in PRIMITIVES:  # {"type": "long", "logicalType": …}
            return _Type(node["type"], namespace, self.types)
        return _Type(node, namespace, self.types)

    def fields(self) -> list[tuple[Mapping[str, Any], _Type]]:
        """Return (field, its type) of a record."""
        return list(zip(self.node["fields"], self.inner()))


def _top(schema: Any) -> _Type:
    return _Type(None, "", named_types(schema)).at(schema, "")


def check_evolution(old: Any, new: Any) -> list[Incompatibility]:
    """Return what keeps ``new`` from being the next version of ``old``: nothing where it may be (10.2).

    Both are schemas as plain dicts, each with its types defined in it, in any order. The direction of time
    is the order of the arguments; that each reads the other's data is checked by the same rules. Raises
    SchemaError for what is not a schema.
    """
    seen: set[tuple[str, str]] = set()
    return list(_changes(_top(old), _top(new), "", seen))


def check_all_pairs(schemas: Sequence[Any]) -> list[tuple[int, int, Incompatibility]]:
    """Return (i, j, what is wrong) for every pair i < j of versions, oldest first."""
    pairs = itertools.combinations(range(len(schemas)), 2)
    return [(i, j, trouble) for i, j in pairs for trouble in check_evolution(schemas[i], schemas[j])]


def _changes(old: _Type, new: _Type, path: str, seen: set[tuple[str, str]]) -> Iterator[Incompatibility]:
    def trouble(rule: str, message: str, at: str = path) -> Incompatibility:
        return Incompatibility(at, rule, "10.2", message)

    if old.name and new.name:
        if (old.name, new.name) in seen:  # looked at where it was met first
            return
        seen.add((old.name, new.name))
    if old.kind != new.kind:
        yield trouble(
            "retype", f"type changed from {old} to {new}; add a field of another name at the end instead"
        )
    elif old.name != new.name:
        yield trouble("rename", f"type renamed from {old.name} to {new.name}; keep the name")
    elif old.kind in RECORDS:
        yield from _field_changes(old, new, path, seen)
    elif old.kind == "enum":
        yield from (trouble(rule, message) for rule, message in _symbol_changes(old, new))
    elif old.kind == "fixed" and old.node["size"] != new.node["size"]:
        yield trouble(
            "retype", f"size changed from {old.node['size']} to {new.node['size']}; add another field"
        )
    elif old.kind == "union":
        yield from _branch_changes(old, new, path, seen)
    elif old.kind in ("array", "map"):
        yield from _changes(old.inner()[0], new.inner()[0], f"{path}[]", seen)


def _field_changes(
    old: _Type, new: _Type, path: str, seen: set[tuple[str, str]]
) -> Iterator[Incompatibility]:
    before, after = dict(_by_name(old)), dict(_by_name(new))
    old_names, new_names = list(before), list(after)
    for name in old_names:
        if name not in after:
            renamed = [n for n in new_names if n not in before and name in after[n][0].get("aliases", ())]
            rule = "rename" if renamed else "remove"
            what = f"renamed to {renamed[0]}" if renamed else "removed"
            how = (
                f"keep {name}, add the new name at the end"
                if renamed
                else "keep it, and write null or its default"
            )
            yield Incompatibility(_join(path, name), rule, "10.2", f"field {what}; {how}")
    kept = [name for name in new_names if name in before]
    if kept != [name for name in old_names if name in after]:
        yield Incompatibility(
            path,
            "reorder",
            "10.2",
            f"fields reordered to {', '.join(kept)}; keep the order of the older version",
        )
    for i, name in enumerate(new_names):
        place = _join(path, name)
        field, kind = after[name]
        if name in before:
            was, old_kind = before[name]
            yield from _changes(old_kind, kind, place, seen)
            yield from _default_changes(was, field, place)
            continue
        if any(later in before for later in new_names[i + 1 :]):
            yield Incompatibility(
                place, "insert", "10.2", f"field inserted before {new_names[i + 1]}; append it at the end"
            )
        if "default" not in field:
            yield Incompatibility(
                place, "no-default", "10.2", "field added without a default; give it one, such as null"
            )
        yield from _null_first(kind, place, set())


def _by_name(record: _Type) -> Iterator[tuple[str, tuple[Mapping[str, Any], _Type]]]:
    for field, kind in record.fields():
        yield field["name"], (field, kind)


def _default_changes(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Incompatibility]:
    missing = object()
    was, now = old.get("default", missing), new.get("default", missing)
    if was is missing and now is missing:
        return
    if was is missing:
        message = "default added to a field that had none; leave the field as it was"
    elif now is missing:
        message = f"default {was!r} removed; restore it"
    elif was == now and isinstance(was, bool) == isinstance(now, bool):  # 0 and 0.0 are one default
        return
    else:
        message = f"default changed from {was!r} to {now!r}; keep the older one"
    yield Incompatibility(path, "default", "10.2", message)


def _null_first(kind: _Type, path: str, seen: set[str]) -> Iterator[Incompatibility]:
    """Yield each union in a new type that has null, but not first."""
    if kind.name in seen:
        return
    seen |= {kind.name} - {""}
    branches = [branch.kind for branch in kind.inner()] if kind.kind == "union" else []
    if "null" in branches[1:]:
        message = f"null is branch {branches.index('null')} of {kind}; put null first"
        yield Incompatibility(path, "null-first", "10.2", message)
    places = [place for place, _, _ in parts(kind.node, kind.namespace)]
    for place, inner in zip(places, kind.inner()):
        yield from _null_first(inner, _join(path, place) if kind.kind in RECORDS else path, seen)


def _branch_changes(
    old: _Type, new: _Type, path: str, seen: set[tuple[str, str]]
) -> Iterator[Incompatibility]:
    before, after = old.inner(), new.inner()
    alike = len(before) == len(after) and all(
        (a.kind, a.name) == (b.kind, b.name) for a, b in zip(before, after)
    )
    if alike:
        for a, b in zip(before, after):
            yield from _changes(a, b, path, seen)
        return
    yield from _null_first(new, path, set())
    message = f"union changed from {old} to {new}; add a field of another name at the end instead"
    yield Incompatibility(path, "retype", "10.2", message)


def _symbol_changes(old: _Type, new: _Type) -> Iterator[tuple[str, str]]:
    before, after = old.node["symbols"], new.node["symbols"]
    removed = [symbol for symbol in before if symbol not in after]
    if removed:
        yield "symbol-removed", f"symbol {', '.join(removed)} removed; keep it and stop writing it"
    kept = [symbol for symbol in before if symbol in after]
    if kept != [symbol for symbol in after if symbol in before]:
        yield "symbol-order", f"symbols reordered to {', '.join(after)}; keep the older order"
    added = [symbol for symbol in after if symbol not in before]
    if added and after[: len(kept)] != kept and not removed:
        yield "symbol-order", f"symbol {added[0]} inserted; append it after {before[-1]}"
    if added and not ("default" in old.node and "default" in new.node):
        yield (
            "enum-no-default",
            f"symbol {added[0]} added to an enumeration without a default, so older readers fail on it; "
            "add a field with another enumeration instead",
        )
    if old.node.get("default") != new.node.get("default"):
        was, now = old.node.get("default"), new.node.get("default")
        yield "default", f"default symbol changed from {was} to {now}; keep the older one"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


_PROMOTIONS = {  # what Avro lets a reader widen
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}


def compatible_reader(writer: Any, reader: Any) -> list[Incompatibility]:
    """Return what keeps ``reader`` from resolving data of ``writer``, by Avro's rules: nothing where it can.

    One direction, any two schemas; a field may move. A union of the writer's is held to more than Avro asks:
    each of its branches must have a reader. Raises SchemaError for what is not a schema.
    """
    return list(_unread(_top(writer), _top(reader), "", set()))


def _unread(w: _Type, r: _Type, path: str, seen: set[tuple[str, str]]) -> Iterator[Incompatibility]:
    def trouble(rule: str, message: str, at: str = path) -> Incompatibility:
        return Incompatibility(at, rule, "8.5", message)

    if w.kind == "union":
        for branch in w.inner():
            yield from _unread(branch, r, path, seen)
        return
    if r.kind == "union":
        if not any(_same_kind(w, branch) for branch in r.inner()):
            yield trouble("retype", f"the writer's {w} is none of the reader's {r}")
            return
        r = next(branch for branch in r.inner() if _same_kind(w, branch))
    if not _same_kind(w, r):
        yield trouble("retype", f"the writer's {w} cannot be read as the reader's {r}")
        return
    if w.name and r.name:
        if (w.name, r.name) in seen:
            return
        seen.add((w.name, r.name))
    if w.kind in RECORDS:
        known = dict(_by_name(w))
        for field, kind in r.fields():
            names = [name for name in (field["name"], *field.get("aliases", ())) if name in known]
            place = _join(path, field["name"])
            if names:
                yield from _unread(known[names[0]][1], kind, place, seen)
            elif "default" not in field:
                yield trouble("no-default", "the writer has no such field and the reader no default", place)
    elif w.kind == "enum":
        missing = [symbol for symbol in w.node["symbols"] if symbol not in r.node["symbols"]]
        if missing and "default" not in r.node:
            yield trouble("enum-no-default", f"the reader knows no symbol {missing[0]} and has no default")
    elif w.kind == r.kind == "fixed" and w.node["size"] != r.node["size"]:
        yield trouble("retype", f"fixed of {w.node['size']} bytes, the reader's of {r.node['size']}")
    elif w.kind in ("array", "map"):
        yield from _unread(w.inner()[0], r.inner()[0], f"{path}[]", seen)


def _same_kind(w: _Type, r: _Type) -> bool:
    if w.name and r.name:
        aliases = r.node.get("aliases", ())
        same = w.name.rpartition(".")[2] == r.name.rpartition(".")[2]  # Avro compares unqualified names
        return w.kind == r.kind and (same or w.name in aliases)
    return w.kind == r.kind or r.kind in _PROMOTIONS.get(w.kind, ())
