"""The pool of a learner: features extracted once, predictions that follow each label."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.devices import as_array
from laplace_al.features import Extracted, features_of
from laplace_al.pool import PoolState
from laplace_al.posterior.effects import Effect
from laplace_al.typing import Features, Instances


class ScoredPool:
    """A pool as a :class:`LaplaceUpdateClassifier` sees it, scored when first asked for.

    Parameters
    ----------
    X : array-like of shape (n_pool, ...)
        Must stay as it is.
    features : Tensor or ndarray of shape (n_pool, n_features), default=None
        None until they are extracted.
    state : PoolState, default=None
        None until the pool is scored.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
    >>> pool = ScoredPool([[0.0], [2.0]])
    >>> before = pool.state_under(clf).predict_proba()[1, 1]
    >>> pool = pool.after_update(clf.partial_fit([[2.0]], [1]), [1], [1])
    >>> bool(pool.state_under(clf).predict_proba()[1, 1] > before)
    True
    """

    def __init__(
        self, X: Instances, features: Features | None = None, state: PoolState | None = None
    ) -> None:
        self.X = X
        self.features = features
        self._state = state

    def state_under(self, classifier: LaplaceUpdateClassifier) -> PoolState:
        """Predictions of a classifier, the one that all labels were told of.

        Parameters
        ----------
        classifier : LaplaceUpdateClassifier

        Returns
        -------
        PoolState
            Kept: copy it before it observes anything.
        """
        if self._state is None:
            known = self.X if self.features is None else Extracted(self.features)
            self._state = classifier.pool_state(known)
            self.features = self._state.features
        return self._state

    def features_under(self, classifier: LaplaceUpdateClassifier) -> Features:
        """Features of the pool, for which a classifier need not be fitted.

        Parameters
        ----------
        classifier : LaplaceUpdateClassifier

        Returns
        -------
        Tensor or ndarray of shape (n_pool, n_features)
            Where they are kept.
        """
        if self.features is None:
            self.features = features_of(
                classifier.feature_extractor,
                self.X,
                batch_size=classifier.batch_size,
                verbose=classifier.verbose,
            )
        return self.features

    def after_update(
        self,
        classifier: LaplaceUpdateClassifier,
        positions: Sequence[int],
        labels: Sequence[Any] | NDArray[Any],
    ) -> "ScoredPool":
        """The pool when a classifier has learnt labels of it by ``partial_fit``.

        Parameters
        ----------
        classifier : LaplaceUpdateClassifier
            That has learnt them.
        positions : sequence of int
        labels : sequence of labels

        Returns
        -------
        ScoredPool
        """
        known = self._state
        if known is None or not _only_updates(classifier) or not _pays(known, len(positions)):
            return self.after_fit()
        labelled = known.part(np.asarray(positions, dtype=np.int64))
        effects: list[Effect] = []
        for i, label in enumerate(labels):
            effects += labelled.learn(i, label)
        state = known.affected(effects)
        state.posterior, state.calibration = classifier.posterior_, classifier.calibration_
        return ScoredPool(self.X, self.features, state)

    def after_fit(self) -> "ScoredPool":
        """The pool when its predictions are to be computed anew.

        Returns
        -------
        ScoredPool
        """
        return ScoredPool(self.X, self.features)

    def rows(self, positions: list[int]) -> NDArray[np.floating] | None:
        """Extracted features, if they are known.

        Parameters
        ----------
        positions : list of int

        Returns
        -------
        ndarray of shape (n, n_features) or None
        """
        return None if self.features is None else as_array(self.features[positions])


def _only_updates(classifier: LaplaceUpdateClassifier) -> bool:
    """Whether ``partial_fit`` does just what a PoolState does."""
    return (classifier.n_passes, classifier.forgetting, classifier.memory_size) == (1, 1, 0)


def _pays(state: PoolState, n_labels: int) -> bool:
    """Whether so many updates, of numbers D^2 and n D each, are cheaper than products of n D^2.

    The factors are measured: a product does 50 operations in the time that an update takes for one
    on D^2, and two for one on n D.
    """
    return n_labels * (50 / len(state) + 2 / len(state.posterior.base_mean)) <= 1
