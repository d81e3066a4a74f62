"""The first page: the answer in five sentences, the Pareto front, the layouts in one table, what is simulated."""

from __future__ import annotations

from ...results import Cell, Tested
from ..document import Block, Box, Points, Section, Table, Text, missing, table
from ..given import Given, n_bytes, pixel_bytes, tested
from ..text import (
    DASH,
    joined,
    number,
    points,
    sent_words,
    sentence,
    sign_of,
    spread,
    spread_percent,
    times,
    verdict,
)
from .size import pareto_figure, smallest


def summary(given: Given) -> Section:
    """Return the first page."""
    return Section(
        "summary",
        "Summary",
        (
            Points(tuple(sentences(given)), is_numbered=True),
            simulated_box(given),
            *_front(given),
            layout_table(given),
            Text(
                "Macro F1, the mean over classes, and the recall of satellites are percent of the test "
                f"“{given.main}”, means over seeds, with intervals of 95 % from a bootstrap over "
                f"{_groups(given)}. Bytes are medians of real packets with all planes of the reference.",
                kind="note",
            ),
        ),
        starts_page=False,
    )


def sentences(given: Given) -> list[str]:
    """Return the answer: accuracy, context, satellites, the least bytes, the network's load."""
    return [
        sentence(words)
        for words in (_level(given), _context(given), _satellites(given), _least(given), _load(given))
    ]


def _level(given: Given) -> str:
    """The reference against the full stamp."""
    cell, full = given.reference, given.of_kind("full")
    mine = tested(cell, given.main)
    words = f"sent as {_with_bytes(cell)}, {given.data_words} are classified with macro F1 "
    words += "not measured" if mine is None else spread_percent(mine.macro_f1)
    if full is None or full.id == cell.id:
        return f"{words}; the full stamp is not in this study"
    found = given.compared(cell, full)
    return f"{words}; against {_with_bytes(full)}: {verdict(found)}"


def _context(given: Given) -> str:
    """The reference against the crop and against low resolution."""
    out = []
    for kind in ("crop", "low-resolution"):
        other = given.of_kind(kind)
        if other is None or other.id == given.reference.id:
            out.append(f"{'a crop' if kind == 'crop' else 'low resolution'} is not in this study")
            continue
        found = given.compared(given.reference, other)
        out.append(f"against {_with_bytes(other)}: {verdict(found)}")
    return f"the same layout {'; '.join(out)} of macro F1"


def _satellites(given: Given) -> str:
    """Satellites found, and those taken for supernovae, by layout."""
    cells = [c for c in (given.of_kind("full"), given.of_kind("crop"), given.reference) if c is not None]
    said = []
    for cell in {c.id: c for c in cells}.values():
        test = tested(cell, given.main)
        recall = None if test is None else test.recall.get("satellite")
        if test is None or recall is None or recall.value is None:
            continue
        lost = test.satellite_to_sn
        as_sn = "" if lost is None or lost.value is None else f", {spread(lost)} called supernovae"
        said.append(f"{spread_percent(recall)}{as_sn} ({sent_words(cell)})")
    if not said:
        return "satellites are not among the classes of this study's test"
    words = f"of true satellites are found: {'; '.join(said)}"
    crop = given.of_kind("crop")
    found = None if crop is None else given.compared(given.reference, crop, metric="satellite_recall")
    return words if found is None else f"{words}; the reference against the crop is {verdict(found)}"


def _least(given: Given) -> str:
    """The smallest packet that is not found to be worse."""
    base, found = smallest(given)
    if base is None or found is None:
        return "which is the smallest packet without a loss cannot be said: no way to send was compared"
    cell, difference = found
    size = n_bytes(cell) or 0.0
    words = f"the smallest packet for which no loss of macro F1 against {sent_words(base)} was found is "
    words += f"{_with_bytes(cell)}"
    if difference is None:
        return f"{words}: every smaller one that was tried is worse"
    base_size = n_bytes(base)
    if base_size and size and base_size > size:
        words += f", {times(base_size / size)} smaller"
    if sign_of(difference) == 0:
        return f"{words}; the interval leaves room for a loss of up to {number(max(-100 * difference.low, 0))} points"
    return f"{words}; it is {verdict(difference)}"


def _load(given: Given) -> str:
    """What the reference and the full stamp ask of the network between survey and broker."""
    mine = given.cost_of(given.reference)
    if mine is None:
        return "what it costs to send and to classify was not measured in this study"
    words = f"at LSST's peak the alerts take {number(mine.gbit_s_lsst, 2)} Gbit/s with {sent_words(given.reference)}"
    full = given.of_kind("full")
    theirs = None if full is None else given.cost_of(full)
    if theirs is not None and full is not None and full.id != given.reference.id:
        words += f" and {number(theirs.gbit_s_lsst, 2)} with {sent_words(full)}"
        words += f", {number(mine.tb_night_lsst, 2)} against {number(theirs.tb_night_lsst, 2)} TB a night"
    else:
        words += f", {number(mine.tb_night_lsst, 2)} TB a night"
    return words


def _with_bytes(cell: Cell) -> str:
    size = n_bytes(cell)
    return sent_words(cell) + ("" if size is None else f" ({number(size, 0)} bytes)")


def simulated_box(given: Given) -> Box:
    """Say what is simulated and what is not."""
    evaluation = given.evaluation
    data = evaluation.data
    lines = []
    if data.simulated:
        lines.append(
            f"The stamps that all numbers are made of, unless a table says otherwise, are SIMULATED ({data.label}): "
            "sky, telescope, camera, transients and satellites are drawn by this project's own pipeline. What it "
            "does not draw, no network here has met."
        )
    else:
        lines.append(f"The stamps are real ({data.label}).")
    lines.append("The bytes are measured on packets that were really encoded and decoded.")
    if evaluation.real is not None:
        lines.append("Question 5 alone is answered on real stamps; their labels are few and partly circular.")
    elif data.simulated:
        lines.append("No number here is of real stamps.")
    if evaluation.year is not None:
        lines.append("The year of question 6 is a simulated stream at assumed class rates.")
    lines.append(
        "What the paper published is on real ZTF alerts: it stands beside our numbers, not against them."
    )
    return Box("What is simulated", (Points(tuple(lines)),))


def _front(given: Given) -> list[Block]:
    figure = pareto_figure(given)
    return [figure] if figure is not None else [missing("bytes of packets, so there is no Pareto front.")]


def layout_table(given: Given) -> Table:
    """One row for each way to send the reference's planes, the smallest first."""
    rows, strong = [], set()
    for i, cell in enumerate(given.sent()):
        rows.append(_row(given, cell))
        if cell.id == given.reference.id:
            strong.add(i)
    caption = f"Ways to send {joined(given.reference.planes)}; {given.data_words}. The reference is in bold."
    head = ("layout", "encoding", "view ″", "pixel data, bytes", "stamps, bytes", "macro F1", "satellite recall",
            "F1 minus reference")  # fmt: skip
    return table(caption, head, rows, n_words=2, strong=strong)


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
        spread(test.recall.get("satellite") if test else None),
        DASH if is_reference else points(found),
    ]


def _groups(given: Given) -> str:
    test = tested(given.reference, given.main)
    if test is None:
        return "the groups of the test"
    unit = {"cell": "cells of the sky", "object": "objects"}.get(test.grouped_by, test.grouped_by)
    return f"{test.n_groups:,} {unit} ({test.n_objects:,} objects)"
