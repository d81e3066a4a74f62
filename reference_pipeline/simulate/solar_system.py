"""Asteroids on Keplerian orbits: drawn to cross given fields, written as MPCORB, placed by the same elements.

Orbits are heliocentric, ecliptic and equinox J2000; the Earth is that of erfa's analytic ephemeris (as
astropy's "builtin"), so that nothing is downloaded. Distances are au, times MJD.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import erfa
import numpy as np
from numpy.typing import NDArray

from multiscale.atomic import replacing

from ..catalogues.sphere import directions, unit_vectors
from ..config import Site
from ..errors import CatalogueError

Floats = NDArray[np.float64]

GAUSS = 0.01720209895  # Gaussian constant: au^1.5 per day
LIGHT_DAYS = 0.0057755183  # light time of 1 au, days
OBLIQUITY = np.radians(84381.448 / 3600)  # of J2000, as the Minor Planet Center uses
AU_METRES = 1.495978707e11
_HALF_MONTHS = "ABCDEFGHJKLMNOPQRSTUVWXY"
_LETTERS = "ABCDEFGHJKLMNOPQRSTUVWXYZ"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Orbits:
    """Elements of asteroids, one row each, with the digits that an MPCORB file has. Angles in degrees."""

    designation: NDArray[np.str_]  # packed, 7 characters
    epoch: float  # MJD, TT
    mean_anomaly: Floats
    perihelion: Floats  # argument ω
    node: Floats  # longitude Ω
    inclination: Floats
    eccentricity: Floats
    semimajor_axis: Floats  # au
    h: Floats  # absolute magnitude, V
    g: Floats  # slope

    def __len__(self) -> int:
        return len(self.designation)

    @property
    def daily_motion(self) -> Floats:
        """Degrees per day."""
        return np.degrees(GAUSS / self.semimajor_axis**1.5)


def no_orbits(epoch: float) -> Orbits:
    """Return the orbits of no asteroid."""
    nothing = np.empty(0)
    return Orbits(np.empty(0, "U7"), epoch, *[nothing] * 8)


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
    anomaly = _kepler(mean, e)
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
    return ecliptic @ _ecliptic_axes()


def apparent(orbits: Orbits, mjd: float, site: Site | None) -> tuple[Floats, Floats, Floats]:
    """Return astrometric right ascension and declination (ICRS, degrees) and V at ``mjd`` (UTC).

    Two-body motion, with light time; seen from ``site``, or from the Earth's centre. Magnitudes follow H
    and G (Bowell+ 1989).
    """
    earth, tt = observer(mjd, site), tt_from_utc(mjd)
    delay = np.zeros(len(orbits))
    for _ in range(3):
        body = heliocentric(orbits, tt - delay)
        distance = np.linalg.norm(body - earth, axis=1)
        delay = LIGHT_DAYS * distance
    ra, dec = directions(body - earth)
    return ra, dec, orbits.h + _dimming(body, earth, orbits.g)


def place_asteroids(
    fields: Floats,
    radius: float,
    mjd: float,
    site: Site | None,
    rng: np.random.Generator,
    *,
    per_field: float,
    bright: float,
    faint: float,
) -> Orbits:
    """Draw asteroids within ``radius`` degrees of one of ``fields`` (n, 2: RA, Dec) at ``mjd`` (UTC).

    Their number is Poisson of ``per_field`` for each field; V lies between ``bright`` and ``faint``, log N
    rising by 0.3 per magnitude; distances are those of the main belt, one in twelve a near-Earth object.
    Close to the ecliptic pole only distant, steep orbits would pass: they are drawn there all the same.
    """
    epoch = float(np.floor(tt_from_utc(mjd)))
    n_each = rng.poisson(per_field, len(fields))
    n = int(n_each.sum())
    if n == 0:
        return no_orbits(epoch)
    center = np.repeat(fields, n_each, axis=0)
    away, angle = radius * np.sqrt(rng.random(n)), rng.uniform(0, 2 * np.pi, n)
    dec = np.clip(center[:, 1] + away * np.sin(angle), -89.9, 89.9)
    ra = center[:, 0] + away * np.cos(angle) / np.cos(np.radians(dec))
    sight, earth = unit_vectors(ra, dec), observer(mjd, site)
    near = rng.random(n) < 1 / 12
    wanted = np.where(near, rng.uniform(1.15, 1.5, n), rng.uniform(2.1, 3.3, n))  # au from the Sun
    along = sight @ earth
    inside = np.maximum(along**2 + wanted**2 - earth @ earth, 0.0)
    distance = np.maximum(-along + np.sqrt(inside), 0.05)
    position = earth + distance[:, None] * sight
    velocity = _velocity(position, rng)
    tt = tt_from_utc(mjd) - LIGHT_DAYS * distance
    elements = _elements(position, velocity)
    steps = rng.random(n)
    visual = np.log10(10 ** (0.3 * bright) + steps * (10 ** (0.3 * faint) - 10 ** (0.3 * bright))) / 0.3
    slope = np.full(n, 0.15)
    h = np.round(visual - _dimming(position, earth, slope), 2)
    a = np.round(elements["a"], 7)
    mean = elements["mean"] - np.degrees(GAUSS / a**1.5) * (tt - epoch)
    return Orbits(
        designation=np.array([_designation(epoch, k) for k in range(n)]), epoch=epoch,
        mean_anomaly=np.round(mean % 360.0, 5) % 360.0,
        perihelion=np.round(elements["perihelion"], 5) % 360.0,
        node=np.round(elements["node"], 5) % 360.0, inclination=np.round(elements["inclination"], 5),
        eccentricity=np.round(elements["e"], 7), semimajor_axis=a, h=h, g=slope,
    )  # fmt: skip


def write_mpcorb(path: str | Path, orbits: Orbits) -> None:
    """Write ``orbits`` in the Minor Planet Center's MPCORB format, whole or not at all.

    Columns as in "Export Format for Minor-Planet Orbits": designation 1–7, H 9–13, G 15–19, packed epoch
    21–25, M 27–35, ω 38–46, Ω 49–57, i 60–68, e 71–79, n 81–91, a 93–103, U 106, reference 108–116,
    observations 118–122, oppositions 124–126, arc 128–136, rms 138–141, perturbers 143–149, computer
    151–160, flags 162–165, readable designation 167–194, last observation 195–202.
    """
    o = orbits
    epoch, day = _pack_epoch(o.epoch), _calendar(o.epoch)
    header = [
        "MINOR PLANET CENTER ORBIT DATABASE (MPCORB): asteroids of a simulated survey",
        "",
        "Des'n     H     G   Epoch     M        Peri.      Node       Incl.       e            n           a"
        "        Reference #Obs #Opp    Arc    rms  Perts   Computer",
        "-" * 160,
    ]
    with replacing(path) as partial, partial.open("w", encoding="ascii", newline="\n") as file:
        file.write("\n".join(header) + "\n")
        for k in range(len(o)):
            file.write(
                f"{o.designation[k]:<7} {o.h[k]:5.2f} {o.g[k]:5.2f} {epoch} {o.mean_anomaly[k]:9.5f}  "
                f"{o.perihelion[k]:9.5f}  {o.node[k]:9.5f}  {o.inclination[k]:9.5f}  "
                f"{o.eccentricity[k]:9.7f} {o.daily_motion[k]:11.8f} {o.semimajor_axis[k]:11.7f}  "
                f"0 {'MPO000000':<9} {60:5d} {3:3d} {day[:4]}-{day[:4]} 0.50 {'M-v':3} {'38h':3} "
                f"{'MPCLINUX':<10} 0000 {'':9}{_readable(o.designation[k]):<19}{day}\n"
            )


def read_mpcorb(path: str | Path) -> Orbits:
    """Return the orbits of an MPCORB file whose rows have one epoch.

    Raises CatalogueError if a row cannot be read or the epochs differ.
    """
    lines = Path(path).read_text(encoding="ascii").splitlines()
    begin = next((k + 1 for k, line in enumerate(lines) if line.startswith("-----")), 0)
    rows = [line for line in lines[begin:] if line.strip()]
    epochs = {line[20:25] for line in rows}
    if len(epochs) != 1:
        raise CatalogueError(f"{path}: expected one epoch, found {len(epochs)}")
    columns = ((26, 35), (37, 46), (48, 57), (59, 68), (70, 79), (92, 103), (8, 13), (14, 19))
    try:
        values = np.array([[float(line[a:b]) for a, b in columns] for line in rows])
    except ValueError as error:
        raise CatalogueError(f"{path}: not a row of MPCORB: {error}") from error
    m, w, node, i, e, a, h, g = values.T
    return Orbits(
        np.array([line[:7].strip() for line in rows]), _unpack_epoch(epochs.pop()), m, w, node, i, e, a, h, g
    )


def _kepler(mean: Floats, e: Floats) -> Floats:
    """Eccentric anomalies by Newton's method: E − e sin E = M."""
    mean = np.remainder(mean + np.pi, 2 * np.pi) - np.pi
    anomaly = mean + e * np.sin(mean)
    for _ in range(12):
        anomaly = anomaly - (anomaly - e * np.sin(anomaly) - mean) / (1 - e * np.cos(anomaly))
    return anomaly


def _ecliptic_axes() -> Floats:
    """Rows: the ecliptic's axes in equatorial coordinates."""
    c, s = np.cos(OBLIQUITY), np.sin(OBLIQUITY)
    return np.array([[1.0, 0, 0], [0, c, s], [0, -s, c]])


def _velocity(position: Floats, rng: np.random.Generator) -> Floats:
    """Velocities (au per day) of orbits near to circular, prograde, and no steeper than they need to be."""
    r = np.linalg.norm(position, axis=1, keepdims=True)
    up = position / r
    east = np.cross(_ecliptic_axes()[2], up)
    east /= np.linalg.norm(east, axis=1, keepdims=True)
    north = np.cross(up, east)
    n = len(position)
    tilt = np.radians(rng.normal(0, 8, n))[:, None]
    climb = rng.normal(0, 0.09, n)[:, None]
    speed = GAUSS / np.sqrt(r) * np.clip(rng.normal(1, 0.05, n), 0.85, 1.15)[:, None]
    return speed * (np.cos(tilt) * east + np.sin(tilt) * north + climb * up)


def _elements(position: Floats, velocity: Floats) -> dict[str, Floats]:
    """Kepler's elements (au, degrees) of heliocentric states on ICRS axes; bound orbits."""
    axes = _ecliptic_axes().T
    r, v = position @ axes, velocity @ axes / GAUSS
    distance = np.linalg.norm(r, axis=1)
    a = 1 / (2 / distance - (v**2).sum(axis=1))
    h = np.cross(r, v)
    toward = np.cross(v, h) - r / distance[:, None]  # length e, to the perihelion
    e = np.linalg.norm(toward, axis=1)
    inclination = np.arctan2(np.hypot(h[:, 0], h[:, 1]), h[:, 2])
    node = np.arctan2(h[:, 0], -h[:, 1])
    ascending = np.stack([np.cos(node), np.sin(node), np.zeros_like(node)], axis=1)
    across = np.cross(h / np.linalg.norm(h, axis=1, keepdims=True), ascending)
    perihelion = np.arctan2((toward * across).sum(axis=1), (toward * ascending).sum(axis=1))
    anomaly = np.arctan2((r * v).sum(axis=1) / np.sqrt(a), 1 - distance / a)
    return {
        "a": a, "e": e, "inclination": np.degrees(inclination), "node": np.degrees(node) % 360.0,
        "perihelion": np.degrees(perihelion) % 360.0, "mean": np.degrees(anomaly - e * np.sin(anomaly)),
    }  # fmt: skip


def _dimming(body: Floats, earth: Floats, slope: Floats) -> Floats:
    """V − H: 5 log10(r Δ) − 2.5 log10((1 − G) φ1 + G φ2), φ = exp(−A tan^B(α/2)) (Bowell+ 1989)."""
    sight = body - earth
    r, delta = np.linalg.norm(body, axis=1), np.linalg.norm(sight, axis=1)
    cosine = np.clip((body * sight).sum(axis=1) / (r * delta), -1, 1)
    half = np.tan(0.5 * np.arccos(cosine))
    phase = (1 - slope) * np.exp(-3.33 * half**0.63) + slope * np.exp(-1.87 * half**1.22)
    return 5 * np.log10(r * delta) - 2.5 * np.log10(phase)


def _calendar(mjd: float) -> str:
    year, month, day, _ = erfa.jd2cal(2400000.5, mjd)
    return f"{int(year):04d}{int(month):02d}{int(day):02d}"


def _pack_epoch(mjd: float) -> str:
    text = _calendar(mjd)
    year, month, day = int(text[:4]), int(text[4:6]), int(text[6:])
    return f"{_DIGITS[year // 100]}{year % 100:02d}{_DIGITS[month]}{_DIGITS[day]}"


def _unpack_epoch(packed: str) -> float:
    year = _DIGITS.index(packed[0]) * 100 + int(packed[1:3])
    _, mjd = erfa.cal2jd(year, _DIGITS.index(packed[3]), _DIGITS.index(packed[4]))
    return float(mjd)


def _designation(epoch: float, k: int) -> str:
    """The packed provisional designation of the k-th discovery of the half-month."""
    text = _calendar(epoch)
    half = _HALF_MONTHS[2 * (int(text[4:6]) - 1) + (int(text[6:]) > 15)]
    cycle = k // 25
    if cycle >= 620:
        raise CatalogueError(f"{k + 1} asteroids in one half-month, the designations end at 15500")
    return f"{_DIGITS[int(text[:2])]}{text[2:4]}{half}{_DIGITS[cycle // 10]}{cycle % 10}{_LETTERS[k % 25]}"


def _readable(packed: str) -> str:
    cycle = _DIGITS.index(packed[4]) * 10 + int(packed[5])
    year = _DIGITS.index(packed[0]) * 100 + int(packed[1:3])
    return f"{year} {packed[3]}{packed[6]}{cycle or ''}"
