"""FITS views (section 9): what stock tools see, and that a cutout comes back as it was."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import bits, geometries, images

import multiscale as ms
from multiscale.convert import Options, open_packets
from multiscale.cutout import Missing, Sky

pytest.importorskip("astropy", reason="the FITS views need astropy (extra fits)")
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS

from multiscale.fits import alert_header, mosaic_hdus, read_fits, to_hdus, write_fits, write_mosaic

SCALE = 0.2  # arcsec
X, Y = 195.3, 100.7  # the object, in an image of 200 x 200: the footprint leaves it at high x
GEOMETRY = ms.Geometry(8, 4, SCALE)


def source_wcs():
    """The WCS of the image that the cutout is from: rotated, mirrored, across ra = 0."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [1.2345678901234567e-5, -33.1]
    wcs.wcs.crpix = [100, 100]
    wcs.wcs.cd = np.array([[-0.2, 0.01], [0.012, 0.2]]) / 3600
    return wcs


def make_cutout(wcs="source", **options):
    rng = np.random.default_rng(0)
    image = rng.normal(100, 3, (200, 200)).astype(np.float32)
    image[90:95, 188:190] = np.nan
    planes = {
        "science": image,
        "difference": image - 100,
        ("variance", "science"): np.abs(image),
        ("mask", "science"): (rng.random((200, 200)) > 0.9).astype(np.uint16) * 4,
    }
    return ms.Cutout.from_images(
        planes,
        GEOMETRY,
        x=X,
        y=Y,
        wcs=source_wcs() if wcs == "source" else wcs,
        units="nJy",
        mask_bits={("mask", "science"): ["CR", "", "SAT"]},
        psf={"difference": rng.random((21, 21))},
        psf_fwhm={"difference": 0.8},
        clipped_by="DETECTOR",
        missing=[Missing(kind="TEMPLATE", of="NONE", reason="NO_TEMPLATE", detail="détail\n\\ " + "a" * 99)],
        **options,
    )


@pytest.fixture(scope="module")
def cutout():
    return make_cutout()


@pytest.fixture(scope="module")
def hdus(cutout, tmp_path_factory):
    """The HDUs as plain astropy reads them from the file, a warning being an error."""
    path = tmp_path_factory.mktemp("fits") / "a.fits"
    write_fits(cutout, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(path, memmap=False) as opened:
            opened.verify("exception")
            for hdu in opened:
                assert hdu.data is None or hdu.data.size
            yield opened


def levels_of(hdus, name):
    return [hdu for hdu in hdus if hdu.name == name]


# What is in the file (9.1)


def test_there_is_one_image_per_plane_and_level_in_packet_order_finest_first(cutout, hdus):
    names = ["SCIENCE", "DIFFERENCE", "VARIANCE_SCIENCE", "MASK_SCIENCE"]
    expected = [(name, k + 1) for name in names for k in range(4)]
    assert [(hdu.name, hdu.ver) for hdu in hdus[1:17]] == expected
    assert hdus[0].data is None
    assert [hdu.name for hdu in hdus[17:]] == ["PSF_DIFFERENCE"]
    assert list(cutout.keys) == ["science", "difference", ("variance", "science"), ("mask", "science")]


def test_plain_astropy_reads_the_levels_bit_for_bit(cutout, hdus):
    for plane in cutout.planes:
        for k, level in enumerate(cutout.levels(plane.kind, plane.of)):
            name = plane.kind if plane.of == "NONE" else f"{plane.kind}_{plane.of}"
            assert bits(hdus[name, k + 1].data) == bits(level)


def test_keywords_of_an_image_are_those_of_the_table(hdus):
    header = hdus["VARIANCE_SCIENCE", 3].header
    expected = {
        "BITPIX": -32, "EXTVER": 3, "BUNIT": "nJy**2", "MSKIND": "VARIANCE", "MSOF": "SCIENCE", "MSLEVEL": 2,
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "RADESYS": "ICRS", "CUNIT1": "deg", "CUNIT2": "deg",
        "CRPIX1": 4.5, "CRPIX2": 4.5, "WCSNAMEP": "PHYSICAL", "CRPIX1P": 4.5, "CRPIX2P": 4.5,
        "CRVAL1P": 0, "CRVAL2P": 0, "CD1_1P": 4, "CD1_2P": 0, "CD2_1P": 0, "CD2_2P": 4,
    }  # fmt: skip
    assert {keyword: header[keyword] for keyword in expected} == expected
    assert "CTYPE1P" in header
    assert "CTYPE2P" in header


def test_a_mask_is_unsigned_16_bit_and_names_its_bits(hdus):
    hdu = hdus["MASK_SCIENCE", 1]
    assert hdu.data.dtype == np.uint16
    assert hdu.header["BUNIT"] == ""
    names = [hdu.header[f"MSBIT{bit}"] for bit in range(4)]
    assert names == ["CR", "OFF_IMAGE", "SAT", "NO_DATA"]


def test_a_mask_is_stored_with_bitpix_16_and_bzero_32768(cutout, tmp_path):
    write_fits(cutout, tmp_path / "a.fits")
    with fits.open(tmp_path / "a.fits", do_not_scale_image_data=True) as stored:
        header = stored["MASK_SCIENCE", 1].header
        assert (header["BITPIX"], header["BZERO"], header.get("BSCALE", 1)) == (16, 32768, 1)
        stored_zero = stored["MASK_SCIENCE", 1].data[cutout.levels("mask", "science")[0] == 0]
        assert set(stored_zero.tolist()) == {-32768}


def test_the_primary_header_holds_the_grid(cutout, hdus):
    expected = {
        "NAXIS": 0, "MSVERS": "1.0", "MSSIZE": 8, "MSNLEV": 4, "MSPIXSC": 0.2, "MSDX": cutout.dx,
        "MSDY": cutout.dy, "MSCLXL": 0, "MSCLXH": 28, "MSCLYL": 0, "MSCLYH": 0, "MSCLBY": "DETECTOR",
    }  # fmt: skip
    header = hdus[0].header
    assert {keyword: header[keyword] for keyword in expected} == expected


def test_an_unknown_position_leaves_its_keywords_out():
    header = to_hdus(make_cutout().model_copy(update={"dx": None, "dy": None}))[0].header
    assert "MSDX" not in header
    assert "MSDY" not in header


def test_every_card_is_80_printable_characters(cutout, tmp_path):
    path = tmp_path / "a.fits"
    unit = cutout.planes[0].model_copy(update={"unit": "µJy 'it''s'"})
    write_fits(cutout.model_copy(update={"planes": (unit, *cutout.planes[1:])}), path)
    with fits.open(path) as hdus:
        text = "".join(hdu.header.tostring() for hdu in hdus)
    assert len(text) % 2880 == 0
    assert all(" " <= character <= "~" for character in text)
    assert read_fits(path).planes[0].unit == "µJy 'it''s'"


def test_ccddata_reads_a_level_with_its_unit_and_wcs(cutout, tmp_path):
    write_fits(cutout, tmp_path / "a.fits")
    ccd = CCDData.read(tmp_path / "a.fits", hdu=2)
    assert str(ccd.unit) == "nJy"
    assert ccd.wcs.has_celestial


# Where pixels are (2.4, 2.6, 9.1)


def at_object(cutout, k):
    """The object in the array of level k (2.4)."""
    return [cutout.size / 2 - 0.5 + d / 2**k for d in (cutout.dx, cutout.dy)]


def test_all_levels_have_the_object_at_one_sky_position_that_of_the_source_image(cutout, hdus):
    expected = source_wcs().wcs_pix2world([[X, Y]], 0)
    for name in ("SCIENCE", "MASK_SCIENCE"):
        for k, hdu in enumerate(levels_of(hdus, name)):
            wcs = WCS(hdu.header)
            [[x, y]] = wcs.wcs_world2pix(expected, 0)
            assert np.hypot(*np.subtract([x, y], at_object(cutout, k))) * 2**k < 1e-6  # level-0 pixels
            assert wcs.wcs.ctype[0] == "RA---TAN"
            assert wcs.celestial.wcs.radesys == "ICRS"


def test_the_corners_of_a_centre_are_the_corners_of_the_level_before(cutout, hdus):
    size = cutout.size
    fine = np.array([[x, y] for x in (-0.5, size - 0.5) for y in (-0.5, size - 0.5)])
    coarse = np.array(
        [[x, y] for x in (size / 4 - 0.5, 3 * size / 4 - 0.5) for y in (size / 4 - 0.5, 3 * size / 4 - 0.5)]
    )
    science = levels_of(hdus, "SCIENCE")
    for finer, level in zip(science, science[1:]):
        seen = WCS(level.header).wcs_world2pix(WCS(finer.header).wcs_pix2world(fine, 0), 0)
        np.testing.assert_allclose(seen, coarse, rtol=0, atol=1e-6)


def test_physical_coordinates_are_level_0_pixels_from_the_shared_corner_in_every_image(cutout, hdus):
    for hdu in hdus[1:]:
        middle = hdu.data.shape[0] / 2 - 0.5
        physical = WCS(hdu.header, key="P")
        np.testing.assert_array_equal(physical.wcs_pix2world([[middle, middle]], 0), [[0, 0]])
    for k, hdu in enumerate(levels_of(hdus, "SCIENCE")):
        [found] = WCS(hdu.header, key="P").wcs_pix2world([at_object(cutout, k)], 0)
        np.testing.assert_allclose(found, [cutout.dx, cutout.dy], rtol=0, atol=1e-12)


def test_without_sky_there_is_no_celestial_wcs_but_the_physical_one():
    hdu = to_hdus(make_cutout(wcs=None))[3]
    assert not WCS(hdu.header).has_celestial
    assert hdu.header["CRPIX1"] == 4.5
    np.testing.assert_array_equal(WCS(hdu.header, key="P").wcs_pix2world([[4, 3]], 0), [[2, -2]])


@pytest.mark.parametrize("dec", [90.0, -90.0, 89.99999, 0.0])
def test_the_wcs_is_the_gnomonic_projection_at_the_poles_too(dec):
    sky = Sky(ra=40.0, dec=dec, cd11=-1e-4, cd12=2e-5, cd21=1e-5, cd22=1e-4)
    hdu = to_hdus(make_cutout(wcs=None).model_copy(update={"sky": sky}))[1]
    u, v = np.array([[-4.0, 1.0, 3.0], [2.0, -3.0, 0.5]])
    xi, eta = np.radians([sky.cd11 * u + sky.cd12 * v, sky.cd21 * u + sky.cd22 * v])
    a, d = np.radians([sky.ra, sky.dec])
    towards = np.array([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    east = np.array([-np.sin(a), np.cos(a), 0.0])
    expected = towards + np.outer(xi, east) + np.outer(eta, np.cross(towards, east))  # gnomonic, unit sphere
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    ra, dec = np.radians(WCS(hdu.header).wcs_pix2world(np.stack([u + 3.5, v + 3.5], axis=1), 0)).T
    found = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)  # 2e-7 arcsec


# Mosaic (9.2)


def test_each_mosaic_pixel_is_that_of_the_finest_level_over_it(cutout, tmp_path):
    write_mosaic(cutout, tmp_path / "m.fits")
    with fits.open(tmp_path / "m.fits") as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus[1:]] == ["SCIENCE", "DIFFERENCE", "VARIANCE_SCIENCE", "MASK_SCIENCE"]
        for key, hdu in zip(cutout.keys, hdus[1:], strict=True):
            levels = cutout.levels(*((key,) if isinstance(key, str) else key))
            assert hdu.data.shape == (64, 64)
            for y in range(64):
                for x in range(64):
                    k = next(k for k in range(4) if max(abs(x - 31.5), abs(y - 31.5)) < 4 << k)
                    i, j = (y - 32 + (4 << k)) >> k, (x - 32 + (4 << k)) >> k
                    assert bits(hdu.data[y, x]) == bits(levels[k, i, j])


def test_the_mosaic_shows_the_sky_where_level_0_does(cutout, hdus):
    big = mosaic_hdus(cutout)["SCIENCE"].header
    assert big["CRPIX1"] == big["CRPIX2"] == 32.5
    point = WCS(hdus["SCIENCE", 1].header).wcs_pix2world([[0.0, 7.0]], 0)
    np.testing.assert_allclose(WCS(big).wcs_world2pix(point, 0), [[28.0, 35.0]], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(WCS(big, key="P").wcs_pix2world([[31.5, 31.5]], 0), [[0, 0]])


def test_a_mosaic_above_the_limit_is_refused_and_nothing_is_written(cutout, tmp_path):
    with pytest.raises(ms.ViewError, match="64 x 64 pixels, expected at most max_px=63"):
        write_mosaic(cutout, tmp_path / "m.fits", max_px=63)
    assert list(tmp_path.iterdir()) == []


# Back (9.1)


def test_a_cutout_of_raw_planes_comes_back_equal_in_every_field(cutout, tmp_path):
    write_fits(cutout, tmp_path / "a.fits")
    assert read_fits(tmp_path / "a.fits") == cutout


def test_a_rice_cutout_comes_back_raw_with_the_same_levels(tmp_path):
    cutout = make_cutout(encoding="rice")
    write_fits(cutout, tmp_path / "a.fits")
    back = read_fits(tmp_path / "a.fits")
    assert {plane.encoding for plane in cutout.planes} == {"RICE"}
    assert {plane.encoding for plane in back.planes} == {"RAW"}
    assert [plane.crc32 for plane in back.planes] == [plane.crc32 for plane in cutout.planes]
    assert (back.sky, back.dx, back.clipped, back.missing) == (
        cutout.sky, cutout.dx, cutout.clipped, cutout.missing
    )  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    geometries(),
    st.floats(1e-9, 1e9),
    st.one_of(st.none(), st.tuples(st.floats(0, 359.999), st.floats(-90, 90))),
    st.data(),
)
def test_levels_and_numbers_come_back_exactly(tmp_path, geometry, scale, position, data):
    geometry = ms.Geometry(geometry.size, geometry.n_levels, scale)
    shape = (geometry.span_px, geometry.span_px)
    planes = {"science": data.draw(images(shape)), ("mask", "science"): data.draw(images(shape, "mask"))}
    named = [f"B{bit}" for bit in range(14)] + ["OFF_IMAGE", "NO_DATA"]
    cutout = ms.Cutout.from_images(
        planes, geometry, x=3.3, y=geometry.span_px - 0.9, mask_bits={("mask", "science"): named}
    )
    if position is not None:
        ra, dec = position
        small = float(np.float32(data.draw(st.floats(1e-30, 1e-3))))
        sky = Sky(ra=ra, dec=dec, cd11=-small, cd12=0.0, cd21=small, cd22=small, max_error=scale)
        cutout = cutout.model_copy(update={"sky": sky})
    write_fits(cutout, tmp_path / "a.fits")
    back = read_fits(tmp_path / "a.fits")
    assert back == cutout
    for kind, of in (("science", None), ("mask", "science")):
        assert bits(back.levels(kind, of)) == bits(cutout.levels(kind, of))


def test_a_cutout_without_planes_comes_back(tmp_path):
    bare = make_cutout(wcs=None).model_copy(update={"planes": ()})
    write_fits(bare, tmp_path / "a.fits")
    assert read_fits(tmp_path / "a.fits") == bare


def test_images_of_others_in_the_file_are_left_alone(cutout, tmp_path):
    hdus = to_hdus(cutout)
    hdus.insert(1, fits.ImageHDU(np.zeros((3, 3))))
    hdus.append(fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])]))
    hdus.writeto(tmp_path / "a.fits")
    assert read_fits(tmp_path / "a.fits") == cutout


# What is refused


def changed(cutout, tmp_path, change):
    path = tmp_path / "bad.fits"
    hdus = to_hdus(cutout)
    change(hdus)
    hdus.writeto(path, overwrite=True)
    return path


def drop(keyword):
    return lambda hdus: hdus[0].header.remove(keyword)


def put(i, keyword, value):
    return lambda hdus: hdus[i].header.set(keyword, value)


def put_in_plane(keyword, value):
    return lambda hdus: [hdu.header.set(keyword, value) for hdu in hdus[1:5]]


def pixels(array):
    def change(hdus):
        hdus[2].data = array

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("MSVERS"), r"bad.fits\[0\]: fits: found no MSVERS, expected MSVERS, as in a FITS file with"),
        (drop("MSCLXH"), "no MSCLXH"),
        (drop("MSDX"), "dx and dy both null or both given"),
        (put(0, "MSVERS", "2.0"), "'2.0', expected '1.' and a minor version"),
        (put(0, "MSSIZE", 10), "size 10, expected a multiple of 4"),
        (put(0, "MSSIZE", "8"), "MSSIZE = '8'"),
        (put(0, "MSNLEV", 5), "4 of 5 levels of science, expected every level"),
        (put(0, "MSNLEV", 3), r"\[4\]: fits: found MSLEVEL = 3, expected levels 0 to 2"),
        (put(0, "MSDX", 5.0), "dx: position: found 5.0"),
        (put(0, "MSCLXL", 60), "found 60 and 28"),
        (put_in_plane("MSKIND", "PICTURE"), "plane .*picture"),
        (put_in_plane("MSOF", "SCIENCE"), "plane-of: found SCIENCE"),
        (put(1, "CTYPE1", "RA---SIN"), "RA---SIN', expected RA---TAN"),
        (lambda hdus: hdus.insert(1, hdus.pop(2)), "MSLEVEL = 1, expected levels 0 to 3, in order"),
        (lambda hdus: hdus.pop(8), "3 of 4 levels of difference"),
        (lambda hdus: [hdus.pop(5) for _ in range(4)], "3 planes, expected 4, as MSNPLANE says"),
        (pixels(np.zeros((4, 4), np.float32)), r"\[2\]: .*float32 of shape \(4, 4\), expected float32"),
        (pixels(np.zeros((8, 8))), "float64 of shape"),
        (pixels(None), "no image"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_such_view_is_refused_saying_what_and_where(cutout, tmp_path, change, message):
    with pytest.raises(ms.StampError, match=message):
        read_fits(changed(cutout, tmp_path, change))


def test_a_symbol_of_a_later_version_is_read_as_unknown(cutout, tmp_path):
    assert read_fits(changed(cutout, tmp_path, put(0, "MSCLBY", "SATELLITE"))).clipped_by == "UNKNOWN"


def test_a_mosaic_and_a_text_are_no_levels(cutout, tmp_path):
    write_mosaic(cutout, tmp_path / "m.fits")
    with pytest.raises(ms.ViewError, match="no MSLEVEL"):
        read_fits(tmp_path / "m.fits")
    (tmp_path / "a.txt").write_text("not FITS")
    with pytest.raises(ms.ViewError, match="a FITS file with the levels of a cutout"):
        read_fits(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError):
        read_fits(tmp_path / "none.fits")


def test_a_file_cut_anywhere_is_refused(tmp_path):
    write_fits(make_cutout(), tmp_path / "a.fits")
    whole = (tmp_path / "a.fits").read_bytes()
    last_hdu = len(whole) - 2 * 2880  # the PSF; without it the rest is whole
    starts = [0, 1, 80, 2879, 2880, 2881, *range(3000, last_hdu - 1, 2503), *range(5760, last_hdu - 1, 5760)]
    for n in starts:
        (tmp_path / "b.fits").write_bytes(whole[:n])
        with pytest.raises(ms.ViewError):
            read_fits(tmp_path / "b.fits")


def test_a_plane_whose_payload_is_refused_is_not_written(cutout, tmp_path):
    broken = cutout.planes[0].model_copy(update={"crc32": 0})
    with pytest.raises(ms.PayloadError, match="crc"):
        write_fits(cutout.model_copy(update={"planes": (broken,)}), tmp_path / "a.fits")
    assert list(tmp_path.iterdir()) == []


def test_when_writing_fails_the_old_file_stays_and_nothing_else(cutout, tmp_path, monkeypatch):
    def half(self, file, **_):
        file.write(b"SIMPLE")
        raise OSError(28, "No space left on device")

    (tmp_path / "a.fits").write_bytes(b"old")
    monkeypatch.setattr(fits.HDUList, "writeto", half)
    with pytest.raises(OSError, match="No space"):
        write_fits(cutout, tmp_path / "a.fits")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.fits": b"old"}


def test_a_file_that_exists_is_replaced(cutout, tmp_path):
    (tmp_path / "a.fits").write_bytes(b"old")
    write_fits(cutout, str(tmp_path / "a.fits"))
    assert read_fits(str(tmp_path / "a.fits")) == cutout


def test_without_astropy_the_error_names_the_extra():
    script = (
        "import sys; sys.modules['astropy'] = None\n"
        "import multiscale as ms\n"
        "try:\n import multiscale.fits\nexcept ms.ViewError as error:\n print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 'pip install "multiscale-stamps[fits]"' in done.stdout


# Keywords of the caller


def test_the_callers_keywords_are_in_the_primary_header_and_none_is_left_out(cutout):
    given = {"OBJECT": "SN 2026a", "MJD-AVG": 60000.123456789012, "EXPTIME": None, "NDET": 3, "OK": True}
    header = to_hdus(cutout, header=given)[0].header
    assert "EXPTIME" not in header
    assert [header[k] for k in ("OBJECT", "MJD-AVG", "NDET", "OK")] == [
        "SN 2026a",
        60000.123456789012,
        3,
        True,
    ]


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("MSSIZE", 4, "keyword 'MSSIZE'"),
        ("SIMPLE", False, "keyword 'SIMPLE'"),
        ("object", "a", "keyword 'object'"),
        ("ABCDEFGHI", 1, "1 to 8"),
        ("SNR", float("nan"), "SNR = nan, expected a string, a boolean or a finite number"),
        ("SNR", [1], "SNR ="),
        ("END", 1, "END ="),
    ],
)
def test_a_keyword_that_is_taken_or_impossible_is_refused(cutout, keyword, value, message):
    with pytest.raises(ms.ViewError, match=message):
        to_hdus(cutout, header={keyword: value})


# Real alerts


def real_alerts(folder, n):
    paths = [path for path in sorted(folder.glob("*.avro")) if "confluent" not in path.name]
    for path in paths[:: max(1, len(paths) // n)][:n]:
        yield from (alert for _, alert in open_packets(path, Options()))


@pytest.mark.shared_data
@pytest.mark.parametrize("survey", ["ztf", "lsst"])
def test_real_alerts_come_back_from_fits_as_they_were(survey, shared_data, tmp_path):
    n = 0
    for alert in real_alerts(Path(shared_data) / "alerts" / survey, 8):
        write_fits(alert.cutout, tmp_path / "a.fits", header=alert_header(alert))
        assert read_fits(tmp_path / "a.fits") == alert.cutout
        assert fits.getheader(tmp_path / "a.fits")["ALERTID"] == alert.alert_id
        n += 1
    assert n >= 8


@pytest.mark.shared_data
def test_in_a_real_lsst_alert_every_level_has_the_source_at_the_survey_position(shared_data, tmp_path):
    n = 0
    for alert in real_alerts(Path(shared_data) / "alerts" / "lsst", 12):
        for hdu in to_hdus(alert.cutout)[1:]:
            if "MSLEVEL" not in hdu.header or not WCS(hdu.header).has_celestial:
                continue
            at = at_object(alert.cutout, hdu.header["MSLEVEL"])
            [[ra, dec]] = WCS(hdu.header).wcs_pix2world([at], 0)
            offset = np.hypot((ra - alert.detection.ra) * np.cos(np.radians(dec)), dec - alert.detection.dec)
            assert offset * 3600 < 0.01 * alert.cutout.pixel_scale  # x, y in the record: 0.001 pixels
            n += 1
    assert n > 20
