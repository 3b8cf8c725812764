"""Functions that run on the workers, and what these keep of a pool."""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import _num_samples

from laplace_al._common.devices import as_array
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.classifier.fitted import Fitted, fitted_of
from laplace_al.inputs.input_format import InputFormat
from laplace_al.model.fitted_model import FittedModel, check_size
from laplace_al.model.pool_state import PoolScores, PoolState
from laplace_al.model.posterior.effects import Effect
from laplace_al.model.prior_precision import prior_precision_of_features
from laplace_al.model.rows import Block, Combine
from laplace_al.pool.scored import extracted, is_accurate, largest_variance
from laplace_al.strategies._checks import candidates_of_block
from laplace_al.strategies._passes import Ranking
from laplace_al.strategies._ranking import Leaders
from laplace_al.strategies._view import LearnerView, StateView


def applied(function: Callable[..., Any], args: tuple[Any, ...], *block: Any) -> Any:
    """Return the result of a function of a :class:`~laplace_al.model.rows.Block`."""
    return function(Block(*block), *args)


def reduced(combine: Combine, *parts: Any) -> Any:
    """Return parts combined two by two."""
    return functools.reduce(combine, parts)


def learnt(
    classifier: LaplaceUpdateClassifier,
    block: Any,
    y: NDArray[Any],
    classes: ArrayLike | None,
    sample_weight: NDArray[np.float64],
) -> Fitted:
    """Return what a classifier has learnt with the labels of a block."""
    learner = copy.copy(classifier)
    return fitted_of(learner.partial_fit(block, y, classes=classes, sample_weight=sample_weight))


def merged(since: FittedModel | None, one: Fitted, other: Fitted) -> Fitted:
    """Return what two classifiers have learnt apart from each other."""
    return one._replace(model=one.model.merged(other.model, since))


def scale_of_block(
    classifier: LaplaceUpdateClassifier, block: Any, sample_weight: NDArray[np.float64]
) -> float:
    """Return what ``prior_precision="scale"`` is for a block."""
    features = torch.tensor(extracted(classifier, block), dtype=torch.float64)
    return prior_precision_of_features(
        features, features.new_tensor(sample_weight), classifier.head
    )


def leaders_of_block(
    ranking: Ranking, learner: Any, block: Any, candidates: NDArray[np.bool_] | None, start: int
) -> Leaders:
    """Return the leaders among the candidates of a block."""
    is_open = candidates_of_block(candidates, 0, _num_samples(block))
    return ranking.of_block(LearnerView(learner, block), is_open, start, block)[0]


@dataclass(frozen=True, eq=False)
class KeptFeatures:
    """Features (n, n_features) of a block, which a worker keeps."""

    tensor: torch.Tensor

    def __sizeof__(self) -> int:
        return self.tensor.nbytes  # of which Dask knows nothing


@dataclass(frozen=True, eq=False)
class KeptScores:
    """Scores of a block, and the variances for predictions when it was last scored anew."""

    scores: PoolScores
    when_scored: torch.Tensor

    def __sizeof__(self) -> int:
        tensors = {id(tensor): tensor for tensor in (*self.scores, self.when_scored)}
        return sum(tensor.nbytes for tensor in tensors.values())


def kept_features(
    inputs: InputFormat, block: Any, name: str, dtype: torch.dtype, device: torch.device
) -> KeptFeatures:
    """Return the features of a block of inputs, for the estimator of a name."""
    features = inputs.pool_features(block, name=name, device=device)
    check_size(features, dtype)
    return KeptFeatures(features)


def rows_of(features: KeptFeatures, places: NDArray[np.int64]) -> NDArray[np.floating]:
    """Return some rows of kept features."""
    return as_array(features.tensor[places])


def scored(model: FittedModel, features: KeptFeatures) -> KeptScores:
    """Return the scores of a block under a model."""
    state = PoolState(model, features.tensor)
    return KeptScores(state.scores, largest_variance(state))


def followed(
    model: FittedModel, effects: Sequence[Effect], features: KeptFeatures, kept: KeptScores
) -> KeptScores:
    """Return the scores of a block when labels have had effects."""
    state = PoolState(model, features.tensor, kept.scores).affected(effects)
    return replace(kept, scores=state.scores)


def has_digits(features: KeptFeatures, kept: KeptScores) -> bool:
    """Return whether enough digits are left of the variances of a block."""
    return is_accurate(features.tensor.dtype, kept.scores.predictive_variance, kept.when_scored)


class BlockPredictor(NamedTuple):
    """Predicts from kept scores: by a model, and its classifier if the model is not enough."""

    model: FittedModel
    classifier: LaplaceUpdateClassifier | None

    def probabilities(self, features: KeptFeatures, kept: KeptScores) -> NDArray[np.floating]:
        """Return the probabilities (n, n_classes) of a block."""
        return self._view(features, kept).predict_proba()

    def leaders(
        self,
        ranking: Ranking,
        features: KeptFeatures,
        kept: KeptScores,
        taught: NDArray[np.int64],
        start: int,
    ) -> Leaders:
        """Return the leaders among the rows of a block that have not been taught."""
        view = self._view(features, kept)
        is_open = np.ones(len(view), dtype=bool)
        is_open[taught] = False
        rows = view.features if ranking.keeps_rows else None
        return ranking.of_block(view, is_open, start, rows)[0]

    def _view(self, features: KeptFeatures, kept: KeptScores) -> StateView:
        return StateView(PoolState(self.model, features.tensor, kept.scores), self.classifier)
