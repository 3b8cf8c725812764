"""Batches that leave the least of the pool's Fisher information unknown."""

import math
from collections.abc import Callable, Iterable, Iterator
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from laplace_al._common.typing import Choice, Mask, Projection, RandomState, Rng
from laplace_al.model.curvatures import per_class_curvature
from laplace_al.model.pool_state import PoolState
from laplace_al.model.posterior.roots import root_of_rows
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._ranking import best
from laplace_al.strategies._view import PoolView


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

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return how much each instance alone would reduce the trace, (n_pool,)."""
        return self._design(view)[1].gains()

    def choose(self, view: PoolView, n_instances: int, candidates: Mask, rng: Rng) -> Choice:
        """Add instances greedily, then drop some."""
        blocks, design, curvature = self._design(view)
        root = design.root
        utilities = np.where(candidates, design.gains(), -np.inf)
        n_added = min(math.ceil(self.oversample * n_instances), int(candidates.sum()))
        free, rows, added = candidates.copy(), [], np.empty(n_added, dtype=np.int64)
        for i in range(n_added):
            added[i] = best(np.where(free, design.gains(), -np.inf), 1, rng)[0]
            free[added[i]] = False
            rows.append(blocks[added[i : i + 1]])
            design.add(added[i], rows[i][0])
        kept = prune(torch.cat(rows), curvature[added], root, design.pool, n_instances, rng)
        return added[kept], utilities

    def _design(self, view: PoolView) -> tuple["Rows", "Design", torch.Tensor]:
        """The pool, its design before any choice, and its curvature, (n_pool,)."""
        state = view.posterior_state(self)
        curvature = curvature_of(state, state.logits)
        pool = Rows(state, state.features)
        labelled = Rows(state, view.labelled)
        mean = state.posterior.mean.double()

        def seen() -> Iterator[torch.Tensor]:
            for rows in labelled:
                yield curvature_of(state, rows @ mean).sqrt()[:, None] * rows

        target = information(pool, curvature.split(_ROWS_AT_ONCE), len(mean))
        root = root_of_rows(seen, state.posterior.prior_precision, len(mean), mean)
        design = Design(pool.__getitem__, state.project, curvature, root, target)
        return pool, design, curvature


class Design:
    """The trace ``tr(A⁻¹ F)`` and how an additional instance would change it.

    A is held as a root R of its inverse, ``A⁻¹ = R Rᵀ`` (:mod:`laplace_al.model.posterior.roots`).
    ``rows`` gives the rows of Φ at some positions in float64, ``project`` the product of Φ with a
    matrix (D, m); ``curvature`` is h (n,), ``root`` is R (D, D), and ``pool`` is F (D, D).

    Examples
    --------
    >>> phi, one = torch.tensor([[1.0], [2.0]]).double(), torch.ones(1, 1).double()
    >>> design = Design(phi.__getitem__, phi.matmul, torch.ones(2).double(), one, 2 * one)
    >>> design.gains()  # 2 / 1 - 2 / (1 + 1) and 2 / 1 - 2 / (1 + 4)
    array([1. , 1.6])
    """

    def __init__(
        self,
        rows: Callable[[torch.Tensor], torch.Tensor],
        project: Projection,
        curvature: torch.Tensor,
        root: torch.Tensor,
        pool: torch.Tensor,
    ) -> None:
        self.rows = rows
        self.project = project
        self.curvature = curvature
        self.root = root
        self.pool = pool
        self.variance = torch.empty_like(curvature)  # v = φᵀA⁻¹φ
        self.influence = torch.empty_like(curvature)  # q = φᵀA⁻¹FA⁻¹φ
        # The largest number that went into each: rounding has changed it by eps of that.
        self._variance_scale = torch.empty_like(curvature)
        self._influence_scale = torch.empty_like(curvature)
        self._measure(torch.arange(len(curvature), device=curvature.device))

    def gains(self) -> NDArray[np.float64]:
        """Return what the trace loses by each additional instance, ``h q / (1 + h v)``, (n,)."""
        h = self.curvature
        return (h * self.influence / (1 + h * self.variance)).numpy(force=True)

    def add(self, position: int, row: torch.Tensor) -> None:
        """Add the instance at a position, with features φ = ``row`` (D,), to A.

        With w = Rᵀφ, u = Rw and s = h / (1 + h w²), A⁻¹ becomes A⁻¹ - s u uᵀ, and R becomes
        R - s u wᵀ / (1 + (1 + h w²)^-½); c = Φu and d = ΦA⁻¹Fu give v - s c² and
        q - 2 s c d + s² (uᵀFu) c². Where little is left of these, they are computed anew.
        """
        w = self.root.T @ row
        u = self.root @ w
        growth = 1 + self.curvature[position] * (w @ w)
        s = self.curvature[position] / growth
        moved = self.pool @ u
        c, d = self.project(torch.stack([u, self.root @ (self.root.T @ moved)], dim=1)).T
        square = s * s * (u @ moved) * c * c
        self.variance -= s * c * c
        self.influence += square - 2 * s * c * d
        self.root = torch.addr(self.root, u, w, alpha=-float(s / (1 + growth.rsqrt())))
        torch.maximum(self._influence_scale, square, out=self._influence_scale)
        is_lost = self.variance < _LEFT * self._variance_scale
        is_lost |= self.influence < _LEFT * self._influence_scale
        if is_lost.any():
            self._measure(is_lost.nonzero()[:, 0])

    def _measure(self, positions: torch.Tensor) -> None:
        """Compute v = |w|² and q = wᵀRᵀFRw, with w = Rᵀφ, of some rows."""
        for some in positions.split(_ROWS_AT_ONCE):
            w = self.rows(some) @ self.root
            moved = torch.linalg.multi_dot([w, self.root.T, self.pool, self.root])
            self.variance[some] = self._variance_scale[some] = w.square().sum(dim=1)
            influence = (moved * w).sum(dim=1).clamp_(min=0)
            self.influence[some] = self._influence_scale[some] = influence


class Rows:
    """Features (n, n_features) as float64 rows of Φ, by position or in blocks."""

    def __init__(self, state: PoolState, features: torch.Tensor | NDArray[np.floating]) -> None:
        self.state = state
        self.features = features

    def __iter__(self) -> Iterator[torch.Tensor]:
        for start in range(0, len(self.features), _ROWS_AT_ONCE):
            yield self[start : start + _ROWS_AT_ONCE]

    def __getitem__(self, positions: Any) -> torch.Tensor:
        rows = self.features[positions]
        if isinstance(rows, np.ndarray):
            rows = torch.from_numpy(rows.astype(np.float64))  # a copy, which is writeable
        rows = rows.to(self.state.posterior.stored_root.device, torch.float64)
        fit_intercept = self.state.model.has_intercept
        return torch.nn.functional.pad(rows, (0, 1), value=1.0) if fit_intercept else rows


def curvature_of(state: PoolState, logits: torch.Tensor) -> torch.Tensor:
    """Return the curvature (n,) that all outputs share, ``h = Σ_k p_k (1 - p_k)``, of logits.

    For one logit it is ``p (1 - p)``.
    """
    return per_class_curvature(state.likelihood.mean(logits.double())).sum(dim=1)


def information(
    blocks: Iterable[torch.Tensor], curvatures: Iterable[torch.Tensor], n_features: int
) -> torch.Tensor:
    """Return the Fisher information ``Σ h φφᵀ`` (D, D) of blocks of rows (b, D) and of h (b,)."""
    total = torch.zeros(n_features, n_features, dtype=torch.float64)
    for rows, h in zip(blocks, curvatures, strict=True):
        total = total.to(rows.device) + (rows.T * h) @ rows
    return total


def prune(
    rows: torch.Tensor,
    curvature: torch.Tensor,
    root: torch.Tensor,
    pool: torch.Tensor,
    n_kept: int,
    rng: Rng,
) -> NDArray[np.int64]:
    """Drop those of m instances, one by one, without which ``tr(A⁻¹ F)`` grows least.

    Takes rows (m, D), h (m,), the root R of everything but these instances, and F. Returns the
    positions of the ``n_kept`` that stay, ascending.
    """
    rows, kept = curvature.sqrt()[:, None] * rows, np.arange(len(rows))
    for n_left in (max(n_kept, 2 * len(root)), n_kept):  # see Chosen
        if len(kept) > n_left:
            chosen, is_in = Chosen(rows[kept], root, pool), np.ones(len(kept), dtype=bool)
            for _ in range(len(kept) - n_left):
                dropped = best(np.where(is_in, -chosen.losses(), -np.inf), 1, rng)[0]
                is_in[dropped] = False
                chosen.drop(dropped)
            kept = kept[is_in]
    return kept


class Chosen:
    """The trace ``tr(A⁻¹ F)``, ``A = A₀ + EᵀE``, and how it would change without a row of E.

    ``1 - eᵀA⁻¹e`` is near 0 for an instance without which little is known of some direction. It is
    the diagonal of ``S⁻¹ = I - E A⁻¹ Eᵀ = (I + E A₀⁻¹ Eᵀ)⁻¹``. For up to 2 D instances S⁻¹ is held
    as a root T, ``S⁻¹ = T Tᵀ``, which needs no difference from 1. For more, its mean is 1/2 at
    least, and what is near 0 is not what is dropped. ``rows`` is E (m, D), with rows √h φ; ``root``
    is R (D, D), A₀⁻¹ = R Rᵀ; ``pool`` is F (D, D).

    Examples
    --------
    >>> chosen = Chosen(torch.tensor([[1.0], [2.0]]), torch.ones(1, 1), torch.ones(1, 1))
    >>> chosen.losses().round(4)  # 1 / (1 + 4) - 1 / 6 and 1 / (1 + 1) - 1 / 6
    array([0.0333, 0.3333], dtype=float32)
    """

    def __init__(self, rows: torch.Tensor, root: torch.Tensor, pool: torch.Tensor) -> None:
        self.rows = rows
        self.dual: torch.Tensor | None = None  # T
        whitened = rows @ root  # B
        if len(rows) <= 2 * len(root):
            # UᵀU = I + B Bᵀ = S: U⁻¹ is T, and E A⁻¹ = S⁻¹ B Rᵀ
            product, self.dual = _thin(whitened.T)
            self.moved = self.dual @ (root @ product).T  # E A⁻¹
        else:
            # UᵀU = I + BᵀB = RᵀA R, and E A⁻¹ = B (UᵀU)⁻¹ Rᵀ
            product, inverse = _thin(whitened)
            self.moved = product @ (root @ inverse).T
        self.informed = self.moved @ pool  # E A⁻¹ F

    def losses(self) -> NDArray[np.floating]:
        """Return what the trace gains without each, ``eᵀA⁻¹FA⁻¹e / (1 - eᵀA⁻¹e)``, (m,)."""
        if self.dual is None:
            rest = 1 - (self.rows * self.moved).sum(dim=1)
            rest.clamp_(min=torch.finfo(rest.dtype).eps)
        else:
            rest = self.dual.square().sum(dim=1)
        return ((self.moved * self.informed).sum(dim=1) / rest).numpy(force=True)

    def drop(self, position: int) -> None:
        """Take the instance e at a position out of A, and replace its row of E by zeros.

        With its column s of S⁻¹, ``E A⁻¹`` becomes ``E A⁻¹ - s eᵀA⁻¹ / s_e``, and the rows of T
        lose their components along its row.
        """
        if self.dual is None:
            column = -(self.rows @ self.moved[position])
            column[position] += 1
        else:
            column = self.dual @ self.dual[position]
        share = column / column[position]
        for held in (self.moved, self.informed, self.dual):
            if held is not None:
                held.addr_(share, held[position].clone(), alpha=-1)


def _thin(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return M U⁻¹ and U⁻¹ for the triangular factor U of I + MᵀM = UᵀU, which is not formed."""
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    orthonormal = torch.linalg.qr(torch.cat([matrix, identity])).Q  # [M; I] U⁻¹
    return orthonormal[: len(matrix)], orthonormal[len(matrix) :]


_ROWS_AT_ONCE = 4096
_LEFT = 1e-4  # of a number that is updated; four digits are lost
