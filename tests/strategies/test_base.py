import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from laplace_al import LaplaceUpdateClassifier, strategies
from laplace_al.strategies import CoreSet, MarginSampling, QueryStrategy, SequentialBatch
from laplace_al.strategies._view import LearnerView

X = np.random.default_rng(0).normal(size=(60, 4))
y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
NAMES = [name for name in strategies.__all__ if name != "QueryStrategy"]
# What each takes beside random_state, for a pool of so many rows like X.
ARGUMENTS = {
    "EPIG": lambda n: {"X_target": X[:10]},
    "LookAhead": lambda n: {"X_eval": X, "y_eval": y, "y_pool": np.resize(y, n), "n_batches": 9},
    "MostProbable": lambda n: {"label": 1},
    "PowerSampling": lambda n: {"strategy": MarginSampling()},
    "Preselection": lambda n: {"strategy": CoreSet(), "by": MarginSampling(), "n_candidates": 30},
    "SequentialBatch": lambda n: {"strategy": MarginSampling()},
    "BALD": lambda n: {"n_samples": 20},
    "BatchBALD": lambda n: {"n_samples": 20},
}
OF_PROBABILITIES = ["EntropySampling", "LeastConfidentSampling", "MarginSampling"]
OF_ANY_CLASSIFIER = [
    *OF_PROBABILITIES,
    "BADGE",
    "CoreSet",
    "MaxHerding",
    "MostProbable",
    "PowerSampling",
    "Preselection",
    "ProbCover",
    "RandomSampling",
    "TypiClust",
    "UncertaintyHerding",
]
OF_ANYTHING = ["CoreSet", "MaxHerding", "ProbCover", "RandomSampling", "TypiClust"]
RANKED = [*OF_PROBABILITIES, "BALD", "EPIG", "ExpectedErrorReduction", "QueryByCommittee"]
RANKED += ["RandomSampling", "VarianceSampling"]


def make(name, n=60, **params):
    return getattr(strategies, name)(**ARGUMENTS.get(name, lambda n: {})(n), **params)


def learners(name):
    """Learners that a strategy takes."""
    yield LaplaceUpdateClassifier(covariance="shared").fit(X, y)
    yield LaplaceUpdateClassifier().fit(X, y)
    if name in OF_ANY_CLASSIFIER:
        yield LogisticRegression().fit(X, y)


class Probabilities:
    """A learner whose rows of X are its probabilities."""

    classes_ = np.array([1])

    def predict_proba(self, X):
        return np.asarray(X)


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    @pytest.mark.parametrize("n_instances", [1, 7, 60])
    def test_positions_are_distinct_and_as_many_as_asked(self, name, n_instances):
        for learner in learners(name):
            positions = make(name, random_state=0).query(learner, X, n_instances)
            assert positions.shape == (n_instances,)
            assert np.issubdtype(positions.dtype, np.integer)
            assert len(set(positions)) == n_instances
            assert set(positions) <= set(range(60))

    def test_candidates_are_masked(self, name):
        mask = np.zeros(60, dtype=bool)
        mask[[3, 8, 21, 40, 59]] = True
        for learner in learners(name):
            positions, utilities = make(name, random_state=0).query(
                learner, X, 5, candidates=mask, return_utilities=True
            )
            assert sorted(positions) == [3, 8, 21, 40, 59]
            assert utilities.shape == (60,)
            assert np.isneginf(utilities[~mask]).all()
            with pytest.raises(ValueError, match="between 1 and the size of the pool, 5; got 6"):
                make(name).query(learner, X, 6, candidates=mask)
            with pytest.raises(ValueError, match="candidates must be a mask of 60 booleans"):
                make(name).query(learner, X, candidates=[3, 8])

    def test_reproducible(self, name):
        for learner in learners(name):
            first, second = (make(name, random_state=3).query(learner, X, 10) for _ in range(2))
            np.testing.assert_array_equal(first, second)

    def test_ties_are_broken_by_random_state(self, name):
        pool = np.repeat(X[:1], 50, axis=0)
        for learner in learners(name):
            chosen = set()
            for seed in range(10):
                positions = make(name, 50, random_state=seed).query(learner, pool, 3)
                assert len(set(positions)) == 3
                chosen.add(tuple(positions))
            assert len(chosen) > 5

    def test_learner_and_pool_stay_as_they_are(self, name):
        learner = LaplaceUpdateClassifier().fit(X, y)
        before, pool = dict(vars(learner)), X.copy()
        mean = learner.posterior_.mean.clone()
        pool.flags.writeable = False
        make(name, random_state=0).query(learner, pool, 5)
        assert vars(learner) == before
        assert (learner.posterior_.mean == mean).all()
        np.testing.assert_array_equal(pool, X)

    def test_frames(self, name):
        frame = pd.DataFrame(X, columns=list("abcd"))
        learner = LaplaceUpdateClassifier().fit(frame, y)
        strategy = make(name, random_state=0)
        for data in ("X_eval", "X_target"):
            if getattr(strategy, data, None) is not None:
                strategy.set_params(**{data: frame.iloc[: len(getattr(strategy, data))]})
        positions = strategy.query(learner, frame.set_index(X[:, 0]), 5)
        expected = make(name, random_state=0).query(LaplaceUpdateClassifier().fit(X, y), X, 5)
        np.testing.assert_array_equal(positions, expected)

    def test_memmaps(self, name, tmp_path):
        np.save(tmp_path / "pool.npy", X)
        pool = np.load(tmp_path / "pool.npy", mmap_mode="r")
        learner = LaplaceUpdateClassifier().fit(X, y)
        positions = make(name, random_state=0).query(learner, pool, 5)
        np.testing.assert_array_equal(positions, make(name, random_state=0).query(learner, X, 5))

    def test_constant_features(self, name):
        learner = LaplaceUpdateClassifier().fit(np.ones((60, 4)), y)
        assert len(set(make(name, 9, random_state=0).query(learner, np.ones((9, 4)), 9))) == 9

    def test_two_classes(self, name):
        strategy = make(name, random_state=0)
        if name == "LookAhead":
            strategy.set_params(y_eval=y > 0, y_pool=y > 0)
        positions = strategy.query(LaplaceUpdateClassifier().fit(X, y > 0), X, 60)
        assert len(set(positions)) == 60

    @pytest.mark.parametrize("labels", ["sampled", "predicted", "expected"])
    def test_batches_are_built_label_by_label(self, name, labels):
        for learner in (
            LaplaceUpdateClassifier(covariance=c) for c in ("shared", "per_class", "low_rank")
        ):
            first, second = (
                SequentialBatch(make(name), labels=labels, random_state=0).query(
                    learner.fit(X, y), X, 6
                )
                for _ in range(2)
            )
            assert len(set(first)) == 6
            np.testing.assert_array_equal(first, second)

    def test_a_larger_batch_than_the_pool_is_refused(self, name):
        match = r"n_instances must be .* size of the pool, 60; got 61"
        with pytest.raises(ValueError, match=match):
            make(name).query(next(learners(name)), X, 61)

    @pytest.mark.parametrize("wrong", [0, -1])
    def test_no_instances_are_refused(self, name, wrong):
        with pytest.raises(ValueError, match=rf"n_instances must be between 1 .*; got {wrong}"):
            make(name).query(next(learners(name)), X, wrong)

    @pytest.mark.parametrize("wrong", [1.5, "2", None, True])
    def test_a_number_of_instances_that_is_none_is_refused(self, name, wrong):
        with pytest.raises(TypeError, match="n_instances must be an integer >= 1"):
            make(name).query(next(learners(name)), X, wrong)

    def test_an_empty_pool_is_refused(self, name):
        with pytest.raises(ValueError, match="pool is empty"):
            make(name).query(next(learners(name)), X[:0])

    def test_a_wrong_random_state_is_refused(self, name):
        with pytest.raises(ValueError, match="'random_state' parameter"):
            make(name, random_state="seed").query(next(learners(name)), X)

    def test_scikit_learn_object(self, name):
        strategy = make(name, random_state=5)
        assert clone(strategy).get_params(deep=False).keys() == strategy.get_params(False).keys()
        assert clone(strategy).random_state == 5
        assert repr(strategy).startswith(f"{name}(")

    def test_is_modal_callable(self, name):
        learner = next(learners(name))
        positions = make(name, random_state=0)(learner, X, n_instances=3)
        expected = make(name, random_state=0).query(learner, X, 3)
        np.testing.assert_array_equal(positions, expected)

    def test_is_callable_by_the_modal_that_unpacks_utilities(self, name):
        class Learner(LaplaceUpdateClassifier):
            def query(self, X_pool, *args, return_metrics=False):
                """Only its signature matters."""

        learner = Learner().fit(X, y)
        positions, utilities = make(name, random_state=0)(learner, X, n_instances=3)
        expected, all_utilities = make(name, random_state=0).query(
            learner, X, 3, return_utilities=True
        )
        np.testing.assert_array_equal(positions, expected)
        np.testing.assert_array_equal(utilities, all_utilities[expected])

    def test_a_learner_that_lacks_what_it_needs_is_refused(self, name):
        if name in OF_ANYTHING:
            assert len(make(name).query(LinearSVC().fit(X, y), X, 3)) == 3
            return
        needs = "a learner with predict_proba" if name in OF_ANY_CLASSIFIER else "the posterior"
        with pytest.raises(TypeError, match=f"needs {needs}.*; got LinearSVC"):
            make(name).query(LinearSVC().fit(X, y), X)


@pytest.mark.parametrize("name", RANKED)
def test_best_first(name):
    for learner in learners(name):
        positions, utilities = make(name, random_state=0).query(
            learner, X, 20, return_utilities=True
        )
        assert utilities.shape == (60,)
        assert (np.diff(utilities[positions]) <= 0).all()
        assert utilities[positions].min() >= np.delete(utilities, positions).max()


@pytest.mark.parametrize("name", OF_ANY_CLASSIFIER)
def test_one_class(name):
    strategy = make(name, 5, random_state=0)
    assert len(set(strategy.query(Probabilities(), np.ones((5, 1)), 2))) == 2


@pytest.mark.parametrize("name", [*OF_PROBABILITIES, "PowerSampling"])
def test_nan_probabilities_are_refused(name):
    with pytest.raises(ValueError, match="NaN utilities for 1 of 2 instances"):
        make(name).query(Probabilities(), [[0.5, 0.5], [np.nan, 0.5]])


class Own(QueryStrategy):
    is_pointwise = True
    reads_posterior = False

    def __init__(self, shape):
        self.shape = shape

    def utilities(self, view, rng):
        return np.zeros(self.shape)


@pytest.mark.parametrize("shape", [3, (60, 1), (60, 3), ()])
def test_utilities_of_another_shape_are_refused(shape):
    strategy = Own(shape)
    strategy.random_state = 0
    match = r"Own.utilities must return one number for each instance, of shape \(60,\)"
    with pytest.raises(ValueError, match=match):
        strategy.query(LogisticRegression().fit(X, y), X, 2)


@pytest.mark.parametrize("name", NAMES)
def test_utilities_are_those_of_a_single_choice(name):
    learner = LaplaceUpdateClassifier().fit(X[:30], y[:30])
    strategy = make(name, random_state=0)
    _, expected = strategy.query(learner, X, 1, return_utilities=True)
    found = strategy.utilities(LearnerView(learner, X), np.random.RandomState(0))
    tried = np.isfinite(expected)  # look-ahead tries some batches only
    assert found.shape == (60,)
    assert tried.any()
    np.testing.assert_allclose(found[tried], expected[tried])


def test_a_random_state_object_advances():
    strategy = MarginSampling(random_state=np.random.RandomState(0))
    pool = np.full((50, 2), 0.5)
    assert strategy.query(Probabilities(), pool) != strategy.query(Probabilities(), pool)


DRAWN = np.random.default_rng(1).normal(size=(12, 4))
DEGENERATE = {
    "zeros": np.zeros((12, 4)),
    "identical": np.ones((12, 4)),
    "duplicates": np.repeat(DRAWN[:3], 4, axis=0),
    "huge": 1e30 * DRAWN,
    "nearly overflowing": 1e100 * DRAWN,
    "tiny": 1e-30 * DRAWN,
    "float32, tiny": (1e-30 * DRAWN).astype(np.float32),
    "float32, huge": (1e15 * DRAWN).astype(np.float32),
    "mixed scales": DRAWN * [1e-12, 1, 1e12, 1],
    "an offset": DRAWN + 1e9,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.filterwarnings("ignore::scipy.linalg.LinAlgWarning")
def test_degenerate_pools(name, kind):
    """Distinct positions, or a ValueError that says what to do: no other error or warning."""
    pool = DEGENERATE[kind]
    weak = LaplaceUpdateClassifier(prior_precision=1e-12, random_state=0)
    for learner in (
        LaplaceUpdateClassifier(covariance="shared", prior_precision=1.0).fit(X, y),
        LaplaceUpdateClassifier(covariance="full", prior_precision=1.0).fit(X, y),
        weak.partial_fit(X[:1], [0], classes=[0, 1, 2]),
    ):
        if name in ("ExpectedErrorReduction", "LookAhead") and learner.covariance == "full":
            continue
        with np.errstate(all="warn"):
            try:
                positions = make(name, 12, random_state=0).query(learner, pool, 5)
            except ValueError as error:
                assert "StandardScaler" in str(error)  # noqa: PT017
            else:
                assert len(set(positions.tolist())) == 5
                assert set(positions.tolist()) <= set(range(12))
