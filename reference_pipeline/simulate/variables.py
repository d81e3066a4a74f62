"""Light curves of what varies, and where its sources stand: supernovae, active nuclei, variable stars.

Every light curve is a function of time alone, so that a source is the same whatever is asked in between.
Magnitudes are changes from a source's reference (r of the mean, or of the peak), brighter being negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: What a variable source is; the index in this tuple is its subtype.
SUBTYPES = (
    "SN Ia", "SN II", "SN Ibc", "SN IIn", "AGN", "RR Lyrae", "eclipsing", "Mira", "delta Scuti", "flare star",
    "cataclysmic",
)  # fmt: skip

SUPERNOVAE = SUBTYPES[:4]
STARS = SUBTYPES[5:]

#: Of supernovae in a survey limited by brightness (Li+ 2011): fraction, peak M_r, its spread.
SUPERNOVA_KINDS = {"SN Ia": (0.72, -19.2, 0.25), "SN II": (0.17, -16.9, 0.7),
                   "SN Ibc": (0.07, -17.4, 0.6), "SN IIn": (0.04, -18.4, 0.8)}  # fmt: skip

#: Of variable stars brighter than a survey's limit: fraction of each kind.
STAR_KINDS = {"RR Lyrae": 0.12, "eclipsing": 0.40, "Mira": 0.08, "delta Scuti": 0.15,
              "flare star": 0.17, "cataclysmic": 0.08}  # fmt: skip

#: Days after the explosion, and magnitudes below the peak in r and in g; straight lines between.
TEMPLATES = {
    "SN Ia": ((0, 3, 7, 12, 18, 25, 33, 45, 60, 90, 150),
              (8, 3.6, 1.5, 0.4, 0, 0.35, 0.7, 1.1, 1.9, 2.8, 4.2),
              (8, 3.6, 1.4, 0.3, 0, 0.65, 1.5, 2.5, 3.0, 3.5, 4.6)),
    "SN II": ((0, 2, 6, 12, 40, 90, 105, 120, 150), (8, 1.8, 0.4, 0, 0.1, 0.5, 1.3, 2.3, 2.7),
              (8, 1.4, 0.1, 0, 0.9, 1.9, 2.9, 3.8, 4.1)),
    "SN Ibc": ((0, 4, 10, 18, 28, 40, 60, 90, 150), (8, 2.4, 0.8, 0, 0.6, 1.4, 2.1, 2.7, 3.8),
               (8, 2.3, 0.6, 0, 1.2, 2.3, 2.9, 3.4, 4.5)),
    "SN IIn": ((0, 5, 12, 25, 60, 100, 150), (8, 2.2, 0.7, 0, 0.7, 1.4, 2.3),
               (8, 2.0, 0.6, 0, 1.0, 1.9, 3.0)),
}  # fmt: skip

#: How far a supernova is followed, days: to the end of the templates.
SUPERNOVA_DAYS = 150.0

N_MODES = 64  # of a damped random walk


@dataclass(frozen=True)
class Variables:
    """Sources that vary, one row each. ``a``, ``b``, ``period`` and ``phase`` mean what the subtype needs."""

    id: NDArray[np.int64]
    subtype: NDArray[np.int8]  # index into SUBTYPES
    ra: Floats  # degrees
    dec: Floats
    host: NDArray[np.int64]  # id of the galaxy; −1: none
    r: Floats  # AB mag, of the mean or, for supernovae and flares, of peak and quiescence
    color: Floats  # g − r, mag, at r
    a: Floats  # amplitude in mag; supernovae: MJD of the explosion
    b: Floats  # second amplitude, width or redshift
    period: Floats  # days; AGN: the damping time
    phase: Floats  # 0 to 1; AGN: the seed of its walk

    def __len__(self) -> int:
        return len(self.id)

    def select(self, rows: NDArray[np.generic]) -> Variables:
        """The sources of ``rows`` (a boolean mask or indices)."""
        return Variables(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def join(parts: list[Variables]) -> Variables:
    """All rows of ``parts``, of which there is at least one."""
    return Variables(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in Variables.__dataclass_fields__)
    )


def magnitudes(sources: Variables, mjd: float) -> tuple[Floats, Floats]:
    """Return r and g (AB mag) of ``sources`` at ``mjd``; +inf where there is nothing yet or no more."""
    dr, dg = np.zeros(len(sources)), np.zeros(len(sources))
    for index, name in enumerate(SUBTYPES):
        rows = np.flatnonzero(sources.subtype == index)
        if not len(rows):
            continue
        s = sources.select(rows)
        if name in SUPERNOVAE:
            dr[rows], dg[rows] = _supernova(name, mjd - s.a, s.b)
        elif name == "AGN":
            dr[rows] = _random_walk(s, mjd)
            dg[rows] = 1.3 * dr[rows]  # bluer when brighter
        else:
            dr[rows], dg[rows] = _star(name, s, mjd)
    return sources.r + dr, sources.r + sources.color + dg


def _supernova(name: str, days: Floats, redshift: Floats) -> tuple[Floats, Floats]:
    at, below_r, below_g = (np.asarray(row, float) for row in TEMPLATES[name])
    rest = days / (1 + redshift)  # time runs slower far away
    outside = (rest <= 0) | (rest > at[-1])
    dr, dg = np.interp(rest, at, below_r), np.interp(rest, at, below_g)
    return np.where(outside, np.inf, dr), np.where(outside, np.inf, dg)


def _random_walk(s: Variables, mjd: float) -> Floats:
    """A damped random walk of rms ``a`` and damping time ``period`` (MacLeod+ 2010).

    x(t) = a √(2/K) Σ cos(ω_k t + φ_k) with ω drawn from a Cauchy distribution of width 1/τ, whose
    characteristic function is the walk's correlation exp(−|Δt|/τ): any time in any order.
    """
    out = np.empty(len(s))
    for row in range(len(s)):
        rng = np.random.default_rng([int(s.id[row]), 7])
        omega = rng.standard_cauchy(N_MODES) / s.period[row]
        phi = rng.uniform(0, 2 * np.pi, N_MODES)
        out[row] = s.a[row] * np.sqrt(2 / N_MODES) * np.cos(omega * (mjd - 59000.0) + phi).sum()
    return out


def _star(name: str, s: Variables, mjd: float) -> tuple[Floats, Floats]:
    turns = (mjd - 59000.0) / s.period + s.phase
    t = turns % 1.0
    if name == "RR Lyrae":  # a rise in an eighth of the period, then a slow fall
        shape = np.where(t < 0.12, 0.5 - t / 0.12, -0.5 + (np.maximum(t - 0.12, 0) / 0.88) ** 0.7)
        return 0.72 * s.a * shape, s.a * shape
    if name == "eclipsing":
        depth = s.a * _dip(t, 0.0, s.b) + 0.6 * s.a * _dip(t, 0.5, s.b)
        return depth, 1.05 * depth
    if name == "Mira":
        wave = 0.5 * s.a * (np.cos(2 * np.pi * t) + 0.15 * np.cos(4 * np.pi * t))
        return wave, 1.3 * wave
    if name == "delta Scuti":
        wave = 0.5 * s.a * np.sin(2 * np.pi * t)
        return wave, 1.35 * wave
    cycle = np.floor(turns)
    moment = 0.8 * _hash(cycle, s.phase)  # outbursts and flares keep no clock: one somewhere in each cycle
    since = (t - moment) * s.period
    if name == "flare star":
        size = s.a * (0.3 + 0.7 * _hash(cycle, s.phase + 0.31))  # an exponential fall in b days
        flux = np.where(since >= 0, (10 ** (0.4 * size) - 1) * np.exp(-np.maximum(since, 0) / s.b), 0)
        return -2.5 * np.log10(1 + 0.35 * flux), -2.5 * np.log10(1 + flux)  # flares are blue
    lit = np.interp(since, [-0.1, 0.7, 0.7 + 4.0, 0.7 + 9.0], [0.0, 1.0, 0.85, 0.0], left=0, right=0)
    return -s.a * lit, -(s.a + 0.2) * lit


def _dip(t: Floats, center: float, width: Floats) -> Floats:
    away = (t - center + 0.5) % 1.0 - 0.5
    return np.exp(-0.5 * (away / width) ** 2)


def _hash(cycle: Floats, phase: Floats) -> Floats:
    """A number in [0, 1) that looks random and depends on nothing else."""
    return (np.sin(cycle * 12.9898 + phase * 78.233) * 43758.5453) % 1.0


def star_shapes(
    names: NDArray[np.str_], rng: np.random.Generator
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Draw a, b, period, phase and g − r for variable stars of kinds ``names``."""
    n = len(names)
    u = rng.random((5, n))
    a, b, period, color = np.zeros(n), np.zeros(n), np.ones(n), np.full(n, 0.5)
    ranges = {  # amplitude, second, log10 of the period in days, g − r
        "RR Lyrae": ((0.5, 1.2), (0, 0), (-0.40, -0.10), (0.15, 0.35)),
        "eclipsing": ((0.1, 1.0), (0.02, 0.09), (-0.6, 0.8), (0.3, 1.0)),
        "Mira": ((2.5, 5.0), (0, 0), (2.1, 2.65), (1.3, 1.8)),
        "delta Scuti": ((0.05, 0.4), (0, 0), (-1.4, -0.7), (0.05, 0.3)),
        "flare star": ((0.5, 3.0), (0.006, 0.03), (-0.8, 0.5), (1.3, 1.5)),
        "cataclysmic": ((2.5, 6.0), (0, 0), (1.15, 1.7), (-0.1, 0.4)),
    }
    for name, bounds in ranges.items():
        rows = names == name
        drawn = [low + (high - low) * u[k, rows] for k, (low, high) in enumerate(bounds)]
        a[rows], b[rows], period[rows], color[rows] = drawn[0], drawn[1], 10 ** drawn[2], drawn[3]
    return a, b, period, u[4], color
