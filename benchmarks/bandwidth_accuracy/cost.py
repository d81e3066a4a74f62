"""What a layout costs beside its bytes: time to encode, decode and classify, and what the network carries."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import SEED
from benchmarks.speed.timing import cpu_seconds, medians
from multiscale import Placement
from multiscale.atomic import replacing
from reference_pipeline.classify.networks.build import build

from .data import Pixels
from .layouts import encoding_of, layout_of
from .results import Cell, Cost
from .sent import messages_of, received
from .study import CellSpec, Study
from .trials import recipe_of

COSTS = "cost.json"

ZTF_NIGHT = 300_000  # alerts: "hundreds of thousands" a night (Reyes-Jainaga+ 2023, section 1)
ZTF_HOURS = 10.0  # of a night
LSST_NIGHT = 10_000_000  # alerts (Rubin DMTN-102)
LSST_VISIT = 40_000  # alerts, peak (DMTN-102)
LSST_BETWEEN = 39.0  # seconds from visit to visit
LSST_BURST = 5.4e9  # bit/s (DMTN-102)

N_ALERTS = 128
_CLASSIFIED = 128  # stamps at once
ROUNDS = 3


def costs_of(
    out: Path, study: Study, cells: Sequence[Cell], data: Mapping[str, Any], say: Callable[[str], None]
) -> dict[str, Cost]:
    """Return the cost of every "layout encoding"; measured once, then kept in ``out``.

    On one core, CPU seconds, with the planes of the study's reference, on images of noise with a source.
    """
    path, found = out / COSTS, dict[str, Cost]()
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = {name: Cost.model_validate(cost) for name, cost in kept.items()}
    wanted: dict[str, Cell] = {}
    for cell in cells:
        if tuple(cell.planes) == study.reference.planes and cell.bytes is not None:
            wanted.setdefault(f"{cell.layout.name} {cell.encoding}", cell)
    missing = {name: cell for name, cell in wanted.items() if name not in found}  # trials that came since
    if not missing:
        return found
    say(f"costs of {len(missing)} layouts: encoding, decoding, classifying")
    options = {each["id"]: each["options"] for each in json.loads((out / "study.json").read_text())["cells"]}
    found |= {name: _cost(study, cell, options[cell.id], data) for name, cell in missing.items()}
    with replacing(path) as partial:
        partial.write_text(json.dumps({k: v.model_dump() for k, v in found.items()}, indent=1) + "\n")
    return found


def images(side: int, n: int, planes: Sequence[str], pixel_scale: float) -> Pixels:
    """Return ``n`` stamps of noise with a source in the middle, in counts."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    source = 3000 * np.exp(-(x**2 + y**2) / 4)
    stacks = {plane: (rng.normal(200, 15, (n, side, side)) + source).astype(np.float32) for plane in planes}
    middle = (side - 1) // 2
    return Pixels(np.arange(n), stacks, (Placement.around((middle, middle)),) * n, pixel_scale)


def _cost(study: Study, cell: Cell, options: dict[str, Any] | None, data: Mapping[str, Any]) -> Cost:
    layout, encoding = layout_of(cell.layout.name), encoding_of(cell.encoding)
    planes = tuple(cell.planes)
    some = images(data["side"], N_ALERTS, planes, data["pixel_scale"])
    messages = messages_of(some, layout, encoding, planes)
    pixels = np.stack(list(some.images.values()))
    levels = np.stack(list(received(messages, layout, encoding, planes).levels.values()))
    torch.set_num_threads(1)
    spec = CellSpec(layout=cell.layout.name, encoding=cell.encoding, planes=planes, network=cell.network,
                    normalization=cell.normalization, position=cell.position)  # fmt: skip
    network = build(recipe_of(study, spec, options)).eval()
    stamps = torch.zeros(_CLASSIFIED, 2 * len(planes), layout.n_levels, layout.box, layout.box)
    place = torch.zeros(_CLASSIFIED, 3)

    def classify() -> object:
        with torch.inference_mode():
            return network(stamps, place)

    seconds = medians(
        cpu_seconds(
            {
                "encode": (lambda: messages_of(some, layout, encoding, planes), N_ALERTS),
                "decode": (lambda: received(messages, layout, encoding, planes), N_ALERTS),
                "classify": (classify, _CLASSIFIED),
                "copy of pixels": (pixels.copy, N_ALERTS),
                "copy of levels": (levels.copy, N_ALERTS),
            },
            rounds=ROUNDS,
        )
    )
    assert cell.bytes is not None
    n_bytes = cell.bytes.alert.median
    computing = seconds["encode"] + seconds["decode"] + seconds["classify"]
    return Cost(
        encode_us=1e6 * seconds["encode"], decode_us=1e6 * seconds["decode"],
        classify_us=1e6 * seconds["classify"],
        encode_copies=seconds["encode"] / seconds["copy of pixels"],
        decode_copies=seconds["decode"] / seconds["copy of levels"],
        alert_bytes=n_bytes, **rates(n_bytes),
        visit_latency_s=LSST_VISIT * (computing + 8 * n_bytes / LSST_BURST),
    )  # fmt: skip


def rates(n_bytes: float) -> dict[str, float]:
    """Return what alerts of ``n_bytes`` ask of the network: Gbit/s and TB a night."""
    return {
        "gbit_s_ztf": 8e-9 * n_bytes * ZTF_NIGHT / (3600 * ZTF_HOURS),
        "gbit_s_lsst": 8e-9 * n_bytes * LSST_VISIT / LSST_BETWEEN,
        "tb_night_ztf": 1e-12 * n_bytes * ZTF_NIGHT,
        "tb_night_lsst": 1e-12 * n_bytes * LSST_NIGHT,
    }
