"""The command line: what each command parses and prints. The work is in the package's own modules."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..errors import StampError
from ..rules import SPEC_VERSION
from ..version import __version__
from . import conformance, convert, inspect, sample, schema, show, size, validate

app = typer.Typer(
    name="multiscale",
    help="Multi-scale stamps for sky-survey alerts: convert, validate, look at and decode them.",
    epilog="Start with: multiscale convert ALERTS.avro -o OUT.avro, then multiscale show OUT.avro -o OUT.png",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"multiscale {__version__}, specification {SPEC_VERSION}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the versions.")
    ] = False,
) -> None:
    """Multi-scale stamps for sky-survey alerts: convert, validate, look at and decode them."""


app.command("convert")(convert.convert)
app.command("validate")(validate.validate)
app.command("inspect")(inspect.inspect)
app.command("show")(show.show)
app.command("export")(show.export)
app.command("size")(size.size)
app.command("sample")(sample.sample)
app.command("conformance")(conformance.conformance)
app.add_typer(schema.app, name="schema")


def main() -> None:
    """Run the command; trouble is one line on standard error and exit status 2, never a traceback."""
    try:
        app()
    except StampError as error:
        _fail(str(error))
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the output has enough
        sys.exit(0)
    except OSError as error:
        _fail(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
    except KeyboardInterrupt:
        _fail("interrupted")


def _fail(message: str) -> None:
    typer.echo(f"multiscale: {message}", err=True)
    sys.exit(2)
