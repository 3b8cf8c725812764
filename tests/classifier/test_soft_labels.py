"""Labels that are uncertain: probabilities of the classes, equal to weighted copies."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_iris

from laplace_al import LaplaceUpdateClassifier
from laplace_al.model.memory import Memory
from laplace_al.model.mode import find_mode

X, y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)


def problem(n_classes=3, n=60, seed=0):
    """Instances, probabilities of their classes, and weights; some of the labels are certain."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(y < n_classes))[:n]
    P = 0.8 * np.eye(n_classes)[y[rows]] + 0.2 * rng.dirichlet(np.ones(n_classes), size=n)
    P[::3] = np.eye(n_classes)[y[rows[::3]]]
    return X[rows], P, rng.uniform(0.5, 2, size=n)


def copies(X, P, weights):
    """A copy of each instance for each class, whose weight is its probability."""
    n, n_classes = P.shape
    labels = np.tile(np.arange(n_classes), n)
    return np.repeat(X, n_classes, axis=0), labels, (weights[:, None] * P).ravel()


def make(n_classes=3, **params):
    settings = {"classes": range(n_classes), "prior_precision": 0.5, "calibration": None} | params
    return LaplaceUpdateClassifier(**settings)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
@pytest.mark.parametrize("curvature", ["categorical", "gaussian"])
@pytest.mark.parametrize("class_weight", [None, {0: 3.0}, "balanced"])
def test_a_fit_is_that_of_weighted_copies(n_classes, covariance, curvature, class_weight):
    params = {"covariance": covariance, "curvature": curvature, "class_weight": class_weight}
    X, P, weights = problem(n_classes)
    soft = make(n_classes, **params).fit(X, P, weights)
    hard = make(n_classes, **params).fit(*copies(X, P, weights))
    torch.testing.assert_close(soft.posterior_.mean, hard.posterior_.mean, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(
        soft.posterior_.precision, hard.posterior_.precision, rtol=1e-6, atol=1e-7
    )
    if covariance != "shared":  # else it is not computed
        evidence = [clf.log_marginal_likelihood() for clf in (soft, hard)]
        assert evidence[0] == pytest.approx(evidence[1], rel=1e-6)
    assert soft.newton_decrement(X, P, weights) < 1e-5
    assert soft.newton_decrement(*copies(X, P, weights)) < 1e-5


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("certain", ["fit", "partial_fit"])
@pytest.mark.parametrize("memory_size", [0, 5, None])
def test_certain_probabilities_are_labels(n_classes, certain, memory_size):
    X, P, _ = problem(n_classes)
    labels = P.argmax(axis=1)
    P = np.eye(n_classes)[labels]
    params = {"calibration": "loo", "memory_size": memory_size}
    soft, hard = make(n_classes, **params), make(n_classes, **params)
    if certain == "fit":
        soft.fit(X, P), hard.fit(X, labels)
    else:
        soft.partial_fit(X, P), hard.partial_fit(X, labels)
    np.testing.assert_array_equal(soft.predict_proba(X), hard.predict_proba(X))
    assert soft.temperature_ == hard.temperature_


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
def test_an_update_is_the_mode_of_the_gaussian_times_the_likelihood(n_classes, covariance):
    X, P, weights = problem(n_classes)
    clf = make(n_classes, covariance=covariance).fit(X[:40], P[:40])
    before = clf.fitted_.model
    clf.partial_fit(X[40:41], P[40:41], sample_weight=weights[40:41])
    prior = Memory.of_posterior(before.posterior).prior
    data = before.labelled(X[40:41], P[40:41], weights[40:41])
    mode = find_mode(data, prior, before.posterior.mean, max_iter=100, tol=1e-10)
    torch.testing.assert_close(clf.posterior_.mean, mode.mean, atol=1e-8, rtol=1e-7)
    assert abs(mode.mean - before.posterior.mean).max() > 1e-3


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, {0: 3.0, 1: 0.5}])
def test_updates_with_a_memory_of_all_end_where_a_fit_does(n_classes, class_weight):
    X, P, weights = problem(n_classes)
    params = {"memory_size": None, "class_weight": class_weight}
    clf = make(n_classes, **params).fit(X[:30], P[:30], weights[:30])
    clf.partial_fit(X[30:], P[30:], sample_weight=weights[30:])
    fitted = make(n_classes, **params).fit(X, P, weights)
    assert clf.newton_decrement(X, P, weights) < 0.01
    np.testing.assert_allclose(clf.predict_proba(X), fitted.predict_proba(X), atol=0.02)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_updates_come_near_a_fit(n_classes):
    X, P, _ = problem(n_classes)
    fitted = make(n_classes).fit(X, P).predict_proba(X)
    start = make(n_classes).fit(X[:40], P[:40])
    before = abs(start.predict_proba(X) - fitted).mean()
    assert abs(start.partial_fit(X[40:], P[40:]).predict_proba(X) - fitted).mean() < before / 2


@pytest.mark.parametrize("n_classes", [2, 3])
def test_leave_one_out_scores_are_expected_ones(n_classes):
    X, P, weights = problem(n_classes)
    clf = make(n_classes, calibration="loo").fit(X, P, weights)
    found = clf.loo_proba_
    accuracy = np.average(P[np.arange(len(P)), found.argmax(axis=1)], weights=weights)
    likelihood = np.average((P * np.log(found)).sum(axis=1), weights=weights)
    np.testing.assert_allclose(clf.loo_score_, [accuracy, likelihood], rtol=1e-10)


def test_a_label_that_is_left_out_is_left_out_with_its_uncertainty():
    X, P, _ = problem(n=40)
    clf = make(calibration="loo").fit(X, P)
    rest = [make(calibration="loo").fit(np.delete(X, i, 0), np.delete(P, i, 0)) for i in range(9)]
    left_out = np.array([one.predict_proba(X[[i]])[0] for i, one in enumerate(rest)])
    error = abs(clf.loo_proba_[:9] - left_out).mean()
    assert error < abs(clf.predict_proba(X[:9]) - left_out).mean() / 1.5


def test_uncertain_labels_make_uncertain_predictions():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3))
    P = np.where(X[:, :1] > 0, [[0.3, 0.7]], [[0.7, 0.3]])
    clf = LaplaceUpdateClassifier(classes=[0, 1]).fit(X, P)
    assert clf.predict_proba(X).max(axis=1).mean() < 0.75
    certain = LaplaceUpdateClassifier().fit(X, P.argmax(axis=1))
    assert certain.predict_proba(X).max(axis=1).mean() > 0.9


def test_a_frame_names_the_classes():
    X, P, _ = problem()
    names = ["ant", "bee", "cat"]
    frame = pd.DataFrame(P, columns=names)
    clf = LaplaceUpdateClassifier().fit(X, frame[["cat", "ant", "bee"]])
    assert clf.classes_.tolist() == names
    twin = LaplaceUpdateClassifier(classes=names).fit(X, P)
    np.testing.assert_allclose(clf.predict_proba(X), twin.predict_proba(X), rtol=1e-9)
    clf.partial_fit(X[:5], frame[["bee", "ant", "cat"]][:5])
    twin.partial_fit(X[:5], P[:5])
    np.testing.assert_allclose(clf.predict_proba(X), twin.predict_proba(X), rtol=1e-9)


def test_new_classes_get_no_share_of_what_is_remembered(tmp_path):
    X, P, _ = problem(2)
    clf = make(classes=None, memory_size=None, calibration="loo")
    clf.fit(X, pd.DataFrame(P, columns=["ant", "cat"])).add_classes("bee")
    clf.partial_fit(X[:1], [[0.0, 0.5, 0.5]])
    assert clf.predict_proba(X).shape == (60, 3)
    clf.save(tmp_path / "clf.safetensors", with_memory=True)
    twin = LaplaceUpdateClassifier.load(tmp_path / "clf.safetensors")
    later = [each.partial_fit(X[1:3], [[0.2, 0.3, 0.5]] * 2) for each in (clf, twin)]
    np.testing.assert_allclose(*(each.predict_proba(X) for each in later), rtol=1e-12)


def test_the_pool_follows_uncertain_labels():
    X, P, _ = problem()
    clf = make(class_weight={0: 2.0}).fit(X[:30], P[:30])
    pool = clf.pool_state(X)
    pool.observe(40, P[40], 1.5)
    clf.partial_fit(X[40:41], P[40:41], sample_weight=1.5)
    np.testing.assert_allclose(pool.predict_proba(), clf.predict_proba(X), rtol=1e-10)


def test_forgetting():
    X, P, _ = problem()
    start = make(forgetting=0.9).fit(X[:20], P[:20])
    one_by_one = copy.copy(start)
    for i in range(20, 30):
        one_by_one.partial_fit(X[[i]], P[[i]])
    at_once = copy.copy(start).partial_fit(X[20:30], P[20:30])
    np.testing.assert_allclose(at_once.predict_proba(X), one_by_one.predict_proba(X), atol=0.02)


def test_merging():
    X, P, _ = problem()
    start = make(curvature="gaussian").fit(X[:20], P[:20])
    parts = [copy.copy(start).partial_fit(X[i::2], P[i::2]).fitted_.model for i in (20, 21)]
    merged = parts[0].merged(parts[1], start.fitted_.model)
    whole = start.partial_fit(X[20:], P[20:]).posterior_
    torch.testing.assert_close(merged.posterior.precision, whole.precision)


def test_tensors():
    X, P, _ = problem()
    clf = make().fit(X, torch.tensor(P, requires_grad=True))
    np.testing.assert_array_equal(clf.coef_, make().fit(X, P).coef_)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (lambda P: (P > 0.5).astype(int), "should be a 1d array of labels, got an array of shape"),
        (lambda P: P * 1.1, "must hold probabilities >= 0 that sum to 1 in each row"),
        (lambda P: np.c_[P[:, 0], 1 - P[:, 0]], "2 columns of probabilities"),
        (lambda P: P[:-1], "y must have one label per row of X: 60; got 59"),
        (lambda P: pd.DataFrame(P, columns=["a", "b", "c"]), "must .*|not among the classes"),
    ],
)
def test_refused_labels_change_nothing(method, wrong, match):
    X, P, _ = problem()
    clf = make().fit(X, P)
    before = clf.fitted_
    with pytest.raises(ValueError, match=match):
        getattr(clf, method)(X, wrong(P))
    assert clf.fitted_ is before


def test_classes_that_are_not_known():
    X, P, _ = problem()
    with pytest.raises(ValueError, match=r"of classes that are not known\. Pass classes="):
        LaplaceUpdateClassifier().fit(X, P)
    with pytest.raises(ValueError, match=r"may be in the order of classes=\[2, 1, 0\]"):
        LaplaceUpdateClassifier(classes=[2, 1, 0]).fit(X, P)
    with pytest.raises(ValueError, match="may be in the order of classes="):
        LaplaceUpdateClassifier().partial_fit(X, P, classes=[2, 1, 0])
