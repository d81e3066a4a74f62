"""benchmarks/bandwidth_accuracy: every metric by hand, what is sent, and a study that is killed half way."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("benchmarks.common", reason="benchmarks/ is not in the wheel")

import torch
from torch import nn

from benchmarks.bandwidth_accuracy import cost, family, scoring, sizes
from benchmarks.bandwidth_accuracy.compare import pairs_of
from benchmarks.bandwidth_accuracy.data import Pixels, gather, read_stamps_of
from benchmarks.bandwidth_accuracy.evaluate import evaluate
from benchmarks.bandwidth_accuracy.layouts import encoding_of, layout_of
from benchmarks.bandwidth_accuracy.prepare import prepare, shown
from benchmarks.bandwidth_accuracy.real import parts_of
from benchmarks.bandwidth_accuracy.results import read_evaluation
from benchmarks.bandwidth_accuracy.run import run_study
from benchmarks.bandwidth_accuracy.sent import (
    fits_of,
    image_of,
    messages_of,
    normalised,
    received,
    spectra_of,
)
from benchmarks.bandwidth_accuracy.study import (
    CellSpec,
    DataSpec,
    Study,
    YearSpec,
    load_study,
    plan,
    studies_folder,
)
from benchmarks.bandwidth_accuracy.tested import Said, asked_of, differences_of, scored_on
from benchmarks.bandwidth_accuracy.trials import family_options
from benchmarks.bandwidth_accuracy.year import year_of
from benchmarks.common import DATA
from multiscale import Geometry, Placement, build_levels, encode_cutouts
from multiscale.tensors import as_in_paper, in_noise
from reference_pipeline.classify.metrics import average_precision, brier, calibration_error, holm
from reference_pipeline.classify.networks.build import n_parameters
from reference_pipeline.errors import ConfigError
from reference_pipeline.labelled.stamp import LabelledStamp, Original, write_stamps
from reference_pipeline.taxonomy import STAMP_CLASSES

ROOT = Path(__file__).parents[1]
PLANES = ("science", "template", "difference")
SIDE = 63

# --- scores --------------------------------------------------------------------------------------


def test_average_precision_is_the_sum_over_ranks_of_the_recall_gained_times_the_precision():
    """Real ones at ranks 1 and 3 of 4: (1/2)(1/1) + (1/2)(2/3)."""
    assert average_precision([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_average_precision_passes_equal_scores_together_and_counts_weights():
    assert average_precision([1, 0], [0.5, 0.5]) == 0.5
    assert average_precision([1, 0, 0], [0.9, 0.95, 0.2], [2, 1, 7]) == pytest.approx(2 / 3)
    assert math.isnan(average_precision([0, 0], [0.1, 0.2]))


def test_average_precision_of_weights_is_that_of_repeated_rows():
    rng = np.random.default_rng(1)
    real, score, times = rng.random(40) < 0.3, rng.random(40).round(1), rng.integers(0, 4, 40)
    rows = np.repeat(np.arange(40), times)
    assert average_precision(real, score, times) == pytest.approx(average_precision(real[rows], score[rows]))


def test_holm_multiplies_the_smallest_by_all_and_never_falls():
    """Holm (1979) of 0.01, 0.04, 0.03, 0.005: 4 x 0.005, 3 x 0.01, 2 x 0.03, then not less than that."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])
    assert holm([]).shape == (0,)


LABEL = np.array([0, 0, 1, 1, 2, 2])
SAID = np.array([0, 1, 1, 1, 2, 0])


def one_each(n):
    """Draws in which every row counts once, as its own group."""
    return scoring.Draws(np.ones((1, n)), np.arange(n))


def test_scores_of_a_table_by_hand():
    """F1: 2/4, 4/5, 2/3."""
    table = scoring.tables(one_each(6), LABEL, SAID, 3)
    np.testing.assert_array_equal(table[0], [[1, 1, 0], [0, 2, 0], [1, 0, 1]])
    np.testing.assert_array_equal(table[0], table[1])
    assert scoring.macro_f1(table)[0] == pytest.approx((0.5 + 0.8 + 2 / 3) / 3)
    np.testing.assert_allclose(scoring.recalls(table)[0], [0.5, 1, 0.5])
    np.testing.assert_allclose(scoring.precisions(table)[0], [0.5, 2 / 3, 1])
    assert scoring.accuracies(table)[0] == pytest.approx(4 / 6)


def test_a_class_that_is_nowhere_is_left_out_of_macro_f1():
    table = scoring.tables(one_each(2), np.array([0, 1]), np.array([0, 1]), 3)
    assert scoring.macro_f1(table)[0] == 1
    assert np.isnan(scoring.recalls(table)[0, 2])


def test_a_group_that_is_drawn_twice_counts_twice():
    draws = scoring.Draws(np.array([[2.0, 0.0, 1.0]]), np.array([0, 0, 1, 1, 2, 2]))
    table = scoring.tables(draws, LABEL, SAID, 3)[1]
    rows = [0, 1, 0, 1, 4, 5]
    expected = scoring.tables(one_each(6), LABEL[rows], SAID[rows], 3)[0]
    np.testing.assert_array_equal(table, expected)


def test_draws_keep_groups_whole_and_are_as_many():
    draws = scoring.draws_of(np.array(["b", "a", "b", "c"]), 50, seed=3)
    assert draws.counts.shape == (50, 3)
    assert (draws.counts.sum(axis=1) == 3).all()
    np.testing.assert_array_equal(draws.group, [1, 0, 1, 2])


def test_precision_where_classes_are_as_rare_as_in_a_stream():
    """Recall 0.8 of a class of 1 %, a tenth of the rest called so: 0.008 / (0.008 + 0.099)."""
    table = np.array([[8.0, 2], [1, 9]])
    found = scoring.at_rates(table, np.array([0.01, 0.99]))
    assert scoring.precisions(found)[0] == pytest.approx(0.008 / (0.008 + 0.099))


def test_priors_turn_equal_chances_into_the_rates():
    p = scoring.with_priors(np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([0.2, 0.8]))
    np.testing.assert_allclose(p, [[0.2, 0.8], [0.18 / 0.26, 0.08 / 0.26]])


def test_calibration_error_and_brier_of_all_rows_are_those_of_metrics():
    rng = np.random.default_rng(2)
    label = rng.integers(0, 3, 90)
    p = scoring.softmax(rng.normal(size=(90, 3)) + 2 * np.eye(3)[label])
    draws = scoring.draws_of(np.arange(90), 20)
    assert scoring.calibration_errors(draws, p, label)[0] == pytest.approx(calibration_error(p, label))
    assert scoring.briers(draws, p, label)[0] == pytest.approx(brier(p, label))
    rows = np.repeat(np.arange(90), draws.counts[4].astype(int))
    assert scoring.briers(draws, p, label)[5] == pytest.approx(brier(p[rows], label[rows]))


def test_recall_at_a_contamination_by_hand():
    """Ranks: real, real, other, real. At most a tenth others: two of three; at most 0.3 of four: all."""
    is_class, p = np.array([1, 1, 0, 1], bool), np.array([[0.9, 0.8, 0.7, 0.6]])
    assert scoring.recall_at(is_class, p) == {"0.01": pytest.approx(2 / 3), "0.1": pytest.approx(2 / 3)}
    assert scoring.recall_at(np.array([1, 1, 1, 0], bool), p)["0.1"] == 1


def asked_and_said(n=240, seed=4):
    """A test set of six classes, a network that is right three times of four and one that is always right."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 6
    wrong = rng.random(n) < 0.25
    guess = np.where(wrong, (label + 1) % 6, label)
    rates = np.full(6, 1 / 6)
    asked = asked_of("random", STAMP_CLASSES, label, np.arange(n) // 8, np.arange(n), 200)

    def sure(of):
        p = np.full((1, n, 6), 0.02)
        p[0, np.arange(n), of] = 0.9
        return Said(p, p, rates)

    return asked, sure(guess), sure(label), wrong


def test_a_test_set_is_scored_and_two_networks_differ_by_what_one_gets_wrong():
    asked, worse, better, wrong = asked_and_said()
    assert asked.grouped_by == "cell"
    scored = {("a", "random"): scored_on(asked, worse, None), ("b", "random"): scored_on(asked, better, None)}
    tested = scored["a", "random"].tested
    assert tested.accuracy.value == pytest.approx(1 - wrong.mean())
    assert tested.accuracy.low < tested.accuracy.value < tested.accuracy.high
    satellite = STAMP_CLASSES.index("satellite")
    to_sn = (wrong & (asked.label == satellite)).sum() / (asked.label == satellite).sum()
    assert tested.satellite_to_sn.value == pytest.approx(to_sn)  # SN is the class after satellite
    assert tested.satellite_to_asteroid.value == 0
    found = {d.metric: d for d in differences_of({"arm": [("a", "b")]}, scored, ["random"])}
    assert found["macro_f1"].difference == pytest.approx(tested.macro_f1.value - 1)
    assert found["macro_f1"].high < 0
    assert found["macro_f1"].mcnemar_p == pytest.approx(2 * 0.5 ** wrong.sum())  # b alone is right: exact
    assert found["satellite_recall"].n_objects == 40
    assert found["satellite_recall"].difference == pytest.approx(-to_sn)


def test_a_network_does_not_differ_from_itself():
    asked, worse, _, _ = asked_and_said()
    of = scored_on(asked, worse, None)
    found = differences_of({"arm": [("a", "b")]}, {("a", "random"): of, ("b", "random"): of}, ["random"])
    assert [(d.difference, d.low, d.high, d.mcnemar_p) for d in found] == [(0, 0, 0, 1)] * 2


def test_cells_of_more_seeds_are_held_against_others_by_as_many_networks():
    asked, worse, better, wrong = asked_and_said()
    both = Said(*(np.concatenate([worse.raw, better.raw * 3]) for _ in range(2)), worse.rates)
    scored = {
        ("two", "random"): scored_on(asked, both, None), ("one", "random"): scored_on(asked, worse, None)
    }  # fmt: skip
    assert scored["two", "random"].is_right[1].all()  # the second network outvotes the first
    found = differences_of({"arm": [("two", "one")]}, scored, ["random"])
    assert {d.mcnemar_p for d in found} == {1}  # by their first networks, which are the same
    assert found[0].difference == pytest.approx((1 - scored["one", "random"].tested.macro_f1.value) / 2)
    assert wrong.any()


def test_objects_are_drawn_where_there_are_few_cells_of_sky():
    asked = asked_of("random", STAMP_CLASSES, np.arange(6), np.zeros(6), np.array(list("aabbcc")), 10)
    assert (asked.grouped_by, asked.draws.n_groups) == ("object", 3)


def test_a_year_counts_objects_at_the_streams_rates():
    asked, worse, better, _ = asked_and_said()
    rates = dict(zip(STAMP_CLASSES, [0, 0, 0, 1, 3, 0]))
    year = year_of(YearSpec(objects_a_day=10, n_days=100), "a", asked, better, rates)
    assert year.true == {name: int(year.found[name].value) for name in STAMP_CLASSES}  # none is wrong
    assert sum(year.true.values()) == 1000
    assert year.true["satellite"] == pytest.approx(250, abs=60)
    assert year.correct["SN"].value == 1
    other = year_of(YearSpec(objects_a_day=10, n_days=100), "a", asked, worse, rates)
    assert other.correct["SN"].value < 1


def test_what_a_stream_asks_of_the_network():
    """1,000 bytes: 3e5 alerts of ZTF are 0.3 GB a night, 1e7 of LSST 10 GB; 40,000 in 39 s are 8.2 Mbit/s."""
    found = cost.rates(1000.0)
    assert found["tb_night_ztf"] == pytest.approx(3e-4)
    assert found["tb_night_lsst"] == pytest.approx(0.01)
    assert found["gbit_s_lsst"] == pytest.approx(8 * 1000 * 40_000 / 39e9)


# --- layouts and what is sent --------------------------------------------------------------------


def some_pixels(n=5, side=SIDE, seed=0):
    rng = np.random.default_rng(seed)
    images = {plane: rng.normal(100, 10, (n, side, side)).astype(np.float32) for plane in PLANES}
    images["science"][0, :3] = np.nan
    middle = (side - 1) / 2
    return Pixels(np.arange(n), images, (Placement.at(middle + 0.2, middle - 0.3),) * n, 1.0)


def through(some, layout, encoding):
    of, kind = layout_of(layout), encoding_of(encoding)
    return received(messages_of(some, of, kind, PLANES), of, kind, PLANES)


@pytest.mark.parametrize("name", ["4x8", "crop-16", "3x16"])
def test_levels_come_out_as_the_format_makes_them(name):
    some, layout = some_pixels(), layout_of(name)
    came = through(some, name, "raw")
    for i, place in enumerate(some.places):
        expected = build_levels(some.images["science"][i], layout.geometry(1.0, SIDE), placement=place)
        np.testing.assert_array_equal(came.levels["science"][i], expected)


@pytest.mark.parametrize("encoding", ["raw", "fits"])
def test_the_full_stamp_travels_whole_with_an_invalid_last_row_and_column(encoding):
    some = some_pixels()
    came = through(some, "full-63", encoding)
    for plane in PLANES:
        assert came.levels[plane].shape == (5, 1, 64, 64)
        np.testing.assert_array_equal(came.levels[plane][:, 0, :63, :63], some.images[plane])
        assert np.isnan(came.levels[plane][:, 0, 63]).all()
        assert np.isnan(came.levels[plane][:, 0, :, 63]).all()


def test_sky_and_noise_of_fits_stamps_are_what_the_packet_would_say():
    some = some_pixels()
    sent, measured = through(some, "full-63", "raw"), through(some, "full-63", "fits")
    for plane in PLANES:
        np.testing.assert_allclose(measured.noise[plane], sent.noise[plane], rtol=1e-6)
        np.testing.assert_allclose(measured.background[plane], sent.background[plane], rtol=1e-6)


def test_low_resolution_is_the_mean_of_blocks():
    some = some_pixels()
    came = through(some, "low-16", "raw").levels["difference"]
    assert came.shape == (5, 1, 16, 16)
    blocks = some.images["difference"][:, :60, :60].reshape(5, 15, 4, 15, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(came[:, 0, :15, :15], blocks, rtol=1e-5)
    last = some.images["difference"][:, 60:, 60:].mean(axis=(1, 2))  # 63 is no multiple of 4
    np.testing.assert_allclose(came[:, 0, 15, 15], last, rtol=1e-5)


def test_a_layout_whose_side_is_no_multiple_of_four_has_invalid_pixels_round_it():
    came = through(some_pixels(side=102), "crop-30", "raw").levels["template"]
    assert came.shape == (5, 1, 32, 32)
    assert np.isfinite(came[:, 0, :30, :30]).all()
    assert np.isnan(came[:, 0, 30:]).all()


def test_a_stamp_too_large_for_a_cutout_travels_as_fits():
    some = some_pixels(side=128)
    came = through(some, "full-102", "fits").levels["science"]
    assert came.shape == (5, 1, 104, 104)
    np.testing.assert_array_equal(came[:, 0, :102, :102], some.images["science"][:, 13:115, 13:115])
    assert np.isnan(came[:, 0, 102:]).all()


def test_rice_is_off_by_half_a_step_at_most_and_smaller_with_a_larger_step():
    some = some_pixels()
    exact = through(some, "3x16", "raw").levels["difference"]
    n_bytes = []
    for name in ("rice/8", "rice/4", "rice/1"):
        found = through(some, "3x16", name).levels["difference"]
        step = 2.0 ** round(math.log2(10 * encoding_of(name).step_sigma))
        assert np.nanmax(np.abs(found - exact)) <= step / 2 * 1.0001 + 1e-3
        n_bytes.append(
            sum(len(m[0]) for m in messages_of(some, layout_of("3x16"), encoding_of(name), PLANES))
        )
    assert n_bytes == sorted(n_bytes, reverse=True)
    assert n_bytes[0] > 1.2 * n_bytes[-1]


def test_an_original_that_is_too_small_is_refused():
    with pytest.raises(ConfigError, match="smaller"):
        through(some_pixels(side=31), "full-63", "fits")


def test_values_are_normalised_as_multiscale_does_it():
    came = through(some_pixels(), "4x8", "raw")
    noise, valid = normalised(came, PLANES, "noise")
    assert noise.shape == valid.shape == (5, 3, 4, 8, 8)
    plane = came.levels["science"]
    np.testing.assert_array_equal(
        noise[:, 0], in_noise(plane, came.background["science"], came.noise["science"])
    )
    np.testing.assert_array_equal(valid[:, 0], np.isfinite(plane))
    np.testing.assert_array_equal(normalised(came, PLANES, "paper")[0][:, 0], as_in_paper(plane))


def test_a_fits_file_is_read_as_astropy_reads_it():
    fits = pytest.importorskip("astropy.io.fits")
    from io import BytesIO

    image = some_pixels().images["science"][0]
    with fits.open(BytesIO(fits_of(image))) as hdus:
        np.testing.assert_array_equal(hdus[0].data, image)
    np.testing.assert_array_equal(image_of(fits_of(image)), image)


def test_the_spectrum_of_a_line_of_glints_is_not_that_of_one_source():
    y, x = np.mgrid[:SIDE, :SIDE] - 31.0
    one = 100 * np.exp(-(x**2 + y**2) / 4)
    row = sum(100 * np.exp(-((x - 8 * k) ** 2 + y**2) / 4) for k in range(-3, 4))
    found = spectra_of(np.stack([one, row, row.T]))
    assert found.shape == (3, 8, 8)
    assert ((found * 16 % 1) == 0).all()  # a byte each carries it
    assert np.abs(found[1] - found[0]).max() > 1
    np.testing.assert_allclose(found[1], found[2].T, atol=1 / 16)


@pytest.mark.parametrize("name", ["4x9", "9x8", "crop", "full-2", "multi", "0x8"])
def test_a_layout_that_is_none_is_refused(name):
    with pytest.raises(ConfigError, match="layout"):
        layout_of(name)


def test_a_share_of_a_batch_is_what_is_left_after_compression():
    pytest.importorskip("cramjam", reason="the extra `bench` is not installed")
    rng = np.random.default_rng(0)
    noise = [rng.bytes(3000) for _ in range(700)]
    assert sizes.share(noise, "zstd") == pytest.approx(3012, abs=15)  # noise does not shrink; two batches
    assert sizes.share([bytes(3000)] * 700, "snappy") < 300


# --- networks of one family ----------------------------------------------------------------------


def test_mflop_of_a_convolution_and_a_layer_by_hand():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 5, 3, padding=1, bias=False), nn.Linear(5 * 8 * 8, 7, bias=False)

        def forward(self, stamps, position):
            return self.b(self.a(stamps[:, :, 0]).flatten(1))

    operations = 2 * (8 * 8 * 5 * 2 * 9) + 2 * (5 * 8 * 8 * 7)
    assert family.mflop(Small(), (2, 1, 8)) == pytest.approx(operations / 1e6)


@pytest.mark.parametrize("layout", ["3x16", "crop-16", "5x12"])
@pytest.mark.parametrize("network", ["parameters", "mflop"])
def test_networks_of_all_layouts_are_equal_within_a_tenth(layout, network):
    study = load_study("small")
    found = {}
    for name in ("4x8", layout):
        cell = CellSpec(layout=name, network=network)
        of, shape = cell.stamp, (6, cell.stamp.n_levels, cell.stamp.box)
        options = family_options(study, cell)
        options["widths"] = tuple(options["widths"])
        net = family.MultiScaleNet(*shape, 6, **options)
        assert net(torch.zeros(2, *shape[:2], of.box, of.box)).shape == (2, 6)
        found[name] = n_parameters(net) if network == "parameters" else family.mflop(net, shape)
    assert found[layout] == pytest.approx(found["4x8"], rel=0.1)


# --- studies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(studies_folder().glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_studies_hold_and_name_each_cell_once(path):
    study = load_study(str(path))
    ids = [planned.cell.id for planned in plan(study)]
    assert len(set(ids)) == len(ids)
    assert ids[0] == study.reference.id
    assert all("/" not in name for name in ids)


def test_a_cell_of_two_arms_is_run_once_with_the_more_seeds():
    values = small_study()
    values["arms"] = [
        {"name": "a", "vary": "layout", "values": ["crop-16"], "n_seeds": 1},
        {"name": "b", "vary": "layout", "values": ["crop-16", "4x8"]},
    ]
    first, second = plan(Study.model_validate({**values, "seeds": [1, 2]}))
    assert (first.cell.id, first.arms) == ("4x8_raw", ("reference", "b"))
    assert (second.cell.id, second.arms, second.seeds) == ("crop-16_raw", ("a", "b"), (1, 2))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"layout": "4x8", "encoding": "fits"}, "one level"),
        ({"layout": "full-102"}, "too large"),
        ({"dropped_level": 4}, "dropped_level"),
        ({"planes": ["difference", "science"]}, "in the order"),
        ({"network": "published-none"}, "Table 2"),
        ({"encoding": "rice"}, "rice/4"),
    ],
)
def test_a_cell_that_cannot_be_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        CellSpec.model_validate(wrong)


def small_study(**changes):
    return {
        "name": "test", "seeds": [1], "n_draws": 60, "n_packets": 30, "data": {"label": "drawn by the test"},
        "training": {
            "iterations": 30, "batch_size": 32, "evaluate_every": 10, "widths": [2, 3, 4], "n_dense": 16,
        },
        "arms": [{"name": "layout", "vary": "layout", "values": ["4x8", "crop-16"]}],
        **changes,
    }  # fmt: skip


def drawn(label, rng):
    """Planes (63, 63) that a class could give; drawn, for a test alone."""
    y, x = np.mgrid[:SIDE, :SIDE] - 31.0 - rng.uniform(-0.5, 0.5, (2, 1, 1))

    def blob(dx, dy, sigma):
        return 60 * np.exp(-((x - dx) ** 2 + (y - dy) ** 2) / (2 * sigma**2))

    still, change = np.zeros((SIDE, SIDE)), blob(0, 0, 1.5)
    if label == "satellite":
        change = sum(blob(9 * k, 4 * k, 1.5) for k in range(-3, 4))
    elif label == "bogus":
        change = blob(0, 0, 0.6) - blob(2, 1, 0.9)
    elif label != "asteroid":
        still = {"SN": blob(4, 3, 5), "AGN": 2 * blob(0, 0, 4), "VS": 2 * blob(0, 0, 1.5)}[label]
    noise = rng.normal(0, 5, (2, SIDE, SIDE))
    science, template = still + change + noise[0], still + noise[1]
    planes = {"science": science, "template": template, "difference": science - template}
    return {name: plane.astype(np.float32) for name, plane in planes.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten fields of 24 stamps."""
    path, rng = tmp_path_factory.mktemp("stamps"), np.random.default_rng(8)
    for field in range(10):
        stamps = []
        for i in range(24):
            label, planes = STAMP_CLASSES[i % 6], drawn(STAMP_CLASSES[i % 6], rng)
            place = Placement.at(31.2, 30.9)
            cutout = encode_cutouts(planes, Geometry(8, 4, 1.0), [place])[0]
            stamps.append(
                LabelledStamp(
                    stamp_id=f"{field}-{i}", label=label, object_id=f"o{field}-{i}",
                    exposure_id=f"e{field}-{i % 2}", field_id=f"f{field}", survey="ztf", branch="dip",
                    band="r", mjd=59000.0 + field + i / 100, ra=10.0 * field, dec=2.0 * i, snr=10.0 + i,
                    cutout=cutout, original=Original(planes, 31.2, 30.9), magnitude=19.0,
                )
            )  # fmt: skip
        write_stamps(path / f"{field}.stamps.avro", stamps)
    return path


@pytest.fixture(scope="module")
def stamps(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("gathered")
    gathered = gather(DataSpec(label="drawn"), [folder], out, lambda line: None)
    prepare(gathered, CellSpec().sending, out / "work", places="position")
    return gathered, out


def test_stamps_are_gathered_with_their_facts_and_fields_are_not_divided(stamps):
    gathered, out = stamps
    assert len(gathered) == 240
    assert gathered.planes == PLANES
    for field in set(gathered.facts["field_id"]):
        assert len(set(gathered.part[gathered.facts["field_id"] == field])) == 1
    again = read_stamps_of(out)
    np.testing.assert_array_equal(again.part, gathered.part)
    with np.load(out / "test.npz") as kept:
        assert not any("/" in str(kept[name].flat[0]) for name in kept.files)  # no path of this machine


def test_arrays_on_disk_are_the_packets_values(stamps, folder):
    gathered, out = stamps
    from multiscale import decode_batch
    from multiscale.tensors import tensors_of
    from reference_pipeline.labelled.stamp import read_stamp_records

    first = list(read_stamp_records(gathered.files[0]))
    (group,) = decode_batch(first)
    expected = tensors_of(group, PLANES)
    examples, parts = shown(gathered, CellSpec(), out / "work", seed=1)
    np.testing.assert_array_equal(examples.values[:24], expected.values)
    np.testing.assert_array_equal(examples.inputs(np.arange(24)), expected.channels())
    np.testing.assert_array_equal(parts, gathered.part)


def test_what_a_cell_is_shown(stamps):
    gathered, out = stamps

    def of(**changes):
        return shown(gathered, CellSpec(**changes), out / "work", seed=1)

    whole, parts = of()
    rows = np.arange(6)
    np.testing.assert_array_equal(of(planes=("difference",))[0].values, whole.values[:, 2:])
    blank = of(dropped_level=1)[0].inputs(rows)
    assert not blank[:, :, 1].any()
    np.testing.assert_array_equal(blank[:, :, [0, 2, 3]], whole.inputs(rows)[:, :, [0, 2, 3]])
    fewer = of(fraction=0.25)[1]
    assert (fewer == 0).sum() == pytest.approx((parts == 0).sum() / 4, abs=6)
    assert set(gathered.label[fewer == 0]) == set(range(6))
    np.testing.assert_array_equal(fewer[parts > 0], parts[parts > 0])
    labels = of(label_noise=0.3)[0].labels
    wrong = labels != gathered.label
    assert not wrong[parts > 0].any()
    assert wrong[parts == 0].mean() == pytest.approx(0.3, abs=0.12)
    places = of(position="shuffled")[0].position
    assert not np.array_equal(places, whole.position)
    np.testing.assert_allclose(
        np.sort(places[parts == 2], axis=0), np.sort(whole.position[parts == 2], axis=0)
    )


def results_of(out):
    """What must be the same again: arrays, and the evaluation without times and costs."""
    arrays = {}
    for path in sorted((out / "trials").glob("*.npz")):
        with np.load(path) as kept:
            arrays |= {f"{path.name} {name}": kept[name].tolist() for name in kept.files}
    evaluation = read_evaluation(out / "evaluation.json").model_dump(
        exclude={"environment", "cost", "commit"}
    )
    for cell in evaluation["cells"]:
        del cell["training_seconds"]
    return arrays, evaluation


def command(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bandwidth_accuracy", *map(str, words)],
        cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_a_study_that_is_killed_half_way_and_resumed_gives_the_same(folder, tmp_path):
    study = tmp_path / "study.toml"
    tomli_w = pytest.importorskip("tomli_w")
    study.write_text(tomli_w.dumps(small_study()))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    going = command("run", study, "-o", killed, "--data", folder, "--workers", 1)
    first = killed / "trials" / "4x8_raw-1.json"
    limit = time.monotonic() + 300
    while not first.is_file() and going.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    os.killpg(going.pid, signal.SIGKILL)
    said, _ = going.communicate()
    assert first.is_file(), said
    assert len(list((killed / "trials").glob("*.json"))) == 1  # it was at the second
    before = first.stat().st_mtime_ns
    run_study(load_study(str(study)), killed, folders=[folder])
    assert first.stat().st_mtime_ns == before  # what was done is not done again
    run_study(load_study(str(study)), whole, folders=[folder])
    for out in (killed, whole):
        evaluate(out)
    assert results_of(killed) == results_of(whole)
    evaluation = read_evaluation(whole / "evaluation.json")
    assert evaluation.data.simulated
    assert evaluation.arms == {"reference": ["4x8_raw"], "layout": ["4x8_raw", "crop-16_raw"]}
    assert {cell.id: cell.bytes.pixels.median for cell in evaluation.cells} == {
        "4x8_raw": 2496, "crop-16_raw": 3072,
    }  # fmt: skip
    by_cell = {cell.id: cell.tests["random"] for cell in evaluation.cells}
    assert by_cell["4x8_raw"].macro_f1.value > 0.2  # it has learnt something: a guess has 1/6 at most
    assert {d.a for d in evaluation.differences} == {"crop-16_raw"}
    with np.load(whole / "examples.npz") as kept:
        assert kept["example_original"].shape[1:] == (3, 63, 63)
        assert len(kept["sky_ra"]) == by_cell["4x8_raw"].n
    record = json.loads((whole / "study.json").read_text())
    assert record["data"]["counts"]["train"]["satellite"] > 0
    costs = json.loads((whole / "cost.json").read_text())
    (whole / "cost.json").write_text(json.dumps({"4x8 raw": costs["4x8 raw"]}))
    again = evaluate(whole).cost  # as if the other layout's trials had come since
    assert set(again) == set(costs) == {"4x8 raw", "crop-16 raw"}
    assert again["4x8 raw"].model_dump() == costs["4x8 raw"]
    reported = command("report", whole)
    said, _ = reported.communicate(timeout=300)
    assert reported.returncode == 0, said
    page = (whole / "report" / "index.html").read_text()
    assert f"{100 * by_cell['4x8_raw'].macro_f1.value:.1f}" in page
    assert (whole / "report" / "report.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_ray_gives_what_local_processes_give(folder, tmp_path):
    pytest.importorskip("ray", reason="the extra `tune` is not installed")
    study = Study.model_validate(small_study(arms=[]))
    for engine in ("local", "ray"):
        run_study(study, tmp_path / engine, folders=[folder], workers=2, engine=engine)
    said = [np.load(tmp_path / engine / "trials" / "4x8_raw-1.npz") for engine in ("local", "ray")]
    np.testing.assert_array_equal(said[0]["logits"], said[1]["logits"])


@pytest.mark.slow
@pytest.mark.shared_data
def test_real_stamps_are_cross_validated_with_labels_of_each_kind_apart(folder, tmp_path):
    if not (DATA / "ztf_labelled").is_dir():
        pytest.skip("../shared/data/ztf_labelled is not beside the checkout")
    budget = {"iterations": 4, "batch_size": 32, "evaluate_every": 2}
    real = {"layouts": ["4x8", "full-63"], "n_folds": 3, "budget": budget}
    study = Study.model_validate(small_study(arms=[], real=real))
    run_study(study, tmp_path, folders=[folder], workers=2)
    found = evaluate(tmp_path).real
    assert [cell.id for cell in found.cells] == ["4x8_raw", "full-63_fits"]
    assert found.counts["catalogue"].keys() == {"asteroid", "extragalactic", "star"}
    assert found.counts["weak"].keys() == {"bogus", "extragalactic", "star"}
    assert "glints" not in found.counts
    assert "15 of 17 glints are of one exposure" in found.note
    assert "satellite" not in found.counts["all"]
    for kind in ("catalogue", "weak"):
        tested = found.cells[0].tests[kind]
        assert tested.n == sum(tested.counts.values())
    tests = found.cells[0].tests
    assert tests["catalogue"].n + tests["weak"].n == tests["all"].n
    assert {d.test for d in found.differences} == {"catalogue", "weak", "all"}
    packet, today = (cell.bytes for cell in found.cells)
    assert packet.pixels.median == 2496
    assert today.cutout.median == pytest.approx(40_000, rel=0.15)  # ZTF's own: 40,595 (PEERS.md)


def test_another_study_in_the_same_folder_is_refused(folder, tmp_path):
    study = Study.model_validate(small_study(arms=[]))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.json").write_text(json.dumps({"study": {"name": "another"}}))
    with pytest.raises(ConfigError, match="another study"):
        run_study(study, tmp_path / "out", folders=[folder])


def test_a_fold_is_validated_on_one_that_has_every_class():
    fold, label = np.repeat(np.arange(4), 2), np.array([0, 1, 0, 0, 0, 1, 0, 1])  # fold 1 lacks class 1
    np.testing.assert_array_equal(parts_of(fold, label, 0, 4), [2, 2, 0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(parts_of(fold, label, 2, 4), [0, 0, 0, 0, 2, 2, 1, 1])


def test_a_folder_where_nothing_was_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no study"):
        evaluate(tmp_path)


def test_every_way_of_sending_is_compared_with_the_full_stamp_and_the_crop_once():
    study = load_study("ztf")
    specs = {planned.cell.id: planned.cell for planned in plan(study)}
    pairs = [frozenset(pair) for of_arm in pairs_of(study, specs, set(specs)).values() for pair in of_arm]
    assert len(pairs) == len(set(pairs))
    for name in ("4x8_raw", "4x8_rice1", "3x16_raw", "3x16_rice1", "4x16_rice4", "low-16_raw"):
        assert {frozenset((name, other)) for other in ("full-63_fits", "crop-16_raw")} <= set(pairs)
    assert frozenset(("4x8_raw_d", "full-63_fits")) not in pairs  # other planes too
    published = [name for name in specs if "published" in name]
    assert sum(pair <= set(published) for pair in pairs) == len(published) * (len(published) - 1) / 2
