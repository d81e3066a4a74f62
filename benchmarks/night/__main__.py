"""What it takes from a frame on disk until its alerts are out: `python -m benchmarks.night`.

A simulated night of AST3-3: one frame of an earlier night becomes the template, then one new frame comes. The
run with the new frame is timed step by step in all of its processes, in both branches. From this frame and
one of 1024², and from measurements at full size, follows, on paper, a whole frame of AST3-3. A small night of
8 frames draws the paper's Figure 7, the known minor planet that was found its Figure 8.

Two processes, one thread for linear algebra in each; frames in the operating system's cache, as they are
when a camera has just written them. `--work FOLDER` keeps what is made, and takes nights that are there.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, Requirement, all_of, at_most, save
from benchmarks.night import figures, measure, paper
from benchmarks.night.simulated import night_of
from reference_pipeline.night.whole import run_night

FOLDER = RESULTS / "night"
SMALL, N_FRAMES = 1024, 8  # of the smaller of two sizes and of Figure 7


def time_to_alert(work: Path, size: int) -> dict[str, Any]:
    """Time one frame of two sizes, print the tables and the whole frame's on paper."""
    runs = {}
    for side in (SMALL, size):
        night = night_of(work / f"night-{side}", side)
        runs[side] = measure.measure(night, work / f"out-{side}")
    for name, run in runs[size].items():
        print(f"{size} x {size}, {name.replace('_', ' ')}: {measure.table(run)}\n", flush=True)
    whole = paper.on_paper(runs[SMALL]["with_science"], SMALL, runs[size]["with_science"], size)
    print(paper.table(whole))
    return {"runs": {f"{side} x {side}": run for side, run in runs.items()}, "full_frame_on_paper": whole}


def minor_planet(out: Path) -> dict[str, Any] | None:
    """Draw Figure 8; return what is in it, None where no minor planet was found."""
    for branch in ("dip", "qip"):
        found = figures.planets_in(out, branch)
        if found:
            figures.draw_planet(found[0], out, branch, FOLDER / "minor_planet.png")
            return {"branch": branch, "n_found": len(found), **figures.facts_of(found[0])}
    return None


def alignment(work: Path) -> list[dict[str, Any]]:
    """Run the small night, draw Figure 7."""
    night = night_of(work / f"night-small-{SMALL}", SMALL, n_science=N_FRAMES)
    files = [*night.calibration, night.template, *night.science]
    out = work / f"out-small-{SMALL}"
    shutil.rmtree(out, ignore_errors=True)  # what is done already would not be aligned again
    out.mkdir(parents=True)
    rows = figures.alignment_of(run_night(files, out, config=night.config, workers=measure.WORKERS))
    figures.draw_alignment(rows, FOLDER / "alignment.png")
    return rows


def requirements_of(results: dict[str, Any]) -> list[Requirement]:
    """What the paper says of its own alignment, and that nothing of the night was lost."""
    runs = [run for both in results["runs"].values() for run in both.values()]
    n_alerts = sum(d["n_alerts"] for run in runs for d in run["differences"])
    requirements = [
        all_of("runs without a trouble", sum(not run["troubles"] for run in runs), len(runs)),
        all_of("alerts delivered", sum(run["n_delivered"] for run in runs), n_alerts),
        all_of("a known minor planet found", int(results["minor_planet"] is not None), 1),
    ]
    for branch in ("qip", "dip"):
        rows = [row for row in results["alignment"] if row["branch"] == branch]
        middle = max(abs(row[name]) for row in rows for name in ("dx", "dy"))
        scatter = max(row[name] for row in rows for name in ("scatter_x", "scatter_y"))
        requirements += [
            at_most(f"{branch}: largest median offset", middle, figures.MEDIAN, " px"),
            at_most(f"{branch}: largest scatter", scatter, figures.SCATTER, " px"),
        ]
    return requirements


def main() -> None:
    """Measure, print, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--size", type=int, default=4096, help="pixels a side of the timed frame")
    parser.add_argument("--work", type=Path, help="folder of the nights; kept")
    given = parser.parse_args()
    if given.size <= SMALL:
        parser.error(f"--size: expected more than {SMALL}, found {given.size}")
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        results = time_to_alert(work, given.size)
        results["minor_planet"] = minor_planet(work / f"out-{given.size}")
        results["alignment"] = alignment(work)
    print("minor planet:", results["minor_planet"])
    for row in results["alignment"]:
        print("aligned:", row)
    save("night", {"simulated": True, **results}, requirements_of(results), full=True)


if __name__ == "__main__":
    main()
