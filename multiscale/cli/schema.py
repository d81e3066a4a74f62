"""``multiscale schema``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..atomic import replacing
from ..evolution import check_evolution
from ..schema import embed_cutout, load_schema, load_schema_file, schema_names

app = typer.Typer(help="List, show, embed and compare Avro schemas.", no_args_is_help=True)
_FILE = {"exists": True, "dir_okay": False}


@app.command("list")
def list_() -> None:
    """List the schemas of the specification, one name a line."""
    for name in schema_names():
        typer.echo(name)


@app.command()
def show(name: Annotated[str, typer.Argument(help="A name from `multiscale schema list`.")]) -> None:
    """Print one schema as JSON, with every type it uses in it."""
    typer.echo(json.dumps(load_schema(name), indent=2, ensure_ascii=False))


@app.command()
def embed(
    path: Annotated[Path, typer.Argument(help="Your alert schema, *.avsc.", exists=True, dir_okay=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file; standard output otherwise.")
    ] = None,
) -> None:
    """Append the optional field cutoutMultiscale to your own alert schema, as its last field."""
    text = json.dumps(embed_cutout(load_schema_file(path)), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        typer.echo(text, nl=False)
        return
    with replacing(output) as partial:
        partial.write_text(text)


@app.command()
def check(
    old: Annotated[Path, typer.Argument(help="The older version, *.avsc.", exists=True, dir_okay=False)],
    new: Annotated[Path, typer.Argument(help="The newer version, *.avsc.", exists=True, dir_okay=False)],
) -> None:
    """Check that each of two schema versions can read what the other wrote (clause 10.2).

    Exit status: 0 if they can, 1 if not, with one line for each reason.
    """
    troubles = check_evolution(load_schema_file(old), load_schema_file(new))
    for trouble in troubles:
        typer.echo(f"{new}: {trouble}")
    raise typer.Exit(1 if troubles else 0)
