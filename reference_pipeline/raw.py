"""Raw frames: the image of a FITS file as a camera wrote it, and what its header says of the exposure."""

from __future__ import annotations

import gzip
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .config import Camera
from .errors import FileError
from .frame import Exposure, FrameKind

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.wcs import WCS

_STAGE = "read"
_SCALE_TOLERANCE = 0.2  # of the pixel scale, between a header's WCS and the camera's description


@dataclass(frozen=True)
class RawFrame:
    """A raw frame: pixels in ADU as stored (the file's own dtype, unsigned where BZERO says so), [y, x]."""

    exposure: Exposure
    data: NDArray[Any]
    header: Header

    @property
    def id(self) -> str:
        """The exposure's id."""
        return self.exposure.id


def read_raw(path: str | Path, camera: Camera, *, expected_kind: FrameKind | None = None) -> RawFrame:
    """Return the raw frame in the first extension of ``path`` that holds an image.

    ``expected_kind`` is what the caller takes the file for: it stands in for a header that does not say.
    Raises FileError: "unreadable", "not-fits", "truncated", "no-image", "shape", "keyword-missing",
    "keyword-value" (present, but not understood) or "kind" (the header says another than expected).
    """
    path = Path(path)
    with open_image(path) as image:
        exposure = _exposure(path, image.header, camera, expected_kind)
        check_shape(exposure.id, _plane(image.shape), camera)
        data = np.asarray(image.data)
        return RawFrame(exposure, data.reshape(_plane(data.shape)), image.header.copy())


def read_exposure(path: str | Path, camera: Camera, *, expected_kind: FrameKind | None = None) -> Exposure:
    """Return what the header of ``path`` says, without reading a pixel. Raises FileError as ``read_raw``."""
    path = Path(path)
    with open_image(path) as image:
        exposure = _exposure(path, image.header, camera, expected_kind)
        check_shape(exposure.id, _plane(image.shape), camera)
        return exposure


def check_shape(frame_id: str, shape: tuple[int, int], camera: Camera) -> None:
    """Raise FileError ("shape") unless a raw frame of ``shape`` (ny, nx) can be this camera's."""
    if camera.raw_shape is not None and shape != camera.raw_shape:
        raise FileError(
            frame_id, _STAGE, "shape", f"image of {shape}, {camera.name} has {camera.raw_shape} (ny, nx)"
        )


def header_number(header: Header, names: tuple[str, ...], default: float) -> float:
    """Return the number that the first of the keywords ``names`` has, or ``default`` where none has one."""
    value = _first(header, names)
    return default if value is None else float(value)


@contextmanager
def open_image(path: Path) -> Iterator[Any]:
    """Yield the first image HDU of ``path`` (two axes longer than one), pixels not yet read.

    What goes wrong while reading from it is a FileError as well: truncated data shows only then.
    """
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyWarning

    name = path.stem
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise FileError(name, _STAGE, "unreadable", f"{path.name}: {error.strerror}") from error
    compressed = start[:2] in (b"\x1f\x8b", b"BZ")
    if (not compressed and start[: len(start)] != b"SIMPLE  ="[: len(start)]) or not start:
        raise FileError(name, _STAGE, "not-fits", f"{path.name}: begins with {start!r}, expected 'SIMPLE  ='")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)  # truncation is judged below, by the numbers
            with fits.open(path, memmap=False) as parts:
                image = next((part for part in parts if part.is_image and _n_axes(part.shape) == 2), None)
                if image is None:
                    found = "; ".join(f"{part.name} {part.shape}" for part in parts if part.is_image)
                    _check_complete(name, parts[-1], size, compressed)
                    raise FileError(name, _STAGE, "no-image", f"no image of two axes; found: {found}")
                _check_complete(name, image, size, compressed)
                yield image
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileError(
            name, _STAGE, "truncated", f"{path.name}: compressed data ends early: {error}"
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        cut = _is_cut_gzip(path) if compressed else size % 2880 != 0
        reason = "truncated" if cut else "not-fits"
        raise FileError(name, _STAGE, reason, f"{path.name}: {size} bytes: {error}") from error


def _is_cut_gzip(path: Path) -> bool:
    """Whether a gzip stream begins as one and ends before its end."""
    read = 0
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(2**20):
                read += len(chunk)
    except EOFError:
        return True
    except (OSError, zlib.error):
        return read > 0
    return False


def _check_complete(name: str, part: Any, size: int, compressed: bool) -> None:
    """Raise FileError if the file ends before the data that the header of ``part`` announces."""
    if compressed:
        return  # the decompressor notices
    needed = part.fileinfo()["datLoc"] + part.size
    if size < needed:
        raise FileError(name, _STAGE, "truncated", f"file of {size} bytes, its header announces {needed}")


def _n_axes(shape: tuple[int, ...]) -> int:
    return sum(n > 1 for n in shape)


def _plane(shape: tuple[int, ...]) -> tuple[int, int]:
    ny, nx = (n for n in shape if n > 1)
    return ny, nx


def _exposure(path: Path, header: Header, camera: Camera, expected: FrameKind | None) -> Exposure:
    """What the header says of the exposure; ``expected`` where it does not say the kind."""
    keys, name = camera.keywords, path.name.split(".fit")[0].split(".fts")[0]
    kind = _kind(name, header, camera, expected)
    seconds = _number(name, header, keys.exposure_time, required=kind != "bias")
    if seconds is not None and not (np.isfinite(seconds) and seconds >= 0):
        raise _misread(name, keys.exposure_time, seconds, "a time in seconds")
    band = _first(header, keys.band)
    ra, dec = _first(header, keys.ra), _first(header, keys.dec)
    return Exposure(
        id=name,
        camera=camera.name,
        kind=kind,
        start_mjd=_start(name, header, camera),
        exposure_time=seconds or 0.0,
        band=camera.default_band if band is None else _band(str(band), camera),
        ra=None if ra is None else _angle(name, keys.ra, ra, hours=True),
        dec=None if dec is None else _angle(name, keys.dec, dec, hours=False),
        airmass=_number(name, header, keys.airmass, required=False),
        object_name=_text(header, keys.object_name),
        field_id=_text(header, keys.field_id),
    )


def _kind(name: str, header: Header, camera: Camera, expected: FrameKind | None) -> FrameKind:
    """Which kind of frame it is. The camera's names for kinds may be patterns ("flat*"); the first counts."""
    said = _first(header, camera.keywords.kind)
    if said is None:
        kind = expected or camera.default_kind
        if kind is None:
            raise _missing(name, camera.keywords.kind)
        return kind
    word = str(said).strip().lower()
    kind = next((kind for text, kind in camera.kinds.items() if fnmatchcase(word, text.lower())), None)
    if kind is None:
        raise _misread(
            name, camera.keywords.kind, said, f"one of {', '.join(camera.kinds) or 'no kinds known'}"
        )
    if expected is not None and kind != expected:
        raise FileError(name, _STAGE, "kind", f"the header says {said!r} ({kind}), expected {expected}")
    return kind


def _band(said: str, camera: Camera) -> str | None:
    """The catalogue's name of a filter; the camera's own where the camera's description has none."""
    return next(
        (band for text, band in camera.bands.items() if text.lower() == said.strip().lower()), said.strip()
    )


def _start(name: str, header: Header, camera: Camera) -> float:
    """When the shutter opened (MJD, UTC). A time without an offset is UTC, "-0700" is seven hours behind."""
    keys = camera.keywords
    value = _first(header, keys.start)
    if value is None:
        raise _missing(name, keys.start)
    if isinstance(value, int | float):
        return float(value) - (2400000.5 if value > 2400000.5 else 0.0)  # MJD or JD
    text = str(value).strip().replace(" ", "T")
    if "T" not in text:  # a date alone: the time of day has its own keyword
        clock = _first(header, keys.start_time)
        text = f"{text}T{str(clock).strip()}" if clock is not None else text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _misread(name, keys.start, value, "an ISO 8601 time") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return 40587.0 + (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() / 86400.0


def _angle(name: str, names: tuple[str, ...], value: object, *, hours: bool) -> float:
    """Degrees: a number as it is; text with separators in hours for a right ascension."""
    text = str(value).strip()
    try:
        return float(text)
    except ValueError:
        pass  # sexagesimal, or nonsense, which the next lines tell apart
    parts = (
        text.replace(":", " ").replace("h", " ").replace("d", " ").replace("m", " ").replace("s", " ").split()
    )
    try:
        numbers = [abs(float(part)) for part in parts]
    except ValueError:
        numbers = []
    if not 2 <= len(numbers) <= 3:
        raise _misread(name, names, value, "degrees, or [h or d] m s")
    degrees = sum(number / 60**i for i, number in enumerate(numbers))
    return (-1 if text.startswith("-") else 1) * degrees * (15 if hours else 1)


def _first(header: Header, names: tuple[str, ...]) -> Any:
    """The value of the first keyword that is there and not empty; None without one."""
    for name in names:
        value = header.get(name)
        if value is not None and str(value).strip() and type(value).__name__ != "Undefined":
            return value
    return None


def _text(header: Header, names: tuple[str, ...]) -> str | None:
    value = _first(header, names)
    return None if value is None else str(value).strip()


def _number(name: str, header: Header, names: tuple[str, ...], *, required: bool) -> float | None:
    value = _first(header, names)
    if value is None:
        if required:
            raise _missing(name, names)
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise _misread(name, names, value, "a number") from None


def _missing(name: str, names: tuple[str, ...]) -> FileError:
    message = (
        f"none of the keywords {', '.join(names)} is in the header; the camera's [keywords] say where to look"
    )
    return FileError(name, _STAGE, "keyword-missing", message)


def _misread(name: str, names: tuple[str, ...], value: object, expected: str) -> FileError:
    return FileError(name, _STAGE, "keyword-value", f"{'/'.join(names)} is {value!r}, expected {expected}")


@dataclass(frozen=True)
class Areas:
    """Which part of a raw frame is what: (rows, columns) as slices of the whole raw array."""

    imaging: tuple[slice, slice]
    overscan: tuple[slice, slice] | None

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the imaging area."""
        rows, columns = self.imaging
        return rows.stop - rows.start, columns.stop - columns.start


def areas(frame_id: str, header: Header, shape: tuple[int, int], camera: Camera) -> Areas:
    """Return the imaging area and the overscan of a raw frame of ``shape`` (ny, nx).

    They are the camera's, or those of the header's TRIMSEC and BIASSEC where the camera says so. Raises
    FileError: "keyword-missing", or "section" for one that is not written "[x1:x2,y1:y2]" or lies outside.
    """
    overscan, trim = camera.overscan, camera.trim
    if camera.sections_from_header:
        overscan, trim = header.get("BIASSEC"), header.get("TRIMSEC")
        if trim is None:
            raise _missing(frame_id, ("TRIMSEC",))
    ny, nx = shape
    imaging = (slice(0, ny), slice(0, nx)) if trim is None else _section(frame_id, trim, shape)
    return Areas(imaging, None if overscan is None else _section(frame_id, overscan, shape))


def parse_section(text: str, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the (rows, columns) of a FITS section "[x1:x2,y1:y2]", from 1, in an array of ``shape``.

    Raises ValueError if it is not written so or does not lie within the array.
    """
    found = re.fullmatch(r"\[(\d+):(\d+),(\d+):(\d+)\]", text.replace(" ", ""))
    x1, x2, y1, y2 = map(int, found.groups()) if found else (0, 0, 0, 0)
    if not (1 <= x1 <= x2 <= shape[1] and 1 <= y1 <= y2 <= shape[0]):
        raise ValueError(f"section {text!r}: expected [x1:x2,y1:y2] within {shape[1]} × {shape[0]} pixels")
    return slice(y1 - 1, y2), slice(x1 - 1, x2)


def _section(frame_id: str, text: str, shape: tuple[int, int]) -> tuple[slice, slice]:
    try:
        return parse_section(text, shape)
    except ValueError as error:
        raise FileError(frame_id, _STAGE, "section", str(error)) from error


def claimed_wcs(header: Header, imaging: tuple[slice, slice], camera: Camera) -> tuple[WCS | None, str]:
    """Return the WCS that ``header`` claims for the ``imaging`` area, and "header"; or None, and why not.

    Nobody has compared it with stars: some program's solution, a mount's guess, or another frame's. It is
    passed on only if it is of a celestial sphere and its pixels are within 20 % of the camera's.
    """
    from astropy.wcs import WCS, NoConvergence, WcsError
    from astropy.wcs.utils import proj_plane_pixel_scales

    if not any(name.startswith("CTYPE") for name in header):
        return None, "none"
    if any(name.startswith(("CPDIS", "D2IMDIS")) for name in header):
        return None, "distortion tables are not read"
    header = header.copy()
    for name in ("CTYPE1", "CTYPE2"):  # astropy applies SIP without the suffix too, and says so at length
        if "A_ORDER" in header and str(header.get(name)).endswith("-TAN"):
            header[name] += "-SIP"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old keywords, which are read nevertheless
            whole = WCS(header)
            if not whole.has_celestial:
                return None, "not celestial"
            wcs = whole.celestial.slice(imaging)
            ny, nx = (area.stop - area.start for area in imaging)
            center = np.array(wcs.all_pix2world((nx - 1) / 2.0, (ny - 1) / 2.0, 0))
            sizes = 3600.0 * proj_plane_pixel_scales(wcs)
    except (WcsError, NoConvergence, ValueError, KeyError, TypeError) as error:
        return None, f"unreadable: {type(error).__name__}"
    if not (np.isfinite(center).all() and np.isfinite(sizes).all()):
        return None, "not finite"
    if np.abs(np.log(sizes / camera.pixel_scale)).max() > np.log1p(_SCALE_TOLERANCE):
        return None, f"pixel scale {sizes.max():.4g}"
    return wcs, "header"
