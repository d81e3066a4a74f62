"""Ask every question and print one table of what was asked and measured: `python -m benchmarks`."""

import sys

from benchmarks.common import is_full, requirement_table
from benchmarks.fidelity.__main__ import measure as fidelity
from benchmarks.size.__main__ import measure as size
from benchmarks.speed.__main__ import measure as speed


def main() -> int:
    """Run all; return 1 when a requirement is not met."""
    full = is_full(__doc__)
    requirements = [*size(full=full), *fidelity(full=full), *speed(full=full)]
    print("\nall questions\n" + requirement_table(requirements))
    return 0 if all(r.is_met for r in requirements) else 1


if __name__ == "__main__":
    sys.exit(main())
