"""Raw files: what a header says is understood, and what is wrong with a file is named."""

import numpy as np
import pytest
from astropy.io import fits

from reference_pipeline.config import Camera, load_camera
from reference_pipeline.errors import FileError
from reference_pipeline.raw import areas, read_exposure, read_raw

CAMERA = Camera(
    name="test",
    pixel_scale=1.0,
    gain=1.5,
    read_noise=5.0,
    saturation=60000,
    raw_shape=(20, 30),
    kinds={"object": "science", "flat*": "flat", "zero": "bias"},
    bands={"gprime": "g"},
)
CARDS = {
    "IMAGETYP": "object",
    "EXPTIME": 60.0,
    "DATE-OBS": "2020-01-02T03:04:05.250",
    "FILTER": "gprime",
    "RA": 317.229166,
    "DEC": -30.5,
}


def write(path, data=None, *, extension=False, without=(), **cards):
    if data is None:
        data = np.arange(600, dtype=np.uint16).reshape(20, 30) + 40000
    header = fits.Header({k: v for k, v in (CARDS | cards).items() if k not in without})
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(data, header)] if extension else [fits.PrimaryHDU(data, header)]
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def refusal(path, **options):
    with pytest.raises(FileError) as caught:
        read_raw(path, CAMERA, **options)
    return caught.value


@pytest.mark.parametrize("extension", [False, True])
def test_pixels_come_as_they_were_written(tmp_path, extension):
    raw = read_raw(write(tmp_path / "a.fits", extension=extension), CAMERA)
    assert raw.data.dtype == np.uint16
    np.testing.assert_array_equal(raw.data, np.arange(600).reshape(20, 30) + 40000)
    assert raw.exposure.kind == "science"
    assert raw.exposure.band == "g"
    assert raw.exposure.exposure_time == 60.0
    assert (raw.exposure.ra, raw.exposure.dec) == (317.229166, -30.5)


def test_compressed_files_are_read(tmp_path):
    data = np.arange(600, dtype=np.uint16).reshape(20, 30)
    write(tmp_path / "a.fits.gz", data)
    np.testing.assert_array_equal(read_raw(tmp_path / "a.fits.gz", CAMERA).data, data)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data, fits.Header(CARDS))]).writeto(
        tmp_path / "a.fits.fz"
    )
    np.testing.assert_array_equal(read_raw(tmp_path / "a.fits.fz", CAMERA).data, data)


@pytest.mark.parametrize(
    ("cards", "mjd"),
    [
        ({"DATE-OBS": "2017-12-19T18:33:43.317-0700"}, 58107.0 + (1 * 3600 + 33 * 60 + 43.317) / 86400),
        ({"DATE-OBS": "2020-01-02T03:04:05.250"}, 58850.0 + (3 * 3600 + 4 * 60 + 5.25) / 86400),
        ({"DATE-OBS": "2013-07-13", "UT": "00:57:33"}, 56486.0 + (57 * 60 + 33) / 86400),
        ({"DATE-OBS": "2013-07-13"}, 56486.0),
    ],
)
def test_times_are_utc_whatever_the_clock_of_the_camera(tmp_path, cards, mjd):
    assert read_exposure(write(tmp_path / "a.fits", **cards), CAMERA).start_mjd == pytest.approx(
        mjd, abs=1e-8
    )


@pytest.mark.parametrize(
    ("ra", "dec", "degrees"),
    [
        ("21 08 55.00", "-00 30 00.0", (317.2291667, -0.5)),
        (" 22:04:08", "+10:30:00", (331.0333333, 10.5)),
        ("317.25", "-12.5", (317.25, -12.5)),
    ],
)
def test_coordinates_are_degrees_however_written(tmp_path, ra, dec, degrees):
    exposure = read_exposure(write(tmp_path / "a.fits", RA=ra, DEC=dec), CAMERA)
    assert (exposure.ra, exposure.dec) == pytest.approx(degrees, abs=1e-7)


def test_a_kind_may_be_a_pattern(tmp_path):
    assert read_exposure(write(tmp_path / "a.fits", IMAGETYP="Flat_sky"), CAMERA).kind == "flat"


@pytest.mark.parametrize("keep", [2880 + 600, 2880, 1000, 2880 + 1199])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = write(tmp_path / "cut.fits")
    path.write_bytes(path.read_bytes()[:keep])
    error = refusal(path)
    assert error.reason == "truncated"
    assert error.frame_id == "cut"


def test_missing_padding_loses_nothing(tmp_path):
    path = write(tmp_path / "a.fits")
    path.write_bytes(path.read_bytes()[: 2880 + 1200])
    assert read_raw(path, CAMERA).data[-1, -1] == 40599


def test_a_truncated_compressed_file_is_named(tmp_path):
    path = write(tmp_path / "a.fits.gz")
    path.write_bytes(path.read_bytes()[:-200])
    assert refusal(path).reason == "truncated"


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x1f\x8b" + bytes(50)])
def test_what_is_not_fits_is_named(tmp_path, content):
    (tmp_path / "a.fits").write_bytes(content)
    assert refusal(tmp_path / "a.fits").reason == "not-fits"


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert refusal(tmp_path / "a.fits").reason == "unreadable"


@pytest.mark.parametrize(
    ("missing", "words"), [("IMAGETYP", "OBSTYPE"), ("DATE-OBS", "DATE-OBS"), ("EXPTIME", "EXPOSURE")]
)
def test_a_missing_keyword_names_the_ones_looked_for(tmp_path, missing, words):
    error = refusal(write(tmp_path / "a.fits", without=(missing,)))
    assert error.reason == "keyword-missing"
    assert words in error.message


@pytest.mark.parametrize(
    ("key", "value"),
    [("DATE-OBS", "yesterday"), ("RA", "far out"), ("EXPTIME", -3.0), ("EXPTIME", "long"), ("IMAGETYP", "x")],
)
def test_a_value_that_makes_no_sense_is_named(tmp_path, key, value):
    error = refusal(write(tmp_path / "a.fits", **{key: value}))
    assert error.reason == "keyword-value"
    assert repr(value) in error.message


def test_another_shape_is_named_with_both(tmp_path):
    error = refusal(write(tmp_path / "a.fits", np.zeros((20, 31), np.uint16)))
    assert error.reason == "shape"
    assert "(20, 31)" in error.message
    assert "(20, 30)" in error.message


def test_a_file_without_an_image_is_named(tmp_path):
    fits.PrimaryHDU(header=fits.Header(CARDS)).writeto(tmp_path / "a.fits")
    assert refusal(tmp_path / "a.fits").reason == "no-image"


def test_another_kind_than_expected_is_named(tmp_path):
    assert refusal(write(tmp_path / "a.fits"), expected_kind="flat").reason == "kind"
    silent = write(tmp_path / "b.fits", without=("IMAGETYP",))
    assert read_raw(silent, CAMERA, expected_kind="flat").exposure.kind == "flat"


@pytest.mark.parametrize("text", ["[0:5,1:20]", "[1:31,1:20]", "1:5,1:20", "[9:5,1:20]"])
def test_a_section_outside_the_frame_is_named(text):
    camera = CAMERA.model_copy(update={"trim": text})
    with pytest.raises(FileError) as caught:
        areas("a", fits.Header(), (20, 30), camera)
    assert caught.value.reason == "section"


@pytest.mark.shared_data
def test_huntsman_frames_say_what_they_are(shared_data):
    folder = shared_data / "images/AstroHuntsman+huntsman-drp/tests/data/raw"
    camera = load_camera("huntsman")
    found = {
        kind: read_exposure(folder / f"{kind}_0.fits", camera) for kind in ("bias", "dark", "flat", "science")
    }
    assert {kind: exposure.kind for kind, exposure in found.items()} == {kind: kind for kind in found}
    assert found["science"].band == "g"
    assert found["science"].start_mjd == pytest.approx(59232.476761898, abs=1e-8)  # its MJD-OBS


@pytest.mark.shared_data
def test_the_saao_frame_has_its_date_and_time_apart(shared_data):
    path = shared_data / "images/astropy+ccdproc/ccdproc/tests/data/a8280271.fits"
    exposure = read_exposure(path, load_camera("saao_ste3"))
    assert exposure.start_mjd == pytest.approx(56486.0 + (57 * 60 + 33) / 86400, abs=1e-8)
    assert exposure.ra == pytest.approx(331.0333, abs=1e-3)
