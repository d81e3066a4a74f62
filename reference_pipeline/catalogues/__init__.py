"""Reference catalogues: stars to calibrate by, galaxies and minor planets to match with."""

from .stars import ReferenceCatalogue, ReferenceStars

__all__ = ["ReferenceCatalogue", "ReferenceStars"]
