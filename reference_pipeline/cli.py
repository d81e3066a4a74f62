"""The command ``reference-pipeline``."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="From raw frames to multi-scale alerts.")


def main() -> None:
    """Run the command."""
    app()
