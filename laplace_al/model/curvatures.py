"""Curvatures: the weight of an instance in the precision of a posterior.

A quadratic stands for the likelihood of each instance. At the mode its curvature is that of the
softmax, which all but vanishes once the label is fitted: the loss is then flat one way and steep
the other. The secant over the way that the logits go when the instance is left out sees both. Of a
label that has just been learnt, that way is unknown: how open it is, the variances tell.

Means p, variances v and what is returned are tensors (n, C), or vectors (C,) for one instance, if
nothing else is said.
"""

from types import ModuleType
from typing import Any

import numpy as np
import torch

from laplace_al._common.typing import Numbers
from laplace_al.model.likelihoods import Mean

_SHARE_OF_SECANT = 0.2
STEEPEST = 1e3


def per_class_curvature(mean: Mean[Numbers]) -> Numbers:
    """Return the weight of an instance in the precision of each output: h_k = p_k (1 - p_k)."""
    return mean.p * mean.complement  # eq-per-class


def shared_curvature(mean: Mean[Numbers]) -> Numbers:
    """Return the weight in a precision that all outputs share, (n, 1): h = p_max (1 - p_max)."""
    # eq-shared: p (1 - p) grows up to 1/2, and the others are at most 1 - p_max
    curvature = per_class_curvature(mean)
    if isinstance(curvature, np.ndarray):
        return curvature.max(keepdims=True)
    return curvature.amax(dim=1, keepdim=True)


def shared_unit_curvature(mean: Mean[Numbers]) -> Numbers:
    """Return 1 for each instance, (n, 1)."""
    return mean.p[..., :1] * 0 + 1


def per_class_unit_curvature(mean: Mean[Numbers]) -> Numbers:
    """Return 1 for each instance and output."""
    return mean.p * 0 + 1


def full_curvature_root(mean: Mean[Numbers]) -> Numbers:
    """Return a root B (C, C) of the curvature of one instance: B B^T = diag p - p p^T.

    It is diag(q) (I - q q^T) with q = sqrt(p), a projection between two scalings; for one logit,
    sqrt(p (1 - p)).
    """
    p = mean.p.reshape(-1)
    if len(p) == 1:
        return (per_class_curvature(mean) ** 0.5).reshape(1, 1)
    # What 1 - p_k has lost in q_k (1 - p_k) is below the rounding of p_k (1 - p_k) once squared.
    xp, _ = _numerics(p)
    q = p**0.5
    return xp.diag(q) - xp.outer(p, q)


def identity_root(mean: Mean[Numbers]) -> Numbers:
    """Return a root (C, C) of a curvature of 1: the identity."""
    xp, _ = _numerics(mean.p)
    return xp.diag((mean.p * 0 + 1).reshape(-1))


def secant_stiffening(
    mean: Mean[torch.Tensor], without: Mean[torch.Tensor], moved: torch.Tensor
) -> torch.Tensor:
    """Return how much stiffer an instance is than its curvature at the mode: (q / h)^(1/5).

    h = p_k (1 - p_k) is the curvature at the mode. The secant q = (p_k - p_k^-) / (z_k - z_k^-)
    is what a quadratic needs to bring back the residual when the instance is left out, coupling
    between the classes included; ``moved`` is z - z^- (n, C). Their geometric mean with weights 4/5
    and 1/5 came closest to retraining over weak and strong priors, few and many labels and classes
    (``examples/study/updates.py``). It is 1 where the secant has no meaning, or the curvature is
    lost to rounding.
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


def mirror_curvature(mean: Mean[Numbers]) -> Numbers:
    """Return the secant to the mirrored logit: q = (2 p - 1) / (2 l), l = log p / (1 - p).

    From l to -l the probability goes from p to 1 - p. Of all quadratics that touch the loss at l it
    is the flattest that lies above it everywhere.

    Jaakkola and Jordan, *Bayesian parameter estimation via variational methods*, Statistics and
    Computing 10(1), 2000.
    """
    xp, tiny = _numerics(mean.p)
    odds = xp.log((mean.p + tiny) / (mean.complement + tiny))
    is_even = abs(odds) < 1e-3  # 1/4 - l^2 / 48
    return xp.where(is_even, 0.25, (mean.p - mean.complement) / (2 * xp.where(is_even, 1.0, odds)))


def open_stiffening(mean: Mean[Numbers], variance: Numbers, least: float = 0.0) -> Numbers:
    """Return how much stiffer than its tangent a label is that has yet to see what comes later.

    The logits that little is known of are those that later labels will move, and far: there the
    secant q to the mirrored logit counts more beside the tangent h = p_k (1 - p_k),

        (q / h)^(1 - t),  t = (1 - least) (min_j v_j / v_k)^(3/4).

    The best known logit has ``least`` of the secant, and so have all whose variance is shared.
    """
    xp, tiny = _numerics(variance)
    variance = variance + tiny
    ratio = mirror_curvature(mean) / (per_class_curvature(mean) + tiny)
    share = (1 - least) * (xp.amin(variance, -1, keepdims=True) / variance) ** 0.75
    return ratio ** (1 - share)  # eq-open


def steepening(
    before: Mean[Numbers], after: Mean[Numbers], variance: Numbers, prior_variance: Any
) -> Numbers:
    """Return what a label that moves its logits adds to the weight of what was known of them.

    That came from instances whose curvature h goes along. Where it grows, so does what they weigh:

        ((h / h_before)^(1/2) - 1)_+ (1 / v - 1 / v_0),

    of the shape of v: a precision that all share takes the smallest of the classes. v is the
    variance before the label is known, v_0 (n, 1) or a number that under the prior, whose precision
    does not grow.
    """
    xp, tiny = _numerics(variance)
    ratio = per_class_curvature(after) / (per_class_curvature(before) + tiny)
    grown = xp.sqrt(ratio).clip(1.0, STEEPEST)
    if variance.shape[-1] < grown.shape[-1]:
        grown = xp.amin(grown, -1, keepdims=True)
    # eq-steepening
    known = (1 / (variance + tiny) - 1 / prior_variance).clip(0.0, 1 / (STEEPEST * tiny))
    return (grown - 1) * known


def _numerics(numbers: Any) -> tuple[ModuleType, float]:
    """Return the module of such numbers, and the smallest normal one, to be added to divisors."""
    if isinstance(numbers, np.ndarray):
        return np, float(np.finfo(numbers.dtype).tiny)
    return torch, torch.finfo(numbers.dtype).tiny
