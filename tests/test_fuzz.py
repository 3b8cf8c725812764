"""Whatever is passed: the right answer, or an error that names the argument and changes nothing."""

import copy
import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from faults import state_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning

from laplace_al import LaplaceUpdateClassifier
from laplace_al._common.devices import as_array

DTYPES = [
    *(np.float16, np.float32, np.float64, np.longdouble, np.int8, np.uint8, np.int64, np.uint64),
    *(
        bool,
        object,
        np.complex64,
        str,
        bytes,
        "datetime64[s]",
        "timedelta64[s]",
        "V8",
        ">f8",
        ">i2",
    ),
]
SCALES = [1.0, 0.0, 5e-324, 1e-300, 1e-30, 1e-8, 1e8, 1e30, 1e153, 1e200, 1e308]
SPECIAL = [np.nan, np.inf, -np.inf]
NAMES = re.compile(
    r"\b(X|y|classes|labels|sample_weight|class_weight|features?|sample\(?s?\)?|prior_precision"
    r"|array|input|data|sparse|dtype|complex|label|could not convert|argument must be)\b",
    re.IGNORECASE,
)
EXPECTED = [
    ("ignore", "", ConvergenceWarning),
    ("ignore", "", LinAlgWarning),
    ("ignore", "", DataConversionWarning),
    ("ignore", "X (does not have|has) .*feature names", UserWarning),
    ("ignore", "invalid value encountered in cast", RuntimeWarning),
    ("ignore", "overflow encountered in cast", RuntimeWarning),
    ("ignore", "invalid value encountered in reduce", RuntimeWarning),  # inf - inf, of sklearn
]


@st.composite
def matrices(draw):
    """X: of every dtype, layout and container, right or wrong."""
    n, d = draw(st.sampled_from([(6, 2), (8, 3), (5, 1), (1, 2), (0, 2), (4, 0)]))
    seed, scale = draw(st.integers(0, 3)), draw(st.sampled_from([1.0] * 12 + SCALES))
    with np.errstate(over="ignore"):
        values = np.random.default_rng(seed).integers(-3, 4, size=(n, d)) * scale
    if draw(st.integers(0, 5)) == 0 and values.size:
        values[draw(st.integers(0, n - 1)), 0] = draw(st.sampled_from(SPECIAL))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = draw(st.sampled_from([np.float64] * 8 + DTYPES))
        try:
            values = values.astype(kind)
        except (TypeError, ValueError):
            values = values.astype(str)
    return draw(st.sampled_from(CONTAINERS))(values)


def nullable(values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = pd.DataFrame(values)
        return frame.convert_dtypes()


def with_missing(values):
    frame = nullable(values)
    return frame.mask(np.arange(len(frame)) == 0)


def read_only(values):
    values = values.copy()
    values.setflags(write=False)
    return values


def if_possible(convert):
    """The container, or the array itself where that container has no such dtype."""

    def converted(values):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return convert(values)
        except (TypeError, ValueError, RuntimeError, OverflowError, pl.exceptions.PolarsError):
            return values

    converted.__name__ = convert.__name__
    return converted


CONTAINERS = [
    *([np.ascontiguousarray] * 6),
    np.asfortranarray,
    lambda values: values[::-1, ::-1],
    lambda values: np.repeat(values, 2, axis=0)[::2],
    read_only,
    lambda values: values.tolist(),
    lambda values: tuple(map(tuple, values)),
    lambda values: pd.DataFrame(values),
    if_possible(nullable),
    if_possible(with_missing),
    if_possible(lambda values: pd.DataFrame(values).astype("category")),
    if_possible(lambda values: pl.DataFrame(values)),
    if_possible(torch.from_numpy),
    if_possible(lambda values: torch.from_numpy(values).to(torch.bfloat16)),
    if_possible(lambda values: torch.from_numpy(values).requires_grad_()),
    if_possible(scipy.sparse.csr_matrix),
    lambda values: np.ma.masked_array(values, mask=np.zeros(values.shape, dtype=bool)),
    lambda values: values[:, 0] if values.shape[1] else values,
    lambda values: values[None],
    lambda values: np.float64(3.0),
    lambda values: np.array(None),
    lambda values: None,
    lambda values: "a text",
    lambda values: {"a": 1},
    lambda values: [],
    lambda values: [[1.0, 2.0], [3.0]],
    lambda values: iter(values.tolist()),
]


def n_rows(X):
    try:
        return len(X) if not hasattr(X, "shape") else (X.shape[0] if len(X.shape) else 1)
    except TypeError:
        return 1


LABELS = [
    *([np.array([0, 1, 2])] * 6),
    np.array([0, 1]),
    np.array([-5, 2**62]),
    np.array([0, 255], dtype=np.uint8),
    np.array([False, True]),
    np.array(["a", "b", "ß"]),
    np.array([b"a", b"\xff"]),
    np.array(["a", "b"], dtype=object),
    np.array(["a", 1, None], dtype=object),
    np.array([1.0, 2.0]),
    np.array([0.5, 1.5, 2.25]),
    np.array([np.nan, 1.0]),
    np.array([np.inf, 1.0]),
    np.array([1 + 2j, 3]),
    np.array([7]),
    np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]"),
    np.array([(1,), (2, 3)], dtype=object),
    np.array([1.0, 2.0], dtype=np.longdouble),
    np.array([1.0, 2.0], dtype=np.float16),
]
Y_CONTAINERS = [
    *([lambda y: y] * 8),
    lambda y: y.tolist(),
    lambda y: y[:, None],
    lambda y: np.c_[y, y],
    lambda y: y[:-1],
    lambda y: np.append(y, y),
    lambda y: pd.Series(y),
    if_possible(lambda y: pd.Series(y).convert_dtypes()),
    if_possible(lambda y: pd.Series(y).convert_dtypes().mask(np.arange(len(y)) == 0)),
    if_possible(lambda y: pd.Series(y, dtype="category")),
    if_possible(lambda y: pl.Series(y.tolist())),
    if_possible(torch.from_numpy),
    lambda y: y[0] if len(y) else y,
    lambda y: None,
    lambda y: iter(y.tolist()),
    lambda y: {0: 1},
]


@st.composite
def targets(draw, n):
    values = draw(st.sampled_from(LABELS))
    places = np.random.default_rng(draw(st.integers(0, 2))).integers(len(values), size=n)
    return draw(st.sampled_from(Y_CONTAINERS))(values[places])


def weights(n):
    plain = [
        *([None] * 10),
        np.ones(n),
        np.arange(n),
        np.full(n, 1e300),
        np.full(n, 5e-324),
        np.zeros(n),
        -np.ones(n),
        np.full(n, np.nan),
        np.full(n, np.inf),
        np.ones((n, 1)),
        np.ones(n + 1),
        2.0,
        -1.0,
        "heavy",
        np.full(n, "1"),
        np.ones(n, dtype=bool),
        pd.Series(np.ones(n)).convert_dtypes(),
        np.ones(n, dtype=complex),
        [1.0] * n,
    ]
    return st.sampled_from(plain)


SETTINGS = [
    *([{}] * 4),
    {"covariance": "shared", "calibration": None},
    {"covariance": "full", "update": "newton"},
    {"dtype": "float32"},
    {"memory_size": 3},
    {"predictive": "bridge", "curvature": "gaussian"},
    {"prior_precision": "loo"},
    {"prior_precision": 1e-12},
    {"prior_precision": 1e12, "forgetting": 0.5},
    {"class_weight": {0: 0.5, 1: 2.0, 2: 1.0}},
]
CALLS = ["fit", "fit", "fit", "partial_fit", "first partial_fit", "predict", "newton_decrement"]


def called(clf, call, X, y, sample_weight):
    if call == "predict":
        return clf.predict_proba(X)
    if call == "newton_decrement":
        return clf.newton_decrement(X, y, sample_weight)
    if call == "first partial_fit":
        clf.partial_fit(X, y, classes=[0, 1, 2], sample_weight=sample_weight)
    else:
        getattr(clf, call)(X, y, sample_weight=sample_weight)
    return clf.predict_proba(X)


def check(params, call, X, y, sample_weight):
    """The right answer, or an error that names what is wrong."""
    clf = LaplaceUpdateClassifier(**params)
    if call in ("partial_fit", "predict", "newton_decrement"):
        width = X.shape[1] if len(getattr(X, "shape", ())) == 2 and X.shape[1] else 2
        points = np.random.default_rng(0).normal(size=(9, width))
        clf = clf.set_params(prior_precision=1.0).fit(points, np.arange(9) % 3)
        clf.set_params(**params)
    before = state_of(vars(clf))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for action, message, category in EXPECTED:
            warnings.filterwarnings(action, message, category)
        try:
            answer = called(clf, call, X, y, sample_weight)
        except (ValueError, TypeError) as error:
            found = NAMES.search(str(error)) is not None
            return found and (state_of(vars(clf)) == before or "predict" in str(error)), error
    answer = np.asarray(answer, dtype=np.float64)
    if not np.isfinite(answer).all():
        return False, answer
    if answer.ndim == 2:
        sums = np.abs(answer.sum(axis=1) - 1)
        return bool((answer >= 0).all() and (sums < 1e-5).all()), answer
    return True, answer


@st.composite
def cases(draw):
    X = draw(matrices())
    n = n_rows(X)
    return (
        draw(st.sampled_from(SETTINGS)),
        draw(st.sampled_from(CALLS)),
        X,
        draw(targets(n)),
        draw(weights(n)),
    )


QUICK = settings(max_examples=250, deadline=None, suppress_health_check=[*HealthCheck])
LONG = settings(QUICK, max_examples=20_000)


@QUICK
@given(case=cases())
def test_anything(case):
    is_right, what = check(*case)
    assert is_right, repr(what)


@pytest.mark.slow
@LONG
@given(case=cases())
def test_anything_at_length(case):
    is_right, what = check(*case)
    assert is_right, repr(what)


@pytest.mark.parametrize("convert", [c for c in CONTAINERS if c is not np.ascontiguousarray][:14])
def test_every_container_gives_the_answer_of_a_plain_array(convert):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 3)), np.arange(12) % 3
    given = convert(X)
    plain = np.asarray(as_array(given), dtype=np.float64)
    if np.isnan(plain).any():
        with pytest.raises(ValueError, match="NaN"):
            LaplaceUpdateClassifier().fit(given, y)
        return
    answer = LaplaceUpdateClassifier().fit(given, y).predict_proba(given)
    expected = LaplaceUpdateClassifier().fit(plain, y).predict_proba(plain)
    np.testing.assert_allclose(np.asarray(answer), expected, rtol=1e-12)


def test_a_thousand_classes():
    X, y = np.random.default_rng(0).normal(size=(1000, 4)), np.arange(1000)
    clf = LaplaceUpdateClassifier(covariance="shared", prior_precision=1.0).fit(X, y)
    probabilities = clf.partial_fit(X[:3], y[:3]).predict_proba(X[:5])
    assert probabilities.shape == (5, 1000)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_the_callers_data_stay_as_they_are():
    X, y = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) % 3
    weight = np.ones(30)
    before = copy.deepcopy((X, y, weight))
    clf = LaplaceUpdateClassifier().fit(X, y, weight).partial_fit(X, y, sample_weight=weight)
    clf.predict_proba(X)
    clf.pool_state(X).observe(0, 1)
    for now, then in zip((X, y, weight), before, strict=True):
        np.testing.assert_array_equal(now, then)
