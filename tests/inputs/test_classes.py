import numpy as np
import pandas as pd
import pytest

from laplace_al.inputs.classes import (
    class_indices,
    distinct_classes,
    is_in_natural_order,
    order_of_outputs,
    widened_classes,
)


@pytest.mark.parametrize(
    ("y", "classes", "expected"),
    [
        (["b", "a"], np.array(["a", "b"], dtype=object), [1, 0]),
        ([2.0, 1.0], [1, 2], [1, 0]),
        ([True, False], [0, 1], [1, 0]),
        (np.array([2], dtype=np.uint8), [1, 2], [1]),
    ],
)
def test_indices_by_equal_values(y, classes, expected):
    assert class_indices(np.array(y), np.array(classes)).tolist() == expected


def test_indices_of_labels_that_only_rounding_makes_equal():
    with pytest.raises(ValueError, match=f"not among the classes: .{2**53 + 1}"):
        class_indices(np.array([2**53 + 1]), np.array([0.0, 2.0**53]))


def test_indices_of_another_kind():
    with pytest.raises(
        ValueError, match=r"mine has labels .*\['1'\].* Pass numbers, as the classes"
    ):
        class_indices(np.array(["1"]), np.array([1, 2]), "mine")


@pytest.mark.parametrize("labels", [["b", "a", "b"], [3, -1, 3], [True, False, True]])
def test_indices_point_into_the_classes(labels):
    classes = distinct_classes(labels)
    assert classes.tolist() == sorted(set(labels))
    np.testing.assert_array_equal(classes[class_indices(np.array(labels), classes)], labels)


def test_there_are_at_least_two():
    with pytest.raises(ValueError, match=r"classes must hold at least 2 labels; got \[1\]"):
        distinct_classes([1, 1])


TEXT = np.array(["a", "bc"], dtype=object)


class TestWidenedClasses:
    @pytest.mark.parametrize(
        ("classes", "labels", "expected"),
        [
            (TEXT, "abcd", np.array(["a", "abcd", "bc"], dtype=object)),
            (TEXT, np.array(["c"], dtype=object), np.array(["a", "bc", "c"], dtype=object)),
            (TEXT, pd.Series(["c", "b"]), np.array(["a", "b", "bc", "c"], dtype=object)),
            (TEXT.astype(str), pd.Series(["abcd"]), np.array(["a", "abcd", "bc"])),
            (np.array([0.0, 1.0]), 2, np.array([0.0, 1.0, 2.0])),
            (np.array([0, 1]), 2.0, np.array([0, 1, 2])),
            (np.array([1, 2], dtype=np.uint8), [-300], np.array([-300, 1, 2])),
            (np.array([1, 2]), np.array([3], dtype=object), np.array([1, 2, 3])),
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
            (
                TEXT,
                np.array(["c", 3], dtype=object),
                r"of one kind; got numbers and text, such as 3 and 'c'",
            ),
            (TEXT, np.array(["c", None], dtype=object), "labels must hold labels; got None"),
            (TEXT, b"c", r"got b'c' of type bytes.*label.decode\(\)"),
            (np.array([1, 2]), "c", "so far, numbers; got text"),
            (np.array([1.0, 2.0]), True, "so far, numbers; got booleans"),
            (np.array([1, 2]), np.array([False], dtype=object), "got booleans"),
            (np.array([0, 1]), 0.5, "continuous"),
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


@pytest.mark.parametrize(
    "labels", [[0.0, 1.0, np.nan], [0, 1, None], pd.Series(["a", "b", None])], ids=str
)
def test_no_class_is_missing(labels):
    with pytest.raises(ValueError, match=r"classes must hold labels; got (nan|None)"):
        distinct_classes(labels)
    with pytest.raises(ValueError, match=r"labels must hold labels; got (nan|None)"):
        widened_classes(np.array([5, 6]), labels[2:])


@pytest.mark.parametrize("dtype", [str, object])
def test_the_order_in_which_classes_are_given(dtype):
    known = np.array(["ant", "bee", "cow"], dtype=dtype)
    given = np.array(["cow", "ant", "cow", "bee"], dtype=dtype)
    assert order_of_outputs(given, known).tolist() == [2, 0, 1]
    assert order_of_outputs(given.tolist(), known).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("classes", "is_natural"),
    [
        (["a", "b", "c"], True),
        (["1", "2", "9"], True),
        (["1", "10", "2"], False),
        (["07", "10", "2"], False),
        (["02", "07", "10"], True),
        (["LABEL_1", "LABEL_10", "LABEL_2"], False),
        (["a1b", "a1c", "b"], True),
        (["1", "a", "b2"], True),
        ([9, 10], True),
        ([False, True], True),
    ],
)
def test_texts_whose_numbers_are_in_another_order(classes, is_natural):
    assert is_in_natural_order(np.array(classes)) == is_natural
    assert is_in_natural_order(np.array(classes, dtype=object)) == is_natural
