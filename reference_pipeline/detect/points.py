"""Point sources in a difference: what one looks like at a sub-pixel place, its flux, and the errors.

A flux is that of least squares on the pixels of the difference within 1.5 FWHM, f = (sum w p d) / (sum w p²),
with the point source p drawn at its own place within the pixel, so that no flux is lost to the pixels' phase,
and the weight w = 1 / variance, the variance averaged over a FWHM or so: a weight that follows the noise of
its own pixel biases what it weighs. The errors are those of this sum under the noise of both frames
(noise.py), and of the PSF: by what part of themselves the fluxes of the frame's stars, measured with it,
scatter beyond their noise, any other flux is uncertain too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.spatial import cKDTree

from ..errors import DetectionError
from ..frame import Frame, unit_coordinates
from ..polynomials import legendre_terms
from ..psf import Psf, exponents
from ..reduce.psf import psf_stamps
from ..subtract.difference import BAD, Difference
from ..subtract.point_source import PointSource
from .noise import covariance_of_sums, noise_covariance

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

STAGE = "detect"
_BATCH = 512  # places whose stamps are in memory together
_RADIUS = 1.5  # FWHM, of the pixels that a flux is measured on
_SETTLED = 0.005  # pixels: the next step, the square of this one or so, would be none
_FAINT = 3.0  # errors of places grow by 1 + 3 / snr² over Fisher's: measured, 7 % at S/N 6, 1 % at 15
_MIN_INFORMATION = 0.5  # of what a source says lies on pixels that can be used; less is no flux


@dataclass(frozen=True)
class Points:
    """Fluxes and places of n point sources; NaN where nothing could be measured."""

    x: Floats  # pixels
    y: Floats
    flux: Floats  # electrons
    flux_err: Floats  # of noise and PSF
    noise: Floats  # electrons: the part of flux_err that is noise
    position_cov: Floats  # pixels², (n, 2, 2) in x, y; NaN where the place was given

    def select(self, rows: NDArray[Any]) -> Points:
        """Return some of them."""
        return Points(*(getattr(self, name)[rows] for name in Points.__dataclass_fields__))

    def scaled(self, factor: float) -> Points:
        """Return them with fluxes and their errors multiplied."""
        scaled = {name: getattr(self, name) * factor for name in ("flux", "flux_err", "noise")}
        return replace(self, **scaled)


@dataclass(frozen=True)
class PointModel:
    """How a difference shows point sources."""

    difference: Difference
    science: Frame
    fwhm: float  # pixels, of a point source in the difference
    covariance: Floats  # (2 r + 1, 2 r + 1): of the pixels of data / sqrt(variance), by lag

    @property
    def radius(self) -> float:
        """Pixels within which a flux is measured."""
        return max(_RADIUS * self.fwhm, 2.0)

    @property
    def model_error(self) -> float:
        """What part of itself a flux is uncertain by for the PSF."""
        return float(self.difference.decision.get("flux_scatter") or 0.0)

    @property
    def correction(self) -> float:
        """What fluxes fitted with the PSF are multiplied with to be total ones; the flux plane has it."""
        return float(self.difference.decision.get("aperture_correction") or 1.0)


def point_model(difference: Difference, science: Frame) -> PointModel:
    """Return what fluxes are measured with. Raises DetectionError ("no-psf") for a frame without a PSF."""
    if science.psf is None:
        raise DetectionError(science.id, STAGE, "no-psf", "the science frame has no PSF")
    fwhm = effective_fwhm(difference, science)
    return PointModel(difference, science, fwhm, noise_covariance(difference, round(1.5 * fwhm)))


def point_images(model: PointModel, x: Floats, y: Floats, half: int) -> tuple[Floats, Floats, Floats]:
    """What sources of one electron at (x, y) put into the difference, and its derivatives by x and y.

    All (n, 2 half + 1, 2 half + 1); the middle pixel is the one nearest to the source. One electron is the
    sum over the images of psf_at, which reach further.
    """
    side = 2 * half + 1
    value, by_x, by_y = (np.zeros((len(x), side, side)) for _ in range(3))
    for source, rows in model.difference.point.split(x, y):
        value[rows], by_x[rows], by_y[rows] = _source_images(source, x[rows], y[rows], half)
    return value, by_x, by_y


def _source_images(source: PointSource, x: Floats, y: Floats, half: int) -> tuple[Floats, Floats, Floats]:
    if source.kernel is None:
        return _psf_images(source.psf, x, y, half, source.half)
    terms = legendre_terms(*unit_coordinates(x, y, source.kernel.shape), source.kernel.degree)
    kernels = np.tensordot(terms, source.kernel.images, 1)  # it went over the sources as well
    kernels /= kernels.sum(axis=(1, 2))[:, None, None]
    margin = kernels.shape[-1] // 2
    value, by_x, by_y = (
        _convolve(image, kernels)[:, margin:-margin, margin:-margin]
        for image in _psf_images(source.psf, x, y, half + margin, source.half)
    )
    return value, by_x, by_y


def _psf_images(psf: Psf, x: Floats, y: Floats, half: int, whole: int) -> tuple[Floats, Floats, Floats]:
    """psf_stamps with derivatives, normalised over ``whole`` pixels from the middle and drawn from no more of
    the model than ``half`` needs."""
    middle, n = psf.images.shape[-1] // 2, psf.oversampling

    def within(reach: int) -> NDArray[np.float64]:
        reach = min(reach, middle)
        return psf.images[:, middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]

    core = replace(psf, images=within((half + 3) * n))  # the source is half a pixel off, and cubics reach two
    u, v = unit_coordinates(x, y, psf.shape)
    terms = np.stack([u**i * v**j for i, j in exponents(psf.degree)], axis=1)
    core_sum, whole_sum = (
        terms @ images.sum(axis=(1, 2)) for images in (core.images, within(whole * n + n // 2))
    )
    stamps = psf_stamps(core, x, y, half, derivatives=True)
    value, by_x, by_y = (stamp * (core_sum / whole_sum)[:, None, None] for stamp in stamps)
    return value, by_x, by_y


def effective_fwhm(difference: Difference, science: Frame) -> float:
    """FWHM (pixels) of a point source in the difference: the frame's, widened as the kernel widens it."""
    fwhm = frame_fwhm(science)
    ny, nx = difference.data.shape
    at_x, at_y = (nx - 1) // 2, (ny - 1) // 2
    (source, _), *_ = difference.point.split(np.array([at_x], float), np.array([at_y], float))
    if source.kernel is None:
        return fwhm
    phase = np.arange(-2, 3) / 5.0
    x, y = (side.ravel() for side in np.meshgrid(at_x + phase, at_y + phase))
    before = _half_width(_psf_images(source.psf, x, y, source.half, source.half)[0], x, y)
    after = _half_width(_source_images(source, x, y, source.half)[0], x, y)
    return fwhm * after / before


def frame_fwhm(frame: Frame) -> float:
    """FWHM (pixels) of a frame's stars. Raises DetectionError ("no-stars") where nothing tells."""
    if frame.fwhm is None:
        raise DetectionError(frame.id, STAGE, "no-stars", "no star tells the frame's FWHM")
    return frame.fwhm


def fit_fluxes(model: PointModel, x: Floats, y: Floats) -> Points:
    """Return the fluxes of point sources at given places."""
    return _in_batches(model, x, y, n_rounds=0)


def fit_points(model: PointModel, x: Floats, y: Floats) -> Points:
    """Return fluxes and places of point sources near (x, y), by Gauss-Newton steps from there.

    A place stays within half a FWHM, or a pixel if that is more, of where it began.
    """
    return _in_batches(model, x, y, n_rounds=8)


def separate(model: PointModel, points: Points) -> Points:
    """Return fitted ``points`` without the light of others of their sign within 3 FWHM.

    The halves of a dipole would feed each other. Gauss-Newton steps of each alone in what all of them leave,
    five times; sources as near to each other as find_candidates lets them be share little. Errors stay those
    of single sources.
    """
    if len(points.x) < 2:
        return points
    pairs = cKDTree(np.stack([points.x, points.y], axis=1)).query_pairs(
        2.0 * model.radius, output_type="ndarray"
    )
    rows = np.unique(pairs[points.flux[pairs[:, 0]] * points.flux[pairs[:, 1]] > 0])
    x, y, flux = points.x.copy(), points.y.copy(), points.flux.copy()
    for _ in range(5 if len(rows) else 0):
        left = replace(model, difference=_without(model, x[rows], y[rows], flux[rows]))
        for begin in range(0, len(rows), _BATCH):
            part = rows[begin : begin + _BATCH]
            design, weight, data = _equations(left, x[part], y[part])
            design[:, 1:] *= flux[part, None, None, None]
            change = np.clip(_solve(design, weight, data), [-np.inf, -0.3, -0.3], [np.inf, 0.3, 0.3])
            flux[part] += change[:, 0]
            x[part] += change[:, 1]
            y[part] += change[:, 2]
    reach = max(1.0, 0.5 * model.fwhm)
    is_sound = (np.hypot(x - points.x, y - points.y) < reach) & (flux * points.flux > 0)
    return replace(
        points, x=np.where(is_sound, x, points.x), y=np.where(is_sound, y, points.y),
        flux=np.where(is_sound, flux, points.flux),
    )  # fmt: skip


def _without(model: PointModel, x: Floats, y: Floats, flux: Floats) -> Difference:
    """The difference less the sources."""
    difference = model.difference
    half = int(np.ceil(3.0 * model.radius))
    data = difference.data.copy()
    for begin in range(0, len(x), _BATCH):
        part = slice(begin, begin + _BATCH)
        images, _, _ = point_images(model, x[part], y[part], half)
        images *= flux[part, None, None]
        corners = np.stack([np.rint(y[part]), np.rint(x[part])], axis=1).astype(int) - half
        for image, (top, left) in zip(images.astype(np.float32), corners):
            rows, columns = slice(max(0, top), top + 2 * half + 1), slice(max(0, left), left + 2 * half + 1)
            into = data[rows, columns]
            into -= image[rows.start - top :, columns.start - left :][: into.shape[0], : into.shape[1]]
    data[difference.data == 0] = 0  # what is not known stays so
    return replace(difference, data=data)


def _in_batches(model: PointModel, x: Floats, y: Floats, *, n_rounds: int) -> Points:
    x, y = np.asarray(x, float), np.asarray(y, float)
    found = [
        _fit(model, x[begin : begin + _BATCH], y[begin : begin + _BATCH], n_rounds)
        for begin in range(0, len(x), _BATCH)
    ]
    if not found:
        none = np.empty(0)
        return Points(none, none, none, none, none, np.empty((0, 2, 2)))
    joined = (np.concatenate([getattr(p, name) for p in found]) for name in Points.__dataclass_fields__)
    return Points(*joined)


def _fit(model: PointModel, x0: Floats, y0: Floats, n_rounds: int) -> Points:
    x, y = x0.copy(), y0.copy()
    reach = max(1.0, 0.5 * model.fwhm)
    is_moving = np.ones(len(x), bool)
    for _ in range(n_rounds):
        design, weight, data = _equations(model, x[is_moving], y[is_moving])
        change = _solve(design, weight, data)
        step = np.clip(change[:, 1:] / np.where(change[:, :1] == 0, np.inf, change[:, :1]), -0.5, 0.5)
        moved_x = np.clip(x[is_moving] + step[:, 0], x0[is_moving] - reach, x0[is_moving] + reach)
        moved_y = np.clip(y[is_moving] + step[:, 1], y0[is_moving] - reach, y0[is_moving] + reach)
        moved = np.hypot(moved_x - x[is_moving], moved_y - y[is_moving])
        x[is_moving], y[is_moving] = moved_x, moved_y
        is_moving[is_moving] = moved > _SETTLED
        if not is_moving.any():
            break
    design, weight, data = _equations(model, x, y)
    information = np.sum(np.square(design[:, 0]) * (weight > 0), axis=(1, 2))
    known = information > _MIN_INFORMATION * np.sum(np.square(design[:, 0]), axis=(1, 2))
    if n_rounds == 0:
        design = design[:, :1]
    matrix = np.einsum("naij,nij,nbij->nab", design, weight, design)
    vector = np.einsum("naij,nij,nij->na", design, weight, data)
    inverse = np.linalg.pinv(matrix, hermitian=True)
    flux = vector[:, 0] / np.where(known, matrix[:, 0, 0], 1.0)  # at this place: the last step is not taken
    noise = covariance_of_sums(
        model.difference, model.science, model.covariance, design * weight[:, None], x, y
    )
    sigma = np.sqrt(noise[:, 0, 0]) / np.where(known, matrix[:, 0, 0], 1.0)
    cov = np.full((len(x), 2, 2), np.nan)
    if n_rounds:  # the derivatives were by flux times place
        full = inverse @ noise @ inverse
        sigma = np.sqrt(full[:, 0, 0])
        size = np.where(flux == 0, np.nan, np.abs(flux))
        widened = (1.0 + _FAINT * np.square(np.minimum(sigma / size, 1.0))) / size
        cov = full[:, 1:, 1:] * np.square(widened)[:, None, None]
    flux_err = np.hypot(sigma, model.model_error * flux)
    flux, flux_err, sigma = (np.where(known, value, np.nan) for value in (flux, flux_err, sigma))
    return Points(x, y, flux, flux_err, sigma, np.where(known[:, None, None], cov, np.nan))


def _equations(model: PointModel, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """The images and their derivatives (n, 3, s, s); weight and data (n, s, s) about each place."""
    half = int(np.ceil(model.radius)) + 1
    design = np.stack(point_images(model, x, y, half), axis=1)
    smooth = max(1, round(0.75 * model.fwhm))  # half the side of the box that variance is averaged over
    data, variance, good = stamps_of(model.difference, x, y, half + smooth)
    average = _box_mean(np.where(good, variance, 0.0), smooth) / np.maximum(
        _box_mean(good.astype(float), smooth), 1e-9
    )
    cut = slice(smooth, -smooth)
    data, average = (a[:, cut, cut] for a in (data, average))
    good = good[:, cut, cut]
    side = np.arange(-half, half + 1)
    dy = side[:, None] - (y - np.rint(y))[:, None, None]
    dx = side[None, :] - (x - np.rint(x))[:, None, None]
    used = good & (np.hypot(dx, dy) <= model.radius)
    weight = np.where(used, 1.0 / np.where(used, average, 1.0), 0.0)
    return design, weight, np.where(used, data, 0.0)


def stamps_of(difference: Difference, x: Floats, y: Floats, half: int) -> tuple[Floats, Floats, Bools]:
    """Data, variance (float64) and which pixels can be used, (n, 2 half + 1, 2 half + 1) about each place."""
    ny, nx = difference.data.shape
    side = np.arange(-half, half + 1)
    rows = np.rint(y).astype(int)[:, None, None] + side[:, None]
    columns = np.rint(x).astype(int)[:, None, None] + side
    inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
    at = rows.clip(0, ny - 1), columns.clip(0, nx - 1)
    data, variance = difference.data[at].astype(float), difference.variance[at].astype(float)
    good = inside & ((difference.mask[at] & np.uint16(BAD)) == 0) & (data != 0) & (variance > 0)
    return data, variance, good & np.isfinite(data) & np.isfinite(variance)


def _solve(design: Floats, weight: Floats, data: Floats) -> Floats:
    matrix = np.einsum("naij,nij,nbij->nab", design, weight, design)
    vector = np.einsum("naij,nij,nij->na", design, weight, data)
    return np.asarray(np.einsum("nab,nb->na", np.linalg.pinv(matrix, hermitian=True), vector))


def _box_mean(values: Floats, half: int) -> Floats:
    """Mean over boxes of side 2 half + 1 of the last two axes; less at the edges, where boxes reach out."""
    for axis in (1, 2):
        moved = np.moveaxis(values, axis, -1)
        padded = np.pad(moved, [(0, 0), (0, 0), (half + 1, half)])
        total = np.cumsum(padded, axis=-1)
        values = np.moveaxis((total[..., 2 * half + 1 :] - total[..., : -2 * half - 1]), -1, axis)
    return values / (2 * half + 1) ** 2


def _convolve(images: Floats, kernels: Floats) -> Floats:
    """Each image convolved with its own kernel, of the images' size."""
    side, width = images.shape[-1], kernels.shape[-1]
    size = (next_fast_len(side + width - 1, real=True),) * 2
    product = irfft2(rfft2(images, size) * rfft2(kernels, size), size)
    half = width // 2
    return np.asarray(product[:, half : half + side, half : half + side])


def _half_width(images: Floats, x: Floats, y: Floats) -> float:
    """The radius (pixels) at which images of a source, drawn at places in a pixel, are half as high."""
    half = images.shape[-1] // 2
    side = np.arange(-half, half + 1)
    dy = side[:, None] - (y - np.rint(y))[:, None, None]
    dx = side[None, :] - (x - np.rint(x))[:, None, None]
    radius = np.hypot(dx, dy)
    share = images / images.max()
    flank = (share > 0.35) & (share < 0.7)
    slope, level = np.polyfit(radius[flank], np.log(share[flank]), 1)
    return float((np.log(0.5) - level) / slope)
