"""Light curves: of one object as a table, of a night's objects as one Parquet file, and as a picture.

Fluxes are those of the difference, science minus template, in nanojansky (alerts/records.py): what faded is
negative, which a magnitude could not say.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import select
from sqlalchemy.orm import Session

from multiscale.atomic import replacing

from ..alerts.records import nanojansky
from ..errors import StoreError
from ..store import tables
from .limits import detections_of, forced_of, upper_limits

SCHEMA = pa.schema(
    [
        pa.field("object_id", pa.string(), nullable=False),
        pa.field("branch", pa.string(), nullable=False),
        pa.field("what", pa.string(), nullable=False),  # "detection", "forced" or "limit"
        pa.field("exposure_id", pa.string(), nullable=False),
        pa.field("candidate_id", pa.string()),
        pa.field("band", pa.string(), nullable=False),
        pa.field("mjd", pa.float64(), nullable=False, metadata={"unit": "d", "scale": "UTC, mid-exposure"}),
        pa.field("flux", pa.float64(), metadata={"unit": "as flux_unit says"}),
        pa.field("flux_err", pa.float64(), metadata={"unit": "as flux_unit says"}),
        pa.field("flux_unit", pa.string()),
        pa.field("magnitude", pa.float64(), metadata={"unit": "mag", "system": "AB, of the absolute flux"}),
        pa.field("magnitude_err", pa.float64(), metadata={"unit": "mag"}),
        pa.field("limiting_magnitude", pa.float64(), metadata={"unit": "mag", "sigma": "5"}),
        pa.field("snr", pa.float64()),
        pa.field("ra", pa.float64(), metadata={"unit": "deg"}),
        pa.field("dec", pa.float64(), metadata={"unit": "deg"}),
        pa.field("flags", pa.list_(pa.field("element", pa.string())), nullable=False),
    ]
)
_BAND_COLORS = {  # told apart with any colour vision (Okabe & Ito 2008)
    "u": "#CC79A7", "g": "#009E73", "r": "#D55E00", "i": "#E69F00", "z": "#56B4E9"
}  # fmt: skip
_OTHER_COLORS = ("#0072B2", "#000000", "#F0E442")
_SIZE = (8.0, 4.5)  # inches


def light_curve(session: Session, object_id: str) -> pa.Table:
    """Return all that was measured of an object, by time: a table of :data:`SCHEMA`.

    An exposure may have two rows: its detection and its forced flux. Raises StoreError for an object that is
    not stored.
    """
    return pa.Table.from_pylist(_rows(session, object_id), schema=SCHEMA)


def changed_objects(session: Session, exposure_ids: Iterable[str]) -> list[str]:
    """Return the ids of the objects that were detected in these exposures, or had a flux forced there."""
    exposures = sorted(set(exposure_ids))
    detected = (
        select(tables.Detection.object_id)
        .join(tables.Candidate, tables.Candidate.id == tables.Detection.candidate_id)
        .join(tables.Subtraction, tables.Subtraction.id == tables.Candidate.subtraction_id)
        .where(tables.Subtraction.exposure_id.in_(exposures))
    )
    forced = select(tables.ForcedPhotometry.object_id).where(
        tables.ForcedPhotometry.exposure_id.in_(exposures)
    )
    return sorted({*session.scalars(detected), *session.scalars(forced)})


def write_light_curves(session: Session, folder: Path, *, night: str, object_ids: Iterable[str]) -> Path:
    """Write the light curves of objects to ``folder``/``night``.parquet, whole or not at all; its path.

    Rows are in the order of object ids, then time: what concerns one object stands together. The same
    content gives the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{night}.parquet"
    rows = [row for object_id in sorted(set(object_ids)) for row in _rows(session, object_id)]
    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), partial, compression="zstd")
    return path


def _rows(session: Session, object_id: str) -> list[dict[str, Any]]:
    own = session.get(tables.Object, object_id)
    if own is None:
        raise StoreError(f"object {object_id} is not stored")
    same = {"object_id": own.id, "branch": own.branch}
    rows: list[dict[str, Any]] = []
    for seen in detections_of(session, object_id):
        rows.append({**same, **_shared(seen.record, "detection"), "candidate_id": seen.candidate_id})
    for _, _, forced in forced_of(session, object_id):
        snr = None if forced.flux is None or not forced.flux_err else forced.flux / forced.flux_err
        rows.append({**same, **_shared(forced, "forced"), "snr": snr, "ra": own.ra, "dec": own.dec})
    for _, limit in upper_limits(session, own, band=None, begin=0.0, end=1e7):
        rows.append({**same, **_shared(limit, "limit"), "ra": own.ra, "dec": own.dec})
    return sorted(rows, key=lambda row: (row["mjd"], row["exposure_id"], row["what"]))


def _shared(record: Any, what: str) -> dict[str, Any]:
    """What a packet's record says under the names of SCHEMA."""
    said = record.model_dump(include=set(SCHEMA.names))
    return {"flags": [], **said, "what": what, "mjd": record.time}


def plot_light_curve(curve: pa.Table, path: Path) -> None:
    """Draw the light curve of one object as a PNG, whole or not at all.

    Filled points are detections, open ones forced fluxes, arrows 5 sigma upper limits without either. Fluxes
    without a zero point have no place on the axis beside those that have one; the title counts them.
    """
    from matplotlib.figure import Figure  # half a second, and not every process draws
    from matplotlib.markers import MarkerStyle
    from matplotlib.transforms import Affine2D

    rows = curve.to_pylist()
    units = {row["flux_unit"] for row in rows if row["flux"] is not None}
    unit = "electron" if units == {"electron"} else "nJy"
    drawn = [row for row in rows if row["flux"] is not None and row["flux_unit"] == unit]
    lost = sum(row["flux"] is not None for row in rows) - len(drawn)
    limits = [row for row in rows if row["what"] == "limit"] if unit == "nJy" else []
    start = int(min((row["mjd"] for row in rows), default=0.0))
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
    bands = sorted({row["band"] for row in rows})
    others = [band for band in bands if band not in _BAND_COLORS]
    colors = _BAND_COLORS | {band: _OTHER_COLORS[i % 3] for i, band in enumerate(others)}
    for band in bands:
        for what, fill, size in (("forced", "none", 4.0), ("detection", colors[band], 5.5)):
            points = [row for row in drawn if row["band"] == band and row["what"] == what]
            if points:
                axes.errorbar(
                    [row["mjd"] - start for row in points],
                    [row["flux"] for row in points],
                    [row["flux_err"] or 0.0 for row in points],
                    fmt="o",
                    color=colors[band],
                    markerfacecolor=fill,
                    markersize=size,
                    linewidth=1.0,
                    label=f"{band}, {what}",
                )
        without = [row for row in limits if row["band"] == band and not _has_flux(row, drawn)]
        if without:
            axes.plot(
                [row["mjd"] - start for row in without],
                [nanojansky(row["limiting_magnitude"]) for row in without],
                linestyle="none",
                marker=MarkerStyle(
                    r"$\downarrow$", transform=Affine2D().translate(0.0, -0.5)
                ),  # from the limit
                markersize=10.0,
                color=colors[band],
                label=f"{band}, 5σ limit",
            )
    name = rows[0]["object_id"] if rows else "no data"
    axes.set_title(name if not lost else f"{name} ({lost} without a zero point not drawn)", loc="left")
    axes.set_xlabel(f"MJD − {start} (UTC)")
    axes.set_ylabel("flux of the difference (nJy)" if unit == "nJy" else "flux of the difference (electrons)")
    axes.margins(0.06, 0.1)
    if rows:
        axes.legend(frameon=False, fontsize="small")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _has_flux(limit: dict[str, Any], drawn: list[dict[str, Any]]) -> bool:
    return any(row["exposure_id"] == limit["exposure_id"] for row in drawn)
