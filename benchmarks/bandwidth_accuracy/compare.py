"""Which cells of a study are compared, and what its curves are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import scoring
from .results import Cell, Dropped, LabelNoise, Learning, Value
from .study import Arm, CellSpec, Study, cell_of
from .tested import METRICS, Scored

TODAY = "what surveys send today"  # the full stamp and the crop, beside every other way of sending


def pairs_of(
    study: Study, specs: Mapping[str, CellSpec], there: set[str]
) -> dict[str, list[tuple[str, str]]]:
    """Return which cells of each arm are compared: with the reference, and with what the arm says.

    What differs in layout and encoding alone is compared with the full stamp and the largest crop too, and
    the published networks with each other.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for arm in study.arms:
        ids = [cell_of(arm, study.reference, value).id for value in arm.values]
        others = [_middle(arm, study), study.reference.id]
        others += [cell_of(arm, study.reference, value).id for value in arm.against]
        found[arm.name] = _pairs(ids, others, there)
    sent = [name for name, cell in specs.items() if _differs_in_sending(cell, study.reference)]
    exact = [name for name in sent if specs[name].encoding in ("raw", "fits")]
    crops = sorted((n for n in exact if specs[n].stamp.kind == "crop"), key=lambda n: specs[n].stamp.size)
    today = [n for n in exact if specs[n].stamp.kind == "full"] + crops[-1:]
    known = {frozenset(pair) for pairs in found.values() for pair in pairs}
    found[TODAY] = [pair for pair in _pairs(sent, today, there) if frozenset(pair) not in known]
    if study.paper is not None:
        for normalization in study.paper.normalizations:
            arm_name = "paper" if normalization == "paper" else "paper, normalised by noise"
            ids = [
                name for name, cell in specs.items()
                if cell.network.startswith("published-") and cell.normalization == normalization
            ]  # fmt: skip
            found[arm_name] = _pairs(ids, ids, there)
    return found


def _differs_in_sending(cell: CellSpec, reference: CellSpec) -> bool:
    """Whether only layout and encoding are not the reference's."""
    alike = {"layout": reference.layout, "encoding": reference.encoding}
    return cell.model_copy(update=alike) == reference


def _pairs(ids: Sequence[str], others: Sequence[str], there: set[str]) -> list[tuple[str, str]]:
    wanted: dict[frozenset[str], tuple[str, str]] = {}
    for b in others:
        for a in ids:
            if a != b and a in there and b in there:
                wanted.setdefault(frozenset((a, b)), (a, b))
    return list(wanted.values())


def _middle(arm: Arm, study: Study) -> str:
    """The cell that an arm goes out from: the reference, with the arm's base."""
    return cell_of(arm, study.reference, getattr(study.reference, arm.vary)).id


def _of_arm(study: Study, vary: str) -> list[tuple[Arm, Any, str]]:
    return [
        (arm, value, cell_of(arm, study.reference, value).id)
        for arm in study.arms
        if arm.vary == vary
        for value in arm.values
    ]


def learning_of(
    study: Study, cells: Sequence[Cell], trainings: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Learning]:
    found = [
        Learning(
            cell=cell.id, fraction=cell.fraction, n_training=trainings[cell.id][0]["n_training"],
            macro_f1=cell.tests["random"].macro_f1,
        )
        for cell in _along(study, cells, "fraction")
    ]  # fmt: skip
    return sorted(found, key=lambda point: point.fraction)


def label_noise_of(study: Study, cells: Sequence[Cell]) -> list[LabelNoise]:
    found = [
        LabelNoise(cell=cell.id, rate=cell.label_noise, macro_f1=cell.tests["random"].macro_f1)
        for cell in _along(study, cells, "label_noise")
    ]
    return sorted(found, key=lambda point: point.rate)


def _along(study: Study, cells: Sequence[Cell], vary: str) -> list[Cell]:
    """The cells that are there of the arms that vary something, and the reference; none without such arms."""
    known = {cell.id: cell for cell in cells}
    ids = dict.fromkeys(id_ for *_, id_ in _of_arm(study, vary))
    return [known[id_] for id_ in dict.fromkeys([*ids, study.reference.id]) if ids and id_ in known]


def dropped_of(
    study: Study, cells: Sequence[Cell], scored: Mapping[tuple[str, str], Scored], vary: str
) -> list[Dropped]:
    """What is missing in the cells of an arm, and what they are worse by, on test random."""
    known = {cell.id: cell for cell in cells}
    found = []
    for arm, _, id_ in _of_arm(study, vary):
        cell, full = known.get(id_), known.get(_middle(arm, study))
        if cell is None or full is None or id_ == full.id:
            continue
        if vary == "planes":
            what = ", ".join(plane for plane in full.planes if plane not in cell.planes)
        else:
            what = f"level {cell.dropped_level}"
        if what:
            a, b = scored[id_, "random"].metrics, scored[full.id, "random"].metrics
            both = [
                scoring.difference(a[m], b[m]) if m in a and m in b else Value(value=None) for m in METRICS
            ]
            found.append(Dropped(cell=id_, dropped=what, macro_f1=both[0], satellite_recall=both[1]))
    return found
