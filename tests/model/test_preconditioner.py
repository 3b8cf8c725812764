import numpy as np
import pytest
import torch

from laplace_al.model.preconditioner import (
    ClassPreconditioner,
    SharedPreconditioner,
    preconditioner_of,
)
from laplace_al.model.priors import GaussianPrior, IsotropicPrior


@pytest.fixture(autouse=True)
def no_problem_is_small(monkeypatch):
    monkeypatch.setattr("laplace_al.model.preconditioner._SMALL", 0)


def dense(precondition, size, n_outputs):
    """Return the matrix (D C, D C) that a preconditioner multiplies by."""
    unit = torch.eye(size * n_outputs).double().reshape(-1, size, n_outputs)
    return torch.stack([precondition(column).flatten() for column in unit], dim=1)


def problem(n=30, size=4, n_outputs=3, seed=0):
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.normal(size=(n, size)))
    curvature = torch.from_numpy(rng.uniform(0, 0.25, size=(n, n_outputs)))
    return features, curvature, IsotropicPrior(torch.zeros(size, n_outputs).double(), 0.3)


def test_equal_curvatures_are_inverted_exactly():
    features, curvature, prior = problem()
    curvature = curvature[:, :1].expand(-1, 3)
    precondition = preconditioner_of(features, curvature, prior)
    assert isinstance(precondition, SharedPreconditioner)
    precision = 0.3 * torch.eye(4) + (features.T * curvature[:, 0]) @ features
    expected = torch.kron(torch.linalg.inv(precision).contiguous(), torch.eye(3).double())
    torch.testing.assert_close(dense(precondition, 4, 3), expected)


def test_classes_are_inverted_each_up_to_what_is_common():
    """With few instances the low rank holds all of them: the twin inverts each class."""
    features, curvature, prior = problem(n=9)
    precondition = preconditioner_of(features, curvature, prior)
    assert isinstance(precondition, ClassPreconditioner)
    shared = (curvature.sum(dim=1) - curvature.amax(dim=1)) / 2
    h = torch.maximum(curvature, shared[:, None])
    classes = [
        torch.linalg.inv(0.3 * torch.eye(4) + (features.T * each) @ features) for each in h.T
    ]
    blocks = torch.block_diag(*classes).reshape(3, 4, 3, 4).permute(1, 0, 3, 2).reshape(12, 12)
    mean = torch.kron(torch.eye(4), torch.full((3, 3), 1 / 3)).double()
    centre = torch.eye(12) - mean
    torch.testing.assert_close(dense(precondition, 4, 3), centre @ blocks @ centre + mean / 0.3)


@pytest.mark.parametrize("n", [3, 40, 500])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_symmetric_and_positive_definite(n, dtype):
    features, curvature, prior = problem(n, n_outputs=5)
    prior = prior._replace(mean=prior.mean.to(dtype))
    precondition = preconditioner_of(features.to(dtype), curvature.to(dtype), prior)
    matrix = dense(lambda right: precondition(right.to(dtype)).double(), 4, 5)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-4, atol=1e-6)
    assert torch.linalg.eigvalsh(matrix).min() > 0


def test_single_precision_bears_a_prior_that_it_loses():
    features, curvature, prior = problem(n_outputs=1)
    features[:, 1] = features[:, 0]
    prior = IsotropicPrior(prior.mean.float(), 1e-12)
    precondition = preconditioner_of(features.float(), curvature.float(), prior)
    assert torch.isfinite(precondition(torch.ones(4, 1))).all()


def test_of_a_gaussian_prior_it_is_the_mean_precision():
    features, curvature, _ = problem(n_outputs=2)
    own = torch.diag_embed(torch.tensor([[1.0, 2, 3, 4], [3.0, 2, 1, 0.5]]).double())
    zero = torch.zeros(4, 2).double()
    precondition = preconditioner_of(features, curvature, GaussianPrior(own, zero, zero))
    precision = own.mean(dim=0) + (features.T * curvature.mean(dim=1)) @ features
    expected = torch.kron(torch.linalg.inv(precision).contiguous(), torch.eye(2).double())
    torch.testing.assert_close(dense(precondition, 4, 2), expected)


def test_curvatures_of_nothing_leave_the_prior():
    features, curvature, prior = problem()
    precondition = preconditioner_of(features, 0 * curvature, prior)
    torch.testing.assert_close(dense(precondition, 4, 3), torch.eye(12).double() / 0.3)
