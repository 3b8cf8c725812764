import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression

from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.mode import InMemory, Labelled, find_mode, line_search, solve_hessian
from laplace_al.model.priors import IsotropicPrior


def find(
    X, y, prior_precision, *, weights=None, start=None, max_iter=100, tol=1e-8, dtype=torch.float64
):
    features = torch.from_numpy(X.astype(float)).to(dtype)
    likelihood = likelihood_of(len(np.unique(y)))
    targets = likelihood.encode(torch.from_numpy(y).to(dtype))
    if weights is None:
        weights = np.ones(len(y))
    if start is None:
        start = torch.zeros(X.shape[1], likelihood.n_outputs, dtype=dtype)
    weights = torch.from_numpy(weights).to(dtype)
    prior = IsotropicPrior(torch.zeros_like(start), prior_precision)
    data = Labelled(features, targets, weights, likelihood)
    return find_mode(data, prior, start, max_iter=max_iter, tol=tol)


def distance_of(X, y, mean, prior_precision):
    """Return the Newton decrement by the definition, with the whole Hessian."""
    n_classes = mean.shape[1]
    p = softmax(X @ mean, axis=1)
    gradient = X.T @ (p - np.eye(n_classes)[y]) + prior_precision * mean
    curvature = np.einsum("nk,kl->nkl", p, np.eye(n_classes)) - np.einsum("nk,nl->nkl", p, p)
    hessian = np.einsum("ni,nj,nkl->ikjl", X, X, curvature).reshape(mean.size, mean.size)
    hessian += prior_precision * np.eye(mean.size)
    return np.sqrt(gradient.ravel() @ np.linalg.solve(hessian, gradient.ravel()))


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("prior_precision", [1e-3, 1.0, 100.0])
def test_the_mode_is_that_of_logistic_regression(n_classes, prior_precision):
    X, y = load_digits(n_class=n_classes, return_X_y=True)
    X, y = X[:150] / 16, y[:150]
    mode = find(X, y, prior_precision)
    twin = LogisticRegression(C=1 / prior_precision, fit_intercept=False, tol=1e-10, max_iter=5000)
    probabilities = (
        likelihood_of(n_classes).log_probabilities(torch.from_numpy(X) @ mode.mean).exp()
    )
    assert mode.converged
    np.testing.assert_allclose(probabilities, twin.fit(X, y).predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("prior_precision", [1e-8, 1e-3, 1.0, 1e15])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e6, 1e20])
def test_first_steps_in_single_precision_lead_to_the_same_mode(
    n_classes, prior_precision, scale, monkeypatch
):
    """Where it has too few digits or overflows, double precision goes on."""
    X, y = load_digits(n_class=n_classes, return_X_y=True)
    X, y = X[:150] / 16, y[:150]
    X[:, 0] = 1.0
    options = {"weights": np.random.default_rng(0).uniform(0, 2, size=150), "max_iter": 200}
    expected = find(scale * X, y, scale**2 * prior_precision, **options)
    monkeypatch.setattr("laplace_al.model.mode._LARGE", 0)
    mode = find(scale * X, y, scale**2 * prior_precision, **options)
    assert mode.converged
    assert mode.mean.dtype == torch.float64
    likelihood = likelihood_of(n_classes)
    ours, theirs = (
        likelihood.probabilities(torch.from_numpy(scale * X) @ found.mean)
        for found in (mode, expected)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("is_large", [False, True])
def test_it_is_as_near_as_the_tolerance_says(tol, is_large, monkeypatch):
    monkeypatch.setattr("laplace_al.model.mode._LARGE", 0 if is_large else np.inf)
    monkeypatch.setattr("laplace_al.model.preconditioner._SMALL", 0 if is_large else np.inf)
    X, y = load_digits(return_X_y=True)
    X, y = X[:300] / 16, y[:300]
    mode = find(X, y, 0.1, tol=tol)
    assert mode.converged
    assert mode.distance <= tol
    assert distance_of(X, y, mode.mean.numpy(), 0.1) < tol


@pytest.mark.parametrize("is_large", [False, True])
def test_large_offsets_leave_the_distance_honest(is_large, monkeypatch):
    """Single precision has lost half of the digits in which features differ."""
    monkeypatch.setattr("laplace_al.model.mode._LARGE", 0 if is_large else np.inf)
    monkeypatch.setattr("laplace_al.model.preconditioner._SMALL", 0 if is_large else np.inf)
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=60)
    X = np.c_[100 + rng.normal(size=(60, 2)) + 0.5 * y[:, None], rng.normal(size=(60, 2))]
    mode = find(X, y, 0.1, tol=1e-6)
    assert mode.converged
    assert distance_of(X, y, mode.mean.numpy(), 0.1) < 1e-6


@pytest.mark.parametrize("n_classes", [2, 3])
def test_of_few_instances_the_mode_lies_in_their_span(n_classes):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12, 40))
    X[3] = X[2]  # of lower rank than there are instances
    y = np.arange(12) % n_classes
    n_outputs = likelihood_of(n_classes).n_outputs
    start, prior_mean = (torch.from_numpy(rng.normal(size=(40, n_outputs))) for _ in range(2))
    likelihood = likelihood_of(n_classes)
    data = Labelled(
        torch.from_numpy(X),
        likelihood.encode(torch.from_numpy(y.astype(float))),
        torch.ones(12).double(),
        likelihood,
    )
    objective = InMemory(data, IsotropicPrior(prior_mean, 0.5))
    assert objective.in_span().basis.shape == (40, 12)
    mode = find_mode(data, objective.prior, start, max_iter=100, tol=1e-9)
    assert mode.converged
    assert float(objective.at(mode.mean)[1].abs().max()) < 1e-8


def test_the_gradient_vanishes():
    X, y = load_iris(return_X_y=True)
    mode = find(X, y, 0.01)
    p = torch.softmax(torch.from_numpy(X) @ mode.mean, dim=1)
    gradient = torch.from_numpy(X).T @ (p - torch.eye(3)[y]) + 0.01 * mode.mean
    assert float(gradient.abs().max()) < 1e-7


def test_weights_are_repetitions():
    X, y = load_iris(return_X_y=True)
    weights = np.random.default_rng(0).integers(0, 4, size=len(y))
    weighted = find(X, y, 1.0, weights=weights)
    repeated = find(X.repeat(weights, axis=0), y.repeat(weights), 1.0)
    torch.testing.assert_close(weighted.mean, repeated.mean, rtol=0, atol=1e-9)


def test_any_start_leads_to_the_same_mode():
    X, y = load_iris(return_X_y=True)
    start = torch.full((4, 3), 5.0).double() * torch.eye(4, 3)
    cold, warm = find(X, y, 1.0), find(X, y, 1.0, start=start)
    torch.testing.assert_close(cold.mean, warm.mean, rtol=0, atol=1e-7)
    assert find(X, y, 1.0, start=cold.mean).n_iter == 0


def test_separable_data_under_a_very_weak_prior():
    X = np.array([[-1.0, 1.0], [1.0, 1.0]])
    mode = find(X, np.array([0, 1]), 1e-8)

    def objective(w):
        return 2 * np.logaddexp(0, -w) + 1e-8 / 2 * w**2

    best = minimize(lambda w: objective(w[0]), [10.0], method="Nelder-Mead", tol=1e-12)
    assert mode.converged
    np.testing.assert_allclose(mode.mean[:, 0], [best.x[0], 0.0], rtol=1e-4, atol=1e-9)


def test_too_few_steps_are_told():
    X, y = load_digits(return_X_y=True)
    mode = find(X, y, 1e-3, max_iter=2)
    assert not mode.converged
    assert mode.n_iter == 2
    assert mode.distance > 1e-3


@pytest.mark.parametrize("prior_precision", [1e-3, 1.0])
def test_single_precision_stops_where_its_digits_do(prior_precision):
    X, y = load_digits(return_X_y=True)
    X, y = X[:300] / 16, y[:300]
    expected = find(X, y, prior_precision)
    mode = find(X, y, prior_precision, dtype=torch.float32)
    assert mode.converged
    assert mode.n_iter <= expected.n_iter + 6
    p = torch.softmax(torch.from_numpy(X).float() @ mode.mean, dim=1)
    expected_p = torch.softmax(torch.from_numpy(X) @ expected.mean, dim=1)
    np.testing.assert_allclose(p, expected_p, atol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_second_derivative_is_solved(n_classes):
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(40, 5)))
    likelihood = likelihood_of(n_classes)
    targets = likelihood.encode(torch.from_numpy(rng.integers(n_classes, size=40).astype(float)))
    weights = torch.from_numpy(rng.uniform(0, 2, size=40))
    mean, right = (torch.from_numpy(rng.normal(size=(5, likelihood.n_outputs))) for _ in range(2))
    prior = IsotropicPrior(torch.zeros_like(mean), 0.7)
    objective = InMemory(Labelled(features, targets, weights, likelihood), prior)

    def value(flat):
        logits = features @ flat.reshape(mean.shape)
        loss = likelihood.negative_log_likelihood(logits, targets)
        return weights @ loss + prior.value(flat.reshape(mean.shape))

    hessian = torch.autograd.functional.hessian(value, mean.flatten())
    expected = torch.linalg.solve(hessian, right.flatten()).reshape(mean.shape)
    solution = solve_hessian(objective, mean, right)
    assert float((solution - expected).norm() / expected.norm()) < 1e-4
    assert not solve_hessian(objective, mean, 0 * right).any()


@pytest.mark.parametrize("n_seen", [3, 5, 10])
@pytest.mark.parametrize("prior_precision", [1e-2, 1e-4, 1e-6])
def test_the_distance_is_that_of_the_second_derivative(n_seen, prior_precision):
    """Where no label is of a class its curvature is far from that of the others."""
    rng = np.random.default_rng(0)
    phi = np.c_[rng.normal(size=(40, 8)), np.ones(40)]
    likelihood = likelihood_of(10)
    labels = torch.from_numpy(rng.integers(n_seen, size=40).astype(float))
    data = Labelled(
        torch.from_numpy(phi), likelihood.encode(labels), torch.ones(40).double(), likelihood
    )
    zero = torch.zeros(9, 10).double()
    mode = find_mode(data, IsotropicPrior(zero, prior_precision), zero, max_iter=100, tol=1e-8)
    assert mode.converged
    distance = distance_of(phi, labels.long().numpy(), mode.mean.numpy(), prior_precision)
    assert distance < 2e-8


def test_a_step_is_halved_until_the_value_falls_enough():
    def at(x):
        return x**2, "there"

    start, step = np.array(1.0), np.array(-6.0)  # to -5, -2 and -0.5: the slope is -12
    assert line_search(at, start, step, -12.0, 1.0, 3) == (-0.5, (0.25, "there"))
    assert line_search(at, start, step, -12.0, 1.0, 2) is None
    assert line_search(at, start, -step, 12.0, np.nan, 9) is None
