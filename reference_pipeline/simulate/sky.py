"""The sky of a survey, made from a seed: stars, galaxies, what varies, what moves.

Every HEALPix cell (order 8, 0.23° wide) has its own random streams, so that a field is the same on every
night, in every process and in any order of asking.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy_healpix import HEALPix
from numpy.typing import NDArray
from pydantic import Field

from ..catalogues.sphere import separation
from ..catalogues.stars import MAS_PER_DEGREE
from ..config import Config, Site
from ..ephemeris import Orbits, apparent, no_orbits
from ..errors import ConfigError
from .satellites import Passage, SatelliteConfig, passage
from .scene import POINT_KINDS, Galaxies, Points, Scene, Trails
from .variables import (
    STAR_KINDS,
    STARS,
    SUBTYPES,
    SUPERNOVA_DAYS,
    SUPERNOVA_KINDS,
    Variables,
    join,
    magnitudes,
    star_shapes,
)

if TYPE_CHECKING:
    from astropy.table import Table

Floats = NDArray[np.float64]
C = TypeVar("C", "CellStars", "CellGalaxies")

ORDER = 8
_HEALPIX = HEALPix(nside=2**ORDER, order="nested")
_CELL_AREA = 41252.96 / (12 * 4**ORDER)  # square degrees
_STAR, _GALAXY, _VARIABLE, _AGN, _SUPERNOVA, _ASTEROID, _SATELLITE = range(7)  # streams, and bits of an id

#: Julian year in which a star stands where its cell put it.
EPOCH = 2016.0

#: m_band = r + offset + slope (g − r): straight lines through the stellar locus (Covey+ 2007).
BANDS = {"u": (0.35, 2.6), "g": (0.0, 1.0), "r": (0.0, 0.0), "i": (0.02, -0.42), "z": (0.03, -0.62),
         "y": (0.04, -0.70)}  # fmt: skip

#: Galaxies per square degree brighter than r: 0.6 per magnitude while near, then flatter (Yasuda+ 2001 to
#: r = 18; GAMA's 1000 to r = 19.8, Driver+ 2011; Ivezić+ 2019, section 3.7, at the faint end).
GALAXY_COUNTS = ((11.0, 14.0, 17.8, 20.0, 22.0, 24.0, 26.0, 28.0),
                 (-2.1, -0.31, 1.95, 3.10, 3.95, 4.60, 5.23, 5.7))  # fmt: skip


class SkyConfig(Config):
    """What is in the sky. Densities are per square degree; a survey of small fields raises the rare."""

    faint_limit: float = Field(default=22.0, le=28)  # r of the faintest stars and galaxies
    bright_limit: float = Field(default=8.0, ge=5)  # r of the brightest stars
    star_factor: float = Field(default=1.0, ge=0)  # times the density of the galactic model
    galaxy_factor: float = Field(default=1.0, ge=0)
    supernova_rate: float = Field(default=1.0, ge=0)  # explosions per year that peak above supernova_faint
    supernova_faint: float = 20.5  # r at peak of the faintest
    hostless_fraction: float = Field(default=0.15, ge=0, le=1)
    agn_fraction: float = Field(default=0.04, ge=0, le=1)  # of galaxies
    variable_density: float = Field(default=60.0, ge=0)  # variable stars
    variable_faint: float = 21.0  # r of the faintest of them
    satellites: SatelliteConfig = SatelliteConfig()


@dataclass(frozen=True)
class CellStars:
    """Stars of a cell, at EPOCH."""

    id: NDArray[np.int64]
    ra: Floats  # degrees
    dec: Floats
    r: Floats  # AB mag
    color: Floats  # g − r
    pmra: Floats  # mas per year, times cos Dec
    pmdec: Floats


@dataclass(frozen=True)
class CellGalaxies:
    """Galaxies of a cell; ``color`` is g − r, ``modulus`` the distance modulus."""

    id: NDArray[np.int64]
    ra: Floats
    dec: Floats
    r: Floats
    color: Floats
    half_light_radius: Floats  # arcsec, along the major axis
    sersic_index: Floats
    axis_ratio: Floats
    position_angle: Floats  # degrees, north through east
    modulus: Floats  # mag


@dataclass(frozen=True)
class Sky:
    """A survey's sky: what its seed and configuration make of it, and the asteroids of a night."""

    seed: int
    config: SkyConfig = field(default_factory=SkyConfig)
    orbits: Orbits = field(default_factory=no_orbits)
    site: Site | None = None

    def scene(
        self, ra: float, dec: float, radius: float, mid_mjd: float, band: str, exposure_time: float
    ) -> Scene:
        """Return what is within ``radius`` degrees of (ra, dec) during one exposure.

        Raises ConfigError for an unknown band.
        """
        stars, galaxies = self.stars(ra, dec, radius), self.galaxies(ra, dec, radius)
        moved_ra, moved_dec = moved(stars, mid_mjd)
        parts = [
            _points(stars.id, "star", moved_ra, moved_dec, in_band(stars.r, stars.color, band), stars.color)
        ]
        parts += self._variable_points(ra, dec, radius, mid_mjd, band)
        parts.append(self._asteroids(ra, dec, radius, mid_mjd, band, exposure_time))
        passed = self.passage(ra, dec, radius, mid_mjd)
        parts.append(_glints(passed, mid_mjd))
        return Scene(
            points=Points(
                *(np.concatenate([getattr(p, name) for p in parts]) for name in Points.__dataclass_fields__)
            ),
            galaxies=Galaxies(
                galaxies.id, galaxies.ra, galaxies.dec, in_band(galaxies.r, galaxies.color, band),
                galaxies.half_light_radius, galaxies.sersic_index, galaxies.axis_ratio,
                galaxies.position_angle, galaxies.color,
            ),
            trails=Trails(
                _satellite_ids(mid_mjd, len(passed.trail_width)) + 512, passed.trail_ra, passed.trail_dec,
                passed.trail_surface_magnitude, passed.trail_width, passed.trail_tumbling,
            ),
        )  # fmt: skip

    def stars(self, ra: float, dec: float, radius: float) -> CellStars:
        """The constant stars within ``radius`` degrees, at EPOCH."""
        parts = [cell_stars(self.seed, self.config, cell) for cell in cells(ra, dec, radius)]
        return _within(parts, ra, dec, radius)

    def galaxies(self, ra: float, dec: float, radius: float) -> CellGalaxies:
        """The galaxies within ``radius`` degrees."""
        parts = [cell_galaxies(self.seed, self.config, cell) for cell in cells(ra, dec, radius)]
        return _within(parts, ra, dec, radius)

    def variables(self, ra: float, dec: float, radius: float, mjd: float) -> Variables:
        """The variable sources within ``radius`` degrees: supernovae of the time, AGN, variable stars."""
        parts = []
        for cell in cells(ra, dec, radius):
            parts += [
                cell_variable_stars(self.seed, self.config, cell),
                cell_agn(self.seed, self.config, cell),
            ]
            year = int(np.floor(mjd / 365.25))
            parts += [cell_supernovae(self.seed, self.config, cell, y) for y in (year - 1, year)]
        every = join(parts)
        exploded = (mjd > every.a) & (mjd < every.a + SUPERNOVA_DAYS * (1 + every.b))
        there = (every.subtype > 3) | exploded
        return every.select(there & (separation(every.ra, every.dec, ra, dec) <= radius))

    def variable_truth(self, ra: float, dec: float, radius: float, mjd: float, band: str) -> Table:
        """The variable sources: id, kind, subtype, ra, dec, host (−1: none), magnitude in ``band``,
        explosion_mjd (supernovae; NaN for the others) and period (days).
        """
        from astropy.table import Table

        v = self.variables(ra, dec, radius, mjd)
        r, g = magnitudes(v, mjd)
        kinds = np.array([_kind(k) for k in v.subtype], "U16")
        return Table({
            "id": v.id, "kind": kinds, "subtype": np.array([SUBTYPES[k] for k in v.subtype], "U16"),
            "ra": v.ra, "dec": v.dec, "host": v.host, "magnitude": in_band(r, _finite_color(g, r), band),
            "explosion_mjd": np.where(v.subtype <= 3, v.a, np.nan), "period": v.period,
        })  # fmt: skip

    def passage(self, ra: float, dec: float, radius: float, mid_mjd: float) -> Passage:
        """The satellites and aircraft of one exposure."""
        key = [self.seed, _SATELLITE, round(mid_mjd * 864000), round((dec + 90) * 3600), round(ra * 3600)]
        return passage(self.config.satellites, ra, dec, radius, np.random.default_rng(key))

    def _variable_points(self, ra: float, dec: float, radius: float, mjd: float, band: str) -> list[Points]:
        v = self.variables(ra, dec, radius, mjd)
        r, g = magnitudes(v, mjd)
        color = _finite_color(g, r)
        m = in_band(r, color, band)
        out = []
        for kind in ("variable_star", "agn", "supernova"):
            rows = np.array([_kind(k) == kind for k in v.subtype], bool) & (m < self.config.faint_limit + 2)
            out.append(_points(v.id[rows], kind, v.ra[rows], v.dec[rows], m[rows], color[rows]))
        return out

    def _asteroids(
        self, ra: float, dec: float, radius: float, mid_mjd: float, band: str, exposure_time: float
    ) -> Points:
        half = 0.5 * exposure_time / 86400
        at_ra, at_dec, visual = apparent(self.orbits, mid_mjd, self.site)
        near = np.flatnonzero(separation(at_ra, at_dec, ra, dec) <= radius)
        (a_ra, a_dec, _), (b_ra, b_dec, _) = (
            apparent(self.orbits, mid_mjd + t, self.site) for t in (-half, half)
        )
        color = np.full(len(near), 0.55)  # of the Sun, a little redder
        east = ((b_ra - a_ra + 180) % 360 - 180) * np.cos(np.radians(at_dec)) * 3600
        out = _points(
            (np.int64(_ASTEROID) << 20) + near, "asteroid", at_ra[near], at_dec[near],
            in_band(visual[near] - 0.2, color, band), color,
        )  # fmt: skip
        return Points(
            out.id, out.kind, out.ra, out.dec, out.magnitude, out.color, east[near],
            ((b_dec - a_dec) * 3600)[near], out.defocus,
        )  # fmt: skip


def in_band(r: Floats, color: Floats, band: str) -> Floats:
    """Return magnitudes in ``band`` from r and g − r. Raises ConfigError for an unknown band."""
    if band not in BANDS:
        raise ConfigError(f"the simulated sky has the bands {', '.join(BANDS)}, not {band!r}")
    offset, slope = BANDS[band]
    return r + offset + slope * color


def moved(stars: CellStars, mjd: float) -> tuple[Floats, Floats]:
    """Return right ascension and declination (degrees) of ``stars`` at ``mjd``, proper motion applied."""
    years = 2000.0 + (mjd - 51544.5) / 365.25 - EPOCH
    dec = stars.dec + stars.pmdec * years / MAS_PER_DEGREE
    ra = stars.ra + stars.pmra * years / MAS_PER_DEGREE / np.cos(np.radians(stars.dec))
    return ra % 360.0, dec


def cells(ra: float, dec: float, radius: float) -> list[int]:
    """The HEALPix cells that a cone touches, in order."""
    return sorted(map(int, _HEALPIX.cone_search_lonlat(ra * u.deg, dec * u.deg, radius * u.deg)))


def star_counts(r: Floats, l: float, b: float) -> Floats:
    """Return stars per square degree brighter than ``r`` at galactic (l, b), degrees.

    The closed form of Bahcall & Soneira (1980, Appendix B) for disc and halo, integrated counts in V, taken
    at V = r + 0.3. It holds for |b| > 20°; closer to the plane, where dust hides most of what there is,
    the counts at 20° grow by sin 20° / sin |b|, to 3°.
    """
    m = np.asarray(r, float) + 0.3
    latitude = np.radians(max(abs(b), 20.0))
    toward = np.cos(latitude) * np.cos(np.radians(l))
    mu = np.clip(0.0075 * (m - 12) + 0.03, 0.03, 0.09)
    gamma = np.clip(0.04 * (12 - m) + 0.36, 0.04, 0.36)
    sigma = 1.45 - 0.20 * toward
    near = np.sin(latitude) * (1 - mu / np.tan(latitude) * np.cos(np.radians(l)))
    disc = 925 * 10 ** (0.035 * (m - 15.75)) / (1 + 10 ** (-0.132 * (m - 15.75))) ** 3
    halo = 1050 * 10 ** (0.087 * (m - 17.5)) / (1 + 10 ** (-0.180 * (m - 17.5))) ** 2.5
    plane = np.sin(latitude) / np.sin(np.radians(np.clip(abs(b), 3.0, 20.0))) if abs(b) < 20 else 1.0
    return plane * (disc / near ** (3 - 5 * gamma) + halo / (1 - toward) ** sigma)


@lru_cache(maxsize=4096)
def cell_stars(seed: int, config: SkyConfig, cell: int) -> CellStars:
    """The constant stars of a cell."""
    rng = np.random.default_rng([seed, _STAR, cell])
    r = _star_magnitudes(config, cell, rng, config.faint_limit)
    n = len(r)
    ra, dec = _places(cell, n, rng)
    red = rng.random(n) < np.clip(0.08 + 0.065 * (r - 14), 0.03, 0.65)  # M dwarfs take over when faint
    color = np.where(red, rng.normal(1.38, 0.10, n), rng.normal(0.50, 0.13, n) + rng.exponential(0.12, n))
    spread = 7.0 * 10 ** (-0.08 * (r - 15))  # the fainter the farther
    pm = spread * rng.standard_t(3, (2, n))
    return CellStars(_ids(_STAR, cell, n), ra, dec, r, color, pm[0], pm[1])


@lru_cache(maxsize=4096)
def cell_galaxies(seed: int, config: SkyConfig, cell: int) -> CellGalaxies:
    """The galaxies of a cell.

    Sizes follow log r50 = 0.38 − 0.13 (r − 17.8), as SDSS and deep fields together; six in ten are discs
    about n = 1 seen at random angles, the others spheroids about n = 3.5. They redden with distance as the
    4000 Å break crosses g, until it enters r: red galaxies from g − r = 0.95 at z = 0.1 to 1.6 at 0.36
    (Eisenstein+ 2001), blue ones a third as fast.
    """
    rng = np.random.default_rng([seed, _GALAXY, cell])
    at, log_n = (np.array(row) for row in GALAXY_COUNTS)
    total = 10 ** np.interp(config.faint_limit, at, log_n)
    n = int(rng.poisson(config.galaxy_factor * total * _CELL_AREA))
    ra, dec = _places(cell, n, rng)
    lowest = 10 ** log_n[0] / total
    r = np.interp(np.log10(total * np.maximum(rng.random(n), lowest)), log_n, at)
    disc = rng.random(n) < 0.6
    tilt = rng.random(n)  # cosine of the inclination
    q = np.where(disc, np.sqrt(0.04 + 0.96 * tilt**2), np.clip(rng.normal(0.75, 0.14, n), 0.35, 1.0))
    index = np.where(disc, rng.normal(1.0, 0.25, n), rng.normal(3.5, 0.9, n))
    size = 10 ** (0.38 - 0.13 * (r - 17.8) + rng.normal(0, 0.17, n))
    absolute = np.where(disc, rng.normal(-20.0, 1.0, n), rng.normal(-21.0, 0.9, n))
    redshift = np.minimum(_redshift(r - absolute), 0.36)
    color = np.where(
        disc, rng.normal(0.47, 0.14, n) + 0.8 * redshift, rng.normal(0.71, 0.10, n) + 2.4 * redshift
    )
    return CellGalaxies(
        _ids(_GALAXY, cell, n), ra, dec, r, color,
        np.clip(size, 0.08, 40.0), np.clip(index, 0.5, 6.0), q, rng.uniform(0, 180, n), r - absolute,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def cell_variable_stars(seed: int, config: SkyConfig, cell: int) -> Variables:
    """The variable stars of a cell."""
    rng = np.random.default_rng([seed, _VARIABLE, cell])
    n = int(rng.poisson(config.variable_density * _CELL_AREA))
    r = _drawn(13.0, config.variable_faint, 0.25, n, rng)
    ra, dec = _places(cell, n, rng)
    names = rng.choice(np.array(list(STAR_KINDS)), n, p=list(STAR_KINDS.values()))
    a, b, period, phase, color = star_shapes(names, rng)
    subtype = np.array([SUBTYPES.index(name) for name in names], np.int8)
    return Variables(
        _ids(_VARIABLE, cell, n), subtype, ra, dec, np.full(n, -1, np.int64), r, color, a, b, period, phase
    )


@lru_cache(maxsize=4096)
def cell_agn(seed: int, config: SkyConfig, cell: int) -> Variables:
    """The active nuclei of a cell: in the middle of galaxies, rms 0.1–0.3 mag, damping time near 200 days."""
    rng = np.random.default_rng([seed, _AGN, cell])
    galaxies = cell_galaxies(seed, config, cell)
    rows = np.flatnonzero(rng.random(len(galaxies.id)) < config.agn_fraction)
    n = len(rows)
    return Variables(
        _ids(_AGN, cell, n), np.full(n, SUBTYPES.index("AGN"), np.int8), galaxies.ra[rows],
        galaxies.dec[rows], galaxies.id[rows], galaxies.r[rows] + rng.normal(0.7, 0.8, n),
        rng.normal(0.25, 0.15, n), rng.uniform(0.1, 0.3, n), np.zeros(n), 10 ** rng.normal(2.3, 0.3, n),
        np.zeros(n),
    )  # fmt: skip


@lru_cache(maxsize=8192)
def cell_supernovae(seed: int, config: SkyConfig, cell: int, year: int) -> Variables:
    """The supernovae of a cell that explode in the year that begins at MJD 365.25 · ``year``.

    A peak magnitude is drawn as 10^(0.5 m) and a galaxy at the distance that this means, brighter ones
    oftener; the supernova lies in its light (exponential, 0.6 half-light radii). Where no galaxy fits, and
    in ``hostless_fraction`` of all cases, it has no host above the survey's limit.
    """
    rng = np.random.default_rng([seed, _SUPERNOVA, cell, year])
    n = int(rng.poisson(config.supernova_rate * _CELL_AREA))
    galaxies = cell_galaxies(seed, config, cell)
    names = rng.choice(np.array(list(SUPERNOVA_KINDS)), n, p=[v[0] for v in SUPERNOVA_KINDS.values()])
    kinds = np.array([SUPERNOVA_KINDS[name][1:] for name in names]).reshape(-1, 2)
    absolute = rng.normal(kinds[:, 0], kinds[:, 1])
    peak = _drawn(14.0, config.supernova_faint, 0.5, n, rng)
    ra, dec = _places(cell, n, rng)
    host = np.full(n, -1, np.int64)
    for k in np.flatnonzero(rng.random(n) >= config.hostless_fraction):
        off = galaxies.modulus - (peak[k] - absolute[k])
        weight = np.exp(-0.5 * (off / 0.4) ** 2) * 10 ** (-0.4 * (galaxies.r - galaxies.modulus + 20))
        if not len(weight) or weight.sum() < 1e-6:
            continue
        g = int(rng.choice(len(weight), p=weight / weight.sum()))
        host[k], peak[k] = galaxies.id[g], absolute[k] + galaxies.modulus[g]
        away, angle = 0.6 * galaxies.half_light_radius[g] * rng.gamma(2.0), rng.uniform(0, 2 * np.pi)
        along, across = away * np.cos(angle), away * galaxies.axis_ratio[g] * np.sin(angle)
        pa = np.radians(galaxies.position_angle[g])
        east, north = along * np.sin(pa) + across * np.cos(pa), along * np.cos(pa) - across * np.sin(pa)
        dec[k] = galaxies.dec[g] + north / 3600
        ra[k] = (galaxies.ra[g] + east / 3600 / np.cos(np.radians(dec[k]))) % 360.0
    redshift = np.minimum(_redshift(peak - absolute), 0.5)
    subtype = np.array([SUBTYPES.index(name) for name in names], np.int8)
    exploded = 365.25 * (year + rng.random(n))
    ids = _ids(_SUPERNOVA, cell, n) + (np.int64(year) % 512 << 11)
    color = rng.normal(0.0, 0.08, n) + np.where(names == "SN Ibc", 0.35, 0.0)
    zero = np.zeros(n)
    return Variables(ids, subtype, ra, dec, host, peak, color, exploded, redshift, zero, zero)


def _star_magnitudes(config: SkyConfig, cell: int, rng: np.random.Generator, faint: float) -> Floats:
    lon, lat = _HEALPIX.healpix_to_lonlat([cell])
    galactic = SkyCoord(lon, lat, frame="icrs").galactic
    grid = np.linspace(config.bright_limit, faint, 64)
    counts = config.star_factor * _CELL_AREA * star_counts(grid, galactic.l.deg[0], galactic.b.deg[0])
    counts = np.maximum.accumulate(counts)
    n = int(rng.poisson(max(counts[-1] - counts[0], 0)))
    return np.interp(counts[0] + rng.random(n) * (counts[-1] - counts[0]), counts, grid)


def _redshift(modulus: Floats) -> Floats:
    """Redshift at a distance modulus: d = c z (1 + (1 − q0) z / 2) / H0 with q0 = −0.55, solved for z."""
    hubble = 10 ** ((modulus + 5) / 5) / 1e6 * 70 / 299792.458
    return (np.sqrt(1 + 3.1 * hubble) - 1) / 1.55


def _drawn(bright: float, faint: float, slope: float, n: int, rng: np.random.Generator) -> Floats:
    """Magnitudes between two limits, log N rising by ``slope`` per magnitude."""
    low, high = 10 ** (slope * bright), 10 ** (slope * faint)
    return np.log10(low + rng.random(n) * (high - low)) / slope


def _places(cell: int, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Positions uniform in area: HEALPix's own coordinates of a cell conserve area."""
    dx, dy = rng.random((2, n))
    lon, lat = _HEALPIX.healpix_to_lonlat(np.full(n, cell), dx=dx, dy=dy)
    return lon.deg % 360.0, lat.deg


def _ids(stream: int, cell: int, n: int) -> NDArray[np.int64]:
    """Ids unique in the survey: cell, stream, row."""
    return (np.int64(cell + 1) << 24) + (np.int64(stream) << 20) + np.arange(n, dtype=np.int64)


def _satellite_ids(mid_mjd: float, n: int) -> NDArray[np.int64]:
    """Ids of what passes one exposure: its time in tenths of seconds, so that no two exposures share any."""
    return (np.int64(1) << 62) + (np.int64(round(mid_mjd * 864000)) << 10) + np.arange(n, dtype=np.int64)


def _within(parts: list[C], ra: float, dec: float, radius: float) -> C:
    """The rows of cells (all of one class) that lie in a cone."""
    kind = type(parts[0])
    near = [separation(p.ra, p.dec, ra, dec) <= radius for p in parts]
    return kind(
        *(
            np.concatenate([getattr(p, name)[rows] for p, rows in zip(parts, near)])
            for name in kind.__dataclass_fields__
        )
    )


def _kind(subtype: int) -> str:
    name = SUBTYPES[subtype]
    return "variable_star" if name in STARS else "agn" if name == "AGN" else "supernova"


def _finite_color(g: Floats, r: Floats) -> Floats:
    """g − r, zero where there is no light."""
    seen = np.isfinite(g) & np.isfinite(r)
    return np.where(seen, np.where(seen, g, 0) - np.where(seen, r, 0), 0.0)


def _points(
    ids: NDArray[np.int64], kind: str, ra: Floats, dec: Floats, magnitude: Floats, color: Floats
) -> Points:
    """Point sources of one kind that stand still."""
    n, zero = len(ids), np.zeros(len(ids))
    return Points(
        ids, np.full(n, POINT_KINDS.index(kind), np.int8), ra, dec, magnitude, color, zero, zero, zero
    )


def _glints(passed: Passage, mid_mjd: float) -> Points:
    n = len(passed.glint_ra)
    out = _points(
        _satellite_ids(mid_mjd, n), "satellite_glint", passed.glint_ra, passed.glint_dec,
        passed.glint_magnitude, np.full(n, 0.5),
    )  # fmt: skip
    return Points(
        out.id, out.kind, out.ra, out.dec, out.magnitude, out.color,
        passed.glint_motion[:, 0], passed.glint_motion[:, 1], passed.glint_defocus,
    )  # fmt: skip
