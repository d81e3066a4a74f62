"""How long `import multiscale` takes beside the import of what it needs."""

import subprocess
import sys
import time

DEPENDENCIES = "import numpy, fastavro, pydantic, typer"
CODES = {"empty": "pass", "dependencies": DEPENDENCIES, "multiscale": "import multiscale"}


def import_seconds(*, rounds: int) -> dict[str, list[float]]:
    """Return the wall seconds of an empty interpreter and of each import, a process of its own each."""
    times: dict[str, list[float]] = {name: [] for name in CODES}
    for _ in range(rounds):
        for name, code in CODES.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times[name].append(time.perf_counter() - begin)
    return times
