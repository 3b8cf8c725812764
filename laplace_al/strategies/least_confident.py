"""Uncertainty about the most probable class."""

from laplace_al.strategies import scores
from laplace_al.strategies._base import ProbabilityStrategy


class LeastConfidentSampling(ProbabilityStrategy):
    """Choose the instances whose most probable class is least probable.

    The utility is ``1 - max_k p_k``, see :func:`laplace_al.strategies.scores.least_confident`.
    Needs a learner with ``predict_proba``.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    References
    ----------
    Lewis and Gale, *A sequential algorithm for training text classifiers*, SIGIR 1994.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from laplace_al.strategies import LeastConfidentSampling
    >>> learner = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    >>> LeastConfidentSampling(random_state=0).query(learner, [[0.0], [0.45], [1.5]], n_instances=2)
    array([1, 0])
    """

    score = staticmethod(scores.least_confident)
