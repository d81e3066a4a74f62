"""Alerts of other surveys through the one reader for FITS cutouts, and every real file at once."""

from __future__ import annotations

import collections
import gzip
import random
from io import BytesIO

import fastavro
import numpy as np
import pytest
from survey_samples import (
    SHARED,
    alert_schema,
    hdu,
    lsst_record,
    needs_shared,
    noise,
    read_file,
    real_alerts,
    shared_data,
    star,
    ztf_record,
)

from multiscale.errors import StampError, SurveyError
from multiscale.surveys import Missing, detect_survey, read_survey_alert
from multiscale.surveys.wcs import wcs_of


def record_of(images: dict[str, np.ndarray], **candidate: object) -> dict[str, object]:
    stamps = {name: gzip.compress(hdu(image)) for name, image in images.items()}
    known = {"jd": 2459000.5, "ra": 10.0, "dec": 20.0, "exptime": 60.0, "fid": 1, **candidate}
    return {"publisher": "WINTER-made-up", "objectid": "W1", "candid": 5, "candidate": known, **stamps}


def test_two_cutouts_convert_and_the_third_is_missing():
    record = record_of(
        {"cutoutScience": noise((41, 41)), "cutoutDifference": noise((41, 41), 1)}, isdiffpos=True
    )
    cutout = read_survey_alert(record).cutout
    assert set(cutout.planes) == {"science", "difference"}
    assert cutout.missing == [Missing("TEMPLATE", "NONE", "UNKNOWN", "the packet has no template cutout")]
    assert cutout.center == (20, 20)
    assert cutout.position is None


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (("cutout_science", "cutout_template", "cutout_difference"), ("science", "template", "difference")),
        (("cutoutScience", "cutoutReference", "cutoutDifference"), ("science", "template", "difference")),
        (("stampSci", "stampRef", "stampSub"), ("science", "template", "difference")),
    ],
)
def test_cutouts_are_found_by_their_names(names, images):
    record = record_of({name: noise((21, 21), i) for i, name in enumerate(names)}, isdiffpos="t")
    alert = read_survey_alert(record)
    assert tuple(alert.cutout.planes) == images
    assert alert.cutout_fields == names


def test_a_float64_image_is_rounded_and_that_is_noted():
    record = record_of({"cutoutDifference": noise((9, 9)).astype(np.float64) + 1e-9}, isdiffpos=True)
    cutout = read_survey_alert(record).cutout
    assert cutout.planes["difference"].dtype == np.float32
    assert "difference: float64 rounded to float32" in cutout.notes


def test_images_of_two_shapes_are_aligned_about_their_middle_pixels():
    template = noise((25, 19), 7)
    record = record_of({"cutoutScience": noise((21, 21)), "cutoutTemplate": template})
    moved = read_survey_alert(record).cutout.planes["template"]
    assert moved.shape == (21, 21)
    assert np.array_equal(moved[:, 1:-1], template[2:-2])
    assert np.isnan(moved[:, [0, -1]]).all()
    uneven = record_of({"cutoutScience": noise((21, 21)), "cutoutTemplate": noise((22, 22))})
    with pytest.raises(SurveyError, match="sides all odd or all even"):
        read_survey_alert(uneven)


@pytest.mark.parametrize("height", [500.0, -500.0])
def test_a_negative_candidate_ends_negative_whichever_way_its_difference_was_sent(height):
    difference = noise((41, 41)) - 100 + star((41, 41), 20, 20, 10 * height)
    cutout = read_survey_alert(record_of({"cutoutDifference": difference}, isdiffpos="f")).cutout
    assert cutout.planes["difference"][20, 20] < -100
    assert any(("multiplied by -1" in note) == (height > 0) for note in cutout.notes)


def test_a_pixel_scale_has_to_come_from_somewhere():
    record = record_of({"cutoutScience": noise((21, 21))}) | {"publisher": "nobody"}
    with pytest.raises(SurveyError, match="no pixel scale"):
        read_survey_alert(record)
    alert = read_survey_alert(record, pixel_scale=0.7)
    assert (alert.survey, alert.cutout.pixel_scale) == ("unknown", 0.7)


def test_a_wcs_gives_scale_and_position():
    cards = {"ctype1": "RA---TAN", "ctype2": "DEC--TAN", "crpix1": 11.0, "crpix2": 11.0, "crval1": 10.0}
    cards |= {"crval2": 20.0, "cd1_1": -1e-4, "cd1_2": 0.0, "cd2_1": 0.0, "cd2_2": 1e-4}
    record = record_of({}, ra=10.0, dec=20.00003)
    record["cutoutScience"] = hdu(noise((21, 21)), **cards)
    cutout = read_survey_alert(record).cutout
    assert cutout.pixel_scale == pytest.approx(0.36)
    assert cutout.position == pytest.approx((10.0, 10.3), abs=1e-6)


def test_an_alert_without_cutout_fields_is_reported():
    with pytest.raises(SurveyError, match="no cutout among"):
        read_survey_alert({"objectId": "X1", "candidate": {"ra": 1.0}})
    with pytest.raises(SurveyError, match="a second science cutout"):
        read_survey_alert(record_of({"cutoutScience": noise((5, 5)), "stampNew": noise((5, 5))}))


@pytest.mark.parametrize("kind", ["RA---TAN-SIP", "RA---TPV"])
def test_a_distorted_wcs_is_linear_to_within_the_stated_error(kind):
    wcs_module = pytest.importorskip("astropy.wcs")
    cards = {"CTYPE1": kind, "CTYPE2": kind.replace("RA---", "DEC--"), "CRPIX1": 500.5, "CRPIX2": -80.25}
    cards |= {"CRVAL1": 210.0, "CRVAL2": 54.0, "CD1_1": -3e-4, "CD1_2": 1e-5, "CD2_1": 2e-5, "CD2_2": 3e-4}
    sip = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 3e-6, "A_1_1": -2e-6, "B_0_2": 4e-6, "B_1_1": 1e-6}
    tpv = {"PV1_1": 1.001, "PV1_2": 2e-4, "PV1_4": 3e-3, "PV2_1": 0.999, "PV2_3": 1e-4, "PV2_6": -2e-3}
    cards |= sip if kind.endswith("SIP") else tpv
    linear, notes = wcs_of(cards, (61, 81))
    assert any("distortion dropped" in note for note in notes)
    x, y = np.meshgrid(np.linspace(-0.5, 80.5, 9), np.linspace(-0.5, 60.5, 9))
    true = wcs_module.WCS(cards).all_pix2world(x, y, 0)
    ra, dec = linear.pixel_to_world(x, y)
    error = 3600 * np.hypot((ra - true[0]) * np.cos(np.radians(dec)), dec - true[1])
    assert 0 < linear.max_error < 1.0
    assert error.max() <= linear.max_error * 1.01 + 1e-6


@pytest.mark.parametrize(
    "cards",
    [
        {},
        {"CRPIX1": 1.0, "CRPIX2": 1.0, "CRVAL1": 1.0, "CRVAL2": 1.0},
        {"CRPIX1": 1.0, "CRPIX2": 1.0, "CRVAL1": 1.0, "CRVAL2": 1.0, "CD1_1": 1.0},
        {"CRPIX1": 1.0, "CRPIX2": 1.0, "CRVAL1": 1.0, "CRVAL2": "x", "CDELT1": 1.0, "CDELT2": 1.0},
        {"CTYPE1": "GLON-CAR", "CTYPE2": "GLAT-CAR", "CRPIX1": 1.0, "CRPIX2": 1.0, "CRVAL1": 1.0}
        | {"CRVAL2": 1.0, "CDELT1": 1.0, "CDELT2": 1.0},
        {"RADESYS": "FK4", "CRPIX1": 1.0, "CRPIX2": 1.0, "CRVAL1": 1.0, "CRVAL2": 1.0, "CDELT1": 1.0},
    ],
)
def test_a_header_without_a_usable_wcs_gives_none(cards):
    assert wcs_of(cards, (9, 9))[0] is None


def values_in_place_of(rng: random.Random) -> object:
    odd = [
        None,
        "",
        "text",
        b"",
        b"bytes",
        -999.0,
        float("nan"),
        float("inf"),
        10**30,
        True,
        [],
        {},
        [1],
        {"a": 1},
    ]
    return rng.choice(odd)


def generic_record() -> dict[str, object]:
    record = record_of({"cutoutScience": noise((9, 9)), "cutoutDifference": noise((9, 9), 1)}, isdiffpos="f")
    return record | {
        "prv_candidates": [{"jd": 2459000.0, "ra": 1.0, "dec": 2.0, "candid": 3}],
        "fp_hists": [{"mjd": 1.0}],
    }


def copied(value: object) -> object:
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def records_within(value: object) -> list[dict[str, object]]:
    if isinstance(value, list):
        return [found for item in value for found in records_within(item)]
    if not isinstance(value, dict) or not value:
        return []
    return [value, *(found for item in value.values() for found in records_within(item))]


@pytest.mark.parametrize("make", [ztf_record, lsst_record, generic_record], ids=["ztf", "lsst", "other"])
def test_records_with_wrong_values_give_an_alert_or_a_stamp_error(make):
    """Whatever a schema lets a field be: nothing but StampError, and what converts fits the schema."""
    rng, schema, whole = random.Random(2), alert_schema(), make()
    n_converted = 0
    for _ in range(400):
        record = copied(whole)
        for _ in range(rng.randint(1, 3)):
            place = rng.choice(records_within(record))
            place[rng.choice(list(place))] = values_in_place_of(rng)
        try:
            alert = read_survey_alert(record)
        except StampError:
            continue
        n_converted += 1
        assert fastavro.validate({**alert.fields, "cutout": None}, schema, strict=True)
    assert n_converted > 50


EXPECTED = {  # alerts that convert, by survey
    "ZTF": 219,
    "LSST": 49,
    "PGIR": 4,
    "WINTER": 3,
    "WIRC": 2,
    "DECam": 1,
    "Roman": 1,
}


@shared_data
@needs_shared
def test_every_real_alert_converts_or_says_what_is_missing():
    schema = alert_schema()
    converted, reported, n_alerts = collections.Counter(), collections.Counter(), 0
    for path, written, record in real_alerts("alerts/ztf", "alerts/lsst", "alerts/other"):
        n_alerts += 1
        try:
            alert = read_survey_alert(record, schema=written)
        except StampError as error:
            reported[path.name[:5], error.reason, error.found] += 1
            continue
        converted[alert.survey] += 1
        assert fastavro.validate({**alert.fields, "cutout": None}, schema, strict=True)
        assert len({plane.shape for plane in alert.cutout.planes.values()}) == 1
    assert converted == EXPECTED
    assert reported == {("TURBO", "survey", "no pixel scale in the packet"): 3}
    assert n_alerts == converted.total() + reported.total() == 282


@shared_data
@needs_shared
def test_turbo_converts_with_a_pixel_scale():
    for path, schema, record in real_alerts("alerts/other"):
        if path.name.startswith("TURBO"):
            assert read_survey_alert(record, schema=schema, pixel_scale=1.0).survey == "TURBO"


@shared_data
@needs_shared
def test_the_labelled_stamps_convert_with_their_sign_from_the_sky_noise():
    signs, truth = collections.Counter(), {}
    for _, _, record in real_alerts("alerts/ztf"):
        truth[record["candid"]] = record["candidate"]["isdiffpos"] == "t"
    n_checked = 0
    for _, schema, record in real_alerts("ztf_labelled"):
        assert detect_survey(record, schema) == "ZTF"
        cutout = read_survey_alert(record, schema=schema).cutout
        was_kept = not any("multiplied by -1" in note for note in cutout.notes)
        signs[was_kept if "difference" in cutout.planes else None] += 1
        if record["candid"] in truth and "difference" in cutout.planes:
            n_checked += 1
            assert was_kept == truth[record["candid"]]
    assert signs == {True: 760, False: 412, None: 1}
    assert n_checked == 170


@shared_data
@needs_shared
def test_the_roman_position_and_wcs_agree_with_astropy():
    wcs_module = pytest.importorskip("astropy.wcs")
    fits = pytest.importorskip("astropy.io.fits")
    [(_, schema, record)] = [e for e in real_alerts("alerts/other") if e[0].name.startswith("Roman")]
    cutout = read_survey_alert(record, schema=schema).cutout
    source = record["diaSource"]
    assert cutout.center == (64, 64)
    expected = 64 + source["x"] - round(source["x"]), 64 + source["y"] - round(source["y"])
    assert cutout.position == pytest.approx(expected, abs=0.002)
    true = wcs_module.WCS(fits.open(BytesIO(record["cutoutScience"]))[0].header)
    ra, dec = true.all_pix2world(128, 0, 0)
    found = cutout.wcs.pixel_to_world(np.array(128), np.array(0))
    assert found == pytest.approx((float(ra), float(dec)), abs=0.002 / 3600 / np.cos(np.radians(28.3)))
    assert set(cutout.units.values()) == {"adu/s"}


@shared_data
@needs_shared
def test_an_empty_container_holds_no_alert():
    [path] = (SHARED / "alerts" / "damaged").glob("part-*.avro")
    assert read_file(path)[1] == []
