"""The search for a published network's settings (classify/search.py)."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="networks are torch modules (extra train)")

from reference_pipeline.classify.dataset import Examples, read_examples
from reference_pipeline.classify.networks.build import build
from reference_pipeline.classify.recipe import load_recipe
from reference_pipeline.classify.search import (
    _F1,
    Found,
    Range,
    Trial,
    paper_space,
    search,
    with_settings,
    write_found,
)
from reference_pipeline.classify.training import train_member
from reference_pipeline.errors import ConfigError
from reference_pipeline.labelled.real import label_alerts
from reference_pipeline.labelled.stamp import read_stamps, stamp_files, write_stamps

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
SETTINGS = {
    "filters_0": 9, "filters_1": 8, "filters_2": 7, "filters_3": 6, "hidden": 20, "learning_rate": 2e-3,
    "dropout": 0.25, "first_kernel": 5, "batch_norm": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, (1 / 16, 16)),  # at the lower end: as wide again below
        (16.0, (1, 256)),
        (4.0, (1, 16)),  # in the middle: as it is
        (16**0.09, (1 / 16, 16)),  # 9 % of the logarithmic range
        (16**0.11, (1, 16)),
        (16**0.89, (1, 16)),
        (16**0.91, (1, 256)),
    ],
)
def test_a_range_grows_where_the_best_is_within_a_tenth_of_its_end(value, expected):
    wider = Range(1, 16, 1e-6, 1e6).widened(value)
    assert (wider.low, wider.high) == pytest.approx(expected)


def test_linear_ranges_and_limits():
    dropout = Range(0.1, 0.9, 0.0, 0.99, is_log=False)
    assert dropout.widened(0.85) == replace(dropout, high=0.99)
    assert dropout.widened(0.15) == replace(dropout, low=0.0)
    assert dropout.widened(0.5) == dropout
    at_limit = replace(dropout, high=0.99)
    assert at_limit.widened(0.985) == at_limit  # nothing beyond: no other search for its sake


def test_the_space_is_what_the_paper_varies():
    recipe = load_recipe("published-multi-scale-b")
    space = paper_space(recipe)
    assert set(space) == {f"filters_{i}" for i in range(5)} | {"hidden", "learning_rate", "dropout"}
    table = dict.fromkeys(space, 0.0) | {
        "learning_rate": recipe.learning_rate,
        "dropout": 0.8478,
        "hidden": 69,
    }
    for i, n in enumerate((76, 18, 54, 28, 14)):
        table[f"filters_{i}"] = n
    assert all(limits.low < table[name] < limits.high for name, limits in space.items())
    with pytest.raises(ConfigError, match="only networks of Table 2"):
        paper_space(load_recipe("stamps-ztf-4x8"))


def test_settings_make_the_network_that_they_say():
    recipe = with_settings(load_recipe("published-multi-scale-a"), SETTINGS)
    assert recipe.learning_rate == 2e-3
    network = build(recipe)
    assert [m.out_channels for m in network.convolutions if hasattr(m, "out_channels")] == [9, 8, 7, 6]
    assert network.convolutions[0].kernel_size == (5, 5)
    assert network.hidden.out_features == 20
    assert network.dropout.p == 0.25
    assert network.norm.num_features == 6 * 64 + 3


def test_what_was_found_is_a_recipe_that_can_be_trained_with(tmp_path):
    recipe = load_recipe("published-multi-scale-a")
    trials = (Trial(SETTINGS, 0.8, 500), Trial(SETTINGS | {"hidden": 21}, 0.7, 100))
    found = Found(with_settings(recipe, SETTINGS), ((paper_space(recipe), trials),))
    again = load_recipe(str(write_found(found, tmp_path / "out")))
    assert again == found.recipe.model_copy(update={"name": "published-multi-scale-a-searched"})
    kept = json.loads((tmp_path / "out" / f"{again.name}.search.json").read_text())
    assert [trial["settings"] for trial in kept[0]["trials"]] == [trial.settings for trial in trials]
    assert kept[0]["ranges"]["hidden"]["high"] == 256


def blobs(n, seed=0):
    """Examples of six classes that differ by how bright and how wide they are, in twenty groups."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 6
    y, x = np.mgrid[:8, :8] - 3.5
    width = (1 + labels % 3)[:, None, None]
    images = np.exp(-(x**2 + y**2) / (2 * width**2)) * np.where(labels < 3, 1, -1)[:, None, None]
    values = images[:, None, None] + rng.normal(0, 0.1, (n, 3, 4, 8, 8))
    position = np.tile([0.0, 0.0, 1.0], (n, 1))
    return Examples(
        values.astype(np.float32), np.ones(values.shape, bool), position.astype(np.float32),
        labels.astype(np.int64), (np.arange(n) // 6 % 20).astype(np.int64), (1.0, 1.0), {}, {},
    )  # fmt: skip


def small(**more):
    recipe = load_recipe("published-multi-scale-a")
    given = {"iterations": 20, "evaluate_every": 10, "patience": 1, "batch_size": 24}
    return recipe.model_copy(update=given | more)


def test_the_lines_that_training_says_are_understood():
    recipe, examples, lines = with_settings(small(), SETTINGS), blobs(240), []
    parts = examples.parts(recipe.split_seed)
    member = train_member(recipe, examples, parts, seed=1, progress=lines.append)
    found = [_F1.search(line).groups() for line in lines]
    assert [(int(i), float(f1)) for i, f1 in found] == [(s.iteration, round(s.f1, 4)) for s in member.steps]


@pytest.mark.slow
@pytest.mark.shared_data
def test_a_search_on_real_alerts_widens_its_ranges_and_repeats_itself(tmp_path):
    """Mechanics on real pixels: hints are taken for labels here, which no shipped model does."""
    pytest.importorskip("ray", reason="the search is Ray Tune's (extra tune)")
    pytest.importorskip("hyperopt", reason="the search is HyperOpt's (extra tune)")
    label_alerts([SHARED_DATA / "ztf_labelled"], tmp_path / "hints")
    stamps = [s for f in stamp_files([tmp_path / "hints" / "labelled"]) for s in read_stamps(f)]
    (tmp_path / "stamps").mkdir()
    taken = [replace(s, is_weak=False) for s in stamps]
    write_stamps(tmp_path / "stamps" / "all.stamps.avro", taken)

    recipe = small(split_seed=2, iterations=8, evaluate_every=4)
    examples = read_examples([tmp_path / "stamps"], recipe)
    few = Range(2, 8, 1, 1024, is_whole=True)
    narrow = {name: few if "filters" in name else limits for name, limits in paper_space(recipe).items()}
    narrow["hidden"] = Range(8, 9, 2, 4096, is_whole=True)  # each at an end
    runs = []
    for name in ("one", "two"):
        said = []
        found = search(
            recipe, examples, tmp_path / name, n_trials=2, n_rounds=2, space=narrow, progress=said.append
        )
        runs.append([trial for _, trials in found.rounds for trial in trials])
        assert said[0].startswith("round 1: F1 ")
        assert found.best.f1 == max(trial.f1 for trial in runs[-1])
        assert with_settings(recipe, found.best.settings) == found.recipe
        for space, trials in found.rounds:
            assert len(trials) == 2
            for trial in trials:
                assert all(limits.low <= trial.settings[k] <= limits.high for k, limits in space.items())
    assert runs[0] == runs[1]
    (first, trials), (second, _) = found.rounds
    assert first == narrow
    assert second["hidden"] == narrow["hidden"].widened(trials[0].settings["hidden"])
    assert second["hidden"].high - second["hidden"].low > 1
