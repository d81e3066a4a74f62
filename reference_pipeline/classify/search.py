"""The search for a published network's settings, as Reyes-Jainaga+ 2023 did it (Appendix A).

Ray Tune draws settings by HyperOpt's tree of Parzen estimators and stops those that lag behind (ASHA). What
is varied is the paper's: filters of each layer, units of the first dense layer, learning rate, dropout,
kernel of the first convolution (3 or 5), batch normalisation after the position. If the best is within 10 %
of the end of a range, the range is widened there and the search is done again. The paper does not give its
ranges; those here are ours. Only training and validation stamps are looked at.

    python -m reference_pipeline.classify.search published-multi-scale-a stamps/ -o found/
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from multiscale.atomic import replacing

from ..errors import ConfigError
from .dataset import Examples, read_examples
from .networks.published import POOL, TABLE_2
from .recipe import Recipe, load_recipe
from .training import train_member

NEAR = 0.1  # of a range: nearer to its end than this and the range is too narrow

_F1 = re.compile(r": (\d+) loss \S+ F1 ([\d.]+)$")  # the progress lines of training.py


@dataclass(frozen=True)
class Range:
    """Where a number is searched, and how far the search may go when it is widened."""

    low: float
    high: float
    least: float
    most: float
    is_log: bool = True
    is_whole: bool = False

    def place(self, value: float) -> float:
        """Return where ``value`` is between low (0) and high (1), in the scale that is drawn from."""
        low, high, at = (math.log(v) if self.is_log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)

    def widened(self, value: float) -> Range:
        """Return the range twice as wide towards the end that ``value`` is near, or as it is."""
        at = self.place(value)
        if NEAR <= at <= 1 - NEAR:
            return self
        if self.is_log:
            below, above = self.low * (self.low / self.high), self.high * (self.high / self.low)
        else:
            below, above = 2 * self.low - self.high, 2 * self.high - self.low
        if at < NEAR:
            return replace(self, low=max(below, self.least))
        return replace(self, high=min(above, self.most))


Space = Mapping[str, Range]


@dataclass(frozen=True)
class Trial:
    """Settings that were tried."""

    settings: Mapping[str, Any]
    f1: float  # macro, validation, the best of its evaluations
    iterations: int  # that it was let run


@dataclass(frozen=True)
class Found:
    """What a search found."""

    recipe: Recipe  # with the best settings
    rounds: tuple[tuple[Space, tuple[Trial, ...]], ...]  # the ranges searched, and the trials, best first

    @property
    def best(self) -> Trial:
        """The best trial of all rounds."""
        return max((trials[0] for _, trials in self.rounds), key=lambda trial: trial.f1)


def paper_space(recipe: Recipe) -> dict[str, Range]:
    """Return the ranges that a published network is searched in. Raises ConfigError for another network."""
    if recipe.network != "published" or recipe.options.get("name") not in TABLE_2:
        raise ConfigError(f"{recipe.name}: only networks of Table 2 of Reyes-Jainaga+ 2023 are searched")
    n_layers = sum(layer != POOL for layer in TABLE_2[recipe.options["name"]].layers)
    filters = Range(8, 128, 1, 1024, is_whole=True)
    return {
        **{f"filters_{i}": filters for i in range(n_layers)},
        "hidden": Range(8, 256, 2, 4096, is_whole=True),
        "learning_rate": Range(1e-4, 1e-2, 1e-6, 1.0),
        "dropout": Range(0.1, 0.9, 0.0, 0.99, is_log=False),
    }


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe with the settings of a trial."""
    n_layers = sum(name.startswith("filters_") for name in settings)
    options = {
        **recipe.options,
        "filters": [int(settings[f"filters_{i}"]) for i in range(n_layers)],
        "hidden": int(settings["hidden"]),
        "dropout": float(settings["dropout"]),
        "first_kernel": int(settings["first_kernel"]),
        "batch_norm": bool(settings["batch_norm"]),
    }
    return recipe.model_copy(update={"options": options, "learning_rate": float(settings["learning_rate"])})


def search(
    recipe: Recipe,
    examples: Examples,
    folder: Path,
    *,
    n_trials: int = 50,
    n_rounds: int = 3,
    n_processes: int = 1,
    seed: int = 0,
    space: Space | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Found:
    """Search the settings of a published network on ``examples``; Ray keeps its files in ``folder``.

    ``n_rounds``: at most so many searches of ``n_trials``, each after the first with wider ranges. With one
    process the same seed finds the same. Raises ConfigError for a network that is not in the paper, and what
    a trial raised.
    """
    ranges = dict(paper_space(recipe) if space is None else space)
    rounds: list[tuple[Space, tuple[Trial, ...]]] = []
    for number in range(n_rounds):
        trials = _round(recipe, examples, folder, ranges, n_trials, n_processes, seed + number, number)
        rounds.append((ranges, trials))
        found = Found(with_settings(recipe, trials[0].settings), tuple(rounds))
        best = found.best.settings
        wider = {name: limits.widened(best[name]) for name, limits in ranges.items()}
        changed = [name for name in ranges if wider[name] != ranges[name]]
        progress(f"round {number + 1}: F1 {found.best.f1:.4f}; near an end: {', '.join(changed) or 'none'}")
        if not changed:
            break
        ranges = wider
    return replace(found, recipe=with_settings(recipe, best))


def _round(
    recipe: Recipe,
    examples: Examples,
    folder: Path,
    space: Space,
    n_trials: int,
    n_processes: int,
    seed: int,
    number: int,
) -> tuple[Trial, ...]:
    """Return the trials of one search, best first."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    import ray
    from ray import tune
    from ray.tune.schedulers import AsyncHyperBandScheduler
    from ray.tune.search.hyperopt import HyperOptSearch

    was_running = ray.is_initialized()
    if not was_running:
        ray.init(num_cpus=n_processes, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        trainable = tune.with_resources(
            tune.with_parameters(_trial, recipe=recipe, examples=examples), {"cpu": 1}
        )
        patience = recipe.evaluate_every * recipe.patience
        scheduler = AsyncHyperBandScheduler(
            time_attr="iteration",
            max_t=recipe.iterations,
            grace_period=min(patience, recipe.iterations),
            reduction_factor=3,
        )
        config = tune.TuneConfig(
            metric="f1",
            mode="max",
            search_alg=HyperOptSearch(random_state_seed=seed),
            scheduler=scheduler,
            num_samples=n_trials,
            max_concurrent_trials=n_processes,
        )
        run = tune.RunConfig(name=f"{recipe.name}-{number}", storage_path=str(folder.resolve()), verbose=0)
        results = tune.Tuner(trainable, param_space=_drawn(space), tune_config=config, run_config=run).fit()
    finally:
        if not was_running:
            ray.shutdown()
    if results.errors:
        raise results.errors[0]
    trials = [
        Trial(result.config, float(result.metrics_dataframe["f1"].max()), int(result.metrics["iteration"]))
        for result in results
    ]
    return tuple(sorted(trials, key=lambda trial: trial.f1, reverse=True))


def _drawn(space: Space) -> dict[str, Any]:
    """Return what Ray Tune draws settings from."""
    from ray import tune

    draws: dict[tuple[bool, bool], Callable[..., Any]] = {
        (True, True): tune.lograndint, (True, False): tune.randint,
        (False, True): tune.loguniform, (False, False): tune.uniform,
    }  # fmt: skip
    numbers = {
        name: draws[r.is_whole, r.is_log](*((int(r.low), int(r.high) + 1) if r.is_whole else (r.low, r.high)))
        for name, r in space.items()
    }
    return {**numbers, "first_kernel": tune.choice([3, 5]), "batch_norm": tune.choice([False, True])}


def _trial(config: dict[str, Any], *, recipe: Recipe, examples: Examples) -> None:
    """Train one network in a process of Ray's, and report every evaluation."""
    from ray import tune

    def report(line: str) -> None:
        if found := _F1.search(line):
            tune.report({"iteration": int(found[1]), "f1": float(found[2])})

    parts = examples.parts(recipe.split_seed)
    train_member(with_settings(recipe, config), examples, parts, seed=recipe.seed, progress=report)


def write_found(found: Found, folder: Path) -> Path:
    """Write the best recipe (.toml) and all trials (.search.json); return the path of the recipe."""
    import tomli_w

    folder.mkdir(parents=True, exist_ok=True)
    name = f"{found.recipe.name}-searched"
    path = folder / f"{name}.toml"
    recipe = found.recipe.model_copy(update={"name": name})
    with replacing(path) as partial:
        partial.write_text(tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    rounds = [
        {"ranges": {n: asdict(r) for n, r in space.items()}, "trials": [asdict(t) for t in trials]}
        for space, trials in found.rounds
    ]
    with replacing(folder / f"{name}.search.json") as partial:
        partial.write_text(json.dumps(rounds, indent=1) + "\n", encoding="utf-8")
    return path


def main(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe of a published network, or a .toml.")],
    data: Annotated[list[Path], typer.Argument(help="Folders or files of labelled stamps.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write what was found.")],
    trials: Annotated[int, typer.Option(help="Settings to try in each round.")] = 50,
    rounds: Annotated[int, typer.Option(help="Searches at most, each with wider ranges.")] = 3,
    processes: Annotated[int, typer.Option(help="Trials at a time.")] = 1,
    iterations: Annotated[
        int | None, typer.Option(help="Of the longest trials; the recipe's if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
) -> None:
    """Search the settings of a published network, and write the recipe that was best on validation data."""
    chosen = load_recipe(recipe)
    if iterations is not None:
        chosen = chosen.model_copy(update={"iterations": iterations})
    examples = read_examples(data, chosen)
    found = search(
        chosen, examples, output, n_trials=trials, n_rounds=rounds, n_processes=processes, seed=seed,
        progress=typer.echo,
    )  # fmt: skip
    typer.echo(str(write_found(found, output)))


if __name__ == "__main__":
    typer.run(main)
