"""Labelled instances that are kept, so that an update is a refit on them."""

from dataclasses import dataclass, replace
from typing import Self

import torch

from laplace_al._common.stored import StoredState
from laplace_al.model.likelihoods import Likelihood, likelihood_of
from laplace_al.model.mode import Labelled
from laplace_al.model.posterior import Posterior
from laplace_al.model.priors import GaussianPrior, IsotropicPrior, Prior
from laplace_al.model.structures import Structure


@dataclass(frozen=True, eq=False)
class Memory(StoredState):
    """The newest instances, and a quadratic that stands for the prior and all that was dropped.

    Features are (m, D), targets (m, C) and weights (m,). A value: every method
    returns a new memory.
    """

    features: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    prior: Prior

    @classmethod
    def empty(cls, prior: Prior, like: torch.Tensor) -> Self:
        """Return a memory of no instance yet; the features to come are like some others (n, D)."""
        centre = prior.mean if isinstance(prior, IsotropicPrior) else prior.reference
        return cls(like[:0], centre[:0], like[:0, 0], prior)

    @classmethod
    def of_posterior(cls, posterior: Posterior) -> Self:
        """Return a memory of no instance, whose prior is a posterior that stands for all so far."""
        precision = posterior.precision
        precision = precision.reshape(-1, *precision.shape[-2:])
        prior = GaussianPrior(precision, posterior.mean, torch.zeros_like(posterior.mean))
        return cls.empty(prior, posterior.mean.T)

    def add(self, features: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> Self:
        """Return the memory with further instances, the newest last."""
        return replace(
            self,
            features=torch.cat([self.features, features]),
            targets=torch.cat([self.targets, targets]),
            weights=torch.cat([self.weights, weights]),
        )

    def forget(self, share: float) -> Self:
        """Return the memory with all instances counting only a share of what they did."""
        return replace(self, weights=share * self.weights)

    def with_classes(self, positions: torch.Tensor, mean: torch.Tensor) -> Self:
        """Return the memory with its classes at positions (K,) among more, of prior mean (D, C)."""
        assert isinstance(self.prior, IsotropicPrior)  # a Gaussian one knows its outputs only
        known = likelihood_of(len(positions)).shares(self.targets)
        targets = known.new_zeros(len(known), mean.shape[1]).index_copy(1, positions, known)
        return replace(self, targets=targets, prior=self.prior._replace(mean=mean))

    def labelled(self, likelihood: Likelihood) -> Labelled:
        """Return all instances, for the likelihood of their classes."""
        return Labelled(self.features, self.targets, self.weights, likelihood)

    def steepened(
        self,
        features: torch.Tensor,
        growth: torch.Tensor,
        mean: torch.Tensor,
        structure: Structure,
    ) -> Self:
        """Return the memory whose quadratic is steeper along the features (n, D) of new labels.

        By a growth (n, G), see :func:`laplace_al.model.curvatures.steepening`; its slope at the
        mean (D, C) stays the same. If nothing was dropped, nothing changes.
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
    ) -> Self:
        """Return a memory of the newest so many, None for all; the others go into the quadratic.

        They do by their slope and curvature at the mode (D, C), see :meth:`Structure.curvature`.
        The stiffening (m, C) need have rows only of those that are dropped.
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
        residual = likelihood.residual(logits, self.targets[old])
        prior = self.prior.absorb(
            structure.posterior.information(features, curvature),
            -features.T @ (weights[:, None] * residual),
            mean,
        )
        return type(self)(self.features[new], self.targets[new], self.weights[new], prior)
