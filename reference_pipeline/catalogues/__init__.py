"""Reference catalogues: stars to calibrate by, galaxies and minor planets to match with."""

from .local import FileCatalogue, LocalCatalogue, StarTable, write_partitioned
from .online import OnlineCatalogue
from .opening import open_catalogue
from .stars import ReferenceCatalogue, ReferenceStars
from .tycho2 import Tycho2

__all__ = [
    "ReferenceStars",
    "ReferenceCatalogue",
    "open_catalogue",
    "LocalCatalogue",
    "FileCatalogue",
    "StarTable",
    "Tycho2",
    "OnlineCatalogue",
    "write_partitioned",
]
