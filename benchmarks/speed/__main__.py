"""Rates of the codec beside FITS readers and memory copies in the same run: `python -m benchmarks.speed`.

Everything in this process runs on one thread. Competitors take turns within each round, and the medians of
the rounds are compared, so that what else the machine does falls on all alike.
"""

import gzip
import io
import os
import sys
import time
import warnings

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

from collections.abc import Callable  # noqa: E402
from dataclasses import replace  # noqa: E402

import fastavro  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.common import (  # noqa: E402
    PLANES,
    RealAlert,
    Requirement,
    at_least,
    at_most,
    cutout_bytes,
    real_alerts,
    save,
)
from benchmarks.speed.imports import import_ratio  # noqa: E402
from benchmarks.speed.visit import peak_visit  # noqa: E402
from multiscale import Cutout, Geometry, build_levels, decode_batch, pack, unpack  # noqa: E402
from multiscale.avro import (  # noqa: E402
    Schema,
    decode_body,
    encode_body,
)
from multiscale.convert import Options, encode_survey_cutout  # noqa: E402
from multiscale.schema import load_schema  # noqa: E402

ROUNDS = 9
N_BATCH = 3000  # alerts in a batch: the real ones, over and over
N_PEER = 60  # alerts for a slow peer in each round
COPY_BYTES = 64 << 20
SCHEMA = Schema.of(load_schema("multiscale.Cutout"))


def seconds(runs: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median time of each run; the runs take turns in every round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    return {name: float(np.median(t)) for name, t in times.items()}


def three_planes(real: RealAlert, encoding: str) -> dict:
    """Return the Cutout record of science, template and difference, in the survey's default layout."""
    cutout = real.alert.cutout
    planes = {name: cutout.planes[name] for name in PLANES}
    only = replace(cutout, planes=planes, psf={}, psf_fwhm=None, mask_bits={}, missing=[])
    return encode_survey_cutout(only, real.alert.survey, Options(encoding=encoding)).to_record()


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


def decoding(survey: str) -> tuple[dict[str, float], list[RealAlert]]:
    """Return the alerts a second of each way to get three planes of pixels."""
    alerts = [a for a in real_alerts(survey) if a.has_three_planes]
    raw, rice = ([three_planes(a, e) for a in alerts] for e in ("raw", "rice"))
    messages = [encode_body(SCHEMA, record) for record in raw]
    rice_messages = [encode_body(SCHEMA, record) for record in rice]
    own = [cutout_bytes(a.record) for a in alerts]
    peer = (own * (N_PEER // len(own) + 1))[:N_PEER]

    def many(items: list) -> list:
        return (items * (N_BATCH // len(items) + 1))[:N_BATCH]

    counts = {"one by one, RAW": len(messages), "one by one, RICE": len(messages)}
    runs: dict[str, Callable[[], object]] = {
        "one by one, RAW": lambda: one_by_one(messages),
        "one by one, RICE": lambda: one_by_one(rice_messages),
    }
    batches = {"RAW": (many(raw), many(messages)), "RICE": (many(rice), many(rice_messages))}
    for name, (records, bodies) in batches.items():
        runs[f"batch from records, {name}"] = lambda r=records: decode_batch(r)
        runs[f"batch from bytes, {name}"] = lambda b=bodies: batch_from_bytes(b)
    runs["fastavro alone, nothing checked"] = lambda: fastavro_alone(batches["RAW"][1])
    if survey == "ztf":
        runs["peer: gunzip + astropy.io.fits"] = lambda: gunzip_and_fits(peer)
    else:
        runs["peer: astropy.io.fits"] = lambda: bare_fits(peer)
        runs["peer: CCDData.read"] = lambda: ccddata(peer)
    for name in runs:
        counts.setdefault(name, N_PEER if name.startswith("peer") else N_BATCH)
    taken = seconds(runs)
    return {name: counts[name] / taken[name] for name in runs}, alerts


def copies() -> dict[str, float]:
    """Return the time of encoding and decoding pixels, as multiples of a copy of the same bytes."""
    out = {}
    rng = np.random.default_rng(1)
    for size, n_levels in ((8, 4), (16, 4)):
        geometry = Geometry(size, n_levels, 1.0)
        span = geometry.span_px
        n = COPY_BYTES // 4 // span**2
        clean = rng.normal(100, 10, (n, span, span)).astype(np.float32)
        scattered = clean.copy()
        scattered[rng.random(clean.shape) < 0.01] = np.nan
        edge = clean.copy()
        edge[:, -1], edge[:, :, -1] = np.nan, np.nan
        middle = span / 2 - 1

        def encode(images: np.ndarray, g: Geometry = geometry, at: float = middle) -> np.ndarray:
            return pack(build_levels(images, g, x=at, y=at), g)

        few = encode(clean)
        values = np.tile(few, (COPY_BYTES // (4 * geometry.n_pixels * n) + 1, 1))
        levels = unpack(values, geometry)
        taken = seconds(
            {
                "copy": clean.copy,
                "clean": lambda c=clean, f=encode: f(c),
                "1 % scattered": lambda s=scattered, f=encode: f(s),
                "missing row and column": lambda e=edge, f=encode: f(e),
                "copy of levels": levels.copy,
                "unpack": lambda v=values, g=geometry: unpack(v, g),
            }
        )
        label = f"{n_levels}x{size}"
        for name in ("clean", "1 % scattered", "missing row and column"):
            out[f"{label} build_levels + pack, {name}"] = taken[name] / taken["copy"]
        out[f"{label} unpack"] = taken["unpack"] / taken["copy of levels"]
    return out


def measure() -> list[Requirement]:
    """Measure, print and save; return the requirements."""
    warnings.simplefilter("ignore")  # astropy's, about the headers of survey cutouts
    rates, ratios = {}, {}
    for survey, peer in (("ztf", "peer: gunzip + astropy.io.fits"), ("lsst", "peer: CCDData.read")):
        rates[survey], alerts = decoding(survey)
        print(f"\n{survey.upper()}: three planes, {len(alerts)} real alerts{'alerts/s':>22}{'x peer':>10}")
        for name, rate in rates[survey].items():
            ratios[survey, name] = rate / rates[survey][peer]
            print(f"  {name:50} {rate:>10,.0f} {ratios[survey, name]:>9.1f}")
    multiples = copies()
    print("\nmultiples of a memory copy of the same bytes")
    for name, value in multiples.items():
        print(f"  {name:56} {value:6.2f}")
    visit = peak_visit()
    imports = import_ratio()
    print(f"\nimport multiscale: {imports:.2f} times the import of its four dependencies")

    def ratio(name: str, survey: str, run: str, limit: float) -> Requirement:
        return at_least(f"{survey.upper()}, {name}", ratios[survey, run], limit)

    fits, ccd = "x gunzip + FITS", "x CCDData.read"
    requirements = [
        ratio(f"one at a time, bytes to levels, {fits}", "ztf", "one by one, RAW", 15),
        ratio(f"one at a time, bytes to levels, {ccd}", "lsst", "one by one, RAW", 80),
        ratio(f"batch from records, {fits}", "ztf", "batch from records, RAW", 120),
        ratio(f"batch from records, {ccd}", "lsst", "batch from records, RAW", 250),
        ratio(f"batch from Avro bytes, {fits}", "ztf", "batch from bytes, RAW", 35),
        ratio(f"batch from Avro bytes, {ccd}", "lsst", "batch from bytes, RAW", 120),
        ratio(f"RICE batch from records, {fits}", "ztf", "batch from records, RICE", 25),
        *[at_most(f"{name}, copies", value, _copy_limit(name)) for name, value in multiples.items()],
        *[
            at_most(f"40,000 alerts, {name}, 2 processes", taken, 10, " s")
            for name, taken in visit["seconds"].items()
        ],
        at_most("import multiscale, x its four dependencies", imports, 1.4),
    ]
    results = {"alerts_per_second": rates, "copies": multiples, "visit": visit, "import_ratio": imports}
    save("speed", results, requirements)
    return requirements


def _copy_limit(name: str) -> float:
    if "unpack" in name:
        return 5 if name.startswith("4x16") else 15
    return 3 if name.endswith("clean") else 7


if __name__ == "__main__":
    sys.exit(0 if measure() else 1)
