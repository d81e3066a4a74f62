"""Find sources and choose the stars that a frame is calibrated with (Sun+ 2022, 2.2).

Detection is SExtractor's (Bertin & Arnouts 1996) through sep: a background mesh, the image smoothed with a
Gaussian as wide as the frame's own stars, a threshold, deblending. The threshold is the signal-to-noise ratio
of the *smoothed* image, so that 5 means a star found half of the time has 5σ in its PSF; SExtractor's
DETECT_THRESH of t times the rms with its default 3×3 kernel is ``threshold=t / 0.375, kernel_fwhm=2``,
and its FLUX_AUTO counts whole pixels: ``kron_subpixels=1``.

Columns of ``frame.sources``, one row per source, positions in pixels from 0, fluxes in electrons:

    x, y                    windowed position (XWIN_IMAGE − 1, YWIN_IMAGE − 1); the barycentre where that ran
                            off to a neighbour
    x_barycentre, ...y      isophotal barycentre (X_IMAGE − 1, Y_IMAGE − 1)
    a, b, theta             rms of the isophotal profile along its axes (pixels), angle from x to y (radians)
    elongation              a / b
    fwhm                    of the core: of the Gaussian with the same flux within half of and within the
                            whole half-light radius. 1.4 % above the true value for a Moffat profile
                            of β = 3, where twice the half-light radius would be 26 % above
    half_light_radius       circle with half of flux_auto (pixels)
    kron_radius             in units of a and b; flux_auto is of kron_factor times that
    flux_auto, ..._error    in the Kron ellipse; the error from the frame's variance
    snr                     flux_auto / flux_auto_error
    peak                    highest pixel above the background
    concentration           −2.5 log10 of the flux within half of the frame's FWHM to that within one FWHM
                            (mag, both radii): alike for all stars, higher for galaxies, lower for hot pixels
    flags                   sep's bits, and NEAR_NEIGHBOUR
    mask                    MaskBit of every pixel within one FWHM, or'ed
    is_calibration          a star to calibrate with
    is_psf_star             one to model the PSF with
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import sep
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..config import Sources
from ..errors import PixelError, SourceError
from ..frame import UNUSABLE, Decision, Frame, MaskBit, unit_coordinates

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

COARSE_STEP = 0.3  # sigmas: smaller steps of digitization do not show

#: Added to sep's flags: another source within the Kron aperture has a tenth of this one's flux or more.
NEAR_NEIGHBOUR = 0x1000

#: Not looked for sources. Saturated pixels are: a star without its core would be found as a ring.
UNDETECTABLE = (UNUSABLE & ~MaskBit.SATURATED) | MaskBit.TRAIL

#: No calibration star has one of these near its centre.
UNCALIBRATED = UNUSABLE | MaskBit.TRAIL | MaskBit.SUSPECT

_GAUSSIAN_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))  # of a FWHM
_SURFACE_STARS = 60  # fewer do not tell a gradient over the frame from scatter


@dataclass(frozen=True)
class Selection:
    """Which sources are stars, and how many each cut took."""

    is_calibration: Mask
    is_psf_star: Mask
    removed: dict[str, int]  # in the order of the cuts


def find_sources(frame: Frame, *, config: Sources) -> Frame:
    """Return ``frame`` with ``background`` and ``sources`` (see above).

    Raises PixelError ("no-pixels") where fewer than 1 % of the pixels can be used, SourceError ("no-stars")
    where fewer than ``min_stars`` calibration stars remain.
    """
    started = time.perf_counter()
    mask = (frame.mask & int(UNDETECTABLE)) != 0
    mask |= ~np.isfinite(frame.data)
    if mask.mean() > 0.99:
        raise PixelError(
            frame.id, "sources", "no-pixels", f"{1.0 - mask.mean():.1%} of the pixels usable, need 1%"
        )
    background, rms = fit_background(frame.data, mask, config=config, step=frame.gain)
    pixels = frame.data - background
    pixels[mask] = 0.0
    kernel_fwhm = config.kernel_fwhm or estimate_fwhm(pixels, rms, mask, config=config)
    table = extract_sources(
        pixels, rms, frame.variance, mask, kernel_fwhm=kernel_fwhm, config=config
    )  # fmt: skip
    table["mask"] = mask_near(frame.mask, table["x"], table["y"], kernel_fwhm)
    selection = select_stars(table, frame.shape, config=config)
    if selection.is_calibration.sum() < config.min_stars:
        cuts = ", ".join(f"{name} {n}" for name, n in selection.removed.items())
        raise SourceError(
            frame.id,
            "sources",
            "no-stars",
            f"{selection.is_calibration.sum()} calibration stars of {len(table)} sources, "
            f"need {config.min_stars}; removed: {cuts}",
        )
    table["is_calibration"], table["is_psf_star"] = selection.is_calibration, selection.is_psf_star
    stars = table[selection.is_calibration]
    decision: dict[str, Decision] = {
        "n_sources": len(table),
        "n_stars": len(stars),
        "n_psf_stars": int(selection.is_psf_star.sum()),
        "fwhm": round(float(np.median(stars["fwhm"])), 4),
        "ellipticity": round(float(np.median(1.0 - stars["b"] / stars["a"])), 4),
        "background": round(float(np.median(background[::16, ::16])), 4),
        "background_rms": round(float(np.median(rms[::16, ::16])), 4),
        "kernel_fwhm": round(kernel_fwhm, 3),
        **{f"removed_{name}": n for name, n in selection.removed.items()},
    }
    return frame.after("sources", started, decision, background=background, sources=table)


def fit_background(
    data: NDArray[np.float32], mask: Mask, *, config: Sources, step: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the background and its rms, both like ``data``, from the unmasked pixels of a mesh of cells.

    ``step`` (electrons) is what the digitization can tell apart. Where it is not small against the noise, the
    median of a cell jumps, and 2.5 medians less 1.5 means jump further: by 0.4 sigma on frames of 12 bits.
    Such pixels are blurred by one step first, and the blur's variance, 1/12, is taken off the rms.
    """
    clean = np.ascontiguousarray(np.where(mask, 0.0, data), dtype=np.float32)
    size, width = config.background_size, config.background_filter
    mesh = sep.Background(clean, mask=mask, bw=size, bh=size, fw=width, fh=width)
    if step <= COARSE_STEP * mesh.globalrms:
        return mesh.back(dtype=np.float32), mesh.rms(dtype=np.float32)
    clean += np.float32(step) * (
        np.random.default_rng(0).random(clean.shape, dtype=np.float32) - np.float32(0.5)
    )
    mesh = sep.Background(clean, mask=mask, bw=size, bh=size, fw=width, fh=width)
    variance = np.maximum(np.square(mesh.rms(dtype=np.float32)) - step**2 / 12, step**2 / 12)
    return mesh.back(dtype=np.float32), np.sqrt(variance).astype(np.float32)


def detection_kernel(fwhm: float) -> NDArray[np.float32]:
    """A Gaussian of ``fwhm`` pixels out to 0.75 FWHM, sum 1. 2 gives SExtractor's default.conv."""
    half = max(1, int(0.75 * fwhm))
    r2 = np.square(np.arange(-half, half + 1.0))
    kernel = np.exp2(-4.0 * (r2[:, None] + r2) / fwhm**2)
    return (kernel / kernel.sum()).astype(np.float32)


def estimate_fwhm(
    pixels: NDArray[np.float32], rms: NDArray[np.float32], mask: Mask, *, config: Sources
) -> float:
    """Return the median FWHM (pixels) of the bright unblended sources in up to four tiles of 1024².

    Only the width of the detection kernel is chosen by it. 3 where there are none: near that for most
    cameras.
    """
    ny, nx = pixels.shape
    size = 1024
    centres = [(ny * i // 4, nx * j // 4) for i in (1, 3) for j in (1, 3)]
    corners = {(max(0, y - size // 2), max(0, x - size // 2)) for y, x in centres}
    if ny <= 2 * size and nx <= 2 * size:
        corners, size = {(0, 0)}, max(ny, nx)
    widths: list[Floats] = []
    for y, x in sorted(corners):
        tile = np.s_[y : y + size, x : x + size]
        found = _extract(
            pixels[tile],
            rms[tile],
            mask[tile],
            kernel_fwhm=2.5,
            threshold=15.0,
            config=config,
        )
        # Three pixels make the smallest star; what is rounder than a streak and not truncated counts.
        found = found[(found["flag"] == 0) & (found["npix"] >= 3) & (found["b"] > 0.6 * found["a"])]
        # the width at half of the peak, from the flux: of a Gaussian, less than 15 % wide of a Moffat's
        # the isophote of a faint one leaves out a good part of its flux
        found = found[found["peak"] >= np.median(found["peak"])] if len(found) else found
        widths.append(np.sqrt(found["flux"] / np.maximum(found["peak"], 1e-6) * 4.0 * np.log(2.0) / np.pi))
    width = np.concatenate(widths)
    return float(np.clip(np.median(width), 1.5, 12.0)) if width.size else 3.0


def extract_sources(
    pixels: NDArray[np.float32],
    rms: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: Mask,
    *,
    kernel_fwhm: float,
    config: Sources,
) -> Table:
    """Return the sources of a background-subtracted image, measured; all columns but mask and is_*.

    ``rms`` is of the background and sets the threshold, ``variance`` with the sources' own noise the errors;
    both like ``pixels`` (electrons, electrons²).
    """
    found = _extract(pixels, rms, mask, kernel_fwhm=kernel_fwhm, threshold=config.threshold, config=config)
    x, y, theta = found["x"], found["y"], found["theta"]
    a = np.maximum(found["a"], 1e-3)
    b = np.clip(found["b"], 1e-3, a)
    theta = np.clip(theta, -np.pi / 2, np.pi / 2)
    flags = found["flag"].astype(np.int32)
    # Kron's aperture needs a finite ellipse; sep gives 0 where the moments are degenerate
    kron, flag = sep.kron_radius(pixels, x, y, a, b, theta, 6.0, mask=mask)
    flags |= flag
    kron = np.maximum(np.nan_to_num(kron), config.kron_minimum / config.kron_factor)
    flux, flux_error, flag = sep.sum_ellipse(
        pixels,
        x,
        y,
        a,
        b,
        theta,
        config.kron_factor * kron,
        var=variance,
        mask=mask,
        subpix=config.kron_subpixels,
    )
    flags |= flag
    half_light, flag = sep.flux_radius(pixels, x, y, 6.0 * a, 0.5, normflux=flux, mask=mask, subpix=5)
    half_light = np.where(np.isfinite(half_light) & (half_light > 0), half_light, a)
    x_window, y_window, flag = sep.winpos(pixels, x, y, 2.0 * _GAUSSIAN_SIGMA * half_light, mask=mask)
    # A windowed centre that ran off to a brighter neighbour, or did not settle, is no improvement
    moved = np.hypot(x_window - x, y_window - y)
    is_better = np.isfinite(moved) & (moved < 0.5 * (1.0 + a))
    x_window, y_window = np.where(is_better, x_window, x), np.where(is_better, y_window, y)
    fwhm = _core_fwhm(pixels, x_window, y_window, half_light, mask)
    table = Table(
        {
            "x": x_window,
            "y": y_window,
            "x_barycentre": x,
            "y_barycentre": y,
            "a": a,
            "b": b,
            "theta": theta,
            "elongation": a / b,
            "fwhm": fwhm,
            "half_light_radius": half_light,
            "kron_radius": kron,
            "flux_auto": flux,
            "flux_auto_error": flux_error,
            "snr": flux / np.maximum(flux_error, 1e-12),
            "peak": found["peak"].astype(float),
        }
    )
    table["concentration"] = _concentration(pixels, x_window, y_window, kernel_fwhm, mask)
    near = _has_near_neighbour(x_window, y_window, flux, config.kron_factor * kron * np.sqrt(a * b))
    table["flags"] = flags | np.where(near, NEAR_NEIGHBOUR, 0).astype(np.int32)
    return table


def select_stars(table: Table, shape: tuple[int, int], *, config: Sources) -> Selection:
    """Return which sources calibrate the frame and which model its PSF (Sun+ 2022, 2.2, read as below).

    In order: no flag and no bad pixel near the centre; positive flux; S/N above ``star_min_snr``; not sharper
    than the PSF (hot pixels and cosmic rays); FWHM and elongation within ``star_clip`` sigmas; without the
    ``drop_least_stellar`` that are least like the frame's stars in concentration, sep having no CLASS_STAR.
    PSF stars keep ``psf_star_clip`` sigmas. Sigmas are about a quadratic surface over the frame where there
    are enough stars, so that a PSF that varies does not cost the corners their stars.
    """
    removed: dict[str, int] = {}
    keep = np.ones(len(table), bool)

    def cut(name: str, is_good: Mask) -> None:
        removed[name] = int((keep & ~is_good).sum())
        keep[:] &= is_good

    cut("flags", (table["flags"] == 0) & ((table["mask"] & int(UNCALIBRATED)) == 0))
    cut("flux", np.asarray(table["flux_auto"] > 0) & np.isfinite(table["flux_auto"]))
    cut("snr", np.asarray(table["snr"] > config.star_min_snr))
    u, v = unit_coordinates(np.asarray(table["x"]), np.asarray(table["y"]), shape)
    concentration = _deviation(np.asarray(table["concentration"]), u, v, keep)
    # A hot pixel has all its flux within half a FWHM. Two thirds of the width of the median star is less than
    # any star has on one frame, and undersampled stars scatter by less than that.
    median = float(np.median(table["fwhm"][keep])) if keep.any() else np.nan
    cut("sharp", np.asarray(table["fwhm"] > 0.66 * median))
    width = _deviation(np.asarray(table["fwhm"]), u, v, keep)
    long = _deviation(np.asarray(table["elongation"]), u, v, keep)
    cut("fwhm", np.abs(width) < config.star_clip)
    cut("elongation", np.abs(long) < config.star_clip)
    concentration = _deviation(np.asarray(table["concentration"]), u, v, keep)
    if keep.any():
        limit = np.quantile(np.abs(concentration[keep]), 1.0 - config.drop_least_stellar)
        cut("concentration", np.abs(concentration) <= limit)
    is_psf_star = keep & (np.abs(width) < config.psf_star_clip) & (np.abs(long) < config.psf_star_clip)
    return Selection(keep.copy(), is_psf_star, removed)


def mask_near(mask: NDArray[np.uint16], x: Floats, y: Floats, radius: float) -> NDArray[np.uint16]:
    """Return the bits of all pixels within ``radius`` of each position, or'ed (uint16).

    What lies outside of the image counts as OFF_IMAGE.
    """
    ny, nx = mask.shape
    half = int(np.ceil(radius))
    i, j = np.rint(np.asarray(y)).astype(int), np.rint(np.asarray(x)).astype(int)
    bits = np.zeros(len(i), np.uint16)
    for dy in range(-half, half + 1):
        for dx in range(-half, half + 1):
            if dx * dx + dy * dy > radius * radius:
                continue
            row, column = i + dy, j + dx
            inside = (row >= 0) & (row < ny) & (column >= 0) & (column < nx)
            bits |= np.where(
                inside, mask[row.clip(0, ny - 1), column.clip(0, nx - 1)], np.uint16(MaskBit.OFF_IMAGE)
            )
    return bits


def quadratic(u: Floats, v: Floats) -> Floats:
    """The terms 1, u, v, uv, u², v², shape (n, 6): the surface of Eq. 3."""
    return np.stack([np.ones_like(u), u, v, u * v, u * u, v * v], axis=-1)


def _extract(
    pixels: NDArray[np.float32],
    rms: NDArray[np.float32],
    mask: Mask,
    *,
    kernel_fwhm: float,
    threshold: float,
    config: Sources,
) -> NDArray[np.void]:
    """sep's table. Its pixel buffer is made larger until the crowded frame fits."""
    kernel = detection_kernel(kernel_fwhm)
    # The noise of the smoothed image in units of the rms: sep's "conv" threshold is in the latter
    noise = float(np.sqrt(np.square(kernel).sum()) / kernel.sum())
    sep.set_sub_object_limit(8192)
    buffer = max(1_000_000, pixels.size // 20)
    while True:
        sep.set_extract_pixstack(min(buffer, pixels.size))
        try:
            return sep.extract(
                np.ascontiguousarray(pixels),
                threshold * noise,
                err=np.ascontiguousarray(rms),
                mask=np.ascontiguousarray(mask),
                minarea=config.min_area,
                filter_kernel=kernel,
                filter_type="conv",
                deblend_nthresh=config.deblend_levels,
                deblend_cont=config.deblend_contrast,
            )
        except Exception as error:  # sep has no class of its own; only this message is answered
            if "pixel buffer full" not in str(error) or buffer >= pixels.size:
                raise
            buffer *= 4


def _core_fwhm(pixels: NDArray[np.float32], x: Floats, y: Floats, half_light: Floats, mask: Mask) -> Floats:
    """FWHM of the Gaussian whose fluxes within r/2 and r, r the half-light radius, are in the ratio found."""
    radius = np.maximum(half_light, 1.0)
    inner, _, _ = sep.sum_circle(pixels, x, y, 0.5 * radius, mask=mask, subpix=0)
    outer, _, _ = sep.sum_circle(pixels, x, y, radius, mask=mask, subpix=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(inner / outer, nan=_RATIO[0])
    t = np.interp(ratio, _RATIO, _T)  # t = r² / 2σ²
    return radius / np.sqrt(2.0 * t) / _GAUSSIAN_SIGMA


def _tabulated_ratio() -> tuple[Floats, Floats]:
    t = np.geomspace(0.02, 20.0, 400)
    return (1.0 - np.exp(-t / 4.0)) / (1.0 - np.exp(-t)), t


_RATIO, _T = _tabulated_ratio()


def _concentration(pixels: NDArray[np.float32], x: Floats, y: Floats, fwhm: float, mask: Mask) -> Floats:
    inner, _, _ = sep.sum_circle(pixels, x, y, 0.5 * fwhm, mask=mask, subpix=0)
    outer, _, _ = sep.sum_circle(pixels, x, y, fwhm, mask=mask, subpix=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(-2.5 * np.log10(inner / outer), nan=9.0, posinf=9.0, neginf=-9.0)


def _has_near_neighbour(x: Floats, y: Floats, flux: Floats, radius: Floats) -> Mask:
    """Whether another source within ``radius`` has a tenth of the flux or more."""
    if not len(x):
        return np.zeros(0, bool)
    positions = np.stack([x, y], axis=1)
    reach = np.minimum(radius, 50.0)  # a saturated star's aperture would otherwise hold thousands
    tree = cKDTree(positions)
    near = np.zeros(len(x), bool)
    pairs = tree.query_pairs(float(np.quantile(reach, 0.99)), output_type="ndarray")
    if len(pairs):
        first, second = np.concatenate([pairs, pairs[:, ::-1]]).T
        distance = np.hypot(*(positions[first] - positions[second]).T)
        is_near = (distance < reach[first]) & (flux[second] > 0.1 * flux[first])
        near[first[is_near]] = True
    return near


def _deviation(values: Floats, u: Floats, v: Floats, keep: Mask) -> Floats:
    """How many robust sigmas ``values`` lie from the clipped surface through those kept."""
    used = keep & np.isfinite(values)
    residual = np.full(len(values), np.inf)
    if used.sum() < 2:
        residual[used] = 0.0
        return residual
    terms = quadratic(u, v) if used.sum() >= _SURFACE_STARS else np.ones((len(values), 1))
    model = np.full(len(values), np.median(values[used]))
    sigma = 0.0
    for _ in range(8):
        off = values - model
        sigma = 1.4826 * float(np.median(np.abs(off[used] - np.median(off[used]))))
        near = used & (np.abs(off) <= 3.0 * sigma + 1e-12)
        if near.sum() < terms.shape[1] + 1:
            break
        if terms.shape[1] == 1:
            updated = np.full(len(values), np.median(values[near]))
        else:
            updated = terms @ np.linalg.lstsq(terms[near], values[near], rcond=None)[0]
        is_settled = np.allclose(updated, model, rtol=0, atol=1e-6 + 0.001 * sigma)
        model = updated
        if is_settled:
            break
    floor = 1e-6 * (abs(float(np.median(values[used]))) + 1.0)  # noiseless frames have no scatter
    return (values - model) / max(sigma, floor)
