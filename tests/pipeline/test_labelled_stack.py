"""Labelled stamps against a template that is a stack: its depth, and the truth of its frames."""

from dataclasses import replace

import numpy as np
import pytest

from reference_pipeline.crossmatch import KnownSky
from reference_pipeline.errors import FrameError
from reference_pipeline.labelled import cells
from reference_pipeline.labelled.cells import Observer, chip_masters, open_workshop, plan_cell
from reference_pipeline.labelled.description import load_set
from reference_pipeline.labelled.truth import Truth
from reference_pipeline.reduce.photometry import background_rms
from reference_pipeline.run import find_transients

N_FRAMES = 3
STILL = ("variable_star", "agn", "supernova")


@pytest.fixture(scope="module")
def workshop():
    config = load_set("ztf")
    sky = config.sky.model_copy(update={"star_factor": 4.0, "variable_density": 5000.0})
    changes = {"size": 384, "chips": 1, "bands": ("r",), "epochs": (1, 1), "poor_share": 0.0, "sky": sky,
               "template_frames": N_FRAMES}  # fmt: skip
    return open_workshop(config.model_copy(update=changes), seed=7, inject=0)


@pytest.fixture(scope="module")
def observer(workshop, tmp_path_factory):
    cell = plan_cell(workshop, 0)
    masters = chip_masters(workshop, cell.chip, cell.band, tmp_path_factory.mktemp("masters"))
    return Observer(workshop, cell, masters)


@pytest.fixture(scope="module")
def template(observer):
    failed = []
    made = observer.template(failed.append)
    assert failed == []
    return made


def test_a_stack_is_deeper_than_each_of_its_frames(template):
    assert len(template.stacked) == N_FRAMES
    assert template.frame.id.endswith(f"-stack{N_FRAMES}")
    deep = background_rms(template.frame)
    alone = [background_rms(seen.frame) for seen in template.stacked]
    assert deep < 0.8 * min(alone)  # 1/sqrt(3) of alike frames, in the best one's electrons
    assert template.frame.psf is not None
    assert len({seen.frame.exposure.start_mjd for seen in template.stacked}) == N_FRAMES


def test_what_varies_has_the_mean_of_the_frames_as_its_template(observer, template):
    science = observer.see(1)
    truth = Truth(science, template, observer.config.cuts)
    found = find_transients(science.frame, template.frame, sky=KnownSky(), config=observer.config)
    ids, counts = np.unique(truth.changes.id[np.isin(truth.changes.kind, STILL)], return_counts=True)
    assert len(ids) > 20
    assert counts.max() == 1  # one row, whichever of the frames it is on
    # against one frame alone the same source has another change: they differ as it varied between them
    alone = Truth(science, replace(template.stacked[0], stacked=()), observer.config.cuts)
    mean, single = (dict(zip(t.changes.id.tolist(), t.changes.flux.tolist())) for t in (truth, alone))
    assert any(
        abs(mean[int(i)] - single[int(i)]) > 0.02 * abs(single[int(i)]) for i in ids if int(i) in single
    )
    pulls = []
    for candidate in found.candidates:
        near = np.hypot(truth.changes.x - candidate.x, truth.changes.y - candidate.y) < 1.5
        near &= np.isin(truth.changes.kind, STILL)
        if candidate.cut is None and near.sum() == 1:
            flux = float(truth.changes.flux[near][0])
            noise = np.hypot(abs(candidate.flux / candidate.snr), 0.1 * candidate.flux)
            pulls.append((candidate.flux - flux) / noise)
    assert len(pulls) >= 8
    assert abs(np.median(pulls)) < 1.0


def test_a_frame_that_fails_is_left_out_and_told(observer, monkeypatch):
    first = observer.cell.exposures[0].id
    reduce_it = cells.reduction

    def broken(raw, *args, **kwargs):
        if raw.exposure.id == first:
            raise FrameError(first, "astrometry", "no-match", "nothing matched")
        return reduce_it(raw, *args, **kwargs)

    monkeypatch.setattr(cells, "reduction", broken)
    failed = []
    made = observer.template(failed.append)
    assert [error.reason for error in failed] == ["no-match"]
    assert [seen.frame.id for seen in made.stacked].count(first) == 0
    assert made.frame.id.endswith(f"-stack{N_FRAMES - 1}")
