"""The log evidence of a fit, and its slope along the log of the prior precision.

The slope takes a linear system of all weights to solve: it is computed for who asks.

MacKay, *The evidence framework applied to classification networks*, Neural Computation 4(5), 1992.
"""

from typing import NamedTuple

import numpy as np
import torch

from laplace_al.model.curvatures import per_class_curvature
from laplace_al.model.mode import InMemory, Labelled, solve_hessian
from laplace_al.model.posterior import FullPosterior
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.rows import Block, Rows, RowsInMemory
from laplace_al.model.structures import Structure


class _DeterminantSlope(NamedTuple):
    """The derivatives of log det A, along the weights and log lambda.

    ``along_weights`` (D, C) is its derivative along W, through the curvature of the instances, and
    ``n_effective`` is tr H Sigma with the data's part H of A: how many weights the data determines.
    """

    along_weights: torch.Tensor
    n_effective: torch.Tensor


def log_evidence(
    rows: Rows,
    mean: torch.Tensor,
    prior: IsotropicPrior,
    structure: Structure,
    log_determinant: torch.Tensor,
) -> float:
    """Return log p(y | W) + log p(W) + D C / 2 log 2 pi - log det A / 2 at a mode W.

    ``rows`` know their variances. The curvature is p_k (1 - p_k) of each class on its own, whose
    log determinant is given, or diag p - p p^T where the structure couples the classes.
    """
    if _is_coupled(structure, mean):
        log_determinant = _coupled_posterior(rows, mean, prior, structure).log_determinant()
    fit = -rows.total(loss_at, mean) - prior.value(mean)
    scale = mean.numel() / 2 * np.log(prior.precision)
    return float(fit + scale - log_determinant / 2)  # eq-evidence


def loss_at(block: Block, mean: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood at W."""
    features, targets, weights, likelihood = block.data
    return weights @ likelihood.negative_log_likelihood(features @ mean, targets)


def evidence_slope(
    rows: RowsInMemory, mean: torch.Tensor, prior: IsotropicPrior, structure: Structure
) -> float:
    """Return the derivative of the log evidence along log lambda, the mode moving along.

    (gamma - lambda |W - W_0|^2 + <dlog det A / dW, H^-1 lambda (W - W_0)>) / 2 with the number
    gamma of weights that the data determines. MacKay's rule leaves the last term out.
    """
    if _is_coupled(structure, mean):
        coupled = _coupled_posterior(rows, mean, prior, structure)
        determinant = _coupled_slope(rows.data, mean, coupled)
    else:
        assert rows.variance is not None
        determinant = _per_class_slope(rows.data, mean, rows.variance)
    gradient = prior.gradient(mean)
    gain = determinant.along_weights * solve_hessian(InMemory(rows.data, prior), mean, gradient)
    # eq-evidence-slope
    fading = (gradient * (mean - prior.mean)).sum()
    return float(determinant.n_effective - fading + gain.sum()) / 2


def _is_coupled(structure: Structure, mean: torch.Tensor) -> bool:
    return structure.is_coupled and mean.shape[1] > 1


def _coupled_posterior(
    rows: Rows, mean: torch.Tensor, prior: IsotropicPrior, structure: Structure
) -> FullPosterior:
    posterior = rows.posterior(structure, mean, prior, "categorical")
    assert isinstance(posterior, FullPosterior)
    return posterior


def _per_class_slope(
    data: Labelled, mean: torch.Tensor, variance: torch.Tensor
) -> _DeterminantSlope:
    """Return the slope for the curvature p_k (1 - p_k) of each class on its own."""
    features, _, weights, likelihood = data
    probabilities = likelihood.mean(features @ mean)
    curvature = per_class_curvature(probabilities)
    # dh_k = (1 - 2 p_k) dp_k
    slope = likelihood.hessian_product(probabilities, variance * (1 - 2 * probabilities.p))
    n_effective = weights @ (curvature * variance).sum(dim=1)
    return _DeterminantSlope(features.T @ (weights[:, None] * slope), n_effective)


def _coupled_slope(
    data: Labelled, mean: torch.Tensor, posterior: FullPosterior
) -> _DeterminantSlope:
    """Return the slope for the curvature H = diag p - p p^T, which couples the classes."""
    features, _, weights, likelihood = data
    probabilities = likelihood.mean(features @ mean)
    variance = posterior.variance(features)
    covariance = posterior.covariance_product(features, probabilities.p)  # V p
    # tr V dH = (diag V - 2 V p) dp
    slope = likelihood.hessian_product(probabilities, variance - 2 * covariance)
    n_effective = weights @ (probabilities.p * (variance - covariance)).sum(dim=1)
    return _DeterminantSlope(features.T @ (weights[:, None] * slope), n_effective)
