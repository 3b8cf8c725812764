"""Information that a label gives about the labels of inputs that matter."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from laplace_al._common.typing import Instances, RandomState, Rng
from laplace_al.strategies import scores
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._view import PoolView


class EPIG(QueryStrategy):
    """Choose the instances whose label tells most about the labels of target inputs.

    The utility is the expected predictive information gain
    ``mean_j H(y) + H(y_j) - H(y, y_j)`` over the targets j, in nats, with joint
    probabilities ``mean_s p_s(y) p_s(y_j)`` over weights s drawn from the posterior, see
    :func:`laplace_al.strategies.scores.expected_information_gain_of_predictions`.
    In contrast, :class:`~laplace_al.strategies.bald.BALD` chooses whatever tells most about the
    weights, even if it matters only for inputs that will never be predicted.
    Needs the posterior of a :class:`~laplace_al.LaplaceUpdateClassifier`, whose ``random_state``
    seeds the drawn weights.

    Parameters
    ----------
    X_target : array-like of shape (n_targets, ...)
        Inputs, in the form that the learner takes, whose labels it should predict well: some
        hundred, drawn from the distribution on which it will be used.
    n_samples : int, default=100
        Number of drawn weights.
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    References
    ----------
    Bickford Smith, Kirsch, Farquhar, Gal, Foster and Rainforth, *Prediction-oriented Bayesian
    active learning*, AISTATS 2023.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import EPIG
    >>> learner = LaplaceUpdateClassifier().fit(
    ...     [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [0, 1])
    >>> pool = [[0.0, 9.0, 0.0], [0.0, 0.0, 2.0]]
    >>> EPIG([[0.0, 0.0, 1.0], [0.1, 0.0, 3.0]]).query(learner, pool)
    array([1])
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "X_target": "no_validation",  # whatever the extractor takes
        "n_samples": [Interval(Integral, 1, None, closed="left")],
    }

    is_pointwise = True

    def __init__(
        self, X_target: Instances, *, n_samples: int = 100, random_state: RandomState = None
    ) -> None:
        self.X_target = X_target
        self.n_samples = n_samples
        self.random_state = random_state

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return the mean mutual information with the label of a target, (n_pool,)."""
        state = view.posterior_state(self)
        targets = view.state_of(self.X_target).sample_proba(self.n_samples)
        return state.scores_of_draws(
            self.n_samples,
            lambda draws: scores.expected_information_gain_of_predictions(draws, targets),
        )
