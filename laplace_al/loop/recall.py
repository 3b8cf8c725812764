"""A stopping rule for the search of a rare class."""

from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval

from laplace_al.loop.learner import ActiveLearner
from laplace_al.loop.stopping import StoppingRule
from laplace_al.strategies._view import LearnerView


class EstimatedRecall(StoppingRule):
    """Stop when enough instances of a rare class are estimated to be found.

    Of a class, ``n`` instances of the pool are labelled so. The others are not known, but their
    probabilities p are: with calibrated ones, ``sum p`` of them are expected to be of the class,
    with the variance ``sum p (1 - p)``. The recall is at least

        n / (n + sum p + n_std sqrt(sum p (1 - p)))

    if that number is not exceeded. A model of few labels is not calibrated for a class that it has
    hardly seen: let the search begin with some random instances.

    Parameters
    ----------
    label : label
        The rare class.
    recall : float, default=0.95
        Share of the instances of the class to find, in (0, 1].
    n_std : float, default=2.0
        How many standard deviations above its mean the number of those not found is taken to be.

    Attributes
    ----------
    recalls_ : list of float
        Estimate after each new model.

    References
    ----------
    Yang, Lewis and Frieder, *Heuristic stopping rules for technology-assisted review*, DocEng 2021.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
    >>> from laplace_al.loop.recall import EstimatedRecall
    >>> from laplace_al.strategies import MarginSampling
    >>> X, y = load_iris(return_X_y=True)
    >>> learner = ActiveLearner(LaplaceUpdateClassifier(), MarginSampling(), X,
    ...                         X_initial=X[::50], y_initial=y[::50], random_state=0)
    >>> learner = learner.teach(range(0, 150, 5), y[::5])
    >>> EstimatedRecall(0).should_stop(learner)
    False
    """

    _parameter_constraints: dict[str, Any] = {
        "label": "no_validation",  # one of the classes
        "recall": [Interval(Real, 0, 1, closed="right")],
        "n_std": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, label: Any, *, recall: float = 0.95, n_std: float = 2.0) -> None:
        self.label = label
        self.recall = recall
        self.n_std = n_std

    def on_new_model(self, learner: ActiveLearner) -> None:
        """Estimate the recall under a new model."""
        self.recalls_ = [*getattr(self, "recalls_", []), self.estimate(learner)]

    def is_enough(self, learner: ActiveLearner) -> bool:
        """Return whether the last estimate has reached the recall that is wanted."""
        return getattr(self, "recalls_", [0.0])[-1] >= self.recall

    def estimate(self, learner: ActiveLearner) -> float:
        """Return the share of the instances of the class in the pool that are found at least.

        Raises ValueError if the class is not among those of the model.
        """
        classes = learner.estimator_.classes_.tolist()
        if self.label not in classes:
            raise ValueError(
                f"label must be one of the classes {classes}; got {self.label!r}. Teach one of "
                "that class first, or pass classes= to the learner."
            )
        labelled = learner.consensus_.dropna(subset="position")
        n_found = int((labelled.label == self.label).sum())
        unknown = np.ones(len(learner.is_open), dtype=bool)
        unknown[labelled.position.to_numpy(np.int64)] = False
        p = LearnerView(learner, learner.X_pool).predict_proba()[unknown, classes.index(self.label)]
        n_left = p.sum() + self.n_std * np.sqrt((p * (1 - p)).sum())
        return float(n_found / (n_found + n_left)) if n_found else 0.0
