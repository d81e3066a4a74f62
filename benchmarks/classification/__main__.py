"""Classification: `python -m benchmarks.classification QUESTION`.

stamps, real_bogus and clouds ask shipped models (or --models) about simulated data of other skies than the
training's (--data); transfer asks them about real alerts; gap, how simulated stamps differ from real ones;
speed, how fast they are.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

QUESTIONS = ("stamps", "real_bogus", "clouds", "transfer", "gap", "speed")
NEED_DATA = ("stamps", "real_bogus", "clouds", "gap")


def main(words: list[str] | None = None) -> int:
    """Ask one question; return 1 when a requirement is not met."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], help="folders of labelled stamps or thumbnails"
    )
    parser.add_argument(
        "--models", nargs="+", default=[], help="shipped models, or cards (.json); default: all shipped"
    )
    parser.add_argument("--full", action="store_true", help="more draws and rounds")
    given = parser.parse_args(words)
    if given.question in NEED_DATA and not given.data:
        parser.error(
            f"{given.question}: --data: simulated stamps or thumbnails, of another seed than the training's"
        )
    question = import_module(f"benchmarks.classification.{given.question}")
    requirements = question.measure(given.data, given.models, full=given.full)
    return 0 if all(r.is_met for r in requirements) else 1


if __name__ == "__main__":
    sys.exit(main())
