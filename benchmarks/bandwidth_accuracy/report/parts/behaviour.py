"""How the networks behave: confusion, detection errors, calibration, learning, position, cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...results import Bin, Cell, Learning, Tested, Value
from ..document import Block, Figure, Heading, Panel, Section, Text, missing, table
from ..figures import confusion, curves
from ..given import Given, like, of_count, recall, satellites_as, tested
from ..text import (
    DASH,
    changed_words,
    number,
    percent,
    points,
    sent_words,
    sentence,
    short,
    significant,
    spread,
    verdict,
)

_MOST = 6  # lines in one drawing


def section(given: Given) -> Section:
    """Return the section."""
    cells = main_cells(given)
    return Section(
        "behaviour",
        "How the networks behave",
        (
            *_confusions(given, cells),
            *_by_class(given, cells),
            *_det(given, cells),
            *_calibration(given, cells),
            *_at_stream_rates(given, cells),
            *_learning(given),
            *_label_noise(given),
            *_other_arms(given),
            *_cost(given),
        ),
    )


def main_cells(given: Given) -> list[Cell]:
    """Return the cells to be drawn in full: the paper's layouts, the reference, the smallest and 3 × 16."""
    chosen = [given.reference]
    chosen += [c for kind in ("full", "crop", "low-resolution") if (c := given.of_kind(kind)) is not None]
    chosen += [c for c in given.layouts() if c.layout.name == "3x16"]
    chosen += given.sent()[:1]
    return list({c.id: c for c in chosen}.values())[:_MOST]


def share(test: Tested, i: int, j: int) -> Value:
    """Return the fraction of true class ``i`` that is called ``j``, with its interval."""
    c = test.confusion
    value = Value(value=c.value[i][j], low=c.low[i][j], high=c.high[i][j])
    return of_count(value, test.counts.get(test.classes[i], 0)) or value


def confusion_panel(
    given: Given, cell: Cell, name: str, *, published: dict[tuple[str, str], float] | None = None
) -> Panel | None:
    """Return the confusion matrix of a cell; None where it was not tested."""
    test = tested(cell, given.main)
    if test is None:
        return None
    k = range(len(test.classes))
    shares = [[share(test, i, j) for j in k] for i in k]
    value, low, high = (
        [[np.nan if (v := getattr(one, end)) is None else v for one in row] for row in shares]
        for end in ("value", "low", "high")
    )
    return confusion.draw(name, sent_words(cell), test.classes, value, low, high, published=published)


def _confusions(given: Given, cells: Sequence[Cell]) -> list[Block]:
    panels = [
        p
        for c in cells
        if (p := confusion_panel(given, c, f"confusion-{c.id}".replace("_", "-"))) is not None
    ]
    caption = (
        f"Confusion matrices, {given.data_words}, test “{given.main}”: percent of each true class, mean "
        "over seeds, with intervals of 95 % below."
    )
    return [
        Heading("Confusion"),
        Figure(caption, tuple(panels)) if panels else missing("confusion matrices."),
    ]


def _by_class(given: Given, cells: Sequence[Cell]) -> list[Block]:
    test = tested(given.reference, given.main)
    if test is None:
        return []
    rows = []
    for name in test.classes:
        for cell in cells:
            t = tested(cell, given.main)
            if t is None:
                continue
            at = t.recall_at_contamination.get(name, {})
            rows.append([
                name, sent_words(cell), spread(recall(t, name)), spread(t.precision.get(name)),
                spread(t.average_precision.get(name)), percent(at.get("0.01")), percent(at.get("0.1")),
            ])  # fmt: skip
    head = (
        "class",
        "stamps",
        "recall",
        "precision",
        "average precision",
        "recall at 1 % contamination",
        "at 10 %",
    )
    return [table(f"By class, percent; {given.data_words}, test “{given.main}”.", head, rows, n_words=2),
            _satellite_table(given, cells)]  # fmt: skip


def _satellite_table(given: Given, cells: Sequence[Cell]) -> Block:
    rows = []
    for cell in cells:
        t = tested(cell, given.main)
        if t is None or (satellites_as(t, "SN") is None and satellites_as(t, "asteroid") is None):
            continue
        rows.append([
            sent_words(cell), spread(recall(t, "satellite")), spread(satellites_as(t, 'SN')),
            spread(satellites_as(t, 'asteroid')), number(t.counts.get("satellite"), 0),
        ])  # fmt: skip
    if not rows:
        return missing("satellites called supernovae or asteroids.")
    head = ("stamps", "recall", "called SN", "called asteroid", "satellites in the test")
    return table(f"What becomes of satellites, percent; {given.data_words}.", head, rows)


def _det(given: Given, cells: Sequence[Cell]) -> list[Block]:
    panels = []
    for name in ("satellite", "bogus"):
        lines = [
            curves.Line(short(c), t.det[name].false_positive_rate, t.det[name].miss_rate)
            for c in cells
            if (t := tested(c, given.main)) is not None and name in t.det and t.det[name].miss_rate
        ]
        if lines:
            panels.append(curves.draw_det(lines, f"det-{name}", of=name))
    caption = f"Detection error trade-off, all seeds together; {given.data_words}, test “{given.main}”."
    return [
        Heading("Detection errors"),
        Figure(caption, tuple(panels)) if panels else missing("detection errors."),
    ]


def _calibration(given: Given, cells: Sequence[Cell]) -> list[Block]:
    panels, rows = [], []
    for kind, words in (
        ("reliability", "before temperature scaling"),
        ("reliability_calibrated", "after it"),
    ):
        lines = []
        for cell in cells:
            t = tested(cell, given.main)
            bins: Sequence[Bin] = [] if t is None else [b for b in getattr(t, kind) if b.n]
            if bins:
                lines.append(
                    curves.Line(short(cell), [b.confidence for b in bins], [b.accuracy for b in bins])
                )
        if lines:
            panels.append(curves.draw_reliability(lines, kind.replace("_", "-"), title=words))
    for cell in cells:
        t = tested(cell, given.main)
        if t is not None:
            brier = t.brier.value
            rows.append([sent_words(cell), spread(t.ece), spread(t.ece_calibrated), number(brier, 3)])
    caption = f"How often what is said is right, against its probability; {given.data_words}."
    head = ("stamps", "calibration error, %", "after temperature, %", "Brier score (0 to 2)")
    return [
        Heading("Calibration"),
        Figure(caption, tuple(panels)) if panels else missing("reliability curves."),
        table(f"Expected calibration error, percent; {given.data_words}.", head, rows),
    ]


def _at_stream_rates(given: Given, cells: Sequence[Cell]) -> list[Block]:
    found = [(c, t.at_stream_rates) for c in cells if (t := tested(c, given.main)) and t.at_stream_rates]
    blocks: list[Block] = [Heading("At the stream's class rates")]
    if not found:
        return [*blocks, missing("scores at the rates of a stream.")]
    classes = list(found[0][1].rates)
    rows = [
        [sent_words(c), spread(s.macro_f1), *[spread(s.precision.get(k)) for k in classes]] for c, s in found
    ]
    rates = ", ".join(f"{name} {percent(rate)} %" for name, rate in found[0][1].rates.items())
    head = ("stamps", "macro F1", *[f"{k}, precision" for k in classes])
    caption = f"Percent, where classes are as frequent as in the stream ({rates}), by its priors"
    caption += f"; {given.data_words}."
    return [*blocks, table(caption, head, rows)]


def _learning(given: Given) -> list[Block]:
    blocks: list[Block] = [Heading("More training data")]
    rows = given.evaluation.learning
    if not rows:
        return [*blocks, missing("learning curves.")]
    of_layout: dict[str, list[Learning]] = {}
    for row in rows:
        of_layout.setdefault(sent_words(given.cell(row.cell)), []).append(row)
    lines = []
    for name, found in of_layout.items():
        good = sorted((r for r in found if r.macro_f1.value is not None), key=lambda r: r.n_training)
        lines += [_line(name, [r.n_training for r in good], [r.macro_f1 for r in good])] if good else []
    if not lines:
        return [*blocks, missing("scores of learning curves.")]
    drawn = curves.draw_trend(
        lines, "learning", x="training stamps", y="macro F1 (%)", title="Learning curves", is_log=True
    )
    body = [
        [
            sent_words(given.cell(r.cell)),
            number(100 * r.fraction, 0),
            number(r.n_training, 0),
            spread(r.macro_f1),
        ]
        for r in rows
    ]
    caption = f"Macro F1 against the number of training stamps; {given.data_words}, test “random”."
    return [
        *blocks,
        Figure(caption, (drawn,)),
        table(caption, ("stamps", "% of training data", "training stamps", "macro F1"), body),
    ]


def _label_noise(given: Given) -> list[Block]:
    blocks: list[Block] = [Heading("Wrong labels")]
    rows = given.evaluation.label_noise
    if not rows:
        return [*blocks, missing("training with wrong labels.")]
    lines = []
    for name in dict.fromkeys(sent_words(given.cell(r.cell)) for r in rows):
        good = [r for r in rows if sent_words(given.cell(r.cell)) == name and r.macro_f1.value is not None]
        good.sort(key=lambda r: r.rate)
        lines += [_line(name, [100 * r.rate for r in good], [r.macro_f1 for r in good])] if good else []
    if not lines:
        return [*blocks, missing("scores of trainings with wrong labels.")]
    drawn = curves.draw_trend(
        lines, "label-noise", x="training labels that are wrong (%)", y="macro F1 (%)", title="Wrong labels"
    )
    caption = f"Macro F1 when some training labels are another class's; {given.data_words}."
    body = [[sent_words(given.cell(r.cell)), number(100 * r.rate, 0), spread(r.macro_f1)] for r in rows]
    return [*blocks, Figure(caption, (drawn,)), table(caption, ("stamps", "% wrong", "macro F1"), body)]


def _line(name: str, x: Sequence[float], scores: Sequence[object]) -> curves.Line:
    value = [100 * s.value for s in scores]  # type: ignore[attr-defined]
    low = [100 * (s.value if s.low is None else s.low) for s in scores]  # type: ignore[attr-defined]
    high = [100 * (s.value if s.high is None else s.high) for s in scores]  # type: ignore[attr-defined]
    return curves.Line(name, list(x), value, low, high)


def _other_arms(given: Given) -> list[Block]:
    """Position, planes, networks, normalisation, |FFT|²: one table each, against the reference."""
    blocks: list[Block] = []
    for title, varied, what in (
        ("Position on the sky", "position", "networks with, without and with shuffled positions."),
        ("Planes", "planes", "other planes."),
        ("Networks", "network", "another size of the same networks."),
        ("Normalisation", "normalization", "another normalisation of the same networks."),
        ("|FFT|² of the wide difference", "fft", "the |FFT|² of the wide difference as a plane of its own."),
    ):
        reference = given.reference
        others = [c for c in like(reference, given.evaluation.cells, (varied,)) if c.id != reference.id]
        blocks.append(Heading(title))
        if not others:
            blocks.append(missing(what))
            continue
        rows, spoken = [_against(given, reference, tested(reference, given.main))], []
        for cell in others:
            rows.append(_against(given, cell, tested(cell, given.main)))
            spoken.append(f"{changed_words(cell, reference)}, {verdict(given.compared(cell, reference))}")
        blocks.append(Text(sentence(f"in macro F1 against the reference: {'; '.join(spoken)}")))
        head = ("changed", "macro F1", "satellite recall", "F1 minus reference", "adjusted p")
        blocks.append(table(f"{title}; {given.data_words}.", head, rows))
    return blocks


def _against(given: Given, cell: Cell, test: Tested | None) -> list[str]:
    found = given.compared(cell, given.reference)
    p = DASH if found is None or found.adjusted_p is None else f"{found.adjusted_p:.3f}"
    found_of = recall(test, "satellite") if test else None
    return [changed_words(cell, given.reference), spread(test.macro_f1 if test else None), spread(found_of),
            points(found), p]  # fmt: skip


def _cost(given: Given) -> list[Block]:
    blocks: list[Block] = [Heading("Cost")]
    cost = given.evaluation.cost
    if not cost:
        return [*blocks, missing("times and rates.")]
    rows = [
        [
            name, number(c.encode_us, 0), number(c.decode_us, 0), number(c.classify_us, 0),
            number(c.alert_bytes, 0), significant(c.gbit_s_ztf), significant(c.gbit_s_lsst),
            significant(c.tb_night_ztf), significant(c.tb_night_lsst), number(c.visit_latency_s, 1),
        ]
        for name, c in cost.items()
    ]  # fmt: skip
    head = (
        "layout",
        "encode, µs",
        "decode, µs",
        "classify, µs",
        "alert, bytes",
        "Gbit/s, ZTF",
        "Gbit/s, LSST peak",
        "TB a night, ZTF",
        "TB a night, LSST",
        "visit of 40,000: s",
    )
    caption = (
        "What an alert costs on one core here, and what a survey's network carries. Times are of this "
        "machine; the last column encodes, sends, decodes and classifies 40,000 alerts on one core."
    )
    return [*blocks, table(caption, head, rows)]
