"""The multi-scale cutouts of an exposure's candidates, and the file that takes them to where alerts are made.

Cutouts are made where the images are, in a process that may be one of many; alerts later and elsewhere, once
an object and its history are known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from multiscale import Cutout, Geometry, Placement, encode_cutouts, profile
from multiscale.atomic import replacing
from multiscale.avro import ContainerReader, Schema, container_of, encode_body, read_container
from multiscale.errors import StampError
from multiscale.packet import EMBEDDED_FIELD
from multiscale.schema import load_schema

from ..candidate import Candidate
from ..config import Alerts
from ..difference_products import FOLDER, file_stem
from ..errors import ConfigError, FileError
from ..frame import UNUSABLE, Exposure, Frame, MaskBit
from ..reduce.photometry import background_rms

if TYPE_CHECKING:
    from ..subtract.difference import Difference

SUFFIX = ".cutouts.avro"
CLASSES_SUFFIX = ".classes.json"  # of what is said of them (night/classify.py)
_ROWS = 2048  # of the images that are looked at together: memory does not grow with the frame
_BIT_NAMES = tuple(str(bit.name) for bit in MaskBit)  # in the order of the bits, from 0
_MASK, _VARIANCE = ("mask", "difference"), ("variance", "difference")


def to_send(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that become alerts: those that no cut removed."""
    return [candidate for candidate in candidates if candidate.cut is None]


def geometry_of(config: Alerts, pixel_scale: float) -> Geometry:
    """Return the shape of the stamps at a frame's pixel scale (arcsec).

    A profile gives size and number of levels alone: what a level-0 pixel measures is the frame's to say.
    Raises ConfigError for a profile that is not known.
    """
    try:
        shape = Geometry() if config.profile is None else profile(config.profile)
        return replace(shape, pixel_scale=pixel_scale)
    except StampError as error:
        raise ConfigError(f"alerts.profile: {error}") from error


def cutouts(
    candidates: Sequence[Candidate],
    difference: Difference,
    aligned: Frame,
    template: Frame,
    *,
    config: Alerts,
    pixel_scale: float,
    geometry: Geometry | None = None,
) -> list[Cutout]:
    """Return the cutout of each candidate from the full images, which share the template's grid.

    ``geometry`` takes the place of the settings' profile.

    Pixels are invalid (NaN) in the science and template image where no flux may be measured on them
    (UNUSABLE), in difference and score where nothing is known. The noise, in units of which RICE steps, is
    that of the frame's background; of the difference the root of its median variance. Raises ConfigError.
    """
    geometry = geometry or geometry_of(config, pixel_scale)
    options: dict[str, Any] = {
        "encoding": config.encoding,
        "step_sigma": config.step_sigma,
        "sigma": {
            "science": background_rms(aligned),
            "template": background_rms(template),
            "difference": _difference_noise(difference),
            "score": 1.0,
        },
        "units": "electron",
        "psf_fwhm": _fwhm(aligned, template, pixel_scale),
        "mask_bits": {_MASK: _BIT_NAMES} if config.mask else None,
        "clipped_by": "DETECTOR",
    }
    done: dict[int, Cutout] = {}
    for start, band, members in _bands(candidates, difference.data.shape, geometry.span_px):
        planes = planes_of(band, difference, aligned, template, config)
        encoded = encode_cutouts(
            planes,
            geometry,
            [Placement.at(candidates[i].x, candidates[i].y - start) for i in members],
            wcs=None if aligned.wcs is None else _SkyOf(aligned.wcs, start),
            **options,
        )
        done.update(zip(members, encoded, strict=True))
    made = [done[i] for i in range(len(candidates))]
    if config.psf:
        made = [_with_psf(one, difference.psf_at(c.x, c.y)) for one, c in zip(made, candidates, strict=True)]
    return made


def _bands(
    candidates: Sequence[Candidate], shape: tuple[int, ...], span: int
) -> Iterator[tuple[int, slice, list[int]]]:
    """Yield (first row, rows, which candidates) of strips of the image that hold their footprints whole."""
    for start in range(0, shape[0], _ROWS):
        stop = start + _ROWS
        last = stop >= shape[0]
        members = [
            i for i, c in enumerate(candidates) if (start <= c.y or start == 0) and (c.y < stop or last)
        ]
        if members:
            first = max(0, start - span)
            yield first, slice(first, min(shape[0], stop + span)), members


class _SkyOf:
    """Pixels of a strip to the sky, for the encoder."""

    def __init__(self, wcs: Any, start: int) -> None:
        self.wcs, self.start = wcs, start

    def __call__(self, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        ra, dec = self.wcs.all_pix2world(x, y + self.start, 0)
        return ra, dec


def planes_of(
    band: slice, difference: Difference, aligned: Frame, template: Frame, config: Alerts
) -> dict[str | tuple[str, str], NDArray[Any]]:
    """The planes that travel, rows ``band`` of each; what is not known is NaN."""
    mask = difference.mask[band]
    data = difference.data[band]
    images: dict[str, Any] = {
        "science": lambda: _valid(aligned.data[band], aligned.mask[band]),
        "template": lambda: _valid(template.data[band], template.mask[band]),
        # where a difference is not known it is 0, with a reason in its mask
        "difference": lambda: np.where((data == 0) & (mask != 0), np.float32(np.nan), data),
        "score": lambda: difference.score[band],
    }
    planes: dict[str | tuple[str, str], NDArray[Any]] = {name: images[name]() for name in config.planes}
    if config.variance:
        planes[_VARIANCE] = difference.variance[band]
    if config.mask:
        planes[_MASK] = mask
    return planes


def _valid(data: NDArray[np.float32], mask: NDArray[np.uint16]) -> NDArray[np.float32]:
    return np.where(mask & np.uint16(UNUSABLE), np.float32(np.nan), data)


def _difference_noise(difference: Difference) -> float:
    some = difference.variance[::7, ::7]
    some = some[np.isfinite(some) & (some > 0)]
    return float(np.sqrt(np.median(some))) if some.size else float("nan")


def _fwhm(aligned: Frame, template: Frame, pixel_scale: float) -> dict[str, float]:
    """FWHM of point sources in each plane, arcsec; a difference has the wider of its two images'."""
    known = {
        name: frame.quality.fwhm * pixel_scale
        for name, frame in (("science", aligned), ("template", template))
        if frame.quality is not None and frame.quality.fwhm > 0
    }
    return {**known, "difference": max(known.values())} if len(known) == 2 else known


def _with_psf(cutout: Cutout, psf: NDArray[np.float64]) -> Cutout:
    data = np.asarray(psf, "<f4").tobytes()
    planes = tuple(
        plane.model_copy(update={"psf": data}) if plane.kind == "DIFFERENCE" else plane
        for plane in cutout.planes
    )
    return cutout.model_copy(update={"planes": planes})


def cutouts_path(out: Path, branch: str, exposure_id: str) -> Path:
    """Return where an exposure's cutouts lie in an output folder: beside its difference product."""
    return out / FOLDER / branch / f"{file_stem(exposure_id)}{SUFFIX}"


@lru_cache(maxsize=1)
def _schema() -> Schema:
    """A record that embeds a cutout (specification 6.7), so that the tools of multiscale read the file."""
    schema = {
        "type": "record",
        "name": "CandidateCutout",
        "namespace": "reference_pipeline",
        "doc": "The cutout of one candidate of a difference.",
        "fields": [
            {"name": "exposureId", "type": "string"},
            {"name": "startMjd", "type": "double", "doc": "UTC"},
            {"name": "branch", "type": "string"},
            {"name": "number", "type": "int", "doc": "Of the candidate, in its difference."},
            {"name": EMBEDDED_FIELD, "type": ["null", load_schema("multiscale.Cutout")], "default": None},
        ],
    }
    return Schema.of(schema)


def write_cutouts(path: Path, made: Mapping[int, Cutout], *, exposure: Exposure, branch: str) -> str:
    """Write cutouts by their candidates' numbers to ``path``, whole or not at all, and return the SHA-256.

    The same cutouts give the same bytes.
    """
    records = (
        {
            "exposureId": exposure.id,
            "startMjd": exposure.start_mjd,
            "branch": branch,
            "number": number,
            EMBEDDED_FIELD: cutout.to_record(),
        }
        for number, cutout in sorted(made.items())
    )
    content = container_of(_schema(), (encode_body(_schema(), record) for record in records))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, sync=True) as partial:
        partial.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_cutouts(path: Path, *, digest: str | None = None) -> dict[int, Cutout]:
    """Return what :func:`write_cutouts` wrote: cutouts by their candidates' numbers.

    Raises FileError: "pruned" where there is no file, "not-a-difference" for another, a damaged one, or one
    that has not the ``digest`` given.
    """
    records = cutout_records(path, digest=digest)
    try:
        return {int(record["number"]): Cutout.from_record(record[EMBEDDED_FIELD]) for record in records}
    except (StampError, KeyError, TypeError) as error:
        raise _not_ours(path, error) from error


def start_mjd_of(path: Path) -> float | None:
    """Return when the exposure began whose cutouts are in ``path``, None where there are none in it.

    Raises FileError.
    """
    with _reader(path) as reader:
        first = next(reader, None)
        return None if first is None else float(first["startMjd"])


def cutout_records(path: Path, *, digest: str | None = None) -> list[dict[str, Any]]:
    """Return the Avro records of :func:`write_cutouts`, what ``multiscale.decode_batch`` takes; ``number`` is
    the candidate's. Raises FileError as :func:`read_cutouts` does.
    """
    with _reader(path) as reader:
        records = list(reader)
    if digest is not None:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != digest:
            raise _not_ours(path, f"its SHA-256 is {found}, expected {digest}")
    return records


@contextmanager
def _reader(path: Path) -> Iterator[ContainerReader]:
    """Yield a reader of ``path``; what goes wrong is a FileError."""
    try:
        with read_container(path) as reader:
            if reader.schema.get("name") != _schema().json["name"]:
                raise _not_ours(path, f"an Avro container of {reader.schema.get('name')}")
            yield reader
    except FileNotFoundError as error:
        raise FileError(_exposure_of(path), "alert", "pruned", f"{path.name}: no such file") from error
    except (OSError, StampError) as error:
        raise _not_ours(path, error) from error


def _not_ours(path: Path, why: object) -> FileError:
    return FileError(_exposure_of(path), "alert", "not-a-difference", f"{path.name}: {why}")


def _exposure_of(path: Path) -> str:
    return path.name.removesuffix(SUFFIX)
