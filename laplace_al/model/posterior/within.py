"""A posterior in the subspace of what it has learnt."""

from typing import NamedTuple

import torch

from laplace_al.model.posterior.base import Posterior
from laplace_al.model.posterior.low_rank import LowRankPosterior
from laplace_al.model.posterior.per_class import PerClassPosterior
from laplace_al.model.posterior.shared import SharedPosterior
from laplace_al.model.posterior.whitened import Whitened

_ROUNDING = 64  # of a trace and of a mean, in units of the last digit


class Within(NamedTuple):
    """A posterior in a subspace with an orthonormal basis B (D, m).

    ``inside`` is that of B^T W. Weights outside have mean 0, do not depend on those inside, and
    have the variance ``outside`` in each direction, () or (C,).
    """

    inside: Posterior
    outside: torch.Tensor


def within(posterior: Posterior, basis: torch.Tensor) -> Within | None:
    """Return a posterior in the subspace of a basis (D, m), if all it has learnt lies in it.

    None if it has learnt more, or where the outputs are coupled (eq-span).
    """
    if isinstance(posterior, SharedPosterior | PerClassPosterior):
        root = posterior.root
    elif isinstance(posterior, LowRankPosterior):
        root = posterior.stored_root
    else:
        return None
    mean, prior_precision = posterior.mean, posterior.prior_precision
    rounding = _ROUNDING * torch.finfo(mean.dtype).eps
    moved = torch.linalg.vector_norm(mean - basis @ (basis.T @ mean))
    narrow = _roots_within(root, prior_precision, basis, rounding)
    if narrow is None or moved > rounding * torch.linalg.vector_norm(mean):
        return None
    spanning, inner = narrow
    prior = prior_precision, basis.T @ posterior.prior_mean
    outside = mean.new_tensor(1 / prior_precision)
    if not isinstance(posterior, LowRankPosterior):
        return Within(type(posterior)(basis.T @ mean, inner, *prior), outside)
    whitened = _whitened_within(posterior.whitened, spanning[0], 100 * rounding)
    if whitened is None:
        return None
    inside = LowRankPosterior(basis.T @ posterior.stored_mean, inner, *prior, whitened)
    return Within(inside, outside * whitened.axes.spread)


def _roots_within(
    root: torch.Tensor, prior_precision: float, basis: torch.Tensor, rounding: float
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return what whitened weights (G, D, m) the subspace spans, and roots (G, m, m) in it.

    None if they are not those of the prior outside. No covariance exceeds that of the prior. So it
    is the prior's outside if the traces say so, and then nothing outside depends on the inside.
    """
    inside = basis.T @ root  # (G, m, D)
    n_outside = len(root) * (len(basis) - basis.shape[1])
    trace = root.square().sum()
    if abs(trace - inside.square().sum() - n_outside / prior_precision) > rounding * trace:
        return None
    spanning, upper = torch.linalg.qr(inside.mT)
    return spanning, upper.mT


def _whitened_within(whitened: Whitened, basis: torch.Tensor, rounding: float) -> Whitened | None:
    """Return whitened weights in the subspace of a basis (D, m); None if more was learnt."""
    (directions, variances, spread), labelled = whitened.axes, whitened.basis
    told = (variances - spread[:, None])[:, :, None] * directions
    for rows in (told, labelled):
        outside = rows - rows @ basis @ basis.T
        if outside.numel() and outside.abs().max() > rounding:
            return None
    axes = whitened.axes._replace(directions=directions @ basis)
    return whitened._replace(axes=axes, basis=labelled @ basis)
