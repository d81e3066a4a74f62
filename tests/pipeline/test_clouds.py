"""Clouds: thumbnails and labels, what a network sees of a frame, the shipped network, a night with it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import gaussian_filter
from small_night import write_small_night
from typer.testing import CliRunner

from reference_pipeline.classify.card import ModelCard, shipped_cards
from reference_pipeline.classify.thumbnails import chosen_model, cloud_network, network_input, shipped_model
from reference_pipeline.cli import app
from reference_pipeline.config import Calibrate
from reference_pipeline.errors import ConfigError, FileError, PixelError
from reference_pipeline.frame import Exposure, Frame, MaskBit
from reference_pipeline.labelled import clouds
from reference_pipeline.raw import RawFrame
from reference_pipeline.reduce.calibrate import calibrate
from reference_pipeline.reduce.masters import Masters
from reference_pipeline.simulate.atmosphere import Conditions, at_rows, cloud_depth, transmission
from reference_pipeline.simulate.exposure import expose
from reference_pipeline.simulate.optics import make_wcs
from reference_pipeline.simulate.sky import Sky, SkyConfig
from reference_pipeline.simulate.telescope import load_telescope
from reference_pipeline.simulate.truth import FrameTruth

IMAGES = Path(__file__).parents[3] / "shared" / "data" / "images"
SCIENCE = Exposure("f", "ast3", "science", 60000.0, 60.0, "g", 150.0, 40.0, 1.3)
SKY = Sky(3, SkyConfig(faint_limit=15.0, variable_faint=15.0))


def wide_frame(seed, **conditions):
    """A calibrated frame of AST3's whole field in coarse pixels, and its truth."""
    telescope = clouds.coarse_telescope("ast3", 40)
    scene = SKY.scene(150.0, 40.0, 1.2, SCIENCE.mid_mjd, "g", 60.0)
    air = Conditions(**{"sky_brightness": 20.5, **conditions})
    raw, truth = expose(scene, telescope, SCIENCE, air, np.random.default_rng(seed))
    frame = RawFrame(SCIENCE, raw, fits.Header())
    return calibrate(frame, Masters(), camera=telescope.detector.camera, config=Calibrate()), truth


def plain_frame(data, mask=None):
    data = np.asarray(data, np.float32)
    mask = np.zeros(data.shape, np.uint16) if mask is None else mask
    return Frame(SCIENCE, data, np.ones_like(data), mask)


# --- what is simulated ---


def test_a_coarse_telescope_sees_the_same_field_and_light():
    fine, coarse = load_telescope("ztf"), clouds.coarse_telescope("ztf", 6)
    sides = [t.detector.shape[0] * t.detector.camera.pixel_scale for t in (fine, coarse)]
    assert sides[1] == pytest.approx(sides[0], rel=0.002)
    scene = replace(SKY, config=SkyConfig(faint_limit=8.0)).scene(150.0, 40.0, 0.01, 60000.0, "g", 30.0)
    exposure = replace(SCIENCE, camera="ztf", exposure_time=30.0)
    air = Conditions(sky_brightness=20.0)
    skies = [
        expose(scene, t, exposure, air, np.random.default_rng(1))[1].sky
        for t in (load_telescope("ztf", (96, 96)), coarse)
    ]
    assert skies[1] == pytest.approx(36 * skies[0], rel=1e-6)
    wells = [t.detector.full_well / t.detector.camera.gain for t in (fine, coarse)]
    assert wells[0] == pytest.approx(wells[1])  # as many ADU at the full well


def test_the_cloud_over_a_frame_is_what_was_drawn():
    air = Conditions(cloud="patchy", cloud_depth=1.2, extinction=0.2, zenith_angle=30.0)
    shape = (300, 400)
    wcs = make_wcs(load_telescope("ast3").optics, 150.0, 40.0, 0.0, shape)
    field = (300 * 0.41 / 3600, 400 * 0.41 / 3600)
    passing = transmission(air, 1.3, field, np.random.default_rng(5))
    truth = FrameTruth(SCIENCE, shape, np.zeros(shape, np.uint16), None, conditions=air, wcs=wcs,
                       transmission=passing)  # fmt: skip
    drawn = cloud_depth(air, field, np.random.default_rng(5))
    assert np.ptp(drawn) > 0
    assert clouds.cloud_over(truth) == pytest.approx(drawn, abs=1e-6)
    with pytest.raises(ValueError, match="no air"):
        clouds.cloud_over(replace(truth, conditions=None))


def test_cloud_hides_the_sky_or_lights_it_up():
    frames = {}
    for light in (1.0, 0.3, 3.0):
        frame, truth = wide_frame(8, cloud="patchy", cloud_depth=1.5, cloud_light=light)
        frames[light] = frame.data
    passing = 10 ** (-0.4 * clouds.cloud_over(truth))
    assert np.ptp(passing) > 0.5
    passing = at_rows(passing, frame.shape, slice(0, len(frame.data)))
    for light in (0.3, 3.0):
        expected = passing + (1 - passing) * light
        found = frames[light] / frames[1.0]
        assert np.median(np.abs(found / expected - 1)) < 0.04  # of the bias's slope, 1 to 4 % of the sky
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two small fields of two frames."""
    folder = tmp_path_factory.mktemp("thumbnails")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clouds, "TURNS", (("ztf", False),))
        patch.setattr(clouds, "SMALL", (260, 300))
        clouds.simulate_thumbnails(folder, seed=4, n_fields=2, n_frames=2)
        first = {p.name: p.read_bytes() for p in folder.iterdir()}
        kept, gone = sorted(folder.iterdir())
        gone.unlink()
        before = kept.stat().st_mtime_ns
        clouds.simulate_thumbnails(folder, seed=4, n_fields=2, n_frames=2)
        assert kept.stat().st_mtime_ns == before
    return folder, first


def test_thumbnails_come_again_from_their_seed(made):
    folder, first = made
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == first
    found = clouds.read_thumbnails([folder])
    assert len(found) == 4
    assert sorted(set(found.field)) == ["ztf-small-4-0000", "ztf-small-4-0001"]
    assert len(set(found.id)) == 4
    assert found.pictures.shape == (4, 256, 256)
    assert (found.depth[found.kind == "none"] == 0).all()
    assert found.labels.tolist() == [int(depth >= 0.15) for depth in found.depth]


def test_what_are_no_thumbnails_is_refused(made, tmp_path):
    folder, _ = made
    with pytest.raises(FileError, match=r"no file \*.clouds.npz"):
        clouds.read_thumbnails([tmp_path])
    name = "ztf-small-4-0000.clouds.npz"
    whole = (folder / name).read_bytes()
    for content in (whole[: len(whole) // 2], b"nothing of the kind"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError) as caught:
            clouds.read_thumbnails([tmp_path])
        assert caught.value.reason == "not-labelled"


# --- what a network sees ---


def test_blocks_are_means_of_the_cells_that_are_seen():
    pictures, seen = np.zeros((2, 256, 256), np.uint8), np.ones((2, 256, 256), bool)
    pictures[0, :4, :4], pictures[1] = 255, 51
    pictures[0, 4:8, :4] = np.array([[100] * 4] * 2 + [[200] * 4] * 2)
    seen[0, 6:8, :4] = False
    seen[1, -4:] = False
    values, valid = network_input(pictures, seen, 64)
    assert (values.shape, valid.shape, values.dtype) == ((2, 1, 1, 64, 64),) * 2 + (np.float32,)
    assert values[0, 0, 0, 0, 0] == 1.0
    assert values[0, 0, 0, 1, 0] == pytest.approx(100 / 127.5 - 1)
    assert values[0, 0, 0, 5, 5] == -1.0
    assert values[1, 0, 0, 0, 0] == pytest.approx(-0.6)
    assert not valid[1, 0, 0, -1].any()
    assert (values[1, 0, 0, -1] == 0).all()
    assert valid.sum() == 2 * 64 * 64 - 64
    with pytest.raises(ValueError, match="divisor"):
        network_input(pictures, seen, 60)


# --- training ---


def painted(n_fields, rng):
    """Thumbnails with blotches (cloudy) and without, ten a field."""
    n = 10 * n_fields
    y, x = np.mgrid[:256, :256] / 256
    cloudy = np.arange(n) % 2
    pictures = rng.normal(128, 30, (n, 256, 256)) + 60 * (x - y) * rng.uniform(-1, 1, (n, 1, 1))
    for k in np.flatnonzero(cloudy):
        blotches = gaussian_filter(rng.normal(size=(256, 256)), 25, mode="wrap")
        pictures[k] += 70 * blotches / blotches.std()
    text = np.full(n, "ast3")
    number = np.zeros(n, np.float32)
    return clouds.CloudThumbnails(
        np.array([f"f{k}" for k in range(n)]), text, np.array([f"F{k // 10}" for k in range(n)]), text,
        np.clip(pictures, 0, 255).astype(np.uint8), np.ones((n, 256, 256), bool),
        cloudy.astype(np.float32), cloudy.astype(np.float32), np.where(cloudy, "patchy", "none"),
        number + 2, np.full(n, "dark"), number, number + 1, np.ones(n, bool), np.arange(n), number + 1,
    )  # fmt: skip


def test_a_network_is_trained_calibrated_and_run_without_torch(tmp_path):
    pytest.importorskip("torch")
    from reference_pipeline.classify.clouds import make_cloud_model
    from reference_pipeline.classify.recipe import load_recipe

    rng = np.random.default_rng(9)
    clouds.write_thumbnails(tmp_path / "painted.clouds.npz", painted(20, rng))
    recipe = load_recipe("clouds-small").model_copy(
        update={"size": 32, "n_members": 1, "iterations": 160, "evaluate_every": 20, "batch_size": 24}
    )
    card = make_cloud_model(recipe, [tmp_path], tmp_path / "model")
    assert card.metrics["accuracy"] > 0.9
    assert card.metrics["cloudy_by_depth"][0]["called_cloudy"] <= 2
    assert (
        card.data["counts"]["cloudy"][2] == card.metrics["confusion"][1][0] + card.metrics["confusion"][1][1]
    )
    network = cloud_network(tmp_path / "model" / "clouds-small.json")
    x = np.arange(512) / 512
    noise = rng.normal(0, 5, (512, 512))
    blotches = gaussian_filter(rng.normal(size=(512, 512)), 50, mode="wrap")
    clear = network(plain_frame(1000 + 10 * x + noise))
    cloudy = network(plain_frame(1000 + noise + 12 * blotches / blotches.std()))
    assert 0 <= clear < 0.5 < cloudy <= 1
    with pytest.raises(ConfigError, match="for clouds"):
        make_cloud_model(recipe.model_copy(update={"task": "stamps"}), [tmp_path], tmp_path / "other")
    with pytest.raises(ConfigError, match="divisor"):
        make_cloud_model(recipe.model_copy(update={"size": 60}), [tmp_path], tmp_path / "other")


@pytest.mark.parametrize("name", ["clouds-small", "clouds-resnet18"])
def test_shipped_recipes_build_networks_of_the_size_they_say(name):
    torch = pytest.importorskip("torch")
    from reference_pipeline.classify.networks.build import build, n_parameters
    from reference_pipeline.classify.recipe import load_recipe

    network = build(load_recipe(name)).eval()
    assert n_parameters(network) == {"clouds-small": 22226, "clouds-resnet18": 11240098}[name]
    with torch.inference_mode():
        stamps = torch.randn(2, 2, 1, 32, 32)
        logits = network(stamps, None)
        assert logits.shape == (2, 2)
        if name == "clouds-small":  # however the camera is turned
            assert torch.allclose(network(stamps.rot90(1, (-2, -1)).flip(-1), None), logits, atol=1e-5)


# --- the shipped network ---


@pytest.fixture(scope="module")
def shipped():
    """The shipped network, where there is one (docs/decisions/0011-clouds.md)."""
    if "clouds-small" not in shipped_cards():
        pytest.skip("no cloud network is shipped yet")
    return cloud_network("clouds-small")


def test_the_shipped_network_tells_cloud_from_a_moonlit_gradient(shipped):
    clear, cloudy = [], []
    for seed in (3, 8, 15, 37):  # with much cloud in the frame
        clear.append(shipped(wide_frame(seed, moon_gradient=0.08, moon_angle=90.0 * seed)[0]))
        frame, truth = wide_frame(seed, cloud="patchy", cloud_depth=2.0, cloud_light=3.0)
        assert np.ptp(clouds.cloud_over(truth)) > 1
        cloudy.append(shipped(frame))
    assert max(clear) < 0.5 < min(cloudy)


def test_a_frame_of_nothing_is_refused_and_a_dead_half_is_not(shipped):
    frame, _ = wide_frame(2)
    dead = np.full(frame.shape, MaskBit.BAD, np.uint16)
    with pytest.raises(PixelError) as caught:
        shipped(replace(frame, mask=dead))
    assert caught.value.reason == "no-pixels"
    dead[: len(dead) // 2] = 0
    assert 0 <= shipped(replace(frame, mask=dead)) <= 1


@pytest.mark.shared_data
def test_real_frames_get_a_score_that_turning_them_leaves(shipped):
    if not IMAGES.is_dir():
        pytest.skip("no real frames in ../shared/data")
    found = []
    for path in sorted(IMAGES.glob("rzellem*/HatP32*/*.FITS"))[:4]:
        data = fits.getdata(path).astype(np.float32)
        found.append([shipped(plain_frame(d)) for d in (data, data[::-1], np.rot90(data).copy())])
    assert len(found) == 4
    assert np.ptp(found, axis=1).max() < 0.1  # zscale samples other cells
    assert (np.array(found) >= 0).all()


def test_models_are_found_by_setting(shipped):
    card = shipped_cards()["clouds-small"]
    assert chosen_model("none", camera="ast3") is None
    assert chosen_model("auto", camera="some other").name == "clouds-small.json"
    assert chosen_model("clouds-small", camera="ast3").name == "clouds-small.json"
    with pytest.raises(ConfigError, match="not known"):
        chosen_model("clouds-of-yesterday", camera="ast3")
    own = card.model_copy(update={"name": "z", "surveys": ("huntsman",)})
    stamps = card.model_copy(update={"name": "a", "task": "stamps"})
    assert shipped_model((card, own, stamps), camera="huntsman") is own
    assert shipped_model((own, card, stamps), camera="unheard of") is card
    assert shipped_model((stamps,), camera="ast3") is None


def test_a_model_of_another_task_or_other_pictures_is_refused(shipped, tmp_path):
    folder = chosen_model("clouds-small", camera="ast3").parent
    (tmp_path / "m.onnx").write_bytes((folder / "clouds-small.onnx").read_bytes())
    card = ModelCard.model_validate_json((folder / "clouds-small.json").read_text())
    for change, words in (({"task": "stamps"}, "for stamps"), ({"normalization": "noise"}, "thumbnail")):
        changed = card.model_copy(update=change)
        path = tmp_path / f"m{len(words)}.json"
        path.with_suffix(".onnx").write_bytes((tmp_path / "m.onnx").read_bytes())
        path.write_text(changed.model_dump_json())
        with pytest.raises(ConfigError, match=words):
            cloud_network(path)


def test_looking_for_clouds_needs_no_torch(shipped):
    code = (
        "import sys; from reference_pipeline.classify.thumbnails import cloud_network; "
        "cloud_network('clouds-small'); "
        "sys.exit(str({'torch', 'onnx', 'sklearn'} & set(sys.modules)) if "
        "{'torch', 'onnx', 'sklearn'} & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- a night ---


def test_a_night_says_how_cloudy_its_frames_look(shipped, tmp_path):
    night = tmp_path / "night"
    write_small_night(night, size=(320, 360), variable_density=0.0, branches=("dip",))
    settings = (night / "reduce.toml").read_text()

    def scores(*lines):
        (night / "own.toml").write_text("\n".join([settings, *lines]))
        words = ["reduce", night / "raw", "-o", tmp_path / "out", "--config", night / "own.toml",
                 "--workers", 1, "--no-psf"]  # fmt: skip
        result = CliRunner().invoke(app, [str(word) for word in words])
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        frames = [f for f in report["frames"] if f["kind"] == "science"]
        return result, [f["quality"].get("cloud_score") for f in frames], {f["status"] for f in frames}

    result, found, status = scores()
    assert result.exit_code == 0, result.output
    assert len(found) == 3
    assert all(0 <= score < 0.5 for score in found)  # the weather is clear
    assert scores()[2] == {"unchanged"}
    _, found, status = scores("[classify]", 'clouds = "none"')
    assert found == [None] * 3
    assert status == {"calibrated"}
