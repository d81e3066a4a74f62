"""Pictures of light curves, for whoever asks at a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import func, select

from ..store import tables
from ..store.opening import open_store
from .lightcurve import light_curve, plot_light_curve


def draw(
    url: str, object_ids: Sequence[str], folder: Path, *, branch: str = "dip", n_brightest: int = 0
) -> list[Path]:
    """Draw objects' light curves into ``folder``, one PNG each, and return their paths.

    Beside those named, the ``n_brightest`` of a branch: most detections first, of those the largest S/N.
    Raises StoreError for a database or an object that is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = open_store(url)
    try:
        with store.read() as session:
            best = (
                select(tables.Object.id)
                .join(tables.Detection, tables.Detection.object_id == tables.Object.id)
                .join(tables.Candidate, tables.Candidate.id == tables.Detection.candidate_id)
                .where(tables.Object.branch == branch)
                .group_by(tables.Object.id, tables.Object.n_detections)
                .order_by(
                    tables.Object.n_detections.desc(),
                    func.max(func.abs(tables.Candidate.snr)).desc(),
                    tables.Object.id,
                )
                .limit(n_brightest)
            )
            ids = dict.fromkeys([*object_ids, *session.scalars(best)])
            paths = []
            for id_ in ids:
                paths.append(folder / f"light_curve_{id_}.png")
                plot_light_curve(light_curve(session, id_), paths[-1])
            return paths
    finally:
        store.close()
