"""What happens to a frame, in order: one line a stage, as in the figure of a paper.

Stages take values and return new ones; what a failure ends is decided in night/.
"""

from __future__ import annotations

from collections.abc import Iterator

from .catalogues import ReferenceCatalogue
from .config import PipelineConfig
from .frame import Frame
from .raw import RawFrame
from .reduce.astrometry import solve
from .reduce.calibrate import calibrate
from .reduce.cosmic_rays import flag_cosmic_rays
from .reduce.masters import Masters
from .reduce.photometry import calibrate_photometry
from .reduce.psf import fit_psf, psf_photometry
from .reduce.quality import assess
from .reduce.sources import find_sources
from .reduce.trails import flag_trails


def reduction(
    raw: RawFrame,
    masters: Masters,
    *,
    positions: ReferenceCatalogue,
    magnitudes: ReferenceCatalogue,
    config: PipelineConfig,
) -> Iterator[Frame]:
    """Yield the frame after each step of the main path (Sun+ 2022, Figure 1). Raises FrameError."""
    camera = config.camera
    frame = calibrate(raw, masters, camera=camera, config=config.calibrate)
    yield frame
    frame = flag_cosmic_rays(frame, config=config.cosmic_rays)
    yield frame
    frame = flag_trails(frame, config=config.trails)
    yield frame
    frame = find_sources(frame, config=config.sources)
    yield frame
    frame = solve(
        frame, positions, pixel_scale=camera.pixel_scale, parity=camera.parity, config=config.astrometry
    )
    yield frame
    frame = calibrate_photometry(frame, magnitudes, config=config.photometry)
    yield frame
    yield assess(frame, config=config.quality)


def measure_psf(frame: Frame, *, config: PipelineConfig) -> Frame:
    """Return ``frame`` with its PSF and PSF photometry: after and beside the main path."""
    return psf_photometry(fit_psf(frame, config=config.psf), config=config.psf)
