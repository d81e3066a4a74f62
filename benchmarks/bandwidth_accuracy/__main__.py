"""Bandwidth against accuracy: `python -m benchmarks.bandwidth_accuracy run|evaluate|report`.

run STUDY -o OUT trains what the study compares; evaluate OUT scores it; report OUT makes the pages.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from multiscale.errors import StampError
from reference_pipeline.errors import PipelineError


def main(words: list[str] | None = None) -> int:
    """Do one step; return 2 for what cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bandwidth_accuracy", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    run = steps.add_parser("run", help="data, bytes and trials; goes on where it was stopped")
    run.add_argument("study", help="a shipped study (small, ztf, full), or a .toml")
    run.add_argument("-o", "--out", type=Path, required=True)
    run.add_argument("--data", type=Path, nargs="+", default=[], help="folders of labelled stamps")
    run.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    run.add_argument("--engine", choices=["local", "ray"], default="local")
    for step, what in (("evaluate", "scores, intervals, costs"), ("report", "HTML and PDF")):
        steps.add_parser(step, help=what).add_argument("out", type=Path)
    given = parser.parse_args(words)
    try:
        if given.step == "run":
            from .run import run_study
            from .study import load_study

            run_study(
                load_study(given.study), given.out, folders=given.data, workers=given.workers,
                engine=given.engine, say=_say,
            )  # fmt: skip
        elif given.step == "evaluate":
            from .evaluate import evaluate

            evaluate(given.out, say=_say)
        else:
            from .report import write_report

            write_report(given.out)
    except (PipelineError, StampError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
