"""Calibration without a validation set, from predictions made before an instance was known."""

from dataclasses import dataclass, replace

import numpy as np
import torch

_LOG_TEMPERATURES = 0.2 * np.arange(-20, 21)
_SCALES = (1.0, 0.3, 3.0, 0.1, 10.0, 0.03)  # the first of equals
_NUMBERS_AT_ONCE = 2**16  # which stay in the cache
# Standard deviation of log T before any label: one label moves it, ten overrule it.
_PRIOR = 1.5


@dataclass(frozen=True, eq=False)
class Calibration:
    """A temperature T and a scale of the variance: the logits have mean z / T, variance scale v.

    Chosen by the log-likelihood of labels under predictions that did not know them, with a weak
    normal prior on log T around 0, so that few labels cannot push it to its bounds. Only sums
    over the labels are kept, one for each temperature of a grid: a stream adds to them.

    Parameters
    ----------
    scores : ndarray of shape (n_temperatures,)
        Sum of s log p(y) at each temperature of the grid, e^-4 to e^4.
    variance_scale : float
        What the variances of the logits are multiplied with.

    Examples
    --------
    >>> Calibration().temperature
    1.0
    """

    scores: np.ndarray
    variance_scale: float = 1.0

    def __init__(self, scores=None, variance_scale=1.0):
        scores = np.zeros(len(_LOG_TEMPERATURES)) if scores is None else scores
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "variance_scale", variance_scale)

    def __deepcopy__(self, memo):
        return self  # a value

    @classmethod
    def fit(cls, link, likelihood, left_out, targets, weights):
        """Temperature and scale of the largest log-likelihood of the labels.

        Parameters
        ----------
        link : callable
            Of :mod:`laplace_al.links`.
        likelihood : Bernoulli or Categorical
        left_out : LeftOut
            Predictions of each instance without it.
        targets : Tensor of shape (n, C)
        weights : Tensor of shape (n,)
            s.

        Returns
        -------
        Calibration
            The identity if every label is the only one of its class: left out, it would not be
            known at all, which says nothing of new instances.

        Examples
        --------
        >>> from laplace_al.leave_one_out import LeftOut
        >>> from laplace_al.likelihoods import Bernoulli
        >>> from laplace_al.links import plug_in
        >>> timid = LeftOut(torch.tensor([[-0.1], [0.1]] * 5), torch.zeros(10, 1))
        >>> targets = torch.tensor([[0.0], [1.0]] * 5)
        >>> right = Calibration.fit(plug_in, Bernoulli(), timid, targets, torch.ones(10))
        >>> right.temperature < 0.1
        True
        """
        if not _says_anything(likelihood, targets, weights):
            return cls()

        def scores(scale, log_temperatures):
            predicted = left_out, scale, targets, weights
            return _scores(link, likelihood, *predicted, log_temperatures)

        coarse = _LOG_TEMPERATURES[::2]
        best = max(_SCALES, key=lambda scale: (scores(scale, coarse) + _log_prior(coarse)).max())
        return cls(scores(best, _LOG_TEMPERATURES), best)

    @property
    def is_informed(self):
        """Whether any label was seen."""
        return bool(self.scores.any())

    @property
    def _penalised(self):
        return self.scores + _log_prior(_LOG_TEMPERATURES)

    @property
    def objective(self):
        """Log-likelihood and log prior at the best temperature of the grid."""
        return float(self._penalised.max())

    @property
    def temperature(self):
        """T: the top of the parabola through the best point of the grid and its neighbours."""
        values = self._penalised
        best = int(np.clip(values.argmax(), 1, len(values) - 2))
        left, middle, right = values[best - 1 : best + 2]
        bend = left - 2 * middle + right
        shift = np.clip((left - right) / (2 * bend), -1, 1) if bend < 0 else 0.0
        step = _LOG_TEMPERATURES[1] - _LOG_TEMPERATURES[0]
        return float(np.exp(_LOG_TEMPERATURES[best] + shift * step))

    def observe(self, link, likelihood, predicted, targets, weights):
        """With labels that were predicted before they were learnt.

        Parameters
        ----------
        link : callable
        likelihood : Bernoulli or Categorical
        predicted : LeftOut
            Logits and variances before the labels were known.
        targets : Tensor of shape (n, C)
        weights : Tensor of shape (n,)

        Returns
        -------
        Calibration

        Examples
        --------
        >>> from laplace_al.leave_one_out import LeftOut
        >>> from laplace_al.likelihoods import Bernoulli
        >>> from laplace_al.links import plug_in
        >>> wrong = LeftOut(torch.tensor([[-9.0]]), torch.zeros(1, 1))
        >>> Calibration().observe(
        ...     plug_in, Bernoulli(), wrong, torch.ones(1, 1), torch.ones(1)).temperature > 2
        True
        """
        predicted = predicted, self.variance_scale, targets, weights
        scores = _scores(link, likelihood, *predicted, _LOG_TEMPERATURES)
        return replace(self, scores=self.scores + scores)

    def forget(self, share):
        """With all labels so far counting only a share.

        Parameters
        ----------
        share : float
            In [0, 1].

        Returns
        -------
        Calibration

        Examples
        --------
        >>> Calibration().forget(0.5).temperature
        1.0
        """
        return replace(self, scores=share * self.scores)

    def apply(self, link, mean, variance):
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
        >>> from laplace_al.links import plug_in
        >>> Calibration().apply(plug_in, torch.ones(1, 1), torch.ones(1))
        tensor([[1.]])
        """
        return link(mean / self.temperature, self.variance_scale * variance)


def _says_anything(likelihood, targets, weights):
    """Whether some class has more than one unit of weight."""
    per_output = weights @ targets
    if likelihood.n_outputs == 1:
        per_output = torch.stack([weights.sum() - per_output[0], per_output[0]])
    return bool((per_output > 1).any())


def _log_prior(log_temperatures):
    return -((log_temperatures / _PRIOR) ** 2) / 2


def _scores(link, likelihood, predicted, scale, targets, weights, log_temperatures):
    """Sum of s log p(y) at each temperature."""
    logits, variance = predicted.logits, scale * predicted.variance
    temperatures = torch.as_tensor(np.exp(log_temperatures)).to(logits)
    at_once = max(1, _NUMBERS_AT_ONCE // logits.numel())
    scores = []
    for some in temperatures.split(at_once):
        cooled = (logits / some[:, None, None]).flatten(end_dim=1)
        calibrated = link(cooled, variance.repeat(len(some), 1))
        losses = likelihood.negative_log_likelihood(calibrated, targets.repeat(len(some), 1))
        scores.append(-(losses.reshape(len(some), -1) @ weights))
    return torch.cat(scores).double().numpy(force=True)
