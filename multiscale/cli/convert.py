"""``multiscale convert``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from ..avro import write_container
from ..convert import Converted, ConvertedFile, NotConverted, Options, convert_file, wished_loss
from ..errors import SchemaError, StampError
from ..geometry import PROFILES
from ..schema import load_schema, load_schema_file
from .common import PATHS_HELP, chosen_geometry, expand, joined, misuse, with_progress

SURVEYS = {"auto": "auto", "ztf": "ZTF", "lsst": "LSST", "other": "other"}


class As(StrEnum):
    """What to write."""

    ALERT = "alert"
    EMBED = "embed"


class Encoding(StrEnum):
    """How payloads hold the values."""

    RAW = "raw"
    RICE = "rice"


class Tally:
    """Counts of one run, printed so that they add up."""

    def __init__(self) -> None:
        self.converted = 0
        self.reported = 0
        self.notes: Counter[str] = Counter()
        self.no_data: list[Converted] = []

    def report(self, path: Path, trouble: NotConverted) -> None:
        """Print one line for what was not converted."""
        self.reported += 1
        packet = "" if trouble.packet is None else f" packet {trouble.packet}:"
        typer.echo(f"{path}:{packet} {trouble.error}")

    def take(self, packet: Converted) -> dict[str, Any]:
        """Count a converted packet and return its record."""
        self.converted += 1
        self.notes.update(packet.notes)
        self.no_data.append(Converted(packet.packet, {}, packet.cutout, packet.survey, packet.no_data, ()))
        return packet.record


def convert(
    paths: Annotated[list[Path], typer.Argument(metavar="IN...", help=PATHS_HELP, exists=True)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A file *.avro, or a folder: one file for each input.")
    ],
    as_: Annotated[
        As,
        typer.Option(
            "--as",
            help="alert: our own packet. embed: the survey's schema and fields, its cutouts replaced.",
        ),
    ] = As.ALERT,
    keep_cutouts: Annotated[
        bool, typer.Option("--keep-cutouts", help="With embed: keep the survey's own cutouts beside ours.")
    ] = False,
    survey: Annotated[str, typer.Option(help="Whose alerts these are: auto, ztf, lsst or other.")] = "auto",
    profile: Annotated[str | None, typer.Option(help=f"A named layout: {joined(PROFILES)}.")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels per side of a level: a multiple of 4.")] = None,
    levels: Annotated[
        int | None, typer.Option(help="Number of levels, each twice as wide as the last.")
    ] = None,
    pixel_scale: Annotated[
        float | None, typer.Option(help="Level-0 pixel in arcsec, where the packets do not say.")
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(
            help="The *.avsc that a file with one Confluent message was written with.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    encoding: Annotated[
        Encoding, typer.Option(help="raw: lossless. rice: bounded error, 5 times smaller.")
    ] = (Encoding.RAW),
    step_sigma: Annotated[float, typer.Option(help="With rice: the step, in units of the sky noise.")] = 0.25,
) -> None:
    """Convert surveys' own alerts (ZTF, LSST, others with FITS cutouts) to multi-scale packets.

    A layout is the survey's own (ZTF: 4 levels of 8 pixels), or the fewest levels of 16 pixels that cover
    its cutouts. What cannot be converted is reported, one line each, and the rest is converted.

    Exit status: 0 if all were converted, 1 if some were reported, 2 if the command was misused.
    """
    options = Options(
        geometry=chosen_geometry(profile, size, levels, pixel_scale),
        encoding=encoding.value,
        step_sigma=step_sigma,
        survey=SURVEYS.get(survey.lower(), survey),
        pixel_scale=pixel_scale,
        keep_cutouts=keep_cutouts,
        schema=None if schema is None else load_schema_file(schema),
    )
    if keep_cutouts and as_ is not As.EMBED:
        raise misuse("--keep-cutouts goes with --as embed")
    files = expand(paths)
    tally = Tally()
    if output.suffix == ".avro" and not output.is_dir():
        _into_one(files, output, options, as_, tally)
    else:
        _into_folder(files, output, options, as_, tally)
    _summary(tally, asked=options.geometry is not None)
    raise typer.Exit(1 if tally.reported else 0)


def _open(path: Path, options: Options, as_: As, tally: Tally) -> ConvertedFile | None:
    try:
        return convert_file(path, options, embed=as_ is As.EMBED)
    except StampError as error:
        tally.report(path, NotConverted(None, error))
        return None


def _records(file: ConvertedFile, tally: Tally) -> Iterator[dict[str, Any]]:
    for packet in file.packets:
        if isinstance(packet, NotConverted):
            tally.report(file.path, packet)
        else:
            yield tally.take(packet)


def _into_one(files: list[Path], output: Path, options: Options, as_: As, tally: Tally) -> None:
    """Write every packet to one container, which has one schema."""
    opened = (
        f for p in with_progress(files, "converting") if (f := _open(p, options, as_, tally)) is not None
    )
    first = next(opened, None)
    schema = load_schema("multiscale.Alert") if first is None else first.schema

    def records() -> Iterator[dict[str, Any]]:
        if first is not None:
            yield from _records(first, tally)
        for file in opened:
            if file.schema != schema:
                error = SchemaError(
                    "schema",
                    "another schema than the first file's",
                    "one schema in one file; -o FOLDER keeps each",
                )
                tally.report(file.path, NotConverted(None, error))
                continue
            yield from _records(file, tally)

    _check_not_an_input(output, files)
    _write(output, schema, records())


def _into_folder(files: list[Path], folder: Path, options: Options, as_: As, tally: Tally) -> None:
    """Write one container for each input, named like it; none where nothing was converted."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for path in with_progress(files, "converting"):
        name = path.name if path.suffix == ".avro" else f"{path.name}.avro"
        target = folder / (name if name not in taken else f"{path.parent.name}_{name}")
        taken.add(name)
        _check_not_an_input(target, files)
        file = _open(path, options, as_, tally)
        if file is None:
            continue
        _write(target, file.schema, _records(file, tally))


def _write(target: Path, schema: dict[str, Any], records: Iterator[dict[str, Any]]) -> None:
    """Write a container, unless nothing comes: then no file is made, and one that was there stays."""
    first = next(records, None)
    if first is not None:
        write_container(target, schema, chain([first], records))


def _check_not_an_input(target: Path, files: list[Path]) -> None:
    if target.exists() and any(target.samefile(path) for path in files):
        raise misuse(f"{target} is also an input; choose another output")


def _summary(tally: Tally, *, asked: bool) -> None:
    """Say on standard error what was done: counts that add up, repairs, and how much of a layout is empty."""
    total = tally.converted + tally.reported
    typer.echo(f"{total} in = {tally.converted} converted + {tally.reported} reported", err=True)
    for note, count in tally.notes.most_common(8):
        typer.echo(f"  {count} x {note}", err=True)
    loss = wished_loss(tally.no_data)
    if loss and asked:
        typer.echo(f"  of the layout asked for, {loss}", err=True)
