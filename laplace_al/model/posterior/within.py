"""A posterior in the subspace of what it has learnt."""

from typing import NamedTuple

import torch

from laplace_al.model.posterior.base import Posterior
from laplace_al.model.posterior.per_class import PerClassPosterior
from laplace_al.model.posterior.shared import SharedPosterior

_ROUNDING = 64  # of a trace and of a mean, in units of the last digit


class Within(NamedTuple):
    """A posterior in a subspace with an orthonormal basis B (D, m).

    ``inside`` is that of B^T W. Weights outside have mean 0, do not depend on those inside, and
    have the variance ``outside`` (), that under the prior, in each direction.
    """

    inside: Posterior
    outside: torch.Tensor


def within(posterior: Posterior, basis: torch.Tensor) -> Within | None:
    """Return a posterior in the subspace of a basis (D, m), if all it has learnt lies in it.

    None if it has learnt more, or in a structure other than roots and mean. No covariance exceeds
    that of the prior. So outside it is that of the prior if the traces say so, and then nothing
    outside depends on the inside (eq-span).
    """
    if not isinstance(posterior, SharedPosterior | PerClassPosterior):
        return None
    root, mean, prior_precision = posterior.root, posterior.mean, posterior.prior_precision
    inside, coordinates = basis.T @ root, basis.T @ mean  # (G, m, D), (m, C)
    n_outside = len(root) * (len(basis) - basis.shape[1])
    trace = root.square().sum()
    lost = trace - inside.square().sum() - n_outside / prior_precision
    moved = torch.linalg.vector_norm(mean - basis @ coordinates)
    rounding = _ROUNDING * torch.finfo(mean.dtype).eps
    if abs(lost) > rounding * trace or moved > rounding * torch.linalg.vector_norm(mean):
        return None
    narrow = torch.linalg.qr(inside.mT, mode="r").R.mT
    return Within(
        type(posterior)(coordinates, narrow, prior_precision, basis.T @ posterior.prior_mean),
        mean.new_tensor(1 / prior_precision),
    )
