"""Typical instances of clusters that have no label, for very few labels."""

import warnings
from numbers import Integral

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors
from sklearn.utils._param_validation import Interval

from laplace_al.strategies.base import QueryStrategy, best
from laplace_al.strategies.core_set import paired_distances


class TypiClust(QueryStrategy):
    """Choose the most typical instance of each of the largest clusters without a label.

    The features of the pool and of the labelled instances fall into as many clusters as there are
    labels once the batch is labelled, at most 500. Each choice goes to the cluster with the fewest
    labels, chosen ones included, and the largest of those; clusters of up to five come
    after all others, since they may be outliers. There it takes the most typical instance,
    ``1 / mean_j |φ_i - φ_j|`` over the nearest neighbours within the cluster, at most half of it.

    The utility is the typicality in the whole pool, which takes the nearest neighbours of every
    instance. Needs a learner that knows its labelled instances, as an ActiveLearner does; any
    other is one that has none.

    Parameters
    ----------
    n_neighbors : int, default=20
        Of how many neighbours the mean distance is taken.
    random_state : int, RandomState instance or None, default=None
        Seeds the clustering and breaks ties.

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

    _parameter_constraints: dict = {
        **QueryStrategy._parameter_constraints,
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, *, n_neighbors=20, random_state=None):
        super().__init__(random_state=random_state)
        self.n_neighbors = n_neighbors

    def utilities(self, view, rng):
        """Typicality in the whole pool, (n_pool,)."""
        return typicality(view.features, self.n_neighbors)

    def choose(self, view, n_instances, candidates, rng):
        """The most typical instance of the largest cluster with the fewest labels, repeatedly."""
        utilities = self.candidate_utilities(view, candidates, rng)
        features, n_pool = view.features, len(view.features)
        if len(view.labelled):
            labelled = view.labelled.astype(features.dtype, copy=False)
            features = np.concatenate([features, labelled])
        n_clusters = min(len(view.labelled) + n_instances, _MAX_CLUSTERS, len(features))
        cluster = clusters(features, n_clusters, rng)  # (n_pool + n_labelled,)
        size = np.bincount(cluster, minlength=n_clusters)
        n_labels = np.bincount(cluster[n_pool:], minlength=n_clusters)
        n_free = np.bincount(cluster[:n_pool][candidates], minlength=n_clusters)
        ranked = {}  # cluster: its candidates that are left, most typical last
        positions = np.empty(n_instances, dtype=np.int64)
        for i in range(n_instances):
            shuffled = rng.permutation(n_clusters)
            order = np.lexsort((shuffled, -size, n_labels, size <= _SMALL, n_free == 0))
            chosen = order[0]
            if chosen not in ranked:
                members = np.flatnonzero(cluster == chosen)
                n_neighbors = min(self.n_neighbors, max(1, len(members) // 2))
                typical = typicality(features[members], n_neighbors)
                ranking = members[best(typical, len(members), rng)]
                ranking = ranking[ranking < n_pool]
                ranked[chosen] = list(ranking[candidates[ranking]][::-1])
            positions[i] = ranked[chosen].pop()
            n_labels[chosen] += 1
            n_free[chosen] -= 1
        return positions, utilities


def clusters(features, n_clusters, rng):
    """Cluster of each row by k-means; in mini-batches where there are more than 50.

    Parameters
    ----------
    features : ndarray of shape (n, D)
    n_clusters : int
        At most n. Of fewer distinct rows, some clusters stay empty.
    rng : RandomState

    Returns
    -------
    ndarray of int of shape (n,)
        In range(n_clusters).

    Examples
    --------
    >>> labels = clusters(np.array([[0.0], [0.1], [9.0]]), 2, np.random.RandomState(0))
    >>> bool(labels[0] == labels[1] != labels[2])
    True
    """
    method = KMeans if n_clusters <= _MAX_EXACT_CLUSTERS else MiniBatchKMeans
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        return method(n_clusters, n_init=1, random_state=rng).fit_predict(features)


def typicality(features, n_neighbors):
    """Inverse mean distance to the nearest neighbours, ``1 / mean_j |φ_i - φ_j|``.

    Parameters
    ----------
    features : ndarray of shape (n, D)
    n_neighbors : int
        If there are fewer others, all of them.

    Returns
    -------
    ndarray of shape (n,), dtype float64
        Finite: equal instances get the largest that is.

    Examples
    --------
    >>> typicality(np.array([[0.0], [1.0], [3.0]]), 1)
    array([1. , 1. , 0.5])
    """
    n_neighbors = min(n_neighbors, len(features) - 1)
    mean = np.zeros(len(features))
    if n_neighbors:
        search = NearestNeighbors(n_neighbors=n_neighbors).fit(features)
        for neighbor in search.kneighbors(return_distance=False).T:  # (n,)
            mean += paired_distances(features, features, neighbor)
        mean /= n_neighbors
    return 1 / np.maximum(mean, np.finfo(np.float64).tiny)


_MAX_CLUSTERS = 500  # as in the authors' code
_MAX_EXACT_CLUSTERS = 50
_SMALL = 5
