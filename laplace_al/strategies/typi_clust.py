"""Typical instances of clusters that have no label, for very few labels."""

from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.utils._param_validation import Interval

from laplace_al._common.typing import Choice, Mask, RandomState, Rng
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._distances import Neighborhoods
from laplace_al.strategies._ranking import best
from laplace_al.strategies._view import PoolView


class TypiClust(QueryStrategy):
    """Choose the most typical instance of each of the largest clusters without a label.

    The features of the pool and of the labelled instances are divided into as many clusters as
    there will be labels with the batch, at most 500. Each choice goes to the cluster with the
    fewest labels, chosen instances included, and among these to the largest. Clusters of up to five
    instances come after all others, since they may be outliers. The instance chosen in a cluster is
    the most typical one: typicality is ``1 / mean_j |φ_i - φ_j|`` over the nearest neighbours
    within the cluster, at most half of it.

    The utility is the typicality of an instance within its own cluster. Labelled instances are
    taken from an ActiveLearner (ours or modAL's); for any other learner there are none.

    Parameters
    ----------
    n_neighbors : int, default=20
        Number of neighbours over which the distance is averaged.
    random_state : int, RandomState instance or None, default=None
        Seeds the clustering and breaks ties.

    Notes
    -----
    The numbers of neighbours and clusters and the treatment of small clusters are those of the
    authors' code; the distance is that of the paper, while the code uses its square.
    scikit-activeml's ``TypiClust`` uses 5 neighbours, or all others in a smaller cluster, treats
    small clusters like any other, and chooses at random once every cluster has a label.

    References
    ----------
    Hacohen, Dekel and Weinshall, *Active learning on a budget: opposite strategies suit high and
    low budgets*, ICML 2022.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import TypiClust
    >>> learner = LaplaceUpdateClassifier().fit([[0.0], [9.0]], [0, 1])
    >>> pool = [[0.0], [0.5], [0.6], [0.7], [1.2], [9.0], [9.5], [9.6], [9.7], [10.2]]
    >>> TypiClust(random_state=0).query(learner, pool, n_instances=2)
    array([7, 2])
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, *, n_neighbors: int = 20, random_state: RandomState = None) -> None:
        super().__init__(random_state=random_state)
        self.n_neighbors = n_neighbors

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return the typicality of each instance within its cluster, (n_pool,)."""
        return self._clustering(view, 1, rng).typicality[: len(view.features)]

    def choose(self, view: PoolView, n_instances: int, candidates: Mask, rng: Rng) -> Choice:
        """Choose from the largest cluster with the fewest labels, repeatedly."""
        cluster, typicality, size, n_labels = self._clustering(view, n_instances, rng)
        cluster, typicality = cluster[: len(candidates)], typicality[: len(candidates)]
        n_free = np.bincount(cluster[candidates], minlength=len(size))
        free, positions = candidates.copy(), np.empty(n_instances, dtype=np.int64)
        for i in range(n_instances):
            shuffled = rng.permutation(len(size))
            order = np.lexsort((shuffled, -size, n_labels, size <= _SMALL, n_free == 0))
            members = np.flatnonzero(free & (cluster == order[0]))
            positions[i] = chosen = members[best(typicality[members], 1, rng)[0]]
            free[chosen] = False
            n_labels[order[0]] += 1
            n_free[order[0]] -= 1
        return positions, np.where(candidates, typicality, -np.inf)

    def _clustering(self, view: PoolView, n_instances: int, rng: Rng) -> "_Clustering":
        """Clusters of the pool and, behind it, of the labelled instances that are not in it."""
        is_outside = view.labelled_positions < 0
        outside = view.labelled[is_outside].astype(view.features.dtype, copy=False)
        features = np.concatenate([view.features, outside]) if len(outside) else view.features
        labelled = np.concatenate(
            [view.labelled_positions[~is_outside], np.arange(len(view.features), len(features))]
        )
        n_clusters = min(len(labelled) + n_instances, _MAX_CLUSTERS, len(features))
        cluster = clusters(features, n_clusters, rng)
        typical = np.empty(len(features))
        for k in np.unique(cluster):
            members = np.flatnonzero(cluster == k)
            n_neighbors = min(self.n_neighbors, max(1, len(members) // 2))
            typical[members] = typicality(features[members], n_neighbors)
        return _Clustering(
            cluster,
            typical,
            size=np.bincount(cluster, minlength=n_clusters),
            n_labels=np.bincount(cluster[labelled], minlength=n_clusters),
        )


class _Clustering(NamedTuple):
    cluster: NDArray[np.integer]  # (n,)
    typicality: NDArray[np.float64]  # (n,), within the cluster
    size: NDArray[np.integer]  # (n_clusters,)
    n_labels: NDArray[np.integer]  # (n_clusters,)


def clusters(features: NDArray[np.floating], n_clusters: int, rng: Rng) -> NDArray[np.integer]:
    """Cluster rows (n, D) by k-means, in mini-batches for more than 50 clusters: labels (n,).

    There are at most n clusters; of fewer distinct rows, some clusters stay empty.
    """
    _, exponent = np.frexp(max(features.max(), -features.min()))
    if abs(exponent) > _MAX_EXPONENT:  # squares of which may be 0 or infinite
        features = np.ldexp(features, -exponent)
    n_clusters = min(n_clusters, _n_distinct(features, n_clusters))  # else KMeans warns
    method = KMeans if n_clusters <= _MAX_EXACT_CLUSTERS else MiniBatchKMeans
    return method(n_clusters, n_init=1, random_state=rng).fit_predict(features)


def _n_distinct(rows: NDArray[np.floating], limit: int) -> int:
    """Count distinct rows, up to a limit."""
    seen = rows[:0]
    for start in range(0, len(rows), limit):
        seen = np.unique(np.concatenate([seen, rows[start : start + limit]]), axis=0)
        if len(seen) >= limit:
            return limit
    return len(seen)


def typicality(features: NDArray[np.floating], n_neighbors: int) -> NDArray[np.float64]:
    """Return the inverse mean distance to the nearest neighbours, ``1 / mean_j |φ_i - φ_j|``, (n,).

    Finite: equal instances get the largest number that is, a single one 0. Takes all others if
    there are fewer than ``n_neighbors``.
    """
    if len(features) < 2:
        return np.zeros(len(features))
    mean = Neighborhoods(features).nearest_distances(n_neighbors).mean(axis=1)
    return 1 / np.maximum(mean, np.finfo(np.float64).tiny)


_MAX_CLUSTERS = 500  # as in the authors' code
_MAX_EXACT_CLUSTERS = 50
_MAX_EXPONENT = 30
_SMALL = 5
