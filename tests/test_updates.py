import torch

from laplace_al.likelihoods import Categorical, categorical_curvature, gaussian_curvature
from laplace_al.updates import MapUpdate, NewtonUpdate

LOGITS = torch.tensor([[1.0, -1.0, 0.5], [0.0, 4.0, -2.0]]).double()
VARIANCE = torch.tensor([0.5, 3.0]).double()
TARGETS = torch.eye(3)[[1, 2]].double()
WEIGHTS = torch.tensor([1.0, 2.5]).double()


def test_newton_steps_along_the_new_covariance():
    update = NewtonUpdate(Categorical(3), categorical_curvature, step_size=0.3)
    coefficients, curvature = update(LOGITS, VARIANCE, TARGETS, WEIGHTS)
    p = torch.softmax(LOGITS, dim=1)
    h = WEIGHTS * p.amax(dim=1) * (1 - p.amax(dim=1))
    torch.testing.assert_close(curvature, h)
    # Sigma_new phi = Sigma_old phi / (1 + h v)
    step = 0.3 * WEIGHTS / (1 + h * VARIANCE)
    torch.testing.assert_close(coefficients, step[:, None] * (TARGETS - p))


def test_map_takes_the_curvature_at_the_new_mode():
    update = MapUpdate(Categorical(3), categorical_curvature)
    coefficients, curvature = update(LOGITS, VARIANCE, TARGETS, WEIGHTS)
    p = torch.softmax(LOGITS + VARIANCE[:, None] * coefficients, dim=1)
    torch.testing.assert_close(coefficients, WEIGHTS[:, None] * (TARGETS - p))
    torch.testing.assert_close(curvature, WEIGHTS * p.amax(dim=1) * (1 - p.amax(dim=1)))


def test_gaussian_curvature_is_the_weight():
    for update in (NewtonUpdate, MapUpdate):
        _, curvature = update(Categorical(3), gaussian_curvature)(
            LOGITS, VARIANCE, TARGETS, WEIGHTS
        )
        torch.testing.assert_close(curvature, WEIGHTS)
