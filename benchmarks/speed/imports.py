"""How long `import multiscale` takes beside the import of what it needs."""

import subprocess
import sys
import time

import numpy as np

DEPENDENCIES = "import numpy, fastavro, pydantic, typer"
ROUNDS = 15


def import_ratio() -> float:
    """Return the time of `import multiscale` over that of its dependencies, an empty interpreter's taken off.

    Each is a process of its own; they take turns, and the medians count.
    """
    codes = ("pass", DEPENDENCIES, "import multiscale")
    times: dict[str, list[float]] = {code: [] for code in codes}
    for _ in range(ROUNDS):
        for code in codes:
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times[code].append(time.perf_counter() - begin)
    empty, dependencies, package = (float(np.median(times[code])) for code in codes)
    return (package - empty) / (dependencies - empty)
