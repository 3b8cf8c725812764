import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn

from laplace_al.networks import as_input, captured, check_features, frozen


def test_captured_keeps_the_last_call():
    network = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.ReLU())
    with captured(network, ["2", "0"], inputs=True) as seen:
        network(torch.ones(1, 1))
        assert [name for name, _ in seen] == ["2"]
        network[0](torch.zeros(1, 1))
    assert seen == [("0", torch.zeros(1, 1))]


@pytest.mark.parametrize("inputs", [True, False])
def test_captured_values_outlive_work_in_place(inputs):
    network = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    with captured(network, ["0"], inputs=inputs) as seen:
        network(torch.tensor([[-1.0, 1.0]]))
    assert torch.equal(seen[0][1], torch.tensor([[-1.0, 1.0]]))


def test_captured_values_that_are_no_tensors_are_recorded_as_they_are():
    network = nn.Sequential(nn.LSTM(4, 3))
    with captured(network, ["0"], inputs=False) as seen:
        output = network(torch.zeros(2, 4))
    assert seen[0][1] is output


def test_captured_removes_its_hooks_after_an_error():
    network = nn.Sequential(nn.ReLU())
    with pytest.raises(KeyError), captured(network, ["0"], inputs=False):
        raise KeyError
    assert not network[0]._forward_hooks


def test_frozen_restores_mixed_flags_after_an_error():
    network = nn.Sequential(nn.Dropout(), nn.Dropout())
    network[0].eval()
    with frozen(network):
        assert not any(module.training for module in network.modules())
    with pytest.raises(KeyError), frozen(network):
        raise KeyError
    assert [module.training for module in network.modules()] == [True, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_as_input_takes_the_dtype_of_the_module(dtype):
    assert as_input(nn.Linear(1, 1).to(dtype), np.ones((1, 1), dtype=np.uint8)).dtype == dtype


def test_as_input_without_weights_takes_the_default_dtype():
    assert as_input(nn.ReLU(), np.ones((1, 1))).dtype == torch.get_default_dtype()


def test_floats_before_an_embedding_bag_of_weights_stay_floats():
    assert as_input(nn.Embedding(3, 1), np.ones((1, 1))).dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, np.float32),
        (torch.float16, np.float32),
        (torch.float32, np.float32),
        (torch.float64, np.float64),
    ],
)
def test_features_of_a_tensor_are_float32_or_wider(dtype, expected):
    features = check_features(torch.full((2, 1), 0.75, dtype=dtype, requires_grad=True), 0, 2)
    assert features.dtype == expected
    np.testing.assert_array_equal(features, 0.75)


def test_features_of_a_frame_of_several_dtypes_are_float64():
    frame = pd.DataFrame({"length": [0.5, 2.0], "is_new": [True, False]})
    assert frame.to_numpy().dtype == object
    for features in (check_features(rows, 0, 2) for rows in (frame, frame.to_numpy())):
        assert features.dtype == np.float64
        np.testing.assert_array_equal(features, [[0.5, 1.0], [2.0, 0.0]])


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (np.array([["a", "b"]]), "dtype <U1 with values of type str"),
        (np.array([["1.5", "2"]]), "dtype <U3 with values of type str"),
        (np.array([["a", 1.0]], dtype=object), "dtype object with values of type float, str"),
        (np.array([[pd.NA, 1.0]]), "dtype object with values of type NAType, float"),
        (np.array([[1j, 2.0]]), "dtype complex128 with values of type complex"),
        (torch.ones(1, 2, dtype=torch.complex64), "dtype complex64 with values of type complex"),
        (np.array([[1j, 2.0]], dtype=object), "dtype object with values of type complex, float"),
        (csr_matrix([[1j, 0]]), "dtype complex128 with values of type complex"),
        (np.array([["2020-01-01"]], dtype="M8[D]"), r"dtype datetime64\[D\] .* type date"),
        (np.array([[1]], dtype="m8[D]"), r"dtype timedelta64\[D\] .* type timedelta"),
    ],
)
def test_features_that_are_no_real_numbers(wrong, got):
    with pytest.raises(ValueError, match=f"must return real numbers; got {got}. Encode texts"):
        check_features(wrong, 0, 1)


@pytest.mark.parametrize("dtype", "?bBhHiIlLqQefdg")
def test_features_of_every_real_dtype(dtype):
    features = check_features(np.ones((2, 1), dtype), 0, 2)
    assert features.dtype == np.promote_types(dtype, np.float32)
    np.testing.assert_array_equal(features, 1)
