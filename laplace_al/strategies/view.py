"""What a strategy sees of a learner and a pool: everything is computed once, when asked for."""

import copy
import functools
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import StackingClassifier
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import _num_samples, check_array

from laplace_al._common.devices import as_array
from laplace_al._common.typing import Features, Instances
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.inputs.blocks import rows_at
from laplace_al.inputs.features import Extracted, feature_dtype
from laplace_al.model.pool_state import PoolState
from laplace_al.pool.scored import ScoredPool


class PoolView:
    """A learner's view of a pool of unlabelled instances.

    Parameters
    ----------
    learner : ActiveLearner, classifier, pipeline, or modAL's ActiveLearner or Committee
    X : array-like of shape (n_pool, ...)

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> view = PoolView(LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1]), [[0.0], [2.0]])
    >>> view.features
    array([[0.],
           [2.]])
    >>> view.predict_proba()[0]
    array([0.5, 0.5])
    """

    def __init__(self, learner: Any, X: Instances) -> None:
        self.learner = learner
        self.X = X

    @classmethod
    def of_state(cls, state: PoolState, learner: Any = None) -> Self:
        """A view of a pool whose features and predictions are known.

        Parameters
        ----------
        state : PoolState
        learner : fitted LaplaceUpdateClassifier, default=None
            The learner of the state. None if only the state will be used.

        Returns
        -------
        PoolView
            View of the features of the state.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> PoolView.of_state(clf.pool_state([[0.0]])).predict_proba()
        array([[0.5, 0.5]])
        """
        view = cls(learner, state.features)
        view.state, view._goes_by_state = state, learner is None
        return view

    def __len__(self) -> int:
        return _num_samples(self.X)

    @functools.cached_property
    def _laplace(self) -> tuple[LaplaceUpdateClassifier, Callable[[Any], Any]] | None:
        """The fitted LaplaceUpdateClassifier behind the learner, what goes before it, or None."""
        estimators = [self.learner]
        if hasattr(self.learner, "query"):  # the estimator of a meta-estimator is never fitted
            estimators += [getattr(self.learner, name, None) for name in _ESTIMATORS]
        for searched in estimators:
            estimator = getattr(searched, "best_estimator_", searched)  # of a GridSearchCV, say
            if isinstance(estimator, GridSearchCV | RandomizedSearchCV):  # unfitted
                estimator = estimator.estimator
            if isinstance(estimator, Pipeline) and hasattr(estimator[-1], "pool_state"):
                return estimator[-1], estimator[:-1].transform
            if hasattr(estimator, "pool_state"):
                return estimator, lambda X: X
        return None

    @property
    def _kept(self) -> ScoredPool | None:
        """The pool as the learner keeps it, if it is this one and nothing goes before it."""
        pool = getattr(self.learner, "pool_", None)
        is_this = pool is not None and pool.X is self.X
        # a pipeline has something before it, and a search may change its extractor
        return pool if is_this and hasattr(self.learner.estimator_, "pool_state") else None

    @functools.cached_property
    def state(self) -> PoolState | None:
        """PoolState, or None if the learner is not a LaplaceUpdateClassifier."""
        if self._whole is not None:
            whole, kept = self._whole
            return None if whole.state is None else whole.state.part(kept)
        if self._laplace is None:
            return None
        classifier, before = self._laplace
        if self._kept is not None:
            return self._kept.state_under(classifier)
        return classifier.pool_state(before(self.X))

    def posterior_state(self, strategy: object) -> PoolState:
        """The PoolState, for a strategy that needs one.

        Parameters
        ----------
        strategy : QueryStrategy

        Returns
        -------
        PoolState

        Raises
        ------
        TypeError
            If the learner has no posterior.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> len(PoolView(clf, [[0.0]]).posterior_state(None))
        1
        """
        if self.state is None:
            raise TypeError(
                f"{type(strategy).__name__} needs the posterior of a LaplaceUpdateClassifier; got "
                f"{type(self.learner).__name__}. Use one as the estimator, or a strategy "
                "that takes any classifier, e.g. MarginSampling."
            )
        return self.state

    def state_of(self, X: Instances) -> PoolState:
        """State of other inputs under the posterior of this view, imagined labels included.

        Parameters
        ----------
        X : array-like of shape (n, ...)
            Inputs in the form that the learner takes. An ActiveLearner extracts them once.

        Returns
        -------
        PoolState
            It draws the same weights as the state of this view.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> view = PoolView(clf, [[0.0], [2.0]])
        >>> later = view.after(1, view.state.copy().observe(1, 1))
        >>> bool(view.state_of([[1.0]]).logits < later.state_of([[1.0]]).logits)
        True
        """
        known = self.learner.kept_inputs(X) if hasattr(self.learner, "kept_inputs") else X
        state, other = self.state, PoolView(self.learner, known).state
        assert state is not None  # see posterior_state
        assert other is not None
        return state.elsewhere(other.features)

    def predict_proba(self) -> NDArray[np.floating]:
        """Probabilities of the pool, (n_pool, n_classes), calibrated if the learner is.

        Returns
        -------
        ndarray of shape (n_pool, n_classes)

        Raises
        ------
        TypeError
            If the learner predicts no probabilities.

        Examples
        --------
        >>> from sklearn.linear_model import LogisticRegression
        >>> PoolView(LogisticRegression().fit([[-1.0], [1.0]], [0, 1]), [[0.0]]).predict_proba()
        array([[0.5, 0.5]])
        """
        return self._probabilities

    @functools.cached_property
    def _probabilities(self) -> NDArray[np.floating]:
        if self.state is not None and (self._goes_by_state or self._sees_itself):
            return self.state.predict_proba()
        check_predicts_probabilities(self.learner)
        if self._laplace is not None:  # whose features are known
            return self._laplace[0].predict_proba(Extracted(self.features))
        return self.learner.predict_proba(self.X)

    # whether predictions are those of the state, whatever the learner's are
    _goes_by_state = False
    # where the rows are in the pool of the query; None if they are all of it
    places: NDArray[np.int64] | None = None
    # the view that this one is a part of, and where
    _whole: "tuple[PoolView, NDArray[np.int64]] | None" = None
    # the view before any label was supposed, and where they have been since
    _first: "tuple[PoolView, NDArray[np.int64]] | None" = None

    @property
    def _sees_itself(self) -> bool:
        """Whether the state predicts what the classifier predicts."""
        return self._laplace is not None and self._laplace[0].predictive != "monte_carlo"

    @functools.cached_property
    def features(self) -> NDArray[np.floating]:
        """Features of the pool, (n_pool, n_features): those of the extractor, or X itself."""
        return as_array(self._features) if self._first is None else self._first[0].features

    def rows(self, positions: NDArray[np.integer]) -> NDArray[np.floating]:
        """Features of some instances, without a copy of the others on the host.

        Parameters
        ----------
        positions : ndarray of int of shape (n,)
            In the pool.

        Returns
        -------
        ndarray of shape (n, n_features)

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> PoolView(clf, [[0.0], [2.0]]).rows(np.array([1]))
        array([[2.]])
        """
        return as_array(self._features[positions])

    @functools.cached_property
    def _features(self) -> Features:
        """Features of the pool where they are kept."""
        if self._first is not None:
            return self._first[0]._features
        if self._whole is not None:
            whole, kept = self._whole
            return whole._features[kept]
        if self._kept is not None and self._laplace is not None:
            return self._kept.features_under(self._laplace[0])
        if self.state is not None:
            return self.state.features
        return check_array(as_array(self.X), dtype=feature_dtype(self.X))

    @functools.cached_property
    def labelled(self) -> NDArray[np.floating]:
        """Features of the labelled instances, (n_labelled, n_features); there may be none."""
        if self._first is not None:
            first, supposed = self._first
            return np.concatenate([first.labelled, first.rows(supposed)])
        if self._whole is not None:
            return self._whole[0].labelled
        labelled = self.rows(self.labelled_positions)
        outside = np.flatnonzero(self.labelled_positions < 0)
        if len(outside):
            X = rows_at(self._instances, outside)
            if self._laplace is None:
                labelled[outside] = check_array(as_array(X), dtype=feature_dtype(X))
            else:
                classifier, before = self._laplace
                labelled[outside] = classifier.transform(before(X))
        return labelled

    @functools.cached_property
    def labelled_positions(self) -> NDArray[np.int64]:
        """Positions of the labelled instances in the pool, (n_labelled,); -1 outside it."""
        if self._first is not None:
            first, supposed = self._first
            return np.concatenate([first.labelled_positions, supposed])
        if self._whole is not None:
            whole, kept = self._whole
            places = np.full(len(whole) + 1, -1)  # the last stands for what is outside
            places[kept] = np.arange(len(kept))
            return places[whole.labelled_positions]
        positions = np.full(0 if self._instances is None else _num_samples(self._instances), -1)
        pool = getattr(self.learner, "pool_", None)
        if pool is not None and pool.X is self.X:
            taught = self.learner.labels_.position.fillna(-1).to_numpy(np.int64)
            positions[len(positions) - len(taught) :] = taught  # initial instances come first
        return positions

    @functools.cached_property
    def _instances(self) -> Any:
        X = getattr(self.learner, "instances_", None)
        return getattr(self.learner, "X_training", None) if X is None else X  # modAL's

    def part(self, positions: NDArray[np.int64]) -> Self:
        """The view of some instances of the pool, as if there were no others.

        Parameters
        ----------
        positions : ndarray of int of shape (n,)
            Distinct, in the pool.

        Returns
        -------
        PoolView

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> PoolView(clf, [[0.0], [2.0], [5.0]]).part(np.array([0, 2])).features
        array([[0.],
               [5.]])
        """
        part = copy.copy(self)
        for name in _COMPUTED:
            vars(part).pop(name, None)
        part.X = rows_at(self.X, positions)
        part._whole, part._first = (self, positions), None
        part.places = positions if self.places is None else self.places[positions]
        return part

    def after(self, position: int, state: PoolState | None) -> Self:
        """The view after an instance of the pool has been labelled.

        Parameters
        ----------
        position : int
        state : PoolState or None
            State that has observed the label; None for a learner without a posterior.

        Returns
        -------
        PoolView

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> view = PoolView(clf, [[0.0], [2.0]])
        >>> view.after(1, view.state.copy().observe(1, 1)).labelled
        array([[2.]])
        """
        later = copy.copy(self)
        for name in ("_probabilities", "labelled", "labelled_positions"):
            vars(later).pop(name, None)
        first, supposed = self._first or (self, np.empty(0, dtype=np.int64))
        later.state, later._goes_by_state = state, True
        later._first = first, np.append(supposed, position)
        return later


def check_predicts_probabilities(learner: Any) -> None:
    """Refuse a learner without ``predict_proba``, whether it is fitted or not.

    Parameters
    ----------
    learner : ActiveLearner, classifier, pipeline, or modAL's ActiveLearner or Committee

    Raises
    ------
    TypeError
        If it, or the estimator that it teaches, predicts no probabilities.

    Examples
    --------
    >>> from sklearn.svm import LinearSVC
    >>> check_predicts_probabilities(LinearSVC())
    Traceback (most recent call last):
        ...
    TypeError: The strategy needs a learner with predict_proba; got LinearSVC...
    """
    if hasattr(learner, "query"):  # it has every method, whatever its estimator has
        taught = [getattr(learner, name) for name in _ESTIMATORS if hasattr(learner, name)]
        learner = (taught or [learner])[0]
    if hasattr(learner, "predict_proba"):
        return
    parts = learner.get_params().values() if hasattr(learner, "get_params") else ()
    if any(_is_stacked_by_default(part) for part in (learner, *parts)):
        return
    raise TypeError(
        f"The strategy needs a learner with predict_proba; got {type(learner).__name__}. Wrap it "
        "in CalibratedClassifierCV, or use a strategy that needs no probabilities, e.g. CoreSet, "
        "TypiClust or RandomSampling."
    )


def _is_stacked_by_default(estimator: Any) -> bool:
    """Whether it has the final estimator, which predicts probabilities, only once it is fitted."""
    return isinstance(estimator, StackingClassifier) and estimator.final_estimator is None


# Where learners of ours and of modAL keep what they have fitted.
_ESTIMATORS = ("estimator_", "estimator")
# What a view computes once, of its own rows.
_COMPUTED = ("state", "_probabilities", "features", "_features", "labelled", "labelled_positions")
