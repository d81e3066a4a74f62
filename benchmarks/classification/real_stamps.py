"""The real labelled stamps of ../shared/data/ztf_labelled, as `reference-pipeline label` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.common import DATA, SEED, need_real_alerts
from multiscale import Geometry, Placement, encode_cutouts
from multiscale.keys import PlaneKey
from reference_pipeline.labelled.real import AMBIGUOUS, LABELLED, LabelReport, label_alerts
from reference_pipeline.labelled.stamp import LabelledStamp, read_stamps, stamp_files


@lru_cache(maxsize=1)
def real_stamps() -> tuple[tuple[LabelledStamp, ...], tuple[LabelledStamp, ...], LabelReport]:
    """Return the stamps of one class, those that are one of two, and what was left out; cuts as shipped."""
    need_real_alerts()
    with TemporaryDirectory() as folder:
        out = Path(folder) / "stamps"
        report = label_alerts([DATA / "ztf_labelled"], out, seed=SEED)
        found = [
            tuple(s for file in stamp_files([out / part]) for s in read_stamps(file))
            for part in (LABELLED, AMBIGUOUS)
        ]
    return found[0], found[1], report


def recut(
    stamps: Sequence[LabelledStamp],
    geometry: Geometry,
    planes: Sequence[str],
    shift: tuple[int, int] = (0, 0),
    encoding: str = "raw",
) -> list[dict[str, Any]]:
    """Return records of the stamps cut anew from their originals, laid out as the converter lays them.

    The footprint's corner is at the upper end of the pixel that the survey cut around, ``shift`` moves it by
    whole pixels. All originals are of one shape.
    """
    images: dict[PlaneKey, Any] = {
        plane: np.stack([s.original.planes[plane] for s in stamps]) for plane in planes
    }
    side = stamps[0].original.shape[0]
    middle = (side - 1) // 2
    places = [Placement(middle + 1 + shift[0], middle + 1 + shift[1])] * len(stamps)
    cutouts = encode_cutouts(images, geometry, places, encoding=encoding)
    return [{"ra": s.ra, "dec": s.dec, "cutout": c.to_record()} for s, c in zip(stamps, cutouts)]
