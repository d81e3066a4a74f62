"""The eight views of a stamp: rotations by quarter turns, and their mirror images."""

from __future__ import annotations

import torch
from torch import Tensor


def rotations(stamps: Tensor) -> list[Tensor]:
    """Return the last two axes turned by 0, 90, 180 and 270 degrees; by flips, which ONNX has."""
    turned = stamps.transpose(-1, -2)
    return [stamps, turned.flip(-2), stamps.flip(-1, -2), turned.flip(-1)]


def all_views(stamps: Tensor) -> Tensor:
    """Return (8 n, ...): the four rotations of ``stamps`` (n, ...), then those of their mirror images."""
    return torch.cat([*rotations(stamps), *rotations(stamps.flip(-2))])


def middle_of_odd(stamps: Tensor, side: int) -> Tensor:
    """Return stamps of an odd ``side`` from the even ones of the format.

    A survey's odd stamp travels with one more row and column at the end, both invalid, because the sides of
    levels are even; they are dropped here. Raises ValueError for another size.
    """
    found = stamps.shape[-1]
    if found not in (side, side + 1):
        raise ValueError(f"stamps of {found} pixels a side: expected {side}, or one more")
    return stamps[..., :side, :side]
