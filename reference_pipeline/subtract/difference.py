"""The difference of two calibrated frames on one grid: science less template, and how far to trust it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError
from scipy.ndimage import maximum_filter, uniform_filter
from scipy.signal import oaconvolve

from ..config import Subtract
from ..errors import SubtractionError
from ..frame import UNUSABLE, Decision, Frame, MaskBit, unit_coordinates
from ..polynomials import legendre_terms
from ..reduce.photometry import background_rms, background_subtracted
from .apply import Slices, convolved_variance, likeness, tiles
from .fit_fourier import fit_fourier
from .fit_stamps import Fit, allowed_by, chi2_of, fit_stamps, gaussian_stamp, stamp_equations
from .kernel import Basis, Kernel, n_terms
from .point_source import PartSources as PartSources
from .point_source import PointSource as PointSource
from .point_source import aperture_correction, point_source
from .score import (
    TILE,
    matched_filter,
    resampled_correlation,
    scatter_mesh,
    sky_colour,
    tile_filters,
    whiten,
    whitened_variance,
)

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]
Rows = NDArray[np.int64]

STAGE = "subtract"
BAD = UNUSABLE | MaskBit.TRAIL  # no difference is known where either image has one of these
_HELD_OUT = 5  # every so many stamps, one judges what the others say
_MAX_UNKNOWN = 0.99  # of the pixels
_BEYOND_GUESS = MaskBit.SATURATED | MaskBit.OFF_IMAGE
_MAX_LEAK = 0.05  # of a kernel's weight may be on pixels that were filled in
_FILL_SIZE = 7  # pixels, side of the neighbourhood that fills one in
_WIDEST, _NARROWEST = 10, 3  # half-width of a kernel, where the settings name none
_PLACES_PER_STAMP = 20  # of the kernel: a star is about so many independent pixels
_LEAST_FWHM = 2.5  # pixels: even equal images may be a little apart
_BLOCK = 64  # pixels a side, of which the sky's level is taken
_SMOOTHING = 1.0  # pixels, sigma of the Gaussian that variances are averaged with


@dataclass(frozen=True)
class Difference:
    """Science less template in the science frame's electrons, and what a detection needs of it."""

    data: Pixels  # electrons, 0 where nothing is known
    variance: Pixels  # electrons²
    template_variance: Pixels  # electrons² of the template, before any kernel: the frame's own plane
    mask: NDArray[np.uint16]  # MaskBit; where only a kernel's reach is bad, OFF_IMAGE or NO_DATA
    whitened: Pixels  # electrons, noise uncorrelated
    score: Pixels  # S/N of a point source at each pixel; NaN where nothing is known
    flux: Pixels  # electrons of a point source at each pixel; its error is flux / score
    kernel: Kernel | tuple[Kernel | None, ...]  # several: parts.py
    point: PointSource | PartSources
    is_template_convolved: bool  # else the science image was
    decision: dict[str, Decision]
    seconds: float

    def psf_at(self, x: float, y: float) -> Floats:
        """PSF of a point source in ``data`` at the pixel nearest to (x, y): odd sides, centred, sum 1."""
        return self.point.at(x, y)


def subtract(science: Frame, template: Frame, *, config: Subtract) -> Difference:
    """Return the difference of two frames on the same pixel grid; both have sources, the science frame a PSF.

    The sharper image is convolved. The kernel's size and degree are lowered where stamps are few, and the
    decision says so. Raises SubtractionError: "shape", "no-psf", "no-sources", "no-pixels", "no-stars",
    "not-solvable", and "not-trusted" where held-out stamps have a reduced chi-square above
    ``config.max_chi2``.
    """
    started = time.perf_counter()
    check_pair(science, template)
    convolve_template = fwhm_of(template) <= fwhm_of(science)
    pair = _pair(science, template, convolve_template, config)
    x, y = _stamp_places(science, pair.half + pair.half_width, pair.unknown, config)
    basis, lowered = _basis(pair.half_width, len(x), config)
    fit, n_stamps, held_out = _kernel(science, pair, x, y, basis, config)
    _check(science.id, fit, held_out, config)
    kernel = basis.kernel(fit.coefficients, science.shape)
    pair = replace(pair, unknown=_unknown(pair, kernel))

    sign = 1.0 if convolve_template else -1.0
    scale = 1.0 if convolve_template else 1.0 / kernel.ratio_at(*_middle(science.shape))
    data = likeness(pair.image, kernel)
    np.subtract(pair.target, data, out=data)
    kernel = _levelled(data, pair, kernel)
    data *= np.float32(sign * scale)
    data[pair.unknown] = 0
    variance = convolved_variance(pair.image_variance, kernel)
    variance += pair.target_variance
    variance *= np.float32(scale**2)
    point = point_source(science, kernel, convolve_template)
    correction, flux_scatter = aperture_correction(science, x, y, fwhm_of(science), noise_factor(science))
    whitened, score, flux, scatter = _score(data, pair, kernel, point, scale)
    flux *= np.float32(correction)
    decision: dict[str, Decision] = {
        "convolved": "template" if convolve_template else "science",
        "solver": config.solver,
        "half_width": basis.half_width,
        "degree": basis.degree,
        "lowered": lowered,
        "n_stamps": n_stamps,
        "n_used": int(fit.used.sum()),
        "chi2": round(float(np.median(fit.chi2[fit.used])), 4),
        "held_out_chi2": round(held_out, 4),
        "condition": float(f"{fit.condition:.3g}"),
        "photometric_ratio": round(kernel.ratio_at(*_middle(science.shape)), 5),
        "aperture_correction": round(correction, 5),
        "flux_scatter": round(flux_scatter, 5),
        "template_noise_factor": round(noise_factor(template), 4),
        "known": round(1.0 - float(pair.unknown.mean()), 5),
        **scatter,
    }
    return Difference(
        data, variance, template.variance, _mask(science, template, pair), whitened, score, flux,
        kernel, point, convolve_template, decision, time.perf_counter() - started,
    )  # fmt: skip


@dataclass(frozen=True)
class _Pair:
    """Both images, ready to be compared: 0 where they cannot be used, electrons above their backgrounds."""

    image: Pixels  # to be convolved
    target: Pixels
    image_variance: Pixels
    target_variance: Pixels
    image_noise: float  # rms of the sky, electrons
    target_noise: float
    unknown: NDArray[np.bool_]  # no difference here; until the kernel is known, all that one may reach
    image_bad: NDArray[np.bool_]  # the image to be convolved cannot be used; filled in there
    beyond_guess: NDArray[np.bool_]  # of those, what nobody can fill in: saturated, or not there
    bad: NDArray[np.bool_]  # one of the images cannot be used at this pixel itself
    correlation: Floats | None  # of the image's noise
    half_width: int
    half: int  # of the stamps
    kernel_fwhm: float  # about


def _pair(science: Frame, template: Frame, convolve_template: bool, config: Subtract) -> _Pair:
    image, target = (template, science) if convolve_template else (science, template)
    half_width = config.half_width or half_width_for(fwhm_of(image), fwhm_of(target))
    image_bad, target_bad = unusable(image), unusable(target)
    bad = image_bad | target_bad
    unknown = maximum_filter(image_bad, 2 * half_width + 1, mode="constant", cval=True)
    unknown |= target_bad
    if unknown.mean() > _MAX_UNKNOWN:
        raise SubtractionError(
            science.id, STAGE, "no-pixels", f"a difference is known at {1 - unknown.mean():.2%} of the pixels"
        )
    return _Pair(
        _filled(_pixels(image, image_bad), image_bad), _pixels(target, bad),
        _filled_variance(image, image_bad), _filled_variance(target, bad),
        background_rms(image), background_rms(target), unknown, image_bad,
        image_bad & ((image.mask & np.uint16(_BEYOND_GUESS)) != 0), bad,
        resampled_correlation() if noise_factor(image) > 1.0 else None,
        half_width, half_width + round(fwhm_of(target)),
        max(fwhm_of(target) ** 2 - fwhm_of(image) ** 2, _LEAST_FWHM**2) ** 0.5,
    )  # fmt: skip


def _pixels(frame: Frame, lost: NDArray[np.bool_]) -> Pixels:
    """Electrons above the background, 0 where lost."""
    pixels = background_subtracted(frame)
    pixels[lost] = 0
    return pixels


def _filled(pixels: Pixels, lost: NDArray[np.bool_]) -> Pixels:
    """The pixels, where lost the mean of their neighbours; 0 where these are lost too."""
    weight = uniform_filter((~lost).astype(np.float32), _FILL_SIZE)
    mean = uniform_filter(pixels, _FILL_SIZE)  # lost ones are 0
    enough = lost & (weight > 0.5 / _FILL_SIZE**2)
    pixels[enough] = mean[enough] / weight[enough]
    return pixels


def _unknown(pair: _Pair, kernel: Kernel) -> NDArray[np.bool_]:
    """Where there is no difference: pixels of the target, and those whose kernel weighs what was filled in.

    A kernel's box is wide, and its weight is in the middle: a cosmic ray need not blank all of the box. What
    was saturated, or is not there, cannot be guessed, and blanks it.
    """
    w = kernel.half_width
    ny, nx = kernel.shape
    places = [(x, y) for y in (0, (ny - 1) / 2, ny - 1) for x in (0, (nx - 1) / 2, nx - 1)]
    weight = np.max([np.abs(k) / np.abs(k).sum() for k in (kernel.at(x, y) for x, y in places)], axis=0)
    good = np.pad((~pair.image_bad).astype(np.float32), w)  # nothing is known beyond the edge
    unknown = oaconvolve(good, weight.astype(np.float32), mode="valid") < weight.sum() - _MAX_LEAK
    unknown |= maximum_filter(pair.beyond_guess, 2 * w + 1, mode="constant", cval=False)
    return np.asarray(unknown | pair.bad)


def _filled_variance(frame: Frame, lost: NDArray[np.bool_]) -> Pixels:
    """The variance; what is lost gets the sky's, which spreads to its neighbours."""
    return np.where(lost, np.float32(np.median(_sparse(frame.variance, ~lost))), frame.variance)


def _kernel(
    science: Frame, pair: _Pair, x: Rows, y: Rows, basis: Basis, config: Subtract
) -> tuple[Fit, int, float]:
    """The fit, how many stamps, and the median reduced chi-square of stamps that a fit had not seen."""
    stamps = stamp_equations(
        pair.target, pair.image, pair.target_variance, pair.image_variance, ~pair.unknown,
        x, y, half=pair.half, half_width=basis.half_width, image_share=config.first_noise,
    )  # fmt: skip
    shape, correlation = science.shape, pair.correlation
    allowed = _allowed(pair, x, y, basis)
    judges = np.arange(len(stamps)) % _HELD_OUT == _HELD_OUT - 1
    try:
        if config.solver == "fourier":
            found = fit_fourier(pair.target, pair.image, ~pair.unknown, basis)
            chi2 = chi2_of(stamps, found.coefficients, basis, shape, correlation=correlation)
            fit = Fit(found.coefficients, np.ones(len(stamps), bool), chi2, found.condition)
            return fit, len(stamps), float(np.median(chi2))
        fit = fit_stamps(stamps, basis, shape, clip=config.clip, correlation=correlation, allowed=allowed)
        blind = fit_stamps(
            stamps, basis, shape, n_rounds=1, correlation=correlation, allowed=allowed,
            among=fit.used & ~judges,
        )  # fmt: skip
        return fit, len(stamps), float(np.median(blind.chi2[judges]))
    except LinAlgError as error:
        raise SubtractionError(
            science.id, STAGE, "not-solvable", f"the kernel's equations: {error}"
        ) from error


def _allowed(pair: _Pair, x: Rows, y: Rows, basis: Basis) -> Floats:
    """How far coefficients may go, with the ratio guessed from the light of the stamps' stars."""
    side = np.arange(-pair.half, pair.half + 1)
    box = (y[:, None, None] + side[:, None], x[:, None, None] + side)
    target, image = (values[box].sum(axis=(1, 2), dtype=float) for values in (pair.target, pair.image))
    ratio = float(np.median(target) / max(np.median(image), 1e-12))
    return allowed_by(basis, pair.kernel_fwhm, ratio if ratio > 0 else 1.0)


def _levelled(residual: Pixels, pair: _Pair, kernel: Kernel) -> Kernel:
    """Take what background the whole sky still has from ``residual``, in place, and add it to the kernel's.

    Stamps are few and full of star: their background is uncertain by electrons, which a faint source's flux
    would take in from thirty pixels. The mean of pixels within three sigma, in blocks, has it to a hundredth.
    """
    blocks, x, y = [], [], []
    for rows, columns in tiles(residual.shape, _BLOCK):
        part = residual[rows, columns][~pair.unknown[rows, columns]]
        if 2 * part.size < (rows.stop - rows.start) * (columns.stop - columns.start):
            continue
        middle = np.median(part)
        sigma = 1.4826 * np.median(np.abs(part - middle))
        blocks.append(float(np.mean(part[np.abs(part - middle) <= 3 * sigma], dtype=float)))
        x.append((columns.start + columns.stop - 1) / 2)
        y.append((rows.start + rows.stop - 1) / 2)
    u, v = unit_coordinates(np.array(x), np.array(y), kernel.shape)
    degree = kernel.background_degree
    while degree > 0 and len(blocks) < 4 * n_terms(degree):
        degree -= 1
    if not blocks:
        return kernel
    level = np.linalg.lstsq(legendre_terms(u, v, degree), np.array(blocks), rcond=None)[0]
    extra = np.zeros_like(kernel.background)
    extra[: len(level)] = level
    nothing = replace(kernel, images=np.zeros((1, 1, 1)), degree=0, background=extra)
    for place in tiles(residual.shape, TILE):
        rows, columns = place
        residual[place] -= nothing.background_at(
            np.arange(columns.start, columns.stop, dtype=float)[None, :],
            np.arange(rows.start, rows.stop, dtype=float)[:, None],
        ).astype(np.float32)
    return replace(kernel, background=kernel.background + extra)


def _score(
    data: Pixels, pair: _Pair, kernel: Kernel, point: PointSource, scale: float
) -> tuple[Pixels, Pixels, Pixels, dict[str, Decision]]:
    """Whitened difference, score and flux; and how far the score's scatter was from one before."""
    known = ~pair.unknown
    levels = [
        (rms * scale) ** 2 / float(np.median(_sparse(variance, known)))
        for rms, variance in (
            (pair.target_noise, pair.target_variance),
            (pair.image_noise, pair.image_variance),
        )
    ]

    def noise(place: Slices) -> tuple[float, float]:
        """The sky's variances in a tile: its level from the rms, its change over the frame from the maps."""
        inside = known[place]
        if not inside.any():
            return (pair.target_noise * scale) ** 2, (pair.image_noise * scale) ** 2
        target, image = (
            float(np.median(variance[place][inside]) * level)
            for variance, level in zip((pair.target_variance, pair.image_variance), levels)
        )
        return target, image

    # a filter as wide as the core holds nearly all that tells a source from noise
    half = min(point.half, kernel.half_width + round(2.5 * _width(point.at(*_middle(data.shape)))))
    inner = np.s_[point.half - half : point.half + half + 1]

    def psf_at(x: float, y: float) -> Floats:
        return point.at(x, y)[inner, inner]

    smoothing = gaussian_stamp(_SMOOTHING)
    colour = None
    for is_last in (False, True):
        filters = tile_filters(data.shape, kernel, noise, psf_at, colour)
        whitened = whiten(data, filters)
        if is_last:
            break
        variance = whitened_variance(pair.target_variance, pair.image_variance, filters, smoothing)
        colour = sky_colour(whitened, variance * np.float32(scale**2), known)
        if colour is None:
            break
    if colour is not None:
        variance = whitened_variance(pair.target_variance, pair.image_variance, filters, smoothing)
    variance *= np.float32(scale**2)
    score, flux = matched_filter(whitened, variance, known, filters)
    scatter = scatter_mesh(score)
    score /= scatter
    return whitened, score, flux, {
        "is_coloured": colour is not None,
        "score_sigma": round(float(np.median(scatter)), 4),  # by which the score was divided
        "score_sigma_least": round(float(scatter.min()), 4),
        "score_sigma_most": round(float(scatter.max()), 4),
    }  # fmt: skip


def _check(frame_id: str, fit: Fit, held_out: float, config: Subtract) -> None:
    n_used = int(fit.used.sum())
    if n_used < config.min_stamps:
        raise SubtractionError(
            frame_id, STAGE, "not-trusted",
            f"{n_used} of {len(fit.used)} stamps agree with one kernel, need {config.min_stamps}",
        )  # fmt: skip
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
    """The basis that so many stamps can carry, and what was lowered."""
    width = half_width
    while width > _NARROWEST and (2 * width + 1) ** 2 > _PLACES_PER_STAMP * n_stamps:
        width -= 1
    degree = config.degree
    while degree > 0 and n_stamps < config.stamps_per_term * n_terms(degree):
        degree -= 1
    background = config.background_degree
    while background > 0 and n_stamps < 2 * n_terms(background):
        background -= 1
    changes = [
        f"{name} {asked} to {given}"
        for name, asked, given in (
            ("degree", config.degree, degree),
            ("background_degree", config.background_degree, background),
            ("half_width", half_width, width),
        )
        if given < asked
    ]
    lowered = f"{', '.join(changes)}: {n_stamps} stamps" if changes else ""
    return Basis(width, degree, min(config.ratio_degree, degree), background), lowered


def check_pair(science: Frame, template: Frame) -> None:
    """Raise SubtractionError where a stage before is missing, or the frames are of different shapes."""
    if science.shape != template.shape:
        raise SubtractionError(
            science.id, STAGE, "shape", f"science {science.shape}, template {template.shape} (ny, nx)"
        )
    for frame, name in ((science, "science frame"), (template, "template")):
        if frame.sources is None or frame.background is None:
            raise SubtractionError(
                science.id, STAGE, "no-sources", f"the {name} has no sources: find_sources comes first"
            )
    if science.psf is None:
        raise SubtractionError(science.id, STAGE, "no-psf", "the science frame has no PSF")


def unusable(frame: Frame) -> NDArray[np.bool_]:
    """Pixels that cannot be compared: masked, not finite, without a variance."""
    bad = (frame.mask & np.uint16(BAD)) != 0
    bad |= ~np.isfinite(frame.data)
    bad |= ~((frame.variance > 0) & np.isfinite(frame.variance))
    return bad


def _mask(science: Frame, template: Frame, pair: _Pair) -> NDArray[np.uint16]:
    """Both masks, and beyond them where the kernel reaches what is not there, or what cannot be used."""
    mask = (science.mask | template.mask).astype(np.uint16)
    reached = pair.unknown & ~pair.bad
    mask[pair.bad & ((mask & np.uint16(BAD)) == 0)] |= np.uint16(MaskBit.NO_DATA)
    off = (mask & np.uint16(MaskBit.OFF_IMAGE)) != 0
    off = maximum_filter(off, 2 * pair.half_width + 1, mode="constant", cval=True)
    mask[reached & off] |= np.uint16(MaskBit.OFF_IMAGE)
    mask[reached & ~off] |= np.uint16(MaskBit.NO_DATA)
    return mask


def noise_factor(frame: Frame) -> float:
    """What the noise of a wide sum over a resampled frame is larger by than its variances say; else 1."""
    return max([1.0, *(float(step.decision.get("noise_factor") or 1.0) for step in frame.steps)])


def _sparse(image: Pixels, good: NDArray[np.bool_]) -> Pixels:
    """Some of the good pixels, enough for a median."""
    step = max(1, int(np.sqrt(image.size / 2e5)))
    part = np.s_[step // 2 :: step, step // 2 :: step]
    some = image[part][good[part]]
    return some if some.size else image[good]


def _width(image: Floats) -> float:
    """FWHM of a centred image, from the effective area of a Gaussian: 4 pi sigma² = 1 / sum p²."""
    return float(2.3548 * np.sqrt(1.0 / (4.0 * np.pi * np.square(image).sum())))


def fwhm_of(frame: Frame) -> float:
    """The frame's FWHM (pixels). Raises SubtractionError where no star tells it."""
    if frame.fwhm is None:
        raise SubtractionError(frame.id, STAGE, "no-stars", "no star tells the frame's FWHM")
    return frame.fwhm


def half_width_for(image_fwhm: float, target_fwhm: float) -> int:
    """Room for the kernel between two PSFs, pixels: three sigma of it, and where its wings hold flux.

    The wings are those of Moffat profiles of beta = 3.5, whose flux beyond r is (1 + r² / alpha²)^-2.5 with
    alpha = 1.068 FWHM. A kernel that leaves out what one profile has there more than the other finds about
    half of it elsewhere: 0.5 % is a photometric ratio 0.25 % low.
    """
    sigma = np.sqrt(max(target_fwhm**2 - image_fwhm**2, 0.0)) / 2.3548
    core = int(np.ceil(3.0 * sigma + 2.0))
    for w in range(4, _WIDEST):
        inner, outer = ((1.0 + (1.13 * w / (1.068 * f)) ** 2) ** -2.5 for f in (image_fwhm, target_fwhm))
        if w >= core and outer - inner < 0.005:
            return w
    return _WIDEST


def _middle(shape: tuple[int, int]) -> tuple[float, float]:
    return (shape[1] - 1) / 2, (shape[0] - 1) / 2
