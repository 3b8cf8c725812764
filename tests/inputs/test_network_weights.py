import copy
import pickle

import pytest
import torch
from torch import nn

from laplace_al.inputs.network_weights import Weights


def stepped(network, **options):
    optimizer = torch.optim.Adam(network.parameters(), **options)
    network.eval()(torch.ones(2, 4)).sum().backward()
    optimizer.step()


def normalised(network):
    with torch.no_grad():
        network.train()(torch.randn(8, 4))


def reloaded(network):
    network.load_state_dict({name: value + 1 for name, value in network.state_dict().items()})


def with_another_head(network):
    network[2] = nn.Linear(3, 2)


def with_another_activation(network):
    network[3] = nn.Tanh()


def with_other_data(network):
    network[0].weight.data = network[0].weight.data + 1


def add_to_one(weight):
    with torch.no_grad():
        weight[1, 2] += 1


CHANGES = {
    "foreach": lambda network: stepped(network, foreach=True),
    "fused": lambda network: stepped(network, fused=True),
    "loop": lambda network: stepped(network, foreach=False),
    "data": lambda network: network[0].weight.data.mul_(2),
    "other data": with_other_data,
    "one number": lambda network: network[0].bias.data[1].add_(1),
    "one number elsewhere": lambda network: add_to_one(network[0].weight),
    "batch norm": normalised,
    "load": reloaded,
    "another head": with_another_head,
    "another activation": with_another_activation,
    "another dtype": lambda network: network.double(),
}


class TestWeights:
    @pytest.fixture
    def network(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2), nn.ReLU())

    @pytest.mark.parametrize("kind", CHANGES)
    @pytest.mark.parametrize("copied", [False, True])
    def test_changes_are_noticed(self, network, kind, copied):
        weights = Weights(network)
        if copied:
            weights = pickle.loads(pickle.dumps(weights))
        assert weights.are_those_of(network)
        CHANGES[kind](network)
        assert not weights.are_those_of(network)
        assert not weights.are_those_of(network)

    def test_any_number_of_a_large_layer_is_in_the_digest(self):
        network = nn.Linear(40, 30)
        weights = pickle.loads(pickle.dumps(Weights(network)))
        with torch.no_grad():
            network.weight[0, 7] += 1e-3
        assert not weights.are_those_of(network)

    @pytest.mark.parametrize("copied", [False, True])
    def test_what_changes_nothing_is_no_change(self, network, copied):
        weights = Weights(network)
        if copied:
            weights = pickle.loads(pickle.dumps(weights))
        for _ in range(2):
            network.load_state_dict(network.state_dict())
            network.requires_grad_(False).train()
            network.eval()(torch.ones(2, 4))
            assert weights.are_those_of(network)
        assert weights.are_those_of(copy.deepcopy(network))

    def test_back_again(self, network):
        weights, before = Weights(network), copy.deepcopy(network.state_dict())
        reloaded(network)
        assert not weights.are_those_of(network)
        network.load_state_dict(before)
        assert weights.are_those_of(network)

    def test_a_module_that_counts_its_calls(self):
        class Counting(nn.Linear):
            def forward(self, X):
                self.n_calls += 1
                self.n_rows = self.n_rows + len(X)
                return super().forward(X)

        network = Counting(2, 1)
        network.register_buffer("n_calls", torch.tensor(0))
        network.register_buffer("n_rows", torch.tensor(0))
        weights = Weights(network)
        network(torch.ones(3, 2))
        assert weights.are_those_of(network)

    def test_weights_made_in_inference_mode(self):
        with torch.inference_mode():
            network = nn.Linear(2, 1)
        weights = Weights(network)
        assert weights.are_those_of(network)
        with torch.inference_mode():
            network.weight.add_(1)
        assert not weights.are_those_of(network)

    def test_a_module_without_weights(self):
        assert Weights(nn.ReLU()).are_those_of(nn.ReLU())

    def test_another_module_is_refused(self):
        weights = Weights(nn.Linear(2, 1))
        with pytest.raises(RuntimeError, match=r"network Linear has other weights .* Fit again"):
            weights.check(nn.Linear(2, 1))
        weights.check(None)
