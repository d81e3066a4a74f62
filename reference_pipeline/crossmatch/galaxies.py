"""The galaxies of GLADE+ (Dálya+ 2022): from the published text, once, to files that cones are quick in.

GLADE+.txt has 22.5 million lines of 40 columns, one blank between them, "null" where nothing is known, and
no header. Columns used, counted from 1: names 1–7 (GLADE+, PGC, GWGC, HyperLEDA, 2MASS, WISE × SuperCOSMOS,
SDSS-DR16Q), 8 kind (G, or Q: a quasar), 9–10 RA and Dec (degrees), 11 B, 14 absolute B, 19 K, 28 redshift
(heliocentric), 29 redshift (of the CMB's frame), 32 its error, 33–34 luminosity distance and error (Mpc),
35 where the distance is from (0: nowhere, 1: photometric redshift, 2: measured distance, 3: spectroscopic
redshift), 36 stellar mass (10^10 solar masses).

The folder beside it, GLADE+.healpix, holds the same as Parquet files: each a million galaxies in the order of
their HEALPix cells, so that a cone reads the few row groups whose cells it touches.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from astropy_healpix import HEALPix
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from ..catalogues.sphere import separation
from ..errors import CatalogueError

Floats = NDArray[np.float64]

N_COLUMNS = 40
METADATA = "catalogue.json"
ORDER = 6  # HEALPix cells of 0.9°
PART = 1_000_000  # galaxies in a file
ROW_GROUP = 16_384  # galaxies, the least that is read
BLOCK = 1 << 24  # bytes of text at a time

_TEXTS = {"glade": 1, "pgc": 2, "gwgc": 3, "hyperleda": 4, "twomass": 5, "wise": 6, "sdss": 7, "kind": 8}
_NUMBERS = {
    "ra": 9, "dec": 10, "b": 11, "b_absolute": 14, "k": 19, "redshift": 28, "redshift_cmb": 29,
    "redshift_error": 32, "distance": 33, "distance_error": 34, "distance_flag": 35, "mass": 36,
}  # fmt: skip


@dataclass(frozen=True)
class Galaxies:
    """Galaxies, one row each. Names are None, and numbers NaN, where GLADE+ has none."""

    glade: NDArray[np.object_]
    pgc: NDArray[np.object_]
    gwgc: NDArray[np.object_]
    hyperleda: NDArray[np.object_]
    twomass: NDArray[np.object_]
    wise: NDArray[np.object_]
    sdss: NDArray[np.object_]
    kind: NDArray[np.object_]  # "G", or "Q": a quasar
    ra: Floats  # degrees, ICRS
    dec: Floats
    b: Floats  # magnitudes, apparent
    b_absolute: Floats
    k: Floats
    redshift: Floats  # heliocentric
    redshift_cmb: Floats
    redshift_error: Floats
    distance: Floats  # Mpc, luminosity distance
    distance_error: Floats
    distance_flag: Floats  # 0: none, 1: photometric redshift, 2: distance, 3: spectroscopic redshift
    mass: Floats  # 10^10 solar masses

    def __len__(self) -> int:
        return len(self.ra)

    def select(self, rows: NDArray[Any]) -> Galaxies:
        """The galaxies of ``rows`` (a boolean mask or indices)."""
        return Galaxies(*(getattr(self, column.name)[rows] for column in fields(self)))


def galaxy_radius(galaxies: Galaxies, *, smallest: float = 1.0) -> Floats:
    """Return the radius of each galaxy's B = 25 mag per square arcsecond isophote, arcsec, as B tells it.

    GLADE+ has no sizes. An exponential disc seen face on, of Freeman's (1970) central brightness μ0 = 21.65
    B mag arcsec⁻² and scale length h, has B = μ0 − 2.5 log10(2π h²) and reaches 25 at (25 − μ0) / 1.0857 h =
    3.09 h. Real galaxies of one B scatter around it by some 40 % (M 101: 1.5 times as large; M 87: 0.8). B
    is taken as K + 4 where only K is known. None is smaller than ``smallest``, nor where neither is known,
    nor a quasar.
    """
    b = np.where(np.isfinite(galaxies.b), galaxies.b, galaxies.k + 4.0)
    scale = np.sqrt(10 ** (0.4 * (21.65 - b)) / (2 * np.pi))
    radius = (25.0 - 21.65) / 1.0857 * scale
    is_extended = np.isfinite(radius) & (galaxies.kind != "Q")
    return np.where(is_extended, np.maximum(radius, smallest), smallest)


class Metadata(BaseModel):
    """What ``catalogue.json`` says: the form of the folder, and which text it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = "glade-healpix-1"
    source: str
    size: int  # bytes of the text, and when it was last written
    mtime_ns: int
    n_galaxies: int


class GalaxyCatalogue:
    """A folder written by :func:`open_galaxies`; a cone reads only the row groups it touches."""

    def __init__(self, folder: str | Path) -> None:
        """Raises CatalogueError if ``folder`` holds no catalogue of galaxies."""
        self.folder = Path(folder)
        path = self.folder / METADATA
        try:
            self.metadata = Metadata.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError) as error:
            raise CatalogueError(f"{path}: not a catalogue of galaxies: {error}") from error

    @cached_property
    def _parts(self) -> list[tuple[Path, pa.parquet.FileMetaData, NDArray[np.int64]]]:
        """Each file with its index, and the first and last cell of its row groups."""
        parts = []
        for path in sorted(self.folder.glob("part-*.parquet")):
            try:
                index = pa.parquet.read_metadata(path)
            except (OSError, pa.ArrowException) as error:
                raise CatalogueError(f"{path}: {error}") from error
            cell = index.schema.names.index("cell")
            groups = [index.row_group(k).column(cell).statistics for k in range(index.num_row_groups)]
            parts.append((path, index, np.array([(g.min, g.max) for g in groups], np.int64).reshape(-1, 2)))
        return parts

    def cone(self, ra: float, dec: float, radius: float) -> Galaxies:
        """Return the galaxies within ``radius`` degrees of (ra, dec). Raises CatalogueError."""
        touched = np.sort(_healpix().cone_search_lonlat(ra * u.deg, dec * u.deg, radius * u.deg))
        tables = []
        for path, index, cells in self._parts:
            first = np.searchsorted(touched, cells[:, 0])
            holds = first < np.searchsorted(touched, cells[:, 1], side="right")
            if not holds.any():
                continue
            try:
                with pa.parquet.ParquetFile(path, metadata=index) as file:
                    table = file.read_row_groups(np.flatnonzero(holds).tolist(), use_threads=False)
            except (OSError, pa.ArrowException) as error:
                raise CatalogueError(f"{path}: {error}") from error
            near = separation(table["ra"].to_numpy(), table["dec"].to_numpy(), ra, dec) <= radius
            tables.append(table.filter(pa.array(near)))
        return _galaxies(tables)


def open_galaxies(path: str | Path) -> GalaxyCatalogue:
    """Return the galaxies of a GLADE+ text file, or of a folder made from one.

    The folder (``GLADE+.healpix`` for ``GLADE+.txt``) is made at the first call, in minutes for the whole
    catalogue, and again when the text has changed. Raises CatalogueError, with file and line, where the text
    cannot be read, or the folder not be written.
    """
    path = Path(path)
    if path.is_dir():
        return GalaxyCatalogue(path)
    folder = path.with_suffix(".healpix")
    try:
        stamp = path.stat()
        if (folder / METADATA).exists():
            catalogue = GalaxyCatalogue(folder)
            found = catalogue.metadata
            if (found.size, found.mtime_ns) == (stamp.st_size, stamp.st_mtime_ns):
                return catalogue
        _convert(path, folder, stamp)
    except OSError as error:
        raise CatalogueError(f"{error.filename or path}: {error.strerror or error}") from error
    return GalaxyCatalogue(folder)


def _convert(path: Path, folder: Path, stamp: os.stat_result) -> None:
    """Make ``folder`` from the text, whole or not at all; processes that do so at once do not disturb each
    other: the last one's stays, and all are the same.
    """
    partial = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        n_galaxies = 0
        for k, table in enumerate(_parts(path)):
            pa.parquet.write_table(table, partial / f"part-{k:03d}.parquet", row_group_size=ROW_GROUP)
            n_galaxies += table.num_rows
        about = Metadata(
            source=path.name, size=stamp.st_size, mtime_ns=stamp.st_mtime_ns, n_galaxies=n_galaxies
        )
        (partial / METADATA).write_text(about.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for _ in range(3):
            if folder.exists():
                folder.rename(partial.with_suffix(".old"))
                shutil.rmtree(partial.with_suffix(".old"))
            try:
                partial.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
            else:
                break
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _parts(path: Path) -> Iterator[pa.Table]:
    """The text in tables of about PART rows, each sorted by its HEALPix cells."""
    waiting: list[pa.Table] = []
    for table in _read_text(path):
        waiting.append(table)
        if sum(t.num_rows for t in waiting) >= PART:
            yield _by_cell(pa.concat_tables(waiting))
            waiting = []
    if waiting:
        yield _by_cell(pa.concat_tables(waiting))


def _by_cell(table: pa.Table) -> pa.Table:
    ra, dec = table["ra"].to_numpy(), table["dec"].to_numpy()
    cell = np.asarray(_healpix().lonlat_to_healpix(ra * u.deg, dec * u.deg), np.int64)
    return table.append_column("cell", pa.array(cell)).take(pa.array(np.argsort(cell, kind="stable")))


def _read_text(path: Path) -> Iterator[pa.Table]:
    """The columns used, block by block. Raises CatalogueError with the line of what cannot be read."""
    names = [f"column {k}" for k in range(1, N_COLUMNS + 1)]
    chosen = {f"column {k}": name for name, k in (_TEXTS | _NUMBERS).items()}
    types = {f"column {k}": pa.string() for k in _TEXTS.values()}
    types |= {f"column {k}": pa.float64() for k in _NUMBERS.values()}
    if path.stat().st_size == 0:
        return
    wrong: list[str] = []

    def note(row: pa.csv.InvalidRow) -> str:
        wrong.append(_n_columns(row.number, row.actual_columns))
        return "error"

    n_before = 0
    try:
        reader = pa.csv.open_csv(
            path,
            read_options=pa.csv.ReadOptions(column_names=names, block_size=BLOCK, use_threads=False),
            parse_options=pa.csv.ParseOptions(
                delimiter=" ", quote_char=False, ignore_empty_lines=False, invalid_row_handler=note
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=types, include_columns=list(chosen), null_values=["null"],
                strings_can_be_null=True,
            ),
        )  # fmt: skip
        for batch in reader:
            table = pa.Table.from_batches([batch]).rename_columns(list(chosen.values()))
            _check_positions(path, table, n_before)
            n_before += table.num_rows
            yield table
    except pa.ArrowException as error:
        if wrong:
            raise CatalogueError(f"{path}: {wrong[-1]}") from error
        raise _bad_number(path, n_before, error) from error


def _check_positions(path: Path, table: pa.Table, n_before: int) -> None:
    ra, dec = (table[name].to_numpy().astype(float) for name in ("ra", "dec"))
    wrong = ~((ra >= 0) & (ra <= 360) & (np.abs(dec) <= 90))
    if wrong.any():
        k = int(wrong.argmax())
        raise CatalogueError(
            f"{path}: line {n_before + k + 1}: no position on the sky in columns 9 and 10: {ra[k]}, {dec[k]}"
        )


def _bad_number(path: Path, n_before: int, error: pa.ArrowException) -> CatalogueError:
    """Look for the number that pyarrow could not read: it says which, but not always where."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line, text in enumerate(file, 1):
            if line <= n_before:
                continue
            words = text.split()
            if len(words) != N_COLUMNS:
                return CatalogueError(f"{path}: {_n_columns(line, len(words))}")
            for column in _NUMBERS.values():
                if not _is_number(words[column - 1]):
                    return CatalogueError(
                        f"{path}: line {line}, column {column}: {words[column - 1]!r} is not a number"
                    )
    return CatalogueError(f"{path}: after line {n_before}: {error}")


def _n_columns(line: int | None, n: int) -> str:
    return f"line {line} has {n} columns, expected {N_COLUMNS}: not GLADE+"


def _is_number(word: str) -> bool:
    if word == "null":
        return True
    try:
        float(word)
    except ValueError:
        return False
    return True


def _healpix() -> HEALPix:
    return HEALPix(nside=2**ORDER, order="nested")


def _galaxies(tables: list[pa.Table]) -> Galaxies:
    if not tables:
        nothing = [np.empty(0, object)] * len(_TEXTS) + [np.empty(0)] * len(_NUMBERS)
        return Galaxies(*nothing)
    table = pa.concat_tables(tables)
    texts = [np.array(table[name].to_pylist(), object) for name in _TEXTS]
    return Galaxies(*texts, *(table[name].to_numpy().astype(np.float64) for name in _NUMBERS))
