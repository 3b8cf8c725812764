"""The maximum a posteriori (MAP) of the last layer, by damped Newton steps."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from laplace_al._common.typing import Numbers
from laplace_al.model.curvatures import per_class_curvature
from laplace_al.model.likelihoods import Likelihood, Mean
from laplace_al.model.priors import Prior

_MAX_CG_STEPS = 500
_MAX_HALVINGS = 60
_PATIENCE = 20  # steps that are solved loosely
_LOOSE = 0.25
_CAREFUL = 0.1
_SOLVED = 1e-5
_SURE = 2  # small steps of conjugate gradients in a row, after which the next are small as well
_SMALL_MOVE = 0.3  # of a logit: curvatures change by less than a third

Found = TypeVar("Found", bound=tuple[Any, ...])


class Labelled(NamedTuple):
    """Labelled instances of a last layer: features (n, D), targets (n, C) and weights (n,)."""

    features: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    likelihood: Likelihood


class Mode(NamedTuple):
    """The end of the search for the MAP.

    It took ``n_iter`` Newton steps to the weights ``mean`` (D, C). ``distance`` estimates how far
    away the MAP is, in standard deviations of the posterior. It has ``converged`` if that is within
    the tolerance, or within what the dtype can resolve.
    """

    mean: torch.Tensor
    n_iter: int
    distance: float
    converged: bool


class Objective(Protocol):
    """The negative log posterior, which the MAP minimises, wherever the labels are.

    A point is what it has found out at some weights W (D, C), for the other methods.
    """

    def at(self, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Return the value (), the gradient (D, C), and the point, at W."""

    def product(self, point: Any, direction: torch.Tensor) -> torch.Tensor:
        """Multiply the second derivative by a direction (D, C)."""

    def root(self, point: Any) -> torch.Tensor:
        """Return a root (D, D) of the inverse of the second derivative's mean over the outputs."""

    def moved(self, point: Any, other: Any) -> float:
        """Return the largest change of a logit between two points."""


def find_mode(
    data: Labelled, prior: Prior, start: torch.Tensor, *, max_iter: int, tol: float
) -> Mode:
    """Minimise ``sum s CE(y, Phi W) + prior(W)`` over W (D, C), see :func:`minimise`.

    Raises ValueError if the prior is lost to rounding beside the features.
    """
    return minimise(InMemory(data, prior), start, max_iter=max_iter, tol=tol)


class _Point(NamedTuple):
    """Logits and probabilities (n, C)."""

    logits: torch.Tensor
    probabilities: Mean[torch.Tensor]


class InMemory(NamedTuple):
    """An :class:`Objective` of labels that are at hand."""

    data: Labelled
    prior: Prior

    def at(self, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, _Point]:
        """See :meth:`Objective.at`."""
        features, targets, weights, likelihood = self.data
        logits = features @ mean
        loss, residual, probabilities = likelihood.loss_and_derivatives(logits, targets)
        value = weights @ loss + self.prior.value(mean)  # eq-objective
        # eq-gradient
        gradient = self.prior.gradient(mean) - features.T @ (weights[:, None] * residual)
        return value, gradient, _Point(logits, probabilities)

    def product(self, point: _Point, direction: torch.Tensor) -> torch.Tensor:
        """See :meth:`Objective.product`."""
        features, _, weights, likelihood = self.data
        curved = likelihood.hessian_product(point.probabilities, features @ direction)
        return features.T @ (weights[:, None] * curved) + self.prior.product(direction)

    def root(self, point: _Point) -> torch.Tensor:
        """See :meth:`Objective.root`."""
        curvature = per_class_curvature(point.probabilities).mean(dim=1, keepdim=True)
        return self.prior.shared_root(self.data.features, self.data.weights[:, None] * curvature)

    def moved(self, point: _Point, other: _Point) -> float:
        """See :meth:`Objective.moved`."""
        return float((other.logits - point.logits).abs().max())


def minimise(objective: Objective, start: torch.Tensor, *, max_iter: int, tol: float) -> Mode:
    """Minimise a convex objective over W (D, C): any start leads to the one MAP.

    At most ``max_iter`` damped Newton steps are taken, each solved by conjugate gradients that are
    preconditioned with the shared covariance (one D x D factor for all outputs). ``tol`` is the
    distance to the MAP that counts as there, in standard deviations of the posterior.
    """
    mean, moved, distance, is_careful = start, float("inf"), float("inf"), False
    value, gradient, point = objective.at(mean)
    rounding = torch.finfo(start.dtype).eps
    sure = _SURE if start.shape[1] > 1 else 1  # the root of one logit is that of its curvature
    for n_iter in range(max_iter + 1):
        if moved > _SMALL_MOVE:  # else the curvature has hardly changed
            root = objective.root(point)
        product = functools.partial(objective.product, point)
        # The root has one curvature for all classes: in those of less the distance is longer.
        guess = float(torch.linalg.vector_norm(root.T @ gradient))
        resolution = rounding**0.5 * (1 + float(value.abs().sqrt()))
        seems_near = guess <= max(tol, resolution)
        is_careful = is_careful or seems_near or n_iter >= min(_PATIENCE, max_iter)
        known, loosest, n_small = (distance, _CAREFUL, sure) if is_careful else (guess, _LOOSE, 1)
        # quadratic convergence near the mode, and no digit beyond the tolerance
        forcing = min(loosest, max(known, tol / (2 * known)))
        step = conjugate_gradients(product, -gradient, root, tol=forcing, n_small=n_small)
        descent = (gradient * step).sum()
        if is_careful:
            # -g^T x = x^T H x, whichever step of conjugate gradients x is
            before, distance = distance, float((-descent).clamp_min(0)) ** 0.5
            is_stuck = before <= distance <= resolution  # the dtype resolves no more
            if distance <= tol or is_stuck or n_iter == max_iter:
                mean = mean + step if distance <= tol else mean
                break
        bound = value + 4 * rounding * (1 + value.abs())
        found = line_search(objective.at, mean, step, descent, bound, _MAX_HALVINGS)
        if found is None:  # no step decreases the objective
            distance = distance if is_careful else guess
            break
        moved = objective.moved(point, found[1][2])
        mean, (value, gradient, point) = found
    return Mode(mean, n_iter, distance, distance <= max(tol, resolution))


def line_search(
    at: Callable[[Numbers], Found],
    start: Numbers,
    step: Numbers,
    slope: Any,
    bound: Any,
    max_halvings: int,
) -> tuple[Numbers, Found] | None:
    """Return the first of x + d, x + d / 2, ... with a value low enough, and what is found there.

    ``at`` returns the value and what else it finds. Low enough is below the bound on the value at
    the start, which leaves room for rounding, by 1e-4 of what the slope promises (Armijo).
    """
    length = 1.0
    for _ in range(max_halvings):
        x = start + length * step
        found = at(x)
        if found[0] <= bound + 1e-4 * length * slope:
            return x, found
        length /= 2
    return None


def solve_hessian(objective: Objective, mean: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return X (D, C) in H X = right, with the second derivative H at W (D, C), to five digits."""
    _, _, point = objective.at(mean)
    product = functools.partial(objective.product, point)
    return conjugate_gradients(product, right, objective.root(point), tol=_SOLVED, n_small=_SURE)


def conjugate_gradients(
    operator: Callable[[torch.Tensor], torch.Tensor],
    right: torch.Tensor,
    root: torch.Tensor,
    *,
    tol: float,
    n_small: int,
) -> torch.Tensor:
    """Return x (D, C) in operator(x) = right, by preconditioned conjugate gradients.

    The operator multiplies by a symmetric positive definite matrix; the root R (D, D) gives the
    preconditioner R R^T. The tolerance is relative, in the norm of the operator. So many steps in a
    row must be small to end it: one may be so by chance, where the preconditioner is poor.
    """
    solution = torch.zeros_like(right)
    residual = right
    preconditioned = root @ (root.T @ residual)
    direction = preconditioned
    energy = (residual * preconditioned).sum()
    resolved = 16 * torch.finfo(right.dtype).eps ** 2 * energy
    gained = n_in_a_row = torch.zeros_like(energy)
    for _ in range(_MAX_CG_STEPS):
        if (energy <= resolved) | (n_in_a_row == n_small):  # one look at the device
            break
        image = operator(direction)
        length = energy / (direction * image).sum()
        solution = solution + length * direction
        residual = residual - length * image
        gained = gained + length * energy
        preconditioned = root @ (root.T @ residual)
        new_energy = (residual * preconditioned).sum()
        # x^T operator(x) is the sum of the gains so far, that of the error the sum of those to
        # come: the next one, if the length stays, and more
        n_in_a_row = (n_in_a_row + 1) * (length * new_energy <= tol**2 / 2 * gained)
        direction = preconditioned + new_energy / energy * direction
        energy = new_energy
    return solution
