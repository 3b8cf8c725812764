"""Cover as much of the pool as possible with balls around labelled instances."""

from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.utils._param_validation import Interval

from laplace_al._common.typing import Choice, Mask, RandomState, Rng
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._distances import (
    Neighborhoods,
    covering_radius,
    distances_to_nearest,
)
from laplace_al.strategies._ranking import best
from laplace_al.strategies._view import PoolView


class ProbCover(QueryStrategy):
    """Choose, repeatedly, the instance whose ball contains the most uncovered instances.

    An instance is covered if its features are within ``radius`` of those of a labelled or chosen
    instance. Greedy choices cover at least 1 - 1/e of what the best batch would cover. Once all
    instances are covered, the rest is chosen at random.

    The utility is the number of instances of the pool that a label would newly cover,
    ``Σ_j [|φ_i - φ_j| <= radius] [j is not covered]``. Memory is at most that of a few copies of
    the features: pairs within the radius are stored if they are few, else recomputed when they are
    needed. Labelled instances are taken from an ActiveLearner (ours or modAL's); for any other
    learner there are none.

    Parameters
    ----------
    radius : float, default=None
        Radius of the balls. None: as many balls as there will be labels with the batch, L, may just
        hold all n instances without a label. It is the median distance to the k-th nearest
        neighbour among these, ``k = round(n / L)``, at least 1 and at most n - 1. Of more than 500
        instances, the median is over 500, evenly spread.
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    Notes
    -----
    The authors take the largest radius at which 95 % of the balls lie within one k-means cluster,
    for which the number of classes must be known. scikit-activeml's ``ProbCover`` does so among a
    few radii for features of unit length, and treats all instances that are not candidates as
    labelled.

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

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "radius": [Interval(Real, 0, None, closed="neither"), None],
    }

    def __init__(self, *, radius: float | None = None, random_state: RandomState = None) -> None:
        super().__init__(random_state=random_state)
        self.radius = radius

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return the number of instances that each would newly cover, (n_pool,)."""
        return self._balls(view, 1).gains

    def choose(self, view: PoolView, n_instances: int, candidates: Mask, rng: Rng) -> Choice:
        """Cover greedily."""
        balls = self._balls(view, n_instances)
        utilities = np.where(candidates, balls.gains, -np.inf)
        free, positions = candidates.copy(), np.empty(n_instances, dtype=np.int64)
        for i in range(n_instances):
            positions[i] = chosen = best(np.where(free, balls.gains, -np.inf), 1, rng)[0]
            free[chosen] = False
            balls.cover(chosen)
        return positions, utilities

    def _balls(self, view: PoolView, n_instances: int) -> "Balls":
        radius = self.radius
        if radius is None:
            n_labels = len(view.labelled_positions) + n_instances
            radius = covering_radius(view.features[~view.is_labelled], n_labels)
        is_covered = distances_to_nearest(view.features, view.labelled) <= radius
        return Balls(Neighborhoods(view.features), radius, is_covered)


class Balls:
    """Balls of a radius around all n instances of a pool, some of which are covered.

    ``gains`` (n,) counts the uncovered instances within each ball, its centre included.

    Examples
    --------
    >>> near = Neighborhoods(np.array([[0.0], [1.0], [3.0]]))
    >>> balls = Balls(near, 1.0, np.zeros(3, dtype=bool))
    >>> balls.gains
    array([2., 2., 1.])
    >>> balls.cover(0).gains
    array([0., 0., 1.])
    """

    def __init__(self, neighborhoods: Neighborhoods, radius: float, covered: Mask) -> None:
        self.neighborhoods, self.radius, self.covered = neighborhoods, radius, covered
        n, free = len(covered), (~covered).astype(np.float64)
        self.gains, pairs, n_left = free.copy(), [], neighborhoods.features.size // 4
        for first, second in neighborhoods.pairs_within(radius):
            self.gains += np.bincount(first, free[second], n) + np.bincount(second, free[first], n)
            n_left -= len(first)
            if n_left >= 0:
                pairs.append((first, second))
            else:
                pairs.clear()
        self._graph = _symmetric(pairs, n) if n_left >= 0 else None

    def cover(self, chosen: int) -> Self:
        """Cover all in the ball of an instance, and return these balls."""
        if self.gains[chosen]:
            new = np.flatnonzero((self._n_holding(np.array([chosen])) > 0) & ~self.covered)
            self.covered[new] = True
            self.gains -= self._n_holding(new)
        return self

    def _n_holding(self, rows: NDArray[np.int64]) -> NDArray[np.integer]:
        """Count those of some instances that each ball holds, (n,)."""
        if self._graph is not None:
            return self._graph[rows].sum(axis=0)
        held = np.bincount(rows, minlength=len(self.covered))
        for _, second in self.neighborhoods.pairs_within(self.radius, rows):
            held += np.bincount(second, minlength=len(self.covered))
        return held


def _symmetric(pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]], n: int) -> csr_array:
    """Graph of pairs, in both orders, and of each node with itself, sparse (n, n)."""
    nodes = np.arange(n)
    first = np.concatenate([nodes, *(pair[0] for pair in pairs)]).astype(np.int32)
    second = np.concatenate([nodes, *(pair[1] for pair in pairs)]).astype(np.int32)
    first, second = np.concatenate([first, second[n:]]), np.concatenate([second, first[n:]])
    return csr_array((np.ones(len(first), dtype=np.int32), (first, second)), shape=(n, n))
