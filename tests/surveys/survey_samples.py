"""Alerts made by code for the tests of the survey readers, and the real ones where they are.

The FITS files are written card by card here, so that no test depends on the reader's own idea of FITS.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"
ALERT_SCHEMA = REPOSITORY / "spec" / "v1" / "schema" / "multiscale.Alert.avsc"

shared_data = pytest.mark.shared_data
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real alerts of ../shared/data are not here"
)


def card(key: str, value: object) -> bytes:
    text = ("F", "T")[value] if isinstance(value, bool) else str(value)
    if isinstance(value, str):
        text = "'" + value.replace("'", "''") + "'"
    return f"{key:<8}= {text:>20}".ljust(80).encode("ascii")


def hdu(array: np.ndarray | None, *, primary: bool = True, **cards: Any) -> bytes:
    """One HDU; ``cards`` in lower case become keywords (cd1_1=… is CD1_1)."""
    bitpix = {"f4": -32, "f8": -64, "u1": 8, "i2": 16, "i4": 32, "i8": 64}
    head = [card("SIMPLE", True) if primary else card("XTENSION", "IMAGE")]
    if array is None:
        head += [card("BITPIX", 8), card("NAXIS", 0)]
        data = b""
    else:
        big = array.astype(array.dtype.newbyteorder(">"))
        head += [card("BITPIX", bitpix[array.dtype.str[1:]]), card("NAXIS", array.ndim)]
        head += [card(f"NAXIS{i + 1}", side) for i, side in enumerate(array.shape[::-1])]
        data = big.tobytes()
    if not primary:
        head += [card("PCOUNT", 0), card("GCOUNT", 1)]
    head += [card(key.upper(), value) for key, value in cards.items()]
    header = b"".join([*head, b"END".ljust(80)])
    return header.ljust(-(-len(header) // 2880) * 2880) + data.ljust(-(-len(data) // 2880) * 2880, b"\0")


def noise(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)


def star(shape: tuple[int, int], x: float, y: float, flux: float = 5000.0) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    profile = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.2**2))
    return (flux * profile / profile.sum()).astype(np.float32)


def ztf_record(
    *, x: float = 1000.3, y: float = 1500.8, fades: bool = False, chip: tuple[int, int] = (3072, 3080)
) -> dict[str, Any]:
    """A ZTF packet of made-up noise, cut as ZTF cuts: around round(x), round(y), in FITS pixels."""
    column, row = round(x), round(y)
    low = min(31, column - 1), min(31, row - 1)
    shape = low[1] + 1 + min(31, chip[1] - row), low[0] + 1 + min(31, chip[0] - column)
    source = star(shape, low[0] + x - column, low[1] + y - row)
    science, template = noise(shape, 1), (noise(shape, 2) - 100) / 10 + 100
    science, template = (science, template + source) if fades else (science + source, template)
    difference = template - science if fades else science - template
    images = {"Science": science, "Template": template, "Difference": difference}
    candidate = {
        "jd": 2459001.0,
        "fid": 2,
        "pid": 1246500000515,
        "rcid": 5,
        "field": 600,
        "exptime": 30.0,
        "isdiffpos": "f" if fades else "t",
        "xpos": x,
        "ypos": y,
        "ra": 150.0,
        "dec": 2.0,
        "magpsf": 18.5,
        "sigmapsf": 0.1,
        "diffmaglim": 20.5,
        "fwhm": 2.0,
        "elong": 1.1,
        "scorr": 12.0,
        "rb": 0.8,
        "rbversion": "t17_f5_c3",
        "drb": 0.99,
        "drbversion": "d6_m7",
        "magnr": -999.0,
        "ssdistnr": 0.0,
        "ssmagnr": 18.4,
        "ssnamenr": "1234",
        "objectidps1": 77,
        "distpsnr1": 1.5,
        "sgscore1": 0.9,
        "srmag1": 17.0,
        "objectidps2": -999,
        "distpsnr2": -999.0,
    }
    upper = {"jd": 2458990.5, "fid": 1, "pid": 1236500000515, "candid": None, "diffmaglim": 20.1}
    earlier = {**candidate, "jd": 2458995.5, "candid": 1241500000515015001, "exptime": None}
    forced = {"jd": 2458996.5, "fid": 1, "pid": 1242500000515, "exptime": 30.0, "procstatus": "61"}
    forced |= {"forcediffimflux": -99999.0, "forcediffimfluxunc": -99999.0, "diffmaglim": 20.0}
    stamps = {
        f"cutout{name}": {"fileName": f"{name}.fits.gz", "stampData": gzip.compress(hdu(image, bunit="DN"))}
        for name, image in images.items()
    }
    return {
        "schemavsn": "4.02",
        "publisher": "ZTF (made up)",
        "objectId": "ZTF20aaaaaaa",
        "candid": 1246500000515015001,
        "candidate": candidate,
        "prv_candidates": [earlier, upper],
        "fp_hists": [forced],
        **stamps,
    }


LSST_WCS = {
    "crpix1": 15.43,
    "crpix2": 16.02,
    "crval1": 53.0,
    "crval2": -27.6,
    "cdelt1": 1.0,
    "cdelt2": 1.0,
    "pc1_1": -4.0e-5,
    "pc1_2": 3.8e-5,
    "pc2_1": 3.8e-5,
    "pc2_2": 4.0e-5,
}


def lsst_stamp(
    image: np.ndarray, *, psf: np.ndarray | None = None, variance: Any = None, mask: Any = None, **cards: Any
) -> bytes:
    cards = {"cutminx": 99, "cutminy": 199, "bunit": "nJy", **LSST_WCS, **cards}
    utype = cards.pop("utype", "VarianceUncertainty")
    content = hdu(image, **cards)
    if mask is not None:
        content += hdu(mask, primary=False, extname="MASK")
    if variance is not None:
        content += hdu(variance, primary=False, extname="UNCERT", utype=utype)
    return content + (hdu(psf, primary=False, extname="PSFIMAGE") if psf is not None else b"")


def lsst_record(**fields: Any) -> dict[str, Any]:
    """An LSST packet of 30×30 pixels whose source is at detector pixel (114.43, 215.02)."""
    shape = (30, 30)
    psf = star((41, 41), 20, 20, 1.0).astype(np.float64) / 3
    one = np.ones(shape, np.float32)
    source = {
        "diaSourceId": 42,
        "visit": 2025010100042,
        "detector": 94,
        "diaObjectId": 7,
        "ssObjectId": 0,
        "midpointMjdTai": 60700.25,
        "ra": 53.0,
        "dec": -27.6,
        "x": 114.43,
        "y": 215.02,
        "xErr": 0.1,
        "yErr": 0.2,
        "psfFlux": -900.0,
        "psfFluxErr": 90.0,
        "snr": 10.0,
        "isNegative": True,
        "band": "r",
        "ixx": 0.2,
        "iyy": 0.2,
        "ixy": 0.0,
        "ixxPSF": 0.18,
        "iyyPSF": 0.18,
        "ixyPSF": 0.0,
        "reliability": 0.75,
        "pixelFlags_edge": True,
        "pixelFlags_bad": False,
        "apFlux": float("nan"),
    }
    return {
        "diaSourceId": 42,
        "observation_reason": "test",
        "diaSource": source,
        "prvDiaSources": [{**source, "diaSourceId": 41, "midpointMjdTai": 60699.25}],
        "prvDiaForcedSources": [{"visit": 1, "midpointMjdTai": 60698.0, "band": "g", "psfFlux": 3.0}],
        "cutoutDifference": lsst_stamp(noise(shape, 3), psf=psf, variance=one * 100),
        "cutoutScience": lsst_stamp(noise(shape, 4), psf=psf, variance=one * 90),
        "cutoutTemplate": lsst_stamp(noise(shape, 5), psf=psf, variance=one * 10),
        **fields,
    }


def alert_schema() -> Any:
    return fastavro.schema.load_schema(str(ALERT_SCHEMA))


def read_file(path: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The writer's schema and the records of a container, read without its (sometimes wrong) defaults."""
    with path.open("rb") as file:
        header = fastavro.schemaless_reader(file, _HEADER, None)
        body = file.read()
    schema = json.loads(header["meta"]["avro.schema"])
    header["meta"]["avro.schema"] = json.dumps(_without_defaults(schema)).encode()
    whole = BytesIO()
    fastavro.schemaless_writer(whole, _HEADER, header)
    return schema, list(fastavro.reader(BytesIO(whole.getvalue() + body)))


_HEADER = {
    "type": "record",
    "name": "header",
    "fields": [
        {"name": "magic", "type": {"type": "fixed", "name": "magic", "size": 4}},
        {"name": "meta", "type": {"type": "map", "values": "bytes"}},
        {"name": "sync", "type": {"type": "fixed", "name": "sync", "size": 16}},
    ],
}


def _without_defaults(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_defaults(value) for key, value in node.items() if key != "default"}
    return [_without_defaults(item) for item in node] if isinstance(node, list) else node


def real_alerts(*folders: str) -> Iterator[tuple[Path, Any, dict[str, Any]]]:
    """(file, schema, record) of every readable alert in folders of ../shared/data."""
    for folder in folders:
        for path in sorted((SHARED / folder).glob("*.avro")):
            if path.name.endswith(".confluent.avro"):
                continue  # a message, not a container: its schema is not in it
            schema, found = read_file(path)
            for record in found:
                yield path, schema, record
