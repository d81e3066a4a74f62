"""One frame from the disk to alerts, its template and masters made before; and the table of where it went."""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.night.clock import night_timed, read_clock
from benchmarks.night.simulated import Night
from reference_pipeline.night.report import NightReport
from reference_pipeline.night.whole import run_night

Event = dict[str, Any]
WORKERS = 2
MAIN = "main process"


def measure(night: Night, out: Path) -> dict[str, Any]:
    """Run the night in a fresh ``out``, then again with the science frame, and return what both took."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    before = timed_run([*night.calibration, night.template], night, out, out / "clock-template.jsonl")
    with_science = timed_run(
        [*night.calibration, night.template, *night.science], night, out, out / "clock-science.jsonl"
    )
    return {"before": before, "with_science": with_science}


def timed_run(files: list[Path], night: Night, out: Path, clock: Path) -> dict[str, Any]:
    """What a run of the night took: as a whole, until its alerts were out, and by step."""
    load, began = os.getloadavg()[0], time.time()
    busy = os.times()
    with night_timed(clock):
        report = run_night(files, out, config=night.config, workers=WORKERS)
    end = os.times()
    wall = time.time() - began
    events = read_clock(clock)
    for event in events:
        event["start"] -= began
    return {
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "n_files": len(files),
        "workers": WORKERS,
        "wall_s": round(wall, 2),
        "cpu_s": round(sum(end[:4]) - sum(busy[:4]), 2),
        "differences": [
            {
                "branch": d.branch,
                "status": d.status,
                "n_candidates": d.n_candidates,
                "n_alerts": d.n_alerts,
                **{name: d.decision("subtract", name) for name in ("known", "half_width", "held_out_chi2")},
            }
            for d in report.differences
        ],
        "n_delivered": report.n_delivered,
        "troubles": _troubles(report),
        "until_s": _until(events),
        "steps": _table(events),
    }


def _troubles(report: NightReport) -> list[str]:
    bad = [r.line() for r in (*report.frames, *report.differences) if r.reason]
    return [*bad, report.not_delivered] if report.not_delivered else bad


def _until(events: list[Event]) -> dict[str, float]:
    """Seconds from the start of the run until the frame was calibrated, and each branch's alerts were out."""
    ends = {}
    for event in events:
        end = round(event["start"] + event["wall"], 2)
        if event["step"] == "reduce one frame":
            ends["frame calibrated"] = end
        if event["step"] == "make difference":
            ends[f"{event['of']}: product written"] = end
        if event["step"] == "commit":
            ends[f"{event['of']}: alerts in the outbox"] = end
            ends[f"{event['of']}: alerts delivered"] = round(
                min(
                    e["start"] + e["wall"]
                    for e in events
                    if e["step"] == "deliver" and e["start"] >= end - 0.01
                ),
                2,
            )
    return dict(sorted(ends.items(), key=lambda item: item[1]))


def _table(events: list[Event]) -> list[dict[str, Any]]:
    """The steps with what each took itself, steps inside apart; calls of one name in one process added."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    inner: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in events:
        if event["inside"] is not None:
            for i, key in enumerate(("wall", "cpu")):
                inner[event["pid"], event["inside"]][i] += event[key]
    labels = {(e["pid"], e["number"]): e["of"] for e in events if e["number"]}
    committed = ""
    for event in events:
        of = event["of"] or labels.get((event["pid"], event["inside"]), "") or MAIN
        if event["step"] == "commit":
            committed = event["of"]
        if event["step"] == "deliver":
            of = committed or MAIN
        row = rows.setdefault(
            (of, event["step"]),
            {"of": of, "step": event["step"], "calls": 0, "start_s": round(event["start"], 2), "wall_s": 0.0,
             "cpu_s": 0.0, "all_wall_s": 0.0},
        )  # fmt: skip
        own = inner.get((event["pid"], event["number"]), [0.0, 0.0])
        row["calls"] += 1
        row["wall_s"] += event["wall"] - own[0]
        row["cpu_s"] += event["cpu"] - own[1]
        row["all_wall_s"] += event["wall"]
    for row in rows.values():
        for key in ("wall_s", "cpu_s", "all_wall_s"):
            row[key] = round(row[key], 3)
    return list(rows.values())


def table(run: dict[str, Any]) -> str:
    """What a person reads of a run."""
    lines = [f"{run['n_files']} files, {run['workers']} processes, load {run['load_before']} before and "
             f"{run['load_after']} after: {run['wall_s']} s, CPU {run['cpu_s']} s"]  # fmt: skip
    lines += [f"  {what:28} after {seconds:7.2f} s" for what, seconds in run["until_s"].items()]
    for of in dict.fromkeys(row["of"] for row in run["steps"]):
        lines.append(f"  {of}")
        for row in run["steps"]:
            if row["of"] == of:
                lines.append(
                    f"    {row['step']:34} at {row['start_s']:7.2f}  wall {row['wall_s']:7.2f}  "
                    f"CPU {row['cpu_s']:7.2f} s"
                )
    return "\n".join(lines + [f"  trouble: {trouble}" for trouble in run["troubles"]])
