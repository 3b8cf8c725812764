"""Uncertainty between the two most probable classes."""

from laplace_al.strategies import scores
from laplace_al.strategies._base import ProbabilityStrategy


class MarginSampling(ProbabilityStrategy):
    """Choose the instances whose two most probable classes are closest.

    The utility is ``1 - (p_(1) - p_(2))``, see :func:`laplace_al.strategies.scores.margin`.
    Needs a learner with ``predict_proba``.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    References
    ----------
    Scheffer, Decomain and Wrobel, *Active hidden Markov models for information extraction*,
    IDA 2001.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from laplace_al.strategies import MarginSampling
    >>> learner = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    >>> MarginSampling(random_state=0).query(learner, [[0.0], [0.45], [1.5]], n_instances=2)
    array([1, 0])
    """

    score = staticmethod(scores.margin)
