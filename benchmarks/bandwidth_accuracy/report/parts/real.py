"""Question 5: the same on real stamps; few labels, partly circular, but real pixels."""

from __future__ import annotations

from ...results import RealCells
from ..document import Block, Text, missing, table
from ..given import Given, compared, n_bytes, recall, tested
from ..text import DASH, number, points, sent_words, sentence, spread, verdict

_TESTS = {
    "catalogue": "labels from catalogues alone",
    "weak": "weak labels alone: hints, some made from the alert itself",
    "all": "all labels",
    "glints": "all labels, and satellite glints as a class of their own",
}


def answer(given: Given) -> list[Block]:
    """Return the real stamps' tables, a block for each kind of labels."""
    real = given.evaluation.real
    if real is None:
        return [missing("real stamps. The answers above are of simulated ones alone.")]
    blocks: list[Block] = [
        Text(
            f"REAL stamps, {real.n_folds}-fold cross-validation that keeps groups whole. {real.note}".strip(),
            kind="lead",
        ),
        Text(_spoken(real), kind="lead"),
        _counts(real),
    ]
    names = dict.fromkeys(name for cell in real.cells for name in cell.tests)
    blocks += [_scores(real, name) for name in names]
    return blocks


def _spoken(real: RealCells) -> str:
    """The multi-scale stamps against the full one, for the widest test."""
    full = next((c for c in real.cells if c.layout.kind == "full"), None)
    test = next((t for t in ("all", "catalogue", *_tests(real)) if t in _tests(real)), "all")
    said = []
    for cell in real.cells:
        if full is None or cell.id == full.id:
            continue
        found = compared(real.differences, cell, full, test=test, metric="macro_f1")
        if found is not None:
            said.append(f"{sent_words(cell)} against {sent_words(full)}: {verdict(found)}")
    if not said:
        return "On real stamps no layout was compared with the full stamp."
    return sentence(f"with {_TESTS.get(test, test)}, macro F1 of {'; '.join(said)}")


def _tests(real: RealCells) -> list[str]:
    return list(dict.fromkeys(name for cell in real.cells for name in cell.tests))


def _counts(real: RealCells) -> Block:
    classes = list(dict.fromkeys(c for counts in real.counts.values() for c in counts))
    rows = [
        [_TESTS.get(name, name), *[number(counts.get(c, 0), 0) for c in classes]]
        for name, counts in real.counts.items()
    ]
    return table("Real stamps by labels and class.", ("labels", *classes), rows)


def _scores(real: RealCells, name: str) -> Block:
    rows = []
    full = next((c for c in real.cells if c.layout.kind == "full"), None)
    for cell in sorted(real.cells, key=lambda c: n_bytes(c) or float("inf")):
        test = tested(cell, name)
        if test is None:
            continue
        found = None if full is None else compared(real.differences, cell, full, test=name, metric="macro_f1")
        row = [sent_words(cell), number(n_bytes(cell), 0), spread(test.macro_f1)]
        row += [spread(recall(test, "satellite")), DASH if full and cell.id == full.id else points(found)]
        rows.append([*row, f"{test.n_objects:,}"])
    head = ("stamps", "bytes", "macro F1", "satellite recall", "F1 minus full", "objects")
    return table(f"REAL stamps: {_TESTS.get(name, name)}.", head, rows)
