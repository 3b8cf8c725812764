"""A covariance for the weights of each output: a shared root, and a few axes of its own."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import torch

from laplace_al._common.devices import on_host
from laplace_al._common.typing import UpdateRule
from laplace_al.model.posterior.axes import (
    RANK,
    Axes,
    Times,
    axes_of_inverse,
    principal_axes,
    sketch,
)
from laplace_al.model.posterior.base import check_mergeable, scattered
from laplace_al.model.posterior.effects import Effect
from laplace_al.model.posterior.grouped import GroupedPosterior
from laplace_al.model.posterior.roots import (
    precision_of_root,
    prior_root,
    root_of_precision,
    root_of_sum,
)
from laplace_al.model.posterior.whitened import MAX_PENDING, Whitened, identity

_BLOCK_SIZE = 16

_LowRank = TypeVar("_LowRank", bound="LowRankPosterior")


@dataclass(frozen=True, eq=False, repr=False)
class LowRankPosterior(GroupedPosterior):
    """Gaussian over W (D, C) with independent columns, nearly that of a PerClassPosterior.

    Column k has the covariance R S_k R^T (eq-low-rank). R is a root of the inverse of the mean
    precision of the classes, and S_k (D, D) has the 16 axes in which class k is farthest from that
    mean, see :class:`~laplace_al.model.posterior.axes.Axes`. Memory: D^2 + 17 C D numbers, and up
    to 64 D + 5120 C more.

    Labels are exact until there are 64: then what they tell of all classes goes into R, and the
    rest into the axes of each class. With up to 64 features, or a single output, nothing is ever
    cut, and the covariances are those of a
    :class:`~laplace_al.model.posterior.PerClassPosterior`.

    See Also
    --------
    laplace_al.model.posterior.PerClassPosterior : Any covariance for each column.
    laplace_al.model.posterior.SharedPosterior : One covariance for all columns.

    Examples
    --------
    >>> prior = LowRankPosterior.prior(torch.zeros(2, 3), prior_precision=4.0)
    >>> prior.variance(torch.tensor([[1.0, 1.0]]))
    tensor([[0.5000, 0.5000, 0.5000]])
    """

    whitened: Whitened

    @staticmethod
    def shape_of_root(n_features: int, n_outputs: int) -> tuple[int, int]:
        """Return the shape of the shared root, see :meth:`Posterior.shape_of_root`."""
        return 1, n_features

    @classmethod
    def n_numbers(cls, n_features: int, n_outputs: int) -> int:
        """Return how many numbers root, axes and pending labels have at most."""
        n_pending = min(MAX_PENDING, n_features)
        rank = 0 if is_exact(n_features, n_outputs) else RANK
        of_class = rank * (n_features + n_pending + rank) + n_pending**2
        return n_features * (n_features + n_pending) + n_outputs * of_class

    @classmethod
    def prior(cls, mean: torch.Tensor, prior_precision: float) -> Self:
        """Make the Gaussian prior around a mean, see :meth:`Posterior.prior`."""
        root = prior_root(1, len(mean), prior_precision, mean)
        return cls.of_roots(mean, root, prior_precision, mean)

    @classmethod
    def of_roots(
        cls,
        mean: torch.Tensor,
        root: torch.Tensor,
        prior_precision: float,
        prior_mean: torch.Tensor,
    ) -> Self:
        """Make a posterior from roots (C, D, D) or a common one, see :meth:`Posterior.of_roots`.

        Where they are to be cut, products with their precisions tell the axes.
        """
        size, n_classes = mean.shape
        if size > MAX_PENDING and len(root) == 1:
            whitened = Whitened.of_axes(Axes.none(n_classes, size, mean))
            return cls(mean, root, prior_precision, prior_mean, whitened)
        if size > MAX_PENDING:
            precision = precision_of_root(root)
            common = precision.mean(dim=0, keepdim=True)
            precision -= common
            shared = root_of_precision(common)

            def times(rows: torch.Tensor, some: slice) -> torch.Tensor:
                return (rows @ shared.mT) @ precision[some] @ shared

            trace = (precision @ shared * shared).sum(dim=(1, 2))
            return cls.of_products(mean, shared, times, trace, prior_precision, prior_mean)
        shared = prior_root(1, size, prior_precision, mean)
        whitened = Whitened.of_roots(prior_precision**0.5 * root.expand(n_classes, -1, -1))
        return cls(mean, shared, prior_precision, prior_mean, whitened)

    @classmethod
    def at_mode(
        cls,
        mean: torch.Tensor,
        features: torch.Tensor,
        curvature: torch.Tensor,
        prior_precision: float,
        prior_mean: torch.Tensor | None = None,
    ) -> Self:
        """Make the Laplace approximation around a mode, see :meth:`Posterior.at_mode`.

        Its precisions are lambda I + Phi^T diag(h_k) Phi, cut to a low rank beside their mean.
        """
        prior_mean = torch.zeros_like(mean) if prior_mean is None else prior_mean
        if is_exact(*mean.shape):
            root = root_of_sum(features, curvature, prior_precision)
            return cls.of_roots(mean, root, prior_precision, prior_mean)
        root, _, whitened = whitened_at_mode(features, curvature, prior_precision)
        return cls(mean, root, prior_precision, prior_mean, whitened)

    @classmethod
    def of_products(
        cls,
        mean: torch.Tensor,
        root: torch.Tensor,
        times: Times,
        trace: torch.Tensor,
        prior_precision: float,
        prior_mean: torch.Tensor,
        at_once: int | None = None,
        rank: int | None = None,
    ) -> Self:
        """Make it from a root R (1, D, D) and what is known of I + E_k = R^T A_k R.

        ``times`` multiplies rows by E_k of some classes, ``at_once`` of them; traces are (C,).
        """
        whitened = Whitened.of_axes(_axes_of_excess(times, trace, len(mean), at_once, rank))
        return cls(mean, root, prior_precision, prior_mean, whitened)

    @functools.cached_property
    def mean(self) -> torch.Tensor:
        """Posterior mean of W, (D, C)."""
        return self.stored_mean + self.stored_root[0] @ self.whitened.mean.T

    @property
    def root(self) -> torch.Tensor:
        """R_k, (C, D, D): made when it is asked for."""
        n_classes = self.stored_mean.shape[1]
        every = identity(self.stored_mean).expand(n_classes, -1, -1)
        return self.stored_root @ self.whitened.coloured(every).mT

    def variance(self, features: torch.Tensor) -> torch.Tensor:
        """Return the variance of each logit, (n, C), see :meth:`Posterior.variance`."""
        return self.whitened.variance(features @ self.stored_root[0]).T

    def covariances(self, features: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield Sigma_k Phi^T (D, n) of each class, see :meth:`Posterior.covariances`."""
        rows = (features @ self.stored_root[0])[None]
        for k in range(self.stored_mean.shape[1]):
            product = self.whitened.of_classes(slice(k, k + 1)).covariance_times(rows)
            yield self.stored_root[0] @ product[0].T

    def norm(self, slope: torch.Tensor) -> torch.Tensor:
        """Return sqrt(<G, Sigma G>), see :meth:`Posterior.norm`."""
        return self.whitened.square(slope.T @ self.stored_root[0]).sqrt()

    def sample(self, n_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draw weights, given that their deviations add up to 0 over classes.

        See :meth:`PerClassPosterior.sample`.
        """
        size, n_classes = self.stored_mean.shape
        shape = (n_classes, size, n_samples)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.stored_mean)
        deviations = self.whitened.coloured(noise.mT)  # (C, n_samples, D)
        if n_classes > 1:
            every = identity(self.stored_mean)[None]
            total = torch.zeros_like(every)
            for k in range(n_classes):
                total += self.whitened.of_classes(slice(k, k + 1)).covariance_times(every)
            common = torch.linalg.solve(total[0], deviations.sum(dim=0).T).T  # (n_samples, D)
            common = common.expand(n_classes, -1, -1)
            deviations = deviations - self.whitened.covariance_times(common)  # eq-sum-zero
        return self.mean + (deviations @ self.stored_root[0].T).permute(1, 2, 0)

    def log_determinant(self) -> torch.Tensor:
        """Return that of the precision of all weights, see :meth:`Posterior.log_determinant`."""
        shared = torch.linalg.slogdet(self.stored_root[0]).logabsdet
        return -2 * self.stored_mean.shape[1] * shared - self.whitened.log_determinant()

    def with_mean(self, mean: torch.Tensor) -> Self:
        """Return the same covariance around another mean, see :meth:`Posterior.with_mean`."""
        return replace(self, stored_mean=mean, whitened=self.whitened.centred())

    def condition(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        update: UpdateRule,
    ) -> Self:
        """Learn instances in blocks, as if one by one, see :meth:`Posterior.condition`.

        Blocks end where labels are to be cut, and at those of no weight, which do not wait for it.
        """
        posterior, first, counts = self, 0, [True] * len(features)
        if not self.whitened.is_whole:
            counts = (on_host(weights)[0] > 0).tolist()
        while first < len(features):
            n_at_once = MAX_PENDING
            if not self.whitened.is_whole:
                n_at_once = min(_BLOCK_SIZE, posterior.whitened.n_free)
            last = min(first + n_at_once, len(features))
            last = next((i for i in range(first, last) if counts[i] != counts[first]), last)
            rows = slice(first, last)
            whitened = posterior.whitened.opened(features[rows] @ posterior.stored_root[0])
            learnt = replace(posterior, whitened=whitened)._learn(
                features[rows], targets[rows], weights[rows], update
            )
            posterior = _settled(learnt) if counts[first] else posterior
            first = last
        return posterior

    def condition_with_effects(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        update: UpdateRule,
        meanwhile: Callable[[torch.Tensor], object],
    ) -> tuple[Self, Sequence[Effect] | None]:
        """Return an effect as well, see :meth:`Posterior.condition_with_effects`.

        It is None where labels are cut, which changes more than an effect can tell.
        """
        opened = replace(self, whitened=self.whitened.opened(features @ self.stored_root[0]))
        learnt, effects = GroupedPosterior.condition_with_effects(
            opened, features, targets, weights, update, meanwhile
        )
        if not weights.any():
            return self, effects
        settled = _settled(learnt)
        return settled, effects if settled is learnt else None

    def cut(self) -> Self:
        """Return the posterior without pending labels, its covariances cut to their rank."""
        if self.whitened.is_whole or not len(self.whitened.basis):
            return self
        common, whitened = self.whitened.cut()
        span = self.stored_root[0] @ self.whitened.basis.T
        root = torch.addmm(self.stored_root[0], span @ common - span, self.whitened.basis)
        return replace(self, stored_mean=self.mean, stored_root=root[None], whitened=whitened)

    def _whitened_and_logits(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside = features @ self.stored_root[0] @ self.whitened.basis.T
        logits = torch.addmm(features @ self.stored_mean, inside, self.whitened.shift.T)
        return inside @ self.whitened.root, logits

    def _span(self, basis: torch.Tensor) -> torch.Tensor:
        inside = (self.whitened.root @ basis).mT
        return self.stored_root @ self.whitened.given(inside).mT

    def _absorb(
        self,
        basis: torch.Tensor,
        removed: torch.Tensor,
        shift: torch.Tensor,
        span: torch.Tensor | None = None,
    ) -> Self:
        known = self.whitened
        step = known.root @ basis
        root = torch.baddbmm(known.root, step @ removed, basis.mT, alpha=-1)
        moved = known.shift + (step @ shift)[:, :, 0]
        return replace(self, whitened=known._replace(root=root, shift=moved))

    def merge(self, other: Self, since: Self | None = None) -> Self:
        """Return the posterior of two, cut to its rank anew, see :meth:`Posterior.merge`."""
        if is_exact(*self.mean.shape):
            return super().merge(other, since)
        check_mergeable(self, other, since)
        if since is None:
            return _of_shares([(self, 1.0), (other, 1.0)], -1.0)
        return _of_shares([(self, 1.0), (other, 1.0), (since, -1.0)], 0.0)

    def forget(self, share: float) -> Self:
        """Return it with less weight for its data, cut anew, see :meth:`Posterior.forget`."""
        if is_exact(*self.mean.shape):
            return super().forget(share)
        return _of_shares([(self, share)], 1.0 - share)

    def with_outputs(self, positions: torch.Tensor, n_outputs: int) -> Self:
        """Return it among more outputs, see :meth:`Posterior.with_outputs`.

        What new ones have of the prior is cut to the rank beside the shared root.
        """
        if is_exact(*self.mean.shape):
            return super().with_outputs(positions, n_outputs)
        known = self.cut()
        root = known.stored_root[0]
        new = axes_of_inverse(self.prior_precision * root.T @ root)
        axes = known.whitened.axes.scattered(positions, new, n_outputs)
        return type(self)(
            scattered(known.stored_mean, positions, n_outputs),
            known.stored_root,
            self.prior_precision,
            scattered(self.prior_mean, positions, n_outputs),
            Whitened.of_axes(axes),
        )

    def _root_of_more(self, positions: torch.Tensor, n_outputs: int) -> torch.Tensor:
        root = prior_root(n_outputs, len(self.mean), self.prior_precision, self.mean)
        root[positions] = self.root
        return root

    def _root_of_two(self) -> torch.Tensor:
        return self.root


def _settled(posterior: _LowRank) -> _LowRank:
    """Return a posterior with its labels cut once there are so many."""
    return posterior if posterior.whitened.n_free else posterior.cut()


def is_exact(n_features: int, n_outputs: int) -> bool:
    """Return whether the covariances of such weights are never cut."""
    return n_features <= MAX_PENDING or n_outputs == 1


def whitened_at_mode(
    features: torch.Tensor,
    curvature: torch.Tensor,
    prior_precision: float,
    rank: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, Whitened]:
    """Return a shared root R (1, D, D), rows Phi R (n, D), and whitened weights around 0.

    They are those of the precisions lambda I + Phi^T diag(h_k) Phi, with curvatures (n, C), cut
    to so many axes.
    """
    common = curvature.mean(dim=1, keepdim=True)
    root = root_of_sum(features, common, prior_precision)
    rows = features @ root[0]
    excess = (curvature - common).T.contiguous()
    times, trace = excess_of_rows(rows, excess)
    nearly, _ = excess_of_rows(rows.float(), excess.float())  # directions need no more digits
    axes = _axes_of_excess(
        times, trace, rows.shape[1], rank=rank, nearly=lambda v, some: nearly(v.float(), some).to(v)
    )
    return root, rows, Whitened.of_axes(axes)


def _axes_of_excess(
    times: Times,
    trace: torch.Tensor,
    size: int,
    at_once: int | None = None,
    rank: int | None = None,
    nearly: Times | None = None,
) -> Axes:
    """Return the axes of I + E_k, given products with E_k and the traces (C,) of these."""
    steps = times if nearly is None else nearly
    return principal_axes(
        lambda rows, some: rows + times(rows, some),
        size + trace,
        sketch(size, trace, rank),
        flat=torch.ones_like(trace),
        n_dimensions=size,
        at_once=at_once,
        rank=rank,
        nearly=lambda rows, some: rows + steps(rows, some),
    )


def excess_of_rows(rows: torch.Tensor, weights: torch.Tensor) -> tuple[Times, torch.Tensor]:
    """Return products with W^T diag(w_k) W of rows W (n, D) and weights (C, n), and traces (C,)."""

    def times(directions: torch.Tensor, some: slice) -> torch.Tensor:
        inner = directions.flatten(end_dim=1) @ rows.T  # (K q, n)
        inner = inner.view(*directions.shape[:2], -1).mul_(weights[some, None, :])
        return (inner.flatten(end_dim=1) @ rows).view(directions.shape)

    return times, weights @ rows.square().sum(dim=1)


def _of_shares(parts: Sequence[tuple[_LowRank, float]], share_of_prior: float) -> _LowRank:
    """Return the posterior whose precisions, and their products with the means, are such sums.

    Each posterior counts by a share, and the precision of the prior by one more.
    """
    first, prior_precision = parts[0][0], parts[0][0].prior_precision
    known = [(posterior.cut(), share) for posterior, share in parts]
    total = share_of_prior * prior_precision * identity(first.stored_mean)
    for posterior, share in known:
        inverse = torch.linalg.inv(posterior.stored_root[0])
        total = total + share * inverse.T @ posterior.whitened.axes.mean_inverse() @ inverse
    root = root_of_precision(total[None])
    prior = share_of_prior * prior_precision * root[0].T @ root[0]
    # from new whitened weights to those of each
    ways = [torch.linalg.solve(posterior.stored_root[0], root[0]) for posterior, _ in known]
    axes = [posterior.whitened.axes for posterior, _ in known]
    shares = [share for _, share in known]

    def excess(rows: torch.Tensor, some: slice) -> torch.Tensor:
        products = rows @ prior - rows
        for way, each, share in zip(ways, axes, shares, strict=True):
            products += share * each.of_classes(some).inverse_times(rows @ way.T) @ way
        return products

    trace = (
        prior.trace()
        - len(total)
        + sum(
            share * each.inverse_trace(way)
            for way, each, share in zip(ways, axes, shares, strict=True)
        )
    )
    information = share_of_prior * prior_precision * first.prior_mean.T @ root[0]  # (C, D)
    for (posterior, share), way in zip(known, ways, strict=True):
        mean = torch.linalg.solve(posterior.stored_root[0], posterior.stored_mean).T
        told = posterior.whitened.axes.inverse_times(mean[:, None])[:, 0]
        information = information + share * told @ way
    summed = first.of_products(
        first.prior_mean, root, excess, trace, prior_precision, first.prior_mean
    )
    moved = summed.whitened.covariance_times(information[:, None])[:, 0]
    return replace(summed, stored_mean=(moved @ root[0].T).T)
