"""Multi-scale stamps for sky-survey alerts: the reference codec of the specification in ``spec/``."""

from .cutout import Cutout, encode_cutouts
from .errors import (
    GeometryError,
    PayloadError,
    RecordError,
    SchemaError,
    StampError,
    SurveyError,
    ViewError,
    WireError,
)
from .geometry import PROFILES, Geometry, Placement, profile
from .packing import pack, unpack
from .pyramid import build_levels, mosaic
from .rules import SPEC_VERSION
from .version import __version__
