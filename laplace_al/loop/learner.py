"""The loop of active learning: query, teach, and now and then refit."""

import contextlib
import copy
import datetime
import functools
import itertools
import numbers
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples, check_consistent_length

from laplace_al._common.transaction import Turn, in_turn
from laplace_al._common.typing import Instances, Path, RandomState
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.inputs.blocks import check_unmasked, comes_in_blocks, concatenated, rows_at
from laplace_al.inputs.features import Extracted, KeptFeatures
from laplace_al.inputs.labels import (
    as_labels,
    check_declared,
    check_labels,
    check_utf8,
    class_indices,
    distinct_classes,
    like_known,
)
from laplace_al.loop.journal import Journal
from laplace_al.loop.record import Action, Event, Record
from laplace_al.pool.checks import check_container, check_numbers
from laplace_al.pool.scored import ScoredPool, extracted
from laplace_al.strategies.base import QueryStrategy
from laplace_al.strategies.checks import check_distinct, check_n_instances, check_positions
from laplace_al.strategies.random import RandomSampling
from laplace_al.strategies.view import check_predicts_probabilities

RefitEvery: TypeAlias = int | Literal["auto"] | None

# Of the MAP of all labels, in posterior standard deviations: where refit_every="auto" refits.
_MAX_DRIFT = 1.0
# A refused fit is tried again on labels repeated up to so many, and each so many times at least.
_MANY, _MIN_TIMES = 200, 20
# Of what needs all labels at once.
_CURES_OF_SETTINGS = {
    "class_weight='balanced'": "class_weight as a dict",
    "early_stopping=True": "early_stopping=False",
}


class ActiveLearner:
    """A classifier, a query strategy and a pool of unlabelled instances.

    Positions always refer to ``X_pool`` as it was given: labelled instances are not queried again,
    but the positions of the others stay the same. The pool must not change while it is in use: its
    features are computed once, and each label updates its predictions in one pass.

    The learner can start without any label. It keeps labels until the estimator can be fitted,
    which takes labels of two classes, initial ones included, unless ``classes`` names the classes.
    Some estimators take more: nearest neighbours, or what cross-validates, such as
    ``GridSearchCV``. A warning then tells what they say, and classes with too few labels are left
    out of the fit for so long. Until there is a model, queries of strategies that need predictions
    are random.

    Threads may share a learner: calls that change it, and queries, wait for each other, and
    predictions are of the model before or after such a call.

    Parameters
    ----------
    estimator : classifier
        Learns the labels. The learner works on a copy and leaves the estimator unchanged; the copy
        of a fitted estimator with a ``partial_fit`` continues from what it has learnt.
        ``prior_precision="scale"`` is computed from the features of the pool.
    strategy : QueryStrategy
        Chooses the instances to label. It is copied as well.
    X_pool : array-like of shape (n_pool, ...)
        Unlabelled instances to query. May be a ``torch.utils.data.Dataset`` of inputs alone, or an
        array in a file, as of HDF5, of which slices are read. Rows that the estimator could not
        learn from, with NaN or infinity, are refused at once, or when their features are extracted.
    X_initial : array-like of shape (n_initial, ...), default=None
        Instances with labels, to start from.
    y_initial : array-like of shape (n_initial,), default=None
        Their labels.
    classes : array-like of shape (n_classes,), default=None
        All labels that may occur; others are refused. None: a new label opens a class, by
        ``add_classes`` if the estimator has that method, else by a refit.
    refit_every : int, "auto" or None, default="auto"
        Number of new labels after which the estimator is refitted on all labels. None: never;
        ``partial_fit`` learns every label. ``"auto"``: a LaplaceUpdateClassifier is refitted when
        these updates have drifted more than one posterior standard deviation from the result of a
        fit, see :meth:`LaplaceUpdateClassifier.newton_decrement`, or never if it has
        ``forgetting < 1``. Of the others, those with ``partial_fit`` are refitted when an update
        leaves them with probabilities of NaN, as it may in Gaussian naive Bayes, and those
        without it, or with ``class_weight="balanced"`` or ``early_stopping=True`` that it does not
        take, are after each label.
    journal : str or path-like, default=None
        SQLite file to which each label is written before it counts as taught, see
        :class:`laplace_al.loop.journal.Journal`. If it exists, the learner resumes where the file
        ends, with the same labels and the same model. Only one learner at a time can use it, and
        no process that is forked from its own.
    annotator : str, default=None
        Name of the annotator, stored with each label.
    random_state : int, RandomState instance or None, default=None
        Seeds the strategy, unless that has a ``random_state`` of its own. Two queries with nothing
        taught or skipped in between return the same positions.
    verbose : int, default=0
        If positive, prints a line for each refit.

    Attributes
    ----------
    estimator_ : classifier
        The copy of ``estimator`` that has learnt the labels so far.
    labels_ : DataFrame with columns position, label, time, annotator
        The valid label of each instance, in the order of teaching. The position is missing for
        instances from outside the pool, and the time is UTC. The index numbers all labels that were
        ever taught, so that a label keeps its row when others are withdrawn.
    history_ : DataFrame with columns action, position, label, time, annotator, row
        All events: "label", "skip", "relabel", "unlabel", "unskip", "refit". The column row is the
        row of the label in ``labels_``.
    instances_ : array-like of shape (n_labelled, ...) or None
        Instances that have a label, initial ones first.
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
        If the strategy has no method ``query``, the estimator lacks the ``predict_proba`` that it
        needs or the ``partial_fit`` that ``refit_every`` relies on, or ``X_pool`` is a
        ``DataLoader`` or a ``Dataset`` that returns more than inputs.
    RuntimeError
        If another learner uses the journal.

    See Also
    --------
    simulate : Runs the loop on data whose labels are known.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
    >>> from laplace_al.strategies import MarginSampling
    >>> X, y = load_iris(return_X_y=True)
    >>> learner = ActiveLearner(LaplaceUpdateClassifier(), MarginSampling(), X,
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
        strategy: QueryStrategy,
        X_pool: Instances,
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
        self.X_pool = X_pool
        self.X_initial = X_initial
        self.y_initial = y_initial
        self.classes = classes
        self.refit_every = refit_every
        self._refit_every = _check_refit_every(refit_every, estimator)
        self.journal = journal
        self.annotator = annotator
        self.random_state = random_state
        self.verbose = verbose

        self._turn = Turn()
        if (X_initial is None) != (y_initial is None):
            raise ValueError("X_initial and y_initial must be given together, or neither.")
        self.strategy = strategy
        check_container(X_pool)
        check_numbers(X_pool, estimator)
        _checked_annotator(annotator)
        self._seed = check_random_state(random_state).randint(2**31)
        self._journal = None
        self.estimator_ = copy.deepcopy(estimator)
        if classes is not None and "classes" in estimator.get_params(deep=False):
            self.estimator_.set_params(classes=classes)
        declared = self._declared_classes()
        if declared is not None:
            check_declared(getattr(estimator, "class_weight", None), declared)
        self.is_fitted = X_initial is None and hasattr(estimator, "classes_")
        # what is left when all labels are withdrawn
        self._start = self.estimator_
        # what a refit starts from when the data behind the estimator is not known
        is_all_known = not self.is_fitted or not hasattr(estimator, "partial_fit")
        self._given = None if is_all_known else self.estimator_
        if self.is_fitted:
            _check_fitted(estimator)
        self.pool_ = ScoredPool(X_pool)
        self._kept = KeptFeatures()
        self._n_since_refit = 0
        self._refusal: ValueError | None = None
        self._y_initial: NDArray[Any] | None = None
        self._record = Record.empty(_num_samples(X_pool))
        if X_initial is not None:
            check_consistent_length(X_initial, y_initial)
            check_unmasked(X_initial, "X_initial")
            if _num_samples(X_initial) == 0:
                raise ValueError("X_initial has no rows. Leave it out to start without labels.")
            self._y_initial = self._check_y(y_initial, _num_samples(X_initial), "y_initial")
            self._check_instances(
                X_initial, "X_initial", is_fitted_next=self._can_fit(self._record)
            )
            self._install(self._fitted_or_waiting(self._record), self._record)
        if journal is not None:
            self._journal = Journal(journal, X_pool)
        try:
            if self._journal is not None:
                self._resume(self._journal.batches())
            self._warn_of(self._model, stacklevel=3)
        except BaseException:
            self.close()
            raise

    @property
    def strategy(self) -> QueryStrategy:
        """What chooses, as it was given; another one can be set at any time."""
        return self._given_strategy

    @strategy.setter
    @in_turn
    def strategy(self, strategy: QueryStrategy) -> None:
        if not hasattr(strategy, "query"):
            raise TypeError(
                f"strategy must have a method query; got {strategy!r}. Pass an object of "
                "laplace_al.strategies, e.g. MarginSampling()."
            )
        if getattr(strategy, "reads_probabilities", False):
            check_predicts_probabilities(self.estimator)
        self._strategy = clone(strategy)
        self._given_strategy = strategy

    @property
    def labels_(self) -> pd.DataFrame:
        """A row for each instance that was taught, with its valid label."""
        return self._record.labels_frame()

    @property
    def history_(self) -> pd.DataFrame:
        """A row for each event."""
        return self._record.history_frame()

    @property
    def instances_(self) -> Instances | None:
        """Instances that have a label, initial ones first; None if there is none."""
        labelled = self._record.labelled
        if not labelled:
            return self.X_initial
        X = self._given_rows(labelled)
        return X if self.X_initial is None else _stack(self.X_initial, X)

    @in_turn
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
        >>> from laplace_al.strategies import MarginSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), MarginSampling(), [[2.0], [0.1]],
        ...                         X_initial=[[-1.0], [1.0]], y_initial=[0, 1])
        >>> learner.query()
        array([1])
        """
        is_open = self._record.is_open
        n_instances = check_n_instances(n_instances, int(is_open.sum()))
        seed = [self._seed, len(self._record.events)]
        if getattr(self.strategy, "random_state", 0) is None:
            self._strategy.set_params(random_state=np.random.RandomState(seed))
        try:
            return self._strategy.query(self, self.X_pool, n_instances, candidates=is_open)
        except NotFittedError:
            if self.is_fitted:
                raise
        if isinstance(self.estimator_, LaplaceUpdateClassifier):
            self.pool_.features_under(self.estimator_)  # what is wrong with them is told now
        return RandomSampling(random_state=np.random.RandomState(seed)).query(
            self, self.X_pool, n_instances, candidates=is_open
        )

    @in_turn
    def teach(
        self,
        indices: ArrayLike | None = None,
        y: ArrayLike | None = None,
        *,
        X: Instances | None = None,
        annotator: str | None = None,
    ) -> Self:
        """Learn the labels of instances, from the pool or from outside it.

        Parameters
        ----------
        indices : int or array-like of shape (n_instances,), default=None
            Positions in ``X_pool``; skipped instances are allowed.
        y : label or array-like of shape (n_instances,)
            Text, booleans, integers or floats without fraction, of the kind of the labels so far,
            whose type they take: 2.0 among integers is 2.
        X : array-like of shape (n_instances, ...), default=None
            Instances from outside the pool, in place of ``indices``.
        annotator : str, default=None
            Name of the annotator. None: that of the learner.

        Returns
        -------
        ActiveLearner
            This object.

        Raises
        ------
        ValueError
            If a position is not in the pool, is given twice or already has a label, a label is
            missing or of another kind, the estimator refuses the labels, or the journal is closed.
            Nothing is then learnt or recorded. An estimator that would take more such labels waits
            for them, with a ``UserWarning``.

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
        if (indices is None) == (X is None):
            raise ValueError(
                "teach takes either positions in the pool, teach(indices, y), or other instances, "
                "teach(X=X, y=y): pass one of indices and X."
            )
        if X is None:
            indices = check_positions(indices, _num_samples(self.X_pool))
            labelled = indices[self._record.is_labelled[indices]]
            if len(labelled):
                raise ValueError(
                    "indices must be positions without a label; labelled already: "
                    f"{labelled.tolist()}. To change a label call relabel."
                )
            y = self._check_y(y, len(indices))
            events = [
                self._event("label", annotator, position=position, label=label)
                for position, label in zip(indices.tolist(), y.tolist(), strict=True)
            ]
        else:
            check_unmasked(X)
            y = self._check_y(y, _num_samples(X))
            events = [
                self._event("label", annotator, label=label, instance=rows_at(X, [i]))
                for i, label in enumerate(y.tolist())
            ]
        return self._happened(events)

    @in_turn
    def skip(self, indices: ArrayLike, *, annotator: str | None = None) -> Self:
        """Never query these instances again; they can still be taught.

        Parameters
        ----------
        indices : int or array-like of shape (n_instances,)
            Positions in ``X_pool`` that have no label.
        annotator : str, default=None

        Returns
        -------
        ActiveLearner
            This object.

        Raises
        ------
        ValueError
            If a position is not in the pool, is given twice or has a label.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0]])
        >>> learner.skip(0).query()
        array([1])
        """
        indices = check_positions(indices, _num_samples(self.X_pool))
        labelled = indices[self._record.is_labelled[indices]]
        if len(labelled):
            raise ValueError(
                "indices must be positions without a label to be skipped; labelled: "
                f"{labelled.tolist()}. To withdraw a label call unlabel."
            )
        return self._happened(
            [self._event("skip", annotator, position=position) for position in indices.tolist()]
        )

    @in_turn
    def unskip(self, indices: ArrayLike, *, annotator: str | None = None) -> Self:
        """Let skipped instances be queried again; the model does not change.

        Parameters
        ----------
        indices : int or array-like of shape (n_instances,)
            Positions in ``X_pool`` that were skipped, and not taught since.
        annotator : str, default=None

        Returns
        -------
        ActiveLearner
            This object.

        Raises
        ------
        ValueError
            If a position is not in the pool, is given twice or is not skipped.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0]])
        >>> sorted(learner.skip(0).unskip(0).query(2).tolist())
        [0, 1]
        """
        indices = check_positions(indices, _num_samples(self.X_pool))
        others = indices[~self._record.is_skipped[indices]]
        if len(others):
            raise ValueError(
                "indices must be positions that are skipped, to query them again; not skipped: "
                f"{others.tolist()}. To withdraw a label call unlabel."
            )
        return self._happened(
            [self._event("unskip", annotator, position=position) for position in indices.tolist()]
        )

    @in_turn
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
            Positions in ``X_pool`` that have a label.
        y : label or array-like of shape (n_instances,)
            The right labels.
        rows : int or array-like of shape (n_instances,), default=None
            Values of the index of ``labels_``, in place of ``indices``: instances from outside the
            pool have no position.
        annotator : str, default=None

        Returns
        -------
        ActiveLearner
            This object.

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
        >>> learner.teach(X=[[0.0]], y=[1]).relabel(rows=3, y=0).labels_.label.tolist()
        [1, 0, 1, 0]
        """
        taught = self._taught("relabel", indices, rows)
        y = self._check_y(y, len(taught))
        events = [
            self._event(
                "relabel",
                annotator,
                position=old.position,
                label=label,
                instance=old.instance,
                row=old.row,
            )
            for old, label in zip(taught, y.tolist(), strict=True)
        ]
        return self._happened(events, refit=self.is_fitted)

    @in_turn
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
            Positions in ``X_pool`` that have a label.
        rows : int or array-like of shape (n_instances,), default=None
            Values of the index of ``labels_``, in place of ``indices``: instances from outside the
            pool have no position.
        annotator : str, default=None
            Name of the annotator who withdraws them. None: that of the learner.

        Returns
        -------
        ActiveLearner
            This object.

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
        >>> labels = learner.labels_
        >>> learner.unlabel(rows=labels.index[labels.label == "maybe"]).labels_.label.tolist()
        ['yes']
        """
        taught = self._taught("unlabel", indices, rows)
        events = [
            self._event("unlabel", annotator, position=old.position, row=old.row) for old in taught
        ]
        return self._happened(events, refit=self.is_fitted)

    @in_turn
    def refit(self) -> Self:
        """Refit the estimator on all labels, the initial ones included.

        An estimator that was passed fitted, on data that the learner does not know, learns all
        labels again with ``partial_fit`` from that fitted state.

        Returns
        -------
        ActiveLearner
            This object.

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
        return self._happened([], refit=True)

    @in_turn
    def close(self) -> None:
        """Release the journal. The learner can still predict, but no longer be taught.

        Examples
        --------
        >>> import tempfile
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> settings = LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0]]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with ActiveLearner(*settings, journal=folder + "/labels.sqlite") as learner:
        ...         learner = learner.teach([0], ["cat"])
        ...     with ActiveLearner(*settings, journal=folder + "/labels.sqlite") as learner:
        ...         learner.labels_.label.tolist()
        ['cat']
        """
        if self._journal is not None:
            self._journal.close()

    def __getstate__(self) -> dict[str, Any]:
        if self._journal is not None:
            raise TypeError(
                f"The journal {str(self.journal)!r} is a file that one learner has open, so "
                "neither of them can be copied or pickled. Make another ActiveLearner with a "
                "journal of its own."
            )
        return vars(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def predict(self, X: Instances) -> NDArray[Any]:
        """Labels predicted by the estimator, see its ``predict``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,)

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[0.5]],
        ...               X_initial=[[-1.0], [1.0]], y_initial=[0, 1]).predict([[3.0]])
        array([1])
        """
        return self._fitted_estimator.predict(X)

    def predict_proba(self, X: Instances) -> NDArray[np.floating]:
        """Class probabilities predicted by the estimator, see its ``predict_proba``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[0.5]],
        ...               X_initial=[[-1.0], [1.0]], y_initial=[0, 1]).predict_proba([[0.0]])
        array([[0.5, 0.5]])
        """
        return self._fitted_estimator.predict_proba(X)

    def score(self, X: Instances, y: ArrayLike) -> float:
        """Accuracy of the estimator, see its ``score``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)

        Returns
        -------
        float

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[0.5]],
        ...               X_initial=[[-1.0], [1.0]], y_initial=[0, 1]).score([[3.0]], [1])
        1.0
        """
        return self._fitted_estimator.score(X, as_labels(y))

    def kept_inputs(self, X: Instances) -> Instances | Extracted:
        """Inputs for repeated predictions: their features, if the estimator extracts features.

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
        >>> import numpy as np
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(np.square), RandomSampling(), [[0.5]],
        ...                         X_initial=[[0.0], [2.0]], y_initial=[0, 1])
        >>> learner.kept_inputs([[3.0]]).features
        array([[9.]])
        """
        is_extracted = getattr(self.estimator_, "feature_extractor", None) is not None
        if not is_extracted or not self.is_fitted or comes_in_blocks(X):
            return X
        return Extracted(self._kept.of([X], self.estimator_.transform)[0])

    @property
    def _fitted_estimator(self) -> Any:
        """The estimator, where there is a model."""
        if not self.is_fitted:
            raise NotFittedError(
                f"{type(self.estimator_).__name__} is not fitted yet: it waits for more labels. "
                "Teach some, or pass X_initial."
            ) from self._refusal
        return self.estimator_

    @property
    def _model(self) -> "_Model":
        return _Model(
            self.estimator_, self.is_fitted, self.pool_, self._n_since_refit, self._refusal
        )

    def _install(self, model: "_Model", record: Record) -> None:
        names = "estimator_", "is_fitted", "pool_", "_n_since_refit", "_refusal"
        installed = dict(zip(names, model, strict=True), _record=record)
        vars(self).update(installed)  # at once for other threads

    def _happened(self, events: Sequence[Event], *, refit: bool = False) -> Self:
        """Learn what happened at once and write it down: all of it or nothing."""
        if self._journal is not None:
            self._journal.check()
        record = self._record.add(events)
        model = None if refit else self._updated(events, record)
        if refit or model is None:
            model = self._fitted_or_waiting(record) if events else self._refitted(record)
            self._warn_of(model, stacklevel=4)
            if model.is_fitted or (refit and model.refusal is None):
                events = [*events, self._event("refit", None)]
                record = self._record.add(events)
        before = self._model, self._record
        try:
            self._install(model, record)
            if self._journal is not None:
                self._journal.append(record.batches[-1])
        except BaseException:
            self._install(*before)
            if self._journal is not None and self._journal.holds(len(record.batches)):
                self._install(model, record)  # an interrupt came when it was written already
            raise
        return self

    def _resume(self, batches: Sequence[Sequence[Event]]) -> None:
        """Take over what a journal holds."""
        refits = [any(event.action == "refit" for event in batch) for batch in batches]
        n_fitted = max((i + 1 for i, refit in enumerate(refits) if refit), default=0)
        try:
            record = self._record.add_all(batches[:n_fitted])
            whole = record.add_all(batches[n_fitted:])
        except ValueError as error:
            raise ValueError(
                f"journal={str(self.journal)!r} is damaged: {error}. Take a copy that is whole, or "
                "name another file."
            ) from error
        self._like_declared_or_known(whole.labels, f"journal={str(self.journal)!r}")
        if n_fitted:
            self._install(self._fitted_or_waiting(record), record)
        since = whole.batches[n_fitted:]
        model: _Model | None = self._model
        for batch in since if self.is_fitted else [tuple(itertools.chain(*since))]:
            model = self._learnt(batch, whole)
            if model is None:
                break
            self._install(model, whole)
        if model is None or self._has_drifted(model, whole):
            self._refit_resumed(whole)  # other settings wrote this: with these, a fit is due

    def _refit_resumed(self, record: Record) -> None:
        """Fit anew on all that a journal holds, and write down that this was done."""
        assert self._journal is not None
        model = self._fitted_or_waiting(record)
        if model.is_fitted:
            record = record.add([self._event("refit", None)])
            self._journal.append(record.batches[-1])
        self._install(model, record)

    def _updated(self, events: Sequence[Event], record: Record) -> "_Model | None":
        """Model that has learnt events by an update; None where it takes a fit."""
        model = self._learnt(events, record)
        if model is None or model.estimator is self.estimator_:
            return model
        return None if self._has_drifted(model, record) else model

    def _learnt(self, events: Sequence[Event], record: Record) -> "_Model | None":
        """Model that has learnt events by an update, however far from a fit; None where none is."""
        taught = [event for event in events if event.action in ("label", "relabel")]
        if not taught:
            return self._model
        y = np.array([event.label for event in taught])
        if not self.is_fitted:
            can_fit = self._can_fit(record)
            self._check_instances(self._given_rows(taught), "X", is_fitted_next=can_fit)
            return None if can_fit else self._model
        is_due = (
            isinstance(self._refit_every, numbers.Integral)
            and self._n_since_refit + len(y) >= self._refit_every
        )
        opens_class = not np.isin(y, self.estimator_.classes_).all()
        if is_due or (opens_class and not hasattr(self.estimator_, "add_classes")):
            return None
        return self._conditioned(events)

    def _has_drifted(self, model: "_Model", record: Record) -> bool:
        """Whether updates have gone too far from a fit for ``refit_every="auto"``."""
        if self.refit_every != "auto" or self._given is not None or not model.n_since_refit:
            return False
        if self._refit_every != "auto":
            return not self._predicts_numbers(model.estimator)
        X, y = self._training_set(record)
        return bool(model.estimator.newton_decrement(X, y) > _MAX_DRIFT)

    def _conditioned(self, events: Sequence[Event]) -> "_Model":
        """Model after a ``partial_fit`` with the labels of events."""
        events = [event for event in events if event.action == "label"]
        if not events or not self.is_fitted:
            return self._model
        # our own classifier rebinds its attributes, so that a shallow copy is one
        is_ours = isinstance(self.estimator_, LaplaceUpdateClassifier)
        estimator = (copy.copy if is_ours else copy.deepcopy)(self.estimator_)
        y = np.array([event.label for event in events])
        new = np.setdiff1d(y, estimator.classes_)
        if len(new):
            estimator.add_classes(new)
        estimator.partial_fit(self._rows(events), y)
        positions = [event.position for event in events if event.position is not None]
        if (
            is_ours
            and not len(new)
            and len(positions) == len(events)
            and self.pool_.is_under(self.estimator_)
        ):
            pool = self.pool_.after_update(estimator, positions, y)
        else:
            pool = self.pool_.after_fit()
        return _Model(estimator, True, pool, self._n_since_refit + len(events))

    def _fitted_or_waiting(self, record: Record) -> "_Model":
        """Model fitted anew, or none where there are too few classes for one."""
        if not record.labelled and self.X_initial is None:
            is_fitted = hasattr(self._start, "classes_")
            return _Model(copy.deepcopy(self._start), is_fitted, self.pool_.after_fit(), 0)
        if self._given is None and not self._can_fit(record):
            return _Model(clone(self.estimator_), False, self.pool_.after_fit(), 0)
        if isinstance(self.estimator_, LaplaceUpdateClassifier):
            return self._refitted(record)
        try:
            fitted = self._refitted(record)
        except ValueError as error:
            if not self._is_for_want_of_labels(record):
                raise
            model = self._fitted_without_rare(record, error)
            if self.is_fitted and not model.is_fitted:  # a model is not given up
                raise
            return model
        if self._declares_in_partial_fit() and not self._predicts_numbers(fitted.estimator):
            return _Model(clone(self.estimator_), False, self.pool_.after_fit(), 0)
        return fitted

    def _predicts_numbers(self, estimator: Any) -> bool:
        """Whether probabilities are no NaN, as those of naive Bayes after single instances are."""
        if not hasattr(estimator, "predict_proba"):
            return True
        some = rows_at(self.X_pool, [0, _num_samples(self.X_pool) - 1])
        with np.errstate(all="ignore"):  # what comes of it is looked at
            return not np.isnan(estimator.predict_proba(some)).any()

    def _fitted_without_rare(self, record: Record, refusal: ValueError) -> "_Model":
        """Model of the classes that have labels enough for a fit, or none."""
        X, y = self._training_set(record)
        classes, counts = np.unique(y, return_counts=True)
        for least in np.unique(counts)[1:]:
            frequent = classes[counts >= least]
            rows = np.flatnonzero(np.isin(y, frequent))
            if len(frequent) > 1:
                with contextlib.suppress(ValueError):
                    estimator = self._fitted(rows_at(X, rows), y[rows])
                    return _Model(estimator, True, self.pool_.after_fit(), 0, refusal)
        return _Model(clone(self.estimator_), False, self.pool_.after_fit(), 0, refusal)

    def _warn_of(self, model: "_Model", *, stacklevel: int) -> None:
        """Tell that an estimator waits for more labels than those of two classes."""
        if model.refusal is not None:
            until_then = (
                f"it knows the classes {model.estimator.classes_.tolist()} alone"
                if model.is_fitted
                else "queries are random"
            )
            warnings.warn(
                f"{type(self.estimator_).__name__} cannot be fitted on so few labels and waits for "
                f"more; until then {until_then}: {model.refusal}",
                UserWarning,
                stacklevel=stacklevel,
            )

    def _is_for_want_of_labels(self, record: Record) -> bool:
        """Whether an estimator that refuses the labels takes them many times over."""
        X, y = self._training_set(record)
        rows = np.tile(np.arange(len(y)), max(_MIN_TIMES, _MANY // len(y)))
        try:
            self._fitted(rows_at(X, rows), y[rows])
        except ValueError:
            return False
        return True

    def _refitted(self, record: Record) -> "_Model":
        """Model fitted anew on all labels."""
        X, y = self._training_set(record)
        if self.verbose:
            print(f"[ActiveLearner] fitting {type(self.estimator_).__name__} on {len(y)} labels")
        return _Model(self._fitted(X, y), True, self.pool_.after_fit(), 0)

    def _fitted(self, X: Any, y: NDArray[Any]) -> Any:
        """The estimator fitted anew, which can predict."""
        if self._given is not None:
            estimator = copy.deepcopy(self._given)
            new = np.setdiff1d(y, estimator.classes_)
            if len(new) and hasattr(estimator, "add_classes"):
                estimator.add_classes(new)
            estimator.partial_fit(X, y)
        elif len(np.unique(y)) == 1 and self._declares_in_partial_fit():
            # where scikit-learn's incremental classifiers take a single class, other than in fit
            estimator = clone(self.estimator_).partial_fit(
                X, y, classes=np.unique(as_labels(self.classes, "classes"))
            )
        else:
            estimator = copy.deepcopy(self.estimator_)
            if (
                isinstance(estimator, LaplaceUpdateClassifier)
                and estimator.prior_precision == "scale"
            ):
                estimator.set_params(prior_precision=self.pool_.prior_precision_by_scale(estimator))
            estimator.fit(X, y)
        if not isinstance(estimator, LaplaceUpdateClassifier):
            estimator.predict(rows_at(X, [0]))  # nearest neighbours refuse not before
        return estimator

    def _training_set(self, record: Record) -> tuple[Any, NDArray[Any]]:
        """All instances with labels, initial ones first, and their labels."""
        if self.X_initial is None or self._y_initial is None:
            if not record.labelled:
                raise ValueError("There is no label to fit on yet. Teach some, or pass X_initial.")
            return self._rows(record.labelled), record.labels
        if not record.labelled:
            return self.X_initial, self._y_initial
        X = self._rows(record.labelled)
        y = np.concatenate([self._y_initial, record.labels])
        if isinstance(X, Extracted):
            initial = self._kept.of([self.X_initial], self.estimator_.transform)
            return Extracted(np.concatenate([*initial, X.features])), y
        return _stack(self.X_initial, X), y

    def _rows(self, events: Sequence[Event]) -> Any:
        """Instances of events: their features where those are known, else as they were given."""
        inside, outside = _inside_and_outside(events)
        if not hasattr(self.estimator_, "posterior_"):
            return self._given_rows(events)
        features = self.pool_.rows_under(self.estimator_, inside)
        others = self._kept.of(outside, self.estimator_.transform)
        return Extracted(_in_order(events, features, others))

    def _given_rows(self, events: Sequence[Event]) -> Any:
        inside, outside = _inside_and_outside(events)
        return _in_order(events, rows_at(self.X_pool, inside), outside)

    def _can_fit(self, record: Record) -> bool:
        """Whether the labels so far are enough for a first fit."""
        y = record.labels
        if self._y_initial is not None:
            y = np.concatenate([self._y_initial, y])
        declares_itself = (
            hasattr(self.estimator_, "partial_fit")
            and getattr(self.estimator_, "classes", None) is not None
        )
        return len(np.unique(y)) > 1 or declares_itself or self._declares_in_partial_fit()

    def _declares_in_partial_fit(self) -> bool:
        return (
            self.classes is not None
            and hasattr(self.estimator_, "partial_fit")
            and not hasattr(self.estimator_, "classes")
            and _takes_all_at_once(self.estimator_) is None
        )

    def _check_instances(self, X: Instances, name: str, *, is_fitted_next: bool) -> None:
        """Refuse what a fit would refuse, or take for other columns than those of the pool."""
        if not isinstance(self.estimator_, LaplaceUpdateClassifier):
            return
        _check_like(X, self.X_pool, name)
        if not is_fitted_next:
            extracted(self.estimator_, X)

    def _event(self, action: Action, annotator: str | None, **what: Any) -> Event:
        annotator = _checked_annotator(self.annotator if annotator is None else annotator)
        return Event(action, time=datetime.datetime.now(datetime.UTC), annotator=annotator, **what)

    def _check_y(self, y: Any, n_labels: int, name: str = "y") -> NDArray[Any]:
        """Labels, of the type of those so far and among the declared classes."""
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
        y, _ = check_labels(y, None, n_labels)
        return self._like_declared_or_known(y, name)

    def _like_declared_or_known(self, y: NDArray[Any], name: str) -> NDArray[Any]:
        declared = self._declared_classes()
        if declared is not None:
            return declared[class_indices(y, declared, name)]
        return like_known(y, self._known_labels(), name)

    def _declared_classes(self) -> NDArray[Any] | None:
        """All labels that may occur, where they are declared."""
        declared = getattr(self.estimator_, "classes", None)
        declared = self.classes if declared is None else declared
        return None if declared is None else distinct_classes(declared)

    def _known_labels(self) -> NDArray[Any]:
        """Some labels so far, of initial instances, others or what the estimator has learnt."""
        if self._y_initial is not None:
            return self._y_initial[:1]
        if self._record.labelled:
            return np.array([self._record.labelled[0].label])
        return as_labels(self.estimator_.classes_)[:1] if self.is_fitted else np.empty(0)

    def _taught(self, method: str, indices: Any, rows: Any) -> list[Event]:
        """Valid labels of positions in the pool, or in rows of ``labels_``."""
        if (indices is None) == (rows is None):
            raise ValueError(
                f"{method} takes either positions in the pool, {method}(indices), or rows of "
                f"labels_, {method}(rows=rows): pass one of indices and rows."
            )
        if rows is None:
            indices = check_positions(indices, _num_samples(self.X_pool))
            unlabelled = indices[~self._record.is_labelled[indices]]
            if len(unlabelled):
                raise ValueError(
                    f"indices must be positions that have a label, to {method} it; without: "
                    f"{unlabelled.tolist()}. Call teach to give one."
                )
            at = {event.position: event for event in self._record.labelled}
            return [at[position] for position in indices.tolist()]
        rows = check_distinct("rows", rows, "rows of labels_")
        known = {event.row: event for event in self._record.labelled}
        missing = [row for row in rows.tolist() if row not in known]
        if missing:
            raise ValueError(
                f"rows must be in the index of labels_, which holds the {len(known)} valid labels; "
                f"not there: {missing}."
            )
        return [known[row] for row in rows.tolist()]


class _Model(NamedTuple):
    """What a learner has learnt."""

    estimator: BaseEstimator
    is_fitted: bool
    pool: ScoredPool
    n_since_refit: int
    refusal: ValueError | None = None  # of a fit on fewer labels than the estimator needs


def _checked_annotator(annotator: Any) -> str | None:
    """The name of an annotator as plain text, if it is one."""
    if annotator is None:
        return None
    if not isinstance(annotator, str):
        raise TypeError(
            f"annotator must be a text or None; got {annotator!r} of type "
            f"{type(annotator).__name__}. Pass str(annotator)."
        )
    check_utf8("annotator", [annotator])
    return str.__str__(annotator)  # of a member of an Enum, str() may give its name


def _check_like(X: Any, X_pool: Any, name: str) -> None:
    """Refuse rows that are not like those of a pool."""
    if hasattr(X, "columns") and hasattr(X_pool, "columns"):
        pairs = enumerate(itertools.zip_longest(X.columns, X_pool.columns))
        for place, (found, expected) in pairs:
            if found != expected and not (found != found and expected != expected):  # NaN
                raise ValueError(
                    f"{name} must have the columns of X_pool in the same order; column {place} is "
                    f"{found!r}, that of X_pool {expected!r}. Pass {name}[X_pool.columns]."
                )
    if len(getattr(X_pool, "shape", ())) > 1:
        shape = np.shape(X)[1:] if hasattr(X, "shape") else np.shape(X[0])
        expected = tuple(X_pool.shape[1:])
        if shape != expected:
            raise ValueError(
                f"{name} must have rows of shape {expected}, as X_pool has; got {shape}."
            )


def _check_refit_every(refit_every: Any, estimator: BaseEstimator) -> RefitEvery:
    """Valid number of labels between refits, which "auto" is only for what measures its drift."""
    is_count = isinstance(refit_every, numbers.Integral) and not isinstance(refit_every, bool)
    if refit_every not in (None, "auto") and not (is_count and refit_every >= 1):
        raise ValueError(
            f"refit_every must be None, 'auto' or an integer >= 1; got {refit_every!r}."
        )
    setting = _takes_all_at_once(estimator)
    if refit_every == "auto":
        if setting is not None or not hasattr(estimator, "partial_fit"):
            return 1
        is_drift_known = hasattr(estimator, "newton_decrement") and estimator.forgetting == 1
        return "auto" if is_drift_known else None
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
    return refit_every


def _check_fitted(estimator: BaseEstimator) -> None:
    """Whether an estimator can go on from data that only it knows."""
    if not hasattr(estimator, "partial_fit"):
        warnings.warn(
            f"{type(estimator).__name__} has no partial_fit: what it has learnt is lost when it is "
            "fitted on the first labels. Pass the data behind it as X_initial and y_initial.",
            UserWarning,
            stacklevel=3,
        )
    elif (setting := _takes_all_at_once(estimator)) is not None:
        raise ValueError(
            f"{setting} needs all labels at once, but the labels behind a fitted "
            f"{type(estimator).__name__} are not known. Pass {_CURES_OF_SETTINGS[setting]}, or the "
            "estimator unfitted, with its data as X_initial and y_initial."
        )


def _takes_all_at_once(estimator: BaseEstimator) -> str | None:
    """The setting with which an estimator refuses updates, if it has one."""
    class_weight = getattr(estimator, "class_weight", None)
    if isinstance(class_weight, str) and class_weight == "balanced":
        return "class_weight='balanced'"
    # True of networks and linear models; elsewhere the name is of other settings
    return "early_stopping=True" if getattr(estimator, "early_stopping", None) is True else None


def _inside_and_outside(events: Sequence[Event]) -> tuple[list[int], list[Any]]:
    """Positions of those in the pool, and instances of the others."""
    inside = [event.position for event in events if event.position is not None]
    return inside, [event.instance for event in events if event.position is None]


def _in_order(events: Sequence[Event], inside: Any, outside: list[Any]) -> Any:
    """Rows of events from rows of the pool and, one by one, from outside it."""
    if not outside:
        return inside
    rows = functools.reduce(_stack, [inside, *outside] if _num_samples(inside) else outside)
    is_outside = np.array([event.position is None for event in events])
    return rows_at(rows, np.argsort(np.argsort(is_outside, kind="stable")))


def _stack(first: Any, second: Any) -> Any:
    """Rows of two containers, in the kind of the first."""
    if isinstance(first, pd.DataFrame) and not isinstance(second, pd.DataFrame):
        second = pd.DataFrame(second, None, first.columns)
    elif isinstance(first, list):
        second = list(second)
    return concatenated([first, second])
