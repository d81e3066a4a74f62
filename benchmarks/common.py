"""What every question shares: the real alerts, the requirements, and where raw results go."""

import csv
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import fastavro
import numpy as np

from multiscale.avro import read_container
from multiscale.errors import StampError
from multiscale.surveys import SurveyAlert, read_survey_alert

ROOT = Path(__file__).resolve().parent.parent
ALERTS = ROOT.parent / "shared" / "data" / "alerts"
RESULTS = ROOT / "benchmarks" / "results"
PLANES = ("science", "template", "difference")


@dataclass(frozen=True)
class Requirement:
    """One line of the table: what was asked, what was measured, and whether it is met."""

    name: str
    limit: str
    measured: str
    is_met: bool


@dataclass(frozen=True)
class RealAlert:
    """A real alert as it came: its record and schema, and the manifest's words about the file."""

    file: str
    schema: dict
    record: dict
    alert: SurveyAlert
    is_original: bool  # neither repacked nor written again by a broker: its whole size is evidence

    @property
    def has_three_planes(self) -> bool:
        """Science, template and difference are all there."""
        return all(name in self.alert.cutout.planes for name in PLANES)


def need_real_alerts() -> None:
    """End with a clear word where the real alerts are not beside the checkout."""
    if not ALERTS.is_dir():
        print("the benchmarks measure real alerts: put them into ../shared/data/alerts beside the checkout")
        sys.exit(2)


@lru_cache(maxsize=4)
def real_alerts(survey: str) -> tuple[RealAlert, ...]:
    """Return every readable alert of "ztf" or "lsst", in the order of their files."""
    need_real_alerts()
    with (ALERTS / "MANIFEST.csv").open(newline="") as file:
        manifest = {row["file"]: row for row in csv.DictReader(file)}
    out = []
    for path in sorted((ALERTS / survey).glob("*.avro")):
        row = manifest[f"{survey}/{path.name}"]
        original = row["repacked"] == "no" and row["broker_reserialised"] == "no"
        try:
            reader = read_container(path)
            for record in reader:
                alert = read_survey_alert(record, schema=reader.schema)
                out.append(RealAlert(row["file"], reader.schema, record, alert, original))
        except StampError as error:
            print(f"left out: {row['file']}: {error}")
    return tuple(out)


def cutout_bytes(record: dict) -> list[bytes]:
    """Return a survey record's own cutouts as they were sent."""
    values = [record[f"cutout{name.title()}"] for name in PLANES]
    return [v["stampData"] if isinstance(v, dict) else v for v in values if v is not None]


def summary(values: list) -> dict:
    """Return n, median, 90th percentile, minimum and maximum."""
    a = np.asarray(values, float)
    return {
        "n": int(a.size),
        "median": float(np.median(a)),
        "p90": float(np.percentile(a, 90)),
        "min": float(a.min()),
        "max": float(a.max()),
    }


def environment() -> dict:
    """Return what the numbers depend on, without names of machines or paths."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "fastavro": fastavro.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }


def save(question: str, results: dict, requirements: list[Requirement]) -> None:
    """Write the raw results of a question as JSON and print its requirements."""
    folder = RESULTS / question
    folder.mkdir(parents=True, exist_ok=True)
    out = {"environment": environment(), **results, "requirements": [asdict(r) for r in requirements]}
    (folder / "results.json").write_text(json.dumps(out, indent=1, sort_keys=True) + "\n")
    print()
    print(requirement_table(requirements))


def requirement_table(requirements: list[Requirement]) -> str:
    """Return the table of what was asked and measured."""
    lines = [f"{'requirement':62} {'limit':>14} {'measured':>22}"]
    for r in requirements:
        lines.append(f"{r.name:62} {r.limit:>14} {r.measured:>22}  {'met' if r.is_met else 'NOT MET'}")
    return "\n".join(lines)


def at_most(name: str, value: float, limit: float, unit: str = "") -> Requirement:
    """Return the requirement that ``value`` is at most ``limit``."""
    return Requirement(name, f"<= {limit:,g}{unit}", f"{value:,.4g}{unit}", value <= limit)


def at_least(name: str, value: float, limit: float, unit: str = "") -> Requirement:
    """Return the requirement that ``value`` is at least ``limit``."""
    return Requirement(name, f">= {limit:,g}{unit}", f"{value:,.4g}{unit}", value >= limit)


def all_of(name: str, good: int, total: int) -> Requirement:
    """Return the requirement that every case is good."""
    return Requirement(name, "all", f"{good}/{total}", good == total and total > 0)
