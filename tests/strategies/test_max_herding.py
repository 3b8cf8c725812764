import tracemalloc

import numpy as np
import pytest
from reference import herding

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import MaxHerding, _covering

X = np.random.default_rng(0).normal(size=(200, 3))


class Learner:
    def __init__(self, labelled=None):
        self.X_training = labelled


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_labelled", [0, 15, 400])
@pytest.mark.parametrize("n_instances", [1, 20])
def test_every_choice_gains_as_much_as_any_other_could(seed, n_labelled, n_instances):
    candidates = np.random.default_rng(seed).random(200) < 0.6
    labelled = np.random.default_rng(5).normal(size=(n_labelled, 3))
    positions, utilities = MaxHerding(random_state=seed).query(
        Learner(labelled), X, n_instances, candidates=candidates, return_utilities=True
    )
    gains, lost = herding(X, labelled, np.ones(200), candidates, positions)
    np.testing.assert_allclose(utilities, gains, rtol=1e-3, atol=1e-3)
    assert lost.max() < 1e-3
    assert positions.dtype == np.int64


def test_labelled_instances_of_the_pool_are_covered_and_not_counted():
    learner = ActiveLearner(LaplaceUpdateClassifier(), MaxHerding(), X, random_state=0)
    learner.teach(range(0, 200, 4), [1] * 50)
    assert not learner.is_fitted
    left = np.flatnonzero(np.arange(200) % 4)
    labelled, everyone = X[::4], np.ones(150, dtype=bool)
    places = np.searchsorted(left, learner.query(12))
    assert herding(X[left], labelled, np.ones(150), everyone, places)[1].max() < 1e-3
    utilities = MaxHerding().query(learner, X, 1, return_utilities=True)[1]
    np.testing.assert_array_equal(utilities[::4], 0)


def test_down_to_the_last_instance():
    learner = ActiveLearner(LaplaceUpdateClassifier(), MaxHerding(), X, random_state=0)
    learner.teach(range(195), np.arange(195) % 2)
    assert sorted(learner.query(5)) == [195, 196, 197, 198, 199]
    learner.teach(range(195, 199), [0, 1, 0, 1])
    assert learner.query() == [199]


@pytest.mark.parametrize("labelled", [None, np.full((2, 40), 1e3 + 0.1)])
def test_identical_instances_are_in_random_order(labelled):
    pool = np.full((30, 40), 1e3 + 0.1)
    orders = {
        tuple(MaxHerding(random_state=s).query(Learner(labelled), pool, 30)) for s in range(9)
    }
    assert len(orders) == 9
    assert all(sorted(order) == list(range(30)) for order in orders)


def test_one_of_each_of_the_duplicates():
    """Even if all nearest neighbours are equal, which leaves no scale."""
    pool = np.repeat(X[:10], 20, axis=0)
    for seed in range(5):
        positions = MaxHerding(random_state=seed).query(Learner(), pool, 14)
        assert sorted(positions[:10] // 20) == list(range(10))


def test_equal_gains_are_in_random_order():
    pool = np.array([[0.0], [10.0], [20.0]])
    chosen = {MaxHerding(random_state=s).query(Learner([[10.0]]), pool)[0] for s in range(20)}
    assert chosen == {0, 2}


def test_some_candidates_of_a_large_pool_compete(monkeypatch):
    monkeypatch.setattr(_covering, "_MANY_PAIRS", 200 * 30)
    everyone = np.ones(200, dtype=bool)
    for seed in range(3):
        positions, utilities = MaxHerding(random_state=seed).query(
            Learner(), X, 2, return_utilities=True
        )
        competes = np.isfinite(utilities)
        assert competes.sum() == 30
        gains, lost = herding(X, X[:0], np.ones(200), competes, positions)  # all to be covered
        np.testing.assert_allclose(utilities, gains, rtol=1e-3)
        assert lost.max() < 1e-3
        gains, lost = herding(X, X[:0], np.ones(200), everyone, positions)
        assert lost.max() < 0.05 * gains.max()
    assert np.isfinite(MaxHerding().query(Learner(), X, 5, return_utilities=True)[1]).sum() == 50


def test_candidates_compete_whoever_else_there_is(monkeypatch):
    monkeypatch.setattr(_covering, "_MANY_PAIRS", 1)
    candidates = np.arange(200) < 5
    view_of_all = MaxHerding().query(Learner(), X, 5, candidates=candidates)
    assert sorted(view_of_all) == [0, 1, 2, 3, 4]


def test_distances_are_those_of_the_features():
    learner = LaplaceUpdateClassifier(np.square).fit([[0.0], [1.0]], [0, 1])
    pool = np.array([[2.0], [-2.0], [2.1], [7.0]])
    for seed in range(5):
        positions = MaxHerding(random_state=seed).query(learner, pool, 2)
        assert {0, 1} & set(positions)
        assert not {0, 1} <= set(positions)


def test_single_precision_rows_are_only_read():
    pool = X.astype(np.float32)
    pool.flags.writeable = False
    assert sorted(MaxHerding(random_state=0).query(Learner(X[:3]), pool, 200)) == list(range(200))


def test_a_pool_of_one():
    assert MaxHerding().query(Learner(), [[1.0, 2.0]]) == [0]


def test_memory_is_that_of_the_competing_candidates():
    pool = np.random.default_rng(0).standard_normal((50_000, 384), dtype=np.float32)
    tracemalloc.start()
    MaxHerding(random_state=0).query(Learner(), pool, 50)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400e6  # 135 MB of similarities, 77 MB of features, and blocks
