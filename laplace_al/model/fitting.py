"""What a fit finds out besides the mode: leave-one-out, evidence and the prior precision."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from laplace_al.model.curvatures import per_class_curvature, secant_stiffening
from laplace_al.model.leave_one_out import LeftOut, leave_one_out, per_class_laplace
from laplace_al.model.mode import Labelled, Objective, solve_hessian
from laplace_al.model.posterior import FullPosterior
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.structures import STRUCTURES

# Prior precisions that are tried, in units of the total variance of the features.
_RANGE = np.logspace(-6, 3, 10)
_SEARCH_TOLERANCE = 0.1  # of log lambda
# Of a head that is fitted, near the best on images, text and tables with 10 to 1000 labels. Around
# a trained one, of 30 networks for digits, none lost a point of accuracy by 50 more random labels,
# where they lost 5 on average with 0.01; 200 labels of images turned by 25 degrees won 3.
SHARE_OF_SPREAD = {"fit": 0.01, "pretrained": 4.0}
_LARGEST_RATIO = 30  # of variances to their median; above it, columns differ in unit
_ROUNDING = 8  # units in the last place: a constant that a short sum or product made


class Pull(NamedTuple):
    """What moves the log determinant of a precision: the weights, and the prior precision.

    Parameters
    ----------
    slope : Tensor of shape (D, C)
        Its derivative along the weights, through the curvature of the instances.
    n_effective : Tensor of shape ()
        tr H Sigma of the data's part H of the precision: how many weights the data determines.
    """

    slope: torch.Tensor
    n_effective: torch.Tensor


class Examined(NamedTuple):
    """What the data says of a mode.

    Parameters
    ----------
    left_out : LeftOut
        Logits of each instance without it.
    stiffening : Tensor of shape (n, C)
        Of the curvature, see :func:`laplace_al.model.curvatures.secant_stiffening`.
    log_evidence : float
        Log marginal likelihood, in nats.
    pull : Pull
        Of the determinant in it.
    """

    left_out: LeftOut
    stiffening: torch.Tensor
    log_evidence: float
    pull: Pull


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
    >>> from laplace_al.model.likelihoods import Bernoulli
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
    if coupled and likelihood.n_outputs > 1:
        posterior = STRUCTURES["full"].at_mode(data, mean, "categorical", prior)
        assert isinstance(posterior, FullPosterior)
        log_determinant, pull = posterior.log_determinant(), coupled_pull(data, mean, posterior)
    else:
        log_determinant = laplace.log_determinant
        pull = per_class_pull(data, mean, laplace.variance)
    fit = -weights @ likelihood.negative_log_likelihood(logits, targets) - prior.value(mean)
    scale = mean.numel() / 2 * np.log(prior.precision)
    log_evidence = float(fit + scale - log_determinant / 2)  # eq-evidence
    return Examined(left_out, stiffening, log_evidence, pull)


def per_class_pull(data: Labelled, mean: torch.Tensor, variance: torch.Tensor) -> Pull:
    """Of the curvature p_k (1 - p_k) of each class on its own.

    Parameters
    ----------
    data : Labelled
    mean : Tensor of shape (D, C)
    variance : Tensor of shape (n, C)
        v, of the logits.

    Returns
    -------
    Pull

    Examples
    --------
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> one = torch.ones(1, 1)
    >>> per_class_pull(Labelled(one, one, one[0], Bernoulli()), 0 * one, one)
    Pull(slope=tensor([[0.]]), n_effective=tensor(0.2500))
    """
    features, _, weights, likelihood = data
    probabilities = likelihood.mean(features @ mean)
    curvature = per_class_curvature(probabilities)
    # dh_k = (1 - 2 p_k) dp_k
    slope = likelihood.hessian_product(probabilities, variance * (1 - 2 * probabilities.p))
    n_effective = weights @ (curvature * variance).sum(dim=1)
    return Pull(features.T @ (weights[:, None] * slope), n_effective)


def coupled_pull(data: Labelled, mean: torch.Tensor, posterior: FullPosterior) -> Pull:
    """Of the curvature H = diag p - p p^T, which couples the classes.

    Parameters
    ----------
    data : Labelled
    mean : Tensor of shape (D, C)
    posterior : FullPosterior
        With this curvature.

    Returns
    -------
    Pull

    Examples
    --------
    >>> from laplace_al.model.likelihoods import Categorical
    >>> from laplace_al.model.posterior import FullPosterior
    >>> one, mean = torch.ones(1, 1), torch.zeros(1, 2)
    >>> data = Labelled(one, torch.eye(2)[:1], one[0], Categorical(2))
    >>> coupled_pull(data, mean, FullPosterior.prior(mean, 1.0)).n_effective  # tr H
    tensor(0.5000)
    """
    features, _, weights, likelihood = data
    probabilities = likelihood.mean(features @ mean)
    variance = posterior.variance(features)
    covariance = posterior.covariance_product(features, probabilities.p)  # V p
    # tr V dH = (diag V - 2 V p) dp
    slope = likelihood.hessian_product(probabilities, variance - 2 * covariance)
    n_effective = weights @ (probabilities.p * (variance - covariance)).sum(dim=1)
    return Pull(features.T @ (weights[:, None] * slope), n_effective)


def evidence_slope(
    objective: Objective, mean: torch.Tensor, prior: IsotropicPrior, pull: Pull
) -> float:
    """Derivative of the log evidence along log lambda, the mode moving along.

    (gamma - lambda |W - W_0|^2 + <dlog det A / dW, H^-1 lambda (W - W_0)>) / 2 with the number
    gamma of weights that the data determines. MacKay's rule leaves the last term out.

    Parameters
    ----------
    objective : Objective
        Of the mode; its second derivative is H.
    mean : Tensor of shape (D, C)
        The mode W.
    prior : IsotropicPrior
    pull : Pull
        At the mode.

    Returns
    -------
    float

    Examples
    --------
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> from laplace_al.model.mode import InMemory, Labelled
    >>> one = torch.ones(1, 1)
    >>> data, prior = Labelled(one, one, one[0], Bernoulli()), IsotropicPrior(0 * one, 1.0)
    >>> pull = examine(data, 0 * one, prior).pull
    >>> round(evidence_slope(InMemory(data, prior), 0 * one, prior, pull), 4)  # at W = 0
    0.1
    """
    gradient = prior.gradient(mean)
    gain = (pull.slope * solve_hessian(objective, mean, gradient)).sum()
    # eq-evidence-slope
    return float(pull.n_effective - (gradient * (mean - prior.mean)).sum() + gain) / 2


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
    """Prior precision of the largest score: the best power of ten, then a bounded search.

    Parameters
    ----------
    score : callable
        Prior precision to a number.
    features : Tensor of shape (n, D)
        Their :func:`spread` is the unit: the range is 1e-6 to 1000 of it.
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
    grid = np.log(spread(features, weights) * _RANGE)
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


def prior_precision_by_scale(
    features: torch.Tensor, weights: torch.Tensor, head: str = "fit"
) -> float:
    """Return the prior precision that suits the scale of the features: 0.01 of :func:`spread`.

    Over the data, a logit then varies a priori by a standard deviation of about 10, whatever the
    units and the number of features.

    Parameters
    ----------
    features : Tensor of shape (n, D)
    weights : Tensor of shape (n,)
    head : {"fit", "pretrained"}, default="fit"
        ``"pretrained"``: the prior mean is a trained head, whose logits are known to a standard
        deviation of about 0.5. It is then 4 times the spread.

    Returns
    -------
    float

    Examples
    --------
    >>> X = torch.tensor([[-1.0, 5.0], [1.0, 5.0]])
    >>> prior_precision_by_scale(X, torch.ones(2)), prior_precision_by_scale(10 * X, torch.ones(2))
    (0.01, 1.0)
    """
    return SHARE_OF_SPREAD[head] * spread(features, weights)


def spread(features: torch.Tensor, weights: torch.Tensor) -> float:
    """Return the total variance of the features, see :func:`spread_of_moments`.

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
    >>> spread(X, torch.ones(2)), spread(X[:1], torch.ones(1))
    (1.0, 26.0)
    """
    share = weights / weights.sum()
    apart = features - features[weights.argmax()]  # 0 for constants, whose mean rounding moves
    variance = share @ (apart - share @ apart).square_()
    return spread_of_moments(variance, share @ features.square(), features.dtype)


def spread_of_moments(variance: torch.Tensor, square: torch.Tensor, dtype: torch.dtype) -> float:
    """Return the total variance of features, in which none counts more than 30 times the median.

    So the few columns of a table whose unit is small do not rule the others. Constant features do
    not count: neither an intercept, nor those whose deviation is that of rounding, a few units in
    the last place.

    Parameters
    ----------
    variance, square : Tensor of shape (D,)
        Of each feature, the variance and the mean square.
    dtype : torch.dtype
        Of the features.

    Returns
    -------
    float
        Of features that do not vary, as those of a single row, the total of their mean squares,
        counted likewise; 1 if they are 0.

    Examples
    --------
    >>> variance = torch.tensor([1.0, 2.0, 3.0, 5e6, 0.0])
    >>> spread_of_moments(variance, torch.ones(5), torch.float32)  # 1 + 2 + 3 + 30 * 2
    66.0
    """
    varying = variance[variance > (_ROUNDING * torch.finfo(dtype).eps) ** 2 * square]
    counting = varying if len(varying) else square[square > 0]
    if not len(counting):
        return 1.0
    return float(counting.clamp(max=_LARGEST_RATIO * counting.median()).sum())
