"""The benchmarks of classification: what they count is right, and every question can be asked."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the gap is measured with scikit-learn (extra `train`)")
pytest.importorskip("onnx", reason="the models of these tests are written with it (extra `train`)")
pytest.importorskip("benchmarks.common", reason="benchmarks/ is not in the wheel")

from tiny_models import card_of, real_bogus, write_model

from benchmarks import common
from benchmarks.classification import clouds, gap, real_stamps, speed, stamps, transfer
from benchmarks.classification import real_bogus as real_bogus_benchmark
from benchmarks.classification.__main__ import main
from benchmarks.classification.gap_pixels import BELOW_NOISE, snr_of, statistics
from benchmarks.classification.judged import classifiers, facts_of, judge, scored
from multiscale import Geometry, decode_batch
from multiscale.avro import read_container
from multiscale.samples import write_samples
from reference_pipeline.classify.inference import load_classifier
from reference_pipeline.classify.metrics import class_scores, confusion
from reference_pipeline.classify.recipe import Recipe
from reference_pipeline.labelled.clouds import CloudThumbnails
from reference_pipeline.labelled.purity import Label
from reference_pipeline.labelled.real import label_alerts
from reference_pipeline.labelled.stamp import SUFFIX, Original, read_stamps, stamp_files, write_stamps

CLASSES = {
    "supernova": "SN", "asteroid": "asteroid", "satellite": "satellite", "variable star": "VS",
    "active nucleus": "AGN", "bogus": "bogus",
}  # fmt: skip
N = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labelled stamps of the shipped simulated sample alerts, by what their packets say they show."""
    out = tmp_path_factory.mktemp("samples")
    write_samples(out / "alerts.avro", n=N)
    records = list(read_container(out / "alerts.avro"))
    labels = {str(r["candid"]): Label((CLASSES[r["candidate"]["simulatedClass"]],)) for r in records}
    label_alerts([out / "alerts.avro"], out / "stamps", labels=labels)
    made = [s for file in stamp_files([out / "stamps" / "labelled"]) for s in read_stamps(file)]
    apart = [replace(s, exposure_id=f"e{i // 2}", field_id="", object_id=f"o{i}") for i, s in enumerate(made)]
    write_stamps(out / "apart" / f"0000{SUFFIX}", apart)
    return out / "apart"


@pytest.fixture(scope="module")
def sample(folder):
    """The same, read."""
    return [stamp for file in stamp_files([folder]) for stamp in read_stamps(file)]


def model(path, card, **recipe):
    """A tiny model whose card says how its stamps are prepared."""
    layout = {"surveys": card.surveys, "size": card.size, "n_levels": card.n_levels, "iterations": 1}
    whole = Recipe(name=card.name, task=card.task, planes=card.planes, **layout, **recipe)
    return write_model(path, card.model_copy(update={"recipe": whole.model_dump(mode="json")}))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    return {"stamps": model(path, card_of()), "real-bogus": model(path, real_bogus())}


def test_scores_are_those_of_what_is_said_and_lie_in_their_intervals(models, folder):
    judged = judge(load_classifier(models["stamps"]), [folder], detections="random")
    found = scored(judged, n_draws=60)
    said = judged.answers().probabilities.argmax(axis=1)
    matrix = confusion(judged.labels, said, 6)
    assert found["n"] == N
    assert found["confusion"] == matrix.tolist()
    assert found["macro_f1"][0] == pytest.approx(class_scores(matrix).macro_f1, abs=1e-4)
    share = np.array([[cell[0] for cell in row] for row in found["confusion_of_row"]])
    assert share.sum(axis=1) == pytest.approx(1, abs=1e-3)
    for value, low, high in (found["macro_f1"], found["accuracy"], found["brier"]):
        assert low <= value <= high
        assert low < high


def test_a_model_does_not_differ_from_itself_and_does_from_another(models, folder, tmp_path):
    judged = judge(load_classifier(models["stamps"]), [folder])
    same = stamps.compared(judged, judged, n_draws=20)
    assert same["macro_f1_difference"] == [0, 0, 0]
    assert same["mcnemar_p"] == 1
    other = judge(load_classifier(model(tmp_path, card_of("other", n_members=1))), [folder])
    shuffled = other.where(np.random.default_rng(1).permutation(N))
    found = stamps.compared(judged, shuffled, n_draws=20)
    assert found["n"] == N
    right = [(j.answers().probabilities.argmax(axis=1) == j.labels).sum() for j in (judged, other)]
    assert found["only_first_right"] - found["only_second_right"] == right[0] - right[1]


def test_a_thinned_curve_keeps_its_ends_and_its_few_best_points():
    rng = np.random.default_rng(2)
    is_real = rng.random(5000) < 0.5
    score = is_real + rng.normal(size=5000)
    found = real_bogus_benchmark.curve(is_real, score)
    assert (found["fnr"][0], found["fpr"][0]) == (1, 0)
    assert (found["fnr"][-1], found["fpr"][-1]) == (0, 1)
    assert len(found["fnr"]) <= 2 * real_bogus_benchmark.N_POINTS
    assert found["n_real"] + found["n_bogus"] == 5000
    assert np.all(np.diff(found["fnr"]) <= 0)


def test_purity_and_completeness_after_cuts(models, folder):
    judged = judge(load_classifier(models["real-bogus"]), [folder], with_cut=True)
    is_cut = np.arange(N) % 3 == 0
    found = real_bogus_benchmark.after_cut(judged, is_cut)
    is_real = judged.labels == 1
    assert found["score alone"][0] == [0.0, pytest.approx(is_real.mean(), abs=1e-4), 1.0]
    _, purity, completeness = found["after the pipeline's cuts"][0]
    assert completeness == pytest.approx((is_real & ~is_cut).sum() / is_real.sum(), abs=1e-4)
    assert purity == pytest.approx(is_real[~is_cut].mean(), abs=1e-4)
    completenesses = [row[2] for row in found["score alone"]]
    assert completenesses == sorted(completenesses, reverse=True)
    assert set(facts_of([folder], ("cut",))) == set(judged.facts["stamp_id"])


def test_stamps_cut_anew_are_those_that_the_converter_makes(sample):
    whole = [s for s in sample if s.cutout.clipped_by == "CUTOUT"]
    records = real_stamps.recut(whole, Geometry(8, 4, 1.012), transfer.PLANES)
    [mine], [theirs] = (decode_batch(r).groups for r in (records, [s.cutout.to_record() for s in whole]))
    assert len(whole) > 20
    for plane in transfer.PLANES:
        assert np.array_equal(mine.levels[plane], theirs.levels[plane], equal_nan=True)
    [moved] = decode_batch(real_stamps.recut(whole, Geometry(8, 4, 1.012), transfer.PLANES, (-1, 0))).groups
    assert np.array_equal(moved.levels["science"][:, 0, :, 1:], mine.levels["science"][:, 0, :, :-1])


def test_the_trivial_baseline_says_one_class():
    assert transfer.majority_f1(np.array([0, 0, 0, 1]), 2) == pytest.approx((6 / 7 + 0) / 2)


def noise_stamp(stamp, rng, *, smooth=0.0, flux=400.0, dx=0.0):
    """A stamp of white (or smoothed) noise with a Gaussian source of σ 1.3 pixels in the middle."""
    from scipy.ndimage import gaussian_filter

    y, x = np.mgrid[:63, :63] - 31
    source = flux * np.exp(-(y**2 + (x - dx) ** 2) / (2 * 1.3**2)) / (2 * np.pi * 1.3**2)
    planes = {}
    for kind in ("science", "template", "difference"):
        noise = rng.normal(size=(63, 63))
        noise = gaussian_filter(noise, smooth) if smooth else noise
        planes[kind] = (100 * (kind != "difference") + 3 * noise / noise.std()).astype(np.float32)
        planes[kind] += (source * 3 * (kind != "template")).astype(np.float32)
    name = f"{rng.integers(1 << 60)}"
    return replace(
        stamp, original=Original(planes, 31.0, 31.0), exposure_id=name, field_id=name, object_id=name
    )


def test_statistics_are_what_was_put_in(sample):
    rng = np.random.default_rng(3)
    found = statistics(noise_stamp(sample[0], rng, dx=0.4))
    assert found["science: level, ADU"] == pytest.approx(100, abs=0.3)
    assert found["science: noise, ADU"] == pytest.approx(3, rel=0.05)
    assert found["science: correlation along x"] == pytest.approx(0, abs=0.06)
    assert found["difference: offset along x"] == pytest.approx(0.4, abs=0.06)
    assert found["difference: width"] == pytest.approx(1 / np.sqrt(1 / 1.3**2 + 1 / 4), rel=0.1)
    assert found["template's noise of the science's"] == pytest.approx(1, rel=0.06)
    smooth = statistics(noise_stamp(sample[0], rng, smooth=0.6))
    # of a Gaussian kernel s: exp(-1 / 4 s²) at one pixel
    assert smooth["template: correlation along x"] == pytest.approx(np.exp(-1 / (4 * 0.36)), abs=0.12)
    negative = statistics(noise_stamp(sample[0], rng, flux=-400.0))
    assert negative["difference: width"] == pytest.approx(found["difference: width"], rel=0.15)
    assert set(found) > BELOW_NOISE


def test_invalid_pixels_are_counted_and_an_empty_plane_is_not_measured(sample):
    stamp = noise_stamp(sample[0], np.random.default_rng(4))
    stamp.original.planes["science"][:, 50:] = np.nan
    stamp.original.planes["template"][:] = np.nan
    found = statistics(stamp)
    assert found["science: invalid"] == pytest.approx(13 / 63)
    assert found["template: invalid"] == 1
    assert np.isnan(found["template: width"])
    assert np.isnan(found["residual at stars, rms"])


def test_simulated_stamps_are_matched_in_snr_and_sign_and_none_twice(sample):
    rng = np.random.default_rng(5)
    real = [noise_stamp(sample[0], rng, flux=f) for f in (60, 200, -200)]
    simulated = [noise_stamp(sample[0], rng, flux=f) for f in (61, 199, 205, 5000, 195, 198, 201, -5000)]
    chosen = gap.matched(real, simulated)
    assert len({id(s) for s in chosen}) == len(chosen)
    ratios = [min(abs(np.log10(snr_of(s) / snr_of(r))) for r in real if snr_of(r) > 0) for s in chosen]
    assert max(ratios) <= gap.CALIPER
    assert 3 <= len(chosen) <= 4  # three of the bright one's six, and the faint one's


def test_what_differs_is_told_and_named_and_what_does_not_is_not(sample):
    rng = np.random.default_rng(6)
    a = [noise_stamp(sample[0], rng) for _ in range(60)]
    alike = [noise_stamp(sample[0], rng) for _ in range(90)]
    smooth = [noise_stamp(sample[0], rng, smooth=0.4) for _ in range(90)]
    for b, is_alike in ((alike, True), (smooth, False)):
        table = [statistics(s) for s in [*a, *b]]
        found = gap.of_class([*a, *b], table, len(a), full=False, n_draws=30)
        auc, low, high = found["auc"]["boosting, as a network sees"]
        assert low <= auc <= high
        if is_alike:
            assert 0.3 < auc < 0.7
        else:
            assert auc > 0.95
            assert "correlation" in found["statistics"][0]["name"]


def test_the_network_tells_packets_apart_that_differ(sample):
    pytest.importorskip("torch", reason="the network is a torch module (extra `train`)")
    from benchmarks.classification.gap_network import score

    is_real = np.array([s.label in ("SN", "AGN", "VS") for s in sample])  # they have a host or a star
    folds = np.arange(len(sample)) // 6 % 3
    found = score(sample, is_real, folds, epochs=12)
    assert gap.auc_of(is_real, found, np.arange(N), 20)[0] > 0.8


def test_clouds_are_counted_by_depth(tmp_path):
    n = 12
    rng = np.random.default_rng(7)
    depth = np.linspace(0, 0.6, n).astype(np.float32)
    pictures = np.where((depth >= 0.15)[:, None, None], 250, 5) + rng.integers(0, 5, (n, 256, 256))
    zeros = np.zeros(n, np.float32)
    words = np.array(["a"] * n)
    thumbnails = CloudThumbnails(
        words, words, np.array([f"f{i // 2}" for i in range(n)]), words, pictures.astype(np.uint8),
        np.ones((n, 256, 256), bool), depth, depth, words, zeros, words, zeros, zeros, zeros > 0,
        zeros.astype(np.int32), zeros,
    )  # fmt: skip
    card = card_of(
        "tiny-clouds", task="clouds", taxonomy="clouds", classes=("clear", "cloudy"), size=32, n_levels=1,
        planes=("thumbnail",), normalization="zscale", n_members=1,
    )  # fmt: skip
    path = write_model(tmp_path, card, weights=[[[-9, 9], [0, 0]]])  # the mean itself
    judged = clouds.judge_thumbnails(load_classifier(path), thumbnails)
    assert len(np.unique(judged.groups)) == 6
    found = clouds.by_cloud(judged)
    for row in found["by_depth"]:
        assert row["called_cloudy"][0] == (row["depth"][0] >= 0.15)
    assert sum(row["n"] for row in found["by_depth"]) == n
    both = clouds.joined([judged, judged])
    assert len(np.unique(both.groups)) == 12
    assert scored(both, n_draws=20)["accuracy"] == [1, 1, 1]


@pytest.fixture
def results(monkeypatch, tmp_path):
    """Results go to a folder of the test, and real stamps are the samples."""
    for module in (common, stamps, real_bogus_benchmark, transfer, gap, clouds):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return tmp_path / "results" / "classification"


def test_every_question_that_has_data_here_can_be_asked(results, monkeypatch, models, folder, sample):
    report = type("Report", (), {"reasons": {}})
    for module in (transfer, speed, gap):
        monkeypatch.setattr(module, "real_stamps", lambda: (tuple(sample), tuple(sample[:5]), report))
    monkeypatch.setattr(speed, "N_ALERTS", 300)
    tiny, rb = str(models["stamps"]), str(models["real-bogus"])
    for words in (
        ["stamps", "--data", str(folder), "--models", tiny],
        ["real_bogus", "--data", str(folder), "--models", rb],
        ["transfer", "--models", tiny],
        ["speed", "--models", tiny, rb],
    ):
        assert main(words) in (0, 1)  # the tiny models know nothing
        saved = json.loads((results / words[0] / "results.json").read_text())
        assert saved["requirements"]
        assert set(saved["models"]) <= {"tiny", "tiny-rb"}
    assert {p.name for p in results.rglob("*.png")} >= {
        "confusion.png", "reliability.png", "det.png", "examples.png", "mistakes-tiny.png"
    }  # fmt: skip
    assert max(p.stat().st_size for p in results.rglob("*.png")) < 60_000
    speeds = json.loads((results / "speed" / "results.json").read_text())
    assert speeds["models"]["tiny"]["raw"]["times_decoding"] > 1
    assert speeds["score_and_classes_seconds_40000"] > 0
    moved = json.loads((results / "transfer" / "results.json").read_text())["models"]["tiny"]
    assert len(moved["macro_f1_by_shift"]) == 4
    assert sum(row["n"] for row in moved["confident"].values()) == N


def test_a_question_that_needs_data_says_so(capsys):
    with pytest.raises(SystemExit):
        main(["stamps"])
    assert "--data" in capsys.readouterr().err


def test_a_model_is_not_asked_about_the_set_that_it_was_trained_on(tmp_path, folder):
    sets = [{"survey": "ztf", "seed": 20}]
    card = card_of()
    path = model(tmp_path, card.model_copy(update={"data": {**card.data, "sets": sets}}))
    (tmp_path / "set").mkdir()
    for seed, is_known in ((20, True), (21, False)):
        made = {"seed": seed, "set": {"survey": "ztf"}}
        (tmp_path / "set" / "set.json").write_text(json.dumps(made))
        if is_known:
            with pytest.raises(SystemExit, match="trained on the set of survey and seed ztf 20"):
                classifiers("stamps", [path], [tmp_path / "set"])
        else:
            assert len(classifiers("stamps", [path], [tmp_path / "set"])) == 1


def test_a_model_of_another_task_is_refused(models, folder):
    with pytest.raises(SystemExit, match="tiny-rb"):
        main(["stamps", "--data", str(folder), "--models", str(models["real-bogus"])])
