"""What is kept for a time only: differences, cutouts and classes, which can be made again (Sun+ 2022, 3.3).

Nothing but the folder ``differences/`` is looked at: calibrated frames, templates, alerts and the database
stay. How old a file is, is said by the exposure's time in it, not by the file system: a copied archive keeps
its age, and an old night that is processed again is pruned as soon as somebody asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .alerts.cutouts import CLASSES_SUFFIX, SUFFIX, start_mjd_of
from .difference_products import FOLDER, header_of
from .errors import ConfigError, FileError

_WRITING = 86400.0  # seconds that a file may be under way


@dataclass(frozen=True)
class Removed:
    """A file that was taken away, or would be."""

    path: Path
    n_bytes: int
    start_mjd: float  # of its exposure


@dataclass(frozen=True)
class PruneReport:
    """What became of each file under ``differences/``."""

    removed: tuple[Removed, ...]
    n_kept: int
    left: tuple[tuple[Path, str], ...]  # not understood, or not to be removed, and why
    is_dry_run: bool

    @property
    def n_bytes(self) -> int:
        """Room made."""
        return sum(removed.n_bytes for removed in self.removed)


def prune(out: Path, *, keep_days: float, now_mjd: float, dry_run: bool = False) -> PruneReport:
    """Remove differences, cutouts and classes of exposures that began more than ``keep_days`` ago.

    ``out`` is the output folder, times are MJD (UTC). A file that is not understood is left, and named; links
    are not followed. With ``dry_run`` nothing is removed. Raises ConfigError for a negative ``keep_days``.
    """
    if not keep_days >= 0:
        raise ConfigError(f"keep_days is {keep_days}, expected 0 or more")
    removed: list[Removed] = []
    left: list[tuple[Path, str]] = []
    n_kept = 0
    for path in _files(out / FOLDER):
        try:
            start_mjd = _start_of(path)
            if not start_mjd < now_mjd - keep_days:
                n_kept += 1
                continue
            n_bytes = path.stat().st_size
            if not dry_run:
                path.unlink()
            removed.append(Removed(path, n_bytes, start_mjd))
        except FileError as error:
            left.append((path, error.message))
        except OSError as error:
            left.append((path, str(error)))
    return PruneReport(tuple(removed), n_kept, tuple(left), dry_run)


def _files(folder: Path) -> Iterator[Path]:
    """Everything in the folders of the branches that is not a folder, cutouts and classes before products.

    An empty file of cutouts does not know its time, nor do classes; their product, which does, lies beside
    them until then.
    """
    if folder.is_dir() and not folder.is_symlink():
        entries = sorted(folder.rglob("*"))
        yield from sorted((p for p in entries if p.is_symlink() or not p.is_dir()), key=_is_product)


def _is_product(path: Path) -> bool:
    return not path.name.endswith((SUFFIX, CLASSES_SUFFIX))


def _start_of(path: Path) -> float:
    """When the exposure of a file began. Raises FileError for one that is not understood."""
    if path.is_symlink() or not path.is_file():
        raise _not_ours(path, "no plain file")
    name = path.name
    if name.startswith(".") and name.endswith(".partial"):  # of a process that writes it, or was killed
        if time.time() - path.stat().st_mtime < _WRITING:
            raise _not_ours(path, "may be being written")
        name = name[1:].rpartition(".")[0].rpartition(".")[0]
    if name.endswith(SUFFIX):
        start_mjd = start_mjd_of(path)
        if start_mjd is not None:
            return start_mjd
        path = path.with_name(f"{name.removesuffix(SUFFIX)}.fits")
    elif name.endswith(CLASSES_SUFFIX):  # gone with its product, without being read
        path = path.with_name(f"{name.removesuffix(CLASSES_SUFFIX)}.fits")
    elif not name.endswith(".fits"):
        raise _not_ours(path, "neither a difference product, nor cutouts, nor classes")
    return float(header_of(path)["MJD-OBS"])


def _not_ours(path: Path, why: str) -> FileError:
    return FileError(path.name, "prune", "not-a-difference", why)
