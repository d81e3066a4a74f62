"""Ask every question and print one table of what was asked and measured: `python -m benchmarks`."""

import sys

from benchmarks.common import need_real_alerts, requirement_table
from benchmarks.fidelity.__main__ import measure as fidelity
from benchmarks.size.__main__ import measure as size
from benchmarks.speed.__main__ import measure as speed


def main() -> None:
    """Run all; exit status 1 when a requirement is not met."""
    need_real_alerts()
    requirements = [*size(), *fidelity(), *speed()]
    print("\nall questions\n" + requirement_table(requirements))
    sys.exit(0 if all(r.is_met for r in requirements) else 1)


if __name__ == "__main__":
    main()
