"""Files of packets: what is written is read back, from any source, and nothing half-written stays behind."""

import copy
import io

import numpy as np
import pytest

import multiscale as ms
from multiscale.avro import read_container, write_container
from multiscale.convert import Options, convert_file, open_packets
from multiscale.samples import write_samples
from multiscale.schema import load_schema


@pytest.fixture
def alerts(tmp_path):
    path = tmp_path / "survey.avro"
    write_samples(path, survey="ztf", n=3)
    first = tmp_path / "first.avro"
    ms.write_alerts(first, (alert for _, alert in open_packets(path)))
    return list(ms.read_alerts(first))  # with the numbers as they travel, in binary32


def same(a, b):
    return a.to_record() == b.to_record()


@pytest.mark.parametrize("source", ["path", "text", "bytes", "file"])
def test_alerts_are_read_back_as_they_were_written(alerts, tmp_path, source):
    path = tmp_path / "a.avro"
    assert ms.write_alerts(path, iter(alerts)) == 3
    opened = {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "file": io.BytesIO(path.read_bytes()),
    }[source]
    found = list(ms.read_alerts(opened))
    assert all(same(a, b) for a, b in zip(found, alerts, strict=True))
    for alert, original in zip(found, alerts, strict=True):
        np.testing.assert_array_equal(alert.cutout.levels("science"), original.cutout.levels("science"))


def test_an_embedded_alert_gives_its_cutout_and_the_surveys_own_fields(tmp_path):
    source, target = tmp_path / "survey.avro", tmp_path / "embedded.avro"
    write_samples(source, survey="lsst", n=2)
    file = convert_file(source, Options(), embed=True)
    write_container(target, file.schema, (packet.record for packet in file.packets))
    for alert, own in zip(ms.read_alerts(target), read_container(source), strict=True):
        assert alert.record == {name: v for name, v in own.items() if not name.startswith("cutout")}
        assert alert.cutout.levels("variance", of="science").shape == alert.cutout.levels("science").shape
    again = tmp_path / "again.avro"
    ms.write_alerts(again, ms.read_alerts(target), schema=file.schema)
    assert list(read_container(again)) == list(read_container(target))


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(alerts, tmp_path):
    path = tmp_path / "a.avro"
    ms.write_alerts(path, alerts[:1])
    before, names = path.read_bytes(), sorted(p.name for p in tmp_path.iterdir())

    def breaks_off():
        yield alerts[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ms.write_alerts(path, breaks_off())
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_an_alert_of_another_schema_is_refused(alerts, tmp_path):
    with pytest.raises(ms.RecordError, match="schema"):
        ms.write_alerts(tmp_path / "a.avro", [ms.EmbeddedAlert({"id": 1}, alerts[0].cutout)])


def test_the_good_packets_before_a_bad_one_are_read_and_its_number_is_named(alerts, tmp_path):
    records = [copy.deepcopy(alert.to_record()) for alert in alerts]
    records[1]["cutout"]["size"] = 7
    path = tmp_path / "a.avro"
    write_container(path, load_schema("multiscale.Alert"), records)
    reader = ms.read_alerts(path)
    assert same(next(reader), alerts[0])
    with pytest.raises(ms.RecordError, match=r"packet 1\.cutout\.size: geometry"):
        next(reader)


def test_a_schema_with_our_name_and_other_types_is_refused(alerts, tmp_path):
    schema = load_schema("multiscale.Alert")
    for field in schema["fields"]:
        if field["name"] == "alertId":
            field["type"] = "long"
    record = {**alerts[0].to_record(), "alertId": 7}
    path = tmp_path / "a.avro"
    write_container(path, schema, [record])
    with pytest.raises(ms.SchemaError, match="alertId"):
        next(ms.read_alerts(path))


def test_memory_does_not_grow_with_the_number_of_packets(alerts, tmp_path):
    import tracemalloc

    def peak(n):
        path = tmp_path / f"{n}.avro"
        ms.write_alerts(path, (alerts[i % 3] for i in range(n)))
        tracemalloc.start()
        count = sum(1 for _ in ms.read_alerts(path))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == n
        return used

    peak(10)
    assert peak(2000) < peak(200) + 500_000  # bytes: 1,800 packets more are 5 MB
