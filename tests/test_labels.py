import numpy as np
import pandas as pd
import pytest

from laplace_al.labels import (
    check_labels,
    class_indices,
    class_weights,
    distinct_classes,
    widened_classes,
)


def test_a_single_weight_is_for_all():
    _, weights = check_labels([0, 1, 1], 2.5, 3)
    np.testing.assert_array_equal(weights, [2.5, 2.5, 2.5])


@pytest.mark.parametrize("labels", [["b", "a", "b"], [3, -1, 3], [True, False, True]])
def test_indices_point_into_the_classes(labels):
    y, _ = check_labels(labels, None, 3)
    classes = distinct_classes(labels)
    assert classes.tolist() == sorted(set(labels))
    np.testing.assert_array_equal(classes[class_indices(y, classes)], labels)


TEXT = np.array(["a", "bc"], dtype=object)


class TestWidenedClasses:
    @pytest.mark.parametrize(
        ("classes", "labels", "expected"),
        [
            (TEXT, "abcd", np.array(["a", "abcd", "bc"], dtype=object)),
            (TEXT, np.array(["c"], dtype=object), np.array(["a", "bc", "c"], dtype=object)),
            (TEXT, pd.Series(["c", "b"]), np.array(["a", "b", "bc", "c"], dtype=object)),
            (TEXT.astype(str), pd.Series(["abcd"]), np.array(["a", "abcd", "bc"])),
            (np.array([b"a"]), np.array([b"bc"], dtype=object), np.array([b"a", b"bc"])),
            (np.array([0.0, 1.0]), 2, np.array([0.0, 1.0, 2.0])),
            (np.array([0, 1]), 0.5, np.array([0.0, 0.5, 1.0])),
            (np.array([1, 2], dtype=np.uint8), [-300], np.array([-300, 1, 2])),
            (np.array([1, 2]), np.array([3], dtype=object), np.array([1, 2, 3])),
            (np.array([1, 2], dtype=object), 3, np.array([1, 2, 3], dtype=object)),
        ],
    )
    def test_kinds_are_those_of_the_values(self, classes, labels, expected):
        widened = widened_classes(classes, labels)
        np.testing.assert_array_equal(widened, expected, strict=True)
        assert {type(value) for value in widened.tolist()} == {type(expected.tolist()[0])}

    @pytest.mark.parametrize(
        ("classes", "labels", "match"),
        [
            (TEXT, 3, r"so far, text; got numbers: \[3\]"),
            (TEXT, np.array(["c", 3], dtype=object), r"so far, text; got numbers and text"),
            (TEXT, np.array(["c", None], dtype=object), "got NoneType and text"),
            (TEXT, b"c", "got bytes"),
            (np.array([1, 2]), "c", "so far, numbers; got text"),
            (np.array([1.0, 2.0]), True, "so far, numbers; got booleans"),
            (np.array([1, 2], dtype=object), np.array([False], dtype=object), "got booleans"),
            (np.array([False, True]), 2, "so far, booleans; got numbers"),
        ],
    )
    def test_other_kinds_are_refused(self, classes, labels, match):
        with pytest.raises(ValueError, match=match):
            widened_classes(classes, labels)

    @pytest.mark.parametrize("labels", [["a"], ["c", "c"], [], np.array(["bc"], dtype=object)])
    def test_what_is_not_new_is_refused(self, labels):
        for classes in (TEXT, TEXT.astype(str)):
            with pytest.raises(ValueError, match="labels must be new and distinct"):
                widened_classes(classes, labels)


def test_weights_of_classes():
    y = np.array([2, 0, 2, 1])
    np.testing.assert_array_equal(class_weights({0: 3.0, 2: 0.5}, y), [0.5, 3.0, 0.5, 1.0])
    np.testing.assert_allclose(class_weights("balanced", y), [2 / 3, 4 / 3, 2 / 3, 4 / 3])
    assert class_weights(None, y) == 1
