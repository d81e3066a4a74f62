"""Where on the sky predictions lie: equatorial and horizontal coordinates (the paper's Figures 3 and 5)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ..document import Panel
from .style import BLUE, GREY, ORANGE, VERMILLION, below, blank, panel, titled

Floats = NDArray[np.floating[Any]]
OBLIQUITY = 23.4393  # of the ecliptic, degrees, J2000
NORTH_GALACTIC_POLE = (
    192.85948,
    27.12825,
)  # RA, Dec, degrees, J2000 (ESA 1997, The Hipparcos catalogue, 1.5.3)


def horizontal(
    ra: Floats, dec: Floats, mjd: Floats, *, longitude: float, latitude: float
) -> tuple[Floats, Floats]:
    """Return altitude and azimuth (degrees; azimuth from north over east) of places at times (UTC, MJD).

    Mean sidereal time (Meeus 1998, equation 12.4, linear part), no precession, nutation, aberration or
    refraction: within half a degree for decades about 2000, enough for a drawing.
    """
    sidereal = 280.46061837 + 360.98564736629 * (np.asarray(mjd, float) - 51544.5) + longitude
    hour_angle, dec, latitude_ = np.radians(sidereal - ra), np.radians(dec), np.radians(latitude)
    up = np.sin(dec) * np.sin(latitude_) + np.cos(dec) * np.cos(latitude_) * np.cos(hour_angle)
    north = np.sin(dec) * np.cos(latitude_) - np.cos(dec) * np.sin(latitude_) * np.cos(hour_angle)
    east = -np.cos(dec) * np.sin(hour_angle)
    return np.degrees(np.arcsin(np.clip(up, -1, 1))), np.degrees(np.arctan2(east, north)) % 360


def great_circle(pole: tuple[float, float], n: int = 361) -> tuple[Floats, Floats]:
    """Return RA and Dec (degrees) along the great circle whose pole is given."""
    ra, dec = np.radians(pole)
    z = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    x = np.cross([0.0, 0.0, 1.0], z)
    x /= np.linalg.norm(x)
    turn = np.linspace(0, 2 * np.pi, n)
    points = np.outer(np.cos(turn), x) + np.outer(np.sin(turn), np.cross(z, x))
    return np.degrees(np.arctan2(points[:, 1], points[:, 0])) % 360, np.degrees(np.arcsin(points[:, 2]))


def draw_equatorial(name: str, title: str, ra: Floats, dec: Floats, is_right: NDArray[np.bool_]) -> Panel:
    """Draw places on the whole sky, east to the left; the galactic plane and the ecliptic are lines."""
    figure, axes = blank(4.4, 2.75, projection="mollweide")
    for pole, color, style, words in (
        (NORTH_GALACTIC_POLE, ORANGE, "-", "galactic plane"),
        ((270.0, 90 - OBLIQUITY), GREY, "--", "ecliptic"),
    ):
        x, y = _on_map(*great_circle(pole))
        order = np.argsort(x)
        axes.plot(x[order], y[order], color=color, ls=style, lw=1.3, label=words, zorder=1)
    _scatter(axes, *_on_map(ra, dec), is_right)
    axes.set_xticklabels([])
    axes.tick_params(labelsize=6, colors=GREY)
    axes.grid(alpha=0.3, lw=0.4)
    titled(axes, f"{title}: {len(ra):,}")
    below(figure, 4)
    return panel(figure, name, f"Sky positions of {len(ra)} stamps called {title}, {_right(is_right)}.")


def draw_horizontal(
    name: str, title: str, altitude: Floats, azimuth: Floats, is_right: NDArray[np.bool_]
) -> Panel:
    """Draw places about the zenith, north up, east to the right as on a compass."""
    figure, axes = blank(3.6, 3.7, projection="polar")
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    _scatter(axes, np.radians(azimuth), 90 - altitude, is_right)
    axes.set_rlim(0, 90)
    axes.set_rticks([30, 60, 90], ["60°", "30°", "0°"], fontsize=6.5, color=GREY)
    axes.set_xticks(np.radians([0, 90, 180, 270]), ["N", "E", "S", "W"])
    axes.grid(alpha=0.35, lw=0.5)
    titled(axes, f"{title}: {len(altitude):,}")
    below(figure, 2)
    south = float(np.mean((azimuth > 90) & (azimuth < 270))) if len(azimuth) else 0.0
    alt = f"Altitude and azimuth of {len(altitude)} stamps called {title}, {_right(is_right)}"
    alt += f"; {south:.0%} to the south."
    return panel(figure, name, alt)


def _on_map(ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
    """Radians for a map with RA 180° in the middle, growing to the left."""
    return -np.radians(np.asarray(ra, float) % 360 - 180), np.radians(np.asarray(dec, float))


def _scatter(axes: Axes, x: Floats, y: Floats, is_right: NDArray[np.bool_]) -> None:
    size = float(np.clip(900 / max(len(x), 1), 2, 12))
    for chosen, color, marker, words in (
        (is_right, BLUE, "o", "right"),
        (~is_right, VERMILLION, "x", "wrong"),
    ):
        axes.scatter(
            x[chosen], y[chosen], s=size * (1 if marker == "o" else 1.8), c=color, marker=marker,
            lw=0 if marker == "o" else 0.8, alpha=0.65, rasterized=True, zorder=3,
            label=f"{words} ({int(chosen.sum()):,})",
        )  # fmt: skip


def _right(is_right: NDArray[np.bool_]) -> str:
    return f"{float(is_right.mean()):.0%} of them rightly" if len(is_right) else "none"
