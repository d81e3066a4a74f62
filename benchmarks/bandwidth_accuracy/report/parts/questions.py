"""The six questions of the study, each with its answer."""

from __future__ import annotations

from ..document import Block, Section, Text
from ..given import Given
from . import contributions, lsst, order, real, size, year

_QUESTIONS = (
    ("Does the paper's order hold?", order),
    ("How many bytes buy how much accuracy?", size),
    ("What of LSST's stamps?", lsst),
    ("Which level and which plane contribute what?", contributions),
    ("What of real stamps?", real),
    ("What would a year of the stream look like?", year),
)


def sections(given: Given) -> list[Section]:
    """Return a section for each question."""
    out = []
    for i, (title, part) in enumerate(_QUESTIONS, start=1):
        words: list[Block] = [
            Text(f"The evaluation adds: {a.text}", kind="note")
            for a in given.evaluation.answers
            if a.question == i and a.text
        ]
        out.append(
            Section(f"question-{i}", f"{i}. {title}", (*part.answer(given), *words), starts_page=i == 1)
        )
    return out
