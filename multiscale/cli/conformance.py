"""``multiscale conformance``."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated

import typer

from ..conformance import answer, load_vectors, run_vectors
from .common import misuse


def conformance(
    decoder: Annotated[
        str | None, typer.Option(metavar="CMD", help="The program to test; see spec/v1/vectors/README.md.")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Another folder of vectors.", exists=True, file_okay=False)
    ] = None,
    operation: Annotated[
        str | None, typer.Option(help="Only one operation: decode, encode, packet or file.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Be such a program: answer requests on standard input.")
    ] = False,
) -> None:
    """Run the conformance vectors against a program in any language, and print the clauses it fails.

    The program answers one line for each line it reads; spec/v1/vectors/README.md has the protocol.

    Exit status: 0 if every vector that it supports passes, 1 if any fails, 2 if the command was misused.
    """
    if serve:
        for line in sys.stdin:
            sys.stdout.write(answer(line) + "\n")
            sys.stdout.flush()
        return
    if decoder is None:
        raise misuse("give --decoder 'CMD', or --serve")
    chosen = [v for v in load_vectors(vectors) if operation in (None, v.operation)]
    counts: Counter[str] = Counter()
    failed_clauses: dict[str, int] = defaultdict(int)
    for verdict in run_vectors(decoder, chosen):
        counts[verdict.status] += 1
        if verdict.status == "failed":
            data = verdict.vector.data
            failed_clauses[str(data["clause"])] += 1
            typer.echo(f"{verdict.vector.id} [spec {data['clause']}] {data['comment']}: {verdict.message}")
    summary = f"{counts['passed']} passed, {counts['failed']} failed, {counts['unsupported']} unsupported"
    typer.echo(summary, err=True)
    if failed_clauses:
        typer.echo("clauses: " + ", ".join(f"{c} ({n})" for c, n in sorted(failed_clauses.items())), err=True)
    if not counts["passed"] and not counts["failed"]:
        typer.echo("the program supports no operation: nothing was tested", err=True)
        raise typer.Exit(1)
    raise typer.Exit(1 if counts["failed"] else 0)
