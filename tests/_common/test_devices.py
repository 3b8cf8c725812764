"""The same answers wherever the posterior, the pool and the network live."""

import numpy as np
import pytest
import simulated_device
import torch
from simulated_device import SimulatedDevice
from torch import nn

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al._common.devices import (
    as_array,
    available_device,
    available_memory,
    on_device,
    on_host,
)
from laplace_al.strategies import (
    BADGE,
    BAIT,
    BALD,
    EPIG,
    BatchBALD,
    ExpectedErrorReduction,
    LookAhead,
    MarginSampling,
    Preselection,
    SequentialBatch,
    VarianceSampling,
)

X = np.random.default_rng(0).normal(size=(200, 6))
y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
SETTINGS = [
    {"covariance": "shared"},
    {"covariance": "per_class"},
    {"covariance": "full"},
    {"covariance": "shared", "update": "newton", "curvature": "gaussian", "calibration": None},
    {"covariance": "per_class", "predictive": "monte_carlo", "n_samples": 20},
    {"memory_size": 20},
    {"forgetting": 0.9},
    {"prior_precision": "loo"},
]
STRATEGIES = [
    MarginSampling(random_state=0),
    VarianceSampling(random_state=0),
    BALD(n_samples=20, random_state=0),
    BatchBALD(n_samples=20, random_state=0),
    EPIG(X[:9], random_state=0),
    BADGE(random_state=0),
    BAIT(random_state=0),
    ExpectedErrorReduction(random_state=0),
    LookAhead(X[:50], y[:50], y, n_batches=9, random_state=0),
    SequentialBatch(MarginSampling(), random_state=0),
    Preselection(BADGE(), MarginSampling(), n_candidates=50, random_state=0),
]


@pytest.fixture(
    params=[
        pytest.param(
            simulated_device.NAME,
            marks=pytest.mark.skipif(
                not simulated_device.IS_SUPPORTED, reason="this torch has no devices in Python"
            ),
        ),
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(
                not torch.cuda.is_available(), reason="torch.cuda.is_available() is False"
            ),
        ),
    ]
)
def device(request):
    """A device that is not the CPU, by name."""
    if request.param == "cuda":
        yield request.param
        return
    with SimulatedDevice():
        yield request.param


@pytest.fixture
def simulated():
    if not simulated_device.IS_SUPPORTED:
        pytest.skip("this torch has no devices in Python")
    with SimulatedDevice() as device:
        yield device


def tolerance(dtype, params):
    if params.get("prior_precision") == "loo":  # where a minimum is, half of the digits tell
        return {"float64": 1e-6, "float32": 1e-2}[dtype]
    return {"float64": 1e-9, "float32": 1e-3}[dtype]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_fits_and_updates_are_those_of_the_cpu(device, params, dtype):
    here, there = (
        LaplaceUpdateClassifier(device=name, dtype=dtype, **params) for name in ("cpu", device)
    )
    for clf in (here, there):
        clf.fit(X[:60], y[:60]).partial_fit(X[60:90], y[60:90]).partial_fit(X[90:91], y[90:91])
    assert there.posterior_.stored_root.device.type == device
    close = {"rtol": tolerance(dtype, params), "atol": tolerance(dtype, params)}
    np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), **close)
    np.testing.assert_allclose(
        there.sample_proba(X, 5, random_state=0), here.sample_proba(X, 5, random_state=0), **close
    )
    there.add_classes([7]).partial_fit(X[:1], [7])
    assert there.predict_proba(X).shape == (200, 4)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
def test_a_pool_follows_labels_where_it_is(device, covariance):
    here, there = (
        LaplaceUpdateClassifier(covariance=covariance, device=name).fit(X[:60], y[:60])
        for name in ("cpu", device)
    )
    pools = [clf.pool_state(X) for clf in (here, there)]
    assert pools[1].features.device.type == device
    for position in range(60, 70):
        for pool in pools:
            pool.observe(position, y[position])
    np.testing.assert_allclose(pools[1].predict_proba(), pools[0].predict_proba(), rtol=1e-9)
    np.testing.assert_allclose(
        pools[1].variance.numpy(force=True), pools[0].variance.numpy(force=True), rtol=1e-9
    )
    assert pools[1].logits.device.type == device


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank"])
def test_queries_are_those_of_the_cpu(device, strategy, covariance):
    here, there = (
        LaplaceUpdateClassifier(covariance=covariance, device=name).fit(X[:60], y[:60])
        for name in ("cpu", device)
    )
    np.testing.assert_array_equal(strategy.query(there, X, 5), strategy.query(here, X, 5))


def test_a_loop_with_a_network(device):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    answers = []
    for name in ("cpu", device):
        learner = ActiveLearner(
            LaplaceUpdateClassifier(network.to(name), device=name),
            MarginSampling(),
            X,
            X_initial=X[:30],
            y_initial=y[:30],
            random_state=0,
        )
        for _ in range(10):
            position = learner.query()
            learner.teach(position, y[position])
        answers.append(learner.predict_proba(X))
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-6)


@pytest.mark.parametrize("update", ["newton", "map"])
@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
def test_a_label_lets_the_host_wait_once(simulated, covariance, update):
    clf = LaplaceUpdateClassifier(covariance=covariance, update=update, device="simulated")
    pool = clf.fit(X[:60], y[:60]).pool_state(X)
    for label in (y[60], None):
        simulated.waits.clear()
        simulated.arrivals.clear()
        pool.observe(60, label)
        (wait,) = simulated.waits
        assert wait.size < 50
        assert not simulated.arrivals  # nor for the device to have finished before


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank"])
def test_a_block_of_labels_lets_the_host_wait_twice(simulated, covariance):
    clf = LaplaceUpdateClassifier(covariance=covariance, device="simulated").fit(X[:60], y[:60])
    simulated.waits.clear()
    clf.partial_fit(X[60:90], y[60:90])
    checked, _ = simulated.waits
    assert checked.size == 1  # whether the features are too large


@pytest.mark.parametrize(
    "strategy",
    [
        SequentialBatch(MarginSampling(), random_state=0),
        Preselection(MarginSampling(), MarginSampling(), n_candidates=50, random_state=0),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_a_wrapped_strategy_leaves_the_features_on_the_device(simulated, strategy):
    wide = np.random.default_rng(0).normal(size=(200, 50))
    clf = LaplaceUpdateClassifier(device="simulated").fit(wide[:60], y[:60])
    simulated.waits.clear()
    strategy.query(clf, wide, 5)
    assert max(wait.size for wait in simulated.waits) == 200 * 3  # the probabilities


def test_only_labelled_rows_of_bait_leave_the_device(simulated):
    wide = np.random.default_rng(0).normal(size=(200, 50))
    learner = ActiveLearner(
        LaplaceUpdateClassifier(device="simulated"),
        BAIT(),
        wide,
        X_initial=wide[:60],
        y_initial=y[:60],
        random_state=0,
    )
    learner.teach([70, 80], [0, 1])
    simulated.waits.clear()
    found = learner.query(5)
    assert max(wait.size for wait in simulated.waits) == 62 * 50
    on_cpu = ActiveLearner(
        LaplaceUpdateClassifier(),
        BAIT(),
        wide,
        X_initial=wide[:60],
        y_initial=y[:60],
        random_state=0,
    )
    np.testing.assert_array_equal(found, on_cpu.teach([70, 80], [0, 1]).query(5))


def test_the_simulated_device_is_as_strict_as_a_gpu(simulated):
    here = torch.zeros(3, 2, device="simulated")
    assert here.device.type == "simulated"
    with pytest.raises(RuntimeError, match="same device"):
        here + torch.ones(3, 2)
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(here)
    here[1].add_(1.0)  # a view
    assert not simulated.waits
    np.testing.assert_array_equal(here.cpu().numpy(), [[0, 0], [1, 1], [0, 0]])
    assert bool((here > 2).any()) is False
    assert len(here[here > 0]) == 2
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.cholesky(here[:2])
    assert [wait.size for wait in simulated.waits] == [6, 1, 2]


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"device=.cuda:99. is not available.*Use device='cpu'"):
        LaplaceUpdateClassifier(device="cuda:99").fit(X, y)


def test_a_reason_is_told_in_a_line(monkeypatch):
    def empty(*args, **kwargs):
        raise RuntimeError("CUDA error: invalid device ordinal\nFor debugging consider this.\n")

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(ValueError, match=r"available: CUDA error: invalid device ordinal\. Use de"):
        available_device("cuda:99")


def test_a_device_that_is_not_there():
    assert available_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match=r"device='cuda:99' is not available.*Use device='cpu'"):
        available_device("cuda:99")


def test_a_tensor_as_an_array():
    values = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    np.testing.assert_array_equal(as_array(values), np.ones(2, np.float32))
    array = np.ones(2)
    assert as_array(array) is array
    assert np.shares_memory(as_array(torch.from_numpy(array)), array)


def test_available_memory_is_that_of_the_machine():
    assert 2**20 < available_memory(torch.device("cpu")) < 2**60


def test_tensors_move_to_the_host_at_once():
    tensors = torch.ones(2, 3), torch.zeros(0), torch.tensor(5.0)
    for found, tensor in zip(on_host(*tensors), tensors, strict=True):
        assert found is tensor
    if not simulated_device.IS_SUPPORTED:
        pytest.skip("this torch has no devices in Python")
    here = torch.arange(4.0)
    with simulated_device.SimulatedDevice() as device:
        first, *moved = on_host(here, *(tensor.to("simulated") for tensor in tensors))
    assert first is here
    assert [wait.size for wait in device.waits] == [7]
    for found, tensor in zip(moved, tensors, strict=True):
        torch.testing.assert_close(found, tensor, rtol=0, atol=0)


def test_numbers_are_on_their_way_to_the_device():
    tensor = torch.ones(2)
    assert on_device(tensor, like=tensor) is tensor
    if not simulated_device.IS_SUPPORTED:
        pytest.skip("this torch has no devices in Python")
    with simulated_device.SimulatedDevice() as device:
        like = torch.zeros(1, dtype=torch.float32, device="simulated")
        sent = on_device(np.arange(3.0), like)
        assert not device.arrivals
        assert (sent.device, sent.dtype) == (like.device, torch.float32)
        np.testing.assert_array_equal(sent.cpu(), [0, 1, 2])
        tensor.to("simulated")
        assert [wait.size for wait in device.arrivals] == [2]
