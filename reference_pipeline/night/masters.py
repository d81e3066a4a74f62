"""The masters of one night: which calibration frames make which, and where they lie."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ..config import PipelineConfig
from ..errors import CalibrationError, FileError
from ..frame import Exposure
from ..reduce.masters import (
    Master,
    make_master_bias,
    make_master_dark,
    make_master_flat,
    read_master,
    write_master,
)
from ..version import __version__
from .report import FrameReport


@dataclass(frozen=True)
class NightMasters:
    """The files of a night's masters."""

    bias: Path | None = None
    dark: Path | None = None
    flats: tuple[tuple[str | None, Path], ...] = ()

    def paths(self, band: str | None) -> tuple[Path, ...]:
        """The masters that a frame of ``band`` is calibrated with."""
        flats = [path for of, path in self.flats if of == band]
        return tuple(path for path in (self.bias, self.dark, *flats) if path is not None)


def make_night_masters(
    exposures: dict[Path, Exposure], folder: Path, *, config: PipelineConfig, force: bool = False
) -> tuple[NightMasters, list[FrameReport]]:
    """Make the masters that the calibration frames among ``exposures`` allow, in ``folder``.

    Returns their files, and a report of each calibration frame: "master" where it went into one, else
    "rejected" and why. A kind of which no frame can be used has no master; frames that need it say so. A
    master of the same frames and settings is not made again, unless ``force``.
    """
    groups: dict[tuple[str, str | None], list[Path]] = defaultdict(list)
    for path, exposure in exposures.items():
        if exposure.kind != "science":
            groups[exposure.kind, exposure.band if exposure.kind == "flat" else None].append(path)
    reports: list[FrameReport] = []

    def made(
        kind: str, band: str | None, bias: Master | None, dark: Master | None
    ) -> tuple[Path, Master] | None:
        paths = groups.get((kind, band), [])
        if not paths:
            return None
        target = folder / (f"{kind}-{band}.fits" if kind == "flat" else f"{kind}.fits")
        camera, settings = config.camera, config.calibrate
        try:
            master = None if force else _earlier(target, paths, config)
            if master is None:
                if kind == "bias":
                    master = make_master_bias(paths, camera=camera, config=settings)
                elif kind == "dark":
                    master = make_master_dark(paths, camera=camera, config=settings, bias=bias)
                else:
                    master = make_master_flat(
                        paths, camera=camera, config=settings, band=band, bias=bias, dark=dark
                    )
                folder.mkdir(parents=True, exist_ok=True)
                write_master(target, master)
                _stamp(target).write_text(_digest(paths, config))
        except CalibrationError as error:
            reports.extend(
                FrameReport(
                    file=path.name, id=exposures[path].id, kind=kind, band=exposures[path].band or "",
                    status="rejected", stage=error.stage, reason=error.reason, message=error.message,
                )
                for path in paths
            )  # fmt: skip
            return None
        reports.extend(_reports(paths, exposures, master))
        return target, master

    bias = made("bias", None, None, None)
    dark = made("dark", None, bias and bias[1], None)
    bands = sorted({band for kind, band in groups if kind == "flat"}, key=str)
    flats = [(band, made("flat", band, bias and bias[1], dark and dark[1])) for band in bands]
    return NightMasters(
        bias and bias[0], dark and dark[0], tuple((band, flat[0]) for band, flat in flats if flat)
    ), reports


def _reports(paths: list[Path], exposures: dict[Path, Exposure], master: Master) -> list[FrameReport]:
    rejected = {r.frame_id: r for r in master.rejected}
    out = []
    for path in paths:
        exposure = exposures[path]
        trouble = rejected.get(exposure.id)
        common = {"file": path.name, "id": exposure.id, "kind": exposure.kind, "band": exposure.band or ""}
        if trouble is None:
            out.append(FrameReport(**common, status="master"))
        else:
            out.append(
                FrameReport(
                    **common,
                    status="rejected",
                    stage="masters",
                    reason=trouble.reason,
                    message=trouble.message,
                )
            )
    return out


def _earlier(target: Path, paths: list[Path], config: PipelineConfig) -> Master | None:
    """The master of an earlier run, if it was made of the same frames with the same settings."""
    stamp = _stamp(target)
    if not (target.is_file() and stamp.is_file() and stamp.read_text() == _digest(paths, config)):
        return None
    try:
        return read_master(target)
    except FileError:  # half a file of an interrupted run, say: it is made again
        return None


def _stamp(target: Path) -> Path:
    return target.with_suffix(".inputs")


def _digest(paths: list[Path], config: PipelineConfig) -> str:
    """What a master is made from: names, sizes and times of the frames, the settings, the version."""
    digest = hashlib.sha256(f"{config.camera!r}{config.calibrate!r}{__version__}".encode())
    for path in sorted(paths):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()
