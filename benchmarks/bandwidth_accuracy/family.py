"""One family of networks for every layout, at equal parameters or at equal work, and what a network costs.

The family is the project's own (classify/networks/ours.py): its tower halves a level's map until it is 3
pixels or less, and its widths grow alike; a search over the widths meets the reference's number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reference_pipeline.classify.networks.build import n_parameters
from reference_pipeline.classify.networks.ours import MultiScaleNet
from reference_pipeline.errors import ConfigError

Equal = Literal["parameters", "mflop"]
Shape = tuple[int, int, int]  # channels, levels, pixels a side

TOLERANCE = 0.1  # of what is to be equal
_SCALES = np.geomspace(0.15, 6.0, 120)
_GROWTH = (4, 6, 8, 10, 12, 14, 16)  # widths of the stages, times a scale
_GOOD = 0.02  # |ln ratio| that needs no further search


def mflop(network: nn.Module, shape: Shape) -> float:
    """Return the million additions and multiplications of one stamp's inference, as torch counts them."""
    network.eval()
    channels, levels, size = shape
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, channels, levels, size, size), torch.zeros(1, 3))
    return counter.get_total_flops() / 1e6


@dataclass(frozen=True)
class Widths:
    """What makes a network of the family."""

    widths: tuple[int, ...]
    n_dense: int
    fuses: bool

    def options(self) -> dict[str, Any]:
        """As a recipe has them."""
        return {
            "widths": list(self.widths), "n_dense": self.n_dense, "fuses": self.fuses, "dropout": 0.2,
            "pooling": "max",
        }  # fmt: skip


@lru_cache(maxsize=256)
def widths_of(
    shape: Shape, equal: Equal, target: float, *, n_classes: int, n_dense: int, uses_position: bool
) -> Widths:
    """Return the family's network for ``shape`` that comes nearest to ``target`` parameters or MFLOP.

    At equal parameters the dense layer may move too. Raises ConfigError where none is within 10 %.
    """
    n_stages, side = 1, shape[2]
    while side > 3:
        side, n_stages = (side + 1) // 2, n_stages + 1
    growth = [*_GROWTH, *[_GROWTH[-1]] * n_stages][:n_stages]
    fuses = shape[2] % 2**n_stages == 0  # or a level's centre is not the halved map's size

    def off(candidate: Widths) -> float:
        network = _network(shape, candidate, n_classes, uses_position)
        found = n_parameters(network) if equal == "parameters" else mflop(network, shape)
        return abs(float(np.log(found / target)))

    scaled = dict.fromkeys(tuple(max(1, round(s * g)) for g in growth) for s in _SCALES)
    best = min((Widths(widths, n_dense, fuses) for widths in scaled), key=off)
    while True:  # then a stage, or the dense layer, wider or narrower by one
        near = [replace(best, widths=widths) for widths in _near(best.widths)]
        if equal == "parameters":
            near += [
                replace(best, n_dense=n) for n in (best.n_dense - 1, best.n_dense + 1) if n > n_dense // 2
            ]
        better = min(near, key=off)
        if off(best) < _GOOD or off(better) >= off(best):
            break
        best = better
    if off(best) > TOLERANCE:
        raise ConfigError(f"no network for {shape} within 10 % of {target:g} {equal}")
    return best


def _near(widths: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for i, width in enumerate(widths):
        for other in (width - 1, width + 1):
            if other >= 1:
                yield (*widths[:i], other, *widths[i + 1 :])


def _network(shape: Shape, of: Widths, n_classes: int, uses_position: bool) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # the search draws weights that nobody uses
        return MultiScaleNet(
            *shape, n_classes, widths=of.widths, n_dense=of.n_dense, fuses=of.fuses,
            uses_position=uses_position,
        )  # fmt: skip
