"""Cover as much of the pool as possible with balls around labelled instances."""

from numbers import Real

import numpy as np
from sklearn.metrics import pairwise_distances_argmin
from sklearn.neighbors import NearestNeighbors
from sklearn.utils._param_validation import Interval

from laplace_al.strategies.base import QueryStrategy, best
from laplace_al.strategies.core_set import paired_distances


class ProbCover(QueryStrategy):
    """Choose, again and again, the instance whose ball holds most that no other ball covers.

    An instance is covered if its features are within ``radius`` of those of a labelled or chosen
    instance. Greedy choices cover at least 1 - 1/e of what the best batch would. Once all is
    covered the rest is chosen at random.

    The utility is the number of instances of the pool that a label would newly cover,
    ``Σ_j [|φ_i - φ_j| <= radius] [j is not covered]``. Memory grows with the number of pairs within
    the radius. Needs a learner that knows its labelled instances, as an ActiveLearner does; any
    other is one that has none.

    Parameters
    ----------
    radius : float, default=None
        Of the balls. None: the median distance to the k-th nearest neighbour in the pool, with
        ``k = max(1, min(5, n // 20))``, so that half of the balls hold at least k others. The
        authors rather take the largest radius at which 95 % of the balls hold one cluster of
        k-means only, for which the number of classes must be known.
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    References
    ----------
    Yehuda, Dekel, Hacohen and Weinshall, *Active learning through a covering lens*, NeurIPS 2022.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import ProbCover
    >>> learner = LaplaceUpdateClassifier().fit([[0.0], [1.0]], [0, 1])
    >>> pool = [[0.0], [1.0], [2.0], [8.0], [9.0]]
    >>> ProbCover(radius=1.0, random_state=0).query(
    ...     learner, pool, n_instances=1, return_utilities=True
    ... )
    (array([1]), array([2., 3., 2., 2., 2.]))
    """

    _parameter_constraints: dict = {
        **QueryStrategy._parameter_constraints,
        "radius": [Interval(Real, 0, None, closed="neither"), None],
    }

    def __init__(self, *, radius=None, random_state=None):
        super().__init__(random_state=random_state)
        self.radius = radius

    def utilities(self, view, rng):
        """Number of instances that each would newly cover, (n_pool,)."""
        graph, covered = self._cover(view)
        return graph @ (~covered).astype(np.float64)

    def choose(self, view, n_instances, candidates, rng):
        """Greedy maximum coverage."""
        graph, covered = self._cover(view)
        gains = graph @ (~covered).astype(np.float64)  # (n_pool,)
        utilities = np.where(candidates, gains, -np.inf)
        free, positions = candidates.copy(), np.empty(n_instances, dtype=np.int64)
        for i in range(n_instances):
            positions[i] = chosen = best(np.where(free, gains, -np.inf), 1, rng)[0]
            free[chosen] = False
            ball = graph[chosen].indices
            new = ball[~covered[ball]]
            covered[new] = True
            gains -= np.asarray(graph[new].sum(axis=0)).ravel()  # the graph is symmetric
        return positions, utilities

    def _cover(self, view):
        """The pairs within the radius, sparse (n_pool, n_pool), and what is covered, (n_pool,)."""
        features = view.features
        radius = median_distance(features) if self.radius is None else self.radius
        graph = pairs_within(features, radius)
        if not len(view.labelled):
            return graph, np.zeros(len(features), dtype=bool)
        labelled = view.labelled.astype(features.dtype, copy=False)
        nearest = pairwise_distances_argmin(features, labelled)
        return graph, paired_distances(features, labelled, nearest) <= radius


def median_distance(features):
    """Median distance to the k-th nearest neighbour, ``k = max(1, min(5, n // 20))``.

    Parameters
    ----------
    features : ndarray of shape (n, D)

    Returns
    -------
    float
        0 for a single instance.

    Examples
    --------
    >>> median_distance(np.array([[0.0], [1.0], [3.0]]))
    1.0
    """
    if len(features) < 2:
        return 0.0
    k = max(1, min(5, len(features) // 20))
    neighbors = NearestNeighbors(n_neighbors=k).fit(features).kneighbors(return_distance=False)
    return float(np.median(paired_distances(features, features, neighbors[:, -1])))


def pairs_within(features, radius):
    """Symmetric graph of the pairs that are at most a radius apart, each with itself.

    Parameters
    ----------
    features : ndarray of shape (n, D)
    radius : float

    Returns
    -------
    csr_matrix or csr_array of shape (n, n)
        1 for each such pair.

    Examples
    --------
    >>> pairs_within(np.array([[0.0], [1.0], [3.0]]), 1.0).toarray()
    array([[1., 1., 0.],
           [1., 1., 0.],
           [0., 0., 1.]])
    """
    # Squared distances come as |x|^2 + |y|^2 - 2 x.y: equal rows are up to this far apart.
    rounding = 1e-7 * np.sqrt(np.einsum("nd,nd->n", features, features).max())
    search = NearestNeighbors(radius=max(radius, float(rounding))).fit(features)
    graph = search.radius_neighbors_graph(features)
    return graph.maximum(graph.T).tocsr()
