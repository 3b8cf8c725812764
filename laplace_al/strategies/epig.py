"""Information that a label gives about the labels of inputs that matter."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from laplace_al._common.typing import Instances, RandomState, Rng
from laplace_al.model.pool_state import PoolState
from laplace_al.model.posterior import FullPosterior
from laplace_al.model.posterior.full import common_shift
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._view import PoolView


class EPIG(QueryStrategy):
    """Choose the instances whose label tells most about the labels of target inputs.

    The utility is the expected predictive information gain, the mean over the targets j of the
    mutual information of two labels, ``mean_j I(y; y_j)`` in nats. In contrast,
    :class:`~laplace_al.strategies.bald.BALD` chooses whatever tells most about the weights, even if
    it matters only for inputs that will never be predicted.

    Nothing is drawn. To second order in the covariances of the logits of two inputs, with
    probabilities p and q, variances v and w of the logits, and covariances ``phi^T Sigma_k phi_j``,

        I = ((sum_k c_k p_k q_k)^2 + sum_k c_k^2 p_k q_k (1 - p_k - q_k)) / 2
        c_k = phi^T Sigma_k phi_j / sqrt((1 + pi/8 v_k) (1 + pi/8 w_k))

    Needs the posterior of a :class:`~laplace_al.LaplaceUpdateClassifier`. If another model draws
    its predictions for the pool and the targets together, see
    :func:`laplace_al.strategies.scores.expected_information_gain_of_predictions`.

    Parameters
    ----------
    X_target : array-like of shape (n_targets, ...)
        Inputs, in the form that the learner takes, whose labels it should predict well: some
        hundred, drawn from the distribution on which it will be used.
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    Notes
    -----
    The instances that tell most resemble each other. Build batches of them with
    ``SequentialBatch(EPIG(X_target), labels="expected")``, which counts what they share once.

    Where variances are large, the value is of the right order only; the ranking is that of several
    hundred draws or better. The authors estimate the joint probabilities of two labels by S drawn
    weights. Chance agreement of the draws then counts as information: with many classes, most of
    the utility is this bias, and it ranks as the entropy does.

    References
    ----------
    Bickford Smith, Kirsch, Farquhar, Gal, Foster and Rainforth, *Prediction-oriented Bayesian
    active learning*, AISTATS 2023.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import EPIG
    >>> learner = LaplaceUpdateClassifier().fit(
    ...     [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [0, 1])
    >>> pool = [[0.0, 9.0, 0.0], [0.0, 0.0, 2.0]]
    >>> EPIG([[0.0, 0.0, 1.0], [0.1, 0.0, 3.0]]).query(learner, pool)
    array([1])
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "X_target": "no_validation",  # whatever the extractor takes
    }

    is_pointwise = True

    def __init__(self, X_target: Instances, *, random_state: RandomState = None) -> None:
        super().__init__(random_state=random_state)
        self.X_target = X_target

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return the mean mutual information with the label of a target, (n_pool,)."""
        return mean_information(view.posterior_state(self), view.state_of(self.X_target))


def mean_information(state: PoolState, targets: PoolState) -> NDArray[np.float64]:
    """Return the information (n,) of each label about that of a target, on average over these.

    ``targets`` is a state under the same posterior.
    """
    is_coupled = isinstance(state.posterior, FullPosterior)
    information = _of_coupled_logits if is_coupled else _of_logits
    width = min(len(targets), _TARGETS_AT_ONCE)
    numbers_each = width * targets.logits.shape[1] ** (2 if is_coupled else 0)
    sums = np.zeros(len(state))
    for points in _parts(targets, width):
        height, start = max(1, _NUMBERS_AT_ONCE // numbers_each), 0
        for some in _parts(state, height):
            each = information(some, points).sum(dim=1).double()
            sums[start : start + len(each)] += each.numpy(force=True)
            start += len(each)
    return np.maximum(sums / len(targets), 0.0)


def _parts(state: PoolState, size: int) -> Iterator[PoolState]:
    """Yield the states of so many instances at a time."""
    for start in range(0, len(state), size):
        yield state.part(np.arange(start, min(start + size, len(state))))


def _predictions(state: PoolState) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (n, C) of the outputs, and what a logit's change counts there, (n, 1|C).

    It is s^1/2 / (1 + pi/8 s v)^1/2, where s is the scale of the variances.
    """
    scale = state.model.calibration.variance_scale
    variance = scale * state.predictive_variance.reshape(len(state), -1)
    probabilities = torch.from_numpy(state.predict_proba()).to(state.logits)
    # of two classes, the second has the logit
    return probabilities[:, -state.logits.shape[1] :], (
        scale**0.5 * (1 + math.pi / 8 * variance).rsqrt()
    )


def _of_logits(some: PoolState, points: PoolState) -> torch.Tensor:
    """Information (n, m) of pairs of labels; logits of different classes do not covary."""
    (p, left), (q, right) = _predictions(some), _predictions(points)
    rows, roots = points.rows(slice(None)), some.posterior.root
    c, linear, square = p, torch.zeros(()).to(p), torch.zeros(()).to(p)
    for k in range(p.shape[1]):
        if k < len(roots):  # one serves all classes, or each has its own
            c = some.project(roots[k] @ (rows @ roots[k]).T) * left[:, k, None] * right[:, k]
        weighted = c * p[:, k, None] * q[:, k]
        linear = linear + weighted
        square = square + weighted * c * (1 - p[:, k, None] - q[:, k])
    return (linear.square() + square) / 2  # eq-epig


def _of_coupled_logits(some: PoolState, points: PoolState) -> torch.Tensor:
    """Information (n, m) of pairs of labels, whose logits have covariances C (C, C)."""
    roots = some.posterior.root[0].reshape(*some.posterior.mean.shape, -1)  # (D, C, D C)
    roots = roots - common_shift(roots)  # which softmax ignores

    def parts(state: PoolState) -> tuple[torch.Tensor, torch.Tensor]:
        """Curvatures H (n, C, C) and whitened logits (n, C, D C)."""
        p, shrink = _predictions(state)
        whitened = torch.einsum("nd,dcr->ncr", state.rows(slice(None)), roots)
        return torch.diag_embed(p) - p[:, :, None] * p[:, None], whitened * shrink[:, :, None]

    (h, left), (g, right) = parts(some), parts(points)
    c = torch.einsum("ncr,mdr->nmcd", left, right)
    return ((h[:, None] @ c @ g) * c).sum(dim=(2, 3)) / 2  # eq-information


_TARGETS_AT_ONCE = 1024
_NUMBERS_AT_ONCE = 2**20
