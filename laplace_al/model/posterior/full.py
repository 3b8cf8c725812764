"""One covariance over all weights, the outputs coupled as the softmax couples them."""

from collections.abc import Callable, Iterator
from typing import Self

import numpy as np
import torch

from laplace_al._common.devices import on_device, on_host
from laplace_al._common.typing import UpdateRule
from laplace_al.model.posterior.base import Posterior
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
        """One root of the size of all weights.

        Parameters
        ----------
        n_features, n_outputs : int

        Returns
        -------
        (int, int)

        Examples
        --------
        >>> FullPosterior.shape_of_root(384, 10)
        (1, 3840)
        """
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
        """Laplace approximation: precision lambda I + sum phi phi^T (x) H around a mode.

        Parameters
        ----------
        mean : Tensor of shape (D, C)
            The mode.
        features : Tensor of shape (n, D)
        curvature : callable
            ``curvature(i)`` is a root B (C, C) of H = B B^T of instance i, sample weight included.
        prior_precision : float
            lambda > 0.
        prior_mean : Tensor of shape (D, C), default=None
            None is zero.

        Returns
        -------
        FullPosterior

        Examples
        --------
        >>> one = torch.ones(1, 1)
        >>> FullPosterior.at_mode(0 * one, 2 * one, lambda i: one, 1.0).precision
        tensor([[5.]])
        """
        prior_mean = torch.zeros_like(mean) if prior_mean is None else prior_mean
        # eq-full
        root = root_of_rows(lambda: _rows(features, curvature), prior_precision, mean.numel(), mean)
        return cls(mean, root[None], prior_precision, prior_mean)

    @staticmethod
    def information(
        features: torch.Tensor, curvature: Callable[[int], torch.Tensor]
    ) -> torch.Tensor:
        """What data adds to the precision, sum phi phi^T (x) H: (1, D C, D C).

        Parameters
        ----------
        features : Tensor of shape (n, D)
        curvature : callable
            ``curvature(i)`` is a root B (C, C) of H = B B^T of instance i.

        Returns
        -------
        Tensor of shape (1, D C, D C)

        Examples
        --------
        >>> FullPosterior.information(2 * torch.ones(1, 1), lambda i: torch.ones(1, 1))
        tensor([[[4.]]])
        """
        blocks = (block.T @ block for block in _rows(features, curvature))
        return sum(blocks, start=features.new_zeros(()))[None]

    def variance(self, features: torch.Tensor) -> torch.Tensor:
        """Variance of each logit, the diagonal of its covariance.

        Parameters
        ----------
        features : Tensor of shape (n, D)

        Returns
        -------
        Tensor of shape (n, C)

        Examples
        --------
        >>> FullPosterior.prior(torch.ones(2, 1), 4.0).variance(torch.eye(2))
        tensor([[0.2500],
                [0.2500]])
        """
        return _square_norms(features, self.base.reshape(*self.mean.shape, -1))

    def predictive_variance(self, features: torch.Tensor) -> torch.Tensor:
        """Variance of each logit minus their mean, see :meth:`Posterior.predictive_variance`.

        Parameters
        ----------
        features : Tensor of shape (n, D)

        Returns
        -------
        Tensor of shape (n, C)

        Examples
        --------
        >>> FullPosterior.prior(torch.ones(2, 4), 4.0).predictive_variance(torch.eye(2))
        tensor([[0.1875, 0.1875, 0.1875, 0.1875],
                [0.1875, 0.1875, 0.1875, 0.1875]])
        """
        roots = self.base.reshape(*self.mean.shape, -1)
        return _square_norms(features, roots - common_shift(roots))  # eq-contrast

    def covariance_product(self, features: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """Covariance of the logits of each input, times a direction.

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
        root = self.base[0]
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
        """See :meth:`Posterior.condition`; an instance is itself a block of C rows."""
        posterior = self
        for row in range(len(features)):
            one = slice(row, row + 1)
            learnt = posterior._learnt(features[one], targets[one], weights[one], update)
            posterior = posterior._absorb(*learnt)
        return posterior

    def observe(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        update: UpdateRule,
        meanwhile: Callable[[torch.Tensor], object],
    ) -> tuple[Self, list[Effect]]:
        """See :meth:`Posterior.observe`: the directions depend on the label."""
        learnt = self._learnt(features, targets, weights, update)
        return self._absorb(*learnt), self._effects(*learnt)

    def _learnt(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        update: UpdateRule,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of an instance: whitened rows F (C, N), and a (1, C) and B (C, C) of the rule."""
        size, n_outputs = self.mean.shape
        root = self.base[0]
        whitened = (features @ root.reshape(size, -1)).reshape(n_outputs, -1)
        logits = features @ self.mean
        # Newton's steps on C x C numbers, each of which decides whether there is another
        parts = logits, whitened @ whitened.T, targets, weights, self.prior_variance(features)
        block = on_host(*parts)
        coefficients, curvature = update(*(part.double() for part in block))
        return whitened, on_device(coefficients, root), on_device(curvature, root)

    def _absorb(
        self, whitened: torch.Tensor, coefficients: torch.Tensor, curvature: torch.Tensor
    ) -> Self:
        """R <- R T with T T^T = (I + E E^T)^-1, E = F^T B."""
        root = self.base[0]
        mean = self.mean + (root @ (whitened.T @ coefficients[0])).reshape(self.mean.shape)
        basis, coordinates = torch.linalg.qr(whitened.T @ curvature)  # E = Q X
        identity = torch.eye(coordinates.shape[0], dtype=root.dtype, device=root.device)
        upper = triangle_of_rows(torch.cat([identity, coordinates.T]))
        factor = torch.linalg.solve_triangular(upper, identity, upper=True)  # T in the span of Q
        span = root @ basis
        root = torch.addmm(root, span @ (identity - factor), basis.T, alpha=-1)
        return self._moved(mean, root[None])

    def _effects(
        self, whitened: torch.Tensor, coefficients: torch.Tensor, curvature: torch.Tensor
    ) -> list[Effect]:
        """Moves along Sigma phi^T a; S = B (I + B^T V B)^-1 B^T.

        The variances shrink once for each row e_j of a root of S: v - (Phi Sigma (phi (x) e_j))^2.
        """
        size, n_outputs = self.mean.shape
        root = self.base[0]
        span = (root @ whitened.T).reshape(size, n_outputs, n_outputs)  # Sigma (phi (x) I)
        scaled = whitened.T @ curvature  # (N, C), F^T B
        precision = scaled.T @ scaled
        precision.diagonal().add_(1.0)
        factor = torch.linalg.cholesky_ex(precision).L  # of I + E^T E: it does not fail
        shrinking = torch.linalg.solve_triangular(factor, curvature.T, upper=False)  # rows e_j
        one = np.ones(1)
        shrunk = [Effect(span @ row, None, one) for row in shrinking]
        return [Effect(span @ coefficients[0], one, None), *shrunk]

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
    """What all outputs have in common, which softmax ignores: their mean, none of a single one.

    Parameters
    ----------
    columns : Tensor of shape (n, C) or (n, C, m)

    Returns
    -------
    Tensor of shape (n, 1) or (n, 1, m)

    Examples
    --------
    >>> common_shift(torch.tensor([[1.0, 3.0]])), common_shift(torch.ones(1, 1))
    (tensor([[2.]]), tensor([[0.]]))
    """
    mean = columns.mean(dim=1, keepdim=True)
    return mean if columns.shape[1] > 1 else 0 * mean


def _square_norms(features: torch.Tensor, roots: torch.Tensor) -> torch.Tensor:
    """|phi^T R_k|^2 of each row phi and rows R_k of a root, (n, C), for roots (D, C, D C)."""
    return torch.cat(
        [
            torch.stack([(some @ root).square().sum(dim=1) for root in roots.unbind(dim=1)], dim=1)
            for some in features.split(_ROWS_AT_ONCE)
        ]
    )


def _rows(
    features: torch.Tensor, curvature: Callable[[int], torch.Tensor]
) -> Iterator[torch.Tensor]:
    """Chunks of phi^T (x) B^T, as many rows as outputs for each instance, no larger than a root."""
    at_once = min(_INSTANCES_AT_ONCE, features.shape[1])
    for start, some in zip(range(0, len(features), at_once), features.split(at_once), strict=True):
        roots = torch.stack([curvature(i).T for i in range(start, start + len(some))])
        yield (some[:, None, :, None] * roots[:, :, None, :]).flatten(0, 1).flatten(1)
