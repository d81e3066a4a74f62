"""Read the images of a small FITS file from bytes, plain or gzipped, without astropy.

Alert cutouts are FITS images of a few kilobytes, and there are millions of them a night. This reader
knows image HDUs only, and looks at every length before it allocates: a gzip bomb, a made-up NAXIS or
a truncated file is refused with what was found and what was expected. It follows the FITS Standard
4.0, sections 3, 4 and 7.1. Random groups, tables (skipped), compressed images, CONTINUE and scaled
HIERARCH keywords are left to astropy.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from math import prod
from typing import Final, TypeAlias

import numpy as np

from ..errors import SurveyError

Value: TypeAlias = bool | int | float | str | None
Header: TypeAlias = dict[str, Value]

BLOCK: Final = 2880  # bytes; headers and data are padded to it
CARD: Final = 80  # bytes
MAX_BYTES: Final = 1 << 26  # of one unpacked cutout: 64 MiB, over 500 times the largest seen
MAX_HDUS: Final = 32
GZIP_MAGIC: Final = b"\x1f\x8b"
DTYPES: Final = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@dataclass(frozen=True)
class Hdu:
    """One header and its image; ``data`` is None where there is none or it is not an image."""

    header: Header
    data: np.ndarray | None  # native byte order, BSCALE and BZERO applied, BLANK as NaN

    @property
    def name(self) -> str:
        """EXTNAME in upper case, or an empty string."""
        return str(self.header.get("EXTNAME") or "").strip().upper()


def read_fits(content: bytes, *, max_bytes: int = MAX_BYTES) -> list[Hdu]:
    """Return the HDUs of a FITS file, plain or gzipped, primary first.

    ``max_bytes`` bounds the unpacked file. Integers stay integers (BZERO of an unsigned type
    included) unless they are scaled or have BLANK; then they become float32 up to 16 bits and float64
    above. Raises SurveyError ("cutout-image") for anything that is not such a file.
    """
    content = unpack_gzip(content, max_bytes=max_bytes)
    if len(content) > max_bytes:
        raise _refusal(f"{len(content)} bytes", f"at most {max_bytes}")
    hdus: list[Hdu] = []
    offset = 0
    # What follows the last HDU may be padding that a writer forgot or repeated; it is never a header.
    while not hdus or content[offset : offset + 8] == b"XTENSION":
        if len(hdus) == MAX_HDUS:
            raise _refusal(f"more than {MAX_HDUS} HDUs", f"at most {MAX_HDUS}")
        hdu, offset = _read_hdu(content, offset, is_primary=not hdus)
        hdus.append(hdu)
    return hdus


def read_image(content: bytes, *, max_bytes: int = MAX_BYTES) -> tuple[Header, np.ndarray]:
    """Return the header and the (H, W) array of the first HDU that holds an image.

    Raises SurveyError ("cutout-image") if there is none or it has not two axes.
    """
    for hdu in read_fits(content, max_bytes=max_bytes):
        if hdu.data is not None:
            return hdu.header, image_of(hdu)
    raise _refusal("a FITS file without an image", "an image")


def image_of(hdu: Hdu) -> np.ndarray:
    """Return the HDU's array if it is (H, W) with no empty side, else raise SurveyError."""
    if hdu.data is None or hdu.data.ndim != 2 or hdu.data.size == 0:
        shape = None if hdu.data is None else hdu.data.shape
        raise _refusal(f"shape {shape}", "a two-dimensional image")
    return hdu.data


def unpack_gzip(content: bytes, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return gzipped content unpacked, other content as it is.

    Raises SurveyError ("cutout-image") if it is damaged, goes on after its end, or unpacks to more
    than ``max_bytes``; no more than that is ever allocated.
    """
    if content[:2] != GZIP_MAGIC:
        return content
    unpacker = zlib.decompressobj(wbits=31)  # 31: gzip framing, so zlib checks CRC and length
    try:
        unpacked = unpacker.decompress(content, max_bytes + 1)
    except zlib.error as error:
        raise _refusal(f"damaged gzip ({error})", "a gzip stream") from error
    if len(unpacked) > max_bytes:
        raise _refusal(f"gzip of more than {max_bytes} bytes", f"at most {max_bytes}")
    if not unpacker.eof:
        raise _refusal("a gzip stream that ends early", "a whole gzip stream")
    if unpacker.unused_data.strip(b"\0"):
        raise _refusal(f"{len(unpacker.unused_data)} bytes after the gzip stream", "none")
    return unpacked


def _read_hdu(content: bytes, offset: int, *, is_primary: bool) -> tuple[Hdu, int]:
    """Return the HDU that begins at ``offset`` and where the next one would begin."""
    header, offset = _read_header(content, offset)
    if is_primary and header.get("SIMPLE") is not True:
        raise _refusal("no SIMPLE = T at the start", "a FITS file")
    shape, dtype = _geometry(header)
    n_groups, n_extra = _count(header, "GCOUNT", 1), _count(header, "PCOUNT", 0)
    n_pixels = prod(shape) if shape else 0
    n_bytes = n_groups * (n_extra + n_pixels) * dtype.itemsize
    if n_bytes > len(content) - offset:
        raise _refusal(f"{len(content) - offset} bytes of data", f"{n_bytes} for NAXIS {shape[::-1]}")
    is_image = bool(shape) and n_groups == 1 and n_extra == 0 and _is_image(header, is_primary)
    data = None
    if is_image:
        raw = np.frombuffer(content, dtype, n_pixels, offset).reshape(shape)
        data = _scaled(raw, header)
    return Hdu(header, data), offset + -(-n_bytes // BLOCK) * BLOCK


def _read_header(content: bytes, offset: int) -> tuple[Header, int]:
    """Return the keywords of the header at ``offset`` (the first of equal ones) and where its data begin."""
    header: Header = {}
    for start in range(offset, len(content) - CARD + 1, CARD):
        card = content[start : start + CARD]
        key = card[:8].rstrip()
        if key == b"END":
            n_blocks = -(-(start + CARD - offset) // BLOCK)
            return header, offset + n_blocks * BLOCK
        if card[8:10] == b"= ":
            header.setdefault(_text(key), _value(_text(card[10:])))
    raise _refusal("no END card", "a FITS header")


def _text(content: bytes) -> str:
    try:
        return content.decode("ascii")
    except UnicodeDecodeError as error:
        raise _refusal("a header that is not ASCII", "a FITS header") from error


def _value(text: str) -> Value:
    """Return the value of a card from what follows its "= "; None where it has none or is no FITS value."""
    text = text.strip()
    if text.startswith("'"):
        return _string(text)
    text = text.partition("/")[0].strip()
    if text in ("T", "F"):
        return text == "T"
    if "_" in text:  # Python reads 1_000 as a number, FITS does not
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text.replace("D", "E").replace("d", "e"))
    except ValueError:
        return None


def _string(text: str) -> str:
    """Return the FITS string that ``text`` begins with: '' inside stands for one quote."""
    end = 1
    while (end := text.find("'", end)) >= 0 and text[end + 1 : end + 2] == "'":
        end += 2
    return text[1 : end if end >= 0 else None].replace("''", "'").rstrip()


def _geometry(header: Header) -> tuple[tuple[int, ...], np.dtype]:
    """Return the array shape, slowest axis first, and the type of its values, both checked."""
    bitpix = header.get("BITPIX")
    if isinstance(bitpix, bool) or not isinstance(bitpix, int) or bitpix not in DTYPES:
        raise _refusal(f"BITPIX {bitpix!r}", f"one of {sorted(DTYPES)}")
    n_axes = _count(header, "NAXIS", None)
    if n_axes > 8:
        raise _refusal(f"NAXIS {n_axes}", "at most 8")
    sides = [_count(header, f"NAXIS{axis}", None) for axis in range(n_axes, 0, -1)]
    return tuple(sides), np.dtype(DTYPES[bitpix])


def _count(header: Header, key: str, default: int | None) -> int:
    value = header.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise _refusal(f"{key} {value!r}", "a count")
    return value


def _is_image(header: Header, is_primary: bool) -> bool:
    return is_primary or header.get("XTENSION") == "IMAGE"


def _scaled(raw: np.ndarray, header: Header) -> np.ndarray:
    """Return the physical values in native byte order: raw·BSCALE + BZERO, NaN where raw is BLANK."""
    scale, zero, blank = _number(header, "BSCALE", 1), _number(header, "BZERO", 0), header.get("BLANK")
    is_integer = raw.dtype.kind in "iu"
    if scale == 1 and zero == 0 and not (is_integer and blank is not None):
        return raw.astype(raw.dtype.newbyteorder("="))
    if is_integer and scale == 1 and blank is None and zero == 1 << (8 * raw.dtype.itemsize - 1):
        # The standard's way to write unsigned integers: the sign bit is the other way round.
        unsigned = raw.astype(raw.dtype.newbyteorder("=")).view(f"u{raw.dtype.itemsize}")
        return unsigned ^ unsigned.dtype.type(int(zero))
    values = raw.astype(np.float64) * scale + zero
    if is_integer and blank is not None:
        values[raw == blank] = np.nan
    return values.astype(np.float32 if raw.dtype.itemsize <= 2 else np.float64)


def _number(header: Header, key: str, default: float) -> float:
    value = header.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise _refusal(f"{key} {value!r}", "a number")
    return value


def _refusal(found: str, expected: str) -> SurveyError:
    return SurveyError("cutout-image", found, expected)
