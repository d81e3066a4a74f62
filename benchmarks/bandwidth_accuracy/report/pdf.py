"""The report on paper: printed by a browser where there is one, else set by ReportLab."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from multiscale.atomic import replacing

from .document import Block, Box, Figure, Heading, Points, Report, Table, Text

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SECONDS = 120  # that a browser may take


class BrowserError(RuntimeError):
    """A browser is there and did not print."""


def browser() -> str | None:
    """Return the path of a browser that prints, None where there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def write_pdf(path: Path, page: Path, report: Report) -> str:
    """Write the PDF of a report whose page is at ``page``; return what made it."""
    found = browser()
    if found is not None:
        try:
            print_page(found, page, path)
        except BrowserError as error:
            set_pages(path, report)
            return f"ReportLab, because the browser failed: {error}"
        return f"the browser {Path(found).name}"
    set_pages(path, report)
    return "ReportLab, because there is no browser"


def print_page(program: str, page: Path, path: Path) -> None:
    """Print a page of ours with a browser. Raises BrowserError."""
    with tempfile.TemporaryDirectory() as profile, replacing(path) as partial:
        words = [
            program, "--headless", "--disable-gpu", "--no-pdf-header-footer", f"--user-data-dir={profile}",
            "--disable-dev-shm-usage", f"--print-to-pdf={partial.absolute()}",
        ]  # fmt: skip
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            words.append("--no-sandbox")  # it refuses to start as root otherwise; the page is our own
        try:
            done = subprocess.run(
                [*words, page.absolute().as_uri()],
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            partial.write_bytes(b"")
            raise BrowserError(str(error)) from error
        if done.returncode or not partial.is_file() or partial.read_bytes()[:4] != b"%PDF":
            partial.write_bytes(b"")
            raise BrowserError(f"status {done.returncode}: {done.stderr.strip()[-300:]}")


def set_pages(path: Path, report: Report) -> None:
    """Set the report with ReportLab: the same words, tables and drawings, plainer."""
    from matplotlib import get_data_path
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.units import mm
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont
    from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate

    fonts = Path(get_data_path()) / "fonts" / "ttf"  # matplotlib brings a font with every sign that we use
    for name, file in (("Report", "DejaVuSans.ttf"), ("Report-Bold", "DejaVuSans-Bold.ttf")):
        pdfmetrics.registerFont(TTFont(name, str(fonts / file)))
    pdfmetrics.registerFontFamily(
        "Report", normal="Report", bold="Report-Bold", italic="Report", boldItalic="Report-Bold"
    )
    styles = _styles()
    width = A4[0] - 28 * mm
    story: list[Any] = [
        Paragraph(escape(report.title), styles["h1"]),
        Paragraph(escape(report.subtitle), styles["plain"]),
    ]
    if report.is_simulated:
        story.append(Paragraph("<b>SIMULATED DATA</b>", styles["plain"]))
    for section in report.sections:
        if section.starts_page:
            story.append(PageBreak())
        story.append(Paragraph(escape(section.title), styles["h2"]))
        for block in section.blocks:
            story += _flowables(block, styles, width)
    story += [Paragraph(escape(fact), styles["note"]) for fact in report.facts]
    flag = "Simulated data. " if report.is_simulated else ""

    def foot(canvas: Any, document: Any) -> None:
        canvas.setFont("Report", 7)
        canvas.drawString(14 * mm, 9 * mm, f"{flag}{report.title}")
        canvas.drawRightString(A4[0] - 14 * mm, 9 * mm, str(document.page))

    with replacing(path) as partial:
        document = SimpleDocTemplate(
            str(partial), pagesize=A4, leftMargin=14 * mm, rightMargin=14 * mm, topMargin=14 * mm,
            bottomMargin=16 * mm, title=report.title, invariant=1,
        )  # fmt: skip
        document.build(story, onFirstPage=foot, onLaterPages=foot)


def _styles() -> dict[str, Any]:
    from reportlab.lib.enums import TA_RIGHT
    from reportlab.lib.styles import ParagraphStyle

    bold = {"fontName": "Report-Bold"}
    plain = ParagraphStyle("plain", fontName="Report", fontSize=8, leading=10.4, spaceAfter=3)
    cell = ParagraphStyle("cell", plain, fontSize=6, leading=7.4, spaceAfter=0)
    head = ParagraphStyle("head", plain, **bold, spaceBefore=8, keepWithNext=1)
    return {
        "plain": plain,
        "h1": ParagraphStyle("h1", plain, **bold, fontSize=15, leading=18, spaceAfter=6),
        "h2": ParagraphStyle("h2", head, fontSize=12, leading=15),
        "h3": ParagraphStyle("h3", head, fontSize=9.5, leading=12),
        "lead": ParagraphStyle("lead", plain, **bold),
        "note": ParagraphStyle("note", plain, fontSize=7, leading=9),
        "missing": ParagraphStyle("missing", plain, backColor="#f0f0f0", borderPadding=3, spaceBefore=4),
        "caption": ParagraphStyle("caption", plain, **bold, fontSize=7.5, leading=9.5, keepWithNext=1),
        "cell": cell,
        "cell-number": ParagraphStyle("cell-number", cell, alignment=TA_RIGHT),
        "cell-bold": ParagraphStyle("cell-bold", cell, **bold),
        "cell-bold-number": ParagraphStyle("cell-bold-number", cell, **bold, alignment=TA_RIGHT),
    }


def _flowables(block: Block, styles: dict[str, Any], width: float) -> list[Any]:
    from reportlab.platypus import Paragraph

    match block:
        case Text():
            return [Paragraph(escape(block.text), styles[block.kind])]
        case Heading():
            return [Paragraph(escape(block.text), styles["h3"])]
        case Points():
            marks = [f"{i}. " if block.is_numbered else "• " for i in range(1, len(block.items) + 1)]
            return [
                Paragraph(f"{mark}<b>{escape(head)}</b>{escape(words)}", styles["plain"])
                for mark, (head, words) in zip(marks, block.split())
            ]
        case Box():
            return _box(block, styles, width)
        case Table():
            return _table(block, styles, width)
        case Figure():
            return _figure(block, styles, width)


def _box(box: Box, styles: dict[str, Any], width: float) -> list[Any]:
    from reportlab.platypus import Paragraph, Spacer
    from reportlab.platypus import Table as Grid

    inner = [Paragraph(escape(box.title), styles["h3"])]
    for block in box.blocks:
        inner += _flowables(block, styles, width - 12)
    return [
        Grid([[inner]], colWidths=[width], style=[("BOX", (0, 0), (-1, -1), 1.2, "#000000")]),
        Spacer(1, 6),
    ]


def _table(table: Table, styles: dict[str, Any], width: float) -> list[Any]:
    from reportlab.platypus import Paragraph, Spacer
    from reportlab.platypus import Table as Grid

    # columns as wide as their longest word asks, cut so that no one takes the page
    longest = [
        max([len(head), *[min(len(row[i]), 60) for row in table.rows]]) for i, head in enumerate(table.head)
    ]
    shares = [max(5.0, min(float(n), 26.0)) for n in longest]
    widths = [width * share / sum(shares) for share in shares]
    rows = []
    for n, row in enumerate([table.head, *table.rows], start=-1):
        kind = "cell-bold" if n in table.strong or n < 0 else "cell"
        kinds = [kind if i < table.n_words else f"{kind}-number" for i in range(len(row))]
        rows.append([Paragraph(escape(_short(words)), styles[k]) for words, k in zip(row, kinds)])
    style = [
        ("LINEBELOW", (0, 0), (-1, 0), 0.8, "#000000"), ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (-1, -1), 2), ("RIGHTPADDING", (0, 0), (-1, -1), 2),
        ("TOPPADDING", (0, 0), (-1, -1), 1), ("BOTTOMPADDING", (0, 0), (-1, -1), 1.5),
        ("ROWBACKGROUNDS", (0, 1), (-1, -1), ["#ffffff", "#f3f5f7"]),
    ]  # fmt: skip
    grid = Grid(rows, colWidths=widths, repeatRows=1, style=style)
    return [Paragraph(escape(table.caption), styles["caption"]), grid, Spacer(1, 6)]


def _short(words: str, most: int = 600) -> str:
    """A cell must fit on a page; settings can be longer."""
    return words if len(words) <= most else f"{words[:most]}…"


def _figure(figure: Figure, styles: dict[str, Any], width: float) -> list[Any]:
    from reportlab.platypus import Image, Paragraph
    from reportlab.platypus import Table as Grid

    columns = 1 if len(figure.panels) == 1 else 2 if figure.is_wide or len(figure.panels) in (2, 4) else 3
    one = min(width / columns - 4, 300)
    cells = [Image(BytesIO(p.png), width=one, height=one * p.size[1] / p.size[0]) for p in figure.panels]
    rows: list[list[Any]] = [list(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    rows[-1] += [""] * (columns - len(rows[-1]))
    padding = [
        (side, (0, 0), (-1, -1), 2) for side in ("LEFTPADDING", "RIGHTPADDING", "TOPPADDING", "BOTTOMPADDING")
    ]
    return [
        Grid(rows, colWidths=[one + 4] * columns, style=padding),
        Paragraph(escape(figure.caption), styles["note"]),
    ]
