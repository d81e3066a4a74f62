"""The simulated chip: what it is told to be is found again in its raw frames."""

import numpy as np
import pytest

from reference_pipeline.config import load_camera
from reference_pipeline.errors import ConfigError
from reference_pipeline.simulate import chip
from reference_pipeline.simulate.cosmic_rays import ELECTRONS_PER_MICROMETRE, cosmic_rays
from reference_pipeline.simulate.detector import Detector, camera_of_size, section
from reference_pipeline.simulate.readout import ADC_MAX, bleed, collect, read_out

SHAPE = (512, 480)
CAMERA = camera_of_size(load_camera("ast3"), SHAPE)
QUIET = {"readout_faults": 0.0, "pickup": 0.0, "cosmic_ray_rate": 0.0}
CLEAN = {"hot_fraction": 0.0, "dead_fraction": 0.0, "bad_columns": 0.0}


def detector(**changes):
    return Detector(camera=CAMERA, seed=11, **changes)


def raw_frame(chip_, seed, *, electrons=None, exposure_time=0.0):
    rng = np.random.default_rng(seed)
    light = None if electrons is None else np.full(chip_.shape, electrons, np.float32)
    charge = collect(light, chip_, band="r", exposure_time=exposure_time, rng=rng)
    bleed(charge, chip_.full_well)
    return read_out(charge, chip_, rng).raw


@pytest.mark.parametrize(
    ("name", "raw", "imaging"),
    [
        ("ast3", (10748, 14304), (10654, 14206)),
        ("ztf", (3080, 3112), (3080, 3072)),
        ("lsst", (4048, 4139), (4000, 4072)),
    ],
)
def test_shipped_cameras_have_the_chips_they_are_named_after(name, raw, imaging):
    found = Detector(camera=load_camera(name))
    assert (found.raw_shape, found.shape) == (raw, imaging)


@pytest.mark.parametrize("name", ["ast3", "ztf", "lsst"])
@pytest.mark.parametrize("shape", [(1024, 1024), (64, 100), (20000, 16000)])
def test_a_chip_of_another_size_keeps_margins_and_overscan(name, shape):
    camera = load_camera(name)
    resized = camera_of_size(camera, shape)
    whole, other = Detector(camera=camera), Detector(camera=resized)
    assert other.shape == shape
    assert [a - b for a, b in zip(other.raw_shape, other.shape)] == [
        a - b for a, b in zip(whole.raw_shape, whole.shape)
    ]
    before = section(camera.overscan, whole.raw_shape)[1]
    after = section(resized.overscan, other.raw_shape)[1]
    assert after.stop - after.start == before.stop - before.start
    assert after.start - other.imaging[1].stop == before.start - whole.imaging[1].stop


def test_resizing_to_its_own_size_changes_nothing():
    camera = load_camera("ast3")
    assert camera_of_size(camera, Detector(camera=camera).shape) == camera


@pytest.mark.parametrize("text", ["[1:10]", "[0:10,1:10]", "[5:4,1:10]", "[1:11,1:10]", "1:10,1:10"])
def test_a_section_that_is_not_in_the_array_is_refused(text):
    with pytest.raises(ConfigError, match="section"):
        section(text, (10, 10))


def test_read_noise_is_that_of_the_camera():
    chip_ = detector(**QUIET)
    a, b = (raw_frame(chip_, seed)[chip_.imaging].astype(float) for seed in (1, 2))
    per_line = (a - b) - np.median(a - b, axis=1, keepdims=True)  # the levels of lines drift
    noise = per_line[np.abs(per_line) < 50].std() / np.sqrt(2) * CAMERA.gain
    expected = np.hypot(CAMERA.read_noise, CAMERA.gain * np.sqrt(1 / 12))  # and that of digitisation
    assert noise == pytest.approx(expected, rel=0.02)


def test_photon_transfer_gives_the_gain_and_the_read_noise():
    """variance/2 of the difference of two flats = mean/gain + (read noise/gain)² (Janesick 2001)."""
    chip_ = detector(**QUIET, **CLEAN, bias_line_drift=0.0, bias_frame_drift=0.0)
    means, variances = [], []
    for electrons in (0.0, 2000.0, 8000.0, 20000.0, 40000.0):
        frames = [raw_frame(chip_, [int(electrons), i], electrons=electrons) for i in range(2)]
        a, b = (f[chip_.imaging].astype(float) for f in frames)
        middle = np.s_[150:350, 140:340]
        means.append(0.5 * (a + b)[middle].mean() - chip_.bias_level)
        variances.append(0.5 * (a - b)[middle].var())
    slope, offset = np.polyfit(means, variances, 1, w=1 / np.array(variances))
    assert 1 / slope == pytest.approx(CAMERA.gain, rel=0.02)  # 40 000 pixels: 0.7 % on a variance
    assert np.sqrt(offset - 1 / 12) * CAMERA.gain == pytest.approx(CAMERA.read_noise, rel=0.05)


def test_the_overscan_median_of_a_line_is_the_bias_of_that_line():
    chip_ = detector(**QUIET, bias_line_drift=6.0, bias_column_noise=0.0, bias_ramp=0.0, glow=0.0, **CLEAN)
    raw = raw_frame(chip_, 5).astype(float)
    overscan = section(CAMERA.overscan, chip_.raw_shape)[1]
    n = overscan.stop - overscan.start
    level = np.median(raw[chip_.imaging[0], overscan], axis=1)
    truth = raw[chip_.imaging].mean(axis=1)
    error = 1.2533 * CAMERA.read_noise / CAMERA.gain / np.sqrt(n)  # of a median of n
    assert (level - truth).std() == pytest.approx(error, rel=0.25)
    assert np.ptp(truth) > 10 * error  # the lines do differ: one median for all would not do


def test_the_average_of_biases_shows_the_fixed_structure():
    chip_ = detector(**QUIET)
    rows, columns = chip_.imaging
    overscan = section(CAMERA.overscan, chip_.raw_shape)[1]
    stack = np.zeros(chip_.raw_shape)
    for seed in range(16):
        raw = raw_frame(chip_, seed).astype(float)
        stack += (raw - np.median(raw[:, overscan], axis=1, keepdims=True)) / 16
    fixed = chip.bias_structure(chip_, slice(0, chip_.raw_shape[0]))
    by_column = stack[rows, columns].mean(axis=0), fixed[rows, columns].mean(axis=0)
    assert np.corrcoef(*by_column)[0, 1] > 0.99
    assert not fixed[:, overscan].any()


def test_bleeding_conserves_charge_and_fills_the_column_alone():
    charge = np.full((200, 9), 100.0, np.float32)
    charge[100, 4] = 5e5
    charge[103, 4] = 9e4  # in the way
    before = charge.sum(dtype=float)
    touched = bleed(charge, 1e5)
    assert charge.sum(dtype=float) == pytest.approx(before, rel=1e-6)
    assert charge.max() <= 1e5
    assert not touched[:, :4].any()
    assert not touched[:, 5:].any()
    assert (touched == (charge != 100.0)).all()
    assert touched[98:103, 4].all()


def test_charge_that_reaches_the_edge_is_lost():
    charge = np.zeros((50, 1), np.float32)
    charge[25] = 1e7
    bleed(charge, 1e5)
    assert (charge == 1e5).all()


def test_bleeding_does_not_depend_on_other_columns():
    rng = np.random.default_rng(3)
    charge = rng.uniform(0, 1.2e5, (120, 1200)).astype(np.float32)  # more columns than one strip
    one_by_one = np.concatenate([charge[:, i : i + 1].copy() for i in range(0, 1200, 100)], axis=1)
    bleed(charge, 1e5)
    for i in range(12):
        column = one_by_one[:, i : i + 1].copy()
        bleed(column, 1e5)
        assert (column[:, 0] == charge[:, 100 * i]).all()


def test_numbers_stop_at_sixteen_bits():
    chip_ = detector(**CLEAN, full_well=1e6)
    raw = raw_frame(chip_, 1, electrons=5e5)
    assert (raw[chip_.imaging] == ADC_MAX).mean() > 0.99


def test_a_flat_divided_by_its_median_is_the_response():
    chip_ = detector(**QUIET, **CLEAN, bias_line_drift=0.0, bias_frame_drift=0.0)
    n, electrons = 12, 60_000.0
    bias = chip_.bias_level + chip.bias_structure(chip_, slice(0, chip_.raw_shape[0]))
    flat = sum(raw_frame(chip_, i, electrons=electrons) - bias for i in range(n))[chip_.imaging]
    ratio = flat / np.median(flat) / chip.response(chip_, "r", slice(0, SHAPE[0]))
    assert np.median(ratio) == pytest.approx(1, abs=5e-4)
    assert ratio.std() == pytest.approx(1 / np.sqrt(n * electrons), rel=0.1)  # shot noise, nothing else


def test_vignetting_and_dust_are_in_the_response():
    chip_ = detector(pixel_response=0.0, **CLEAN, n_dust=1, dust_depth=(0.05, 0.05), illumination_tilt=0.0)
    flat = chip.response(chip_, "r", slice(0, SHAPE[0]))
    without = chip.response(chip_.model_copy(update={"n_dust": 0}), "r", slice(0, SHAPE[0]))
    assert without[0, 0] / without[256, 240] == pytest.approx(1 - chip_.vignetting, abs=1e-3)
    assert (flat / without).min() == pytest.approx(0.95, abs=5e-3)
    assert (flat / without).max() <= 1.0001


def test_a_strip_is_the_same_however_the_chip_is_cut():
    chip_ = detector(hot_fraction=1e-3, dead_fraction=1e-3, bad_columns=0.05)
    whole = chip.response(chip_, "g", slice(0, SHAPE[0]))
    dark = chip.dark_rate(chip_, slice(0, SHAPE[0]))
    for rows in (slice(0, 100), slice(100, 389), slice(389, 512)):
        assert (chip.response(chip_, "g", rows) == whole[rows]).all()
        assert (chip.dark_rate(chip_, rows) == dark[rows]).all()


def test_bands_and_chips_have_their_own_response():
    a, b = (chip.response(detector(), band, slice(0, 64)) for band in "gr")
    other = chip.response(detector().model_copy(update={"seed": 12}), "g", slice(0, 64))
    assert np.abs(a / b - 1).max() > 1e-3
    assert np.corrcoef(a.ravel(), other.ravel())[0, 1] < 0.9


def test_the_mask_of_defects_holds_every_pixel_that_answers_otherwise():
    chip_ = detector(
        hot_fraction=1e-3, hot_rate=1000.0, dead_fraction=1e-3, bad_columns=0.02, pixel_response=0
    )
    bad = chip.defects(chip_).mask(SHAPE)
    good = detector(pixel_response=0, **CLEAN)
    everything = slice(0, SHAPE[0])
    differs = chip.response(chip_, "r", everything) != chip.response(good, "r", everything)
    differs |= chip.dark_rate(chip_, everything) != chip.dark_rate(good, everything)
    leak = np.zeros(SHAPE, np.float32)
    chip.leaked_charge(chip_, everything, leak)
    differs |= leak > 0
    assert differs.sum() > 500
    assert (bad == differs).all()


def test_the_dark_current_is_that_of_the_camera():
    chip_ = detector(**QUIET, **CLEAN, glow=0.0)
    rng = np.random.default_rng(1)
    charge = collect(None, chip_, band="", exposure_time=500.0, rng=rng)
    assert charge.mean() == pytest.approx(500 * CAMERA.dark_current, rel=0.01)


def test_particles_come_at_the_rate_and_leave_the_charge_of_their_path():
    chip_ = detector(cosmic_ray_rate=20.0)
    events = 20.0 * 100 * SHAPE[0] * SHAPE[1] / 1e6
    rng = np.random.default_rng(1)
    y, x, electrons = cosmic_rays(chip_, 100.0, rng)
    assert len(set(zip(y.tolist(), x.tolist()))) == len(y)
    assert y.max() < SHAPE[0]
    assert x.max() < SHAPE[1]
    assert (electrons > 0).all()
    # no track is shorter than the chip is thick, most are a few times as long
    assert events * chip_.thickness * ELECTRONS_PER_MICROMETRE < electrons.sum()
    assert electrons.sum() < 10 * events * chip_.thickness * ELECTRONS_PER_MICROMETRE
    counts = [len(cosmic_rays(chip_, 1.0, np.random.default_rng(i))[0]) for i in range(50)]
    assert np.std(counts) > 0  # their number varies


def test_nothing_hits_a_chip_that_is_not_exposed():
    assert len(cosmic_rays(detector(cosmic_ray_rate=20.0), 0.0, np.random.default_rng(1))[0]) == 0


def test_readout_faults_are_in_the_mask_and_nowhere_else():
    loud = detector(readout_faults=30.0)
    calm = loud.model_copy(update={"camera": CAMERA.model_copy(update={"read_noise": 0.0})})
    charge = np.zeros(SHAPE, np.float32)
    with_faults = read_out(charge, calm, np.random.default_rng(2))
    lines = with_faults.raw[calm.imaging].astype(float)
    smooth = lines - chip.bias_structure(calm, calm.imaging[0])[:, calm.imaging[1]]
    off = np.abs(smooth - np.median(smooth, axis=1, keepdims=True)) > 1.5  # pickup and rounding stay below
    assert with_faults.faults.sum() > 1000
    assert not (off & ~with_faults.faults).any()
    assert (off & with_faults.faults).sum() > 0.7 * with_faults.faults.sum()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    chip_ = detector()
    frames = [raw_frame(chip_, seed, electrons=500.0, exposure_time=30.0).tobytes() for seed in (1, 1, 2)]
    assert frames[0] == frames[1] != frames[2]
