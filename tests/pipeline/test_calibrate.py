"""From ADU to electrons: against known truth, against ccdproc, against real masters."""

import gzip
from dataclasses import replace

import astropy.units as u
import ccdproc
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.stats import sigma_clip

from reference_pipeline.config import Calibrate, Camera, load_camera
from reference_pipeline.errors import CalibrationError, FileError, PixelError
from reference_pipeline.frame import Exposure, MaskBit
from reference_pipeline.raw import RawFrame, read_raw
from reference_pipeline.reduce.calibrate import calibrate
from reference_pipeline.reduce.masters import (
    Master,
    Masters,
    clipped_median,
    make_master_bias,
    make_master_dark,
    make_master_flat,
    read_master,
    write_master,
)

NY, NX = 160, 200
GAIN, READ_NOISE = 1.6, 8.0
CAMERA = Camera(
    name="test",
    pixel_scale=1.0,
    gain=GAIN,
    read_noise=READ_NOISE,
    saturation=60000,
    raw_shape=(NY, NX + 40),
    trim=f"[1:{NX},1:{NY}]",
    overscan=f"[{NX + 1}:{NX + 40},1:{NY}]",
    kinds={"bias": "bias", "dark": "dark", "flat": "flat", "object": "science"},
)
CONFIG = Calibrate()
HOT, DEAD = (40, 50), (90, 120)
Y, X = np.mgrid[:NY, :NX]
COLUMNS = 3.0 * np.sin(np.arange(NX) / 9.0)  # ADU, structure of the bias
RATE = 0.4 + 0.2 * (X / NX)  # electrons per second
RESPONSE = (1 - 0.2 * ((X - 100) ** 2 + (Y - 80) ** 2) / 100**2) * (1 + 0.01 * np.sin(X * Y))
RESPONSE[DEAD] = 0.05
RESPONSE /= np.median(RESPONSE)
RATE[HOT] = 300.0


def raw_image(rng, light, seconds):
    """A raw image (uint16) of ``light``, electrons on the chip before its response."""
    electrons = rng.poisson(np.broadcast_to(light, (NY, NX)) * RESPONSE + RATE * seconds)
    adu = np.zeros((NY, NX + 40))
    adu[:, :NX] = electrons / GAIN + COLUMNS
    adu += 1000 + 5 * np.sin(np.arange(NY) / 20.0)[:, None]
    adu += rng.normal(0, READ_NOISE / GAIN, adu.shape)
    return np.clip(np.rint(adu), 0, 65535).astype(np.uint16)


def write(path, image, kind, seconds=0.0, band=None):
    header = fits.Header({"IMAGETYP": kind, "EXPTIME": seconds, "DATE-OBS": "2020-01-02T03:04:05"})
    if band:
        header["FILTER"] = band
    fits.PrimaryHDU(image, header).writeto(path)
    return path


def raw_frame(image, seconds=60.0, band="r"):
    return RawFrame(Exposure("f", "test", "science", 59000.0, seconds, band), image, fits.Header())


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Files of calibration frames and the masters made of them."""
    folder, rng = tmp_path_factory.mktemp("night"), np.random.default_rng(5)
    tilt = 1 + 0.004 * (X / NX - 0.5)
    files = {
        "bias": [write(folder / f"b{i}.fits", raw_image(rng, 0, 0), "bias") for i in range(15)],
        "dark": [write(folder / f"d{i}.fits", raw_image(rng, 0, 300), "dark", 300.0) for i in range(9)],
        "flat": [
            write(folder / f"f{i}.fits", raw_image(rng, tilt * rng.uniform(3e4, 6e4), 5), "flat", 5.0, "r")
            for i in range(11)
        ],
    }
    bias = make_master_bias(files["bias"], camera=CAMERA, config=CONFIG)
    dark = make_master_dark(files["dark"], camera=CAMERA, config=CONFIG, bias=bias)
    flat = make_master_flat(files["flat"], camera=CAMERA, config=CONFIG, band="r", bias=bias, dark=dark)
    return folder, files, Masters(bias, dark, {"r": flat})


def pulls(master, truth):
    good = master.mask == 0
    sigma = np.sqrt(master.noise + master.noise_slope * np.maximum(truth, 0))
    return ((master.data - truth) / sigma)[good]


def test_masters_are_the_truth_within_the_noise_they_state(night):
    _, _, masters = night
    flat = masters.flats["r"]
    for master, truth in ((masters.bias, COLUMNS + 0 * X), (masters.dark, RATE / GAIN), (flat, RESPONSE)):
        pull = pulls(master, truth)
        # 5 %: the line's overscan is shared noise, a median of 9 is not yet π/2
        assert 0.85 < np.std(pull) < 1.2, master.kind
        assert abs(np.median(pull)) < 0.15, master.kind


def test_bad_pixels_are_those_of_the_chip(night):
    _, _, masters = night
    assert masters.dark.mask[HOT] & MaskBit.BAD
    assert masters.flats["r"].mask[DEAD] & MaskBit.BAD
    found = (masters.bias.mask | masters.dark.mask | masters.flats["r"].mask) & MaskBit.BAD
    assert np.count_nonzero(found) == 2


def test_a_science_frame_comes_out_in_electrons_with_its_variance(night):
    _, _, masters = night
    rng = np.random.default_rng(9)
    frame = calibrate(raw_frame(raw_image(rng, 900.0, 60)), masters, camera=CAMERA, config=CONFIG)
    good = frame.mask == 0
    pull = ((frame.data - 900.0) / np.sqrt(frame.variance))[good]
    assert frame.shape == (NY, NX)
    assert frame.data.dtype == frame.variance.dtype == np.float32
    assert abs(np.mean(pull)) < 0.05  # 32 000 pixels, 160 overscan lines of shared noise
    assert np.std(pull) == pytest.approx(1.0, abs=0.03)
    assert frame.mask[HOT] & MaskBit.BAD
    assert frame.steps[-1].decision["flat"] == "median of 11"


def test_a_pedestal_without_overscan_is_neither_light_nor_shot_noise():
    camera = Camera(
        name="test", pixel_scale=1.0, gain=GAIN, read_noise=READ_NOISE, saturation=60000, pedestal=1000.0
    )
    rng = np.random.default_rng(3)
    light = 200.0  # electrons
    adu = 1000.0 + rng.poisson(light, (NY, NX)) / GAIN + rng.normal(0, READ_NOISE / GAIN, (NY, NX))
    frame = calibrate(raw_frame(adu.astype(np.float32)), Masters(), camera=camera, config=CONFIG)
    assert frame.data.mean() == pytest.approx(light, abs=1.0)
    assert frame.variance.mean() == pytest.approx(frame.data.var(), rel=0.03)


def test_ccdproc_gives_the_same_electrons(night):
    _, _, masters = night
    image = raw_image(np.random.default_rng(3), 2000.0, 60)
    ours = calibrate(raw_frame(image), masters, camera=CAMERA, config=CONFIG)
    ccd = CCDData(image.astype(float), unit="adu")
    ccd = ccdproc.subtract_overscan(ccd, fits_section=CAMERA.overscan, median=True, overscan_axis=1)
    ccd = ccdproc.trim_image(ccd, fits_section=CAMERA.trim)
    ccd = ccdproc.subtract_bias(ccd, CCDData(masters.bias.data, unit="adu"))
    dark = CCDData(masters.dark.data, unit="adu")
    ccd = ccdproc.subtract_dark(ccd, dark, dark_exposure=1 * u.s, data_exposure=60 * u.s, scale=True)
    ccd = ccdproc.gain_correct(ccd, GAIN * u.electron / u.adu)
    ccd = ccdproc.flat_correct(ccd, CCDData(masters.flats["r"].data, unit=""), norm_value=1)
    np.testing.assert_allclose(ours.data, ccd.data, rtol=1e-5, atol=0.01)


def test_the_clipped_median_is_astropys():
    rng = np.random.default_rng(1)
    stack = rng.normal(100, 5, (21, 30, 40)).astype(np.float32)
    stack[rng.random(stack.shape) < 0.05] += 300
    stack[rng.random(stack.shape) < 0.05] = np.nan
    stack[:, 0, 0] = np.nan

    def sigma(values, axis):
        return 0.7413 * np.subtract(*np.nanpercentile(values, [75, 25], axis=axis))

    values = np.ma.masked_invalid(stack)
    clipped = sigma_clip(stack[:, 1:], 3, maxiters=1, stdfunc=sigma, cenfunc="median", axis=0)
    found = clipped_median(stack, 3.0)
    np.testing.assert_allclose(found[1:], np.ma.median(clipped, axis=0), rtol=1e-6)
    assert np.isnan(found[0, 0])
    assert values[:, 0, 0].count() == 0


def test_flats_that_cannot_be_used_are_left_out_with_the_reason(night, tmp_path):
    _, files, masters = night
    rng = np.random.default_rng(8)
    streak = np.full((NY, NX), 5e4)
    streak[30:34] *= 1.2
    odd = {
        "faint": ("too-faint", raw_image(rng, 2e3, 5), "r"),
        "bright": ("too-bright", raw_image(rng, 1e5, 5), "r"),
        "tilted": ("gradient", raw_image(rng, 5e4 * (1 + 0.1 * X / NX), 5), "r"),
        "streak": ("structure", raw_image(rng, streak, 5), "r"),
        "blue": ("band", raw_image(rng, 5e4, 5), "g"),
        "small": ("shape", np.zeros((20, 20), np.uint16), "r"),
    }
    paths = [
        write(tmp_path / f"{name}.fits", image, "flat", 5.0, band) for name, (_, image, band) in odd.items()
    ]
    cut = write(tmp_path / "cut.fits", raw_image(rng, 5e4, 5), "flat", 5.0, "r")
    cut.write_bytes(cut.read_bytes()[:5000])
    flat = make_master_flat(
        files["flat"] + [*paths, cut],
        camera=CAMERA,
        config=CONFIG,
        band="r",
        bias=masters.bias,
        dark=masters.dark,
    )
    found = {rejection.frame_id: rejection.reason for rejection in flat.rejected}
    assert found == {name: reason for name, (reason, _, _) in odd.items()} | {"cut": "truncated"}
    assert flat.n_frames == 11


def test_gzipped_frames_give_the_same_master_and_are_unpacked_once(night, tmp_path, monkeypatch):
    _, files, masters = night
    packed = []
    for path in files["bias"]:
        packed.append(tmp_path / f"{path.name}.gz")
        packed[-1].write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr("reference_pipeline.reduce.masters._STRIP_BYTES", 4 * 4 * NX * len(packed))  # a row
    unpacked = gzip.open
    opened = []
    monkeypatch.setattr(gzip, "open", lambda path, *rest: opened.append(path) or unpacked(path, *rest))
    master = make_master_bias(packed, camera=CAMERA, config=CONFIG)
    np.testing.assert_array_equal(master.data, masters.bias.data)
    assert sorted(opened) == sorted(packed)
    assert master.used == masters.bias.used


def test_a_gzipped_frame_cut_short_is_left_out_with_the_reason(night, tmp_path):
    _, files, _ = night
    whole, cut = files["bias"][0], tmp_path / "cut.fits.gz"
    packed = gzip.compress(whole.read_bytes())
    cut.write_bytes(packed[: len(packed) // 2])
    master = make_master_bias([whole, cut], camera=CAMERA, config=CONFIG)
    assert master.used == (whole.stem,)
    assert [r.reason for r in master.rejected] == ["truncated"]


def test_without_a_single_frame_there_is_no_master(tmp_path):
    path = write(tmp_path / "a.fits", np.zeros((3, 3), np.uint16), "bias")
    with pytest.raises(CalibrationError) as caught:
        make_master_bias([path], camera=CAMERA, config=CONFIG)
    assert caught.value.reason == "no-frames"
    assert "shape" in caught.value.message


def test_a_master_is_read_as_it_was_written(night, tmp_path):
    _, _, masters = night
    flat = replace(masters.flats["r"], rejected=masters.dark.rejected)
    write_master(tmp_path / "flat.fits", flat)
    read = read_master(tmp_path / "flat.fits")
    np.testing.assert_array_equal(read.data, flat.data)
    np.testing.assert_array_equal(read.mask, flat.mask)
    names = [name for name in Master.__dataclass_fields__ if name not in ("data", "mask")]
    assert {name: getattr(read, name) for name in names} == {name: getattr(flat, name) for name in names}
    assert [path.name for path in tmp_path.iterdir()] == ["flat.fits"]


def test_what_is_no_master_is_named(tmp_path):
    with pytest.raises(FileError) as caught:
        read_master(write(tmp_path / "a.fits", np.zeros((3, 3), np.uint16), "bias"))
    assert caught.value.reason == "not-a-master"


def test_saturation_is_marked_and_grows_along_the_column():
    image = np.full((NY, NX + 40), 1000, np.uint16)
    image[50, 60] = 65535
    mask = calibrate(raw_frame(image), Masters(), camera=CAMERA, config=CONFIG).mask
    expected = np.zeros((NY, NX), bool)
    expected[48:53, 59:62] = True
    np.testing.assert_array_equal(mask & MaskBit.SATURATED != 0, expected)


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "all-invalid"), (65535.0, "saturated")])
def test_a_frame_without_usable_pixels_is_named(value, reason):
    image = np.full((NY, NX + 40), value, np.float32)
    with pytest.raises(PixelError) as caught:
        calibrate(raw_frame(image), Masters(), camera=CAMERA, config=CONFIG)
    assert caught.value.reason == reason
    assert "100.0%" in caught.value.message


def test_single_invalid_pixels_are_marked():
    image = np.full((NY, NX + 40), 1000, np.float32)
    image[7, 8] = np.nan
    frame = calibrate(raw_frame(image), Masters(), camera=CAMERA, config=CONFIG)
    assert np.argwhere(frame.mask & MaskBit.NO_DATA).tolist() == [[7, 8]]


def test_masters_of_another_shape_or_none_where_required_are_named(night):
    _, _, masters = night
    image = np.full((NY, NX + 40), 1000, np.uint16)
    small = replace(masters.bias, data=masters.bias.data[1:], mask=masters.bias.mask[1:])
    with pytest.raises(CalibrationError) as caught:
        calibrate(raw_frame(image), Masters(bias=small), camera=CAMERA, config=CONFIG)
    assert caught.value.reason == "shape"
    with pytest.raises(CalibrationError) as caught:
        calibrate(raw_frame(image, band="g"), masters, camera=CAMERA, config=Calibrate(required=("flat",)))
    assert caught.value.reason == "no-master"


@pytest.mark.shared_data
def test_the_saao_frame_is_ccdprocs(shared_data):
    path = shared_data / "images/astropy+ccdproc/ccdproc/tests/data/a8280271.fits"
    camera = load_camera("saao_ste3")
    frame = calibrate(read_raw(path, camera), Masters(), camera=camera, config=CONFIG)
    ccd = CCDData.read(path, unit="adu")
    ccd = ccdproc.subtract_overscan(ccd, fits_section=ccd.header["BIASSEC"], median=True, overscan_axis=1)
    ccd = ccdproc.trim_image(ccd, fits_section=ccd.header["TRIMSEC"])
    assert frame.gain == 1.9
    np.testing.assert_array_equal(frame.data, ccd.data.astype(np.float32) * np.float32(1.9))


@pytest.mark.shared_data
def test_huntsman_masters_are_those_of_its_pipeline(shared_data):
    folder = shared_data / "images/AstroHuntsman+huntsman-drp/tests/data"
    camera = load_camera("huntsman")

    def theirs(name):
        with fits.open(folder / "calib/2021-01-07" / f"{name}_2021-01-07.fits") as parts:
            return next(p.data for p in parts if p.name == "IMAGE" and p.shape == (801, 801))[:800, :800]

    raw = folder / "raw"
    bias = make_master_bias([raw / "bias_0.fits"], camera=camera, config=CONFIG)
    dark = make_master_dark([raw / "dark_0.fits"], camera=camera, config=CONFIG, bias=bias)
    np.testing.assert_array_equal(bias.data, theirs("bias/bias_14_Huntsman"))
    noise = np.sqrt(dark.noise + dark.noise_slope * np.median(dark.data))  # of one raw dark
    difference = dark.data - theirs("dark/dark_14_Huntsman")
    assert abs(np.median(difference)) < 0.1 * noise
    assert 1.4826 * np.median(np.abs(difference)) < 1.5 * noise

    config = Calibrate(flat_min=0.05)  # this one has 700 of 4000 ADU
    flat = make_master_flat(
        [raw / "flat_0.fits"], camera=camera, config=config, band="g", bias=bias, dark=dark
    )
    ratio = flat.data / theirs("flat/flat_14_Huntsman_g_band")
    assert np.median(ratio) == pytest.approx(1, abs=0.002)
    assert 1.4826 * np.median(np.abs(ratio - 1)) < 1.5 * np.sqrt(flat.noise + flat.noise_slope)
    science = read_raw(raw / "science_0.fits", camera)
    frame = calibrate(science, Masters(bias, dark, {"g": flat}), camera=camera, config=config)
    by_hand = (
        science.data - theirs("bias/bias_14_Huntsman") - 300 * theirs("dark/dark_14_Huntsman")
    ) * frame.gain
    by_hand /= theirs("flat/flat_14_Huntsman_g_band")
    usable = frame.mask == 0
    pull = (frame.data - by_hand)[usable] / np.sqrt(frame.variance[usable])
    assert abs(np.median(pull)) < 0.1
    assert 1.4826 * np.median(np.abs(pull)) < 1.0  # masters add less than the frame's own noise
