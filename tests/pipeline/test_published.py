"""The two papers' networks, as published: sizes, symmetry, what they look at (classify/networks)."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks are torch modules (extra train)")

from reference_pipeline.classify.card import ModelCard  # noqa: E402
from reference_pipeline.classify.export import export_model  # noqa: E402
from reference_pipeline.classify.inference import load_classifier  # noqa: E402
from reference_pipeline.classify.networks.build import build  # noqa: E402
from reference_pipeline.classify.networks.published import TABLE_2, published  # noqa: E402
from reference_pipeline.classify.networks.real_bogus import RotationResNet  # noqa: E402
from reference_pipeline.classify.networks.resnet import CloudResNet  # noqa: E402
from reference_pipeline.classify.networks.views import all_views  # noqa: E402
from reference_pipeline.classify.recipe import load_recipe  # noqa: E402

torch.set_num_threads(1)


def stamps_of(name, n=3, seed=0):
    """Random stamps as the contract gives them, some pixels invalid, and positions."""
    architecture = TABLE_2[name]
    side = architecture.side + architecture.side % 2
    rng = np.random.default_rng(seed)
    shape = (n, 3, architecture.n_levels, side, side)
    valid = rng.uniform(size=shape) > 0.05
    if architecture.side % 2:
        valid[..., -1, :] = valid[..., :, -1] = False
    values = np.where(valid, rng.normal(size=shape), 0)
    position = rng.normal(size=(n, 3))
    position /= np.linalg.norm(position, axis=1, keepdims=True)
    channels = np.concatenate([values, valid], axis=1)
    return torch.tensor(channels, dtype=torch.float32), torch.tensor(position, dtype=torch.float32)


@pytest.fixture(params=list(TABLE_2))
def name(request):
    return request.param


@pytest.fixture
def network(name):
    torch.manual_seed(7)
    return published(name).eval()


COUNTED = {  # by hand from Table 2
    "full": 96_476,
    "cropped": 1_187_448,
    "low-resolution-a": 84_873,
    "low-resolution-b": 203_603,
    "multi-scale-a": 175_604,
    "multi-scale-b": 117_322,
}


def test_a_network_has_as_many_parameters_as_its_column_of_table_2(name, network):
    assert sum(p.numel() for p in network.parameters()) == COUNTED[name] == TABLE_2[name].n_parameters


def test_the_convolutions_end_in_maps_of_8_x_8_pixels(name, network):
    side = TABLE_2[name].side
    images = torch.zeros(1, 6 * TABLE_2[name].n_levels, side, side)
    assert network.convolutions(images).shape[-2:] == (8, 8)


def test_turned_and_mirrored_stamps_have_the_same_logits(name, network):
    stamps, position = stamps_of(name)
    stamps = stamps[..., : TABLE_2[name].side, : TABLE_2[name].side]
    with torch.no_grad():
        expected = network(stamps, position)
        for view in all_views(stamps).chunk(8):
            np.testing.assert_allclose(network(view, position), expected, rtol=0, atol=1e-5)


def test_shifted_stamps_have_other_logits(name, network):
    stamps, position = stamps_of(name)
    with torch.no_grad():
        difference = network(stamps.roll(2, -1), position) - network(stamps, position)
    assert difference.abs().max() > 1e-3


def test_planes_masks_every_level_and_the_position_are_looked_at(name, network):
    stamps, position = stamps_of(name)
    with torch.no_grad():
        expected = network(stamps, position)
        for channel in range(6):
            for level in range(TABLE_2[name].n_levels):
                other = stamps.clone()
                other[:, channel, level] = 1 - other[:, channel, level]
                assert (network(other, position) - expected).abs().max() > 1e-4, (channel, level)
        assert (network(stamps, -position) - expected).abs().max() > 1e-3


def test_the_eight_views_are_all_different_and_a_group():
    image = torch.arange(16.0).reshape(1, 4, 4)
    views = {tuple(view.flatten().tolist()) for view in all_views(image).chunk(8)}
    assert len(views) == 8
    assert {tuple(v.flatten().tolist()) for v in all_views(image.rot90(1, (-2, -1))).chunk(8)} == views
    np.testing.assert_array_equal(all_views(image)[1], image[0].rot90(1, (-2, -1)))


def test_the_last_row_and_column_of_an_odd_stamp_say_nothing():
    torch.manual_seed(1)
    network = published("full").eval()
    stamps, position = stamps_of("full")
    other = stamps.clone()
    other[..., -1, :] = other[..., :, -1] = 9
    with torch.no_grad():
        assert torch.equal(network(stamps, position), network(other, position))
        assert torch.equal(network(stamps[..., :63, :63], position), network(stamps, position))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="expected one of full, cropped"):
        published("fuller")
    stamps, position = stamps_of("full")
    with pytest.raises(ValueError, match="expected 63, or one more"):
        published("full")(stamps[..., :60, :60], position)
    with pytest.raises(ValueError, match="takes the position"):
        published("full")(stamps)
    with pytest.raises(ValueError, match="expected 31 or 91"):
        RotationResNet(63)


@pytest.mark.parametrize("side", [31, 91])
def test_each_rotation_of_a_real_bogus_stamp_gives_2048_values(side):
    torch.manual_seed(2)
    network = RotationResNet(side).eval()
    with torch.no_grad():
        features = network.pool(network.features(torch.randn(1, 4, side, side)))
        assert features.flatten(1).shape == (1, 2048)
        stamps = torch.randn(2, 8, 1, side + 1, side + 1)
        network.features.train()  # fresh statistics would leave hardly anything of the input
        logits = network(stamps, None)
        assert logits.shape == (2, 2)
        masked = stamps.clone()
        masked[:, 4:] = 0
        assert torch.equal(network(masked, None), logits)
        for plane in range(4):
            other = stamps.clone()
            other[:, plane] += torch.randn(other[:, plane].shape)
            assert (network(other, None) - logits).abs().max() > 1e-3


def test_the_rotations_of_the_real_bogus_network_are_put_in_turn():
    """A stamp turned by 90 degrees has the same features, one place further: what the head then learns."""
    torch.manual_seed(3)
    network = RotationResNet(31).eval()
    heads = []
    network.head.register_forward_pre_hook(lambda _, inputs: heads.append(inputs[0]))
    stamp = torch.randn(1, 8, 1, 31, 31)
    with torch.no_grad():
        network(stamp, None)
        network(stamp.rot90(1, (-2, -1)), None)
    turned = torch.cat([heads[0][:, 2048:], heads[0][:, :2048]], dim=1)
    np.testing.assert_allclose(heads[1], turned, rtol=0, atol=1e-5)


def test_resnet_18_has_18_weighted_layers_and_takes_any_thumbnail():
    network = CloudResNet().eval()
    convolutions = [m for m in network.features.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(m.kernel_size != (1, 1) for m in convolutions) == 17  # and the dense layer of the original
    assert [m.stride for m in convolutions if m.kernel_size == (1, 1)] == [(1, 1), (2, 2), (2, 2)]
    assert convolutions[0].kernel_size == (7, 7)
    assert convolutions[0].stride == (1, 1)
    with torch.no_grad():
        for side in (32, 64):
            assert network(torch.randn(2, 2, 1, side, side)).shape == (2, 2)


RATES = {"full": 7.589e-4, "cropped": 3.4627e-4, "low-resolution": 1.125e-3, "multi-scale": 7.445e-4}
DROPOUTS = {"full": 0.71726, "cropped": 0.866799, "low-resolution": 0.73065, "multi-scale": 0.8478}


def test_a_recipe_trains_the_network_as_the_paper_does(name):
    recipe = load_recipe(f"published-{name}")
    network = build(recipe)
    assert sum(p.numel() for p in network.parameters()) == COUNTED[name]
    scenario = name.removesuffix("-a").removesuffix("-b")
    assert recipe.learning_rate == RATES[scenario] == TABLE_2[name].learning_rate
    assert network.dropout.p == DROPOUTS[scenario]
    assert (recipe.optimizer, recipe.batch_size, recipe.balanced) == ("adam", 256, True)
    assert (recipe.evaluate_every, recipe.patience, recipe.schedule) == (500, 5, "constant")
    assert recipe.normalization == "paper"
    assert recipe.classes == ("AGN", "asteroid", "bogus", "satellite", "SN", "VS")
    assert (recipe.size, recipe.n_levels) == (TABLE_2[name].side, TABLE_2[name].n_levels)


@pytest.mark.parametrize(("branch", "side"), [("qip", 31), ("dip", 91)])
def test_the_recipes_of_the_real_bogus_network_fit_it(branch, side):
    recipe = load_recipe(f"published-real-bogus-{branch}")
    assert recipe.planes == ("difference", "template", "science", "score")
    assert build(recipe).side == recipe.size == side
    assert (recipe.learning_rate, recipe.decay, recipe.batch_size) == (0.01, 0.9, 256)


def test_what_the_search_varies_can_be_given():
    network = published(
        "multi-scale-a", filters=[8, 6, 5, 4], hidden=7, dropout=0.1, first_kernel=5, batch_norm=True
    )
    kernels = [m.weight.shape for m in network.convolutions if isinstance(m, torch.nn.Conv2d)]
    assert kernels == [(8, 24, 5, 5), (6, 8, 3, 3), (5, 6, 3, 3), (4, 5, 3, 3)]
    assert network.hidden.weight.shape == (7, 4 * 64 + 3)
    assert network.norm.num_features == 4 * 64 + 3
    assert network.dropout.p == 0.1
    with pytest.raises(ValueError, match="multi-scale-a has 4 convolutions"):
        published("multi-scale-a", filters=[8, 6])


def card_of(recipe, n_parameters):
    return ModelCard(
        name=recipe.name, version="0", task=recipe.task, taxonomy=recipe.taxonomy, classes=recipe.classes,
        surveys=recipe.surveys, size=recipe.size, n_levels=recipe.n_levels, pixel_scale=(1.0, 1.0),
        planes=recipe.planes, normalization=recipe.normalization, uses_position=recipe.uses_position,
        n_parameters=n_parameters, priors=[1 / len(recipe.classes)] * len(recipe.classes),
    )  # fmt: skip


@pytest.mark.parametrize(
    "which",
    [
        "full", "multi-scale-b",
        pytest.param("real-bogus-qip", marks=pytest.mark.slow),
        pytest.param("real-bogus-dip", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_exported_networks_say_what_torch_says(which, tmp_path):
    """export_model refuses an ONNX model that differs; its answers are compared once more here."""
    pytest.importorskip("onnxscript", reason="the extra `train` is not installed")
    torch.manual_seed(5)
    recipe = load_recipe(f"published-{which}")
    network = build(recipe).eval()
    card = card_of(recipe, sum(p.numel() for p in network.parameters()))
    export_model([network], card, tmp_path)
    rng = np.random.default_rng(2)
    stamps = rng.normal(size=(5, *card.shape)).astype(np.float32)
    position = rng.normal(size=(5, 3)).astype(np.float32) if recipe.uses_position else None
    found = load_classifier(tmp_path / f"{recipe.name}.json").logits(stamps, position)
    with torch.no_grad():
        expected = network(torch.tensor(stamps), None if position is None else torch.tensor(position))
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5)
