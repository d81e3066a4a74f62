"""What every model of a record of the schema shares: names, reading, writing, symbols of later versions."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from contextlib import suppress
from functools import reduce
from operator import getitem
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from .errors import RecordError


class Record(BaseModel):
    """A record of the schema: Python names here, camelCase on the wire. Frozen; later fields are ignored."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore", defer_build=True
    )

    def to_record(self) -> dict[str, Any]:
        """Return the record as a dictionary with the wire's names, ready for an Avro writer."""
        return self.model_dump(by_alias=True)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the model of an Avro record. Raises RecordError naming the field that is wrong.

        A symbol of a later version becomes UNKNOWN, as with a reader that resolves with our schema (6.3).
        """
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            first = error
        try:
            return cls.model_validate(_without_later_symbols(record, first))
        except ValidationError as error:
            raise as_record_error(error) from None


def _without_later_symbols(record: Any, error: ValidationError) -> Any:
    """Return a copy of ``record`` with UNKNOWN wherever ``error`` says that a symbol is not known."""
    copied = _copied(record)
    for fault in error.errors(include_url=False):
        if fault["type"] == "literal_error" and isinstance(fault["input"], str):
            *parents, last = fault["loc"]
            with suppress(LookupError, TypeError):  # a place by our own names, not the wire's
                if "'UNKNOWN'" in fault["ctx"]["expected"]:
                    reduce(getitem, parents, copied)[last] = "UNKNOWN"
    return copied


def _copied(tree: Any) -> Any:
    """Return a copy of the dictionaries and lists of ``tree``, with the same leaves."""
    if isinstance(tree, Mapping):
        return {name: _copied(branch) for name, branch in tree.items()}
    return [_copied(branch) for branch in tree] if isinstance(tree, list | tuple) else tree


def as_record_error(error: ValidationError) -> RecordError:
    """Return the first trouble pydantic found as a RecordError with a field path."""
    first = error.errors(include_url=False)[0]
    where = ""
    for part in first["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    found = "nothing" if first["type"] == "missing" else reprlib.repr(first["input"])
    return RecordError("record", found, first["msg"], where)
