"""What the structures share: a mean and the root of a covariance, conditioned on labels."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch

from laplace_al._common.stored import StoredState
from laplace_al._common.typing import UpdateRule
from laplace_al.model.posterior.effects import Effect
from laplace_al.model.posterior.roots import (
    precision_of_root,
    prior_root,
    root_of_precision,
)


@dataclass(frozen=True, eq=False)
class Posterior(StoredState, ABC):
    """Gaussian over the weights W (D, C) of a last layer.

    W is divided into G groups of m columns of N numbers. The columns of a group share a covariance,
    Sigma_g = R_g R_g^T. A posterior is a value: methods return a new one and do not change it.

    Parameters
    ----------
    base_mean : Tensor of shape (D, C)
        Posterior mean of W.
    base : Tensor of shape (G, N, N)
        R, the roots that represent the covariance; precision and covariance are computed from them.
    prior_precision : float
        lambda of the Gaussian prior.
    prior_mean : Tensor of shape (D, C)
        Mean of the Gaussian prior.
    """

    has_contrasts: ClassVar[bool] = False
    """Whether :meth:`predictive_variance` differs from :meth:`variance`."""

    base_mean: torch.Tensor
    base: torch.Tensor
    prior_precision: float
    prior_mean: torch.Tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a value

    @staticmethod
    @abstractmethod
    def shape_of_root(n_features: int, n_outputs: int) -> tuple[int, int]:
        """(G, N) for W of shape (n_features, n_outputs): G N^2 numbers are held."""

    @classmethod
    def prior(cls, mean: torch.Tensor, prior_precision: float) -> Self:
        """Gaussian prior around a mean: covariance I / lambda.

        Parameters
        ----------
        mean : Tensor of shape (D, C)
        prior_precision : float
            lambda > 0.

        Returns
        -------
        Posterior

        Examples
        --------
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> SharedPosterior.prior(torch.zeros(1, 1), 2.0).covariance
        tensor([[0.5000]])
        """
        root = prior_root(*cls.shape_of_root(*mean.shape), prior_precision, mean)
        return cls(mean, root, prior_precision, mean)

    @classmethod
    @abstractmethod
    def at_mode(
        cls,
        mean: torch.Tensor,
        features: torch.Tensor,
        curvature: Any,
        prior_precision: float,
        prior_mean: torch.Tensor | None = None,
    ) -> Self:
        """Laplace approximation around a mode: precision lambda I + sum h phi phi^T."""

    @staticmethod
    @abstractmethod
    def information(features: torch.Tensor, curvature: Any) -> torch.Tensor:
        """What data adds to the precision, sum h phi phi^T: (G, N, N)."""

    @classmethod
    def of_sums(
        cls,
        mean: torch.Tensor,
        information: torch.Tensor,
        prior_precision: float,
        prior_mean: torch.Tensor,
    ) -> Self:
        """Laplace approximation around a mode, from the contribution of the data to the precision.

        Parameters
        ----------
        mean : Tensor of shape (D, C)
        information : Tensor of shape (G, N, N)
            Sum over the data.
        prior_precision : float
        prior_mean : Tensor of shape (D, C)

        Returns
        -------
        Posterior

        Raises
        ------
        ValueError
            If the precision is singular to working accuracy.

        Examples
        --------
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> one = torch.ones(1, 1)
        >>> SharedPosterior.of_sums(0 * one, 4 * one[None], 1.0, 0 * one).precision
        tensor([[5.]])
        """
        precision = information.clone()
        precision.diagonal(dim1=-2, dim2=-1).add_(prior_precision)
        return cls(mean, root_of_precision(precision), prior_precision, prior_mean)

    @property
    def mean(self) -> torch.Tensor:
        """Posterior mean of W, (D, C)."""
        return self.base_mean

    @property
    def root(self) -> torch.Tensor:
        """R, (G, N, N)."""
        return self.base

    @property
    def precision(self) -> torch.Tensor:
        """A_g = Sigma_g^-1, (G, N, N); (N, N) if there is only one."""
        return self._squeezed(precision_of_root(self.root))

    @property
    def covariance(self) -> torch.Tensor:
        """Sigma_g = R_g R_g^T, (G, N, N); (N, N) if there is only one."""
        return self._squeezed(self.root @ self.root.mT)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Mean of the logits, Phi W.

        Parameters
        ----------
        features : Tensor of shape (n, D)

        Returns
        -------
        Tensor of shape (n, C)

        Examples
        --------
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> SharedPosterior.prior(torch.ones(2, 1), 1.0).logits(torch.ones(1, 2))
        tensor([[2.]])
        """
        return features @ self.mean

    @abstractmethod
    def variance(self, features: torch.Tensor) -> torch.Tensor:
        """Variance of the logits, diagonal of Phi Sigma Phi^T: (n,) or (n, C)."""

    def predictive_variance(self, features: torch.Tensor) -> torch.Tensor:
        """Variance of the logits that predictions use.

        Parameters
        ----------
        features : Tensor of shape (n, D)

        Returns
        -------
        Tensor of shape (n,) or (n, C)
            Equal to :meth:`variance`, except for :class:`FullPosterior`: there the part common to
            all logits, which softmax ignores, is left out.

        Examples
        --------
        >>> from laplace_al.model.posterior import FullPosterior, SharedPosterior
        >>> mean, one = torch.zeros(1, 2), torch.ones(1, 1)
        >>> SharedPosterior.prior(mean, 1.0).predictive_variance(one)
        tensor([1.])
        >>> FullPosterior.prior(mean, 1.0).predictive_variance(one)
        tensor([[0.5000, 0.5000]])
        """
        return self.variance(features)

    def prior_variance(self, features: torch.Tensor) -> torch.Tensor:
        """Return the variance of each logit under the prior, phi^T phi / lambda.

        Parameters
        ----------
        features : Tensor of shape (n, D)

        Returns
        -------
        Tensor of shape (n,)
            Positive: not below the smallest normal number.

        Examples
        --------
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> SharedPosterior.prior(torch.zeros(2, 1), 4.0).prior_variance(torch.eye(2))
        tensor([0.2500, 0.2500])
        """
        variance = features.square().sum(dim=1) / self.prior_precision
        return variance.clamp_min(torch.finfo(variance.dtype).tiny)

    def norm(self, slope: torch.Tensor) -> torch.Tensor:
        """sqrt(<G, Sigma G>): standard deviation of <G, W> for a slope G.

        Parameters
        ----------
        slope : Tensor of shape (D, C)

        Returns
        -------
        Tensor of shape ()

        Examples
        --------
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> SharedPosterior.prior(torch.zeros(2, 1), 4.0).norm(torch.ones(2, 1))
        tensor(0.7071)
        """
        return torch.linalg.vector_norm(self.root.mT @ self._grouped(slope))

    @abstractmethod
    def condition(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        update: UpdateRule,
    ) -> Self:
        """Posterior after learning labelled instances one after the other.

        Parameters
        ----------
        features : Tensor of shape (n, D)
        targets : Tensor of shape (n, C)
        weights : Tensor of shape (n,)
            s >= 0; an instance of weight 0 changes nothing.
        update : callable
            A rule of :mod:`laplace_al.model.updates`.

        Returns
        -------
        Posterior
        """

    @abstractmethod
    def observe(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        update: UpdateRule,
        meanwhile: Callable[[torch.Tensor], object],
    ) -> tuple[Self, Sequence[Effect]]:
        """:meth:`condition` on one instance, and its effects on the logits and variances of others.

        Parameters
        ----------
        features : Tensor of shape (1, D)
        targets : Tensor of shape (1, C)
            Here or on the CPU, as the weights.
        weights : Tensor of shape (1,)
        update : callable
            A rule of :mod:`laplace_al.model.updates`.
        meanwhile : callable
            Called with the directions of the first effect, not to be changed, if they do not depend
            on the label: not by :class:`FullPosterior`. A device can take them through others'
            features while the host looks for the mode.

        Returns
        -------
        posterior : Posterior
        effects : sequence of Effect
            To be applied one after the other.
        """

    def sample(self, n_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Weights drawn from the posterior, W + R noise.

        Parameters
        ----------
        n_samples : int
        generator : torch.Generator
            Generator on the CPU, so that a seed gives the same weights on every device.

        Returns
        -------
        Tensor of shape (n_samples, D, C)

        Examples
        --------
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> posterior = SharedPosterior.prior(torch.zeros(3, 2), 1.0)
        >>> posterior.sample(5, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 3, 2])
        """
        n_groups, size = self.base.shape[:2]
        shape = (n_groups, size, n_samples * self.mean.numel() // (n_groups * size))
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.mean)
        draws = (self.root @ noise).reshape(n_groups, size, n_samples, -1).permute(2, 0, 1, 3)
        return self.mean + torch.stack([self._ungrouped(draw) for draw in draws])

    def log_determinant(self) -> torch.Tensor:
        """Logarithm of the determinant of the precision of all weights together.

        Returns
        -------
        Tensor of shape ()

        Examples
        --------
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> SharedPosterior.prior(torch.zeros(1, 3), 4.0).log_determinant()  # 3 log 4
        tensor(4.1589)
        """
        n_columns = self._grouped(self.mean).shape[2]
        return -2 * n_columns * torch.linalg.slogdet(self.root).logabsdet.sum()

    def with_mean(self, mean: torch.Tensor) -> Self:
        """The same covariance around another mean.

        Parameters
        ----------
        mean : Tensor of shape (D, C)

        Returns
        -------
        Posterior

        Examples
        --------
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> SharedPosterior.prior(torch.zeros(1, 1), 1.0).with_mean(torch.ones(1, 1)).mean
        tensor([[1.]])
        """
        return self._moved(mean, self.root)

    def merge(self, other: Self, since: Self | None = None) -> Self:
        """Posterior of the data of two posteriors that were learnt separately from the same prior.

        The precisions and their products with the means add up; their common part counts once.

        Parameters
        ----------
        other : Posterior
            Posterior of the same structure, shape and prior.
        since : Posterior, default=None
            Posterior from which both started to learn separately. None: the prior.

        Returns
        -------
        Posterior

        Raises
        ------
        ValueError
            If structures, shapes or priors differ.

        Examples
        --------
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> one = torch.ones(1, 1)
        >>> a = SharedPosterior.at_mode(one, one, 1 * one, prior_precision=1.0)
        >>> b = SharedPosterior.at_mode(0 * one, one, 2 * one, prior_precision=1.0)
        >>> a.merge(b).precision, a.merge(b).mean  # 2 + 3 - 1, and (2 * 1 + 3 * 0) / 4
        (tensor([[4.]]), tensor([[0.5000]]))
        """
        for each in (other, self if since is None else since):
            if not self._is_like(each):
                raise ValueError(
                    "merge needs two posteriors of one structure, shape and prior; got "
                    f"{self!r} and {each!r}. Learn both with the same classes, features, "
                    "covariance and prior_precision."
                )
        merged = [a + b for a, b in zip(self._data(), other._data(), strict=True)]
        if since is not None:
            merged = [a - b for a, b in zip(merged, since._data(), strict=True)]
        return self._with_data(*merged)

    def _is_like(self, other: object) -> bool:
        return (
            type(self) is type(other)
            and self.mean.shape == other.mean.shape
            and self.prior_precision == other.prior_precision
            and torch.equal(self.prior_mean, other.prior_mean)
        )

    def forget(self, share: float) -> Self:
        """Posterior with the weight of all data so far multiplied by a share, but not the prior's.

        Parameters
        ----------
        share : float
            Factor in [0, 1]; 1 forgets nothing, 0 everything.

        Returns
        -------
        Posterior

        Examples
        --------
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> one = torch.ones(1, 1)
        >>> SharedPosterior.at_mode(one, one, 8 * one, prior_precision=1.0).forget(0.5).precision
        tensor([[5.]])
        """
        return self._with_data(*(share * part for part in self._data()))  # eq-forgetting

    def with_outputs(self, positions: torch.Tensor, n_outputs: int) -> Self:
        """The same posterior among more outputs, which start with mean 0.

        The covariance of the new outputs is that of the prior. If the covariance is shared, it is
        that of the other outputs.

        Parameters
        ----------
        positions : Tensor of shape (C,)
            Positions of the present outputs among the new ones.
        n_outputs : int

        Returns
        -------
        Posterior

        Examples
        --------
        >>> from laplace_al.model.posterior import PerClassPosterior
        >>> posterior = PerClassPosterior.prior(torch.ones(1, 2), 1.0)
        >>> posterior.with_outputs(torch.tensor([0, 2]), 3).mean
        tensor([[1., 0., 1.]])
        """
        return type(self)(
            spread(self.mean, positions, n_outputs),
            self._root_of_more(positions, n_outputs),
            self.prior_precision,
            spread(self.prior_mean, positions, n_outputs),
        )

    def as_two_outputs(self) -> Self:
        """The softmax posterior with two outputs that predicts the same as this single logit.

        Returns
        -------
        Posterior

        Examples
        --------
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> SharedPosterior.prior(torch.ones(1, 1), 1.0).as_two_outputs().mean
        tensor([[-0.5000,  0.5000]])
        """
        return type(self)(
            halves(self.mean), self._root_of_two(), self.prior_precision, halves(self.prior_mean)
        )

    @abstractmethod
    def _root_of_more(self, positions: torch.Tensor, n_outputs: int) -> torch.Tensor:
        """Root with the outputs so far at these positions among so many."""

    @abstractmethod
    def _root_of_two(self) -> torch.Tensor:
        """Root of two outputs that stand for this one."""

    def _data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the data added: to the precision (G, N, N) and to its product with the mean."""
        precision = precision_of_root(self.root)
        mean, prior_mean = self._grouped(self.mean), self._grouped(self.prior_mean)
        information = precision @ mean - self.prior_precision * prior_mean
        precision.diagonal(dim1=-2, dim2=-1).sub_(self.prior_precision)
        return precision, information

    def _with_data(self, precision: torch.Tensor, information: torch.Tensor) -> Self:
        """The prior and such data."""
        precision = precision.clone()
        precision.diagonal(dim1=-2, dim2=-1).add_(self.prior_precision)
        root = root_of_precision(precision)
        information = information + self.prior_precision * self._grouped(self.prior_mean)
        mean = self._ungrouped(root @ (root.mT @ information))
        return self._moved(mean, root)

    def _moved(self, mean: torch.Tensor, root: torch.Tensor) -> Self:
        """The same prior and structure elsewhere."""
        return replace(self, base_mean=mean, base=root)

    def _grouped(self, matrix: torch.Tensor) -> torch.Tensor:
        """(D, C) as (G, N, m)."""
        n_groups, size = self.base.shape[:2]
        if size == len(matrix):
            return matrix.T.reshape(n_groups, -1, size).mT
        return matrix.reshape(1, -1, 1)

    def _ungrouped(self, groups: torch.Tensor) -> torch.Tensor:
        """(G, N, m) as (D, C)."""
        if groups.shape[1] == len(self.base_mean):
            return groups.mT.reshape(-1, len(self.base_mean)).T
        return groups.reshape(self.base_mean.shape)

    def _squeezed(self, matrices: torch.Tensor) -> torch.Tensor:
        return matrices[0] if len(matrices) == 1 else matrices

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(n_features={self.base_mean.shape[0]}, "
            f"n_outputs={self.base_mean.shape[1]}, prior_precision={self.prior_precision:g})"
        )


def spread(columns: torch.Tensor, positions: torch.Tensor, n_columns: int) -> torch.Tensor:
    """Columns (D, C) moved to positions among so many, the others zero.

    Parameters
    ----------
    columns : Tensor of shape (D, C)
    positions : Tensor of shape (C,)
    n_columns : int

    Returns
    -------
    Tensor of shape (D, n_columns)

    Examples
    --------
    >>> spread(torch.ones(1, 1), torch.tensor([1]), 3)
    tensor([[0., 1., 0.]])
    """
    wide = columns.new_zeros(len(columns), n_columns)
    wide[:, positions] = columns
    return wide


def halves(column: torch.Tensor) -> torch.Tensor:
    """One logit w as the two logits -w / 2 and w / 2.

    Parameters
    ----------
    column : Tensor of shape (D, 1)

    Returns
    -------
    Tensor of shape (D, 2)

    Examples
    --------
    >>> halves(torch.ones(1, 1))
    tensor([[-0.5000,  0.5000]])
    """
    return torch.cat([-column, column], dim=1) / 2
