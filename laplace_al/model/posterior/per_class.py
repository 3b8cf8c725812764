"""A covariance for the weights of each output."""

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch

from laplace_al.model.posterior.grouped import GroupedPosterior
from laplace_al.model.posterior.roots import prior_root

# Columns of a pending product, after which it is multiplied out.
_MAX_PENDING = 64


class Pending(NamedTuple):
    """Labels not yet worked into the roots and the mean, which are R (I - V Y V^T) and W + R c.

    The directions V are (C, D, r), the coupling Y (C, r, r) is upper triangular by blocks, and the
    shift c is (C, D, 1). Products with few columns are taken as those of their rows, several times
    as fast in a batch.

    A compact WY product: Schreiber and Van Loan, *A storage-efficient WY representation for
    products of Householder transformations*, SIAM Journal on Scientific and Statistical Computing
    10(1), 1989.
    """

    directions: torch.Tensor
    coupling: torch.Tensor
    shift: torch.Tensor

    def of_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply rows (C, b, D) by I - V Y V^T from the right."""
        inner = rows @ self.directions @ self.coupling
        return torch.baddbmm(rows, inner, self.directions.mT, alpha=-1)

    def of_columns(self, columns: torch.Tensor) -> torch.Tensor:
        """Multiply columns (C, D, b) by I - V Y V^T from the left."""
        return self._replace(coupling=self.coupling.mT).of_rows(columns.mT).mT

    def times(self, basis: torch.Tensor, removed: torch.Tensor, step: torch.Tensor) -> "Pending":
        """Append a factor I - Q (I - T) Q^T, and a step Q c (C, D, 1) under the factors so far.

        Q is (C, D, k), and what is removed is I - T (C, k, k).
        """
        shift = self.shift + self.of_columns(step)
        cross = -(self.coupling @ (basis.mT @ self.directions).mT) @ removed
        below = removed.new_zeros(len(removed), removed.shape[1], self.coupling.shape[2])
        upper, lower = torch.cat([self.coupling, cross], 2), torch.cat([below, removed], 2)
        directions = torch.cat([self.directions, basis], 2)
        return Pending(directions, torch.cat([upper, lower], 1), shift)


@dataclass(frozen=True, eq=False, repr=False)
class PerClassPosterior(GroupedPosterior):
    """Gaussian over W (D, C) with independent columns.

    Column k has the precision A_k = lambda I + sum h_k phi phi^T: the block diagonal of the full
    posterior. Memory: C D^2 numbers, and up to 64 C D more. An update reads the roots of all
    classes once; its result is kept apart and applied to roots and mean when these are needed, or
    after 64 labels.

    See Also
    --------
    laplace_al.model.posterior.SharedPosterior : One covariance for all columns.
    laplace_al.model.posterior.FullPosterior : Columns that depend on each other.

    Examples
    --------
    >>> prior = PerClassPosterior.prior(torch.zeros(2, 3), prior_precision=4.0)
    >>> prior.variance(torch.tensor([[1.0, 1.0]]))
    tensor([[0.5000, 0.5000, 0.5000]])
    """

    pending: Pending | None = None

    @functools.cached_property
    def mean(self) -> torch.Tensor:
        """Posterior mean of W, (D, C)."""
        if self.pending is None:
            return self.stored_mean
        return self.stored_mean + (self.pending.shift.mT @ self.stored_root.mT)[:, 0].T

    @functools.cached_property
    def root(self) -> torch.Tensor:
        """R_k, (C, D, D)."""
        if self.pending is None:
            return self.stored_root
        directions, coupling, _ = self.pending
        shrunk = (self.stored_root @ directions) @ coupling
        return torch.baddbmm(self.stored_root, shrunk, directions.mT, alpha=-1)

    @staticmethod
    def shape_of_root(n_features: int, n_outputs: int) -> tuple[int, int]:
        """Return the shape of a root for each output, see :meth:`Posterior.shape_of_root`."""
        return n_outputs, n_features

    def variance(self, features: torch.Tensor) -> torch.Tensor:
        """Return the variance of each logit, (n, C), see :meth:`Posterior.variance`."""
        if self.pending is not None and len(features) <= _MAX_PENDING:
            whitened, _ = self._whitened_and_logits(features)  # cheaper than to multiply out
            return whitened.square().sum(dim=2).T
        # one (n, D) for all classes: freed and taken again, such blocks would pile up in the heap
        whitened = torch.empty_like(features)
        variance = features.new_empty(len(features), len(self.root))
        for k, root in enumerate(self.root):
            torch.mm(features, root, out=whitened)
            variance[:, k] = whitened.square_().sum(dim=1)
        return variance

    def sample(self, n_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draw weights from the posterior, given that their deviations add up to 0 over classes.

        Softmax ignores the part common to all logits, but separate precisions of the classes treat
        it as unknown: a class without data would shift all others. Conditioned on a sum of 0, the
        deviations d_k from the mean become d_k - Sigma_k (sum Sigma)^-1 sum d.

        Parameters
        ----------
        n_samples : int
        generator : torch.Generator

        Returns
        -------
        Tensor of shape (n_samples, D, C)

        Examples
        --------
        >>> posterior = PerClassPosterior.prior(torch.zeros(2, 3), 1.0)
        >>> draws = posterior.sample(5, torch.Generator().manual_seed(0))
        >>> bool(draws.sum(dim=2).abs().max() < 1e-6)
        True
        """
        deviations = super().sample(n_samples, generator) - self.mean
        if self.mean.shape[1] == 1:
            return self.mean + deviations
        total = (self.root @ self.root.mT).sum(dim=0)
        common = torch.linalg.solve(total, deviations.sum(dim=2).T)  # (D, n_samples)
        excess = self.root @ (self.root.mT @ common)  # (C, D, n_samples), eq-sum-zero
        return self.mean + deviations - excess.permute(2, 1, 0)

    def with_mean(self, mean: torch.Tensor) -> Self:
        """Return the same covariance around another mean, see :meth:`Posterior.with_mean`."""
        pending = self.pending
        if pending is not None:
            pending = pending._replace(shift=torch.zeros_like(pending.shift))
        return replace(self, stored_mean=mean, pending=pending)

    def _whitened_and_logits(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        whitened, logits = features @ self.stored_root, features @ self.stored_mean
        if self.pending is None:
            return whitened, logits
        moved = (whitened @ self.pending.shift)[:, :, 0].T
        return self.pending.of_rows(whitened), logits + moved

    def _span(self, basis: torch.Tensor) -> torch.Tensor:
        columns = basis if self.pending is None else self.pending.of_columns(basis)
        return (columns.mT @ self.stored_root.mT).mT

    def _absorb(
        self,
        basis: torch.Tensor,
        removed: torch.Tensor,
        shift: torch.Tensor,
        span: torch.Tensor | None = None,
    ) -> Self:
        step = basis @ shift  # (C, D, 1)
        if self.pending is None:
            pending = Pending(basis, removed, step)
        else:
            pending = self.pending.times(basis, removed, step)
        learnt = replace(self, pending=pending)
        if pending.directions.shape[2] <= _MAX_PENDING:
            return learnt
        return replace(self, stored_mean=learnt.mean, stored_root=learnt.root, pending=None)

    def _root_of_more(self, positions: torch.Tensor, n_outputs: int) -> torch.Tensor:
        root = prior_root(n_outputs, len(self.mean), self.prior_precision, self.mean)
        root[positions] = self.root
        return root

    def _root_of_two(self) -> torch.Tensor:
        return self.root.repeat(2, 1, 1)
