"""The conformance vectors of the specification (11.2), against the functions of this package.

tests/test_conformance.py runs the same vectors through the protocol that any other program speaks.
"""

import io
import json
import subprocess
import sys
from pathlib import Path

import fastavro
import numpy as np
import pytest
from strategies import reference

from multiscale import Alert, Cutout, Geometry, Placement, StampError, avro, build_levels, pack, unpack
from multiscale.encoding import REDUCTION, decode_planes, encode_planes
from multiscale.errors import REASONS
from multiscale.schema import load_schema

pytestmark = pytest.mark.filterwarnings("error")

FOLDER = Path(__file__).parents[1] / "spec" / "v1" / "vectors"
SCHEMAS = FOLDER.parent / "schema"


def load(folder):
    return [
        vector
        for path in sorted((FOLDER / folder).glob("*.json"))
        for vector in json.loads(path.read_text(encoding="utf-8"))["vectors"]
    ]


REQUIRED, OPTIONAL, REJECT = load("required"), load("optional"), load("reject")
ACCEPT = REQUIRED + OPTIONAL


def select(vectors, level, operation=None):
    return [v for v in vectors if v["level"] == level and operation in (None, v["operation"])]


def each(vectors):
    return pytest.mark.parametrize("vector", vectors, ids=[vector["id"] for vector in vectors])


def unhex(text):
    return None if text is None else bytes.fromhex(text)


def geometry_of(vector):
    return Geometry(vector["size"], vector["n_levels"], 1.0)


def dtype_of(vector):
    return "<u2" if vector["kind"] == "MASK" else "<f4"


# --- the vectors themselves ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "level", "operation"),
    [
        ("required", "payload", "decode"),
        ("required", "payload", "encode"),
        ("required", "packet", "decode"),
        ("required", "file", "read"),
        ("optional", "file", "read"),
        ("reject", "payload", "decode"),
        ("reject", "packet", "decode"),
        ("reject", "file", "read"),
    ],
)
def test_there_are_vectors_of(folder, level, operation):
    vectors = {"required": REQUIRED, "optional": OPTIONAL, "reject": REJECT}[folder]
    assert select(vectors, level, operation)


def test_each_vector_says_what_it_is():
    for vectors, result in ((ACCEPT, "valid"), (REJECT, "invalid")):
        for vector in vectors:
            assert vector["result"] == result, vector["id"]
            assert vector["clause"], vector["id"]
            assert vector["comment"], vector["id"]
    ids = [vector["id"] for vector in ACCEPT]
    assert len(set(ids)) == len(ids)
    ids = [vector["id"] for vector in REJECT]
    assert len(set(ids)) == len(ids)


def test_every_reason_of_the_specification_has_a_reject_vector():
    assert {vector["reason"] for vector in REJECT} == set(REASONS)


def test_vectors_are_those_that_their_script_makes_with_the_standard_library_alone():
    command = [sys.executable, "-S", "-E", str(FOLDER / "make_vectors.py"), "--check"]  # -S: no packages
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# --- payloads -----------------------------------------------------------------------------------------


def plane_of(vector):
    return {
        "kind": vector["kind"],
        "of": "NONE",
        "encoding": vector["encoding"],
        "sharedCenter": vector["shared_center"],
        "stepExponent": vector["step_exponent"],
        "offset": vector["offset"],
        "invalid": unhex(vector["invalid"]),
        "payload": unhex(vector["payload"]),
        "crc32": vector["crc32"],
    }


@each(select(ACCEPT, "payload", "decode"))
def test_a_payload_decodes_to_the_published_levels(vector):
    levels, failures = decode_planes([plane_of(vector)], geometry_of(vector))
    assert failures == {}
    assert levels.astype(dtype_of(vector)).tobytes().hex() == vector["levels"]


@each(select(ACCEPT, "payload", "decode"))
def test_the_published_levels_encode_to_the_payload(vector):
    geometry = geometry_of(vector)
    levels = np.frombuffer(unhex(vector["levels"]), dtype_of(vector)).reshape(
        1, geometry.n_levels, geometry.size, geometry.size
    )
    [plane] = encode_planes(
        levels,
        geometry,
        kind=vector["kind"],
        encoding=vector["encoding"],
        step_exponents=[vector["step_exponent"]],
        offsets=[vector["offset"]],
        shared_center=vector["shared_center"],
    )
    given = plane_of(vector)
    if has_best_parameters(given, geometry.n_sent(vector["shared_center"])):
        assert plane == {name: given[name] for name in plane}
    else:  # a decoder must read what no encoder may write
        again, failures = decode_planes([{**given, **plane}], geometry)
        assert failures == {}
        assert again.tobytes() == levels.tobytes()
        assert len(plane["payload"]) <= len(given["payload"])


def has_best_parameters(plane, n):
    """Whether the blocks of a payload have the parameters that an encoder must choose (5.6, step 5)."""
    if plane["encoding"] == "RAW":
        return True
    m = n - sum(byte.bit_count() for byte in plane["invalid"] or b"")
    residuals = reference.residuals_of(plane["payload"], m)
    return reference.rice_parts(residuals).payload() == plane["payload"]


@each(select(REJECT, "payload", "decode"))
def test_a_payload_is_refused_for_the_published_reason(vector):
    try:
        geometry = geometry_of(vector)
    except StampError as error:
        reason = error.reason
    else:
        levels, failures = decode_planes([plane_of(vector)], geometry)
        assert (levels == 0).all() if vector["kind"] == "MASK" else np.isnan(levels).all()
        reason = failures[0].reason
    assert reason == vector["reason"]


def test_refused_payloads_refuse_no_other_in_their_batch():
    """All payload vectors of one geometry and type at once: each as if it were alone."""
    groups = {}
    for vector in select(ACCEPT + REJECT, "payload", "decode"):
        key = vector["size"], vector["n_levels"], vector["kind"] == "MASK"
        groups.setdefault(key, []).append(vector)
    assert any(len({v["result"] for v in group}) == 2 for group in groups.values())
    for vectors in groups.values():
        try:
            geometry = geometry_of(vectors[0])
        except StampError:
            continue
        levels, failures = decode_planes([plane_of(vector) for vector in vectors], geometry)
        for i, vector in enumerate(vectors):
            if vector["result"] == "valid":
                assert i not in failures, vector["id"]
                assert levels[i].astype(dtype_of(vector)).tobytes().hex() == vector["levels"]
            else:
                assert failures[i].reason == vector["reason"], vector["id"]


def levels_of_image(vector, convert=np.asarray):
    pixels = np.frombuffer(unhex(vector["image"]), dtype_of(vector)).reshape(
        vector["height"], vector["width"]
    )
    return build_levels(
        convert(pixels),
        geometry_of(vector),
        kind=REDUCTION[vector["kind"]],
        placement=Placement(vector["cx"], vector["cy"]),
        outside=vector.get("outside") or 0,
    )


@each(select(ACCEPT, "payload", "encode"))
def test_an_image_encodes_to_the_published_payload(vector):
    [plane] = encode_planes(
        levels_of_image(vector)[None],
        geometry_of(vector),
        kind=vector["kind"],
        encoding=vector["encoding"],
        step_exponents=[vector["step_exponent"]],
        offsets=[vector["offset"]],
    )
    encoding = vector.get("result_encoding", vector["encoding"])
    found = [plane[name] for name in ("encoding", "sharedCenter", "invalid", "payload", "crc32")]
    expected = [encoding, vector["shared_center"], unhex(vector["invalid"]), unhex(vector["payload"])]
    assert found == [*expected, vector["crc32"]]
    levels, failures = decode_planes([{"kind": vector["kind"], **plane}], geometry_of(vector))
    assert failures == {}
    assert levels.astype(dtype_of(vector)).tobytes().hex() == vector["levels"]


# --- the same bits in every array library -------------------------------------------------------------


def to_torch(array):
    torch = pytest.importorskip("torch", reason="torch (extra 'torch') is not installed")
    pytest.importorskip("array_api_compat", reason="array-api-compat (extra 'torch') is not installed")
    return torch.from_numpy(np.array(array))


def to_strict(array):
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    return strict.asarray(array, copy=True)


LIBRARIES = pytest.mark.parametrize("convert", [np.array, to_torch, to_strict])


def hexadecimal(array, vector):
    array = array if isinstance(array, np.ndarray) else np.from_dlpack(array)
    return array.astype(dtype_of(vector)).tobytes().hex()


@LIBRARIES
def test_levels_are_packed_and_unpacked_to_the_published_bits_in_every_library(convert):
    vectors = [v for v in select(ACCEPT, "payload", "decode") if v["encoding"] == "RAW"]
    assert len(vectors) > 50
    for vector in vectors:
        geometry, shared = geometry_of(vector), vector["shared_center"]
        options = {"kind": REDUCTION[vector["kind"]], "shared_center": shared}
        values = convert(np.frombuffer(unhex(vector["payload"]), dtype_of(vector)))
        levels = unpack(values, geometry, **options)
        assert hexadecimal(levels, vector) == vector["levels"], vector["id"]
        assert hexadecimal(pack(levels, geometry, **options), vector) == vector["payload"], vector["id"]


@LIBRARIES
def test_images_become_the_published_levels_in_every_library(convert):
    vectors = [v for v in select(ACCEPT, "payload", "encode") if v["encoding"] == "RAW"]
    assert vectors
    for vector in vectors:
        assert hexadecimal(levels_of_image(vector, convert), vector) == vector["levels"], vector["id"]


# --- packets and files --------------------------------------------------------------------------------


def published(vector):
    return [(plane["kind"], plane["of"], plane["levels"]) for plane in vector["planes"]]


def decoded(cutout):
    planes = []
    for plane in cutout.planes if cutout else ():  # the cutout of an alert may be null
        levels = cutout.levels(plane.kind, plane.of)
        little = levels.dtype.newbyteorder("<")
        planes.append((plane.kind, plane.of, levels.astype(little).tobytes().hex()))
    return planes


def cutout_of(record):
    """The cutout in a record of either schema."""
    return Alert.from_record(record).cutout if "detection" in record else Cutout.from_record(record)


@each(select(ACCEPT, "packet"))
def test_a_packet_decodes_to_the_published_levels(vector):
    name = vector.get("schema", "multiscale.Cutout")
    body = unhex(vector["record"])
    record = avro.decode_body(load_schema(name), body)
    assert decoded(cutout_of(record)) == published(vector)


@each(select(ACCEPT, "packet"))
def test_a_packet_decodes_with_fastavro_alone_and_is_written_as_it_was(vector):
    name = vector.get("schema", "multiscale.Cutout")
    schema = fastavro.schema.load_schema(SCHEMAS / f"{name}.avsc")
    body = io.BytesIO(unhex(vector["record"]))
    record = fastavro.schemaless_reader(body, schema, None)
    assert body.read() == b""
    cutout = cutout_of(record)
    assert decoded(cutout) == published(vector)
    model = Alert.from_record(record) if "detection" in record else cutout
    again = io.BytesIO()
    fastavro.schemaless_writer(again, schema, model.to_record())
    if "array" not in vector["id"]:  # Avro may cut an array into blocks, our writers do not
        assert again.getvalue().hex() == vector["record"]
    again.seek(0)
    assert fastavro.schemaless_reader(again, schema, None) == record


@each(select(REJECT, "packet"))
def test_a_packet_is_refused_for_the_published_reason(vector):
    name = vector.get("schema", "multiscale.Cutout")
    with pytest.raises(StampError) as caught:
        decoded(cutout_of(avro.decode_body(load_schema(name), unhex(vector["record"]))))
    assert caught.value.reason == vector["reason"]


def read_file(vector):
    data, writer = unhex(vector["bytes"]), load_schema(vector["schema"])
    if vector["form"] == "container":
        return list(avro.read_container(data, reader_schema=writer))
    if vector["form"] == "single-object":
        return [avro.decode_single(data, [writer])]
    assert vector["form"] == "confluent"
    return [avro.decode_confluent(data, {1: writer})]


@each(select(ACCEPT, "file"))
def test_a_file_holds_the_published_number_of_packets(vector):
    records = read_file(vector)
    assert len(records) == vector["n_packets"]
    for record in records:
        decoded(cutout_of(record))


def read_pixels(vector):
    """Every plane of every packet of a file."""
    return [decoded(cutout_of(record)) for record in read_file(vector)]


@each(select(REJECT, "file"))
def test_a_file_is_refused_for_the_published_reason(vector):
    with pytest.raises(StampError) as caught:
        read_pixels(vector)
    assert caught.value.reason == vector["reason"]
