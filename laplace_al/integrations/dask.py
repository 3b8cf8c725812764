"""Features, fits, updates, predictions and queries over the blocks of a Dask array.

The engine is Dask's: every function builds a graph of tasks, each a pure function of one block of
rows, and hands it to the scheduler that is active, be it a cluster
(``dask.distributed.Client()``) or threads. What a task needs besides its block, a network or a
posterior, is one node of the graph, which goes to each worker once. What a worker that is lost had
computed, Dask computes again, with the same result.

``simulate`` and ``compare`` need nothing of this module: ``compare`` runs on the cluster within
``with joblib.parallel_config("dask"):``.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.delayed import Delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples

from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.features import TorchFeatures, share
from laplace_al.fitting import Labelled
from laplace_al.strategies.base import QueryStrategy
from laplace_al.strategies.checks import (
    candidates_of_block,
    check_candidates,
    check_n_instances,
)
from laplace_al.strategies.passes import leaders_of_block
from laplace_al.strategies.ranking import Leaders, draw_seed

_AT_ONCE = 8  # parts that one task adds up
# What every task needs is sent once, whatever its size: no reason to warn.
_CONFIG = {"distributed.admin.large-graph-warning-threshold": "1 TiB"}


def features(X: da.Array, feature_extractor: Any, *, batch_size: int = 256) -> da.Array:
    """Features of the rows of an array, from a frozen network that goes to each worker once.

    Parameters
    ----------
    X : dask Array of shape (n_samples, ...)
    feature_extractor : nn.Module, TorchFeatures, skorch net, transformer or callable
        See :class:`~laplace_al.TorchFeatures`.
    batch_size : int, default=256
        Inputs per forward pass; a ``TorchFeatures`` has its own.

    Returns
    -------
    dask Array of shape (n_samples, n_features)
        Not computed yet. Store it, or ``persist`` it where it fits in the memory of the workers, to
        pay for the network once.

    Examples
    --------
    >>> import dask
    >>> import dask.array as da
    >>> with dask.config.set(scheduler="synchronous"):
    ...     features(da.ones((4, 1), chunks=2), np.square).compute().shape
    (4, 1)
    """
    X = _in_rows(X)
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
    X = _in_rows(X)
    return _mapped(X, classifier, "predict_proba", classifier.predict_proba(_first_rows(X)))


def fit(
    classifier: LaplaceUpdateClassifier,
    X: da.Array,
    y: ArrayLike | da.Array,
    sample_weight: ArrayLike | da.Array | None = None,
) -> LaplaceUpdateClassifier:
    """Fit a classifier on the rows of an array, which stay where they are.

    The MAP is found by Newton steps whose losses, gradients and products with the Hessian are
    summed by the engine, one pass over the blocks each; so are the precision of the posterior and
    what leave-one-out and calibration need. Equal to ``classifier.fit`` up to rounding.

    Parameters
    ----------
    classifier : LaplaceUpdateClassifier
        Is fitted. ``prior_precision`` must be a number and ``memory_size`` 0; ``warm_start`` does
        not count.
    X : dask Array of shape (n_samples, ...)
        Read once: its features are kept by the workers until the fit is done.
    y : array-like or dask Array of shape (n_samples,)
    sample_weight : array-like or dask Array of shape (n_samples,), default=None

    Returns
    -------
    LaplaceUpdateClassifier
        The classifier. It has no ``loo_proba_``, whose mean is in ``loo_score_``, and knows the
        evidence of its own prior precision alone.

    Raises
    ------
    ValueError
        As by ``fit``, or if the prior is lost to rounding beside the features.

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
        shipped = _shipped(_without_posterior(begun))
        blocks = [
            (dask.delayed(_labelled)(shipped, block, indices[rows], weights[rows]),)
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
    """Update a classifier with labels that are learnt block by block, apart from each other.

    Each block is learnt by ``partial_fit`` from the classifier as it is, and the posteriors are
    merged: what a block adds to the precision, and to its product with the mean, adds up. With
    ``curvature="gaussian"`` the covariance is that of one ``partial_fit``; otherwise each block
    is curved as it is seen from the start, and large blocks of few labels are the
    better choice.

    Parameters
    ----------
    classifier : LaplaceUpdateClassifier
        Is updated. ``forgetting`` must be 1, ``memory_size`` 0 and ``prior_precision`` a number.
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
    if (classifier.forgetting, classifier.memory_size) != (1, 0) or isinstance(
        classifier.prior_precision, str
    ):
        raise ValueError(
            "Posteriors that are learnt apart merge with forgetting=1, memory_size=0 and a number "
            f"for prior_precision; got forgetting={classifier.forgetting!r}, "
            f"memory_size={classifier.memory_size!r}, "
            f"prior_precision={classifier.prior_precision!r}."
        )
    X = _with_sizes(_in_rows(X))
    y, weights = _labels(X, y, sample_weight)
    weights = np.ones(len(y)) if weights is None else weights
    shipped = _shipped(classifier)
    learnt = [
        dask.delayed(_learnt)(shipped, block, y[rows], classes, weights[rows])
        for block, rows in _blocks(X)
    ]
    merged = _computed(_reduced(learnt, _merged, shipped))
    classifier.__dict__ = vars(merged)
    return classifier


def query(
    strategy: QueryStrategy,
    learner: Any,
    X_pool: da.Array,
    n_instances: int = 1,
    *,
    candidates: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Choose instances of a pool whose blocks are scored where they are.

    Parameters
    ----------
    strategy : QueryStrategy
        That scores each instance on its own, or a :class:`~laplace_al.strategies.Preselection`,
        whose candidates come here.
    learner : ActiveLearner or fitted classifier
        Of an ActiveLearner the fitted estimator goes to the workers.
    X_pool : dask Array of shape (n_pool, ...)
    n_instances : int, default=1
    candidates : array-like of bool of shape (n_pool,), default=None
        Which instances may be chosen. None: all.

    Returns
    -------
    ndarray of shape (n_instances,), dtype int64
        Distinct positions, best first: those that ``strategy.query`` chooses in memory.

    Raises
    ------
    TypeError
        If the strategy compares instances with each other.
    ValueError
        As by ``strategy.query``.

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
    strategy._validate_params()
    ranking, limit, with_rows = strategy.shortlist(check_n_instances(n_instances, math.inf))
    ranking._validate_params()
    X_pool = _with_sizes(_in_rows(X_pool))
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
    leaders = _computed(_reduced(parts, _added))
    return strategy.settle(learner, leaders, n_instances, rng)[0]


def _in_rows(X: da.Array) -> da.Array:
    """The array cut along its first axis only."""
    if not isinstance(X, da.Array) or X.ndim == 0:
        raise TypeError(
            f"X must be a Dask array with a row for each instance; got {type(X).__name__}. Use "
            "dask.array.from_array(X, chunks=(10_000, -1))."
        )
    return X.rechunk(dict.fromkeys(range(1, X.ndim), -1))


def _with_sizes(X: da.Array) -> da.Array:
    return X.compute_chunk_sizes() if np.isnan(X.shape[0]) else X


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
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Labels and weights, which are small beside X, here."""
    y, sample_weight = dask.compute(y, sample_weight)
    y = np.asarray(y)
    if y.ndim == 0 or len(y) != X.shape[0]:
        raise ValueError(f"y must have one label per row of X: {X.shape[0]}; got {y.shape}.")
    return y, None if sample_weight is None else np.asarray(sample_weight)


def _shipped(thing: Any) -> Delayed:
    """A node of the graph, as it is: it goes to each worker once."""
    return dask.delayed(thing, traverse=False, pure=False)


def _without_posterior(classifier: LaplaceUpdateClassifier) -> LaplaceUpdateClassifier:
    twin = classifier.__class__.__new__(classifier.__class__)
    left = {"posterior_", "_memory", "_calibration"}
    twin.__dict__.update({k: v for k, v in vars(classifier).items() if k not in left})
    return twin


def _mapped(X: da.Array, thing: Any, method: str, example: NDArray[Any]) -> da.Array:
    """A method that gives a row for each row, of all blocks."""
    shipped, call = _shipped(thing), dask.delayed(_called)
    parts = [
        da.from_delayed(call(shipped, method, block), (n, *example.shape[1:]), example.dtype)
        for block, n in zip(X.to_delayed().ravel(), X.chunks[0], strict=True)
        if n != 0
    ]
    return da.concatenate(parts, allow_unknown_chunksizes=True)


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
    """Sums over blocks, each with what is kept beside it: see :mod:`laplace_al.block_fitting`."""

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


def _called(thing: Any, method: str, block: Any) -> Any:
    return getattr(thing, method)(block)


def _labelled(
    classifier: LaplaceUpdateClassifier,
    block: Any,
    indices: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> Labelled:
    return classifier._labelled_block(block, indices, weights)


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
    return _copied(classifier).partial_fit(block, y, classes=classes, sample_weight=sample_weight)


def _merged(
    start: LaplaceUpdateClassifier, *learnt: LaplaceUpdateClassifier
) -> LaplaceUpdateClassifier:
    merged = _copied(learnt[0])
    begun = hasattr(start, "posterior_")
    for other in learnt[1:]:
        since = start.posterior_ if begun else None
        merged.posterior_ = merged.posterior_.merge(other.posterior_, since)
        seen = start._calibration if begun else type(merged._calibration)()
        merged._calibration = merged._calibration.merge(other._calibration, seen)
    return merged


def _copied(classifier: LaplaceUpdateClassifier) -> LaplaceUpdateClassifier:
    twin = classifier.__class__.__new__(classifier.__class__)
    twin.__dict__.update(vars(classifier))
    return twin


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
        ranking, learner, block, is_open, limit, seed, start=start, with_rows=with_rows
    )[0]
