"""How long things take on one core, in turns, so that what else the machine does falls on all alike."""

import gc
import time
from collections.abc import Callable

import numpy as np

LEAST_SECONDS = 0.05  # of one turn: a shorter run is repeated, so that caches are those of steady work


def cpu_seconds(runs: dict[str, tuple[Callable[[], object], int]], *, rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds per item of each run, one number a round; the runs take turns.

    ``runs``: what to call, and how many items a call works on. What was made before (the inputs) is out
    of the garbage collector's sight, and every turn begins without garbage of another's.
    """
    gc.collect()
    gc.freeze()
    try:
        repeats = {}
        for name, (call, _) in runs.items():
            call()  # warm
            begin = time.process_time()
            call()
            repeats[name] = 1 + int(LEAST_SECONDS / max(time.process_time() - begin, 1e-6))
        out: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, (call, n_items) in runs.items():
                gc.collect()
                begin = time.process_time()
                for _ in range(repeats[name]):
                    call()
                out[name].append((time.process_time() - begin) / repeats[name] / n_items)
        return out
    finally:
        gc.unfreeze()


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of each run's rounds."""
    return {name: float(np.median(values)) for name, values in seconds.items()}
