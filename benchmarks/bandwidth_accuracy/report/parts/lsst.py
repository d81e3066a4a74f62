"""Question 3: at LSST's 0.2″, 4 × 16 against 30 × 30, 102 × 102 and a flag for trails of glints."""

from __future__ import annotations

from ..document import Block, Text, missing, table
from ..given import Given, n_bytes, recall, tested
from ..text import number, points, sent_words, sentence, spread, verdict

PIXEL_SCALE = 0.2  # arcsec, of LSST


def answer(given: Given) -> list[Block]:
    """Return 4 × 16 beside what LSST sends today and at most."""
    cells = [c for c in given.sent() if abs(c.layout.pixel_scale - PIXEL_SCALE) < 0.02]
    proposed = next((c for c in cells if c.layout.name == "4x16"), None)
    if proposed is None or given.evaluation.data.survey != "lsst":
        scale = given.reference.layout.pixel_scale
        return [
            missing(
                f"stamps of {PIXEL_SCALE}″ a pixel. These are of the survey "
                f"“{given.evaluation.data.survey}”, {scale:.3g}″ a pixel: the question of LSST's own "
                "stamps is open here."
            ),
            missing("a flag for trails of glints beside a small stamp."),
        ]
    spoken, rows = [], []
    for cell in cells:
        test = tested(cell, given.main)
        found = given.compared(proposed, cell)
        rows.append([
            sent_words(cell), number(cell.layout.field_of_view), number(n_bytes(cell), 0),
            spread(test.macro_f1 if test else None), spread(recall(test, "satellite") if test else None),
            points(found),
        ])  # fmt: skip
        if cell.id != proposed.id and found is not None:
            spoken.append(f"{sent_words(proposed)} against {sent_words(cell)}: {verdict(found)}")
    head = ("stamps", "view,\u00a0″", "bytes", "macro F1", "satellite recall", "4 × 16 minus this, F1")
    words = "; ".join(spoken) or "4 × 16 was not compared with another stamp"
    return [
        Text(sentence(words), kind="lead"),
        table(f"Stamps at {PIXEL_SCALE}″ a pixel; {given.data_words}.", head, rows),
        missing("a flag for trails of glints beside a small stamp."),
    ]
