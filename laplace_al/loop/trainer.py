"""How labels become a model: by updates where the estimator has them, by fits where one is due."""

import contextlib
import copy
import inspect
import itertools
import numbers
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import _num_samples

from laplace_al._common.typing import Instances, Path
from laplace_al._common.warn import warn_user
from laplace_al.inputs.blocks import comes_in_blocks, rows_at
from laplace_al.inputs.known import Extracted, FeatureCache
from laplace_al.inputs.weighted_labels import check_declared
from laplace_al.loop.consensus import agreed, is_same_label, possible_labels
from laplace_al.loop.event import Event, Events
from laplace_al.loop.history import History
from laplace_al.loop.training_data import (
    TrainingData,
    in_order,
    inside_and_outside,
    rows_of,
    targets_of,
    weighted_copies,
)
from laplace_al.pool.scored import ScoredPool, are_few, extracted

RefitEvery: TypeAlias = int | Literal["auto"] | None

# Distance to the MAP of all labels, in posterior standard deviations, at which "auto" refits when
# as many labels have been learnt by updates as by the last fit.
_MAX_DRIFT = 0.5
# A refused fit is tried again on labels repeated up to so many, and each so many times at least.
_MANY, _MIN_TIMES = 200, 20
# Settings that need all labels at once.
_CURES_OF_SETTINGS = {
    "class_weight='balanced'": "class_weight as a dict",
    "early_stopping=True": "early_stopping=False",
}


class Trained(NamedTuple):
    """An estimator trained on the labels so far, and the pool as it sees it: a value.

    ``n_updates`` counts the labels learnt by updates since the last fit. ``refusal`` is the error
    of a fit on fewer labels than the estimator needs.
    """

    estimator: Any
    is_fitted: bool
    pool: ScoredPool
    n_updates: int = 0
    refusal: ValueError | None = None

    def refitted(self, estimator: Any, refusal: ValueError | None = None) -> "Trained":
        """Return the value with an estimator that was fitted anew."""
        return Trained(estimator, True, self.pool.after_fit(), 0, refusal)

    def unfitted(self, refusal: ValueError | None = None) -> "Trained":
        """Return the value without a model, which waits for labels."""
        return Trained(clone(self.estimator), False, self.pool.after_fit(), 0, refusal)

    def extended(self, X_pool: Instances) -> "Trained":
        """Return the value with a longer pool, which begins with the pool so far."""
        return self._replace(pool=self.pool.extended(X_pool, self.estimator))

    @property
    def fitted_estimator(self) -> Any:
        """The estimator; NotFittedError where there is no model."""
        if not self.is_fitted:
            raise NotFittedError(
                f"{type(self.estimator).__name__} is not fitted yet: it waits for more labels. "
                "Teach some, or pass X_initial."
            ) from self.refusal
        return self.estimator

    def warn_if_refused(self) -> None:
        """Warn that the estimator waits for more labels than those of two classes."""
        if self.refusal is not None:
            until_then = (
                f"it knows the classes {self.estimator.classes_.tolist()} alone"
                if self.is_fitted
                else "queries are random"
            )
            warn_user(
                f"{type(self.estimator).__name__} cannot be fitted on so few labels and waits for "
                f"more; until then {until_then}: {self.refusal}"
            )


def copy_with_classes(estimator: BaseEstimator, classes: ArrayLike | None) -> Any:
    """Return a copy of an estimator that is told the classes, if it has a parameter for them."""
    copied = copy.deepcopy(estimator)
    if classes is not None and "classes" in estimator.get_params(deep=False):
        copied.set_params(classes=classes)
    return copied


class Trainer:
    """Trains any classifier of scikit-learn on the labels of a history.

    Methods take values and return new ones. ``refit_every="auto"`` is resolved here: a refit after
    each label without ``partial_fit`` or with settings that need all labels at once, else when an
    update has spoilt the model.
    """

    def __init__(
        self, estimator: BaseEstimator, data: TrainingData, refit_every: RefitEvery, verbose: int
    ) -> None:
        self._start, self._data, self._verbose = estimator, data, verbose
        self._max_updates = _check_refit_every(refit_every, estimator)
        has_updates = hasattr(estimator, "partial_fit")
        self._comes_fitted = data.X_initial is None and hasattr(estimator, "classes_")
        if self._comes_fitted:
            _check_goes_on(estimator)
        if data.classes is not None:
            check_declared(getattr(estimator, "class_weight", None), data.classes)
        # from data that only the estimator knows, to which a refit adds the labels
        self._goes_on = self._comes_fitted and has_updates
        self._weighs = _takes_weights(estimator)
        self._is_automatic = refit_every == "auto" and not self._goes_on
        # scikit-learn's incremental classifiers take a single class, other than in fit
        self._declares_in_partial_fit = (
            data.classes is not None
            and has_updates
            and not hasattr(estimator, "classes")
            and _takes_all_at_once(estimator) is None
        )
        self._fits_one_class = self._declares_in_partial_fit or (
            has_updates and getattr(estimator, "classes", None) is not None
        )

    def start(self, X_pool: Instances, n_start: int | None = None) -> Trained:
        """Return the estimator as it was given, trained on the initial labels if there are some.

        The pool began with so many instances, or with all of them.
        """
        start = Trained(self._start, self._comes_fitted, ScoredPool(X_pool, n_start))
        if self._data.X_initial is None:
            return start
        none = History.empty(0)
        self._check_instances(self._data.X_initial, "X_initial", start, self._can_fit(none))
        return self.fitted_or_waiting(start, none)

    def updated(self, trained: Trained, history: History, events: Events) -> Trained | None:
        """Return the value after an update by the last events; None where a fit is due."""
        later = self._learnt(trained, history, events)
        if later is None or later.estimator is trained.estimator:
            return later
        return None if self._has_drifted(later, history) else later

    def refitted(self, trained: Trained, history: History) -> Trained:
        """Return the value after a fit on all labels."""
        X, y, weights = self._training_set(trained, history)
        if self._verbose:
            name, n_labels = type(trained.estimator).__name__, len(self._data.labels(history))
            print(f"[ActiveLearner] fitting {name} on {n_labels} labels")
        return trained.refitted(self._fitted(trained, X, y, weights))

    def fitted_or_waiting(self, trained: Trained, history: History) -> Trained:
        """Return the value after a fit, or without a model where the labels are too few."""
        if not history.labelled and self._data.X_initial is None:
            start = copy.deepcopy(self._start)
            return Trained(start, self._comes_fitted, trained.pool.after_fit())
        if not self._goes_on and not self._can_fit(history):
            return trained.unfitted()
        return self._fitted_if_accepted(trained, history)

    def resumed(
        self, start: Trained, before: History, batches: Sequence[Events], journal: Path
    ) -> tuple[Trained, History, bool]:
        """Return the value and the history after the batches of a journal.

        The third value says whether a fit was due after them: the journal was then written under
        other settings.
        """
        is_refit = [any(event.action == "refit" for event in batch) for batch in batches]
        n_fitted = max((i + 1 for i, refit in enumerate(is_refit) if refit), default=0)
        try:
            fitted = before.add_all(batches[:n_fitted])
            history = fitted.add_all(batches[n_fitted:])
        except ValueError as error:
            raise ValueError(
                f"journal={str(journal)!r} is damaged: {error}. Take a copy that is whole, or "
                "name another file."
            ) from error
        self._data.like_known(history.labels, before, name=f"journal={str(journal)!r}")
        trained = self.fitted_or_waiting(start, fitted) if n_fitted else start
        since = history.batches[n_fitted:]
        later: Trained | None = trained
        for batch in since if trained.is_fitted else [tuple(itertools.chain(*since))]:
            later = self._learnt(trained, history, batch)
            if later is None:
                break
            trained = later
        is_due = later is None or self._has_drifted(trained, history)
        if is_due:
            trained = self.fitted_or_waiting(trained, history)
        return trained, history, is_due

    def check_pool(self, trained: Trained) -> None:
        """Refuse a pool whose features cannot be learnt from, before there is a model."""

    def kept_inputs(self, trained: Trained, X: Instances) -> Instances | Extracted:
        """Return inputs for repeated predictions: their features, if the estimator makes some."""
        return X

    def leave_one_out_proba(self, trained: Trained, history: History) -> NDArray[np.floating]:
        """Return leave-one-out probabilities (n_labelled, n_classes) of the taught labels."""
        raise TypeError(
            f"{type(trained.estimator).__name__} has no leave-one-out predictions in closed form. "
            "Use LaplaceUpdateClassifier, or rank the labels by the probabilities of "
            "sklearn.model_selection.cross_val_predict."
        )

    def _learnt(self, trained: Trained, history: History, events: Events) -> Trained | None:
        """Return the value after an update, however far from a fit; None where there is none."""
        if trained.is_fitted and any(event.action in ("relabel", "unlabel") for event in events):
            return None
        taught = [event for event in events if event.action in ("label", "relabel")]
        if not taught:
            return trained
        if not trained.is_fitted:
            can_fit = self._can_fit(history)
            self._check_instances(rows_of(taught, trained.pool.X), "X", trained, can_fit)
            return None if can_fit else trained
        n_updates = trained.n_updates + len(taught)
        is_due = self._max_updates is not None and n_updates >= self._max_updates
        opinions = [(event, history.earlier(event)) for event in taught]
        if any(known and not is_confirmed(event, known) for event, known in opinions):
            return None  # what the instance teaches has changed
        taught = [event for event, known in opinions if not known]
        if not taught:
            return trained
        is_known = np.isin(possible_labels(taught), trained.estimator.classes_)
        if is_due or not (is_known.all() or hasattr(trained.estimator, "add_classes")):
            return None
        return self._after_update(trained, taught)

    def _after_update(self, trained: Trained, events: Events) -> Trained:
        """Return the value after a ``partial_fit`` with the labels of events."""
        estimator = self._copied(trained.estimator)
        new = np.setdiff1d(possible_labels(events), estimator.classes_)
        if len(new):
            estimator.add_classes(new)
        X, y, weights = self._learnable(self._rows(trained, events), *targets_of(events))
        estimator.partial_fit(X, y, **_as_parameter(weights))
        n_updates = trained.n_updates + len(events)
        return Trained(estimator, True, trained.pool.after_fit(), n_updates)

    def _copied(self, estimator: Any) -> Any:
        """Return a copy of an estimator that an update may change."""
        return copy.deepcopy(estimator)

    def _has_drifted(self, trained: Trained, history: History) -> bool:
        """Return whether ``refit_every="auto"`` asks for a fit after updates."""
        return self._is_automatic and trained.n_updates > 0 and self._is_far_off(trained, history)

    def _is_far_off(self, trained: Trained, history: History) -> bool:
        """Return whether updates have led too far from a fit: to probabilities of NaN."""
        return not _predicts_numbers(trained)

    def _fitted_if_accepted(self, trained: Trained, history: History) -> Trained:
        """Return the value after a fit; it waits if the estimator would take more such labels."""
        try:
            fitted = self.refitted(trained, history)
        except ValueError as refusal:
            if not self._would_take_more(trained, history):
                raise
            later = self._fitted_on_frequent(trained, history, refusal)
            if trained.is_fitted and not later.is_fitted:  # a model is not given up
                raise
            return later
        if self._declares_in_partial_fit and not _predicts_numbers(fitted):
            return trained.unfitted()
        return fitted

    def _would_take_more(self, trained: Trained, history: History) -> bool:
        """Return whether an estimator that refuses the labels takes them many times over."""
        X, y, _ = self._training_set(trained, history)
        rows = np.tile(np.arange(len(y)), max(_MIN_TIMES, _MANY // len(y)))
        try:
            self._fitted(trained, rows_at(X, rows), y[rows])
        except ValueError:
            return False
        return True

    def _fitted_on_frequent(
        self, trained: Trained, history: History, refusal: ValueError
    ) -> Trained:
        """Return the value after a fit on the classes that have labels enough for one, if any."""
        X, y, weights = self._training_set(trained, history)
        classes, counts = np.unique(y, return_counts=True)
        for least in np.unique(counts)[1:]:
            frequent = classes[counts >= least]
            rows = np.flatnonzero(np.isin(y, frequent))
            if len(frequent) > 1:
                with contextlib.suppress(ValueError):
                    some = None if weights is None else weights[rows]
                    estimator = self._fitted(trained, rows_at(X, rows), y[rows], some)
                    return trained.refitted(estimator, refusal)
        return trained.unfitted(refusal)

    def _fitted(
        self, trained: Trained, X: Any, y: Any, weights: NDArray[np.float64] | None = None
    ) -> Any:
        """Return the estimator fitted anew, which can predict."""
        if self._goes_on:
            estimator = self._gone_on(X, y, weights)
        elif len(np.unique(y)) == 1 and self._declares_in_partial_fit:
            estimator = clone(trained.estimator).partial_fit(
                X, y, classes=self._data.classes, **_as_parameter(weights)
            )
        else:
            estimator = copy.deepcopy(trained.estimator)
            estimator.fit(X, y, **_as_parameter(weights))
        estimator.predict(rows_at(X, [0]))  # nearest neighbours refuse not before
        return estimator

    def _gone_on(self, X: Any, y: Any, weights: NDArray[np.float64] | None) -> Any:
        """Return the estimator that was given fitted, after an update with all labels."""
        estimator: Any = copy.deepcopy(self._start)
        labels = y.columns.tolist() if isinstance(y, pd.DataFrame) else y
        new = np.setdiff1d(labels, estimator.classes_)
        if len(new) and hasattr(estimator, "add_classes"):
            estimator.add_classes(new)
        estimator.partial_fit(X, y, **_as_parameter(weights))
        return estimator

    def _can_fit(self, history: History) -> bool:
        """Return whether the labels so far are enough for a first fit."""
        return self._fits_one_class or len(np.unique(self._data.labels(history))) > 1

    def _learnable(
        self, X: Any, y: NDArray[Any] | pd.DataFrame, weights: NDArray[np.float64] | None
    ) -> tuple[Any, Any, NDArray[np.float64] | None]:
        """Return labels as the estimator learns them: of uncertain ones, weighted copies.

        One that takes no weights learns the most probable label.
        """
        if not isinstance(y, pd.DataFrame):
            return X, y, weights if self._weighs else None
        if not self._weighs:
            return X, np.array(y.columns.tolist())[y.to_numpy().argmax(axis=1)], None
        rows, labels, shares = weighted_copies(y, weights)
        return rows_at(X, rows), labels, shares

    def _training_set(
        self, trained: Trained, history: History
    ) -> tuple[Any, Any, NDArray[np.float64] | None]:
        """Return all instances with labels, initial ones first, their labels and weights."""
        if self._data.X_initial is None and not history.labelled:
            raise ValueError("There is no label to fit on yet. Teach some, or pass X_initial.")
        return self._learnable(self._instances(trained, history), *self._data.targets(history))

    def _instances(self, trained: Trained, history: History) -> Any:
        """Return all instances with labels, in the form that the estimator learns from."""
        return self._data.instances(history, trained.pool.X)

    def _rows(self, trained: Trained, events: Events) -> Any:
        """Return the instances of events, in the form that the estimator learns from."""
        return rows_of(events, trained.pool.X)

    def _check_instances(self, X: Any, name: str, trained: Trained, is_fitted_next: bool) -> None:
        """Refuse instances that a later fit would refuse."""


class LaplaceTrainer(Trainer):
    """Trains a LaplaceUpdateClassifier, on features that are extracted once.

    ``refit_every="auto"`` refits where updates have drifted from the result of a fit.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._feature_cache = FeatureCache()

    def check_pool(self, trained: Trained) -> None:
        """Refuse a pool whose features cannot be learnt from, before there is a model."""
        trained.pool.features_under(trained.estimator)

    def kept_inputs(self, trained: Trained, X: Instances) -> Instances | Extracted:
        """Return inputs for repeated predictions: their features, if the estimator makes some."""
        is_extracted = trained.estimator.feature_extractor is not None
        if not is_extracted or not trained.is_fitted or comes_in_blocks(X):
            return X
        return Extracted(self._feature_cache.of([X], trained.estimator)[0])

    def refitted(self, trained: Trained, history: History) -> Trained:
        """Return the value after a fit on all labels, in whose span the pool is if they are few."""
        later = super().refitted(trained, history)
        n_labels, n_features = len(self._data.labels(history)), later.estimator.coef_.shape[1]
        if self._goes_on or not are_few(n_labels, n_features):
            return later
        labelled = self._instances(later, history).features
        return later._replace(pool=later.pool.after_fit(labelled))

    def leave_one_out_proba(self, trained: Trained, history: History) -> NDArray[np.floating]:
        """Return leave-one-out probabilities (n_labelled, n_classes) of the taught labels."""
        found = trained.fitted_estimator.leave_one_out_proba(*self._training_set(trained, history))
        return found[len(found) - len(history.consensus) :]

    def _learnable(
        self, X: Any, y: NDArray[Any] | pd.DataFrame, weights: NDArray[np.float64] | None
    ) -> tuple[Any, Any, NDArray[np.float64] | None]:
        """Return labels as they are, for this classifier learns the probabilities of classes."""
        return X, y, weights

    def _after_update(self, trained: Trained, events: Events) -> Trained:
        """Return the value after a ``partial_fit``; predictions of the pool follow its labels."""
        later = super()._after_update(trained, events)
        positions, outside = inside_and_outside(events)
        y, weights = targets_of(events)
        is_plain = not isinstance(y, pd.DataFrame) and weights is None
        if outside or not is_plain or not trained.pool.is_under(trained.estimator):
            return later
        return later._replace(pool=trained.pool.after_update(later.estimator, positions, y))

    def _copied(self, estimator: Any) -> Any:
        """Return a shallow copy, for this classifier rebinds its attributes."""
        return copy.copy(estimator)

    def _is_far_off(self, trained: Trained, history: History) -> bool:
        """Return whether the drift by updates is worth a fit, which costs more the more labels.

        The smaller the share of labels that a fit would be new to, the larger it may be.
        """
        if trained.estimator.forgetting != 1:  # there is no fit to compare with
            return False
        X, y, weights = self._training_set(trained, history)
        growth = trained.n_updates / (len(y) - trained.n_updates)
        return bool(growth * trained.estimator.newton_decrement(X, y, weights) > _MAX_DRIFT)

    def _fitted_if_accepted(self, trained: Trained, history: History) -> Trained:
        """Return the value after a fit, which takes any number of labels."""
        return self.refitted(trained, history)

    def _fitted(
        self, trained: Trained, X: Any, y: Any, weights: NDArray[np.float64] | None = None
    ) -> Any:
        """Return the estimator fitted anew, with a prior by the scale of the pool."""
        if self._goes_on:
            return self._gone_on(X, y, weights)
        estimator = copy.deepcopy(trained.estimator)
        if estimator.prior_precision == "scale":
            estimator.set_params(prior_precision=trained.pool.prior_precision_by_scale(estimator))
        return estimator.fit(X, y, weights)

    def _instances(self, trained: Trained, history: History) -> Any:
        """Return the features of all instances with labels, or the instances before a fit."""
        X_initial = self._data.X_initial
        if not trained.is_fitted:
            return self._data.instances(history, trained.pool.X)
        parts = []
        if X_initial is not None:
            parts += self._feature_cache.of([X_initial], trained.estimator)
        if history.labelled:
            parts.append(self._rows(trained, history.consensus).features)
        return Extracted(np.concatenate(parts))

    def _rows(self, trained: Trained, events: Events) -> Any:
        """Return the features of the instances of events, or the instances before a fit."""
        if not trained.is_fitted:
            return rows_of(events, trained.pool.X)
        inside, outside = inside_and_outside(events)
        features = trained.pool.rows_under(trained.estimator, inside)
        others = self._feature_cache.of(outside, trained.estimator)
        return Extracted(in_order(events, features, others))

    def _check_instances(self, X: Any, name: str, trained: Trained, is_fitted_next: bool) -> None:
        """Refuse instances that a later fit would refuse, or read in another order of columns."""
        self._data.check_like_pool(X, name)
        if not is_fitted_next:
            extracted(trained.estimator, X)


def is_confirmed(event: Event, earlier: Events) -> bool:
    """Return whether one more label of an instance leaves what it teaches as it was."""
    return is_same_label(agreed(earlier), agreed([*earlier, event]))


def _as_parameter(weights: NDArray[np.float64] | None) -> dict[str, NDArray[np.float64]]:
    """Return weights as a keyword argument, or none."""
    return {} if weights is None else {"sample_weight": weights}


def _predicts_numbers(trained: Trained) -> bool:
    """Return whether no probability is NaN, as of naive Bayes after single instances."""
    if not hasattr(trained.estimator, "predict_proba"):
        return True
    X_pool = trained.pool.X
    some = rows_at(X_pool, [0, _num_samples(X_pool) - 1])
    with np.errstate(all="ignore"):  # the result is looked at
        return not np.isnan(trained.estimator.predict_proba(some)).any()


def check_takes_weights(estimator: BaseEstimator) -> None:
    """Refuse an estimator that learns neither weights nor uncertain labels."""
    if not _takes_weights(estimator):
        raise TypeError(
            f"{type(estimator).__name__} takes no sample_weight, which it needs to learn weights "
            "and probabilities of labels. Teach plain labels, or use an estimator that takes it."
        )


def _takes_weights(estimator: Any) -> bool:
    """Return whether all methods by which an estimator learns take ``sample_weight``."""
    methods = [estimator.fit, getattr(estimator, "partial_fit", estimator.fit)]
    return all("sample_weight" in inspect.signature(method).parameters for method in methods)


def _check_refit_every(refit_every: Any, estimator: BaseEstimator) -> int | None:
    """Return the number of labels after which a refit is due, whatever the model; None: none."""
    is_count = isinstance(refit_every, numbers.Integral) and not isinstance(refit_every, bool)
    if refit_every not in (None, "auto") and not (is_count and refit_every >= 1):
        raise ValueError(
            f"refit_every must be None, 'auto' or an integer >= 1; got {refit_every!r}."
        )
    setting = _takes_all_at_once(estimator)
    if refit_every == "auto":
        return 1 if setting is not None or not hasattr(estimator, "partial_fit") else None
    if refit_every != 1 and not hasattr(estimator, "partial_fit"):
        raise TypeError(
            f"{type(estimator).__name__} has no partial_fit to learn single labels with; pass "
            "refit_every='auto' or 1 to refit it after each label."
        )
    if refit_every != 1 and setting is not None:
        raise ValueError(
            f"{setting} needs all labels at once, but updates see only the new ones; got "
            f"refit_every={refit_every!r}. Pass refit_every='auto' or 1 to refit after each label, "
            f"or {_CURES_OF_SETTINGS[setting]}."
        )
    return None if refit_every is None else int(refit_every)


def _check_goes_on(estimator: BaseEstimator) -> None:
    """Refuse, or warn of, a fitted estimator that cannot go on from data that only it knows."""
    if not hasattr(estimator, "partial_fit"):
        warn_user(
            f"{type(estimator).__name__} has no partial_fit: what it has learnt is lost when it is "
            "fitted on the first labels. Pass the data behind it as X_initial and y_initial."
        )
    elif (setting := _takes_all_at_once(estimator)) is not None:
        raise ValueError(
            f"{setting} needs all labels at once, but the labels behind a fitted "
            f"{type(estimator).__name__} are not known. Pass {_CURES_OF_SETTINGS[setting]}, or the "
            "estimator unfitted, with its data as X_initial and y_initial."
        )


def _takes_all_at_once(estimator: BaseEstimator) -> str | None:
    """Return the setting with which an estimator refuses updates, if it has one."""
    class_weight = getattr(estimator, "class_weight", None)
    if isinstance(class_weight, str) and class_weight == "balanced":
        return "class_weight='balanced'"
    # True in networks and linear models; elsewhere the name has other meanings
    return "early_stopping=True" if getattr(estimator, "early_stopping", None) is True else None
