"""A small subtracted pair with candidates where sources were added, for the tests of what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from star_field import Truth, make_frame, random_stars

from multiscale.packet import CrossMatch
from reference_pipeline.candidate import Candidate
from reference_pipeline.config import PsfFit, Sources, Subtract
from reference_pipeline.frame import Exposure, Frame, MaskBit, Quality, Step, ZeroPoint
from reference_pipeline.reduce.psf import fit_psf
from reference_pipeline.reduce.sources import find_sources
from reference_pipeline.subtract.difference import Difference, subtract

SHAPE = (320, 360)
SCALE = 1.0  # arcsec
SKY = 200.0
STEPS = (
    Step("calibrate", 0.31, {"n_bad": 12, "overscan": "median per line"}),
    Step(
        "align",
        0.12,
        {"overlap": 0.98, "dx": -0.013, "why": "a long é reason, " * 20, "none": None, "ok": True},
    ),
)
NAMES = ("NGC 1", "O'Brien's  star ", 'α "quoted" \\ {}', "")


@dataclass(frozen=True)
class Field:
    aligned: Frame
    template: Frame
    difference: Difference
    candidates: tuple[Candidate, ...]


@lru_cache(maxsize=1)
def field() -> Field:
    """Twelve added sources, one of them near an edge; a bad column and a corner that the template lacks."""
    rng = np.random.default_rng(11)
    stars = random_stars(rng, SHAPE, 160, flux=(1500.0, 2e5), margin=8)
    x = np.r_[rng.uniform(40, 320, 11), 5.3]
    y = np.r_[rng.uniform(40, 280, 11), 100.2]
    flux = np.geomspace(1500, 12000, 12)
    both = Truth(np.r_[stars.x, x], np.r_[stars.y, y], np.r_[stars.flux, flux])
    template = _measured(make_frame(rng, stars, SHAPE, sky=SKY, fwhm=2.8), "template")
    science = _measured(make_frame(rng, both, SHAPE, sky=SKY, fwhm=3.4), "n1-F17-g-0007")
    mask = science.mask.copy()
    mask[:, 200] |= np.uint16(MaskBit.BAD)
    science = replace(science, mask=mask)
    mask = template.mask.copy()
    mask[:30, :30] |= np.uint16(MaskBit.OFF_IMAGE)
    template = replace(template, mask=mask)
    difference = subtract(science, template, config=Subtract(half_width=4, degree=0))
    ra, dec = science.wcs.all_pix2world(x, y, 0)
    order = np.lexsort((x, y))
    candidates = tuple(_candidate(n, x[i], y[i], ra[i], dec[i], flux[i]) for n, i in enumerate(order))
    return Field(science, template, difference, candidates)


def _measured(frame: Frame, name: str) -> Frame:
    exposure = Exposure(
        name, "test", "science", 60310.25, 60.0, band="g", ra=150.0, dec=30.0, airmass=1.2, field_id="F17"
    )
    frame = replace(
        frame, exposure=exposure, zero_point=ZeroPoint(25.0, 0.01, "g", (0.0, 0.02, 0.0, 0.0, 0.0, 0.0))
    )
    frame = fit_psf(find_sources(frame, config=Sources()), config=PsfFit())
    stars = frame.sources[frame.sources["is_calibration"]]
    return replace(frame, quality=Quality(float(np.median(stars["fwhm"])), 0.02, SKY, 15.0, 20.5, 0.998))


def _candidate(number, x, y, ra, dec, flux) -> Candidate:
    sign = -1 if number % 4 == 1 else 1
    match = CrossMatch(
        catalog="GLADE+", source_id=NAMES[number % 4], kind="galaxy", separation=1.5, properties={"d_L": 40.5}
    )
    return Candidate(
        number=number, x=float(x), y=float(y), ra=float(ra), dec=float(dec), ra_err=2e-5, dec_err=3e-5,
        flux=sign * float(flux), flux_err=130.0, snr=sign * float(flux) / 130.0,
        magnitude=None if number == 3 else 17.5, magnitude_err=None if number == 3 else 0.05, fwhm=3.4,
        elongation=1.1, position_angle=None if number == 2 else 33.0, n_pixels=14, flags=0,
        mask_bits=int(MaskBit.BAD | MaskBit.SUSPECT) if number == 4 else 0, mask_fraction=0.1,
        edge=float(min(x, y)), dipole=0.05, cut={1: "edge", 5: "dipole", 6: "edge"}.get(number),
        matches=(match,) * (number % 3),
    )  # fmt: skip
