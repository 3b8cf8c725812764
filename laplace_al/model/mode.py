"""The maximum a posteriori (MAP) of the last layer, by damped Newton steps."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from laplace_al._common.typing import Numbers
from laplace_al.model.curvatures import per_class_curvature
from laplace_al.model.likelihoods import Likelihood, Mean
from laplace_al.model.preconditioner import Preconditioner, preconditioner_of
from laplace_al.model.priors import GaussianPrior, Prior

_MAX_CG_STEPS = 500
_MAX_HALVINGS = 60
_PATIENCE = 20  # steps that are solved loosely
_LOOSE = 0.25
_CAREFUL = 0.1
_SOLVED = 1e-5
_SURE = 3  # small steps of conjugate gradients in a row, after which the next are small as well
_SHARE_OF_SLOPE = 0.25  # half of what a quadratic keeps: far away, steps overshoot by far
_WIDE = 0.75  # instances to a feature, up to which their span is worth a basis
_CHANGED = 2.0  # a curvature so many times another
_NEAR = 0.01  # a distance that single precision resolves
_LARGE = 2**22  # numbers of features, times outputs, from which on single precision is faster
_LARGEST = 1e12  # prior precision in float32, far from overflow

Found = TypeVar("Found", bound=tuple[Any, ...])


class Labelled(NamedTuple):
    """Labelled instances of a last layer: features (n, D), targets (n, C) and weights (n,)."""

    features: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    likelihood: Likelihood


def forward(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return Phi W (n, C), as a product of the few rows of W^T: up to four times as fast."""
    return (weights.T @ features.T).T.contiguous()


def backward(features: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Return Phi^T G (D, C) of some G (n, C), as fast."""
    return (outputs.T @ features).T


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

    def preconditioner(self, point: Any) -> Preconditioner:
        """Return a function that nearly multiplies by the inverse of the second derivative."""

    def curvature(self, point: Any) -> float:
        """Return the sum of the curvatures of all instances and outputs."""

    def in_single_precision(self) -> "Objective | None":
        """Return the same in float32, None where that is no faster or has too few digits.

        It takes points as ``point.float()``.
        """

    def in_span(self) -> "Span | None":
        """Return the same within the span of few instances; None where they are not few."""


class Span(NamedTuple):
    """An objective of the coordinates (d, C) of weights (D, C) in an orthonormal basis (D, d).

    Outside it, the mode is the prior mean.
    """

    objective: Objective
    basis: torch.Tensor
    prior_mean: torch.Tensor

    def coordinates(self, mean: torch.Tensor) -> torch.Tensor:
        """Return the coordinates of weights."""
        return self.basis.T @ mean

    def weights(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return the weights of coordinates."""
        return self.prior_mean + self.basis @ (coordinates - self.coordinates(self.prior_mean))


def find_mode(
    data: Labelled, prior: Prior, start: torch.Tensor, *, max_iter: int, tol: float
) -> Mode:
    """Minimise ``sum s CE(y, Phi W) + prior(W)`` over W (D, C), see :func:`minimise`.

    Raises ValueError if the prior is lost to rounding beside the features.
    """
    return minimise(InMemory(data, prior), start, max_iter=max_iter, tol=tol)


class _Point(NamedTuple):
    """Probabilities (n, C)."""

    probabilities: Mean[torch.Tensor]

    def float(self) -> "_Point":
        """Return the point in float32."""
        return _Point(Mean(*(part.float() for part in self.probabilities)))


class InMemory(NamedTuple):
    """An :class:`Objective` of labels that are at hand."""

    data: Labelled
    prior: Prior

    def at(self, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, _Point]:
        """See :meth:`Objective.at`."""
        features, targets, weights, likelihood = self.data
        loss, residual, probabilities = likelihood.loss_and_derivatives(
            forward(features, mean), targets
        )
        value = weights @ loss + self.prior.value(mean)  # eq-objective
        # eq-gradient
        gradient = self.prior.gradient(mean) - backward(features, weights[:, None] * residual)
        return value, gradient, _Point(probabilities)

    def product(self, point: _Point, direction: torch.Tensor) -> torch.Tensor:
        """See :meth:`Objective.product`."""
        features, _, weights, likelihood = self.data
        curved = likelihood.hessian_product(point.probabilities, forward(features, direction))
        return backward(features, weights[:, None] * curved) + self.prior.product(direction)

    def preconditioner(self, point: _Point) -> Preconditioner:
        """See :meth:`Objective.preconditioner`."""
        curvature = self.data.weights[:, None] * per_class_curvature(point.probabilities)
        return preconditioner_of(self.data.features, curvature, self.prior)

    def curvature(self, point: _Point) -> float:
        """See :meth:`Objective.curvature`."""
        return float((self.data.weights @ per_class_curvature(point.probabilities)).sum())

    def in_single_precision(self) -> "InMemory | None":
        """See :meth:`Objective.in_single_precision`."""
        (features, targets, weights, likelihood), prior = self
        size = features.numel() * targets.shape[1]
        if features.dtype == torch.float32 or size < _LARGE or isinstance(prior, GaussianPrior):
            return None
        largest = float(weights @ features.square().sum(dim=1)) / 4  # eigenvalue, or more
        smallest = max(torch.finfo(torch.float32).eps * largest, 1 / _LARGEST)
        if not smallest < prior.precision < _LARGEST:
            return None
        data = Labelled(features.float(), targets.float(), weights.float(), likelihood)
        return InMemory(data, prior._replace(mean=prior.mean.float()))

    def in_span(self) -> Span | None:
        """See :meth:`Objective.in_span`."""
        features, prior = self.data.features, self.prior
        is_wide = len(features) <= _WIDE * features.shape[1]
        if isinstance(prior, GaussianPrior) or not is_wide:
            return None
        basis = torch.linalg.qr(features.T).Q
        data = self.data._replace(features=features @ basis)
        within = InMemory(data, prior._replace(mean=basis.T @ prior.mean))
        return Span(within, basis, prior.mean)


def minimise(objective: Objective, start: torch.Tensor, *, max_iter: int, tol: float) -> Mode:
    """Minimise a convex objective over W (D, C): any start leads to the one MAP.

    At most ``max_iter`` damped Newton steps are taken, the first ones in single precision where
    that is faster, each solved by preconditioned conjugate gradients. ``tol`` is the distance to
    the MAP that counts as there, in standard deviations of the posterior.
    """
    span = objective.in_span()
    if span is not None:
        start = span.coordinates(start)
        mode = minimise(span.objective, start, max_iter=max_iter, tol=tol)
        return mode._replace(mean=span.weights(mode.mean))
    single = objective.in_single_precision()
    if single is None:
        return _descend(objective, start, _Solver(objective), max_iter, tol, enough=tol)
    solver = _Solver(single)
    near = _descend(single, start.float(), solver, max_iter, tol, enough=max(tol, _NEAR))
    n_left = max_iter - near.n_iter
    mode = _descend(objective, near.mean.to(start), solver, n_left, tol, enough=tol)
    return mode._replace(n_iter=near.n_iter + mode.n_iter)


class _Solver:
    """Solves for Newton steps, with one preconditioner while the curvatures stay what they are."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.last: tuple[Preconditioner, float] | None = None

    def preconditioner(self, point: Any) -> Preconditioner:
        """Return a preconditioner that nearly fits a point."""
        total = self.objective.curvature(point)
        if self.last is None or not self.last[1] / _CHANGED <= total <= self.last[1] * _CHANGED:
            self.last = self.objective.preconditioner(point), total
        return self.last[0]


def _descend(
    objective: Objective,
    start: torch.Tensor,
    solver: _Solver,
    max_iter: int,
    tol: float,
    *,
    enough: float,
) -> Mode:
    """Take damped Newton steps until the distance is small enough.

    The solver may be of the objective in single precision. It then solves first, and what is left
    is solved in the precision of the objective.
    """
    mean, distance, is_careful = start, float("inf"), False
    value, gradient, point = objective.at(mean)
    rounding = torch.finfo(start.dtype).eps
    for n_iter in range(max_iter + 1):
        is_single = solver.objective is not objective
        seen, downhill = (point.float(), -gradient.float()) if is_single else (point, -gradient)
        precondition = solver.preconditioner(seen)
        # its curvature is not quite that of the objective
        guess = float((downhill * precondition(downhill)).sum().clamp_min(0)) ** 0.5
        resolution = rounding**0.5 * (1 + float(value.abs().sqrt()))
        seems_near = guess <= max(enough, resolution)
        is_careful = is_careful or seems_near or n_iter >= min(_PATIENCE, max_iter)
        known, loosest, n_small = (distance, _CAREFUL, _SURE) if is_careful else (guess, _LOOSE, 1)
        # quadratic convergence near the mode, and no digit beyond the tolerance
        forcing = min(loosest, max(known, tol / (2 * known)))
        solve = functools.partial(conjugate_gradients, tol=forcing, n_small=n_small)
        product = functools.partial(solver.objective.product, seen)
        step = solve(product, downhill, precondition).to(mean)
        if is_single and is_careful:  # the distance is that of the objective itself
            product = functools.partial(objective.product, point)
            step = solve(product, -gradient, _of_doubles(precondition), start=step)
        descent = (gradient * step).sum()
        if is_careful:
            # -g^T x = x^T H x, whichever step of conjugate gradients x is
            before, distance = distance, float((-descent).clamp_min(0)) ** 0.5
            is_stuck = before <= distance <= resolution  # the dtype resolves no more
            if distance <= enough or is_stuck or n_iter == max_iter:
                mean = mean + step if distance <= enough else mean
                break
        bound = value + 4 * rounding * (1 + value.abs())
        found = line_search(
            objective.at, mean, step, descent, bound, _MAX_HALVINGS, share=_SHARE_OF_SLOPE
        )
        if found is not None:
            mean, (value, gradient, point) = found
        elif is_single:  # which has too few digits
            solver = _Solver(objective)
        else:  # no step decreases the objective
            distance = distance if is_careful else guess
            break
    return Mode(mean, n_iter, distance, distance <= max(tol, resolution))


def _of_doubles(in_single_precision: Preconditioner) -> Preconditioner:
    return lambda right: in_single_precision(right.float()).to(right)


def line_search(
    at: Callable[[Numbers], Found],
    start: Numbers,
    step: Numbers,
    slope: Any,
    bound: Any,
    max_halvings: int,
    share: float = 1e-4,
) -> tuple[Numbers, Found] | None:
    """Return the first of x + d, x + d / 2, ... with a value low enough, and what is found there.

    ``at`` returns the value and what else it finds. Low enough is below the bound on the value at
    the start, which leaves room for rounding, by a share of what the slope promises (Armijo).
    """
    length = 1.0
    for _ in range(max_halvings):
        x = start + length * step
        found = at(x)
        if found[0] <= bound + share * length * slope:
            return x, found
        length /= 2
    return None


def solve_hessian(objective: Objective, mean: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return X (D, C) in H X = right, with the second derivative H at W (D, C), to five digits."""
    _, _, point = objective.at(mean)
    product = functools.partial(objective.product, point)
    precondition = objective.preconditioner(point)
    return conjugate_gradients(product, right, precondition, tol=_SOLVED, n_small=_SURE)


def conjugate_gradients(
    operator: Callable[[torch.Tensor], torch.Tensor],
    right: torch.Tensor,
    precondition: Preconditioner,
    *,
    tol: float,
    n_small: int,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return x (D, C) in operator(x) = right, by preconditioned conjugate gradients.

    The operator multiplies by a symmetric positive definite matrix, the preconditioner by another.
    The tolerance is relative, in the norm of the operator. So many steps in a row must be small to
    end it: one may be so by chance, where the preconditioner is poor.
    """
    solution = torch.zeros_like(right) if start is None else start
    residual = right if start is None else right - operator(start)
    direction = preconditioned = precondition(residual)
    energy = (residual * preconditioned).sum()
    resolved = 16 * torch.finfo(right.dtype).eps ** 2 * energy
    gained = (right * solution).sum()  # x^T operator(x)
    n_in_a_row = torch.zeros_like(energy)
    for _ in range(_MAX_CG_STEPS):
        if (energy <= resolved) | (n_in_a_row == n_small):  # one look at the device
            break
        image = operator(direction)
        length = energy / (direction * image).sum()
        solution = solution + length * direction
        residual = residual - length * image
        gained = gained + length * energy
        preconditioned = precondition(residual)
        new_energy = (residual * preconditioned).sum()
        # x^T operator(x) is the sum of the gains so far, that of the error the sum of those to
        # come: the next one, if the length stays, and more
        n_in_a_row = (n_in_a_row + 1) * (length * new_energy <= tol**2 / 2 * gained)
        direction = preconditioned + new_energy / energy * direction
        energy = new_energy
    return solution
