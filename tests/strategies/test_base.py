import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from laplace_al import LaplaceUpdateClassifier, strategies
from laplace_al.strategies import MarginSampling, QueryStrategy, RandomSampling
from laplace_al.strategies.base import best

STRATEGIES = [
    getattr(strategies, name)
    for name in strategies.__all__
    if getattr(strategies, name) is not QueryStrategy
]
NEED_PROBABILITIES = [strategy for strategy in STRATEGIES if strategy is not RandomSampling]
X = np.random.default_rng(0).normal(size=(60, 4))
y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)


class Probabilities:
    """A learner whose rows of X are its probabilities."""

    def predict_proba(self, X):
        return np.asarray(X)


@pytest.fixture(params=["laplace", "logistic"])
def learner(request):
    estimator = LaplaceUpdateClassifier() if request.param == "laplace" else LogisticRegression()
    return estimator.fit(X, y)


@pytest.mark.parametrize("strategy", STRATEGIES)
class TestContract:
    @pytest.mark.parametrize("n_instances", [1, 7, 60])
    def test_positions_are_distinct_and_as_many_as_asked(self, strategy, learner, n_instances):
        positions = strategy(random_state=0).query(learner, X, n_instances)
        assert positions.shape == (n_instances,)
        assert np.issubdtype(positions.dtype, np.integer)
        assert len(set(positions)) == n_instances
        assert set(positions) <= set(range(60))

    def test_candidates_are_masked(self, strategy, learner):
        mask = np.zeros(60, dtype=bool)
        mask[[3, 8, 21, 40, 59]] = True
        positions, utilities = strategy(random_state=0).query(
            learner, X, 5, candidates=mask, return_utilities=True
        )
        assert sorted(positions) == [3, 8, 21, 40, 59]
        assert np.isneginf(utilities[~mask]).all()
        with pytest.raises(ValueError, match="between 1 and the size of the pool, 5; got 6"):
            strategy(random_state=0).query(learner, X, 6, candidates=mask)
        with pytest.raises(ValueError, match="candidates must be a mask of 60 booleans"):
            strategy(random_state=0).query(learner, X, candidates=[3, 8])

    def test_best_first(self, strategy, learner):
        positions, utilities = strategy(random_state=0).query(learner, X, 20, return_utilities=True)
        assert utilities.shape == (60,)
        assert (np.diff(utilities[positions]) <= 0).all()
        assert utilities[positions].min() >= np.delete(utilities, positions).max()

    def test_reproducible(self, strategy, learner):
        first, second = (strategy(random_state=3).query(learner, X, 10) for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_ties_are_broken_by_random_state(self, strategy, learner):
        pool = np.repeat(X[:1], 50, axis=0)
        chosen = {tuple(strategy(random_state=s).query(learner, pool, 3)) for s in range(10)}
        assert len(chosen) > 5

    def test_learner_and_pool_stay_as_they_are(self, strategy):
        learner = LaplaceUpdateClassifier().fit(X, y)
        before, pool = dict(vars(learner)), X.copy()
        pool.flags.writeable = False
        strategy(random_state=0).query(learner, pool, 5)
        assert vars(learner) == before
        np.testing.assert_array_equal(pool, X)

    def test_frames(self, strategy):
        frame = pd.DataFrame(X, columns=list("abcd"))
        learner = LaplaceUpdateClassifier().fit(frame, y)
        positions = strategy(random_state=0).query(learner, frame.set_index(X[:, 0]), 5)
        expected = strategy(random_state=0).query(LaplaceUpdateClassifier().fit(X, y), X, 5)
        np.testing.assert_array_equal(positions, expected)

    def test_constant_features(self, strategy):
        learner = LaplaceUpdateClassifier().fit(np.ones((60, 4)), y)
        assert len(strategy(random_state=0).query(learner, np.ones((9, 4)), 9)) == 9

    def test_one_class(self, strategy):
        assert len(strategy(random_state=0).query(Probabilities(), np.ones((5, 1)), 2)) == 2

    def test_a_larger_batch_than_the_pool_is_refused(self, strategy, learner):
        with pytest.raises(
            ValueError, match=r"n_instances must be .* size of the pool, 60; got 61"
        ):
            strategy().query(learner, X, 61)

    @pytest.mark.parametrize("wrong", [0, -1])
    def test_no_instances_are_refused(self, strategy, learner, wrong):
        with pytest.raises(ValueError, match=rf"n_instances must be between 1 .*; got {wrong}"):
            strategy().query(learner, X, wrong)

    @pytest.mark.parametrize("wrong", [1.5, "2", None, True])
    def test_a_number_of_instances_that_is_none_is_refused(self, strategy, learner, wrong):
        with pytest.raises(TypeError, match="n_instances must be an integer >= 1"):
            strategy().query(learner, X, wrong)

    def test_an_empty_pool_is_refused(self, strategy, learner):
        with pytest.raises(ValueError, match="pool is empty"):
            strategy().query(learner, X[:0])

    def test_a_wrong_random_state_is_refused(self, strategy, learner):
        with pytest.raises(ValueError, match="'random_state' parameter"):
            strategy(random_state="seed").query(learner, X)

    def test_scikit_learn_object(self, strategy):
        assert clone(strategy(random_state=5)).get_params() == {"random_state": 5}
        assert repr(strategy(random_state=5)) == f"{strategy.__name__}(random_state=5)"

    def test_is_modal_callable(self, strategy, learner):
        positions = strategy(random_state=0)(learner, X, n_instances=3)
        expected = strategy(random_state=0).query(learner, X, 3)
        np.testing.assert_array_equal(positions, expected)

    def test_is_callable_by_the_modal_that_unpacks_utilities(self, strategy):
        class Learner(LaplaceUpdateClassifier):
            def query(self, X_pool, *args, return_metrics=False):
                """Only its signature matters."""

        learner = Learner().fit(X, y)
        positions, utilities = strategy(random_state=0)(learner, X, n_instances=3)
        expected, all_utilities = strategy(random_state=0).query(
            learner, X, 3, return_utilities=True
        )
        np.testing.assert_array_equal(positions, expected)
        np.testing.assert_array_equal(utilities, all_utilities[expected])


@pytest.mark.parametrize("strategy", NEED_PROBABILITIES)
def test_a_learner_without_probabilities_is_refused(strategy):
    with pytest.raises(TypeError, match=r"needs a learner with predict_proba; got LinearSVC"):
        strategy().query(LinearSVC().fit(X, y), X)


@pytest.mark.parametrize("strategy", NEED_PROBABILITIES)
def test_nan_probabilities_are_refused(strategy):
    with pytest.raises(ValueError, match="NaN utilities for 1 of 2 instances"):
        strategy().query(Probabilities(), [[0.5, 0.5], [np.nan, 0.5]])


def test_best_ranks_and_shuffles_ties():
    utilities = np.array([0.0, 2.0, 1.0, 2.0])
    orders = {tuple(best(utilities, 4, np.random.RandomState(s))) for s in range(20)}
    assert orders == {(1, 3, 2, 0), (3, 1, 2, 0)}


def test_a_random_state_object_advances():
    strategy = MarginSampling(random_state=np.random.RandomState(0))
    pool = np.full((50, 2), 0.5)
    assert strategy.query(Probabilities(), pool) != strategy.query(Probabilities(), pool)
