"""A calibrated frame as a FITS file: everything later stages and other people's tools need of it.

    PRIMARY   no data; the exposure, the numbers of every step, ``RPINPUT`` (what it was made from)
    SCI       float32, electrons, with the WCS (TAN-SIP), the zero point and its spatial term
    VAR       float32, electrons²
    MASK      uint16, the bits named in the header (``MSK0`` …)
    BKG       float32, electrons: the background map, which is not subtracted from SCI
    SOURCES   table: everything measured of the sources
    PSF       float64 (n_terms, size, size): terms of the PSF polynomial
    THUMB     uint8 (256, 256)
    STEPS     table: name, seconds and decision (JSON) of each step

Extensions without content are left out. ``read_product`` gives back an equal Frame.
"""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS, FITSFixedWarning

from multiscale.atomic import replacing

from .errors import FileError
from .frame import Exposure, Frame, MaskBit, Quality, Step, ZeroPoint
from .psf import Psf
from .version import __version__

INPUT_KEYWORD = "RPINPUT"
_HIERARCH_ROOM = 60  # characters of keyword and value that fit on one card


def write_product(path: Path, frame: Frame, *, input_digest: str = "", status: str = "calibrated") -> None:
    """Write ``frame`` to ``path``, whole or not at all. ``status`` goes to the header's STATUS."""
    primary = fits.PrimaryHDU(header=_header(frame, input_digest, status))
    hdus: list[fits.hdu.base.ExtensionHDU] = [
        fits.ImageHDU(frame.data, science_header(frame), name="SCI"),
        fits.ImageHDU(frame.variance, name="VAR"),
        fits.ImageHDU(frame.mask, mask_header(), name="MASK"),
    ]
    if frame.background is not None:
        hdus.append(fits.ImageHDU(frame.background, name="BKG"))
    if frame.sources is not None:
        hdus.append(fits.BinTableHDU(frame.sources, name="SOURCES"))
    if frame.psf is not None:
        header = fits.Header({"DEGREE": frame.psf.degree, "OVERSAMP": frame.psf.oversampling})
        hdus.append(fits.ImageHDU(frame.psf.images, header, name="PSF"))
    if frame.thumbnail is not None:
        hdus.append(fits.ImageHDU(frame.thumbnail, name="THUMB"))
    hdus.append(_steps_table(frame.steps))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        fits.HDUList([primary, *hdus]).writeto(partial)


def read_product(path: Path) -> Frame:
    """Return the frame that :func:`write_product` wrote. Raises FileError for anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            with fits.open(path, memmap=False) as hdus:
                return _frame(hdus)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FileError(path.stem, "read", "not-a-product", f"{path.name}: {error}") from error


@dataclass(frozen=True)
class Summary:
    """What a product's headers say: enough to choose and to queue it, without its pixels."""

    path: Path
    exposure: Exposure
    status: str
    input_digest: str
    shape: tuple[int, int]  # (ny, nx)
    wcs: WCS | None
    zero_point: ZeroPoint | None
    quality: Quality | None
    steps: tuple[Step, ...]
    thumbnail: np.ndarray | None  # uint8 (256, 256)
    has_psf: bool

    @property
    def id(self) -> str:
        """The exposure's id."""
        return self.exposure.id


def read_summary(path: Path) -> Summary:
    """Return what the headers of a product say. Raises FileError where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            with fits.open(path) as hdus:
                header, science = hdus[0].header, hdus["SCI"].header
                return Summary(
                    path, _exposure(header), str(header["STATUS"]), str(header[INPUT_KEYWORD]),
                    (science["NAXIS2"], science["NAXIS1"]), WCS(science) if "CTYPE1" in science else None,
                    zero_point_of(science), _quality(header), _steps(hdus["STEPS"]),
                    native(hdus["THUMB"].data) if "THUMB" in hdus else None, "PSF" in hdus,
                )  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FileError(path.stem, "read", "not-a-product", f"{path.name}: {error}") from error


def input_digest_of(path: Path) -> str | None:
    """Return what the product at ``path`` says it was made from; None where there is no readable product."""
    try:
        with fits.open(path) as hdus:
            return str(hdus[0].header.get(INPUT_KEYWORD, "")) or None
    except OSError:
        return None


def status_of(path: Path) -> str:
    """Return the STATUS of a product."""
    return str(fits.getheader(path)["STATUS"])


def _header(frame: Frame, input_digest: str, status: str) -> fits.Header:
    header = fits.Header()
    header["STATUS"] = (status[:60], "calibrated, or where and why it ended")
    header["CREATOR"] = f"reference-pipeline {__version__}"
    header[INPUT_KEYWORD] = input_digest  # no room for a comment
    for field in fields(Exposure):
        value = getattr(frame.exposure, field.name)
        if value is not None:
            header[f"HIERARCH RP EXPOSURE {field.name.upper()}"] = value
    header["GAIN"] = (frame.gain, "electrons per ADU of the raw frame")
    if frame.quality is not None:
        for name, value in asdict(frame.quality).items():
            if value is not None and math.isfinite(value):
                header[f"HIERARCH RP QUALITY {name.upper()}"] = value
    for step in frame.steps:
        card = f"HIERARCH RP {step.name.upper()}"
        header[f"{card} SECONDS"] = round(step.seconds, 4)
        for name, value in step.decision.items():
            room = _HIERARCH_ROOM - len(card) - len(name)
            if isinstance(value, str):
                value = value.encode("ascii", "replace").decode()[: max(room, 8)]
            elif isinstance(value, float) and not math.isfinite(value):
                value = str(value)
            header[f"{card} {name.upper()}"] = value
    return header


def science_header(frame: Frame) -> fits.Header:
    """The header of an image in the frame's electrons: WCS, unit, zero point."""
    header = fits.Header() if frame.wcs is None else frame.wcs.to_header(relax=True)
    header["BUNIT"] = "electron"
    zero_point = frame.zero_point
    if zero_point is not None:
        header["MAGZP"] = (zero_point.value, "mag of one electron, without ZPC0 to 5")
        header["MAGZPERR"] = (zero_point.error, "mag")
        header["ZPBAND"] = zero_point.band
        for i, (c, term) in enumerate(zip(zero_point.spatial, ("1", "u", "v", "uv", "u^2", "v^2"))):
            header[f"ZPC{i}"] = (c, f"mag, of {term}")
        header["ZPCTERM"] = (zero_point.color_term, f"mag per mag of {zero_point.color}")
        if zero_point.color is not None:
            header["ZPCOLOR"] = zero_point.color
        header["ZPNSTARS"] = zero_point.n_stars
        if math.isfinite(zero_point.scatter):
            header["ZPSCAT"] = (zero_point.scatter, "mag, robust")
    return header


def mask_header() -> fits.Header:
    """The header that names a mask's bits: ``MSK0`` …"""
    header = fits.Header()
    for bit in MaskBit:
        header[f"MSK{bit.value.bit_length() - 1}"] = (bit.name, f"value {bit.value}")
    return header


def _steps_table(steps: tuple[Step, ...]) -> fits.BinTableHDU:
    table = Table(
        {
            "name": np.array([step.name for step in steps], dtype=np.str_),
            "seconds": np.array([step.seconds for step in steps], dtype=float),
            "decision": np.array([json.dumps(step.decision) for step in steps], dtype=np.str_),
        }
    )
    return fits.BinTableHDU(table, name="STEPS")


def _frame(hdus: fits.HDUList) -> Frame:
    header, science = hdus[0].header, hdus["SCI"].header
    data = native(hdus["SCI"].data)
    psf = None
    if "PSF" in hdus:
        part = hdus["PSF"]
        psf = Psf(native(part.data), part.header["DEGREE"], part.header["OVERSAMP"], data.shape)
    return Frame(
        exposure=_exposure(header),
        data=data,
        variance=native(hdus["VAR"].data),
        mask=native(hdus["MASK"].data),
        gain=header["GAIN"],
        wcs=WCS(science) if "CTYPE1" in science else None,
        psf=psf,
        zero_point=zero_point_of(science),
        background=native(hdus["BKG"].data) if "BKG" in hdus else None,
        sources=Table(hdus["SOURCES"].data) if "SOURCES" in hdus else None,
        quality=_quality(header),
        thumbnail=native(hdus["THUMB"].data) if "THUMB" in hdus else None,
        steps=_steps(hdus["STEPS"]),
    )


def _steps(part: fits.BinTableHDU) -> tuple[Step, ...]:
    return tuple(
        Step(str(row["name"]), float(row["seconds"]), json.loads(row["decision"])) for row in part.data
    )


def _exposure(header: fits.Header) -> Exposure:
    keys = {field.name: f"RP EXPOSURE {field.name.upper()}" for field in fields(Exposure)}
    return Exposure(**{name: header[key] for name, key in keys.items() if key in header})


def _quality(header: fits.Header) -> Quality | None:
    keys = {field.name: f"RP QUALITY {field.name.upper()}" for field in fields(Quality)}
    values = {name: header[key] for name, key in keys.items() if key in header}
    return Quality(**values) if values else None


def zero_point_of(header: fits.Header) -> ZeroPoint | None:
    """Return the zero point that :func:`science_header` wrote, None where there was none."""
    if "MAGZP" not in header:
        return None
    c0, c1, c2, c3, c4, c5 = (float(header[f"ZPC{i}"]) for i in range(6))
    return ZeroPoint(
        header["MAGZP"],
        header["MAGZPERR"],
        header["ZPBAND"],
        (c0, c1, c2, c3, c4, c5),
        header["ZPCTERM"],
        header.get("ZPCOLOR"),
        header["ZPNSTARS"],
        header.get("ZPSCAT", math.nan),
    )


def native(data: np.ndarray) -> np.ndarray:
    """Return FITS's big-endian pixels in this machine's order, which sep and numba need."""
    return data.astype(data.dtype.newbyteorder("="), copy=False)
