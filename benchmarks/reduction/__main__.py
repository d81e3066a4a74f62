"""A simulated AST3-3 night through the reduction, against its truth: `python -m benchmarks.reduction`.

Positions, zero points, magnitudes, PSF fluxes, depth, correlation, cosmic rays and trails, with the paper's
Figures 3, 4 and 5 drawn of the same results. Everything here is simulated. `--full` takes a larger chip and
more frames; `python -m benchmarks.reduction.fullsize` times one frame of the whole chip.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import RESULTS, SEED, Requirement, at_least, at_most, save
from benchmarks.reduction.accuracy import magnitudes, masks, positions, psf_fluxes
from benchmarks.reduction.depth import completeness_limit
from benchmarks.reduction.figures import draw
from benchmarks.reduction.nights import PARTS, simulated_frames

PAPER = {  # Sun+ 2022, sections 2.4 and 2.5: what its values are beside ours
    "astrometric scatter per axis, mas": "100 to 200, against Gaia DR2",
    "PCC above 0.99": "84 % of all exposures, clouds included",
}


def measure(*, full: bool = False) -> list[Requirement]:
    """Measure, print, save and draw; return the requirements."""
    frames = []
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            for frame, truth in simulated_frames(part, Path(folder) / part, seed=SEED, full=full):
                result = {
                    "part": part,
                    "id": frame.id,
                    "cloud": truth.conditions.cloud,
                    "shape": list(frame.shape),
                    "pearson": frame.quality.pearson,
                    "limiting_magnitude": frame.quality.limiting_magnitude,
                    "seconds": {step.name: step.seconds for step in frame.steps},
                    "positions": positions(frame, truth),
                    "magnitudes": magnitudes(frame, truth),
                    "masks": masks(frame, truth),
                }
                if frame.psf is not None:
                    result["psf"] = psf_fluxes(frame, truth)
                    if part == "clear" and len(frames) < 3:
                        result["completeness_limit"] = completeness_limit(frame, seed=SEED)
                frames.append(result)
    requirements = required(frames)
    print_frames(frames)
    save("reduction", {"simulated": True, "paper": PAPER, "frames": frames}, requirements, full=full)
    for path in draw(frames, RESULTS / "reduction"):
        print(f"drawn: {path.relative_to(RESULTS.parent)}")
    return requirements


def required(frames: list[dict]) -> list[Requirement]:
    """Return what issue and paper ask, of the frames' results."""
    clear = [f for f in frames if f["cloud"] == "none"]
    cloudy = [f for f in frames if f["cloud"] == "patchy"]
    p = [f["positions"] for f in clear]
    offsets = [abs(x[f"median_{axis}_20"]) for x in p for axis in ("ra", "dec")]
    m = [f["magnitudes"] for f in clear]
    psf = [f["psf"] for f in clear if "psf" in f]
    depth = [
        abs(f["limiting_magnitude"] - f["completeness_limit"]) for f in clear if "completeness_limit" in f
    ]

    def share(found: str, of: str) -> float:
        return 100 * sum(f["masks"][found] for f in frames) / max(sum(f["masks"][of] for f in frames), 1)

    patchy, lowest = min(f["pearson"] for f in cloudy), min(f["pearson"] for f in clear)
    false_trails = sum(f["masks"]["false_trail_pixels"] > 0 for f in frames)
    found = share("cosmic_ray_pixels_found", "n_cosmic_ray_pixels")
    return [
        at_most("astrometry: largest median offset of a frame", max(offsets), 20, " mas"),
        at_most("astrometry: scatter per axis, S/N > 20", _median_scatter(p, 20), 40, " mas"),
        at_most("astrometry: scatter per axis, S/N > 100", _median_scatter(p, 100), 10, " mas"),
        at_most("zero point: median |error|", _median_abs([x["zero_point_error"] for x in m]), 0.005, " mag"),
        at_most("spatial term: median rms error", _median_abs([x["spatial_rms"] for x in m]), 0.005, " mag"),
        at_most("bright stars: median scatter", _median_abs([x["bright_scatter"] for x in m]), 0.01, " mag"),
        at_most("PSF fluxes: |median bias|", 100 * abs(np.median([x["bias"] for x in psf])), 0.5, " %"),
        at_most("limit against 50 % completeness: largest", max(depth), 0.1, " mag"),
        at_least("PCC of clear frames, smallest", lowest, 0.99),
        at_most("PCC under patchy cloud, smallest: below any clear", patchy, round(lowest, 5)),
        at_least("cosmic rays: pixels above 5 sigma found", found, 90, " %"),
        at_most("cosmic rays: pixels of stars lost", share("star_pixels_lost", "n_star_pixels"), 1, " %"),
        at_least("trails: length found", share("trail_length_found", "trail_length"), 90, " %"),
        at_most("trails: frames with a false one", false_trails, 0),
    ]


def _median_scatter(positions_: list[dict], least: int) -> float:
    return float(np.nanmedian([x[f"scatter_{axis}_{least}"] for x in positions_ for axis in ("ra", "dec")]))


def _median_abs(values: list[float]) -> float:
    return float(np.nanmedian(np.abs(values)))


def print_frames(frames: list[dict]) -> None:
    """Print one line a frame."""
    print(
        f"{'frame':24} {'cloud':6} {'stars':>6} {'dRA':>6} {'dDec':>6} {'scatter':>7} {'dZP':>8} {'PCC':>7}"
    )
    for f in frames:
        p, error = f["positions"], f["magnitudes"]["zero_point_error"]
        print(
            f"{f['id']:24} {f['cloud']:6} {p['n_20']:>6} {p['median_ra_20']:>6.1f} "
            f"{p['median_dec_20']:>6.1f} {p['scatter_ra_20']:>7.1f} {error:>+8.4f} {f['pearson']:>7.4f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--full", action="store_true", help="a larger chip and more frames")
    measure(full=parser.parse_args().full)
