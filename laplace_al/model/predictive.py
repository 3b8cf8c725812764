"""Probabilities under weights drawn from a posterior."""

from collections.abc import Callable, Iterable, Iterator

import torch

from laplace_al._common.typing import Projection
from laplace_al.model.calibration import Calibration
from laplace_al.model.likelihoods import Likelihood
from laplace_al.model.posterior import Posterior

# Draws at a time: the noise must not depend on how many inputs there are.
_DRAWS_AT_ONCE = 32
# Probabilities that are computed at once, of which there are a few copies.
NUMBERS_AT_ONCE = 2**22


def sampled_weights(
    posterior: Posterior, calibration: Calibration, n_samples: int, seed: int
) -> Iterator[torch.Tensor]:
    """Yield weights (s, D, C), some draws at a time: in all so many, the same for the same seed.

    The temperature of the calibration divides the mean, its scale multiplies the variance.
    """
    generator = torch.Generator().manual_seed(seed)
    scale, temperature = calibration.variance_scale**0.5, calibration.temperature
    for start in range(0, n_samples, _DRAWS_AT_ONCE):
        weights = posterior.sample(min(_DRAWS_AT_ONCE, n_samples - start), generator)
        yield posterior.mean / temperature + scale * (weights - posterior.mean)


def sampled_probabilities(
    weights: Iterable[torch.Tensor], n_samples: int, project: Projection, likelihood: Likelihood
) -> torch.Tensor:
    """Return probabilities (S, n, K) under S drawn weights, see :func:`sampled_weights`.

    ``project`` multiplies the features by weights (D, m), which gives logits (n, m).
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
    """Return class probabilities (s, n, K) under weights (s, D, C)."""
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
    """Return probabilities (n, K) and their entropies (n,) in nats, averaged over drawn weights.

    ``rows`` gives the features (m, D) of a slice of the inputs, so few that their probabilities
    under :func:`sampled_weights` fit into memory.
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
