import numpy as np
import pytest

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import CoreSet

X = np.random.default_rng(0).normal(size=(200, 5))


class Learner:
    def __init__(self, labelled):
        self.X_training = labelled


def farthest_first(pool, centres, n_instances, candidates):
    chosen = []
    for _ in range(n_instances):
        distances = np.linalg.norm(pool[:, None] - np.asarray(centres)[None], axis=2).min(axis=1)
        distances[~candidates] = -np.inf
        distances[chosen] = -np.inf
        chosen.append(int(distances.argmax()))
        centres = [*centres, pool[chosen[-1]]]
    return chosen


def test_equals_brute_force():
    candidates = np.random.default_rng(1).random(180) < 0.5
    positions = CoreSet(random_state=0).query(Learner(X[180:]), X[:180], 30, candidates=candidates)
    assert positions.dtype == np.int64
    np.testing.assert_array_equal(positions, farthest_first(X[:180], X[180:], 30, candidates))


def test_utility_is_the_distance_to_the_nearest_labelled_instance():
    _, utilities = CoreSet().query(Learner(X[150:]), X[:150], return_utilities=True)
    expected = np.linalg.norm(X[:150, None] - X[None, 150:], axis=2).min(axis=1)
    np.testing.assert_allclose(utilities, expected, rtol=1e-12)


def test_the_first_of_all_labels_is_random_and_the_rest_is_farthest_first():
    first = set()
    for seed in range(10):
        positions, utilities = CoreSet(random_state=seed).query(
            Learner(None), X, 8, return_utilities=True
        )
        first.add(positions[0])
        assert not utilities.any()
        expected = farthest_first(X, X[positions[:1]], 7, np.ones(200, dtype=bool))
        np.testing.assert_array_equal(positions[1:], expected)
    assert len(first) > 5


def test_equal_distances_are_in_random_order():
    pool = np.array([[1.0], [-1.0], [0.0]])
    chosen = {CoreSet(random_state=s).query(Learner([[0.0]]), pool)[0] for s in range(20)}
    assert chosen == {0, 1}


@pytest.mark.parametrize("labelled", [None, np.full((3, 4), 1e3)])
def test_identical_instances_are_in_random_order(labelled):
    pool = np.full((9, 4), 1e3 + 0.1)
    orders = {tuple(CoreSet(random_state=s).query(Learner(labelled), pool, 9)) for s in range(10)}
    assert len(orders) == 10
    assert all(sorted(order) == list(range(9)) for order in orders)


def test_distances_are_those_of_the_features():
    learner = LaplaceUpdateClassifier(np.square).fit([[0.0], [1.0]], [0, 1])
    learner.X_training = np.array([[1.0]])
    _, utilities = CoreSet().query(learner, np.array([[2.0], [-3.0]]), return_utilities=True)
    np.testing.assert_array_equal(utilities, [3.0, 8.0])


def test_single_precision_rows_are_only_read():
    pool = X.astype(np.float32)
    pool.flags.writeable = False
    positions = CoreSet(random_state=0).query(Learner(X[:3]), pool, 200)
    assert sorted(positions) == list(range(200))


class TestLabelledInstancesOfThePool:
    def test_are_seen_before_anything_can_be_fitted(self):
        learner = ActiveLearner(LaplaceUpdateClassifier(), CoreSet(), X, random_state=0)
        learner.teach([3, 5], [1, 1])
        assert not learner.is_fitted
        expected = farthest_first(X, X[[3, 5]], 8, np.ones(200, dtype=bool))
        np.testing.assert_array_equal(learner.query(8), expected)

    def test_are_not_extracted_again(self):
        n_extracted = []
        learner = ActiveLearner(
            LaplaceUpdateClassifier(lambda rows: n_extracted.append(len(rows)) or rows),
            CoreSet(),
            X,
            X_initial=X[:4] + 1,
            y_initial=[0, 0, 1, 1],
            random_state=0,
        )
        learner.teach(learner.query(10), [0, 1] * 5)
        n_extracted.clear()
        learner.query(10)
        assert sum(n_extracted) == 4  # the initial instances
