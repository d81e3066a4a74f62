"""Labelled stamps of real alerts: signs, places, and the cuts of the 2023 paper."""

import csv
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the pipeline's extra is not installed")

from typer.testing import CliRunner

from multiscale.avro import read_container
from multiscale.geometry import PROFILES
from multiscale.samples import write_samples
from multiscale.surveys import read_survey_alert
from reference_pipeline.cli import app
from reference_pipeline.errors import ConfigError
from reference_pipeline.labelled.purity import (
    HINTS,
    LEFT_OUT,
    Facts,
    KnownObjects,
    Label,
    choose,
    hint_of,
    read_known,
    read_labels,
)
from reference_pipeline.labelled.real import alert_records, ids_of, label_alerts
from reference_pipeline.labelled.split import groups_of_stamps
from reference_pipeline.labelled.stamp import read_stamps, stamp_files

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
runner = CliRunner()


def label_of(name, **more):
    return Label(tuple(name.split("|")), **more)


def fact(
    alert_id, name="bogus", *, place=None, n_earlier=0, mjd=60000.0, ra=10.0, dec=5.0, label=None, **more
):
    given = {"has_planes": True, "is_altered": False, "has_minor_planet": False} | more
    return Facts(
        alert_id, place or f"at {alert_id}", label or label_of(name), mjd, ra, dec, n_earlier, **given
    )


def reasons(facts, **options):
    chosen, left = choose(facts, **options)
    assert len(chosen) + len(left) == len(facts)
    assert all(each.reason in LEFT_OUT for each in left)
    return chosen, {each.alert_id: each.reason for each in left}


def test_bogus_ones_of_ten_detections_are_left_out_unless_someone_looked():
    seen = label_of("bogus", is_confirmed=True)
    chosen, left = reasons(
        [fact("a", n_earlier=8), fact("b", n_earlier=9, ra=20), fact("c", n_earlier=300, ra=30, label=seen)]
    )
    assert set(chosen) == {"a", "c"}
    assert left == {"b": "many-detections"}
    assert (chosen["a"].n_detections, chosen["c"].n_detections) == (9, 301)


def test_detections_of_the_folder_count_where_packets_do_not():
    many = [fact(f"a{i}", place="one", n_earlier=None, mjd=60000 + i) for i in range(10)]
    assert set(reasons(many)[1].values()) == {"many-detections"}
    assert len(reasons(many[1:])[0]) <= 2


def test_bogus_ones_at_known_objects_are_left_out():
    known = KnownObjects(np.array([[1.0, 0, 0]]), ("RR Lyr",))
    near, far = 1.4 / 3600, 1.6 / 3600
    facts = [
        fact("catalogue", dec=0.0, ra=near), fact("beyond", dec=0.0, ra=360 - far),
        fact("planet", ra=40, has_minor_planet=True),
        fact("labelled", ra=50, dec=60), fact("star", "VS", ra=50 + 2 * near, dec=60),
        fact("hinted", ra=70), fact("hint", ra=70, label=label_of("VS", is_weak=True)),
    ]  # fmt: skip
    chosen, left = reasons(facts, known=known)
    assert left == {"catalogue": "known-object", "planet": "known-object", "labelled": "known-object"}
    assert set(chosen) == {"beyond", "star", "hinted", "hint"}


def test_asteroids_have_one_detection():
    _, left = reasons([fact("a", "asteroid"), fact("b", "asteroid", n_earlier=1, ra=20)])
    assert left == {"b": "moved-twice"}


def test_one_alert_is_drawn_for_each_object_and_the_first_is_kept():
    facts = [
        fact(f"{o}-{i}", "SN", place=f"o{o}", n_earlier=i, mjd=60000 + i)
        for o in range(200)
        for i in range(5)
    ]
    chosen, left = reasons(facts)
    assert Counter(name.split("-")[0] for name, c in chosen.items() if c.is_random) == {
        str(o): 1 for o in range(200)
    }
    assert {name for name, c in chosen.items() if c.is_first} == {f"{o}-0" for o in range(200)}
    drawn = Counter(name.split("-")[1] for name, c in chosen.items() if c.is_random)
    assert min(drawn.values()) > 200 / 5 - 4 * np.sqrt(200 * 0.16)  # four sigma
    assert set(left.values()) == {"other-alert"}
    again, _ = choose(list(reversed(facts)))
    assert again == chosen  # the order of files does not matter
    assert choose(facts, seed=1)[0] != chosen


def test_an_object_whose_first_alert_is_not_there_has_no_first():
    chosen, _ = reasons([fact("late", "AGN", n_earlier=7)])
    assert not chosen["late"].is_first
    assert chosen["late"].is_random


def test_what_cannot_be_trusted_is_left_out_for_its_reason():
    weak = label_of("VS", is_weak=True)
    facts = [
        fact("a", is_altered=True), fact("b", has_planes=False), fact("c", ra=20), fact("c", ra=20),
        fact("d", place="x", label=weak), fact("e", "AGN", place="x"),
        fact("f", label=weak, is_contradicted=True),
        fact("g", label=label_of("SN|AGN", is_weak=True), place="x"),
    ]  # fmt: skip
    chosen, left = choose(facts)
    assert [(o.alert_id, o.reason) for o in left] == [
        ("c", "twice"), ("a", "altered"), ("b", "missing-plane"), ("d", "contradicted"),
        ("g", "contradicted"), ("f", "contradicted"),
    ]  # fmt: skip
    assert set(chosen) == {"c", "e"}


def test_a_table_of_labels_is_read_or_its_line_named(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(
        "id,label,subtype,weak,confirmed\nZTF1, SN ,SN Ia,false,\n123,bogus,,1,yes\nZTF2,SN|AGN,,,\n"
    )
    found = read_labels(path)
    assert found["ZTF1"] == Label(("SN",), "SN Ia", "labels.csv")
    assert found["123"] == Label(("bogus",), None, "labels.csv", is_weak=True, is_confirmed=True)
    assert found["ZTF2"].is_ambiguous
    for text, what in [
        ("id\nZTF1\n", "no column label"),
        ("id,label\nZTF1,nova\n", "line 2: label 'nova'"),
        ("id,label\nZTF1,SN\nZTF1,VS\n", "line 3: ZTF1 is in the table twice"),
        ("id,label,weak\nZTF1,SN,maybe\n", "line 2: 'maybe'"),
        ("id,label\nZTF1\n", "line 2: not as many"),
        ("id,label\n,SN\n", "line 2: no id"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=what):
            read_labels(path)
    with pytest.raises(ConfigError):
        read_labels(tmp_path / "none.csv")


def test_known_objects_are_read_or_the_line_named(tmp_path):
    path = tmp_path / "known.csv"
    path.write_text("name,ra,dec\nRR Lyr,291.366,42.784\n")
    assert read_known(path).near(291.366, 42.784 + 1 / 3600, 1.5) == "RR Lyr"
    assert read_known(path).near(291.366, 42.784 + 2 / 3600, 1.5) is None
    path.write_text("ra,dec\n1,north\n")
    with pytest.raises(ConfigError, match="line 2"):
        read_known(path)
    path.write_text("ra,dec\n")
    assert read_known(path).near(0, 0, 1.5) is None


@pytest.fixture(scope="module")
def hinted(tmp_path_factory):
    """ztf_labelled by its own hints: the folder, the report and the stamps."""
    out = tmp_path_factory.mktemp("hinted")
    report = label_alerts([SHARED_DATA / "ztf_labelled"], out)
    parts = ("labelled", "ambiguous")
    return (
        out,
        report,
        {part: [s for f in stamp_files([out / part]) for s in read_stamps(f)] for part in parts},
    )


@pytest.mark.shared_data
def test_every_hinted_alert_is_kept_or_listed(hinted):
    out, report, stamps = hinted
    with (out / "left_out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(stamps["labelled"]) + len(stamps["ambiguous"]) + len(rows) == 1173
    assert report.reasons["altered"] == 7  # as its README counts
    assert Counter(row["reason"] for row in rows) == report.reasons
    assert {s.label for s in stamps["ambiguous"]} == {"SN"}
    assert all(s.is_weak and "extragalactic_likely" in s.source for s in stamps["ambiguous"])
    assert sum(report.counts.values()) == len(stamps["labelled"])
    summary = json.loads((out / "report.json").read_text())
    assert summary["kept"]["satellite"] == 17  # 19, of which two were altered


@pytest.mark.shared_data
def test_hinted_stamps_are_real_ones_whose_pixels_are_the_survey_s(hinted, shared_data):
    stamps = {s.stamp_id: s for s in hinted[2]["labelled"]}
    assert not any(s.is_simulated for s in stamps.values())
    n_flipped = 0
    for _, _, record, schema in list(alert_records([shared_data / "ztf_labelled"]))[::40]:
        stamp = stamps.get(f"ztf-{record['candid']}")
        if stamp is None:
            continue
        planes = read_survey_alert(record, schema=schema).cutout.planes
        for kind in ("science", "template", "difference"):
            expected = np.where(np.abs(planes[kind]) < 2.0**125, planes[kind], np.nan)
            assert np.array_equal(stamp.original.planes[kind], expected, equal_nan=True)
        assert stamp.cutout.geometry.size == 8
        assert stamp.label in HINTS[record["label_hint"]]
        assert np.sign(stamp.snr) == np.sign(np.nanmedian(stamp.original.planes["difference"][30:33, 30:33]))
        n_flipped += stamp.snr < 0
    assert n_flipped > 3
    assert {s.object_id for s in stamps.values() if s.label == "asteroid"} >= {"MPC 57092"}


@pytest.mark.shared_data
def test_hinted_stamps_are_split_by_exposure(hinted):
    groups = groups_of_stamps(hinted[2]["labelled"])
    exposures = np.array([s.exposure_id for s in hinted[2]["labelled"]])
    assert all(len(set(groups[exposures == e])) == 1 for e in set(exposures) - {""})
    assert len(set(groups)) > 200


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of labels for the real alerts, from the manifest's hints."""
    path = tmp_path_factory.mktemp("table") / "labels.csv"
    with (SHARED_DATA / "alerts" / "MANIFEST.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label_hint"] in HINTS]
    lines = [
        f"{row['candid']},{'|'.join(HINTS[hint])},{hint},{'likely' in hint}"
        for row in rows
        for hint in [row["label_hint"]]
    ]
    path.write_text("id,label,source,weak\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.shared_data
def test_packets_of_two_surveys_by_a_table_and_clipped_ones_are_square(table, shared_data, tmp_path):
    folders = [shared_data / "alerts" / survey for survey in ("ztf", "lsst")]
    report = label_alerts(folders, tmp_path / "out", labels=read_labels(table))
    stamps = [s for f in stamp_files([tmp_path / "out"]) for s in read_stamps(f)]
    ztf = [s for s in stamps if s.survey == "ztf"]
    assert len(ztf) > 150
    assert len(stamps) - len(ztf) > 35
    assert {s.original.shape for s in ztf} == {(63, 63)}
    clipped = [s for s in ztf if s.cutout.clipped_by == "DETECTOR"]
    assert len(clipped) >= 5
    for stamp in clipped:  # whole rows or columns are not there
        invalid = np.isnan(stamp.original.planes["science"])
        assert invalid.all(axis=0).any() or invalid.all(axis=1).any()
    # object at the middle, within a pixel: the grid of cutout and pixels is one
    assert max(abs(s.original.x - 31) + abs(s.original.y - 31) for s in ztf) <= 1.0
    assert {s.cutout.geometry.size for s in stamps if s.survey == "lsst"} == {PROFILES["LSST-4x16"].size}
    assert report.reasons["many-detections"] == 2
    assert report.reasons["unreadable"] == 1  # a Confluent frame without its schema
    assert all(s.mjd < 70000 and s.exposure_id for s in stamps)


@pytest.mark.shared_data
def test_a_tar_gives_the_stamps_of_its_folder_byte_for_byte(table, shared_data, tmp_path):
    names = [row.split(",")[0] for row in table.read_text().splitlines()[1:]][::12]
    files = [path for name in names if (path := shared_data / "alerts" / "ztf" / f"{name}.avro").is_file()]
    assert len(files) > 10
    with tarfile.open(tmp_path / "night.tar.gz", "w:gz") as archive:
        for path in sorted(files):
            archive.add(path, path.name)
    labels = read_labels(table)
    label_alerts(sorted(files), tmp_path / "a", labels=labels)
    label_alerts([tmp_path / "night.tar.gz"], tmp_path / "b", labels=labels)
    a, b = (stamp_files([tmp_path / name]) for name in "ab")
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]


@pytest.mark.shared_data
def test_a_label_may_name_the_object_and_one_of_the_alert_is_surer(shared_data, tmp_path):
    path = shared_data / "alerts" / "ztf" / "541293440515015012.avro"
    [record] = read_container(path)
    assert ids_of(record)[:2] == ("541293440515015012", "ZTF18abdcipx")
    label_alerts([path], tmp_path / "a", labels={"ZTF18abdcipx": label_of("asteroid")})
    [stamp] = read_stamps(stamp_files([tmp_path / "a"])[0])
    assert (stamp.label, stamp.object_id, stamp.n_detections) == ("asteroid", "MPC 113793", 1)
    both = {"ZTF18abdcipx": label_of("asteroid"), "541293440515015012": label_of("VS")}
    label_alerts([path], tmp_path / "b", labels=both)
    [stamp] = read_stamps(stamp_files([tmp_path / "b"])[0])
    assert (stamp.label, stamp.object_id) == ("VS", "ZTF18abdcipx")


@pytest.mark.parametrize("survey", ["ztf", "lsst"])
def test_simulated_packets_stay_simulated(survey, tmp_path):
    write_samples(tmp_path / "alerts.avro", survey=survey, n=6)
    records = [record for _, _, record, _ in alert_records([tmp_path / "alerts.avro"])]
    labels = {ids_of(record)[0]: label_of("SN") for record in records}
    label_alerts([tmp_path / "alerts.avro"], tmp_path / "out", labels=labels)
    stamps = list(read_stamps(stamp_files([tmp_path / "out"])[0]))
    assert len(stamps) == 6
    assert all(s.is_simulated for s in stamps)


def test_a_hint_of_no_class_is_none():
    assert hint_of({"label_hint": "unknown"}) is None
    assert hint_of({}) is None


@pytest.mark.shared_data
def test_the_command_says_what_it_kept_and_what_it_could_not_read(table, shared_data, tmp_path):
    damaged = shared_data / "alerts" / "damaged" / "121540793515135009.avro"
    good = sorted((shared_data / "alerts" / "ztf").glob("10*.avro"))[:8]
    words = ["label", *map(str, good), str(damaged), "--labels", str(table), "-o", str(tmp_path / "out")]
    result = runner.invoke(app, words)
    assert result.exit_code == 1, result.output
    assert "left out, unreadable: 1" in result.stdout
    again = runner.invoke(app, words)
    assert again.exit_code == 2
    assert "already" in again.stderr
    whole = runner.invoke(
        app,
        ["label", str(good[0]), "--labels", str(table), "-o", str(tmp_path / "b"), "--layout", "ZTF-3x16"],
    )
    assert whole.exit_code == 0, whole.output
    [stamp] = read_stamps(stamp_files([tmp_path / "b"])[0])
    assert stamp.cutout.size == 16


def test_the_command_refuses_what_holds_no_alert(tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\n1,SN\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    result = runner.invoke(app, ["label", str(empty), "--labels", str(labels), "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "no alert" in result.stderr
    torn = tmp_path / "night.tar.gz"
    torn.write_bytes(b"\x1f\x8b\x08\x00")
    result = runner.invoke(app, ["label", str(torn), "--labels", str(labels), "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "night.tar.gz" in result.stderr
