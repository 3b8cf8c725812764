"""Uncertainty spread over all classes."""

from laplace_al.strategies import scores
from laplace_al.strategies._base import ProbabilityStrategy


class EntropySampling(ProbabilityStrategy):
    """Choose the instances whose predictions have the largest entropy.

    The utility is ``-sum_k p_k log p_k`` in nats, see :func:`laplace_al.strategies.scores.entropy`.
    Needs a learner with ``predict_proba``.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    References
    ----------
    Settles, *Active learning literature survey*, University of Wisconsin-Madison, 2009.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from laplace_al.strategies import EntropySampling
    >>> learner = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    >>> EntropySampling(random_state=0).query(learner, [[0.0], [0.45], [1.5]], n_instances=2)
    array([1, 0])
    """

    score = staticmethod(scores.entropy)
