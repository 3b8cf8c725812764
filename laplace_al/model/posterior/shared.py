"""One covariance for the weights of every output."""

from dataclasses import replace
from typing import Self

import torch

from laplace_al.model.posterior.grouped import GroupedPosterior


class SharedPosterior(GroupedPosterior):
    """Gaussian over W (D, C) whose columns share the precision A = lambda I + sum h phi phi^T.

    Memory: D^2 + D C numbers. The structure of Huseljic et al., arXiv 2210.06112.

    See Also
    --------
    laplace_al.model.posterior.PerClassPosterior : A covariance for each column.

    Examples
    --------
    >>> import torch
    >>> prior = SharedPosterior.prior(torch.zeros(2, 1), prior_precision=4.0)
    >>> prior.variance(torch.tensor([[1.0, 1.0]]))
    tensor([0.5000])
    >>> one = torch.ones(1, 1)
    >>> SharedPosterior.at_mode(0 * one, 2 * one, one, prior_precision=1.0).precision
    tensor([[5.]])
    """

    @staticmethod
    def shape_of_root(n_features: int, n_outputs: int) -> tuple[int, int]:
        """Return the shape of one root for all outputs, see :meth:`Posterior.shape_of_root`."""
        return 1, n_features

    def variance(self, features: torch.Tensor) -> torch.Tensor:
        """Return one variance for all logits of a row, (n,), see :meth:`Posterior.variance`."""
        return (features @ self.stored_root[0]).square_().sum(dim=1)  # eq-latent

    def _span(self, basis: torch.Tensor) -> torch.Tensor:
        return self.stored_root @ basis

    def _absorb(
        self,
        basis: torch.Tensor,
        removed: torch.Tensor,
        shift: torch.Tensor,
        span: torch.Tensor | None = None,
    ) -> Self:
        span = (self._span(basis) if span is None else span)[0]  # (D, k)
        basis, shrunk = basis[0], span @ removed[0]
        if shrunk.shape[1] == 1:  # twice as fast as the product of a column and a row
            root = torch.addr(self.stored_root[0], shrunk[:, 0], basis[:, 0], alpha=-1)
        else:
            root = torch.addmm(self.stored_root[0], shrunk, basis.T, alpha=-1)
        mean = torch.addmm(self.stored_mean, span, shift[0])
        return replace(self, stored_mean=mean, stored_root=root[None])

    def _root_of_more(self, positions: torch.Tensor, n_outputs: int) -> torch.Tensor:
        return self.stored_root  # which new outputs share, too

    def _root_of_two(self) -> torch.Tensor:
        return self.stored_root
