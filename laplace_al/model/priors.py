"""Quadratic penalties of W (D, C): the prior, and with it data that is kept as a Gaussian."""

from typing import NamedTuple, TypeAlias

import torch

from laplace_al.model.posterior.roots import root_of_precision, root_of_sum


class IsotropicPrior(NamedTuple):
    """lambda / 2 |W - W_0|^2, around a mean W_0."""

    mean: torch.Tensor
    precision: float

    def value(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the penalty of W."""
        return self.precision / 2 * (weights - self.mean).square().sum()

    def gradient(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the derivative at W, (D, C)."""
        return self.precision * (weights - self.mean)

    def product(self, direction: torch.Tensor) -> torch.Tensor:
        """Multiply the Hessian by a direction (D, C)."""
        return self.precision * direction

    def shared_root(self, features: torch.Tensor, curvature: torch.Tensor) -> torch.Tensor:
        """Return a root (D, D) of the inverse of the Hessian and Phi^T diag(h) Phi, h (n, 1)."""
        return root_of_sum(features, curvature, self.precision)[0]

    def absorb(
        self, information: torch.Tensor, slope: torch.Tensor, weights: torch.Tensor
    ) -> "GaussianPrior":
        """Add data as its quadratic at W, see :meth:`GaussianPrior.absorb`."""
        precision = information.clone()
        precision.diagonal(dim1=-2, dim2=-1).add_(self.precision)
        return GaussianPrior(precision, weights, self.gradient(weights) + slope)


class GaussianPrior(NamedTuple):
    """<g, W - W_0> + 1/2 <W - W_0, A (W - W_0)>: the prior and the data that it stands for.

    The precision A is (G, N, N) for G groups of m outputs, where (G, N) is (1, D), (C, D) or
    (1, D C). The slope g is the derivative at the reference W_0, both (D, C).
    """

    precision: torch.Tensor
    reference: torch.Tensor
    slope: torch.Tensor

    def value(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the penalty of W."""
        moved = weights - self.reference
        return (moved * (self.slope + self.product(moved) / 2)).sum()

    def gradient(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the derivative at W, (D, C)."""
        return self.slope + self.product(weights - self.reference)

    def product(self, direction: torch.Tensor) -> torch.Tensor:
        """Multiply the Hessian by a direction (D, C)."""
        n_groups, size = self.precision.shape[:2]
        if size != len(direction):
            return (self.precision[0] @ direction.reshape(-1)).reshape(direction.shape)
        groups = direction.T.reshape(n_groups, -1, size).mT  # (G, D, m)
        return (self.precision @ groups).mT.reshape(-1, size).T

    def shared_root(self, features: torch.Tensor, curvature: torch.Tensor) -> torch.Tensor:
        """Return a root (D, D) as that of the isotropic prior, of the mean over the outputs."""
        size = len(self.reference)
        if self.precision.shape[1] == size:
            mean = self.precision.mean(dim=0)
        else:  # the blocks of the outputs on the diagonal
            blocks = self.precision.reshape(size, -1, size, self.reference.shape[1])
            mean = blocks.diagonal(dim1=1, dim2=3).mean(dim=2)
        return root_of_precision(torch.addmm(mean, (curvature * features).T, features)[None])[0]

    def absorb(
        self, information: torch.Tensor, slope: torch.Tensor, weights: torch.Tensor
    ) -> "GaussianPrior":
        """Add data as its quadratic at W (D, C).

        The information (G, N, N) is what it adds to the precision, the slope (D, C) the derivative
        of its negative log-likelihood at W.
        """
        return GaussianPrior(self.precision + information, weights, self.gradient(weights) + slope)


Prior: TypeAlias = IsotropicPrior | GaussianPrior
