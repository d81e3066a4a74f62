"""Simulated stamps for real alerts: the same place, band and sky, everything else the simulation's.

ZTF's subtraction brings a science stamp to the background of its reference, so that the stamp's own sky is
seen in its noise alone: the science sky here is the one whose shot noise that is, the template's is its
background. A science frame is one exposure through the ztf telescope; a template is the mean of many with
small dithers and seeing of their own, resampled onto one grid as ZTF's references are. Detrending is
perfect: the overscan of each line, the chip's own bias structure and response.
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
from reference_pipeline.simulate.scene import Scene
from reference_pipeline.simulate.sky import Sky, SkyConfig
from reference_pipeline.simulate.telescope import Telescope, load_telescope
from reference_pipeline.simulate.truth import FrameTruth

CHIP = (240, 240)
STAMP = 63
EXPOSURE_TIME = 30.0
BANDS = {1: "g", 2: "r", 3: "i"}
N_TEMPLATE = 14  # exposures; of ZTF's references 15 or more
SEEING = {"science": 1.25, "template": 1.6}  # arcsec, median of the air alone: as the real stars are wide
SEEING_SPREAD = 0.28  # rms of its logarithm
EXTINCTION = {"g": 0.2, "r": 0.12, "i": 0.08}


@dataclass(frozen=True)
class Field:
    """Simulated stamps of one field, ADU with the sky in."""

    science: list[np.ndarray]
    template: list[np.ndarray]


def field(alert: RealAlert, scene: Scene, background: float, science_sky: float, seed: list[int]) -> Field:
    """Return stamps of ``scene`` around ``alert``: the template's sky and the science frame's, ADU."""
    telescope = load_telescope("ztf", CHIP)
    band = BANDS[alert.record["fid"]]
    rng = np.random.default_rng(seed)
    science, truth = exposed(telescope, scene, alert, band, science_sky, rng, SEEING["science"])
    science += background - science_sky
    total, weight = np.zeros(CHIP), np.zeros(CHIP)
    for _ in range(N_TEMPLATE):
        frame, other = exposed(telescope, scene, alert, band, background, rng, SEEING["template"])
        moved, inside = resampled(frame, other, truth)
        total += np.where(inside, moved, 0)
        weight += inside
    template = np.where(weight > 0.6 * N_TEMPLATE, total / np.maximum(weight, 1), np.nan)
    return Field(cut(science), cut(template))


def exposed(
    telescope: Telescope,
    scene: Scene,
    alert: RealAlert,
    band: str,
    background: float,
    rng: np.random.Generator,
    seeing: float,
) -> tuple[np.ndarray, FrameTruth]:
    """Return a detrended frame (ADU) of ``scene`` and its truth."""
    camera = telescope.detector.camera
    electrons = background * camera.gain
    per_arcsec2 = electrons / EXPOSURE_TIME / camera.pixel_scale**2
    conditions = Conditions(
        seeing_fwhm=float(seeing * np.exp(SEEING_SPREAD * rng.standard_normal())),
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


def resampled(frame: np.ndarray, from_: FrameTruth, to: FrameTruth) -> tuple[np.ndarray, np.ndarray]:
    """Return ``frame`` on the grid of ``to`` (quadratic splines), and where it reaches."""
    ny, nx = frame.shape
    x, y = np.array([0.0, nx - 1, 0.0]), np.array([0.0, 0.0, ny - 1])
    x1, y1 = sky_to_pixel(from_.wcs, *to.wcs.all_pix2world(x, y, 0))
    # over 240 pixels two fields differ by a shift and a small turn: three corners say it
    along_x = np.array([y1[1] - y1[0], x1[1] - x1[0]]) / (nx - 1)
    along_y = np.array([y1[2] - y1[0], x1[2] - x1[0]]) / (ny - 1)
    matrix, offset = np.stack([along_y, along_x], axis=1), np.array([y1[0], x1[0]])
    moved = ndimage.affine_transform(frame, matrix, offset, order=2, cval=np.nan)
    return moved, np.isfinite(moved)


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
    """Return what the simulated sky of ``seed`` has where ``alert`` was."""
    radius = 0.8 * max(CHIP) * load_camera("ztf").pixel_scale / 3600
    record = alert.record
    return Sky(seed, SkyConfig(faint_limit=24.5)).scene(
        record["ra"], record["dec"], radius, 58000.0, BANDS[record["fid"]], EXPOSURE_TIME
    )
