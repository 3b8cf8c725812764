"""A pool in the span of the labels: few of them are scored in few dimensions."""

from typing import NamedTuple, Self

import torch

from laplace_al.model.fitted_model import FittedModel
from laplace_al.model.pool_features import in_chunks, phi_of, product, squared_lengths
from laplace_al.model.pool_state import PoolScores
from laplace_al.model.posterior.within import within


class LabelSpan(NamedTuple):
    """A pool in an orthonormal basis of the instances whose labels a model has learnt.

    Labels change the posterior in the span of their phi alone (eq-span): with b = B^T phi, the
    logits of a pool are b^T (B^T W), and the variances those of b under B^T Sigma B, plus what
    |phi|^2 - |b|^2 has under the prior. The ``basis`` B (D, m) is orthonormal, and the
    ``coordinates`` Phi B (n_pool, m) are in the dtype of the features. A value: it grows with the
    labels.
    """

    basis: torch.Tensor
    coordinates: torch.Tensor

    @classmethod
    def empty(cls, model: FittedModel, features: torch.Tensor) -> Self:
        """Return the span of no instance, for a pool of features (n_pool, n_features)."""
        return cls(model.posterior.prior_mean[:, :0], features[:, :0])

    def is_of(self, model: FittedModel) -> bool:
        """Return whether the basis is one of the weights of a model."""
        like, basis = model.posterior.prior_mean, self.basis
        return (len(like), like.dtype, like.device) == (len(basis), basis.dtype, basis.device)

    def with_labelled(
        self, model: FittedModel, features: torch.Tensor, labelled: torch.Tensor
    ) -> Self:
        """Return the span of labelled instances (n, n_features) as well.

        It has at most as many more dimensions as there are new ones.
        """
        phi = phi_of(model, labelled)
        outside = torch.linalg.vector_norm(phi - phi @ self.basis @ self.basis.T, dim=1)
        smallest = torch.finfo(phi.dtype).eps ** 0.75 * torch.linalg.vector_norm(phi, dim=1)
        new = phi[outside > smallest]
        if not len(new):
            return self
        whole = torch.linalg.qr(torch.cat([self.basis, new.T], dim=1)).Q
        more = whole[:, self.basis.shape[1] :]
        coordinates = product(features, more, has_constant=model.has_intercept).to(features)
        return type(self)(
            torch.cat([self.basis, more], dim=1), torch.cat([self.coordinates, coordinates], dim=1)
        )

    def scores(self, model: FittedModel, features: torch.Tensor) -> PoolScores | None:
        """Return the scores of the pool under a model; None where they need all dimensions.

        They do where the model has learnt more than these instances, as its covariance tells.
        """
        known = within(model.posterior, self.basis)
        if known is None:
            return None
        inside, mean = known.inside, known.inside.mean
        logits = product(self.coordinates, mean, has_constant=False)
        variance = in_chunks(lambda rows: inside.variance(rows.to(mean)), self.coordinates)
        lengths = squared_lengths(features).to(mean).add_(model.has_intercept)
        rest = (lengths - squared_lengths(self.coordinates).to(mean)).clamp_min_(0)
        rest = rest if variance.ndim == 1 else rest[:, None]
        variance = torch.addcmul(variance, rest, known.outside)
        return PoolScores(logits, variance, variance)
