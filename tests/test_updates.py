import pytest
import torch

from laplace_al.likelihoods import (
    Categorical,
    full_curvature_root,
    per_class_curvature,
    shared_curvature,
)
from laplace_al.updates import CoupledMapUpdate, CoupledNewtonUpdate, MapUpdate, NewtonUpdate

LOGITS = torch.tensor([[1.0, -1.0, 0.5], [0.0, 4.0, -2.0]]).double()
TARGETS = torch.eye(3)[[1, 2]].double()
WEIGHTS = torch.tensor([1.0, 2.5]).double()
VARIANCES = {
    shared_curvature: torch.tensor([[0.5], [3.0]]).double(),
    per_class_curvature: torch.tensor([[0.5, 1.0, 2.0], [3.0, 0.1, 1.0]]).double(),
}
curvatures = pytest.mark.parametrize("curvature", VARIANCES)


@curvatures
def test_newton_steps_along_the_new_covariance(curvature):
    update = NewtonUpdate(Categorical(3), curvature, step_size=0.3)
    variance = VARIANCES[curvature]
    coefficients, h = update(LOGITS, variance, TARGETS, WEIGHTS)
    p = torch.softmax(LOGITS, dim=1)
    torch.testing.assert_close(h, WEIGHTS[:, None] * curvature(p))
    # Sigma_new phi = Sigma_old phi / (1 + h v)
    step = 0.3 * WEIGHTS[:, None] / (1 + h * variance)
    torch.testing.assert_close(coefficients, step * (TARGETS - p))


@curvatures
def test_map_takes_the_curvature_at_the_new_mode(curvature):
    variance = VARIANCES[curvature]
    coefficients, h = MapUpdate(Categorical(3), curvature)(LOGITS, variance, TARGETS, WEIGHTS)
    p = torch.softmax(LOGITS + variance * coefficients, dim=1)
    torch.testing.assert_close(coefficients, WEIGHTS[:, None] * (TARGETS - p))
    torch.testing.assert_close(h, WEIGHTS[:, None] * curvature(p))


@pytest.mark.parametrize("row", [0, 1])
def test_coupled_updates_agree_with_the_others_on_equal_independent_logits(row):
    """With V = v I and H = h I there is nothing to couple."""
    one = slice(row, row + 1)
    variance = VARIANCES[shared_curvature][one]
    covariance = variance * torch.eye(3).double()
    instance = (TARGETS[one], WEIGHTS[one])

    def identity(p):
        return torch.eye(3).double()

    def ones(p):
        return torch.ones_like(p[:, :1])

    for plain, coupled in [
        (NewtonUpdate(Categorical(3), ones), CoupledNewtonUpdate(Categorical(3), identity)),
        (MapUpdate(Categorical(3), ones), CoupledMapUpdate(Categorical(3), identity)),
    ]:
        a, h = plain(LOGITS[one], variance, *instance)
        coupled_a, root = coupled(LOGITS[one], covariance, *instance)
        torch.testing.assert_close(coupled_a, a)
        torch.testing.assert_close(root @ root.T, h * torch.eye(3).double())


def test_coupled_curvature_is_that_of_the_softmax():
    covariance = torch.eye(3).double()
    update = CoupledMapUpdate(Categorical(3), full_curvature_root)
    a, root = update(LOGITS[1:], covariance, TARGETS[1:], WEIGHTS[1:])
    p = torch.softmax(LOGITS[1:] + a @ covariance, dim=1)[0]
    torch.testing.assert_close(root @ root.T, 2.5 * (torch.diag(p) - torch.outer(p, p)))
