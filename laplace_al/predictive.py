"""Probabilities under weights drawn from a posterior."""

from collections.abc import Iterable, Iterator

import torch

from laplace_al.calibration import Calibration
from laplace_al.likelihoods import Likelihood
from laplace_al.posterior import Posterior
from laplace_al.typing import Projection

# Draws at a time: the noise must not depend on how many inputs there are.
_DRAWS_AT_ONCE = 32


def sampled_probabilities(
    posterior: Posterior,
    project: Projection,
    likelihood: Likelihood,
    calibration: Calibration,
    n_samples: int,
    seed: int,
) -> Iterator[torch.Tensor]:
    """Class probabilities under each of the drawn weights, some draws at a time.

    Parameters
    ----------
    posterior : Posterior
    project : callable
        Weights (D, m) to logits (n, m): the product with the features.
    likelihood : Bernoulli or Categorical
    calibration : Calibration
        Its temperature divides the mean, its scale multiplies the variance.
    n_samples : int
        Number of draws S.
    seed : int
        The same seed draws the same weights, whatever the inputs.

    Yields
    ------
    Tensor of shape (s, n, K)
        s draws; they add up to S.

    Examples
    --------
    >>> from laplace_al.calibration import Calibration
    >>> from laplace_al.likelihoods import Bernoulli
    >>> from laplace_al.posterior import SharedPosterior
    >>> prior = SharedPosterior.prior(torch.zeros(1, 1), 1.0)
    >>> draws = sampled_probabilities(
    ...     prior, torch.ones(3, 1).mm, Bernoulli(), Calibration(), n_samples=40, seed=0)
    >>> [part.shape for part in draws]
    [torch.Size([32, 3, 2]), torch.Size([8, 3, 2])]
    """
    generator = torch.Generator().manual_seed(seed)
    scale, temperature = calibration.variance_scale**0.5, calibration.temperature
    for start in range(0, n_samples, _DRAWS_AT_ONCE):
        weights = posterior.sample(min(_DRAWS_AT_ONCE, n_samples - start), generator)
        weights = posterior.mean / temperature + scale * (weights - posterior.mean)
        n_draws, n_features, n_outputs = weights.shape
        logits = project(weights.permute(1, 0, 2).reshape(n_features, -1))  # (n, s C)
        log_proba = likelihood.log_probabilities(logits.reshape(-1, n_outputs))
        yield log_proba.exp().reshape(len(logits), n_draws, -1).transpose(0, 1)


def averaged(draws: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of the probabilities, and mean of their entropies in nats.

    Parameters
    ----------
    draws : iterable of Tensor of shape (s, n, K)

    Returns
    -------
    probabilities : Tensor of shape (n, K)
    entropy : Tensor of shape (n,)

    Examples
    --------
    >>> averaged([torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])])
    (tensor([[0.5000, 0.5000]]), tensor([0.]))
    """
    probabilities = entropy = torch.zeros(())
    n_draws = 0
    for part in draws:
        probabilities = probabilities + part.sum(dim=0)
        entropy = entropy + torch.special.entr(part).sum(dim=(0, 2))
        n_draws += len(part)
    return probabilities / n_draws, entropy / n_draws
