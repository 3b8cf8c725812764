import pytest
import torch

from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.posterior import (
    FullPosterior,
    LowRankPosterior,
    PerClassPosterior,
    SharedPosterior,
)
from laplace_al.model.posterior.within import within
from laplace_al.model.structures import STRUCTURES


def learnt(structure, n=3, size=8, n_outputs=3):
    """Return a posterior of n instances, and an orthonormal basis of their span."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n, size, generator=generator, dtype=torch.float64)
    n_groups = structure.shape_of_root(size, n_outputs)[0]
    curvature = torch.rand(n, n_groups, generator=generator, dtype=torch.float64)
    mean = features.T @ torch.randn(n, n_outputs, generator=generator, dtype=torch.float64)
    posterior = structure.at_mode(mean, features, curvature, prior_precision=0.3)
    return posterior, torch.linalg.qr(features.T).Q


@pytest.mark.parametrize("structure", [SharedPosterior, PerClassPosterior])
def test_it_is_the_marginal_and_the_prior_is_outside(structure):
    posterior, basis = learnt(structure)
    inside, outside = within(posterior, basis)
    covariances = posterior.root @ posterior.root.mT
    narrow = inside.root @ inside.root.mT
    torch.testing.assert_close(narrow, basis.T @ covariances @ basis)
    rest = torch.eye(8).double() - basis @ basis.T
    torch.testing.assert_close(covariances, basis @ narrow @ basis.T + outside * rest)
    torch.testing.assert_close(basis @ inside.mean, posterior.mean)


@pytest.mark.parametrize("structure", [SharedPosterior, PerClassPosterior])
def test_what_was_learnt_elsewhere_is_not_overlooked(structure):
    posterior, basis = learnt(structure)
    assert within(posterior, basis[:, :2]) is None
    elsewhere = torch.linalg.qr(torch.cat([basis, torch.eye(8).double()], dim=1)).Q[:, 3:4]
    moved = posterior.with_mean(posterior.mean + 1e-6 * elsewhere)
    assert within(moved, basis) is None
    assert within(posterior, torch.cat([basis, elsewhere], dim=1)) is not None


def test_coupled_outputs_have_no_such_form():
    posterior = FullPosterior.prior(torch.zeros(4, 3).double(), 1.0)
    assert within(posterior, torch.eye(4).double()) is None


@pytest.mark.parametrize("n", [10, 40])
@pytest.mark.parametrize("n_more", [0, 5])
def test_low_rank(n, n_more):
    """Axes and labels that wait are narrowed, and the spread of a class is that outside."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n + n_more, 80, generator=generator, dtype=torch.float64)
    curvature = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    mean = features[:n].T @ torch.randn(n, 3, generator=generator, dtype=torch.float64)
    posterior = LowRankPosterior.at_mode(mean, features[:n], curvature, prior_precision=0.3)
    basis = torch.linalg.qr(features.T).Q
    if n_more:
        rule = STRUCTURES["low_rank"].update(
            likelihood_of(3), update="map", curvature="secant", step_size=1.0
        )
        targets = torch.eye(3).double()[torch.arange(n_more) % 3]
        weights = torch.ones(n_more).double()
        posterior = posterior.condition(features[n:], targets, weights, rule)
    inside, outside = within(posterior, basis)
    rows = torch.randn(20, 80, generator=generator, dtype=torch.float64)
    rest = (rows - rows @ basis @ basis.T).square().sum(dim=1)
    found = inside.variance(rows @ basis) + rest[:, None] * outside
    torch.testing.assert_close(found, posterior.variance(rows))
    torch.testing.assert_close(rows @ basis @ inside.mean, posterior.logits(rows))
    assert within(posterior, basis[:, :-1]) is None
