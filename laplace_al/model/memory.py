"""Labelled instances that are kept, so that an update is a refit on them."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from laplace_al._common.stored import StoredState
from laplace_al.model.likelihoods import Likelihood
from laplace_al.model.mode import Labelled
from laplace_al.model.posterior import Posterior
from laplace_al.model.priors import GaussianPrior, IsotropicPrior, Prior
from laplace_al.model.structures import Structure


@dataclass(frozen=True, eq=False)
class Memory(StoredState):
    """The newest instances, and a quadratic that stands for the prior and all that was dropped.

    A value: every method returns a new memory.

    Parameters
    ----------
    features : Tensor of shape (m, D)
    indices : Tensor of shape (m,)
        Classes.
    weights : Tensor of shape (m,)
    prior : IsotropicPrior or GaussianPrior
        With data that is not in the memory.
    """

    features: torch.Tensor
    indices: torch.Tensor
    weights: torch.Tensor
    prior: Prior

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a value

    @classmethod
    def empty(cls, prior: Prior, like: torch.Tensor) -> Self:
        """No instance yet.

        Parameters
        ----------
        prior : IsotropicPrior or GaussianPrior
        like : Tensor of shape (n, D)
            Features.

        Returns
        -------
        Memory

        Examples
        --------
        >>> prior = IsotropicPrior(torch.zeros(2, 1), 1.0)
        >>> len(Memory.empty(prior, torch.ones(3, 2)).features)
        0
        """
        return cls(like[:0], like[:0, 0], like[:0, 0], prior)

    @classmethod
    def of_posterior(cls, posterior: Posterior) -> Self:
        """No instance yet, after a posterior that stands for all so far.

        Parameters
        ----------
        posterior : Posterior

        Returns
        -------
        Memory

        Examples
        --------
        >>> from laplace_al.model.posterior import SharedPosterior
        >>> memory = Memory.of_posterior(SharedPosterior.prior(torch.ones(1, 1), 4.0))
        >>> memory.prior.value(torch.zeros(1, 1))
        tensor(2.)
        """
        precision = posterior.precision.reshape(posterior.base.shape)
        prior = GaussianPrior(precision, posterior.mean, torch.zeros_like(posterior.mean))
        return cls.empty(prior, posterior.mean.T)

    def add(self, features: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor) -> Self:
        """With further instances, the newest last.

        Parameters
        ----------
        features : Tensor of shape (n, D)
        indices : Tensor of shape (n,)
        weights : Tensor of shape (n,)

        Returns
        -------
        Memory
        """
        return replace(
            self,
            features=torch.cat([self.features, features]),
            indices=torch.cat([self.indices, indices]),
            weights=torch.cat([self.weights, weights]),
        )

    def forget(self, share: float) -> Self:
        """With all instances counting only a share of what they did.

        Parameters
        ----------
        share : float

        Returns
        -------
        Memory
        """
        return replace(self, weights=share * self.weights)

    def with_classes(self, positions: torch.Tensor, mean: torch.Tensor) -> Self:
        """With the classes so far at these positions among more, whose prior mean is given.

        Parameters
        ----------
        positions : Tensor of shape (K,)
        mean : Tensor of shape (D, C)

        Returns
        -------
        Memory
        """
        assert isinstance(self.prior, IsotropicPrior)  # a Gaussian one knows its outputs only
        indices = positions.to(self.indices)[self.indices.long()]
        return replace(self, indices=indices, prior=self.prior._replace(mean=mean))

    def labelled(self, likelihood: Likelihood) -> Labelled:
        """All instances, for the likelihood of their classes.

        Parameters
        ----------
        likelihood : Bernoulli or Categorical

        Returns
        -------
        Labelled
        """
        targets = likelihood.encode(self.indices)
        return Labelled(self.features, targets, self.weights, likelihood)

    def steepened(
        self,
        features: torch.Tensor,
        growth: torch.Tensor,
        mean: torch.Tensor,
        structure: Structure,
    ) -> Self:
        """With the quadratic of what was dropped as much steeper as new labels have shown.

        Parameters
        ----------
        features : Tensor of shape (n, D)
            Of the new labels.
        growth : Tensor of shape (n, G)
            See :func:`laplace_al.model.curvatures.steepening`.
        mean : Tensor of shape (D, C)
            Where its slope stays the same.
        structure : Structure
            Of the quadratic.

        Returns
        -------
        Memory
            This one, if nothing was dropped.
        """
        if isinstance(self.prior, IsotropicPrior):
            return self
        information = structure.information(features, growth)
        return replace(self, prior=self.prior.absorb(information, torch.zeros_like(mean), mean))

    def keep(
        self,
        size: int | None,
        mean: torch.Tensor,
        likelihood: Likelihood,
        structure: Structure,
        stiffening: torch.Tensor | None = None,
    ) -> "Memory":
        """The newest so many; the others go on as their quadratic at the mode.

        Parameters
        ----------
        size : int or None
            None keeps all.
        mean : Tensor of shape (D, C)
            The mode.
        likelihood : Bernoulli or Categorical
        structure : Structure
            Of the quadratic.
        stiffening : Tensor of shape (m, C), default=None
            See :meth:`laplace_al.model.structures.Structure.curvature`; rows of those to be dropped
            are enough.

        Returns
        -------
        Memory
        """
        n_dropped = 0 if size is None else max(len(self.features) - size, 0)
        if not n_dropped:
            return self
        old, new = slice(None, n_dropped), slice(n_dropped, None)
        features, weights = self.features[old], self.weights[old]
        logits = features @ mean
        curvature = structure.curvature(
            "categorical",
            likelihood.mean(logits),
            weights,
            None if stiffening is None else stiffening[old],
        )
        residual = likelihood.residual(logits, likelihood.encode(self.indices[old]))
        prior = self.prior.absorb(
            structure.posterior.information(features, curvature),
            -features.T @ (weights[:, None] * residual),
            mean,
        )
        return Memory(self.features[new], self.indices[new], self.weights[new], prior)
