"""Logits without an instance, in closed form: approximate leave-one-out."""

import math
from typing import NamedTuple

import torch

from laplace_al.model.posterior.roots import accurate_factor, factor_of_sum


class Laplace(NamedTuple):
    """The Gaussian around a mode that gives leave-one-out and evidence.

    Its curvature is p_k (1 - p_k) for each class on its own, whatever the structure of the
    posterior: a shared covariance knows far too little of single classes.

    Parameters
    ----------
    variance : Tensor of shape (n, C)
        v, of the logits of the instances themselves.
    log_determinant : Tensor of shape ()
        Of the precision.
    """

    variance: torch.Tensor
    log_determinant: torch.Tensor


class LeftOut(NamedTuple):
    """What the model would say of each instance, had it not seen it.

    Parameters
    ----------
    logits : Tensor of shape (n, C)
        z^-.
    variance : Tensor of shape (n, C)
        v^-.
    """

    logits: torch.Tensor
    variance: torch.Tensor


def per_class_laplace(
    features: torch.Tensor, curvature: torch.Tensor, prior_precision: float
) -> Laplace:
    """Variances and determinant of precisions lambda I + Phi^T diag(h_k) Phi, class by class.

    One class at a time, in the smaller of both spaces: with n < D instances the precision
    is that of B = I + H^(1/2) Phi Phi^T H^(1/2) / lambda (n, n) and of a multiple of the identity.

    Parameters
    ----------
    features : Tensor of shape (n, D)
    curvature : Tensor of shape (n, C)
        h, sample weights included, >= 0.
    prior_precision : float
        lambda > 0.

    Returns
    -------
    Laplace

    Raises
    ------
    ValueError
        If the sums overflow.

    Examples
    --------
    >>> one = torch.ones(1, 1)
    >>> per_class_laplace(one, 3 * one, 1.0)
    Laplace(variance=tensor([[0.2500]]), log_determinant=tensor(1.3863))
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


def _in_space_of_weights(
    features: torch.Tensor, h: torch.Tensor, prior_precision: float
) -> tuple[torch.Tensor, torch.Tensor]:
    factor = factor_of_sum(features, h, prior_precision)
    whitened = torch.linalg.solve_triangular(factor, features.T, upper=False)  # (D, n)
    return whitened.square().sum(dim=0), 2 * factor.diagonal().abs().log().sum()


def _in_space_of_instances(
    gram: torch.Tensor, features: torch.Tensor, h: torch.Tensor, prior_precision: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """v = K - K H^(1/2) B^-1 H^(1/2) K on the diagonal, or (1 - B^-1) / h where h v is large."""
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
    """The exact-mode equation read backwards: z^- = z - v^- (y - p), v^- = v / (1 - h v).

    One unit of weight is left out: an instance of weight 3 stands for three, of which two stay.

    Opper and Winther, *Gaussian processes for classification: mean-field algorithms*, Neural
    Computation 12(11), 2000.

    Parameters
    ----------
    logits : Tensor of shape (n, C)
        z at the mode.
    residual : Tensor of shape (n, C)
        y - p at the mode.
    variance : Tensor of shape (n, C)
        v at the mode.
    curvature : Tensor of shape (n, C)
        h of a unit of weight.
    weights : Tensor of shape (n,)
        s.

    Returns
    -------
    LeftOut

    Examples
    --------
    >>> one = torch.ones(1, 1)
    >>> leave_one_out(one, 0.5 * one, 2 * one, 0.25 * one, one[0])
    LeftOut(logits=tensor([[-1.]]), variance=tensor([[4.]]))
    """
    unit = weights.clamp(max=1)[:, None]
    smallest = torch.finfo(variance.dtype).eps
    # eq-left-out
    variance = variance / (1 - unit * curvature * variance).clamp_min(smallest)
    return LeftOut(logits - unit * variance * residual, variance)
