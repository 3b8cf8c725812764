"""A fit whose data comes in blocks, wherever they are: all it needs are sums over the instances.

``total(function, *args)`` is the sum of ``function(block, *args)`` over the blocks, each of them a
:class:`~laplace_al.model.mode.Labelled`. Who adds up, and where, is none of this module's business.

``total.keep(function, *args)`` is a total that gives its functions the result of
``function(block, *args)`` as well, after the block. These results stay where the blocks are.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from laplace_al._common.typing import Link
from laplace_al.model.calibration import (
    Calibration,
    Observation,
    scores_of_scales,
    weight_of_classes,
)
from laplace_al.model.curvatures import per_class_curvature, secant_stiffening
from laplace_al.model.fitting import SHARE_OF_SPREAD, LooScore, spread_of_moments
from laplace_al.model.leave_one_out import LeftOut, leave_one_out
from laplace_al.model.likelihoods import Likelihood
from laplace_al.model.mode import Labelled, Mode, minimise
from laplace_al.model.posterior import Posterior
from laplace_al.model.posterior.roots import root_of_precision
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.structures import STRUCTURES, CurvatureName

# Of the precisions of some classes; who adds up holds those of several blocks.
_BYTES_AT_ONCE = 2**25


class Total(Protocol):
    """Sums over blocks, wherever they are."""

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Sum of ``function(block, *args)``."""

    def keep(self, function: Callable[..., Any], *args: Any) -> "Total":
        """A total of blocks that are followed by the result of ``function(block, *args)``."""


class Sums(tuple[Any, ...]):
    """Several sums of one pass, which add up each on its own.

    Examples
    --------
    >>> Sums((1, 2)) + Sums((10, 20))
    (11, 22)
    """

    def __add__(self, other: Iterable[Any]) -> "Sums":
        return Sums(a + b for a, b in zip(self, other, strict=True))


class Largest(float):
    """A number of which the largest counts, where others add up.

    Examples
    --------
    >>> Largest(1.0) + Largest(3.0) + Largest(2.0)
    3.0
    """

    def __add__(self, other: float) -> "Largest":
        return Largest(max(self, other))


class BlockFit(NamedTuple):
    """What a fit finds.

    Parameters
    ----------
    posterior : Posterior
    calibration : Calibration
    log_evidence : float or None
        In nats.
    loo_score : LooScore or None
    """

    posterior: Posterior
    calibration: Calibration
    log_evidence: float | None = None
    loo_score: LooScore | None = None


def prior_precision_by_scale_in_blocks(
    total: Callable[..., Any], centre: torch.Tensor, head: str = "fit"
) -> float:
    """Return :func:`laplace_al.model.fitting.prior_precision_by_scale`, in two passes.

    Parameters
    ----------
    total : callable
    centre : Tensor of shape (D,)
        Some row of the features, from which constants do not differ.
    head : {"fit", "pretrained"}, default="fit"

    Returns
    -------
    float

    Examples
    --------
    >>> from laplace_al.model.mode import Labelled
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> X = torch.tensor([[-1.0, 5.0], [1.0, 5.0]])
    >>> data = Labelled(X, torch.ones(2, 1), torch.ones(2), Bernoulli())
    >>> prior_precision_by_scale_in_blocks(lambda function, *args: function(data, *args), X[0])
    0.01
    """
    weight, apart = total(sum_from, centre)
    around_mean, square = total(squares_around, centre, apart / weight)
    spread = spread_of_moments(around_mean / weight, square / weight, centre.dtype)
    return SHARE_OF_SPREAD[head] * spread


def find_mode_in_blocks(
    total: Callable[..., Any],
    likelihood: Likelihood,
    prior: IsotropicPrior,
    start: torch.Tensor,
    *,
    max_iter: int,
    tol: float,
) -> Mode:
    """Take the steps of :func:`laplace_al.model.mode.find_mode`, a pass over the blocks a product.

    Parameters
    ----------
    total : callable
    likelihood : Bernoulli or Categorical
    prior : IsotropicPrior
    start : Tensor of shape (D, C)
    max_iter : int
    tol : float

    Returns
    -------
    Mode

    Raises
    ------
    ValueError
        If the prior is lost to rounding beside the features.

    Examples
    --------
    >>> from laplace_al.model.mode import Labelled
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> from laplace_al.model.priors import IsotropicPrior
    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> data, prior = Labelled(one, one, one[0], Bernoulli()), IsotropicPrior(0 * one, 1.0)
    >>> mode = find_mode_in_blocks(
    ...     lambda function, *args: function(data, *args), Bernoulli(), prior, 0 * one,
    ...     max_iter=20, tol=1e-8)
    >>> torch.allclose(mode.mean, 1 - torch.sigmoid(mode.mean))  # lambda w = y - p
    True
    """
    return minimise(_InBlocks(total, prior), start, max_iter=max_iter, tol=tol)


class _InBlocks(NamedTuple):
    """An :class:`~laplace_al.model.mode.Objective` whose point is W: blocks find logits again."""

    total: Callable[..., Any]
    prior: IsotropicPrior

    def at(self, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See :meth:`laplace_al.model.mode.Objective.at`."""
        loss, slope = self.total(loss_and_slope, mean)
        return loss + self.prior.value(mean), slope + self.prior.gradient(mean), mean

    def product(self, point: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """See :meth:`laplace_al.model.mode.Objective.product`."""
        curved: torch.Tensor = self.total(hessian_product, point, direction)
        return curved + self.prior.product(direction)

    def root(self, point: torch.Tensor) -> torch.Tensor:
        """See :meth:`laplace_al.model.mode.Objective.root`."""
        precision = self.total(mean_information, point)
        precision.diagonal(dim1=-2, dim2=-1).add_(self.prior.precision)
        return root_of_precision(precision)[0]

    def moved(self, point: torch.Tensor, other: torch.Tensor) -> float:
        """See :meth:`laplace_al.model.mode.Objective.moved`."""
        return float(self.total(largest_logit, other - point))


def fit_at_mode(
    total: Total,
    mean: torch.Tensor,
    prior: IsotropicPrior,
    likelihood: Likelihood,
    link: Link,
    *,
    covariance: str,
    curvature: CurvatureName,
    calibration: Literal["loo"] | None,
) -> BlockFit:
    """Posterior, calibration and what the data says of the mode, in up to four passes.

    Leave-one-out needs a covariance for each class, whatever the structure of the posterior. They
    are made and used for as many classes at once as fit into 32 MiB, with two passes more for each
    further 32 MiB; of each, only the variances of its logits (n,) are kept.

    Parameters
    ----------
    total : callable
    mean : Tensor of shape (D, C)
        The mode.
    prior : IsotropicPrior
    likelihood : Bernoulli or Categorical
    link : callable
        Of :mod:`laplace_al.model.links`.
    covariance : {"shared", "per_class", "full"}
    curvature : {"secant", "categorical", "gaussian"}
    calibration : {"loo"} or None

    Returns
    -------
    BlockFit
        With evidence and leave-one-out where calibration or curvature need them.
    """
    posterior = STRUCTURES[covariance].posterior
    if calibration is None and curvature != "secant":
        information = total(information_at_mode, mean, covariance, curvature)
        return BlockFit(
            posterior.of_sums(mean, information, prior.precision, prior.mean), Calibration()
        )
    examinee, log_determinant = _with_variances(total, mean, prior)
    information, coupled, loss, scores, weights = examinee(
        examined, mean, link, covariance, curvature
    )
    fitted = posterior.of_sums(mean, information, prior.precision, prior.mean)
    if len(coupled):
        log_determinant = posterior.of_sums(
            mean, coupled, prior.precision, prior.mean
        ).log_determinant()
    scale = mean.numel() / 2 * np.log(prior.precision)
    evidence = float(scale - loss - prior.value(mean) - log_determinant / 2)
    if calibration is None:
        return BlockFit(fitted, Calibration(), evidence)
    found = Calibration.of_scores(scores, bool((weights > 1).any()))
    right, log_proba = examinee(left_out_scores, mean, link, found)
    n = float(weights.sum())
    return BlockFit(fitted, found, evidence, LooScore(float(right) / n, float(log_proba) / n))


def _with_variances(
    total: Total, mean: torch.Tensor, prior: IsotropicPrior
) -> tuple[Total, torch.Tensor]:
    """Total of blocks and the variances of their logits, and the log determinant of the classes."""
    n_features, n_outputs = mean.shape
    at_once = max(1, _BYTES_AT_ONCE // (mean.element_size() * n_features**2))
    keeper = total
    log_determinant = mean.new_zeros(())
    for start in range(0, n_outputs, at_once):
        precision = total(per_class_information, mean, slice(start, start + at_once))
        precision.diagonal(dim1=-2, dim2=-1).add_(prior.precision)
        roots = root_of_precision(precision)
        log_determinant = log_determinant - 2 * torch.linalg.slogdet(roots).logabsdet.sum()
        keeper = keeper.keep(more_variances if start else variances, roots)
    return keeper, log_determinant


def sum_from(data: Labelled, centre: torch.Tensor) -> Sums:
    """Sum of the weights (), and of the features less a centre (D,)."""
    return Sums((data.weights.sum(), data.weights @ (data.features - centre)))


def squares_around(data: Labelled, centre: torch.Tensor, mean: torch.Tensor) -> Sums:
    """Sums of squares (D,) of the features less centre and mean, and of the features."""
    features, weights = data.features, data.weights
    return Sums((weights @ (features - centre - mean).square_(), weights @ features.square()))


def loss_and_slope(data: Labelled, mean: torch.Tensor) -> Sums:
    """Negative log-likelihood (), and its derivative (D, C)."""
    features, targets, weights, likelihood = data
    loss, residual, _ = likelihood.loss_and_derivatives(features @ mean, targets)
    return Sums((weights @ loss, -features.T @ (weights[:, None] * residual)))


def largest_logit(data: Labelled, mean: torch.Tensor) -> Largest:
    """Largest absolute value of a logit Phi W."""
    return Largest((data.features @ mean).abs().max())


def hessian_product(data: Labelled, mean: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Second derivative of the negative log-likelihood times a direction, (D, C)."""
    features, _, weights, likelihood = data
    probabilities = likelihood.mean(features @ mean)
    curved = likelihood.hessian_product(probabilities, features @ direction)
    return features.T @ (weights[:, None] * curved)


def mean_information(data: Labelled, mean: torch.Tensor) -> torch.Tensor:
    """Phi^T diag(h) Phi with the mean curvature of the outputs, (1, D, D)."""
    features, _, weights, likelihood = data
    curvature = per_class_curvature(likelihood.mean(features @ mean)).mean(dim=1, keepdim=True)
    return _information("shared", features, weights[:, None] * curvature)


def per_class_information(data: Labelled, mean: torch.Tensor, some: slice) -> torch.Tensor:
    """Phi^T diag(h_k) Phi with the curvature p_k (1 - p_k) of each of some outputs, (K, D, D)."""
    features, _, weights, likelihood = data
    curvature = per_class_curvature(likelihood.mean(features @ mean))[:, some]
    return _information("per_class", features, weights[:, None] * curvature)


def variances(data: Labelled, roots: torch.Tensor) -> torch.Tensor:
    """phi^T Sigma_k phi for the classes of some roots (K, D, D), (n, K)."""
    return torch.stack([(data.features @ root).square().sum(dim=1) for root in roots], dim=1)


def more_variances(data: Labelled, variance: torch.Tensor, roots: torch.Tensor) -> torch.Tensor:
    """Variances for some classes, beside those of the classes before."""
    return torch.cat([variance, variances(data, roots)], dim=1)


def information_at_mode(
    data: Labelled,
    mean: torch.Tensor,
    covariance: str,
    curvature: CurvatureName,
    stiffening: torch.Tensor | None = None,
) -> torch.Tensor:
    """What the data adds to the precision of a posterior, (G, N, N)."""
    features, _, weights, likelihood = data
    probabilities = likelihood.mean(features @ mean)
    weighted = STRUCTURES[covariance].curvature(curvature, probabilities, weights, stiffening)
    return _information(covariance, features, weighted)


def examined(
    data: Labelled,
    variance: torch.Tensor,
    mean: torch.Tensor,
    link: Link,
    covariance: str,
    curvature: CurvatureName,
) -> Sums:
    """Information of the posterior and of coupled classes, loss, scores, weights of classes."""
    targets, weights, likelihood = data[1:]
    left_out, stiffening = _left_out(data, variance, mean)
    information = information_at_mode(
        data, mean, covariance, curvature, stiffening if curvature == "secant" else None
    )
    coupled = information.new_zeros(0)  # none
    if covariance == "full" and likelihood.n_outputs > 1:
        coupled = information_at_mode(data, mean, "full", "categorical")
    loss = weights @ likelihood.negative_log_likelihood(data.features @ mean, targets)
    scores = scores_of_scales(Observation(link, likelihood, left_out, targets, weights))
    return Sums((information, coupled, loss, scores, weight_of_classes(targets, weights)))


def left_out_scores(
    data: Labelled, variance: torch.Tensor, mean: torch.Tensor, link: Link, calibration: Calibration
) -> Sums:
    """Weight of the labels that are right when left out, and their log-likelihood."""
    _, targets, weights, likelihood = data
    left_out, _ = _left_out(data, variance, mean)
    logits = calibration.apply(link, *left_out)
    loss = likelihood.negative_log_likelihood(logits, targets)
    found = likelihood.log_probabilities(logits).argmax(dim=1)
    right = (found == likelihood.labels(targets)).to(loss)
    return Sums((weights @ right, -weights @ loss))


def _left_out(
    data: Labelled, variance: torch.Tensor, mean: torch.Tensor
) -> tuple[LeftOut, torch.Tensor]:
    """Leave-one-out logits and the stiffening of the secant, as in :func:`fitting.examine`."""
    features, targets, weights, likelihood = data
    logits = features @ mean
    probabilities = likelihood.mean(logits)
    curvature = per_class_curvature(probabilities)
    residual = likelihood.residual(logits, targets)
    left_out = leave_one_out(logits, residual, variance, curvature, weights)
    without = likelihood.mean(left_out.logits)
    return left_out, secant_stiffening(probabilities, without, logits - left_out.logits)


def _information(covariance: str, features: torch.Tensor, curvature: Any) -> torch.Tensor:
    return STRUCTURES[covariance].posterior.information(features, curvature)
