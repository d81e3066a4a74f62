"""Stamps a second on the CPU, beside decoding alone: `python -m benchmarks.classification speed`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.classification.judged import about
from benchmarks.classification.real_stamps import real_stamps, recut
from benchmarks.common import Requirement, at_least, at_most, save
from multiscale import Geometry, decode_batch
from reference_pipeline.classify.card import shipped_cards
from reference_pipeline.classify.inference import Classifier, load_classifier

QUESTION = "classification/speed"
N_THREADS = 2
N_ALERTS = 40_000
MOST_SECONDS = 39.0  # a visit of LSST's
PUBLISHED = (
    2223.0  # stamps/s: the paper's multi-scale network rebuilt in torch, 8 views, 2 threads (PEERS.md)
)
ENCODINGS = ("raw", "rice")


def measure(paths: list[Path], models: list[str], *, full: bool) -> list[Requirement]:
    """Time every shipped model (or those named), print and save. Stamps are real ones, cut for each model."""
    del paths
    names = models or list(shipped_cards())
    loaded = [load_classifier(name, n_threads=N_THREADS) for name in names]
    if not loaded:
        raise SystemExit("no model is shipped; name one (--models)")
    rounds = 5 if full else 3
    results: dict[str, Any] = {}
    requirements = []
    for classifier in loaded:
        card = classifier.card
        found = timed(classifier, rounds=rounds)
        results[card.name] = {"model": about(card), "input": list(card.shape), **found}
        print(f"{card.name}: {found}")
        if card.task != "clouds" and (card.size, card.n_levels) == (8, 4):
            rate = found["network_per_s"]
            requirements += [
                at_least(f"{card.name}: network alone", rate, PUBLISHED, " /s"),
                at_most(
                    f"{card.name}: 40,000 alerts, decoding too",
                    found["raw"]["seconds_40000"],
                    MOST_SECONDS,
                    " s",
                ),
            ]
    both = together(loaded)
    if both is not None:
        requirements.append(at_most("score and six classes, 40,000 alerts", both, MOST_SECONDS, " s"))
    out = {"threads": N_THREADS, "models": results, "score_and_classes_seconds_40000": both}
    save(QUESTION, out, requirements, full=full)
    return requirements


def timed(classifier: Classifier, *, rounds: int) -> dict[str, Any]:
    """Rates of the network alone, and of packets: decoding alone, and decoding with what is said."""
    card = classifier.card
    n = 2048 if np.prod(card.shape) < 4096 else 256
    rng = np.random.default_rng(1)
    stamps = rng.normal(size=(n, *card.shape)).astype(np.float32)
    place = rng.normal(size=(n, 3)).astype(np.float32) if card.uses_position else None
    network = best(lambda: classifier.logits(stamps, place), rounds)
    out: dict[str, Any] = {"network_per_s": round(n / network, 1)}
    if card.task == "clouds" or card.size % 4 or card.recipe.get("layout") in ("whole", "low-resolution"):
        return out  # no packet holds its input
    for encoding in ENCODINGS:
        records = packets(classifier, n, encoding)
        decoded = best(lambda r=records: decode_batch(r), rounds)
        said = best(lambda r=records: classifier.classify(r), rounds)
        verdicts = classifier.classify(records)
        assert verdicts.is_classified.all(), verdicts.refused
        out[encoding] = {
            "decode_per_s": round(n / decoded, 1), "classify_per_s": round(n / said, 1),
            "times_decoding": round(said / decoded, 3), "seconds_40000": round(said / n * N_ALERTS, 2),
        }  # fmt: skip
    return out


def packets(classifier: Classifier, n: int, encoding: str) -> list[dict[str, Any]]:
    """Real stamps in the model's layout, again and again up to ``n``."""
    card = classifier.card
    stamps = real_stamps()[0][:512]
    geometry = Geometry(card.size, card.n_levels, float(np.mean(card.pixel_scale)))
    records = recut(stamps, geometry, card.planes, encoding=encoding)
    return [records[i % len(records)] for i in range(n)]


def together(loaded: list[Classifier]) -> float | None:
    """Seconds for 40,000 packets of 4×8 to get a score and six probabilities, all of them gone through."""
    fit = {
        c.card.task: c
        for c in reversed(loaded)
        if (c.card.size, c.card.n_levels) == (8, 4) and "ztf" in c.card.surveys
    }
    if not {"stamps", "real-bogus"} <= set(fit):
        return None
    records = packets(fit["stamps"], N_ALERTS, "raw")
    begin = time.perf_counter()
    for task in ("real-bogus", "stamps"):
        fit[task].classify(records)
    return round(time.perf_counter() - begin, 2)


def best(call: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest of some rounds: what else the machine does can only make it slower."""
    call()
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
