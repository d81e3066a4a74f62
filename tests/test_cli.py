"""The command: what a person at a terminal sees, and the exit status that a script sees."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fastavro
import numpy as np
import pytest

import multiscale as ms
from multiscale.samples import write_samples

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data" / "alerts"


def multiscale(*arguments, status=0):
    """Run the command in a process of its own, as a shell would; return (stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "multiscale", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def records_of(path):
    with open(path, "rb") as file:
        return list(fastavro.reader(file))


@pytest.fixture(scope="module")
def ztf(tmp_path_factory):
    path = tmp_path_factory.mktemp("ztf") / "ztf.avro"
    write_samples(path, survey="ztf", n=6)
    return path


@pytest.fixture(scope="module")
def lsst(tmp_path_factory):
    path = tmp_path_factory.mktemp("lsst") / "lsst.avro"
    write_samples(path, survey="lsst", n=6)
    return path


@pytest.fixture(scope="module")
def stamps(ztf, tmp_path_factory):
    path = tmp_path_factory.mktemp("stamps") / "stamps.avro"
    multiscale("convert", ztf, "-o", path)
    return path


def test_convert_makes_packets_that_validate_in_silence(ztf, tmp_path):
    for encoding in ("raw", "rice"):
        target = tmp_path / f"{encoding}.avro"
        out, err = multiscale("convert", ztf, "-o", target, "--encoding", encoding)
        assert out == ""
        assert "6 in = 6 converted + 0 reported" in err
        assert multiscale("validate", target) == ("", "")


def test_embed_keeps_every_field_of_the_survey_and_replaces_its_cutouts(ztf, tmp_path):
    target = tmp_path / "embedded.avro"
    multiscale("convert", ztf, "--as", "embed", "-o", target)
    for old, new in zip(records_of(ztf), records_of(target), strict=True):
        own = {name: value for name, value in old.items() if not name.startswith("cutout")}
        assert {name: new[name] for name in new if name != "cutoutMultiscale"} == own
        assert list(new)[-1] == "cutoutMultiscale"
    multiscale("validate", target)


def test_embed_can_keep_the_surveys_own_cutouts(lsst, tmp_path):
    target = tmp_path / "both.avro"
    multiscale("convert", lsst, "--as", "embed", "--keep-cutouts", "-o", target)
    for old, new in zip(records_of(lsst), records_of(target), strict=True):
        assert {name: new[name] for name in old} == old


def test_lsst_gets_the_fewest_levels_that_cover_its_cutouts(lsst, tmp_path):
    target = tmp_path / "lsst.avro"
    _, err = multiscale("convert", lsst, "-o", target)
    for old, alert in zip(ms_survey_widths(lsst), ms.read_alerts(target), strict=True):
        span = alert.cutout.geometry.span_px
        assert span >= old
        assert span == 16 or span / 2 < old
    assert "CTYPE missing" in err


def ms_survey_widths(path):
    from multiscale.surveys import read_survey_alert

    for record in records_of(path):
        planes = read_survey_alert(record).cutout.planes
        yield max(next(iter(planes.values())).shape)


def test_a_wished_profile_says_how_much_of_it_is_no_data(lsst, tmp_path):
    _, err = multiscale("convert", lsst, "--profile", "LSST-4x16", "-o", tmp_path / "x.avro")
    assert "is NO_DATA" in err


def test_what_cannot_be_converted_is_reported_and_the_rest_is_converted(ztf, tmp_path):
    broken = tmp_path / "broken.avro"
    broken.write_bytes(ztf.read_bytes()[:-50_000])  # breaks off in the middle
    out, err = multiscale("convert", ztf, broken, "-o", tmp_path / "out.avro", status=1)
    [line] = out.splitlines()
    assert line.startswith(str(broken))
    converted = len(records_of(tmp_path / "out.avro"))
    assert f"{converted + 1} in = {converted} converted + 1 reported" in err
    assert converted > 6


def test_nothing_is_written_where_nothing_was_converted(tmp_path):
    bad = tmp_path / "bad.avro"
    bad.write_bytes(b"not avro")
    multiscale("convert", bad, "-o", tmp_path / "out.avro", status=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.avro"]


def test_an_output_that_is_an_input_is_refused_and_stays(ztf, tmp_path):
    path = tmp_path / "a.avro"
    path.write_bytes(ztf.read_bytes())
    multiscale("convert", path, "-o", path, status=2)
    assert path.read_bytes() == ztf.read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert",),
        ("convert", "no_such_file.avro", "-o", "x.avro"),
        ("validate", "no_such_file.avro"),
        ("size", "--survey", "mars"),
        ("size", "--size", "7", "--levels", "3"),
        ("schema", "show", "multiscale.Nothing"),
        ("no-such-command",),
    ],
)
def test_misuse_ends_with_status_2_and_one_clear_message(arguments):
    _, err = multiscale(*arguments, status=2)
    assert err.strip()


def test_size_and_profile_exclude_each_other(ztf, tmp_path):
    _, err = multiscale(
        "convert", ztf, "-o", tmp_path / "x.avro", "--profile", "ZTF-4x8", "--size", 8, status=2
    )
    assert "one or the other" in err


def test_validate_reports_file_packet_field_found_expected_and_clause(stamps, tmp_path):
    broken = tmp_path / "night.avro"
    with open(stamps, "rb") as file:
        reader = fastavro.reader(file)
        schema, packets = reader.writer_schema, list(reader)
    packets[2]["cutout"]["planes"][1]["payload"] = packets[2]["cutout"]["planes"][1]["payload"][:-4]
    packets[4]["cutout"]["dx"] = 1.5
    with open(broken, "wb") as file:
        fastavro.writer(file, schema, packets)
    out, _ = multiscale("validate", broken, status=1)
    first, second = out.splitlines()
    assert first == (
        f"{broken}: packet 2: cutout.planes[1].payload: payload-size: "
        "found 828 bytes, expected 832 [spec 5.1]"
    )
    assert second.startswith(f"{broken}: packet 4: cutout.dx: position: found 1.5")
    out, _ = multiscale("validate", broken, "--json", status=1)
    found = [json.loads(line) for line in out.splitlines()]
    assert [(f["packet"], f["field"], f["clause"]) for f in found] == [
        (2, "cutout.planes[1].payload", "5.1"),
        (4, "cutout.dx", "2.4"),
    ]


def test_validate_says_of_a_surveys_own_file_that_it_has_no_cutout_of_ours(ztf):
    out, _ = multiscale("validate", ztf, status=1)
    assert "cutoutMultiscale" in out
    assert "multiscale convert" in out


def test_inspect_accounts_for_every_byte_of_a_packet(stamps):
    out, _ = multiscale("inspect", stamps)
    sizes = [int(line.split()[0].replace(",", "")) for line in out.splitlines() if " %  " in line]
    totals = [
        int(line.split(":")[1].split()[0].replace(",", ""))
        for line in out.splitlines()
        if line.endswith(" bytes")
    ]
    assert sum(sizes) == sum(totals)
    assert "science: payload" in out


def test_export_writes_every_packet_and_npz_holds_the_levels(stamps, tmp_path):
    multiscale("export", stamps, "--format", "npz", "-o", tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6
    for path, alert in zip(files, ms.read_alerts(stamps), strict=True):
        with np.load(path) as arrays:
            for key in alert.cutout.keys:
                np.testing.assert_array_equal(arrays[key], alert.cutout.levels(key))


def test_show_and_export_take_a_surveys_own_alerts_too(lsst, tmp_path):
    pytest.importorskip("matplotlib", reason="extra plot")
    multiscale("show", lsst, "-o", tmp_path / "a.png", "--packet", 1)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    _, err = multiscale("show", lsst, "--packet", 99, "-o", tmp_path / "b.png", status=2)
    assert "6 packets" in err
    assert not (tmp_path / "b.png").exists()


def test_schema_embed_then_check_both_ways(tmp_path):
    old, new = tmp_path / "old.avsc", tmp_path / "new.avsc"
    schema = {"type": "record", "name": "alert", "fields": [{"name": "id", "type": "long"}]}
    old.write_text(json.dumps(schema))
    multiscale("schema", "embed", old, "-o", new)
    assert json.loads(new.read_text())["fields"][-1]["name"] == "cutoutMultiscale"
    multiscale("schema", "check", old, new)
    schema["fields"].insert(0, {"name": "first", "type": "long"})
    old.write_text(json.dumps(schema))
    out, _ = multiscale("schema", "check", new, old, status=1)
    assert "first" in out


def test_schema_show_is_complete_by_itself():
    for name in multiscale("schema", "list")[0].split():
        fastavro.parse_schema(json.loads(multiscale("schema", "show", name)[0]), _write_hint=False)


def test_size_counts_what_convert_writes(stamps):
    out, _ = multiscale("size", "--survey", "ztf")
    [line] = [line for line in out.splitlines() if "RAW" in line]
    told = int(line.split("RAW")[1].split()[0].replace(",", ""))
    from multiscale.inspection import avro_size
    from multiscale.schema import parsed_schema

    sizes = [
        avro_size(parsed_schema("multiscale.Cutout"), a.cutout.to_record()) for a in ms.read_alerts(stamps)
    ]
    assert abs(told - np.median(sizes)) <= 4  # units and the numbers of clipped pixels differ in length


@pytest.mark.shared_data
def test_every_real_alert_file_converts_or_is_reported_and_the_counts_add_up(tmp_path):
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    out, err = multiscale("convert", SHARED, "-o", tmp_path / "all.avro", "--encoding", "rice", status=1)
    total, converted, reported = (int(word) for word in err.split("\n")[0].split() if word.isdigit())
    assert total == converted + reported
    assert converted == len(records_of(tmp_path / "all.avro"))
    assert reported == len(out.splitlines())
    assert converted >= 270
    named = {line.split(".avro")[0] for line in out.splitlines()}
    empty = {str(p).removesuffix(".avro") for p in (SHARED / "damaged").glob("part-*.avro")}  # zero records
    seen = {a.split(".avro")[0] for a in named} | empty
    assert {str(p).removesuffix(".avro") for p in (SHARED / "damaged").glob("*.avro")} <= seen
    multiscale("validate", tmp_path / "all.avro")
