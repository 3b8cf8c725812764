"""modAL's learners, taught by updates on today's scikit-learn and pandas.

Needs modAL: ``pip install "modAL-python<0.4.2"``, or the extra ``modal``.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import pandas as pd
from modAL import models
from modAL.models.base import BaseCommittee, BaseLearner
from modAL.uncertainty import uncertainty_sampling
from modAL.utils.data import data_vstack
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state, check_X_y
from sklearn.utils.validation import _num_samples, check_is_fitted

from laplace_al._common.typing import Instances, RandomState
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.inputs.blocks import rows_at
from laplace_al.inputs.labels import as_labels, like_known
from laplace_al.integrations.modal_strategy import ModalStrategy

__all__ = ["ActiveLearner", "Committee", "ModalStrategy"]


class ActiveLearner(models.ActiveLearner):
    """modAL's ActiveLearner, which learns labels by ``partial_fit`` if its estimator has it.

    It works with scikit-learn >= 1.8 and pandas >= 2, where modAL's own ``fit`` and ``teach`` fail,
    and queries with the strategies of modAL and of :mod:`laplace_al.strategies`. Everything else is
    as in modAL.

    Parameters
    ----------
    estimator : classifier or regressor
        Learns in place, as in modAL.
    query_strategy : callable, default=modAL.uncertainty.uncertainty_sampling
        ``query_strategy(learner, X_pool, n_instances=k)``.
    X_training : array-like of shape (n_training, ...), default=None
        Labelled instances, on which the estimator is fitted at once.
    y_training : array-like of shape (n_training,), default=None
        Their labels.
    bootstrap_init : bool, default=False
        Whether to fit on a bootstrap sample of them.
    on_transformed : bool, default=False
        Whether modAL's strategies see the instances as transformed by a pipeline.
    random_state : int, RandomState instance or None, default=None
        Draws bootstrap samples; None takes a seed from NumPy's global state.
    **fit_kwargs : dict
        Passed to the first ``fit`` of the estimator.

    Attributes
    ----------
    X_training, y_training : array-like or None
        All instances taught so far, and their labels.

    See Also
    --------
    laplace_al.ActiveLearner : The loop with positions in a pool, a journal and corrections.

    References
    ----------
    Danka and Horvath, *modAL: A modular active learning framework for Python*, arXiv 1805.00979.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.integrations.modal import ActiveLearner
    >>> from laplace_al.strategies import MarginSampling
    >>> X, y = load_iris(return_X_y=True)
    >>> learner = ActiveLearner(LaplaceUpdateClassifier(), MarginSampling(random_state=0),
    ...                         X_training=X[::50], y_training=y[::50])
    >>> for _ in range(20):
    ...     positions, instances = learner.query(X)
    ...     learner.teach(instances, y[positions])
    >>> learner.score(X, y) > 0.9
    True
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        query_strategy: Callable[..., Any] = uncertainty_sampling,
        X_training: Instances | None = None,
        y_training: ArrayLike | None = None,
        bootstrap_init: bool = False,
        on_transformed: bool = False,
        *,
        random_state: RandomState = None,
        **fit_kwargs: Any,
    ) -> None:
        self.bootstrap_init = bootstrap_init
        self.random_state = random_state
        self._rng = np.random.RandomState(check_random_state(random_state).randint(2**31))
        super().__init__(
            estimator,
            query_strategy,
            X_training,
            None if y_training is None else _labels(estimator, y_training, "y_training"),
            bootstrap_init,
            on_transformed,
            **fit_kwargs,
        )

    def fit(self, X: Instances, y: ArrayLike, bootstrap: bool = False, **fit_kwargs: Any) -> Self:
        """Fit the estimator on these labels, and forget all others.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)
        bootstrap : bool, default=False
            Whether to fit on a bootstrap sample of the labels.
        **fit_kwargs : dict
            Passed to the estimator's ``fit``.

        Returns
        -------
        ActiveLearner
            The learner itself.

        Raises
        ------
        ValueError
            If X or y is invalid. After any error, learner and estimator are as they were.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> learner = ActiveLearner(LaplaceUpdateClassifier())
        >>> learner.fit([[-1.0], [1.0]], [0, 1]).predict([[3.0]])
        array([1])
        """
        with _unchanged_on_error(self, self.estimator):
            y = _labels(self.estimator, y)
            self._check(X, y)
            self.X_training, self.y_training = X, y
            self._fit_to_known(bootstrap=bootstrap, **fit_kwargs)
        return self

    def teach(
        self,
        X: Instances,
        y: ArrayLike,
        bootstrap: bool = False,
        only_new: bool = False,
        **fit_kwargs: Any,
    ) -> None:
        """Learn labels by an update if the estimator supports it, else by a refit.

        A fitted estimator with ``partial_fit`` is updated. A new class is opened by
        ``add_classes``, if the estimator has that method and its parameter ``classes`` is None. In
        every other case the estimator is refitted on all labels so far, as in modAL.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)
        bootstrap : bool, default=False
            Whether to refit on a bootstrap sample of all labels so far; with ``only_new``, to
            learn a bootstrap sample of the new labels.
        only_new : bool, default=False
            Whether an estimator that cannot be updated is fitted on the new labels alone.
        **fit_kwargs : dict
            Passed to the estimator's ``partial_fit`` or ``fit``.

        Raises
        ------
        ValueError
            If X or y is invalid. After any error, learner and estimator are as they were.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), X_training=[[-1.0], [1.0]],
        ...                         y_training=["ant", "cat"])
        >>> learner.teach([[5.0]], ["bee"])
        >>> learner.estimator.classes_
        array(['ant', 'bee', 'cat'], dtype='<U3')
        """
        with _unchanged_on_error(self, self.estimator):
            y = _labels(self.estimator, y)
            self._add_training_data(X, y)
            if only_new or (self._can_update(y) and not bootstrap):
                self._fit_on_new(X, y, bootstrap=bootstrap, **fit_kwargs)
            else:
                self._fit_to_known(bootstrap=bootstrap, **fit_kwargs)

    def _check(self, X: Instances, y: ArrayLike) -> None:
        """Refuse X and y that differ in length or hold what the learner does not allow."""
        check_X_y(
            X,
            y,
            accept_sparse=True,
            ensure_2d=False,
            allow_nd=True,
            multi_output=True,
            dtype=None,
            ensure_all_finite=self.force_all_finite,
        )

    # The names of the next three methods are modAL's, whose own Committee calls them.

    def _add_training_data(self, X: Instances, y: ArrayLike) -> None:
        """Append valid rows to the training data."""
        self._check(X, y)
        if self.X_training is not None:
            if is_classifier(self.estimator) and np.ndim(y) == 1:
                like_known(as_labels(y), as_labels(self.y_training))
            X, y = _stack("X", self.X_training, X), _stack("y", self.y_training, y)
        self.X_training, self.y_training = X, y

    def _fit_to_known(self, bootstrap: bool = False, **fit_kwargs: Any) -> Self:
        """Fit the estimator on all training data."""
        X, y = self.X_training, self.y_training
        if bootstrap:
            X, y = self._bootstrapped(X, y)
        self.estimator.fit(X, y, **fit_kwargs)
        return self

    def _fit_on_new(
        self, X: Instances, y: ArrayLike, bootstrap: bool = False, **fit_kwargs: Any
    ) -> Self:
        """Update the estimator by these rows if it can be, else fit it on them alone."""
        self._check(X, y)
        if bootstrap:
            X, y = self._bootstrapped(X, y)
        if self._can_update(y):
            if len(new := self._new_classes(y)):
                self.estimator.add_classes(new)
            self.estimator.partial_fit(X, y, **fit_kwargs)
        else:
            self.estimator.fit(X, y, **fit_kwargs)
        return self

    def _bootstrapped(self, X: Instances, y: ArrayLike) -> tuple[Any, Any]:
        """Draw as many rows with replacement."""
        self._rng = copy.deepcopy(self._rng)  # rebound, so that an error takes the draw back
        rows = self._rng.randint(_num_samples(X), size=_num_samples(X))
        return rows_at(X, rows), rows_at(y, rows)

    def _can_update(self, y: ArrayLike) -> bool:
        """Return whether the fitted estimator can learn these labels by ``partial_fit``."""
        if not hasattr(self.estimator, "partial_fit"):
            return False
        try:
            check_is_fitted(self.estimator)
        except NotFittedError:
            return False
        has_open_classes = getattr(self.estimator, "classes", None) is None
        if has_open_classes and hasattr(self.estimator, "add_classes"):
            return True
        return not len(self._new_classes(y))

    def _new_classes(self, y: ArrayLike) -> NDArray[Any]:
        """Return labels unknown to the estimator: none for a regressor or several outputs."""
        known = getattr(self.estimator, "classes_", None)
        if isinstance(known, np.ndarray) and np.ndim(y) == 1:
            return np.setdiff1d(np.asarray(y), known)
        return np.empty(0)


class Committee(models.Committee):
    """modAL's Committee, whose learners learn labels as :class:`ActiveLearner` does.

    If one learner refuses a label, none learns it. Everything else is as in modAL.

    Parameters
    ----------
    learner_list : list of ActiveLearner
    query_strategy : callable, default=modAL.disagreement.vote_entropy_sampling
        ``query_strategy(committee, X_pool, n_instances=k)``: a strategy of modAL, or one of
        :mod:`laplace_al.strategies` that takes any classifier.
    on_transformed : bool, default=False
        Whether modAL's strategies see the instances as transformed by pipelines.

    Attributes
    ----------
    classes_ : ndarray of shape (`n_classes_`,)
        Labels that at least one learner knows.
    n_classes_ : int

    See Also
    --------
    laplace_al.strategies.QueryByCommittee : A committee of weights drawn from one posterior.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.integrations.modal import ActiveLearner, Committee
    >>> X, y = load_iris(return_X_y=True)
    >>> committee = Committee([
    ...     ActiveLearner(LaplaceUpdateClassifier(), X_training=X[i::50], y_training=y[i::50])
    ...     for i in range(3)
    ... ])
    >>> positions, instances = committee.query(X, n_instances=5)
    >>> committee.teach(instances, y[positions])
    >>> len(committee.learner_list[0].X_training)
    8
    """

    def fit(self, X: Instances, y: ArrayLike, **fit_kwargs: Any) -> Self:
        """Fit each learner on these labels, and forget all others.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)
        **fit_kwargs : dict
            Passed to the ``fit`` of each learner, e.g. ``bootstrap=True``.

        Returns
        -------
        Committee
            The committee itself.

        Raises
        ------
        ValueError
            If X or y is invalid. After any error, all learners are as they were.

        Examples
        --------
        >>> from sklearn.naive_bayes import GaussianNB
        >>> committee = Committee([ActiveLearner(GaussianNB()), ActiveLearner(GaussianNB())])
        >>> committee.fit([[-1.0], [1.0]], [0, 1]).n_classes_
        2
        """
        with self._unchanged_on_error():
            super().fit(X, y, **fit_kwargs)
        return self

    def teach(
        self,
        X: Instances,
        y: ArrayLike,
        bootstrap: bool = False,
        only_new: bool = False,
        **fit_kwargs: Any,
    ) -> None:
        """Teach each learner, see :meth:`ActiveLearner.teach`.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)
        bootstrap : bool, default=False
            Whether each learner is refitted on a bootstrap sample of its own.
        only_new : bool, default=False
            Whether estimators that cannot be updated are fitted on the new labels alone.
        **fit_kwargs : dict
            Passed to the ``partial_fit`` or ``fit`` of each estimator.

        Raises
        ------
        ValueError
            If X or y is invalid. After any error, all learners are as they were.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.naive_bayes import GaussianNB
        >>> committee = Committee([
        ...     ActiveLearner(GaussianNB(), X_training=[[-1.0], [1.0]], y_training=[0, 1])
        ... ])
        >>> committee.teach([[9.0]], [2])
        >>> committee.predict(np.array([[9.0]]))
        array([2])
        """
        with self._unchanged_on_error():
            for learner in self.learner_list:
                learner.teach(X, y, bootstrap=bootstrap, only_new=only_new, **fit_kwargs)
            self._set_classes()

    def _unchanged_on_error(self) -> contextlib.AbstractContextManager[None]:
        """Give the committee, its learners and their estimators back as they were."""
        estimators = [learner.estimator for learner in self.learner_list]
        return _unchanged_on_error(self, *self.learner_list, *estimators)


@contextlib.contextmanager
def _unchanged_on_error(*objects: object) -> Iterator[None]:
    """Give objects their attributes back if the block raises."""
    rebinds = LaplaceUpdateClassifier, BaseLearner, BaseCommittee  # change no attribute in place
    before = [
        dict(vars(each)) if isinstance(each, rebinds) else copy.deepcopy(vars(each))
        for each in objects
    ]
    try:
        yield
    except BaseException:
        for each, attributes in zip(objects, before, strict=True):
            vars(each).clear()
            vars(each).update(attributes)
        raise


def _labels(estimator: BaseEstimator, y: Any, name: str = "y") -> Any:
    """Return labels of a classifier as an array or Series of one kind, other targets unchanged."""
    if not is_classifier(estimator) or np.ndim(y) != 1:
        return y
    labels = as_labels(y, name)
    return pd.Series(labels, y.index, name=y.name) if isinstance(y, pd.Series) else labels


def _stack(name: str, known: Any, new: Any) -> Any:
    """Return the rows of both in the container of the known ones."""
    try:
        if isinstance(known, pd.Series):
            return pd.concat([known, pd.Series(new)])
        if isinstance(known, pd.DataFrame):
            if isinstance(new, pd.DataFrame) and not new.columns.equals(known.columns):
                raise ValueError(f"columns {list(new.columns)} are not {list(known.columns)}")
            return pd.concat([known, pd.DataFrame(new, columns=known.columns)])
        return data_vstack((known, new))
    except ValueError as error:
        raise ValueError(
            f"{name} must have rows like those so far, of shape {np.shape(known)[1:]}; got "
            f"{np.shape(new)[1:]}: {error}."
        ) from error
