"""Which detections are kept: the five cuts of Sun+ 2022, section 3.3, and two more.

The paper's list, read so that it makes sense (it excludes ELONGATION below 0.5 and FLAGS
less than 4, which cannot be meant):

    fwhm        between 1 pixel and twice the frame's FWHM
    elongation  below 6
    area        at least 4 pixels
    flags       none but that of a blend (sep's bits; SExtractor's below 4)
    edge        16 pixels from where one of the images ends
    mask        at most a fifth of the pixels within one FWHM unusable, a trail's among them
    dipole      no flux of the other sign beside it, 0.6 of its own or more: a misaligned star

On a frame whose own FWHM is below 2 pixels the least width is half of that instead of the pixel: there,
the FWHM of a faint point source scatters below a pixel (shapes.py).
"""

from __future__ import annotations

from dataclasses import replace

from ..candidate import Candidate
from ..config import Cuts

#: In the order in which they are made.
CUTS = ("fwhm", "elongation", "area", "flags", "edge", "mask", "dipole")

_BLENDED = 1  # sep's flag for a source that was separated from another


def apply_cuts(candidates: tuple[Candidate, ...], fwhm: float, cuts: Cuts) -> tuple[Candidate, ...]:
    """Return the candidates, each with the name of the first cut that it fails, or None.

    ``fwhm`` (pixels) is that of a point source in the difference.
    """
    return tuple(replace(candidate, cut=first_cut(candidate, fwhm, cuts)) for candidate in candidates)


def first_cut(candidate: Candidate, fwhm: float, cuts: Cuts) -> str | None:
    """The name of the first cut that a candidate fails; a value that is not finite fails."""
    passes = {
        "fwhm": min(cuts.min_fwhm, 0.5 * fwhm) <= candidate.fwhm <= cuts.max_fwhm * fwhm,
        "elongation": candidate.elongation < cuts.max_elongation,
        "area": candidate.n_pixels >= cuts.min_pixels,
        "flags": candidate.flags & ~_BLENDED == 0,
        "edge": candidate.edge >= cuts.edge,
        "mask": candidate.mask_fraction <= cuts.max_mask_fraction,
        "dipole": candidate.dipole < cuts.max_dipole,
    }
    return next((name for name in CUTS if not passes[name]), None)
