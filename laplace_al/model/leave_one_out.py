"""Logits without an instance, in closed form: approximate leave-one-out."""

import math
from typing import NamedTuple

import torch

from laplace_al.model.posterior.low_rank import is_exact, whitened_at_mode
from laplace_al.model.posterior.roots import accurate_factor, factor_of_sum

RANK_OF_LEAVE_ONE_OUT = 32
"""Axes of each class: what is left of an instance's own logit is the rest of a subtraction."""

# Of the precisions of all classes: up to so many, leave-one-out and evidence are exact.
_FEW_NUMBERS = 2**25


class Laplace(NamedTuple):
    """The Gaussian around a mode that gives leave-one-out and evidence.

    It holds the variances v (n, C) of the instances' own logits and the log determinant () of the
    precision. Its curvature is p_k (1 - p_k) for each class on its own, whatever the structure of
    the posterior: a shared covariance knows far too little of single classes. That of a posterior
    of low rank is cut to a low rank as well.
    """

    variance: torch.Tensor
    log_determinant: torch.Tensor


class LeftOut(NamedTuple):
    """Logits z^- and variances v^- (n, C) of each instance, had the model not seen it."""

    logits: torch.Tensor
    variance: torch.Tensor


def per_class_laplace(
    features: torch.Tensor, curvature: torch.Tensor, prior_precision: float
) -> Laplace:
    """Return variances and log determinant for precisions lambda I + Phi^T diag(h_k) Phi.

    The features are (n, D), the curvature h >= 0 (n, C). One class at a time, in the smaller of
    both spaces: with n < D instances the precision is that of B = I + H^(1/2) Phi Phi^T H^(1/2) /
    lambda (n, n) and of a multiple of the identity. Raises ValueError if the sums overflow.
    """
    n, n_features = features.shape
    n_classes = curvature.shape[1]
    variance = torch.empty_like(curvature)
    log_determinants = curvature.new_empty(n_classes)
    constant = 0.0
    if n < n_features:
        gram = features @ features.T / prior_precision
        constant = n_classes * n_features * math.log(prior_precision)
    for k, h in enumerate(curvature.T):
        if n < n_features:
            variance[:, k], log_determinants[k] = _in_space_of_instances(
                gram, features, h, prior_precision
            )
        else:
            variance[:, k], log_determinants[k] = _in_space_of_weights(features, h, prior_precision)
    return Laplace(variance, log_determinants.sum() + constant)


def low_rank_laplace(
    features: torch.Tensor, curvature: torch.Tensor, prior_precision: float
) -> Laplace:
    """Return those of :func:`per_class_laplace` by a shared root, and a few axes of each class.

    In products of wide matrices: no triangular system of n rows is solved for each class. See
    :class:`~laplace_al.model.posterior.LowRankPosterior`.
    """
    n_features, n_classes = features.shape[1], curvature.shape[1]
    if not is_cut(n_features, n_classes):
        return per_class_laplace(features, curvature, prior_precision)
    root, rows, whitened = whitened_at_mode(
        features, curvature, prior_precision, RANK_OF_LEAVE_ONE_OUT
    )
    shared = torch.linalg.slogdet(root[0]).logabsdet
    log_determinant = -2 * n_classes * shared - whitened.log_determinant()
    variance = at_most_alone(whitened.variance(rows).T, features, curvature, prior_precision)
    return Laplace(variance, log_determinant)


def at_most_alone(
    variance: torch.Tensor, features: torch.Tensor, curvature: torch.Tensor, prior_precision: float
) -> torch.Tensor:
    """Return variances (n, C) no larger than those of instances without any other beside them."""
    alone = features.square().sum(dim=1, keepdim=True) / prior_precision
    return torch.minimum(variance, alone / (1 + curvature * alone))


def is_cut(n_features: int, n_classes: int) -> bool:
    """Return whether precisions are cut to a low rank: they are where there are many numbers."""
    return not is_exact(n_features, n_classes) and n_classes * n_features**2 > _FEW_NUMBERS


def _in_space_of_weights(
    features: torch.Tensor, h: torch.Tensor, prior_precision: float
) -> tuple[torch.Tensor, torch.Tensor]:
    factor = factor_of_sum(features, h, prior_precision)
    whitened = torch.linalg.solve_triangular(factor, features.T, upper=False)  # (D, n)
    return whitened.square().sum(dim=0), 2 * factor.diagonal().abs().log().sum()


def _in_space_of_instances(
    gram: torch.Tensor, features: torch.Tensor, h: torch.Tensor, prior_precision: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the diagonal of K - K H^(1/2) B^-1 H^(1/2) K; as (1 - B^-1) / h if h v is large."""
    scale = h.sqrt()
    total = torch.eye(len(gram)).to(gram) + scale[:, None] * gram * scale  # B
    factor = accurate_factor(
        total, lambda: [(scale[:, None] * features).T / prior_precision**0.5], 1.0
    )
    explained = torch.linalg.solve_triangular(factor, scale[:, None] * gram, upper=False)
    inverse = torch.linalg.solve_triangular(factor, torch.diag(scale), upper=False)
    # h v = 1 - h (H^-1/2 B^-1 H^-1/2) without the division by a small h
    variance = gram.diagonal() - explained.square().sum(dim=0)
    unexplained = inverse.square().sum(dim=0)  # h (1 - h v)
    informed = h * gram.diagonal() > 1
    variance = torch.where(informed, (1 - unexplained / h) / h, variance)
    return variance, 2 * factor.diagonal().abs().log().sum()


def leave_one_out(
    logits: torch.Tensor,
    residual: torch.Tensor,
    variance: torch.Tensor,
    curvature: torch.Tensor,
    weights: torch.Tensor,
) -> LeftOut:
    """Return z^- = z - v^- (y - p), v^- = v / (1 - h v): the exact-mode equation read backwards.

    Logits z, residuals y - p, variances v at the mode and curvatures h of a unit of weight are
    (n, C). One unit of weight is left out: an instance of weight 3 stands for three, of which two
    stay.

    Opper and Winther, *Gaussian processes for classification: mean-field algorithms*, Neural
    Computation 12(11), 2000.
    """
    unit = weights.clamp(max=1)[:, None]
    smallest = torch.finfo(variance.dtype).eps
    # eq-left-out
    variance = variance / (1 - unit * curvature * variance).clamp_min(smallest)
    return LeftOut(logits - unit * variance * residual, variance)
