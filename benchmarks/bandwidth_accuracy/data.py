"""The labelled stamps of a study: which are in it, what they are, how they are split, and their pixels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiscale import Placement
from multiscale.atomic import replacing
from multiscale.packet import EMBEDDED_FIELD
from reference_pipeline.errors import ConfigError
from reference_pipeline.labelled.split import groups_of, split
from reference_pipeline.labelled.stamp import Original, original_of, read_stamp_records, stamp_files
from reference_pipeline.taxonomy import STAMP_CLASSES

from .study import PLANES, DataSpec

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

TRAIN, VALIDATION, TEST = 0, 1, 2
TESTS = ("random", "first")  # a detection of each object, as in Table 1 of the paper
STAMPS = "work/stamps.npz"  # with where their files are: not for others
TEST_STAMPS = "test.npz"  # what is known of the test stamps
AT_ONCE = 256  # stamps whose pixels are in memory together

_TEXTS = ("stamp_id", "subtype", "object_id", "exposure_id", "field_id", "band", "source", "survey")
_NUMBERS = ("mjd", "ra", "dec", "snr", "magnitude", "n_detections")
_FLAGS = ("is_first", "is_random", "is_simulated", "is_weak")


@dataclass(frozen=True)
class Stamps:
    """What is known of every stamp, all arrays (n,), and where its pixels are."""

    files: tuple[Path, ...]
    file: Ints
    record: Ints  # number in its file
    label: Ints  # of STAMP_CLASSES
    group: Ints  # what may not be on both sides of a split
    part: Ints
    planes: tuple[str, ...]  # that every original has, in the order of PLANES
    side: int  # pixels of an original, the usual
    pixel_scale: float  # arcsec, median
    facts: Mapping[str, NDArray[Any]]  # _TEXTS, _NUMBERS, _FLAGS
    left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, test: str) -> Ints:
        """Rows of a test set."""
        return np.flatnonzero((self.part == TEST) & self.facts[f"is_{test}"])

    def test_rows(self) -> Ints:
        """Rows of all test sets."""
        return np.unique(np.concatenate([self.rows(test) for test in TESTS]))

    def position(self) -> Floats:
        """(n, 3): unit vectors of the places on the sky."""
        a, d = np.radians(self.facts["ra"]), np.radians(self.facts["dec"])
        return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Pixels:
    """Some originals of one shape and pixel scale."""

    rows: Ints
    images: Mapping[str, Floats]  # plane -> (n, H, W), NaN where invalid
    places: tuple[Placement, ...]  # of a footprint round the object
    pixel_scale: float


def gather(spec: DataSpec, folders: Sequence[Path], out: Path, say: Callable[[str], None]) -> Stamps:
    """Return the study's stamps; what they are is kept in ``out``, and read from there the next time.

    A stamp without its original pixels is left out: no other layout could be made of it. Raises FileError for
    what are no labelled stamps, ConfigError where none is left or a class has too few groups.
    """
    if not (out / STAMPS).is_file():
        say(f"reading {', '.join(map(str, folders))}")
        _write(out / STAMPS, _facts(spec, stamp_files(folders)))
    stamps = read_stamps_of(out)
    if not (out / TEST_STAMPS).is_file():
        rows = stamps.test_rows()
        facts = {name: stamps.facts[name][rows] for name in (*_TEXTS, *_NUMBERS, *_FLAGS)}
        found = {"row": rows, "label": stamps.label[rows], "group": stamps.group[rows], **facts}
        _write(out / TEST_STAMPS, found)
    return stamps


def read_stamps_of(out: Path) -> Stamps:
    """Return the stamps that ``gather`` kept in ``out``."""
    with np.load(out / STAMPS) as kept:
        return Stamps(
            tuple(Path(str(name)) for name in kept["files"]),
            kept["in_file"], kept["record"], kept["label"], kept["group"], kept["part"],
            tuple(map(str, kept["planes"])), int(kept["side"]), float(kept["pixel_scale"]),
            {name.removeprefix("fact_"): kept[name] for name in kept.files if name.startswith("fact_")},
            json.loads(str(kept["left_out"])),
        )  # fmt: skip


def pixels(stamps: Stamps, rows: Ints, *, places: str = "position") -> Iterator[Pixels]:
    """Yield the originals of ``rows`` (ascending), a few hundred at once, alike ones together."""
    wanted = list(zip(stamps.file[rows].tolist(), stamps.record[rows].tolist(), rows.tolist()))
    waiting: list[tuple[int, Original, float]] = []
    for file, members in groupby(wanted, key=lambda item: item[0]):
        numbers = {record: row for _, record, row in members}
        for number, record in enumerate(read_stamp_records(stamps.files[file])):
            if number not in numbers:
                continue
            original = original_of(record)
            assert original is not None  # _facts left those out
            waiting.append((numbers[number], original, record[EMBEDDED_FIELD]["pixelScale"]))
        while len(waiting) >= AT_ONCE:
            yield from _alike(waiting[:AT_ONCE], stamps.planes, places)
            waiting = waiting[AT_ONCE:]
    yield from _alike(waiting, stamps.planes, places)


def class_table(stamps: Stamps) -> dict[str, dict[str, int]]:
    """Return how many stamps of each class are in each part and test set."""
    of_parts = {
        "train": np.flatnonzero(stamps.part == TRAIN),
        "validation": np.flatnonzero(stamps.part == VALIDATION),
        **{f"test {test}": stamps.rows(test) for test in TESTS},
    }
    return {
        part: dict(zip(STAMP_CLASSES, np.bincount(stamps.label[rows], minlength=len(STAMP_CLASSES)).tolist()))
        for part, rows in of_parts.items()
    }


def sets_of(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return what simulated sets say of themselves, the name of any other folder."""
    found: list[dict[str, Any]] = []
    for folder in folders:
        told = folder / "set.json"
        if told.is_file():
            made = json.loads(told.read_text(encoding="utf-8"))
            found.append({"folder": folder.name, **{k: made.get(k) for k in ("seed", "version", "options")}})
        else:
            found.append({"folder": folder.name})
    return found


def _facts(spec: DataSpec, files: Sequence[Path]) -> dict[str, Any]:
    left_out: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    shapes: Counter[tuple[int, int]] = Counter()
    planes = set(PLANES)
    for i, file in enumerate(files):
        for number, record in enumerate(read_stamp_records(file)):
            reason = _unwanted(record, spec)
            if reason is not None:
                left_out[reason] += 1
                continue
            original = record["original"]
            planes &= set(original["kinds"])
            shapes[original["height"], original["width"]] += 1
            facts = {name: record[name] for name in (*_TEXTS, *_NUMBERS, *_FLAGS)}
            scale = record[EMBEDDED_FIELD]["pixelScale"]
            rows.append({**facts, "label": record["label"], "at": (i, number), "scale": scale})
        if spec.most is not None and len(rows) >= spec.most:
            rows = rows[: spec.most]
            break
    if not rows or not planes:
        raise ConfigError(f"{spec.label}: no stamp is left; left out: {dict(left_out)}")
    labels = np.array([STAMP_CLASSES.index(row["label"]) for row in rows], np.int64)
    keys = ("exposure_id", "field_id", "object_id")
    groups = groups_of(*(np.array([row[key] for row in rows], object) for key in keys))
    found: dict[str, Any] = {
        "files": np.array([str(file) for file in files]),
        "in_file": np.array([row["at"][0] for row in rows], np.int64),
        "record": np.array([row["at"][1] for row in rows], np.int64),
        "label": labels, "group": groups, "part": split(labels, groups, seed=spec.split_seed),
        "planes": np.array([plane for plane in PLANES if plane in planes]),
        "side": max(shapes.most_common(1)[0][0]),
        "pixel_scale": float(np.median([row["scale"] for row in rows])),
        "left_out": json.dumps(dict(sorted(left_out.items()))),
    }  # fmt: skip
    for name in _TEXTS:
        found[f"fact_{name}"] = np.array([row[name] or "" for row in rows])
    for name in _NUMBERS:
        found[f"fact_{name}"] = np.array(
            [np.nan if row[name] is None else row[name] for row in rows], np.float64
        )
    for name in _FLAGS:
        found[f"fact_{name}"] = np.array([row[name] for row in rows], bool)
    return found


def _unwanted(record: Mapping[str, Any], spec: DataSpec) -> str | None:
    if record["survey"] != spec.survey:
        return "another survey"
    if record["is_weak"] and not spec.with_weak:
        return "weak label"
    if record["subtype"] in spec.without_subtypes:
        return f"subtype {record['subtype']}"
    if record["cut"] is not None:
        return "cut by the pipeline"
    if record["original"] is None:
        return "no original"
    return None


def _write(path: Path, found: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **found)


def _alike(
    some: Sequence[tuple[int, Original, float]], planes: Sequence[str], places: str
) -> Iterator[Pixels]:
    def kind(item: tuple[int, Original, float]) -> tuple[tuple[int, int], float]:
        return item[1].shape, item[2]

    for (_, scale), members in groupby(sorted(some, key=kind), key=kind):
        alike = list(members)
        originals = [original for _, original, _ in alike]
        if places == "position":
            at = tuple(Placement.at(o.x, o.y) for o in originals)
        else:  # a survey that does not say where in its pixel an object is
            at = tuple(Placement.around(((o.shape[1] - 1) // 2, (o.shape[0] - 1) // 2)) for o in originals)
        images = {plane: np.stack([o.planes[plane] for o in originals]) for plane in planes}
        yield Pixels(np.array([row for row, _, _ in alike], np.int64), images, at, scale)
