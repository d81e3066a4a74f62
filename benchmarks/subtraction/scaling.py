"""Cost from 2048² to the whole chip of AST3-3: `python -m benchmarks.subtraction.scaling [--full]`.

The subtraction in parts as the full-resolution branch takes it (Sun+ 2022: about 3072 x 4096 pixels each):
kernel, difference, whitening, score. Each size runs in a process of its own; its peak memory is that of the
process, both frames and all of the result included. Frames are copies of one simulated field of 1024² beside
each other. `--full` ends with 14206 x 10654 pixels, which takes minutes.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np

from benchmarks.common import SEED, Requirement, at_most, save
from benchmarks.subtraction.pairs import SKY, star_pair

SIZES = ((2048, 2048), (3552, 4736), (10654, 14206))  # (ny, nx)
PART = (3072, 4096)
SIDE = 1024  # of the field that is repeated
GIB = 2**30


def repeated(light: np.ndarray, shape: tuple[int, int], name: str):
    """Return a frame of ``shape`` made of copies of a field: its sources and its PSF are the field's."""
    from astropy.table import vstack

    from reference_pipeline.config import PsfFit, Sources
    from reference_pipeline.frame import Exposure, Frame
    from reference_pipeline.psf import Psf
    from reference_pipeline.reduce.psf import fit_psf
    from reference_pipeline.reduce.sources import find_sources

    data = light + np.float32(SKY)
    variance = np.maximum(data, SKY).astype(np.float32)
    exposure = Exposure(name, "none", "science", 60000.0, 60.0, "g")
    field = Frame(exposure, data, variance, np.zeros(data.shape, np.uint16))
    field = fit_psf(find_sources(field, config=Sources()), config=PsfFit())
    ny, nx = shape
    planes = {key: np.empty(shape, getattr(field, key).dtype) for key in ("data", "variance", "background")}
    tables = []
    for top in range(0, ny, SIDE):
        for left in range(0, nx, SIDE):
            height, width = min(SIDE, ny - top), min(SIDE, nx - left)
            for key, plane in planes.items():
                plane[top : top + height, left : left + width] = getattr(field, key)[:height, :width]
            table = field.sources.copy()
            table = table[(np.asarray(table["x"]) < width - 1) & (np.asarray(table["y"]) < height - 1)]
            table["x"] += left
            table["y"] += top
            tables.append(table)
    psf = Psf(field.psf.at(SIDE / 2, SIDE / 2)[None], 0, field.psf.oversampling, shape)
    sources = vstack(tables, metadata_conflicts="silent")
    return replace(field, **planes, mask=np.zeros(shape, np.uint16), sources=sources, psf=psf)


def one(shape: tuple[int, int]) -> dict:
    """Measure one size in this process."""
    from reference_pipeline.config import Subtract
    from reference_pipeline.subtract.parts import subtract_in_parts

    target, image, _ = star_pair((SIDE, SIDE), SEED, varying=False)
    science, template = repeated(target, shape, "science"), repeated(image, shape, "template")
    before = peak()
    began, cpu = time.perf_counter(), time.process_time()
    difference = subtract_in_parts(science, template, config=Subtract(), tile=PART)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    score = difference.score[::3, ::3]
    megapixels = shape[0] * shape[1] / 1e6
    return {
        "shape": list(shape), "seconds": seconds, "cpu_s": cpu, "cpu_s_per_megapixel": cpu / megapixels,
        "peak_gib": peak(), "frames_gib": before, "known": float(np.isfinite(score).mean()),
        "score_sigma": 1.4826 * float(np.nanmedian(np.abs(score))), "load": os.getloadavg()[0],
    }  # fmt: skip


def peak() -> float:
    """The most memory this process has held, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def measure(*, full: bool = False) -> list[Requirement]:
    """Measure all sizes, print, save; return the requirements."""
    rows = []
    for shape in SIZES if full else SIZES[:2]:
        command = [sys.executable, "-m", __spec__.name, "--one", *map(str, shape)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"{shape[1]:6} x {shape[0]:5}  {row['seconds']:7.1f} s, {row['cpu_s']:7.1f} CPU s "
            f"({row['cpu_s_per_megapixel']:.2f} a million pixels)  {row['peak_gib']:.2f} GiB, of them frames "
            f"{row['frames_gib']:.2f}; sigma of the score {row['score_sigma']:.3f}",
            flush=True,
        )
    costs = [row["cpu_s_per_megapixel"] for row in rows]
    requirements = [at_most("CPU a pixel, largest over smallest frame", costs[-1] / costs[0], 1.5)]
    if full:
        requirements.append(at_most("14206 x 10654: peak memory", rows[-1]["peak_gib"], 8, " GiB"))
    save(
        "subtraction/scaling", {"simulated": True, "part": list(PART), "rows": rows}, requirements, full=full
    )
    return requirements


def main() -> None:
    """Measure one size for the process that asks, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--full", action="store_true", help="up to 14206 x 10654 pixels")
    parser.add_argument("--one", nargs=2, type=int, metavar=("NY", "NX"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(tuple(asked.one))))
        return
    measure(full=asked.full)


if __name__ == "__main__":
    main()
