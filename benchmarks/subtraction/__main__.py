"""Cost of the subtraction, beside sfft and with the frame's size: `python -m benchmarks.subtraction`.

What it finds, and how it does on real pairs, are questions of their own: `benchmarks.subtraction.transients`
and `benchmarks.subtraction.real_pairs`. `--full` takes larger images and the whole chip of AST3-3.
"""

import argparse

from benchmarks.subtraction import scaling, speed


def main() -> None:
    """Ask both questions of cost."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--full", action="store_true", help="larger images; many minutes, 8 GiB")
    full = parser.parse_args().full
    speed.measure(full=full)
    scaling.measure(full=full)


if __name__ == "__main__":
    main()
