"""What a model is trained with, whole: a TOML file, and the model again from a seed."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ..config import Config, parse_model
from ..errors import ConfigError
from ..taxonomy import (
    CLOUD_TAXONOMY,
    CLOUDS,
    REAL_BOGUS,
    REAL_BOGUS_TAXONOMY,
    STAMP_CLASSES,
    STAMP_TAXONOMY,
)
from .card import Task

#: How a stamp comes to the network. ``packet``: as it was sent. ``cut``: cut anew from the original and
#: encoded (levels as the format makes them). ``whole``: the original's central pixels. ``low-resolution``:
#: the whole original, blocks of it averaged.
Layout = Literal["packet", "cut", "whole", "low-resolution"]

#: Where the middle of a stamp is cut: at the pixel corner nearest to the object's ``position``, as the
#: pipeline does; at the far corner of the ``pixel`` that holds it, as of survey alerts that tell no more; or
#: ``both``, each stamp twice.
Places = Literal["position", "pixel", "both"]

_CLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "stamps": (STAMP_TAXONOMY, STAMP_CLASSES),
    "real-bogus": (REAL_BOGUS_TAXONOMY, REAL_BOGUS),
    "clouds": (CLOUD_TAXONOMY, CLOUDS),
}


class Recipe(Config):
    """One model: which stamps, which network, and how it is trained."""

    name: str
    version: str = "1"
    task: Task

    # which stamps
    surveys: tuple[str, ...]
    also: tuple[str, ...] = ()  # other surveys, trained on and not tested on: cut anew where they differ
    branches: tuple[str, ...] = ()  # empty: all
    detections: Literal["all", "random", "first"] = "all"  # of an object
    without_subtypes: tuple[str, ...] = ()  # "injected": sources without surroundings
    with_cut: bool = False  # also those that the pipeline's cuts remove

    # what the network sees of them
    layout: Layout = "packet"
    places: Places = "position"  # of layout "cut"
    size: int = Field(ge=4)
    n_levels: int = Field(ge=1)
    planes: tuple[str, ...] = ("science", "template", "difference")
    normalization: Literal["noise", "paper"] = "noise"
    uses_position: bool = False

    # the network
    network: str = "ours"  # networks/build.py
    options: dict[str, Any] = Field(default_factory=dict)  # its own
    n_members: int = Field(default=3, ge=1)

    # training
    seed: int = Field(default=1, ge=0)  # member i has seed + i
    split_seed: int = Field(default=0, ge=0)  # the same for all, so that members agree on what is test data
    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0)
    schedule: Literal["constant", "cosine", "exponential"] = "cosine"  # cosine: to 0 at ``iterations``
    decay: float = Field(default=0.9, gt=0, le=1)  # exponential: of the rate, from evaluation to evaluation
    weight_decay: float = Field(default=1e-4, ge=0)
    batch_size: int = Field(default=256, ge=2)
    balanced: bool = True  # classes are equally likely in a batch
    iterations: int = Field(ge=1)  # at most
    evaluate_every: int = Field(default=100, ge=1)
    patience: int = Field(default=1000, ge=1)  # evaluations without a better F1 that end the training
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    noise: float = Field(default=0.0, ge=0)  # added to normalised values while training (std)

    stream_priors: dict[str, float] | None = None  # class -> its rate in the stream, where it is known
    limits: tuple[str, ...] = ()  # for the card

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if self.layout == "low-resolution" and self.n_levels != 1:
            raise ValueError("layout low-resolution has one level")
        if self.layout == "whole" and self.n_levels != 1:
            raise ValueError("layout whole has one level")
        if self.stream_priors is not None and set(self.stream_priors) != set(self.classes):
            raise ValueError(f"stream_priors: expected a rate for each of {', '.join(self.classes)}")
        return self

    @property
    def taxonomy(self) -> str:
        """As packets name it."""
        return _CLASSES[self.task][0]

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the network's outputs."""
        return _CLASSES[self.task][1]


def load_recipe(name: str) -> Recipe:
    """Return a shipped recipe by its name, or the one in a .toml file. Raises ConfigError."""
    path = Path(name) if name.endswith(".toml") else recipes_folder() / f"{name}.toml"
    if path.parent == recipes_folder() and not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in recipes_folder().glob("*.toml")))
        raise ConfigError(f"recipe {name!r} is not known; shipped: {shipped}; or name a .toml")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return parse_model(Recipe, values, str(path))


def recipes_folder() -> Path:
    """Where the shipped recipes lie."""
    return Path(str(files(__package__) / "recipes"))
