"""``multiscale show`` and ``multiscale export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..atomic import replacing
from ..convert import open_packets
from ..cutout import Cutout
from ..errors import RecordError, StampError
from ..packet import Alert, EmbeddedAlert, alert_title
from .common import misuse, pick


class Format(StrEnum):
    """What to write."""

    FITS = "fits"
    MOSAIC = "mosaic"
    NPZ = "npz"
    PNG = "png"


_SUFFIX = {Format.FITS: ".fits", Format.MOSAIC: "_mosaic.fits", Format.NPZ: ".npz", Format.PNG: ".png"}


def _cutout(alert: Alert | EmbeddedAlert) -> Cutout:
    if alert.cutout is None:
        raise RecordError("no-plane", "no cutout in this packet", "a cutout")
    return alert.cutout


def show(
    path: Annotated[
        Path, typer.Argument(help="An Avro file; a survey's own alerts too.", exists=True, dir_okay=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")] = Path("stamp.png"),
    packet: Annotated[int, typer.Option(help="Which packet, from 0.")] = 0,
) -> None:
    """Draw one alert: planes by levels, the mosaic, scale bar, and compass where it is known (PNG)."""
    from ..plot import save_png

    alert = pick(path, packet)
    save_png(_cutout(alert), output, title=alert_title(alert))
    typer.echo(output)


def export(
    path: Annotated[
        Path, typer.Argument(help="An Avro file; a survey's own alerts too.", exists=True, dir_okay=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder, or with --packet a file.")],
    format_: Annotated[
        Format,
        typer.Option(
            "--format", help="fits: all levels. mosaic: finest level wins. npz: arrays. png: a figure."
        ),
    ] = Format.FITS,
    packet: Annotated[int | None, typer.Option(help="Only this packet, from 0.")] = None,
) -> None:
    """Write alerts as files that stock tools open: FITS with ordinary WCS, NumPy arrays, pictures.

    Exit status: 0 if all were written, 1 if some were reported, 2 if the command was misused.
    """
    if packet is not None:
        alert = pick(path, packet)
        _write(alert, output, format_)
        typer.echo(output)
        return
    if output.is_file():
        raise misuse(f"{output} is a file; give a folder, or --packet")
    output.mkdir(parents=True, exist_ok=True)
    n_reported = 0
    for number, alert in open_packets(path):
        target = output / f"{path.stem}_{number:05d}{_SUFFIX[format_]}"
        try:
            _write(alert, target, format_)
        except StampError as error:
            typer.echo(f"{path}: packet {number}: {error}")
            n_reported += 1
        else:
            typer.echo(target)
    raise typer.Exit(1 if n_reported else 0)


def _write(alert: Alert | EmbeddedAlert, target: Path, format_: Format) -> None:
    cutout = _cutout(alert)
    if format_ is Format.PNG:
        from ..plot import save_png

        save_png(cutout, target, title=alert_title(alert))
    elif format_ is Format.NPZ:
        write_npz(cutout, target)
    else:
        from ..fits import alert_header, write_fits, write_mosaic

        write = write_fits if format_ is Format.FITS else write_mosaic
        write(cutout, target, header=alert_header(alert))


def write_npz(cutout: Cutout, target: Path) -> None:
    """Write the levels of every plane as arrays science, variance_science, …, and the geometry."""
    arrays: dict[str, Any] = {
        "_".join([p.kind.lower()] + ([] if p.of == "NONE" else [p.of.lower()])): cutout.levels(p.kind, p.of)
        for p in cutout.planes
    }
    arrays["pixel_scale"] = np.float64(cutout.pixel_scale)
    arrays["position"] = np.array([cutout.dx, cutout.dy], np.float32)  # dx, dy; None becomes NaN
    with replacing(target) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
