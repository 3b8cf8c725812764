"""Queries over blocks are those of memory."""

import numpy as np
import pytest
from dask_blocks import X_BLOCKS, X, y
from sklearn.exceptions import NotFittedError

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.integrations import dask as over_blocks
from laplace_al.strategies import (
    BADGE,
    BALD,
    CoreSet,
    MarginSampling,
    PowerSampling,
    Preselection,
    RandomSampling,
)

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize(
    "strategy",
    [
        MarginSampling(random_state=3),
        RandomSampling(random_state=3),
        BALD(n_samples=8, random_state=3),
        PowerSampling(MarginSampling(), random_state=3),
        Preselection(BADGE(), MarginSampling(), n_candidates=90, random_state=3),
        Preselection(CoreSet(), n_candidates=90, random_state=3),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_query_is_that_of_memory(strategy, fitted):
    candidates = np.random.default_rng(1).random(2000) < 0.9
    found = over_blocks.query(strategy, fitted, X_BLOCKS, 15, candidates=candidates)
    expected = strategy.query(fitted, X, 15, candidates=candidates)
    np.testing.assert_array_equal(found, expected)


def test_all_are_candidates_unless_some_are_named(fitted):
    strategy, everyone = MarginSampling(random_state=0), np.ones(2000, dtype=bool)
    found = over_blocks.query(strategy, fitted, X_BLOCKS, 5)
    expected = over_blocks.query(strategy, fitted, X_BLOCKS, 5, candidates=everyone)
    np.testing.assert_array_equal(found, expected)


def test_query_of_a_learner():
    learner = ActiveLearner(
        LaplaceUpdateClassifier(), MarginSampling(), X, X_initial=X[:60], y_initial=y[:60]
    )
    found = over_blocks.query(MarginSampling(random_state=0), learner, X_BLOCKS, 5)
    expected = MarginSampling(random_state=0).query(learner, X, 5)
    np.testing.assert_array_equal(found, expected)


def test_wrong_queries_are_refused(fitted):
    with pytest.raises(TypeError, match="Preselection"):
        over_blocks.query(CoreSet(), fitted, X_BLOCKS)
    with pytest.raises(ValueError, match="size of the pool, 2000; got 2001"):
        over_blocks.query(MarginSampling(), fitted, X_BLOCKS, 2001)
    with pytest.raises(TypeError, match="X_pool must be a Dask array with a row for each"):
        over_blocks.query(MarginSampling(), fitted, X)
    with pytest.raises(ValueError, match="mask of 2000 booleans"):
        over_blocks.query(MarginSampling(), fitted, X_BLOCKS, candidates=[True])
    with pytest.raises(NotFittedError):
        over_blocks.query(MarginSampling(), LaplaceUpdateClassifier(), X_BLOCKS)
    with pytest.raises(ValueError, match="X has 0 rows"):
        over_blocks.predict_proba(fitted, X_BLOCKS[:0])
