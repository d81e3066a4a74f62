"""A labelled stamp, and the Avro files that hold many: packets as surveys send them, with what is true.

A record embeds a cutout (specification 6.7), so that every tool of multiscale reads the file; beside it lie
the pixels it was made from, so that any other layout can be made of the same detection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiscale import Cutout
from multiscale.atomic import replacing
from multiscale.avro import Schema, container_of, encode_body, read_container
from multiscale.errors import StampError
from multiscale.packet import EMBEDDED_FIELD
from multiscale.schema import load_schema

from ..errors import FileError
from ..taxonomy import BOGUS_CAUSES, STAMP_CLASSES

SUFFIX = ".stamps.avro"
STAGE = "labelled"


@dataclass(frozen=True)
class Original:
    """The pixels around a detection as the survey cut them, at full resolution."""

    planes: Mapping[str, NDArray[np.float32]]  # kind -> (H, W), all of one shape; invalid pixels NaN
    x: float  # 0-based position of the object in them
    y: float

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of every plane."""
        ny, nx = next(iter(self.planes.values())).shape
        return ny, nx


@dataclass(frozen=True)
class LabelledStamp:
    """One detection and what it is.

    Splits keep ``field_id`` and ``exposure_id`` whole: neighbours on the sky and glints of one satellite
    share too much to be on both sides.
    """

    stamp_id: str  # unique in a data set
    label: str  # one of taxonomy.STAMP_CLASSES
    object_id: str  # the same for all detections of an object
    exposure_id: str
    field_id: str  # a cell of the sky
    survey: str  # "ztf", "lsst", "ast3"
    branch: str  # "dip", "qip"; "" for what another pipeline made
    band: str
    mjd: float  # mid-exposure, UTC
    ra: float  # degrees, ICRS
    dec: float
    snr: float  # of the difference, with its sign
    cutout: Cutout = field(repr=False)
    original: Original | None = field(default=None, repr=False)
    magnitude: float | None = None  # of the difference
    subtype: str | None = None  # "SN-Ia", "RR Lyrae", "glints": the label's own kind, as its source says it
    cause: str | None = None  # of bogus: one of taxonomy.BOGUS_CAUSES
    n_detections: int = 1  # of the object in the data it was taken from
    is_first: bool = True  # the earliest of them
    is_random: bool = True  # the one drawn to stand for its object
    is_simulated: bool = True
    is_weak: bool = False  # the label is a hint
    source: str = ""  # of a real label: who says so
    cut: str | None = None  # the pipeline's cut that would have removed it (detect/cuts.py)

    def __post_init__(self) -> None:
        if self.label not in STAMP_CLASSES:
            raise ValueError(f"label {self.label!r}: expected one of {', '.join(STAMP_CLASSES)}")
        if self.cause is not None and self.cause not in BOGUS_CAUSES:
            raise ValueError(f"cause {self.cause!r}: expected one of {', '.join(BOGUS_CAUSES)}")


_OWN = ("cutout", "original")  # fields that do not travel under their own names
_KINDS: dict[str, Any] = {
    "mjd": "double", "ra": "double", "dec": "double", "snr": "double", "magnitude": ["null", "double"],
    "subtype": ["null", "string"], "cause": ["null", "string"], "cut": ["null", "string"],
    "n_detections": "int",
    **dict.fromkeys(("is_first", "is_random", "is_simulated", "is_weak"), "boolean"),
}  # fmt: skip


@lru_cache(maxsize=1)
def stamp_schema() -> Schema:
    """Return the Avro schema of labelled stamps; the cutout is embedded last."""
    plain = [
        {"name": f.name, "type": _KINDS.get(f.name, "string")}
        for f in fields(LabelledStamp)
        if f.name not in _OWN
    ]
    original = {
        "type": "record", "name": "Original", "doc": "Pixels at full resolution, float32, little-endian.",
        "fields": [
            {"name": "kinds", "type": {"type": "array", "items": "string"}},
            {"name": "height", "type": "int"}, {"name": "width", "type": "int"},
            {"name": "x", "type": "double"}, {"name": "y", "type": "double"},
            {"name": "pixels", "type": "bytes", "doc": "Plane after plane, row-major; invalid: NaN."},
        ],
    }  # fmt: skip
    return Schema.of({
        "type": "record", "name": "LabelledStamp", "namespace": "reference_pipeline",
        "doc": "A detection whose class is known.",
        "fields": [
            *plain,
            {"name": "original", "type": ["null", original], "default": None},
            {"name": EMBEDDED_FIELD, "type": ["null", load_schema("multiscale.Cutout")], "default": None},
        ],
    })  # fmt: skip


def write_stamps(path: Path, stamps: Iterable[LabelledStamp]) -> int:
    """Write ``stamps`` to ``path``, whole or not at all, and return how many.

    The same stamps give the same bytes. All of one file are in memory at once: a data set is many files.
    """
    bodies = [encode_body(stamp_schema(), _record(stamp)) for stamp in stamps]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, sync=True) as partial:
        partial.write_bytes(container_of(stamp_schema(), bodies))
    return len(bodies)


def read_stamps(path: Path) -> Iterator[LabelledStamp]:
    """Yield the stamps of a file. Raises FileError ("not-labelled") for another or a damaged one."""
    for number, record in enumerate(read_stamp_records(path)):
        try:
            yield stamp_of(record)
        except (StampError, KeyError, TypeError, ValueError) as error:
            raise _not_ours(path, f"record {number}: {error}") from error


def read_stamp_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a file's Avro records as they are: what ``multiscale.decode_batch`` takes, thousands a second.

    Raises FileError ("not-labelled").
    """
    try:
        with read_container(path) as reader:
            if reader.schema.get("name") != "LabelledStamp":
                raise _not_ours(path, f"an Avro container of {reader.schema.get('name')}")
            yield from reader
    except (OSError, StampError) as error:
        raise _not_ours(path, error) from error


def stamp_of(record: Mapping[str, Any]) -> LabelledStamp:
    """Return the stamp in a record. Raises StampError, KeyError, TypeError or ValueError for what is none."""
    plain = {f.name: record[f.name] for f in fields(LabelledStamp) if f.name not in _OWN}
    return LabelledStamp(
        **plain, cutout=Cutout.from_record(record[EMBEDDED_FIELD]), original=original_of(record)
    )


def original_of(record: Mapping[str, Any]) -> Original | None:
    """Return the full-resolution pixels in a record, None where it has none."""
    packed = record["original"]
    if packed is None:
        return None
    shape = (len(packed["kinds"]), packed["height"], packed["width"])
    pixels = np.frombuffer(packed["pixels"], "<f4").reshape(shape)
    planes = dict(zip(packed["kinds"], pixels, strict=True))
    return Original(planes, packed["x"], packed["y"])


def stamp_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files of labelled stamps among ``paths``: files as they are, folders searched, in order.

    Raises FileError where there are none.
    """
    given = list(paths)
    found = [
        file for path in given for file in (sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else [path])
    ]
    if not found:
        names = ", ".join(map(str, given))
        raise FileError(names, STAGE, "not-labelled", f"{names}: no file *{SUFFIX} there")
    return found


def _record(stamp: LabelledStamp) -> dict[str, Any]:
    record = {f.name: getattr(stamp, f.name) for f in fields(LabelledStamp) if f.name not in _OWN}
    original = stamp.original
    if original is not None:
        ny, nx = original.shape
        record["original"] = {
            "kinds": list(original.planes), "height": ny, "width": nx, "x": original.x, "y": original.y,
            "pixels": b"".join(np.asarray(p, "<f4").tobytes() for p in original.planes.values()),
        }  # fmt: skip
    else:
        record["original"] = None
    return {**record, EMBEDDED_FIELD: stamp.cutout.to_record()}


def _not_ours(path: Path, why: object) -> FileError:
    return FileError(path.name, STAGE, "not-labelled", f"{path}: {why}")
