"""Packets to torch: a dataset that streams Avro files into batches, in bounded memory.

The only module of the package that needs torch (extra ``torch``); what a network sees of a packet is made
in :mod:`multiscale.tensors`, as it is where there is no torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .avro import ContainerReader, read_container
from .batch import decode_batch
from .errors import StampError
from .files import check_readable
from .keys import PlaneKey
from .tensors import NORMALIZATIONS, Normalization, tensors_of

Record = Mapping[str, Any]
Label = str | Callable[[Record], int | None]
_Rows = dict[str, NDArray[Any]]  # arrays of one length, row by row the same packet

_N_DECODED = 256  # packets decoded together: more leave the cache
_MAX_WORKERS = 1024
_PLACES = ("detection", "candidate", "diaSource")  # records that hold ra and dec: ours, ZTF's, LSST's


class PacketWarning(UserWarning):
    """Packets of a file are in no batch."""


@dataclass(frozen=True)
class Counts:
    """What became of the packets that were read since a dataset was made; their sum is all of them."""

    given: int = 0  # in a batch, or waiting to be
    damaged: int = 0  # refused by the codec; the rest of a file that cannot be read on counts as one
    empty: int = 0  # without a cutout
    incomplete: int = 0  # without one of the planes
    unlabelled: int = 0  # of which ``label`` says None


class PacketDataset(IterableDataset[dict[str, Tensor]]):
    """Batches of stamps from Avro files: alerts, packets that embed, labelled stamps, bare cutouts.

    It gives whole batches: ``DataLoader(dataset, batch_size=None, num_workers=4, pin_memory=True)``. Workers
    share the files, so there should be at least as many. A batch is of one (L, S), and a dictionary:

    - ``stamps``: float32 (n, C, L, S, S), C = the planes, then the validity of each
      (:meth:`multiscale.tensors.StampTensors.channels`);
    - ``position``: float32 (n, 3), the unit vector of right ascension and declination; NaN where unknown;
    - ``offset``: float32 (n, 2), the object's (dx, dy) in level-0 pixels (2.4); NaN where unknown;
    - ``label``: int64 (n,), if ``label`` is given;
    - ``index``: int64 (n, 2), which of ``paths``, and which packet of it, 0-based.

    Packets that cannot be used are passed over, said in one PacketWarning a file, and counted
    (:meth:`counts`). The last batch of an (L, S) may be smaller.
    """

    def __init__(
        self,
        paths: str | Path | Iterable[str | Path],
        *,
        planes: Sequence[PlaneKey] = ("science", "template", "difference"),
        normalization: Normalization = "noise",
        label: Label | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 256,
        shuffle_buffer: int = 0,
        seed: int = 0,
    ) -> None:
        """Take Avro files, and folders of them (``*.avro``, searched whole).

        ``label``: a field of the records, or a function of a record; an int, or None to pass the packet over
        before it is decoded. Fields that hold words need ``classes``, whose order gives the numbers.
        ``shuffle_buffer``: stamps held per worker and (L, S) so that they leave in random order; with it the
        files' order is drawn too. The order depends on ``seed``, the epoch (:meth:`set_epoch`) and the number
        of workers. 0: as they lie in the files.

        Raises FileNotFoundError for a path that is not there or a folder without files, ValueError for
        settings that make no sense.
        """
        super().__init__()
        if batch_size < 1 or shuffle_buffer < 0 or not planes or normalization not in NORMALIZATIONS:
            raise ValueError(
                f"batch_size {batch_size}, shuffle_buffer {shuffle_buffer}, planes {planes!r}, "
                f"normalization {normalization!r}: expected 1 or more, 0 or more, one or more, "
                f"{' or '.join(NORMALIZATIONS)}"
            )
        self.paths = _files([paths] if isinstance(paths, str | Path) else paths)
        self.planes = tuple(planes)
        self.normalization = normalization
        self.label = label
        self.classes = None if classes is None else {name: i for i, name in enumerate(classes)}
        self.batch_size, self.shuffle_buffer, self.seed = batch_size, shuffle_buffer, seed
        # shared with the workers' copies: a row of counts each, so that none waits for another
        self._counts = torch.zeros((_MAX_WORKERS, len(fields(Counts))), dtype=torch.int64).share_memory_()
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw another order from the next pass on; workers that live on are told too."""
        self._epoch.fill_(epoch)

    def counts(self) -> Counts:
        """Return what became of the packets, over all passes and workers."""
        return Counts(*self._counts.sum(0).tolist())

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of this worker's files."""
        worker = get_worker_info()
        number, n_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        seed, epoch = self.seed, int(self._epoch)
        files = list(range(len(self.paths)))
        if self.shuffle_buffer:
            np.random.default_rng([seed, epoch]).shuffle(files)
        rng = np.random.default_rng([seed, epoch, number])
        pools: dict[tuple[int, ...], _Pool] = {}
        for file in files[number::n_workers]:
            for rows in self._decoded(file, self._counts[number]):
                shape = rows["values"].shape[2:]
                pool = pools.setdefault(shape, _Pool(self.batch_size, self.shuffle_buffer, rng))
                yield from map(_tensors, pool.batches(rows))
        for pool in pools.values():
            yield from map(_tensors, pool.rest())

    def _decoded(self, file: int, counts: Tensor) -> Iterator[_Rows]:
        """Yield the stamps of a file, some hundreds at a time; count what is passed over, and say so."""
        first, n_passed = "", 0
        for begin, records, end in self._read(file):
            stacks, found, troubles = self._stacks(file, begin, records)
            if end is not None:
                found = replace(found, damaged=found.damaged + 1)
                troubles = [*troubles, str(end)]
            counts += torch.tensor(astuple(found))
            n_passed += found.damaged + found.incomplete
            first = first or next(iter(troubles), "")
            yield from stacks
        if n_passed:
            said = f"{self.paths[file]}: {n_passed} packets passed over, first: {first}"
            warnings.warn(said, PacketWarning, stacklevel=2)

    def _stacks(self, file: int, begin: int, records: list[Record]) -> tuple[list[_Rows], Counts, list[str]]:
        """Return the stamps of records that begin with packet ``begin``, their counts, and what is wrong."""
        labels = [0] * len(records) if self.label is None else [self._label_of(record) for record in records]
        kept = [i for i, label in enumerate(labels) if label is not None]
        batch = decode_batch([records[i] for i in kept], strict=False)
        numbers = np.array(kept, np.int64)
        faults = {int(begin + numbers[i]): error for i, error in batch.refused.items()}
        stacks: list[_Rows] = []
        n_given = n_incomplete = 0
        for group in batch:
            chosen = numbers[group.indices]
            try:
                tensors = tensors_of(group, self.planes, normalization=self.normalization)
            except StampError as error:  # not all of the planes
                faults[int(begin + chosen[0])] = error
                n_incomplete += len(chosen)
                continue
            n_given += len(chosen)
            rows: _Rows = {
                "values": tensors.values,
                "valid": tensors.valid,
                "position": _positions([records[i] for i in chosen]),
                "offset": np.stack([group.dx, group.dy], axis=1),
                "index": np.stack([np.full_like(chosen, file), begin + chosen], axis=1),
            }
            if self.label is not None:
                rows["label"] = np.array([labels[i] for i in chosen], np.int64)
            stacks.append(rows)
        found = Counts(n_given, len(batch.refused), len(batch.empty), n_incomplete, len(records) - len(kept))
        return stacks, found, [str(faults[i].within(f"packet {i}")) for i in sorted(faults)]

    def _read(self, file: int) -> Iterator[tuple[int, list[Record], Exception | None]]:
        """Yield the number of a file's next packet, some hundreds of records, and what ended it early."""
        begin = 0
        try:
            with read_container(self.paths[file]) as reader:
                check_readable(reader.schema)
                while True:
                    records, end = _some(reader)
                    if records or end:
                        yield begin, records, end
                    begin += len(records)
                    if end or len(records) < _N_DECODED:
                        return
        except (OSError, StampError) as error:
            yield begin, [], error

    def _label_of(self, record: Record) -> int | None:
        if self.label is None:
            return 0
        if not callable(self.label) and self.label not in record:
            raise ValueError(f"no field {self.label!r} in a record of {', '.join(record)}")
        value = self.label(record) if callable(self.label) else record[self.label]
        if not isinstance(value, str):
            return value
        if self.classes is None or value not in self.classes:
            names = ", ".join(self.classes or ()) or "classes="
            raise ValueError(f"label {value!r} of field {self.label}: expected one of {names}")
        return self.classes[value]


class _Pool:
    """Stamps of one shape on their way into batches, through a buffer that they leave in random order."""

    def __init__(self, batch_size: int, n_buffer: int, rng: np.random.Generator) -> None:
        self.batch_size, self.n_buffer, self.rng = batch_size, n_buffer, rng
        self.buffer: _Rows = {}
        self.n_held = 0
        self.waiting: list[_Rows] = []
        self.n_waiting = 0

    def batches(self, rows: _Rows) -> Iterator[_Rows]:
        """Take ``rows`` and yield the batches that are full."""
        self._wait(self._swapped(rows) if self.n_buffer else rows)
        while self.n_waiting >= self.batch_size:
            yield self._batch()

    def rest(self) -> Iterator[_Rows]:
        """Yield everything that is left."""
        if self.n_held:
            order = self.rng.permutation(self.n_held)
            self._wait({name: array[order] for name, array in self.buffer.items()})
            self.n_held = 0
        while self.n_waiting:
            yield self._batch()

    def _swapped(self, rows: _Rows) -> _Rows:
        """Fill the buffer; once it is full, put rows into random places of it and return what was there."""
        n = _length(rows)
        if not self.buffer:
            self.buffer = {k: np.empty((self.n_buffer, *v.shape[1:]), v.dtype) for k, v in rows.items()}
        n_free = min(self.n_buffer - self.n_held, n)
        for name, array in self.buffer.items():
            array[self.n_held : self.n_held + n_free] = rows[name][:n_free]
        self.n_held += n_free
        out = []
        for i in range(n_free, n, self.n_buffer):
            m = min(n - i, self.n_buffer)
            places = self.rng.choice(self.n_buffer, m, replace=False)
            out.append({name: array[places] for name, array in self.buffer.items()})
            for name, array in self.buffer.items():
                array[places] = rows[name][i : i + m]
        return _joined(out) if out else {name: array[:0] for name, array in rows.items()}

    def _wait(self, rows: _Rows) -> None:
        self.waiting.append(rows)
        self.n_waiting += _length(rows)

    def _batch(self) -> _Rows:
        rows = _joined(self.waiting)
        n = min(self.batch_size, self.n_waiting)
        self.waiting = [{name: array[n:] for name, array in rows.items()}]
        self.n_waiting -= n
        return {name: array[:n] for name, array in rows.items()}


def _length(rows: _Rows) -> int:
    return len(rows["index"])


def _joined(rows: list[_Rows]) -> _Rows:
    return rows[0] if len(rows) == 1 else {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}


def _some(reader: ContainerReader) -> tuple[list[Record], StampError | None]:
    """Return the next records of a container, and the error that ended it, if one did."""
    records: list[Record] = []
    try:
        for record in islice(reader, _N_DECODED):
            records.append(record)
    except StampError as error:
        return records, error
    return records, None


def _positions(records: Sequence[Record]) -> NDArray[np.float32]:
    """Return unit vectors (n, 3) of the places on the sky of records of one schema, NaN where unknown."""
    inside = next((name for name in _PLACES if isinstance(records[0].get(name), Mapping)), None)
    places = records if inside is None else [record[inside] for record in records]
    ra, dec = np.radians(_column(places, "ra")), np.radians(_column(places, "dec"))
    vectors = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    vectors[np.isnan(ra)] = np.nan  # one without the other is no place
    return vectors.astype(np.float32)


def _column(records: Sequence[Record], name: str) -> NDArray[np.float64]:
    """Return a field of many records, NaN where it is null, and everywhere where it holds no numbers."""
    try:
        return np.array([record.get(name) for record in records], np.float64)
    except (TypeError, ValueError):
        return np.full(len(records), np.nan)


def _tensors(rows: _Rows) -> dict[str, Tensor]:
    values, valid = rows["values"], rows["valid"]
    n, n_planes, *shape = values.shape
    stamps = np.empty((n, 2 * n_planes, *shape), np.float32)
    stamps[:, :n_planes], stamps[:, n_planes:] = values, valid
    others = {
        name: torch.from_numpy(array) for name, array in rows.items() if name not in ("values", "valid")
    }
    return {"stamps": torch.from_numpy(stamps), **others}


def _files(paths: Iterable[str | Path]) -> tuple[Path, ...]:
    """Return the files, folders replaced by the Avro files in them, in order."""
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(path.rglob("*.avro")) if path.is_dir() else [path]
        if not inside or not inside[0].exists():
            raise FileNotFoundError(f"{path}: no Avro file there")
        found += inside
    return tuple(found)
