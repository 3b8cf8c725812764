import itertools

import dask.array as da
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import (
    BADGE,
    BALD,
    EPIG,
    CoreSet,
    EntropySampling,
    ExpectedErrorReduction,
    LeastConfidentSampling,
    MarginSampling,
    PowerSampling,
    QueryByCommittee,
    RandomSampling,
    SequentialBatch,
    VarianceSampling,
)

X = np.random.default_rng(0).normal(size=(9000, 4))
X[5000:5400] = X[100:500]  # ties between blocks
y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
POINTWISE = [
    RandomSampling(random_state=0),
    LeastConfidentSampling(random_state=0),
    MarginSampling(random_state=0),
    EntropySampling(random_state=0),
    VarianceSampling(random_state=0),
    BALD(n_samples=8, random_state=0),
    QueryByCommittee(n_members=4, random_state=0),
    EPIG(X[:10], random_state=0),
    PowerSampling(MarginSampling(), random_state=0),
    ExpectedErrorReduction(X[:10], random_state=0),
]
DIVERSE = [BADGE(), CoreSet(), SequentialBatch(MarginSampling()), PowerSampling(CoreSet())]


@pytest.fixture(scope="module", params=["shared", "per_class", "low_rank"])
def learner(request):
    return LaplaceUpdateClassifier(covariance=request.param).fit(X[:50], y[:50])


def names(strategies):
    return [type(strategy).__name__ for strategy in strategies]


def blocks(bounds):
    return (X[start:stop] for start, stop in itertools.pairwise(bounds))


@pytest.fixture(scope="module")
def memmap(tmp_path_factory):
    path = tmp_path_factory.mktemp("pool") / "pool.npy"
    np.save(path, X)
    return np.load(path, mmap_mode="r")


SOURCES = {
    "iterator": lambda: blocks([0, 1, 1, 4001, 9000]),
    "DataLoader": lambda: DataLoader(TensorDataset(torch.tensor(X)), batch_size=1000),
    "DataLoader of tensors": lambda: DataLoader(torch.tensor(X), batch_size=1000),
    "Dask array": lambda: da.from_array(X, chunks=(2500, 3)),
}


@pytest.mark.parametrize("strategy", POINTWISE, ids=names(POINTWISE))
class TestPointwise:
    def test_a_stream_gives_the_answer_of_memory(self, strategy, learner):
        expected, utilities = strategy.query(learner, X, 20, return_utilities=True)
        found, streamed = strategy.query(
            learner, blocks([0, 1234, 1234, 7000, 9000]), 20, return_utilities=True
        )
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(streamed, utilities, rtol=1e-7, atol=1e-12)

    def test_a_memory_map_gives_the_answer_of_memory(self, strategy, learner, memmap):
        candidates = np.random.default_rng(1).random(len(X)) < 0.5
        expected = strategy.query(learner, X, 20, candidates=candidates)
        found = strategy.query(learner, memmap, 20, candidates=candidates)
        np.testing.assert_array_equal(found, expected)

    def test_candidates_of_a_stream(self, strategy, learner):
        candidates = np.zeros(len(X), dtype=bool)
        candidates[[3, 4500, 8999]] = True
        positions, utilities = strategy.query(
            learner,
            blocks([0, 4000, 9000]),
            3,
            candidates=candidates,
            return_utilities=True,
        )
        assert sorted(positions) == [3, 4500, 8999]
        assert np.isneginf(utilities[~candidates]).all()


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_answer_of_memory(source, learner):
    strategy = MarginSampling(random_state=3)
    expected = strategy.query(learner, X, 50)
    np.testing.assert_array_equal(strategy.query(learner, SOURCES[source](), 50), expected)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 300), max_size=5), st.integers(1, 300), st.integers(0, 9))
def test_wherever_the_blocks_are_cut(cuts, n_instances, seed):
    tied = np.round(X[:300, :2])
    learner = LogisticRegression().fit(tied, y[:300] > 0)
    bounds = [0, *sorted(cuts), 300]
    strategy = MarginSampling(random_state=seed)
    pool = (tied[a:b] for a, b in itertools.pairwise(bounds))
    expected = strategy.query(learner, tied, n_instances)
    np.testing.assert_array_equal(strategy.query(learner, pool, n_instances), expected)


@pytest.mark.parametrize("strategy", DIVERSE, ids=names(DIVERSE))
def test_strategies_that_compare_instances_name_the_cure(strategy, learner):
    name = type(strategy).__name__
    match = rf"{name} compares the instances .*: Preselection\({name}\(\.\.\.\), MarginSampling"
    with pytest.raises(TypeError, match=match):
        strategy.query(learner, blocks([0, 9000]), 5)


def test_own_choices_that_compare_instances_name_the_cure(learner):
    class Farthest(MarginSampling):
        """Scores each instance on its own, and compares them all the same."""

        def choose(self, view, n_instances, candidates, rng):
            distances = np.linalg.norm(view.features, axis=1)
            return distances.argsort()[len(view) - n_instances :], distances

    assert len(Farthest().query(learner, X, 5)) == 5
    with pytest.raises(TypeError, match=r"Farthest compares the instances .*: Preselection"):
        Farthest().query(learner, blocks([0, 9000]), 5)


def test_error_reduction_on_the_pool_itself_needs_the_pool(learner):
    for params in ({}, {"X_eval": X[:5], "max_candidates": 3}):
        with pytest.raises(TypeError, match="Preselection"):
            ExpectedErrorReduction(**params).query(learner, blocks([0, 100]))


def test_pipelines_and_learners_take_blocks():
    pipeline = make_pipeline(StandardScaler(), LaplaceUpdateClassifier()).fit(X[:50], y[:50])
    active = ActiveLearner(
        LaplaceUpdateClassifier(),
        MarginSampling(random_state=0),
        X[:90],
        X_initial=X[:50],
        y_initial=y[:50],
    )
    for learner in (pipeline, active, LogisticRegression().fit(X[:50], y[:50])):
        expected = MarginSampling(random_state=0).query(learner, X, 9)
        found = MarginSampling(random_state=0).query(learner, blocks([0, 5000, 9000]), 9)
        np.testing.assert_array_equal(found, expected)


def test_a_learner_keeps_the_scores_of_its_own_memory_map(memmap):
    active = ActiveLearner(
        LaplaceUpdateClassifier(), MarginSampling(), memmap, X_initial=X[:50], y_initial=y[:50]
    )
    active.query(3)
    assert active.pool_.features is not None


def test_a_stream_that_is_too_short_is_refused(learner):
    with pytest.raises(ValueError, match=r"between 1 and the size of the pool, 10; got 11"):
        MarginSampling().query(learner, blocks([0, 4, 10]), 11)
    with pytest.raises(ValueError, match="pool is empty"):
        MarginSampling().query(learner, iter([]))


def test_errors_come_before_the_pass(learner, memmap):
    def never():
        raise AssertionError("was read")
        yield

    with pytest.raises(TypeError, match="n_instances must be an integer"):
        MarginSampling().query(learner, never(), 1.5)
    with pytest.raises(TypeError, match="Preselection"):
        CoreSet().query(learner, never())
    with pytest.raises(ValueError, match="size of the pool, 9000; got 9001"):
        MarginSampling().query(learner, memmap, 9001)


@pytest.mark.parametrize("length", [5, 20])
def test_a_mask_of_another_length_is_refused(learner, length):
    with pytest.raises(ValueError, match="candidates must be a mask of"):
        MarginSampling().query(learner, blocks([0, 4, 10]), candidates=np.ones(length, dtype=bool))


def test_nan_in_a_block_is_refused():
    class Probabilities:
        def predict_proba(self, X):
            return np.asarray(X)

    pool = iter([[[0.5, 0.5]], [[0.5, np.nan]]])
    with pytest.raises(ValueError, match="NaN utilities for 1 of 1 instances"):
        MarginSampling().query(Probabilities(), pool)
