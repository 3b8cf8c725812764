import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.feature_extraction.text import TfidfVectorizer
from small_text import (
    BreakingTies,
    LeastConfidence,
    PoolBasedActiveLearner,
    PredictionEntropy,
    SklearnClassifierFactory,
    SklearnDataset,
)

from laplace_al import LaplaceUpdateClassifier

# small-text's SklearnDataset calls a function that small-text itself has deprecated
pytestmark = pytest.mark.filterwarnings(
    "ignore:The function get_flattened_unique_labels has been deprecated:DeprecationWarning"
)

X, y = load_iris(return_X_y=True)


def dataset(X, y):
    return SklearnDataset(X, y, target_labels=np.unique(y))


@pytest.mark.parametrize("strategy", [BreakingTies(), LeastConfidence(), PredictionEntropy()])
def test_a_loop(strategy):
    """The first labels lack a class, of which small-text wants a column all the same."""
    clf = LaplaceUpdateClassifier(classes=[0, 1, 2])
    learner = PoolBasedActiveLearner(SklearnClassifierFactory(clf, 3), strategy, dataset(X, y))
    labelled = np.r_[50:53, 100:103]
    learner.initialize_data(labelled, y[labelled])
    for _ in range(3):
        assert learner.classifier.predict_proba(dataset(X, y)).shape == (150, 3)
        queried = learner.query(num_samples=5)
        learner.update(y[queried])
        labelled = np.r_[labelled, queried]
        twin = LaplaceUpdateClassifier(classes=[0, 1, 2]).fit(X[labelled], y[labelled])
        np.testing.assert_array_equal(
            learner.classifier.predict_proba(dataset(X, y)), twin.predict_proba(X)
        )
    assert len(set(labelled)) == 21
    assert not hasattr(clf, "classes_")


def test_weights():
    clf = SklearnClassifierFactory(LaplaceUpdateClassifier(), 3).new()
    weights = np.arange(1.0, 151.0)
    clf.fit(dataset(X, y), weights=weights)
    twin = LaplaceUpdateClassifier().fit(X, y, sample_weight=weights)
    np.testing.assert_array_equal(clf.predict(dataset(X, y)), twin.predict(X))
    np.testing.assert_array_equal(clf.predict_proba(dataset(X, y)), twin.predict_proba(X))


def test_sparse_texts_through_a_feature_extractor():
    """The classifier takes no sparse X: the extractor makes the features dense."""
    texts = ["red apple", "green apple", "red car", "fast car", "green pear", "fast train"] * 3
    labels = np.array([0, 0, 1, 1, 0, 1] * 3)
    X_texts = TfidfVectorizer().fit_transform(texts)
    clf = LaplaceUpdateClassifier(lambda A: A.toarray(), classes=[0, 1])
    learner = PoolBasedActiveLearner(
        SklearnClassifierFactory(clf, 2), BreakingTies(), dataset(X_texts, labels)
    )
    learner.initialize_data(np.arange(4), labels[:4])
    for _ in range(3):
        queried = learner.query(num_samples=2)
        learner.update(labels[queried])
    predicted = learner.classifier.predict(dataset(X_texts, labels))
    np.testing.assert_array_equal(predicted, labels)
