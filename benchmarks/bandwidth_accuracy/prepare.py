"""What networks are trained on, once for each way of sending: arrays on disk that every trial maps."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from reference_pipeline.classify.dataset import Examples

from .data import Stamps, pixels
from .layouts import encoding_of, layout_of
from .sent import messages_of, normalised, received, spectra_of
from .study import CellSpec

Ints = NDArray[np.int64]
MAKING = "making-"  # how the names of folders begin that are not whole
Sending = tuple[str, str, str, bool]  # CellSpec.sending


@dataclass(frozen=True)
class Shown(Examples):
    """Examples of which a network is shown some planes, and some levels not."""

    without_level: int | None = None

    def inputs(self, rows: Ints) -> NDArray[np.float32]:
        """(n, 2 P, L, S, S): planes, then the validity of each; what is not shown is 0."""
        found = super().inputs(rows)
        if self.without_level is not None:
            found[:, :, self.without_level] = 0
        return found


def folder_of(work: Path, sending: Sending) -> Path:
    """Where the arrays of a way of sending lie."""
    layout, encoding, normalization, fft = sending
    return work / "_".join([layout, encoding.replace("/", ""), normalization, *(["fft"] if fft else [])])


def forget_halves(work: Path) -> None:
    """Remove what an earlier run was killed while making."""
    for folder in work.glob(f"{MAKING}*"):
        shutil.rmtree(folder, ignore_errors=True)


def prepare(stamps: Stamps, sending: Sending, work: Path, *, places: str) -> Path:
    """Send every stamp, and keep what is received; done already, nothing is done. Returns the folder.

    values.npy: (n, P, L, S, S) float32, valid.npy: the same, boolean; planes those of ``stamps``.
    Raises StampError, ConfigError.
    """
    folder = folder_of(work, sending)
    if folder.is_dir():
        return folder
    layout, encoding = layout_of(sending[0]), encoding_of(sending[1])
    n_planes = len(stamps.planes) + sending[3]
    shape = (len(stamps), n_planes, layout.n_levels, layout.box, layout.box)
    partial = folder.with_name(f"{MAKING}{folder.name}-{uuid4().hex[:8]}")
    partial.mkdir(parents=True)
    try:
        values = open_memmap(partial / "values.npy", "w+", np.float32, shape)
        valid = open_memmap(partial / "valid.npy", "w+", np.bool_, shape)
        for some in pixels(stamps, np.arange(len(stamps)), places=places):
            came = received(
                messages_of(some, layout, encoding, stamps.planes), layout, encoding, stamps.planes
            )
            spectrum = spectra_of(some.images["difference"]) if sending[3] else None
            values[some.rows], valid[some.rows] = normalised(came, stamps.planes, sending[2], spectrum)
        values.flush()
        valid.flush()
        del values, valid
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def shown(stamps: Stamps, cell: CellSpec, work: Path, *, seed: int) -> tuple[Shown, Ints]:
    """Return a cell's examples and their parts, its seed's labels, positions and fraction of the data.

    Parts: 0 training, 1 validation, 2 test, 3 unused. Wrong labels are of the training alone.
    """
    folder = folder_of(work, cell.sending)
    chosen = _slice([stamps.planes.index(plane) for plane in cell.planes], len(stamps.planes), cell.fft)
    values = np.load(folder / "values.npy", mmap_mode="r")[:, chosen]
    valid = np.load(folder / "valid.npy", mmap_mode="r")[:, chosen]
    parts = stamps.part.copy()
    labels = stamps.label.copy()
    if cell.fraction < 1:
        rng = np.random.default_rng([seed, 31])
        for k in np.unique(labels):
            members = rng.permutation(np.flatnonzero((stamps.label == k) & (parts == 0)))
            parts[members[max(1, round(cell.fraction * len(members))) :]] = 3
    if cell.label_noise:
        rng = np.random.default_rng([seed, 32])
        training = np.flatnonzero(parts == 0)
        wrong = training[rng.random(len(training)) < cell.label_noise]
        n_classes = int(labels.max()) + 1
        labels[wrong] = (labels[wrong] + rng.integers(1, n_classes, len(wrong))) % n_classes
    position = stamps.position()
    if cell.position == "shuffled":
        rng = np.random.default_rng([seed, 33])
        for part in range(3):  # a place of another stamp of the same part
            rows = np.flatnonzero(stamps.part == part)
            position[rows] = position[rng.permutation(rows)]
    scales = (stamps.pixel_scale, stamps.pixel_scale)
    facts = {"survey": stamps.facts["survey"]}
    found = Shown(
        values, valid, position, labels, stamps.group, scales, facts, {}, without_level=cell.dropped_level
    )
    return found, parts


def _slice(planes: list[int], n: int, with_last: bool) -> slice | list[int]:
    """Planes of the arrays on disk; a slice where that does, so that nothing is copied into memory."""
    numbers = [*planes, n] if with_last else planes
    steps = set(np.diff(numbers).tolist())
    if len(steps) <= 1:
        step = steps.pop() if steps else 1
        return slice(numbers[0], numbers[-1] + 1, step)
    return numbers


def n_planes(cell: CellSpec) -> int:
    """How many planes the network of a cell takes."""
    return len(cell.planes) + cell.fft
