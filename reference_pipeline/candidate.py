"""What a difference shows: candidates, and fluxes measured at given places."""

from __future__ import annotations

from dataclasses import dataclass, field

from multiscale.packet import CrossMatch


@dataclass(frozen=True)
class Candidate:
    """One detection on a difference, kept or cut.

    Pixels are those of the difference (the template's grid). Fluxes are electrons of the science exposure,
    positive where the source brightened. ``snr`` has the flux's sign, and is of noise alone; ``flux_err`` has
    what the PSF leaves uncertain too.
    """

    number: int  # within its difference, from 0, in the order of y, then x
    x: float
    y: float
    ra: float  # degrees, ICRS
    dec: float
    ra_err: float  # degrees, on the sky (with cos Dec)
    dec_err: float
    flux: float
    flux_err: float
    snr: float
    magnitude: float | None  # of |flux|, AB as the frame's zero point
    magnitude_err: float | None
    fwhm: float  # pixels
    elongation: float  # a / b
    position_angle: float | None  # degrees, of the major axis, from north through east
    n_pixels: int  # connected ones of the score above 0.4 of the threshold (detect/candidates.py)
    flags: int  # sep's extraction flags; 0 where sep was not used
    mask_bits: int  # MaskBit, any pixel within one FWHM
    mask_fraction: float  # of those pixels that no flux may be measured on
    edge: float  # pixels to the nearest that both images do not cover
    dipole: float  # flux of the other sign within two FWHM, in units of its own; 0: none
    cut: str | None = None  # the first cut that removed it (detect/cuts.py); None: kept
    matches: tuple[CrossMatch, ...] = field(default=())  # nearest first within each catalogue

    @property
    def is_positive(self) -> bool:
        """Whether the source brightened."""
        return self.flux > 0


@dataclass(frozen=True)
class ForcedFlux:
    """A flux measured where an object is known to be."""

    x: float
    y: float
    flux: float | None  # electrons; None where no pixel could be used
    flux_err: float | None
    limiting_magnitude: float | None  # 5 sigma there
    mask_fraction: float
    flags: tuple[str, ...] = ()  # "masked", "edge"
