import collections
import contextlib
import datetime
import decimal
import enum
import fractions
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

from laplace_al.inputs.labels import as_labels, like_known


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
