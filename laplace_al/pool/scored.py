"""The pool of a learner: features extracted once, predictions that follow each label."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import _num_samples

from laplace_al._common.devices import as_array
from laplace_al._common.typing import Features, Instances
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.inputs.blocks import rows_at
from laplace_al.inputs.known import Extracted, check_weights, features_of, weights_of
from laplace_al.inputs.network_weights import Weights
from laplace_al.model.fitted_model import FittedModel, check_size
from laplace_al.model.pool_state import PoolState
from laplace_al.model.prior_precision import prior_precision_of_features

# Of a variance, as a share of it: where a pool is scored anew.
_MAX_ERROR = 0.01
_N_SPACED = 200


class ScoredPool:
    """A pool as a :class:`LaplaceUpdateClassifier` sees it, scored when first asked for.

    ``X`` must stay as it is. ``features`` (n_pool, n_features) is None until they are extracted;
    ``weights`` are those that they were made with, if by a network.
    """

    def __init__(
        self, X: Instances, features: Features | None = None, weights: Weights | None = None
    ) -> None:
        self.X = X
        self.features = features
        self._rows: dict[int, NDArray[np.floating]] = {}  # some features, by position
        self._weights = weights
        self._state: PoolState | None = None
        self._scored = torch.empty(0)  # variances when it was scored

    def state_under(self, classifier: LaplaceUpdateClassifier) -> PoolState:
        """Return the predictions of a classifier that has learnt all labels.

        They are kept: copy them before they observe anything. Raises RuntimeError if the weights of
        the network have changed since the features were extracted.
        """
        check_weights(self._weights, classifier.feature_extractor)
        if self._state is None or not self.is_under(classifier):
            known = self.X if self.features is None else Extracted(self.features)
            self._state = classifier.pool_state(known)
            self._keep(self._state.features, classifier)
            self._scored = self._state.predictive_variance
        return self._state

    def is_under(self, classifier: LaplaceUpdateClassifier) -> bool:
        """Return whether the predictions are those of a classifier, as it is now."""
        return self._state is not None and is_same(self._state.model, classifier.current_model())

    def features_under(self, classifier: LaplaceUpdateClassifier) -> Features:
        """Return the features (n_pool, n_features), for which a classifier need not be fitted."""
        check_weights(self._weights, classifier.feature_extractor)
        if self.features is not None:
            return self.features
        if hasattr(classifier, "posterior_"):  # it knows what its inputs are like
            features = classifier.pool_features(self.X)
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
        """Return what ``prior_precision="scale"`` is for the pool: more is there than of labels.

        It is that of up to 200 instances, evenly spaced. If there are no more, their features are
        kept.
        """
        n_pool = _num_samples(self.X)
        if n_pool <= _N_SPACED:
            self.features_under(classifier)
        positions = np.linspace(0, n_pool - 1, min(n_pool, _N_SPACED)).astype(np.int64)
        features = self.rows(positions, classifier)
        if features is None:
            features = extracted(classifier, rows_at(self.X, positions))
        features = torch.tensor(as_array(features), dtype=torch.float64)
        return prior_precision_of_features(
            features, torch.ones_like(features[:, 0]), classifier.head
        )

    def after_update(
        self,
        classifier: LaplaceUpdateClassifier,
        positions: Sequence[int],
        labels: Sequence[Any] | NDArray[Any],
    ) -> "ScoredPool":
        """Return the pool when a classifier has learnt labels at such positions of it."""
        known, n_labels, model = self._state, len(positions), classifier.current_model()
        if known is None or not is_followed(known.model, model, n_labels, len(known)):
            return self.after_fit()
        labelled = known.part(np.asarray(positions, dtype=np.int64))
        effects = labelled.learn(range(n_labels), labels, np.ones(n_labels))
        if effects is None:
            return self.after_fit()
        state = PoolState(model, known.features, known.affected(effects).scores)
        if not is_accurate(state.features.dtype, state.predictive_variance, self._scored):
            return self.after_fit()
        later = self.after_fit()
        later._state, later._scored = state, self._scored
        return later

    def after_fit(self) -> "ScoredPool":
        """Return the pool with its predictions to be computed anew."""
        later = ScoredPool(self.X, self.features, self._weights)
        later._rows = self._rows
        return later

    def rows_under(
        self, classifier: LaplaceUpdateClassifier, positions: Sequence[int]
    ) -> NDArray[np.floating]:
        """Return the features (n, n_features) of some instances, each of them extracted once."""
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
        """Return extracted features (n, n_features), if they are known."""
        if self.features is None:
            return None
        check_weights(self._weights, classifier.feature_extractor)
        return as_array(self.features[positions])


def extracted(classifier: LaplaceUpdateClassifier, X: Instances) -> NDArray[np.floating]:
    """Return validated features of inputs, for which a classifier need not be fitted.

    Raises ValueError if an extractor makes numbers whose products would overflow.
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


def is_same(model: FittedModel, other: FittedModel) -> bool:
    """Return whether two models predict alike and learn alike."""
    return model.posterior is other.posterior and model.rules == other.rules


def is_followed(known: FittedModel, later: FittedModel, n_labels: int, n_pool: int) -> bool:
    """Return whether the predictions of a pool follow labels, or else are to be computed anew.

    They do if a :class:`PoolState` learns the labels just as :meth:`FittedModel.updated` has, and
    at less cost.
    """
    rules = later.rules
    if rules != known.rules or (rules.n_passes, rules.forgetting, rules.memory_size) != (1, 1, 0):
        return False
    # A label costs of the order D^2 + n D, a pool anew n D^2. In products such as the latter an
    # operation takes, as measured, a fiftieth of the time of one on D^2, half of one on n D.
    return n_labels * (50 / n_pool + 2 / len(later.posterior.prior_mean)) <= 1


def is_accurate(dtype: torch.dtype, variance: torch.Tensor, scored: torch.Tensor) -> bool:
    """Return whether the variances of a pool that follows labels still hold digits enough.

    ``scored`` are those when the pool was scored, ``dtype`` is that of the features.
    """
    # what was subtracted from the variances has the rounding of the features
    error = torch.finfo(dtype).eps * scored
    return not bool((error > _MAX_ERROR * variance).any())
