"""The loop of active learning: query, teach, and now and then refit."""

import copy
import reprlib
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples

from laplace_al._common.synchronized import ObjectLock, synchronized
from laplace_al._common.typing import Instances, Path, RandomState
from laplace_al.inputs.blocks import check_unmasked, rows_at
from laplace_al.loop.event import Event, Events
from laplace_al.loop.growing import GrowingLearner
from laplace_al.loop.history import (
    History,
    checked_annotator,
    checked_positions,
)
from laplace_al.loop.network_trainer import trainer_of
from laplace_al.loop.state import DurableState
from laplace_al.loop.trainer import RefitEvery, check_takes_weights, copy_with_classes
from laplace_al.loop.training_data import TrainingData
from laplace_al.pool.checks import check_container, check_numbers
from laplace_al.strategies import (
    MarginSampling,
    QueryStrategy,
    RandomSampling,
    UncertaintyHerding,
)
from laplace_al.strategies._checks import check_n_instances
from laplace_al.strategies._view import check_predicts_probabilities, classifier_of


class ActiveLearner(GrowingLearner):
    """A classifier, a query strategy and a pool of unlabelled instances.

    Positions refer to ``X_pool`` as it was given, also when some instances have been labelled. The
    pool must not change, but may grow, see :meth:`extend_pool`: features are computed once, and
    each label updates their predictions.

    The learner can start without any label. The estimator is fitted once there are labels of two
    classes, or one if ``classes`` names all. Some estimators need more labels, such as nearest
    neighbours or ``GridSearchCV``: a warning then says so, and classes with too few labels are left
    out meanwhile. Until there is a model, strategies that need predictions choose at random.

    Methods that change the learner return it. Threads may share one: such calls, and queries, wait
    for each other, and predictions are of the model before or after such a call.

    Parameters
    ----------
    estimator : classifier
        Learns the labels. The learner works on a copy and leaves the estimator unchanged; the copy
        of a fitted estimator with a ``partial_fit`` continues from what it has learnt.
        ``prior_precision="scale"`` is computed from the features of the pool, as it is at first.
    strategy : QueryStrategy, default=None
        Chooses the instances to label. It is copied as well. None: ``UncertaintyHerding()``, or
        ``MarginSampling()`` for estimators without a LaplaceUpdateClassifier, as distances between
        their inputs may mean little.
    X_pool : array-like of shape (n_pool, ...)
        Unlabelled instances, always needed: an array, a frame, a ``torch.utils.data.Dataset`` of
        inputs alone, or an array in a file, as of HDF5. Rows with NaN or infinity that the
        estimator could not learn from are refused at once, or when their features are extracted.
    X_initial, y_initial : array-like of shape (n_initial, ...) and (n_initial,), default=None
        Instances to start from, and their labels.
    classes : array-like of shape (n_classes,), default=None
        All labels that may occur; others are refused. None: a new label opens a class, by
        ``add_classes`` if the estimator has that method, else by a refit.
    refit_every : int, "auto" or None, default="auto"
        Number of new labels after which the estimator is refitted on all labels. None: never;
        ``partial_fit`` learns every label. ``"auto"``: a LaplaceUpdateClassifier is refitted when
        ``n_updates / n_fitted`` times its drift from the result of a fit exceeds half a posterior
        standard deviation, where ``n_fitted`` labels were learnt by the last fit and ``n_updates``
        since, see :meth:`LaplaceUpdateClassifier.newton_decrement`; or never if ``forgetting < 1``.
        Other estimators with ``partial_fit`` are refitted when an update leaves probabilities of
        NaN, as it may in Gaussian naive Bayes; those without it, or with
        ``class_weight="balanced"`` or ``early_stopping=True``, after each label. With
        ``train_extractor=True`` a refit trains the network too, from its start unless
        ``warm_start`` is set, and the features of the pool are then computed anew.
    journal : str or path-like, default=None
        SQLite file to which each label is written before it counts as taught, see
        :class:`laplace_al.loop.journal.Journal`. If it exists, the learner resumes where it ends,
        with the same model. One learner at a time can use it, and no fork of its process.
    annotator : str, default=None
        Name of the annotator, stored with each label.
    random_state : int, RandomState instance or None, default=None
        Seeds the strategy, unless that has its own. Two queries with nothing in between are equal.
    verbose : int, default=0
        If positive, print a line for each refit.

    Attributes
    ----------
    estimator_ : classifier
        The copy of ``estimator`` that has learnt the labels so far.
    labels_ : DataFrame with columns position, label, time, annotator, weight, confidence
        The valid labels of each instance, in the order of teaching.
    consensus_ : DataFrame with columns position, label, confidence, weight, n_labels
        What the labels of each instance come to, which is what the estimator learns.
    votes_ : DataFrame with a column for each annotator
        The label of each annotator for each labelled position, NaN where there is none.
    agreement_ : DataFrame with columns n_labels, n_shared, agreement
        How often each annotator agrees with the others.
    history_ : DataFrame with columns action, position, label, time, annotator, row
        All events in the order of time.
    instances_ : array-like of shape (n_labelled, ...) or None
        Instances that have a label, initial ones first.
    is_open : ndarray of bool of shape (n_pool,)
        Which instances of the pool have neither a label nor been skipped.
    is_fitted : bool
        Whether there is a model yet.
    pool_ : ScoredPool
        The pool with its features and predictions.

    Raises
    ------
    ValueError
        If a parameter is invalid, the estimator accepts no NaN and ``X_pool`` has some, or the
        journal is damaged or belongs to another pool.
    TypeError
        If the strategy has no ``query``, the estimator lacks a method that it or ``refit_every``
        needs, or ``X_pool`` is a ``DataLoader`` or a ``Dataset`` that returns more than inputs.
    RuntimeError
        If another learner uses the journal.

    See Also
    --------
    simulate : Runs the loop on data whose labels are known.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> learner = ActiveLearner(LaplaceUpdateClassifier(), X_pool=X,
    ...                         X_initial=X[::50], y_initial=y[::50], random_state=0)
    >>> for _ in range(20):
    ...     position = learner.query()
    ...     learner = learner.teach(position, y[position])
    >>> learner.score(X, y) > 0.9
    True
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        strategy: QueryStrategy | None = None,
        X_pool: Instances | None = None,
        *,
        X_initial: Instances | None = None,
        y_initial: ArrayLike | None = None,
        classes: ArrayLike | None = None,
        refit_every: RefitEvery = "auto",
        journal: Path | None = None,
        annotator: str | None = None,
        random_state: RandomState = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.X_initial, self.y_initial, self.classes = X_initial, y_initial, classes
        self.refit_every, self.journal, self.annotator = refit_every, journal, annotator
        self.random_state, self.verbose = random_state, verbose
        self._lock = ObjectLock()
        checked_annotator(annotator)
        if X_pool is None:
            raise TypeError(
                "X_pool must be given, the instances to choose from; got None. Pass it by name if "
                "there is no strategy: ActiveLearner(estimator, X_pool=X)."
            )
        check_container(X_pool)
        check_numbers(X_pool, estimator)
        own_estimator = copy_with_classes(estimator, classes)
        self._training_data = TrainingData(X_pool, X_initial, y_initial, classes, own_estimator)
        self._trainer = trainer_of(own_estimator, self._training_data, refit_every, verbose)
        self.strategy = strategy
        self._seed = check_random_state(random_state).randint(2**31)
        self._state = DurableState(self._trainer.start(X_pool), History.empty(_num_samples(X_pool)))
        try:
            if journal is not None:
                self._state.resume(journal, X_pool, self._trainer, annotator)
            self._state.now.trained.warn_if_refused()
        except BaseException:
            self.close()
            raise

    @property
    def strategy(self) -> QueryStrategy:
        """The query strategy, as it was given; another one can be set at any time."""
        return self._given_strategy

    @strategy.setter
    @synchronized
    def strategy(self, strategy: QueryStrategy | None) -> None:
        if strategy is None:
            is_ours = classifier_of(self.estimator) is not None
            strategy = UncertaintyHerding() if is_ours else MarginSampling()
        if not hasattr(strategy, "query"):
            raise TypeError(
                f"strategy must have a method query; got {reprlib.repr(strategy)}. Pass an object "
                "of laplace_al.strategies, e.g. MarginSampling(), and the pool as X_pool."
            )
        if getattr(strategy, "reads_probabilities", False):
            check_predicts_probabilities(self.estimator)
        self._copied_strategy = clone(strategy)
        self._given_strategy = strategy

    @synchronized
    def query(self, n_instances: int = 1) -> NDArray[np.int64]:
        """Choose instances to be labelled.

        Parameters
        ----------
        n_instances : int, default=1
            How many to choose: at most as many as are neither labelled nor skipped.

        Returns
        -------
        ndarray of shape (n_instances,)
            Positions in ``X_pool``, best first.

        Raises
        ------
        ValueError
            If fewer than ``n_instances`` are left.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), X_pool=[[2.0], [0.1]],
        ...                         X_initial=[[-1.0], [1.0]], y_initial=[0, 1])
        >>> learner.query()
        array([1])
        """
        trained, history = self._state.now
        n_instances = check_n_instances(n_instances, int(history.is_open.sum()))
        seed = [self._seed, len(history.events)]
        if getattr(self.strategy, "random_state", 0) is None:
            self._copied_strategy.set_params(random_state=np.random.RandomState(seed))
        request = self, self.X_pool, n_instances
        try:
            return self._copied_strategy.query(*request, candidates=history.is_open)
        except NotFittedError:
            if trained.is_fitted:
                raise
        self._trainer.check_pool(trained)
        at_random = RandomSampling(random_state=np.random.RandomState(seed))
        return at_random.query(*request, candidates=history.is_open)

    @synchronized
    def teach(
        self,
        indices: ArrayLike | None = None,
        y: ArrayLike | None = None,
        *,
        X: Instances | None = None,
        sample_weight: ArrayLike | None = None,
        annotator: str | None = None,
    ) -> Self:
        """Learn the labels of instances, from the pool or from outside it.

        An instance of the pool may get a label of each annotator. The shares of the classes in
        their votes are then learnt, by a refit if they change, see ``consensus_``.

        Parameters
        ----------
        indices : int or array-like of shape (n_instances,), default=None
            Positions in ``X_pool``; skipped instances are allowed.
        y : label or array-like of shape (n_instances,) or (n_instances, n_classes)
            Text, booleans, integers or floats without fraction, of the kind of the labels so far,
            whose type they take: 2.0 among integers is 2. Or the probabilities of the classes, see
            :meth:`LaplaceUpdateClassifier.fit`.
        X : array-like of shape (n_instances, ...), default=None
            Instances from outside the pool, in place of ``indices``.
        sample_weight : array-like of shape (n_instances,), default=None
            Weights > 0.
        annotator : str, default=None
            Name of the annotator. None: that of the learner.

        Returns
        -------
        ActiveLearner
            This learner.

        Raises
        ------
        ValueError
            If a position is not in the pool, is given twice or has a label of this annotator, a
            label is missing or of another kind, probabilities do not sum to 1, a weight is not
            positive, the estimator refuses the labels, or the journal is closed. Nothing is then
            learnt or written down. An estimator that needs more labels only warns.
        TypeError
            If the estimator takes no ``sample_weight`` and there are weights or probabilities.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0]])
        >>> learner.teach([0, 1], ["yes", "no"]).predict([[3.0]])
        array(['yes'], dtype='<U3')
        >>> learner.teach(X=[[0.0]], y=["maybe"]).labels_.label.tolist()
        ['yes', 'no', 'maybe']
        """
        history = self._state.now.history
        if (indices is None) == (X is None):
            raise ValueError(
                "teach takes either positions in the pool, teach(indices, y), or other instances, "
                "teach(X=X, y=y): pass one of indices and X."
            )
        annotator = checked_annotator(self.annotator if annotator is None else annotator)
        if X is None:
            must_be = "without a label; labelled already"
            cure = "To change a label call relabel."
            is_free = ~history.is_labelled_by(annotator)
            indices = checked_positions(indices, is_free, must_be, cure)
            events = [Event("label", position) for position in indices.tolist()]
        else:
            check_unmasked(X)
            events = [Event("label", instance=rows_at(X, [i])) for i in range(_num_samples(X))]
        return self._commit(self._with_labels(events, y, sample_weight), annotator)

    @synchronized
    def skip(self, indices: ArrayLike, *, annotator: str | None = None) -> Self:
        """Never query these instances again; they can still be taught.

        Parameters
        ----------
        indices : int or array-like of shape (n_instances,)
            Positions in ``X_pool`` that have no label.
        annotator : str, default=None
            Name of the annotator. None: that of the learner.

        Returns
        -------
        ActiveLearner
            This learner.

        Raises
        ------
        ValueError
            If a position is not in the pool, is given twice or has a label.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0]])
        >>> learner.skip(0).query(), len(learner.unskip(0).query(2))
        (array([1]), 2)
        """
        must_be = "without a label to be skipped; labelled"
        cure = "To withdraw a label call unlabel."
        indices = checked_positions(indices, ~self._state.now.history.is_labelled, must_be, cure)
        return self._commit([Event("skip", position) for position in indices.tolist()], annotator)

    @synchronized
    def unskip(self, indices: ArrayLike, *, annotator: str | None = None) -> Self:
        """Let skipped instances be queried again; the model does not change.

        Parameters
        ----------
        indices : int or array-like of shape (n_instances,)
            Positions in ``X_pool`` that were skipped, and not taught since.
        annotator : str, default=None
            Name of the annotator. None: that of the learner.

        Returns
        -------
        ActiveLearner
            This learner.

        Raises
        ------
        ValueError
            If a position is not in the pool, is given twice or is not skipped.
        """
        must_be = "that are skipped, to query them again; not skipped"
        cure = "To withdraw a label call unlabel."
        indices = checked_positions(indices, self._state.now.history.is_skipped, must_be, cure)
        return self._commit([Event("unskip", position) for position in indices.tolist()], annotator)

    @synchronized
    def relabel(
        self,
        indices: ArrayLike | None = None,
        y: ArrayLike | None = None,
        *,
        rows: ArrayLike | None = None,
        annotator: str | None = None,
    ) -> Self:
        """Correct labels and refit, as if they had been right from the start.

        If only one class is left and ``classes`` does not name more, the estimator waits for a
        second class.

        Parameters
        ----------
        indices : int or array-like of shape (n_instances,), default=None
            Positions in ``X_pool`` that have a label: of the annotator, if there are several.
        y : label or array-like of shape (n_instances,) or (n_instances, n_classes)
            The right labels, or the probabilities of the classes.
        rows : int or array-like of shape (n_instances,), default=None
            Index of ``labels_``, in place of ``indices``, for instances from outside the pool.
        annotator : str, default=None
            Name of the annotator. None: that of the learner.

        Returns
        -------
        ActiveLearner
            This learner.

        Raises
        ------
        ValueError
            If a position or row has no label or is given twice, or the estimator refuses the
            labels. Nothing is then changed.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(),
        ...                         [[2.0], [-1.0], [1.0]])
        >>> learner.teach([0, 1, 2], [0, 0, 1]).relabel(0, 1).labels_.label.tolist()
        [1, 0, 1]
        """
        history = self._state.now.history
        annotator = checked_annotator(self.annotator if annotator is None else annotator)
        labelled = history.find(indices, rows, annotator, method="relabel")
        history.check_owner(labelled, annotator)
        events = [event._replace(action="relabel", time=None) for event in labelled]
        return self._commit(self._with_labels(events, y), annotator, refit=self.is_fitted)

    @synchronized
    def unlabel(
        self,
        indices: ArrayLike | None = None,
        *,
        rows: ArrayLike | None = None,
        annotator: str | None = None,
    ) -> Self:
        """Withdraw labels and refit, as if they had never been given.

        The positions in the pool can be queried again. If only one class is left and ``classes``
        does not name more, the estimator waits for a second class. If no label is left, the
        estimator is reset to the state in which it was passed.

        Parameters
        ----------
        indices : int or array-like of shape (n_instances,), default=None
            Positions in ``X_pool`` that have a label: of the annotator, if there are several.
        rows : int or array-like of shape (n_instances,), default=None
            Index of ``labels_``, in place of ``indices``, for instances from outside the pool.
        annotator : str, default=None
            Name of the annotator. None: that of the learner.

        Returns
        -------
        ActiveLearner
            This learner.

        Raises
        ------
        ValueError
            If a position or row has no label or is given twice, or the estimator refuses the
            labels that are left. Nothing is then changed.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0]])
        >>> learner = learner.teach([0, 1], ["yes", "no"]).teach(X=[[0.0]], y=["maybe"])
        >>> learner.unlabel(1).query()
        array([1])
        >>> learner.unlabel(rows=2).labels_.label.tolist()
        ['yes']
        """
        annotator = checked_annotator(self.annotator if annotator is None else annotator)
        labelled = self._state.now.history.find(indices, rows, annotator, method="unlabel")
        events = [Event("unlabel", event.position, row=event.row) for event in labelled]
        return self._commit(events, annotator, refit=self.is_fitted)

    @synchronized
    def refit(self) -> Self:
        """Refit the estimator on all labels, the initial ones included.

        An estimator that was passed fitted, on data that the learner does not know, learns all
        labels again with ``partial_fit`` from that fitted state.

        Returns
        -------
        ActiveLearner
            This learner.

        Raises
        ------
        ValueError
            If there is no label yet, or the estimator refuses the labels.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0]],
        ...                         classes=[0, 1])
        >>> learner.teach([0, 1], [1, 0]).refit().score([[3.0]], [1])
        1.0
        """
        return self._commit([], refit=True)

    def _with_labels(
        self, events: Events, y: ArrayLike | None, sample_weight: ArrayLike | None = None
    ) -> Events:
        """Return events with labels that the estimator can learn."""
        trained, history = self._state.now
        classes = getattr(trained.estimator, "classes_", None)
        labelled = self._training_data.with_labels(events, y, sample_weight, history, classes)
        if sample_weight is not None or any(event.probabilities for event in labelled):
            check_takes_weights(self.estimator)
        return labelled

    @synchronized
    def close(self) -> None:
        """Release the journal; the learner can still predict, but no longer be taught.

        ``with ActiveLearner(...) as learner:`` does so at the end of the block.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> with ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0]]) as learner:
        ...     position = learner.query()
        """
        self._state.close()

    def __getstate__(self) -> dict[str, Any]:
        if self._state.journal is not None:
            raise TypeError(
                f"The journal {str(self.journal)!r} is a file that one learner has open, so "
                "neither of them can be copied or pickled. Make another ActiveLearner with a "
                "journal of its own."
            )
        return vars(self) | {"_state": copy.copy(self._state)}  # a shallow copy learns by itself

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
