"""The validator: every fault that a packet can have is found and named, and sound packets give none."""

import copy

import fastavro
import numpy as np
import pytest

import multiscale as ms
from multiscale.schema import load_schema
from multiscale.validate import check_file, off_image, record_faults

GEOMETRY = ms.Geometry(8, 3, 0.5)


def sound(encoding="rice"):
    """Return the record of a cutout with every kind of plane, near a corner of its image."""
    rng = np.random.default_rng(3)
    science, template = rng.normal(100, 5, (2, 40, 40))
    science[3:5, 2:9] = np.nan
    return ms.Cutout.from_images(
        {
            "science": science,
            "template": template,
            "difference": science - template,
            ("variance", "science"): np.full((40, 40), 25.0),
            ("mask", "science"): (rng.random((40, 40)) < 0.05).astype(np.uint16),
        },
        GEOMETRY,
        x=7.3,
        y=4.9,
        encoding=encoding,
        units="adu",
        mask_bits={("mask", "science"): ("COSMIC_RAY",)},
        clipped_by="DETECTOR",
        missing=(ms.cutout.Missing(kind="SCORE", of="NONE", reason="FAILED", detail="no PSF"),),
        wcs=lambda x, y: (10 - x * 1e-4, 20 + y * 1e-4),
    ).to_record()


def reasons(record):
    return [(fault.reason, fault.where) for fault in record_faults(record)]


@pytest.mark.parametrize("encoding", ["raw", "rice"])
def test_a_sound_packet_has_no_findings(encoding):
    assert reasons(sound(encoding)) == []


FAULTS = {
    "version": (lambda r: r.update(specVersion="2.0"), "version", "specVersion"),
    "size": (lambda r: r.update(size=10), "geometry", "size"),
    "levels": (lambda r: r.update(nLevels=9), "geometry", "nLevels"),
    "pixel scale": (lambda r: r.update(pixelScale=0.0), "geometry", "pixelScale"),
    "dx alone": (lambda r: r.update(dy=None), "position", "dx"),
    "dx too large": (lambda r: r.update(dx=1.0), "position", "dx"),
    "dx not a number": (lambda r: r.update(dx=float("nan")), "position", "dx"),
    "right ascension": (lambda r: r["sky"].update(ra=360.0), "sky", "sky.ra"),
    "declination": (lambda r: r["sky"].update(dec=-90.5), "sky", "sky.dec"),
    "singular matrix": (lambda r: r["sky"].update(cd11=0.0, cd12=0.0), "sky", "sky.cd11"),
    "clipped below 0": (lambda r: r["clipped"].update(xLow=-1), "clipped", "clipped.xLow"),
    "clipped twice over": (lambda r: r["clipped"].update(yLow=20, yHigh=20), "clipped", "clipped.yLow"),
    "unknown kind": (lambda r: r["planes"][0].update(kind="UNKNOWN"), "unknown-symbol", "planes[0].kind"),
    "owner of an image": (lambda r: r["planes"][0].update(of="SCIENCE"), "plane-of", "planes[0].of"),
    "variance of nothing": (lambda r: r["planes"][3].update(of="NONE"), "plane-of", "planes[3].of"),
    "twice the same": (lambda r: r["planes"].append(r["planes"][0]), "plane-duplicate", "planes[5]"),
    "long unit": (lambda r: r["planes"][0].update(unit="x" * 65), "limit", "planes[0].unit"),
    "crc range": (lambda r: r["planes"][0].update(crc32=-1), "crc", "planes[0].crc32"),
    "noise": (lambda r: r["planes"][0].update(noise=-1.0), "statistics", "planes[0].noise"),
    "sky level": (
        lambda r: r["planes"][0].update(background=float("inf")),
        "statistics",
        "planes[0].background",
    ),
    "even psf": (lambda r: r["planes"][0].update(psf=bytes(16)), "psf", "planes[0].psf"),
    "psf not finite": (lambda r: r["planes"][0].update(psf=b"\x00\x00\xc0\x7f"), "psf", "planes[0].psf"),
    "fwhm": (lambda r: r["planes"][0].update(psfFwhm=0.0), "psf", "planes[0].psfFwhm"),
    "names in an image": (lambda r: r["planes"][0].update(maskBits=["A"]), "mask-bits", "planes[0].maskBits"),
    "17 names": (
        lambda r: r["planes"][4].update(maskBits=list("abcdefghijklmnopq")),
        "limit",
        "planes[4].maskBits",
    ),
    "missing and present": (lambda r: r["missing"][0].update(kind="SCIENCE"), "missing", "missing[0]"),
    "long detail": (lambda r: r["missing"][0].update(detail="x" * 1025), "limit", "missing[0].detail"),
    "33 planes": (lambda r: r.update(planes=r["planes"] * 7), "limit", "planes"),
    "wrong crc": (lambda r: r["planes"][1].update(crc32=1), "crc", "planes[1].crc32"),
    "payload cut": (
        lambda r: r["planes"][1].update(payload=r["planes"][1]["payload"][:-1]),
        "rice-truncated",
        "planes[1].payload",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_with_its_reason_and_its_place(name):
    change, reason, where = FAULTS[name]
    record = copy.deepcopy(sound())
    record["planes"], record["missing"] = list(record["planes"]), list(record["missing"])
    change(record)
    assert (reason, where) in reasons(record)


def test_clipped_by_must_be_unknown_where_nothing_is_clipped():
    record = sound()
    record["clipped"] = dict.fromkeys(record["clipped"], 0)
    record["planes"] = [p for p in record["planes"] if p["kind"] != "MASK"]
    assert reasons(record) == [("clipped", "clippedBy")]


def test_a_mask_that_disagrees_with_clipped_is_found():
    record = sound()
    record["clipped"]["xLow"] -= 4  # a whole pixel of level 2
    assert ("mask-bits", "planes[4].maskBits") in reasons(record)


def test_a_bit_without_a_name_is_found():
    record = sound()
    record["planes"][4]["maskBits"] = ["", *record["planes"][4]["maskBits"][1:]]
    assert ("mask-bits", "planes[4].maskBits") in reasons(record)


def test_a_variance_that_is_valid_where_its_image_is_not_is_found():
    cutout = ms.Cutout.from_record(sound())
    variance = cutout.levels("variance", "science").copy()
    variance[0][np.isnan(variance[0])] = 25.0
    planes = {key: cutout.levels(*([key] if isinstance(key, str) else key)) for key in cutout.keys}
    wrong = ms.Cutout.from_levels({**planes, ("variance", "science"): variance}, GEOMETRY, like=cutout)
    assert ("variance", "planes[3]") in reasons(wrong.to_record())


def test_off_image_is_the_part_of_each_level_that_was_not_given():
    cutout = ms.Cutout.from_record(sound())
    off = off_image(cutout)
    c = cutout.clipped
    assert (c.x_low, c.y_low) == (8, 11)
    assert not off[0].any() or c.y_low > 12  # level 0 covers rows 12 to 19 of the footprint
    np.testing.assert_array_equal(off[2][:, :2].all(axis=0), [True, True])  # columns 0 to 7 of the footprint
    np.testing.assert_array_equal(off[2][2], True)  # rows 8 to 11: one row of them was given


def write(path, schema, records):
    with open(path, "wb") as file:
        fastavro.writer(file, schema, records)
    return path


def test_a_file_without_our_cutout_is_one_finding(tmp_path):
    schema = {"type": "record", "name": "a", "fields": [{"name": "id", "type": "long"}]}
    [finding] = check_file(write(tmp_path / "a.avro", schema, [{"id": 1}, {"id": 2}]))
    assert finding.packet is None
    assert "cutoutMultiscale" in finding.expected


def test_an_embedded_field_that_is_not_last_is_found(tmp_path):
    schema = {
        "type": "record",
        "name": "a",
        "fields": [
            {"name": "cutoutMultiscale", "type": ["null", load_schema("multiscale.Cutout")], "default": None},
            {"name": "id", "type": "long"},
        ],
    }
    path = write(tmp_path / "a.avro", schema, [{"id": 1, "cutoutMultiscale": sound()}])
    assert [f.expected for f in check_file(path)] == ["the last field"]


def test_a_truncated_file_gives_its_good_packets_and_a_finding(tmp_path):
    path = write(tmp_path / "a.avro", load_schema("multiscale.Cutout"), [sound()] * 3)
    path.write_bytes(path.read_bytes()[:-30])
    findings = list(check_file(path))
    assert [f.packet for f in findings] == [None]


def test_what_is_no_avro_file_is_a_finding(tmp_path):
    path = tmp_path / "a.avro"
    path.write_bytes(b"SIMPLE  =                    T")
    [finding] = check_file(path)
    assert finding.clause.startswith("8")
