import dataclasses
import re
import warnings
from collections import UserDict, namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from laplace_al.inputs.heads import difference, find_head, main_output

torch.manual_seed(0)
X = torch.randn(4, 6)
IMAGES = torch.randn(2, 3, 6, 6)
TOKENS = torch.arange(10).reshape(2, 5)


class Net(nn.Module):
    """Layers by name, and a function of them and of inputs."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, inputs):
        return self.function(self, inputs)


def body():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU())


def headed(function, **layers):
    """A network with a head on a body, and what a function makes of its logits."""
    layers = {"body": body(), "head": nn.Linear(8, 3)} | layers
    return Net(lambda net, X: function(net.head(net.body(X)), net, X), **layers)


def of(network, X=X):
    return find_head(network.eval(), lambda: network(X))


@dataclasses.dataclass
class Output:
    logits: torch.Tensor


Both = namedtuple("Both", "aux_logits logits")

HEADED = {
    "the logits": lambda z, net, X: z,
    "softmax": lambda z, net, X: z.softmax(dim=1),
    "log softmax": lambda z, net, X: z.log_softmax(dim=1),
    "sigmoid": lambda z, net, X: z.sigmoid(),
    "scale in place": lambda z, net, X: z.mul_(20),
    "sign": lambda z, net, X: -z,
    "flip": lambda z, net, X: z.flip(1),
    "temperature and softmax": lambda z, net, X: (z / 0.5).softmax(dim=1),
    "batch norm": lambda z, net, X: functional.batch_norm(z, torch.ones(3), torch.ones(3)),
    "one of them": lambda z, net, X: z[:, 1],
    "tuple": lambda z, net, X: (z, X),
    "dict": lambda z, net, X: {"loss": None, "logits": z, "hidden": X},
    "user dict": lambda z, net, X: UserDict(logits=z, hidden=X),
    "named tuple": lambda z, net, X: Both(net.other(X), z),
    "dataclass": lambda z, net, X: Output(z),
    "another called later": lambda z, net, X: (z, net.other(X))[0],
    "another called and returned": lambda z, net, X: (z, net.other(X)),
    "wider": lambda z, net, X: z.double(),
}


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.narrow, self.wide = nn.Linear(8, 2), nn.Linear(2, 8)

    def forward(self, maps):
        gates = torch.sigmoid(self.wide(torch.relu(self.narrow(maps.mean(dim=(2, 3))))))
        return maps * gates[:, :, None, None]


class Adapter(nn.Module):
    """A layer and a product of two beside it."""

    def __init__(self):
        super().__init__()
        self.base, self.a, self.b = nn.Linear(8, 3), nn.Linear(8, 2), nn.Linear(2, 3)

    def forward(self, X):
        return self.base(X) + self.b(self.a(X))


def convolution():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())


HEADLESS = {
    "identity": lambda: nn.Sequential(*body(), nn.Identity()),
    "activation": body,
    "no linear layer": lambda: nn.Sequential(nn.ReLU(), nn.Tanh()),
    "pooled": lambda: Net(lambda net, X: net.c(IMAGES).mean(dim=(2, 3)), c=convolution()),
    "flat": lambda: Net(lambda net, X: net.c(IMAGES).flatten(1), c=convolution()),
    "unit length": lambda: Net(lambda net, X: functional.normalize(net.b(X)), b=body()),
    "first token": lambda: Net(
        lambda net, X: net.e(TOKENS)[:, 0], e=nn.Sequential(nn.Embedding(10, 4), nn.LayerNorm(4))
    ),
    "mean of tokens": lambda: Net(
        lambda net, X: net.e(TOKENS).mean(dim=1),
        e=nn.Sequential(nn.Embedding(10, 4), nn.LayerNorm(4)),
    ),
    "bag": lambda: Net(lambda net, X: net.e(TOKENS), e=nn.EmbeddingBag(10, 4)),
    "gates": lambda: Net(
        lambda net, X: net.end(net.c(IMAGES)),
        c=nn.Sequential(convolution(), Gate()),
        end=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ),
}
PERHAPS = {
    "a head that is no layer": lambda: Net(
        lambda net, X: functional.linear(net.b(X), net.w),
        b=body(),
        w=nn.Parameter(torch.randn(3, 8)),
    ),
    "a head with weights of its own": lambda: Net(
        lambda net, X: net.head(net.b(X), net.b(X)), b=body(), head=nn.Bilinear(8, 8, 3)
    ),
    "a cosine": lambda: Net(
        lambda net, X: functional.linear(functional.normalize(net.b(X)), net.head.weight),
        b=body(),
        head=nn.Linear(8, 3, bias=False),
    ),
    "a gate beside it": lambda: headed(
        lambda z, net, X: z * torch.sigmoid(net.other(X)), other=nn.Linear(6, 3)
    ),
    "two heads": lambda: headed(
        lambda z, net, X: torch.cat([z, net.other(X)], dim=1), other=nn.Linear(6, 3)
    ),
    "a residual": lambda: Net(
        lambda net, X: net.b(X) + net.out(net.b(X)), b=body(), out=nn.Linear(8, 8)
    ),
}


class TestFindHead:
    @pytest.mark.parametrize("kind", HEADED)
    @pytest.mark.parametrize("n", [1, 4])
    def test_the_layer_whose_output_is_in_that_of_the_network(self, kind, n):
        network = headed(HEADED[kind], other=nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 3)))
        assert of(network, X[:n]) == "head"

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("kind", ["the logits", "softmax", "scale in place"])
    def test_other_precisions(self, kind, dtype):
        assert of(headed(HEADED[kind]).to(dtype), X.to(dtype)) == "head"

    def test_rows_that_are_all_alike(self):
        network = headed(HEADED["sign"], other=nn.Linear(6, 3))
        assert of(network, torch.zeros(2, 6)) == "head"
        gated = PERHAPS["a gate beside it"]()
        with pytest.warns(UserWarning, match="no nn.Linear that makes its output"):
            assert of(gated, torch.zeros(2, 6)) == ""

    @pytest.mark.parametrize("n", [1, 4])
    def test_an_adapter_beside_the_head(self, n):
        network = nn.Sequential(*body(), Adapter())
        assert of(network, X[:n]) == "2"
        nn.init.zeros_(network[2].b.weight)
        nn.init.zeros_(network[2].b.bias)
        assert of(network, X[:n]) == "2.base"

    def test_the_network_is_the_head(self):
        assert of(nn.Linear(6, 3)) == ""

    def test_a_head_of_zeros(self):
        network = headed(HEADED["the logits"])
        nn.init.zeros_(network.head.weight)
        assert of(network) == "head"

    def test_a_parametrised_head(self):
        assert of(headed(HEADED["sign"], head=weight_norm(nn.Linear(8, 3)))) == "head"

    def test_a_head_of_each_token(self):
        def network(pick):
            return Net(
                lambda net, X: pick(net.head(net.e(TOKENS))),
                e=nn.Sequential(nn.Embedding(10, 4), nn.LayerNorm(4)),
                head=nn.Linear(4, 3),
            )

        for pick in (lambda z: z, lambda z: z.mean(dim=1), lambda z: z[:, -1]):
            assert of(network(pick)) == "head"

    @pytest.mark.parametrize("kind", HEADLESS)
    @pytest.mark.parametrize("n", [1, 4])
    def test_a_network_without_a_head(self, kind, n):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert of(HEADLESS[kind](), X[:n]) == ""

    @pytest.mark.parametrize("kind", PERHAPS)
    @pytest.mark.parametrize("n", [1, 4])
    def test_a_head_that_may_be_of_another_kind(self, kind, n):
        with pytest.warns(
            UserWarning, match=r"taken for the features.* layer=\.\.\.\), one of"
        ) as said:
            assert of(PERHAPS[kind](), X[:n]) == ""
        assert said[0].filename == __file__

    @pytest.mark.parametrize("pooled_first", [True, False])
    def test_a_convolution_as_head(self, pooled_first):
        end = [nn.Conv2d(8, 3, 1), nn.AdaptiveAvgPool2d(1)]
        network = nn.Sequential(
            convolution(), Gate(), *(reversed(end) if pooled_first else end), nn.Flatten()
        )
        with pytest.raises(ValueError, match=r"the convolution '[23]' as its head.*one of \['0'"):
            of(network, IMAGES)

    @pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
    def test_layers_that_cannot_be_watched(self):
        for network in (torch.jit.script(body()), torch.jit.trace(body(), X)):
            with pytest.raises(ValueError, match="no layer that can be watched; it is compiled or"):
                of(network)

    def test_the_network_stays_as_it_is(self):
        network = headed(HEADED["sign"]).train()
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        random = torch.get_rng_state()
        find_head(network, lambda: network(X))
        assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
        assert all(module.training and not module._forward_hooks for module in network.modules())
        assert torch.equal(torch.get_rng_state(), random)


class TestMainOutput:
    def test_the_only_matrix_of_a_dict(self):
        matrix = torch.ones(2, 3)
        output = {"tokens": torch.ones(2, 5, 3), "pooled": matrix, "ids": torch.ones(2, 5).long()}
        assert main_output(output) is matrix
        assert main_output(([matrix], None)) is matrix

    @pytest.mark.parametrize(
        ("output", "got"),
        [
            ({"a": torch.ones(2, 3), "b": torch.ones(2, 1)}, r"dict with a \(2, 3\), b \(2, 1\)"),
            ((), "got tuple"),
            ((None, torch.ones(2)), "got NoneType"),
            (3.0, "got float"),
        ],
    )
    def test_no_tensor_that_stands_out(self, output, got):
        with pytest.raises(ValueError, match=rf"{got}.*Wrap the module.*layer=\.\.\."):
            main_output(output)


WEIGHT, BIAS = torch.randn(3, 6), torch.randn(3)
LOGITS = X @ WEIGHT.T + BIAS


def single(function):
    """Of a layer with one output."""
    return difference(X, WEIGHT[:1], BIAS[:1], function(LOGITS[:, :1]))


class TestDifference:
    @pytest.mark.parametrize(
        "function",
        [
            lambda z: z,
            lambda z: z + X[:, :1],
            lambda z: z.softmax(dim=1),
            lambda z: z.log_softmax(dim=1),
        ],
    )
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_none(self, function, dtype):
        phi, weight, bias = X.to(dtype), WEIGHT.to(dtype), BIAS.to(dtype)
        assert difference(phi, weight, bias, function(phi @ weight.T + bias)) is None

    def test_none_of_one_output(self):
        for function in (lambda z: z, torch.sigmoid, lambda z: z[:, 0]):
            assert single(function) is None

    def test_none_of_one_input_whose_batch_is_squeezed(self):
        assert difference(X[:1], WEIGHT, BIAS, LOGITS[0]) is None
        assert difference(X[:1], WEIGHT[:1], BIAS[:1], LOGITS[0, 0].sigmoid()) is None

    def test_none_of_logits_that_could_be_probabilities(self):
        logits = torch.tensor([[0.75, 0.25]])
        assert difference(logits, torch.eye(2), None, logits) is None
        assert difference(logits, torch.eye(2), None, logits.softmax(dim=1)) is None

    def test_none_of_logits_that_softmax_rounds_to_zero(self):
        assert difference(X, 100 * WEIGHT, None, (100 * X @ WEIGHT.T).softmax(dim=1)) is None

    @pytest.mark.parametrize(
        ("function", "found"),
        [
            (lambda z: -z, "-1 times"),
            (lambda z: 20 * z + 1, "20 times"),
            (lambda z: 1.01 * z, "1.01 times"),
            (lambda z: (z / 4).softmax(dim=1), "0.25 times"),
            (lambda z: (100 * z).softmax(dim=1), "off by up to .* from"),
            (lambda z: z.flip(1), r"in another order, \[2, 1, 0\], than"),
            (lambda z: z[:, [1, 2, 0]].softmax(dim=1), r"in another order, \[1, 2, 0\], than"),
            (torch.sigmoid, "a sigmoid for each class on its own of"),
            (torch.relu, "off by up to .* from"),
            (lambda z: functional.normalize(z), "off by up to .* from"),
            (lambda z: z[:, :2], r"of shape \(4, 2\) in place of \(4, 3\) from"),
        ],
    )
    def test_it_is_named(self, function, found):
        told = difference(X, WEIGHT, BIAS, function(LOGITS))
        assert told is not None
        assert re.fullmatch(found, told)

    def test_it_is_named_for_one_output(self):
        assert single(lambda z: -z) == "-1 times"
        assert single(lambda z: torch.sigmoid(-z)).startswith("off by")
        assert single(lambda z: torch.sigmoid(3 * z)).startswith("off by")
