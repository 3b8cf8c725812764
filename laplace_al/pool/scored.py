"""The pool of a learner: features extracted once, predictions that follow each label."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import _num_samples

from laplace_al._common.devices import as_array
from laplace_al._common.typing import Features, Instances
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.inputs.blocks import rows_at
from laplace_al.inputs.features import Extracted, check_weights, features_of, weights_of
from laplace_al.inputs.networks import Weights
from laplace_al.last_layer import check_size
from laplace_al.model.fitting import prior_precision_by_scale
from laplace_al.model.pool_state import PoolState

_RULE = ("update", "curvature", "step_size", "predictive")
# Of a variance, as a share of it: where a pool is scored anew.
_MAX_ERROR = 0.01
_N_SPACED = 200


class ScoredPool:
    """A pool as a :class:`LaplaceUpdateClassifier` sees it, scored when first asked for.

    Parameters
    ----------
    X : array-like of shape (n_pool, ...)
        Must stay as it is.
    features : Tensor or ndarray of shape (n_pool, n_features), default=None
        None until they are extracted.
    weights : Weights, default=None
        That the features were made with, if by a network.

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
        self, X: Instances, features: Features | None = None, weights: Weights | None = None
    ) -> None:
        self.X = X
        self.features = features
        self._rows: dict[int, NDArray[np.floating]] = {}  # some features, by position
        self._weights = weights
        self._state: PoolState | None = None
        self._rule: tuple[Any, ...] = ()  # what labels are learnt by since it was scored
        self._scored = torch.empty(0)  # variances when it was scored

    def state_under(self, classifier: LaplaceUpdateClassifier) -> PoolState:
        """Predictions of a classifier, the one that all labels were told of.

        Parameters
        ----------
        classifier : LaplaceUpdateClassifier

        Returns
        -------
        PoolState
            Kept: copy it before it observes anything.

        Raises
        ------
        RuntimeError
            If the weights of the network have changed since the features were extracted.
        """
        check_weights(self._weights, classifier.feature_extractor)
        if self._state is None or not self.is_under(classifier):
            known = self.X if self.features is None else Extracted(self.features)
            self._state = classifier.pool_state(known)
            self._keep(self._state.features, classifier)
            self._rule, self._scored = rule_of(classifier), self._state.predictive_variance
        return self._state

    def is_under(self, classifier: LaplaceUpdateClassifier) -> bool:
        """Whether the predictions are those of a classifier, as it is now.

        Parameters
        ----------
        classifier : LaplaceUpdateClassifier

        Returns
        -------
        bool
        """
        return (
            self._state is not None
            and self._state.posterior is classifier.posterior_
            and self._rule == rule_of(classifier)
        )

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
        check_weights(self._weights, classifier.feature_extractor)
        if self.features is not None:
            return self.features
        if hasattr(classifier, "posterior_"):  # it knows what its inputs are like
            base = classifier.posterior_.base
            features = classifier._pool_features(self.X, base.dtype, base.device)
        else:
            features = extracted(classifier, self.X)
        return self._keep(features, classifier)

    def _keep(self, features: Features, classifier: LaplaceUpdateClassifier) -> Features:
        """Keep features that a classifier's extractor has just made, or that were known."""
        if self._weights is None:
            self._weights = weights_of(classifier.feature_extractor)
        self.features = features
        return features

    def prior_precision_by_scale(self, classifier: LaplaceUpdateClassifier) -> float:
        """What ``prior_precision="scale"`` is for the pool, of which there is more than of labels.

        Parameters
        ----------
        classifier : LaplaceUpdateClassifier

        Returns
        -------
        float
            From up to 200 instances, evenly spaced. What is extracted of a pool of so many is kept.
        """
        n_pool = _num_samples(self.X)
        if n_pool <= _N_SPACED:
            self.features_under(classifier)
        positions = np.linspace(0, n_pool - 1, min(n_pool, _N_SPACED)).astype(np.int64)
        features = self.rows(positions, classifier)
        if features is None:
            features = extracted(classifier, rows_at(self.X, positions))
        features = torch.tensor(as_array(features), dtype=torch.float64)
        return prior_precision_by_scale(features, torch.ones_like(features[:, 0]), classifier.head)

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
        known, n_labels = self._state, len(positions)
        if (
            known is None
            or self._rule != rule_of(classifier)
            or not is_followed(classifier, n_labels, len(known))
        ):
            return self.after_fit()
        labelled = known.part(np.asarray(positions, dtype=np.int64))
        state = known.affected(labelled.learn(range(n_labels), labels, np.ones(n_labels)))
        state.posterior, state.calibration = classifier.posterior_, classifier.calibration_
        if not is_accurate(state.features.dtype, state.predictive_variance, self._scored):
            return self.after_fit()
        later = self.after_fit()
        later._state, later._rule, later._scored = state, self._rule, self._scored
        return later

    def after_fit(self) -> "ScoredPool":
        """The pool when its predictions are to be computed anew.

        Returns
        -------
        ScoredPool
        """
        later = ScoredPool(self.X, self.features, self._weights)
        later._rows = self._rows
        return later

    def rows_under(
        self, classifier: LaplaceUpdateClassifier, positions: Sequence[int]
    ) -> NDArray[np.floating]:
        """Features of some instances, each of them extracted once.

        Parameters
        ----------
        classifier : fitted LaplaceUpdateClassifier
        positions : sequence of int, n of them

        Returns
        -------
        ndarray of shape (n, n_features)
        """
        known = self.rows(list(positions), classifier)
        if known is not None:
            return known
        new = [position for position in positions if position not in self._rows]
        if new:
            features = classifier.transform(rows_at(self.X, new))
            self._rows.update(zip(new, features, strict=True))
        return np.array([self._rows[position] for position in positions])

    def rows(
        self, positions: list[int] | NDArray[np.int64], classifier: LaplaceUpdateClassifier
    ) -> NDArray[np.floating] | None:
        """Extracted features, if they are known.

        Parameters
        ----------
        positions : array-like of int of shape (n,)
        classifier : LaplaceUpdateClassifier

        Returns
        -------
        ndarray of shape (n, n_features) or None
        """
        if self.features is None:
            return None
        check_weights(self._weights, classifier.feature_extractor)
        return as_array(self.features[positions])


def extracted(classifier: LaplaceUpdateClassifier, X: Instances) -> NDArray[np.floating]:
    """Features of inputs, validated, for which a classifier need not be fitted.

    Parameters
    ----------
    classifier : LaplaceUpdateClassifier
    X : array-like of shape (n_samples, ...)

    Returns
    -------
    ndarray of shape (n_samples, n_features)

    Raises
    ------
    ValueError
        If an extractor makes numbers whose products would overflow.

    Examples
    --------
    >>> import numpy as np
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> extracted(LaplaceUpdateClassifier(np.square), [[3.0]])
    array([[9.]])
    """
    features = features_of(
        classifier.feature_extractor,
        X,
        batch_size=classifier.batch_size,
        verbose=classifier.verbose,
    )
    if classifier.feature_extractor is not None:  # else a pool was checked when it came
        check_size(torch.from_numpy(features), getattr(torch, classifier.dtype))
    return features


def rule_of(classifier: LaplaceUpdateClassifier) -> tuple[Any, ...]:
    """The parameters that a PoolState takes over when it is made.

    Parameters
    ----------
    classifier : LaplaceUpdateClassifier

    Returns
    -------
    tuple
        Equal to another one if labels are learnt, and predicted from, alike.

    Examples
    --------
    >>> clf = LaplaceUpdateClassifier()
    >>> before = rule_of(clf)
    >>> rule_of(clf) == before, rule_of(clf.set_params(update="newton")) == before
    (True, False)
    """
    of_classes = classifier.class_weight
    weights = dict(of_classes) if isinstance(of_classes, Mapping) else of_classes
    return weights, *(getattr(classifier, name) for name in _RULE)


def is_followed(classifier: LaplaceUpdateClassifier, n_labels: int, n_pool: int) -> bool:
    """Whether the predictions of a pool follow labels, rather than to be computed anew.

    Parameters
    ----------
    classifier : LaplaceUpdateClassifier
        That has learnt the labels by ``partial_fit``.
    n_labels, n_pool : int

    Returns
    -------
    bool
        If a PoolState learns them just as the classifier does, and at less cost.

    Examples
    --------
    >>> clf = LaplaceUpdateClassifier().fit([[-1.0] * 100, [1.0] * 100], [0, 1])
    >>> is_followed(clf, 30, 10_000), is_followed(clf, 30, 300)
    (True, False)
    """
    if (classifier.n_passes, classifier.forgetting, classifier.memory_size) != (1, 1, 0):
        return False
    # A label costs of the order D^2 + n D, a pool anew n D^2. In products such as the latter an
    # operation takes, as measured, a fiftieth of the time of one on D^2, half of one on n D.
    return n_labels * (50 / n_pool + 2 / len(classifier.posterior_.base_mean)) <= 1


def is_accurate(dtype: torch.dtype, variance: torch.Tensor, scored: torch.Tensor) -> bool:
    """Whether the variances of a pool that follows labels still hold digits enough.

    Parameters
    ----------
    dtype : torch.dtype
        Of the features.
    variance : Tensor of any shape
    scored : Tensor of that shape
        What the variances were when the pool was scored.

    Returns
    -------
    bool
        False where the pool is to be scored anew.

    Examples
    --------
    >>> scored = torch.ones(1)
    >>> is_accurate(torch.float32, 1e-4 * scored, scored)
    True
    >>> is_accurate(torch.float32, 1e-6 * scored, scored)
    False
    """
    # what was subtracted from the variances has the rounding of the features
    error = torch.finfo(dtype).eps * scored
    return not bool((error > _MAX_ERROR * variance).any())
