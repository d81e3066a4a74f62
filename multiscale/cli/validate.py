"""``multiscale validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..validate import check_file
from .common import PATHS_HELP, expand, with_progress


def validate(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help=PATHS_HELP, exists=True)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per finding.")] = False,
) -> None:
    """Check every packet against the specification: schema, fields, payloads, checksums, pixels.

    Silence means that all conform. One finding is one line: file, packet, field, found, expected, clause.

    Exit status: 0 if all conform, 1 if any does not, 2 if the command was misused.
    """
    n_findings = 0
    for path in with_progress(expand(paths), "validating"):
        for finding in check_file(path):
            typer.echo(finding.to_json() if as_json else str(finding))
            n_findings += 1
    raise typer.Exit(1 if n_findings else 0)
