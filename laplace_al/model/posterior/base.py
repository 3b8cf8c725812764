"""The posterior that all structures share: a mean and the root of a covariance."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

import torch

from laplace_al._common.stored import StoredState
from laplace_al._common.typing import UpdateRule
from laplace_al.model.posterior.effects import Effect
from laplace_al.model.posterior.roots import (
    precision_of_root,
    prior_root,
    root_of_precision,
)

_Posterior = TypeVar("_Posterior", bound="Posterior")


@dataclass(frozen=True, eq=False)
class Posterior(StoredState, ABC):
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
    >>> from laplace_al.model.posterior import FullPosterior, SharedPosterior
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
    >>> two = FullPosterior.prior(torch.ones(2, 1), 4.0).as_two_outputs()
    >>> two.mean
    tensor([[-0.5000,  0.5000],
            [-0.5000,  0.5000]])
    >>> two.variance(one), two.predictive_variance(one)
    (tensor([[0.5000, 0.5000]]), tensor([[0.2500, 0.2500]]))
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
    @abstractmethod
    def at_mode(
        cls,
        mean: torch.Tensor,
        features: torch.Tensor,
        curvature: Any,
        prior_precision: float,
        prior_mean: torch.Tensor | None = None,
    ) -> Self:
        """Make the Laplace approximation around a mode: precision lambda I + sum h phi phi^T.

        Parameters
        ----------
        mean : Tensor of shape (D, C)
            The mode.
        features : Tensor of shape (n, D)
        curvature : Tensor of shape (n, G)
            h >= 0 at the mode, sample weights included; a root of each instance's for
            :class:`FullPosterior`.
        prior_precision : float
            lambda > 0.
        prior_mean : Tensor of shape (D, C), default=None
            None is zero.

        Returns
        -------
        Posterior

        Examples
        --------
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> one = torch.ones(1, 1)
        >>> SharedPosterior.at_mode(one, 3 * one, one / 2, prior_precision=1.0).precision
        tensor([[5.5000]])
        """

    @staticmethod
    @abstractmethod
    def information(features: torch.Tensor, curvature: Any) -> torch.Tensor:
        """Return what data adds to the precision, sum h phi phi^T.

        Parameters
        ----------
        features : Tensor of shape (n, D)
        curvature : Tensor of shape (n, G)
            See :meth:`at_mode`.

        Returns
        -------
        Tensor of shape (G, N, N)

        Examples
        --------
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> SharedPosterior.information(torch.tensor([[1.0, 2.0]]), torch.ones(1, 1))
        tensor([[[1., 2.],
                 [2., 4.]]])
        """

    @classmethod
    def of_sums(
        cls,
        mean: torch.Tensor,
        information: torch.Tensor,
        prior_precision: float,
        prior_mean: torch.Tensor,
    ) -> Self:
        """Make the Laplace approximation around a mode from what data adds to the precision.

        Parameters
        ----------
        mean : Tensor of shape (D, C)
        information : Tensor of shape (G, N, N)
            Sum of :meth:`information` over the data.
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
        >>> zero = torch.zeros(1, 1)
        >>> SharedPosterior.of_sums(zero, torch.tensor([[[4.5]]]), 1.0, zero).precision
        tensor([[5.5000]])
        """
        precision = information.clone()
        precision.diagonal(dim1=-2, dim2=-1).add_(prior_precision)
        return cls(mean, root_of_precision(precision), prior_precision, prior_mean)

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
        return torch.linalg.vector_norm(self.root.mT @ _grouped(slope, self.root))

    @abstractmethod
    def condition(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        update: UpdateRule,
    ) -> Self:
        """Return the posterior after learning labelled instances one after the other.

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

        Examples
        --------
        >>> from laplace_al.model.likelihoods import Bernoulli
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> from laplace_al.model.structures import STRUCTURES
        >>> rule = STRUCTURES["shared"].update(
        ...     Bernoulli(), update="map", curvature="categorical", step_size=1.0)
        >>> prior, one = SharedPosterior.prior(torch.zeros(1, 1), 1.0), torch.ones(1, 1)
        >>> prior.condition(one, one, torch.ones(1), rule).mean  # w = 1 / (1 + e^w)
        tensor([[0.4011]])
        """

    @abstractmethod
    def condition_with_effects(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        update: UpdateRule,
        meanwhile: Callable[[torch.Tensor], object],
    ) -> tuple[Self, Sequence[Effect]]:
        """Condition on one instance, and return its effects on others' logits and variances too.

        Parameters
        ----------
        features, targets, weights, update
            See :meth:`condition`, n = 1; targets and weights may be on the CPU.
        meanwhile : callable
            Called with the directions of the first effect, not to be changed, where they do not
            depend on the label (they do for :class:`FullPosterior`). A device can take them through
            others' features while the host looks for the mode.

        Returns
        -------
        posterior : Posterior
        effects : sequence of Effect
            To be applied one after the other.
        """

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
        return self.mean + torch.stack([_ungrouped(draw, self.prior_mean) for draw in draws])

    def log_determinant(self) -> torch.Tensor:
        """Return the log determinant of the precision of all weights together.

        Returns
        -------
        Tensor of shape ()
        """
        n_columns = _grouped(self.mean, self.root).shape[2]
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

    def merge(self, other: Self, since: Self | None = None) -> Self:
        """Return the posterior of the data of two that learnt apart from the same prior.

        The precisions and their products with the means add up; their common part counts once.

        Parameters
        ----------
        other : Posterior
            Posterior of the same structure, shape and prior.
        since : Posterior, default=None
            Posterior from which both started to learn apart. None: the prior.

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
            if not (
                type(self) is type(each)
                and self.mean.shape == each.mean.shape
                and self.prior_precision == each.prior_precision
                and torch.equal(self.prior_mean, each.prior_mean)
            ):
                raise ValueError(
                    "merge needs two posteriors of one structure, shape and prior; got "
                    f"{self!r} and {each!r}. Learn both with the same classes, features, "
                    "covariance and prior_precision."
                )
        merged = [a + b for a, b in zip(_data_of(self), _data_of(other), strict=True)]
        if since is not None:
            merged = [a - b for a, b in zip(merged, _data_of(since), strict=True)]
        return _with_data(self, *merged)

    def forget(self, share: float) -> Self:
        """Multiply the weight of all data so far by a share, but not that of the prior.

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
        return _with_data(self, *(share * part for part in _data_of(self)))  # eq-forgetting

    def with_outputs(self, positions: torch.Tensor, n_outputs: int) -> Self:
        """Return the same posterior among more outputs, which start with mean 0.

        The covariance of the new outputs is that of the prior, or that of the others if it is
        shared.

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
            _scattered(self.mean, positions, n_outputs),
            self._root_of_more(positions, n_outputs),
            self.prior_precision,
            _scattered(self.prior_mean, positions, n_outputs),
        )

    def as_two_outputs(self) -> Self:
        """Return the softmax posterior of two outputs that predicts the same as this single logit.

        Returns
        -------
        Posterior
        """
        return type(self)(
            _halves(self.mean), self._root_of_two(), self.prior_precision, _halves(self.prior_mean)
        )

    @abstractmethod
    def _root_of_more(self, positions: torch.Tensor, n_outputs: int) -> torch.Tensor:
        """Return the root with the outputs so far at these positions among so many."""

    @abstractmethod
    def _root_of_two(self) -> torch.Tensor:
        """Return the root of two outputs that stand for this one."""

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(n_features={self.stored_mean.shape[0]}, "
            f"n_outputs={self.stored_mean.shape[1]}, prior_precision={self.prior_precision:g})"
        )


def prior_variance(features: torch.Tensor, prior_precision: float) -> torch.Tensor:
    """Return the variance (n,) of each logit under the prior, phi^T phi / lambda.

    Positive: not below the smallest normal number.
    """
    variance = features.square().sum(dim=1) / prior_precision
    return variance.clamp_min(torch.finfo(variance.dtype).tiny)


def _data_of(posterior: Posterior) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what data added to the precision (G, N, N) and to its product with the mean."""
    root, prior_precision = posterior.root, posterior.prior_precision
    precision = precision_of_root(root)
    information = precision @ _grouped(posterior.mean, root)
    information = information - prior_precision * _grouped(posterior.prior_mean, root)
    precision.diagonal(dim1=-2, dim2=-1).sub_(prior_precision)
    return precision, information


def _with_data(
    posterior: _Posterior, precision: torch.Tensor, information: torch.Tensor
) -> _Posterior:
    """Return the posterior of the prior of another one and such data."""
    prior_mean, prior_precision = posterior.prior_mean, posterior.prior_precision
    precision = precision.clone()
    precision.diagonal(dim1=-2, dim2=-1).add_(prior_precision)
    root = root_of_precision(precision)
    information = information + prior_precision * _grouped(prior_mean, root)
    mean = _ungrouped(root @ (root.mT @ information), prior_mean)
    return type(posterior)(mean, root, prior_precision, prior_mean)


def _grouped(matrix: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """Reshape (D, C) to (G, N, m), for roots (G, N, N)."""
    n_groups, size = root.shape[:2]
    if size == len(matrix):
        return matrix.T.reshape(n_groups, -1, size).mT
    return matrix.reshape(1, -1, 1)


def _ungrouped(groups: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Reshape (G, N, m) to (D, C), like another matrix."""
    if groups.shape[1] == len(like):
        return groups.mT.reshape(-1, len(like)).T
    return groups.reshape(like.shape)


def _scattered(columns: torch.Tensor, positions: torch.Tensor, n_columns: int) -> torch.Tensor:
    """Return columns (D, C) at such positions among so many, the others zero."""
    wide = columns.new_zeros(len(columns), n_columns)
    wide[:, positions] = columns
    return wide


def _halves(column: torch.Tensor) -> torch.Tensor:
    """Return one logit w (D, 1) as the two logits -w / 2 and w / 2."""
    return torch.cat([-column, column], dim=1) / 2


def _squeezed(matrices: torch.Tensor) -> torch.Tensor:
    """Return the matrices (G, N, N), or the only one (N, N)."""
    return matrices[0] if len(matrices) == 1 else matrices
