"""Metrics, each on a case made by hand and against scikit-learn or scipy where they have it."""

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the pipeline's extra is not installed")

from reference_pipeline.classify import metrics


def sklearn_metrics():
    return pytest.importorskip("sklearn.metrics", reason="scikit-learn is the second opinion (extra `train`)")


@pytest.fixture(scope="module")
def case():
    """Truth and probabilities (1200, 6) of a classifier that is right in about two of three."""
    rng = np.random.default_rng(5)
    truth = rng.choice(6, size=1200, p=[0.1, 0.3, 0.2, 0.02, 0.08, 0.3])
    logits = rng.normal(size=(1200, 6)) + 2 * np.eye(6)[truth]
    p = np.exp(logits)
    return truth, p / p.sum(axis=1, keepdims=True)


def test_confusion_by_hand():
    found = metrics.confusion([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0], 3)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    scores = metrics.class_scores(found)
    assert scores.precision == pytest.approx([1 / 2, 1 / 2, 1])
    assert scores.recall == pytest.approx([1 / 2, 1, 2 / 3])
    assert scores.f1 == pytest.approx([1 / 2, 2 / 3, 4 / 5])
    assert scores.macro_f1 == pytest.approx((1 / 2 + 2 / 3 + 4 / 5) / 3)
    assert metrics.accuracy(found) == pytest.approx(4 / 6)


def test_scores_are_those_of_scikit_learn(case):
    sk = sklearn_metrics()
    truth, p = case
    said = p.argmax(axis=1)
    matrix = metrics.confusion(truth, said, 6)
    assert (matrix == sk.confusion_matrix(truth, said)).all()
    precision, recall, f1, support = sk.precision_recall_fscore_support(truth, said)
    scores = metrics.class_scores(matrix)
    for ours, theirs in zip(
        (scores.precision, scores.recall, scores.f1, scores.support), (precision, recall, f1, support)
    ):
        assert ours == pytest.approx(theirs)
    assert scores.macro_f1 == pytest.approx(sk.f1_score(truth, said, average="macro"))
    assert scores.macro_precision == pytest.approx(precision.mean())
    assert scores.macro_recall == pytest.approx(sk.balanced_accuracy_score(truth, said))
    assert metrics.accuracy(matrix) == pytest.approx(sk.accuracy_score(truth, said))
    assert metrics.negative_log_likelihood(p, truth) == pytest.approx(sk.log_loss(truth, p))


def test_a_class_that_nobody_has_is_left_out_of_the_mean_and_one_never_found_is_not():
    scores = metrics.class_scores(metrics.confusion([0, 0, 1], [0, 0, 0], 3))
    assert scores.f1[1] == 0
    assert np.isnan(scores.f1[2])
    assert scores.macro_f1 == pytest.approx((4 / 5 + 0) / 2)
    assert np.isnan(scores.precision[1])  # never said


def test_a_class_beyond_the_last_is_refused():
    with pytest.raises(ValueError, match="classes"):
        metrics.confusion([0, 3], [0, 1], 3)
    with pytest.raises(ValueError, match="rows"):
        metrics.confusion([0, 1], [0], 3)


def test_precision_changes_with_the_rates_of_classes_and_recall_does_not():
    matrix = [[90, 10], [5, 95]]
    scores = metrics.class_scores(metrics.at_rates(matrix, [0.99, 0.01]))
    assert scores.recall == pytest.approx([0.9, 0.95])
    assert scores.precision[1] == pytest.approx(0.01 * 0.95 / (0.01 * 0.95 + 0.99 * 0.1))


def test_brier_by_hand_and_of_two_classes_as_scikit_learn_s():
    assert metrics.brier([[0.7, 0.2, 0.1]], [1]) == pytest.approx(0.7**2 + 0.8**2 + 0.1**2)
    sk = sklearn_metrics()
    rng = np.random.default_rng(2)
    truth, p = rng.integers(2, size=300), rng.random(300)
    both = np.stack([1 - p, p], axis=1)
    assert metrics.brier(both, truth) == pytest.approx(2 * sk.brier_score_loss(truth, p))


def test_reliability_by_hand():
    sure, right = [0.15, 0.1, 0.8, 0.9, 1.0], [True, False, True, False, True]
    wide = metrics.reliability(sure, right, n_bins=2, binning="width")
    assert wide.count.tolist() == [2, 3]
    assert wide.confidence == pytest.approx([0.125, 0.9])
    assert wide.accuracy == pytest.approx([0.5, 2 / 3])
    assert wide.error == pytest.approx((2 * 0.375 + 3 * (0.9 - 2 / 3)) / 5)
    even = metrics.reliability(sure, right, n_bins=5)
    assert even.count.tolist() == [1, 1, 1, 1, 1]
    assert even.error == pytest.approx((0.85 + 0.1 + 0.2 + 0.9 + 0) / 5)
    with pytest.raises(ValueError, match="binning"):
        metrics.reliability(sure, right, binning="none")


@pytest.mark.parametrize(("binning", "strategy"), [("mass", "quantile"), ("width", "uniform")])
def test_reliability_is_scikit_learn_s_curve(binning, strategy):
    calibration = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(3)
    sure = rng.random(1000)
    right = rng.random(1000) < sure**1.5
    ours = metrics.reliability(sure, right, n_bins=10, binning=binning)
    accuracy, confidence = calibration.calibration_curve(right, sure, n_bins=10, strategy=strategy)
    # quantiles between rows may put one row of a hundred on the other side
    assert ours.accuracy == pytest.approx(accuracy, abs=0.011)
    assert ours.confidence == pytest.approx(confidence, abs=0.002)


@pytest.mark.parametrize("binning", ["mass", "width"])
def test_a_calibrated_classifier_has_a_small_error_and_a_sharpened_one_a_known(binning):
    rng = np.random.default_rng(4)
    p = rng.dirichlet(np.ones(4), size=20_000)
    truth = (rng.random((20_000, 1)) > p.cumsum(axis=1)).sum(axis=1)
    # of 15 bins with 1300 rows each: |error| about 0.8 sqrt(0.25 / 1300) = 0.011
    assert metrics.calibration_error(p, truth, binning=binning) < 0.015
    sharp = p**3 / (p**3).sum(axis=1, keepdims=True)
    expected = sharp.max(axis=1).mean() - p.max(axis=1).mean()  # overconfident everywhere
    assert metrics.calibration_error(sharp, truth, binning=binning) == pytest.approx(expected, abs=0.02)


def test_det_by_hand():
    curve = metrics.det_curve([True, True, False, False], [0.9, 0.4, 0.4, 0.1])
    assert curve.threshold.tolist() == [np.inf, 0.9, 0.4, 0.1]
    assert curve.fnr.tolist() == [1, 0.5, 0, 0]
    assert curve.fpr.tolist() == [0, 0, 0.5, 1]
    assert metrics.area_under_roc([True, True, False, False], [0.9, 0.4, 0.4, 0.1]) == 7 / 8
    with pytest.raises(ValueError, match="real"):
        metrics.det_curve([True, True], [0.1, 0.2])


def test_det_and_area_are_those_of_scikit_learn():
    sk = sklearn_metrics()
    rng = np.random.default_rng(6)
    real = rng.random(500) < 0.4
    score = np.round(rng.normal(size=500) + real, 1)  # with ties
    ours = metrics.det_curve(real, score)
    fpr, tpr, threshold = sk.roc_curve(real, score, drop_intermediate=False)
    assert ours.fpr == pytest.approx(fpr)
    assert ours.fnr == pytest.approx(1 - tpr)
    assert ours.threshold[1:] == pytest.approx(threshold[1:])
    assert metrics.area_under_roc(real, score) == pytest.approx(sk.roc_auc_score(real, score))


def test_recall_at_contamination_by_hand():
    real = np.array([True, True, False, True, False, False])
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert metrics.recall_at_contamination(real, score, 0.0) == (pytest.approx(2 / 3), 0.8)
    assert metrics.recall_at_contamination(real, score, 0.25) == (1.0, 0.6)  # one bogus of four passed
    # ten times as many bogus: 10/3 of them pass for one third of 3 real
    assert metrics.recall_at_contamination(real, score, 0.25, bogus_per_real=10)[1] == 0.8
    assert metrics.recall_at_contamination([False, True], [1.0, 0.0], 0.1)[0] == 0


def test_bootstrap_of_a_mean_is_its_standard_error():
    rng = np.random.default_rng(7)
    values = rng.normal(3, 2, size=400)
    found = metrics.bootstrap(lambda rows: values[rows].mean(), np.arange(400), n_draws=2000)
    assert found.value == values.mean()
    # 1.96 sigma either way; the bounds of 2000 draws are known to 5 %
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.08)


def test_bootstrap_draws_whole_groups():
    """Rows of a group are copies: there are 40 values, not 400."""
    rng = np.random.default_rng(8)
    groups = rng.permutation(np.repeat(np.arange(40), 10))
    values = rng.normal(size=40)
    found = metrics.bootstrap(lambda rows: values[groups[rows]].mean(), groups, n_draws=2000)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / np.sqrt(40), rel=0.1)
    again = metrics.bootstrap(lambda rows: values[groups[rows]].mean(), groups, n_draws=2000)
    assert found == again


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(9)
    held = 0
    for trial in range(200):
        level = rng.normal(size=50)
        values = np.repeat(level, 3) + 0.3 * rng.normal(size=150)
        found = metrics.bootstrap(
            lambda rows, v=values: v[rows].mean(), np.repeat(np.arange(50), 3), n_draws=200, seed=trial
        )
        held += found.low <= 0 <= found.high
    assert 180 <= held <= 198  # 190 expected; percentile intervals of 50 groups are a little short


def test_a_paired_difference_is_far_better_known_than_two_values():
    rng = np.random.default_rng(10)
    easy = rng.normal(size=500)
    a, b = easy + 0.1 * rng.normal(size=500) + 0.05, easy + 0.1 * rng.normal(size=500)
    groups = np.arange(500)
    difference = metrics.bootstrap_difference(lambda r: a[r].mean(), lambda r: b[r].mean(), groups)
    assert difference.value == pytest.approx(a.mean() - b.mean())
    expected = 1.96 * (a - b).std() / np.sqrt(500)
    assert (difference.high - difference.low) / 2 == pytest.approx(expected, rel=0.1)


def test_a_statistic_that_some_draws_do_not_have_is_of_those_that_do():
    only = np.array([1.0, np.nan, np.nan])
    found = metrics.bootstrap(lambda rows: float(only[rows].mean()), [0, 1, 2], n_draws=300)
    assert np.isnan(found.value)
    assert found.low == found.high == 1
    none = metrics.bootstrap(lambda rows: float("nan"), [0, 1], n_draws=10)
    assert np.isnan([none.low, none.high]).all()


def test_mcnemar_is_the_binomial_test():
    from scipy.stats import binomtest

    a = np.array([1] * 30 + [0] * 12 + [1] * 100 + [0] * 5, bool)
    b = np.array([0] * 30 + [1] * 12 + [1] * 100 + [0] * 5, bool)
    found = metrics.mcnemar(a, b)
    assert (found.only_first, found.only_second) == (30, 12)
    assert found.p == pytest.approx(binomtest(12, 42).pvalue)
    assert metrics.mcnemar(a, a).p == 1
    assert metrics.mcnemar([True] * 3, [False] * 3).p == 0.25
    assert metrics.mcnemar([True] * 3000, [False] * 3000).p == 0  # 2^-2999: no overflow


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 116), (199, 200)])
def test_wilson_is_scipy_s(k, n):
    from scipy.stats import binomtest

    theirs = binomtest(k, n).proportion_ci(0.95, method="wilson")
    found = metrics.wilson(k, n)
    assert (found.low, found.high) == (pytest.approx(theirs.low, abs=1e-12), pytest.approx(theirs.high))
    assert found.value == k / n


def test_wilson_of_nothing_and_of_the_impossible():
    assert metrics.wilson(0, 0).high == 1
    with pytest.raises(ValueError, match="successes"):
        metrics.wilson(3, 2)


def test_many_statistics_of_one_set_of_draws_are_those_of_each_alone():
    rng = np.random.default_rng(11)
    values, groups = rng.normal(size=(90, 2)), np.arange(90) // 3
    both = metrics.bootstrap_draws(lambda rows: values[rows].mean(axis=0), groups, n_draws=50)
    assert both.shape == (50, 2)
    for k in range(2):
        alone = metrics.bootstrap(lambda rows, k=k: values[rows, k].mean(), groups, n_draws=50)
        found = metrics.interval_of(alone.value, both[:, k])
        assert (found.low, found.high) == pytest.approx((alone.low, alone.high), rel=1e-9)
