import functools
import itertools
import operator

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from laplace_al import LaplaceUpdateClassifier
from laplace_al.model import block_fitting, calibration, links
from laplace_al.model.block_fitting import Largest, Sums, find_mode_in_blocks, fit_at_mode
from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.mode import Labelled, find_mode
from laplace_al.model.priors import IsotropicPrior


class Total:
    """Sums over blocks, and what is kept beside them."""

    def __init__(self, blocks):
        self.blocks = blocks

    def __call__(self, function, *args):
        return functools.reduce(operator.add, self._mapped(function, args))

    def keep(self, function, *args):
        kept = self._mapped(function, args)
        return Total([(block[0], each) for block, each in zip(self.blocks, kept, strict=True)])

    def _mapped(self, function, args):
        return [function(*block, *args) for block in self.blocks]


class LargestTensor(TorchDispatchMode):
    """How many numbers the largest tensor has that any operation gives."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        sizes = (x.numel() for x in tree_leaves(results) if isinstance(x, torch.Tensor))
        self.size = max(self.size, *sizes, 0)
        return results


def problem(n_classes, bounds=(0, 7, 40, 90), n_features=5):
    """Blocks of labelled instances, and the same as arrays."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(bounds[-1], n_features))
    y = (X @ rng.normal(size=(n_features, n_classes))).argmax(axis=1)
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

    return Total([(block,) for block in blocks]), likelihood, (X, y, weights)


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
        close(fitted.loo_score, clf.loo_score_)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
@pytest.mark.parametrize("calibration", ["loo", None])
def test_classes_can_be_examined_one_after_the_other(covariance, calibration, monkeypatch):
    total, likelihood, _ = problem(4)
    prior = IsotropicPrior(torch.zeros(6, 4, dtype=torch.float64), 0.3)
    mean = find_mode_in_blocks(total, likelihood, prior, prior.mean, max_iter=9, tol=1e-3).mean
    options = {"covariance": covariance, "curvature": "secant", "calibration": calibration}
    args = (mean, prior, likelihood, links.mean_field)
    expected = fit_at_mode(total, *args, **options)
    monkeypatch.setattr(block_fitting, "_BYTES_AT_ONCE", 1)
    found = fit_at_mode(total, *args, **options)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    close(found.posterior.precision, expected.posterior.precision)
    close(found.calibration.scores, expected.calibration.scores)
    close(found.log_evidence, expected.log_evidence)
    if calibration:
        close(found.loo_score.log_likelihood, expected.loo_score.log_likelihood)
        assert found.loo_score.accuracy == expected.loo_score.accuracy


@pytest.mark.parametrize("n_at_once", [1, 3])
def test_a_shared_covariance_takes_no_memory_for_those_of_all_classes(n_at_once, monkeypatch):
    n_features, n_classes = 16, 12
    total, likelihood, _ = problem(n_classes, (0, 7, 20), n_features - 1)
    zero = torch.zeros(n_features, n_classes, dtype=torch.float64)
    monkeypatch.setattr(block_fitting, "_BYTES_AT_ONCE", 8 * n_at_once * n_features**2)
    monkeypatch.setattr(calibration, "_NUMBERS_AT_ONCE", 1)
    with LargestTensor() as largest:
        fit_at_mode(
            total,
            zero,
            IsotropicPrior(zero, 1.0),
            likelihood,
            links.mean_field,
            covariance="shared",
            curvature="secant",
            calibration="loo",
        )
    assert largest.size == n_at_once * n_features**2


def test_a_weak_prior_takes_shorter_steps_until_it_is_there():
    total, likelihood, (X, y, weights) = problem(4)
    prior = IsotropicPrior(torch.zeros(6, 4, dtype=torch.float64), 1e-4)
    mode = find_mode_in_blocks(total, likelihood, prior, prior.mean, max_iter=100, tol=1e-8)
    clf = LaplaceUpdateClassifier(prior_precision=1e-4).fit(X, y, weights)
    assert mode.converged
    np.testing.assert_allclose(mode.mean, clf.posterior_.mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prior_precision", [1e-8, 1e-5, 1e-2])
def test_the_mode_of_separable_data_is_found_as_in_memory(prior_precision):
    """Curvatures vanish by orders of magnitude while the mode seems near."""
    total, likelihood, _ = problem(2, (0, 7, 20), n_features=8)
    parts = zip(*(block[:3] for (block,) in total.blocks), strict=True)
    features, targets, weights = map(torch.cat, parts)
    prior = IsotropicPrior(torch.zeros(9, 1, dtype=torch.float64), prior_precision)
    options = {"max_iter": 100, "tol": 1e-6}
    mode = find_mode_in_blocks(total, likelihood, prior, prior.mean, **options)
    data = Labelled(features, targets, weights, likelihood)
    expected = find_mode(data, prior, prior.mean, **options)
    assert mode.n_iter == expected.n_iter
    residual = likelihood.residual(features @ mode.mean, targets)
    gradient = prior.gradient(mode.mean) - features.T @ (weights[:, None] * residual)
    curvature = weights[:, None] * residual.abs() * (1 - residual.abs())
    root = prior.shared_root(features, curvature)
    assert torch.linalg.vector_norm(root.T @ gradient) < 2e-6


def test_single_precision_stops_where_its_digits_do():
    total, likelihood, _ = problem(4)
    prior = IsotropicPrior(torch.zeros(6, 4, dtype=torch.float64), 1e-2)
    options = {"max_iter": 100, "tol": 1e-8}
    expected = find_mode_in_blocks(total, likelihood, prior, prior.mean, **options)
    single = Total(
        [
            (Labelled(*(part.float() for part in block[:3]), likelihood),)
            for (block,) in total.blocks
        ]
    )
    mode = find_mode_in_blocks(
        single, likelihood, prior._replace(mean=prior.mean.float()), prior.mean.float(), **options
    )
    assert mode.converged
    assert mode.n_iter <= expected.n_iter + 3


def test_the_limit_of_steps_is_kept():
    total, likelihood, _ = problem(3)
    prior = IsotropicPrior(torch.zeros(6, 3, dtype=torch.float64), 1.0)
    mode = find_mode_in_blocks(total, likelihood, prior, prior.mean, max_iter=1, tol=1e-8)
    assert (mode.n_iter, mode.converged) == (1, False)


def test_sums_add_up_each_on_its_own():
    assert Sums((1, 2)) + Sums((3, 4)) == (4, 6)


def test_of_largest_numbers_the_largest_counts():
    assert Sums((1, Largest(5.0))) + Sums((3, Largest(4.0))) == (4, 5.0)
    assert type(Largest(1.0) + Largest(2.0)) is Largest
