"""``multiscale sample``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..samples import SEED, write_samples


class Survey(StrEnum):
    """Whose packets to imitate."""

    ZTF = "ztf"
    LSST = "lsst"


def sample(
    output: Annotated[Path, typer.Option("--output", "-o", help="The Avro file to write.")],
    survey: Annotated[Survey, typer.Option(help="Whose packets to imitate.")] = Survey.ZTF,
    number: Annotated[int, typer.Option("--number", "-n", help="How many alerts.", min=1)] = 12,
    seed: Annotated[int, typer.Option(help="The same seed gives the same alerts.")] = SEED,
) -> None:
    """Write simulated alerts in a survey's own format, to try the other commands on."""
    write_samples(output, survey=survey.value, n=number, seed=seed)
    typer.echo(output)
