"""A peak LSST visit: 40,000 alerts of three planes encoded, serialised and validated by two processes.

Encoding is ``encode_cutouts`` at positions of a simulated detector image, background and noise of every
footprint included. Serialising makes the Avro body of each record. Validating is what a receiver does:
Avro bytes to levels with every field, payload and CRC checked. Making the image is not timed.
"""

import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from benchmarks.common import SEED
from multiscale import Geometry, Placement, decode_batch, encode_cutouts
from multiscale.avro import Schema, decode_body, encode_body
from multiscale.schema import load_schema

N_ALERTS = 40_000
N_PROCESSES = 2
N_AT_A_TIME = 250  # alerts of one detector
SIDE = 2000  # pixels of the simulated detector
SIGMA = 30.0  # nJy, of the difference
LAYOUTS: dict[str, tuple[Geometry, str, dict[str, float] | None]] = {
    "4x8 RAW": (Geometry(8, 4), "raw", None),
    "4x8 RICE": (Geometry(8, 4), "rice", None),
    "3x16 RAW": (Geometry(16, 3), "raw", None),
    "3x16 RICE": (Geometry(16, 3), "rice", None),
    "4x16 RAW": (Geometry(16, 4), "raw", None),
    "4x16 RICE": (Geometry(16, 4), "rice", None),
    "4x16 RICE, noise of the frame given": (
        Geometry(16, 4),
        "rice",
        {"science": SIGMA, "template": SIGMA / 4, "difference": SIGMA},
    ),
}
STAGES = ("encode", "serialise", "validate")


def detector(seed: int) -> dict[str, np.ndarray]:
    """Return science, template and difference of a simulated detector: noise and point sources, nJy."""
    rng = np.random.default_rng(seed)
    template = rng.normal(500, SIGMA / 4, (SIDE, SIDE)).astype(np.float32)
    difference = rng.normal(0, SIGMA, (SIDE, SIDE)).astype(np.float32)
    ys, xs = rng.integers(10, SIDE - 10, (2, 4000))
    difference[ys, xs] += rng.exponential(40 * SIGMA, ys.size).astype(np.float32)
    return {"science": template + difference, "template": template, "difference": difference}


def work(layout: str, n_alerts: int, seed: int) -> dict[str, dict[str, float] | float]:
    """Do ``n_alerts`` of one layout; return the wall and CPU seconds of each stage, and bytes an alert."""
    geometry, encoding, sigma = LAYOUTS[layout]
    planes = detector(seed)
    rng = np.random.default_rng(seed + 1)
    schema = Schema.of(load_schema("multiscale.Cutout"))
    wall, cpu = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0)
    n_bytes = 0
    for _ in range(n_alerts // N_AT_A_TIME):
        placements = [Placement.at(*rng.uniform(0, SIDE, 2)) for _ in range(N_AT_A_TIME)]
        times = [(time.perf_counter(), time.process_time())]
        cutouts = encode_cutouts(
            planes,
            geometry,
            placements,
            encoding=encoding,
            sigma=sigma,
            units="nJy",
            clipped_by="DETECTOR",
        )
        times.append((time.perf_counter(), time.process_time()))
        bodies = [encode_body(schema, cutout.to_record()) for cutout in cutouts]
        times.append((time.perf_counter(), time.process_time()))
        batch = decode_batch([decode_body(schema, body) for body in bodies])
        times.append((time.perf_counter(), time.process_time()))
        if sum(len(group.indices) for group in batch) != N_AT_A_TIME:
            raise RuntimeError("a packet of our own was refused")
        for stage, (w0, c0), (w1, c1) in zip(STAGES, times, times[1:]):
            wall[stage] += w1 - w0
            cpu[stage] += c1 - c0
        n_bytes += sum(map(len, bodies))
    return {"wall": wall, "cpu": cpu, "bytes": n_bytes / n_alerts}


def peak_visit(n_alerts: int) -> dict[str, dict]:
    """Return for each layout what a visit takes, the slower of the two processes, scaled to 40,000 alerts."""
    scale = N_ALERTS / n_alerts
    out = {}
    with ProcessPoolExecutor(N_PROCESSES) as pool:
        seeds = [SEED + i for i in range(N_PROCESSES)]
        list(pool.map(work, *zip(*[("4x8 RAW", N_AT_A_TIME, seed) for seed in seeds], strict=True)))  # warm
        for layout in LAYOUTS:
            jobs = [(layout, n_alerts // N_PROCESSES, seed) for seed in seeds]
            parts = list(pool.map(work, *zip(*jobs, strict=True)))
            out[layout] = {
                "bytes": parts[0]["bytes"],
                **{
                    kind: {stage: scale * max(part[kind][stage] for part in parts) for stage in STAGES}
                    for kind in ("wall", "cpu")
                },
                **{
                    f"{kind}_seconds": scale * max(sum(part[kind].values()) for part in parts)
                    for kind in ("wall", "cpu")
                },
            }
    return out
