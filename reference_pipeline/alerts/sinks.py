"""Where alerts go: files, Kafka, or both. A sink says what it has, and only that counts as sent."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from multiscale import SPEC_VERSION, StampError
from multiscale.atomic import replacing
from multiscale.avro import container_of
from multiscale.avro.container import CONFLUENT_MAGIC

from ..difference_products import file_stem
from ..errors import ConfigError
from .packet import alert_schema, packet_body

FOLDER = "alerts"
_SIGN_OF_LIFE = 2.0  # seconds that brokers have for it
MEDIA_TYPE = f"application/vnd.multiscale.alert+avro;version={SPEC_VERSION}"  # specification 8.7


@dataclass(frozen=True)
class Packet:
    """A validated alert on its way out."""

    alert_id: str
    object_id: str
    topic: str
    data: bytes  # a single-object message (specification 8.2)
    is_sent: bool = False


@dataclass(frozen=True)
class Batch:
    """All alerts of one exposure in one branch, those sent before among them, in the candidates' order."""

    branch: str
    exposure_id: str
    packets: tuple[Packet, ...]

    @property
    def unsent(self) -> tuple[Packet, ...]:
        """The packets that wait."""
        return tuple(packet for packet in self.packets if not packet.is_sent)


@dataclass(frozen=True)
class Receipt:
    """What a sink has of a batch, and what was in the way of the rest."""

    confirmed: frozenset[str]  # ids of alerts
    trouble: str = ""
    is_down: bool = False  # nothing else will get through now


class Sink(Protocol):
    """What takes alerts. ``name`` goes to the database."""

    @property
    def name(self) -> str: ...

    def send(self, batch: Batch) -> Receipt:
        """Take what of ``batch`` is unsent; a return says what has arrived for good."""
        ...


@dataclass(frozen=True)
class FileSink:
    """``alerts/BRANCH/EXPOSURE.avro`` in an output folder: a container of an exposure's alerts.

    The file appears whole or not at all. It holds all alerts of the exposure, so that sending again what was
    not known to have arrived writes the same bytes.
    """

    out: Path
    name: str = "files"

    def path_of(self, branch: str, exposure_id: str) -> Path:
        """Return the file of an exposure's alerts."""
        return self.out / FOLDER / branch / f"{file_stem(exposure_id)}.avro"

    def send(self, batch: Batch) -> Receipt:
        """Write the file."""
        try:
            bodies = [packet_body(packet.data) for packet in batch.packets]
            path = self.path_of(batch.branch, batch.exposure_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, sync=True) as partial:
                partial.write_bytes(container_of(alert_schema(), bodies))
        except OSError as error:
            return Receipt(frozenset(), f"{self.path_of(batch.branch, batch.exposure_id)}: {error}", True)
        except StampError as error:  # a packet of another schema
            return Receipt(frozenset(), f"{batch.exposure_id}: {error}")
        return Receipt(frozenset(packet.alert_id for packet in batch.packets))


class _Answers:
    """What the brokers said of a batch."""

    def __init__(self, down_codes: Sequence[int]) -> None:
        self.down_codes = down_codes
        self.confirmed: set[str] = set()
        self.troubles: list[str] = []
        self.is_down = False

    def take(self, packet: Packet, error: Any) -> None:
        """Note the answer to one packet; ``error`` is None where it is kept."""
        if error is None:
            self.confirmed.add(packet.alert_id)
            return
        self.troubles.append(f"{packet.alert_id}: {error.str()}")
        self.is_down |= error.fatal() or error.code() in self.down_codes


class KafkaSink:
    """Kafka, by confluent-kafka's idempotent producer: at least once.

    What was sent, but not confirmed before this process ended, is sent again: consumers drop what they have
    by the header ``alert_id``. The key is the object's id, so that one object's alerts keep their order. The
    value is a single-object message (8.2), or with ``schema_id``, the id under which a registry knows the
    schema, a Confluent frame (8.3).
    """

    name = "kafka"

    def __init__(
        self,
        servers: str,
        *,
        schema_id: int | None = None,
        seconds: float = 30.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the producer; nothing is connected yet. ``options`` are librdkafka's, over those here."""
        try:
            from confluent_kafka import KafkaError, KafkaException, Producer
        except ImportError as error:
            raise ConfigError(
                "Kafka needs confluent-kafka: pip install 'multiscale-stamps[kafka]'"
            ) from error
        self.schema_id, self.seconds = schema_id, seconds
        self._was_down = False
        self._down_codes = (KafkaError._MSG_TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)
        self._kafka_error = KafkaException
        settings = {
            "bootstrap.servers": servers,
            "enable.idempotence": True,  # no doubles and no gaps from retries of this producer
            "acks": "all",
            "delivery.timeout.ms": int(seconds * 1000),
            "partitioner": "murmur2_random",  # as Java's clients: a key's partition is the same for all
            **(options or {}),
        }
        try:
            self.producer = Producer(settings)
        except KafkaException as error:
            raise ConfigError(f"Kafka at {servers}: {error}") from error

    def send(self, batch: Batch) -> Receipt:
        """Send what is unsent, and wait for the brokers to confirm it.

        Once they were not there, they are asked for a sign of life first: a night does not wait long for
        each of its exposures.
        """
        if self._was_down and not self._answers():
            return Receipt(frozenset(), f"no broker answers within {_SIGN_OF_LIFE:g} s", True)
        answers = _Answers(self._down_codes)
        deadline = time.monotonic() + self.seconds
        for packet in batch.unsent:
            try:
                self._produce(packet, answers, deadline)
            except self._kafka_error as error:  # of this message alone: too large, say
                answers.troubles.append(f"{packet.alert_id}: {error.args[0].str()}")
            except StampError as error:  # a packet of another schema
                answers.troubles.append(f"{packet.alert_id}: {error}")
            except BufferError:
                break  # the queue stays full: nothing has left for the whole time
        n_waiting = self.producer.flush(max(0.1, deadline - time.monotonic()))
        if n_waiting:
            self.producer.purge()
            self.producer.flush(1.0)
            answers.troubles.insert(0, f"{n_waiting} alerts not confirmed in {self.seconds:g} s")
        self._was_down = bool(n_waiting) or answers.is_down
        return Receipt(frozenset(answers.confirmed), "; ".join(answers.troubles[:3]), self._was_down)

    def _answers(self) -> bool:
        try:
            self.producer.list_topics(timeout=_SIGN_OF_LIFE)
        except self._kafka_error:
            return False
        return True

    def _produce(self, packet: Packet, answers: _Answers, deadline: float) -> None:
        while True:
            try:
                self.producer.produce(
                    packet.topic,
                    self._value(packet),
                    key=packet.object_id,
                    headers={"alert_id": packet.alert_id, "content-type": MEDIA_TYPE},
                    on_delivery=lambda error, message: answers.take(packet, error),
                )
                self.producer.poll(0)
                return
            except BufferError:  # the queue is full: let it drain
                if time.monotonic() > deadline:
                    raise
                self.producer.poll(0.2)

    def _value(self, packet: Packet) -> bytes:
        if self.schema_id is None:
            return packet.data
        return CONFLUENT_MAGIC + self.schema_id.to_bytes(4, "big", signed=True) + packet_body(packet.data)


@dataclass(frozen=True)
class Everywhere:
    """Several sinks: sent is what all of them have."""

    sinks: Sequence[Sink]

    @property
    def name(self) -> str:
        """The names of all."""
        return "+".join(sink.name for sink in self.sinks)

    def send(self, batch: Batch) -> Receipt:
        """Send to each, also where one before has failed."""
        receipts = [sink.send(batch) for sink in self.sinks]
        confirmed = frozenset.intersection(*(receipt.confirmed for receipt in receipts))
        trouble = "; ".join(receipt.trouble for receipt in receipts if receipt.trouble)
        return Receipt(confirmed, trouble, any(receipt.is_down for receipt in receipts))
