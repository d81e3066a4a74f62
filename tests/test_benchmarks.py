"""The claims of the benchmarks that do not depend on time, and that every question can be asked."""

import json

import numpy as np
import pytest

pytest.importorskip("astropy", reason="the benchmarks read FITS as others do (extra `fits`)")
common = pytest.importorskip("benchmarks.common", reason="benchmarks/ is not in the wheel")

from benchmarks.fidelity.__main__ import measure as measure_fidelity  # noqa: E402
from benchmarks.size.__main__ import record_size, three_planes  # noqa: E402
from benchmarks.speed import decoding, visit  # noqa: E402
from benchmarks.speed.copies import LAYOUTS, encode  # noqa: E402
from benchmarks.speed.timing import cpu_seconds, medians  # noqa: E402
from multiscale import profile  # noqa: E402


@pytest.fixture(scope="module")
def ztf():
    """Every fifth real ZTF alert that has all three cutouts."""
    return [a for a in common.real_alerts("ztf") if a.has_three_planes][::5]


@pytest.mark.shared_data
def test_three_raw_planes_take_at_most_2660_bytes(ztf):
    sizes = [record_size(three_planes(a, profile("ZTF-4x8"), "raw", sky=True)) for a in ztf]
    assert len(sizes) > 40
    assert max(sizes) <= 2660


@pytest.mark.shared_data
@pytest.mark.parametrize(("sky", "limit"), [(False, 630), (True, 670)])
def test_three_rice_planes_at_a_quarter_sigma_take_at_most_630_bytes_and_670_with_a_sky(ztf, sky, limit):
    """Medians; a fifth of the sample may lie a little above the whole's."""
    sizes = [record_size(three_planes(a, profile("ZTF-4x8"), "rice", sky=sky)) for a in ztf]
    assert np.median(sizes) <= 1.05 * limit


@pytest.mark.shared_data
def test_a_record_is_fifty_times_smaller_than_the_gzip_fits_of_the_same_alert(ztf):
    own = [sum(map(len, common.cutout_bytes(a.record))) for a in ztf]
    ours = [record_size(three_planes(a, profile("ZTF-4x8"), "rice")) for a in ztf]
    assert np.median(np.divide(own, ours)) > 50


@pytest.mark.shared_data
def test_real_alerts_keep_the_rule_and_the_bounds():
    """The sample has clipped cutouts, NaN, −3.4e38, both signs of difference, and LSST."""
    ztf, lsst = common.real_alerts("ztf"), common.real_alerts("lsst")
    special = [a for a in ztf if a.alert.cutout.planes["science"].shape != (63, 63) or _has_invalid(a)][:20]
    flipped = [a for a in ztf if str(a.record["candidate"]["isdiffpos"]) in ("f", "0")][:10]
    requirements = measure_fidelity(alerts=(*special, *flipped, *ztf[::20], *lsst[::10]))
    assert {r.name: r.measured for r in requirements if not r.is_met} == {}


def _has_invalid(real):
    return not all((np.abs(plane) < 2.0**125).all() for plane in real.alert.cutout.planes.values())


@pytest.mark.shared_data
def test_every_way_to_decode_runs_on_its_smallest_setting(monkeypatch):
    monkeypatch.setattr(decoding, "N_BATCH", 5)
    monkeypatch.setattr(decoding, "N_PEER", 1)
    monkeypatch.setattr("benchmarks.speed.timing.LEAST_SECONDS", 0.0)
    for survey, peer in decoding.PEER.items():
        n_alerts, seconds = decoding.decoding(survey, rounds=1)
        assert n_alerts > 40
        assert peer in seconds
        assert min(medians(seconds).values()) > 0


def test_turns_are_taken_in_every_round():
    calls = []
    runs = {name: ((lambda n=name: calls.append(n)), 1) for name in "ab"}
    assert {name: len(times) for name, times in cpu_seconds(runs, rounds=3).items()} == {"a": 3, "b": 3}
    assert calls[:4] == ["a", "a", "b", "b"]  # warm


def test_the_images_that_are_compared_with_a_copy_lose_nothing():
    for geometry in LAYOUTS.values():
        stack = np.arange(2 * geometry.span_px**2, dtype=np.float32).reshape(2, geometry.span_px, -1)
        assert encode(stack, geometry).shape == (2, geometry.n_values)


@pytest.mark.parametrize("layout", visit.LAYOUTS)
def test_a_piece_of_a_visit_is_encoded_serialised_and_validated(layout, monkeypatch):
    monkeypatch.setattr(visit, "SIDE", 300)
    monkeypatch.setattr(visit, "N_AT_A_TIME", 3)
    done = visit.work(layout, 6, seed=1)
    assert set(done["cpu"]) == set(visit.STAGES)
    geometry, encoding, _ = visit.LAYOUTS[layout]
    assert done["bytes"] < 3 * 4 * geometry.n_values + 150
    assert (encoding == "rice") == (done["bytes"] < 2 * 4 * geometry.n_values)


STUDIES = "bandwidth_accuracy"  # raw results of whole studies, which have a form of their own


def test_kept_results_name_no_machine_and_are_small():
    files = [path for path in common.RESULTS.rglob("*") if path.is_file()]
    of_studies = [path for path in files if path.relative_to(common.RESULTS).parts[0] == STUDIES]
    others = sorted(set(files) - set(of_studies))
    assert sum(path.stat().st_size for path in of_studies) < 20_000_000
    assert sum(path.stat().st_size for path in others) < 1_500_000  # a report needs its figures
    assert max(path.stat().st_size for path in others) < 120_000
    for path in files:
        if path.suffix in (".json", ".html", ".svg"):
            text = path.read_text()
            end = "" if path.suffix == ".json" else "/"  # pictures inside a page are letters at random
            words = [f"{word}{end}" for word in ("/home", "/root", "/work", "/tmp")]
            assert not [word for word in (*words, "hostname") if word in text], path
            if path in others and path.suffix == ".json":
                assert {"environment", "setting", "requirements"} <= set(json.loads(text))
