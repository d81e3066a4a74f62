"""When each step of a night began, how long it took and what of the processor, in all of its processes.

The functions that the night is made of are called through a stopwatch, in the main process and in those it
starts; nothing else of the night changes. Every call is one line of JSON in a file that all processes add to.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from reference_pipeline.night import differences, reduce
from reference_pipeline.night.differences import DifferenceJob
from reference_pipeline.night.report import DifferenceReport, FrameReport

FILE = "BENCHMARK_NIGHT_CLOCK"  # the environment's word for the file, which reaches every process
_NIGHT = "reference_pipeline.night"
MAIN = {  # (module, function) -> step, in the process that leads the night
    (f"{_NIGHT}.whole", "known_sky"): "open catalogues, orbits",
    (f"{_NIGHT}.whole", "open_store"): "open database",
    (f"{_NIGHT}.whole", "reduce_night"): "reduction of the night",
    (f"{_NIGHT}.reduce", "_look"): "read headers",
    (f"{_NIGHT}.reduce", "make_night_masters"): "masters",
    (f"{_NIGHT}.reduce", "_unchanged"): "what is done already: digests",
    (f"{_NIGHT}.reduce", "_reports_of"): "wait: reduction's processes",
    (f"{_NIGHT}.whole", "_register"): "register exposures",
    (f"{_NIGHT}.whole", "settle_templates"): "templates",
    (f"{_NIGHT}.whole", "_queue"): "queue",
    (f"{_NIGHT}.whole", "commit_difference"): "commit",
    (f"{_NIGHT}.commit", "read_difference"): "commit: open product",
    (f"{_NIGHT}.commit", "associate"): "commit: associate",
    (f"{_NIGHT}.commit", "_forced"): "commit: forced photometry",
    (f"{_NIGHT}.commit", "read_cutouts"): "commit: read cutouts",
    (f"{_NIGHT}.commit", "history_of"): "commit: history, limits",
    (f"{_NIGHT}.commit", "build_alert"): "commit: build alerts",
    (f"{_NIGHT}.commit", "validated_packet"): "commit: pack and validate",
    (f"{_NIGHT}.whole", "deliver"): "deliver",
    (f"{_NIGHT}.whole", "_write_light_curves"): "light curves",
}
REDUCTION = {  # in the process that reduces a frame
    (f"{_NIGHT}.reduce", "_digest"): "digest of raw frame and masters",
    (f"{_NIGHT}.reduce", "open_catalogue"): "open catalogues",
    (f"{_NIGHT}.reduce", "read_raw"): "read raw frame",
    (f"{_NIGHT}.reduce", "read_masters"): "read masters",
    ("reference_pipeline.run", "calibrate"): "calibrate",
    ("reference_pipeline.run", "flag_cosmic_rays"): "cosmic rays",
    ("reference_pipeline.run", "flag_trails"): "trails",
    ("reference_pipeline.run", "find_sources"): "sources",
    ("reference_pipeline.run", "solve"): "astrometry",
    ("reference_pipeline.run", "calibrate_photometry"): "photometry",
    ("reference_pipeline.run", "assess"): "quality",
    ("reference_pipeline.run", "fit_psf"): "PSF",
    ("reference_pipeline.run", "psf_photometry"): "PSF photometry",
    (f"{_NIGHT}.reduce", "write_product"): "write calibrated frame (twice)",
}
DIFFERENCE = {  # in the process of one branch
    (f"{_NIGHT}.differences", "read_product"): "read frame and template",
    (f"{_NIGHT}.differences", "open_catalogue"): "open catalogues",
    (f"{_NIGHT}.differences", "known_sky"): "open catalogues",
    (f"{_NIGHT}.differences", "bin_frame"): "bin, sources, PSF, zero point",
    ("reference_pipeline.run", "align"): "align",
    ("reference_pipeline.run", "subtract_in_parts"): "subtract, whiten, score",
    ("reference_pipeline.run", "find_candidates"): "detect, cuts",
    ("reference_pipeline.run", "cross_match"): "cross-match",
    (f"{_NIGHT}.differences", "cutouts"): "cutouts",
    (f"{_NIGHT}.differences", "write_cutouts"): "cutouts",
    (f"{_NIGHT}.differences", "write_difference"): "write product",
    (f"{_NIGHT}.differences", "_picture"): "picture for the report",
    (f"{_NIGHT}.differences", "read_difference"): "read product back",
}
_running: list[int] = []  # of this process, the outermost first
_count = 0
_label = ""  # what this process works on


@contextmanager
def night_timed(path: Path) -> Iterator[None]:
    """Time the night that is run inside; its steps go to ``path``."""
    path.unlink(missing_ok=True)
    os.environ[FILE] = str(path)
    with _through_stopwatch(MAIN):
        old = reduce.reduce_one, _whole().make_difference
        reduce.reduce_one, _whole().make_difference = timed_reduce_one, timed_make_difference
        try:
            yield
        finally:
            reduce.reduce_one, _whole().make_difference = old
            del os.environ[FILE]


def timed_reduce_one(job: reduce.Job) -> FrameReport:
    """In a process of the night: reduce_one with its steps timed."""
    with _work(f"reduce {job.path.stem}"), _through_stopwatch(REDUCTION):
        return _timed("reduce one frame", reduce.reduce_one)(job)


def timed_make_difference(job: DifferenceJob) -> DifferenceReport:
    """In a process of the night: make_difference with its steps timed."""
    with _work(job.branch), _through_stopwatch(DIFFERENCE):
        return _timed("make difference", differences.make_difference)(job)


def _whole() -> Any:
    return import_module(f"{_NIGHT}.whole")


@contextmanager
def _work(label: str) -> Iterator[None]:
    """Name what this process does; before its first work, say what its start took, imports included."""
    global _label
    if not _count:
        age = _age()
        _write("start the process, import", label, time.time() - age, age, time.process_time(), None)
    _label = label
    yield


def _age() -> float:
    """Seconds since this process began, to 10 ms (proc(5), field 22 of stat; of boot, as the clock)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def _through_stopwatch(targets: dict[tuple[str, str], str]) -> Iterator[None]:
    before = []
    for (module_name, name), step in targets.items():
        module = import_module(module_name)
        before.append((module, name, getattr(module, name)))
        setattr(module, name, _timed(step, before[-1][2]))
    try:
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)


def _timed(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def timed(*arguments: Any, **options: Any) -> Any:
        global _count
        _count += 1
        number, inside = _count, (_running[-1] if _running else None)
        _running.append(number)
        start, wall, cpu = time.time(), time.perf_counter(), time.process_time()
        try:
            return function(*arguments, **options)
        finally:
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            _running.pop()
            label = arguments[1].branch if step == "commit" else _label
            _write(step, label, start, wall, cpu, inside, number)

    return timed


def _write(
    step: str, label: str, start: float, wall: float, cpu: float, inside: int | None, number: int = 0
) -> None:
    line = {"step": step, "of": label, "pid": os.getpid(), "number": number, "inside": inside,
            "start": start, "wall": wall, "cpu": cpu}  # fmt: skip
    with open(os.environ[FILE], "a") as file:  # one short line: whole, whoever else writes
        file.write(json.dumps(line) + "\n")


def read_clock(path: Path) -> list[dict[str, Any]]:
    """Return the steps in the order in which they began."""
    return sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda e: e["start"])
