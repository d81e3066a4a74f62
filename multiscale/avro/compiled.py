"""A reader made for one schema: what fastavro does field by field, written out once as a Python function.

It reads what ``body.decode_part`` plans, in two thirds of fastavro's time on our records (most of which is
one call and a few look-ups a field). It is only ever the fast way: whatever it cannot read is read again
by fastavro, whose verdict and words count (docs/decisions/0007-compiled-reader.md).

Nothing of a schema becomes code: field names enter as string literals, all else through the functions'
globals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any

from ..schema import PRIMITIVES, Node

Reader = Callable[[bytes, int, int], tuple[Any, int]]
MAX_LINES = 20_000  # of code: beyond that, making it would take a second and more

_FLOAT, _DOUBLE = Struct("<f").unpack_from, Struct("<d").unpack_from
_NUMBER = ("{v} = b[i]; i += 1", "if {v} > 127: {v}, i = more(b, i, {v})", "{v} = ({v} >> 1) ^ -({v} & 1)")


def compile_reader(plan: Node) -> Reader | None:
    """Return a function (body, start, len(body)) -> (record, end); None for a schema that is very long.

    ``plan`` is a record in the form of ``body._Planner``. The function raises what Python does when a body
    ends early or holds a number that the plan does not know, and ValueError for one of over 64 bits.
    """
    writer = _Writer()
    name = writer.function(plan)
    if writer.n_lines > MAX_LINES:
        return None
    exec("\n".join(writer.source), writer.names)
    reader: Reader = writer.names[name]
    return reader


def _more(b: bytes, i: int, low: int) -> tuple[int, int]:
    """Return a number of several bytes, of which ``low`` was the first, and where it ends."""
    n, shift = low & 127, 7
    while True:
        byte = b[i]
        i += 1
        n |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
    if n >> 64:
        raise ValueError("a number of more than 64 bits")
    return n, i


def _ends_early() -> None:
    raise EOFError


class _Writer:
    """Writes the functions of a plan, inner types first; a type that stands in it twice is written once."""

    def __init__(self) -> None:
        self.source: list[str] = []
        self.n_lines = 0
        self.names: dict[str, Any] = {
            "more": _more,
            "ends_early": _ends_early,
            "unpack_float": _FLOAT,
            "unpack_double": _DOUBLE,
        }
        self.done: dict[int, str] = {}  # id of a part of the plan, which outlives this -> its function
        self.n_names = 0

    def new_name(self, prefix: str) -> str:
        self.n_names += 1
        return f"{prefix}{self.n_names}"

    def function(self, node: Node) -> str:
        """Return the name of the function that reads ``node``: a record, an array or a map."""
        if id(node) not in self.done:
            name = self.new_name("read")
            self.done[id(node)] = name  # no type contains itself
            lines = [f"def {name}(b, i, n):", *_indented(getattr(self, node["type"])(node))]
            self.n_lines += len(lines)
            self.source.append("\n".join(lines))
        return self.done[id(node)]

    def value(self, node: Node, v: str) -> list[str]:
        """Return the lines that read one value of ``node`` at byte i into variable ``v``, and move i."""
        kind = node if isinstance(node, str) else node["type"]
        if kind in ("record", "array", "map"):
            if self.n_lines > MAX_LINES:
                return []
            return [f"{v}, i = {self.function(node)}(b, i, n)"]
        if kind in PRIMITIVES:
            return self.primitive(kind, v)
        if kind == "enum":
            symbols = self.new_name("symbols")
            self.names[symbols] = node["symbols"]
            return [*_number(v), f"{v} = {symbols}[{v}]"]
        if kind == "fixed":
            return self.slice(v, str(int(node["size"])), "")
        if kind == "union":
            return self.union(node, v)
        raise AssertionError(kind)  # the planner knows no other

    def primitive(self, kind: str, v: str) -> list[str]:
        if kind in ("bytes", "string"):
            length = self.new_name("end")
            return [*_number(length), *self.slice(v, length, ".decode()" if kind == "string" else "")]
        return {
            "null": [f"{v} = None"],
            "boolean": [f"{v} = b[i] != 0; i += 1"],
            "int": _number(v),
            "long": _number(v),
            "float": [f"{v}, = unpack_float(b, i); i += 4"],
            "double": [f"{v}, = unpack_double(b, i); i += 8"],
        }[kind]

    def slice(self, v: str, length: str, then: str) -> list[str]:
        end = self.new_name("end")
        return [
            f"{end} = i + {length}",
            f"if not i <= {end} <= n: ends_early()",
            f"{v} = b[i:{end}]{then}",
            f"i = {end}",
        ]

    def union(self, node: Node, v: str) -> list[str]:
        branch = self.new_name("branch")
        lines = _number(branch)
        for number, part in node.items():
            if number != "type":
                lines += [f"{'elif' if number else 'if'} {branch} == {number}:"]
                lines += _indented(self.value(part, v))
        return [*lines, f"else: raise KeyError({branch})"]

    def record(self, node: Node) -> Iterator[str]:
        fields = [(field["name"], self.new_name("v"), field["type"]) for field in node["fields"]]
        for _, v, part in fields:
            yield from self.value(part, v)
        yield "return {" + ", ".join(f"{str(name)!r}: {v}" for name, v, _ in fields) + "}, i"

    def array(self, node: Node) -> Iterator[str]:
        yield "out = []"
        yield from self.blocks([*self.value(node["items"], "item"), "out.append(item)"])

    def map(self, node: Node) -> Iterator[str]:
        yield "out = {}"
        yield from self.blocks([*self.value("string", "key"), *self.value(node["values"], "out[key]")])

    def blocks(self, item: list[str]) -> Iterator[str]:
        """Yield the loop over the blocks of an array or map (a negative count has a length after it)."""
        yield from _number("count")
        yield "while count:"
        yield from _indented(["if count < 0:", *_indented([*_number("size"), "count = -count"])])
        yield from _indented(["for _ in range(count):", *_indented(item), *_number("count")])
        yield "return out, i"


def _number(v: str) -> list[str]:
    return [line.format(v=v) for line in _NUMBER]


def _indented(lines: Iterator[str] | list[str]) -> list[str]:
    return [" " + line for line in lines]
