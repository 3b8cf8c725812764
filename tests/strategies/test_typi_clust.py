import numpy as np
import pytest

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies._view import LearnerView
from laplace_al.strategies.typi_clust import TypiClust, clusters, typicality

CENTRES = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [20.0, 20.0]])
BLOB = np.repeat(np.arange(4), [40, 30, 20, 10])
X = CENTRES[BLOB] + np.random.default_rng(0).normal(size=(100, 2))


class Learner:
    def __init__(self, labelled=None):
        self.X_training = labelled


def test_takes_one_of_each_blob_without_a_label():
    learner = Learner(CENTRES[[0, 2]])
    for seed in range(5):
        positions = TypiClust(random_state=seed).query(learner, X, 2)
        assert positions.dtype == np.int64
        assert list(BLOB[positions]) == [1, 3]


def test_larger_blobs_come_first():
    assert list(BLOB[TypiClust(random_state=0).query(Learner(), X, 4)]) == [0, 1, 2, 3]


def test_takes_the_most_typical_of_its_cluster():
    positions = TypiClust(n_neighbors=5, random_state=0).query(Learner(), X, 4)
    for blob, chosen in enumerate(positions):
        members = np.flatnonzero(blob == BLOB)
        distances = np.linalg.norm(X[members, None] - X[None, members], axis=2)
        mean = np.sort(distances, axis=1)[:, 1:6].mean(axis=1)
        assert chosen == members[mean.argmin()]


def test_goes_round_again_when_every_cluster_has_a_label():
    candidates = np.isin(np.arange(100), [0, 1, 2, 45, 75, 95])
    positions = TypiClust(random_state=0).query(Learner(), X, 6, candidates=candidates)
    assert sorted(positions) == [0, 1, 2, 45, 75, 95]


def test_outliers_come_last():
    pool = np.concatenate([X[BLOB == 0], [[500.0, 0.0]]])
    positions = TypiClust(random_state=0).query(Learner(), pool, 2)
    assert 40 not in positions


def test_utility_is_the_typicality_within_the_cluster():
    strategy = TypiClust(n_neighbors=7, random_state=0)
    positions, utilities = strategy.query(Learner(), X, 4, return_utilities=True)
    for blob in range(4):
        members = blob == BLOB
        n_neighbors = min(7, members.sum() // 2)
        distances = np.linalg.norm(X[members, None] - X[None, members], axis=2)
        mean = np.sort(distances, axis=1)[:, 1 : n_neighbors + 1].mean(axis=1)
        np.testing.assert_allclose(utilities[members], 1 / mean, rtol=1e-12)
        assert utilities[positions[blob]] == utilities[members].max()
    candidates = BLOB > 0
    _, some = strategy.query(Learner(), X, 4, candidates=candidates, return_utilities=True)
    np.testing.assert_array_equal(some, np.where(candidates, utilities, -np.inf))


def test_typicality_is_finite_for_one_instance_and_for_equal_ones():
    assert typicality(np.ones((1, 3)), 20) == 0
    assert np.isfinite(typicality(np.ones((5, 3)), 20)).all()


class TestLabelledInstancesOfThePool:
    """The learner hands over its whole pool, and what has a label."""

    def learner(self, **kwargs):
        return ActiveLearner(
            LaplaceUpdateClassifier(np.copy), TypiClust(), X, random_state=0, **kwargs
        )

    def check_clustered(self, view, rows):
        """The utilities of a view are the typicalities within clusters of some rows."""
        cluster = clusters(rows, len(view.labelled) + 1, np.random.RandomState(0))
        expected = np.empty(len(rows))
        for k in np.unique(cluster):
            members = np.flatnonzero(cluster == k)
            expected[members] = typicality(rows[members], min(20, max(1, len(members) // 2)))
        found = TypiClust().utilities(view, np.random.RandomState(0))
        np.testing.assert_allclose(found, expected[: len(X)])

    def test_are_counted_once(self):
        learner = self.learner().teach([3, 50], [0, 1]).teach([90], [0])
        self.check_clustered(LearnerView(learner, X), X)

    def test_instances_from_outside_are_counted_too(self):
        outside = np.array([[5.0, 5.0], [-7.0, 7.0], [9.0, -9.0]])
        learner = self.learner(X_initial=outside[:2], y_initial=[0, 1])
        learner.teach([3], [0]).teach(X=outside[2:], y=[1]).teach([60], [1]).relabel([3], [1])
        view = LearnerView(learner, X)
        np.testing.assert_array_equal(view.labelled_positions, [-1, -1, 3, -1, 60])
        self.check_clustered(view, np.concatenate([X, outside]))

    def test_so_are_those_of_an_equal_pool_that_is_not_the_learners(self):
        learner = self.learner().teach([3, 50], [0, 1])
        assert list(LearnerView(learner, X.copy()).labelled_positions) == [-1, -1]

    def test_so_is_a_label_that_is_imagined(self):
        learner = self.learner().teach([3, 50], [0, 1])
        view = LearnerView(learner, X)
        view = view.after([7], view.state.copy().observe(7, 1))
        np.testing.assert_array_equal(view.labelled_positions, [3, 50, 7])
        self.check_clustered(view, X)


def test_identical_instances_are_in_random_order():
    pool = np.full((60, 4), 1e3 + 0.1)
    orders = {tuple(TypiClust(random_state=s).query(Learner(), pool, 60)) for s in range(5)}
    assert len(orders) == 5
    assert all(sorted(order) == list(range(60)) for order in orders)


def test_many_clusters_are_found_in_mini_batches():
    pool = np.random.default_rng(0).normal(size=(300, 4))
    positions = TypiClust(random_state=0).query(Learner(pool[:20]), pool, 60)
    assert len(set(positions)) == 60


@pytest.mark.parametrize("n_instances", [1, 100])
def test_single_precision_rows_are_only_read(n_instances):
    pool = X.astype(np.float32)
    pool.flags.writeable = False
    first, second = (
        TypiClust(random_state=3).query(Learner(CENTRES), pool, n_instances) for _ in range(2)
    )
    assert len(set(first)) == n_instances
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("wrong", [0, 1.5])
def test_a_wrong_number_of_neighbors_is_refused(wrong):
    with pytest.raises(ValueError, match="'n_neighbors' parameter"):
        TypiClust(n_neighbors=wrong).query(Learner(), X)


@pytest.mark.parametrize("n_distinct", [1, 2, 3])
@pytest.mark.parametrize("n", [5, 2000])
def test_fewer_distinct_instances_than_clusters(n_distinct, n):
    """Of equal ones, each is chosen; no warning is hidden from other threads to get there."""
    pool = np.resize(X[:n_distinct], (n, 2))
    cluster = clusters(pool, 4, np.random.RandomState(0))
    assert len(np.unique(cluster)) == n_distinct
    assert (cluster == np.resize(cluster[:n_distinct], n)).all()
    assert len(set(TypiClust(random_state=0).query(Learner(), pool, 4).tolist())) == 4
