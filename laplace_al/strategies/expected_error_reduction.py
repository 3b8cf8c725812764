"""Expected loss of the classifier after a label, without learning it."""

from collections.abc import Callable
from numbers import Integral
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from laplace_al._common.typing import Instances, Mask, RandomState, Rng
from laplace_al.model.pool_state import PoolState
from laplace_al.model.posterior.base import prior_variance
from laplace_al.model.updates import MapUpdate, NewtonUpdate
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._view import PoolView

_Loss: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class ExpectedErrorReduction(QueryStrategy):
    """Choose the instances whose label is expected to leave the least error.

    The utility of a candidate i is ``-sum_k p_ik mean_m L(p_m^ik)``, where p_m^ik is the
    prediction for evaluation point m once the classifier has learnt label k of i: by its own
    update of mean and covariance, with the calibration unchanged. With the coefficients a_ik and
    the curvature h_ik of that update and c_im = phi_i^T Sigma phi_m, the logits and variances are

        Z_m + c_im a_ik^T   and   v_m - h_ik / (1 + h_ik v_i) c_im^2

    so that a matrix product replaces refits. L is either ``"log_loss"``, the entropy, which is
    the log loss that the classifier expects, or ``"zero_one"``, 1 - max_k p_k.
    Needs the posterior of a :class:`~laplace_al.LaplaceUpdateClassifier` with covariance
    ``"shared"``, ``"low_rank"`` or ``"per_class"``.

    Parameters
    ----------
    X_eval : array-like of shape (n_eval, ...), default=None
        Evaluation points: unlabelled inputs, in the form that the learner takes, on which it should
        predict well. None: the pool.
    loss : {"log_loss", "zero_one"}, default="log_loss"
    max_candidates : int, default=None
        Number of candidates to score, drawn at random; all others get the worst possible utility,
        that of uniform predictions. None: all. The cost grows with the product of the numbers of
        candidates and evaluation points and the squared number of classes.
    random_state : int, RandomState instance or None, default=None
        Draws candidates and breaks ties.

    References
    ----------
    Roy and McCallum, *Toward optimal active learning through sampling estimation of error
    reduction*, ICML 2001.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import ExpectedErrorReduction
    >>> learner = LaplaceUpdateClassifier().fit(
    ...     [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [0, 1])
    >>> pool = [[0.0, 9.0, 0.0], [0.0, 0.0, 2.0]]
    >>> ExpectedErrorReduction([[0.0, 0.0, 1.0], [0.1, 0.0, 3.0]]).query(learner, pool)
    array([1])
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "X_eval": "no_validation",  # whatever the extractor takes
        "loss": [StrOptions({"log_loss", "zero_one"})],
        "max_candidates": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        X_eval: Instances | None = None,
        *,
        loss: Literal["log_loss", "zero_one"] = "log_loss",
        max_candidates: int | None = None,
        random_state: RandomState = None,
    ) -> None:
        self.X_eval = X_eval
        self.loss = loss
        self.max_candidates = max_candidates
        self.random_state = random_state

    @property
    def is_pointwise(self) -> bool:  # type: ignore[override]  # the others' is a constant
        """True if the points are not the pool and no candidates are drawn from it."""
        return self.X_eval is not None and self.max_candidates is None

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return minus the expected loss, (n_pool,)."""
        return self.candidate_utilities(view, np.ones(len(view), dtype=bool), rng)

    def candidate_utilities(
        self, view: PoolView, candidates: Mask, rng: Rng
    ) -> NDArray[np.float64]:
        """Return minus the expected loss of the candidates, (n_pool,); -inf for all others."""
        state = view.posterior_state(self)
        if not hasattr(state.model.update_rule, "at_once"):
            raise TypeError(
                "ExpectedErrorReduction needs uncorrelated logits; got a classifier with "
                "covariance='full'. Use covariance='shared', 'low_rank' or 'per_class'."
            )
        points = state if self.X_eval is None else view.state_of(self.X_eval)
        positions = np.flatnonzero(candidates)
        utilities = np.full(len(view), -np.inf)
        if self.max_candidates is not None and len(positions) > self.max_candidates:
            n_classes = len(state.classes_)
            worst = np.log(n_classes) if self.loss == "log_loss" else 1 - 1 / n_classes
            utilities[positions] = -worst
            positions = rng.choice(positions, self.max_candidates, replace=False)
        utilities[positions] = -expected_losses(state, points, positions, _LOSSES[self.loss])
        return self._without_nan(utilities)


def expected_losses(
    state: PoolState, points: PoolState, positions: NDArray[np.int64], loss: _Loss
) -> NDArray[np.floating]:
    """Return the loss (n,) expected at some points after learning the label of each of n instances.

    ``state`` is that of the pool, ``positions`` (n,) are in it, and ``points`` is the state of the
    points under the same posterior. ``loss`` maps logits (m, K) of predictions to losses (m,).
    """
    n_classes, (n_points, n_outputs) = len(state.classes_), points.logits.shape
    n_features = len(state.posterior.mean)
    probabilities = torch.from_numpy(state.predict_proba()).to(state.logits)
    largest = n_outputs * max(n_points, n_features, n_classes)
    expected = []
    for some in torch.from_numpy(positions).split(max(1, _LARGEST_ARRAY // largest)):
        coefficients, shrinkage = _learnt(state, some)
        moved = _moved(state, points, some)
        losses = _mean_losses(points, moved, coefficients, shrinkage, loss)
        expected.append((probabilities[some] * losses).sum(dim=1))
    return torch.cat(expected).numpy(force=True)


def _learnt(state: PoolState, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients a (n, K, C) and h / (1 + h v) (n, K, 1|C) of each instance and label."""
    rule = state.model.update_rule
    assert isinstance(rule, NewtonUpdate | MapUpdate)  # logits that do not covary
    n, n_classes = len(positions), len(state.classes_)
    logits = state.logits[positions].repeat_interleave(n_classes, dim=0)  # (n K, C)
    variance = state.variance[positions].reshape(n, -1).repeat_interleave(n_classes, dim=0)
    classes = torch.arange(n_classes, device=logits.device).to(logits)
    targets = state.likelihood.encode(classes).repeat(n, 1)  # (n K, C)
    weights = logits.new_tensor(state.model.class_weights).repeat(n)[:, None]  # (n K, 1)
    rows = state.rows(positions)
    prior = prior_variance(rows, state.posterior.prior_precision).to(logits)
    coefficients, curvature = rule.at_once(
        logits, variance, targets, weights, prior.repeat_interleave(n_classes)[:, None]
    )
    shrinkage = curvature / (1 + curvature * variance)
    return coefficients.reshape(n, n_classes, -1), shrinkage.reshape(n, n_classes, -1)


def _moved(state: PoolState, points: PoolState, positions: torch.Tensor) -> torch.Tensor:
    """Covariances c_im = phi_i^T Sigma_g phi_m of instances i and points m, (G, n, m)."""
    rows = state.rows(positions)
    directions = state.posterior.covariances(rows)  # G times (D, n)
    return torch.stack([points.project(direction).T for direction in directions])


def _mean_losses(
    points: PoolState,
    moved: torch.Tensor,
    coefficients: torch.Tensor,
    shrinkage: torch.Tensor,
    loss: _Loss,
) -> torch.Tensor:
    """Mean loss at the points after learning each instance and label, (n, K)."""
    (n, n_classes, n_outputs), n_points = coefficients.shape, len(points)
    width = max(1, _NUMBERS_AT_ONCE // (n_classes * n_outputs))
    height = max(1, width // n_points)
    # Outputs first: sums over few numbers side by side cost several times the exponentials.
    mean, variance = points.logits.T, points.variance.reshape(n_points, -1).T  # (C, m), (G, m)
    mean, variance = mean[:, None, None].contiguous(), variance[:, None, None].contiguous()
    coefficients = coefficients.permute(2, 0, 1)[..., None]  # (C, n, K, 1)
    shrinkage = shrinkage.permute(2, 0, 1)[..., None]
    total = coefficients.new_zeros(n, n_classes)
    for m in range(0, n_points, width):
        here = slice(m, m + width)
        for i in range(0, n, height):
            rows = slice(i, i + height)
            c = moved[:, rows, None, here]  # (G, n, 1, m)
            # eq-look-ahead
            logits = torch.addcmul(mean[..., here], c, coefficients[:, rows])  # (C, n, K, m)
            shrunk = torch.addcmul(variance[..., here], c.square(), shrinkage[:, rows], value=-1)
            shrunk = shrunk.clamp_min_(0).flatten(start_dim=1)  # rounding may carry it below
            shrunk = shrunk[0] if points.variance.ndim == 1 else shrunk.T
            calibrated = points.model.calibrated(logits.flatten(1).T, shrunk)
            if n_outputs == 1:  # as the second of two, the first being 0
                calibrated = torch.nn.functional.pad(calibrated, (1, 0))
            total[rows] += loss(calibrated).reshape(logits.shape[1:]).sum(dim=2)
    return total / n_points


def entropy_loss(logits: torch.Tensor) -> torch.Tensor:
    """Return the log loss (n,) that predictions of logits (n, K) expect: their entropy."""
    shifted = logits - logits.amax(dim=1, keepdim=True)
    exponentials = shifted.exp()
    total = exponentials.sum(dim=1)
    return total.log() - exponentials.mul_(shifted).sum(dim=1) / total


def zero_one_loss(logits: torch.Tensor) -> torch.Tensor:
    """Return the share of errors (n,) that predictions expect, 1 - max_k p_k."""
    shifted = logits - logits.amax(dim=1, keepdim=True)
    return 1 - 1 / shifted.exp_().sum(dim=1)


_LOSSES = {"log_loss": entropy_loss, "zero_one": zero_one_loss}
_LARGEST_ARRAY = 2**24
_NUMBERS_AT_ONCE = 2**17  # which stay in the cache
