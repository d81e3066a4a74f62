"""What a set of simulated labelled stamps is made of: a TOML file. Shipped: ztf, ast3, lsst."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from multiscale import Geometry
from multiscale.errors import StampError

from ..config import Config, find_description, load_toml, parse_model
from ..simulate.sky import SkyConfig
from ..simulate.survey import Asteroids


class Footprint(Config):
    """Where the survey looks."""

    min_dec: float = -90.0  # degrees
    max_dec: float = 90.0
    min_altitude: float = Field(default=30.0, gt=0, lt=90)  # degrees, of an exposure
    latitude: float = Field(default=7.0, ge=0)  # galactic: nearer to the plane only some places are taken
    nearest: float = Field(default=4.0, ge=0)  # galactic latitude below which none is
    near_share: float = Field(default=0.3, ge=0, le=1)  # of the places between, taken


class Air(Config):
    """How the air differs between exposures, beyond the survey's own weather."""

    template_seeing: float = Field(default=0.9, gt=0)  # times the survey's median
    template_scatter: float = Field(default=0.07, ge=0)  # of ln(seeing)
    seeing_scatter: float = Field(default=0.18, ge=0)
    moon_share: float = Field(default=0.4, ge=0, le=1)  # of exposures with moonlight
    moonlight: tuple[float, float] = (0.3, 2.3)  # mag that it makes the sky brighter
    moon_gradient: tuple[float, float] = (0.0, 0.05)  # of the sky over the chip
    jitter: float = Field(default=0.15, ge=0)  # arcsec
    patchy_clouds: float = Field(
        default=0.0, ge=0
    )  # times the survey's rate: each star seen through one varies


class StampSet(Config):
    """A set. Densities are far above nature's, so that every exposure shows many of each class."""

    survey: str  # one of simulate/surveys
    size: int = Field(ge=256)  # pixels, side of the chip
    bands: tuple[str, ...] = Field(min_length=1)
    chips: int = Field(default=4, ge=1)  # with defects of their own
    dates: tuple[float, float] = (58800.0, 61500.0)  # MJD, of first epochs
    template_days: tuple[float, float] = (200.0, 500.0)  # before the first epoch
    template_frames: int = Field(default=1, ge=1)  # more than one: a stack
    epochs: tuple[int, int] = (4, 6)
    days: float = Field(default=40.0, gt=0)  # from the first epoch to the last
    branches: tuple[Literal["dip", "qip"], ...] = ("dip",)
    originals: dict[str, int]  # branch -> pixels a side
    profile: str | None = None  # of the cutouts; None: four levels of 16 pixels
    footprint: Footprint = Footprint()
    air: Air = Air()
    sky: SkyConfig
    asteroids: Asteroids
    template_asteroids: float = Field(default=2.0, ge=0)  # a field, in the template
    template_satellites: float = Field(default=0.1, ge=0, le=1)  # times the rates of the others
    poor_share: float = Field(default=0.35, ge=0, le=1)  # of epochs: reduced and subtracted poorly
    detector: dict[str, float] = Field(default={})  # in place of the telescope's own, for a chip of this size


def load_set(name: str) -> StampSet:
    """Return the set of the TOML file ``name``, or the one shipped under that name.

    Raises ConfigError when there is neither, or it does not hold.
    """
    path = find_description(name, "sets", package=__package__)
    return parse_model(StampSet, load_toml(path), str(path))


class Options(Config):
    """What may be asked of a set beside its description."""

    size: int | None = None  # of the cutouts; None: the description's profile
    levels: int | None = None
    encoding: Literal["raw", "rice"] = "raw"
    inject: int = Field(default=0, ge=0)  # point sources put into each science frame
    with_cut: bool = False  # also what the pipeline's cuts remove
    branches: tuple[Literal["dip", "qip"], ...] = ()  # empty: the description's

    @model_validator(mode="after")
    def _shape_holds(self) -> Options:
        try:
            Geometry(self.size or 16, self.levels or 4)
        except StampError as error:
            raise ValueError(str(error)) from error
        return self


def options_of(**given: object) -> Options:
    """Return options. Raises ConfigError for what cannot be asked."""
    return parse_model(Options, given, "options")
