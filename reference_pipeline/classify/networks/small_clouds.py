"""A small network that tells cloudy frames by their thumbnails, the same however the camera is turned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .views import all_views, rotations


class SmallCloudNet(nn.Module):
    """Convolutions with stride, then mean and rms of each map over the frame, averaged over eight views.

    Cloud shows in how the maps differ from place to place: hence their rms beside their mean. Some 10⁴
    parameters. While training, a batch is seen in one view, drawn anew: an eighth of the time.
    """

    def __init__(
        self, n_classes: int = 2, *, widths: tuple[int, ...] = (16, 24, 32, 32), dropout: float = 0.1
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = 2  # the thumbnail and its validity
        for k, width in enumerate(widths):
            stride = 2 if k < 2 else 1
            layers += [
                nn.Conv2d(n_in, width, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            n_in = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(2 * n_in, n_in), nn.ReLU(), nn.Dropout(dropout), nn.Linear(n_in, n_classes)
        )

    def forward(self, stamps: Tensor, position: Tensor | None = None) -> Tensor:
        """Return the logits (n, K) of thumbnails (n, 2, 1, S, S)."""
        images = stamps[:, :, 0]
        views = _one_view(images) if self.training else all_views(images)
        maps = self.features(views)
        mean = maps.mean((-1, -2))
        rms = torch.sqrt(((maps - mean[:, :, None, None]) ** 2).mean((-1, -2)) + 1e-6)
        logits = self.head(torch.cat([mean, rms], dim=1))
        return logits if self.training else logits.reshape(8, -1, logits.shape[-1]).mean(0)


def _one_view(images: Tensor) -> Tensor:
    turns, mirrored = (int(n) for n in torch.randint(0, 4, (2,)))
    return rotations(images.flip(-2) if mirrored % 2 else images)[turns]
