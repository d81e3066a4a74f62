"""The Minor Planet Center's orbit database (MPCORB.DAT), its packed dates and designations.

Columns as in "Export Format for Minor-Planet Orbits"; the file begins with an explanation that ends in a line
of dashes, and has blank lines between its sections. Packed forms as in "Packed Provisional and Permanent
Designations" and "Packed Dates" of the same Center.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path

import erfa
import numpy as np
from numpy.typing import NDArray

from ..ephemeris import Orbits, no_orbits
from ..errors import CatalogueError

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
LETTERS = "ABCDEFGHJKLMNOPQRSTUVWXYZ"  # of discoveries in a half-month, and of half-months

_COLUMNS = {  # first and one after last, from 0
    "mean_anomaly": (26, 35), "perihelion": (37, 46), "node": (48, 57), "inclination": (59, 68),
    "eccentricity": (70, 79), "semimajor_axis": (92, 103), "h": (8, 13), "g": (14, 19),
}  # fmt: skip
_SHORTEST = 103  # characters up to the semimajor axis
_DEFAULT_SLOPE = 0.15  # G of a body that has none
_COMPRESSED = ".gz"


def read_mpcorb(path: str | Path) -> Orbits:
    """Return the orbits of an MPCORB file, or of one compressed by gzip; each row has its own epoch.

    1.4 million rows take about 3 s and 0.6 GB; the last file read is kept until it changes. Bodies without an
    absolute magnitude have NaN; orbits that are not ellipses, which the format has no room for, are left out.
    Raises CatalogueError, with file and line, where a row cannot be read.
    """
    path = Path(path)
    try:
        stamp = path.stat()
    except OSError as error:
        raise CatalogueError(f"{path}: {error.strerror}") from error
    return _read(path, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=1)
def _read(path: Path, mtime_ns: int, size: int) -> Orbits:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == _COMPRESSED else path.read_bytes()
    except (OSError, EOFError) as error:
        raise CatalogueError(f"{path}: {error}") from error
    text = np.frombuffer(data, np.uint8)
    ends = np.append(np.flatnonzero(text == ord("\n")), len(text))
    starts = np.append(0, ends[:-1] + 1)
    first = _first_row(data)
    rows = np.flatnonzero((starts >= first) & (ends - starts > 1))  # 1: a lone carriage return
    if len(rows) == 0:
        return no_orbits()
    short = rows[ends[rows] - starts[rows] < _SHORTEST]
    if len(short):
        raise _malformed(path, data, short[0], f"ends before column {_SHORTEST}")
    begin = starts[rows]
    values = {name: _numbers(text, begin, *columns) for name, columns in _COLUMNS.items()}
    values["g"][_blank(text, begin, *_COLUMNS["g"])] = _DEFAULT_SLOPE
    for name, (a, b) in _COLUMNS.items():
        wrong = ~np.isfinite(values[name])
        if name == "h":
            wrong &= ~_blank(text, begin, a, b)
        if wrong.any():
            raise _malformed(path, data, rows[wrong.argmax()], f"columns {a + 1}-{b} are not a number")
    packed, which = np.unique(_field(text, begin, 20, 25), return_inverse=True)
    epochs = np.empty(len(packed))
    for k, epoch in enumerate(packed):
        try:
            epochs[k] = unpack_epoch(epoch.decode("ascii"))
        except ValueError as error:
            row = rows[(which == k).argmax()]
            raise _malformed(path, data, row, f"columns 21-25 are not a packed date: {error}") from error
    names = np.char.strip(_field(text, begin, 0, 7).astype("U7"))
    orbits = Orbits(names, epochs[which], **values)
    bound = (orbits.eccentricity >= 0) & (orbits.eccentricity < 1) & (orbits.semimajor_axis > 0)
    return orbits if bound.all() else orbits.select(bound)


def _first_row(data: bytes) -> int:
    """Where the rows begin: after the line of dashes, if there is one."""
    dashes = 0 if data.startswith(b"-----") else data.find(b"\n-----") + 1
    if dashes == 0 and not data.startswith(b"-----"):
        return 0
    end = data.find(b"\n", dashes)
    return len(data) if end < 0 else end + 1


def _field(text: NDArray[np.uint8], begin: NDArray[np.intp], a: int, b: int) -> NDArray[np.bytes_]:
    """Characters ``a`` to ``b`` (not included) of the lines that begin at ``begin``."""
    characters = np.empty((len(begin), b - a), np.uint8)
    for k in range(b - a):  # a column at a time: no index of (n, b - a) numbers
        characters[:, k] = text[begin + (a + k)]
    return characters.view(f"S{b - a}").ravel()


def _blank(text: NDArray[np.uint8], begin: NDArray[np.intp], a: int, b: int) -> NDArray[np.bool_]:
    return _field(text, begin, a, b) == b" " * (b - a)


def _numbers(text: NDArray[np.uint8], begin: NDArray[np.intp], a: int, b: int) -> NDArray[np.float64]:
    """Float64 numbers of a column; NaN where a field is none."""
    words = _field(text, begin, a, b)
    try:
        return words.astype(np.float64)
    except ValueError:  # at least one is not a number: find which
        return np.array([_number(word) for word in words])


def _number(word: bytes) -> float:
    try:
        return float(word)
    except ValueError:
        return float("nan")


def _malformed(path: Path, data: bytes, line: int, why: str) -> CatalogueError:
    found = data.split(b"\n", int(line) + 1)[int(line)][:_SHORTEST].decode("ascii", "replace")
    return CatalogueError(f"{path}: line {line + 1} is not a row of MPCORB: {why}: {found!r}")


def pack_epoch(mjd: float) -> str:
    """Return the five characters of a date: K239D is 2023 September 13.0."""
    year, month, day, _ = erfa.jd2cal(2400000.5, mjd)
    return f"{DIGITS[year // 100]}{year % 100:02d}{DIGITS[month]}{DIGITS[day]}"


def unpack_epoch(packed: str) -> float:
    """Return the MJD of a packed date. Raises ValueError where it is none."""
    if len(packed) != 5:
        raise ValueError(f"{packed!r} is not five characters")
    year = DIGITS.index(packed[0]) * 100 + int(packed[1:3])
    month, day = DIGITS.index(packed[3]), DIGITS.index(packed[4])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        raise ValueError(f"{packed!r}: month {month}, day {day}")
    _, mjd = erfa.cal2jd(year, month, day)
    return float(mjd)


def readable(packed: str) -> str:
    """Return a designation as it is written: "1" of 00001, "1995 XA" of J95X00A, "2040 P-L" of PLS2040.

    Raises ValueError where it is not a packed designation.
    """
    p = packed.strip()
    if len(p) == 5:
        if p[0] == "~":  # from 620000 on: four digits of base 62
            return str(620000 + _base62(p[1:]))
        return str(DIGITS.index(p[0]) * 10000 + int(p[1:]))
    if len(p) != 7:
        raise ValueError(f"{packed!r} is not a packed designation")
    if p[2] == "S" and p[:2] in ("PL", "T1", "T2", "T3"):  # the Palomar-Leiden surveys
        return f"{int(p[3:])} {p[0]}-{p[1]}"
    if p[0] == "_":  # from the 15501st discovery of a half-month on
        order = _base62(p[3:])
        return f"{2000 + DIGITS.index(p[1])} {p[2]}{LETTERS[order % 25]}{620 + order // 25}"
    cycle = DIGITS.index(p[4]) * 10 + int(p[5])
    return f"{DIGITS.index(p[0]) * 100 + int(p[1:3])} {p[3]}{p[6]}{cycle or ''}"


def _base62(digits: str) -> int:
    value = 0
    for digit in digits:
        value = 62 * value + DIGITS.index(digit)
    return value
