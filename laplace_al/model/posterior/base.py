"""What posteriors of all structures can: learn labels, merge, forget and take more outputs."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import torch

from laplace_al._common.typing import UpdateRule
from laplace_al.model.posterior.effects import Effect
from laplace_al.model.posterior.gaussian import GaussianWeights, grouped, ungrouped
from laplace_al.model.posterior.roots import precision_of_root, root_of_precision

_Posterior = TypeVar("_Posterior", bound="Posterior")


class Posterior(GaussianWeights):
    """Gaussian over the weights of a last layer that learns labels.

    What it is made of, :class:`~laplace_al.model.posterior.gaussian.GaussianWeights` says.

    Examples
    --------
    >>> from laplace_al.model.posterior import FullPosterior, SharedPosterior
    >>> prior = SharedPosterior.prior(torch.ones(2, 1), prior_precision=4.0)
    >>> one = torch.ones(1, 2)
    >>> two = FullPosterior.prior(torch.ones(2, 1), 4.0).as_two_outputs()
    >>> two.mean
    tensor([[-0.5000,  0.5000],
            [-0.5000,  0.5000]])
    >>> two.variance(one), two.predictive_variance(one)
    (tensor([[0.5000, 0.5000]]), tensor([[0.2500, 0.2500]]))
    """

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
        return cls.of_roots(mean, root_of_precision(precision), prior_precision, prior_mean)

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
    ) -> tuple[Self, Sequence[Effect] | None]:
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
        effects : sequence of Effect or None
            To be applied one after the other; None where others are to be scored anew.
        """

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
        check_mergeable(self, other, since)
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
        return self.of_roots(
            scattered(self.mean, positions, n_outputs),
            self._root_of_more(positions, n_outputs),
            self.prior_precision,
            scattered(self.prior_mean, positions, n_outputs),
        )

    def as_two_outputs(self) -> Self:
        """Return the softmax posterior of two outputs that predicts the same as this single logit.

        Returns
        -------
        Posterior
        """
        return self.of_roots(
            halves(self.mean), self._root_of_two(), self.prior_precision, halves(self.prior_mean)
        )

    @abstractmethod
    def _root_of_more(self, positions: torch.Tensor, n_outputs: int) -> torch.Tensor:
        """Return the root with the outputs so far at these positions among so many."""

    @abstractmethod
    def _root_of_two(self) -> torch.Tensor:
        """Return the root of two outputs that stand for this one."""


def check_mergeable(posterior: Posterior, other: Posterior, since: Posterior | None) -> None:
    """Refuse posteriors of other structures, shapes or priors, see :meth:`Posterior.merge`."""
    for each in (other, posterior if since is None else since):
        if not (
            type(posterior) is type(each)
            and posterior.mean.shape == each.mean.shape
            and posterior.prior_precision == each.prior_precision
            and torch.equal(posterior.prior_mean, each.prior_mean)
        ):
            raise ValueError(
                "merge needs two posteriors of one structure, shape and prior; got "
                f"{posterior!r} and {each!r}. Learn both with the same classes, features, "
                "covariance and prior_precision."
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
    information = precision @ grouped(posterior.mean, root)
    information = information - prior_precision * grouped(posterior.prior_mean, root)
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
    information = information + prior_precision * grouped(prior_mean, root)
    mean = ungrouped(root @ (root.mT @ information), prior_mean)
    return posterior.of_roots(mean, root, prior_precision, prior_mean)


def scattered(columns: torch.Tensor, positions: torch.Tensor, n_columns: int) -> torch.Tensor:
    """Return columns (D, C) at such positions among so many, the others zero."""
    wide = columns.new_zeros(len(columns), n_columns)
    wide[:, positions] = columns
    return wide


def halves(column: torch.Tensor) -> torch.Tensor:
    """Return one logit w (D, 1) as the two logits -w / 2 and w / 2."""
    return torch.cat([-column, column], dim=1) / 2
