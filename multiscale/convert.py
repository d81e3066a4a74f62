"""Surveys' own alerts to multi-scale packets.

``as_alert`` and ``as_embedded`` turn one survey alert into one record; ``convert_file`` goes through a
file and yields, for every packet in it, a record or what was wrong with it, so that counts add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .avro import ContainerReader, MessageReader, read_messages
from .cutout import Cutout, Missing
from .errors import GeometryError, StampError
from .geometry import PROFILES, Geometry
from .packet import EMBEDDED_FIELD, Alert, EmbeddedAlert, alert_from_record
from .rules import SPEC_VERSION
from .schema import embed_cutout, load_schema
from .surveys import SurveyAlert, SurveyCutout, read_survey_alert
from .version import __version__

DEFAULT_SIZE = 16  # of surveys without a profile of their own: the fewest levels that cover the cutout
SURVEY_PROFILES = {"ZTF": "ZTF-4x8"}
_MOST_STEP_SIGMA = 1024.0


@dataclass(frozen=True)
class Options:
    """How to convert. ``geometry`` None: the survey's profile, or the fewest levels that cover its cutout.

    The pixel scale of ``geometry`` is replaced by the packet's own.
    """

    geometry: Geometry | None = None
    encoding: str | Mapping[str, str] = "raw"
    step_sigma: float = 0.25
    survey: str = "auto"
    pixel_scale: float | None = None  # arcsec, for surveys whose packets do not say it
    keep_cutouts: bool = False  # embedded: leave the survey's own cutouts in place
    schema: Mapping[str, Any] | None = None  # what a single message was written with; containers hold theirs

    def __post_init__(self) -> None:
        if not 0 < self.step_sigma <= _MOST_STEP_SIGMA:
            raise GeometryError("step-exponent", f"step_sigma {self.step_sigma}", "above 0, at most 1024")


@dataclass(frozen=True)
class Converted:
    """One packet that was converted."""

    packet: int  # 0-based, in its file
    record: dict[str, Any]
    cutout: Cutout
    survey: str
    no_data: float  # fraction of the footprint's area for which the survey sent nothing
    notes: tuple[str, ...]  # what was repaired or changed, as the provenance says


@dataclass(frozen=True)
class NotConverted:
    """One packet, or the rest of a file, that was not converted, and why."""

    packet: int | None  # None: the file itself, or all that follows its last good packet
    error: StampError


def geometry_for(cutout: SurveyCutout, survey: str, wished: Geometry | None) -> Geometry:
    """Return the geometry to encode ``cutout`` with: as wished, the survey's profile, or what covers it."""
    if wished is not None:
        return replace(wished, pixel_scale=cutout.pixel_scale)
    if survey in SURVEY_PROFILES:
        return replace(PROFILES[SURVEY_PROFILES[survey]], pixel_scale=cutout.pixel_scale)
    width = max(next(iter(cutout.planes.values())).shape)
    return Geometry(DEFAULT_SIZE, 1, cutout.pixel_scale).fewest_levels(width)


def encode_survey_cutout(cutout: SurveyCutout, survey: str, options: Options) -> Cutout:
    """Return the multi-scale cutout of a survey's planes. Raises StampError."""
    geometry = geometry_for(cutout, survey, options.geometry)
    x, y = cutout.position if cutout.position is not None else (None, None)
    missing = tuple(Missing.from_record(m._asdict()) for m in cutout.missing)
    encoded = Cutout.from_images(
        cutout.planes,
        geometry,
        center=cutout.center,
        x=x,
        y=y,
        encoding=options.encoding,
        step_sigma=options.step_sigma,
        wcs=cutout.wcs,
        units=cutout.units,
        psf=cutout.psf,
        psf_fwhm=None if cutout.psf_fwhm is None else {"difference": cutout.psf_fwhm},
        mask_bits=cutout.mask_bits,
        missing=missing,
        clipped_by=cutout.clipped_by,
    )
    if encoded.sky is None or cutout.wcs is None or cutout.wcs.max_error is None:
        return encoded
    error = (encoded.sky.max_error or 0.0) + cutout.wcs.max_error
    return encoded.model_copy(update={"sky": encoded.sky.model_copy(update={"max_error": error})})


def no_data_fraction(cutout: Cutout) -> float:
    """Return the fraction of the footprint that the encoder was not given (clause 2.5)."""
    span = cutout.geometry.span_px
    c = cutout.clipped
    return 1 - (span - c.x_low - c.x_high) * (span - c.y_low - c.y_high) / span**2


def as_alert(alert: SurveyAlert, cutout: Cutout) -> dict[str, Any]:
    """Return the ``multiscale.Alert`` record of a survey's alert. Raises RecordError."""
    done = {
        "software": "multiscale",
        "version": __version__,
        "action": f"converted a {alert.survey} alert to {cutout.n_levels} levels of {cutout.size} pixels",
    }
    fields = {**alert.fields, "provenance": [*alert.fields.get("provenance", ()), done]}
    record = Alert.from_record({"specVersion": SPEC_VERSION, **fields}).to_record()
    record["cutout"] = cutout.to_record()
    return record


def as_embedded(alert: SurveyAlert, cutout: Cutout, *, keep_cutouts: bool = False) -> dict[str, Any]:
    """Return the survey's own record with the cutout embedded, its own cutouts replaced unless kept."""
    gone = () if keep_cutouts else alert.cutout_fields
    own = {name: value for name, value in alert.record.items() if name not in gone}
    return {**own, EMBEDDED_FIELD: cutout.to_record()}


def embedded_schema(schema: Mapping[str, Any], cutout_fields: tuple[str, ...]) -> dict[str, Any]:
    """Return a survey's writer schema without ``cutout_fields`` and with our field last (6.7).

    A named type that a removed field defined and another still uses is defined where it is first used.
    """
    kept = [field for field in schema["fields"] if field["name"] not in cutout_fields]
    removed = [field for field in schema["fields"] if field["name"] in cutout_fields]
    definitions: dict[str, Any] = {}
    for field in removed:
        _collect_definitions(field["type"], schema.get("namespace", ""), definitions)
    fields = [_with_definitions(field, schema.get("namespace", ""), definitions) for field in kept]
    return embed_cutout({**schema, "fields": fields})


def _full_name(name: str, namespace: str) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _collect_definitions(node: Any, namespace: str, found: dict[str, Any]) -> None:
    """Add every named type that ``node`` defines to ``found``, by full name."""
    if isinstance(node, list):
        for item in node:
            _collect_definitions(item, namespace, found)
    elif isinstance(node, dict):
        if node.get("type") in ("record", "enum", "fixed", "error"):
            namespace = node.get("namespace", namespace)
            name = _full_name(node["name"], namespace)
            found[name] = {**node, "namespace": name.rpartition(".")[0]}
        for field in node.get("fields", ()):
            _collect_definitions(field["type"], namespace, found)
        for part in ("items", "values", "type"):
            if isinstance(node.get(part), (dict, list)):
                _collect_definitions(node[part], namespace, found)


def _with_definitions(node: Any, namespace: str, missing: dict[str, Any]) -> Any:
    """Return ``node`` with the first use of each name in ``missing`` replaced by its definition."""
    if isinstance(node, str):
        name = _full_name(node, namespace)
        return _with_definitions(missing.pop(name), namespace, missing) if name in missing else node
    if isinstance(node, list):
        return [_with_definitions(item, namespace, missing) for item in node]
    if not isinstance(node, dict):
        return node
    out = dict(node)
    if node.get("type") in ("record", "error"):
        inner = node.get("namespace", namespace)
        missing.pop(_full_name(node["name"], inner), None)
        out["fields"] = [
            {**field, "type": _with_definitions(field["type"], inner, missing)} for field in node["fields"]
        ]
        return out
    for part in ("items", "values", "type"):
        if part in node and node["type"] not in ("enum", "fixed"):
            out[part] = _with_definitions(node[part], namespace, missing)
    return out


def convert_record(record: dict[str, Any], schema: Any, options: Options) -> tuple[SurveyAlert, Cutout]:
    """Return the survey alert in ``record`` and its multi-scale cutout. Raises StampError."""
    alert = read_survey_alert(record, schema=schema, survey=options.survey, pixel_scale=options.pixel_scale)
    if alert.cutout is None:
        raise StampError("cutout-image", "no cutout image", "at least one plane")
    return alert, encode_survey_cutout(alert.cutout, alert.survey, options)


@dataclass(frozen=True)
class ConvertedFile:
    """A file being converted: the schema to write with, and the packets, read as they are asked for."""

    path: Path
    schema: dict[str, Any]
    packets: Iterator[Converted | NotConverted]


def convert_file(path: Path, options: Options, *, embed: bool = False) -> ConvertedFile:
    """Convert every packet of a file (section 8: a container or one message), in constant memory.

    Raises StampError when the file cannot be read at all, or has no packet to tell its survey by
    (``embed``). A packet that cannot be converted, and a file that breaks off, are yielded as NotConverted.
    """
    reader = read_messages(path, options.schema)
    if not embed:
        return ConvertedFile(path, load_schema("multiscale.Alert"), _packets(reader, options, embed=False))
    packets = _packets(reader, options, embed=True)
    held: list[Converted | NotConverted] = []
    fields: tuple[str, ...] = ()
    for packet in packets:  # the first good one names the cutout fields
        held.append(packet)
        if isinstance(packet, Converted):
            own = {field["name"] for field in reader.schema["fields"]}
            fields = tuple(name for name in own if name not in packet.record)
            break

    def again() -> Iterator[Converted | NotConverted]:
        yield from held
        yield from packets

    return ConvertedFile(path, embedded_schema(reader.schema, fields), again())


def _packets(
    reader: ContainerReader | MessageReader, options: Options, *, embed: bool
) -> Iterator[Converted | NotConverted]:
    with reader:
        yield from _converted(reader, options, embed=embed)


def _converted(
    reader: ContainerReader | MessageReader, options: Options, *, embed: bool
) -> Iterator[Converted | NotConverted]:
    records = iter(reader)
    number = 0
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except StampError as error:  # the container breaks off here
            yield NotConverted(None, error)
            return
        try:
            alert, cutout = convert_record(record, reader.schema, options)
            converted = (
                as_embedded(alert, cutout, keep_cutouts=options.keep_cutouts)
                if embed
                else as_alert(alert, cutout)
            )
        except StampError as error:
            yield NotConverted(number, error)
        else:
            notes = tuple(alert.cutout.notes) if alert.cutout else ()
            yield Converted(number, converted, cutout, alert.survey, no_data_fraction(cutout), notes)
        number += 1


def wished_loss(cutouts: list[Converted]) -> str | None:
    """Return a sentence on how much of a wished layout is NO_DATA, or None when it is all there."""
    if not cutouts:
        return None
    fractions = sorted(packet.no_data for packet in cutouts)
    middle = fractions[len(fractions) // 2]
    worst = max(fractions)
    if math.isclose(worst, 0.0, abs_tol=1e-9):
        return None
    return f"{middle:.0%} of the field of view is NO_DATA (median; at most {worst:.0%})"


def open_packets(path: Path, options: Options | None = None) -> Iterator[tuple[int, Alert | EmbeddedAlert]]:
    """Yield (number, alert) from a file; a survey's own alerts are converted as they are read.

    Raises StampError with the packet's number.
    """
    options = options or Options()
    with read_messages(path, options.schema) as reader:
        for number, record in enumerate(reader):
            try:
                if EMBEDDED_FIELD in record or "specVersion" in record:
                    yield number, alert_from_record(record)
                else:
                    survey_alert, cutout = convert_record(record, reader.schema, options)
                    yield number, Alert.from_record(as_alert(survey_alert, cutout))
            except StampError as error:
                raise error.within(f"packet {number}") from None
