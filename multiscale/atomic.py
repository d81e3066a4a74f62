"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: str | Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it becomes ``path`` at the end, or goes when that fails.

    With ``sync`` it is on the disk when this returns, its name too where folders can be synced: what is said
    of it elsewhere then holds after a power cut.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name[:200]}.{uuid4().hex[:8]}.partial")
    try:
        yield partial
        if sync:
            with partial.open("rb+") as file:  # for writing, or Windows does not do it
                os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    if sync:
        with suppress(OSError):
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
