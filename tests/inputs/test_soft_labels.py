import numpy as np
import pandas as pd
import polars
import pytest
import torch

from laplace_al.inputs.soft_labels import SoftLabels, is_matrix, soft_labels

P = np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])


@pytest.mark.parametrize(
    "y",
    [P, P.tolist(), P.astype(np.float32), torch.tensor(P), P.astype(object), pd.DataFrame(P)],
)
def test_containers(y):
    assert is_matrix(y)
    np.testing.assert_array_equal(soft_labels(y).probabilities, P)
    np.testing.assert_array_equal(soft_labels(y).among(np.array(["a", "b"])), P)


@pytest.mark.parametrize("y", [[0, 1], ["ab", "cd"], P[:, :1], np.arange(3), "ab", [[1], [0]], 3])
def test_what_is_no_matrix(y):
    assert not is_matrix(y)


@pytest.mark.parametrize("frame", [pd.DataFrame, polars.DataFrame])
def test_columns_of_a_frame_name_the_classes(frame):
    labels = soft_labels(frame({"b": P[:, 0], "a": P[:, 1]}))
    np.testing.assert_array_equal(labels.among(np.array(["a", "b"])), P[:, ::-1])
    whole = labels.among(np.array(["a", "ab", "b"]), ["b", "a", "ab"])
    np.testing.assert_array_equal(whole, np.c_[P[:, 1], np.zeros(3), P[:, 0]])
    with pytest.raises(ValueError, match=r"The columns of y has labels that are not among the cl"):
        labels.among(np.array(["a", "c"]))


def test_rows_are_those_of_some_instances():
    part = SoftLabels(P, np.array(["a", "b"]))[1:]
    assert len(part) == 2
    np.testing.assert_array_equal(part.among(np.array(["a", "b"])), P[1:])


@pytest.mark.parametrize(
    ("y", "match"),
    [
        ([[0, 1], [1, 0]], r"1d array of labels, got an array of shape \(2, 2\) instead, of whole"),
        (np.eye(2, dtype=bool), "of whole numbers. Of one-hot codes pass the labels, classes"),
        (np.array([[0, 1], [1, 1]], dtype=object), "of whole numbers"),
        ([["a", "b"], ["c", "d"]], "of dtype <U1"),
        ([[0.5, 0.4], [0.5, 0.5]], r"got \[0.5, 0.4\] in row 0, with the sum 0.9. Divide each row"),
        ([[0.5, 0.5], [-0.5, 1.5]], r"must hold probabilities >= 0 .* got \[-0.5, 1.5\] in row 1"),
        ([[0.5, 0.5], [np.nan, 0.5]], r"got \[nan, 0.5\] in row 1, with the sum nan"),
        ([[0.5, 0.5], [np.inf, 0.5]], r"in row 1, with the sum inf"),
        (np.zeros((2, 3)), "with the sum 0.* leave out instances of which nothing is known"),
        (np.ma.masked_array(P, P == 0), "y has masked values"),
    ],
)
def test_refused(y, match):
    with pytest.raises(ValueError, match=match):
        soft_labels(y)


@pytest.mark.parametrize(
    ("classes", "declared", "match"),
    [
        (["a", "b", "c"], None, r"2 columns of probabilities for the 3 classes \['a', 'b', 'c'\]"),
        (["a", "b"], ["b", "a"], r"may be in the order of classes=\['b', 'a'\] or in that of cla"),
    ],
)
def test_columns_that_may_be_others(classes, declared, match):
    with pytest.raises(ValueError, match=match):
        soft_labels(P).among(np.array(classes), declared)


def test_rounding_of_a_narrow_dtype_is_no_error():
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(150), size=20)
    narrow = soft_labels(rows.astype(np.float32)).probabilities
    np.testing.assert_allclose(narrow.sum(axis=1), 1, atol=1e-15)
    np.testing.assert_allclose(narrow, rows, rtol=1e-4, atol=1e-9)
    with pytest.raises(ValueError, match="sum to 1"):
        soft_labels(rows * (1 + 1e-6))
