"""Aperture photometry and the zero point (Sun+ 2022, 2.3).

The aperture's *diameter* is 6 times the median A_IMAGE of the calibration stars (Eq. 1): SExtractor's
PHOT_APERTURES are diameters, and Sokolovsky & Lebedev (2018), whom the paper follows, feed it those. What the
aperture misses is measured on bright stars out to ``total_factor`` radii and put back, so that ``flux`` is
the total flux of a point source and one zero point serves aperture and PSF fluxes alike.

Columns added to ``frame.sources``:

    ra, dec                                  degrees, ICRS
    flux_aperture, flux_aperture_error       electrons, within the aperture
    flux, flux_error                         electrons, of a point source in all
    mag, mag_error                           calibrated; the error is of the flux alone; NaN without flux
    reference_mag, reference_mag_error       of the matched star; NaN where there is none
    is_zero_point_star                       took part in the fit to its end
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import sep
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..catalogues.stars import ReferenceCatalogue, ReferenceStars
from ..config import Photometry
from ..errors import PhotometryError
from ..frame import UNUSABLE, Decision, Frame, MaskBit, ZeroPoint, unit_coordinates
from .growth import growth_beyond
from .sources import COARSE_STEP, quadratic

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

_MAG = 2.5 / np.log(10.0)  # magnitudes per relative flux


@dataclass(frozen=True)
class Apertures:
    """Fluxes of a frame's sources, electrons, one row each."""

    radius: float  # pixels
    flux: Floats  # within the radius
    flux_error: Floats
    fraction: Floats  # of a point source's total flux that the aperture holds
    n_growth_stars: int


def calibrate_photometry(frame: Frame, catalogue: ReferenceCatalogue, *, config: Photometry) -> Frame:
    """Return ``frame`` with its zero point and the columns above.

    Raises PhotometryError: "no-wcs", "no-band" (neither header nor configuration name one),
    "no-reference-stars", "too-few-matches", "bad-scatter". CatalogueError passes through.
    """
    started = time.perf_counter()
    table = _table(frame).copy()
    x, y = np.asarray(table["x"]), np.asarray(table["y"])
    ra, dec = _sky(frame, x, y)
    reference = _reference_stars(frame, catalogue, config)
    band = _band(frame, config)
    apertures = measure_apertures(frame, config=config)
    flux = apertures.flux / apertures.fraction
    flux_error = apertures.flux_error / apertures.fraction

    is_star = np.asarray(table["is_calibration"]) & (flux > 0)
    fwhm = float(np.median(table["fwhm"][table["is_calibration"]]))
    radius = config.match_radius * fwhm * _pixel_scale(frame)
    source, star = match_sky(ra, dec, reference.ra, reference.dec, radius)
    reference_mag, reference_error = np.full(len(table), np.nan), np.full(len(table), np.nan)
    reference_mag[source] = reference.magnitudes[band][star]
    reference_error[source] = reference.magnitude_errors.get(band, np.zeros(len(reference)))[star]
    color = np.full(len(table), 0.0 if config.color is None else np.nan)
    if config.color is not None:
        color[source] = _color(frame, reference, config.color)[star]

    used = is_star & np.isfinite(reference_mag) & np.isfinite(color)
    if used.sum() < config.min_matches:
        raise PhotometryError(
            frame.id,
            "photometry",
            "too-few-matches",
            f"{used.sum()} of {is_star.sum()} stars matched within {3600 * radius:.2f} arcsec of "
            f"{len(reference)} reference stars, need {config.min_matches}",
        )
    zero_point, kept = fit_zero_point(
        reference_mag[used] + 2.5 * np.log10(flux[used]),
        _MAG * flux_error[used] / flux[used],
        np.nan_to_num(reference_error[used]),
        x[used],
        y[used],
        frame.shape,
        color=None if config.color is None else color[used],
        color_name=None if config.color is None else "-".join(config.color),
        band=band,
        config=config,
    )
    if zero_point.n_stars < config.min_matches or not zero_point.scatter <= config.max_scatter:
        raise PhotometryError(
            frame.id,
            "photometry",
            "bad-scatter",
            f"{zero_point.n_stars} of {used.sum()} matched stars agree, scattering by "
            f"{zero_point.scatter:.3f} mag; need {config.min_matches} and at most {config.max_scatter} mag",
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        offset = zero_point.offset(x, y, frame.shape)
        mag = np.where(flux > 0, zero_point.value + offset - 2.5 * np.log10(flux), np.nan)
        mag_error = np.where(flux > 0, _MAG * flux_error / flux, np.nan)
    is_zero_point_star = np.zeros(len(table), bool)
    is_zero_point_star[np.flatnonzero(used)[kept]] = True
    columns = {
        "ra": ra, "dec": dec, "flux_aperture": apertures.flux, "flux_aperture_error": apertures.flux_error,
        "flux": flux, "flux_error": flux_error, "mag": mag, "mag_error": mag_error,
        "reference_mag": reference_mag, "reference_mag_error": reference_error,
        "is_zero_point_star": is_zero_point_star,
    }  # fmt: skip
    for name, values in columns.items():
        table[name] = values
    decision: dict[str, Decision] = {
        "aperture_radius": round(apertures.radius, 3),
        "aperture_fraction": round(float(np.median(apertures.fraction)), 5),
        "n_growth_stars": apertures.n_growth_stars,
        "reference": reference.source,
        "n_reference": len(reference),
        "n_matched": int(used.sum()),
        "n_used": zero_point.n_stars,
        "zero_point": round(zero_point.value, 5),
        "zero_point_error": round(zero_point.error, 5),
        "scatter": round(zero_point.scatter, 5),
        "spatial_terms": sum(c != 0 for c in zero_point.spatial[1:]),
    }
    return frame.after("photometry", started, decision, zero_point=zero_point, sources=table)


def measure_apertures(frame: Frame, *, config: Photometry) -> Apertures:
    """Return all sources' fluxes in the aperture of Eq. 1 (exact pixel overlap, bad pixels left out)."""
    table = _table(frame)
    is_star = np.asarray(table["is_calibration"])
    radius = 0.5 * config.aperture_factor * float(np.median(table["a"][is_star]))
    pixels = background_subtracted(frame)
    mask = (frame.mask & int(UNUSABLE)) != 0
    x, y = np.asarray(table["x"]), np.asarray(table["y"])
    outer = config.total_factor * radius
    annulus = (1.5 * radius, 2.5 * radius) if config.local_background else None
    flux, flux_error, _ = sep.sum_circle(
        pixels, x, y, radius, var=frame.variance, mask=mask, bkgann=annulus, subpix=0
    )  # fmt: skip
    growth, n_stars = growth_beyond(
        table, pixels, frame.variance, mask, np.asarray(flux, float), radius, outer
    )
    fraction = 1.0 / (1.0 + np.clip(growth, 0.0, 2.0))
    return Apertures(radius, flux, flux_error, fraction, n_stars)


def match_sky(
    ra: Floats, dec: Floats, reference_ra: Floats, reference_dec: Floats, radius: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of both lists that are each other's nearest within ``radius`` degrees."""
    here, there = _unit_vectors(ra, dec), _unit_vectors(reference_ra, reference_dec)
    chord = 2.0 * np.sin(np.radians(radius) / 2.0)
    distance, nearest = cKDTree(there).query(here, distance_upper_bound=chord)
    rows = np.flatnonzero(np.isfinite(distance))
    back = cKDTree(here).query(there[nearest[rows]])[1]
    rows = rows[back == rows]
    return rows, nearest[rows]


def fit_zero_point(
    difference: Floats,
    flux_error: Floats,
    reference_error: Floats,
    x: Floats,
    y: Floats,
    shape: tuple[int, int],
    *,
    band: str,
    config: Photometry,
    color: Floats | None = None,
    color_name: str | None = None,
) -> tuple[ZeroPoint, Mask]:
    """Return the zero point from reference minus instrumental magnitudes, and which stars it kept.

    Minimises χ² = Σ (m_zp + Δm(u, v) + k·color − difference)² / σ² (Eq. 2 and 3 at once), σ² being the sum of
    both errors and of an intrinsic variance that makes χ² fit the stars; rejects those beyond ``clip`` σ and
    repeats. Δm is made to average to zero over the frame, so that the value is the frame's mean. The surface
    is a plane below ``quadratic_from`` stars and a constant below ``linear_from``.
    """
    u, v = unit_coordinates(x, y, shape)
    n_terms = 6 if len(u) >= config.quadratic_from else 3 if len(u) >= config.linear_from else 1
    design = quadratic(u, v)[:, :n_terms]
    if color is not None:
        design = np.concatenate([design, color[:, None]], axis=1)
    # From the median: mismatches are by magnitudes, what the surface or color takes up by tenths of one
    residual = difference - np.median(difference)
    spread = 1.4826 * float(np.median(np.abs(residual)))
    kept = np.abs(residual) <= max(5.0 * spread, 0.05)
    measured2 = np.square(flux_error) + np.square(reference_error)
    intrinsic2 = 0.0
    for _ in range(30):
        weight = 1.0 / (measured2 + intrinsic2 + 1e-10)
        root = np.sqrt(weight[kept])
        if kept.sum() < design.shape[1] + 1:
            design = design[:, :1]
        coefficients = np.linalg.lstsq(design[kept] * root[:, None], difference[kept] * root, rcond=None)[0]
        residual = difference - design @ coefficients
        intrinsic2 = _intrinsic_variance(residual[kept], measured2[kept], design.shape[1])
        updated = np.abs(residual) <= config.clip * np.sqrt(measured2 + intrinsic2 + 1e-10)
        if np.array_equal(updated, kept):
            break
        if not updated.any():
            break
        kept = updated
    weight = 1.0 / (measured2[kept] + intrinsic2 + 1e-10)
    covariance = np.linalg.pinv(design[kept].T @ (design[kept] * weight[:, None]))
    spatial = np.zeros(6)
    n_spatial = min(n_terms, design.shape[1])
    spatial[1:n_spatial] = coefficients[1:n_spatial]
    # ∫u² = 1/3 over the frame, the other terms average to zero
    spatial[0] = -(spatial[4] + spatial[5]) / 3.0
    mean = np.zeros(design.shape[1])
    mean[0] = 1.0
    if n_spatial == 6:
        mean[4:6] = 1.0 / 3.0
    has_color = color is not None and design.shape[1] == n_terms + 1
    c0, c1, c2, c3, c4, c5 = (float(c) for c in spatial)
    zero_point = ZeroPoint(
        value=float(coefficients[0] - spatial[0]),
        error=float(np.sqrt(mean @ covariance @ mean)),
        band=band,
        spatial=(c0, c1, c2, c3, c4, c5),
        color_term=float(coefficients[-1]) if has_color else 0.0,
        color=color_name if has_color else None,
        n_stars=int(kept.sum()),
        scatter=1.4826 * float(np.median(np.abs(residual[kept]))),
    )
    return zero_point, kept


def limiting_magnitude(frame: Frame, *, n_sigma: float = 5.0) -> float:
    """Return the magnitude of a point source of ``n_sigma`` (mag), the mean over the frame.

    m = zero point − 2.5 log10(n_sigma · rms · √A), rms being the background's per pixel and A = 1 / ΣPSF² the
    effective area of the PSF (:func:`effective_area`): the noise of an optimally weighted flux where the sky
    dominates. In the terms of Kashyap+ (2010) it is the upper limit for a detection threshold of ``n_sigma``
    and a power of one half: sources this bright are found half of the time.
    """
    if frame.zero_point is None:
        raise PhotometryError(
            frame.id, "quality", "no-zero-point", "no limiting magnitude without a zero point"
        )
    noise = background_rms(frame) * np.sqrt(effective_area(frame))
    return float(frame.zero_point.value - 2.5 * np.log10(n_sigma * noise))


def background_rms(frame: Frame) -> float:
    """Return the rms of the background (electrons per pixel), clipped so that stars do not count.

    Whole ADU that are not much smaller than the noise make quantiles jump: they are blurred by one ADU first,
    whose variance, 1/12, is taken off again.
    """
    step = max(1, int(np.sqrt(frame.data.size / 1e6)))
    part = np.s_[step // 2 :: step, step // 2 :: step]
    values = background_subtracted(frame, part)
    values = values[((frame.mask[part] & int(UNUSABLE | MaskBit.TRAIL)) == 0) & np.isfinite(values)]
    sigma = _sigma_of_sky(values)
    if frame.gain <= COARSE_STEP * sigma:
        return sigma
    blur = frame.gain * np.random.default_rng(0).uniform(-0.5, 0.5, len(values))
    return float(max(_sigma_of_sky(values + blur) ** 2 - frame.gain**2 / 12, 0.0) ** 0.5)


def _sigma_of_sky(values: NDArray[np.float32]) -> float:
    sigma = 0.0
    for _ in range(10):
        # Stars only add: the half below the median is the sky's
        median = np.median(values)
        sigma = 1.4826 * np.median(median - values[values <= median])
        inside = np.abs(values - median) < 3.0 * sigma
        if inside.all():
            break
        values = values[inside]
    return float(sigma)


def effective_area(frame: Frame) -> float:
    """Return 1 / ΣPSF² (pixels), the median of up to 200 bright stars: (Σ d)² / Σ (d² − variance).

    4π σ² for a Gaussian; half as much again for a Moffat profile of β = 3.5 and the same FWHM. Pixels within
    two FWHM count: the wings add to the sum, hardly to that of the squares.
    """
    table = _table(frame)
    stars = table[table["is_psf_star"]] if np.any(table["is_psf_star"]) else table[table["is_calibration"]]
    stars = stars[np.argsort(-np.asarray(stars["flux_auto"]))][:200]
    total = np.asarray(stars["flux"] if "flux" in stars.colnames else stars["flux_auto"])
    half = int(np.ceil(2.0 * np.median(stars["fwhm"])))
    areas = []
    ny, nx = frame.shape
    for x, y, flux in zip(stars["x"], stars["y"], total):
        i, j = round(float(y)), round(float(x))
        if not (half <= i < ny - half and half <= j < nx - half):
            continue
        box = np.s_[i - half : i + half + 1, j - half : j + half + 1]
        squares = np.square(background_subtracted(frame, box), dtype=float) - frame.variance[box]
        areas.append(flux**2 / max(float(squares.sum()), 1e-12))
    if not areas:
        raise PhotometryError(
            frame.id, "quality", "no-stars", f"none of {len(stars)} stars is {half} pixels from the edge"
        )
    return float(np.median(areas))


def background_subtracted(frame: Frame, part: tuple[slice, slice] = np.s_[:, :]) -> NDArray[np.float32]:
    """Return the data less the background (electrons, float32); invalid pixels are 0."""
    if frame.background is None:
        raise PhotometryError(frame.id, "photometry", "no-sources", "no background: find_sources comes first")
    pixels = frame.data[part] - frame.background[part]
    pixels[~np.isfinite(pixels)] = 0.0
    return pixels


def _table(frame: Frame) -> Table:
    if frame.sources is None:
        raise PhotometryError(frame.id, "photometry", "no-sources", "no sources: find_sources comes first")
    return frame.sources


def _sky(frame: Frame, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    if frame.wcs is None:
        raise PhotometryError(frame.id, "photometry", "no-wcs", "no WCS: astrometry comes first")
    ra, dec = frame.wcs.all_pix2world(x, y, 0)
    return np.asarray(ra), np.asarray(dec)


def _pixel_scale(frame: Frame) -> float:
    """Degrees per pixel at the frame's centre."""
    ny, nx = frame.shape
    ra, dec = _sky(frame, np.array([0.0, 1.0, 0.0]) + nx / 2, np.array([0.0, 0.0, 1.0]) + ny / 2)
    east = (ra - ra[0] + 180.0) % 360.0 - 180.0
    east, north = east * np.cos(np.radians(dec[0])), dec - dec[0]
    return float(np.sqrt(abs(east[1] * north[2] - east[2] * north[1])))


def _band(frame: Frame, config: Photometry) -> str:
    band = config.reference_band or frame.exposure.band
    if band is None:
        raise PhotometryError(
            frame.id, "photometry", "no-band", "the header names no band; set photometry.reference_band"
        )
    return band


def _reference_stars(frame: Frame, catalogue: ReferenceCatalogue, config: Photometry) -> ReferenceStars:
    """The stars over the frame that have a magnitude in the band, at the epoch of the exposure."""
    ny, nx = frame.shape
    corners = _unit_vectors(*_sky(frame, np.array([0, nx, 0, nx, nx / 2]), np.array([0, 0, ny, ny, ny / 2])))
    centre = corners[4]
    radius = float(np.degrees(np.arccos(np.clip(corners[:4] @ centre, -1.0, 1.0)).max()))
    ra = float(np.degrees(np.arctan2(centre[1], centre[0])) % 360.0)
    dec = float(np.degrees(np.arcsin(np.clip(centre[2], -1.0, 1.0))))
    stars = catalogue.cone(ra, dec, 1.02 * radius)
    band = _band(frame, config)
    n_found = len(stars)
    if band in stars.magnitudes:
        stars = stars.select(np.isfinite(stars.magnitudes[band]))
    if band not in stars.magnitudes or not len(stars):
        raise PhotometryError(
            frame.id,
            "photometry",
            "no-reference-stars",
            f"{n_found} stars within {radius:.2f} deg of {ra:.4f} {dec:+.4f}, none with a {band} magnitude; "
            f"the catalogue has: {', '.join(stars.magnitudes) or 'none'}",
        )
    return stars.at_epoch(2000.0 + (frame.exposure.mid_mjd - 51544.5) / 365.25)


def _color(frame: Frame, stars: ReferenceStars, bands: tuple[str, str]) -> Floats:
    missing = [band for band in bands if band not in stars.magnitudes]
    if missing:
        raise PhotometryError(
            frame.id,
            "photometry",
            "no-reference-stars",
            f"color {'-'.join(bands)}: the catalogue has no {', '.join(missing)}, "
            f"only {', '.join(stars.magnitudes)}",
        )
    return stars.magnitudes[bands[0]] - stars.magnitudes[bands[1]]


def _unit_vectors(ra: Floats, dec: Floats) -> Floats:
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def _intrinsic_variance(residual: Floats, measured2: Floats, n_terms: int) -> float:
    """Return what has to be added to the variances for χ² to equal the degrees of freedom; 0 if nothing."""
    freedom = max(1, len(residual) - n_terms)

    def excess(variance: float) -> float:
        return float((np.square(residual) / (measured2 + variance + 1e-10)).sum()) - freedom

    low, high = 0.0, float(np.square(residual).sum()) / freedom + 1e-8
    if excess(low) <= 0:
        return 0.0
    for _ in range(60):  # bisection: excess falls with the variance
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high
