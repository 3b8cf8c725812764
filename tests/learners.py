"""Learners of iris, and what they tell of themselves."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import MarginSampling

X, y = load_iris(return_X_y=True)
START = np.r_[0:3, 50:53, 100:103]
POOL = np.setdiff1d(np.arange(150), START)
X_pool, y_pool = X[POOL], y[POOL]


def make(estimator=None, strategy=None, **kwargs):
    settings = {
        "X_initial": X[START],
        "y_initial": y[START],
        "refit_every": None,
        "random_state": 0,
    } | kwargs
    return ActiveLearner(
        estimator or LaplaceUpdateClassifier(prior_precision=1.0),
        strategy or MarginSampling(),
        X_pool,
        **settings,
    )


def state(learner):
    """The model and the history as they are bound, and what they tell."""
    return learner._state.now, learner.labels_, learner.predict_proba(X)


def assert_unchanged(learner, before):
    assert learner._state.now == before[0]
    pd.testing.assert_frame_equal(learner.labels_, before[1])
    np.testing.assert_array_equal(learner.predict_proba(X), before[2])


def told(learner):
    """What a learner says of itself."""
    predictions = learner.predict_proba(X).tolist() if learner.is_fitted else None
    labels = learner.labels_.drop(columns="time").to_numpy().tolist()
    return labels, predictions, learner.query(3).tolist(), len(learner.history_)


def warns_that_it_waits(until_then=""):
    match = f"so few labels and waits for more; until then {re.escape(until_then)}"
    return pytest.warns(UserWarning, match=match)
