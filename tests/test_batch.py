"""Many packets at once (multiscale.batch): as one by one, and never more trusting."""

import copy
import pickle
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import bits, images

from multiscale import Cutout, Geometry, RecordError, StampError, decode_batch

pytestmark = pytest.mark.filterwarnings("error")

VARIANCE, MASK = ("variance", "science"), ("mask", "science")
GEOMETRIES = [Geometry(8, 3, 1.0), Geometry(8, 3, 2.0), Geometry(4, 2, 1.0), Geometry(8, 1, 1.0)]
PLANE_SETS = [
    ["science"],
    ["science", "template", "difference"],
    ["science", VARIANCE, MASK],
    ["difference", "science"],
]


def record_of(planes=("science",), geometry=GEOMETRIES[0], seed=0, **options):
    rng = np.random.default_rng(seed)
    arrays = {}
    for key in planes:
        kind = key if isinstance(key, str) else key[0]
        arrays[key] = rng.integers(0, 4, (40, 40)) if kind == "mask" else np.abs(rng.normal(50, 5, (40, 40)))
    options = {"x": 20.25, "y": 19.5, "mask_bits": {MASK: ["A", "B"]}} | options
    if MASK not in planes:
        del options["mask_bits"]
    return Cutout.from_images(arrays, geometry, **options).to_record()


def assert_as_one_by_one(records, batch):
    """Every record is in one group, refused or empty, as it would be alone."""
    seen = [*batch.refused, *batch.empty, *(i for group in batch for i in group.indices.tolist())]
    assert sorted(seen) == list(range(len(records)))
    for group in batch:
        for row, index in enumerate(group.indices.tolist()):
            record = records[index]
            cutout = Cutout.from_record(record.get("cutoutMultiscale", record))
            assert cutout.geometry == group.geometry
            for number, key in enumerate(group.levels):
                alone = cutout.levels(*((key,) if isinstance(key, str) else key))
                assert bits(group.levels[key][row]) == bits(alone)
                plane = cutout.plane(*((key,) if isinstance(key, str) else key))
                for name in ("background", "noise"):
                    value = getattr(plane, name)
                    found = getattr(group, name)[key][row]
                    assert np.isnan(found) if value is None else found == np.float32(value)
                assert number < len(cutout.planes)
            for name in ("dx", "dy"):
                value, found = getattr(cutout, name), getattr(group, name)[row]
                assert np.isnan(found) if value is None else found == np.float32(value)


@st.composite
def record_lists(draw):
    records = []
    for seed in range(draw(st.integers(0, 7))):
        planes, geometry = draw(st.sampled_from(PLANE_SETS)), draw(st.sampled_from(GEOMETRIES))
        options = {
            "encoding": draw(st.sampled_from(["raw", "rice", {"science": "rice"}])),
            "statistics": draw(st.booleans()),
            "x": draw(st.sampled_from([20.25, 1.0, 39.0, 200.0])),
        }
        record = record_of(planes, geometry, seed, **options)
        if draw(st.booleans()):
            record["dx"] = record["dy"] = None
        damage = draw(st.sampled_from(["none"] * 4 + ["crc", "payload", "field", "null", "embed"]))
        if damage == "crc":
            record["planes"][-1]["crc32"] ^= 1
        elif damage == "payload":
            record["planes"][0]["payload"] = record["planes"][0]["payload"][:-1]
        elif damage == "field":
            record["dx"] = 5.0
        elif damage in ("null", "embed"):
            record = {"candid": 1, "cutoutMultiscale": None if damage == "null" else record}
        records.append((damage, record))
    return records


@given(record_lists())
def test_a_batch_is_as_its_packets_one_by_one(damaged):
    records = [record for _, record in damaged]
    batch = decode_batch(records, strict=False)
    assert_as_one_by_one(records, batch)
    assert batch.empty == tuple(i for i, (damage, _) in enumerate(damaged) if damage == "null")
    assert sorted(batch.refused) == [
        i for i, (damage, _) in enumerate(damaged) if damage in ("crc", "payload", "field")
    ]
    assert batch.later == {}
    for index, error in batch.refused.items():
        with pytest.raises(StampError) as caught:
            decode_alone(records[index])
        assert str(caught.value) == str(error)


def decode_alone(record):
    cutout = Cutout.from_record(record)
    return [cutout.levels(*((key,) if isinstance(key, str) else key)) for key in cutout.keys]


def test_groups_are_of_equal_geometry_and_planes_in_the_order_met():
    records = [
        record_of(PLANE_SETS[1]), record_of(PLANE_SETS[0]), record_of(PLANE_SETS[1], seed=1),
        record_of(PLANE_SETS[1], GEOMETRIES[1]), record_of(["template", "science", "difference"]),
    ]  # fmt: skip
    groups = decode_batch(records).groups
    assert [group.indices.tolist() for group in groups] == [[0, 2], [1], [3], [4]]
    assert list(groups[0].levels) == ["science", "template", "difference"]
    assert groups[0].levels["science"].shape == (2, 3, 8, 8)
    assert groups[0].levels["science"].flags.c_contiguous
    assert groups[0].indices.dtype == np.int64
    assert {a.dtype for a in (groups[0].dx, groups[0].dy, groups[0].noise["science"])} == {
        np.dtype(np.float32)
    }


def test_masks_are_integers():
    [group] = decode_batch([record_of(PLANE_SETS[2])]).groups
    assert group.levels[MASK].dtype == np.uint16
    assert group.levels[VARIANCE].dtype == np.float32


def test_nothing_gives_no_groups():
    batch = decode_batch([])
    assert (list(batch), batch.refused, batch.empty, batch.later) == ([], {}, (), {})


def test_a_cutout_without_planes_is_in_a_group_without_levels():
    record = record_of() | {"planes": []}
    [group] = decode_batch([record, record]).groups
    assert (group.levels, group.indices.tolist()) == ({}, [0, 1])
    assert group.dx.tolist() == [0.25 - 0.5] * 2 or group.dx.shape == (2,)


def test_a_strict_batch_raises_the_first_error_and_says_where():
    records = [record_of(PLANE_SETS[1], seed=i) for i in range(4)]
    records[3]["dx"] = 7.0
    records[2]["planes"][1]["crc32"] ^= 1
    with pytest.raises(StampError) as caught:
        decode_batch(records)
    assert caught.value.where == "records[2].planes[1].crc32"
    assert caught.value.reason == "crc"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert sorted(decode_batch(records, strict=False).refused) == [2, 3]


def test_a_group_whose_packets_are_all_refused_is_none():
    records = [record_of(), record_of(["template"])]
    records[1]["planes"][0]["payload"] = b""
    batch = decode_batch(records, strict=False)
    assert [group.indices.tolist() for group in batch] == [[0]]
    assert batch.refused[1].where == "planes[0].payload"


@pytest.mark.parametrize("symbol", ["UNKNOWN", "HALPHA"])
@pytest.mark.parametrize("field", ["kind", "of", "encoding"])
@pytest.mark.parametrize("number", [1, 2])
def test_planes_of_a_later_version_are_left_out_and_named(symbol, field, number):
    """A reader that resolves with our schema sees UNKNOWN, one that does not the new symbol (6.3, 10.1)."""
    records = [record_of(PLANE_SETS[1], seed=i) for i in range(3)]
    for plane in records[1]["planes"][:number]:
        plane[field] = symbol
    records[1]["specVersion"] = "1.4"
    records[1]["missing"] = [{"kind": symbol, "of": "NONE", "reason": symbol, "detail": "", "more": 5}]
    batch = decode_batch(records)
    assert batch.refused == {}
    assert [error.where for error in batch.later[1]] == [f"planes[{j}].{field}" for j in range(number)]
    assert {error.reason for error in batch.later[1]} == {"unknown-symbol"}
    whole, partial = batch.groups
    assert (whole.indices.tolist(), partial.indices.tolist()) == ([0, 2], [1])
    assert list(partial.levels) == ["science", "template", "difference"][number:]
    cutout = Cutout.from_record(records[1])
    assert bits(partial.levels["difference"][0]) == bits(cutout.levels("difference"))
    assert len(cutout.planes) == 3
    assert cutout.missing[0].reason == "UNKNOWN"
    with pytest.raises(StampError):
        cutout.levels("science")


def test_the_place_of_a_bad_plane_counts_those_of_a_later_version():
    record = record_of(PLANE_SETS[1])
    record["planes"][0]["kind"] = "UNKNOWN"
    record["planes"][2]["crc32"] ^= 1
    batch = decode_batch([record], strict=False)
    assert batch.refused[0].where == "planes[2].crc32"
    assert batch.groups == ()


@pytest.mark.parametrize(
    "record",
    [None, 5, "abc", b"", [], {}, {"candid": 1}, {"cutout": 5}, {"cutoutMultiscale": {}},
     {"planes": 1, "nLevels": 2}, {"planes": [], "nLevels": []}],
)  # fmt: skip
def test_what_is_no_record_is_refused(record):
    batch = decode_batch([record_of(), record], strict=False)
    assert list(batch.refused) == [1]
    assert isinstance(batch.refused[1], RecordError)
    assert batch.refused[1].reason == "record"


@pytest.mark.parametrize(
    "name", ["specVersion", "size", "nLevels", "pixelScale", "dx", "sky", "clipped", "planes", "missing"]
)
@pytest.mark.parametrize("junk", [None, "x", [3], {"a": 1}, object(), b"x"])
def test_a_field_of_another_type_refuses_its_packet_only(name, junk):
    batch = decode_batch([record_of(), record_of() | {name: junk}], strict=False)
    assert 0 in batch.groups[0].indices
    assert list(batch.refused) == [1] or (name, junk) == ("sky", None) or name == "missing"


@pytest.mark.parametrize("field", ["payload", "stepExponent", "noise", "crc32", "invalid"])
@pytest.mark.parametrize("encoding", ["raw", "rice"])
def test_a_payload_of_another_type_refuses_its_packet_and_leaves_the_group_whole(field, encoding):
    records = [record_of(PLANE_SETS[1], seed=i, encoding=encoding) for i in range(4)]
    records[2]["planes"][1][field] = "x" * len(records[2]["planes"][1]["payload"])
    batch = decode_batch(records, strict=False)
    assert [group.indices.tolist() for group in batch] == [[0, 1, 3]]
    assert list(batch.refused) == [2]


def test_another_major_version_is_named_before_anything_else():
    batch = decode_batch([{"cutoutMultiscale": {"specVersion": "2.0", "tiles": 5}}], strict=False)
    assert batch.refused[0].reason == "version"


def test_records_are_left_as_they_were():
    records = [record_of(PLANE_SETS[2], seed=i, encoding="rice") for i in range(3)]
    records[1]["planes"][0]["kind"] = "UNKNOWN"
    before = copy.deepcopy(records)
    decode_batch(records, strict=False)
    assert records == before


def test_a_large_batch_is_as_its_packets_one_by_one():
    """More planes than a block holds, some of them bad."""
    geometry = Geometry(16, 4)
    records = [
        record_of(PLANE_SETS[1], geometry, seed=i % 5, encoding="rice" if i % 3 else "raw") for i in range(50)
    ]
    records = [copy.deepcopy(record) for record in records * 4]
    for i in (7, 77, 150):
        records[i]["planes"][i % 3]["payload"] = records[i]["planes"][i % 3]["payload"][:-2]
    batch = decode_batch(records, strict=False)
    assert sorted(batch.refused) == [7, 77, 150]
    assert_as_one_by_one(records, batch)


def test_one_bad_packet_costs_the_others_little():
    good = record_of(PLANE_SETS[1], encoding="rice")
    bad = copy.deepcopy(good)
    bad["planes"][1]["payload"] = bad["planes"][1]["payload"][:-1]

    def seconds(records):
        begin = time.perf_counter()
        decode_batch(records, strict=False)
        return time.perf_counter() - begin

    seconds([good] * 500)
    without = min(seconds([good] * 500) for _ in range(5))
    assert min(seconds([*[good] * 250, bad, *[good] * 249]) for _ in range(5)) < 5 * without


@given(st.data())
def test_levels_of_any_values_are_those_of_one_by_one(data):
    arrays = [data.draw(images((40, 40))) for _ in range(3)]
    records = [Cutout.from_images({"science": a}, GEOMETRIES[0], x=20, y=20).to_record() for a in arrays]
    assert_as_one_by_one(records, decode_batch(records))
