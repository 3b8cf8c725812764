import inspect

import numpy as np
import pandas as pd
import pytest
from sklearn.utils import compute_class_weight

from laplace_al.labels import (
    check_labels,
    class_indices,
    distinct_classes,
    is_in_natural_order,
    order_of_outputs,
    weighted_by_class,
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
            (TEXT, np.array(["c", None], dtype=object), "labels must hold labels; got None"),
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


@pytest.mark.parametrize(
    "labels", [[0.0, 1.0, np.nan], [0, 1, None], pd.Series(["a", "b", None])], ids=str
)
def test_no_class_is_missing(labels):
    with pytest.raises(ValueError, match=r"classes must hold labels; got (nan|None)"):
        distinct_classes(labels)
    with pytest.raises(ValueError, match=r"labels must hold labels; got (nan|None)"):
        widened_classes(np.array([5, 6]), labels[2:])


class TestWeightedByClass:
    INDICES = np.array([2, 0, 2, 1])

    def weights(self, class_weight, sample_weight=(1, 1, 1, 1), classes=(0, 1, 2)):
        sample_weight = np.array(sample_weight, dtype=float)
        return weighted_by_class(sample_weight, class_weight, self.INDICES, np.array(classes))

    @pytest.mark.parametrize(
        "classes", [[0, 1, 2], [0.0, 1.0, 2.5], ["0", "1", "2"], [b"a", b"b", b"c"], [-7, 0, 7]]
    )
    def test_a_dict(self, classes):
        for keys in (classes, np.array(classes)):
            of_some = {keys[0]: 3.0, keys[2]: 0.5}
            found = self.weights(of_some, [1, 2, 3, 4], classes)
            np.testing.assert_array_equal(found, [0.5, 6.0, 1.5, 4.0])
        assert self.weights(None, [1, 2, 3, 4], classes).tolist() == [1, 2, 3, 4]
        assert self.weights({}, [1, 2, 3, 4], classes).tolist() == [1, 2, 3, 4]

    def test_a_dict_for_classes_that_are_not_open_yet(self):
        assert self.weights({0: 2, 1: 3, 2: 4, 3: 5}).tolist() == [4, 2, 4, 3]

    def test_balanced(self):
        np.testing.assert_allclose(self.weights("balanced"), [2 / 3, 4 / 3, 2 / 3, 4 / 3])
        found = self.weights("balanced", [1, 2, 3, 6])
        np.testing.assert_allclose(found, [1, 4, 3, 4])

    def test_balanced_counts_classes_of_no_weight_as_absent(self):
        np.testing.assert_allclose(self.weights("balanced", [1, 0, 3, 2]), [0.75, 0, 2.25, 3])
        four = self.weights("balanced", [1, 1, 1, 1], [0, 1, 2, 3])
        np.testing.assert_allclose(four, self.weights("balanced"))

    @pytest.mark.skipif(
        "sample_weight" not in inspect.signature(compute_class_weight).parameters,
        reason="as of a later scikit-learn",
    )
    def test_balanced_is_that_of_scikit_learn(self):
        rng = np.random.default_rng(0)
        indices, weights = rng.integers(3, size=50), rng.uniform(0.1, 5, size=50)
        classes = np.array(["a", "b", "c"])
        of_classes = compute_class_weight(
            "balanced", classes=classes, y=classes[indices], sample_weight=weights
        )
        found = weighted_by_class(weights, "balanced", indices, classes)
        np.testing.assert_allclose(found, weights * of_classes[indices])

    @pytest.mark.parametrize(
        ("class_weight", "match"),
        [
            ({0: -1.0}, r"must be >= 0 .*got \{0: -1.0\}, with products between -1 and 1"),
            ({0: np.nan}, r"got \{0: nan\}, with products between nan"),
            ({0: np.inf}, r"got \{0: inf\}, with products between 1 and inf"),
            ({0: 1e16}, r"at most 1e\+15; .*between 1 and 1e\+16. Give classes finite weights"),
            (dict.fromkeys(range(3), 0.0), "not 0 for all, .*between 0 and 0"),
            ({0: None}, "class_weight must be >= 0"),
            ({0: "high"}, "class_weight must hold numbers >= 0; got .*'high'"),
            ({0: 10**400}, "class_weight must hold numbers >= 0"),
            ({"0": 1.0}, r"class_weight must have classes as its keys; got .* without \[0, 1, 2\]"),
            ({0: 1.0, 3: 1.0}, r"keys; got .* without \[1, 2\] of the classes \[0, 1, 2\]"),
        ],
    )
    def test_what_it_may_not_be(self, class_weight, match):
        with pytest.raises(ValueError, match=match):
            self.weights(class_weight)

    def test_products_are_what_counts(self):
        assert self.weights({0: 1e20}, [1, 1e-10, 1, 1]).tolist() == [1, 1e10, 1, 1]
        with pytest.raises(ValueError, match=r"class_weight must be .* products"):
            self.weights({0: 1e10}, [1, 1e10, 1, 1])
        assert self.weights({2: 0, 0: 0}, [1, 1, 1, 0]).tolist() == [0, 0, 0, 0]
        with pytest.raises(ValueError, match=r"got 'balanced', with products .* and inf"):
            self.weights("balanced", [1e14, 5e-324, 1e14, 1e14])


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
        ([b"10", b"9"], False),
        ([9, 10], True),
        ([False, True], True),
    ],
)
def test_texts_whose_numbers_are_in_another_order(classes, is_natural):
    assert is_in_natural_order(np.array(classes)) == is_natural
    assert is_in_natural_order(np.array(classes, dtype=object)) == is_natural
