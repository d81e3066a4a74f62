"""Conversion: which grid a survey's cutout gets, what an embedded schema keeps, and the simulated samples."""

import fastavro
import numpy as np
import pytest

import multiscale as ms
import multiscale.avro
from multiscale.budget import layout_bytes
from multiscale.convert import Converted, NotConverted, Options, convert_file, convert_record, embedded_schema
from multiscale.samples import CLASSES, LSST_SCHEMA, ZTF_SCHEMA, sample_records, write_samples
from multiscale.surveys import read_survey_alert

SCHEMAS = {"ztf": ZTF_SCHEMA, "lsst": LSST_SCHEMA}


@pytest.mark.parametrize("survey", ["ztf", "lsst"])
def test_samples_are_the_same_for_the_same_seed_and_fit_their_schema(survey, tmp_path):
    for name in ("a", "b"):
        write_samples(tmp_path / name, survey=survey, n=3, seed=5)
    first, second = (list(ms.avro.read_container(tmp_path / name)) for name in ("a", "b"))
    assert first == second
    records = list(sample_records(survey, 6))
    assert all(fastavro.validate(record, fastavro.parse_schema(SCHEMAS[survey])) for record in records)


@pytest.mark.parametrize("survey", ["ztf", "lsst"])
def test_a_sampled_point_source_lies_where_the_packet_says(survey):
    for i, record in enumerate(sample_records(survey, 60, seed=11)):
        if CLASSES[i % len(CLASSES)] != "asteroid":
            continue
        alert, cutout = convert_record(record, SCHEMAS[survey], Options())
        difference = cutout.levels("difference")[0].astype(float) - cutout.plane("difference").background
        noise = cutout.plane("difference").noise
        if difference.max() < 30 * noise or not np.isfinite(difference).all():
            continue
        half = 3
        size = cutout.size
        middle = slice(size // 2 - half, size // 2 + half)
        core = np.clip(difference[middle, middle], 3 * noise, None) - 3 * noise
        y, x = np.mgrid[middle, middle] - (size / 2 - 0.5)
        found = np.array([(core * x).sum(), (core * y).sum()]) / core.sum()
        # a centroid in a 6-pixel window of a 2-5 pixel wide source is drawn to its middle: 0.3 px is loose
        assert np.abs(found - [cutout.dx, cutout.dy]).max() < 0.35, (alert.fields["alertId"], found)


def test_ztf_has_its_profile_and_its_own_pixel_scale():
    [record] = sample_records("ztf", 1)
    _, cutout = convert_record(record, ZTF_SCHEMA, Options())
    assert (cutout.size, cutout.n_levels, cutout.pixel_scale) == (8, 4, 1.012)


def test_a_clipped_ztf_cutout_is_placed_around_the_source_and_not_in_the_middle():
    records = list(sample_records("ztf", 5, seed=2))
    record = records[4]  # near the edge of its quadrant, by construction
    alert = read_survey_alert(record, schema=ZTF_SCHEMA)
    width = alert.cutout.planes["science"].shape[1]
    _, cutout = convert_record(record, ZTF_SCHEMA, Options())
    assert width < 63
    assert cutout.clipped.x_low == 63 - width
    assert (cutout.clipped.x_high, cutout.clipped.y_low, cutout.clipped.y_high) == (1, 0, 1)
    assert cutout.clipped_by == "DETECTOR"
    level3 = cutout.levels("science")[3]
    n_empty = (63 - width) // 8  # level-3 pixels that are wholly beyond the chip
    assert np.isnan(level3[:, :n_empty]).all()
    assert np.isfinite(level3[:7, n_empty + 1 :]).all()


def test_the_difference_is_science_minus_template_whatever_was_shipped():
    n_flipped = 0
    for record in sample_records("ztf", 30, seed=4):
        n_flipped += record["candidate"]["isdiffpos"] == "f"
        _, cutout = convert_record(record, ZTF_SCHEMA, Options())
        science, template, difference = (cutout.levels(k) for k in ("science", "template", "difference"))
        step = np.nanmax(np.abs(science)) * 2e-7  # three roundings to binary32 of values up to the brightest
        np.testing.assert_allclose(difference, science - template, atol=4 * step)
    assert n_flipped > 2


def test_an_embedded_schema_defines_a_type_that_went_with_a_removed_field():
    cutout = {"type": "record", "name": "stamp", "fields": [{"name": "data", "type": "bytes"}]}
    schema = {
        "type": "record",
        "name": "alert",
        "namespace": "survey",
        "fields": [
            {"name": "cutoutScience", "type": ["null", cutout], "default": None},
            {"name": "finder", "type": ["null", "stamp"], "default": None},
            {"name": "again", "type": ["null", "survey.stamp"], "default": None},
        ],
    }
    new = embedded_schema(schema, ("cutoutScience",))
    assert [field["name"] for field in new["fields"]] == ["finder", "again", "cutoutMultiscale"]
    record = {"finder": {"data": b"1"}, "again": {"data": b"2"}, "cutoutMultiscale": None}
    assert fastavro.validate(record, fastavro.parse_schema(new, _write_hint=False))


def test_packets_are_converted_as_they_are_asked_for(tmp_path):
    path = tmp_path / "a.avro"
    write_samples(path, survey="ztf", n=4)
    packets = convert_file(path, Options()).packets
    first = next(packets)
    path.unlink()  # what is not read yet is still there for an open file
    assert isinstance(first, Converted)
    assert [p.packet for p in packets] == [1, 2, 3]


def test_a_broken_packet_is_named_and_those_after_it_are_converted(tmp_path):
    records = list(sample_records("ztf", 4))
    records[1]["cutoutScience"]["stampData"] = b"\x1f\x8bnot gzip"
    path = tmp_path / "a.avro"
    with open(path, "wb") as file:
        fastavro.writer(file, ZTF_SCHEMA, records)
    packets = list(convert_file(path, Options()).packets)
    assert [isinstance(p, Converted) for p in packets] == [True, False, True, True]
    assert isinstance(packets[1], NotConverted)
    assert (packets[1].packet, packets[1].error.reason) == (1, "cutout-image")


@pytest.mark.parametrize("step", [0, -1, float("nan"), float("inf")])
def test_a_step_that_is_none_is_refused(step):
    with pytest.raises(ms.StampError, match="step_sigma"):
        Options(step_sigma=step)


def test_rice_costs_less_than_raw_and_a_coarser_step_less_than_a_finer():
    planes = ("science", "template", "difference")
    raw = layout_bytes(ms.profile("LSST-4x16"), planes).n_bytes
    fine, coarse = (
        layout_bytes(ms.profile("LSST-4x16"), planes, encoding="rice", step_sigma=s).n_bytes
        for s in (0.25, 1)
    )
    assert raw > 3 * fine > 3 * coarse
    assert raw > 3 * 4 * 832  # the payloads alone


def test_the_sky_is_right_across_a_pole():
    from multiscale.sky import deproject, project

    for dec0 in (89.9998, -89.9998, 0.0, 60.0):
        for xi, eta in ((0.0, 0.0005), (0.0003, -0.0005), (-0.0004, 0.0001)):
            ra, dec = deproject(xi, eta, 40.0, dec0)
            assert 0 <= ra < 360
            assert abs(dec) <= 90
            np.testing.assert_allclose(project(ra, dec, 40.0, dec0), (xi, eta), atol=1e-12)
