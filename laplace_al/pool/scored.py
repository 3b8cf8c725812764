"""The pool of a learner: features extracted once, predictions that follow each label."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import _num_samples

from laplace_al._common.devices import as_array, on_device
from laplace_al._common.typing import Features, Instances
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.inputs.blocks import rows_at, rows_between
from laplace_al.inputs.known import Extracted, check_weights, features_of, weights_of
from laplace_al.inputs.network_weights import Weights
from laplace_al.model.fitted_model import FittedModel, check_size
from laplace_al.model.label_span import LabelSpan
from laplace_al.model.pool_features import variance_at_prior
from laplace_al.model.pool_state import PoolState, takes_new_classes
from laplace_al.model.prior_precision import prior_precision_of_features

# Of a variance, as a share of it: where a pool is scored anew.
_MAX_ERROR = 0.01
_N_SPACED = 200


class ScoredPool:
    """A pool as a :class:`LaplaceUpdateClassifier` sees it, scored when first asked for.

    ``X`` must stay as it is. ``n_start`` is the number of instances that it began with, of which
    the prior precision is; None stands for all. ``features`` (n_pool, n_features) is None until
    they are extracted; ``weights`` are those that they were made with, if by a network.
    """

    def __init__(
        self,
        X: Instances,
        n_start: int | None = None,
        features: Features | None = None,
        weights: Weights | None = None,
    ) -> None:
        self.X = X
        self._n_start = _num_samples(X) if n_start is None else n_start
        self.features = features
        self._rows: dict[int, NDArray[np.floating]] = {}  # some features, by position
        self._weights = weights
        self._labelled: Features | None = None
        self._span: LabelSpan | None = None
        self._state: PoolState | None = None
        self._scored = torch.empty(0)  # of each row, what its variances were subtracted from

    def state_under(self, classifier: LaplaceUpdateClassifier) -> PoolState:
        """Return the predictions of a classifier that has learnt all labels.

        They are kept: copy them before they observe anything. Raises RuntimeError if the weights of
        the network have changed since the features were extracted.
        """
        check_weights(self._weights, classifier.current_extractor())
        if self._state is None or not self.is_under(classifier):
            known = self.X if self.features is None else Extracted(self.features)
            features = classifier.pool_features(known)
            self._keep(features, classifier)
            self._score(classifier.current_model(), features)
        assert self._state is not None
        return self._state

    def _score(self, model: FittedModel, features: torch.Tensor) -> None:
        """Score the pool anew, in the span of the labels where it is known."""
        self._state = None
        if self._labelled is not None:
            labelled = on_device(as_array(self._labelled), features)
            span = empty = LabelSpan.empty(model, features)
            if self._span is not None and self._span.is_of(model):
                span = self._span
            span = span.with_labelled(model, features, labelled)
            if not are_few(span.basis.shape[1], features.shape[1]):  # of labels since withdrawn
                span = empty.with_labelled(model, features, labelled)
            scores, self._span = span.scores(model, features), span
            self._scored = variance_at_prior(model, features)
            if scores is not None and is_accurate(features.dtype, scores.variance, self._scored):
                self._state = PoolState(model, features, scores)
        if self._state is None:
            self._state = PoolState(model, features)
            self._scored = largest_variance(self._state)

    def is_under(self, classifier: LaplaceUpdateClassifier) -> bool:
        """Return whether the predictions are those of a classifier, as it is now."""
        return self._state is not None and is_same(self._state.model, classifier.current_model())

    def features_under(self, classifier: LaplaceUpdateClassifier) -> Features:
        """Return the features (n_pool, n_features), for which a classifier need not be fitted."""
        check_weights(self._weights, classifier.current_extractor())
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
            self._weights = weights_of(classifier.current_extractor())
        self.features = features
        return features

    def prior_precision_by_scale(self, classifier: LaplaceUpdateClassifier) -> float:
        """Return what ``prior_precision="scale"`` is for the pool: more is there than of labels.

        It is that of up to 200 instances, evenly spaced among those that the pool began with, so
        that it does not depend on when the pool grows. If there are no more, their features are
        kept.
        """
        n_pool = self._n_start
        if _num_samples(self.X) <= _N_SPACED:
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
        """Return the pool when a classifier has learnt labels at such positions of it.

        They may have opened classes.
        """
        known, n_labels, model = self._state, len(positions), classifier.current_model()
        if known is None or not is_followed(known.model, model, n_labels, len(known)):
            return self._with_labelled(positions)
        scored = self._scored
        if len(known.classes_) < len(model.classes):
            if not takes_new_classes(known.model):
                return self._with_labelled(positions)
            known = known.with_classes(model.classes)
            scored = torch.maximum(scored, largest_variance(known))
        labelled = known.part(np.asarray(positions, dtype=np.int64))
        effects = labelled.learn(range(n_labels), labels, np.ones(n_labels))
        if effects is None:
            return self._with_labelled(positions)
        state = PoolState(model, known.features, known.affected(effects).scores)
        if not is_accurate(state.features.dtype, state.predictive_variance, scored):
            return self._with_labelled(positions)
        later = self._with_labelled(positions)
        later._state, later._scored = state, scored
        return later

    def extended(self, X: Instances, classifier: Any) -> "ScoredPool":
        """Return a longer pool, which begins with this one; only its new rows are looked at.

        The classifier is one of any kind, as it is now. Raises ValueError if it cannot learn from
        the features of the new rows, and these of the others are known.
        """
        n_known, n_pool = _num_samples(self.X), _num_samples(X)
        later = ScoredPool(X, self._n_start, weights=self._weights)
        later._rows = self._rows
        if self.features is None:
            return later
        check_weights(self._weights, classifier.current_extractor())
        new = ScoredPool(rows_between(X, n_known, n_pool))
        if classifier.feature_extractor is None:  # they are X, which need not be there twice
            later.features_under(classifier)
        else:
            later.features = _joined(self.features, new.features_under(classifier))
        if self._state is not None and self.is_under(classifier):
            more = new.state_under(classifier)
            scores = self._state.scores.joined(more.scores)
            features = torch.as_tensor(later.features_under(classifier))
            later._state = PoolState(more.model, features, scores)
            later._scored = torch.cat([self._scored, new._scored])
        return later

    def after_fit(self, labelled: Features | None = None) -> "ScoredPool":
        """Return the pool with its predictions to be computed anew.

        ``labelled`` (n, n_features) are the features of all labels that a classifier was fitted on,
        if they are few: this then takes less time, see :class:`LabelSpan`.
        """
        later = ScoredPool(self.X, self._n_start, self.features, self._weights)
        later._rows, later._labelled = self._rows, labelled
        later._span = None if labelled is None else self._span
        return later

    def _with_labelled(self, positions: Sequence[int]) -> "ScoredPool":
        """Return the pool to be scored anew when more positions of it are labelled."""
        labelled = self._labelled
        if labelled is None or self.features is None:
            return self.after_fit()
        labelled = np.concatenate([as_array(labelled), as_array(self.features[list(positions)])])
        return self.after_fit(labelled if are_few(len(labelled), labelled.shape[1]) else None)

    def without_features(self) -> "ScoredPool":
        """Return the pool as it came, for a classifier with another network."""
        return ScoredPool(self.X, self._n_start)

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
        check_weights(self._weights, classifier.current_extractor())
        return as_array(self.features[positions])


def extracted(classifier: LaplaceUpdateClassifier, X: Instances) -> NDArray[np.floating]:
    """Return validated features of inputs, for which a classifier need not be fitted.

    Raises ValueError if an extractor makes numbers whose products would overflow.
    """
    features = features_of(
        classifier.current_extractor(),
        X,
        batch_size=classifier.batch_size,
        verbose=classifier.verbose,
    )
    if classifier.feature_extractor is not None:  # else a pool was checked when it came
        check_size(torch.from_numpy(features), getattr(torch, classifier.dtype))
    return features


def _joined(features: Features, more: Features) -> Features:
    """Return the rows of both."""
    if isinstance(features, torch.Tensor):
        return torch.cat([features, torch.as_tensor(more).to(features)])
    return np.concatenate([features, as_array(more)])


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


def are_few(n_labels: int, n_features: int) -> bool:
    """Return whether a pool is scored at less cost in the span of so many labels."""
    return 2 * n_labels <= n_features


def is_accurate(dtype: torch.dtype, variance: torch.Tensor, scored: torch.Tensor) -> bool:
    """Return whether the variances of a pool that follows labels still hold digits enough.

    ``scored`` (n,) are the largest when the pool was scored, ``dtype`` is that of the features.
    """
    # what was subtracted from the variances has the rounding of the features
    error = torch.finfo(dtype).eps * scored
    smallest = variance if variance.ndim == 1 else variance.amin(dim=1)
    return not bool((error > _MAX_ERROR * smallest).any())


def largest_variance(state: PoolState) -> torch.Tensor:
    """Return the largest variance for predictions among the logits of each instance, (n,)."""
    variance = state.predictive_variance
    return variance if variance.ndim == 1 else variance.amax(dim=1)
