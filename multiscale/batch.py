"""Many packets at once: the way to decode thousands of alerts a second.

Records go straight from Avro to stacked arrays; no model is built. Packets are grouped by geometry and
planes, so that a stream of several surveys, or of packets with and without a template, still stacks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from .encoding import decode_planes
from .errors import RecordError, StampError
from .geometry import Geometry
from .keys import PlaneKey, plane_key
from .packet import cutout_record
from .rules import check_cutout, later_symbol

_Record = Mapping[str, Any]
_Member = tuple[int, _Record, Sequence[_Record]]  # which packet, its cutout, those of its planes that count
_KIND_AND_OF = itemgetter("kind", "of")

# what a record raises that was read with another schema than ours, or made by hand
_NOT_OURS = (KeyError, TypeError, AttributeError, ValueError, OverflowError, IndexError)


@dataclass(frozen=True)
class Group:
    """Packets of one geometry and one set of planes; row i of every array is packet ``indices[i]``."""

    geometry: Geometry
    indices: np.ndarray  # (N,) int64: which of the records given
    levels: dict[PlaneKey, np.ndarray]  # each (N, L, S, S): float32, invalid NaN; uint16 for masks
    dx: np.ndarray  # (N,) float32, level-0 pixels, NaN where unknown; likewise dy
    dy: np.ndarray
    background: dict[PlaneKey, np.ndarray]  # (N,) float32 in the plane's unit, NaN where unknown
    noise: dict[PlaneKey, np.ndarray]


@dataclass(frozen=True)
class Batch:
    """What ``decode_batch`` returns; iterating gives the groups."""

    groups: tuple[Group, ...]
    refused: dict[int, StampError]  # index of the record -> why it is in no group
    empty: tuple[int, ...]  # indices of records whose cutout is null
    later: dict[int, tuple[StampError, ...]]  # index of the record -> its planes of a later version (6.3)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)


def decode_batch(records: Sequence[Mapping[str, Any]], *, strict: bool = True) -> Batch:
    """Return the levels of many packets, stacked.

    ``records`` are Avro records as a reader gives them: ``multiscale.Alert``, alerts with an embedded
    cutout, or bare ``multiscale.Cutout``. Every field, payload and CRC is checked as
    ``Cutout.from_record`` and ``Cutout.levels`` do. With ``strict`` the first bad packet raises its
    StampError with the index; otherwise it is in ``refused`` and the others are decoded. Planes of a kind or
    encoding that only a later version knows are left out, and named in ``later``.
    """
    refused: dict[int, StampError] = {}
    empty: list[int] = []
    later: dict[int, tuple[StampError, ...]] = {}
    members: dict[tuple[Any, ...], list[_Member]] = defaultdict(list)
    for index, record in enumerate(records):
        try:
            cutout = cutout_record(record)
            if cutout is None:
                empty.append(index)
                continue
            has_later = check_cutout(cutout, later_symbols=True)
            planes = cutout["planes"]
            if has_later:
                faults = [later_symbol(plane) for plane in planes]
                later[index] = tuple(
                    fault.within(f"planes[{j}]") for j, fault in enumerate(faults) if fault is not None
                )
                planes = [plane for plane, fault in zip(planes, faults, strict=True) if fault is None]
            key = (cutout["size"], cutout["nLevels"], cutout["pixelScale"], *map(_KIND_AND_OF, planes))
        except StampError as error:
            refused[index] = error
        except _NOT_OURS as error:
            refused[index] = _incomplete(error)
        else:
            members[key].append((index, cutout, planes))
    groups = [_decode_alike(key, alike, refused) for key, alike in members.items()]
    if strict and refused:
        first = min(refused)
        raise refused[first].within(f"records[{first}]")
    groups = [group for group in groups if len(group.indices)]
    return Batch(tuple(groups), refused, tuple(empty), {i: faults for i, faults in later.items() if faults})


def _place(cutout: Mapping[str, Any], plane: Mapping[str, Any]) -> str:
    """Return where ``plane`` is in ``cutout``."""
    return f"planes[{next(i for i, other in enumerate(cutout['planes']) if other is plane)}]"


def _decode_alike(key: tuple[Any, ...], members: list[_Member], refused: dict[int, StampError]) -> Group:
    """Decode packets that agree in geometry and planes, even where one is not what a reader of ours gives."""
    try:
        return _decode_group(key, members, refused)
    except _NOT_OURS:  # one of them; each alone tells which
        ours = []
        for member in members:
            try:
                _decode_group(key, [member], {})
            except _NOT_OURS as error:
                refused[member[0]] = _incomplete(error)
            else:
                ours.append(member)
    return _decode_group(key, ours, refused)


def _incomplete(error: Exception) -> StampError:
    if isinstance(error, StampError):
        return error
    return RecordError("record", f"{type(error).__name__} {error}", "a record read with our schema (8.5)")


def _decode_group(key: tuple[Any, ...], members: list[_Member], refused: dict[int, StampError]) -> Group:
    """Decode packets that agree in geometry and planes; those refused are left out."""
    size, n_levels, pixel_scale, *kinds = key
    geometry = Geometry(size, n_levels, pixel_scale)
    n = len(members)
    keys = [plane_key(*kind) for kind in kinds]
    levels: dict[PlaneKey, np.ndarray] = {}
    bad: dict[int, StampError] = {}
    for is_mask in (False, True):
        columns = [j for j, (kind, _) in enumerate(kinds) if (kind == "MASK") == is_mask]
        # column after column, so that each plane's stack is contiguous
        planes = [member[2][j] for j in columns for member in members]
        stack, failures = decode_planes(planes, geometry)
        for row, error in failures.items():
            bad.setdefault(row % n, error.within(_place(members[row % n][1], planes[row])))
        for position, j in enumerate(columns):
            levels[keys[j]] = stack[position * n : (position + 1) * n]
    refused.update({members[i][0]: error for i, error in bad.items()})
    if bad:
        good = [i for i in range(n) if i not in bad]
        levels = {name: array[good] for name, array in levels.items()}
        members = [members[i] for i in good]
    numbers, cutouts, sent = zip(*members, strict=True) if members else ((), (), ())
    by_plane = list(zip(*sent, strict=True)) or [()] * len(keys)

    def column(name: str, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return np.array([row[name] for row in rows], np.float32)  # None becomes NaN

    return Group(
        geometry=geometry,
        indices=np.array(numbers, np.int64),
        levels={name: levels[name] for name in keys},
        dx=column("dx", cutouts),
        dy=column("dy", cutouts),
        background={name: column("background", rows) for name, rows in zip(keys, by_plane, strict=True)},
        noise={name: column("noise", rows) for name, rows in zip(keys, by_plane, strict=True)},
    )
