"""A report as values: what the page and the printed form are both made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Text:
    """A paragraph. ``kind``: "lead" stands out, "note" is small, "missing" says what the study lacks."""

    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Points:
    """A short list. With ``has_heads`` each item begins with what it is of and a colon."""

    items: tuple[str, ...]
    is_numbered: bool = False
    has_heads: bool = False

    def split(self) -> list[tuple[str, str]]:
        """(head, words) of each item; the head is empty where there is none."""
        if not self.has_heads:
            return [("", item) for item in self.items]
        return [(head + mark, words) for head, mark, words in (item.partition(":") for item in self.items)]


@dataclass(frozen=True)
class Table:
    """Rows of words. The first ``n_words`` columns are words, the others numbers."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_words: int = 1
    strong: frozenset[int] = frozenset()  # rows that stand out

    def __post_init__(self) -> None:
        wrong = [i for i, row in enumerate(self.rows) if len(row) != len(self.head)]
        if wrong:
            raise ValueError(f"table {self.caption!r}: row {wrong[0]} has not {len(self.head)} columns")


@dataclass(frozen=True)
class Panel:
    """One drawing, drawn when first asked for: SVG, or PNG where it is pixels or SVG cannot be."""

    name: str  # of its files
    alt: str
    size: tuple[float, float]  # inches
    is_pixels: bool
    draw: Callable[[str], bytes] = field(repr=False)  # of "svg" or "png"

    @cached_property
    def svg(self) -> str:
        """An <svg> element."""
        return self.draw("svg").decode()

    @cached_property
    def png(self) -> bytes:
        """The drawing as pixels."""
        return self.draw("png")


@dataclass(frozen=True)
class Figure:
    """Panels that belong together, and what they show."""

    caption: str
    panels: tuple[Panel, ...]
    is_wide: bool = False  # panels take the page's width


@dataclass(frozen=True)
class Box:
    """Something that must not be overlooked."""

    title: str
    blocks: tuple[Text | Points, ...]


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str


Block = Text | Points | Table | Figure | Box | Heading


@dataclass(frozen=True)
class Section:
    """A part of the report; ``anchor`` is its address in the page."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]
    starts_page: bool = True


@dataclass(frozen=True)
class Report:
    """All of it."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    is_simulated: bool
    facts: tuple[str, ...] = field(default=())  # of the foot: commit, study

    def panels(self) -> list[Panel]:
        """Every drawing, in order."""
        return [p for s in self.sections for b in s.blocks if isinstance(b, Figure) for p in b.panels]


def missing(what: str) -> Text:
    """Return the words for what a study did not run."""
    return Text(f"Not in this study: {what}", kind="missing")


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    n_words: int = 1,
    strong: Iterable[int] = (),
) -> Table:
    """Return a table of what is given."""
    return Table(caption, tuple(head), tuple(tuple(r) for r in rows), n_words, frozenset(strong))
