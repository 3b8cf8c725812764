"""Cover what the model is uncertain of."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.exceptions import NotFittedError

from laplace_al.strategies import scores
from laplace_al.strategies._view import PoolView
from laplace_al.strategies.max_herding import MaxHerding


class UncertaintyHerding(MaxHerding):
    """Choose, repeatedly, the instance that is most similar to uncertain ones not yet covered.

    An instance x of the pool counts by its uncertainty ``u_x``. It is covered by the largest
    similarity to a labelled or chosen instance, ``c_x``, with ``κ(i, j) = exp(-|φ_i - φ_j|² /
    σ²)``. The utility of j is ``Σ_x u_x max(0, κ(x, j) - c_x)``. With few labels, σ and u are large
    and batches cover the pool; with more labels, they go where predictions are uncertain.

    ``u_x = 1 - (p_(1) - p_(2))`` of the calibrated probabilities of a
    :class:`~laplace_al.LaplaceUpdateClassifier`. Those of other classifiers, or without
    ``calibration``, may be far too sure of themselves, so only their ranks count: ``u_x = (rank /
    n)⁴``, where the most uncertain of n instances without a label has rank n. ``u_x = 1`` while
    there is no model or it knows a single class, as in :class:`MaxHerding`.

    Needs a learner with ``predict_proba``, fitted or not. Labelled instances are taken from an
    ActiveLearner (ours or modAL's); for any other learner there are none.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    Notes
    -----
    σ is that of :class:`MaxHerding`; the authors take the smallest distance between labelled
    instances. Of a large pool, some candidates compete, as there.

    References
    ----------
    Bae, Oliveira and Sutherland, *Uncertainty herding: one active learning method for all label
    budgets*, ICLR 2025.

    Examples
    --------
    >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
    >>> from laplace_al.strategies import UncertaintyHerding
    >>> pool = [[-3.0], [-2.9], [-0.2], [0.1], [0.2], [2.9], [3.0]]
    >>> learner = ActiveLearner(
    ...     LaplaceUpdateClassifier(), UncertaintyHerding(), pool, random_state=0
    ... )
    >>> learner.teach([0, 6], ["low", "high"]).query()
    array([3])
    """

    reads_probabilities = True

    def weights(self, view: PoolView) -> NDArray[np.floating]:
        """Return the uncertainty of each instance, (n_pool,)."""
        try:
            state, probabilities = view.state, view.predict_proba()
        except NotFittedError:
            return np.ones(len(view))
        if np.shape(probabilities)[1] < 2:
            return np.ones(len(view))
        margin = scores.margin(probabilities)
        if state is not None and state.model.rules.calibration is not None:
            return margin
        is_open = ~view.is_labelled
        weights = np.zeros(len(view))
        weights[is_open] = (rankdata(margin[is_open]) / max(1, is_open.sum())) ** 4
        return weights
