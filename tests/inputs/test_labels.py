import collections
import contextlib
import datetime
import decimal
import enum
import fractions
import inspect
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import compute_class_weight

from laplace_al.inputs.labels import (
    as_labels,
    check_declared,
    check_labels,
    class_indices,
    distinct_classes,
    is_in_natural_order,
    like_known,
    order_of_outputs,
    weighted_by_class,
    widened_classes,
)


class Text(str, enum.Enum):  # noqa: UP042  StrEnum is another kind, below
    SPAM = "spam"
    HAM = "ham"


class Plain(enum.Enum):
    SPAM = "spam"
    HAM = 1


Texts = enum.StrEnum("Texts", {"SPAM": "spam", "HAM": "ham"})
Integers = enum.IntEnum("Integers", {"SPAM": 7, "HAM": 3})
NAN = float("nan")
TAKEN = {
    "members of a str Enum": (list(Text), ["spam", "ham"]),
    "members of a StrEnum": (list(Texts), ["spam", "ham"]),
    "members of an IntEnum": (list(Integers), [7, 3]),
    "members as objects": (np.array(list(Text), dtype=object), ["spam", "ham"]),
    "members in a Series": (pd.Series(list(Text), dtype=object), ["spam", "ham"]),
    "members in polars": (pl.Series(list(Text), dtype=pl.Object), ["spam", "ham"]),
    "text of NumPy": ([np.str_("a"), "bcd"], ["a", "bcd"]),
    "text of variable width": (np.array(["a", "b"], dtype=np.dtypes.StringDType()), ["a", "b"]),
    "integers as objects": (np.array([1, np.uint8(2)], dtype=object), [1, 2]),
    "booleans as objects": (np.array([True, np.False_], dtype=object), [True, False]),
    "booleans of NumPy": ([np.True_, False], [True, False]),
    "the least integer": ([-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
    "small uint64": (np.array([3, 1], dtype=np.uint64), [3, 1]),
    "uint64 beside int64": ([np.uint64(3), np.int64(-1)], [3, -1]),
    "longdouble": (np.array([1, 2], dtype=np.longdouble), [1.0, 2.0]),
    "a list of longdouble": ([np.longdouble(1), 2], [1.0, 2.0]),
    "integers beside floats": ([1, 2.0], [1.0, 2.0]),
    "nothing masked": (np.ma.array([1, 2], mask=[0, 0]), [1, 2]),
    "Int64": (pd.array([1, 2], dtype="Int64"), [1, 2]),
    "boolean": (pd.Series([True, False], dtype="boolean"), [True, False]),
    "string": (pd.Series(["a", "b"], dtype="string"), ["a", "b"]),
    "category": (pd.Series(["b", "a"], dtype="category"), ["b", "a"]),
    "category of integers": (pd.Categorical([3, 1]), [3, 1]),
    "another index": (pd.Series(["a", "b"], index=[1, 0]), ["a", "b"]),
    "an Index": (pd.Index([2, 1]), [2, 1]),
    "polars": (pl.Series(["a", "b"], dtype=pl.Categorical), ["a", "b"]),
    "a tensor": (torch.tensor([1.0, 2.0], requires_grad=True), [1.0, 2.0]),
    "a list of tensors": (list(torch.tensor([True, False])), [True, False]),
    "arrays of no dimensions": ([np.array("a"), np.array("b")], ["a", "b"]),
    "a deque": (collections.deque("ab"), ["a", "b"]),
    "a range": (range(2), [0, 1]),
    "empty text": (["", "a"], ["", "a"]),
}
MISSING = {
    "None": ["a", None],
    "NaN among text": ["a", NAN],
    "NaN among integers": [1, NAN],
    "NaN as objects": np.array(["a", NAN], dtype=object),
    "NA": ["a", pd.NA],
    "NaT": [1, pd.NaT],
    "NaT of NumPy": ["a", np.datetime64("NaT")],
    "NaN of Decimal": ["a", decimal.Decimal("nan")],
    "a masked integer": np.ma.array([1, 999], mask=[0, 1]),
    "masked text": np.ma.array(["a", "b"], mask=[0, 1]),
    "masked objects": np.ma.array(["a", "b"], mask=[0, 1], dtype=object),
    "the masked constant": [1, np.ma.masked],
    "Int64": pd.array([1, None], dtype="Int64"),
    "boolean": pd.array([True, None], dtype="boolean"),
    "string": pd.Series(["a", None], dtype="string"),
    "category": pd.Series(["a", None], dtype="category"),
    "category of integers": pd.Categorical([1, None]),
    "polars": pl.Series(["a", None]),
    "booleans of polars": pl.Series([True, None]),
    "text of variable width": np.array(["a", None], dtype=np.dtypes.StringDType(na_object=None)),
}
REFUSED = {
    "numbers and text": ([0, "a"], "of one kind; got numbers and text, such as 0 and 'a'"),
    "booleans and numbers": ([True, 2], "of one kind; got booleans and numbers"),
    "booleans and floats": ([2.0, False], "of one kind; got booleans and numbers"),
    "a mixed category": (pd.Categorical([3, "a"]), "of one kind; got numbers and text"),
    "members of a plain Enum": (list(Plain), r"got <Plain.*\[label.name for label in y\]"),
    "bytes": ([b"a", b"b"], r"got b'a' of type bytes.*\[label.decode\(\) for label in y\]"),
    "bytes of NumPy": (np.array([b"a", b"b"]), r"label.decode\(\)"),
    "dates": (np.array(["2020", "2021"], dtype="datetime64[ns]"), "of type datetime64"),
    "a date": ([datetime.date(2020, 1, 1), "a"], "of type date"),
    "durations": (np.array([1, 2], dtype="timedelta64[ns]"), "of type timedelta64"),
    "a duration": ([np.timedelta64(1, "ns"), 1], "of type timedelta64"),
    "Decimal": ([decimal.Decimal(1), 1], "of type Decimal"),
    "Fraction": ([fractions.Fraction(1), 1], "of type Fraction"),
    "complex": (np.array([1j, 2]), "of type complex128"),
    "a complex one": ([1, 2j], "of type complex"),
    "records": (np.array([(1,), (2,)], dtype="i4,"), "of type void"),
    "tuples": (pd.MultiIndex.from_tuples([(1, 2), (3, 4)]), "of type tuple"),
    "lists of lists": (["a", ["b"]], "of type list"),
    "large uint64": (np.array([1, 2**63], dtype=np.uint64), f"got {2**63}. Pass them as text"),
    "large integers": ([2**63, 1], f"integers from .* to {2**63 - 1}; got {2**63}"),
    "large and negative": ([2**63, -1], f"got {2**63}"),
    "larger than any dtype": ([10**30, 1], f"got {10**30}"),
    "integers that floats merge": ([2**53 + 1, 1.0], f"beside floats; got {2**53 + 1}"),
    "longdouble that float64 merges": (np.longdouble(2) ** 63 + np.arange(2), "float64 holds"),
    "fractions": ([1.5, 2.0], r"got 1.5. Unknown label type: continuous"),
    "infinity": ([1.0, np.inf], "y contains infinity"),
    "a generator": ((i for i in range(2)), "array-like of labels in their order"),
    "a set": ({1, 2}, "array-like of labels in their order"),
    "a dict": ({1: 2}, "array-like of labels in their order"),
    "values of a dict": ({1: 2}.values(), "array-like of labels in their order"),
    "an Enum": (Text, "array-like of labels in their order"),
    "one text": ("ab", "array-like of labels in their order"),
    "one number": (np.array(1), r"got an array of shape \(\)"),
    "two columns": ([[1, 2], [3, 4]], r"got an array of shape \(2, 2\)"),
    "text that NumPy shortens": (["a\0", "a"], "NUL, which NumPy drops"),
    "lone surrogates": (["a\ud800", "a"], "UTF-8 has a form for"),
    "lone surrogates in an array": (np.array(["a\ud800"]), "UTF-8 has a form for"),
}


class TestAsLabels:
    @pytest.mark.parametrize(("values", "expected"), TAKEN.values(), ids=TAKEN)
    def test_what_is_taken(self, values, expected):
        labels = as_labels(values)
        assert labels.ndim == 1
        assert labels.tolist() == expected
        assert [type(label) for label in labels.tolist()] == [type(label) for label in expected]
        assert as_labels(labels) is labels or labels.dtype.kind == "O"

    def test_arrow(self):
        pa = pytest.importorskip("pyarrow")
        text, numbers = pa.array(["a", "b", None]), pa.array([1, 2, None])
        for values in (text, text.dictionary_encode(), text.cast("large_string")):
            assert as_labels(values[:2]).tolist() == ["a", "b"]
            assert as_labels(pa.chunked_array([values[:1], values[1:2]])).tolist() == ["a", "b"]
        assert as_labels(numbers[:2]).tolist() == [1, 2]
        frame = pd.DataFrame({"t": text, "n": numbers}).astype({"t": "string[pyarrow]"})
        frame = frame.astype({"n": "int64[pyarrow]"})
        assert as_labels(frame.t[:2]).tolist() == ["a", "b"]
        assert as_labels(frame.n[:2]).tolist() == [1, 2]
        for values in (text, text.dictionary_encode(), numbers, frame.t, frame.n):
            with pytest.raises(ValueError, match="at position 2"):
                as_labels(values)

    @pytest.mark.parametrize("values", MISSING.values(), ids=MISSING)
    def test_a_missing_label(self, values):
        with pytest.raises(ValueError, match=r"^mine must hold labels; got .* at position 1. Go."):
            as_labels(values, "mine", if_missing="Go.")

    @pytest.mark.parametrize(("values", "match"), REFUSED.values(), ids=REFUSED)
    def test_what_is_refused(self, values, match):
        with pytest.raises(ValueError, match=re.compile(f"^y .*{match}", re.DOTALL)):
            as_labels(values)

    @pytest.mark.parametrize(
        "values", [[[1], [2]], pd.DataFrame({"a": [1, 2]}), pl.DataFrame([1, 2])]
    )
    def test_a_column(self, values):
        with pytest.warns(DataConversionWarning, match="column-vector"):
            assert as_labels(values).tolist() == [1, 2]
        assert as_labels(values, "classes").tolist() == [1, 2]

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("ab", "ab"),
            (Text.SPAM, "spam"),
            (Integers.HAM, 3),
            (np.str_("ab"), "ab"),
            (np.array("ab"), "ab"),
            (np.int8(3), 3),
            (torch.tensor(3), 3),
            (False, False),
        ],
    )
    def test_a_label_alone(self, value, expected):
        (label,) = as_labels(value, or_one=True).tolist()
        assert (label, type(label)) == (expected, type(expected))

    @pytest.mark.parametrize("value", [None, NAN, pd.NA, np.ma.masked])
    def test_a_missing_label_alone(self, value):
        with pytest.raises(ValueError, match="must hold labels; got"):
            as_labels(value, or_one=True)

    @pytest.mark.parametrize("value", [Plain.HAM, b"a", {1}, iter("ab"), 2**63, 0.5])
    def test_what_is_refused_alone(self, value):
        with pytest.raises(ValueError, match="y must"):
            as_labels(value, or_one=True)

    def test_text_stays_of_the_kind_that_it_had(self):
        assert as_labels(["a", "b"]).dtype == "<U1"
        assert as_labels(pd.Series(["a", "b"])).dtype == object
        assert as_labels(np.array(["a", "b"], dtype=object)).dtype == object

    @given(
        npst.arrays(st.sampled_from(["i1", ">i4", "i8", "u1", "u4", "?", "U3"]), st.integers(1, 5))
    )
    def test_an_array_is_its_own_list(self, array):
        labels = as_labels(array)
        assert labels is array or labels.dtype == array.dtype
        assert as_labels(array.tolist()).tolist() == array.tolist()

    @given(
        st.lists(
            st.booleans() | st.integers() | st.floats() | st.text("a\0ß", max_size=2), max_size=3
        )
    )
    def test_what_comes_out_is_what_went_in(self, values):
        with contextlib.suppress(ValueError):
            labels = as_labels(values)
            assert labels.tolist() == values
            assert len({type(value) for value in values}) <= 1 + (labels.dtype.kind == "f")


class TestLikeKnown:
    @pytest.mark.parametrize(
        ("labels", "known"),
        [([1.0, 2.0], [5]), ([1, 2], [5.0]), (["abc"], ["a"]), ([True], [False])],
    )
    def test_labels_take_the_type(self, labels, known):
        like = like_known(np.array(labels), np.array(known))
        assert like.tolist() == labels
        assert {type(label) for label in like.tolist()} == {type(known[0])}

    @pytest.mark.parametrize(
        ("labels", "known"),
        [
            (["a"], [1]),
            ([1], ["a"]),
            ([True], [1]),
            ([1.0], [True]),
            ([2**53 + 1], [1.0]),
            ([1e300], [1]),
        ],
    )
    def test_other_kinds_are_refused(self, labels, known):
        with pytest.raises(ValueError, match="mine must hold labels of the same kind as those"):
            like_known(np.array(labels), np.array(known), "mine")


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

    @pytest.mark.parametrize("key", [Plain.HAM, b"a", (1,), NAN, None, 0.5])
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
