"""The simulated nights, and the folder each is worked in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import SEED
from reference_pipeline.config import PipelineConfig, load_config
from reference_pipeline.simulate.survey import load_survey, only_fields, simulate_night

FIELD = "F005"
NIGHT, TEMPLATE_NIGHT = "2026-05-16", "2026-04-16"
PER_FIELD = 6.0  # asteroids, twice the shipped survey's, so that one is seen in a small field
CATALOGUES = {
    "astrometry": "gaia", "photometry": "ps1", "galaxies": "GLADE+.txt", "orbits": "MPCORB.DAT",
}  # fmt: skip


@dataclass(frozen=True)
class Night:
    """Raw frames and what they are to be worked with."""

    calibration: tuple[Path, ...]
    template: Path
    science: tuple[Path, ...]
    config: PipelineConfig


def night_of(folder: Path, size: int, *, n_science: int = 1, seed: int = SEED) -> Night:
    """Return a night of one field, ``size`` pixels a side: simulated, unless ``folder`` holds it already.

    One frame of an earlier night is the template of ``n_science`` others; 5 bias frames and 5 flats.
    """
    if not (folder / "survey.json").exists():
        survey = only_fields(load_survey("ast3"), [FIELD])
        weather = survey.weather.model_copy(update={"patchy_cloud_rate": 0.0, "thin_cloud_rate": 0.0})
        survey = survey.model_copy(
            update={
                "size": (size, size), "bands": ("g",), "weather": weather, "n_bias": 5, "n_flats": 5,
                "n_science": n_science, "template_night": TEMPLATE_NIGHT,
                "asteroids": survey.asteroids.model_copy(update={"per_field": PER_FIELD}),
            }
        )  # fmt: skip
        simulate_night(survey, seed, NIGHT, folder, workers=2)
    config = load_config(folder / "reduce.toml")
    places = {name: str(folder / "catalogues" / file) for name, file in CATALOGUES.items()}
    config = config.model_copy(update={"catalogues": config.catalogues.model_copy(update=places)})
    raw = sorted((folder / "raw").iterdir())
    of_field = [path for path in raw if f"-{FIELD}-" in path.name]
    [template] = [path for path in of_field if TEMPLATE_NIGHT.replace("-", "") in path.name]
    return Night(
        tuple(path for path in raw if path not in of_field), template,
        tuple(path for path in of_field if path != template), config,
    )  # fmt: skip
