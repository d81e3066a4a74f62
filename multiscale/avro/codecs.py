"""How the blocks of an Avro container are compressed: null, deflate, and zstandard and snappy if installed.

Decompression stops at a limit, so that a small block cannot become a large one unasked.
"""

from __future__ import annotations

import importlib
import zlib
from typing import Any

from ..errors import WireError

CODECS = ("null", "deflate", "zstandard", "snappy")
_ZSTANDARD = (
    "compression.zstd",
    "backports.zstd",
)  # the standard library's since Python 3.14, and its backport
_SNAPPY = ("cramjam",)


def check_codec(codec: str) -> None:
    """Raise WireError unless blocks of ``codec`` can be read and written here."""
    if codec == "zstandard":
        _library(codec, _ZSTANDARD)
    elif codec == "snappy":
        _library(codec, _SNAPPY)
    elif codec not in CODECS:
        raise WireError("avro", f"codec {codec!r:.40}", ", ".join(CODECS))


def _library(codec: str, names: tuple[str, ...]) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise WireError("avro", f"codec {codec}", f"null or deflate; for {codec}: pip install {names[-1]}")


def compress(codec: str, data: bytes) -> bytes:
    """Return a block as it is written. Raises WireError for a codec that is not here."""
    if codec == "deflate":
        packer = zlib.compressobj(wbits=-15)  # raw: without zlib's header and checksum
        return packer.compress(data) + packer.flush()
    if codec == "zstandard":
        return _library(codec, _ZSTANDARD).compress(data)
    if codec == "snappy":
        packed = bytes(_library(codec, _SNAPPY).snappy.compress_raw(data))
        return packed + zlib.crc32(data).to_bytes(4, "big")
    return data


def decompress(codec: str, data: bytes, limit: int) -> bytes:
    """Return the bytes of a block. Raises WireError for damage and for more than ``limit`` bytes."""
    try:
        if codec == "deflate":
            plain, is_whole = _inflate(zlib.decompressobj(-15), data, limit)
        elif codec == "zstandard":
            library = _library(codec, _ZSTANDARD)
            plain, is_whole = _inflate(library.ZstdDecompressor(), data, limit)
        elif codec == "snappy":
            plain, is_whole = _unsnap(_library(codec, _SNAPPY).snappy, data, limit)
        else:
            plain, is_whole = data, True
    except WireError:
        raise
    except Exception as error:  # noqa: BLE001 - each library has classes of its own
        raise WireError("avro", f"{type(error).__name__}: {error!s:.80}", f"a {codec} block") from None
    if len(plain) > limit:
        raise WireError("limit", "more bytes once decompressed", f"at most {limit}")
    if not is_whole:
        raise WireError("avro", "a block that ends early", f"a {codec} block")
    return plain


def _inflate(unpacker: Any, data: bytes, limit: int) -> tuple[bytes, bool]:
    plain = unpacker.decompress(data, limit + 1)
    return plain, unpacker.eof  # what follows is left alone, as Java does: Roman's writer leaves 3 bytes


def _unsnap(library: Any, data: bytes, limit: int) -> tuple[bytes, bool]:
    size = sum(
        (byte & 127) << (7 * i) for i, byte in enumerate(_varint(data))
    )  # snappy begins with its length
    if size > limit:
        raise WireError("limit", f"{size} bytes once decompressed", f"at most {limit}")
    plain = bytes(library.decompress_raw(data[:-4]))
    return plain, zlib.crc32(plain) == int.from_bytes(data[-4:], "big")


def _varint(data: bytes) -> bytes:
    n = next((i for i, byte in enumerate(data[:5]) if byte < 128), len(data))
    return data[: n + 1]
