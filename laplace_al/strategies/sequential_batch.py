"""Batches built label by label, before any of their labels is known."""

import numbers
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from laplace_al._common.typing import Choice, Mask, RandomState, Rng
from laplace_al.model.pool_state import PoolState
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._view import PoolView


class SequentialBatch(QueryStrategy):
    """Build a batch one instance at a time, with a posterior that learns imagined labels.

    The individually best instances often resemble each other. Here, each choice of the wrapped
    strategy is followed by a Bayesian update with a label that the model imagines. The model that
    makes the next choice has thus already learnt from the previous ones. Needs the posterior of a
    LaplaceUpdateClassifier. :class:`laplace_al.ActiveLearner` does the same with true labels, one
    at a time, with ``query(1)`` and ``teach``.

    Parameters
    ----------
    strategy : QueryStrategy
        Chooses each instance. Its own ``random_state`` is not used.
    labels : {"predicted", "sampled", "expected"}, default="predicted"
        What the posterior learns from a chosen instance: ``"predicted"``, its most probable label;
        ``"sampled"``, a label drawn from its prediction, as in the paper; ``"expected"``, only that
        it will have some label, so that variances shrink and means stay.
    update_every : int, default=1
        Number of instances chosen between two updates.
    random_state : int, RandomState instance or None, default=None
        Draws labels and breaks ties.

    Notes
    -----
    In our study (batches of 10 and 50, four data sets, 30 seeds) it improves entropy, least
    confident, variance sampling, BALD and EPIG, by up to three points. Margin sampling and BAIT
    gain nothing, and BADGE, whose batches are diverse already, loses. ``labels="predicted"`` was as
    good as ``"sampled"`` or better, except for variance sampling on one data set.

    References
    ----------
    Huseljic et al., *Efficient Bayesian Updates for Deep (Active) Learning via Laplace
    Approximations*, arXiv 2210.06112.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import MarginSampling, SequentialBatch
    >>> clf = LaplaceUpdateClassifier().fit([[-1.0, 0.0], [1.0, 0.0]], [0, 1])
    >>> pool = [[0.1, 3.0], [0.1, 3.0], [0.3, -3.0], [5.0, 0.0]]
    >>> batch = SequentialBatch(MarginSampling(), random_state=0)
    >>> sorted(batch.query(clf, pool, n_instances=2).tolist()) in ([0, 2], [1, 2])
    True
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "strategy": [QueryStrategy],
        "labels": [StrOptions({"sampled", "predicted", "expected"})],
        "update_every": [Interval(numbers.Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        strategy: QueryStrategy,
        *,
        labels: Literal["predicted", "sampled", "expected"] = "predicted",
        update_every: int = 1,
        random_state: RandomState = None,
    ) -> None:
        super().__init__(random_state=random_state)
        self.strategy = strategy
        self.labels = labels
        self.update_every = update_every

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.floating]:
        """Return the utilities of the wrapped strategy before any choice, (n_pool,)."""
        return self.strategy.utilities(view, rng)

    def choose(self, view: PoolView, n_instances: int, candidates: Mask, rng: Rng) -> Choice:
        """Choose and learn imagined labels in turn."""
        self.strategy._validate_params()
        state = view.posterior_state(self).copy()
        now, is_open = view, candidates.copy()
        positions, utilities = np.empty(0, dtype=np.int64), np.empty(0)
        while len(positions) < n_instances:
            n_more = min(self.update_every, n_instances - len(positions))
            chosen, found = self.strategy.choose(now, n_more, is_open, rng)
            utilities = utilities if len(positions) else found  # before any choice
            positions = np.concatenate([positions, chosen])
            is_open[chosen] = False
            if len(positions) < n_instances:
                for position in chosen:
                    state.observe(position, self._imagined(state, position, rng))
                now = view.after(positions, state)
        return positions, utilities

    def _imagined(self, state: PoolState, position: int, rng: Rng) -> Any:
        if self.labels == "expected":
            return None
        probabilities = state.predict_proba([position])[0]
        if self.labels == "predicted":
            return state.classes_[probabilities.argmax()]
        return state.classes_[rng.choice(len(probabilities), p=probabilities / probabilities.sum())]
