"""From the raw results of a study to its report: page, PDF and the drawings as files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from multiscale.atomic import replacing

from .document import Report
from .given import Given, read_given
from .page import page
from .parts import behaviour, methods, paper, questions
from .parts.summary import summary
from .pdf import write_pdf


def write_report(out: Path, *, say: Callable[[str], None] = print) -> None:
    """Write index.html, report.pdf and figures/ to OUT/report, of OUT's evaluation, study and examples.

    Says what made the PDF. Raises OSError where a file is missing, pydantic's ValidationError where it is
    another one.
    """
    report = report_of(read_given(out))
    folder = out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    figures = folder / "figures"
    shutil.rmtree(figures, ignore_errors=True)  # of an earlier report
    figures.mkdir()
    for panel in report.panels():
        if panel.is_pixels:
            (figures / f"{panel.name}.png").write_bytes(panel.png)
        else:
            (figures / f"{panel.name}.svg").write_text(standalone(panel.svg), encoding="utf-8")
    with replacing(folder / "index.html") as partial:
        partial.write_text(page(report), encoding="utf-8")
    made_by = write_pdf(folder / "report.pdf", folder / "index.html", report)
    say(f"{folder / 'index.html'} and report.pdf, printed by {made_by}")


def report_of(given: Given) -> Report:
    """Return the report as values."""
    evaluation = given.evaluation
    data = evaluation.data
    name = evaluation.study.get("name", "")
    sections = (
        summary(given), *questions.sections(given), behaviour.section(given), paper.section(given),
        methods.section(given),
    )  # fmt: skip
    note = str(evaluation.study.get("note", "")).strip()
    subtitle = f"Bytes against accuracy of alert stamps: study “{name}”, {data.label}. {note}".strip()
    facts = (
        f"Study “{name}”, commit {evaluation.commit}. Made by python -m benchmarks.bandwidth_accuracy "
        "report.",
    )
    return Report("Which image stamp should a survey send?", subtitle, sections, data.simulated, facts)


def standalone(svg: str) -> str:
    """Return an <svg> of the page as a file of its own."""
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}'
