"""Train a network: batches balanced by class, the best weights by F1 on validation data, all from a seed."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from .dataset import Examples
from .metrics import class_scores, confusion
from .networks.build import build
from .recipe import Recipe

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

TRAIN, VALIDATION, TEST = 0, 1, 2  # parts of a split

_AT_ONCE = 512  # stamps that are evaluated together


@dataclass(frozen=True)
class Step:
    """What an evaluation during training found."""

    iteration: int
    loss: float  # mean of the training batches since the last one
    f1: float  # macro, on validation data


@dataclass(frozen=True)
class Member:
    """A trained network of an ensemble, in evaluation mode, with its best weights."""

    network: nn.Module
    seed: int
    steps: tuple[Step, ...]
    seconds: float  # of wall clock

    @property
    def best(self) -> Step:
        """The evaluation whose weights were kept."""
        return max(self.steps, key=lambda step: step.f1)


def train_member(
    recipe: Recipe,
    examples: Examples,
    parts: Ints,
    *,
    seed: int,
    n_threads: int = 1,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda line: None,
) -> Member:
    """Return one network trained on the rows of ``examples`` whose part is 0, its weights chosen on part 1.

    The same seed, data, device, number of threads and machine give the same weights. ``device``: "cpu",
    "cuda", or "auto" for a GPU where there is one; the network comes back on the CPU. Raises ConfigError
    where a class has no training or no validation stamps, or there is no such device.
    """
    on = device_of(device)
    started = time.monotonic()
    _check_classes(recipe, examples, parts)
    rows, validation = np.flatnonzero(parts == TRAIN), np.flatnonzero(parts == VALIDATION)
    rng = np.random.default_rng([seed, 1])
    with _repeatable(seed, n_threads):
        network = build(recipe).to(on)  # built on the CPU: the same first weights everywhere
        optimizer = _optimizer(recipe, network)
        schedule = _schedule(recipe, optimizer)
        steps: list[Step] = []
        best, losses, since = copy.deepcopy(network.state_dict()), [], 0
        for iteration in range(1, recipe.iterations + 1):
            network.train()
            losses.append(_step(recipe, network, optimizer, examples, _batch(recipe, examples, rows, rng)))
            if recipe.schedule == "cosine":
                schedule.step()
            if iteration % recipe.evaluate_every and iteration != recipe.iterations:
                continue
            if recipe.schedule == "exponential":
                schedule.step()
            truth, said = examples.labels[validation], logits_of(network, examples, validation).argmax(axis=1)
            f1 = class_scores(confusion(truth, said, len(recipe.classes))).macro_f1
            is_better = not steps or f1 > max(step.f1 for step in steps)
            steps.append(Step(iteration, float(np.mean(losses)), f1))
            progress(f"{recipe.name} seed {seed}: {iteration} loss {steps[-1].loss:.4f} F1 {f1:.4f}")
            losses = []
            if is_better:
                best, since = copy.deepcopy(network.state_dict()), 0
            else:
                since += 1
                if since >= recipe.patience:
                    break
    network.load_state_dict(best)
    return Member(network.cpu().eval(), seed, tuple(steps), time.monotonic() - started)


def device_of(name: str) -> torch.device:
    """Return the device that "auto", "cpu", "cuda" or "cuda:1" means here. Raises ConfigError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r}: this torch sees {torch.cuda.device_count()} GPUs")
    return device


def logits_of(network: nn.Module, examples: Examples, rows: Ints) -> Floats:
    """Return the logits (len(rows), K) of a network in evaluation mode, on the device that it is on."""
    network.eval()
    on = _device(network)
    found = []
    with torch.inference_mode():
        for start in range(0, len(rows), _AT_ONCE):
            stamps, position = _tensors(examples, rows[start : start + _AT_ONCE], on)
            found.append(network(stamps, position).cpu().numpy())
    return np.concatenate(found) if found else np.empty((0, 0), np.float32)


def _step(
    recipe: Recipe, network: nn.Module, optimizer: torch.optim.Optimizer, examples: Examples, rows: Ints
) -> float:
    """Take one step on the stamps ``rows`` and return their loss."""
    on = _device(network)
    stamps, position = _tensors(examples, rows, on)
    if recipe.noise:
        n_planes = examples.values.shape[1]
        values, valid = stamps[:, :n_planes], stamps[:, n_planes:]
        stamps = torch.cat([values + recipe.noise * valid * torch.randn_like(values), valid], dim=1)
    loss = F.cross_entropy(
        network(stamps, position),
        torch.from_numpy(examples.labels[rows]).to(on),
        label_smoothing=recipe.label_smoothing,
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _tensors(examples: Examples, rows: Ints, on: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(examples.inputs(rows)).to(on), torch.from_numpy(examples.position[rows]).to(on)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _batch(recipe: Recipe, examples: Examples, rows: Ints, rng: np.random.Generator) -> Ints:
    """Draw the rows of a batch, with replacement: every class as likely, or every stamp."""
    if not recipe.balanced:
        return rng.choice(rows, recipe.batch_size)
    members = [rows[examples.labels[rows] == k] for k in range(len(recipe.classes))]
    counts = rng.multinomial(recipe.batch_size, [1 / len(members)] * len(members))
    return np.concatenate([rng.choice(of_class, n) for of_class, n in zip(members, counts)])


def _optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return kind(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def _schedule(recipe: Recipe, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.iterations)
    decay = recipe.decay if recipe.schedule == "exponential" else 1.0
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)


def _check_classes(recipe: Recipe, examples: Examples, parts: Ints) -> None:
    for part, name in ((TRAIN, "training"), (VALIDATION, "validation")):
        counts = np.bincount(examples.labels[parts == part], minlength=len(recipe.classes))
        if lacking := [k for k, n in zip(recipe.classes, counts) if not n]:
            raise ConfigError(
                f"{recipe.name}: no {', '.join(lacking)} among the {name} stamps; groups of one exposure, "
                "field or object are not divided, so a set needs several of each class"
            )


@contextmanager
def _repeatable(seed: int, n_threads: int) -> Iterator[None]:
    """Make torch repeat itself within; its generator and settings are as before afterwards."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to repeat itself
    threads, was_strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(n_threads)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(was_strict)
