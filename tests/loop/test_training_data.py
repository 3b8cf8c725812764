import numpy as np
import pandas as pd
import pytest
from sklearn.naive_bayes import GaussianNB

from laplace_al import LaplaceUpdateClassifier
from laplace_al.loop.event import Event
from laplace_al.loop.history import History
from laplace_al.loop.training_data import TrainingData

POOL = np.arange(12.0).reshape(6, 2)
EMPTY = History.empty(6)
OUTSIDE = Event("label", label="b", instance=np.array([[0.5, 0.5]]))


def data(X_initial=None, y_initial=None, classes=None, estimator=None, X_pool=POOL):
    return TrainingData(X_pool, X_initial, y_initial, classes, estimator or GaussianNB())


def test_instances_and_labels_in_the_order_of_teaching():
    history = EMPTY.add([Event("label", 4, "a"), OUTSIDE]).add([Event("label", 1, "c")])
    cold, warm = data(), data(POOL[:2] + 0.5, ["b", "a"])
    rows = np.array([POOL[4], [0.5, 0.5], POOL[1]])
    np.testing.assert_array_equal(cold.instances(history, POOL), rows)
    assert cold.labels(history).tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(warm.instances(history, POOL), np.r_[POOL[:2] + 0.5, rows])
    assert warm.labels(history).tolist() == ["b", "a", "a", "b", "c"]


def test_without_taught_labels():
    assert data().instances(EMPTY, POOL) is None
    assert data().labels(EMPTY).tolist() == []
    initial = POOL[:2]
    assert data(initial, [0, 1]).instances(EMPTY, POOL) is initial
    assert data(initial, [0, 1]).labels(EMPTY).tolist() == [0, 1]


@pytest.mark.parametrize("initial", [POOL[:2], POOL[:2].tolist(), pd.DataFrame(POOL[:2])])
def test_instances_are_in_the_container_of_the_initial_ones(initial):
    instances = data(initial, [0, 1]).instances(EMPTY.add([Event("label", 3, 1)]), POOL)
    assert type(instances) is type(initial)
    np.testing.assert_array_equal(instances, POOL[[0, 1, 3]])


@pytest.mark.parametrize(
    ("settings", "history"),
    [
        ({"X_initial": POOL[:2], "y_initial": [0, 1]}, EMPTY),
        ({}, EMPTY.add([Event("label", 0, 0)])),
        ({"estimator": GaussianNB().fit(POOL, [0, 1] * 3)}, EMPTY),
        ({"classes": [0, 1, 2]}, EMPTY),
        ({"estimator": LaplaceUpdateClassifier(classes=[0, 1, 2])}, EMPTY),
    ],
)
def test_labels_are_like_those_that_are_known(settings, history):
    checked = data(**settings).check_labels([1.0, 0.0], 2, history)
    assert checked.dtype == np.int64
    with pytest.raises(ValueError, match=r"y has labels that are not|y must hold labels of the"):
        data(**settings).check_labels(["a", "b"], 2, history)


def test_columns_and_shapes_are_those_of_the_pool():
    frame = pd.DataFrame(POOL, columns=["a", "b"])
    data(X_pool=frame).check_like_pool(frame[:1], "X")
    with pytest.raises(ValueError, match=r"X must have the columns of X_pool .* column 0 is 'b'"):
        data(X_pool=frame).check_like_pool(frame[["b", "a"]], "X")
    with pytest.raises(ValueError, match=r"X must have rows of shape \(2,\), .* got \(3,\)"):
        data().check_like_pool(np.zeros((1, 3)), "X")
