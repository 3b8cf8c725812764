import os

import numpy as np
import pytest
import torch
from sklearn import config_context
from torch import nn

from laplace_al import LaplaceUpdateClassifier

pytestmark = pytest.mark.skipif(
    os.environ.get("SCIPY_ARRAY_API") != "1",
    reason="scikit-learn dispatches only if SCIPY_ARRAY_API=1 is set before SciPy is imported",
)
RNG = np.random.default_rng(0)
X, y = RNG.normal(size=(40, 3)), np.arange(40) % 3
METHODS = [
    "decision_function",
    "latent_mean_and_variance",
    "predict",
    "predict_log_proba",
    "predict_proba",
    "predict_uncertainty",
    "transform",
]
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture
def clf():
    return LaplaceUpdateClassifier().fit(X, y)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_tensors_give_tensors_like_them(clf, method, dtype, device):
    tensor = torch.tensor(X, dtype=dtype, device=device, requires_grad=True)
    with config_context(array_api_dispatch=True):
        answer = getattr(clf, method)(tensor)
    expected = getattr(clf, method)(tensor.detach().cpu().numpy())
    if not isinstance(answer, tuple):
        answer, expected = (answer,), (expected,)
    for part, array in zip(answer, expected, strict=True):
        assert part.dtype == (torch.int64 if method == "predict" else dtype)
        assert part.device == tensor.device
        np.testing.assert_allclose(part.numpy(force=True), array, rtol=1e-6)


def test_fit_and_score_take_tensors(clf):
    tensor, labels = torch.tensor(X), torch.tensor(y)
    with config_context(array_api_dispatch=True):
        fitted = LaplaceUpdateClassifier().fit(tensor, labels).partial_fit(tensor[:5], labels[:5])
        score = fitted.score(tensor, labels)
    expected = clf.partial_fit(X[:5], y[:5])
    np.testing.assert_array_equal(fitted.coef_, expected.coef_)
    assert float(score) == pytest.approx(expected.score(X, y))


def test_a_network_in_between():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    clf = LaplaceUpdateClassifier(network).fit(X, y)
    with config_context(array_api_dispatch=True):
        answer = clf.predict_proba(torch.tensor(X))
    np.testing.assert_array_equal(answer, clf.predict_proba(X))


def test_labels_that_are_no_numbers_stay_an_array():
    clf = LaplaceUpdateClassifier().fit(X, np.array(list("abc"))[y])
    with config_context(array_api_dispatch=True):
        assert isinstance(clf.predict(torch.tensor(X)), np.ndarray)


@pytest.mark.parametrize("method", METHODS)
def test_arrays_give_arrays(clf, method):
    with config_context(array_api_dispatch=True):
        answer = getattr(clf, method)(X)
    np.testing.assert_array_equal(answer, getattr(clf, method)(X))
    assert isinstance(clf.predict_proba(torch.tensor(X)), np.ndarray)  # without dispatch


@pytest.mark.parametrize("device", DEVICES)
def test_labels_may_be_tensors_beside_arrays(clf, device):
    labels, weights = torch.tensor(y, device=device), torch.full((40,), 2.0, device=device)
    with config_context(array_api_dispatch=True):
        fitted = LaplaceUpdateClassifier().fit(X, labels, sample_weight=weights)
        fitted.partial_fit(X[:5], labels[:5])
        decrement = fitted.newton_decrement(torch.tensor(X, device=device), labels)
    expected = LaplaceUpdateClassifier().fit(X, y, sample_weight=np.full(40, 2.0))
    expected.partial_fit(X[:5], y[:5])
    np.testing.assert_array_equal(fitted.coef_, expected.coef_)
    assert decrement == pytest.approx(expected.newton_decrement(X, y))


@pytest.mark.parametrize("device", DEVICES)
def test_draws_are_tensors(clf, device):
    tensor = torch.tensor(X, device=device)
    with config_context(array_api_dispatch=True):
        draws = clf.sample_proba(tensor, n_samples=4)
    assert draws.device == tensor.device
    np.testing.assert_array_equal(draws.numpy(force=True), clf.sample_proba(X, n_samples=4))
