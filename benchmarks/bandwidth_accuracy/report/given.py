"""What a report is made of: a study's evaluation and example stamps, and what is asked of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..results import Bytes, Cell, Cost, Difference, Evaluation, Tested, Value, read_evaluation

MAIN = "random"  # the test that a report leads with; the paper's "Test set"
_VARIED = (
    "layout", "planes", "encoding", "normalization", "network", "position", "fraction", "label_noise",
    "dropped_level", "fft",
)  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """One cell minus another: fractions, an interval of 95 %, and a p allowed for how many were compared."""

    value: float
    low: float
    high: float
    adjusted_p: float | None
    n_objects: int

    def turned(self) -> Compared:
        """The other minus the one."""
        return Compared(-self.value, -self.high, -self.low, self.adjusted_p, self.n_objects)


@dataclass(frozen=True)
class Given:
    """The files of a study's folder, read."""

    evaluation: Evaluation
    study: Mapping[str, Any]
    examples: Mapping[str, np.ndarray]

    @property
    def reference(self) -> Cell:
        """The cell in the middle of the star."""
        return self.cell(self.evaluation.reference)

    @property
    def main(self) -> str:
        """The test that the report leads with."""
        tests = list(self.reference.tests)
        return MAIN if MAIN in tests or not tests else tests[0]

    @property
    def data_words(self) -> str:
        """What was tested on, in two words."""
        data = self.evaluation.data
        return f"{'simulated' if data.simulated else 'real'} {data.survey.upper()}-like stamps"

    def cell(self, name: str) -> Cell:
        """Return the cell of that id; KeyError where there is none."""
        for cell in self.evaluation.cells:
            if cell.id == name:
                return cell
        raise KeyError(name)

    def variations(self, *varied: str) -> list[Cell]:
        """Return the cells that are the reference in all but ``varied``, the reference among them."""
        return like(self.reference, self.evaluation.cells, varied)

    def sent(self) -> list[Cell]:
        """Every way to send the reference's planes, by bytes; those without bytes last."""
        return sorted(self.variations("layout", "encoding"), key=lambda c: n_bytes(c) or np.inf)

    def layouts(self) -> list[Cell]:
        """One cell for each layout, sent as the reference is where that was tried."""
        found: dict[str, Cell] = {}
        for cell in self.variations("layout", "encoding"):
            old = found.get(cell.layout.name)
            if old is None or cell.encoding == self.reference.encoding or old.encoding == "fits":
                found[cell.layout.name] = cell
        order = {"full": 0, "crop": 1, "low-resolution": 2, "multi-scale": 3}
        return sorted(found.values(), key=lambda c: (order[c.layout.kind], c.layout.size, c.layout.n_levels))

    def of_kind(self, kind: str) -> Cell | None:
        """Return the plain cell of a kind of layout; of several, the one with the most pixels."""
        found = [c for c in self.layouts() if c.layout.kind == kind]
        return max(found, key=lambda c: c.layout.size * c.layout.n_levels, default=None)

    def published(self, normalization: str = "paper") -> dict[str, list[Cell]]:
        """Return the cells with the paper's networks by its name of the layout, one for each reading."""
        out: dict[str, list[Cell]] = {}
        for cell in self.evaluation.cells:
            if cell.network.startswith("published") and cell.normalization == normalization:
                out.setdefault(paper_name(cell), []).append(cell)
        return {name: sorted(cells, key=lambda c: c.network) for name, cells in out.items()}

    def compared(
        self, a: Cell, b: Cell, *, test: str | None = None, metric: str = "macro_f1"
    ) -> Compared | None:
        """Return ``a`` minus ``b``; None where the two were not compared."""
        return compared(self.evaluation.differences, a, b, test=test or self.main, metric=metric)

    def cost_of(self, cell: Cell) -> Cost | None:
        """Return what a cell's layout costs; None where it was not measured."""
        cost = self.evaluation.cost
        return cost.get(f"{cell.layout.name} {cell.encoding}") or cost.get(cell.layout.name)

    def array(self, name: str) -> np.ndarray | None:
        """Return an array of the examples; None where it is missing or empty."""
        found = self.examples.get(name)
        return found if found is not None and found.size else None

    def names(self, name: str) -> np.ndarray | None:
        """Return an array of classes as their names."""
        found = self.array(name)
        if found is None or found.dtype.kind not in "iu":
            return found
        return np.array(self.evaluation.classes)[found]


def read_given(out: Path) -> Given:
    """Return what is in the folder of a study. Raises OSError or pydantic's ValidationError."""
    evaluation = read_evaluation(out / "evaluation.json")
    study = json.loads((out / "study.json").read_text(encoding="utf-8"))
    path = out / "examples.npz"
    if not path.is_file():
        return Given(evaluation, study, {})
    with np.load(path) as arrays:
        return Given(evaluation, study, {name: arrays[name] for name in arrays.files})


def like(middle: Cell, cells: Sequence[Cell], varied: Collection[str]) -> list[Cell]:
    """Return the cells that equal ``middle`` in all but ``varied``.

    The network of a family is made for its layout, so that "parameters" is one network for all layouts.
    """
    fixed = [name for name in _VARIED if name not in varied]
    return [c for c in cells if all(getattr(c, name) == getattr(middle, name) for name in fixed)]


def compared(
    differences: Sequence[Difference], a: Cell, b: Cell, *, test: str, metric: str
) -> Compared | None:
    """Return ``a`` minus ``b`` as it stands in ``differences``, either way round."""
    for d in differences:
        if d.test != test or d.metric != metric or {d.a, d.b} != {a.id, b.id} or a.id == b.id:
            continue
        if d.difference is None or d.low is None or d.high is None:
            continue
        found = Compared(d.difference, d.low, d.high, d.adjusted_p, d.n_objects)
        return found if d.a == a.id else found.turned()
    return None


def tested(cell: Cell, test: str) -> Tested | None:
    """Return what a cell said of a test; None where it was not tested on it."""
    return cell.tests.get(test)


def of_count(value: Value | None, n: int) -> Value | None:
    """Return a fraction of ``n`` with an interval; where all or none are so, of Clopper and Pearson (95 %).

    A bootstrap of a count of none draws none, and would say that there can be none.
    """
    if value is None or n < 1 or value.value not in (0.0, 1.0) or value.low != value.high:
        return value
    room = 1 - 0.025 ** (1 / n)
    is_all = value.value == 1.0
    return Value(value=value.value, low=1 - room if is_all else 0.0, high=1.0 if is_all else room)


def recall(test: Tested, name: str) -> Value | None:
    """Return the recall of a class; None where the test has none of it."""
    return of_count(test.recall.get(name), test.counts.get(name, 0))


def satellites_as(test: Tested, name: str) -> Value | None:
    """Return the fraction of true satellites called "SN" or "asteroid"."""
    value = test.satellite_to_sn if name == "SN" else test.satellite_to_asteroid
    return of_count(value, test.counts.get("satellite", 0))


def n_bytes(cell: Cell) -> float | None:
    """Median bytes of the stamps as sent: the cutout's record, or today's gzip FITS files."""
    return None if cell.bytes is None else cell.bytes.cutout.median


def pixel_bytes(cell: Cell) -> float | None:
    """Median bytes of pixel data."""
    measured: Bytes | None = cell.bytes
    return None if measured is None else measured.pixels.median


def paper_name(cell: Cell) -> str:
    """The paper's name of a cell's layout."""
    return "cropped" if cell.layout.kind == "crop" else cell.layout.kind


def family(cell: Cell) -> str:
    """The group that a layout is drawn with."""
    layout = cell.layout
    if layout.kind == "multi-scale" and layout.size != 8:
        return f"multi-scale, S = {layout.size}"
    return paper_name(cell)
