"""Digits, small networks and settings that the tests of the classifier share."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

X, y = load_digits(return_X_y=True)
X = X / 16
PAPER = {
    "covariance": "shared",
    "curvature": "gaussian",
    "update": "newton",
    "step_size": 10,
    "calibration": None,
}
# The probabilities of the mean, as they come.
PLAIN = {"predictive": "plug_in", "calibration": None}
SETTINGS = [
    {"covariance": covariance, "update": update, "curvature": curvature, "fit_intercept": intercept}
    for covariance, intercept in [("shared", True), ("shared", False), ("per_class", True)]
    for update in ("map", "newton")
    for curvature in ("categorical", "gaussian")
]
N_CLASSES = [2, 3, 10]
AT_A_BOUND = "ignore:prior_precision=.* chose:sklearn.exceptions.ConvergenceWarning"


def data(n_classes, n=120):
    rows = np.flatnonzero(y < n_classes)[:n]
    return X[rows], y[rows]


def module(n_outputs=10, *, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, n_outputs, bias=bias)).double()


def convolutional():
    return nn.Sequential(
        nn.Unflatten(1, (1, 64)), nn.Conv1d(1, 3, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    )


def arrays(clf):
    return [clf.posterior_.mean.clone(), clf.posterior_.root.clone()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def assert_refused(clf, method, args, match, error=ValueError, **kwargs):
    before, numbers = dict(vars(clf)), arrays(clf) if hasattr(clf, "posterior_") else []
    with pytest.raises(error, match=match):
        getattr(clf, method)(*args, **kwargs)
    assert vars(clf) == before
    assert same(numbers, arrays(clf) if numbers else [])
