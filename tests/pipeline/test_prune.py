"""Old differences go, and nothing else does."""

import os
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from alert_field import STEPS, field

from multiscale import Geometry, Placement, encode_cutouts
from reference_pipeline.alerts.cutouts import cutouts_path, read_cutouts, write_cutouts
from reference_pipeline.difference_products import difference_path, read_difference, write_difference
from reference_pipeline.errors import ConfigError, FileError
from reference_pipeline.prune import prune

NOW = 60400.0


def leave(out, exposure_id, age, *, branch="dip", n_cutouts=1):
    """What the processing of an exposure ``age`` days ago leaves: a small part of the real product."""
    made, part = field(), np.s_[60:120, 60:130]
    exposure = replace(made.aligned.exposure, id=exposure_id, start_mjd=NOW - age)

    def cut(frame):
        return replace(
            frame,
            exposure=exposure,
            data=frame.data[part],
            variance=frame.variance[part],
            mask=frame.mask[part],
        )

    d = made.difference
    planes = {name: getattr(d, name)[part] for name in ("data", "variance", "mask", "score", "flux")}
    write_difference(
        difference_path(out, branch, exposure_id), difference=replace(d, **planes), aligned=cut(made.aligned),
        template=cut(made.template), candidates=made.candidates, branch=branch, template_id="1",
        input_digest="d", steps=STEPS,
    )  # fmt: skip
    encoded = encode_cutouts({"difference": planes["data"]}, Geometry(8, 2, 1.0), [Placement.at(30.0, 30.0)])
    write_cutouts(
        cutouts_path(out, branch, exposure_id), dict.fromkeys(range(n_cutouts), encoded[0]),
        exposure=exposure, branch=branch,
    )  # fmt: skip


def files(out):
    return {str(p.relative_to(out)): p.stat().st_size for p in out.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    folder = tmp_path_factory.mktemp("night")
    for exposure_id, age in (("old", 46.0), ("young", 44.0), ("future", -3.0)):
        leave(folder, exposure_id, age)
    leave(folder, "old", 46.0, branch="qip", n_cutouts=0)
    for name in (
        "night.sqlite", "calibrated/old.fits", "templates/qip/old.fits", "masters/bias.fits",
        "alerts/dip/old.avro", "report.html",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(difference_path(folder, "dip", "old").read_bytes())
    return folder


@pytest.fixture
def out(night, tmp_path):
    return shutil.copytree(night, tmp_path / "out")


OLD = {
    "differences/dip/old.fits", "differences/dip/old.cutouts.avro", "differences/qip/old.fits",
    "differences/qip/old.cutouts.avro",
}  # fmt: skip


def test_the_old_go_by_the_time_of_their_exposure(out):
    before = files(out)
    for path in out.rglob("*"):  # a copy is as old as what it is a copy of
        os.utime(path, (1.0, 1.0) if "young" in path.name else None)
    report = prune(out, keep_days=45.0, now_mjd=NOW)
    assert {str(r.path.relative_to(out)) for r in report.removed} == OLD
    assert files(out) == {name: size for name, size in before.items() if name not in OLD}
    assert report.n_bytes == sum(before[name] for name in OLD)
    assert (report.n_kept, report.left) == (4, ())
    assert {r.start_mjd for r in report.removed} == {NOW - 46.0}
    assert prune(out, keep_days=45.0, now_mjd=NOW).removed == ()


def test_what_is_gone_is_named_when_it_is_asked_for(out):
    prune(out, keep_days=45.0, now_mjd=NOW)
    for read, path in ((read_difference, difference_path), (read_cutouts, cutouts_path)):
        with pytest.raises(FileError) as caught:
            read(path(out, "dip", "old"))
        assert caught.value.reason == "pruned"
        assert read(path(out, "dip", "young"))


def test_a_rehearsal_removes_nothing(out):
    before = files(out)
    rehearsal = prune(out, keep_days=45.0, now_mjd=NOW, dry_run=True)
    assert files(out) == before
    assert rehearsal.is_dry_run
    assert replace(rehearsal, is_dry_run=False) == prune(out, keep_days=45.0, now_mjd=NOW)


def test_the_limit_is_not_yet_old(out):
    assert len(prune(out, keep_days=46.0, now_mjd=NOW).removed) == 0
    assert len(prune(out, keep_days=0.0, now_mjd=NOW).removed) == 6


def test_what_is_not_understood_is_left_and_named(out, tmp_path_factory):
    folder = out / "differences" / "dip"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    leave(elsewhere, "old", 90.0)
    (folder / "notes.txt").write_text("mine")
    (folder / "broken.fits").write_bytes(b"SIMPLE  =                    T" + bytes(100))
    (folder / "frame.fits").write_bytes(b"")
    (folder / "orphan.cutouts.avro").write_bytes(cutouts_path(out, "qip", "old").read_bytes())
    (folder / "linked.fits").symlink_to(difference_path(elsewhere, "dip", "old"))
    (out / "differences" / "linked").symlink_to(elsewhere / "differences" / "dip")
    report = prune(out, keep_days=45.0, now_mjd=NOW)
    assert {str(r.path.relative_to(out)) for r in report.removed} == OLD
    assert {path.name for path, _ in report.left} == {
        "notes.txt", "broken.fits", "frame.fits", "orphan.cutouts.avro", "linked.fits", "linked",
    }  # fmt: skip
    assert all(why for _, why in report.left)
    assert len(files(elsewhere)) == 2
    assert (folder / "notes.txt").read_text() == "mine"


def test_half_a_file_goes_when_nobody_can_be_writing_it(out):
    whole = difference_path(out, "dip", "old").read_bytes()
    cutouts = cutouts_path(out, "dip", "old").read_bytes()
    folder = out / "differences" / "dip"
    halves = [folder / ".old.fits.0a1b2c3d.partial", folder / ".old.cutouts.avro.0a1b2c3d.partial"]
    halves[0].write_bytes(whole[: len(whole) // 2])
    halves[1].write_bytes(cutouts[:-1])
    report = prune(out, keep_days=45.0, now_mjd=NOW)
    assert {path for path, _ in report.left} == set(halves)
    for half in halves:
        os.utime(half, (time.time() - 2 * 86400,) * 2)
    report = prune(out, keep_days=45.0, now_mjd=NOW)
    assert halves[0] in {r.path for r in report.removed}
    assert not halves[0].exists()


def test_an_empty_folder_and_a_wrong_number(tmp_path):
    report = prune(tmp_path, keep_days=45.0, now_mjd=NOW)
    assert (report.removed, report.n_kept, report.left) == ((), 0, ())
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="keep_days"):
            prune(tmp_path, keep_days=wrong, now_mjd=NOW)
