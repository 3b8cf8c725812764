"""The loop of active learning: query, teach, and now and then refit."""

import copy
import numbers

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import _num_samples, check_consistent_length, column_or_1d

from laplace_al.strategies.base import check_n_instances
from laplace_al.transaction import all_or_nothing


class ActiveLearner:
    """A classifier, a query strategy and a pool of unlabelled instances.

    Positions are always those of ``X_pool`` as it was given: what has a label is not queried
    again, but the positions of the rest stay the same.

    Parameters
    ----------
    estimator : classifier
        What learns. Copied, so that yours stays as it is; if it is fitted, the copy starts
        from what it has learnt.
    strategy : QueryStrategy
        What chooses. Copied as well.
    X_pool : array-like of shape (n_pool, ...)
        Instances that labels can be asked for.
    X_initial : array-like of shape (n_initial, ...), default=None
        Instances with labels, to start from.
    y_initial : array-like of shape (n_initial,), default=None
        Their labels.
    classes : array-like of shape (n_classes,), default=None
        All labels that may occur. Needed if the initial labels lack some.
    refit_every : int or None, default=None
        Number of new labels after which the estimator is fitted anew on all of them. None: never,
        every label is learnt by ``partial_fit``.
    random_state : int, RandomState instance or None, default=None
        Seeds the strategy, unless that has a ``random_state`` of its own.
    verbose : int, default=0
        Prints a line for each refit, if positive.

    Attributes
    ----------
    estimator_ : classifier
        What has learnt the labels so far.
    labels_ : DataFrame with columns position, label
        The labels taught, in the order of teaching.
    instances_ : array-like of shape (n_labelled, ...) or None
        What has a label, initial instances first.

    See Also
    --------
    simulate : Runs the loop against labels that are known.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
    >>> from laplace_al.strategies import MarginSampling
    >>> X, y = load_iris(return_X_y=True)
    >>> learner = ActiveLearner(LaplaceUpdateClassifier(), MarginSampling(), X,
    ...                         X_initial=X[::50], y_initial=y[::50], random_state=0)
    >>> for _ in range(20):
    ...     position = learner.query()
    ...     learner = learner.teach(position, y[position])
    >>> learner.score(X, y) > 0.9
    True
    """

    def __init__(
        self,
        estimator,
        strategy,
        X_pool,
        *,
        X_initial=None,
        y_initial=None,
        classes=None,
        refit_every=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.strategy = strategy
        self.X_pool = X_pool
        self.X_initial = X_initial
        self.y_initial = y_initial
        self.classes = classes
        self.refit_every = _check_refit_every(refit_every, estimator)
        self.random_state = random_state
        self.verbose = verbose

        if (X_initial is None) != (y_initial is None):
            raise ValueError("X_initial and y_initial must be given together, or neither.")
        if not hasattr(strategy, "query"):
            raise TypeError(
                f"strategy must have a method query; got {strategy!r}. Pass an object of "
                "laplace_al.strategies, e.g. MarginSampling()."
            )
        self.estimator_ = copy.deepcopy(estimator)
        if classes is not None and "classes" in estimator.get_params(deep=False):
            self.estimator_.set_params(classes=classes)
        self._strategy = clone(strategy)
        if getattr(strategy, "random_state", 0) is None:
            seed = check_random_state(random_state).randint(2**31)
            self._strategy.set_params(random_state=np.random.RandomState(seed))
        self._positions = np.empty(0, dtype=np.int64)
        self._labels = None  # (n_taught,), in the dtype of the first labels taught
        self._n_since_refit = 0
        self._is_fitted = X_initial is None and hasattr(estimator, "classes_")
        if X_initial is not None:
            check_consistent_length(X_initial, y_initial)
            self.refit()

    @property
    def labels_(self):
        """Positions and labels, in the order of teaching."""
        labels = [] if self._labels is None else self._labels
        return pd.DataFrame({"position": self._positions, "label": labels})

    @property
    def instances_(self):
        """Instances that have a label, initial ones first; None if there is none."""
        if self._labels is None and self.X_initial is None:
            return None
        return self._labelled()[0]

    def query(self, n_instances=1):
        """Choose instances to be labelled.

        Parameters
        ----------
        n_instances : int, default=1
            At most the number of instances without a label.

        Returns
        -------
        ndarray of shape (n_instances,)
            Positions in ``X_pool``, best first.

        Raises
        ------
        ValueError
            If so many are not left.
        sklearn.exceptions.NotFittedError
            If the strategy needs predictions before anything was learnt.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import MarginSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), MarginSampling(), [[2.0], [0.1]],
        ...                         X_initial=[[-1.0], [1.0]], y_initial=[0, 1])
        >>> learner.query()
        array([1])
        """
        is_open = np.ones(_num_samples(self.X_pool), dtype=bool)
        is_open[self._positions] = False
        n_instances = check_n_instances(n_instances, int(is_open.sum()))
        return self._strategy.query(self, self.X_pool, n_instances, candidates=is_open)

    @all_or_nothing
    def teach(self, indices, y):
        """Learn labels of instances of the pool.

        Parameters
        ----------
        indices : int or array-like of shape (n_instances,)
            Positions in ``X_pool``.
        y : label or array-like of shape (n_instances,)

        Returns
        -------
        ActiveLearner
            This object.

        Raises
        ------
        ValueError
            If a position is not in the pool, is given twice or has a label already, or the
            estimator refuses the labels. Nothing is then learnt or recorded.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0]],
        ...                         classes=[0, 1])
        >>> learner.teach([0, 1], [1, 0]).predict([[3.0]])
        array([1])
        """
        indices = self._check_indices(indices)
        y = column_or_1d(np.atleast_1d(y))
        check_consistent_length(indices, y)
        self._positions = np.concatenate([self._positions, indices])
        self._labels = y if self._labels is None else np.concatenate([self._labels, y])
        self._n_since_refit += len(indices)
        due = self.refit_every is not None and self._n_since_refit >= self.refit_every
        if due or not self._is_fitted:
            return self.refit()
        self.estimator_ = copy.deepcopy(self.estimator_)
        self.estimator_.partial_fit(_safe_indexing(self.X_pool, indices), y)
        return self

    @all_or_nothing
    def refit(self):
        """Fit the estimator anew on all labels, the initial ones included.

        Returns
        -------
        ActiveLearner
            This object.

        Raises
        ------
        ValueError
            If there is no label yet, or the estimator refuses them.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0]],
        ...                         classes=[0, 1])
        >>> learner.teach([0, 1], [1, 0]).refit().score([[3.0]], [1])
        1.0
        """
        X, y = self._labelled()
        estimator = copy.deepcopy(self.estimator_)
        if self.verbose:
            print(f"[ActiveLearner] fitting {type(estimator).__name__} on {len(y)} labels")
        if self._must_declare_classes(y):
            # scikit-learn's incremental classifiers take classes that y lacks only here
            estimator = clone(estimator).partial_fit(X, y, classes=np.unique(self.classes))
        else:
            estimator.fit(X, y)
        self.estimator_, self._is_fitted, self._n_since_refit = estimator, True, 0
        return self

    def predict(self, X):
        """Labels that the estimator predicts, see its ``predict``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,)

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[0.5]],
        ...               X_initial=[[-1.0], [1.0]], y_initial=[0, 1]).predict([[3.0]])
        array([1])
        """
        return self.estimator_.predict(X)

    def predict_proba(self, X):
        """Class probabilities that the estimator predicts, see its ``predict_proba``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[0.5]],
        ...               X_initial=[[-1.0], [1.0]], y_initial=[0, 1]).predict_proba([[0.0]])
        array([[0.5, 0.5]])
        """
        return self.estimator_.predict_proba(X)

    def score(self, X, y):
        """Accuracy of the estimator, see its ``score``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)

        Returns
        -------
        float

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[0.5]],
        ...               X_initial=[[-1.0], [1.0]], y_initial=[0, 1]).score([[3.0]], [1])
        1.0
        """
        return self.estimator_.score(X, y)

    def _labelled(self):
        """All instances with labels, initial ones first."""
        if self._labels is None and self.X_initial is None:
            raise ValueError("There is no label to fit on yet: teach some, or pass X_initial.")
        if self._labels is None:
            return self.X_initial, np.asarray(self.y_initial)
        X = _safe_indexing(self.X_pool, self._positions)
        if self.X_initial is None:
            return X, self._labels
        return _stack(self.X_initial, X), np.concatenate([self.y_initial, self._labels])

    def _must_declare_classes(self, y):
        return (
            self.classes is not None
            and not hasattr(self.estimator_, "classes")
            and hasattr(self.estimator_, "partial_fit")
            and not np.isin(self.classes, y).all()
        )

    def _check_indices(self, indices):
        indices = np.atleast_1d(indices)
        n_pool = _num_samples(self.X_pool)
        if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(f"indices must be integer positions in X_pool; got {indices!r}.")
        outside = indices[(indices < 0) | (indices >= n_pool)]
        if len(outside):
            raise ValueError(
                f"indices must be between 0 and {n_pool - 1}, positions in X_pool; got "
                f"{outside.tolist()}."
            )
        known = indices[np.isin(indices, self._positions)]
        if len(known) or len(np.unique(indices)) < len(indices):
            raise ValueError(
                "indices must be distinct positions without a label; labelled already or given "
                f"twice: {known.tolist() or indices.tolist()}."
            )
        return indices.astype(np.int64)


def _check_refit_every(refit_every, estimator):
    is_count = isinstance(refit_every, numbers.Integral) and not isinstance(refit_every, bool)
    if refit_every is not None and not (is_count and refit_every >= 1):
        raise ValueError(f"refit_every must be None or an integer >= 1; got {refit_every!r}.")
    if refit_every != 1 and not hasattr(estimator, "partial_fit"):
        raise TypeError(
            f"{type(estimator).__name__} has no partial_fit to learn single labels with; pass "
            "refit_every=1 to fit it anew after each."
        )
    return refit_every


def _stack(first, second):
    """Rows of two containers of the same kind: frames, lists or arrays."""
    if isinstance(first, pd.DataFrame):
        return pd.concat([first, second])
    if isinstance(first, list):
        return first + list(second)
    if hasattr(first, "vstack"):  # polars
        return first.vstack(second)
    return np.concatenate([first, second])
