"""One self-contained HTML page of a report: no script, no font, no picture from anywhere else."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from .document import Block, Box, Figure, Heading, Panel, Points, Report, Section, Table, Text

_STYLE = Path(__file__).with_name("style.css")


def page(report: Report) -> str:
    """Return the page."""
    flag = "Simulated data. " if report.is_simulated else ""
    style = _STYLE.read_text(encoding="utf-8").replace(
        "FOOT", f"{flag}{report.title}".replace('"', "'").replace("\\", "")
    )
    contents = "".join(f'<li><a href="#{s.anchor}">{_e(s.title)}</a></li>' for s in report.sections)
    shown = '<p><span class="flag">SIMULATED DATA</span></p>' if report.is_simulated else ""
    first, *others = [_section(s) for s in report.sections]
    foot = "".join(f"<p>{_e(fact)}</p>" for fact in report.facts)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_e(report.title)}</title>
<style>{style}</style></head>
<body>
<header><h1>{_e(report.title)}</h1><p class="subtitle">{_e(report.subtitle)}</p>{shown}</header>
<main>
{first}
<nav aria-label="Contents"><h2>Contents</h2><ul>{contents}</ul></nav>
{"".join(others)}
</main>
<footer>{foot}</footer>
</body></html>
"""


def _section(section: Section) -> str:
    blocks = "\n".join(_block(b) for b in section.blocks)
    kind = ' class="page"' if section.starts_page else ""
    return f'<section id="{section.anchor}"{kind}>\n<h2>{_e(section.title)}</h2>\n{blocks}\n</section>\n'


def _block(block: Block) -> str:
    match block:
        case Text():
            return _text(block)
        case Points():
            tag = "ol" if block.is_numbered else "ul"
            items = "".join(
                f"<li>{f'<b>{_e(head)}</b>' if head else ''}{_e(words)}</li>" for head, words in block.split()
            )
            return f"<{tag}>{items}</{tag}>"
        case Heading():
            return f"<h3>{_e(block.text)}</h3>"
        case Box():
            inner = "".join(_block(b) for b in block.blocks)
            return f'<aside class="box"><h3>{_e(block.title)}</h3>{inner}</aside>'
        case Table():
            return _table(block)
        case Figure():
            return _figure(block)


def _text(text: Text) -> str:
    words = _e(text.text)
    if text.kind == "missing":
        head, _, rest = words.partition(":")
        words = f"<b>{head}:</b>{rest}"
    return f"<p>{words}</p>" if text.kind == "plain" else f'<p class="{text.kind}">{words}</p>'


def _table(table: Table) -> str:
    def cell(tag: str, i: int, words: str) -> str:
        kinds = " ".join(k for k, is_so in (("w", i < table.n_words), ("f", i == 0 and tag == "td")) if is_so)
        scope = ' scope="col"' if tag == "th" else ""
        kind = f' class="{kinds}"' if kinds else ""
        return f"<{tag}{scope}{kind}>{_e(words)}</{tag}>"

    head = "".join(cell("th", i, words) for i, words in enumerate(table.head))
    rows = "".join(
        ('<tr class="strong">' if n in table.strong else "<tr>")
        + "".join(cell("td", i, words) for i, words in enumerate(row))
        + "</tr>\n"
        for n, row in enumerate(table.rows)
    )
    dense = ' class="dense"' if len(table.head) > 8 else ""
    words = _e(table.caption)
    return (
        f'<p class="caption" aria-hidden="true">{words}</p>'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{words}">'
        f"<table{dense}><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>"
    )


def _figure(figure: Figure) -> str:
    panels = "\n".join(_panel(p) for p in figure.panels)
    n = len(figure.panels)
    kinds = f"panels n{n}{' wide' if figure.is_wide else ''}"
    many = ' class="many"' if n > 6 else ""
    caption = f"<figcaption>{_e(figure.caption)}</figcaption>"
    return f'<figure{many}><div class="{kinds}">{panels}</div>{caption}</figure>'


def _panel(panel: Panel) -> str:
    if not panel.is_pixels:
        return panel.svg
    data = base64.b64encode(panel.png).decode()
    return f'<img alt="{_e(panel.alt)}" src="data:image/png;base64,{data}">'


def _e(words: str) -> str:
    return html.escape(words)
