"""What every query strategy shares: validation, ranking and the two ways to call it."""

import inspect
import numbers
from abc import ABC, abstractmethod

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples


class QueryStrategy(ABC, BaseEstimator):
    """Base of the strategies that choose which instances of a pool to label.

    A subclass says how useful each instance is, in ``_utilities(learner, X_pool, rng)``.
    A strategy holds parameters only; it changes neither the learner nor the pool.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Breaks ties. An int gives the same answer to the same question every time.

    Examples
    --------
    >>> from laplace_al.strategies import MarginSampling
    >>> MarginSampling(random_state=0)
    MarginSampling(random_state=0)
    """

    _parameter_constraints: dict = {"random_state": ["random_state"]}

    def __init__(self, *, random_state=None):
        self.random_state = random_state

    def query(self, learner, X_pool, n_instances=1, *, return_utilities=False):
        """Choose instances of the pool.

        Parameters
        ----------
        learner : ActiveLearner, classifier, or modAL's ActiveLearner or Committee
            What the strategies see of the model; most need its ``predict_proba``.
        X_pool : array-like of shape (n_pool, ...)
            Unlabelled instances.
        n_instances : int, default=1
            How many to choose, at most ``n_pool``.
        return_utilities : bool, default=False
            Whether to return the utilities of the whole pool as well.

        Returns
        -------
        positions : ndarray of shape (n_instances,), dtype int64
            Distinct positions in ``X_pool``, best first.
        utilities : ndarray of shape (n_pool,)
            Only if ``return_utilities``: larger is better.

        Raises
        ------
        ValueError
            If the pool is empty or smaller than ``n_instances``, or a utility is NaN.
        TypeError
            If ``n_instances`` is not an integer or the learner lacks what the strategy needs.

        Examples
        --------
        >>> from sklearn.linear_model import LogisticRegression
        >>> from laplace_al.strategies import MarginSampling
        >>> learner = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
        >>> MarginSampling(random_state=0).query(learner, [[0.0], [0.45], [1.0]])
        array([1])
        """
        self._validate_params()
        n_pool = _num_samples(X_pool)
        n_instances = check_n_instances(n_instances, n_pool)
        rng = check_random_state(self.random_state)
        utilities = np.asarray(self._utilities(learner, X_pool, rng), dtype=np.float64)
        if np.isnan(utilities).any():
            raise ValueError(
                f"{type(self).__name__} got NaN utilities for {np.isnan(utilities).sum()} of "
                f"{n_pool} instances; the learner's predict_proba must be finite."
            )
        positions = best(utilities, n_instances, rng)
        return (positions, utilities) if return_utilities else positions

    def __call__(self, learner, X_pool, n_instances=1):
        """Call as a modAL query strategy, see :meth:`query`.

        Returns
        -------
        ndarray of shape (n_instances,), or (positions, utilities)
            What the version of modAL that the learner is of unpacks: positions and the
            utilities of those positions if its ``query`` has ``return_metrics``.
        """
        positions, utilities = self.query(learner, X_pool, n_instances, return_utilities=True)
        query = getattr(type(learner), "query", None)
        if query and "return_metrics" in inspect.signature(query).parameters:
            return positions, utilities[positions]
        return positions

    @abstractmethod
    def _utilities(self, learner, X_pool, rng):
        """Utility of each instance of the pool, (n_pool,), larger is better."""


class ProbabilityStrategy(QueryStrategy):
    """Base of the strategies whose utility is a function of ``predict_proba`` alone.

    A subclass names its function of :mod:`laplace_al.scores` as ``score``. Works with
    any classifier that predicts probabilities.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    Examples
    --------
    >>> from laplace_al.strategies import EntropySampling
    >>> isinstance(EntropySampling(), ProbabilityStrategy)
    True
    """

    score = None

    def _utilities(self, learner, X_pool, rng):
        if not hasattr(learner, "predict_proba"):
            raise TypeError(
                f"{type(self).__name__} needs a learner with predict_proba; got "
                f"{type(learner).__name__}. Wrap it in CalibratedClassifierCV, or use "
                "RandomSampling."
            )
        return type(self).score(learner.predict_proba(X_pool))


def check_n_instances(n_instances, n_pool):
    """Number of instances to query as an int between 1 and the size of the pool.

    Parameters
    ----------
    n_instances : int
    n_pool : int

    Returns
    -------
    int

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is not positive or exceeds the pool, or the pool is empty.

    Examples
    --------
    >>> check_n_instances(2, 10)
    2
    """
    if not isinstance(n_instances, numbers.Integral) or isinstance(n_instances, bool):
        raise TypeError(f"n_instances must be an integer >= 1; got {n_instances!r}.")
    if n_pool == 0:
        raise ValueError("The pool is empty: X_pool has no instance left to query.")
    if not 1 <= n_instances <= n_pool:
        raise ValueError(
            f"n_instances must be between 1 and the size of the pool, {n_pool}; got {n_instances}."
        )
    return int(n_instances)


def best(utilities, n_instances, rng):
    """Positions of the largest utilities, best first, ties in random order.

    Parameters
    ----------
    utilities : ndarray of shape (n,)
    n_instances : int
    rng : RandomState

    Returns
    -------
    ndarray of shape (n_instances,)

    Examples
    --------
    >>> best(np.array([0.1, 0.3, 0.2]), 2, np.random.RandomState(0))
    array([1, 2])
    """
    shuffled = rng.permutation(len(utilities))
    order = np.argsort(-utilities[shuffled], kind="stable")
    return shuffled[order[:n_instances]]
