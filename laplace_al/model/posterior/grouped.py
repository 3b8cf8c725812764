"""Structures whose covariances learn apart from each other, in blocks of labels."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch

from laplace_al._common.devices import on_device, on_host
from laplace_al._common.typing import UpdateRule, Vector
from laplace_al.model.posterior.base import Posterior, prior_variance
from laplace_al.model.posterior.effects import Effect
from laplace_al.model.posterior.roots import root_of_sum
from laplace_al.model.updates import Block, learn_in_block

# Rows learnt at once: bounds the (b, b) numbers of the recursion, whatever the input.
_BLOCK_SIZE = 64
# Squared distance of a row from the span of those before, as a share of the longest row's.
_WELL_AWAY = 1e-2


class GroupedPosterior(Posterior):
    """Structures whose groups learn independently, given the weights of the instances.

    The recursion over a block of b rows (eq-block). Let f_i = R^T phi_i be the whitened rows, F^T =
    Q L^T with orthonormal Q (D, k) and l_i the rows of L (b, k). Every direction that the block can
    change lies in the span of Q, where R is R Q T with a T (k, k) that starts as the identity:

        w_i = T^T l_i,  v_i = w_i^T w_i,  z_i = phi_i^T W + l_i^T c
        c  <- c + T w_i a_i^T,  T <- T (I - beta_i w_i w_i^T)

    and at the end W + R Q c and R - R Q (I - T) Q^T. All that has the size D is a matrix product.
    A single row f needs no Q: W + R f a^T and R - R f beta f^T.
    """

    @classmethod
    def at_mode(
        cls,
        mean: torch.Tensor,
        features: torch.Tensor,
        curvature: torch.Tensor,
        prior_precision: float,
        prior_mean: torch.Tensor | None = None,
    ) -> Self:
        """Make the Laplace approximation around a mode, see :meth:`Posterior.at_mode`.

        Its precisions are lambda I + Phi^T diag(h_g) Phi.
        """
        prior_mean = torch.zeros_like(mean) if prior_mean is None else prior_mean
        return cls(
            mean, root_of_sum(features, curvature, prior_precision), prior_precision, prior_mean
        )

    @staticmethod
    def information(features: torch.Tensor, curvature: torch.Tensor) -> torch.Tensor:
        """Return Phi^T diag(h_g) Phi, (G, D, D), see :meth:`Posterior.information`."""
        return torch.stack([(features * h[:, None]).T @ features for h in curvature.T])

    def condition(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        update: UpdateRule,
    ) -> Self:
        """Learn instances in blocks, as if one by one, see :meth:`Posterior.condition`."""
        posterior = self
        for start in range(0, len(features), _BLOCK_SIZE):
            rows = slice(start, start + _BLOCK_SIZE)
            posterior = posterior._learn(features[rows], targets[rows], weights[rows], update)
        return posterior

    def condition_with_effects(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        update: UpdateRule,
        meanwhile: Callable[[torch.Tensor], object],
    ) -> tuple[Self, Sequence[Effect] | None]:
        """Return an effect as well, see :meth:`Posterior.condition_with_effects`.

        It has a direction for each group.
        """
        whitened, logits = self._whitened_and_logits(features)
        column = whitened.mT  # (G, D, 1)
        span = self._span(column)
        directions = span[:, :, 0].T  # (D, G), Sigma phi
        block = self._on_host(_variance(whitened), logits, features, targets, weights)
        meanwhile(directions)
        one = _one_row(update, *block)
        changes = on_device(one.removed, column), on_device(one.shift, column)
        return self._absorb(column, *changes, span), (
            Effect(directions, one.coefficients, one.shrinkage),
        )

    def _learn(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        update: UpdateRule,
    ) -> Self:
        whitened, logits = self._whitened_and_logits(features)
        if len(features) == 1:
            basis = whitened.mT
            block = self._on_host(_variance(whitened), logits, features, targets, weights)
            removed, shift, *_ = _one_row(update, *block)
        else:
            basis, coordinates = _orthonormal(whitened)  # (G, D, k), (G, k, b)
            block = self._on_host(coordinates, logits, features, targets, weights)
            factor, shift = _recursion(update, *block)
            removed = np.eye(factor.shape[1]) - factor  # I - T
        return self._absorb(basis, on_device(removed, basis), on_device(shift, basis))

    def _on_host(
        self,
        whitened: torch.Tensor,
        logits: torch.Tensor,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
    ) -> Iterator[Vector]:
        """Return what the recursion needs to know: the last is the variance under the prior."""
        at_prior = prior_variance(features, self.prior_precision)
        block = on_host(whitened, logits, targets, weights, at_prior)
        return (part.double().numpy() for part in block)

    def _whitened_and_logits(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows R^T phi, (G, b, D), and W^T phi, (b, C)."""
        return features @ self.stored_root, features @ self.stored_mean

    @abstractmethod
    def _span(self, basis: torch.Tensor) -> torch.Tensor:
        """Return R Q, (G, D, k)."""

    @abstractmethod
    def _absorb(
        self,
        basis: torch.Tensor,
        removed: torch.Tensor,
        shift: torch.Tensor,
        span: torch.Tensor | None = None,
    ) -> Self:
        """Move the mean by R Q c and multiply the root by I - Q (I - T) Q^T.

        Here Q may be any matrix, and so may what is removed. ``span`` is R Q where it is known,
        for who multiplies at once.
        """


def _orthonormal(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Q (G, D, k) and coordinates (G, k, b) of rows (G, b, D): Q coordinates = rows^T.

    By the Cholesky factor of the Gram matrix, in half the time of QR, where all rows lead well away
    from those before: the columns of Q are then orthonormal to a few roundings, as those of QR are.
    Elsewhere than on the CPU the host would have to wait for the answer.
    """
    if not rows.is_cpu:
        return torch.linalg.qr(rows.mT)
    gram = rows @ rows.mT
    factor, info = torch.linalg.cholesky_ex(gram)
    away = factor.diagonal(dim1=-2, dim2=-1).square().amin(dim=-1)
    longest = gram.diagonal(dim1=-2, dim2=-1).amax(dim=-1)
    if bool(((info == 0) & (away > _WELL_AWAY * longest)).all()):
        return torch.linalg.solve_triangular(factor, rows, upper=False).mT, factor.mT
    return torch.linalg.qr(rows.mT)


def _variance(whitened: torch.Tensor) -> torch.Tensor:
    """Return v (1, G) of a whitened row (G, 1, D)."""
    return torch.linalg.vecdot(whitened, whitened).T


class _OneRow(NamedTuple):
    """Changes by a row f: beta (G, 1, 1) and a (G, 1, m) of eq-root, a (C,), h / (1 + h v) (G,)."""

    removed: Vector
    shift: Vector
    coefficients: Vector
    shrinkage: Vector


def _one_row(
    update: UpdateRule,
    variance: Vector,
    logits: Vector,
    targets: Vector,
    weights: Vector,
    prior_variance: Vector,
) -> _OneRow:
    """Return what a single row of variance (1, G) changes."""
    rows = np.sqrt(variance)[:, :, None]  # along f / |f|
    learnt = learn_in_block(update, Block(rows, logits, targets, weights, prior_variance))
    v = variance[0]
    if learnt is None:
        a, h = update(logits[0], v, targets[0], weights[0], prior_variance[0])
    else:
        a, h = learnt.coefficients[0], learnt.curvature[0]
    growth = 1.0 + h * v
    scale = np.sqrt(growth)
    beta = h / (scale * (1.0 + scale))
    return _OneRow(beta[:, None, None], a.reshape(len(v), 1, -1), a, h / growth)


def _recursion(
    update: UpdateRule,
    coordinates: Vector,
    logits: Vector,
    targets: Vector,
    weights: Vector,
    prior_variance: Vector,
) -> tuple[Vector, Vector]:
    """Return T (G, k, k) and c (G, k, m) after the rows of a block, on the host.

    l_i are the columns of the coordinates (G, k, b).
    """
    n_groups, size, _ = coordinates.shape
    rows = np.ascontiguousarray(np.moveaxis(coordinates, 2, 0))  # (b, G, k)
    learnt = learn_in_block(update, Block(rows, logits, targets, weights, prior_variance))
    if learnt is not None:
        return learnt.factor, learnt.shift
    factor = np.tile(np.eye(size), (n_groups, 1, 1))
    shift = np.zeros((n_groups, size, logits.shape[1] // n_groups))
    for row, z, y, s, v_0 in zip(
        rows[:, :, None], logits, targets, weights, prior_variance, strict=True
    ):
        whitened = row @ factor  # (G, 1, k), w_i
        variance = np.einsum("gok,gok->g", whitened, whitened)
        a, h = update(z + (row @ shift).ravel(), variance, y, s, v_0)
        direction = factor @ whitened.transpose(0, 2, 1)  # (G, k, 1), T w_i
        shift += direction * a.reshape(n_groups, 1, -1)
        scale = np.sqrt(1.0 + h * variance)
        direction *= (h / (scale * (1.0 + scale)))[:, None, None]  # beta of eq-root
        factor -= direction * whitened
    return factor, shift
