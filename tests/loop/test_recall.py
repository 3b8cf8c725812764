import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.loop.recall import EstimatedRecall
from laplace_al.strategies import MarginSampling

X, y = load_digits(return_X_y=True)
X = X / 16
rare = np.flatnonzero(y == 7)[:30]
ROWS = np.r_[rare, np.flatnonzero(y != 7)[:570]]
X, y = X[ROWS], np.where(y[ROWS] == 7, "seven", "other")
ORDER = np.random.default_rng(0).permutation(600)
X, y = X[ORDER], y[ORDER]


def make(estimator=None, **settings):
    estimator = estimator or LaplaceUpdateClassifier()
    learner = ActiveLearner(estimator, MarginSampling(), X, random_state=0, **settings)
    start = np.r_[np.flatnonzero(y == "seven")[:2], np.flatnonzero(y == "other")[:20]]
    return learner.teach(start, y[start])


def search(learner, rule):
    """Teach the most probable instances of the class, until the rule says that it is enough."""
    place = learner.estimator_.classes_.tolist().index("seven")
    while not rule.should_stop(learner):
        p = np.where(learner.is_open, learner.predict_proba(X)[:, place], -1)
        best = p.argsort()[-10:]
        learner.teach(best, y[best])
    return learner.consensus_


@pytest.mark.parametrize("recall", [0.8, 0.95])
def test_it_stops_when_most_are_found_and_long_before_all_are_labelled(recall):
    rule = EstimatedRecall("seven", recall=recall)
    found = search(make(), rule)
    assert (found.label == "seven").sum() >= recall * 30
    assert len(found) < 300
    assert rule.recalls_[-1] >= recall > rule.recalls_[0]


@pytest.mark.parametrize("estimator", [None, LogisticRegression()])
def test_the_estimate_is_that_of_its_formula(estimator):
    learner = make(estimator).skip([590, 591])
    p = learner.predict_proba(X)[:, 1]
    p = np.delete(p, learner.labels_.position.to_numpy(int))  # those that were skipped may be one
    for n_std in (0.0, 2.0):
        expected = 2 / (2 + p.sum() + n_std * np.sqrt((p * (1 - p)).sum()))
        found = EstimatedRecall("seven", n_std=n_std).estimate(learner)
        assert found == pytest.approx(expected, rel=1e-9)


def test_none_are_found():
    assert EstimatedRecall("eight").estimate(make(classes=["eight", "other", "seven"])) == 0


def test_a_class_that_is_not_known():
    with pytest.raises(ValueError, match=r"label must be one of the classes \['other', 'seven'\]"):
        EstimatedRecall("nine").should_stop(make())
