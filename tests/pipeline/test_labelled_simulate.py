"""Simulated labelled stamps: what a detection is said to be is what the simulator put there."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import multiscale
from reference_pipeline.cli import app
from reference_pipeline.crossmatch import KnownSky
from reference_pipeline.detect.points import effective_fwhm
from reference_pipeline.errors import ConfigError
from reference_pipeline.labelled.cells import FIRST_INJECTED, Observer, chip_masters, open_workshop, plan_cell
from reference_pipeline.labelled.description import Options, load_set, options_of
from reference_pipeline.labelled.detections import detections_of, original, stamps_of_cell
from reference_pipeline.labelled.simulate import _claim, make_cell, simulate_stamps
from reference_pipeline.labelled.stamp import read_stamps
from reference_pipeline.labelled.truth import Truth
from reference_pipeline.lock import only_run
from reference_pipeline.run import find_transients
from reference_pipeline.simulate.scene import POINT_KINDS
from reference_pipeline.simulate.truth import TruthBit

SETTINGS = """
survey = "ztf"
size = 384
bands = ["r"]
chips = 1
epochs = [2, 2]
originals = { dip = 63, qip = 21 }
profile = "ZTF-4x8"
poor_share = 0.0

[footprint]
min_dec = -28.0
latitude = 15.0
near_share = 0.0

[sky]
faint_limit = 22.0
star_factor = 4.0
supernova_rate = 1500.0
agn_fraction = 0.6
variable_density = 1000.0
variable_faint = 20.0
satellites = { glint_rate = 1.0, trail_rate = 0.3 }

[asteroids]
per_field = 20.0
faint = 20.0

[detector]
cosmic_ray_rate = 2.0
"""
SEED, INJECT = 7, 6


@pytest.fixture(scope="module")
def description(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "small.toml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture(scope="module")
def masters(tmp_path_factory):
    return tmp_path_factory.mktemp("masters")


@pytest.fixture(scope="module")
def observed(description, masters):
    """The template and the first epoch of a cell, with the observer."""
    workshop = open_workshop(load_set(str(description)), SEED, INJECT)
    cell = plan_cell(workshop, 0)
    observer = Observer(workshop, cell, chip_masters(workshop, cell.chip, cell.band, masters))
    return observer, observer.see(0), observer.see(1)


@pytest.fixture(scope="module")
def judged(observed):
    """Truth of the difference, its candidates and the FWHM of a point source in it."""
    observer, template, science = observed
    found = find_transients(science.frame, template.frame, sky=KnownSky(), config=observer.config)
    truth = Truth(science, template, observer.config.cuts)
    return truth, found, effective_fwhm(found.difference, found.aligned)


def test_injected_sources_are_found_and_told(observed, judged):
    _, _, science = observed
    truth, found, fwhm = judged
    points = science.scene.points
    is_supernova = points.kind == POINT_KINDS.index("supernova")
    rows = np.flatnonzero(is_supernova & (points.id >= FIRST_INJECTED))
    assert len(rows) == INJECT
    x, y = found.aligned.wcs.all_world2pix(points.ra[rows], points.dec[rows], 0)
    fluxes = dict(zip(truth.changes.id.tolist(), truth.changes.flux.tolist()))
    n_told = 0
    for k, row in enumerate(rows):
        near = [c for c in found.candidates if np.hypot(c.x - x[k], c.y - y[k]) < 1.5]
        for candidate in near:
            verdict = truth.verdict(candidate, fwhm)
            assert (verdict.label, verdict.subtype) == ("SN", "injected")
            assert candidate.flux == pytest.approx(fluxes[int(points.id[row])], rel=0.5)
            n_told += 1
    assert n_told >= INJECT / 2  # the others are too faint, or on a masked pixel


def test_every_class_has_the_flux_that_the_truth_gives_it(judged):
    truth, found, fwhm = judged
    told = [(c, truth.verdict(c, fwhm)) for c in found.candidates if c.cut is None]
    real = [(c, v) for c, v in told if v.source is not None]
    assert {"VS", "asteroid"} <= {v.label for _, v in real}
    pulls = []
    for candidate, verdict in real:
        row = int(np.flatnonzero(truth.changes.id == verdict.source)[0])
        if truth.changes.reach[row] == 0:
            noise = np.hypot(abs(candidate.flux / candidate.snr), 0.1 * candidate.flux)
            pulls.append((candidate.flux - truth.changes.flux[row]) / noise)
    assert len(pulls) >= 8
    assert abs(np.median(pulls)) < 1.0  # fluxes are scaled between the two nights by the true transmissions


def test_the_sign_decides_and_a_wrong_flux_is_left_out(judged):
    truth, found, fwhm = judged
    candidate, verdict = next(
        (c, v) for c in found.candidates if abs(c.snr) > 10 and (v := truth.verdict(c, fwhm)).label == "VS"
    )
    assert truth.verdict(replace(candidate, flux=-candidate.flux, snr=-candidate.snr), fwhm).label is None
    ten = replace(candidate, flux=10 * candidate.flux, snr=10 * candidate.snr)
    assert truth.verdict(ten, fwhm).label is None
    away = replace(candidate, x=candidate.x + 2 * fwhm)
    assert truth.verdict(away, fwhm).source != verdict.source


def test_the_cause_of_a_bogus_detection_is_what_spoiled_its_pixels(observed, judged):
    _, template, science = observed
    truth, found, fwhm = judged
    faint = replace(found.candidates[0], snr=5.2, flux=5.2 * 60.0, edge=100.0, mask_bits=0)
    causes = {}
    for bit, cause in ((TruthBit.COSMIC_RAY, "cosmic_ray"), (TruthBit.BAD, "bad_pixel")):
        ny, nx = np.nonzero(science.truth.has(bit) & ~science.truth.has(~bit & 0xFFFF))
        x, y = truth.on_template(nx.astype(float), ny.astype(float))
        verdicts = [truth.verdict(replace(faint, x=a, y=b), fwhm) for a, b in zip(x, y)]
        causes[cause] = [v.cause for v in verdicts if v.label == "bogus"]
    assert causes["cosmic_ray"].count("cosmic_ray") > 0.8 * len(causes["cosmic_ray"]) > 0
    assert causes["bad_pixel"].count("bad_pixel") > 0.8 * len(causes["bad_pixel"]) > 0
    every = np.hypot(truth.x[:, None, None] - np.arange(60, 260, 8), truth.y[:, None, None] - np.arange(
        60, 260, 8)[:, None]).min(axis=0)  # fmt: skip
    row, column = np.unravel_index(int(np.argmax(every)), every.shape)
    empty = replace(faint, x=60.0 + 8 * column, y=60.0 + 8 * row)
    verdict = truth.verdict(empty, fwhm)
    clean = not science.truth.mask.any() and not template.truth.mask.any()
    assert verdict.label == "bogus"
    assert verdict.cause == "noise" or not clean


def test_a_place_on_a_binned_difference_is_the_middle_of_its_pixels(observed):
    observer, template, science = observed
    truth = Truth(science, template, observer.config.cuts, binning=3)
    assert truth.raw(0.0, 10.0) == (1.0, 31.0)


@pytest.mark.parametrize(("side", "center"), [(63, 31), (128, 64)])
@pytest.mark.parametrize("x", [200.0, 200.49, 200.51, 2.2])
def test_an_original_has_its_object_where_the_survey_has_it(side, center, x):
    image = np.arange(400 * 300, dtype=np.float32).reshape(300, 400)
    cut = original({"science": image}, x, 150.0, side)
    assert cut.shape == (side, side)
    column = int(np.floor(x + 0.5)) if side % 2 else int(np.floor(x)) + 1
    assert cut.planes["science"][center, center] == image[150 if side % 2 else 151, column]
    assert cut.x - center == pytest.approx(x - column)
    inside = np.isfinite(cut.planes["science"])
    assert inside.all() == (x > 100)


@pytest.fixture(scope="module")
def cell(observed):
    """The stamps of a cell of two epochs, and the counts of what was left out."""
    observer, template, science = observed
    options = Options(inject=INJECT, with_cut=True)
    note = {"left_out": Counter(), "seconds": Counter()}
    found = [
        one
        for epoch, seen in ((1, science), (2, observer.see(2)))
        for one in detections_of(observer, seen, template, "dip", epoch, options, note)
    ]
    return stamps_of_cell(observer.workshop, observer.cell, found, options), note


def test_a_cell_counts_the_detections_of_its_objects(cell):
    stamps, note = cell
    assert len(stamps) == len({s.stamp_id for s in stamps})
    assert set(note["left_out"]) <= {"ambiguous"}  # what is cut was asked for
    assert all(s.is_simulated for s in stamps)
    assert all((s.cause is None) == (s.label != "bogus") for s in stamps)
    kept = [s for s in stamps if s.cut is None]
    for name in {s.object_id for s in kept}:
        of_it = [s for s in kept if s.object_id == name]
        assert {s.n_detections for s in of_it} == {len(of_it)}
        assert sum(s.is_first for s in of_it) == sum(s.is_random for s in of_it) == 1
        assert min(of_it, key=lambda s: s.mjd).is_first
    assert any(s.n_detections == 2 and s.label != "bogus" for s in kept)
    assert any(s.cut is not None for s in stamps)


def test_the_cutout_and_the_original_are_of_the_same_pixels(cell):
    stamps, _ = cell
    checked = 0
    for stamp in stamps:
        levels = stamp.cutout.levels("SCIENCE")[0]
        image = stamp.original.planes["science"]
        column, row = int(np.floor(stamp.original.x + 1)) - 4, int(np.floor(stamp.original.y + 1)) - 4
        np.testing.assert_array_equal(levels, image[row : row + 8, column : column + 8])
        checked += 1
    assert checked > 10


@pytest.mark.slow
def test_a_set_goes_on_where_it_was_stopped_and_refuses_another(description, tmp_path):
    out = tmp_path / "set"
    options = ["--survey", str(description), "--seed", "3", "--workers", "2", "-o", str(out)]
    done = CliRunner().invoke(app, ["simulate", "stamps", *options, "--number", "40"])
    assert done.exit_code == 0, done.output
    files = sorted(out.glob("*.stamps.avro"))
    record = json.loads((out / "set.json").read_text())
    assert record["stamps"] == sum(1 for f in files for _ in read_stamps(f)) >= 40
    assert record["cells"] == len(files)
    assert "not nature's" in record["note"]
    assert not (out / "making").exists()
    before = {f.name: f.read_bytes() for f in files}
    files[0].unlink()
    config = load_set(str(description))
    simulate_stamps(config, 3, 40, out, workers=1)
    assert {f.name: f.read_bytes() for f in sorted(out.glob("*.stamps.avro"))} == before
    assert {f.suffix for f in out.iterdir()} == {".json", ".avro", ".lock", ""}


def test_a_folder_of_another_set_is_refused(description, tmp_path):
    config = load_set(str(description))
    _claim(tmp_path, config, 3, Options())
    _claim(tmp_path, config, 3, Options())  # its own is not
    out = tmp_path
    for other in ({"seed": 4}, {"config": config.model_copy(update={"days": 3.0})}):
        with pytest.raises(ConfigError, match="another set"):
            simulate_stamps(**({"config": config, "seed": 3} | other), number=40, out=out)


def test_two_runs_in_one_folder_do_not_mix(description, tmp_path):
    with only_run(tmp_path), pytest.raises(ConfigError, match="another run"):
        simulate_stamps(load_set(str(description)), 3, 40, tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_a_cell_without_stars_is_counted_not_lost(description, tmp_path):
    config = load_set(str(description))
    empty = config.model_copy(update={"sky": config.sky.model_copy(update={"star_factor": 0.01})})
    stamps, note = make_cell(open_workshop(empty, SEED, 0), 1, Options(), tmp_path)
    assert stamps == []
    assert sum(note["failed"].values()) >= 1


@pytest.mark.parametrize("name", ["ztf", "ast3", "lsst"])
def test_the_shipped_sets_hold(name):
    config = load_set(name)
    workshop = open_workshop(config, 1, 0)
    places = [plan_cell(workshop, k) for k in range(60)]
    dec = [cell.exposures[0].dec for cell in places]
    assert min(dec) > config.footprint.min_dec - 0.1
    assert max(dec) < min(config.footprint.max_dec, 88) + 0.1
    for cell in places:
        starts = [e.start_mjd for e in cell.exposures]
        assert starts[0] < min(starts[1:]) - 100
        assert config.epochs[0] <= len(starts) - 1 <= config.epochs[1]
        assert all(e.airmass >= 1 for e in cell.exposures)
    again = plan_cell(workshop, 7)
    assert (again.exposures, again.airs, again.poor) == (places[7].exposures, places[7].airs, places[7].poor)


def test_what_cannot_be_asked_is_refused(description):
    with pytest.raises(ConfigError, match="size"):
        options_of(size=7)
    with pytest.raises(ConfigError, match="encoding"):
        options_of(encoding="zip")
    config = load_set(str(description))
    with pytest.raises(ConfigError, match="no_such"):
        open_workshop(config.model_copy(update={"detector": {"no_such": 1.0}}), 1, 0)
    with pytest.raises(ConfigError, match="qip"):
        open_workshop(config.model_copy(update={"branches": ("qip",), "originals": {"dip": 63}}), 1, 0)
    with pytest.raises(ConfigError, match="shipped: ast3, lsst, ztf"):
        load_set("nothing")
    result = CliRunner().invoke(app, ["simulate"])
    assert result.exit_code == 2
    assert "--output" in result.output


def test_multiscale_reads_the_files(cell, tmp_path):
    from reference_pipeline.labelled.stamp import write_stamps

    stamps, _ = cell
    path = tmp_path / "one.stamps.avro"
    write_stamps(path, stamps[:3])
    assert [alert.cutout.geometry.size for alert in multiscale.read_alerts(path)] == [8, 8, 8]
