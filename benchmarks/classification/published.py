"""The published stamp classifiers on simulated stamps: `python -m benchmarks.classification.published`.

Every network of Table 2 of Reyes-Jainaga+ 2023, both readings, from recipes; each run of a network and a seed
is kept in --work, so that a stopped run goes on. Without --full the runs are shortened (SHORT), because a CPU
trains the full one at some ten stamps a second.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import Requirement, save
from reference_pipeline.classify.dataset import Examples, read_examples
from reference_pipeline.classify.metrics import (
    accuracy,
    bootstrap,
    bootstrap_difference,
    class_scores,
    confusion,
)
from reference_pipeline.classify.networks.build import build, n_parameters
from reference_pipeline.classify.networks.published import TABLE_2
from reference_pipeline.classify.recipe import Recipe, load_recipe
from reference_pipeline.classify.training import TEST, Member, logits_of, train_member

QUESTION = "classification/published"
PAPER_F1 = {"full": 86.68, "cropped": 86.19, "low-resolution": 82.69, "multi-scale": 87.39}  # real alerts
PEER = {
    "full": 77,
    "cropped": 371,
    "low-resolution": 646,
    "multi-scale": 2223,
}  # stamps/s, PEERS.md section 4

#: Shortened: (seeds, batch, iterations, evaluated every).
SHORT: dict[str, tuple[int, int, int, int]] = {
    "multi-scale-a": (3, 128, 300, 50),
    "multi-scale-b": (3, 128, 300, 50),
    "cropped": (3, 64, 150, 50),
    "low-resolution-a": (1, 64, 200, 50),
    "low-resolution-b": (1, 64, 200, 50),
    "full": (1, 48, 40, 20),
}
N_SEEDS = 5  # in full


def scenario(name: str) -> str:
    """The paper's name of a layout."""
    return name.removesuffix("-a").removesuffix("-b")


def recipe_of(name: str, *, full: bool) -> tuple[Recipe, int]:
    """Return the recipe of a network, shortened or not, and how many seeds it gets."""
    recipe = load_recipe(f"published-{name}")
    if full:
        return recipe, N_SEEDS
    n_seeds, batch, iterations, every = SHORT[name]
    changed = {"batch_size": batch, "iterations": iterations, "evaluate_every": every, "patience": 1000}
    return recipe.model_copy(update=changed), n_seeds


def train(recipe: Recipe, examples: Examples, seed: int, *, n_threads: int) -> dict:
    """Train one network and return what it says of the test stamps, and how it came to it."""
    parts = examples.parts(recipe.split_seed)
    before = time.process_time()
    member = train_member(recipe, examples, parts, seed=seed, n_threads=n_threads, progress=print)
    rows = np.flatnonzero(parts == TEST)
    logits = logits_of(member.network, examples, rows)
    return {
        "seed": seed,
        "n_parameters": n_parameters(member.network),
        "cpu_seconds": round(time.process_time() - before, 1),
        **course(member),
        "truth": examples.labels[rows].tolist(),
        "said": logits.argmax(axis=1).tolist(),
        "groups": examples.groups[rows].tolist(),
        "counts": [np.bincount(examples.labels[parts == p], minlength=6).tolist() for p in range(3)],
    }


def course(member: Member) -> dict:
    """How a training went."""
    return {
        "iterations": member.steps[-1].iteration,
        "kept": member.best.iteration,
        "validation_f1": round(member.best.f1, 4),
        "steps": [[s.iteration, round(s.loss, 4), round(s.f1, 4)] for s in member.steps],
    }


def scored(runs: list[dict]) -> dict:
    """Scores of a network over its seeds; intervals are of the first seed, over groups of stamps."""
    tables = [confusion(run["truth"], run["said"], 6) for run in runs]
    scores = [class_scores(table) for table in tables]
    f1 = np.array([score.macro_f1 for score in scores])
    found = bootstrap(macro_f1_of(runs[0]), runs[0]["groups"], n_draws=500)
    return {
        "n_parameters": runs[0]["n_parameters"],
        "test_macro_f1": [round(float(v), 4) for v in f1],
        "mean": round(float(f1.mean()), 4),
        "std": round(float(f1.std(ddof=1)), 4) if len(f1) > 1 else None,
        "interval_of_first_seed": [round(found.low, 4), round(found.high, 4)],
        "accuracy": [round(accuracy(table), 4) for table in tables],
        "precision": np.round(np.mean([s.precision for s in scores], axis=0), 3).tolist(),
        "recall": np.round(np.mean([s.recall for s in scores], axis=0), 3).tolist(),
        "confusion_of_all_seeds": np.sum(tables, axis=0).tolist(),
        "runs": [
            {k: run[k] for k in ("seed", "iterations", "kept", "validation_f1", "cpu_seconds")}
            for run in runs
        ],
        "steps_of_first_seed": runs[0]["steps"],
    }


def macro_f1_of(run: dict):
    """Return the statistic that a bootstrap draws: macro F1 of some rows."""
    truth, said = np.array(run["truth"]), np.array(run["said"])
    return lambda rows: class_scores(confusion(truth[rows], said[rows], 6)).macro_f1


def compared(runs: dict[str, list[dict]]) -> list[dict]:
    """Return how the first seeds differ from the multi-scale network's on the same test stamps."""
    out = []
    first = runs.get("multi-scale-a")
    for name, other in runs.items():
        if first is None or name == "multi-scale-a" or first[0]["truth"] != other[0]["truth"]:
            continue
        found = bootstrap_difference(
            macro_f1_of(first[0]), macro_f1_of(other[0]), first[0]["groups"], n_draws=500
        )
        out.append({
            "first": "multi-scale-a", "second": name,
            "macro_f1_difference": [round(v, 4) for v in (found.value, found.low, found.high)],
        })  # fmt: skip
    return out


def speeds(name: str, *, n_threads: int, folder: Path) -> dict:
    """Stamps a second in torch and in ONNX Runtime, by the clock and by the processor's time."""
    import onnxruntime

    recipe = load_recipe(f"published-{name}")
    torch.manual_seed(0)
    network = build(recipe).eval()
    n = 32 if name == "full" else 256
    shape = (n, 6, recipe.n_levels, recipe.size, recipe.size)
    stamps, position = torch.randn(shape), torch.nn.functional.normalize(torch.randn(n, 3), dim=1)
    path = folder / f"{name}.onnx"
    rows = torch.export.Dim("n")
    torch.onnx.export(
        network, (stamps, position), path, input_names=["stamps", "position"], output_names=["logits"],
        dynamic_shapes={"stamps": {0: rows}, "position": {0: rows}}, dynamo=True, external_data=False,
    )  # fmt: skip
    feed = {"stamps": stamps.numpy(), "position": position.numpy()}
    out: dict[str, float] = {}
    for threads in {1, n_threads}:
        torch.set_num_threads(threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        with torch.inference_mode():
            expected = network(stamps, position).numpy()
            np.testing.assert_allclose(session.run(None, feed)[0], expected, rtol=0, atol=1e-5)
            for kind, call in (
                ("torch", lambda: network(stamps, position)),
                ("onnx", lambda s=session: s.run(None, feed)),
            ):
                clock = min(seconds(call, time.perf_counter) for _ in range(3))
                out[f"{kind}_{threads}_threads"] = round(n / clock, 1)
                if threads == 1:
                    out[f"{kind}_per_cpu_second"] = round(
                        n / min(seconds(call, time.process_time) for _ in range(3)), 1
                    )
    return out


def seconds(call, clock) -> float:
    """How long ``call`` takes by ``clock``."""
    begin = clock()
    call()
    return clock() - begin


def main(words: list[str] | None = None) -> int:
    """Train what is not trained yet, measure speeds, save and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of labelled stamps")
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--networks", nargs="+", default=list(SHORT), choices=list(TABLE_2))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["train", "speed", "save"], help="one part; all if left out")
    parser.add_argument("--full", action="store_true", help="as published: no run is shortened; for a GPU")
    given = parser.parse_args(words)
    given.work.mkdir(parents=True, exist_ok=True)
    parts = [given.only] if given.only else ["train", "speed", "save"]
    if "train" in parts:
        train_all(given)
    if "speed" in parts:
        found = {name: speeds(name, n_threads=given.threads, folder=given.work) for name in given.networks}
        (given.work / "speed.json").write_text(json.dumps({"load": os.getloadavg()[0], "rates": found}))
        print(json.dumps(found, indent=1))
    if "save" in parts:
        save_all(given)
    return 0


def train_all(given: argparse.Namespace) -> None:
    """Train every network and seed whose run is not there; the first seeds first."""
    recipes = {name: recipe_of(name, full=given.full) for name in given.networks}
    read: dict[tuple, Examples] = {}
    for i in range(N_SEEDS):
        for name, (recipe, n_seeds) in recipes.items():
            path = given.work / f"{name}-{recipe.seed + i}.json"
            if i >= n_seeds or path.is_file():
                continue
            layout = (recipe.layout, recipe.size, recipe.n_levels)
            if layout not in read:
                read[layout] = read_examples(given.data, recipe)
            run = train(recipe, read[layout], recipe.seed + i, n_threads=given.threads)
            path.write_text(json.dumps(run))


def save_all(given: argparse.Namespace) -> None:
    """Score the runs that are there and write the results."""
    runs = {
        name: found
        for name in given.networks
        if (found := [json.loads(p.read_text()) for p in sorted(given.work.glob(f"{name}-[0-9].json"))])
    }
    recipes = {name: recipe_of(name, full=given.full)[0] for name in runs}
    speed = given.work / "speed.json"
    results = {
        name: {
            "paper_macro_f1_real_alerts": PAPER_F1[scenario(name)],
            "batch_size": recipes[name].batch_size,
            "most_iterations": recipes[name].iterations,
            **scored(of),
        }
        for name, of in runs.items()
    }
    a_run = next(iter(runs.values()))[0]
    out = {
        "simulated": True,
        "shortened": not given.full,
        "classes": recipes[next(iter(runs))].classes,
        "stamps": dict(zip(("training", "validation", "test"), a_run["counts"])),
        "networks": results,
        "differences": compared(runs),
        "speed": json.loads(speed.read_text()) if speed.is_file() else None,
        "speed_of_peers_2_threads": PEER,
    }
    for name, result in results.items():
        print(f"{name}: macro F1 {result['test_macro_f1']} (simulated{'' if given.full else ', shortened'})")
    ours = [
        Requirement(
            f"{name}: parameters", f"= {TABLE_2[name].n_parameters:,}", f"{result['n_parameters']:,}",
            result["n_parameters"] == TABLE_2[name].n_parameters,
        )
        for name, result in results.items()
    ]  # fmt: skip
    save(QUESTION, out, ours, full=given.full)


if __name__ == "__main__":
    sys.exit(main())
