"""One run at a time in an output folder; and what a killed one left half written goes."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ConfigError

_NAME = ".run.lock"


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Hold the folder ``out``, which is made where it is not; the system lets it go however the run ends.

    Files that an earlier run was killed while writing are removed: they have names of their own, which
    nothing reads. Raises ConfigError where another run is at work there.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / _NAME).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{out}: another run is at work in this folder") from error
        for partial in out.rglob(".*.partial"):
            partial.unlink(missing_ok=True)
        yield
