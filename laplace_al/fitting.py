"""What a fit finds out besides the mode: leave-one-out, evidence and the prior precision."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from laplace_al.curvatures import per_class_curvature, secant_stiffening
from laplace_al.leave_one_out import LeftOut, leave_one_out, per_class_laplace
from laplace_al.likelihoods import Likelihood
from laplace_al.priors import IsotropicPrior
from laplace_al.structures import STRUCTURES

# Prior precisions that are tried, in units of the mean square of a row of features.
_RANGE = np.logspace(-6, 2, 9)
_SEARCH_TOLERANCE = 0.1  # of log lambda
_SHARE_OF_SPREAD = 0.01  # near the best on images, text and tables with 10 to 1000 labels


class Labelled(NamedTuple):
    """Labelled instances of a last layer.

    Parameters
    ----------
    features : Tensor of shape (n, D)
    targets : Tensor of shape (n, C)
    weights : Tensor of shape (n,)
    likelihood : Bernoulli or Categorical
    """

    features: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    likelihood: Likelihood


class Examined(NamedTuple):
    """What the data says of a mode.

    Parameters
    ----------
    left_out : LeftOut
        Logits of each instance without it.
    stiffening : Tensor of shape (n, C)
        Of the curvature, see :func:`laplace_al.curvatures.secant_stiffening`.
    log_evidence : float
        Log marginal likelihood, in nats.
    """

    left_out: LeftOut
    stiffening: torch.Tensor
    log_evidence: float


class LooScore(NamedTuple):
    """How good the leave-one-out probabilities of the labels are.

    Parameters
    ----------
    accuracy : float
        Share of labels that are the most probable class.
    log_likelihood : float
        Mean log probability of the labels, in nats.
    """

    accuracy: float
    log_likelihood: float


def examine(
    data: Labelled, mean: torch.Tensor, prior: IsotropicPrior, *, coupled: bool = False
) -> Examined:
    """Leave-one-out and evidence at a mode.

    The log evidence is log p(y | W) + log p(W) + D C / 2 log 2 pi - log det A / 2 at the mode W,
    with the curvature p_k (1 - p_k) of each class on its own.

    MacKay, *The evidence framework applied to classification networks*, Neural Computation
    4(5), 1992.

    Parameters
    ----------
    data : Labelled
    mean : Tensor of shape (D, C)
        The mode.
    prior : IsotropicPrior
    coupled : bool, default=False
        Whether the evidence takes the curvature diag p - p p^T, which couples the classes.

    Returns
    -------
    Examined

    Examples
    --------
    >>> from laplace_al.likelihoods import Bernoulli
    >>> one = torch.ones(1, 1)
    >>> data = Labelled(one, one, one[0], Bernoulli())
    >>> round(examine(data, 0 * one, IsotropicPrior(0 * one, 1.0)).log_evidence, 4)  # at W = 0
    -0.8047
    """
    features, targets, weights, likelihood = data
    logits = features @ mean
    probabilities = likelihood.mean(logits)
    curvature = per_class_curvature(probabilities)
    laplace = per_class_laplace(features, weights[:, None] * curvature, prior.precision)
    residual = likelihood.residual(logits, targets)
    left_out = leave_one_out(logits, residual, laplace.variance, curvature, weights)
    without = likelihood.mean(left_out.logits)
    stiffening = secant_stiffening(probabilities, without, logits - left_out.logits)
    log_determinant = laplace.log_determinant
    if coupled and likelihood.n_outputs > 1:
        log_determinant = (
            STRUCTURES["full"]
            .at_mode(mean, features, weights, likelihood, "categorical", prior.precision)
            .log_determinant()
        )
    fit = -weights @ likelihood.negative_log_likelihood(logits, targets) - prior.value(mean)
    scale = mean.numel() / 2 * np.log(prior.precision)
    log_evidence = float(fit + scale - log_determinant / 2)  # eq-evidence
    return Examined(left_out, stiffening, log_evidence)


class Chosen(NamedTuple):
    """A prior precision that was searched for.

    Parameters
    ----------
    value : float
    bound : {"smallest", "largest"} or None
        Which end of the range it is next to, where the best may lie beyond.
    """

    value: float
    bound: str | None


def choose_prior_precision(
    score: Callable[[float], float], features: torch.Tensor, weights: torch.Tensor
) -> Chosen:
    """Prior precision of the largest score: the best of nine decades, then a bounded search.

    Parameters
    ----------
    score : callable
        Prior precision to a number.
    features : Tensor of shape (n, D)
        Their mean square |phi|^2 is the unit: the range is 1e-6 to 100 of it.
    weights : Tensor of shape (n,)

    Returns
    -------
    Chosen

    Examples
    --------
    >>> import math
    >>> best, bound = choose_prior_precision(
    ...     lambda x: -math.log(x / 3) ** 2, torch.ones(5, 4), torch.ones(5))
    >>> abs(math.log(best / 3)) < 0.1, bound
    (True, None)
    """
    unit = float(weights @ features.square().sum(dim=1) / weights.sum()) or 1.0
    grid = np.log(unit * _RANGE)
    # from strong to weak: each start is close to the next mode
    scores = np.array([score(np.exp(place)) for place in grid[::-1]])[::-1]
    best = int(scores.argmax())
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    search = minimize_scalar(
        lambda place: -score(np.exp(place)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": _SEARCH_TOLERANCE},
    )
    place = search.x if -search.fun > scores[best] else grid[best]
    near = 2 * _SEARCH_TOLERANCE
    bound = "smallest" if place < grid[0] + near else None
    bound = "largest" if place > grid[-1] - near else bound
    return Chosen(float(np.exp(place)), bound)


def prior_precision_by_scale(features: torch.Tensor, weights: torch.Tensor) -> float:
    """Prior precision that goes with the scale of the features: 0.01 of their total variance.

    Over the data, a logit then varies a priori by a standard deviation of about 10, whatever the
    units and the number of features. Offsets, and so an intercept, do not count. Features that do
    not vary give 0.01 of their mean square |phi|^2, or 0.01.

    Parameters
    ----------
    features : Tensor of shape (n, D)
    weights : Tensor of shape (n,)

    Returns
    -------
    float

    Examples
    --------
    >>> X = torch.tensor([[-1.0, 5.0], [1.0, 5.0]])
    >>> prior_precision_by_scale(X, torch.ones(2)), prior_precision_by_scale(10 * X, torch.ones(2))
    (0.01, 1.0)
    """
    share = weights / weights.sum()
    square = float(share @ features.square().sum(dim=1))
    variance = float(share @ (features - share @ features).square().sum(dim=1))
    is_constant = variance <= torch.finfo(features.dtype).eps * square
    return _SHARE_OF_SPREAD * ((square or 1.0) if is_constant else variance)
