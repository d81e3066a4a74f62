"""The PSF of a frame, varying over it, and fluxes measured with it (Sun+ 2022, 2.3, beside the main path).

The model is PSFEx's (Bertin 2011): samples on a grid finer than the pixels, each a polynomial in the position
on the frame, found by weighted linear least squares on the pixels of bright stars. A star's pixels are the
samples interpolated with Keys' cubic convolution (1981), so that the model holds the pixel's own width.
photutils' EPSFBuilder makes one PSF for all places; its PSFPhotometry fits one source after the other in
Python, a hundredth of a second each: for the tens of thousands on a survey frame both are done here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator, cg, spsolve
from scipy.spatial import cKDTree

from ..config import PsfFit
from ..errors import PhotometryError
from ..frame import UNUSABLE, Decision, Frame, unit_coordinates
from ..polynomials import legendre_terms
from ..psf import Psf, exponents
from .photometry import background_subtracted
from .sources import quadratic

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

_BATCH = 1500  # sources whose stamps are in memory at once
_MODEL_ERROR = 0.01  # of a pixel's value: keeps the brightest star from deciding alone
_IMAGE_PRIOR, _VARIATION_PRIOR = 0.3, 0.15  # relative: how far samples may lie from the first guess
_SMOOTHNESS = 0.4  # FWHM: width of the Gaussian that deviations from it are smoothed with
_N_PARTS, _N_JUDGES = 5, 30  # parts of the stars that are held out in turn; until so many have judged
_EARNED = 1.05  # a lower degree is taken where its scatter is at most this times the least
_POSITION_PRIOR = 0.3  # pixels: how far a source may lie from where it was detected


@dataclass(frozen=True)
class _Stamps:
    """The pixels around some stars; all (n, side, side), with the stars' places (n,)."""

    values: Floats  # electrons above the background
    sky_variance: Floats  # electrons², (n,): without the star's own
    good: NDArray[np.bool_]
    x: Floats
    y: Floats

    def select(self, rows: Rows) -> _Stamps:
        return _Stamps(
            self.values[rows], self.sky_variance[rows], self.good[rows], self.x[rows], self.y[rows]
        )


def fit_psf(frame: Frame, *, config: PsfFit) -> Frame:
    """Return ``frame`` with its ``psf``, of the degree that tells the fluxes of held-out stars best.

    Raises PhotometryError ("too-few-psf-stars") where fewer than ``min_stars`` can be used.
    """
    started = time.perf_counter()
    table = frame.sources
    if table is None:
        raise PhotometryError(frame.id, "psf", "no-sources", "no sources: find_sources comes first")
    fwhm = float(np.median(table["fwhm"][table["is_calibration"]]))
    half = int(np.ceil(config.half_size * fwhm))
    rows = _psf_stars(frame, half, config)
    if len(rows) < config.min_stars:
        raise PhotometryError(
            frame.id,
            "psf",
            "too-few-psf-stars",
            f"{len(rows)} of {int(np.sum(table['is_psf_star']))} PSF stars are {half} pixels from the edge, "
            f"need {config.min_stars}",
        )
    # five samples to a FWHM: cubic interpolation is then good to some tenths of a percent of the peak
    oversampling = int(np.clip(np.ceil(5.0 / fwhm), 1, 4))
    stamps = _cut_stamps(frame, rows, half, fwhm)
    highest = max(
        d for d in range(config.max_degree + 1)
        if d == 0 or len(rows) >= config.stars_per_term * len(exponents(d))
    )  # fmt: skip
    total = np.asarray(table["flux" if "flux" in table.colnames else "flux_auto"], float)[rows]
    scatter = _held_out_scatter(stamps, total, highest, oversampling, fwhm, frame.shape)
    # a higher degree has to earn its terms
    degree = min(d for d in scatter if scatter[d] <= _EARNED * min(scatter.values()))
    model = _constant_model(stamps, oversampling, fwhm, frame.shape)
    if degree == 0:
        psf = _fit(stamps, model, n_rounds=3).psf
    else:
        model = _fit(stamps, model, n_rounds=2)
        for raised in range(1, degree):
            model = _fit(stamps, model.raised(raised), n_rounds=1)
        psf = _fit(stamps, model.raised(degree), n_rounds=2).psf
    decision: dict[str, Decision] = {
        "n_stars": len(rows),
        "degree": degree,
        "oversampling": oversampling,
        "size": psf.images.shape[1],
        **{f"held_out_scatter_{d}": round(c, 5) for d, c in scatter.items() if highest > 0},
    }
    return frame.after("psf", started, decision, psf=psf)


def psf_stamps(
    psf: Psf, x: Floats, y: Floats, half: int, *, derivatives: bool = False
) -> tuple[Floats, Floats, Floats]:
    """Return what sources of one electron at (x, y) put into the pixels around them.

    The first is (n, 2·half + 1, 2·half + 1), its middle pixel the one nearest to the source; the others are
    its derivatives by x and y, empty unless asked for.
    """
    images = _local_images(psf, x, y)
    to_rows, to_columns = _interpolation(psf, y, half), _interpolation(psf, x, half)
    values = np.matmul(np.matmul(to_rows, images), to_columns.transpose(0, 2, 1))
    if not derivatives:
        return values, np.empty(0), np.empty(0)
    slope_rows, slope_columns = (
        _interpolation(psf, y, half, slope=True),
        _interpolation(psf, x, half, slope=True),
    )
    by_x = np.matmul(np.matmul(to_rows, images), slope_columns.transpose(0, 2, 1))
    by_y = np.matmul(np.matmul(slope_rows, images), to_columns.transpose(0, 2, 1))
    return values, by_x, by_y


def psf_photometry(frame: Frame, *, config: PsfFit) -> Frame:
    """Return ``frame`` with fluxes from its PSF: columns flux_psf, flux_psf_error (electrons, total), x_psf,
    y_psf (pixels) and chi2 (per degree of freedom); NaN where too few pixels can be used.

    Flux and position of all sources are fitted together by Gauss–Newton steps, weighted with the noise that
    the model itself implies (weights from the noisy data would be biased by an electron per pixel). Sources
    that share pixels are solved for together, others see each other as of the step before.
    After calibrate_photometry, the fluxes are scaled to the total fluxes of its bright stars, by a surface
    over the frame: the sum of a PSF model is that of its wings, which the model knows least. One zero point
    is then right for both. Raises PhotometryError ("no-psf") without a model.
    """
    started = time.perf_counter()
    if frame.psf is None or frame.sources is None:
        raise PhotometryError(frame.id, "psf_photometry", "no-psf", "no PSF model: fit_psf comes first")
    psf, table = frame.psf, frame.sources.copy()
    fwhm = float(np.median(table["fwhm"][table["is_calibration"]]))
    radius = config.fit_radius * fwhm
    half = (psf.images.shape[1] // psf.oversampling - 1) // 2
    pixels = background_subtracted(frame)
    usable = (frame.mask & int(UNUSABLE)) == 0
    x0, y0 = np.array(table["x"], float), np.array(table["y"], float)
    x, y = x0.copy(), y0.copy()
    flux = np.array(table["flux" if "flux" in table.colnames else "flux_auto"], float)
    flux = np.where(np.isfinite(flux), flux, np.asarray(table["flux_auto"], float))  # an aperture all masked
    flux = np.maximum(np.nan_to_num(flux), 0.0)  # one NaN in the model would spread to every source
    error, chi2 = np.full(len(x), np.nan), np.full(len(x), np.nan)
    labels = _groups(x, y, 2.0 * radius)
    batches = _batches(labels)
    sky = _sky_variance(frame, pixels, x, y, half)
    for step in range(config.iterations):
        model = _model_image(psf, x, y, flux, half, frame.shape)
        residual = pixels - model
        for rows in batches:
            update = _step(
                psf, rows, x, y, flux, x0, y0, residual, model, usable, sky, radius, labels,
                with_errors=step == config.iterations - 1,
            )  # fmt: skip
            flux[rows] += update[0]
            x[rows] = np.clip(x[rows] + update[1], x0[rows] - 0.5 * fwhm, x0[rows] + 0.5 * fwhm)
            y[rows] = np.clip(y[rows] + update[2], y0[rows] - 0.5 * fwhm, y0[rows] + 0.5 * fwhm)
            error[rows], chi2[rows] = update[3], update[4]
    is_measured = np.isfinite(error)
    correction = np.ones(len(x))
    if "flux" in table.colnames:
        is_star = np.asarray(table["is_calibration"]) & is_measured & (flux > 0) & (table["flux"] > 0)
        correction = _aperture_correction(
            x, y, flux, np.asarray(table["flux"]), np.asarray(table["flux_error"]), is_star, frame.shape
        )
    flux, error = flux * correction, error * correction
    for name, values in (
        ("flux_psf", flux),
        ("flux_psf_error", error),
        ("x_psf", x),
        ("y_psf", y),
        ("chi2", chi2),
    ):
        table[name] = np.where(is_measured, values, np.nan)
    decision: dict[str, Decision] = {
        "n_sources": len(x),
        "n_measured": int(is_measured.sum()),
        "n_blended": int((np.bincount(labels)[labels] > 1).sum()) if len(labels) else 0,
        "chi2": round(float(np.nanmedian(chi2)), 4),
        "aperture_correction": round(float(np.median(correction)), 5),
    }
    return frame.after("psf_photometry", started, decision, sources=table)


# ---- the model ----


def _psf_stars(frame: Frame, half: int, config: PsfFit) -> Rows:
    table = frame.sources
    assert table is not None
    ny, nx = frame.shape
    x, y = np.asarray(table["x"]), np.asarray(table["y"])
    inside = (x > half + 1) & (x < nx - half - 2) & (y > half + 1) & (y < ny - half - 2)
    rows = np.flatnonzero(np.asarray(table["is_psf_star"]) & inside)
    return rows[np.argsort(-np.asarray(table["flux_auto"])[rows])][: config.max_stars]


def _cut_stamps(frame: Frame, rows: Rows, half: int, fwhm: float) -> _Stamps:
    """The stars' pixels; those near another source do not count."""
    table = frame.sources
    assert table is not None
    x, y = np.asarray(table["x"], float), np.asarray(table["y"], float)
    i, j = np.rint(y[rows]).astype(int), np.rint(x[rows]).astype(int)
    side = np.arange(-half, half + 1)
    box = (i[:, None, None] + side[:, None], j[:, None, None] + side)
    assert frame.background is not None
    values = (frame.data[box] - frame.background[box]).astype(float)
    good = ((frame.mask[box] & int(UNUSABLE)) == 0) & np.isfinite(values)
    values[~good] = 0.0
    sky_variance = np.median(frame.variance[box] - values, axis=(1, 2))
    tree = cKDTree(np.stack([x, y], axis=1))
    reach = half * np.sqrt(2.0) + 1.5 * fwhm
    for k, near in enumerate(tree.query_ball_point(np.stack([x[rows], y[rows]], axis=1), reach)):
        for other in near:
            if other != rows[k]:
                distance2 = np.square(box[0][k] - y[other]) + np.square(box[1][k] - x[other])
                good[k] &= distance2 > np.square(1.5 * fwhm)
    return _Stamps(values, np.maximum(sky_variance, 1e-6), good, x[rows], y[rows])


@dataclass(frozen=True)
class _Model:
    """A PSF being fitted: the model and what it is made of."""

    psf: Psf
    guess: Floats  # (size, size), sum oversampling²
    white: Floats  # (n_terms, size, size): the deviation from the guess before smoothing
    fwhm: float

    def raised(self, degree: int) -> _Model:
        """The same PSF as a polynomial of a higher degree. Legendre terms are nested: new ones are zero."""
        white = np.zeros((len(exponents(degree)), *self.guess.shape))
        white[: len(self.white)] = self.white
        images = np.zeros_like(white)
        images[: len(self.psf.images)] = self.psf.images
        return replace(self, psf=replace(self.psf, images=images, degree=degree), white=white)


def _constant_model(stamps: _Stamps, oversampling: int, fwhm: float, shape: tuple[int, int]) -> _Model:
    half = stamps.values.shape[1] // 2
    # one pixel more than the stamps, so that a source off the middle of its pixel is covered
    size = 2 * (half + 1) * oversampling + 1
    brightest = stamps.select(np.arange(min(60, len(stamps.x))))
    guess = _first_guess(brightest, size, oversampling, fwhm)
    return _Model(Psf(guess[None], 0, oversampling, shape), guess, np.zeros((1, size, size)), fwhm)


def _fit(stamps: _Stamps, model: _Model, *, n_rounds: int) -> _Model:
    """Fluxes and places of the stars, then least squares for the samples, ``n_rounds`` times."""
    x, y, good = stamps.x, stamps.y, stamps.good
    is_first_guess = not model.white.any()
    for _ in range(n_rounds):
        x, y, flux, expected = _refine(model.psf, stamps, x, y, good)
        bright = flux > 0
        noise2 = stamps.sky_variance[:, None, None] + np.maximum(expected, 0.0)
        noise2 += np.square(_MODEL_ERROR * expected)
        if not is_first_guess:  # which is no ground to reject pixels on
            good = stamps.good & (np.abs(stamps.values - expected) < 5.0 * np.sqrt(noise2))
        weight = good * bright[:, None, None] * np.square(flux)[:, None, None] / noise2
        target = stamps.values / np.where(bright, flux, 1.0)[:, None, None]
        model = _solve(model, x, y, target, weight)
        is_first_guess = False
    return model


def _solve(model: _Model, x: Floats, y: Floats, target: Floats, weight: Floats) -> _Model:
    """Minimise Σ weight (target − model)² plus the deviation from a smooth profile, by conjugate gradients.

    The deviation is white noise smoothed with a Gaussian narrower than the PSF, as large as some tenths of
    the profile and 0.1 % of its peak: what the stars do not say stays smooth. Nothing in an image that went
    through the PSF is sharper than it. Begins at the deviation of ``model``. float32 inside: this is where
    the time goes.
    """
    psf, prior = model.psf, model.guess
    half = target.shape[1] // 2
    size = psf.images.shape[1]
    to_rows = _interpolation(psf, y, half).astype(np.float32)
    to_columns = _interpolation(psf, x, half).astype(np.float32)
    rows_t, columns_t = to_rows.transpose(0, 2, 1), to_columns.transpose(0, 2, 1)
    u, v = unit_coordinates(x, y, psf.shape)
    basis = legendre_terms(u, v, psf.degree).astype(np.float32)
    n_terms = basis.shape[1]
    relative = np.full((n_terms, 1, 1), _VARIATION_PRIOR)
    relative[0] = _IMAGE_PRIOR
    allowed = (relative * (prior + 1e-3 * prior.max())).astype(np.float32)
    sigma = _SMOOTHNESS * model.fwhm * psf.oversampling / np.sqrt(8.0 * np.log(2.0))
    smooth = _smoothing_matrix(size, sigma).astype(np.float32)
    weight = weight.astype(np.float32)

    def deviation(white: NDArray[Any]) -> NDArray[Any]:
        images = white.reshape(n_terms, size, size).astype(np.float32)
        return np.asarray(allowed * np.matmul(np.matmul(smooth, images), smooth))

    def forward(images: NDArray[Any]) -> NDArray[Any]:
        local = (basis @ images.reshape(n_terms, -1)).reshape(len(x), size, size)
        return np.matmul(np.matmul(to_rows, local), columns_t)

    def adjoint(stamps: NDArray[Any]) -> NDArray[Any]:
        local = np.matmul(np.matmul(rows_t, stamps), to_columns)
        images = (basis.T @ local.reshape(len(x), -1)).reshape(n_terms, size, size)
        return np.ravel(np.matmul(np.matmul(smooth, allowed * images), smooth))

    def normal(white: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(white.ravel() + adjoint(weight * forward(deviation(white))))

    start = np.zeros((n_terms, size, size), np.float32)
    start[0] = prior
    right = adjoint(weight * (target.astype(np.float32) - forward(start))).astype(float)
    operator = LinearOperator((right.size, right.size), matvec=normal, dtype=float)
    white, _ = cg(operator, right, x0=model.white.ravel(), rtol=3e-3, maxiter=60)
    solution = (start + deviation(white)).reshape(n_terms, -1)
    images = (_legendre_to_powers(psf.degree) @ solution).reshape(n_terms, size, size)
    white = np.asarray(white, dtype=float).reshape(n_terms, size, size)
    return replace(model, psf=replace(psf, images=images), white=white)


def _smoothing_matrix(size: int, sigma: float) -> Floats:
    """A symmetric Gaussian along one axis that leaves the variance of white noise as it is."""
    distance = np.subtract.outer(np.arange(size), np.arange(size)) / max(sigma, 1e-3)
    matrix = np.exp(-0.5 * np.square(distance))
    return np.asarray(matrix / np.sqrt(np.square(matrix[size // 2]).sum()))


def _refine(
    psf: Psf, stamps: _Stamps, x: Floats, y: Floats, good: NDArray[np.bool_]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Fluxes and places of single stars under a model; returns x, y, flux and the model's stamps."""
    half = stamps.values.shape[1] // 2
    x, y = x.copy(), y.copy()
    model = np.maximum(stamps.values, 0.0)
    for _ in range(3):
        value, by_x, by_y = psf_stamps(psf, x, y, half, derivatives=True)
        weight = good / (stamps.sky_variance[:, None, None] + model + np.square(_MODEL_ERROR * model))
        design = np.stack([value, by_x, by_y], axis=1).reshape(len(x), 3, -1)
        flat = weight.reshape(len(x), 1, -1)
        matrix = np.matmul(design * flat, design.transpose(0, 2, 1))
        right = np.matmul(design * flat, stamps.values.reshape(len(x), -1, 1))[..., 0]
        matrix += 1e-12 * np.trace(matrix, axis1=1, axis2=2)[:, None, None] * np.eye(3)
        flux, flux_x, flux_y = np.linalg.solve(matrix, right[..., None])[..., 0].T
        safe = np.where(flux > 0, flux, np.inf)
        # the middle pixel of a stamp stays the one nearest to its star
        x = _inside_pixel(x + np.clip(flux_x / safe, -0.3, 0.3), stamps.x)
        y = _inside_pixel(y + np.clip(flux_y / safe, -0.3, 0.3), stamps.y)
        value, _, _ = psf_stamps(psf, x, y, half)
        model = np.maximum(flux, 0.0)[:, None, None] * value
        model = np.maximum(model, 0.0)
    return x, y, flux, model


def _inside_pixel(moved: Floats, origin: Floats) -> Floats:
    return np.clip(moved, np.rint(origin) - 0.499, np.rint(origin) + 0.499)


def _held_out_scatter(
    stamps: _Stamps, total: Floats, highest: int, oversampling: int, fwhm: float, shape: tuple[int, int]
) -> dict[int, float]:
    """For each degree, the robust scatter of PSF fluxes over aperture fluxes, of stars it was not fitted to.

    That is what the model is for. The fluxes are those that faint sources will have, whose pixels weigh
    alike: weighted by its own photons, a bright star has its flux from any PSF. The chi-square of the same
    stars' pixels decided before: of 10 frames with 25 stars it took a constant PSF 7 times, where fluxes
    were uncertain by 2 % and with degree 2 by 0.6 %.
    As many parts are held out in turn as give some tens of stars; in order of brightness, all are alike.
    """
    n = len(total)
    if highest == 0:
        return {0: 0.0}
    flux = np.full((highest + 1, n), np.nan)
    n_parts = int(np.clip(np.ceil(_N_PARTS * _N_JUDGES / n), 1, _N_PARTS))
    for part in range(n_parts):
        is_held = np.arange(n) % _N_PARTS == part
        train, held = stamps.select(np.flatnonzero(~is_held)), stamps.select(np.flatnonzero(is_held))
        model = _fit(train, _constant_model(train, oversampling, fwhm, shape), n_rounds=2)
        for degree in range(highest + 1):
            if degree:
                model = _fit(train, model.raised(degree), n_rounds=1)
            flux[degree, is_held] = _faint_fluxes(model.psf, held, fwhm)
    ratio = flux / np.where(total > 0, total, np.nan)
    scatter = {}
    for degree, row in enumerate(ratio):
        known = row[np.isfinite(row)]
        middle = np.median(known) if known.size else np.nan
        scatter[degree] = float(1.4826 * np.median(np.abs(known / middle - 1.0))) if middle > 0 else np.inf
    return scatter


def _faint_fluxes(psf: Psf, stamps: _Stamps, fwhm: float) -> Floats:
    """Fluxes of single stars as if they were faint: all pixels within 1.5 FWHM weigh alike."""
    x, y, _, _ = _refine(psf, stamps, stamps.x, stamps.y, stamps.good)
    half = stamps.values.shape[1] // 2
    core = min(half, round(1.5 * fwhm))
    inner = np.s_[:, half - core : half + core + 1, half - core : half + core + 1]
    value = psf_stamps(psf, x, y, half)[0][inner] * stamps.good[inner]
    return np.asarray((value * stamps.values[inner]).sum(axis=(1, 2)) / np.square(value).sum(axis=(1, 2)))


def _moffat(size: int, oversampling: int, fwhm: float, beta: float) -> Floats:
    """A round Moffat profile, sum oversampling²."""
    side = (np.arange(size) - size // 2) / oversampling
    alpha2 = fwhm**2 / (4.0 * (2.0 ** (1.0 / beta) - 1.0))
    profile = (1.0 + (side[:, None] ** 2 + side**2) / alpha2) ** -beta
    return np.asarray(profile * (oversampling**2 / profile.sum()))


def _first_guess(stamps: _Stamps, size: int, oversampling: int, fwhm: float) -> Floats:
    """The round Moffat profile that the stars have on average: the model before its samples are free."""
    half = stamps.values.shape[1] // 2
    side = np.arange(-half, half + 1)
    dy = (side + np.rint(stamps.y)[:, None] - stamps.y[:, None])[:, :, None]
    dx = (side + np.rint(stamps.x)[:, None] - stamps.x[:, None])[:, None, :]
    r2 = np.square(dx) + np.square(dy)
    core = np.sum(stamps.values * stamps.good * (r2 < fwhm**2), axis=(1, 2))
    bright = core > 0
    values = (stamps.values / np.where(bright, core, 1.0)[:, None, None])[bright]
    noise = np.sqrt(stamps.sky_variance[bright, None, None] + np.maximum(stamps.values[bright], 0.0))
    noise = np.hypot(noise / core[bright, None, None], 0.02 * np.maximum(values, 0.0))
    scale = stamps.good[bright] / noise
    r2 = r2[bright]

    def misfit(p: Floats) -> Floats:
        alpha2 = p[1] ** 2 / (4.0 * (2.0 ** (1.0 / p[2]) - 1.0))
        return np.ravel(scale * (values - p[0] * (1.0 + r2 / alpha2) ** -p[2]))

    fit = least_squares(
        misfit,
        [1.0 / (1.1 * fwhm**2), fwhm, 3.0],
        bounds=([0.0, 0.3 * fwhm, 1.5], [np.inf, 3.0 * fwhm, 20.0]),
        x_scale=[1.0 / fwhm**2, fwhm, 3.0],
        loss="soft_l1",
        max_nfev=30,
    )
    return _moffat(size, oversampling, float(fit.x[1]), float(fit.x[2]))


def _legendre_to_powers(degree: int) -> Floats:
    """The matrix that turns coefficients of Legendre products into those of u^i v^j, (n_terms, n_terms)."""
    terms = exponents(degree)
    matrix = np.zeros((len(terms), len(terms)))
    for column, (i, j) in enumerate(terms):
        in_u = legendre.leg2poly(np.eye(i + 1)[i])
        in_v = legendre.leg2poly(np.eye(j + 1)[j])
        for row, (m, n) in enumerate(terms):
            if m < len(in_u) and n < len(in_v):
                matrix[row, column] = in_u[m] * in_v[n]
    return matrix


def _local_images(psf: Psf, x: Floats, y: Floats) -> Floats:
    """The model at each place, (n, size, size), sum oversampling²."""
    u, v = unit_coordinates(x, y, psf.shape)
    powers = np.stack([u**i * v**j for i, j in exponents(psf.degree)], axis=1)
    size = psf.images.shape[1]
    images = (powers @ psf.images.reshape(len(psf.images), -1)).reshape(len(powers), size, size)
    return np.asarray(images * (psf.oversampling**2 / images.sum(axis=(1, 2)))[:, None, None])


def _interpolation(psf: Psf, centre: Floats, half: int, *, slope: bool = False) -> Floats:
    """Matrices (n, 2·half + 1, size) from samples to pixels along an axis, or their slope by the centre."""
    size = psf.images.shape[1]
    pixels = np.rint(centre)[:, None] + np.arange(-half, half + 1) - np.asarray(centre)[:, None]
    at = pixels * psf.oversampling + size // 2
    distance = at[:, :, None] - np.arange(size)
    if slope:
        return -psf.oversampling * _keys_slope(distance)
    return _keys(distance)


def _keys(t: Floats) -> Floats:
    """Keys' cubic convolution kernel, a = −1/2."""
    s = np.abs(t)
    near = (1.5 * s - 2.5) * s * s + 1.0
    far = ((-0.5 * s + 2.5) * s - 4.0) * s + 2.0
    return np.where(s < 1.0, near, np.where(s < 2.0, far, 0.0))


def _keys_slope(t: Floats) -> Floats:
    s = np.abs(t)
    near = (4.5 * s - 5.0) * s
    far = (-1.5 * s + 5.0) * s - 4.0
    return np.sign(t) * np.where(s < 1.0, near, np.where(s < 2.0, far, 0.0))


# ---- fluxes ----


def _aperture_correction(
    x: Floats, y: Floats, flux: Floats, total: Floats, total_error: Floats, is_star: NDArray[np.bool_],
    shape: tuple[int, int],
) -> Floats:  # fmt: skip
    """What PSF fluxes have to be multiplied with to be total ones on average, at each source."""
    rows = np.flatnonzero(is_star)
    if not len(rows):
        return np.ones(len(x))
    terms = quadratic(*unit_coordinates(x, y, shape))
    if len(rows) < 60:
        terms = terms[:, :1]
    ratio = total[rows] / flux[rows]
    error = np.hypot(total_error[rows] / flux[rows], 0.003)  # beyond photon noise, stars differ
    kept = np.abs(ratio - np.median(ratio)) < 0.2
    for _ in range(5):
        if kept.sum() <= terms.shape[1]:
            return np.full(len(x), float(np.median(ratio)))
        weight = kept / error
        solution = np.linalg.lstsq(terms[rows] * weight[:, None], ratio * weight, rcond=None)[0]
        pull = np.abs(ratio - terms[rows] @ solution) / error
        kept = pull < 3.0 * max(1.0, 1.4826 * float(np.median(pull[kept])))
    return np.asarray(terms @ solution)


def _groups(x: Floats, y: Floats, reach: float) -> NDArray[np.intp]:
    """A label for each source: the same for those that are linked by distances below ``reach``."""
    n = len(x)
    pairs = cKDTree(np.stack([x, y], axis=1)).query_pairs(reach, output_type="ndarray")
    graph = csr_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)


def _batches(labels: NDArray[np.intp]) -> list[Rows]:
    """Rows in batches that do not split a group."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) > 0]) if len(order) else np.zeros(0, int)
    batches: list[Rows] = []
    begin = 0
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(order)]):
        if stop - begin > _BATCH and start > begin:
            batches.append(order[begin:start])
            begin = start
    return [*batches, order[begin:]]


def _model_image(
    psf: Psf, x: Floats, y: Floats, flux: Floats, half: int, shape: tuple[int, int]
) -> NDArray[np.float32]:
    ny, nx = shape
    model = np.zeros((ny + 2 * half + 2, nx + 2 * half + 2), np.float32)  # a margin takes what falls off
    side = 2 * half + 1
    for begin in range(0, len(x), _BATCH):
        part = slice(begin, begin + _BATCH)
        values, _, _ = psf_stamps(psf, x[part], y[part], half)
        values *= np.maximum(flux[part], 0.0)[:, None, None]
        rows = np.clip(np.rint(y[part]).astype(int), 0, ny)
        columns = np.clip(np.rint(x[part]).astype(int), 0, nx)
        for i, j, value in zip(rows, columns, values.astype(np.float32)):
            model[i : i + side, j : j + side] += value
    return np.ascontiguousarray(model[half : half + ny, half : half + nx])


def _sky_variance(frame: Frame, pixels: NDArray[np.float32], x: Floats, y: Floats, half: int) -> Floats:
    """The variance at each source without its own photons: the variance less the electrons above the sky."""
    ny, nx = frame.shape
    side = np.arange(-half, half + 1, 2)
    found = np.empty(len(x))
    for begin in range(0, len(x), _BATCH):
        part = slice(begin, begin + _BATCH)
        rows = np.clip(np.rint(y[part]).astype(int)[:, None, None] + side[:, None], 0, ny - 1)
        columns = np.clip(np.rint(x[part]).astype(int)[:, None, None] + side, 0, nx - 1)
        without = frame.variance[rows, columns] - pixels[rows, columns]
        found[part] = np.nanmedian(np.where(np.isfinite(without), without, np.nan), axis=(1, 2))
    return np.maximum(np.nan_to_num(found, nan=1.0), 1e-6)


def _step(
    psf: Psf, rows: Rows, x: Floats, y: Floats, flux: Floats, x0: Floats, y0: Floats,
    residual: NDArray[np.float32], model: NDArray[np.float32], usable: NDArray[np.bool_], sky: Floats,
    radius: float, labels: NDArray[np.intp], *, with_errors: bool,
) -> tuple[Floats, Floats, Floats, Floats, Floats]:  # fmt: skip
    """One Gauss–Newton step for a batch: changes of flux, x, y; errors of the fluxes; reduced χ²."""
    ny, nx = residual.shape
    half = int(np.ceil(radius))
    n = len(rows)
    value, by_x, by_y = psf_stamps(psf, x[rows], y[rows], half, derivatives=True)
    side = np.arange(-half, half + 1)
    i = np.rint(y[rows]).astype(int)[:, None, None] + side[:, None]
    j = np.rint(x[rows]).astype(int)[:, None, None] + side
    i, j = np.broadcast_arrays(i, j)
    near = np.hypot(i - y[rows][:, None, None], j - x[rows][:, None, None]) <= radius
    inside = (i >= 0) & (i < ny) & (j >= 0) & (j < nx)
    used = near & inside
    used[used] = usable[i[used], j[used]]
    n_pixels = used.sum(axis=(1, 2))
    is_measured = n_pixels >= 6  # three parameters, and something to judge them by
    used &= is_measured[:, None, None]  # fewer would make the matrix singular
    owner = np.broadcast_to(np.arange(n)[:, None, None], used.shape)[used]
    pixel, index = np.unique(i[used].astype(np.int64) * nx + j[used], return_inverse=True)
    pi, pj = pixel // nx, pixel % nx
    # a shared pixel has the sky of one of its owners; they are neighbours
    sky_here = np.empty(len(pixel))
    sky_here[index] = sky[rows][owner]
    weight = 1.0 / (sky_here + np.maximum(model[pi, pj], 0.0))
    strength = np.maximum(flux[rows], 0.0)[owner]
    columns = [value[used], strength * by_x[used], strength * by_y[used]]
    design = coo_matrix(
        (np.concatenate(columns), (np.tile(index, 3), np.concatenate([3 * owner + k for k in range(3)]))),
        shape=(len(pixel), 3 * n),
    ).tocsr()
    weighted = design.multiply(weight[:, None]).tocsr()
    matrix = (design.T @ weighted).tocsc()
    right = weighted.T @ residual[pi, pj].astype(float)
    # The prior keeps a place from wandering to a neighbour or, for a faint source, to a peak of the noise
    prior = np.zeros(3 * n)
    prior[1::3] = prior[2::3] = 1.0 / _POSITION_PRIOR**2
    prior += 1e-12 + 1e-9 * matrix.diagonal()
    prior[0::3][~is_measured] = 1.0
    pull = np.zeros(3 * n)
    pull[1::3], pull[2::3] = x0[rows] - x[rows], y0[rows] - y[rows]
    right = right + prior * pull
    matrix = matrix + coo_matrix((prior, (np.arange(3 * n), np.arange(3 * n)))).tocsc()
    change = np.asarray(spsolve(matrix, right)).reshape(n, 3)
    change[~is_measured] = 0.0
    change[:, 1:] = np.clip(change[:, 1:], -0.5, 0.5)
    error = np.full(n, np.nan)
    pull2 = (np.square(residual[pi, pj]) * weight)[index]
    chi2 = np.bincount(owner, weights=pull2, minlength=n) / np.maximum(n_pixels - 3, 1)
    if with_errors:
        error = np.sqrt(_flux_variances(matrix.tocsr(), labels[rows]))
    error[~is_measured] = np.nan
    chi2[~is_measured] = np.nan
    return change[:, 0], change[:, 1], change[:, 2], error, chi2


def _flux_variances(matrix: csr_matrix, labels: NDArray[np.intp]) -> Floats:
    """The variance of each flux from the normal matrix: within groups of up to 60 sources with all that they
    share, beyond that as if the others were known."""
    n = len(labels)
    variance = np.empty(n)
    starts = np.flatnonzero(np.r_[True, np.diff(labels) > 0])
    for start, stop in zip(starts, np.r_[starts[1:], n]):
        blocks = [(start, stop)] if stop - start <= 60 else [(k, k + 1) for k in range(start, stop)]
        for begin, end in blocks:
            block = matrix[3 * begin : 3 * end, 3 * begin : 3 * end].toarray()
            variance[begin:end] = np.diag(np.linalg.pinv(block))[0::3]
    return np.maximum(variance, 0.0)
