import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laplace_al.model import label_mode
from laplace_al.model.curvatures import full_curvature_root, per_class_curvature
from laplace_al.model.label_mode import (
    coupled_mode_coefficients,
    mode_coefficients,
    mode_coefficients_at_once,
)
from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.updates import CoupledMapUpdate, MapUpdate

LIKELIHOODS = [likelihood_of(n_classes) for n_classes in (2, 3, 10)]


def one_by_one(likelihood, *, n=20, scale=3.0, seed=0, is_soft=True):
    """Logits (C,), target (C,) and weight of n instances; if soft, half are uncertain."""
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(n, likelihood.n_outputs))
    labels = torch.from_numpy(rng.integers(max(2, likelihood.n_outputs), size=n).astype(float))
    targets = likelihood.encode(labels).numpy()
    weights = rng.uniform(0, 3, size=n)
    shares = rng.dirichlet(np.ones(max(2, likelihood.n_outputs)), size=n)[::2]
    if is_soft:
        targets[::2] = likelihood.soft(torch.from_numpy(shares))
    return zip(logits, targets, weights, strict=True)


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
    root = np.random.default_rng(1).normal(size=(likelihood.n_outputs, likelihood.n_outputs))
    covariance = scale * root @ root.T
    is_soft = scale < 100  # where a general-purpose solver still gets there
    for z, y, s in one_by_one(likelihood, n=5, is_soft=is_soft):
        a, p = coupled_mode_coefficients(likelihood, z, s * covariance, y)
        direct = reference.mode_coefficients(z, covariance, y, s)
        np.testing.assert_allclose(s * a, direct, atol=1e-9)
        shifted = z + covariance @ direct
        np.testing.assert_allclose(p.p, reference.probabilities(shifted), atol=1e-6)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3, 1e6])
def test_coupled_mode_of_uncertain_labels_solves_its_equation(likelihood, scale):
    root = np.random.default_rng(1).normal(size=(likelihood.n_outputs, likelihood.n_outputs))
    covariance = scale * root @ root.T
    for z, y, _ in one_by_one(likelihood):
        a, p = coupled_mode_coefficients(likelihood, z, covariance, y)
        np.testing.assert_allclose(a, y - p.p, atol=1e-12)
        np.testing.assert_allclose(p.p, reference.probabilities(z + covariance @ a), atol=1e-7)


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
        _, residual, mean = likelihood.loss_and_derivatives_of_one(shifted, y)
        rounding = 1e-9 + 1e-13 * abs(shifted).max()
        np.testing.assert_allclose(a, residual, rtol=1e-6, atol=rounding)
        np.testing.assert_allclose(p.p, mean.p, rtol=1e-6, atol=rounding)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_mode_never_raises_the_objective(likelihood):
    variance = np.full(1, 50.0)
    for z, y, _ in one_by_one(likelihood, scale=10.0):
        a, _ = mode_coefficients(likelihood, z, variance, y)
        before = likelihood.loss_and_derivatives_of_one(z, y)[0]
        after = (
            likelihood.loss_and_derivatives_of_one(z + variance * a, y)[0] + variance[0] * a @ a / 2
        )
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
    count = counted(likelihood, "loss_and_derivatives_of_one")
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
    count = counted(likelihood, "loss_and_derivatives_of_one")
    each = []
    for z, y in zip(logits.numpy(), targets.numpy(), strict=True):
        root = rng.normal(size=(len(z), len(z)))
        covariance = 10 ** rng.uniform(-4, 4) * root @ root.T
        before = count[0]
        coupled_mode_coefficients(likelihood, z, covariance, y)
        each.append(count[0] - before)
    assert np.mean(each) < 12
    assert max(each) < 150


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_mode_that_is_not_reached_is_an_error(n_classes, monkeypatch):
    """Never met with finite input; all the same it must not pass for a solution."""
    monkeypatch.setattr(label_mode, "MAX_STEPS", 0)
    likelihood = likelihood_of(n_classes)
    n_steps = 2 * likelihood.n_outputs
    targets = likelihood.encode(torch.ones(1).double())
    logits = 100 * (1 - 2 * targets)  # far on the wrong side
    variance = torch.full((1, 1), 1e6).double()
    z, v, y = (part[0].numpy() for part in (logits, variance, targets))
    with pytest.raises(ArithmeticError, match=f"not solved in {n_steps} steps"):
        mode_coefficients(likelihood, z, v, y)
    with pytest.raises(ArithmeticError, match=f"not solved in {n_steps} steps"):
        mode_coefficients_at_once(likelihood, logits, variance, targets)
    with pytest.raises(ArithmeticError, match=f"not solved in {n_steps} steps"):
        coupled_mode_coefficients(likelihood, z, v * np.eye(len(z)), y)


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("weight", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("log_variance", [0, 4, 8])
def test_labels_of_large_weight_are_learnt_exactly(n_classes, weight, log_variance):
    """In units of the weight's own loss: else its rounding hides what the step gains."""
    likelihood = likelihood_of(n_classes)
    rng = np.random.default_rng(0)
    for _ in range(20):
        z, v = 3 * rng.normal(size=likelihood.n_outputs), 10.0**log_variance * rng.uniform(0.1, 1)
        y = likelihood.encode(torch.tensor([float(rng.integers(n_classes))]).double())[0].numpy()
        variance = np.full(likelihood.n_outputs, v)
        update = MapUpdate(likelihood, per_class_curvature)
        a, _ = update(z, variance, y, weight)
        residual = likelihood.loss_and_derivatives_of_one(z + v * a, y)[1]
        np.testing.assert_allclose(v * a, v * weight * residual, rtol=1e-6, atol=1e-12)
        coupled = CoupledMapUpdate(likelihood, full_curvature_root)
        b, _ = coupled(z, np.diag(variance), y, weight)
        np.testing.assert_allclose(v * b, v * a, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_modes_are_reached_where_logits_are_nearly_alike(n_classes):
    """A covariance of which almost all is in one direction: z + V a is what is left of V a."""
    likelihood = likelihood_of(n_classes)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        root = rng.normal(size=(likelihood.n_outputs, 1))
        scale = 10 ** rng.uniform(-4, 14)
        narrow = 10 ** rng.uniform(-12, 0) * np.eye(likelihood.n_outputs)
        covariance = scale * (root @ root.T + narrow)
        z = 10 ** rng.uniform(-2, 6) * rng.normal(size=likelihood.n_outputs)
        y = likelihood.encode(torch.tensor([float(rng.integers(n_classes))]).double())[0].numpy()
        a, p = coupled_mode_coefficients(likelihood, z, covariance, y)
        rounding = 1e-6 + 1e-12 * (abs(a) @ abs(covariance)).max()
        _, residual, mean = likelihood.loss_and_derivatives_of_one(z + a @ covariance, y)
        np.testing.assert_allclose(a, residual, rtol=0, atol=rounding)
        np.testing.assert_allclose(p.p, mean.p, rtol=0, atol=rounding)


@pytest.mark.parametrize("variance", [0.0, 1e-310, 1e-300])
def test_a_variance_next_to_nothing_moves_nothing(variance):
    likelihood, one = likelihood_of(2), torch.ones(1, 1).double()
    problem = 0 * one, variance * one, one
    a, p = mode_coefficients(likelihood, *(part[0].numpy() for part in problem))
    b, q = mode_coefficients_at_once(likelihood, *problem)
    assert [a[0], p.p[0], float(b), float(q.p)] == [0.5] * 4
