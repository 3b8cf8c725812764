"""Covering a pool greedily: by all candidates if the pool is small, else by a shortlist."""

from abc import abstractmethod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from laplace_al._common.typing import Choice, Mask, Rng
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._herding import herd
from laplace_al.strategies._ranking import draw_seed, leaders_among
from laplace_al.strategies._view import PoolView


class Similarity(Protocol):
    """How similar instances of a pool are to each other and to others: 0 to 1."""

    def between(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the similarities (m, n) of the instances at m positions to all."""

    def to_nearest(self, others: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the similarity (n,) of each to the nearest of others (m, D)."""


class CoveringStrategy(QueryStrategy):
    """Base of the strategies that cover a pool greedily by what is labelled.

    An instance x, which counts ``u_x``, is covered by its largest similarity ``c_x`` to a labelled
    or chosen one. The utility of j is ``Σ_x u_x max(0, κ(x, j) - c_x)``.
    """

    @abstractmethod
    def similarity(
        self, features: NDArray[np.floating], is_labelled: Mask, n_labels: int
    ) -> Similarity:
        """Return κ for features (n, D) and a number of labels, those of the batch included."""

    def weights(self, view: PoolView) -> NDArray[np.floating]:
        """Return how much each instance counts, (n_pool,)."""
        return np.ones(len(view))

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return how much each would newly cover, (n_pool,), -inf for those not on the list."""
        return self.candidate_utilities(view, np.ones(len(view), dtype=bool), rng)

    def candidate_utilities(
        self, view: PoolView, candidates: Mask, rng: Rng
    ) -> NDArray[np.float64]:
        """Return those of the candidates on the shortlist, -inf for all others."""
        return self.choose(view, 1, candidates, rng)[1]

    def choose(self, view: PoolView, n_instances: int, candidates: Mask, rng: Rng) -> Choice:
        """Cover greedily; where nothing is gained, the largest weights come first."""
        is_labelled = view.is_labelled
        counts = self._without_nan(np.where(is_labelled, 0.0, self.weights(view)))
        n_labels = len(view.labelled_positions) + n_instances
        similarity = self.similarity(view.features, is_labelled, n_labels)
        weights, covered = counts.astype(np.float32), similarity.to_nearest(view.labelled)
        listed = candidates
        n_listed = max(10 * n_instances, _n_pairs(n_instances) // len(view))
        if n_listed < candidates.sum():
            listed = shortlist(similarity, weights, covered, candidates, n_instances, n_listed, rng)
        # equals in random order
        rivals = leaders_among(counts, listed, len(view), draw_seed(rng)).positions
        places, gains = herd(similarity.between(rivals), weights, covered, n_instances)
        utilities = np.full(len(view), -np.inf)
        utilities[rivals] = gains
        return rivals[places], utilities


def shortlist(
    similarity: Similarity,
    weights: NDArray[np.float32],
    covered: NDArray[np.float32],
    candidates: Mask,
    n_instances: int,
    n_listed: int,
    rng: Rng,
) -> Mask:
    """Return which candidates would choose among, if a sample were the pool to be covered.

    ``weights`` and ``covered`` are (n,). An instance x is drawn in proportion to ``u_x (1 - c_x)``,
    what there is to gain from it. Three batches are herded on the sample; then come the candidates
    that gain most there, and where these gain alike, the largest weights.
    """
    left = weights.astype(np.float64) * (1 - covered)
    if not left.any():
        left = np.ones(len(left))
    n_drawn = min(_FEW_DRAWN * n_instances, _MANY_DRAWN)
    drawn = (np.arange(n_drawn) + rng.random_sample()) / n_drawn  # in equal steps
    cumulative = np.cumsum(left)
    sample = np.minimum(np.searchsorted(cumulative / cumulative[-1], drawn), len(left) - 1)
    places = np.flatnonzero(candidates)
    similar = np.ascontiguousarray(similarity.between(sample)[:, places].T)
    odds = (weights[sample] / left[sample]).astype(np.float32)
    herded, gains = herd(similar, odds, covered[sample], min(3 * n_instances, n_listed))
    gains[herded] = np.inf
    order = np.lexsort((rng.random_sample(len(places)), -weights[places], -gains))
    listed = np.zeros(len(candidates), dtype=bool)
    listed[places[order[:n_listed]]] = True
    return listed


def _n_pairs(n_instances: int) -> int:
    """Return how many similarities a batch is worth: half a second of them at most."""
    return min(_FEW_PAIRS + _PAIRS_EACH * n_instances, _MANY_PAIRS)


_FEW_DRAWN, _MANY_DRAWN = 256, 512
_FEW_PAIRS, _PAIRS_EACH, _MANY_PAIRS = 2**21, 2**19, 2**25
