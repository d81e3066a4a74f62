"""LSST: the grid, the repaired WCS, variance, mask and PSF, and the fields of the alert."""

from __future__ import annotations

import math

import fastavro
import numpy as np
import pytest
from survey_samples import (
    alert_schema,
    lsst_record,
    lsst_stamp,
    needs_shared,
    noise,
    real_alerts,
    shared_data,
    star,
)

from multiscale.errors import SurveyError
from multiscale.surveys import detect_survey, read_survey_alert


def test_planes_positions_units_and_psf_are_those_of_the_packet():
    cutout = read_survey_alert(lsst_record()).cutout
    images = ("science", "template", "difference")
    assert set(cutout.planes) == {*images, *(("variance", image) for image in images)}
    assert {plane.dtype for plane in cutout.planes.values()} == {np.dtype(np.float32)}
    assert cutout.units["science"] == "nJy"
    assert cutout.units["variance", "difference"] == "nJy**2"
    assert cutout.planes["variance", "template"][0, 0] == 10
    assert cutout.position == pytest.approx((14.43, 15.02))
    assert cutout.center == (14, 15)  # floor: what the full image gives
    assert cutout.clipped_by == "CUTOUT"
    assert cutout.psf["science"].shape == (41, 41)
    assert cutout.psf["science"].dtype == np.float32
    assert cutout.psf_fwhm == pytest.approx(2.3548 * 0.18**0.5, rel=1e-4)
    assert "science: PSF rounded from float64 to float32" in cutout.notes


def test_the_wcs_is_repaired_and_puts_the_source_at_its_position():
    cutout = read_survey_alert(lsst_record()).cutout
    assert "CTYPE missing: RA---TAN, DEC--TAN assumed" in cutout.notes
    assert cutout.wcs.crval == (53.0, -27.6)
    assert cutout.wcs.crpix == pytest.approx(cutout.position)
    assert cutout.wcs.max_error is None
    assert cutout.pixel_scale == pytest.approx(3600 * math.sqrt(4.0e-5**2 + 3.8e-5**2))
    assert cutout.wcs.world_to_pixel(53.0, -27.6) == pytest.approx(cutout.position)
    ra, dec = cutout.wcs.pixel_to_world(np.array(24.43), np.array(15.02))
    assert dec + 27.6 == pytest.approx(3.8e-4, rel=1e-3)
    assert (ra - 53.0) * math.cos(math.radians(27.6)) == pytest.approx(-4.0e-4, rel=1e-3)


def test_an_image_with_another_origin_is_moved_onto_the_grid_of_the_science_image():
    template = noise((34, 32), 8)
    record = lsst_record(cutoutTemplate=lsst_stamp(template, cutminx=97, cutminy=202))
    cutout = read_survey_alert(record).cutout
    moved = cutout.planes["template"]
    assert moved.shape == (30, 30)
    assert np.array_equal(moved[3:], template[: 30 - 3, 2:])
    assert np.isnan(moved[:3]).all()
    assert any("template: (34, 32) at (-2, 3) cut and padded" in note for note in cutout.notes)


def test_shapes_that_differ_without_an_origin_are_reported():
    record = lsst_record(cutoutTemplate=lsst_stamp(noise((34, 34)), cutminx="?", cutminy="?"))
    with pytest.raises(SurveyError, match="without CUTMINX"):
        read_survey_alert(record)


@pytest.mark.parametrize(
    ("utype", "sent"), [("VarianceUncertainty", 4.0), ("StdDevUncertainty", 2.0), ("InverseVariance", 0.25)]
)
def test_every_uncertainty_that_astropy_writes_becomes_a_variance(utype, sent):
    variance = np.full((30, 30), sent, np.float32)
    record = lsst_record(cutoutScience=lsst_stamp(noise((30, 30)), variance=variance, utype=utype))
    assert (read_survey_alert(record).cutout.planes["variance", "science"] == 4.0).all()


def test_a_mask_becomes_one_named_bit():
    mask = np.zeros((30, 30), np.uint8)
    mask[2, 3] = 1
    cutout = read_survey_alert(lsst_record(cutoutScience=lsst_stamp(noise((30, 30)), mask=mask))).cutout
    plane = cutout.planes["mask", "science"]
    assert (plane.dtype, int(plane.sum()), int(plane[2, 3])) == (np.dtype(np.uint16), 1, 1)
    assert cutout.mask_bits == {("mask", "science"): ("MASKED",)}
    assert cutout.units["mask", "science"] == ""


def test_a_psf_that_is_not_square_is_padded_about_its_centre():
    psf = star((43, 45), 22, 21, 1.0).astype(np.float64)
    cutout = read_survey_alert(lsst_record(cutoutTemplate=lsst_stamp(noise((30, 30)), psf=psf))).cutout
    padded = cutout.psf["template"]
    assert padded.shape == (45, 45)
    assert np.unravel_index(padded.argmax(), padded.shape) == (22, 22)
    assert padded.sum() == pytest.approx(1.0, rel=1e-5)
    assert any("PSF of 43×45 pixels padded with 0 to 45×45" in note for note in cutout.notes)


@pytest.mark.parametrize("shape", [(40, 40), (257, 257)])
def test_a_psf_without_a_central_pixel_or_too_large_is_left_out(shape):
    record = lsst_record(cutoutScience=lsst_stamp(noise((30, 30)), psf=np.ones(shape)))
    cutout = read_survey_alert(record).cutout
    assert "science" not in cutout.psf
    assert any(note.startswith("science: PSF of shape") for note in cutout.notes)


def test_a_null_template_is_a_missing_plane():
    cutout = read_survey_alert(lsst_record(cutoutTemplate=None)).cutout
    assert [entry[:3] for entry in cutout.missing] == [("TEMPLATE", "NONE", "UNKNOWN")]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"cutoutScience": b"SIMPLE"}, "cutoutScience"),
        ({"cutoutScience": lsst_stamp(noise((30, 30)), pc1_1=0, pc1_2=0)}, "cutoutScience"),
        ({"cutoutScience": lsst_stamp(noise((30, 30)), variance=noise((29, 30)))}, "cutoutScience.UNCERT"),
        ({"diaSource": {"midpointMjdTai": None}}, ""),
    ],
)
def test_what_cannot_be_converted_names_its_field(fields, where):
    with pytest.raises(SurveyError) as caught:
        read_survey_alert(lsst_record(**fields))
    assert where in caught.value.where


def test_the_fields_fit_the_alert_schema_and_say_what_the_packet_says():
    alert = read_survey_alert(lsst_record())
    assert alert.survey == "LSST"
    assert alert.cutout_fields == ("cutoutDifference", "cutoutScience", "cutoutTemplate")
    fields = alert.fields
    assert fastavro.validate({**fields, "cutout": None}, alert_schema(), strict=True)
    assert (fields["alertId"], fields["objectId"]) == ("42", "7")
    detection = fields["detection"]
    assert (detection["time"], detection["timeScale"]) == (60700.25, "TAI")
    assert (detection["flux"], detection["fluxUnit"], detection["snr"]) == (-900.0, "nJy", -10.0)
    assert detection["isPositive"] is False
    assert detection["flags"] == ["pixelFlags_edge"]
    # Errors on the sky, whatever raErr means in this schema: from xErr, yErr and the CD matrix.
    assert detection["raErr"] == pytest.approx(3600 * math.hypot(4.0e-5 * 0.1, 3.8e-5 * 0.2))
    assert fields["history"][0]["raErr"] is None
    assert fields["crossMatches"] == []
    assert [entry["flux"] for entry in fields["forcedPhotometry"]] == [3.0]
    assert fields["classifications"][0]["classes"] == [{"name": "real", "probability": 0.75}]
    assert "apFlux" not in fields["properties"]


def test_a_minor_planet_and_neighbours_become_cross_matches():
    planet = {"designation": "2002 JP146", "ephOffset": 0.016, "ephVmag": 0.0}
    near = {"nearbyObj1": 91, "nearbyObj1Dist": 1.5, "nearbyObj2": 0, "nDiaSources": 3}
    fields = read_survey_alert(lsst_record(ssSource=planet, diaObject=near)).fields
    matches = [(m["catalog"], m["sourceId"], m["separation"], m["magnitude"]) for m in fields["crossMatches"]]
    assert matches == [("MPC", "2002 JP146", 0.016, None), ("LSST Object", "91", 1.5, None)]
    assert fields["properties"]["nDiaSources"] == 3


def test_a_source_outside_its_cutout_has_no_position():
    record = lsst_record()
    record["diaSource"]["dec"] = -27.5
    cutout = read_survey_alert(record).cutout
    assert cutout.position is None
    assert cutout.center == (14, 14)


def test_a_packet_without_any_cutout_is_reported():
    with pytest.raises(SurveyError, match="no cutout"):
        read_survey_alert(lsst_record(cutoutScience=None, cutoutTemplate=None, cutoutDifference=None))


@shared_data
@needs_shared
def test_real_alerts_lie_where_their_x_and_y_say_and_are_science_minus_template():
    n_alerts, scales, offsets = 0, [], []
    for _, schema, record in real_alerts("alerts/lsst"):
        assert detect_survey(record, schema) == "LSST"
        cutout = read_survey_alert(record, schema=schema).cutout
        source = record["diaSource"]
        n_alerts += 1
        scales.append(cutout.pixel_scale)
        x, y = cutout.position
        assert cutout.center == (math.floor(x), math.floor(y))
        # The full image's rule (floor(x + 1)) puts the shared corner on the same detector pixel.
        first = source["x"] - x, source["y"] - y
        assert first == pytest.approx(np.round(first), abs=2e-3)
        # An even cutout lies evenly about that corner.
        width = cutout.planes["science"].shape[1]
        if width % 2 == 0:
            assert cutout.center[0] + 1 == width // 2
        excess = cutout.planes["difference"][round(y), round(x)] - np.median(cutout.planes["difference"])
        if source["snr"] > 20:
            assert (excess < 0) == bool(source.get("isNegative", source.get("is_negative")))
            offsets.append(peak_offset(cutout.planes["difference"] * np.sign(excess), x, y))
        assert set(cutout.psf) == {"science", "template", "difference"}
        assert all(plane.shape == plane.shape[::-1] for plane in cutout.psf.values())
    assert n_alerts == 49
    assert sum(0.199 < scale < 0.201 for scale in scales) == 44  # the others are HSC's
    assert np.median(offsets, axis=0) == pytest.approx((0, 0), abs=0.1)


def peak_offset(image: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """Centroid of the 7×7 pixels around (x, y), minus (x, y)."""
    row, column = round(y), round(x)
    box = image[row - 3 : row + 4, column - 3 : column + 4] - np.median(image)
    box = np.clip(box, 0.2 * box.max(), None) - 0.2 * box.max()
    rows, columns = np.mgrid[row - 3 : row + 4, column - 3 : column + 4]
    return float((box * columns).sum() / box.sum() - x), float((box * rows).sum() / box.sum() - y)
