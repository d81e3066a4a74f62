"""What every question shares: the real alerts, the requirements, and where raw results go."""

import argparse
import csv
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from multiscale.avro import read_container
from multiscale.errors import StampError
from multiscale.surveys import SurveyAlert, read_survey_alert

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
RESULTS = ROOT / "benchmarks" / "results"
PLANES = ("science", "template", "difference")
SEED = 20_261_121  # of whatever a benchmark draws
PACKAGES = ("numpy", "fastavro", "pydantic", "astropy")


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
    n_file_bytes: int  # of the container, the schema included
    is_original: bool  # neither repacked nor written again by a broker: its whole size is evidence

    @property
    def has_three_planes(self) -> bool:
        """Science, template and difference are all there."""
        return all(name in self.alert.cutout.planes for name in PLANES)


def is_full(doc: str) -> bool:
    """Return whether the command line asks for the full setting; the small one takes about a minute."""
    parser = argparse.ArgumentParser(description=doc.partition(":")[0])
    parser.add_argument("--full", action="store_true", help="every alert and more rounds; minutes")
    full = bool(parser.parse_args().full)
    need_real_alerts()
    return full


def need_real_alerts() -> None:
    """End with a clear word where the real alerts are not beside the checkout."""
    if not (DATA / "alerts").is_dir():
        print("the benchmarks measure real alerts: put them into ../shared/data beside the checkout")
        sys.exit(2)


@lru_cache(maxsize=4)
def real_alerts(survey: str) -> tuple[RealAlert, ...]:
    """Return every alert of "ztf" or "lsst" in an Avro container, in the order of their files."""
    with (DATA / "alerts" / "MANIFEST.csv").open(newline="") as file:
        manifest = {row["file"]: row for row in csv.DictReader(file)}
    out = []
    for path in sorted((DATA / "alerts" / survey).glob("*.avro")):
        row = manifest[f"{survey}/{path.name}"]
        original = row["repacked"] == "no" and row["broker_reserialised"] == "no"
        try:
            reader = read_container(path)
            for record in reader:
                alert = read_survey_alert(record, schema=reader.schema)
                size = path.stat().st_size
                out.append(RealAlert(row["file"], reader.schema, record, alert, size, original))
        except StampError as error:
            print(f"left out: {row['file']}: {error}", file=sys.stderr)
    return tuple(out)


@lru_cache(maxsize=1)
def labelled_alerts() -> tuple[RealAlert, ...]:
    """Return the labelled ZTF alerts: their cutouts as they were sent, without most of the record."""
    out = []
    for path in sorted((DATA / "ztf_labelled").glob("*.avro")):
        reader = read_container(path)
        for record in reader:
            alert = read_survey_alert(record, survey="ZTF")
            out.append(RealAlert(f"ztf_labelled/{path.name}", reader.schema, record, alert, 0, False))
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
    return {
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed_since": bool(_git("status", "--porcelain", "multiscale", "spec", "benchmarks")),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "seed": SEED,
    }


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else []
    return names[0] if names else platform.machine()


def save(question: str, results: dict, requirements: list[Requirement], *, full: bool) -> None:
    """Write the raw measurements of a question as JSON and print its requirements."""
    folder = RESULTS / question
    folder.mkdir(parents=True, exist_ok=True)
    out = {
        "environment": environment(),
        "setting": "full" if full else "small",
        "requirements": [asdict(r) for r in requirements],
        **results,
    }
    text = json.dumps(out, indent=1)
    text = re.sub(r"\[[-+.\deE,\s]*\]", lambda found: re.sub(r"\s+", "", found[0]), text)  # numbers in a row
    text = re.sub(r"\{[^{}]*\}", lambda found: re.sub(r"\n\s*", " ", found[0]), text)  # one thing, one line
    (folder / "results.json").write_text(text + "\n")
    print()
    print(requirement_table(requirements))


def save_figure(figure: Any, path: Path, *, dpi: int, n_colors: int = 128) -> None:
    """Write a matplotlib figure as a PNG of few colors: a third of the bytes, as clear to the eye."""
    from PIL import Image  # comes with matplotlib

    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, metadata={"Software": None})
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(n_colors, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    few.save(path, optimize=True)


def load(question: str) -> dict:
    """Return the results that the last run of a question wrote."""
    return json.loads((RESULTS / question / "results.json").read_text())


def requirement_table(requirements: list[Requirement]) -> str:
    """Return the table of what was asked and measured."""
    width = max(len(r.name) for r in requirements)
    lines = [f"{'requirement':{width}} {'limit':>13} {'measured':>13}"]
    for r in requirements:
        lines.append(f"{r.name:{width}} {r.limit:>13} {r.measured:>13}  {'met' if r.is_met else 'NOT MET'}")
    return "\n".join(lines)


def at_most(name: str, value: float, limit: float, unit: str = "") -> Requirement:
    """Return the requirement that ``value`` is at most ``limit``."""
    return Requirement(name, f"<= {limit:,g}{unit}", f"{value:,.4g}{unit}", bool(value <= limit))


def at_least(name: str, value: float, limit: float, unit: str = "") -> Requirement:
    """Return the requirement that ``value`` is at least ``limit``."""
    return Requirement(name, f">= {limit:,g}{unit}", f"{value:,.4g}{unit}", bool(value >= limit))


def all_of(name: str, good: int, total: int) -> Requirement:
    """Return the requirement that every case is good."""
    return Requirement(name, "all", f"{good}/{total}", good == total and total > 0)
