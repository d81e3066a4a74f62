"""Thumbnails of simulated frames, clear and cloudy, with the cloud that each one was taken through.

A thumbnail shows the large structure of a frame. For most, a whole chip is therefore exposed in large
pixels: r × r of the camera's in one, with the charge, full well, noise and dust of as many. Scene, air,
optics, detector and calibration are those of any simulated frame. What differs from binning a raw frame:
digitisation is r times coarser against the light (half of the noise of a dark sky), a saturated pixel is
r × r as large, and the diffraction spikes of stars, thousandths of their light within a pixel or two, are
left out. The others are small chips in the camera's own pixels, as tests and demonstrations use them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile

import numpy as np
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray

from multiscale.atomic import replacing

from ..config import Calibrate
from ..errors import FileError
from ..frame import Exposure, Frame, MaskBit
from ..pool import worker_pool
from ..raw import read_raw
from ..reduce.calibrate import calibrate
from ..reduce.masters import Masters, make_master_bias, make_master_flat
from ..reduce.quality import cells_of, shown
from ..simulate.atmosphere import Conditions, transmission
from ..simulate.detector import camera_of_size
from ..simulate.exposure import calibration_frame, expose
from ..simulate.raw import write_raw
from ..simulate.sky import Sky
from ..simulate.survey import SurveyConfig, load_survey
from ..simulate.telescope import Telescope, load_telescope
from ..simulate.truth import FrameTruth
from ..taxonomy import CLOUDS

#: Cloud is cloudy from this depth on (mag, between the 2nd and the 98th percentile over the frame). What is
#: even over the frame dims every star alike and cannot be seen in a thumbnail: by this rule it is clear.
CLOUDY = 0.15

#: Pixels of the camera along one of the simulated frame, and r of the faintest stars and galaxies.
COARSE: dict[str, tuple[int, float]] = {"ast3": (20, 18.0), "ztf": (6, 18.0), "lsst": (8, 21.0)}

#: Whose turn it is, field after field, and whether the chip is whole.
TURNS: tuple[tuple[str, bool], ...] = (
    ("ast3", True), ("ztf", True), ("lsst", True), ("ast3", True), ("ztf", True), ("ast3", False),
    ("ztf", True), ("ast3", True), ("lsst", True), ("ztf", True), ("ast3", True), ("ztf", False),
)  # fmt: skip
SMALL = (400, 900)  # pixels a side of a small chip

SUFFIX = ".clouds.npz"
_N_BIAS, _N_FLATS, _N_BANDS = 3, 4, 2
_MJD = 60000.0


@dataclass(frozen=True)
class CloudThumbnails:
    """Thumbnails of n frames, one row each."""

    id: NDArray[np.str_]
    survey: NDArray[np.str_]
    field: NDArray[np.str_]  # the piece of sky: never in two splits
    band: NDArray[np.str_]
    pictures: NDArray[np.uint8]  # (n, 256, 256), as reduce/quality.py makes them
    seen: NDArray[np.bool_]  # (n, 256, 256): cells with a usable pixel
    depth: NDArray[np.float32]  # mag, of the cloud between the 2nd and 98th percentile over the frame
    mean_depth: NDArray[np.float32]  # mag
    kind: NDArray[np.str_]  # of the cloud: none, thin, patchy
    light: NDArray[np.float32]  # Conditions.cloud_light
    night: NDArray[np.str_]  # dark, moon, twilight
    gradient: NDArray[np.float32]  # Conditions.moon_gradient
    airmass: NDArray[np.float32]
    is_flat: NDArray[np.bool_]  # whether there was a flat to divide by
    n_stars: NDArray[np.int32]  # point sources in and around the frame
    width: NDArray[np.float32]  # degrees, the frame's shorter side

    @property
    def labels(self) -> NDArray[np.int64]:
        """Index into taxonomy.CLOUDS, (n,)."""
        return (self.depth >= CLOUDY).astype(np.int64) * CLOUDS.index("cloudy")

    def __len__(self) -> int:
        return len(self.id)

    def where(self, rows: NDArray[Any]) -> CloudThumbnails:
        """Return some of the rows, by index or mask."""
        return CloudThumbnails(*(getattr(self, f.name)[rows] for f in fields(self)))


def simulate_thumbnails(
    out: Path,
    *,
    seed: int,
    n_fields: int,
    n_frames: int,
    workers: int = 1,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Path]:
    """Write ``n_frames`` thumbnails of each of ``n_fields`` pieces of sky to ``out``, a file for each.

    Telescopes and chips take turns (TURNS). A file that is there is left as it is; the
    same seed gives the same files, with any number of processes. Raises ConfigError and FrameError as the
    simulation and the reduction do.
    """
    jobs = [(str(out), seed, number, n_frames) for number in range(n_fields)]
    todo = [job for job in jobs if not _path(*job[:3]).exists()]
    if workers == 1:
        for job in todo:
            progress(_write_field(job))
    else:
        with worker_pool(workers) as pool:
            for name in pool.map(_write_field, todo):
                progress(name)
    return [_path(*job[:3]) for job in jobs]


def coarse_telescope(name: str, factor: int) -> Telescope:
    """Return a shipped telescope whose pixels are ``factor`` times as wide, its field the same."""
    telescope = load_telescope(name)
    detector, r = telescope.detector, factor
    camera, (ny, nx) = detector.camera, detector.shape
    coarse = camera_of_size(camera, (ny // r, nx // r)).model_copy(
        update={
            "pixel_scale": camera.pixel_scale * r, "gain": camera.gain * r**2,
            "read_noise": camera.read_noise * r, "dark_current": camera.dark_current * r**2,
        }
    )  # fmt: skip
    chip = detector.model_copy(
        update={
            "camera": coarse, "full_well": detector.full_well * r**2, "pixel_size": detector.pixel_size * r,
            "cosmic_ray_rate": detector.cosmic_ray_rate * r**2,
            # ADU stand for r² times the electrons; what differs from pixel to pixel averages out
            "bias_column_noise": detector.bias_column_noise / r,
            "bias_line_drift": detector.bias_line_drift / r, "pickup": detector.pickup / r,
            "pixel_response": detector.pixel_response / r,
            "dust_radius": tuple(radius / r for radius in detector.dust_radius),
        }
    )  # fmt: skip
    spikes = telescope.optics.spikes.model_copy(update={"number": 0})
    optics = telescope.optics.model_copy(update={"pixel_scale": coarse.pixel_scale, "spikes": spikes})
    return telescope.model_copy(update={"detector": chip, "optics": optics})


def cloud_over(truth: FrameTruth) -> NDArray[np.float64]:
    """Return the extinction by cloud (mag) at the nodes of a frame's map (simulate/atmosphere.py).

    Raises ValueError for the truth of a calibration frame.
    """
    conditions, shape = truth.conditions, truth.shape
    if conditions is None or truth.transmission is None or truth.wcs is None:
        raise ValueError(f"{truth.exposure.id}: no air in the truth of a {truth.exposure.kind} frame")
    scale = np.sqrt(np.abs(np.linalg.det(truth.wcs.wcs.cd)))
    clear = transmission(
        conditions.model_copy(update={"cloud": "none"}), truth.exposure.airmass or 1.0,
        (shape[0] * scale, shape[1] * scale), np.random.default_rng(0),
    )  # fmt: skip
    return np.asarray(-2.5 * np.log10(truth.transmission / clear))


def write_thumbnails(path: Path, thumbnails: CloudThumbnails) -> None:
    """Write ``thumbnails`` to ``path``, whole or not at all; the same ones give the same bytes."""
    arrays = {f.name: getattr(thumbnails, f.name) for f in fields(thumbnails)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_thumbnails(paths: Iterable[Path]) -> CloudThumbnails:
    """Return the thumbnails in ``paths``, files or folders of them, in order.

    Raises FileError ("not-labelled").
    """
    given = list(paths)
    found = [
        file for path in given for file in (sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path])
    ]
    if not found:
        raise _not_ours(given[0] if given else Path("."), f"no file *{SUFFIX} there")
    return _joined([_read(path) for path in found])


def _path(out: str, seed: int, number: int) -> Path:
    return Path(out) / f"{_name(seed, number)}{SUFFIX}"


def _name(seed: int, number: int) -> str:
    survey, is_whole = TURNS[number % len(TURNS)]
    return f"{survey}-{'whole' if is_whole else 'small'}-{seed}-{number:04d}"


def _write_field(job: tuple[str, int, int, int]) -> str:
    out, seed, number, n_frames = job
    columns = (np.array(column) for column in zip(*_field_frames(seed, number, n_frames), strict=True))
    path = _path(out, seed, number)
    write_thumbnails(path, CloudThumbnails(*columns))
    return path.name


def _field_frames(seed: int, number: int, n_frames: int) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of one field: its own place on the sky, chip, bias frames and flats."""
    survey, is_whole = TURNS[number % len(TURNS)]
    name, rng, config = _name(seed, number), np.random.default_rng([seed, number]), load_survey(survey)
    if is_whole:
        factor, faintest = COARSE[survey]
        telescope = coarse_telescope(config.telescope, factor)
        stars = config.sky.model_copy(update={"faint_limit": faintest, "variable_faint": faintest})
    else:
        ny, nx = map(int, rng.integers(*SMALL, 2))
        telescope, stars = load_telescope(config.telescope, (ny, nx)), config.sky
    detector = telescope.detector.model_copy(update={"seed": int(rng.integers(2**31))})
    telescope = telescope.model_copy(update={"detector": detector, "flat_fault_rate": 0.0})
    sky = Sky(int(rng.integers(2**31)), stars, site=detector.camera.site)
    width = np.float32(min(detector.shape) * detector.camera.pixel_scale / 3600)
    (ra, dec), bands = _place(rng), config.bands[:_N_BANDS]
    with TemporaryDirectory(prefix="clouds-") as folder:
        masters = {band: _masters(Path(folder), telescope, band, rng) for band in bands}
        for k in range(n_frames):
            band, night = bands[k % len(bands)], _night(rng)
            exposure = Exposure(
                f"{name}-{k:03d}", detector.camera.name, "science", _MJD + k, config.exposure_time, band,
                ra, dec, float(np.round(rng.uniform(1.0, 2.0), 3)), name, name,
            )  # fmt: skip
            conditions = _conditions(config, night, rng)
            is_flat = bool(rng.random() < 0.85)
            used = masters[band] if is_flat else Masters(bias=masters[band].bias)
            frame, truth, n_stars = _exposed(sky, telescope, exposure, conditions, rng, used, Path(folder))
            cells, seen = cells_of(_with_dead_part(frame, rng))
            depth = cloud_over(truth)
            low, high = np.percentile(depth, [2, 98])
            yield (
                exposure.id, survey, name, band, shown(cells, seen), seen, np.float32(high - low),
                np.float32(depth.mean()), conditions.cloud, np.float32(conditions.cloud_light), night,
                np.float32(conditions.moon_gradient), np.float32(exposure.airmass), is_flat,
                np.int32(n_stars), width,
            )  # fmt: skip


def _place(rng: np.random.Generator) -> tuple[float, float]:
    """A place on the sky, 8° or more from the Milky Way's plane, within 58° of the equator."""
    while True:
        ra, dec = rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-0.85, 0.85)))
        if abs(SkyCoord(ra, dec, unit="deg").galactic.b.deg) > 8:
            return float(ra), float(dec)


def _night(rng: np.random.Generator) -> str:
    return str(rng.choice(["dark", "moon", "twilight"], p=[0.4, 0.4, 0.2]))


def _conditions(config: SurveyConfig, night: str, rng: np.random.Generator) -> Conditions:
    """Air of any kind: two thirds through patches (or a hole between), a tenth through thin cloud."""
    weather = config.weather
    sky = {
        "dark": weather.dark_sky + rng.normal(0, 0.2),
        "moon": weather.dark_sky - rng.uniform(0.5, 3.0),
        "twilight": rng.uniform(17.0, 18.5),
    }[night]
    gradient = {"dark": (0.0, 0.01), "moon": (0.0, 0.1), "twilight": (0.01, 0.15)}[night]
    cloud = str(rng.choice(["none", "thin", "patchy"], p=[0.24, 0.1, 0.66]))
    depth = {"none": 0.0, "thin": rng.uniform(0.1, 1.0), "patchy": np.exp(rng.uniform(*np.log([0.5, 4.0])))}
    return Conditions(
        seeing_fwhm=float(weather.seeing_median * np.exp(rng.normal(0, weather.seeing_scatter))),
        sky_brightness=float(sky), extinction=weather.extinction, jitter=weather.jitter, cloud=cloud,
        cloud_depth=float(depth[cloud]),
        cloud_light=float(np.exp(rng.uniform(*np.log([0.3, 4.0])))),  # from hidden airglow to a lit ceiling
        moon_gradient=float(rng.uniform(*gradient)), moon_angle=float(rng.uniform(0, 360)),
        zenith_angle=float(rng.uniform(0, 360)),
    )  # fmt: skip


def _exposed(
    sky: Sky, telescope: Telescope, exposure: Exposure, conditions: Conditions, rng: np.random.Generator,
    masters: Masters, folder: Path,
) -> tuple[Frame, FrameTruth, int]:  # fmt: skip
    """A calibrated frame, its truth, and how many point sources were drawn."""
    camera = telescope.detector.camera
    corner = 0.5 * np.hypot(*telescope.detector.shape) * camera.pixel_scale / 3600
    assert exposure.ra is not None
    assert exposure.dec is not None
    scene = sky.scene(
        exposure.ra, exposure.dec, 1.05 * corner + 0.05, exposure.mid_mjd, exposure.band or "",
        exposure.exposure_time,
    )  # fmt: skip
    raw, truth = expose(scene, telescope, exposure, conditions, rng)
    path = folder / f"{exposure.id}.fits"
    write_raw(path, raw, exposure, telescope)
    frame = calibrate(read_raw(path, camera), masters, camera=camera, config=Calibrate())
    path.unlink()
    return frame, truth, len(scene.points.id)


def _with_dead_part(frame: Frame, rng: np.random.Generator) -> Frame:
    """The frame; one in seven with a strip along one edge, up to a fifth of it, of which nothing is known."""
    if rng.random() > 1 / 7:
        return frame
    share = rng.uniform(0.02, 0.2)
    ny, nx = frame.shape
    high, wide = max(1, int(share * ny)), max(1, int(share * nx))
    edges = (np.s_[:high], np.s_[-high:], np.s_[:, :wide], np.s_[:, -wide:])
    mask = frame.mask.copy()
    mask[edges[int(rng.integers(4))]] |= np.uint16(MaskBit.BAD)
    return replace(frame, mask=mask)


def _masters(folder: Path, telescope: Telescope, band: str, rng: np.random.Generator) -> Masters:
    camera, config = telescope.detector.camera, Calibrate()
    bias = [_calibration(folder, telescope, "bias", k, band, rng) for k in range(_N_BIAS)]
    flats = [_calibration(folder, telescope, "flat", k, band, rng) for k in range(_N_FLATS)]
    of_bias = make_master_bias(bias, camera=camera, config=config)
    of_flats = make_master_flat(flats, camera=camera, config=config, band=band, bias=of_bias)
    return Masters(bias=of_bias, flats={band: of_flats})


def _calibration(
    folder: Path, telescope: Telescope, kind: Any, number: int, band: str, rng: np.random.Generator
) -> Path:
    seconds = 0.0 if kind == "bias" else 5.0
    exposure = Exposure(f"{kind}-{band}-{number}", telescope.detector.camera.name, kind, _MJD, seconds, band)
    raw, _ = calibration_frame(kind, telescope, exposure, rng)
    path = folder / f"{exposure.id}.fits"
    write_raw(path, raw, exposure, telescope)
    return path


def _read(path: Path) -> CloudThumbnails:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = CloudThumbnails(*(arrays[f.name] for f in fields(CloudThumbnails)))
    except (OSError, KeyError, ValueError, zlib.error, BadZipFile) as error:
        raise _not_ours(path, error) from error
    if (
        found.pictures.shape != found.seen.shape
        or len({len(getattr(found, f.name)) for f in fields(found)}) != 1
    ):
        raise _not_ours(path, "its columns are not of one length")
    return found


def _joined(parts: list[CloudThumbnails]) -> CloudThumbnails:
    return CloudThumbnails(
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(CloudThumbnails))
    )


def _not_ours(path: Path, why: object) -> FileError:
    return FileError(path.name, "labelled", "not-labelled", f"{path}: {why}")
