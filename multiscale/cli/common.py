"""What several commands share: which files are meant, and how to show progress."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import typer

from ..convert import open_packets
from ..errors import GeometryError, StampError
from ..geometry import Geometry, profile
from ..packet import Alert, EmbeddedAlert

T = TypeVar("T")
PATHS_HELP = "Avro files, or folders to look for *.avro in."
_QUIET_BELOW = 20  # files: fewer need no progress bar


def misuse(message: str) -> typer.BadParameter:
    """Return the error for a command used wrongly: exit status 2."""
    return typer.BadParameter(message)


def expand(paths: list[Path]) -> list[Path]:
    """Return the files among ``paths`` and the ``*.avro`` files in its folders, each once."""
    files: dict[Path, None] = {}
    for path in paths:
        found = sorted(path.rglob("*.avro")) if path.is_dir() else [path]
        if not found:
            raise misuse(f"{path}: a folder without *.avro files")
        files.update(dict.fromkeys(found))
    return list(files)


def with_progress(items: list[T], label: str) -> Iterator[T]:
    """Yield ``items``, with a bar on standard error when that is a terminal and they are many."""
    if len(items) < _QUIET_BELOW or not sys.stderr.isatty():
        yield from items
        return
    with typer.progressbar(items, label=label, file=sys.stderr) as bar:
        yield from bar


def chosen_geometry(
    profile_name: str | None, size: int | None, levels: int | None, pixel_scale: float | None
) -> Geometry | None:
    """Return the geometry that the options ask for, or None when they say nothing."""
    if profile_name is not None:
        if size is not None or levels is not None:
            raise misuse("--profile already says size and levels; give one or the other")
        wished = profile(profile_name)
        return wished if pixel_scale is None else Geometry(wished.size, wished.n_levels, pixel_scale)
    if size is None and levels is None:
        return None
    if size is None or levels is None:
        raise misuse("--size and --levels go together")
    try:
        return Geometry(size, levels, pixel_scale or 1.0)
    except GeometryError as error:
        raise misuse(str(error)) from None


def pick(path: Path, number: int) -> Alert | EmbeddedAlert:
    """Return packet ``number`` of a file. Raises StampError when there is none."""
    n_packets = 0
    for found, alert in open_packets(path):
        if found == number:
            return alert
        n_packets = found + 1
    raise StampError("record", f"{n_packets} packets", f"a packet number below {n_packets}", str(path))


def joined(items: Iterable[object]) -> str:
    """Return the items, separated by commas."""
    return ", ".join(map(str, items))
