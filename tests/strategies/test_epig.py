import copy

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from laplace_al import LaplaceUpdateClassifier
from laplace_al.strategies import EPIG
from laplace_al.strategies._view import LearnerView

rng = np.random.default_rng(0)
X, y = rng.normal(size=(20, 3)), np.arange(20) % 3
POOL, TARGET = rng.normal(size=(9, 3)), rng.normal(size=(6, 3))


def pairwise(draws, target_draws):
    """Mean over targets of the information of two labels, one pair at a time."""
    gains = np.zeros((draws.shape[1], target_draws.shape[1]))
    for i, j in np.ndindex(gains.shape):
        joint = np.mean(
            [np.outer(a, b) for a, b in zip(draws[:, i], target_draws[:, j], strict=True)], axis=0
        )
        apart = np.outer(joint.sum(axis=1), joint.sum(axis=0))
        gains[i, j] = entropy(joint.ravel(), apart.ravel())
    return gains.mean(axis=1)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
def test_the_utility_is_the_information_about_each_target(n_classes, covariance):
    clf = LaplaceUpdateClassifier(covariance=covariance, random_state=4).fit(X, y % n_classes)
    _, utilities = EPIG(TARGET, n_samples=40).query(clf, POOL, return_utilities=True)
    together = clf.pool_state(np.r_[POOL, TARGET]).sample_proba(40)
    expected = pairwise(together[:, :9], together[:, 9:])
    np.testing.assert_allclose(utilities, expected, atol=1e-12)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank"])
def test_targets_know_of_hypothetical_labels(covariance):
    clf = LaplaceUpdateClassifier(covariance=covariance).fit(X, y)
    view = LearnerView(clf, POOL)
    later = view.after([2], view.state.copy().observe(2, 0))
    updated = copy.deepcopy(clf).set_params(calibration=None).partial_fit(POOL[2:3], [0])
    target = later.state_of(TARGET)
    np.testing.assert_allclose(target.logits, updated.pool_state(TARGET).logits, atol=1e-10)
    np.testing.assert_allclose(target.variance, updated.pool_state(TARGET).variance, atol=1e-10)
    expected = pairwise(later.state.sample_proba(40), target.sample_proba(40))
    np.testing.assert_allclose(EPIG(TARGET, n_samples=40).utilities(later, None), expected)
    assert not np.allclose(expected, EPIG(TARGET, n_samples=40).utilities(view, None))


def test_targets_go_through_the_pipeline():
    clf = LaplaceUpdateClassifier()
    pipeline = make_pipeline(StandardScaler(), clf).fit(10 * X + 5, y)
    by_hand = clone(clf).fit(pipeline[0].transform(10 * X + 5), y)
    _, utilities = EPIG(10 * TARGET + 5).query(pipeline, 10 * POOL + 5, return_utilities=True)
    pool, target = (pipeline[0].transform(10 * part + 5) for part in (POOL, TARGET))
    expected = EPIG(target).query(by_hand, pool, return_utilities=True)[1]
    np.testing.assert_allclose(utilities, expected, atol=1e-9)


def test_a_clone_keeps_the_targets():
    strategy = clone(EPIG(TARGET, n_samples=7, random_state=1))
    np.testing.assert_array_equal(strategy.get_params()["X_target"], TARGET)
    assert (strategy.n_samples, strategy.random_state) == (7, 1)
