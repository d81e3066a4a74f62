"""How many bytes a layout costs: an alert, a visit, a night, and the link that carries them.

RAW is exact arithmetic. RICE depends on the pixels, so stamps of a simulated field (sky noise, a star, a
galaxy) are really encoded and serialised; on real ZTF stamps ``python -m benchmarks.size`` measures it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .cutout import Cutout
from .encode import encode_cutouts
from .geometry import Geometry, Placement
from .inspection import avro_size
from .keys import PlaneKey
from .schema import parsed_schema

N_SIMULATED = 40
SKY_SIGMA = 10.0  # counts: any value, the step follows it
SEED = 20260


@dataclass(frozen=True)
class Stream:
    """How many alerts a survey sends."""

    name: str
    alerts_per_visit: int  # average
    peak_alerts_per_visit: int
    alerts_per_night: int
    seconds_per_visit: float  # time in which a visit's alerts have to be through


STREAMS = {  # Rubin: DMTN-102; ZTF: its public stream
    "lsst": Stream("LSST", 10_000, 40_000, 10_000_000, 39.0),
    "ztf": Stream("ZTF", 300, 3_000, 300_000, 40.0),
}


@dataclass(frozen=True)
class Layout:
    """Bytes of the cutouts of one alert in one layout."""

    name: str
    n_bytes: float
    basis: str  # how the figure was had


# what the surveys send today; three cutouts, measured on the real alerts that the benchmarks read
OWN_LAYOUTS = {
    "ztf": Layout("ZTF today: three 63x63, gzip FITS", 40_595, "median of 1,024 real alerts"),
    "lsst": Layout("LSST today: three FITS, variance, PSF", 109_440, "median of real alerts"),
}


def simulated_planes(geometry: Geometry, kinds: tuple[PlaneKey, ...], n: int) -> dict[PlaneKey, np.ndarray]:
    """Return ``n`` simulated footprints of each plane, float32 (n, span, span): noise, a star, a galaxy."""
    rng = np.random.default_rng(SEED)
    span = geometry.span_px
    y, x = np.mgrid[:span, :span] - (span / 2 - 0.5)
    star = np.exp(-(x**2 + y**2) / (2 * 1.2**2))
    galaxy = np.exp(-np.hypot(x - 4, (y + 3) * 1.6) / 4)
    out: dict[PlaneKey, np.ndarray] = {}
    for key in kinds:
        noise = rng.normal(0, SKY_SIGMA, (n, span, span))
        flux = rng.uniform(5, 100, (n, 1, 1)) * SKY_SIGMA
        kind = key if isinstance(key, str) else key[0]
        if kind == "variance":
            image = SKY_SIGMA**2 + flux * star / 5 + rng.normal(0, 1, noise.shape)
        elif kind == "template":
            image = 150 + flux * galaxy + noise / 3
        elif kind == "score":
            image = noise / SKY_SIGMA + flux / SKY_SIGMA * star
        else:
            image = noise + flux * star + (0 if kind == "difference" else 150 + flux * galaxy)
        out[key] = image.astype(np.float32)
    return out


def layout_bytes(
    geometry: Geometry, kinds: tuple[PlaneKey, ...], *, encoding: str = "raw", step_sigma: float = 0.25
) -> Layout:
    """Return the size of a whole ``multiscale.Cutout`` record: the median over simulated stamps."""
    placement = Placement(geometry.span_px // 2, geometry.span_px // 2, 0.1, -0.2)
    cutouts: list[Cutout] = encode_cutouts(
        simulated_planes(geometry, kinds, N_SIMULATED),
        geometry,
        [placement] * N_SIMULATED,
        encoding=encoding,
        step_sigma=step_sigma,
        units="adu",
    )
    schema = parsed_schema("multiscale.Cutout")
    sizes = [avro_size(schema, cutout.to_record()) for cutout in cutouts]
    step = f" at sigma*{step_sigma:g}" if encoding == "rice" else ""
    name = f"{geometry.n_levels}x{geometry.size}, {len(kinds)} planes, {encoding.upper()}{step}"
    basis = "exact, background and noise included" if encoding == "raw" else f"{N_SIMULATED} simulated stamps"
    return Layout(name, float(np.median(sizes)), basis)
