"""One covariance over all weights, the outputs coupled as the softmax couples them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Self

import numpy as np
import torch

from laplace_al._common.devices import on_device, on_host
from laplace_al._common.typing import UpdateRule
from laplace_al.model.posterior.base import Posterior, prior_variance
from laplace_al.model.posterior.effects import Effect
from laplace_al.model.posterior.roots import (
    precision_of_root,
    prior_root,
    root_of_precision,
    root_of_rows,
    triangle_of_rows,
)

_INSTANCES_AT_ONCE = 64
_ROWS_AT_ONCE = 1024


class FullPosterior(Posterior):
    """Gaussian over all D C weights: precision lambda I + sum phi phi^T (x) H, H = B B^T (C, C).

    Weight W_dk has the place d C + k. Memory: (D C)^2 + D C numbers; for small heads, and the
    reference that the other structures are tested against.

    See Also
    --------
    laplace_al.model.posterior.PerClassPosterior : Its block diagonal.

    Examples
    --------
    >>> prior = FullPosterior.prior(torch.zeros(2, 3), prior_precision=4.0)
    >>> prior.variance(torch.tensor([[1.0, 1.0]]))
    tensor([[0.5000, 0.5000, 0.5000]])
    """

    has_contrasts = True

    @staticmethod
    def shape_of_root(n_features: int, n_outputs: int) -> tuple[int, int]:
        """Return the shape of one root of all weights, see :meth:`Posterior.shape_of_root`."""
        return 1, n_features * n_outputs

    @classmethod
    def at_mode(
        cls,
        mean: torch.Tensor,
        features: torch.Tensor,
        curvature: Callable[[int], torch.Tensor],
        prior_precision: float,
        prior_mean: torch.Tensor | None = None,
    ) -> Self:
        """Make the Laplace approximation around a mode, see :meth:`Posterior.at_mode`.

        Its precision is lambda I + sum phi phi^T (x) H, where ``curvature(i)`` is a root B (C, C)
        of H = B B^T of instance i, sample weight included.
        """
        prior_mean = torch.zeros_like(mean) if prior_mean is None else prior_mean
        # eq-full
        root = root_of_rows(lambda: _rows(features, curvature), prior_precision, mean.numel(), mean)
        return cls(mean, root[None], prior_precision, prior_mean)

    @staticmethod
    def information(
        features: torch.Tensor, curvature: Callable[[int], torch.Tensor]
    ) -> torch.Tensor:
        """Return sum phi phi^T (x) H, (1, D C, D C), see :meth:`Posterior.information`."""
        blocks = (block.T @ block for block in _rows(features, curvature))
        return sum(blocks, start=features.new_zeros(()))[None]

    def variance(self, features: torch.Tensor) -> torch.Tensor:
        """Return the variance of each logit, (n, C), see :meth:`Posterior.variance`."""
        return _square_norms(features, self.stored_root.reshape(*self.mean.shape, -1))

    def predictive_variance(self, features: torch.Tensor) -> torch.Tensor:
        """Return the variance of each logit less their mean, which softmax ignores, (n, C).

        See :meth:`Posterior.predictive_variance`.
        """
        roots = self.stored_root.reshape(*self.mean.shape, -1)
        return _square_norms(features, roots - common_shift(roots))  # eq-contrast

    def covariance_product(self, features: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """Return the covariance of the logits of each input, times a direction.

        Parameters
        ----------
        features : Tensor of shape (n, D)
        directions : Tensor of shape (n, C)

        Returns
        -------
        Tensor of shape (n, C)

        Examples
        --------
        >>> prior = FullPosterior.prior(torch.zeros(1, 2), 4.0)
        >>> prior.covariance_product(torch.ones(1, 1), torch.tensor([[1.0, 2.0]]))
        tensor([[0.2500, 0.5000]])
        """
        root = self.stored_root[0]
        products = []
        chunks = (part.split(_INSTANCES_AT_ONCE) for part in (features, directions))
        for phi, direction in zip(*chunks, strict=True):
            rows = (phi[:, :, None] * direction[:, None, :]).flatten(start_dim=1)  # (m, D C)
            weights = (rows @ root @ root.T).reshape(len(phi), *self.mean.shape)
            products.append((phi[:, None, :] @ weights)[:, 0])
        return torch.cat(products)

    def condition(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        update: UpdateRule,
    ) -> Self:
        """Learn instances one by one, a block of C rows each, see :meth:`Posterior.condition`."""
        posterior = self
        for row in range(len(features)):
            one = slice(row, row + 1)
            learnt = posterior._learnt(features[one], targets[one], weights[one], update)
            posterior = posterior._absorb(*learnt)
        return posterior

    def condition_with_effects(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        update: UpdateRule,
        meanwhile: Callable[[torch.Tensor], object],
    ) -> tuple[Self, list[Effect]]:
        """Return the effects as well, see :meth:`Posterior.condition_with_effects`.

        Their directions depend on the label.
        """
        learnt = self._learnt(features, targets, weights, update)
        return self._absorb(*learnt), self._effects(*learnt)

    def _learnt(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        update: UpdateRule,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the whitened rows F (C, N) of an instance, and a (C,) and B (C, C) of the rule."""
        size, n_outputs = self.mean.shape
        root = self.stored_root[0]
        whitened = (features @ root.reshape(size, -1)).reshape(n_outputs, -1)
        logits = features @ self.mean
        # Newton's steps on C x C numbers, each of which decides whether there is another
        parts = (
            logits,
            (whitened @ whitened.T)[None],
            targets,
            weights,
            prior_variance(features, self.prior_precision),
        )
        block = on_host(*parts)
        coefficients, curvature = update(*(part.double().numpy()[0] for part in block))
        return whitened, on_device(coefficients, root), on_device(curvature, root)

    def _absorb(
        self, whitened: torch.Tensor, coefficients: torch.Tensor, curvature: torch.Tensor
    ) -> Self:
        """Return the posterior with R T, T T^T = (I + E E^T)^-1, E = F^T B."""
        root = self.stored_root[0]
        mean = self.mean + (root @ (whitened.T @ coefficients)).reshape(self.mean.shape)
        basis, coordinates = torch.linalg.qr(whitened.T @ curvature)  # E = Q X
        identity = torch.eye(coordinates.shape[0], dtype=root.dtype, device=root.device)
        upper = triangle_of_rows(torch.cat([identity, coordinates.T]))
        factor = torch.linalg.solve_triangular(upper, identity, upper=True)  # T in the span of Q
        span = root @ basis
        root = torch.addmm(root, span @ (identity - factor), basis.T, alpha=-1)
        return replace(self, stored_mean=mean, stored_root=root[None])

    def _effects(
        self, whitened: torch.Tensor, coefficients: torch.Tensor, curvature: torch.Tensor
    ) -> list[Effect]:
        """Return moves along Sigma phi^T a, and shrinking by S = B (I + B^T V B)^-1 B^T.

        The variances shrink once for each row e_j of a root of S: v - (Phi Sigma (phi (x) e_j))^2.
        """
        size, n_outputs = self.mean.shape
        root = self.stored_root[0]
        span = (root @ whitened.T).reshape(size, n_outputs, n_outputs)  # Sigma (phi (x) I)
        scaled = whitened.T @ curvature  # (N, C), F^T B
        precision = scaled.T @ scaled
        precision.diagonal().add_(1.0)
        factor = torch.linalg.cholesky_ex(precision).L  # of I + E^T E: it does not fail
        shrinking = torch.linalg.solve_triangular(factor, curvature.T, upper=False)  # rows e_j
        one = np.ones(1)
        shrunk = [Effect(span @ row, None, one) for row in shrinking]
        return [Effect(span @ coefficients, one, None), *shrunk]

    def _root_of_more(self, positions: torch.Tensor, n_outputs: int) -> torch.Tensor:
        wide = prior_root(1, len(self.mean) * n_outputs, self.prior_precision, self.mean)
        rows = torch.arange(len(self.mean), device=positions.device)
        places = (rows[:, None] * n_outputs + positions).flatten()
        wide[0, places[:, None], places] = self.root[0]
        return wide

    def _root_of_two(self) -> torch.Tensor:
        # the curvature p (1 - p) of one logit is p (1 - p) [[1, -1], [-1, 1]] of two
        data = precision_of_root(self.root)[0]
        data.diagonal().sub_(self.prior_precision)
        precision = torch.kron(data, data.new_tensor([[1.0, -1.0], [-1.0, 1.0]]))
        precision.diagonal().add_(self.prior_precision)
        return root_of_precision(precision[None])


def common_shift(columns: torch.Tensor) -> torch.Tensor:
    """Return the mean over the outputs of columns (n, C[, m]), which softmax ignores, (n, 1[, m]).

    A single output has nothing in common with others: 0.
    """
    mean = columns.mean(dim=1, keepdim=True)
    return mean if columns.shape[1] > 1 else 0 * mean


def _square_norms(features: torch.Tensor, roots: torch.Tensor) -> torch.Tensor:
    """Return |phi^T R_k|^2 (n, C) of each row phi and the rows R_k of a root (D, C, D C)."""
    return torch.cat(
        [
            torch.stack([(some @ root).square().sum(dim=1) for root in roots.unbind(dim=1)], dim=1)
            for some in features.split(_ROWS_AT_ONCE)
        ]
    )


def _rows(
    features: torch.Tensor, curvature: Callable[[int], torch.Tensor]
) -> Iterator[torch.Tensor]:
    """Yield chunks of phi^T (x) B^T, C rows for each instance, no larger than a root."""
    at_once = min(_INSTANCES_AT_ONCE, features.shape[1])
    for start, some in zip(range(0, len(features), at_once), features.split(at_once), strict=True):
        roots = torch.stack([curvature(i).T for i in range(start, start + len(some))])
        yield (some[:, None, :, None] * roots[:, :, None, :]).flatten(0, 1).flatten(1)
