import pytest
import torch

from laplace_al.model.posterior import FullPosterior, PerClassPosterior, SharedPosterior
from laplace_al.model.posterior.within import within


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
