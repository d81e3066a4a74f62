"""The first page: the answer in five sentences, what is simulated, the Pareto front, a table of layouts."""

from __future__ import annotations

from ...results import Cell
from ..document import Block, Box, Points, Section, Text, missing
from ..given import Given, n_bytes, recall, satellites_as, tested
from ..text import (
    number,
    sent_words,
    sentence,
    sign_of,
    significant,
    spread_percent,
    times,
    verdict,
)
from .size import front_cells, has_smaller, layout_table, pareto_figure, smallest

_MOST_ROWS = 9  # of the table on the first page


def summary(given: Given) -> Section:
    """Return the first page."""
    return Section(
        "summary",
        "Summary",
        (
            Points(tuple(sentences(given)), is_numbered=True, has_heads=True),
            simulated_box(given),
            *_front(given),
            *_table(given),
            Text(
                "Macro F1, the mean over classes, and the recall of satellites are percent of the test "
                f"“{given.main}”, means over seeds, with intervals of 95 % from a bootstrap over "
                f"{_groups(given)}. Bytes are medians of real packets with all planes of the reference. "
                f"{_training(given)}",
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
    words = (
        f"Against the full stamp: {_with_bytes(cell)} gives macro F1 {_f1(given, cell)} on {given.data_words}"
    )
    if full is None or full.id == cell.id:
        return f"{words}; another full stamp is not in this study"
    found = given.compared(cell, full)
    return f"{words}, {_with_bytes(full)} gives {_f1(given, full)}; {verdict(found)}"


def _f1(given: Given, cell: Cell) -> str:
    test = tested(cell, given.main)
    return "not measured" if test is None else spread_percent(test.macro_f1)


def _context(given: Given) -> str:
    """The reference against the crop and against low resolution."""
    out = []
    for kind, words in (("crop", "a crop"), ("low-resolution", "low resolution")):
        other = given.of_kind(kind)
        if other is None or other.id == given.reference.id:
            out.append(f"{words} is not in this study")
            continue
        out.append(f"compared with {_with_bytes(other)}, {verdict(given.compared(given.reference, other))}")
    return f"Against smaller views, in macro F1: {sent_words(given.reference)}, {'; '.join(out)}"


def _satellites(given: Given) -> str:
    """Satellites found, and those taken for supernovae, by layout."""
    cells = [c for c in (given.reference, given.of_kind("full"), given.of_kind("crop")) if c is not None]
    said = []
    for cell in {c.id: c for c in cells}.values():
        test = tested(cell, given.main)
        found_of = None if test is None else recall(test, "satellite")
        if test is None or found_of is None or found_of.value is None:
            continue
        lost = satellites_as(test, "SN")
        as_sn = "" if lost is None or lost.value is None else f" and {spread_percent(lost)} called supernovae"
        said.append(f"{spread_percent(found_of)} are found{as_sn} with {sent_words(cell)}")
    if not said:
        return "Satellites: none is in this study's test"
    crop = given.of_kind("crop")
    found = None if crop is None else given.compared(given.reference, crop, metric="satellite_recall")
    words = f"Satellites: {'; '.join(said)}"
    return (
        words
        if found is None
        else f"{words}; the recall of the first compared with the crop: {verdict(found)}"
    )


def _least(given: Given) -> str:
    """The smallest packet that is not found to be worse."""
    base, found = smallest(given)
    if base is None or found is None:
        return "Smallest without a loss: cannot be said, no way to send was compared"
    cell, difference = found
    if difference is None:
        why = (
            "every smaller one that was tried is worse"
            if has_smaller(given, base)
            else "nothing smaller was tried"
        )
        return f"Smallest without a loss: {_with_bytes(base)}; {why}"
    mine, theirs = n_bytes(cell), n_bytes(base)
    words = f"Smallest without a loss: of all that was tried, {_with_bytes(cell)}"
    if mine and theirs and theirs > mine:
        words += f", {times(theirs / mine)} smaller than {sent_words(base)}"
    words += f"; compared with {sent_words(base)}, {verdict(difference)}"
    if sign_of(difference) == 0:
        words += f", so a loss of up to {number(max(-100 * difference.low, 0))} points is not excluded"
    return words


def _load(given: Given) -> str:
    """What the reference and the full stamp ask of the network between survey and broker."""
    mine = given.cost_of(given.reference)
    if mine is None:
        return "Network: what it costs to send was not measured in this study"
    words = f"Network: at LSST's peak the alerts take {significant(mine.gbit_s_lsst)} Gbit/s"
    night = f"{significant(mine.tb_night_lsst)} TB a night"
    full = given.of_kind("full")
    theirs = None if full is None else given.cost_of(full)
    if theirs is None or full is None or full.id == given.reference.id:
        return f"{words} with {sent_words(given.reference)}, {night}"
    words += (
        f" with {sent_words(given.reference)} and {significant(theirs.gbit_s_lsst)} with {sent_words(full)}"
    )
    return f"{words}; {night} and {significant(theirs.tb_night_lsst)}"


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
            "The stamps that all numbers are made of, unless a table says otherwise, are SIMULATED "
            f"({data.label}): sky, telescope, camera, transients and satellites are drawn by this "
            "project's own pipeline. What it does not draw, no network here has met."
        )
    else:
        lines.append(f"The stamps are real ({data.label}).")
    lines.append("The bytes are measured on packets that were really encoded and decoded.")
    if (iterations := (evaluation.study.get("training") or {}).get("iterations")) is not None:
        lines.append(
            f"Every network of the one family had at most {iterations:,} iterations. A stamp of more pixels "
            "may need more of them: being ahead of it can be the training's, not the stamp's."
        )
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


def _table(given: Given) -> list[Block]:
    cells = given.sent()
    if len(cells) <= _MOST_ROWS:
        return [layout_table(given, cells)]
    chosen = {c.id for c in front_cells(given)} | {given.reference.id}
    chosen |= {c.id for kind in ("full", "crop", "low-resolution") if (c := given.of_kind(kind)) is not None}
    few = [c for c in cells if c.id in chosen]
    more = f"{len(cells) - len(few)} more ways to send stand under question 2."
    return [layout_table(given, few), Text(more, kind="note")]


def _training(given: Given) -> str:
    """How long networks were trained, where the study tells."""
    iterations = (given.evaluation.study.get("training") or {}).get("iterations")
    n_seeds = len(given.reference.seeds)
    words = f"{n_seeds} training{'s' if n_seeds != 1 else ''} of the reference"
    return f"{words}." if iterations is None else f"{words}, each of at most {iterations:,} iterations."


def _groups(given: Given) -> str:
    test = tested(given.reference, given.main)
    if test is None:
        return "the groups of the test"
    unit = {"cell": "cells of the sky", "object": "objects"}.get(test.grouped_by, test.grouped_by)
    words = f"{test.n_groups:,} {unit}"
    return words if test.grouped_by == "object" else f"{words} ({test.n_objects:,} objects)"
