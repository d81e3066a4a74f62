"""Container files, single-object messages and Confluent frames: to read and to refuse (section 8)."""

import copy
import functools
import json
import struct

from avro_writer import (
    SYNC,
    block,
    body,
    confluent,
    container,
    crc_64_avro,
    fingerprint,
    header,
    load_schema,
    long,
    prefixed,
    single_object,
)
from packets import CUTOUT, SKY, cutout_of, one, plane_of, small, three_planes

ALERT = "multiscale.Alert"


@functools.cache
def schema(name=CUTOUT):
    """Return a schema of this version."""
    return load_schema(name)


def cutouts(count):
    """Return records that differ."""
    records = [one(), three_planes(), {**one(unit="ADU"), "dx": 0.5, "dy": -0.25}]
    return [records[i % 3] for i in range(count)]


def later_version():
    """Return a schema of a made-up 1.1: a field more at the end of Plane and Cutout, a kind more (10.2)."""
    later = copy.deepcopy(schema())
    planes = next(field for field in later["fields"] if field["name"] == "planes")["type"]["items"]
    kind = next(field for field in planes["fields"] if field["name"] == "kind")["type"]
    kind["symbols"].append("DEPTH")
    planes["fields"].append({"name": "gain", "type": ["null", "float"], "default": None})
    later["fields"].append({"name": "note", "type": "string", "default": ""})
    return later


def later_record(**plane_fields):
    """Return a record of that schema."""
    planes = [plane_of(small(), gain=1.5, **plane_fields)]
    return {**cutout_of(planes), "specVersion": "1.1", "note": "made up"}


def other_schemas():
    """Return containers whose writer's schema cannot be resolved with that of this version (8.5)."""
    no_payload, text_size = copy.deepcopy(schema()), copy.deepcopy(schema())
    planes = next(field for field in no_payload["fields"] if field["name"] == "planes")["type"]["items"]
    planes["fields"] = [field for field in planes["fields"] if field["name"] != "payload"]
    next(field for field in text_size["fields"] if field["name"] == "size")["type"] = "string"
    other = {
        "type": "record",
        "name": "Other",
        "namespace": "made.up",
        "fields": [{"name": "a", "type": "int"}],
    }
    cases = [
        ("alert", "an Alert where a Cutout is asked for", schema(ALERT), alert()),
        ("other", "a record of another name", other, {"a": 1}),
        ("no-payload", "a Plane without payload, which has no default", no_payload, one()),
        ("text-size", "size is a string", text_size, {**one(), "size": "4"}),
    ]
    return [
        refused(f"container-{name}", "8.5", comment, "container", "schema", container(s, [record]))
        for name, comment, s, record in cases
    ]


# Alerts (6.6)


def detection(**fields):
    """Return a detection with every field that may be null null."""
    names = [field["name"] for field in detection_fields()]
    given = {
        "detectionId": "d1", "time": 60676.25, "timeScale": "TAI", "band": "r", "ra": 187.25, "dec": -12.5,
        "flags": [],
    }  # fmt: skip
    return {**dict.fromkeys(names), **given, **fields}


@functools.cache
def detection_fields():
    return load_schema("multiscale.Detection")["fields"]


def alert(**fields):
    """Return an alert without anything that it may lack."""
    record = {
        "specVersion": "1.0", "alertId": "a1", "survey": "made up", "objectId": None,
        "detection": detection(), "history": [], "forcedPhotometry": [], "upperLimits": [],
        "crossMatches": [], "classifications": [], "processing": [], "provenance": [], "properties": {},
        "cutout": None,
    }  # fmt: skip
    return {**record, **fields}


def full_alert():
    """Return an alert with something in every list."""
    bright = detection(
        exposureId="e1", exposureTime=30.0, raErr=0.05, decErr=0.05, x=1023.5, y=17.25, flux=1234.5,
        fluxErr=21.0, fluxUnit="nJy", magnitude=21.2, snr=58.0, isPositive=True, fwhm=0.9,
        flags=["EDGE", "µ"],
    )  # fmt: skip
    forced = {
        "exposureId": None, "time": 60670.0, "timeScale": "UTC", "band": "g", "flux": -3.0, "fluxErr": None,
        "fluxUnit": None, "limitingMagnitude": None, "flags": [],
    }  # fmt: skip
    values = {"a": None, "b": True, "c": -(2**40), "d": 0.5, "e": "text"}
    match = {
        "catalog": "Gaia DR3", "sourceId": "1", "kind": "star", "separation": 0.5, "magnitude": None,
        "redshift": None, "properties": values,
    }  # fmt: skip
    classes = [{"name": "SN", "probability": 0.75}, {"name": "AGN", "probability": 0.25}]
    classified = {
        "classifier": "none", "version": "0", "taxonomy": "t", "classes": classes, "isCalibrated": True,
    }  # fmt: skip
    limit = {
        "exposureId": "e0", "time": 60669.0, "timeScale": "TDB", "band": "g", "limitingMagnitude": 24.5,
        "sigma": 5.0,
    }  # fmt: skip
    software = {"software": "made by hand", "version": "1", "action": "none"}
    return alert(
        upperLimits=[limit], processing=[{"step": "cut", "time": 60676.5}], provenance=[software],
        objectId="o1", detection=bright, history=[detection(), detection(detectionId="d0")],
        forcedPhotometry=[forced], crossMatches=[match], classifications=[classified], properties=values,
        cutout={**three_planes(), "sky": SKY},
    )  # fmt: skip


# To read


def readable(name, clause, comment, form, data, n_packets, of=CUTOUT):
    """Return a vector of a file or message that is read."""
    return {
        "id": f"file-{name}", "clause": clause, "comment": comment, "level": "file", "operation": "read",
        "form": form, "schema": of, "bytes": data.hex(), "result": "valid", "n_packets": n_packets,
    }  # fmt: skip


def containers():
    """Return container files and single-object messages of cutouts."""
    s, bodies = schema(), [body(schema(), record) for record in cutouts(3)]
    readable_json = json.dumps(s, indent=1)
    more = {"multiscale.note": "made up, µ".encode(), "written.by": b"hand"}
    meta = [
        prefixed(b"avro.schema") + prefixed(json.dumps(s).encode()),
        prefixed(b"avro.codec") + prefixed(b"null"),
    ]
    counted = long(-1) + long(len(meta[0])) + meta[0] + long(1) + meta[1] + b"\0"
    later = later_version()
    cases = [
        ("one", "8.1", "one packet", container(s, cutouts(1)), 1),
        ("none", "8.1", "a header and no block", container(s, []), 0),
        ("three", "8.1", "three packets in one block", container(s, cutouts(3)), 3),
        ("blocks", "8.1", "one packet a block", container(s, cutouts(3), per_block=1), 3),
        ("empty-block", "8.1", "a block of no packet between two",
         header(s) + block(bodies[:1]) + block([]) + block(bodies[1:]), 3),
        ("deflate", "8.1", "deflate", container(s, cutouts(3), codec="deflate"), 3),
        ("deflate-blocks", "8.1", "deflate, two blocks",
         container(s, cutouts(4), codec="deflate", per_block=2), 4),
        ("no-codec", "8.1", "no avro.codec is null", header(s, codec=None) + block(bodies), 3),
        ("meta", "8.1", "further metadata", header(s, more=more.items()) + block(bodies), 3),
        ("meta-counted", "8.1", "metadata in two blocks, one with its length",
         b"Obj\x01" + counted + SYNC + block(bodies), 3),
        ("json", "8.1", "a schema with line breaks", header(s, text=readable_json) + block(bodies), 3),
        ("later", "8.5", "a later minor version: fields at the ends of Plane and Cutout",
         container(later, [later_record(), later_record(unit="ADU")]), 2),
    ]  # fmt: skip
    vectors = [readable(name, clause, text, "container", data, n) for name, clause, text, data, n in cases]
    message = single_object(s, three_planes())
    return [*vectors, readable("single-object", "8.2", "one message", "single-object", message, 1)]


def optional():
    """Return alerts, and Confluent frames."""
    s, record, null = schema(ALERT), full_alert(), alert()
    three = container(s, [record, null, alert(cutout=one())])
    deflated = container(s, [record], codec="deflate")
    cases = [
        ("alerts", "6.6", "three alerts: full, without a cutout, with one", "container", three, 3),
        ("alerts-deflate", "6.6", "deflate", "container", deflated, 1),
        ("alerts-none", "6.6", "no alert", "container", container(s, []), 0),
        ("alert-single-object", "8.2", "one alert", "single-object", single_object(s, record), 1),
        ("alert-confluent", "8.3", "one alert", "confluent", confluent(s, record), 1),
        ("alert-null-confluent", "6.6", "a null cutout is the last byte", "confluent", confluent(s, null), 1),
    ]
    frame = confluent(schema(), three_planes())
    return [
        *[readable(*case, of=ALERT) for case in cases],
        readable("confluent", "8.3", "one cutout", "confluent", frame, 1),
    ]


# To refuse


def refused(name, clause, comment, form, reason, data, of=CUTOUT):
    """Return a vector of a file or message that is refused."""
    return {
        "id": f"refuse-file-{name}", "clause": clause, "comment": comment, "level": "file",
        "operation": "read", "form": form, "schema": of, "bytes": data.hex(), "result": "invalid",
        "reason": reason,
    }  # fmt: skip


def container_faults():
    """Return containers that are no Avro, or hold what is refused."""
    s, records = schema(), cutouts(3)
    bodies = [body(s, record) for record in records]
    head, whole = header(s), container(s, records)
    data = b"".join(bodies)
    later = later_version()
    cases = [
        ("empty", "no byte", b""),
        ("magic", "another first byte", b"obj\x01" + head[4:] + block(bodies)),
        ("magic-version", "version 2 of the container", header(s, magic=b"Obj\x02") + block(bodies)),
        ("magic-only", "the first four bytes", b"Obj\x01"),
        ("gzip", "a gzip file", b"\x1f\x8b\x08\0" + head),
        ("no-schema", "no avro.schema", b"Obj\x01" + b"\0" + SYNC + block(bodies)),
        ("codec", "an unknown codec", header(s, codec="xyzzy") + block(bodies)),
        ("sync", "the end of the block is not the marker", head + block(bodies, sync=bytes(16))),
        ("sync-second", "the end of the second block is not", whole + block(bodies, sync=SYNC[::-1])),
        ("cut-header", "cut in the header", head[:400]),
        ("cut-marker", "cut in the marker of the header", head[:-3]),
        ("cut-block", "cut in a block", whole[: len(head) + 30]),
        ("cut-sync", "cut in the marker of the block", whole[:-5]),
        ("trailing", "bytes after the last block", whole + b"\x55\x55\x55"),
        ("count-more", "four packets claimed, three there", head + block(bodies, count=4)),
        ("size-more", "a block of 1000 bytes too many claimed", head + block(bodies, size=len(data) + 1000)),
        ("size-claim", "a block of 2^40 bytes claimed", head + block(bodies, size=2**40)),
        ("size-negative", "a block of -1 byte", head + block(bodies, size=-1)),
        ("count-claim", "2^62 packets claimed", head + block(bodies, count=2**62)),
        ("meta-claim", "2^40 entries of metadata claimed", b"Obj\x01" + long(2**40) + head[5:]),
        ("meta-value-claim", "a schema of 2^40 bytes claimed",
         b"Obj\x01" + long(1) + prefixed(b"avro.schema") + long(2**40) + b"{}"),
        ("deflate", "deflate data that are none",
         header(s, codec="deflate") + long(1) + long(4) + b"\xff" * 4 + SYNC),
        ("deflate-cut", "deflate data that end early",
         header(s, codec="deflate") + long(1) + long(9) + b"\0\xff\xff\0\0abcd" + SYNC),
        ("body", "a record that ends early", head + block([bodies[0][:-2]])),
    ]  # fmt: skip
    vectors = [refused(f"container-{n}", "8.1", text, "container", "avro", d) for n, text, d in cases]
    unread = long(3) + long(len(data) + 1) + data + b"\0" + SYNC
    damaged = copy.deepcopy(records)
    damaged[1]["planes"][2]["crc32"] ^= 4
    major = [*records[:2], {**records[2], "specVersion": "2.0"}]
    kind = container(later, [later_record(), later_record(kind="DEPTH")])
    no_json, no_type = header(s, text='{"type": "rec'), header(s, text='{"type": "recrod"}')
    cases = [
        ("schema-json", "8.5", "a schema that is no JSON", "schema", no_json + block(bodies)),
        ("schema-type", "8.5", "a schema of an unknown type", "schema", no_type + block(bodies)),
        ("unread", "8.1", "a byte of the block that no packet holds", "avro", head + unread),
        ("crc", "4.4", "a plane of the second packet", "crc", container(s, damaged)),
        ("major", "10.1", "another major version", "version", container(s, major)),
        ("later-kind", "6.3", "a kind of a later version is UNKNOWN", "unknown-symbol", kind),
    ]
    vectors += [
        refused(f"container-{n}", clause, text, "container", why, d) for n, clause, text, why, d in cases
    ]
    return vectors + other_schemas()


def message_faults():
    """Return single-object messages and Confluent frames with another frame, schema or end."""
    s, record = schema(), one()
    data = body(s, record)
    good = fingerprint(s)
    indented = struct.pack("<Q", crc_64_avro(json.dumps(s).encode()))
    cases = [
        ("empty", "frame", "no byte", b""),
        ("magic", "frame", "c3 02", b"\xc3\x02" + good + data),
        ("magic-first", "frame", "00 01", b"\0\x01" + good + data),
        ("bare", "frame", "a body without a frame", data),
        ("cut-magic", "frame", "one byte", b"\xc3"),
        ("cut-fingerprint", "frame", "7 bytes of the fingerprint", b"\xc3\x01" + good[:7]),
        ("fingerprint", "schema", "an unknown fingerprint", b"\xc3\x01" + bytes(8) + data),
        ("fingerprint-big-endian", "schema", "a big-endian fingerprint", b"\xc3\x01" + good[::-1] + data),
        ("fingerprint-not-canonical", "schema", "that of the schema as it is written",
         b"\xc3\x01" + indented + data),
        ("fingerprint-later", "schema", "that of a later schema",
         single_object(later_version(), later_record())),
        ("body", "avro", "a body that ends early", b"\xc3\x01" + good + data[:-1]),
        ("no-body", "avro", "no body", b"\xc3\x01" + good),
        ("trailing", "trailing-bytes", "a byte after the body", b"\xc3\x01" + good + data + b"\0"),
        ("trailing-message", "trailing-bytes", "two messages", (b"\xc3\x01" + good + data) * 2),
        ("major", "version", "another major version", single_object(s, {**record, "specVersion": "3.1"})),
    ]  # fmt: skip
    vectors = [
        refused(f"single-object-{n}", clause_of(why, "8.2"), text, "single-object", why, d)
        for n, why, text, d in cases
    ]
    frame = confluent(s, record)
    cases = [
        ("empty", "frame", "no byte", b""),
        ("magic-1", "frame", "a first byte of 01", b"\x01" + frame[1:]),
        ("magic-json", "frame", "JSON", b'{"specVersion": "1.0"}'),
        ("magic-container", "frame", "a container", container(s, [record])),
        ("magic-single-object", "frame", "a single-object message", single_object(s, record)),
        ("cut-id", "frame", "3 bytes of the schema's id", frame[:4]),
        ("id", "schema", "an unknown id", confluent(s, record, 2)),
        ("id-little-endian", "schema", "a little-endian id", confluent(s, record, 1 << 24)),
        ("id-negative", "schema", "id -1", confluent(s, record, -1)),
        ("body", "avro", "a body that ends early", frame[:-1]),
        ("trailing", "trailing-bytes", "a byte after the body", frame + b"\0"),
    ]  # fmt: skip
    vectors += [
        refused(f"confluent-{n}", clause_of(why, "8.3"), text, "confluent", why, d)
        for n, why, text, d in cases
    ]
    return vectors + alert_faults()


def clause_of(reason, frame):
    """Return the clause that a message with this fault breaks."""
    return {"schema": "8.5", "trailing-bytes": "8.4", "version": "10.1"}.get(reason, frame)


def alert_faults():
    """Return alerts with a fault in the alert, or in its cutout."""
    s, damaged = schema(ALERT), one()
    damaged["planes"][0]["crc32"] ^= 1
    cases = [
        ("major", "10.1", "another major version", "version", alert(specVersion="2.0")),
        (
            "cutout-major",
            "10.1",
            "a cutout of another",
            "version",
            alert(cutout={**one(), "specVersion": "2.0"}),
        ),
        ("cutout-crc", "4.4", "a plane of its cutout", "crc", alert(cutout=damaged)),
        ("cutout-size", "2.1", "S = 6", "geometry", alert(cutout={**one(), "size": 6})),
    ]
    vectors = [
        refused(f"alert-{n}", clause, text, "container", why, container(s, [alert(), record]), ALERT)
        for n, clause, text, why, record in cases
    ]
    cut = confluent(s, alert())[:-1]
    return [
        *vectors,
        refused("alert-cut", "8.3", "the last byte is missing", "confluent", "avro", cut, ALERT),
    ]


def files():
    """Return the vectors by file."""
    return {
        "required/files.json": containers(),
        "optional/alerts.json": optional(),
        "reject/file-containers.json": container_faults(),
        "reject/file-messages.json": message_faults(),
    }
