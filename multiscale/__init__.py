"""Multi-scale stamps for sky-survey alerts: the reference codec of the specification in ``spec/``.

What reads and writes files is loaded when it is first used, so that importing the codec stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .cutout import Cutout, Plane
from .encode import encode_cutouts
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

if TYPE_CHECKING:
    from .batch import Batch, Group, decode_batch
    from .files import read_alerts, write_alerts
    from .packet import Alert, EmbeddedAlert
    from .validate import Finding, check_file

_LATER = {
    "batch": ("Batch", "Group", "decode_batch"),
    "files": ("read_alerts", "write_alerts"),
    "packet": ("Alert", "EmbeddedAlert"),
    "validate": ("Finding", "check_file"),
}
_MODULE_OF = {name: module for module, names in _LATER.items() for name in names}


def __getattr__(name: str) -> Any:
    """Return a name of a module that is loaded on first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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
