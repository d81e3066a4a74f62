"""Multi-scale stamps for sky-survey alerts: the reference codec of the specification in ``spec/``."""

from .batch import Batch, Group, decode_batch
from .cutout import Cutout, Plane, encode_cutouts
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
from .files import read_alerts, write_alerts
from .geometry import PROFILES, Geometry, Placement, profile
from .packet import Alert, EmbeddedAlert
from .packing import pack, unpack
from .pyramid import build_levels, mosaic
from .rules import SPEC_VERSION
from .validate import Finding, check_file
from .version import __version__

__all__ = [
    "Geometry",
    "Placement",
    "PROFILES",
    "profile",
    "build_levels",
    "pack",
    "unpack",
    "mosaic",
    "Cutout",
    "Plane",
    "encode_cutouts",
    "Alert",
    "EmbeddedAlert",
    "read_alerts",
    "write_alerts",
    "decode_batch",
    "Batch",
    "Group",
    "check_file",
    "Finding",
    "StampError",
    "GeometryError",
    "PayloadError",
    "RecordError",
    "WireError",
    "SchemaError",
    "SurveyError",
    "ViewError",
    "SPEC_VERSION",
    "__version__",
]
