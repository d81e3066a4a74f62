"""Bytes of real packets: the cutout, the alert that it is in, and its share of a compressed Kafka batch.

The rest of an alert is made of what the labelled stamps tell: the detection, the object's earlier detections
among the same stamps, six class probabilities and where the packet comes from, in the repository's schema.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multiscale import Alert, Cutout
from multiscale.atomic import replacing
from multiscale.avro import encode_body
from multiscale.packet import Classification, ClassProbability, Detection, ProcessingStep, Provenance
from multiscale.version import __version__
from reference_pipeline.alerts.packet import validated_packet
from reference_pipeline.taxonomy import STAMP_CLASSES, STAMP_TAXONOMY

from .data import Stamps, pixels
from .layouts import encoding_of, layout_of
from .results import Bytes, Spread
from .sent import FFT_SIDE, cutout_schema, messages_of, records_of
from .study import CellSpec

Ints = NDArray[np.int64]

BATCH_BYTES = 1_000_000  # librdkafka's batch.size
_FRAME = 12  # bytes round a record in a Kafka batch (format 2: lengths, deltas, no key), about
_BATCH_HEAD = 61


def size_key(cell: CellSpec) -> str:
    """Cells that send the same bytes have the same key."""
    return "_".join([cell.layout, cell.encoding, "+".join(cell.planes), *(["fft"] if cell.fft else [])])


def sample(stamps: Stamps, n: int) -> Ints:
    """Return rows of neighbours in the stream: whole exposures of the test part, in their order, up to n."""
    rows = np.flatnonzero(stamps.part == 2)
    order = np.lexsort((rows, stamps.facts["exposure_id"][rows]))
    return np.sort(rows[order[:n]])


def measure(stamps: Stamps, cells: Sequence[CellSpec], n: int, *, places: str) -> dict[str, Bytes]:
    """Return the bytes of every way of sending among ``cells``, by ``size_key``."""
    some = list(pixels(stamps, sample(stamps, n), places=places))
    earlier = _earlier(stamps)
    found: dict[str, Bytes] = {}
    for cell in {size_key(cell): cell for cell in cells}.values():
        layout, encoding = layout_of(cell.layout), encoding_of(cell.encoding)
        planes = [plane for plane in cell.planes if plane in stamps.planes]
        payload: list[int] = []
        whole: list[int] = []
        bare: list[bytes] = []
        alerts: list[bytes] = []
        spectrum = FFT_SIDE**2 if cell.fft else 0
        for each in some:
            if encoding.kind == "fits":
                bodies = messages_of(each, layout, encoding, planes)
                sent = [sum(map(len, files)) for files in bodies]
                payload += sent
                whole += sent
                for row, files in zip(each.rows, bodies):
                    alone = _message(stamps, earlier, int(row), None)
                    bare.append(alone)
                    alerts.append(alone + b"".join(files))  # fields of bytes, as ZTF has them
                continue
            for row, record in zip(each.rows, records_of(each, layout, encoding, planes)):
                payload.append(
                    sum(len(p["payload"]) + len(p["invalid"] or b"") for p in record["planes"]) + spectrum
                )
                whole.append(len(encode_body(cutout_schema(), record)) + spectrum)
                bare.append(_message(stamps, earlier, int(row), None))
                alerts.append(
                    _message(stamps, earlier, int(row), Cutout.from_record(record)) + bytes(spectrum)
                )
        found[size_key(cell)] = Bytes(
            pixels=spread(payload), cutout=spread(whole), alert=spread([len(a) for a in alerts]),
            alert_without=float(np.median([len(a) for a in bare])),
            snappy=share(alerts, "snappy"), zstd=share(alerts, "zstd"), n=len(alerts),
        )  # fmt: skip
    return found


def spread(values: Sequence[int]) -> Spread:
    """Return the median and the range of 90 %."""
    low, median, high = np.percentile(values, [5, 50, 95])
    return Spread(median=float(median), low=float(low), high=float(high))


def share(messages: Sequence[bytes], codec: str) -> float | None:
    """Return an alert's share of Kafka batches of a megabyte, compressed; None where cramjam is not here."""
    try:
        import cramjam
    except ImportError:
        return None
    batches: list[bytearray] = [bytearray()]
    for message in messages:
        if batches[-1] and len(batches[-1]) + _FRAME + len(message) > BATCH_BYTES:
            batches.append(bytearray())
        batches[-1] += bytes(_FRAME) + message
    compress = cramjam.snappy.compress_raw if codec == "snappy" else cramjam.zstd.compress
    total = sum(_BATCH_HEAD + len(bytes(compress(bytes(batch)))) for batch in batches)
    return round(total / len(messages), 1)


def write_sizes(path: Path, sizes: Mapping[str, Bytes]) -> None:
    """Write sizes to ``path`` (JSON), whole or not at all."""
    with replacing(path) as partial:
        values = {key: size.model_dump() for key, size in sizes.items()}
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def read_sizes(path: Path) -> dict[str, Bytes]:
    """Return the sizes in a file, none where it is not there."""
    if not path.is_file():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    return {key: Bytes.model_validate(size) for key, size in values.items()}


def _earlier(stamps: Stamps) -> dict[str, list[int]]:
    """Rows of each object, in time."""
    found: dict[str, list[int]] = defaultdict(list)
    for row in np.argsort(stamps.facts["mjd"], kind="stable"):
        found[str(stamps.facts["object_id"][row])].append(int(row))
    return found


def _message(stamps: Stamps, earlier: Mapping[str, list[int]], row: int, cutout: Cutout | None) -> bytes:
    """A stamp's alert as a single-object message, checked as `multiscale validate` does."""
    facts = stamps.facts
    name = str(facts["object_id"][row])
    mjd = float(facts["mjd"][row])
    history = [r for r in earlier[name] if facts["mjd"][r] < mjd]
    likely = np.full(len(STAMP_CLASSES), 0.02)
    likely[stamps.label[row]] = 1 - 0.02 * (len(STAMP_CLASSES) - 1)
    classes = tuple(ClassProbability(name=k, probability=float(p)) for k, p in zip(STAMP_CLASSES, likely))
    alert = Alert(
        alert_id=str(facts["stamp_id"][row]),
        survey=str(facts["survey"][row]),
        object_id=name,
        detection=_detection(stamps, row),
        history=tuple(_detection(stamps, r) for r in history),
        classifications=(
            Classification(
                classifier="stamps-ztf-4x8", version="1", taxonomy=STAMP_TAXONOMY, classes=classes
            ),
        ),
        processing=(ProcessingStep(step="difference", time=mjd), ProcessingStep(step="alert", time=mjd)),
        provenance=(Provenance(software="reference-pipeline", version=__version__, action="created"),),
        cutout=cutout,
    )
    return validated_packet(alert)


def _detection(stamps: Stamps, row: int) -> Detection:
    def known(name: str) -> float | None:
        value = float(stamps.facts[name][row])
        return value if np.isfinite(value) else None

    snr, magnitude = known("snr"), known("magnitude")
    return Detection(
        detection_id=str(stamps.facts["stamp_id"][row]),
        exposure_id=str(stamps.facts["exposure_id"][row]) or None,
        time=float(stamps.facts["mjd"][row]), time_scale="UTC", exposure_time=30.0,
        band=str(stamps.facts["band"][row]), ra=float(stamps.facts["ra"][row]),
        dec=float(stamps.facts["dec"][row]), magnitude=magnitude,
        magnitude_err=None if snr is None or magnitude is None else 1.0857 / max(abs(snr), 1e-3),
        magnitude_system="AB", snr=snr, is_positive=None if snr is None else snr > 0,
    )  # fmt: skip
