"""Reference stars over the network, through astroquery and VizieR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CatalogueError, CoverageError
from .stars import ReferenceStars


@dataclass(frozen=True)
class OnlineTable:
    """A table of VizieR and what its columns are; ``magnitudes`` goes from band to (column, error column)."""

    identifier: str
    source: str
    epoch: float  # Julian year of the positions
    ra: str
    dec: str
    magnitudes: dict[str, tuple[str, str]]
    pmra: str | None = None  # mas per year
    pmdec: str | None = None


TABLES = {
    "gaia-online": OnlineTable(
        "I/355/gaiadr3", "Gaia DR3", 2016.0, "RA_ICRS", "DE_ICRS",
        {"G": ("Gmag", "e_Gmag"), "BP": ("BPmag", "e_BPmag"), "RP": ("RPmag", "e_RPmag")}, "pmRA", "pmDE",
    ),
    "ps1-online": OnlineTable(
        "II/349/ps1", "Pan-STARRS1 DR1", 2012.0, "RAJ2000", "DEJ2000",
        {band: (f"{band}mag", f"e_{band}mag") for band in "grizy"},
    ),
}  # fmt: skip


class OnlineCatalogue:
    """A catalogue that asks VizieR for every cone."""

    def __init__(self, name: str, *, max_magnitude: float | None = None) -> None:
        """``name`` is one of TABLES; ``max_magnitude`` limits its first band, for wide or crowded cones."""
        if name not in TABLES:
            raise CatalogueError(f"no online catalogue {name!r}; there are {', '.join(TABLES)}")
        self.table = TABLES[name]
        self.max_magnitude = max_magnitude

    def cone(self, ra: float, dec: float, radius: float) -> ReferenceStars:
        """Return the stars within ``radius`` degrees of (ra, dec).

        Raises CatalogueError without astroquery or a network; CoverageError without stars there.
        """
        rows = self._ask(ra, dec, radius)

        def column(name: str) -> NDArray[np.float64]:
            return np.ma.filled(np.ma.asarray(rows[name], np.float64), np.nan)

        table = self.table
        motion = table.pmra is not None and table.pmdec is not None
        return ReferenceStars(
            column(table.ra), column(table.dec), table.epoch,
            np.nan_to_num(column(str(table.pmra))) if motion else None,
            np.nan_to_num(column(str(table.pmdec))) if motion else None,
            {band: column(magnitude) for band, (magnitude, _) in table.magnitudes.items()},
            {band: column(error) for band, (_, error) in table.magnitudes.items()},
            table.source,
        )  # fmt: skip

    def _ask(self, ra: float, dec: float, radius: float) -> Any:
        try:
            import astropy.units as u
            from astropy.coordinates import SkyCoord
            from astroquery.exceptions import RemoteServiceError
            from astroquery.exceptions import TimeoutError as QueryTimeout
            from astroquery.vizier import Vizier
        except ImportError as error:
            raise CatalogueError(
                f"{self.table.source} is read over the network with astroquery, which is not installed: "
                "pip install astroquery, or name a local catalogue"
            ) from error
        table = self.table
        columns = [table.ra, table.dec, *(c for pair in table.magnitudes.values() for c in pair)]
        columns += [name for name in (table.pmra, table.pmdec) if name is not None]
        limit = {}
        if self.max_magnitude is not None:
            limit = {next(iter(table.magnitudes.values()))[0]: f"<{self.max_magnitude}"}
        query = Vizier(columns=columns, column_filters=limit, row_limit=-1)
        try:
            found = query.query_region(
                SkyCoord(ra, dec, unit="deg"), radius=radius * u.deg, catalog=table.identifier
            )
        except (OSError, RemoteServiceError, QueryTimeout) as error:
            raise CatalogueError(f"{table.source} at VizieR: {error}") from error
        if not found:
            raise CoverageError(
                f"{table.source} at VizieR: no stars within {radius:g}° of ({ra:.4f}, {dec:+.4f})"
            )
        return found[0]
