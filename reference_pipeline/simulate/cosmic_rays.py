"""Particles through the chip: straight tracks of muons, crooked ones of slow electrons, spots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .detector import Detector

#: Electrons a fast muon frees per micrometre of silicon, most probable value (Bichsel 1988: about 75).
ELECTRONS_PER_MICROMETRE = 75.0

#: Of all events: muons. The others are electrons of radioactive decay, which scatter ("worms") or stop.
MUON_FRACTION = 0.75

_STEP = 0.1  # pixels between the points a track is drawn with
_DIFFUSION = 0.28  # pixels, rms, that charge wanders before it is collected


def cosmic_rays(
    detector: Detector, exposure_time: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return (y, x, electrons) of the pixels of the imaging area that particles hit during an exposure.

    Each pixel once, in the order of (y, x). ``exposure_time`` in seconds, the readout not included.
    """
    ny, nx = detector.shape
    n = int(rng.poisson(detector.cosmic_ray_rate * exposure_time * ny * nx / 1e6))
    tracks = [_track(detector, rng) for _ in range(n)]
    if not tracks:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    starts = rng.uniform(0, 1, (n, 2)) * (ny, nx)
    points = np.concatenate([place + start for (place, _), start in zip(tracks, starts)])
    electrons = np.concatenate([charge for _, charge in tracks])
    points = np.floor(points + rng.normal(0, _DIFFUSION, points.shape)).astype(np.int64)
    inside = ((points >= 0) & (points < (ny, nx))).all(axis=1)
    index = points[inside, 0] * nx + points[inside, 1]
    pixels, which = np.unique(index, return_inverse=True)
    total = np.round(np.bincount(which, electrons[inside]))
    seen = total > 0
    return pixels[seen] // nx, pixels[seen] % nx, total[seen].astype(np.float32)


def _track(detector: Detector, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (y, x) in pixels from where the particle enters, and the electrons freed at each."""
    azimuth = rng.uniform(0, 2 * np.pi)
    if rng.random() < MUON_FRACTION:
        # cos² of the zenith angle for the flux, a cosine for the area a flat chip offers; u = cos⁴
        cos = np.sqrt(np.sqrt(rng.uniform(1e-4, 1)))
        path = detector.thickness / cos  # micrometres
        flat = detector.thickness * np.sqrt(1 - cos**2) / cos / detector.pixel_size  # pixels on the chip
        along = np.linspace(0, 1, max(2, int(flat / _STEP) + 1))[:, None]
        place = along * flat * np.array([[np.sin(azimuth), np.cos(azimuth)]])
        per_point = path / len(place)
        mean = ELECTRONS_PER_MICROMETRE
    else:
        length = rng.exponential(8.0)  # pixels
        n = max(2, int(length / _STEP) + 1)
        heading = azimuth + np.cumsum(rng.normal(0, 0.12, n))  # scattering: the direction wanders
        place = _STEP * np.cumsum(np.stack([np.sin(heading), np.cos(heading)], axis=1), axis=0)
        per_point = _STEP * detector.pixel_size
        mean = 2.5 * ELECTRONS_PER_MICROMETRE  # slow: it loses more on its way
    # Losses fluctuate from stretch to stretch, with a long tail (Landau): a log-normal has both.
    stretches = -(-len(place) // 10)
    fluctuation = np.repeat(rng.lognormal(0, 0.45, stretches), 10)[: len(place)]
    return place, mean * per_point * fluctuation
