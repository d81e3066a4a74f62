"""What `reference-pipeline train` measured on its own test cells, kept beside the papers' figures.

    python -m benchmarks.classification.trained FOLDER...

FOLDER holds the NAME.result.json that the command leaves; one a model is kept, the last one named.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.common import Requirement, at_least, save

QUESTION = "classification/trained"
#: Of the papers; theirs are of real stamps, or of injected sources and real residuals, ours are simulated.
PAPER_F1 = 0.8739  # multi-scale, test set (Reyes-Jainaga+ 2023, Table 1)
PAPER_ACCURACY = 0.9920  # 91 x 91 (Sun+ 2022, Table 3)


def main() -> None:
    """Keep the results of the folders named."""
    files = [file for folder in sys.argv[1:] for file in sorted(Path(folder).glob("*.result.json"))]
    if not files:
        sys.exit(f"no *.result.json in {' '.join(sys.argv[1:]) or 'no folder'}")
    found = {result["name"]: result for result in map(_read, files)}
    save(QUESTION, {"simulated": True, "models": found}, requirements(found), full=False)


def requirements(found: dict[str, dict]) -> list[Requirement]:
    """Return each model's figure beside that of the paper whose task it has."""
    out = []
    for name, result in sorted(found.items()):
        if result["recipe"]["task"] == "stamps":
            out.append(at_least(f"{name}: macro F1, the paper's", result["test"]["macro_f1"], PAPER_F1))
        else:
            out.append(at_least(f"{name}: accuracy, the paper's", result["test"]["accuracy"], PAPER_ACCURACY))
    return out


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
