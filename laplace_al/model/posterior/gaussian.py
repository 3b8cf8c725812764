"""The Gaussian over the weights that all posteriors are: a mean and the root of a covariance."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from laplace_al._common.stored import StoredState
from laplace_al.model.posterior.roots import precision_of_root, prior_root


@dataclass(frozen=True, eq=False)
class GaussianWeights(StoredState, ABC):
    """Gaussian over the weights W (D, C) of a last layer.

    W is divided into G groups of m columns of N numbers. The columns of a group share a covariance,
    Sigma_g = R_g R_g^T. A posterior is a value: methods return a new one and do not change it.

    Parameters
    ----------
    stored_mean : Tensor of shape (D, C)
        Posterior mean of W, up to what is pending in a :class:`PerClassPosterior`.
    stored_root : Tensor of shape (G, N, N)
        R, the roots of the covariance, up to what is pending as well.
    prior_precision : float
        lambda of the Gaussian prior.
    prior_mean : Tensor of shape (D, C)
        Mean of the Gaussian prior.

    Examples
    --------
    >>> from laplace_al.model.posterior import SharedPosterior
    >>> prior = SharedPosterior.prior(torch.ones(2, 1), prior_precision=4.0)
    >>> prior.covariance
    tensor([[0.2500, 0.0000],
            [0.0000, 0.2500]])
    >>> one = torch.ones(1, 2)
    >>> prior.logits(one), prior.variance(one), prior.norm(one.T)  # |(1, 1)| / 2
    (tensor([[2.]]), tensor([0.5000]), tensor(0.7071))
    >>> prior.with_mean(2 * prior.mean).logits(one), prior.log_determinant()  # 2 log 4
    (tensor([[4.]]), tensor(2.7726))
    >>> prior.sample(5, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 2, 1])
    """

    has_contrasts: ClassVar[bool] = False
    """True where :meth:`predictive_variance` differs from :meth:`variance`."""

    stored_mean: torch.Tensor
    stored_root: torch.Tensor
    prior_precision: float
    prior_mean: torch.Tensor

    @staticmethod
    @abstractmethod
    def shape_of_root(n_features: int, n_outputs: int) -> tuple[int, int]:
        """Return (G, N) for W of shape (n_features, n_outputs): G N^2 numbers are held."""

    @classmethod
    def n_numbers(cls, n_features: int, n_outputs: int) -> int:
        """Return how many numbers hold the covariance of weights (n_features, n_outputs)."""
        n_roots, size = cls.shape_of_root(n_features, n_outputs)
        return n_roots * size**2

    @classmethod
    def prior(cls, mean: torch.Tensor, prior_precision: float) -> Self:
        """Make the Gaussian prior around a mean: covariance I / lambda.

        Parameters
        ----------
        mean : Tensor of shape (D, C)
        prior_precision : float
            lambda > 0.

        Returns
        -------
        Posterior
        """
        root = prior_root(*cls.shape_of_root(*mean.shape), prior_precision, mean)
        return cls(mean, root, prior_precision, mean)

    @classmethod
    def of_roots(
        cls,
        mean: torch.Tensor,
        root: torch.Tensor,
        prior_precision: float,
        prior_mean: torch.Tensor,
    ) -> Self:
        """Make a posterior from roots of its covariances.

        Parameters
        ----------
        mean : Tensor of shape (D, C)
        root : Tensor of shape (G, N, N)
        prior_precision : float
        prior_mean : Tensor of shape (D, C)

        Returns
        -------
        Posterior
        """
        return cls(mean, root, prior_precision, prior_mean)

    @property
    def mean(self) -> torch.Tensor:
        """Posterior mean of W, (D, C)."""
        return self.stored_mean

    @property
    def root(self) -> torch.Tensor:
        """R, (G, N, N)."""
        return self.stored_root

    @property
    def precision(self) -> torch.Tensor:
        """A_g = Sigma_g^-1, (G, N, N); (N, N) if there is only one."""
        return _squeezed(precision_of_root(self.root))

    @property
    def covariance(self) -> torch.Tensor:
        """Sigma_g = R_g R_g^T, (G, N, N); (N, N) if there is only one."""
        return _squeezed(self.root @ self.root.mT)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return the mean of the logits, Phi W.

        Parameters
        ----------
        features : Tensor of shape (n, D)

        Returns
        -------
        Tensor of shape (n, C)
        """
        return features @ self.mean

    @abstractmethod
    def variance(self, features: torch.Tensor) -> torch.Tensor:
        """Return the variance of the logits, the diagonal of Phi Sigma Phi^T.

        Parameters
        ----------
        features : Tensor of shape (n, D)

        Returns
        -------
        Tensor of shape (n,) or (n, C)
            One for all logits of a row where they share it.
        """

    def predictive_variance(self, features: torch.Tensor) -> torch.Tensor:
        """Return the variance of the logits that predictions use.

        Parameters
        ----------
        features : Tensor of shape (n, D)

        Returns
        -------
        Tensor of shape (n,) or (n, C)
            Equal to :meth:`variance`, except for :class:`FullPosterior`: there the part common to
            all logits, which softmax ignores, is left out.
        """
        return self.variance(features)

    def norm(self, slope: torch.Tensor) -> torch.Tensor:
        """Return the standard deviation of <G, W> for a slope G, sqrt(<G, Sigma G>).

        Parameters
        ----------
        slope : Tensor of shape (D, C)

        Returns
        -------
        Tensor of shape ()
        """
        return torch.linalg.vector_norm(self.root.mT @ grouped(slope, self.root))

    def covariances(self, features: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the covariance of the weights with the logits, Sigma_g Phi^T, of each group.

        Parameters
        ----------
        features : Tensor of shape (n, N)

        Yields
        ------
        Tensor of shape (N, n)
        """
        for root in self.root:
            yield root @ (features @ root).T

    def sample(self, n_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draw weights from the posterior, W + R noise.

        Parameters
        ----------
        n_samples : int
        generator : torch.Generator
            On the CPU, so that a seed gives the same weights on every device.

        Returns
        -------
        Tensor of shape (n_samples, D, C)
        """
        n_groups, size = self.stored_root.shape[:2]
        shape = (n_groups, size, n_samples * self.mean.numel() // (n_groups * size))
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.mean)
        draws = (self.root @ noise).reshape(n_groups, size, n_samples, -1).permute(2, 0, 1, 3)
        return self.mean + torch.stack([ungrouped(draw, self.prior_mean) for draw in draws])

    def log_determinant(self) -> torch.Tensor:
        """Return the log determinant of the precision of all weights together.

        Returns
        -------
        Tensor of shape ()
        """
        n_columns = grouped(self.mean, self.root).shape[2]
        return -2 * n_columns * torch.linalg.slogdet(self.root).logabsdet.sum()

    def with_mean(self, mean: torch.Tensor) -> Self:
        """Return the same covariance around another mean.

        Parameters
        ----------
        mean : Tensor of shape (D, C)

        Returns
        -------
        Posterior
        """
        return type(self)(mean, self.root, self.prior_precision, self.prior_mean)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(n_features={self.stored_mean.shape[0]}, "
            f"n_outputs={self.stored_mean.shape[1]}, prior_precision={self.prior_precision:g})"
        )


def grouped(matrix: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """Reshape (D, C) to (G, N, m), for roots (G, N, N)."""
    n_groups, size = root.shape[:2]
    if size == len(matrix):
        return matrix.T.reshape(n_groups, -1, size).mT
    return matrix.reshape(1, -1, 1)


def ungrouped(groups: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Reshape (G, N, m) to (D, C), like another matrix."""
    if groups.shape[1] == len(like):
        return groups.mT.reshape(-1, len(like)).T
    return groups.reshape(like.shape)


def _squeezed(matrices: torch.Tensor) -> torch.Tensor:
    """Return the matrices (G, N, N), or the only one (N, N)."""
    return matrices[0] if len(matrices) == 1 else matrices
