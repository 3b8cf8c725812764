"""How much an instance weighs in the precision of a posterior.

A quadratic stands for the likelihood of each instance. At the mode its curvature is that of the
softmax, which all but vanishes once the label is fitted: the loss is then flat one way and steep
the other. The secant over the way that the logits go when the instance is left out sees both.
"""

import numpy as np
import torch

from laplace_al.likelihoods import sum_of_others
from laplace_al.typing import Numbers

_SHARE_OF_SECANT = 0.2


def shared_curvature(mean: Numbers) -> Numbers:
    """Weight of an instance in a precision that all outputs share: h = p_max (1 - p_max).

    Parameters
    ----------
    mean : Tensor of shape (n, C), or ndarray of shape (C,) for one instance
        Class probabilities; with one logit the probability of the second class.

    Returns
    -------
    Tensor of shape (n, 1), or ndarray of shape (1,)

    Examples
    --------
    >>> import torch
    >>> shared_curvature(torch.tensor([[0.5, 0.3, 0.2]]))
    tensor([[0.2500]])
    """
    if isinstance(mean, np.ndarray):
        largest = mean.max(keepdims=True)
    else:
        largest = mean.amax(dim=1, keepdim=True)
    return largest * (1 - largest)  # eq-shared


def per_class_curvature(mean: Numbers) -> Numbers:
    """Weight of an instance in the precision of each output: h_k = p_k (1 - p_k).

    Parameters
    ----------
    mean : Tensor of shape (n, C), or ndarray of shape (C,) for one instance

    Returns
    -------
    Tensor of shape (n, C), or ndarray of shape (C,)

    Examples
    --------
    >>> import torch
    >>> per_class_curvature(torch.tensor([[0.5, 0.3, 0.2]]))
    tensor([[0.2500, 0.2100, 0.1600]])
    """
    return mean * (1 - mean)  # eq-per-class


def full_curvature_root(mean: torch.Tensor) -> torch.Tensor:
    """Root B of the curvature of one instance: B B^T = diag p - p p^T; p (1 - p) for one logit.

    Parameters
    ----------
    mean : Tensor of shape (1, C)

    Returns
    -------
    Tensor of shape (C, C)
        diag(q) (I - q q^T) with q = sqrt(p): a projection between two scalings.

    Examples
    --------
    >>> import torch
    >>> root = full_curvature_root(torch.tensor([[0.5, 0.5]]))
    >>> root @ root.T
    tensor([[ 0.2500, -0.2500],
            [-0.2500,  0.2500]])
    """
    if mean.shape[1] == 1:
        return (mean * (1 - mean)).sqrt()
    q = mean[0].sqrt()
    return torch.diag(q) - torch.outer(mean[0], q)


def secant_stiffening(
    mean: torch.Tensor, without: torch.Tensor, moved: torch.Tensor
) -> torch.Tensor:
    """How much stiffer an instance is than its curvature at the mode: (q / h)^(1/5).

    h = p_k (1 - p_k) is the curvature at the mode. The secant q = (p_k - p_k^-) / (z_k - z_k^-)
    is what a quadratic needs to bring back the residual when the instance is left out, coupling
    between the classes included. Their geometric mean with weights 4/5 and 1/5 came closest to
    retraining over weak and strong priors, few and many labels and classes
    (``examples/study/updates.py``).

    Parameters
    ----------
    mean : Tensor of shape (n, C)
        p at the mode.
    without : Tensor of shape (n, C)
        p^-, when the instance is left out.
    moved : Tensor of shape (n, C)
        z - z^-, logits with it less those without.

    Returns
    -------
    Tensor of shape (n, C)
        Factor of the curvature; 1 where the secant has no meaning, or the curvature is lost to
        rounding.

    Examples
    --------
    >>> mean, without = torch.tensor([[0.99]]), torch.tensor([[0.5]])
    >>> secant_stiffening(mean, without, torch.logit(mean))
    tensor([[1.6086]])
    """
    # The full structure multiplies the factor with p_k p_l, too: 1 - p_k must not round to 0.
    complement = 1 - mean if mean.shape[1] == 1 else sum_of_others(mean)
    curvature = mean * complement
    number = torch.finfo(mean.dtype)
    is_curved = curvature > number.tiny / number.eps  # else the ratio may overflow
    is_far = moved.abs() > 1e-4
    secant = (mean - without) / torch.where(is_far, moved, 1.0)  # eq-secant
    ratio = secant / torch.where(is_curved, curvature, 1.0)
    # eq-stiffening
    return torch.where(is_curved & is_far & (secant > 0), ratio, 1.0) ** _SHARE_OF_SECANT
