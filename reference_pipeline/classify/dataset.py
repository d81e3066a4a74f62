"""From files of labelled stamps to arrays that a network is trained on, all of a set in memory.

What the network sees comes out of the codec: packets as they were sent, or originals encoded anew in another
geometry and decoded again.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiscale import Geometry, Placement, decode_batch, encode_cutouts
from multiscale.batch import Group
from multiscale.keys import PlaneKey
from multiscale.packet import EMBEDDED_FIELD
from multiscale.tensors import StampTensors, as_in_paper, in_noise, tensors_of

from ..errors import ConfigError
from ..labelled.split import groups_of, split
from ..labelled.stamp import Original, original_of, read_stamp_records, stamp_files
from .recipe import Recipe

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Record = Mapping[str, Any]

#: What is kept of a stamp besides its pixels, to tell results apart by.
FACTS: tuple[str, ...] = (
    "stamp_id", "label", "subtype", "cause", "survey", "branch", "band", "object_id", "exposure_id",
    "field_id", "snr", "magnitude", "is_first", "is_random", "is_simulated", "source",
)  # fmt: skip

_AT_ONCE = 1024  # records that are decoded together


@dataclass(frozen=True)
class Examples:
    """Stamps of one geometry, and what they are."""

    values: Floats  # (n, P, L, S, S), normalised; 0 where invalid
    valid: Bools  # the same shape
    position: Floats  # (n, 3): unit vectors of the places on the sky
    labels: Ints  # (n,): class numbers
    groups: Ints  # (n,): what may not be on both sides of a split
    pixel_scale: tuple[float, float]  # arcsec, least and largest
    facts: Mapping[str, NDArray[Any]]  # (n,) each: FACTS
    left_out: Mapping[str, int]  # why -> how many stamps are not here

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, rows: Ints) -> Floats:
        """(n, 2 P, L, S, S): planes, then the validity of each."""
        return np.concatenate([self.values[rows], self.valid[rows].astype(np.float32)], axis=1)

    def parts(self, seed: int, *, also: Sequence[str] = ()) -> Ints:
        """(n,): 0 training, 1 validation, 2 test, groups kept whole (labelled/split.py).

        Stamps of the surveys ``also`` are all of the training, and change nothing in the split of the others.
        """
        is_own = ~np.isin(self.facts["survey"].astype(str), also) if also else np.ones(len(self), bool)
        parts = np.zeros(len(self), np.int64)
        parts[is_own] = split(self.labels[is_own], self.groups[is_own], seed=seed)
        return parts


def read_examples(paths: Iterable[Path], recipe: Recipe) -> Examples:
    """Return the stamps in files or folders that ``recipe`` asks for, in the order of the files.

    Weakly labelled ones are never among them. Raises FileError for what is no file of labelled stamps,
    ConfigError where no stamp is left, or where a packet's own geometry is asked for and another is found.
    """
    left_out: Counter[str] = Counter()
    tensors: list[StampTensors] = []
    records: list[Record] = []
    scales: set[float] = set()
    for file in stamp_files(paths):
        wanted = _wanted(read_stamp_records(file), recipe, left_out)
        while some := list(islice(wanted, _AT_ONCE)):
            for stacked, members in _stacked(some, recipe, left_out):
                kept = [members[i] for i in stacked.indices]
                tensors.append(stacked)
                records += [_without_pixels(record) for record in kept]
                scales |= {record[EMBEDDED_FIELD]["pixelScale"] for record in kept}
    if not records:
        why = ", ".join(f"{n} {reason}" for reason, n in (+left_out).items()) or "none are there"
        raise ConfigError(f"{recipe.name}: no stamp of {', '.join(recipe.surveys)} is left: {why}")
    return Examples(
        np.concatenate([t.values for t in tensors]),
        np.concatenate([t.valid for t in tensors]),
        _positions(records),
        np.array([_label(record, recipe) for record in records], np.int64),
        groups_of(
            *(np.array([r[k] for r in records], object) for k in ("exposure_id", "field_id", "object_id"))
        ),
        (min(scales), max(scales)),
        {name: np.array([record[name] for record in records]) for name in FACTS},
        dict(+left_out),  # without those that are 0
    )


def _wanted(records: Iterable[Record], recipe: Recipe, left_out: Counter[str]) -> Iterator[Record]:
    """Yield what the recipe asks for; the rest is counted."""
    for record in records:
        reason = _unwanted(record, recipe)
        if reason is None:
            yield record
        else:
            left_out[reason] += 1


def _unwanted(record: Record, recipe: Recipe) -> str | None:
    if record["survey"] not in (*recipe.surveys, *recipe.also):
        return "another survey"
    if recipe.branches and record["branch"] not in recipe.branches and record["survey"] in recipe.surveys:
        return "another branch"
    if record["is_weak"]:
        return "weak label"
    if record["subtype"] in recipe.without_subtypes:
        return f"subtype {record['subtype']}"
    if record["cut"] is not None and not recipe.with_cut:
        return "cut by the pipeline"
    if recipe.detections == "random" and not record["is_random"]:
        return "not the random detection"
    if recipe.detections == "first" and not record["is_first"]:
        return "not the first detection"
    return None


def _label(record: Record, recipe: Recipe) -> int:
    if recipe.task == "real-bogus":
        return int(record["label"] != "bogus")
    return recipe.classes.index(record["label"])


def _stacked(
    records: Sequence[Record], recipe: Recipe, left_out: Counter[str]
) -> Iterator[tuple[StampTensors, Sequence[Record]]]:
    """Yield stamps in the recipe's layout, each stack with the records that its indices are of."""
    is_sent = [recipe.layout == "packet" and not _is_cut_anew(record, recipe) for record in records]
    if sent := [record for record, yes in zip(records, is_sent) if yes]:
        batch = decode_batch(sent, strict=False)
        left_out.update({"refused": len(batch.refused), "no cutout": len(batch.empty)})
        for group in batch:
            yield from ((tensors, sent) for tensors in _complete(group, recipe, left_out))
    others = [record for record, yes in zip(records, is_sent) if not yes]
    for originals, members in _alike(others, left_out):
        if recipe.layout in ("cut", "packet"):
            for places in _places(originals, recipe):
                for group in decode_batch(_cut(originals, members, places, recipe)):
                    yield from ((tensors, members) for tensors in _complete(group, recipe, left_out))
        else:
            yield _whole(originals, recipe), members


def _is_cut_anew(record: Record, recipe: Recipe) -> bool:
    """Whether a stamp that is only trained on was sent in another geometry than the recipe's."""
    cutout = record[EMBEDDED_FIELD]
    return record["survey"] in recipe.also and (cutout["size"], cutout["nLevels"]) != (
        recipe.size,
        recipe.n_levels,
    )


def _complete(group: Group, recipe: Recipe, left_out: Counter[str]) -> Iterator[StampTensors]:
    """Yield the group's tensors if it has all planes; raise ConfigError for another geometry."""
    geometry = group.geometry
    if (geometry.size, geometry.n_levels) != (recipe.size, recipe.n_levels):
        raise ConfigError(
            f"{recipe.name}: a packet of {geometry.n_levels} levels of {geometry.size} pixels, expected "
            f'{recipe.n_levels} of {recipe.size}; `layout = "cut"` cuts originals anew'
        )
    if all(plane in group.levels for plane in recipe.planes):
        yield tensors_of(group, recipe.planes, normalization=recipe.normalization)
    else:
        left_out["a plane is missing"] += len(group.indices)


def _alike(
    records: Sequence[Record], left_out: Counter[str]
) -> Iterator[tuple[list[Original], list[Record]]]:
    """Yield the records that have originals of one shape, one set of planes and one pixel scale."""
    kinds: dict[tuple[Any, ...], tuple[list[Original], list[Record]]] = defaultdict(lambda: ([], []))
    for record in records:
        original = original_of(record)
        if original is None:
            left_out["no original"] += 1
            continue
        key = (original.shape, tuple(original.planes), record[EMBEDDED_FIELD]["pixelScale"])
        kinds[key][0].append(original)
        kinds[key][1].append(record)
    yield from kinds.values()


def _places(originals: Sequence[Original], recipe: Recipe) -> Iterator[list[Placement]]:
    """Yield where the originals are cut, once or, of ``places`` "both", twice."""
    if recipe.places in ("position", "both"):
        yield [Placement.at(o.x, o.y) for o in originals]
    if recipe.places in ("pixel", "both"):
        yield [Placement.around((math.floor(o.x + 0.5), math.floor(o.y + 0.5))) for o in originals]


def _cut(
    originals: Sequence[Original], members: Sequence[Record], places: Sequence[Placement], recipe: Recipe
) -> list[dict[str, Any]]:
    """Return cutouts of the recipe's geometry as records, from originals that are alike."""
    geometry = Geometry(recipe.size, recipe.n_levels, members[0][EMBEDDED_FIELD]["pixelScale"])
    images: dict[PlaneKey, Any] = {plane: _stack(originals, plane, recipe) for plane in recipe.planes}
    return [cutout.to_record() for cutout in encode_cutouts(images, geometry, places)]


def _whole(originals: Sequence[Original], recipe: Recipe) -> StampTensors:
    """Return originals that are alike, their central pixels or blocks of all, as stamps of one level.

    They do not go through the codec, which carries at most 64 pixels a side; RAW would not change a value.
    """
    levels = [_squared(_stack(originals, plane, recipe), recipe)[:, None] for plane in recipe.planes]
    unknown = np.full(len(originals), np.nan, np.float32)
    values = [
        in_noise(plane, unknown, unknown) if recipe.normalization == "noise" else as_in_paper(plane)
        for plane in levels
    ]
    valid = np.stack([np.isfinite(plane) for plane in levels], axis=1)
    return StampTensors(np.arange(len(originals)), recipe.planes, np.stack(values, axis=1), valid)


def _squared(stack: Floats, recipe: Recipe) -> Floats:
    """(n, H, W) -> (n, S, S): the central pixels, or means of the valid ones of each block."""
    side = min(stack.shape[1:])
    if side < recipe.size:
        raise ConfigError(f"{recipe.name}: an original of {side} pixels a side, expected {recipe.size}")
    if recipe.layout == "whole":
        y, x = ((n - recipe.size) // 2 for n in stack.shape[1:])
        return stack[:, y : y + recipe.size, x : x + recipe.size]
    block = -(-side // recipe.size)  # 63 to 16: blocks of 4, the last one of 3
    padded = np.full((len(stack), block * recipe.size, block * recipe.size), np.nan, np.float32)
    padded[:, :side, :side] = stack[:, :side, :side]
    blocks = padded.reshape(len(stack), recipe.size, block, recipe.size, block)
    count = np.isfinite(blocks).sum(axis=(2, 4))
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: no pixel is valid
        return (np.nansum(blocks, axis=(2, 4)) / count).astype(np.float32)


def _stack(originals: Sequence[Original], plane: str, recipe: Recipe) -> Floats:
    """(n, H, W) of one plane. Raises ConfigError where the originals lack it."""
    if plane not in originals[0].planes:
        has = ", ".join(originals[0].planes)
        raise ConfigError(f"{recipe.name}: originals hold {has}; {plane} is expected too")
    return np.stack([o.planes[plane] for o in originals])


def _positions(records: Sequence[Record]) -> Floats:
    """(n, 3): unit vectors."""
    a, d = np.radians(np.array([(r["ra"], r["dec"]) for r in records], float).reshape(-1, 2)).T
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1).astype(np.float32)


def _without_pixels(record: Record) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k not in ("original", EMBEDDED_FIELD)}
