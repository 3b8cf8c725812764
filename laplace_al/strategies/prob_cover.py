"""Cover as much of the pool as possible with balls around labelled instances."""

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from laplace_al._common.typing import Mask, RandomState
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._covering import CoveringStrategy
from laplace_al.strategies._distances import (
    Neighborhoods,
    covering_radius,
    distances_to_nearest,
)


class ProbCover(CoveringStrategy):
    """Choose, repeatedly, the instance whose ball contains the most uncovered instances.

    An instance is covered if its features are within ``radius`` of those of a labelled or chosen
    instance. Greedy choices cover at least 1 - 1/e of what the best batch would cover. Once all
    instances are covered, the rest is chosen at random.

    The utility is the number of instances of the pool that a label would newly cover,
    ``Σ_j [|φ_i - φ_j| <= radius] [j is not covered]``. Labelled instances are taken from an
    ActiveLearner (ours or modAL's); for any other learner there are none.

    Parameters
    ----------
    radius : float, default=None
        Radius of the balls. None: as many balls as there will be labels with the batch, L, may just
        hold all n instances without a label. It is the median distance to the k-th nearest
        neighbour among these, ``k = round(n / L)``, at least 1 and at most n - 1. Of more than 250
        instances, the median is over 250, evenly spread.
    random_state : int, RandomState instance or None, default=None
        Breaks ties, and draws from a large pool.

    Notes
    -----
    Of a large pool, some candidates compete, as in :class:`MaxHerding`.

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

    def similarity(
        self, features: NDArray[np.floating], is_labelled: Mask, n_labels: int
    ) -> "Balls":
        """Return the balls."""
        radius = self.radius
        if radius is None:
            radius = covering_radius(features[~is_labelled], n_labels)
        return Balls(features, radius)


class Balls:
    """Balls of a radius around n instances with features (n, D): 1 within, 0 outside.

    Examples
    --------
    >>> Balls(np.array([[0.0], [1.0], [3.0]]), 1.0).between(np.array([1]))
    array([[1., 1., 0.]], dtype=float32)
    """

    def __init__(self, features: NDArray[np.floating], radius: float) -> None:
        self.features, self.radius = features, radius
        self._neighborhoods = Neighborhoods(features)

    def between(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return whether each is within those of m instances, (m, n)."""
        return self._neighborhoods.balls(self.radius, rows).astype(np.float32)

    def to_nearest(self, others: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return whether each is within one of others (m, D), (n,)."""
        is_within = distances_to_nearest(self.features, others) <= self.radius
        return is_within.astype(np.float32)
