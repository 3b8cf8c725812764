"""The side of a learner that is read: its attributes and predictions."""

import numbers
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_scalar

from laplace_al._common.typing import Instances
from laplace_al.inputs.classes import class_indices
from laplace_al.inputs.known import Extracted
from laplace_al.inputs.labels import as_labels, like_known
from laplace_al.loop.state import DurableState
from laplace_al.loop.trainer import Trainer
from laplace_al.loop.training_data import TrainingData
from laplace_al.pool.scored import ScoredPool


class ReadableLearner:
    """The attributes and predictions of a learner, each from one reading of its published state."""

    _state: DurableState
    _trainer: Trainer
    _training_data: TrainingData

    @property
    def estimator_(self) -> Any:
        """The copy of ``estimator`` that has learnt the labels so far."""
        return self._state.now.trained.estimator

    @property
    def is_fitted(self) -> bool:
        """True once there is a model."""
        return self._state.now.trained.is_fitted

    @property
    def X_pool(self) -> Instances:  # noqa: N802
        """The unlabelled instances, those that were added last."""
        return self._state.now.trained.pool.X

    @property
    def pool_(self) -> ScoredPool:
        """The pool with its features and predictions."""
        return self._state.now.trained.pool

    @property
    def labels_(self) -> pd.DataFrame:
        """The valid label of each instance, in the order of teaching.

        The position is missing for instances from outside the pool, and the time is UTC. The index
        numbers all labels that were ever taught, so that a label keeps its row when others are
        withdrawn.
        """
        return self._state.now.history.labels_frame()

    @property
    def history_(self) -> pd.DataFrame:
        """All events in the order of time.

        Their actions are "label", "skip", "relabel", "unlabel", "unskip", "extend" and "refit"; the
        column row is the row of the label in ``labels_``. The position of "extend" is the last one
        of the longer pool.
        """
        return self._state.now.history.events_frame()

    @property
    def instances_(self) -> Instances | None:
        """Instances that have a label, initial ones first; None if there is none."""
        trained, history = self._state.now
        return self._training_data.instances(history, trained.pool.X)

    def predict(self, X: Instances | Extracted) -> NDArray[Any]:
        """Predict the labels of instances.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,)

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If there is no model yet.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[0.5]],
        ...                         X_initial=[[-1.0], [1.0]], y_initial=[0, 1])
        >>> learner.predict([[3.0]]), learner.predict_proba([[0.0]]), learner.score([[3.0]], [1])
        (array([1]), array([[0.5, 0.5]]), 1.0)
        """
        return self._state.now.trained.fitted_estimator.predict(X)

    def predict_proba(self, X: Instances | Extracted) -> NDArray[np.floating]:
        """Predict the class probabilities of instances.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of ``estimator_.classes_``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If there is no model yet.
        """
        return self._state.now.trained.fitted_estimator.predict_proba(X)

    def score(self, X: Instances | Extracted, y: ArrayLike) -> float:
        """Return the score of the estimator on labelled instances: the accuracy of a classifier.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)

        Returns
        -------
        float

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If there is no model yet.
        """
        return self._state.now.trained.fitted_estimator.score(X, as_labels(y))

    def suspects(self, n: int = 10) -> pd.DataFrame:
        """Rank labels by how improbable they are to a model that has not learnt them.

        The probabilities are those of leave-one-out, in closed form, see
        :meth:`LaplaceUpdateClassifier.leave_one_out_proba`: no model is fitted. Look at the first
        ones again, and call ``relabel`` where the label is wrong.

        Parameters
        ----------
        n : int, default=10
            Number of labels at most.

        Returns
        -------
        DataFrame with columns position, label, probability, predicted, annotator
            The most improbable label first. The index is that of ``labels_``, ``probability`` that
            of the label, and ``predicted`` the most probable class.

        Raises
        ------
        TypeError
            If the estimator is no :class:`LaplaceUpdateClassifier`.
        ValueError
            If n is not an integer >= 1.
        sklearn.exceptions.NotFittedError
            If there is no model yet.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> X, y = load_iris(return_X_y=True)
        >>> y[7] = 2
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), X)
        >>> learner.teach(range(150), y).suspects(1)[["position", "label", "predicted"]]
           position  label  predicted
        7         7      2          0
        """
        n = check_scalar(n, "n", numbers.Integral, min_val=1)
        trained, history = self._state.now
        proba = self._trainer.leave_one_out_proba(trained, history)
        classes = trained.estimator.classes_
        places = class_indices(like_known(history.labels, classes), classes)
        probability = proba[np.arange(len(proba)), places]
        frame = history.labels_frame().assign(
            probability=probability, predicted=classes[proba.argmax(axis=1)]
        )
        first = np.argsort(probability, kind="stable")[:n]
        return frame.iloc[first][["position", "label", "probability", "predicted", "annotator"]]

    def kept_inputs(self, X: Instances) -> Instances | Extracted:
        """Return inputs for repeated predictions: their features, if the estimator extracts some.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Must not change.

        Returns
        -------
        array-like or Extracted
            Pass it to the methods of the estimator in place of X.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(np.square), RandomSampling(), [[0.5]],
        ...                         X_initial=[[0.0], [2.0]], y_initial=[0, 1])
        >>> learner.kept_inputs([[3.0]]).features
        array([[9.]])
        """
        return self._trainer.kept_inputs(self._state.now.trained, X)
