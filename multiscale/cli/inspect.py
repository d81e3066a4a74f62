"""``multiscale inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..avro import read_messages
from ..cutout import Cutout
from ..errors import StampError
from ..inspection import Part, cutout_parts, record_parts
from ..packet import EMBEDDED_FIELD, cutout_record
from ..schema import full_name
from .common import PATHS_HELP, expand


def inspect(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help=PATHS_HELP, exists=True)],
    packet: Annotated[int, typer.Option(help="Which packet to take apart, from 0.")] = 0,
) -> None:
    """Say what is inside a file and where the bytes of one of its packets go.

    Works on multi-scale packets and on surveys' own alerts.
    """
    status = 0
    for path in expand(paths):
        try:
            _inspect(path, packet)
        except StampError as error:
            typer.echo(f"{path}: {error}", err=True)
            status = 1
    raise typer.Exit(status)


def _inspect(path: Path, number: int) -> None:
    record, count = None, 0
    with read_messages(path) as reader:
        for count, one in enumerate(reader, start=1):
            if count == number + 1:
                record = one
    packets = "1 packet" if count == 1 else f"{count} packets"
    n_bytes = path.stat().st_size
    typer.echo(f"{path}: {n_bytes:,} bytes, {packets} of {full_name(reader.schema)}, codec {reader.codec}")
    for repair in reader.repairs:
        typer.echo(f"  repaired on reading: {repair}")
    if record is None:
        if count or number:
            raise StampError("record", f"{count} packets", f"a packet number below {count}")
        return
    _print_parts(f"packet {number}", record_parts(reader.schema, record))
    try:
        inner = cutout_record(record)
    except StampError:
        typer.echo("  no multi-scale cutout in it: multiscale convert makes one")
        return
    if inner is not None:
        _print_cutout(Cutout.from_record(inner), EMBEDDED_FIELD if EMBEDDED_FIELD in record else "cutout")


def _print_cutout(cutout: Cutout, name: str) -> None:
    g = cutout.geometry
    where = (
        "position not known to a pixel"
        if cutout.dx is None
        else f"object at {cutout.dx:+.2f}, {cutout.dy:+.2f} px"
    )
    typer.echo(
        f"  {name}: {g.n_levels} levels of {g.size}x{g.size}, {g.pixel_scale:g} arcsec at level 0, "
        f"{g.field_of_view:.1f} arcsec wide; {where} from the shared corner"
    )
    c = cutout.clipped
    if c.x_low or c.x_high or c.y_low or c.y_high:
        sides = f"x {c.x_low} + {c.x_high}, y {c.y_low} + {c.y_high} of {g.span_px} px"
        typer.echo(f"    clipped: {sides} ({cutout.clipped_by})")
    sky = cutout.sky
    if sky is not None:
        typer.echo(f"    sky: shared corner at RA {sky.ra:.6f}, Dec {sky.dec:+.6f} deg")
    for plane in cutout.planes:
        known = "" if plane.background is None else f", sky {plane.background:.5g}"
        known += "" if plane.noise is None else f" +- {plane.noise:.4g}"
        of = "" if plane.of == "NONE" else f" of {plane.of.lower()}"
        whole = "" if plane.shared_center else ", whole levels"
        typer.echo(f"    {plane.kind.lower()}{of} [{plane.unit or 'no unit'}]{known}{whole}")
    for missing in cutout.missing:
        typer.echo(f"    missing: {missing.kind.lower()} ({missing.reason}) {missing.detail}".rstrip())
    _print_parts("cutout", cutout_parts(cutout))


def _print_parts(title: str, parts: list[Part]) -> None:
    total = sum(part.n_bytes for part in parts)
    typer.echo(f"  {title}: {total:,} bytes")
    for part in parts:
        note = f"  {part.note}" if part.note else ""
        typer.echo(f"    {part.n_bytes:>9,}  {100 * part.n_bytes / max(total, 1):5.1f} %  {part.name}{note}")
