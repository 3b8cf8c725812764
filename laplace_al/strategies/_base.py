"""The base class of query strategies, which validates, ranks and calls."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, cast, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples

from laplace_al._common.typing import Choice, Inputs, Instances, Mask, RandomState, Rng
from laplace_al.strategies._checks import check_candidates, check_n_instances
from laplace_al.strategies._passes import choose_from_blocks, reads_in_blocks
from laplace_al.strategies._view import LearnerView, PoolView


class QueryStrategy(ABC, BaseEstimator):
    """Base of the strategies that choose which instances of a pool to label.

    A subclass computes how useful each instance is in ``utilities(view, rng)``. If its choices
    depend on each other, it also overrides ``choose(view, n_instances, candidates, rng)``. It may
    state what it needs, by class attributes or properties:

    * ``is_pointwise = True``: the utility of an instance depends on no other instance of the pool
      and draws nothing from ``rng``. The pool may then come in blocks.
    * ``reads_blocks = True``: ``choose`` only asks the view which instances another strategy ranks
      first, and then for that part, as :class:`~laplace_al.strategies.Preselection` does. True for
      all that are pointwise.
    * ``reads_posterior = False``: ``utilities`` uses only the length, features, probabilities and
      variances of the view. The posterior is then not sent to the workers of a cluster.
    * ``reads_probabilities = True``: ``utilities`` calls ``view.predict_proba()``. An
      ``ActiveLearner`` then refuses an estimator without that method when it is made.

    A strategy holds only parameters; it changes neither the learner nor the pool.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Breaks ties. With an int, the same query always returns the same instances.

    Examples
    --------
    >>> from laplace_al.strategies import MarginSampling
    >>> MarginSampling(random_state=0)
    MarginSampling(random_state=0)
    """

    _parameter_constraints: dict[str, Any] = {"random_state": ["random_state"]}

    def __init__(self, *, random_state: RandomState = None) -> None:
        self.random_state = random_state

    is_pointwise = False
    reads_posterior = True
    reads_probabilities = False

    @property
    def reads_blocks(self) -> bool:
        """Return whether the pool may come in blocks."""
        return self.is_pointwise

    @overload
    def query(
        self,
        learner: Any,
        X_pool: Inputs,
        n_instances: int = 1,
        *,
        candidates: ArrayLike | None = None,
        return_utilities: Literal[False] = False,
    ) -> NDArray[np.int64]: ...

    @overload
    def query(
        self,
        learner: Any,
        X_pool: Inputs,
        n_instances: int = 1,
        *,
        candidates: ArrayLike | None = None,
        return_utilities: Literal[True],
    ) -> Choice: ...

    def query(
        self,
        learner: Any,
        X_pool: Inputs,
        n_instances: int = 1,
        *,
        candidates: ArrayLike | None = None,
        return_utilities: bool = False,
    ) -> NDArray[np.int64] | Choice:
        """Choose instances of the pool.

        Parameters
        ----------
        learner : ActiveLearner, classifier, or modAL's ActiveLearner or Committee
            The model to choose instances for; most strategies need its ``predict_proba``.
        X_pool : array-like of shape (n_pool, ...), or blocks of it
            Unlabelled instances. Strategies that score each instance on its own read a pool that
            is larger than memory block by block: a memory map (``numpy.load(..., mmap_mode="r")``),
            an iterator of blocks of rows, a ``torch.utils.data.DataLoader`` or a Dask array. They
            make the same choices as in memory. Wrap other strategies in
            :class:`~laplace_al.strategies.Preselection`.
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
            Only if ``return_utilities``: larger is better, -inf for instances that are not
            candidates. If choices depend on each other, the utilities before the first choice.

        Raises
        ------
        ValueError
            If there are fewer candidates than ``n_instances``, a utility is NaN, or features are
            too large to compute with.
        TypeError
            If ``n_instances`` is not an integer, the learner lacks what the strategy needs, or the
            pool comes in blocks and the strategy compares instances with each other.

        Examples
        --------
        >>> from sklearn.linear_model import LogisticRegression
        >>> from laplace_al.strategies import MarginSampling
        >>> learner = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
        >>> MarginSampling(random_state=0).query(learner, [[0.0], [0.45], [1.0]])
        array([1])
        """
        self._validate_params()
        try:
            # what is nearly 0 may become 0, and NaN is refused
            with np.errstate(under="ignore", over="ignore", invalid="ignore"):
                choice = self._query(learner, X_pool, n_instances, candidates, return_utilities)
        except (ArithmeticError, torch.linalg.LinAlgError) as error:
            raise ValueError(
                f"{type(self).__name__} cannot choose from X_pool, whose features are too large or "
                f"differ too much in scale: {error}. Scale them, e.g. with StandardScaler."
            ) from error
        return choice if return_utilities else choice[0]

    def _query(
        self,
        learner: Any,
        X_pool: Inputs,
        n_instances: int,
        candidates: ArrayLike | None,
        with_utilities: bool,
    ) -> Choice:
        if reads_in_blocks(self, learner, X_pool):
            return choose_from_blocks(
                self, learner, X_pool, n_instances, candidates, with_utilities
            )
        candidates = check_candidates(candidates, _num_samples(X_pool))
        n_instances = check_n_instances(n_instances, int(candidates.sum()))
        rng = check_random_state(self.random_state)
        view = LearnerView(learner, cast(Instances, X_pool))
        return self.choose(view, n_instances, candidates, rng)

    def __call__(
        self, learner: Any, X_pool: Inputs, n_instances: int = 1
    ) -> NDArray[np.int64] | Choice:
        """Call as a modAL query strategy, see :meth:`query`.

        Returns
        -------
        ndarray of shape (n_instances,), or (positions, utilities)
            The form that the learner's version of modAL expects: positions and their utilities
            if its ``query`` has ``return_metrics``, else only positions.
        """
        positions, utilities = self.query(learner, X_pool, n_instances, return_utilities=True)
        query = getattr(type(learner), "query", None)
        if query and "return_metrics" in inspect.signature(query).parameters:
            return positions, utilities[positions]
        return positions

    def choose(self, view: PoolView, n_instances: int, candidates: Mask, rng: Rng) -> Choice:
        """Choose from the view of a pool: by default the candidates with the largest utilities.

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
        >>> view, rng = LearnerView(None, [[0.0], [1.0], [2.0]]), np.random.RandomState(0)
        >>> RandomSampling().choose(view, 1, np.array([False, False, True]), rng)[0]
        array([2])
        """
        return view.top(self, n_instances, candidates, rng)

    def candidate_utilities(
        self, view: PoolView, candidates: Mask, rng: Rng
    ) -> NDArray[np.float64]:
        """Return checked utilities of the pool, -inf for instances that are not candidates.

        Override it to score only the candidates, where that is cheaper.

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
            If there is not one utility for each instance, or that of a candidate is NaN.

        Examples
        --------
        >>> from laplace_al.strategies import RandomSampling
        >>> view, rng = LearnerView(None, [[0.0], [1.0]]), np.random.RandomState(0)
        >>> RandomSampling().candidate_utilities(view, np.array([True, False]), rng)
        array([  0., -inf])
        """
        utilities = np.array(self.utilities(view, rng), dtype=np.float64)
        if utilities.shape != (len(view),):
            raise ValueError(
                f"{type(self).__name__}.utilities must return one number for each instance, of "
                f"shape ({len(view)},); got an array of shape {utilities.shape}."
            )
        utilities[~candidates] = -np.inf
        return self._without_nan(utilities)

    def _without_nan(self, utilities: NDArray[np.float64]) -> NDArray[np.float64]:
        if np.isnan(utilities).any():
            raise ValueError(
                f"{type(self).__name__} got NaN utilities for {np.isnan(utilities).sum()} of "
                f"{len(utilities)} instances; the learner's predict_proba must be finite, and "
                "utilities must be numbers. If the features differ much in scale, scale them, e.g. "
                "with StandardScaler."
            )
        return utilities

    @abstractmethod
    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.floating]:
        """Return the utility of each instance on its own: larger is better.

        Parameters
        ----------
        view : PoolView
            Has ``predict_proba()``, ``features``, ``labelled`` and ``state``.
        rng : RandomState
            The source of all random choices.

        Returns
        -------
        ndarray of shape (n_pool,)
        """


class ProbabilityStrategy(QueryStrategy):
    """Base of the strategies whose utility is a function of ``predict_proba`` alone, ``score``."""

    is_pointwise = True
    reads_posterior = False
    reads_probabilities = True
    score: Callable[..., Any]

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.floating]:
        """Return the score of the probabilities, (n_pool,)."""
        return type(self).score(view.predict_proba())
