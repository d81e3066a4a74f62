"""What is true of a simulated frame, and its file.

The file is FITS: the exposure, conditions and scalars in the primary header, then the mask (compressed) with
the true WCS, the transmission, and tables of sources, cosmic rays and trails.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from multiscale.atomic import replacing

from ..errors import FileError
from ..frame import Exposure, MaskBit, ZeroPoint
from .atmosphere import Conditions

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.wcs import WCS


class TruthBit(IntFlag):
    """The bits of a truth's mask (uint16); those of MaskBit where they mean the same."""

    BAD = MaskBit.BAD.value
    SATURATED = MaskBit.SATURATED.value  # at the full well, or bled into
    COSMIC_RAY = MaskBit.COSMIC_RAY.value
    TRAIL = MaskBit.TRAIL.value
    FAULT = 256  # of the readout: jumps within a line, bursts of pickup
    SPIKE = 512  # diffraction spikes of bright stars
    GHOST = 1024
    GLINT = 2048  # of a satellite


@dataclass(frozen=True)
class FrameTruth:
    """What is true of a simulated raw frame; pixels are those of its imaging area, (0, 0) its first one."""

    exposure: Exposure  # as the header says it: the pointing is where the mount meant to be
    shape: tuple[int, int]  # (ny, nx)
    mask: NDArray[np.uint16]  # TruthBit
    cosmic_rays: Table  # y, x, electrons: what particles freed, one row a pixel
    sky: float = 0.0  # electrons per pixel, mean over the frame
    fault: str | None = None  # of a flat that cannot be used: too-bright, too-faint, star-trail
    conditions: Conditions | None = None
    wcs: WCS | None = None
    zero_point: ZeroPoint | None = None  # of electrons after a flat whose median is one
    transmission: NDArray[np.float64] | None = None  # of the air, nodes (simulate/atmosphere.py)
    fwhm: float | None = None  # pixels, of a point source at the middle of the chip
    sources: Table | None = (
        None  # id, kind, x, y, flux (electrons above the chip), clipped (fraction outside)
    )
    trails: Table | None = None  # id, x1, y1, x2, y2, width at half maximum; pixels

    def has(self, bits: TruthBit) -> NDArray[np.bool_]:
        """True where the mask has any of ``bits``."""
        return (self.mask & np.uint16(bits)) != 0


def write_truth(path: str | Path, truth: FrameTruth) -> None:
    """Write ``truth`` to ``path``, whole or not at all."""
    from astropy.io import fits

    header = fits.Header()
    header["EXPOSURE"] = json.dumps(dataclasses.asdict(truth.exposure))
    for keyword, value in (("SKY", truth.sky), ("FAULT", truth.fault), ("FWHM", truth.fwhm)):
        if value is not None:
            header[keyword] = value
    if truth.conditions is not None:
        header["CONDITNS"] = truth.conditions.model_dump_json()
    if truth.zero_point is not None:
        header["ZEROPNT"] = json.dumps(dataclasses.asdict(truth.zero_point))
    sky = None if truth.wcs is None else truth.wcs.to_header(relax=True)
    parts = [
        fits.PrimaryHDU(header=header),
        fits.CompImageHDU(
            truth.mask, sky, name="MASK", compression_type="RICE_1"
        ),  # gzip would write the time,
    ]
    if truth.transmission is not None:
        parts.append(fits.ImageHDU(truth.transmission, name="TRANSMISSION"))
    for name in ("cosmic_rays", "sources", "trails"):
        if getattr(truth, name) is not None:
            parts.append(fits.BinTableHDU(getattr(truth, name), name=name.upper()))
    with replacing(path) as partial:
        fits.HDUList(parts).writeto(partial, output_verify="exception")


def read_truth(path: str | Path) -> FrameTruth:
    """Return the truth in ``path``. Raises FileError where it is not a truth's file."""
    from astropy.io import fits
    from astropy.table import Table
    from astropy.wcs import WCS

    try:
        with fits.open(path, memmap=False) as parts:
            header = parts[0].header
            names = {part.name for part in parts}
            tables = {
                name: Table(parts[name.upper()].data) if name.upper() in names else None
                for name in ("cosmic_rays", "sources", "trails")
            }
            mask = np.asarray(parts["MASK"].data, np.uint16)
            sky = parts["MASK"].header
            zero_point = json.loads(header["ZEROPNT"]) if "ZEROPNT" in header else None
            return FrameTruth(
                exposure=Exposure(**json.loads(header["EXPOSURE"])),
                shape=mask.shape,
                mask=mask,
                conditions=Conditions.model_validate_json(header["CONDITNS"])
                if "CONDITNS" in header
                else None,
                wcs=WCS(sky) if "CTYPE1" in sky else None,
                zero_point=zero_point
                and ZeroPoint(**{**zero_point, "spatial": tuple(zero_point["spatial"])}),
                transmission=(
                    np.asarray(parts["TRANSMISSION"].data, float) if "TRANSMISSION" in names else None
                ),
                sky=header["SKY"],
                fault=header.get("FAULT"),
                fwhm=header.get("FWHM"),
                **tables,
            )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise FileError(Path(path).stem, "truth", "not-a-truth", f"{path}: {error}") from error
