"""The side of a learner that is read: its attributes and predictions."""

import numbers
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_scalar

from laplace_al._common.typing import Instances
from laplace_al.inputs.known import Extracted
from laplace_al.inputs.labels import as_labels
from laplace_al.loop.consensus import probabilities_frame
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
    def is_open(self) -> NDArray[np.bool_]:
        """Mask of the pool, (n_pool,): neither labelled nor skipped."""
        return self._state.now.history.is_open

    @property
    def pool_(self) -> ScoredPool:
        """The pool with its features and predictions."""
        return self._state.now.trained.pool

    @property
    def labels_(self) -> pd.DataFrame:
        """The valid label of each instance, in the order of teaching.

        The position is missing for instances from outside the pool, and the time is UTC. The index
        numbers all labels that were ever taught, so that a label keeps its row when others are
        withdrawn. An instance has a row for each annotator who labelled it. ``confidence`` is the
        probability of the label, below 1 where it was given with probabilities.
        """
        return self._state.now.history.labels_frame()

    @property
    def consensus_(self) -> pd.DataFrame:
        """What the labels of each instance come to, which is what the estimator learns.

        The share of each class in the votes, by weight, is its probability; ``label`` is the most
        probable, of several the one that was given first, ``confidence`` its probability,
        ``weight`` the mean weight of the labels and ``n_labels`` their number.
        """
        return self._state.now.history.consensus_frame()

    @property
    def votes_(self) -> pd.DataFrame:
        """The label of each annotator, a column, for each labelled position, a row; NaN if none.

        It is what ``cleanlab.multiannotator`` takes as ``labels_multiannotator``, once labels are
        numbered.
        """
        return self._state.now.history.votes_frame()

    @property
    def agreement_(self) -> pd.DataFrame:
        """How often each annotator agrees with what the others come to.

        The index are the annotators, ``n_labels`` is the number of their labels in the pool and
        ``n_shared`` that of those on instances which others have labelled. ``agreement`` is the
        mean probability that the votes of the others give to their labels, NaN where there are
        none.
        """
        return self._state.now.history.agreement_frame()

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
        classes, places = trained.estimator.classes_, history.places
        given = probabilities_frame(history.labelled).reindex(columns=classes, fill_value=0.0)
        probability = (given.to_numpy() * proba[places]).sum(axis=1)
        predicted = classes[proba.argmax(axis=1)][places]
        frame = history.labels_frame().assign(probability=probability, predicted=predicted)
        first = np.argsort(probability, kind="stable")[:n]
        return frame.iloc[first][["position", "label", "probability", "predicted", "annotator"]]

    def query_again(self, n_instances: int = 1) -> NDArray[np.int64]:
        """Choose labelled instances that another annotator should label, too.

        These are the ones where annotators disagree and the model, which has not learnt them, see
        :meth:`suspects`, does not know better: with m labels of an instance, the largest of
        ``(m votes + p) / (m + 1)`` is small, the model with its leave-one-out probabilities p being
        one more voter.

        Goh and Mueller, *ActiveLab: Active learning with re-labeling by multiple annotators*, ICLR
        2023 Workshop on Trustworthy ML.

        Parameters
        ----------
        n_instances : int, default=1
            How many to choose, if so many instances of the pool have a label.

        Returns
        -------
        ndarray of shape (n_instances,)
            Positions in ``X_pool``, the least certain first. ``teach`` takes the label of an
            annotator who has not given one there.

        Raises
        ------
        TypeError
            If the estimator is no :class:`LaplaceUpdateClassifier`.
        ValueError
            If n_instances is not an integer >= 1.
        sklearn.exceptions.NotFittedError
            If there is no model yet.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(),
        ...                         [[2.0], [-1.0], [1.5], [-2.0]])
        >>> learner = learner.teach([0, 1, 2, 3], [1, 0, 1, 0], annotator="ann")
        >>> learner.teach([0, 2], [1, 0], annotator="bob").query_again()
        array([2])
        """
        n_instances = check_scalar(n_instances, "n_instances", numbers.Integral, min_val=1)
        trained, history = self._state.now
        proba = self._trainer.leave_one_out_proba(trained, history)
        consensus = history.consensus_frame()
        shares = probabilities_frame(history.consensus)
        shares = shares.reindex(columns=trained.estimator.classes_, fill_value=0.0).to_numpy()
        n_labels = consensus.n_labels.to_numpy()[:, None]
        certainty = ((n_labels * shares + proba) / (n_labels + 1)).max(axis=1)
        inside = consensus.position.notna().to_numpy()
        order = np.argsort(certainty[inside], kind="stable")[:n_instances]
        return consensus.position[inside].to_numpy(np.int64)[order]

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
