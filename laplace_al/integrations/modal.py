"""modAL: its learners on today's scikit-learn and pandas, its query strategies in ours.

Needs modAL: ``pip install "modAL-python<0.4.2"``, or the extra ``modal``.
"""

import contextlib
import copy
import inspect
import numbers
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Self

import numpy as np
import pandas as pd
from modAL import models
from modAL.disagreement import vote_entropy_sampling
from modAL.models.base import BaseCommittee, BaseLearner
from modAL.uncertainty import uncertainty_sampling
from modAL.utils.data import data_vstack
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state, check_X_y
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _num_samples, check_is_fitted

from laplace_al._common.typing import Instances, RandomState
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.inputs.blocks import rows_at
from laplace_al.inputs.labels import as_labels, like_known
from laplace_al.model.pool_state import PoolState
from laplace_al.strategies.base import QueryStrategy
from laplace_al.strategies.view import PoolView

__all__ = ["ActiveLearner", "Committee", "ModalStrategy"]


class ActiveLearner(models.ActiveLearner):
    """modAL's ActiveLearner that learns labels by ``partial_fit`` if its estimator has it.

    Everything else is as in modAL. It also works with scikit-learn >= 1.8 and pandas >= 2, where
    modAL's own ``fit`` and ``teach`` fail. Queries accept the strategies of modAL and of
    :mod:`laplace_al.strategies`.

    Parameters
    ----------
    estimator : classifier or regressor
        Learns in place, as in modAL.
    query_strategy : callable, default=modAL.uncertainty.uncertainty_sampling
        ``query_strategy(learner, X_pool, n_instances=k)``.
    X_training : array-like of shape (n_training, ...), default=None
        Instances with labels, on which the estimator is fitted at once.
    y_training : array-like of shape (n_training,), default=None
        Their labels.
    bootstrap_init : bool, default=False
        Whether to fit on a bootstrap sample of these.
    on_transformed : bool, default=False
        Whether modAL's strategies see the instances as transformed by a pipeline.
    random_state : int, RandomState instance or None, default=None
        Draws bootstrap samples; None takes a seed from NumPy's global state. modAL's own class
        lacks this parameter.
    **fit_kwargs : dict
        Passed to the first ``fit`` of the estimator.

    Attributes
    ----------
    X_training, y_training : array-like or None
        All instances that were taught, with their labels.

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
            This object.

        Raises
        ------
        ValueError
            If X or y is not valid, or the estimator refuses them. After this and any other error,
            learner and estimator are unchanged.

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
        """Learn labels by an update, if the estimator supports it, else by a refit.

        A fitted estimator with ``partial_fit`` learns the new labels by it. A label that it has
        never seen opens a class, by ``add_classes``, if the estimator has that method and its
        parameter ``classes`` is None. In every other case the estimator is refitted on all labels
        so far, as in modAL.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)
        bootstrap : bool, default=False
            Whether to refit on a bootstrap sample of all labels so far; with ``only_new``, to
            learn a bootstrap sample of the new labels.
        only_new : bool, default=False
            Whether an estimator that cannot update is fitted on the new labels alone. An update
            uses only the new labels in any case.
        **fit_kwargs : dict
            Passed to the estimator's ``partial_fit`` or ``fit``.

        Raises
        ------
        ValueError
            If X or y is not valid, or the estimator refuses them. After this and any other error,
            learner and estimator are unchanged.

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

    def _add_training_data(self, X: Instances, y: ArrayLike) -> None:
        self._check(X, y)
        if self.X_training is not None:
            if is_classifier(self.estimator) and np.ndim(y) == 1:
                like_known(as_labels(y), as_labels(self.y_training))
            X, y = _stack("X", self.X_training, X), _stack("y", self.y_training, y)
        self.X_training, self.y_training = X, y

    def _fit_to_known(self, bootstrap: bool = False, **fit_kwargs: Any) -> Self:
        X, y = self.X_training, self.y_training
        self.estimator.fit(*(self._bootstrapped(X, y) if bootstrap else (X, y)), **fit_kwargs)
        return self

    def _fit_on_new(
        self, X: Instances, y: ArrayLike, bootstrap: bool = False, **fit_kwargs: Any
    ) -> Self:
        self._check(X, y)
        if bootstrap:
            X, y = self._bootstrapped(X, y)
        if self._can_update(y):
            new = self._new_classes(y)
            if len(new):
                self.estimator.add_classes(new)
            self.estimator.partial_fit(X, y, **fit_kwargs)
        else:
            self.estimator.fit(X, y, **fit_kwargs)
        return self

    def _bootstrapped(self, X: Instances, y: ArrayLike) -> tuple[Any, Any]:
        self._rng = copy.deepcopy(self._rng)  # rebound, so that an error takes the draw back
        rows = self._rng.randint(_num_samples(X), size=_num_samples(X))
        return rows_at(X, rows), rows_at(y, rows)

    def _can_update(self, y: ArrayLike) -> bool:
        if not hasattr(self.estimator, "partial_fit"):
            return False
        try:
            check_is_fitted(self.estimator)
        except NotFittedError:
            return False
        opens = hasattr(self.estimator, "add_classes")
        opens = opens and getattr(self.estimator, "classes", None) is None
        return opens or not len(self._new_classes(y))

    def _new_classes(self, y: ArrayLike) -> NDArray[Any]:
        """Labels that the estimator does not know; none for a regressor or several outputs."""
        known = getattr(self.estimator, "classes_", None)
        if isinstance(known, np.ndarray) and np.ndim(y) == 1:
            return np.setdiff1d(np.asarray(y), known)
        return np.empty(0)


class Committee(models.Committee):
    """modAL's Committee whose learners learn labels as :class:`ActiveLearner` does.

    Votes and their strategies are modAL's. If one learner refuses a label, none learns it.

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

    def __init__(
        self,
        learner_list: list[ActiveLearner],
        query_strategy: Callable[..., Any] = vote_entropy_sampling,
        on_transformed: bool = False,
    ) -> None:
        super().__init__(learner_list, query_strategy, on_transformed)

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
            This object.

        Raises
        ------
        ValueError
            If a learner refuses X or y. After this and any other error, all learners are unchanged.

        Examples
        --------
        >>> from sklearn.naive_bayes import GaussianNB
        >>> committee = Committee([ActiveLearner(GaussianNB()), ActiveLearner(GaussianNB())])
        >>> committee.fit([[-1.0], [1.0]], [0, 1]).n_classes_
        2
        """
        with _unchanged_on_error(self, *self._learners_and_estimators()):
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
            Whether estimators that cannot update are fitted on the new labels alone.
        **fit_kwargs : dict
            Passed to the ``partial_fit`` or ``fit`` of each estimator.

        Raises
        ------
        ValueError
            If a learner refuses X or y. After this and any other error, all learners are unchanged.

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
        with _unchanged_on_error(self, *self._learners_and_estimators()):
            for learner in self.learner_list:
                learner.teach(X, y, bootstrap=bootstrap, only_new=only_new, **fit_kwargs)
            self._set_classes()

    def _learners_and_estimators(self) -> list[Any]:
        return [*self.learner_list, *(learner.estimator for learner in self.learner_list)]


class ModalStrategy(QueryStrategy):
    """A query strategy of modAL, for the learners of this package.

    The pool that the strategy sees consists of the candidates only. Strategies of
    ``modAL.disagreement`` need a committee; here its members are weights drawn from the posterior
    of a :class:`~laplace_al.LaplaceUpdateClassifier`, as in
    :class:`~laplace_al.strategies.QueryByCommittee`.

    A modAL strategy returns the instances that it chooses, not how useful each is. It therefore
    cannot be used in :class:`~laplace_al.strategies.PowerSampling`, which needs utilities. The
    utilities that ``query`` can return are 1 for chosen instances and 0 for the others, and several
    instances are in the order in which modAL returns them.

    Parameters
    ----------
    query_strategy : callable
        ``query_strategy(learner, X_pool, n_instances=k, **kw_args)``, e.g.
        ``modAL.batch.uncertainty_batch_sampling``. A strategy without ``n_instances``, e.g. of
        ``modAL.utils.combination.make_query_strategy``, must return as many as are asked for.
    kw_args : dict, default=None
        Keyword arguments passed to ``query_strategy``.
    n_members : int, default=10
        Size of the committee, at least 2.
    on_transformed : bool, default=False
        Whether the strategy sees the features of the feature extractor in place of instances, for
        distances and densities.
    random_state : int, RandomState instance or None, default=None
        Seeds NumPy's global generator, from which modAL draws, for the duration of a query.

    References
    ----------
    Danka and Horvath, *modAL: A modular active learning framework for Python*, arXiv 1805.00979.

    Examples
    --------
    >>> from modAL.batch import uncertainty_batch_sampling
    >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
    >>> from laplace_al.integrations.modal import ModalStrategy
    >>> pool = [[0.1, 3.0], [0.1, 3.1], [0.3, -3.0], [5.0, 0.0]]
    >>> learner = ActiveLearner(LaplaceUpdateClassifier(),
    ...                         ModalStrategy(uncertainty_batch_sampling), pool,
    ...                         X_initial=[[-1.0, 0.0], [1.0, 0.0]], y_initial=[0, 1])
    >>> learner.query(2)
    array([1, 2])
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "query_strategy": [callable],
        "kw_args": [dict, None],
        "n_members": [Interval(numbers.Integral, 2, None, closed="left")],
        "on_transformed": ["boolean"],
    }

    def __init__(
        self,
        query_strategy: Callable[..., Any],
        *,
        kw_args: dict[str, Any] | None = None,
        n_members: int = 10,
        on_transformed: bool = False,
        random_state: RandomState = None,
    ) -> None:
        self.query_strategy = query_strategy
        self.kw_args = kw_args
        self.n_members = n_members
        self.on_transformed = on_transformed
        self.random_state = random_state

    def utilities(self, view: PoolView, rng: np.random.RandomState) -> NoReturn:
        """There are none.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            f"ModalStrategy has no utilities: modAL's {self._name} says which instances it "
            "chooses, not how useful each is. Use a strategy of laplace_al.strategies."
        )

    def choose(
        self,
        view: PoolView,
        n_instances: int,
        candidates: NDArray[np.bool_],
        rng: np.random.RandomState,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """See :meth:`QueryStrategy.choose`: what modAL's strategy chooses among the candidates."""
        places = np.flatnonzero(candidates)
        if isinstance(view.learner, BaseLearner | BaseCommittee):
            learner, X = view.learner, rows_at(view.X, places)
        else:
            learner = _ModalLearner(view, places, self)
            X = learner.X
        with _numpy_seed(rng.randint(2**31)):
            chosen = self.query_strategy(learner, X, **self._keywords(n_instances))
        if isinstance(learner, _ModalLearner) and learner.not_fitted is not None:
            raise learner.not_fitted  # modAL takes the first of the pool instead
        positions = places[self._checked(chosen, n_instances, len(places))]
        utilities = np.where(candidates, 0.0, -np.inf)
        utilities[positions] = 1.0
        return positions, utilities

    @property
    def _name(self) -> str:
        return getattr(self.query_strategy, "__name__", repr(self.query_strategy))

    def _keywords(self, n_instances: int) -> dict[str, Any]:
        keywords = self.kw_args or {}
        if "n_instances" in keywords:
            raise ValueError(
                "kw_args must not hold n_instances; pass it to query instead. Got "
                f"kw_args={self.kw_args}."
            )
        parameters = inspect.signature(self.query_strategy).parameters
        is_told = "n_instances" in parameters or any(
            parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
        )
        return keywords | ({"n_instances": n_instances} if is_told else {})

    def _checked(self, chosen: Any, n_instances: int, n_candidates: int) -> NDArray[np.int64]:
        """Places of the chosen among the candidates."""
        if isinstance(chosen, tuple):  # with instances or metrics, as in other versions of modAL
            chosen = chosen[0]
        chosen = np.atleast_1d(chosen)
        if (
            chosen.shape != (n_instances,)
            or not np.issubdtype(chosen.dtype, np.integer)
            or len(np.unique(chosen)) < n_instances
            or chosen.min() < 0
            or chosen.max() >= n_candidates
        ):
            raise ValueError(
                f"query_strategy must return {n_instances} distinct positions among "
                f"{n_candidates} candidates, as many as n_instances; {self._name} returned "
                f"{chosen!r}. Set up a strategy that takes no n_instances to choose as many."
            )
        return chosen


class _ModalLearner:
    """What modAL's strategies ask a learner or a committee for, about the candidates of a pool."""

    on_transformed = False  # X and X_training are what distances are taken between

    def __init__(self, view: PoolView, places: NDArray[np.int64], strategy: ModalStrategy) -> None:
        self._view, self._places, self._strategy = view, places, strategy
        self.not_fitted = None
        if strategy.on_transformed:
            self.X = view.rows(places)
            self.X_training = view.labelled if len(view.labelled) else None
        else:
            instances = getattr(view.learner, "instances_", None)
            self.X = _array(rows_at(view.X, places))
            self.X_training = None if instances is None else _array(instances)

    def predict_proba(self, X: Instances) -> NDArray[np.floating]:
        """(n, n_classes); modAL makes nothing of a NotFittedError, so it is kept."""
        try:
            if X is self.X:
                return self._view.predict_proba()[self._places]
            if not self._strategy.on_transformed:
                return self._view.learner.predict_proba(X)
        except NotFittedError as error:
            self.not_fitted = error
            raise
        raise ValueError(
            "With on_transformed=True a modAL strategy can only ask for predictions of the whole "
            f"pool that it is given, of shape {self.X.shape}; got {np.shape(X)}."
        )

    def vote_proba(self, X: Instances) -> NDArray[np.floating]:
        """(n, n_members, n_classes): under weights drawn from the posterior."""
        draws = self._posterior_state().sample_proba(self._strategy.n_members)
        return draws[:, self._places].transpose(1, 0, 2)

    def vote(self, X: Instances) -> NDArray[Any]:
        """(n, n_members): labels."""
        return self.classes_[self.vote_proba(X).argmax(axis=2)]

    def __len__(self) -> int:
        return self._strategy.n_members

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    @property
    def classes_(self) -> NDArray[Any]:
        return self._posterior_state().classes_

    def _posterior_state(self) -> PoolState:
        try:
            return self._view.posterior_state(self._strategy)
        except NotFittedError as error:
            self.not_fitted = error
            raise

    def __getattr__(self, name: str) -> NoReturn:
        not_fitted = vars(self).get("not_fitted")
        if not_fitted is not None:  # which is an AttributeError as well
            raise not_fitted
        raise AttributeError(
            f"A modAL strategy asked the learner for {name!r}, but ModalStrategy offers only "
            "predict_proba, vote, vote_proba, classes_ and X_training. Strategies for regression, "
            "several labels or Bayesian optimisation need modAL's own learners."
        )


@contextlib.contextmanager
def _unchanged_on_error(*objects: object) -> Iterator[None]:
    """Give objects back the attributes that they had, if the block raises."""
    before = [_attributes(each) for each in objects]
    try:
        yield
    except BaseException:
        for each, attributes in zip(objects, before, strict=True):
            vars(each).clear()
            vars(each).update(attributes)
        raise


def _attributes(each: object) -> dict[str, Any]:
    """Attributes of an object: copied, unless it rebinds them and never changes them in place."""
    rebinds = LaplaceUpdateClassifier, BaseLearner, BaseCommittee
    return dict(vars(each)) if isinstance(each, rebinds) else copy.deepcopy(vars(each))


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, and give it back as it was."""
    state = np.random.get_state()  # noqa: NPY002  modAL draws from nothing else
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _labels(estimator: BaseEstimator, y: Any, name: str = "y") -> Any:
    """Labels of a classifier, of one kind, as an array or Series; other targets as they are."""
    if not is_classifier(estimator) or np.ndim(y) != 1:
        return y
    labels = as_labels(y, name)
    return pd.Series(labels, y.index, name=y.name) if isinstance(y, pd.Series) else labels


def _stack(name: str, known: Any, new: Any) -> Any:
    """Rows of both, in the container of the known."""
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


def _array(X: Any) -> Any:
    return X if sparse.issparse(X) else np.asarray(X)
