"""Minor planets of an orbit database: which stand in a field at a time, where exactly, how bright.

Two steps: two-body positions of all orbits at once (ephemeris.py, 1.4 million in about 2 s) say which come
near the field; PyEphem (Rhodes 2011) computes those as seen from the observatory, as Sun+ (2022, 3.4) do.
Both are two-body motion: what the planets pull grows from nothing at the elements' epoch to some 10 arcsec
within the 100 days for which the Minor Planet Center's elements are meant, more for near-Earth objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ephem
import numpy as np
from numpy.typing import NDArray

from ..catalogues.mpcorb import read_mpcorb, readable
from ..catalogues.sphere import directions, separation, unit_vectors
from ..config import Site
from ..ephemeris import Orbits, dimming, heliocentric, observer, tt_from_utc

_CHUNK = 200_000  # orbits at a time, so that memory stays small
_EARTH_RADIUS = 4.2635e-5  # au: the largest parallax
_LIGHT_MARGIN = 0.03  # degrees: the most that a body moves while its light travels
_DUBLIN = 15019.5  # MJD of PyEphem's day 0
_FAINTER = 0.5  # magnitudes between the two steps that may differ


@dataclass(frozen=True)
class MinorPlanets:
    """An orbit database, and where it is looked at from (None: the Earth's centre)."""

    orbits: Orbits
    site: Site | None
    name: str  # the file's, for provenance


@dataclass(frozen=True)
class PlanetPosition:
    """Where a minor planet is predicted."""

    designation: str  # as the file has it, packed
    name: str  # readable: "1875", "1995 XA"
    ra: float  # degrees, ICRS; astrometric, topocentric
    dec: float
    magnitude: float | None  # V; None where H is not known
    ra_rate: float  # arcsec per hour, on the sky (with cos Dec)
    dec_rate: float
    sun_distance: float  # au
    earth_distance: float


def open_minor_planets(path: str | Path, site: Site | None) -> MinorPlanets:
    """Return the minor planets of an MPCORB file. Raises CatalogueError where it cannot be read."""
    return MinorPlanets(read_mpcorb(path), site, Path(path).name)


def planets_near(
    planets: MinorPlanets, mjd: float, ra: float, dec: float, radius: float, *, limit: float
) -> tuple[PlanetPosition, ...]:
    """Return the minor planets within ``radius`` degrees of (ra, dec) at ``mjd`` (UTC), brightest first.

    ``limit`` is in V; a body whose absolute magnitude is not known is brighter than any limit, and last.
    """
    rows = _nearby(planets.orbits, mjd, ra, dec, radius, limit)
    found = [_position(planets.orbits.select(slice(k, k + 1)), mjd, planets.site) for k in rows]
    kept = [
        p
        for p in found
        if separation(p.ra, p.dec, ra, dec) <= radius and (p.magnitude is None or p.magnitude <= limit)
    ]
    return tuple(sorted(kept, key=lambda p: np.inf if p.magnitude is None else p.magnitude))


def _nearby(
    orbits: Orbits, mjd: float, ra: float, dec: float, radius: float, limit: float
) -> NDArray[np.intp]:
    """Rows of what may be in the field: geometric positions from the Earth's centre, with margins."""
    earth, tt, center = observer(mjd, None), tt_from_utc(mjd), unit_vectors(ra, dec)
    rows = []
    for first in range(0, len(orbits), _CHUNK):
        part = orbits.select(slice(first, first + _CHUNK))
        body = heliocentric(part, tt)
        sight = body - earth
        distance = np.linalg.norm(sight, axis=1)
        margin = _LIGHT_MARGIN + np.degrees(_EARTH_RADIUS / distance)
        reach = np.cos(np.radians(np.minimum(radius + margin, 180.0)))
        near = np.flatnonzero(sight @ center >= reach * distance)
        visual = part.h[near] + dimming(body[near], earth, part.g[near])
        rows.append(first + near[~(visual > limit + _FAINTER)])
    return np.concatenate(rows) if rows else np.empty(0, np.intp)


def _position(orbit: Orbits, mjd: float, site: Site | None) -> PlanetPosition:
    """One body by PyEphem: astrometric place of J2000, with light time and the site's parallax.

    PyEphem and our own positions, of which the Earth's agrees with astropy's to 1 mas, differ by 0.2″ to 0.6″
    in the main belt and by 1″ to 3″ near the Earth; PyEphem keeps elements in single precision.
    """
    body = ephem.EllipticalBody()
    body._a, body._e = float(orbit.semimajor_axis[0]), float(orbit.eccentricity[0])
    body._inc, body._Om = float(orbit.inclination[0]), float(orbit.node[0])
    body._om, body._M = float(orbit.perihelion[0]), float(orbit.mean_anomaly[0])
    body._epoch, body._epoch_M = ephem.J2000, ephem.Date(float(orbit.epoch[0]) - _DUBLIN)
    h = float(orbit.h[0])
    body._H, body._G = (0.0 if np.isnan(h) else h), float(orbit.g[0])
    half_hour = 0.5 / 24
    before, now, after = (_place(body, mjd + step, site) for step in (-half_hour, 0.0, half_hour))
    _place(body, mjd, site)  # its distances and magnitude are those of the last call
    name = str(orbit.designation[0])
    return PlanetPosition(
        designation=name,
        name=_readable(name),
        ra=now[0],
        dec=now[1],
        magnitude=None if np.isnan(h) else float(body.mag),
        ra_rate=float(((after[0] - before[0] + 180) % 360 - 180) * np.cos(np.radians(now[1])) * 3600),
        dec_rate=(after[1] - before[1]) * 3600,
        sun_distance=float(body.sun_distance),
        earth_distance=float(body.earth_distance),
    )


def _place(body: ephem.EllipticalBody, mjd: float, site: Site | None) -> tuple[float, float]:
    """Astrometric right ascension and declination (degrees).

    PyEphem's are those from the Earth's centre, even for an Observer (who changes its apparent places only),
    so the site's parallax, 3″ in the main belt, is taken from our own Earth.
    """
    body.compute(ephem.Date(mjd - _DUBLIN), epoch=ephem.J2000)
    sight = float(body.earth_distance) * unit_vectors(*np.degrees([body.a_ra, body.a_dec]))
    if site is not None:
        sight = sight - (observer(mjd, site) - observer(mjd, None))
    ra, dec = directions(sight)
    return float(ra), float(dec)


def _readable(packed: str) -> str:
    try:
        return readable(packed)
    except ValueError:  # a form that the Center has added since: as it stands
        return packed
