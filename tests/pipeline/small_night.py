"""A small simulated night of two visits of a field, with a frame of an earlier night for the template."""

from reference_pipeline.simulate.survey import load_survey, only_fields, simulate_night

TEMPLATE = "ast3-20260416-F005-g-0000"


def write_small_night(folder, *, size, variable_density, branches):
    """Write it to ``folder``; ``variable_density`` (variable stars per square degree) gives it alerts."""
    survey = only_fields(load_survey("ast3"), ["F005"])
    weather = survey.weather.model_copy(update={"patchy_cloud_rate": 0.0, "thin_cloud_rate": 0.0})
    sky = survey.sky.model_copy(update={"variable_density": variable_density})
    survey = survey.model_copy(
        update={
            "size": size, "bands": ("g",), "weather": weather, "sky": sky, "n_bias": 3, "n_flats": 3,
            "n_science": 2, "template_night": "2026-04-16", "dither": 4.0, "branches": branches,
        }
    )  # fmt: skip
    simulate_night(survey, 3, "2026-05-16", folder)
