"""Mutual information of a label and the weights."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from laplace_al._common.typing import RandomState, Rng
from laplace_al.strategies import scores
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._draws import scores_of_draws
from laplace_al.strategies._view import PoolView


class BALD(QueryStrategy):
    """Choose the instances whose label tells most about the weights.

    The utility is the mutual information of the label and the weights in nats,
    ``H(mean_s p_s) - mean_s H(p_s)`` over weights s drawn from the posterior, see
    :func:`laplace_al.strategies.scores.mutual_information`.
    Needs the posterior of a :class:`~laplace_al.LaplaceUpdateClassifier`, whose ``random_state``
    seeds the drawn weights.

    Parameters
    ----------
    n_samples : int, default=100
        Number of drawn weights.
    random_state : int, RandomState instance or None, default=None
        Breaks ties.
    verbose : int, default=0
        If positive, show a progress bar where a query takes more than a second.

    See Also
    --------
    laplace_al.strategies.batch_bald.BatchBALD : Counts information that the instances of a batch
        share only once.

    References
    ----------
    Houlsby, Huszar, Ghahramani and Lengyel, *Bayesian active learning for classification and
    preference learning*, arXiv 1112.5745, 2011.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import BALD
    >>> learner = LaplaceUpdateClassifier().fit([[-1.0, 0.0], [1.0, 0.0]], [0, 1])
    >>> BALD(random_state=0).query(learner, [[0.0, 0.0], [0.0, 4.0], [0.0, 0.5]], n_instances=2)
    array([1, 2])
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "verbose": ["verbose"],
    }

    is_pointwise = True

    def __init__(
        self, *, n_samples: int = 100, random_state: RandomState = None, verbose: int = 0
    ) -> None:
        super().__init__(random_state=random_state)
        self.n_samples = n_samples
        self.verbose = verbose

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return the mutual information of label and weights, (n_pool,)."""
        state = view.posterior_state(self)
        score = scores.mutual_information
        return scores_of_draws(state, self.n_samples, score, "BALD", self.verbose)
