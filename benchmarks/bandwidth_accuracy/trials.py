"""Trials: one cell and one seed each, a file each, so that a run goes on where it was stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from multiscale.atomic import replacing
from reference_pipeline.classify.calibration import calibrated, rates_of
from reference_pipeline.classify.card import ModelCard
from reference_pipeline.classify.networks.build import n_parameters
from reference_pipeline.classify.recipe import Recipe, load_recipe
from reference_pipeline.classify.training import Member, logits_of, train_member
from reference_pipeline.errors import ConfigError

from .data import VALIDATION, Stamps, read_stamps_of
from .family import mflop
from .prepare import Sending, n_planes, prepare, shown
from .study import CellSpec, Study

Engine = Literal["local", "ray"]
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_DIGITS = 3  # of logits that are kept


@dataclass(frozen=True)
class Task:
    """What one process is asked: to prepare a way of sending, or to train and test a network."""

    out: Path
    study: Study
    sending: Sending | None = None
    cell: CellSpec | None = None
    options: dict[str, Any] | None = None  # of the family's network
    seed: int = 0

    @property
    def name(self) -> str:
        """For those who watch."""
        return f"{self.cell.id}-{self.seed}" if self.cell is not None else f"sending {self.sending}"

    @property
    def is_done(self) -> bool:
        """Whether its file is there. The JSON is written last."""
        return self.cell is not None and trial_path(self.out, self.cell, self.seed).is_file()


def trial_path(out: Path, cell: CellSpec, seed: int) -> Path:
    """Where the record of a trial lies; what the network said, beside it (.npz)."""
    return out / "trials" / f"{cell.id}-{seed}.json"


def run_tasks(tasks: Sequence[Task], *, workers: int, engine: Engine, say: Callable[[str], None]) -> None:
    """Do what is not done, ``workers`` at a time. Raises what the first task that fails raised."""
    left = [task for task in tasks if not task.is_done]
    for name in _THREADS:
        os.environ[name] = "1"  # processes begin with it: numpy's threads cost more than they give here
    done = (_with_ray if engine == "ray" else _local)(left, workers)
    for n, (task, seconds) in enumerate(done, 1):
        say(f"{n} of {len(left)}: {task.name}, {seconds:.0f} s")


def do(task: Task) -> float:
    """Do one task and return the seconds it took."""
    began = time.monotonic()
    stamps = read_stamps_of(task.out)
    if task.sending is not None:
        prepare(stamps, task.sending, task.out / "work", places=task.study.data.places)
    else:
        _trial(task, stamps)
    return time.monotonic() - began


def recipe_of(study: Study, cell: CellSpec, options: dict[str, Any] | None) -> Recipe:
    """Return what a cell's network is and how it is trained. Raises ConfigError."""
    training, layout = study.training, cell.stamp
    planes = (*cell.planes, *(["fft"] if cell.fft else []))
    if cell.network.startswith("published-"):
        name = cell.network.removeprefix("published-")
        budget = study.paper.budget.get(name) if study.paper is not None else None
        changed = {
            "planes": planes,
            "uses_position": cell.position != "without",
            "surveys": (study.data.survey,),
            "normalization": cell.normalization,
        }
        return load_recipe(cell.network).model_copy(
            update={**changed, **({} if budget is None else budget.model_dump())}
        )
    return Recipe(
        name=cell.id, task="stamps", surveys=(study.data.survey,), size=layout.box, n_levels=layout.n_levels,
        planes=planes, normalization=cell.normalization, uses_position=cell.position != "without",
        network="ours", options=options or {}, n_members=1, learning_rate=training.learning_rate,
        weight_decay=training.weight_decay, noise=training.noise, batch_size=training.batch_size,
        iterations=training.iterations, evaluate_every=training.evaluate_every, patience=training.patience,
    )  # fmt: skip


def temperature_of(recipe: Recipe, logits: np.ndarray, labels: np.ndarray) -> float:
    """Return what logits (n, K) are divided by, from validation data (classify/calibration.py)."""
    k = len(recipe.classes)
    card = ModelCard(
        name=recipe.name, version="1", task=recipe.task, taxonomy=recipe.taxonomy, classes=recipe.classes,
        surveys=recipe.surveys, size=recipe.size, n_levels=recipe.n_levels, pixel_scale=(1.0, 1.0),
        planes=recipe.planes, normalization=recipe.normalization, uses_position=recipe.uses_position,
        n_parameters=0, priors=(1 / k,) * k,
    )  # fmt: skip
    return calibrated(card, logits[None], labels).temperature


def _trial(task: Task, stamps: Stamps) -> None:
    assert task.cell is not None
    cell, study = task.cell, task.study
    recipe = recipe_of(study, cell, task.options)
    examples, parts = shown(stamps, cell, task.out / "work", seed=task.seed)
    member = train_member(recipe, examples, parts, seed=task.seed, n_threads=1)
    validation = np.flatnonzero(parts == VALIDATION)
    temperature = temperature_of(
        recipe, logits_of(member.network, examples, validation), examples.labels[validation]
    )
    rows = stamps.test_rows()
    logits = np.round(logits_of(member.network, examples, rows), _DIGITS)
    path = trial_path(task.out, cell, task.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path.with_suffix(".npz")) as partial, partial.open("wb") as file:
        np.savez_compressed(file, row=rows, logits=logits)
    shape = (2 * n_planes(cell), recipe.n_levels, recipe.size)
    record = {
        "cell": cell.id, "seed": task.seed, "temperature": temperature,
        "n_parameters": n_parameters(member.network), "mflop": round(mflop(member.network, shape), 4),
        "n_training": int((parts == 0).sum()), "seconds": round(member.seconds, 1), **_course(member),
        "validation_rates": rates_of(examples.labels[validation], len(recipe.classes)),
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
    }  # fmt: skip
    with replacing(path) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _course(member: Member) -> dict[str, Any]:
    return {
        "kept_iteration": member.best.iteration, "validation_macro_f1": round(member.best.f1, 5),
        "steps": [[s.iteration, round(s.loss, 5), round(s.f1, 5)] for s in member.steps],
    }  # fmt: skip


def _local(tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, float]]:
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads half
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting = {pool.submit(do, task): task for task in tasks}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            for future in waiting:
                future.cancel()


def _with_ray(tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, float]]:
    """Over the machines of the Ray cluster that RAY_ADDRESS names, or this one; ``out`` must be on all."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray: pip install 'multiscale-stamps[tune]'") from error
    is_ours = not ray.is_initialized()
    if is_ours:
        given = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers}
        ray.init(include_dashboard=False, log_to_driver=False, **given)
    on_gpu = bool(tasks) and tasks[0].study.training.device != "cpu"
    remote = ray.remote(num_cpus=1, num_gpus=1 if on_gpu else 0)(do)
    try:
        waiting = {remote.remote(task): task for task in tasks}
        while waiting:
            ready, _ = ray.wait(list(waiting))
            for reference in ready:
                yield waiting.pop(reference), ray.get(reference)
    finally:
        if is_ours:
            ray.shutdown()
