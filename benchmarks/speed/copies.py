"""Pixels to values and back, as multiples of a memory copy of the same bytes."""

from collections.abc import Callable

import numpy as np

from benchmarks.common import SEED
from benchmarks.speed.timing import cpu_seconds
from multiscale import Geometry, build_levels, pack, unpack

LAYOUTS = {"4x16": Geometry(16, 4), "4x8": Geometry(8, 4), "3x16": Geometry(16, 3)}
N_BYTES = 64 << 20  # of images, and of levels
BOTH = "1 % scattered + a row and a column"


def images(geometry: Geometry) -> dict[str, np.ndarray]:
    """Return the same batch of noise whole, and with invalid pixels of three patterns."""
    rng = np.random.default_rng(SEED)
    span = geometry.span_px
    clean = rng.normal(100, 10, (N_BYTES // (4 * span**2), span, span)).astype(np.float32)
    scattered, edge = clean.copy(), clean.copy()
    scattered[rng.random(clean.shape) < 0.01] = np.nan
    edge[:, -1], edge[:, :, -1] = np.nan, np.nan
    both = scattered.copy()
    both[:, -1], both[:, :, -1] = np.nan, np.nan
    return {"clean": clean, "1 % scattered": scattered, "a row and a column": edge, BOTH: both}


def encode(stack: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the sent values: clean, build, compare, pack."""
    middle = geometry.span_px / 2 - 1
    return pack(build_levels(stack, geometry, x=middle, y=middle), geometry)


def copies(*, rounds: int) -> dict[str, list[float]]:
    """Return how many copies of the input (unpack: of the output) each took, by layout, pattern and round."""
    out: dict[str, list[float]] = {}
    for layout, geometry in LAYOUTS.items():
        stacks = images(geometry)
        few = encode(stacks["clean"], geometry)
        values = np.tile(few, (N_BYTES // (4 * geometry.n_pixels * len(few)) + 1, 1))
        levels = unpack(values, geometry)
        runs: dict[str, tuple[Callable[[], object], int]] = {
            name: (lambda s=stack, g=geometry: encode(s, g), 1) for name, stack in stacks.items()
        }
        runs |= {
            "copy": (stacks["clean"].copy, 1),
            "unpack": (lambda v=values, g=geometry: unpack(v, g), 1),
            "copy of levels": (levels.copy, 1),
        }
        seconds = cpu_seconds(runs, rounds=rounds)
        for name, times in seconds.items():
            if name.startswith("copy"):
                continue
            copy = float(np.median(seconds["copy of levels" if name == "unpack" else "copy"]))
            label = f"{layout} unpack" if name == "unpack" else f"{layout} build_levels + pack, {name}"
            out[label] = [t / copy for t in times]
    return out
