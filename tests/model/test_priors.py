import numpy as np
import pytest
import torch

from laplace_al.model.priors import GaussianPrior, IsotropicPrior


def gaussian(n_groups, size=3, n_outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    n = size * n_outputs if n_groups == "full" else size
    root = torch.from_numpy(rng.normal(size=(1 if n_groups == "full" else n_groups, n, n)))
    reference, slope = torch.from_numpy(rng.normal(size=(2, size, n_outputs)))
    return GaussianPrior(root @ root.mT + torch.eye(n), reference, slope)


PRIORS = [
    IsotropicPrior(torch.ones(3, 2).double(), 0.7),
    gaussian(1),
    gaussian(2),
    gaussian("full"),
]


@pytest.mark.parametrize("prior", PRIORS)
def test_derivatives(prior):
    weights = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights.requires_grad_(True)
    (gradient,) = torch.autograd.grad(prior.value(weights), weights)
    torch.testing.assert_close(prior.gradient(weights.detach()), gradient)
    direction = torch.linspace(-1, 2, 6).reshape(3, 2).double()
    moved = prior.gradient(weights.detach() + direction) - prior.gradient(weights.detach())
    torch.testing.assert_close(prior.product(direction), moved)


@pytest.mark.parametrize("prior", PRIORS)
def test_data_is_absorbed_as_its_quadratic(prior):
    """Value, slope and curvature at W add up."""
    other = gaussian("full" if getattr(prior, "precision", 0) is PRIORS[3].precision else 1, seed=1)
    weights = torch.linspace(0, 1, 6).reshape(3, 2).double()
    both = prior.absorb(other.precision, other.gradient(weights), weights)
    away = weights + torch.linspace(1, -2, 6).reshape(3, 2).double()
    expected = prior.value(away) - prior.value(weights) + other.value(away) - other.value(weights)
    torch.testing.assert_close(both.value(away) - both.value(weights), expected)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_shared_root_is_that_of_the_mean_over_the_outputs(prior):
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(5, 3)))
    curvature = torch.from_numpy(rng.uniform(size=(5, 1)))
    blocks = []
    for k in range(2):
        columns = []
        for d in range(3):
            unit = torch.zeros(3, 2).double()
            unit[d, k] = 1
            columns.append(prior.product(unit)[:, k])
        blocks.append(torch.stack(columns, dim=1))
    precision = sum(blocks) / 2 + (features * curvature).T @ features
    root = prior.shared_root(features, curvature)
    torch.testing.assert_close(root @ root.T, torch.linalg.inv(precision))


def test_penalties_are_quadratic():
    one = torch.ones(1, 1)
    assert IsotropicPrior(0 * one, 3.0).value(one) == 1.5
    assert GaussianPrior(4 * one[None], 0 * one, one).value(one) == 3.0  # 1 + 4 / 2
