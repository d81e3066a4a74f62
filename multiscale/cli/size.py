"""``multiscale size``."""

from __future__ import annotations

from typing import Annotated

import typer

from ..budget import OWN_LAYOUTS, STREAMS, Layout, Stream, layout_bytes
from ..errors import StampError
from ..geometry import PROFILES, Geometry, profile
from ..keys import PlaneKey, wire_key
from .common import chosen_geometry, joined, misuse


def size(
    survey: Annotated[str, typer.Option(help=f"Whose stream: {joined(STREAMS)}.")] = "lsst",
    profile_name: Annotated[
        str | None, typer.Option("--profile", help=f"A named layout: {joined(PROFILES)}.")
    ] = None,
    size_: Annotated[int | None, typer.Option("--size", help="Pixels per side of a level.")] = None,
    levels: Annotated[int | None, typer.Option(help="Number of levels.")] = None,
    planes: Annotated[
        str, typer.Option(help="Planes, by comma; a variance as variance:science.")
    ] = "science,template,difference",
    step_sigma: Annotated[float, typer.Option(help="The RICE step, in units of the sky noise.")] = 0.25,
    alerts: Annotated[
        int | None, typer.Option(help="Alerts per visit, in place of the survey's average.")
    ] = None,
) -> None:
    """Say what a layout costs: bytes an alert, a visit, a night, and Gbit/s, beside today's cutouts."""
    if survey not in STREAMS:
        raise misuse(f"found survey {survey!r}, expected one of {joined(STREAMS)}")
    default = "ZTF-4x8" if survey == "ztf" else "LSST-4x16"
    try:
        geometry = chosen_geometry(profile_name, size_, levels, None) or profile(default)
        keys = tuple(_plane(text) for text in planes.split(","))
        for key in keys:
            wire_key(key)
    except StampError as error:
        raise misuse(str(error)) from None
    layouts = [
        OWN_LAYOUTS[survey],
        layout_bytes(geometry, keys),
        layout_bytes(geometry, keys, encoding="rice", step_sigma=step_sigma),
    ]
    typer.echo(table(STREAMS[survey], layouts, geometry, alerts))


def _plane(text: str) -> PlaneKey:
    kind, _, of = text.strip().partition(":")
    return (kind, of) if of else kind


def table(stream: Stream, layouts: list[Layout], geometry: Geometry, alerts: int | None) -> str:
    """Return the table: a line a layout, the survey's own first."""
    visit = alerts or stream.alerts_per_visit
    lines = [
        f"{stream.name}: {visit:,} alerts a visit (peak {stream.peak_alerts_per_visit:,}), "
        f"{stream.alerts_per_night:,} a night, {stream.seconds_per_visit:g} s a visit",
        f"layout: {geometry.n_levels} levels of {geometry.size}x{geometry.size}, "
        f"{geometry.field_of_view:.1f} arcsec wide, {geometry.n_values} values a plane",
        "",
        f"{'cutouts':42} {'B/alert':>9} {'MB/visit':>9} {'GB/night':>9} {'Gbit/s':>8} {'at peak':>8}  basis",
    ]
    for layout in layouts:
        gbit = layout.n_bytes * 8e-9 / stream.seconds_per_visit
        lines.append(
            f"{layout.name:42} {layout.n_bytes:>9,.0f} {layout.n_bytes * visit / 1e6:>9,.1f} "
            f"{layout.n_bytes * stream.alerts_per_night / 1e9:>9,.1f} {gbit * visit:>8.4f} "
            f"{gbit * stream.peak_alerts_per_visit:>8.4f}  {layout.basis}"
        )
    return "\n".join(lines)
