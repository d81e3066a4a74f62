"""Where each pixel is on the sky: find the field, then fit TAN-SIP to the catalogue.

Where the header claims a WCS and the stars bear it out, the field is found. Otherwise it is by
:mod:`.matching`, without a binary and without a network, or by Astrometry.net's ``solve-field``. What
follows is the same: the sources are matched with the catalogue's stars at the epoch of the exposure, and
polynomials of order 1 to 4 are fitted by weighted least squares with clipping; the order is the lowest that
predicts stars left out of the fit as well as the best does.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeGuard

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..catalogues.sphere import separation, unit_vectors
from ..catalogues.stars import ReferenceCatalogue, ReferenceStars
from ..config import Astrometry
from ..errors import AstrometryError, ConfigError, CoverageError
from ..frame import Decision, Exposure, Frame
from .matching import (
    MAX_LOG10_CHANCE,
    Candidate,
    Rows,
    matches,
    search,
    sweep_order,
    verify,
    verify_as_given,
)
from .plate import Floats, Plate, fit_plate, plate_from_wcs, plate_like, standard_coordinates, stiff_fit

STAGE = "astrometry"
MIN_STARS = 4  # three fix a plate, the fourth says whether it is right
MIN_STARS_GIVEN = 3  # where the header gives the plate: its shape is kept, and only moved
MIN_STARS_REFITTED = 6  # from here on a plate that the header gives is fitted anew
N_SEARCHED = 2000  # sources that the search looks at, the brightest evenly over the frame
N_FOR_ORDER = 3000  # stars are enough to choose an order, and to measure a scatter to 2 %
N_FOLDS = 5
GAUSSIAN_FWHM = 2.3548
USUAL_FWHM = 3.0  # pixels, where nobody has measured it: only ratios of weights depend on it
MAS_PER_DEGREE = 3.6e6


@dataclass(frozen=True)
class Stars:
    """The sources that positions are taken from; pixels, electrons."""

    x: Floats
    y: Floats
    flux: Floats
    snr: Floats
    is_clean: NDArray[np.bool_]  # no flag
    is_star: NDArray[np.bool_]  # calibration star
    error: Floats  # pixels, of one coordinate, from photon noise


@dataclass(frozen=True)
class Solution:
    """A plate and the pairs it was fitted to."""

    plate: Plate
    rows: Rows  # of Stars
    reference: Rows  # of the catalogue's stars, the same length
    floor: float  # pixels: what the residuals have beside photon noise, per axis
    n_first: int  # pairs that the plate had before it was fitted, of the sources that were fitted


def solve(
    frame: Frame,
    catalogue: ReferenceCatalogue,
    *,
    pixel_scale: float,
    parity: Literal["normal", "flipped"] | None = None,
    config: Astrometry | None = None,
) -> Frame:
    """Return ``frame`` with ``wcs`` filled in: TAN, or TAN-SIP of order 2 to 4.

    ``frame.sources`` must be there; ``pixel_scale`` (arcsec) and ``parity`` are the camera's. ``frame.wcs``
    is tried first, where the header claims one; three stars may confirm it. Otherwise the pointing of the
    exposure may be off by ``config.search_radius``, rotation and (with ``parity`` None) handedness are found.
    The decision holds residuals against the catalogue in mas: median and MAD-scatter along RA and
    Dec, of all stars and of those with S/N above 20 and 100.

    Raises AstrometryError: no-stars, no-pointing, no-reference-stars, no-match (also where a match could be
    chance), bad-residuals. ConfigError if solve-field is asked for and not installed.
    """
    started = time.perf_counter()
    config = config or Astrometry()
    stars = usable_stars(frame, config)
    given = _by_header(frame, stars, catalogue, pixel_scale, config)
    if given is not None:
        found, reference = given
    elif frame.exposure.ra is None or frame.exposure.dec is None:
        raise AstrometryError(
            frame.id, STAGE, "no-pointing", "no approximate RA and Dec; check the camera's keywords"
        )
    elif config.solver == "solve-field":
        found, reference = _by_solve_field(frame, stars, catalogue, pixel_scale, config)
    else:
        parities = {"normal": (-1,), "flipped": (1,), None: (-1, 1)}[parity]
        found, reference = _by_search(frame, stars, catalogue, pixel_scale, parities, config)
    if given is not None and len(found.rows) < MIN_STARS_REFITTED:
        solution, n_least = moved(stars, reference, found), MIN_STARS_GIVEN
    else:
        solution, n_least = refine(stars, reference, found.plate, frame.shape, config=config), MIN_STARS
    start = "search" if given is None else "header"
    decision = {"start": start} | _decision(frame, stars, reference, found, solution, config)
    _check(frame, solution, found, config, n_least)
    return frame.after(STAGE, started, decision, wcs=solution.plate.wcs(frame.shape))


def usable_stars(frame: Frame, config: Astrometry) -> Stars:
    """Return the sources that have a position and enough S/N. Raises AstrometryError no-stars."""
    table = frame.sources
    if table is None or len(table) == 0:
        raise AstrometryError(frame.id, STAGE, "no-stars", "the frame has no sources")

    def column(name: str) -> Floats:
        return np.array(np.ma.filled(np.ma.asarray(table[name], np.float64), np.nan))

    x, y, flux, snr = (column(name) for name in ("x", "y", "flux_auto", "snr"))
    is_star = np.asarray(table["is_calibration"], bool)
    keep = np.isfinite(x) & np.isfinite(y) & (flux > 0) & (snr >= config.min_snr)
    if keep.sum() < MIN_STARS:
        raise AstrometryError(
            frame.id, STAGE, "no-stars",
            f"{keep.sum()} of {len(x)} sources have a position and S/N ≥ {config.min_snr:g}, "
            f"need {MIN_STARS}",
        )  # fmt: skip
    fwhm = USUAL_FWHM
    if "fwhm" in table.colnames and (is_star & keep).any():
        fwhm = float(np.nanmedian(column("fwhm")[is_star & keep]))
    error = fwhm / GAUSSIAN_FWHM / snr[keep]
    is_clean = np.asarray(table["flags"])[keep] == 0
    return Stars(x[keep], y[keep], flux[keep], snr[keep], is_clean, is_star[keep], error)


def _reference(
    frame: Frame, catalogue: ReferenceCatalogue, ra: float, dec: float, radius: float
) -> ReferenceStars:
    try:
        stars = catalogue.cone(ra, dec, radius)
    except CoverageError as error:
        raise AstrometryError(frame.id, STAGE, "no-reference-stars", str(error)) from error
    if len(stars) < MIN_STARS:
        raise AstrometryError(
            frame.id, STAGE, "no-reference-stars",
            f"{len(stars)} catalogue stars within {radius:.2f}° of ({ra:.4f}, {dec:+.4f}), need {MIN_STARS}",
        )  # fmt: skip
    return stars.at_epoch(julian_year(frame.exposure))


def julian_year(exposure: Exposure) -> float:
    """The middle of the exposure as a Julian year."""
    return 2000.0 + (exposure.mid_mjd - 51544.5) / 365.25


def _magnitude(stars: ReferenceStars, band: str | None) -> Floats:
    """The magnitude to sort by; NaN for all where the catalogue has none."""
    if band is not None:
        if band not in stars.magnitudes:
            raise ConfigError(
                f"astrometry.band: {stars.source} has no band {band!r}; it has "
                f"{', '.join(stars.magnitudes) or 'none'}"
            )
        return stars.magnitudes[band]
    if not stars.magnitudes:
        return np.full(len(stars), np.nan)
    return max(stars.magnitudes.values(), key=lambda values: int(np.isfinite(values).sum()))


def _searched(stars: Stars, shape: tuple[int, int]) -> Rows:
    """The sources that the search looks at."""
    ny, nx = shape
    cells = (np.floor(stars.y * 8 / ny) * 64 + np.floor(stars.x * 8 / nx)).astype(np.intp)
    return sweep_order(cells, stars.flux)[0][:N_SEARCHED]


def _by_header(
    frame: Frame, stars: Stars, catalogue: ReferenceCatalogue, pixel_scale: float, config: Astrometry
) -> tuple[Candidate, ReferenceStars] | None:
    """The plate that the header claims, where enough stars agree; None, and a search follows, where not."""
    if frame.wcs is None:
        return None
    plate = plate_like(frame.wcs, frame.shape)
    half = 0.5 * float(np.hypot(*frame.shape)) * plate.pixel_scale / 3600.0
    try:
        reference = catalogue.cone(plate.ra0, plate.dec0, 1.1 * half).at_epoch(julian_year(frame.exposure))
    except CoverageError:  # a claim like any other that the stars do not bear out
        return None
    if len(reference) < MIN_STARS_GIVEN:
        return None
    vectors = unit_vectors(reference.ra, reference.dec)
    tree = cKDTree(vectors)
    found = verify_as_given(
        plate, stars.x, stars.y, stars.flux, vectors, tree, shape=frame.shape,
        tolerance=config.match_tolerance,
    )  # fmt: skip
    if _is_proven(found, MIN_STARS_GIVEN):
        return found, reference
    # many stars allow it to be off by 1 % of the frame
    found = verify(
        plate, stars.x, stars.y, vectors, tree, shape=frame.shape, pixel_scale=pixel_scale,
        scale_tolerance=config.scale_tolerance, n_turns=2, tolerance=config.match_tolerance,
    )  # fmt: skip
    return (found, reference) if _is_proven(found, MIN_STARS_REFITTED) else None


def _is_proven(found: Candidate | None, n_least: int) -> TypeGuard[Candidate]:
    return found is not None and len(found.rows) >= n_least and found.log10_chance < MAX_LOG10_CHANCE


def _by_search(
    frame: Frame,
    stars: Stars,
    catalogue: ReferenceCatalogue,
    pixel_scale: float,
    parities: tuple[int, ...],
    config: Astrometry,
) -> tuple[Candidate, ReferenceStars]:
    """The pose by matching patterns, first near the pointing, then over twice the radius, and so on."""
    ra, dec = float(frame.exposure.ra or 0.0), float(frame.exposure.dec or 0.0)
    half = 0.5 * float(np.hypot(*frame.shape)) * pixel_scale / 3600.0
    rows = _searched(stars, frame.shape)
    off = min(0.5 * half + 0.2, config.search_radius)
    best: Candidate | None = None
    n_turns = 0
    while True:
        radius = off + half
        reference = _reference(frame, catalogue, ra, dec, radius)
        found, seen = search(
            stars.x[rows], stars.y[rows], stars.flux[rows], stars.is_star[rows],
            unit_vectors(reference.ra, reference.dec), _magnitude(reference, config.band),
            shape=frame.shape, pixel_scale=pixel_scale, area=2 * np.pi * (1 - np.cos(np.radians(radius)))
            * (180 / np.pi) ** 2, scale_tolerance=config.scale_tolerance, parities=parities,
            tolerance=config.match_tolerance,
        )  # fmt: skip
        n_turns += seen
        if found is not None and found.log10_chance < MAX_LOG10_CHANCE:
            # the cone that was searched may hold only a part of the field
            return found, _reference(frame, catalogue, found.plate.ra0, found.plate.dec0, 1.1 * half)
        if found is not None and (best is None or found.log10_chance < best.log10_chance):
            best = found
        if off >= config.search_radius:
            break
        off = min(2.5 * off, config.search_radius)
    message = (
        f"{len(rows)} sources, {len(reference)} catalogue stars within {radius:.2f}° of "
        f"({ra:.4f}, {dec:+.4f}), {n_turns} turns of the camera: none fits"
    )
    if best is not None:
        message += (
            f"; the best matches {len(best.rows)} of {best.n_expected} stars, "
            f"which chance does with probability 1e{best.log10_chance:.1f}"
        )
    raise AstrometryError(frame.id, STAGE, "no-match", message)


def _by_solve_field(
    frame: Frame,
    stars: Stars,
    catalogue: ReferenceCatalogue,
    pixel_scale: float,
    config: Astrometry,
) -> tuple[Candidate, ReferenceStars]:
    wcs = solve_field(frame, stars, pixel_scale=pixel_scale, config=config)
    plate = plate_from_wcs(wcs, frame.shape, order=2)
    half = 0.5 * float(np.hypot(*frame.shape)) * pixel_scale / 3600.0
    reference = _reference(frame, catalogue, plate.ra0, plate.dec0, 1.1 * half)
    vectors = unit_vectors(reference.ra, reference.dec)
    found = verify(
        plate, stars.x, stars.y, vectors, cKDTree(vectors), shape=frame.shape, pixel_scale=pixel_scale,
        scale_tolerance=config.scale_tolerance, n_turns=1, tolerance=config.match_tolerance,
    )  # fmt: skip
    if found is None:
        raise AstrometryError(
            frame.id, STAGE, "no-match",
            f"solve-field looks at ({plate.ra0:.4f}, {plate.dec0:+.4f}), where the sources do not fall on "
            f"the {len(reference)} stars of {reference.source}",
        )  # fmt: skip
    return found, reference


def solve_field(frame: Frame, stars: Stars, *, pixel_scale: float, config: Astrometry) -> WCS:
    """Return what Astrometry.net's ``solve-field`` makes of the sources, with hints of place and scale.

    Raises ConfigError if it is not installed, AstrometryError no-match if it finds nothing.
    """
    binary = shutil.which("solve-field")
    if binary is None:
        raise ConfigError(
            "astrometry.solver is solve-field, which is not installed; "
            "install Debian's astrometry.net with an index, or set it to own"
        )
    ny, nx = frame.shape
    low, high = (pixel_scale * factor for factor in (1 - config.scale_tolerance, 1 + config.scale_tolerance))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = _searched(stars, frame.shape)
        rows = rows[np.argsort(-stars.flux[rows], kind="stable")]
        Table({"X": stars.x[rows] + 1.0, "Y": stars.y[rows] + 1.0, "FLUX": stars.flux[rows]}).write(
            folder / "frame.xyls", format="fits"
        )
        command = [
            binary, "frame.xyls", "--x-column", "X", "--y-column", "Y", "--sort-column", "FLUX",
            "--width", nx, "--height", ny, "--ra", frame.exposure.ra, "--dec", frame.exposure.dec,
            "--radius", config.search_radius, "--scale-units", "arcsecperpix", "--scale-low", low,
            "--scale-high", high, "--crpix-center", "--tweak-order", 1, "--no-plots", "--overwrite",
            "--cpulimit", config.solve_field_seconds,
        ]  # fmt: skip
        done = subprocess.run(
            [str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False
        )
        solved = folder / "frame.wcs"
        if not solved.exists():
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise AstrometryError(
                frame.id, STAGE, "no-match",
                f"solve-field, status {done.returncode}: {said[-1] if said else 'no solution'}",
            )  # fmt: skip
        return WCS(fits.getheader(solved))


def refine(
    stars: Stars,
    reference: ReferenceStars,
    plate: Plate,
    shape: tuple[int, int],
    *,
    config: Astrometry,
) -> Solution:
    """Return ``plate`` refitted to all pairs of sources and catalogue stars that agree with it.

    Flagged sources (saturated, blended) are left out where enough clean ones remain.
    """
    vectors = unit_vectors(reference.ra, reference.dec)
    tree = cKDTree(vectors)
    clean = np.flatnonzero(stars.is_clean)
    every = np.arange(len(stars.x))
    n_clean = len(matches(plate, stars.x[clean], stars.y[clean], tree, config.match_tolerance)[0])
    usable = clean if n_clean >= 30 else every
    # At first as far as one false pair in twenty allows: the plate that was found may be off in a corner.
    ny, nx = shape
    wide = min(np.sqrt(0.05 * nx * ny / (np.pi * len(usable))), 0.01 * np.hypot(nx, ny))
    radius = max(float(wide), config.match_tolerance)
    n_first = len(matches(plate, stars.x[usable], stars.y[usable], tree, config.match_tolerance)[0])
    solution = Solution(plate, every[:0], every[:0], 0.0, n_first)
    for turn in range(8):
        rows, star = matches(solution.plate, stars.x[usable], stars.y[usable], tree, radius)
        rows = usable[rows]
        x, y, error = stars.x[rows], stars.y[rows], stars.error[rows]
        order = choose_order(x, y, vectors[star], error, near=solution.plate, config=config)
        refitted, keep, floor = clipped_fit(
            x, y, vectors[star], error, order=order, near=solution.plate, clip=config.clip
        )
        same = np.array_equal(rows[keep], solution.rows) and order == solution.plate.order
        solution = Solution(refitted, rows[keep], star[keep], floor, n_first)
        # a pair further apart than five times the usual is no pair; faint stars need the photon noise too
        usual = np.hypot(floor, float(np.median(error)))
        # but not before the plate has reached the corners
        if same and radius < config.match_tolerance:
            break
        if turn == 1:
            radius = config.match_tolerance
        elif same or turn >= 4:
            radius = float(np.clip(6.0 * usual, 0.5, 0.99 * config.match_tolerance))
    return solution


def moved(stars: Stars, reference: ReferenceStars, found: Candidate) -> Solution:
    """Return the plate that was found, its shape kept, moved to the few stars that it matched."""
    rows, star = found.rows, found.reference
    x, y, error = stars.x[rows], stars.y[rows], stars.error[rows]
    vectors = unit_vectors(reference.ra[star], reference.dec[star])
    floor, plate = 0.5, found.plate
    for _ in range(5):
        plate = stiff_fit(x, y, vectors, 1.0 / (error**2 + floor**2), near=found.plate)
        residual = pixel_residuals(plate, x, y, vectors)
        n_numbers, n_fitted = 2 * len(x), 2 if len(x) < MIN_STARS else 4
        floor = _floor(residual * np.sqrt(n_numbers / (n_numbers - n_fitted)), error)
    return Solution(plate, rows, star, floor, len(rows))


def clipped_fit(
    x: Floats, y: Floats, vectors: Floats, error: Floats, *, order: int, near: Plate, clip: float
) -> tuple[Plate, NDArray[np.bool_], float]:
    """Return the plate of ``order``, the stars kept, and the floor of the errors (pixels).

    Weights are 1 / (error² + floor²), the floor such that the residuals scatter as much as they should; a
    star further out than ``clip`` sigmas on one axis is dropped, as long as one more remains than terms.
    """
    n_least = (order + 1) * (order + 2) // 2 + 1
    keep = np.ones(len(x), bool)
    floor = 0.1
    plate = near
    for _ in range(10):
        weights = 1.0 / (error**2 + floor**2)
        plate = fit_plate(x[keep], y[keep], vectors[keep], weights[keep], order=order, near=near)
        residual = pixel_residuals(plate, x, y, vectors)
        n_free = max(int(keep.sum()) - n_least + 1, 1)
        floor = _floor(residual[:, keep] * np.sqrt(keep.sum() / n_free), error[keep])
        far = (np.abs(residual) / np.hypot(error, floor)).max(axis=0)
        kept = far < clip
        if kept.sum() < n_least:
            kept = far <= np.sort(far)[min(n_least, len(far)) - 1]
        if np.array_equal(kept, keep):
            break
        keep = kept
    return plate, keep, floor


def _floor(residual: Floats, error: Floats) -> float:
    """What must be added in quadrature to ``error`` for the residuals (2, n) to have a MAD-scatter of 1.

    Half of the residuals then exceed their error by less than 1.4826 times, so that it is the median of what
    each of them alone would need.
    """
    step = 1 + len(error) // N_FOR_ORDER
    needed = np.square(1.4826 * residual[:, ::step]) - np.square(error[::step])
    return float(np.sqrt(np.clip(np.median(needed), 0.002**2, 3.0**2)))


def pixel_residuals(plate: Plate, x: Floats, y: Floats, vectors: Floats) -> Floats:
    """(2, n): catalogue minus source, turned into pixels along x and y."""
    plane = standard_coordinates(vectors, plate.ra0, plate.dec0) - plate.plane(x, y)
    return np.linalg.solve(plate.linear, plane)


def choose_order(
    x: Floats, y: Floats, vectors: Floats, error: Floats, *, near: Plate, config: Astrometry
) -> int:
    """Return the lowest order that predicts stars left out of the fit as well as the best order does.

    Five folds; as well: the mean difference of the squared residuals, star by star, is below its standard
    error. Residuals are in sigmas, cut at ``config.clip``, so that a false pair counts no more than others.
    """
    orders = [
        order
        for order in range(1, config.max_order + 1)
        if order == 1 or len(x) >= config.stars_per_term * (order + 1) * (order + 2) / 2
    ]
    if len(orders) == 1:
        return 1
    if len(x) > N_FOR_ORDER:
        some = np.random.default_rng(0).permutation(len(x))[:N_FOR_ORDER]
        x, y, vectors, error = x[some], y[some], vectors[some], error[some]
    folds = np.random.default_rng(0).permutation(len(x)) % N_FOLDS
    _, _, floor = clipped_fit(x, y, vectors, error, order=orders[-1], near=near, clip=config.clip)
    sigma = np.hypot(error, floor)
    losses = []
    for order in orders:
        loss = np.empty(len(x))
        for fold in range(N_FOLDS):
            out = folds == fold
            plate, _, _ = clipped_fit(
                x[~out], y[~out], vectors[~out], error[~out], order=order, near=near, clip=config.clip
            )
            left = pixel_residuals(plate, x[out], y[out], vectors[out]) / sigma[out]
            loss[out] = np.minimum(left**2, config.clip**2).sum(axis=0)
        losses.append(loss)
    best = losses[int(np.argmin([loss.mean() for loss in losses]))]
    for order, loss in zip(orders, losses):
        worse = loss - best
        if worse.mean() <= worse.std() / np.sqrt(len(x)):
            return order
    return orders[-1]


def _check(frame: Frame, solution: Solution, found: Candidate, config: Astrometry, n_least: int) -> None:
    """Raises AstrometryError where the solution cannot be trusted."""
    if found.log10_chance > MAX_LOG10_CHANCE:
        raise AstrometryError(
            frame.id, STAGE, "no-match",
            f"{len(found.rows)} of {found.n_expected} stars match, which chance does with probability "
            f"1e{found.log10_chance:.1f}; at most 1e{MAX_LOG10_CHANCE:g} is believed",
        )  # fmt: skip
    # Of the same sources: a fit may have left out flagged ones, in a crowded frame the half of all.
    n_left, n_found = len(solution.rows), solution.n_first
    if n_left < max(n_least, 0.5 * n_found):
        raise AstrometryError(
            frame.id, STAGE, "bad-residuals", f"of {n_found} matched stars only {n_left} agree with one plate"
        )
    if solution.floor > config.max_scatter:
        raise AstrometryError(
            frame.id, STAGE, "bad-residuals",
            f"{n_left} stars scatter by {solution.floor:.2f} pixels per axis, "
            f"at most {config.max_scatter:g} is believed",
        )  # fmt: skip


def _decision(
    frame: Frame,
    stars: Stars,
    reference: ReferenceStars,
    found: Candidate,
    solution: Solution,
    config: Astrometry,
) -> dict[str, Decision]:
    plate = solution.plate
    linear = plate.linear
    ra, dec = frame.exposure.ra, frame.exposure.dec
    pointing = None if ra is None or dec is None else float(separation(plate.ra0, plate.dec0, ra, dec))
    decision: dict[str, Decision] = {
        "solver": config.solver,
        "catalogue": reference.source,
        "n_matched": len(solution.rows),
        "n_expected": found.n_expected,
        "log10_chance": round(found.log10_chance, 1),
        "order": plate.order,
        "pixel_scale": plate.pixel_scale,
        "rotation": float(np.degrees(np.arctan2(linear[0, 1], linear[1, 1]))),
        "parity": "normal" if np.linalg.det(linear) < 0 else "flipped",
        "pointing_error": pointing,
        "floor_pixels": solution.floor,
    }
    rows, star = solution.rows, solution.reference
    vectors = unit_vectors(reference.ra[star], reference.dec[star])
    residual = plate.plane(stars.x[rows], stars.y[rows]) - standard_coordinates(
        vectors, plate.ra0, plate.dec0
    )
    for limit, suffix in ((0, ""), (20, "_snr20"), (100, "_snr100")):
        decision |= residual_statistics(residual[:, stars.snr[rows] > limit] * MAS_PER_DEGREE, suffix)
    return decision


def residual_statistics(residual: Floats, suffix: str = "") -> dict[str, Decision]:
    """Median and MAD-scatter (mas) of residuals (2, n) along RA and Dec, and how many there are."""
    statistics: dict[str, Decision] = {f"n_stars{suffix}": residual.shape[1]}
    for name, values in zip(("ra", "dec"), residual):
        if len(values) == 0:
            continue
        median = float(np.median(values))
        statistics[f"offset_{name}_mas{suffix}"] = median
        statistics[f"scatter_{name}_mas{suffix}"] = 1.4826 * float(np.median(np.abs(values - median)))
    return statistics
