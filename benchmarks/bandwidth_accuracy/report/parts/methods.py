"""The methods: data, splits, networks, seeds, commit, environment, and every cell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..document import Block, Heading, Section, Text, missing, table
from ..given import Given, n_bytes, recall, tested
from ..text import DASH, changed_words, number, percent, sent_words, significant, spread


def section(given: Given) -> Section:
    """Return the section."""
    return Section(
        "methods",
        "Methods",
        (
            *_data(given),
            *_trials(given),
            *_arms(given),
            Heading("Statistics"),
            Text(
                "Scores are means over seeds. Intervals are of 95 %, percentiles of a bootstrap over "
                "whole groups, paired for differences: both cells are scored on the same drawn groups. p "
                "is McNemar's exact one, on the seeds' mean probabilities, adjusted by Holm's method over "
                "the differences of one arm, test and metric. Where all or none of a class are so, the "
                "interval is Clopper and Pearson's. “No difference found” means that the interval holds "
                "zero; it is not a proof that there is none."
            ),
            Heading("Every cell"),
            _cells(given),
            _differences(given),
            Heading("Environment"),
            _facts(
                "Commit and environment.", {"commit": given.evaluation.commit, **given.evaluation.environment}
            ),
            Heading("The study as it was run"),
            _facts("Settings.", flat(given.evaluation.study)),
        ),
    )


def _data(given: Given) -> list[Block]:
    data = given.evaluation.data
    classes = list(dict.fromkeys(name for counts in data.counts.values() for name in counts))
    rows = [
        [part, *[number(counts.get(c, 0), 0) for c in classes], number(sum(counts.values()), 0)]
        for part, counts in data.counts.items()
    ]
    kind = "SIMULATED" if data.simulated else "Real"
    words = (
        f"{kind}: {data.label} (survey {data.survey}). Parts keep each {data.grouped_by} whole; there are "
        f"{data.n_cells_of_sky:,} cells of the sky. Two tests: “random”, a detection of each object drawn "
        "by chance, and “first”, its earliest."
    )
    blocks: list[Block] = [
        Heading("Data and splits"),
        Text(words),
        table("Stamps by part and class.", ("part", *classes, "all"), rows),
    ]
    if data.left_out:
        left = ", ".join(f"{number(n, 0)} {why}" for why, n in data.left_out.items())
        blocks.append(Text(f"Left out: {left}."))
    for i, one in enumerate(data.sets):
        title = f"Set {i + 1} of {len(data.sets)}, as its own description tells."
        blocks.append(_facts(title, flat(one)))
    return blocks


def _trials(given: Given) -> list[Block]:
    cells = given.evaluation.cells
    n_trials = sum(len(c.seeds) for c in cells)
    seconds = sum(c.training_seconds * len(c.seeds) for c in cells)
    seeds = sorted({s for c in cells for s in c.seeds})
    words = (
        f"{n_trials:,} trainings of {len(cells):,} cells, {significant(seconds / 3600)} hours of training "
        f"in all. Seeds: {', '.join(map(str, seeds))}. Networks named “parameters” are one family whose "
        "widths give every layout the parameters of the reference; “mflop”: the work of the reference; "
        "“published-…”: Table 2 of the paper."
    )
    return [Heading("Networks, seeds and trials"), Text(words)]


def _arms(given: Given) -> list[Block]:
    arms = given.evaluation.arms
    if not arms:
        return [missing("arms.")]
    rows = [[name, number(len(ids), 0), ", ".join(ids)] for name, ids in arms.items()]
    rows = [[name, ids, n] for name, n, ids in rows]
    caption = (
        f"The study is a star round the reference, {sent_words(given.reference)} ({given.reference.id})."
    )
    return [table(caption, ("arm", "cells", "number"), rows, n_words=2)]


def _cells(given: Given) -> Block:
    rows = []
    for c in given.evaluation.cells:
        random, first = tested(c, "random"), tested(c, "first")
        std = random.macro_f1.std_seeds if random else None
        rows.append(
            [
                c.id,
                changed_words(c, given.reference),
                number(c.n_parameters, 0),
                number(c.mflop),
                number(len(c.seeds), 0),
                number(n_bytes(c), 0),
                spread(random.macro_f1 if random else None),
                percent(std),
                spread(recall(random, "satellite") if random else None),
                spread(first.macro_f1 if first else None),
                number(c.training_seconds, 0),
            ]
        )
    head = (
        "cell",
        "changed",
        "parameters",
        "MFLOP",
        "seeds",
        "stamps, bytes",
        "macro F1, random",
        "std of seeds",
        "satellite recall",
        "macro F1, first",
        "training, s",
    )
    return table(f"Every cell, percent with intervals of 95 %; {given.data_words}.", head, rows, n_words=2)


def _differences(given: Given) -> Block:
    rows = []
    for d in given.evaluation.differences:
        if d.difference is None:
            continue
        interval = "" if d.low is None or d.high is None else f" ({_signed(d.low)} to {_signed(d.high)})"
        p, adjusted = (DASH if v is None else f"{v:.3f}" for v in (d.mcnemar_p, d.adjusted_p))
        words = f"{_signed(d.difference)}{interval}"
        rows.append(
            [d.a, d.b, d.arm, d.test, d.metric.replace("_", " "), words, p, adjusted, f"{d.n_objects:,}"]
        )
    head = ("a", "b", "arm", "test", "metric", "a minus b, points", "McNemar p", "adjusted p", "objects")
    return table("Every difference, with intervals of 95 %.", head, rows, n_words=5)


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as "a.b": value; lists as they are."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            for i, v in enumerate(value):
                out |= flat(v, f"{prefix}{name}.{v.get('name', i + 1)}.")
        else:
            out[f"{prefix}{name}"] = value
    return out


def _facts(caption: str, values: Mapping[str, Any]) -> Block:
    rows = [[name, _said(value)] for name, value in values.items() if value not in (None, {}, [])]
    return table(caption, ("setting", "value"), rows, n_words=2)


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
