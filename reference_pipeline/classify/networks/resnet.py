"""ResNet-18 as Sun+ 2022 modify it (section 2.4, Table 1): no pooling after the first layer, two strides.

Table 1 gives 1 x 1 as the kernel of the blocks that change the number of channels: that of their shortcut
(He+ 2015); their other two convolutions are 3 x 3.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Activation = Callable[[], nn.Module]

#: (channels out, stride) of the eight residual blocks of Table 1.
BLOCKS: tuple[tuple[int, int], ...] = (
    (64, 1), (64, 1), (128, 1), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1),
)  # fmt: skip


class ResidualBlock(nn.Module):
    """Two convolutions, each normalised, around a shortcut (Figure 9)."""

    def __init__(self, n_in: int, n_out: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(n_out)
        self.second = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(n_out)
        self.activation = activation()
        self.shortcut: nn.Module = nn.Identity()
        if n_in != n_out or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """Return (n, n_out, H, W), H and W over the stride, rounded up."""
        out = self.activation(self.first_norm(self.first(maps)))
        out = self.second_norm(self.second(out))
        return self.activation(out + self.shortcut(maps))


def resnet18(
    n_channels: int, *, kernel: int, stride: int, padding: int, activation: Activation
) -> nn.Sequential:
    """Return the first layer and the eight blocks: images to 512 maps of a quarter the side."""
    n_in = BLOCKS[0][0]
    blocks: list[nn.Module] = []
    for n_out, step in BLOCKS:
        blocks.append(ResidualBlock(n_in, n_out, step, activation))
        n_in = n_out
    first = nn.Conv2d(n_channels, BLOCKS[0][0], kernel, stride, padding, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(BLOCKS[0][0]), activation(), *blocks)


class CloudResNet(nn.Module):
    """The network that tells cloudy frames by their thumbnails (2.4): 7 x 7 first, ReLU, three dense layers.

    Table 1's average is over 4 x 4 with stride 3, which leaves 21 x 21 x 512 values of a 256 x 256 thumbnail;
    its name is "global", and so is the average here. The widths of the dense layers are not in the paper.
    """

    def __init__(
        self, n_classes: int = 2, *, dropout: float = 0.5, hidden: tuple[int, int] = (128, 32)
    ) -> None:
        super().__init__()
        self.features = resnet18(1, kernel=7, stride=1, padding=3, activation=nn.ReLU)
        self.head = dense_head(512, hidden, n_classes, dropout, nn.ReLU)

    def forward(self, stamps: Tensor, position: Tensor | None = None) -> Tensor:
        """Return the logits (n, K) of thumbnails (n, 2, 1, S, S), their validity not looked at."""
        return self.head(self.features(stamps[:, :1, 0]).mean((-1, -2)))


def dense_head(
    n_features: int, hidden: tuple[int, int], n_classes: int, dropout: float, activation: Activation
) -> nn.Sequential:
    """Return three linear layers with two activations and dropout between."""
    first, second = hidden
    return nn.Sequential(
        nn.Linear(n_features, first), activation(), nn.Dropout(dropout),
        nn.Linear(first, second), activation(), nn.Dropout(dropout),
        nn.Linear(second, n_classes),
    )  # fmt: skip
