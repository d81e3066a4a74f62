"""The version of the package; the specification has its own, in every packet."""

__version__ = "0.1.0"
