"""What happens to a frame, in order: one line a stage, as in the figure of a paper.

Stages take values and return new ones; what a failure ends is decided in night/.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from .candidate import Candidate
from .catalogues import ReferenceCatalogue
from .config import PipelineConfig
from .crossmatch import KnownSky, cross_match
from .detect.candidates import find_candidates
from .frame import Frame, Step
from .raw import RawFrame
from .reduce.astrometry import solve
from .reduce.calibrate import calibrate
from .reduce.cosmic_rays import flag_cosmic_rays
from .reduce.masters import Masters
from .reduce.photometry import calibrate_photometry
from .reduce.psf import fit_psf, psf_photometry
from .reduce.quality import CloudNetwork, assess
from .reduce.sources import find_sources
from .reduce.trails import flag_trails
from .subtract.align import align
from .subtract.difference import Difference
from .subtract.parts import subtract_in_parts


def reduction(
    raw: RawFrame,
    masters: Masters,
    *,
    positions: ReferenceCatalogue,
    magnitudes: ReferenceCatalogue,
    config: PipelineConfig,
    cloud_network: CloudNetwork | None = None,
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
    yield assess(frame, config=config.quality, cloud_network=cloud_network)


def measure_psf(frame: Frame, *, config: PipelineConfig) -> Frame:
    """Return ``frame`` with its PSF and PSF photometry: after and beside the main path."""
    return psf_photometry(fit_psf(frame, config=config.psf), config=config.psf)


@dataclass(frozen=True)
class Found:
    """What a template showed to have changed in a frame."""

    aligned: Frame  # the science frame on the template's grid
    difference: Difference
    candidates: tuple[Candidate, ...]  # cut or not
    steps: tuple[Step, ...]


def find_transients(science: Frame, template: Frame, *, sky: KnownSky, config: PipelineConfig) -> Found:
    """Return what differs between two calibrated frames (Sun+ 2022, Figure 6). Raises FrameError."""
    aligned = align(science, template, config=config.align)
    difference = subtract_in_parts(aligned, template, config=config.subtract, tile=config.night.dip_tile)
    started = time.perf_counter()
    candidates = find_candidates(difference, aligned, detect=config.detect, cuts=config.cuts)
    detected = time.perf_counter()
    candidates = cross_match(
        candidates, science.exposure, stars=sky.stars, galaxies=sky.galaxies, planets=sky.planets,
        config=config.crossmatch,
    )  # fmt: skip
    kept = sum(c.cut is None for c in candidates)
    steps = (
        *aligned.steps[len(science.steps) :],
        Step("subtract", difference.seconds, difference.decision),
        Step("detect", detected - started, {"n_candidates": len(candidates), "n_kept": kept}),
        Step("cross-match", time.perf_counter() - detected, {"n": sum(bool(c.matches) for c in candidates)}),
    )
    return Found(aligned, difference, candidates, steps)
