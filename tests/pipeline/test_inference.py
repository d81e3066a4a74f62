"""What models say of packets, with models that are a matrix: every number can be computed again by hand."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from tiny_models import PLANES, card_of, real_bogus, weights_of, write_model
from typer.testing import CliRunner

from multiscale import Geometry, decode_batch, read_alerts
from multiscale.avro import read_container, write_container
from multiscale.cli.app import app as multiscale_app
from multiscale.schema import load_schema
from multiscale.tensors import tensors_of
from multiscale.validate import check_file
from reference_pipeline.classify.card import ModelCard, read_card, write_card
from reference_pipeline.classify.choose import choose, find_model, named
from reference_pipeline.classify.inference import CONFIDENCE, answers_of, load_classifier
from reference_pipeline.classify.packets import classified
from reference_pipeline.cli import app
from reference_pipeline.errors import ConfigError
from reference_pipeline.taxonomy import STAMP_CLASSES

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "alerts" / "ztf"
N = 12
run = CliRunner().invoke


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Simulated ZTF alerts as packets of ours, embedded in their own, and as bare cutouts; all 8 x 8 x 4."""
    folder = tmp_path_factory.mktemp("packets")
    raw = folder / "ztf.avro"
    assert run(multiscale_app, ["sample", "-n", str(N), "-o", str(raw)]).exit_code == 0
    for form, name in (("alert", "alerts.avro"), ("embed", "embedded")):
        options = ["--size", "8", "--levels", "4", "--as", form, "-o", str(folder / name)]
        done = run(multiscale_app, ["convert", str(raw), *options])
        assert done.exit_code == 0, done.output
    found = {"alert": folder / "alerts.avro", "embed": next((folder / "embedded").glob("*.avro"))}
    cutouts = [record["cutout"] for record in records_of(found["alert"])]
    found["cutout"] = folder / "cutouts.avro"
    write_container(found["cutout"], load_schema("multiscale.Cutout"), cutouts)
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Paths of cards: of the six classes, with the position, and real/bogus."""
    folder = tmp_path_factory.mktemp("models")
    cards = [card_of(temperature=1.7), card_of("placed", uses_position=True, version="3"), real_bogus()]
    return {card.name: write_model(folder, card, seed=i) for i, card in enumerate(cards)}


def records_of(path):
    with read_container(path) as reader:
        return list(reader)


def by_hand(card, path, records, places=None):
    """Probabilities of members (M, n, K), in binary64, from the decoded stamps."""
    seed = {"tiny": 0, "placed": 1, "tiny-rb": 2}[card.name]
    channels, place = weights_of(card, seed)
    found = np.empty((card.n_members, len(records), len(card.classes)))
    for group in decode_batch(records):
        means = tensors_of(group, PLANES).channels().astype(float).mean(axis=(2, 3, 4))
        z = np.einsum("nc,mck->mnk", means, channels)
        if places is not None:
            z += np.einsum("nc,mck->mnk", places[group.indices], place)
        powers = np.exp(z / card.temperature)
        found[:, group.indices] = powers / powers.sum(axis=2, keepdims=True)
    return found


@pytest.mark.parametrize("form", ["alert", "embed", "cutout"])
def test_probabilities_are_those_of_the_formula_whatever_carries_the_cutout(files, models, form):
    classifier = load_classifier(models["tiny"])
    records = records_of(files[form])
    verdicts = classifier.classify(records)
    members = by_hand(classifier.card, models["tiny"], records)
    np.testing.assert_allclose(verdicts.probabilities, members.mean(axis=0), atol=2e-6)
    best = members.mean(axis=0).argmax(axis=1)
    np.testing.assert_allclose(verdicts.spread, members[:, np.arange(N), best].std(axis=0), atol=2e-6)
    assert verdicts.top() == [STAMP_CLASSES[i] for i in best]
    assert len(set(best)) > 1  # the weights tell these stamps apart
    assert verdicts.is_classified.all()
    assert not verdicts.refused
    assert verdicts.empty == ()


def test_position_is_the_unit_vector_of_the_detection(files, models):
    classifier = load_classifier(models["placed"])
    records = records_of(files["alert"])
    a, d = np.radians([[r["detection"]["ra"], r["detection"]["dec"]] for r in records]).T
    places = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)
    expected = by_hand(classifier.card, models["placed"], records, places).mean(axis=0)
    np.testing.assert_allclose(classifier.classify(records).probabilities, expected, atol=5e-6)
    given = classifier.classify([r["cutout"] for r in records], ra=np.degrees(a), dec=np.degrees(d))
    np.testing.assert_allclose(given.probabilities, expected, atol=5e-6)
    embedded = classifier.classify(records_of(files["embed"]))
    np.testing.assert_allclose(embedded.probabilities, expected, atol=5e-6)


def test_a_cutout_that_does_not_say_where_it_is_is_refused_by_a_model_that_must_know(files, models):
    cutouts = [{**cutout, "sky": None} for cutout in records_of(files["cutout"])]
    verdicts = load_classifier(models["placed"]).classify(cutouts)
    assert set(verdicts.refused) == set(range(N))
    assert "position" in str(verdicts.refused[0])
    assert not verdicts.is_classified.any()
    assert verdicts.classifications(0) == ()


def test_priors_change_the_odds_by_their_ratio(files, models):
    classifier = load_classifier(models["tiny"])
    records = records_of(files["alert"])
    rates = np.array([2, 1, 1, 5, 0, 1.0])
    before = classifier.classify(records).probabilities.astype(float)
    after = classifier.classify(records, priors=rates)
    weighted = before * rates
    np.testing.assert_allclose(
        after.probabilities, weighted / weighted.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6
    )
    assert (after.probability_of("SN") == 0).all()
    for wrong in ([1, 2], [1, 1, 1, 1, 1, -1], [0] * 6):
        with pytest.raises(ConfigError, match="priors"):
            classifier.classify(records, priors=wrong)


def test_more_records_than_one_chunk_give_the_same_as_each_alone(files, models):
    classifier = load_classifier(models["tiny"])
    records = records_of(files["alert"]) * 200
    verdicts = classifier.classify(records)
    alone = classifier.classify(records[:N])
    np.testing.assert_allclose(
        verdicts.probabilities.reshape(200, N, 6),
        np.broadcast_to(alone.probabilities, (200, N, 6)),
        atol=1e-6,
    )


def test_what_cannot_be_classified_is_named_and_the_rest_is(files, models):
    records = records_of(files["alert"])
    records[1] = {**records[1], "cutout": None}
    planes = records[2]["cutout"]["planes"]
    damaged = {**planes[0], "payload": planes[0]["payload"][:-1]}
    records[2] = {**records[2], "cutout": {**records[2]["cutout"], "planes": [damaged, *planes[1:]]}}
    records[3] = {**records[3], "cutout": {**records[3]["cutout"], "planes": planes[:1]}}
    records[4] = {"nothing": "here"}
    verdicts = load_classifier(models["tiny"]).classify(records)
    assert verdicts.empty == (1,)
    assert {i: error.reason for i, error in verdicts.refused.items()} == {
        2: verdicts.refused[2].reason, 3: "missing-plane", 4: "record",
    }  # fmt: skip
    assert verdicts.refused[2].reason in ("crc", "payload-size")
    assert np.flatnonzero(~verdicts.is_classified).tolist() == [1, 2, 3, 4]
    assert verdicts.top()[1:5] == [None] * 4


def test_a_model_of_another_geometry_refuses_and_says_what_it_takes(files, tmp_path):
    path = write_model(tmp_path, card_of(size=16, n_levels=2))
    verdicts = load_classifier(path).classify(records_of(files["alert"]))
    assert set(verdicts.refused) == set(range(N))
    assert "4 levels of 8 pixels" in str(verdicts.refused[0])
    assert "2 of 16" in str(verdicts.refused[0])


def test_stamps_of_another_pixel_scale_are_out_of_distribution(files, tmp_path):
    records = records_of(files["alert"])
    scale = records[0]["cutout"]["pixelScale"]
    near = load_classifier(write_model(tmp_path, card_of("near", pixel_scale=(1.1 * scale, 2 * scale))))
    far = load_classifier(write_model(tmp_path, card_of("far", pixel_scale=(1.2 * scale, 2 * scale))))
    assert not near.classify(records).is_out_of_distribution.any()
    assert far.classify(records).is_out_of_distribution.all()


def test_flags_follow_the_cards_limits():
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, (3, 400, 6)).astype(np.float32)
    plain = answers_of(logits, card_of(n_members=3, temperature=2.0))
    assert not plain.is_unsure.any()
    assert not plain.is_out_of_distribution.any()
    energy = -2.0 * np.log(np.exp(logits.astype(float) / 2.0).sum(axis=2)).mean(axis=0)
    np.testing.assert_allclose(plain.energy, energy, rtol=1e-6)
    limits = {"min_confidence": 0.4, "max_energy": float(np.median(energy)), "max_disagreement": 0.1}
    told = answers_of(logits, card_of(n_members=3, temperature=2.0, **limits), priors=[9, 1, 1, 1, 1, 1])
    expected = (plain.probabilities.max(axis=1) < 0.4) | (plain.spread > 0.1)
    np.testing.assert_array_equal(told.is_unsure, expected)  # of the training's rates, whatever the priors
    np.testing.assert_array_equal(told.is_out_of_distribution, energy > np.median(energy))
    assert 0 < expected.sum() < 400


def test_logits_so_large_that_their_powers_overflow_are_classified():
    answers = answers_of(np.array([[[1e4, -1e4, 0, 0, 0, 0.0]]], np.float32), card_of(n_members=1))
    assert answers.probabilities[0, 0] == 1.0
    assert answers.energy[0] == pytest.approx(-1e4)


def test_what_a_packet_carries_of_it(files, models):
    verdicts = load_classifier(models["placed"]).classify(records_of(files["alert"]))
    verdicts.is_unsure[0] = verdicts.is_unsure[1] = verdicts.is_out_of_distribution[1] = True
    classes, confidence = verdicts.classifications(0)
    assert (classes.classifier, classes.version, classes.taxonomy) == ("placed", "3", "stamps-6")
    assert [c.name for c in classes.classes] == list(STAMP_CLASSES)
    assert sum(c.probability for c in classes.classes) == pytest.approx(1, abs=1e-5)
    assert not classes.is_calibrated  # on simulated data alone
    assert confidence.classifier == "placed-confidence"
    assert {c.name: c.probability for c in confidence.classes} == dict(zip(CONFIDENCE, (0, 1, 0)))
    assert [verdicts.confidence(i) for i in range(3)] == ["unsure", "out-of-distribution", "confident"]


def test_a_model_that_is_written_again_is_read_again(files, tmp_path):
    records = records_of(files["alert"])
    first = load_classifier(write_model(tmp_path, card_of(), seed=1))
    assert load_classifier(tmp_path / "tiny.json") is first
    again = load_classifier(write_model(tmp_path, card_of(), seed=2))
    before, after = (c.classify(records).probabilities for c in (first, again))
    assert np.abs(before - after).max() > 0.01


# what is not a model


def test_a_changed_network_is_refused_with_what_was_found(tmp_path):
    path = write_model(tmp_path, card_of())
    network = path.with_suffix(".onnx")
    network.write_bytes(network.read_bytes() + b"\0")
    with pytest.raises(ConfigError, match=r"SHA-256 is [0-9a-f]{64}, its card says [0-9a-f]{64}"):
        load_classifier(path)
    network.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        load_classifier(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"planes": ("science",)}, "takes"),
        ({"uses_position": True}, "takes"),
        ({"n_members": 3}, "gives"),
        ({"classes": STAMP_CLASSES[:5], "priors": (0.2,) * 5}, "gives"),
    ],
)
def test_a_card_that_is_not_of_its_network_is_refused(tmp_path, change, said):
    path = write_model(tmp_path, card_of())
    write_card(path, ModelCard(**(read_card(path).model_dump() | change)))
    with pytest.raises(ConfigError, match=said):
        load_classifier(path)


def test_a_network_that_is_none_is_refused(tmp_path):
    path = write_model(tmp_path, card_of())
    path.with_suffix(".onnx").write_bytes(b"not a network")
    import hashlib

    sums = {"onnx": hashlib.sha256(b"not a network").hexdigest()}
    write_card(path, read_card(path).model_copy(update={"sha256": sums}))
    with pytest.raises(ConfigError, match="onnxruntime cannot use it"):
        load_classifier(path)


def test_a_name_that_is_not_shipped_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match="model 'nonsense' is not known; shipped: "):
        load_classifier("nonsense")


def test_a_model_of_another_task_is_refused(models):
    with pytest.raises(ConfigError, match="is for real-bogus, expected one for stamps"):
        named(str(models["tiny-rb"]), "stamps")


# which one


def test_the_cameras_own_model_is_preferred_then_the_one_with_most_planes_then_the_nearest_scale():
    cards = [
        card_of("other", surveys=("lsst",), pixel_scale=(1.0, 1.02)),
        card_of("own", surveys=("ztf", "ast3"), planes=("science", "difference")),
        card_of("own-three", surveys=("ztf",), pixel_scale=(0.6, 1.1)),
        card_of("own-nearer", surveys=("ztf",), pixel_scale=(0.95, 1.1)),
        card_of("large", size=16),
        real_bogus("rb"),
    ]
    geometry = Geometry(8, 4, 1.01)

    def name(planes=PLANES, camera="ztf", task="stamps", geometry=geometry):
        found = find_model(task, camera=camera, geometry=geometry, planes=planes, cards=cards)
        return found and found.name

    assert name() == "own-nearer"
    assert name(planes=("science", "difference", "score")) == "own"
    assert name(camera="ast3") == "own"
    assert name(camera="huntsman") == "other"
    assert name(task="real-bogus") == "rb"
    assert name(geometry=Geometry(16, 4, 1.0)) == "large"
    assert name(geometry=Geometry(8, 4, 1.1 * 1.14)) == "own-nearer"
    assert name(geometry=Geometry(8, 4, 1.1 * 1.16)) is None
    assert name(geometry=Geometry(8, 3, 1.0)) is None
    assert name(planes=("science",)) is None


def test_no_model_is_wanted_or_none_fits():
    geometry = Geometry(64, 8, 123.0)
    assert choose("none", "stamps", camera="ztf", geometry=geometry, planes=PLANES) is None
    assert choose("auto", "stamps", camera="ztf", geometry=geometry, planes=PLANES) is None


# the command


def test_the_command_writes_alerts_with_their_classes(files, models, tmp_path):
    out = tmp_path / "out.avro"
    options = ["--stamps", str(models["placed"]), "--real-bogus", str(models["tiny-rb"]), "-o", str(out)]
    for source in (files["alert"], out):  # classified again, it says no more than once
        done = run(app, ["classify", str(source), *options])
        assert done.exit_code == 0, done.output
        before, after = list(read_alerts(files["alert"])), list(read_alerts(out))
        assert [a.model_copy(update={"classifications": ()}) for a in after] == before
        assert list(check_file(out)) == []
        names = [c.classifier for c in after[0].classifications]
        assert names == ["tiny-rb", "tiny-rb-confidence", "placed", "placed-confidence"]
    verdicts = load_classifier(models["placed"]).classify(records_of(files["alert"]))
    found = [[c.probability for c in alert.classifications[2].classes] for alert in after]
    np.testing.assert_allclose(found, verdicts.probabilities, atol=1e-6)


def test_an_embedded_alert_gets_a_field_before_its_cutout_and_still_holds(files, models, tmp_path):
    out = tmp_path / "out.avro"
    options = ["--stamps", str(models["tiny"]), "--real-bogus", "none", "-o", str(out)]
    done = run(app, ["classify", str(files["embed"]), *options])
    assert done.exit_code == 0, done.output
    assert list(check_file(out)) == []
    before, after = records_of(files["embed"]), records_of(out)
    assert list(after[0])[-2:] == ["classifications", "cutoutMultiscale"]
    for old, new in zip(before, after, strict=True):
        said = new.pop("classifications")
        assert [one["classifier"] for one in said] == ["tiny", "tiny-confidence"]
        assert new == old
    again = out.with_name("again.avro")
    again.write_bytes(out.read_bytes())
    done = run(app, ["classify", str(out), str(again), *options])  # the field is there already
    assert done.exit_code == 0, done.output
    assert len(records_of(out)) == 2 * N


def test_a_csv_has_a_line_for_each_packet(files, models):
    done = run(app, ["classify", str(files["alert"]), "--stamps", str(models["tiny"]),
                     "--real-bogus", str(models["tiny-rb"])])  # fmt: skip
    assert done.exit_code == 0, done.output
    lines = list(csv.DictReader(io.StringIO(done.stdout)))
    records = records_of(files["alert"])
    assert [line["id"] for line in lines] == [record["alertId"] for record in records]
    verdicts = load_classifier(models["tiny"]).classify(records)
    np.testing.assert_allclose(
        [[float(line[name]) for name in STAMP_CLASSES] for line in lines], verdicts.probabilities, atol=1e-6
    )
    assert [line["class"] for line in lines] == verdicts.top()
    real = load_classifier(models["tiny-rb"]).classify(records).probability_of("real")
    np.testing.assert_allclose([float(line["real"]) for line in lines], real, atol=1e-6)
    assert {line["models"] for line in lines} == {"tiny-rb:1 tiny:1"}


def test_packets_that_are_not_classified_are_written_as_they_were_and_named(files, models, tmp_path):
    records = records_of(files["alert"])
    records[3] = {**records[3], "cutout": None}
    source, out = tmp_path / "some.avro", tmp_path / "out.avro"
    write_container(source, load_schema("multiscale.Alert"), records)
    done = run(app, ["classify", str(source), "--stamps", str(models["tiny"]), "--real-bogus", "none",
                     "-o", str(out)])  # fmt: skip
    assert done.exit_code == 1
    assert "some.avro: packet 3: no cutout" in done.stderr
    after = records_of(out)
    assert [len(record["classifications"]) for record in after] == [2, 2, 2, 0, *[2] * 8]


def test_where_nothing_fits_the_command_says_what_is_shipped(files, tmp_path):
    odd = tmp_path / "odd.avro"
    cutouts = [{**cutout, "pixelScale": 77.0} for cutout in records_of(files["cutout"])]
    write_container(odd, load_schema("multiscale.Cutout"), cutouts)
    done = run(app, ["classify", str(odd)])
    assert done.exit_code == 2
    assert "no shipped real-bogus model for 4 levels of 8 pixels at 77″ with planes science" in done.stderr
    assert "Shipped for real-bogus: " in done.stderr
    assert "Traceback" not in done.output


def test_the_streams_own_rates_are_asked_for_by_name(files, tmp_path):
    rates = (0.05, 0.3, 0.4, 0.05, 0.05, 0.15)
    knows = write_model(tmp_path, card_of("knows", stream_priors=rates))
    words = ["classify", str(files["alert"]), "--real-bogus", "none", "--priors", "stream", "--stamps"]
    done = run(app, [*words, str(knows)])
    assert done.exit_code == 0, done.output
    said = [[float(line[k]) for k in STAMP_CLASSES] for line in csv.DictReader(io.StringIO(done.stdout))]
    records = records_of(files["alert"])
    expected = load_classifier(knows).classify(records, priors=rates).probabilities
    np.testing.assert_allclose(said, expected, atol=1e-6)
    assert not np.allclose(said, load_classifier(knows).classify(records).probabilities, atol=1e-3)
    done = run(app, [*words, str(write_model(tmp_path, card_of("knows-not")))])
    assert done.exit_code == 2
    assert "knows-not does not know the rates of a stream" in done.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stamps", "nonsense"], "model 'nonsense' is not known"),
        (["--stamps", "none", "--real-bogus", "none"], "no model"),
        (["--csv", "-o", "x.avro"], "not both"),
    ],
)
def test_a_command_that_cannot_be_carried_out_ends_with_2(files, options, said):
    done = run(app, ["classify", str(files["alert"]), *options])
    assert done.exit_code == 2
    assert said in done.output.replace("\n", " ")


def test_bare_cutouts_have_no_room(files, models, tmp_path):
    done = run(app, ["classify", str(files["cutout"]), "--stamps", str(models["tiny"]),
                     "--real-bogus", "none", "-o", str(tmp_path / "out.avro")])  # fmt: skip
    assert done.exit_code == 2
    assert "write a CSV" in done.stderr
    assert not (tmp_path / "out.avro").exists()


def test_a_file_that_ends_early_gives_what_is_before_its_end(files, models, tmp_path):
    cut = tmp_path / "cut.avro"
    write_container(cut, load_schema("multiscale.Alert"), records_of(files["alert"]) * 9)
    cut.write_bytes(cut.read_bytes()[:-5000])
    troubles = []
    said = list(classified([cut], stamps=str(models["tiny"]), real_bogus="none", trouble=troubles.append))
    assert 0 < len(said) < 9 * N
    assert all("stamps" in one.verdicts for one in said)
    assert len(troubles) == 1
    assert "cut.avro" in troubles[0]


@pytest.mark.shared_data
def test_real_alerts_are_classified(models, tmp_path):
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data here")
    packets = tmp_path / "real.avro"
    done = run(multiscale_app, ["convert", str(SHARED), "-o", str(packets), "--size", "8", "--levels", "4",
                                "--encoding", "rice"])  # fmt: skip
    assert packets.is_file(), done.output
    records = records_of(packets)
    verdicts = load_classifier(models["placed"]).classify(records)
    assert len(records) > 5
    assert verdicts.is_classified.sum() + len(verdicts.refused) + len(verdicts.empty) == len(records)
    assert np.isfinite(verdicts.probabilities[verdicts.is_classified]).all()
    assert verdicts.is_classified.sum() > 0.5 * len(records), verdicts.refused


def test_inference_loads_nothing_that_trains():
    code = (
        "import sys, reference_pipeline.classify.packets, reference_pipeline.classify.inference, onnxruntime;"
        "print(sorted({'torch', 'onnx', 'sklearn', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
