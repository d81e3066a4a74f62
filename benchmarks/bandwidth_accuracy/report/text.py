"""Numbers and verdicts in words. A sentence follows the sign and the interval, never a fixed text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..results import Cell, Value
from .given import Compared

DASH = "–"
ALPHA = 0.05
_BY = "\u00a0×\u00a0"  # no line ends inside a size


def number(value: float | None, digits: int = 1) -> str:
    """A number with a true minus; a dash where there is none."""
    return DASH if value is None else f"{_plain(value, digits):,.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 1) -> str:
    """A number with its sign."""
    return DASH if value is None else f"{_plain(value, digits):+,.{digits}f}".replace("-", "−")


def _plain(value: float, digits: int) -> float:
    """The value rounded, without the sign of a zero."""
    return round(value, digits) + 0.0


def significant(value: float | None, n: int = 2) -> str:
    """A number of ``n`` significant digits, not in powers of ten."""
    if value is None or value == 0:
        return number(value, 0)
    return number(value, max(0, n - 1 - math.floor(math.log10(abs(value)))))


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as percent, without the sign of percent."""
    return DASH if value is None else number(100 * value, digits)


def spread(value: Value | None, digits: int = 1) -> str:
    """A fraction and its interval in percent: "87.4 (85.0 to 89.1)"."""
    if value is None or value.value is None:
        return DASH
    if value.low is None or value.high is None:
        return percent(value.value, digits)
    return f"{percent(value.value, digits)} ({percent(value.low, digits)} to {percent(value.high, digits)})"


def spread_percent(value: Value | None) -> str:
    """The same for a sentence: "87.4 % (85.0 to 89.1)"."""
    words = spread(value)
    return words if words == DASH else words.replace(" (", " % (") if " (" in words else f"{words} %"


def points(found: Compared | None) -> str:
    """A difference and its interval in points: "+1.2 (−0.3 to +2.7)"."""
    if found is None:
        return DASH
    low, high = signed(100 * found.low), signed(100 * found.high)
    return f"{signed(100 * found.value)} ({low} to {high})"


def sign_of(found: Compared | None) -> int | None:
    """1: better, −1: worse, 0: the interval holds zero, None: not compared."""
    if found is None:
        return None
    return 1 if found.low > 0 else -1 if found.high < 0 else 0


def verdict(found: Compared | None, *, of: str = "points") -> str:
    """Say how one thing compares with another: "better by", "worse by" or "no difference found"."""
    sign = sign_of(found)
    if found is None or sign is None:
        return "not compared in this study"
    low, high = sorted((abs(100 * found.low), abs(100 * found.high)))
    if sign == 0:
        return f"no difference found: {signed(100 * found.low)} to {signed(100 * found.high)} {of}"
    words = f"{'better' if sign > 0 else 'worse'} by {number(abs(100 * found.value))} {of}"
    doubt = ""
    if found.adjusted_p is not None and found.adjusted_p > ALPHA:
        doubt = f"; McNemar's test does not confirm it, adjusted p = {found.adjusted_p:.2f}"
    return f"{words} ({number(low)} to {number(high)}{doubt})"


def layout_words(cell: Cell) -> str:
    """The layout alone: "multi-scale 4 × 8 × 8"."""
    layout = cell.layout
    if layout.kind == "multi-scale":
        return f"multi-scale {layout.n_levels}{_BY}{layout.size}{_BY}{layout.size}"
    name = {"full": "full", "crop": "cropped", "low-resolution": "low resolution"}[layout.kind]
    return f"{name} {layout.size}{_BY}{layout.size}"


def encoding_words(encoding: str) -> str:
    """How values are coded: "exact", "RICE σ/4", "gzip FITS"."""
    if encoding.startswith("rice/"):
        step = encoding.removeprefix("rice/")
        return "RICE σ" if step == "1" else f"RICE σ/{step}"
    return {"raw": "exact", "fits": "gzip FITS"}.get(encoding, encoding)


def sent_words(cell: Cell) -> str:
    """Layout and encoding."""
    return f"{layout_words(cell)}, {encoding_words(cell.encoding)}"


def short(cell: Cell) -> str:
    """A few letters for a drawing: "4×8 σ/4"."""
    layout = cell.layout
    if layout.kind == "multi-scale":
        name = f"{layout.n_levels}×{layout.size}"
    else:
        name = f"{ {'full': 'full', 'crop': 'crop', 'low-resolution': 'low'}[layout.kind] } {layout.size}"
    words = encoding_words(cell.encoding)
    return f"{name} {words.removeprefix('RICE ').removeprefix('gzip ')}".removesuffix(" exact")


def changed_words(cell: Cell, reference: Cell) -> str:
    """What a cell has that the reference has not, for a table of cells."""
    out = []
    if cell.layout != reference.layout:
        out.append(layout_words(cell))
    if cell.encoding != reference.encoding:
        out.append(encoding_words(cell.encoding))
    if cell.planes != reference.planes:
        out.append(" + ".join(cell.planes))
    if cell.network != reference.network:
        out.append(f"network {cell.network}")
    if cell.normalization != reference.normalization:
        out.append(f"normalisation {cell.normalization}")
    if cell.position != reference.position:
        out.append(f"position {cell.position}")
    if cell.fraction != reference.fraction:
        out.append(f"{100 * cell.fraction:g} % of the training stamps")
    if cell.label_noise != reference.label_noise:
        out.append(f"{100 * cell.label_noise:g} % wrong labels")
    if cell.dropped_level != reference.dropped_level:
        out.append("all levels" if cell.dropped_level is None else f"without level {cell.dropped_level}")
    if cell.fft != reference.fft:
        out.append("with |FFT|²" if cell.fft else "without |FFT|²")
    return ", ".join(out) or "the reference"


def joined(words: Sequence[str], last: str = "and") -> str:
    """ "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def times(ratio: float) -> str:
    """ "15 times" or "1.4 times"."""
    return f"{number(ratio, 0 if ratio >= 10 else 1)} times"


def sentence(words: str) -> str:
    """The words with a capital first letter and a full stop."""
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."
