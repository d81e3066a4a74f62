"""The difference product: what is in it, how exactly, the same bytes each time, and damage noticed."""

import json
import shutil
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
from alert_field import SCALE, STEPS, field
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from reference_pipeline.difference_products import (
    difference_path,
    file_stem,
    header_of,
    read_difference,
    read_plane,
    write_difference,
)
from reference_pipeline.errors import REASONS, FileError
from reference_pipeline.frame import MaskBit
from reference_pipeline.products import input_digest_of, write_product

LONG_ID = "3 of a template with a name that no card of a header has the room for: " + "x" * 40


def write(path, **changes):
    made = field()
    options = {
        "difference": made.difference, "aligned": made.aligned, "template": made.template,
        "candidates": made.candidates, "branch": "dip", "template_id": LONG_ID, "input_digest": "ab" * 32,
        "steps": STEPS, **changes,
    }  # fmt: skip
    write_difference(path, **options)
    return path


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    return write(tmp_path_factory.mktemp("product") / "deep" / "n1.fits")


def test_what_is_known_comes_back_equal(product):
    made, back = field(), read_difference(product)
    assert back.exposure == made.aligned.exposure
    assert back.quality == made.aligned.quality
    assert repr(back.zero_point) == repr(made.aligned.zero_point)  # a scatter that is NaN is not equal
    assert back.candidates == made.candidates
    assert (back.branch, back.template_id, back.input_digest) == ("dip", LONG_ID, "ab" * 32)
    assert back.shape == made.difference.data.shape
    assert back.decisions["align"] == STEPS[1].decision
    assert back.decisions["subtract"] == made.difference.decision
    assert back.pixel_scale == pytest.approx(SCALE, rel=1e-9)
    assert set(back.software) == {"reference-pipeline", "multiscale"}
    xy = np.random.default_rng(1).uniform(0, 300, (2, 20))
    np.testing.assert_allclose(
        back.wcs.all_pix2world(*xy, 0), made.aligned.wcs.all_pix2world(*xy, 0), atol=1e-9
    )
    assert input_digest_of(product) == "ab" * 32


def test_planes_come_back_as_exactly_as_is_said(product):
    made, back = field(), read_difference(product)
    given = made.difference
    np.testing.assert_array_equal(back.mask, given.mask)
    assert back.mask.dtype == np.uint16
    known = np.isfinite(given.score)
    assert known.any()
    assert not known.all()
    np.testing.assert_array_equal(np.isfinite(back.score), known)
    np.testing.assert_array_equal(np.isfinite(back.flux), known)
    assert np.abs(back.score - given.score)[known].max() <= 1 / 32 + 1e-5
    clear = known & (np.abs(back.score) > 0.5)  # an exact 0 of both says nothing of the error
    ratio = (back.flux[clear] / back.score[clear]) / (given.flux[clear] / given.score[clear])
    assert np.abs(np.median(ratio) - 1) < 1e-3  # the error of a flux, which forced photometry takes from here
    for name, image, variance in (
        ("DIFF", given.data, given.variance),
        ("ALIGNED", made.aligned.data, made.aligned.variance),
        ("TEMPLATE", made.template.data, made.template.variance),
    ):
        noise = np.sqrt(np.median(variance[np.isfinite(variance) & (variance > 0)]))
        error = (read_plane(product, name) - image) / noise
        assert np.abs(error).max() < 0.08, name
        assert error.std() < 0.04, name
        assert abs(error.mean()) < 5 * 0.04 / np.sqrt(error.size), name
        np.testing.assert_array_equal(read_plane(product, name) == 0, image == 0)


def test_a_bright_candidate_keeps_its_flux(product):
    given, back = field().difference, read_difference(product)
    for c in field().candidates:
        x, y = round(c.x), round(c.y)
        if np.isfinite(given.score[y, x]):
            assert abs(back.flux[y, x] - given.flux[y, x]) < 0.05 * abs(
                given.flux[y, x] / given.score[y, x]
            ) + (0.004 * abs(given.flux[y, x]))


def test_the_same_inputs_give_the_same_bytes(product, tmp_path):
    second = round(time.time())
    while round(time.time()) == second:  # gzip, for one, would put the second into the file
        time.sleep(0.05)
    again = write(tmp_path / "again.fits", steps=[replace(step, seconds=99.0) for step in STEPS])
    assert again.read_bytes() == product.read_bytes()


def test_plain_astropy_reads_it(product):
    with fits.open(product, checksum=True) as hdus:
        names = [hdu.name for hdu in hdus]
        assert names == [
            "PRIMARY", "DIFF", "ALIGNED", "TEMPLATE", "SCORE", "FLUXERR", "MASK", "CANDIDATES", "DECISIONS",
        ]  # fmt: skip
        header = hdus[0].header
        assert header["EXPOSURE"] == "n1-F17-g-0007"
        assert (header["NCAND"], header["NKEPT"]) == (12, 9)
        assert header["RP CUT EDGE"] == 2
        assert header["RP CUT DIPOLE"] == 1
        assert header["RP ALIGN OVERLAP"] == 0.98
        assert header["RP SUBTRACT CONVOLVED"] == field().difference.decision["convolved"]
        for name in names[1:7]:
            x, y = WCS(hdus[name].header).all_world2pix(150.0, 30.0, 0)
            assert (x, y) == pytest.approx((179.5, 159.5), abs=1e-6)
        assert hdus["ALIGNED"].header["MAGZP"] == 25.0
        assert "MAGZP" not in hdus["TEMPLATE"].header
        assert hdus["MASK"].header["MSK3"] == "SATURATED"
        table = Table(hdus["CANDIDATES"].data)
        assert list(table["number"]) == list(range(12))
        assert [c or None for c in table["cut"]] == [c.cut for c in field().candidates]
        assert json.loads(table["matches"][2])[0]["catalog"] == "GLADE+"
        assert hdus["CANDIDATES"].columns["ra_err"].unit == "deg"
    assert product.stat().st_size < 5 * field().difference.data.size


@pytest.mark.skipif(shutil.which("fitsverify") is None, reason="fitsverify is not installed")
def test_fitsverify_finds_nothing(product):
    said = subprocess.run(["fitsverify", str(product)], capture_output=True, text=True, check=False)
    assert "0 warning(s) and 0 error(s)" in said.stdout, said.stdout


def test_nothing_known_and_nothing_found(tmp_path):
    made = field()
    nothing = replace(
        made.difference,
        data=np.zeros_like(made.difference.data),
        score=np.full_like(made.difference.score, np.nan),
        flux=np.full_like(made.difference.flux, np.nan),
        mask=np.full_like(made.difference.mask, MaskBit.NO_DATA),
    )
    aligned = replace(
        made.aligned, data=np.full_like(made.aligned.data, np.nan), quality=None, zero_point=None
    )
    back = read_difference(write(tmp_path / "a.fits", difference=nothing, aligned=aligned, candidates=()))
    assert back.candidates == ()
    assert (back.quality, back.zero_point) == (None, None)
    assert np.isnan(back.score).all()
    assert np.isnan(back.flux).all()
    assert np.isnan(read_plane(back.path, "ALIGNED")).all()
    assert (back.mask == MaskBit.NO_DATA).all()


def test_infinite_pixels_are_unknown_ones(tmp_path):
    made = field()
    data = made.aligned.data.copy()
    data[50, 60] = np.inf
    path = write(tmp_path / "a.fits", aligned=replace(made.aligned, data=data))
    back = read_plane(path, "ALIGNED")
    assert np.isnan(back[50, 60])
    assert np.isfinite(back).sum() == back.size - 1


def test_a_score_of_zero_has_an_error(tmp_path):
    made = field()
    score, flux = made.difference.score.copy(), made.difference.flux.copy()
    y, x = np.argwhere(np.isfinite(score))[1000]
    score[y, x] = flux[y, x] = 0
    path = write(tmp_path / "a.fits", difference=replace(made.difference, score=score, flux=flux))
    error = read_plane(path, "FLUXERR")
    assert error[y, x] == pytest.approx(error[y, x + 1], rel=0.05)
    assert read_difference(path).flux[y, x] == 0


def test_damage_is_named(product, tmp_path):
    content = product.read_bytes()
    rng = np.random.default_rng(7)
    places = [*rng.integers(0, len(content), 15), *rng.integers(0, 2880 * 3, 15)]
    for place in places:
        if content[place] == ord(" "):
            continue  # the rest of a header's last block, of which nobody takes notice
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / "damaged.fits"
        path.write_bytes(damaged)
        with pytest.raises(FileError) as caught:
            read_difference(path)
        assert caught.value.reason == "not-a-difference", place
    for length in (0, 100, 2880, 2880 * 4, len(content) // 2, len(content) - 2880, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(FileError) as caught:
            read_difference(path)
        assert caught.value.reason == "not-a-difference"


def test_other_files_are_named(product, tmp_path):
    with pytest.raises(FileError) as caught:
        read_difference(tmp_path / "none.fits")
    assert caught.value.reason == "pruned"
    write_product(tmp_path / "frame.fits", field().aligned)
    for read in (read_difference, header_of):
        with pytest.raises(FileError) as caught:
            read(tmp_path / "frame.fits")
        assert caught.value.reason == "not-a-difference"
    assert {"pruned", "not-a-difference"} <= set(REASONS)
    back = read_difference(product)
    with pytest.raises(FileError):
        _ = replace(back, path=tmp_path / "gone.fits").score


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.fits"
    path.write_bytes(b"before")
    template = replace(field().template, data=np.full((4, 4), "text"))
    with pytest.raises((KeyError, ValueError, TypeError)):
        write(path, template=template)
    assert [p.name for p in tmp_path.iterdir()] == ["a.fits"]
    assert path.read_bytes() == b"before"


def test_names_of_files_are_one_to_one(tmp_path):
    ids = ["a/b", "a%2Fb", "../x", "a b", "é", "n1-F17-g-0007"]
    stems = [file_stem(one) for one in ids]
    assert len(set(stems)) == len(ids)
    assert not any("/" in stem for stem in stems)
    assert (
        difference_path(tmp_path, "qip", "n1-F17-g-0007") == tmp_path / "differences/qip/n1-F17-g-0007.fits"
    )


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "names",
    [
        tuple(f"quatrope+ProperImage/data/aligned_eso085-030-00{i}.fit" for i in (4, 5)),
        (
            "thomasvrussell+sfft/test/subtract_test_nircam/input_data/"
            "jw01324001001-01324-o001_t001_nircam_clear-f200w_i2d_stamp.fits",
            "thomasvrussell+sfft/test/subtract_test_nircam/input_data/"
            "jw02561001002-02561-o001_t003_nircam_clear-f200w_i2d_stamp.fits",
        ),
    ],
    ids=["eso085-030", "nircam"],
)  # fmt: skip
def test_real_pixels_in_any_unit(names, shared_data, tmp_path):
    made, images = field(), []
    for name in names:
        pixels = fits.getdata(shared_data / "images" / name).astype(np.float32)
        images.append(np.ascontiguousarray(pixels[:400, :500]))
    shape = images[0].shape
    planes = {}
    for key, image in (
        ("aligned", images[0]),
        ("template", images[1]),
        ("difference", images[0] - images[1]),
    ):
        noise = 1.4826 * np.nanmedian(np.abs(np.diff(image, axis=1))) / np.sqrt(2)
        planes[key] = (image, np.full(shape, noise**2, np.float32), np.zeros(shape, np.uint16))
    frames = {
        key: replace(getattr(made, key), data=planes[key][0], variance=planes[key][1], mask=planes[key][2])
        for key in ("aligned", "template")
    }
    data, variance, mask = planes["difference"]
    score = (data / np.sqrt(variance)).astype(np.float32)
    difference = replace(made.difference, data=data, variance=variance, mask=mask, score=score, flux=data)
    path = write(tmp_path / "real.fits", difference=difference, candidates=(), **frames)
    for name, key in (("DIFF", "difference"), ("ALIGNED", "aligned"), ("TEMPLATE", "template")):
        image, variance, _ = planes[key]
        error = (read_plane(path, name) - image) / np.sqrt(variance)
        known = np.isfinite(image)
        np.testing.assert_array_equal(np.isfinite(error), known)
        assert np.abs(error[known]).max() < 0.08, name
        assert abs(error[known].mean()) < 5 * 0.04 / np.sqrt(known.sum()), name
    back = read_difference(path)
    known = np.isfinite(data) & (np.abs(score) > 3)
    assert np.median(np.abs(back.flux[known] / data[known] - 1)) < 0.01
    assert path.stat().st_size < 4.5 * data.size
