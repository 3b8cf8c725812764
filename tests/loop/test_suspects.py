"""Second looks: labels that leave-one-out makes improbable."""

import numpy as np
import pytest
from learners import START, X, X_pool, make, y_pool
from sklearn.datasets import load_digits
from sklearn.naive_bayes import GaussianNB

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import RandomSampling

N, N_FLIPPED = 400, 40


@pytest.fixture(scope="module")
def noisy():
    """Digits of which one in ten has the label of another class."""
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(X))[:N]
    X, y = X[rows] / 16, y[rows]
    flipped = rng.permutation(N)[:N_FLIPPED]
    noisy = y.copy()
    noisy[flipped] = (y[flipped] + rng.integers(1, 10, size=N_FLIPPED)) % 10
    return X, noisy, y, set(flipped.tolist())


@pytest.mark.parametrize("in_batches", [False, True])
def test_flipped_labels_are_the_first(noisy, in_batches):
    X, labels, y, flipped = noisy
    learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), X)
    for rows in np.array_split(np.arange(N), 8 if in_batches else 1):
        learner.teach(rows, labels[rows])
    found = learner.suspects(N_FLIPPED)
    assert len(flipped & set(found.position)) >= 30
    assert found.probability.is_monotonic_increasing
    np.testing.assert_array_equal(found.label, labels[found.position])
    is_flipped = found.position.isin(flipped).to_numpy()
    right = (found.predicted == y[found.position]).to_numpy()
    assert right[is_flipped].mean() > 0.7


def test_it_agrees_with_cleanlab(noisy):
    filters = pytest.importorskip("cleanlab.filter", reason="compares with cleanlab")
    X, labels, _, flipped = noisy
    learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), X)
    learner.teach(np.arange(N), labels)
    proba = learner.estimator_.leave_one_out_proba(X, labels)
    order = filters.find_label_issues(labels, proba, return_indices_ranked_by="self_confidence")
    ours = learner.suspects(len(order)).position.tolist()
    assert len(flipped & set(order.tolist())) >= 30
    assert len(set(ours) & set(order.tolist())) >= 0.8 * len(order)


def test_corrections_leave_no_suspect(noisy):
    X, labels, y, _ = noisy
    learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), X)
    learner.teach(np.arange(N), labels)
    first = learner.suspects(5)
    learner.relabel(rows=first.index, y=y[first.position])
    assert not set(learner.suspects(5).index) & set(first.index)


def test_the_probabilities_are_those_of_the_fit(noisy):
    X, labels, _, _ = noisy
    clf = LaplaceUpdateClassifier().fit(X, labels)
    np.testing.assert_allclose(clf.leave_one_out_proba(X, labels), clf.loo_proba_, atol=1e-12)


def test_after_updates_they_are_near_those_of_a_fit(noisy):
    X, _, y, _ = noisy
    clf = LaplaceUpdateClassifier(prior_precision=0.1).fit(X[:300], y[:300])
    clf.partial_fit(X[300:], y[300:])
    fitted = LaplaceUpdateClassifier(prior_precision=0.1).fit(X, y)
    assert abs(clf.leave_one_out_proba(X, y) - fitted.loo_proba_).mean() < 0.02


def test_rows_of_instances_from_outside_the_pool():
    learner = make().teach([3, 60], y_pool[[3, 60]]).teach(X=X[[0]], y=[2], annotator="bob")
    found = learner.suspects()
    assert len(found) == 3  # initial instances have no row
    assert found.columns.tolist() == ["position", "label", "probability", "predicted", "annotator"]
    first = found.iloc[0]
    assert (first.name, first.label, first.predicted, first.annotator) == (2, 2, 0, "bob")
    assert learner.relabel(rows=2, y=0).suspects(1).index != 2


def test_refused():
    with pytest.raises(TypeError, match="GaussianNB has no leave-one-out predictions"):
        make(GaussianNB()).teach(3, 0).suspects()
    for n, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="n"):
            make().teach(3, 0).suspects(n)
    with pytest.raises(ValueError, match="not fitted yet: it waits for more labels"):
        ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), X_pool[START]).suspects()
