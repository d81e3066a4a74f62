"""Satellites and aircraft in one exposure: glint sequences, single glints, continuous trails."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..config import Config

Floats = NDArray[np.float64]


class SatelliteConfig(Config):
    """How often, per exposure. Glints in 3.6 % of the frames are what a survey of one chip reports."""

    glint_rate: float = Field(default=0.036, ge=0, le=1)  # fraction of frames with a glint or a sequence
    single_fraction: float = Field(default=0.15, ge=0, le=1)  # of these, one glint only
    defocused_fraction: float = Field(default=0.25, ge=0, le=1)  # of sequences: low orbits
    trail_rate: float = Field(default=0.03, ge=0, le=1)  # fraction of frames with a trail
    aircraft_rate: float = Field(default=0.0005, ge=0, le=1)  # of frames with an aircraft's two lines
    bright: float = 13.0  # mag of the brightest glint
    faint: float = 20.0


@dataclass(frozen=True)
class Passage:
    """What passed during one exposure. Glints one row each, trails one row each (ends: (n, 2))."""

    glint_ra: Floats
    glint_dec: Floats
    glint_magnitude: Floats
    glint_defocus: Floats  # arcsec, radius
    glint_motion: Floats  # arcsec, (n, 2): east, north
    trail_ra: Floats
    trail_dec: Floats
    trail_surface_magnitude: Floats
    trail_width: Floats  # arcsec
    trail_tumbling: Floats  # arcsec; 0: steady


def passage(
    config: SatelliteConfig, ra: float, dec: float, radius: float, rng: np.random.Generator
) -> Passage:
    """Draw what passes a field of ``radius`` degrees around (ra, dec) in one exposure.

    A track goes through a place within 0.6 of the radius, so that it crosses the square inside the circle.
    """
    glints = [_sequence(config, radius, rng)] if rng.random() < config.glint_rate else []
    trails = []
    if rng.random() < config.trail_rate:
        steady = rng.random() < 0.6
        trails.append((*_line(radius, rng), rng.uniform(12.5, 19.0), rng.choice([0.0, 1.0]),
                       0.0 if steady else rng.uniform(20, 200)))  # fmt: skip
    if rng.random() < config.aircraft_rate:
        middle, along = _line(radius, rng)
        across = np.array([-along[1], along[0]]) * rng.uniform(20, 90) / 2
        for side in (-1, 1):
            trails.append((middle + side * across, along, rng.uniform(9.0, 12.0), rng.uniform(10, 25), 0.0))
    east_north = np.concatenate([g[0] for g in glints]) if glints else np.empty((0, 2))
    g_ra, g_dec = _offset(ra, dec, east_north)
    reach = 2.5 * radius * 3600
    ends = np.array([[m - reach * a, m + reach * a] for m, a, *_ in trails]).reshape(-1, 2, 2)
    t_ra, t_dec = _offset(ra, dec, ends)

    def column(k: int) -> Floats:
        return np.concatenate([g[k] for g in glints]) if glints else np.empty(0)

    rest = np.array([[t[2], t[3], t[4]] for t in trails], float).reshape(-1, 3)
    motion = np.concatenate([g[3] for g in glints]) if glints else np.empty((0, 2))
    return Passage(g_ra, g_dec, column(1), column(2), motion, t_ra, t_dec, *rest.T)


def _line(radius: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A place (arcsec east, north of the centre) and a direction."""
    away, where, angle = 0.6 * radius * 3600 * np.sqrt(rng.random()), *rng.uniform(0, 2 * np.pi, 2)
    return away * np.array([np.cos(where), np.sin(where)]), np.array([np.cos(angle), np.sin(angle)])


def _sequence(
    config: SatelliteConfig, radius: float, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats, Floats]:
    """Glints of one tumbling body: places (arcsec), magnitudes, defocus, motion during each."""
    middle, along = _line(radius, rng)
    n = 1 if rng.random() < config.single_fraction else int(rng.integers(3, 21))
    step = rng.uniform(5, 25)
    places = (np.arange(n) - (n - 1) / 2) * step + rng.normal(0, 0.05 * step, n)
    facets = int(rng.integers(1, 4))  # of a tumbling body: every facet has its own brightness
    facet = rng.uniform(0, 2.0, facets)
    envelope = 0.8 * ((np.arange(n) - rng.uniform(0, n)) / max(n, 2)) ** 2
    magnitude = rng.uniform(config.bright, config.faint) + facet[np.arange(n) % facets] + envelope
    defocus = rng.uniform(0.5, 2.5) if rng.random() < config.defocused_fraction else 0.0
    length = rng.choice([0.0, rng.uniform(0.2, 1.5)])  # a glint lasts milliseconds: rarely is it a line
    return (
        middle + places[:, None] * along,
        magnitude + rng.normal(0, 0.15, n),
        np.full(n, defocus),
        np.tile(length * along, (n, 1)),
    )


def _offset(ra: float, dec: float, east_north: Floats) -> tuple[Floats, Floats]:
    """Positions (degrees) at ``east_north`` (arcsec, (..., 2)) on the tangent plane of (ra, dec)."""
    xi, eta = np.moveaxis(np.radians(east_north / 3600), -1, 0)
    d = np.radians(dec)
    z = np.cos(d) - eta * np.sin(d)
    out_ra = ra + np.degrees(np.arctan2(xi, z))
    out_dec = np.degrees(np.arctan2(np.sin(d) + eta * np.cos(d), np.hypot(xi, z)))
    return out_ra % 360.0, out_dec
