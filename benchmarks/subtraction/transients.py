"""What a difference finds of transients of known flux, on simulated pairs.

`python -m benchmarks.subtraction.transients [--seeds N] [--condition clear] [--survey ast3] [--work FOLDER]`

Completeness against S/N, flux ratio, pulls, false candidates by what stands there, and alignment: the whole
path from raw frames to candidates. Everything here is simulated. --work keeps reduced frames, and what was
measured on each pair; --summary looks at that alone and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy.optimize import curve_fit
from scipy.spatial import cKDTree

from benchmarks.common import RESULTS, Requirement, at_least, at_most, save
from benchmarks.subtraction.simulated_pairs import (
    CONDITIONS,
    FIRST_ID,
    Pair,
    make_masters,
    pair_folder,
    simulated_pair,
)
from reference_pipeline.candidate import Candidate
from reference_pipeline.config import Cuts, PipelineConfig
from reference_pipeline.crossmatch import KnownSky
from reference_pipeline.detect.forced import forced_photometry
from reference_pipeline.errors import FrameError
from reference_pipeline.frame import Frame, MaskBit
from reference_pipeline.run import Found, find_transients
from reference_pipeline.simulate.telescope import load_telescope
from reference_pipeline.simulate.truth import FrameTruth, TruthBit

EDGES = (2.5, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 14.0, 20.0, 30.0, 100.0)  # of bins of S/N
REAL_CHANGE = 3.0  # sigma, of a source that varies by itself
BRIGHT, STAR = 200.0, 20.0  # S/N in the science frame of what false candidates are ascribed to
TRUTH_BITS = {
    "cosmic ray": TruthBit.COSMIC_RAY,
    "saturated star": TruthBit.SATURATED,
    "readout fault": TruthBit.FAULT,
    "bad pixel": TruthBit.BAD,
    "trail": TruthBit.TRAIL | TruthBit.GLINT,
    "spike or ghost": TruthBit.SPIKE | TruthBit.GHOST,
}


def measured_pair(survey: str, condition: str, seed: int, work: Path, size: int) -> dict:
    """Measure a pair and keep what was measured beside its frames."""
    result = measure_pair(survey, condition, seed, work, size)
    path = pair_folder(survey, condition, seed, work, size) / "measured.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result) + "\n")
    return result


def measure_pair(survey: str, condition: str, seed: int, work: Path, size: int) -> dict:
    """Return what one pair shows, or the refusal that it ended in."""
    result: dict = {"survey": survey, "condition": condition, "seed": seed}
    try:
        pair = simulated_pair(survey, condition, seed, work, size=size)
        config = PipelineConfig(camera=load_telescope(survey, (size, size)).detector.camera)
        started = time.perf_counter()
        found = find_transients(pair.science, pair.template, sky=KnownSky(), config=config)
        seconds = time.perf_counter() - started
    except FrameError as error:
        return result | {"refused": str(error)}
    decisions = {step.name: step.decision for step in found.steps}
    scale = config.camera.pixel_scale / 3600
    known = float(decisions["subtract"]["known"])
    sources = injected_sources(pair, found, config.cuts)
    return result | {
        "seconds": round(seconds, 2),
        "area": known * found.aligned.data.size * scale**2,
        "fwhm": [pair.science.quality.fwhm, pair.template.quality.fwhm],
        "align": decisions["align"],
        "subtract": decisions["subtract"],
        "n_candidates": len(found.candidates),
        "cut": dict(Counter(c.cut for c in found.candidates if c.cut is not None)),
        "injected": sources,
        "false": false_candidates(pair, found),
    }


def injected_sources(pair: Pair, found: Found, cuts: Cuts) -> list[dict]:
    """Each injected source that the difference covers: what it should have, what was measured and found."""
    ra, dec = (np.array([getattr(s, name) for s in pair.injected]) for name in ("ra", "dec"))
    magnitude = np.array([s.magnitude for s in pair.injected])
    sign = np.array([s.sign for s in pair.injected])
    expected = sign * pair.expected(magnitude, *_pixels(pair.science_truth, ra, dec))
    x, y = (np.asarray(v) for v in found.aligned.wcs.all_world2pix(ra, dec, 0))
    forced = forced_photometry(found.difference, found.aligned, x, y)
    radius = _radius(found.aligned)
    ny, nx = found.aligned.shape
    rows = []
    for k, source in enumerate(pair.injected):
        f = forced[k]
        i, j = round(float(y[k])), round(float(x[k]))
        inside = cuts.edge <= i < ny - cuts.edge and cuts.edge <= j < nx - cuts.edge
        if not inside or found.difference.mask[i, j] & np.uint16(MaskBit.OFF_IMAGE):
            continue
        near = [c for c in found.candidates if np.hypot(c.x - x[k], c.y - y[k]) < radius]
        same = [c for c in near if c.is_positive == (source.sign > 0)]
        best = min(
            (c for c in same if c.cut is None), key=lambda c: np.hypot(c.x - x[k], c.y - y[k]), default=None
        )
        measured = f.flux is not None and f.mask_fraction <= cuts.max_mask_fraction
        rows.append({
            "x": round(float(x[k]), 2), "y": round(float(y[k]), 2),
            "sign": source.sign, "host": source.host, "expected": float(expected[k]),
            "flux": f.flux if measured else None, "flux_err": f.flux_err if measured else None,
            "found": best is not None,
            "cut": None if best is not None or not same else same[0].cut,
            "found_flux": None if best is None else best.flux,
            "found_err": None if best is None else best.flux_err,
            "offset": None if best is None else [best.x - float(x[k]), best.y - float(y[k])],
        })  # fmt: skip
    return rows


def false_candidates(pair: Pair, found: Found) -> dict[str, int]:
    """The kept candidates at no injected source and no other real change, by what stands there."""
    kept = [c for c in found.candidates if c.cut is None]
    if not kept:
        return {}
    wcs, radius = found.aligned.wcs, _radius(found.aligned)
    changed = _changes(pair, found)
    injected = np.array([(s.ra, s.dec) for s in pair.injected])
    real = np.column_stack(wcs.all_world2pix(np.concatenate([injected, changed]), 0).T)
    distance, _ = cKDTree(real).query(np.array([(c.x, c.y) for c in kept]))
    kinds = Counter(_kind(c, pair, found) for c, d in zip(kept, distance) if d > radius)
    return dict(kinds)


def _radius(frame: Frame) -> float:
    """Pixels from a source within which a candidate is its."""
    return max(2.0, 0.75 * frame.quality.fwhm)


def _pixels(truth: FrameTruth, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = truth.wcs.all_world2pix(np.atleast_1d(ra), np.atleast_1d(dec), 0)
    return np.asarray(x), np.asarray(y)


def _changes(pair: Pair, found: Found) -> np.ndarray:
    """Sky positions (n, 2) of what changed by itself: by more than its noise, of the scenes' own sources."""
    fluxes: dict[int, list[float]] = {}
    places: dict[int, tuple[float, float]] = {}
    ratio = 10 ** (0.4 * (pair.science_truth.zero_point.value - pair.template_truth.zero_point.value))
    for k, (truth, factor) in enumerate(((pair.science_truth, 1.0), (pair.template_truth, ratio))):
        table = truth.sources[np.asarray(truth.sources["kind"]) != "galaxy"]
        ra, dec = truth.wcs.all_pix2world(table["x"], table["y"], 0)
        for row in range(len(table)):
            key = int(table["id"][row])
            fluxes.setdefault(key, [0.0, 0.0])[k] = float(table["flux"][row]) * factor
            places[key] = (float(ra[row]), float(dec[row]))
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = float(np.nanmedian(np.abs(found.difference.flux / found.difference.score)))
    out = [
        places[key]
        for key, (now, then) in fluxes.items()
        if not key >= FIRST_ID and abs(now - then) > np.hypot(REAL_CHANGE * noise, 0.02 * max(now, then))
    ]
    return np.array(out).reshape(-1, 2)


def _kind(candidate: Candidate, pair: Pair, found: Found) -> str:
    """What a false candidate is made of, the likeliest first."""
    reach = int(np.ceil(found.aligned.quality.fwhm))
    bits = 0
    for truth in (pair.science_truth, pair.template_truth):
        x, y = (int(np.rint(v[0])) for v in _pixels(truth, candidate.ra, candidate.dec))
        box = truth.mask[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        bits |= int(np.bitwise_or.reduce(box, axis=None)) if box.size else 0
    if candidate.edge < 32:
        return "edge"
    for name in ("readout fault", "cosmic ray", "saturated star", "trail", "spike or ghost"):
        if bits & TRUTH_BITS[name]:
            return name
    sources = found.aligned.sources
    apart = np.hypot(np.asarray(sources["x"]) - candidate.x, np.asarray(sources["y"]) - candidate.y)
    snr = np.asarray(sources["snr"])
    fwhm = found.aligned.quality.fwhm
    if (apart[snr > BRIGHT] < 4 * fwhm).any():
        return "bright star"
    if (apart[snr > STAR] < 2 * fwhm).any():
        return "star or galaxy"
    return "bad pixel" if bits & TRUTH_BITS["bad pixel"] else "noise"


def summarise(pairs: list[dict]) -> dict:
    """What the pairs of one survey and condition say together."""
    done = [p for p in pairs if "refused" not in p]
    if not done:
        return {"n_pairs": 0, "refused": [p["refused"] for p in pairs]}
    rows = [row for p in done for row in p["injected"]]
    measured = [row for row in rows if row["flux"] is not None]
    e, f, s = (np.array([row[name] for row in measured]) for name in ("expected", "flux", "flux_err"))
    was_found = np.array([row["found"] for row in measured])
    host = np.array([row["host"] for row in measured])
    snr, pull = np.abs(e) / s, (f - e) / s
    area = sum(p["area"] for p in done)
    false: Counter[str] = Counter()
    for p in done:
        false.update(p["false"])
    return {
        "n_pairs": len(done),
        "refused": [p["refused"] for p in pairs if "refused" in p],
        "n_injected": len(rows),
        "n_masked": len(rows) - len(measured),
        "completeness": _completeness(snr, was_found),
        "half": _half(snr, was_found),
        "at_8": _fraction(was_found[(snr >= 7) & (snr < 9)]),
        "above_8": _fraction(was_found[snr >= 8]),
        "rising_above_8": _fraction(was_found[(snr >= 8) & (e > 0)]),
        "fading_above_8": _fraction(was_found[(snr >= 8) & (e < 0)]),
        "host_above_8": _fraction(was_found[(snr >= 8) & host]),
        "ratio": _ratio(e, f, s, snr > 8),
        "ratio_rising": _ratio(e, f, s, (snr > 8) & (e > 0)),
        "ratio_fading": _ratio(e, f, s, (snr > 8) & (e < 0)),
        "ratio_bright": _ratio(e, f, s, snr > 20),
        "ratio_candidates": _candidate_ratio(measured, snr),
        "pull_median": float(np.median(pull)),
        "pull_width": _width(pull),
        "pull_width_error": _width(pull) / np.sqrt(2 * max(len(pull) - 1, 1)) * 1.65,
        "pull_std": float(np.std(pull[np.abs(pull) < 5])),
        "pull_width_rising": _width(pull[e > 0]),
        "pull_width_fading": _width(pull[e < 0]),
        "pull_width_no_host": _width(pull[~host]),
        "pull_width_by_snr": [
            [a, b, _width(pull[(snr >= a) & (snr < b)]), int(((snr >= a) & (snr < b)).sum())]
            for a, b in ((0, 5), (5, 10), (10, 20), (20, 100))
        ],
        "pull_outliers": int((np.abs(pull) > 5).sum()),
        "cut_above_8": dict(Counter(r["cut"] for r, q in zip(measured, snr) if q >= 8 and r["cut"])),
        "area": area,
        "false_per_square_degree": {k: round(n / area, 1) for k, n in sorted(false.items())},
        "false_total": round(sum(false.values()) / area, 1),
        "n_false": sum(false.values()),
        "align_dx": [p["align"]["dx"] for p in done],
        "align_dy": [p["align"]["dy"] for p in done],
        "align_scatter": [max(p["align"]["scatter_x"], p["align"]["scatter_y"]) for p in done],
        "held_out_chi2": [p["subtract"]["held_out_chi2"] for p in done],
        "photometric_ratio": [p["subtract"]["photometric_ratio"] for p in done],
        "seconds": float(np.median([p["seconds"] for p in done])),
    }


def _fraction(found: np.ndarray) -> list[float | int | None]:
    """Fraction found and number."""
    return [float(found.mean()) if len(found) else None, len(found)]


def _completeness(snr: np.ndarray, found: np.ndarray) -> list[list[float | int | None]]:
    """For each bin of S/N: its edges, fraction found, number."""
    return [[a, b, *_fraction(found[(snr >= a) & (snr < b)])] for a, b in zip(EDGES, EDGES[1:])]


def _half(snr: np.ndarray, found: np.ndarray) -> float | None:
    """The S/N at which half are found: of an error function's fit to the bins below 14."""
    use = snr < 14
    if use.sum() < 20:
        return None

    def logistic(x: np.ndarray, half: float, width: float) -> np.ndarray:
        return 1 / (1 + np.exp(-(x - half) / abs(width)))

    try:
        (half, _), _ = curve_fit(logistic, snr[use], found[use].astype(float), (5.0, 0.5))
    except RuntimeError:  # no fit: all or none were found
        return None
    return float(half)


def _ratio(e: np.ndarray, f: np.ndarray, s: np.ndarray, use: np.ndarray) -> list[float | int | None]:
    """Mean of measured over expected flux, each by its own error; its error; number.

    An error of 1 % of the flux is added, so that the few brightest do not decide alone; what is beyond
    5 sigma is left out.
    """
    if use.sum() < 3:
        return [None, None, int(use.sum())]
    ratio, sigma = f[use] / e[use], np.hypot(s[use] / np.abs(e[use]), 0.01)
    good = np.abs(ratio - np.median(ratio)) < 5 * sigma
    weight = sigma[good] ** -2
    mean = float(np.average(ratio[good], weights=weight))
    return [mean, float(weight.sum() ** -0.5), int(good.sum())]


def _candidate_ratio(rows: list[dict], snr: np.ndarray) -> list[float | int | None]:
    """The same of fluxes at the places where candidates were found."""
    use = [r for r, q in zip(rows, snr) if r["found"] and q > 8]
    e, f, s = (np.array([r[name] for r in use]) for name in ("expected", "found_flux", "found_err"))
    return _ratio(e, f, s, np.ones(len(e), bool))


def _width(values: np.ndarray) -> float:
    """The robust standard deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if len(values) else float("nan")


def required(name: str, s: dict) -> list[Requirement]:
    """What the issue asks of one survey and condition."""
    if not s["n_pairs"]:
        return [Requirement(f"{name}: pairs subtracted", "all", "none", False)]
    out = [
        at_least(f"{name}: completeness at S/N 7 to 9", 100 * (s["at_8"][0] or 0.0), 95, " %"),
        at_least(f"{name}: completeness above S/N 8", 100 * (s["above_8"][0] or 0.0), 95, " %"),
        at_most(f"{name}: |flux ratio - 1|", 100 * abs((s["ratio"][0] or 0.0) - 1), 1, " %"),
        at_most(f"{name}: |width of pulls - 1|", 100 * abs(s["pull_width"] - 1), 5, " %"),
        at_most(
            f"{name}: alignment, median |offset|", _median_abs(s["align_dx"] + s["align_dy"]), 0.05, " px"
        ),
        at_most(f"{name}: alignment, median scatter", float(np.median(s["align_scatter"])), 0.2, " px"),
    ]
    if s["fading_above_8"][0] is not None:
        out.append(at_least(f"{name}: fading ones above S/N 8", 100 * s["fading_above_8"][0], 95, " %"))
    return out


def _median_abs(values: list[float]) -> float:
    return float(np.median(np.abs(values)))


def table(summaries: dict[str, dict]) -> str:
    """One line for each survey and condition."""
    lines = [
        f"{'':18}{'pairs':>6}{'n':>6}{'masked':>7}{'50 %':>6}{'at 8':>7}{'>= 8':>7}{'fading':>7}{'host':>7}"
        f"{'ratio':>15}{'found':>8}{'pulls':>12}{'false/deg2':>11}{'px':>7}{'scatter':>8}"
    ]
    for name, s in summaries.items():
        if not s["n_pairs"]:
            lines.append(f"{name:18}{0:6d}  refused: {s['refused'][0]}")
            continue
        ratio = f"{s['ratio'][0]:.4f}+-{s['ratio'][1]:.4f}"
        pulls = f"{s['pull_width']:.3f}+-{s['pull_width_error']:.2f}"
        lines.append(
            f"{name:18}{s['n_pairs']:6d}{s['n_injected']:6d}{s['n_masked']:7d}{_text(s['half'], 2):>6}"
            f"{_text(s['at_8'][0], 3):>7}{_text(s['above_8'][0], 3):>7}{_text(s['fading_above_8'][0], 3):>7}"
            f"{_text(s['host_above_8'][0], 3):>7}{ratio:>15}{_text(s['ratio_candidates'][0], 4):>8}"
            f"{pulls:>12}"
            f"{s['false_total']:11.1f}{_median_abs(s['align_dx'] + s['align_dy']):7.3f}"
            f"{np.median(s['align_scatter']):8.3f}"
        )
        lines.append(f"{'':18}false by kind: {s['false_per_square_degree']}; cut: {s['cut_above_8']}")
    return "\n".join(lines)


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def run(surveys: list[str], conditions: list[str], seeds: int, work: Path, size: int, workers: int) -> dict:
    """Measure all pairs; return them by "survey condition"."""
    jobs = [(s, c, seed, work, size) for s in surveys for c in conditions for seed in range(seeds)]
    pairs: dict[str, list[dict]] = {}
    for survey in surveys:
        make_masters(survey, work, size=size)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for job, result in zip(jobs, pool.map(measured_pair, *zip(*jobs))):
            pairs.setdefault(f"{job[0]} {job[1]}", []).append(result)
            words = result.get("refused") or (
                f"{sum(r['found'] for r in result['injected'])} of {len(result['injected'])} found, "
                f"{sum(result['false'].values())} false, {result['seconds']} s"
            )
            print(f"{job[0]} {job[1]} {job[2]}: {words}", flush=True)
    return pairs


def kept(surveys: list[str], conditions: list[str], seeds: int, work: Path, size: int) -> dict:
    """The same of pairs measured before, as many as there are."""
    pairs: dict[str, list[dict]] = {}
    for survey in surveys:
        for condition in conditions:
            paths = [pair_folder(survey, condition, k, work, size) / "measured.json" for k in range(seeds)]
            found = [json.loads(path.read_text()) for path in paths if path.exists()]
            if found:
                pairs[f"{survey} {condition}"] = found
    return pairs


def main() -> None:
    """Measure, print, save and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--condition", choices=list(CONDITIONS), action="append")
    parser.add_argument("--survey", choices=["ast3", "ztf"], action="append")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keeps frames and what was measured between runs")
    parser.add_argument("--summary", action="store_true", help="of what --work holds; measures nothing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        what = given.survey or ["ast3"], given.condition or list(CONDITIONS), given.seeds
        work = given.work or Path(temporary)
        if given.summary:
            pairs = kept(*what, work, given.size)
        else:
            pairs = run(*what, work, given.size, given.workers)
    summaries = {name: summarise(results) for name, results in pairs.items()}
    print("\n" + table(summaries))
    requirements = [r for name, s in summaries.items() for r in required(name, s)]
    from benchmarks.subtraction.transients_figure import draw

    question = "subtraction/transients"
    save(question, {"simulated": True, "summaries": summaries}, requirements, full=given.seeds >= 10)
    draw(pairs, summaries, RESULTS / question / "transients.png")


if __name__ == "__main__":
    main()
