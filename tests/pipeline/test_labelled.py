"""Files of labelled stamps: what is written comes back, and what is not one is named."""

from dataclasses import fields, replace

import numpy as np
import pytest

import multiscale
from multiscale import Geometry, Placement, encode_cutouts
from multiscale.avro import Schema, container_of, encode_body
from reference_pipeline.errors import FileError
from reference_pipeline.labelled.stamp import (
    LabelledStamp,
    Original,
    read_stamp_records,
    read_stamps,
    stamp_files,
    write_stamps,
)
from reference_pipeline.taxonomy import STAMP_CLASSES


def stamp(k: int = 0, **changes) -> LabelledStamp:
    rng = np.random.default_rng(k)
    image = rng.normal(100.0, 3.0, (80, 90)).astype(np.float32)
    image[5, 7] = np.nan
    planes = {"science": image, "difference": image - 100}
    [cutout] = encode_cutouts(planes, Geometry(8, 3, 1.01), [Placement.at(40.3, 30.6)])
    kept = {name: plane[10:41, 20:51] for name, plane in planes.items()}
    plain = {
        "stamp_id": f"s-{k}", "label": "SN", "object_id": "o", "exposure_id": "e", "field_id": "f",
        "survey": "ztf", "branch": "dip", "band": "g", "mjd": 60000.25, "ra": 359.99, "dec": -12.5,
        "snr": -7.25, "cutout": cutout, "original": Original(kept, 20.3, 20.6), "magnitude": 19.5,
        "subtype": "SN Ia", "n_detections": 4, "is_first": False, "source": "truth",
    }  # fmt: skip
    return LabelledStamp(**(plain | changes))


def test_stamps_come_back_as_they_were_written(tmp_path):
    nothing = {"original": None, "magnitude": None, "subtype": None}
    bogus = stamp(1, label="bogus", cause="cosmic_ray", cut="mask", is_weak=True, is_random=False, **nothing)
    path = tmp_path / "deep" / "a.stamps.avro"
    assert write_stamps(path, [stamp(), bogus]) == 2
    back = list(read_stamps(path))
    for written, read in zip((stamp(), bogus), back, strict=True):
        for field in fields(LabelledStamp):
            if field.name not in ("cutout", "original"):
                assert getattr(read, field.name) == getattr(written, field.name), field.name
        assert read.cutout.to_record() == written.cutout.to_record()
    original = back[0].original
    assert (original.shape, original.x, original.y) == ((31, 31), 20.3, 20.6)
    for name, plane in stamp().original.planes.items():
        np.testing.assert_array_equal(original.planes[name], plane)
    assert back[1].original is None


def test_the_same_stamps_give_the_same_bytes(tmp_path):
    a, b = tmp_path / "a.stamps.avro", tmp_path / "b.stamps.avro"
    write_stamps(a, [stamp(k) for k in range(3)])
    write_stamps(b, (stamp(k) for k in range(3)))
    assert a.read_bytes() == b.read_bytes()
    write_stamps(b, [stamp(k) for k in range(2)])
    assert a.read_bytes() != b.read_bytes()
    assert not list(tmp_path.glob("*.partial*"))


def test_an_empty_set_is_a_file_without_stamps(tmp_path):
    path = tmp_path / "a.stamps.avro"
    assert write_stamps(path, []) == 0
    assert list(read_stamps(path)) == []


def test_the_tools_of_multiscale_read_the_file(tmp_path):
    path = tmp_path / "a.stamps.avro"
    write_stamps(path, [stamp(k) for k in range(4)])
    [group] = multiscale.decode_batch(read_stamp_records(path)).groups
    assert len(group.indices) == 4
    levels = group.levels[next(iter(group.levels))]
    assert levels.shape == (4, 3, 8, 8)
    np.testing.assert_array_equal(levels[2], stamp(2).cutout.levels("science"))


@pytest.mark.parametrize("changes", [{"label": "supernova"}, {"label": "bogus", "cause": "aliens"}])
def test_unknown_classes_and_causes_are_refused(changes):
    with pytest.raises(ValueError, match="expected one of"):
        stamp(**changes)
    assert {stamp(label=name).label for name in STAMP_CLASSES} == set(STAMP_CLASSES)


def test_what_is_no_file_of_stamps_is_named(tmp_path):
    path = tmp_path / "a.stamps.avro"
    write_stamps(path, [stamp()])
    whole = path.read_bytes()
    other = Schema.of({"type": "record", "name": "Other", "fields": [{"name": "n", "type": "int"}]})
    for content in (b"text", whole[: len(whole) // 2], container_of(other, [encode_body(other, {"n": 1})])):
        path.write_bytes(content)
        with pytest.raises(FileError) as caught:
            list(read_stamps(path))
        assert caught.value.reason == "not-labelled"
    with pytest.raises(FileError, match="No such file"):
        list(read_stamps(tmp_path / "nothing"))


def test_a_record_of_a_class_that_is_not_known_is_named_with_its_number(tmp_path):
    path = tmp_path / "a.stamps.avro"
    bad = stamp(1)
    object.__setattr__(bad, "label", "comet")
    write_stamps(path, [stamp(), bad])
    read = read_stamps(path)
    assert next(read).label == "SN"
    with pytest.raises(FileError, match="record 1: label 'comet'"):
        next(read)


def test_folders_are_searched_and_files_taken_as_they_are(tmp_path):
    for name in ("b/2", "b/1", "a"):
        write_stamps(tmp_path / f"{name}.stamps.avro", [stamp()])
    (tmp_path / "b" / "notes.txt").write_text("no stamps")
    found = stamp_files([tmp_path / "b", tmp_path / "a.stamps.avro"])
    assert [f.relative_to(tmp_path).as_posix() for f in found] == [
        "b/1.stamps.avro", "b/2.stamps.avro", "a.stamps.avro",
    ]  # fmt: skip
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="no file"):
        stamp_files([tmp_path / "empty"])


def test_a_stamp_is_a_value():
    one = stamp()
    assert replace(one, label="AGN").label == "AGN"
    assert one.label == "SN"
