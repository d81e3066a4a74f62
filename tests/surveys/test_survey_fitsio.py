"""The small FITS reader: the same pixels as astropy, and nothing but SurveyError for what is no FITS."""

from __future__ import annotations

import contextlib
import gzip
import random
import tracemalloc
import zlib
from io import BytesIO

import numpy as np
import pytest
from survey_samples import card, hdu, needs_shared, noise, real_alerts, shared_data

from multiscale.errors import SurveyError
from multiscale.surveys import fitsio, planes


def read_by_astropy(content: bytes) -> list[np.ndarray | None]:
    fits = pytest.importorskip("astropy.io.fits")
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    with fits.open(BytesIO(content), memmap=False) as hdus:
        return [None if found.data is None else np.array(found.data) for found in hdus]


SAMPLES = np.array([[0, 1, 2], [3, 4, 127]])
CASES = {
    "u1": ("u1", {}),
    "i2": ("i2", {}),
    "i4": ("i4", {}),
    "i8": ("i8", {}),
    "f4": ("f4", {}),
    "f8": ("f8", {}),
    "scaled i2": ("i2", {"bscale": 0.5, "bzero": 100.0}),
    "scaled i4": ("i4", {"bscale": 0.1, "bzero": -3.0}),
    "blank i2": ("i2", {"bscale": 2.0, "bzero": 1.0, "blank": 3}),
    "unsigned i2": ("i2", {"bscale": 1, "bzero": 32768}),
    "unsigned i4": ("i4", {"bscale": 1, "bzero": 2147483648}),
    "scaled f4": ("f4", {"bscale": 3.0, "bzero": 0.5}),
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_astropy_reads(name):
    dtype, cards = CASES[name]
    content = hdu(SAMPLES.astype(dtype), **cards)
    _, image = fitsio.read_image(content)
    [expected] = read_by_astropy(content)
    np.testing.assert_allclose(image, expected, rtol=2e-7, equal_nan=True)
    assert image.dtype.isnative
    assert image.shape == (2, 3)


def test_floats_keep_their_bits():
    bits = np.array([[0x80000000, 1, 0x7FC00001, 0xFF800000]], np.uint32)
    _, image = fitsio.read_image(hdu(bits.view(np.float32)))
    assert image.view(np.uint32).tolist() == bits.tolist()


def test_a_header_gives_each_kind_of_value():
    text = "O'Neil / not a comment"
    content = hdu(noise((2, 2)), name=text, yes=True, count=-3, size="", real=1.5)
    content = content.replace(b"REAL    =                  1.5", b"REAL    =  1.5D+03 / comment  ")
    header, _ = fitsio.read_image(content)
    assert header["NAME"] == text
    assert (header["YES"], header["COUNT"], header["SIZE"], header["REAL"]) == (True, -3, "", 1500.0)


def test_hdus_are_read_in_order_and_tables_are_passed_over():
    table = card("XTENSION", "BINTABLE") + card("BITPIX", 8) + card("NAXIS", 2) + card("NAXIS1", 4)
    table += card("NAXIS2", 2) + card("PCOUNT", 10) + card("GCOUNT", 1) + b"END".ljust(80)
    content = hdu(None) + table.ljust(2880) + bytes(2880) + hdu(noise((3, 4)), primary=False, extname="last")
    hdus = fitsio.read_fits(content)
    assert [found.data is None for found in hdus] == [True, True, False]
    assert hdus[2].name == "LAST"
    assert fitsio.read_image(content)[1].shape == (3, 4)


def test_missing_padding_after_the_last_data_is_accepted():
    content = hdu(noise((3, 3)))
    assert fitsio.read_image(content[: 2880 + 36])[1].shape == (3, 3)


@pytest.mark.parametrize(
    ("what", "content"),
    [
        ("empty", b""),
        ("text", b"not a FITS file".ljust(2880)),
        ("no END", card("SIMPLE", True).ljust(2880)),
        ("SIMPLE = F", hdu(noise((2, 2))).replace(b"                   T", b"                   F", 1)),
        ("BITPIX 7", hdu(noise((2, 2))).replace(b"-32", b"  7", 1)),
        ("NAXIS 9", hdu(noise((2, 2))).replace(card("NAXIS", 2), card("NAXIS", 9))),
        ("a huge side", hdu(noise((2, 2))).replace(card("NAXIS1", 2), card("NAXIS1", 2_000_000_000))),
        ("a negative side", hdu(noise((2, 2))).replace(card("NAXIS1", 2), card("NAXIS1", -2))),
        ("BSCALE text", hdu(noise((2, 2)), bscale="big")),
        ("no image", hdu(None)),
        ("one axis", hdu(np.zeros(5, np.float32))),
        ("an empty image", hdu(np.zeros((0, 5), np.float32))),
        ("damaged gzip", gzip.compress(hdu(noise((9, 9))))[:-9] + b"123456789"),
        ("bytes after gzip", gzip.compress(hdu(noise((2, 2)))) + b"more"),
        ("40 HDUs", hdu(None) + 40 * hdu(noise((2, 2)), primary=False)),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused(what, content):
    with pytest.raises(SurveyError) as caught:
        fitsio.read_image(content)
    assert caught.value.reason == "cutout-image", what


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_file_cut_anywhere_before_its_data_end_is_refused(pack):
    content = pack(hdu(noise((11, 7))))
    n_needed = 2880 + 11 * 7 * 4 if pack is bytes else len(content)
    for length in range(n_needed):
        with pytest.raises(SurveyError):
            fitsio.read_image(content[:length])


def test_a_gzip_bomb_is_refused_without_being_unpacked():
    packer = zlib.compressobj(9, wbits=31)
    chunk = bytes(1 << 20)
    bomb = b"".join(packer.compress(chunk) for _ in range(300)) + packer.flush()
    tracemalloc.start()
    with pytest.raises(SurveyError, match="more than 1048576 bytes"):
        fitsio.read_fits(bomb, max_bytes=1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_plain_file_above_the_limit_is_refused():
    with pytest.raises(SurveyError, match="at most 5000"):
        fitsio.read_fits(hdu(noise((9, 9))), max_bytes=5000)


def test_damaged_bytes_give_pixels_or_a_survey_error():
    rng = random.Random(1)
    whole = hdu(noise((5, 4)), bunit="DN") + hdu(noise((5, 4)), primary=False, extname="UNCERT")
    for _ in range(3000):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            content[rng.randrange(1200)] = rng.choice(b" 0123456789.'=TFEeD-+\x00\xff")
        with contextlib.suppress(SurveyError):
            fitsio.read_fits(bytes(content))


@shared_data
@needs_shared
def test_every_real_cutout_reads_as_astropy_reads_it():
    n_images = 0
    for _, _, record in real_alerts("alerts/ztf", "alerts/lsst", "alerts/other"):
        for name in planes.cutout_fields(record):
            content = planes.stamp_bytes(record[name])
            for found, expected in zip(fitsio.read_fits(content), read_by_astropy(content), strict=True):
                assert found.data.shape == expected.shape
                native = expected.astype(expected.dtype.newbyteorder("="))
                assert found.data.tobytes() == native.tobytes()
                n_images += 1
    assert n_images == 219 * 3 + 49 * 9 + 14 * 3
