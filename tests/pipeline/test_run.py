"""A night through the command: every file accounted for, bad ones named, nothing half done."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from reference_pipeline.cli import app
from reference_pipeline.config import load_config
from reference_pipeline.errors import ConfigError
from reference_pipeline.night import reduce as stage
from reference_pipeline.products import read_product, status_of
from reference_pipeline.simulate.survey import load_survey, simulate_night
from reference_pipeline.simulate.truth import read_truth

NIGHT = "2026-06-20"


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Two bands of one crowded field, with their calibration frames."""
    folder = tmp_path_factory.mktemp("night")
    survey = load_survey("ast3")
    field = next(f for f in survey.fields if f.id == "F005")
    weather = survey.weather.model_copy(update={"patchy_cloud_rate": 0.0, "thin_cloud_rate": 0.0})
    survey = survey.model_copy(
        update={
            "size": (700, 800), "fields": (field,), "bands": ("g",), "weather": weather,
            "n_bias": 3, "n_flats": 4, "n_science": 2,
        }
    )  # fmt: skip
    simulate_night(survey, 5, NIGHT, folder)
    return folder


@pytest.fixture(scope="module")
def reduced(night, tmp_path_factory):
    out = tmp_path_factory.mktemp("reduced")
    result = reduce(night / "raw", out, night)
    assert result.exit_code == 0, result.output
    return out


def reduce(raw, out, night, *more):
    arguments = ["reduce", raw, "-o", out, "--config", night / "reduce.toml", "--workers", 1, *more]
    return CliRunner().invoke(app, [str(a) for a in arguments])


def report_of(out):
    return json.loads((out / "report.json").read_text())


def test_every_file_of_the_night_is_in_the_report(night, reduced):
    frames = report_of(reduced)["frames"]
    assert sorted(f["file"] for f in frames) == sorted(p.name for p in (night / "raw").iterdir())
    counts = {status: sum(f["status"] == status for f in frames) for status in ("master", "calibrated")}
    rejected = sum(f["status"] == "rejected" for f in frames)  # a spoiled flat, now and then
    assert counts["calibrated"] == 2
    assert counts["master"] + rejected == 7


def test_a_calibrated_frame_agrees_with_the_truth(night, reduced):
    for path in sorted((reduced / "calibrated").iterdir()):
        frame, truth = read_product(path), read_truth(night / "truth" / path.name)
        x, y = np.meshgrid(np.linspace(0, 799, 9), np.linspace(0, 699, 9))
        found = np.array(frame.wcs.pixel_to_world_values(x, y))
        true = np.array(truth.wcs.pixel_to_world_values(x, y))
        mas = (found - true) * 3.6e6 * [[[np.cos(np.radians(30))]], [[1]]]
        assert np.abs(mas).max() < 150  # a tenth of a pixel in the corners would be 41
        assert abs(frame.zero_point.value - truth.zero_point.value) < 0.03
        assert frame.quality.pearson > 0.99
        assert frame.psf is not None
        assert [step.name for step in frame.steps][:3] == ["calibrate", "cosmic_rays", "trails"]


def test_the_report_is_a_page_to_look_at(reduced):
    page = (reduced / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "2 calibrated" in page


def test_a_second_run_changes_nothing(night, reduced):
    before = {path: path.stat().st_mtime_ns for path in (reduced / "calibrated").iterdir()}
    masters = {path: path.stat().st_mtime_ns for path in (reduced / "masters").iterdir()}
    result = reduce(night / "raw", reduced, night)
    assert result.exit_code == 0
    assert "2 unchanged" in result.output
    assert {path: path.stat().st_mtime_ns for path in (reduced / "calibrated").iterdir()} == before
    assert {path: path.stat().st_mtime_ns for path in (reduced / "masters").iterdir()} == masters


@pytest.fixture(scope="module")
def spoiled(night, tmp_path_factory):
    """The night with every kind of broken frame beside the good ones."""
    folder = tmp_path_factory.mktemp("spoiled")
    shutil.copytree(night / "raw", folder / "raw")
    raw = folder / "raw"
    good = sorted(raw.glob("*-F005-*"))[0]
    (raw / "truncated.fits").write_bytes(good.read_bytes()[:300_000])
    (raw / "text.fits").write_text("not an image")
    with fits.open(good) as hdus:
        data, header = hdus[0].data.copy(), hdus[0].header.copy()

    def write(name, pixels, **keywords):
        changed = header.copy()
        for keyword, value in keywords.items():
            if value is None:
                del changed[keyword]
            else:
                changed[keyword] = value
        for key in ("BZERO", "BSCALE"):
            changed.remove(key, ignore_missing=True)
        fits.PrimaryHDU(pixels, changed).writeto(raw / f"{name}.fits")

    write("no-date", data, **{"DATE-OBS": None})
    write("shape", data[:500])
    write("nan", np.full(data.shape, np.nan, np.float32))
    write("saturated", np.full(data.shape, 65535, np.uint16))
    write("no-stars", np.random.default_rng(1).normal(1100, 6, data.shape).astype(np.uint16))
    write("wrong-pointing", data, RA=(header["RA"] + 90) % 360)
    return folder


def test_bad_frames_are_named_and_the_night_goes_on(night, spoiled, tmp_path):
    result = reduce(spoiled / "raw", tmp_path, night, "--no-psf")
    assert result.exit_code == 1
    frames = {f["id"]: f for f in report_of(tmp_path)["frames"]}
    reasons = {name: frames[name]["reason"] for name in (
        "truncated", "text", "no-date", "shape", "nan", "saturated", "no-stars", "wrong-pointing"
    )}  # fmt: skip
    assert reasons.pop("wrong-pointing") in ("no-match", "no-reference-stars", "catalogue")
    assert reasons == {
        "truncated": "truncated", "text": "not-fits", "no-date": "keyword-missing", "shape": "shape",
        "nan": "all-invalid", "saturated": "saturated", "no-stars": "no-stars",
    }  # fmt: skip
    assert not [f for f in frames.values() if f["status"] == "crashed"]
    assert sum(f["status"] == "calibrated" for f in frames.values()) == 2
    for name in reasons:
        assert f"{name}.fits: failed" in result.output
    assert not [p for p in tmp_path.rglob("*") if "partial" in p.name]


def test_a_failed_frame_is_kept_as_far_as_it_came(night, spoiled, tmp_path):
    reduce(spoiled / "raw" / "no-stars.fits", tmp_path, night, "--no-psf")
    kept = tmp_path / "failed" / "no-stars.fits"
    assert status_of(kept) == "sources: no-stars"
    assert read_product(kept).wcs is None
    assert not (tmp_path / "calibrated" / "no-stars.fits").exists()


def test_masters_are_not_needed_to_go_on_without_them(night, tmp_path):
    science = sorted((night / "raw").glob("*-F005-*"))[0]
    result = reduce(science, tmp_path, night, "--no-psf")
    assert result.exit_code == 0, result.output
    frame = read_product(tmp_path / "calibrated" / science.name)
    assert frame.steps[0].decision["flat"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--camera", "no-such"], "is not known; shipped:"),
        (["--catalogue", "/nowhere/at/all"], "neither a folder nor a file"),
    ],
)
def test_settings_that_cannot_be_used_stop_the_command_before_it_begins(night, tmp_path, arguments, words):
    result = reduce(night / "raw", tmp_path / "out", night, *arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert not (tmp_path / "out").exists()


def test_two_files_that_would_have_one_product_are_refused(night, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.fits").touch()
    with pytest.raises(ConfigError, match="would both become"):
        stage.find_files([tmp_path / "a", tmp_path / "b"])


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no FITS files"):
        stage.find_files([tmp_path])


def die(job):
    """A worker that the system kills on one frame."""
    if job.path.name == "deadly.fits":
        os._exit(9)
    return stage.FrameReport(file=job.path.name, id=job.path.stem, status="calibrated")


def raise_(job):
    raise MemoryError("all of it")


@pytest.mark.parametrize(("work", "reason"), [(die, "killed"), (raise_, "MemoryError")])
def test_a_frame_that_ends_its_process_does_not_end_the_night(work, reason, night):
    config = load_config(night / "reduce.toml")
    names = ["a.fits", "deadly.fits", "b.fits"] if work is die else ["deadly.fits"]
    jobs = [stage.Job(Path(name), "science", (), Path("."), config, False) for name in names]
    reports = stage._reports_of(work, jobs, 1, lambda report: None)
    assert {r.file: r.status for r in reports} == {
        name: "crashed" if name == "deadly.fits" else "calibrated" for name in names
    }
    assert next(r.reason for r in reports if r.file == "deadly.fits") == reason
