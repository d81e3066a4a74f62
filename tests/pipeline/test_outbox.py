"""What waits is sent and marked, at least once and under one id, whatever ends the process in between."""

import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
from sqlalchemy import select

from multiscale import Alert, Geometry, Placement, check_file, encode_cutouts, read_alerts
from multiscale.avro import decode_confluent
from multiscale.packet import Detection
from multiscale.schema import load_schema
from reference_pipeline.alerts.outbox import count_waiting, deliver, now_mjd, topic_of
from reference_pipeline.alerts.packet import alert_id, alert_of, candidate_id, validated_packet
from reference_pipeline.alerts.sinks import Batch, Everywhere, FileSink, KafkaSink, Packet, Receipt
from reference_pipeline.errors import ConfigError, DeliveryError
from reference_pipeline.store import tables
from reference_pipeline.store.opening import open_store

MJD = 60310.25


@lru_cache
def packet(exposure_id, number, branch="dip"):
    image = np.random.default_rng(number).normal(100, 10, (40, 40)).astype(np.float32)
    (cutout,) = encode_cutouts({"science": image}, Geometry(8, 2, 1.0), [Placement.at(20.2, 19.7)])
    detection = Detection(
        detection_id=candidate_id("s", branch, exposure_id, number), exposure_id=exposure_id, time=MJD,
        time_scale="UTC", band="g", ra=150.0 + number / 100, dec=2.0,
    )  # fmt: skip
    return validated_packet(
        Alert(
            alert_id=alert_id("s", branch, exposure_id, number),
            survey="s",
            object_id=f"object{number}",
            detection=detection,
            cutout=cutout,
        )
    )


def fill(store, exposures=("e1", "e2"), n=3, branches=("dip",)):
    """A night's state: ``n`` alerts of each exposure and branch, all waiting."""
    number = dict.fromkeys(
        ("flux", "flux_err", "snr", "fwhm", "elongation", "mask_fraction", "edge", "dipole", "x", "y"), 1.0
    )
    place = {"ra": 150.0, "dec": 2.0, "ra_err": 1e-5, "dec_err": 1e-5, "healpix": 1}
    with store.begin() as session:
        for i in range(n):
            session.add(
                tables.Object(
                    id=f"object{i}",
                    branch="dip",
                    n_detections=1,
                    first_mjd=MJD,
                    last_mjd=MJD,
                    kind=None,
                    **place,
                )
            )
        for queued, exposure_id in enumerate(exposures):
            session.add(
                tables.Exposure(
                    id=exposure_id,
                    camera="c",
                    band="g",
                    start_mjd=MJD,
                    exposure_time=60.0,
                    product="p",
                    input_digest="d",
                    is_too=False,
                )
            )
            for branch in branches:
                subtraction = tables.Subtraction(
                    exposure_id=exposure_id, branch=branch, status="done", priority=0, decisions={}
                )
                session.add(subtraction)
                session.flush()
                for i in range(n):
                    of_candidate = candidate_id("s", branch, exposure_id, i)
                    of_alert = alert_id("s", branch, exposure_id, i)
                    session.add(
                        tables.Candidate(
                            id=of_candidate,
                            subtraction_id=subtraction.id,
                            number=i,
                            n_pixels=9,
                            flags=0,
                            mask_bits=0,
                            matches=[],
                            **number,
                            **place,
                        )
                    )
                    session.add(
                        tables.Alert(
                            id=of_alert,
                            candidate_id=of_candidate,
                            object_id=f"object{i}",
                            branch=branch,
                            packet=packet(exposure_id, i, branch),
                            created_mjd=MJD,
                        )
                    )
                    session.add(
                        tables.Outbox(
                            alert_id=of_alert, topic=topic_of("alerts", branch), queued_mjd=MJD - queued
                        )
                    )
    return store


@pytest.fixture
def store(store_url):
    opened = fill(open_store(store_url), branches=("dip", "qip"))
    yield opened
    opened.close()


def rows(store):
    with store.read() as session:
        return {r.alert_id: (r.sent_mjd, r.sink) for r in session.scalars(select(tables.Outbox))}


@dataclass
class Listening:
    """A real sink, and what it was given; ``crash`` is raised after it has it, as when a process ends."""

    sink: object
    batches: list
    crash: BaseException | None = None
    name: str = "listening"

    def send(self, batch):
        self.batches.append(batch)
        receipt = self.sink.send(batch)
        if self.crash is not None:
            raise self.crash
        return receipt


def test_every_alert_arrives_and_is_marked(store, tmp_path):
    assert count_waiting(store) == 12
    sink = FileSink(tmp_path)
    assert deliver(store, sink, now=lambda: 60311.0) == 12
    assert set(rows(store).values()) == {(60311.0, "files")}
    files = sorted(p.relative_to(tmp_path) for p in (tmp_path / "alerts").rglob("*") if p.is_file())
    assert [str(p) for p in files] == [
        "alerts/dip/e1.avro", "alerts/dip/e2.avro", "alerts/qip/e1.avro", "alerts/qip/e2.avro",
    ]  # fmt: skip
    for branch in ("dip", "qip"):
        for exposure_id in ("e1", "e2"):
            path = sink.path_of(branch, exposure_id)
            assert list(check_file(path)) == []
            given = [alert_of(packet(exposure_id, i, branch)) for i in range(3)]
            assert list(read_alerts(path)) == given
    assert deliver(store, sink) == 0


def test_the_longest_waiting_goes_first(store, tmp_path):
    sink = Listening(FileSink(tmp_path), [])
    deliver(store, sink)
    assert [(b.exposure_id, b.branch) for b in sink.batches] == [
        ("e2", "dip"), ("e2", "qip"), ("e1", "dip"), ("e1", "qip"),
    ]  # fmt: skip


def test_what_was_written_but_not_marked_is_written_again_the_same(store, tmp_path):
    sink = FileSink(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        deliver(store, Listening(sink, [], KeyboardInterrupt()))
    path = sink.path_of("dip", "e2")
    written = path.read_bytes()
    assert count_waiting(store) == 12
    assert deliver(store, sink) == 12
    assert path.read_bytes() == written


def test_a_late_alert_does_not_push_the_others_out_of_the_file(store, tmp_path):
    sink = FileSink(tmp_path)
    deliver(store, sink)
    written = sink.path_of("dip", "e1").read_bytes()
    with store.begin() as session:
        session.get(tables.Outbox, alert_id("s", "dip", "e1", 1)).sent_mjd = None
    assert deliver(store, sink) == 1
    assert sink.path_of("dip", "e1").read_bytes() == written


KILLED = """
import os, signal, sys
from pathlib import Path
from reference_pipeline.alerts.outbox import deliver
from reference_pipeline.alerts.sinks import FileSink
from reference_pipeline.store.opening import open_store

class Dies(FileSink):
    def send(self, batch):
        receipt = super().send(batch)
        if batch.exposure_id == "e1":
            os.kill(os.getpid(), signal.SIGKILL)
        return receipt

deliver(open_store(sys.argv[1]), Dies(Path(sys.argv[2])))
"""


def test_a_kill_loses_nothing(store, store_url, tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, store_url, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert count_waiting(store) == 6  # those of e2 were marked, those of e1 written and not
    assert FileSink(tmp_path).path_of("dip", "e1").exists()
    assert deliver(store, FileSink(tmp_path)) == 6
    ids = [alert.alert_id for p in tmp_path.rglob("*.avro") for alert in read_alerts(p)]
    assert sorted(ids) == sorted(rows(store))
    assert not list(tmp_path.rglob("*.partial"))


def test_a_file_in_the_way_is_named(store, tmp_path):
    (tmp_path / "alerts").write_text("not a folder")
    with pytest.raises(DeliveryError, match="files: 0 alerts sent, at least 3 wait"):
        deliver(store, FileSink(tmp_path))
    assert count_waiting(store) == 12


def test_a_packet_of_another_schema_holds_up_its_exposure_alone(store, tmp_path):
    with store.begin() as session:
        session.get(tables.Alert, alert_id("s", "dip", "e2", 0)).packet = b"\xc3\x01" + bytes(30)
    with pytest.raises(DeliveryError, match="e2"):
        deliver(store, FileSink(tmp_path))
    assert count_waiting(store) == 3


# Kafka: librdkafka's own brokers, over real sockets


@pytest.fixture
def kafka():
    pytest.importorskip("confluent_kafka", reason="needs confluent-kafka")
    return KafkaSink("ignored", seconds=10.0, options={"test.mock.num.brokers": 3, "log_level": 0})


def received(sink, topic, n):
    """The messages of ``topic``, as a consumer elsewhere gets them."""
    from confluent_kafka import Consumer, TopicPartition

    metadata = sink.producer.list_topics(topic, timeout=10)
    servers = ",".join(f"{b.host}:{b.port}" for b in metadata.brokers.values())
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "g", "log_level": 0})
    consumer.assign([TopicPartition(topic, p, 0) for p in metadata.topics[topic].partitions])
    messages = []
    while len(messages) < n:
        message = consumer.poll(10.0)
        assert message is not None, f"{len(messages)} of {n} messages"
        if message.error() is None:
            messages.append(message)
    assert consumer.poll(0.3) is None
    consumer.close()
    return messages


def header(message, name):
    return dict(message.headers())[name].decode()


def test_kafka_has_what_is_marked(store, kafka):
    assert deliver(store, kafka) == 12
    assert {sink for _, sink in rows(store).values()} == {"kafka"}
    for branch in ("dip", "qip"):
        messages = received(kafka, f"alerts.{branch}", 6)
        ids = {header(m, "alert_id") for m in messages}
        assert ids == {alert_id("s", branch, e, i) for e in ("e1", "e2") for i in range(3)}
        for message in messages:
            alert = alert_of(message.value())
            assert alert.alert_id == header(message, "alert_id")
            assert alert.object_id == message.key().decode()
            assert header(message, "content-type") == "application/vnd.multiscale.alert+avro;version=1.0"
        of_one = [m.partition() for m in messages if m.key() == b"object1"]
        assert len(set(of_one)) == 1


def test_kafka_gets_doubles_under_one_id(store, kafka):
    with pytest.raises(KeyboardInterrupt):
        deliver(store, Listening(kafka, [], KeyboardInterrupt()))
    assert count_waiting(store) == 12
    assert deliver(store, kafka) == 12
    ids = [header(m, "alert_id") for m in received(kafka, "alerts.dip", 9)]
    assert len(set(ids)) == 6
    values = {}
    for message in received(kafka, "alerts.dip", 9):
        assert values.setdefault(header(message, "alert_id"), message.value()) == message.value()


def test_kafka_behind_a_registry(store, kafka):
    kafka.schema_id = 7
    deliver(store, kafka)
    schema = load_schema("multiscale.Alert")
    for message in received(kafka, "alerts.dip", 6):
        record = decode_confluent(message.value(), {7: schema})
        assert Alert.from_record(record).alert_id == header(message, "alert_id")


def test_without_a_broker_everything_waits(store):
    pytest.importorskip("confluent_kafka", reason="needs confluent-kafka")
    sink = KafkaSink("127.0.0.1:1", seconds=1.0, options={"log_level": 0})
    with pytest.raises(DeliveryError, match="kafka: 0 alerts sent, at least 3 wait: "):
        deliver(store, sink)
    with pytest.raises(DeliveryError, match="no broker answers"):  # soon, from now on
        deliver(store, sink)
    assert count_waiting(store) == 12


def test_brokers_that_come_back_get_what_waits(store, kafka):
    kafka._was_down = True
    assert deliver(store, kafka) == 12


def test_one_alert_that_is_too_large_holds_up_no_other(store):
    pytest.importorskip("confluent_kafka", reason="needs confluent-kafka")
    large = packet("e1", 1)
    room = len(large) + 500
    with store.begin() as session:
        row = session.get(tables.Alert, alert_id("s", "dip", "e1", 1))
        row.packet = large + bytes(1000 + room)
    sink = KafkaSink(
        "ignored", seconds=10.0,
        options={"test.mock.num.brokers": 1, "message.max.bytes": room + 1000, "log_level": 0},
    )  # fmt: skip
    with pytest.raises(DeliveryError, match="s-dip-e1-00001-alert"):
        deliver(store, sink)
    waiting = [one for one, (sent, _) in rows(store).items() if sent is None]
    assert waiting == [alert_id("s", "dip", "e1", 1)]


def test_settings_that_kafka_does_not_know_are_named():
    pytest.importorskip("confluent_kafka", reason="needs confluent-kafka")
    with pytest.raises(ConfigError, match=r"no\.such\.setting"):
        KafkaSink("x", options={"no.such.setting": 1})


def test_sent_is_what_every_sink_has(store, kafka, tmp_path):
    assert deliver(store, Everywhere([FileSink(tmp_path), kafka])) == 12
    assert {sink for _, sink in rows(store).values()} == {"files+kafka"}
    assert len(received(kafka, "alerts.qip", 6)) == 6
    batch = Batch(
        "dip", "e9", (Packet("a", "o", "t", packet("e1", 0)), Packet("b", "o", "t", packet("e1", 1)))
    )
    half = Listening(FileSink(tmp_path), [])
    half.send = lambda batch: Receipt(frozenset({"a"}), "b is lost")
    receipt = Everywhere([FileSink(tmp_path), half]).send(batch)
    assert (receipt.confirmed, receipt.trouble) == (frozenset({"a"}), "b is lost")


def test_now_is_the_present():
    from astropy.time import Time

    assert abs(now_mjd() - Time.now().mjd) < 1e-4
