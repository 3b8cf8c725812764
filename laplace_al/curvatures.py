"""How much an instance weighs in the precision of a posterior.

A quadratic stands for the likelihood of each instance. At the mode its curvature is that of the
softmax, which all but vanishes once the label is fitted: the loss is then flat one way and steep
the other. The secant over the way that the logits go when the instance is left out sees both.
"""

import numpy as np
import torch

from laplace_al.likelihoods import Mean
from laplace_al.typing import Numbers

_SHARE_OF_SECANT = 0.2


def per_class_curvature(mean: Mean[Numbers]) -> Numbers:
    """Weight of an instance in the precision of each output: h_k = p_k (1 - p_k).

    Parameters
    ----------
    mean : Mean
        Class probabilities (n, C), or (C,) of one instance as a vector; with one logit the
        probability of the second class.

    Returns
    -------
    Tensor of shape (n, C), or ndarray of shape (C,)

    Examples
    --------
    >>> p = torch.tensor([[0.5, 0.3, 0.2]])
    >>> per_class_curvature(Mean(p, 1 - p))
    tensor([[0.2500, 0.2100, 0.1600]])
    """
    return mean.p * mean.complement  # eq-per-class


def shared_curvature(mean: Mean[Numbers]) -> Numbers:
    """Weight of an instance in a precision that all outputs share: h = p_max (1 - p_max).

    Parameters
    ----------
    mean : Mean
        See :func:`per_class_curvature`.

    Returns
    -------
    Tensor of shape (n, 1), or ndarray of shape (1,)

    Examples
    --------
    >>> p = torch.tensor([[0.5, 0.3, 0.2]])
    >>> shared_curvature(Mean(p, 1 - p))
    tensor([[0.2500]])
    """
    # eq-shared: p (1 - p) grows up to 1/2, and the others are at most 1 - p_max
    curvature = per_class_curvature(mean)
    if isinstance(curvature, np.ndarray):
        return curvature.max(keepdims=True)
    return curvature.amax(dim=1, keepdim=True)


def full_curvature_root(mean: Mean[torch.Tensor]) -> torch.Tensor:
    """Root B of the curvature of one instance: B B^T = diag p - p p^T; p (1 - p) for one logit.

    Parameters
    ----------
    mean : Mean
        Of tensors (1, C).

    Returns
    -------
    Tensor of shape (C, C)
        diag(q) (I - q q^T) with q = sqrt(p): a projection between two scalings.

    Examples
    --------
    >>> half = torch.tensor([[0.5, 0.5]])
    >>> root = full_curvature_root(Mean(half, half))
    >>> root @ root.T
    tensor([[ 0.2500, -0.2500],
            [-0.2500,  0.2500]])
    """
    if mean.p.shape[1] == 1:
        return per_class_curvature(mean).sqrt()
    # What 1 - p_k has lost in q_k (1 - p_k) is below the rounding of p_k (1 - p_k) once squared.
    q = mean.p[0].sqrt()
    return torch.diag(q) - torch.outer(mean.p[0], q)


def secant_stiffening(
    mean: Mean[torch.Tensor], without: Mean[torch.Tensor], moved: torch.Tensor
) -> torch.Tensor:
    """How much stiffer an instance is than its curvature at the mode: (q / h)^(1/5).

    h = p_k (1 - p_k) is the curvature at the mode. The secant q = (p_k - p_k^-) / (z_k - z_k^-)
    is what a quadratic needs to bring back the residual when the instance is left out, coupling
    between the classes included. Their geometric mean with weights 4/5 and 1/5 came closest to
    retraining over weak and strong priors, few and many labels and classes
    (``examples/study/updates.py``).

    Parameters
    ----------
    mean : Mean
        p (n, C) at the mode.
    without : Mean
        p^- (n, C), when the instance is left out.
    moved : Tensor of shape (n, C)
        z - z^-, logits with it less those without.

    Returns
    -------
    Tensor of shape (n, C)
        Factor of the curvature; 1 where the secant has no meaning, or the curvature is lost to
        rounding.

    Examples
    --------
    >>> from laplace_al.likelihoods import Bernoulli
    >>> z = torch.logit(torch.tensor([[0.99]]))
    >>> secant_stiffening(Bernoulli().mean(z), Bernoulli().mean(0 * z), z)
    tensor([[1.6086]])
    """
    curvature = per_class_curvature(mean)
    number = torch.finfo(curvature.dtype)
    is_curved = curvature > number.tiny / number.eps  # else the ratio may overflow
    is_far = moved.abs() > 1e-4
    # p - p^-; next to 1 they may have lost the digits in which they differ
    gained = torch.where(mean.p > 0.5, without.complement - mean.complement, mean.p - without.p)
    secant = gained / torch.where(is_far, moved, 1.0)  # eq-secant
    ratio = secant / torch.where(is_curved, curvature, 1.0)
    # eq-stiffening
    return torch.where(is_curved & is_far & (secant > 0), ratio, 1.0) ** _SHARE_OF_SECANT
