"""The simulated nights that the reduction is measured on, reduced by the pipeline's own command path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from reference_pipeline.config import load_config
from reference_pipeline.frame import Frame
from reference_pipeline.night.reduce import find_files, reduce_night
from reference_pipeline.products import read_product
from reference_pipeline.simulate.survey import SurveyConfig, load_survey, simulate_night
from reference_pipeline.simulate.truth import FrameTruth, read_truth

FIELDS = {"ast3": "F005", "ztf": "F004"}  # at moderate galactic latitude
N_BIAS, N_FLATS = 5, 6
VARIABLE_STARS = 30.0  # per square degree, as in nature; the shipped surveys have more, to hold some of each


CLEAR = {"thin_cloud_rate": 0.0, "patchy_cloud_rate": 0.0}


@dataclass(frozen=True)
class Part:
    """A night of one kind of weather. Clouds are seen by the larger field of ZTF's pixels."""

    survey: str
    n_science: tuple[int, int]  # small setting, full setting
    size: tuple[int, int]  # pixels a side, likewise
    weather: dict[str, object] = field(default_factory=dict)
    trails: float = 0.0  # frames with a satellite trail
    with_psf: bool = False


PARTS = {
    "clear": Part("ast3", (6, 20), (2048, 4096), CLEAR, with_psf=True),
    "patchy": Part(
        "ztf", (6, 20), (2048, 3072), {**CLEAR, "patchy_cloud_rate": 1.0, "patchy_cloud_depth": (1.5, 4.0)}
    ),
    "thin": Part("ztf", (2, 10), (2048, 3072), {**CLEAR, "thin_cloud_rate": 1.0}),
    "trails": Part("ast3", (4, 20), (2048, 4096), CLEAR, trails=1.0),
}


def survey_of(part: Part, *, full: bool) -> SurveyConfig:
    """Return the part's survey with its weather, on one field in one band."""
    survey = load_survey(part.survey)
    size = part.size[full]
    satellites = survey.sky.satellites.model_copy(update={"trail_rate": part.trails, "glint_rate": 0.0})
    return survey.model_copy(
        update={
            "size": (size, size),
            "fields": tuple(f for f in survey.fields if f.id == FIELDS[part.survey]),
            "bands": ("g",),
            "n_bias": N_BIAS,
            "n_flats": N_FLATS,
            "n_science": part.n_science[full],
            "weather": survey.weather.model_copy(update=part.weather),
            "sky": survey.sky.model_copy(
                update={"satellites": satellites, "variable_density": VARIABLE_STARS}
            ),
        }
    )


def simulated_frames(name: str, folder: Path, *, seed: int, full: bool) -> Iterator[tuple[Frame, FrameTruth]]:
    """Simulate and reduce a part of ``PARTS`` in ``folder``; yield its calibrated frames and their truth."""
    part = PARTS[name]
    survey = survey_of(part, full=full)
    simulate_night(survey, seed, survey.default_night, folder / "night", workers=2)
    config = load_config(folder / "night" / "reduce.toml")
    files = find_files([folder / "night" / "raw"])
    night = reduce_night(files, folder / "reduced", config=config, with_psf=part.with_psf)
    for line in night.lines():
        print(f"{name}: {line}")
    for report in night.frames:
        if report.status == "calibrated" and report.product is not None:
            yield (
                read_product(folder / "reduced" / report.product),
                read_truth(folder / "night" / "truth" / f"{report.id}.fits"),
            )
