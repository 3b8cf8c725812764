"""Likelihoods of a class label given its logits, and the mode equation of one label.

Equations are cited by their labels in the theory page of the documentation, such as eq-mode.

What concerns many instances takes tensors. What concerns one instance takes NumPy vectors: its C
numbers are too few to be worth a tensor, wherever the features live.

===========  =========  ==================================================
symbol       shape      meaning
===========  =========  ==================================================
z            (n, C)     logits; C = 1 (Bernoulli) or the number of classes
y            (n, C)     targets: the label as 0 or 1 in each output
p            (n, C)     mean of the targets, sigmoid(z) or softmax(z), see :class:`Mean`
s            (n,)       weight of an instance
v            (n, 1|C)   variance of the logits
===========  =========  ==================================================
"""

import math
from typing import Generic, NamedTuple, TypeAlias

import numpy as np
import torch
from scipy.special import expit
from torch.nn import functional

from laplace_al._common.typing import Numbers, Vector

_MAX_NEWTON_STEPS = 200
_SHORTEST_STEP = 1e-60
_STEP_TOLERANCE = 1e-7  # of a logit: the error after a Newton step is the square of its length
_ROUNDING = 1e-12  # of the largest logit, which is all that the last digits can tell


class Mean(NamedTuple, Generic[Numbers]):
    """p = E[y | z] and 1 - p, each with all its digits: where p is next to 1, p has none of 1 - p.

    Parameters
    ----------
    p : Tensor of shape (n, C), or ndarray of shape (C,) for one instance
    complement : Tensor of shape (n, C), or ndarray of shape (C,)
        1 - p.

    Examples
    --------
    >>> import torch
    >>> Bernoulli().mean(torch.tensor([[60.0]]))
    Mean(p=tensor([[1.]]), complement=tensor([[8.7565e-27]]))
    """

    p: Numbers
    complement: Numbers


class Bernoulli:
    """Two classes, one logit: p = sigmoid(z).

    Examples
    --------
    >>> import torch
    >>> Bernoulli().log_probabilities(torch.zeros(1, 1)).exp()
    tensor([[0.5000, 0.5000]])
    """

    n_outputs = 1

    def encode(self, indices: torch.Tensor) -> torch.Tensor:
        """Class indices (n,) in {0, 1} to targets (n, 1)."""
        return indices[:, None]

    def labels(self, targets: torch.Tensor) -> torch.Tensor:
        """Targets (n, 1) to class indices (n,)."""
        return targets[:, 0].long()

    def mean(self, logits: torch.Tensor) -> Mean[torch.Tensor]:
        """E[y | z], (n, 1)."""
        return Mean(torch.sigmoid(logits), torch.sigmoid(-logits))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """p(class | z), (n, 2)."""
        return torch.sigmoid(torch.cat([-logits, logits], dim=1))

    def log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """log p(class | z), (n, 2), exact far into the tails."""
        return functional.logsigmoid(torch.cat([-logits, logits], dim=1))

    def negative_log_likelihood(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """-log p(y | z), (n,)."""
        return functional.softplus((1 - 2 * targets) * logits)[:, 0]

    def residual(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """y - p, (n, 1), exact where p is next to y."""
        sign = 2 * targets - 1
        return sign * torch.sigmoid(-sign * logits)

    def hessian_product(self, mean: Mean[torch.Tensor], direction: torch.Tensor) -> torch.Tensor:
        """Second derivative of -log p(y | z), times a direction: p (1 - p) d, (n, 1)."""
        return mean.p * mean.complement * direction

    def hessian(self, logits: torch.Tensor) -> torch.Tensor:
        """p (1 - p) of one instance, (1, 1)."""
        return torch.sigmoid(logits) * torch.sigmoid(-logits)

    def loss_and_derivatives(
        self, logits: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Mean[torch.Tensor]]:
        """-log p(y | z) (n,), y - p and p (n, 1), at the cost of one of them."""
        mean = self.mean(logits)
        residual = torch.where(targets > 0, mean.complement, -mean.p)
        return self.negative_log_likelihood(logits, targets), residual, mean

    def learn(self, logits: Vector, target: Vector) -> tuple[float, Vector, Mean[Vector]]:
        """-log p(y | z), y - p and p (1,) of one instance; y - p exact where p is next to y."""
        mean = Mean(expit(logits), expit(-logits))
        residual = mean.complement if target[0] else -mean.p
        return np.logaddexp(0.0, (1.0 - 2.0 * target) * logits)[0], residual, mean

    def solve_damped_hessian(self, mean: Mean[Numbers], scale: Numbers, right: Numbers) -> Numbers:
        """x (1,) in (I + diag(scale) p (1 - p)) x = right."""
        return right / (1.0 + scale * mean.p * mean.complement)

    solve_damped_hessians = solve_damped_hessian  # of tensors (n, 1), too


class Categorical:
    """C classes, C logits: p = softmax(z).

    Parameters
    ----------
    n_classes : int
        Number of classes C.

    Examples
    --------
    >>> import torch
    >>> Categorical(4).log_probabilities(torch.zeros(1, 4)).exp()
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def __init__(self, n_classes: int) -> None:
        self.n_outputs = n_classes

    def encode(self, indices: torch.Tensor) -> torch.Tensor:
        """Class indices (n,) to targets (n, C), one-hot."""
        return functional.one_hot(indices.long(), self.n_outputs).to(indices.dtype)

    def labels(self, targets: torch.Tensor) -> torch.Tensor:
        """Targets (n, C) to class indices (n,)."""
        return targets.argmax(dim=1)

    def mean(self, logits: torch.Tensor) -> Mean[torch.Tensor]:
        """E[y | z], (n, C)."""
        p = softmax(logits)
        return Mean(p, sum_of_others(p))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """p(class | z), (n, C)."""
        return softmax(logits)  # eq-likelihood

    def log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """log p(class | z), (n, C), exact far into the tails."""
        return torch.log_softmax(logits, dim=1)

    def negative_log_likelihood(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """-log p(y | z), (n,)."""
        return torch.logsumexp(logits, dim=1) - (targets * logits).sum(dim=1)

    def residual(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """y - p, (n, C), exact where p is next to y: 1 - p_y is the sum of the others."""
        others = (1 - targets) * softmax(logits)
        return targets * others.sum(dim=1, keepdim=True) - others

    def hessian_product(self, mean: Mean[torch.Tensor], direction: torch.Tensor) -> torch.Tensor:
        """Second derivative of -log p(y | z), times a direction: (diag p - p p^T) d, (n, C)."""
        # (diag p - p p^T) 1 = 0: shifted by p^T d, directions do not cancel where p is next to 1.
        centred = direction - (mean.p * direction).sum(dim=1, keepdim=True)
        return mean.p * (centred - (mean.p * centred).sum(dim=1, keepdim=True))

    def hessian(self, logits: torch.Tensor) -> torch.Tensor:
        """diag p - p p^T of one instance, (C, C); p_k (1 - p_k) as a sum of products."""
        p = softmax(logits)[0]
        hessian = -torch.outer(p, p)
        hessian.fill_diagonal_(0)
        return hessian - torch.diag(hessian.sum(dim=1))

    def loss_and_derivatives(
        self, logits: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Mean[torch.Tensor]]:
        """-log p(y | z) (n,), y - p and p (n, C), at the cost of one of them."""
        log_probabilities = torch.log_softmax(logits, dim=1)
        p = log_probabilities.exp()
        mean = Mean(p, sum_of_others(p))
        residual = torch.where(targets > 0, mean.complement, -p)
        return -(targets * log_probabilities).sum(dim=1), residual, mean

    def learn(self, logits: Vector, target: Vector) -> tuple[float, Vector, Mean[Vector]]:
        """-log p(y | z), y - p and p (C,) of one instance; y - p exact where p is next to y."""
        label, top = target.argmax(), logits.argmax()
        p = np.exp(logits - logits[top])
        p[top] = 0.0
        others = p.sum()  # only the largest can be more than half of the sum, and cancel
        p[top] = 1.0
        p /= 1.0 + others
        complement = 1.0 - p
        complement[top] = others / (1.0 + others)
        residual = -p
        residual[label] = complement[label]
        loss = math.log1p(others) + (logits[top] - logits[label])
        return loss, residual, Mean(p, complement)

    def solve_damped_hessian(self, mean: Mean[Vector], scale: Vector, right: Vector) -> Vector:
        """x (C,) in (I + diag(scale) (diag p - p p^T)) x = right.

        Sherman-Morrison on diag(1 + scale p) - (scale p) p^T. Its denominator
        1 - sum scale p^2 / (1 + scale p) is sum p / (1 + scale p): no cancellation.
        """
        scaled = scale * mean.p
        diagonal = 1.0 + scaled
        ratio = mean.p / diagonal
        return (right + scaled * ((ratio @ right) / ratio.sum())) / diagonal

    def solve_damped_hessians(
        self, mean: Mean[torch.Tensor], scale: torch.Tensor, right: torch.Tensor
    ) -> torch.Tensor:
        """:meth:`solve_damped_hessian` for the rows of tensors (n, C), scale (n, 1) or (n, C)."""
        scaled = scale * mean.p
        diagonal = 1.0 + scaled
        ratio = mean.p / diagonal
        share = (ratio * right).sum(dim=1, keepdim=True) / ratio.sum(dim=1, keepdim=True)
        return (right + scaled * share) / diagonal


Likelihood: TypeAlias = Bernoulli | Categorical


def softmax(logits: torch.Tensor) -> torch.Tensor:
    """Softmax of each row; on short rows in a third of the time of ``torch.softmax``.

    Parameters
    ----------
    logits : Tensor of shape (n, C)

    Returns
    -------
    Tensor of shape (n, C)

    Examples
    --------
    >>> softmax(torch.tensor([[1000.0, 1000.0]]))
    tensor([[0.5000, 0.5000]])
    """
    exponentials = (logits - logits.amax(dim=1, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim=1, keepdim=True)


def sum_of_others(values: torch.Tensor) -> torch.Tensor:
    """What each number of a row leaves of its sum, as exact as if the others were added up.

    Of probabilities this is 1 - p_k, where p_k is next to 1 as well.

    Parameters
    ----------
    values : Tensor of shape (n, C)
        Not negative.

    Returns
    -------
    Tensor of shape (n, C)

    Examples
    --------
    >>> import torch
    >>> sum_of_others(torch.tensor([[1.0, 1e-9, 2e-9]]))
    tensor([[3.0000e-09, 1.0000e+00, 1.0000e+00]])
    """
    # only the largest can be more than half of the sum, and cancel
    largest = values.argmax(dim=1, keepdim=True)
    others = values.scatter(1, largest, 0.0).sum(dim=1, keepdim=True)
    return (values.sum(dim=1, keepdim=True) - values).scatter_(1, largest, others)


def likelihood_of(n_classes: int) -> Likelihood:
    """Likelihood of a label among so many classes: one logit for two, else one a class.

    Parameters
    ----------
    n_classes : int
        Number of classes, at least 1.

    Returns
    -------
    Bernoulli or Categorical

    Examples
    --------
    >>> likelihood_of(2).n_outputs, likelihood_of(3).n_outputs
    (1, 3)
    """
    return Bernoulli() if n_classes == 2 else Categorical(n_classes)


def mode_coefficients(
    likelihood: Likelihood, logits: Vector, variance: Vector, target: Vector
) -> tuple[Vector, Mean[Vector]]:
    """Exact mode of (Gaussian over the weights) x (likelihood of one label).

    The mode is W + Sigma phi a^T, where a solves ``a = y - p(z + v a)``. With the shift e = v a of
    the logits this is the minimum of the convex ``CE(y, z + e) + sum e^2 / 2 v``, found by damped
    Newton steps of O(C) each. A label of weight s has s times the a of s v in place of v.

    Parameters
    ----------
    likelihood : Bernoulli or Categorical
    logits : ndarray of shape (C,)
        z before the label is known.
    variance : ndarray of shape (1,) or (C,)
        v of the logits, one for all outputs or one each, >= 0.
    target : ndarray of shape (C,)

    Returns
    -------
    coefficients : ndarray of shape (C,)
        a.
    mean : Mean
        p (C,) at the mode, whose logits are z + v a.

    Raises
    ------
    ArithmeticError
        If a solution is not reached, which finite input should never cause.

    Examples
    --------
    >>> one = np.ones(1)
    >>> a, p = mode_coefficients(Bernoulli(), 0 * one, 2 * one, one)
    >>> np.allclose(a, p.complement) and np.allclose(p.p, expit(2 * a))
    True
    """
    is_soft = variance > np.finfo(np.float64).tiny  # else 1 / v may overflow, and the shift is 0
    stiffness = np.divide(1.0, variance, out=np.zeros_like(variance), where=is_soft)
    size = abs(logits).max()
    shift = np.zeros_like(logits)
    value, residual, mean = likelihood.learn(logits, target)
    max_steps = _MAX_NEWTON_STEPS + 2 * len(logits)  # far apart, logits meet one at a time
    for _ in range(max_steps):
        gradient = shift - variance * residual  # of eq-shift, times v
        step = likelihood.solve_damped_hessian(mean, variance, gradient)
        slope = (gradient * stiffness) @ step
        bound, length = value + 1e-14 * (1.0 + abs(value) + size), 1.0
        while length > _SHORTEST_STEP:
            candidate = shift - length * step
            loss, residual, mean = likelihood.learn(logits + candidate, target)
            value = loss + np.dot(candidate * stiffness, candidate) / 2.0
            if value <= bound - 1e-4 * length * slope:
                break
            length /= 2.0
        shift = candidate
        # the whole step: a short piece of it is no sign of a mode nearby
        if abs(step).max() <= _STEP_TOLERANCE + _ROUNDING * (size + abs(shift).max()):
            break
    else:
        raise ArithmeticError(
            f"the mode equation was not solved in {max_steps} steps: logits up to {size:.3g}, "
            f"variance up to {variance.max():.3g}"
        )
    # Two forms of the same number: the first is exact for small v, the second for large.
    return np.where(variance <= 1.0, residual, shift * stiffness), mean


def mode_coefficients_at_once(
    likelihood: Likelihood, logits: torch.Tensor, variance: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, Mean[torch.Tensor]]:
    """Exact modes of many labels, each on its own: :func:`mode_coefficients` for rows.

    What is solved stands still until all are.

    Parameters
    ----------
    likelihood : Bernoulli or Categorical
    logits : Tensor of shape (n, C)
        z before the labels are known.
    variance : Tensor of shape (n, 1) or (n, C)
        v of the logits, one for all outputs of a row or one each, >= 0.
    targets : Tensor of shape (n, C)

    Returns
    -------
    coefficients : Tensor of shape (n, C)
        a of each row: ``a = y - p(z + v a)``.
    mean : Mean
        p (n, C) at the modes.

    Raises
    ------
    ArithmeticError
        If a solution is not reached, which finite input should never cause.

    Examples
    --------
    >>> import torch
    >>> zero, one = torch.zeros(2, 1), torch.ones(2, 1)
    >>> a, p = mode_coefficients_at_once(Bernoulli(), zero, 2 * one, one)
    >>> torch.allclose(a, p.complement) and torch.allclose(p.p, torch.sigmoid(2 * a))
    True
    """
    precision = torch.finfo(logits.dtype).eps
    stiffness = torch.where(variance > torch.finfo(variance.dtype).tiny, 1 / variance, 0.0)

    def evaluate(
        shift: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, Mean[torch.Tensor]]:
        loss, residual, mean = likelihood.loss_and_derivatives(logits + shift, targets)
        return loss + (shift.square() * stiffness).sum(dim=1) / 2, residual, mean

    shift = torch.zeros_like(logits)
    value, residual, mean = evaluate(shift)
    size = logits.abs().amax(dim=1)
    solved = torch.zeros_like(value, dtype=torch.bool)
    max_steps = _MAX_NEWTON_STEPS + 2 * logits.shape[1]
    for _ in range(max_steps):
        gradient = shift - variance * residual  # times v
        step = likelihood.solve_damped_hessians(mean, variance, gradient)
        slope = (gradient * stiffness * step).sum(dim=1)
        bound = value + 50 * precision * (1 + value.abs() + size)
        length = (~solved).to(value)
        while True:
            candidate = shift - length[:, None] * step
            value, residual, mean = evaluate(candidate)
            too_far = (value > bound - 1e-4 * length * slope) & (length > _SHORTEST_STEP)
            if not too_far.any():
                break
            length = torch.where(too_far, length / 2, length)
        shift = candidate
        moved = step.abs().amax(dim=1)
        rounding = 5000 * precision * (size + shift.abs().amax(dim=1))
        solved = solved | (moved <= precision**0.5 + rounding)
        if solved.all():
            return torch.where(variance <= 1, residual, shift * stiffness), mean
    raise ArithmeticError(f"the mode equations were not solved in {max_steps} steps")


def coupled_mode_coefficients(
    likelihood: Likelihood,
    logits: torch.Tensor,
    covariance: torch.Tensor,
    targets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact mode for one instance whose logits are correlated.

    Solves ``a = y - p(z + V a)``, the minimum of the convex ``CE(y, z + V a) + a^T V a / 2``, by
    damped Newton steps of O(C^3). A label of weight s has s times the a of s V in place of V.

    Parameters
    ----------
    likelihood : Bernoulli or Categorical
    logits : Tensor of shape (1, C)
        z before the label is known.
    covariance : Tensor of shape (C, C)
        V of the logits.
    targets : Tensor of shape (1, C)

    Returns
    -------
    coefficients : Tensor of shape (1, C)
        a.
    shifted : Tensor of shape (1, C)
        The logits at the mode, z + V a.

    Raises
    ------
    ArithmeticError
        If a solution is not reached, which finite input should never cause.

    Examples
    --------
    >>> import torch
    >>> z, y = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    >>> a, shifted = coupled_mode_coefficients(Bernoulli(), z, 2 * y, y)
    >>> torch.allclose(a, y - torch.sigmoid(shifted))
    True
    """
    identity = torch.eye(len(covariance), dtype=logits.dtype, device=logits.device)

    def evaluate(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shift = a @ covariance
        loss, residual, _ = likelihood.loss_and_derivatives(logits + shift, targets)
        return loss + (shift * a).sum(dim=1) / 2, residual

    a, size = torch.zeros_like(logits), logits.abs().max()
    value, residual = evaluate(a)
    for _ in range(_MAX_NEWTON_STEPS):
        shifted = logits + a @ covariance
        error = a - residual  # of eq-coupled
        damped = identity + likelihood.hessian(shifted) @ covariance
        step = -torch.linalg.solve(damped, error.T).T
        slope = ((error @ covariance) * step).sum()
        rounded = size + (a.abs() @ covariance.abs()).max()  # what z + V a is the small rest of
        bound, length = value + 1e-14 * (1 + value.abs() + rounded), 1.0
        while length > _SHORTEST_STEP:
            candidate = a + length * step
            value, residual = evaluate(candidate)
            if value <= bound + 1e-4 * length * slope:
                break
            length /= 2
        a = candidate
        moved = (step @ covariance).abs().max()
        if moved <= _STEP_TOLERANCE + _ROUNDING * (rounded + moved):
            break
    else:
        raise ArithmeticError(f"the mode equation was not solved in {_MAX_NEWTON_STEPS} steps")
    return a, logits + a @ covariance
