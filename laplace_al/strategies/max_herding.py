"""Cover the pool smoothly with what is labelled."""

import numpy as np
from numpy.typing import NDArray

from laplace_al._common.typing import Mask
from laplace_al.strategies._covering import CoveringStrategy
from laplace_al.strategies._distances import covering_radius
from laplace_al.strategies._herding import Kernel


class MaxHerding(CoveringStrategy):
    """Choose, repeatedly, the instance that raises the mean similarity of the pool to labels most.

    The similarity of two instances is ``κ(i, j) = exp(-|φ_i - φ_j|² / σ²)``, and an instance x is
    covered by the largest similarity to a labelled or chosen one, ``c_x``, which is 0 if there is
    none. The utility of j is ``Σ_x max(0, κ(x, j) - c_x)`` over the pool. Greedy choices reach at
    least 1 - 1/e of what the best batch would.

    Predictions do not matter, so it works before there is a model. Where some classes are rare, few
    labels go to them, and it ends below :class:`MarginSampling`: use :class:`UncertaintyHerding`
    there. Labelled instances are taken from an ActiveLearner (ours or modAL's); for any other
    learner there are none.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Breaks ties, and draws from a large pool.

    Notes
    -----
    σ falls as labels come in: it is the median distance to the k-th nearest neighbour among the n
    instances without a label, ``k = round(n / L)``, at least 1 and at most n - 1, where L is the
    number of labels with the batch. Of more than 250 instances, the median is over 250, evenly
    spread.

    If n is large, only ``max(10 b, min(2**25, 2**21 + 2**19 b) // n)`` candidates compete for a
    batch of b; the whole pool is still to be covered. They are those that would be chosen, or gain
    most, if 512 instances that are not covered yet, or 256 for a single query, were the pool. The
    utilities of the others are -inf. Memory is 4 bytes for each pair of a competing candidate and
    an instance of the pool, 4 kB for each instance, and a copy of the features.

    References
    ----------
    Bae, Noh and Sutherland, *Generalized coverage for more robust low-budget active learning*,
    ECCV 2024.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import MaxHerding
    >>> learner = LaplaceUpdateClassifier().fit([[0.0], [9.0]], [0, 1])
    >>> pool = [[0.0], [0.2], [0.4], [5.0], [5.2], [5.4], [9.0], [9.2], [9.4]]
    >>> MaxHerding(random_state=0).query(learner, pool, n_instances=3) // 3  # one of each three
    array([1, 0, 2])
    """

    def similarity(
        self, features: NDArray[np.floating], is_labelled: Mask, n_labels: int
    ) -> Kernel:
        """Return the Gaussian kernel."""
        return Kernel(features, covering_radius(features[~is_labelled], n_labels))
