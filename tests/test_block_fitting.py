import functools
import itertools
import operator

import numpy as np
import pytest
import torch

from laplace_al import LaplaceUpdateClassifier, links
from laplace_al.block_fitting import Sums, find_mode_in_blocks, fit_at_mode
from laplace_al.fitting import Labelled
from laplace_al.likelihoods import likelihood_of
from laplace_al.priors import IsotropicPrior


def problem(n_classes, bounds=(0, 7, 40, 90)):
    """Blocks of labelled instances, and the same as arrays."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(bounds[-1], 5))
    y = (X @ rng.normal(size=(5, n_classes))).argmax(axis=1)
    y[:10] = np.arange(10) % n_classes
    weights = rng.integers(0, 3, size=len(X)).astype(float)
    likelihood = likelihood_of(n_classes)
    phi = torch.tensor(np.column_stack([X, np.ones(len(X))]))
    blocks = [
        Labelled(
            phi[a:b],
            likelihood.encode(torch.tensor(y[a:b], dtype=torch.float64)),
            torch.tensor(weights[a:b]),
            likelihood,
        )
        for a, b in itertools.pairwise(bounds)
    ]

    def total(function, *args):
        return functools.reduce(operator.add, (function(block, *args) for block in blocks))

    return total, likelihood, (X, y, weights)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
@pytest.mark.parametrize("curvature", ["secant", "categorical", "gaussian"])
@pytest.mark.parametrize("calibration", ["loo", None])
def test_equals_the_fit_in_memory(n_classes, covariance, curvature, calibration):
    total, likelihood, data = problem(n_classes)
    prior = IsotropicPrior(torch.zeros(6, likelihood.n_outputs, dtype=torch.float64), 0.3)
    mode = find_mode_in_blocks(total, likelihood, prior, prior.mean, max_iter=50, tol=1e-10)
    fitted = fit_at_mode(
        total,
        mode.mean,
        prior,
        likelihood,
        links.mean_field,
        covariance=covariance,
        curvature=curvature,
        calibration=calibration,
    )
    params = {"covariance": covariance, "curvature": curvature, "calibration": calibration}
    clf = LaplaceUpdateClassifier(prior_precision=0.3, tol=1e-10, **params).fit(*data)
    assert mode.converged
    close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-9)
    close(fitted.posterior.mean, clf.posterior_.mean)
    close(fitted.posterior.precision, clf.posterior_.precision)
    close(fitted.calibration.temperature, clf.temperature_)
    assert fitted.calibration.variance_scale == clf.calibration_.variance_scale
    if fitted.log_evidence is not None:
        close(fitted.log_evidence, clf.log_marginal_likelihood_value_)
    if calibration:
        close([fitted.accuracy, fitted.log_likelihood], clf.loo_score_)


def test_a_weak_prior_takes_shorter_steps_until_it_is_there():
    total, likelihood, (X, y, weights) = problem(4)
    prior = IsotropicPrior(torch.zeros(6, 4, dtype=torch.float64), 1e-4)
    mode = find_mode_in_blocks(total, likelihood, prior, prior.mean, max_iter=100, tol=1e-8)
    clf = LaplaceUpdateClassifier(prior_precision=1e-4).fit(X, y, weights)
    assert mode.converged
    np.testing.assert_allclose(mode.mean, clf.posterior_.mean, rtol=1e-5, atol=1e-5)


def test_the_limit_of_steps_is_kept():
    total, likelihood, _ = problem(3)
    prior = IsotropicPrior(torch.zeros(6, 3, dtype=torch.float64), 1.0)
    mode = find_mode_in_blocks(total, likelihood, prior, prior.mean, max_iter=1, tol=1e-8)
    assert (mode.n_iter, mode.converged) == (1, False)


def test_sums_add_up_each_on_its_own():
    assert Sums((1, 2)) + Sums((3, 4)) == (4, 6)
