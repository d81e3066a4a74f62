"""Split labelled stamps for training and testing so that nothing on one side has been seen on the other.

Stamps that share an exposure, a field of the sky or an object stay together, and so do all that are joined
through others: a class's rate in each part is as near to the whole's as such groups allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: The parts of a split, and how much of the data each has (Reyes-Jainaga+ 2023, section 2.1).
PARTS: tuple[str, ...] = ("train", "validation", "test")
FRACTIONS: tuple[float, ...] = (0.6, 0.2, 0.2)

KEYS: tuple[str, ...] = ("exposure_id", "field_id", "object_id")  # of a labelled stamp, that join

_MAX_PASSES = 20  # over all groups, moving what lies better elsewhere; three are the rule

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def groups_of(*keys: ArrayLike) -> Ints:
    """Return for each row the number of its group, (n,), from 0 in order of first appearance.

    ``keys`` are arrays of equal length n (exposures, fields, objects); rows that share a value of any key are
    of one group, and so are those that a chain of such rows connects. An empty string joins nothing.
    Raises ValueError for keys of different lengths.
    """
    columns = [np.asarray(key) for key in keys]
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        raise ValueError(f"keys of lengths {sorted(lengths)}: expected equal ones")
    parent = list(range(lengths.pop()))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]  # halves the path, so that chains stay short
            i = parent[i]
        return i

    for column in columns:
        first: dict[Any, int] = {}
        for i, value in enumerate(column.tolist()):
            if value == "":
                continue
            a, b = root(first.setdefault(value, i)), root(i)
            parent[max(a, b)] = min(a, b)
    roots = [root(i) for i in range(len(parent))]  # the first row of each group
    numbers = {first: number for number, first in enumerate(sorted(set(roots)))}
    return np.array([numbers[r] for r in roots], np.int64)


def groups_of_stamps(stamps: Iterable[Any]) -> Ints:
    """Return ``groups_of`` labelled stamps (or their Avro records) by exposure, field and object."""
    rows = [
        tuple(stamp[key] for key in KEYS)
        if isinstance(stamp, dict)
        else tuple(getattr(stamp, key) for key in KEYS)
        for stamp in stamps
    ]
    return groups_of(*(np.array([row[k] for row in rows], dtype=object) for k in range(len(KEYS))))


def split(
    labels: ArrayLike, groups: ArrayLike, *, fractions: Sequence[float] = FRACTIONS, seed: int = 0
) -> Ints:
    """Return the part of each row, (n,), 0 to len(fractions) - 1: PARTS for the default fractions.

    All rows of a group are in one part. Parts hold ``fractions`` of every class as nearly as groups allow:
    groups are placed the largest first (in random order among equals), each where it raises
    sum over classes c and parts p of (share of c in p - fraction of p)^2 / (fraction of p) least, so that a
    rare class counts as much as a common one; then any group is moved that lowers it. Deterministic by
    ``seed``. For k equal folds of a cross-validation: ``fractions=[1 / k] * k``.

    Raises ValueError for labels and groups of different lengths, and for fractions that are not positive or
    do not add to 1.
    """
    target = np.asarray(fractions, float)
    if not (target > 0).all() or abs(target.sum() - 1) > 1e-9:
        raise ValueError(f"fractions {list(fractions)}: expected positive ones that add to 1")
    counts, row_group = _counts(labels, groups)
    share = counts / np.maximum(counts.sum(axis=0), 1)  # of each class, that a group holds
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(share))
    order = shuffled[np.argsort(-share.max(axis=1)[shuffled], kind="stable")] if len(share) else shuffled

    held = np.zeros((len(target), counts.shape[1]))
    part = np.full(len(share), -1, np.int64)
    for g in order:
        part[g] = _best(share[g], held, target)
        held[part[g]] += share[g]
    for _ in range(_MAX_PASSES):
        moved = False
        for g in order:
            held[part[g]] -= share[g]
            to = _best(share[g], held, target, stay=int(part[g]))
            moved |= bool(to != part[g])
            part[g] = to
            held[to] += share[g]
        if not moved:
            break
    return part[row_group]


def class_counts(labels: ArrayLike, parts: ArrayLike, *, n_parts: int = len(PARTS)) -> dict[str, list[int]]:
    """Return how many rows of each label are in each part: {label: [n, ...]}, labels in order."""
    rows, where = np.asarray(labels), np.asarray(parts)
    return {
        str(label): [int(((rows == label) & (where == p)).sum()) for p in range(n_parts)]
        for label in sorted(set(rows.tolist()))
    }


def largest_group(groups: ArrayLike) -> float:
    """Return the fraction of the rows that is in the largest group: some part has at least as much."""
    numbers = np.unique(np.asarray(groups), return_counts=True)[1]
    return float(numbers.max() / numbers.sum()) if numbers.size else 0.0


def _counts(labels: ArrayLike, groups: ArrayLike) -> tuple[Floats, Ints]:
    """Rows of each class in each group, (G, K), and the group of each row."""
    row_labels, row_groups = np.asarray(labels), np.asarray(groups)
    if row_labels.shape != row_groups.shape or row_labels.ndim != 1:
        raise ValueError(f"labels {row_labels.shape}, groups {row_groups.shape}: expected (n,) both")
    kinds, kind = np.unique(row_labels, return_inverse=True)
    names, group = np.unique(row_groups, return_inverse=True)
    counts = np.zeros((len(names), len(kinds)))
    np.add.at(counts, (group, kind), 1)
    return counts, group.astype(np.int64)


def _best(share: Floats, held: Floats, target: Floats, *, stay: int | None = None) -> int:
    """The part that takes ``share`` (K,) at the least cost; ``stay`` where no other is truly cheaper."""
    cost = (share * (2 * held + share)).sum(axis=1) / target  # what is added to the sum; the rest is equal
    best = int(np.argmin(cost))
    return stay if stay is not None and cost[best] > cost[stay] - 1e-12 else best
