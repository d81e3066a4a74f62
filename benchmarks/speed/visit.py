"""A peak LSST visit: 40,000 alerts encoded, serialised and validated on two cores.

A simulated detector holds the positions (189 detectors share the visit); each process cuts the stamps of its
detections out of science, template and difference, encodes them, writes Avro bodies, and then, as a validator
would, decodes every body with all checks: fields, payloads, checksums, levels. The simulation is not timed.
"""

import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from multiscale import Geometry, Placement, decode_batch, encode_cutouts
from multiscale.avro import Schema, decode_body, encode_body
from multiscale.schema import load_schema

N_ALERTS = 40_000
N_PROCESSES = 2
N_AT_A_TIME = 250  # alerts of one detector
SIDE = 2000  # pixels of the simulated detector
SIGMA = 30.0
LAYOUTS = {
    "4x8 RAW": (Geometry(8, 4, 0.2), "raw"),
    "4x8 RICE": (Geometry(8, 4, 0.2), "rice"),
    "3x16 RICE": (Geometry(16, 3, 0.2), "rice"),
    "4x16 RAW": (Geometry(16, 4, 0.2), "raw"),
    "4x16 RICE": (Geometry(16, 4, 0.2), "rice"),
}


def detector(seed: int) -> dict[str, np.ndarray]:
    """Return science, template and difference of a simulated detector: noise and point sources, nJy."""
    rng = np.random.default_rng(seed)
    template = rng.normal(500, SIGMA / 4, (SIDE, SIDE)).astype(np.float32)
    difference = rng.normal(0, SIGMA, (SIDE, SIDE)).astype(np.float32)
    ys, xs = rng.integers(10, SIDE - 10, (2, 4000))
    difference[ys, xs] += rng.exponential(40 * SIGMA, ys.size).astype(np.float32)
    return {"science": template + difference, "template": template, "difference": difference}


def work(layout: str, n_alerts: int, seed: int) -> dict[str, float]:
    """Do ``n_alerts`` of one layout; return the seconds of each stage and the mean size of a body."""
    geometry, encoding = LAYOUTS[layout]
    planes = detector(seed)
    rng = np.random.default_rng(seed + 1)
    schema = Schema.of(load_schema("multiscale.Cutout"))
    taken = {"encode": 0.0, "serialise": 0.0, "validate": 0.0}
    n_bytes = 0
    for _ in range(n_alerts // N_AT_A_TIME):
        placements = [Placement.at(*rng.uniform(0, SIDE, 2)) for _ in range(N_AT_A_TIME)]
        t0 = time.perf_counter()
        cutouts = encode_cutouts(
            planes, geometry, placements, encoding=encoding, units="nJy", clipped_by="DETECTOR"
        )
        t1 = time.perf_counter()
        bodies = [encode_body(schema, cutout.to_record()) for cutout in cutouts]
        t2 = time.perf_counter()
        batch = decode_batch([decode_body(schema, body) for body in bodies])
        t3 = time.perf_counter()
        if sum(len(group.indices) for group in batch) != N_AT_A_TIME:
            raise RuntimeError("a packet of our own was refused")
        for stage, seconds in zip(taken, (t1 - t0, t2 - t1, t3 - t2), strict=True):
            taken[stage] += seconds
        n_bytes += sum(map(len, bodies))
    return {**taken, "bytes": n_bytes / n_alerts}


def peak_visit() -> dict:
    """Return the seconds that a peak visit takes in each layout, and where they go."""
    out: dict = {"seconds": {}, "stages": {}}
    print(
        f"\na peak LSST visit, {N_ALERTS:,} alerts of three planes, statistics measured, "
        f"{N_PROCESSES} processes"
    )
    print(f"  {'layout':12} {'seconds':>8}   of each process: encode, serialise, validate   bytes")
    with ProcessPoolExecutor(N_PROCESSES) as pool:
        list(pool.map(work, *zip(*[("4x8 RAW", N_AT_A_TIME, s) for s in range(N_PROCESSES)], strict=True)))
        for layout in LAYOUTS:
            share = N_ALERTS // N_PROCESSES
            jobs = [(layout, share, seed) for seed in range(N_PROCESSES)]
            parts = list(pool.map(work, *zip(*jobs, strict=True)))
            stages = {name: max(part[name] for part in parts) for name in ("encode", "serialise", "validate")}
            seconds = max(sum(part[name] for name in stages) for part in parts)
            out["seconds"][layout] = seconds
            out["stages"][layout] = {**stages, "bytes": parts[0]["bytes"]}
            shown = "  ".join(f"{value:5.2f}" for value in stages.values())
            print(f"  {layout:12} {seconds:8.2f}   {shown:>30} {parts[0]['bytes']:>18,.0f}")
    return out
