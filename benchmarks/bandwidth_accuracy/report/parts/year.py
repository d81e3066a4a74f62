"""Question 6: a simulated stream at real class rates, counts by class against truth."""

from __future__ import annotations

from ...results import Value, Year
from .. import published
from ..document import Block, Text, missing, table
from ..given import Given
from ..text import DASH, joined, number, sent_words, sentence, spread


def answer(given: Given) -> list[Block]:
    """Return how many objects of each class were found in the year, and how many there were."""
    year = given.evaluation.year
    if year is None:
        return [missing("a stream of a year at real class rates.")]
    cell = given.cell(year.cell)
    return [
        Text(_spoken(year), kind="lead"),
        _counts(year),
        Text(
            f"A SIMULATED stream of {year.n_days} days of {year.objects_a_day} objects, drawn from the "
            "test stamps at the class rates that the paper's own model found in a year of ZTF, classified "
            f"with {sent_words(cell)} and the stream's rates as priors. {_satellites(year)}The paper's "
            "counts are predictions: nobody knows the truth of its year. They add to "
            f"{sum(published.YEAR.values()):,}, more than the {published.N_YEAR_SELECTED:,} objects that "
            "it says were selected; it does not say why.",
            kind="note",
        ),
    ]


def _spoken(year: Year) -> str:
    """Say which classes are counted too often, too rarely, or as they are."""
    over, under, right = [], [], []
    for name, true in year.true.items():
        found = year.found.get(name)
        if found is None or found.value is None or not true:
            continue
        low = found.value if found.low is None else found.low
        high = found.value if found.high is None else found.high
        if low > true:
            over.append(f"{name} ({number(found.value, 0)} for {number(true, 0)})")
        elif high < true:
            under.append(f"{name} ({number(found.value, 0)} for {number(true, 0)})")
        else:
            right.append(name)
    words = []
    if over:
        words.append(f"more are called than there are: {joined(over)}")
    if under:
        words.append(f"fewer are called than there are: {joined(under)}")
    if right:
        words.append(f"the count agrees with the truth within its interval for {joined(right)}")
    return sentence("; ".join(words)) if words else "No class of the year could be counted."


def _counts(year: Year) -> Block:
    shares, total = published.year_share(published.YEAR), sum(year.true.values())
    rows = []
    for name, true in year.true.items():
        theirs = published.YEAR.get(name)
        rows.append([
            name, number(true, 0), _count(year.found.get(name)), spread(year.correct.get(name)),
            number(100 * true / total) if total else DASH,
            DASH if theirs is None else f"{number(theirs, 0)} ({number(shares[name])} %)",
        ])  # fmt: skip
    head = (
        "class",
        "truth",
        "called so (95 %)",
        "of them right, %",
        "truth, % of all",
        "paper: called so, real ZTF",
    )
    return table(f"A simulated year: {total:,} objects.", head, rows)


def _count(value: Value | None) -> str:
    if value is None or value.value is None:
        return DASH
    if value.low is None or value.high is None:
        return number(value.value, 0)
    return f"{number(value.value, 0)} ({number(value.low, 0)} to {number(value.high, 0)})"


def _satellites(year: Year) -> str:
    words = _count(year.per_day_satellites)
    return "" if words == DASH else f"Called satellites a day: {_day(year.per_day_satellites)}. "


def _day(value: Value) -> str:
    if value.low is None or value.high is None:
        return number(value.value)
    return f"{number(value.value)} ({number(value.low)} to {number(value.high)})"
