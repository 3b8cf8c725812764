import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laplace_al.likelihoods import (
    Bernoulli,
    Categorical,
    coupled_mode_coefficients,
    full_curvature_root,
    likelihood_of,
    mode_coefficients,
    per_class_curvature,
    shared_curvature,
)

LIKELIHOODS = [likelihood_of(n_classes) for n_classes in (2, 3, 10)]


def instances(likelihood, *, n=20, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(scale * rng.normal(size=(n, likelihood.n_outputs)))
    labels = torch.from_numpy(rng.integers(max(2, likelihood.n_outputs), size=n).astype(float))
    return logits, likelihood.encode(labels), torch.from_numpy(rng.uniform(0, 3, size=n))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_derivatives_of_the_log_likelihood(likelihood):
    logits, targets, _ = instances(likelihood)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).double()

    def loss(z):
        return likelihood.negative_log_likelihood(z, targets).sum()

    _, gradient = torch.autograd.functional.vjp(loss, logits)
    _, product = torch.autograd.functional.hvp(loss, logits, direction)
    torch.testing.assert_close(-likelihood.residual(logits, targets), gradient)
    torch.testing.assert_close(
        likelihood.hessian_product(likelihood.mean(logits), direction), product
    )


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_log_probabilities_are_those_of_the_label(likelihood):
    logits, targets, _ = instances(likelihood)
    log_probabilities = likelihood.log_probabilities(logits)
    torch.testing.assert_close(log_probabilities.exp().sum(dim=1), torch.ones(20).double())
    label = targets.argmax(dim=1) if targets.shape[1] > 1 else targets[:, 0].long()
    torch.testing.assert_close(
        log_probabilities[torch.arange(20), label],
        -likelihood.negative_log_likelihood(logits, targets),
    )


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_damped_hessian_is_solved(likelihood):
    logits, _, weights = instances(likelihood)
    right = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).double()
    scale = weights[:, None]
    solution = likelihood.solve_damped_hessian(logits, scale, right)
    product = likelihood.hessian_product(likelihood.mean(logits), solution)
    torch.testing.assert_close(solution + scale * product, right)


def test_residuals_do_not_vanish_next_to_the_target():
    far = torch.tensor([[60.0, 0.0]]).double()
    residual = Categorical(2).residual(far, torch.tensor([[1.0, 0.0]]).double())
    torch.testing.assert_close(residual, np.exp(-60) * torch.tensor([[1.0, -1.0]]).double())
    residual = Bernoulli().residual(far[:, :1], torch.ones(1, 1).double())
    torch.testing.assert_close(residual, torch.full((1, 1), np.exp(-60)).double())


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_mode_is_that_of_a_general_purpose_minimiser(likelihood):
    logits, targets, weights = instances(likelihood)
    variance = torch.linspace(0.1, 20, 20).double()[:, None]
    coefficients, _ = mode_coefficients(likelihood, logits, variance, targets, weights)
    for i in range(20):
        direct = reference.mode_coefficients(
            logits[i].numpy(),
            float(variance[i]) * np.eye(logits.shape[1]),
            targets[i].numpy(),
            float(weights[i]),
        )
        np.testing.assert_allclose(coefficients[i], direct, atol=1e-11)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("scale", [0.1, 3.0, 1e3])
def test_coupled_mode_is_that_of_a_general_purpose_solver(likelihood, scale):
    logits, targets, weights = instances(likelihood, n=5)
    root = np.random.default_rng(1).normal(size=(likelihood.n_outputs, likelihood.n_outputs))
    covariance = scale * root @ root.T
    for i in range(5):
        row = slice(i, i + 1)
        coefficients, shifted = coupled_mode_coefficients(
            likelihood, logits[row], torch.from_numpy(covariance), targets[row], weights[row]
        )
        direct = reference.mode_coefficients(
            logits[i].numpy(), covariance, targets[i].numpy(), float(weights[i])
        )
        np.testing.assert_allclose(coefficients[0], direct, atol=1e-9)
        np.testing.assert_allclose(shifted[0], logits[i].numpy() + covariance @ direct, atol=1e-6)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_hessian_of_one_instance(likelihood):
    logits, targets, _ = instances(likelihood, n=1)

    def loss(z):
        return likelihood.negative_log_likelihood(z, targets).sum()

    direct = torch.autograd.functional.hessian(loss, logits).reshape(2 * (logits.shape[1],))
    torch.testing.assert_close(likelihood.hessian(logits), direct)
    root = full_curvature_root(likelihood.mean(logits))
    torch.testing.assert_close(root @ root.T, direct)


@given(
    n_classes=st.integers(2, 30),
    log_logit=st.floats(-3, 3),
    log_variance=st.floats(-20, 20),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None)
def test_mode_solves_its_equation_at_any_scale(n_classes, log_logit, log_variance, seed):
    likelihood = likelihood_of(n_classes)
    logits, targets, weights = instances(likelihood, n=5, scale=10.0**log_logit, seed=seed)
    variance = torch.full((5, 1), 10.0**log_variance).double()
    coefficients, shifted = mode_coefficients(likelihood, logits, variance, targets, weights)
    expected = weights[:, None] * likelihood.residual(shifted, targets)
    rounding = 1e-9 + 1e-13 * float(shifted.abs().max())
    torch.testing.assert_close(coefficients, expected, rtol=1e-6, atol=rounding)
    torch.testing.assert_close(shifted, logits + variance * coefficients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_mode_with_a_variance_for_each_output(likelihood):
    logits, targets, weights = instances(likelihood)
    variance = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0)).double() * 9
    coefficients, shifted = mode_coefficients(likelihood, logits, variance, targets, weights)
    torch.testing.assert_close(
        coefficients, weights[:, None] * likelihood.residual(shifted, targets)
    )
    torch.testing.assert_close(shifted, logits + variance * coefficients)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_mode_never_raises_the_objective(likelihood):
    logits, targets, weights = instances(likelihood, scale=10.0)
    variance = torch.full((20, 1), 50.0).double()
    coefficients, shifted = mode_coefficients(likelihood, logits, variance, targets, weights)
    before = weights * likelihood.negative_log_likelihood(logits, targets)
    after = weights * likelihood.negative_log_likelihood(shifted, targets)
    after += (variance * coefficients**2).sum(dim=1) / 2
    assert (after <= before + 1e-12).all()


def test_curvatures():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]])
    torch.testing.assert_close(shared_curvature(p), torch.tensor([[0.21], [0.25]]))
    torch.testing.assert_close(
        per_class_curvature(p), torch.tensor([[0.21, 0.16, 0.09], [0.1875, 0.25, 0.1875]])
    )
    one_logit = torch.tensor([[0.3], [0.7]])
    for curvature in (shared_curvature, per_class_curvature):
        torch.testing.assert_close(curvature(one_logit), torch.tensor([[0.21], [0.21]]))
