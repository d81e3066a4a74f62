"""What a stamp's pixels say is what was put into them; what simulated stamps are made of fits together."""

import numpy as np
import pytest
from scipy import ndimage

pixels = pytest.importorskip("benchmarks.realism.pixels", reason="benchmarks/ is not in the wheel")

from benchmarks.realism import simulated  # noqa: E402

SHAPE = (63, 63)


def moffat(y, x, *, flux, fwhm, beta=3.0, shape=SHAPE, fine=5):
    """A Moffat on pixels, its mean over each of them."""
    ny, nx = shape
    j, i = (np.mgrid[: fine * ny, : fine * nx] + 0.5) / fine - 0.5
    r2 = (j - y) ** 2 + (i - x) ** 2
    image = (1 + r2 * (2 ** (1 / beta) - 1) / (0.25 * fwhm**2)) ** -beta
    image = image.reshape(ny, fine, nx, fine).mean(axis=(1, 3))
    return flux * image / image.sum()


def sky(seed=1, *, level=100.0, noise=4.0):
    return np.random.default_rng(seed).normal(level, noise, SHAPE)


def test_an_even_sky_has_its_level_its_noise_and_nothing_else():
    found = [pixels.measure(sky(seed), saturation=1e5) for seed in range(20)]
    assert np.mean([p.background for p in found]) == pytest.approx(100, abs=0.1)
    assert np.mean([p.noise for p in found]) == pytest.approx(4.0, rel=0.03)
    assert np.mean([p.correlation for p in found]) == pytest.approx(0, abs=0.01)
    assert sum(p.n_peaks for p in found) == 0
    assert max(p.brightest for p in found) < 5.5


def test_the_correlation_is_that_of_the_kernel_that_smoothed_the_sky():
    white = np.random.default_rng(2).standard_normal((20, *SHAPE))
    kernel = np.array([0.08, 0.84, 0.08])
    expected = 2 * 0.08 * 0.84 / (kernel**2).sum()
    found = []
    for image in white:
        smooth = ndimage.correlate1d(ndimage.correlate1d(image, kernel, axis=0), kernel, axis=1)
        found.append(pixels.measure(100 + smooth, saturation=1e5).correlation)
    assert np.mean(found) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("fwhm", [2.0, 3.0])
def test_a_star_has_its_width_and_its_share_in_the_brightest_pixel(fwhm):
    star = moffat(12.3, 45.8, flux=8000, fwhm=fwhm)
    found = pixels.measure(sky() + star, saturation=1e5)
    assert found.n_peaks == 1
    # a Moffat is fitted to the pixels as they are: the width of the star on them, pixel included
    (width,), (sharpness,) = found.widths, found.sharpness
    assert width == pytest.approx(np.hypot(fwhm, 0.7), rel=0.06)
    assert sharpness == pytest.approx(star.max() / star[7:18, 41:52].sum(), rel=0.05)
    assert found.brightest == pytest.approx(star.max() / 4.0, rel=0.05)


def test_the_alert_in_the_middle_is_not_counted_and_its_width_is_measured():
    found = pixels.measure(sky() + moffat(31.2, 30.7, flux=8000, fwhm=2.2), saturation=1e5)
    assert (found.n_peaks, len(found.widths)) == (0, 1)
    assert found.brightest < 6


@pytest.mark.parametrize("why", ["saturated", "neighbour", "edge", "faint"])
def test_the_width_of_a_spoiled_star_is_not_measured(why):
    y, x, flux = (3, 20, 8000) if why == "edge" else (20, 20, 700 if why == "faint" else 8000)
    image = sky() + moffat(y, x, flux=flux, fwhm=2.2)
    if why == "neighbour":
        image += moffat(19, 26, flux=3000, fwhm=2.2)
    found = pixels.measure(image, saturation=1500 if why == "saturated" else 1e5)
    assert found.n_peaks == (2 if why == "neighbour" else 1)
    assert found.widths == ()


def test_a_stamp_with_a_tenth_missing_is_not_measured():
    image = sky()
    image[:, :5] = np.nan
    assert pixels.measure(image, saturation=1e5) is not None
    image[:, :8] = np.nan
    assert pixels.measure(image, saturation=1e5) is None


def test_interpolation_moves_a_star_and_keeps_its_light_and_the_sky():
    star = 50 + moffat(20.0, 30.0, flux=1000, fwhm=2.5)
    j, i = np.mgrid[: SHAPE[0], : SHAPE[1]]
    moved = simulated.interpolated(star, j + 0.4, i - 0.3)
    inside = np.isfinite(moved)
    assert inside[3:-3, 3:-3].all()
    assert not inside[-1].any()
    light = np.where(inside, moved - 50, 0)
    assert light.sum() == pytest.approx(1000, rel=0.01)
    assert (light * j).sum() / light.sum() == pytest.approx(20.0 - 0.4, abs=0.05)
    assert (light * i).sum() / light.sum() == pytest.approx(30.0 + 0.3, abs=0.05)


@pytest.mark.shared_data
def test_drawn_alerts_lie_in_the_latitudes_of_all(shared_data):
    from astropy.coordinates import SkyCoord

    from benchmarks.common import labelled_alerts
    from benchmarks.realism.__main__ import drawn, usable

    alerts = usable(labelled_alerts())
    places = [
        SkyCoord([a.record["ra"] for a in some], [a.record["dec"] for a in some], unit="deg").galactic.b.deg
        for some in (alerts, drawn(alerts, 20))
    ]
    whole, few = (np.sort(np.abs(b)) for b in places)
    assert len(few) == 20
    below = np.searchsorted(whole, few, side="right") / len(whole)
    assert np.abs(below - (np.arange(20) + 0.5) / 20).max() < 1 / 20


@pytest.mark.shared_data
@pytest.mark.slow
def test_simulated_stamps_stand_where_the_real_one_does_and_science_and_template_on_each_other(shared_data):
    from benchmarks.common import labelled_alerts
    from benchmarks.realism.__main__ import drawn, real_pixels, science_sky, usable

    alert = max(
        drawn(usable(labelled_alerts()), 20), key=lambda a: real_pixels(a, "science").n_peaks
    )  # where stars are many
    background = float(np.median(alert.alert.cutout.planes["science"]))
    made = simulated.field(alert, simulated.make_scene(alert, 1), background, science_sky(alert), [1, 2])
    assert {stamp.shape for stamp in (*made.science, *made.template)} == {SHAPE}
    gaps = []
    for science, template in zip(made.science, made.template):
        assert np.median(science) == pytest.approx(background, rel=0.1)
        assert np.nanmedian(template) == pytest.approx(background, rel=0.1)
        if np.isfinite(template).all():
            level, noise, _ = pixels.clipped_sky(science, np.isfinite(science))
            for y, x in pixels.find_peaks(science - level, 20 * noise):
                if 6 <= y < 57 and 6 <= x < 57:
                    near = template[y - 2 : y + 3, x - 2 : x + 3]
                    gaps.append(np.array(np.unravel_index(near.argmax(), (5, 5))) - 2)
    assert len(gaps) > 5
    assert np.abs(np.median(gaps, axis=0)).max() <= 1
