"""Question 1: does the paper's order hold, with its own networks, its normalisation, and an honest one?"""

from __future__ import annotations

from ...results import Cell
from .. import published
from ..document import Block, Heading, Text, missing, table
from ..given import Given, paper_name, tested
from ..text import DASH, joined, number, points, sentence, sign_of, spread

#: The paper's order: neighbours, and whether the first is said to be ahead (1) or level (0).
ORDER = (
    ("multi-scale", "full", 0),
    ("full", "cropped", 1),
    ("multi-scale", "cropped", 1),
    ("cropped", "low-resolution", 1),
)
_NORMALIZED = {"paper": "as in the paper", "noise": "in units of the noise"}


def answer(given: Given) -> list[Block]:
    """Return the order with the paper's networks, each normalisation, and with the one family of networks."""
    short = shortened(given)
    blocks: list[Block] = [Text(short, kind="note")] if short else []
    for normalization, words in _NORMALIZED.items():
        cells = given.published(normalization)
        title = f"The paper's networks, normalised {words}"
        if not cells:
            blocks += [Heading(title), missing(f"{title[0].lower()}{title[1:]}.")]
            continue
        blocks += [
            Heading(title),
            *_ordered(given, {n: c[0] for n, c in cells.items()}),
            _scores(given, cells),
        ]
        blocks += _readings(given, cells)
    ours = {paper_name(c): c for c in given.layouts() if _is_of_paper(c)}
    blocks.append(Heading("One family of networks of equal parameters"))
    if len(ours) > 1:
        blocks += [*_ordered(given, ours), _scores(given, {n: [c] for n, c in ours.items()})]
    else:
        blocks.append(missing("the four layouts with one family of networks."))
    return blocks


def shortened(given: Given) -> str:
    """Say how long the paper's networks were trained where that is not as published; empty where it is."""
    budgets = (given.evaluation.study.get("paper") or {}).get("budget") or {}
    run = {c.network.removeprefix("published-") for c in given.evaluation.cells}
    said = [f"{name} {b['iterations']:,} of {b['batch_size']}" for name, b in budgets.items() if name in run]
    if not said:
        return ""
    return (
        f"The paper's networks were trained in batches of {published.BATCH_SIZE} until validation F1 had "
        f"not risen for {published.PATIENCE * published.EVALUATED_EVERY:,} iterations. Here their training "
        f"is SHORTENED; at most, iterations and batch: {', '.join(said)}. Differences between them are "
        "partly of that."
    )


def _is_of_paper(cell: Cell) -> bool:
    layout = cell.layout
    return layout.kind != "multi-scale" or (layout.size, layout.n_levels) == (8, 4)


def _ordered(given: Given, cells: dict[str, Cell]) -> list[Block]:
    rows, as_published, against, open_ = [], [], [], []
    for a, b, expected in ORDER:
        if a not in cells or b not in cells:
            continue
        found = given.compared(cells[a], cells[b])
        sign = sign_of(found)
        claim = f"{a} {'level with' if expected == 0 else 'ahead of'} {b}"
        theirs = published.TABLE_1["random"]
        gap = theirs[a].f1.mean - theirs[b].f1.mean
        if sign is None:
            said = "not compared"
        elif sign == expected:
            said = "as published"
            as_published.append(claim)
        elif sign == 0:
            said = "undecided"
            open_.append(claim)
        else:
            said = "otherwise"
            against.append(claim)
        rows.append([claim, f"{number(gap)}", points(found), said])
    if not rows:
        return [missing("two of the paper's layouts with these networks.")]
    words = []
    if as_published:
        words.append(f"as published: {joined(as_published)}")
    if open_:
        words.append(f"no difference found where one was published: {joined(open_)}")
    if against:
        words.append(f"otherwise than published: {joined(against)}")
    spoken = sentence("; ".join(words)) if words else "The layouts were not compared with each other."
    head = ("published", "difference, paper", f"difference, ours ({given.data_words})", "here")
    caption = f"Macro F1, points, with intervals of 95 %; {given.data_words}."
    return [Text(spoken, kind="lead"), table(caption, head, rows)]


def _scores(given: Given, cells: dict[str, list[Cell]]) -> Block:
    rows = []
    for name in published.LAYOUTS:
        if name not in cells:
            continue
        cell = cells[name][0]
        for test in ("random", "first"):
            found, theirs = tested(cell, test), published.TABLE_1[test][name].f1
            rows.append([
                published.SPELLED[name], test, f"{number(theirs.mean, 2)} ({number(theirs.std, 2)})",
                DASH if found is None or found.macro_f1.value is None else
                f"{number(100 * found.macro_f1.value, 2)} ({_std(found.macro_f1.std_seeds)})",
                spread(found.macro_f1 if found else None), f"{len(cell.seeds)}",
            ])  # fmt: skip
    head = ("layout", "test", "paper, real (std)", "ours (std of seeds)", "ours, 95 %", "seeds")
    return table(f"Macro F1, percent; ours on {given.data_words}.", head, rows, n_words=2)


def _readings(given: Given, cells: dict[str, list[Cell]]) -> list[Block]:
    """The other reading of Table 2, where it was run."""
    rows = []
    for name, both in cells.items():
        for cell in both[1:]:
            found = tested(cell, given.main)
            first = tested(both[0], given.main)
            rows.append([
                published.SPELLED[name], both[0].network.removeprefix("published-"),
                spread(first.macro_f1 if first else None), cell.network.removeprefix("published-"),
                spread(found.macro_f1 if found else None),
            ])  # fmt: skip
    if not rows:
        return []
    caption = (
        "Table 2 lost its columns: its last convolution can belong to either of two networks. Both readings."
    )
    return [table(caption, ("layout", "one reading", "macro F1", "the other", "macro F1 "), rows)]


def _std(value: float | None) -> str:
    return DASH if value is None else number(100 * value, 2)
