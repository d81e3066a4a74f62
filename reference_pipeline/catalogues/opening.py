"""From what a user writes to a catalogue."""

from __future__ import annotations

from pathlib import Path

from ..errors import CatalogueError
from .local import FileCatalogue, LocalCatalogue
from .online import TABLES, OnlineCatalogue
from .stars import ReferenceCatalogue
from .tycho2 import Tycho2


def open_catalogue(spec: str) -> ReferenceCatalogue:
    """Return the catalogue named by ``spec``.

    "tycho2", or "tycho2:FOLDER" with the index files elsewhere; "gaia-online" or "ps1-online"; a folder of
    HEALPix cells; a .parquet, .fits or .csv table. Raises CatalogueError if it is none of these.
    """
    name, _, folder = spec.partition(":")
    if name == "tycho2":
        return Tycho2(folder or None)
    if spec in TABLES:
        return OnlineCatalogue(spec)
    path = Path(spec)
    if path.is_dir():
        return LocalCatalogue(path)
    if path.is_file():
        return FileCatalogue(path)
    raise CatalogueError(f"{spec!r} is neither a folder nor a file, nor one of tycho2, {', '.join(TABLES)}")
