"""The labelled instances of a fit: in memory, or in blocks of which only sums are seen.

Functions of a :class:`Block` run where its rows are. They return a tensor, or a tuple of tensors,
that are added up over the blocks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

import torch

from laplace_al.model.curvatures import per_class_curvature, secant_stiffening
from laplace_al.model.leave_one_out import (
    RANK_OF_LEAVE_ONE_OUT,
    LeftOut,
    at_most_alone,
    is_cut,
    leave_one_out,
    low_rank_laplace,
)
from laplace_al.model.mode import InMemory, Labelled, Objective, backward, forward
from laplace_al.model.posterior import LowRankPosterior, Posterior
from laplace_al.model.posterior.axes import Times, sketch
from laplace_al.model.posterior.low_rank import excess_of_rows, is_exact
from laplace_al.model.posterior.roots import root_of_precision
from laplace_al.model.preconditioner import Preconditioner, SharedPreconditioner
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.structures import STRUCTURES, CurvatureName, Structure

# Of the precisions of some classes; who adds up holds those of several blocks.
_BYTES_AT_ONCE = 2**25

Combine: TypeAlias = Callable[[Any, Any], Any]


class Block(NamedTuple):
    """Labelled instances, and the variances (n, C) of their logits once these are known."""

    data: Labelled
    variance: torch.Tensor | None = None


class Rows(Protocol):
    """Labelled instances, wherever they are."""

    def total(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return the sum of ``function(block, *args)`` over the blocks."""

    def objective(self, prior: IsotropicPrior) -> Objective:
        """Return the objective whose minimum is the MAP."""

    def with_variances(
        self, mean: torch.Tensor, prior: IsotropicPrior, structure: Structure
    ) -> tuple[Self, torch.Tensor]:
        """Return the rows with their variances at a mode (D, C), and the log determinant.

        Each class has a precision of its own, see
        :class:`laplace_al.model.leave_one_out.Laplace`.
        """

    def posterior(
        self,
        structure: Structure,
        mean: torch.Tensor,
        prior: IsotropicPrior,
        curvature: CurvatureName,
    ) -> Posterior:
        """Return the posterior at a mode (D, C); ``"secant"`` needs the variances."""


class RowsInMemory(Block):
    """:class:`Rows` that are a single block."""

    def total(self, function: Callable[..., Any], *args: Any) -> Any:
        """See :meth:`Rows.total`."""
        return function(self, *args)

    def objective(self, prior: IsotropicPrior) -> Objective:
        """See :meth:`Rows.objective`."""
        return InMemory(self.data, prior)

    def with_variances(
        self, mean: torch.Tensor, prior: IsotropicPrior, structure: Structure
    ) -> tuple["RowsInMemory", torch.Tensor]:
        """See :meth:`Rows.with_variances`."""
        features, _, weights, likelihood = self.data
        curvature = per_class_curvature(likelihood.mean(features @ mean))
        laplace = structure.laplace(features, weights[:, None] * curvature, prior.precision)
        return self._replace(variance=laplace.variance), laplace.log_determinant

    def posterior(
        self,
        structure: Structure,
        mean: torch.Tensor,
        prior: IsotropicPrior,
        curvature: CurvatureName,
    ) -> Posterior:
        """See :meth:`Rows.posterior`."""
        stiffening = stiffening_at_mode(self, mean, curvature)
        return structure.at_mode(self.data, mean, curvature, prior, stiffening=stiffening)


class RemoteBlocks(Protocol):
    """Blocks of rows that are elsewhere, of which only results of functions come back."""

    def total(self, function: Callable[..., Any], *args: Any, combine: Combine) -> Any:
        """Return ``function(block, *args)`` of all blocks, combined two by two."""

    def with_variances(self, function: Callable[..., Any], *args: Any) -> Self:
        """Return the same blocks with ``function(block, *args)`` as the variances of each."""


class RowsInBlocks(NamedTuple):
    """:class:`Rows` that are elsewhere."""

    blocks: RemoteBlocks

    def total(self, function: Callable[..., Any], *args: Any) -> Any:
        """See :meth:`Rows.total`."""
        return self.blocks.total(function, *args, combine=added)

    def objective(self, prior: IsotropicPrior) -> Objective:
        """See :meth:`Rows.objective`."""
        return _ObjectiveInBlocks(self, prior)

    def with_variances(
        self, mean: torch.Tensor, prior: IsotropicPrior, structure: Structure
    ) -> tuple["RowsInBlocks", torch.Tensor]:
        """See :meth:`Rows.with_variances`: a few passes for as many classes as fit into 32 MiB."""
        if structure.laplace is low_rank_laplace and is_cut(*mean.shape):
            posterior = self._low_rank(mean, prior, "categorical", RANK_OF_LEAVE_ONE_OUT)
            blocks = self.blocks.with_variances(variances_under, posterior, mean)
            return RowsInBlocks(blocks), posterior.log_determinant()
        n_features, n_outputs = mean.shape
        at_once = max(1, _BYTES_AT_ONCE // (mean.element_size() * n_features**2))
        blocks, log_determinant = self.blocks, mean.new_zeros(())
        for start in range(0, n_outputs, at_once):
            some = slice(start, start + at_once)
            roots = _root_of(self.total(per_class_information, mean, some), prior)
            log_determinant = log_determinant - 2 * torch.linalg.slogdet(roots).logabsdet.sum()
            blocks = blocks.with_variances(variances, roots)
        return RowsInBlocks(blocks), log_determinant

    def posterior(
        self,
        structure: Structure,
        mean: torch.Tensor,
        prior: IsotropicPrior,
        curvature: CurvatureName,
    ) -> Posterior:
        """See :meth:`Rows.posterior`."""
        if structure.posterior is LowRankPosterior and not is_exact(*mean.shape):
            return self._low_rank(mean, prior, curvature)
        information = self.total(information_at_mode, mean, structure.name, curvature)
        return structure.posterior.of_sums(mean, information, prior.precision, prior.mean)

    def _low_rank(
        self,
        mean: torch.Tensor,
        prior: IsotropicPrior,
        curvature: CurvatureName,
        rank: int | None = None,
    ) -> LowRankPosterior:
        """Return the posterior by products with its precisions, which are never in one place."""
        root = _root_of(self.total(common_information, mean, curvature), prior)
        trace = self.total(excess_traces, mean, curvature, root[0])

        def times(directions: torch.Tensor, some: slice) -> torch.Tensor:
            args = mean, curvature, root[0], directions, some
            products: torch.Tensor = self.total(excess_products, *args)
            return products

        bytes_each = mean.element_size() * len(sketch(len(mean), mean, rank)) * len(mean)
        at_once = max(1, _BYTES_AT_ONCE // bytes_each)
        return LowRankPosterior.of_products(
            mean, root, times, trace, prior.precision, prior.mean, at_once, rank
        )


def added(one: Any, other: Any) -> Any:
    """Return the sum of two tensors, or of two tuples of tensors one by one."""
    if isinstance(one, tuple):
        return tuple(a + b for a, b in zip(one, other, strict=True))
    return one + other


class _ObjectiveInBlocks(NamedTuple):
    """An :class:`~laplace_al.model.mode.Objective` whose point is W: blocks find logits again."""

    rows: RowsInBlocks
    prior: IsotropicPrior

    def at(self, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        loss, slope = self.rows.total(loss_and_slope, mean)
        return loss + self.prior.value(mean), slope + self.prior.gradient(mean), mean

    def product(self, point: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        curved: torch.Tensor = self.rows.total(hessian_product, point, direction)
        return curved + self.prior.product(direction)

    def preconditioner(self, point: torch.Tensor) -> Preconditioner:
        return SharedPreconditioner(
            _root_of(self.rows.total(mean_information, point), self.prior)[0]
        )

    def curvature(self, point: torch.Tensor) -> float:
        return float(self.rows.total(total_curvature, point))

    def in_single_precision(self) -> None:
        return None

    def in_span(self) -> None:
        return None


def _root_of(information: torch.Tensor, prior: IsotropicPrior) -> torch.Tensor:
    """Return roots (G, D, D) of the inverses of information (G, D, D) and prior."""
    information.diagonal(dim1=-2, dim2=-1).add_(prior.precision)
    return root_of_precision(information)


def sum_from(block: Block, centre: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the weights, and of the features less a centre (D,)."""
    features, _, weights, _ = block.data
    return weights.sum(), weights @ (features - centre)


def squares_around(
    block: Block, centre: torch.Tensor, mean: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sums of squares (D,) of the features less centre and mean, and of the features."""
    features, _, weights, _ = block.data
    return weights @ (features - centre - mean).square_(), weights @ features.square()


def loss_and_slope(block: Block, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the negative log-likelihood, and its derivative (D, C)."""
    features, targets, weights, likelihood = block.data
    loss, residual, _ = likelihood.loss_and_derivatives(forward(features, mean), targets)
    return weights @ loss, -backward(features, weights[:, None] * residual)


def total_curvature(block: Block, mean: torch.Tensor) -> torch.Tensor:
    """Return the sum of the curvatures of all instances and outputs."""
    features, _, weights, likelihood = block.data
    return (weights @ per_class_curvature(likelihood.mean(features @ mean))).sum()


def hessian_product(block: Block, mean: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Return the second derivative of the negative log-likelihood times a direction, (D, C)."""
    features, _, weights, likelihood = block.data
    probabilities = likelihood.mean(forward(features, mean))
    curved = likelihood.hessian_product(probabilities, forward(features, direction))
    return backward(features, weights[:, None] * curved)


def mean_information(block: Block, mean: torch.Tensor) -> torch.Tensor:
    """Return Phi^T diag(h) Phi with the mean curvature of the outputs, (1, D, D)."""
    features, _, weights, likelihood = block.data
    curvature = per_class_curvature(likelihood.mean(features @ mean)).mean(dim=1, keepdim=True)
    return STRUCTURES["shared"].information(features, weights[:, None] * curvature)


def per_class_information(block: Block, mean: torch.Tensor, some: slice) -> torch.Tensor:
    """Return Phi^T diag(h_k) Phi with the curvature p_k (1 - p_k) of some outputs, (K, D, D)."""
    features, _, weights, likelihood = block.data
    curvature = per_class_curvature(likelihood.mean(features @ mean))[:, some]
    return STRUCTURES["per_class"].information(features, weights[:, None] * curvature)


def common_information(block: Block, mean: torch.Tensor, curvature: CurvatureName) -> torch.Tensor:
    """Return Phi^T diag(h) Phi with the mean over the classes of their weights, (1, D, D)."""
    weights = _weights_of_classes(block, mean, curvature).mean(dim=1, keepdim=True)
    return STRUCTURES["shared"].information(block.data.features, weights)


def excess_traces(
    block: Block, mean: torch.Tensor, curvature: CurvatureName, root: torch.Tensor
) -> torch.Tensor:
    """Return the traces (C,) of what the precision of each class has beside the mean, whitened."""
    return _excess(block, mean, curvature, root)[1]


def excess_products(
    block: Block,
    mean: torch.Tensor,
    curvature: CurvatureName,
    root: torch.Tensor,
    directions: torch.Tensor,
    some: slice,
) -> torch.Tensor:
    """Return products of directions (K, q, D) of some classes with what theirs has beside it."""
    return _excess(block, mean, curvature, root)[0](directions, some)


def _excess(
    block: Block, mean: torch.Tensor, curvature: CurvatureName, root: torch.Tensor
) -> tuple[Times, torch.Tensor]:
    weights = _weights_of_classes(block, mean, curvature)
    excess = weights - weights.mean(dim=1, keepdim=True)
    return excess_of_rows(block.data.features @ root, excess.T.contiguous())


def _weights_of_classes(block: Block, mean: torch.Tensor, curvature: CurvatureName) -> torch.Tensor:
    """Return the weights (n, C) of a block in the precisions of the classes."""
    features, _, weights, likelihood = block.data
    stiffening = stiffening_at_mode(block, mean, curvature)
    probabilities = likelihood.mean(features @ mean)
    found = STRUCTURES["low_rank"].curvature(curvature, probabilities, weights, stiffening)
    assert isinstance(found, torch.Tensor)
    return found


def variances_under(block: Block, posterior: LowRankPosterior, mean: torch.Tensor) -> torch.Tensor:
    """Return the variances (n, C) of the logits of a block at a mode."""
    features, _, weights, likelihood = block.data
    curvature = weights[:, None] * per_class_curvature(likelihood.mean(features @ mean))
    variance = posterior.variance(features)
    return at_most_alone(variance, features, curvature, posterior.prior_precision)


def variances(block: Block, roots: torch.Tensor) -> torch.Tensor:
    """Return the variances known so far, and phi^T Sigma_k phi of the classes of some roots."""
    more = [(block.data.features @ root).square().sum(dim=1, keepdim=True) for root in roots]
    return torch.cat([*([] if block.variance is None else [block.variance]), *more], dim=1)


def information_at_mode(
    block: Block, mean: torch.Tensor, structure: str, curvature: CurvatureName
) -> torch.Tensor:
    """Return what the data adds to the precision of a posterior, (G, N, N)."""
    features, _, weights, likelihood = block.data
    weighted = STRUCTURES[structure].curvature(
        curvature,
        likelihood.mean(features @ mean),
        weights,
        stiffening_at_mode(block, mean, curvature),
    )
    return STRUCTURES[structure].posterior.information(features, weighted)


def left_out(block: Block, mean: torch.Tensor) -> LeftOut:
    """Return the leave-one-out logits and variances (n, C) at a mode."""
    features, targets, weights, likelihood = block.data
    assert block.variance is not None
    logits = features @ mean
    curvature = per_class_curvature(likelihood.mean(logits))
    residual = likelihood.residual(logits, targets)
    return leave_one_out(logits, residual, block.variance, curvature, weights)


def stiffening_at_mode(
    block: Block, mean: torch.Tensor, curvature: CurvatureName
) -> torch.Tensor | None:
    """Return the factor (n, C) of the curvature of each instance at a mode, or None for 1."""
    if curvature != "secant":
        return None
    without = left_out(block, mean).logits
    logits, average = block.data.features @ mean, block.data.likelihood.mean
    return secant_stiffening(average(logits), average(without), logits - without)
