"""Calibration without a validation set, from predictions made before an instance was known."""

import functools
import itertools
from collections.abc import Iterator
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
_MAX_UNREAD = 64


class Observation(NamedTuple):
    """Labels that were predicted before they were learnt.

    Parameters
    ----------
    link : callable
        Of :mod:`laplace_al.model.links`.
    likelihood : Bernoulli or Categorical
    predicted : LeftOut
        Logits and variances before the labels were known.
    targets : Tensor of shape (n, C)
    weights : Tensor of shape (n,)
        s.
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
    newest labels stay unread until the sums are needed, and are then added many at a time.

    Parameters
    ----------
    read : ndarray of shape (n_temperatures,)
        Sum of s log p(y) at each temperature of the grid, e^-4 to e^4, over all but the unread
        labels.
    variance_scale : float
        Factor of the variances of the logits.
    unread : tuple of Observation
        Labels that are not yet in ``read``.

    Examples
    --------
    >>> Calibration().temperature
    1.0
    """

    read: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(_LOG_TEMPERATURES)))
    variance_scale: float = 1.0
    unread: tuple[Observation, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a value

    @classmethod
    def fit(cls, observation: Observation) -> Self:
        """Temperature and scale that maximise the log-likelihood of the labels.

        Parameters
        ----------
        observation : Observation
            Leave-one-out predictions.

        Returns
        -------
        Calibration
            The identity if every label is the only one of its class: leaving it out would leave its
            class without labels, which is not representative of new instances.

        Examples
        --------
        >>> from laplace_al.model.leave_one_out import LeftOut
        >>> from laplace_al.model.likelihoods import Bernoulli
        >>> from laplace_al.model.links import plug_in
        >>> timid = LeftOut(torch.tensor([[-0.1], [0.1]] * 5), torch.zeros(10, 1))
        >>> targets = torch.tensor([[0.0], [1.0]] * 5)
        >>> right = Observation(plug_in, Bernoulli(), timid, targets, torch.ones(10))
        >>> Calibration.fit(right).temperature < 0.1
        True
        """
        if not _says_anything(observation):
            return cls()
        coarse = _LOG_TEMPERATURES[::2]
        best = _best_scale(
            np.stack([_summed_scores(observation, scale, coarse) for scale in _SCALES])
        )
        scores = _summed_scores(observation, _SCALES[best], _LOG_TEMPERATURES)
        return cls(scores, _SCALES[best])

    @classmethod
    def of_scores(cls, scores: NDArray[np.float64], is_informed: bool) -> Self:
        """The result of :meth:`fit`, from sums over the instances.

        Parameters
        ----------
        scores : ndarray of shape (n_scales, n_temperatures)
            Sums of :func:`scores_of_scales`.
        is_informed : bool
            Whether some class has more than one unit of weight.

        Returns
        -------
        Calibration

        Examples
        --------
        >>> Calibration.of_scores(np.zeros((6, 41)), is_informed=False).temperature
        1.0
        """
        if not is_informed:
            return cls()
        best = _best_scale(scores[:, ::2])
        return cls(scores[best], _SCALES[best])

    @functools.cached_property
    def scores(self) -> NDArray[np.float64]:
        """Sum of s log p(y) of all labels at each temperature, (n_temperatures,)."""
        scores = self.read
        for joined, sizes in self._joined():
            # one observation after another: rounded alike, but for the last digit of each,
            # whenever they are asked for
            for part in _scores(joined, self.variance_scale, _LOG_TEMPERATURES, sizes):
                scores = scores + part
        return scores

    @property
    def is_informed(self) -> bool:
        """Whether any label was seen."""
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

    def observe(self, observation: Observation) -> Self:
        """The calibration with further labels.

        Parameters
        ----------
        observation : Observation

        Returns
        -------
        Calibration

        Examples
        --------
        >>> from laplace_al.model.leave_one_out import LeftOut
        >>> from laplace_al.model.likelihoods import Bernoulli
        >>> from laplace_al.model.links import plug_in
        >>> wrong = LeftOut(torch.tensor([[-9.0]]), torch.zeros(1, 1))
        >>> seen = Observation(plug_in, Bernoulli(), wrong, torch.ones(1, 1), torch.ones(1))
        >>> Calibration().observe(seen).temperature > 2
        True
        """
        # what was read once is not read again
        known = self._all_read() if "scores" in vars(self) else self
        more = replace(known, unread=(*known.unread, observation))
        is_little = max(len(more.unread), len(observation.weights)) < _MAX_UNREAD
        return more if is_little else more._all_read()

    def merge(self, other: Self, since: Self) -> Self:
        """The calibration from the labels of both of two, which have learnt them separately.

        Parameters
        ----------
        other : Calibration
        since : Calibration
            Calibration from which both started.

        Returns
        -------
        Calibration

        Examples
        --------
        >>> Calibration().merge(Calibration(), Calibration()).temperature
        1.0
        """
        return replace(self, read=self.scores + other.scores - since.scores, unread=())

    def forget(self, share: float) -> Self:
        """The calibration with the weights of all labels so far multiplied by a share.

        Parameters
        ----------
        share : float
            Factor in [0, 1].

        Returns
        -------
        Calibration

        Examples
        --------
        >>> Calibration().forget(0.5).temperature
        1.0
        """
        return replace(self, read=share * self.scores, unread=())

    def _all_read(self) -> Self:
        return replace(self, read=self.scores, unread=())

    def _joined(self) -> Iterator[tuple[Observation, list[int]]]:
        """What is unread, in runs of the same link and number of outputs, and how many each."""
        runs = itertools.groupby(self.unread, lambda part: (part.link, part.targets.shape[1:]))
        for _, run in runs:
            parts = list(run)
            logits, variance = zip(*(part.predicted for part in parts), strict=True)
            joined = parts[0]._replace(
                predicted=LeftOut(torch.cat(logits), torch.cat(variance)),
                targets=torch.cat([part.targets for part in parts]),
                weights=torch.cat([part.weights for part in parts]),
            )
            yield joined, [len(part.weights) for part in parts]

    def __getstate__(self) -> dict[str, Any]:
        return {
            "read": self.scores,
            "variance_scale": self.variance_scale,
            "unread": (),
        }

    def apply(self, link: Link, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        """Calibrated logits.

        Parameters
        ----------
        link : callable
        mean : Tensor of shape (n, C)
        variance : Tensor of shape (n,) or (n, C)

        Returns
        -------
        Tensor of shape (n, C)

        Examples
        --------
        >>> from laplace_al.model.links import plug_in
        >>> Calibration().apply(plug_in, torch.ones(1, 1), torch.ones(1))
        tensor([[1.]])
        """
        return link(mean / self.temperature, self.variance_scale * variance)


def scores_of_scales(observation: Observation) -> NDArray[np.float64]:
    """Sum of s log p(y) at each scale of the variance and temperature of the grid.

    Parameters
    ----------
    observation : Observation

    Returns
    -------
    ndarray of shape (n_scales, n_temperatures)

    Examples
    --------
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> from laplace_al.model.links import plug_in
    >>> sure = LeftOut(torch.tensor([[9.0]]), torch.zeros(1, 1))
    >>> seen = Observation(plug_in, Bernoulli(), sure, torch.ones(1, 1), torch.ones(1))
    >>> scores_of_scales(seen).shape
    (6, 41)
    """
    return np.stack([_summed_scores(observation, scale, _LOG_TEMPERATURES) for scale in _SCALES])


def weight_of_classes(targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weight of each class.

    Parameters
    ----------
    targets : Tensor of shape (n, C)
    weights : Tensor of shape (n,)

    Returns
    -------
    Tensor of shape (K,)

    Examples
    --------
    >>> weight_of_classes(torch.ones(3, 1), torch.ones(3))
    tensor([0., 3.])
    """
    per_output = weights @ targets
    if len(per_output) == 1:
        return torch.stack([weights.sum() - per_output[0], per_output[0]])
    return per_output


def _says_anything(observation: Observation) -> bool:
    """Whether some class has more than one unit of weight."""
    return bool((weight_of_classes(observation.targets, observation.weights) > 1).any())


def _best_scale(coarse: NDArray[np.float64]) -> int:
    """Which scale is the best, from scores (n_scales, .) at every other temperature.

    The first of those that only rounding tells apart: labels predicted for certain, say.
    """
    quality = (coarse + _log_prior(_LOG_TEMPERATURES[::2])).max(axis=1)
    return int((quality >= quality.max() - _ROUNDING * (1 + abs(quality.max()))).argmax())


def _log_prior(log_temperatures: NDArray[np.float64]) -> NDArray[np.float64]:
    return -((log_temperatures / _PRIOR) ** 2) / 2


def _summed_scores(
    observation: Observation, scale: float, log_temperatures: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum of s log p(y) at each temperature, (n_t,)."""
    return _scores(observation, scale, log_temperatures, len(observation.weights))[0]


def _scores(
    observation: Observation,
    scale: float,
    log_temperatures: NDArray[np.float64],
    sizes: int | list[int],
) -> NDArray[np.float64]:
    """Sums of s log p(y) at each temperature, over so many labels at a time: (n_sums, n_t)."""
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
