"""Where bodies on Keplerian orbits stand in the sky, and how bright they are.

Orbits are heliocentric, ecliptic and equinox J2000; the Earth is that of erfa's analytic ephemeris (as
astropy's "builtin"), so that nothing is downloaded. Distances are au, times MJD.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import erfa
import numpy as np
from numpy.typing import NDArray

from .catalogues.sphere import directions
from .config import Site

Floats = NDArray[np.float64]

GAUSS = 0.01720209895  # Gaussian constant: au^1.5 per day
LIGHT_DAYS = 0.0057755183  # light time of 1 au, days
OBLIQUITY = np.radians(84381.448 / 3600)  # of J2000, as the Minor Planet Center uses
AU_METRES = 1.495978707e11


@dataclass(frozen=True)
class Orbits:
    """Elements of asteroids, one row each, with the digits that an MPCORB file has. Angles in degrees."""

    designation: NDArray[np.str_]  # packed, 7 characters
    epoch: Floats  # MJD, TT
    mean_anomaly: Floats
    perihelion: Floats  # argument ω
    node: Floats  # longitude Ω
    inclination: Floats
    eccentricity: Floats
    semimajor_axis: Floats  # au
    h: Floats  # absolute magnitude, V; NaN where unknown
    g: Floats  # slope

    def __len__(self) -> int:
        return len(self.designation)

    @property
    def daily_motion(self) -> Floats:
        """Degrees per day."""
        return np.degrees(GAUSS / self.semimajor_axis**1.5)

    def select(self, rows: NDArray[Any] | slice) -> Orbits:
        """The orbits of ``rows`` (a boolean mask, indices or a slice)."""
        return Orbits(*(getattr(self, column.name)[rows] for column in fields(self)))


def no_orbits() -> Orbits:
    """Return the orbits of no asteroid."""
    nothing = np.empty(0)
    return Orbits(np.empty(0, "U7"), *[nothing] * 9)


def tt_from_utc(mjd: float) -> float:
    """Return MJD in TT of ``mjd`` in UTC."""
    tai = erfa.utctai(2400000.5, mjd)
    tt = erfa.taitt(*tai)
    return float((tt[0] - 2400000.5) + tt[1])


def observer(mjd: float, site: Site | None) -> Floats:
    """Return where ``site``, or the Earth's centre, is at ``mjd`` (UTC): heliocentric au, ICRS axes.

    UT1 is taken as UTC: 0.9 s of rotation is 0.4 km, below 1 mas at 1 au.
    """
    tt = tt_from_utc(mjd)
    heliocentric, _ = erfa.epv00(2400000.5, tt)
    position = np.array(heliocentric["p"], float)
    if site is None:
        return position
    fixed = erfa.gd2gc(1, np.radians(site.longitude), np.radians(site.latitude), site.height)
    to_earth = erfa.c2t06a(2400000.5, tt, 2400000.5, mjd, 0.0, 0.0)
    return position + to_earth.T @ np.asarray(fixed) / AU_METRES


def heliocentric(orbits: Orbits, tt: Floats | float) -> Floats:
    """Return positions (au, ICRS axes) at ``tt`` (MJD, TT; a number or one for each row), shape (n, 3)."""
    mean = np.radians(orbits.mean_anomaly + orbits.daily_motion * (tt - orbits.epoch))
    e, a = orbits.eccentricity, orbits.semimajor_axis
    anomaly = eccentric_anomaly(mean, e)
    x, y = a * (np.cos(anomaly) - e), a * np.sqrt(1 - e**2) * np.sin(anomaly)
    w, node, i = (np.radians(v) for v in (orbits.perihelion, orbits.node, orbits.inclination))
    u = x * np.cos(w) - y * np.sin(w)
    v = x * np.sin(w) + y * np.cos(w)
    ecliptic = np.stack(
        [
            u * np.cos(node) - v * np.cos(i) * np.sin(node),
            u * np.sin(node) + v * np.cos(i) * np.cos(node),
            v * np.sin(i),
        ],
        axis=-1,
    )
    return ecliptic @ ecliptic_axes()


def apparent(orbits: Orbits, mjd: float, site: Site | None) -> tuple[Floats, Floats, Floats]:
    """Return astrometric right ascension and declination (ICRS, degrees) and V at ``mjd`` (UTC).

    Two-body motion, with light time; seen from ``site``, or from the Earth's centre. Magnitudes follow H
    and G (Bowell+ 1989), and are NaN where H is.
    """
    earth, tt = observer(mjd, site), tt_from_utc(mjd)
    delay = np.zeros(len(orbits))
    for _ in range(3):
        body = heliocentric(orbits, tt - delay)
        distance = np.linalg.norm(body - earth, axis=1)
        delay = LIGHT_DAYS * distance
    ra, dec = directions(body - earth)
    return ra, dec, orbits.h + dimming(body, earth, orbits.g)


def eccentric_anomaly(mean: Floats, e: Floats) -> Floats:
    """Eccentric anomalies (radians) by Newton's method: E − e sin E = M, e < 1.

    The first guess, M + 0.85 e sign(sin M), is Danby's (1988); from it even e = 0.999 converges.
    """
    mean = np.remainder(mean + np.pi, 2 * np.pi) - np.pi
    anomaly = mean + 0.85 * e * np.sign(mean)
    for _ in range(30):
        step = (anomaly - e * np.sin(anomaly) - mean) / (1 - e * np.cos(anomaly))
        anomaly = anomaly - step
        if np.abs(step).max(initial=0.0) < 1e-13:
            break
    return anomaly


def ecliptic_axes() -> Floats:
    """Rows: the ecliptic's axes in equatorial coordinates."""
    c, s = np.cos(OBLIQUITY), np.sin(OBLIQUITY)
    return np.array([[1.0, 0, 0], [0, c, s], [0, -s, c]])


def dimming(body: Floats, earth: Floats, slope: Floats) -> Floats:
    """V − H: 5 log10(r Δ) − 2.5 log10((1 − G) φ1 + G φ2), φ = exp(−A tan^B(α/2)) (Bowell+ 1989)."""
    sight = body - earth
    r, delta = np.linalg.norm(body, axis=1), np.linalg.norm(sight, axis=1)
    cosine = np.clip((body * sight).sum(axis=1) / (r * delta), -1, 1)
    half = np.tan(0.5 * np.arccos(cosine))
    phase = (1 - slope) * np.exp(-3.33 * half**0.63) + slope * np.exp(-1.87 * half**1.22)
    return 5 * np.log10(r * delta) - 2.5 * np.log10(phase)
