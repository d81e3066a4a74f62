"""A reduced frame beside what is true of it: positions, magnitudes, PSF fluxes, masks."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from reference_pipeline.frame import Frame, MaskBit
from reference_pipeline.simulate.truth import FrameTruth

MAD_TO_SIGMA = 1.4826
STAR = "star"
MATCH = 1.5  # pixels
ALONE = 4.0  # FWHM to the next true source of a tenth of the flux: a star whose flux can be its own
N_KEPT = 150  # stars of a frame that the results hold, for the figure; their order is the frame's
N_GRID = 33  # nodes a side at which zero points are compared


def scatter(values: np.ndarray) -> float:
    """The robust standard deviation."""
    return float(MAD_TO_SIGMA * np.median(np.abs(values - np.median(values)))) if len(values) else np.nan


def matched(frame: Frame, truth: FrameTruth) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ``frame.sources`` and of ``truth.sources`` that are the same unblended star."""
    sources, true = frame.sources, truth.sources
    xy_true = np.column_stack([true["x"], true["y"]])
    flux = np.asarray(true["flux"])
    tree = cKDTree(xy_true)
    xy = np.column_stack([sources["x"], sources["y"]])
    distance, row = tree.query(xy)
    clean = (np.asarray(sources["flags"]) == 0) & (np.asarray(sources["mask"]) == 0)
    good = (distance < MATCH) & clean & (np.asarray(true["kind"])[row] == STAR)
    rows = np.flatnonzero(good)
    near = tree.query_ball_point(xy_true[row[rows]], ALONE * truth.fwhm)
    alone = [
        all(other == own or flux[other] < 0.1 * flux[own] for other in others)
        for own, others in zip(row[rows], near)
    ]
    rows = rows[np.array(alone, bool)]
    return rows, row[rows]


def positions(frame: Frame, truth: FrameTruth) -> dict[str, float]:
    """Sky positions against the truth, in mas, over the stars of S/N above 20 and 100."""
    rows, true_rows = matched(frame, truth)
    ra, dec = frame.wcs.pixel_to_world_values(frame.sources["x"][rows], frame.sources["y"][rows])
    true = truth.sources[true_rows]
    ra0, dec0 = truth.wcs.pixel_to_world_values(true["x"], true["y"])
    east = ((np.asarray(ra) - ra0 + 180) % 360 - 180) * np.cos(np.radians(dec0)) * 3.6e6
    north = (np.asarray(dec) - dec0) * 3.6e6
    snr = np.asarray(frame.sources["snr"])[rows]
    out: dict[str, float] = {}
    for least in (20, 100):
        use = snr > least
        out |= {
            f"n_{least}": int(use.sum()),
            f"median_ra_{least}": float(np.median(east[use])) if use.any() else np.nan,
            f"median_dec_{least}": float(np.median(north[use])) if use.any() else np.nan,
            f"scatter_ra_{least}": scatter(east[use]),
            f"scatter_dec_{least}": scatter(north[use]),
        }
    return out


def magnitudes(frame: Frame, truth: FrameTruth) -> dict[str, object]:
    """Zero point, its spatial term, and the stars' magnitudes against the truth."""
    ny, nx = frame.shape
    x, y = np.meshgrid(np.linspace(0, nx - 1, N_GRID), np.linspace(0, ny - 1, N_GRID))
    ours = frame.zero_point.value + frame.zero_point.offset(x, y, frame.shape)
    difference = ours - truth.zero_point.value - truth.zero_point.offset(x, y, frame.shape)
    rows, true_rows = matched(frame, truth)
    true = truth.sources[true_rows]
    true_mag = (
        truth.zero_point.value
        + truth.zero_point.offset(true["x"], true["y"], frame.shape)
        - 2.5 * np.log10(true["flux"])
    )
    error = np.asarray(frame.sources["mag"])[rows] - np.asarray(true_mag)
    snr = np.asarray(frame.sources["snr"])[rows]
    finite = np.isfinite(error)
    return {
        "zero_point_error": float(difference.mean()),
        "spatial_rms": float(difference.std()),
        "bright_scatter": scatter(error[finite & (snr > 200)]),
        "bright_offset": float(np.median(error[finite & (snr > 200)])),
        "n_bright": int((finite & (snr > 200)).sum()),
        "true_magnitude": np.asarray(true_mag)[finite][:N_KEPT].round(2).tolist(),
        "magnitude_error": error[finite][:N_KEPT].round(3).tolist(),
    }


def psf_fluxes(frame: Frame, truth: FrameTruth) -> dict[str, float]:
    """PSF flux over true flux of stars of S/N above 50."""
    rows, true_rows = matched(frame, truth)
    ratio = np.asarray(frame.sources["flux_psf"])[rows] / np.asarray(truth.sources["flux"])[true_rows]
    use = np.isfinite(ratio) & (np.asarray(frame.sources["snr"])[rows] > 50)
    return {"n": int(use.sum()), "bias": float(np.median(ratio[use])) - 1, "scatter": scatter(ratio[use])}


def masks(frame: Frame, truth: FrameTruth) -> dict[str, float]:
    """Pixels of cosmic rays found, pixels of stars lost to them, lengths of trails found."""
    hit = truth.cosmic_rays
    sigma = np.sqrt(frame.variance[hit["y"], hit["x"]])
    strong = np.asarray(hit["electrons"]) > 5 * sigma
    usable = (frame.mask[hit["y"], hit["x"]] & np.uint16(MaskBit.BAD | MaskBit.SATURATED)) == 0
    flagged = (frame.mask & np.uint16(MaskBit.COSMIC_RAY)) != 0
    use = strong & usable
    star = _star_pixels(frame, truth)
    star[hit["y"], hit["x"]] = False
    return {
        "n_cosmic_ray_pixels": int(use.sum()),
        "cosmic_ray_pixels_found": int(flagged[hit["y"][use], hit["x"][use]].sum()),
        "n_star_pixels": int(star.sum()),
        "star_pixels_lost": int((flagged & star).sum()),
        **_trail_lengths(frame, truth),
    }


def _star_pixels(frame: Frame, truth: FrameTruth) -> np.ndarray:
    """Pixels within one FWHM of a true star that is detected (S/N above 20)."""
    out = np.zeros(frame.shape, bool)
    rows, true_rows = matched(frame, truth)
    bright = np.asarray(frame.sources["snr"])[rows] > 20
    radius = truth.fwhm
    reach = int(np.ceil(radius))
    offsets = [
        (dy, dx)
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
        if dy * dy + dx * dx <= radius**2
    ]
    ny, nx = frame.shape
    for source in truth.sources[true_rows[bright]]:
        for dy, dx in offsets:
            y, x = round(source["y"]) + dy, round(source["x"]) + dx
            if 0 <= y < ny and 0 <= x < nx:
                out[y, x] = True
    return out


def _trail_lengths(frame: Frame, truth: FrameTruth) -> dict[str, float]:
    """Pixels of the trails' length inside the frame, and how many of them have the bit TRAIL."""
    flagged = (frame.mask & np.uint16(MaskBit.TRAIL)) != 0
    ny, nx = frame.shape
    length = found = 0
    for trail in truth.trails if truth.trails is not None else ():
        n = int(np.hypot(trail["x2"] - trail["x1"], trail["y2"] - trail["y1"])) + 1
        x = np.rint(np.linspace(trail["x1"], trail["x2"], n)).astype(int)
        y = np.rint(np.linspace(trail["y1"], trail["y2"], n)).astype(int)
        inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
        length += int(inside.sum())
        found += int(flagged[y[inside], x[inside]].sum())
    has_trail = length > 0
    return {
        "trail_length": length,
        "trail_length_found": found,
        "false_trail_pixels": 0 if has_trail else int(flagged.sum()),
    }
