"""Features, fits, updates, predictions and queries over the blocks of a Dask array.

Dask does the scheduling: every function builds a graph of tasks, each a pure function of one block
of rows, and passes it to the active scheduler, a cluster (``dask.distributed.Client()``) or
threads. A network or posterior that tasks need besides their blocks is one node of the graph, which
is sent to each worker once. If a worker is lost, Dask computes its results again, with the same
values.

``simulate`` and ``compare`` need nothing from this module: ``compare`` runs on the cluster within
``with joblib.parallel_config("dask"):``.
"""

import contextlib
import copy
import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import dask
import dask.array as da
import dask.distributed  # its defaults, before _CONFIG is set: leaving that would drop them
import numpy as np
import torch
from dask.delayed import Delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted

from laplace_al._common.devices import as_array
from laplace_al._common.transaction import all_or_nothing, on_one_state
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.inputs.features import Extracted, TorchFeatures, share
from laplace_al.inputs.labels import as_labels, check_labels
from laplace_al.model.fitting import prior_precision_by_scale
from laplace_al.model.pool_state import PoolState
from laplace_al.model.posterior import Posterior
from laplace_al.model.posterior.effects import Effect
from laplace_al.pool.scored import extracted, is_accurate, is_followed, rule_of
from laplace_al.strategies.base import QueryStrategy
from laplace_al.strategies.checks import (
    candidates_of_block,
    check_candidates,
    check_n_instances,
    check_positions,
)
from laplace_al.strategies.passes import leaders_of_block
from laplace_al.strategies.ranking import Leaders, draw_seed
from laplace_al.strategies.view import PoolView

_AT_ONCE = 8  # parts that one task adds up
# Layers of a graph that a lost worker may make Dask compute again, each a pass over the features:
# scoring anew takes about as long as 30, so that the bound costs a third of a pass a label.
_MAX_FOLLOWED = 100
# What every task needs is sent once, whatever its size: no reason to warn.
_CONFIG = {"distributed.admin.large-graph-warning-threshold": "1 TiB"}


def features(X: da.Array, feature_extractor: Any, *, batch_size: int = 256) -> da.Array:
    """Features of the rows of an array, from a frozen network that is sent to each worker once.

    Parameters
    ----------
    X : dask Array of shape (n_samples, ...)
    feature_extractor : nn.Module, TorchFeatures, skorch net, transformer or callable
        See :class:`~laplace_al.TorchFeatures`.
    batch_size : int, default=256
        Number of inputs per forward pass; a ``TorchFeatures`` uses its own.

    Returns
    -------
    dask Array of shape (n_samples, n_features)
        Not computed yet. Store it, or ``persist`` it if it fits in the memory of the workers, to
        run the network only once.

    Examples
    --------
    >>> import dask
    >>> import dask.array as da
    >>> with dask.config.set(scheduler="synchronous"):
    ...     features(da.ones((4, 1), chunks=2), np.square).compute().shape
    (4, 1)
    """
    X = _with_sizes(_in_rows(X))
    if isinstance(feature_extractor, TorchFeatures):
        extractor = share(feature_extractor)
    else:
        extractor = TorchFeatures(feature_extractor, batch_size=batch_size)
    some = extractor.fit_transform(_first_rows(X))
    return _mapped(X, extractor, "transform", some)


def predict_proba(classifier: Any, X: da.Array) -> da.Array:
    """Probabilities of the classes for the rows of an array.

    Parameters
    ----------
    classifier : fitted classifier
    X : dask Array of shape (n_samples, ...)

    Returns
    -------
    dask Array of shape (n_samples, n_classes)
        Not computed yet.

    Examples
    --------
    >>> import dask
    >>> import dask.array as da
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
    >>> with dask.config.set(scheduler="synchronous"):
    ...     predict_proba(clf, da.zeros((2, 1), chunks=1)).compute()
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    X = _with_sizes(_in_rows(X))
    return _mapped(X, classifier, "predict_proba", classifier.predict_proba(_first_rows(X)))


def fit(
    classifier: LaplaceUpdateClassifier,
    X: da.Array,
    y: ArrayLike | da.Array,
    sample_weight: ArrayLike | da.Array | None = None,
) -> LaplaceUpdateClassifier:
    """Fit a classifier on the rows of an array, which stay on the workers.

    The MAP is found by Newton steps. Their losses, gradients and products with the Hessian are
    sums over the blocks, which Dask computes in one pass each. So are the precision of the
    posterior and the sums for leave-one-out and calibration. The result equals that of
    ``classifier.fit`` up to rounding.

    Parameters
    ----------
    classifier : LaplaceUpdateClassifier
        Classifier to fit. ``prior_precision`` must be a number or "scale", and ``memory_size`` 0;
        ``warm_start`` is ignored.
    X : dask Array of shape (n_samples, ...)
        Read once: the workers keep its features until the fit is done.
    y : array-like or dask Array of shape (n_samples,)
    sample_weight : array-like or dask Array of shape (n_samples,), default=None

    Returns
    -------
    LaplaceUpdateClassifier
        The classifier. It has ``loo_score_``, but no ``loo_proba_``, and knows the evidence only
        for its own prior precision.

    Raises
    ------
    ValueError
        As in ``fit``, if the prior is lost to rounding beside the features, or if
        ``prior_precision`` is "loo" or "evidence".

    Examples
    --------
    >>> import dask
    >>> import dask.array as da
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> X = da.from_array(np.array([[-1.0], [-2.0], [1.0], [2.0]]), chunks=(2, 1))
    >>> with dask.config.set(scheduler="synchronous"):
    ...     clf = fit(LaplaceUpdateClassifier(), X, ["no", "no", "yes", "yes"])
    >>> clf.predict([[3.0]])
    array(['yes'], dtype='<U3')
    """
    X = _with_sizes(_in_rows(X))
    y, sample_weight = _labels(X, y, sample_weight)

    def distribute(
        begun: LaplaceUpdateClassifier, indices: NDArray[np.int64], weights: NDArray[np.float64]
    ) -> _Total:
        shipped, call = _shipped(_without_posterior(begun)), dask.delayed(_called)
        blocks = [
            (call(shipped, "_labelled_block", block, indices[rows], weights[rows]),)
            for block, rows in _blocks(X)
        ]
        with dask.config.set(_CONFIG):
            return _Total(dask.persist(*blocks))

    return classifier._fit_in_blocks(_first_rows(X), y, sample_weight, distribute)


def partial_fit(
    classifier: LaplaceUpdateClassifier,
    X: da.Array,
    y: ArrayLike | da.Array,
    classes: ArrayLike | None = None,
    sample_weight: ArrayLike | da.Array | None = None,
) -> LaplaceUpdateClassifier:
    """Update a classifier with labels that each block learns separately.

    ``partial_fit`` learns each block starting from the given classifier. The posteriors are then
    merged: the contributions of the blocks to the precision, and to its product with the mean, are
    added up. With ``curvature="gaussian"`` the covariance is that of a single ``partial_fit``.
    Otherwise the curvature of each block is that seen from the given classifier, and large blocks
    of few labels are the better choice.

    Parameters
    ----------
    classifier : LaplaceUpdateClassifier
        Classifier to update. ``forgetting`` must be 1, ``memory_size`` 0, and ``prior_precision``
        a number or "scale", which without ``fit`` is that of the first block.
    X : dask Array of shape (n_samples, ...)
    y : array-like or dask Array of shape (n_samples,)
    classes : array-like of shape (n_classes,), default=None
        See :meth:`LaplaceUpdateClassifier.partial_fit`.
    sample_weight : array-like or dask Array of shape (n_samples,), default=None
        Not all 0 in any block.

    Returns
    -------
    LaplaceUpdateClassifier
        The classifier.

    Raises
    ------
    ValueError
        As in ``partial_fit``, or if a parameter is not as it must be.
    RuntimeError
        If another thread has changed the classifier meanwhile. It is then as that one left it.

    Examples
    --------
    >>> import dask
    >>> import dask.array as da
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> X = da.from_array(np.array([[-1.0], [-2.0], [1.0], [2.0]]), chunks=(2, 1))
    >>> clf = LaplaceUpdateClassifier()
    >>> with dask.config.set(scheduler="synchronous"):
    ...     clf = partial_fit(clf, X, [0, 0, 1, 1], classes=[0, 1])
    >>> clf.predict([[3.0]])
    array([1])
    """
    return _partial_fit(classifier, X, y, classes, sample_weight)


@all_or_nothing
def _partial_fit(
    classifier: LaplaceUpdateClassifier,
    X: da.Array,
    y: ArrayLike | da.Array,
    classes: ArrayLike | None,
    sample_weight: ArrayLike | da.Array | None,
) -> LaplaceUpdateClassifier:
    if (classifier.forgetting, classifier.memory_size) != (1, 0) or (
        classifier.prior_precision in ("loo", "evidence")
    ):
        raise ValueError(
            "Posteriors that are learnt separately can only be merged with forgetting=1, "
            "memory_size=0 and a number or 'scale' for prior_precision; got "
            f"forgetting={classifier.forgetting!r}, memory_size={classifier.memory_size!r}, "
            f"prior_precision={classifier.prior_precision!r}."
        )
    X = _with_sizes(_in_rows(X))
    y, weights = _labels(X, y, sample_weight)
    blocks = _blocks(X)
    if not blocks:
        raise ValueError("X has 0 samples; a minimum of 1 is required.")
    start = copy.copy(classifier)
    if start.prior_precision == "scale" and not hasattr(start, "posterior_"):
        block, rows = blocks[0]
        scale = dask.delayed(_scale_of_block)(_shipped(start), block, weights[rows])
        start.set_params(prior_precision=_computed(scale))
    shipped = _shipped(start)
    learnt = [
        dask.delayed(_learnt)(shipped, block, y[rows], classes, weights[rows])
        for block, rows in blocks
    ]
    merged = _computed(_reduced(learnt, _merged, shipped))
    # the parameters come back from the workers as copies
    classifier.__dict__ = vars(merged) | classifier.get_params(deep=False)
    return classifier


def query(
    strategy: QueryStrategy,
    learner: Any,
    X_pool: da.Array,
    n_instances: int = 1,
    *,
    candidates: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Choose instances of a pool whose blocks are scored on the workers.

    Parameters
    ----------
    strategy : QueryStrategy
        Must score each instance on its own, or be a :class:`~laplace_al.strategies.Preselection`,
        whose candidates are fetched from the workers.
    learner : ActiveLearner or fitted classifier
        The fitted estimator of an ActiveLearner is sent to the workers.
    X_pool : dask Array of shape (n_pool, ...)
    n_instances : int, default=1
    candidates : array-like of bool of shape (n_pool,), default=None
        Which instances may be chosen. None: all.

    Returns
    -------
    ndarray of shape (n_instances,), dtype int64
        Distinct positions, best first: the same as ``strategy.query`` chooses in memory.

    Raises
    ------
    TypeError
        If the strategy compares instances with each other.
    ValueError
        As in ``strategy.query``.

    Examples
    --------
    >>> import dask
    >>> import dask.array as da
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import MarginSampling
    >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
    >>> pool = da.from_array(np.array([[3.0], [0.1], [-2.0]]), chunks=(1, 1))
    >>> with dask.config.set(scheduler="synchronous"):
    ...     query(MarginSampling(), clf, pool)
    array([1])
    """
    ranking, limit, with_rows = _shortlist(strategy, n_instances)
    X_pool = _with_sizes(_in_rows(X_pool, "X_pool"))
    is_open = None if candidates is None else check_candidates(candidates, len(X_pool))
    n_instances = check_n_instances(n_instances, len(X_pool) if is_open is None else is_open.sum())
    rng = check_random_state(strategy.random_state)
    seed = draw_seed(rng)
    shipped = _shipped(learner.estimator_ if hasattr(learner, "teach") else learner)
    parts = [
        dask.delayed(_leaders)(
            ranking,
            shipped,
            block,
            None if is_open is None else is_open[rows],
            limit,
            seed,
            rows.start,
            with_rows,
        )
        for block, rows in _blocks(X_pool)
    ]
    return _settled(strategy, functools.partial(PoolView, learner), parts, n_instances, rng)


@contextlib.contextmanager
def _naming_lost_blocks() -> Iterator[None]:
    """Say what to do if the workers do not hold what they held."""
    try:
        yield
    except (CancelledError, ValueError) as error:
        if isinstance(error, ValueError) and "Missing dependency" not in str(error):
            raise
        raise RuntimeError(
            "The workers no longer hold the features of this pool: the cluster was restarted or "
            "closed, or another one is in use. Make it anew, with the classifier from before the "
            "labels: Pool(classifier, X_pool).teach(pool.positions_, pool.labels_)."
        ) from error


class Pool:
    """A pool on a cluster whose predictions each label updates in one pass over the features.

    :func:`query` scores a pool anew each time, which takes n D^2 operations. Here, the workers keep
    logits and variances. A label changes them along few directions, in n D operations, to the
    values that the updated classifier would give.

    The pool is rescored from the kept features if :class:`PoolState` cannot follow: if
    ``n_passes``, ``forgetting`` or ``memory_size`` are not 1, 1 and 0, the parameters or classes of
    ``classifier_`` were changed, or many labels come at once. So is each block whose variances
    shrink to the rounding error of its features, and the whole pool after 100 calls of
    :meth:`teach`, which limits how many calls Dask has to repeat to restore what a lost worker
    kept.

    Parameters
    ----------
    classifier : fitted LaplaceUpdateClassifier
        It is copied and not changed.
    X_pool : dask Array of shape (n_pool, ...)
        Its features are extracted once, on the workers.

    Attributes
    ----------
    classifier_ : LaplaceUpdateClassifier
        The classifier with all labels so far. :meth:`teach` replaces it.
    positions_ : ndarray of shape (n_labelled,), dtype int64
        Positions of the taught instances, in the order of teaching.
    labels_ : ndarray of shape (n_labelled,)
        Their labels.

    Raises
    ------
    TypeError
        If the classifier is not a LaplaceUpdateClassifier, or X_pool is not a Dask array.
    ValueError
        If X_pool is not valid input of the classifier.

    See Also
    --------
    laplace_al.ActiveLearner : Keeps a pool in the memory of one machine.

    Notes
    -----
    For each row, a worker keeps the features in their original precision and, in the precision of
    the posterior, C logits and the variance, both the current one and that of the last scoring. The
    variance is one number with ``covariance="shared"``, else C numbers, and with ``"full"`` C more.
    A worker keeps no posterior. That is sent to each worker once when the pool is rescored, and
    with each query of a strategy that reads more than predictions and variances, such as
    :class:`~laplace_al.strategies.BALD`; such a strategy gets the whole classifier, including its
    ``feature_extractor``. To restore lost results, the scheduler keeps the network of an extractor,
    the posterior of the last scoring, and what each later call of :meth:`teach` has sent: D
    numbers per label, or D C.

    Examples
    --------
    >>> import dask
    >>> import dask.array as da
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import MarginSampling
    >>> clf = LaplaceUpdateClassifier(prior_precision=1.0).fit([[-1.0], [1.0]], ["no", "yes"])
    >>> X = da.from_array(np.array([[3.0], [0.1], [-2.0], [0.3]]), chunks=(2, 1))
    >>> with dask.config.set(scheduler="synchronous"):
    ...     pool = Pool(clf, X)
    ...     first = pool.query(MarginSampling())
    ...     second = pool.teach(first, ["yes"]).query(MarginSampling())
    >>> first, second, len(pool)
    (array([1]), array([3]), 4)
    """

    def __init__(self, classifier: LaplaceUpdateClassifier, X_pool: da.Array) -> None:
        if not isinstance(classifier, LaplaceUpdateClassifier):
            raise TypeError(
                "classifier must be a fitted LaplaceUpdateClassifier, whose predictions follow "
                f"labels; got {type(classifier).__name__}. For other classifiers use the function "
                "query, which scores the pool anew."
            )
        check_is_fitted(classifier)
        blocks = _blocks(_with_sizes(_in_rows(X_pool, "X_pool")))
        if not blocks:
            raise ValueError("X_pool has 0 rows; a pool needs at least 1.")
        self.classifier_ = copy.copy(classifier)
        self.positions_ = np.empty(0, dtype=np.int64)
        self.labels_ = classifier.classes_[:0]
        self._sizes = [rows.stop - rows.start for _, rows in blocks]
        self._starts = np.array([rows.start for _, rows in blocks])
        extractor, base = _shipped(_without_posterior(classifier)), classifier.posterior_.base
        features = [
            dask.delayed(_kept_features)(extractor, block, base.dtype, base.device)
            for block, _ in blocks
        ]
        with dask.config.set(_CONFIG):
            self._features = dask.persist(*features)
        self._first_row = self._rows(np.zeros(1, dtype=np.int64))
        self._scored = self._scored_anew()

    def __len__(self) -> int:
        return sum(self._sizes)

    @on_one_state
    @_naming_lost_blocks()
    def query(self, strategy: QueryStrategy, n_instances: int = 1) -> NDArray[np.int64]:
        """Choose instances that have no label yet.

        Parameters
        ----------
        strategy : QueryStrategy
            Must score each instance on its own, or be a
            :class:`~laplace_al.strategies.Preselection`, whose candidates are fetched from the
            workers. It sees the features, not the original inputs.
        n_instances : int, default=1
            At most the number of instances without a label.

        Returns
        -------
        ndarray of shape (n_instances,), dtype int64
            Distinct positions, best first: the same as ``strategy.query`` chooses in memory with
            ``classifier_``.

        Raises
        ------
        TypeError
            If the strategy compares instances with each other.
        ValueError
            If fewer than ``n_instances`` are left.
        RuntimeError
            If the cluster that holds the pool was restarted or closed.

        Examples
        --------
        >>> import dask
        >>> import dask.array as da
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> from laplace_al.strategies import EntropySampling
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> with dask.config.set(scheduler="synchronous"):
        ...     Pool(clf, da.from_array(np.array([[3.0], [0.1]]))).query(EntropySampling())
        array([1])
        """
        ranking, limit, with_rows = _shortlist(strategy, n_instances)
        n_instances = check_n_instances(n_instances, len(self) - len(self.positions_))
        rng = check_random_state(strategy.random_state)
        seed = draw_seed(rng)
        shipped = self._shipped_model(ranking.reads_posterior)
        blocks = zip(self._up_to_date(), self._taught(), self._starts.tolist(), strict=True)
        parts = [
            dask.delayed(_leaders_of_kept)(
                ranking, shipped, *block, taught, limit, seed, start, with_rows
            )
            for block, taught, start in blocks
        ]
        return _settled(strategy, self._view_of, parts, n_instances, rng)

    @all_or_nothing
    @_naming_lost_blocks()
    def teach(self, indices: ArrayLike, y: ArrayLike) -> Self:
        """Learn labels of instances by ``partial_fit``, and update the predictions of the pool.

        Parameters
        ----------
        indices : int or array-like of shape (n_instances,)
            Positions in the pool that have no label.
        y : label or array-like of shape (n_instances,)

        Returns
        -------
        Pool
            This object.

        Raises
        ------
        ValueError
            If a position is not in the pool, is given twice or already has a label, or the
            classifier refuses the labels. The pool is then unchanged. To teach a label that is not
            among the classes, call ``pool.classifier_.add_classes`` first.
        RuntimeError
            As in :meth:`query`; the pool is then unchanged.

        Examples
        --------
        >>> import dask
        >>> import dask.array as da
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> with dask.config.set(scheduler="synchronous"):
        ...     pool = Pool(clf, da.from_array(np.array([[0.5], [1.0]]))).teach(0, 0)
        ...     followed = pool.predict_proba().compute()
        >>> np.allclose(followed, pool.classifier_.predict_proba([[0.5], [1.0]]))
        True
        """
        indices = check_positions(indices, len(self))
        labelled = indices[np.isin(indices, self.positions_)]
        if len(labelled):
            raise ValueError(
                "indices must be positions without a label; labelled already: "
                f"{labelled.tolist()}. A learnt label cannot be changed: make a new pool from a "
                "classifier that has not learnt it."
            )
        y, _ = check_labels(as_labels(y, or_one=True), None, len(indices))
        features = Extracted(self._rows(indices))
        state, scored = self.classifier_.pool_state(features), self._scored
        is_current = scored.is_under(self.classifier_)
        self.classifier_ = copy.copy(self.classifier_).partial_fit(features, y)
        if (
            is_current
            and scored.n_followed < _MAX_FOLLOWED
            and is_followed(self.classifier_, len(y), len(self))
        ):
            effects = state.learn(range(len(y)), y, np.ones(len(y)))
            self._scored = self._following(effects)
        else:
            self._scored = self._scored_anew()
        self.positions_ = np.concatenate([self.positions_, indices])
        self.labels_ = np.concatenate([self.labels_, y])
        return self

    @on_one_state
    def predict_proba(self) -> da.Array:
        """Probabilities of the classes for all instances, including labelled ones.

        Returns
        -------
        dask Array of shape (n_pool, n_classes)
            Not computed yet. It reflects the labels up to this call, even if more are taught before
            it is computed.

        Examples
        --------
        >>> import dask
        >>> import dask.array as da
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> with dask.config.set(scheduler="synchronous"):
        ...     Pool(clf, da.zeros((2, 1), chunks=1)).predict_proba().compute()
        array([[0.5, 0.5],
               [0.5, 0.5]])
        """
        shipped = self._shipped_model(reads_posterior=False)
        parts = [dask.delayed(_probabilities)(shipped, *block) for block in self._up_to_date()]
        example = self.classifier_.predict_proba(Extracted(self._first_row))
        return _stacked(parts, self._sizes, example)

    def _up_to_date(self) -> list[tuple[Delayed, Delayed]]:
        """Features and scores of each block, under the classifier as it is."""
        if not self._scored.is_under(self.classifier_):
            self._scored = self._scored_anew()
        return list(zip(self._features, self._scored.blocks, strict=True))

    def _scored_anew(self) -> "_Scored":
        blocks, _ = _persisted(self._features, self._anew(self._features))
        return _Scored(blocks, self.classifier_.posterior_, rule_of(self.classifier_), 0)

    def _following(self, effects: Sequence[Effect]) -> "_Scored":
        """Scores when labels had effects; where too few digits are left, anew."""
        shipped = _shipped((self._model(with_posterior=False), effects))
        followed = [
            dask.delayed(_followed)(shipped, *block)
            for block in zip(self._features, self._scored.blocks, strict=True)
        ]
        blocks, are_accurate = _persisted(self._features, followed)
        lost = np.flatnonzero(np.logical_not(are_accurate))
        if len(lost):
            features = [self._features[i] for i in lost]
            anew, _ = _persisted(features, self._anew(features))
            for i, block in zip(lost, anew, strict=True):
                blocks[i] = block
        return self._scored._replace(
            blocks=blocks,
            posterior=self.classifier_.posterior_,
            n_followed=self._scored.n_followed + 1,
        )

    def _anew(self, features: Sequence[Delayed]) -> list[Delayed]:
        """Scores of blocks under the classifier, not computed yet."""
        model = _shipped(self._model(with_posterior=True))
        return [dask.delayed(_scores_under)(model, block) for block in features]

    def _model(self, *, with_posterior: bool) -> PoolState:
        """A state of no rows: what predictions take besides features, logits and variances."""
        model = self.classifier_.pool_state(Extracted(self._first_row)).part(np.arange(0))
        if not with_posterior:
            del model.posterior
        return model

    def _shipped_model(self, reads_posterior: bool) -> Delayed:
        """A model, and the classifier where the model does not say it all."""
        needs_all = reads_posterior or self.classifier_.predictive == "monte_carlo"
        model = self._model(with_posterior=needs_all)
        return _shipped((model, self.classifier_ if needs_all else None))

    def _rows(self, positions: NDArray[np.int64]) -> NDArray[np.floating]:
        """Features of instances, fetched from the workers: (n, n_features)."""
        where = np.searchsorted(self._starts, positions, side="right") - 1
        places = positions - self._starts[where]
        parts = [
            dask.delayed(_rows_of_kept)(self._features[i], places[where == i])
            for i in np.unique(where)
        ]
        sorted_by_block = np.concatenate(dask.compute(*parts))
        rows = np.empty_like(sorted_by_block)
        rows[np.argsort(where, kind="stable")] = sorted_by_block
        return rows

    def _taught(self) -> list[NDArray[np.int64]]:
        """Rows of each block that have a label: fewer to send than a mask."""
        positions = np.sort(self.positions_)
        parts = np.split(positions, np.searchsorted(positions, self._starts[1:]))
        return [part - start for part, start in zip(parts, self._starts, strict=True)]

    def _view_of(self, rows: NDArray[np.floating]) -> PoolView:
        state = self.classifier_.pool_state(Extracted(rows))
        return PoolView.of_state(state, self.classifier_)


class _Scored(NamedTuple):
    """What the workers keep of each block beside features, and which classifier it is of."""

    blocks: list[Delayed]
    posterior: Posterior
    rule: tuple[Any, ...]
    n_followed: int  # layers of the graph since it was scored

    def is_under(self, classifier: LaplaceUpdateClassifier) -> bool:
        return self.posterior is classifier.posterior_ and self.rule == rule_of(classifier)


def _shortlist(strategy: QueryStrategy, n_instances: int) -> tuple[QueryStrategy, int, bool]:
    """What a strategy asks of a pass, its parameters validated."""
    if not isinstance(strategy, QueryStrategy):
        raise TypeError(
            "strategy must be one of laplace_al.strategies, e.g. MarginSampling(); got "
            f"{strategy!r}."
        )
    strategy._validate_params()
    ranking, limit, with_rows = strategy.shortlist(check_n_instances(n_instances, math.inf))
    ranking._validate_params()
    return ranking, limit, with_rows


def _settled(
    strategy: QueryStrategy,
    view_of: Callable[[Any], PoolView],
    parts: list[Delayed],
    n_instances: int,
    rng: np.random.RandomState,
) -> NDArray[np.int64]:
    """What a strategy chooses from the leaders of blocks."""
    leaders = _computed(_reduced(parts, _added))
    return strategy.settle(view_of, leaders, n_instances, rng)[0]


def _in_rows(X: da.Array, name: str = "X") -> da.Array:
    """The array cut along its first axis only."""
    if not isinstance(X, da.Array) or X.ndim == 0:
        raise TypeError(
            f"{name} must be a Dask array with a row for each instance; got {type(X).__name__}. "
            "Use dask.array.from_array(X, chunks=(10_000, -1))."
        )
    return X.rechunk(dict.fromkeys(range(1, X.ndim), -1))


def _with_sizes(X: da.Array) -> da.Array:
    return X.copy().compute_chunk_sizes() if np.isnan(X.shape[0]) else X  # it changes the array


def _blocks(X: da.Array) -> list[tuple[Delayed, slice]]:
    """Blocks that have rows, and which rows these are."""
    stops = np.cumsum(X.chunks[0]).tolist()
    rows = (slice(a, b) for a, b in zip([0, *stops], stops, strict=False))
    pairs = zip(X.to_delayed().ravel(), rows, strict=True)
    return [(block, some) for block, some in pairs if some.stop > some.start]


def _first_rows(X: da.Array) -> Any:
    """Two rows of the first block that has any."""
    for i in range(X.numblocks[0]):
        rows = X.partitions[i][:2].compute()
        if len(rows):
            return rows
    raise ValueError("X has 0 samples; a minimum of 1 is required.")


def _labels(
    X: da.Array, y: ArrayLike | da.Array, sample_weight: ArrayLike | da.Array | None
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Labels and weights, which are small beside X, here."""
    y, sample_weight = dask.compute(y, sample_weight)
    if sample_weight is not None and np.shape(sample_weight) != (X.shape[0],):
        raise ValueError(
            f"sample_weight must have shape ({X.shape[0]},), one weight per row of X; got "
            f"{np.shape(sample_weight)}."
        )
    return check_labels(y, sample_weight, X.shape[0])


def _shipped(thing: Any) -> Delayed:
    """A node of the graph, as it is: it goes to each worker once."""
    return dask.delayed(thing, traverse=False, pure=False)


def _without_posterior(classifier: LaplaceUpdateClassifier) -> LaplaceUpdateClassifier:
    twin = copy.copy(classifier)
    for name in ("posterior_", "_memory", "_calibration"):
        twin.__dict__.pop(name, None)
    return twin


def _mapped(X: da.Array, thing: Any, method: str, example: NDArray[Any]) -> da.Array:
    """A method that gives a row for each row, of all blocks."""
    shipped, call = _shipped(thing), dask.delayed(_called)
    sizes = [n for n in X.chunks[0] if n != 0]
    pairs = zip(X.to_delayed().ravel(), X.chunks[0], strict=True)
    parts = [call(shipped, method, block) for block, n in pairs if n != 0]
    return _stacked(parts, sizes, example)


def _stacked(parts: Sequence[Delayed], sizes: Sequence[float], example: NDArray[Any]) -> da.Array:
    """Rows of blocks one after the other, like those of an example."""
    arrays = [
        da.from_delayed(part, (n, *example.shape[1:]), example.dtype)
        for part, n in zip(parts, sizes, strict=True)
    ]
    return da.concatenate(arrays, allow_unknown_chunksizes=True)


def _persisted(
    features: Sequence[Delayed], scores: Sequence[Delayed]
) -> tuple[list[Delayed], tuple[bool, ...]]:
    """Scores that the workers keep, once all are there, and whether each is accurate."""
    checks = [dask.delayed(_is_accurate)(*pair) for pair in zip(features, scores, strict=True)]
    with dask.config.set(_CONFIG):
        kept = dask.persist(*scores, *checks)
    return list(kept[: len(scores)]), dask.compute(*kept[len(scores) :])


def _computed(node: Delayed) -> Any:
    with dask.config.set(_CONFIG):
        return node.compute()


def _reduced(parts: list[Delayed], reduce: Callable[..., Any], *common: Delayed) -> Delayed:
    """A tree, so that nobody holds more than a few parts."""
    while len(parts) > 1:
        groups = [parts[i : i + _AT_ONCE] for i in range(0, len(parts), _AT_ONCE)]
        parts = [dask.delayed(reduce)(*common, *group) for group in groups]
    return parts[0]


class _Total:
    """Sums over blocks and what is kept beside them, see :mod:`laplace_al.model.block_fitting`."""

    def __init__(self, blocks: Sequence[tuple[Delayed, ...]]) -> None:
        self._blocks = blocks

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        return _computed(_reduced(self._mapped(function, args), _added))

    def keep(self, function: Callable[..., Any], *args: Any) -> "_Total":
        with dask.config.set(_CONFIG):
            kept = dask.persist(*self._mapped(function, args))
        return _Total([(block[0], each) for block, each in zip(self._blocks, kept, strict=True)])

    def _mapped(self, function: Callable[..., Any], args: tuple[Any, ...]) -> list[Delayed]:
        shipped, apply = _shipped(args), dask.delayed(_applied)
        return [apply(function, shipped, *block) for block in self._blocks]


# What follows runs on the workers.


def _called(thing: Any, method: str, *args: Any) -> Any:
    return getattr(thing, method)(*args)


def _applied(function: Callable[..., Any], args: tuple[Any, ...], *block: Any) -> Any:
    return function(*block, *args)


def _added(*parts: Any) -> Any:
    return functools.reduce(operator.add, parts)


def _learnt(
    classifier: LaplaceUpdateClassifier,
    block: Any,
    y: NDArray[Any],
    classes: ArrayLike | None,
    sample_weight: NDArray[np.float64],
) -> LaplaceUpdateClassifier:
    return copy.copy(classifier).partial_fit(block, y, classes=classes, sample_weight=sample_weight)


def _scale_of_block(
    classifier: LaplaceUpdateClassifier, block: Any, sample_weight: NDArray[np.float64]
) -> float:
    features = torch.tensor(extracted(classifier, block), dtype=torch.float64)
    return prior_precision_by_scale(features, features.new_tensor(sample_weight), classifier.head)


def _merged(
    start: LaplaceUpdateClassifier, *learnt: LaplaceUpdateClassifier
) -> LaplaceUpdateClassifier:
    merged = copy.copy(learnt[0])
    begun = hasattr(start, "posterior_")
    for other in learnt[1:]:
        since = start.posterior_ if begun else None
        merged.posterior_ = merged.posterior_.merge(other.posterior_, since)
        seen = start._calibration if begun else type(merged._calibration)()
        merged._calibration = merged._calibration.merge(other._calibration, seen)
    return merged


def _leaders(
    ranking: QueryStrategy,
    learner: Any,
    block: Any,
    candidates: NDArray[np.bool_] | None,
    limit: int,
    seed: int,
    start: int,
    with_rows: bool,
) -> Leaders:
    is_open = candidates_of_block(candidates, 0, _num_samples(block))
    return leaders_of_block(
        ranking,
        PoolView(learner, block),
        is_open,
        limit,
        seed,
        start=start,
        rows=block if with_rows else None,
    )[0]


class _Kept:
    """Tensors that a worker keeps, whose bytes Dask counts."""

    def __sizeof__(self) -> int:
        return sum({id(tensor): tensor.nbytes for tensor in vars(self).values()}.values())


@dataclass(frozen=True, eq=False)
class _Features(_Kept):
    """Of the rows of a block: (n, n_features)."""

    tensor: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Scores(_Kept):
    """Of the rows of a block: logits (n, C), variances (n,) or (n, C), and what they were."""

    logits: torch.Tensor
    variance: torch.Tensor
    predictive_variance: torch.Tensor
    when_scored: torch.Tensor  # the predictive ones


def _kept_features(
    classifier: LaplaceUpdateClassifier, block: Any, dtype: torch.dtype, device: torch.device
) -> _Features:
    return _Features(classifier._pool_features(block, dtype, device))


def _scores_under(model: PoolState, features: _Features) -> _Scores:
    state = model.elsewhere(features.tensor)
    return _scores_of(state, state.predictive_variance)


def _state(model: PoolState, features: _Features, scores: _Scores) -> PoolState:
    state = model.copy()
    state.features, state.logits, state.variance = features.tensor, scores.logits, scores.variance
    state.predictive_variance = scores.predictive_variance
    return state


def _scores_of(state: PoolState, when_scored: torch.Tensor) -> _Scores:
    return _Scores(state.logits, state.variance, state.predictive_variance, when_scored)


def _followed(
    shipped: tuple[PoolState, Sequence[Effect]], features: _Features, scores: _Scores
) -> _Scores:
    model, effects = shipped
    state = _state(model, features, scores).affected(effects)
    return _scores_of(state, scores.when_scored)


def _is_accurate(features: _Features, scores: _Scores) -> bool:
    return is_accurate(features.tensor.dtype, scores.predictive_variance, scores.when_scored)


def _view(
    shipped: tuple[PoolState, LaplaceUpdateClassifier | None], features: _Features, scores: _Scores
) -> PoolView:
    model, classifier = shipped
    return PoolView.of_state(_state(model, features, scores), classifier)


def _probabilities(shipped: Any, features: _Features, scores: _Scores) -> NDArray[np.floating]:
    return _view(shipped, features, scores).predict_proba()


def _leaders_of_kept(
    ranking: QueryStrategy,
    shipped: Any,
    features: _Features,
    scores: _Scores,
    taught: NDArray[np.int64],
    limit: int,
    seed: int,
    start: int,
    with_rows: bool,
) -> Leaders:
    view = _view(shipped, features, scores)
    is_open = np.ones(len(view), dtype=bool)
    is_open[taught] = False
    rows = view.features if with_rows else None
    return leaders_of_block(ranking, view, is_open, limit, seed, start=start, rows=rows)[0]


def _rows_of_kept(features: _Features, places: NDArray[np.int64]) -> NDArray[np.floating]:
    return as_array(features.tensor[places])
