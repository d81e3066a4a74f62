"""Fit and apply, beside sfft 1.7.3's CPU backend, in one run: `python -m benchmarks.subtraction.speed`.

Every case runs in a process of its own on one core or two, its peak memory is that of the process, libraries
and images included. Times are the core's own on one core (other work on the machine does not count), those of
the clock on two. Kernel and background are of degree 2 throughout. Ours runs three times and the fastest
counts, sfft once, its compilation apart. What is left in the difference, over the noise of the target's sky,
is measured away from the edges for all alike. `--full` takes 2048² and 4096² too, sfft only at 1024².
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np

from benchmarks.common import ROOT, SEED, at_least, at_most, save
from benchmarks.subtraction.pairs import SKY, star_pair

WIDTHS = (6, 8, 10)
OURS = ("fourier, as sfft", "fourier", "stamps")
SFFT = "sfft 1.7.3"
ROUNDS = 3
N_STAMPS = 200
DEGREE = 2


def one(candidate: str, size: int, width: int) -> dict:
    """Measure one case in this process."""
    target, image, stars = star_pair((size, size), SEED)
    before = peak()
    run = {SFFT: with_sfft, "stamps": with_stamps}.get(candidate, with_fourier)
    seconds, difference = run(candidate, target, image, stars, width)
    inner = difference[32:-32, 32:-32]
    noise = 1.4826 * float(np.median(np.abs(inner - np.median(inner))))
    best = min(seconds, key=sum)
    return {
        "candidate": candidate, "size": size, "width": width, "threads": int(os.environ["OMP_NUM_THREADS"]),
        "fit_s": best[0], "apply_s": best[1], "all_s": [round(sum(s), 3) for s in seconds],
        "peak_mib": peak(), "before_mib": before, "sky_noise": noise / np.sqrt(SKY),
        "load": os.getloadavg()[0],
    }  # fmt: skip


def with_fourier(candidate, target, image, stars, width):
    from reference_pipeline.subtract.apply import likeness
    from reference_pipeline.subtract.fit_fourier import fit_fourier
    from reference_pipeline.subtract.kernel import Basis

    basis, good = Basis(width, DEGREE, 0, DEGREE), np.ones(image.shape, bool)
    options = {"rounds": 0} if candidate.endswith("as sfft") else {}

    def fit():
        return fit_fourier(target, image, good, basis, **options).coefficients

    return timed(fit, lambda found: target - likeness(image, basis.kernel(found, image.shape)))


def with_stamps(candidate, target, image, stars, width):
    from reference_pipeline.subtract.apply import likeness
    from reference_pipeline.subtract.fit_stamps import fit_stamps, stamp_equations
    from reference_pipeline.subtract.kernel import Basis

    basis, good = Basis(width, DEGREE, 0, DEGREE), np.ones(image.shape, bool)
    half = width + 4
    margin = half + width + 1
    x, y = np.rint(stars[:, :2]).astype(int).T
    ny, nx = image.shape
    inside = (x >= margin) & (x < nx - margin) & (y >= margin) & (y < ny - margin)
    rows = np.flatnonzero(inside)
    rows = rows[np.argsort(-stars[rows, 2])][:N_STAMPS]
    variance = np.full(image.shape, SKY, np.float32)

    def fit():
        stamps = stamp_equations(
            target, image, variance, variance, good, x[rows], y[rows], half=half, half_width=width
        )
        return fit_stamps(stamps, basis, image.shape).coefficients

    return timed(fit, lambda found: target - likeness(image, basis.kernel(found, image.shape)))


def with_sfft(candidate, target, image, stars, width):
    from sfft.sfftcore.SFFTConfigure import SingleSFFTConfigure
    from sfft.sfftcore.SFFTSubtract import ElementalSFFTSubtract

    n = int(os.environ["OMP_NUM_THREADS"])
    settings = {"BACKEND_4SUBTRACT": "Numpy", "NUM_CPU_THREADS_4SUBTRACT": n, "VERBOSE_LEVEL": 0}
    made = SingleSFFTConfigure.SSC(
        NX=image.shape[0], NY=image.shape[1], KerHW=width, KerPolyOrder=DEGREE, BGPolyOrder=DEGREE,
        ConstPhotRatio=True, NUMBA_CACHE=False, **settings,
    )  # fmt: skip
    begin = now()
    _, difference = ElementalSFFTSubtract.ESS(
        PixA_I=image.astype(float), PixA_J=target.astype(float), SFFTConfig=made, SFFTSolution=None,
        Subtract=True, **settings,
    )  # fmt: skip
    return [(now() - begin, 0.0)], difference


def timed(fit, apply):
    seconds = []
    for _ in range(ROUNDS):
        begin = now()
        found = fit()
        middle = now()
        difference = apply(found)
        seconds.append((middle - begin, now() - middle))
    return seconds, difference


def now() -> float:
    return time.process_time() if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter()


def peak() -> float:
    """The most memory this process has held, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
CHILD = """
import json, os, sys, benchmarks  # which allows one thread
os.environ.update(dict.fromkeys(sys.argv[5].split(","), sys.argv[4]))
from benchmarks.subtraction.speed import one
print(json.dumps(one(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
"""


def in_process(candidate: str, size: int, width: int, threads: int) -> dict:
    """Measure one case in a process of its own that has ``threads`` cores."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    words = [candidate, str(size), str(width), str(threads), ",".join(THREADS)]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def show(row: dict, beside: dict | None) -> None:
    ratio = ""
    if beside is not None and beside is not row:
        times, memory = total(beside) / total(row), beside["peak_mib"] / row["peak_mib"]
        ratio = f"{times:8.0f}x faster, {memory:5.1f}x less memory"
    print(
        f"{row['size']:5}² w {row['width']:2} {row['threads']} core(s) {row['candidate']:17} "
        f"{row['fit_s']:8.3f} + {row['apply_s']:.3f} s {row['peak_mib']:7.0f} MiB "
        f"noise {row['sky_noise']:.4f}{ratio}",
        flush=True,
    )


def total(row: dict) -> float:
    return row["fit_s"] + row["apply_s"]


def measure(*, full: bool = False, beside_sfft: bool = True) -> None:
    """Measure all cases, print, save: after each kernel width, since a whole run takes long."""
    rows, requirements = [], []
    for threads in (1, 2) if len(os.sched_getaffinity(0)) > 1 else (1,):
        for size in (1024, 2048, 4096) if full else (1024,):
            for width in WIDTHS if full else WIDTHS[::2]:
                beside = None
                if size == 1024 and beside_sfft:
                    beside = in_process(SFFT, size, width, threads)
                    rows.append(beside)
                    show(beside, None)
                for candidate in OURS:
                    row = in_process(candidate, size, width, threads)
                    rows.append(row)
                    show(row, beside)
                    if beside is not None:
                        name = f"{candidate}, {size}², w {width}, {threads} core(s)"
                        requirements += [
                            at_least(f"{name}: times faster than sfft", total(beside) / total(row), 30),
                            at_most(
                                f"{name}: share of its memory", row["peak_mib"] / beside["peak_mib"], 0.1
                            ),
                        ]
    save("subtraction/speed", {"simulated": True, "rows": rows}, requirements, full=full)


def main() -> None:
    """Measure as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--full", action="store_true", help="2048² and 4096² too, three kernel widths")
    parser.add_argument("--without-sfft", action="store_true", help="ours alone")
    asked = parser.parse_args()
    measure(full=asked.full, beside_sfft=not asked.without_sfft)


if __name__ == "__main__":
    main()
