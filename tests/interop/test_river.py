from collections import Counter

import numpy as np
import pytest
from river import compat, evaluate, metrics, stream
from sklearn.datasets import load_digits, load_iris

from laplace_al import LaplaceUpdateClassifier

rng = np.random.default_rng(0)


def shuffled(load, n):
    X, y = load(return_X_y=True)
    order = rng.permutation(len(X))[:n]
    return X[order], y[order]


X, y = shuffled(load_iris, 80)


def accuracy(predictions, labels):
    return np.mean(np.asarray(predictions) == labels)


def majority(labels):
    """Accuracy of the most frequent label so far, predicted before each label is known."""
    seen, right = Counter(), 0
    for label in labels.tolist():
        right += bool(seen) and seen.most_common(1)[0][0] == label
        seen[label] += 1
    return right / len(labels)


@pytest.mark.parametrize(
    ("A", "b", "params"),
    [
        (X, y, {}),
        (X, y, {"covariance": "shared"}),
        (X, y, {"forgetting": 0.99}),
        (X[y > 0], y[y > 0], {}),
        (*shuffled(load_digits, 100), {}),
    ],
    ids=["3 classes", "shared", "forgetting", "2 classes", "10 classes"],
)
def test_a_stream_is_predicted_as_by_partial_fit(A, b, params):
    classes = np.unique(b).tolist()
    model = compat.convert_sklearn_to_river(LaplaceUpdateClassifier(**params), classes)
    metric = evaluate.progressive_val_score(stream.iter_array(A, b), model, metrics.Accuracy())

    twin, predictions = LaplaceUpdateClassifier(classes=classes, **params), [classes[0]]
    for i in range(len(A) - 1):
        twin.partial_fit(A[[i]], b[[i]])
        predictions.append(twin.predict(A[[i + 1]])[0])
    assert metric.get() == accuracy(predictions, b)
    assert metric.get() > majority(b) + 0.2


def test_probabilities_before_and_after_labels():
    classes = ["a", "b", "c"]
    names = np.array(classes)[y]
    model = compat.convert_sklearn_to_river(LaplaceUpdateClassifier(prior_precision=1.0), classes)
    (x, _), *_ = stream.iter_array(X, names)
    assert model.predict_proba_one(x) == dict.fromkeys(classes, 1 / 3)
    for x, name in stream.iter_array(X[:60], names[:60]):
        model.learn_one(x, name)
    twin = LaplaceUpdateClassifier(prior_precision=1.0)
    for i in range(60):
        twin.partial_fit(X[[i]], names[[i]], classes=classes)
    expected = dict(zip(classes, twin.predict_proba(X[[59]])[0].tolist(), strict=True))
    assert model.predict_proba_one(x) == expected
    assert model.predict_one(x) == max(expected, key=expected.get)


def test_the_estimator_of_the_caller_stays_as_it_is():
    clf = LaplaceUpdateClassifier(prior_precision=1.0)
    model = compat.convert_sklearn_to_river(clf, [0, 1, 2])
    model.learn_one(dict(enumerate(X[0])), y[0])
    assert not hasattr(clf, "classes_")
