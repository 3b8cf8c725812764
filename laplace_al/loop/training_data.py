"""The instances that a learner may learn from, and the labels that they may have."""

import functools
import itertools
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _num_samples, check_consistent_length
from torch.utils import data

from laplace_al._common.typing import Instances
from laplace_al.inputs.blocks import check_unmasked, concatenated, rows_at
from laplace_al.inputs.classes import class_indices, distinct_classes
from laplace_al.inputs.labels import as_labels, like_known
from laplace_al.inputs.soft_labels import is_matrix, soft_labels
from laplace_al.inputs.weighted_labels import check_labels
from laplace_al.loop.consensus import certain_or_not, probabilities_frame
from laplace_al.loop.event import Event, Events
from laplace_al.loop.history import History


class TrainingData:
    """The initial instances with their labels, the classes, and what instances look like.

    They look like those of the pool, which may grow. The classes are all labels that may occur:
    those of a parameter ``classes`` of the estimator, or else ``classes``; None if neither names
    any. Labels are in the type of the first ones, of which an estimator that comes fitted knows
    some where there are no initial ones.
    """

    def __init__(
        self,
        X_pool: Instances,
        X_initial: Instances | None,
        y_initial: ArrayLike | None,
        classes: ArrayLike | None,
        estimator: BaseEstimator,
    ) -> None:
        if (X_initial is None) != (y_initial is None):
            raise ValueError("X_initial and y_initial must be given together, or neither.")
        self._X_like = X_pool
        self._declared = getattr(estimator, "classes", None)
        self._declared = classes if self._declared is None else self._declared
        self.X_initial = X_initial
        own_classes = getattr(estimator, "classes", None)
        classes = classes if own_classes is None else own_classes
        self.classes = None if classes is None else distinct_classes(classes)
        self._learnt_classes = getattr(estimator, "classes_", None) if X_initial is None else None
        self._y_initial: NDArray[Any] | None = None
        if X_initial is not None:
            check_consistent_length(X_initial, y_initial)
            check_unmasked(X_initial, "X_initial")
            n_initial = _num_samples(X_initial)
            if n_initial == 0:
                raise ValueError("X_initial has no rows. Leave it out to start without labels.")
            self._y_initial = self.check_labels(
                y_initial, n_initial, History.empty(0), name="y_initial"
            )

    def check_labels(
        self, y: Any, n_labels: int, history: History, *, name: str = "y"
    ) -> NDArray[Any]:
        """Return valid labels, (n_labels,), of the type of those so far and among the classes."""
        y = as_labels(
            y,
            name,
            or_one=True,
            if_missing=(
                "Call skip for instances without a label, unlabel to withdraw one."
                if name == "y"
                else "Leave out instances without a label."
            ),
        )
        check_labels(y, None, n_labels)
        return self.like_known(y, history, name=name)

    def with_labels(
        self,
        events: Events,
        y: Any,
        sample_weight: ArrayLike | None,
        history: History,
        classes: NDArray[Any] | None,
    ) -> list[Event]:
        """Return events with valid labels and weights; None leaves the weights as they are.

        ``classes`` are those of the model, if there is one.
        """
        opinions = self._opinions(y, len(events), history, classes)
        events = [
            event._replace(label=label, probabilities=probabilities)
            for event, (label, probabilities) in zip(events, opinions, strict=True)
        ]
        if sample_weight is None:
            return events
        _, weights = check_labels(np.zeros(len(events)), sample_weight, len(events))
        if not weights.all():
            raise ValueError(
                "sample_weight must be > 0; got 0. Call skip for instances that are not to count."
            )
        pairs = zip(events, weights.tolist(), strict=True)
        return [event._replace(weight=weight) for event, weight in pairs]

    def _opinions(
        self, y: Any, n_labels: int, history: History, classes: NDArray[Any] | None
    ) -> list[tuple[Any, tuple[tuple[Any, float], ...] | None]]:
        """Return valid labels, each with the probabilities of all that it may be, if uncertain."""
        if not is_matrix(y):
            return [(label, None) for label in self.check_labels(y, n_labels, history).tolist()]
        soft = soft_labels(y)
        if len(soft) != n_labels:
            raise ValueError(f"y must have a row for each instance, {n_labels}; got {len(soft)}.")
        known = classes if self.classes is None else self.classes
        if soft.columns is not None:
            known = np.unique(self.like_known(soft.columns, history, name="The columns of y"))
        if known is None:
            raise ValueError(
                "y has columns of probabilities, of classes that are not known yet. Pass classes= "
                "to the learner, or a DataFrame with the classes as its columns."
            )
        labels = known.tolist()
        return [
            certain_or_not(dict(zip(labels, row, strict=True)))
            for row in soft.among(known, self._declared).tolist()
        ]

    def like_known(self, y: NDArray[Any], history: History, *, name: str) -> NDArray[Any]:
        """Return labels as declared, or else in the type of those so far; refuse other kinds."""
        if self.classes is not None:
            return self.classes[class_indices(y, self.classes, name)]
        return like_known(y, self._some_known_label(history), name)

    def _some_known_label(self, history: History) -> NDArray[Any]:
        """Return one label in the type of all, or none if there is none yet."""
        if self._y_initial is not None:
            return self._y_initial[:1]
        if history.labelled:
            return np.array([history.labelled[0].label])
        return np.empty(0) if self._learnt_classes is None else as_labels(self._learnt_classes)[:1]

    def check_like_pool(self, X: Any, name: str) -> None:
        """Refuse rows with other columns, or of another shape, than those of the pool."""
        if hasattr(X, "columns") and hasattr(self._X_like, "columns"):
            pairs = enumerate(itertools.zip_longest(X.columns, self._X_like.columns))
            for place, (found, expected) in pairs:
                if found != expected and not (found != found and expected != expected):  # NaN
                    raise ValueError(
                        f"{name} must have the columns of X_pool in the same order; column {place} "
                        f"is {found!r}, that of X_pool {expected!r}. Pass {name}[X_pool.columns]."
                    )
        pool_shape = getattr(self._X_like, "shape", ())
        if len(pool_shape) > 1:
            shape = np.shape(X)[1:] if hasattr(X, "shape") else np.shape(X[0])
            if shape != tuple(pool_shape[1:]):
                raise ValueError(
                    f"{name} must have rows of shape {tuple(pool_shape[1:])}, as X_pool has; got "
                    f"{shape}."
                )

    def labels(self, history: History) -> NDArray[Any]:
        """Return all valid labels, initial ones first, (n_labelled,)."""
        if self._y_initial is None:
            return history.labels
        if not history.labelled:
            return self._y_initial
        return np.concatenate([self._y_initial, history.labels])

    def targets(
        self, history: History
    ) -> tuple[NDArray[Any] | pd.DataFrame, NDArray[np.float64] | None]:
        """Return all labels and their weights, initial ones first, see :func:`targets_of`."""
        known = [] if self._y_initial is None else self._y_initial.tolist()
        initial = [Event("label", label=label) for label in known]
        y, weights = targets_of([*initial, *history.consensus])
        return (y if isinstance(y, pd.DataFrame) else self.labels(history)), weights

    def instances(self, history: History, X_pool: Instances) -> Any:
        """Return all instances that have a label, initial ones first; None if there is none."""
        if not history.labelled:
            return self.X_initial
        X = rows_of(history.consensus, X_pool)
        return X if self.X_initial is None else stacked(self.X_initial, X)


def targets_of(
    events: Events,
) -> tuple[NDArray[Any] | pd.DataFrame, NDArray[np.float64] | None]:
    """Return the labels of events, and their weights (n,), None where all are 1.

    Labels are an array (n,), or the probabilities of the classes where some are uncertain.
    """
    weights = np.array([event.weight for event in events], dtype=np.float64)
    is_uncertain = any(event.probabilities is not None for event in events)
    labels = np.array([event.label for event in events])
    y = probabilities_frame(events) if is_uncertain else labels
    return y, None if (weights == 1).all() else weights


def weighted_copies(
    probabilities: pd.DataFrame, weights: NDArray[np.float64] | None
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.float64]]:
    """Return rows, labels and weights of copies, one for each class that an instance may be of."""
    shares = probabilities.to_numpy()
    shares = shares if weights is None else shares * weights[:, None]
    rows, places = np.nonzero(shares)
    return rows, np.array(probabilities.columns.tolist())[places], shares[rows, places]


def rows_of(events: Events, X_pool: Instances) -> Any:
    """Return the instances of events, as they were given."""
    inside, outside = inside_and_outside(events)
    return in_order(events, rows_at(X_pool, inside), outside)


def inside_and_outside(events: Events) -> tuple[list[int], list[Any]]:
    """Return the positions of events in the pool, and the instances of the others."""
    inside = [event.position for event in events if event.position is not None]
    return inside, [event.instance for event in events if event.position is None]


def in_order(events: Events, inside: Any, outside: list[Any]) -> Any:
    """Return the rows of events, from rows of the pool and, one by one, from outside it."""
    if not outside:
        return inside
    rows = functools.reduce(stacked, [inside, *outside] if _num_samples(inside) else outside)
    is_outside = np.array([event.position is None for event in events])
    return rows_at(rows, np.argsort(np.argsort(is_outside, kind="stable")))


def lengthened(X_pool: Instances, X_new: Any) -> Any:
    """Return a pool with more rows, in the kind of the pool."""
    if isinstance(X_pool, data.Dataset):
        return data.ConcatDataset([X_pool, X_new])
    if isinstance(X_pool, torch.Tensor):
        return torch.cat([X_pool, torch.as_tensor(X_new).to(X_pool)])
    return stacked(X_pool, X_new)


def stacked(first: Any, second: Any) -> Any:
    """Return the rows of two containers, in the kind of the first."""
    if isinstance(first, pd.DataFrame) and not isinstance(second, pd.DataFrame):
        second = pd.DataFrame(second, None, first.columns)
    elif isinstance(first, list):
        second = list(second)
    return concatenated([first, second])
