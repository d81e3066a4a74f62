"""What a cloud network sees of a frame, and what it says: onnxruntime and numpy, no torch.

A thumbnail of 256×256 cells between zscale's limits (Sun+ 2022, 2.4; reduce/quality.py), its cells averaged
in blocks to the side that the network takes. The few bright cells of stars are cut off at the upper limit
before that, so that a block is as bright as its sky.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..frame import Frame
from ..reduce.quality import THUMBNAIL_SIZE, CloudNetwork, cells_of, shown
from ..taxonomy import CLOUDS
from .card import ModelCard, shipped_cards
from .choose import AUTO, NONE, named
from .inference import card_path

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

#: Names of the one plane and of its normalisation, as a model's card says them.
PLANE, NORMALIZATION = "thumbnail", "zscale"


def network_input(pictures: NDArray[np.uint8], seen: Bools, size: int) -> tuple[Floats, Bools]:
    """Return thumbnails as a network takes them: values in [−1, 1], 0 where invalid; and validity.

    ``pictures`` and ``seen`` (which cells hold a usable pixel) are (n, 256, 256); both results are
    (n, 1, 1, size, size). A block is the mean of its seen cells. Raises ValueError for a side that 256 is no
    multiple of.
    """
    if size < 1 or THUMBNAIL_SIZE % size:
        raise ValueError(f"a thumbnail of {THUMBNAIL_SIZE} cells a side in {size} blocks: expected a divisor")
    blocks = (len(pictures), size, THUMBNAIL_SIZE // size, size, THUMBNAIL_SIZE // size)
    count = seen.reshape(blocks).sum(axis=(2, 4), dtype=np.float32)
    total = np.where(seen, pictures, 0).reshape(blocks).sum(axis=(2, 4), dtype=np.float32)
    valid = count > 0
    values = np.where(valid, total / np.maximum(count, 1) / np.float32(127.5) - 1, np.float32(0))
    return values.astype(np.float32)[:, None, None], valid[:, None, None]


def cloud_network(model: str | Path) -> CloudNetwork:
    """Return what says how probable cloud is over a frame: a shipped model's name, or a card (.json).

    The probability is at equal rates of clear and cloudy frames, as trained. Raises ConfigError for a model
    that is not there, cannot be used, or is not of thumbnails; the network itself raises PixelError
    ("no-pixels") of a frame without a usable pixel.
    """
    found = named(str(model), "clouds", n_threads=1)
    card = found.card
    if (card.planes, card.n_levels, card.normalization) != ((PLANE,), 1, NORMALIZATION):
        raise ConfigError(f"model {model}: takes {card.planes}, {card.normalization}; expected a thumbnail")
    cloudy = card.classes.index(CLOUDS[1])

    def probability(frame: Frame) -> float:
        cells, is_seen = cells_of(frame)
        values, valid = network_input(shown(cells, is_seen)[None], is_seen[None], card.size)
        stamps = np.concatenate([values, valid.astype(np.float32)], axis=1)
        return float(found.answer(stamps).probabilities[0, cloudy])

    return probability


def chosen_model(setting: str, *, camera: str) -> Path | None:
    """Return the card that a setting (config.Classify.clouds) means; None for "none".

    "auto" is a shipped one: that of the camera's survey, or else the one that was trained on most surveys;
    clouds look alike through all telescopes. Raises ConfigError for a name that is not shipped.
    """
    if setting == NONE:
        return None
    if setting != AUTO:
        return card_path(setting)
    card = shipped_model(tuple(shipped_cards().values()), camera=camera)
    return None if card is None else card_path(card.name)


def shipped_model(cards: Sequence[ModelCard], *, camera: str) -> ModelCard | None:
    """Return the card that "auto" means among ``cards``; None where none is of clouds."""
    fitting = [card for card in cards if card.task == "clouds"]
    return min(fitting, key=lambda c: (camera not in c.surveys, -len(c.surveys), c.name), default=None)
