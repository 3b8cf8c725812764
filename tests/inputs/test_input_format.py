import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from laplace_al import TorchFeatures
from laplace_al.inputs.input_format import InputFormat
from laplace_al.inputs.known import Extracted

X = np.arange(6.0).reshape(3, 2)


def format_of(X, extractor=None):
    return InputFormat.of_first(X, extractor, name="Estimator", with_head=False)


def test_the_first_inputs_say_what_the_next_must_be_like():
    made, features = format_of(pd.DataFrame(X, columns=["a", "b"]))
    np.testing.assert_array_equal(features, X)
    assert (made.n_features_in, made.feature_names_in.tolist()) == (2, ["a", "b"])
    with pytest.raises(ValueError, match="feature names should match"):
        made.features(pd.DataFrame(X, columns=["b", "a"]), name="Estimator")


def test_errors_name_the_estimator():
    made, _ = format_of(X)
    match = "X has 3 features, but Estimator is expecting 2 features as input"
    with pytest.raises(ValueError, match=match):
        made.features(np.ones((1, 3)), name="Estimator")


@pytest.mark.parametrize("wrong", [[[np.nan, 1.0]], [[np.inf, 1.0]], np.ones((0, 2)), np.ones(2)])
def test_arrays_that_are_told_to_be_valid_quickly_are_refused_as_well(wrong):
    made, _ = format_of(X)
    with pytest.raises(ValueError, match=r"NaN|infinity|0 sample|2D array"):
        made.features(np.asarray(wrong), name="Estimator")


def test_rows_read_backwards_are_what_torch_takes():
    made, _ = format_of(X)
    torch.from_numpy(made.features(X[::-1], name="Estimator"))
    pool = made.pool_features(X[::-1], name="Estimator", device=torch.device("cpu"))
    np.testing.assert_array_equal(pool.numpy(), X[::-1])


@pytest.mark.parametrize(
    ("dtype", "kept"), [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), ("i1", "f4")]
)
def test_a_pool_is_no_wider_than_it_need_be(dtype, kept):
    made, _ = format_of(X)
    pool = made.pool_features(X.astype(dtype), name="Estimator", device=torch.device("cpu"))
    assert pool.numpy().dtype == kept


def test_a_pool_is_not_copied():
    made, _ = format_of(X)
    pool = X.astype(np.float32)
    pool.setflags(write=False)
    features = made.pool_features(pool, name="Estimator", device=torch.device("cpu"))
    assert np.shares_memory(features.numpy(), pool)


def test_features_of_a_network():
    network = nn.Linear(2, 3, dtype=torch.float64)
    extractor = TorchFeatures(network, layer="")
    made, features = format_of(X, extractor)
    np.testing.assert_allclose(features, network(torch.from_numpy(X)).detach())
    np.testing.assert_array_equal(made.features(X, name="Estimator"), features)
    np.testing.assert_array_equal(made.features(Extracted(features), name="Estimator"), features)
    twin = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(twin.features(X, name="Estimator"), features)
    nn.init.zeros_(network.weight)
    with pytest.raises(RuntimeError, match="other weights"):
        made.features(X, name="Estimator")


def test_arrays_by_name_need_an_extractor():
    with pytest.raises(TypeError, match=r"pandas\.DataFrame\(X\)"):
        format_of({"a": X})


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.float32])
def test_narrow_numbers_of_a_first_fit_become_single_precision(dtype):
    X = np.arange(6).reshape(3, 2).astype(dtype)
    _, features = InputFormat.of_first(X, None, name="Some", with_head=False)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, X)
