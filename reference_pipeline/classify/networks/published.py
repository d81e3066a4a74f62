"""The stamp classifiers of Reyes-Jainaga+ 2023, as published (Appendix A, Table 2).

The text of the table has lost its columns: its fifth row of layers, "conv3-14", stands alone under four
configurations, and belongs either to the low resolution network or to the multi-scale one. Both readings are
here ("-a" and "-b"); all others follow from feature maps of 8 x 8 at the end, as the paper says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .views import all_views, middle_of_odd

POOL: Literal["M"] = "M"


@dataclass(frozen=True)
class Architecture:
    """One column of Table 2."""

    side: int  # pixels of the input
    n_levels: int
    layers: tuple[int | Literal["M"], ...]  # filters of a convolution, or a maximum over 2 x 2
    dropout: float  # fraction of units dropped
    hidden: int  # units of the first dense layer
    learning_rate: float  # of Adam
    n_parameters: int  # with three planes, their masks, the position and six classes


#: Table 2, both readings of what is ambiguous.
TABLE_2: dict[str, Architecture] = {
    "full": Architecture(63, 1, (37, POOL, 60, POOL, 29, POOL, 26), 0.71726, 31, 7.589e-4, 96_476),
    "cropped": Architecture(16, 1, (112, 27, POOL, 92, 121), 0.866799, 133, 3.4627e-4, 1_187_448),
    "low-resolution-a": Architecture(16, 1, (63, 31, POOL, 108, 14), 0.73065, 22, 1.125e-3, 84_873),
    "low-resolution-b": Architecture(16, 1, (63, 31, POOL, 108), 0.73065, 22, 1.125e-3, 203_603),
    "multi-scale-a": Architecture(8, 4, (76, 18, 54, 28), 0.8478, 69, 7.445e-4, 175_604),
    "multi-scale-b": Architecture(8, 4, (76, 18, 54, 28, 14), 0.8478, 69, 7.445e-4, 117_322),
}


class Published(nn.Module):
    """A network of Table 2: convolutions over eight views, their average, the position, two dense layers.

    Planes and their masks are the channels (6), those of all levels together (24 for four). A mask is 1 where
    a pixel is invalid, as in the paper, so that the zeros around an image say nothing of it. Not said there
    and taken as in its precursor (Carrasco-Davis+ 2021): ReLU after each layer but the last, and Glorot's
    uniform initial weights with biases of 0, TensorFlow's own.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        n_planes: int = 3,
        n_classes: int = 6,
        uses_position: bool = True,
        first_kernel: int = 3,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.side = architecture.side
        self.n_planes = n_planes
        self.uses_position = uses_position
        n_channels = 2 * n_planes * architecture.n_levels
        self.convolutions, n_maps, side = _convolutions(architecture, n_channels, first_kernel)
        self.dropout = nn.Dropout(architecture.dropout)
        n_features = n_maps * side * side + 3 * uses_position
        self.norm = nn.BatchNorm1d(n_features) if batch_norm else nn.Identity()
        self.hidden = nn.Linear(n_features, architecture.hidden)
        self.output = nn.Linear(architecture.hidden, n_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, stamps: Tensor, position: Tensor | None = None) -> Tensor:
        """Return the logits (n, K) of ``stamps`` (n, 2 planes, L, S, S) at ``position`` (n, 3)."""
        stamps = middle_of_odd(stamps, self.side) if self.side % 2 else stamps
        values, valid = stamps[:, : self.n_planes], stamps[:, self.n_planes :]
        images = torch.cat([values, 1 - valid], dim=1).flatten(1, 2)
        maps = self.convolutions(all_views(images))
        features = self.dropout(maps.unflatten(0, (8, -1)).mean(0).flatten(1))
        if self.uses_position:
            if position is None:
                raise ValueError("this network takes the position too")
            features = torch.cat([features, position], dim=1)
        return self.output(torch.relu(self.hidden(self.norm(features))))


def _convolutions(
    architecture: Architecture, n_channels: int, first_kernel: int
) -> tuple[nn.Sequential, int, int]:
    """Return the layers, and the number of maps and pixels a side that come out of them."""
    layers: list[nn.Module] = []
    side, kernel = architecture.side, first_kernel
    for layer in architecture.layers:
        if layer == POOL:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))  # "same" padding: 63 -> 32
            side = (side + 1) // 2
        else:
            layers += [nn.Conv2d(n_channels, layer, kernel, padding="same"), nn.ReLU()]
            n_channels, kernel = layer, 3
    return nn.Sequential(*layers), n_channels, side


def published(
    name: str,
    *,
    filters: Sequence[int] | None = None,
    hidden: int | None = None,
    dropout: float | None = None,
    **options: Any,
) -> Published:
    """Return the network ``name`` of Table 2 with fresh weights.

    ``filters`` of its convolutions, ``hidden`` units and ``dropout`` are the table's unless given: what the
    paper's search tried (search.py). Raises ValueError for another name or number of filters.
    """
    if name not in TABLE_2:
        raise ValueError(f"network {name!r}: expected one of {', '.join(TABLE_2)}")
    column = TABLE_2[name]
    if filters is not None:
        left = iter(filters)
        n_convolutions = sum(layer != POOL for layer in column.layers)
        if len(filters) != n_convolutions:
            raise ValueError(f"{len(filters)} numbers of filters: {name} has {n_convolutions} convolutions")
        column = replace(
            column, layers=tuple(layer if layer == POOL else next(left) for layer in column.layers)
        )
    if hidden is not None:
        column = replace(column, hidden=hidden)
    if dropout is not None:
        column = replace(column, dropout=dropout)
    return Published(column, **options)
