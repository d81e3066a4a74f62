"""FITS views of a cutout for stock tools, and back (specification, section 9).

``to_hdus``: one image HDU per plane and level, each with an ordinary WCS (9.1). ``mosaic_hdus``: one image
per plane in which the finest level wins (9.2). ``read_fits`` reads the first of these.

Text that FITS headers cannot hold (they hold printable ASCII) is written with Python's escapes, and read
back as it was. Numbers are written with all their digits.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic.alias_generators import to_camel

from .atomic import replacing
from .cutout import Cutout, Plane
from .errors import StampError, ViewError
from .geometry import Geometry
from .keys import PlaneKey, plane_key
from .packet import Alert, EmbeddedAlert, alert_title
from .pyramid import mosaic
from .rules import check_version
from .version import __version__

try:
    from astropy.io import fits
except ModuleNotFoundError:
    raise ViewError("extra", "no astropy", 'astropy: pip install "multiscale-stamps[fits]"') from None

Value = str | bool | int | float
Keywords = Mapping[str, Value | None]
Card = tuple[str, Value, str]  # keyword, value, comment

_LEVELS = "a FITS file with the levels of a cutout"
_CLIPPED = (("MSCLXL", "x_low"), ("MSCLXH", "x_high"), ("MSCLYL", "y_low"), ("MSCLYH", "y_high"))
_PLANE_FIELDS = (
    ("MSBKG", "background", "median of the level-0 pixels"),
    ("MSNOISE", "noise", "robust sigma of the level-0 pixels"),
    ("MSFWHM", "psf_fwhm", "arcsec, width of the point-spread function"),
)
_FIXED_WIDTH = 20  # characters of a number in the fixed format
_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}")
_BIT = re.compile(r"MSBIT([0-9]|1[0-5])")
_MISSING = re.compile(r"MSMISS[0-9]+")


def to_hdus(cutout: Cutout, *, header: Keywords | None = None) -> fits.HDUList:
    """Return the levels of ``cutout`` as HDUs (9.1): float32 or uint16 (S, S) each, invalid pixels NaN.

    A plane's point-spread function follows as one more HDU, PSF_SCIENCE, ... ``header``: keywords for
    the primary header, such as those of ``alert_header``; None values are left out. Raises ViewError for a
    keyword that FITS cannot hold or that is taken, PayloadError for a plane whose payload is refused.
    """
    hdus = _primary(cutout, header)
    for plane in cutout.planes:
        for level, image in enumerate(cutout.levels(plane.kind, plane.of)):
            cards = [*_plane_cards(plane, level), *_wcs_cards(cutout, cutout.size, 1 << level)]
            hdus.append(_image_hdu(image, cards))
    hdus.extend(_psf_hdu(plane) for plane in cutout.planes if plane.psf is not None)
    return hdus


def mosaic_hdus(cutout: Cutout, *, max_px: int = 2048, header: Keywords | None = None) -> fits.HDUList:
    """Return one image HDU per plane, (N, N) level-0 pixels, N = S 2^(L - 1): the finest level wins (9.2).

    Raises ViewError when N is above ``max_px``, and as ``to_hdus``.
    """
    hdus = _primary(cutout, header)
    for plane in cutout.planes:
        image = mosaic(cutout.levels(plane.kind, plane.of), max_px=max_px)
        cards = [*_plane_cards(plane, None), *_wcs_cards(cutout, cutout.geometry.span_px, 1)]
        hdus.append(_image_hdu(image, cards))
    return hdus


def write_fits(cutout: Cutout, path: str | Path, *, header: Keywords | None = None) -> None:
    """Write ``to_hdus`` to ``path``, which appears whole or not at all. Raises as that, and OSError."""
    _write(to_hdus(cutout, header=header), path)


def write_mosaic(
    cutout: Cutout,
    path: str | Path,
    *,
    max_px: int = 2048,
    header: Keywords | None = None,
) -> None:
    """Write ``mosaic_hdus`` to ``path``, which appears whole or not at all. Raises as that, and OSError."""
    _write(mosaic_hdus(cutout, max_px=max_px, header=header), path)


def alert_header(alert: Alert | EmbeddedAlert) -> dict[str, Value | None]:
    """Return keywords that say which alert a view is of, for the ``header`` of the functions here."""
    if isinstance(alert, EmbeddedAlert):
        return {"OBJECT": alert_title(alert) or None}
    d = alert.detection
    return {
        "OBJECT": alert.object_id or alert.alert_id,
        "ALERTID": alert.alert_id,
        "SURVEY": alert.survey,
        "FILTER": d.band,
        "TIMESYS": d.time_scale if d.time_scale != "UNKNOWN" else None,
        "MJD-AVG": d.time,  # the middle of the exposure
        "EXPTIME": d.exposure_time,
        "RA": d.ra,
        "DEC": d.dec,
    }


def read_fits(path: str | Path) -> Cutout:
    """Return the cutout that ``write_fits`` wrote: its levels bit for bit, encoded as RAW.

    Raises ViewError for a file that is not such a view or is damaged, naming the HDU; RecordError for
    values that no cutout may have; OSError where the file cannot be opened.
    """
    with _opened(path) as hdus:
        try:
            return _cutout(hdus)
        except StampError as error:
            raise error.within(str(path)) from None


# Writing


def _primary(cutout: Cutout, header: Keywords | None) -> fits.HDUList:
    """Return the primary HDU, in a list of its own."""
    hdu = fits.PrimaryHDU()
    _extend(hdu.header, _cutout_cards(cutout))
    for keyword, value in (header or {}).items():
        if not _KEYWORD.fullmatch(keyword) or keyword in hdu.header:
            raise ViewError(
                "fits", f"keyword {keyword!r}", "1 to 8 of A-Z 0-9 _ -, not taken by the view", "header"
            )
        if value is not None:
            _extend(hdu.header, [(keyword, value, "")])
    return fits.HDUList([hdu])


def _cutout_cards(cutout: Cutout) -> Iterator[Card]:
    """Yield the keywords of the primary header (9.1)."""
    yield "CREATOR", f"multiscale-stamps {__version__}", ""
    yield "MSVERS", cutout.spec_version, "specification of multi-scale stamps"
    yield "MSSIZE", cutout.size, "pixels along a side of every level"
    yield "MSNLEV", cutout.n_levels, "levels, each with pixels twice as wide"
    yield "MSNPLANE", len(cutout.planes), "planes"
    yield "MSPIXSC", cutout.pixel_scale, "arcsec, width of a level-0 pixel"
    if cutout.dx is not None and cutout.dy is not None:
        yield "MSDX", cutout.dx, "level-0 pixels, object - shared corner"
        yield "MSDY", cutout.dy, "level-0 pixels, object - shared corner"
    for keyword, side in _CLIPPED:
        yield keyword, getattr(cutout.clipped, side), "level-0 pixels of this side not given"
    yield "MSCLBY", cutout.clipped_by, "what ended the image there"
    if cutout.sky is not None and cutout.sky.max_error is not None:
        yield "MSMAXERR", cutout.sky.max_error, "arcsec, largest error of the WCS"
    for i, missing in enumerate(cutout.missing, start=1):
        yield f"MSMISS{i}", f"{missing.kind} {missing.of} {missing.reason} {missing.detail}", ""


def _plane_cards(plane: Plane, level: int | None) -> Iterator[Card]:
    """Yield what an image HDU says of its plane; ``level`` None: a mosaic."""
    yield "EXTNAME", _name(plane), "plane"
    if level is not None:
        yield "EXTVER", level + 1, "level + 1"
    yield "BUNIT", plane.unit, "unit of a pixel"
    yield "MSKIND", plane.kind, "what the plane holds"
    yield "MSOF", plane.of, "the image it belongs to"
    if level is not None:
        yield "MSLEVEL", level, "0 is the finest"
    for keyword, field, comment in _PLANE_FIELDS:
        if getattr(plane, field) is not None:
            yield keyword, getattr(plane, field), comment
    for bit, name in enumerate(plane.mask_bits):
        yield f"MSBIT{bit}", name, f"name of the bit of value {1 << bit}"


def _wcs_cards(cutout: Cutout, n_px: int, width: int) -> Iterator[Card]:
    """Yield the WCS of an image of ``n_px`` pixels a side, each ``width`` level-0 pixels wide (2.6, 9.1)."""
    middle = n_px / 2 + 0.5  # the shared corner, FITS pixels
    sky = cutout.sky
    if sky is not None:
        yield "CTYPE1", "RA---TAN", "gnomonic"
        yield "CTYPE2", "DEC--TAN", "gnomonic"
        yield "RADESYS", "ICRS", ""
        yield "CUNIT1", "deg", ""
        yield "CUNIT2", "deg", ""
        yield "CRVAL1", sky.ra, "deg, of the shared corner"
        yield "CRVAL2", sky.dec, "deg, of the shared corner"
        yield "LONPOLE", 180.0, "deg; the default is another at the pole"
    yield "CRPIX1", middle, "pixel, the shared corner"
    yield "CRPIX2", middle, "pixel, the shared corner"
    if sky is not None:
        for i, j in ((1, 1), (1, 2), (2, 1), (2, 2)):
            yield f"CD{i}_{j}", width * getattr(sky, f"cd{i}{j}"), "deg per pixel"
    yield from _physical_cards(middle, width)


def _physical_cards(middle: float, width: int) -> Iterator[Card]:
    """Yield the WCS that gives level-0 pixels relative to the shared corner, the same in every HDU (9.1)."""
    yield "WCSNAMEP", "PHYSICAL", "level-0 pixels from the shared corner"
    for i, axis in ((1, "X"), (2, "Y")):
        yield f"CTYPE{i}P", axis, ""
        yield f"CUNIT{i}P", "pixel", "level-0 pixel"
        yield f"CRPIX{i}P", middle, ""
        yield f"CRVAL{i}P", 0.0, ""
        for j in (1, 2):
            yield f"CD{i}_{j}P", float(width) if i == j else 0.0, ""


def _psf_hdu(plane: Plane) -> fits.ImageHDU:
    """Return the point-spread function of a plane, its central pixel at the origin of WCS P."""
    image = plane.psf_image()
    assert image is not None  # for mypy: the caller looked
    name = _name(plane)
    cards: list[Card] = [
        ("EXTNAME", f"PSF_{name}", ""),
        ("BUNIT", "pixel-1", ""),
        ("MSPSF", name, "of plane"),
    ]
    return _image_hdu(image, [*cards, *_physical_cards((len(image) + 1) / 2, 1)])


def _image_hdu(image: np.ndarray, cards: Sequence[Card]) -> fits.ImageHDU:
    """Return ``image`` as an HDU: BITPIX -32, or 16 with BZERO 32768 for uint16."""
    dtype = np.uint16 if image.dtype == np.uint16 else np.dtype(">f4")
    hdu = fits.ImageHDU(np.array(image, dtype))
    _extend(hdu.header, cards)
    return hdu


def _name(plane: Plane) -> str:
    return plane.kind if plane.of == "NONE" else f"{plane.kind}_{plane.of}"


def _extend(header: fits.Header, cards: Sequence[Card] | Iterator[Card]) -> None:
    """Append ``cards`` to ``header``. Raises ViewError for a value that FITS cannot hold."""
    for keyword, value, comment in cards:
        try:
            header.append(_card(keyword, value, comment), end=True)
        except (ValueError, TypeError):  # NaN, infinity, a value of another type
            expected = "a string, a boolean or a finite number"
            raise ViewError("fits", f"{keyword} = {value!r}", expected, "header") from None


def _card(keyword: str, value: Value, comment: str) -> fits.Card:
    """Return a card; a number that the fixed format would cut is written in the free one."""
    if isinstance(value, str):
        return fits.Card(keyword, value.encode("unicode_escape").decode("ascii"), comment)
    if isinstance(value, float) and math.isfinite(value):
        digits = repr(float(value)).upper()
        if len(digits) > _FIXED_WIDTH:
            return fits.Card.fromstring(f"{keyword:8}= {digits} / {comment}")
    return fits.Card(keyword, value, comment)


def _write(hdus: fits.HDUList, path: str | Path) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        hdus.writeto(file, output_verify="exception")


# Reading


@contextmanager
def _opened(path: str | Path) -> Iterator[fits.HDUList]:
    """Open a FITS file, whole. Raises ViewError for one that is none, or that ends early."""
    with warnings.catch_warnings():
        for start in ("File may have been truncated", "Error validating header"):
            warnings.filterwarnings("error", message=start)
        try:
            with fits.open(path, memmap=False, lazy_load_hdus=False) as hdus:
                yield hdus
        except StampError:
            raise
        except (OSError, ValueError, TypeError, UserWarning, fits.VerifyError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the file cannot be opened
            raise ViewError("fits", str(error).partition("\n")[0], _LEVELS, str(path)) from None


def _cutout(hdus: fits.HDUList) -> Cutout:
    """Return the cutout in the HDUs of a view."""
    primary = hdus[0].header
    check_version(_need(primary, "MSVERS", str, 0))
    size, n_levels = (_need(primary, keyword, int, 0) for keyword in ("MSSIZE", "MSNLEV"))
    geometry = Geometry(size, n_levels, float(_need(primary, "MSPIXSC", (float, int), 0)))
    headers, levels, psfs = _images(hdus, geometry)
    if len(levels) != (n_planes := _need(primary, "MSNPLANE", int, 0)):
        raise ViewError("fits", f"{len(levels)} planes", f"{n_planes}, as MSNPLANE says")
    record = Cutout.from_levels(levels, geometry).to_record()
    for plane, header in zip(record["planes"], headers.values(), strict=True):
        plane.update(_plane_fields(header), psf=psfs.get(header.get("EXTNAME")))
    record |= {
        "dx": _number(primary, "MSDX"),
        "dy": _number(primary, "MSDY"),
        "sky": _sky(primary, next(iter(headers.values()), None)),
        "clipped": {to_camel(side): _need(primary, keyword, int, 0) for keyword, side in _CLIPPED},
        "clippedBy": _need(primary, "MSCLBY", str, 0),
        "missing": list(_missing(primary)),
    }
    return Cutout.from_record(record)


def _plane_fields(header: fits.Header) -> dict[str, Any]:
    """Return what the header of a level says of its plane, by the record's names."""
    bits = sorted(int(keyword.removeprefix("MSBIT")) for keyword in header if _BIT.fullmatch(keyword))
    names = [_text(header.get(f"MSBIT{bit}", "")) for bit in range(bits[-1] + 1 if bits else 0)]
    numbers = {to_camel(field): _number(header, keyword) for keyword, field, _ in _PLANE_FIELDS}
    return {"unit": _text(header.get("BUNIT", "")), "maskBits": names, **numbers}


def _images(
    hdus: fits.HDUList, geometry: Geometry
) -> tuple[dict[PlaneKey, fits.Header], dict[PlaneKey, np.ndarray], dict[str, bytes]]:
    """Return of each plane the header of level 0 and the levels (L, S, S); and the PSFs by EXTNAME."""
    headers: dict[PlaneKey, fits.Header] = {}
    images: dict[PlaneKey, list[np.ndarray]] = {}
    psfs: dict[str, bytes] = {}
    for i, hdu in enumerate(hdus[1:], start=1):
        header = hdu.header
        if "MSPSF" in header:
            psfs[header["MSPSF"]] = np.asarray(hdu.data, "<f4").tobytes()
        if "MSKIND" not in header:
            continue  # somebody else's
        key = plane_key(_need(header, "MSKIND", str, i), _need(header, "MSOF", str, i))
        headers.setdefault(key, header)
        stack = images.setdefault(key, [])
        if _need(header, "MSLEVEL", int, i) != len(stack) or len(stack) >= geometry.n_levels:
            expected = f"levels 0 to {geometry.n_levels - 1}, in order"
            raise ViewError("fits", f"MSLEVEL = {header['MSLEVEL']}", expected, f"[{i}]")
        stack.append(_pixels(hdu, geometry, i))
    for key, stack in images.items():
        if len(stack) != geometry.n_levels:
            found = f"{len(stack)} of {geometry.n_levels} levels of {key}"
            raise ViewError("fits", found, "every level of a plane")
    return headers, {key: np.stack(stack) for key, stack in images.items()}, psfs


def _pixels(hdu: Any, geometry: Geometry, i: int) -> np.ndarray:
    """Return the pixels of an image HDU: (S, S), float32, or uint16 for a mask. Raises ViewError."""
    dtype = np.dtype(np.uint16 if hdu.header["MSKIND"] == "MASK" else np.float32)
    shape = (geometry.size, geometry.size)
    data = getattr(hdu, "data", None)
    if data is None or data.shape != shape or data.dtype.newbyteorder("=") != dtype:
        found = "no image" if data is None else f"{data.dtype.name} of shape {data.shape}"
        raise ViewError("fits", found, f"{dtype.name} of shape {shape}", f"[{i}]")
    return np.asarray(data).astype(dtype)


def _sky(primary: fits.Header, header: fits.Header | None) -> dict[str, float | None] | None:
    """Return the WCS of a plane's level 0 (2.6), None where it has none."""
    if header is None or "CTYPE1" not in header:
        return None
    if (header["CTYPE1"], header.get("CTYPE2")) != ("RA---TAN", "DEC--TAN"):
        raise ViewError("fits", f"CTYPE1 = {header['CTYPE1']!r}", "RA---TAN and DEC--TAN", "[1]")
    numbers = (float, int)
    cd = {f"cd{i}{j}": _need(header, f"CD{i}_{j}", numbers, 1) for i in (1, 2) for j in (1, 2)}
    ra, dec = (_need(header, f"CRVAL{i}", numbers, 1) for i in (1, 2))
    return {"ra": ra, "dec": dec, **cd, "maxError": _number(primary, "MSMAXERR")}


def _missing(primary: fits.Header) -> Iterator[dict[str, str]]:
    """Yield the planes that are said to be missing (6.5)."""
    for keyword in primary:
        if _MISSING.fullmatch(keyword):
            kind, of, reason, detail = (*_text(primary[keyword]).split(" ", 3), "", "", "")[:4]
            yield {"kind": kind, "of": of, "reason": reason, "detail": detail}


def _need(header: fits.Header, keyword: str, kind: type | tuple[type, ...], i: int) -> Any:
    """Return the value of a keyword that a view must have. Raises ViewError naming HDU ``i``."""
    value = header.get(keyword)
    if not isinstance(value, kind) or isinstance(value, bool):
        found = f"no {keyword}" if value is None else f"{keyword} = {value!r}"
        raise ViewError("fits", found, f"{keyword}, as in {_LEVELS}", f"[{i}]")
    return value


def _number(header: fits.Header, keyword: str) -> float | None:
    """Return a number that may be absent."""
    return float(_need(header, keyword, (float, int), 0)) if keyword in header else None


def _text(value: str) -> str:
    """Return text as it was before ``_card`` escaped it."""
    return str(value).encode("ascii", "replace").decode("unicode_escape")
