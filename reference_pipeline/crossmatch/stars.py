"""The nearest catalogue star to each candidate, where stars stood at the exposure's time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from multiscale.packet import CrossMatch

from ..candidate import Candidate
from ..catalogues.sphere import separation, unit_vectors
from ..catalogues.stars import ReferenceStars


def julian_year(mjd: float) -> float:
    """Return the Julian year of ``mjd``: 2000.0 at MJD 51544.5."""
    return 2000.0 + (mjd - 51544.5) / 365.25


def match_stars(
    candidates: Sequence[Candidate], stars: ReferenceStars, mjd: float, *, radius: float
) -> list[tuple[CrossMatch, ...]]:
    """Return, for each candidate, the nearest star within ``radius`` arcsec at ``mjd``, or none.

    Its magnitudes are in the properties as mag_<band>; its id is its place in the catalogue, for the
    catalogues that stars come from keep no names.
    """
    if len(stars) == 0:
        return [() for _ in candidates]
    moved = stars.at_epoch(julian_year(mjd))
    tree = cKDTree(unit_vectors(moved.ra, moved.dec))
    places = unit_vectors([c.ra for c in candidates], [c.dec for c in candidates])
    _, nearest = tree.query(places)
    matches: list[tuple[CrossMatch, ...]] = []
    for candidate, row in zip(candidates, nearest):
        apart = float(separation(candidate.ra, candidate.dec, moved.ra[row], moved.dec[row])) * 3600
        matches.append((_match(stars, moved, int(row), apart),) if apart <= radius else ())
    return matches


def _match(stars: ReferenceStars, moved: ReferenceStars, row: int, apart: float) -> CrossMatch:
    found = {band: float(m[row]) for band, m in moved.magnitudes.items() if np.isfinite(m[row])}
    return CrossMatch(
        catalog=stars.source or "stars",
        source_id=f"{stars.ra[row]:.6f}{stars.dec[row]:+.6f}",
        kind="star",
        separation=apart,
        magnitude=next(iter(found.values()), None),
        properties={f"mag_{band}": value for band, value in found.items()}
        | {"ra": float(moved.ra[row]), "dec": float(moved.dec[row])},
    )
