"""Cover the pool with the features of what is labelled."""

import numpy as np
from numpy.typing import NDArray

from laplace_al._common.typing import Choice, Mask, Rng
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._distances import distances_to_nearest, paired_distances
from laplace_al.strategies._ranking import best
from laplace_al.strategies._view import PoolView


class CoreSet(QueryStrategy):
    """Choose, repeatedly, the instance that is farthest from all labelled and chosen instances.

    This is the greedy solution of the k-center problem: the largest distance from an instance of
    the pool to its nearest labelled one is at most twice that of the best batch of the same size.

    The utility is the Euclidean distance to the nearest labelled instance in the space of the
    features, ``min_j |φ_i - φ_j|``. If nothing is labelled, it is 0 and the first instance is
    chosen at random, as in the authors' code. Labelled instances are taken from an ActiveLearner
    (ours or modAL's); for any other learner there are none.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    References
    ----------
    Sener and Savarese, *Active learning for convolutional neural networks: a core-set approach*,
    ICLR 2018.

    Examples
    --------
    >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
    >>> from laplace_al.strategies import CoreSet
    >>> pool, strategy = [[0.0], [4.0], [9.0], [10.0]], CoreSet(random_state=0)
    >>> learner = ActiveLearner(
    ...     LaplaceUpdateClassifier(), strategy, pool, X_initial=[[0.0], [1.0]], y_initial=[0, 1]
    ... )
    >>> strategy.query(learner, pool, n_instances=2)
    array([3, 1])
    """

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return the distance to the nearest labelled instance, (n_pool,); 0 if there is none."""
        if not len(view.labelled):
            return np.zeros(len(view.features))
        return distances_to_nearest(view.features, view.labelled)

    def choose(self, view: PoolView, n_instances: int, candidates: Mask, rng: Rng) -> Choice:
        """Choose the farthest first."""
        utilities = self.candidate_utilities(view, candidates, rng)
        features, positions = view.features, np.empty(n_instances, dtype=np.int64)
        distances = utilities if len(view.labelled) else np.where(candidates, np.inf, -np.inf)
        for i in range(n_instances):
            positions[i] = chosen = best(distances, 1, rng)[0]
            nearest = np.zeros(len(features), dtype=np.intp)
            moved = paired_distances(features, features[chosen : chosen + 1], nearest)
            distances = np.minimum(distances, moved)
            distances[chosen] = -np.inf
        return positions, utilities
