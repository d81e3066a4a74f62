"""Cross-match: what is known at a candidate's place."""

from .galaxies import Galaxies, GalaxyCatalogue, galaxy_radius, open_galaxies
from .match import KnownSky, cross_match, open_sky, planets_in_field
from .minor_planets import MinorPlanets, PlanetPosition, open_minor_planets

__all__ = [
    "KnownSky",
    "open_sky",
    "cross_match",
    "planets_in_field",
    "GalaxyCatalogue",
    "Galaxies",
    "open_galaxies",
    "galaxy_radius",
    "MinorPlanets",
    "PlanetPosition",
    "open_minor_planets",
]
