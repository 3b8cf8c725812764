"""Cover the pool smoothly with what is labelled."""

import numpy as np
from numpy.typing import NDArray

from laplace_al._common.typing import Choice, Mask, Rng
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._distances import covering_radius
from laplace_al.strategies._herding import Kernel, herd
from laplace_al.strategies._ranking import draw_seed, leaders_among
from laplace_al.strategies._view import PoolView


class MaxHerding(QueryStrategy):
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
        Breaks ties, and draws the candidates of a large pool.

    Notes
    -----
    σ falls as labels come in: it is the median distance to the k-th nearest neighbour among the n
    instances without a label, ``k = round(n / L)``, at least 1 and at most n - 1, where L is the
    number of labels with the batch. Of more than 500 instances, the median is over 500, evenly
    spread.

    If n is large, only some of the candidates compete, drawn at random: ``max(10 b, 2**25 // n)``
    for a batch of b. The utilities of the others are -inf; they are still part of the pool that is
    to be covered. Memory is 4 bytes for each pair of a competing candidate and an instance of the
    pool, and a copy of the features.

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

    def weights(self, view: PoolView) -> NDArray[np.floating]:
        """Return how much each instance counts, (n_pool,)."""
        return np.ones(len(view))

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return what each would add to the similarity of the pool to labels, (n_pool,)."""
        return self.candidate_utilities(view, np.ones(len(view), dtype=bool), rng)

    def candidate_utilities(
        self, view: PoolView, candidates: Mask, rng: Rng
    ) -> NDArray[np.float64]:
        """Return those of the candidates that compete, -inf for all others."""
        return self.choose(view, 1, candidates, rng)[1]

    def choose(self, view: PoolView, n_instances: int, candidates: Mask, rng: Rng) -> Choice:
        """Herd greedily; where nothing is gained, the largest weights come first."""
        is_labelled, features = view.is_labelled, view.features
        weights = self._without_nan(np.where(is_labelled, 0.0, self.weights(view)))
        n_competing = max(10 * n_instances, _FEW_PAIRS // len(view))
        competing = leaders_among(weights, candidates, n_competing, draw_seed(rng)).positions
        n_labels = len(view.labelled_positions) + n_instances
        kernel = Kernel(features, covering_radius(features[~is_labelled], n_labels))
        covered, weights = kernel.to_nearest(view.labelled), weights.astype(np.float32)
        places, gains = herd(kernel.between(competing), weights, covered, n_instances)
        utilities = np.full(len(view), -np.inf)
        utilities[competing] = gains
        return competing[places], utilities


_FEW_PAIRS = 2**25  # of which similarities take half a second
