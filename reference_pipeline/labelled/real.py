"""Labelled stamps from real alerts: packets of ZTF, LSST and others, and a table of what they are.

Packets are read as the converter reads them (multiscale.surveys): differences are science - template,
clipped cutouts keep their place, what is not data is invalid. Alerts are gone through twice, so that no more
than a file of stamps is in memory: once for what the cuts ask, once for the pixels of those that are kept.
"""

from __future__ import annotations

import csv
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import erfa
import numpy as np
from astropy import units as u
from astropy_healpix import HEALPix

from multiscale.arrays import INVALID_LIMIT
from multiscale.atomic import replacing
from multiscale.avro import read_messages
from multiscale.convert import Options, encode_survey_cutout
from multiscale.errors import StampError
from multiscale.geometry import Geometry
from multiscale.surveys import SurveyAlert, SurveyCutout, read_survey_alert, ztf
from multiscale.surveys.planes import center_excess

from ..errors import ConfigError
from ..taxonomy import STAMP_CLASSES
from .purity import (
    LEFT_OUT,
    PLANET_RADIUS,
    Chosen,
    Facts,
    KnownObjects,
    Label,
    LeftOut,
    choose,
    hint_of,
)
from .stamp import SUFFIX, LabelledStamp, Original, write_stamps

PLANES = ("science", "template", "difference")
AMBIGUOUS = "ambiguous"  # the folder of stamps that are one of several classes
LABELLED = "labelled"  # the folder of all others
PER_FILE = 500  # stamps: 25 MB with originals of 63 pixels

_CELLS = HEALPix(nside=1024, order="nested")  # 3.4 arcmin: stamps that overlap are mostly in one
_ALTERED_DAYS = 1e-3
_CONTRADICTED_HINTS = ("star_likely", "bogus_likely")  # whose basis may name what a catalogue has there


@dataclass(frozen=True)
class LabelReport:
    """What became of the alerts."""

    counts: Mapping[str, int]  # by class, of all that were kept
    n_random: Mapping[str, int]  # of them, those drawn to stand for their object
    n_ambiguous: int
    left_out: Sequence[LeftOut]

    @property
    def reasons(self) -> dict[str, int]:
        """How many were left out, by reason."""
        counted = Counter(left.reason for left in self.left_out)
        return {reason: counted[reason] for reason in LEFT_OUT if counted[reason]}

    def lines(self) -> list[str]:
        """What the command prints."""
        kept = [f"{name}: {n} ({self.n_random[name]} objects)" for name, n in self.counts.items()]
        several = [f"one of several classes: {self.n_ambiguous}"] if self.n_ambiguous else []
        gone = [f"left out, {reason}: {n} ({LEFT_OUT[reason]})" for reason, n in self.reasons.items()]
        return [*kept, *several, *gone]


def label_alerts(
    paths: Sequence[Path],
    output: Path,
    *,
    labels: Mapping[str, Label] | None = None,
    known: KnownObjects | None = None,
    geometry: Geometry | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> LabelReport:
    """Write the alerts in ``paths`` that have a label and pass the cuts, and return what became of all.

    ``paths``: Avro files, folders and tar archives of them. ``labels`` by id; None: what the records say of
    themselves (``label_hint``). ``geometry`` None: the survey's profile. Written are labelled/, ambiguous/,
    left_out.csv and report.json. The same alerts, labels and seed give the same bytes.
    Raises ConfigError where there is no alert, or ``output`` holds stamps already.
    """
    if any(output.rglob(f"*{SUFFIX}")):
        raise ConfigError(f"{output}: there are labelled stamps already; name another folder")
    say = progress or (lambda _: None)
    facts, left, where = _facts(paths, labels, say)
    if not where:
        raise ConfigError(f"{', '.join(map(str, paths))}: no alert there")
    chosen, cut = choose(facts, known=known, seed=seed)
    left += [replace(each, file=where[each.alert_id][0], packet=where[each.alert_id][1]) for each in cut]
    writers = {name: _Writer(output / name) for name in (LABELLED, AMBIGUOUS)}
    counts: Counter[str] = Counter()
    drawn: Counter[str] = Counter()
    options = Options(geometry=geometry)
    for stamp, label in _stamps(paths, labels, chosen, options, left, say):
        writers[AMBIGUOUS if label.is_ambiguous else LABELLED].add(stamp)
        if not label.is_ambiguous:
            counts[stamp.label] += 1
            drawn[stamp.label] += stamp.is_random
    for writer in writers.values():
        writer.flush()
    report = LabelReport(
        {name: counts[name] for name in STAMP_CLASSES},
        {name: drawn[name] for name in STAMP_CLASSES},
        writers[AMBIGUOUS].n_stamps,
        left,
    )
    _write_report(output, report, seed)
    return report


def alert_records(paths: Sequence[Path]) -> Iterator[tuple[str, int, Mapping[str, Any] | StampError, Any]]:
    """Yield (file, packet, record or what is wrong with it, schema) of Avro files, folders and tars of them.

    The rest of a file that breaks off is one entry. Raises ConfigError for a damaged archive.
    """
    for name, source in _sources(paths):
        number = 0
        try:
            with read_messages(source) as reader:
                for number, record in enumerate(reader):
                    yield name, number, record, reader.schema
                    number += 1
        except StampError as error:
            yield name, number, error, None


def ids_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ids that a label may name a survey's record by: the alert's own first, then its object's."""
    inner: Mapping[str, Any] = next(
        (record[k] for k in ("candidate", "diaSource") if isinstance(record.get(k), Mapping)), {}
    )
    names = ("candid", "alertId", "diaSourceId", "objectId", "objectid", "diaObjectId", "ssObjectId")
    found = [place[name] for name in names for place in (record, inner) if place.get(name) not in (None, 0)]
    return tuple(dict.fromkeys(map(str, found)))


def stamp_of_alert(
    alert: SurveyAlert, label: Label, chosen: Chosen, options: Options | None = None
) -> LabelledStamp:
    """Return the labelled stamp of a survey's alert; it needs all three planes. Raises StampError."""
    assert alert.cutout is not None
    detection = alert.fields["detection"]
    ra, dec, place = float(detection["ra"]), float(detection["dec"]), _place_id(alert)
    cutout = replace(
        alert.cutout, planes={name: alert.cutout.planes[name] for name in PLANES}, psf={}, psf_fwhm=None,
        mask_bits={}, missing=[],
    )  # fmt: skip
    snr = detection["snr"]
    return LabelledStamp(
        stamp_id=f"{alert.survey.lower()}-{alert.fields['alertId']}",
        label=label.name,
        object_id=_planet(alert) or place if label.name == "asteroid" else place,
        exposure_id=str(detection["exposureId"] or ""),
        field_id=f"hp1024-{int(_CELLS.lonlat_to_healpix(ra * u.deg, dec * u.deg))}",
        survey=alert.survey.lower(),
        branch="",
        band=detection["band"],
        mjd=_utc(float(detection["time"]), detection["timeScale"]),
        ra=ra,
        dec=dec,
        snr=float(snr) if snr is not None else _measured_snr(cutout),
        cutout=encode_survey_cutout(cutout, alert.survey, options or Options()),
        original=original_of_cutout(cutout),
        magnitude=detection["magnitude"],
        subtype=label.subtype,
        n_detections=chosen.n_detections,
        is_first=chosen.is_first,
        is_random=chosen.is_random,
        is_simulated=_is_simulated(alert.record),
        is_weak=label.is_weak,
        source=label.source,
    )


def original_of_cutout(cutout: SurveyCutout) -> Original:
    """Return a survey's pixels: what is not data is NaN, and a clipped cutout is square again.

    The pixel that the survey cut around is then the middle one, and what the chip's edge took is NaN.
    """
    height, width = next(iter(cutout.planes.values())).shape
    cx, cy = cutout.center
    x, y = cutout.position if cutout.position is not None else (float(cx), float(cy))
    if height == width and cutout.clipped_by == "CUTOUT":
        left = low = 0
        shape = (height, width)
    else:
        reach = max(cx, cy, width - 1 - cx, height - 1 - cy)
        left, low, shape = reach - cx, reach - cy, (2 * reach + 1, 2 * reach + 1)
    planes = {}
    for key, pixels in cutout.planes.items():
        plane = np.full(shape, np.nan, np.float32)
        plane[low : low + height, left : left + width] = np.where(
            np.abs(pixels) < INVALID_LIMIT, pixels, np.nan
        )
        planes[str(key)] = plane
    return Original(planes, x + left, y + low)


class _Writer:
    """Files of PER_FILE stamps, numbered."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.n_files, self.n_stamps = folder, 0, 0
        self.waiting: list[LabelledStamp] = []

    def add(self, stamp: LabelledStamp) -> None:
        self.waiting.append(stamp)
        self.n_stamps += 1
        if len(self.waiting) == PER_FILE:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            write_stamps(self.folder / f"{self.n_files:04d}{SUFFIX}", self.waiting)
            self.n_files, self.waiting = self.n_files + 1, []


def _sources(paths: Sequence[Path]) -> Iterator[tuple[str, Path | bytes]]:
    for path in paths:
        if path.is_dir():
            files = sorted(each for each in path.rglob("*.avro") if not each.name.endswith(SUFFIX))
            yield from ((str(each.relative_to(path)), each) for each in files)
        elif path.name.endswith((".tar", ".tar.gz", ".tgz")):
            try:
                with tarfile.open(path, "r|*") as archive:  # a stream: a night's archive is tens of GB
                    for member in archive:
                        file = archive.extractfile(member) if member.name.endswith(".avro") else None
                        if file is not None:
                            yield f"{path.name}/{member.name}", file.read()
            except (OSError, EOFError, tarfile.TarError) as error:
                raise ConfigError(f"{path}: {error}") from error
        else:
            yield path.name, path


def _labelled_records(
    paths: Sequence[Path], labels: Mapping[str, Label] | None
) -> Iterator[tuple[str, int, Label | LeftOut, Mapping[str, Any], Any]]:
    """Every record with its label, or with why it has none."""
    for file, packet, record, schema in alert_records(paths):
        if isinstance(record, StampError):
            yield file, packet, LeftOut("", "unreadable", str(record), file, packet), {}, schema
            continue
        ids = ids_of(record)
        label = hint_of(record) if labels is None else next((labels[i] for i in ids if i in labels), None)
        if label is None:
            reason = "no-class" if labels is None and record.get("label_hint") else "no-label"
            left = LeftOut(ids[0] if ids else "", reason, str(record.get("label_hint") or ""), file, packet)
            yield file, packet, left, record, schema
        else:
            yield file, packet, label, record, schema


def _facts(
    paths: Sequence[Path], labels: Mapping[str, Label] | None, say: Callable[[str], None]
) -> tuple[list[Facts], list[LeftOut], dict[str, tuple[str, int]]]:
    """What the cuts ask of each alert, those without label or sense, and where each alert is."""
    facts: list[Facts] = []
    left: list[LeftOut] = []
    where: dict[str, tuple[str, int]] = {}
    last = ""
    for file, packet, label, record, schema in _labelled_records(paths, labels):
        if file != last:
            say(f"reading {file}")
            last = file
        if isinstance(label, LeftOut):
            where.setdefault(label.alert_id, (file, packet))
            left.append(label)
            continue
        try:
            alert = read_survey_alert(dict(record), schema=schema)
        except StampError as error:
            where.setdefault(_first(ids_of(record)), (file, packet))
            left.append(LeftOut(_first(ids_of(record)), "unreadable", str(error), file, packet))
            continue
        fact = _fact(alert, label)
        where.setdefault(fact.alert_id, (file, packet))
        facts.append(fact)
    return facts, left, where


def _stamps(
    paths: Sequence[Path],
    labels: Mapping[str, Label] | None,
    chosen: Mapping[str, Chosen],
    options: Options,
    left: list[LeftOut],
    say: Callable[[str], None],
) -> Iterator[tuple[LabelledStamp, Label]]:
    """The stamps of chosen alerts; one that cannot be encoded is added to ``left``."""
    done: set[str] = set()
    for file, packet, label, record, schema in _labelled_records(paths, labels):
        if isinstance(label, LeftOut) or not any(i in chosen and i not in done for i in ids_of(record)):
            continue
        try:
            alert = read_survey_alert(dict(record), schema=schema)
            name = alert.fields["alertId"]
            if name not in chosen or name in done:
                continue
            done.add(name)
            yield stamp_of_alert(alert, label, chosen[name], options), label
        except StampError as error:
            left.append(LeftOut(_first(ids_of(record)), "unreadable", str(error), file, packet))
        if len(done) % PER_FILE == 0:
            say(f"{len(done)} of {len(chosen)} stamps")


def _fact(alert: SurveyAlert, label: Label) -> Facts:
    detection, record = alert.fields["detection"], alert.record
    planes = alert.cutout.planes if alert.cutout is not None else {}
    is_contradicted = record.get("label_hint") in _CONTRADICTED_HINTS and "simbad=" in (label.subtype or "")
    return Facts(
        alert_id=alert.fields["alertId"],
        place_id=_place_id(alert),
        label=label,
        mjd=float(detection["time"]),
        ra=float(detection["ra"]),
        dec=float(detection["dec"]),
        n_earlier=_n_earlier(alert),
        has_planes=all(name in planes for name in PLANES),
        is_altered=_is_altered(record),
        has_minor_planet=_planet(alert) is not None,
        is_contradicted=is_contradicted,
    )


def _place_id(alert: SurveyAlert) -> str:
    """The survey's object; an LSST source that is of a solar system object has none at its place."""
    source = alert.record.get("diaSource")
    if isinstance(source, Mapping) and not source.get("diaObjectId"):
        return f"source {alert.fields['alertId']}"
    return alert.fields["objectId"] or f"source {alert.fields['alertId']}"


def _n_earlier(alert: SurveyAlert) -> int | None:
    """Detections before this one: ZTF and LSST count them; else those that travel; None: not known."""
    candidate, thing = alert.record.get("candidate"), alert.record.get("diaObject")
    if isinstance(candidate, Mapping) and isinstance(candidate.get("ndethist"), int):
        return max(candidate["ndethist"] - 1, 0)
    if isinstance(thing, Mapping) and isinstance(thing.get("nDiaSources"), int):
        return max(thing["nDiaSources"] - 1, 0)
    has_history = any(alert.record.get(name) for name in ("prv_candidates", "prvDiaSources"))
    return len(alert.fields["history"]) if has_history else None


def _planet(alert: SurveyAlert) -> str | None:
    """The minor planet that the packet or the label's basis names within PLANET_RADIUS."""
    for match in alert.fields["crossMatches"]:
        near = match["separation"] is not None and match["separation"] < PLANET_RADIUS
        if match["kind"] == "minor planet" and near:
            return f"{match['catalog']} {match['sourceId']}"
    source = alert.record.get("diaSource")
    if isinstance(source, Mapping) and source.get("ssObjectId"):
        return f"SSO {source['ssObjectId']}"
    words = dict(w.split("=", 1) for w in str(alert.record.get("label_basis") or "").split() if "=" in w)
    return f"MPC {words['ssnamenr']}" if "ssnamenr" in words else None


def _is_altered(record: Mapping[str, Any]) -> bool:
    """Whether a ZTF record's jd is not the time in its candid: a test stream gave it another."""
    candidate = record.get("candidate")
    candid, jd = record.get("candid"), (candidate if isinstance(candidate, Mapping) else record).get("jd")
    if not (isinstance(candid, int) and candid > 10**17 and isinstance(jd, float)):
        return False
    return abs(jd - 2_400_000.5 - (ztf.CANDID_MJD + candid // 10**9 / 1e6)) > _ALTERED_DAYS


def _is_simulated(record: Mapping[str, Any]) -> bool:
    """Whether the packet says so of itself, as those of `multiscale sample` do."""
    inner = record.get("candidate") or record.get("diaSource") or {}
    return "simulatedClass" in inner or "simulated" in str(record.get("publisher") or "").lower()


def _measured_snr(cutout: SurveyCutout) -> float:
    """S/N of the 3 x 3 pixels at the centre of the difference, of white noise, where no packet says one."""
    return 3.0 * center_excess(cutout.planes["difference"], *cutout.center)


def _utc(mjd: float, scale: str) -> float:
    if scale != "TAI":
        return mjd
    whole, part = erfa.taiutc(2_400_000.5, mjd)
    return float(whole - 2_400_000.5 + part)


def _first(ids: Sequence[str]) -> str:
    return ids[0] if ids else ""


def _write_report(output: Path, report: LabelReport, seed: int) -> None:
    output.mkdir(parents=True, exist_ok=True)
    with replacing(output / "left_out.csv") as partial, partial.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("id", "reason", "message", "file", "packet"))
        rows.writerows((o.alert_id, o.reason, o.message, o.file, o.packet) for o in report.left_out)
    summary = {
        "seed": seed, "kept": dict(report.counts), "objects": dict(report.n_random),
        "ambiguous": report.n_ambiguous, "left_out": report.reasons,
    }  # fmt: skip
    with replacing(output / "report.json") as partial:
        partial.write_text(json.dumps(summary, indent=1) + "\n")
