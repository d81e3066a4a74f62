"""Raw frames as files: FITS as a camera's control computer writes it, with ordinary keywords."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from multiscale.atomic import replacing

from ..errors import ConfigError
from ..frame import Exposure
from .telescope import Telescope

if TYPE_CHECKING:
    from astropy.io.fits import Header

_KINDS = {"bias": "bias", "dark": "dark", "flat": "flat", "science": "object"}


def write_raw(path: str | Path, raw: NDArray[np.uint16], exposure: Exposure, telescope: Telescope) -> None:
    """Write ``raw`` (ADU, the whole raw file) to ``path``, whole or not at all.

    RA and DEC are those of ``exposure``: where the mount meant to point, not where it did. Raises
    ConfigError if the array is not of the camera's raw shape.
    """
    from astropy.io import fits

    if raw.shape != telescope.detector.raw_shape or raw.dtype != np.uint16:
        raise ConfigError(
            f"raw frame {exposure.id}: {raw.dtype} of shape {raw.shape}, "
            f"expected uint16 of {telescope.detector.raw_shape}"
        )
    with replacing(path) as partial:
        fits.PrimaryHDU(raw, raw_header(exposure, telescope)).writeto(partial, output_verify="exception")


def raw_header(exposure: Exposure, telescope: Telescope) -> Header:
    """Return the header of a raw file: what the control computer knows."""
    from astropy.io import fits
    from astropy.time import Time

    camera = telescope.detector.camera
    start = Time(exposure.start_mjd, format="mjd", scale="utc", precision=3)
    cards = [
        ("IMAGETYP", _KINDS[exposure.kind], "kind of frame"),
        ("OBSID", exposure.id, "name of the exposure"),
        ("EXPTIME", exposure.exposure_time, "[s] shutter open"),
        ("DATE-OBS", start.isot, "UTC, shutter opens"),
        ("TIMESYS", "UTC", "of DATE-OBS"),
        ("MJD-OBS", exposure.start_mjd, "[d] UTC, shutter opens"),
        ("FILTER", exposure.band, "band"),
        ("OBJECT", exposure.object_name, None),
        ("FIELDID", exposure.field_id, "field of the survey"),
        ("RA", exposure.ra, "[deg] ICRS, commanded"),
        ("DEC", exposure.dec, "[deg] ICRS, commanded"),
        ("AIRMASS", exposure.airmass, None),
        ("TELESCOP", telescope.name, None),
        ("INSTRUME", camera.name, None),
        ("GAIN", camera.gain, "[electron/adu]"),
        ("RDNOISE", camera.read_noise, "[electron]"),
        ("SATURATE", camera.saturation, "[adu] raw"),
        ("PIXSCALE", camera.pixel_scale, "[arcsec]"),
        ("BIASSEC", camera.overscan, "overscan"),
        ("TRIMSEC", camera.trim, "pixels that see light"),
        ("BUNIT", "adu", None),
        ("SIMULATE", True, "made by a simulation"),
    ]
    return fits.Header([card for card in cards if card[1] is not None])
