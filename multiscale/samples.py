"""Simulated alerts in the formats that ZTF and LSST really send, so that everything can be tried offline.

The pixels are simulated and say so (objectId, publisher): a supernova on its host, an asteroid, satellite
glints, a variable star, an active nucleus and a bogus dipole, with sky noise, neighbours and, now and then,
the edge of the chip. The packets are laid out as the surveys lay them out, faults included: gzipped FITS
without WCS and a flipped difference for ZTF; several HDUs with a WCS that lacks CTYPE for LSST.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .avro import write_container
from .errors import SurveyError

CLASSES = ("supernova", "asteroid", "satellite", "variable star", "active nucleus", "bogus")
SURVEYS = ("ztf", "lsst")
SEED = 1
_FITS_BLOCK, _CARD = 2880, 80
_CHIP = (3072, 3080)  # a ZTF quadrant, pixels
_MJD0 = 61_000.0


def write_samples(path: str | Path, *, survey: str = "ztf", n: int = 12, seed: int = SEED) -> int:
    """Write ``n`` simulated alerts of ``survey`` ("ztf" or "lsst") to an Avro file and return ``n``.

    The same seed gives the same alerts. Raises SurveyError for another survey.
    """
    if survey not in SURVEYS:
        raise SurveyError("survey", repr(survey), f"one of {', '.join(SURVEYS)}")
    schema = ZTF_SCHEMA if survey == "ztf" else LSST_SCHEMA
    write_container(path, schema, sample_records(survey, n, seed=seed))
    return n


def sample_records(survey: str, n: int, *, seed: int = SEED) -> Iterator[dict[str, Any]]:
    """Yield ``n`` simulated alert records of ``survey``."""
    make = _ztf_record if survey == "ztf" else _lsst_record
    for i in range(n):
        yield make(i, np.random.default_rng([seed, i]))


# --- the sky -------------------------------------------------------------------------------------------


def _grid(side: int, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:side, :side]
    return columns - x, rows - y


def _moffat(side: int, x: float, y: float, fwhm: float, beta: float = 3.5) -> np.ndarray:
    """A point source of unit flux at (x, y), fwhm in pixels."""
    alpha = fwhm / 2 / math.sqrt(2 ** (1 / beta) - 1)
    dx, dy = _grid(side, x, y)
    return (beta - 1) / (math.pi * alpha**2) * (1 + (dx**2 + dy**2) / alpha**2) ** -beta


def _galaxy(side: int, x: float, y: float, scale: float, axis_ratio: float, angle: float) -> np.ndarray:
    """An exponential disc of unit flux, scale length in pixels."""
    dx, dy = _grid(side, x, y)
    u, v = dx * math.cos(angle) + dy * math.sin(angle), -dx * math.sin(angle) + dy * math.cos(angle)
    return np.exp(-np.hypot(u, v / axis_ratio) / scale) / (2 * math.pi * scale**2 * axis_ratio)


def _scene(
    kind: str, side: int, x: float, y: float, fwhm: float, sky: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return science, template and difference (side, side) and the sky noise of the science, in counts."""
    sigma = math.sqrt(sky)
    static = np.zeros((side, side))
    change = np.zeros((side, side))
    flux = sigma * fwhm * 10 ** rng.uniform(1.0, 2.0)
    for _ in range(rng.poisson(2.5)):
        star_x, star_y = rng.uniform(0, side, 2)
        static += 10 ** rng.uniform(1.5, 3) * sigma * _moffat(side, star_x, star_y, fwhm)
    angle = rng.uniform(0, math.pi)
    if kind == "supernova":
        shift = rng.normal(0, 4, 2)
        static += 40 * flux * _galaxy(side, x + shift[0], y + shift[1], rng.uniform(2, 5), 0.6, angle)
        change += flux * _moffat(side, x, y, fwhm)
    elif kind == "satellite":
        gap, first = rng.uniform(6, 16), -int(rng.integers(0, 4))
        for i in range(first, first + int(rng.integers(4, 9))):
            dx, dy = i * gap * math.cos(angle), i * gap * math.sin(angle)
            change += flux * rng.uniform(0.4, 1) * _moffat(side, x + dx, y + dy, fwhm)
    elif kind == "variable star":
        static += 4 * flux * _moffat(side, x, y, fwhm)
        change += flux * rng.choice([-1, 1]) * _moffat(side, x, y, fwhm)
    elif kind == "active nucleus":
        static += 20 * flux * _galaxy(side, x, y, rng.uniform(2, 6), 0.8, angle)
        static += 2 * flux * _moffat(side, x, y, fwhm)
        change += 0.5 * flux * rng.choice([-1, 1]) * _moffat(side, x, y, fwhm)
    elif kind == "bogus":
        bright = 60 * flux
        static += bright * _moffat(side, x, y, fwhm)
        dx, dy = 0.12 * math.cos(angle), 0.12 * math.sin(angle)
        change += bright * (_moffat(side, x + dx, y + dy, fwhm) - _moffat(side, x, y, fwhm))
    else:
        change += flux * _moffat(side, x, y, fwhm)
    science = rng.normal(static + change, np.sqrt(np.maximum(static + change, 0) + sky)) + sky
    template = rng.normal(static, np.sqrt((static + sky) / 15)) + sky
    return science, template, science - template, sigma


# --- FITS and Avro as the surveys write them ---------------------------------------------------------


def _card(keyword: str, value: object) -> bytes:
    if isinstance(value, bool):
        text = f"{'T' if value else 'F':>20}"
    elif isinstance(value, str):
        text = f"'{value:8}'"
    else:
        text = f"{float(value)!r:>20}".upper() if isinstance(value, float) else f"{value:>20}"
    return f"{keyword:8}= {text}".ljust(_CARD).encode("ascii")


def _hdu(image: np.ndarray, header: dict[str, object], *, primary: bool) -> bytes:
    """One FITS HDU with an image of ">f4" or ">f8"."""
    dtype = ">f8" if image.dtype == np.float64 else ">f4"
    cards = [
        _card("SIMPLE", True) if primary else _card("XTENSION", "IMAGE"),
        _card("BITPIX", -64 if dtype == ">f8" else -32),
        _card("NAXIS", 2),
        _card("NAXIS1", image.shape[1]),
        _card("NAXIS2", image.shape[0]),
        *([] if primary else [_card("PCOUNT", 0), _card("GCOUNT", 1)]),
        *[_card(keyword, value) for keyword, value in header.items()],
        b"END".ljust(_CARD),
    ]
    head, data = b"".join(cards), image.astype(dtype).tobytes()
    return head + b" " * (-len(head) % _FITS_BLOCK) + data + bytes(-len(data) % _FITS_BLOCK)


_NULLABLE_BYTES = ["null", "bytes"]


def _fields(**types: object) -> list[dict[str, Any]]:
    return [
        {"name": name, "type": kind, **({"default": None} if isinstance(kind, list) else {})}
        for name, kind in types.items()
    ]


ZTF_SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "alert",
    "namespace": "ztf",
    "doc": "Simulated alerts, laid out like those of ZTF (a subset of its fields).",
    "fields": [
        *_fields(schemavsn="string", publisher="string", objectId="string", candid="long"),
        {
            "name": "candidate",
            "type": {
                "type": "record",
                "name": "candidate",
                "namespace": "ztf.alert",
                "fields": _fields(
                    jd="double",
                    fid="int",
                    pid="long",
                    diffmaglim=["null", "float"],
                    candid="long",
                    isdiffpos="string",
                    rcid=["null", "int"],
                    field=["null", "int"],
                    xpos=["null", "float"],
                    ypos=["null", "float"],
                    ra="double",
                    dec="double",
                    magpsf="float",
                    sigmapsf="float",
                    fwhm=["null", "float"],
                    elong=["null", "float"],
                    scorr=["null", "double"],
                    exptime=["null", "float"],
                    simulatedClass="string",
                ),
            },
        },
        {
            "name": "cutoutScience",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "cutout",
                    "namespace": "ztf.alert",
                    "fields": _fields(fileName="string", stampData="bytes"),
                },
            ],
            "default": None,
        },
        {"name": "cutoutTemplate", "type": ["null", "ztf.alert.cutout"], "default": None},
        {"name": "cutoutDifference", "type": ["null", "ztf.alert.cutout"], "default": None},
    ],
}


def _ztf_record(i: int, rng: np.random.Generator) -> dict[str, Any]:
    kind = CLASSES[i % len(CLASSES)]
    half, side, fwhm = 31, 63, rng.uniform(1.8, 3.0)
    # 1-based, as ZTF gives it; every fifth alert lies near the edge of its quadrant
    x_chip = rng.uniform(5, 28) if i % 5 == 4 else rng.uniform(100, _CHIP[0] - 100)
    y_chip = rng.uniform(100, _CHIP[1] - 100)
    x, y = half + x_chip - round(x_chip), half + y_chip - round(y_chip)
    science, template, difference, sigma = _scene(kind, side, x, y, fwhm, sky=250.0, rng=rng)
    first = max(0, half + 1 - round(x_chip))  # columns before the first of the chip
    is_positive = difference[half - 2 : half + 3, half - 2 : half + 3].sum() >= 0
    images = {"Science": science, "Template": template, "Difference": difference * (1 if is_positive else -1)}
    candid = 9_000_000_000_000_000 + i
    flux = abs(difference[half - 4 : half + 5, half - 4 : half + 5].sum())
    return {
        "schemavsn": "4.02",
        "publisher": "multiscale samples (simulated)",
        "objectId": f"SIM26{i:07d}",
        "candid": candid,
        "candidate": {
            "jd": _MJD0 + 2_400_000.5 + 0.01 * i,
            "fid": 1 + i % 2,
            "pid": 9_000_000_000 + i,
            "diffmaglim": 20.5,
            "candid": candid,
            "isdiffpos": "t" if is_positive else "f",
            "rcid": i % 64,
            "field": 600,
            "xpos": x_chip,
            "ypos": y_chip,
            "ra": float(rng.uniform(0, 360)),
            "dec": float(rng.uniform(-20, 60)),
            "magpsf": 26.3 - 2.5 * math.log10(max(flux, 1)),
            "sigmapsf": 0.1,
            "fwhm": fwhm,
            "elong": 1.1,
            "scorr": float(flux / (sigma * fwhm)),
            "exptime": 30.0,
            "simulatedClass": kind,
        },
        **{
            f"cutout{name}": {
                "fileName": f"candid{candid}_{name.lower()}.fits.gz",
                "stampData": gzip.compress(
                    _hdu(image[:, first:].astype(np.float32), {"BUNIT": "DN"}, primary=True), mtime=0
                ),
            }
            for name, image in images.items()
        },
    }


LSST_SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "alert",
    "namespace": "lsst.v10_0",
    "doc": "Simulated alerts, laid out like those of LSST (a subset of its fields).",
    "fields": [
        *_fields(diaSourceId="long", observation_reason=["null", "string"]),
        {
            "name": "diaSource",
            "type": {
                "type": "record",
                "name": "diaSource",
                "namespace": "lsst.v10_0",
                "fields": _fields(
                    diaSourceId="long",
                    visit="long",
                    detector="int",
                    diaObjectId=["null", "long"],
                    midpointMjdTai="double",
                    ra="double",
                    dec="double",
                    x="float",
                    xErr=["null", "float"],
                    y="float",
                    yErr=["null", "float"],
                    isNegative=["null", "boolean"],
                    snr=["null", "float"],
                    psfFlux=["null", "float"],
                    psfFluxErr=["null", "float"],
                    band=["null", "string"],
                    reliability=["null", "float"],
                    simulatedClass="string",
                ),
            },
        },
        *[
            {"name": f"cutout{n}", "type": _NULLABLE_BYTES, "default": None}
            for n in ("Difference", "Science", "Template")
        ],
    ],
}


def _lsst_record(i: int, rng: np.random.Generator) -> dict[str, Any]:
    kind = CLASSES[i % len(CLASSES)]
    side, scale, fwhm = int(rng.choice([30, 44, 60, 102])), 0.2 / 3600, rng.uniform(3.2, 5.0)
    x_chip, y_chip = rng.uniform(200, 3800, 2)
    corner = math.floor(x_chip + 1) - side // 2, math.floor(y_chip + 1) - side // 2
    x, y = x_chip - corner[0], y_chip - corner[1]
    science, template, difference, sigma = _scene(kind, side, x, y, fwhm, sky=900.0, rng=rng)
    ra, dec, angle = (
        float(rng.uniform(0, 360)),
        float(rng.uniform(-60, 10)),
        float(rng.uniform(0, 2 * math.pi)),
    )
    header = {
        "EXTEND": True,
        "CUTMINX": corner[0] - 1,
        "CUTMINY": corner[1] - 1,
        "BUNIT": "nJy",
        "WCSAXES": 2,
        "CRPIX1": x + 1,
        "CRPIX2": y + 1,
        "PC1_1": -scale * math.cos(angle),
        "PC1_2": scale * math.sin(angle),
        "PC2_1": scale * math.sin(angle),
        "PC2_2": scale * math.cos(angle),
        "CRVAL1": ra,
        "CRVAL2": dec,
    }
    flux = float(difference[side // 2 - 6 : side // 2 + 6, side // 2 - 6 : side // 2 + 6].sum())

    def stamp(image: np.ndarray, variance: float) -> bytes:
        noise = np.maximum(image - 900, 0) + variance
        psf = _moffat(33, 16, 16, fwhm)
        return (
            _hdu(image.astype(np.float32), header, primary=True)
            + _hdu(
                noise.astype(np.float32), {"EXTNAME": "UNCERT", "UTYPE": "VarianceUncertainty"}, primary=False
            )
            + _hdu(psf / psf.sum(), {"EXTNAME": "PSFIMAGE"}, primary=False)
        )

    return {
        "diaSourceId": 90_000_000 + i,
        "observation_reason": "multiscale samples (simulated)",
        "diaSource": {
            "diaSourceId": 90_000_000 + i,
            "visit": 2_026_000_000_000 + i,
            "detector": i % 189,
            "diaObjectId": None,
            "midpointMjdTai": _MJD0 + 0.01 * i,
            "ra": ra,
            "dec": dec,
            "x": x_chip,
            "xErr": 0.05,
            "y": y_chip,
            "yErr": 0.05,
            "isNegative": flux < 0,
            "snr": abs(flux) / (12 * sigma),
            "psfFlux": flux,
            "psfFluxErr": 12 * sigma,
            "band": "gri"[i % 3],
            "reliability": None,
            "simulatedClass": kind,
        },
        "cutoutDifference": stamp(difference, 960.0),
        "cutoutScience": stamp(science, 900.0),
        "cutoutTemplate": stamp(template, 60.0),
    }
