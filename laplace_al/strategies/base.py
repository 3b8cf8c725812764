"""What every query strategy shares: validation, ranking and the two ways to call it."""

import inspect
import numbers
from abc import ABC, abstractmethod

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples

from laplace_al.strategies.view import PoolView


class QueryStrategy(ABC, BaseEstimator):
    """Base of the strategies that choose which instances of a pool to label.

    A subclass says how useful each instance is, in ``utilities(view, rng)``, and one whose choices
    depend on each other overrides ``choose(view, n_instances, candidates, rng)`` as well.
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

    def query(self, learner, X_pool, n_instances=1, *, candidates=None, return_utilities=False):
        """Choose instances of the pool.

        Parameters
        ----------
        learner : ActiveLearner, classifier, or modAL's ActiveLearner or Committee
            What the strategies see of the model; most need its ``predict_proba``.
        X_pool : array-like of shape (n_pool, ...)
            Unlabelled instances.
        n_instances : int, default=1
            How many to choose, at most the number of candidates.
        candidates : array-like of bool of shape (n_pool,), default=None
            Which instances may be chosen; the others still count as part of the pool. None: all.
        return_utilities : bool, default=False
            Whether to return the utilities of the whole pool as well.

        Returns
        -------
        positions : ndarray of shape (n_instances,), dtype int64
            Distinct positions in ``X_pool``, best first.
        utilities : ndarray of shape (n_pool,)
            Only if ``return_utilities``: larger is better, and -inf for what is no candidate.
            Where choices depend on each other, those before the first choice.

        Raises
        ------
        ValueError
            If there are fewer candidates than ``n_instances``, or a utility is NaN.
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
        candidates = check_candidates(candidates, _num_samples(X_pool))
        n_instances = check_n_instances(n_instances, int(candidates.sum()))
        rng = check_random_state(self.random_state)
        view = PoolView(learner, X_pool)
        positions, utilities = self.choose(view, n_instances, candidates, rng)
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

    def choose(self, view, n_instances, candidates, rng):
        """Choose from what is seen of a pool: the candidates of the largest utilities.

        Parameters
        ----------
        view : PoolView
        n_instances : int
            At most the number of candidates.
        candidates : ndarray of bool of shape (n_pool,)
        rng : RandomState

        Returns
        -------
        positions : ndarray of shape (n_instances,)
            Distinct, best first.
        utilities : ndarray of shape (n_pool,)

        Examples
        --------
        >>> from laplace_al.strategies import RandomSampling
        >>> view, rng = PoolView(None, [[0.0], [1.0], [2.0]]), np.random.RandomState(0)
        >>> RandomSampling().choose(view, 1, np.array([False, False, True]), rng)[0]
        array([2])
        """
        utilities = self.candidate_utilities(view, candidates, rng)
        return best(utilities, n_instances, rng), utilities

    def candidate_utilities(self, view, candidates, rng):
        """Utilities of the pool, checked: -inf for what is no candidate.

        Parameters
        ----------
        view : PoolView
        candidates : ndarray of bool of shape (n_pool,)
        rng : RandomState

        Returns
        -------
        ndarray of shape (n_pool,)

        Raises
        ------
        ValueError
            If a utility of a candidate is NaN.

        Examples
        --------
        >>> from laplace_al.strategies import RandomSampling
        >>> view, rng = PoolView(None, [[0.0], [1.0]]), np.random.RandomState(0)
        >>> RandomSampling().candidate_utilities(view, np.array([True, False]), rng)
        array([  0., -inf])
        """
        utilities = np.array(self.utilities(view, rng), dtype=np.float64)
        utilities[~candidates] = -np.inf
        if np.isnan(utilities).any():
            raise ValueError(
                f"{type(self).__name__} got NaN utilities for {np.isnan(utilities).sum()} of "
                f"{len(utilities)} instances; the learner's predict_proba must be finite."
            )
        return utilities

    @abstractmethod
    def utilities(self, view, rng):
        """Utility of each instance of the pool on its own, (n_pool,), larger is better."""


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

    def utilities(self, view, rng):
        """The score of the probabilities, (n_pool,)."""
        return type(self).score(view.predict_proba())


def check_candidates(candidates, n_pool):
    """Which instances may be chosen, as a mask over the pool.

    Parameters
    ----------
    candidates : array-like of bool of shape (n_pool,) or None
    n_pool : int

    Returns
    -------
    ndarray of bool of shape (n_pool,)

    Raises
    ------
    ValueError
        If it is not such a mask.

    Examples
    --------
    >>> check_candidates(None, 2)
    array([ True,  True])
    """
    if candidates is None:
        return np.ones(n_pool, dtype=bool)
    candidates = np.asarray(candidates)
    if candidates.dtype != bool or candidates.shape != (n_pool,):
        raise ValueError(
            f"candidates must be a mask of {n_pool} booleans, one for each row of X_pool; got "
            f"{candidates.dtype} of shape {candidates.shape}. Positions p become one by "
            "numpy.isin(numpy.arange(n_pool), p)."
        )
    return candidates


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
        raise ValueError("The pool is empty: X_pool has no candidate left to query.")
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
    utilities = utilities[shuffled]
    last = np.partition(utilities, -n_instances)[-n_instances]
    better, equal = np.flatnonzero(utilities > last), np.flatnonzero(utilities == last)
    chosen = np.concatenate([better, equal[: n_instances - len(better)]])
    return shuffled[chosen[np.argsort(-utilities[chosen], kind="stable")]]
