"""Real raw frames all the way to alerts: `python -m benchmarks.real_frames.night`.

The 15 raw frames of the HAT-P-32 series go through `run_night` twice: as they are, and with point sources put
into the raw frames at fixed places on the sky (electrons through each frame's own PSF, their photon noise,
whole ADU), some steady, some fading, some in one frame alone. What is asked: every frame and every candidate
accounted for, alerts that hold, and the sources found again, with their fluxes, as one object each.
"""

import json
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from benchmarks.common import (
    RESULTS,
    SEED,
    Requirement,
    all_of,
    at_least,
    at_most,
    save,
    save_figure,
)
from benchmarks.real_frames.__main__ import DATA, HATP32, SETTINGS
from multiscale import check_file
from multiscale.avro import read_container
from reference_pipeline.config import PipelineConfig, load_settings
from reference_pipeline.difference_products import (
    StoredDifference,
    difference_path,
    read_difference,
    read_plane,
)
from reference_pipeline.frame import Frame, MaskBit
from reference_pipeline.night.report import NightReport
from reference_pipeline.night.whole import run_night
from reference_pipeline.products import read_product
from reference_pipeline.reduce.psf import psf_stamps

N_SOURCES = 48
KINDS = ("steady", "fading", "once")
FADING = 0.25  # magnitudes from frame to frame
MARGIN, APART, FROM_STARS = 30, 8.0, 4.0  # pixels: from the edge, of each other, from stars with S/N > 50
NEAR = 1.5  # pixels between a source and its candidate
CLEAN = 17  # pixels around a source that both images cover, so that the cut at the edge is not at work
BINS = (3.0, 5.0, 7.0, 10.0, 20.0, 50.0, 200.0)  # S/N


@dataclass(frozen=True)
class Source:
    """One injected source: its place, and its magnitude in each exposure (None: it is not there)."""

    number: int
    kind: str
    ra: float  # degrees
    dec: float
    magnitudes: dict[str, float | None]


def night_settings() -> PipelineConfig:
    """Return the settings of the night, Tycho-2 cut out around the field as the catalogue."""
    catalogue = str(DATA / "catalogues" / "tycho2_hatp32.csv")
    return load_settings(SETTINGS / "hatp32_night.toml", camera=None, astrometry=catalogue, photometry=None)


def measure(files: list[Path] | None = None, *, n_sources: int = N_SOURCES) -> list[Requirement]:
    """Run both nights, measure, print and save; return the requirements."""
    files, config = sorted(HATP32.glob("*.FITS")) if files is None else files, night_settings()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = run_night(files, folder / "plain", config=config)
        say(plain)
        sources, raw = inject(files, plain, folder, config, n_sources)
        night = run_night(raw, folder / "injected", config=config)
        say(night)
        results = results_of(sources, plain, night, folder)
    requirements = required(results, len(files))
    write(results, requirements)
    return requirements


def results_of(sources: list[Source], plain: NightReport, night: NightReport, folder: Path) -> dict:
    """Return all that is measured of both nights; their outputs are plain and injected in ``folder``."""
    events = found_again(sources, plain, night, folder)
    picture(events)
    return {
        "template": template_of(night),
        "subtractions": subtractions(plain, folder / "plain"),
        "with_sources": subtractions(night, folder / "injected"),
        "completeness": completeness(events),
        **fluxes(events),
        **associations(events, sources),
        "false_candidates": false_candidates(events, night, folder / "injected"),
        "accounts": [account(run, folder / name) for run, name in ((plain, "plain"), (night, "injected"))],
        "events": [compact(event) for event in events],
    }


def say(night: NightReport) -> None:
    """Print what the command would."""
    for line in night.lines()[-2:]:
        print(line)


# ---- sources ----


def inject(
    files: list[Path], plain: NightReport, folder: Path, config: PipelineConfig, n_sources: int
) -> tuple[list[Source], list[Path]]:
    """Return the sources, and the raw files with them in; the template's own files stay as they are."""
    rng = np.random.default_rng(SEED)
    done = [d.exposure for d in plain.differences if d.status == "done"]
    frames = {f.id: read_product(folder / "plain" / f.product) for f in plain.frames if f.product}
    stored = {e: read_difference(difference_path(folder / "plain", "dip", e)) for e in done}
    noise = {e: read_plane(stored[e].path, "FLUXERR") for e in done}
    sources = draw(rng, done, frames, stored, noise, n_sources)
    (folder / "raw").mkdir()
    raw = []
    for path in files:
        to = folder / "raw" / path.name
        frame_id = next(f.id for f in plain.frames if Path(f.file).name == path.name)
        if frame_id in done:
            put_in(rng, path, to, frames[frame_id], sources, config.camera.gain)
        else:
            shutil.copyfile(path, to)
        raw.append(to)
    return sources, raw


def draw(
    rng: np.random.Generator, done: list[str], frames: dict[str, Frame], stored: dict[str, StoredDifference],
    noise: dict[str, np.ndarray], n_sources: int,
) -> list[Source]:  # fmt: skip
    """Return sources away from each other and from bright stars, S/N 5 to 100 (log-uniform) where they begin.

    A frame that sees less of the template may not have all of them.
    """
    first = stored[done[0]]
    ny, nx = first.shape
    sky = first.wcs
    stars = frames[done[0]].sources
    bright = stars[stars["snr"] > 50.0]
    x_star, y_star = sky.all_world2pix(bright["ra"], bright["dec"], 0)
    places: list[tuple[float, float]] = []
    while len(places) < n_sources:
        x, y = rng.uniform(MARGIN, nx - MARGIN), rng.uniform(MARGIN, ny - MARGIN)
        taken = np.array([*places, (-1e3, -1e3)])
        is_free = np.hypot(taken[:, 0] - x, taken[:, 1] - y).min() > APART
        seen = sum(np.isfinite(noise[e][round(y), round(x)]) for e in done)
        if is_free and np.hypot(x_star - x, y_star - y).min() > FROM_STARS and seen >= min(4, len(done)):
            places.append((x, y))
    out = []
    for number, (x, y) in enumerate(places):
        kind = KINDS[number % len(KINDS)]
        ra, dec = (float(v) for v in sky.all_pix2world(x, y, 0))
        here = [e for e in done if np.isfinite(noise[e][round(y), round(x)])]
        begin = here[int(rng.integers(len(here)))] if kind == "once" else here[0]
        flux = 10.0 ** rng.uniform(np.log10(5.0), 2.0) * float(noise[begin][round(y), round(x)])
        zero_point = frames[begin].zero_point
        magnitude = zero_point.value - 2.5 * np.log10(flux)
        curve: dict[str, float | None] = {}
        for k, e in enumerate(done):
            age = k - done.index(begin)
            is_there = e == begin if kind == "once" else age >= 0
            curve[e] = magnitude + FADING * age * (kind == "fading") if is_there else None
        out.append(Source(number, kind, ra, dec, curve))
    return out


def flux_of(source: Source, frame: Frame) -> float:
    """Electrons of a source in a frame; 0 where it is not there."""
    magnitude = source.magnitudes.get(frame.id)
    return 0.0 if magnitude is None else 10.0 ** (0.4 * (frame.zero_point.value - magnitude))


def put_in(
    rng: np.random.Generator, path: Path, to: Path, frame: Frame, sources: list[Source], gain: float
) -> None:
    """Write the raw file with the sources that fall on it: photons drawn, in whole ADU."""
    with fits.open(path) as hdus:
        adu = hdus[0].data.astype(np.float64)
        ny, nx = adu.shape
        half = (frame.psf.images.shape[1] // frame.psf.oversampling - 1) // 2
        electrons = np.zeros((ny + 2 * half, nx + 2 * half))
        for source in sources:
            flux = flux_of(source, frame)
            x, y = frame.wcs.all_world2pix(source.ra, source.dec, 0)
            if flux <= 0 or not (0 <= x <= nx - 1 and 0 <= y <= ny - 1):
                continue
            stamp = psf_stamps(frame.psf, np.array([float(x)]), np.array([float(y)]), half)[0][0]
            rows, columns = round(float(y)), round(float(x))
            electrons[rows : rows + 2 * half + 1, columns : columns + 2 * half + 1] += flux * stamp
        electrons = electrons[half : half + ny, half : half + nx]
        seen = rng.poisson(np.maximum(electrons, 0.0)) + np.minimum(electrons, 0.0)
        with_them = np.minimum(np.rint(adu + seen / gain), np.maximum(adu, 4095))
        hdus[0].data = with_them.astype(hdus[0].data.dtype)
        hdus.writeto(to)


# ---- found again ----


def found_again(sources: list[Source], plain: NightReport, night: NightReport, folder: Path) -> list[dict]:
    """Return one record for each source in each frame that it was put into and that was subtracted."""
    out = folder / "injected"
    objects = objects_of(out / "night.sqlite")
    frames = {f.id: folder / "plain" / f.product for f in plain.frames if f.product}
    events = []
    for report in night.differences:
        before = difference_path(folder / "plain", "dip", report.exposure)
        if report.status != "done" or not before.is_file():
            continue
        stored = read_difference(difference_path(out, "dip", report.exposure))
        frame = read_product(frames[report.exposure])
        noise = read_plane(before, "FLUXERR")
        x, y = stored.wcs.all_world2pix([s.ra for s in sources], [s.dec for s in sources], 0)
        for source, px, py in zip(sources, x, y):
            flux = flux_of(source, frame)
            if flux <= 0:
                continue
            i, j = round(float(py)), round(float(px))
            sigma = float(noise[i, j])
            around = stored.mask[max(i - CLEAN, 0) : i + CLEAN + 1, max(j - CLEAN, 0) : j + CLEAN + 1]
            near = stored.mask[max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
            one = min(stored.candidates, key=lambda c: np.hypot(c.x - px, c.y - py), default=None)
            is_found = one is not None and np.hypot(one.x - px, one.y - py) <= NEAR
            events.append(
                {
                    "source": source.number,
                    "kind": source.kind,
                    "exposure": report.exposure,
                    "flux": flux,
                    "snr": flux / sigma if np.isfinite(sigma) and sigma > 0 else 0.0,
                    "is_covered": bool(np.isfinite(sigma)),
                    "is_clean": bool(
                        np.isfinite(sigma)
                        and not np.any(around & np.uint16(MaskBit.OFF_IMAGE))
                        and np.mean(near != 0) <= 0.1
                    ),
                    "is_found": bool(is_found),
                    "number": one.number if is_found else None,
                    "cut": one.cut if is_found else None,
                    "is_kept": bool(is_found and one.cut is None),
                    "ratio": one.flux / flux if is_found else None,
                    "pull": (one.flux - flux) / one.flux_err if is_found else None,
                    "found_snr": one.snr if is_found else None,
                    "dx": float(one.x - px) if is_found else None,
                    "dy": float(one.y - py) if is_found else None,
                    "object": objects.get((report.exposure, one.number)) if is_found else None,
                }
            )
    return events


def objects_of(database: Path) -> dict[tuple[str, int], str]:
    """Return the object of each kept candidate, by exposure and number."""
    with sqlite3.connect(database) as db:
        rows = db.execute(
            "SELECT s.exposure_id, c.number, d.object_id FROM detections d "
            "JOIN candidates c ON c.id = d.candidate_id JOIN subtractions s ON s.id = c.subtraction_id"
        ).fetchall()
    return {(exposure, number): one for exposure, number, one in rows}


def completeness(events: list[dict]) -> list[dict]:
    """Return, for bins of S/N, how many sources away from masks and edges were found and kept; and of all."""
    out = []
    for low, high in zip(BINS, BINS[1:]):
        clean = [e for e in events if e["is_clean"] and low <= e["snr"] < high]
        covered = [e for e in events if e["is_covered"] and low <= e["snr"] < high]
        out.append(
            {
                "snr": [low, high],
                "clean": len(clean),
                "clean_found": sum(e["is_found"] for e in clean),
                "clean_kept": sum(e["is_kept"] for e in clean),
                "covered": len(covered),
                "covered_kept": sum(e["is_kept"] for e in covered),
                "cuts": dict(Counter(e["cut"] for e in clean if e["cut"])),
            }
        )
    return out


def fluxes(events: list[dict]) -> dict:
    """Return ratios, pulls and places of the clean sources above S/N 10 that were found."""
    good = [e for e in events if e["is_clean"] and e["is_found"] and e["snr"] >= 10]
    if not good:
        return {"n_fluxes": 0}
    ratio, pull = np.array([e["ratio"] for e in good]), np.array([e["pull"] for e in good])
    weight = np.array([e["snr"] for e in good]) ** 2
    dx, dy = (np.array([e[name] for e in good]) for name in ("dx", "dy"))
    bright = np.array([e["snr"] for e in good]) >= 30
    return {
        "n_fluxes": len(good),
        "flux_ratio_median": float(np.median(ratio)),
        "flux_ratio_error": float(1.2533 * robust(ratio) / np.sqrt(len(ratio))),
        "flux_ratio_weighted": float(np.sum(ratio * weight) / weight.sum()),
        "flux_ratio_by_frame": {
            e: round(float(np.median([g["ratio"] for g in good if g["exposure"] == e])), 4)
            for e in sorted({g["exposure"] for g in good})
        },
        "pull_sigma": robust(pull),
        "offset_x": float(np.median(dx)),
        "offset_y": float(np.median(dy)),
        "scatter_x": robust(dx),
        "scatter_y": robust(dy),
        "scatter_above_30": robust(np.concatenate([dx[bright], dy[bright]])) if bright.any() else None,
    }


def robust(values: np.ndarray) -> float:
    """1.4826 MAD."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def associations(events: list[dict], sources: list[Source]) -> dict:
    """Return how many sources kept more than once are one object, and how many objects are two sources."""
    by_source: dict[int, set[str]] = {}
    n_kept: Counter[int] = Counter()
    for e in events:
        if e["is_kept"]:
            by_source.setdefault(e["source"], set()).add(e["object"])
            n_kept[e["source"]] += 1
    several = [s for s, n in n_kept.items() if n > 1]
    owners = Counter(o for objects in by_source.values() for o in objects)
    return {
        "n_sources": len(sources),
        "n_sources_kept": len(by_source),
        "n_kept_more_than_once": len(several),
        "n_one_object": sum(len(by_source[s]) == 1 for s in several),
        "n_objects_of_two_sources": sum(n > 1 for n in owners.values()),
    }


def false_candidates(events: list[dict], night: NightReport, out: Path) -> dict[str, dict]:
    """Return, for each frame, the kept candidates that were not put in, and what lies at their places."""
    found = {}
    for report in night.differences:
        if report.status != "done":
            continue
        mine = {e["number"] for e in events if e["exposure"] == report.exposure and e["is_kept"]}
        stored = read_difference(difference_path(out, "dip", report.exposure))
        found[report.exposure] = what_they_are(
            [c for c in stored.candidates if c.cut is None and c.number not in mine], stored, out
        )
    return found


def what_they_are(candidates: list, stored: StoredDifference, out: Path) -> dict:
    """Return how many candidates lie on a star of the template (2 pixels), and how strong they are."""
    template = read_product(next((out / "templates" / "dip").glob("*.fits")))
    stars = template.sources
    x, y, snr = (np.asarray(stars[name], float) for name in ("x", "y", "snr"))
    kinds: Counter[str] = Counter()
    for c in candidates:
        near = np.hypot(x - c.x, y - c.y) < 2.0
        brightest = float(snr[near].max()) if near.any() else 0.0
        where = "on a star, S/N > 500" if brightest > 500 else "on a star" if brightest else "no star"
        kinds[f"{where}, {'brighter' if c.is_positive else 'fainter'}"] += 1
    strong = sum(abs(c.snr) >= 10 for c in candidates)
    return {"n": len(candidates), "above_10": strong, **dict(sorted(kinds.items()))}


# ---- what became of everything ----


def subtractions(night: NightReport, out: Path) -> list[dict]:
    """Return a row for each exposure: what was measured of its subtraction, and what was found."""
    rows = []
    for d in night.differences:
        row = {
            "exposure": d.exposure, "status": d.status, "reason": d.reason,
            "candidates": d.n_candidates, "cuts": d.cuts, "alerts": d.n_alerts,
        }  # fmt: skip
        if d.status == "done":
            for step, name in (
                ("align", "dx"), ("align", "dy"), ("align", "scatter_x"), ("align", "scatter_y"),
                ("align", "overlap"),
                ("subtract", "convolved"), ("subtract", "n_used"), ("subtract", "held_out_chi2"),
                ("subtract", "photometric_ratio"), ("subtract", "known"), ("subtract", "score_sigma"),
            ):  # fmt: skip
                row[name] = d.decision(step, name)
            stored = read_difference(difference_path(out, "dip", d.exposure))
            row["kept"] = what_they_are([c for c in stored.candidates if c.cut is None], stored, out)
        rows.append(row)
    return rows


def template_of(night: NightReport) -> list[str]:
    """Return the exposures that the template is made of."""
    return [d.exposure for d in night.differences if d.status == "template"]


def account(night: NightReport, out: Path) -> dict:
    """Return whether all that went in came out: files, candidates, alerts."""
    done = [d for d in night.differences if d.status == "done"]
    written = sorted((out / "alerts").rglob("*.avro"))
    kept = {
        d.exposure: sum(
            c.cut is None for c in read_difference(difference_path(out, "dip", d.exposure)).candidates
        )
        for d in done
    }
    return {
        "reported": len(night.frames),
        "frames": night.counts,
        "differences": dict(Counter(d.status for d in night.differences)),
        "candidates": sum(d.n_candidates for d in done),
        "cut": sum(sum(d.cuts.values()) for d in done),
        "kept": sum(kept.values()),
        "alerts": sum(d.n_alerts for d in done),
        "delivered": night.n_delivered,
        "packets": sum(sum(1 for _ in read_container(path)) for path in written),
        "findings": sum(len(list(check_file(path))) for path in written),
    }


def required(results: dict, n_files: int) -> list[Requirement]:
    """Return what is asked."""
    clean = [b for b in results["completeness"] if b["snr"][0] >= 10]
    n, kept = sum(b["clean"] for b in clean), sum(b["clean_kept"] for b in clean)
    out = []
    for name, a in zip(("as they are", "with sources"), results["accounts"]):
        is_whole = (
            a["reported"] == n_files == sum(a["differences"].values())
            and a["candidates"] == a["cut"] + a["kept"]
            and a["kept"] == a["alerts"] == a["delivered"] == a["packets"]
        )
        out += [
            all_of(f"{name}: frames calibrated", a["frames"].get("calibrated", 0), n_files),
            all_of(
                f"{name}: frames subtracted, or in the template",
                a["differences"].get("done", 0) + a["differences"].get("template", 0),
                n_files,
            ),
            all_of(f"{name}: files, candidates and alerts accounted for", int(is_whole), 1),
            at_most(f"{name}: findings against the alerts", a["findings"], 0),
        ]
    out += [
        at_least("sources above S/N 10, away from masks: kept", kept / max(n, 1), 0.95),
        at_most("flux ratio, median, from 1", abs(results.get("flux_ratio_median", np.inf) - 1.0), 0.03),
        at_most("places above S/N 30, scatter", results.get("scatter_above_30") or np.inf, 0.2, " px"),
        all_of(
            "sources seen more than once: one object",
            results["n_one_object"],
            results["n_kept_more_than_once"],
        ),
        at_most("objects made of two sources", results["n_objects_of_two_sources"], 0),
    ]
    return out


def compact(event: dict) -> list:
    """Return what is kept of an event, in the order that the file names."""

    def short(value: float | None) -> float | None:
        return None if value is None else round(value, 3)

    return [
        event["source"], event["kind"], event["exposure"][-11:-5], round(event["snr"], 1),
        int(event["is_clean"]), int(event["is_found"]), event["cut"] or ("kept" if event["is_kept"] else ""),
        short(event["ratio"]), short(event["pull"]), short(event["dx"]), short(event["dy"]),
    ]  # fmt: skip


def write(results: dict, requirements: list[Requirement]) -> None:
    """Print the tables and keep the measurements; single events are in the figure alone."""
    print()
    for row in results["subtractions"]:
        print(json.dumps(row))
    for row in results["completeness"]:
        print(json.dumps(row))
    for name in (
        "flux_ratio_median",
        "flux_ratio_error",
        "pull_sigma",
        "scatter_x",
        "scatter_y",
        "scatter_above_30",
    ):
        print(name, results.get(name))
    print("not put in:", {e[-11:-5]: f["n"] for e, f in results["false_candidates"].items()})
    kept = {name: value for name, value in results.items() if name != "events"}
    save("real_frames/night", kept, requirements, full=True)


def picture(events: list[dict]) -> None:
    """Draw completeness and flux ratio against S/N."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    rows = [b for b in completeness(events) if b["clean"]]
    at = [np.sqrt(b["snr"][0] * b["snr"][1]) for b in rows]
    left.semilogx(at, [b["clean_found"] / b["clean"] for b in rows], "o-", color="0.6", label="found")
    left.semilogx(
        at, [b["clean_kept"] / b["clean"] for b in rows], "o-", color="tab:blue", label="kept by the cuts"
    )
    left.axhline(0.95, color="0.8", lw=0.8)
    left.set(xlabel="S/N put in", ylabel="fraction", ylim=(0, 1.05))
    left.legend(frameon=False, fontsize=8)
    good = [e for e in events if e["is_clean"] and e["is_found"]]
    right.semilogx([e["snr"] for e in good], [e["ratio"] for e in good], ".", ms=4, color="tab:blue")
    right.axhline(1.0, color="0.5", lw=0.8)
    right.set(xlabel="S/N put in", ylabel="flux found / put in", ylim=(0, 2))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, RESULTS / "real_frames" / "night" / "night.png", dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    if not HATP32.is_dir():
        print("this reduces real frames: put them into ../shared/data beside the checkout")
        sys.exit(2)
    sys.exit(0 if all(r.is_met for r in measure()) else 1)
