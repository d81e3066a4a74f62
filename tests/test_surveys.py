"""Every real file through the container reader and the survey readers: converted, or reported with why."""

from __future__ import annotations

import collections
import csv
from pathlib import Path

import pytest

from multiscale.avro import read_container
from multiscale.errors import StampError, SurveyError, WireError
from multiscale.surveys import read_survey_alert

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real alerts of ../shared/data are not here"
)


def outcome(path: Path) -> tuple[int, list[StampError]]:
    """How many alerts of a file convert, and what keeps the others, or the file, from it."""
    n_converted, errors = 0, []
    try:
        reader = read_container(path)
        for record in reader:
            try:
                read_survey_alert(record, schema=reader.schema)
                n_converted += 1
            except SurveyError as error:
                errors.append(error)
    except WireError as error:
        errors.append(error)
    return n_converted, errors


@pytest.mark.shared_data
@needs_shared
def test_every_real_file_converts_or_yields_an_error_that_names_what_is_wrong():
    with (SHARED / "alerts" / "MANIFEST.csv").open() as file:
        names = [row["file"] for row in csv.DictReader(file)]
    n_converted, files, reasons = 0, collections.Counter(), collections.defaultdict(set)
    for name in names:
        found, errors = outcome(SHARED / "alerts" / name)
        n_converted += found
        files["reported" if errors else "converted" if found else "empty"] += 1
        for error in errors:
            reasons[error.reason].add(name)
    assert len(names) == 289
    assert files == {"converted": 279, "reported": 9, "empty": 1}
    assert n_converted == 279
    # A record in front of the damage may come out of the container: its cutout's gzip checksum is wrong.
    containers = reasons["avro"] | reasons["frame"] | reasons["schema"] | reasons["cutout-image"]
    damaged = {name for name in names if name.startswith("damaged/") and "part-" not in name}
    others = {"lsst/25409136044802067.confluent.avro", "stamps_labelled/btsbot_labelled_triplets.npz"}
    assert containers == damaged | others
    assert reasons["cutout-image"] <= damaged
    # Nothing in these says how wide a pixel is.
    assert reasons["survey"] == {"other/TURBO_2.avro", "other/TURBO_3.avro", "other/TURBO_5.avro"}


@pytest.mark.shared_data
@needs_shared
def test_every_labelled_stamp_converts():
    paths = sorted((SHARED / "ztf_labelled").glob("*.avro"))
    results = [outcome(path) for path in paths]
    assert len(paths) == 4
    assert sum(found for found, _ in results) == 1173
    assert not any(errors for _, errors in results)
