"""Pools as strategies see them: each item is computed once, when it is first asked for."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import StackingClassifier
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import _num_samples, check_array

from laplace_al._common.devices import as_array
from laplace_al._common.typing import Choice, Features, Instances, Mask, Rng
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.inputs.blocks import rows_at
from laplace_al.inputs.known import Extracted, feature_dtype
from laplace_al.model.pool_state import PoolState
from laplace_al.pool.scored import ScoredPool
from laplace_al.strategies._ranking import Priorities, by_utility, draw_seed, leaders_among

if TYPE_CHECKING:  # which imports this module
    from laplace_al.strategies._base import QueryStrategy

_Positions = NDArray[np.int64]


class PoolView(ABC):
    """A pool of instances: its features, its labelled instances, and the predictions of a learner.

    ``learner`` is the one that the strategy was asked for, or None; ``X`` (n, ...) are its inputs.
    ``places`` (n,) are their positions in the pool of the query, or None if they are all of it.
    """

    def __init__(self, learner: Any, X: Instances, places: _Positions | None = None) -> None:
        self.learner = learner
        self.X = X
        self.places = places

    def __len__(self) -> int:
        return _num_samples(self.X)

    @property
    @abstractmethod
    def state(self) -> PoolState | None:
        """PoolState, or None if the learner is not a LaplaceUpdateClassifier."""

    @property
    @abstractmethod
    def kept_features(self) -> Features:
        """Features (n, n_features) where they are kept: on the host or on a device."""

    @property
    @abstractmethod
    def labelled(self) -> NDArray[np.floating]:
        """Features of the labelled instances, (n_labelled, n_features); there may be none."""

    @property
    @abstractmethod
    def labelled_positions(self) -> _Positions:
        """Positions of the labelled instances in this view, (n_labelled,); -1 outside it."""

    @property
    def is_labelled(self) -> Mask:
        """Which instances of this view are labelled, (n,)."""
        return np.isin(np.arange(len(self)), self.labelled_positions)

    @abstractmethod
    def _predict(self, positions: _Positions | None) -> NDArray[np.floating]:
        """Probabilities of some instances, or of all if None."""

    def predict_proba(self) -> NDArray[np.floating]:
        """Probabilities (n, n_classes), calibrated if the learner is.

        A learner that predicts none is refused with a TypeError.
        """
        return self._probabilities

    @functools.cached_property
    def _probabilities(self) -> NDArray[np.floating]:
        return self._predict(None)

    @functools.cached_property
    def features(self) -> NDArray[np.floating]:
        """Features (n, n_features) of the extractor, or X itself."""
        return as_array(self.kept_features)

    def rows(self, positions: NDArray[np.integer]) -> NDArray[np.floating]:
        """Features of some instances, without a copy of the others on the host."""
        return as_array(self.kept_features[positions])

    def posterior_state(self, strategy: object) -> PoolState:
        """State for a strategy that needs one; TypeError if there is none."""
        if self.state is None:
            raise TypeError(
                f"{type(strategy).__name__} needs the posterior of a LaplaceUpdateClassifier; got "
                f"{type(self.learner).__name__}. Use one as the estimator, or a strategy "
                "that takes any classifier, e.g. MarginSampling."
            )
        return self.state

    def state_of(self, X: Instances) -> PoolState:
        """State of other inputs under the posterior of this view, imagined labels included.

        It draws the same weights as the state of this view. An ActiveLearner extracts X once.
        """
        known = self.learner.kept_inputs(X) if hasattr(self.learner, "kept_inputs") else X
        state, other = self.state, LearnerView(self.learner, known).state
        assert state is not None  # see posterior_state
        assert other is not None
        return state.elsewhere(other.features)

    def part(self, positions: _Positions) -> "PoolView":
        """View of the instances at distinct positions, as if there were no others."""
        return PartView(self, positions)

    def after(self, positions: Sequence[int] | _Positions, state: PoolState) -> "PoolView":
        """View of the pool when a state has learnt labels of the instances at these positions."""
        return ImaginedView(self, np.asarray(positions, dtype=np.int64), state)

    def top(
        self,
        strategy: "QueryStrategy",
        limit: int,
        candidates: Mask,
        rng: Rng,
        priorities: Priorities = by_utility,
    ) -> Choice:
        """Return up to ``limit`` candidates, best first, and the utilities of all instances (n,).

        ``priorities`` says how to rank by the utilities of the strategy and by noise.
        """
        utilities = strategy.candidate_utilities(self, candidates, rng)
        leaders = leaders_among(utilities, candidates, limit, draw_seed(rng), priorities)
        return leaders.positions, utilities


class LearnerView(PoolView):
    """A pool as a learner knows it.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
    >>> LearnerView(clf, [[0.0], [2.0]]).predict_proba()[0]
    array([0.5, 0.5])
    """

    @functools.cached_property
    def _laplace(self) -> tuple[LaplaceUpdateClassifier, Callable[[Any], Any]] | None:
        return classifier_of(self.learner)

    @property
    def _kept(self) -> ScoredPool | None:
        """The pool as the learner keeps it, if it is this one and nothing goes before it."""
        pool = getattr(self.learner, "pool_", None)
        is_this = pool is not None and pool.X is self.X
        # a pipeline has something before it, and a search may change its extractor
        return pool if is_this and hasattr(self.learner.estimator_, "pool_state") else None

    @functools.cached_property
    def state(self) -> PoolState | None:
        """Predictions that the learner keeps of its pool, or that it makes now."""
        if self._laplace is None:
            return None
        classifier, before = self._laplace
        if self._kept is not None:
            return self._kept.state_under(classifier)
        return classifier.pool_state(before(self.X))

    @functools.cached_property
    def kept_features(self) -> Features:
        """Features that the learner keeps, or that its extractor makes, or X itself."""
        if self._kept is not None and self._laplace is not None:
            return self._kept.features_under(self._laplace[0])
        if self.state is not None:
            return self.state.features
        return check_array(as_array(self.X), dtype=feature_dtype(self.X))

    @functools.cached_property
    def labelled(self) -> NDArray[np.floating]:
        """Features of the instances that the learner was taught."""
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
    def labelled_positions(self) -> _Positions:
        """Positions of the taught instances; initial ones come first and have none."""
        positions = np.full(0 if self._instances is None else _num_samples(self._instances), -1)
        pool = getattr(self.learner, "pool_", None)
        if pool is not None and pool.X is self.X:
            taught = self.learner.consensus_.position.fillna(-1).to_numpy(np.int64)
            positions[len(positions) - len(taught) :] = taught
        return positions

    @functools.cached_property
    def _instances(self) -> Any:
        X = getattr(self.learner, "instances_", None)
        return getattr(self.learner, "X_training", None) if X is None else X  # modAL's

    def _predict(self, positions: _Positions | None) -> NDArray[np.floating]:
        if self._laplace is not None and self.state is not None:
            return _of_classifier(self._laplace[0], self.state, positions)
        check_predicts_probabilities(self.learner)
        return self.learner.predict_proba(
            self.X if positions is None else rows_at(self.X, positions)
        )


class StateView(PoolView):
    """A pool without labels as a state knows it; the classifier of the state need not be at hand.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
    >>> StateView(clf.pool_state([[0.0]])).predict_proba()
    array([[0.5, 0.5]])
    """

    labelled_positions = np.empty(0, dtype=np.int64)

    def __init__(
        self,
        state: PoolState,
        classifier: LaplaceUpdateClassifier | None = None,
        places: _Positions | None = None,
    ) -> None:
        super().__init__(classifier, state.features, places)
        self._state = state

    @property
    def state(self) -> PoolState:
        """The state."""
        return self._state

    @property
    def kept_features(self) -> Features:
        """Features of the state."""
        return self.state.features

    @property
    def labelled(self) -> NDArray[np.floating]:
        """No rows, (0, n_features)."""
        return self.rows(self.labelled_positions)

    def _predict(self, positions: _Positions | None) -> NDArray[np.floating]:
        return _of_classifier(self.learner, self.state, positions)


class PartView(PoolView):
    """Instances at distinct positions of another view, as if there were no others."""

    def __init__(self, whole: PoolView, positions: _Positions) -> None:
        places = positions if whole.places is None else whole.places[positions]
        super().__init__(whole.learner, rows_at(whole.X, positions), places)
        self.whole = whole
        self.positions = positions

    @functools.cached_property
    def state(self) -> PoolState | None:
        """The same part of the state."""
        return None if self.whole.state is None else self.whole.state.part(self.positions)

    @functools.cached_property
    def kept_features(self) -> Features:
        """The same rows of the features."""
        return self.whole.kept_features[self.positions]

    @property
    def labelled(self) -> NDArray[np.floating]:
        """Features of all labelled instances, in the part or not."""
        return self.whole.labelled

    @functools.cached_property
    def labelled_positions(self) -> _Positions:
        """Positions in the part; -1 outside it."""
        places = np.full(len(self.whole) + 1, -1)  # the last stands for what is outside
        places[self.positions] = np.arange(len(self.positions))
        return places[self.whole.labelled_positions]

    def _predict(self, positions: _Positions | None) -> NDArray[np.floating]:
        places = self.positions if positions is None else self.positions[positions]
        return self.whole._predict(places)


class ImaginedView(PoolView):
    """Another view when a state has learnt imagined labels of instances at some positions."""

    def __init__(self, before: PoolView, positions: _Positions, state: PoolState) -> None:
        super().__init__(before.learner, before.X, before.places)
        self.before = before
        self.positions = positions
        self._state = state

    @property
    def state(self) -> PoolState:
        """The state with the imagined labels."""
        return self._state

    @property
    def kept_features(self) -> Features:
        """Features, which labels do not change."""
        return self.before.kept_features

    @property
    def features(self) -> NDArray[np.floating]:
        """Features, which labels do not change."""
        return self.before.features

    @functools.cached_property
    def labelled(self) -> NDArray[np.floating]:
        """Features of the labelled instances, the imagined last."""
        return np.concatenate([self.before.labelled, self.before.rows(self.positions)])

    @functools.cached_property
    def labelled_positions(self) -> _Positions:
        """Positions of the labelled instances, the imagined last."""
        return np.concatenate([self.before.labelled_positions, self.positions])

    def _predict(self, positions: _Positions | None) -> NDArray[np.floating]:
        return _of_classifier(None, self.state, positions)


def classifier_of(
    learner: Any,
) -> tuple[LaplaceUpdateClassifier, Callable[[Any], Any]] | None:
    """Find the LaplaceUpdateClassifier behind a learner, and what transforms its inputs."""
    estimators = [learner]
    if hasattr(learner, "query"):  # the estimator of a meta-estimator is never fitted
        estimators += [getattr(learner, name, None) for name in _ESTIMATORS]
    for searched in estimators:
        estimator = getattr(searched, "best_estimator_", searched)  # of a GridSearchCV, say
        if isinstance(estimator, GridSearchCV | RandomizedSearchCV):  # unfitted
            estimator = estimator.estimator
        if isinstance(estimator, Pipeline) and hasattr(estimator[-1], "pool_state"):
            return estimator[-1], estimator[:-1].transform
        if hasattr(estimator, "pool_state"):
            return estimator, lambda X: X
    return None


def _of_classifier(
    classifier: LaplaceUpdateClassifier | None, state: PoolState, positions: _Positions | None
) -> NDArray[np.floating]:
    """Predictions of a classifier for some instances; those of its state if it is not at hand."""
    rows = slice(None) if positions is None else positions
    if classifier is None or classifier.predictive != "monte_carlo":
        return state.predict_proba(rows)
    return classifier.predict_proba(Extracted(as_array(state.features[rows])))


def check_predicts_probabilities(learner: Any) -> None:
    """Refuse a learner without ``predict_proba``, whether it is fitted or not."""
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
    """Return whether its final estimator, which predicts probabilities, comes with the fit."""
    return isinstance(estimator, StackingClassifier) and estimator.final_estimator is None


# Where learners of ours and of modAL keep what they have fitted.
_ESTIMATORS = ("estimator_", "estimator")
