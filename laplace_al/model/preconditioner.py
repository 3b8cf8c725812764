"""Preconditioners of the search for the mode: cheap inverses of its second derivative.

All classes share a root (D, D). What a class has beyond it comes mostly from the few instances that
are of the class, or nearly so: a term of low rank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from laplace_al.model.priors import GaussianPrior, Prior

Preconditioner: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

_RANK = 16
_SMALL = 2**19  # numbers of features, times outputs, up to which a term of low rank saves no time
_ENOUGH_ROWS = 1000  # of a sample, and four to a feature: they tell the shape of the data


@dataclass(frozen=True, eq=False)
class SharedPreconditioner:
    """Multiplies weights (D, C) by R R^T, with one root R (D, D) for all outputs."""

    root: torch.Tensor

    def __call__(self, right: torch.Tensor) -> torch.Tensor:
        """Return R R^T times a right-hand side (D, C)."""
        return self.root @ (self.root.T @ right)


@dataclass(frozen=True, eq=False)
class ClassPreconditioner:
    """Multiplies the weights (D,) of class k by R (I + B_k^T B_k)^-1 R^T, with r rows B_k (r, D).

    The classes are independent but for what is common to all, which softmax ignores: there, the
    second derivative is the prior precision. ``inner`` (C, r, r) are (I + B_k B_k^T)^-1.
    """

    root: torch.Tensor
    rows: torch.Tensor
    inner: torch.Tensor
    prior_precision: float

    def __call__(self, right: torch.Tensor) -> torch.Tensor:
        """Return the product with a right-hand side (D, C)."""
        common = right.mean(dim=1, keepdim=True)
        # of rows, several times as fast in a batch as columns
        whitened = ((right - common).T @ self.root)[:, None]  # (C, 1, D)
        explained = whitened @ self.rows.mT @ self.inner @ self.rows
        solution = self.root @ (whitened - explained)[:, 0].T
        centred = solution - solution.mean(dim=1, keepdim=True)
        return centred + common / self.prior_precision


def preconditioner_of(
    features: torch.Tensor, curvature: torch.Tensor, prior: Prior
) -> Preconditioner:
    """Return a preconditioner for features (n, D) of curvatures h_k (n, C), weights included.

    A sample of the rows makes the root, where there are many.
    """
    is_small = features.numel() * curvature.shape[1] < _SMALL
    if curvature.shape[1] == 1 or is_small or isinstance(prior, GaussianPrior):
        return SharedPreconditioner(_root(features, curvature.mean(dim=1), prior))
    # of all classes but that of the largest
    shared = (curvature.sum(dim=1) - curvature.amax(dim=1)) / (curvature.shape[1] - 1)
    root = _root(features, shared, prior)
    excess = curvature - shared[:, None]
    largest, places = excess.topk(min(_RANK, len(features)), dim=0)  # (r, C)
    rounding = torch.finfo(largest.dtype).eps ** 0.5 * curvature.max()
    if not largest.max() > rounding:  # as at the start, where all classes are as likely
        return SharedPreconditioner(root)
    rows = largest.T.clamp_min(0).sqrt()[:, :, None] * (features[places.T] @ root)
    inner = torch.eye(rows.shape[1]).to(rows) + rows @ rows.mT
    return ClassPreconditioner(root, rows, torch.cholesky_inverse(_factor(inner)), prior.precision)


def _root(features: torch.Tensor, curvature: torch.Tensor, prior: Prior) -> torch.Tensor:
    """Return a root (D, D) of the inverse of prior and Phi^T diag(h) Phi, h (n,)."""
    apart = max(1, len(features) // max(_ENOUGH_ROWS, 4 * features.shape[1]))
    some = curvature[::apart]
    some = some * (curvature.sum() / some.sum().clamp_min(torch.finfo(some.dtype).tiny))
    features = features[::apart]
    if features.dtype == torch.float64 or isinstance(prior, GaussianPrior):
        return prior.shared_root(features, some[:, None])
    rows = some.sqrt()[:, None] * features
    precision = rows.T @ rows
    # so much that rounding leaves it positive definite
    rounding = 4 * torch.finfo(rows.dtype).eps * precision.trace()
    precision.diagonal().add_(prior.precision + rounding)
    identity = torch.eye(len(precision)).to(precision)
    return torch.linalg.solve_triangular(_factor(precision), identity, upper=False).T


def _factor(precision: torch.Tensor) -> torch.Tensor:
    return torch.linalg.cholesky_ex(precision).L
