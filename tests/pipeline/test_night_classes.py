"""What models say of a night's candidates: in alerts, database and report; cut by it; made again alone."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("onnx")

from small_night import write_small_night
from sqlalchemy import select
from tiny_models import card_of, real_bogus, write_model
from typer.testing import CliRunner

from multiscale import check_file, read_alerts
from reference_pipeline.alerts.cutouts import cutouts_path
from reference_pipeline.candidate import Candidate
from reference_pipeline.classify.inference import load_classifier
from reference_pipeline.cli import app
from reference_pipeline.config import Classify, load_config
from reference_pipeline.difference_products import read_difference
from reference_pipeline.errors import ConfigError, FileError
from reference_pipeline.night.classify import (
    Classes,
    Model,
    Said,
    check_models,
    classes_path,
    classify_exposure,
    cut_by_classes,
    read_classes,
)
from reference_pipeline.prune import prune
from reference_pipeline.store import tables
from reference_pipeline.store.opening import open_store
from reference_pipeline.taxonomy import STAMP_CLASSES

PLANES = ("science", "template", "difference", "score")
SHAPE = {"size": 16, "n_levels": 4, "pixel_scale": (0.4, 0.42), "planes": PLANES, "surveys": ("ast3",)}
SCORE = "tiny-rb"


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Two exposures of 512² pixels, one of an earlier night, and models beside the settings."""
    folder = tmp_path_factory.mktemp("night")
    write_small_night(folder, size=(512, 512), variable_density=20000.0, branches=("dip",))
    (folder / "models").mkdir()
    write_model(folder / "models", card_of("tiny", **SHAPE))
    card = real_bogus(SCORE, n_members=1, **SHAPE)
    weights = np.zeros((1, 8, 2), np.float32)
    weights[0, 2, 1] = 8.0  # of the difference's mean: what brightened is "real"
    write_model(folder / "models", card, weights=weights)
    named = 'clouds = "none"\nreal_bogus = "models/tiny-rb.json"\nstamps = "models/tiny.json"\n'
    settings = (folder / "reduce.toml").read_text()
    (folder / "plain.toml").write_text(settings)
    (folder / "reduce.toml").write_text(settings + "\n[classify]\n" + named)
    (folder / "none.toml").write_text(settings + '\n[classify]\nreal_bogus = "auto"\n')
    return folder


def run(night, out, *, settings="reduce.toml"):
    result = CliRunner().invoke(app, ["run", str(night / settings), "-o", str(out), "--workers", "1"])
    return result


@pytest.fixture(scope="module")
def done(night):
    result = run(night, night / "out")
    assert result.exit_code == 0, result.output
    return night / "out"


def with_settings(night, name, **values):
    """The night's settings with others in [classify]."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path = night / name
    path.write_text((night / "reduce.toml").read_text() + "\n".join(lines) + "\n")
    return name


@pytest.fixture
def begun(done, tmp_path, monkeypatch):
    """A copy of the output of which the database and what left are lost: the files of all exposures stay.

    What runs on it does so in this process.
    """
    monkeypatch.setattr(
        "reference_pipeline.night.whole.in_processes",
        lambda work, jobs, workers, lost: ((i, work(job)) for i, job in enumerate(jobs)),
    )
    out = tmp_path / "out"
    shutil.copytree(done, out)
    (out / "night.sqlite").unlink()
    shutil.rmtree(out / "alerts")
    return out


def rows(out, table):
    store = open_store(f"sqlite:///{out}/night.sqlite")
    with store.read() as session:
        found = session.scalars(select(table)).all()
        session.expunge_all()
    store.close()
    return found


def alerts_of(out):
    return {a.alert_id: a for path in sorted((out / "alerts").rglob("*.avro")) for a in read_alerts(path)}


def report_of(out):
    return [d for d in json.loads((out / "report.json").read_text())["differences"] if d["status"] == "done"]


def probability(alert, classifier, name):
    found = next(c for c in alert.classifications if c.classifier == classifier)
    return next(c.probability for c in found.classes if c.name == name)


def test_every_alert_carries_a_score_and_six_probabilities_of_its_own_cutout(night, done):
    alerts = alerts_of(done)
    assert len(alerts) > 10
    assert [finding for path in (done / "alerts").rglob("*.avro") for finding in check_file(path)] == []
    for model in (SCORE, "tiny"):
        classifier = load_classifier(night / "models" / f"{model}.json")
        verdicts = classifier.classify([alert.cutout.to_record() for alert in alerts.values()])
        found = [[probability(alert, model, name) for name in classifier.card.classes]
                 for alert in alerts.values()]  # fmt: skip
        np.testing.assert_allclose(found, verdicts.probabilities, atol=2e-5)
    assert np.std(found, axis=0).min() > 1e-4  # they differ from alert to alert
    one = next(iter(alerts.values()))
    names = [c.classifier for c in one.classifications]
    assert names == [SCORE, f"{SCORE}-confidence", "tiny", "tiny-confidence"]
    steps = [step.step for step in one.processing]
    assert steps == ["calibrated", "subtracted", "classified", "alert"]
    assert sorted(one.processing, key=lambda step: step.time) == list(one.processing)
    assert sum("trained on simulated data of ast3" in p.action for p in one.provenance) == 2


def test_what_brightened_is_what_this_model_calls_real(done):
    scores = {(a.detection.flux > 0): [] for a in alerts_of(done).values()}
    for alert in alerts_of(done).values():
        scores[alert.detection.flux > 0].append(probability(alert, SCORE, "real"))
    assert np.mean(scores[True]) > 0.5 > np.mean(scores[False])


def test_the_database_has_what_the_alerts_say(done):
    alerts = alerts_of(done)
    stored = {(row.candidate_id, row.classifier): row for row in rows(done, tables.Classification)}
    assert len(stored) == 4 * len(alerts)
    for alert in alerts.values():
        for said in alert.classifications:
            row = stored[alert.detection.detection_id, said.classifier]
            assert (row.version, row.taxonomy) == (said.version, said.taxonomy)
            assert row.classes == pytest.approx({c.name: c.probability for c in said.classes}, abs=1e-6)
    used = rows(done, tables.Subtraction)[-1].decisions["classify"]
    assert used["stamps"].startswith("tiny 1 sha256 ")


def test_the_report_counts_classes_and_names_the_models(done):
    alerts = alerts_of(done)
    reports = report_of(done)
    assert sum(sum(d["classes"].values()) for d in reports) == len(alerts)
    assert set().union(*(d["classes"] for d in reports)) <= set(STAMP_CLASSES)
    real = sum(probability(alert, SCORE, "real") >= 0.5 for alert in alerts.values())
    assert 0 < sum(d["n_real"] for d in reports) == real < len(alerts)
    page = (done / "report.html").read_text()
    assert page.count("classified by tiny 1 (stamps; trained on simulated data of ast3)") == 1
    assert page.count(f"classified by {SCORE} 1 (real-bogus; trained on simulated data of ast3)") == 1


def test_candidates_below_the_least_score_are_cut_and_sent_to_nobody(night, done, begun):
    out = begun
    result = run(night, out, settings=with_settings(night, "cut.toml", min_real_bogus=0.5))
    assert result.exit_code == 0, result.output
    before, after = alerts_of(done), alerts_of(out)
    real = {id_ for id_, alert in before.items() if probability(alert, SCORE, "real") >= 0.5}
    assert set(after) == real
    cut = {row.id for row in rows(out, tables.Candidate) if row.cut == "real-bogus"}
    assert cut == {alert.detection.detection_id for id_, alert in before.items() if id_ not in real}
    assert not cut & {row.candidate_id for row in rows(out, tables.Detection)}
    assert cut <= {row.candidate_id for row in rows(out, tables.Classification)}  # why is kept
    assert sum(d["cuts"].get("real-bogus", 0) for d in report_of(out)) == len(cut) > 0


def differences_of(out):
    return [read_difference(path) for path in sorted((out / "differences" / "dip").glob("*.fits"))]


def files_of(out):
    return {path: path.stat().st_mtime_ns for path in (out / "differences").rglob("*") if path.is_file()}


def config_with(night, **values):
    """The night's settings with others in [classify]."""
    config = load_config(night / "reduce.toml")
    return config.model_copy(update={"classify": config.classify.model_copy(update=values)})


def test_a_run_with_the_same_models_does_not_ask_them_again(night, done, begun):
    files = files_of(begun)
    assert run(night, begun).exit_code == 0
    assert files_of(begun) == files
    assert {id_: a.classifications for id_, a in alerts_of(begun).items()} == {
        id_: a.classifications for id_, a in alerts_of(done).items()
    }


def test_another_model_is_asked_again_and_nothing_else_is_made_again(night, begun):
    newer = write_model(night / "models", card_of("newer", version="2", **SHAPE), seed=9)
    files = files_of(begun)
    job_config = config_with(night, stamps=str(newer))
    for stored in differences_of(begun):
        old = read_classes(classes_path(begun, "dip", stored.exposure.id))
        new = classify_exposure(begun, stored, config=job_config)
        assert read_classes(classes_path(begun, "dip", stored.exposure.id)) == new
        assert [(m.name, m.version) for m in new.models] == [(SCORE, "1"), ("newer", "2")]
        assert new.candidates.keys() == old.candidates.keys()
        for number, said in new.candidates.items():
            assert said["real-bogus"] == old.candidates[number]["real-bogus"]
            assert said["stamps"] != old.candidates[number]["stamps"]
    changed = [path.name for path, made in files_of(begun).items() if made != files[path]]
    assert len(changed) == 2
    assert all(name.endswith(".classes.json") for name in changed)


def test_a_changed_card_or_damaged_file_is_made_again(night, begun):
    stored = differences_of(begun)[0]
    path = classes_path(begun, "dip", stored.exposure.id)
    before = read_classes(path)
    path.write_bytes(path.read_bytes()[:-30])
    assert classify_exposure(begun, stored, config=config_with(night)) == before
    assert read_classes(path) == before
    colder = write_model(night / "models", card_of("colder", temperature=5.0, **SHAPE))  # the same network
    after = classify_exposure(begun, stored, config=config_with(night, stamps=str(colder)))
    assert after.digest != before.digest
    assert after.models[1].sha256 == before.models[1].sha256
    top = [max(said["stamps"].probabilities) for said in after.candidates.values()]
    assert np.mean(top) < np.mean([max(said["stamps"].probabilities) for said in before.candidates.values()])


def test_cutouts_that_are_not_those_of_the_difference_are_refused(night, begun):
    stored = differences_of(begun)[0]
    path = cutouts_path(begun, "dip", stored.exposure.id)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(FileError) as refused:
        classify_exposure(begun, stored, config=config_with(night))
    assert refused.value.reason == "not-a-difference"


def test_probabilities_at_the_rates_of_the_stream(night, begun):
    rates = (0.01, 0.2, 0.5, 0.04, 0.05, 0.2)
    stream = write_model(night / "models", card_of("stream", stream_priors=rates, **SHAPE))
    config = config_with(night, stamps=str(stream), real_bogus="none", priors="stream")
    for stored in differences_of(begun):
        before = read_classes(classes_path(begun, "dip", stored.exposure.id))
        after = classify_exposure(begun, stored, config=config)
        for number, said in after.candidates.items():
            old = np.multiply(before.candidates[number]["stamps"].probabilities, rates)
            np.testing.assert_allclose(said["stamps"].probabilities, old / old.sum(), atol=1e-4)


def test_without_a_model_that_fits_alerts_go_out_and_the_report_says_so(night, done, begun, monkeypatch):
    monkeypatch.setattr("reference_pipeline.classify.choose._shipped", lambda: ())
    out = begun
    result = run(night, out, settings="none.toml")
    assert result.exit_code == 0, result.output
    alerts = alerts_of(out)
    assert set(alerts) == set(alerts_of(done))
    assert all(alert.classifications == () for alert in alerts.values())
    said = [line for line in result.stdout.splitlines() if "no shipped" in line]
    assert len(said) == 2  # for each of the two tasks
    assert "no shipped real-bogus model for 4 levels of 16 pixels at 0.41″ with planes science" in said[0]
    assert (out / "report.html").read_text().count("no shipped stamps model") == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stamps": "nonsense"}, "model 'nonsense' is not known"),
        ({"stamps": "models/small.json"}, "takes 4 levels of 8 pixels"),
        ({"real_bogus": "models/tiny.json"}, "is for stamps, expected one for real-bogus"),
        ({"priors": "stream", "stamps": "models/tiny.json"}, "does not know the rates of a stream"),
    ],
)
def test_a_night_with_a_model_that_cannot_be_used_does_not_begin(night, tmp_path, values, said):
    write_model(night / "models", card_of("small", **(SHAPE | {"size": 8})))
    settings = night / "wrong.toml"
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
    settings.write_text((night / "plain.toml").read_text() + "\n[classify]\n" + lines + "\n")
    with pytest.raises(ConfigError, match=said):
        check_models(load_config(settings))
    result = run(night, tmp_path / "out", settings="wrong.toml")
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_classes_go_with_their_difference(done, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(done, out)
    report = prune(out, keep_days=0.0, now_mjd=99999.0)
    assert report.left == ()
    kinds = [removed.path.name.split(".", 1)[1] for removed in report.removed]
    assert sorted(set(kinds)) == ["classes.json", "cutouts.avro", "fits"]
    assert list((out / "differences" / "dip").iterdir()) == []


def test_a_file_of_classes_that_is_none_is_refused_by_name(done, tmp_path):
    path = next((done / "differences").rglob("*.classes.json"))
    assert read_classes(path).candidates
    with pytest.raises(FileError, match="of cutouts whose SHA-256 is"):
        read_classes(path, cutouts="0" * 64)
    other = tmp_path / "x.classes.json"
    with pytest.raises(FileError) as gone:
        read_classes(other)
    assert gone.value.reason == "pruned"
    other.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FileError) as damaged:
        read_classes(other)
    assert damaged.value.reason == "not-a-difference"


# what is cut


def candidates(n, *, cut=None):
    fixed = {"x": 0.0, "y": 0.0, "ra": 0.0, "dec": 0.0, "ra_err": 0.1, "dec_err": 0.1, "flux": 1.0,
             "flux_err": 0.1, "snr": 10.0, "magnitude": None, "magnitude_err": None, "fwhm": 3.0,
             "elongation": 1.0, "position_angle": None, "n_pixels": 9, "flags": 0, "mask_bits": 0,
             "mask_fraction": 0.0, "edge": 50.0, "dipole": 0.0}  # fmt: skip
    return tuple(Candidate(number=i, cut=cut, **fixed) for i in range(n))


def classes_of(scores):
    model = Model(task="real-bogus", name="m", version="1", taxonomy="t", classes=("bogus", "real"),
                  surveys=("ast3",), is_simulated=True, sha256="0")  # fmt: skip
    said = {
        i: {"real-bogus": Said(probabilities=(1 - s, s), spread=0.0, confidence="confident")}
        for i, s in scores.items()
    }
    return Classes(exposure="e", branch="dip", start_mjd=1.0, cutouts="0", digest="0", models=(model,),
                   missing=(), candidates=said, refused={})  # fmt: skip


def cuts(found):
    return [c.cut for c in found]


@pytest.mark.parametrize(
    ("score", "n", "is_dropped"),
    [(0.9, 301, True), (0.9, 300, False), (0.5, 301, True), (0.49, 301, False), (None, 301, False)],
)
def test_clouds_and_a_burst_together_drop_a_frame_and_neither_alone(score, n, is_dropped):
    config = Classify(cloud_score=0.5, burst=300)
    some = candidates(n) + tuple(c for c in candidates(200, cut="edge"))
    found = cut_by_classes(some, classes_of({}), cloud_score=score, area=1.0, config=config)
    assert set(cuts(found)[:n]) == {"clouds" if is_dropped else None}
    assert set(cuts(found)[n:]) == {"edge"}  # the first cut that removed it


def test_a_hundred_candidates_are_no_burst_however_small_the_field():
    config = Classify(cloud_score=0.5, burst=300)
    for n, cut in ((100, None), (101, "clouds")):
        found = cut_by_classes(candidates(n), classes_of({}), cloud_score=0.9, area=1e-3, config=config)
        assert set(cuts(found)) == {cut}


def test_a_score_below_the_least_cuts_and_none_at_all_does_not():
    config = Classify(min_real_bogus=0.3)
    scores = {0: 0.29, 1: 0.3, 2: 0.9}
    found = cut_by_classes(candidates(4), classes_of(scores), cloud_score=None, area=1.0, config=config)
    assert cuts(found) == ["real-bogus", None, None, None]
    before = cut_by_classes(candidates(4), classes_of(scores), cloud_score=None, area=1.0, config=Classify())
    assert cuts(before) == [None] * 4
