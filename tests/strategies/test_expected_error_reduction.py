import numpy as np
import pytest
from scipy.stats import entropy

from laplace_al import LaplaceUpdateClassifier
from laplace_al.strategies import ExpectedErrorReduction, expected_error_reduction
from laplace_al.strategies._view import LearnerView

rng = np.random.default_rng(0)
X, POOL, POINTS = rng.normal(size=(20, 3)), rng.normal(size=(7, 3)), rng.normal(size=(5, 3))
y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)

SETTINGS = [
    {"covariance": "shared", "update": "map"},
    {"covariance": "shared", "update": "newton", "step_size": 3.0, "curvature": "gaussian"},
    {"covariance": "per_class", "update": "map", "fit_intercept": False},
    {"covariance": "per_class", "update": "newton", "predictive": "bridge"},
    {"covariance": "shared", "predictive": "plug_in", "calibration": None},
    {"covariance": "per_class", "class_weight": {0: 3.0, 1: 0.2, 2: 0.0}},
    {"covariance": "shared", "update": "newton", "class_weight": {0: 0.0, 1: 0.2, 2: 3.0}},
]


def classifier(n_classes, **params):
    return LaplaceUpdateClassifier(prior_precision=0.3, **params).fit(X, y % n_classes)


def by_learning(state, n_candidates, n_classes, points, loss):
    """Minus the loss at some rows of a pool after each candidate and class is really learnt."""
    utilities = np.zeros(n_candidates)
    for i, k in np.ndindex(n_candidates, n_classes):
        after = state.copy().observe(i, k).predict_proba()[points]
        losses = entropy(after, axis=1) if loss == "log_loss" else 1 - after.max(axis=1)
        utilities[i] -= state.predict_proba()[i, k] * losses.mean()
    return utilities


@pytest.mark.parametrize("loss", ["log_loss", "zero_one"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("params", SETTINGS)
class TestEquality:
    def test_to_really_learning_each_label(self, params, n_classes, loss):
        clf = classifier(n_classes, **params)
        _, utilities = ExpectedErrorReduction(loss=loss).query(clf, POOL, return_utilities=True)
        expected = by_learning(clf.pool_state(POOL), 7, n_classes, slice(None), loss)
        np.testing.assert_allclose(utilities, expected, atol=1e-9)

    def test_at_other_points(self, params, n_classes, loss):
        clf = classifier(n_classes, **params)
        strategy = ExpectedErrorReduction(POINTS, loss=loss)
        _, utilities = strategy.query(clf, POOL, return_utilities=True)
        state = clf.pool_state(np.r_[POOL, POINTS])
        expected = by_learning(state, 7, n_classes, slice(7, None), loss)
        np.testing.assert_allclose(utilities, expected, atol=1e-9)


@pytest.mark.parametrize("at_once", [1, 40, 100])
def test_however_much_at_once(monkeypatch, at_once):
    clf = classifier(3, covariance="per_class")
    expected = ExpectedErrorReduction(POINTS).query(clf, POOL, return_utilities=True)[1]
    monkeypatch.setattr(expected_error_reduction, "_NUMBERS_AT_ONCE", at_once)
    monkeypatch.setattr(expected_error_reduction, "_LARGEST_ARRAY", at_once)
    utilities = ExpectedErrorReduction(POINTS).query(clf, POOL, return_utilities=True)[1]
    np.testing.assert_allclose(utilities, expected, atol=1e-13)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank"])
def test_after_a_hypothetical_label(covariance):
    view = LearnerView(classifier(3, covariance=covariance), np.r_[POOL, POINTS])
    later = view.after([2], view.state.copy().observe(2, 1))
    expected = by_learning(later.state, 12, 3, slice(7, None), "log_loss")
    utilities = ExpectedErrorReduction(POINTS).utilities(later, np.random.RandomState(0))
    np.testing.assert_allclose(utilities, expected, atol=1e-9)


def test_only_some_candidates_are_scored():
    clf = classifier(3)
    every = ExpectedErrorReduction().query(clf, POOL, return_utilities=True)[1]
    mask = np.arange(7) != 3
    strategy = ExpectedErrorReduction(max_candidates=2, random_state=0)
    positions, utilities = strategy.query(clf, POOL, 6, candidates=mask, return_utilities=True)
    assert sorted(positions) == [0, 1, 2, 4, 5, 6]
    assert np.isneginf(utilities[3])
    scored = positions[:2]
    np.testing.assert_allclose(utilities[scored], every[scored])
    np.testing.assert_array_equal(utilities[positions[2:]], -np.log(3))


def test_correlated_logits_are_refused():
    match = "covariance='full'. Use covariance='shared', 'low_rank' or 'per_class'"
    with pytest.raises(TypeError, match=match):
        ExpectedErrorReduction().query(classifier(3, covariance="full"), POOL)


def test_variances_that_rounding_carries_below_zero_are_zero():
    wide = (3 * np.random.default_rng(0).normal(size=(200, 20))).astype(np.float32)
    clf = LaplaceUpdateClassifier(prior_precision=1e-5, curvature="gaussian", calibration=None)
    clf.fit(wide[:6], [0, 1, 0, 1, 0, 1])
    assert len(ExpectedErrorReduction(random_state=0).query(clf, wide, 3)) == 3


def test_nan_is_refused():
    with pytest.raises(ValueError, match="ExpectedErrorReduction got NaN utilities for 7 of 7"):
        ExpectedErrorReduction(random_state=0).query(classifier(3), 1e100 * POOL)
