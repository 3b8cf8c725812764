import copy

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laplace_al.likelihoods import categorical_curvature, gaussian_curvature, likelihood_of
from laplace_al.posterior import SharedPosterior
from laplace_al.updates import MapUpdate, NewtonUpdate

CURVATURES = {"categorical": categorical_curvature, "gaussian": gaussian_curvature}
RULES = [(update, curve) for update in ("newton", "map") for curve in CURVATURES]


def rule(likelihood, update, curve, step_size=1.0):
    if update == "map":
        return MapUpdate(likelihood, CURVATURES[curve])
    return NewtonUpdate(likelihood, CURVATURES[curve], step_size)


def problem(n_classes, *, n=30, n_features=5, prior_precision=2.0, seed=0):
    """A posterior that has seen something, and n new instances with weights in [0, 3]."""
    rng = np.random.default_rng(seed)
    likelihood = likelihood_of(n_classes)
    seen, features = torch.from_numpy(rng.normal(size=(2, n, n_features)))
    mean = torch.from_numpy(rng.normal(size=(n_features, likelihood.n_outputs)))
    posterior = SharedPosterior.at_mode(
        mean, seen, torch.from_numpy(rng.uniform(size=n)), prior_precision
    )
    targets = likelihood.encode(torch.from_numpy(rng.integers(n_classes, size=n)).double())
    weights = torch.from_numpy(rng.integers(0, 4, size=n).astype(float))
    return likelihood, posterior, features, targets, weights


def relative_error(value, truth):
    return float((value - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize(("update", "curve"), RULES)
def test_a_block_is_the_direct_inverse_one_instance_at_a_time(n_classes, update, curve):
    likelihood, posterior, features, targets, weights = problem(n_classes)
    block = posterior.condition(
        features, targets, weights, rule(likelihood, update, curve, step_size=0.7)
    )
    mean, precision = reference.one_by_one(
        *(tensor.numpy() for tensor in (posterior.mean, posterior.precision)),
        *(tensor.numpy() for tensor in (features, targets, weights)),
        update=update,
        curve=curve,
        step_size=0.7,
    )
    # the general-purpose minimiser of the twin stops at about 1e-8
    tolerance = 1e-10 if update == "newton" else 1e-6
    np.testing.assert_allclose(block.mean, mean, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(block.precision, precision, rtol=tolerance)
    np.testing.assert_allclose(
        block.covariance, np.linalg.inv(precision), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(("update", "curve"), RULES)
@given(
    n_classes=st.integers(2, 6),
    n=st.integers(1, 300),
    cut=st.floats(0, 1),
    log_prior=st.floats(-3, 3),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25, deadline=None)
def test_two_blocks_are_one_block(update, curve, n_classes, n, cut, log_prior, seed):
    likelihood, posterior, features, targets, weights = problem(
        n_classes, n=n, prior_precision=10.0**log_prior, seed=seed
    )
    learn = rule(likelihood, update, curve)
    whole = posterior.condition(features, targets, weights, learn)
    parts = posterior
    for rows in (slice(0, round(cut * n)), slice(round(cut * n), n)):
        parts = parts.condition(features[rows], targets[rows], weights[rows], learn)
    assert relative_error(parts.mean, whole.mean) < 1e-8
    assert relative_error(parts.covariance, whole.covariance) < 1e-8
    assert relative_error(parts.precision, whole.precision) < 1e-12


@given(
    n=st.integers(1, 400),
    n_features=st.integers(1, 40),
    log_scale=st.floats(-3, 3),
    log_prior=st.floats(-2, 4),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_the_covariance_is_the_inverse_of_the_precision(n, n_features, log_scale, log_prior, seed):
    likelihood, _, features, targets, weights = problem(3, n=n, n_features=n_features, seed=seed)
    prior = SharedPosterior.prior(torch.zeros(n_features, 3).double(), 10.0**log_prior)
    posterior = prior.condition(
        features * 10.0**log_scale, targets, weights, rule(likelihood, "map", "categorical")
    )
    product = posterior.covariance @ posterior.precision
    condition = torch.linalg.cond(posterior.precision)
    assert float((product - torch.eye(n_features)).abs().max()) < 1e-13 * float(condition) + 1e-9


def test_thousands_of_single_updates_do_not_drift():
    likelihood, posterior, *_ = problem(3)
    rng = torch.Generator().manual_seed(0)
    learn = rule(likelihood, "map", "categorical")
    for _ in range(3000):
        features = torch.randn(1, 5, generator=rng, dtype=torch.float64)
        targets = likelihood.encode(torch.randint(3, (1,), generator=rng).double())
        posterior = posterior.condition(features, targets, torch.ones(1).double(), learn)
    inverse = torch.linalg.inv(posterior.precision)
    assert relative_error(posterior.covariance, inverse) < 1e-12


@pytest.mark.parametrize(("update", "curve"), RULES)
def test_an_instance_of_weight_zero_changes_nothing(update, curve):
    likelihood, posterior, features, targets, weights = problem(3)
    learn = rule(likelihood, update, curve)
    absent = posterior.condition(features, targets, torch.zeros_like(weights), learn)
    torch.testing.assert_close(absent.mean, posterior.mean, rtol=0, atol=0)
    torch.testing.assert_close(absent.covariance, posterior.covariance, rtol=0, atol=0)


def test_a_posterior_is_a_value():
    likelihood, posterior, features, targets, weights = problem(3)
    before = [tensor.clone() for tensor in (posterior.mean, posterior.precision)]
    posterior.condition(features, targets, weights, rule(likelihood, "map", "gaussian"))
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, (posterior.mean, posterior.precision), strict=True)
    )
    assert copy.deepcopy(posterior) is posterior
    with pytest.raises(AttributeError):
        posterior.mean = None


def test_variance_is_the_quadratic_form():
    _, posterior, features, *_ = problem(3)
    phi, covariance = features.numpy(), np.linalg.inv(posterior.precision.numpy())
    direct = [row @ covariance @ row for row in phi]
    np.testing.assert_allclose(posterior.variance(features), direct, rtol=1e-12)


def test_samples_have_the_mean_and_covariance_of_the_posterior():
    _, posterior, *_ = problem(3)
    draws = posterior.sample(200_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.mean(dim=0), posterior.mean, rtol=0, atol=5e-3)
    for output in range(3):
        sampled = torch.cov(draws[:, :, output].T)
        torch.testing.assert_close(sampled, posterior.covariance, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
def test_golden_precision_and_covariance(golden, likelihood):
    numbers = golden(likelihood)
    p = torch.softmax(numbers["features_train"] @ numbers["mean"], dim=1)
    posterior = SharedPosterior.at_mode(
        numbers["mean"], numbers["features_train"], CURVATURES[likelihood](p), prior_precision=1.0
    )
    assert relative_error(posterior.precision, numbers["precision"]) < 1e-10
    assert relative_error(posterior.covariance, numbers["covariance"]) < 1e-10


@pytest.mark.parametrize("n_passes", [1, 2])
@pytest.mark.parametrize("step_size", [1, 10])
def test_golden_newton_updates(golden, step_size, n_passes):
    numbers = golden("gaussian")
    likelihood = likelihood_of(4)
    posterior = SharedPosterior(numbers["mean"], numbers["precision"], numbers["covariance"])
    targets = likelihood.encode(numbers["y_new"].double())
    for _ in range(n_passes):
        posterior = posterior.condition(
            numbers["features_new"],
            targets,
            torch.ones(len(targets)).double(),
            rule(likelihood, "newton", "gaussian", float(step_size)),
        )
    name = f"newton_gamma{step_size}_passes{n_passes}"
    assert relative_error(posterior.mean, numbers[f"{name}_mean"]) < 1e-10
    assert relative_error(posterior.covariance, numbers[f"{name}_covariance"]) < 1e-10
