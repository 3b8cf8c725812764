"""The mode of a Gaussian over the weights times the likelihood of one label, by damped Newton.

It is W + Sigma phi a^T, where a solves ``a = y - p(z + V a)`` with the covariance V = phi^T Sigma
phi of the logits z. A label of weight s has s times the a of s V in place of V.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

from laplace_al._common.typing import Vector
from laplace_al.model.likelihoods import Likelihood, Mean
from laplace_al.model.mode import line_search

MAX_STEPS = 200
MAX_HALVINGS = 200
STEP_TOLERANCE = 1e-7  # of a logit: the error after a Newton step is the square of its length
ROUNDING = 1e-12  # of the largest logit, which is all that the last digits can tell

_Point: TypeAlias = tuple[Any, Vector, Mean[Vector]]  # value of the objective, y - p and p
_Step: TypeAlias = tuple[Any, Any, Any, Any]


def mode_coefficients(
    likelihood: Likelihood, logits: Vector, variance: Vector, target: Vector
) -> tuple[Vector, Mean[Vector]]:
    """Return a (C,) and p (C,) at the mode, for independent logits (C,).

    The variance is (1,) for all outputs or (C,), >= 0. With the shift e = v a of the logits, this
    is the minimum of the convex ``CE(y, z + e) + sum e^2 / 2 v``. A step takes O(C).

    Raises ArithmeticError if no solution is reached, which finite input should never cause.
    """
    is_soft = variance > np.finfo(np.float64).tiny  # else 1 / v may overflow, and the shift is 0
    stiffness = np.divide(1.0, variance, out=np.zeros_like(variance), where=is_soft)
    size = abs(logits).max()
    is_uncertain = 0.0 < target.max() < 1.0

    def at(shift: Vector) -> _Point:
        loss, residual, mean = likelihood.loss_and_derivatives_of_one(logits + shift, target)
        return loss + (shift * stiffness).dot(shift) / 2.0, residual, mean

    def newton(shift: Vector, residual: Vector, mean: Mean[Vector]) -> _Step:
        descent = variance * residual - shift  # of eq-shift, times v
        step = likelihood.solve_damped_hessian(mean, variance, descent)
        if is_uncertain and len(step) > 1 and stiffness.any():
            # y - p adds up to 0, but its rounding to what a large v makes a common shift of
            step = step - ((shift + step) * stiffness).mean() / stiffness.mean()
        slope = -(descent * stiffness).dot(step)
        return step, slope, abs(step).max(), size + abs(shift).max()

    shift, residual, mean = _damped_newton(at, newton, logits, variance)
    # Two forms of the same number: the first is exact for small v, the second for large.
    coefficients: Vector = np.where(variance <= 1.0, residual, shift * stiffness)
    return coefficients, mean


def coupled_mode_coefficients(
    likelihood: Likelihood, logits: Vector, covariance: Vector, target: Vector
) -> tuple[Vector, Mean[Vector]]:
    """Return a (C,) and p (C,) at the mode, for logits (C,) with a covariance V (C, C).

    This is the minimum of the convex ``CE(y, z + V a) + a^T V a / 2``. A step takes O(C^3).

    Raises ArithmeticError if no solution is reached, which finite input should never cause.
    """
    identity, size, magnitudes = np.eye(len(logits)), abs(logits).max(), abs(covariance)

    def at(a: Vector) -> _Point:
        shift = a @ covariance
        loss, residual, mean = likelihood.loss_and_derivatives_of_one(logits + shift, target)
        return loss + (shift @ a) / 2.0, residual, mean

    def newton(a: Vector, residual: Vector, mean: Mean[Vector]) -> _Step:
        descent = residual - a  # of eq-coupled
        damped = identity + likelihood.hessian_of_one(mean) @ covariance
        right = descent.copy()
        if len(a) > 1:  # steps add up to 0, which a large V hides in the sum of the rows
            top = mean.p.argmax()
            damped[top], right[top] = 1.0, 0.0
        step = np.linalg.solve(damped, right)
        moved = step @ covariance
        rounded = size + (abs(a) @ magnitudes).max()  # what z + V a is the small rest of
        return step, -(descent @ moved), abs(moved).max(), rounded

    a, _, mean = _damped_newton(at, newton, logits, covariance)
    return a, mean


def _damped_newton(
    at: Callable[[Vector], _Point],
    newton: Callable[[Vector, Vector, Mean[Vector]], _Step],
    logits: Vector,
    variance: Vector,
) -> tuple[Vector, Vector, Mean[Vector]]:
    """Return the minimum (C,) of an objective, found from 0, and y - p and p there.

    A step comes with its slope, the largest move of a logit, and the size of what is rounded.
    """
    x = np.zeros_like(logits)
    value, residual, mean = at(x)
    max_steps = MAX_STEPS + 2 * len(x)  # far apart, logits meet one at a time
    for _ in range(max_steps):
        step, slope, moved, size = newton(x, residual, mean)
        bound = value + 1e-14 * (1.0 + abs(value) + size)
        found = line_search(at, x, step, slope, bound, MAX_HALVINGS)
        if found is None:  # no number
            break
        x, (value, residual, mean) = found
        # the whole step: a short piece of it is no sign of a mode nearby
        if moved <= STEP_TOLERANCE + ROUNDING * (size + moved):
            return x, residual, mean
    raise ArithmeticError(
        f"the mode equation was not solved in {max_steps} steps: logits up to "
        f"{abs(logits).max():.3g}, variance up to {variance.max():.3g}"
    )


def mode_coefficients_at_once(
    likelihood: Likelihood, logits: torch.Tensor, variance: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, Mean[torch.Tensor]]:
    """Return :func:`mode_coefficients` of many labels, each on its own: a and p, tensors (n, C).

    The logits and targets are (n, C), the variances (n, 1) or (n, C). Each row has a step length of
    its own and stands still once it is solved, which a single label would pay for: hence a second
    loop.
    """
    precision = torch.finfo(logits.dtype).eps
    stiffness = torch.where(variance > torch.finfo(variance.dtype).tiny, 1 / variance, 0.0)

    def at(shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Mean[torch.Tensor]]:
        loss, residual, mean = likelihood.loss_and_derivatives(logits + shift, targets)
        return loss + (shift.square() * stiffness).sum(dim=1) / 2, residual, mean

    shift = torch.zeros_like(logits)
    value, residual, mean = at(shift)
    size = logits.abs().amax(dim=1)
    solved = torch.zeros_like(value, dtype=torch.bool)
    max_steps = MAX_STEPS + 2 * logits.shape[1]
    for _ in range(max_steps):
        descent = variance * residual - shift
        step = likelihood.solve_damped_hessians(mean, variance, descent)
        slope = -(descent * stiffness * step).sum(dim=1)
        bound = value + 50 * precision * (1 + value.abs() + size)
        length = (~solved).to(value)
        for _ in range(MAX_HALVINGS):
            candidate = shift + length[:, None] * step
            value, residual, mean = at(candidate)
            too_far = value > bound + 1e-4 * length * slope
            if not too_far.any():
                break
            length = torch.where(too_far, length / 2, length)
        shift = candidate
        rounding = 5000 * precision * (size + shift.abs().amax(dim=1))
        solved |= step.abs().amax(dim=1) <= precision**0.5 + rounding
        if solved.all():
            return torch.where(variance <= 1, residual, shift * stiffness), mean
    raise ArithmeticError(f"the mode equations were not solved in {max_steps} steps")
