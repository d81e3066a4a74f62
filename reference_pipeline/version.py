"""The version of the pipeline, which every product carries: the package's."""

from multiscale.version import __version__

__all__ = ["__version__"]
