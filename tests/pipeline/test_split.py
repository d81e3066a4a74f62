"""Splits keep groups whole and classes in proportion."""

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the pipeline's extra is not installed")

from reference_pipeline.labelled.split import (
    FRACTIONS,
    PARTS,
    class_counts,
    groups_of,
    largest_group,
    split,
)


def test_rows_are_joined_by_any_key_and_through_chains():
    exposure = ["e1", "e1", "e2", "e3", "e4", "e5"]
    field = ["f1", "f2", "f2", "f3", "f4", "f5"]
    objects = ["o1", "o2", "o3", "o4", "o4", "o6"]
    # 0-1 by exposure, 1-2 by field, 3-4 by object, 5 alone
    assert groups_of(exposure, field, objects).tolist() == [0, 0, 0, 1, 1, 2]


def test_an_empty_name_joins_nothing_and_the_same_name_of_two_keys_neither():
    assert groups_of(["", "", "a"], ["a", "b", "c"]).tolist() == [0, 1, 2]


def test_groups_are_those_of_scipy():
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rng = np.random.default_rng(1)
    n = 600
    keys = [rng.integers(size, size=n) for size in (500, 700, 900)]
    ours = groups_of(*keys)
    edges = [(n + k * 1000 + v, i) for k, key in enumerate(keys) for i, v in enumerate(key)]
    graph = coo_matrix((np.ones(len(edges)), np.transpose(edges)), shape=(n + 3000, n + 3000))
    theirs = connected_components(graph, directed=False)[1][:n]
    assert 5 < len(set(ours)) < n
    assert len(set(zip(ours, theirs))) == len(set(ours)) == len(set(theirs))


def test_keys_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="lengths"):
        groups_of(["a"], ["a", "b"])


def _survey(seed, n_groups=150):
    """Labels and groups of unequal sizes: asteroids and satellites clump, others are strewn."""
    rng = np.random.default_rng(seed)
    labels, groups = [], []
    for g in range(n_groups):
        size = int(rng.gamma(1.5, 8)) + 1
        labels += list(rng.choice(["AGN", "SN", "VS", "bogus"], size=size, p=[0.2, 0.15, 0.4, 0.25]))
        if rng.random() < 0.1:
            labels += ["satellite"] * int(rng.integers(2, 10))
        if rng.random() < 0.3:
            labels += ["asteroid"] * int(rng.integers(1, 20))
        groups += [g] * (len(labels) - len(groups))
    order = rng.permutation(len(labels))
    return np.array(labels)[order], np.array(groups)[order]


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_split_60_20_20_and_no_group_is(seed):
    labels, groups = _survey(seed)
    part = split(labels, groups, seed=seed)
    assert all(len(set(part[groups == g])) == 1 for g in set(groups))
    for label, counts in class_counts(labels, part).items():
        share = np.array(counts) / sum(counts)
        # the rarest class has about 15 groups: one of them is up to a tenth of it
        assert np.abs(share - FRACTIONS).max() < (0.06 if label == "satellite" else 0.02), label


def test_a_class_of_three_groups_is_in_every_part():
    labels = np.array(["VS"] * 300 + ["satellite"] * 6)
    groups = np.concatenate([np.arange(300) // 3, [200, 200, 201, 201, 202, 202]])
    assert class_counts(labels, split(labels, groups))["satellite"] == [2, 2, 2]


def test_the_split_depends_on_seed_alone():
    labels, groups = _survey(3)
    assert (split(labels, groups, seed=4) == split(labels, groups, seed=4)).all()
    assert (split(labels, groups, seed=4) != split(labels, groups, seed=5)).any()
    renamed = np.array([f"g{g:04d}" for g in groups])
    assert (split(labels, groups, seed=4) == split(labels, renamed, seed=4)).all()


def test_folds_of_a_cross_validation_are_equal():
    labels, groups = _survey(2)
    counts = np.bincount(split(labels, groups, fractions=[0.2] * 5))
    assert len(counts) == 5
    assert counts.max() < 1.1 * counts.min()


def test_what_cannot_be_split_is_refused_or_said():
    with pytest.raises(ValueError, match="fractions"):
        split(["a"], [0], fractions=(0.5, 0.6))
    with pytest.raises(ValueError, match="labels"):
        split(["a", "b"], [0])
    assert split([], []).size == 0
    assert largest_group([0, 0, 0, 1]) == 0.75
    assert set(split(["a"] * 3, [0, 0, 0])) == {PARTS.index("train")}
