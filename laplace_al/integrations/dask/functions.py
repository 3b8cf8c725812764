"""Functions of the rows of Dask arrays, which stay on the workers."""

import copy
import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.delayed import Delayed
from numpy.typing import ArrayLike, NDArray

from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.classifier.classifier import fit_in_blocks
from laplace_al.classifier.encoder import Encoder
from laplace_al.classifier.fitted import publish
from laplace_al.inputs.features import TorchFeatures, share
from laplace_al.integrations.dask import graphs, tasks
from laplace_al.model.rows import RowsInBlocks
from laplace_al.strategies import QueryStrategy
from laplace_al.strategies._checks import check_candidates, check_n_instances
from laplace_al.strategies._passes import Ranking, check_reads_blocks, choose_in_pass
from laplace_al.strategies._ranking import Leaders
from laplace_al.strategies._view import LearnerView, PoolView


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
    >>> import dask.array as da
    >>> features(da.ones((4, 1), chunks=2), np.square).compute().shape
    (4, 1)
    """
    X = graphs.in_rows(X)
    if isinstance(feature_extractor, TorchFeatures):
        extractor = share(feature_extractor)
    else:
        extractor = TorchFeatures(feature_extractor, batch_size=batch_size)
    example = extractor.fit_transform(graphs.first_rows(X))
    return graphs.mapped(X, graphs.shipped(extractor).transform, example)


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
    >>> import dask.array as da
    >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
    >>> predict_proba(clf, da.zeros((2, 1), chunks=1)).compute()
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    X = graphs.in_rows(X)
    example = classifier.predict_proba(graphs.first_rows(X))
    return graphs.mapped(X, graphs.shipped(classifier).predict_proba, example)


def fit(
    classifier: LaplaceUpdateClassifier,
    X: da.Array,
    y: ArrayLike | da.Array,
    sample_weight: ArrayLike | da.Array | None = None,
) -> LaplaceUpdateClassifier:
    """Fit a classifier on the rows of an array, which stay on the workers.

    Newton steps find the MAP. Losses, gradients, products with the Hessian, the precision of the
    posterior and the sums for leave-one-out and calibration are sums over the blocks, one pass
    each. The result equals that of ``classifier.fit`` up to rounding.

    Parameters
    ----------
    classifier : LaplaceUpdateClassifier
        Classifier to fit. ``prior_precision`` must be a number or "scale", and ``memory_size`` 0;
        ``warm_start`` is ignored.
    X : dask Array of shape (n_samples, ...)
        Read once: the workers keep its features until the fit is done.
    y : array-like or dask Array of shape (n_samples,) or (n_samples, n_classes)
        Labels, or the probabilities of the classes.
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
    >>> import dask.array as da
    >>> X = da.from_array(np.array([[-1.0], [-2.0], [1.0], [2.0]]), chunks=(2, 1))
    >>> clf = fit(LaplaceUpdateClassifier(), X, ["no", "no", "yes", "yes"])
    >>> clf.predict([[3.0]])
    array(['yes'], dtype='<U3')
    """
    X = graphs.in_rows(X)
    y, sample_weight = graphs.labels_of(X, y, sample_weight)

    def distribute(
        encoder: Encoder, places: NDArray[Any], weights: NDArray[np.float64]
    ) -> RowsInBlocks:
        label = graphs.shipped(encoder).labelled_inputs
        labelled = graphs.persisted(
            [label(block, places[rows], weights[rows]) for block, rows in graphs.blocks_of(X)]
        )
        return RowsInBlocks(graphs.BlocksOnWorkers([(block,) for block in labelled]))

    return fit_in_blocks(classifier, graphs.first_rows(X), y, sample_weight, distribute)


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
    y : array-like or dask Array of shape (n_samples,) or (n_samples, n_classes)
        Labels, or the probabilities of the classes.
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
    >>> import dask.array as da
    >>> X = da.from_array(np.array([[-1.0], [-2.0], [1.0], [2.0]]), chunks=(2, 1))
    >>> clf = partial_fit(LaplaceUpdateClassifier(), X, [0, 0, 1, 1], classes=[0, 1])
    >>> clf.predict([[3.0]])
    array([1])
    """
    before = classifier.fitted_
    if (classifier.forgetting, classifier.memory_size) != (1, 0) or (
        classifier.prior_precision in ("loo", "evidence")
    ):
        raise ValueError(
            "Posteriors that are learnt separately can only be merged with forgetting=1, "
            "memory_size=0 and a number or 'scale' for prior_precision; got "
            f"forgetting={classifier.forgetting!r}, memory_size={classifier.memory_size!r}, "
            f"prior_precision={classifier.prior_precision!r}."
        )
    X = graphs.in_rows(X)
    y, weights = graphs.labels_of(X, y, sample_weight)
    blocks = graphs.blocks_of(X)
    start = copy.copy(classifier)
    if start.prior_precision == "scale" and before is None:
        block, rows = blocks[0]
        scale = dask.delayed(tasks.scale_of_block)(graphs.shipped(start), block, weights[rows])
        start.set_params(prior_precision=graphs.computed(scale))
    node, learn = graphs.shipped(start), dask.delayed(tasks.learnt)
    learnt = [learn(node, block, y[rows], classes, weights[rows]) for block, rows in blocks]
    merge = functools.partial(tasks.merged, None if before is None else before.model)
    after = graphs.combined(learnt, merge)
    if before is not None:  # its extractor, not the copy of a worker
        after = after._replace(inputs=before.inputs)
    return publish(classifier, before, after, "partial_fit")


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
    >>> import dask.array as da
    >>> from laplace_al.strategies import MarginSampling
    >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
    >>> pool = da.from_array(np.array([[3.0], [0.1], [-2.0]]), chunks=(1, 1))
    >>> query(MarginSampling(), clf, pool)
    array([1])
    """
    check_strategy(strategy, n_instances)
    X_pool = graphs.in_rows(X_pool, "X_pool")
    is_open = None if candidates is None else check_candidates(candidates, len(X_pool))
    n_instances = check_n_instances(n_instances, len(X_pool) if is_open is None else is_open.sum())
    node = graphs.shipped(learner.estimator_ if hasattr(learner, "teach") else learner)

    def leaders(ranking: Ranking) -> list[Delayed]:
        return [
            dask.delayed(tasks.leaders_of_block)(
                ranking, node, block, None if is_open is None else is_open[rows], rows.start
            )
            for block, rows in graphs.blocks_of(X_pool)
        ]

    return choose(strategy, n_instances, leaders, functools.partial(LearnerView, learner))


def check_strategy(strategy: QueryStrategy, n_instances: int) -> None:
    """Refuse what cannot choose from blocks, or whose parameters are wrong."""
    if not isinstance(strategy, QueryStrategy):
        raise TypeError(
            "strategy must be one of laplace_al.strategies, e.g. MarginSampling(); got "
            f"{strategy!r}."
        )
    strategy._validate_params()
    check_n_instances(n_instances, math.inf)
    check_reads_blocks(strategy)


def choose(
    strategy: QueryStrategy,
    n_instances: int,
    leaders: Callable[[Ranking], list[Delayed]],
    view_of: Callable[[Any, NDArray[np.int64]], PoolView],
) -> NDArray[np.int64]:
    """Let a strategy choose among the leaders of each block, see :func:`choose_in_pass`."""

    def run(ranking: Ranking) -> tuple[Leaders, NDArray[np.float64]]:
        return graphs.combined(leaders(ranking), operator.add), np.empty(0)

    return choose_in_pass(strategy, n_instances, run, view_of)[0]
