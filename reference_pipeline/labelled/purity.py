"""Which real alerts are fit to be labelled stamps: the cuts of Reyes-Jainaga+ 2023 (section 2.1), and others.

An alert that is left out is left out for one reason, which is counted and listed.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..errors import ConfigError
from ..taxonomy import STAMP_CLASSES

LEFT_OUT: dict[str, str] = {  # word -> what it means, in the order that is tested
    "unreadable": "the packet or its cutouts cannot be read",
    "no-label": "neither its id nor its object's is in the table",
    "no-class": "its hint is of no class",
    "twice": "the same alert was there before",
    "altered": "its time is not that of its candid: neither time nor position can be trusted",
    "missing-plane": "science, template or difference is not there",
    "contradicted": "a weak hint, and a catalogue or a surer label of its object says otherwise",
    "known-object": "bogus, and a known object is there",
    "many-detections": "bogus, and detected ten times or more: it may be real",
    "moved-twice": "an asteroid, and detected more than once at one place",
    "other-alert": "neither the alert drawn to stand for its object nor the first",
}

MANY_DETECTIONS = 10
MATCH_RADIUS = 1.5  # arcsec, as ZTF associates
PLANET_RADIUS = 5.0  # arcsec, of a minor planet that the packet names

#: Hints of ../shared/data/ztf_labelled: hint -> class; two for what is one of them.
HINTS: dict[str, tuple[str, ...]] = {
    "asteroid": ("asteroid",), "bogus_likely": ("bogus",), "satellite_glint": ("satellite",),
    "star_catalog": ("VS",), "star_likely": ("VS",), "agn_catalog": ("AGN",),
    "transient_tns": ("SN",), "transient_simbad": ("SN",), "extragalactic_likely": ("SN", "AGN"),
}  # fmt: skip


@dataclass(frozen=True)
class Label:
    """What somebody says of an alert or an object."""

    classes: tuple[str, ...]  # one; several where it is one of them
    subtype: str | None = None
    source: str = ""
    is_weak: bool = False
    is_confirmed: bool = False  # looked at: no cut on numbers of detections or on neighbours

    @property
    def name(self) -> str:
        """The class, the first where it is one of several."""
        return self.classes[0]

    @property
    def is_ambiguous(self) -> bool:
        """One of several classes."""
        return len(self.classes) > 1


@dataclass(frozen=True)
class Facts:
    """What the cuts look at of one alert with a label."""

    alert_id: str
    place_id: str  # the survey's object: detections at one place of the sky
    label: Label
    mjd: float
    ra: float  # degrees
    dec: float
    n_earlier: int | None  # detections at this place before, where the packet says so
    has_planes: bool
    is_altered: bool  # time or position are not those of the observation
    has_minor_planet: bool
    is_contradicted: bool = False  # by the basis of its own hint


@dataclass(frozen=True)
class Chosen:
    """An alert that is kept."""

    n_detections: int
    is_first: bool
    is_random: bool


@dataclass(frozen=True)
class LeftOut:
    """An alert that is not, and why."""

    alert_id: str
    reason: str  # one of LEFT_OUT
    message: str = ""
    file: str = ""
    packet: int | None = None


@dataclass(frozen=True)
class KnownObjects:
    """Known variable stars, AGN and supernovae."""

    xyz: NDArray[np.float64]  # (n, 3), unit vectors
    names: tuple[str, ...]

    def near(self, ra: float, dec: float, radius: float) -> str | None:
        """Return the name of one within ``radius`` (arcsec) of a place (degrees), None where none is."""
        if not self.names:
            return None
        distance, i = cKDTree(self.xyz).query(_vectors([ra], [dec])[0])
        return self.names[int(i)] if distance <= np.deg2rad(radius / 3600) else None


def read_labels(path: Path) -> dict[str, Label]:
    """Return the labels of a CSV table by id: of an alert (candid, diaSourceId) or of an object.

    Columns: ``id``, ``label`` (a class; "SN|AGN" where it is one of these); wanted or not: ``subtype``,
    ``source`` (who says so), ``weak`` and ``confirmed`` (true or false). Raises ConfigError with the line.
    """
    found: dict[str, Label] = {}
    for number, row in _rows(path, ("id", "label")):
        where = f"{path}: line {number}"
        name = row["id"].strip()
        if not name:
            raise ConfigError(f"{where}: no id")
        label = Label(
            _classes(row["label"], where), row.get("subtype") or None, row.get("source") or path.name,
            is_weak=_truth(row.get("weak"), where), is_confirmed=_truth(row.get("confirmed"), where),
        )  # fmt: skip
        if found.setdefault(name, label) != label:
            raise ConfigError(f"{where}: {name} is in the table twice, with different labels")
    return found


def read_known(path: Path) -> KnownObjects:
    """Return the known objects of a CSV table (``ra``, ``dec`` in degrees, ``name``). Raises ConfigError."""
    places, names = [], []
    for number, row in _rows(path, ("ra", "dec")):
        try:
            places.append((float(row["ra"]), float(row["dec"])))
        except ValueError as error:
            raise ConfigError(f"{path}: line {number}: {error}") from error
        names.append(row.get("name") or f"line {number}")
    ra, dec = np.array(places).reshape(-1, 2).T
    return KnownObjects(_vectors(ra, dec), tuple(names))


def hint_of(record: Mapping[str, Any]) -> Label | None:
    """Return what a record of ztf_labelled says of itself; None where that is of no class."""
    classes = HINTS.get(str(record.get("label_hint")))
    if classes is None:
        return None
    basis = str(record.get("label_basis") or "") or None
    source = f"ztf_labelled: {record['label_hint']}"
    return Label(classes, basis, source, is_weak=bool(record.get("weak")))


def choose(
    facts: Sequence[Facts], *, known: KnownObjects | None = None, seed: int = 0
) -> tuple[dict[str, Chosen], list[LeftOut]]:
    """Return the alerts that are kept, by id, and those that are not.

    Of each place one alert is drawn and the first is kept; the draw depends on ``seed`` and the place alone.
    """
    left: list[LeftOut] = []
    places: dict[str, list[Facts]] = defaultdict(list)
    seen: set[str] = set()
    for fact in facts:
        if fact.alert_id in seen:
            left.append(LeftOut(fact.alert_id, "twice"))
            continue
        seen.add(fact.alert_id)
        places[fact.place_id].append(fact)
    sure = _surest([fact for group in places.values() for fact in group])
    chosen: dict[str, Chosen] = {}
    for place, group in places.items():
        n = max(len(group), *(1 + (fact.n_earlier or 0) for fact in group))
        kept = []
        for fact in group:
            why = _cut(fact, n, group, sure, known)
            if why is None:
                kept.append(fact)
            else:
                left.append(LeftOut(fact.alert_id, *why))
        if not kept:
            continue
        first = min(group, key=lambda fact: (fact.mjd, fact.alert_id))
        drawn = min(kept, key=lambda fact: _lot(seed, place, fact.alert_id))
        for fact in kept:
            is_first = fact is first and not fact.n_earlier
            if fact is drawn or is_first:
                chosen[fact.alert_id] = Chosen(n, is_first, fact is drawn)
            else:
                left.append(LeftOut(fact.alert_id, "other-alert", f"of {len(kept)}"))
    return chosen, left


@dataclass(frozen=True)
class _Sure:
    """Objects with a class that is neither bogus nor weak, to find bogus ones at."""

    tree: cKDTree | None
    facts: tuple[Facts, ...]

    def near(self, fact: Facts) -> Facts | None:
        if self.tree is None:
            return None
        distance, i = self.tree.query(_vectors([fact.ra], [fact.dec])[0])
        return self.facts[int(i)] if distance <= np.deg2rad(MATCH_RADIUS / 3600) else None


def _surest(facts: Iterable[Facts]) -> _Sure:
    """Moving ones are left out: they are elsewhere at another time."""
    still = tuple(
        fact
        for fact in facts
        if fact.label.name in ("AGN", "SN", "VS") and not (fact.label.is_weak or fact.label.is_ambiguous)
    )
    vectors = _vectors([fact.ra for fact in still], [fact.dec for fact in still])
    return _Sure(cKDTree(vectors) if still else None, still)


def _cut(
    fact: Facts, n: int, group: Sequence[Facts], sure: _Sure, known: KnownObjects | None
) -> tuple[str, str] | None:
    """The reason and a message where the alert is left out; ``n`` detections are at its place."""
    label = fact.label
    if fact.is_altered:
        return "altered", ""
    if not fact.has_planes:
        return "missing-plane", ""
    if label.is_weak:
        if fact.is_contradicted:
            return "contradicted", label.subtype or ""
        others = {o.label.name for o in group if not (o.label.is_weak or o.label.is_ambiguous)}
        if others - set(label.classes) or (label.is_ambiguous and others):
            return "contradicted", f"other alerts of it: {', '.join(sorted(others))}"
    if label.is_confirmed:
        return None
    if label.name == "bogus":
        if fact.has_minor_planet:
            return "known-object", "a minor planet, as the packet says"
        name = known.near(fact.ra, fact.dec, MATCH_RADIUS) if known is not None else None
        other = sure.near(fact)
        if name is not None or other is not None:
            return "known-object", name or f"{other.place_id}, {other.label.name}" if other else str(name)
        if n >= MANY_DETECTIONS:
            return "many-detections", str(n)
    if label.name == "asteroid" and n > 1:
        return "moved-twice", str(n)
    return None


def _lot(seed: int, place: str, alert_id: str) -> str:
    return hashlib.sha256(f"{seed} {place} {alert_id}".encode()).hexdigest()


def _vectors(ra: Any, dec: Any) -> NDArray[np.float64]:
    """Unit vectors (n, 3) of places in degrees; chords between near ones are angles in radians."""
    a, d = np.deg2rad(np.asarray(ra, float)), np.deg2rad(np.asarray(dec, float))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def _rows(path: Path, needed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV table with their line numbers."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise ConfigError(f"{path}: no column {', '.join(missing)}")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: {error}") from error
    for number, row in rows:
        if None in row or any(row[name] is None for name in needed):
            raise ConfigError(f"{path}: line {number}: not as many values as there are columns")
    return rows


def _classes(text: str, where: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split("|"))
    for name in names:
        if name not in STAMP_CLASSES:
            raise ConfigError(f"{where}: label {name!r}: expected one of {', '.join(STAMP_CLASSES)}")
    return names


def _truth(text: str | None, where: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}
    word = (text or "").strip().lower()
    if word not in known:
        raise ConfigError(f"{where}: {text!r}: expected true or false")
    return known[word]
