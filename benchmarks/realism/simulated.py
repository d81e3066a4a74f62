"""Simulated stamps for real alerts: the same place, band and sky, everything else the simulation's.

ZTF's subtraction brings a science stamp to the background of its reference, so that the stamp's own sky is
seen in its noise alone: the science sky here is the one whose shot noise that is, the template's is its
background. A science frame is one exposure through the ztf telescope; a template is the mean of many with
small dithers and seeing of their own, resampled onto one grid as ZTF's references are. Detrending is
perfect: the overscan of each line, the chip's own bias structure and response.

Fitted to the real stamps are N_TEMPLATE (to the template's noise), SEEING and SEEING_SPREAD (to the widths of
stars) and the kernel that resamples: of the usual ones, Lanczos-2 correlates even noise most nearly as real
templates are (0.16; bilinear 0.25, cubic and Lanczos-3 0.12).
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from benchmarks.common import RealAlert
from reference_pipeline.config import load_camera
from reference_pipeline.frame import Exposure
from reference_pipeline.simulate import chip
from reference_pipeline.simulate.atmosphere import Conditions
from reference_pipeline.simulate.detector import section
from reference_pipeline.simulate.exposure import expose
from reference_pipeline.simulate.optics import sky_to_pixel
from reference_pipeline.simulate.satellites import SatelliteConfig
from reference_pipeline.simulate.scene import Scene
from reference_pipeline.simulate.sky import Sky, SkyConfig
from reference_pipeline.simulate.telescope import Telescope, load_telescope
from reference_pipeline.simulate.truth import FrameTruth

CHIP = (240, 240)
STAMP = 63
EXPOSURE_TIME = 30.0
BANDS = {1: "g", 2: "r", 3: "i"}
N_TEMPLATE = 10  # exposures of one weight and sky; ZTF's references have 15 or more of different ones
SEEING = 1.85  # arcsec, median of the air alone at the airmass of the exposure
SEEING_SPREAD = 0.3  # rms of its logarithm
NO_SATELLITES = SatelliteConfig(glint_rate=0, trail_rate=0, aircraft_rate=0)
EXTINCTION = {"g": 0.2, "r": 0.12, "i": 0.08}


@dataclass(frozen=True)
class Field:
    """Simulated stamps of one field, ADU with the sky in."""

    science: list[np.ndarray]
    template: list[np.ndarray]


def field(alert: RealAlert, scene: Scene, background: float, science_sky: float, seed: list[int]) -> Field:
    """Return stamps of ``scene`` around ``alert``: the template's sky and the science frame's, ADU."""
    telescope = small_telescope()
    band = BANDS[alert.record["fid"]]
    rng = np.random.default_rng(seed)
    science, truth = exposed(telescope, scene, alert, band, science_sky, rng)
    science += background - science_sky
    total, weight = np.zeros(CHIP), np.zeros(CHIP)
    for _ in range(N_TEMPLATE):
        frame, other = exposed(telescope, scene, alert, band, background, rng)
        moved = resampled(frame, other, truth)
        total += np.nan_to_num(moved)
        weight += np.isfinite(moved)
    template = np.where(weight > 0.6 * N_TEMPLATE, total / np.maximum(weight, 1), np.nan)
    return Field(cut(science), cut(template))


def small_telescope() -> Telescope:
    """Return ZTF with a chip of CHIP: its readout fails, as a chip's does, in proportion to the lines."""
    whole, small = load_telescope("ztf"), load_telescope("ztf", CHIP)
    rate = whole.detector.readout_faults * CHIP[0] / whole.detector.shape[0]
    return small.model_copy(update={"detector": small.detector.model_copy(update={"readout_faults": rate})})


def exposed(
    telescope: Telescope,
    scene: Scene,
    alert: RealAlert,
    band: str,
    background: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, FrameTruth]:
    """Return a detrended frame (ADU) of ``scene`` and its truth."""
    camera = telescope.detector.camera
    electrons = background * camera.gain
    per_arcsec2 = electrons / EXPOSURE_TIME / camera.pixel_scale**2
    conditions = Conditions(
        seeing_fwhm=float(SEEING * np.exp(SEEING_SPREAD * rng.standard_normal())),
        sky_brightness=telescope.zero_point(band) - 2.5 * np.log10(per_arcsec2),
        extinction=EXTINCTION[band],
        jitter=0.15,
        jitter_angle=float(rng.uniform(0, 180)),
    )
    record = alert.record
    exposure = Exposure(
        "realism", "ztf", "science", 58000.0, EXPOSURE_TIME, band, record["ra"], record["dec"],
        airmass=float(rng.uniform(1, 1.8)),
    )  # fmt: skip
    raw, truth = expose(scene, telescope, exposure, conditions, rng)
    return detrended(raw, telescope, band), truth


def detrended(raw: np.ndarray, telescope: Telescope, band: str) -> np.ndarray:
    """Return a raw frame (ADU) without overscan, bias structure and response; bad pixels interpolated."""
    detector = telescope.detector
    overscan = section(detector.camera.overscan, detector.raw_shape)[1]
    level = np.median(raw[:, overscan], axis=1)[:, None]
    flat = chip.response(detector, band, slice(0, detector.shape[0]))
    image = (raw - level - chip.bias_structure(detector, slice(0, detector.raw_shape[0])))[detector.imaging]
    bad = chip.defects(detector).mask(detector.shape)
    return np.where(bad, ndimage.median_filter(image, 5), image / np.where(bad, 1, flat))


def resampled(frame: np.ndarray, from_: FrameTruth, to: FrameTruth) -> np.ndarray:
    """Return ``frame`` on the grid of ``to``, NaN where it does not reach."""
    ny, nx = frame.shape
    x, y = np.array([0.0, nx - 1, 0.0]), np.array([0.0, 0.0, ny - 1])
    x1, y1 = sky_to_pixel(from_.wcs, *to.wcs.all_pix2world(x, y, 0))
    # over 240 pixels two fields differ by a shift and a small turn: three corners say it
    j, i = np.mgrid[:ny, :nx]
    to_x = x1[0] + (x1[1] - x1[0]) / (nx - 1) * i + (x1[2] - x1[0]) / (ny - 1) * j
    to_y = y1[0] + (y1[1] - y1[0]) / (nx - 1) * i + (y1[2] - y1[0]) / (ny - 1) * j
    return interpolated(frame, to_y, to_x)


def interpolated(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return ``image`` at (y, x): Lanczos-2, of weights that sum to one; NaN near the rim."""
    ny, nx = image.shape
    inside = (y >= 1) & (y < ny - 2) & (x >= 1) & (x < nx - 2)
    j, i = np.floor(np.where(inside, y, 1)).astype(int), np.floor(np.where(inside, x, 1)).astype(int)
    total, weights = np.zeros(y.shape), np.zeros(y.shape)
    for dj in (-1, 0, 1, 2):
        for di in (-1, 0, 1, 2):
            weight = lanczos2(j + dj - y) * lanczos2(i + di - x)
            total += weight * image[j + dj, i + di]
            weights += weight
    return np.where(inside, total / np.where(inside, weights, 1), np.nan)


def lanczos2(t: np.ndarray) -> np.ndarray:
    """Return sinc(t) sinc(t / 2), zero from 2 on."""
    return np.where(np.abs(t) < 2, np.sinc(t) * np.sinc(t / 2), 0.0)


def cut(image: np.ndarray) -> list[np.ndarray]:
    """Return the stamps of a frame that do not overlap."""
    ny, nx = image.shape
    first = 24  # dithers leave the template's rim ragged
    return [
        image[y : y + STAMP, x : x + STAMP]
        for y in range(first, ny - first - STAMP + 1, STAMP)
        for x in range(first, nx - first - STAMP + 1, STAMP)
    ]


def make_scene(alert: RealAlert, seed: int) -> Scene:
    """Return what the simulated sky of ``seed`` has where ``alert`` was, satellites left out.

    A reference, being clipped, has none, and of a survey's science frames next to none has one this small
    field would see.
    """
    radius = 0.8 * max(CHIP) * load_camera("ztf").pixel_scale / 3600
    record = alert.record
    config = SkyConfig(faint_limit=24.5, satellites=NO_SATELLITES)
    return Sky(seed, config).scene(
        record["ra"], record["dec"], radius, 58000.0, BANDS[record["fid"]], EXPOSURE_TIME
    )
