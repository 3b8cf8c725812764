"""The maximum a posteriori (MAP) of the last layer, by Newton steps."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from laplace_al.likelihoods import Likelihood
from laplace_al.priors import Prior

_MAX_CG_STEPS = 500
MAX_HALVINGS = 60
FORCING = 0.25
SETTLED = 0.3  # of a logit: curvatures change by less than a third


class Mode(NamedTuple):
    """Where the search for the MAP ended.

    Parameters
    ----------
    mean : Tensor of shape (D, C)
        The weights.
    n_iter : int
        Newton steps taken.
    distance : float
        Estimated distance to the MAP, in standard deviations of the posterior.
    converged : bool
        Whether the distance is within the tolerance, or within what the dtype can resolve.
    """

    mean: torch.Tensor
    n_iter: int
    distance: float
    converged: bool


def find_mode(
    features: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    likelihood: Likelihood,
    prior: Prior,
    start: torch.Tensor,
    *,
    max_iter: int,
    tol: float,
) -> Mode:
    """Minimise ``sum s CE(y, Phi W) + prior(W)`` over W, the prior ``lambda / 2 |W|^2``, say.

    Newton steps, each solved by conjugate gradients that are preconditioned with the shared
    covariance (one D x D factor for all outputs), with backtracking. Convex: any start
    leads to the one MAP.

    Parameters
    ----------
    features : Tensor of shape (n, D)
    targets : Tensor of shape (n, C)
    weights : Tensor of shape (n,)
        s, >= 0.
    likelihood : Bernoulli or Categorical
    prior : IsotropicPrior or GaussianPrior
    start : Tensor of shape (D, C)
    max_iter : int
        Newton steps at most.
    tol : float
        Distance to the MAP, in standard deviations of the posterior, that counts as there.

    Returns
    -------
    Mode

    Raises
    ------
    ValueError
        If the prior is lost to rounding beside the features.

    Examples
    --------
    >>> import torch
    >>> from laplace_al.likelihoods import Bernoulli
    >>> from laplace_al.priors import IsotropicPrior
    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> prior = IsotropicPrior(0 * one, 1.0)
    >>> mode = find_mode(one, one, one[0], Bernoulli(), prior, 0 * one, max_iter=20, tol=1e-8)
    >>> torch.allclose(mode.mean, 1 - torch.sigmoid(mode.mean))  # lambda w = y - p
    True
    """
    weights = weights[:, None]
    mean = start
    logits = features @ mean

    def objective(mean: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        data = (weights[:, 0] * likelihood.negative_log_likelihood(logits, targets)).sum()
        return data + prior.value(mean)  # eq-objective

    value, moved, distance = objective(mean, logits), float("inf"), float("inf")
    rounding = torch.finfo(start.dtype).eps
    for n_iter in range(max_iter + 1):
        probabilities = likelihood.mean(logits)
        # eq-gradient
        gradient = features.T @ (weights * (probabilities - targets)) + prior.gradient(mean)
        if moved > SETTLED:  # else the curvature has hardly changed
            curvature = weights * (probabilities * (1 - probabilities)).mean(dim=1, keepdim=True)
            root = prior.shared_root(features, curvature)
        before, distance = distance, float(torch.linalg.vector_norm(root.T @ gradient))
        resolution = rounding**0.5 * (1 + float(value.abs().sqrt()))
        is_stuck = before / 2 < distance <= resolution  # the dtype resolves no more
        if distance <= tol or is_stuck or n_iter == max_iter:
            break

        def hessian(
            direction: torch.Tensor, probabilities: torch.Tensor = probabilities
        ) -> torch.Tensor:
            curved = likelihood.hessian_product(probabilities, features @ direction)
            return features.T @ (weights * curved) + prior.product(direction)

        # quadratic convergence near the mode, and no digit beyond the tolerance
        forcing = min(FORCING, max(distance, tol / (2 * distance)))
        step = conjugate_gradients(hessian, -gradient, root, tol=forcing)
        slope = (gradient * step).sum()
        bound = value + 4 * rounding * (1 + value.abs())
        logit_step = features @ step
        for _ in range(MAX_HALVINGS):
            new_value = objective(mean + step, logits + logit_step)
            if new_value <= bound + 1e-4 * slope:
                break
            step, logit_step, slope = step / 2, logit_step / 2, slope / 2
        else:
            break  # no step decreases the objective
        mean, value = mean + step, new_value
        logits, moved = features @ mean, float(logit_step.abs().max())
    return Mode(mean, n_iter, distance, distance <= max(tol, resolution))


def conjugate_gradients(
    operator: Callable[[torch.Tensor], torch.Tensor],
    right: torch.Tensor,
    root: torch.Tensor,
    *,
    tol: float,
) -> torch.Tensor:
    """x in operator(x) = right, by preconditioned conjugate gradients.

    Parameters
    ----------
    operator : callable
        Product with a symmetric positive definite matrix: (D, C) to (D, C).
    right : Tensor of shape (D, C)
    root : Tensor of shape (D, D)
        R of the preconditioner R R^T.
    tol : float
        Relative, in the norm of the preconditioner.

    Returns
    -------
    Tensor of shape (D, C)

    Examples
    --------
    >>> one = torch.ones(1, 1)
    >>> conjugate_gradients(lambda x: 4 * x, one, one, tol=0.1)
    tensor([[0.2500]])
    """
    solution = torch.zeros_like(right)
    residual = right
    preconditioned = root @ (root.T @ residual)
    direction = preconditioned
    energy = (residual * preconditioned).sum()
    target = tol**2 * energy
    for _ in range(_MAX_CG_STEPS):
        image = operator(direction)
        length = energy / (direction * image).sum()
        solution = solution + length * direction
        residual = residual - length * image
        preconditioned = root @ (root.T @ residual)
        new_energy = (residual * preconditioned).sum()
        if new_energy <= target:
            break
        direction = preconditioned + new_energy / energy * direction
        energy = new_energy
    return solution
