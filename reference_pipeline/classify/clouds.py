"""From a recipe and labelled thumbnails to a cloud network: split by field, trained, calibrated, tested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import load_camera
from ..errors import ConfigError
from ..labelled.clouds import CLOUDY, CloudThumbnails, read_thumbnails
from ..labelled.split import PARTS, groups_of
from .calibration import calibrated, measured, members_f1
from .card import ModelCard
from .dataset import Examples
from .export import export_model
from .inference import answers_of
from .make import Progress, said_of, train_members, write_result
from .metrics import wilson
from .networks.build import n_parameters
from .recipe import Recipe
from .thumbnails import NORMALIZATION, network_input
from .training import TEST, VALIDATION

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

#: Bins of the cloud's depth (mag) that results are told apart by; the first is of frames without structure.
DEPTHS = (0.0, 0.02, 0.05, CLOUDY, 0.3, 0.5, 1.0, np.inf)


def make_cloud_model(
    recipe: Recipe,
    paths: Sequence[Path],
    folder: Path,
    *,
    n_threads: int = 1,
    device: str = "cpu",
    progress: Progress = lambda line: None,
) -> ModelCard:
    """Train what ``recipe`` says on the thumbnails in ``paths``, and write the model to ``folder``.

    Beside its three files lies NAME.result.json. Raises FileError for what are no thumbnails, ConfigError for
    a recipe that is not of clouds or thumbnails that do not do.
    """
    if recipe.task != "clouds":
        raise ConfigError(f"recipe {recipe.name}: for {recipe.task}, expected one for clouds")
    thumbnails = read_thumbnails(paths)
    thumbnails = thumbnails.where(np.isin(thumbnails.survey, recipe.surveys))
    examples = examples_of(thumbnails, recipe.size)
    parts = examples.parts(recipe.split_seed)
    counts, members = train_members(
        recipe, examples, parts, n_threads=n_threads, device=device, progress=progress
    )
    validation, tested = (said_of(members, examples, parts == part) for part in (VALIDATION, TEST))
    card = _card(recipe, examples, counts, n_parameters(members[0].network), len(members))
    card = calibrated(card, validation.logits, validation.labels)
    probability = answers_of(tested.logits, card).probabilities[:, 1]
    scores = measured(card, tested) | {
        "members_macro_f1": members_f1(tested, len(recipe.classes)),
        **cloud_scores(thumbnails.where(parts == TEST), probability),
    }
    card = export_model([m.network for m in members], card.model_copy(update={"metrics": scores}), folder)
    write_result(folder / f"{recipe.name}.result.json", card, members)
    return card


def examples_of(thumbnails: CloudThumbnails, size: int) -> Examples:
    """Return thumbnails as a network of ``size`` is trained on; frames of one field are one group.

    Raises ConfigError for a size that 256 is no multiple of.
    """
    try:
        values, valid = network_input(thumbnails.pictures, thumbnails.seen, size)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    n, scales = len(thumbnails), [load_camera(str(name)).pixel_scale for name in np.unique(thumbnails.survey)]
    return Examples(
        values, valid, np.zeros((n, 3), np.float32), thumbnails.labels, groups_of(thumbnails.field),
        (min(scales), max(scales)), {"survey": thumbnails.survey}, {},
    )  # fmt: skip


def cloud_scores(thumbnails: CloudThumbnails, probability: Floats, *, cut: float = 0.5) -> dict[str, Any]:
    """Return how often frames are called cloudy, by what they were taken through: plain numbers for JSON.

    ``balanced`` is for as many clear as cloudy frames, as the paper's; intervals are Wilson's of 95 %, frames
    taken for independent.
    """
    said, truth = probability >= cut, thumbnails.labels == 1
    recall, kept = float(said[truth].mean()), float((~said[~truth]).mean())
    structure = [
        {"depth": [low, None if np.isinf(high) else high],
         **_called(said[(thumbnails.depth >= low) & (thumbnails.depth < high)])}
        for low, high in zip(DEPTHS, DEPTHS[1:])
    ]  # fmt: skip
    even = (thumbnails.mean_depth >= CLOUDY) & (thumbnails.depth < CLOUDY)
    through = {"none": thumbnails.kind == "none", "even": even}
    shows = np.abs(np.log(thumbnails.light)) > np.log(1.5)
    return {
        "balanced": {
            "accuracy": _r((recall + kept) / 2), "recall": _r(recall),
            "precision": _r(recall / (recall + 1 - kept)) if recall + 1 - kept > 0 else None,
        },
        "recall_95": _interval(said[truth]),
        "cloudy_by_depth": structure,
        "cloudy_by_survey": {
            str(name): {"clear": _called(said[~truth & (thumbnails.survey == name)]),
                        "cloudy": _called(said[truth & (thumbnails.survey == name)])}
            for name in np.unique(thumbnails.survey)
        },
        "cloudy_by_night": {
            name: {"clear": _called(said[~truth & (thumbnails.night == name)]),
                   "cloudy": _called(said[truth & (thumbnails.night == name)])}
            for name in ("dark", "moon", "twilight")
        },
        "clear": {
            "without_cloud": _called(said[through["none"]]),
            "even_cloud": _called(said[through["even"]]),
            "steep_gradient": _called(said[~truth & (thumbnails.gradient > 0.05)]),
            "without_flat": _called(said[~truth & ~thumbnails.is_flat]),
            "crowded": _called(said[~truth & (thumbnails.n_stars > np.quantile(thumbnails.n_stars, 0.8))]),
        },
        "cloudy": {
            "in_the_skys_light": _called(said[truth & shows]),
            "in_the_stars_alone": _called(said[truth & ~shows]),
        },
    }  # fmt: skip


def _called(said: NDArray[np.bool_]) -> dict[str, Any]:
    """How many of these frames are called cloudy."""
    return {"n": len(said), "called_cloudy": int(said.sum())}


def _interval(said: NDArray[np.bool_]) -> list[float]:
    interval = wilson(int(said.sum()), len(said))
    return [_r(interval.low), _r(interval.high)]


def _r(value: float) -> float:
    return round(float(value), 4)


def _card(
    recipe: Recipe, examples: Examples, counts: dict[str, list[int]], n_of_parameters: int, n_members: int
) -> ModelCard:
    """The card before calibration and test."""
    trained = recipe.model_dump(mode="json", exclude_none=True) | {"normalization": NORMALIZATION}
    return ModelCard(
        name=recipe.name, version=recipe.version, task=recipe.task, taxonomy=recipe.taxonomy,
        classes=recipe.classes, surveys=recipe.surveys, size=recipe.size, n_levels=1,
        pixel_scale=examples.pixel_scale, planes=recipe.planes, normalization=NORMALIZATION,
        uses_position=False, n_members=n_members, n_parameters=n_of_parameters,
        priors=(0.5, 0.5), recipe=trained, is_simulated=True, limits=recipe.limits,
        data={
            "parts": list(PARTS), "counts": counts, "n_groups": len(np.unique(examples.groups)),
            "cloudy_from": CLOUDY,
        },
    )  # fmt: skip
