"""The difference of two calibrated frames on one grid: science less template, and how far to trust it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError
from scipy.ndimage import maximum_filter, uniform_filter

from ..config import Subtract
from ..errors import SubtractionError
from ..frame import UNUSABLE, Decision, Frame, MaskBit
from ..reduce.photometry import background_rms, background_subtracted
from ..reduce.psf import psf_stamps
from .apply import convolved_variance, likeness
from .fit_stamps import Fit, Stamps, chi2_of, fit_stamps, stamp_equations
from .kernel import Basis, Kernel, n_terms
from .score import matched_filter, whiten, whitening_kernel

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]

STAGE = "subtract"
BAD = UNUSABLE | MaskBit.TRAIL  # no difference is known where either image has one of these
_HELD_OUT = 5  # every so many stamps, one judges what the others say


@dataclass(frozen=True)
class Difference:
    """Science less template in the science frame's electrons, and what a detection needs of it."""

    data: Pixels  # electrons, 0 where the mask has a bit of BAD
    variance: Pixels  # electrons²
    mask: NDArray[np.uint16]  # MaskBit; OFF_IMAGE where a kernel's reach had no template
    whitened: Pixels  # electrons, noise uncorrelated
    score: Pixels  # S/N of a point source at each pixel; NaN where nothing is known
    flux: Pixels  # electrons of a point source at each pixel
    kernel: Kernel
    is_template_convolved: bool  # else the science image was
    decision: dict[str, Decision]
    seconds: float


def subtract(science: Frame, template: Frame, *, config: Subtract) -> Difference:
    """Return the difference of two frames on the same pixel grid; the science frame has sources and PSF.

    The sharper image is convolved. The kernel's degree is lowered where stamps are few, and the decision says
    so. Raises SubtractionError: "shape", "no-stars", "not-solvable", and "not-trusted" where held-out stamps
    have a reduced chi-square above ``config.max_chi2``.
    """
    started = time.perf_counter()
    if science.shape != template.shape:
        raise SubtractionError(
            science.id, STAGE, "shape", f"science {science.shape}, template {template.shape} (ny, nx)"
        )
    if science.psf is None or science.sources is None:
        raise SubtractionError(science.id, STAGE, "no-psf", "the science frame has no sources or no PSF")
    convolve_template = _fwhm(template) <= _fwhm(science)
    image, target = (template, science) if convolve_template else (science, template)
    half_width = config.half_width or _half_width(image, target)
    half = half_width + round(_fwhm(target))

    bad = ((image.mask | target.mask) & np.uint16(BAD)) != 0
    bad |= ~(np.isfinite(image.data) & np.isfinite(target.data))
    image_bad = ((image.mask & np.uint16(BAD)) != 0) | ~np.isfinite(image.data)
    near_bad = maximum_filter(image_bad, 2 * half_width + 1, mode="constant", cval=True) | bad
    image_data = np.where(image_bad, 0, background_subtracted(image)).astype(np.float32)
    target_data = np.where(bad, 0, background_subtracted(target)).astype(np.float32)

    x, y = _stamp_places(science, half + half_width, near_bad, config)
    basis, lowered = _basis(half_width, len(x), config)
    variance = _smooth(target.variance, bad) + _smooth(image.variance, bad) * config.first_noise
    stamps = stamp_equations(
        target_data, image_data, variance, ~near_bad, x, y, half=half, half_width=half_width
    )
    fit, held_out = _fit(science.id, stamps, basis, science.shape, config)
    kernel = basis.kernel(fit.coefficients, science.shape)
    _check(science.id, held_out, config)

    matched = likeness(image_data, kernel)
    both = target.variance + convolved_variance(np.where(image_bad, 0, image.variance), kernel)
    sign = 1.0 if convolve_template else -1.0
    scale = 1.0 if convolve_template else 1.0 / kernel.ratio_at(*_middle(science.shape))
    data = np.where(near_bad, 0, sign * scale * (target_data - matched)).astype(np.float32)
    difference_variance = (both * scale**2).astype(np.float32)
    noise = background_rms(target) ** 2 * scale**2, background_rms(image) ** 2 * scale**2
    whitened = whiten(data, kernel, *noise)
    score, flux = _filter(science, target, whitened, near_bad, kernel, noise, convolve_template)
    decision: dict[str, Decision] = {
        "convolved": "template" if convolve_template else "science",
        "half_width": half_width,
        "degree": basis.degree,
        "lowered": lowered,
        "n_stamps": len(stamps),
        "n_used": int(fit.used.sum()),
        "chi2": round(float(np.median(fit.chi2[fit.used])), 4),
        "held_out_chi2": round(held_out, 4),
        "condition": float(f"{fit.condition:.3g}"),
        "photometric_ratio": round(kernel.ratio_at(*_middle(science.shape)), 5),
        "score_sigma": round(_robust_sigma(score), 4),
    }
    mask = (science.mask | template.mask).astype(np.uint16)
    mask[near_bad & ~bad] |= np.uint16(MaskBit.SUSPECT)
    return Difference(
        data, difference_variance, mask, whitened, score, flux, kernel, convolve_template, decision,
        time.perf_counter() - started,
    )  # fmt: skip


def _fit(
    frame_id: str, stamps: Stamps, basis: Basis, shape: tuple[int, int], config: Subtract
) -> tuple[Fit, float]:
    """The fit to most stamps, and the median reduced chi-square of those it has not seen."""
    rows = np.arange(len(stamps))
    judges = rows % _HELD_OUT == _HELD_OUT - 1
    try:
        fit = fit_stamps(stamps.select(~judges), basis, shape, clip=config.clip)
        held_out = float(np.median(chi2_of(stamps.select(judges), fit.coefficients, basis, shape)))
        return fit_stamps(stamps, basis, shape, clip=config.clip), held_out
    except LinAlgError as error:
        raise SubtractionError(frame_id, STAGE, "not-solvable", f"the kernel's equations: {error}") from error


def _check(frame_id: str, held_out: float, config: Subtract) -> None:
    if not held_out <= config.max_chi2:
        raise SubtractionError(
            frame_id, STAGE, "not-trusted",
            f"held-out stamps have a reduced chi-square of {held_out:.2f}, allowed {config.max_chi2:g}",
        )  # fmt: skip


def _stamp_places(
    frame: Frame, margin: int, near_bad: NDArray[np.bool_], config: Subtract
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of stars for stamps, the brightest of each cell of a grid first, at most ``config.n_stamps``."""
    table = frame.sources
    assert table is not None
    ny, nx = frame.shape
    x, y = (np.rint(np.asarray(table[name])).astype(int) for name in ("x", "y"))
    inside = (x >= margin) & (x < nx - margin) & (y >= margin) & (y < ny - margin)
    usable = inside & (np.asarray(table["snr"]) > config.min_snr)
    usable[usable] &= ~near_bad[y[usable], x[usable]]
    rows = np.flatnonzero(usable)
    if len(rows) < config.min_stamps:
        raise SubtractionError(
            frame.id, STAGE, "no-stars",
            f"{len(rows)} of {len(x)} sources can be stamps, need {config.min_stamps}",
        )  # fmt: skip
    rows = rows[np.argsort(-np.asarray(table["flux_auto"])[rows], kind="stable")]
    side = max(1, int(np.sqrt(config.n_stamps / 4)))
    cell = (y[rows] * side // ny) * side + x[rows] * side // nx
    turn = np.zeros(len(rows), int)  # how many brighter ones its cell has
    for c in np.unique(cell):
        members = np.flatnonzero(cell == c)
        turn[members] = np.arange(len(members))
    rows = rows[np.argsort(turn, kind="stable")][: config.n_stamps]
    return x[rows], y[rows]


def _basis(half_width: int, n_stamps: int, config: Subtract) -> tuple[Basis, str]:
    """The basis that as many stamps can carry, and what was lowered."""
    degree = config.degree
    while degree > 0 and n_stamps < config.stamps_per_term * n_terms(degree):
        degree -= 1
    background = config.background_degree
    while background > 0 and n_stamps < 2 * n_terms(background):
        background -= 1
    lowered = "" if degree == config.degree else f"degree {config.degree} to {degree}: {n_stamps} stamps"
    return Basis(half_width, degree, min(config.ratio_degree, degree), background), lowered


def _filter(
    science: Frame, target: Frame, whitened: Pixels, near_bad: NDArray[np.bool_], kernel: Kernel,
    noise: tuple[float, float], convolve_template: bool,
) -> tuple[Pixels, Pixels]:  # fmt: skip
    """Score and flux of the whitened difference, whose PSF is the target's behind the whitening kernel."""
    psf = science.psf
    assert psf is not None
    half = round(2.5 * _fwhm(target)) + kernel.half_width

    def psf_of(x: float, y: float) -> Floats:
        stamps, _, _ = psf_stamps(psf, np.array([round(x)], float), np.array([round(y)], float), half)
        point = stamps[0] / stamps[0].sum()
        if not convolve_template:  # a new source went through the kernel with the science image
            point = _convolve(point, kernel.at(x, y) / kernel.ratio_at(x, y))
        return _convolve(point, whitening_kernel(kernel.at(x, y), *noise))

    total = np.float32(sum(noise))
    variance = np.where(near_bad, np.inf, np.full(whitened.shape, total)).astype(np.float32)
    # a source's own light adds noise that whitening leaves: the local excess over the sky's
    excess = _smooth(science.variance, near_bad) - np.float32(np.median(science.variance[~near_bad]))
    variance += np.maximum(excess, 0)
    return matched_filter(whitened, variance, psf_of, half)


def _convolve(image: Floats, kernel: Floats) -> Floats:
    from scipy.signal import fftconvolve

    return np.asarray(fftconvolve(image, kernel, mode="same"))


def _smooth(variance: Pixels, bad: NDArray[np.bool_]) -> Pixels:
    """The variance averaged over 3 × 3: a weight that follows a pixel's own noise biases what it weighs."""
    typical = np.median(variance[~bad]) if not bad.all() else 1.0
    return np.asarray(uniform_filter(np.where(bad, typical, variance).astype(np.float32), 3))


def _fwhm(frame: Frame) -> float:
    if frame.quality is not None:
        return frame.quality.fwhm
    table = frame.sources
    if table is None or not np.any(table["is_calibration"]):
        raise SubtractionError(frame.id, STAGE, "no-stars", "no star tells the frame's FWHM")
    return float(np.median(np.asarray(table["fwhm"])[np.asarray(table["is_calibration"])]))


def _half_width(image: Frame, target: Frame) -> int:
    """Room for the kernel between two Moffat-like PSFs: three sigma of it, and of small misalignments."""
    sigma = np.sqrt(max(_fwhm(target) ** 2 - _fwhm(image) ** 2, 0.0)) / 2.355
    return int(np.clip(np.ceil(3.0 * sigma + 2.0), 4, 12))


def _middle(shape: tuple[int, int]) -> tuple[float, float]:
    return (shape[1] - 1) / 2, (shape[0] - 1) / 2


def _robust_sigma(values: Pixels) -> float:
    known = values[np.isfinite(values)]
    return float(1.4826 * np.median(np.abs(known - np.median(known)))) if known.size else float("nan")
