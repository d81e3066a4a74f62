"""Question 2: the Pareto front of bytes, the smallest packet, and the claims to test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...results import Cell, Tested
from ..document import Block, Figure, Heading, Table, Text, missing, table
from ..figures.pareto import Point, draw, front
from ..given import Compared, Given, family, n_bytes, pixel_bytes, recall, tested
from ..text import DASH, joined, number, points, sent_words, short, sign_of, spread, times, verdict

_SCORES = (("macro_f1", "Macro F1"), ("satellite_recall", "Recall of satellites"))


def answer(given: Given) -> list[Block]:
    """Return what is said about size."""
    blocks: list[Block] = [Text(words, kind="lead") for words in _spoken(given)]
    figure = pareto_figure(given, is_alert=True)
    if figure is not None:
        blocks.append(figure)
    blocks += [
        layout_table(given, given.sent()),
        bytes_table(given),
        Heading("The claims to test"),
        *_claims(given),
    ]
    return blocks


def pareto_points(given: Given, metric: str, *, is_alert: bool = False) -> list[Point]:
    """Return a point for each way to send that has bytes and a score."""
    out = []
    for cell in given.sent():
        test = tested(cell, given.main)
        score = None if test is None else test.macro_f1 if metric == "macro_f1" else recall(test, "satellite")
        size = None if cell.bytes is None else cell.bytes.alert.median if is_alert else n_bytes(cell)
        if score is None or score.value is None or size is None:
            continue
        low = score.value if score.low is None else score.low
        high = score.value if score.high is None else score.high
        out.append(
            Point(
                short(cell), _family(cell), not cell.encoding.startswith("rice"), size,
                100 * score.value, 100 * low, 100 * high,
            )
        )  # fmt: skip
    return out


def _family(cell: Cell) -> str:
    name = family(cell)
    return "multi-scale, S = 8" if name == "multi-scale" else name.replace("-resolution", " resolution")


def pareto_figure(given: Given, *, is_alert: bool = False) -> Figure | None:
    """Return the two fronts; of the stamps alone, or of the whole alert. None where nothing has bytes."""
    panels = []
    for metric, words in _SCORES:
        found = pareto_points(given, metric, is_alert=is_alert)
        if len(found) < 2:
            continue
        name = f"pareto-{metric.replace('_', '-')}{'-alert' if is_alert else ''}"
        of = "bytes of a whole alert" if is_alert else "bytes of the stamps of an alert"
        panels.append(draw(found, name, score=words, of_bytes=of, note=given.data_words))
    if not panels:
        return None
    what = "the whole alert" if is_alert else "the stamps alone"
    caption = (
        f"Pareto front of bytes ({what}) against accuracy; {given.data_words}. Filled marks are exact, "
        "open ones RICE; bars are intervals of 95 %; the dashed steps join what nothing beats in both "
        "bytes and score."
    )
    return Figure(caption, tuple(panels), is_wide=True)


def front_cells(given: Given) -> list[Cell]:
    """Return the cells on the front of macro F1 or of the recall of satellites."""
    labels = {p.label for metric, _ in _SCORES for p in front(pareto_points(given, metric))}
    return [c for c in given.sent() if short(c) in labels]


def layout_table(given: Given, cells: Sequence[Cell]) -> Table:
    """One row for each way to send the reference's planes, the smallest first."""
    strong = {i for i, cell in enumerate(cells) if cell.id == given.reference.id}
    caption = f"Ways to send {joined(given.reference.planes)}; {given.data_words}. The reference is in bold."
    head = (
        "layout",
        "encoding",
        "view,\u00a0″",
        "pixel data, bytes",
        "stamps, bytes",
        "macro F1",
        "satellite recall",
        "F1 minus reference",
    )
    return table(caption, head, [_row(given, cell) for cell in cells], n_words=2, strong=strong)


def _row(given: Given, cell: Cell) -> list[str]:
    test: Tested | None = tested(cell, given.main)
    words, _, encoding = sent_words(cell).partition(", ")
    found = given.compared(cell, given.reference)
    is_reference = cell.id == given.reference.id
    return [
        words,
        encoding,
        number(cell.layout.field_of_view, 0),
        number(pixel_bytes(cell), 0),
        number(n_bytes(cell), 0),
        spread(test.macro_f1 if test else None),
        spread(recall(test, "satellite") if test else None),
        DASH if is_reference else points(found),
    ]


def smallest(given: Given) -> tuple[Cell | None, tuple[Cell, Compared | None] | None]:
    """Return what was compared with, and the smallest way to send that is not found to be worse than it.

    Compared with is the full stamp, or the reference where smaller packets were compared with that alone.
    """
    tried: list[tuple[Cell, list[tuple[Cell, Compared]]]] = []
    for base in (given.of_kind("full"), given.reference):
        if base is not None and n_bytes(base) is not None:
            every = [(c, given.compared(c, base)) for c in given.sent() if n_bytes(c) is not None]
            known = [(c, d) for c, d in every if d is not None]
            tried += [(base, known)] if known else []
    if not tried:
        return None, None
    base, known = min(tried, key=lambda each: n_bytes(each[1][0][0]) or 0.0)  # of equal ones the first
    good = [(c, d) for c, d in known if sign_of(d) != -1 and _is_smaller(c, base)]
    return base, (good[0] if good else (base, None))


def has_smaller(given: Given, base: Cell) -> bool:
    """Whether anything smaller than ``base`` was compared with it."""
    return any(_is_smaller(c, base) and given.compared(c, base) is not None for c in given.sent())


def _is_smaller(cell: Cell, base: Cell) -> bool:
    mine, theirs = n_bytes(cell), n_bytes(base)
    return mine is not None and (theirs is None or mine < theirs)


def _spoken(given: Given) -> list[str]:
    out = []
    on_front = front(pareto_points(given, "macro_f1"))
    if on_front:
        names = ", ".join(f"{p.label} ({number(p.n_bytes, 0)} bytes, {number(p.value)} %)" for p in on_front)
        out.append(f"On the front of bytes against macro F1, from the smallest: {names}.")
    base, found = smallest(given)
    if base is None or found is None:
        return [*out, "How small stamps can be before F1 falls cannot be said: no way to send was compared."]
    cell, difference = found
    size = number(n_bytes(cell), 0)
    if difference is None:
        words = f"smaller than {sent_words(base)} ({size} bytes)"
        is_worse = has_smaller(given, base)
        out.append(f"Everything {words} is worse than it." if is_worse else f"Nothing {words} was tried.")
    else:
        words = f"The smallest stamps not found to be worse than {sent_words(base)} are {sent_words(cell)}"
        words += f" ({size} bytes): {verdict(difference)}."
        out.append(f"{words} No loss found is not a proof that there is none.")
    return out


def bytes_table(given: Given) -> Block:
    """Every size that was measured."""
    rows = []
    for cell in given.sent():
        b = cell.bytes
        if b is None:
            continue
        rows.append([
            *_two(cell),
            f"{number(b.pixels.median, 0)} ({number(b.pixels.low, 0)} to {number(b.pixels.high, 0)})",
            f"{number(b.cutout.median, 0)} ({number(b.cutout.low, 0)} to {number(b.cutout.high, 0)})",
            number(b.alert.median, 0), number(b.snappy, 0), number(b.zstd, 0), number(b.n, 0),
        ])  # fmt: skip
    if not rows:
        return missing("bytes of packets.")
    rest = next(c.bytes.alert_without for c in given.sent() if c.bytes is not None)
    caption = (
        "Bytes of an alert, measured: median (5 % to 95 %). The same alert without stamps: "
        f"{number(rest, 0)}. snappy, zstd: an alert's share of a Kafka batch so compressed."
    )
    head = ("layout", "encoding", "pixel data", "stamps", "alert", "snappy", "zstd", "packets")
    return table(caption, head, rows, n_words=2)


def _two(cell: Cell) -> tuple[str, str]:
    layout, _, encoding = sent_words(cell).partition(", ")
    return layout, encoding


@dataclass(frozen=True)
class Claim:
    """Something that was claimed, what was measured, and whether it holds."""

    words: str
    measured: str
    holds: str


def _claims(given: Given) -> list[Block]:
    if given.evaluation.data.survey != "ztf":
        return [missing("the claims, which are of stamps of ZTF.")]
    claims = claims_of(given)
    rows = [[c.words, c.measured, c.holds] for c in claims]
    note = (
        "“Holds” for an accuracy means that no difference, or a gain, was found; the interval says how "
        "large a loss is still possible. Claimed bytes hold within 10 %."
    )
    head = ("claim", "measured", "verdict")
    return [table("Claims made before this study (issue 6; PEERS.md, section 4).", head, rows, n_words=3),
            Text(note, kind="note")]  # fmt: skip


def claims_of(given: Given) -> list[Claim]:
    """Return each claim with its verdict."""
    four, three = _at(given, "4x8", "rice/4"), _at(given, "3x16", "rice/1")
    return [
        _bytes_claim(four, n_bytes, 600, "4 × 8, RICE σ/4: three planes with a 64″ view in 600 bytes"),
        _ratio_claim(given, four),
        _loss_claim(given, four, given.of_kind("full"), "4 × 8, RICE σ/4: no loss against the full stamp"),
        _bytes_claim(_at(given, "4x8", "rice/1"), pixel_bytes, 320, "4 × 8, RICE σ: 320 bytes of pixel data"),
        _bytes_claim(three, pixel_bytes, 830, "3 × 16, RICE σ: 830 bytes of pixel data"),
        _bytes_claim(
            _at(given, "3x16", "rice/4"), pixel_bytes, 1290, "3 × 16, RICE σ/4: 1,290 bytes of pixel data"
        ),
        _loss_claim(given, three, given.of_kind("full"), "3 × 16, RICE σ: level with the full stamp"),
        _ahead_claim(given, three, given.of_kind("crop"), "3 × 16, RICE σ: ahead of the crop"),
        _ahead_claim(given, three, _best_four(given), "3 × 16, RICE σ: ahead of 4 × 8"),
    ]


def _at(given: Given, layout: str, encoding: str) -> Cell | None:
    found = [c for c in given.sent() if c.layout.name == layout and c.encoding == encoding]
    return found[0] if found else None


def _best_four(given: Given) -> Cell | None:
    return _at(given, "4x8", "rice/1") or _at(given, "4x8", "rice/4") or _at(given, "4x8", "raw")


def _bytes_claim(cell: Cell | None, size: Callable[[Cell], float | None], limit: float, words: str) -> Claim:
    found = None if cell is None else size(cell)
    if found is None:
        return Claim(words, DASH, "not in this study")
    return Claim(words, f"{number(found, 0)} bytes", "holds" if found <= 1.1 * limit else "does not hold")


def _ratio_claim(given: Given, cell: Cell | None) -> Claim:
    words = "4 × 8, RICE σ/4: 60 times less than today's cutouts (three gzip FITS)"
    today = [c for c in given.evaluation.cells if c.encoding == "fits" and c.layout.kind == "full"]
    sizes = [s for c in today if (s := n_bytes(c)) is not None and c.planes == given.reference.planes]
    mine = None if cell is None else n_bytes(cell)
    if not sizes or not mine:
        return Claim(words, DASH, "not in this study")
    ratio = sizes[0] / mine
    measured = f"{times(ratio)} ({number(sizes[0], 0)} against {number(mine, 0)} bytes)"
    return Claim(words, measured, "holds" if ratio >= 0.9 * 60 else "does not hold")


def _loss_claim(given: Given, a: Cell | None, b: Cell | None, words: str) -> Claim:
    if a is None or b is None:
        return Claim(words, DASH, "not in this study")
    found = given.compared(a, b)
    if found is not None:
        return Claim(words, f"{points(found)} points", "does not hold" if sign_of(found) == -1 else "holds")
    for (
        middle
    ) in given.sent():  # its own layout, exact, first: what the encoding costs, then what the layout does
        if middle.encoding == "raw" and middle.layout.name in (a.layout.name, given.reference.layout.name):
            first, second = given.compared(a, middle), given.compared(middle, b)
            if first is not None and second is not None:
                measured = (
                    f"{points(first)} against {short(middle)}, that {points(second)} against {short(b)}"
                )
                is_worse = -1 in (sign_of(first), sign_of(second))
                return Claim(words, measured, "does not hold" if is_worse else "holds in two steps")
    return Claim(words, DASH, "not in this study")


def _ahead_claim(given: Given, a: Cell | None, b: Cell | None, words: str) -> Claim:
    found = None if a is None or b is None else given.compared(a, b)
    if found is None:
        return Claim(words, DASH, "not in this study")
    return Claim(
        words,
        f"{points(found)} points",
        {1: "holds", 0: "undecided", -1: "does not hold"}[sign_of(found) or 0],
    )
