"""Calibration without a validation set, from predictions made before an instance was known."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from laplace_al._common.typing import Link
from laplace_al.model.leave_one_out import LeftOut
from laplace_al.model.likelihoods import Likelihood

_LOG_TEMPERATURES = 0.2 * np.arange(-20, 21, dtype=np.float64)
_SCALES = (1.0, 0.3, 3.0, 0.1, 10.0, 0.03)  # the first of equals
_ROUNDING = 1e-9  # of a sum of scores
_NUMBERS_AT_ONCE = 2**16  # which stay in the cache
# Standard deviation of log T before any label: one label moves it, ten overrule it.
_PRIOR = 1.5
_MAX_PENDING = 64


class Observation(NamedTuple):
    """Labels that were predicted before they were learnt: targets (n, C) of weights s (n,).

    ``predicted`` holds the logits and variances before, of which the link makes the prediction.
    """

    link: Link
    likelihood: Likelihood
    predicted: LeftOut
    targets: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True, eq=False)
class Calibration:
    """A temperature T and a scale of the variance: the logits have mean z / T, variance scale v.

    Both maximise the log-likelihood of labels under predictions that were made without them. A
    weak normal prior on log T around 0 keeps few labels from pushing T to its bounds. Only sums
    over the labels are kept, one for each temperature of a grid, to which new labels are added. The
    newest labels stay pending until the sums are needed, and are then added many at a time:
    ``summed`` (n_temperatures,) has the sum of s log p(y) at each temperature of the grid, e^-4 to
    e^4, over all but the pending labels.
    """

    summed: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(_LOG_TEMPERATURES)))
    variance_scale: float = 1.0
    pending: tuple[Observation, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a value

    @classmethod
    def fit(
        cls,
        scores_at: Callable[[Sequence[float], NDArray[np.float64]], NDArray[np.float64]],
        weight_of_classes: torch.Tensor,
    ) -> Self:
        """Return the temperature and scale that maximise the log-likelihood of labels.

        ``scores_at(scales, log_temperatures)`` returns the sums (n_scales, n_temperatures) of
        :func:`scores_at` over all labels, whose weight each class has (K,). If no class has more
        than a unit of weight, the result is the identity: leaving out the only label of a class
        leaves the class without labels, which is not representative of new instances.
        """
        if not bool((weight_of_classes > 1).any()):
            return cls()
        coarse = _LOG_TEMPERATURES[::2]
        scale = _SCALES[_best_scale(scores_at(_SCALES, coarse))]
        return cls(scores_at([scale], _LOG_TEMPERATURES)[0], scale)

    @functools.cached_property
    def scores(self) -> NDArray[np.float64]:
        """Sum of s log p(y) of all labels at each temperature, (n_temperatures,)."""
        scores = self.summed
        for joined, sizes in self._joined():
            # one observation after another: rounded alike, but for the last digit of each,
            # whenever they are asked for
            for part in _scores(joined, self.variance_scale, _LOG_TEMPERATURES, sizes):
                scores = scores + part
        return scores

    @property
    def is_informed(self) -> bool:
        """Return whether it knows any label."""
        return bool(self.scores.any())

    @property
    def _penalised(self) -> NDArray[np.float64]:
        return self.scores + _log_prior(_LOG_TEMPERATURES)  # eq-calibration

    @property
    def objective(self) -> float:
        """Log-likelihood and log prior at the best temperature of the grid."""
        return float(self._penalised.max())

    @property
    def temperature(self) -> float:
        """T: the top of the parabola through the best point of the grid and its neighbours."""
        values = self._penalised
        best = int(np.clip(values.argmax(), 1, len(values) - 2))
        left, middle, right = values[best - 1 : best + 2]
        bend = left - 2 * middle + right
        shift = np.clip((left - right) / (2 * bend), -1, 1) if bend < 0 else 0.0
        step = _LOG_TEMPERATURES[1] - _LOG_TEMPERATURES[0]
        return float(np.exp(_LOG_TEMPERATURES[best] + shift * step))

    def with_labels(self, observation: Observation) -> Self:
        """Return the calibration with further labels."""
        # labels whose scores are known are not scored again
        known = self._all_summed() if "scores" in vars(self) else self
        more = replace(known, pending=(*known.pending, observation))
        is_little = max(len(more.pending), len(observation.weights)) < _MAX_PENDING
        return more if is_little else more._all_summed()

    def merge(self, other: Self, since: Self) -> Self:
        """Return the calibration from the labels of both of two, which started from ``since``."""
        return replace(self, summed=self.scores + other.scores - since.scores, pending=())

    def forget(self, share: float) -> Self:
        """Return the calibration with the weights of all labels so far times a share in [0, 1]."""
        return replace(self, summed=share * self.scores, pending=())

    def apply(self, link: Link, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        """Return calibrated logits (n, C) from means (n, C) and variances (n,) or (n, C)."""
        return link(mean / self.temperature, self.variance_scale * variance)

    def __getstate__(self) -> dict[str, Any]:
        return {"summed": self.scores, "variance_scale": self.variance_scale, "pending": ()}

    def _all_summed(self) -> Self:
        return replace(self, summed=self.scores, pending=())

    def _joined(self) -> Iterator[tuple[Observation, list[int]]]:
        """Yield runs of pending labels of one link and number of outputs, and the sizes of each."""
        runs = itertools.groupby(self.pending, lambda part: (part.link, part.targets.shape[1:]))
        for _, run in runs:
            parts = list(run)
            logits, variance = zip(*(part.predicted for part in parts), strict=True)
            joined = parts[0]._replace(
                predicted=LeftOut(torch.cat(logits), torch.cat(variance)),
                targets=torch.cat([part.targets for part in parts]),
                weights=torch.cat([part.weights for part in parts]),
            )
            yield joined, [len(part.weights) for part in parts]


def scores_at(
    observation: Observation, scales: Sequence[float], log_temperatures: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the sum of s log p(y) at each scale of the variance and temperature, (n_s, n_t)."""
    n_labels = len(observation.weights)
    return np.stack([_scores(observation, one, log_temperatures, n_labels)[0] for one in scales])


def weight_of_classes(targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weight of each class (K,), from targets (n, C) of weights (n,)."""
    per_output = weights @ targets
    if len(per_output) == 1:
        return torch.stack([weights.sum() - per_output[0], per_output[0]])
    return per_output


def _best_scale(coarse: NDArray[np.float64]) -> int:
    """Return the place of the best scale, from scores (n_scales, .) at every other temperature.

    It is the first of those that only rounding tells apart, as where labels are predicted for
    certain.
    """
    quality = (coarse + _log_prior(_LOG_TEMPERATURES[::2])).max(axis=1)
    return int((quality >= quality.max() - _ROUNDING * (1 + abs(quality.max()))).argmax())


def _log_prior(log_temperatures: NDArray[np.float64]) -> NDArray[np.float64]:
    return -((log_temperatures / _PRIOR) ** 2) / 2


def _scores(
    observation: Observation,
    scale: float,
    log_temperatures: NDArray[np.float64],
    sizes: int | list[int],
) -> NDArray[np.float64]:
    """Return sums (n_sums, n_t) of s log p(y) at each temperature, over labels in such groups."""
    link, likelihood, predicted, targets, weights = observation
    logits, variance = predicted.logits, scale * predicted.variance
    temperatures = torch.as_tensor(np.exp(log_temperatures)).to(logits)
    at_once = max(1, _NUMBERS_AT_ONCE // logits.numel())
    scores = []
    for some in temperatures.split(at_once):
        cooled = (logits / some[:, None, None]).flatten(end_dim=1)
        calibrated = link(cooled, variance.repeat(len(some), 1))
        losses = likelihood.negative_log_likelihood(calibrated, targets.repeat(len(some), 1))
        parts = (-weights * losses.reshape(len(some), -1)).split(sizes, dim=1)
        scores.append(torch.stack([part.sum(dim=1) for part in parts]))
    return torch.cat(scores, dim=1).double().numpy(force=True)
