"""The rotation-invariant residual network of Sun+ 2022 (section 4.1), as published.

Four rotations of a stamp go through one ResNet-18 with H-Swish; its 2,048 values of each are put one after
the other. The head sees which rotation is which, so that the invariance is learnt and not exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .resnet import dense_head, resnet18
from .views import middle_of_odd, rotations

#: The four images, in the paper's order; planes that a stamp's channels begin with.
PLANES = ("difference", "template", "science", "score")

#: Side of a stamp -> (kernel, stride, padding) of the first layer: quick branch, deep branch.
FIRST_LAYER: dict[int, tuple[int, int, int]] = {31: (3, 1, 1), 91: (4, 3, 0)}


class RotationResNet(nn.Module):
    """Real or bogus, from stamps of 31 or 91 pixels a side.

    Of 31 pixels the blocks make 8 x 8 maps, of 91 they make 8 x 8 as well (4 x 4 with stride 3: 30, 15, 8);
    Table 1's average over 4 x 4 with stride 3 leaves 2 x 2 of each, 2,048 values. The widths of the dense
    layers are not in the paper. Masks are not looked at.
    """

    def __init__(
        self,
        side: int,
        *,
        n_planes: int = 4,
        n_classes: int = 2,
        dropout: float = 0.5,
        hidden: tuple[int, int] = (256, 64),
    ) -> None:
        super().__init__()
        if side not in FIRST_LAYER:
            raise ValueError(f"stamps of {side} pixels a side: expected {' or '.join(map(str, FIRST_LAYER))}")
        self.side, self.n_planes = side, n_planes
        kernel, stride, padding = FIRST_LAYER[side]
        self.features = resnet18(
            n_planes, kernel=kernel, stride=stride, padding=padding, activation=nn.Hardswish
        )
        self.pool = nn.AvgPool2d(4, 3)
        self.head = dense_head(4 * 2048, hidden, n_classes, dropout, nn.Hardswish)

    def forward(self, stamps: Tensor, position: Tensor | None = None) -> Tensor:
        """Return the logits (n, K) of ``stamps`` (n, 2 planes, 1, S, S); the position is not looked at."""
        images = middle_of_odd(stamps, self.side)[:, : self.n_planes, 0]
        views = rotations(images)
        features = self.pool(self.features(torch.cat(views))).flatten(1)
        return self.head(features.unflatten(0, (len(views), -1)).transpose(0, 1).flatten(1))
