"""Raw frames to alerts: complete, valid, the same when run again, and whatever happens to single frames."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from small_night import TEMPLATE, write_small_night
from sqlalchemy import select
from typer.testing import CliRunner

from multiscale import check_file, read_alerts
from reference_pipeline.catalogues.sphere import separation
from reference_pipeline.cli import app
from reference_pipeline.frame import MaskBit
from reference_pipeline.products import input_digest_of, read_product, read_summary, write_product
from reference_pipeline.store import tables
from reference_pipeline.store.opening import open_store


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Two visits of a field, and one of an earlier night; many variable stars, both branches."""
    folder = tmp_path_factory.mktemp("night")
    write_small_night(folder, size=(768, 720), variable_density=2000.0, branches=("qip", "dip"))
    return folder


@pytest.fixture(scope="module")
def done(night):
    result = run(night, night / "out")
    assert result.exit_code == 0, result.output
    return night / "out"


def run(night, out, *more, workers=2):
    arguments = ["run", night / "reduce.toml", *more, "-o", out, "--workers", workers]
    return CliRunner().invoke(app, [str(a) for a in arguments])


def report_of(out):
    return json.loads((out / "report.json").read_text())


def alerts_of(out, branch="dip"):
    return [alert for path in sorted((out / "alerts" / branch).glob("*.avro")) for alert in read_alerts(path)]


def test_every_exposure_went_through_both_branches(done):
    ways = Counter((d["branch"], d["status"]) for d in report_of(done)["differences"])
    assert ways == {("qip", "done"): 2, ("dip", "done"): 2, ("qip", "template"): 1, ("dip", "template"): 1}


def test_all_that_left_is_valid_and_is_all_there_is(done):
    files = sorted((done / "alerts").glob("*/*.avro"))
    assert [str(finding) for path in files for finding in check_file(path)] == []
    in_files = {alert.alert_id for branch in ("qip", "dip") for alert in alerts_of(done, branch)}
    store = open_store(f"sqlite:///{done}/night.sqlite")
    with store.read() as session:
        stored = set(session.scalars(select(tables.Alert.id)))
        sent = set(session.scalars(select(tables.Outbox.alert_id).where(tables.Outbox.sent_mjd.is_not(None))))
        kept = session.scalars(select(tables.Candidate.id).where(tables.Candidate.cut.is_(None))).all()
    store.close()
    assert in_files == stored == sent
    assert len(kept) == len(stored) > 10


def variables_of(night, exposure_id):
    """What varies in a frame: positions, and fluxes in units of the frame's zero point."""
    table = Table.read(night / "truth" / f"{exposure_id}.variables.fits")
    return table, 10 ** (-0.4 * np.asarray(table["magnitude"], float))


def test_alerts_are_where_something_varies(night, done):
    alerts = [a for a in alerts_of(done) if abs(a.detection.snr) > 8]
    assert len(alerts) >= 3
    n_true = 0
    for alert in alerts:
        truth, _ = variables_of(night, alert.detection.exposure_id)
        apart = 3600 * separation(alert.detection.ra, alert.detection.dec, truth["ra"], truth["dec"])
        n_true += bool(apart.min() < 1.0) or any(m.kind == "minor_planet" for m in alert.cross_matches)
    assert n_true >= 0.75 * len(alerts)


def test_what_varies_has_an_alert(night, done):
    """Every variable source whose flux changed by 20 sigma, away from the edge and not saturated."""
    alerts = alerts_of(done)
    table, fluxes = variables_of(night, TEMPLATE)  # the template
    earlier = dict(zip((int(id_) for id_ in table["id"]), fluxes))
    n_changed = 0
    for exposure_id in {a.detection.exposure_id for a in alerts}:
        now, flux = variables_of(night, exposure_id)
        flux_before = np.array([earlier.get(int(id_), 0.0) for id_ in now["id"]])  # not there: not yet begun
        summary = read_summary(done / "calibrated" / f"{exposure_id}.fits")
        sigma = 10 ** (-0.4 * summary.quality.limiting_magnitude) / 5
        x, y = summary.wcs.all_world2pix(now["ra"], now["dec"], 0)
        inside = (x > 60) & (x < summary.shape[1] - 60) & (y > 60) & (y < summary.shape[0] - 60)
        changed = (
            inside & (np.abs(flux - flux_before) > 20 * sigma) & (np.minimum(flux, 1) < 10 ** (-0.4 * 15))
        )
        places = [(a.detection.ra, a.detection.dec) for a in alerts if a.detection.exposure_id == exposure_id]
        ra, dec = np.array(places).T
        for row in np.flatnonzero(changed):
            apart = 3600 * separation(now["ra"][row], now["dec"][row], ra, dec)
            assert apart.min() < 1.0, (exposure_id, float(x[row]), float(y[row]))
            n_changed += 1
    assert n_changed >= 2


def test_an_alert_says_where_it_is_from_and_what_was_before(done):
    alerts = alerts_of(done)
    second = [a for a in alerts if a.history]
    assert second, "no object was seen twice"
    for alert in second:
        assert max(d.time for d in alert.history) < alert.detection.time
        assert {d.exposure_id for d in alert.history}.isdisjoint({alert.detection.exposure_id})
    ids = Counter(a.object_id for a in alerts)
    assert all(ids[a.object_id] == 1 + len(a.history) for a in second)
    alert = second[0]
    assert [p.kind for p in alert.cutout.planes] == ["SCIENCE", "TEMPLATE", "DIFFERENCE", "SCORE"]
    score = alert.cutout.levels("score")[0]
    middle = score[6:10, 6:10]
    assert np.nanmax(np.abs(middle)) == pytest.approx(abs(alert.detection.snr), rel=0.3)
    assert alert.properties["branch"] == "dip"
    assert {"calibrated", "subtracted", "classified", "alert"} == {step.step for step in alert.processing}
    assert {"reference-pipeline", "multiscale"} <= {p.software for p in alert.provenance}


def test_light_curves_hold_every_detection(done):
    table = pq.read_table(next((done / "lightcurves").glob("*.parquet"))).to_pylist()
    found = {row["candidate_id"] for row in table if row["what"] == "detection"}
    assert found == {a.detection.detection_id for branch in ("qip", "dip") for a in alerts_of(done, branch)}


def test_running_again_does_nothing(night, done):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(done.glob("*/*/*.*"))}
    result = run(night, done)
    assert result.exit_code == 0, result.output
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(done.glob("*/*/*.*"))} == before
    report = report_of(done)
    assert report["n_delivered"] == 0
    assert {d["status"] for d in report["differences"]} == {"unchanged", "template"}


def test_the_report_is_a_page_with_the_subtractions(done):
    page = (done / "report.html").read_text()
    assert "<h2>Subtractions</h2>" in page
    assert page.count("not-trusted") == 0


def test_a_night_with_spoiled_frames_still_sends_the_others(night, done, tmp_path):
    out, raw = tmp_path / "out", tmp_path / "raw"
    for folder in ("masters", "calibrated"):
        shutil.copytree(done / folder, out / folder)
    shutil.copytree(night / "raw", raw)
    science = sorted(raw.glob("ast3-20260516-F005-*"))
    other_band = raw / "other-band.fits"
    with fits.open(science[0]) as hdus:  # a frame for which there is no template
        hdus[0].header["FILTER"] = "r"
        hdus.writeto(other_band)
    (raw / "cut-short.fits").write_bytes(science[0].read_bytes()[:200_000])
    result = run(night, out, raw)
    assert result.exit_code == 1, result.output
    report = report_of(out)
    ways = {(d["exposure"], d["branch"]): (d["status"], d["reason"]) for d in report["differences"]}
    assert {ways["other-band", branch] for branch in ("qip", "dip")} == {("template", "")}
    frames = {f["id"]: (f["status"], f["reason"]) for f in report["frames"]}
    assert frames["cut-short"] == ("failed", "truncated")
    assert {a.alert_id for a in alerts_of(out)} == {a.alert_id for a in alerts_of(done)}


def moved(frame, *, pixels=0.0, degrees=0.0):
    """The frame with a WCS that is wrong."""
    wcs = frame.wcs.deepcopy()
    wcs.wcs.crpix += pixels
    wcs.wcs.crval += [0.0, degrees]
    wcs.wcs.set()
    return replace(frame, wcs=wcs)


def test_a_frame_that_cannot_be_subtracted_is_named_and_the_night_goes_on(night, done, tmp_path):
    out, raw = tmp_path / "out", tmp_path / "raw"
    for folder in ("masters", "calibrated"):
        shutil.copytree(done / folder, out / folder)
    shutil.copytree(night / "raw", raw)
    source = sorted(raw.glob("ast3-20260516-F005-*"))[0]
    product = out / "calibrated" / source.name
    frame, digest = read_product(product), input_digest_of(product)
    spoiled = {
        "shifted": (moved(frame, pixels=4.0), {"misaligned", "no-stars"}),
        "elsewhere": (moved(frame, degrees=5.0), {"other-field"}),
        "masked": (replace(frame, mask=np.full_like(frame.mask, MaskBit.BAD)), {"no-pixels", "no-stars"}),
        "without-psf": (replace(frame, psf=None), {"no-psf"}),
    }
    for name, (bad, _) in spoiled.items():  # the same raw file, so that the product counts as its own
        shutil.copy(source, raw / f"{name}.fits")
        exposure = replace(bad.exposure, id=name)
        write_product(product.with_name(f"{name}.fits"), replace(bad, exposure=exposure), input_digest=digest)
    result = run(night, out, raw)
    assert result.exit_code == 1, result.output
    differences = report_of(out)["differences"]
    found = {d["exposure"]: d["reason"] for d in differences if d["branch"] == "dip"}
    for name, (_, reasons) in spoiled.items():
        assert found[name] in reasons, (name, found[name])
        assert f"{name} dip: failed" in result.output
    assert {a.alert_id for a in alerts_of(out)} == {a.alert_id for a in alerts_of(done)}
    again = run(night, out, raw)  # what failed would fail again: it is said, not tried
    assert again.exit_code == 1
    assert {
        d["exposure"]: d["reason"] for d in report_of(out)["differences"] if d["branch"] == "dip"
    } == found
    assert not [line for line in again.stderr.splitlines() if " dip: " in line]


def test_a_template_whose_file_is_gone_is_made_again_on_record(night, done, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(done, out)
    [lost] = (out / "templates" / "dip").glob("*.fits")
    before = lost.read_bytes()
    lost.unlink()
    result = run(night, out)
    assert result.exit_code == 0, result.output
    assert lost.read_bytes() == before
    store = open_store(f"sqlite:///{out}/night.sqlite")
    with store.read() as session:
        in_use = select(tables.Template).where(tables.Template.replaced_by.is_(None))
        assert [t.branch for t in session.scalars(in_use.order_by(tables.Template.branch))] == ["dip", "qip"]
    store.close()


def test_a_notice_lets_its_exposures_go_first(night, done, tmp_path):
    out = tmp_path / "out"
    for folder in ("masters", "calibrated"):
        shutil.copytree(done / folder, out / folder)
    late = max((a.detection for a in alerts_of(done)), key=lambda d: d.time)
    from astropy.time import Time

    notice = tmp_path / "notice.json"
    trigger = Time(late.time - 30 / 86400, format="mjd").isot
    notice.write_text(json.dumps({"ra": late.ra, "dec": late.dec, "trigger_time": trigger}))
    # one process: of two, either may be done first with what both began together
    result = run(night, out, "--too", notice, "--too-days", 0.5, workers=1)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if " done " in line]
    assert lines[0].startswith(f"{late.exposure_id} qip")
    store = open_store(f"sqlite:///{out}/night.sqlite")
    with store.read() as session:
        flagged = session.scalars(select(tables.Exposure.id).where(tables.Exposure.is_too)).all()
    store.close()
    assert flagged == [late.exposure_id]
