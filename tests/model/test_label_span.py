import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laplace_al import LaplaceUpdateClassifier
from laplace_al.model.label_span import LabelSpan
from laplace_al.model.pool_state import PoolState


def problem(n, n_features=12, n_classes=3, seed=0, **params):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(80, n_features))
    y = rng.integers(0, n_classes, size=80)
    y[:n_classes] = np.arange(n_classes)
    clf = LaplaceUpdateClassifier(**params).fit(X[:n], y[:n])
    return clf.current_model(), torch.from_numpy(X)


def span_of(model, features, *parts):
    span = LabelSpan.empty(model, features)
    for rows in parts:
        span = span.with_labelled(model, features, features[rows])
    return span


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(3, 20),
    n_classes=st.integers(2, 3),
    covariance=st.sampled_from(["shared", "per_class"]),
    fit_intercept=st.booleans(),
    prior_precision=st.sampled_from([1e-3, 1.0, 1e3]),
    seed=st.integers(0, 5),
)
def test_it_is_the_pool_scored_in_all_dimensions(n, covariance, **params):
    model, features = problem(n, covariance=covariance, **params)
    half = n // 2
    span = span_of(model, features, slice(half), slice(n))
    scores, expected = span.scores(model, features), PoolState(model, features).scores
    for found, twin in zip(scores, expected, strict=True):
        torch.testing.assert_close(found, twin, rtol=1e-8, atol=1e-10)


def test_the_basis_is_orthonormal_and_no_wider_than_the_labels():
    model, features = problem(6)
    span = span_of(model, features, slice(4), slice(6), [0, 0, 5, 3])
    assert span.basis.shape == (13, 6)
    torch.testing.assert_close(span.basis.T @ span.basis, torch.eye(6).double())
    phi = torch.nn.functional.pad(features, (0, 1), value=1.0)
    torch.testing.assert_close(span.coordinates, phi @ span.basis)


@pytest.mark.parametrize("covariance", ["shared", "per_class"])
@pytest.mark.parametrize("weight", [1.0, 1e-6])
def test_more_labels_than_it_knows_are_not_overlooked(covariance, weight):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 12)), np.arange(40) % 3
    clf = LaplaceUpdateClassifier(covariance=covariance)
    model = clf.fit(X[:8], y[:8], sample_weight=[1] * 7 + [weight]).current_model()
    features = torch.from_numpy(X)
    assert span_of(model, features, slice(7)).scores(model, features) is None
    assert span_of(model, features, slice(8)).scores(model, features) is not None


def test_a_structure_without_such_a_form():
    model, features = problem(6, n_features=4, covariance="full")
    assert span_of(model, features, slice(6)).scores(model, features) is None


@pytest.mark.parametrize(
    ("params", "expected"), [({}, True), ({"dtype": "float32"}, False), ({"n_features": 5}, False)]
)
def test_whose_basis_it_is(params, expected):
    model, features = problem(6)
    other, _ = problem(6, **params)
    assert span_of(model, features, slice(3)).is_of(other) == expected
