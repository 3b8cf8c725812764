import tracemalloc

import numpy as np
import pytest

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import ProbCover, _covering

X = np.random.default_rng(0).normal(size=(200, 3))


class Learner:
    def __init__(self, labelled=None):
        self.X_training = labelled


def within(a, b, radius):
    return np.linalg.norm(a[:, None] - b[None], axis=2) <= radius


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_labelled", [0, 15])
def test_every_choice_covers_as_much_as_any_other_could(seed, n_labelled):
    candidates = np.random.default_rng(seed).random(200) < 0.6
    labelled = np.random.default_rng(5).normal(size=(n_labelled, 3))
    positions, utilities = ProbCover(radius=0.7, random_state=seed).query(
        Learner(labelled if n_labelled else None),
        X,
        60,
        candidates=candidates,
        return_utilities=True,
    )
    graph = within(X, X, 0.7)
    uncovered = ~within(X, labelled, 0.7).any(axis=1)
    np.testing.assert_array_equal(
        utilities[candidates], (graph @ uncovered.astype(int))[candidates]
    )
    assert positions.dtype == np.int64
    assert candidates[positions].all()
    assert len(set(positions)) == 60
    for chosen in positions:
        gains = np.where(candidates, (graph & uncovered).sum(axis=1), -1)
        assert gains[chosen] == gains.max()
        uncovered &= ~graph[chosen]
        candidates[chosen] = False


def test_what_is_left_when_all_is_covered_is_random():
    orders = {tuple(ProbCover(radius=1e3, random_state=s).query(Learner(), X, 9)) for s in range(9)}
    assert len(orders) == 9


def test_ties_are_broken_at_random():
    pool = np.array([[0.0], [10.0], [20.0]])
    chosen = {ProbCover(radius=1.0, random_state=s).query(Learner(), pool)[0] for s in range(20)}
    assert chosen == {0, 1, 2}


@pytest.mark.parametrize(("n_labelled", "n_instances", "k"), [(0, 50, 4), (15, 5, 10), (9, 1, 20)])
def test_as_many_balls_as_labels_may_just_hold_all(n_labelled, n_instances, k):
    labelled = X[:n_labelled] + 0.01
    distances = np.sort(np.linalg.norm(X[:, None] - X[None], axis=2), axis=1)
    chosen, auto = (
        ProbCover(radius=radius, random_state=0).query(Learner(labelled), X, n_instances)
        for radius in (np.median(distances[:, k]), None)
    )
    np.testing.assert_array_equal(chosen, auto)


def test_labelled_instances_of_the_pool_are_none_to_be_held():
    learner = ActiveLearner(LaplaceUpdateClassifier(), ProbCover(), X, random_state=0)
    learner.teach(range(20), [0] * 20)
    left = X[20:]
    distances = np.sort(np.linalg.norm(left[:, None] - left[None], axis=2), axis=1)
    utilities, expected = (
        ProbCover(radius=radius).query(learner, X, return_utilities=True)[1]
        for radius in (None, np.median(distances[:, 9]))
    )
    np.testing.assert_array_equal(utilities, expected)


def test_some_candidates_of_a_large_pool_compete(monkeypatch):
    monkeypatch.setattr(_covering, "_MANY_PAIRS", 200 * 30)
    graph = within(X, X, 0.7)
    for seed in range(3):
        positions, utilities = ProbCover(radius=0.7, random_state=seed).query(
            Learner(), X, 3, return_utilities=True
        )
        competes = np.isfinite(utilities)
        assert competes.sum() == 30
        np.testing.assert_array_equal(utilities[competes], graph[competes].sum(axis=1))
        uncovered = np.ones(200, dtype=bool)
        for chosen in positions:
            gains = np.where(competes, (graph & uncovered).sum(axis=1), -1)
            assert gains[chosen] == gains.max()
            uncovered &= ~graph[chosen]
        assert graph[positions[0]].sum() > 0.9 * graph.sum(axis=1).max()
    assert np.isfinite(ProbCover().query(Learner(), X, 5, return_utilities=True)[1]).sum() == 50


def test_memory_is_that_of_the_competing_candidates():
    pool = np.random.default_rng(0).standard_normal((50_000, 64), dtype=np.float32)
    tracemalloc.start()
    ProbCover(random_state=0).query(Learner(), pool, 50)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 250e6  # 200 MB of balls twice, 13 MB of features, and blocks of 34 MB


@pytest.mark.parametrize("labelled", [None, np.full((2, 40), 1e3 + 0.1)])
def test_identical_instances_cover_each_other(labelled):
    pool = np.full((30, 40), 1e3 + 0.1)
    orders = set()
    for seed in range(5):
        positions, utilities = ProbCover(random_state=seed).query(
            Learner(labelled), pool, 30, return_utilities=True
        )
        np.testing.assert_array_equal(utilities, 30 if labelled is None else 0)
        assert sorted(positions) == list(range(30))
        orders.add(tuple(positions))
    assert len(orders) == 5


def test_a_pool_of_one():
    assert ProbCover().query(Learner(), [[1.0, 2.0]]) == [0]


def test_single_precision_rows_are_only_read():
    pool = X.astype(np.float32)
    pool.flags.writeable = False
    assert sorted(ProbCover(random_state=0).query(Learner(X[:3]), pool, 200)) == list(range(200))


@pytest.mark.parametrize("wrong", [0.0, -1.0, "auto"])
def test_a_wrong_radius_is_refused(wrong):
    with pytest.raises(ValueError, match="'radius' parameter"):
        ProbCover(radius=wrong).query(Learner(), X)
