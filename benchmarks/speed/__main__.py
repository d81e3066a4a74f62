"""The codec beside FITS readers and memory copies of the same run, as ratios: `python -m benchmarks.speed`.

One core: one thread, and CPU time in place of the clock, because the machine may be shared. Competitors
take turns within each round, and the medians of the rounds are compared. The peak visit has two processes;
its requirement is on the CPU time of the busier one, which is what the clock shows where two cores are free.
"""

import warnings

import numpy as np

from benchmarks.common import Requirement, at_least, at_most, is_full, save
from benchmarks.speed.copies import BOTH, copies
from benchmarks.speed.decoding import N_BATCH, PEER, decoding
from benchmarks.speed.imports import import_seconds
from benchmarks.speed.timing import medians
from benchmarks.speed.visit import N_ALERTS, N_PROCESSES, STAGES, peak_visit

N_SMALL_VISIT = 4_000  # alerts, and the time multiplied
DECODING = (  # survey, run, what it is called, at least so many times the peer's rate
    ("ztf", "ZTF-4x8 RAW, one by one", "ZTF one by one, bytes to levels", 15),
    ("lsst", "16xL that covers RAW, one by one", "LSST one by one, bytes to levels", 80),
    ("ztf", "ZTF-4x8 RAW, batch from records", "ZTF batch from records", 120),
    ("lsst", "16xL that covers RAW, batch from records", "LSST batch from records", 250),
    ("ztf", "ZTF-4x8 RAW, batch from bytes", "ZTF batch from bytes", 35),
    ("lsst", "16xL that covers RAW, batch from bytes", "LSST batch from bytes", 120),
    ("ztf", "ZTF-4x8 RICE, batch from records", "ZTF RICE batch from records", 25),
)
COPIES = (  # run, at most so many copies
    ("4x16 build_levels + pack, clean", 3),
    (f"4x16 build_levels + pack, {BOTH}", 7),
    ("4x16 unpack", 5),
    ("4x8 build_levels + pack, clean", 3),
    (f"4x8 build_levels + pack, {BOTH}", 7),
    ("4x8 unpack", 15),
)


def measure(*, full: bool = False) -> list[Requirement]:
    """Measure, print and save; return the requirements. The small setting has fewer rounds and alerts."""
    warnings.simplefilter("ignore")  # astropy's, about the headers of survey cutouts
    rounds = 15 if full else 5
    seconds, ratios = {}, {}
    for survey, peer in PEER.items():
        n_alerts, seconds[survey] = decoding(survey, rounds=rounds)
        taken = medians(seconds[survey])
        print(f"\n{survey.upper()}, {n_alerts} real alerts, batches of {N_BATCH}: three planes of an alert")
        print(f"{'':48} {'microseconds':>13} {'alerts/s':>10} {'x peer':>8}")
        for name, value in taken.items():
            ratios[survey, name] = taken[peer] / value
            print(f"  {name:46} {value * 1e6:>13,.1f} {1 / value:>10,.0f} {ratios[survey, name]:>8.1f}")
    multiples = copies(rounds=rounds)
    print("\nmultiples of a memory copy of the same 64 MB")
    for name, value in medians(multiples).items():
        print(f"  {name:62} {value:6.2f}")
    visit = peak_visit(N_ALERTS if full else N_SMALL_VISIT)
    print_visit(visit, full=full)
    imports = import_seconds(rounds=2 * rounds)
    empty, dependencies, package = (
        float(np.median(imports[name])) for name in ("empty", "dependencies", "multiscale")
    )
    ratio = (package - empty) / (dependencies - empty)
    print(f"\nimport multiscale: {package - empty:.3f} s, its four dependencies {dependencies - empty:.3f} s")

    words = {"ztf": "x gunzip + FITS", "lsst": "x CCDData.read"}
    requirements = [
        *[
            at_least(f"{name}, {words[survey]}", ratios[survey, run], limit)
            for survey, run, name, limit in DECODING
        ],
        *[at_most(f"{run}, copies", medians(multiples)[run], limit) for run, limit in COPIES],
        *[
            at_most(f"{N_ALERTS:,} alerts, {layout}", taken["cpu_seconds"], 10, " s")
            for layout, taken in visit.items()
        ],
        at_most("import multiscale, x its four dependencies", ratio, 1.4),
    ]
    results = {
        "decoding_cpu_seconds_per_alert": seconds,
        "copies": multiples,
        "visit": visit,
        "import_seconds": imports,
    }
    save("speed", _rounded(results), requirements, full=full)
    return requirements


def print_visit(visit: dict[str, dict], *, full: bool) -> None:
    """Print what a peak visit takes in each layout."""
    how = "" if full else f" (measured on {N_SMALL_VISIT:,}, times {N_ALERTS // N_SMALL_VISIT})"
    print(f"\na peak LSST visit: {N_ALERTS:,} alerts of three planes, {N_PROCESSES} processes{how}")
    stages = " ".join(f"{stage:>9}" for stage in STAGES)
    print(f"  {'':36} {'clock':>8} {'CPU':>8}  {stages}   (CPU seconds of a process) {'bytes':>8}")
    for layout, taken in visit.items():
        parts = " ".join(f"{taken['cpu'][stage]:>9.2f}" for stage in STAGES)
        print(
            f"  {layout:36} {taken['wall_seconds']:>6.2f} s {taken['cpu_seconds']:>6.2f} s  {parts}"
            f"{'':30} {taken['bytes']:>8,.0f}"
        )


def _rounded(value: object) -> object:
    """Return results with numbers of five digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    measure(full=is_full(__doc__))
