"""The air above the telescope during one exposure: seeing, extinction, cloud, and the light of the sky.

Maps are given by an ``(n, n)`` grid over the frame whose first and last nodes are its edges; :func:`at_rows`
evaluates a map for any strip of rows through cubic splines.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..config import Config

#: Nodes of a map along each axis.
N_NODES = 49
#: Degrees of the piece of sky that clouds are drawn for, and nodes along each of its sides.
CLOUD_PATCH, CLOUD_NODES = 6.0, 240
#: Degrees of the shortest waves: of high cloud, and of patches, which drift while the shutter is open.
THIN_WAVES, PATCHY_WAVES = 1.0, 0.15

_LN10 = np.log(10.0)


class Conditions(Config):
    """What the air is like. Angles in degrees from the chip's +x axis towards +y; magnitudes per airmass."""

    seeing_fwhm: float = Field(default=1.5, gt=0)  # arcsec, at this airmass, without optics and jitter
    sky_brightness: float = 21.0  # mag per square arcsec in the exposure's band, as seen from the ground
    extinction: float = Field(default=0.15, ge=0)  # mag per airmass
    jitter: float = Field(default=0.0, ge=0)  # arcsec, rms of the guiding along jitter_angle
    jitter_angle: float = 0.0
    cloud: Literal["none", "thin", "patchy"] = "none"
    cloud_depth: float = Field(default=0.0, ge=0)  # mag: mean of thin, deepest of patchy, over 6° of sky
    cloud_light: float = Field(
        default=1.0, ge=0
    )  # brightness of thick cloud relative to the clear sky: below 1 on dark nights, above under a Moon
    moon_gradient: float = Field(default=0.0, ge=0)  # of the sky, from the centre to the edge
    moon_angle: float = 0.0  # where the sky is brightest
    zenith_angle: float = 90.0  # where the zenith lies


def transmission(
    conditions: Conditions, airmass: float, field: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the transmission of the air over ``field`` = (height, width) in degrees, (N_NODES, N_NODES).

    Relative to above the atmosphere: 10^(−0.4 (k X + cloud)), the airmass X growing across the frame by
    dX/dz = X √(X² − 1), with X = sec z (plane-parallel).
    """
    v, u = np.meshgrid(np.linspace(-0.5, 0.5, N_NODES), np.linspace(-0.5, 0.5, N_NODES), indexing="ij")
    towards = np.radians(conditions.zenith_angle)
    z = -np.radians(u * field[1] * np.cos(towards) + v * field[0] * np.sin(towards))
    x = airmass + airmass * np.sqrt(max(airmass**2 - 1, 0.0)) * z
    depth = conditions.extinction * np.maximum(x, 1.0) + cloud_depth(conditions, field, rng)
    return np.exp(-0.4 * _LN10 * depth)


def cloud_depth(
    conditions: Conditions, field: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the extinction by cloud in mag over ``field`` = (height, width) in degrees, (N_NODES, N_NODES).

    A field with the power spectrum k^(−11/3) of turbulence in two dimensions, drawn for CLOUD_PATCH degrees,
    in which the frame lies anywhere: a small frame sees an even cloud, or a hole, oftener than an edge. Thin:
    high cloud, log-normal about the depth with rms 8 %. Patchy: what of the patch is above its median, so
    that nearly half of it is clear, up to the depth.
    """
    if conditions.cloud == "none" or conditions.cloud_depth == 0:
        return np.zeros((N_NODES, N_NODES))
    if conditions.cloud == "thin":
        patch = conditions.cloud_depth * np.exp(0.08 * _turbulence(rng, shortest=THIN_WAVES))
        return _seen(patch, field, rng)
    turbulence = _turbulence(rng, shortest=PATCHY_WAVES)
    above = turbulence - np.median(turbulence) + 0.15
    # the edge of a cloud is cut after the patch is interpolated, which would ring at it
    return np.maximum(conditions.cloud_depth * _seen(above / above.max(), field, rng), 0)


def sky_gradient(conditions: Conditions) -> NDArray[np.float64]:
    """Return the sky's brightness over the frame relative to its mean, (N_NODES, N_NODES).

    Moonlight falls off across the field, faster close to the Moon.
    """
    v, u = np.meshgrid(np.linspace(-1, 1, N_NODES), np.linspace(-1, 1, N_NODES), indexing="ij")
    angle = np.radians(conditions.moon_angle)
    t = u * np.cos(angle) + v * np.sin(angle)
    out = 1 + conditions.moon_gradient * (t + 0.3 * t**2)
    return out / out.mean()


def twilight_gradient(rng: np.random.Generator, *, amplitude: float = 0.004) -> NDArray[np.float64]:
    """Return the brightness of the twilight sky over the frame, mean one, (N_NODES, N_NODES).

    A plane whose direction changes from flat to flat as the telescope dithers and rotates.
    """
    v, u = np.meshgrid(np.linspace(-1, 1, N_NODES), np.linspace(-1, 1, N_NODES), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    return 1 + amplitude * (u * np.cos(angle) + v * np.sin(angle))


def at_rows(nodes: NDArray[np.float64], shape: tuple[int, int], rows: slice) -> NDArray[np.float32]:
    """Return the map of ``nodes`` at the pixels of ``rows`` of a frame of ``shape`` (ny, nx), float32."""
    ny, nx = shape
    along_y = _weights(len(nodes), (np.arange(rows.start, rows.stop) + 0.5) / ny)
    along_x = _weights(nodes.shape[1], (np.arange(nx) + 0.5) / nx)
    return (along_y @ nodes.astype(np.float32)) @ along_x.T


def at_points(
    nodes: NDArray[np.float64], shape: tuple[int, int], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the map of ``nodes`` at pixels (x, y); outside the frame, its nearest edge."""
    along_y = _weights(len(nodes), np.clip((y + 0.5) / shape[0], 0, 1))
    along_x = _weights(nodes.shape[1], np.clip((x + 0.5) / shape[1], 0, 1))
    return np.einsum("ij,jk,ik->i", along_y, nodes, along_x, dtype=np.float64)


def _weights(n: int, t: NDArray[np.float64]) -> NDArray[np.float32]:
    """The weights of ``n`` nodes over [0, 1] in the cubic spline through them, at ``t``: (len(t), n)."""
    from scipy.interpolate import CubicSpline

    return CubicSpline(np.linspace(0, 1, n), np.eye(n))(t).astype(np.float32)


def _turbulence(rng: np.random.Generator, *, shortest: float) -> NDArray[np.float64]:
    """A random field, mean 0 and rms 1, periodic over the patch, with waves from ``shortest`` degrees on."""
    n = CLOUD_NODES
    k = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None, :]) * n  # waves in the patch
    k[0, 0] = np.inf
    amplitude = k ** (-11 / 6) * np.exp(-((k * shortest / CLOUD_PATCH) ** 2))
    waves = amplitude * (rng.standard_normal(k.shape) + 1j * rng.standard_normal(k.shape))
    patch = np.fft.irfft2(waves, s=(n, n))
    return (patch - patch.mean()) / patch.std()


def _seen(
    patch: NDArray[np.float64], field: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Of a patch, what a frame of ``field`` degrees at a random place sees, (N_NODES, N_NODES)."""
    from scipy.ndimage import map_coordinates

    centre = rng.uniform(0, CLOUD_NODES, 2)
    steps = np.linspace(-0.5, 0.5, N_NODES) * CLOUD_NODES / CLOUD_PATCH
    y, x = np.meshgrid(centre[0] + steps * field[0], centre[1] + steps * field[1], indexing="ij")
    return np.asarray(map_coordinates(patch, [y, x], order=3, mode="grid-wrap"), np.float64)
