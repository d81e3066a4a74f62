"""The report of a study: `write_report` makes it from raw results alone."""

from .write import write_report

__all__ = ["write_report"]
