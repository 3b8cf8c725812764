"""A pool whose predictions, kept on the workers, follow each label."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any, NamedTuple, Self

import dask
import dask.array as da
import numpy as np
from dask.delayed import Delayed
from numpy.typing import ArrayLike, NDArray

from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.classifier.fitted import fitted_of
from laplace_al.inputs.known import Extracted
from laplace_al.inputs.labels import as_labels
from laplace_al.inputs.weighted_labels import check_labels
from laplace_al.integrations.dask import graphs, tasks
from laplace_al.integrations.dask.functions import check_strategy, choose
from laplace_al.model.fitted_model import FittedModel
from laplace_al.model.posterior.effects import Effect
from laplace_al.pool.scored import is_followed, is_same
from laplace_al.strategies import QueryStrategy
from laplace_al.strategies._checks import check_n_instances, check_positions
from laplace_al.strategies._passes import Ranking
from laplace_al.strategies._view import StateView

# Layers of a graph that a lost worker may make Dask compute again, each a pass over the features:
# scoring anew takes about as long as 30, so that the bound costs a third of a pass a label.
_MAX_FOLLOWED = 100


@contextlib.contextmanager
def _naming_lost_blocks() -> Iterator[None]:
    """Say what to do if the workers do not hold the features any more."""
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


class _Scored(NamedTuple):
    """Blocks of kept scores, the model they are of, and how many calls of teach they followed."""

    blocks: list[Delayed]
    model: FittedModel
    n_followed: int = 0


class _Known(NamedTuple):
    """The classifier, the labels and the scores of a pool, replaced as one."""

    classifier: LaplaceUpdateClassifier
    positions: NDArray[np.int64]
    labels: NDArray[Any]
    scored: _Scored


class Pool:
    """A pool on a cluster whose predictions each label updates in one pass over the features.

    :func:`query` scores a pool anew each time, in n D^2 operations. Here, the workers keep logits
    and variances, and a label changes them in n D operations to those of the updated classifier.

    The pool is scored anew from the kept features if ``n_passes``, ``forgetting`` or
    ``memory_size`` are not 1, 1 and 0, if the parameters or classes of ``classifier_`` were changed
    or many labels come at once, and after 100 calls of :meth:`teach`, which limits how many calls
    Dask has to repeat when a worker is lost. So is each block whose variances shrink to the
    rounding error of its features.

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
    For each row, a worker keeps the features in their own precision and, in that of the posterior,
    C logits and two variances, the current one and that of the last scoring. A variance is one
    number with ``covariance="shared"``, else C numbers, and with ``"full"`` C more. The posterior
    is sent to each worker when the pool is scored anew, and the whole classifier with each query of
    a strategy that reads more than predictions and variances, such as
    :class:`~laplace_al.strategies.BALD`. To restore lost results, the scheduler keeps the network
    of an extractor, the posterior of the last scoring, and what each later call of :meth:`teach`
    has sent: D numbers per label, or D C.

    Examples
    --------
    >>> import dask.array as da
    >>> from laplace_al.strategies import MarginSampling
    >>> clf = LaplaceUpdateClassifier(prior_precision=1.0).fit([[-1.0], [1.0]], ["no", "yes"])
    >>> X = da.from_array(np.array([[3.0], [0.1], [-2.0], [0.3]]), chunks=(2, 1))
    >>> pool = Pool(clf, X)
    >>> first = pool.query(MarginSampling())
    >>> second = pool.teach(first, ["yes"]).query(MarginSampling())
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
        inputs, name = graphs.shipped(fitted_of(classifier).inputs), type(classifier).__name__
        blocks = graphs.blocks_of(graphs.in_rows(X_pool, "X_pool"))
        classifier = copy.copy(classifier)
        self._sizes = [rows.stop - rows.start for _, rows in blocks]
        self._starts = np.array([rows.start for _, rows in blocks])
        like, extract = classifier.posterior_.prior_mean, dask.delayed(tasks.kept_features)
        self._features: Sequence[Delayed] = graphs.persisted(
            [extract(inputs, block, name, like.dtype, like.device) for block, _ in blocks]
        )
        self._first_row = self._rows(np.zeros(1, dtype=np.int64))
        model = classifier.current_model()
        scored = _Scored(_scored_blocks(model, self._features), model)
        positions, labels = np.empty(0, dtype=np.int64), classifier.classes_[:0]
        self._known = _Known(classifier, positions, labels, scored)

    @property
    def classifier_(self) -> LaplaceUpdateClassifier:  # noqa: D102  # see Attributes
        return self._known.classifier

    @property
    def positions_(self) -> NDArray[np.int64]:  # noqa: D102
        return self._known.positions

    @property
    def labels_(self) -> NDArray[Any]:  # noqa: D102
        return self._known.labels

    def __len__(self) -> int:
        return sum(self._sizes)

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
        >>> from laplace_al.strategies import EntropySampling
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> Pool(clf, da.from_array(np.array([[3.0], [0.1]]))).query(EntropySampling())
        array([1])
        """
        check_strategy(strategy, n_instances)
        known = self._up_to_date()
        n_instances = check_n_instances(n_instances, len(self) - len(known.positions))

        def leaders(ranking: Ranking) -> list[Delayed]:
            predictor = _shipped_predictor(known.classifier, ranking.strategy.reads_posterior)
            taught, starts = self._by_block(known.positions), self._starts.tolist()
            blocks = zip(self._features, known.scored.blocks, taught, starts, strict=True)
            return [predictor.leaders(ranking, *block) for block in blocks]

        def view_of(rows: NDArray[np.floating], places: NDArray[np.int64]) -> StateView:
            state = known.classifier.pool_state(Extracted(rows))
            return StateView(state, known.classifier, places)

        return choose(strategy, n_instances, leaders, view_of)

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
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> pool = Pool(clf, da.from_array(np.array([[0.5], [1.0]]))).teach(0, 0)
        >>> followed = pool.predict_proba().compute()
        >>> np.allclose(followed, pool.classifier_.predict_proba([[0.5], [1.0]]))
        True
        """
        known = self._known
        indices = check_positions(indices, len(self))
        labelled = indices[np.isin(indices, known.positions)]
        if len(labelled):
            raise ValueError(
                "indices must be positions without a label; labelled already: "
                f"{labelled.tolist()}. A learnt label cannot be changed: make a new pool from a "
                "classifier that has not learnt it."
            )
        y = as_labels(y, or_one=True)
        check_labels(y, None, len(indices))
        features = Extracted(self._rows(indices))
        classifier = copy.copy(known.classifier).partial_fit(features, y)
        later = _Known(
            classifier,
            np.concatenate([known.positions, indices]),
            np.concatenate([known.labels, y]),
            self._scored_after(known, classifier.current_model(), features, y),
        )
        if self._known is not known:
            raise RuntimeError(
                "The pool was changed by another thread during teach, which therefore changed "
                "nothing. Hold a lock around calls that change it."
            )
        self._known = later
        return self

    def predict_proba(self) -> da.Array:
        """Probabilities of the classes for all instances, including labelled ones.

        Returns
        -------
        dask Array of shape (n_pool, n_classes)
            Not computed yet. It reflects the labels up to this call, even if more are taught before
            it is computed.

        Examples
        --------
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> Pool(clf, da.zeros((2, 1), chunks=1)).predict_proba().compute()
        array([[0.5, 0.5],
               [0.5, 0.5]])
        """
        known = self._up_to_date()
        predictor = _shipped_predictor(known.classifier, reads_posterior=False)
        pairs = zip(self._features, known.scored.blocks, strict=True)
        parts = [predictor.probabilities(*pair) for pair in pairs]
        example = known.classifier.predict_proba(Extracted(self._first_row))
        return graphs.stacked(parts, self._sizes, example)

    def _up_to_date(self) -> _Known:
        """Return what is known, with scores under the classifier as it now is."""
        known, model = self._known, self._known.classifier.current_model()
        if is_same(known.scored.model, model):
            return known
        later = known._replace(scored=_Scored(_scored_blocks(model, self._features), model))
        if self._known is known:  # else another thread has taught
            self._known = later
        return later

    def _scored_after(
        self, known: _Known, later: FittedModel, features: Extracted, y: NDArray[Any]
    ) -> _Scored:
        """Return scores under a model that has learnt labels: by their effects if possible."""
        before, scored = known.classifier.current_model(), known.scored
        if (
            is_same(scored.model, before)
            and scored.n_followed < _MAX_FOLLOWED
            and is_followed(before, later, len(y), len(self))
        ):
            effects = known.classifier.pool_state(features).learn(range(len(y)), y, np.ones(len(y)))
            if effects is not None:
                return self._following(scored, effects, later)
        return _Scored(_scored_blocks(later, self._features), later)

    def _following(self, scored: _Scored, effects: Sequence[Effect], later: FittedModel) -> _Scored:
        """Return the scores when labels had effects; where too few digits are left, anew."""
        follow = dask.delayed(tasks.followed)
        model, what = graphs.shipped(later.without_posterior()), graphs.shipped(effects)
        pairs = zip(self._features, scored.blocks, strict=True)
        blocks, have_digits = _kept(self._features, [follow(model, what, *pair) for pair in pairs])
        lost = [i for i, has_digits in enumerate(have_digits) if not has_digits]
        if lost:
            anew = _scored_blocks(later, [self._features[i] for i in lost])
            for i, block in zip(lost, anew, strict=True):
                blocks[i] = block
        return _Scored(blocks, later, scored.n_followed + 1)

    def _rows(self, positions: NDArray[np.int64]) -> NDArray[np.floating]:
        """Return features (n, n_features) of instances, fetched from the workers."""
        pairs = zip(self._features, self._by_block(positions), strict=True)
        parts = [dask.delayed(tasks.rows_of)(*pair) for pair in pairs if len(pair[1])]
        return np.concatenate(dask.compute(*parts))[np.argsort(np.argsort(positions))]

    def _by_block(self, positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the rows of each block that are at some positions, sorted."""
        positions = np.sort(positions)
        parts = np.split(positions, np.searchsorted(positions, self._starts[1:]))
        return [part - start for part, start in zip(parts, self._starts, strict=True)]


def _scored_blocks(model: FittedModel, features: Sequence[Delayed]) -> list[Delayed]:
    """Return scores of blocks under a model, in D^2 operations per row."""
    node, score = graphs.shipped(model), dask.delayed(tasks.scored)
    return _kept(features, [score(node, block) for block in features])[0]


def _kept(
    features: Sequence[Delayed], scores: Sequence[Delayed]
) -> tuple[list[Delayed], tuple[bool, ...]]:
    """Return scores that the workers keep, once all are there, and which have enough digits."""
    check = dask.delayed(tasks.has_digits)
    checks = [check(*pair) for pair in zip(features, scores, strict=True)]
    kept = graphs.persisted([*scores, *checks])
    return list(kept[: len(scores)]), dask.compute(*kept[len(scores) :])


def _shipped_predictor(classifier: LaplaceUpdateClassifier, reads_posterior: bool) -> Delayed:
    """Return a node that predicts, without the posterior where nobody reads it."""
    model = classifier.current_model()
    if reads_posterior or classifier.predictive == "monte_carlo":
        return graphs.shipped(tasks.BlockPredictor(model, classifier))
    return graphs.shipped(tasks.BlockPredictor(model.without_posterior(), None))
