"""Learners of modAL and the irises that the tests of both directions share."""

import numpy as np
from modAL.uncertainty import (
    uncertainty_sampling,
)
from sklearn.datasets import load_iris

from laplace_al import LaplaceUpdateClassifier
from laplace_al.integrations.modal import ActiveLearner, Committee

X, y = load_iris(return_X_y=True)
START = np.r_[0:3, 50:53, 100:103]
POOL = np.setdiff1d(np.arange(150), START)
X_pool, y_pool = X[POOL], y[POOL]
NEW = [5, 60, 100]
SHUFFLE = {"random_tie_break": True}


def make(estimator=None, strategy=uncertainty_sampling, rows=START, **kwargs):
    return ActiveLearner(
        estimator or LaplaceUpdateClassifier(prior_precision=1.0),
        strategy,
        X_training=X[rows],
        y_training=y[rows],
        **kwargs,
    )


def make_committee(**kwargs):
    return Committee([make(rows=START[i::3]) for i in range(3)], **kwargs)
