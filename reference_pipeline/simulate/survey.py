"""A night of a simulated survey: what is exposed when and in what air, and its files.

Three surveys are shipped: ast3, ztf, lsst. Same survey, seed and night: same bytes, with any number of
processes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Literal

import erfa
import numpy as np
from astropy.coordinates import get_body
from astropy.time import Time
from numpy.typing import NDArray
from pydantic import Field

from multiscale.atomic import replacing

from ..catalogues.sphere import separation
from ..config import (
    Alerts,
    Catalogues,
    Config,
    NightRun,
    PipelineConfig,
    Site,
    Templates,
    find_description,
    load_toml,
    parse_model,
    write_config,
)
from ..errors import ConfigError
from ..frame import Exposure
from ..pool import worker_pool
from .atmosphere import Conditions
from .catalogue_files import write_catalogues
from .exposure import calibration_frame, expose
from .raw import write_raw
from .sky import Sky, SkyConfig
from .solar_system import place_asteroids
from .telescope import Telescope, load_telescope
from .truth import write_truth

Floats = NDArray[np.float64]

_CATALOGUES = Catalogues(  # beside reduce.toml
    astrometry="catalogues/gaia", photometry="catalogues/ps1",
    galaxies="catalogues/GLADE+.txt", orbits="catalogues/MPCORB.DAT",
)  # fmt: skip

_PLAN, _FRAME, _ASTEROIDS = 100, 101, 102  # random streams


class SurveyField(Config):
    """A field of the survey."""

    id: str
    ra: float = Field(ge=0, lt=360)  # degrees
    dec: float = Field(ge=-90, le=90)


class Asteroids(Config):
    """Asteroids that cross the fields of a night."""

    per_field: float = Field(default=3.0, ge=0)
    bright: float = 15.0  # V
    faint: float = 21.0


class Weather(Config):
    """The air over nights: seeing is log-normal; clouds come by frame."""

    seeing_median: float = Field(default=1.5, gt=0)  # arcsec at the zenith
    seeing_scatter: float = Field(default=0.15, ge=0)  # of ln(seeing)
    extinction: float = Field(default=0.15, ge=0)  # mag per airmass
    dark_sky: float = 21.5  # mag per square arcsec, no Moon, in r
    jitter: float = Field(default=0.15, ge=0)  # arcsec, rms of the guiding
    thin_cloud_rate: float = Field(default=0.05, ge=0, le=1)
    patchy_cloud_rate: float = Field(default=0.05, ge=0, le=1)
    patchy_cloud_depth: tuple[float, float] = (0.3, 1.5)  # mag, the range of the deepest, over 6° of sky


class SurveyConfig(Config):
    """A survey, as its TOML file says it."""

    name: str
    telescope: str  # a shipped one, or a .toml
    fields: tuple[SurveyField, ...] = Field(min_length=1)
    bands: tuple[str, ...] = Field(min_length=1)  # taken in turn
    exposure_time: float = Field(gt=0)  # seconds
    overhead: float = Field(default=10.0, ge=0)  # seconds between exposures
    n_fields: int = Field(default=3, ge=1)  # visited in a night, those that culminate nearest to midnight
    n_bias: int = Field(default=12, ge=0)
    n_flats: int = Field(default=20, ge=0)  # of each band's share; bands in turn
    n_science: int = Field(default=30, ge=1)
    flat_time: float = Field(default=5.0, gt=0)  # seconds
    dither: float = Field(default=10.0, ge=0)  # arcsec, rms
    rotation: float = 0.0  # degrees, of the field
    rotation_scatter: float = Field(default=0.0, ge=0)  # degrees, rms
    max_airmass: float = Field(default=2.0, ge=1)
    size: tuple[int, int] | None = None  # (ny, nx) of the chip; None: the telescope's own
    default_night: str  # YYYY-MM-DD, of the evening's UTC date
    template_night: str | None = None  # an earlier one, on which every field and band of the night was seen
    n_templates: int = Field(default=1, ge=1)  # frames of each then
    template_limit: float | None = None  # limiting magnitude that templates must reach
    branches: tuple[Literal["qip", "dip"], ...] = ("dip",)  # that its frames are subtracted in
    weather: Weather = Weather()
    sky: SkyConfig = SkyConfig()
    asteroids: Asteroids = Asteroids()


@dataclass(frozen=True)
class Planned:
    """One exposure of a night: when, where, and in what air."""

    exposure: Exposure
    index: int  # in the night: its random stream
    rotation: float = 0.0  # degrees
    conditions: Conditions | None = None  # None: a calibration frame


@dataclass(frozen=True)
class NightSummary:
    """What a simulated night has cost and holds."""

    folder: Path
    n_bias: int
    n_flats: int
    n_science: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.n_bias} bias, {self.n_flats} flats, {self.n_science} science frames "
            f"in {self.seconds:.1f} s"
        )


def load_survey(name: str) -> SurveyConfig:
    """Return the survey of the TOML file ``name``, or the one shipped under that name.

    Raises ConfigError when there is neither, or it does not hold.
    """
    path = find_description(name, "surveys", package=__package__)
    return parse_model(SurveyConfig, load_toml(path), str(path))


def only_fields(config: SurveyConfig, ids: Sequence[str]) -> SurveyConfig:
    """Return the survey with these fields alone. Raises ConfigError for one that it does not have."""
    known = {field.id: field for field in config.fields}
    if unknown := [name for name in ids if name not in known]:
        raise ConfigError(
            f"survey {config.name} has no field {', '.join(unknown)}; it has {', '.join(known)}"
        )
    chosen = tuple(known[name] for name in dict.fromkeys(ids))
    return config.model_copy(update={"fields": chosen, "n_fields": len(chosen)})


def telescope_of(config: SurveyConfig) -> Telescope:
    """The survey's telescope, with a chip of the survey's size."""
    return load_telescope(config.telescope, config.size)


def field_radius(config: SurveyConfig) -> float:
    """Degrees from the commanded pointing beyond which nothing shows: corner, dither and pointing error."""
    telescope = telescope_of(config)
    corner = 0.5 * np.hypot(*telescope.detector.shape) * telescope.detector.camera.pixel_scale
    return float(1.02 * corner + 4 * (config.dither + telescope.pointing_error) + 60) / 3600


def plan_night(config: SurveyConfig, seed: int, night: str) -> list[Planned]:
    """Return the exposures of ``night`` (YYYY-MM-DD), in order: bias, evening flats, science.

    Science frames lie about the middle of the night, fields and bands in turn; those of the survey's template
    night come last. Raises ConfigError for a date that is none, a camera without a site, a night without
    darkness, or no field above the airmass limit.
    """
    site, camera = _site(config), telescope_of(config).detector.camera.name
    middle = _midnight(night, site)
    step = (config.exposure_time + config.overhead) / 86400
    first = middle - 0.5 * config.n_science * step
    out: list[Planned] = []
    for k in range(config.n_bias):
        start = first - 0.2 + k * 15 / 86400
        out.append(Planned(Exposure(_id(config, night, "bias", k), camera, "bias", start, 0.0), len(out)))
    for k in range(config.n_flats):
        band, start = config.bands[k % len(config.bands)], first - 0.1 + k * (config.flat_time + 20) / 86400
        name = _id(config, night, f"flat-{band}", k)
        out.append(Planned(Exposure(name, camera, "flat", start, config.flat_time, band), len(out)))
    fields = _visible(config, site, middle)
    targets = [(field, band) for band in config.bands for field in fields]
    visits = [(night, k, *targets[k % len(targets)]) for k in range(config.n_science)]
    if config.template_night is not None:
        used = targets[: config.n_science] * config.n_templates
        visits += [(config.template_night, k, *target) for k, target in enumerate(used)]
        _check_templates(config, site, night, fields)
    for evening, k, field, band in visits:
        start = _midnight(evening, site) + (k - 0.5 * config.n_science) * step
        rng = np.random.default_rng([seed, _PLAN, int(_midnight(evening, site))])
        night_seeing = float(np.exp(rng.normal(0, 0.5 * config.weather.seeing_scatter)))
        name = _id(config, evening, f"{field.id}-{band}", k)
        out.append(_science(config, site, camera, field, band, start, name, len(out), seed, night_seeing))
    return out


def _id(config: SurveyConfig, night: str, what: str, number: int) -> str:
    return f"{config.name}-{night.replace('-', '')}-{what}-{number:04d}"


def _check_templates(config: SurveyConfig, site: Site, night: str, fields: list[SurveyField]) -> None:
    """Raise ConfigError where the template night is not earlier, or does not see the night's fields."""
    assert config.template_night is not None
    middle = _midnight(config.template_night, site)
    if middle >= _midnight(night, site):
        raise ConfigError(f"template night {config.template_night}: expected one before {night}")
    for field in fields:
        altitude = _altitude(field.ra, field.dec, middle, site)
        if altitude < 10:
            raise ConfigError(
                f"template night {config.template_night}: {field.id} stands at {altitude:.0f}° at midnight"
            )


def simulate_night(
    config: SurveyConfig,
    seed: int,
    night: str,
    out: Path,
    *,
    workers: int = 1,
    progress: Callable[[str], None] | None = None,
) -> NightSummary:
    """Write a night to ``out``: raw/, truth/, catalogues/, survey.json, and reduce.toml to reduce it with.

    Every file appears whole or not at all.

    ``progress`` is told the id of every frame written. Raises ConfigError as :func:`plan_night` does, and if
    ``out`` already holds a night.
    """
    began = time.perf_counter()
    if (out / "survey.json").exists():
        raise ConfigError(f"{out}: already holds a night; remove it or name another folder")
    plan = plan_night(config, seed, night)
    text = config.model_dump_json()
    for folder in ("raw", "truth"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    jobs = [(text, seed, night, index, str(out)) for index in range(len(plan))]
    if workers == 1:
        for job in jobs:
            _told(progress, _one(job))
    else:
        with worker_pool(workers) as pool:
            for name in pool.map(_one, jobs):
                _told(progress, name)
    seen = {p.exposure.field_id for p in plan if p.exposure.kind == "science"}
    fields = np.array([(f.ra, f.dec) for f in config.fields if f.id in seen])
    write_catalogues(night_sky(text, seed, night), out / "catalogues", fields, field_radius(config) + 0.25)
    record = {"seed": seed, "night": night, "survey": json.loads(text), "exposures": [
        {**asdict(p.exposure), "rotation": p.rotation,
         "conditions": p.conditions and p.conditions.model_dump()} for p in plan
    ]}  # fmt: skip
    camera = telescope_of(config).detector.camera
    settings = PipelineConfig(
        camera=camera, catalogues=_CATALOGUES, alerts=Alerts(survey=f"{config.name}-simulated"),
        templates=Templates(min_limiting_magnitude=config.template_limit),
        night=NightRun(branches=config.branches),
    )  # fmt: skip
    write_config(out / "reduce.toml", settings)
    with replacing(out / "survey.json") as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    kinds = [p.exposure.kind for p in plan]
    return NightSummary(
        out, kinds.count("bias"), kinds.count("flat"), kinds.count("science"), time.perf_counter() - began
    )


@lru_cache(maxsize=2)
def night_sky(config_json: str, seed: int, night: str) -> Sky:
    """The sky of a night: the survey's, with the asteroids that cross its fields then."""
    config = SurveyConfig.model_validate_json(config_json)
    site = _site(config)
    middle = _midnight(night, site)
    fields = np.array([(f.ra, f.dec) for f in _visible(config, site, middle)])
    a = config.asteroids
    orbits = place_asteroids(
        fields, field_radius(config), middle, site, np.random.default_rng([seed, _ASTEROIDS, int(middle)]),
        per_field=a.per_field, bright=a.bright, faint=a.faint,
    )  # fmt: skip
    return Sky(seed, config.sky, orbits, site)


@lru_cache(maxsize=2)
def _plan(config_json: str, seed: int, night: str) -> tuple[SurveyConfig, Telescope, list[Planned]]:
    config = SurveyConfig.model_validate_json(config_json)
    return config, telescope_of(config), plan_night(config, seed, night)


def _one(job: tuple[str, int, str, int, str]) -> str:
    """Make and write one exposure; return its id."""
    text, seed, night, index, folder = job
    config, telescope, plan = _plan(text, seed, night)
    planned = plan[index]
    exposure = planned.exposure
    rng = np.random.default_rng([seed, _FRAME, int(exposure.start_mjd), index])
    truth_path = Path(folder) / "truth" / f"{exposure.id}.fits"
    if exposure.kind == "science":
        assert planned.conditions is not None
        assert exposure.ra is not None
        assert exposure.dec is not None
        sky, radius = night_sky(text, seed, night), field_radius(config)
        where = (exposure.ra, exposure.dec, radius, exposure.mid_mjd, exposure.band or "")
        scene = sky.scene(*where, exposure.exposure_time)
        raw, truth = expose(
            scene, telescope, exposure, planned.conditions, rng, rotation=planned.rotation
        )  # fmt: skip
        variables = sky.variable_truth(*where)
        with replacing(truth_path.with_name(f"{exposure.id}.variables.fits")) as partial:
            variables.write(partial, format="fits")
    else:
        assert exposure.kind in ("bias", "flat")
        raw, truth = calibration_frame(exposure.kind, telescope, exposure, rng)
    write_truth(truth_path, truth)
    write_raw(Path(folder) / "raw" / f"{exposure.id}.fits", raw, exposure, telescope)
    return exposure.id


def _science(
    config: SurveyConfig, site: Site, camera: str, field: SurveyField, band: str, start: float, name: str,
    index: int, seed: int, night_seeing: float,
) -> Planned:  # fmt: skip
    rng = np.random.default_rng([seed, _PLAN, int(start), index])
    w = config.weather
    mid = start + 0.5 * config.exposure_time / 86400
    zenith = 90 - _altitude(field.ra, field.dec, mid, site)
    airmass = float(1 / np.cos(np.radians(min(zenith, 80))))
    seeing = w.seeing_median * night_seeing * np.exp(rng.normal(0, w.seeing_scatter)) * airmass**0.6
    blue = {"u": 0.6, "g": 0.2, "r": 0.0, "i": -0.05, "z": -0.1, "y": -0.15}.get(band, 0.0)  # λ^(−1/5)
    dark = w.dark_sky + {"u": 1.8, "g": 0.9, "r": 0.0, "i": -0.7, "z": -1.6, "y": -2.4}.get(band, 0.0)
    brightness, gradient, moon = _moonlight(dark, field, mid, site, zenith, w.extinction)
    turned = config.rotation + float(rng.normal(0, config.rotation_scatter))
    optics = telescope_of(config).optics
    hand = -1 if optics.parity == "flipped" else 1

    def on_chip(ra: float, dec: float) -> float:  # from +x towards +y, of what lies in that direction
        position_angle = erfa.pas(*np.radians([field.ra, field.dec, ra, dec]))
        return float(90 + hand * (np.degrees(position_angle) - optics.rotation - turned)) % 360

    cloud = rng.choice(["none", "thin", "patchy"], p=[1 - w.thin_cloud_rate - w.patchy_cloud_rate,
                                                      w.thin_cloud_rate, w.patchy_cloud_rate])  # fmt: skip
    depth = {"none": 0.0, "thin": rng.uniform(0.1, 0.6), "patchy": rng.uniform(*w.patchy_cloud_depth)}[
        str(cloud)
    ]
    east, north = rng.normal(0, config.dither / 3600, 2)
    dec = float(np.clip(field.dec + north, -89.99, 89.99))
    ra = float((field.ra + east / np.cos(np.radians(dec))) % 360)
    exposure = Exposure(
        name, camera, "science", start, config.exposure_time, band,
        round(ra, 6), round(dec, 6), round(airmass, 4), field.id, field.id,
    )  # fmt: skip
    return Planned(exposure, index, turned, Conditions(
        seeing_fwhm=float(seeing * (1 + 0.15 * blue)), sky_brightness=brightness, extinction=w.extinction,
        jitter=float(w.jitter * rng.rayleigh(0.8)), jitter_angle=float(rng.uniform(0, 180)), cloud=str(cloud),
        cloud_depth=float(depth), moon_gradient=gradient, moon_angle=on_chip(*moon),
        zenith_angle=on_chip(*_zenith(mid, site)),
    ))  # fmt: skip


def _site(config: SurveyConfig) -> Site:
    camera = telescope_of(config).detector.camera
    if camera.site is None:
        raise ConfigError(f"survey {config.name}: camera {camera.name} has no site, which the night needs")
    return camera.site


def _zenith(mjd: float, site: Site) -> tuple[float, float]:
    """ICRS direction of the zenith, degrees, good to an arcminute."""
    to_earth = erfa.c2t06a(2400000.5, mjd, 2400000.5, mjd, 0.0, 0.0)
    ra, dec = erfa.c2s(to_earth.T @ erfa.s2c(np.radians(site.longitude), np.radians(site.latitude)))
    return float(np.degrees(ra) % 360), float(np.degrees(dec))


def _altitude(ra: float, dec: float, mjd: float, site: Site) -> float:
    """Degrees above the horizon, without refraction."""
    return 90.0 - float(separation(ra, dec, *_zenith(mjd, site)))


def _sun(mjd: float) -> tuple[float, float]:
    heliocentric, _ = erfa.epv00(2400000.5, mjd)
    ra, dec = erfa.c2s(-np.array(heliocentric["p"], float))
    return float(np.degrees(ra) % 360), float(np.degrees(dec))


def _midnight(night: str, site: Site) -> float:
    """MJD of the Sun's lowest point of the night that begins in the evening of ``night``, local date."""
    try:
        day = date.fromisoformat(night)
    except ValueError as error:
        raise ConfigError(f"night {night!r}: expected YYYY-MM-DD ({error})") from error
    noon = day.toordinal() - date(1858, 11, 17).toordinal() + 0.5 - site.longitude / 360
    times = noon + np.arange(0, 1, 1 / 288)
    heights = [_altitude(*_sun(t), t, site) for t in times]
    lowest = int(np.argmin(heights))
    if heights[lowest] > -12:
        raise ConfigError(
            f"night {night}: the Sun stays above {heights[lowest]:.0f}° at latitude {site.latitude:.1f}°, "
            "it must sink below -12°; choose another date"
        )
    return float(times[lowest])


def _visible(config: SurveyConfig, site: Site, mjd: float) -> list[SurveyField]:
    """The survey's fields that stand highest at ``mjd``, at most n_fields, in the survey's order."""
    heights = {f.id: _altitude(f.ra, f.dec, mjd, site) for f in config.fields}
    lowest = 90 - np.degrees(np.arccos(1 / config.max_airmass))
    up = sorted((f for f in config.fields if heights[f.id] > lowest), key=lambda f: -heights[f.id])
    if not up:
        raise ConfigError(
            f"survey {config.name}: no field within airmass {config.max_airmass} at midnight; "
            f"the highest is at {max(heights.values()):.0f}°"
        )
    best = {f.id for f in up[: config.n_fields]}
    return [f for f in config.fields if f.id in best]


def _moonlight(
    dark: float, field: SurveyField, mjd: float, site: Site, zenith: float, extinction: float
) -> tuple[float, float, tuple[float, float]]:
    """Sky brightness (mag per square arcsec) with the Moon's light, its gradient over the field, where it is.

    Krisciunas & Schaefer (1991), equations 3, 15, 20 and 21, in nanolamberts; their V taken for the band.
    """
    moon = get_body("moon", Time(mjd, format="mjd"), ephemeris="builtin")
    ra, dec = float(moon.ra.deg), float(moon.dec.deg)
    height = _altitude(ra, dec, mjd, site)
    if height <= 0:
        return dark, 0.0, (ra, dec)
    sun_ra, sun_dec = _sun(mjd)
    phase = 180 - float(separation(ra, dec, sun_ra, sun_dec))  # 0 when full
    rho = max(float(separation(ra, dec, field.ra, field.dec)), 5.0)
    illuminance = 10 ** (-0.4 * (3.84 + 0.026 * phase + 4e-9 * phase**4))
    scattering = 10**5.36 * (1.06 + np.cos(np.radians(rho)) ** 2) + 10 ** (6.15 - rho / 40)

    def path(z: float) -> float:
        return float((1 - 0.96 * np.sin(np.radians(z)) ** 2) ** -0.5)

    moonlight = (scattering * illuminance * 10 ** (-0.4 * extinction * path(90 - height))
                 * (1 - 10 ** (-0.4 * extinction * path(zenith))))  # fmt: skip
    night = 34.08 * np.exp(20.7233 - 0.92104 * dark)
    share = moonlight / (moonlight + night)
    brightness = float(dark - 2.5 * np.log10(1 + moonlight / night))
    return brightness, float(0.02 * share * min(60 / rho, 5)), (ra, dec)


def _told(progress: Callable[[str], None] | None, name: str) -> None:
    if progress is not None:
        progress(name)
