"""Simulated pairs with transients of known flux: a template of an earlier date, and a science frame.

Transients are point sources of the scene itself, so that they go through air, optics, chip and reduction like
everything else; a quarter of them are in the template alone: they have faded. Nothing else in the scene is
added but what a condition names; variable stars and active galaxies are as in nature.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from reference_pipeline.catalogues.local import StarTable
from reference_pipeline.config import PipelineConfig
from reference_pipeline.frame import Exposure, Frame
from reference_pipeline.products import read_product, write_product
from reference_pipeline.raw import read_raw
from reference_pipeline.reduce.masters import (
    make_master_bias,
    make_master_flat,
    read_masters,
    write_master,
)
from reference_pipeline.run import measure_psf, reduction
from reference_pipeline.simulate.atmosphere import Conditions, at_points
from reference_pipeline.simulate.catalogue_files import astrometric_catalogue, photometric_catalogue
from reference_pipeline.simulate.exposure import calibration_frame, expose
from reference_pipeline.simulate.optics import make_wcs
from reference_pipeline.simulate.raw import write_raw
from reference_pipeline.simulate.scene import POINT_KINDS, Points, Scene, Trails
from reference_pipeline.simulate.sky import Sky, cells
from reference_pipeline.simulate.survey import SurveyConfig, field_radius, load_survey
from reference_pipeline.simulate.telescope import Telescope, load_telescope
from reference_pipeline.simulate.truth import FrameTruth, read_truth, write_truth

BAND = "g"
MJD, TEMPLATE_DAYS = 61130.25, 60.0
AIRMASS = 1.2
N_BIAS, N_FLATS = 5, 6
VARIABLE_STARS = 30.0  # per square degree, as in nature; the shipped surveys have more
APART = 36.0  # pixels between injected sources
MARGIN = 90.0  # pixels from the edges of the nominal field: pointing errors of both frames
PLACE = 6500.0  # square pixels for each injected source: about 110 on 1024 x 1024
ON_GALAXIES, FADING = 0.3, 0.25  # fractions
FAINTEST = 2.5  # S/N that injected sources are meant to have, uniform in its logarithm from here on
FIRST_ID = 1 << 60


@dataclass(frozen=True)
class Condition:
    """What is special about a set of pairs."""

    sky: float  # mag per square arcsec, of the science frame, in g
    gradient: float = 0.0  # of the science frame's sky
    is_crowded: bool = False
    is_spoiled: bool = False  # 8 bright variables and a trail
    brightest: float = (
        60.0  # S/N of injected sources; above 30 they are among the stars the kernel is fitted to
    )


FIELDS = {"ast3": (270.0, 30.0), "ztf": (125.0, 15.0)}  # degrees; at moderate galactic latitude
CROWDED_FIELD = (288.0, 18.0)  # 4 degrees from the galactic plane
CONDITIONS = {
    "clear": Condition(22.0),
    "moonlit": Condition(19.3, gradient=0.15),
    "crowded": Condition(22.0, is_crowded=True),
    "spoiled": Condition(22.0, is_spoiled=True, brightest=25.0),
}


@dataclass(frozen=True)
class Injected:
    """One source that one of the two scenes has."""

    ra: float
    dec: float
    magnitude: float
    sign: int  # 1: in the science frame; -1: in the template
    host: bool  # on a galaxy


@dataclass(frozen=True)
class Pair:
    """Two reduced frames, what is true of them, and what was put in."""

    science: Frame
    template: Frame
    science_truth: FrameTruth
    template_truth: FrameTruth
    injected: tuple[Injected, ...]

    def expected(self, magnitude: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Electrons in the science frame of sources at its true pixels (x, y)."""
        truth = self.science_truth
        assert truth.transmission is not None
        zero_point = load_telescope(self.science.exposure.camera, truth.shape).zero_point(BAND)
        seconds = self.science.exposure.exposure_time
        clear = at_points(truth.transmission, truth.shape, x, y)
        return seconds * clear * 10 ** (-0.4 * (magnitude - zero_point))


def pair_folder(survey_name: str, condition_name: str, seed: int, work: Path, size: int) -> Path:
    """Where a pair is kept."""
    return work / survey_name / str(size) / condition_name / f"{seed:03d}"


def simulated_pair(survey_name: str, condition_name: str, seed: int, work: Path, *, size: int) -> Pair:
    """Return a pair, from ``work`` if it was made before. Raises FrameError where a frame is not reduced."""
    folder = pair_folder(survey_name, condition_name, seed, work, size)
    if not (folder / "injected.json").exists():
        masters = work / survey_name / str(size) / "masters"
        _make(survey_name, CONDITIONS[condition_name], seed, folder, masters, size)
    return Pair(
        read_product(folder / "science.fits"),
        read_product(folder / "template.fits"),
        read_truth(folder / "science.truth.fits"),
        read_truth(folder / "template.truth.fits"),
        tuple(Injected(**row) for row in json.loads((folder / "injected.json").read_text())),
    )


def make_masters(survey_name: str, work: Path, *, size: int) -> list[Path]:
    """Make the masters that all pairs of a survey are reduced with, if they are not there; return them."""
    survey = load_survey(survey_name)
    telescope = load_telescope(survey.telescope, (size, size))
    config = PipelineConfig(camera=telescope.detector.camera)
    return _masters(telescope, survey, work / survey_name / str(size) / "masters", config)


def _make(
    survey_name: str, condition: Condition, seed: int, folder: Path, masters_folder: Path, size: int
) -> None:
    """Simulate and reduce a pair into ``folder``."""
    survey = load_survey(survey_name).model_copy(update={"size": (size, size)})
    telescope = load_telescope(survey.telescope, (size, size))
    sky = _sky(survey, seed)
    rng = np.random.default_rng([seed, 7])
    ra, dec = CROWDED_FIELD if condition.is_crowded else FIELDS[survey_name]
    airs = _airs(survey, condition, rng)
    exposures = {
        name: _exposure(f"{survey_name}-{seed:03d}-{name}", survey, mjd, ra, dec, rng)
        for name, mjd in (("template", MJD - TEMPLATE_DAYS), ("science", MJD))
    }
    radius = field_radius(survey)
    scenes = {
        name: sky.scene(ra, dec, radius, e.mid_mjd, BAND, e.exposure_time) for name, e in exposures.items()
    }
    injected = _injected(scenes["science"], telescope, exposures["science"], airs, condition.brightest, rng)
    for name, sign in (("template", -1), ("science", 1)):
        scenes[name] = _with_points(scenes[name], [s for s in injected if s.sign == sign])
    if condition.is_spoiled:
        scenes["science"] = _spoilt(scenes["science"], ra, dec, telescope, rng)
    config = PipelineConfig(camera=telescope.detector.camera)
    touched = cells(ra, dec, radius + 0.3)
    positions = StarTable(astrometric_catalogue(sky, touched), name="simulated Gaia")
    magnitudes = StarTable(photometric_catalogue(sky, touched), name="simulated PS1")
    masters = read_masters(_masters(telescope, survey, masters_folder, config))
    folder.mkdir(parents=True, exist_ok=True)
    for name, exposure in exposures.items():
        rotation = float(rng.normal(0, max(survey.rotation_scatter, 0.03)))
        raw, truth = expose(scenes[name], telescope, exposure, airs[name], rng, rotation=rotation)
        path = folder / f"{exposure.id}.fits"
        write_raw(path, raw, exposure, telescope)
        *_, frame = reduction(
            read_raw(path, config.camera), masters, positions=positions, magnitudes=magnitudes, config=config
        )
        write_product(folder / f"{name}.fits", measure_psf(frame, config=config))
        write_truth(folder / f"{name}.truth.fits", truth)
        path.unlink()
    (folder / "injected.json").write_text(json.dumps([asdict(s) for s in injected], indent=1))


def _sky(survey: SurveyConfig, seed: int) -> Sky:
    """The survey's sky with rates as in nature, and no satellites but those that a condition adds."""
    satellites = survey.sky.satellites.model_copy(update={"trail_rate": 0.0, "glint_rate": 0.0})
    changes = {"satellites": satellites, "variable_density": VARIABLE_STARS, "supernova_rate": 1.0}
    return Sky(seed, survey.sky.model_copy(update=changes))


def _airs(survey: SurveyConfig, condition: Condition, rng: np.random.Generator) -> dict[str, Conditions]:
    """A good night for the template, any for the science frame."""
    seeing, extinction = survey.weather.seeing_median, survey.weather.extinction
    return {
        "template": Conditions(
            seeing_fwhm=0.9 * seeing * float(np.exp(rng.normal(0, 0.07))), sky_brightness=22.0,
            extinction=extinction, jitter=0.1, jitter_angle=float(rng.uniform(0, 180)),
        ),
        "science": Conditions(
            seeing_fwhm=1.1 * seeing * float(np.exp(rng.normal(0, 0.15))), sky_brightness=condition.sky,
            extinction=extinction, jitter=0.15, jitter_angle=float(rng.uniform(0, 180)),
            moon_gradient=condition.gradient, moon_angle=float(rng.uniform(0, 360)),
        ),
    }  # fmt: skip


def _exposure(
    name: str, survey: SurveyConfig, mjd: float, ra: float, dec: float, rng: np.random.Generator
) -> Exposure:
    east, north = rng.normal(0, survey.dither / 3600, 2)
    return Exposure(
        name, survey.telescope, "science", mjd, survey.exposure_time, BAND,
        float(ra + east / np.cos(np.radians(dec))), float(dec + north), AIRMASS, "F", "F",
    )  # fmt: skip


def _masters(telescope: Telescope, survey: SurveyConfig, folder: Path, config: PipelineConfig) -> list[Path]:
    paths = [folder / "bias.fits", folder / f"flat-{BAND}.fits"]
    if all(path.exists() for path in paths):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    raws: dict[str, list[Path]] = {"bias": [], "flat": []}
    for k in range(N_BIAS + N_FLATS):
        kind = "bias" if k < N_BIAS else "flat"
        seconds, band = (0.0, None) if kind == "bias" else (survey.flat_time, BAND)
        exposure = Exposure(f"{kind}-{k}", telescope.name, kind, MJD - 0.3 + k * 1e-3, seconds, band)
        raw, _ = calibration_frame(kind, telescope, exposure, np.random.default_rng([k, 11]))
        raws[kind].append(folder / f"{exposure.id}.fits")
        write_raw(raws[kind][-1], raw, exposure, telescope)
    camera, settings = config.camera, config.calibrate
    bias = make_master_bias(raws["bias"], camera=camera, config=settings)
    flat = make_master_flat(raws["flat"], camera=camera, config=settings, band=BAND, bias=bias)
    write_master(paths[1], flat)
    write_master(paths[0], bias)
    for raw_path in raws["bias"] + raws["flat"]:
        raw_path.unlink()
    return paths


def _injected(
    scene: Scene,
    telescope: Telescope,
    exposure: Exposure,
    airs: dict[str, Conditions],
    brightest: float,
    rng: np.random.Generator,
) -> list[Injected]:
    """Sources all over the nominal field, none near another, some on galaxies."""
    shape, optics = telescope.detector.shape, telescope.optics
    wcs = make_wcs(optics, exposure.ra, exposure.dec, 0.0, shape)
    hosts = rng.permutation(np.flatnonzero(scene.galaxies.magnitude < 21.0))
    gx, gy = wcs.all_world2pix(scene.galaxies.ra[hosts], scene.galaxies.dec[hosts], 0)
    size = 0.5 * scene.galaxies.half_light_radius[hosts] / optics.pixel_scale
    places: list[tuple[float, float]] = []
    on_host: list[bool] = []

    def try_place(x: float, y: float, host: bool) -> None:
        inside = MARGIN < x < shape[1] - MARGIN and MARGIN < y < shape[0] - MARGIN
        if inside and all(np.hypot(x - a, y - b) > APART for a, b in places):
            places.append((x, y))
            on_host.append(host)

    wanted = int((shape[0] - 2 * MARGIN) * (shape[1] - 2 * MARGIN) / PLACE)
    for k in range(len(hosts)):
        if len(places) < ON_GALAXIES * wanted:
            try_place(*(np.array([gx[k], gy[k]]) + size[k] * rng.standard_normal(2)), True)
    for _ in range(200 * wanted):
        if len(places) < wanted:
            try_place(*rng.uniform(0, (shape[1], shape[0])), False)
    x, y = np.array(places).T
    ra, dec = wcs.all_pix2world(x, y, 0)
    snr = np.exp(rng.uniform(*np.log([FAINTEST, brightest]), len(x)))
    magnitude = _magnitude_of(snr, telescope, exposure, airs)
    signs = np.where(rng.random(len(x)) < FADING, -1, 1)
    return [
        Injected(float(a), float(d), float(m), int(s), h)
        for a, d, m, s, h in zip(ra, dec, magnitude, signs, on_host)
    ]


def _magnitude_of(
    snr: np.ndarray, telescope: Telescope, exposure: Exposure, airs: dict[str, Conditions]
) -> np.ndarray:
    """Magnitudes that have about these S/N in the difference: an estimate, to spread them well."""
    zero_point = telescope.zero_point(BAND) + 2.5 * np.log10(exposure.exposure_time)
    scale, noise = telescope.detector.camera.pixel_scale, telescope.detector.camera.read_noise
    sigma = 1.1 * airs["science"].seeing_fwhm / scale / 2.35
    area = 4 * np.pi * (sigma**2 + 1 / 12) * 1.2
    sky = sum(scale**2 * 10 ** (-0.4 * (air.sky_brightness - zero_point)) + noise**2 for air in airs.values())
    clear = 10 ** (-0.4 * airs["science"].extinction * AIRMASS)
    flux = 0.5 * (snr**2 + np.sqrt(snr**4 + 4 * snr**2 * area * sky))
    return zero_point - 2.5 * np.log10(flux / clear)


def _with_points(scene: Scene, sources: list[Injected]) -> Scene:
    n = len(sources)
    still = np.zeros(n)
    new = Points(
        FIRST_ID + np.arange(n), np.full(n, POINT_KINDS.index("supernova"), np.int8),
        np.array([s.ra for s in sources]), np.array([s.dec for s in sources]),
        np.array([s.magnitude for s in sources]), np.full(n, 0.3), still, still, still,
    )  # fmt: skip
    names = Points.__dataclass_fields__
    points = Points(*(np.concatenate([getattr(scene.points, n), getattr(new, n)]) for n in names))
    return replace(scene, points=points)


def _spoilt(scene: Scene, ra: float, dec: float, telescope: Telescope, rng: np.random.Generator) -> Scene:
    """The brightest eight stars that do not saturate, changed by 0.4 to 1 mag; and a trail."""
    shape, points = telescope.detector.shape, scene.points
    wcs = make_wcs(telescope.optics, ra, dec, 0.0, shape)
    x, y = wcs.all_world2pix(points.ra, points.dec, 0)
    inside = (np.minimum(x, y) > 60) & (x < shape[1] - 60) & (y < shape[0] - 60)
    stars = np.flatnonzero(inside & (points.kind == POINT_KINDS.index("star")) & (points.magnitude > 15.5))
    rows = stars[np.argsort(points.magnitude[stars])[:8]]
    magnitude = points.magnitude.copy()
    magnitude[rows] += rng.choice([-1, 1], len(rows)) * rng.uniform(0.4, 1.0, len(rows))
    ends = wcs.all_pix2world([-20, shape[1] + 20], rng.uniform(0.1, 0.9, 2) * shape[0], 0)
    trail = Trails(
        np.array([FIRST_ID - 1]), np.array([ends[0]]), np.array([ends[1]]), np.array([19.0]),
        np.array([0.0]), np.array([0.0]),
    )  # fmt: skip
    return replace(scene, points=replace(points, magnitude=magnitude), trails=trail)
