import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from laplace_al.model.curvatures import full_curvature_root
from laplace_al.model.likelihoods import (
    Bernoulli,
    Categorical,
    likelihood_of,
    softmax,
    sum_of_others,
)

LIKELIHOODS = [likelihood_of(n_classes) for n_classes in (2, 3, 10)]


def instances(likelihood, *, n=20, scale=3.0, seed=0, is_soft=False):
    """Logits, targets and weights; if soft, half of the labels are uncertain."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(scale * rng.normal(size=(n, likelihood.n_outputs)))
    labels = torch.from_numpy(rng.integers(max(2, likelihood.n_outputs), size=n).astype(float))
    targets = likelihood.encode(labels)
    if is_soft:
        shares = rng.dirichlet(np.ones(max(2, likelihood.n_outputs)), size=n)[::2]
        targets[::2] = likelihood.soft(torch.from_numpy(shares))
    return logits, targets, torch.from_numpy(rng.uniform(0, 3, size=n))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_derivatives_of_the_log_likelihood(likelihood):
    logits, targets, _ = instances(likelihood, is_soft=True)
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
def test_labels_come_back_from_their_targets(likelihood):
    indices = torch.tensor([1, 0, 1, max(likelihood.n_outputs - 1, 1), 0], dtype=torch.float64)
    targets = likelihood.encode(indices)
    first = 1 if likelihood.n_outputs == 1 else 0  # a single output is that of the second class
    columns = torch.arange(first, first + likelihood.n_outputs)
    assert torch.equal(targets, (indices[:, None] == columns).double())
    assert torch.equal(likelihood.labels(targets), indices.long())


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_probabilities_come_back_from_their_targets(likelihood):
    shares = np.random.default_rng(0).dirichlet(np.ones(max(2, likelihood.n_outputs)), size=9)
    targets = likelihood.soft(torch.from_numpy(shares))
    np.testing.assert_allclose(likelihood.shares(targets), shares, atol=1e-15)
    assert likelihood.labels(targets).tolist() == shares.argmax(axis=1).tolist()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_loss_of_an_uncertain_label_is_the_mean_of_those_of_the_classes(likelihood):
    logits, targets, _ = instances(likelihood, is_soft=True)
    log_probabilities = likelihood.log_probabilities(logits)
    expected = -(likelihood.shares(targets) * log_probabilities).sum(dim=1)
    torch.testing.assert_close(likelihood.negative_log_likelihood(logits, targets), expected)


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
@pytest.mark.parametrize("scale", [1e-3, 3.0, 1e3])
def test_probabilities_are_those_of_their_logarithms(likelihood, scale):
    logits, _, _ = instances(likelihood, scale=scale)
    expected = likelihood.log_probabilities(logits).exp()
    torch.testing.assert_close(likelihood.probabilities(logits), expected, rtol=1e-12, atol=1e-300)


def test_softmax_is_that_of_torch():
    logits = torch.tensor([[0.0, -1e308, 700.0], [-2.0, 1e4, 1e4], [3.0, -torch.inf, 1.0]])
    torch.testing.assert_close(softmax(logits.double()), torch.softmax(logits.double(), dim=1))


@given(
    st.lists(st.floats(0, 1e30), min_size=1, max_size=6), st.sampled_from(["float32", "float64"])
)
def test_sums_of_others_do_not_cancel(values, dtype):
    row = torch.tensor([values], dtype=getattr(torch, dtype))
    numbers = row[0].tolist()
    expected = [math.fsum(numbers[:k] + numbers[k + 1 :]) for k in range(len(numbers))]
    found = sum_of_others(row)[0]
    np.testing.assert_allclose(found, expected, rtol=20 * torch.finfo(row.dtype).eps)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_loss_and_derivatives_are_those_one_by_one(likelihood):
    logits, targets, _ = instances(likelihood, scale=30.0, is_soft=True)
    loss, residual, mean = likelihood.loss_and_derivatives(logits, targets)
    torch.testing.assert_close(loss, likelihood.negative_log_likelihood(logits, targets))
    torch.testing.assert_close(residual, likelihood.residual(logits, targets), atol=0, rtol=1e-10)
    torch.testing.assert_close(mean, likelihood.mean(logits), atol=0, rtol=1e-10)
    for i in range(20):  # and those of one instance, as vectors
        one_loss, one_residual, one_mean = likelihood.loss_and_derivatives_of_one(
            logits[i].numpy(), targets[i].numpy()
        )
        np.testing.assert_allclose(one_loss, loss[i], rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(one_residual, residual[i], rtol=1e-10)
        np.testing.assert_allclose(one_mean, [part[i] for part in mean], rtol=1e-10)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_damped_hessian_is_solved(likelihood):
    logits, targets, weights = instances(likelihood)
    rng = np.random.default_rng(0)
    for z, y, s in zip(logits.numpy(), targets.numpy(), weights.numpy(), strict=True):
        for scale in (np.full(1, s), s * rng.uniform(size=len(z))):
            _, _, mean = likelihood.loss_and_derivatives_of_one(z, y)
            right = rng.normal(size=len(z))
            solution = likelihood.solve_damped_hessian(mean, scale, right)
            back = solution + scale * (reference.hessian(mean.p) @ solution)
            np.testing.assert_allclose(back, right, atol=1e-12)


def saturated(likelihood, dtype, n=200):
    """Logits (n, C) between -40 and 40."""
    uniform = np.random.default_rng(0).uniform(-40, 40, size=(n, likelihood.n_outputs))
    return torch.from_numpy(uniform).to(dtype)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_means_and_their_complements_keep_their_digits(likelihood, dtype):
    logits = saturated(likelihood, dtype)
    targets = likelihood.encode(torch.arange(200).to(dtype) % max(2, likelihood.n_outputs))
    expected = np.array([reference.mean(z) for z in logits.double().numpy()])
    means = [likelihood.mean(logits), likelihood.loss_and_derivatives(logits, targets)[2]]
    if dtype == torch.float64:
        learnt = map(likelihood.loss_and_derivatives_of_one, logits.numpy(), targets.numpy())
        means.append([np.stack(part) for part in zip(*(mean for *_, mean in learnt), strict=True)])
    rtol = 200 * torch.finfo(dtype).eps  # logits 80 apart
    for mean in means:
        for part, others in zip(mean, (expected[:, 0], expected[:, 1]), strict=True):
            np.testing.assert_allclose(part, others, rtol=rtol)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_with_the_hessian_keep_their_digits(likelihood, dtype):
    """sum_l p_k p_l (d_k - d_l), to the square of the rounding where p_k is next to 1."""
    logits = saturated(likelihood, dtype)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = likelihood.hessian_product(likelihood.mean(logits), direction)
    eps = torch.finfo(dtype).eps
    for z, d, product in zip(
        *(t.double().numpy() for t in (logits, direction, found)), strict=True
    ):
        p, complement = reference.mean(z)
        differences = np.outer(p, p) * (d[:, None] - d)
        terms = differences if len(z) > 1 else p * complement * d[:, None]
        error = abs(product - terms.sum(axis=1))
        assert (error <= 200 * eps * abs(terms).sum(axis=1) + 10 * eps**2 * p).all()


def test_residuals_do_not_vanish_next_to_the_target():
    far = torch.tensor([[60.0, 0.0]]).double()
    residual = Categorical(2).residual(far, torch.tensor([[1.0, 0.0]]).double())
    torch.testing.assert_close(residual, np.exp(-60) * torch.tensor([[1.0, -1.0]]).double())
    residual = Bernoulli().residual(far[:, :1], torch.ones(1, 1).double())
    torch.testing.assert_close(residual, torch.full((1, 1), np.exp(-60)).double())


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_hessian_of_one_instance(likelihood):
    logits, targets, _ = instances(likelihood, n=1)

    def loss(z):
        return likelihood.negative_log_likelihood(z, targets).sum()

    direct = torch.autograd.functional.hessian(loss, logits).reshape(2 * (logits.shape[1],))
    *_, mean = likelihood.loss_and_derivatives_of_one(logits[0].numpy(), targets[0].numpy())
    np.testing.assert_allclose(likelihood.hessian_of_one(mean), direct, atol=1e-15)
    for some in (mean, likelihood.mean(logits)):
        root = full_curvature_root(some)
        np.testing.assert_allclose(root @ root.T, direct, atol=1e-15)


def test_curvature_far_in_the_tail_keeps_its_digits():
    p, q = np.exp(-50.0), np.exp(-60.0)
    logits, target = np.array([0.0, -50.0, -60.0]), np.eye(3)[0]
    *_, mean = Categorical(3).loss_and_derivatives_of_one(logits, target)
    expected = [[p + q, -p, -q], [-p, p, -p * q], [-q, -p * q, q]]
    np.testing.assert_allclose(Categorical(3).hessian_of_one(mean), expected, rtol=1e-12)
