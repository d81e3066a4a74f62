"""Find what is new or gone in a difference, and measure it.

By default on the score image, whose values are the S/N of a point source at each pixel:

1. Seeds are the local maxima (8 neighbours) of the score and of its negative. Their limit lies below
   ``detect.threshold`` by what a point source on the corner of four pixels loses, so that the phase within
   the pixel decides nothing; the S/N at the place found in step 3 is what counts.
2. A seed is a source of its own if it stands above the limit after the images of all brighter seeds near it
   are taken off: the same sign by the autocorrelation of the PSF (the largest at that distance), and either
   sign by 3 % of the brighter one within three FWHM, as much as a kernel leaves of a star. And within two
   FWHM of a brighter one of its sign the score between them must fall by 1 or more: the saddle of a blend.
3. Flux and place by a fit of the PSF (points.py). What then is below the threshold is dropped, and of two
   that have come within half a FWHM of each other the fainter one. Neighbours' light is taken off.

A fit that was free to move finds too much flux: two free coordinates raise the square of the S/N by two on
average (it is a chi-square's). That is taken off, flux (1 - 1 / snr²), to first order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, label
from scipy.spatial import cKDTree

from ..candidate import Candidate
from ..config import Cuts, Detect
from ..errors import DetectionError
from ..frame import Frame, MaskBit
from ..reduce.sources import mask_near
from ..subtract.difference import Difference
from .cuts import apply_cuts
from .points import STAGE, PointModel, Points, fit_points, point_model, separate, stamps_of
from .shapes import Shapes, measure_shapes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MODEL_ERROR = 0.03  # of a bright source's peak, what may be left of it nearby
_AREA_LEVEL = 0.4  # of the threshold: connected pixels of the score above it are counted


def find_candidates(
    difference: Difference, science: Frame, *, detect: Detect, cuts: Cuts
) -> tuple[Candidate, ...]:
    """Return everything detected, in the order of y, then x, each with the cut that it fails.

    ``science`` is the frame on the difference's grid, with WCS and PSF; without a zero point there are no
    magnitudes. Raises DetectionError: "no-psf", "no-wcs", "no-stars" without a FWHM, and "too-many" above
    ``detect.max_candidates``.
    """
    if science.wcs is None:
        raise DetectionError(science.id, STAGE, "no-wcs", "the science frame has no WCS")
    model = point_model(difference, science)
    if detect.method == "sep":
        from .sep_detect import sep_candidates

        found = sep_candidates(model, detect)
    else:
        found = _score_candidates(model, detect)
    return apply_cuts(found, model.fwhm, cuts)


def _score_candidates(model: PointModel, detect: Detect) -> tuple[Candidate, ...]:
    x, y, sign = _seeds(model, detect)
    fitted = fit_points(model, *_between_pixels(model.difference.score, x, y))
    keep = _above(fitted, sign, detect.threshold)
    keep[keep] = ~_doubles(fitted, np.flatnonzero(keep), 0.5 * model.fwhm)
    n_pixels = _areas(model, x[keep], y[keep], sign[keep], _AREA_LEVEL * detect.threshold)
    points = separate(model, fitted.select(keep))
    shapes = measure_shapes(model, points.x, points.y, sign[keep])
    return build(model, points, shapes, n_pixels, np.zeros(len(n_pixels), int))


def build(
    model: PointModel, points: Points, shapes: Shapes, n_pixels: Ints, flags: Ints
) -> tuple[Candidate, ...]:
    """Return candidates of what was found and measured, with all that is the same for every method."""
    difference, science = model.difference, model.science
    assert science.wcs is not None
    points = points.scaled(model.correction)
    x, y = points.x, points.y
    flux = _without_fit_bias(points)
    ra, dec, jacobian = _sky(science, x, y)
    sky_cov = jacobian @ points.position_cov @ jacobian.transpose(0, 2, 1)
    sky_err = np.sqrt(np.diagonal(sky_cov, axis1=1, axis2=2))
    along = np.einsum("nij,nj->ni", jacobian, np.stack([np.cos(shapes.angle), np.sin(shapes.angle)], -1))
    angle = np.degrees(np.arctan2(along[:, 0], along[:, 1])) % 180.0
    magnitude, magnitude_err = _magnitudes(science, x, y, flux, points.flux_err)
    bits = mask_near(difference.mask, x, y, model.fwhm)
    fraction = mask_fraction(model, x, y)
    edge = _edges(difference, x, y)
    dipole = _dipoles(model, x, y, flux)
    order = np.lexsort((x, y))
    return tuple(
        Candidate(
            number=number,
            x=float(x[i]), y=float(y[i]), ra=float(ra[i]), dec=float(dec[i]),
            ra_err=float(sky_err[i, 0]), dec_err=float(sky_err[i, 1]),
            flux=float(flux[i]), flux_err=float(points.flux_err[i]),
            snr=float(flux[i] / points.noise[i]),  # how bright it is, is uncertain by the PSF too
            magnitude=magnitude[i], magnitude_err=magnitude_err[i],
            fwhm=float(shapes.fwhm[i]), elongation=float(shapes.elongation[i]),
            position_angle=float(angle[i]),
            n_pixels=int(n_pixels[i]), flags=int(flags[i]),
            mask_bits=int(bits[i]), mask_fraction=float(fraction[i]),
            edge=float(edge[i]), dipole=float(dipole[i]),
        )
        for number, i in enumerate(order)
    )  # fmt: skip


# ---- seeds ----


def _seeds(model: PointModel, detect: Detect) -> tuple[Ints, Ints, Floats]:
    """Pixels (x, y) of the sources' highest score, and their signs."""
    difference = model.difference
    response = _response(model)
    lowest = detect.threshold * response.at_corner
    x, y, sign = _local_maxima(difference.score, lowest)
    if len(x) > 50 * detect.max_candidates:  # before anything is done with them
        raise _too_many(model, len(x), detect)
    snr = np.abs(difference.score[y, x]).astype(float)
    flux = np.abs(difference.flux[y, x]).astype(float)
    order = np.argsort(-snr, kind="stable")
    x, y, sign, snr, flux = x[order], y[order], sign[order], snr[order], flux[order]
    is_own = np.ones(len(x), bool)
    reach = float(len(response.by_distance) - 1)
    near = cKDTree(np.stack([x, y], axis=1)).query_ball_point(np.stack([x, y], axis=1), reach)
    for i, others in enumerate(near):
        brighter = np.array([j for j in others if j < i and is_own[j]], int)
        if len(brighter):
            is_own[i] = _stands_out(difference, response, lowest, i, brighter, x, y, sign, snr, flux)
    if is_own.sum() > detect.max_candidates:
        raise _too_many(model, int(is_own.sum()), detect)
    return x[is_own], y[is_own], sign[is_own]


def _between_pixels(score: NDArray[np.float32], x: Ints, y: Ints) -> tuple[Floats, Floats]:
    """The maxima of parabolas through the score at each pixel and its neighbours along each axis."""
    ny, nx = score.shape
    here = score[y, x].astype(float)
    moved: list[Floats] = []
    for dx, dy, limit, at in ((1, 0, nx - 1, x), (0, 1, ny - 1, y)):
        before = score[np.maximum(y - dy, 0), np.maximum(x - dx, 0)].astype(float)
        after = score[np.minimum(y + dy, ny - 1), np.minimum(x + dx, nx - 1)].astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            shift = 0.5 * (after - before) / (2.0 * here - before - after)
        inside = (at > 0) & (at < limit)
        moved.append(at.astype(float) + np.where(inside, np.clip(np.nan_to_num(shift), -0.5, 0.5), 0.0))
    return moved[0], moved[1]


class _Response:
    """What the score and flux planes show of a point source beside its place, in units of its peak."""

    def __init__(self, image: Floats, fwhm: float) -> None:
        size = 2 * image.shape[0]
        power = np.abs(np.fft.fft2(image, (size, size))) ** 2
        spread = np.fft.ifft2(power).real / (power.mean())
        f = np.fft.fftfreq(size)
        half_pixel = np.cos(np.pi * (f[:, None] + f))
        self.at_corner = float((power * half_pixel).sum() / power.sum())
        lag = np.rint(f * size)
        ring = np.rint(np.hypot(lag[:, None], lag)).astype(int)
        self.by_distance = np.array([spread[ring == r].max() for r in range(image.shape[0])])
        self.fwhm = fwhm

    def at(self, distance: Floats) -> Floats:
        """The largest at a distance (pixels)."""
        return np.interp(distance, np.arange(len(self.by_distance)), self.by_distance, right=0.0)


def _response(model: PointModel) -> _Response:
    ny, nx = model.difference.data.shape
    return _Response(model.difference.psf_at((nx - 1) / 2, (ny - 1) / 2), model.fwhm)


def _local_maxima(score: NDArray[np.float32], lowest: float) -> tuple[Ints, Ints, Floats]:
    """Pixels above ``lowest`` of either sign that no neighbour exceeds; of equal neighbours, the first."""
    ny, nx = score.shape
    found = []
    for sign in (1.0, -1.0):
        y, x = np.nonzero(score > lowest) if sign > 0 else np.nonzero(score < -lowest)
        here = sign * score[y, x]
        is_peak = np.ones(len(x), bool)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if dy == dx == 0:
                    continue
                row, column = y + dy, x + dx
                inside = (row >= 0) & (row < ny) & (column >= 0) & (column < nx)
                beside = np.where(inside, sign * score[row.clip(0, ny - 1), column.clip(0, nx - 1)], -np.inf)
                comes_first = dy < 0 or (dy == 0 and dx < 0)
                is_peak &= ~(beside >= here) if comes_first else ~(beside > here)  # a NaN exceeds nothing
        found.append((x[is_peak], y[is_peak], np.full(int(is_peak.sum()), sign)))
    x, y, signs = (np.concatenate(parts) for parts in zip(*found))
    return x, y, signs


def _stands_out(
    difference: Difference, response: _Response, lowest: float, i: int, brighter: Ints,
    x: Ints, y: Ints, sign: Floats, snr: Floats, flux: Floats,
) -> bool:  # fmt: skip
    """Whether seed ``i`` is more than what brighter ones put there (step 2 above)."""
    distance = np.hypot(x[brighter] - x[i], y[brighter] - y[i])
    same = sign[brighter] == sign[i]
    share = np.where(same, response.at(distance), 0.0)
    share += np.where(distance < 3.0 * response.fwhm, _MODEL_ERROR, 0.0)
    left = flux[i] - float(share @ flux[brighter])
    if left * snr[i] < lowest * flux[i]:
        return False
    for j in brighter[same & (distance < 2.0 * response.fwhm)]:
        n = int(np.ceil(2.0 * np.hypot(x[j] - x[i], y[j] - y[i])))
        between = difference.score[
            np.rint(np.linspace(y[i], y[j], n + 1)).astype(int),
            np.rint(np.linspace(x[i], x[j], n + 1)).astype(int),
        ]
        if snr[i] - float(np.nanmin(sign[i] * between)) < 1.0:
            return False
    return True


def _too_many(model: PointModel, n: int, detect: Detect) -> DetectionError:
    return DetectionError(
        model.science.id, STAGE, "too-many", f"{n} candidates, at most {detect.max_candidates} are believed"
    )


# ---- what is measured ----


def _above(points: Points, sign: Floats, threshold: float) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        snr = sign * _without_fit_bias(points) / points.noise
        return np.asarray(snr >= threshold)


def _without_fit_bias(points: Points) -> Floats:
    """The fluxes without what the freedom of the place has added (see above)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = np.square(points.noise / points.flux)
    return points.flux * (1.0 - np.minimum(np.nan_to_num(excess, nan=0.0, posinf=1.0), 1.0))


def _doubles(points: Points, rows: Ints, radius: float) -> NDArray[np.bool_]:
    """Which of ``rows`` have a brighter one of their sign within ``radius``."""
    is_double = np.zeros(len(rows), bool)
    if not len(rows):
        return is_double
    flux = points.flux[rows]
    pairs = cKDTree(np.stack([points.x[rows], points.y[rows]], axis=1)).query_pairs(
        radius, output_type="ndarray"
    )
    for i, j in pairs:
        if flux[i] * flux[j] > 0:
            is_double[j if abs(flux[i]) >= abs(flux[j]) else i] = True
    return is_double


def _areas(model: PointModel, x: Ints, y: Ints, sign: Floats, level: float) -> Ints:
    """How many pixels of the score above ``level`` are connected (8 neighbours) to each peak.

    Counted on the score, that is after the matched filter: there a point source is as wide as two PSFs one
    behind the other, and has pixels enough also where the frame itself is undersampled. Within three FWHM.
    """
    half = int(np.ceil(3.0 * model.fwhm))
    score = model.difference.score
    counts = np.empty(len(x), np.int64)
    for k in range(len(x)):
        top, left = max(0, y[k] - half), max(0, x[k] - half)
        above = sign[k] * score[top : y[k] + half + 1, left : x[k] + half + 1] > level
        labels, _ = label(above, np.ones((3, 3), int))
        counts[k] = np.count_nonzero(labels == labels[y[k] - top, x[k] - left])
    return counts


def mask_fraction(model: PointModel, x: Floats, y: Floats) -> Floats:
    """The fraction of the pixels within one FWHM of each place that no flux may be measured on."""
    half = int(np.ceil(model.fwhm))
    side = np.arange(-half, half + 1)
    disc = np.hypot(side[:, None], side) <= model.fwhm
    fraction = np.empty(len(x))
    for begin in range(0, len(x), 4096):
        part = slice(begin, begin + 4096)
        _, _, good = stamps_of(model.difference, x[part], y[part], half)
        fraction[part] = 1.0 - (good & disc).sum(axis=(1, 2)) / disc.sum()
    return fraction


def _edges(difference: Difference, x: Floats, y: Floats) -> Floats:
    """Pixels to the nearest that one of the images does not cover; what lies outside counts as such."""
    ny, nx = difference.data.shape
    edge = np.min([x + 1, y + 1, nx - x, ny - y], axis=0)
    off = (difference.mask & np.uint16(MaskBit.OFF_IMAGE)) != 0
    if off.any() and len(x):
        rim = off & binary_dilation(~off, np.ones((3, 3), bool))
        places = np.argwhere(rim)[:, ::-1]
        if len(places):
            distance, _ = cKDTree(places).query(np.stack([x, y], axis=1))
            edge = np.minimum(edge, distance)
        inside = off[np.rint(y).astype(int).clip(0, ny - 1), np.rint(x).astype(int).clip(0, nx - 1)]
        edge = np.where(inside, 0.0, edge)
    return np.maximum(edge, 0.0)


def _dipoles(model: PointModel, x: Floats, y: Floats, flux: Floats) -> Floats:
    """The largest flux of the other sign within two FWHM, in units of the source's own; at least 0."""
    reach = 2.0 * model.fwhm
    half = int(np.ceil(reach))
    plane = model.difference.flux
    ny, nx = plane.shape
    side = np.arange(-half, half + 1)
    disc = np.hypot(side[:, None], side) <= reach
    dipole = np.empty(len(x))
    for begin in range(0, len(x), 4096):
        part = slice(begin, begin + 4096)
        rows = np.rint(y[part]).astype(int)[:, None, None] + side[:, None]
        columns = np.rint(x[part]).astype(int)[:, None, None] + side
        inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx) & disc
        there = plane[rows.clip(0, ny - 1), columns.clip(0, nx - 1)]
        opposite = np.where(inside & np.isfinite(there), -np.sign(flux[part])[:, None, None] * there, 0.0)
        dipole[part] = opposite.max(axis=(1, 2)).clip(0.0) / np.abs(flux[part])
    return dipole


def _sky(science: Frame, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """RA, Dec (degrees) and d(east, north)/d(x, y) in degrees per pixel, (n, 2, 2)."""
    assert science.wcs is not None
    if not len(x):
        return np.empty(0), np.empty(0), np.empty((0, 2, 2))
    step = 0.5
    ra, dec = science.wcs.all_pix2world(x, y, 0)
    jacobian = np.empty((len(x), 2, 2))
    for axis, (dx, dy) in enumerate(((step, 0.0), (0.0, step))):
        ra1, dec1 = science.wcs.all_pix2world(x - dx, y - dy, 0)
        ra2, dec2 = science.wcs.all_pix2world(x + dx, y + dy, 0)
        east = (np.asarray(ra2) - ra1 + 180.0) % 360.0 - 180.0
        jacobian[:, 0, axis] = east * np.cos(np.radians(dec)) / (2 * step)
        jacobian[:, 1, axis] = (np.asarray(dec2) - dec1) / (2 * step)
    return np.asarray(ra), np.asarray(dec), jacobian


def _magnitudes(
    science: Frame, x: Floats, y: Floats, flux: Floats, flux_err: Floats
) -> tuple[list[float | None], list[float | None]]:
    """Magnitudes of |flux| and their errors; None without a zero point."""
    zero = science.zero_point
    if zero is None:
        return [None] * len(x), [None] * len(x)
    size = np.abs(flux)
    magnitude = zero.value + zero.offset(x, y, science.shape) - 2.5 * np.log10(size)
    error = 2.5 / np.log(10.0) * flux_err / size
    return [float(m) for m in magnitude], [float(e) for e in error]
