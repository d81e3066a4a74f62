"""Reference stars from files on this machine: one table, or a folder of Parquet files by HEALPix cell.

A folder holds ``catalogue.json`` (order, epoch, bands, source) and one or more files per cell,
``cell-00123-000.parquet``, with the columns ra, dec, pmra, pmdec, mag_<band> and magerr_<band>. Cells are
HEALPix, nested, of that order. ``catalogue.json`` is written last: a folder without it is not a catalogue.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from astropy.table import Table
from astropy_healpix import HEALPix
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from multiscale.atomic import replacing

from ..errors import CatalogueError, CoverageError
from .sphere import directions, separation, unit_vectors
from .stars import ReferenceStars

METADATA = "catalogue.json"
MAGNITUDE, MAGNITUDE_ERROR = "mag_", "magerr_"

#: What a column is called when nobody says: the first name that is there counts; case does not.
USUAL_NAMES = {
    "ra": ("ra", "ra_deg", "raj2000", "ra_icrs"),
    "dec": ("dec", "dec_deg", "dej2000", "decj2000", "de_icrs"),
    "pmra": ("pmra",),
    "pmdec": ("pmdec", "pmde"),
}


class Metadata(BaseModel):
    """What ``catalogue.json`` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["reference-stars-healpix-1"] = "reference-stars-healpix-1"
    order: int
    epoch: float  # Julian year
    bands: tuple[str, ...]
    source: str
    n_stars: int


def write_partitioned(
    folder: str | Path, stars: ReferenceStars | Iterable[ReferenceStars], *, order: int = 4
) -> None:
    """Write ``stars`` as a catalogue of HEALPix cells of ``order`` (4: cells 3.7° wide).

    A catalogue larger than memory comes as an iterable of parts; all have one epoch, source and set of bands.
    Raises CatalogueError if the folder already holds a catalogue, a star has no position, or parts differ.
    """
    folder = Path(folder)
    if (folder / METADATA).exists():
        raise CatalogueError(f"{folder}: already holds a catalogue; remove it first")
    folder.mkdir(parents=True, exist_ok=True)
    metadata: Metadata | None = None
    for part, chunk in enumerate([stars] if isinstance(stars, ReferenceStars) else stars):
        found = Metadata(
            order=order, epoch=chunk.epoch, bands=tuple(sorted(chunk.magnitudes)),
            source=chunk.source, n_stars=0 if metadata is None else metadata.n_stars,
        )  # fmt: skip
        if metadata is not None and found != metadata:
            raise CatalogueError(f"{folder}: part {part} is {found!r}, the parts before it {metadata!r}")
        _write_cells(folder, chunk, part, order)
        metadata = found.model_copy(update={"n_stars": found.n_stars + len(chunk)})
    if metadata is None:
        raise CatalogueError(f"{folder}: no stars were given")
    with replacing(folder / METADATA) as partial:
        partial.write_text(metadata.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _write_cells(folder: Path, stars: ReferenceStars, part: int, order: int) -> None:
    n_bad = int((~np.isfinite(stars.ra) | ~(np.abs(stars.dec) <= 90.0)).sum())
    if n_bad:
        raise CatalogueError(f"{folder}: {n_bad} of {len(stars)} stars have no position on the sky")
    cells = _healpix(order).lonlat_to_healpix(stars.ra * u.deg, stars.dec * u.deg)
    by_cell = np.argsort(cells, kind="stable")
    present, starts = np.unique(cells[by_cell], return_index=True)
    for cell, rows in zip(present, np.split(by_cell, starts[1:])):
        with replacing(folder / f"cell-{cell:05d}-{part:03d}.parquet") as partial:
            pa.parquet.write_table(_to_arrow(stars.select(rows)), partial)


def _to_arrow(stars: ReferenceStars) -> pa.Table:
    columns = {"ra": stars.ra, "dec": stars.dec}
    if stars.pmra is not None and stars.pmdec is not None:
        columns |= {"pmra": stars.pmra, "pmdec": stars.pmdec}
    columns |= {MAGNITUDE + band: values for band, values in stars.magnitudes.items()}
    columns |= {MAGNITUDE_ERROR + band: values for band, values in stars.magnitude_errors.items()}
    return pa.table({name: np.asarray(values, np.float64) for name, values in columns.items()})


def _healpix(order: int) -> HEALPix:
    return HEALPix(nside=2**order, order="nested")


class LocalCatalogue:
    """A folder written by :func:`write_partitioned`; a cone reads only the cells it touches."""

    def __init__(self, folder: str | Path) -> None:
        """Raises CatalogueError if ``folder`` holds no catalogue."""
        self.folder = Path(folder)
        path = self.folder / METADATA
        try:
            self.metadata = Metadata.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError) as error:
            raise CatalogueError(f"{path}: not a catalogue of reference stars: {error}") from error

    @cached_property
    def _files(self) -> dict[int, list[Path]]:
        files: dict[int, list[Path]] = {}
        for path in sorted(self.folder.glob("cell-*.parquet")):
            files.setdefault(int(path.stem.split("-")[1]), []).append(path)
        return files

    def cone(self, ra: float, dec: float, radius: float) -> ReferenceStars:
        """Return the stars within ``radius`` degrees of (ra, dec).

        Raises CatalogueError if a file cannot be read, CoverageError if no cell that the cone touches has
        stars. A cone that reaches over the edge of the catalogue gives the stars there are.
        """
        healpix = _healpix(self.metadata.order)
        touched = healpix.cone_search_lonlat(ra * u.deg, dec * u.deg, radius * u.deg)
        files = [path for cell in sorted(map(int, touched)) for path in self._files.get(cell, ())]
        if not files:
            raise CoverageError(
                f"{self.folder}: no cell within {radius:g}° of ({ra:.4f}, {dec:+.4f}) has stars"
            )
        try:
            table = pa.concat_tables([pa.parquet.read_table(path) for path in files])
        except (OSError, pa.ArrowException) as error:
            raise CatalogueError(f"{self.folder}: {error}") from error
        columns = {name: table[name].to_numpy().astype(np.float64) for name in table.column_names}
        stars = _from_columns(columns, self.metadata.epoch, self.metadata.source)
        return stars.select(separation(stars.ra, stars.dec, ra, dec) <= radius)


class StarTable:
    """Reference stars held in memory, sorted by declination; what the catalogues of one file are made of."""

    def __init__(self, stars: ReferenceStars, *, name: str) -> None:
        """Raises CatalogueError if there are no stars, or one has no position."""
        if len(stars) == 0:
            raise CatalogueError(f"{name}: no stars")
        if not (np.isfinite(stars.ra).all() and (np.abs(stars.dec) <= 90.0).all()):
            raise CatalogueError(f"{name}: a star has no position on the sky")
        self.name = name
        self.stars = stars.select(np.argsort(stars.dec, kind="stable"))

    @cached_property
    def _cap(self) -> tuple[float, float, float]:
        """A circle that holds all stars: centre and radius, degrees."""
        vectors = unit_vectors(self.stars.ra, self.stars.dec)
        ra, dec = directions(vectors.mean(axis=0))
        return float(ra), float(dec), float(separation(self.stars.ra, self.stars.dec, ra, dec).max())

    def cone(self, ra: float, dec: float, radius: float) -> ReferenceStars:
        """Return the stars within ``radius`` degrees of (ra, dec).

        Raises CoverageError if the cone lies outside the circle that holds all stars. A cone that reaches
        over its edge gives the stars there are.
        """
        cap_ra, cap_dec, cap_radius = self._cap
        distance = float(separation(ra, dec, cap_ra, cap_dec))
        if distance > cap_radius + radius:
            raise CoverageError(
                f"{self.name}: covers {cap_radius:.2f}° around ({cap_ra:.4f}, {cap_dec:+.4f}), "
                f"nothing within {radius:g}° of ({ra:.4f}, {dec:+.4f})"
            )
        first, last = np.searchsorted(self.stars.dec, [dec - radius - 1e-9, dec + radius + 1e-9])
        band = self.stars.select(np.arange(first, last))
        return band.select(separation(band.ra, band.dec, ra, dec) <= radius)


class FileCatalogue:
    """One table of stars: Parquet, FITS or CSV. Read at the first cone, then kept."""

    def __init__(
        self,
        path: str | Path,
        *,
        columns: Mapping[str, str] | None = None,
        epoch: float = 2000.0,
        source: str | None = None,
    ) -> None:
        """``columns`` says which column is "ra", "dec", "pmra", "pmdec", "mag_<band>", "magerr_<band>".

        Those it does not name are looked for under their usual names; every column mag_<band> is a band.
        Positions are degrees, ICRS, at ``epoch`` (Julian year); motions mas per year.
        """
        self.path = Path(path)
        self.columns = dict(columns or {})
        self.epoch = epoch
        self.source = source or self.path.name

    @cached_property
    def _table(self) -> StarTable:
        found = _read_columns(self.path)
        lower = {name.lower(): name for name in found}
        chosen = {}
        for ours, theirs in self.columns.items():
            if theirs not in found:
                raise CatalogueError(f"{self.path}: no column {theirs!r}; there are {', '.join(found)}")
            chosen[ours] = found[theirs]
        for ours, usual in USUAL_NAMES.items():
            name = next((lower[n] for n in usual if n in lower), None)
            if ours not in chosen and name is not None:
                chosen[ours] = found[name]
        for name in found:
            if name.startswith((MAGNITUDE, MAGNITUDE_ERROR)):
                chosen.setdefault(name, found[name])
        missing = [ours for ours in ("ra", "dec") if ours not in chosen]
        if missing:
            raise CatalogueError(
                f"{self.path}: no column for {' and '.join(missing)}; there are {', '.join(found)}. "
                "Say which with columns={'ra': …, 'dec': …}"
            )
        try:
            columns = {name: np.asarray(values, np.float64) for name, values in chosen.items()}
        except ValueError as error:
            raise CatalogueError(f"{self.path}: a column is not numbers: {error}") from error
        return StarTable(_from_columns(columns, self.epoch, self.source), name=str(self.path))

    def cone(self, ra: float, dec: float, radius: float) -> ReferenceStars:
        """Return the stars within ``radius`` degrees of (ra, dec).

        Raises CatalogueError if the file cannot be read, or as :meth:`StarTable.cone` does.
        """
        return self._table.cone(ra, dec, radius)


def _read_columns(path: Path) -> dict[str, NDArray[Any]]:
    """The one-dimensional columns of a table; masked numbers become NaN."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            table = pa.parquet.read_table(path)
        elif suffix == ".csv":
            table = pa.csv.read_csv(path)
        elif suffix in {".fits", ".fit", ".fz", ".gz"}:
            fits = Table.read(path, format="fits")
            return {
                name: np.ma.filled(fits[name].astype(float), np.nan)
                for name in fits.colnames
                if fits[name].ndim == 1 and fits[name].dtype.kind in "iuf"
            }
        else:
            raise CatalogueError(f"{path}: a table ends in .parquet, .fits or .csv")
    except (OSError, pa.ArrowException, ValueError) as error:
        raise CatalogueError(f"{path}: {error}") from error
    return {name: table[name].to_numpy() for name in table.column_names}


def _from_columns(columns: Mapping[str, NDArray[np.float64]], epoch: float, source: str) -> ReferenceStars:
    def bands(prefix: str) -> dict[str, NDArray[np.float64]]:
        return {name.removeprefix(prefix): v for name, v in columns.items() if name.startswith(prefix)}

    motion = {"pmra", "pmdec"} <= columns.keys()
    return ReferenceStars(
        columns["ra"], columns["dec"], epoch,
        np.nan_to_num(columns["pmra"]) if motion else None,
        np.nan_to_num(columns["pmdec"]) if motion else None,
        bands(MAGNITUDE), bands(MAGNITUDE_ERROR), source,
    )  # fmt: skip
