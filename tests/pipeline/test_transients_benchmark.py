"""The benchmark of injected transients: its statistics say what they claim, and a pair goes the whole way."""

import numpy as np
import pytest

transients = pytest.importorskip(
    "benchmarks.subtraction.transients", reason="benchmarks/ is not in the wheel"
)


def test_the_half_point_is_where_half_are_found():
    rng = np.random.default_rng(1)
    snr = rng.uniform(2, 14, 4000)
    assert transients._half(snr, snr + rng.normal(0, 1, 4000) > 5.3) == pytest.approx(5.3, abs=0.1)


def test_the_flux_ratio_is_that_of_the_sources_and_one_mistake_does_not_move_it():
    rng = np.random.default_rng(2)
    expected = rng.uniform(1e3, 1e4, 500) * rng.choice([-1, 1], 500)
    error = np.full(500, 100.0)
    flux = 0.97 * expected + rng.normal(0, 100, 500)
    flux[0] = 50 * expected[0]
    ratio, ratio_error, n = transients._ratio(expected, flux, error, np.ones(500, bool))
    assert ratio == pytest.approx(0.97, abs=4 * ratio_error)
    assert ratio_error < 0.002
    assert n == 499


def test_a_refused_pair_is_counted_and_named():
    summary = transients.summarise([{"refused": "a: subtract: no [not-trusted]"}])
    assert summary == {"n_pairs": 0, "refused": ["a: subtract: no [not-trusted]"]}
    assert not transients.required("x", summary)[0].is_met


@pytest.mark.slow
def test_a_pair_goes_from_raw_pixels_to_candidates(tmp_path):
    result = transients.measured_pair("ast3", "clear", 1, tmp_path, 768)
    summary = transients.summarise([result])
    assert summary["n_pairs"] == 1
    assert summary["n_injected"] >= 50
    assert summary["above_8"][0] >= 0.95
    assert summary["ratio"][0] == pytest.approx(1.0, abs=0.03)
    assert summary["pull_width"] == pytest.approx(1.0, abs=0.35)
    assert abs(result["align"]["dx"]) < 0.05
    kept = transients.kept(["ast3"], ["clear"], 2, tmp_path, 768)
    assert kept["ast3 clear"][0]["seed"] == 1
    assert transients.measured_pair("ast3", "clear", 1, tmp_path, 768)["injected"] == result["injected"]
