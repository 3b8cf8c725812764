import numpy as np
import pytest
import torch

from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.mode import Labelled
from laplace_al.model.posterior import SharedPosterior
from laplace_al.model.posterior.roots import root_of_precision
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.structures import STRUCTURES


def relative_error(value, truth):
    return float((value - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize("curvature", ["gaussian", "categorical"])
def test_golden_precision_and_covariance(golden, curvature):
    numbers = golden(curvature)
    features = numbers["features_train"]
    data = Labelled(features, torch.empty(0), torch.ones(60).double(), likelihood_of(4))
    prior = IsotropicPrior(torch.zeros_like(numbers["mean"]), 1.0)
    posterior = STRUCTURES["shared"].at_mode(data, numbers["mean"], curvature, prior)
    assert relative_error(posterior.precision, numbers["precision"]) < 1e-10
    assert relative_error(posterior.covariance, numbers["covariance"]) < 1e-10


@pytest.mark.parametrize("n_passes", [1, 2])
@pytest.mark.parametrize("step_size", [1, 10])
def test_golden_newton_updates(golden, step_size, n_passes):
    numbers = golden("gaussian")
    likelihood = likelihood_of(4)
    root = root_of_precision(numbers["precision"][None])
    posterior = SharedPosterior(numbers["mean"], root, 1.0, torch.zeros_like(numbers["mean"]))
    update = STRUCTURES["shared"].update(
        likelihood, update="newton", curvature="gaussian", step_size=step_size
    )
    targets = likelihood.encode(numbers["y_new"].double())
    for _ in range(n_passes):
        posterior = posterior.condition(
            numbers["features_new"], targets, torch.ones(len(targets)).double(), update
        )
    name = f"newton_gamma{step_size}_passes{n_passes}"
    assert relative_error(posterior.mean, numbers[f"{name}_mean"]) < 1e-10
    assert relative_error(posterior.covariance, numbers[f"{name}_covariance"]) < 1e-10


def test_it_holds_one_root():
    assert SharedPosterior.prior(torch.zeros(5, 3), 1.0).root.shape == (1, 5, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_adds_up_slowly(dtype):
    """As the root of the number of updates, not as the number."""
    rows = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    posterior = SharedPosterior.prior(torch.zeros(3, 1, dtype=dtype), 1.0)
    one = torch.ones(1, 1, dtype=dtype)
    for row in rows:
        posterior = posterior.condition(
            row[None], one, one[0], lambda *_: (np.zeros(1), np.ones(1))
        )
    precision = torch.eye(3).double() + rows.double().T @ rows.double()
    exact = torch.linalg.inv(precision).diagonal()
    found = posterior.covariance.double().diagonal()
    assert (found / exact - 1).abs().max() < torch.finfo(dtype).eps * 3000**0.5
