"""``python -m multiscale``: the command."""

from .cli import main

main()
