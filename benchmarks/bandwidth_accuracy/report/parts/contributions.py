"""Question 4: which level contributes what, and which plane."""

from __future__ import annotations

from collections.abc import Sequence

from ...results import Dropped, Value
from ..document import Block, Figure, Text, missing, table
from ..figures.bars import draw_differences
from ..given import Compared, Given
from ..text import joined, points, sent_words, sentence


def answer(given: Given) -> list[Block]:
    """Return what is lost without each level and each plane."""
    blocks: list[Block] = []
    for kind, rows in (
        ("level", given.evaluation.levels_dropped),
        ("plane", given.evaluation.planes_dropped),
    ):
        if not rows:
            blocks.append(missing(f"networks trained without one {kind}."))
            continue
        blocks += [
            Text(_spoken(kind, rows), kind="lead"),
            _figure(given, kind, rows),
            _table(given, kind, rows),
        ]
    return blocks


def _spoken(kind: str, rows: Sequence[Dropped]) -> str:
    """Say which ones cost something when left out, which help, and of which nothing was found."""
    costs, gains, nothing, unknown = [], [], [], []
    for row in rows:
        low, high = row.macro_f1.low, row.macro_f1.high
        if low is None or high is None or row.macro_f1.value is None:
            unknown.append(row.dropped)
        elif high < 0:
            costs.append(f"{row.dropped} ({points(_compared(row.macro_f1))} points)")
        elif low > 0:
            gains.append(f"{row.dropped} ({points(_compared(row.macro_f1))} points)")
        else:
            nothing.append(row.dropped)
    words = []
    if costs:
        words.append(f"macro F1 falls without {joined(costs)}")
    if gains:
        words.append(f"macro F1 rises without {joined(gains)}")
    if nothing:
        words.append(f"no difference found without {joined(nothing, 'or')}")
    if unknown:
        words.append(f"no interval for {joined(unknown)}")
    return sentence("; ".join(words))


def _figure(given: Given, kind: str, rows: Sequence[Dropped]) -> Figure:
    panels = []
    for metric, words in (("macro_f1", "macro F1"), ("satellite_recall", "satellite recall")):
        bars = [
            (r.dropped, 100 * d.value, 100 * d.low, 100 * d.high)
            for r in rows
            if (d := _compared(getattr(r, metric))) is not None
        ]
        if bars:
            name = f"dropped-{kind}-{metric.replace('_', '-')}"
            panels.append(draw_differences(bars, name, title=f"Without one {kind}", unit=f"{words}, points"))
    caption = (
        f"What is lost when one {kind} is left out of {sent_words(given.reference)} and the network is "
        f"trained without it; {given.data_words}. Filled bars: the interval leaves out zero; hatched: it "
        "does not."
    )
    return Figure(caption, tuple(panels))


def _table(given: Given, kind: str, rows: Sequence[Dropped]) -> Block:
    body = [[r.dropped, points(_compared(r.macro_f1)), points(_compared(r.satellite_recall))] for r in rows]
    caption = f"Without one {kind} minus the reference, points with intervals of 95 %; {given.data_words}."
    return table(caption, (f"without {kind}", "macro F1", "satellite recall"), body)


def _compared(value: Value) -> Compared | None:
    if value.value is None or value.low is None or value.high is None:
        return None
    return Compared(value.value, value.low, value.high, None, 0)
