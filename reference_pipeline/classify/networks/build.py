"""From a recipe to a network with fresh weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ...errors import ConfigError
from ..recipe import Recipe
from .ours import MultiScaleNet
from .published import published
from .real_bogus import RotationResNet
from .resnet import CloudResNet
from .small_clouds import SmallCloudNet


def _ours(recipe: Recipe) -> nn.Module:
    options: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in recipe.options.items()
    }
    return MultiScaleNet(
        2 * len(recipe.planes), recipe.n_levels, recipe.size, len(recipe.classes),
        uses_position=recipe.uses_position, **options,
    )  # fmt: skip


def _published(recipe: Recipe) -> nn.Module:
    return published(
        n_planes=len(recipe.planes), n_classes=len(recipe.classes), uses_position=recipe.uses_position,
        **recipe.options,
    )  # fmt: skip


def _rotation_resnet(recipe: Recipe) -> nn.Module:
    return RotationResNet(
        recipe.size, n_planes=len(recipe.planes), n_classes=len(recipe.classes), **recipe.options
    )


def _small_clouds(recipe: Recipe) -> nn.Module:
    return SmallCloudNet(len(recipe.classes), **recipe.options)


def _cloud_resnet(recipe: Recipe) -> nn.Module:
    return CloudResNet(len(recipe.classes), **recipe.options)


#: Name in a recipe -> what makes it.
NETWORKS: dict[str, Callable[[Recipe], nn.Module]] = {
    "ours": _ours,
    "published": _published,  # options: name, of Table 2 of Reyes-Jainaga+ 2023
    "rotation-resnet": _rotation_resnet,
    "small-clouds": _small_clouds,
    "cloud-resnet": _cloud_resnet,  # Sun+ 2022, 2.4
}


def build(recipe: Recipe) -> nn.Module:
    """Return the recipe's network; its weights come from torch's generator. Raises ConfigError."""
    if recipe.network not in NETWORKS:
        raise ConfigError(f"network {recipe.network!r}: expected one of {', '.join(NETWORKS)}")
    try:
        return NETWORKS[recipe.network](recipe)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"network {recipe.network!r} with {recipe.options}: {error}") from error


def n_parameters(network: nn.Module) -> int:
    """Return how many numbers are trained."""
    return sum(parameter.numel() for parameter in network.parameters())
