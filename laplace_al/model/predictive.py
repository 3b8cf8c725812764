"""Probabilities under weights drawn from a posterior."""

from collections.abc import Callable, Iterable, Iterator

import torch

from laplace_al._common.typing import Projection
from laplace_al.model.calibration import Calibration
from laplace_al.model.likelihoods import Likelihood
from laplace_al.model.posterior import Posterior

# Draws at a time: the noise must not depend on how many inputs there are.
_DRAWS_AT_ONCE = 32


def sampled_weights(
    posterior: Posterior, calibration: Calibration, n_samples: int, seed: int
) -> Iterator[torch.Tensor]:
    """Weights drawn from a posterior and calibrated, some draws at a time.

    Parameters
    ----------
    posterior : Posterior
    calibration : Calibration
        Its temperature divides the mean, its scale multiplies the variance.
    n_samples : int
        Number of draws S.
    seed : int
        The same seed draws the same weights.

    Yields
    ------
    Tensor of shape (s, D, C)
        s draws; they add up to S.

    Examples
    --------
    >>> from laplace_al.model.calibration import Calibration
    >>> from laplace_al.model.posterior import SharedPosterior
    >>> prior = SharedPosterior.prior(torch.zeros(1, 1), 1.0)
    >>> [part.shape for part in sampled_weights(prior, Calibration(), n_samples=40, seed=0)]
    [torch.Size([32, 1, 1]), torch.Size([8, 1, 1])]
    """
    generator = torch.Generator().manual_seed(seed)
    scale, temperature = calibration.variance_scale**0.5, calibration.temperature
    for start in range(0, n_samples, _DRAWS_AT_ONCE):
        weights = posterior.sample(min(_DRAWS_AT_ONCE, n_samples - start), generator)
        yield posterior.mean / temperature + scale * (weights - posterior.mean)


def sampled_probabilities(
    weights: Iterable[torch.Tensor], n_samples: int, project: Projection, likelihood: Likelihood
) -> torch.Tensor:
    """Class probabilities under each of the drawn weights.

    Parameters
    ----------
    weights : iterable of Tensor of shape (s, D, C)
        See :func:`sampled_weights`.
    n_samples : int
        Number of draws S.
    project : callable
        Weights (D, m) to logits (n, m): the product with the features.
    likelihood : Bernoulli or Categorical

    Returns
    -------
    Tensor of shape (S, n, K)

    Examples
    --------
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> weights = [torch.zeros(2, 1, 1)]
    >>> sampled_probabilities(weights, 2, torch.ones(3, 1).mm, Bernoulli()).shape
    torch.Size([2, 3, 2])
    """
    whole, start = torch.empty(0), 0
    for some in weights:
        part = _probabilities(some, project, likelihood)
        if not start:
            whole = part.new_empty(n_samples, *part.shape[1:])
        whole[start : start + len(part)] = part
        start += len(part)
    return whole


def _probabilities(
    weights: torch.Tensor, project: Projection, likelihood: Likelihood
) -> torch.Tensor:
    """Class probabilities (s, n, K) under weights (s, D, C)."""
    n_draws, n_features, n_outputs = weights.shape
    logits = project(weights.permute(1, 0, 2).reshape(n_features, -1))  # (n, s C)
    log_proba = likelihood.log_probabilities(logits.reshape(-1, n_outputs))
    return log_proba.exp().reshape(len(logits), n_draws, -1).transpose(0, 1)


def averaged(
    weights: Iterable[torch.Tensor],
    rows: Callable[[slice], torch.Tensor],
    n_rows: int,
    likelihood: Likelihood,
    n_classes: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of the probabilities, and mean of their entropies in nats, some rows at a time.

    Parameters
    ----------
    weights : iterable of Tensor of shape (s, D, C)
        See :func:`sampled_weights`.
    rows : callable
        From a slice of the inputs to their features (m, D).
    n_rows : int
        n.
    likelihood : Bernoulli or Categorical
    n_classes : int
        K.

    Returns
    -------
    probabilities : Tensor of shape (n, K)
    entropy : Tensor of shape (n,)

    Examples
    --------
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> weights = [torch.tensor([[[-999.0]], [[999.0]]])]
    >>> averaged(weights, torch.ones(1, 1).__getitem__, 1, Bernoulli(), 2)
    (tensor([[0.5000, 0.5000]]), tensor([0.]))
    """
    probabilities = entropy = torch.zeros(())
    size, n_draws = max(1, NUMBERS_AT_ONCE // (_DRAWS_AT_ONCE * n_classes)), 0
    for some in weights:
        if not n_draws:
            probabilities, entropy = some.new_zeros(n_rows, n_classes), some.new_zeros(n_rows)
        for start in range(0, n_rows, size):
            here = slice(start, start + size)
            part = _probabilities(some, rows(here).mm, likelihood)
            probabilities[here] += part.sum(dim=0)
            entropy[here] += torch.special.entr(part).sum(dim=(0, 2))
        n_draws += len(some)
    return probabilities / n_draws, entropy / n_draws


# Probabilities that are computed at once, of which there are a few copies.
NUMBERS_AT_ONCE = 2**22
