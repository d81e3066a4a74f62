"""ZTF: where a cutout lies on the chip, the sign of its difference, and the fields of the alert."""

from __future__ import annotations

import csv
import gzip

import fastavro
import numpy as np
import pytest
from survey_samples import (
    SHARED,
    alert_schema,
    hdu,
    needs_shared,
    noise,
    real_alerts,
    shared_data,
    star,
    ztf_record,
)

from multiscale.errors import SurveyError
from multiscale.surveys import detect_survey, fitsio, planes, read_survey_alert, ztf


def stamp(image: np.ndarray) -> dict[str, object]:
    return {"fileName": "", "stampData": gzip.compress(hdu(image, bunit="DN"))}


def centroid(image: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """Windowed centroid (Gaussian of σ 1.2 pixels), started at the pixel (x, y)."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    image = np.where(np.abs(image) < 1e30, image, np.nan)
    image = np.nan_to_num(image - np.nanmedian(image))
    for _ in range(30):
        near = (np.abs(rows - y) < 5) & (np.abs(columns - x) < 5)
        weighted = near * image * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.2**2))
        total = weighted.sum()
        if total <= 0:
            return np.nan, np.nan
        x, y = x + 2 * (weighted * (columns - x)).sum() / total, y + 2 * (weighted * (rows - y)).sum() / total
    return x, y


def test_a_whole_cutout_is_centred_on_pixel_31_and_its_object_beside_it():
    cutout = read_survey_alert(ztf_record(x=1000.3, y=1500.8)).cutout
    assert cutout.center == (31, 31)
    assert cutout.position == pytest.approx((31.3, 30.8))
    assert cutout.clipped_by == "CUTOUT"
    assert {key: plane.shape for key, plane in cutout.planes.items()} == dict.fromkeys(
        planes.IMAGES, (63, 63)
    )
    assert {plane.dtype for plane in cutout.planes.values()} == {np.dtype(np.float32)}
    assert set(cutout.units.values()) == {"adu"}
    assert cutout.pixel_scale == 1.012
    assert cutout.missing == []


@pytest.mark.parametrize(
    ("x", "y", "shape", "center"),
    [
        (24.45, 1000.0, (63, 55), (23, 31)),
        (1.2, 1000.0, (63, 32), (0, 31)),
        (3042.27, 1000.0, (63, 62), (31, 31)),
        (1000.0, 26.8, (58, 63), (31, 26)),
        (1000.0, 3063.77, (48, 63), (31, 31)),
        (3071.6, 3079.7, (32, 32), (31, 31)),
        (10.4, 3079.7, (32, 41), (9, 31)),
    ],
)
def test_a_cutout_clipped_by_the_chip_keeps_its_object_in_place(x, y, shape, center):
    cutout = read_survey_alert(ztf_record(x=x, y=y)).cutout
    difference = cutout.planes["difference"]
    assert difference.shape == shape
    assert cutout.center == center
    assert cutout.clipped_by == "DETECTOR"
    if min(*center, shape[0] - center[1], shape[1] - center[0]) > 5:  # the centroid's window fits in
        assert centroid(difference, *center) == pytest.approx(cutout.position, abs=0.2)


def test_without_xpos_the_position_is_unknown_and_a_clipped_side_is_taken_from_the_peak():
    for x, center in ((20.2, 19), (3060.2, 31)):
        record = ztf_record(x=x)
        record["candidate"].update(xpos=None, ypos=None)
        cutout = read_survey_alert(record).cutout
        assert (cutout.center[0], cutout.position, cutout.clipped_by) == (center, None, "UNKNOWN")
        assert any("clipped side taken from the peak" in note for note in cutout.notes)


def test_a_clipped_cutout_without_xpos_or_peak_is_reported():
    record = ztf_record(x=20.2)
    record["candidate"].update(xpos=None, ypos=None)
    for name in ("cutoutScience", "cutoutTemplate", "cutoutDifference"):
        record[name] = stamp(noise((63, 51)))
    with pytest.raises(SurveyError, match="clipped side can be told"):
        read_survey_alert(record)


def test_a_position_that_contradicts_a_whole_cutout_is_noted():
    record = ztf_record()
    record["candidate"]["xpos"] = 12.25
    cutout = read_survey_alert(record).cutout
    assert cutout.center == (31, 31)
    assert any("xpos 12.25 is too near the chip's edge" in note for note in cutout.notes)


@pytest.mark.parametrize("flag", ["f", "0", False, 0.0, "false"])
def test_a_faded_object_gets_a_negative_difference(flag):
    record = ztf_record(fades=True)
    record["candidate"]["isdiffpos"] = flag
    shipped = fits_pixels(record["cutoutDifference"])
    alert = read_survey_alert(record)
    difference = alert.cutout.planes["difference"]
    assert difference.tobytes() == (-shipped).tobytes()
    assert difference[31, 31] < np.median(difference) - 50
    assert any(note.startswith("difference multiplied by -1") for note in alert.cutout.notes)
    assert alert.fields["detection"]["isPositive"] is False
    assert alert.fields["detection"]["snr"] == -12.0


def fits_pixels(field):
    return fitsio.read_image(field["stampData"])[1]


@pytest.mark.parametrize("fades", [False, True])
def test_without_isdiffpos_the_sky_noise_tells_the_sign(fades):
    record = ztf_record(fades=fades)
    record["candidate"]["isdiffpos"] = None
    cutout = read_survey_alert(record).cutout
    difference = cutout.planes["difference"]
    assert (difference[31, 31] < np.median(difference)) == fades
    assert any("no isdiffpos, noise correlation" in note for note in cutout.notes)


def test_a_difference_of_unknown_sign_is_left_out_and_said_to_be_missing():
    record = ztf_record()
    record["candidate"]["isdiffpos"] = None
    record["cutoutDifference"] = stamp(noise((63, 63), 9))
    cutout = read_survey_alert(record).cutout
    assert set(cutout.planes) == {"science", "template"}
    [missing] = cutout.missing
    assert (missing.kind, missing.of, missing.reason) == ("DIFFERENCE", "NONE", "UNKNOWN")
    assert missing.detail.startswith("its sign cannot be told: no isdiffpos")


def test_a_lone_difference_of_unknown_sign_is_reported():
    record = ztf_record()
    record["candidate"]["isdiffpos"] = None
    del record["cutoutScience"], record["cutoutTemplate"]
    with pytest.raises(SurveyError, match="to tell the sign of the difference"):
        read_survey_alert(record)


def test_no_data_values_stay_and_are_noted():
    record, template = ztf_record(), noise((63, 63))
    template[:3] = -3.4e38
    template[5, 5] = np.nan
    record["cutoutTemplate"] = stamp(template)
    cutout = read_survey_alert(record).cutout
    assert cutout.planes["template"].tobytes() == template.tobytes()
    assert "template: 189 pixels of -3.4e+38 hold no data" in cutout.notes


@pytest.mark.parametrize("absent", [None, {"fileName": "", "stampData": b""}])
def test_a_null_cutout_is_a_missing_plane(absent):
    record = ztf_record()
    record["cutoutTemplate"] = absent
    cutout = read_survey_alert(record).cutout
    assert set(cutout.planes) == {"science", "difference"}
    [missing] = cutout.missing
    assert missing == ("TEMPLATE", "NONE", "UNKNOWN", "cutoutTemplate is null")


def test_a_packet_without_any_cutout_is_reported():
    record = ztf_record() | dict.fromkeys(("cutoutScience", "cutoutTemplate", "cutoutDifference"))
    with pytest.raises(SurveyError, match="no cutout"):
        read_survey_alert(record)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("cutoutScience", {"stampData": b"no FITS"}, "cutout-image"),
        ("cutoutTemplate", stamp(noise((63, 61))), "cutout-image"),
        ("cutoutDifference", stamp(noise((65, 65))), "cutout-image"),
        ("candidate", {"ra": None}, "survey"),
        ("candid", None, "survey"),
    ],
)
def test_what_cannot_be_converted_is_a_survey_error(name, value, reason):
    record = ztf_record()
    record[name] = record[name] | value if name == "candidate" else value
    with pytest.raises(SurveyError) as caught:
        read_survey_alert(record)
    assert caught.value.reason == reason
    assert name == "candid" or name in caught.value.where or caught.value.where == ""


def test_the_fields_fit_the_alert_schema_and_say_what_the_packet_says():
    record = ztf_record()
    untouched = repr(record)
    alert = read_survey_alert(record)
    assert repr(record) == untouched
    assert alert.record is record
    assert alert.cutout_fields == ("cutoutScience", "cutoutTemplate", "cutoutDifference")
    fields = alert.fields
    assert fastavro.validate({**fields, "cutout": None}, alert_schema(), strict=True)
    detection = fields["detection"]
    assert detection["time"] == pytest.approx(59000.5 + 15 / 86400, abs=1e-9)
    assert (detection["x"], detection["y"]) == pytest.approx((999.3, 1499.8))
    assert (detection["band"], detection["exposureId"], detection["detector"]) == ("r", "124650000", "rcid 5")
    assert detection["fwhm"] == pytest.approx(2.024)
    [earlier] = fields["history"]
    assert (earlier["detectionId"], earlier["time"]) == ("1241500000515015001", 58995.0)
    [upper] = fields["upperLimits"]
    assert (upper["limitingMagnitude"], upper["band"]) == (20.1, "g")
    [forced] = fields["forcedPhotometry"]
    assert (forced["flux"], forced["flags"]) == (None, ["procstatus 61"])
    assert [match["sourceId"] for match in fields["crossMatches"]] == ["1234", "77"]
    assert fields["crossMatches"][0]["separation"] == 0.0
    assert [c["classifier"] for c in fields["classifications"]] == ["rb", "drb"]
    assert "magnr" not in fields["properties"]


def test_an_altered_time_is_noted():
    record = ztf_record()
    record["candidate"]["jd"] -= 0.4
    actions = [step["action"] for step in read_survey_alert(record).fields["provenance"]]
    assert "jd is -0.40000 days from the time in candid: one of them was altered" in actions


def test_brokers_fields_and_schema_names_do_not_matter():
    record = {"candid": 1, "timestamp": 3.0, **ztf_record(), "publisher": "Fink", "cdsxmatch": "Star"}
    assert detect_survey(record, {"name": "topLevelRecord", "type": "record"}) == "ZTF"
    assert read_survey_alert(record).survey == "ZTF"


@shared_data
@needs_shared
def test_real_positions_follow_xpos_and_the_clipped_shapes_follow_the_chip():
    offsets, n_clipped, n_alerts = [], 0, 0
    for _, schema, record in real_alerts("alerts/ztf"):
        cutout = read_survey_alert(record, schema=schema).cutout
        n_alerts += 1
        n_clipped += cutout.clipped_by == "DETECTOR"
        assert (cutout.clipped_by == "DETECTOR") == (cutout.planes["science"].shape != (63, 63))
        if np.abs(planes.center_excess(cutout.planes["difference"], *cutout.center)) > 8:
            shown = cutout.planes["difference"]
            sign = -1 if record["candidate"]["isdiffpos"] == "f" else 1
            offsets.append(np.subtract(centroid(sign * shown, *cutout.center), cutout.position))
    assert (n_alerts, n_clipped) == (219, 15)
    assert len(offsets) > 100
    # A wrong rounding, a 1-based offset or half a pixel would shift the median by 0.25 or more.
    assert np.abs(np.median(offsets, axis=0)) == pytest.approx((0, 0), abs=0.02)
    assert np.median(np.abs(offsets), axis=0) == pytest.approx((0, 0), abs=0.1)


@shared_data
@needs_shared
def test_every_real_negative_alert_is_negative_at_its_centre_after_the_sign_rule():
    n_negative = 0
    for _, schema, record in real_alerts("alerts/ztf"):
        cutout = read_survey_alert(record, schema=schema).cutout
        is_negative = record["candidate"]["isdiffpos"] == "f"
        n_negative += is_negative
        excess = planes.center_excess(cutout.planes["difference"], *cutout.center)
        assert (excess < 0) == is_negative
        sign = planes.noise_sign(*(cutout.planes[image] for image in planes.IMAGES))
        assert sign > 0.05
    assert n_negative == 75


@shared_data
@needs_shared
def test_the_peak_finds_the_clipped_side_of_the_real_clipped_cutouts():
    found = {None: 0, True: 0, False: 0}
    for _, _, record in real_alerts("alerts/ztf"):
        known = read_survey_alert(record).cutout
        if known.clipped_by == "DETECTOR":
            blind = dict(record, candidate=dict(record["candidate"], xpos=None, ypos=None))
            center = center_or_none(blind)
            found[None if center is None else center == known.center] += 1
    assert found == {True: 13, False: 0, None: 2}  # None: reported as not told


def center_or_none(record):
    try:
        return read_survey_alert(record).cutout.center
    except SurveyError:
        return None


@shared_data
@needs_shared
def test_real_times_disagree_with_candid_where_the_manifest_says_so():
    with (SHARED / "alerts" / "MANIFEST.csv").open() as file:
        agrees = {row["candid"]: row["jd_matches_candid"] == "True" for row in csv.DictReader(file)}
    for _, _, record in real_alerts("alerts/ztf"):
        actions = [step["action"] for step in read_survey_alert(record).fields["provenance"]]
        is_altered = any("from the time in candid" in action for action in actions)
        assert is_altered != agrees[str(record["candid"])]


def test_a_source_at_the_corner_of_the_chip_is_the_cutouts_first_pixel():
    assert ztf.axis_of(32, 1.2, 3072, "xpos")[:3] == (0, pytest.approx(0.2), "DETECTOR")
    assert star((3, 3), 1, 1).argmax() == 4
