"""What models say of an exposure's candidates: a third file beside its difference and cutouts.

It is made from the cutouts alone, which is what packets carry, and knows what it was made from: another model
or setting makes it again, and not the subtraction. What is cut because of it is decided where the candidates
are stored.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from multiscale import Geometry
from multiscale.atomic import replacing
from multiscale.keys import PlaneKey
from multiscale.packet import Classification, Provenance

from ..alerts.cutouts import CLASSES_SUFFIX, cutout_records, cutouts_path, geometry_of
from ..alerts.provenance import SOFTWARE
from ..candidate import Candidate
from ..classify.card import ModelCard, Task
from ..classify.choose import AUTO, choose, describe, stamps_in
from ..classify.inference import Classifier, classifications
from ..config import Classify, PipelineConfig
from ..difference_products import FOLDER, StoredDifference, file_stem
from ..errors import ConfigError, FileError
from ..version import __version__

TASKS: tuple[Task, ...] = ("real-bogus", "stamps")
REAL = "real"  # the class whose probability is the score

#: Cuts that are made here, after those of detect/cuts.py.
CLOUDS_CUT, REAL_BOGUS_CUT = "clouds", "real-bogus"

_LEAST_BURST = 100  # candidates: on a small field a handful is many per square degree
_SQUARE_DEGREE = 3600.0**2  # arcsec²


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Model(_Part):
    """A model that was used."""

    task: Task
    name: str
    version: str
    taxonomy: str
    classes: tuple[str, ...]
    surveys: tuple[str, ...]  # of its training
    is_simulated: bool  # its training
    sha256: str  # of its network

    def __str__(self) -> str:
        data = "simulated data" if self.is_simulated else "data"
        return f"{self.name} {self.version} ({self.task}; trained on {data} of {', '.join(self.surveys)})"


class Said(_Part):
    """What one model says of one candidate."""

    probabilities: tuple[float, ...]  # in the order of the model's classes
    spread: float
    confidence: str


class Classes(_Part):
    """What the file holds."""

    exposure: str
    branch: str
    start_mjd: float  # UTC, of the exposure
    cutouts: str  # SHA-256 of the file of cutouts
    digest: str  # of that, the models and the settings
    models: tuple[Model, ...]
    missing: tuple[str, ...]  # tasks that no shipped model was found for, in a sentence each
    candidates: dict[int, dict[Task, Said]]  # by number
    refused: dict[int, str]  # candidates that a model says nothing of, and why

    def of(self, number: int) -> tuple[Classification, ...]:
        """What the alert of a candidate carries."""
        said = self.candidates.get(number, {})
        return tuple(
            one
            for model in self.models
            if model.task in said
            for one in classifications(
                name=model.name, version=model.version, taxonomy=model.taxonomy, classes=model.classes,
                probabilities=said[model.task].probabilities, confidence=said[model.task].confidence,
                is_calibrated=not model.is_simulated,
            )
        )  # fmt: skip

    def score(self, number: int) -> float | None:
        """The real/bogus score of a candidate, None where there is none."""
        model = next((model for model in self.models if model.task == "real-bogus"), None)
        said = self.candidates.get(number, {}).get("real-bogus")
        return None if model is None or said is None else said.probabilities[model.classes.index(REAL)]

    def counts(self) -> dict[str, int]:
        """How many candidates have each class for their likeliest."""
        model = next((model for model in self.models if model.task == "stamps"), None)
        if model is None:
            return {}
        rows = [said["stamps"].probabilities for said in self.candidates.values() if "stamps" in said]
        found = Counter(model.classes[row.index(max(row))] for row in rows)
        return {name: found[name] for name in model.classes if found[name]}

    def n_real(self) -> int | None:
        """How many candidates have a score of 0.5 or more; None where there are no scores."""
        scores = [score for number in self.candidates if (score := self.score(number)) is not None]
        return sum(score >= 0.5 for score in scores) if scores else None

    def provenance(self) -> tuple[Provenance, ...]:
        """What an alert says of the models."""
        return tuple(
            Provenance(
                software=SOFTWARE, version=__version__, action=f"classified by {model}; sha256 {model.sha256}"
            )
            for model in self.models
        )  # fmt: skip


def classes_path(out: Path, branch: str, exposure_id: str) -> Path:
    """Return where an exposure's classes lie in an output folder: beside its cutouts."""
    return out / FOLDER / branch / f"{file_stem(exposure_id)}{CLASSES_SUFFIX}"


def classify_exposure(out: Path, stored: StoredDifference, *, config: PipelineConfig) -> Classes:
    """Return what the models say of the candidates of a difference, from its cutouts; leave it as a file.

    A file that is there, of the same cutouts, models and settings, is the answer. Raises FileError for
    cutouts that are gone or damaged, ConfigError for a model that cannot be used.
    """
    exposure, branch = stored.exposure, stored.branch
    cutouts = str(stored.decisions["cutouts"]["sha256"])
    records = cutout_records(cutouts_path(out, branch, exposure.id), digest=cutouts)
    models, missing = _models_for(records, config)
    digest = _digest(cutouts, [model.card for model in models], config.classify)
    path = classes_path(out, branch, exposure.id)
    with suppress(FileError):  # there is none, or not of these cutouts
        before = read_classes(path, cutouts=cutouts)
        if before.digest == digest:
            return before
    candidates, refused = _say(records, models, config.classify)
    made = Classes(
        exposure=exposure.id, branch=branch, start_mjd=exposure.start_mjd, cutouts=cutouts, digest=digest,
        models=tuple(_model(model.card) for model in models), missing=missing,
        candidates=candidates, refused=refused,
    )  # fmt: skip
    with replacing(path, sync=True) as partial:
        partial.write_text(made.model_dump_json() + "\n", encoding="utf-8")
    return made


def _models_for(
    records: Sequence[dict[str, Any]], config: PipelineConfig
) -> tuple[list[Classifier], tuple[str, ...]]:
    """The models for cutouts, and for which tasks none is shipped; none at all where there is no cutout."""
    stamps = next((found for record in records if (found := stamps_in(record)) is not None), None)
    models, missing = [], []
    if stamps is not None:
        for task in TASKS:
            model = _choose(config, task, *stamps)
            if model is not None:
                models.append(model)
            elif _setting(config.classify, task) == AUTO:
                missing.append(f"no shipped {task} model for {describe(*stamps)}")
    return models, tuple(missing)


def _say(
    records: Sequence[dict[str, Any]], models: Sequence[Classifier], config: Classify
) -> tuple[dict[int, dict[Task, Said]], dict[int, str]]:
    """What models say of candidates, by number; and why one says nothing of some."""
    numbers = [int(record["number"]) for record in records]
    candidates: dict[int, dict[Task, Said]] = {number: {} for number in numbers}
    refused: dict[int, str] = {}
    for model in models:
        verdicts = model.classify(records, priors=model.card.priors_of(config.priors))
        refused |= {numbers[i]: f"{model.card.name}: {error}" for i, error in verdicts.refused.items()}
        for i in np.flatnonzero(verdicts.is_classified).tolist():
            candidates[numbers[i]][model.card.task] = Said(
                probabilities=tuple(round(float(p), 6) for p in verdicts.probabilities[i]),
                spread=round(float(verdicts.spread[i]), 6),
                confidence=verdicts.confidence(i),
            )
    return candidates, refused


def read_classes(path: Path, *, cutouts: str | None = None) -> Classes:
    """Return what :func:`classify_exposure` left in ``path``, of the ``cutouts`` whose SHA-256 is given.

    Raises FileError: "pruned" where there is no file, "not-a-difference" for another.
    """
    exposure_id = path.name.removesuffix(CLASSES_SUFFIX)
    try:
        found = Classes.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise FileError(exposure_id, "alert", "pruned", f"{path.name}: no such file") from error
    except (OSError, ValidationError) as error:
        message = f"{path.name}: {str(error).partition(chr(10))[0]}"
        raise FileError(exposure_id, "alert", "not-a-difference", message) from error
    if cutouts is not None and found.cutouts != cutouts:
        message = f"{path.name}: of cutouts whose SHA-256 is {found.cutouts}, expected {cutouts}"
        raise FileError(exposure_id, "alert", "not-a-difference", message)
    return found


def check_models(config: PipelineConfig) -> None:
    """Raise ConfigError for models that the night cannot use, before a pixel is read.

    What is named has to take the stamps that the settings make; what "auto" finds has to be whole.
    """
    for branch in config.night.branches:
        scale = config.camera.pixel_scale * (config.night.binning if branch == "qip" else 1)
        geometry = geometry_of(config.alerts, scale)
        for task in TASKS:
            classifier = _choose(config, task, geometry, config.alerts.planes)
            if classifier is None:
                continue
            card = classifier.card
            card.priors_of(config.classify.priors)  # told before a night has begun
            lacking = set(card.planes) - set(config.alerts.planes)
            if (card.size, card.n_levels) != (geometry.size, geometry.n_levels) or lacking:
                raise ConfigError(
                    f"classify: {card.name} takes {card.n_levels} levels of {card.size} pixels of "
                    f"{', '.join(card.planes)}; alerts have {describe(geometry, config.alerts.planes)}"
                )


def cut_by_classes(
    candidates: Sequence[Candidate], classes: Classes, *, cloud_score: float | None, area: float,
    config: Classify,
) -> tuple[Candidate, ...]:  # fmt: skip
    """Return the candidates, with a cut for those that are not sent because of what models say.

    "clouds": all, where the frame has a ``cloud_score`` of ``config.cloud_score`` or more and a burst of
    candidates on its ``area`` (square degrees), more than a hundred: either alone drops nothing (Sun+ 2022,
    2.4). "real-bogus": a score below ``config.min_real_bogus``.
    """
    n_kept = sum(c.cut is None for c in candidates)
    is_cloudy = cloud_score is not None and cloud_score >= config.cloud_score
    if is_cloudy and n_kept > max(config.burst * area, _LEAST_BURST):
        return tuple(replace(c, cut=c.cut or CLOUDS_CUT) for c in candidates)
    scores = {c.number: classes.score(c.number) for c in candidates if c.cut is None}
    low = {number for number, score in scores.items() if score is not None and score < config.min_real_bogus}
    return tuple(replace(c, cut=REAL_BOGUS_CUT) if c.number in low else c for c in candidates)


def area_of(stored: StoredDifference) -> float:
    """The area of a difference's grid, square degrees."""
    ny, nx = stored.shape
    return ny * nx * stored.pixel_scale**2 / _SQUARE_DEGREE


def _choose(
    config: PipelineConfig, task: Task, geometry: Geometry, planes: Sequence[PlaneKey]
) -> Classifier | None:
    return choose(
        _setting(config.classify, task), task, camera=config.camera.name, geometry=geometry, planes=planes,
        n_threads=1,  # processes share the cores, and the answer depends on nothing but the input
    )  # fmt: skip


def _setting(config: Classify, task: Task) -> str:
    return config.real_bogus if task == "real-bogus" else config.stamps


def _digest(cutouts: str, cards: Sequence[ModelCard], config: Classify) -> str:
    settings = config.model_dump(include={"real_bogus", "stamps", "priors"})
    parts = [cutouts, json.dumps(settings), __version__, *(card.model_dump_json() for card in cards)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _model(card: ModelCard) -> Model:
    names = set(Model.model_fields) - {"sha256"}
    return Model(**card.model_dump(include=names), sha256=card.sha256["onnx"])
