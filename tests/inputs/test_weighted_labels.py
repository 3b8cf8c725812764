import enum
import inspect

import numpy as np
import pytest
from sklearn.utils import compute_class_weight

from laplace_al.inputs.weighted_labels import check_declared, check_labels, weighted_by_class


class Text(str, enum.Enum):  # noqa: UP042  StrEnum is another kind
    SPAM = "spam"
    HAM = "ham"


class Integers(enum.IntEnum):
    HAM = 3


class Plain(enum.Enum):
    HAM = "ham"


def test_a_single_weight_is_for_all():
    _, weights = check_labels([0, 1, 1], 2.5, 3)
    np.testing.assert_array_equal(weights, [2.5, 2.5, 2.5])


class TestWeightedByClass:
    INDICES = np.array([2, 0, 2, 1])

    def weights(self, class_weight, sample_weight=(1, 1, 1, 1), classes=(0, 1, 2)):
        sample_weight = np.array(sample_weight, dtype=float)
        return weighted_by_class(sample_weight, class_weight, self.INDICES, np.array(classes))

    @pytest.mark.parametrize("classes", [[0, 1, 2], [0.0, 1.0, 2.0], ["0", "1", "2"], [-7, 0, 7]])
    def test_a_dict(self, classes):
        for keys in (classes, np.array(classes)):
            of_some = {keys[0]: 3.0, keys[2]: 0.5}
            found = self.weights(of_some, [1, 2, 3, 4], classes)
            np.testing.assert_array_equal(found, [0.5, 6.0, 1.5, 4.0])
        assert self.weights(None, [1, 2, 3, 4], classes).tolist() == [1, 2, 3, 4]
        assert self.weights({}, [1, 2, 3, 4], classes).tolist() == [1, 2, 3, 4]

    def test_a_dict_for_classes_that_are_not_open_yet(self):
        assert self.weights({0: 2, 1: 3, 2: 4, 3: 5}).tolist() == [4, 2, 4, 3]

    def test_a_dict_of_classes_to_come(self):
        assert self.weights({0: 2, 7: 5}).tolist() == [1, 2, 1, 1]
        assert self.weights({"c": 2.0, "z": 5}, classes="abc").tolist() == [2, 1, 2, 1]

    def test_keys_are_labels_like_others(self):
        assert self.weights({Text.SPAM: 5}, classes=["ham", "spam", "z"]).tolist() == [1, 1, 1, 5]
        assert self.weights({Integers.HAM: 5}, classes=[1, 3, 4]).tolist() == [1, 1, 1, 5]
        assert self.weights({np.uint8(1): 5.0}).tolist() == [1, 1, 1, 5]

    @pytest.mark.parametrize("key", [Plain.HAM, b"a", (1,), np.nan, None, 0.5])
    def test_keys_that_are_no_labels(self, key):
        with pytest.raises(ValueError, match="class_weight must hold labels"):
            self.weights({key: 5.0})

    def test_declared_classes_are_all(self):
        classes = np.array(["fine", "fraud"])
        for good in ({"fraud": 2}, {}, {"fine": 1, "fraud": 2, "odd": 3}, None, "balanced"):
            check_declared(good, classes)
        with pytest.raises(
            ValueError, match="got 'fruad', which is not among the classes declared"
        ):
            check_declared({"fruad": 2}, classes)

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
            ({"0": 1.0}, r"must have numbers as its keys, as the classes \[0, 1, 2\] are; .*'0'"),
            ({0: 1.0, "1": 2.0}, r"class_weight must hold labels of one kind"),
            ({0: 1.0, None: 2.0}, r"class_weight must hold labels; got None"),
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
