"""Training a classifier: symmetry, what the network is given, repeatability, calibration, export."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("onnx", reason="the extra `train` is not installed")

import torch
from typer.testing import CliRunner

from multiscale import Geometry, Placement, decode_batch, encode_cutouts
from multiscale.tensors import tensors_of
from reference_pipeline.classify import export
from reference_pipeline.classify.calibration import Tested as HeldOut
from reference_pipeline.classify.calibration import calibrated, least_confidence, measured, rates_of
from reference_pipeline.classify.card import ModelCard, read_card
from reference_pipeline.classify.dataset import read_examples
from reference_pipeline.classify.inference import answers_of, load_classifier
from reference_pipeline.classify.make import make_model
from reference_pipeline.classify.metrics import class_scores, confusion
from reference_pipeline.classify.networks.build import build, n_parameters
from reference_pipeline.classify.networks.ours import GroupConv, MultiScaleNet, _halved
from reference_pipeline.classify.networks.views import all_views
from reference_pipeline.classify.recipe import Recipe, load_recipe, recipes_folder
from reference_pipeline.classify.training import _batch, device_of, logits_of, train_member
from reference_pipeline.cli import app
from reference_pipeline.errors import ConfigError, FileError
from reference_pipeline.labelled.purity import Label
from reference_pipeline.labelled.real import label_alerts
from reference_pipeline.labelled.simulate import RECORD
from reference_pipeline.labelled.stamp import LabelledStamp, Original, read_stamp_records, write_stamps
from reference_pipeline.taxonomy import STAMP_CLASSES

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
SIDE = 63
N_CELLS = 10
run = CliRunner().invoke


def images_of(label, rng):
    """Science, template and difference (SIDE, SIDE) that a class could give: enough to be learnt."""
    y, x = np.mgrid[:SIDE, :SIDE]
    x0, y0 = SIDE // 2 + rng.uniform(-0.5, 0.5, 2)

    def blob(dx, dy, sigma):
        return np.exp(-0.5 * ((x - x0 - dx) ** 2 + (y - y0 - dy) ** 2) / sigma**2)

    flux, sign = rng.uniform(10, 40), rng.choice([-1, 1])
    still, changed = np.zeros((SIDE, SIDE)), flux * blob(0, 0, 1.5)
    if label == "bogus":
        changed = flux * (blob(0, 0, 1) - blob(1.5, 1, 1))
    elif label == "satellite":
        angle = rng.uniform(0, math.pi)
        changed = flux * sum(
            blob(9 * k * math.cos(angle), 9 * k * math.sin(angle), 1.5) for k in range(-3, 4)
        )
    elif label == "VS":
        still, changed = 60 * blob(0, 0, 1.5), sign * changed
    elif label in ("AGN", "SN"):
        away = rng.uniform(-6, 6, 2) if label == "SN" else (0, 0)
        still = 40 * blob(*away, 4)
        changed *= sign if label == "AGN" else 1
    template = still + rng.normal(0, 0.5, still.shape)
    science = still + changed + rng.normal(0, 1, still.shape)
    return {"science": science, "template": template, "difference": science - template}


def some_stamps(n, *, seed=0, geometry=None, **more):
    rng = np.random.default_rng(seed)
    for i in range(n):
        label, cell = STAMP_CLASSES[i % 6], i // 6 % N_CELLS
        planes = {name: image.astype(np.float32) for name, image in images_of(label, rng).items()}
        place = Placement.at(SIDE // 2, SIDE // 2)
        cutout = encode_cutouts(planes, geometry or Geometry(8, 4, 1.0), [place])[0]
        facts = {
            "stamp_id": f"{seed}-{i}", "label": label, "object_id": f"o{i}", "exposure_id": f"e{cell}",
            "field_id": f"f{cell}", "survey": "ztf", "branch": "", "band": "g", "mjd": 60000.0,
            "ra": 30.0 * cell, "dec": 5.0, "snr": 20.0, "original": Original(planes, SIDE // 2, SIDE // 2),
        }  # fmt: skip
        yield LabelledStamp(cutout=cutout, **(facts | more))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labelled stamps of two files."""
    made = tmp_path_factory.mktemp("stamps")
    stamps = list(some_stamps(420))
    write_stamps(made / "a.stamps.avro", stamps[:200])
    write_stamps(made / "b.stamps.avro", stamps[200:])
    told = {"simulated": True, "seed": 3, "version": "0", "options": {"inject": 0}, "set": {"survey": "ztf"}}
    (made / RECORD).write_text(json.dumps(told))
    return made


def recipe_of(**more):
    given = {
        "name": "small", "task": "stamps", "surveys": ("ztf",), "size": 8, "n_levels": 4, "iterations": 60,
        "evaluate_every": 20, "batch_size": 48, "n_members": 1,
        "options": {"widths": [2, 4, 4], "n_dense": 16},
    }  # fmt: skip
    return Recipe(**(given | more))


def unsettled(network):
    """Give the normalisations of a fresh network statistics that are not 0 and 1."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    return network.eval()


# the network


@pytest.mark.parametrize(("symmetry", "pooling"), [("group", "max"), ("group", "average"), ("orbit", "max")])
@pytest.mark.parametrize(
    ("n_levels", "size", "widths"),
    [(4, 8, (2, 4, 4)), (3, 16, (2, 4, 4)), (1, 31, (2, 3, 4)), (1, 91, (2, 2, 2, 2, 2))],
)  # fmt: skip
def test_the_eight_views_of_a_stamp_have_the_same_logits(n_levels, size, widths, symmetry, pooling):
    torch.manual_seed(1)
    options = {"widths": widths, "symmetry": symmetry, "pooling": pooling, "uses_position": True}
    net = unsettled(MultiScaleNet(6, n_levels, size, 6, **options))
    stamps, position = torch.randn(3, 6, n_levels, size, size), torch.randn(3, 3)
    logits = net(all_views(stamps), position.repeat(8, 1)).unflatten(0, (8, 3))
    assert logits[0].std() > 1e-3
    assert (logits - logits[0]).abs().max() < 1e-5


@pytest.mark.parametrize("options", [{"lifts": True}, {}])
def test_a_group_convolution_turns_with_its_input(options):
    """What it gives of one view is what it gives of another, turned and with its orientations exchanged."""
    torch.manual_seed(2)
    layer = unsettled(GroupConv(3, 2, 3, order=8, padding=1, **options))
    image = torch.randn(1, 3, 6, 6)
    if not options:
        image = GroupConv(3, 3, 3, order=8, lifts=True, padding=1).eval()(all_views(image))
        maps = layer(image)
    else:
        maps = layer(all_views(image))
    by_orientation = maps.unflatten(1, (2, 8)).detach().numpy()
    unturned = sorted(np.round(by_orientation[0, 0].sum(axis=(1, 2)), 4).tolist())
    for number in range(1, 8):
        assert sorted(np.round(by_orientation[number, 0].sum(axis=(1, 2)), 4).tolist()) == pytest.approx(
            unturned, abs=2e-4
        )
    assert len(set(unturned)) == 8  # the orientations are different ones


def test_at_inference_the_normalisation_is_within_the_kernel():
    torch.manual_seed(3)
    layer = unsettled(GroupConv(4, 3, 3, order=8, padding=1))
    maps = torch.randn(2, 32, 5, 5)
    plain = torch.nn.functional.conv2d(maps, layer._turned(layer.weight), padding=1)
    expected = layer.norm(plain.reshape(2, 3, -1)).reshape(2, 24, 5, 5)
    assert torch.allclose(layer(maps), expected, atol=1e-5)


def test_a_halved_level_lies_where_the_next_coarser_ones_centre_does():
    """Levels of one image: halved, each is the centre of the next, which is what they are fused with."""
    image = np.random.default_rng(4).normal(size=(1, 64, 64)).astype(np.float32)
    cutouts = encode_cutouts({"science": image}, Geometry(8, 4, 1.0), [Placement.at(31, 31)])
    levels = torch.from_numpy(cutouts[0].levels("science").copy())[:, None]  # (L, 1, 8, 8): maps of a channel
    net = MultiScaleNet(2, 4, 8, 2, symmetry="orbit")
    assert torch.allclose(_halved(levels, "average")[:3], net._coarser(levels)[:3], atol=1e-6)
    assert not net._coarser(levels)[3].any()


def test_without_fusion_a_network_is_another_and_as_symmetric():
    net = unsettled(MultiScaleNet(6, 4, 8, 6, fuses=False))
    stamps = torch.randn(2, 6, 4, 8, 8)
    logits = net(all_views(stamps)).unflatten(0, (8, 2))
    assert (logits - logits[0]).abs().max() < 1e-5
    assert n_parameters(net) < n_parameters(MultiScaleNet(6, 4, 8, 6))


def test_the_tower_knows_the_level():
    net = unsettled(MultiScaleNet(6, 2, 8, 6, fuses=False))
    net.last.weight.data[:, net.widths[-1] :] = net.last.weight.data[
        :, : net.widths[-1]
    ]  # levels summed alike
    stamps = torch.randn(2, 6, 2, 8, 8)
    assert torch.allclose(net(stamps), net(stamps.flip(2)), atol=1e-5)
    net.level.data[1] = 1.0
    assert not torch.allclose(net(stamps), net(stamps.flip(2)), atol=1e-3)


# what it is given


def test_examples_are_the_tensors_of_the_packets(folder):
    examples = read_examples([folder], recipe_of())
    records = list(read_stamp_records(folder / "a.stamps.avro"))
    planes = ("science", "template", "difference")
    expected = tensors_of(next(iter(decode_batch(records))), planes)
    assert len(examples) == 420
    np.testing.assert_array_equal(examples.inputs(np.arange(200)), expected.channels())
    assert examples.labels[:6].tolist() == [0, 1, 2, 3, 4, 5]
    assert examples.pixel_scale == (1.0, 1.0)
    ra = np.radians(30.0)
    first = [math.cos(math.radians(5)) * math.cos(ra), math.cos(math.radians(5)) * math.sin(ra)]
    np.testing.assert_allclose(examples.position[6, :2], first, rtol=1e-6)
    assert examples.facts["object_id"][7] == "o7"


def test_no_cell_of_the_sky_is_on_two_sides(folder):
    examples = read_examples([folder], recipe_of())
    parts = examples.parts(0)
    cells = examples.facts["field_id"]
    assert all(len(set(parts[cells == cell])) == 1 for cell in set(cells))
    assert set(parts) == {0, 1, 2}


def test_another_geometry_is_cut_from_the_originals_through_the_codec(folder):
    examples = read_examples([folder / "a.stamps.avro"], recipe_of(layout="cut", size=16))
    record = next(read_stamp_records(folder / "a.stamps.avro"))
    pixels = np.frombuffer(record["original"]["pixels"], "<f4").reshape(3, SIDE, SIDE)
    cutout = encode_cutouts({"science": pixels[:1]}, Geometry(16, 4, 1.0), [Placement.at(31, 31)])[0]
    group = next(iter(decode_batch([cutout.to_record()])))
    np.testing.assert_array_equal(examples.values[0, 0], tensors_of(group, ("science",)).values[0, 0])
    assert not examples.valid[0, 0, 3].all()  # the coarsest level reaches beyond 63 pixels


def test_cut_in_the_packets_own_geometry_they_are_the_same(folder):
    sent = read_examples([folder], recipe_of())
    cut = read_examples([folder], recipe_of(layout="cut"))
    np.testing.assert_allclose(cut.values, sent.values, atol=1e-5)
    np.testing.assert_array_equal(cut.valid, sent.valid)


def test_a_stamp_is_cut_at_the_nearest_corner_or_around_its_pixel_or_both(tmp_path):
    """An object at 31.3: the corner nearest to it is at 31.5, that of its pixel too; at 30.7 they differ."""
    pixels = next(some_stamps(1)).original.planes
    write_stamps(tmp_path / "x.stamps.avro", some_stamps(1, original=Original(pixels, 30.7, 31.3)))
    both = read_examples([tmp_path], recipe_of(layout="cut", places="both"))
    assert both.labels.tolist() == [0, 0]
    assert len(set(both.groups)) == 1
    near, around = both.values
    alone = [read_examples([tmp_path], recipe_of(layout="cut", places=p)) for p in ("position", "pixel")]
    np.testing.assert_array_equal(near, alone[0].values[0])
    np.testing.assert_array_equal(around, alone[1].values[0])
    # background and noise are of another footprint: only the order of the pixels is the same
    assert np.corrcoef(near[2, 0, :, 1:].ravel(), around[2, 0, :, :-1].ravel())[0, 1] > 0.99


def test_stamps_of_another_survey_are_trained_on_and_leave_the_split_as_it_was(folder, examples, tmp_path):
    """Theirs were sent in another geometry and are cut anew; they are not among validation and test."""
    write_stamps(
        tmp_path / "x.stamps.avro", some_stamps(12, seed=9, geometry=Geometry(16, 2, 0.4), survey="ast3")
    )
    with_them = read_examples([folder, tmp_path], recipe_of(also=("ast3",)))
    is_theirs = with_them.facts["survey"] == "ast3"
    assert is_theirs.sum() == 12
    assert with_them.pixel_scale == (0.4, 1.0)
    parts = with_them.parts(0, also=("ast3",))
    assert not parts[is_theirs].any()
    np.testing.assert_array_equal(parts[~is_theirs], examples.parts(0))
    pixels = next(some_stamps(1, seed=9)).original.planes["science"]
    cutout = encode_cutouts({"science": pixels[None]}, Geometry(8, 4, 0.4), [Placement.at(31, 31)])[0]
    group = next(iter(decode_batch([cutout.to_record()])))
    first = with_them.values[np.flatnonzero(is_theirs)[0], 0]
    np.testing.assert_array_equal(first, tensors_of(group, ("science",)).values[0, 0])


def test_whole_and_averaged_originals(tmp_path):
    stamp = next(some_stamps(1))
    pixels = stamp.original.planes["science"].copy()
    pixels[:4, :4] = np.nan
    write_stamps(
        tmp_path / "x.stamps.avro",
        [next(some_stamps(1, original=Original({"science": pixels}, 31, 31), label="VS"))],
    )
    whole = read_examples(
        [tmp_path], recipe_of(layout="whole", size=31, n_levels=1, planes=("science",), normalization="paper")
    )
    middle = pixels[16:47, 16:47]
    low, high = np.abs(middle).min(), np.percentile(np.abs(middle), 99)
    expected = np.clip((middle - low) / (high - low + 1e-8), -2, 2)
    np.testing.assert_allclose(whole.values[0, 0, 0], expected, atol=1e-4)
    coarse = read_examples(
        [tmp_path], recipe_of(layout="low-resolution", size=16, n_levels=1, planes=("science",))
    )
    assert coarse.valid.sum() == 255
    blocks = np.array([pixels[4:8, :4].mean(), pixels[60:, 60:].mean()])
    values = np.sinh(coarse.values[0, 0, 0].astype(float))
    spread = np.nanmean(pixels[20:24, 20:24]) - blocks[0]  # of one scale and one zero point
    assert (values[15, 15] - values[1, 0]) / (values[5, 5] - values[1, 0]) == pytest.approx(
        (blocks[1] - blocks[0]) / spread, rel=1e-3
    )


def test_what_is_left_out_is_counted(tmp_path):
    kinds = [
        {}, {"is_weak": True}, {"survey": "lsst"}, {"subtype": "injected"}, {"is_random": False},
        {"cut": "edge"}, {"branch": "qip"}, {"original": None},
    ]  # fmt: skip
    stamps = [next(some_stamps(1, seed=i, **more)) for i, more in enumerate(kinds)]
    write_stamps(tmp_path / "x.stamps.avro", stamps)
    recipe = recipe_of(layout="cut", detections="random", without_subtypes=("injected",), branches=("",))
    examples = read_examples([tmp_path], recipe)
    assert examples.facts["stamp_id"].tolist() == ["0-0"]
    assert examples.left_out == {
        "weak label": 1, "another survey": 1, "subtype injected": 1, "not the random detection": 1,
        "cut by the pipeline": 1, "another branch": 1, "no original": 1,
    }  # fmt: skip


def test_real_or_bogus_is_made_of_the_six_classes(folder):
    examples = read_examples([folder], recipe_of(task="real-bogus"))
    assert examples.labels[:6].tolist() == [1, 1, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"size": 16}, "a packet of 4 levels of 8 pixels, expected 4 of 16"),
        ({"layout": "cut", "planes": ("science", "score")}, "score is expected too"),
        ({"layout": "whole", "size": 91, "n_levels": 1}, "an original of 63 pixels a side, expected 91"),
        ({"planes": ("score",)}, "no stamp of ztf is left: 420 a plane is missing"),
        ({"surveys": ("lsst",)}, "no stamp of lsst is left: 420 another survey"),
    ],
)
def test_stamps_that_do_not_do_are_refused(folder, more, said):
    with pytest.raises(ConfigError, match=said):
        read_examples([folder], recipe_of(**more))


def test_a_folder_without_stamps_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"no file \*.stamps.avro"):
        read_examples([tmp_path], recipe_of())


# training


@pytest.fixture(scope="module")
def examples(folder):
    return read_examples([folder], recipe_of())


def test_a_seed_gives_the_same_weights_again_and_another_others(examples):
    parts = examples.parts(0)
    recipe = recipe_of(iterations=6, evaluate_every=3, noise=0.1)
    torch.manual_seed(77)
    before = torch.random.get_rng_state()
    first, again, other = (
        train_member(recipe, examples, parts, seed=s).network.state_dict() for s in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classes.weight"], other["classes.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's own numbers go on


def test_classes_are_equally_likely_in_a_batch(examples):
    rows = np.concatenate([np.flatnonzero(examples.labels == 0)[:3], np.flatnonzero(examples.labels > 0)])
    drawn = _batch(recipe_of(batch_size=6000), examples, rows, np.random.default_rng(0))
    counts = np.bincount(examples.labels[drawn], minlength=6)
    assert counts.sum() == 6000
    assert counts.min() > 850
    natural = _batch(recipe_of(batch_size=6000, balanced=False), examples, rows, np.random.default_rng(0))
    assert np.bincount(examples.labels[natural], minlength=6)[0] < 150


def test_patience_ends_a_training_and_the_best_weights_are_kept(examples):
    parts = examples.parts(0)
    recipe = recipe_of(iterations=200, evaluate_every=5, patience=2, schedule="constant")
    member = train_member(recipe, examples, parts, seed=3)
    f1 = [step.f1 for step in member.steps]
    assert len(f1) < 40
    assert max(f1) == f1[-3]  # two without a better one after it
    rows = np.flatnonzero(parts == 1)
    said = logits_of(member.network, examples, rows).argmax(axis=1)
    assert class_scores(confusion(examples.labels[rows], said, 6)).macro_f1 == max(f1)


@pytest.mark.parametrize(
    ("size", "widths"), [(12, (4, 6, 8)), (12, (4, 6)), (20, (2, 4, 6)), (16, (2, 4, 6, 8))]
)
def test_any_size_of_levels_has_a_network_and_levels_are_fused_where_they_can_be(size, widths):
    net = unsettled(MultiScaleNet(6, 3, size, 6, widths=widths))
    assert net.fuses == (size % 2 ** len(widths) == 0)
    stamps = torch.randn(2, 6, 3, size, size)
    with torch.inference_mode():
        said = net(stamps)
        np.testing.assert_allclose(net(stamps.flip(-1)), said, atol=1e-4)
    assert said.shape == (2, 6)


def test_a_device_is_chosen_by_name_and_one_that_is_not_there_is_refused(examples):
    there = torch.cuda.device_count()
    assert device_of("auto").type == ("cuda" if there else "cpu")
    assert device_of("cpu").type == "cpu"
    for name in ("tpu", "mps", "cpu0", f"cuda:{there}"):
        with pytest.raises(ConfigError, match=name):
            device_of(name)
    with pytest.raises(ConfigError, match="GPUs"):
        train_member(recipe_of(), examples, examples.parts(0), seed=1, device=f"cuda:{there}")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_network_trained_on_a_gpu_comes_back_and_repeats_itself(examples):
    parts = examples.parts(0)
    recipe = recipe_of(iterations=40, evaluate_every=10)
    first, again = (train_member(recipe, examples, parts, seed=1, device="cuda") for _ in range(2))
    weights = first.network.state_dict()
    assert {tensor.device.type for tensor in weights.values()} == {"cpu"}
    assert all(torch.equal(weights[k], v) for k, v in again.network.state_dict().items())
    assert first.steps[-1].loss < first.steps[0].loss


def test_a_class_that_is_missing_is_named(examples):
    parts = examples.parts(0)
    parts[(examples.labels == 3) & (parts == 1)] = 0
    with pytest.raises(ConfigError, match="no satellite among the validation stamps"):
        train_member(recipe_of(), examples, parts, seed=1)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A model made by the command, its folder and what the command printed."""
    made = tmp_path_factory.mktemp("model")
    recipe = made / "small.toml"
    recipe.write_text(
        'name = "small"\ntask = "stamps"\nsurveys = ["ztf"]\nsize = 8\nn_levels = 4\niterations = 60\n'
        "evaluate_every = 20\nbatch_size = 48\nuses_position = true\n"
        "options = { widths = [2, 4, 4], n_dense = 16 }\n"
    )
    done = run(app, ["train", str(recipe), str(folder), "-o", str(made), "--members", "2", "--seed", "5"])
    assert done.exit_code == 0, done.output
    return made, done.stdout


def test_the_command_makes_a_model_that_tells_the_classes(trained, folder, examples):
    made, said = trained
    classifier = load_classifier(made / "small.json")
    card = classifier.card
    assert card.n_members == 2
    assert card.recipe["seed"] == 5
    assert card.metrics["macro_f1"] > 0.85
    assert f"macro F1 {card.metrics['macro_f1']:.4f}" in said
    # as a user has it: packets in, classes out; the numbers are those of the card
    records = list(read_stamp_records(folder / "a.stamps.avro"))
    records += list(read_stamp_records(folder / "b.stamps.avro"))
    verdicts = classifier.classify(records)
    is_test = examples.parts(0) == 2
    is_right = verdicts.probabilities.argmax(axis=1) == examples.labels
    assert is_right[is_test].mean() == pytest.approx(card.metrics["accuracy"], abs=1e-4)
    assert card.data["counts"]["SN"] == [
        int(((examples.labels == 4) & (examples.parts(0) == p)).sum()) for p in range(3)
    ]
    (of,) = card.data["sets"]
    assert of == {"survey": "ztf", "seed": 3, "version": "0", "options": {"inject": 0}, "cells": 2}
    result = json.loads((made / "small.result.json").read_text())
    assert [member["seed"] for member in result["members"]] == [5, 6]


def test_the_weights_on_disk_are_those_of_the_onnx_model(trained, examples):
    made, _ = trained
    card = read_card(made / "small.json")
    networks = [build(Recipe.model_validate(card.recipe)) for _ in range(2)]
    export.load_networks(made / "small.json", networks)
    rows = np.arange(50)
    found = load_classifier(made / "small.json").logits(examples.inputs(rows), examples.position[rows])
    expected = np.stack([logits_of(network, examples, rows) for network in networks])
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_the_files_do_not_say_where_they_were_made(trained):
    made, _ = trained
    for suffix in (".onnx", ".safetensors", ".json", ".result.json"):
        content = (made / f"small{suffix}").read_bytes()
        for place in (str(made), str(Path(export.__file__).parents[2]), str(Path(torch.__file__).parent)):
            assert place.encode() not in content, suffix


def test_an_onnx_model_that_says_other_than_torch_is_refused(trained):
    made, _ = trained
    card = read_card(made / "small.json")
    others = [build(Recipe.model_validate(card.recipe)).eval() for _ in range(2)]
    with pytest.raises(ConfigError, match="ONNX and torch differ"):
        export._check(export.Ensemble(others).eval(), made / "small.json")


def test_weights_of_another_network_are_refused(trained, tmp_path):
    made, _ = trained
    with pytest.raises(ConfigError, match="not of this network"):
        export.load_networks(made / "small.json", [build(recipe_of(options={"widths": [2, 2, 2]}))])
    for suffix in (".json", ".safetensors"):
        (tmp_path / f"small{suffix}").write_bytes((made / f"small{suffix}").read_bytes())
    with (tmp_path / "small.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigError, match="not the weights"):
        export.load_networks(tmp_path / "small.json", [])


@pytest.mark.parametrize("network", ["orbit", "published"])
def test_other_networks_are_exported_too(examples, tmp_path, network):
    options = {"symmetry": "orbit", "widths": [2, 2, 2]} if network == "orbit" else {"name": "multi-scale-b"}
    recipe = recipe_of(
        iterations=1, evaluate_every=1, options=options, network="ours" if network == "orbit" else network
    )
    folder_of = tmp_path / "stamps"
    write_stamps(folder_of / "x.stamps.avro", some_stamps(60))
    card = make_model(recipe, [folder_of], tmp_path)  # compares ONNX with torch
    assert card.sha256.keys() == {"onnx", "safetensors"}


def test_a_command_that_cannot_be_carried_out_ends_with_2(folder, tmp_path):
    done = run(app, ["train", "nothing", str(folder), "-o", str(tmp_path)])
    assert done.exit_code == 2
    assert "stamps-ztf-4x8" in done.stderr
    done = run(app, ["train", "stamps-ztf-4x8", str(tmp_path), "-o", str(tmp_path)])
    assert done.exit_code == 2
    assert "no file *.stamps.avro" in done.stderr


# calibration


def card_of(**more):
    given = {
        "name": "m", "version": "1", "task": "stamps", "taxonomy": "stamps-6", "classes": tuple("abc"),
        "surveys": ("ztf",), "size": 8, "n_levels": 4, "pixel_scale": (1.0, 1.0), "planes": ("science",),
        "normalization": "noise", "uses_position": False, "n_parameters": 1, "priors": (1 / 3,) * 3,
    }  # fmt: skip
    return ModelCard(**(given | more))


def drawn(n, *, rates=(0.6, 0.3, 0.1), sharpness=1.0, seed=0):
    """Logits (1, n, 3) that are right at equal rates, ``sharpness`` times as large, and truths at ``rates``.

    x of class k is normal around unit vector k: log p(x | k) = 2 x_k + a term that all classes share, for
    a scatter of 1 / sqrt(2).
    """
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=rates)
    x = np.eye(3)[labels] + rng.normal(0, math.sqrt(0.5), (n, 3))
    return (sharpness * 2 * x)[None].astype(np.float32), labels


def test_the_temperature_of_logits_too_large_is_found_at_the_rates_of_the_data():
    logits, labels = drawn(20_000, sharpness=3.0)
    card = calibrated(card_of(), logits, labels)
    assert card.temperature == pytest.approx(3.0, rel=0.05)
    logits, labels = drawn(20_000, sharpness=3.0, seed=1)
    scores = measured(card, HeldOut(logits, labels, np.arange(len(labels)) // 100), n_draws=20)
    assert scores["ece_before"] > 0.1
    assert scores["ece"] < 0.015
    assert scores["macro_f1_95"][0] < scores["macro_f1"] < scores["macro_f1_95"][1]


def test_one_in_a_hundred_is_beyond_each_limit():
    logits, labels = drawn(5000)
    logits = np.concatenate([logits, logits + np.random.default_rng(2).normal(0, 0.3, logits.shape)])
    card = calibrated(card_of(n_members=2), logits.astype(np.float32), labels)
    answers = answers_of(logits.astype(np.float32), card)
    assert answers.is_out_of_distribution.sum() == pytest.approx(50, abs=1)
    assert (answers.spread > card.max_disagreement).sum() == pytest.approx(50, abs=1)


def test_the_least_confidence_halves_the_errors_or_cuts_a_tenth():
    confidence = np.linspace(0.01, 1, 100).astype(np.float32)
    is_right = np.ones(100, bool)
    assert least_confidence(confidence, is_right) == 0
    is_right[[1, 3, 50, 60]] = False  # of 96 left when four are cut, 2 are wrong: not yet half of 4 %
    assert least_confidence(confidence, is_right) == pytest.approx(confidence[10])
    is_right[50] = True  # of 3 %: with four cut, 1 of 96
    assert least_confidence(confidence, is_right) == pytest.approx(confidence[4])


def test_rates_are_those_of_the_labels_and_never_0():
    assert rates_of(np.array([0, 0, 2, 2]), 3) == pytest.approx((2.5 / 5.5, 0.5 / 5.5, 2.5 / 5.5))


# recipes


@pytest.mark.parametrize("path", sorted(recipes_folder().glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_recipe_can_be_built(path):
    recipe = load_recipe(path.stem)
    assert recipe.name == path.stem
    if recipe.network == "ours":
        assert n_parameters(build(recipe)) < 400_000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layout": "whole"}, "layout whole has one level"),
        ({"stream_priors": {"SN": 1.0}}, "expected a rate for each of AGN"),
        ({"learning_rte": 1.0}, "learning_rte"),
    ],
)
def test_a_recipe_that_does_not_hold_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        recipe_of(**change)


@pytest.mark.parametrize(
    "change",
    [{"network": "theirs"}, {"options": {"depth": 3}}, {"network": "published", "options": {"name": "x"}}],
)
def test_a_network_that_is_not_known_is_refused(change):
    with pytest.raises(ConfigError, match="network"):
        build(recipe_of(**change))


# real alerts


@pytest.mark.shared_data
def test_real_alerts_are_examples_too(tmp_path):
    paths = sorted((SHARED_DATA / "alerts" / "ztf").glob("*.avro"))
    labels = {path.stem: Label(("VS",), source="this test") for path in paths}
    label_alerts(paths, tmp_path, labels=labels)
    sent = read_examples([tmp_path], recipe_of())
    cut = read_examples([tmp_path], recipe_of(layout="cut", size=16, n_levels=3))
    assert len(sent) == len(cut) > 5
    assert not sent.left_out
    assert cut.inputs(np.arange(1)).shape == (1, 6, 3, 16, 16)
    net = unsettled(MultiScaleNet(6, 4, 8, 6))
    stamps = torch.from_numpy(sent.inputs(np.arange(len(sent))))
    logits = net(all_views(stamps)).detach().unflatten(0, (8, -1))
    assert (logits - logits[0]).abs().max() < 1e-5 * max(1.0, float(logits.abs().max()))
