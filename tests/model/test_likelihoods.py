import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laplace_al.model import likelihoods
from laplace_al.model.curvatures import full_curvature_root, per_class_curvature
from laplace_al.model.likelihoods import (
    Bernoulli,
    Categorical,
    coupled_mode_coefficients,
    likelihood_of,
    mode_coefficients,
    mode_coefficients_at_once,
    softmax,
    sum_of_others,
)
from laplace_al.model.updates import CoupledMapUpdate, MapUpdate

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
def test_labels_come_back_from_their_targets(likelihood):
    indices = torch.tensor([1, 0, 1, max(likelihood.n_outputs - 1, 1), 0], dtype=torch.float64)
    targets = likelihood.encode(indices)
    first = 1 if likelihood.n_outputs == 1 else 0  # a single output is that of the second class
    columns = torch.arange(first, first + likelihood.n_outputs)
    assert torch.equal(targets, (indices[:, None] == columns).double())
    assert torch.equal(likelihood.labels(targets), indices.long())


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
    logits, targets, _ = instances(likelihood, scale=30.0)
    loss, residual, mean = likelihood.loss_and_derivatives(logits, targets)
    torch.testing.assert_close(loss, likelihood.negative_log_likelihood(logits, targets))
    torch.testing.assert_close(residual, likelihood.residual(logits, targets), atol=0, rtol=1e-10)
    torch.testing.assert_close(mean, likelihood.mean(logits), atol=0, rtol=1e-10)
    for i in range(20):  # and those of one instance, as vectors
        one_loss, one_residual, one_mean = likelihood.learn(logits[i].numpy(), targets[i].numpy())
        np.testing.assert_allclose(one_loss, loss[i], rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(one_residual, residual[i], rtol=1e-10)
        np.testing.assert_allclose(one_mean, [part[i] for part in mean], rtol=1e-10)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_damped_hessian_is_solved(likelihood):
    logits, targets, weights = instances(likelihood)
    rng = np.random.default_rng(0)
    for z, y, s in zip(logits.numpy(), targets.numpy(), weights.numpy(), strict=True):
        for scale in (np.full(1, s), s * rng.uniform(size=len(z))):
            _, _, mean = likelihood.learn(z, y)
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
        learnt = map(likelihood.learn, logits.numpy(), targets.numpy())
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


def one_by_one(likelihood, **kwargs):
    return zip(*(tensor.numpy() for tensor in instances(likelihood, **kwargs)), strict=True)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("each", [False, True])
def test_mode_is_that_of_a_general_purpose_solver(likelihood, each):
    variances = np.linspace(0.1, 20, 20)
    for i, (z, y, s) in enumerate(one_by_one(likelihood)):
        variance = variances[i] * (np.linspace(0.5, 2, len(z)) if each else np.ones(1))
        a, p = mode_coefficients(likelihood, z, s * variance, y)
        a = s * a
        covariance = np.diag(np.broadcast_to(variance, z.shape))
        np.testing.assert_allclose(a, reference.mode_coefficients(z, covariance, y, s), atol=1e-11)
        np.testing.assert_allclose(p.p, reference.probabilities(z + variance * a), atol=1e-11)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("scale", [0.1, 3.0, 1e3])
def test_coupled_mode_is_that_of_a_general_purpose_solver(likelihood, scale):
    logits, targets, weights = instances(likelihood, n=5)
    root = np.random.default_rng(1).normal(size=(likelihood.n_outputs, likelihood.n_outputs))
    covariance = scale * root @ root.T
    for i in range(5):
        row = slice(i, i + 1)
        coefficients, shifted = coupled_mode_coefficients(
            likelihood, logits[row], weights[row] * torch.from_numpy(covariance), targets[row]
        )
        coefficients = weights[row] * coefficients
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


def test_curvature_far_in_the_tail_keeps_its_digits():
    hessian = Categorical(3).hessian(torch.tensor([[0.0, -50.0, -60.0]]).double())
    p, q = np.exp(-50.0), np.exp(-60.0)
    expected = [[p + q, -p, -q], [-p, p, -p * q], [-q, -p * q, q]]
    torch.testing.assert_close(hessian, torch.tensor(expected).double(), rtol=1e-12, atol=0)


@given(
    n_classes=st.integers(2, 30),
    log_logit=st.floats(-3, 3),
    log_variance=st.floats(-20, 20),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None)
def test_mode_solves_its_equation_at_any_scale(n_classes, log_logit, log_variance, seed):
    likelihood = likelihood_of(n_classes)
    variance = np.full(1, 10.0**log_variance)
    for z, y, _ in one_by_one(likelihood, n=3, scale=10.0**log_logit, seed=seed):
        a, p = mode_coefficients(likelihood, z, variance, y)
        shifted = z + variance * a
        _, residual, mean = likelihood.learn(shifted, y)
        rounding = 1e-9 + 1e-13 * abs(shifted).max()
        np.testing.assert_allclose(a, residual, rtol=1e-6, atol=rounding)
        np.testing.assert_allclose(p.p, mean.p, rtol=1e-6, atol=rounding)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_mode_never_raises_the_objective(likelihood):
    variance = np.full(1, 50.0)
    for z, y, _ in one_by_one(likelihood, scale=10.0):
        a, _ = mode_coefficients(likelihood, z, variance, y)
        before = likelihood.learn(z, y)[0]
        after = likelihood.learn(z + variance * a, y)[0] + variance[0] * a @ a / 2
        assert after <= before + 1e-12


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("width", ["one", "each"])
def test_many_modes_are_those_of_each(n_classes, width):
    """Variances and logits from tiny to far beyond what is met."""
    likelihood = likelihood_of(n_classes)
    n_outputs = likelihood.n_outputs
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, n_outputs)) * 10 ** rng.uniform(-2, 2.5, size=(200, 1))
    variance = 10 ** rng.uniform(-6, 5, size=(200, n_outputs if width == "each" else 1))
    variance[:5] = 0
    labels = torch.from_numpy(rng.integers(n_classes, size=200)).double()
    targets = likelihood.encode(labels)
    found = mode_coefficients_at_once(
        likelihood, torch.from_numpy(logits), torch.from_numpy(variance), targets
    )
    for i in range(200):
        expected = mode_coefficients(likelihood, logits[i], variance[i], targets[i].numpy())
        for some, others in ((found[0], expected[0]), *zip(found[1], expected[1], strict=True)):
            np.testing.assert_allclose(some[i], others, rtol=1e-9, atol=1e-9)


def extreme_problems(n_classes, width, n=60):
    """Logits up to 1e8 and variances from 1e-6 to 1e8: (n, C), (n, 1 or C), targets (n, C)."""
    likelihood = likelihood_of(n_classes)
    rng = np.random.default_rng(n_classes)
    logits = rng.normal(size=(n, likelihood.n_outputs)) * 10 ** rng.uniform(-2, 8, size=(n, 1))
    n_variances = likelihood.n_outputs if width == "each" else 1
    variance = 10 ** rng.uniform(-6, 8, size=(n, n_variances))
    targets = likelihood.encode(torch.from_numpy(rng.integers(n_classes, size=n)).double())
    return likelihood, torch.from_numpy(logits), torch.from_numpy(variance), targets


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_a_mode_does_not_depend_on_those_solved_beside_it(n_classes):
    """Logits of 1e8 in one row leave the tolerance of the others as it is."""
    likelihood, *problem = extreme_problems(n_classes, "one")
    together = mode_coefficients_at_once(likelihood, *problem)
    for i in range(len(problem[0])):
        alone = mode_coefficients_at_once(likelihood, *(part[i : i + 1] for part in problem))
        for some, others in ((together[0], alone[0]), *zip(together[1], alone[1], strict=True)):
            torch.testing.assert_close(some[i : i + 1], others, rtol=1e-11, atol=1e-13)


def counted(likelihood, name):
    """How often the likelihood is evaluated from now on, as a list of one number."""
    count, evaluate = [0], getattr(likelihood, name)

    def counting(*args):
        count[0] += 1
        return evaluate(*args)

    setattr(likelihood, name, counting)
    return count


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("width", ["one", "each"])
def test_a_mode_takes_few_evaluations_at_any_scale(n_classes, width):
    """Seven to thirty on average; at worst the halvings of a step across 1e8 again and again."""
    likelihood, *problem = extreme_problems(n_classes, width)
    count = counted(likelihood, "learn")
    each = []
    for z, v, y in zip(*(tensor.numpy() for tensor in problem), strict=True):
        before = count[0]
        mode_coefficients(likelihood, z, v, y)
        each.append(count[0] - before)
    assert np.mean(each) < 35
    assert max(each) < 450


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("width", ["one", "each"])
def test_many_modes_at_once_take_the_evaluations_of_the_hardest(n_classes, width):
    likelihood, *problem = extreme_problems(n_classes, width)
    count = counted(likelihood, "loss_and_derivatives")
    mode_coefficients_at_once(likelihood, *problem)
    assert 20 < count[0] < 500


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_a_coupled_mode_takes_few_evaluations_at_any_scale(n_classes):
    likelihood, logits, _, targets = extreme_problems(n_classes, "one")
    rng = np.random.default_rng(7)
    count = counted(likelihood, "loss_and_derivatives")
    each = []
    for z, y in zip(logits, targets, strict=True):
        root = rng.normal(size=(len(z), len(z)))
        covariance = torch.from_numpy(10 ** rng.uniform(-4, 4) * root @ root.T)
        before = count[0]
        coupled_mode_coefficients(likelihood, z[None], covariance, y[None])
        each.append(count[0] - before)
    assert np.mean(each) < 12
    assert max(each) < 150


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_mode_that_is_not_reached_is_an_error(n_classes, monkeypatch):
    """Never met with finite input; all the same it must not pass for a solution."""
    monkeypatch.setattr(likelihoods, "_MAX_NEWTON_STEPS", 0)
    likelihood = likelihood_of(n_classes)
    n_steps = 2 * likelihood.n_outputs
    targets = likelihood.encode(torch.ones(1).double())
    logits = 100 * (1 - 2 * targets)  # far on the wrong side
    variance = torch.full((1, 1), 1e6).double()
    with pytest.raises(ArithmeticError, match=f"not solved in {n_steps} steps"):
        mode_coefficients(likelihood, logits[0].numpy(), variance[0].numpy(), targets[0].numpy())
    with pytest.raises(ArithmeticError, match=f"not solved in {n_steps} steps"):
        mode_coefficients_at_once(likelihood, logits, variance, targets)
    covariance = torch.eye(likelihood.n_outputs).double()
    with pytest.raises(ArithmeticError, match="not solved in 0 steps"):
        coupled_mode_coefficients(likelihood, logits, covariance, targets)


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("weight", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("log_variance", [0, 4, 8])
def test_labels_of_large_weight_are_learnt_exactly(n_classes, weight, log_variance):
    """In units of the weight's own loss: else its rounding hides what the step gains."""
    likelihood = likelihood_of(n_classes)
    rng = np.random.default_rng(0)
    for _ in range(20):
        z, v = 3 * rng.normal(size=likelihood.n_outputs), 10.0**log_variance * rng.uniform(0.1, 1)
        y = likelihood.encode(torch.tensor([float(rng.integers(n_classes))]).double())
        variance = np.full(likelihood.n_outputs, v)
        update = MapUpdate(likelihood, per_class_curvature)
        a, _ = update(z, variance, y[0].numpy(), weight)
        residual = likelihood.learn(z + v * a, y[0].numpy())[1]
        np.testing.assert_allclose(v * a, v * weight * residual, rtol=1e-6, atol=1e-12)
        coupled = CoupledMapUpdate(likelihood, full_curvature_root)
        logits, covariance = torch.from_numpy(z)[None], torch.from_numpy(np.diag(variance))
        b, _ = coupled(logits, covariance, y, torch.tensor([weight]).double())
        np.testing.assert_allclose(v * b[0], v * a, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_modes_are_reached_where_logits_are_nearly_alike(n_classes):
    """A covariance of which almost all is in one direction: z + V a is what is left of V a."""
    likelihood = likelihood_of(n_classes)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        root = rng.normal(size=(likelihood.n_outputs, 1))
        scale = 10 ** rng.uniform(-4, 14)
        narrow = 10 ** rng.uniform(-12, 0) * np.eye(likelihood.n_outputs)
        covariance = torch.from_numpy(scale * (root @ root.T + narrow))
        z = torch.from_numpy(10 ** rng.uniform(-2, 6) * rng.normal(size=(1, likelihood.n_outputs)))
        y = likelihood.encode(torch.tensor([float(rng.integers(n_classes))]).double())
        a, shifted = coupled_mode_coefficients(likelihood, z, covariance, y)
        rounding = 1e-6 + 1e-12 * float((a.abs() @ covariance.abs()).max())
        torch.testing.assert_close(a, likelihood.residual(shifted, y), rtol=0, atol=rounding)


@pytest.mark.parametrize("variance", [0.0, 1e-310, 1e-300])
def test_a_variance_next_to_nothing_moves_nothing(variance):
    likelihood, one = likelihood_of(2), torch.ones(1, 1).double()
    problem = 0 * one, variance * one, one
    a, p = mode_coefficients(likelihood, *(part[0].numpy() for part in problem))
    b, q = mode_coefficients_at_once(likelihood, *problem)
    assert [a[0], p.p[0], float(b), float(q.p)] == [0.5] * 4
