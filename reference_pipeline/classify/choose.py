"""Which of the shipped models fits given stamps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from multiscale import Geometry
from multiscale.errors import StampError
from multiscale.keys import PlaneKey, plane_key
from multiscale.packet import cutout_record

from ..errors import ConfigError
from .card import ModelCard, Task, shipped_cards
from .inference import Classifier, is_in_scale, load_classifier

AUTO, NONE = "auto", "none"  # settings that name no model


@lru_cache(maxsize=1)
def _shipped() -> tuple[ModelCard, ...]:
    return tuple(shipped_cards().values())


def find_model(
    task: Task, *, camera: str, geometry: Geometry, planes: Sequence[PlaneKey],
    cards: Sequence[ModelCard] | None = None,
) -> ModelCard | None:  # fmt: skip
    """Return the shipped model (or the one among ``cards``) for stamps of a camera; None where none fits.

    It fits with as many levels and pixels, the pixel scale within its training's (±15 %), and no plane that
    the stamps lack. Of several: one of the camera's own survey, then the one that uses most planes, then the
    one whose training is nearest in pixel scale, then by name.
    """
    known = _shipped() if cards is None else cards
    fitting = [card for card in known if card.task == task and _fits(card, geometry, planes)]

    def order(card: ModelCard) -> tuple[bool, int, float, str]:
        apart = abs(math.log(geometry.pixel_scale / math.sqrt(math.prod(card.pixel_scale))))
        return camera not in card.surveys, -len(card.planes), round(apart, 6), card.name

    return min(fitting, key=order, default=None)


def _fits(card: ModelCard, geometry: Geometry, planes: Sequence[PlaneKey]) -> bool:
    return (
        (card.size, card.n_levels) == (geometry.size, geometry.n_levels)
        and is_in_scale(card, geometry.pixel_scale)
        and set(card.planes) <= set(planes)
    )


def choose(
    model: str, task: Task, *, camera: str, geometry: Geometry, planes: Sequence[PlaneKey],
    n_threads: int = 0,
) -> Classifier | None:  # fmt: skip
    """Return the classifier that a setting means: none for "none", for "auto" what fits, if anything does.

    A model that is named is returned also where it does not fit: it then refuses the stamps. Raises
    ConfigError for one that is not there, cannot be used, or is for another task.
    """
    if model == NONE:
        return None
    if model != AUTO:
        return named(model, task, n_threads=n_threads)
    card = find_model(task, camera=camera, geometry=geometry, planes=planes)
    return None if card is None else load_classifier(card.name, n_threads=n_threads)


def named(model: str, task: Task, *, n_threads: int = 0) -> Classifier:
    """Return a model by its name or card. Raises ConfigError, also for one of another task."""
    found = load_classifier(model, n_threads=n_threads)
    if found.card.task != task:
        raise ConfigError(f"model {model!r} is for {found.card.task}, expected one for {task}")
    return found


def stamps_in(record: Mapping[str, Any]) -> tuple[Geometry, tuple[PlaneKey, ...]] | None:
    """Return the geometry and planes of a record's cutout as they are said; None where there is none."""
    try:
        cutout = cutout_record(record)
        if cutout is None:
            return None
        geometry = Geometry(cutout["size"], cutout["nLevels"], cutout["pixelScale"])
        return geometry, tuple(plane_key(plane["kind"], plane["of"]) for plane in cutout["planes"])
    except (StampError, KeyError, TypeError):  # decoding names what is wrong
        return None


def shipped_of(task: Task) -> str:
    """Say which models are shipped for a task, and what they take."""
    lines = [
        f"{card.name} ({'/'.join(card.surveys)}: {card.n_levels} levels of {card.size} pixels at "
        f"{_range(card.pixel_scale)}, planes {', '.join(card.planes)})"
        for card in _shipped()
        if card.task == task
    ]
    return "; ".join(lines) or "none"


def describe(geometry: Geometry, planes: Sequence[PlaneKey]) -> str:
    """Say what stamps are."""
    shape = f"{geometry.n_levels} levels of {geometry.size} pixels at {geometry.pixel_scale:.3g}″"
    return f"{shape} with planes {', '.join(map(str, planes))}"


def _range(scale: tuple[float, float]) -> str:
    least, largest = scale
    return f"{least:.2f}″" if math.isclose(least, largest, rel_tol=0.01) else f"{least:.2f} to {largest:.2f}″"
