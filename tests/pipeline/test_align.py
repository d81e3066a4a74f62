"""Resampling and alignment: as defined, against the truth and against reproject, refused where it must be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sep
from astropy.wcs import WCS, Sip
from scipy.ndimage import gaussian_filter
from star_field import Catalogue, Truth, field_wcs, make_frame, random_stars

from reference_pipeline.config import Align, Photometry, PsfFit, QualityCheck, Sources
from reference_pipeline.errors import SubtractionError
from reference_pipeline.frame import UNUSABLE, MaskBit
from reference_pipeline.reduce.photometry import calibrate_photometry
from reference_pipeline.reduce.psf import fit_psf, psf_photometry
from reference_pipeline.reduce.quality import assess
from reference_pipeline.reduce.sources import find_sources
from reference_pipeline.subtract.align import align
from reference_pipeline.subtract.resample import Planes, map_between, resample

SHAPE = (500, 590)
SKY = 200.0


def turned(shape, degrees=0.0, dx=0.0, dy=0.0, *, distortion=2e-8, scale=1.0):
    """A TAN-SIP WCS about one point of the sky, with a cubic distortion of some pixels in the corners."""
    wcs = field_wcs(shape, scale=scale)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    wcs.wcs.pc = [[c, -s], [s, c]]
    wcs.wcs.crpix = np.add(wcs.wcs.crpix, [dx, dy])
    if distortion:
        a, b = np.zeros((2, 4, 4))
        a[3, 0] = a[1, 2] = b[0, 3] = b[2, 1] = distortion
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
        wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    wcs.wcs.set()
    return wcs


def planes_of(data, **changes):
    data = np.asarray(data, np.float32)
    return replace(Planes(data, np.full_like(data, SKY), np.zeros(data.shape, np.uint16)), **changes)


def resampled(planes, old, new, shape, **options):
    mapping = map_between(old, new, planes.shape, shape)
    return resample(planes, mapping, shape, **options)


# ---- resampling ----


def lanczos(image, x, y):
    """The definition of resample.py at one place."""

    def weights(p):
        pixels = np.floor(p) + np.arange(-2, 4)
        w = np.sinc(p - pixels) * np.sinc((p - pixels) / 3)
        return pixels.astype(int), w / w.sum()

    columns, wx = weights(x)
    rows, wy = weights(y)
    return wy @ image[np.ix_(rows, columns)] @ wx


@pytest.mark.parametrize("tile", [64, 1024])
def test_values_are_those_of_the_definition(tile):
    rng = np.random.default_rng(1)
    old, new = turned((200, 260), 3.0, 7.3, -4.1), turned((180, 210))
    image = rng.normal(0, 1, (200, 260))
    out, _ = resampled(planes_of(image), old, new, (180, 210), tile=tile)
    for y, x in rng.integers(20, 160, (60, 2)):
        ra, dec = new.all_pix2world(x, y, 0)
        place = old.all_world2pix(ra, dec, 0)
        assert out.data[y, x] == pytest.approx(lanczos(image, *place), abs=2e-3)  # weights are tabulated


def test_the_map_is_exact_to_a_thousandth_of_a_pixel():
    """With a distortion of 30 pixels in the corners, at random places."""
    shape = (1500, 2100)
    old, new = turned(shape, 0.5, 31.7, -18.2, distortion=2e-8), turned(shape, distortion=0.0)
    mapping = map_between(old, new, shape, shape)
    rng = np.random.default_rng(2)
    x, y = rng.integers(100, 2000, 300), rng.integers(100, 1400, 300)
    exact = np.array(old.all_world2pix(*new.all_pix2world(x, y, 0), 0))
    found = np.array(mapping.places(y, x)[:2])
    inside = (exact[0] > 0) & (exact[0] < shape[1]) & (exact[1] > 0) & (exact[1] < shape[0])
    assert np.abs(exact - np.array([x, y])).max() > 15
    assert np.hypot(*(found - exact))[inside].max() < 0.001


def test_a_shift_by_whole_pixels_copies_them():
    rng = np.random.default_rng(3)
    image = rng.normal(1000, 30, (90, 110)).astype(np.float32)
    out, factor = resampled(
        planes_of(image),
        turned((90, 110), 0, 5, -3, distortion=0),
        turned((90, 110), distortion=0),
        (90, 110),
    )
    inside = (slice(10, 80), slice(10, 90))
    np.testing.assert_allclose(out.data[inside], image[7:77, 15:95], rtol=1e-5)
    assert factor == pytest.approx(1.0, abs=1e-4)
    # what the old image does not reach
    assert np.all(out.mask[:3] == MaskBit.OFF_IMAGE)
    assert np.all(out.mask[:, -5:] == MaskBit.OFF_IMAGE)
    assert np.all(out.data[:, -5:] == 0)


def test_variance_is_that_of_many_noises_and_the_factor_that_of_sums():
    rng = np.random.default_rng(4)
    old, new = turned((150, 150), 0.5, 2.4, 1.7), turned((150, 150))
    mapping = map_between(old, new, (150, 150), (150, 150))
    values = []
    for _ in range(100):
        out, factor = resample(planes_of(rng.normal(0, np.sqrt(SKY), (150, 150))), mapping, (150, 150))
        values.append(out.data[15:135, 15:135])
    values = np.array(values)
    predicted = out.variance[15:135, 15:135]
    assert np.mean(values.var(axis=0, ddof=1) / predicted) == pytest.approx(1.0, abs=0.01)
    assert predicted.mean() < 0.85 * SKY  # interpolation smooths
    sums = values.reshape(100, 6, 20, 6, 20).sum(axis=(2, 4))
    expected = predicted.reshape(6, 20, 6, 20).sum(axis=(1, 3)) * factor**2
    assert np.mean(sums.var(axis=0, ddof=1) / expected) == pytest.approx(1.0, abs=0.05)


def test_flux_is_kept_and_sky_goes_with_the_pixel_area():
    rng = np.random.default_rng(5)
    truth = random_stars(rng, (300, 300), 12, flux=(1e4, 1e5), margin=40)
    image = np.zeros((300, 300))
    for x, y, flux in zip(truth.x, truth.y, truth.flux):
        yy, xx = np.mgrid[:300, :300]
        image += flux / (2 * np.pi * 4) * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 8)
    old, new = turned((300, 300)), turned((270, 280), 20.0, scale=1.1)
    out, factor = resampled(planes_of(image + SKY, background=np.full((300, 300), SKY, np.float32)), old, new,
                       (270, 280))  # fmt: skip
    on = (out.mask == 0) & (out.background > 0)
    middle = (slice(125, 145), slice(130, 150))
    assert out.background[middle].mean() == pytest.approx(SKY * 1.21, rel=1e-3)
    assert out.variance[middle].mean() == pytest.approx(SKY * 1.21**2 / factor**2, rel=0.03)
    x, y = new.all_world2pix(*old.all_pix2world(truth.x, truth.y, 0), 0)
    well = (x > 20) & (x < 260) & (y > 20) & (y < 250)
    light = np.where(on, out.data - out.background, 0)
    flux, _, _ = sep.sum_circle(light, x[well], y[well], 11, subpix=0)
    before, _, _ = sep.sum_circle(image, truth.x[well], truth.y[well], 12.1, subpix=0)
    assert well.sum() >= 6
    np.testing.assert_allclose(flux, before, rtol=2e-3)


def test_bad_pixels_neither_ring_nor_vanish():
    """NaN, a cosmic ray and a saturated core: what is not flagged is as without them."""
    rng = np.random.default_rng(6)
    yy, xx = np.mgrid[:120, :120]
    star = 1e5 * np.exp(-((xx - 60) ** 2 + (yy - 60) ** 2) / (2 * 2.5**2))
    clean = gaussian_filter(rng.normal(0, 30, (120, 120)), 2) + 500 + star
    data, mask = clean.copy(), np.zeros((120, 120), np.uint16)
    data[30, 30], data[31, 30] = np.nan, 1e6
    mask[31, 30] = MaskBit.COSMIC_RAY
    data[90, 30:60] = -np.inf
    core = clean > 3e4
    data[core], mask[core] = 3e4, MaskBit.SATURATED
    mask[20, 90] = MaskBit.SUSPECT
    old, new = turned((120, 120), 0.5, 0.4, 0.3), turned((120, 120))
    reference, _ = resampled(planes_of(clean), old, new, (120, 120))
    out, _ = resampled(planes_of(data, mask=mask), old, new, (120, 120))
    flagged = (out.mask & int(UNUSABLE)) != 0
    assert np.isfinite(out.data).all()
    far = ~flagged & ((xx - 60) ** 2 + (yy - 60) ** 2 > 12**2)
    assert np.abs(out.data - reference.data)[far].max() < 3.0
    # beside the core the star is as bright as it was to some percent of what is cut off
    assert np.abs(out.data - reference.data)[~flagged].max() < 0.03 * 1e5
    assert out.mask[30, 30] & MaskBit.NO_DATA
    assert out.mask[31, 30] & MaskBit.COSMIC_RAY
    assert out.mask[60, 60] == MaskBit.SATURATED
    assert out.data[60, 60] == pytest.approx(3e4)
    assert 1 <= np.sum((out.mask & MaskBit.SUSPECT) != 0) <= 4
    assert flagged[5:-5, 5:-5].sum() < 6 * ((mask & int(UNUSABLE)) != 0).sum()


def test_the_tiles_do_not_show():
    rng = np.random.default_rng(7)
    mask = (rng.uniform(size=(300, 320)) < 0.01).astype(np.uint16) * np.uint16(MaskBit.BAD)
    planes = planes_of(rng.normal(0, 9, (300, 320)), mask=mask, background=rng.normal(0, 1, (300, 320)))
    old, new = turned((300, 320), 30.0, 11, 3), turned((280, 333))
    one, factor = resampled(planes, old, new, (280, 333), tile=1024)
    many, other = resampled(planes, old, new, (280, 333), tile=70)
    np.testing.assert_array_equal(one.mask, many.mask)
    for name in ("data", "variance", "background"):
        np.testing.assert_allclose(getattr(one, name), getattr(many, name), atol=1e-4, rtol=1e-5)
    assert factor == pytest.approx(other)


def test_numpy_equals_cupy():
    cupy = pytest.importorskip("cupy", reason="no cupy: the GPU's path is not tested")
    try:
        cupy.zeros(1)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no GPU: {error}")
    rng = np.random.default_rng(8)
    mask = (rng.uniform(size=(300, 320)) < 0.01).astype(np.uint16) * np.uint16(MaskBit.BAD)
    here = planes_of(rng.normal(0, 9, (300, 320)), mask=mask, background=np.ones((300, 320), np.float32))
    there = Planes(*(cupy.asarray(getattr(here, n)) for n in ("data", "variance", "mask", "background")))
    mapping = map_between(turned((300, 320), 0.5, 11, 3), turned((280, 333)), (300, 320), (280, 333))
    one, factor = resample(here, mapping, (280, 333))
    two, other = resample(there, mapping, (280, 333))
    assert isinstance(two.data, cupy.ndarray)
    assert factor == pytest.approx(other, rel=1e-5)
    np.testing.assert_array_equal(one.mask, two.mask.get())
    for name in ("data", "variance", "background"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name).get(), atol=1e-4, rtol=1e-5)


def test_reproject_agrees():
    """Flux of stars and sky noise against reproject's bicubic and its flux-conserving adaptive resampling."""
    reproject = pytest.importorskip("reproject", reason="the oracle reproject is not installed")
    rng = np.random.default_rng(9)
    old, new = turned((256, 256), 0.5, 6.3, -4.6), turned((256, 256))
    truth = random_stars(rng, (256, 256), 25, flux=(2e4, 1e5), margin=30)
    frame = make_frame(rng, truth, (256, 256), fwhm=3.5)
    data = frame.data - np.float32(SKY)
    out, _ = resampled(planes_of(data), old, new, (256, 256))
    cubic, _ = reproject.reproject_interp((data, old), new, (256, 256), order="bicubic")
    adaptive, _ = reproject.reproject_adaptive(
        (data, old), new, (256, 256), conserve_flux=True, kernel="gaussian"
    )
    on = (out.mask == 0) & np.isfinite(cubic) & np.isfinite(adaptive)
    x, y = new.all_world2pix(*old.all_pix2world(truth.x, truth.y, 0), 0)
    ours, its, adapted = (
        sep.sum_circle(np.where(on, image, 0).astype(np.float32), x, y, 7, subpix=0)[0]
        for image in (out.data, cubic, adaptive)
    )
    inside = (x > 12) & (x < 243) & (y > 12) & (y < 243)
    np.testing.assert_allclose(ours[inside], its[inside], rtol=4e-3)
    assert np.median(ours[inside] / adapted[inside]) == pytest.approx(1.0, abs=5e-3)
    empty = on & (gaussian_filter(np.abs(data), 3) < 20)
    spread = [1.4826 * np.median(np.abs(image[empty])) for image in (out.data, cubic)]
    # Lanczos-3 is sharper than a cubic spline's neighbour by some percent of the noise
    assert 0.98 < spread[0] / spread[1] < 1.1
    assert spread[0] < 1.4826 * np.median(np.abs(data[gaussian_filter(np.abs(data), 3) < 20]))


# ---- alignment ----


@pytest.fixture(scope="module")
def sky():
    rng = np.random.default_rng(11)
    stars = random_stars(rng, (SHAPE[0] + 160, SHAPE[1] + 160), 420, flux=(3000.0, 3e5))
    ra, dec = turned(SHAPE).all_pix2world(stars.x - 80, stars.y - 80, 0)
    return ra, dec, stars.flux


def observe(sky, seed, wcs, name, *, shape=SHAPE, fwhm=3.3, varying=0.0, band="r"):
    """A calibrated frame of the stars of ``sky``, through the stages of reduce/."""
    ra, dec, flux = sky
    x, y = wcs.all_world2pix(ra, dec, 0)
    near = (x > -20) & (x < shape[1] + 20) & (y > -20) & (y < shape[0] + 20)
    truth = Truth(x[near], y[near], flux[near])
    frame = make_frame(np.random.default_rng(seed), truth, shape, fwhm=fwhm, varying=varying, band=band)
    frame = find_sources(replace(frame, wcs=wcs, exposure=replace(frame.exposure, id=name)), config=Sources())
    frame = calibrate_photometry(frame, Catalogue(frame, truth, 25.0), config=Photometry(reference_band="r"))
    return fit_psf(assess(frame, config=QualityCheck()), config=PsfFit())


@pytest.fixture(scope="module")
def template(sky):
    return observe(sky, 12, turned(SHAPE), "template")


@pytest.fixture(scope="module")
def science(sky):
    return observe(sky, 13, turned((540, 560), 0.5, 14.3, -9.6), "science", shape=(540, 560), varying=0.25)


@pytest.fixture(scope="module")
def aligned(science, template):
    return align(science, template, config=Align())


def test_stars_of_the_aligned_frame_lie_on_the_template_s(aligned, template):
    step = aligned.steps[-1]
    assert step.name == "align"
    assert abs(step.decision["dx"]) < 0.05
    assert abs(step.decision["dy"]) < 0.05
    assert max(step.decision["scatter_x"], step.decision["scatter_y"]) < 0.2
    assert step.decision["n_stars"] > 60
    assert step.decision["overlap"] == pytest.approx(0.94, abs=0.05)
    assert aligned.shape == template.shape == aligned.variance.shape == aligned.background.shape
    assert aligned.wcs is template.wcs


def test_the_table_goes_with_the_pixels(aligned, science):
    """Found again on the aligned image, the sources are where, and as wide as, the table says."""
    again = find_sources(aligned, config=Sources()).sources
    table = aligned.sources
    assert 0.8 * len(science.sources) < len(table) <= len(science.sources)
    stars = table[np.asarray(table["is_calibration"]) & (table["snr"] > 50)]
    apart = np.hypot(*(np.asarray(stars[c])[:, None] - np.asarray(again[c]) for c in "xy"))
    nearest = apart.argmin(axis=1)
    assert np.median(apart.min(axis=1)) < 0.05
    assert np.median(again["fwhm"][nearest] / stars["fwhm"]) == pytest.approx(1.0, abs=0.02)
    ra, dec = aligned.wcs.all_pix2world(stars["x"], stars["y"], 0)
    assert np.abs(ra - stars["ra"]).max() < 1e-6
    assert np.abs(dec - stars["dec"]).max() < 1e-6


def test_axes_turn_with_the_grid(sky, template):
    """On a frame turned by 40 degrees, a source's long axis points to the same place of the sky."""
    science = observe(sky, 16, turned(SHAPE, 40.0, 3.0, 2.0), "science")
    table = science.sources.copy()
    table["theta"] = np.linspace(-1.5, 1.5, len(table))
    aligned = align(replace(science, sources=table), template, config=Align())
    moved_on = {(r, d): k for k, (r, d) in enumerate(zip(table["ra"], table["dec"]))}
    before = table[[moved_on[r, d] for r, d in zip(aligned.sources["ra"], aligned.sources["dec"])]]
    tip = [before[c] + 3 * f(before["theta"]) for c, f in (("x", np.cos), ("y", np.sin))]
    x, y = aligned.wcs.all_world2pix(*science.wcs.all_pix2world(*tip, 0), 0)
    expected = np.arctan2(y - aligned.sources["y"], x - aligned.sources["x"])
    found = np.asarray(aligned.sources["theta"])
    assert len(found) > 100
    assert np.abs(np.sin(found - expected)).max() < 1e-3  # axes, not arrows
    assert np.all(np.abs(found) <= np.pi / 2)
    assert np.median(np.abs(np.sin(found - before["theta"]))) > 0.5


def psf_fluxes(frame):
    """Fluxes with the frame's PSF, not scaled to those of apertures."""
    table = frame.sources.copy()
    table.remove_column("flux")
    return psf_photometry(replace(frame, sources=table), config=PsfFit()).sources


@pytest.mark.parametrize(
    ("fwhm", "degrees", "varying", "worse"),
    [(3.3, 0.5, 0.2, 1.05), (2.0, 0.5, 0.0, 1.4), (2.3, 0.0, 0.0, 1.05)],
)
def test_the_psf_fits_the_aligned_frame(sky, template, fwhm, degrees, varying, worse):
    """Fluxes to 0.3 %; without a rotation the phase between pixels is the same all over."""
    science = observe(sky, 14, turned(SHAPE, degrees, 4.37, -2.71), "science", fwhm=fwhm, varying=varying)
    aligned = align(science, template, config=Align())
    before, after = psf_fluxes(science), psf_fluxes(aligned)
    row = {(r, d): k for k, (r, d) in enumerate(zip(before["ra"], before["dec"]))}
    before = before[[row[r, d] for r, d in zip(after["ra"], after["dec"])]]
    used = np.asarray(after["is_calibration"]) & (after["snr"] > 60) & np.isfinite(after["flux_psf"])
    ratio = np.asarray(after["flux_psf"] / before["flux_psf"])[used]
    assert used.sum() > 15
    assert np.median(ratio) == pytest.approx(1.0, abs=0.003)
    assert 1.4826 * np.median(np.abs(ratio - np.median(ratio))) < 0.004
    # a PSF that does not fit shows in the residuals; at 2 pixels they differ with the place in the pixel
    assert np.median(after["chi2"][used]) < worse * np.median(before["chi2"][used])


def test_magnitudes_stay(sky, science, template):
    spatial = (0.01, 0.12, -0.09, 0.02, -0.05, 0.06)
    tilted = replace(science, zero_point=replace(science.zero_point, spatial=spatial))
    aligned = align(tilted, template, config=Align())
    x, y = np.array([50.0, 300.0, 540.0]), np.array([60.0, 440.0, 250.0])
    old = tilted.wcs.all_world2pix(*aligned.wcs.all_pix2world(x, y, 0), 0)
    expected = tilted.zero_point.offset(*old, tilted.shape)
    np.testing.assert_allclose(aligned.zero_point.offset(x, y, aligned.shape), expected, atol=1e-3)
    assert np.ptp(expected) > 0.05


def test_a_frame_on_the_grid_is_not_resampled(sky, template):
    """Its WCS written otherwise, the same to a thousandth of a pixel."""
    wcs = WCS(template.wcs.to_header(relax=True))
    science = observe(sky, 15, wcs, "science")
    aligned = align(science, template, config=Align())
    assert aligned.data is science.data
    assert aligned.steps[-1].decision["resampled"] is False
    assert aligned.steps[-1].decision["n_stars"] > 60


def refused(science, template, **settings):
    with pytest.raises(SubtractionError) as caught:
        align(science, template, config=Align(**settings))
    assert caught.value.stage == "align"
    assert caught.value.frame_id == science.id
    return caught.value.reason


def moved(frame, *, x=0.0, y=0.0, ra=0.0, dec=0.0):
    """The frame with a wrong WCS."""
    wcs = frame.wcs.deepcopy()
    wcs.wcs.crpix = np.add(wcs.wcs.crpix, [x, y])
    wcs.wcs.crval = np.add(wcs.wcs.crval, [ra, dec])
    if wcs.sip is not None:
        wcs.sip = Sip(wcs.sip.a, wcs.sip.b, wcs.sip.ap, wcs.sip.bp, wcs.wcs.crpix)
    wcs.wcs.set()
    return replace(frame, wcs=wcs)


def test_what_cannot_be_aligned_is_refused_by_name(science, template):
    other = replace(science, exposure=replace(science.exposure, band="g"))
    assert refused(other, template) == "other-band"
    assert refused(replace(science, wcs=None), template) == "no-wcs"
    assert refused(replace(science, sources=None), template) == "no-sources"
    assert refused(moved(science, ra=0.17), template) == "other-field"  # beside it
    assert refused(moved(science, ra=170.0, dec=-50), template) == "other-field"  # the other side of the sky
    assert refused(science, template, min_overlap=0.97) == "other-field"
    assert refused(replace(science, sources=science.sources[:2]), template) == "no-stars"
    assert refused(science, template, min_stars=500) == "no-stars"
    assert refused(replace(science, mask=science.mask | np.uint16(MaskBit.BAD)), template) == "no-stars"


@pytest.mark.parametrize("error", [0.4, 2.0, 5.0, 12.0])
def test_a_wcs_that_is_off_is_refused(science, template, error):
    assert refused(moved(science, x=error), template) == "misaligned"


# ---- real frames ----

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
HATP32 = DATA / "images" / "rzellem+EXOTIC_sampledata" / "HatP32Dec202017"


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.skipif(not HATP32.is_dir(), reason="the real frames of ../shared/data are not here")
def test_real_frames_of_one_night(tmp_path):
    """Drifting by a hundred pixels, hot pixels left in, positions from Tycho-2 with 5 arcsec pixels."""
    from typer.testing import CliRunner

    from reference_pipeline.cli import app
    from reference_pipeline.products import read_product

    raw = tmp_path / "raw"
    raw.mkdir()
    for path in sorted(HATP32.iterdir())[:15:7]:
        (raw / path.name).symlink_to(path)
    arguments = [
        "reduce", raw, "-o", tmp_path / "out", "--workers", 1, "--no-psf",
        "--config", ROOT / "benchmarks" / "real_frames" / "hatp32.toml",
        "--catalogue", DATA / "catalogues" / "tycho2_hatp32.csv",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    first, *others = (read_product(p) for p in sorted((tmp_path / "out" / "calibrated").iterdir()))
    assert len(others) == 2
    for frame in others:
        decision = align(frame, first, config=Align()).steps[-1].decision
        assert 0.5 < decision["overlap"] < 0.9
        assert np.hypot(decision["dx"], decision["dy"]) < 0.12  # the astrometry's own error is 0.07
        assert max(decision["scatter_x"], decision["scatter_y"]) < 0.2
        assert decision["n_stars"] >= 15
