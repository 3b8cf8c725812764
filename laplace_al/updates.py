"""What one label does to the posterior: the step of the mean and the weight in the precision.

An update maps the logits and variance of instances *before* their labels are known to
``(coefficients, curvature)`` with

    W      <- W + u a^T,                     u = Sigma_old phi, a the coefficients (n, C)
    Sigma  <- Sigma - h / (1 + h v) u u^T,   h the curvature (n,), weights included

so that posteriors and pools share the very same numbers.
"""

from collections.abc import Callable
from typing import NamedTuple

from laplace_al.likelihoods import Bernoulli, Categorical, mode_coefficients


class NewtonUpdate(NamedTuple):
    """One Newton step per label: ``W += step_size Sigma_new phi s (y - p)^T``.

    Huseljic et al., *Efficient Bayesian Updates for Deep (Active) Learning via Laplace
    Approximations*, arXiv 2210.06112. With ``Sigma_new phi = Sigma_old phi / (1 + h v)``.

    Parameters
    ----------
    likelihood : Bernoulli or Categorical
    curvature : callable
        Probabilities (n, C) to weights in the precision (n,).
    step_size : float
        gamma, > 0.

    Examples
    --------
    >>> import torch
    >>> from laplace_al.likelihoods import Bernoulli, gaussian_curvature
    >>> update = NewtonUpdate(Bernoulli(), gaussian_curvature, step_size=1.0)
    >>> one = torch.ones(1)
    >>> update(torch.zeros(1, 1), one, torch.ones(1, 1), one)
    (tensor([[0.2500]]), tensor([1.]))
    """

    likelihood: Bernoulli | Categorical
    curvature: Callable
    step_size: float = 1.0

    def __call__(self, logits, variance, targets, weights):
        """Logits (n, C), variance (n,), targets (n, C), weights (n,) to a (n, C) and h (n,)."""
        curvature = weights * self.curvature(self.likelihood.mean(logits))
        gain = self.step_size * weights / (1 + curvature * variance)
        return gain[:, None] * self.likelihood.residual(logits, targets), curvature


class MapUpdate(NamedTuple):
    """The exact mode of the current Gaussian times the likelihood of the label.

    Needs no step size and cannot overshoot; the curvature is taken at the new mode.

    Parameters
    ----------
    likelihood : Bernoulli or Categorical
    curvature : callable
        Probabilities (n, C) to weights in the precision (n,).

    Examples
    --------
    >>> import torch
    >>> from laplace_al.likelihoods import Bernoulli, categorical_curvature
    >>> update = MapUpdate(Bernoulli(), categorical_curvature)
    >>> one = torch.ones(1)
    >>> step, curvature = update(torch.zeros(1, 1), one, torch.ones(1, 1), one)
    >>> torch.allclose(step, 1 - torch.sigmoid(step))  # z = 0 and v = 1: a = y - p(a)
    True
    """

    likelihood: Bernoulli | Categorical
    curvature: Callable

    def __call__(self, logits, variance, targets, weights):
        """Logits (n, C), variance (n,), targets (n, C), weights (n,) to a (n, C) and h (n,)."""
        coefficients, shifted = mode_coefficients(
            self.likelihood, logits, variance[:, None], targets, weights
        )
        return coefficients, weights * self.curvature(self.likelihood.mean(shifted))
