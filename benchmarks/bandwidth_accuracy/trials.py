"""Trials: one cell and one seed each, a file each, so that a run goes on where it was stopped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from multiscale.atomic import replacing
from reference_pipeline.classify.calibration import calibrated, rates_of
from reference_pipeline.classify.card import ModelCard
from reference_pipeline.classify.networks.build import n_parameters
from reference_pipeline.classify.networks.ours import MultiScaleNet
from reference_pipeline.classify.recipe import Recipe, load_recipe
from reference_pipeline.classify.training import Member, device_of, logits_of, train_member
from reference_pipeline.errors import ConfigError
from reference_pipeline.pool import worker_pool
from reference_pipeline.taxonomy import STAMP_CLASSES

from .data import VALIDATION, Stamps, read_stamps_of
from .family import mflop, widths_of
from .prepare import n_planes, prepare, shown
from .study import CellSpec, Study

Engine = Literal["local", "ray"]
DIGITS = 3  # of logits that are kept


@dataclass(frozen=True)
class Task:
    """What one process is asked: a cell and a seed, or something else that a module's function does."""

    out: Path
    study: Study
    kind: Literal["prepare", "trial", "real"]
    cell: CellSpec
    options: dict[str, Any] | None = None  # of the family's network
    seed: int = 0
    with_glints: bool = False  # of real stamps: satellites are a fifth class

    @property
    def name(self) -> str:
        """For those who watch, and of its files."""
        if self.kind == "prepare":
            return f"sending {', '.join(map(str, self.cell.sending))}"
        plain = f"{self.cell.id}-{self.seed}"
        return plain if self.kind == "trial" else f"real{'-glints' * self.with_glints}-{plain}"

    @property
    def path(self) -> Path:
        """Where the record of a trial lies; what the network said, beside it (.npz)."""
        return self.out / "trials" / f"{self.name}.json"

    @property
    def is_done(self) -> bool:
        """Whether its file is there. The JSON is written last."""
        return self.kind != "prepare" and self.path.is_file()


def trial_path(out: Path, cell: CellSpec, seed: int) -> Path:
    """Where the record of a trial lies."""
    return out / "trials" / f"{cell.id}-{seed}.json"


def run_tasks(tasks: Sequence[Task], *, workers: int, engine: Engine, say: Callable[[str], None]) -> None:
    """Do what is not done, ``workers`` at a time. Raises what the first task that fails raised."""
    left = [task for task in tasks if not task.is_done]
    done = (_with_ray if engine == "ray" else _local)(left, workers)
    for n, (task, seconds) in enumerate(done, 1):
        say(f"{n} of {len(left)}: {task.name}, {seconds:.0f} s")


def do(task: Task) -> float:
    """Do one task and return the seconds it took."""
    began = time.monotonic()
    if task.kind == "prepare":
        stamps = read_stamps_of(task.out)
        prepare(stamps, task.cell.sending, task.out / "work", places=task.study.data.places)
    elif task.kind == "trial":
        _trial(task, read_stamps_of(task.out))
    else:
        from .real import real_trial

        real_trial(task)
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


def family_options(
    study: Study, cell: CellSpec, *, n_classes: int = len(STAMP_CLASSES)
) -> dict[str, Any] | None:
    """Return the options of a cell's network where it is of the family. Raises ConfigError."""
    training = study.training
    if cell.network.startswith("published-"):
        return None
    reference = study.reference
    middle = reference.stamp
    first = MultiScaleNet(
        2 * len(reference.planes), middle.n_levels, middle.box, n_classes,
        widths=training.widths, n_dense=training.n_dense, pooling="max",
    )  # fmt: skip
    shape = (2 * len(reference.planes), middle.n_levels, middle.box)
    equal = "mflop" if cell.network == "mflop" else "parameters"
    target = mflop(first, shape) if equal == "mflop" else float(n_parameters(first))
    layout = cell.stamp
    own = (2 * (len(cell.planes) + cell.fft), layout.n_levels, layout.box)
    if own == shape and equal == "parameters":
        found: dict[str, Any] = {"widths": list(training.widths), "n_dense": training.n_dense}
        return {**found, "dropout": 0.2, "pooling": "max"}
    return widths_of(
        own, equal, target, n_classes=n_classes, n_dense=training.n_dense,
        uses_position=cell.position != "without",
    ).options()  # fmt: skip


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
    cell, began = task.cell, time.process_time()
    recipe = recipe_of(task.study, cell, task.options)
    examples, parts = shown(stamps, cell, task.out / "work", seed=task.seed)
    device = task.study.training.device
    member = train_member(recipe, examples, parts, seed=task.seed, n_threads=1, device=device)
    network = member.network.to(device_of(device))
    validation = np.flatnonzero(parts == VALIDATION)
    said = logits_of(network, examples, validation)
    rows = stamps.test_rows()
    logits = np.round(logits_of(network, examples, rows), DIGITS)
    record = {
        "temperature": temperature_of(recipe, said, examples.labels[validation]),
        "n_training": int((parts == 0).sum()),
        "seconds": round(member.seconds, 1),  # of training, by the clock
        "cpu_seconds": round(time.process_time() - began, 1),  # of all
        **_course(member),
        "validation_rates": rates_of(examples.labels[validation], len(recipe.classes)),
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
    }
    write_trial(task, record, network.cpu(), recipe, row=rows, logits=logits)


def write_trial(
    task: Task, record: dict[str, Any], network: nn.Module, recipe: Recipe, **arrays: np.ndarray
) -> None:
    """Write what a trial found: arrays, then what is told of it."""
    task.path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(task.path.with_suffix(".npz")) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    shape = (2 * n_planes(task.cell), recipe.n_levels, recipe.size)
    told = {
        "cell": task.cell.id,
        "seed": task.seed,
        "n_parameters": n_parameters(network),
        "mflop": round(mflop(network, shape), 4),
        **record,
    }
    with replacing(task.path) as partial:
        partial.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _course(member: Member) -> dict[str, Any]:
    return {
        "kept_iteration": member.best.iteration, "validation_macro_f1": round(member.best.f1, 5),
        "steps": [[s.iteration, round(s.loss, 5), round(s.f1, 5)] for s in member.steps],
    }  # fmt: skip


def _local(tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, float]]:
    with worker_pool(workers, one_thread=True) as pool:
        waiting = {pool.submit(do, task): task for task in tasks}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


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
