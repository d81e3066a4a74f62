"""Asteroids on Keplerian orbits: drawn to cross given fields, and written as MPCORB.

Where they stand is computed from the same elements (ephemeris.py), as the pipeline does with real ones.
"""

from __future__ import annotations

from pathlib import Path

import erfa
import numpy as np
from numpy.typing import NDArray

from multiscale.atomic import replacing

from ..catalogues.mpcorb import DIGITS, LETTERS, pack_epoch, readable
from ..catalogues.sphere import unit_vectors
from ..config import Site
from ..ephemeris import (
    GAUSS,
    LIGHT_DAYS,
    Orbits,
    dimming,
    ecliptic_axes,
    no_orbits,
    observer,
    tt_from_utc,
)
from ..errors import CatalogueError

Floats = NDArray[np.float64]

_HALF_MONTHS = LETTERS[:24]


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
        return no_orbits()
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
    h = np.round(visual - dimming(position, earth, slope), 2)
    a = np.round(elements["a"], 7)
    mean = elements["mean"] - np.degrees(GAUSS / a**1.5) * (tt - epoch)
    return Orbits(
        designation=np.array([_designation(epoch, k) for k in range(n)], "U7"),
        epoch=np.full(n, epoch),
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
    o, motion = orbits, orbits.daily_motion
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
            epoch, day = pack_epoch(o.epoch[k]), _calendar(o.epoch[k])
            file.write(
                f"{o.designation[k]:<7} {o.h[k]:5.2f} {o.g[k]:5.2f} {epoch} {o.mean_anomaly[k]:9.5f}  "
                f"{o.perihelion[k]:9.5f}  {o.node[k]:9.5f}  {o.inclination[k]:9.5f}  "
                f"{o.eccentricity[k]:9.7f} {motion[k]:11.8f} {o.semimajor_axis[k]:11.7f}  "
                f"0 {'MPO000000':<9} {60:5d} {3:3d} {day[:4]}-{day[:4]} 0.50 {'M-v':3} {'38h':3} "
                f"{'MPCLINUX':<10} 0000 {'':9}{readable(o.designation[k]):<19}{day}\n"
            )


def _velocity(position: Floats, rng: np.random.Generator) -> Floats:
    """Velocities (au per day) of orbits near to circular, prograde, and no steeper than they need to be."""
    r = np.linalg.norm(position, axis=1, keepdims=True)
    up = position / r
    east = np.cross(ecliptic_axes()[2], up)
    east /= np.linalg.norm(east, axis=1, keepdims=True)
    north = np.cross(up, east)
    n = len(position)
    tilt = np.radians(rng.normal(0, 8, n))[:, None]
    climb = rng.normal(0, 0.09, n)[:, None]
    speed = GAUSS / np.sqrt(r) * np.clip(rng.normal(1, 0.05, n), 0.85, 1.15)[:, None]
    return speed * (np.cos(tilt) * east + np.sin(tilt) * north + climb * up)


def _elements(position: Floats, velocity: Floats) -> dict[str, Floats]:
    """Kepler's elements (au, degrees) of heliocentric states on ICRS axes; bound orbits."""
    axes = ecliptic_axes().T
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


def _calendar(mjd: float) -> str:
    year, month, day, _ = erfa.jd2cal(2400000.5, mjd)
    return f"{int(year):04d}{int(month):02d}{int(day):02d}"


def _designation(epoch: float, k: int) -> str:
    """The packed provisional designation of the k-th discovery of the half-month."""
    text = _calendar(epoch)
    half = _HALF_MONTHS[2 * (int(text[4:6]) - 1) + (int(text[6:]) > 15)]
    cycle = k // 25
    if cycle >= 620:
        raise CatalogueError(f"{k + 1} asteroids in one half-month, the designations end at 15500")
    return f"{DIGITS[int(text[:2])]}{text[2:4]}{half}{DIGITS[cycle // 10]}{cycle % 10}{LETTERS[k % 25]}"
