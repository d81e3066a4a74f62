"""What is known at the places of candidates: stars, galaxies, minor planets, all from local files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from multiscale.packet import CrossMatch, Scalar

from ..candidate import Candidate
from ..catalogues import ReferenceCatalogue, open_catalogue
from ..catalogues.sphere import directions, separation, unit_vectors
from ..config import Catalogues, Site
from ..config import CrossMatch as Limits
from ..frame import Exposure
from .galaxies import Galaxies, GalaxyCatalogue, galaxy_radius, open_galaxies
from .minor_planets import MinorPlanets, PlanetPosition, open_minor_planets, planets_near
from .stars import match_stars

GALAXY_CATALOGUE = "GLADE+"
MOST_GALAXIES = 3  # of one candidate, the nearest in units of their sizes


@dataclass(frozen=True)
class KnownSky:
    """The catalogues that candidates are held against; None where none is configured."""

    stars: ReferenceCatalogue | None = None
    galaxies: GalaxyCatalogue | None = None
    planets: MinorPlanets | None = None


def open_sky(catalogues: Catalogues, site: Site | None) -> KnownSky:
    """Return what the configuration names: the photometric catalogue's stars, GLADE+, MPCORB.

    The first call with a GLADE+ text file converts it (:func:`open_galaxies`). Raises CatalogueError where
    a file is missing or cannot be read.
    """
    return KnownSky(
        stars=open_catalogue(catalogues.photometry or catalogues.astrometry),
        galaxies=None if catalogues.galaxies is None else open_galaxies(catalogues.galaxies),
        planets=None if catalogues.orbits is None else open_minor_planets(catalogues.orbits, site),
    )


def cross_match(
    candidates: Sequence[Candidate],
    exposure: Exposure,
    *,
    stars: ReferenceCatalogue | None,
    galaxies: GalaxyCatalogue | None,
    planets: MinorPlanets | None,
    config: Limits,
) -> tuple[Candidate, ...]:
    """Return the candidates with ``matches`` filled in: the star, then galaxies, then minor planets.

    Stars: the nearest within ``star_radius`` where they stand at mid-exposure. Galaxies: the nearest three
    in units of their radius, within ``galaxy_sizes`` of it and ``galaxy_radius`` arcsec. Minor planets: all
    within ``planet_radius`` of their predicted places at mid-exposure, the nearest first. Raises
    CatalogueError where a catalogue cannot be read, CoverageError where it does not reach the candidates.
    """
    if not candidates:
        return ()
    ra, dec, radius = _cap(candidates)
    found: list[list[tuple[CrossMatch, ...]]] = []
    if stars is not None:
        here = stars.cone(ra, dec, radius + config.star_radius / 3600 + 0.01)  # 0.01: proper motions
        found.append(match_stars(candidates, here, exposure.mid_mjd, radius=config.star_radius))
    if galaxies is not None:
        near = galaxies.cone(ra, dec, radius + config.galaxy_radius / 3600)
        found.append(match_galaxies(candidates, near, config=config))
    if planets is not None:
        predicted = planets_in_field(planets, exposure, ra, dec, radius, config=config)
        found.append(match_planets(candidates, predicted, planets.name, radius=config.planet_radius))
    return tuple(
        replace(candidate, matches=sum((each[k] for each in found), ()))
        for k, candidate in enumerate(candidates)
    )


def planets_in_field(
    planets: MinorPlanets, exposure: Exposure, ra: float, dec: float, radius: float, *, config: Limits
) -> tuple[PlanetPosition, ...]:
    """Return the minor planets within ``radius`` degrees of (ra, dec) at mid-exposure, brightest first.

    ``config.planet_radius`` is added to ``radius``; fainter than ``config.planet_limit`` are left out.
    """
    reach = radius + config.planet_radius / 3600
    return planets_near(planets, exposure.mid_mjd, ra, dec, reach, limit=config.planet_limit)


def match_galaxies(
    candidates: Sequence[Candidate], galaxies: Galaxies, *, config: Limits
) -> list[tuple[CrossMatch, ...]]:
    """Return, for each candidate, the galaxies it may belong to, the nearest in units of their size first.

    ``properties`` hold the size (``radius``, arcsec), the separation in it (``sizes``), the projected
    distance (kpc), the distance (Mpc) and where it is from, names, and what else GLADE+ says.
    """
    if len(galaxies) == 0:
        return [() for _ in candidates]
    radius = galaxy_radius(galaxies)
    tree = cKDTree(unit_vectors(galaxies.ra, galaxies.dec))
    places = unit_vectors([c.ra for c in candidates], [c.dec for c in candidates])
    chord = 2 * np.sin(np.radians(config.galaxy_radius / 3600) / 2)
    matches: list[tuple[CrossMatch, ...]] = []
    for candidate, near in zip(candidates, tree.query_ball_point(places, chord)):
        rows = np.array(near, int)
        apart = 3600 * separation(candidate.ra, candidate.dec, galaxies.ra[rows], galaxies.dec[rows])
        sizes = apart / radius[rows]
        order = [k for k in np.argsort(sizes, kind="stable") if sizes[k] <= config.galaxy_sizes]
        matches.append(
            tuple(
                _galaxy(galaxies, int(rows[k]), float(apart[k]), float(radius[rows[k]]))
                for k in order[:MOST_GALAXIES]
            )
        )
    return matches


def _galaxy(galaxies: Galaxies, row: int, apart: float, radius: float) -> CrossMatch:
    def number(values: NDArray[np.float64]) -> float | None:
        return float(values[row]) if np.isfinite(values[row]) else None

    distance = number(galaxies.distance)
    properties: dict[str, Scalar] = {"radius": radius, "sizes": apart / radius}
    for name in ("pgc", "gwgc", "hyperleda", "twomass", "wise", "sdss", "kind"):
        value = getattr(galaxies, name)[row]
        if value is not None:
            properties[name] = str(value)
    for name in ("redshift_cmb", "redshift_error", "distance", "distance_error", "b_absolute", "mass"):
        value = number(getattr(galaxies, name))
        if value is not None:
            properties[name] = value
    flag = number(galaxies.distance_flag)
    if flag is not None:
        properties["distance_flag"] = int(flag)
    if distance is not None:  # luminosity distance: smaller by (1 + z)² where lengths are meant
        z = number(galaxies.redshift) or 0.0
        properties["kpc"] = float(np.radians(apart / 3600) * distance * 1e3 / (1 + z) ** 2)
    return CrossMatch(
        catalog=GALAXY_CATALOGUE,
        source_id=str(galaxies.glade[row]),
        kind="galaxy",
        separation=apart,
        magnitude=number(galaxies.b),
        redshift=number(galaxies.redshift),
        properties=properties,
    )


def match_planets(
    candidates: Sequence[Candidate], predicted: Sequence[PlanetPosition], name: str, *, radius: float
) -> list[tuple[CrossMatch, ...]]:
    """Return, for each candidate, the minor planets within ``radius`` arcsec, the nearest first."""
    matches: list[tuple[CrossMatch, ...]] = []
    ra, dec = (np.array([getattr(p, axis) for p in predicted]) for axis in ("ra", "dec"))
    for candidate in candidates:
        apart = 3600 * separation(candidate.ra, candidate.dec, ra, dec) if predicted else np.empty(0)
        order = [k for k in np.argsort(apart, kind="stable") if apart[k] <= radius]
        matches.append(tuple(_planet(predicted[k], name, float(apart[k])) for k in order))
    return matches


def _planet(planet: PlanetPosition, name: str, apart: float) -> CrossMatch:
    return CrossMatch(
        catalog=name,
        source_id=planet.name,
        kind="minor_planet",
        separation=apart,
        magnitude=planet.magnitude,
        properties={
            "designation": planet.designation, "ra": planet.ra, "dec": planet.dec,
            "ra_rate": planet.ra_rate, "dec_rate": planet.dec_rate,
            "sun_distance": planet.sun_distance, "earth_distance": planet.earth_distance,
        },
    )  # fmt: skip


def _cap(candidates: Sequence[Candidate]) -> tuple[float, float, float]:
    """A circle that holds all candidates: centre and radius, degrees."""
    places = unit_vectors([c.ra for c in candidates], [c.dec for c in candidates])
    ra, dec = directions(places.mean(axis=0))
    radius = separation([c.ra for c in candidates], [c.dec for c in candidates], ra, dec).max()
    return float(ra), float(dec), float(radius)
