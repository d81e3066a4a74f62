"""The paper's tables and figures one by one, the published value beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...results import Cell, Value
from .. import published
from ..document import Block, Figure, Heading, Panel, Section, Text, missing, table
from ..figures import sky, stamps
from ..given import Given, paper_name, tested
from ..text import DASH, number, percent, sent_words, spread
from .behaviour import confusion_panel, share
from .order import shortened

_BLOCKS = {"validation": "validation set", "random": "test set", "first": "test set, first stamp"}
_MOST_SATELLITES = 36


def section(given: Given) -> Section:
    """Return the section."""
    return Section(
        "paper",
        "The paper, table by table and figure by figure",
        (
            Text(
                f"{published.SOURCE} used {sum(published.LABELLED.values()):,} real ZTF alerts; ours are "
                f"{given.data_words}. Its values are quoted from its text; no value of its images is "
                "guessed."
            ),
            Heading("Table 1: scores of the four layouts"),
            *_table_1(given),
            Heading("Table 2: networks"),
            *_table_2(given),
            Heading("Figure 1: a stamp at several scales"),
            *_figure_1(given),
            Heading("Figure 2: confusion matrices"),
            *_figure_2(given),
            Heading("Figure 3: where on the sky, equatorial"),
            *_figure_3(given),
            Heading("Figure 4: the most confident satellites"),
            *_figure_4(given),
            Heading("Figure 5: where on the sky, horizontal"),
            *_figure_5(given),
            Heading("Figure 6: a wide view round two satellites"),
            *_figure_6(given),
            Heading("Stamps of each class, as sent and as seen"),
            *_examples(given),
        ),
    )


def paper_cells(given: Given) -> dict[str, Cell]:
    """Return a cell for each of the paper's layouts: its own network where it was run, else our family's."""
    ours = {
        paper_name(c): c
        for c in given.layouts()
        if c.layout.kind != "multi-scale" or (c.layout.size, c.layout.n_levels) == (8, 4)
    }
    theirs = {name: cells[0] for name, cells in given.published().items()}
    return {name: (theirs or ours)[name] for name in published.LAYOUTS if name in (theirs or ours)}


def macro(values: Mapping[str, Value]) -> float | None:
    """Return the mean over classes; None where a class has none."""
    found = [v.value for v in values.values()]
    known = [v for v in found if v is not None]
    return sum(known) / len(known) if known and len(known) == len(found) else None


def _theirs(given: Given) -> str:
    if given.published():
        return "with the paper's networks and normalisation"
    return "with one family of networks, since the paper's were not run in this study"


def _table_1(given: Given) -> list[Block]:
    cells = paper_cells(given)
    rows = []
    for block, words in _BLOCKS.items():
        for name in published.LAYOUTS:
            row = published.TABLE_1[block][name]
            cell = cells.get(name)
            test = None if cell is None else tested(cell, block)
            paper = [f"{number(s.mean, 2)} ({number(s.std, 2)})" for s in (row.f1, row.precision, row.recall)]
            ours = [DASH, DASH, DASH]
            if test is not None:
                std = test.macro_f1.std_seeds
                f1 = percent(test.macro_f1.value, 2) + ("" if std is None else f" ({percent(std, 2)})")
                ours = [f1, percent(macro(test.precision), 2), percent(macro(test.recall), 2)]
            rows.append(
                [words, published.SPELLED[name], paper[0], ours[0], paper[1], ours[1], paper[2], ours[2]]
            )
    head = ("set", "layout", "F1, paper", "F1, ours", "precision, paper", "ours", "recall, paper", "ours ")
    caption = (
        f"Table 1. Macro averages, percent, (standard deviation over seeds). Paper: real ZTF alerts. Ours: "
        f"{given.data_words}, {_theirs(given)}."
    )
    blocks: list[Block] = [table(caption, head, rows, n_words=2)]
    if not cells:
        return [*blocks, missing("the paper's four layouts.")]
    if short := shortened(given):
        blocks.append(Text(short, kind="note"))
    if all(tested(c, "validation") is None for c in cells.values()):
        blocks.append(
            missing(
                "scores of the validation set, which chose when training ends; the test sets are kept apart."
            )
        )
    return blocks


def _table_2(given: Given) -> list[Block]:
    rows = []
    run = {c.network.removeprefix("published-"): c for cells in given.published().values() for c in cells}
    for name, net in published.TABLE_2.items():
        cells = [c for key, c in run.items() if key == name or key.startswith(f"{name}-")]
        ours = "; ".join(f"{c.n_parameters:,} ({c.mflop:,.0f} MFLOP)" for c in cells) or DASH
        rows.append([
            published.SPELLED[name], net.input, ", ".join(net.layers), f"{net.dropout:g}", f"{net.hidden}",
            f"{net.learning_rate:.4g}", " or ".join(f"{n:,}" for n in net.n_parameters), ours,
        ])  # fmt: skip
    head = ("layout", "input", "convolutions and pooling", "dropout", "dense", "learning rate",
            "parameters by the table", "built here")  # fmt: skip
    caption = (
        f"Table 2. Published networks: batches of {published.BATCH_SIZE}, Adam, until validation F1 has "
        f"not risen for {published.PATIENCE} evaluations {published.EVALUATED_EVERY} iterations apart. In "
        "brackets: a layer whose column the text has lost."
    )
    blocks: list[Block] = [table(caption, head, rows, n_words=3)]
    if not run:
        blocks.append(missing("networks of Table 2."))
    return blocks


def _says(n: int) -> Text:
    return Text(f"Published: {published.FIGURES[n]}", kind="note")


def _figure_1(given: Given) -> list[Block]:
    original, sent = given.array("example_original"), given.array("example_sent")
    label = given.names("example_label")
    if original is None or sent is None or label is None:
        return [_says(1), missing("example stamps.")]
    # the class of the paper's own figure, where there is one
    i = int(np.flatnonzero(label == "satellite")[0]) if (label == "satellite").any() else 0
    j = -1  # the difference is the last plane but for a score
    planes = given.array("planes")
    if planes is not None and "difference" in planes:
        j = int(np.flatnonzero(planes == "difference")[0])
    scale = _pixel_scale(given)
    drawn = stamps.draw_figure_1(
        "figure-1", f"{_kind(given)} {label[i]}, difference", original[i, j], sent[i, j], pixel_scale=scale
    )
    caption = (
        f"Figure 1, ours: a {_kind(given)} {label[i]} as it was cut and as {sent_words(given.reference)}. "
        "Frames show the levels. Light blue is invalid."
    )
    return [_says(1), Figure(caption, (drawn,))]


def _kind(given: Given) -> str:
    return "simulated" if given.evaluation.data.simulated else "real"


def _pixel_scale(given: Given) -> float:
    found = given.array("pixel_scale")
    return given.reference.layout.pixel_scale if found is None else float(np.ravel(found)[0])


def _figure_2(given: Given) -> list[Block]:
    panels: list[Panel] = []
    cells = paper_cells(given)
    for name, cell in cells.items():
        theirs = {pair: of[name] for pair, of in published.CONFUSION.items() if name in of}
        found = confusion_panel(given, cell, f"figure-2-{name}", published=theirs)
        if found is not None:
            panels.append(found)
    rows = []
    for (true, said), of in published.CONFUSION.items():
        for name in published.LAYOUTS:
            low, high = published.CONFUSION_RANGES.get((true, said), (None, None))
            paper = f"{number(low)} to {number(high)}" if low and name not in of else number(of.get(name))
            ours = _share(given, cells.get(name), true, said)
            rows.append([true, said, published.SPELLED[name], paper, ours])
    for name, value in published.SATELLITE_AS_ASTROPHYSICAL.items():
        ours = _astrophysical(given, cells.get(name))
        rows.append(["satellite", "AGN, asteroid, SN or VS", published.SPELLED[name], number(value), ours])
    caption = (
        f"Figure 2, ours: {given.data_words}, {_theirs(given)}; percent of the true class, mean over "
        "seeds, 95 % below. In brackets: what the paper's text says."
    )
    blocks: list[Block] = [_says(2)]
    blocks.append(
        Figure(caption, tuple(panels)) if panels else missing("confusion matrices of the paper's layouts.")
    )
    head = ("true", "said", "layout", "paper, real, %", f"ours, {_kind(given)}, %")
    blocks.append(table("What the paper's text says of its Figure 2, and ours.", head, rows, n_words=3))
    return blocks


def _share(given: Given, cell: Cell | None, true: str, said: str) -> str:
    test = None if cell is None else tested(cell, given.main)
    if test is None or true not in test.classes or said not in test.classes:
        return DASH
    return spread(share(test, test.classes.index(true), test.classes.index(said)))


def _astrophysical(given: Given, cell: Cell | None) -> str:
    test = None if cell is None else tested(cell, given.main)
    if test is None or "satellite" not in test.classes:
        return DASH
    row = test.confusion.value[test.classes.index("satellite")]
    shares = [row[test.classes.index(c)] for c in ("AGN", "asteroid", "SN", "VS") if c in test.classes]
    known = [s for s in shares if s is not None]
    return percent(sum(known)) if len(known) == len(shares) else DASH


def _sky(given: Given) -> dict[str, np.ndarray] | None:
    names = ("ra", "dec", "mjd", "label", "said")
    found = {name: given.names(f"sky_{name}") for name in names}
    known = {name: value for name, value in found.items() if value is not None}
    return known if len(known) == len(names) else None


def _classes(given: Given) -> Sequence[str]:
    return given.evaluation.classes


def _figure_3(given: Given) -> list[Block]:
    found = _sky(given)
    if found is None:
        return [_says(3), missing("positions of predictions.")]
    panels = []
    for name in (*_classes(given), "all"):
        chosen = np.ones(len(found["said"]), bool) if name == "all" else found["said"] == name
        is_right = (found["said"] == found["label"])[chosen]
        panels.append(
            sky.draw_equatorial(f"figure-3-{name}", name, found["ra"][chosen], found["dec"][chosen], is_right)
        )
    return [
        _says(3),
        Figure(_sky_caption(given, 3, "RA 180° in the middle, east to the left"), tuple(panels)),
    ]


def _figure_5(given: Given) -> list[Block]:
    found, site = _sky(given), given.array("site")
    if found is None or site is None:
        return [_says(5), missing("positions of predictions at a site.")]
    altitude, azimuth = sky.horizontal(
        found["ra"], found["dec"], found["mjd"], longitude=float(site[0]), latitude=float(site[1])
    )
    panels = []
    for name in _classes(given):
        chosen = found["said"] == name
        is_right = (found["said"] == found["label"])[chosen]
        panels.append(
            sky.draw_horizontal(f"figure-5-{name}", name, altitude[chosen], azimuth[chosen], is_right)
        )
    where = f"the site at {float(site[1]):.2f}° N, {float(site[0]):.2f}° E, the zenith in the middle"
    return [_says(5), Figure(_sky_caption(given, 5, where), tuple(panels))]


def _sky_caption(given: Given, n: int, where: str) -> str:
    return (
        f"Figure {n}, ours: {given.data_words} of the test “first” by predicted class, {where}. The "
        "paper's are of an unlabelled year; here the truth is known: crosses are wrong predictions."
    )


def _figure_4(given: Given) -> list[Block]:
    images, said = given.array("satellite_original"), given.array("satellite_probability")
    label = given.names("satellite_label")
    if images is None or said is None or label is None:
        return [_says(4), missing("the most confident satellites.")]
    n = min(len(images), _MOST_SATELLITES)
    words = [f"{100 * p:.1f} % · {true}" for p, true in zip(said[:n], label[:n])]
    panels = [
        stamps.draw_satellites(f"figure-4-{k // 12 + 1}", images[k : k + 12], words[k : k + 12])
        for k in range(0, n, 12)
        if len(images[k : k + 12])
    ]
    right = int((label[:n] == "satellite").sum())
    lowest = f"{100 * float(said[:n].min()):.1f}"
    caption = (
        f"Figure 4, ours: the {n} {_kind(given)} test stamps with the highest satellite probability "
        f"({lowest} % and more), difference image, probability and true class; {right} of {n} are "
        f"satellites. Reference: {sent_words(given.reference)}."
    )
    return [_says(4), Figure(caption, tuple(panels))]


def _figure_6(given: Given) -> list[Block]:
    images, ids, scale = (given.array(f"wide_{w}") for w in ("image", "id", "pixel_scale"))
    if images is None or ids is None or scale is None:
        return [_says(6), missing("a wide view round two satellites.")]
    arcsec = float(np.ravel(scale)[0])
    view = given.reference.layout.field_of_view
    panels = [
        stamps.draw_wide(f"figure-6-{i + 1}", str(name), image, pixel_scale=arcsec, stamp=view)
        for i, (image, name) in enumerate(zip(images, ids))
    ]
    width = images.shape[-1] * arcsec
    caption = (
        f"Figure 6, ours: {width:.0f}″ round {len(panels)} {_kind(given)} satellites; the frame marks the "
    )
    caption += f"stamp of {view:.0f}″."
    return [_says(6), Figure(caption, tuple(panels))]


def _examples(given: Given) -> list[Block]:
    names = ("label", "said", "probability", "original", "sent", "seen")
    found = {name: given.names(f"example_{name}") for name in names}
    planes = given.array("planes")
    if planes is None or any(value is None for value in found.values()):
        return [missing("example stamps.")]
    known = {name: value for name, value in found.items() if value is not None}
    panels, taken = [], dict.fromkeys(given.evaluation.classes, 0)
    for i, label in enumerate(known["label"]):
        if taken.get(str(label), 2) >= 2:
            continue
        taken[str(label)] += 1
        title = f"{label}; said: {known['said'][i]}, {100 * float(known['probability'][i]):.0f} %"
        panels.append(
            stamps.draw_example(
                f"example-{label}-{taken[str(label)]}", title, list(map(str, planes)),
                known["original"][i], known["sent"][i], known["seen"][i],
            )
        )  # fmt: skip
    caption = (
        f"{_kind(given).capitalize()} stamps of each class: as the survey cut them, as "
        f"{sent_words(given.reference)} sends them (all levels superimposed; the finest alone), and as the "
        "network sees them. Light blue is invalid."
    )
    return [Figure(caption, tuple(panels))]
