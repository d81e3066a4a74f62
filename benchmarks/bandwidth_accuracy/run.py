"""Run a study: data, bytes, arrays and trials into one folder; what is there already is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import environment
from multiscale.atomic import replacing
from reference_pipeline.errors import ConfigError
from reference_pipeline.labelled.description import load_set
from reference_pipeline.labelled.simulate import simulate_stamps
from reference_pipeline.lock import only_run

from .data import Stamps, class_table, gather, sets_of
from .prepare import forget_halves
from .real import run_real
from .sizes import measure, size_key, write_sizes
from .study import Planned, Study, plan
from .trials import Engine, Task, family_options, run_tasks

RECORD = "study.json"
SIZES = "bytes.json"


def run_study(
    study: Study,
    out: Path,
    *,
    folders: Sequence[Path] = (),
    workers: int = 1,
    engine: Engine = "local",
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Do what is left of ``study`` in ``out``. A run that was stopped, however, goes on and ends the same.

    ``folders`` of labelled stamps in place of the study's own. Raises ConfigError where ``out`` holds
    another study, or one of other data; FileError, StampError for data that are none.
    """
    with only_run(out):
        forget_halves(out / "work")
        given = [Path(folder) for folder in (folders or study.data.folders)]
        data = given or [_made(study, out, workers, say)]
        stamps = gather(study.data, data, out, say)
        cells = plan(study)
        record = _record(study, cells, stamps, data)
        _claim(out / RECORD, record)
        if not (out / SIZES).is_file():
            say(f"bytes of {len({size_key(p.cell) for p in cells})} ways of sending")
            sizes = measure(stamps, [p.cell for p in cells], study.n_packets, places=study.data.places)
            write_sizes(out / SIZES, sizes)
        run_tasks(_sendings(out, study, cells), workers=workers, engine=engine, say=say)
        options = {cell["id"]: cell["options"] for cell in record["cells"]}
        run_tasks(_trials(out, study, cells, options), workers=workers, engine=engine, say=say)
        if study.real is not None:
            run_real(out, study, workers=workers, engine=engine, say=say)


def read_record(out: Path) -> dict[str, Any]:
    """Return study.json. Raises ConfigError where there is none."""
    try:
        return json.loads((out / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{out}: no study was run there ({error})") from error


def _made(study: Study, out: Path, workers: int, say: Callable[[str], None]) -> Path:
    made = study.data.simulate
    if made is None:
        raise ConfigError(f"{study.name}: no data: name folders of labelled stamps (--data)")
    folder = out / "work" / "stamps"
    say(f"simulating {made.number} stamps")
    simulate_stamps(load_set(made.set), made.seed, made.number, folder, workers=workers, progress=say)
    return folder


def _record(study: Study, cells: Sequence[Planned], stamps: Stamps, data: Sequence[Path]) -> dict[str, Any]:
    of_environment = environment()
    return {
        "study": study.model_dump(mode="json"),
        "commit": of_environment.pop("commit"),
        "environment": {**of_environment, **_versions()},
        "simulated": bool(stamps.facts["is_simulated"].any()),
        "data": {
            "label": study.data.label, "survey": study.data.survey, "sets": sets_of(data),
            "n": len(stamps), "counts": class_table(stamps), "left_out": dict(stamps.left_out),
            "planes": list(stamps.planes), "side": stamps.side, "pixel_scale": stamps.pixel_scale,
            "n_cells_of_sky": len(set(stamps.facts["field_id"].tolist())),
        },
        "cells": [
            {
                "id": planned.cell.id, "arms": list(planned.arms), "seeds": list(planned.seeds),
                "cell": planned.cell.model_dump(mode="json"), "options": family_options(study, planned.cell),
            }
            for planned in cells
        ],
    }  # fmt: skip


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "scipy")}


def _claim(path: Path, record: dict[str, Any]) -> None:
    """Write what the folder holds; what another run wrote must be the same but for commit and machine."""
    same = ("study", "data", "simulated", "cells")
    as_json = json.loads(json.dumps(record))
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        if other := [name for name in same if there.get(name) != as_json[name]]:
            raise ConfigError(
                f"{path.parent}: another study is there (other: {', '.join(other)}); name a new folder"
            )
        return
    with replacing(path) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _sendings(out: Path, study: Study, cells: Sequence[Planned]) -> list[Task]:
    ways = {planned.cell.sending: planned.cell for planned in cells}
    return [Task(out, study, "prepare", cell) for cell in ways.values()]


def _trials(out: Path, study: Study, cells: Sequence[Planned], options: dict[str, Any]) -> list[Task]:
    """All trials, the first seeds first: what is there when a run is stopped compares all cells."""
    most = max(len(planned.seeds) for planned in cells)
    return [
        Task(out, study, "trial", planned.cell, options[planned.cell.id], planned.seeds[i])
        for i in range(most)
        for planned in cells
        if i < len(planned.seeds)
    ]
