"""The baseline that every strategy must beat."""

import numpy as np
from numpy.typing import NDArray

from laplace_al._common.typing import Rng
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._view import PoolView


class RandomSampling(QueryStrategy):
    """Choose instances uniformly at random. Needs nothing from the learner.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Draws the instances. An int draws the same positions from pools of the same size.

    Examples
    --------
    >>> from laplace_al.strategies import RandomSampling
    >>> RandomSampling(random_state=0).query(None, [[0.0], [1.0], [2.0]], n_instances=2)
    array([1, 0])
    """

    is_pointwise = True
    reads_posterior = False

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return zeros, (n_pool,)."""
        return np.zeros(len(view))  # all tied, and ties are broken at random
