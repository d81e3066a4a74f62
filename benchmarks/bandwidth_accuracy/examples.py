"""Example stamps for the report: some of each class, the surest satellites, the places of all objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiscale.atomic import replacing
from reference_pipeline.simulate.survey import load_survey
from reference_pipeline.simulate.telescope import load_telescope
from reference_pipeline.taxonomy import STAMP_CLASSES

from .data import STAMPS, TEST_STAMPS, Stamps, pixels, read_stamps_of
from .layouts import encoding_of
from .scoring import softmax
from .sent import messages_of, normalised, received
from .study import Study
from .trials import trial_path
from .wide import wide_views

EXAMPLES = "examples.npz"
OF_EACH = 6  # of each class
SATELLITES = 36  # as in the paper's Figure 4

Ints = NDArray[np.int64]


def write_examples(out: Path, study: Study, say: Callable[[str], None]) -> None:
    """Write examples.npz (results.EXAMPLES), from the reference cell's first seed.

    Where the pixels are no longer there (work/ was removed), the file stays as it is.
    """
    if not (out / STAMPS).is_file() or not trial_path(out, study.reference, study.seeds[0]).is_file():
        return
    stamps = read_stamps_of(out)
    if not all(file.is_file() for file in stamps.files):
        return
    with np.load(trial_path(out, study.reference, study.seeds[0]).with_suffix(".npz")) as kept:
        rows, probability = kept["row"], softmax(kept["logits"])
    said = probability.argmax(axis=1)
    found: dict[str, Any] = {
        "classes": np.array(STAMP_CLASSES), "planes": np.array(study.reference.planes),
        "pixel_scale": stamps.pixel_scale, **_sky(out, rows, said), "site": _site(study),
    }  # fmt: skip
    satellite = probability[:, STAMP_CLASSES.index("satellite")]
    with np.load(out / TEST_STAMPS) as kept:
        is_random = kept["is_random"]
    surest = np.flatnonzero(is_random)
    surest = surest[np.argsort(-satellite[surest], kind="stable")[:SATELLITES]]
    found |= _stamps(stamps, study, rows, said, probability, _some(stamps.label[rows], is_random))
    images = _images(stamps, rows[surest], study)
    found |= {
        "satellite_label": stamps.label[rows[surest]],
        "satellite_probability": satellite[surest],
        "satellite_id": stamps.facts["stamp_id"][rows[surest]],
        "satellite_original": images["difference"],
    }
    of_satellites = rows[surest][stamps.label[rows[surest]] == STAMP_CLASSES.index("satellite")]
    found |= wide_views(stamps, of_satellites, study.wide_view, say)
    with replacing(out / EXAMPLES) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **found)


def _some(labels: Ints, is_random: NDArray[np.bool_]) -> Ints:
    """Positions of a few stamps of each class, spread over the test set."""
    found = []
    for k in range(len(STAMP_CLASSES)):
        members = np.flatnonzero((labels == k) & is_random)
        if len(members):
            found.append(members[np.unique(np.linspace(0, len(members) - 1, OF_EACH).astype(int))])
    return np.concatenate(found)


def _images(stamps: Stamps, rows: Ints, study: Study) -> dict[str, NDArray[np.float32]]:
    """Originals of ``rows``, in their order: plane -> (n, side, side), those of another shape NaN."""
    found = {
        plane: np.full((len(rows), stamps.side, stamps.side), np.nan, np.float32) for plane in stamps.planes
    }
    at = {int(row): i for i, row in enumerate(rows)}
    for some in pixels(stamps, np.sort(rows), places=study.data.places):
        for plane, images in some.images.items():
            for row, image in zip(some.rows, images):
                if image.shape == (stamps.side, stamps.side):
                    found[plane][at[int(row)]] = image
    return found


def _stamps(
    stamps: Stamps,
    study: Study,
    rows: Ints,
    said: Ints,
    probability: NDArray[np.float64],
    chosen: Ints,
) -> dict[str, Any]:
    cell, of = study.reference, rows[chosen]
    planes, layout, encoding = cell.planes, cell.stamp, encoding_of(cell.encoding)
    shape = (len(of), len(planes), layout.n_levels, layout.box, layout.box)
    sent, seen = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    at = {int(row): i for i, row in enumerate(of)}
    for some in pixels(stamps, np.sort(of), places=study.data.places):
        came = received(messages_of(some, layout, encoding, planes), layout, encoding, planes)
        numbers = [at[int(row)] for row in some.rows]
        sent[numbers] = np.stack([came.levels[plane] for plane in planes], axis=1)
        seen[numbers] = normalised(came, planes, cell.normalization)[0]
    images = _images(stamps, of, study)
    return {
        "example_label": stamps.label[of],
        "example_said": said[chosen],
        "example_probability": probability[chosen, said[chosen]],
        "example_id": stamps.facts["stamp_id"][of],
        "example_original": np.stack([images[plane] for plane in planes], axis=1),
        "example_sent": sent,
        "example_seen": seen,
    }


def _sky(out: Path, rows: Ints, said: Ints) -> dict[str, Any]:
    with np.load(out / TEST_STAMPS) as kept:
        first = kept["is_first"]
        assert np.array_equal(kept["row"], rows)
        return {
            "sky_ra": kept["ra"][first], "sky_dec": kept["dec"][first], "sky_mjd": kept["mjd"][first],
            "sky_label": kept["label"][first], "sky_said": said[first],
        }  # fmt: skip


def _site(study: Study) -> NDArray[np.float64]:
    """Where the survey's telescope stands: longitude, latitude, height."""
    telescope = load_telescope(load_survey(study.data.survey).telescope, (512, 512))
    site = telescope.detector.camera.site
    return np.array([] if site is None else [site.longitude, site.latitude, site.height])
