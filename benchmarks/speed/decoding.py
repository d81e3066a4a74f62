"""From the bytes of real alerts to arrays: ours beside what is used today, one core."""

import gzip
import io
from collections.abc import Callable
from dataclasses import replace

import fastavro
import numpy as np

from benchmarks.common import PLANES, RealAlert, cutout_bytes, real_alerts
from benchmarks.speed.timing import cpu_seconds
from multiscale import Cutout, Geometry, decode_batch, profile
from multiscale.avro import Schema, decode_body, encode_body
from multiscale.convert import Options, encode_survey_cutout
from multiscale.schema import load_schema

N_BATCH = 256  # packets: more leave the cache before they are decoded
N_PEER = 49  # alerts of a slow peer in each turn
SCHEMA = Schema.of(load_schema("multiscale.Cutout"))
LAYOUTS = {"ztf": ("ZTF-4x8", "ZTF-3x16"), "lsst": ("LSST-4x16", "16xL that covers")}
PEER = {"ztf": "peer: gunzip + astropy.io.fits", "lsst": "peer: CCDData.read"}


def three_planes(real: RealAlert, layout: str, encoding: str) -> dict:
    """Return the Cutout record of science, template and difference."""
    cutout = real.alert.cutout
    planes = {name: cutout.planes[name] for name in PLANES}
    only = replace(cutout, planes=planes, psf={}, psf_fwhm=None, mask_bits={}, missing=[])
    geometry: Geometry | None = None if layout.startswith("16xL") else profile(layout)
    return encode_survey_cutout(only, real.alert.survey, Options(geometry, encoding)).to_record()


def gunzip_and_fits(alerts: list[list[bytes]]) -> None:
    """Read the three cutouts of each alert as most brokers do for ZTF."""
    from astropy.io import fits

    for cutouts in alerts:
        for content in cutouts:
            with fits.open(io.BytesIO(gzip.decompress(content))) as hdus:
                np.asarray(hdus[0].data)


def bare_fits(alerts: list[list[bytes]]) -> None:
    """Read the three cutouts of each alert with astropy.io.fits, which is what LSST's need at the least."""
    from astropy.io import fits

    for cutouts in alerts:
        for content in cutouts:
            with fits.open(io.BytesIO(content)) as hdus:
                np.asarray(hdus[0].data)


def ccddata(alerts: list[list[bytes]]) -> None:
    """Read the three cutouts of each alert as Rubin's documentation shows for LSST."""
    from astropy.nddata import CCDData

    for cutouts in alerts:
        for content in cutouts:
            CCDData.read(io.BytesIO(content), format="fits")


def one_by_one(messages: list[bytes]) -> None:
    """Avro bytes to checked levels of three planes, one alert at a time."""
    for message in messages:
        cutout = Cutout.from_record(decode_body(SCHEMA, message))
        for name in PLANES:
            cutout.levels(name)


def batch_from_bytes(messages: list[bytes]) -> None:
    """Avro bytes to checked, stacked levels."""
    decode_batch([decode_body(SCHEMA, message) for message in messages])


def fastavro_alone(messages: list[bytes]) -> None:
    """What Avro costs by itself: fastavro's own reader, nothing checked."""
    parsed = SCHEMA.parsed
    for message in messages:
        fastavro.schemaless_reader(io.BytesIO(message), parsed)


def frombuffer_alone(payloads: list[bytes]) -> None:
    """The least that pixels can cost: no record, no check, no shared centres."""
    for payload in payloads:
        np.frombuffer(payload, "<f4")


def decoding(survey: str, *, rounds: int) -> tuple[int, dict[str, list[float]]]:
    """Return the number of alerts, and the CPU seconds an alert of each way to get three planes of pixels."""
    alerts = [a for a in real_alerts(survey) if a.has_three_planes]
    own = [cutout_bytes(a.record) for a in alerts][:N_PEER]
    runs: dict[str, tuple[Callable[[], object], int]] = {}
    for layout in LAYOUTS[survey]:
        for encoding in ("RAW", "RICE"):
            records = _many([three_planes(a, layout, encoding.lower()) for a in alerts], N_BATCH)
            bodies = [encode_body(SCHEMA, record) for record in records]
            label = f"{layout} {encoding}"
            runs |= {
                f"{label}, one by one": (lambda b=bodies: one_by_one(b), N_BATCH),
                f"{label}, batch from records": (lambda r=records: decode_batch(r), N_BATCH),
                f"{label}, batch from bytes": (lambda b=bodies: batch_from_bytes(b), N_BATCH),
            }
            if encoding == "RAW":
                payloads = [plane["payload"] for record in records for plane in record["planes"]]
                runs[f"{layout}: fastavro alone"] = (lambda b=bodies: fastavro_alone(b), N_BATCH)
                runs[f"{layout}: frombuffer alone"] = (lambda p=payloads: frombuffer_alone(p), N_BATCH)
    if survey == "ztf":
        runs[PEER["ztf"]] = (lambda: gunzip_and_fits(own), len(own))
    else:
        runs["peer: astropy.io.fits"] = (lambda: bare_fits(own), len(own))
        runs[PEER["lsst"]] = (lambda: ccddata(own), len(own))
    return len(alerts), cpu_seconds(runs, rounds=rounds)


def _many(items: list, n: int) -> list:
    return (items * (n // len(items) + 1))[:n]
