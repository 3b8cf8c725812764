"""Herding: the instances most similar to what is neither labelled nor chosen yet."""

import numpy as np
from numpy.typing import NDArray

from laplace_al.strategies._distances import LowerBounds, blocks, distances_to_nearest


class Kernel:
    """Similarities ``κ = exp(-|φ_i - φ_j|² / σ²)`` of n instances with features (n, D).

    A bandwidth σ that rounding hides, as among equal instances, is raised to what float64 resolves;
    instances that are not equal are then not similar.

    Examples
    --------
    >>> kernel = Kernel(np.array([[0.0], [1.0], [3.0]]), bandwidth=1.0)
    >>> kernel.between(np.array([0])).round(2)
    array([[1.  , 0.37, 0.  ]], dtype=float32)
    >>> kernel.to_nearest(np.array([[2.0]])).round(2)
    array([0.02, 0.37, 0.37], dtype=float32)
    """

    def __init__(self, features: NDArray[np.floating], bandwidth: float) -> None:
        self.features = features
        self._bounds = LowerBounds(features, np.float32)
        squared = (bandwidth / self._bounds.scale) ** 2
        if squared < self._bounds.resolution:
            self._bounds = LowerBounds(features, np.float64)
        self._squared = max(squared, self._bounds.resolution / 100)

    def between(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the similarities (m, n) of the instances at m positions to all."""
        n = len(self.features)
        similarities = np.empty((len(rows), n), dtype=np.float32)
        for block in blocks(len(rows), n):
            similarities[block] = self._of_squared(self._bounds.squared(rows[block]))
        return similarities

    def to_nearest(self, others: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the similarity (n,) of each to the nearest of others (m, D); 0 without others."""
        distances = distances_to_nearest(self.features, others) / self._bounds.scale
        return self._of_squared(distances**2).astype(np.float32)

    def _of_squared(self, distances: NDArray[np.floating]) -> NDArray[np.floating]:
        distances /= -self._squared
        return np.exp(distances, out=distances)


def gains(
    similarities: NDArray[np.float32], weights: NDArray[np.float32], covered: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return ``Σ_x u_x max(0, κ(x, j) - c_x)`` of each candidate j, (m,).

    ``similarities`` κ are (m, n), ``weights`` u and ``covered`` c (n,). Each row is summed alike,
    so that gains never grow with c. What may be rounding is 0.
    """
    sums, least = np.empty(len(similarities)), _RELATIVE_ERROR * float(weights.sum())
    for block in blocks(len(similarities), len(weights)):
        parts = similarities[block] - covered
        np.maximum(parts, 0, out=parts)
        parts *= weights
        sums[block] = parts.sum(axis=1, dtype=np.float64)
    sums[sums < least] = 0.0
    return sums


def herd(
    similarities: NDArray[np.float32],
    weights: NDArray[np.float32],
    covered: NDArray[np.float32],
    n_instances: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose candidates of the largest gain, each covering what is similar to it.

    Returns their places (n_instances,), the first of those that gain alike first, and the gains
    (m,) before any choice. A gain only falls, so an earlier one bounds it: Minoux, *Accelerated
    greedy algorithms for maximizing submodular set functions*, 1978.

    Examples
    --------
    >>> similarities = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype="f4")
    >>> herd(similarities, np.ones(3, dtype="f4"), np.zeros(3, dtype="f4"), 3)[0]
    array([0, 2, 1])
    """
    first = gains(similarities, weights, covered)
    bounds, is_exact = first.copy(), np.ones(len(first), dtype=bool)
    chosen: list[int] = []
    while len(chosen) < n_instances:
        j = int(bounds.argmax())
        if is_exact[j]:
            chosen.append(j)
            covered = np.maximum(covered, similarities[j])
            bounds[j], is_exact[:] = -np.inf, False
        else:
            bounds[j], is_exact[j] = gains(similarities[j : j + 1], weights, covered)[0], True
    return np.array(chosen, dtype=np.int64), first


_RELATIVE_ERROR = 1e-6
