"""What waits in the outbox is sent, and marked as sent once it has arrived.

An alert enters the outbox in the transaction that makes it (the database has both or neither). It is sent
after that, and marked after the sink confirmed it: a process that ends in between, however it ends, leaves it
waiting, and it is sent again. So every alert arrives at least once; twice only under the same alert id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from sqlalchemy import func, select, update

from ..errors import DeliveryError
from ..store.opening import Store
from ..store.tables import Alert, Candidate, Outbox, Subtraction
from .sinks import Batch, Packet, Sink

_MJD_OF_1970 = 40587.0
_AT_ONCE = 500  # ids in one statement


def now_mjd() -> float:
    """The present (MJD, UTC)."""
    return _MJD_OF_1970 + time.time() / 86400.0


def topic_of(prefix: str, branch: str) -> str:
    """Return the Kafka topic of a branch's alerts."""
    return f"{prefix}.{branch}"


def deliver(store: Store, sink: Sink, *, now: Callable[[], float] = now_mjd) -> int:
    """Send what waits, exposure by exposure, the longest waiting first; return how many were marked sent.

    What a sink did not confirm stays. Raises DeliveryError at the end, when everything else has been tried or
    the sink is down; StoreError.
    """
    n_sent = n_left = 0
    troubles: list[str] = []
    for exposure_id, branch in _waiting(store):
        batch = _batch(store, exposure_id, branch)
        receipt = sink.send(batch)
        arrived = [packet.alert_id for packet in batch.unsent if packet.alert_id in receipt.confirmed]
        n_sent += _mark(store, arrived, sink.name, now())
        n_left += len(batch.unsent) - len(arrived)
        if receipt.trouble:
            troubles.append(receipt.trouble)
        if receipt.is_down:
            break
    if n_left:
        raise DeliveryError(
            f"{sink.name}: {n_sent} alerts sent, at least {n_left} wait: {'; '.join(troubles[:3])}"
        )
    return n_sent


def _waiting(store: Store) -> list[tuple[str, str]]:
    """Exposures and branches with alerts that wait."""
    longest = func.min(Outbox.queued_mjd)
    query = (
        select(Subtraction.exposure_id, Subtraction.branch)
        .join(Candidate, Candidate.subtraction_id == Subtraction.id)
        .join(Alert, Alert.candidate_id == Candidate.id)
        .join(Outbox, Outbox.alert_id == Alert.id)
        .where(Outbox.sent_mjd.is_(None))
        .group_by(Subtraction.exposure_id, Subtraction.branch)
        .order_by(longest, Subtraction.exposure_id, Subtraction.branch)
    )
    with store.read() as session:
        return [(exposure_id, branch) for exposure_id, branch in session.execute(query)]


def _batch(store: Store, exposure_id: str, branch: str) -> Batch:
    query = (
        select(Alert.id, Alert.object_id, Outbox.topic, Alert.packet, Outbox.sent_mjd)
        .join(Outbox, Outbox.alert_id == Alert.id)
        .join(Candidate, Candidate.id == Alert.candidate_id)
        .join(Subtraction, Subtraction.id == Candidate.subtraction_id)
        .where(Subtraction.exposure_id == exposure_id, Subtraction.branch == branch)
        .order_by(Candidate.number)
    )
    with store.read() as session:
        return Batch(
            branch,
            exposure_id,
            tuple(
                Packet(alert_id, object_id, topic, bytes(data), sent is not None)
                for alert_id, object_id, topic, data, sent in session.execute(query)
            ),
        )


def _mark(store: Store, alert_ids: list[str], sink: str, mjd: float) -> int:
    """Mark alerts as sent, and return how many; another process may have been faster."""
    n_marked = 0
    if not alert_ids:
        return 0
    with store.begin() as session:
        for some in _chunks(alert_ids):
            mark = update(Outbox).where(Outbox.alert_id.in_(some), Outbox.sent_mjd.is_(None))
            n_marked += session.execute(mark.values(sent_mjd=mjd, sink=sink)).rowcount  # type: ignore[attr-defined]
    return n_marked


def _chunks(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]


def count_waiting(store: Store) -> int:
    """Return how many alerts wait."""
    with store.read() as session:
        return session.execute(select(func.count()).where(Outbox.sent_mjd.is_(None))).scalar_one()
