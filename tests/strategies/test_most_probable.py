import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import MostProbable

X, y = load_iris(return_X_y=True)
NAMES = np.array(["a", "b", "c"])[y]


@pytest.mark.parametrize("estimator", [LaplaceUpdateClassifier(), LogisticRegression()])
@pytest.mark.parametrize("label", ["a", "c"])
def test_the_most_probable_come_first(estimator, label):
    estimator.fit(X[::5], NAMES[::5])
    p = estimator.predict_proba(X)[:, "abc".index(label)]
    chosen, utilities = MostProbable(label).query(estimator, X, 20, return_utilities=True)
    np.testing.assert_allclose(utilities, p, rtol=1e-6)
    assert set(chosen) == set(np.argsort(-p, kind="stable")[:20])
    assert (NAMES[chosen] == label).all()


def test_a_learner_finds_a_rare_class():
    rows = np.r_[np.flatnonzero(y != 2), np.flatnonzero(y == 2)[:8]]
    pool, labels = X[rows], NAMES[rows]
    strategy = MostProbable("c", random_state=0)
    learner = ActiveLearner(LaplaceUpdateClassifier(), strategy, pool, random_state=0)
    learner.teach([0, 50, 100], labels[[0, 50, 100]])
    for _ in range(15):
        position = learner.query()
        learner.teach(position, labels[position])
    assert (learner.labels_.label == "c").sum() == 8


@pytest.mark.parametrize("estimator", [LaplaceUpdateClassifier(), LogisticRegression()])
def test_a_class_that_is_not_known(estimator):
    estimator.fit(X[::5], NAMES[::5])
    with pytest.raises(ValueError, match=r"label must be one of the classes \['a', 'b', 'c'\]; g"):
        MostProbable("d").query(estimator, X)


def test_a_learner_without_classes():
    class Nameless:
        def predict_proba(self, X):
            return np.ones((len(X), 1))

    with pytest.raises(TypeError, match="needs a classifier that names its classes_; got Nameless"):
        MostProbable("a").query(Nameless(), X)
