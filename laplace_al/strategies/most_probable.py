"""The search for a rare class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplace_al._common.typing import RandomState, Rng
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._view import PoolView


class MostProbable(QueryStrategy):
    """Choose the instances that are most probably of one class.

    The utility is the probability of the class. Where that class is rare and the aim is to find its
    instances, rather than to learn the boundary, it finds the most of them. Needs a learner with
    ``predict_proba``.

    Parameters
    ----------
    label : label
        The class.
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    See Also
    --------
    laplace_al.loop.recall.EstimatedRecall : Says when enough of them are found.

    References
    ----------
    Lewis and Gale, *A sequential algorithm for training text classifiers*, SIGIR 1994 (relevance
    sampling).

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from laplace_al.strategies import MostProbable
    >>> learner = LogisticRegression().fit([[0.0], [1.0]], ["fraud", "other"])
    >>> MostProbable("fraud", random_state=0).query(learner, [[0.3], [-2.0], [1.5]], n_instances=2)
    array([1, 0])
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "label": "no_validation",  # one of the classes
    }
    is_pointwise = True
    reads_posterior = False
    reads_probabilities = True

    def __init__(self, label: Any, *, random_state: RandomState = None) -> None:
        super().__init__(random_state=random_state)
        self.label = label

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.floating]:
        """Return the probabilities of the class, (n_pool,)."""
        probabilities = view.predict_proba()
        classes = _classes(view)
        if self.label not in classes:
            raise ValueError(
                f"label must be one of the classes {classes}; got {self.label!r}. Teach an "
                "instance of that class first, or pass classes= to the learner."
            )
        return probabilities[:, classes.index(self.label)]


def _classes(view: PoolView) -> list[Any]:
    """Return the classes of the learner, in the order of its probabilities."""
    learner: Any = view.state
    if learner is None:
        learner = getattr(view.learner, "estimator_", view.learner)
    if not hasattr(learner, "classes_"):
        raise TypeError(
            f"MostProbable needs a classifier that names its classes_; got "
            f"{type(learner).__name__}. Give it that attribute."
        )
    return list(np.asarray(learner.classes_).tolist())
