"""A wide view round satellites of the simulated frames: what no stamp shows (the paper's Figure 6).

The frames are not kept, so the cell is simulated, reduced and subtracted again; its view is taken only where
its middle is the stamp that was sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference_pipeline.alerts.cutouts import planes_of
from reference_pipeline.config import Alerts, parse_model
from reference_pipeline.crossmatch import KnownSky
from reference_pipeline.errors import FrameError
from reference_pipeline.labelled.cells import Observer, chip_masters, open_workshop, plan_cell
from reference_pipeline.labelled.description import Options, StampSet
from reference_pipeline.labelled.detections import original
from reference_pipeline.labelled.stamp import original_of, read_stamp_records
from reference_pipeline.run import find_transients

from .data import Stamps

Floats = NDArray[np.float32]

N_VIEWS = 2
_TRIED = 4  # satellites of good epochs, before it is given up
_SAME = 0.999  # correlation of two versions of one stamp, least


def wide_views(
    stamps: Stamps, rows: NDArray[np.int64], arcsec: int | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return wide views (results.EXAMPLES) of two of the satellites ``rows``, the first that can be had.

    ``arcsec`` None: none. None either where the stamps are of no simulated set, or of another version of it.
    """
    found: list[tuple[str, Floats]] = []
    if arcsec is not None:
        side = int(arcsec / stamps.pixel_scale) // 2 * 2 + 1
        for name, view in _views(stamps, rows, side, say):
            found.append((name, view))
            if len(found) == N_VIEWS:
                break
    empty = np.zeros((0, 0, 0), np.float32)
    return {
        "wide_id": np.array([name for name, _ in found], str),
        "wide_image": np.stack([view for _, view in found]) if found else empty,
        "wide_pixel_scale": stamps.pixel_scale,
    }


def _views(
    stamps: Stamps, rows: NDArray[np.int64], side: int, say: Callable[[str], None]
) -> Iterator[tuple[str, Floats]]:
    n_tried = 0
    for row in rows.tolist():
        if n_tried == _TRIED:
            break
        file, name = stamps.files[stamps.file[row]], str(stamps.facts["stamp_id"][row])
        told = file.parent / "set.json"
        epoch = str(stamps.facts["exposure_id"][row]).rpartition("-")[2]
        if not told.is_file() or not epoch.isdigit():
            continue
        record = next(r for i, r in enumerate(read_stamp_records(file)) if i == stamps.record[row])
        sent = original_of(record)
        assert sent is not None
        try:
            view = _view(told, str(stamps.facts["field_id"][row]), int(epoch), record, side)
        except FrameError as error:
            say(f"wide view of {name}: {error}")
            continue
        if view is None:
            continue
        n_tried += 1
        if _holds(view, sent.planes["difference"]):
            yield name, view
        else:
            say(f"wide view of {name}: this version of the simulator does not give its stamp again")


def _view(told: Path, field: str, epoch: int, record: dict[str, Any], side: int) -> Floats | None:
    """The difference round a stamp's object, (side, side); None of a poor epoch, or where it is not found."""
    made = json.loads(told.read_text(encoding="utf-8"))
    config = parse_model(StampSet, made["set"], str(told))
    options = parse_model(Options, made["options"], str(told))
    workshop = open_workshop(config, made["seed"], options.inject)
    cell = plan_cell(workshop, int(field.rpartition("-")[2]))
    if cell.name != field or epoch in cell.poor or epoch >= len(cell.exposures):
        return None
    observer = Observer(workshop, cell, chip_masters(workshop, cell.chip, cell.band, told.parent / "masters"))
    template, seen = observer.template(lambda error: None), observer.see(epoch)
    found = find_transients(seen.frame, template.frame, sky=KnownSky(), config=observer.config)
    if not found.candidates:
        return None
    off = [
        np.hypot((c.ra - record["ra"]) * np.cos(np.radians(c.dec)), c.dec - record["dec"])
        for c in found.candidates
    ]
    nearest = found.candidates[int(np.argmin(off))]
    planes = planes_of(slice(None), found.difference, found.aligned, template.frame, Alerts())
    return original({"difference": planes["difference"]}, nearest.x, nearest.y, side).planes["difference"]


def _holds(view: Floats, stamp: Floats) -> bool:
    """Whether the middle of ``view`` is ``stamp``."""
    low = [(a - b) // 2 for a, b in zip(view.shape, stamp.shape)]
    middle = view[low[0] : low[0] + stamp.shape[0], low[1] : low[1] + stamp.shape[1]]
    both = np.isfinite(middle) & np.isfinite(stamp)
    if middle.shape != stamp.shape or not both.any():
        return False
    return float(np.corrcoef(middle[both], stamp[both])[0, 1]) > _SAME
