"""One frame of AST3-3's whole chip through the reduction: `python -m benchmarks.reduction.fullsize`.

Seconds of each step beside those of sep's background and extraction alone on the same pixels, and the peak
of memory, all in one process with a thread a core where a step has threads. The frame is simulated in a
process of its own, so that its memory does not count.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import sep

from benchmarks.common import SEED, Requirement, at_most, save
from benchmarks.reduction.accuracy import magnitudes, positions
from benchmarks.reduction.nights import PARTS, survey_of
from reference_pipeline.catalogues.opening import open_catalogue
from reference_pipeline.config import load_config
from reference_pipeline.night.masters import make_night_masters
from reference_pipeline.products import write_product
from reference_pipeline.raw import read_exposure, read_raw
from reference_pipeline.reduce.masters import read_masters
from reference_pipeline.run import measure_psf, reduction
from reference_pipeline.simulate.survey import simulate_night
from reference_pipeline.simulate.truth import read_truth

GIB = 2**30
PAPER_SECONDS = 17  # Sun+ 2022, 2.4: on its server, PSF photometry apart


def simulate(folder: Path) -> None:
    """Write a night of one frame of the whole chip, with three bias frames and three flats."""
    survey = survey_of(PARTS["clear"], full=True).model_copy(
        update={"size": None, "n_science": 1, "n_bias": 3, "n_flats": 3}
    )
    simulate_night(survey, SEED, survey.default_night, folder)


def peak_memory() -> float:
    """The most memory this process has held, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def measure(night: Path | None = None) -> list[Requirement]:
    """Measure, print and save; return the requirements. ``night``: a folder simulated before."""
    with tempfile.TemporaryDirectory() as name:
        folder = night or Path(name)
        if night is None:
            subprocess.run([sys.executable, "-m", __spec__.name, "--simulate", name], check=True)
        config = load_config(folder / "reduce.toml")
        exposures = {p: read_exposure(p, config.camera) for p in sorted((folder / "raw").iterdir())}
        started = time.perf_counter()
        masters, _ = make_night_masters(exposures, folder / "masters", config=config)
        seconds = {"masters of 3 bias and 3 flats (once a night)": time.perf_counter() - started}
        [path] = [p for p, exposure in exposures.items() if exposure.kind == "science"]

        started = time.perf_counter()
        raw = read_raw(path, config.camera)
        read = read_masters(masters.paths(exposures[path].band))
        seconds["read the frame and its masters"] = time.perf_counter() - started
        stars = [
            open_catalogue(spec) for spec in (config.catalogues.astrometry, str(config.catalogues.photometry))
        ]
        for step in reduction(raw, read, positions=stars[0], magnitudes=stars[1], config=config):
            frame = step
        seconds |= {step.name: step.seconds for step in frame.steps}
        begin = time.perf_counter()
        write_product(folder / "product.fits", frame)
        seconds["write the product"] = time.perf_counter() - begin
        total, memory = time.perf_counter() - started, peak_memory()
        del read, raw

        begin = time.perf_counter()
        with_psf = measure_psf(frame, config=config)
        seconds |= {step.name: step.seconds for step in with_psf.steps if step.name not in seconds}
        seconds["PSF and its photometry, beside the main path"] = time.perf_counter() - begin
        memory_psf = peak_memory()

        begin = time.perf_counter()
        mask = frame.mask != 0
        background = sep.Background(frame.data, mask=mask)
        sep.set_extract_pixstack(5_000_000)
        found = sep.extract(frame.data - background, 5.0, err=background.globalrms, mask=mask)
        seconds["sep alone: background and extraction"] = time.perf_counter() - begin
        truth = read_truth(folder / "truth" / path.name)
        accuracy = {**positions(frame, truth), **_numbers(magnitudes(frame, truth))}
    for what, value in seconds.items():
        print(f"  {what:48} {value:8.1f} s")
    print(f"  {len(frame.sources):,} sources ({len(found):,} by sep alone); peak memory {memory:.1f} GiB, "
          f"with PSF {memory_psf:.1f} GiB; the paper's {PAPER_SECONDS} s are on a server")  # fmt: skip
    requirements = [
        at_most("full frame: peak memory, whole reduction", memory_psf, 10, " GiB"),
        at_most("full frame: raw file to product", total, 180, " s"),
    ]
    results = {
        "simulated": True,
        "shape": list(frame.shape),
        "seconds": seconds,
        "memory_gib": memory,
        "memory_with_psf_gib": memory_psf,
        "n_sources": len(frame.sources),
        "accuracy": accuracy,
    }
    save("reduction_fullsize", results, requirements, full=True)
    return requirements


def _numbers(values: dict) -> dict:
    return {name: value for name, value in values.items() if np.isscalar(value)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--simulate", metavar="DIR", type=Path, help="only simulate, into DIR")
    parser.add_argument("--night", metavar="DIR", type=Path, help="a night that --simulate DIR wrote before")
    given = parser.parse_args()
    if given.simulate is not None:
        simulate(given.simulate)
    else:
        measure(given.night)
