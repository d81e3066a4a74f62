"""Particle hits found, stars lost to them: `python -m benchmarks.reduction.cosmic_rays`.

Simulated frames of point sources with more particles than an exposure has, so that a small frame tells; FWHM
from 1.6 to 5 pixels, chips 20, 40 and 100 µm thick. The baseline is astroscrappy alone with the contrast
(objlim) that it has by default. `--full` takes larger frames and more seeds.
"""

import argparse

import numpy as np
from astropy.io.fits import Header
from scipy import ndimage

from benchmarks.common import SEED, Requirement, at_least, at_most, save
from reference_pipeline.config import Calibrate, CosmicRays
from reference_pipeline.frame import UNUSABLE, Exposure, Frame, MaskBit
from reference_pipeline.raw import RawFrame
from reference_pipeline.reduce.calibrate import Masters, calibrate
from reference_pipeline.reduce.cosmic_rays import find_hits, flag_cosmic_rays
from reference_pipeline.simulate.atmosphere import Conditions
from reference_pipeline.simulate.exposure import expose
from reference_pipeline.simulate.scene import POINT_KINDS, Galaxies, Points, Scene, Trails
from reference_pipeline.simulate.telescope import load_telescope
from reference_pipeline.simulate.truth import FrameTruth

CHIPS = {"ast3": 4000, "ztf": 4000, "lsst": 1500}  # stars to magnitude 22 in a million pixels
FWHMS = (1.6, 2.0, 3.0, 4.0, 5.0)  # pixels
RATE = 4.0  # particles per second and million pixels; the chips have 0.05
SECONDS = 60.0
BASELINE = 5.0  # objlim
PERFECT = {
    "hot_fraction": 0.0, "dead_fraction": 0.0, "bad_columns": 0.0, "pixel_response": 0.0, "n_dust": 0,
    "vignetting": 0.0, "illumination_tilt": 0.0, "readout_faults": 0.0, "pickup": 0.0, "glow": 0.0,
    "bias_column_noise": 0.0, "bias_ramp": 0.0,
}  # fmt: skip


def simulated(
    chip: str, fwhm: float, seed: int, *, size: int = 400, density: float | None = None
) -> tuple[Frame, FrameTruth]:
    """Return a calibrated frame of ``size``² pixels whose stars have about ``fwhm`` pixels, and its truth."""
    telescope = load_telescope(chip, (size, size))
    detector = telescope.detector.model_copy(update={**PERFECT, "cosmic_ray_rate": RATE})
    telescope = telescope.model_copy(update={"detector": detector})
    scale = detector.camera.pixel_scale
    rng = np.random.default_rng(seed)
    scene = _stars(rng, int((CHIPS[chip] if density is None else density) * size**2 / 1e6), size * scale)
    seeing = np.sqrt(max((fwhm * scale) ** 2 - telescope.optics.aberration**2, 1e-4))
    conditions = Conditions(seeing_fwhm=float(seeing), sky_brightness=20.5)
    exposure = Exposure("f", chip, "science", 60000.0, SECONDS, "r", ra=120.0, dec=0.0, airmass=1.0)
    raw, truth = expose(scene, telescope, exposure, conditions, rng)
    frame = calibrate(
        RawFrame(exposure, raw, Header()), Masters(), camera=detector.camera, config=Calibrate()
    )
    return frame, truth


def _stars(rng: np.random.Generator, n: int, side: float) -> Scene:
    """Stars on a square of ``side`` arcsec about (120, 0), more of the faint: 0.35 dex per magnitude."""
    ra, dec = 120 + rng.uniform(-0.5, 0.5, n) * side / 3600, rng.uniform(-0.5, 0.5, n) * side / 3600
    magnitude = np.clip(22 - rng.exponential(1 / 0.8, n), 13.0, 22.0)
    zero, none, ends = np.zeros(n), np.zeros(0), np.zeros((0, 2))
    kind = np.full(n, POINT_KINDS.index("star"), np.int8)
    points = Points(np.arange(n), kind, ra, dec, magnitude, zero + 0.6, zero, zero, zero)
    galaxies = Galaxies(np.zeros(0, np.int64), *[none] * 8)
    return Scene(points, galaxies, Trails(np.zeros(0, np.int64), ends, ends, none, none, none))


def score(frame: Frame, truth: FrameTruth, flagged: np.ndarray) -> dict[str, int]:
    """Count pixels: hit above 5 sigma of what else is in them, those found, of stars, those lost."""
    y, x = np.asarray(truth.cosmic_rays["y"]), np.asarray(truth.cosmic_rays["x"])
    electrons = np.asarray(truth.cosmic_rays["electrons"])
    without = np.maximum(
        frame.variance[y, x] - np.clip(frame.data[y, x], 0, electrons), 1
    )  # the hit's own noise
    usable = (frame.mask[y, x] & np.uint16(MaskBit.SATURATED)) == 0
    strong = (electrons > 5 * np.sqrt(without)) & usable
    star = star_pixels(frame, truth)
    hit = np.zeros(frame.shape, bool)
    hit[y, x] = True
    return {
        "hits": int(strong.sum()),
        "found": int(flagged[y[strong], x[strong]].sum()),
        "star": int(star.sum()),
        "lost": int((star & flagged).sum()),
        "beside": int((flagged & ~hit).sum()),
    }


def star_pixels(frame: Frame, truth: FrameTruth) -> np.ndarray:
    """Pixels within one FWHM of a star of S/N above 20 that no particle hit or touched."""
    radius, flux = truth.fwhm, np.asarray(truth.sources["flux"])
    snr = flux / np.sqrt(flux + 2.27 * radius**2 * np.median(frame.variance))  # in the PSF's effective area
    touched = np.zeros(frame.shape, bool)
    touched[truth.cosmic_rays["y"], truth.cosmic_rays["x"]] = True
    touched = ndimage.binary_dilation(touched, np.ones((3, 3)))
    out = np.zeros(frame.shape, bool)
    yy, xx = np.indices(frame.shape)
    for x, y in zip(np.asarray(truth.sources["x"])[snr > 20], np.asarray(truth.sources["y"])[snr > 20]):
        rows, columns = (slice(max(0, int(p - radius) - 1), max(0, int(p + radius) + 2)) for p in (y, x))
        disc = (yy[rows, columns] - y) ** 2 + (xx[rows, columns] - x) ** 2 <= radius**2
        if not (disc & touched[rows, columns]).any():
            out[rows, columns] |= disc
    return out & ((frame.mask & np.uint16(MaskBit.SATURATED)) == 0)


def measure(*, full: bool = False) -> list[Requirement]:
    """Measure, print and save; return the requirements."""
    seeds, size = (range(SEED, SEED + (6 if full else 2)), 600 if full else 400)
    rows = []
    print(
        f"{'chip':5} {'FWHM':>5} {'found %':>18} {'star lost %':>18} {'beside':>7} | baseline: found, lost %"
    )
    for chip in CHIPS:
        for fwhm in FWHMS:
            runs = [_both(*simulated(chip, fwhm, seed, size=size)) for seed in seeds]
            row = {"chip": chip, "fwhm": fwhm, "ours": [a for a, _ in runs], "baseline": [b for _, b in runs]}
            rows.append(row)
            _print(row)
    ours = [run for row in rows for run in row["ours"]]
    groups = [row["ours"] for row in rows]
    requirements = [
        at_least("pixels above 5 sigma found", _share(ours, "found", "hits"), 90, " %"),
        at_least("the same, worst chip and FWHM", min(_share(g, "found", "hits") for g in groups), 90, " %"),
        at_most("pixels of stars lost", _share(ours, "lost", "star"), 1, " %"),
        at_most("the same, worst chip and FWHM", max(_share(g, "lost", "star") for g in groups), 1, " %"),
    ]
    save("cosmic_rays", {"simulated": True, "seeds": list(seeds), "rows": rows}, requirements, full=full)
    return requirements


def _both(frame: Frame, truth: FrameTruth) -> tuple[dict[str, int], dict[str, int]]:
    ours = (flag_cosmic_rays(frame, config=CosmicRays()).mask & np.uint16(MaskBit.COSMIC_RAY)) != 0
    unusable = (frame.mask & np.uint16(UNUSABLE)) != 0
    alone, _ = find_hits(frame.data, frame.variance, unusable, config=CosmicRays(contrast=BASELINE))
    return score(frame, truth, ours), score(frame, truth, alone)


def _share(runs: list[dict[str, int]], part: str, of: str) -> float:
    return 100 * sum(run[part] for run in runs) / max(sum(run[of] for run in runs), 1)


def _print(row: dict) -> None:
    def spread(part: str, of: str) -> str:
        each = [_share([run], part, of) for run in row["ours"]]
        return f"{_share(row['ours'], part, of):.1f} ({min(each):.1f}-{max(each):.1f})"

    beside = _share(row["ours"], "beside", "hits") / 100
    base = _share(row["baseline"], "found", "hits"), _share(row["baseline"], "lost", "star")
    print(
        f"{row['chip']:5} {row['fwhm']:5.1f} {spread('found', 'hits'):>18} {spread('lost', 'star'):>18} "
        f"{beside:7.2f} | {base[0]:.1f} {base[1]:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--full", action="store_true", help="larger frames and more seeds")
    measure(full=parser.parse_args().full)
