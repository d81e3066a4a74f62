"""The command ``reference-pipeline``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from .night.report import NightReport

app = typer.Typer(no_args_is_help=True, add_completion=False, help="From raw frames to multi-scale alerts.")


@app.command()
def reduce(
    paths: Annotated[
        list[Path], typer.Argument(metavar="IN...", help="Raw FITS files, or folders of them.", exists=True)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder: masters/, calibrated/, report.html.")
    ],
    camera: Annotated[
        str | None, typer.Option(help="A shipped camera's name, or a .toml that describes one.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A .toml with settings of the stages.", exists=True)
    ] = None,
    catalogue: Annotated[
        str | None, typer.Option(help="Reference stars: tycho2, a folder, a table, gaia-online.")
    ] = None,
    photometric_catalogue: Annotated[
        str | None, typer.Option(help="Reference magnitudes, where another catalogue has better ones.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: what cores and memory allow.")
    ] = None,
    psf: Annotated[
        bool, typer.Option(help="Fit the PSF and measure PSF fluxes, after the main path.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Reduce again what is already there.")] = False,
) -> None:
    """Turn a night's raw frames into calibrated ones: WCS, zero point, PSF, quality, and a report.

    Exit status: 0 if every science frame is calibrated, 1 if any is not (the report says which and why),
    2 if the command or its settings cannot be used.
    """
    from .config import load_settings  # here, so that --help does not wait for scipy
    from .errors import CatalogueError, ConfigError
    from .night.reduce import find_files, reduce_night

    try:
        settings = load_settings(
            config, camera=camera, astrometry=catalogue, photometry=photometric_catalogue
        )
        night = reduce_night(
            find_files(paths), output, config=settings, workers=workers, with_psf=psf, force=force,
            progress=lambda report: typer.echo(report.line(), err=True),
        )  # fmt: skip
    except (ConfigError, CatalogueError) as error:
        raise _misused(error) from None
    raise _said(night)


@app.command()
def run(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A .toml with the night's settings.", exists=True)
    ],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[IN]...", help="Raw files or folders; default: the settings' `night.raw`."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder; default: the settings' `night.output`.")
    ] = None,
    too: Annotated[
        list[Path] | None, typer.Option(help="GCN notice (JSON or VOEvent): its field goes first.")
    ] = None,
    too_days: Annotated[float, typer.Option(min=0, help="Days after the trigger that a notice holds.")] = 1.0,
    renew_templates: Annotated[
        bool, typer.Option("--renew-templates", help="Choose templates anew; the database keeps the record.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: what cores and memory allow.")
    ] = None,
) -> None:
    """Take a night's raw frames all the way to alerts. Killed or ended, run it again: it goes on.

    Exit status: 0 if every science frame was calibrated and subtracted, 1 if any was not (the report says
    which and why) or alerts could not leave, 2 if the command or its settings cannot be used.
    """
    from .config import load_config
    from .errors import CatalogueError, ConfigError, StoreError
    from .night.reduce import find_files
    from .night.too import read_notice
    from .night.whole import run_night

    try:
        settings = load_config(config)
        given = paths or [config.parent / name for name in settings.night.raw]
        night = run_night(
            find_files(given), output or config.parent / settings.night.output, config=settings,
            workers=workers, notices=[read_notice(path, days=too_days) for path in too or ()],
            renew_templates=renew_templates, progress=lambda report: typer.echo(report.line(), err=True),
        )  # fmt: skip
    except (ConfigError, CatalogueError, StoreError) as error:
        raise _misused(error) from None
    raise _said(night)


@app.command()
def prune(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The output folder of a run.", exists=True)],
    keep_days: Annotated[
        float, typer.Option(min=0, help="Differences of exposures older than this go.")
    ] = 45.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go.")] = False,
) -> None:
    """Remove old difference products; calibrated frames, templates, alerts and the database stay.

    Exit status: 0, or 1 if a file was left because it could not be understood or removed.
    """
    from .alerts.outbox import now_mjd
    from .prune import prune as prune_

    report = prune_(output, keep_days=keep_days, now_mjd=now_mjd(), dry_run=dry_run)
    for removed in report.removed:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {removed.path}")
    for path, why in report.left:
        typer.echo(f"left {path}: {why}", err=True)
    typer.echo(f"{len(report.removed)} files, {report.n_bytes / 1e6:.1f} MB; {report.n_kept} kept")
    raise typer.Exit(1 if report.left else 0)


@app.command()
def light_curve(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The output folder of a run.", exists=True)],
    objects: Annotated[
        list[str] | None, typer.Argument(metavar="[OBJECT]...", help="Ids of objects.")
    ] = None,
    brightest: Annotated[
        int | None, typer.Option(min=1, help="Those with most detections, the brightest first.")
    ] = None,
    branch: Annotated[str, typer.Option(help="Of which objects: dip or qip.")] = "dip",
    database: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL; default: night.sqlite in OUT.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where pictures go; default: OUT/lightcurves.")
    ] = None,
) -> None:
    """Draw the light curves of objects, one PNG each, and print where they are.

    Exit status: 0, or 2 if the database or an object is not there.
    """
    if database is None and not (output / "night.sqlite").is_file():
        typer.echo(f"reference-pipeline: {output}: no night.sqlite; name the --database", err=True)
        raise typer.Exit(2)
    from .associate.pictures import draw
    from .errors import StoreError

    try:
        drawn = draw(
            database or f"sqlite:///{output / 'night.sqlite'}", objects or (),
            folder or output / "lightcurves", branch=branch, n_brightest=brightest or 0,
        )  # fmt: skip
    except StoreError as error:
        raise _misused(error) from None
    for path in drawn:
        typer.echo(path)


simulation = typer.Typer(add_completion=False)
app.add_typer(simulation, name="simulate")


@simulation.callback(invoke_without_command=True)
def simulate(
    context: typer.Context,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder: raw/, truth/, catalogues/, survey.json.")
    ] = None,
    survey: Annotated[
        str, typer.Option(help="A shipped survey (ast3, ztf, lsst), or a .toml that describes one.")
    ] = "ast3",
    seed: Annotated[int, typer.Option(min=0, help="Same survey, seed and night: same bytes.")] = 1,
    night: Annotated[
        str | None, typer.Option(help="YYYY-MM-DD of its evening; default: the survey's own.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Science frames.")] = None,
    bias: Annotated[int | None, typer.Option(min=0, help="Bias frames.")] = None,
    flats: Annotated[int | None, typer.Option(min=0, help="Twilight flats.")] = None,
    size: Annotated[int | None, typer.Option(min=64, help="Pixels of a square chip.")] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="A field to visit, by id; may be repeated. Default: three.")
    ] = None,
    bands: Annotated[str | None, typer.Option(help="Taken in turn: g,r,i.")] = None,
    template_night: Annotated[
        str | None, typer.Option(help="YYYY-MM-DD, earlier: each field and band is also seen then.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Make a night of a simulated survey: raw frames, the truth about them, and the catalogues of its sky.

    Exit status: 0 if the night was written, 2 if the command or the survey cannot be used.
    """
    if context.invoked_subcommand is not None:
        return
    if output is None:
        typer.echo("reference-pipeline: simulate: name the folder of the night with --output", err=True)
        raise typer.Exit(2)
    from .errors import CatalogueError, ConfigError
    from .simulate.survey import load_survey, only_fields, simulate_night

    given = {
        "n_science": frames, "n_bias": bias, "n_flats": flats, "size": None if size is None else (size, size),
        "bands": None if bands is None else tuple(bands.split(",")),
        "template_night": template_night,
    }  # fmt: skip
    try:
        config = load_survey(survey)
        config = config.model_copy(update={name: v for name, v in given.items() if v is not None})
        config = only_fields(config, field) if field else config
        summary = simulate_night(
            config, seed, night or config.default_night, output, workers=workers,
            progress=lambda name: typer.echo(name, err=True),
        )  # fmt: skip
    except (ConfigError, CatalogueError) as error:
        raise _misused(error) from None
    typer.echo(summary)


@app.command()
def classify(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILES...", help="Avro files of packets, or folders of them.", exists=True),
    ],
    real_bogus: Annotated[
        str, typer.Option(help="A shipped model's name, a card (.json), auto, or none.")
    ] = "auto",
    stamps: Annotated[str, typer.Option(help="Likewise, for the six classes.")] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="An Avro file: the packets, classified.")
    ] = None,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="A line for each packet on stdout; the default without -o.")
    ] = False,
    priors: Annotated[
        Literal["training", "stream"],
        typer.Option(help="Class rates that probabilities are given for: equal ones, or the survey's."),
    ] = "training",
    threads: Annotated[int, typer.Option(min=0, help="Of onnxruntime; 0: one for each core.")] = 0,
) -> None:
    """Say what packets show: real or bogus, and which of six classes; as CSV, or into the packets.

    Takes alerts of ours and of other surveys with an embedded cutout. Shipped models were trained on
    simulated data. Exit status: 0 if every packet is classified, 1 if any is not (stderr says which and
    why), 2 if the command or a model cannot be used, or no shipped model fits.
    """
    import sys

    from multiscale.cli.common import expand
    from multiscale.errors import StampError

    from .classify.packets import classified, write_classified, write_csv
    from .errors import ConfigError

    if output is not None and as_csv:
        raise typer.BadParameter("--csv or --output, not both")
    troubles: list[str] = []

    def trouble(line: str) -> None:
        troubles.append(line)
        typer.echo(line, err=True)

    said = classified(
        expand(paths), real_bogus=real_bogus, stamps=stamps, priors=priors, n_threads=threads, trouble=trouble
    )
    try:
        if output is not None:
            typer.echo(f"{write_classified(output, said)} packets in {output}")
        else:
            write_csv(sys.stdout, said)
    except (ConfigError, StampError) as error:
        raise _misused(error) from None
    raise typer.Exit(1 if troubles else 0)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a .toml.")],
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...",
            help="Labelled stamps (thumbnails, for clouds): files, or folders.",
            exists=True,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder: NAME.json, .onnx, .safetensors, .result.json.")
    ],
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the first member; default: the recipe's.")
    ] = None,
    members: Annotated[
        int | None, typer.Option(min=1, help="Networks of the ensemble; default: the recipe's.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Another number may change the last digits.")] = 1,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:N, or auto: a GPU where there is one.")
    ] = "auto",
) -> None:
    """Train a classifier on labelled stamps, calibrate it, and test it on stamps that it has not seen.

    The same recipe, data, seed, threads and device give the same model on the same machine. Exit status: 0,
    or 2 if the recipe or the data cannot be used, or what trains (the extra `train`) is not installed.
    """
    from .errors import ConfigError, FileError

    try:
        from .classify.clouds import make_cloud_model
        from .classify.make import make_model, summary
        from .classify.recipe import load_recipe

        given = {"seed": seed, "n_members": members}
        settings = load_recipe(recipe)
        settings = settings.model_copy(update={name: v for name, v in given.items() if v is not None})
        make = make_cloud_model if settings.task == "clouds" else make_model
        card = make(
            settings, data, output, n_threads=threads, device=device,
            progress=lambda line: typer.echo(line, err=True),
        )  # fmt: skip
    except (ConfigError, FileError) as error:
        raise _misused(error) from None
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("torch", "onnx", "onnxscript", "safetensors"):
            raise
        typer.echo(f"reference-pipeline: {error.name} is not installed; install the extra `train`", err=True)
        raise typer.Exit(2) from None
    for line in summary(card):
        typer.echo(line)


@app.command()
def label(
    alerts: Annotated[
        list[Path],
        typer.Argument(metavar="ALERTS...", help="Avro files, folders, tar archives.", exists=True),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A folder: labelled/, ambiguous/, left_out.csv, report.json."),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV: id, label; subtype, source, weak, confirmed. Default: the alerts' own hints.",
            exists=True,
        ),
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(
            help="CSV of known objects (ra, dec, name): bogus ones there are left out.", exists=True
        ),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="A profile of the cutouts; default: the survey's own, ZTF-4x8.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the alert drawn for each object.")] = 1,
) -> None:
    """Make labelled stamps of real alerts of ZTF, LSST and others, those that are fit for it.

    Exit status: 0 if every packet could be read, 1 if any could not (left_out.csv says which and why),
    2 if the command, the table or the output cannot be used.
    """
    from multiscale.errors import GeometryError
    from multiscale.geometry import profile

    from .errors import ConfigError
    from .labelled.purity import read_known, read_labels
    from .labelled.real import label_alerts

    try:
        report = label_alerts(
            alerts, output, labels=None if labels is None else read_labels(labels),
            known=None if known is None else read_known(known),
            geometry=None if layout is None else profile(layout), seed=seed,
            progress=lambda line: typer.echo(line, err=True),
        )  # fmt: skip
    except (ConfigError, GeometryError) as error:
        raise _misused(error) from None
    for line in report.lines():
        typer.echo(line)
    raise typer.Exit(1 if "unreadable" in report.reasons else 0)


@simulation.command("stamps")
def simulate_stamps(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder: cell-NNNNN.stamps.avro, set.json.")
    ],
    survey: Annotated[
        str, typer.Option(help="A shipped set (ztf, ast3, lsst), or a .toml that describes one.")
    ] = "ztf",
    number: Annotated[int, typer.Option(min=1, help="Stamps at least; whole cells are written.")] = 3000,
    seed: Annotated[int, typer.Option(min=0, help="Same set, seed and options: same bytes.")] = 1,
    branch: Annotated[
        list[str] | None, typer.Option(help="dip or qip; may be repeated. Default: the set's.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Pixels a side of the cutouts.")] = None,
    levels: Annotated[int | None, typer.Option(help="Levels of the cutouts.")] = None,
    encoding: Annotated[str, typer.Option(help="Of the cutouts: raw or rice.")] = "raw",
    inject: Annotated[int, typer.Option(min=0, help="Point sources put into each science frame.")] = 0,
    with_cut: Annotated[
        bool, typer.Option("--with-cut", help="Keep what the pipeline's cuts remove.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Make labelled stamps: detections of the whole pipeline on simulated frames, each with what it is.

    Interrupted, run it again: it goes on. Class rates are the set's, not nature's.

    Exit status: 0 if the stamps are there, 2 if the command or the description cannot be used.
    """
    from .errors import CatalogueError, ConfigError
    from .labelled.description import load_set, options_of
    from .labelled.simulate import simulate_stamps as simulate_stamps_

    try:
        summary = simulate_stamps_(
            load_set(survey), seed, number, output, workers=workers,
            options=options_of(
                size=size, levels=levels, encoding=encoding, inject=inject, with_cut=with_cut,
                branches=branch or (),
            ),
            progress=lambda line: typer.echo(line, err=True),
        )  # fmt: skip
    except (ConfigError, CatalogueError) as error:
        raise _misused(error) from None
    typer.echo(summary)


@simulation.command("clouds")
def simulate_clouds(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder: a file for each piece of sky; fills up.")
    ],
    fields: Annotated[int, typer.Option(min=1, help="Pieces of sky, each of its own telescope.")] = 72,
    frames: Annotated[int, typer.Option(min=1, help="Frames of each.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Same seed: same bytes.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Make thumbnails of simulated frames, clear and cloudy, with the cloud that each was taken through.

    Exit status: 0, or 2 if the command cannot be used.
    """
    from .errors import ConfigError, FrameError
    from .labelled.clouds import read_thumbnails, simulate_thumbnails

    try:
        paths = simulate_thumbnails(
            output, seed=seed, n_fields=fields, n_frames=frames, workers=workers,
            progress=lambda name: typer.echo(name, err=True),
        )  # fmt: skip
        made = read_thumbnails(paths)
    except (ConfigError, FrameError) as error:
        raise _misused(error) from None
    typer.echo(f"{output}: {len(made)} thumbnails, {int(made.labels.sum())} of them cloudy")


def _misused(trouble: object) -> typer.Exit:
    """Say why a command or its settings cannot be used; the end of it."""
    typer.echo(f"reference-pipeline: {trouble}", err=True)
    return typer.Exit(2)


def _said(night: NightReport) -> typer.Exit:
    """Print what became of a night; the end of its command."""
    for line in night.lines():
        typer.echo(line)
    return typer.Exit(0 if night.is_complete else 1)


def main() -> None:
    """Run the command."""
    app()
