"""Batches that leave the least of the pool's Fisher information unknown."""

import math
from collections.abc import Iterable, Iterator
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from laplace_al.curvatures import per_class_curvature
from laplace_al.pool import PoolState
from laplace_al.strategies.base import QueryStrategy
from laplace_al.strategies.ranking import best
from laplace_al.strategies.view import PoolView
from laplace_al.typing import Choice, Projection, RandomState


class BAIT(QueryStrategy):
    """Choose the batch that minimises ``tr(A⁻¹ F)``, in the spirit of optimal design.

    ``F = Σ_pool h φφᵀ`` is the Fisher information of the pool, and ``A = λI + Σ h φφᵀ`` that of the
    labelled and chosen instances, with the prior precision λ. The trace is the remaining variance
    of the pool's logits, weighted by h. Instances are added greedily, more than are asked for; then
    the instances whose removal increases the trace least are dropped, one by one.

    ``h = Σ_k p_k (1 - p_k)`` with p at the posterior mean. For two classes, which have one logit,
    ``h = p (1 - p)`` and the information is exact. For more classes it is an approximation: one
    block (D, D) stands for all classes, while the paper's matrix has (C D)² numbers and couples
    them. Adding an instance reduces the trace by ``h φᵀA⁻¹FA⁻¹φ / (1 + h φᵀA⁻¹φ)``, which is
    the utility; one pass over the features per choice updates both quadratic forms.

    Needs a LaplaceUpdateClassifier. Labelled instances are taken from an ActiveLearner (ours or
    modAL's); for any other learner there are none.

    Parameters
    ----------
    oversample : float, default=2
        Number of instances added before any is dropped, as a multiple of the batch size. 1: none
        is dropped.
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    References
    ----------
    Ash, Goel, Krishnamurthy and Kakade, *Gone fishing: neural active learning with Fisher
    embeddings*, NeurIPS 2021.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import BAIT
    >>> learner = LaplaceUpdateClassifier(prior_precision=0.01)
    >>> learner = learner.fit([[-1.0, 0.0], [1.0, 0.0]], [0, 1])
    >>> pool = [[0.5, 0.0], [0.0, 2.0], [0.0, 2.1], [1.0, 0.0]]
    >>> BAIT(random_state=0).query(learner, pool, n_instances=2)
    array([0, 2])
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "oversample": [Interval(Real, 1, None, closed="left")],
    }

    def __init__(self, *, oversample: float = 2, random_state: RandomState = None) -> None:
        super().__init__(random_state=random_state)
        self.oversample = oversample

    def utilities(self, view: PoolView, rng: np.random.RandomState) -> NDArray[np.float64]:
        """How much each instance alone would reduce the trace, (n_pool,)."""
        return self._design(view)[1].gains()

    def choose(
        self,
        view: PoolView,
        n_instances: int,
        candidates: NDArray[np.bool_],
        rng: np.random.RandomState,
    ) -> Choice:
        """Greedy forward, then backward."""
        blocks, design, curvature = self._design(view)
        precision = design.precision
        utilities = np.where(candidates, design.gains(), -np.inf)
        n_added = min(math.ceil(self.oversample * n_instances), int(candidates.sum()))
        free, rows, added = candidates.copy(), [], np.empty(n_added, dtype=np.int64)
        for i in range(n_added):
            added[i] = best(np.where(free, design.gains(), -np.inf), 1, rng)[0]
            free[added[i]] = False
            rows.append(blocks.row(added[i]))
            design.add(added[i], rows[i][0])
        kept = prune(torch.cat(rows), curvature[added], precision, design.pool, n_instances, rng)
        return added[kept], utilities

    def _design(self, view: PoolView) -> tuple["Blocks", "Design", torch.Tensor]:
        """The pool, its design before any choice, and its curvature, (n_pool,)."""
        state = view.posterior_state(self)
        curvature = curvature_of(state, state.logits)
        pool = Blocks(state, state.features)
        labelled = Blocks(state, view.labelled)
        mean = state.posterior.mean.double()
        seen = [curvature_of(state, rows @ mean) for rows in labelled]
        target = information(pool, curvature.split(_ROWS_AT_ONCE), len(mean))
        precision = information(labelled, seen, len(mean)).to(target)
        precision.diagonal().add_(state.posterior.prior_precision)
        design = Design(pool, state.project, curvature, precision, target)
        return pool, design, curvature


class Design:
    """``tr(A⁻¹ F)`` and how one instance more or less would change it.

    Parameters
    ----------
    blocks : iterable of Tensor of shape (b, D)
        Φ, in blocks of rows, float64.
    project : callable
        Φ times a matrix (D, m).
    curvature : Tensor of shape (n,)
        h.
    precision : Tensor of shape (D, D)
        A.
    pool : Tensor of shape (D, D)
        F.

    Examples
    --------
    >>> phi, one = torch.tensor([[1.0], [2.0]]).double(), torch.ones(1, 1).double()
    >>> design = Design([phi], phi.matmul, torch.ones(2).double(), one, 2 * one)
    >>> design.gains()  # 2 / 1 - 2 / (1 + 1) and 2 / 1 - 2 / (1 + 4)
    array([1. , 1.6])
    """

    def __init__(
        self,
        blocks: Iterable[torch.Tensor],
        project: Projection,
        curvature: torch.Tensor,
        precision: torch.Tensor,
        pool: torch.Tensor,
    ) -> None:
        self.blocks = blocks
        self.project = project
        self.curvature = curvature
        self.precision = precision
        self.pool = pool
        self.covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))  # A^-1
        variance, influence = [], []
        for rows in blocks:
            spread = rows @ self.covariance
            variance.append((spread * rows).sum(dim=1))
            influence.append((spread @ pool * spread).sum(dim=1))
        self.variance = torch.cat(variance)  # v = φᵀA⁻¹φ
        self.influence = torch.cat(influence)  # q = φᵀA⁻¹FA⁻¹φ

    def gains(self) -> NDArray[np.float64]:
        """What the trace loses by an instance more, ``h q / (1 + h v)``, ndarray (n,)."""
        h = self.curvature
        return (h * self.influence / (1 + h * self.variance)).numpy(force=True)

    def losses(self) -> NDArray[np.float64]:
        """What the trace gains by an instance less, ``h q / (1 - h v)``, ndarray (n,)."""
        h = self.curvature
        rest = (1 - h * self.variance).clamp(min=torch.finfo(h.dtype).eps)
        return (h * self.influence / rest).numpy(force=True)

    def add(self, position: int, row: torch.Tensor, sign: int = 1) -> None:
        """Let A have an instance more, or one less with the sign -1.

        With u = A⁻¹φ and s = h / (1 + h φᵀu), h signed, A⁻¹ becomes A⁻¹ - s u uᵀ; c = Φu and
        d = ΦA⁻¹Fu give v - s c² and q - 2 s c d + s² (uᵀFu) c².

        Parameters
        ----------
        position : int
        row : Tensor of shape (D,)
            Its φ.
        sign : int, default=1
        """
        u = self.covariance @ row
        h = sign * self.curvature[position]
        s = h / (1 + h * (row @ u)).clamp(min=torch.finfo(h.dtype).eps)
        moved = self.pool @ u
        c, d = self.project(torch.stack([u, self.covariance @ moved], dim=1)).T
        self.influence += s * c * (s * (u @ moved) * c - 2 * d)
        self.variance -= s * c * c
        # Both are squared norms, which rounding may carry below zero.
        self.influence.clamp_(min=0)
        self.variance.clamp_(min=0)
        self.covariance = torch.addr(self.covariance, u, u, alpha=-float(s))


class Blocks:
    """Features in blocks of rows as float64, with the constant 1 if the head has an intercept.

    Parameters
    ----------
    state : PoolState
    features : Tensor or ndarray of shape (n, n_features)

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> state = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1]).pool_state([[3.0]])
    >>> list(Blocks(state, state.features))
    [tensor([[3., 1.]], dtype=torch.float64)]
    """

    def __init__(self, state: PoolState, features: torch.Tensor | NDArray[np.floating]) -> None:
        self.state = state
        self.features = features

    def __iter__(self) -> Iterator[torch.Tensor]:
        for start in range(0, len(self.features), _ROWS_AT_ONCE):
            yield self._prepared(self.features[start : start + _ROWS_AT_ONCE])

    def row(self, position: int) -> torch.Tensor:
        """One row, (1, D)."""
        return self._prepared(self.features[position : position + 1])

    def _prepared(self, rows: torch.Tensor | NDArray[np.floating]) -> torch.Tensor:
        if isinstance(rows, np.ndarray):
            rows = torch.from_numpy(rows.astype(np.float64))  # a copy, which is writeable
        rows = rows.to(self.state.posterior.base.device, torch.float64)
        fit_intercept = self.state.fit_intercept
        return torch.nn.functional.pad(rows, (0, 1), value=1.0) if fit_intercept else rows


def curvature_of(state: PoolState, logits: torch.Tensor) -> torch.Tensor:
    """Curvature that all outputs share, ``h = Σ_k p_k (1 - p_k)``; p (1 - p) for one logit.

    Parameters
    ----------
    state : PoolState
    logits : Tensor of shape (n, C)

    Returns
    -------
    Tensor of shape (n,), dtype float64

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> state = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1]).pool_state([[0.0]])
    >>> curvature_of(state, torch.zeros(1, 1))
    tensor([0.2500], dtype=torch.float64)
    """
    return per_class_curvature(state.likelihood.mean(logits.double())).sum(dim=1)


def information(
    blocks: Iterable[torch.Tensor], curvatures: Iterable[torch.Tensor], n_features: int
) -> torch.Tensor:
    """Fisher information ``Σ h φφᵀ`` of rows that come in blocks.

    Parameters
    ----------
    blocks : iterable of Tensor of shape (b, D)
    curvatures : iterable of Tensor of shape (b,)
    n_features : int
        D.

    Returns
    -------
    Tensor of shape (D, D), dtype float64

    Examples
    --------
    >>> information([torch.ones(2, 1)], [torch.tensor([1.0, 0.5])], 1)
    tensor([[1.5000]], dtype=torch.float64)
    """
    total = torch.zeros(n_features, n_features, dtype=torch.float64)
    for rows, h in zip(blocks, curvatures, strict=True):
        total = total.to(rows.device) + (rows.T * h) @ rows
    return total


def prune(
    rows: torch.Tensor,
    curvature: torch.Tensor,
    precision: torch.Tensor,
    pool: torch.Tensor,
    n_kept: int,
    rng: np.random.RandomState,
) -> NDArray[np.int64]:
    """Drop instances, one by one, without which ``tr(A⁻¹ F)`` grows least.

    Parameters
    ----------
    rows : Tensor of shape (m, D)
    curvature : Tensor of shape (m,)
        h.
    precision : Tensor of shape (D, D)
        Of everything but these instances.
    pool : Tensor of shape (D, D)
        F.
    n_kept : int
    rng : RandomState

    Returns
    -------
    ndarray of shape (n_kept,)
        Positions in rows, ascending.

    Examples
    --------
    >>> rows, one = torch.tensor([[1.0], [3.0], [2.0]]), torch.ones(1, 1)
    >>> prune(rows, torch.ones(3), one, one, 2, np.random.RandomState(0))
    array([1, 2])
    """
    full = precision + (rows.T * curvature) @ rows
    design = Design([rows], rows.matmul, curvature, full, pool)
    kept = np.ones(len(rows), dtype=bool)
    for _ in range(len(rows) - n_kept):
        dropped = best(np.where(kept, -design.losses(), -np.inf), 1, rng)[0]
        kept[dropped] = False
        design.add(dropped, rows[dropped], sign=-1)
    return np.flatnonzero(kept)


_ROWS_AT_ONCE = 4096
