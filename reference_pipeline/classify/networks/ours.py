"""Our network for multi-scale stamps: any size, any number of levels, any planes; the same for all 8 views.

One tower of convolutions is shared by all levels, and told which level it sees. Where a level has been
halved, its grid is the centre of the next coarser level (specification, section 2), so what the coarser one
sees there is put beside it: that is how context reaches the centre. Both symmetries give the same logits for
the 8 rotations and mirror images of a stamp:

``group``: convolutions on the group p4m (Cohen and Welling 2016): every filter stands in 8 orientations, the
layers keep track of which, and the last one averages over them. One pass.

``orbit``: plain convolutions on all 8 views, their features averaged. Eight passes.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .views import all_views

Symmetry = Literal["group", "orbit"]
Pooling = Literal["max", "average"]
N_VIEWS = 8


class GroupConv(nn.Module):
    """A convolution on p4m with batch normalisation: (n, c_in 8, H, W) -> (n, c_out 8, H', W').

    The channels of one feature are its 8 orientations. ``lifts`` takes an image instead, (n, c_in, H, W).
    With ``order`` 1 there is one orientation only: a plain convolution.
    """

    def __init__(
        self, n_in: int, n_out: int, size: int, *, order: int, lifts: bool = False, padding: int = 0
    ) -> None:
        super().__init__()
        n_from = 1 if lifts else order
        self.weight = nn.Parameter(torch.empty(n_out, n_in, n_from * size * size))
        nn.init.normal_(self.weight, std=(2 / (n_in * n_from * size * size)) ** 0.5)  # He+ 2015, for ReLU
        self.norm = nn.BatchNorm1d(n_out)
        self.size, self.order, self.padding, self.n_from = size, order, padding, n_from
        self.register_buffer("places", torch.from_numpy(_places(size, order, n_from)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of ``x``, normalised; one mean and scale for all orientations."""
        if not self.training:
            return F.conv2d(x, *self._without_norm(), padding=self.padding)
        y = F.conv2d(x, self._turned(self.weight), padding=self.padding)
        n, _, height, width = y.shape
        return self.norm(y.reshape(n, len(self.weight), -1)).reshape(n, -1, height, width)

    def _turned(self, weight: Tensor) -> Tensor:
        """(c_out order, c_in n_from, k, k): every filter in each of its orientations."""
        n_out, n_in, _ = weight.shape
        places = cast(Tensor, self.places)  # (order, n_from k k)
        turned = weight.index_select(2, places.flatten()).unflatten(2, places.shape)
        shape = (n_out * self.order, n_in * self.n_from, self.size, self.size)
        return turned.transpose(1, 2).reshape(shape)

    def _without_norm(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias that do at inference what convolution and normalisation do.

        An ONNX file holds the few numbers they are made of; a runtime makes them once, when it loads it.
        """
        mean, variance = cast(Tensor, self.norm.running_mean), cast(Tensor, self.norm.running_var)
        gain = self.norm.weight / (variance + self.norm.eps).sqrt()
        bias = self.norm.bias - mean * gain
        return self._turned(self.weight * gain[:, None, None]), bias.repeat_interleave(self.order)


class MultiScaleNet(nn.Module):
    """(n, C, L, S, S), and (n, 3) with ``uses_position`` -> logits (n, K).

    ``widths``: features of the tower's stages; each stage after the first halves the map. ``n_dense``: what
    the whole stamp comes down to before the classes are told.
    """

    def __init__(
        self,
        n_channels: int,
        n_levels: int,
        size: int,
        n_classes: int,
        *,
        widths: tuple[int, ...] = (4, 6, 8),
        n_dense: int = 32,
        symmetry: Symmetry = "group",
        fuses: bool = True,
        pooling: Pooling = "average",
        uses_position: bool = False,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.order = N_VIEWS if symmetry == "group" else 1
        self.n_levels, self.widths, self.pooling = n_levels, widths, pooling
        # a level's centre must be half a map exactly, of every map that a stage begins from
        self.fuses = fuses and n_levels > 1 and size % 2 ** len(widths) == 0
        self.uses_position = uses_position
        self.lift = GroupConv(n_channels, widths[0], 3, order=self.order, lifts=True, padding=1)
        self.level = nn.Parameter(torch.zeros(n_levels, widths[0]))  # what the tower knows of its level
        each = 2 if self.fuses else 1
        self.stages = nn.ModuleList(
            GroupConv(each * a, b, 3, order=self.order, padding=1) for a, b in zip(widths, widths[1:])
        )
        self.last = GroupConv(
            n_levels * widths[-1], n_dense, _final_size(size, len(widths) - 1), order=self.order
        )
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(n_dense + 3 * uses_position, n_dense)
        self.classes = nn.Linear(n_dense, n_classes)

    def forward(self, stamps: Tensor, position: Tensor | None = None) -> Tensor:
        """Return the logits (n, K) of ``stamps``."""
        features = self.features(stamps)
        if self.uses_position:
            assert position is not None
            features = torch.cat([features, position], dim=1)
        return self.classes(self.dropout(F.relu(self.hidden(self.dropout(features)))))

    def features(self, stamps: Tensor) -> Tensor:
        """Return what the network sees in ``stamps``, whichever of the 8 views is given: (n, n_dense)."""
        if self.order == N_VIEWS:
            seen = F.relu(self._tower(stamps))
            return seen.unflatten(1, (-1, N_VIEWS)).mean(2)
        seen = F.relu(self._tower(all_views(stamps)))
        return seen.unflatten(0, (N_VIEWS, -1)).mean(0)

    def _tower(self, stamps: Tensor) -> Tensor:
        """(n, C, L, S, S) -> (n, n_dense order), before the last ReLU."""
        images = stamps.transpose(1, 2).flatten(0, 1)  # (n L, C, S, S): levels are as if other images
        told = self.level.repeat_interleave(self.order, dim=1)[:, :, None, None]
        maps = self.lift(images)
        maps = F.relu((maps.unflatten(0, (-1, self.n_levels)) + told).flatten(0, 1))
        for stage in self.stages:
            halved = _halved(maps, self.pooling)
            if self.fuses:
                halved = torch.cat([halved, self._coarser(maps)], dim=1)
            maps = F.relu(stage(halved))
        return self.last(maps.unflatten(0, (-1, self.n_levels)).flatten(1, 2)).flatten(1)

    def _coarser(self, maps: Tensor) -> Tensor:
        """Return for each level the centre of the next coarser one's maps, 0 for the coarsest."""
        quarter = maps.shape[-1] // 4
        centre = maps[..., quarter : 3 * quarter, quarter : 3 * quarter].unflatten(0, (-1, self.n_levels))
        return torch.cat([centre[:, 1:], torch.zeros_like(centre[:, :1])], dim=1).flatten(0, 1)


def _halved(maps: Tensor, pooling: Pooling) -> Tensor:
    """Return maps of half the size; odd ones keep their centre, so that all views agree."""
    size, padding = (3, 1) if maps.shape[-1] % 2 else (2, 0)
    if pooling == "max":
        return F.max_pool2d(maps, size, 2, padding)
    return F.avg_pool2d(maps, size, 2, padding)


def _final_size(size: int, n_halvings: int) -> int:
    for _ in range(n_halvings):
        size = (size + 1) // 2
    return size


def _places(size: int, order: int, n_from: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where each weight of a filter stands in its turned ones: (order, n_from k k) indices of the filter's.

    The filter of orientation g sees orientation h through the weights for g^-1 h, turned by g.
    """
    grid = np.arange(n_from * size * size).reshape(n_from, size, size)
    tables = []
    for g in range(order):
        turned = np.rot90(grid[..., ::-1] if g >= 4 else grid, g % 4, (-2, -1))
        if n_from > 1:
            turned = turned[[_product(_inverse(g), h) for h in range(n_from)]]
        tables.append(turned.reshape(-1))
    return np.stack(tables).astype(np.int64)


def _product(a: int, b: int) -> int:
    """The view that is view b, then view a. Views are r^k m^j, and m r = r^-1 m."""
    j, k = divmod(a, 4)
    j2, k2 = divmod(b, 4)
    return 4 * ((j + j2) % 2) + (k + (-k2 if j else k2)) % 4


def _inverse(a: int) -> int:
    return a if a >= 4 else (-a) % 4
