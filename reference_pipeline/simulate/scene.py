"""What is in the sky during one exposure, before optics and camera: the value between sky and renderer.

Magnitudes are AB in the exposure's band above the atmosphere; positions are ICRS degrees, apparent at the
middle of the exposure (proper and orbital motion applied).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: What a point source is; the index in this tuple is its ``kind``.
POINT_KINDS = (
    "star", "variable_star", "agn", "supernova", "asteroid", "satellite_glint",
)  # fmt: skip


@dataclass(frozen=True)
class Points:
    """Point sources, one row each. ``motion_*`` is the whole motion during the exposure, in arcsec
    (0 for what stands still): the source is drawn as a line of that length centred on (ra, dec).
    ``defocus`` is the radius in arcsec of a uniform disc it is blurred with (glints of low satellites)."""

    id: NDArray[np.int64]  # unique in the survey
    kind: NDArray[np.int8]  # index into POINT_KINDS
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    magnitude: NDArray[np.float64]
    color: NDArray[np.float64]  # g − r, mag
    motion_ra: NDArray[np.float64]  # arcsec, times cos Dec
    motion_dec: NDArray[np.float64]  # arcsec
    defocus: NDArray[np.float64]  # arcsec


@dataclass(frozen=True)
class Galaxies:
    """Sérsic galaxies, one row each; magnitude of the whole profile."""

    id: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    magnitude: NDArray[np.float64]
    half_light_radius: NDArray[np.float64]  # arcsec, along the major axis
    sersic_index: NDArray[np.float64]  # 0.5 to 6
    axis_ratio: NDArray[np.float64]  # minor / major
    position_angle: NDArray[np.float64]  # degrees, north through east
    color: NDArray[np.float64]  # g − r, mag


@dataclass(frozen=True)
class Trails:
    """Continuous satellite or aircraft trails, straight lines that may begin and end outside the frame."""

    id: NDArray[np.int64]
    ra: NDArray[np.float64]  # (n, 2): both ends, degrees
    dec: NDArray[np.float64]  # (n, 2)
    surface_magnitude: NDArray[np.float64]  # mag of one arcsec of trail
    width: NDArray[np.float64]  # arcsec, of the trail before the PSF (0: a line)
    tumbling_period: NDArray[np.float64]  # arcsec along the trail; 0: steady


@dataclass(frozen=True)
class Scene:
    """Everything in and around the field of one exposure."""

    points: Points
    galaxies: Galaxies
    trails: Trails
