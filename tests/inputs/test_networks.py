import signal
import time

import numpy as np
import pandas as pd
import pytest
import torch
from faults import FailingLine
from scipy.sparse import csr_matrix
from torch import nn

from laplace_al.inputs.networks import Cast, as_input, check_features, copied, find_cast, held_still


def watched(network, names, X):
    """Names and values of the calls of some layers."""
    seen = []

    def watch(name):
        return lambda given, made: seen.append((name, copied(given), copied(made)))

    output = held_still(network, lambda: network(X), {name: watch(name) for name in names})
    return output, seen


def assert_untouched(network, flags):
    assert [module.training for module in network.modules()] == flags
    for module in network.modules():
        for name, value in vars(module).items():
            assert not (name.endswith(("_hooks", "_hooks_with_kwargs")) and value)
    assert torch.is_grad_enabled()


class Keyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, X):
        return self.layer(input=X)


class TestHeldStill:
    def test_what_enters_and_leaves_layers_in_the_order_of_calls(self):
        network = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Flatten())
        _, seen = watched(network, ["2", "0"], torch.tensor([[-1.0]]))
        zero = torch.zeros(1, 1)
        assert seen == [("0", torch.tensor([[-1.0]]), zero), ("2", zero, zero)]

    def test_a_first_input_that_is_passed_by_name(self):
        assert watched(Keyword(), ["layer"], torch.ones(1, 1))[1][0][1] == torch.ones(1, 1)

    def test_values_outlive_work_in_place(self):
        network = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
        X = torch.tensor([[-1.0, 1.0]])
        _, seen = watched(network, ["0"], X.clone())
        assert torch.equal(seen[0][1], X)
        assert torch.equal(seen[0][2], X)

    def test_values_that_are_no_tensors_are_as_they_are(self):
        output, seen = watched(nn.Sequential(nn.LSTM(4, 3)), ["0"], torch.zeros(2, 4))
        assert seen[0][2] is output

    def test_another_output_goes_on(self):
        network = nn.Sequential(nn.Identity(), nn.Flatten())
        watch = {"0": lambda given, made: made + 1}
        assert held_still(network, lambda: network(torch.ones(1, 1)), watch) == 2

    def test_mixed_flags_are_restored_after_an_error_too(self):
        network = nn.Sequential(nn.Dropout(), nn.Dropout())
        network[0].eval()
        flags = [module.training for module in network.modules()]

        def look():
            assert not any(module.training for module in network.modules())
            assert not torch.is_grad_enabled()
            assert network[0]._forward_hooks
            raise KeyError

        with pytest.raises(KeyError):
            held_still(network, look, {"0": print})
        assert_untouched(network, flags)

    def test_the_hooks_of_others_stay(self):
        network = nn.Sequential(nn.ReLU())
        called = []
        network[0].register_forward_hook(lambda *_: called.append(0))
        for _ in range(2):
            watched(network, ["0"], torch.ones(1, 1))
        assert called == [0, 0]

    def test_gradients_are_off_without_a_network(self):
        with pytest.raises(KeyError):
            held_still(None, lambda: {}[torch.is_grad_enabled()])
        assert torch.is_grad_enabled()
        with torch.no_grad():
            assert not held_still(None, torch.is_grad_enabled)
            assert not torch.is_grad_enabled()

    @pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
    def test_nothing_is_left_by_an_interrupt_at_any_line(self, error):
        network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Sequential(nn.Tanh())).train()
        network[1].eval()
        flags = [module.training for module in network.modules()]

        def call():
            watched(network, ["0", "2"], torch.ones(1, 2))

        with FailingLine(None) as counted:
            call()
        assert counted.n_seen > 40
        for place in range(counted.n_seen):
            with pytest.raises(error), FailingLine(error, place):
                call()
            assert_untouched(network, flags)

    def test_nothing_is_left_by_signals_at_any_instant(self):
        """Real ones, which come between any two instructions."""
        network = nn.Sequential(*[nn.Sequential(nn.Dropout(), nn.Tanh()) for _ in range(20)])
        flags = [module.training for module in network.modules()]

        def interrupt(*_):
            raise KeyboardInterrupt

        def call():
            held_still(network, lambda: network(torch.ones(1, 2)), {"3": lambda *_: None})

        call()
        start = time.perf_counter()
        call()
        longest = time.perf_counter() - start
        before, n_interrupts = signal.signal(signal.SIGALRM, interrupt), 0
        try:
            for delay in np.linspace(1e-5, longest, 150):
                try:
                    signal.setitimer(signal.ITIMER_REAL, delay)
                    call()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    n_interrupts += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                assert_untouched(network, flags)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert n_interrupts


FLOAT, HALF = torch.float32, torch.bfloat16


def cast_of(network, batch):
    return find_cast(network, batch, lambda cast: network(as_input(network, batch, cast)))


class OwnParameter(nn.Module):
    """Has a parameter before its embedding; adds the two."""

    def __init__(self):
        super().__init__()
        self.token, self.embedding = nn.Parameter(torch.zeros(2)), nn.Embedding(5, 2)

    def forward(self, tokens):
        return self.token + self.embedding(tokens)


class Table(nn.Module):
    """An embedding that is none of torch's modules."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(5, 2))

    def forward(self, tokens):
        return self.table[tokens]


class TestFindCast:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_numbers_become_the_dtype_of_the_module(self, dtype):
        network = nn.Linear(1, 1).to(dtype)
        for kind in (np.uint8, np.float64, bool):
            assert cast_of(network, np.ones((1, 1), kind)) == Cast(False, dtype)

    def test_without_weights_it_is_the_default_dtype(self):
        assert cast_of(nn.ReLU(), np.ones((1, 1))) == Cast(False, torch.get_default_dtype())

    def test_of_buffers_alone(self):
        network = nn.BatchNorm1d(1, affine=False).double()
        assert cast_of(network, np.ones((1, 1))) == Cast(False, torch.float64)

    @pytest.mark.parametrize(
        "network",
        [
            nn.Sequential(nn.Embedding(5, 2), nn.LayerNorm(2)),
            OwnParameter(),
            Table(),
            nn.EmbeddingBag(5, 2),
        ],
    )
    @pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32])
    def test_tokens_stay_integers_whatever_was_registered_first(self, network, kind):
        cast = cast_of(network, np.ones((2, 3), kind))
        assert cast == Cast(True, torch.float32)
        assert as_input(network, np.ones((2, 3), kind), cast).dtype == torch.int64

    def test_an_embedding_of_places_leaves_pixels_floating(self):
        network = OwnParameter()
        network.forward = lambda pixels: nn.functional.linear(pixels, network.embedding.weight)
        assert cast_of(network, np.ones((1, 2), np.uint8)) == Cast(False, torch.float32)

    @pytest.mark.parametrize("dtypes", [(HALF, FLOAT), (FLOAT, HALF)])
    def test_mixed_precision(self, dtypes):
        first, second = dtypes
        network = nn.Sequential(nn.Linear(1, 1).to(first), nn.Linear(1, 1).to(second))
        network[1].register_forward_pre_hook(lambda _, args: args[0].to(second))
        backwards = nn.ModuleDict({"last": network[1], "first": network[0]})
        backwards.forward = network.forward
        assert cast_of(backwards, np.ones((1, 1))) == Cast(False, first)

    def test_the_error_of_a_module_that_runs_with_none(self):
        with pytest.raises(IndexError, match="index out of range"):
            cast_of(nn.Embedding(5, 2), np.full((1, 1), 7))

    def test_an_interrupt_is_no_answer(self):
        def run(cast):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            find_cast(OwnParameter(), np.ones((1, 1), int), run)

    def test_arrays_by_name_keep_their_kinds(self):
        batch = {
            "ids": np.ones((1, 2), np.int32),
            "mask": np.ones((1, 2), bool),
            "pixels": np.ones((1, 2)),
        }
        inputs = as_input(nn.Linear(2, 1).bfloat16(), batch, Cast(True, torch.bfloat16))
        assert [t.dtype for t in inputs.values()] == [torch.int64, torch.bool, torch.bfloat16]


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
    expected = np.float64 if dtype == "g" else np.promote_types(dtype, np.float32)
    assert features.dtype == expected
    np.testing.assert_array_equal(features, 1)
