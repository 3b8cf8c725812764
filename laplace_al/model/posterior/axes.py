"""The few directions in which the precision of a class is unlike the mean over the classes."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch

RANK = 16
"""Axes of each class: fewer cost fidelity where the prior is weak, more cost time."""

_EXTRA = 4  # directions that are looked for beside these, the least accurate of all
_STEPS = 3
_NOISE = 0  # a seed

Times: TypeAlias = Callable[[torch.Tensor, slice], torch.Tensor]
"""The product of symmetric matrices (K, N, N), those of some classes, with rows (K, q, N)."""


class Axes(NamedTuple):
    """Matrices S_k = g_k (I - V_k^T V_k) + V_k^T diag(s_k) V_k, one for each of C classes.

    The ``directions`` V are (C, r, N) with orthonormal rows, their ``variances`` s (C, r), and the
    ``spread`` g (C,) is the variance in all other directions.
    """

    directions: torch.Tensor
    variances: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def none(cls, n_classes: int, size: int, like: torch.Tensor) -> "Axes":
        """Return no axes: identity matrices."""
        return cls(
            like.new_zeros(n_classes, 0, size),
            like.new_zeros(n_classes, 0),
            like.new_ones(n_classes),
        )

    @property
    def excess(self) -> torch.Tensor:
        """P (C, r, r) in S_k = g_k I + V_k^T P_k V_k."""
        return torch.diag_embed(self.variances - self.spread[:, None])

    def of_classes(self, some: slice) -> "Axes":
        """Return the matrices of some classes."""
        return Axes(*(part[some] for part in self))

    def inverse_times(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply rows (C, q, N) by the inverses of the matrices."""
        V, precision = self.directions, 1 / self.spread[:, None]
        inner = (rows @ V.mT) * (1 / self.variances - precision)[:, None, :]
        return torch.baddbmm(precision[:, :, None] * rows, inner, V)

    def inverse_trace(self, root: torch.Tensor) -> torch.Tensor:
        """Return the traces (C,) of N^T S_k^-1 N, for a matrix N (N, N)."""
        precision = 1 / self.spread
        squares = (self.directions @ root).square().sum(dim=2)  # (C, r)
        excess = (squares * (1 / self.variances - precision[:, None])).sum(dim=1)
        return precision * root.square().sum() + excess

    def scattered(self, positions: torch.Tensor, others: "Axes", n_classes: int) -> "Axes":
        """Return the matrices at positions (C,) among more, all others being a single one."""
        rank = max(self.directions.shape[1], others.directions.shape[1])
        parts = [part.expand(n_classes, *part.shape[1:]).clone() for part in others.padded(rank)]
        for part, own in zip(parts, self.padded(rank), strict=True):
            part[positions] = own
        return Axes(*parts)

    def padded(self, rank: int) -> "Axes":
        """Return the same matrices with so many axes, the further ones 0."""
        n_more = rank - self.directions.shape[1]
        spread = self.spread[:, None].expand(-1, n_more)
        directions = torch.nn.functional.pad(self.directions, (0, 0, 0, n_more))
        return Axes(directions, torch.cat([self.variances, spread], 1), self.spread)

    def mean_inverse(self) -> torch.Tensor:
        """Return the mean of the inverses over the classes, (N, N)."""
        n_classes = len(self.spread)
        V, precision = self.directions.flatten(end_dim=1), 1 / self.spread
        excess = (1 / self.variances - precision[:, None]).flatten()
        total = (excess[:, None] * V).T @ V / n_classes
        total.diagonal().add_(precision.mean())
        return total


def principal_axes(
    times: Times,
    trace: torch.Tensor,
    start: torch.Tensor,
    *,
    flat: torch.Tensor,
    n_dimensions: int,
    at_once: int | None = None,
    n_steps: int | None = None,
    nearly: Times | None = None,
    rank: int | None = None,
) -> Axes:
    """Return the inverses of symmetric positive definite matrices, cut to ``rank`` axes.

    By default there are :data:`RANK`. These are the eigenvectors whose eigenvalues are farthest
    from ``flat`` (C,) on the scale of the logarithm; all others get the mean of the eigenvalues
    that are left, by the ``trace`` (C,) in ``n_dimensions`` dimensions. They are found by block
    power steps: from rows (q, N) common to all classes, see :func:`sketch`, or (C, q, N) of each.
    With as many rows as dimensions nothing is cut. ``times`` is asked for so many classes
    ``at_once``. ``nearly`` are the products that the steps take, in single precision at least. The
    eigenvalues are of the order of 1, and none counts as less than rounding can tell from 0.

    Halko, Martinsson and Tropp, *Finding structure with randomness*, SIAM Review 53(2), 2011.
    """
    n_classes, (n_rows, size) = len(trace), start.shape[-2:]
    smallest = torch.finfo(trace.dtype).eps
    n_steps = _STEPS if n_steps is None else n_steps
    rank = min(RANK if rank is None else rank, size)
    # so that what is made for all rows of the data is no wider than they are
    at_once = at_once or max(1, n_dimensions // n_rows)
    parts = []
    for first in range(0, n_classes, at_once):
        some = slice(first, min(first + at_once, n_classes))
        rows = start.expand(n_classes, -1, -1)[some]
        level = flat[some, None, None]
        if n_rows < size:
            rows = _orthonormal(rows)
            for _ in range(n_steps):
                rows = _orthonormal((nearly or times)(rows, some) - level * rows)
        eigenvalues, mixing = torch.linalg.eigh(times(rows, some) @ rows.mT)  # of Rayleigh and Ritz
        eigenvalues = eigenvalues.clamp_min(smallest)
        far = (eigenvalues / level[:, 0]).log().abs()
        kept = far.argsort(dim=1, descending=True)[:, :rank]
        mixing = mixing.gather(2, kept[:, None, :].expand(-1, mixing.shape[1], -1))
        parts.append((mixing.mT @ rows, eigenvalues.gather(1, kept)))
    directions, eigenvalues = (torch.cat(part) for part in zip(*parts, strict=True))
    n_left = n_dimensions - directions.shape[1]
    rest = flat
    if n_left:
        rest = (trace - eigenvalues.sum(dim=1)).clamp_min(n_left * smallest) / n_left
    return Axes(directions, 1 / eigenvalues, 1 / rest)


def axes_of_inverse(precision: torch.Tensor) -> Axes:
    """Return the axes of the inverse of a matrix (N, N), whose trace they keep.

    Those whose eigenvalues are farthest from the geometric mean are kept.
    """
    eigenvalues, directions = torch.linalg.eigh(precision)
    logs = eigenvalues.clamp_min(torch.finfo(eigenvalues.dtype).eps).log()
    order = (logs - logs.mean()).abs().argsort(descending=True)
    kept, rest = order.tensor_split([min(RANK, len(order))])
    variances = (-logs).exp()
    spread = variances[rest].mean() if len(rest) else variances.mean()
    return Axes(directions.T[None, kept], variances[None, kept], spread[None])


def sketch(size: int, like: torch.Tensor, rank: int | None = None) -> torch.Tensor:
    """Return rows (q, N) to start from, the same ones every time, or all N where these are few."""
    n_rows = (RANK if rank is None else rank) + _EXTRA
    if size <= n_rows:
        return torch.eye(size, dtype=like.dtype, device=like.device)
    generator = torch.Generator().manual_seed(_NOISE)
    noise = torch.randn(n_rows, size, generator=generator, dtype=torch.float64)
    return noise.to(like)


def _orthonormal(rows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.qr(rows.mT).Q.mT
