"""What a classifier has learnt is one value, which is published by one assignment."""

import copy
import inspect
import pickle
import threading

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from laplace_al import LaplaceUpdateClassifier

X, y = [[-1.0], [-2.0], [1.0], [2.0]], [0, 0, 1, 1]
ATTRIBUTES = {
    "calibration_",
    "classes_",
    "coef_",
    "covariance_",
    "extractor_",
    "intercept_",
    "log_marginal_likelihood_value_",
    "loo_proba_",
    "loo_score_",
    "n_features_in_",
    "n_iter_",
    "posterior_",
    "prior_precision_",
    "temperature_",
}


class Interrupting:
    """An extractor that waits in its first call, until the test has done something."""

    def __init__(self):
        self.started, self.goes_on = threading.Event(), threading.Event()

    def __call__(self, X):
        if not self.started.is_set():
            self.started.set()
            self.goes_on.wait(10)
        return np.asarray(X)


def fit_meanwhile(clf, change):
    """Fit in a thread, change the classifier before its end, and return the errors of the fit."""
    errors = []

    def fit():
        try:
            clf.fit(X, y)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=fit)
    thread.start()
    clf.feature_extractor.started.wait(10)
    change(clf)
    clf.feature_extractor.goes_on.set()
    thread.join()
    return errors


def test_what_another_thread_has_learnt_is_not_lost():
    clf = LaplaceUpdateClassifier(Interrupting())
    [error] = fit_meanwhile(clf, lambda one: one.fit(X, [1, 1, 0, 0]))
    assert str(error).startswith("LaplaceUpdateClassifier was changed by another thread during fit")
    assert "Hold a lock" in str(error)
    assert clf.predict([[3.0]]) == [0]


def test_parameters_that_are_set_during_a_fit_are_not_lost():
    clf = LaplaceUpdateClassifier(Interrupting(), prior_precision=1.0)
    assert not fit_meanwhile(
        clf, lambda one: one.set_params(prior_precision=2.0, predictive="plug_in")
    )
    assert (clf.prior_precision, clf.predictive) == (2.0, "plug_in")
    assert clf.prior_precision_ == 1.0  # of the fit, which had begun
    assert clf.fit(X, y).prior_precision_ == 2.0


def test_attributes_are_there_once_a_fit_has_found_them():
    clf = LaplaceUpdateClassifier()
    assert not [name for name in ATTRIBUTES if hasattr(clf, name)]
    with pytest.raises(AttributeError, match="'LaplaceUpdateClassifier' object has no attribute"):
        _ = clf.classes_
    with pytest.raises(NotFittedError):
        check_is_fitted(clf)
    clf.fit(X, y)
    check_is_fitted(clf)
    check_is_fitted(clf, sorted(ATTRIBUTES))
    assert not hasattr(clf, "feature_names_in_")  # X has none
    clf.partial_fit(X, y)
    assert not hasattr(clf, "log_marginal_likelihood_value_")
    clf.add_classes(2)
    assert not hasattr(clf, "loo_proba_")
    assert not [name for name in ATTRIBUTES if hasattr(clone(clf), name)]


@pytest.mark.parametrize("name", ["classes_", "posterior_", "temperature_"])
def test_only_a_fit_changes_them(name):
    clf = LaplaceUpdateClassifier().fit(X, y)
    with pytest.raises(AttributeError, match=f"{name} cannot be set"):
        setattr(clf, name, None)


@pytest.mark.parametrize(
    "twin_of", [copy.copy, copy.deepcopy, lambda clf: pickle.loads(pickle.dumps(clf))]
)
def test_copies_go_their_own_way(twin_of):
    clf = LaplaceUpdateClassifier(memory_size=2).fit(X, y)
    before = clf.predict_proba(X)
    twin = twin_of(clf).partial_fit([[0.1]], [0])
    np.testing.assert_array_equal(clf.predict_proba(X), before)
    assert (twin.predict_proba(X) != before).any()


def test_the_model_follows_the_parameters():
    clf = LaplaceUpdateClassifier().fit(X, y)
    assert clf.current_model() is clf.fitted_.model
    clf.set_params(predictive="plug_in", class_weight={1: 3.0})
    assert clf.current_model().rules.predictive == "plug_in"
    assert clf.current_model().class_weights.tolist() == [1.0, 3.0]
    assert clf.current_model().posterior is clf.posterior_


def test_an_invalid_parameter_leaves_the_representations():
    clf = LaplaceUpdateClassifier().fit(X, y).set_params(predictive="none")
    assert "predictive" in clf._repr_html_()
    assert "coef_" in dict(inspect.getmembers(clf))
    with pytest.raises(ValueError, match="predictive"):
        clf.predict(X)


def test_class_weights_of_no_class_do_not_concern_predictions(tmp_path):
    clf = LaplaceUpdateClassifier(memory_size=None).fit(X, y)
    expected, evidence = clf.predict_proba(X), clf.log_marginal_likelihood(2.0)
    clf.set_params(class_weight={"a text": 2.0})
    np.testing.assert_array_equal(clf.predict_proba(X), expected)
    assert clf.log_marginal_likelihood(2.0) == evidence
    clf.save(tmp_path / "clf", with_memory=True)
    twin = LaplaceUpdateClassifier.load(tmp_path / "clf")
    np.testing.assert_array_equal(twin.predict_proba(X), expected)
    with pytest.raises(ValueError, match="class_weight must have numbers as its keys"):
        twin.partial_fit(X, y)
