"""What a trained model says of itself: what it takes, what it gives, what it was trained on, how good it is.

A model is three files of one name: NAME.json, this card; NAME.onnx, what is run; NAME.safetensors, the
weights to train on from. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from multiscale.atomic import replacing

from ..config import Config, parse_model
from ..errors import ConfigError

Task = Literal["stamps", "real-bogus", "clouds"]


class ModelCard(Config):
    """A model's card; field for field what NAME.json holds."""

    name: str  # "stamps-ztf-4x8"
    version: str  # changes with the weights: "1", "2"
    task: Task
    taxonomy: str  # as packets name it (taxonomy.py)
    classes: tuple[str, ...] = Field(min_length=2)  # in the order of the outputs
    surveys: tuple[str, ...]  # cameras whose stamps it was trained on
    size: int  # pixels a side of the input: S, or of a thumbnail
    n_levels: int
    pixel_scale: tuple[float, float]  # arcsec, the range that it was trained on
    planes: tuple[str, ...]  # in the order of the input's channels; the validity of each follows
    normalization: str  # multiscale.tensors
    uses_position: bool  # takes (x, y, z) of the place on the sky
    n_members: int = 1  # of the ensemble
    n_parameters: int  # of one member
    temperature: float = Field(default=1.0, gt=0)  # that logits are divided by: set on validation data
    priors: tuple[float, ...]  # class rates that the probabilities hold for: of the training
    stream_priors: tuple[float, ...] | None = None  # of the survey's stream, where the recipe knows them
    min_confidence: float = 0.0  # below this top probability: unsure
    max_energy: float | None = None  # -T log sum exp(logits / T), mean of members; above: out of distribution
    max_disagreement: float | None = (
        None  # between members, of the top class's probability (std); above: unsure
    )
    recipe: dict[str, Any] = Field(default_factory=dict)  # what it was trained with, seed included
    data: dict[str, Any] = Field(default_factory=dict)  # survey, seed, counts by class and split
    is_simulated: bool = True  # the training data
    metrics: dict[str, Any] = Field(
        default_factory=dict
    )  # on test data that neither training nor calibration saw
    limits: tuple[str, ...] = ()  # what it should not be used for, in sentences
    sha256: dict[str, str] = Field(default_factory=dict)  # file suffix ("onnx", "safetensors") -> digest

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(channels, L, S, S) of one input: the planes and their validity."""
        return 2 * len(self.planes), self.n_levels, self.size, self.size

    def priors_of(self, rates: Literal["training", "stream"]) -> tuple[float, ...] | None:
        """What `classify.priors` means for this model; None: the training's. Raises ConfigError."""
        if rates == "training":
            return None
        if self.stream_priors is None:
            raise ConfigError(f'priors are "stream", and {self.name} does not know the rates of a stream')
        return self.stream_priors


def weights_folder() -> Path:
    """Where the shipped models lie."""
    return Path(str(files(__package__) / "weights"))


def shipped_cards() -> dict[str, ModelCard]:
    """Return the cards of all shipped models by name. Raises ConfigError for one that does not hold."""
    return {path.stem: read_card(path) for path in sorted(weights_folder().glob("*.json"))}


def read_card(path: Path) -> ModelCard:
    """Return the card in a file. Raises ConfigError."""
    import json

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return parse_model(ModelCard, values, str(path))


def write_card(path: Path, card: ModelCard) -> None:
    """Write ``card`` to ``path``, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(card.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
