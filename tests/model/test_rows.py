import functools
import itertools

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from laplace_al.model import leave_one_out
from laplace_al.model import rows as rows_module
from laplace_al.model.fit import FitSettings, fit
from laplace_al.model.fitted_model import Rules
from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.mode import Labelled, find_mode, minimise
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.rows import Block, RowsInBlocks, RowsInMemory, added
from laplace_al.model.structures import STRUCTURES


class BlocksInProcess:
    """Blocks that are summed here, one after another."""

    def __init__(self, blocks):
        self.blocks = blocks

    def total(self, function, *args, combine):
        return functools.reduce(combine, (function(block, *args) for block in self.blocks))

    def with_variances(self, function, *args):
        return BlocksInProcess([Block(block.data, function(block, *args)) for block in self.blocks])


class LargestTensor(TorchDispatchMode):
    """How many numbers the largest tensor has that any operation gives."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        sizes = (x.numel() for x in tree_leaves(results) if isinstance(x, torch.Tensor))
        self.size = max(self.size, *sizes, 0)
        return results


def problem(n_classes, bounds=(0, 7, 40, 90), n_features=5, dtype=torch.float64):
    """Return labelled instances with an intercept, some of weight 0, and the same in blocks."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(bounds[-1], n_features))
    y = (X @ rng.normal(size=(n_features, n_classes))).argmax(axis=1)
    y[:10] = np.arange(10) % n_classes
    weights = rng.integers(0, 3, size=len(X)).astype(float)
    likelihood = likelihood_of(n_classes)
    phi = torch.tensor(np.column_stack([X, np.ones(len(X))]), dtype=dtype)
    targets = likelihood.encode(torch.tensor(y, dtype=dtype))
    data = Labelled(phi, targets, torch.tensor(weights, dtype=dtype), likelihood)
    blocks = [
        Block(Labelled(*(part[a:b] for part in data[:3]), likelihood))
        for a, b in itertools.pairwise(bounds)
    ]
    return data, RowsInBlocks(BlocksInProcess(blocks))


def zero_of(data):
    return data.features.new_zeros(data.features.shape[1], data.likelihood.n_outputs)


def fitted(rows, data, *, structure, rules, prior_precision=0.3, tol=1e-10, **fields):
    settings = FitSettings(prior_precision, structure, "fit", tol)
    fields = {"classes": np.arange(max(2, data.likelihood.n_outputs))} | fields
    zero = zero_of(data)
    return fit(rows, data.features[0], zero, zero, settings, rules, **fields)


def mode_of(rows, prior, **options):
    return minimise(rows.objective(prior), prior.mean, **options)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("curvature", ["secant", "categorical", "gaussian"])
@pytest.mark.parametrize("calibration", ["loo", None])
def test_a_fit_in_blocks_is_that_of_the_whole(n_classes, structure, curvature, calibration):
    data, blocks = problem(n_classes)
    options = {
        "structure": structure,
        "rules": Rules(curvature=curvature, calibration=calibration, max_iter=50),
    }
    whole = fitted(RowsInMemory(data), data, **options)
    found = fitted(blocks, data, **options)
    assert found.mode.converged
    close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-9)
    close(found.model.posterior.mean, whole.model.posterior.mean)
    close(found.model.posterior.precision, whole.model.posterior.precision)
    close(found.model.calibration.temperature, whole.model.calibration.temperature)
    assert found.model.calibration.variance_scale == whole.model.calibration.variance_scale
    report, expected = found.model.report, whole.model.report
    assert (report.log_evidence is None) == (expected.log_evidence is None)
    assert (report.loo_score is None) == (expected.loo_score is None)
    if report.log_evidence is not None:
        close(report.log_evidence, expected.log_evidence)
    if calibration:
        close(report.loo_score, expected.loo_score)
    assert (report.evidence_slope, report.loo_proba) == (None, None)  # of rows that are at hand


@pytest.mark.parametrize("curvature", ["secant", "categorical"])
def test_what_is_cut_to_a_low_rank_is_so_in_blocks(curvature, monkeypatch):
    """By products with precisions; the search for axes in memory is one in single precision."""
    monkeypatch.setattr(rows_module, "_BYTES_AT_ONCE", 2**15)  # some classes at a time
    monkeypatch.setattr(leave_one_out, "_FEW_NUMBERS", 0)
    data, blocks = problem(5, n_features=80)
    options = {"structure": "low_rank", "rules": Rules(curvature=curvature)}
    whole, found = fitted(RowsInMemory(data), data, **options), fitted(blocks, data, **options)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    one, other = found.model.posterior, whole.model.posterior
    close(one.mean, other.mean)
    close(one.variance(data.features), other.variance(data.features))
    close(found.model.report.log_evidence, whole.model.report.log_evidence)
    close(found.model.calibration.temperature, whole.model.calibration.temperature)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("prior_precision", ["scale", "loo", "evidence"])
def test_the_prior_precision_in_blocks_is_that_of_the_whole(structure, prior_precision):
    data, blocks = problem(3)
    options = {"structure": structure, "rules": Rules(), "prior_precision": prior_precision}
    whole, found = fitted(RowsInMemory(data), data, **options), fitted(blocks, data, **options)
    # the search stops at 0.1 of log lambda: where it does may differ by rounding
    assert found.model.posterior.prior_precision == pytest.approx(
        whole.model.posterior.prior_precision, rel=1e-4
    )


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("calibration", ["loo", None])
def test_classes_can_be_examined_one_after_the_other(structure, calibration, monkeypatch):
    data, blocks = problem(4)
    options = {"structure": structure, "rules": Rules(calibration=calibration)}
    expected = fitted(blocks, data, **options).model
    monkeypatch.setattr("laplace_al.model.rows._BYTES_AT_ONCE", 1)
    found = fitted(blocks, data, **options).model
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    close(found.posterior.precision, expected.posterior.precision)
    close(found.calibration.scores, expected.calibration.scores)
    close(found.report.log_evidence, expected.report.log_evidence)
    if calibration:
        close(found.report.loo_score, expected.report.loo_score)


@pytest.mark.parametrize("n_at_once", [1, 3])
def test_a_shared_covariance_takes_no_memory_for_those_of_all_classes(n_at_once, monkeypatch):
    n_features = 16
    data, blocks = problem(12, (0, 7, 20), n_features - 1)
    monkeypatch.setattr("laplace_al.model.rows._BYTES_AT_ONCE", 8 * n_at_once * n_features**2)
    monkeypatch.setattr("laplace_al.model.calibration._NUMBERS_AT_ONCE", 1)
    with LargestTensor() as largest:
        fitted(blocks, data, structure="shared", rules=Rules(), prior_precision=1.0)
    assert largest.size == n_at_once * n_features**2


def test_a_weak_prior_takes_shorter_steps_until_it_is_there():
    data, blocks = problem(4)
    prior = IsotropicPrior(zero_of(data), 1e-4)
    mode = mode_of(blocks, prior, max_iter=100, tol=1e-8)
    expected = find_mode(data, prior, prior.mean, max_iter=100, tol=1e-8)
    assert mode.converged
    np.testing.assert_allclose(mode.mean, expected.mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prior_precision", [1e-8, 1e-5, 1e-2])
def test_the_mode_of_separable_data_is_found_as_in_memory(prior_precision):
    """Curvatures vanish by orders of magnitude while the mode seems near."""
    data, blocks = problem(2, (0, 7, 20), n_features=8)
    features, targets, weights, likelihood = data
    prior = IsotropicPrior(zero_of(data), prior_precision)
    options = {"max_iter": 100, "tol": 1e-6}
    mode = mode_of(blocks, prior, **options)
    assert mode.n_iter == find_mode(data, prior, prior.mean, **options).n_iter
    residual = likelihood.residual(features @ mode.mean, targets)
    gradient = prior.gradient(mode.mean) - features.T @ (weights[:, None] * residual)
    curvature = weights[:, None] * residual.abs() * (1 - residual.abs())
    root = prior.shared_root(features, curvature)
    assert torch.linalg.vector_norm(root.T @ gradient) < 2e-6


def test_single_precision_stops_where_its_digits_do():
    options = {"max_iter": 100, "tol": 1e-8}
    (double, in_double), (single, in_single) = problem(4), problem(4, dtype=torch.float32)
    expected = mode_of(in_double, IsotropicPrior(zero_of(double), 1e-2), **options)
    mode = mode_of(in_single, IsotropicPrior(zero_of(single), 1e-2), **options)
    assert mode.converged
    assert mode.n_iter <= expected.n_iter + 3


def test_the_limit_of_steps_is_kept():
    data, blocks = problem(3)
    mode = mode_of(blocks, IsotropicPrior(zero_of(data), 1.0), max_iter=1, tol=1e-8)
    assert (mode.n_iter, mode.converged) == (1, False)


def test_the_objective_in_blocks_is_that_of_the_whole():
    data, blocks = problem(3)
    prior = IsotropicPrior(zero_of(data), 0.3)
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, *prior.mean.shape, generator=generator).double()
    found = []
    for objective in (RowsInMemory(data).objective(prior), blocks.objective(prior)):
        value, gradient, point = objective.at(one)
        curvature = torch.tensor(objective.curvature(point))
        found.append((value, gradient, objective.product(point, other), curvature))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected.to(ours))


def test_the_preconditioner_in_blocks_is_that_of_one_logit():
    data, blocks = problem(2)
    prior = IsotropicPrior(zero_of(data), 0.3)
    found = []
    for objective in (RowsInMemory(data).objective(prior), blocks.objective(prior)):
        _, gradient, point = objective.at(prior.mean + 0.1)
        found.append(objective.preconditioner(point)(gradient))
        image = objective.product(point, found[-1])
        torch.testing.assert_close(image, gradient)  # it is the very inverse
    torch.testing.assert_close(*found)


def test_tuples_are_added_one_by_one():
    assert added((1, 2), (3, 4)) == (4, 6)
    assert added(1, 2) == 3
