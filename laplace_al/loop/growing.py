"""The side of a learner that grows: what it has learnt, its pool, and labels of others."""

from typing import Any, Self

from sklearn.base import BaseEstimator
from sklearn.utils.validation import _num_samples

from laplace_al._common.synchronized import synchronized
from laplace_al._common.typing import Instances, Path
from laplace_al.loop.event import Event, Events
from laplace_al.loop.history import stamped
from laplace_al.loop.merging import labels_to_merge
from laplace_al.loop.readable import ReadableLearner
from laplace_al.loop.state import extension_to
from laplace_al.loop.trainer import check_takes_weights
from laplace_al.loop.training_data import lengthened
from laplace_al.pool.checks import check_container, check_numbers


class GrowingLearner(ReadableLearner):
    """A learner that learns events, whose pool can grow, and that takes over other journals."""

    estimator: BaseEstimator
    annotator: str | None
    _lock: Any

    def _commit(self, events: Events, annotator: str | None = None, *, refit: bool = False) -> Self:
        """Learn the events of one call and write them down: all of it or nothing."""
        self._state.check()
        trained, history = self._state.now
        events = stamped(events, self.annotator if annotator is None else annotator)
        later = history.add(events)
        updated = None if refit else self._trainer.updated(trained, later, later.batches[-1])
        if updated is None:
            fit = self._trainer.fitted_or_waiting if events else self._trainer.refitted
            updated = fit(trained, later)
            updated.warn_if_refused()
            if updated.is_fitted or (refit and updated.refusal is None):
                later = history.add([*events, *stamped([Event("refit")], self.annotator)])
        self._state.publish(updated, later)
        return self

    @synchronized
    def extend_pool(self, X_new: Instances) -> Self:
        """Add unlabelled instances to the pool, behind those that it has.

        Positions stay what they are, and the model does not change. A journal can be resumed with
        the longer pool, by this method or as ``X_pool`` of another learner.

        Parameters
        ----------
        X_new : array-like of shape (n_new, ...)
            Of the kind of ``X_pool``, with its columns. Of these instances alone features are
            extracted and predictions made.

        Returns
        -------
        ActiveLearner
            This learner.

        Raises
        ------
        ValueError
            If the instances have another shape or other columns than the pool, or values that the
            estimator cannot learn from. The pool is then as it was.
        TypeError
            If ``X_new`` is no container that ``X_pool`` may be.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0]])
        >>> learner.teach([0, 1], ["yes", "no"]).extend_pool([[3.0]]).query()
        array([2])
        """
        self._state.check()
        trained, history = self._state.now
        check_container(X_new, "X_new")
        check_numbers(X_new, self.estimator, "X_new")
        if not _num_samples(X_new):
            return self
        self._training_data.check_like_pool(X_new, "X_new")
        X_pool = lengthened(self.X_pool, X_new)
        events = stamped([extension_to(X_pool)], self.annotator)
        self._state.publish(trained.extended(X_pool), history.add(events))
        return self

    @synchronized
    def merge(self, journal: Path, *, annotator: str | None = None) -> Self:
        """Learn the labels in the journal of another learner of the same pool.

        Times and annotators come along. Labels that are here already are not taught again, so that
        a journal can be merged twice. What the other has skipped stays open.

        Parameters
        ----------
        journal : str or path-like
            SQLite file of a learner, which no learner has open, and which is only read. Its pool
            must be this one, or the beginning of it.
        annotator : str, default=None
            Name for labels that were given without one.

        Returns
        -------
        ActiveLearner
            This learner.

        Raises
        ------
        ValueError
            If the file is not there, is no journal or is of another pool, an annotator has given
            another label of the same instance here, or the estimator refuses the labels. Nothing is
            then learnt or written down.
        RuntimeError
            If a learner uses the file.

        Examples
        --------
        >>> import tempfile
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> def learner_of(path, annotator):
        ...     return ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0]],
        ...                          journal=path, annotator=annotator)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with learner_of(folder + "/bob.sqlite", "bob") as bob:
        ...         bob = bob.teach([0, 1], ["yes", "no"])
        ...     with learner_of(folder + "/ann.sqlite", "ann") as ann:
        ...         ann = ann.teach(0, "no").merge(folder + "/bob.sqlite")
        ...         ann.labels_[["position", "label", "annotator"]]
           position label annotator
        0         0    no       ann
        1         0   yes       bob
        2         1    no       bob
        """
        trained, history = self._state.now
        events = labels_to_merge(journal, trained.pool.X, history, annotator)
        if not events:
            return self
        labels = [event.label for event in events]
        self._training_data.check_labels(labels, len(labels), history)
        if any(event.probabilities or event.weight != 1 for event in events):
            check_takes_weights(self.estimator)
        return self._commit(events)
