"""A small network that is told to separate simulated from real packets; needs torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from benchmarks.common import SEED
from multiscale import decode_batch
from multiscale.tensors import tensors_of
from reference_pipeline.labelled.stamp import LabelledStamp

PLANES = ("science", "template", "difference")
BATCH = 64


def inputs_of(stamps: Sequence[LabelledStamp]) -> np.ndarray:
    """(n, C, L, S, S) of the stamps' own packets, normalised as shipped models' are."""
    batch = decode_batch([stamp.cutout.to_record() for stamp in stamps])
    out = None
    for group in batch:  # pixel scales differ, the shape does not
        tensors = tensors_of(group, PLANES)
        if out is None:
            out = np.empty((len(stamps), *tensors.channels().shape[1:]), np.float32)
        out[tensors.indices] = tensors.channels()
    assert out is not None
    return out


def score(
    stamps: Sequence[LabelledStamp], is_real: np.ndarray, folds: np.ndarray, *, epochs: int
) -> np.ndarray:
    """Return a score of being real, (n,), each fold by a network that never saw it."""
    torch.set_num_threads(1)
    x = torch.from_numpy(inputs_of(stamps))
    x = x.flatten(1, 2)  # levels are channels: all of S x S
    y = torch.from_numpy(is_real.astype(np.float32))
    scores = np.full(len(stamps), np.nan)
    for fold in np.unique(folds):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        network = trained(x[train], y[train], epochs=epochs, seed=SEED + int(fold))
        with torch.no_grad():
            scores[test] = network(x[test]).squeeze(1).numpy()
    return scores


def trained(x: torch.Tensor, y: torch.Tensor, *, epochs: int, seed: int) -> nn.Module:
    """Return a network trained for a fixed number of epochs; both kinds weigh the same."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(x.shape[1], 48, 3, padding=1), nn.BatchNorm2d(48), nn.GELU(),
        nn.Conv2d(48, 48, 3, padding=1), nn.BatchNorm2d(48), nn.GELU(), nn.MaxPool2d(2),
        nn.Conv2d(48, 64, 3, padding=1), nn.BatchNorm2d(64), nn.GELU(),
        nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(1),
    )  # fmt: skip
    network(x[:2])
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    weight = (1 - y.mean()) / y.mean()
    loss_of = nn.BCEWithLogitsLoss(pos_weight=weight)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            if len(rows) < 2:
                continue  # of which a batch norm knows nothing
            optimizer.zero_grad()
            loss_of(network(x[rows]).squeeze(1), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()
