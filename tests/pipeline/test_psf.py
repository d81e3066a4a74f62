"""The PSF model and fluxes measured with it, against truth."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from scipy.spatial import cKDTree
from star_field import Catalogue, Truth, make_frame, moffat, random_stars

from reference_pipeline.config import Photometry, PsfFit, Sources
from reference_pipeline.errors import PhotometryError
from reference_pipeline.frame import MaskBit, unit_coordinates
from reference_pipeline.psf import Psf, exponents
from reference_pipeline.reduce.photometry import calibrate_photometry
from reference_pipeline.reduce.psf import fit_psf, psf_photometry, psf_stamps
from reference_pipeline.reduce.sources import find_sources

SHAPE = (1200, 1300)
FWHM, VARYING, ELLIPTICITY = 3.5, 0.25, 0.1


@pytest.fixture(scope="module")
def truth():
    return random_stars(np.random.default_rng(41), SHAPE, 900, flux=(1000.0, 4e5), slope=0.4)


@pytest.fixture(scope="module")
def raw(truth):
    return make_frame(
        np.random.default_rng(42), truth, SHAPE, fwhm=FWHM, varying=VARYING, ellipticity=ELLIPTICITY
    )


@pytest.fixture(scope="module")
def modelled(raw, truth):
    catalogue = Catalogue(raw, truth, 27.0, rng=np.random.default_rng(43))
    found = calibrate_photometry(find_sources(raw, config=Sources()), catalogue, config=Photometry())
    return fit_psf(found, config=PsfFit())


@pytest.fixture(scope="module")
def measured(modelled):
    return psf_photometry(modelled, config=PsfFit())


def true_stamp(x, y, half):
    """The star_field's PSF at (x, y)."""
    u, v = unit_coordinates(x, y, SHAPE)
    width = FWHM * (1.0 + 0.5 * VARYING * (u**2 + v**2))
    return moffat(x - round(x), y - round(y), width, ELLIPTICITY + 0.1 * VARYING * u, 0.6, half=half)


def matched(sources, truth):
    """Rows within a pixel of a true star that has no other within 12, and the fluxes of those."""
    tree = cKDTree(np.c_[truth.x, truth.y])
    distance, row = tree.query(np.c_[sources["x"], sources["y"]])
    alone = tree.query(np.c_[truth.x, truth.y], k=2)[0][:, 1][row] > 12
    return (distance < 1.0) & alone & np.isfinite(sources["flux_psf"]), truth.flux[row], row


def test_the_model_varies_because_the_psf_does(modelled):
    decision = modelled.steps[-1].decision
    assert modelled.psf.degree >= 2  # the true width is quadratic
    assert decision["held_out_scatter_2"] < decision["held_out_scatter_0"]


@pytest.mark.parametrize("at", [(650.3, 600.2), (200.0, 200.5), (1100.4, 250.0), (150.0, 1050.0)])
def test_the_model_is_the_true_profile_within_3_percent_of_its_peak(modelled, at):
    stamps, _, _ = psf_stamps(modelled.psf, np.array([at[0]]), np.array([at[1]]), 12)
    expected = true_stamp(*at, 12)
    assert np.abs(stamps[0] - expected).max() < 0.03 * expected.max()
    assert stamps[0].sum() == pytest.approx(expected.sum(), abs=0.005)


def test_derivatives_are_those_of_the_stamps(modelled):
    x, y, step = np.array([300.2]), np.array([400.7]), 1e-5
    _, by_x, by_y = psf_stamps(modelled.psf, x, y, 8, derivatives=True)
    for slope, dx, dy in ((by_x, step, 0.0), (by_y, 0.0, step)):
        after, _, _ = psf_stamps(modelled.psf, x + dx, y + dy, 8)
        before, _, _ = psf_stamps(modelled.psf, x - dx, y - dy, 8)
        # the model's own change over the frame is no part of it: 1e-5 per pixel
        assert np.allclose(slope, (after - before) / (2 * step), atol=5e-5)


def test_fluxes_are_unbiased_to_half_a_percent(measured, truth):
    """At S/N above 20; below that the flux at a place found by its noise is high by (S/N)^-2 and some."""
    is_match, flux, _ = matched(measured.sources, truth)
    for low, high in ((20, 60), (60, 150), (150, 1e4)):
        rows = is_match & (measured.sources["snr"] > low) & (measured.sources["snr"] <= high)
        ratio = np.asarray(measured.sources["flux_psf"])[rows] / flux[rows]
        error = 1.25 * np.std(ratio) / np.sqrt(len(ratio))
        assert len(ratio) > 40
        assert abs(np.median(ratio) - 1.0) < 0.005 + error, (low, high)


def test_fluxes_are_as_certain_as_they_say_and_more_than_apertures(measured, truth):
    is_match, flux, row = matched(measured.sources, truth)
    table = measured.sources
    faint = is_match & (table["snr"] < 60)
    pull = (table["flux_psf"] - flux)[faint] / table["flux_psf_error"][faint]
    assert 0.8 < 1.4826 * np.median(np.abs(pull)) < 1.3
    psf_spread = np.median(np.abs(table["flux_psf"] / flux - 1.0)[faint])
    aperture_spread = np.median(np.abs(table["flux"] / flux - 1.0)[faint])
    assert psf_spread < 0.9 * aperture_spread
    bright = is_match & (table["snr"] > 150)
    distance = np.hypot(table["x_psf"] - truth.x[row], table["y_psf"] - truth.y[row])[bright]
    assert np.median(distance) < 0.02
    assert 0.8 < np.median(table["chi2"][faint]) < 1.2


def test_blended_neighbours_get_their_own_flux():
    rng = np.random.default_rng(44)
    single = random_stars(rng, (700, 700), 120, flux=(2e4, 3e5), margin=20)
    angle = rng.uniform(0, 2 * np.pi, 60)
    mates = Truth(
        single.x[:60] + 7.0 * np.cos(angle), single.y[:60] + 7.0 * np.sin(angle), single.flux[:60] * 0.5
    )
    both = Truth(*(np.append(getattr(single, k), getattr(mates, k)) for k in ("x", "y", "flux")))
    frame = make_frame(rng, both, (700, 700))
    frame = find_sources(frame, config=Sources())
    frame = calibrate_photometry(frame, Catalogue(frame, both, 27.0), config=Photometry())
    table = psf_photometry(fit_psf(frame, config=PsfFit()), config=PsfFit()).sources
    distance, row = cKDTree(np.c_[table["x"], table["y"]]).query(np.c_[mates.x, mates.y])
    found = distance < 1.5
    assert found.sum() > 30
    ratio = np.asarray(table["flux_psf"])[row[found]] / mates.flux[found]
    aperture = np.asarray(table["flux"])[row[found]] / mates.flux[found]
    assert abs(np.median(ratio) - 1.0) < 0.02
    assert np.median(aperture) > 1.1  # what the mate puts into the aperture


def test_few_stars_give_a_constant_model_and_none_a_reason(modelled):
    table = modelled.sources.copy()
    rows = np.flatnonzero(table["is_psf_star"])
    table["is_psf_star"] = False
    with pytest.raises(PhotometryError, match="need 3") as caught:
        fit_psf(replace(modelled, sources=table), config=PsfFit())
    assert caught.value.reason == "too-few-psf-stars"
    near_centre = np.hypot(table["x"][rows] - 650, table["y"][rows] - 600)
    table["is_psf_star"][rows[np.argsort(near_centre)[:6]]] = True
    few = fit_psf(replace(modelled, sources=table), config=PsfFit()).psf
    assert few.degree == 0
    stamp, _, _ = psf_stamps(few, np.array([650.0]), np.array([600.0]), 12)
    expected = true_stamp(650.0, 600.0, 12)
    assert np.abs(stamp[0] - expected).max() < 0.05 * expected.max()


def test_without_a_model_there_is_no_psf_photometry(modelled):
    with pytest.raises(PhotometryError) as caught:
        psf_photometry(replace(modelled, psf=None), config=PsfFit())
    assert caught.value.reason == "no-psf"


def test_sources_on_bad_pixels_are_nan_and_do_not_harm_others(modelled):
    target = modelled.sources[np.argmax(modelled.sources["flux_auto"])]
    i, j = round(target["y"]), round(target["x"])
    mask, data = modelled.mask.copy(), modelled.data.copy()
    mask[i - 7 : i + 8, j - 7 : j + 8] |= np.uint16(MaskBit.BAD)
    data[i - 7 : i + 8, j - 7 : j + 8] = np.nan
    table = psf_photometry(replace(modelled, mask=mask, data=data), config=PsfFit()).sources
    is_nan = np.isnan(table["flux_psf"])
    assert is_nan[np.argmax(modelled.sources["flux_auto"])]
    assert is_nan.sum() < 4


def test_a_source_without_an_aperture_flux_does_not_harm_others(modelled, measured):
    table = modelled.sources.copy()
    table["flux"][7] = np.nan  # every pixel of its aperture was masked
    again = psf_photometry(replace(modelled, sources=table), config=PsfFit()).sources
    known = np.isfinite(measured.sources["flux_psf"])
    np.testing.assert_allclose(again["flux_psf"][known], measured.sources["flux_psf"][known], rtol=2e-3)


def test_the_model_is_centred_and_of_unit_flux_everywhere(modelled):
    for x, y in ((5.0, 5.0), (650.0, 600.0), (1290.0, 1190.0)):
        image = modelled.psf.at(x, y)
        assert image.sum() == pytest.approx(modelled.psf.oversampling**2)
        side = np.arange(image.shape[0]) - image.shape[0] // 2
        core = np.abs(side) <= 2 * modelled.psf.oversampling
        inner = image[np.ix_(core, core)]
        assert abs((inner * side[core]).sum() / inner.sum()) < 0.15 * modelled.psf.oversampling


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("psfex") is None or shutil.which("source-extractor") is None,
    reason="needs psfex and source-extractor",
)
def test_psfex_finds_the_same_psf(tmp_path, raw, modelled):
    fits.writeto(tmp_path / "image.fits", raw.data)
    (tmp_path / "p.param").write_text(
        "VIGNET(31,31)\nX_IMAGE\nY_IMAGE\nFLUX_RADIUS\nSNR_WIN\nFLUX_APER(1)\nFLUXERR_APER(1)\nELONGATION\nFLAGS\n"
    )
    (tmp_path / "default.conv").write_text("CONV NORM\n1 2 1\n2 4 2\n1 2 1\n")
    subprocess.run(
        ["source-extractor", "image.fits", "-c", "/dev/null", "-PARAMETERS_NAME", "p.param", "-FILTER_NAME",
         "default.conv", "-CATALOG_TYPE", "FITS_LDAC", "-CATALOG_NAME", "image.cat", "-PHOT_APERTURES", "12",
         "-DETECT_THRESH", "5", "-GAIN", "1"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(
        ["psfex", "image.cat", "-c", "/dev/null", "-PSFVAR_DEGREES", "2", "-BASIS_TYPE", "PIXEL", "-PSF_SIZE",
         "31,31", "-PSF_SAMPLING", "1.0", "-CHECKPLOT_DEV", "NULL", "-CHECKPLOT_TYPE", "NONE",
         "-CHECKIMAGE_TYPE", "NONE", "-WRITE_XML", "N", "-SAMPLE_VARIABILITY", "0.5"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    with fits.open(tmp_path / "image.psf") as file:
        header, planes = file[1].header, file[1].data["PSF_MASK"][0]
    theirs, ours = [], []
    for x, y in ((300.0, 300.0), (650.0, 600.0), (1000.0, 900.0)):
        u = (x + 1 - header["POLZERO1"]) / header["POLSCAL1"]
        v = (y + 1 - header["POLZERO2"]) / header["POLSCAL2"]
        # PSFEx orders its terms 1, u, u², v, uv, v²
        image = sum(p * t for p, t in zip(planes, (1, u, u * u, v, u * v, v * v)))
        stamp, _, _ = psf_stamps(modelled.psf, np.array([x]), np.array([y]), 15)
        theirs.append(image / image.sum())
        ours.append(stamp[0] / stamp[0].sum())
    difference = np.abs(np.array(theirs) - ours).max(axis=(1, 2)) / np.array(ours).max(axis=(1, 2))
    assert difference.max() < 0.05


def test_interpolated_stamps_of_a_known_model_hold_its_flux_at_any_phase():
    side = (np.arange(61) - 30) / 2.0
    gaussian = np.exp(-0.5 * (side[:, None] ** 2 + side**2) / 1.6**2)
    psf = Psf(gaussian[None], 0, 2, (100, 100))
    assert exponents(0) == [(0, 0)]
    x = np.array([50.0, 50.25, 50.49, 49.7])
    stamps, _, _ = psf_stamps(psf, x, np.full(4, 40.3), 12)
    assert np.allclose(stamps.sum(axis=(1, 2)), 1.0, atol=2e-4)
    pixels = np.arange(-12, 13)
    for k in range(4):
        centroid = (stamps[k].sum(axis=0) * (np.rint(x[k]) + pixels)).sum() / stamps[k].sum()
        assert centroid == pytest.approx(x[k], abs=2e-3)


def test_the_degree_is_judged_by_what_faint_fluxes_would_scatter_by():
    """A bright star has its flux from any PSF when its own photons weigh its pixels; a faint one has not."""
    rng = np.random.default_rng(48)
    side = 60.0 * (np.arange(10) + 0.5)
    x, y = (a.ravel() + rng.uniform(-5, 5, 100) for a in np.meshgrid(side, side))
    stars = Truth(x, y, np.exp(rng.uniform(*np.log([5e4, 1.5e6]), 100)))
    frame = find_sources(make_frame(rng, stars, (600, 600), fwhm=2.3, varying=0.1), config=Sources())
    frame = calibrate_photometry(frame, Catalogue(frame, stars, 27.0), config=Photometry())
    constant = fit_psf(frame, config=PsfFit(max_degree=0)).psf
    table = frame.sources[frame.sources["is_psf_star"]]
    table = table[np.minimum(table["x"], table["y"]) > 20]
    table = table[np.maximum(table["x"], table["y"]) < 580]
    images, _, _ = psf_stamps(constant, np.array(table["x"]), np.array(table["y"]), 3)
    pixels = frame.data - frame.background
    fluxes = []
    for image, j, i in zip(images, np.rint(table["x"]).astype(int), np.rint(table["y"]).astype(int)):
        around = pixels[i - 3 : i + 4, j - 3 : j + 4]
        fluxes.append((image * around).sum() / np.square(image).sum())
    ratio = np.array(fluxes) / table["flux"]
    scatter = 1.4826 * np.median(np.abs(ratio / np.median(ratio) - 1.0))
    decision = fit_psf(frame, config=PsfFit()).steps[-1].decision
    assert decision["held_out_scatter_0"] == pytest.approx(scatter, rel=0.3)
    assert decision["degree"] >= 2
