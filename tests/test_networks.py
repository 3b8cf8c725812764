import numpy as np
import pytest
import torch
from torch import nn

from laplace_al.networks import as_input, captured, check_features, frozen


def test_captured_lists_the_calls_in_their_order():
    network = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.ReLU())
    with captured(network, ["2", "0"], inputs=True) as seen:
        network(torch.zeros(1, 1))
    assert [name for name, _ in seen] == ["0", "2"]


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
